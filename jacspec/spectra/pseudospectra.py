r"""How far a matrix is from its eigenvalues' word: Kreiss constant, pseudospectral radius and abscissa.

The ε-pseudospectrum is where $\sigma_{\min}(zI - A) \le \varepsilon$: all eigenvalues of matrices within ε of A
(Trefethen & Embree 2005, Spectra and Pseudospectra). Every value here is attained at a point that was evaluated, so it
is a lower bound up to rounding; where the search begins is a grid and the angles of the eigenvalues, so that it is
the largest one is not proved, but tested where that is known. Of a real matrix, whose plane is symmetric about the real
axis, the upper half is searched.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Complex, Float

STEPS, EVERY = 60, 4
"""Lanczos steps for one σ_min at most, and after how many it is looked at."""

COARSE, CONVERGED = 1e-2, 1e-9
"""The residual at which Lanczos ends on a grid, and where it counts, relative to 1/σ_min²."""

NEAREST, FARTHEST = 1e-8, 1e3
"""Between which heights above the circle, in units of its radius, the Kreiss constant is looked for."""

ROUNDING = 1e-14

UNIFORM, OF_EIGENVALUES, HEIGHTS = 17, 20, 13
"""Lines in even steps, lines through eigenvalues, and heights of the grid that a search begins with."""

FINEST = 1e-5
"""Steps between lines, in units of the widest, at which a search ends: the value's error is of the square's order."""


class Resolvent(NamedTuple):
    """A real matrix as seen from points of the plane: its eigenvalues, ‖A‖, and `distance(z, accuracy)`, σ_min(zI − A).

    The accuracy is a residual: the value's own relative error is mostly of the order of its square.
    """

    distance: Callable[..., float]
    eigenvalues: Complex[np.ndarray, " n"]
    norm: float

    @property
    def radius(self) -> float:
        """The largest eigenvalue in size."""
        return float(np.abs(self.eigenvalues).max())


def resolvent(matrix: Float[np.ndarray, "n n"], *, seed: int = 0) -> Resolvent:
    """Bring a real matrix to complex Schur form, in which σ_min(zI − A) takes some triangular solves (Lui 1997).

    About 25 n³ FLOPs once, then 8 n² a step of Lanczos with the inverse of (zI − T)ᴴ(zI − T), some ten a point.
    """
    triangular = np.asfortranarray(scipy.linalg.schur(matrix.astype(np.complex128), output="complex")[0])
    eigenvalues = np.diagonal(triangular).copy()
    rng = np.random.default_rng(seed)
    start = rng.standard_normal(eigenvalues.size) + 1j * rng.standard_normal(eigenvalues.size)
    start /= np.linalg.norm(start)
    shifted = -triangular

    def distance(z: complex, accuracy: float = CONVERGED) -> float:
        diagonal = z - eigenvalues
        if not diagonal.all():
            return 0.0
        np.fill_diagonal(shifted, diagonal)
        return _least_singular_value(shifted, start, accuracy)

    return Resolvent(distance, eigenvalues, float(np.linalg.norm(matrix, 2)))


def _least_singular_value(
    triangular: Complex[np.ndarray, "n n"], start: Complex[np.ndarray, " n"], accuracy: float
) -> float:
    """Compute σ_min of an upper triangular matrix by Lanczos with its inverse, all vectors orthogonalised twice."""
    solve = scipy.linalg.blas.ztrsv
    basis = np.empty((min(STEPS, start.size), start.size), np.complex128)
    diagonal: list[float] = []
    beside: list[float] = []
    vector, top = start, 0.0
    for step in range(len(basis)):
        basis[step] = vector
        image = solve(triangular, solve(triangular, vector, trans=2))
        diagonal.append(float(np.vdot(vector, image).real))
        known = basis[: step + 1]
        for _ in range(2):
            image = image - known.T @ (known.conj() @ image)
        left = float(np.linalg.norm(image))
        if step % EVERY == EVERY - 1 or step == len(basis) - 1 or left <= ROUNDING * diagonal[0]:
            values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
            top = float(values[-1])
            if left * abs(vectors[-1, -1]) <= accuracy * top:
                break
        beside.append(left)
        vector = image / left
    return top**-0.5


def kreiss_constant(found: Resolvent, radius: float) -> float:
    r"""Compute $\sup_{|z| > r} (|z| - r) \lVert (zI - A)^{-1} \rVert$, r at least the largest eigenvalue in size.

    With r = 1 the Kreiss constant of A; with r the spectral radius that of A/r: how far powers of A exceed those of
    their eigenvalues at least, $\sup_k \lVert A^k \rVert / r^k \ge K \ge \sup_k \lVert A^k \rVert / (e\,n\,r^k)$
    (Kreiss 1962; Spijker 1991). 1 of a normal matrix. Without bound where an eigenvalue on the circle is defective:
    heights above the circle end at `NEAREST`.
    """
    from scipy.optimize import minimize  # not above: runs without pseudospectra do not wait for it

    low, high = np.log(NEAREST), np.log(FARTHEST)

    def height(place: Iterable[float], accuracy: float = CONVERGED) -> float:
        angle, level = place
        above = radius * np.exp(np.clip(level, low, high))
        distance = found.distance((radius + above) * np.exp(1j * angle), accuracy)
        return float(np.log(above / distance)) if distance else np.inf

    levels = np.linspace(np.log(1e-5), np.log(3), HEIGHTS)
    grid = [(height((angle, level), COARSE), angle, level) for angle in _angles(found) for level in levels]
    best = max(each[0] for each in grid)
    for _, angle, level in sorted(grid, reverse=True)[:2]:
        simplex = np.array([(angle, level), (angle + np.pi / UNIFORM / 4, level), (angle, level + 0.5)])
        options = {"initial_simplex": simplex, "xatol": 1e-4, "fatol": 1e-9, "maxfev": 150}
        refined = minimize(lambda place: -height(place), (angle, level), method="Nelder-Mead", options=options)
        best = max(best, -float(refined.fun))
    return max(float(np.exp(best)), 1.0)


def pseudospectral_radius(found: Resolvent, epsilon: float) -> float:
    """Compute the largest |z| of the ε-pseudospectrum."""
    largest = found.eigenvalues[np.abs(found.eigenvalues).argmax()]
    return _reach(
        found,
        epsilon,
        lambda angle, radius: complex(radius * np.exp(1j * angle)),
        _angles(found),
        float(np.angle(largest)),
        found.radius,
        np.pi / UNIFORM,
    )


def pseudospectral_abscissa(found: Resolvent, epsilon: float) -> float:
    """Compute the largest real part of the ε-pseudospectrum."""
    ordered = found.eigenvalues[np.argsort(-found.eigenvalues.real)]
    lines = np.concatenate([np.abs(ordered[:OF_EIGENVALUES].imag), np.linspace(0, found.norm, UNIFORM)])
    return _reach(
        found,
        epsilon,
        complex_of,
        lines,
        float(ordered[0].imag),
        float(ordered[0].real),
        (found.norm or 1.0) / UNIFORM,
    )


def complex_of(imaginary: float, real: float) -> complex:
    """Return the point of the plane on a horizontal line."""
    return complex(real, imaginary)


def _angles(found: Resolvent) -> Float[np.ndarray, " line"]:
    """List angles of the upper half plane: those of the largest eigenvalues, and even steps."""
    ordered = found.eigenvalues[np.argsort(-np.abs(found.eigenvalues))]
    return np.concatenate([np.abs(np.angle(ordered[:OF_EIGENVALUES])), np.linspace(0, np.pi, UNIFORM)])


def _reach(
    found: Resolvent,
    epsilon: float,
    place: Callable[[float, float], complex],
    lines: Iterable[float],
    line: float,
    reached: float,
    step: float,
) -> float:
    """Find how far out lines of the plane meet the ε-pseudospectrum, from a point of it at `reached` on `line`.

    Whether a line beats what is known takes one σ_min. Lines beside the best are tried in ever smaller steps.
    """
    from scipy.optimize import brentq

    beyond, finest = found.norm + 2 * epsilon, FINEST * step  # σ_min(zI − A) ≥ |z| − ‖A‖

    def outside(line: float, at: float) -> float:
        return found.distance(place(line, at), CONVERGED) - epsilon

    def crossing(line: float, at: float) -> float:
        return float(brentq(lambda at: outside(line, at), at, beyond, xtol=1e-13 * beyond, rtol=1e-12))

    def farther(line: float) -> bool:
        return outside(line, reached) < -1e-9 * epsilon

    reached = crossing(line, reached)
    for other in lines:
        if farther(other):
            line, reached = other, crossing(other, reached)
    while step > finest:
        beside = [each for each in (line - step, line + step) if farther(each)]
        if beside:
            line, reached = beside[0], crossing(beside[0], reached)
        else:
            step /= 2
    return reached
