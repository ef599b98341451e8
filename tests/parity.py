"""jacspec's side of the comparison with HF: activations of a padded batch, and where branches are differentiated."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from oracles import Seen, deviation

from jacspec.jacobians.branches import Branch, Point, bind, bind_samples
from jacspec.models.block import Block
from jacspec.models.checkpoint import Checkpoint
from jacspec.samples import Batch, Memory

LENGTHS = (1, 2, 17)


quick_jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)
"""Hundreds of small programs run once each: less is compiled into them, the arithmetic is the same."""


@quick_jit
def through(block: Block, h: Any, lengths: Any, memory: Any) -> tuple[dict[str, Any], dict[str, Point]]:
    """Compute all that a block computes, for every sample, and its points; `{}` in a name stands for the layer."""

    def one(h: Any, length: Any, memory: Any) -> dict[str, Any]:
        found = {"attn{} in": h, "attn{}": block.attn_branches(h, length), "block{}": block(h, length, memory)}
        if not block.spec.parallel:
            h = block.attn_norms.add(h, found["attn{}"])
        if block.cross_norms is not None:
            found |= {"cross{} in": h, "cross{}": block.cross_branches(h, memory)}
            h = block.cross_norms.add(h, found["cross{}"])
        return found | {"mlp{} in": h, "mlp{}": block.mlp_branch(h)}

    found = jax.vmap(one)(h, lengths, memory)
    branches = bind_samples(block, h, lengths, memory)
    for component, branch in branches.items():
        found[f"last {component}{{}}"] = jax.vmap(branch.f)(*branch.point)
    return found, {component: branch.point for component, branch in branches.items()}


@quick_jit
def _apply(module: Any, x: Any) -> Any:
    return jax.vmap(module)(x)


class Forward(NamedTuple):
    """Arrays by the names that `oracles.watch` gives them, and where each branch is differentiated."""

    arrays: dict[str, np.ndarray]
    branches: dict[tuple[str, str, int], Branch]


def forward(checkpoint: Checkpoint, batch: Batch) -> Forward:
    """Run jacspec's modules on a padded batch."""
    spec, seen = checkpoint.spec, Forward({}, {})
    h, stack, memory = jnp.zeros(0), None, None
    for number, block in enumerate(checkpoint.blocks()):
        layer = spec.layer(number)
        if block.spec.stack != stack:
            if stack is not None:
                memory = Memory(_apply(checkpoint.encoder_norm(), h), jnp.asarray(batch.lengths))
                first = np.full_like(batch.tokens[:, :1], spec.decoder_start or 0)
                batch = Batch(np.concatenate([first, batch.tokens[:, :-1]], axis=1), batch.lengths)
            stack = block.spec.stack
            h = _apply(checkpoint.embedding(), jnp.asarray(batch.tokens))
            seen.arrays[f"{stack}embedding"] = np.asarray(h)
        found, points = through(block, h, jnp.asarray(batch.lengths), memory)
        seen.arrays.update({stack + name.format(layer): np.asarray(value) for name, value in found.items()})
        for component, point in points.items():
            seen.branches[stack, component, layer] = bind(block, component, point)
        h = found["block{}"]
    if checkpoint.has_head:
        seen.arrays["logits"] = np.asarray(_apply(checkpoint.head(), h))
    return seen


def worst_deviation(found: Forward, expected: Seen, sample: int, length: int) -> float:
    """Compare everything recorded of one sample; the last token's own branch with the sequence's last row."""
    wanted = dict(expected.arrays)
    for stack, component, layer in expected.calls:
        wanted[f"{stack}last {component}{layer}"] = wanted[f"{stack}{component}{layer}"][-1]
    assert found.arrays.keys() == wanted.keys()
    rows = {name: value[sample] if "last " in name else value[sample, :length] for name, value in found.arrays.items()}
    return max(deviation(rows[name], wanted[name]) for name in wanted)


def samples(vocab: int) -> tuple[list[np.ndarray], Batch]:
    """Draw a sample of each length, without the tokens that RoBERTa takes for padding, and the padded batch."""
    rng = np.random.default_rng(0)
    tokens = [rng.integers(2, vocab, length) for length in LENGTHS]
    table = np.zeros((len(tokens), max(LENGTHS) + 3), np.int32)
    for row, ids in zip(table, tokens, strict=True):
        row[: len(ids)] = ids
    return tokens, Batch(table, np.array(LENGTHS, np.int32))


def forward_one(checkpoint: Checkpoint, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Run jacspec's modules on one sample."""
    batch = Batch(np.asarray(tokens, np.int32)[None], np.array([len(tokens)], np.int32))
    return {name: value[0] for name, value in forward(checkpoint, batch).arrays.items()}
