"""Catapults: the loss overshoots its start and comes back, while the kernel falls until the step size is stable.

    height = max_t ℓ(t)/L₀,       η·kernel/2: above 1 before, below 1 after

With the numbers of ``simulate.outcomes``: a catapult has height above 1.5 and a tail (mean of the last 2 % of steps) of
at most 0.9 L₀. In the two-layer linear net at γ ≪ 1 that happens for 2 < ηλ₀ < 4; the height is of order γ⁻² and
the kernel falls until ηλ < 2 (``theory/catapult.py``; Lewkowycz et al. 2020, section 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from empirical.phenomena.curves import (
    OK,
    Finding,
    checked_curve,
    first_crossing,
    tail_mean,
    undetermined,
)
from simulate.outcomes import DEFAULT_THRESHOLDS, Outcome, Thresholds, classify
from theory.errors import InputError, positive_number

NAN = float("nan")


@dataclass(frozen=True)
class Catapult(Finding):
    """A curve of the loss, seen as a catapult.

    Attributes:
        outcome: ``trained``, ``catapult``, ``untrained``, ``unstable`` or ``diverged``.
        present: whether the outcome is ``catapult``.
        height: largest loss over L₀; 1 for a loss that never rises above its start.
        peak_step: time of the largest loss.
        peak_low: last time on the curve before it.
        peak_high: first time on the curve after it; the peak is known to lie in between. The last time, at the end.
        recovery_step: first time after the peak at which the loss is back at L₀; NaN when it is not.
        edge_before: η·kernel/2 at the first time at which the kernel is known.
        edge_after: η·kernel/2 at the last one.
        kernel_ratio: kernel after over kernel before.
        edge_step: time from which on η·kernel/2 stays below 1, on a straight line between neighbouring points; NaN when
            it does not, or was below 1 all the time.
    """

    outcome: str = ""
    present: bool = False
    height: float = NAN
    peak_step: float = NAN
    peak_low: float = NAN
    peak_high: float = NAN
    recovery_step: float = NAN
    edge_before: float = NAN
    edge_after: float = NAN
    kernel_ratio: float = NAN
    edge_step: float = NAN


def detect_catapult(
    steps: ArrayLike,
    loss: ArrayLike,
    *,
    eta: float | None = None,
    kernel: ArrayLike | None = None,
    kernel_steps: ArrayLike | None = None,
    peak_loss: float | None = None,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> Catapult:
    """Look for a catapult in one learning curve.

    Args:
        steps: times, ascending; the first is that of L₀; shape ``(points,)``.
        loss: excess loss there; NaN or infinity ends the curve, which has then diverged.
        eta: learning rate before the width multiplier; needed with ``kernel``.
        kernel: largest eigenvalue of the tangent kernel, in the metric of the update, or the sharpness in its place;
            shape ``(kernel_points,)``.
        kernel_steps: its times; ``steps`` when ``None``.
        peak_loss: largest loss of all steps, if it is known better than from the curve (an ensemble keeps it).
        thresholds: the numbers in the definitions.

    Returns:
        What was found. Undetermined for fewer than three points and for a loss that is zero at the start.

    Raises:
        InputError: bad times, shapes that differ, η not positive or missing, a ``peak_loss`` that is NaN.
    """
    curve = checked_curve(steps, loss, least=3, positive=False)
    if curve.problem:
        return Catapult(undetermined(curve.problem))
    initial = float(curve.values[0])
    if initial <= 0:
        return Catapult(undetermined(f"the loss starts at {initial:g}"))
    top = int(np.argmax(curve.values))
    highest = float(curve.values[top])
    if peak_loss is not None:
        if np.isnan(peak_loss):
            raise InputError("peak_loss", peak_loss, "a number")
        highest = max(highest, float(peak_loss))
    tail = tail_mean(curve.times, curve.values, thresholds.tail_fraction)
    label = classify(
        *(np.array([value]) for value in (tail, highest, initial)),
        diverged=np.array([curve.cut]),
        thresholds=thresholds,
    )
    outcome = Outcome(int(label[0]))
    back = first_crossing(curve.times[top:], curve.values[top:], initial, falling=True)
    return Catapult(
        OK,
        outcome=outcome.label,
        present=outcome is Outcome.CATAPULT,
        height=highest / initial,
        peak_step=float(curve.times[top]),
        peak_low=float(curve.times[max(top - 1, 0)]),
        peak_high=float(curve.times[min(top + 1, len(curve.times) - 1)]),
        recovery_step=back.time,
        **_edge(steps if kernel_steps is None else kernel_steps, kernel, eta),
    )


def _edge(times: ArrayLike, kernel: ArrayLike | None, eta: float | None) -> dict[str, float]:
    # the fields about the kernel; none without one
    if kernel is None:
        return {}
    curve = checked_curve(times, kernel, least=2, field="kernel")
    rate = positive_number("eta", eta)
    if curve.problem:
        return {}
    edge = rate * curve.values / 2
    above = np.nonzero(edge >= 1)[0]
    step = NAN
    if above.size and above[-1] + 1 < len(edge):
        last = int(above[-1])
        step = first_crossing(curve.times[last:], edge[last:], 1.0, falling=True).time
        if edge[last] == 1.0:  # at the edge itself is not below it
            step = float(curve.times[last])
    return {
        "edge_before": float(edge[0]),
        "edge_after": float(edge[-1]),
        "kernel_ratio": float(edge[-1] / edge[0]),
        "edge_step": step,
    }
