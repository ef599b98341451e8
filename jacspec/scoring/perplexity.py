r"""How well a language model predicts a text: negative log-likelihoods by token, perplexity, standard errors.

A checkpoint is streamed: one block in memory, and the hidden states of all windows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jacspec.errors import JacspecError
from jacspec.jacobians.solvers import carry_bytes
from jacspec.jacobians.streaming import carry
from jacspec.models.block import Head
from jacspec.models.checkpoint import Checkpoint
from jacspec.samples import PaddedBatch
from jacspec.scoring.windows import Passage
from jacspec.text.corpus import check_tokens, make_batches

MAX_BATCH, MAX_ROWS = 32, 2048
"""Windows in one compiled step, and tokens whose logits are held, at most: beyond it only memory grows."""

CPU_TOKENS = 512
"""Tokens in one compiled step on a CPU: 8 to 15 windows of 512 took 1.7 times as long as one after the other."""


class Batches(NamedTuple):
    """How a passage is computed: its windows in batches, and how many tokens' logits are held at once."""

    windows: list[PaddedBatch]
    rows: int


class ChunkSums(NamedTuple):
    """Nats and tokens of each chunk of a text."""

    nats: Float[np.ndarray, " chunk"]
    tokens: Float[np.ndarray, " chunk"]


class Estimate(NamedTuple):
    """A number and its standard error over chunks; NaN where there is one chunk only."""

    value: float
    error: float


def prepare_passage(checkpoint: Checkpoint, passage: Passage, *, memory_bytes: float) -> Batches:
    """Check a passage against the model and put its windows into batches whose work arrays fit `memory_bytes`."""
    spec = checkpoint.spec
    if not checkpoint.has_head:
        raise JacspecError(
            f"{checkpoint.name} was saved without its language-model head: it predicts no token. Give a checkpoint "
            "with its head."
        )
    tokens = [window.tokens for window in passage.windows]
    check_tokens(tokens, positions=spec.positions, vocab=spec.vocab)
    itemsize = checkpoint.dtype.itemsize
    longest = max(map(len, tokens))
    size = memory_bytes // max(carry_bytes(block, longest, itemsize) for block in spec.blocks)
    if jax.default_backend() == "cpu":
        size = min(size, CPU_TOKENS // longest)
    # The logits, their exponentials and what the head makes on the way.
    rows = memory_bytes // (4 * spec.vocab * itemsize)
    batches = make_batches(tokens, size=int(min(max(size, 1), MAX_BATCH)))
    return Batches(batches, int(min(max(rows, 1), MAX_ROWS, len(passage.chunks))))


def score_tokens(checkpoint: Checkpoint, passage: Passage, batches: Batches) -> Float[np.ndarray, " token"]:
    r"""Compute $-\ln p$ of every scored token of a passage, in nats.

    In memory are one block, the hidden states (window, token, d_model), then those of the scored tokens, and the logits
    of `batches.rows` tokens.

    **Raises:** `JacspecError` where a value is not finite.
    """
    hidden: dict[int, np.ndarray] = {}
    for padded, stream in zip(batches.windows, carry(checkpoint, batches.windows), strict=True):
        left, packing = np.asarray(stream.hidden), padded.batch.packing
        for row, number in enumerate(padded.samples):
            pack, slot = divmod(row, packing.lengths.shape[1])
            hidden[number] = left[pack, packing.places[pack, slot, passage.windows[number].places]]
    scored = np.concatenate([hidden[number] for number in range(len(passage.windows))])
    targets = np.concatenate([window.targets for window in passage.windows]).astype(np.int32)
    head = checkpoint.head()
    nats = np.empty(len(targets), np.float64)
    for start in range(0, len(targets), batches.rows):
        part = slice(start, start + batches.rows)
        missing = batches.rows - len(targets[part])
        found = _nats(head, np.pad(scored[part], [(0, missing), (0, 0)]), np.pad(targets[part], (0, missing)))
        nats[part] = np.asarray(found)[: batches.rows - missing]
    if not np.isfinite(nats).all():
        token = int(np.argmin(np.isfinite(nats)))
        raise JacspecError(f"The log-likelihood of scored token {token} is not finite. Type precision=float64.")
    return nats


@jax.jit
def _nats(
    head: Head, h: Float[np.ndarray | Array, "token d_model"], targets: Int[np.ndarray | Array, " token"]
) -> Float[Array, " token"]:
    logits = head(jnp.asarray(h))
    chosen = jnp.take_along_axis(logits, jnp.asarray(targets)[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - chosen


def sum_chunks(nats: Float[np.ndarray, " token"], chunks: Int[np.ndarray, " token"]) -> ChunkSums:
    """Add up the nats of each chunk of a text."""
    return ChunkSums(np.bincount(chunks, weights=nats), np.bincount(chunks).astype(np.float64))


def mean_nats(sums: ChunkSums) -> float:
    """Average over tokens: each counts the same, in whichever chunk it is."""
    return float(sums.nats.sum() / sums.tokens.sum())


def perplexity(sums: ChunkSums) -> Estimate:
    r"""Compute $\mathrm{PPL} = \exp(\mu)$, $\mu = \sum_c s_c / \sum_c n_c$ the mean nats a token.

    The standard error is that of a ratio over $C$ chunks with $n_c$ tokens and $s_c$ nats (Cochran 1977, Sampling
    Techniques, ch. 6), carried through the exponential by the delta method:
    $\mathrm{PPL} \cdot \sqrt{\frac{C}{C-1} \sum_c (s_c - \mu n_c)^2} / \sum_c n_c$.
    """
    value, residuals = _exponential(sums)
    return Estimate(value, _ratio_error(residuals, sums.tokens))


def perplexity_change(sums: ChunkSums, before: ChunkSums) -> Estimate:
    r"""Compute $\Delta\mathrm{PPL} = \mathrm{PPL} - \mathrm{PPL}_0$ on the same text, the error paired over chunks.

    What a chunk adds to the difference is $r_c = \mathrm{PPL}(s_c - \mu n_c) - \mathrm{PPL}_0(s_{0c} - \mu_0 n_c)$,
    and the standard error $\sqrt{\frac{C}{C-1} \sum_c r_c^2} / \sum_c n_c$: a chunk that is hard before and after does
    not make the difference uncertain.
    """
    value, residuals = _exponential(sums)
    value_before, residuals_before = _exponential(before)
    return Estimate(value - value_before, _ratio_error(residuals - residuals_before, sums.tokens))


def _exponential(sums: ChunkSums) -> tuple[float, Float[np.ndarray, " chunk"]]:
    """Compute exp μ, infinite beyond float64, and what each chunk adds to it to first order, times all tokens."""
    mean = mean_nats(sums)
    with np.errstate(over="ignore", invalid="ignore"):
        value = np.exp(mean)
        return float(value), value * (sums.nats - mean * sums.tokens)


def _ratio_error(residuals: Float[np.ndarray, " chunk"], tokens: Float[np.ndarray, " chunk"]) -> float:
    count = len(residuals)
    if count < 2 or not np.isfinite(residuals).all():
        return float("nan")
    return float(np.sqrt(count / (count - 1) * np.square(residuals).sum()) / tokens.sum())
