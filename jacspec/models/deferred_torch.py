"""transformers without the seconds of PyTorch that its configurations and tokenizers do not use.

Where PyTorch is installed, half of transformers imports it at its first line, whether or not anything of it is called.
Inside `deferring_torch` such modules get a stand-in that becomes PyTorch when something of it is asked for.
transformers itself is told nothing: it goes on knowing that PyTorch is there, so that whoever imports it afterwards,
in a notebook say, finds it whole.
"""

import builtins
import contextlib
import importlib
import importlib.abc
import importlib.util
import logging
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

DTYPES = ("float16", "bfloat16", "float32", "float64")
TYPES = ("BoolTensor", "FloatTensor", "Generator", "IntTensor", "LongTensor", "Tensor", "device", "dtype")
"""Types that annotations name and that nothing has while PyTorch is not there."""

MODELS = "transformers.models.auto.modeling_auto"
FACTORY = "transformers.models.auto.auto_factory"
NOT_FOUND = "PyTorch was not found"
"""How transformers' complaint begins where PyTorch is not installed."""

_one_at_a_time = threading.RLock()


class _Deferred(ModuleType):
    """A module that is imported when something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


class _DeferredTorch(_Deferred):
    """PyTorch, of which configurations want the names of dtypes, as glad of the words, and annotations its types."""

    def __getattr__(self, name: str) -> Any:
        if "torch" not in sys.modules:
            if name in DTYPES:
                return name
            if name in TYPES:
                return type(name, (), {})
        return super().__getattr__(name)


class _Activations(Mapping[str, Any]):
    """transformers' table of activations, made of PyTorch modules: empty until PyTorch is there, as without it."""

    def __getitem__(self, name: str) -> Any:
        return self._table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    @property
    def _table(self) -> Mapping[str, Any]:
        return importlib.import_module("transformers.activations").ACT2FN if "torch" in sys.modules else {}


class _NoModels(importlib.abc.MetaPathFinder):
    """Keep transformers' table of models away, which docstrings of configurations name one of and can do without."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == MODELS and "torch" not in sys.modules:
            raise ModuleNotFoundError(f"{name} waits for PyTorch.", name=name)


@contextlib.contextmanager
def deferring_torch() -> Iterator[None]:
    """Import and use transformers inside without importing PyTorch; where PyTorch is imported already, change nothing.

    What asks for more of PyTorch than a stand-in can give, a newer transformers perhaps, imports it: that takes seconds
    and is right. Where PyTorch is not installed, transformers' complaint about it is left out.
    """
    if "torch" in sys.modules:
        yield
    elif importlib.util.find_spec("torch") is None:
        logger = logging.getLogger("transformers")
        logger.addFilter(_is_no_complaint)
        try:
            yield
        finally:
            logger.removeFilter(_is_no_complaint)
    else:
        # Two threads would each put back what the other one put in.
        with _one_at_a_time, _importing_stand_ins():
            yield


def _is_no_complaint(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(NOT_FOUND)


@contextlib.contextmanager
def _importing_stand_ins() -> Iterator[None]:
    """Give transformers' own modules stand-ins where they import PyTorch, and whatever else they import as it is."""
    real = builtins.__import__
    torch, activations = _DeferredTorch("torch"), _Deferred("transformers.activations")
    activations.ACT2FN = _Activations()  # type: ignore[attr-defined]
    generation = _Deferred("transformers.generation")
    generation.GenerationMixin = type("GenerationMixin", (), {})  # type: ignore[attr-defined]

    def import_(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        importer = str((globals or {}).get("__name__"))
        if importer.startswith("transformers.") and "torch" not in sys.modules:
            if name == "torch" and not fromlist:
                return torch
            if importer == "transformers.utils.type_validators" and name == "activations":
                return activations
            if importer == FACTORY and name == "generation":
                return generation
        return real(name, globals, locals, fromlist, level)

    no_models = _NoModels()
    builtins.__import__ = import_
    sys.meta_path.insert(0, no_models)
    try:
        yield
    finally:
        builtins.__import__ = real
        sys.meta_path.remove(no_models)
        if (factory := sys.modules.get(FACTORY)) and vars(factory).get("GenerationMixin") is generation.GenerationMixin:
            _complete(factory)


def _complete(factory: Any) -> None:
    """Let the one function that uses the class a stand-in was given for, in transformers 5.17, find it first."""
    add = factory.add_generation_mixin_to_remote_model

    def completed(model_class: Any) -> Any:
        factory.GenerationMixin = importlib.import_module("transformers.generation").GenerationMixin
        return add(model_class)

    factory.add_generation_mixin_to_remote_model = completed
