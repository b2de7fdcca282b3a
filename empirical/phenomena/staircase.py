"""Staircases: how often, when and by how much the loss drops.

A step is a peak of the rate −d ln(ℓ + ε L₀)/dx, x = log₁₀ t or t, that stands out of the valleys on both sides by at
least ``contrast`` of its height; over which ln(ℓ + ε L₀) falls, from valley to valley, by at least ``least_drop``; and
that is abrupt: the middle half of the fall takes at most ``widest`` decades of time.
Prominence and fall must also exceed five standard errors of the smoothed curve. ε is the floor: what happens below it
is not looked at, and so the last mode, whose loss falls for ever, makes one step like the others.

A step happens when the loss passes the middle of its levels in the two valleys. With noise there is no single passage:
the time is the one that leaves the least of the curve on the wrong side. For a deep linear network whose mode a is
learned to a fraction q_a, ℓ = ½ Σ s_a² (1 − q_a)², a step is thus at q_a = 1 − 1/√2, and at large γ, L > 2, step times
are in the inverse ratio of the singular values (Saxe et al. 2014; ``theory.deep_linear``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from scipy.signal import find_peaks, peak_prominences

from empirical.phenomena.curves import (
    OK,
    Finding,
    FloatArray,
    checked_curve,
    cut_crossing,
    local_lines,
    noise_level,
    undetermined,
)
from theory.errors import InputError, one_of, positive_number

CLOCKS = ("log", "linear")
_GRID = 800  # places at which the rate is looked at
_LEAST_POINTS = 8
_ERRORS = 5.0  # standard errors of the smoothed curve that a step must exceed


def _empty() -> FloatArray:
    return np.empty(0)


@dataclass(frozen=True)
class StaircaseSteps(Finding):
    """The drops of one learning curve, in order of time; arrays have one entry a step unless said otherwise.

    Attributes:
        count: number of steps.
        times: when each happens.
        low: start of the stretch in which the curve is on both sides of the middle; the point before, without noise.
        high: its end; the point after, without noise.
        drops: fall of ln(ℓ + εL₀) from valley to valley.
        levels: loss in the valleys, of which there is one more than steps when every peak is a step; ``(steps, 2)``:
            before and after each.
        widths: time, in decades, in which the middle half of the drop happens; a window of half-width h gives a sudden
            one about 0.6 h.
        noise: standard deviation of the noise on ln ℓ, above the floor.
    """

    count: int = 0
    times: FloatArray = field(default_factory=_empty)
    low: FloatArray = field(default_factory=_empty)
    high: FloatArray = field(default_factory=_empty)
    drops: FloatArray = field(default_factory=_empty)
    levels: FloatArray = field(default_factory=lambda: np.empty((0, 2)))
    widths: FloatArray = field(default_factory=_empty)
    noise: float = float("nan")


def find_staircase(
    times: ArrayLike,
    loss: ArrayLike,
    *,
    clock: str = "log",
    smooth: float = 0.05,
    least_drop: float = 0.3,
    widest: float = 0.3,
    contrast: float = 0.75,
    floor: float = 1e-3,
) -> StaircaseSteps:
    """Find the steps of a learning curve.

    Args:
        times: steps t or τ, ascending; a point at 0 is L₀ and no more when the clock is ``"log"``; shape ``(points,)``.
        loss: excess loss there; NaN ends the curve, and a value below zero is zero.
        clock: ``"log"`` looks at rates in log time, ``"linear"`` in time.
        smooth: half-width of the smoothing, in decades (``"log"``) or as a share of the run (``"linear"``). Steps
            closer than twice that are one step.
        least_drop: least fall of ln(ℓ + εL₀).
        widest: longest time, in decades, that the middle half of a step takes. A curve that slopes, as a power law or
            an exponential does, falls more slowly.
        contrast: least prominence of a step's rate, as a part of the rate.
        floor: ε, the least loss that is looked at, over L₀.

    Returns:
        The steps. Undetermined for fewer than eight points at positive times; no steps is an answer (count 0).

    Raises:
        InputError: bad times, shapes that differ, an unknown clock, a number that is not positive, or a contrast above
            1.
    """
    one_of("clock", clock, CLOCKS)
    numbers = {"smooth": smooth, "least_drop": least_drop, "widest": widest, "contrast": contrast, "floor": floor}
    for name, number in numbers.items():
        positive_number(name, number)
    if contrast > 1:
        raise InputError("contrast", contrast, "at most 1")
    curve = checked_curve(times, loss, least=_LEAST_POINTS, positive=False)
    kept = curve.times > 0 if clock == "log" else np.full(len(curve.times), True)
    if curve.problem or kept.sum() < _LEAST_POINTS:
        few = f"{int(kept.sum())} points after the start, at least {_LEAST_POINTS} are needed"
        return StaircaseSteps(undetermined(curve.problem or few))
    if curve.values[0] <= 0:
        return StaircaseSteps(undetermined(f"the loss starts at {curve.values[0]:g}"))
    t, raw, least = curve.times[kept], np.maximum(curve.values[kept], 0.0), floor * curve.values[0]
    x = np.log10(t) if clock == "log" else t / t[-1]
    y = np.log(raw + least)
    grid = np.linspace(x[0], x[-1], _GRID)
    height, slope, effective, loose = local_lines(x, y, grid, smooth)
    above = raw > 3 * least  # nearer to the floor a threshold would choose the points by their noise
    noise = noise_level(x[above], np.log(raw[above]))
    here = noise * np.clip(1 - least * np.exp(-height), 0.0, 1.0)  # of ln(ℓ + εL₀): ℓ/(ℓ + εL₀) of that of ln ℓ
    error = here / np.sqrt(effective)

    found = []
    for left, right in pairwise(_valleys(-slope, contrast, _ERRORS * here * loose)):
        fall = height[left] - height[right]
        if fall < max(least_drop, _ERRORS * float(np.hypot(error[left], error[right]))):
            continue
        start, end = _middle(grid, height, left, right)
        width = end - start if clock == "log" else float(np.log10(end / start)) if start > 0 else np.inf
        if width > widest:
            continue
        inside = (x >= grid[left]) & (x <= grid[right])
        if inside.sum() >= 2:
            levels = np.maximum(np.exp(height[[left, right]]) - least, 0.0)
            passage = cut_crossing(t[inside], raw[inside], levels.mean(), falling=True, logarithm=clock == "log")
            found.append((fall, levels, width, passage))
    if not found:
        return StaircaseSteps(OK, noise=noise)
    return StaircaseSteps(
        OK,
        count=len(found),
        times=np.array([passage.time for *_, passage in found]),
        low=np.array([passage.low for *_, passage in found]),
        high=np.array([passage.high for *_, passage in found]),
        drops=np.array([fall for fall, *_ in found]),
        levels=np.array([levels for _, levels, *_ in found]),
        widths=np.array([width for *_, width, _ in found]),
        noise=noise,
    )


def _valleys(rate: FloatArray, contrast: float, least: FloatArray) -> list[int]:
    # the flattest places before, between and after the peaks of the rate that stand out of valleys and noise
    padded = np.concatenate([[0.0], np.maximum(rate, 0.0), [0.0]])  # the curve is flat before and after: ends count
    peaks, _ = find_peaks(padded)
    prominence = peak_prominences(padded, peaks)[0]
    needed = np.maximum(contrast * padded[peaks], np.concatenate([[0.0], least, [0.0]])[peaks])
    kept = [int(peak) for peak in peaks[(prominence >= needed) & (padded[peaks] > 0)]]
    edges = [0, *kept, len(padded) - 1]
    valleys = []
    for low, high in pairwise(edges):
        flat = np.nonzero(padded[low : high + 1] == padded[low : high + 1].min())[0]
        # a plateau is left at its end and reached at its start: its middle is a safe place in it
        valleys.append(low + int(flat[len(flat) // 2]))
    last = len(rate) - 1
    return [min(max(valley - 1, 0), last) for valley in valleys]


def _middle(grid: FloatArray, height: FloatArray, left: int, right: int) -> tuple[float, float]:
    # where a quarter and three quarters of the fall between two valleys are done
    part, x = height[left : right + 1], grid[left : right + 1]
    marks = [part[0] - share * (part[0] - part[-1]) for share in (0.25, 0.75)]
    return float(x[int(np.argmax(part <= marks[0]))]), float(x[int(np.argmax(part <= marks[1]))])
