"""Outliers of a spectrum: how many eigenvalues stand apart from the bulk.

With eigenvalues λ_1 ≥ λ_2 ≥ … > 0 and relative gaps g_i = ln(λ_i/λ_{i+1}), the count is the last i whose gap is the
largest around: at least ``contrast`` times the mean of the ``following`` gaps beneath it, which measure the bulk's own
spacing. Gaps of a bulk repel (their law falls off like exp(−πs²/4)), and the first gap at its edge is only twice the
next ones on average: five times happens in one bulk of a hundred. A spectrum that falls as a power law has no bulk and
no outliers: its relative gaps fall as 1/i.

Known case: a spiked sample covariance I + ℓvvᵀ at aspect ratio c has an outlier at (1+ℓ)(1+c/ℓ) when ℓ > √c, and none
otherwise; the bulk ends at (1+√c)² (Baik, Ben Arous and Péché 2005).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from empirical.phenomena.curves import OK, Finding, undetermined
from theory.errors import InputError, positive_integer, positive_number

NAN = float("nan")
_RESOLUTION = 1e-12  # eigenvalues below this share of the largest are zero in float64
_MOST = 40


@dataclass(frozen=True)
class Outliers(Finding):
    """The outliers of one spectrum.

    Attributes:
        count: how many eigenvalues stand apart; at most ``most``.
        smallest: the smallest of them; NaN without any.
        bulk_edge: the largest eigenvalue of the bulk.
        gap: smallest/bulk_edge − 1; NaN without outliers.
        contrast: the gap over the mean gap beneath it; without outliers the largest such ratio. The nearer to the
            threshold, the less certain the count.
    """

    count: int = 0
    smallest: float = NAN
    bulk_edge: float = NAN
    gap: float = NAN
    contrast: float = NAN


def spectral_outliers(
    eigenvalues: ArrayLike, *, contrast: float = 5.0, following: int = 8, most: int | None = None
) -> Outliers:
    """Count the eigenvalues that are separated from the bulk beneath them.

    Args:
        eigenvalues: the largest eigenvalues, or all of them, in any order. Only positive ones are looked at.
        contrast: least ratio of a gap to the mean of those beneath it.
        following: how many gaps beneath it.
        most: largest count considered; half of the eigenvalues, at most 40, when ``None``. Ask for at least
            ``following`` + 1 more eigenvalues than there may be outliers.

    Returns:
        The count. Undetermined when there are fewer than ``following`` + 2 positive eigenvalues, or one is not finite.

    Raises:
        InputError: not a vector, a contrast that is not positive, a count below 1.
    """
    least = positive_number("contrast", contrast)
    beneath = positive_integer("following", following)
    values = np.asarray(eigenvalues, dtype=np.float64)
    if values.ndim != 1:
        raise InputError("eigenvalues", values.shape, "a vector")
    if not np.isfinite(values).all():
        return Outliers(undetermined("an eigenvalue is not finite"))
    values = np.sort(values)[::-1]
    limit = min(len(values) // 2, _MOST) if most is None else positive_integer("most", most)
    values = values[values > 0]
    if len(values) < beneath + 2:
        few = f"{len(values)} positive eigenvalues, at least {beneath + 2} are needed"
        return Outliers(undetermined(few))
    values = np.maximum(values, _RESOLUTION * values[0])
    gaps = -np.diff(np.log(values))
    limit = min(limit, len(gaps) - beneath)
    below = np.array([gaps[i + 1 : i + 1 + beneath].mean() for i in range(limit)])
    # equal eigenvalues have no gaps: nothing stands apart from itself, anything from a bulk without width
    ratio = np.divide(gaps[:limit], below, out=np.where(gaps[:limit] > 0, np.inf, 0.0), where=below > 0)
    apart = np.nonzero(ratio >= least)[0]
    if not apart.size:
        return Outliers(OK, bulk_edge=float(values[0]), contrast=float(ratio.max()))
    last = int(apart[-1])
    return Outliers(
        OK,
        count=last + 1,
        smallest=float(values[last]),
        bulk_edge=float(values[last + 1]),
        gap=float(values[last] / values[last + 1] - 1),
        contrast=float(ratio[last]),
    )
