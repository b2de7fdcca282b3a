"""The bump: how far a measured boundary stands above the crossover law between its lazy and its rich end.

    η(γ) = A γ² (1 + γ/γ₀)^{−(2 − r)},      r = 2/L      (exact for the scalar model, with A = 2/L and γ₀ = 1, MSE)

A and γ₀ are fitted to the points of two windows, lazy and rich, that were chosen beforehand; the excess is
log₁₀(η/law) at every γ, in decades. Intervals are by a bootstrap over seeds: whole seeds are drawn with replacement and
both the fit and the excess are made again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares

from empirical.phenomena.curves import OK, Finding, FloatArray, undetermined
from theory.errors import InputError, positive_array, positive_integer, positive_number

NAN = float("nan")
LEAST_SEEDS = 3  # two seeds have three different draws: no interval
_LEAST_GAMMAS = 2


def _empty() -> FloatArray:
    return np.empty(0)


@dataclass(frozen=True)
class Bump(Finding):
    """The excess of a boundary over the crossover law.

    Attributes:
        coefficient: A.
        crossover: γ₀.
        crossover_interval: its 95 % interval over seeds; NaN for fewer than three seeds, as are all intervals.
        gamma: the different γ of the points, ascending; shape ``(gammas,)``.
        excess: log₁₀(η/law), mean over seeds, in decades; same shape.
        excess_low: lower end of its 95 % interval at each γ.
        excess_high: upper end.
        height: largest excess between the windows, in decades. A maximum over noisy points is biased upwards by about
            their noise: hold it against ``scatter``.
        height_interval: 95 % interval of the excess at that γ.
        peak_gamma: γ of the largest excess.
        peak_interval: 95 % interval of that γ over draws of seeds.
        width: decades of γ around the peak in which the excess is at least half of its height.
        scatter: root-mean-square excess of the points in the two windows, in decades.
        present: whether the height (its lower end, when there is an interval) is above twice the scatter.
    """

    coefficient: float = NAN
    crossover: float = NAN
    crossover_interval: tuple[float, float] = (NAN, NAN)
    gamma: FloatArray = field(default_factory=_empty)
    excess: FloatArray = field(default_factory=_empty)
    excess_low: FloatArray = field(default_factory=_empty)
    excess_high: FloatArray = field(default_factory=_empty)
    height: float = NAN
    height_interval: tuple[float, float] = (NAN, NAN)
    peak_gamma: float = NAN
    peak_interval: tuple[float, float] = (NAN, NAN)
    width: float = NAN
    scatter: float = NAN
    present: bool = False


def crossover_law(
    gamma: ArrayLike, *, coefficient: float, crossover: float, rich: float, lazy: float = 2.0
) -> FloatArray:
    """The law of two powers, η = A γ^lazy (1 + γ/γ₀)^{−(lazy − rich)}.

    Args:
        gamma: feature-learning strengths, any shape.
        coefficient: A.
        crossover: γ₀.
        rich: exponent at γ ≫ γ₀.
        lazy: exponent at γ ≪ γ₀.

    Returns:
        η, same shape.
    """
    at = np.asarray(gamma, dtype=np.float64)
    return np.asarray(coefficient * at**lazy * (1 + at / crossover) ** -(lazy - rich))


def measure_bump(
    gamma: ArrayLike,
    eta: ArrayLike,
    *,
    seed: ArrayLike | None = None,
    lazy_window: tuple[float, float],
    rich_window: tuple[float, float],
    depth: int | None = None,
    rich_exponent: float | None = None,
    confidence: float = 0.95,
    resamples: int = 400,
    resample_seed: int = 0,
) -> Bump:
    """Measure the bump of a boundary.

    Args:
        gamma: γ of each boundary point, shape ``(points,)``.
        eta: learning rate of each.
        seed: seed of each; all of one seed when ``None``.
        lazy_window: (low, high) in γ, ends included.
        rich_window: (low, high) in γ, above the lazy one.
        depth: L, for the rich exponent 2/L.
        rich_exponent: the rich exponent itself, in place of ``depth`` (2/D, or a fitted one).
        confidence: level of the intervals.
        resamples: draws of seeds.
        resample_seed: of the draws.

    Returns:
        The bump. Undetermined when a window holds fewer than two γ, when no point lies between the windows, or when the
        windows do not fix γ₀ (points that follow one power throughout).

    Raises:
        InputError: γ or η not positive, shapes that differ, windows out of order, both or neither of ``depth`` and
            ``rich_exponent``, a rich exponent of 2 or more, a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise InputError("confidence", confidence, "between 0 and 1, such as 0.95")
    if not 0 < lazy_window[0] <= lazy_window[1] < rich_window[0] <= rich_window[1]:
        raise InputError("lazy_window, rich_window", (lazy_window, rich_window), "two intervals, the lazy one below")
    rich = _rich(depth, rich_exponent)
    names, table = _table(gamma, eta, seed)
    slack = 1 + 1e-9
    lazy_part, rich_part = (
        (names >= low / slack) & (names <= high * slack) for low, high in (lazy_window, rich_window)
    )
    between = (names > lazy_window[1] * slack) & (names < rich_window[0] / slack)
    for label, part, least in (
        ("the lazy window", lazy_part, _LEAST_GAMMAS), ("the rich window", rich_part, _LEAST_GAMMAS),
        ("the gap between the windows", between, 1),
    ):  # fmt: skip
        if part.sum() < least:
            return Bump(undetermined(f"{int(part.sum())} γ in {label}, at least {least} needed"))
    windows = lazy_part | rich_part

    fit = _law(names, table, windows, rich)
    if fit is None:
        return Bump(undetermined("the windows do not fix the crossover: one power fits both"))
    excess = _excess(names, table, fit, rich)
    mean = np.nanmean(excess, axis=0)
    top = int(np.argmax(np.where(between, mean, -np.inf)))
    scatter = float(np.sqrt(np.nanmean(excess[:, windows] ** 2)))
    tails = _bootstrap(
        names, table, (windows, between), rich, confidence, positive_integer("resamples", resamples), resample_seed
    )
    low, high = tails.excess
    trusted = mean[top] if np.isnan(low[top]) else low[top]
    return Bump(
        OK,
        coefficient=float(np.exp(fit[0])),
        crossover=float(np.exp(fit[1])),
        crossover_interval=tails.crossover,
        gamma=names,
        excess=mean,
        excess_low=low,
        excess_high=high,
        height=float(mean[top]),
        height_interval=(float(low[top]), float(high[top])),
        peak_gamma=float(names[top]),
        peak_interval=tails.peak,
        width=_width(np.log10(names), mean, top),
        scatter=scatter,
        present=bool(trusted > 2 * scatter),
    )


def _rich(depth: int | None, rich_exponent: float | None) -> float:
    if (depth is None) == (rich_exponent is None):
        raise InputError("depth", depth, "given, or rich_exponent in its place, and not both")
    rich = 2 / positive_integer("depth", depth) if rich_exponent is None else positive_number("rich", rich_exponent)
    if rich >= 2:
        raise InputError("rich_exponent", rich, "below 2, the lazy exponent")
    return rich


def _table(gamma: ArrayLike, eta: ArrayLike, seed: ArrayLike | None) -> tuple[FloatArray, FloatArray]:
    # the different γ, and ln η as (seeds, gammas) with NaN where a seed has no point
    gammas, etas = positive_array("gamma", gamma).ravel(), positive_array("eta", eta).ravel()
    seeds = np.zeros(len(gammas), dtype=np.int64) if seed is None else np.asarray(seed).ravel()
    if not len(gammas) == len(etas) == len(seeds):
        raise InputError("eta, seed", (len(etas), len(seeds)), f"as long as gamma ({len(gammas)} points)")
    _, first, column = np.unique(np.round(np.log(gammas), 9), return_index=True, return_inverse=True)
    names, row = np.unique(seeds, return_inverse=True)
    total, count = np.zeros((2, len(names), len(first)))
    np.add.at(total, (row, column), np.log(etas))
    np.add.at(count, (row, column), 1.0)
    return gammas[first], np.divide(total, count, out=np.full_like(total, NAN), where=count > 0)


def _shape(ln_gamma: FloatArray, ln_crossover: float, rich: float) -> FloatArray:
    # ln of the law at A = 1
    return np.asarray(2 * ln_gamma - (2 - rich) * np.logaddexp(0.0, ln_gamma - ln_crossover))


def _law(names: FloatArray, table: FloatArray, windows: NDArray[np.bool_], rich: float) -> FloatArray | None:
    # (ln A, ln γ₀) by least squares over all points of the windows
    x = np.broadcast_to(np.log(names), table.shape)
    used = ~np.isnan(table) & windows
    x, y = x[used], table[used]
    lazy = x < np.log(names[windows]).mean()
    if not lazy.any() or lazy.all():
        return None
    # where the two asymptotes cross: the start of the search, and of the order of the answer
    offset = np.mean(y[lazy] - 2 * x[lazy])
    start = (np.mean(y[~lazy] - rich * x[~lazy]) - offset) / (2 - rich)

    def misfit(parameters: FloatArray) -> FloatArray:
        return np.asarray(parameters[0] + _shape(x, float(parameters[1]), rich) - y)

    found = least_squares(misfit, [offset, start], method="lm")
    inside = np.log(names[0]) < found.x[1] < np.log(names[-1])
    return np.asarray(found.x) if found.success and inside else None


def _excess(names: FloatArray, table: FloatArray, fit: FloatArray, rich: float) -> FloatArray:
    return np.asarray((table - fit[0] - _shape(np.log(names), float(fit[1]), rich)) / np.log(10))


@dataclass(frozen=True)
class _Tails:
    """Intervals over draws of seeds."""

    excess: FloatArray
    crossover: tuple[float, float]
    peak: tuple[float, float]


def _bootstrap(
    names: FloatArray,
    table: FloatArray,
    parts: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    rich: float,
    confidence: float,
    draws: int,
    seed: int,
) -> _Tails:
    unknown = _Tails(np.full((2, len(names)), NAN), (NAN, NAN), (NAN, NAN))
    windows, between = parts
    if len(table) < LEAST_SEEDS:
        return unknown
    rng = np.random.default_rng(seed)
    curves, crossovers, peaks = [], [], []
    for _ in range(draws):
        drawn = table[rng.integers(len(table), size=len(table))]
        fit = _law(names, drawn, windows, rich)
        if fit is None:
            continue
        part = _excess(names, drawn, fit, rich)
        # a γ that none of the drawn seeds has stays NaN, and is left out of the quantiles
        count = (~np.isnan(part)).sum(axis=0)
        mean = np.divide(np.nansum(part, axis=0), count, out=np.full(len(names), NAN), where=count > 0)
        curves.append(mean)
        crossovers.append(np.exp(fit[1]))
        peaks.append(names[int(np.argmax(np.where(between & ~np.isnan(mean), mean, -np.inf)))])
    if len(curves) < draws / 2:
        return unknown
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    excess = np.nanquantile(np.array(curves), tails, axis=0)
    excess[:, (~np.isnan(table)).sum(axis=0) < LEAST_SEEDS] = NAN
    spans = [tuple(float(end) for end in np.quantile(values, tails)) for values in (crossovers, peaks)]
    return _Tails(excess, (spans[0][0], spans[0][1]), (spans[1][0], spans[1][1]))


def _width(x: FloatArray, excess: FloatArray, top: int) -> float:
    # decades between the crossings of half the height to either side, on straight lines; to the last point without one
    half = excess[top] / 2
    ends = []
    for step in (-1, 1):
        here = top
        while 0 <= here + step < len(x) and excess[here + step] >= half:
            here += step
        if 0 <= here + step < len(x):
            share = (excess[here] - half) / (excess[here] - excess[here + step])
            ends.append(x[here] + share * (x[here + step] - x[here]))
        else:
            ends.append(x[here])
    return float(ends[1] - ends[0])
