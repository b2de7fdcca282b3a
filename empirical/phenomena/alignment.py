"""Silent alignment: the kernel turns towards the target before the loss moves.

With the progress of a curve, p_y(t) = (y(t) − y(0))/(y(T) − y(0)),

    share = p_alignment at the time at which p_loss = 0.1,       lead = t(p_loss = ½)/t(p_alignment = ½).

A kernel that is learned together with the loss has a share near 0.1 and a lead near 1; silent alignment is a share near
1 and a lead above 1 (Atanasov, Bordelon, Pehlevan 2022, section 2: small initialisation, and γ ≫ 1 here).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from empirical.phenomena.curves import (
    OK,
    Finding,
    checked_curve,
    passage,
    smoothed,
    tail_mean,
    undetermined,
)
from theory.errors import InputError, positive_number

NAN = float("nan")


@dataclass(frozen=True)
class SilentAlignment(Finding):
    """How far ahead of the loss the alignment is.

    Attributes:
        share: part of the alignment's whole rise that is complete when the loss has made ``drop`` of its whole fall.
        lead: time at which the loss has made half of its fall over that at which the alignment has made half its rise.
        loss_drop_time: time at which the loss has made ``drop`` of its fall.
        loss_half_time: time at which it has made half.
        alignment_half_time: time at which the alignment has made half of its rise.
        lead_low: the least lead that the brackets of both half times allow.
        lead_high: the largest; ``inf`` when a curve comes back across its middle and stays there.
        rise: alignment at the end less alignment at the start.
    """

    share: float = NAN
    lead: float = NAN
    loss_drop_time: float = NAN
    loss_half_time: float = NAN
    alignment_half_time: float = NAN
    lead_low: float = NAN
    lead_high: float = NAN
    rise: float = NAN


def silent_alignment(
    times: ArrayLike,
    loss: ArrayLike,
    alignment: ArrayLike,
    *,
    alignment_times: ArrayLike | None = None,
    drop: float = 0.1,
    smooth: float = 0.0,
    least_rise: float = 0.02,
    tail: float = 0.02,
) -> SilentAlignment:
    """Compare when the alignment rises with when the loss falls.

    Args:
        times: of the loss, steps t or τ; shape ``(points,)``.
        loss: excess loss; NaN ends the curve.
        alignment: kernel–target alignment, or the cosine of output and target; leading NaN (while f = 0) is left out.
        alignment_times: of the alignment, in the same unit; ``times`` when ``None``.
        drop: part of the loss's fall at which the alignment is read off.
        smooth: half-width of smoothing in decades of time, for noisy curves (0.05 to 0.1); 0 for none.
        least_rise: a smaller rise of the alignment is no rise.
        tail: share of the run whose mean is the end of a curve.

    Returns:
        What was found. Undetermined when the loss does not fall, or not by more than a tenth of its start; when the
        alignment does not rise by ``least_rise``; for fewer than four points; and when the alignment is not known as
        far as the loss's drop.

    Raises:
        InputError: bad times, shapes that differ, or ``drop`` outside (0, 1).
    """
    if not positive_number("drop", drop) < 1:
        raise InputError("drop", drop, "strictly between 0 and 1")
    fall = checked_curve(times, loss, least=4, positive=False)
    turn = checked_curve(
        times if alignment_times is None else alignment_times,
        alignment, least=4, field="alignment", positive=False, late=True,
    )  # fmt: skip
    for curve in (fall, turn):
        if curve.problem:
            return SilentAlignment(undetermined(curve.problem))
    t, y = smoothed(fall.times, fall.values, smooth, logarithm=False)
    s, a = smoothed(turn.times, turn.values, smooth, logarithm=False)
    lost = y[0] - tail_mean(t, y, tail)
    rise = tail_mean(s, a, tail) - a[0]
    if not lost > 0.1 * y[0]:
        return SilentAlignment(undetermined("the loss does not fall by a tenth"), rise=rise)
    if not rise >= least_rise:
        return SilentAlignment(undetermined(f"the alignment rises by {rise:.3g}, less than {least_rise:g}"), rise=rise)
    fallen, risen = (y[0] - y) / lost, (a - a[0]) / rise
    noisy = smooth > 0
    at, half = (passage(t, fallen, part, falling=False, noisy=noisy) for part in (drop, 0.5))
    ahead = passage(s, risen, 0.5, falling=False, noisy=noisy)
    if at.time > s[-1]:
        return SilentAlignment(undetermined("the alignment is not known when the loss falls"), rise=rise)
    return SilentAlignment(
        OK,
        share=float(np.interp(at.time, s, risen)),
        lead=_ratio(half.time, ahead.time),
        loss_drop_time=at.time,
        loss_half_time=half.time,
        alignment_half_time=ahead.time,
        lead_low=_ratio(half.low, ahead.high),
        lead_high=_ratio(half.high, ahead.low),
        rise=float(rise),
    )


def _ratio(late: float, early: float) -> float:
    # a curve that is half-way at its first point, t = 0, is infinitely early
    if early == 0:
        return float("inf")
    return 0.0 if np.isinf(early) else late / early
