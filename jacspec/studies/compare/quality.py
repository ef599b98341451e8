"""Which metrics of whole models go with their quality, and which still do given their size.

A model's quality is the number of a table (`compare.quality=FILE.csv`), or how well it predicts one text
(`compare.quality=text`): nats a byte, so that tokenizers do not matter.
"""

import csv
import dataclasses
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf

from jacspec.backend import numerics
from jacspec.config import Config, Init, ModelConfig
from jacspec.errors import JacspecError, shortened
from jacspec.files import read_file
from jacspec.jacobians.engine import memory_budget
from jacspec.models.checkpoint import Checkpoint
from jacspec.models.export import count_parameters
from jacspec.models.hub import open_model
from jacspec.runs.rows import WHOLE_MODEL
from jacspec.runs.several import LabelledRun, layers_of
from jacspec.scoring.perplexity import perplexity, prepare_passage, score_tokens, sum_chunks
from jacspec.scoring.windows import make_passage, model_kind
from jacspec.spectra.rank_correlation import correlate
from jacspec.spectra.significance import adjust_for_many
from jacspec.studies.compare import BYTES, CORRELATED, JUDGED, CompareOptions
from jacspec.studies.inputs import Inputs
from jacspec.text.corpus import decode_text, tokenize

TEXT = "text"
"""What `compare.quality` is where models are to be scored here."""

WINDOW = 1024
"""Tokens that a model reads at once at most: what a longer memory is worth is another question."""

MOST_TABLE_BYTES = 2**22

Value = tuple[str, str, float]
"""A component or role, a metric, and its value of the whole model."""


class Judged(NamedTuple):
    """A model, the numbers of the runs that are of it, and its quality; NaN and empty where not known."""

    runs: tuple[int, ...]
    quality: float
    parameters: float
    perplexity: float = math.nan
    error: float = math.nan
    tokens: float = math.nan
    bytes: float = math.nan


class Judgement(NamedTuple):
    """All models, what their quality is called, what it is of, and what is to be warned of.

    `series` is how many of them are revisions or seeds of another one.
    """

    models: list[Judged]
    name: str
    source: str
    warnings: list[str]
    series: int = 0


def judge(config: Config, inputs: Inputs, runs: Sequence[LabelledRun]) -> Judgement | None:
    """Find the quality of each model, by a table or by a text; None where it is not asked for.

    **Raises:** `JacspecError` where a model has none, or cannot be opened.
    """
    wanted = config.own(CompareOptions).quality
    if wanted is None:
        if inputs.texts is not None:
            raise JacspecError("A text is read where quality is asked for. Type compare.quality=text.")
        return None
    models = _models(runs)
    found = _score_all(config, inputs, runs, models) if wanted == TEXT else _from_table(Path(wanted), runs, models)
    series = _of_one_training([runs[numbers[0]] for numbers in models])
    words = (
        f"{series} of the {len(models)} models are revisions or seeds of another one of them: p and q of rank "
        "correlations hold for independent models alone."
    )
    return found._replace(warnings=[*found.warnings, *([words] if series else [])], series=series)


def _models(runs: Sequence[LabelledRun]) -> list[tuple[int, ...]]:
    """Group the runs that are of the same model: those of other sentences, or another precision, say no more of it."""
    found: dict[str, list[int]] = {}
    for number, (_, run) in enumerate(runs):
        identity, model = run.provenance.get("identity", {}), _model_of(run.provenance)
        checkpoint = identity.get("checkpoint", {})
        random = run.provenance.get("seed") if model.get("init") == Init.random.name else None
        key = (checkpoint.get("name"), checkpoint.get("revision"), checkpoint.get("files") or model, random)
        found.setdefault(repr(key), []).append(number)
    return [tuple(numbers) for numbers in found.values()]


def _model_of(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return dict(provenance.get("config", {}).get("model", {}))


def _of_one_training(models: Sequence[LabelledRun]) -> int:
    """Count the models whose name, revision and seed aside, another one before them has."""
    names = [each.run.provenance.get("identity", {}).get("checkpoint", {}).get("name") for each in models]
    return len(names) - len(set(names))


def _score_all(
    config: Config, inputs: Inputs, runs: Sequence[LabelledRun], models: Sequence[tuple[int, ...]]
) -> Judgement:
    options = config.own(CompareOptions)
    raw, source = inputs.text()
    text = decode_text(raw, source)[: options.characters]
    judged, warnings, memory_bytes = [], [], memory_budget(config.engine.memory_gib)
    for numbers in models:
        label, run = runs[numbers[0]]
        with numerics(run.provenance["config"]["precision"]):
            checkpoint = _reopen(label, run.provenance)
            judged.append(_score(checkpoint, label, text, numbers, memory_bytes=memory_bytes))
        if unknown := _count_unknown(checkpoint, text):
            warnings.append(f"The tokenizer of {label} does not know {unknown} tokens of the text.")
    return Judgement(judged, BYTES, f"{inputs.corpus_name}, {len(text)} characters", warnings)


def _reopen(label: str, provenance: Mapping[str, Any]) -> Checkpoint:
    """Open the model that a run was of; refuse files that have changed since."""
    config = provenance["config"]
    advice = "Type compare.quality=FILE.csv with a column of your own numbers."
    try:
        model = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), _model_of(provenance)))
        assert isinstance(model, ModelConfig)
        checkpoint = open_model(model, seed=config["seed"], dtype=config["precision"])
    except JacspecError as error:
        raise JacspecError(f"The model of {label} cannot be opened to score the text: {error} {advice}") from error
    stored = provenance["identity"]["checkpoint"].get("files", {})
    if changed := sorted(name for name in stored if checkpoint.files.get(name, stored[name]) != stored[name]):
        raise JacspecError(f"The model of {label} has changed since its run: {shortened(changed)}. {advice}")
    return checkpoint


def _score(checkpoint: Checkpoint, label: str, text: str, numbers: tuple[int, ...], *, memory_bytes: float) -> Judged:
    r"""Score a text: $\sum -\ln p / B$, B the bytes of the tokens that are predicted."""
    if model_kind(checkpoint.spec) != "causal":
        raise JacspecError(
            f"{label} is an encoder: its pseudo-perplexity does not compare with a decoder's perplexity. "
            "Type compare.quality=FILE.csv with numbers of one kind."
        )
    passage = make_passage(text, checkpoint, tokens=None, window=None, stride=None)
    if passage.window > WINDOW:
        passage = make_passage(text, checkpoint, tokens=None, window=WINDOW, stride=None)
    nats = score_tokens(checkpoint, passage, prepare_passage(checkpoint, passage, memory_bytes=memory_bytes))
    first, tokenizer = passage.windows[0].tokens[0], checkpoint.tokenizer
    unscored = 0 if first in tokenizer.all_special_ids else len(tokenizer.decode([first]).encode())
    size = len(text.encode()) - unscored
    value, error = perplexity(sum_chunks(nats, passage.chunks))
    parameters = count_parameters(checkpoint.architecture, checkpoint.spec)
    return Judged(numbers, float(nats.sum()) / size, parameters, value, error, len(nats), size)


def _count_unknown(checkpoint: Checkpoint, text: str) -> int:
    """Count the tokens of a text that stand for what the tokenizer does not know."""
    tokenizer = checkpoint.tokenizer
    unknown = tokenizer.unk_token_id
    return 0 if unknown is None else tokenize(tokenizer, text, add_special_tokens=False, verbose=False).count(unknown)


def _from_table(file: Path, runs: Sequence[LabelledRun], models: Sequence[tuple[int, ...]]) -> Judgement:
    """Read qualities from a table: `run`, a label, folder or model, a column of numbers, and perhaps `parameters`."""
    rows, name = _read_table(file.expanduser())
    judged, missing = [], []
    for numbers in models:
        found = next((rows[each] for number in numbers for each in _called(runs[number]) if each in rows), None)
        if found is None:
            missing.append(runs[numbers[0]].label)
            continue
        judged.append(Judged(numbers, found[0], _parameters(runs[numbers[0]]) if math.isnan(found[1]) else found[1]))
    if missing:
        raise JacspecError(
            f"{file} has no row for {shortened(missing)}. Its column run names a label as here, a run's folder, or a "
            f"model; it has {shortened(sorted(rows))}."
        )
    return Judgement(judged, name, file.name, [])


def _called(labelled: LabelledRun) -> Iterator[str]:
    """Name what a row of a table may call a run by, the most particular first."""
    yield from (labelled.label, str(labelled.run.folder), labelled.run.folder.name)
    yield str(labelled.run.provenance.get("identity", {}).get("checkpoint", {}).get("name"))


def _read_table(file: Path) -> tuple[dict[str, tuple[float, float]], str]:
    """Return quality and parameters (NaN where there are none) by what the row is called, and the quality's name."""
    if not file.is_file():
        raise JacspecError(
            f"compare.quality={file} is not a file. Type compare.quality=text, or FILE.csv with the columns run and "
            "perplexity."
        )
    text = decode_text(read_file(file, most=MOST_TABLE_BYTES), str(file))
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    head = [name.strip() for name in reader.fieldnames or ()]
    numbers = [name for name in head if name not in ("run", "parameters")]
    if "run" not in head or len(numbers) != 1:
        raise JacspecError(
            f"{file} has the columns {', '.join(head) or 'none'}. Accepted: run, one column of numbers as perplexity, "
            "and perhaps parameters."
        )
    reader.fieldnames = head
    found: dict[str, tuple[float, float]] = {}
    for row in reader:
        quality, size = (_number(row.get(name), file, reader.line_num) for name in (numbers[0], "parameters"))
        if math.isnan(quality):
            raise JacspecError(f"{file}, line {reader.line_num}, has no {numbers[0]}.")
        found[str(row["run"]).strip()] = (quality, size)
    return found, numbers[0]


def _number(word: str | None, file: Path, line: int) -> float:
    """Read a number; NaN of an empty field or a column that is not there."""
    if word is None or not word.strip():
        return math.nan
    try:
        value = float(word.replace("_", ""))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise JacspecError(f"{file}, line {line}, has {word.strip()!r}, which is not a number.")
    return value


def _parameters(labelled: LabelledRun) -> float:
    """Count the parameters of a run's model by its config alone; NaN where that cannot be opened."""
    try:
        model = OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(ModelConfig), _model_of(labelled.run.provenance))
        )
        assert isinstance(model, ModelConfig)
        checkpoint = open_model(dataclasses.replace(model, init=Init.random))
    except JacspecError:
        return math.nan
    return float(count_parameters(checkpoint.architecture, checkpoint.spec))


def whole_values(labelled: LabelledRun, names: Sequence[str]) -> Iterator[Value]:
    """Average each metric over a model: over all its matrices, else over the layers of each component or role."""
    run = labelled.run
    summary = run.summary
    kind = "role" if "role" in summary else "component"
    whole = summary[summary[kind] == WHOLE_MODEL].set_index("metric")["mean"]
    if len(whole):
        yield from ((WHOLE_MODEL, name, float(whole.get(name, math.nan))) for name in names)
        return
    by_component: dict[str, list[np.ndarray]] = {}
    for layer in layers_of(run, names):
        there = np.isfinite(layer.values)
        sums = np.where(there, layer.values, 0).sum(axis=0)
        with np.errstate(invalid="ignore"):
            by_component.setdefault(layer.component, []).append(sums / there.sum(axis=0))
    for component, means in by_component.items():
        # A layer without a value, as one that adds nothing, would leave the models with means of different layers.
        yield from ((component, name, float(mean)) for name, mean in zip(names, np.mean(means, axis=0), strict=True))


QUALITY_COLUMNS = ("model", "run", "label", *JUDGED)
VALUE_COLUMNS = ("model", "component", "metric", "value")
CORRELATION_COLUMNS = ("component", "metric", *CORRELATED, "missing")


def quality_rows(judgement: Judgement, runs: Sequence[LabelledRun]) -> Iterator[tuple[Any, ...]]:
    """Say of each model which run is the first of it, and its quality, a row each."""
    for number, each in enumerate(judgement.models):
        yield (number, each.runs[0], runs[each.runs[0]].label, *each[1:])


def value_rows(judgement: Judgement, runs: Sequence[LabelledRun], names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Give every metric of every whole model, the mean over its runs."""
    rows: list[tuple[Any, ...]] = []
    for number, each in enumerate(judgement.models):
        found: dict[tuple[str, str], list[float]] = {}
        for run in each.runs:
            for component, name, value in whole_values(runs[run], names):
                found.setdefault((component, name), []).append(value)
        rows += [(number, *key, float(np.mean(values))) for key, values in found.items()]
    return rows


def correlation_rows(
    judgement: Judgement, values: Sequence[tuple[Any, ...]], *, draws: int, seed: int
) -> list[tuple[Any, ...]]:
    """Correlate each metric with quality, plain and given the size, a row a component and metric."""
    quality = np.array([each.quality for each in judgement.models])
    sizes = np.array([each.parameters for each in judgement.models])
    found: dict[tuple[str, str], np.ndarray] = {}
    for number, component, name, value in values:
        found.setdefault((component, name), np.full(len(quality), np.nan))[number] = value
    rows: list[tuple[Any, ...]] = []
    for key, own in found.items():
        there = np.isfinite(own) & np.isfinite(quality)
        plain = correlate(own[there], quality[there], draws=draws, seed=seed)
        given, size, reason = _given_size(own[there], quality[there], sizes[there], draws=draws, seed=seed)
        reasons = dict.fromkeys(filter(None, (plain.reason, reason and f"given size: {reason}")))
        rows.append((*key, int(there.sum()), plain, size, given, "; ".join(reasons)))
    q_values = [adjust_for_many(np.array([row[place].p_value for row in rows])) for place in (3, 5)]
    return [
        (component, name, n, *plain[:4], q, plain.least_p, size, *given[:4], given_q, given.least_p, reason)
        for (component, name, n, plain, size, given, reason), q, given_q in zip(rows, *q_values, strict=True)
    ]


def _given_size(
    own: np.ndarray, quality: np.ndarray, sizes: np.ndarray, *, draws: int, seed: int
) -> tuple[Any, float, str]:
    """Correlate given the size; returns also the correlation of the metric with the size alone, and what is missing."""
    known = np.isfinite(sizes)
    if not known.all():
        none = correlate(own[:0], quality[:0], draws=draws, seed=seed)
        return none, math.nan, f"the parameters of {int((~known).sum())} models are not known"
    if len(sizes) and np.ptp(sizes) == 0:
        none = correlate(own[:0], quality[:0], draws=draws, seed=seed)
        return none, math.nan, "all models have the same size"
    size = correlate(own, sizes, draws=draws, seed=seed).value
    given = correlate(own, quality, sizes, draws=draws, seed=seed)
    return given, size, given.reason
