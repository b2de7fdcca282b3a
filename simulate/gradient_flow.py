"""Gradient flow of the models with one output: balanced weights, unbalanced weights, two layers of width n.

    dw_ℓ/dt = −η ∂ℓ/∂w_ℓ,     f = (∏ w_ℓ − ∏ w_ℓ(0))/γ,     τ = ηt/γ        (two layers: step ηn)

Each is a flow along one coordinate (``simulate.flows.paths``), whose time is an integral along the way
(``simulate.flows.clock``). ``method="auto"`` evaluates that integral by Gauss–Legendre: for balanced weights and MSE it
is the closed form of ``theory.flow`` (a hypergeometric function), here accurate to rounding where the closed form's
1e-14 would be multiplied by γ^{1−2/L}. ``method="ode"`` integrates it by SciPy's DOP853. Both answer in the same form.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from simulate.flows.clock import Clock, GaussClock, OdeClock, Path, ScalarLoss
from simulate.flows.paths import Balanced, TwoLayer, Unbalanced
from simulate.trajectory import EVENTS, FloatArray, LongArray, Trajectory, event_levels, requested_times, usable_gamma
from theory.errors import InputError, one_of, positive_integer, positive_number

LOSSES = ("mse", "cross-entropy")
METHODS = ("auto", "ode")

__all__ = ["Trajectory", "gradient_flow", "two_layer_flow"]


def gradient_flow(
    *,
    loss: str = "mse",
    depth: int | None = None,
    gamma: float,
    eta: float = 1.0,
    t_end: float | None = None,
    tau_end: float | None = None,
    times: ArrayLike | None = None,
    points: int = 500,
    spacing: str = "linear",
    weights: ArrayLike | None = None,
    method: str = "auto",
    level: float = 0.9,
    settle: float = 1e-3,
    max_evaluations: int = 1_000_000,
) -> Trajectory:
    """Solve the flow of L weights, from w = 1 or from weights that need not be balanced.

    Args:
        loss: ``"mse"``, or ``"cross-entropy"`` (two classes, soft label σ(1), so that the minimum is at f = 1).
        depth: number of weights L; may be left out when ``weights`` is given.
        gamma: feature-learning strength.
        eta: learning rate on each of the L separate weights.
        t_end: end in units of steps (t, not τ).
        tau_end: end in rescaled time τ = ηt/γ, in place of ``t_end``.
        times: ascending times in steps, in place of either.
        points: number of times, 0 and the end included.
        spacing: of the times: ``"linear"``, or ``"log"``.
        weights: the start, shape ``(L,)``, any signs, zeros allowed; every w = 1 when ``None``. f is zero at the start.
        method: ``"auto"`` or ``"ode"``, see the module.
        level: loss over L₀ at the event ``plateau_exit``.
        settle: loss over L₀ at the event ``convergence``.
        max_evaluations: after so many evaluations ``"ode"`` gives up.

    Returns:
        The trajectory. A solver that fails is reported in ``success``, ``status`` and ``message``, with the part that
        was solved.

    Raises:
        InputError: γ, η or a time not positive, L below 1 or not the number of weights, fewer than 2 points, not
            exactly one of ``t_end``, ``tau_end`` and ``times``, an unknown loss, spacing or method.
    """
    strength = usable_gamma(gamma)
    path: Path
    if weights is None:
        path = Balanced(positive_integer("depth", depth), strength)
    else:
        start = real_vector("weights", weights)
        if depth is not None and positive_integer("depth", depth) != len(start):
            raise InputError("depth", depth, f"left out, or the number of weights, {len(start)}")
        with np.errstate(over="ignore", invalid="ignore"):
            path = Unbalanced(start, strength)
    grid = requested_times(
        strength, positive_number("eta", eta), t_end=t_end, tau_end=tau_end, times=times, points=points, spacing=spacing
    )
    return _solve(
        path, ScalarLoss(one_of("loss", loss, LOSSES)), strength, float(eta), grid,
        method=method, levels=event_levels(level, settle), max_evaluations=max_evaluations,
    )  # fmt: skip


def two_layer_flow(
    u: ArrayLike,
    v: ArrayLike,
    *,
    loss: str = "mse",
    gamma: float,
    eta: float = 1.0,
    t_end: float | None = None,
    tau_end: float | None = None,
    times: ArrayLike | None = None,
    points: int = 500,
    spacing: str = "linear",
    method: str = "auto",
    level: float = 0.9,
    settle: float = 1e-3,
    max_evaluations: int = 1_000_000,
) -> Trajectory:
    """Solve the flow of f = (u·v − u₀·v₀)/(γn) with the step ηn, so that du/dτ = −ℓ′v and dv/dτ = −ℓ′u.

    Args:
        u: output weights, shape ``(n,)``.
        v: input weights, shape ``(n,)``.
        loss: as in ``gradient_flow``, as are the arguments not listed here.
        gamma: feature-learning strength.
        eta: learning rate, without the width multiplier n.
        t_end: end in units of steps (t, not τ).
        tau_end: end in rescaled time τ = ηt/γ, in place of ``t_end``.
        times: ascending times in steps, in place of either.
        points: number of times.
        spacing: ``"linear"`` or ``"log"``.
        method: ``"auto"`` or ``"ode"``.
        level: loss over L₀ at the event ``plateau_exit``.
        settle: loss over L₀ at the event ``convergence``.
        max_evaluations: after so many evaluations ``"ode"`` gives up.

    Returns:
        The trajectory, with weights (u, v).

    Raises:
        InputError: as ``gradient_flow``; vectors that are not real and finite, or of different lengths.
    """
    strength = usable_gamma(gamma)
    first, second = real_vector("u", u), real_vector("v", v)
    if len(first) != len(second):
        raise InputError("v", len(second), f"as long as u, {len(first)}")
    grid = requested_times(
        strength, positive_number("eta", eta), t_end=t_end, tau_end=tau_end, times=times, points=points, spacing=spacing
    )
    with np.errstate(over="ignore", invalid="ignore"):
        path = TwoLayer(first, second, strength)
    return _solve(
        path, ScalarLoss(one_of("loss", loss, LOSSES)), strength, float(eta), grid,
        method=method, levels=event_levels(level, settle), max_evaluations=max_evaluations,
    )  # fmt: skip


def real_vector(field: str, given: ArrayLike) -> FloatArray:
    """Check a vector of weights.

    Args:
        field: name shown in the error.
        given: the values.

    Returns:
        A float64 copy, one-dimensional.

    Raises:
        InputError: not real, not finite, empty, or not one-dimensional.
    """
    try:
        values = np.asarray(given)
    except (TypeError, ValueError):
        values = np.asarray(None)
    if values.dtype.kind not in "iuf" or values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise InputError(field, given, "a vector of real finite numbers, at least one")
    return values.astype(np.float64)


def _solve(
    path: Path,
    loss: ScalarLoss,
    gamma: float,
    eta: float,
    grid: tuple[FloatArray, FloatArray, LongArray],
    *,
    method: str,
    levels: dict[str, float],
    max_evaluations: int,
) -> Trajectory:
    allowed = positive_integer("max_evaluations", max_evaluations)
    one_of("method", method, METHODS)
    t, tau, fine = grid
    if path.stuck:  # two or more zeros among the weights: the gradient is zero
        clock: Clock | None = None
    elif not (np.isfinite(path.reach) or np.isposinf(path.reach)):
        return _overflow(path, loss, gamma, eta, grid)
    elif method == "ode":
        clock = OdeClock(path, loss, float(fine[-1]), allowed)
    else:
        clock = GaussClock(path, loss, float(fine[-1]))

    def sample(at: LongArray) -> dict[str, Any]:
        theta = np.zeros(at.shape) if clock is None else clock.theta(at)
        return fields_at(path, loss, *(_start(path, at) if clock is None else clock.place(theta)))

    known = len(t) if clock is None or not clock.exhausted else int(np.searchsorted(fine, clock.reached[-1], "right"))
    solved = known == len(t)
    name = "closed form" if clock is None or (isinstance(path, Balanced) and loss.name == "mse") else clock.method
    if method == "ode" and clock is not None:
        name = clock.method
    end = float(fine[-1] if solved or clock is None else clock.reached[-1]) * gamma / eta
    return Trajectory(
        t=t[:known],
        tau=tau[:known],
        **sample(fine[:known]),
        events=_events(path, loss, clock, levels, gamma / eta, float(t[-1]) if solved else end),
        success=solved,
        status="solved" if solved else "too many evaluations",
        message="the end was reached" if solved else f"gave up after {allowed} evaluations, at t = {end:.6g}",
        method=name,
        gamma=gamma,
        eta=eta,
        t_end=float(t[-1]) if solved else end,
        sample=sample,
    )


def fields_at(path: Path, loss: ScalarLoss, x: FloatArray, gap: FloatArray) -> dict[str, Any]:
    """The fields of a trajectory at places of a path.

    Args:
        path: the flow.
        loss: its loss.
        x: places, one-dimensional.
        gap: distances that are left to where f = 1.

    Returns:
        Every field of ``Trajectory`` with one entry a time, but for the times.
    """
    f, rest, _ = path.evaluate(x, gap)
    common = {"output": f, "loss": loss.excess(rest), "alignment": np.full_like(x, np.nan)}
    return common | path.fields(loss, x, gap)


def _start(path: Path, like: Any) -> tuple[FloatArray, FloatArray]:
    return np.zeros(like.shape), np.full(like.shape, path.reach)


def _events(
    path: Path,
    loss: ScalarLoss,
    clock: Clock | None,
    levels: dict[str, float],
    unit: float,
    t_end: float,
) -> dict[str, float]:
    # in steps; the loss falls along the path, so each level is bracketed by two edges of panels
    events = dict.fromkeys(EVENTS, math.nan)
    if clock is None:
        return events
    begin = float(loss.excess(np.array(1.0)))

    def surplus(theta: Any, level: float) -> Any:
        _, rest, _ = path.evaluate(*clock.place(np.asarray(theta)))
        return loss.excess(rest) / begin - level

    for name, level in levels.items():
        below = np.nonzero(surplus(clock.edges, level) <= 0)[0]
        if below.size:
            low, high = clock.edges[below[0] - 1], clock.edges[below[0]]
            theta = brentq(lambda at, part=level: float(surplus(at, part)), low, high, xtol=1e-300, rtol=1e-15)
            time = clock.tau(theta) * unit
            events[name] = time if time <= t_end else math.nan
    return events


def _overflow(
    path: Path,
    loss: ScalarLoss,
    gamma: float,
    eta: float,
    grid: tuple[FloatArray, FloatArray, LongArray],
) -> Trajectory:
    # where f = 1 lies cannot be said in float64: the start is all there is
    def sample(at: LongArray) -> dict[str, Any]:
        with np.errstate(all="ignore"):
            return fields_at(path, loss, *_start(path, at))

    known = int(grid[0][0] == 0)
    return Trajectory(
        t=grid[0][:known], tau=grid[1][:known], **sample(grid[2][:known]), events=dict.fromkeys(EVENTS, math.nan),
        success=False, status="overflow", message="weights of this size over- or underflow; only the start is known",
        method="none", gamma=gamma, eta=eta, t_end=0.0, sample=sample,
    )  # fmt: skip
