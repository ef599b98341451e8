"""transformers without the seconds of PyTorch that its configurations and tokenizers do not use.

Where PyTorch is installed, half of transformers imports it at its first line, whether or not anything of it is called.
Inside `deferring_torch` such modules get a stand-in that becomes PyTorch when something of it is asked for.
transformers itself is told nothing: it goes on knowing that PyTorch is there, so that whoever imports it afterwards,
in a notebook say, finds it whole.
"""

import builtins
import contextlib
import importlib
import importlib.util
import logging
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

DTYPES = ("float16", "bfloat16", "float32", "float64")
NOT_FOUND = "PyTorch was not found"
"""How transformers' complaint begins where PyTorch is not installed."""

_one_at_a_time = threading.RLock()


class _Deferred(ModuleType):
    """A module that is imported when something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


class _DeferredTorch(_Deferred):
    """PyTorch, of which configurations want the names of dtypes, and are as glad of the words."""

    def __getattr__(self, name: str) -> Any:
        return name if name in DTYPES and "torch" not in sys.modules else super().__getattr__(name)


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
        return real(name, globals, locals, fromlist, level)

    builtins.__import__ = import_
    try:
        yield
    finally:
        builtins.__import__ = real
