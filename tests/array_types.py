"""Array types checked at run time, by jaxtyping and beartype: the first calls of every function in each test.

All calls of all tests would be the same functions checked ten thousand times over, and each checked function that
is written inside of another would be compiled anew whenever that one is called.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jaxtyping

FIRST_CALLS = 2
"""How many calls of a function are checked in each test."""

_calls: dict[int, list[int]] = {}
"""How often each function was called in this test, by the identity of its code."""

_check_all_calls = jaxtyping.jaxtyped


def check_array_types() -> None:
    """Check what is imported of jacspec from now on."""
    jaxtyping.jaxtyped = _check_first_calls  # type: ignore[assignment]
    jaxtyping.install_import_hook("jacspec", "beartype.beartype")


def count_calls_anew() -> None:
    """Check the next calls of every function."""
    for count in _calls.values():
        count[0] = 0


def _check_first_calls(checked: Any = None, *, typechecker: Any) -> Any:
    """Stand for `jaxtyping.jaxtyped`, as the import hook calls it on functions and classes."""
    if checked is None:
        return functools.partial(_check_first_calls, typechecker=typechecker)
    if isinstance(checked, type):
        if dataclasses.is_dataclass(checked) and "__init__" in vars(checked):
            checked.__init__ = _check_first_calls(checked.__init__, typechecker=typechecker)  # type: ignore[method-assign]
        return checked
    function: Callable[..., Any] = checked
    count = _calls.setdefault(id(checked.__code__), [0])
    with_checks: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if count[0] >= FIRST_CALLS:
            return function(*args, **kwargs)
        count[0] += 1
        if not with_checks:
            with_checks.append(_check_all_calls(function, typechecker=typechecker))
        return with_checks[0](*args, **kwargs)

    return call
