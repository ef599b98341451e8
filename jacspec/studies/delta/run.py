"""`task=delta`: what a model changed in its base, matrix by matrix."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from rich.console import Console

from jacspec.axes import Row
from jacspec.backend import numerics
from jacspec.config import Config, Init, ModelConfig
from jacspec.errors import JacspecError, check_least
from jacspec.models.adapters import AdaptedTensor, has_adapter
from jacspec.models.hub import REVISION, base_name
from jacspec.models.matrices import Choice, Listed, Matrix
from jacspec.models.siblings import Sibling, layer_number, list_matrices, open_siblings, role_name, stream_same_matrices
from jacspec.runs.rows import experiment_layout
from jacspec.studies.delta import DELTA, DeltaOptions
from jacspec.studies.delta.measure import measure, missing_reason
from jacspec.studies.inputs import Inputs
from jacspec.studies.run import run_rows
from jacspec.studies.work import RowWork

KEYS = ("layer", "role")


class Pair(NamedTuple):
    """A base and a model, what of them is measured, and how."""

    base: Sibling
    model: Sibling
    choice: Choice
    layers: frozenset[int] | None
    options: DeltaOptions
    precision: str

    @property
    def changed(self) -> Collection[str] | None:
        """Names of the tensors that an adapter changes; None for a model that is none."""
        index, before = self.model.tensors.index, self.base.tensors.index
        if not has_adapter(self.model.tensors):
            return None
        return {
            name for name, stored in index.items() if stored != before.get(name) or isinstance(stored, AdaptedTensor)
        }

    def wants(self, matrix: Listed | Matrix) -> bool:
        """Say whether a matrix is of the chosen layers, and one that may have changed."""
        in_layer = self.layers is None or matrix.layer in self.layers
        return in_layer and (self.changed is None or matrix.name in self.changed)


def run_delta(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Compare a model with its base into `folder`, or resume what `config.resume` holds."""
    options = config.own(DeltaOptions)
    check_least("delta.top_k", options.top_k, 1)
    if not 0 < options.threshold < 1:
        raise JacspecError(f"delta.threshold={options.threshold} is not between 0 and 1. Type delta.threshold=0.5.")
    # float64 tensors would be read as float32 outside; what is computed has the run's precision by its own types.
    with numerics("float64"):
        run_rows(config, folder, console, inputs, lambda: _prepare(config, options, inputs))


def _prepare(config: Config, options: DeltaOptions, inputs: Inputs) -> RowWork:
    base, model = open_siblings(
        _names(config, options, inputs),
        dtype=config.precision.value,
        share_rows=options.embeddings,
        base=options.base or config.model.base,
    )
    layers = None if config.layers is None else frozenset(config.layers)
    if model.checkpoint is not None:
        layers = model.checkpoint.spec.choose_layers(config.layers)
    choice = Choice(options.include, options.exclude, options.embeddings)
    pair = Pair(base, model, choice, layers, options, config.precision.value)
    listed, left_out = list_matrices(model, choice)
    matrices = [each for each in listed if pair.wants(each)]
    if not matrices:
        raise JacspecError("No matrix is left. Type delta.include=[] delta.exclude=[] layers=null for all.")
    reasons = Counter(each.reason.replace("weights.", "delta.") for each in left_out)
    reasons["unchanged by the adapter, or outside the chosen layers"] = len(listed) - len(matrices)
    return RowWork(
        layout=experiment_layout(KEYS, tuple(DELTA), over="layer"),
        identity={"checkpoint": _identify(base, model)},
        facts={
            "left_out": {reason: count for reason, count in reasons.items() if count},
            "read by name": model.unknown or None,
            "base": base.label,
            "warning": "; ".join(model.warnings) or None,
        },
        stream=lambda done: _stream(pair, done),
        unit="matrices",
        total=len(matrices),
    )


def _names(config: Config, options: DeltaOptions, inputs: Inputs) -> list[Any]:
    """Name the base and the model, or give the model that is open already."""
    model = config.model
    if model.init is Init.random:
        raise JacspecError("model.init=random has no base. Give a model with weights, and delta.base=NAME.")
    base = options.base or (None if inputs.model else base_name(model))
    if base is None:
        raise JacspecError(
            "task=delta compares a model with its base, which an adapter names itself. Of another model type "
            "delta.base=NAME: a folder, a GGUF file, a ready-made name or ORG/NAME, @REVISION for another than the "
            "default."
        )
    return [base, inputs.model or _name_of(model)]


def _name_of(model: ModelConfig) -> str:
    name = model.path or (model.id if model.name == "hub" else model.name)
    return f"{name}{REVISION}{model.revision}" if model.revision else str(name)


def _identify(base: Sibling, model: Sibling) -> dict[str, Any]:
    files = {f"{each.label}/{name}": digest for each in (base, model) for name, digest in each.files.items()}
    stored = {each.label: dict(each.tensors.types) for each in (base, model) if each.tensors.types}
    notes = [*model.tensors.notes, *model.notes]
    return {
        "name": f"{model.label} on {base.label}",
        "revision": model.location.revision,
        "files": files,
        **({"stored as": stored} if stored else {}),
        **({"notes": notes} if notes else {}),
    }


def _stream(pair: Pair, done: Mapping[int, Row]) -> Iterator[Sequence[Row]]:
    kind = np.dtype(pair.precision)
    wanted = (each for each in stream_same_matrices((pair.base, pair.model), pair.choice) if pair.wants(each[1]))
    for number, (base, model) in enumerate(wanted):
        if number in done:
            continue
        found = measure(
            base.values.astype(kind),
            model.values.astype(kind),
            model.values.astype(np.float64) - base.values.astype(np.float64),
            _inputs(pair.model, model),
            top_k=pair.options.top_k,
            threshold=pair.options.threshold,
        )
        yield [Row(number, (layer_number(model), role_name(model)), *found, missing_reason(found[0]))]


def _inputs(sibling: Sibling, matrix: Matrix) -> Float[np.ndarray, "n r"] | None:
    """Return a basis of what an adapter's A reads, where the matrix has the same inputs."""
    stored = sibling.tensors.index.get(matrix.name)
    inputs = stored.inputs(as_stored=sibling.checkpoint is None) if isinstance(stored, AdaptedTensor) else None
    return inputs if inputs is not None and len(inputs) == matrix.values.shape[1] else None
