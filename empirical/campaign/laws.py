"""Laws that hold two traced boundaries side by side: budgets, momentum, width, batch, noise, the apex.

Two boundaries a and b at the same (γ, seed) have a ratio ρ(γ) = a/b. Its mean over the window is held against the
ratio of the exact laws, and the slope of ln ρ against ln γ, which is the difference of the two exponents, against
theirs: 1/T for eta_min, 1 + β for the heavy ball, 1 and 0 for what should change nothing (width in μP, label noise,
batch).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from simulate import BoundaryPoints, ScalingFit, fit_power_law
from theory.errors import positive_array

WIDEST = 0.15
"""Half-width of ln ρ above which nothing is decided, as for slopes."""

LEAST_GAMMAS = 5
FARTHEST = np.log(1e3)
"""How far beyond the last γ an apex is extrapolated; two lines that close more slowly may as well never do."""


@dataclass(frozen=True)
class Ratio:
    """The ratio of two boundaries.

    Attributes:
        ratio: geometric mean over γ and seeds.
        interval: 95 % interval, clustered by γ, bracket widths included.
        predicted: geometric mean of the laws' ratio at the same γ; NaN when there is no law.
        slope: fit of the ratio as a power of γ: the difference of the two exponents, held against the laws'.
        n_points: pairs.
        verdict: ``consistent``, ``inconsistent`` or ``undetermined``, of the mean.
    """

    ratio: float
    interval: tuple[float, float]
    predicted: float
    slope: ScalingFit
    n_points: int
    verdict: str


def _pairs(a: BoundaryPoints, b: BoundaryPoints) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions of the points that share γ and seed."""
    places = {(round(float(np.log(g)), 9), int(s)): i for i, (g, s) in enumerate(zip(b.gamma, b.seed, strict=True))}
    both = [
        (i, places[key])
        for i, (g, s) in enumerate(zip(a.gamma, a.seed, strict=True))
        if (key := (round(float(np.log(g)), 9), int(s))) in places
    ]
    first, second = (np.array([pair[k] for pair in both], dtype=np.intp) for k in (0, 1))
    return first, second


def compare_boundaries(a: BoundaryPoints, b: BoundaryPoints, law: ArrayLike | None = None) -> Ratio | None:
    """Hold a/b against what the laws say.

    Args:
        a: traced points.
        b: traced points of what it is divided by.
        law: exact law of a over that of b at each γ of a, shape ``(points of a,)``; no prediction when ``None``.

    Returns:
        The ratio; ``None`` where fewer than two γ have a pair.
    """
    first, second = _pairs(a, b)
    gamma = a.gamma[first]
    grid, cluster = np.unique(gamma, return_inverse=True)
    if len(grid) < 2:
        return None
    logs = np.log(a.eta[first] / b.eta[second])
    mean_at = np.bincount(cluster, weights=logs) / np.bincount(cluster)
    mean = float(mean_at.mean())
    width_a, width_b = np.log(a.eta_high / a.eta_low)[first], np.log(b.eta_high / b.eta_low)[second]
    brackets = float(np.sum(width_a**2 + width_b**2)) / 12 / len(first) ** 2
    variance = float(mean_at.var(ddof=1)) / len(grid) + brackets
    half = float(stats.t.ppf(0.975, len(grid) - 1) * np.sqrt(variance))
    laws = None if law is None else positive_array("law", law)[first]
    predicted = np.nan if laws is None else float(np.exp(np.mean(np.log(laws))))
    slope = fit_power_law(
        gamma,
        np.exp(logs),
        eta_low=a.eta_low[first] / b.eta_high[second],
        eta_high=a.eta_high[first] / b.eta_low[second],
        seed=a.seed[first],
        law=laws,
    )
    verdict = "undetermined"
    if len(grid) >= LEAST_GAMMAS and half <= WIDEST and laws is not None:
        verdict = "consistent" if abs(mean - np.log(predicted)) <= half else "inconsistent"
    ends = (float(np.exp(mean - half)), float(np.exp(mean + half)))
    return Ratio(float(np.exp(mean)), ends, predicted, slope, len(first), verdict)


@dataclass(frozen=True)
class Closing:
    """Where the window of trainable learning rates closes.

    Attributes:
        gamma: γ at which eta_min meets eta_crit.
        extrapolated: no traced γ lies beyond it.
        error: standard error of ln γ that comes from the widths of the brackets.
    """

    gamma: float
    extrapolated: bool
    error: float


def closing(eta_min: BoundaryPoints, eta_crit: BoundaryPoints) -> Closing | None:
    """The apex of the triangle, from traced boundaries: ln(eta_crit/eta_min) followed to zero along ln γ.

    Args:
        eta_min: traced points.
        eta_crit: traced points, of which some share γ and seed with those.

    Returns:
        The apex, by linear interpolation of the mean over seeds, or by extrapolation of the last two γ; ``None`` where
        fewer than two γ have both, the window does not narrow there, or not enough to close within three decades.
    """
    first, second = _pairs(eta_crit, eta_min)
    grid, cluster = np.unique(eta_crit.gamma[first], return_inverse=True)
    if len(grid) < 2:
        return None
    logs = np.log(eta_crit.eta[first] / eta_min.eta[second])
    height, x = np.bincount(cluster, weights=logs) / np.bincount(cluster), np.log(grid)
    below = np.nonzero(height <= 0)[0]
    at = max(int(below[0]), 1) if len(below) else len(grid) - 1
    slope = (height[at] - height[at - 1]) / (x[at] - x[at - 1])
    if slope >= 0 or -height[at] / slope > FARTHEST:
        return None
    widths = [np.log(p.eta_high / p.eta_low)[i] for p, i in ((eta_crit, first), (eta_min, second))]
    variance = np.bincount(cluster, weights=widths[0] ** 2 + widths[1] ** 2)[at] / 12 / np.bincount(cluster)[at] ** 2
    return Closing(float(np.exp(x[at] - height[at] / slope)), not len(below), float(np.sqrt(variance) / -slope))
