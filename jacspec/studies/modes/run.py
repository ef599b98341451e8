"""`task=modes`: the directions that each Jacobian reads and writes, between samples, layers, the input and words."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.console import Console

from jacspec.axes import LayerResult
from jacspec.config import Config
from jacspec.errors import JacspecError
from jacspec.jacobians.branches import check_components, choose_components, list_sites
from jacspec.jacobians.engine import memory_budget, working_blocks
from jacspec.jacobians.solvers import check_engine, choose_engine
from jacspec.models.block import ModelSpec
from jacspec.models.checkpoint import Checkpoint
from jacspec.scoring.windows import mask_token, model_kind
from jacspec.spectra.metrics import choose_metrics
from jacspec.studies.ends import end_samples, kinds_of
from jacspec.studies.inputs import Inputs, Texts
from jacspec.studies.kinds import KIND_COLUMNS, KINDS_FILE, kind_rows
from jacspec.studies.modes import (
    ALONG_COLUMNS,
    ALONG_FILE,
    BETWEEN_COLUMNS,
    BETWEEN_FILE,
    BY_KIND,
    CHECK_COLUMNS,
    CHECK_FILE,
    GROUPS_COLUMNS,
    GROUPS_FILE,
    INPUT_COLUMNS,
    INPUT_FILE,
    LABELS_FILE,
    MODE_COLUMNS,
    MODES_FILE,
    OWN_COLUMNS,
    OWN_FILE,
    SHARED_COLUMNS,
    SHARED_FILE,
    WORD_COLUMNS,
    WORDS_FILE,
    ModesOptions,
    after,
)
from jacspec.studies.modes.after import Reader, leading_modes
from jacspec.studies.modes.check import (
    CheckPlan,
    check_batches,
    check_modes,
    check_numbers,
    check_possible,
    cut_samples,
    mask_samples,
)
from jacspec.studies.modes.directions import Modes
from jacspec.studies.modes.lexicon import DEPTH, WordsPlan
from jacspec.studies.modes.measure import OWN, ModesPlan, check_counts, list_programs, stream_modes
from jacspec.studies.modes.tables import compare_modes
from jacspec.studies.modes.through import choose_deep
from jacspec.studies.over_samples import batch_samples, run_layers
from jacspec.studies.work import Table, Work
from jacspec.text.corpus import Sample
from jacspec.text.labelled import read_columns

DENSE = "numerical_rank"
"""A metric that only a dense engine gives: what trailing modes need too."""

PREDICTED = {"causal": "next token", "masked": "masked token"}
"""What the check measures, by what predicts it."""

ReadShares = Mapping[tuple[int, str], Mapping[str, Float[np.ndarray, " sample"]]]
"""By layer and component, a value a sample by name, of what is read."""

LABEL_COLUMNS = (*KIND_COLUMNS[:3], "column", "label", *KIND_COLUMNS[4:])


def run_modes(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Compute the modes of every layer's Jacobians into `folder`, or resume what `config.resume` holds."""
    choose_metrics(config.metrics.names)
    check_components(config.components)
    check_engine(config.engine.name)
    targets: list[int] = []
    inputs, labels = _read_labelled(config, inputs)
    run_layers(
        config,
        folder,
        console,
        inputs,
        functools.partial(_prepare, targets, labels),
        cut=functools.partial(_cut, targets),
    )


def _read_labelled(config: Config, inputs: Inputs) -> tuple[Inputs, dict[str, list[str]]]:
    """Let the texts of `modes.labelled` be the text, where it is given; with their labels by column."""
    options = config.own(ModesOptions)
    if options.labelled is None:
        return inputs, {}
    if inputs.texts is not None:
        raise JacspecError("modes.labelled is a text itself, and texts were given too. Give one of them.")
    if not options.labels:
        raise JacspecError("modes.labels is empty. Type 'modes.labels=[NAME]', a column of modes.labelled.")
    texts, labels = read_columns(options.labelled, options.text, options.labels)
    return dataclasses.replace(inputs, texts=Texts(texts, [], options.labelled)), labels


def _cut(targets: list[int], config: Config, checkpoint: Checkpoint, sample: Sample) -> Sample:
    """End the samples where they are to end; where directions are checked, where there is a token to predict."""
    options, least = config.own(ModesOptions), config.data.min_tokens
    if not options.check:
        return end_samples(config, sample, options.end)
    check_possible(checkpoint)
    if model_kind(checkpoint.spec) == "causal":
        cut, targets[:] = cut_samples(sample, least=least, seed=config.seed)
    else:
        mask, special = mask_token(checkpoint), set(checkpoint.tokenizer.all_special_ids)
        cut, targets[:] = mask_samples(sample, mask, special, least=least, seed=config.seed)
    return cut


def _choose_engine(config: Config, spec: ModelSpec) -> str:
    """Choose the engine that gives the metrics, and trailing modes where these are asked for."""
    metric_names = [name for name in choose_metrics(config.metrics.names) if name not in OWN]
    trailing = config.own(ModesOptions).trailing
    if trailing and config.engine.name == "lanczos":
        raise JacspecError(f"engine=lanczos has no trailing modes, and modes.trailing={trailing}. Type engine=auto.")
    return choose_engine(config.engine.name, (*metric_names, DENSE) if trailing else metric_names, spec)


def _prepare(
    targets: list[int], labelled: Mapping[str, Sequence[str]], config: Config, checkpoint: Checkpoint, sample: Sample
) -> Work:
    options, spec = config.own(ModesOptions), checkpoint.spec
    check_counts(options.k, options.trailing, options.gap, spec.blocks[0].d_model)
    measured = sorted(spec.choose_layers(config.layers) or range(len(spec.blocks)))
    checked = _check_plan(config, options, len(spec.blocks), measured)
    words = _words_plan(config, options, len(sample.tokens))
    components = choose_components(config.components, spec)
    engine = _choose_engine(config, spec)
    batches = batch_samples(config, checkpoint, sample, engine)
    plan = ModesPlan(
        components,
        choose_metrics(config.metrics.names),
        engine,
        options.k,
        options.trailing,
        options.gap,
        top_k=config.metrics.top_k,
        decoder_input=config.data.decoder_input.value,
        tolerance=config.engine.tolerance,
        seed=config.seed,
        audit=config.engine.audit,
        samples=len(sample.tokens),
        layers=spec.choose_layers(config.layers),
    )
    mark, kinds = kinds_of(checkpoint, components, sample.tokens, config.data.decoder_input)
    labels = {name: [own[candidate] for candidate in sample.candidates] for name, own in labelled.items()}
    facts = {
        "components": list(components),
        "engine": engine,
        "modes": plan.numbers,
        "token_mark": mark,
        "token_kinds": kinds,
        **({"predicted": PREDICTED[model_kind(spec)]} if options.check else {}),
    }

    first = list_programs(checkpoint, batches, plan)
    second = after.list_programs(
        checkpoint, batches, components, k=options.k, decoder_input=plan.decoder_input, words=words
    )

    learnt: dict[str, Any] = {}
    deep = None
    if words is not None and words.through == DEPTH and checkpoint.has_head:
        deep = choose_deep(
            checkpoint, sample.tokens, count=words.samples, seed=config.seed, memory_bytes=words.memory_bytes
        )

    def tables(results: Sequence[LayerResult], read: Reader) -> dict[str, Table]:
        passed = after.pass_again(
            checkpoint,
            batches,
            results,
            read,
            k=options.k,
            decoder_input=plan.decoder_input,
            words=words,
            deep=deep,
        )
        sites = list_sites(components, spec)
        groups = {component: {"kind": own, **labels} for component, own in kinds.items()}
        found = compare_modes(
            results, read, sites, numbers=plan.numbers, groups=groups, coupled=passed.coupled, seed=config.seed
        )
        named: dict[str, Table] = {
            MODES_FILE: (MODE_COLUMNS, found.modes),
            SHARED_FILE: (SHARED_COLUMNS, found.shared),
            BETWEEN_FILE: (BETWEEN_COLUMNS, found.between),
            INPUT_FILE: (INPUT_COLUMNS, found.input),
            ALONG_FILE: (ALONG_COLUMNS, found.along),
            GROUPS_FILE: (GROUPS_COLUMNS, found.groups),
            KINDS_FILE: (KIND_COLUMNS, [row for result in results for row in _by_kind(result, found.reads, kinds)]),
        }
        if labels:
            rows = [row for result in results for row in _by_label(result, found.reads, labels)]
            named[LABELS_FILE] = (LABEL_COLUMNS, rows)
        if passed.words is not None:
            learnt["words"] = passed.facts
            named |= {WORDS_FILE: (WORD_COLUMNS, passed.words.shared), OWN_FILE: (OWN_COLUMNS, passed.words.own)}
        if options.check:
            known = StoredModes(results, read, options.k)
            own = check_batches(checkpoint, sample.tokens, batches, checked)
            named[CHECK_FILE] = (CHECK_COLUMNS, check_modes(checkpoint, own, targets, known, checked))
        return named

    return Work(
        working_blocks(spec, components, plan.layers),
        plan.columns,
        facts,
        batches,
        functools.partial(stream_modes, checkpoint, plan=plan),
        audited=engine != "jacfwd",
        programs=[*first, *second],
        tables=tables,
        learnt=learnt,
    )


class StoredModes(Mapping[tuple[int, str], Modes]):
    """The leading modes by layer and component, one layer in memory at a time."""

    def __init__(self, results: Sequence[LayerResult], read: Reader, k: int) -> None:
        self._places = {(result.layer, name): result for result in results for name in result.singular_values}
        self._load = functools.lru_cache(maxsize=1)(
            lambda number: leading_modes(self._numbered[number], read(number), k)
        )
        self._numbered = {result.number: result for result in results}

    def __getitem__(self, place: tuple[int, str]) -> Modes:
        return self._load(self._places[place].number)[place[1]]

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _words_plan(config: Config, options: ModesOptions, count: int) -> WordsPlan | None:
    for name, least in (("words", 0), ("draws", 1), ("through_samples", 1)):
        if (given := getattr(options, name)) < least:
            raise JacspecError(f"modes.{name}={given} is below {least}. Type modes.{name}=N with N of {least} or more.")
    if not options.words:
        return None
    memory = memory_budget(config.engine.memory_gib)
    return WordsPlan(
        draws=options.draws,
        shown=options.words,
        seed=config.seed,
        memory_bytes=memory,
        through=options.through.value,
        samples=min(options.through_samples, count),
    )


def _check_plan(config: Config, options: ModesOptions, count: int, measured: Sequence[int]) -> CheckPlan:
    """Say what is checked: of `count` layers those asked for, by default the first, middle and last of the measured."""
    layers = options.check_layers
    chosen = [measured[0], measured[len(measured) // 2], measured[-1]] if layers is None else layers
    if wrong := [layer for layer in chosen if not -count <= layer < count]:
        raise JacspecError(f"modes.check_layers has {wrong[0]}. Accepted: 0 to {count - 1}, or -1 for the last.")
    plan = CheckPlan(
        tuple(sorted({layer % count for layer in chosen})),
        tuple(dict.fromkeys(options.check_epsilons)),
        options.check_random,
        seed=config.seed,
        memory_bytes=memory_budget(config.engine.memory_gib),
    )
    if options.check:
        check_numbers(plan, measured)
    return plan


def _by_kind(result: LayerResult, reads: ReadShares, kinds: Mapping[str, Sequence[str]]) -> Iterator[tuple[Any, ...]]:
    values = {
        component: {name: own[name] for name in BY_KIND if name in own} | dict(reads[result.layer, component])
        for component, own in result.metrics.items()
    }
    return kind_rows(result.layer, values, kinds)


def _by_label(result: LayerResult, reads: ReadShares, labels: Mapping[str, Sequence[str]]) -> Iterator[tuple[Any, ...]]:
    for column, own in labels.items():
        for layer, component, metric, *rest in _by_kind(result, reads, dict.fromkeys(result.metrics, own)):
            yield (layer, component, metric, column, *rest)
