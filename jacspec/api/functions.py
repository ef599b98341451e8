"""Every study as a function: `jacspec.run` and one function a study, made from the study's options."""

import dataclasses
import enum
import functools
import inspect
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from jacspec.api.options import Option, apply, call, check_value, compose, options_of
from jacspec.api.result import Run, keep_while_used
from jacspec.config import Config, Init, ModelConfig, Precision, config_folder
from jacspec.errors import JacspecError, JacspecTypeError, suggest
from jacspec.runs.folder import Run as StoredRun
from jacspec.studies import STUDIES
from jacspec.studies.inputs import Inputs, read_texts
from jacspec.studies.options import SHARED, summary_of
from jacspec.studies.study import load


def run(
    study: str,
    model: Any = None,
    texts: Any = None,
    *,
    data: Any = None,
    runs: Any = None,
    tokenizer: Any = None,
    revision: Any = None,
    init: Any = "pretrained",
    folder: Any = None,
    silent: bool = False,
    **options: Any,
) -> Any:
    """Run a study and return what it gives: the numbers of `python -m jacspec task=STUDY`, to the last bit.

    **Arguments:** `study`, its name; `model`, a ready-made name, a folder, `ORG/NAME`, what `load_model` returned, or a
    Hugging Face PyTorch model in memory (with its `tokenizer`), by default `nano`; `revision` and `init` as in
    `load_model`. `texts`, one str or several, or lists of token ids: each is a sample; `data` instead, `verse`,
    `shakespeare`, `wikitext`, `bookcorpus` or a file that is split into samples, by default `verse`. `runs`, of studies
    over finished runs.
    `folder` keeps the run; the same call resumes what was interrupted there. Without one the run lives in a temporary
    folder that goes with the object. `silent` shows no progress. `options`: `help(jacspec.STUDY)` lists them.

    **Returns:** a `Run`; of `plan` alone, which makes none, a pandas table.

    **Raises:** `JacspecTypeError` for an unknown option or a wrong type, `JacspecError` for what cannot be computed.
    """
    options_of(study)  # an unknown study is said first
    given = {"model": model, "texts": texts, "data": data, "runs": runs, "tokenizer": tokenizer, "revision": revision}
    _check_sources(study, given)
    try:
        inputs = _make_inputs(study, given, init, options)
        if study == "plan":
            return _plan_table(inputs)
        return _run(study, inputs, folder, silent)
    except JacspecError as error:
        raise type(error)(in_python(str(error), study)) from None


def study_function(study: str) -> Callable[..., Any]:
    """Make the function of a study, with a signature and docstring from its options."""
    first = _first_parameters(study)
    kept = [
        inspect.Parameter("folder", inspect.Parameter.KEYWORD_ONLY, default=None),
        inspect.Parameter("silent", inspect.Parameter.KEYWORD_ONLY, default=False),
    ]
    own = [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=default_of(each))
        for each in options_of(study)
    ]
    signature = inspect.Signature([*first, *own, *kept], return_annotation="Run")

    def function(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            # An unknown name is explained below; what else does not fit, Python says itself.
            if all(name in signature.parameters for name in kwargs):
                raise
            positional = [each.name for each in first if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
            return run(study, **dict(zip(positional, args, strict=False)), **kwargs)
        return run(study, **bound.arguments)

    function.__name__ = function.__qualname__ = study
    function.__module__ = "jacspec"
    function.__doc__ = _docstring(study)
    function.__signature__ = signature  # type: ignore[attr-defined]
    return function


def default_of(option: Option) -> Any:
    """Return the default of an option as a Python user would write it."""
    if isinstance(option.default, enum.Enum):
        return option.default.value
    return tuple(option.default) if isinstance(option.default, list) else option.default


def in_python(message: str, study: str) -> str:
    """Say in Python what a message says in the words of the command line."""
    names = {option.key: option.name for option in options_of(study)}
    names |= {key: name for name, (key, _) in SHARED.items() if key not in names}
    names |= {"metrics.names": "metrics", "engine.name": "engine"}
    for told, said in _WORDS:
        message = re.sub(told, said, message)
    # Longer keys first; `weights.include=[]` becomes `include=[]`.
    for key, name in sorted(names.items(), key=lambda pair: -len(pair[0])):
        if "." in key:
            message = re.sub(rf"(?<![\w./]){re.escape(key)}(?![\w/])", name, message)
    message = re.sub(r"'(\w+=\[[^\]]*\])'", r"\1", message)
    message = re.sub(r"(?<![\w.])task=(\w+)", lambda found: call(found[1]), message)
    message = re.sub(r"(?<![\w.'\"])(\w+)=([A-Za-z][\w-]*)(?=[\s,;:)]|\.(?:\s|$)|$)", _quoted, message)
    return re.sub(r"(\w+)=\[([A-Za-z][^\]'\"]*)\]", _quoted_list, message)


_WORDS = (
    (r"model=hub model\.id=ORG/NAME", "model='ORG/NAME'"),
    (r"model=path model\.path=", "model="),
    (r"model\.(path|id)=(\S*?)(?=[ ,.;:)]?(?:\s|$))", r"model='\2'"),
    (r"model\.(init|revision)\b", r"\1"),
    (r"data=text data\.path=", "data="),
    (r"data\.path=([^\s,;:)]*[^\s,;:).])", r"data='\1'"),
    (r"plain `jacspec` \(the embedded model\)", "model='nano' (the embedded model)"),
    (r"`jacspec --help` lists all keys", "help(jacspec) says more"),
    (r"'(?:resume|hydra\.run\.dir)=([^']*)'", r"folder='\1'"),
    (r"resume=(\S*[^\s.,])", r"folder='\1'"),
    (r"hydra\.run\.dir=(\S*[^\s.,])", r"folder='\1'"),
    (r"\bnull\b", "None"),
    (r"=true\b", "=True"),
    (r"=false\b", "=False"),
)
"""What messages of the command line say, and what a Python user types instead."""


def _quoted(found: re.Match[str]) -> str:
    word = found[2]
    return found[0] if word in ("None", "True", "False", "N") else f"{found[1]}={word!r}"


def _quoted_list(found: re.Match[str]) -> str:
    return f"{found[1]}=[{', '.join(repr(part.strip()) for part in found[2].split(','))}]"


def _first_parameters(study: str) -> list[inspect.Parameter]:
    """List what a study reads, as its function takes it."""
    named, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    found: list[inspect.Parameter] = []
    if "runs" in STUDIES[study].inputs:
        found.append(inspect.Parameter("runs", named))
    if "model" in STUDIES[study].inputs:
        found.append(inspect.Parameter("model", named, default="nano"))
    if "text" in STUDIES[study].inputs:
        found.append(inspect.Parameter("texts", named, default=None))
        found.append(inspect.Parameter("data", keyword, default=None))
    if "model" in STUDIES[study].inputs:
        further = {"tokenizer": None, "revision": None, "init": "pretrained"}
        found += [inspect.Parameter(name, keyword, default=default) for name, default in further.items()]
    return found


_SAYS: Mapping[str, str] = {
    "model": "a ready-made name, a folder, `ORG/NAME`, an opened model, or a Hugging Face PyTorch model in memory; "
    "of `weights` also a `.npy` or `.safetensors` file, an array, or a mapping of names to arrays",
    "texts": "one str or several, or lists of token ids: each is a sample",
    "data": "instead of `texts`: verse, shakespeare, wikitext, bookcorpus, or a file; by default verse",
    "tokenizer": "of a PyTorch model",
    "revision": "of the hub, or of a training run",
    "init": "pretrained or random",
    "runs": "finished runs: what studies returned, folders, or one folder of a sweep",
    "folder": "where the run is kept; None: a temporary folder, which goes with the run",
    "silent": "show no progress",
}


def _docstring(study: str) -> str:
    words = {each.name: _SAYS[each.name] for each in _first_parameters(study)}
    words |= {option.name: in_python(option.words, study) for option in options_of(study)}
    words |= {name: _SAYS[name] for name in ("folder", "silent")}
    lines = (
        textwrap.fill(f"`{name}`: {said}", 100, initial_indent="- ", subsequent_indent="  ")
        for name, said in words.items()
    )
    return "\n".join([in_python(summary_of(study), study), "", *lines, "", "Returns a `jacspec.Run`."])


def _check_sources(study: str, given: Mapping[str, Any]) -> None:
    """Refuse a model, a text or runs for a study that reads none."""
    reads = {
        "model": "model",
        "tokenizer": "model",
        "revision": "model",
        "texts": "text",
        "data": "text",
        "runs": "runs",
    }
    for name, kind in reads.items():
        if given[name] is not None and kind not in STUDIES[study].inputs:
            raise JacspecTypeError(f"{call(study)} reads no {name}. Leave {name}= out.")
    if given["texts"] is not None and given["data"] is not None:
        raise JacspecTypeError(f"{call(study)} takes texts or data, and both were given.")
    if "runs" in STUDIES[study].inputs and given["runs"] is None:
        raise JacspecTypeError(f"{call(study)} needs finished runs: runs=[run, run] or a folder of them.")


def _make_inputs(study: str, given: Mapping[str, Any], init: str, options: Mapping[str, Any]) -> Inputs:
    """Make the configuration of a call, and what it was given in memory."""
    data, texts = given["data"], given["texts"]
    choices, file = _choose_data(study, data)
    config = compose(study, **choices)
    if file is not None:
        config.data.path = str(file)
    read = None if texts is None else read_texts(texts)
    if read is not None:
        config.data = dataclasses.replace(config.data, name="given", path=None, url=None, sha256=None)
        config.data.samples, config.data.min_tokens = read.samples, 1
        config.data.max_tokens = max(config.data.max_tokens, *map(len, read.tokens), 0)
    apply(config, study, options)
    if "runs" in STUDIES[study].inputs:
        config.runs = _folders(study, given["runs"])
    if "model" not in STUDIES[study].inputs:
        return Inputs(config, None, read, page=False)
    if study == "weights" and not isinstance(given["model"], str | Path | None):
        from jacspec.models.arrays import are_arrays, hold_arrays

        if are_arrays(given["model"]):
            config.model = ModelConfig(name="array" if hasattr(given["model"], "shape") else "arrays")
            return Inputs(config, None, read, hold_arrays(given["model"]), page=False)
    return Inputs(config, _choose_model(study, config, given, init, options), read, page=False)


def _choose_data(study: str, data: Any) -> tuple[dict[str, str], Path | None]:
    """Tell a ready-made text from a file; returns the choice of the group, and the file."""
    if data is None:
        return {}, None
    if not isinstance(data, str | Path):
        raise JacspecTypeError(f"{call(study)}: data is a name or a file; texts in memory are texts=.")
    known = sorted(each.stem for each in (config_folder() / "data").glob("*.yaml") if each.stem != "text")
    if isinstance(data, str) and data in known:
        return {"data": data}, None
    file = Path(data).expanduser()
    if not file.is_file():
        raise JacspecError(
            f"{call(study)}: data={str(data)!r} is not a file or a text that comes with jacspec. "
            + suggest(str(data), known)
        )
    return {"data": "text"}, file


def _choose_model(study: str, config: Config, given: Mapping[str, Any], init: str, options: Mapping[str, Any]) -> Any:
    """Write the model of a call into its configuration; returns it where it is one in memory."""
    from jacspec.api import load_model
    from jacspec.models.checkpoint import Checkpoint
    from jacspec.models.hub import known_model

    model = "nano" if given["model"] is None else given["model"]
    if isinstance(model, str | Path):
        if given["tokenizer"] is not None:
            raise JacspecTypeError(f"{call(study)}: tokenizer= goes with a PyTorch model; {model} brings its own.")
        config.model = known_model(model)
        config.model.revision = given["revision"]
        config.model.init = check_value(study, "init", init, Init)
        return None
    if given["revision"] is not None or init != "pretrained":
        raise JacspecTypeError(f"{call(study)}: revision= and init= are of models by name. Give them to load_model.")
    if not isinstance(model, Checkpoint):
        model = load_model(model, tokenizer=given["tokenizer"], precision=config.precision.value)
    elif given["tokenizer"] is not None:
        raise JacspecTypeError(f"{call(study)}: an opened model has its tokenizer. Give tokenizer= to load_model.")
    if "precision" in options and config.precision.value != str(model.dtype):
        raise JacspecError(
            f"{call(study)}: precision={config.precision.value!r}, and the model was opened in {model.dtype}. "
            f"Give load_model(..., precision={config.precision.value!r})."
        )
    config.precision = Precision[str(model.dtype)]
    config.model = ModelConfig(name=model.name, revision=model.revision)
    return model


def _folders(study: str, runs: Any) -> list[str]:
    """List the folders of runs that were given as objects or as folders."""
    listed = runs if isinstance(runs, Sequence) and not isinstance(runs, str) else [runs]
    for place, each in enumerate(listed):
        if not isinstance(each, StoredRun | str | Path):
            raise JacspecTypeError(f"{call(study)}: runs[{place}] is a {type(each).__name__}. Give runs or folders.")
    return [str(each.folder if isinstance(each, StoredRun) else each) for each in listed]


def _run(study: str, inputs: Inputs, folder: Any, silent: bool) -> Run:
    """Run a study into a folder that is kept or into a temporary one."""
    if not isinstance(folder, str | Path | None):
        raise JacspecTypeError(f"{call(study)}: folder is a {type(folder).__name__}. Give a str or a Path.")
    place = Path(tempfile.mkdtemp(prefix="jacspec-")) if folder is None else Path(folder).expanduser()
    config = inputs.config
    if (place / "run.json").is_file():
        if not STUDIES[study].resumable:
            raise JacspecError(
                f"{place} already holds a run. jacspec.open_run({str(folder)!r}) opens it; give another folder."
            )
        config.resume = str(place)
    try:
        load(STUDIES[study].run)(config, place, _console(silent), inputs)
    except BaseException:
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)
        raise
    found = Run(place)
    if folder is None:
        return keep_while_used(found)
    if len(found.figures):
        found.report()
    return found


def _plan_table(inputs: Inputs) -> Any:
    """Estimate what a run would cost, as a pandas table: `plan` makes no run."""
    import pandas

    from jacspec.studies.plan.run import plan_rows

    return pandas.DataFrame(plan_rows(inputs.config, inputs)).set_index("devices")


def _console(silent: bool) -> Console:
    """Make the console that progress is shown on: a notebook's where its widgets are there, else standard error."""
    if silent:
        return Console(quiet=True)
    console = Console()
    if not console.is_jupyter:
        return Console(stderr=True)
    if "ipywidgets" in sys.modules or _has_widgets():
        return console
    return Console(stderr=True, force_jupyter=False, force_terminal=True, width=100)


@functools.cache
def _has_widgets() -> bool:
    import importlib.util

    return importlib.util.find_spec("ipywidgets") is not None
