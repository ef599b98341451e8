"""One Jacobian as a linear operator of SciPy's protocol: products with it and its transpose, formed only when asked."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.sparse.linalg import LinearOperator

from jacspec.backend import numerics
from jacspec.errors import JacspecError, suggest
from jacspec.jacobians.branches import Branch, choose_components, components_of
from jacspec.jacobians.lanczos import decompose, leading_vectors, start_vectors
from jacspec.jacobians.streaming import Stream, Visit, pass_through, walk
from jacspec.models.block import Block
from jacspec.models.checkpoint import Checkpoint
from jacspec.text.corpus import make_batches

AT_ONCE = 256
"""Columns that go through a branch together: each holds the branch's work arrays."""

TOLERANCE = 1e-5


class SVD(NamedTuple):
    """The largest singular values, descending, with their left and right vectors: A V = U diag(s)."""

    U: Float[np.ndarray, "m k"]
    s: Float[np.ndarray, " k"]
    Vh: Float[np.ndarray, "k n"]


class Jacobian(LinearOperator):
    r"""The Jacobian $J_{ij} = \partial f_i / \partial x_j$ of one branch at one token of one text.

    A `scipy.sparse.linalg.LinearOperator` of shape (d_model, d_model): `J @ v`, `J.T @ u`, `J.matmat(V)`, `svds(J)`.
    A product costs about two forward passes of one token through the branch for each column, in the precision that
    the model was opened with. `facts` say of what it is: model, layer, component, tokens.
    """

    def __init__(self, branch: Branch, facts: Mapping[str, Any]) -> None:
        self._branch, self.facts = branch, dict(facts)
        super().__init__(self.x.dtype, (self.x.size, self.x.size))

    @property
    def x(self) -> Float[np.ndarray, " d_model"]:
        """The residual stream at which the branch is differentiated."""
        return np.asarray(self._branch.point.x)[0]

    def _matvec(self, vector: np.ndarray) -> np.ndarray:
        return self._matmat(np.reshape(vector, (-1, 1)))[:, 0]

    def _rmatvec(self, vector: np.ndarray) -> np.ndarray:
        return self._rmatmat(np.reshape(vector, (-1, 1)))[:, 0]

    def _matmat(self, columns: np.ndarray) -> np.ndarray:
        return self._apply(_push, columns)

    def _rmatmat(self, columns: np.ndarray) -> np.ndarray:
        return self._apply(_pull, columns)

    def _apply(self, product: Any, columns: np.ndarray) -> np.ndarray:
        """Multiply columns, `AT_ONCE` together; complex ones by their parts."""
        columns = np.asarray(columns)
        if np.iscomplexobj(columns):
            return self._apply(product, columns.real) + 1j * self._apply(product, columns.imag)
        alone = self._branch._replace(point=jax.tree.map(lambda leaf: leaf[0], self._branch.point))
        parts = []
        with numerics(str(self.dtype)):
            for start in range(0, columns.shape[1], AT_ONCE):
                part = jnp.asarray(columns[:, start : start + AT_ONCE], self.dtype)
                parts.append(np.asarray(product(alone, part)))
        return np.concatenate(parts, axis=1) if parts else np.zeros(columns.shape, self.dtype)

    def dense(self) -> Float[np.ndarray, "d_model d_model"]:
        """Form the matrix: d_model products, d_model² numbers."""
        return self._matmat(np.eye(self.shape[0], dtype=self.dtype))

    def svd(self, k: int | None = None, *, tolerance: float = TOLERANCE, seed: int = 0) -> SVD:
        """Compute the `k` largest singular values and their vectors, or all where `k` is None.

        By Lanczos without forming J (`lanczos.decompose`), each value to the relative `tolerance`; where that does not
        converge, or most of the spectrum is asked for, of the matrix itself.

        **Raises:** `JacspecError` for a `k` that the matrix has not.
        """
        size = self.shape[0]
        if k is not None and not 1 <= k <= size:
            raise JacspecError(f"k={k} singular values of a {size} × {size} matrix. Accepted: 1 to {size}.")
        found = None if k is None or 3 * k > size else self._lanczos(k, tolerance, seed)
        if found is not None:
            return found
        left, values, right = np.linalg.svd(self.dense())
        return SVD(left[:, :k], values[:k], right[:k])

    def _lanczos(self, k: int, tolerance: float, seed: int) -> SVD | None:
        """Take Lanczos steps until the `k` values have converged; None where they do not."""
        with numerics(str(self.dtype)):
            starts = start_vectors(np.zeros(1, int), self.shape[0], jnp.dtype(self.dtype), seed=seed)
            found, bases = decompose(self._branch, starts, k=k, tolerance=tolerance)
            # A value that may be zero has no direction here, and any that is orthogonal to the others in an SVD.
            if not found.converged.all() or (found.singular_values <= found.bounds).any():
                return None
            right, left = (side[0] for side in leading_vectors(found, bases, top=k))
        return SVD(left.T, found.singular_values[0], right)

    def eigvals(self) -> np.ndarray:
        """Compute all eigenvalues, the largest in size first; forms J."""
        values = np.linalg.eigvals(self.dense())
        return values[np.argsort(-np.abs(values))]

    def __repr__(self) -> str:
        """Say in one line what is differentiated where."""
        said = ", ".join(f"{key} {value}" for key, value in self.facts.items())
        return f"<jacspec.Jacobian {self.shape[0]} × {self.shape[1]} {np.dtype(self.dtype).name}: {said}>"


@jax.jit
def _push(branch: Branch, columns: Float[Array, "n k"]) -> Float[Array, "m k"]:
    """Multiply J with columns: forward-mode products."""
    return jax.vmap(branch.products()[0], in_axes=1, out_axes=1)(columns)


@jax.jit
def _pull(branch: Branch, columns: Float[Array, "m k"]) -> Float[Array, "n k"]:
    """Multiply Jᵀ with columns: the transposed linear map."""
    return jax.vmap(branch.products()[1], in_axes=1, out_axes=1)(columns)


def jacobian_operator(
    checkpoint: Checkpoint, tokens: list[int], *, layer: int, component: str, decoder_input: str = "shifted"
) -> Jacobian:
    """Carry one sample to a layer and bind the branch there, at the sample's last token.

    **Arguments:** `layer`, of the component's stack, below 0 counted from the last; `component`, `attn`, `mlp`,
    `cross` or `block`, in an encoder-decoder model as `decoder.mlp`.

    **Raises:** `JacspecError` for a component or layer that the model has not.
    """
    spec = checkpoint.spec
    names = choose_components([component], spec)
    if len(names) > 1:
        raise JacspecError(f"component={component!r} is in both stacks. " + suggest(component, names))
    (full,) = names
    numbers = [number for number, block in enumerate(spec.blocks) if components_of(block, names)]
    if not -len(numbers) <= layer < len(numbers):
        raise JacspecError(f"layer={layer} is not in the model. Accepted: 0 to {len(numbers) - 1}, or -1 for the last.")
    number = numbers[layer]

    own = components_of(spec.blocks[number], names)[full]

    def visit(place: int, block: Block, streams: list[Stream]) -> Visit:
        if place != number:
            return Visit(None)
        (stream,) = streams
        branches, _ = pass_through(block, stream, [own], last=True)
        return Visit(branches[own])

    with numerics(checkpoint.dtype.name):
        (branch,) = walk(checkpoint, make_batches([tokens], size=1), visit, last=number, decoder_input=decoder_input)
    facts = {"model": checkpoint.name, "layer": spec.layer(number), "component": full, "tokens": len(tokens)}
    return Jacobian(branch, facts)
