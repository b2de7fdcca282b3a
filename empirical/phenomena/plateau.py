"""Plateau exit: the first time at which the loss is at most (1 − drop) times the level of the plateau.

In the scalar model at γ ≫ 1 the plateau ends at τ* = 1/((L−2)|ℓ′(0)|) for L > 2 and at ln γ/(2|ℓ′(0)|), plus a
constant, for L = 2, whatever the learning rate. Whether there was a plateau at all is told by the abruptness

    t(ℓ = (1 − drop) L₀)/t(ℓ = L₀/2):      1 for a sudden drop,  ln(1 − drop)/ln ½ (0.15 at 0.1) for an exponential.
"""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from empirical.phenomena.curves import OK, Finding, checked_curve, first_crossing, passage, smoothed, undetermined
from theory.errors import InputError, positive_number

NAN = float("nan")


@dataclass(frozen=True)
class PlateauExit(Finding):
    """When the loss leaves its plateau.

    Attributes:
        step: time of the exit; NaN when the loss is on the plateau to the end.
        low: last time before the loss was first below the level.
        high: first time from which on it stays below.
        tau: the exit in τ = ηt/γ; NaN without η and γ.
        level: loss of the plateau.
        half_step: time at which the loss is half the level; NaN when it is not reached.
        abruptness: step/half_step.
    """

    step: float = NAN
    low: float = NAN
    high: float = NAN
    tau: float = NAN
    level: float = NAN
    half_step: float = NAN
    abruptness: float = NAN


def plateau_exit(
    steps: ArrayLike,
    loss: ArrayLike,
    *,
    drop: float = 0.1,
    level: float | None = None,
    smooth: float = 0.0,
    eta: float | None = None,
    gamma: float | None = None,
) -> PlateauExit:
    """Time the exit from the plateau at the start of a learning curve.

    Args:
        steps: times t in steps, ascending; shape ``(points,)``.
        loss: excess loss there; NaN ends the curve.
        drop: fraction of the level by which the loss must have fallen.
        level: loss of the plateau; that of the first point when ``None``.
        smooth: half-width of smoothing in decades of time, for noisy curves (0.05 to 0.1); 0 for none. With it the
            exit is the cut that leaves the least of the smoothed curve on the wrong side, in place of the first
            passage, which noise alone can bring about. The bracket is of the curve as it is.
        eta: learning rate before the width multiplier; with γ, gives τ.
        gamma: feature-learning strength.

    Returns:
        What was found. Undetermined, with ``low`` at the last time, when the plateau is not left; and for fewer than
        two points.

    Raises:
        InputError: bad times, shapes that differ, ``drop`` outside (0, 1), a level, η or γ that is not positive, or one
            of η and γ without the other.
    """
    if not positive_number("drop", drop) < 1:
        raise InputError("drop", drop, "strictly between 0 and 1")
    if (eta is None) != (gamma is None):
        raise InputError("eta, gamma", (eta, gamma), "given together, or neither")
    pace = NAN if eta is None or gamma is None else positive_number("eta", eta) / positive_number("gamma", gamma)
    curve = checked_curve(steps, loss, least=2, positive=False)
    if curve.problem:
        return PlateauExit(undetermined(curve.problem))
    if level is None and curve.values[0] <= 0:
        return PlateauExit(undetermined(f"the loss starts at {curve.values[0]:g}"))
    height = float(curve.values[0]) if level is None else positive_number("level", level)
    raw = first_crossing(curve.times, curve.values, (1 - drop) * height, falling=True)
    looked_at = smoothed(curve.times, curve.values, smooth, logarithm=bool((curve.values > 0).all()))
    left, half = (passage(*looked_at, part * height, falling=True, noisy=smooth > 0) for part in (1 - drop, 0.5))
    if left.time != left.time:  # NaN
        reason = f"still on the plateau at {curve.times[-1]:g}"
        return PlateauExit(undetermined(reason), low=raw.low, high=raw.high, level=height)
    return PlateauExit(
        OK,
        step=left.time,
        low=raw.low,
        high=raw.high,
        tau=left.time * pace,
        level=height,
        half_step=half.time,
        abruptness=left.time / half.time if half.time > 0 else NAN,
    )
