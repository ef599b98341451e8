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
MOST_DIGITS = 9
LAYER_NUMBER = re.compile(rf"(?:^|(?<=\.))[0-9]{{1,{MOST_DIGITS}}}(?=\.|$)")
"""Where the name of a tensor says its layer, in at most so many digits."""

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


class Listed(NamedTuple):
    """A matrix that is wanted, not read yet; `whole` where it is all of its tensor, not a part of a fused one."""

    layer: int | None
    role: str
    name: str
    whole: bool


class _Module(NamedTuple):
    """What a module of a checkpoint gives: by tensor name the role of each group of its leaves, and of all of them.

    `left_out` is what gives no matrix.
    """

    part: str
    number: int
    layer: int | None
    wanted: dict[str, dict[tuple[str, ...], str]]
    leaves: dict[str, tuple[str, ...]]
    left_out: list[LeftOut]


def list_model(checkpoint: Checkpoint, choice: Choice) -> Iterator[Listed | LeftOut]:
    """List what `stream_model` would yield, in its order, without reading a tensor."""
    for module in _modules(checkpoint, choice):
        yield from module.left_out
        for name, groups in module.wanted.items():
            for group, role in groups.items():
                yield Listed(module.layer, role, name, group == module.leaves[name])


def stream_model(checkpoint: Checkpoint, choice: Choice) -> Iterator[Matrix | LeftOut]:
    """Yield the matrices of a checkpoint of a supported family, in the order of the forward pass.

    One tensor is in memory at a time (one module of a model with random weights). A fused tensor gives its parts by
    the family's rule, then itself, with the roles of its parts joined (`qkv`).
    """
    for module in _modules(checkpoint, choice):
        yield from module.left_out
        if not module.wanted:
            continue
        for name, leaves in checkpoint.leaves(module.part, module.number, module.wanted):
            for group, role in module.wanted[name].items():
                parts = [leaves[leaf] for leaf in group]
                yield Matrix(module.layer, role, name, parts[0] if len(parts) == 1 else np.concatenate(parts))


def _modules(checkpoint: Checkpoint, choice: Choice) -> Iterator[_Module]:
    """Go through the modules of a checkpoint; the last one stands for tensors that belong to none."""
    spec, architecture = checkpoint.spec, checkpoint.architecture
    seen: set[str] = set()
    for part, number in module_parts(spec):
        template = module_template(spec, part, number)
        shapes = dict(zip(leaf_names(template), (leaf.shape for leaf in jax.tree.leaves(template)), strict=True))
        stack = f"{spec.blocks[number].stack}." if part == "block" and spec.blocks[number].stack else ""
        module = _Module(part, number, spec.layer(number) if part == "block" else None, {}, {}, [])
        for name, rule, _ in module_rules(architecture, spec, part, number, template):
            roles = {leaves: stack + _role(leaves) for leaves in (*((leaf,) for leaf in rule.leaves), rule.leaves)}
            kept = {leaves: role for leaves, role in roles.items() if not choice.refuses(role, name)}
            if name in seen or (part == "head" and not checkpoint.has_head):
                continue
            seen.add(name)
            if part == "head" and spec.tied and name in architecture.tied:
                module.left_out.append(LeftOut(name, TIED))
            elif any(len(shapes[leaf]) != 2 for leaf in rule.leaves):
                module.left_out.append(LeftOut(name, VECTOR))
            elif not kept:
                module.left_out.append(LeftOut(name, choice.refuses(roles[rule.leaves], name) or UNWANTED))
            else:
                module.wanted[name], module.leaves[name] = kept, rule.leaves
        yield module
    stored = checkpoint.tensors.index if checkpoint.tensors else {}
    rest = [LeftOut(name, TIED if name in architecture.tied else UNUSED) for name in stored if name not in seen]
    yield _Module("", 0, None, {}, {}, rest)


def _role(leaves: Sequence[str]) -> str:
    """Name the role of a leaf, or of a tensor that holds several: `qkv`, `gate_up`."""
    roles = [ROLES.get(leaf, "other") for leaf in leaves]
    return ("" if max(map(len, roles)) == 1 else "_").join(roles)


def list_tensors(tensors: TensorFiles, choice: Choice) -> Iterator[Listed | LeftOut]:
    """List what `stream_tensors` would yield, in its order, without reading a tensor."""
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
            found = LAYER_NUMBER.search(name)
            yield Listed(int(found[0]) if found else None, "other", name, True)


def stream_tensors(tensors: TensorFiles, choice: Choice) -> Iterator[Matrix | LeftOut]:
    """Yield the matrices of a checkpoint of any kind by tensor name, with the role `other`.

    A tensor of more than two axes, as a convolution's kernel (out, in, height, width), becomes a matrix (out,
    in · height · width), as one output sees its inputs. The layer is the first number in the name.
    """
    for found in list_tensors(tensors, choice):
        if isinstance(found, LeftOut):
            yield found
        else:
            values = tensors.read(found.name, finite=False)
            yield Matrix(found.layer, found.role, found.name, values.reshape(len(values), -1))


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort `h.2` before `h.10`."""
    parts = re.split(r"([0-9]+)", name)  # every second one is digits
    return [(0, int(part[:MOST_DIGITS]), part) if place % 2 else (1, 0, part) for place, part in enumerate(parts)]


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
