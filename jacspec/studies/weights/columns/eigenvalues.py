"""Columns, on request, of the eigenvalues of square matrices beside those of random rotations."""

from collections.abc import Mapping

from jacspec.studies.study import Quantity

RING = "Feinberg & Zee 1997; Guionnet, Krishnapur & Zeitouni 2011"

EIGENVALUES: Mapping[str, Quantity] = {
    "eigenvalue_radius": Quantity(
        r"$\max |\lambda_i(W)|$",
        "largest size of an eigenvalue of a square matrix, at most σ₁",
        "Horn & Johnson, Matrix Analysis, 5.6",
        scale=True,
        words="largest |λ|",
    ),
    "positive_share": Quantity(
        r"$f(\mathrm{Re}\,\lambda > 0)$",
        "share of the eigenvalues above rounding with a positive real part; 0.5 by chance",
        RING,
        words="share of Re λ > 0",
    ),
    "rotating_share": Quantity(
        r"$f(|\mathrm{Im}\,\lambda| > |\lambda| / 10)$",
        "share of these that turn a vector in a plane, |Im λ| > |λ|/10",
        "this project",
        words="share that rotates",
    ),
    "henrici_departure": Quantity(
        "departure from normality",
        "√(‖W‖_F² − Σ|λ|²)/‖W‖_F: 0 of a normal matrix, whose |λ| are its σ; 1 of a nilpotent one",
        "Henrici 1962",
    ),
    "ring_inner": Quantity(
        "inner radius of the null ring",
        "(mean σ⁻²)^(−1/2): within it no eigenvalue of a large U Σ Vᵀ with random rotations U and V lies",
        RING,
        scale=True,
    ),
    "ring_outer": Quantity("outer radius of the null ring", "(mean σ²)^(1/2): beyond it none lies", RING, scale=True),
    "ring_share": Quantity(
        "share in the null ring", "share of the eigenvalues whose size is between these radii", RING
    ),
    "rotated_radius": Quantity(
        r"rotated $\max |\lambda_i|$",
        "max|λ_i| of one draw of U Σ Vᵀ with its own singular values and random rotations: what chance has",
        RING,
        scale=True,
        words="largest |λ|, rotated",
    ),
    "rotated_rotating_share": Quantity(
        r"rotated $f(|\mathrm{Im}\,\lambda| > |\lambda| / 10)$",
        "rotating_share of that draw",
        RING,
        words="share that rotates, rotated",
    ),
    "rotated_departure": Quantity("rotated departure from normality", "henrici_departure of that draw", RING),
    "rotated_ring_share": Quantity("share in the null ring, rotated", "ring_share of that draw", RING),
}
