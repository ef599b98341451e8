"""Where samples end: cut at a drawn token, and of what kind that is."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jacspec.config import Config, DecoderInput
from jacspec.models.checkpoint import Checkpoint
from jacspec.studies.kinds import find_mark, last_token_kind
from jacspec.studies.study import End
from jacspec.text.corpus import Sample


def end_samples(config: Config, sample: Sample, end: End) -> Sample:
    """End each sample at a drawn token, uniformly from `data.min_tokens` on, unless it is to stay as it is.

    A sentence nearly always ends with its full stop: whole ones would show one kind of token.
    """
    if end is End.sample or config.data.position is not None:
        return sample
    # The samples themselves are drawn from the seed alone.
    draw = np.random.default_rng([config.seed, 1])
    least = max(config.data.min_tokens, 1)
    return sample._replace(tokens=[ids[: int(draw.integers(least, len(ids) + 1))] for ids in sample.tokens])


def kinds_of(
    checkpoint: Checkpoint, components: Sequence[str], tokens: Sequence[Sequence[int]], fed: DecoderInput
) -> tuple[str, dict[str, list[str]]]:
    """Find the tokenizer's mark of words, and by component the kind of the token at which each sample ends."""
    tokenizer: Any = checkpoint.tokenizer
    mark = find_mark(tokenizer)
    kind = functools.partial(last_token_kind, tokenizer, mark)
    own = [kind(ids) for ids in tokens]
    found = dict.fromkeys(components, own)
    start = checkpoint.spec.decoder_start
    if start is not None:
        inputs = [[start, *ids[:-1]] if fed is DecoderInput.shifted else [start] for ids in tokens]
        decoded = [kind(ids) for ids in inputs]
        found |= {name: decoded for name in components if name.startswith("decoder.")}
    return mark, found
