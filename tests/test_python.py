"""Every study from Python: the command's numbers, options that are keys, what a run gives, what a slip is told."""

import contextlib
import gc
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pandas
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from servers import copy_nano, run_here
from small_runs import make_small_model
from stub import STUB, stub

import jacspec
from jacspec.api.functions import in_python
from jacspec.api.options import NAMED, RUNNABLE, Option, apply, compose, options_of
from jacspec.config import ASSETS, Config, config_folder, register
from jacspec.runs import open_run as open_stored
from jacspec.studies.inputs import read_texts
from jacspec.studies.options import SHARED
from jacspec.studies.provenance import versions

TEXTS = ["Speak, that the harbour may hear thee.", "What is the city but the people?", "Go."]
LINES = "\n".join(TEXTS) + "\n"
LONG = "".join((ASSETS / "verse.txt").read_text(encoding="utf-8").splitlines(keepends=True)[:80])
RUNNING = ("data=text", "data.path=long.txt")
GIVEN = ("data=text", "data.path=own.txt", "data.split=lines", "data.min_tokens=1", "data.samples=3")
FINETUNE = {"steps": 1, "batch": 2, "groups": 1, "seeds": 1, "max_tokens": 8, "roles": "q"}
LAZY = {"scales": 1, "inputs": 4, "width": 4, "samples": 8, "steps": 2, "groups": 2, "removed": 1, "seeds": 1}
TRAIN = {"vocab": 300, "positions": 8, "layers": 1, "heads": 1, "d_model": 8, "steps": 2, "batch": 1, "warmup": 1}
DRAWN = {"samples": 8}

CALLS: Mapping[str, tuple[Sequence[str], dict[str, Any]]] = {
    "jacobian": (
        (*GIVEN, "metrics.names=[stable_rank]", "jacobian.eigenvalues=true"),
        {"texts": TEXTS, "metrics": "stable_rank", "eigenvalues": True},
    ),
    "depth": ((*GIVEN, "depth.last=1"), {"texts": TEXTS, "last": 1}),
    "coupling": ((*GIVEN, "components=[mlp]"), {"texts": TEXTS, "components": "mlp"}),
    "modes": ((*GIVEN, "components=[mlp]", "modes.k=2"), {"texts": TEXTS, "components": "mlp", "k": 2}),
    "overlap": ((*GIVEN, "layers=[0]"), {"texts": pandas.Series(TEXTS), "layers": [0]}),
    "weights": (("weights.include=[q]", "weights.against=none"), {"include": "q", "against": None}),
    "heads": (("heads.draws=2", "layers=[-1]"), {"draws": 2, "layers": [-1]}),
    "removal": (
        ("data=text", "data.path=own.txt", "removal.roles=[q]", "removal.groups=2", "removal.tokens=16"),
        {"texts": LINES, "roles": ["q"], "groups": np.int64(2), "tokens": 16},
    ),
    "finetune": (RUNNING, {**FINETUNE, "texts": LONG}),
    "lazy": ((), LAZY),
    "merge": (("merge.models=[nano@step0]", "merge.base=nano", "merge.include=[q]", "merge.method=none"),
              {"models": "nano@step0", "base": "nano", "include": "q", "method": "none"}),
    "delta": (("delta.base=nano@step0", "delta.include=[q]"), {"base": "nano@step0", "include": "q"}),
    "train": ((*RUNNING, "train.revisions=[0]"), {**TRAIN, "texts": LONG, "revisions": [0]}),
}  # fmt: skip
"""By study, what is typed in a shell and what in Python for the same numbers."""
SMALL = ("jacobian", "depth", "coupling", "modes", "overlap", "removal", "finetune")
"""Those of them that take a small model; the others show that both mean the same one where none is said."""


def typed(study: str, options: Mapping[str, Any]) -> list[str]:
    """Write plain options as a shell's."""
    listed = {"roles": "[{}]", "scales": "[{}]", "removed": "[{}]"}
    return [f"{study}.{name}={listed.get(name, '{}').format(value)}" for name, value in options.items()]


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Leave out figures and pages, which are drawn in other tests."""
    with contextlib.ExitStack() as stack:
        for place in ("studies.run", "report"):
            stack.enter_context(mock.patch(f"jacspec.{place}.write_report"))
        yield


def call(study: str, **options: Any) -> Any:
    return jacspec.run(study, silent=True, **options)


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "model"
    make_small_model(folder)
    return folder


@pytest.mark.few(3)
@pytest.mark.parametrize("study", CALLS)
def test_python_gives_the_numbers_of_the_command(study: str, small_model: Path, tmp_path: Path) -> None:
    """Tables byte for byte, arrays bit for bit, and the weights that are written."""
    (tmp_path / "own.txt").write_text(LINES)
    (tmp_path / "long.txt").write_text(LONG, encoding="utf-8")
    words, options = CALLS[study]
    if study in ("finetune", "lazy", "train"):
        own = {name: value for name, value in options.items() if name not in ("texts", "revisions")}
        words = [*words, *typed(study, own)]
    if study in SMALL:
        words = [*words, "model=path", f"model.path={small_model}"]
        options = {**options, "model": str(small_model)}
    # Optax's own schedules mix int32 counts with Python floats, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"), undrawn():
        done = run_here(f"task={study}", "hydra.run.dir=shell", *words, cwd=tmp_path)
        run = call(study, **options)
    assert done.code == 0, done.err
    shell = tmp_path / "shell"
    kept = {file.relative_to(shell) for kind in ("*.csv", "spectra.nc", "*.safetensors") for file in shell.rglob(kind)}
    assert kept, "the oracle sees files"
    for name in kept:
        assert (run.folder / name).read_bytes() == (shell / name).read_bytes(), name
    assert run.provenance["task"] == study


def as_hydra(*overrides: str) -> Config:
    register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return OmegaConf.to_object(hydra_compose("config", list(overrides)))  # type: ignore[return-value]


@pytest.mark.parametrize("study", RUNNABLE)
def test_options_are_the_keys_of_the_command(study: str) -> None:
    """Composed alike; and each option, set to another value, sets what its key does, and nothing else."""
    assert compose(study) == as_hydra(f"task={study}")
    options = options_of(study)
    renamed = {"metrics": "metrics.names", "engine": "engine.name"}
    assert all(option.key.rpartition(".")[2] == option.name or renamed[option.name] == option.key for option in options)
    values = {option.name: other_value(option) for option in options}
    changed = compose(study)
    apply(changed, study, values)
    assert changed != compose(study), "the oracle sees changes"
    overrides = [f"{option.key}={written(values[option.name])}" for option in options]
    assert changed == as_hydra(f"task={study}", *overrides)
    own = getattr(compose(study), study, None)
    assert {option.name for option in options if option.key.startswith(f"{study}.")} == set(vars(own) if own else ())


def other_value(option: Option) -> Any:
    """Choose a value that is not the default."""
    kind, default = str(option.kind), option.default
    if hasattr(option.kind, "__members__"):
        return next(name for name in option.kind.__members__ if name != default.value)
    if option.name in ("metrics", "engine", "position", "ranges"):
        return {"metrics": ["stable_rank"], "engine": "jacfwd", "position": [1, -2], "ranges": [[0, 0.5]]}[option.name]
    if isinstance(default, bool):
        return not default
    for word, value in (("list[str]", ["abc"]), ("list[int]", [3, 4]), ("list[float]", [0.25, 0.5]), ("int", 77)):
        if word in kind:
            return value
    return 0.125 if "float" in kind else "abc"


def written(value: Any) -> str:
    """Write a value in Hydra's way."""
    return f"[{','.join(map(written, value))}]" if isinstance(value, list) else str(value).lower()


@pytest.mark.parametrize("study", NAMED)
def test_function_tells_its_options(study: str) -> None:
    function = getattr(jacspec, study)
    parameters = inspect.signature(function).parameters
    assert [option.name for option in options_of(study) if option.name not in parameters] == []
    for name in parameters:
        line = next((line for line in function.__doc__.splitlines() if line.startswith(f"- `{name}`: ")), "")
        assert len(line) > len(f"- `{name}`: ") + 5, f"{name} has no words"
    assert "data." not in function.__doc__.replace("data.html", "")
    assert function.__name__ == study
    assert function is getattr(jacspec, study)


def test_defaults_of_functions_are_those_of_conf() -> None:
    assert inspect.signature(jacspec.weights).parameters["against"].default == "gaussian"
    assert inspect.signature(jacspec.heads).parameters["draws"].default == 199
    assert inspect.signature(jacspec.depth).parameters["metrics"].default == "paper"


def test_stub_is_written_from_the_options() -> None:
    import ast

    assert ast.dump(ast.parse(STUB.read_text(encoding="utf-8"))) == ast.dump(ast.parse(stub())), "run tests/stub.py"
    assert STUB.with_name("py.typed").is_file()


def test_package_lists_what_it_has() -> None:
    import jacspec.models.matrices  # the module of that name does not hide the study

    assert {*NAMED, "run", "jacobian", "Run", "open_sweep", "__version__"} <= set(dir(jacspec))
    assert all(getattr(jacspec, name) is not None for name in dir(jacspec))
    assert callable(jacspec.weights)
    with pytest.raises(AttributeError, match="no attribute 'spectrum'"):
        jacspec.spectrum  # type: ignore[attr-defined]  # noqa: B018


def test_checkout_that_is_not_installed_says_so() -> None:
    from importlib import metadata

    real = metadata.version

    def version(name: str) -> str:
        if name == "jacspec":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    with mock.patch.object(metadata, "version", version):
        assert versions()["jacspec"] == jacspec.__version__ == "not installed"
    assert versions()["jacspec"] == real("jacspec")


SLIPS: Mapping[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "option": (lambda: jacspec.weights(inclde=["q"]), TypeError,  # type: ignore[call-arg]
               r"jacspec\.weights\(\) has no option 'inclde'\. Did you mean 'include'\?"),
    "choice": (lambda: jacspec.weights(against="shufled"), ValueError,  # type: ignore[arg-type]
               r"against='shufled' is not known\. Did you mean 'shuffled'\?"),
    "bool": (lambda: jacspec.weights(embeddings="yes"), TypeError,  # type: ignore[arg-type]
             r"embeddings takes True or False, and 'yes' \(str\) was given"),
    "int": (lambda: jacspec.heads(draws=2.5), TypeError, r"draws takes an int, and 2\.5 \(float\)"),  # type: ignore[arg-type]
    "true is no int": (lambda: jacspec.heads(draws=True), TypeError, r"draws takes an int, and True \(bool\)"),
    "list": (lambda: jacspec.weights(include=3), TypeError, r"a name or a list of names, and 3 \(int\)"),  # type: ignore[arg-type]
    "study": (lambda: call("wieghts"), ValueError, r"no study 'wieghts'\. Did you mean 'weights'\?"),
    "no model": (lambda: call("lazy", model="nano"), TypeError, r"jacspec\.lazy\(\) reads no model"),
    "no text": (lambda: call("weights", texts="a"), TypeError, r"jacspec\.weights\(\) reads no texts"),
    "no runs": (lambda: call("compare"), TypeError, r"jacspec\.compare\(\) needs finished runs"),
    "runs": (lambda: jacspec.compare([3]), TypeError, r"runs\[0\] is a int"),  # type: ignore[list-item]
    "both": (lambda: call("depth", texts="a", data="verse"), TypeError, "texts or data, and both"),
    "model": (lambda: jacspec.weights("nanno"), ValueError, "'nanno' is not a folder.* Did you mean 'nano'"),
    "model type": (lambda: jacspec.weights(3), TypeError, "model is a int. Give a name, a folder"),
    "data": (lambda: call("depth", data="verze"), ValueError, "data='verze' is not a file.* Did you mean 'verse'"),
    "data type": (lambda: call("depth", data=["a"]), TypeError, "texts in memory are texts="),
    "tokenizer": (lambda: jacspec.weights("nano", tokenizer=3), TypeError, "tokenizer= goes with a PyTorch model"),
    "nan": (lambda: call("depth", texts=["a", float("nan")]), TypeError, r"texts\[1\] is nan, and texts\[0\] a str"),
    "empty": (lambda: call("depth", texts=[]), TypeError, "texts is empty"),
    "number": (lambda: call("depth", texts=3), TypeError, "texts is an int"),
    "mapping": (lambda: call("depth", texts={"input_ids": [[1]]}), TypeError, "texts is a dict"),
    "bad id": (lambda: call("depth", texts=[[1, 2.5]]), TypeError, r"texts\[0\] holds 2\.5"),
    "negative id": (lambda: call("depth", texts=[[1, -1]]), TypeError, "a negative token id"),
    "layer": (lambda: call("jacobian", texts="a b", layers=9), ValueError, r"layers has 9\. Accepted: 0 to 5"),
    "position": (lambda: call("jacobian", texts="Go", position=99), ValueError, "position=99 is not in sample 0"),
    "positions": (lambda: call("jacobian", texts="Go", position=[0, 1]), ValueError, "2 places for 1 samples"),
    "running text": (lambda: call("removal", texts=[[1, 2]]), ValueError,
                     r"jacspec\.removal\(\) reads a running text, and token ids"),
    "in the study": (lambda: jacspec.heads(draws=1), ValueError, r"draws=1 gives no spread\. Type draws=N"),
    "revision": (lambda: jacspec.weights(revision="step3"), ValueError, "no revision 'step3'"),
}  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_slip_is_told_in_python(slip: str) -> None:
    wrong, kind, message = SLIPS[slip]
    with pytest.raises(jacspec.JacspecError, match=message) as caught:
        wrong()
    assert isinstance(caught.value, kind)
    said = str(caught.value)
    assert not [key for key, _ in SHARED.values() if "." in key and key in said], said
    assert "task=" not in said


TOLD = {
    "Type metrics=paper.": "Type metrics='paper'.",
    "Type data.max_tokens=16 or less.": "Type max_tokens=16 or less.",
    "Type 'jacobian.x=1' data.samples=N": "Type 'jacobian.x=1' samples=N",
    "model.path=/a/b.c is not a folder.": "model='/a/b.c' is not a folder.",
    "or model=hub model.id=ORG/NAME.": "or model='ORG/NAME'.",
    "model.init=random (the architecture": "init='random' (the architecture",
    "data.path=FILE with a copy": "data='FILE' with a copy",
    "Type resume=/x to go on": "Type folder='/x' to go on",
    "task=depth has one engine": "jacspec.depth() has one engine",
    "task=jacobian has": "jacspec.run('jacobian') has",
    "engine.memory_gib=0 leaves": "memory_gib=0 leaves",
    "Type layers=null for all.": "Type layers=None for all.",
    "Type engine=jacfwd, or precision=float64.": "Type engine='jacfwd', or precision='float64'.",
}


@pytest.mark.parametrize("told", TOLD)
def test_words_of_the_command_become_those_of_python(told: str) -> None:
    assert in_python(told, "jacobian") == TOLD[told]


@pytest.mark.parametrize(
    ("given", "texts", "tokens"),
    [
        ("one", ["one"], []),
        (("one", "two"), ["one", "two"], []),
        (np.array(["one", "two"]), ["one", "two"], []),
        (pandas.Series(["one", "two"], index=[5, 6]), ["one", "two"], []),
        ([1, 2, 3], [], [[1, 2, 3]]),
        (np.array([[1, 2], [3, 4]]), [], [[1, 2], [3, 4]]),
        ([np.array([1, 2]), [3]], [], [[1, 2], [3]]),
        ((text for text in ["one"]), ["one"], []),
    ],
    ids=lambda given: type(given).__name__,
)
def test_what_is_a_text(given: Any, texts: list[str], tokens: list[list[int]]) -> None:
    assert read_texts(given)[:2] == (texts, tokens)


@pytest.fixture(scope="module")
def whole() -> Any:
    """Measure all layers of a few texts."""
    return call("jacobian", texts=TEXTS, components="mlp")


def test_layers_are_rows_of_the_whole(whole: Any) -> None:
    some = call("jacobian", texts=TEXTS, components=["mlp"], layers=(0, -2))
    expected = whole.metrics[whole.metrics["layer"].isin([0, 4])].reset_index(drop=True)
    pandas.testing.assert_frame_equal(some.metrics, expected)
    assert not some.metrics.equals(whole.metrics)


def test_position_ends_samples(whole: Any) -> None:
    """One for all and one a sample: the numbers of the ids up to there, which token ids give too."""
    ids = jacspec.load_model("nano").tokenizer(TEXTS)["input_ids"]
    cut = call("jacobian", texts=[ids[0][:2], ids[1][:-1], ids[2]], components="mlp", layers=[1])
    each = call("jacobian", texts=TEXTS, components="mlp", layers=[1], position=[1, -2, -1])
    last = call("jacobian", texts=ids, components="mlp", layers=[1], position=-1)
    pandas.testing.assert_frame_equal(each.metrics, cut.metrics)
    pandas.testing.assert_frame_equal(last.metrics, whole.metrics[whole.metrics["layer"] == 1].reset_index(drop=True))
    assert each.samples["n_tokens"].tolist() == [2, len(ids[1]) - 1, len(ids[2])]
    assert not each.metrics.equals(last.metrics)


def test_opened_model_gives_the_same(whole: Any) -> None:
    again = call("jacobian", model=jacspec.load_model("nano"), texts=TEXTS, components="mlp")
    assert np.array_equal(again.dataset["singular_values"], whole.dataset["singular_values"])
    double = call("jacobian", model=jacspec.load_model("nano", precision="float64"), texts="Go.", layers=0)
    assert double.dataset["singular_values"].dtype == np.float64
    with pytest.raises(jacspec.JacspecError, match=r"precision='float64', and the model was opened in float32"):
        call("jacobian", model=jacspec.load_model("nano"), texts="Go.", precision="float64")


def test_run_gives_tables_arrays_and_figures(whole: Any, tmp_path: Path) -> None:
    assert set(whole.tables) == {"metrics", "summary", "samples"}
    with pytest.raises(jacspec.JacspecError, match=r"no table 'sumary'\. Did you mean 'summary'"):
        whole.tables["sumary"]
    assert whole.tables.get("sumary") is None
    dataset = whole.dataset
    assert {"title", "model", "corpus", "engine", "seed", "versions"} <= set(dataset.attrs)
    radius = dataset["spectral_radius"]
    assert {"long_name", "symbol", "units", "definition"} <= set(radius.attrs)
    assert all(variable.attrs["units"] for variable in dataset.variables.values())
    assert float(radius.sel(layer=2, component="mlp", sample=1)) == pytest.approx(
        whole.metrics.query("layer == 2 and sample == 1")["spectral_radius"].item(), rel=1e-6
    )
    assert "title" not in open_stored(whole.folder).dataset.attrs, "files keep their bytes"
    assert isinstance(whole.figures["spectra"](), Figure)
    assert isinstance(whole.plot(), Figure)
    with pytest.raises(jacspec.JacspecError, match="no figure 'spectrum'"):
        whole.plot("spectrum")
    assert len(repr(whole)) < 200
    assert "<table" in whole._repr_html_()
    kept = whole.save(tmp_path / "kept")
    assert (kept.folder / "report.html").is_file()
    assert kept.metrics.equals(whole.metrics)
    with pytest.raises(jacspec.JacspecError, match="is there already"):
        whole.save(tmp_path / "kept")
    assert jacspec.open_run(kept.folder).report() == kept.folder / "report.html"


def test_rows_can_be_selected() -> None:
    """Heads by layer and head, experiments by their keys, matrices by role and layer."""
    heads = jacspec.heads(draws=2, layers=[1], silent=True)
    row = heads.metrics.query("role == 'qk' and head == 2").iloc[0]
    assert float(heads.dataset["npr_lambda"].sel(layer=1, head=2, role="qk")) == row["npr_lambda"]
    removal = jacspec.removal("nano", LINES, roles="q", groups=2, tokens=16, silent=True)
    row = removal.metrics.query("target == 'q' and group == 2").iloc[0]
    assert float(removal.dataset["perplexity"].sel(target="q", group=2)) == row["perplexity"]
    assert removal.dataset["nll"].attrs["units"] == "nats"
    with pytest.raises(jacspec.JacspecError, match="no table 'samples'"):
        _ = removal.samples
    weights = jacspec.weights(include=["q", "k"], against=None, silent=True)  # type: ignore[arg-type]
    row = weights.metrics.query("role == 'k' and layer == 3").iloc[0]
    assert float(weights.dataset["alpha"].sel(role="k", layer=3).item()) == row["alpha"]


def test_temporary_folder_goes_with_the_run() -> None:
    run = jacspec.heads(draws=2, layers=0, silent=True)
    folder = run.folder
    assert (folder / "metrics.csv").is_file()
    del run
    gc.collect()
    assert not folder.exists()


def test_failed_study_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(jacspec.JacspecError):
        jacspec.heads(draws=1, silent=True)
    assert list(tmp_path.iterdir()) == []


def test_folder_keeps_and_resumes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "kept"

    def again(**options: Any) -> Any:
        return jacspec.heads(layers=0, folder=folder, silent=True, **options)

    killed = mock.patch("jacspec.runs.rows.RowWriter.write_tables", side_effect=[None, KeyboardInterrupt])
    with killed, pytest.raises(KeyboardInterrupt):
        again(draws=2)
    with mock.patch("jacspec.report.write_report") as drawn:
        run = again(draws=2)
        with pytest.raises(jacspec.JacspecError, match=r"a run of another configuration.*draws was 2, now 3"):
            again(draws=3)
    assert run.provenance["status"] == "finished"
    assert drawn.call_args.args[0].folder == folder
    assert capfd.readouterr().out == ""


def test_compare_takes_runs_and_sweep_is_one_table(tmp_path: Path) -> None:
    def measured(seed: int) -> Any:
        folder = tmp_path / "sweep" / str(seed)
        return jacspec.weights(init="random", seed=seed, include="q", against="none", folder=folder, silent=True)

    with undrawn():
        runs = [measured(seed) for seed in (0, 1)]
        found = jacspec.compare(runs, draws=100, silent=True)
    assert len(found.tables["runs"]) == 2
    table = jacspec.open_sweep(tmp_path / "sweep")
    assert table["seed"].unique().tolist() == [0, 1]
    assert len(table) == sum(len(run.metrics) for run in runs)
    assert table.loc[table["run"] == 1, "alpha"].tolist() == runs[1].metrics["alpha"].tolist()
    with pytest.raises(jacspec.JacspecError, match="no finished run"):
        jacspec.open_sweep(copy_nano(tmp_path / "none"))


def test_plan_is_a_table() -> None:
    table = jacspec.plan("gpt2", devices=[1, 8])
    assert table.index.tolist() == [1, 8]
    assert (table["together_low"] <= table["together_high"]).all()
    assert table.loc[8, "carry_high"] < table.loc[1, "carry_high"]


def test_labels_come_from_what_was_read(tmp_path: Path) -> None:
    """A model or text in another place than the ready-made choice is called by its folder or file."""
    other = copy_nano(tmp_path / "my-llama")
    (tmp_path / "diary.txt").write_text(LINES)
    words = ("data.path=diary.txt", "data.split=lines", "data.min_tokens=1", "data.samples=2", "layers=[0]")
    with undrawn():
        for name, more in (
            ("a", ("model.path=my-llama",)),
            ("b", ("model.init=random", "model.path=my-llama")),
            ("c", ()),
        ):
            done = run_here(f"hydra.run.dir=runs/{name}", *words, *more, cwd=tmp_path)
            assert done.code == 0, done.err
    from jacspec.report.labels import run_title

    runs = [jacspec.open_run(tmp_path / "runs" / name) for name in "abc"]
    titles = ["my-llama", "my-llama (random)", "nano"]
    assert [run_title(run) for run in runs] == [f"{title}, 2 samples of diary.txt" for title in titles]
    assert [run.provenance["identity"]["checkpoint"]["name"] for run in runs] == titles
    assert jacspec.open_sweep(tmp_path / "runs")["model"].unique().tolist() == ["my-llama", "nano"]
    assert jacspec.load_model(other).name == "my-llama"
    assert jacspec.load_model("nano").name == "nano"


def test_model_is_shown_in_a_line() -> None:
    model = jacspec.load_model("nano")
    assert len(repr(model)) < 200
    assert "nano" in repr(model)
    assert "<table>" in model._repr_html_()


def test_documentation_runs() -> None:
    """Every line of Python in `docs/python.md`, in order, as one session."""
    page = (config_folder().parent / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    assert len(blocks) >= 5
    session: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), session)
    U, s, Vh = session["U"], session["s"], session["Vh"]
    np.testing.assert_allclose(session["J"] @ Vh[0], s[0] * U[:, 0], atol=1e-4 * s[0])
