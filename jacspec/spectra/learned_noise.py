r"""Noise that learning leaves in a linear layer: least along the directions in which its input varies most.

This project's answer to how a small singular value can carry more than a larger one, from first principles: "Small
Singular Values Matter" proposes a linear random-matrix model of its own in its later version, which was not at hand.

A layer (M × n) learns y = B x + ε from T samples of x with second moment Σ and ε of variance s_ε² an output. Gradient
flow on the mean of |y − W x|²/2 from independent entries of variance τ² leaves at time t, along a direction of variance
ℓ, the share 1 − e^{−tℓ} of B, and noise whose rows have the variance

$$a(\ell) = \tau^2 e^{-2 t \ell} + \frac{s_\epsilon^2}{T} \frac{(1 - e^{-t \ell})^2}{\ell}$$

(Σ being that of the samples, T well above n, it is exact). At t = 0 all are equal, which is Marchenko and Pastur's
null; at t = ∞, least squares, a is $s_\epsilon^2 / (T \ell)$; between them, over the range of ℓ that a layer meets, it
is like $\ell^{-\beta}$, β from 0 to 1. So W = B + Z A^{1/2} is what `sample_covariance` has the law of, with A = a(Σ).

Let the bulk have ℓ = 1 and noise 1, one direction p another ℓ and noise a, and B p = θ√M u. Column W p is independent
of the others, whose law no rotation changes, so that it counts with its length alone: the spike is of strength
$a + \theta^2$, and where that is below 1 − √γ its singular value λ is *below* the bulk, with squared overlap c² between
right singular vector v and p. Along it (all over M and the bulk's noise)

- the output varies by $\lambda v^\top \Sigma v = \lambda (1 + c^2 (\ell - 1))$, in the bulk by λ itself;
- without it the squared error changes by $\sigma (2 u^\top B \Sigma v - \sigma v^\top \Sigma v)$ (exactly, of any
  singular value of W), that is $\lambda (c^2 \ell (2 f - 1) - (1 - c^2))$ with f = θ²/(a + θ²), the share of signal; in
  the bulk, which is noise, by −λ.

Removing a value of the bulk lowers the error, removing one that is far smaller raises it, where f > ½ and ℓ is large.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jacspec.spectra.sample_covariance import locate_spikes

BLOCKS = 20
"""Runs of neighbouring pairs of directions that the interval of an exponent comes from."""

FEWEST = 2 * BLOCKS
"""Directions below which there is no exponent."""


def noise_after_learning(
    variances: Float[np.ndarray, " n"], time: float, *, start: float, noise: float, samples: int
) -> Float[np.ndarray, " n"]:
    """Compute a(ℓ), the variance of the noise along directions of the data, for each ℓ in `variances`.

    **Arguments:** `time` t of gradient flow, in units of 1/ℓ, ∞ for least squares; `start`, τ² of the entries at first;
    `noise`, s_ε² of an output; `samples`, T.

    **Raises:** `ValueError` for a variance or a time that is negative, or no samples.
    """
    if not (np.min(variances) > 0 and time >= 0 and samples > 0):
        raise ValueError("Variances and samples have to be positive, and time not negative.")
    left = np.exp(-time * variances)
    return start * left**2 + noise / samples * (1 - left) ** 2 / variances


class Direction(NamedTuple):
    """What one direction of the data makes of a layer's singular values, over M and the bulk's noise.

    `population` a + θ², `lam` λ = σ²/M, `overlap` c², `output` λ vᵀΣv, and `removal`, the change of the squared error
    without it (`output` and `removal` of an average value of the bulk are 1 and −1).
    """

    population: Float[np.ndarray, " direction"]
    lam: Float[np.ndarray, " direction"]
    overlap: Float[np.ndarray, " direction"]
    output: Float[np.ndarray, " direction"]
    removal: Float[np.ndarray, " direction"]


def learned_direction(
    variance: Float[np.ndarray, " direction"],
    signal: Float[np.ndarray, " direction"],
    noise: Float[np.ndarray, " direction"],
    ratio: float,
) -> Direction:
    """Predict what a direction makes of the spectrum, each alone in a bulk of variance, noise and λ of 1 on average.

    **Arguments:** `variance`, ℓ; `signal`, θ² = |B p|²/M; `noise`, a, as 1/ℓ of least squares; `ratio`, γ = n/M.

    **Raises:** `ValueError` where a ratio or a strength is not positive.
    """
    population = noise + signal
    lam, overlap = locate_spikes(population, ratio)
    share = signal / population
    output = lam * (1 + overlap * (variance - 1))
    return Direction(population, lam, overlap, output, lam * (overlap * variance * (2 * share - 1) - (1 - overlap)))


class Exponent(NamedTuple):
    """β of energies like ℓ^(−β), its interval of 95 %, and how many directions it is from; NaN where too few."""

    value: float
    low: float
    high: float
    directions: int


def fit_exponent(variances: Float[np.ndarray, " n"], energies: Float[np.ndarray, " n"]) -> Exponent:
    """Fit the exponent β of energies |W p|² along directions of the data, by a line in the logarithms.

    Its slope is the median of those between each direction of the lower half and its counterpart in the upper one
    (Theil 1950, incomplete): a few directions that hardly vary, as dead channels, do not move it. Neighbours depart
    from a power law together: the interval is Student's, of the medians of `BLOCKS` runs of pairs.

    **Arguments:** `variances` ℓ, of samples that the directions p do *not* come from, or the largest are too large and
    the smallest too small; directions without variance or energy are left out.
    """
    from scipy.special import stdtrit

    known = (variances > 0) & (energies > 0)
    order = np.argsort(variances[known])
    x, y = np.log(variances[known])[order], np.log(energies[known])[order]
    if x.size < FEWEST or not x[-1] > x[0]:
        return Exponent(np.nan, np.nan, np.nan, x.size)
    slopes = _slopes(x, y)
    blocks = np.arange(slopes.size) * BLOCKS // slopes.size
    medians = np.array([np.median(slopes[blocks == block]) for block in range(BLOCKS)])
    value = float(np.median(slopes))
    reach = float(stdtrit(BLOCKS - 1, 0.975)) * float(medians.std(ddof=1)) / BLOCKS**0.5
    return Exponent(-value, -value - reach, -value + reach, x.size)


def _slopes(x: Float[np.ndarray, " point"], y: Float[np.ndarray, " point"]) -> Float[np.ndarray, " pair"]:
    """Return the slopes between points half of all apart; `x` in ascending order."""
    half = (x.size + 1) // 2
    apart, rise = x[half:] - x[: x.size - half], y[half:] - y[: y.size - half]
    return rise[apart > 0] / apart[apart > 0]
