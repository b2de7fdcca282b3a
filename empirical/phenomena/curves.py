"""What all detectors share: checked curves, level crossings with brackets, and smoothing in log time.

A curve is a vector of times (optimizer steps t, or τ = ηt/γ: detectors are equivariant under a change of units) and a
vector of values of one cell. A training run leaves NaN behind the step at which a cell was decided, so a curve is its
leading finite part; a detector that is left with too little says so in ``status`` and raises nothing.

Smoothing is by local lines. At x₀ = log₁₀ t₀ the line a + b(x − x₀) minimises

    Σ_i Δ_i K((x_i − x₀)/h) (y_i − a − b(x_i − x₀))²,      K(u) = (1 − |u|³)³,      y = ln(loss)

(Cleveland 1979), with the spacing Δ_i of the points as quadrature weights, so that the result does not depend on where
points are dense. A power law is reproduced exactly, at the ends too; b is the local slope.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.errors import InputError

FloatArray = NDArray[np.float64]

OK = "ok"

_NEIGHBOURS = 4  # a window reaches to so many points; the outermost has no weight: sparse curves are hardly smoothed
_NORMAL_MAD = 1.4826  # standard deviation of a normal law over its median absolute deviation


@dataclass(frozen=True)
class Finding:
    """What a detector says about one curve; the fields of an undetermined finding are NaN, empty, zero or False.

    Attributes:
        status: ``"ok"``, or ``"undetermined: "`` and the reason in words.
    """

    status: str

    @property
    def determined(self) -> bool:
        """Whether the curve allowed an answer."""
        return self.status == OK


def undetermined(reason: str) -> str:
    """The status of a finding that could not be made.

    Args:
        reason: in words.

    Returns:
        The status.
    """
    return f"undetermined: {reason}"


@dataclass(frozen=True)
class Curve:
    """The leading finite part of a curve.

    Attributes:
        times: strictly ascending, none below 0; shape ``(points,)``.
        values: finite; shape ``(points,)``.
        problem: why it is of no use, or empty.
        cut: whether non-finite values were cut off at the end.
    """

    times: FloatArray
    values: FloatArray
    problem: str
    cut: bool


def checked_times(times: ArrayLike, field: str = "times") -> FloatArray:
    """Check the times of a curve.

    Args:
        times: steps t, or τ.
        field: name shown in the error.

    Returns:
        The times as float64, shape ``(points,)``.

    Raises:
        InputError: not a vector of finite numbers that ascend strictly from 0 or above.
    """
    at = np.asarray(times, dtype=np.float64)
    if at.ndim != 1 or not np.isfinite(at).all() or (at < 0).any() or (np.diff(at) <= 0).any():
        raise InputError(field, times, "a vector of finite numbers that ascend strictly from 0 or above")
    return at


def checked_curve(
    times: ArrayLike, values: ArrayLike, *, least: int, field: str = "loss", positive: bool = True, late: bool = False
) -> Curve:
    """Take the usable part of a curve.

    Args:
        times: steps t, or τ; shape ``(points,)``.
        values: shape ``(points,)``; NaN and infinity are allowed and end the curve.
        least: fewest points that are of use.
        field: name of the values, for messages.
        positive: whether a value of zero or below ends the curve too (losses and sharpness, whose logarithm is taken).
        late: whether the curve may start late: leading non-finite values (an alignment while f = 0) are left out.

    Returns:
        The usable part, with the reason if it is too short.

    Raises:
        InputError: times that do not ascend from 0 or above, or values of another shape.
    """
    at = checked_times(times)
    given = np.asarray(values, dtype=np.float64)
    if given.shape != at.shape:
        raise InputError(field, given.shape, f"of the shape of its times, {at.shape}")
    good = np.isfinite(given) & ((given > 0) | (not positive))
    first = int(np.argmax(good)) if late and good.any() else 0
    wrong = np.nonzero(~good[first:])[0]
    last = first + int(wrong[0]) if wrong.size else len(at)
    cut, count = last < len(at), last - first
    problem = ""
    if count < least:
        usable = "finite, positive" if positive else "finite"
        problem = f"{count} {usable} values of {field}, at least {least} are needed"
    return Curve(at[first:last], given[first:last], problem, cut)


@dataclass(frozen=True)
class Crossing:
    """Where a curve passes a level.

    Attributes:
        time: first passage, on a straight line between neighbouring points; NaN when it never passes.
        low: last time before the first passage; the last time of all when it never passes.
        high: first time from which on the curve stays beyond the level; ``inf`` when it does not stay there. With
            noise, low … high is the stretch in which the curve is on both sides.
    """

    time: float
    low: float
    high: float


def first_crossing(times: FloatArray, values: FloatArray, level: float, *, falling: bool) -> Crossing:
    """Find where a curve first is at or beyond a level.

    Args:
        times: ascending; shape ``(points,)``.
        values: finite; shape ``(points,)``.
        level: the level.
        falling: beyond means at or below, otherwise at or above.

    Returns:
        The crossing; a curve that starts beyond the level crosses at its first time.
    """
    beyond = values <= level if falling else values >= level
    if not beyond.any():
        return Crossing(float("nan"), float(times[-1]), float("inf"))
    first = int(np.argmax(beyond))
    behind = np.nonzero(~beyond)[0]
    stays = int(behind[-1]) + 1 if behind.size else 0
    high = float(times[stays]) if stays < len(times) else float("inf")
    if first == 0:
        return Crossing(float(times[0]), float(times[0]), high)
    before, after = values[first - 1], values[first]
    share = (level - before) / (after - before)
    time = float(times[first - 1] + share * (times[first] - times[first - 1]))
    return Crossing(time, float(times[first - 1]), high)


def cut_crossing(times: FloatArray, values: FloatArray, level: float, *, falling: bool, logarithm: bool) -> Crossing:
    """Find where a noisy curve passes a level for good: the cut that leaves the least of it on the wrong side.

    Args:
        times: ascending; shape ``(points,)``, at least two; positive with ``logarithm``.
        values: finite; shape ``(points,)``.
        level: the level.
        falling: beyond means at or below, otherwise at or above.
        logarithm: whether the curve is measured in log time, or in time.

    Returns:
        The crossing. Without noise it is the one of ``first_crossing``; with it, ``low`` … ``high`` is the stretch in
        which the curve is on both sides.
    """
    first = first_crossing(times, values, level, falling=falling)
    beyond = values <= level if falling else values >= level
    if beyond.all() or not beyond.any():
        return first
    # points count by the stretch that they stand for, so that dense parts do not outvote others
    gaps = np.diff(np.log(times) if logarithm else times)
    weight = np.concatenate([gaps[:1], (gaps[1:] + gaps[:-1]) / 2, gaps[-1:]])
    early = np.concatenate([[0.0], np.cumsum(weight * beyond)])
    late = np.concatenate([[0.0], np.cumsum(weight * ~beyond)])
    cut = int(np.argmin(early + late[-1] - late))
    before, after = max(cut - 1, 0), min(cut, len(times) - 1)
    share = 0.5
    if beyond[after] and not beyond[before]:
        share = (level - values[before]) / (values[after] - values[before])
    time = float(times[before] + share * (times[after] - times[before]))
    return Crossing(time, min(first.low, float(times[before])), max(first.high, float(times[after])))


def passage(times: FloatArray, values: FloatArray, level: float, *, falling: bool, noisy: bool) -> Crossing:
    """First passage of a clean curve, or the cut in log time of a noisy one.

    Args:
        times: ascending; shape ``(points,)``.
        values: finite; shape ``(points,)``.
        level: the level.
        falling: beyond means at or below, otherwise at or above.
        noisy: whether the cut is wanted. A curve that starts beyond the level crosses at its first time either way.

    Returns:
        The crossing.
    """
    first = first_crossing(times, values, level, falling=falling)
    later = times > 0
    if not noisy or later.sum() < 2 or first.time == times[0]:
        return first
    cut = cut_crossing(times[later], values[later], level, falling=falling, logarithm=True)
    return first if np.isnan(cut.time) else cut


@dataclass(frozen=True)
class Smooth:
    """A curve smoothed in log time.

    Attributes:
        times: where it was evaluated.
        values: smoothed values.
        slope: local slope d ln y/d ln t (d y/d ln t when the values were not taken in logarithms).
        effective_points: number of equally weighted points that would average noise as much, (Σw)²/Σw².
    """

    times: FloatArray
    values: FloatArray
    slope: FloatArray
    effective_points: FloatArray


def local_lines(
    x: FloatArray, y: FloatArray, at: FloatArray, half_width: float
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Fit the line of the module's docstring at each of several places.

    Args:
        x: ascending coordinates; shape ``(points,)``, at least four.
        y: values there.
        at: places, any order; shape ``(places,)``.
        half_width: h; wider where it would not reach four points.

    Returns:
        Values a, slopes b, effective numbers of points, and standard errors of the slopes for unit noise on every
        point; each of shape ``(places,)``.
    """
    gaps = np.diff(x)
    spacing = np.concatenate([gaps[:1], (gaps[1:] + gaps[:-1]) / 2, gaps[-1:]])
    value, slope, count, error = np.empty((4, len(at)))
    for i, here in enumerate(at):
        centre = int(np.searchsorted(x, here))
        near = np.abs(x[max(centre - _NEIGHBOURS, 0) : centre + _NEIGHBOURS] - here)
        reach = max(half_width, float(np.partition(near, _NEIGHBOURS - 1)[_NEIGHBOURS - 1]) * (1 + 1e-9))
        low, high = np.searchsorted(x, here - reach), np.searchsorted(x, here + reach, side="right")
        u, values = x[low:high] - here, y[low:high]
        w = spacing[low:high] * (1 - np.minimum(np.abs(u) / reach, 1.0) ** 3) ** 3
        total = w.sum()
        mean_u, mean_y = w @ u / total, w @ values / total
        spread = w @ (u - mean_u) ** 2
        pull = w * (u - mean_u)
        known = spread > 1e-12 * total * reach**2  # else one point carries all the weight
        slope[i] = pull @ (values - mean_y) / spread if known else 0.0
        error[i] = np.sqrt(pull @ pull) / spread if known else np.inf
        value[i] = mean_y - slope[i] * mean_u
        count[i] = total**2 / (w @ w)
    return value, slope, count, error


def smooth_in_log_time(
    times: ArrayLike, values: ArrayLike, *, decades: float = 0.1, at: ArrayLike | None = None, logarithm: bool = True
) -> Smooth:
    """Smooth a noisy curve in log time; the point at t = 0 is not on that axis and is left out.

    Args:
        times: steps t, or τ; shape ``(points,)``. Log-spaced (about 40) or dense.
        values: shape ``(points,)``.
        decades: half-width h of the window. Where it would not reach four points it is wider, so that
            sparse curves are hardly smoothed. A curve of n neighbouring independent errors has 1/√n of them left.
        at: positive times at which to evaluate; the curve's own when ``None``.
        logarithm: whether to smooth the logarithm of the values (then geometric means come out).

    Returns:
        The smoothed curve.

    Raises:
        InputError: bad times, values that are not finite (or not positive, with ``logarithm``), fewer than four
            points after t = 0, ``decades`` not positive, or an ``at`` that is not positive.
    """
    if not decades > 0:
        raise InputError("decades", decades, "a positive number of decades")
    curve = checked_curve(times, values, least=0, field="values", positive=logarithm)
    if curve.cut:
        raise InputError("values", values, "finite, and positive if their logarithm is smoothed")
    later = curve.times > 0
    if later.sum() < _NEIGHBOURS:
        raise InputError("times", times, f"at least {_NEIGHBOURS} of them after 0")
    where = curve.times[later] if at is None else np.atleast_1d(np.asarray(at, dtype=np.float64))
    if not (where > 0).all():
        raise InputError("at", at, "positive times")
    x, y = np.log10(curve.times[later]), curve.values[later]
    value, slope, count, _ = local_lines(x, np.log(y) if logarithm else y, np.log10(where), decades)
    # x is in decades, the slope is wanted per unit of ln t
    return Smooth(where, np.exp(value) if logarithm else value, slope / np.log(10.0), count)


def smoothed(
    times: FloatArray, values: FloatArray, decades: float, *, logarithm: bool = True, points: int = 400
) -> tuple[FloatArray, FloatArray]:
    """The curve that a detector looks at: as it is, or smoothed, with the point at t = 0 kept.

    Args:
        times: of a checked curve.
        values: of a checked curve.
        decades: half-width of the smoothing; 0 leaves the curve alone.
        logarithm: whether to smooth logarithms.
        points: a longer curve is evaluated at so many of its times, evenly spaced in their logarithm.

    Returns:
        Times and values.

    Raises:
        InputError: ``decades`` below 0.
    """
    if decades == 0 or (times > 0).sum() < _NEIGHBOURS:
        return times, values
    later = times[times > 0]
    if len(later) > points:
        wanted = np.geomspace(later[0], later[-1], points)
        later = later[np.unique(np.searchsorted(later, wanted * (1 - 1e-12)).clip(max=len(later) - 1))]
    smooth = smooth_in_log_time(times, values, decades=decades, at=later, logarithm=logarithm)
    head = times == 0
    return np.concatenate([times[head], smooth.times]), np.concatenate([values[head], smooth.values])


def noise_level(x: FloatArray, y: FloatArray) -> float:
    """Standard deviation of independent noise on a curve, from how far points lie off the line of their neighbours.

    Args:
        x: ascending coordinates.
        y: values there.

    Returns:
        A robust estimate (median absolute deviation): a few sharp drops do not count. 0 for fewer than three points.
    """
    if len(x) < 3:
        return 0.0
    share = (x[1:-1] - x[:-2]) / (x[2:] - x[:-2])
    off = y[1:-1] - (1 - share) * y[:-2] - share * y[2:]
    return float(_NORMAL_MAD * np.median(np.abs(off) / np.sqrt(1 + share**2 + (1 - share) ** 2)))


def tail_mean(times: FloatArray, values: FloatArray, fraction: float) -> float:
    """Mean over the tail, the last ``fraction`` of the run; the last point at least.

    Args:
        times: ascending.
        values: one each.
        fraction: share of the last time.

    Returns:
        The mean of the points kept there.
    """
    inside = times >= (1 - fraction) * times[-1]
    return float(values[inside].mean())
