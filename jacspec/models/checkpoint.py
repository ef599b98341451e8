"""From a Hugging Face folder to a stream of Flax modules, one in memory at a time.

With its neighbours `hf_config.py`, `tensor_files.py` and `tokenizer.py` it alone knows HF's layout. No remote code is
ever run.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, UInt

from jacspec.backend import shapes_of
from jacspec.errors import JacspecError, shortened
from jacspec.files import Hashes
from jacspec.models.adapters import apply_adapter, open_adapter
from jacspec.models.architectures import ONE_NORM, PARALLEL, Architecture, Target, TensorRule, piece_names
from jacspec.models.block import Block, Embedding, Head, ModelSpec
from jacspec.models.gguf_files import is_gguf, name_gguf, open_gguf, read_gguf_config
from jacspec.models.hf_config import read_config, read_json
from jacspec.models.layers import LayerNorm, RMSNorm, make_norm
from jacspec.models.tensor_files import FLOATS, StoredTensor, TensorFiles, open_tensors
from jacspec.models.tensor_names import name_by_tables, outside_stack
from jacspec.models.tokenizer import load_tokenizer
from jacspec.notebook import facts_table

SHOWN = 20
"""Lines of an error about tensors, so that a wrong family fills no screen."""


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened model: what it is, and its modules, each made when asked for.

    `config` holds every HF key, class defaults included. `files` maps the names of the files that were read to
    their sha256. `make` builds a module by part (`embedding`, `block`, `encoder_norm`, `head`) and number; use the
    methods. Blocks are numbered through, an encoder's before its decoder's. `has_head` is false for a checkpoint
    that was saved without its language-model head. `tensors` are its files, where it has any. `unread` names the
    tensors of heads that no layer needs, `notes` are sentences on how the files were read, for the user.
    `unread_keys` are the keys of its config file that no line of HF's code for the family reads: they change nothing.
    """

    name: str
    revision: str | None
    architecture: Architecture
    config: Mapping[str, Any]
    spec: ModelSpec
    files: Mapping[str, str]
    tokenizer_folder: Path
    dtype: jnp.dtype
    make: Callable[[str, int], Any]
    has_head: bool = True
    tensors: TensorFiles | None = None
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unread_keys: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Say in one line what was opened."""
        return f"<jacspec.Checkpoint {', '.join(f'{key} {value}' for key, value in self._facts().items())}>"

    def _repr_html_(self) -> str:
        """Show a notebook the same as a table."""
        return facts_table("jacspec.Checkpoint", self._facts())

    def _facts(self) -> dict[str, Any]:
        own = self.spec.blocks[0]
        heads = f"{own.attention.heads} of {own.attention.d_head}"
        revision = {"revision": self.revision} if self.revision else {}
        return {
            "name": self.name,
            **revision,
            "family": self.architecture.model_type,
            "blocks": len(self.spec.blocks),
            "d_model": own.d_model,
            "heads": heads,
            "d_ff": own.mlp.d_ff,
            "vocab": self.spec.vocab,
            "dtype": self.dtype.name,
        }

    def embedding(self) -> Embedding:
        """Make the module that turns tokens into the residual stream before block 0."""
        return self.make("embedding", 0)

    def block(self, number: int) -> Block:
        """Make block `number`, counted from 0; raises `JacspecError` where its weights are not finite."""
        return self.make("block", number)

    def blocks(self) -> Iterator[Block]:
        """Make the blocks in order, one at a time."""
        return (self.block(number) for number in range(len(self.spec.blocks)))

    def with_blocks(self, change: Callable[[int, Block], Block]) -> "Checkpoint":
        """Return the same model with `change(number, block)` in the place of each block, made when asked for."""

        def make(part: str, number: int) -> Any:
            module = self.make(part, number)
            return change(number, module) if part == "block" else module

        return dataclasses.replace(self, make=make)

    def shapes(self, part: str, number: int) -> Any:
        """Return a module with shapes in the place of its arrays."""
        return shapes_of(module_template(self.spec, part, number), self.dtype)

    def encoder_norm(self) -> LayerNorm | RMSNorm:
        """Make the norm that ends the encoder of an encoder-decoder model."""
        return self.make("encoder_norm", 0)

    def head(self) -> Head:
        """Make the final norm and unembedding; raises `JacspecError` where the checkpoint has none."""
        if not self.has_head:
            raise JacspecError(f"{self.name} was saved without its language-model head: it gives no logits.")
        return self.make("head", 0)

    def leaves(self, part: str, number: int, names: Collection[str]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Read tensors of one module by HF's `names`, one after the other, as the leaves that each fills.

        Values that are not finite are handed on, unlike by the methods that make modules.
        """
        if self.tensors is not None:
            found = _read_leaves(self.architecture, self.spec, self.tensors, part, number, finite=False)
        else:
            module = self.make(part, number)
            whole = dict(zip(leaf_names(module), map(np.asarray, jax.tree.leaves(module)), strict=True))
            rules = module_rules(self.architecture, self.spec, part, number, module)

            def pick(rule: TensorRule) -> dict[str, Any]:
                return {leaf: whole[leaf] for leaf in rule.leaves}

            found = ((name, functools.partial(pick, rule)) for name, rule, _ in rules)
        yield from ((name, read()) for name, read in found if name in names)

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The HF tokenizer; raises `JacspecError` where the folder has none."""
        return load_tokenizer(self.tokenizer_folder, model_type=self.architecture.model_type)


def open_checkpoint(
    folder: Path,
    *,
    weights_folder: Path | None = None,
    adapter: Path | None = None,
    name: str | None = None,
    revision: str | None = None,
    dtype: str = "float32",
) -> Checkpoint:
    """Open an HF-layout folder: check its config and every tensor's name and shape, read no weights yet.

    **Arguments:** `folder`, with `config.json` and the tokenizer, or a GGUF file; `weights_folder`, where the weights
    lie if elsewhere (a saved revision); `adapter`, the folder of a change to them; `dtype`, `float32` or `float64`,
    what weights are cast to.

    **Returns:** a `Checkpoint` whose modules are read from the file when asked for.

    **Raises:** `JacspecError` naming every config key and every tensor that does not fit.
    """
    weights_folder = weights_folder or folder
    config_file = folder if folder.is_file() else folder / "config.json"
    tensors = open_adapted(weights_folder, adapter)  # first: it says what is there instead of a model
    config = read_model_config(folder)
    if adapter is not None and any(each.file in tensors.files[-1:] for each in _heads(tensors)):
        config["tie_word_embeddings"] = False  # as PEFT merges an unembedding that it trained and saved
    read = check_checkpoint(config, tensors, origin=str(config_file), place=str(weights_folder), dtype=dtype)
    return Checkpoint(
        name=name or folder.name,
        revision=revision,
        files=Hashes(tuple(dict.fromkeys((config_file, *tensors.files)))),
        tokenizer_folder=folder,
        **read,
    )


def open_adapted(weights: Path, adapter: Path | None, *, any_name: bool = False) -> TensorFiles:
    """Open the tensors of a folder or a GGUF file, with the changes of an adapter on them where there is one."""
    tensors = open_gguf(weights) if is_gguf(weights) else open_tensors(weights, any_name=any_name)
    return tensors if adapter is None else apply_adapter(tensors, open_adapter(adapter))


def read_model_config(folder: Path) -> dict[str, Any]:
    """Read the HF config of a folder, or that of a GGUF file's metadata."""
    return read_gguf_config(folder) if is_gguf(folder) else read_json(folder / "config.json")


def _heads(tensors: TensorFiles) -> Iterator[StoredTensor]:
    return (stored for name, stored in tensors.index.items() if name.rpartition(".")[0].endswith("lm_head"))


def check_checkpoint(
    raw_config: Mapping[str, Any], stored: TensorFiles, *, origin: str, place: str, dtype: str
) -> dict[str, Any]:
    """Check an HF config and every tensor's name and shape, wherever they come from.

    **Arguments:** `origin` and `place`, what errors call the config and the tensors.

    **Returns:** the fields of a `Checkpoint` that follow from them.

    **Raises:** `JacspecError` naming every config key and every tensor that does not fit.
    """
    architecture, config, spec, unread_keys = read_config(raw_config, origin)
    known = _table_names(architecture, spec)
    named = name_gguf(architecture, spec, stored, known) if stored.types else stored
    tensors = name_by_tables(architecture, named, known)
    has_head, unread = _check_tensors(architecture, spec, tensors, place)
    left = {
        "tensors that no layer needs, left unread": unread,
        "keys of config.json not read by this family": unread_keys,
    }
    noted = (f"{what}: {len(names)} ({shortened(names)})" for what, names in left.items() if names)
    return {
        "architecture": architecture,
        "config": config,
        "spec": spec,
        "dtype": jnp.dtype(dtype),
        "make": functools.partial(_read_module, architecture, spec, tensors, jnp.dtype(dtype)),
        "has_head": has_head,
        "tensors": tensors,
        "unread": unread,
        "notes": (*tensors.notes, *noted),
        "unread_keys": unread_keys,
    }


def random_checkpoint(
    raw_config: Mapping[str, Any], *, tokenizer_folder: Path, seed: int, name: str, dtype: str = "float32"
) -> Checkpoint:
    """Make a model of the given HF config with its family's own random initialisation, block by block.

    The same `seed` gives the same weights at every precision; no file is read but the tokenizer's.
    """
    architecture, config, spec, unread = read_config(raw_config, f"the config of {name}")

    def make(part: str, number: int) -> Any:
        number = 0 if part == "block" and spec.shared else number
        # One stream of keys a module, so that a block can be made without those before it.
        stream = {"embedding": 0, "head": 1, "block": 2 + number, "encoder_norm": 2 + len(spec.blocks)}[part]
        numbers = np.asarray(seed % 2**32, np.uint32), np.asarray(stream, np.uint32)
        module = _draw_module(*numbers, spec=_drawn(spec, part, number), part=part, dtype=jnp.dtype(dtype))
        if part == "head" and spec.tied:
            module.unembed.weight = nnx.Param(make("embedding", 0).token[...])
        return module

    return Checkpoint(
        name, None, architecture, config, spec, {}, tokenizer_folder, jnp.dtype(dtype), make, unread_keys=unread
    )


def _drawn(spec: ModelSpec, part: str, number: int) -> ModelSpec:
    """Leave of a model what one module is made of, so that blocks alike share one program."""
    return dataclasses.replace(spec, blocks=spec.blocks[number : number + 1] if part == "block" else spec.blocks[:1])


@functools.partial(jax.jit, static_argnames=("spec", "part", "dtype"))
def _draw_module(
    seed: UInt[Array | np.ndarray, ""],
    stream: UInt[Array | np.ndarray, ""],
    *,
    spec: ModelSpec,
    part: str,
    dtype: jnp.dtype,
) -> Any:
    key = jax.random.fold_in(jax.random.key(seed), stream)
    module = build_module(spec, part, 0, jnp.dtype("float32"), key)
    return jax.tree.map(lambda leaf: leaf.astype(dtype), module)


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


def _table_names(architecture: Architecture, spec: ModelSpec) -> frozenset[str]:
    """Collect the names of all tensors that a model of this spec may have."""
    return frozenset(
        piece
        for part, number in module_parts(spec)
        for name, _, target in module_rules(architecture, spec, part, number, module_template(spec, part, number))
        for piece in piece_names(name, target)
    )


def _check_tensors(
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


@functools.lru_cache(maxsize=8)
def _block_template(spec: Any) -> Any:
    return nnx.eval_shape(lambda: Block(spec, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(params=0)))


def module_template(spec: ModelSpec, part: str, number: int) -> Any:
    """Build a module's tree with shapes in the place of its arrays."""
    if part == "block":
        return _block_template(spec.blocks[number])
    return nnx.eval_shape(lambda: build_module(spec, part, number, jnp.dtype("float32"), jax.random.key(0)))


def _read_module(
    architecture: Architecture, spec: ModelSpec, tensors: TensorFiles, dtype: jnp.dtype, part: str, number: int
) -> Any:
    """Read the tensors of one module and put them in its template's place."""
    template = module_template(spec, part, number)
    leaves: dict[str, jax.Array] = {}
    for _, read in _read_leaves(architecture, spec, tensors, part, number, finite=True):
        # Cast on the host: on the device every shape would be a program.
        leaves |= {leaf: jax.device_put(np.asarray(value, dtype)) for leaf, value in read().items()}
    return jax.tree.unflatten(jax.tree.structure(template), [leaves[name] for name in leaf_names(template)])


def _read_leaves(
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
