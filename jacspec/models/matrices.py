"""The weight matrices of a checkpoint, by role: streamed, none skipped without a word.

Of a supported family each matrix has a role and a layer, a fused tensor gives its parts and itself. Of any other
checkpoint each tensor is a matrix by its name.
"""

import dataclasses
import fnmatch
import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Shaped

from jacspec.axes import BASE, UPDATE
from jacspec.models.adapters import take_apart
from jacspec.models.architectures import piece_names
from jacspec.models.block import ModelSpec
from jacspec.models.checkpoint import Checkpoint
from jacspec.models.modules import leaf_names, module_parts, module_rules, module_template
from jacspec.models.tensor_files import FLOATS, StoredTensor, TensorFiles

EMBEDDINGS = ("embed", "unembed")
ROLES: dict[str, str] = {
    **{
        f"{place}.{name}.weight": f"{prefix}{name}"
        for place, prefix in (("attn", ""), ("cross", "cross."))
        for name in "qkvo"
    },
    **{f"mlp.{name}.weight": name for name in ("up", "gate", "down", "router")},
    "token": "embed",
    "position": "embed",
    "token_type": "embed",
    "unembed.weight": "unembed",
}
"""Roles of the leaves of jacspec's modules; other matrices have the role `other`."""

NO_FORWARD_PASS = "enters no forward pass"
VECTOR, TIED, UNWANTED = (
    "a vector: bias, norm or scalar",
    "tied to another tensor",
    "left out by weights.include or exclude",
)
LAYER_NUMBER = re.compile(r"(?:^|(?<=\.))[0-9]{1,5}(?=\.|$)")
"""Where the name of a tensor says its layer; a longer number is none."""

BIASES = "stacked vectors: a bias for each"
SKIPPED = "a tensor of three axes or more: weights.stacked=auto takes it in"
EMPTY = "empty"
AUTO, EXPERTS, KERNEL, SKIP = "auto", "experts", "kernel", "skip"
WIDEST_KERNEL = 16
"""The longest last axis of a tensor of three axes that makes it a kernel where its name says nothing."""

EXPERT_NAME = re.compile(r"expert|moe", re.IGNORECASE)
KERNEL_NAME = re.compile(r"conv|kernel|patch_embed", re.IGNORECASE)

NO_EMBEDDING = "an embedding: weights.embeddings=true takes it in"


class Matrix(NamedTuple):
    """A weight matrix `(out, in)`, or what a tensor gives as one; `layer` is None outside the blocks.

    It is `values` times two to the `exponent`. Of one of known low rank `inputs` is an orthonormal basis of what it
    reads; of one that an adapter changed `base` holds the values before. Of a fused one `blocks` has how many rows
    each part has, one below the other.
    """

    layer: int | None
    role: str
    name: str
    values: Shaped[np.ndarray, "rows cols"]
    exponent: int = 0
    inputs: Float[np.ndarray, "cols rank"] | None = None
    base: Shaped[np.ndarray, "rows cols"] | None = None
    blocks: tuple[int, ...] = ()

    @property
    def kind(self) -> tuple[int, ...]:
        """What it has in common with those that one call of the SVD kernel takes: sizes, whichever is first."""
        shape = self.values.shape
        return tuple(sorted(shape, reverse=True)) if self.inputs is None else (*shape, self.inputs.shape[1])


class LeftOut(NamedTuple):
    """A tensor that gives no matrix, and why."""

    name: str
    reason: str


class Choice(NamedTuple):
    """Which matrices are wanted: patterns (`*` and `?`) on name or role, an empty `include` meaning all.

    `stacked` is what tensors of three axes are taken for where they are read by name, as `lay_out` has it; `only`
    these names are wanted, where it is given.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    embeddings: bool = False
    stacked: str = AUTO
    only: Collection[str] | None = None

    def refuses(self, role: str, name: str) -> str | None:
        """Say why a matrix is left out; None where it is wanted."""

        def matches(patterns: Sequence[str]) -> bool:
            return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns for text in (role, name))

        if (self.include and not matches(self.include)) or matches(self.exclude):
            return UNWANTED
        if self.only is not None and name not in self.only:
            return UNWANTED
        return NO_EMBEDDING if role in EMBEDDINGS and not self.embeddings and not self.include else None


class Listed(NamedTuple):
    """A matrix that is wanted, not read yet; `whole` where it is no part of a fused one."""

    layer: int | None
    role: str
    name: str
    whole: bool


class _Wanted(NamedTuple):
    """A matrix of a tensor: its leaves, or of leaves that are stacked the part at `place`."""

    name: str
    role: str
    leaves: tuple[str, ...]
    whole: bool
    place: int | None


class _Module(NamedTuple):
    """What a module of a checkpoint gives: by tensor name its matrices, those of fused ones before the whole.

    `left_out` is what gives no matrix.
    """

    part: str
    number: int
    layer: int | None
    wanted: dict[str, list[_Wanted]]
    left_out: list[LeftOut]


def list_model(checkpoint: Checkpoint, choice: Choice) -> Iterator[Listed | LeftOut]:
    """List what `stream_model` would yield, in its order, without reading a tensor."""
    for module in _modules(checkpoint, choice):
        yield from module.left_out
        for matrices in module.wanted.values():
            yield from (Listed(module.layer, each.role, each.name, each.whole) for each in matrices)


def stream_model(checkpoint: Checkpoint, choice: Choice) -> Iterator[Matrix | LeftOut]:
    """Yield the matrices of a checkpoint of a supported family, in the order of the forward pass.

    One tensor is in memory at a time (one module of a model with random weights), of experts those of one kind. A
    fused tensor gives its parts by the family's rule, then itself, with the roles of its parts joined (`qkv`). Every
    expert's matrices have the role of a dense MLP's, and a name with the expert's number.
    """
    for module in _modules(checkpoint, choice):
        yield from module.left_out
        if not module.wanted:
            continue
        for name, leaves in checkpoint.leaves(module.part, module.number, module.wanted):
            for each in module.wanted[name]:
                parts = [leaves[leaf] if each.place is None else leaves[leaf][each.place] for leaf in each.leaves]
                values = parts[0] if len(parts) == 1 else np.concatenate(parts)
                blocks = tuple(map(len, parts)) if len(parts) > 1 else ()
                yield Matrix(module.layer, each.role, each.name, values, blocks=blocks)


def _modules(checkpoint: Checkpoint, choice: Choice) -> Iterator[_Module]:
    """Go through the modules of a checkpoint; the last one stands for tensors that belong to none."""
    spec, architecture = checkpoint.spec, checkpoint.architecture
    seen: set[str] = set()
    for part, number in module_parts(spec):
        template = module_template(spec, part, number)
        shapes = dict(zip(leaf_names(template), (leaf.shape for leaf in jax.tree.leaves(template)), strict=True))
        stack = f"{spec.blocks[number].stack}." if part == "block" and spec.blocks[number].stack else ""
        module = _Module(part, number, spec.layer(number) if part == "block" else None, {}, [])
        for name, rule, target in module_rules(architecture, spec, part, number, template):
            if name in seen or (part == "head" and not checkpoint.has_head):
                continue
            pieces = piece_names(name, target)
            seen |= {name, *pieces}
            vectors = (".bias", "norm.weight")  # also where they are stacked, of heads or experts
            axes = {0 if leaf.endswith(vectors) else len(shapes[leaf]) for leaf in rule.leaves}
            if part == "head" and spec.tied and name in architecture.tied:
                module.left_out.append(LeftOut(name, TIED))
            elif not axes <= {2, 3}:
                module.left_out.extend(LeftOut(piece, VECTOR) for piece in pieces)
            else:
                experts = target.shapes[0][0] if axes == {3} else None
                wanted, left_out = _choose(name, pieces, rule.leaves, experts, stack, choice)
                module.left_out.extend(left_out)
                module.wanted.update({name: wanted} if wanted else {})
        yield module
    stored = checkpoint.tensors.index if checkpoint.tensors else {}
    rest = [
        LeftOut(name, TIED if name in architecture.tied else NO_FORWARD_PASS) for name in stored if name not in seen
    ]
    yield _Module("", 0, None, {}, rest)


def _choose(
    name: str, pieces: Sequence[str], leaves: tuple[str, ...], experts: int | None, stack: str, choice: Choice
) -> tuple[list[_Wanted], list[LeftOut]]:
    """List the matrices of a tensor that are wanted, of all `experts` where it is theirs, and those that are not."""
    roles = {group: stack + _role(group) for group in (*((leaf,) for leaf in leaves), leaves)}
    names: list[tuple[int | None, str]] = [(None, name)]
    if experts is not None:
        names = list(enumerate(pieces if "*" in name else [f"{name}[{place}]" for place in range(experts)]))
    wanted: list[_Wanted] = []
    left_out: list[LeftOut] = []
    for place, name in names:
        kept = {group: role for group, role in roles.items() if not choice.refuses(role, name)}
        wanted += [_Wanted(name, role, group, group == leaves, place) for group, role in kept.items()]
        if not kept:
            left_out.append(LeftOut(name, choice.refuses(roles[leaves], name) or UNWANTED))
    return wanted, left_out


def _role(leaves: Sequence[str]) -> str:
    """Name the role of a leaf, or of a tensor that holds several: `qkv`, `gate_up`."""
    roles = [ROLES.get(leaf, "other") for leaf in leaves]
    return ("" if max(map(len, roles)) == 1 else "_").join(roles)


class Layout(NamedTuple):
    """How a tensor of a checkpoint read by name is laid out: as `matrices` of `shape`, in the order of memory."""

    kind: str
    matrices: int
    shape: tuple[int, int]

    def names(self, name: str) -> list[str]:
        """Name the matrices: of several `name[0]`, `name[1]`, … as NumPy would index the tensor."""
        return [name] if self.kind != EXPERTS else [f"{name}[{number}]" for number in range(self.matrices)]


def lay_out(name: str, shape: tuple[int, ...], stacked: str = AUTO) -> Layout | None:
    """Say as which matrices a tensor of two axes or more is read; None where `stacked` leaves it out.

    A tensor of more than two axes is a kernel (out, in, height, width) and becomes a matrix (out, in · height · width),
    as one output sees its inputs. One of three axes may be a kernel (out, in, width) too, or matrices that are stacked
    (experts, in, out), which is said by its name (`experts`, `conv`) or else by its last axis, which is short in a
    kernel. A leading axis of one is no axis.
    """
    if len(shape) == 2:
        return Layout("matrix", 1, (shape[0], shape[1]))
    flat = Layout(KERNEL, 1, (shape[0], int(np.prod(shape[1:]))))
    if stacked == SKIP:
        return None
    if len(shape) > 3 or stacked == KERNEL:
        return flat
    if stacked == AUTO:
        experts, kernel = EXPERT_NAME.search(name), KERNEL_NAME.search(name)
        short = shape[0] > 1 and shape[2] <= WIDEST_KERNEL
        if (kernel and (short or not experts)) or (short and not experts):
            return flat
        if shape[0] == 1 and not experts:
            return Layout("matrix", 1, (shape[1], shape[2]))
    return Layout(EXPERTS, shape[0], (shape[1], shape[2]))


def describe_layouts(tensors: TensorFiles, choice: Choice) -> list[str]:
    """Say for what the tensors of three axes are taken, by name (`*` for a layer) and shape, a line a kind."""
    found: dict[tuple[str, str, tuple[int, ...]], int] = {}
    for name, stored in tensors.index.items():
        layout = _wanted_layout(name, stored, choice)
        if isinstance(layout, Layout) and len(stored.shape) == 3:
            key = (layout.kind, LAYER_NUMBER.sub("*", name), stored.shape)
            found[key] = found.get(key, 0) + 1
    said = {EXPERTS: "{0} matrices {1} each", KERNEL: "kernels, one matrix {2} each", "matrix": "one matrix {1} each"}
    return [
        f"{name} {list(shape)}, {count} taken for "
        + said[kind].format(shape[0], list(shape[1:]), [shape[0], shape[1] * shape[2]])
        + " (weights.stacked=experts, kernel or skip)"
        for (kind, name, shape), count in sorted(found.items())
    ]


def _wanted_layout(name: str, stored: StoredTensor, choice: Choice) -> Layout | LeftOut:
    """Say how a tensor is laid out as matrices, or why it gives none."""
    if stored.dtype not in FLOATS:
        return LeftOut(name, f"not a floating point tensor: {stored.dtype}")
    if sum(size != 1 for size in stored.shape) < 2 and len(stored.shape) != 2:
        return LeftOut(name, VECTOR)
    if 0 in stored.shape:
        return LeftOut(name, EMPTY)
    if name.endswith("bias"):
        return LeftOut(name, BIASES)
    if reason := choice.refuses("other", name):
        return LeftOut(name, reason)
    return lay_out(name, stored.shape, choice.stacked) or LeftOut(name, SKIPPED)


def list_tensors(tensors: TensorFiles, choice: Choice) -> Iterator[Listed | LeftOut]:
    """List what `stream_tensors` would yield, in its order, without reading a tensor."""
    for name in sorted(tensors.index, key=_natural):
        layout = _wanted_layout(name, tensors.index[name], choice)
        if isinstance(layout, LeftOut):
            yield layout
            continue
        layer = _layer(name)
        yield from (Listed(layer, "other", part, whole=True) for part in layout.names(name))


def stream_tensors(tensors: TensorFiles, choice: Choice) -> Iterator[Matrix | LeftOut]:
    """Yield the matrices of a checkpoint of any kind by tensor name, with the role `other`, laid out by `lay_out`.

    The layer is the first number in the name. Which axis of a matrix is the output is not known: it stays as stored.
    """
    for name in sorted(tensors.index, key=_natural):
        layout = _wanted_layout(name, tensors.index[name], choice)
        if isinstance(layout, LeftOut):
            yield layout
            continue
        values = tensors.read(name, finite=False).reshape(layout.matrices, *layout.shape)
        layer = _layer(name)
        yield from (Matrix(layer, "other", *each) for each in zip(layout.names(name), values, strict=True))


def stream_adapted(tensors: TensorFiles, checkpoint: Checkpoint | None, choice: Choice) -> Iterator[Matrix | LeftOut]:
    """Yield what `stream_model` does (`stream_tensors` without a checkpoint), and apart what an adapter changed.

    Behind a matrix that an adapter changed come its base's, with `.base` behind its role and name, and what was added
    to it, with `.update`.
    """
    changed, base, update = take_apart(tensors)

    def read(files: TensorFiles, choice: Choice) -> Iterator[Matrix | LeftOut]:
        if checkpoint is None:
            return stream_tensors(files, choice)
        return stream_model(dataclasses.replace(checkpoint, tensors=files), choice)

    def changed_alone(files: TensorFiles) -> Iterator[Matrix]:
        return (each for each in read(files, choice._replace(only=changed)) if isinstance(each, Matrix))

    beside = zip(changed_alone(base), changed_alone(update), strict=True)
    for found in read(tensors, choice):
        if isinstance(found, LeftOut) or found.name not in changed:
            yield found
            continue
        before, added = next(beside)
        yield found._replace(base=before.values)
        yield before._replace(role=f"{found.role}{BASE}", name=f"{found.name}{BASE}")
        inputs = changed[found.name].inputs(as_stored=checkpoint is None)
        yield added._replace(role=f"{found.role}{UPDATE}", name=f"{found.name}{UPDATE}", inputs=inputs)


def _layer(name: str) -> int | None:
    found = LAYER_NUMBER.search(name)
    return int(found[0]) if found else None


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort `h.2` before `h.10`."""
    parts = re.split(r"([0-9]+)", name)  # every second one is digits
    return [(0, int(part[:9]), part) if place % 2 else (1, 0, part) for place, part in enumerate(parts)]


def in_batches(
    matrices: Iterator[tuple[int, Matrix]], *, memory_bytes: float, most: int = 16
) -> Iterator[list[tuple[int, Matrix]]]:
    """Gather matrices of one kind, wide ones turned tall, into batches for one call of the SVD kernel.

    Waiting matrices take `memory_bytes` at most: beyond it the kind that holds most goes first.
    """
    waiting: dict[tuple[int, ...], list[tuple[int, Matrix]]] = {}
    for number, matrix in matrices:
        waiting.setdefault(matrix.kind, []).append((number, matrix))
        if len(waiting[matrix.kind]) >= most:
            yield waiting.pop(matrix.kind)
        while waiting and sum(each.values.nbytes for batch in waiting.values() for _, each in batch) > memory_bytes:
            yield waiting.pop(max(waiting, key=lambda kind: sum(each.values.size for _, each in waiting[kind])))
    yield from waiting.values()


def block_roles(spec: ModelSpec) -> dict[int, dict[str, str]]:
    """Find the matrices of every block: by block number, the leaf of each role; the stacks of experts are none."""
    found = {}
    for number in range(len(spec.blocks)):
        template = module_template(spec, "block", number)
        axes = dict(zip(leaf_names(template), (leaf.ndim for leaf in jax.tree.leaves(template)), strict=True))
        found[number] = {role: leaf for leaf, role in ROLES.items() if axes.get(leaf) == 2}
    return found
