"""Power laws with intervals: ln η = b ln γ + (one intercept a seed), fitted on a window that theory chose.

The interval has two parts, added in quadrature:

- scatter: all seeds see the same γ, so a departure from the power law at one γ is shared between them. Residuals are
  therefore summed over the seeds of a γ before they are squared (errors clustered by γ), with
  (number of γ) − 2 degrees of freedom: more seeds never make up for too few γ;
- brackets: a boundary lies anywhere in its bracket, so each point carries the variance w²/12 of a uniform law, w the
  bracket's width in ln η.

The verdict compares the interval with the slope that the exact toy law has over the same points, since the limits 2 and
2/L are only reached asymptotically. `consistent` when the interval holds that slope, else `inconsistent`;
`undetermined` when the half-width is above 0.15 or the window has fewer than five γ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
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
        The fit. Fewer than three γ give no interval and no slope that deserves one: the verdict is ``undetermined``
        and says why, and nothing is raised, since an empty window is a finding.

    Raises:
        InputError: a γ or η that is not positive, shapes that differ, or a window with low ≥ high.
    """
    gammas, etas = positive_array("gamma", gamma).ravel(), positive_array("eta", eta).ravel()
    lows = etas if eta_low is None else positive_array("eta_low", eta_low).ravel()
    highs = etas if eta_high is None else positive_array("eta_high", eta_high).ravel()
    seeds = np.zeros(len(gammas), dtype=np.int64) if seed is None else np.asarray(seed).ravel()
    laws = None if law is None else positive_array("law", law).ravel()
    for name, values in (("eta", etas), ("eta_low", lows), ("eta_high", highs), ("seed", seeds), ("law", laws)):
        if values is not None and len(values) != len(gammas):
            raise InputError(name, len(values), f"as long as gamma ({len(gammas)} points)")
    window = (float(gammas.min()), float(gammas.max())) if window is None else (float(window[0]), float(window[1]))
    if not 0 < window[0] < window[1]:
        raise InputError("window", window, "(low, high) with 0 < low < high")

    slack = 1 + 1e-9  # a grid point on the edge of the window is inside, whatever the last bit says
    inside = (gammas >= window[0] / slack) & (gammas <= window[1] * slack)
    x, y, n = np.log(gammas[inside]), np.log(etas[inside]), int(inside.sum())
    _, cluster = np.unique(x, return_inverse=True)
    names, group = np.unique(seeds[inside], return_inverse=True)
    n_gamma = int(cluster.max()) + 1 if n else 0
    if n_gamma < 3:
        return _undetermined(
            f"{n_gamma} γ in the window, at least 3 are needed for a slope", window, predicted, n, n_gamma
        )

    c = _slope_weights(x, group)
    slope = float(c @ y)
    intercepts = np.bincount(group, weights=y - slope * x) / np.bincount(group)
    residual = y - slope * x - intercepts[group]
    # cluster-robust variance with the small-sample factor that makes it exact for one seed and even scatter
    shared = np.bincount(cluster, weights=c * residual)
    even = np.bincount(cluster, weights=residual) / np.bincount(cluster)
    centred_weight = np.bincount(cluster, weights=c)
    robust = float(np.sum(shared**2)) * n_gamma / (n_gamma - 2)
    homogeneous = float(np.sum(even**2)) / (n_gamma - 2) * float(np.sum(centred_weight**2))
    brackets = float(np.sum(c**2 * np.log(highs[inside] / lows[inside]) ** 2)) / 12
    half = float(stats.t.ppf(0.5 + confidence / 2, n_gamma - 2)) * np.sqrt(max(robust, homogeneous) + brackets)

    predicted_window = float(predicted) if laws is None else float(c @ np.log(laws[inside]))
    reason = ""
    if n_gamma < LEAST_GAMMAS:
        reason = f"{n_gamma} γ in the window, fewer than {LEAST_GAMMAS}"
    elif half > WIDEST_HALF_WIDTH:
        reason = f"half-width {half:.2f}, above {WIDEST_HALF_WIDTH}"
    if reason:
        verdict = "undetermined"
    elif np.isnan(predicted_window):
        verdict, reason = "undetermined", "no prediction to compare with"
    else:
        verdict = "consistent" if abs(slope - predicted_window) <= half else "inconsistent"
    return ScalingFit(
        exponent=slope,
        interval=(slope - half, slope + half),
        window=window,
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
