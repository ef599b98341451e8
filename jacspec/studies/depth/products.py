r"""Through depth: the last token's Jacobian from one layer to another, as a product that is never formed.

With $B_l$ the block of layer l at the last token, everything it reads of other tokens held fixed, and
$x_{l+1} = B_l(x_l)$ the token's own path,

$$J_{a \to l} = \frac{\partial B_l}{\partial x_l} \cdots \frac{\partial B_{a+1}}{\partial x_{a+1}}
\frac{\partial B_a}{\partial x_a}.$$

In a causal stack no other token reads the last one, so this is the whole derivative of its stream after layer l with
respect to its stream before layer a. In an encoder the others read it and hand the change back in later layers: those
ways are left out. Left out everywhere is what a change of another token does to the last.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jacspec.axes import LayerResult
from jacspec.errors import JacspecError
from jacspec.jacobians.audit import audit_top, draw_samples, rows_to_audit
from jacspec.jacobians.bounds import Bases
from jacspec.jacobians.branches import SUBLAYERS, Branch, Point, bind, bind_sublayer, sublayers_of
from jacspec.jacobians.dense import jacobian_at
from jacspec.jacobians.devices import replicate, shard_like
from jacspec.jacobians.engine import Part, count_samples, gather, make_part, measure, memory_budget
from jacspec.jacobians.lanczos import TOP, decompose_by_steps, grow_left, grow_right, start_vectors
from jacspec.jacobians.solvers import top_spectra
from jacspec.jacobians.streaming import Stream, Visit, pass_through, walk
from jacspec.jacobians.undefined import undefined_metrics
from jacspec.models.block import Block, BlockSpec, ModelSpec
from jacspec.models.checkpoint import Checkpoint
from jacspec.models.modules import module_template
from jacspec.samples import PaddedBatch
from jacspec.spectra.eigenvalues import normal_part
from jacspec.spectra.metrics import compute_metrics
from jacspec.spectra.svd import singular_values

PATH, PREFIX, GROWTHS = "path", "lyapunov_", ("finite_time_1", "finite_time_2")
DENSE = ("cumulative_effective_rank", "normal_finite_time_1", "nonnormal_growth")
NOT_FORMED = "the product is formed of the samples that depth.dense draws"
NO_CROSS = "no cross-attention in this stack"
LOST_DIRECTIONS = "a direction that a block takes to zero: its exponent is −∞"


class DepthPlan(NamedTuple):
    """What is computed through depth: from the input of layer `first` to the output of each layer up to `last`.

    `exponents` Lyapunov exponents a sample; `parts`, the sublayers that they are split among, in their order in a
    block, none where blocks are parallel; `dense`, of how many samples, drawn, the product itself is formed;
    `memory_gib`, what blocks that are used again may take; the rest as in `engine.Plan`.
    """

    metric_names: Sequence[str]
    first: int
    last: int
    exponents: int
    memory_gib: float = 1.0
    decoder_input: str = "shifted"
    tolerance: float = 1e-5
    seed: int = 0
    audit: int = 0
    samples: int | None = None
    parts: tuple[str, ...] = ()
    dense: int = 0

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all values a sample: the metrics of the spectrum, the exponents and their parts, what is dense."""
        parts = (name for part in self.parts for name in self.part_columns(part))
        return (*self.metric_names, *GROWTHS, *self.by_columns, *parts, *(DENSE if self.dense else ()))

    @property
    def by_columns(self) -> tuple[str, ...]:
        """Names of the Lyapunov exponents."""
        return tuple(f"{PREFIX}{number}" for number in range(1, self.exponents + 1))

    def part_columns(self, part: str) -> tuple[str, ...]:
        """Names of what a sublayer adds to each of them."""
        return tuple(f"{PREFIX}{part}_{number}" for number in range(1, self.exponents + 1))


def choose_layers(first: int, last: int | None, exponents: int, spec: ModelSpec) -> tuple[int, int]:
    """Check a choice of layers and of a number of exponents against a model; `last` is the model's own where None.

    **Raises:** `JacspecError` where a stack has not these layers, or d_model is below the exponents asked for.
    """
    layers = [sum(block.stack == stack for block in spec.blocks) for stack in spec.stacks]
    whole = min(layers) - 1
    chosen = whole if last is None else last
    if not 0 <= first <= chosen <= whole:
        raise JacspecError(
            f"depth.first={first} depth.last={last} is no range of this model's layers 0 to {whole}. "
            f"Type depth.first=0 depth.last={whole}, or a part of it."
        )
    if not 1 <= exponents <= spec.d_model:
        raise JacspecError(
            f"depth.exponents={exponents} is not between 1 and the width of this model, {spec.d_model}. "
            "Type depth.exponents=4."
        )
    return first, chosen


def path_blocks(spec: ModelSpec, first: int, last: int) -> list[int]:
    """List the numbers of the blocks between two layers, of every stack."""
    return [number for number in range(len(spec.blocks)) if first <= spec.layer(number) <= last]


def path_name(block: BlockSpec) -> str:
    """Name the component: `path`, or `encoder.path` in an encoder-decoder model."""
    return f"{block.stack}.{PATH}" if block.stack else PATH


def choose_parts(spec: ModelSpec) -> tuple[str, ...]:
    """List the sublayers that blocks are products of; none where attention and MLP act at once in any."""
    if any(block.parallel for block in spec.blocks):
        return ()
    return tuple(name for name in SUBLAYERS if name != "cross" or any(block.cross for block in spec.blocks))


class _State(NamedTuple):
    """A batch on its way from layer `first`: where each block on it is differentiated, by its number.

    `frame` are orthonormal columns carried through the product so far, `logs`, by sublayer, the sums of what QR took
    out of them behind it; `products`, by row, the product itself where it is formed, and `normal` that of the blocks'
    normal parts.
    """

    padded: PaddedBatch
    points: dict[int, Point]
    frame: Float[Array, "row exponent d_model"]
    logs: dict[str, Float[Array | np.ndarray, "row exponent"]]
    products: dict[int, Float[Array, "1 d_model d_model"]]
    normal: dict[int, Float[np.ndarray, "d_model d_model"]]


def stream_depth(
    checkpoint: Checkpoint,
    batches: Sequence[PaddedBatch],
    plan: DepthPlan,
    *,
    done: Mapping[int, LayerResult] | None = None,
    advance: Callable[[int, int], None] = lambda number, samples: None,
) -> Iterator[LayerResult]:
    r"""Yield, for each layer l of the plan, the top of the spectrum of $J_{a \to l}$ and the exponents up to there.

    The singular values come from Lanczos on products with every block and its transpose in turn. The exponents are
    $\frac{1}{l - a + 1} \sum_s \ln |R^{(s)}_{ii}|$, where random orthonormal columns are multiplied by one block
    after another and $Q^{(s)} R^{(s)}$ is what QR makes of them (Benettin et al. 1980): with depth they go to the
    Lyapunov exponents, at finite depth they depend on the columns drawn. QR follows every sublayer,
    $I + J_\mathrm{attn}$ and then $I + J_\mathrm{mlp}$: the R of a block is the product of theirs, so that each
    exponent is the sum of what attention and MLP add to it.

    Of `plan.dense` samples the product itself is formed, in the working precision: its effective rank, in which values
    below rounding of σ₁ hardly count; and σ₁ of the product of all blocks' normal parts (`normal_part`), which have
    their eigenvalues: what growth is left without non-normality.

    A layer's cost grows with its distance from `first`: each of its steps goes through all blocks in between and back.
    In memory are the hidden states, for every sample the keys and values of all these layers (sample, layer, token,
    kv_heads · d_head, twice), and as many blocks as `plan.memory_gib` holds; others are read again.

    **Arguments:** `done` and `advance` as in `engine.stream_layers`.

    **Raises:** `JacspecError` where a value is not finite or an audit fails, naming layer, component and sample.
    """
    done = done or {}
    spec = checkpoint.spec
    working = path_blocks(spec, plan.first, plan.last)
    if all(number in done for number in working):
        yield from (done[number] for number in working)
        return
    checkpoint = _keeping_blocks(checkpoint, plan.memory_gib, batches[0])
    total = count_samples(batches)
    chosen = draw_samples(plan.audit, plan.samples or total, [plan.seed])
    dense = draw_samples(plan.dense, plan.samples or total, [plan.seed, 1])
    states: list[_State] = []

    def visit(number: int, block: Block, streams: list[Stream]) -> Visit:
        nonlocal states
        if number not in working:
            return Visit(None)
        if spec.layer(number) == plan.first:
            states = [_start(padded, spec.d_model, checkpoint.dtype, plan) for padded in batches]
        left = []
        for place, stream in enumerate(streams):
            own = tuple(part for part in plan.parts if part in sublayers_of(block.spec))
            branches, after = pass_through(block, stream, ("block", *own), last=number == working[-1])
            states[place] = _advance(states[place], number, branches, own, chosen | dense, dense)
            left.append(after)
        place = working.index(number)
        if number in done:
            advance(place, total)
            return Visit(done[number], left)
        parts = []
        for state in states:
            parts.append(_measure(checkpoint.block, state, number, plan, path_name(block.spec), chosen, dense))
            advance(place, len(state.padded.samples))
        return Visit(gather(number, spec.layer(number), batches, {path_name(block.spec): parts}), left)

    yield from walk(checkpoint, batches, visit, last=working[-1], decoder_input=plan.decoder_input)


def _keeping_blocks(checkpoint: Checkpoint, memory_gib: float, padded: PaddedBatch) -> Checkpoint:
    """Make a checkpoint that keeps the blocks used last, as many as the memory budget holds."""
    leaves = jax.tree.leaves(module_template(checkpoint.spec, "block", 0))
    size = sum(leaf.size for leaf in leaves) * checkpoint.dtype.itemsize

    @functools.lru_cache(max(int(memory_budget(memory_gib) // size), 1))
    def kept(number: int) -> Block:
        return replicate(checkpoint.block(number), padded.batch.tokens)

    return dataclasses.replace(
        checkpoint, make=lambda part, number: kept(number) if part == "block" else checkpoint.make(part, number)
    )


def _start(padded: PaddedBatch, d_model: int, dtype: jnp.dtype, plan: DepthPlan) -> _State:
    # The first start vector of a sample is Lanczos's: these are drawn apart.
    key = jax.random.fold_in(jax.random.key(plan.seed), 1)
    frame = _draw_frames(key, padded.row_samples, plan.exponents, d_model, jnp.dtype(dtype))
    return _State(padded, {}, shard_like(frame, padded.batch.tokens), {}, {}, {})


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _draw_frames(
    key: Any, samples: Int[Array, " row"], exponents: int, d_model: int, dtype: jnp.dtype
) -> Float[Array, "row exponent d_model"]:
    def draw(sample: Array) -> Array:
        columns = jax.random.normal(jax.random.fold_in(key, sample), (d_model, exponents), dtype)
        return jnp.linalg.qr(columns)[0].T

    return jax.vmap(draw)(samples)


def _advance(
    state: _State, number: int, branches: Mapping[str, Branch], parts: Sequence[str], formed: set[int], dense: set[int]
) -> _State:
    """Take one block further, given its branches and the names of its sublayers, none where they act at once."""
    branch, frame, logs = branches["block"], state.frame, dict(state.logs)
    steps = {part: bind_sublayer(branch.f.args[0], part, branches[part].point) for part in parts}
    for part, sublayer in (steps or {"block": branch}).items():
        frame, added = _carry(sublayer, frame)
        logs[part] = logs[part] + added if part in logs else added
    products, normal = {}, {}
    for row, sample in enumerate(state.padded.samples):
        if sample in formed:
            products[row] = matrix = jacobian_at(branch, np.asarray(row, np.int32))
            if row in state.products:
                products[row] = _times(matrix, state.products[row])
            if sample in dense:
                own = normal_part(np.asarray(matrix[0], np.float64))
                normal[row] = own @ state.normal[row] if row in state.normal else own
    return _State(state.padded, {**state.points, number: branch.point}, frame, logs, products, normal)


@jax.jit
def _times(left: Float[Array, "1 m n"], right: Float[Array, "1 n k"]) -> Float[Array, "1 m k"]:
    return left @ right


@jax.jit
def _carry(
    branch: Branch, frame: Float[Array, "row exponent d_model"]
) -> tuple[Float[Array, "row exponent d_model"], Float[Array, "row exponent"]]:
    """Multiply the columns by a Jacobian, make them orthonormal again, and give the logarithms of what that took."""
    q, r = jnp.linalg.qr(jnp.swapaxes(_pushed(branch, frame), 1, 2))
    return jnp.swapaxes(q, 1, 2), jnp.log(jnp.abs(jnp.diagonal(r, axis1=1, axis2=2)))


def _measure(
    blocks: Callable[[int], Block],
    state: _State,
    number: int,
    plan: DepthPlan,
    component: str,
    chosen: set[int],
    dense: set[int],
) -> Part:
    """Compute the top of the spectrum of the product so far, the exponents, and what is dense."""
    padded, d_model = state.padded, state.frame.shape[2]
    starts = shard_like(start_vectors(padded.row_samples, d_model, state.frame.dtype, seed=plan.seed), state.frame)
    extend = functools.partial(_extend, blocks, state.points)
    spectra = top_spectra(decompose_by_steps(extend, starts, k=min(TOP, d_model), tolerance=plan.tolerance))
    values: dict[str, Any] = dict(measure(spectra, starts, plan.metric_names, top_k=TOP))
    logs = {part: np.asarray(added) / len(state.points) for part, added in state.logs.items()}
    values |= dict(zip(plan.by_columns, np.sum([*logs.values()], axis=0).T, strict=True))
    for part in plan.parts:
        added = logs.get(part, np.full_like(next(iter(logs.values())), np.nan))
        values |= dict(zip(plan.part_columns(part), added.T, strict=True))
    with np.errstate(divide="ignore"):
        growths = np.log(np.asarray(spectra.singular_values, np.float64)) / len(state.points)
    values |= dict(zip(GROWTHS, growths.T, strict=True))
    audited = [
        audit_top(
            np.asarray(spectra.singular_values[row]),
            state.products[row],
            f"from layer {plan.first} through block {number}, component {component}, sample {padded.samples[row]}",
            plan.tolerance,
            ways_on="precision=float64",
        )
        for row in rows_to_audit(padded, chosen, spectra)
    ]
    undefined = undefined_metrics(plan.metric_names, *map(np.asarray, (spectra.singular_values, starts)))
    undefined |= {
        name: np.where(np.asarray(values[name]) == -np.inf, LOST_DIRECTIONS, "")
        for name in (
            *GROWTHS,
            *plan.by_columns,
            *(name for part in plan.parts if part in logs for name in plan.part_columns(part)),
        )
    }
    rows = len(starts)
    for part in {*plan.parts} - {*logs}:
        undefined |= dict.fromkeys(plan.part_columns(part), np.full(rows, NO_CROSS))
    if plan.dense:
        values |= _dense_values(state, rows, values["finite_time_1"])
        formed = [row in state.normal for row in range(rows)]
        undefined |= dict.fromkeys(DENSE, np.where(formed, "", NOT_FORMED))
    return make_part(padded, spectra, values, audited, undefined)


def _dense_values(state: _State, rows: int, growth: Float[np.ndarray, " row"]) -> dict[str, Float[np.ndarray, " row"]]:
    """Compute the columns `DENSE` of the samples whose product is formed."""
    values = {name: np.full(rows, np.nan) for name in DENSE}
    for row, normal in state.normal.items():
        sigma = singular_values(state.products[row])
        shape = (sigma.shape[1], sigma.shape[1])
        rank = compute_metrics(("effective_rank",), sigma, shape=shape)["effective_rank"]
        found = np.log(np.linalg.norm(normal, 2)) / len(state.points)
        for name, value in zip(DENSE, (float(rank[0]), found, growth[row] - found), strict=True):
            values[name][row] = value
    return values


def _extend(blocks: Callable[[int], Block], points: Mapping[int, Point], bases: Bases, begin: int, end: int) -> Bases:
    """Take steps of Lanczos with the product of all blocks."""
    for index in range(begin, end):
        vectors = _row(bases.right, index)
        for number, point in points.items():
            vectors = _push(bind(blocks(number), "block", point), vectors)
        bases = _grow_left(bases, vectors, index)
        vectors = _row(bases.left, index)
        for number, point in reversed(list(points.items())):
            vectors = _pull(bind(blocks(number), "block", point), vectors)
        bases = _grow_right(bases, vectors, index)
    return bases


@jax.jit
def _row(basis: Float[Array, "row capacity d_model"], index: Array | int) -> Float[Array, "row d_model"]:
    return basis[:, index]


@jax.jit
def _grow_left(bases: Bases, images: Float[Array, "row d_model"], index: Array | int) -> Bases:
    return grow_left(bases, images, index)


@jax.jit
def _grow_right(bases: Bases, images: Float[Array, "row d_model"], index: Array | int) -> Bases:
    return grow_right(bases, images, index)


@jax.jit
def _push(branch: Branch, vectors: Float[Array, "row d_model"]) -> Float[Array, "row d_model"]:
    """Multiply a vector a sample by a block's Jacobian."""
    return _pushed(branch, vectors[:, None])[:, 0]


def _pushed(branch: Branch, vectors: Float[Array, "row column d_model"]) -> Float[Array, "row column d_model"]:
    def push(point: Point, vectors: Array) -> Array:
        return jax.vmap(Branch(branch.f, point).products()[0])(vectors)

    return jax.vmap(push)(branch.point, vectors)


@jax.jit
def _pull(branch: Branch, vectors: Float[Array, "row d_model"]) -> Float[Array, "row d_model"]:
    """Multiply a vector a sample by the transpose of a block's Jacobian."""
    return branch.products()[1](vectors)
