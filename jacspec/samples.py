"""The samples on their way through a model: padded, packed, and what the last token sees of the others.

The names of axes are in `axes.py`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int


class Batch(NamedTuple):
    """Samples padded to one length; `tokens` are ids, `lengths` how many of them count."""

    tokens: Int[Array | np.ndarray, "sample token"]
    lengths: Int[Array | np.ndarray, " sample"]


class Packing(NamedTuple):
    """Where samples lie in a pack: their tokens one after the other, so that nothing but attention knows of samples.

    `lengths` are the samples' tokens that count; `places`, where in the pack each position of each sample is, beyond
    its length that of its last; `rows`, which sample and position each place holds, as sample · tokens + position.
    Leading axes, as that of the packs of a batch, are vmapped over.
    """

    lengths: Int[Array, "*pack sample"]
    places: Int[Array, "*pack sample token"]
    rows: Int[Array, "*pack place"]

    def split(self, packed: Float[Array, "place *width"]) -> Float[Array, "sample token *width"]:
        """Take the samples of one pack apart, padded to one length."""
        return packed[self.places]

    def join(self, apart: Float[Array, "sample token *width"]) -> Float[Array, "place *width"]:
        """Put what `split` took apart together again."""
        return apart.reshape(-1, *apart.shape[2:])[self.rows]

    def last(self, packed: Float[Array, "place *width"]) -> Float[Array, "sample *width"]:
        """Take the last token of every sample of one pack."""
        return packed[self.places[:, -1]]

    def positions(self) -> Int[Array, " place"]:
        """Say at which position of its sample each place of one pack is."""
        return self.rows % self.places.shape[-1]

    def holding(self, samples: int) -> Bool[np.ndarray, "pack place"]:
        """Say which places of the packs of a batch hold a token of one of its first `samples` rows."""
        packs, slots, tokens = self.places.shape
        rows, places = np.asarray(self.rows), np.asarray(self.places).reshape(packs, -1)
        holds = np.take_along_axis(places, rows, axis=1) == np.arange(rows.shape[1])
        return holds & (np.arange(packs)[:, None] * slots + rows // tokens < samples)


class Packed(NamedTuple):
    """Token ids of the samples that go through a compiled step together: a pack for each device, all of one shape."""

    tokens: Int[Array | np.ndarray, "pack place"]
    packing: Packing


class PaddedBatch(NamedTuple):
    """Packed samples and which its rows are, pack after pack; rows beyond `len(samples)` are padding."""

    batch: Packed
    samples: list[int]

    @property
    def row_samples(self) -> Int[np.ndarray, " row"]:
        """The number of each row's sample; padding repeats the last."""
        return np.array(self.samples + self.samples[-1:] * (self.batch.packing.lengths.size - len(self.samples)))


def in_order(batches: Sequence[PaddedBatch], parts: Sequence[np.ndarray]) -> np.ndarray:
    """Put the rows of all batches in the order of the samples."""
    return np.concatenate(parts)[np.argsort(np.concatenate([padded.samples for padded in batches]))]


class Memory(NamedTuple):
    """The encoder's output for a sample, of which `length` tokens count, or for packs: what cross attention reads."""

    h: Float[Array, "*pack token d_model"]
    length: Int[Array, "*pack"] | Packing


class Prefix(NamedTuple):
    """What the last token sees of the others (or of the encoder's output), held fixed while the last token moves.

    `visible` is false for padding, for the last token itself (its own key and value move with it) and for
    tokens outside its attention window. `turn` is the rotation of the last token's position, `bias` that of its
    relative positions, where the family has them; keys are already rotated.
    """

    key: Float[Array, "kv_head token d_head"]
    value: Float[Array, "kv_head token d_head"]
    visible: Bool[Array, " token"]
    turn: Float[Array, "2 half"] | None
    bias: Float[Array, "kv_head group token"] | None
