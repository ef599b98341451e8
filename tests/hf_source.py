"""Which config keys HF's code reads, derived from the source of the installed transformers, without jacspec.

Static: every place in a family's modelling file, in the common functions and classes that it imports, and in the
methods of its config class where a key is taken from a config by name.
"""

import ast
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import transformers
from transformers import CONFIG_MAPPING

ROOT = Path(transformers.__file__).parent
CONFIGS = ("config", "text_config", "encoder_config", "decoder_config", "vision_config")
BASE_METHODS = {
    "configuration_utils.py": ("__post_init__", "validate_architecture", "validate_layer_type"),
    "modeling_rope_utils.py": ("convert_rope_params_to_dict", "standardize_rope_params"),
}
"""What every config class runs: the methods of its bases, the second row where it has `rope_parameters`."""


def keys_read(model_type: str) -> dict[str, set[str]]:
    """Name the config keys that HF's code for a family reads, as its config class calls them, each with the files."""
    config_class = CONFIG_MAPPING[model_type]
    own = Path(config_class.__module__.replace(".", "/") + ".py").relative_to("transformers")
    modelling = own.with_name(own.name.replace("configuration_", "modeling_"))
    found = {modelling: {*_reads(_parse(modelling))}}
    for file, names in _imports(modelling):
        found.setdefault(file, set()).update(key for node in _closure(file, names) for key in _reads(node))
    found[own] = {key for node in _lineage(own, config_class.__name__) for key in _reads(node, own=True)}
    for name, methods in BASE_METHODS.items():
        if name != "modeling_rope_utils.py" or "rope_parameters" in _fields(config_class):
            nodes = _methods(Path(name), methods)
            found.setdefault(Path(name), set()).update(key for node in nodes for key in _reads(node, own=True))
    keys: dict[str, set[str]] = {}
    for file, read in found.items():
        for key in (config_class.attribute_map.get(name, name) for name in read):
            if not _is_machinery(config_class, key):
                keys.setdefault(key, set()).add(str(file))
    return keys


def _is_machinery(config_class: type, key: str) -> bool:
    """Say whether a name is a method or a constant of the class, which no file can set."""
    return key.startswith("__") or (hasattr(config_class, key) and key not in _fields(config_class))


def _fields(config_class: type) -> set[str]:
    return {field.name for field in dataclasses.fields(config_class)}


@functools.lru_cache(maxsize=64)
def _parse(file: Path) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=64)
def _definitions(file: Path) -> dict[str, ast.AST]:
    """Index the functions, classes and tables at the top of a file by name."""
    found: dict[str, ast.AST] = {}
    for node in _parse(file).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
    return found


def _lineage(file: Path, name: str) -> list[ast.AST]:
    """Find a class and those of the same file that it inherits from."""
    node = _definitions(file)[name]
    assert isinstance(node, ast.ClassDef)
    bases = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in _definitions(file)]
    return [node, *(ancestor for base in bases for ancestor in _lineage(file, base))]


def _imports(file: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Go through what a file takes from HF's common code and from other families: files, and the names from them."""
    for node in ast.walk(_parse(file)):
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            place = file.parent
            for _ in range(node.level - 1):
                place = place.parent
            other = place / (node.module.replace(".", "/") + ".py")
            if (ROOT / other).is_file() and not other.name.startswith("configuration_"):
                yield other, tuple(alias.name for alias in node.names)


@functools.lru_cache(maxsize=256)
def _closure(file: Path, names: tuple[str, ...]) -> list[ast.AST]:
    """Find definitions of a file and those of the same file that they use, in turn."""
    known, found, waiting = _definitions(file), dict[str, ast.AST](), list(names)
    while waiting:
        name = waiting.pop()
        if name in known and name not in found:
            found[name] = known[name]
            waiting += [node.id for node in ast.walk(known[name]) if isinstance(node, ast.Name)]
    return list(found.values())


def _methods(file: Path, names: tuple[str, ...]) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(_parse(file)) if isinstance(node, ast.FunctionDef) and node.name in names]


def _reads(tree: ast.AST, *, own: bool = False) -> Iterator[str]:
    """Name what is taken from a config: `config.KEY`, `getattr(config, "KEY")`; with `own` from `self` and `kwargs`."""

    def is_config(node: ast.AST) -> bool:
        named = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        return named in CONFIGS or (own and named == "self")

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and is_config(node.value):
            yield node.attr
        if not isinstance(node, ast.Call):
            continue
        texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        if isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr") and is_config(node.args[0]):
            yield from texts[:1]
        if own and isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop"):
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id == "kwargs":
                yield from texts[:1]
