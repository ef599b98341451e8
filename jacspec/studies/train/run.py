"""`task=train`: a GPT-2-architecture model with its own tokenizer, trained from scratch on one text.

The text is cut once: the tokenizer and the weights see the first part only, the bits per byte are measured on the
last. The result is a folder in HF layout with revisions at the chosen steps; it is how `assets/nano` was made.
"""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from rich.console import Console

from jacspec.axes import Row
from jacspec.backend import numerics, use_compilation_cache
from jacspec.config import Config
from jacspec.errors import JacspecError, as_typed, suggest
from jacspec.models.architectures import Architecture
from jacspec.models.block import Block, Embedding, Head, ModelSpec
from jacspec.models.checkpoint import Checkpoint, open_checkpoint
from jacspec.models.export import write_config, write_weights
from jacspec.models.hf_config import read_config
from jacspec.models.modules import build_module
from jacspec.progress import Stopwatch, step_progress
from jacspec.runs import write_atomically, write_csv
from jacspec.runs.files import PARTS, make_subfolder, read_arrays, write_arrays
from jacspec.runs.rows import RowWriter, experiment_layout, start_rows
from jacspec.runs.writing import releasing_folders, reopen_folder
from jacspec.scoring.perplexity import prepare_passage, score_tokens
from jacspec.scoring.windows import causal_passage
from jacspec.studies import find_study
from jacspec.studies.inputs import Inputs
from jacspec.studies.provenance import describe_run, now
from jacspec.studies.run import finish_run
from jacspec.studies.train import CURVE_FILE, TRAIN, TrainOptions
from jacspec.text.corpus import decode_text

END_OF_TEXT = "<|endoftext|>"
STORED = ("float16", "float32")
FINAL = "final"
STATE_FILE, SAVED_EVERY = "000000.npz", 256
"""Where the state of a training is kept while it runs, and after how many steps."""
SCORE_BYTES = 2.0**30
"""Memory that work arrays may take while a text is scored."""


class Transformer(NamedTuple):
    """A whole language model as one pytree; a tied unembedding is the embedding and not a leaf of its own."""

    embedding: Embedding
    blocks: tuple[Block, ...]
    head: Head

    def __call__(self, tokens: Int[Array, " token"]) -> Float[Array, "token vocab"]:
        """Compute the logits after each token of one window, unembedding with the embedding's table."""
        h = self.embedding(tokens)
        for block in self.blocks:
            h = block(h)
        assert self.head.norm is not None
        return self.head.norm(h) @ self.embedding.token[...].T


class Result(NamedTuple):
    """What a training run found: the curve of (step, training loss in nats) and bits per byte by revision."""

    curve: list[tuple[int, float]]
    bits_per_byte: dict[str, float]
    parameters: int
    text_sha256: str


@releasing_folders()
def run_train(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Train the model that `config.train` describes into `folder/model`, or resume what `config.resume` holds."""
    options = config.own(TrainOptions)
    watch = Stopwatch()
    use_compilation_cache()
    with watch("read text"):
        prepared = prepare_training(options, inputs.text())
    layout = experiment_layout(("revision", "step"), tuple(TRAIN))
    name = f"{options.layers}-layer model of width {options.d_model}, trained on {inputs.corpus_name}"
    identity = {"checkpoint": {"name": name}, "corpus": {"sha256": prepared.sha256}}
    described = describe_run(config, study=find_study("train"), identity=identity) | {
        "key_columns": list(layout.keys),
        "metrics": list(layout.columns),
        "corpus": {"name": inputs.corpus_name, "source": prepared.source},
        "vocabulary": prepared.tokenizer.get_vocab_size(),
    }
    if config.resume is None:
        writer = start_rows(folder, described, layout)
    else:
        resumed = Path(config.resume)
        writer = RowWriter(resumed, reopen_folder(resumed, described), layout, {})
    if writer.provenance["status"] != "finished":
        model = writer.folder / "model"
        state = make_subfolder(writer.folder, PARTS) / STATE_FILE
        with numerics("float32"), watch("training"), step_progress(console, steps=options.steps) as report:
            result = train_model(options, prepared, seed=config.seed, folder=model, report=report, state_file=state)
        card = model_card(options, result, data=_data_words(config), seed=config.seed)
        write_atomically(model / "README.md", card.encode())
        steps = [int(name.removeprefix("step")) if name != FINAL else options.steps for name in result.bits_per_byte]
        found = zip(result.bits_per_byte.items(), steps, strict=True)
        rows = [
            Row(place, (name, step), {"bits_per_byte": bits}, {}) for place, ((name, bits), step) in enumerate(found)
        ]
        writer.done = {row.number: row for row in rows}
        writer.write_tables()
        write_csv(writer.folder / CURVE_FILE, ("step", "loss"), result.curve)
        writer.record(parameters=result.parameters, seconds=watch.seconds, finished=now())
    finish_run(config, writer, console, inputs, watch)
    if inputs.page:
        console.print(f"Type: jacspec {as_typed('model', writer.folder / 'model')}", soft_wrap=True, highlight=False)


class Prepared(NamedTuple):
    """What a training run begins with: a text cut in two, its tokenizer and tokens, and the shapes of the model."""

    source: str
    sha256: str
    held_out: str
    tokenizer: Any
    tokens: np.ndarray
    hf_config: dict[str, Any]
    architecture: Architecture
    spec: ModelSpec


def prepare_training(config: TrainOptions, text_bytes: tuple[bytes, str]) -> Prepared:
    """Check the options and cut the text, before anything is written; its tokenizer is trained on the first part.

    **Arguments:** `text_bytes`, UTF-8 and where it was found.

    **Raises:** `JacspecError` where the options do not fit, or the text is too short.
    """
    _check(config)
    raw, source = text_bytes
    text = decode_text(raw, source)
    cut = int(len(text) * (1 - config.holdout))
    tokenizer = _train_tokenizer(text[:cut], config.vocab)
    tokens = np.array(tokenizer.encode(text[:cut]).ids, np.int32)
    if len(tokens) < 2 * config.positions:
        raise JacspecError(
            f"{source} gives {len(tokens)} tokens to train on; {2 * config.positions} are needed. "
            "Give a longer text, or lower train.positions."
        )
    hf_config = _hf_config(config, tokenizer.get_vocab_size())
    architecture, _, spec, _ = read_config(hf_config, "the training configuration")
    sha256 = hashlib.sha256(raw).hexdigest()
    return Prepared(source, sha256, text[cut:], tokenizer, tokens, hf_config, architecture, spec)


class Progress(NamedTuple):
    """How far a training run is: the steps taken, the curve and the scores until then, and weights with optimizer."""

    step: int
    curve: list[tuple[int, float]]
    scores: dict[str, float]
    learnt: tuple[Transformer, Any]


def train_model(
    config: TrainOptions,
    prepared: Prepared,
    *,
    seed: int,
    folder: Path,
    report: Callable[[int, float], None],
    state_file: Path | None = None,
) -> Result:
    """Train and write a model.

    **Arguments:** `folder`, an empty place for the HF-layout result; `report`, called with (step, loss in nats) now
    and then; `state_file`, where the state of the training is kept every `SAVED_EVERY` steps and at revisions: where it
    is there, training goes on from it, to the same weights.

    **Returns:** the loss curve and, by revision, the bits per byte of the held-out text, measured on the weights
    as they were written.

    **Raises:** `JacspecError` where the loss is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, prepared.hf_config)
    _write_tokenizer(folder, prepared.tokenizer, config.positions)

    def write(model: Transformer, name: str | None) -> float:
        place = folder if name is None else folder / "revisions" / name
        place.mkdir(parents=True, exist_ok=True)
        modules = {("embedding", 0): model.embedding, ("head", 0): model.head}
        modules |= {("block", layer): block for layer, block in enumerate(model.blocks)}
        write_weights(place, prepared.architecture, prepared.spec, modules, dtype=config.dtype)
        # Read back as any user will, so that the score is that of the file.
        written = open_checkpoint(folder, weights_folder=place)
        return bits_per_byte(written, prepared.tokenizer, prepared.held_out, window=config.positions)

    optimizer = _optimizer(config)
    model = _initial_model(prepared.spec, seed)
    begun = Progress(0, [], {}, (model, optimizer.init(model)))
    if state_file is not None and state_file.is_file():
        begun = read_arrays(state_file, functools.partial(_restore, begun.learnt))
    (model, state), curve, scores = begun.learnt, begun.curve, begun.scores
    rng, tokens = np.random.default_rng(seed), prepared.tokens
    for step in range(config.steps):
        starts = rng.integers(0, len(tokens) - config.positions, size=config.batch)
        if step < begun.step:
            continue
        if step in config.revisions:
            scores[f"step{step}"] = write(model, f"step{step}")
        if state_file is not None and step > begun.step and (step in config.revisions or step % SAVED_EVERY == 0):
            write_arrays(state_file, _pack(Progress(step, curve, scores, (model, state))))
        windows = tokens[starts[:, None] + np.arange(config.positions + 1)]
        model, state, loss = _update(optimizer, model, state, windows)
        if step % 32 == 0 or step == config.steps - 1:
            curve.append((step, float(loss)))
            if not math.isfinite(curve[-1][1]):
                raise JacspecError(f"The loss is not finite at step {step}; lower train.learning_rate.")
            report(step, curve[-1][1])
    scores[FINAL] = write(model, None)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(model)) - model.head.unembed.weight.size
    return Result(curve, scores, parameters, prepared.sha256)


def _pack(progress: Progress) -> dict[str, np.ndarray]:
    said = json.dumps([progress.step, progress.curve, progress.scores])
    leaves = jax.tree.leaves(progress.learnt)
    return {"said": np.array(said), **{str(place): np.asarray(leaf) for place, leaf in enumerate(leaves)}}


def _restore(like: tuple[Transformer, Any], arrays: dict[str, np.ndarray]) -> Progress:
    """Read what `_pack` wrote, in the structure of `like`."""
    step, curve, scores = json.loads(arrays["said"].item())
    leaves, structure = jax.tree.flatten(like)
    kept = [jnp.asarray(arrays[str(place)], leaf.dtype) for place, leaf in enumerate(leaves)]
    return Progress(step, [tuple(point) for point in curve], scores, jax.tree.unflatten(structure, kept))


def _data_words(config: Config) -> str:
    """Write which text was read as it is typed."""
    own = config.data.name == "text" and config.data.path is not None
    return f"data={config.data.name}" + (f" {as_typed('data.path', config.data.path)}" if own else "")


def model_card(config: TrainOptions, result: Result, *, data: str, seed: int) -> str:
    """Write the model card: command, seed, data hash, curve, result."""
    changed = " ".join(f"train.{key}={_as_override(value)}" for key, value in dataclasses.asdict(config).items())
    places = np.unique(np.geomspace(1, len(result.curve), 16).astype(int) - 1)
    curve = "\n".join(f"| {result.curve[place][0]} | {result.curve[place][1]:.3f} |" for place in places)
    scores = "\n".join(f"| {name} | {score:.3f} |" for name, score in result.bits_per_byte.items())
    return f"""# A small GPT-2-architecture language model

{result.parameters:,} parameters: {config.layers} layers, width {config.d_model}, {config.heads} heads, \
{config.positions} positions, its own byte-level BPE tokenizer of {config.vocab} tokens, weights stored as \
{config.dtype}. Trained by jacspec on the first {1 - config.holdout:.0%} of a text of sha256 \
`{result.text_sha256}`; the tokenizer saw no more than that.

    jacspec task=train {data} seed={seed} {changed}

Bits per byte of the last {config.holdout:.0%}, measured on the weights as stored, in windows of \
{config.positions} tokens that overlap by half; one row a revision:

| weights | bits per byte |
|---|---|
{scores}

Training loss of single batches, in nats a token:

| step | loss |
|---|---|
{curve}
"""


def bits_per_byte(checkpoint: Checkpoint, tokenizer: Any, text: str, *, window: int) -> float:
    """Measure −log₂ p of a text per UTF-8 byte, in windows of `window` tokens read that overlap by half.

    Each token is scored once, with at least half a window of context (the first ones with what there is); the
    text is preceded by one end-of-text token.
    """
    tokens = [tokenizer.token_to_id(END_OF_TEXT), *tokenizer.encode(text).ids]
    passage = causal_passage(tokens, window=window + 1, stride=max(window // 2, 1))
    nats = score_tokens(checkpoint, passage, prepare_passage(checkpoint, passage, memory_bytes=SCORE_BYTES))
    return float(nats.sum()) / math.log(2) / len(text.encode("utf-8"))


@jax.jit
def _window_nats(model: Transformer, window: Int[Array, " token"]) -> Float[Array, " token-1"]:
    return optax.softmax_cross_entropy_with_integer_labels(model(window[:-1]), window[1:])


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def _update(optimizer: Any, model: Transformer, state: Any, windows: Array) -> tuple[Transformer, Any, Array]:
    def loss_of(model: Transformer) -> Array:
        return jnp.mean(jax.vmap(_window_nats, in_axes=(None, 0))(model, windows))

    loss, gradient = jax.value_and_grad(loss_of)(model)
    updates, state = optimizer.update(gradient, state, model)
    return optax.apply_updates(model, updates), state, loss


def _check(config: TrainOptions) -> None:
    if not 0 < config.holdout < 1:
        raise JacspecError(f"train.holdout={config.holdout} is no part of a text. Give one between 0 and 1, as in 0.1.")
    if not 0 <= config.warmup < config.steps:
        raise JacspecError(
            f"train.warmup={config.warmup} does not fit train.steps={config.steps}. Accepted: 0 to steps - 1."
        )
    if late := [step for step in config.revisions if not 0 <= step < config.steps]:
        raise JacspecError(f"train.revisions has {late}, beyond train.steps={config.steps}. Accepted: 0 to steps - 1.")
    if config.dtype not in STORED:
        raise JacspecError(f"train.dtype={config.dtype!r} is not known. " + suggest(config.dtype, STORED))


def _optimizer(config: TrainOptions) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.warmup, config.steps, end_value=config.learning_rate / 10
    )
    decayed = functools.partial(jax.tree.map, lambda leaf: leaf.ndim == 2)
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b2=0.95, weight_decay=config.weight_decay, mask=decayed),
    )


def _initial_model(spec: ModelSpec, seed: int) -> Transformer:
    keys = jax.random.split(jax.random.key(seed), len(spec.blocks) + 2)
    dtype = jnp.dtype("float32")
    blocks = tuple(build_module(spec, "block", layer, dtype, keys[layer]) for layer in range(len(spec.blocks)))
    return Transformer(
        build_module(spec, "embedding", 0, dtype, keys[-2]), blocks, build_module(spec, "head", 0, dtype, keys[-1])
    )


def _as_override(value: Any) -> str:
    return "[" + ",".join(map(str, value)) + "]" if isinstance(value, list) else str(value)


def _hf_config(config: TrainOptions, vocab: int) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": vocab,
        "n_positions": config.positions,
        "n_embd": config.d_model,
        "n_layer": config.layers,
        "n_head": config.heads,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "dtype": config.dtype,
    }


def _train_tokenizer(text: str, vocab: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Whole lines, so that no token crosses a line by more than its newline.
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return tokenizer


def _write_tokenizer(folder: Path, tokenizer: Any, positions: int) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": positions,
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
