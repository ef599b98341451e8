"""What tells attention where a token stands: rotations of queries and keys, and relative biases.

Everything here is a constant of the configuration, computed in float64 by NumPy when a step is compiled.
"""

import dataclasses
import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

ROTARY_KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
"""Rules for the frequencies of rotary embeddings, by HF's names."""


@dataclasses.dataclass(frozen=True)
class RotarySpec:
    """Rotary position embedding (Su et al. 2021): pairs of coordinates turned by position × frequency.

    The first `dim` coordinates of a head are turned. `interleaved` pairs neighbours (GPT-J), otherwise coordinate
    `i` goes with `i + dim/2`. `kind` is one of `ROTARY_KINDS`; `linear` and beyond stretch the frequencies for
    longer contexts by `factor`, with the further numbers in `parameters`, by HF's names. `context` is the length of the
    longest sample that `longrope` turns by its short factors; a longer one is turned by the long ones throughout.
    """

    dim: int
    theta: float
    interleaved: bool = False
    kind: str = "default"
    factor: float = 1.0
    parameters: tuple[tuple[str, Any], ...] = ()
    context: int | None = None

    def frequencies(self, *, long: bool = False) -> tuple[Float[np.ndarray, " half"], float]:
        """Return the angle a position adds to each pair, in radians, and what cosine and sine are scaled by.

        `long`, whether the sample is longer than `context`.
        """
        plain = self.theta ** -(np.arange(0, self.dim, 2) / self.dim)
        given = dict(self.parameters)
        if self.kind == "linear":
            return plain / self.factor, 1.0
        if self.kind == "llama3":
            return _llama3(plain, self.factor, given), 1.0
        if self.kind == "yarn":
            return self._yarn(plain, given)
        if self.kind == "longrope":
            return self._longrope(plain, given, "long_factor" if long else "short_factor")
        return plain, 1.0

    def _longrope(self, plain: np.ndarray, given: dict[str, Any], factors: str) -> tuple[np.ndarray, float]:
        """LongRoPE (Ding et al. 2024): each pair stretched by a factor of its own."""
        scale = given.get("attention_factor")
        if scale is None:
            old = given["original_max_position_embeddings"]
            scale = math.sqrt(1 + math.log(self.factor) / math.log(old)) if self.factor > 1 else 1.0
        return plain / np.asarray(given[factors], np.float64), float(scale)

    def _yarn(self, plain: np.ndarray, given: dict[str, Any]) -> tuple[np.ndarray, float]:
        """YaRN (Peng et al. 2023): slow pairs are stretched, fast ones are not, with a ramp between."""

        def dimension(rotations: float) -> float:
            turned = given["original_max_position_embeddings"] / (rotations * 2 * math.pi)
            return self.dim * math.log(turned) / (2 * math.log(self.theta))

        low, high = dimension(float(given.get("beta_fast") or 32)), dimension(float(given.get("beta_slow") or 1))
        if given.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.dim - 1)
        ramp = np.clip((np.arange(self.dim // 2) - low) / (high - low or 0.001), 0, 1)
        frequencies = plain / self.factor * ramp + plain * (1 - ramp)
        if (scale := given.get("attention_factor")) is None:
            m, m_all = given.get("mscale"), given.get("mscale_all_dim")
            scale = self._temperature(m) / self._temperature(m_all) if m and m_all else self._temperature(1.0)
        return frequencies, float(scale)

    def _temperature(self, mscale: float) -> float:
        return 0.1 * mscale * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0


def _llama3(plain: np.ndarray, factor: float, given: dict[str, Any]) -> np.ndarray:
    """Llama 3.1's rule: wavelengths beyond the old context are stretched, short ones are not, a ramp between."""
    turns = given["original_max_position_embeddings"] * plain / (2 * math.pi)
    low, high = given["low_freq_factor"], given["high_freq_factor"]
    ramp = np.clip((turns - low) / (high - low), 0, 1)
    return plain / factor * (1 - ramp) + plain * ramp


@functools.lru_cache(maxsize=64)
def _angles(spec: RotarySpec, tokens: int, *, long: bool) -> np.ndarray:
    frequencies, scale = spec.frequencies(long=long)
    angle = np.arange(tokens)[:, None] * frequencies
    return np.stack([scale * np.cos(angle), scale * np.sin(angle)])


def rotation(spec: RotarySpec, tokens: int, length: Int[Array, ""], dtype: Any) -> Float[Array, "2 token half"]:
    """Tabulate cosine and sine of each pair's angle for positions 0 to `tokens − 1` of a sample of `length` tokens."""
    short = jnp.asarray(_angles(spec, tokens, long=False), dtype)
    if spec.context is None or tokens <= spec.context:
        return short
    return jnp.where(length > spec.context, jnp.asarray(_angles(spec, tokens, long=True), dtype), short)


def rotate(
    spec: RotarySpec, x: Float[Array, "... d_head"], turn: Float[Array, "2 *token half"]
) -> Float[Array, "... d_head"]:
    """Turn vectors by their position.

    **Arguments:** `x`, its leading axes `*token` those of `turn` and then any; `turn`, from `rotation`.
    """
    between = (1,) * (x.ndim - turn.ndim + 1)
    cos, sin = (part.reshape(*part.shape[:-1], *between, part.shape[-1]) for part in turn)
    moved, rest = x[..., : spec.dim], x[..., spec.dim :]
    if spec.interleaved:
        first, second = moved[..., 0::2], moved[..., 1::2]
    else:
        first, second = jnp.split(moved, 2, axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    joined = jnp.stack(turned, axis=-1).reshape(moved.shape) if spec.interleaved else jnp.concatenate(turned, axis=-1)
    return jnp.concatenate([joined, rest], axis=-1)


@dataclasses.dataclass(frozen=True)
class RelativeBiasSpec:
    """T5's relative positions (Raffel et al. 2020): distances in buckets, each with a learned bias a head.

    Half of the buckets hold one distance each, the others grow logarithmically up to `max_distance`; in a
    bidirectional stack one half of all serves tokens behind, the other those ahead.
    """

    buckets: int
    max_distance: int
    bidirectional: bool


@functools.lru_cache(maxsize=64)
def distance_buckets(spec: RelativeBiasSpec, tokens: int) -> Int[np.ndarray, " distance"]:
    """Find the bucket of key position − query position, for −(tokens − 1) to tokens − 1.

    The logarithm is taken in float32, in HF's order of operations, so that boundaries fall where it trained them.
    """
    distance = np.arange(-(tokens - 1), tokens)
    buckets, start = spec.buckets, np.zeros_like(distance)
    if spec.bidirectional:
        buckets //= 2
        start = np.where(distance > 0, buckets, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = buckets // 2
    with np.errstate(divide="ignore"):
        logarithm = np.log(distance.astype(np.float32) / np.float32(exact))
    scaled = logarithm / np.float32(math.log(spec.max_distance / exact)) * np.float32(buckets - exact)
    far = np.where(distance < exact, 0, exact + np.where(distance < exact, 0, scaled).astype(np.int64))
    return (start + np.where(distance < exact, distance, np.minimum(far, buckets - 1))).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class AlibiSpec:
    """ALiBi (Press et al. 2022): a head's slope times the key's position, added to the scores.

    The positions of queries would add the same to all scores of a softmax. `scale` multiplies both; `rounded`, as HF's
    Falcon computes them in bfloat16.
    """

    scale: float = 1.0
    rounded: bool = False


@functools.lru_cache(maxsize=64)
def alibi_table(spec: AlibiSpec, heads: int, tokens: int) -> Float[np.ndarray, "head token"]:
    """Tabulate what is added to the scores of every head for keys at positions 0 to `tokens − 1`.

    Slopes are powers of 2^(−8/n), n the largest power of two up to `heads`; the heads beyond n take every other power
    of 2^(−8/2n).
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = 2.0 ** (-8 / power * np.arange(1, power + 1))
    more = 2.0 ** (-4 / power * np.arange(1, 1 + 2 * (heads - power), 2))
    slopes, places = np.concatenate([slopes, more])[:, None], np.arange(tokens)[None]
    if spec.rounded:
        slopes, places = slopes.astype(jnp.bfloat16), places.astype(jnp.bfloat16)
    return spec.scale * (slopes * places).astype(np.float64)
