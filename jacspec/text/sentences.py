"""Split a text into sentences with NLTK's Punkt, and remember where they begin and end.

Importing NLTK takes a second or two, and Punkt learns a text anew in five seconds a megabyte where its English model is
not installed. So the places of the sentences, never the text, are kept in the user's cache, and hold as long as NLTK's
version and what is installed of its English model are what they were.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from jacspec.files import cache_folder, write_cached

TRAINED_ON = 2**23
"""Characters that Punkt learns from at most: it takes 65 bytes of memory for each, and 5 seconds a million."""
REMEMBERED = 2**26
"""Characters of the longest text whose sentences are kept: ten megabytes or so of places."""

DAMAGED = "because NLTK's English model (punkt_tab) is damaged"
ENGLISH_ENTRIES: Mapping[str, int] = {
    "abbrev_types": 156,
    "collocations": 37,
    "sent_starters": 39,
    "ortho_context": 20366,
}
"""What NLTK's English model holds; one that lacks a tenth of any was cut short."""


def split_sentences(text: str) -> tuple[list[str], str]:
    """Split with NLTK's Punkt, or read from the user's cache where the same text was split under the same NLTK.

    Punkt takes its English model where that is installed whole, else one trained on the text itself.

    **Returns:** the sentences, whitespace inside them as it stands, and the name of the splitter.
    """
    file = _cache_file(text)
    if (found := _read_spans(file)) is None:
        import nltk

        spans, splitter = _sentence_spans(text)
        found = [place for span in spans for place in span], splitter
        if len(text) <= REMEMBERED:
            record = {"splitter": splitter, "installed": _installed(nltk.data.path), "searched": nltk.data.path}
            content = json.dumps(record | {"places": found[0]}).encode()
            with contextlib.suppress(OSError):  # a cache that cannot be written costs time and nothing else
                write_cached(file, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    places, splitter = found
    return [text[start:end] for start, end in zip(places[::2], places[1::2], strict=True)], splitter


def _sentence_spans(text: str) -> tuple[list[tuple[int, int]], str]:
    from nltk.tokenize.punkt import PunktSentenceTokenizer, PunktTrainer

    model, why = _english_model()
    name = "nltk punkt_tab english"
    if model is None:
        model = PunktTrainer(text[:TRAINED_ON]).get_params()
        part = "" if len(text) <= TRAINED_ON else f"the first {TRAINED_ON} characters of "
        name = f"nltk punkt trained on {part}the corpus{why}"
    spans = PunktSentenceTokenizer(model).span_tokenize(text)
    return [(start, end) for start, end in spans if text[start:end].strip()], name


def _english_model() -> tuple[Any, str]:
    """Load NLTK's English model, or return None, and what to say of one that is installed but damaged."""
    import nltk
    from nltk.tokenize.punkt import load_punkt_params

    try:
        folder = nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        return None, ""
    except Exception:  # an archive that is damaged
        folder = None
    try:
        model = load_punkt_params(folder)
    except Exception:  # what is not text or not a number, files that are not there
        return None, f", {DAMAGED}"
    whole = all(len(getattr(model, name)) >= 0.9 * count for name, count in ENGLISH_ENTRIES.items())
    return (model, "") if whole else (None, f", {DAMAGED}")


def _cache_file(text: str) -> Path:
    """Name the cache's file for a text, NLTK's version, and what decides where NLTK looks for its models."""
    where = (metadata.version("nltk"), os.environ.get("NLTK_DATA", ""), sys.prefix, str(Path.home()))
    digest = hashlib.sha256("\0".join((*where, text)).encode("utf-8", "surrogatepass"))
    return cache_folder() / "sentences" / f"{digest.hexdigest()}.json"


def _read_spans(file: Path) -> tuple[list[int], str] | None:
    """Read the places of a text's sentences and the splitter; None where there are none, damaged or out of date."""
    try:
        digest, content = file.read_bytes().split(b"\n", 1)
        if digest.decode() != hashlib.sha256(content).hexdigest():
            return None
        record = json.loads(content)
    except (OSError, ValueError):
        return None
    return (record["places"], record["splitter"]) if record["installed"] == _installed(record["searched"]) else None


def _installed(folders: Iterable[str]) -> dict[str, list[int]]:
    """Note size and time of every file of Punkt's English model in the folders that NLTK searches."""
    found = {}
    for folder in map(Path, folders):
        model = folder / "tokenizers" / "punkt_tab"
        for file in (model.with_suffix(".zip"), *sorted((model / "english").glob("*"))):
            with contextlib.suppress(OSError):
                found[str(file)] = [(status := file.stat()).st_size, status.st_mtime_ns]
    return found
