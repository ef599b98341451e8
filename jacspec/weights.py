"""The weight matrices of a checkpoint, by role: streamed, none skipped without a word.

Of a supported family each matrix has a role and a layer, a fused tensor gives its parts and itself. Of any other
checkpoint each tensor is a matrix by its name.
"""

import fnmatch
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Shaped

from jacspec.models.checkpoint import Checkpoint, leaf_names, module_parts, module_rules, module_template
from jacspec.models.tensor_files import FLOATS, TensorFiles

EMBEDDINGS = ("embed", "unembed")
ROLES: dict[str, str] = {
    **{
        f"{place}.{name}.weight": f"{prefix}{name}"
        for place, prefix in (("attn", ""), ("cross", "cross."))
        for name in "qkvo"
    },
    **{f"mlp.{name}.weight": name for name in ("up", "gate", "down")},
    "token": "embed",
    "position": "embed",
    "token_type": "embed",
    "unembed.weight": "unembed",
}
"""Roles of the leaves of jacspec's modules; other matrices have the role `other`."""

UNUSED = "enters no forward pass"
VECTOR, TIED, UNWANTED = (
    "a vector: bias, norm or scalar",
    "tied to another tensor",
    "left out by weights.include or exclude",
)
NO_EMBEDDING = "an embedding: weights.embeddings=true takes it in"


class Matrix(NamedTuple):
    """A weight matrix `(out, in)`, or what a tensor gives as one; `layer` is None outside the blocks."""

    layer: int | None
    role: str
    name: str
    values: Shaped[np.ndarray, "rows cols"]


class LeftOut(NamedTuple):
    """A tensor that gives no matrix, and why."""

    name: str
    reason: str


class Choice(NamedTuple):
    """Which matrices are wanted: patterns (`*` and `?`) on name or role, an empty `include` meaning all."""

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    embeddings: bool = False

    def refuses(self, role: str, name: str) -> str | None:
        """Say why a matrix is left out; None where it is wanted."""

        def matches(patterns: Sequence[str]) -> bool:
            return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns for text in (role, name))

        if (self.include and not matches(self.include)) or matches(self.exclude):
            return UNWANTED
        return NO_EMBEDDING if role in EMBEDDINGS and not self.embeddings and not self.include else None


def stream_model(checkpoint: Checkpoint, choice: Choice) -> Iterator[Matrix | LeftOut]:
    """Yield the matrices of a checkpoint of a supported family, in the order of the forward pass.

    One tensor is in memory at a time (one module of a model with random weights). A fused tensor gives its parts by
    the family's rule, then itself, with the roles of its parts joined (`qkv`).
    """
    spec, architecture = checkpoint.spec, checkpoint.architecture
    seen: set[str] = set()
    for part, number in module_parts(spec):
        template = module_template(spec, part, number)
        shapes = dict(zip(leaf_names(template), (leaf.shape for leaf in jax.tree.leaves(template)), strict=True))
        stack = f"{spec.blocks[number].stack}." if part == "block" and spec.blocks[number].stack else ""
        wanted: dict[str, dict[tuple[str, ...], str]] = {}
        for name, rule, _ in module_rules(architecture, spec, part, number, template):
            roles = {leaves: stack + _role(leaves) for leaves in (*((leaf,) for leaf in rule.leaves), rule.leaves)}
            kept = {leaves: role for leaves, role in roles.items() if not choice.refuses(role, name)}
            if name in seen or (part == "head" and not checkpoint.has_head):
                continue
            seen.add(name)
            if part == "head" and spec.tied and name in architecture.tied:
                yield LeftOut(name, TIED)
            elif any(len(shapes[leaf]) != 2 for leaf in rule.leaves):
                yield LeftOut(name, VECTOR)
            elif not kept:
                yield LeftOut(name, choice.refuses(roles[rule.leaves], name) or UNWANTED)
            else:
                wanted[name] = kept
        layer = spec.layer(number) if part == "block" else None
        for name, leaves in checkpoint.leaves(part, number, wanted):
            for group, role in wanted[name].items():
                parts = [leaves[leaf] for leaf in group]
                yield Matrix(layer, role, name, parts[0] if len(parts) == 1 else np.concatenate(parts))
    stored = checkpoint.tensors.index if checkpoint.tensors else {}
    yield from (LeftOut(name, UNUSED) for name in stored if name not in seen)


def _role(leaves: Sequence[str]) -> str:
    """Name the role of a leaf, or of a tensor that holds several: `qkv`, `gate_up`."""
    roles = [ROLES.get(leaf, "other") for leaf in leaves]
    return ("" if max(map(len, roles)) == 1 else "_").join(roles)


def stream_tensors(tensors: TensorFiles, choice: Choice) -> Iterator[Matrix | LeftOut]:
    """Yield the matrices of a checkpoint of any kind by tensor name, with the role `other`.

    A tensor of more than two axes, as a convolution's kernel (out, in, height, width), becomes a matrix (out,
    in · height · width), as one output sees its inputs. The layer is the first number in the name.
    """
    for name in sorted(tensors.index, key=_natural):
        stored = tensors.index[name]
        if stored.dtype not in FLOATS:
            yield LeftOut(name, f"not a floating point tensor: {stored.dtype}")
        elif len(stored.shape) < 2:
            yield LeftOut(name, VECTOR)
        elif 0 in stored.shape:
            yield LeftOut(name, "empty")
        elif reason := choice.refuses("other", name):
            yield LeftOut(name, reason)
        else:
            found = re.search(r"(?:^|\.)(\d+)(?:\.|$)", name)
            values = tensors.read(name, finite=False).reshape(stored.shape[0], -1)
            yield Matrix(int(found[1]) if found else None, "other", name, values)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort `h.2` before `h.10`."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def in_batches(
    matrices: Iterator[tuple[int, Matrix]], *, memory_bytes: float, most: int = 16
) -> Iterator[list[tuple[int, Matrix]]]:
    """Gather matrices of one shape, wide ones turned tall, into batches for one call of the SVD kernel.

    Waiting matrices take `memory_bytes` at most: beyond it the shape that holds most goes first.
    """
    waiting: dict[tuple[int, ...], list[tuple[int, Matrix]]] = {}
    for number, matrix in matrices:
        shape = tuple(sorted(matrix.values.shape, reverse=True))
        waiting.setdefault(shape, []).append((number, matrix))
        if len(waiting[shape]) >= most:
            yield waiting.pop(shape)
        while waiting and sum(each.values.nbytes for batch in waiting.values() for _, each in batch) > memory_bytes:
            yield waiting.pop(max(waiting, key=lambda shape: len(waiting[shape]) * int(np.prod(shape))))
    yield from waiting.values()
