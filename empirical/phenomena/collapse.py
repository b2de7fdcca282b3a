"""Collapse in rescaled time, for curves of any kind: how far runs of different γ are apart at equal t and at equal τ.

    distance(a, b) = max |y_a(s) − y_b(s)| / min(|y_a(s)|, |y_b(s)|)     over the times s that both runs have,

s = τ = ηt/γ (after) and s = t (before): the distance of ``simulate.collapse``, with |·| the Euclidean norm when y is a
vector of raw outputs F − F₀ on several examples. At large γ raw outputs collapse (theory: they differ by order f);
losses do not, since f = (F − F₀)/γ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from empirical.phenomena.curves import OK, Finding, FloatArray, checked_times, undetermined
from theory.errors import InputError, positive_array

NAN = float("nan")
_LEAST_POINTS = 3


@dataclass(frozen=True)
class CurveCollapse(Finding):
    """How well curves collapse.

    Attributes:
        distance: largest distance of two runs at equal τ.
        median: median over times, the largest over pairs, at equal τ.
        distance_before: largest distance of two runs at equal t; NaN when two runs have no common times.
        median_before: median over times, the largest over pairs, at equal t.
        gain: median_before over median: how much closer the rescaling brings the curves.
        window: first and last τ that all runs share.
        pairs: one row for two runs: ``gamma_a, gamma_b, distance, median, tau`` (where the distance is largest),
            ``distance_before, median_before``.
    """

    distance: float = NAN
    median: float = NAN
    distance_before: float = NAN
    median_before: float = NAN
    gain: float = NAN
    window: tuple[float, float] = (NAN, NAN)
    pairs: pd.DataFrame = field(default_factory=pd.DataFrame)


def curve_collapse(
    steps: ArrayLike | Sequence[ArrayLike],
    curves: Sequence[ArrayLike],
    *,
    eta: ArrayLike,
    gamma: ArrayLike,
    window: tuple[float, float] | None = None,
) -> CurveCollapse:
    """Lay curves of several runs over each other, at equal t and at equal τ.

    Args:
        steps: times t of each run, ``(points,)``, or one vector that serves all.
        curves: raw outputs or losses of each run, ``(points,)`` or ``(points, components)``; from the first non-finite
            value on a run is left out.
        eta: learning rate of each run; a single number serves all.
        gamma: feature-learning strength of each run, shape ``(runs,)``.
        window: (low, high) in τ to which the curves are cut first.

    Returns:
        The distances. Curves are compared at the times of either run, on straight lines in between. Times at which a
        curve is exactly zero (F − F₀ at the start) are left out. Undetermined when two runs have fewer than three
        common times τ.

    Raises:
        InputError: fewer than two runs, shapes that differ, η or γ not positive, bad times.
    """
    gammas = positive_array("gamma", gamma).ravel()
    runs = len(gammas)
    if runs < 2 or len(curves) != runs:
        raise InputError("curves", len(curves), f"as many as gamma has entries ({runs}), at least two")
    try:
        etas = np.broadcast_to(positive_array("eta", eta), (runs,))
    except ValueError:
        raise InputError("eta", eta, f"a number, or one for each of the {runs} runs") from None
    shared = np.ndim(steps[0]) == 0 if isinstance(steps, Sequence) else np.ndim(steps) == 1
    times: list[ArrayLike] = [np.asarray(steps)] * runs if shared else [np.asarray(t) for t in steps]  # type: ignore[union-attr]
    if len(times) != runs:
        raise InputError("steps", len(times), f"one vector, or one for each of the {runs} runs")
    pace = etas / gammas
    cut = [_run(t, y, p, window) for t, y, p in zip(times, curves, pace, strict=True)]
    if len({y.shape[1] for _, y in cut}) > 1:
        raise InputError("curves", [y.shape[1] for _, y in cut], "of one number of components")
    if min(len(t) for t, _ in cut) < _LEAST_POINTS:
        return CurveCollapse(undetermined(f"a run has fewer than {_LEAST_POINTS} points of use"))

    rows, start, end = [], 0.0, np.inf
    for a, b in combinations(range(runs), 2):
        (t_a, y_a), (t_b, y_b) = cut[a], cut[b]
        tau, apart = _distances(t_a * pace[a], y_a, t_b * pace[b], y_b)
        if len(tau) < _LEAST_POINTS:
            return CurveCollapse(undetermined(f"γ = {gammas[a]:g} and {gammas[b]:g} have no τ in common"))
        start, end = max(start, float(tau[0])), min(end, float(tau[-1]))
        _, before = _distances(t_a, y_a, t_b, y_b)
        known = len(before) >= _LEAST_POINTS
        rows.append({
            "gamma_a": gammas[a],
            "gamma_b": gammas[b],
            "distance": apart.max(),
            "median": np.median(apart),
            "tau": tau[int(np.argmax(apart))],
            "distance_before": before.max() if known else NAN,
            "median_before": np.median(before) if known else NAN,
        })
    pairs = pd.DataFrame(rows)
    worst = pairs[["distance", "median", "distance_before", "median_before"]].max(skipna=False)
    close = float(worst["median"])
    return CurveCollapse(
        OK,
        distance=float(worst["distance"]),
        median=close,
        distance_before=float(worst["distance_before"]),
        median_before=float(worst["median_before"]),
        gain=float(worst["median_before"]) / close if close > 0 else np.inf,
        window=(start, end),
        pairs=pairs,
    )


def _run(
    steps: ArrayLike, values: ArrayLike, pace: float, window: tuple[float, float] | None
) -> tuple[FloatArray, FloatArray]:
    # times and (points, components): finite, inside the window
    t, y = checked_times(steps, "steps"), np.asarray(values, dtype=np.float64)
    if y.ndim not in {1, 2} or len(y) != len(t):
        raise InputError("curves", y.shape, f"(points,) or (points, components) with {len(t)} points")
    y = y.reshape(len(y), -1)
    finite = np.isfinite(y).all(axis=1)
    last = len(t) if finite.all() else int(np.argmin(finite))
    t, y = t[:last], y[:last]
    if window is None:
        return t, y
    slack = 1 + 1e-12  # t to τ rounds
    inside = (t * pace >= window[0] / slack) & (t * pace <= window[1] * slack)
    return t[inside], y[inside]


def _distances(s_a: FloatArray, y_a: FloatArray, s_b: FloatArray, y_b: FloatArray) -> tuple[FloatArray, FloatArray]:
    low, high = max(s_a[0], s_b[0]), min(s_a[-1], s_b[-1])
    at = np.union1d(s_a, s_b)
    at = at[(at >= low) & (at <= high)]
    if not at.size:
        return at, at
    first, second = (np.stack([np.interp(at, s, part) for part in y.T]) for s, y in ((s_a, y_a), (s_b, y_b)))
    smaller = np.minimum(np.linalg.norm(first, axis=0), np.linalg.norm(second, axis=0))
    there = smaller > 0
    return at[there], np.linalg.norm(first - second, axis=0)[there] / smaller[there]
