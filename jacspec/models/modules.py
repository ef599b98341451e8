"""The modules of a model and the tensors that fill them: templates, the family's rules, checks, and reading.

A module is known by part (`embedding`, `block`, `encoder_norm`, `head`) and number; its template has shapes in the
place of arrays, so that a file is checked before any weight is read.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jacspec.errors import JacspecError
from jacspec.models.architectures import ONE_NORM, PARALLEL, Architecture, Target, TensorRule, piece_names
from jacspec.models.block import Block, Embedding, Head, ModelSpec
from jacspec.models.layers import make_norm
from jacspec.models.tensor_files import FLOATS, TensorFiles
from jacspec.models.tensor_names import outside_stack

SHOWN = 20
"""Lines of an error about tensors, so that a wrong family fills no screen."""


def build_module(spec: ModelSpec, part: str, number: int, dtype: jnp.dtype, key: Any) -> Any:
    """Build one module (`embedding`, `block`, `encoder_norm`, `head`) with randomly initialised weights."""
    rngs = nnx.Rngs(params=key)
    if part == "block":
        return Block(spec.blocks[number], dtype=dtype, rngs=rngs)
    if part == "embedding":
        return Embedding(spec, dtype=dtype, rngs=rngs)
    if part == "encoder_norm":
        assert spec.encoder_norm is not None
        return make_norm(spec.encoder_norm, spec.d_model, dtype)
    return Head(spec, dtype=dtype, rngs=rngs)


def leaf_names(module: Any) -> list[str]:
    """Name the arrays of a module (or its template) by attribute path, in the order of its pytree."""
    paths, _ = jax.tree_util.tree_flatten_with_path(module)
    return [".".join(key.name for key in path[:-1]) for path, _ in paths]


def module_parts(spec: ModelSpec) -> list[tuple[str, int]]:
    """List the modules of a model as (part, number), in the order of the forward pass."""
    norm = [("encoder_norm", 0)] if spec.encoder_norm is not None else []
    return [("embedding", 0), *(("block", number) for number in range(len(spec.blocks))), *norm, ("head", 0)]


def module_rules(
    architecture: Architecture, spec: ModelSpec, part: str, number: int, module: Any
) -> Iterator[tuple[str, TensorRule, Target]]:
    """Go through the tensors of a module (or its template): HF name, rule, and what the rule fills."""
    shapes = {name: leaf.shape for name, leaf in zip(leaf_names(module), jax.tree.leaves(module), strict=True)}
    block = spec.blocks[number]
    layer = spec.layer(number) if part == "block" else 0
    kinds = {PARALLEL: block.parallel, ONE_NORM: block.one_norm} if part == "block" else {}
    has = {*shapes, *(kind for kind, there in kinds.items() if there)}
    for rule in architecture.rules(part, block.stack):
        if rule.applies(has):
            target = Target(tuple(shapes[leaf] for leaf in rule.leaves), block.attention.kv_heads)
            yield rule.name.format(layer=layer), rule, target


@functools.lru_cache(maxsize=8)
def _block_template(spec: Any) -> Any:
    return nnx.eval_shape(lambda: Block(spec, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(params=0)))


def module_template(spec: ModelSpec, part: str, number: int) -> Any:
    """Build a module's tree with shapes in the place of its arrays."""
    if part == "block":
        return _block_template(spec.blocks[number])
    return nnx.eval_shape(lambda: build_module(spec, part, number, jnp.dtype("float32"), jax.random.key(0)))


def table_names(architecture: Architecture, spec: ModelSpec) -> frozenset[str]:
    """Collect the names of all tensors that a model of this spec may have."""
    return frozenset(
        piece
        for part, number in module_parts(spec)
        for name, _, target in module_rules(architecture, spec, part, number, module_template(spec, part, number))
        for piece in piece_names(name, target)
    )


def check_tensors(
    architecture: Architecture, spec: ModelSpec, tensors: TensorFiles, folder: str
) -> tuple[bool, tuple[str, ...]]:
    """Compare the file's tensors with the family's tables: all that is missing, unread or misshaped, at once.

    **Returns:** whether the checkpoint has its language-model head, and the tensors of heads that no layer needs.
    """
    problems: list[str] = []
    expected: set[str] = set()
    has_head = True
    for part, number in module_parts(spec):
        template = module_template(spec, part, number)
        leaves = {*leaf_names(template)}
        filled: list[str] = []
        missing: list[str] = []
        pieces = []
        for whole, rule, target in module_rules(architecture, spec, part, number, template):
            filled += rule.leaves
            shape = _stored_shape(rule, target)
            pieces += [(name, shape[1:] if "*" in whole else shape) for name in piece_names(whole, target)]
        for name, shape in pieces:
            expected.add(name)
            stored = tensors.index.get(_serving(architecture, spec, tensors, name))
            if stored is None:
                missing.append(f"missing: {name} {list(shape)}")
            elif stored.shape != shape:
                problems.append(f"misshaped: {name} is {list(stored.shape)}, expected {list(shape)}")
            elif stored.dtype not in FLOATS:
                problems.append(f"not a floating point tensor: {name} is {stored.dtype}, as in quantised checkpoints")
        problems += [f"unfilled: no tensor in the table fills {part} {number} {leaf}" for leaf in leaves - {*filled}]
        problems += [f"filled twice: {part} {number} {leaf}" for leaf in {*filled} if filled.count(leaf) > 1]
        if part == "head" and missing and not _has_any(tensors, architecture.language_model):
            own = [line for line in missing if line.removeprefix("missing: ").startswith(architecture.language_model)]
            has_head, missing = not own, [line for line in missing if line not in own]
        problems += missing
    layers = range(len(spec.blocks))
    unused = {name.format(layer=layer) for name in architecture.unused for layer in layers} | architecture.tied.keys()
    unread = sorted(tensors.index.keys() - expected - unused)
    heads = tuple(name for name in unread if outside_stack(architecture, name))
    # Beside what is missing, every name that nothing read is a clue.
    strange = [name for name in unread if name not in heads or any(line.startswith("missing") for line in problems)]
    if problems or strange:
        raise JacspecError(_describe_problems(architecture, folder, [*problems, *(f"unread: {n}" for n in strange)]))
    return has_head, heads


def _describe_problems(architecture: Architecture, folder: str, problems: Sequence[str]) -> str:
    """Write what does not fit, of every kind a fair part, so that one kind does not hide another."""
    kinds = itertools.groupby(sorted(problems), key=lambda problem: problem.partition(":")[0])
    in_turn = itertools.zip_longest(*[list(lines) for _, lines in kinds])
    shown = sorted([problem for row in in_turn for problem in row if problem is not None][:SHOWN])
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    adapters = any(".lora_" in problem for problem in problems)
    way = "\nIt holds LoRA matrices that were not merged: PEFT's merge_and_unload() first." if adapters else ""
    lines = "\n  ".join([*shown, *more])
    return f"The tensors in {folder} do not fit a {architecture.model_type} of its config:\n  {lines}{way}"


def _serving(architecture: Architecture, spec: ModelSpec, tensors: TensorFiles, name: str) -> str:
    """Name the tensor that serves under `name`: itself, or in a tied model that lacks it one that it is tied to.

    Of tensors that share their memory safetensors keeps one, whichever; HF ties in both directions too.
    """
    if name in tensors.index or not spec.tied:
        return name
    source = architecture.tied.get(name, name)
    tied = (source, *(other for other, served in architecture.tied.items() if served == source))
    return next((each for each in tied if each in tensors.index), name)


def _has_any(tensors: TensorFiles, beginnings: tuple[str, ...]) -> bool:
    return any(name.startswith(beginnings) for name in tensors.index)


@functools.lru_cache(maxsize=1024)
def _stored_shape(rule: TensorRule, target: Target) -> tuple[int, ...]:
    leaves = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in target.shapes]
    return jax.eval_shape(lambda *parts: rule.save(parts, target), *leaves).shape


def read_module(
    architecture: Architecture, spec: ModelSpec, tensors: TensorFiles, dtype: jnp.dtype, part: str, number: int
) -> Any:
    """Read the tensors of one module and put them in its template's place."""
    template = module_template(spec, part, number)
    leaves: dict[str, jax.Array] = {}
    for _, read in read_leaves(architecture, spec, tensors, part, number, finite=True):
        # Cast on the host: on the device every shape would be a program.
        leaves |= {leaf: jax.device_put(np.asarray(value, dtype)) for leaf, value in read().items()}
    return jax.tree.unflatten(jax.tree.structure(template), [leaves[name] for name in leaf_names(template)])


def read_leaves(
    architecture: Architecture, spec: ModelSpec, tensors: TensorFiles, part: str, number: int, *, finite: bool
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Go through the tensors of one module: HF's name, and how to read the leaves that it fills."""
    for name, rule, target in module_rules(architecture, spec, part, number, module_template(spec, part, number)):

        def read(name: str = name, rule: TensorRule = rule, target: Target = target) -> dict[str, Any]:
            pieces = [
                tensors.read(_serving(architecture, spec, tensors, piece), finite=finite)
                for piece in piece_names(name, target)
            ]
            tensor = np.stack(pieces) if "*" in name else pieces[0]
            return dict(zip(rule.leaves, rule.load(tensor, target), strict=True))

        yield name, read
