"""Power laws of the loss in time, ℓ ∝ t^{−α}, with a 95 % interval, and a flag on curves that are none.

The window is chosen by a rule and not by eye: the last decade before the end of the run, or from the exit of the
plateau (loss = ½ L₀) to where the loss is twice its floor. Inside, points are averaged in bins of log time (20 a
decade), so that dense and log-spaced curves weigh each decade alike, and ln ℓ is fitted by a line in ln t.

Neighbouring residuals are correlated, as in an autoregressive process of first order: with R_ij = ρ^{|i−j|}, ρ their
correlation at lag one (corrected for what the fit hides of it, Kendall 1954), the covariance of the coefficients SY is

    σ² S R Sᵀ,      σ² = |residual|²/tr((1 − BS) R),      S = B⁺, B the columns 1, x (and x² in a second fit),

times Student's t at n(1−ρ)/(1+ρ) − (columns) degrees of freedom. (Blocks of a bootstrap are too few in one window: on
14 to 21 points with ρ = 0.5, 0.8 its 95 % intervals hold the truth in 84 and 78 cases of 100, these in 90 and 87.) The
second fit measures how much the local exponent changes across the window: a power law has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from empirical.phenomena.curves import OK, Finding, FloatArray, checked_curve, undetermined
from empirical.phenomena.plateau import plateau_exit
from simulate.scaling import WIDEST_HALF_WIDTH
from theory.errors import InputError

NAN = float("nan")
WINDOWS = ("last-decade", "after-plateau")
_BINS_A_DECADE = 20
_LEAST_POINTS = 6
_LEAST_DECADES = 0.5
_LEAST_R2 = 0.9
_LARGEST_LAG = 0.9
_BENDS = 0.25  # change of the local exponent across the window, over the exponent, that is no power law any more


@dataclass(frozen=True)
class LossPowerLaw(Finding):
    """A power law ℓ = A t^{−α}; what could be fitted is kept even when the finding is undetermined.

    Attributes:
        exponent: α, positive for a loss that falls.
        interval: 95 % interval of α.
        coefficient: A, the loss at t = 1 on the fitted line.
        window: first and last time used.
        r2: share of the variance of ln ℓ that the line explains.
        curvature: change of the local exponent −d ln ℓ/d ln t from the start of the window to its end.
        curvature_interval: 95 % interval of that change.
        n_points: points fitted, after averaging in bins.
    """

    exponent: float = NAN
    interval: tuple[float, float] = (NAN, NAN)
    coefficient: float = NAN
    window: tuple[float, float] = (NAN, NAN)
    r2: float = NAN
    curvature: float = NAN
    curvature_interval: tuple[float, float] = (NAN, NAN)
    n_points: int = 0

    def __call__(self, times: ArrayLike) -> FloatArray:
        """Evaluate the fitted law.

        Args:
            times: positive times, any shape.

        Returns:
            Losses on the fitted line, same shape.
        """
        return np.asarray(self.coefficient * np.asarray(times, dtype=np.float64) ** -self.exponent)


def loss_power_law(
    times: ArrayLike,
    loss: ArrayLike,
    *,
    window: str | tuple[float, float] = "last-decade",
    floor: float = 0.0,
    confidence: float = 0.95,
) -> LossPowerLaw:
    """Fit a power law to a learning curve.

    Args:
        times: steps t or τ, ascending; shape ``(points,)``.
        loss: excess loss; a value that is not positive and finite ends the curve.
        window: ``"last-decade"``, ``"after-plateau"``, or (first, last) time.
        floor: loss that the run cannot fall below; subtracted nowhere, it ends the window ``"after-plateau"``.
        confidence: level of the intervals.

    Returns:
        The fit. Undetermined when the window holds fewer than six points or less than half a decade, when r² is below
        0.9, when the half-width of the interval is above 0.15, or when the local exponent changes across the window by
        more than a quarter of the exponent, beyond what the interval leaves to noise.

    Raises:
        InputError: bad times, shapes that differ, an unknown or empty window, a negative floor, a confidence outside
            (0, 1).
    """
    if not 0 < confidence < 1:
        raise InputError("confidence", confidence, "between 0 and 1, such as 0.95")
    if not floor >= 0:
        raise InputError("floor", floor, "at least 0")
    curve = checked_curve(times, loss, least=_LEAST_POINTS)
    if curve.problem:
        return LossPowerLaw(undetermined(curve.problem))
    chosen = _window(curve.times, curve.values, window, floor)
    if isinstance(chosen, str):
        return LossPowerLaw(undetermined(chosen))
    slack = 1 + 1e-12
    inside = (curve.times >= chosen[0] / slack) & (curve.times <= chosen[1] * slack) & (curve.times > 0)
    x, y = _binned(np.log(curve.times[inside]), np.log(curve.values[inside]))
    decades = (x[-1] - x[0]) / np.log(10) if len(x) else 0.0
    if len(x) < _LEAST_POINTS or decades < _LEAST_DECADES:
        few = f"{len(x)} points over {decades:.2f} decades in the window"
        return LossPowerLaw(undetermined(few), window=chosen, n_points=len(x))

    line, line_half, residual = _fit(x, y, 1, confidence)
    bend, bend_half, _ = _fit(x, y, 2, confidence)
    scale = -2 * (x[-1] - x[0])  # d/dx of −c₂x², from one end to the other
    change, change_half = float(scale * bend[2]), abs(float(scale * bend_half[2]))
    variance = float(np.sum((y - y.mean()) ** 2))
    r2 = 1 - float(residual @ residual) / variance if variance > 0 else NAN
    exponent = -float(line[1])
    status = OK
    if not r2 >= _LEAST_R2:
        status = undetermined(f"r² is {r2:.2f}, below {_LEAST_R2}")
    elif not line_half[1] <= WIDEST_HALF_WIDTH:
        status = undetermined(f"half-width {line_half[1]:.2f}, above {WIDEST_HALF_WIDTH}")
    elif abs(change) > _BENDS * abs(exponent) and abs(change) > change_half:
        status = undetermined(f"the local exponent changes by {change:+.2g} across the window: no power law")
    return LossPowerLaw(
        status,
        exponent=exponent,
        interval=(exponent - float(line_half[1]), exponent + float(line_half[1])),
        coefficient=float(np.exp(line[0] - line[1] * x.mean())),
        window=chosen,
        r2=r2,
        curvature=change,
        curvature_interval=(change - change_half, change + change_half),
        n_points=len(x),
    )


def _window(
    t: FloatArray, loss: FloatArray, window: str | tuple[float, float], floor: float
) -> tuple[float, float] | str:
    # (first, last), or why there is none
    if not isinstance(window, str):
        first, last = (float(end) for end in window)
        if not 0 <= first < last:
            raise InputError("window", window, "(first, last) with 0 <= first < last")
        return first, last
    if window not in WINDOWS:
        raise InputError("window", window, "(first, last), or one of " + ", ".join(WINDOWS))
    if window == "last-decade":
        return float(t[-1]) / 10, float(t[-1])
    start = plateau_exit(t, loss, drop=0.5)
    if not start.determined:
        return start.status.removeprefix("undetermined: ")
    low = np.nonzero((t > start.step) & (loss <= 2 * floor))[0]
    last = float(t[low[0]]) if low.size else float(t[-1])
    return (start.step, last) if last > start.step else "the loss reaches its floor as it leaves the plateau"


def _binned(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    # means over bins of log time, counted from the first point so that a change of units moves nothing
    if not x.size:
        return x, y
    _, which = np.unique(np.floor((x - x[0]) / np.log(10) * _BINS_A_DECADE + 1e-9), return_inverse=True)
    count = np.bincount(which)
    return np.bincount(which, weights=x) / count, np.bincount(which, weights=y) / count


def _fit(x: FloatArray, y: FloatArray, degree: int, confidence: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Least squares of a polynomial in x − mean(x).

    Returns:
        Coefficients from the constant up, half-widths of their intervals, and residuals.
    """
    basis = np.vander(x - x.mean(), degree + 1, increasing=True)
    solve = np.linalg.pinv(basis)
    coefficients = solve @ y
    residual = y - basis @ coefficients
    n, power = len(x), float(residual @ residual)
    lag = float(residual[1:] @ residual[:-1]) / power if power > 0 else 0.0
    lag = min(max(lag + (degree + 1) * (1 + 2 * max(lag, 0.0)) / n, 0.0), _LARGEST_LAG)
    places = np.arange(n)
    related = lag ** np.abs(np.subtract.outer(places, places))
    left = float(np.trace((np.eye(n) - basis @ solve) @ related))
    variance = power / left * np.diag(solve @ related @ solve.T)
    freedom = max(1.0, n * (1 - lag) / (1 + lag) - degree - 1)
    half = float(stats.t.ppf(0.5 + confidence / 2, freedom)) * np.sqrt(variance)
    return coefficients, half, residual
