"""Power laws with intervals: ln η = b ln γ + (one intercept a seed), fitted on a window that theory chose.

The interval has two parts, added in quadrature:

- scatter: all seeds see the same γ, so a departure from the power law at one γ is shared between them, and seeds may
  disagree about the slope. The variance is therefore clustered by γ and by seed, with (number of γ) − 2 degrees of
  freedom at most: more seeds never make up for too few γ;
- brackets: a boundary lies anywhere in its bracket, so each point carries the variance w²/12 of a uniform law, w the
  bracket's width in ln η.

The verdict compares the interval with the slope that the exact toy law has over the same points, since the limits 2 and
2/L are only reached asymptotically. `consistent` when the interval holds that slope, else `inconsistent`;
`undetermined` when the half-width is above 0.15 or the window has fewer than five γ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from theory.errors import InputError, positive_array

LEAST_GAMMAS = 5
WIDEST_HALF_WIDTH = 0.15


@dataclass(frozen=True)
class ScalingFit:
    """A fitted power law η ∝ γ^exponent.

    Attributes:
        exponent: least-squares slope of ln η against ln γ.
        interval: 95 % interval of the exponent, (low, high).
        window: smallest and largest γ that the fit may use, (low, high).
        verdict: ``consistent``, ``inconsistent`` or ``undetermined``.
        predicted: asymptotic exponent (2, 2/L, …); NaN when none was given.
        predicted_window: slope of the exact law over the same points; NaN when none was given.
        coefficient: η at γ = 1 on the fitted line, geometric mean over seeds.
        coefficients: the same for each seed.
        n_points: points used.
        n_gamma: different γ among them.
        scatter: root-mean-square residual in ln η.
        explanation: why the verdict is ``undetermined``, else empty.
    """

    exponent: float
    interval: tuple[float, float]
    window: tuple[float, float]
    verdict: str
    predicted: float
    predicted_window: float
    coefficient: float
    coefficients: dict[int, float]
    n_points: int
    n_gamma: int
    scatter: float
    explanation: str = ""

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.interval[1] - self.interval[0]) / 2

    def __call__(self, gamma: ArrayLike) -> NDArray[np.float64]:
        """Evaluate the fitted law.

        Args:
            gamma: feature-learning strengths, any shape.

        Returns:
            η on the fitted line, same shape.
        """
        return self.coefficient * np.asarray(gamma, dtype=np.float64) ** self.exponent


def _slope_weights(x: NDArray[np.float64], group: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weights c with slope = Σ c·y, for least squares with one intercept a group."""
    centred = x - (np.bincount(group, weights=x) / np.maximum(np.bincount(group), 1))[group]
    total = float(np.sum(centred**2))
    return centred / total if total > 0 else np.full_like(x, np.nan)


def _scatter_variance(
    c: NDArray[np.float64],
    residual: NDArray[np.float64],
    cluster: NDArray[np.int64],
    group: NDArray[np.int64],
    freedom: int,
) -> float:
    """Variance of the slope Σ c·y from residuals that may be common to a γ, to a seed, or to neither.

    Returns:
        The largest of: clustered by γ; the same with equal scatter at every γ (exact for one seed); and the two-way
        form of Cameron, Gelbach and Miller (2011), by γ plus by seed less by point, which sees seeds that disagree.
    """
    size = np.bincount(cluster)
    factor = len(size) / freedom
    by_gamma = float(np.sum(np.bincount(cluster, weights=c * residual) ** 2)) * factor
    mean = np.bincount(cluster, weights=residual) / size
    even = float(np.sum(mean**2)) / freedom * float(np.sum(np.bincount(cluster, weights=c) ** 2))
    two_way, seeds = 0.0, int(group.max()) + 1
    if seeds > 1:
        by_seed = float(np.sum(np.bincount(group, weights=c * residual) ** 2)) * seeds / (seeds - 1)
        two_way = by_gamma + by_seed - float(np.sum((c * residual) ** 2))
    return max(by_gamma, even, two_way)


def _points(
    gamma: ArrayLike,
    eta: ArrayLike,
    eta_low: ArrayLike | None,
    eta_high: ArrayLike | None,
    seed: ArrayLike | None,
    law: ArrayLike | None,
) -> pd.DataFrame:
    """The points as checked columns of one length.

    Returns:
        One row a point.

    Raises:
        InputError: as ``fit_power_law``.
    """
    gammas = positive_array("gamma", gamma).ravel()
    etas = positive_array("eta", eta).ravel()
    columns = {"gamma": gammas, "eta": etas}
    for name, given in (("eta_low", eta_low), ("eta_high", eta_high)):
        columns[name] = etas if given is None else positive_array(name, given).ravel()
    columns["law"] = np.ones(len(gammas)) if law is None else positive_array("law", law).ravel()
    columns["seed"] = np.zeros(len(gammas), dtype=np.int64) if seed is None else np.asarray(seed).ravel()
    for name, values in columns.items():
        if len(values) != len(gammas):
            raise InputError(name, len(values), f"as long as gamma ({len(gammas)} points)")
    if (columns["eta_low"] > columns["eta_high"]).any():
        raise InputError("eta_low", "above eta_high", "at most eta_high at every point")
    return pd.DataFrame(columns)


def _undetermined(
    reason: str, window: tuple[float, float], predicted: float, n: int, n_gamma: int, slope: float = np.nan
) -> ScalingFit:
    nan = float("nan")
    return ScalingFit(
        slope, (-np.inf, np.inf), window, "undetermined", predicted, nan, nan, {}, n, n_gamma, nan, reason
    )


def fit_power_law(
    gamma: ArrayLike,
    eta: ArrayLike,
    *,
    eta_low: ArrayLike | None = None,
    eta_high: ArrayLike | None = None,
    seed: ArrayLike | None = None,
    window: tuple[float, float] | None = None,
    predicted: float = float("nan"),
    law: ArrayLike | None = None,
    confidence: float = 0.95,
) -> ScalingFit:
    """Fit η ∝ γ^b on a window, with an interval and a verdict.

    Args:
        gamma: feature-learning strengths, shape ``(points,)``.
        eta: boundary learning rates, same shape.
        eta_low: lower ends of their brackets, same shape; no bracket widths when ``None``.
        eta_high: upper ends.
        seed: seed of each point, one intercept each; all of one seed when ``None``.
        window: (low, high), ends included; chosen beforehand from theory. All points when ``None``.
        predicted: asymptotic exponent, kept with the fit; also what the verdict is held against when ``law`` is
            ``None``.
        law: the exact law's η at each of the points, same shape; its slope over the points in the window is
            ``predicted_window``, what the verdict is held against.
        confidence: level of the interval.

    Returns:
        The fit. Where the points leave no degree of freedom there is no interval: the verdict is ``undetermined`` and
        says why, and nothing is raised, since an empty window is a finding.

    Raises:
        InputError: a γ or η that is not positive, shapes that differ, a bracket with low above high, a window with
            low ≥ high, or a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise InputError("confidence", confidence, "between 0 and 1, such as 0.95")
    if window is not None and not 0 < window[0] < window[1]:
        raise InputError("window", window, "(low, high) with 0 < low < high")
    if np.size(gamma) == 0:
        return _undetermined("no points", window or (np.nan, np.nan), predicted, 0, 0)
    points = _points(gamma, eta, eta_low, eta_high, seed, law)
    low, high = window or (float(points["gamma"].min()), float(points["gamma"].max()))
    slack = 1 + 1e-9  # a grid point on the edge of the window is inside, whatever the last bit says
    points = points[(points["gamma"] >= low / slack) & (points["gamma"] <= high * slack)]
    met = len(points), points["gamma"].nunique()
    # a seed with one point fixes its own intercept and says nothing about the slope
    points = points[points.groupby("seed")["seed"].transform("size") > 1]
    x, y = np.log(points["gamma"].to_numpy()), np.log(points["eta"].to_numpy())
    _, cluster = np.unique(np.round(x, 9), return_inverse=True)
    names, group = np.unique(points["seed"].to_numpy(), return_inverse=True)
    n, n_gamma = len(x), len(np.unique(cluster))
    freedom = min(n_gamma - 2, n - len(names) - 1)
    if freedom < 1:
        reason = f"{met[0]} points at {met[1]} γ in the window leave no degree of freedom for an interval"
        return _undetermined(reason, (low, high), predicted, *met)

    c = _slope_weights(x, group)
    slope = float(c @ y)
    intercepts = np.bincount(group, weights=y - slope * x) / np.bincount(group)
    residual = y - slope * x - intercepts[group]
    widths = np.log(points["eta_high"].to_numpy() / points["eta_low"].to_numpy())
    brackets = float(np.sum((c * widths) ** 2)) / 12
    variance = _scatter_variance(c, residual, cluster, group, freedom) + brackets
    half = float(stats.t.ppf(0.5 + confidence / 2, freedom)) * np.sqrt(variance)

    predicted_window = float(predicted) if law is None else float(c @ np.log(points["law"].to_numpy()))
    reason = ""
    if n_gamma < LEAST_GAMMAS:
        reason = f"{n_gamma} γ in the window, fewer than {LEAST_GAMMAS}"
    elif half > WIDEST_HALF_WIDTH:
        reason = f"half-width {half:.2f}, above {WIDEST_HALF_WIDTH}"
    elif np.isnan(predicted_window):
        reason = "no prediction to compare with"
    held = abs(slope - predicted_window) <= half
    verdict = "undetermined" if reason else ("consistent" if held else "inconsistent")
    return ScalingFit(
        exponent=slope,
        interval=(slope - half, slope + half),
        window=(low, high),
        verdict=verdict,
        predicted=float(predicted),
        predicted_window=predicted_window,
        coefficient=float(np.exp(np.mean(intercepts))),
        coefficients={int(s): float(np.exp(a)) for s, a in zip(names, intercepts, strict=True)},
        n_points=n,
        n_gamma=n_gamma,
        scatter=float(np.sqrt(np.mean(residual**2))),
        explanation=reason,
    )
