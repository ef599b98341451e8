"""From a Hugging Face folder to a stream of Flax modules, one in memory at a time.

With `hf_config.py` this room alone knows HF's layout: safetensors with or without an index, the tokenizer's files.
Weights come from safetensors only; nothing is ever unpickled and no remote code is ever run.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open

from jacspec.errors import JacspecError
from jacspec.models.architectures import Architecture, TensorRule
from jacspec.models.block import Block, Embedding, Head, ModelSpec
from jacspec.models.hf_config import read_config, read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened model: what it is, and its modules, each made when asked for.

    `config` holds every HF key, class defaults included. `files` maps the names of the files that were read to
    their sha256. `make` builds a module by part (`embedding`, `block`, `head`) and layer; use the methods.
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

    def embedding(self) -> Embedding:
        """Make the module that turns tokens into the residual stream before block 0."""
        return self.make("embedding", 0)

    def block(self, layer: int) -> Block:
        """Make block `layer`, counted from 0; raises `JacspecError` where its weights are not finite."""
        return self.make("block", layer)

    def blocks(self) -> Iterator[Block]:
        """Make the blocks in order, one at a time."""
        return (self.block(layer) for layer in range(len(self.spec.blocks)))

    def head(self) -> Head:
        """Make the final norm and unembedding."""
        return self.make("head", 0)

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The HF tokenizer; raises `JacspecError` where the folder has none."""
        return load_tokenizer(self.tokenizer_folder)


def open_checkpoint(
    folder: Path,
    *,
    weights_folder: Path | None = None,
    name: str | None = None,
    revision: str | None = None,
    dtype: str = "float32",
) -> Checkpoint:
    """Open an HF-layout folder: check its config and every tensor's name and shape, read no weights yet.

    **Arguments:** `folder`, with `config.json` and the tokenizer; `weights_folder`, where the weights lie if
    elsewhere (a saved revision); `dtype`, `float32` or `float64`, what weights are cast to.

    **Returns:** a `Checkpoint` whose modules are read from the file when asked for.

    **Raises:** `JacspecError` naming every config key and every tensor that does not fit.
    """
    weights_folder = weights_folder or folder
    config_file = folder / "config.json"
    architecture, config, spec = read_config(read_json(config_file), str(config_file))
    files = _weight_files(weights_folder)
    tensors = _tensor_index(files, architecture.prefix)
    _check_tensors(architecture, spec, tensors, weights_folder)
    return Checkpoint(
        name=name or folder.name,
        revision=revision,
        architecture=architecture,
        config=config,
        spec=spec,
        files={file.name: sha256(file) for file in (config_file, *files)},
        tokenizer_folder=folder,
        dtype=jnp.dtype(dtype),
        make=functools.partial(_read_module, architecture, spec, tensors, jnp.dtype(dtype)),
    )


def random_checkpoint(
    raw_config: Mapping[str, Any], *, tokenizer_folder: Path, seed: int, name: str, dtype: str = "float32"
) -> Checkpoint:
    """Make a model of the given HF config with its family's own random initialisation, block by block.

    The same `seed` gives the same weights at every precision; no file is read but the tokenizer's.
    """
    architecture, config, spec = read_config(raw_config, f"the config of {name}")

    def make(part: str, layer: int) -> Any:
        # One stream of keys a module, so that a block can be made without those before it.
        number = {"embedding": 0, "head": 1, "block": 2 + layer}[part]
        module = build_module(spec, part, layer, jnp.dtype("float32"), jax.random.fold_in(jax.random.key(seed), number))
        return jax.tree.map(lambda leaf: leaf.astype(dtype), module)

    return Checkpoint(name, None, architecture, config, spec, {}, tokenizer_folder, jnp.dtype(dtype), make)


def build_module(spec: ModelSpec, part: str, layer: int, dtype: jnp.dtype, key: Any) -> Any:
    """Build one module (`embedding`, `block`, `head`) of a model with randomly initialised weights."""
    rngs = nnx.Rngs(params=key)
    if part == "block":
        return Block(spec.blocks[layer], dtype=dtype, rngs=rngs)
    if part == "embedding":
        return Embedding(spec, dtype=dtype, rngs=rngs)
    return Head(spec, dtype=dtype, rngs=rngs)


def load_tokenizer(folder: Path) -> Any:
    """Load the HF tokenizer of a folder, never running code that comes with it."""
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json", "vocab.json")):
        raise JacspecError(f"{folder} has no tokenizer: put its tokenizer.json and tokenizer_config.json there.")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # HF raises many types for broken files
        raise JacspecError(f"The tokenizer in {folder} cannot be loaded: {error}") from error


def sha256(file: Path) -> str:
    """Hash a file without holding it in memory."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def leaf_names(module: Any) -> list[str]:
    """Name the arrays of a module (or its template) by attribute path, in the order of its pytree."""
    paths, _ = jax.tree_util.tree_flatten_with_path(module)
    return [".".join(key.name for key in path[:-1]) for path, _ in paths]


def module_rules(architecture: Architecture, part: str, tied: bool) -> tuple[TensorRule, ...]:
    """Return the tensor table of a part, `{layer}` not yet filled in."""
    return architecture.head_rules(tied) if part == "head" else getattr(architecture, part)


def _weight_files(folder: Path) -> tuple[Path, ...]:
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX)
        names = set(index.get("weight_map", {}).values())
        if any(Path(str(name)).name != name for name in names):
            raise JacspecError(f"{folder / INDEX} names files outside its own folder.")
        files = tuple(folder / name for name in sorted(names))
    else:
        files = (folder / WEIGHTS,)
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        raise JacspecError(f"No safetensors weights: {', '.join(missing) or folder} is missing.")
    return files


def _tensor_index(files: tuple[Path, ...], prefix: str) -> dict[str, tuple[Path, str, tuple[int, ...]]]:
    """Map each tensor's name without the optional prefix to its file, its name there and its shape."""
    tensors: dict[str, tuple[Path, str, tuple[int, ...]]] = {}
    for file in files:
        try:
            with safe_open(file, framework="flax") as reader:
                for stored in reader.keys():  # noqa: SIM118 (not a mapping)
                    name = stored.removeprefix(prefix)
                    if name in tensors:
                        raise JacspecError(f"{file}: the tensor {name} is there twice.")
                    tensors[name] = (file, stored, tuple(reader.get_slice(stored).get_shape()))
        except (SafetensorError, OSError) as error:
            raise JacspecError(f"{file} is damaged or not a safetensors file: {error}. Download it again.") from error
    return tensors


def _check_tensors(
    architecture: Architecture,
    spec: ModelSpec,
    tensors: Mapping[str, tuple[Path, str, tuple[int, ...]]],
    folder: Path,
) -> None:
    """Compare the file's tensors with the family's table: all that is missing, unread or misshaped, at once."""
    problems: list[str] = []
    expected: set[str] = set()
    for part, layers in (("embedding", 1), ("block", len(spec.blocks)), ("head", 1)):
        for layer in range(layers):
            template = _template(spec, part, layer)
            shapes = dict(zip(leaf_names(template), jax.tree.leaves(template), strict=True))
            for rule in module_rules(architecture, part, spec.tied):
                name = rule.name.format(layer=layer)
                shape = jax.eval_shape(rule.save, *(shapes.pop(leaf) for leaf in rule.leaves)).shape
                expected.add(name)
                if name not in tensors:
                    problems.append(f"missing: {name} {list(shape)}")
                elif tensors[name][2] != shape:
                    problems.append(f"misshaped: {name} is {list(tensors[name][2])}, expected {list(shape)}")
            problems += [f"unfilled: no tensor in the table fills {part} {layer} {leaf}" for leaf in shapes]
    buffers = {name.format(layer=layer) for name in architecture.buffers for layer in range(len(spec.blocks))} | (
        set(architecture.tied) if spec.tied else set()
    )
    problems += [f"unread: {name}" for name in tensors if name not in expected | buffers]
    if problems:
        shown = "\n  ".join(sorted(problems)[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise JacspecError(
            f"The tensors in {folder} do not fit a {architecture.model_type} of its config:\n  {shown}{more}"
        )


@functools.lru_cache(maxsize=8)
def _block_template(spec: Any) -> Any:
    return nnx.eval_shape(lambda: Block(spec, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(params=0)))


def _template(spec: ModelSpec, part: str, layer: int) -> Any:
    if part == "block":
        return _block_template(spec.blocks[layer])
    return nnx.eval_shape(lambda: build_module(spec, part, layer, jnp.dtype("float32"), jax.random.key(0)))


def _read_module(
    architecture: Architecture,
    spec: ModelSpec,
    tensors: Mapping[str, tuple[Path, str, tuple[int, ...]]],
    dtype: jnp.dtype,
    part: str,
    layer: int,
) -> Any:
    """Read the tensors of one module and put them in its template's place."""
    template = _template(spec, part, layer)
    leaves: dict[str, jax.Array] = {}
    for rule in module_rules(architecture, part, spec.tied):
        file, stored, _ = tensors[rule.name.format(layer=layer)]
        try:
            with safe_open(file, framework="flax") as reader:
                tensor = np.asarray(reader.get_tensor(stored))
        except (SafetensorError, OSError) as error:
            raise JacspecError(f"{file}: the tensor {stored} cannot be read: {error}") from error
        if not np.isfinite(tensor).all():
            raise JacspecError(f"{file}: the tensor {stored} holds values that are not finite.")
        for leaf, value in zip(rule.leaves, rule.load(tensor), strict=True):
            leaves[leaf] = jnp.asarray(value, dtype)
    return jax.tree.unflatten(jax.tree.structure(template), [leaves[name] for name in leaf_names(template)])
