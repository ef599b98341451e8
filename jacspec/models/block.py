"""One transformer block, and the modules around a stack of them.

`Block` gives each branch twice: at the last token as a function of that token's residual stream alone (what a
Jacobian differentiates), and inside the forward pass over the whole sample.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jacspec.errors import JacspecError
from jacspec.models.attention import Attention, AttentionSpec, KeyValue
from jacspec.models.experts import Experts, ExpertsSpec
from jacspec.models.layers import (
    ACTIVATIONS,
    MLP,
    LayerNorm,
    Linear,
    MLPSpec,
    NormSpec,
    RMSNorm,
    Spread,
    Truncated,
    draw_normal,
    make_norm,
)
from jacspec.samples import Memory, Packing, Prefix


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """The choices that make a block.

    `place` says where norms stand: on the branch's input (`pre`), after the addition (`post`, BERT), on the
    branch's output (`output`, OLMo 2) or on its input and output (`sandwich`, Gemma 2). With `parallel` the MLP
    reads what attention reads (GPT-J, Pythia). `scale` multiplies what every branch adds (Granite). `cross` is the
    attention of a decoder to its encoder. `stack` is `encoder` or `decoder` in models that have both, else empty.
    `one_norm` says that the parallel branches have the same norm, where a family has both kinds (Falcon); without
    `attn_norm` attention has none (ModernBERT's first block, which comes after that of the embeddings).
    """

    d_model: int
    attention: AttentionSpec
    mlp: MLPSpec
    norm: NormSpec
    std: Spread
    place: str = "pre"
    parallel: bool = False
    scale: float = 1.0
    cross: AttentionSpec | None = None
    stack: str = ""
    one_norm: bool = False
    attn_norm: bool = True


@dataclasses.dataclass(frozen=True)
class EmbeddingSpec:
    """What makes the residual stream before block 0, in this order.

    Token vectors of `width` times `scale`, learned positions (`positions` rows, the first `offset` unused), the
    first of `token_types` rows, a norm; where `width` is not d_model a projection before positions are added (OPT).
    With `project_last` all of these have `width`, and a projection with a bias ends them (ELECTRA, ALBERT).
    """

    width: int
    std: float | Truncated
    scale: float = 1.0
    positions: int = 0
    offset: int = 0
    token_types: int = 0
    norm: NormSpec | None = None
    project_last: bool = False


@dataclasses.dataclass(frozen=True)
class HeadSpec:
    """What turns the last residual stream into logits, in this order.

    A final norm; a projection to `width` where that is not d_model, or BERT's transform to it (a linear map,
    `transform` its activation, a norm); `scale`; the unembedding, with `bias`; `softcap`.
    """

    width: int
    std: float | Truncated
    norm: NormSpec | None
    transform: str | None = None
    transform_norm: NormSpec | None = None
    transform_bias: bool = True
    bias: bool = False
    scale: float = 1.0
    softcap: float | None = None


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A whole model: vocabulary, one `BlockSpec` a layer (an encoder's before its decoder's), and what is around.

    `positions` is the longest sample, None where there is no limit; `tied`, whether the unembedding is the
    embedding; `shared`, whether all layers have the weights of one (ALBERT). Encoder-decoder models have the norm
    that ends the encoder and the token their decoder starts with.
    """

    vocab: int
    positions: int | None
    blocks: tuple[BlockSpec, ...]
    embedding: EmbeddingSpec
    head: HeadSpec
    tied: bool
    encoder_norm: NormSpec | None = None
    decoder_start: int | None = None
    shared: bool = False

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.blocks[0].d_model

    @property
    def stacks(self) -> tuple[str, ...]:
        """Names of the stacks in order: `("",)`, or `("encoder", "decoder")`."""
        return tuple(dict.fromkeys(block.stack for block in self.blocks))

    def layer(self, number: int) -> int:
        """Return the place of a block in its own stack, from 0."""
        return [block.stack for block in self.blocks[:number]].count(self.blocks[number].stack)

    def choose_layers(self, chosen: Collection[int] | None) -> frozenset[int] | None:
        """Resolve a choice of layers, those below 0 counted from the last; None, all of them, stays None.

        **Raises:** `JacspecError` for one that no stack of the model has.
        """
        if chosen is None:
            return None
        count = 1 + max(self.layer(number) for number in range(len(self.blocks)))
        if wrong := [layer for layer in chosen if not -count <= layer < count]:
            raise JacspecError(f"layers has {wrong[0]}. Accepted: 0 to {count - 1}, or -1 for the last.")
        if not chosen:
            raise JacspecError("layers is empty. Type layers=null for all.")
        return frozenset(layer % count for layer in chosen)


class Sublayer(nnx.Module):
    """The norms of one branch: `h ← sum_norm(h + scale · output_norm(branch(norm(h))))`, each of them optional."""

    def __init__(self, spec: BlockSpec, dtype: jnp.dtype):
        norm = functools.partial(make_norm, spec.norm, spec.d_model, dtype)
        self.norm: LayerNorm | RMSNorm | None = norm() if spec.place in ("pre", "sandwich") else None
        self.output_norm: LayerNorm | RMSNorm | None = norm() if spec.place in ("output", "sandwich") else None
        self.sum_norm: LayerNorm | RMSNorm | None = norm() if spec.place == "post" else None
        self.scale = spec.scale

    def enter(self, x: Float[Array, "*token d_model"]) -> Float[Array, "*token d_model"]:
        """Norm what the branch reads."""
        return x if self.norm is None else self.norm(x)

    def leave(self, branch: Float[Array, "*token d_model"]) -> Float[Array, "*token d_model"]:
        """Norm and scale what the branch adds."""
        branch = branch if self.output_norm is None else self.output_norm(branch)
        return branch if self.scale == 1 else self.scale * branch

    def add(
        self, x: Float[Array, "*token d_model"], branch: Float[Array, "*token d_model"]
    ) -> Float[Array, "*token d_model"]:
        """Add a branch to the residual stream."""
        return x + branch if self.sum_norm is None else self.sum_norm(x + branch)


class Block(nnx.Module):
    """A transformer block of any supported family."""

    def __init__(self, spec: BlockSpec, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        attention = functools.partial(
            Attention, d_model=spec.d_model, norm=spec.norm, std=spec.std, dtype=dtype, rngs=rngs
        )
        self.attn = attention(spec.attention)
        self.attn_norms = Sublayer(spec if spec.attn_norm else dataclasses.replace(spec, place=""), dtype)
        self.cross = None if spec.cross is None else attention(spec.cross)
        self.cross_norms = None if spec.cross is None else Sublayer(spec, dtype)
        around = {"std": spec.std, "dtype": dtype, "rngs": rngs}
        self.mlp: MLP | Experts = (
            Experts(spec.mlp, spec.d_model, **around)
            if isinstance(spec.mlp, ExpertsSpec)
            else MLP(spec.mlp, spec.d_model, **around)
        )
        self.mlp_norms = Sublayer(spec, dtype)
        self.spec = spec

    def key_value(self, h: Float[Array, "token d_model"]) -> KeyValue:
        """Compute the keys and values of attention at every token."""
        return self.attn.key_value(self.attn_norms.enter(h))

    def prefix(
        self, h: Float[Array, "token d_model"], length: Int[Array, ""] | Packing, seen: KeyValue | None = None
    ) -> Prefix:
        """Compute what the last token (position `length − 1`) sees of the other tokens; of a pack, in each sample."""
        return self.attn.prefix(self.key_value(h) if seen is None else seen, length)

    def attn_branch(self, x: Float[Array, " d_model"], prefix: Prefix) -> Float[Array, " d_model"]:
        """Compute what attention adds to the residual stream at the last token, whose stream is `x`."""
        return self.attn_norms.leave(self.attn.attend_last(self.attn_norms.enter(x), prefix))

    def cross_branch(self, x: Float[Array, " d_model"], prefix: Prefix) -> Float[Array, " d_model"]:
        """Compute what attention to the encoder adds at the last token, whose stream is `x`."""
        assert self.cross is not None
        assert self.cross_norms is not None
        return self.cross_norms.leave(self.cross.attend_last(self.cross_norms.enter(x), prefix))

    def mlp_branch(self, x: Float[Array, "*token d_model"]) -> Float[Array, "*token d_model"]:
        """Compute what the MLP adds to the residual stream `x` that enters it."""
        return self.mlp_norms.leave(self.mlp(self.mlp_norms.enter(x)))

    def last(self, x: Float[Array, " d_model"], prefix: Prefix, read: Prefix | None) -> Float[Array, " d_model"]:
        """Carry the last token's stream through the whole block: identity, branches and all norms.

        `read` is what cross attention sees of the encoder, where the block has it.
        """
        cross = None if read is None else functools.partial(self.cross_branch, prefix=read)
        return self._add_branches(x, self.attn_branch(x, prefix), cross)

    def _add_branches(
        self,
        x: Float[Array, "*token d_model"],
        attended: Float[Array, "*token d_model"],
        cross: Callable[[Array], Array] | None,
    ) -> Float[Array, "*token d_model"]:
        """Carry a stream through the block, given what attention adds and how cross attention is computed."""
        if self.spec.parallel:
            return x + attended + self.mlp_branch(x)
        x = self.attn_norms.add(x, attended)
        if self.cross_norms is not None:
            assert cross is not None
            x = self.cross_norms.add(x, cross(x))
        return self.mlp_norms.add(x, self.mlp_branch(x))

    def attn_branches(
        self, h: Float[Array, "token d_model"], length: Int[Array, ""] | Packing, seen: KeyValue | None = None
    ) -> Float[Array, "token d_model"]:
        """Compute what attention adds at every token; no token that counts sees the padding."""
        return self.attn_norms.leave(self.attn(self.attn_norms.enter(h), length, seen))

    def cross_branches(
        self, h: Float[Array, "token d_model"], memory: Memory, packing: Packing | None = None
    ) -> Float[Array, "token d_model"]:
        """Compute what attention to the encoder adds at every token; `packing` is that of `h`, where it is a pack."""
        assert self.cross is not None
        assert self.cross_norms is not None
        return self.cross_norms.leave(self.cross.read(self.cross_norms.enter(h), memory, packing))

    def matrix_inputs(
        self, h: Float[Array, "token d_model"], length: Int[Array, ""] | Packing, memory: Memory | None = None
    ) -> dict[str, Float[Array, "source width"]]:
        """Compute what enters each weight matrix at every token, by the matrix's place, as `attn.q` or `mlp.down`.

        `cross.k` and `cross.v` are entered by the encoder's output; all others by something a token of this stack.
        """
        u = self.attn_norms.enter(h)
        found = {**dict.fromkeys(("attn.q", "attn.k", "attn.v"), u), "attn.o": self.attn.mix(u, length)}
        if not self.spec.parallel:
            h = self.attn_norms.add(h, self.attn_branches(h, length))
        packing = length if isinstance(length, Packing) else None
        if self.cross is not None:
            assert self.cross_norms is not None
            assert memory is not None
            u = self.cross_norms.enter(h)
            found |= {
                "cross.q": u,
                "cross.k": memory.h,
                "cross.v": memory.h,
                "cross.o": self.cross.mix_memory(u, memory, packing),
            }
            h = self.cross_norms.add(h, self.cross_branches(h, memory, packing))
        u = self.mlp_norms.enter(h)
        if isinstance(self.mlp, Experts):  # each expert sees tokens of its own
            return {**found, "mlp.router": u}
        gate = {} if self.mlp.gate is None else {"mlp.gate": u}
        return {**found, "mlp.up": u, **gate, "mlp.down": self.mlp.hidden(u)}

    def __call__(
        self,
        h: Float[Array, "token d_model"],
        length: Int[Array, ""] | Packing | None = None,
        memory: Memory | None = None,
        seen: KeyValue | None = None,
    ) -> Float[Array, "token d_model"]:
        """Carry the residual stream of one sample, of which `length` tokens count (default: all), through the block.

        Or that of a pack of samples. `memory` is the encoder's output, for a block with cross attention; `seen` what
        `key_value` gives, where it is known.
        """
        length = jnp.asarray(h.shape[0]) if length is None else length
        packing = length if isinstance(length, Packing) else None
        cross = None if memory is None else functools.partial(self.cross_branches, memory=memory, packing=packing)
        return self._add_branches(h, self.attn_branches(h, length, seen), cross)


class Embedding(nnx.Module):
    """Tokens in, the residual stream before block 0 out."""

    def __init__(self, spec: ModelSpec, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        own, d_model = spec.embedding, spec.d_model
        width = own.width if own.project_last else d_model

        def table(rows: int, width: int) -> nnx.Param:
            return nnx.Param(draw_normal(rngs.params(), (rows, width), own.std, dtype))

        self.token = table(spec.vocab, own.width)
        self.position = table(own.positions, width) if own.positions else None
        self.token_type = table(own.token_types, width) if own.token_types else None
        self.project = (
            Linear(own.width, d_model, std=own.std, bias=own.project_last, dtype=dtype, rngs=rngs)
            if own.project_last or own.width != d_model
            else None
        )
        self.norm = None if own.norm is None else make_norm(own.norm, width, dtype)
        self.spec = own

    def __call__(
        self, tokens: Int[Array, " token"], positions: Int[Array, " token"] | None = None
    ) -> Float[Array, "token d_model"]:
        """Look up the vectors of one sample, or of tokens at given `positions` of several.

        Padding beyond the last position repeats that position.
        """
        h = self.spec.scale * self.token[...][tokens]
        if self.project is not None and not self.spec.project_last:
            h = self.project(h)
        if self.position is not None:
            place = self.spec.offset + (jnp.arange(tokens.shape[0]) if positions is None else positions)
            h = h + self.position[...][jnp.minimum(place, self.spec.positions - 1)]
        if self.token_type is not None:
            h = h + jnp.broadcast_to(self.token_type[...][0], h.shape)
        h = h if self.norm is None else self.norm(h)
        return self.project(h) if self.project is not None and self.spec.project_last else h


class Head(nnx.Module):
    """Final norm and unembedding: the residual stream after the last block in, logits out."""

    def __init__(self, spec: ModelSpec, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        own, d_model = spec.head, spec.d_model
        linear = functools.partial(Linear, dtype=dtype, rngs=rngs)
        self.norm = None if own.norm is None else make_norm(own.norm, d_model, dtype)
        narrow = own.width != d_model and own.transform is None
        self.project = linear(d_model, own.width, std=own.std, bias=False) if narrow else None
        self.transform = (
            None if own.transform is None else linear(d_model, own.width, std=own.std, bias=own.transform_bias)
        )
        self.transform_norm = None if own.transform_norm is None else make_norm(own.transform_norm, own.width, dtype)
        self.unembed = linear(own.width, spec.vocab, std=own.std, bias=own.bias)
        self.spec = own

    def features(self, h: Float[Array, "*token d_model"]) -> Float[Array, "*token width"]:
        """Compute what the unembedding reads."""
        h = h if self.norm is None else self.norm(h)
        h = h if self.project is None else self.project(h)
        if self.transform is not None:
            assert self.transform_norm is not None
            assert self.spec.transform is not None
            h = self.transform_norm(ACTIVATIONS[self.spec.transform](self.transform(h)))
        return self.spec.scale * h

    def __call__(self, h: Float[Array, "*token d_model"]) -> Float[Array, "*token vocab"]:
        """Compute logits: of the next token, or of the token itself in a masked language model."""
        logits = self.unembed(self.features(h))
        return logits if self.spec.softcap is None else self.spec.softcap * jnp.tanh(logits / self.spec.softcap)
