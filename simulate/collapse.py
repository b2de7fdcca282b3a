"""Collapse in rescaled time: how far the raw outputs F − F₀ = γf of different γ ≫ 1 are apart at equal τ = ηt/γ.

The balanced flow of the scalar deep linear model, dw/dτ = −w^{L−1} ℓ′(f) with f = (w^L − 1)/γ, knows γ only through f.
While f is small the raw output is therefore one function of τ for every γ, and what departs from it is of order f:

    F − F₀ = F_∞(gτ) + c F₁(gτ)/γ + O(γ⁻²),      g = |ℓ′(0)|,   c = ℓ″(0)/|ℓ′(0)|

with F_∞ and F₁ of ``theory.flow_forms``, where MSE has g = c = 1. For another loss −ℓ′(f) = g(1 − cf + …): g sets the
pace, and c is what multiplies f in the first correction. Two runs then differ by |c F₁/F_∞| |1/γ_a − 1/γ_b|, relative.

The losses do not collapse: they drop at the end of the plateau, which at finite γ comes a little before
τ* = 1/((L−2)g) for L > 2, and at ln γ/(2g) plus a constant for L = 2. With h(s) = (1/(−ℓ′(s)) − 1/g)/s and f the output
at half the initial loss (the next term is of relative order 1/γ, times ln γ at L = 2)

    τ_drop = (1 − (γf)^{−(1−2/L)})/((L−2)g) + (γ^{−(1−2/L)}/L) ∫₀^f s^{2/L−1} h ds,      L = 2: (ln(γf)/g + ∫ h)/2.

The flow is solved as a quadrature of τ over x = ln(f/(1−f)), in which the integrand is smooth for every γ and loss:

    dτ/dx = (γ/L) (1 + γf)^{2/L−2} f(1−f)/(−ℓ′(f)).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations

import mpmath
import numpy as np
import pandas as pd
import sympy as sp
from numpy.typing import ArrayLike, NDArray
from scipy.special import roots_jacobi

from theory.errors import InputError, one_of, positive_array, positive_integer, positive_number
from theory.flow_forms import collapse_correction, collapse_curve
from theory.losses import LOSSES, Loss, exact_output
from theory.symbols import tau as tau_symbol

FloatArray = NDArray[np.float64]

RICH = 10.0
"""Least γ of a collapse: below, an expansion in 1/γ says nothing."""

_NODES = 12  # Gauss–Legendre nodes on panels of width 1 in x; the nearest poles are 2.8 away: error about 1e-24
_BEFORE = 40.0  # the quadrature starts at γf = e^-40, where τ is linear in f to rounding
_LAST = 30.0  # and ends where 1 − f = 1e-13
_ROUNDS = 30  # of Newton inside one panel; four are usual
_CURVE_START, _CURVE_END = 1e-2, 8.0  # drawn runs: from this raw output to this logit of f (1 − f = 3e-4)
_DROP_START = -4.0  # logit of f at which a drawn run begins to drop


def _pace(loss: Loss, output: FloatArray, gamma: float, depth: int) -> FloatArray:
    # dτ/dx; both (1 − f) carry the same rounding, so their ratio is good up to the minimum
    remaining = (1.0 - output) / -loss.numeric_slope(output)
    return gamma / depth * (1.0 + gamma * output) ** (2.0 / depth - 2.0) * output * remaining


def _outputs(logit: FloatArray) -> FloatArray:
    return np.asarray(1.0 / (1.0 + np.exp(-logit)))


@dataclass(frozen=True)
class _Course:
    """One run: τ at the edges of panels in x = logit f, and the quadrature between them."""

    loss: Loss
    gamma: float
    depth: int
    logit: FloatArray
    tau: FloatArray

    @classmethod
    def solve(cls, loss: Loss, gamma: float, depth: int) -> _Course:
        first = -np.log(gamma) - _BEFORE
        edges = np.linspace(first, _LAST, int(np.ceil(_LAST - first)) + 1)
        start = gamma * float(_outputs(edges[:1])[0]) / (depth * float(loss.pull_at_start))
        course = cls(loss, gamma, depth, edges, np.array([start]))
        pieces = course._between(edges[:-1], edges[1:])
        return cls(loss, gamma, depth, edges, start + np.concatenate([[0.0], np.cumsum(pieces)]))

    def _between(self, low: FloatArray, high: FloatArray) -> FloatArray:
        nodes, weights = _gauss_legendre()
        width = high - low
        inside = _outputs(low[:, None] + width[:, None] * nodes)
        return np.asarray((_pace(self.loss, inside, self.gamma, self.depth) @ weights) * width)

    def time(self, output: FloatArray) -> FloatArray:
        """τ at which outputs in (0, 1) are reached."""
        logit = np.clip(np.log(output) - np.log1p(-output), self.logit[0], self.logit[-1])
        panel = np.clip(np.searchsorted(self.logit, logit) - 1, 0, len(self.logit) - 2)
        return np.asarray(self.tau[panel] + self._between(self.logit[panel], logit))

    def output(self, tau: FloatArray) -> FloatArray:
        """The outputs at given τ > 0, by Newton in (x, ln τ), where the early run is a straight line."""
        panel = np.clip(np.searchsorted(self.tau, tau) - 1, 0, len(self.tau) - 2)
        low, high = self.logit[panel], self.logit[panel + 1]
        at = np.interp(np.log(tau), np.log(self.tau), self.logit)
        for _ in range(_ROUNDS):
            value = self.tau[panel] + self._between(low, at)
            slope = _pace(self.loss, _outputs(at), self.gamma, self.depth)
            moved = np.clip(at + np.log(tau / value) * value / slope, low, high)
            if np.allclose(moved, at, rtol=0.0, atol=1e-15):
                break
            at = moved
        return _outputs(at)


@cache
def _gauss_legendre() -> tuple[FloatArray, FloatArray]:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return (nodes + 1.0) / 2.0, weights / 2.0  # moved to [0, 1]


def balanced_output(*, tau: ArrayLike, gamma: float, depth: int, loss: str = "mse") -> FloatArray:
    """f(τ) of the balanced gradient flow; about 1e-13 relative where f is well conditioned in τ.

    Args:
        tau: τ = ηt/γ, positive, any shape.
        gamma: feature-learning strength, a positive number.
        depth: number of weights L.
        loss: ``"mse"`` or ``"cross-entropy"``.

    Returns:
        f in the shape of ``tau``; 1 − f is given down to 1e-13.

    Raises:
        InputError: τ or γ not positive and finite, L not an integer >= 1, an unknown loss.
    """
    times, layers = positive_array("tau", tau), positive_integer("depth", depth)
    which = LOSSES[one_of("loss", loss, tuple(LOSSES))]
    course = _Course.solve(which, positive_number("gamma", gamma), layers)
    earliest = np.maximum(times.ravel(), course.tau[0])  # before that f is proportional to τ
    found = course.output(earliest) * np.minimum(times.ravel() / course.tau[0], 1.0)
    return np.asarray(found.reshape(times.shape))


def drop_time(*, gamma: ArrayLike, depth: int, loss: str = "mse") -> FloatArray:
    """τ at which the loss of the balanced flow has fallen to half its start, for γ ≫ 1: the formula of this module.

    Args:
        gamma: feature-learning strength, positive, any shape.
        depth: number of weights L >= 2.
        loss: ``"mse"`` or ``"cross-entropy"``.

    Returns:
        τ, same shape, up to terms of relative order 1/γ (times ln γ at L = 2).

    Raises:
        InputError: γ not positive and finite, L not an integer >= 2, an unknown loss.
    """
    strengths, layers = positive_array("gamma", gamma), positive_integer("depth", depth, least=2)
    which = LOSSES[one_of("loss", loss, tuple(LOSSES))]
    half, pull = float(exact_output(which, 0.5)), float(which.pull_at_start)

    # ∫₀^f s^{2/L−1} h ds with h smooth: Gauss–Jacobi takes the power into its weight
    nodes, weights = roots_jacobi(_NODES, 0.0, 2.0 / layers - 1.0)
    s = half * (nodes + 1.0) / 2.0
    slowing = (-1.0 / which.numeric_slope(s) - 1.0 / pull) / s
    rest = float(weights @ slowing) * (half / 2.0) ** (2.0 / layers)
    if layers == 2:
        return np.asarray((np.log(strengths * half) / pull + rest) / 2.0)
    short = 1.0 - 2.0 / layers
    plateau = (1.0 - (strengths * half) ** -short) / ((layers - 2) * pull)
    return np.asarray(plateau + strengths**-short * rest / layers)


@dataclass(frozen=True)
class TauCollapse:
    """Runs of several γ, laid over each other at equal τ.

    Attributes:
        loss: the loss.
        depth: number of weights L.
        eta: learning rate, which sets t = γτ/η of the curves.
        output: the collapse is judged up to the τ at which the smallest γ reaches this f.
        gamma: feature-learning strengths, ascending; shape (runs,).
        tau: common times τ, ascending; the last is the one at which the smallest γ has reached ``output``; (times,).
        raw_output: F − F₀ of each run at each τ; (runs, times).
        limit: F_∞ at each τ; (times,).
        correction: cF₁ at each τ, of F − F₀ = F_∞ + cF₁/γ; (times,).
        plateau_exit: τ* = 1/((L−2)g), leading order; at L = 2, where it depends on γ, ``ln γ/(2g)``; (runs,).
        pairs: one row for two runs: ``gamma_a, gamma_b, distance`` (largest |F_a − F_b|/min(F_a, F_b) over ``tau``),
            ``predicted`` (the largest |cF₁/F_∞| |1/γ_a − 1/γ_b|), ``tau`` (where the distance is largest) and
            ``departure`` = predicted/distance − 1.
        drops: one row a run: ``gamma, measured`` (τ at which the loss is half its start), ``plateau_exit`` (τ*),
            ``predicted`` (with the first correction in 1/γ), ``departure`` = predicted/measured − 1, and
            ``before_exit`` = 1 − measured/plateau_exit.
        curve_tau: times τ of the whole runs, to be drawn; (runs, points).
        curve_raw_output: F − F₀ of the whole runs; (runs, points).
        limit_curve: τ in its first row and F_∞ in its second, over all raw outputs of the whole runs; (2, points).
    """

    loss: str
    depth: int
    eta: float
    output: float
    gamma: FloatArray
    tau: FloatArray
    raw_output: FloatArray
    limit: FloatArray
    correction: FloatArray
    plateau_exit: FloatArray
    pairs: pd.DataFrame
    drops: pd.DataFrame
    curve_tau: FloatArray
    curve_raw_output: FloatArray
    limit_curve: FloatArray

    @property
    def distance(self) -> float:
        """The collapse distance: the largest relative distance between any two runs at equal τ."""
        return float(self.pairs["distance"].max())

    @property
    def predicted_distance(self) -> float:
        """What the first correction says the collapse distance is."""
        return float(self.pairs["predicted"].max())


def tau_collapse(
    *,
    gamma: ArrayLike,
    depth: int = 3,
    loss: str = "mse",
    output: float = 0.01,
    eta: float = 1.0,
    points: int = 400,
) -> TauCollapse:
    """Solve the balanced flow at several large γ and measure how well the raw outputs collapse in τ.

    Args:
        gamma: at least two different γ, each at least ``RICH``.
        depth: number of weights L >= 2 (one weight has no plateau).
        loss: ``"mse"`` or ``"cross-entropy"``.
        output: f of the smallest γ up to which the runs are compared, below ½.
        eta: learning rate on each of the L weights; only the times t = γτ/η of the curves know it.
        points: number of times, at raw outputs of the smallest γ evenly spaced in their logarithm over six decades.

    Returns:
        The runs, their distances beside the predicted ones, and their drop times beside the plateau's end.

    Raises:
        InputError: fewer than two γ or one below ``RICH``, L below 2, an unknown loss, an output outside (0, ½).
    """
    strengths = np.unique(positive_array("gamma", gamma))
    if len(strengths) < 2 or strengths[0] < RICH:
        raise InputError("gamma", gamma, f"at least two different values, none below {RICH:g}")
    layers = positive_integer("depth", depth, least=2)
    which = LOSSES[one_of("loss", loss, tuple(LOSSES))]
    reach, rate = positive_number("output", output), positive_number("eta", eta)
    if reach >= 0.5:
        raise InputError("output", output, "a number in (0, 0.5): the collapse ends where f is no longer small")
    count = positive_integer("points", points, least=2)

    courses = [_Course.solve(which, float(strength), layers) for strength in strengths]
    tau = courses[0].time(np.geomspace(reach * 1e-6, reach, count))
    raw = np.stack([strength * course.output(tau) for strength, course in zip(strengths, courses, strict=True)])
    limit, correction = _expansion(which, layers, tau)
    pull = float(which.pull_at_start)
    leave = np.log(strengths) / 2 if layers == 2 else np.full_like(strengths, 1 / (layers - 2))
    drawn = [_curve(course, count) for course in courses]
    return TauCollapse(
        loss=loss,
        depth=layers,
        eta=rate,
        output=reach,
        gamma=strengths,
        tau=tau,
        raw_output=raw,
        limit=limit,
        correction=correction,
        plateau_exit=leave / pull,
        pairs=_pairs(strengths, tau, raw, np.abs(correction / limit)),
        drops=_drops(courses, leave / pull),
        curve_tau=np.stack([course_tau for course_tau, _ in drawn]),
        curve_raw_output=np.stack([course_raw for _, course_raw in drawn]),
        limit_curve=_limit_curve(pull, layers, np.geomspace(_CURVE_START, strengths[-1], count)),
    )


def _expansion(loss: Loss, depth: int, tau: FloatArray) -> tuple[FloatArray, FloatArray]:
    # F_∞ and cF₁ in the time gτ of the loss; float64 would cancel in F₁ at small τ, hence 30 digits
    pull = float(loss.pull_at_start)
    slowing = float(loss.numeric_curvature(np.zeros(()))) / pull
    forms = [sp.lambdify(tau_symbol, form(layers=depth), "mpmath") for form in (collapse_curve, collapse_correction)]
    with mpmath.workdps(30):
        rows = [[float(form(mpmath.mpf(pull * at))) for at in tau] for form in forms]
    return np.array(rows[0]), slowing * np.array(rows[1])


def _curve(course: _Course, count: int) -> tuple[FloatArray, FloatArray]:
    # half of the points evenly in ln F, for the plateau, and half evenly in logit f, for the drop
    start = np.log(_CURVE_START / course.gamma)
    plateau = np.linspace(start, _CURVE_END, count - count // 2)
    drop = np.linspace(max(start, _DROP_START), _CURVE_END, count // 2, endpoint=False)
    output = _outputs(np.sort(np.concatenate([plateau, drop])))
    return course.time(output), course.gamma * output


def _limit_curve(pull: float, depth: int, raw: FloatArray) -> FloatArray:
    # gτ = ∫₁^w q^{1−L} dq with w^L = 1 + F, the inverse of F_∞
    log_weight = np.log1p(raw) / depth
    scaled = log_weight if depth == 2 else -np.expm1(-(depth - 2) * log_weight) / (depth - 2)
    return np.stack([scaled / pull, raw])


def _pairs(gamma: FloatArray, tau: FloatArray, raw: FloatArray, per_gamma: FloatArray) -> pd.DataFrame:
    rows = []
    for a, b in combinations(range(len(gamma)), 2):
        relative = np.abs(raw[a] - raw[b]) / np.minimum(raw[a], raw[b])
        predicted = float((per_gamma * abs(1 / gamma[a] - 1 / gamma[b])).max())
        most = int(np.argmax(relative))
        distance = float(relative[most])
        rows.append((gamma[a], gamma[b], distance, predicted, tau[most], predicted / distance - 1))
    return pd.DataFrame(rows, columns=["gamma_a", "gamma_b", "distance", "predicted", "tau", "departure"])


def _drops(courses: list[_Course], leave: FloatArray) -> pd.DataFrame:
    loss, depth = courses[0].loss, courses[0].depth
    gamma = np.array([course.gamma for course in courses])
    half = np.array([float(exact_output(loss, 0.5))])
    measured = np.array([course.time(half)[0] for course in courses])
    predicted = drop_time(gamma=gamma, depth=depth, loss=loss.name)
    columns = {
        "gamma": gamma,
        "measured": measured,
        "plateau_exit": leave,
        "predicted": predicted,
        "departure": predicted / measured - 1,
        "before_exit": 1 - measured / leave,
    }
    return pd.DataFrame(columns)
