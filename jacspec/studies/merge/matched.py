"""The weight matrices of checkpoints of one architecture, side by side."""

from collections.abc import Iterator, Sequence

import numpy as np

from jacspec.errors import JacspecError
from jacspec.models.matrices import (
    LAYER_NUMBER,
    Choice,
    LeftOut,
    Listed,
    Matrix,
    list_model,
    list_tensors,
    stream_model,
    stream_tensors,
)
from jacspec.models.siblings import Sibling


def list_matrices(sibling: Sibling, choice: Choice) -> tuple[list[Listed], list[LeftOut]]:
    """List the matrices of a checkpoint and what gives none, without reading a tensor."""
    if sibling.checkpoint is None:
        found = list(list_tensors(sibling.tensors, choice))
    else:
        found = list(list_model(sibling.checkpoint, choice))
    return [each for each in found if isinstance(each, Listed)], [each for each in found if isinstance(each, LeftOut)]


def stream_matched(siblings: Sequence[Sibling], choice: Choice) -> Iterator[tuple[Matrix, ...]]:
    """Yield the same matrix of every checkpoint, one tensor of each in memory and the next one of one of them.

    **Raises:** `JacspecError` where one holds values that are not finite.
    """
    return zip(*(_read(each, choice) for each in siblings), strict=True)


def _read(sibling: Sibling, choice: Choice) -> Iterator[Matrix]:
    checkpoint = sibling.checkpoint
    found = stream_tensors(sibling.tensors, choice) if checkpoint is None else stream_model(checkpoint, choice)
    for matrix in found:
        if isinstance(matrix, Matrix):
            if not np.isfinite(matrix.values).all():
                raise JacspecError(f"{sibling.label}: the tensor {matrix.name} holds values that are not finite.")
            yield matrix


def role_name(matrix: Matrix) -> str:
    """Name the role of a matrix; where its family is not known, its tensor's name with `*` for the layer."""
    return matrix.role if matrix.role != "other" else LAYER_NUMBER.sub("*", matrix.name, count=1)
