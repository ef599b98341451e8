"""Write `jacspec/__init__.pyi`, what type checkers and editors read: `python tests/stub.py`.

Studies get their functions at run time from their options; here the same signatures stand as text.
"""

import ast
import inspect
import typing
from pathlib import Path
from typing import Any

import jacspec
from jacspec.api.options import NAMED, Option, options_of
from jacspec.config import PACKAGE

STUB = PACKAGE / "__init__.pyi"
HEAD = """# Written by tests/stub.py from the options of the studies: change those, then run it.
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas

from jacspec.api import compute_spectra as compute_spectra
from jacspec.api import load_model as load_model
from jacspec.api import write_report as write_report
from jacspec.api.functions import run as run
from jacspec.api.result import Run as Run
from jacspec.api.result import open_run as open_run
from jacspec.api.result import open_sweep as open_sweep
from jacspec.errors import JacspecError as JacspecError
from jacspec.errors import JacspecTypeError as JacspecTypeError
from jacspec.jacobians.operator import Jacobian

__version__: str

def jacobian(
    model: Any,
    text: str | Sequence[int] | np.ndarray,
    *,
    layer: int,
    component: str = "mlp",
    position: int = -1,
    tokenizer: Any = None,
    decoder_input: Literal["shifted", "start"] = "shifted",
    precision: Literal["float32", "float64"] = "float32",
) -> Jacobian: ...
"""


def hint(option: Option) -> str:
    """Write the type of an option as a Python user gives it."""
    if option.key == "data.position":
        return "int | Sequence[int] | None"
    kind, none = option.kind, option.default is None
    inner = typing.get_args(kind)
    if type(None) in inner:
        none, kind = True, next(each for each in inner if each is not type(None))
    if hasattr(kind, "__members__"):
        text = f"Literal[{', '.join(repr(each).replace(chr(39), chr(34)) for each in kind.__members__)}]"
    elif typing.get_origin(kind) is list:
        (one,) = typing.get_args(kind)
        text = (
            "Sequence[Sequence[float]]"
            if typing.get_origin(one) is list
            else f"{one.__name__} | Sequence[{one.__name__}]"
        )
    else:
        text = "int | str" if option.key == "engine.devices" else kind.__name__
    return f"{text} | None" if none else text


SOURCES = {
    "model": "Any",
    "texts": "Any",
    "data": "str | Path | None",
    "tokenizer": "Any",
    "revision": "str | None",
    "init": 'Literal["pretrained", "random"]',
    "runs": "Run | str | Path | Sequence[Run | str | Path]",
    "folder": "str | Path | None",
    "silent": "bool",
}


def stub() -> str:
    """Write the whole file."""
    functions = []
    for study in NAMED:
        function = getattr(jacspec, study)
        kinds = SOURCES | {option.name: hint(option) for option in options_of(study)}
        parts: list[str] = []
        keyword = False
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not keyword:
                parts.append("    *,")
                keyword = True
            parts.append(f"    {name}: {kinds[name]}{_default(parameter.default)},")
        returned = "pandas.DataFrame" if study == "plan" else "Run"
        words = "\n".join(f"    {line}".rstrip() for line in str(function.__doc__).splitlines())
        functions.append(f"def {study}(\n" + "\n".join(parts) + f'\n) -> {returned}:\n    r"""{words.strip()}\n    """')
    text = HEAD + "\n" + "\n\n".join(functions) + "\n"
    ast.parse(text)
    return text


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return ""
    return " = " + repr(value).replace("'", '"')


if __name__ == "__main__":
    Path(STUB).write_text(stub(), encoding="utf-8")
