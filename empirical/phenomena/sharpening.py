"""Progressive sharpening and the edge of stability (Cohen et al. 2021), in terms of edge = η·sharpness/2.

    sharpening   how much the sharpness rises before it first turns back
    edge         first time at which η·sharpness/2 reaches 1 − tolerance
    hovering     from then on, at least ``share`` of the points have |η·sharpness/2 − 1| ≤ band

In the scalar model at γ ≫ 1 the flow multiplies the sharpness by λ*/(1/γ) → L γ^{1−2/L} (MSE).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from empirical.phenomena.curves import OK, Finding, checked_curve, first_crossing, tail_mean, undetermined
from theory.errors import InputError, positive_number

NAN = float("nan")
_LEAST_HOVER = 4  # points after the edge, or nothing is said about hovering

REGIMES = ("below the edge", "reached", "hovers", "leaves downwards", "leaves upwards", "started beyond")


@dataclass(frozen=True)
class Sharpening(Finding):
    """What the sharpness did.

    Attributes:
        ratio: sharpness at the end (mean of the tail) over the start.
        monotone_ratio: largest sharpness of the first rise over the start; the rise ends where the sharpness is below
            its running maximum by more than ``slack``.
        monotone_until: time of that largest sharpness.
        monotone_share: rises of ln(sharpness) over all its changes, rises and falls: 1 for a monotone rise, ½ for
            noise.
        edge_start: η·sharpness/2 at the start.
        edge_end: the same at the end.
        edge_step: first time at which it reaches 1 − tolerance; NaN when it does not.
        edge_low: last time before that.
        hover_mean: mean of η·sharpness/2 from the edge on; NaN when the edge is not reached.
        hover_share: share of the points from the edge on that lie within ``band`` of 1.
        regime: ``below the edge``; ``reached`` (too late to say more), ``hovers`` (edge of stability), ``leaves
            downwards``, ``leaves upwards``; ``started beyond`` when η·sharpness/2 was above 1 + tolerance at the start.
    """

    ratio: float = NAN
    monotone_ratio: float = NAN
    monotone_until: float = NAN
    monotone_share: float = NAN
    edge_start: float = NAN
    edge_end: float = NAN
    edge_step: float = NAN
    edge_low: float = NAN
    hover_mean: float = NAN
    hover_share: float = NAN
    regime: str = ""


def progressive_sharpening(
    times: ArrayLike,
    sharpness: ArrayLike,
    *,
    eta: float,
    tolerance: float = 0.05,
    band: float = 0.2,
    share: float = 0.8,
    slack: float = 0.05,
    tail: float = 0.02,
) -> Sharpening:
    """Describe a curve of the sharpness.

    Args:
        times: steps t, ascending; shape ``(points,)``.
        sharpness: largest eigenvalue of M^½ H M^½, the Hessian in the metric of the update; a value that is not
            positive and finite ends the curve.
        eta: learning rate before the width multiplier.
        tolerance: the edge counts as reached at η·sharpness/2 = 1 − tolerance.
        band: how far from 1 a hovering η·sharpness/2 may be.
        share: least share of points within the band.
        slack: relative fall below the running maximum that ends the first rise.
        tail: share of the run whose mean is the end.

    Returns:
        What was found. Undetermined for fewer than three points.

    Raises:
        InputError: bad times, shapes that differ, η not positive, a tolerance, slack or share outside (0, 1).
    """
    rate = positive_number("eta", eta)
    positive_number("band", band)
    for name, number in (("tolerance", tolerance), ("slack", slack), ("share", share)):
        if not positive_number(name, number) < 1:
            raise InputError(name, number, "strictly between 0 and 1")
    curve = checked_curve(times, sharpness, least=3, field="sharpness")
    if curve.problem:
        return Sharpening(undetermined(curve.problem))
    t, y = curve.times, curve.values
    highest = np.maximum.accumulate(y)
    turned = np.nonzero(y < (1 - slack) * highest)[0]
    rising = y[: int(turned[0])] if turned.size else y
    top = int(np.argmax(rising))
    changes = np.diff(np.log(y))
    moved = float(np.abs(changes).sum())

    edge = rate * y / 2
    reached = first_crossing(t, edge, 1 - tolerance, falling=False)
    beyond = edge[t >= reached.time]  # none when it is NaN
    inside = float((np.abs(beyond - 1) <= band).mean()) if beyond.size else NAN
    end = tail_mean(t, edge, tail)
    return Sharpening(
        OK,
        ratio=end / float(edge[0]),
        monotone_ratio=float(y[top] / y[0]),
        monotone_until=float(t[top]),
        monotone_share=float(changes[changes > 0].sum()) / moved if moved > 0 else NAN,
        edge_start=float(edge[0]),
        edge_end=end,
        edge_step=reached.time,
        edge_low=reached.low,
        hover_mean=float(beyond.mean()) if beyond.size else NAN,
        hover_share=inside,
        regime=_regime(edge[0] > 1 + tolerance, beyond, inside >= share, end, band),
    )


def _regime(beyond_at_start: bool, after: np.ndarray, within: bool, end: float, band: float) -> str:
    if not after.size:
        return "below the edge"
    if within and len(after) >= _LEAST_HOVER:
        return "hovers"
    if beyond_at_start:
        return "started beyond"
    if end < 1 - band:
        return "leaves downwards"
    if end > 1 + band:
        return "leaves upwards"
    return "reached"
