r"""`task=heads`: spectra of W_QK and W_OV of every attention head, beside products of Gaussian factors.

$W_{QK} = W_Q^\top W_K$ and $W_{OV} = W_O W_V$ are d_model × d_model of rank d_head at most and are never formed whole.
What stands between the factors or beside them is left out: rotations of rotary models, query–key norms, biases, the
scale 1/√d_head.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from rich.console import Console

from jacspec.axes import Row
from jacspec.backend import numerics
from jacspec.config import Config
from jacspec.errors import JacspecError
from jacspec.models.block import Block
from jacspec.models.checkpoint import Checkpoint
from jacspec.runs.rows import matrix_layout, matrix_row
from jacspec.spectra.metrics import compute_metrics
from jacspec.spectra.svd import singular_values
from jacspec.studies.heads import HEADS, HeadsOptions
from jacspec.studies.inputs import Inputs
from jacspec.studies.provenance import describe_checkpoint
from jacspec.studies.run import run_rows
from jacspec.studies.work import RowWork

ROW_BLOCK = 128
"""Rows of a product that are in memory at once for its moments."""


class HeadProducts(NamedTuple):
    """One kind of product of every query head of a block: spectra, and moments of its d_model² elements.

    `moments`: mean, standard deviation, skewness, excess kurtosis.
    """

    sigma: Float[np.ndarray, "head d_head"]
    moments: Float[np.ndarray, "head 4"]


def head_products(block: Block) -> dict[str, HeadProducts]:
    r"""Compute `qk` and `ov` of every query head of a block.

    With $W_Q^\top = Q_1 R_1$, $W_K^\top = Q_2 R_2$ the singular values of $W_Q^\top W_K$ are those of $R_1 R_2^\top$:
    O(d_model · d_head²) a head. Query heads that share a key or value head (GQA) share its factor. Moments of order
    3 and 4 do not factor cheaply: `ROW_BLOCK` rows of a product are made at a time, O(d_model² · d_head) a head.
    """
    own = block.attn.spec
    left, right = _factors(block)
    found = {}
    for name in left:
        small = _reduced(left[name], right[name])
        sigma = np.asarray(singular_values(small.reshape(own.heads, own.d_head, own.d_head)))
        found[name] = HeadProducts(sigma, np.asarray(_moments(left[name], right[name])).reshape(own.heads, 4))
    return found


def _factors(block: Block) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the factors of each product: (kv_head group d_head d_model) on the left, (kv_head d_head d_model)."""
    own = block.attn.spec
    d_model = block.spec.d_model
    query = block.attn.q.weight[...].reshape(own.kv_heads, own.group, own.d_head, d_model)
    # W_O (out, in) reads the heads along its inputs.
    output = block.attn.o.weight[...].T.reshape(own.kv_heads, own.group, own.d_head, d_model)
    key, value = (part.weight[...].reshape(own.kv_heads, own.d_head, d_model) for part in (block.attn.k, block.attn.v))
    return {"qk": query, "ov": output}, {"qk": key, "ov": value}


@jax.jit
def _reduced(
    left: Float[Array, "kv_head group d_head d_model"], right: Float[Array, "kv_head d_head d_model"]
) -> Float[Array, "kv_head group d_head d_head"]:
    """Return matrices of d_head² that have the products' singular values."""
    first = jnp.linalg.qr(jnp.swapaxes(left, -1, -2), mode="r")
    second = jnp.linalg.qr(jnp.swapaxes(right, -1, -2), mode="r")
    # k: kv head, g: query head of it
    return jnp.einsum("kgab,kcb->kgac", first, second)


@jax.jit
def _moments(
    left: Float[Array, "kv_head group d_head d_model"], right: Float[Array, "kv_head d_head d_model"]
) -> Float[Array, "kv_head group 4"]:
    d_head, d_model = right.shape[1:]
    padding = -d_model % ROW_BLOCK

    def head(factors: tuple[Array, Array]) -> Array:
        one, other = factors
        rows = jnp.pad(one, [(0, 0), (0, padding)]).reshape(d_head, -1, ROW_BLOCK)
        mean = jnp.mean(one, axis=1) @ jnp.mean(other, axis=1)
        counts = (jnp.arange(d_model + padding) < d_model).reshape(-1, ROW_BLOCK)

        def powers(part: tuple[Array, Array]) -> Array:
            row, there = part
            away = jnp.where(there[:, None], row.T @ other - mean, 0)
            return jnp.stack([jnp.sum(away**power) for power in (2, 3, 4)]) / (d_model * d_model)

        second, third, fourth = jnp.sum(jax.lax.map(powers, (jnp.moveaxis(rows, 1, 0), counts)), axis=0)
        safe = jnp.where(second > 0, second, jnp.nan)
        return jnp.stack([mean, jnp.sqrt(second), third / safe**1.5, fourth / safe**2 - 3])

    kv_heads, group = left.shape[:2]
    repeated = jnp.broadcast_to(right[:, None], left.shape).reshape(-1, d_head, d_model)
    found = jax.lax.map(head, (left.reshape(-1, d_head, d_model), repeated))
    return found.reshape(kv_heads, group, 4)


def gaussian_baseline(d_model: int, d_head: int, *, draws: int, seed: int) -> Float[np.ndarray, "draw d_head"]:
    """Draw singular values of products of two Gaussian factors, whose elements have variance 1.

    The variance of an element of the product of factors with unit variance is d_head.
    """
    keys = jax.random.split(jax.random.key(seed), (draws, 2))

    def draw(pair: Array) -> Array:
        left, right = (jax.random.normal(key, (d_head, d_model)) for key in (pair[0], pair[1]))
        return _reduced(left[None, None], right[None])[0, 0]

    return np.asarray(singular_values(jax.lax.map(draw, keys))) / d_head**0.5


def product_edges(d_model: int, d_head: int) -> tuple[float, float]:
    r"""Return the edges of λ of such products at mean 1, as both sizes grow: free probability.

    Each Gram matrix has the S-transform $1/(1 + cz)$, $c$ = d_head/d_model, their product its square; the edges are
    $\frac{(1+z)(1+cz)^2}{z}$ where its derivative is zero, $2cz^2 + cz - 1 = 0$ (Voiculescu 1987).
    """
    c = d_head / d_model
    root = (c**2 + 8 * c) ** 0.5
    places = (-c - root) / (4 * c), (-c + root) / (4 * c)
    low, high = ((1 + z) * (1 + c * z) ** 2 / z for z in places)
    # With c = 1 the spectrum reaches to zero.
    return max(low, 0.0), high


def product_npr(d_model: int, d_head: int) -> float:
    r"""Return (E Σλ)² / (d_head E Σλ²), the normalised participation ratio of λ that chance gives.

    Exact at every size, from $E[A B A] = n^2 B + n B^\top + n\,\mathrm{tr}(B)\,I$ of a Wishart matrix A of n
    degrees of freedom; 1/(1 + 2c) as both sizes grow. (The mean of the ratio itself differs by O(1/(n d_head)).)
    """
    n, p = d_model, d_head
    return n * n / ((n + 1) * (n + p + 1) + n * p + 2)


SPECTRAL_METRICS = ("normalized_participation_ratio", "sigma_participation_ratio", "spectral_entropy", "effective_rank")
"""Rows of `METRICS` that columns of heads come from."""


def head_metrics(sigma: Float[np.ndarray, "head d_head"]) -> dict[str, Float[np.ndarray, " head"]]:
    """Compute the rows of `HEADS` that come from singular values, in float64; NaN where a head is all zero."""
    sigma = sigma.astype(np.float64)
    lam, d_head = sigma**2, sigma.shape[1]
    whole = sigma[:, 0] > 0
    with numerics("float64"):
        shared = compute_metrics(SPECTRAL_METRICS, jnp.asarray(sigma), shape=(d_head, d_head))
    table = {name: np.asarray(values) for name, values in shared.items()}
    full_rank = sigma[:, -1] > sigma[:, 0] * d_head * float(np.finfo(np.float32).eps)
    with np.errstate(divide="ignore", invalid="ignore"):
        kappa = np.where(full_rank, sigma[:, 0] / sigma[:, -1], np.nan)
    found = {
        "lambda_0": lam[:, 0],
        "lambda_sum": lam.sum(axis=1),
        "lambda_square_sum": np.square(lam).sum(axis=1),
        "npr_lambda": table["normalized_participation_ratio"],
        "npr_sigma": table["sigma_participation_ratio"] / d_head,
        "spectral_entropy": table["spectral_entropy"],
        "effective_rank": table["effective_rank"],
        "kappa_sigma": kappa,
        "kappa_lambda": np.square(kappa),
    }
    return {name: np.where(whole, values, np.nan) for name, values in found.items()}


MOMENTS = ("element_mean", "element_std", "element_skewness", "element_kurtosis")


def run_heads(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Compute the spectra of all attention heads into `folder`, or resume what `config.resume` holds."""
    options = config.own(HeadsOptions)
    if options.draws < 2:
        raise JacspecError(f"heads.draws={options.draws} gives no spread. Type heads.draws=N with N of 2 or more.")
    with numerics(config.precision.value):
        run_rows(config, folder, console, inputs, lambda: _prepare(config, inputs))


def _prepare(config: Config, inputs: Inputs) -> RowWork:
    options = config.own(HeadsOptions)
    checkpoint = inputs.checkpoint()
    chosen = inputs.layers(checkpoint.spec)
    own = checkpoint.spec.blocks[0].attention
    if own.d_head > checkpoint.spec.d_model:
        raise JacspecError(
            f"The heads are wider ({own.d_head}) than the model ({checkpoint.spec.d_model}): their products have full "
            "rank, for which there is no baseline here. Type task=weights for q, k, v and o themselves."
        )
    baseline = _baseline(checkpoint.spec.d_model, own.d_head, options.draws, config.seed)

    def stream(done: Mapping[int, Row]) -> Iterator[Sequence[Row]]:
        number = 0
        for place, spec in enumerate(checkpoint.spec.blocks):
            numbers = range(number, number + 2 * spec.attention.heads)
            number = numbers.stop
            wanted = chosen is None or checkpoint.spec.layer(place) in chosen
            if wanted and not all(each in done for each in numbers):
                yield list(_results(checkpoint, place, numbers))

    identity, layout = {"checkpoint": describe_checkpoint(checkpoint)}, matrix_layout(tuple(HEADS))
    return RowWork(layout, identity, {"baseline": baseline}, stream, "matrices", learnt={"left_out": {}})


def _results(checkpoint: Checkpoint, place: int, numbers: Sequence[int]) -> Iterator[Row]:
    """Make the rows of one block: its heads' W_QK, then their W_OV."""
    stack = checkpoint.spec.blocks[place].stack
    layer, d_model = checkpoint.spec.layer(place), checkpoint.spec.d_model
    found = head_products(checkpoint.block(place))
    free = iter(numbers)
    for kind, products in found.items():
        role = f"{stack}.{kind}" if stack else kind
        columns = _columns(products)
        for head, sigma in enumerate(products.sigma):
            metrics = {name: float(values[head]) for name, values in columns.items()}
            reason = "" if sigma[0] > 0 else "all zero"
            if not reason and not np.isfinite(metrics["kappa_sigma"]):
                reason = "below full rank: no condition number"
            name = f"block {place} head {head} {kind}"
            yield matrix_row(next(free), (layer, role, head, name), (d_model, d_model), sigma, metrics, reason)


def _columns(products: HeadProducts) -> dict[str, np.ndarray]:
    moments = dict(zip(MOMENTS, products.moments.astype(np.float64).T, strict=True))
    return {**head_metrics(products.sigma), **moments}


def _baseline(d_model: int, d_head: int, draws: int, seed: int) -> dict[str, Any]:
    """Sum up what Gaussian factors give: quantities that the scale of the factors does not change."""
    sigma = gaussian_baseline(d_model, d_head, draws=draws, seed=seed)
    drawn = head_metrics(sigma)
    free = ("npr_lambda", "npr_sigma", "spectral_entropy", "effective_rank", "kappa_sigma", "kappa_lambda")
    return {
        "draws": draws,
        "metrics": {
            name: {"mean": float(np.nanmean(drawn[name])), "sd": float(np.nanstd(drawn[name], ddof=1))} for name in free
        },
        "edges": list(product_edges(d_model, d_head)),
        "npr_lambda, exact": product_npr(d_model, d_head),
        "median sigma": np.median(sigma / np.sqrt(np.square(sigma).mean(axis=1, keepdims=True)), axis=0).tolist(),
    }
