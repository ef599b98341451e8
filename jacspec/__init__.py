"""jacspec: spectral dynamics of transformers.

From a shell: `python -m jacspec model=gpt2 data=shakespeare`. From Python:

```python
import jacspec

model = jacspec.load_model("nano")
dataset = jacspec.compute_spectra(model, ["Speak, speak.", "What is the city but the people?"])
run = jacspec.open_run("outputs/2026-01-31/12-00-00")
jacspec.write_report(run)
```
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jacspec.api import compute_spectra, load_model
    from jacspec.errors import JacspecError
    from jacspec.report import write_report
    from jacspec.runs import Run, open_run

__all__ = ["JacspecError", "Run", "compute_spectra", "load_model", "open_run", "write_report"]

_ROOMS = {
    "JacspecError": "jacspec.errors",
    "Run": "jacspec.runs",
    "compute_spectra": "jacspec.api",
    "load_model": "jacspec.api",
    "open_run": "jacspec.runs",
    "write_report": "jacspec.report",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for, so that `python -m jacspec --help` does not wait for JAX.
    if name not in _ROOMS:
        raise AttributeError(f"module 'jacspec' has no attribute {name!r}")
    return getattr(importlib.import_module(_ROOMS[name]), name)
