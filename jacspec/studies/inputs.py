"""What a study reads, opened when it asks: the model and the text of its configuration, or those that were given."""

import dataclasses
import functools
import hashlib
import json
import numbers
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jacspec.config import ASSETS, Config, DataConfig, Init
from jacspec.errors import JacspecError, JacspecTypeError
from jacspec.files import Hashes
from jacspec.text.corpus import Corpus, Sample, draw_sample, load_corpus, read_text_bytes

if TYPE_CHECKING:
    from jacspec.models.arrays import Arrays
    from jacspec.models.checkpoint import Checkpoint
    from jacspec.models.tensor_files import TensorFiles

ACCEPTED = "A text is a str or a list of token ids; several are a list, an array or a pandas.Series of them."


GIVEN = "texts given in Python"
"""What `run.json` calls the source of a text that came from no file."""


class Texts(NamedTuple):
    """Samples that were given: their texts, or where ids were given those (`texts` is empty then)."""

    texts: list[str]
    tokens: list[list[int]]
    source: str = GIVEN

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return len(self.texts) or len(self.tokens)


def read_texts(given: Any) -> Texts:
    """Read what was given as text: a str is one sample, a list of ints is one sample's token ids.

    **Raises:** `JacspecTypeError` for what is neither, naming its place; also where nothing was given.
    """
    if isinstance(given, str):
        return Texts([given], [])
    parts = _listed(given, "texts")
    if not parts:
        raise JacspecTypeError(f"texts is empty. {ACCEPTED}")
    if all(isinstance(part, str) for part in parts):
        return Texts([str(part) for part in parts], [])
    if all(_is_id(part) for part in parts):
        return Texts([], [_ids(parts, "texts")])
    tokens = []
    first = type(parts[0]) if isinstance(parts[0], str) or _is_id(parts[0]) else None
    for place, part in enumerate(parts):
        where = f"texts[{place}]"
        if first is not None and isinstance(part, first):
            continue
        if first is not None or isinstance(part, str) or _is_id(part):
            raise JacspecTypeError(f"{where} is {_called(part)}, and texts[0] {_called(parts[0])}. {ACCEPTED}")
        tokens.append(_ids(_listed(part, where), where))
    return Texts([], tokens)


def _listed(given: Any, where: str) -> list[Any]:
    """List what is in a list, tuple, array, Series or tensor."""
    if isinstance(given, Mapping):
        raise JacspecTypeError(
            f"{where} is {_called(given)}. Give tokenizer(...)['input_ids'], or the texts themselves."
        )
    if callable(plain := getattr(given, "tolist", None)):  # arrays, Series and tensors: Python's own numbers
        given = plain()
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        raise JacspecTypeError(f"{where} is {_called(given)}. {ACCEPTED}")
    return list(given)


def _ids(parts: list[Any], where: str) -> list[int]:
    if wrong := next((part for part in parts if not _is_id(part)), None):
        raise JacspecTypeError(f"{where} holds {_called(wrong)}. {ACCEPTED}")
    ids = [int(part) for part in parts]
    if not ids or min(ids) < 0:
        raise JacspecTypeError(f"{where} holds {'a negative token id' if ids else 'no token'}. {ACCEPTED}")
    return ids


def _is_id(part: Any) -> bool:
    return isinstance(part, numbers.Integral) and not isinstance(part, bool)


def _called(part: Any) -> str:
    """Call a value by its type; a number or None by itself, as where a table has a gap."""
    name = type(part).__name__
    if part is None or isinstance(part, float):
        return repr(part)
    return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Where a study gets what it reads.

    `config` names model and text; `model`, an opened one, or bare `arrays`, and `texts` take their place where they
    are given. Made once a run, by the command line or by `jacspec.run`, and handed to the study. `page`: whether the
    study draws its page and prints its summary at once, as on the command line; `brief`: the summary of one run among
    many, in a line a metric.
    """

    config: Config
    model: "Checkpoint | None" = None
    texts: Texts | None = None
    arrays: "Arrays | None" = None
    page: bool = True
    brief: bool = False

    @property
    def bare(self) -> bool:
        """Whether `task=weights` is given arrays alone, in memory or in a file."""
        from jacspec.models.arrays import is_array_file

        path = self.config.model.path
        alone = path is not None and self.config.task == "weights" and is_array_file(Path(path).expanduser())
        return self.arrays is not None or alone

    def checkpoint(self) -> "Checkpoint":
        """Open the model in the precision of the run; raises `JacspecError` where it cannot be opened."""
        from jacspec.models.hub import open_model  # not above: a report is drawn without the rooms of models

        if self.bare:
            label = self.config.model.path or self.config.model.name
            raise JacspecError(f"{label} holds arrays without a config")
        return self.model or open_model(self.config.model, seed=self.config.seed, dtype=self.config.precision.value)

    def shapes(self) -> "Checkpoint":
        """Open the model for its shapes alone: its config is enough, and no weights are looked for."""
        from jacspec.models.hub import open_model

        random = dataclasses.replace(self.config.model, init=Init.random)
        return self.model or open_model(random, seed=self.config.seed)

    def tensors(self) -> "tuple[str, TensorFiles, Mapping[str, str]]":
        """Open tensors that no family's rules open, by name alone; with hashes of their files."""
        if self.arrays is not None:
            return (str(self.config.model.name), *self.arrays)
        from jacspec.models.hub import open_any_tensors

        name, tensors = open_any_tensors(self.config.model)
        return name, tensors, Hashes(tensors.files)

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The candidate samples; raises `JacspecError` where there is no text."""
        if self.texts is None:
            return load_corpus(self.config.data)
        given = self.texts.texts or self.texts.tokens
        digest = hashlib.sha256(json.dumps(given).encode()).hexdigest()
        texts = self.texts.texts or [" ".join(map(str, ids)) for ids in self.texts.tokens]
        return Corpus(texts, "as given", digest, self.texts.source)

    def sample(self, checkpoint: "Checkpoint") -> Sample:
        """Draw the samples of the run, each ending where `data.position` says."""
        data, seed = self.config.data, self.config.seed
        if self.texts is not None and self.texts.tokens:
            sample = _draw_given(self.corpus, self.texts.tokens, checkpoint, data, seed=seed)
        else:
            sample = draw_sample(self.corpus, checkpoint.encoder, data, seed=seed)
        return sample if data.position is None else end_at(sample, data.position)

    def text(self) -> tuple[bytes, str]:
        """Return the bytes of a running text and where they were found."""
        if self.texts is None:
            return read_text_bytes(self.config.data)
        if self.texts.tokens:
            raise JacspecError(f"task={self.config.task} reads a running text, and token ids were given. Give a str.")
        return "\n".join(self.texts.texts).encode(), GIVEN

    @property
    def corpus_name(self) -> str:
        """What figures call the text: the ready-made choice, or the file that was read."""
        if self.texts is None:
            return data_label(self.config.data)
        return "given texts" if self.texts.source == GIVEN else Path(self.texts.source).name


def data_label(data: DataConfig) -> str:
    """Name a text by what is read: the ready-made choice, or the file where another one was given."""
    if data.text is not None:
        return "given text"
    if data.path is None or Path(data.path) == ASSETS / f"{data.name}.txt":
        return data.name
    return Path(data.path).expanduser().resolve().name


def end_at(sample: Sample, position: int | Sequence[int]) -> Sample:
    """Cut each sample behind the token at `position`, one for all or one a sample; below 0 counts from the end.

    **Raises:** `JacspecError` for a place that a sample has not, or another number of places than of samples.
    """
    count = len(sample.tokens)
    places = [position] * count if isinstance(position, int) else list(position)
    if len(places) != count:
        raise JacspecError(
            f"data.position has {len(places)} places for {count} samples. Give one a sample, or one number."
        )
    for number, (place, ids) in enumerate(zip(places, sample.tokens, strict=True)):
        if not -len(ids) <= place < len(ids):
            raise JacspecError(
                f"data.position={place} is not in sample {number}, which has {len(ids)} tokens. "
                f"Accepted: {-len(ids)} to {len(ids) - 1}; -1 is the last token."
            )
    cut = [ids[: place % len(ids) + 1] for place, ids in zip(places, sample.tokens, strict=True)]
    return sample._replace(tokens=cut)


def _draw_given(
    corpus: Corpus, tokens: Sequence[Sequence[int]], checkpoint: "Checkpoint", data: DataConfig, *, seed: int
) -> Sample:
    """Draw from token ids that were given, by the rules of `draw_sample`."""

    def as_given(numbers: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [list(tokens[int(number)])[: data.max_tokens] for number in numbers]}

    numbered = corpus._replace(texts=[str(number) for number in range(len(tokens))])
    sample = draw_sample(numbered, as_given, data, seed=seed)
    return sample._replace(texts=[corpus.texts[number] for number in sample.candidates])
