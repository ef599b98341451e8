"""`task=finetune`: remove a group of singular values, then fine-tune; or fine-tune, then remove."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from jacspec.axes import Row
from jacspec.backend import numerics
from jacspec.config import Config
from jacspec.errors import JacspecError, check_least, suggest
from jacspec.models.checkpoint import Checkpoint, open_checkpoint
from jacspec.models.classifier import Classifier, make_classifier, read_classifier, write_classifier
from jacspec.runs.files import MODELS, TEMPORARY, put_in_place
from jacspec.runs.rows import experiment_layout
from jacspec.samples import Batch
from jacspec.studies.finetune import FINETUNE, FinetuneOptions, TextLayout
from jacspec.studies.finetune.training import Labelled, Training, fine_tune, most_groups, remove_groups, score
from jacspec.studies.inputs import Inputs
from jacspec.studies.provenance import describe_checkpoint
from jacspec.studies.run import run_rows
from jacspec.studies.work import RowWork
from jacspec.text.corpus import check_tokens, decode_text
from jacspec.text.labelled import BOOLQ, Columns, Example, LabelledText, derive_labelled, encode_examples, read_labelled

ROLES = ("q", "k", "v", "o", "up", "gate", "down")
NONE, AFTER, BEFORE = "none", "after", "before"
LENGTH_STEP = 8


class Key(NamedTuple):
    """One experiment: when a group is removed (`none`, `before` or `after` fine-tuning), which (0: none), the seed."""

    order: str
    group: int
    seed: int


class Bench(NamedTuple):
    """What all experiments of a run share; `folder` keeps the fine-tuned models, one a seed."""

    options: FinetuneOptions
    checkpoint: Checkpoint
    labels: tuple[str, ...]
    train: Labelled
    held_out: Labelled
    folder: Path

    @property
    def training(self) -> Training:
        """How each classifier is fine-tuned."""
        own = self.options
        return Training(own.steps, own.batch, own.learning_rate, own.warmup, own.weight_decay, own.frozen)

    def untrained(self, seed: int) -> Classifier:
        """Make the pretrained model with a new head."""
        return make_classifier(self.checkpoint, labels=len(self.labels), seed=seed)

    def remove(self, classifier: Classifier, group: int) -> tuple[Classifier, float]:
        """Remove a group of singular values."""
        return remove_groups(classifier, group=group, groups=self.options.groups, roles=self.options.roles)

    def tune(self, classifier: Classifier, seed: int) -> Classifier:
        """Fine-tune a classifier."""
        return fine_tune(classifier, self.train, self.training, seed=seed)


def run_finetune(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Compare removal before and after fine-tuning into `folder`, or resume what `config.resume` holds."""
    options = config.own(FinetuneOptions)
    _check(options, config.seed)
    folder = folder if config.resume is None else Path(config.resume)
    with numerics(config.precision.value):
        run_rows(config, folder, console, inputs, lambda: _prepare(config, inputs, folder / MODELS))


def _prepare(config: Config, inputs: Inputs, folder: Path) -> RowWork:
    options = config.own(FinetuneOptions)
    checkpoint = inputs.checkpoint()
    text = _read_text(config, inputs)
    train, held_out = tabulate(checkpoint, text, max_tokens=options.max_tokens)
    bench = Bench(options, checkpoint, text.labels, train, held_out, folder)
    most = most_groups(bench.untrained(config.seed), options.roles)
    if options.groups > most:
        raise JacspecError(
            f"finetune.groups={options.groups}, but the smallest matrix of finetune.roles has {most} singular values. "
            + (f"Type finetune.groups={most} or less." if most else "Type other finetune.roles.")
        )
    if not 0 <= options.frozen <= (blocks := len(checkpoint.spec.blocks)):
        raise JacspecError(f"finetune.frozen={options.frozen}, but there are {blocks} blocks. Accepted: 0 to {blocks}.")
    keys = list_keys(config.seed, options.seeds, options.groups)
    counts = {"train": len(text.train), "held_out": len(text.held_out)}
    name = Path(options.path).name if options.path else f"{inputs.corpus_name}, misprinted or not"
    facts = {
        "chance": text.chance,
        "labels": list(text.labels),
        "corpus": {"name": name, "source": text.source, **counts},
    }
    identity = {"checkpoint": describe_checkpoint(checkpoint), "corpus": {"sha256": text.sha256, **counts}}

    def stream(done: Mapping[int, Row]) -> Iterator[list[Row]]:
        tuned = functools.lru_cache(maxsize=1)(functools.partial(tuned_classifier, bench))
        for number, key in enumerate(keys):
            if number not in done:
                yield [Row(number, tuple(key), measure(bench, key, tuned))]

    layout = experiment_layout(Key._fields, tuple(FINETUNE), over="seed")
    return RowWork(layout, identity, facts, stream, total=len(keys))


def list_keys(first: int, seeds: int, groups: int) -> list[Key]:
    """List the experiments: of each seed the one without removal, then each group after and before fine-tuning."""
    numbers = range(1, groups + 1)
    return [
        key
        for seed in range(first, first + seeds)
        for key in (
            Key(NONE, 0, seed),
            *(Key(AFTER, group, seed) for group in numbers),
            *(Key(BEFORE, group, seed) for group in numbers),
        )
    ]


def measure(bench: Bench, key: Key, tuned: Any) -> dict[str, float]:
    """Do one experiment; `tuned(seed)` gives the fine-tuned model from which nothing was removed."""
    share = 0.0
    if key.order == NONE:
        classifier = tuned(key.seed)
    elif key.order == AFTER:
        classifier, share = bench.remove(tuned(key.seed), key.group)
    else:
        classifier, share = bench.remove(bench.untrained(key.seed), key.group)
        classifier = bench.tune(classifier, key.seed)
    found = score(classifier, bench.held_out, batch=bench.options.batch)
    return {"accuracy": found.accuracy, "label_loss": found.loss, "removed_share": share}


def tuned_classifier(bench: Bench, seed: int) -> Classifier:
    """Fine-tune the model of a seed and keep it in HF layout, or read it where an earlier try did."""
    folder = bench.folder / f"seed{seed}"
    if not folder.is_dir():
        classifier = bench.tune(bench.untrained(seed), seed)
        tokenizer = bench.checkpoint.tokenizer
        pads = (tokenizer.pad_token_id, tokenizer.eos_token_id, bench.checkpoint.config.get("pad_token_id"), 0)
        pad = next(pad for pad in pads if pad is not None)
        half = folder.with_name(TEMPORARY + folder.name)
        write_classifier(half, bench.checkpoint, classifier, labels=bench.labels, pad=pad)
        put_in_place(half, folder)
    return read_classifier(open_checkpoint(folder, dtype=str(bench.checkpoint.dtype)))


def tabulate(checkpoint: Checkpoint, text: LabelledText, *, max_tokens: int) -> tuple[Labelled, Labelled]:
    """Tokenize the examples to train on and those held out, all padded to one length."""
    positions = checkpoint.spec.positions
    limit = max_tokens if positions is None else min(max_tokens, positions)
    parts = (text.train, text.held_out)
    found = [encode_examples(checkpoint.tokenizer, examples, max_tokens=limit) for examples in parts]
    everything = [ids for part in found for ids in part]
    check_tokens(everything, positions=positions, vocab=checkpoint.spec.vocab)
    longest = -(-max(map(len, everything)) // LENGTH_STEP) * LENGTH_STEP
    return _table(text, text.train, found[0], longest), _table(text, text.held_out, found[1], longest)


def _table(text: LabelledText, examples: list[Example], ids: list[list[int]], longest: int) -> Labelled:
    tokens = np.zeros((len(ids), longest), np.int32)
    for row, each in zip(tokens, ids, strict=True):
        row[: len(each)] = each
    return Labelled(Batch(tokens, np.array(list(map(len, ids)), np.int32)), text.numbers(examples))


def _read_text(config: Config, inputs: Inputs) -> LabelledText:
    own = config.own(FinetuneOptions)
    if own.path is None:
        raw, source = inputs.text()
        return derive_labelled(decode_text(raw, source), source, holdout=own.holdout, seed=config.seed)
    columns = Columns(*BOOLQ) if own.layout is TextLayout.boolq else Columns(own.text, own.second, own.label)
    return read_labelled(own.path, columns, held_out_path=own.held_out, holdout=own.holdout, seed=config.seed)


def _check(options: FinetuneOptions, seed: int) -> None:
    for name in ("max_tokens", "steps", "batch", "groups", "seeds"):
        check_least(f"finetune.{name}", getattr(options, name), 1)
    check_least("seed", seed, 0)
    if not 0 <= options.warmup < 1:
        raise JacspecError(f"finetune.warmup={options.warmup} is no share of the steps. Accepted: 0 to below 1.")
    if not options.learning_rate > 0:
        raise JacspecError(f"finetune.learning_rate={options.learning_rate} is not above 0. Give one as 1e-3.")
    if options.held_out is not None and options.path is None:
        raise JacspecError("finetune.held_out needs a file to train on. Type finetune.path=FILE too.")
    if unknown := [role for role in options.roles if role not in ROLES]:
        raise JacspecError(f"finetune.roles has {unknown[0]!r}. " + suggest(unknown[0], ROLES))
    if not options.roles:
        raise JacspecError("finetune.roles=[] removes nothing. Type 'finetune.roles=[q,k,v,o,up,gate,down]' for all.")
