r"""Join task vectors into one: which entries are kept, whose sign counts, which directions are made to agree.

Of each $\tau_i = \theta_i - \theta_0$, tensor by tensor, with weights $w_i$ (1 unless given):

| method         | entries kept | joined                                              | source                     |
|----------------|--------------|-----------------------------------------------------|----------------------------|
| `ties`         | the largest  | mean of those whose sign is that of $\sum w \tau$   | Yadav et al. 2023          |
| `dare_linear`  | drawn        | $\sum w \tau$                                       | Yu et al. 2024             |
| `dare_ties`    | drawn        | as `ties`                                           | Yu et al. 2024             |
| `della_linear` | drawn, large ones rather | $\sum w \tau$                           | Deep et al. 2024           |
| `della`        | drawn, large ones rather | as `ties`                               | Deep et al. 2024           |
| `tsv_m`        | all          | leading singular vectors of each, made orthogonal   | Gargiulo et al. 2025       |
| `iso_c`        | all          | $\sum w \tau$ with all singular values at their mean | Marczak et al. 2025       |
| `iso_cts`      | all          | the same, the smallest replaced by each model's own | Marczak et al. 2025        |
| `knots_ties`   | all          | `ties` of what each has on their common left vectors | Stoica et al. 2025        |

The last four join matrices; of other tensors they take the mean, as their authors do. TIES' authors rank the entries
of a whole model, here it is those of one tensor, as mergekit does: tensors are merged one at a time.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jacspec.spectra.subspaces import Decomposed, decompose

Update = Float[np.ndarray, "..."]
Matrix = Float[np.ndarray, "m n"]


class Settings(NamedTuple):
    """Numbers of the methods.

    `density`, the share of entries that are kept; `epsilon`, how much more likely the largest are kept than the
    smallest; `common`, the share of directions that Iso-CTS takes from the sum; `alpha`, the share of the second of two
    models, and `strength`, how far it grows where they differ in σ₁ (`confidence.py`).
    """

    density: float
    epsilon: float
    common: float
    alpha: float = 0.5
    strength: float = 0.5


class Method(NamedTuple):
    """How task vectors are joined.

    `thin(update, settings, draw)` chooses among the entries of one; `join(updates, weights, settings)` makes one of
    all. Where it joins `matrices` alone, the mean is taken of other tensors. `coefficient` is what the result is
    multiplied by where none is given.
    """

    join: Callable[[Sequence[Update], Sequence[float], Settings], Update]
    thin: Callable[[Update, Settings, np.random.Generator], Update] | None = None
    matrices: bool = False
    coefficient: float = 1.0


def trim(update: Update, settings: Settings, draw: np.random.Generator) -> Update:
    """Keep the largest entries, ⌊density · size⌋ of them and their equals, and at least one."""
    size = np.abs(update)
    kept = max(int(settings.density * update.size), 1)
    least = np.partition(size, update.size - kept, axis=None)[update.size - kept]
    return np.where(size >= least, update, 0)


def drop(update: Update, settings: Settings, draw: np.random.Generator) -> Update:
    """Keep each entry with the chance `density`, divided by it: the mean over draws is the task vector."""
    return _draw(update, np.full(update.shape, settings.density), draw)


def drop_small(update: Update, settings: Settings, draw: np.random.Generator) -> Update:
    """Keep an entry with a chance that grows with its rank in its row, by ± epsilon / 2, divided by that chance.

    A tensor of one axis is one row.
    """
    rows = update.reshape(-1, update.shape[-1]) if update.ndim else update.reshape(1, 1)
    ranks = np.argsort(np.argsort(np.abs(rows), axis=1, kind="stable"), axis=1, kind="stable")
    height = ranks / max(rows.shape[1] - 1, 1)
    return _draw(update, (settings.density + settings.epsilon * (height - 0.5)).reshape(update.shape), draw)


def _draw(update: Update, chance: Update, draw: np.random.Generator) -> Update:
    kept: Bool[np.ndarray, ...] = draw.random(update.shape) < chance
    return np.where(kept, update / chance.astype(update.dtype), 0)


def total(updates: Sequence[Update], weights: Sequence[float], settings: Settings) -> Update:
    """Sum task vectors, each times its weight."""
    return sum((weight * update for update, weight in zip(updates, weights, strict=True)), np.zeros_like(updates[0]))


def mean_of_elected(updates: Sequence[Update], weights: Sequence[float], settings: Settings) -> Update:
    """Take, entry by entry, the weighted mean of those whose sign is that of their sum; 0 where none has an entry."""
    elected = np.where(total(updates, weights, settings) >= 0, 1, -1)
    counted = [np.where(np.sign(update) == elected, weight, 0) for update, weight in zip(updates, weights, strict=True)]
    whole = sum(counted, np.zeros_like(updates[0]))
    parts = sum((own * update for own, update in zip(counted, updates, strict=True)), np.zeros_like(updates[0]))
    return parts / np.where(whole == 0, 1, whole)


def decorrelate(updates: Sequence[Matrix], weights: Sequence[float], settings: Settings) -> Matrix:
    r"""Make the leading singular vectors of all orthogonal to each other: $\hat U \Sigma \hat V^\top$ (TSV-M).

    Of T matrices each gives the ⌊k / T⌋ largest of its k singular values; $\hat U$ is the orthogonal factor of the
    polar decomposition of all left vectors side by side, $\hat V$ that of the right ones. Where there are more
    matrices than k, each gives one, and the vectors of the whole cannot all be orthogonal.
    """
    most = max(min(updates[0].shape) // len(updates), 1)
    parts = [_leading(weight * update, most) for update, weight in zip(updates, weights, strict=True)]
    left, sigma, right = (np.concatenate(side, axis=-1) for side in zip(*parts, strict=True))
    return _nearest_orthogonal(left) * sigma @ _nearest_orthogonal(right).T


def level(updates: Sequence[Matrix], weights: Sequence[float], settings: Settings) -> Matrix:
    """Set all singular values of the sum to their mean (Iso-C).

    Those beyond its rank are left out: their vectors are arbitrary.
    """
    left, sigma, right = _leading(total(updates, weights, settings), min(updates[0].shape))
    return sigma.mean() * left @ right.T if sigma.size else np.zeros_like(updates[0])


def level_with_own(updates: Sequence[Matrix], weights: Sequence[float], settings: Settings) -> Matrix:
    r"""Set all singular values to their mean, of the sum's leading directions and of each model's own (Iso-CTS).

    Of k directions the share `common` are the sum's, rounded so that each model has as many of its own: the leading
    ones of what is left of its task vector outside the sum's left directions. All are then made orthogonal.
    """
    k = min(updates[0].shape)
    own = round((k - int(settings.common * k)) / len(updates))
    left, sigma, right = _leading(total(updates, weights, settings), k - own * len(updates))
    weighted = [weight * update for update, weight in zip(updates, weights, strict=True)]
    parts = [_leading(update - left @ (left.T @ update), own, part_of=update) for update in weighted]
    lefts, sigmas, rights = (np.concatenate(side, axis=-1) for side in zip((left, sigma, right), *parts, strict=True))
    if not sigmas.size:
        return np.zeros_like(updates[0])
    return sigmas.mean() * _nearest_orthogonal(lefts) @ _nearest_orthogonal(rights).T


def elect_on_common_vectors(updates: Sequence[Matrix], weights: Sequence[float], settings: Settings) -> Matrix:
    r"""Merge by TIES what the matrices have on common left vectors (KnOTS).

    $[\tau_1, \dots, \tau_T] = U \Sigma [V_1^\top, \dots, V_T^\top]$: the $\Sigma V_i^\top$ are trimmed, elected and
    averaged, and $U$ put before.
    """
    left, sigma, right = _leading(np.concatenate(updates, axis=1), len(updates[0]))
    if not sigma.size:
        return np.zeros_like(updates[0])
    parts = np.split(sigma[:, None] * right.T, len(updates), axis=1)
    nothing = np.random.default_rng(0)  # trimming draws nothing
    return left @ mean_of_elected([trim(part, settings, nothing) for part in parts], weights, settings)


def _leading(matrix: Matrix, most: int, *, part_of: Matrix | None = None) -> Decomposed:
    """Compute the largest singular values and their vectors; none that are rounding, of what it is `part_of` too."""
    (found,) = decompose([matrix])
    size = 0.0 if part_of is None else np.linalg.norm(part_of) * max(matrix.shape) * np.finfo(matrix.dtype).eps
    kept = min(most, found.rank, int((found.sigma > size).sum()))
    return Decomposed(found.left[:, :kept], found.sigma[:kept], found.right[:, :kept])


def _nearest_orthogonal(vectors: Matrix) -> Matrix:
    """Compute the orthogonal factor of the polar decomposition: of all orthonormal columns the nearest ones."""
    left, _, right = np.linalg.svd(vectors, full_matrices=False)
    return left @ right


METHODS = {
    "ties": Method(mean_of_elected, trim),
    "dare_linear": Method(total, drop, coefficient=0.4),
    "dare_ties": Method(mean_of_elected, drop),
    "della_linear": Method(total, drop_small, coefficient=0.4),
    "della": Method(mean_of_elected, drop_small),
    "tsv_m": Method(decorrelate, matrices=True),
    "iso_c": Method(level, matrices=True),
    "iso_cts": Method(level_with_own, matrices=True),
    "knots_ties": Method(elect_on_common_vectors, matrices=True),
}
"""Methods by name; those that sum have the coefficient of task arithmetic."""


def join_updates(
    method: Method,
    updates: Sequence[Update],
    weights: Sequence[float],
    settings: Settings,
    *,
    is_matrix: bool,
    seed: Sequence[int],
) -> Update:
    """Make one task vector of several of one tensor.

    **Arguments:** `is_matrix`, whether the tensor is one that methods for matrices join; `seed`, of what is drawn: the
    same for the same tensor, whatever was merged before.
    """
    if method.matrices and not is_matrix:
        return total(updates, weights, settings) / len(updates)
    if method.thin is not None:
        draws = [np.random.default_rng([*seed, model]) for model in range(len(updates))]
        updates = [method.thin(update, settings, draw) for update, draw in zip(updates, draws, strict=True)]
    return method.join(updates, weights, settings)


def interpolate_on_sphere(first: Update, second: Update, share: float) -> Update:
    r"""Go the `share` of the way from the first to the second along the arc between them (SLERP, Shoemake 1985).

    $(\sin((1 - t)\Omega)\, a + \sin(t \Omega)\, b) / \sin \Omega$, $\Omega$ the angle between the tensors taken as
    vectors; along the chord where they are parallel or one is zero.
    """
    a, b = first.ravel(), second.ravel()
    lengths = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    angle = math.acos(min(max(float(a @ b) / lengths, -1), 1)) if lengths > 0 else 0.0
    if math.sin(angle) < 1e-6:
        return (1 - share) * first + share * second
    return (math.sin((1 - share) * angle) * first + math.sin(share * angle) * second) / math.sin(angle)
