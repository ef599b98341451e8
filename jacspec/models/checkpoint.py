"""From a Hugging Face folder to a stream of Flax modules, one in memory at a time.

With its neighbours `hf_config.py`, `tensor_files.py` and `tokenizer.py` it alone knows HF's layout. No remote code is
ever run.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
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
from jacspec.models.architectures import Architecture, TensorRule
from jacspec.models.block import Block, Embedding, Head, ModelSpec
from jacspec.models.gguf_files import is_gguf, name_gguf, open_gguf, read_gguf_config
from jacspec.models.hf_config import read_config, read_json
from jacspec.models.layers import LayerNorm, RMSNorm
from jacspec.models.modules import (
    build_module,
    check_tensors,
    leaf_names,
    module_rules,
    module_template,
    read_leaves,
    read_module,
    table_names,
)
from jacspec.models.tensor_files import StoredTensor, TensorFiles, open_tensors
from jacspec.models.tensor_names import name_by_tables
from jacspec.models.tokenizer import load_encoder, load_tokenizer
from jacspec.notebook import facts_table


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
            found = read_leaves(self.architecture, self.spec, self.tensors, part, number, finite=False)
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

    @functools.cached_property
    def encoder(self) -> Any:
        """What gives the ids of texts: the tokenizer, or what gives the same without it; raises as `tokenizer`."""
        return load_encoder(self.tokenizer_folder) or self.tokenizer


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
    known = table_names(architecture, spec)
    named = name_gguf(architecture, spec, stored, known) if stored.types else stored
    tensors = name_by_tables(architecture, named, known)
    has_head, unread = check_tensors(architecture, spec, tensors, place)
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
        "make": functools.partial(read_module, architecture, spec, tensors, jnp.dtype(dtype)),
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
