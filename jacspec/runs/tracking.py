"""What a finished run tells outside its folder's own files: its tables as Parquet, its summary to a tracker.

The packages are extras; none is imported unless it is asked for.
"""

import importlib
import importlib.util
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from jacspec.errors import JacspecError
from jacspec.runs.files import write_atomically
from jacspec.runs.folder import Run

if TYPE_CHECKING:
    import pandas

PACKAGES: Mapping[str, tuple[str, str]] = {
    "wandb": ("log=wandb", "wandb"),
    "tensorboard": ("log=tensorboard", "tensorboardX"),
    "mlflow": ("log=mlflow", "mlflow"),
    "parquet": ("tables=parquet", "pyarrow"),
}
"""What brings each of these about, and the package that it takes; the extra of jacspec has the first name."""

KEYS = ("component", "label", "target", "group", "order", "scale", "revision")
"""Columns that tell curves of one metric apart, in the order of a curve's name."""


def check_package(name: str | None) -> None:
    """Raise `JacspecError` where the package that a tracker or format takes is not installed: before any work."""
    typed, package = PACKAGES.get(name or "", ("", ""))
    if package and importlib.util.find_spec(package) is None:
        raise JacspecError(f"{typed} needs {package}, which is not installed. Type pip install 'jacspec[{name}]'.")


def write_parquet(run: Run) -> None:
    """Write each table of a run as Parquet too, beside its CSV."""
    for file in sorted(run.folder.glob("*.csv")):
        write_atomically(file.with_suffix(".parquet"), run.table(file.name).to_parquet())


def track(run: Run, tracker: str) -> None:
    """Tell a tracker of experiments what was run and its medians, curves over layers or training steps.

    **Raises:** `JacspecError` with what the tracker said, which may be anything: the run itself is finished.
    """
    found = list(curves(run))
    try:
        _TRACKERS[tracker](run, found)
    except Exception as error:
        raise JacspecError(f"log={tracker}: {error} The run itself is finished, in {run.folder}.") from error


def curves(run: Run) -> Iterator[tuple[str, int, float]]:
    """Yield a name as `spectral_radius/mlp`, a layer or training step (0 where there is none) and a value.

    Medians of `summary.csv`; of a run without one the values of `metrics.csv`. What is missing is left out.
    """
    for row in _long_table(run).to_dict("records"):
        name = "/".join([row["metric"], *(str(row[key]) for key in KEYS if _is_there(row.get(key)))])
        step = next((row[key] for key in ("step", "layer") if _is_there(row.get(key))), 0)
        if _is_there(row["value"]):
            yield re.sub(r"[^\w\-. :/]", "_", name), int(step), float(row["value"])


def _long_table(run: Run) -> "pandas.DataFrame":
    summed = (run.folder / "summary.csv").is_file()
    table = run.table("summary.csv" if summed else "metrics.csv")
    if "metric" in table:
        return table.rename(columns={"median": "value"})
    metrics = [name for name in run.provenance["metrics"] if name in table]
    return table.melt([name for name in table if name not in metrics], metrics, "metric", "value")


def _is_there(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value)) and value != ""


def _to_wandb(run: Run, found: list[tuple[str, int, float]]) -> None:
    wandb = importlib.import_module("wandb")
    with wandb.init(project="jacspec", name=_title(run), config=run.provenance["config"]) as tracked:
        for step in sorted({step for _, step, _ in found}):
            tracked.log({name: value for name, at, value in found if at == step}, step=step)


def _to_tensorboard(run: Run, found: list[tuple[str, int, float]]) -> None:
    with importlib.import_module("tensorboardX").SummaryWriter(str(run.folder / "tensorboard")) as writer:
        writer.add_text("configuration", json.dumps(run.provenance["config"], indent=2))
        for name, step, value in found:
            writer.add_scalar(name, value, step)


def _to_mlflow(run: Run, found: list[tuple[str, int, float]]) -> None:
    mlflow = importlib.import_module("mlflow")
    with mlflow.start_run(run_name=_title(run)):
        mlflow.log_dict(run.provenance["config"], "config.json")
        for name, step, value in found:
            mlflow.log_metric(name, value, step=step)


def _title(run: Run) -> str:
    return f"{run.provenance['task']} {run.provenance['identity'].get('checkpoint', {}).get('name', '')}".strip()


_TRACKERS: Mapping[str, Callable[[Run, list[tuple[str, int, float]]], None]] = {
    "wandb": _to_wandb,
    "tensorboard": _to_tensorboard,
    "mlflow": _to_mlflow,
}
