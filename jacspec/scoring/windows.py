"""From a whole text to the windows in which a language model scores it, every token once.

A causal model predicts each token from those before it, in windows that slide over the text as in HF's guide
"Perplexity of fixed-length models". A masked one fills in one token at a time (Salazar et al. 2020).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from jacspec.errors import JacspecError
from jacspec.models.block import ModelSpec
from jacspec.models.checkpoint import Checkpoint
from jacspec.text.corpus import CHARACTERS_A_TOKEN, tokenize

STRIDE = 512
"""Tokens that a window moves on by, from HF's guide; half a window in models of fewer than 1024 positions."""

MASKED_WINDOW = 64
"""Tokens that a masked model reads at once: each scored token costs a pass over as many."""


class Window(NamedTuple):
    """What a model reads at once, and what of it is scored: logits at `places[i]` predict the token `targets[i]`."""

    tokens: list[int]
    places: Int[np.ndarray, " scored"]
    targets: Int[np.ndarray, " scored"]


class Passage(NamedTuple):
    """A text as it is scored: its windows, and of each scored token the chunk of the text that it belongs to.

    Scored tokens are in the order of the windows, which is that of the text. `window` and `stride` are in tokens.
    """

    windows: list[Window]
    chunks: Int[np.ndarray, " token"]
    window: int
    stride: int


def model_kind(spec: ModelSpec) -> str:
    """Say what predicts a token: `causal`, the tokens before it, or `masked`, all others.

    **Raises:** `JacspecError` for encoder-decoder models: what their decoder predicts depends on which part of a
    text the encoder is given, and no such split is the perplexity of the text.
    """
    if len(spec.stacks) > 1:
        raise JacspecError(
            "An encoder-decoder model has no perplexity of a text: it predicts one text from another. Supported: "
            "decoders (GPT-2, Llama, …) by perplexity, encoders (BERT, RoBERTa, DistilBERT) by pseudo-perplexity. "
            "Type model=gpt2 or model=bert-base."
        )
    return "causal" if spec.blocks[0].attention.causal else "masked"


def causal_passage(tokens: Sequence[int], *, window: int, stride: int) -> Passage:
    """Cut a text into windows that slide by `stride`; each token is scored in the first window that holds it.

    All tokens but the first are scored once: those of the first window with what is before them, the others with at
    least `window − stride` tokens of context and at most `window − 1`. (HF's guide is the same, but for the weight of
    every later window in its mean, where it counts one token too few.) The last token of a window is predicted and
    not read. Chunks, for standard errors, are `stride` consecutive tokens of the text.

    **Arguments:** `tokens`, two or more; `window`, tokens that are read or predicted at once; `stride`, below it.
    """
    windows: list[Window] = []
    scored, start = 1, 0
    while scored < len(tokens):
        stop = min(start + window, len(tokens))
        # Logits at a place predict the token after it.
        places = np.arange(scored, stop) - start - 1
        windows.append(Window(list(tokens[start : stop - 1]), places, np.array(tokens[scored:stop])))
        scored, start = stop, start + stride
    return Passage(windows, np.arange(len(tokens) - 1) // stride, window, stride)


def masked_passage(
    tokens: Sequence[int], *, window: int, mask: int, before: Sequence[int] = (), after: Sequence[int] = ()
) -> Passage:
    """Cut a text into pieces that follow each other, and mask each of their tokens in turn (Salazar et al. 2020).

    A piece with the special tokens `before` and `after` it has `window` tokens at most; it gives a window a token, so
    that a token is predicted from all others of its piece. Chunks are the pieces.
    """
    size = window - len(before) - len(after)
    windows: list[Window] = []
    for start in range(0, len(tokens), size):
        piece = [*before, *tokens[start : start + size], *after]
        for place in range(len(before), len(piece) - len(after)):
            read = [*piece[:place], mask, *piece[place + 1 :]]
            windows.append(Window(read, np.array([place]), np.array([piece[place]])))
    return Passage(windows, np.arange(len(tokens)) // size, window, size)


def make_passage(
    text: str, checkpoint: Checkpoint, *, tokens: int | None, window: int | None, stride: int | None
) -> Passage:
    """Tokenize a text as it stands and cut it for the kind of model at hand.

    **Arguments:** `tokens`, how many of the text at most (None: all); `window`, None for the model's positions
    (`MASKED_WINDOW` for masked models, if they have as many); `stride`, None for `STRIDE` or half a window where that
    is less. Special tokens that the tokenizer adds stand at the beginning of the text, in masked models around each
    piece.

    **Raises:** `JacspecError` for numbers that fit no text or not the model.
    """
    spec, tokenizer = checkpoint.spec, checkpoint.tokenizer
    kind = model_kind(spec)
    if tokens is not None and tokens < 2:
        raise JacspecError(
            f"removal.tokens={tokens} leaves nothing to predict. Type 2 or more, or null for the whole text."
        )
    read = text if tokens is None else text[: CHARACTERS_A_TOKEN * tokens]  # as in `corpus.encode`
    ids = tokenize(tokenizer, read, add_special_tokens=kind == "causal", verbose=False)[:tokens]
    if len(ids) < 2:
        raise JacspecError(
            "The text has fewer than two tokens: nothing is to be predicted. Type data.path=FILE with a longer text."
        )
    before, after = _special_tokens(tokenizer) if kind == "masked" else ([], [])
    most = len(ids) if spec.positions is None else spec.positions
    if window is None:
        window = min(most, MASKED_WINDOW) if kind == "masked" else most
    least = 2 + len(before) + len(after)
    if not least <= window <= most:
        raise JacspecError(f"removal.window={window} does not fit. Accepted: {least} to {most}, the model's positions.")
    if kind == "masked":
        if stride is not None:
            raise JacspecError(
                f"removal.stride={stride} is for decoders: the windows of a masked model do not overlap. "
                "Type removal.stride=null."
            )
        return masked_passage(ids, window=window, mask=mask_token(checkpoint), before=before, after=after)
    stride = min(STRIDE, window // 2) if stride is None else stride
    if not 1 <= stride < window:
        raise JacspecError(
            f"removal.stride={stride} does not fit windows of {window} tokens. Accepted: 1 to {window - 1}."
        )
    return causal_passage(ids, window=window, stride=stride)


def mask_token(checkpoint: Checkpoint) -> int:
    """Find the token that masks; random weights know none, and what stands for unknown text serves them as well."""
    mask = checkpoint.tokenizer.mask_token_id
    if mask is None and checkpoint.tensors is None:
        mask = checkpoint.tokenizer.unk_token_id
    if mask is None:
        raise JacspecError("The tokenizer has no mask token, which pseudo-perplexity needs. Give the model's own.")
    return mask


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Find what a tokenizer puts before and after a text."""
    bare = tokenize(tokenizer, "a", add_special_tokens=False)
    whole = tokenize(tokenizer, "a")
    for place in range(len(whole)):
        if whole[place : place + len(bare)] == bare:
            return whole[:place], whole[place + len(bare) :]
    raise JacspecError("The tokenizer of the model puts no special tokens before and after a text, but changes it.")
