"""The values that travel between rooms, and the glossary of their axes.

| axis       | meaning                                                             |
|------------|---------------------------------------------------------------------|
| `layer`    | transformer blocks, from 0                                          |
| `sample`   | sentences, numbered in corpus order                                 |
| `token`    | positions in a sample, padding at the end                           |
| `d_model`  | width of the residual stream                                        |
| `head`     | query heads                                                         |
| `kv_head`  | key and value heads; `group` query heads share one                  |
| `d_head`   | width of a head                                                     |
| `d_ff`     | hidden units of the MLP                                             |
| `vocab`    | token ids                                                           |
| `m`, `n`   | outputs and inputs of a matrix; `k = min(m, n)` singular values     |

Matrices act on columns, `y = A x`, so a weight is `(out, in)`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

Key = tuple[str | int | float | None, ...]
"""Which row of a run it is, one value a key column."""


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


class LayerResult(NamedTuple):
    """What one block gave: by component, the singular values and, by metric, one value a sample.

    `number` counts all blocks in the order of the stream, `layer` those of the block's own stack; they differ in
    the decoder of an encoder-decoder model only. `diagnostics` hold, by component, what the engine says of its own
    accuracy: `error_bound` (sample, k), `steps` and `converged` (sample), and `audit_deviation`, one value an
    audited sample. `vectors` are, by component and name, directions of the residual stream, where a task keeps any.
    `reasons` say, by component, why values of a sample are missing (NaN), and are empty where none is.
    """

    number: int
    layer: int
    singular_values: Mapping[str, Float[np.ndarray, "sample k"]]
    metrics: Mapping[str, Mapping[str, Float[np.ndarray, " sample"]]]
    diagnostics: Mapping[str, Mapping[str, np.ndarray]] = {}
    vectors: Mapping[str, Mapping[str, Float[np.ndarray, "sample d_model"]]] = {}
    reasons: Mapping[str, np.ndarray] = {}


class Row(NamedTuple):
    """What one matrix or experiment of a run gave: a row of `metrics.csv`, and the arrays behind it.

    `number` is its place in the run, `key` which it is, one value a key column of the run, None where it has none;
    `values` are its numbers, NaN where there is none; `arrays` have one axis each, and all rows of a run have the same
    ones. `reason` says why values are missing, and is empty where none is.
    """

    number: int
    key: Key
    values: Mapping[str, float]
    arrays: Mapping[str, Float[np.ndarray, "..."]] = {}
    reason: str = ""
