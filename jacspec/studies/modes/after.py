r"""The second pass, when the modes of all layers are there: each Jacobian beside the next layer's modes, and words.

Consecutive Jacobians of one component are coupled as in Aubry et al. 2025 (arXiv:2407.07810): with the leading vectors
$U_2, V_2$ of the later and $S_1$ of the earlier one, $m_K = \|U_2^\top J_1 V_2 - S_1\|_F / \|S_1\|_F$. It is 0 where
the modes of the later are also those of the earlier, in the same order, and about 1 for unrelated ones. $J_1 V_2$ is
K products with $J_1$ itself: no part of it is cut off.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jacspec.axes import LayerResult
from jacspec.backend import Program
from jacspec.jacobians.branches import Branch, components_of
from jacspec.jacobians.devices import shard_like
from jacspec.jacobians.engine import count_samples, passing_programs
from jacspec.jacobians.streaming import Stream, Visit, last_tokens, pass_through, step, walk
from jacspec.jacobians.triples import alone, push
from jacspec.models.block import Block, BlockSpec
from jacspec.models.checkpoint import Checkpoint
from jacspec.runs.layers import Stored
from jacspec.samples import PaddedBatch, in_order
from jacspec.spectra.cores import map_on_cores
from jacspec.studies.modes.directions import Modes, Shared, shared_directions
from jacspec.studies.modes.lexicon import Around, WordsPlan, draw_writes, make_lexicon, surround, word_programs
from jacspec.studies.modes.measure import GROUP, OUTPUT, READS, STREAM, WRITES
from jacspec.studies.modes.through import Deep, Way, go_back, go_direct
from jacspec.studies.modes.words import Words, finish_words, read_component, write_component

Reader = Callable[[int], Stored]
Place = tuple[int, str]
"""The number of a block, and a component's full name."""


class After(NamedTuple):
    """What the second pass gives: m_K by layer and component, a value a sample; and words, where they are asked for."""

    coupled: dict[tuple[int, str], Float[np.ndarray, " sample"]]
    words: Words | None
    facts: Mapping[str, Any]


def leading_modes(result: LayerResult, stored: Stored, k: int) -> dict[str, Modes]:
    """Put the `k` leading modes of each component of a block together, as they are stored."""
    return {
        component: Modes(
            result.singular_values[component][:, :k],
            result.diagnostics[component][GROUP][:, :k],
            arrays[READS][:, :k],
            arrays[WRITES][:, :k],
        )
        for component, arrays in stored.items()
    }


def share_directions(modes: Mapping[str, Modes], side: str) -> dict[str, Shared]:
    """Find the directions that samples share, by component, of their `reads` or `writes`."""
    found = map_on_cores(lambda own: shared_directions(own.sigma, own.group, getattr(own, side)), modes.values())
    return dict(zip(modes, found, strict=True))


def pass_again(
    checkpoint: Checkpoint,
    batches: Sequence[PaddedBatch],
    results: Sequence[LayerResult],
    read: Reader,
    *,
    k: int,
    decoder_input: str,
    words: WordsPlan | None,
    deep: Deep | None = None,
) -> After:
    """Carry all samples through the model once more, the modes of two layers in memory.

    **Arguments:** `deep`, the samples by which writes are taken through later blocks; None takes them to the head.
    """
    by_number = {result.number: result for result in results}
    blocks = checkpoint.spec.blocks
    following = {
        first: second
        for first, second in zip(sorted(by_number), sorted(by_number)[1:], strict=False)
        if blocks[first].stack == blocks[second].stack and second == first + 1
    }
    coupled: dict[tuple[int, str], Float[np.ndarray, " sample"]] = {}
    lexicon = make_lexicon(checkpoint, words) if words else None
    direct = None
    if lexicon is not None and lexicon.unembedding is not None and deep is None:
        direct = go_direct(checkpoint.head(), final_streams(checkpoint, batches, results, read, decoder_input))
    reads, writes, around = dict[Place, Words](), dict[Place, Words](), dict[int, Around]()

    def read_writes(
        number: int, block: BlockSpec, ways: Callable[[str], Way], modes: Mapping[str, Modes], found: Around
    ) -> None:
        assert lexicon is not None
        drawn = functools.cache(lambda own: draw_writes(lexicon, ways(own), found))
        shared, layer = share_directions(modes, "writes"), by_number[number].layer
        for full, own in components_of(block, list(modes)).items():
            nulls = drawn("") if deep is None else drawn(own)  # the same way for all, or each its own
            writes[number, full] = write_component(lexicon, ways(own), nulls, layer, full, modes[full], shared[full])

    def visit(number: int, block: Block, streams: list[Stream]) -> Visit:
        if number not in by_number:
            return Visit(None)
        result = by_number[number]
        components = components_of(block.spec, list(result.singular_values))
        modes = leading_modes(result, read(number), k)
        later = following.get(number)
        targets = {} if later is None else leading_modes(by_number[later], read(later), k)
        parts: dict[str, list[Float[np.ndarray, " sample"]]] = {full: [] for full in components if full in targets}
        left = []
        for padded, stream in zip(batches, streams, strict=True):
            branches, onward = pass_through(block, stream, list(components.values()), last=False)
            left.append(onward)
            for full, values in parts.items():
                values.append(couple(branches[components[full]], padded, modes[full].sigma, targets[full]))
        for full, values in parts.items():
            coupled[result.layer, full] = in_order(batches, values)
        if lexicon is not None:
            found, shared = surround(lexicon, number, batches, streams, left), share_directions(modes, "reads")
            for full, own in modes.items():
                reads[number, full] = read_component(lexicon, found, result.layer, full, own, shared[full])
            if direct is not None and lexicon.writes_to_tokens(block.spec.stack):
                read_writes(number, block.spec, lambda own: direct, modes, found)
            if deep is not None and found.drawn is not None:
                # Further draws would need the streams of all blocks at once.
                around[number] = Around(found.drawn._replace(further=None), None, None)
        return Visit(None, left)

    for _ in walk(checkpoint, batches, visit, last=max(by_number), decoder_input=decoder_input):
        pass
    if lexicon is None:
        return After(coupled, None, {})
    if deep is not None:
        numbers = [number for number in by_number if lexicon.writes_to_tokens(blocks[number].stack)]
        for number, ways in go_back(checkpoint, deep, numbers, decoder_input) if numbers else ():
            modes = leading_modes(by_number[number], read(number), k)
            read_writes(number, blocks[number], ways.__getitem__, modes, around.pop(number, Around(None, None, None)))
    none = Words([], [])
    found = [words for place, own in reads.items() for words in (writes.get(place, none), own)]
    return After(coupled, finish_words(found), lexicon.facts)


def list_programs(
    checkpoint: Checkpoint,
    batches: Sequence[PaddedBatch],
    components: Sequence[str],
    *,
    k: int,
    decoder_input: str,
    words: WordsPlan | None,
) -> list[Program]:
    """Say what `pass_again` compiles beside what the first pass does, of writes that go to the head directly."""

    def solving(branch: Branch) -> list[Program]:
        x = branch.point.x
        return [Program(push, (branch, jax.ShapeDtypeStruct((len(x), k, x.shape[1]), x.dtype)), {})]

    last = len(checkpoint.spec.blocks) - 1
    passing = passing_programs(checkpoint, batches, components, decoder_input, solving, last=last)
    found = [program for program in passing if program.function is push]
    if words is None or not found:
        return found
    return found + word_programs(checkpoint, words, count_samples(batches), k)


def couple(
    branch: Branch, padded: PaddedBatch, sigma: Float[np.ndarray, "sample mode"], later: Modes
) -> Float[np.ndarray, " row"]:
    """Compute m_K of the Jacobians of a batch and the modes of the next layer's; NaN where these are not all alone.

    A rotation within a subspace of equal values would change it.
    """
    rows, count = padded.row_samples, len(padded.samples)
    reads = shard_like(jnp.asarray(later.reads[rows]), branch.point.x)
    images = np.asarray(push(branch, reads), np.float64)[:count]
    inner = np.einsum("sid,sjd->sij", later.writes[padded.samples].astype(np.float64), images)
    own = np.asarray(sigma[padded.samples], np.float64)
    off = np.linalg.norm(inner - own[:, :, None] * np.eye(own.shape[1]), axis=(1, 2))
    whole = np.linalg.norm(own, axis=1)
    defined = alone(later.group[padded.samples]).all(axis=1) & (whole > 0)
    return np.where(defined, off / np.where(whole > 0, whole, 1), np.nan)


def final_streams(
    checkpoint: Checkpoint,
    batches: Sequence[PaddedBatch],
    results: Sequence[LayerResult],
    read: Reader,
    decoder_input: str,
) -> Float[np.ndarray, "sample d_model"]:
    """Return the last token's stream as it leaves the last block.

    By what that block's components read and wrote, where these were measured, else by a pass through the whole model.
    """
    last = len(checkpoint.spec.blocks) - 1
    spec = checkpoint.spec.blocks[last]
    stored = {own: read(last)[full] for result in results if result.number == last
              for full, own in components_of(spec, list(result.singular_values)).items()}  # fmt: skip
    if spec.parallel and {"attn", "mlp"} <= stored.keys():
        return stored["mlp"][STREAM] + stored["attn"][OUTPUT] + stored["mlp"][OUTPUT]
    if not spec.parallel and "mlp" in stored:
        own = (jnp.asarray(stored["mlp"][name]) for name in (STREAM, OUTPUT))
        return np.asarray(checkpoint.block(last).mlp_norms.add(*own))

    def visit(number: int, block: Block, streams: list[Stream]) -> Visit:
        return Visit([step(block, stream) for stream in streams] if number == last else None)

    (left,) = walk(checkpoint, batches, visit, last=last, decoder_input=decoder_input)
    rows = [
        np.asarray(last_tokens(stream))[: len(padded.samples)] for stream, padded in zip(left, batches, strict=True)
    ]
    return in_order(batches, rows)
