"""jacspec: spectral dynamics of transformers.

From a shell: `python -m jacspec model=gpt2 data=shakespeare`. From Python:

```python
import jacspec

run = jacspec.weights("nano", include=["q", "k"])
run.summary  # pandas; run.dataset is xarray, run.figures draws, run.report() writes the page
run = jacspec.run("jacobian", "nano", ["Speak, speak.", "What is the city but the people?"], layers=[0, -1])
J = jacspec.jacobian("nano", "What is the city but the people?", layer=3, component="mlp")
J.svd(k=4)
```
"""

import functools
import importlib
import sys
import types
from typing import Any

from jacspec.studies import NAMES

_PLACES = {
    "JacspecError": "jacspec.errors",
    "JacspecTypeError": "jacspec.errors",
    "Run": "jacspec.api.result",
    "compute_spectra": "jacspec.api",
    "jacobian": "jacspec.api",
    "load_model": "jacspec.api",
    "open_run": "jacspec.api.result",
    "open_sweep": "jacspec.api.result",
    "run": "jacspec.api.functions",
    "write_report": "jacspec.api",
}
_STUDIES = frozenset(NAMES) - {"jacobian", "report"}
"""Studies with a function of their name; `jacspec.jacobian` is the operator."""

__all__ = [*sorted({*_PLACES, *_STUDIES})]


def __getattr__(name: str) -> Any:
    # Imported when asked for, so that `python -m jacspec --help` does not wait for JAX.
    if name == "__version__":
        from jacspec.files import installed_version

        return installed_version("jacspec")
    if name in _STUDIES:
        return _study(name)
    if name not in _PLACES:
        raise AttributeError(f"module 'jacspec' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


@functools.cache
def _study(name: str) -> Any:
    from jacspec.api.functions import study_function

    return study_function(name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


class _Package(types.ModuleType):
    """The package: where a study and a module have one name, `jacspec.NAME` is the study."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _STUDIES and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
