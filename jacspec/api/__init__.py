"""jacspec from Python: load a model, take one Jacobian, compute the spectra of given texts."""

import numbers
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jacspec import report
from jacspec.backend import numerics
from jacspec.config import DecoderInput, Init
from jacspec.errors import JacspecError, JacspecTypeError
from jacspec.jacobians.branches import choose_components
from jacspec.jacobians.engine import Plan, prepare_batches, stream_layers
from jacspec.jacobians.linearity import check_directions
from jacspec.jacobians.solvers import choose_engine
from jacspec.models.checkpoint import Checkpoint
from jacspec.models.hub import known_model, open_model
from jacspec.models.torch_model import open_torch_model
from jacspec.runs import Run, to_dataset
from jacspec.spectra.metrics import choose_metrics
from jacspec.studies.inputs import read_texts
from jacspec.text.corpus import check_tokens, encode, tokenize

if TYPE_CHECKING:
    import xarray

    from jacspec.jacobians.operator import Jacobian

PAPER_METRICS = ("spectral_radius", "decay_ratio")


def load_model(
    name: Any = "nano",
    *,
    tokenizer: Any = None,
    revision: str | None = None,
    base: str | None = None,
    init: str = "pretrained",
    seed: int = 0,
    precision: str = "float32",
) -> Checkpoint:
    """Open a model; its blocks are read when they are needed.

    **Arguments:** `name`, a ready-made choice (`nano`, `gpt2`, …), a folder in HF layout or of a LoRA adapter, a GGUF
    file, a hub id `ORG/NAME`, or a Hugging Face PyTorch model in memory, with its `tokenizer`; `revision`, of the hub
    or of a training run; `base`, of an adapter, where it is not the one that it names; `init`, `pretrained` or `random`
    (then `seed` counts); `precision`, `float32` or `float64`, of everything computed with it.

    **Raises:** `JacspecError` where the model is unknown, out of reach, damaged or not supported.
    """
    if precision not in ("float32", "float64"):
        raise JacspecError(f"precision={precision!r} is not known. Accepted: float32, float64.")
    if init not in Init.__members__:
        raise JacspecError(f"init={init!r} is not known. Accepted: pretrained, random.")
    if isinstance(name, Checkpoint):
        return name
    with numerics(precision):
        if not isinstance(name, str | Path):
            return open_torch_model(name, tokenizer=tokenizer, dtype=precision)
        model = known_model(name)
        model.revision, model.base, model.init = revision, base, Init[init]
        return open_model(model, seed=seed, dtype=precision)


def jacobian(
    model: Any,
    text: Any,
    *,
    layer: Any,
    component: Any = "mlp",
    position: Any = -1,
    tokenizer: Any = None,
    decoder_input: str = "shifted",
    precision: str = "float32",
) -> "Jacobian":
    """Make the Jacobian of one branch at one token of one text, as a linear operator of SciPy's protocol.

    Cheap: the text is carried to the layer, and J is formed by none but `dense`, `eigvals` and a full `svd`.

    **Arguments:** `model`, as `load_model` takes it (with `tokenizer` and `precision`), or what it returned; `text`, a
    str or a list of token ids; `layer`, from 0, -1 the last; `component`, `attn`, `mlp`, `cross` or `block`, in an
    encoder-decoder model as `decoder.mlp`; `position`, the token at which is differentiated: what comes after it is
    cut away.

    **Raises:** `JacspecError` for a layer, component or position that there is not, `JacspecTypeError` for other types.
    """
    from jacspec.jacobians.operator import jacobian_operator  # SciPy's sparse part is slow to import

    for name, value in (("layer", layer), ("position", position)):
        if not isinstance(value, numbers.Integral) or isinstance(value, bool):
            raise JacspecTypeError(f"jacspec.jacobian(): {name} takes an int, and {value!r} was given.")
    if not isinstance(component, str):
        raise JacspecTypeError(f"jacspec.jacobian(): component takes one name, and {component!r} was given.")
    if decoder_input not in DecoderInput.__members__:
        raise JacspecError(f"decoder_input={decoder_input!r} is not known. Accepted: shifted, start.")
    given = read_texts(text)
    if given.samples != 1:
        raise JacspecTypeError(f"jacspec.jacobian() takes one text, and {given.samples} were given.")
    opened = load_model(model, tokenizer=tokenizer, precision=precision)
    (ids,) = given.tokens or tokenize(opened.tokenizer, given.texts)
    if not -len(ids) <= position < len(ids):
        raise JacspecError(f"position={position} is not in the text, which has {len(ids)} tokens.")
    ids = ids[: position % len(ids) + 1]
    check_tokens([ids], positions=opened.spec.positions, vocab=opened.spec.vocab)
    return jacobian_operator(opened, ids, layer=layer, component=component, decoder_input=decoder_input)


def write_report(run: Run) -> None:
    """Draw the figures of a finished run and write its page."""
    report.write_report(Run(run.folder))


def compute_spectra(
    model: Checkpoint,
    texts: Sequence[str],
    *,
    components: Sequence[str] = ("attn", "mlp"),
    metrics: Sequence[str] = PAPER_METRICS,
    layers: Sequence[int] | None = None,
    max_tokens: int = 100,
    top_k: int = 10,
    engine: str = "auto",
    memory_gib: float = 1.0,
    decoder_input: str = "shifted",
    tolerance: float = 1e-5,
    seed: int = 0,
    linearity: Sequence[str] = (),
) -> "xarray.Dataset":
    r"""Compute the singular values of $J = \partial f / \partial x$ at the last token of each text, and metrics.

    **Arguments:** `texts`, one sample each, cut to `max_tokens` tokens; `components`, of `attn`, `mlp` and
    `cross` (every stack of an encoder-decoder model) or full names as `decoder.attn`; `metrics`, names in
    `jacspec.spectra.metrics.METRICS`, or `full`; `layers`, by default all, from 0, below 0 counted from the last;
    `decoder_input`, what a decoder is fed (`corpus.decoder_batch`);
    `engine`, `auto` or a row of `jacspec.jacobians.solvers.ENGINES`, `lanczos` with its relative `tolerance` and the
    `seed` of its start vectors; `linearity`, directions of `jacspec.jacobians.linearity.RADIUS` along which it is
    measured how far the Jacobian holds.

    **Returns:** an xarray Dataset: `singular_values` (layer, component, sample, k) and a variable a metric, radius of
    linearity and curvature (layer, component, sample), with the errors behind radii by `epsilon`,
    computed in the precision that the model was loaded with.

    **Raises:** `JacspecError` for unknown names, a text without tokens, or values that are not finite.
    """
    names, full_names = choose_metrics(metrics), choose_components(components, model.spec)
    if decoder_input not in DecoderInput.__members__:
        raise JacspecError(f"decoder_input={decoder_input!r} is not known. Accepted: shifted, start.")
    if not texts:
        raise JacspecError("compute_spectra needs at least one text; no texts were given.")
    tokens = encode(model.encoder, texts, max_tokens=max_tokens)
    if empty := [index for index, ids in enumerate(tokens) if not ids]:
        raise JacspecError(f"Each text needs at least one token; those numbered {empty} have none.")
    with numerics(str(model.dtype)):
        chosen = choose_engine(engine, names, model.spec)
        wanted, along = model.spec.choose_layers(layers), check_directions(linearity)
        plan = Plan(full_names, names, chosen, top_k, decoder_input, tolerance, seed, layers=wanted, linearity=along)
        batches = prepare_batches(model, tokens, memory_gib=memory_gib, engine=chosen)
        results = stream_layers(model, batches, plan)
        return to_dataset(list(results), plan.columns, [len(ids) for ids in tokens])
