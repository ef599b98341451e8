"""Several finished runs at once: found in folders, told apart by what their configurations differ in, as one table."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jacspec.errors import JacspecError
from jacspec.runs.files import RUN_FILE
from jacspec.runs.folder import Run, flatten, open_run
from jacspec.runs.tables import SUMMARY_COLUMNS, summarise
from jacspec.studies import STUDIES, study_of

if TYPE_CHECKING:
    pass

NOT_SHOWN = ("heads.shown", "report.figures", "report.formats", "resume", "run", "runs", "task")
"""Keys of a configuration that do not tell runs apart."""

CHOICES = {"model.name": ("model.name", "model.revision", "model.init"), "data.name": ("data.name",)}
"""Keys that name a ready-made choice, and those of its group that say more than the choice does."""

PLAIN = ("model.name", "model.id", "model.init", "data.name")

UNITS = (("sample",), ("head", "name"))
"""What a value is of, by the columns of `metrics.csv` that say so: a sample, or a head or another matrix."""

STATISTICS = SUMMARY_COLUMNS[SUMMARY_COLUMNS.index("metric") + 1 :]


class LabelledRun(NamedTuple):
    """A finished run, and the words that tell it from the others."""

    label: str
    run: Run


class Layer(NamedTuple):
    """The values of one component (or role) in one layer of a run, by unit and metric.

    `depth` is its place between the first layer (0) and the last (1) of its stack.
    """

    component: str
    layer: int
    depth: float
    units: tuple[Any, ...]
    values: Float[np.ndarray, "unit metric"]


def open_runs(folders: Sequence[str | Path]) -> tuple[list[LabelledRun], dict[str, str]]:
    """Open run folders, and all runs of folders that hold them, as those of a multirun.

    **Returns:** the finished runs in the order given (inside a folder by number), and why others inside a folder are
    left out, by folder.

    **Raises:** `JacspecError` where a folder named is no finished run and holds none, where the runs are of several
    tasks, or of one whose values belong to no layer.
    """
    runs: dict[Path, Run] = {}
    left_out: dict[str, str] = {}
    named = {folder.expanduser().resolve() for folder in map(Path, folders)}

    def leave_out(folder: Path, error: JacspecError) -> None:
        if folder.resolve() in named:
            raise error
        runs.pop(folder.resolve(), None)
        left_out[str(folder)] = str(error)

    for found in (found for folder in map(Path, folders) for found in find_run_folders(folder.expanduser())):
        try:
            runs.setdefault(found.resolve(), open_run(found))
        except JacspecError as error:
            leave_out(found, error)
    tasks = sorted({study_of(run.provenance).name for run in runs.values()})
    if len(tasks) > 1:
        raise JacspecError(f"The runs are of different tasks ({', '.join(tasks)}). Give runs of one task.")
    if tasks and not ((rows := STUDIES[tasks[0]].rows) and rows.by_layer):
        accepted = [name for name, study in STUDIES.items() if study.rows and study.rows.by_layer]
        raise JacspecError(f"Runs of task={tasks[0]} have no values by layer. Accepted: {', '.join(accepted)}.")
    for run in list(runs.values()):
        try:
            run.check()
        except JacspecError as error:
            leave_out(run.folder, error)
    if not runs:
        reasons = "; ".join(left_out.values())
        raise JacspecError(f"No finished run in {', '.join(map(str, folders)) or 'runs=[]'}. {reasons}".strip())
    return _label(list(runs.values())), left_out


def find_run_folders(folder: Path) -> list[Path]:
    """List a run folder itself, or those inside a folder, `2` before `10`."""
    if (folder / RUN_FILE).is_file() or not folder.is_dir():
        return [folder]

    def natural(file: Path) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", str(file.relative_to(folder)))
        return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]

    return [file.parent for file in sorted(folder.rglob(RUN_FILE), key=natural)]


def _label(runs: Sequence[Run]) -> list[LabelledRun]:
    """Name each run by the keys in which the configurations differ, and by its folder where that is not enough."""
    configs = [_settings(run) for run in runs]
    differing = _differing(configs)
    labels = [
        ", ".join(filter(None, (_words(key, config) for key in differing))) or run.folder.name
        for config, run in zip(configs, runs, strict=True)
    ]
    return [
        LabelledRun(f"{label} ({run.folder.name})" if labels.count(label) > 1 else label, run)
        for label, run in zip(labels, runs, strict=True)
    ]


def differing_settings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return of each run the keys in which the configurations differ, model and text named by what was read."""
    configs = [_settings(run) for run in runs]
    return [{key: config.get(key) for key in _differing(configs)} for config in configs]


def _settings(run: Run) -> dict[str, Any]:
    """Flatten the configuration of a run; its model and text are named by what was read, wherever that lay."""
    config = flatten(run.provenance.get("config", {}))
    identity = run.provenance.get("identity", {})
    read = identity.get("checkpoint", {}).get("name"), run.provenance.get("corpus", {}).get("name")
    for group, name in zip(("model", "data"), read, strict=True):
        if name and config.get(f"{group}.path") is not None:
            config[f"{group}.name"] = str(name).removesuffix(" (random)")
            del config[f"{group}.path"]
    return config


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the keys in which configurations differ, without what follows from the choice of a model or a text."""
    keys = dict.fromkeys(key for config in configs for key in config if key not in NOT_SHOWN)
    differing = [key for key in keys if len({repr(config.get(key)) for config in configs}) > 1]
    # What follows from the choice of a model or a text is said by its name.
    for name, kept in CHOICES.items():
        if name in differing:
            group = name.partition(".")[0] + "."
            differing = [key for key in differing if not key.startswith(group) or key in kept]
    return differing


def _words(key: str, config: Mapping[str, Any]) -> str:
    """Write one key as part of a label; what is known from its value alone goes without the key's name."""
    value = config.get(key)
    if key == "model.revision":
        return str(value) if value else "" if config.get("model.init") == "random" else "last"
    if key in ("model.path", "data.path") and value is not None:
        return Path(str(value)).name
    if isinstance(value, list):
        value = "+".join(map(str, value))
    return str(value) if key in PLAIN else f"{key.removesuffix('.name').rpartition('.')[2]}={value}"


def layers_of(run: Run, names: Sequence[str]) -> list[Layer]:
    """Collect the values of a run by component (or role) and layer; matrices outside the layers are left out."""
    table = run.metrics
    kind = "component" if "component" in table else "role"
    unit = next(columns for columns in UNITS if columns[0] in table)
    inside = table[table["layer"].notna()]
    last = inside.groupby(kind)["layer"].max()
    found = []
    for (component, layer), rows in inside.groupby([kind, "layer"], sort=False):
        depth = float(layer) / float(last[component]) if last[component] else 0.0
        units = tuple(rows[list(unit)].fillna(-1).itertuples(index=False, name=None))  # no NaN equals another
        values = rows[list(names)].to_numpy(np.float64)
        found.append(Layer(str(component), int(layer), depth, units, values))
    return found


def common_metrics(runs: Sequence[Run]) -> tuple[str, ...]:
    """List the metrics that all runs have, in the order of the first."""
    return tuple(name for name in runs[0].metric_names if all(name in run.metric_names for run in runs))


TIDY_COLUMNS = ("run", "label", "model", "revision", "seed", "layer", "depth", "component", "metric", *STATISTICS)


def tidy_rows(runs: Sequence[LabelledRun], names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Sum up every run by layer, component and metric, a row each: what a table of all runs holds."""
    for number, (label, run) in enumerate(runs):
        facts = describe(run)
        who = (number, label, facts["model"], facts["revision"], facts["seed"])
        for found in layers_of(run, names):
            for name, values in zip(names, found.values.T, strict=True):
                where = (found.layer, found.depth, found.component, name)
                yield (*who, *where, *summarise(values))


def describe(run: Run) -> dict[str, Any]:
    """Say of a run what tells it from others: model, revision, seed, precision, corpus."""
    config: Mapping[str, Any] = run.provenance.get("config", {})
    model: Mapping[str, Any] = config.get("model", {})
    identity: Mapping[str, Any] = run.provenance.get("identity", {})
    checkpoint: Mapping[str, Any] = identity.get("checkpoint", {})
    return {
        "model": checkpoint.get("name") or model.get("name"),
        "revision": model.get("revision"),
        "seed": config.get("seed"),
        "precision": config.get("precision"),
        "corpus": identity.get("corpus", {}).get("sha256"),
        "data": config.get("data"),
    }


SAMPLING = ("split", "samples", "min_tokens", "max_tokens")
"""Keys of `data` that say how samples are drawn."""


def mismatches(runs: Sequence[LabelledRun]) -> list[str]:
    """Say in which of corpus, sampling, tokens and precision the runs differ: then they do not measure the same."""
    facts = [describe(each.run) for each in runs]
    found = []
    for name, words in (("corpus", "corpora"), ("precision", "precisions")):
        values = {str(fact[name]) for fact in facts}
        if len(values) > 1:
            shown = "" if name == "corpus" else f": {', '.join(sorted(values))}"
            found.append(f"The runs are of different {words}{shown}.")
    if "sample" not in runs[0].run.metrics:
        return found
    sampling = [{key: fact["data"].get(key) for key in SAMPLING} for fact in facts if fact["data"]]
    if differing := [key for key in SAMPLING if len({repr(each[key]) for each in sampling}) > 1]:
        found.append(f"The runs draw their samples differently: {', '.join(f'data.{key}' for key in differing)}.")
    if any(same_texts(runs[0], other) and not _same_tokens(runs[0], other) for other in runs[1:]):
        found.append("The runs read the same texts as different tokens, so that their last tokens differ.")
    return found


def same_texts(left: LabelledRun, right: LabelledRun) -> bool:
    """Decide whether two runs are over the same samples, in the same order."""
    texts = [each.run.samples["text"].tolist() for each in (left, right)]
    return texts[0] == texts[1]


def _same_tokens(left: LabelledRun, right: LabelledRun) -> bool:
    counts = [each.run.samples["n_tokens"].tolist() for each in (left, right)]
    return counts[0] == counts[1]


def can_pair(left: LabelledRun, right: LabelledRun) -> bool:
    """Decide whether rows of two runs are of the same units: the same samples, or the matrices of one model."""
    if "sample" in left.run.metrics:
        return same_texts(left, right)
    return bool(describe(left.run)["model"] == describe(right.run)["model"])
