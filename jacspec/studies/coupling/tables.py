r"""The further tables of a `task=coupling` run: which layers read what others write, and values by kind of token.

A component writes along $u$, the leading left singular vector of its Jacobian at a sample, and reads along $v$, the
leading right one. $|u_{l,c} \cdot v_{l',c'}|$ at one and the same sample is the coupling of the write of one with the
read of the other.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jacspec.axes import LayerResult
from jacspec.runs.tables import SUMMARY_COLUMNS, summarise

WRITES, READS = "write_vector", "read_vector"
"""Names of the vectors that are kept: leading left and right singular vectors of a Jacobian, of arbitrary sign."""


class Site(NamedTuple):
    """A component of a layer, and when it acts: of two in one stack the later `step` sees what the earlier writes."""

    layer: int
    component: str
    stack: str
    step: int


def downstream(write: Site, read: Site) -> bool:
    """Say whether one component's write is in the stream that the other reads."""
    return write.stack == read.stack and write.step < read.step


def random_alignment(d_model: int) -> float:
    r"""Return $E|u \cdot v|$ of independent uniformly random directions: the level of chance of an alignment.

    $\Gamma(\tfrac d2) / (\sqrt\pi\, \Gamma(\tfrac{d+1}2))$, about $\sqrt{2 / (\pi d)}$.
    """
    return math.exp(math.lgamma(d_model / 2) - math.lgamma((d_model + 1) / 2)) / math.sqrt(math.pi)


def couple(
    writes: Float[np.ndarray, "place sample d_model"], reads: Float[np.ndarray, "place sample d_model"]
) -> Float[np.ndarray, "sample place place"]:
    """Compute |u · v| of every write (row) with every read (column) at every sample, in float64."""
    left, right = (np.asarray(part, np.float64).transpose(1, 0, 2) for part in (writes, reads))
    return np.abs(left @ right.transpose(0, 2, 1))


COUPLING_FILE, KINDS_FILE = "coupling.csv", "kinds.csv"
STATISTICS = SUMMARY_COLUMNS[3:]
COUPLING_COLUMNS = ("write_layer", "write_component", "read_layer", "read_component", "downstream", *STATISTICS)
KIND_COLUMNS = ("layer", "component", "metric", "kind", *STATISTICS)
BY_KIND = ("spectral_radius", "residual_gain")
"""What is summed up by the kind of the last token."""


def coupling_rows(results: Sequence[LayerResult], places: Mapping[tuple[int, str], Site]) -> Iterator[tuple[Any, ...]]:
    """Sum the coupling up over samples, a row a (write, read); `downstream` is 1 where the read sees the write.

    **Arguments:** `places`, by layer and component.
    """
    found = {
        places[result.layer, component]: vectors for result in results for component, vectors in result.vectors.items()
    }
    writes, reads = (np.stack([vectors[name] for vectors in found.values()]) for name in (WRITES, READS))
    matrices = couple(writes, reads)
    for row, write in enumerate(found):
        for column, read in enumerate(found):
            numbers = summarise(matrices[:, row, column])
            yield (write.layer, write.component, read.layer, read.component, int(downstream(write, read)), *numbers)


def kind_rows(results: Sequence[LayerResult], kinds: Mapping[str, Sequence[str]]) -> Iterator[tuple[Any, ...]]:
    """Sum up by the kind of the last token.

    **Arguments:** `kinds`, by component, a kind a sample.
    """
    for result in results:
        for component, metrics in result.metrics.items():
            own = np.asarray(kinds[component])
            for metric in BY_KIND:
                for kind in sorted(set(own.tolist())):
                    values = np.asarray(metrics[metric], np.float64)[own == kind]
                    yield (result.layer, component, metric, kind, *summarise(values))


WORD_START, CONTINUATION, PUNCTUATION, SPACE, SPECIAL = KINDS = (
    "word start",
    "continuation",
    "punctuation",
    "white space",
    "special",
)
BYTES, SENTENCEPIECE, WORDPIECE = "Ġ", "▁", "##"
"""How pieces are marked that begin a word (byte-level BPE, SentencePiece), and that go on with one (WordPiece)."""

UNDECODED = "\N{REPLACEMENT CHARACTER}"
"""What stands for some of a character's bytes."""


def find_mark(tokenizer: Any) -> str:
    """Find the mark that most pieces of the vocabulary begin with; empty where none does."""
    marks = (BYTES, SENTENCEPIECE, WORDPIECE)
    # Byte-level vocabularies hold runs of # too, so the first one found is not enough.
    counts = Counter(mark for piece in tokenizer.get_vocab() for mark in marks if piece.startswith(mark))
    return counts.most_common(1)[0][0] if counts else ""


def last_token_kind(tokenizer: Any, mark: str, ids: Sequence[int]) -> str:
    """Say of what kind the last token of a sample is; the first rule that fits counts.

    | kind | rule |
    |---|---|
    | special | a special token of the tokenizer |
    | white space | its text is empty or white space alone |
    | punctuation | all its characters but white space are of a Unicode category of punctuation or symbols (P, S) |
    | word start | marked so (`Ġ`, `▁`), or what is before it is no part of a word; WordPiece: not marked by `##` |
    | continuation | everything else, as `'t` behind `don` in byte-level BPE, or some of a character's bytes |

    Part of a word are letters, marks and digits, apostrophes, and bytes of unfinished characters.

    **Arguments:** `mark`, from `find_mark`; `ids`, the sample's tokens up to the one in question.
    """
    special = set(tokenizer.all_special_ids)
    if ids[-1] in special:
        return SPECIAL
    text = _text(tokenizer, mark, ids[-1])
    letters = text.strip()
    if not letters:
        return SPACE
    if all(unicodedata.category(letter)[0] in "PS" and letter != UNDECODED for letter in letters):
        return PUNCTUATION
    if mark == WORDPIECE:
        return CONTINUATION if tokenizer.convert_ids_to_tokens(ids[-1]).startswith(WORDPIECE) else WORD_START
    before = " " if len(ids) == 1 or ids[-2] in special else _text(tokenizer, mark, ids[-2]) or " "
    return WORD_START if text[0].isspace() or not _in_word(before[-1]) else CONTINUATION


def _in_word(letter: str) -> bool:
    return letter in ("'", "’", UNDECODED) or unicodedata.category(letter)[0] in "LMN"


def _text(tokenizer: Any, mark: str, token: int) -> str:
    """Return the text of one token, the space that its mark stands for in front."""
    piece = str(tokenizer.convert_ids_to_tokens(token))
    if mark == WORDPIECE:
        return piece.removeprefix(WORDPIECE)
    text = str(tokenizer.convert_tokens_to_string([piece]))
    # SentencePiece decoders drop the space in front of what they take for a whole text.
    return f" {text.lstrip(' ')}" if mark == SENTENCEPIECE and piece.startswith(SENTENCEPIECE) else text
