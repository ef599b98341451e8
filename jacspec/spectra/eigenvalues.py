r"""Eigenvalues of matrices that are not symmetric, what they would be under random rotations, and normal matrices.

The null: of $U \Sigma V^T$ with the matrix's own singular values and independent Haar orthogonal U and V, the
eigenvalues fill, as the matrix grows, the ring between $(\overline{\sigma^{-2}})^{-1/2}$ and
$(\overline{\sigma^2})^{1/2}$, means over all singular values, evenly in angle (the single-ring theorem: Feinberg & Zee
1997, Nucl. Phys. B 504, 579; Guionnet, Krishnapur & Zeitouni 2011, Ann. Math. 174, 1189). The radii are exact in that
limit; the density in between comes from draws.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Complex, Float

from jacspec.spectra.svd import on_cores


def relative_eigenvalues(
    matrices: Float[Array, "batch n n"], sigma: Float[Array | np.ndarray, "batch k"]
) -> Complex[Array, "batch n"]:
    """Compute λ(A)/σ₁ of a batch on the host, the largest in size first; conjugate ones stand beside each other.

    In units of σ₁ because LAPACK's `sgeev` gave wrong eigenvalues for matrices below about 1e-12. About 10 n³ FLOPs
    each. On the host, a matrix a core: an H100 took 162 ms for the eigenvalues of one 768 × 768 matrix.

    **Arguments:** `sigma`, singular values in descending order.
    """
    return on_cores(_relative, matrices, np.asarray(sigma)[:, 0])


def _relative(matrix: Float[Array, "n n"], largest: Float[Array, ""]) -> Complex[Array, " n"]:
    found = jnp.linalg.eigvals(matrix / jnp.where(largest > 0, largest, 1))
    return found[jnp.argsort(-jnp.abs(found))]


def relative_numerical_abscissas(
    matrices: Float[Array, "batch n n"], sigma: Float[Array | np.ndarray, "batch k"]
) -> Float[Array, " batch"]:
    """Compute λ_max((A + Aᵀ)/2)/σ₁ of a batch on the host, a matrix a core, as `relative_eigenvalues` does."""
    return on_cores(_relative_numerical_abscissa, matrices, np.asarray(sigma)[:, 0])


def _relative_numerical_abscissa(matrix: Float[Array, "n n"], largest: Float[Array, ""]) -> Float[Array, ""]:
    relative = matrix / jnp.where(largest > 0, largest, 1)
    return jnp.linalg.eigvalsh((relative + relative.T) / 2)[-1]


class Ring(NamedTuple):
    """The null ring of some matrices: its inner and outer radius, one of each a matrix."""

    inner: Float[np.ndarray, " batch"]
    outer: Float[np.ndarray, " batch"]

    def shares(self, eigenvalues: Complex[np.ndarray, "batch n"]) -> Float[np.ndarray, " batch"]:
        """Return the share of each matrix's eigenvalues that lies in its ring, edges included."""
        size = np.abs(eigenvalues)
        inside: np.ndarray = (size >= self.inner[:, None]) & (size <= self.outer[:, None])
        return inside.mean(axis=1)


def null_ring(sigma: Float[np.ndarray, "batch n"]) -> Ring:
    """Compute (mean σ⁻²)^(−1/2), 0 where a singular value is, and (mean σ²)^(1/2)."""
    largest = sigma[:, 0].astype(np.float64)
    relative = sigma / np.where(largest > 0, largest, 1)[:, None]
    with np.errstate(divide="ignore", over="ignore"):
        inner = np.mean(relative**-2.0, axis=1) ** -0.5
    return Ring(largest * np.where(largest > 0, inner, 0), largest * np.sqrt(np.mean(relative**2, axis=1)))


def draw_rotated(sigma: Float[np.ndarray, " n"], rng: np.random.Generator) -> Complex[np.ndarray, " n"]:
    """Draw the eigenvalues of U Σ Vᵀ with Haar orthogonal U and V, the largest in size first.

    They are those of Q Σ, and Q = VᵀU is Haar too: the Q of a Gaussian matrix's QR decomposition, its columns' signs
    chosen so that R has a positive diagonal (Mezzadri 2007, Notices AMS 54, 592).
    """
    q, r = np.linalg.qr(rng.standard_normal((sigma.size, sigma.size)))
    found = np.linalg.eigvals(q * np.sign(np.diagonal(r)) * sigma.astype(np.float64)).astype(np.complex128)
    return found[np.argsort(-np.abs(found), kind="stable")]


def normal_part(matrix: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    r"""Make the normal matrix that has the eigenvalues of a real one in the orthonormal basis of its Schur form.

    Of $A = Q T Q^T$, T upper triangular but for 2 × 2 blocks of conjugate pairs, only the diagonal blocks are kept,
    each pair $a \pm i w$ as the rotation and scale $\begin{pmatrix} a & w \\ -w & a \end{pmatrix}$: what is left out
    is what makes A not normal, and its Frobenius norm is Henrici's departure. A normal A is its own normal part. Of
    others it depends on the order of the eigenvalues in T, which is LAPACK's. About 25 n³ FLOPs.
    """
    triangular, basis = scipy.linalg.schur(matrix, output="real")
    kept = np.diag(np.diagonal(triangular))
    for row in np.flatnonzero(np.diagonal(triangular, -1)):
        above, below = triangular[row, row + 1], triangular[row + 1, row]  # LAPACK's form: equal diagonals, bc < 0
        turn = np.sign(above) * np.sqrt(-above * below)
        kept[row, row + 1], kept[row + 1, row] = turn, -turn
    return basis @ kept @ basis.T
