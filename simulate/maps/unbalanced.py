"""Descent on L separate weights that need not be balanced, compiled.

    f = (P − P₀)/γ,   P = ∏ w_ℓ,   g_i = ∂ℓ/∂w_i = (ℓ′(f)/γ) ∏_{ℓ≠i} w_ℓ,   one example x = 1, target y = 1

    gd        w_i ← w_i − η g_i
    momentum  v_i ← β v_i + g_i,   w_i ← w_i − η v_i,   v = 0 at the start
    sign      w_i ← w_i − η sign(g_i),   sign(0) = 0

The state is the displacement δ = w − w₀. With P_i and P⁰_i the products of the first i weights, now and at the start,
P_i − P⁰_i = w⁰_i (P_{i−1} − P⁰_{i−1}) + δ_i P_{i−1}: products of δ and nothing that cancels because γ is small, so that
γ = 1e-8 is as accurate as γ = 1. The ∏_{ℓ≠i} are products of prefixes and suffixes, so that a weight may be zero.

On the balanced line, w₀ = (1, …, 1), this is the map of ``simulate.gradient_descent``. Off it, w_i² − w_j² is conserved
by gradient flow and drifts at second order in η (``theory.conserved``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import parallel_chunksize, prange
from numpy.typing import ArrayLike, NDArray

from simulate.maps.arguments import cells, loss_code, results
from simulate.maps.compiled import compiled
from simulate.maps.losses import excess, slope
from simulate.outcomes import DEFAULT_THRESHOLDS, CellResults, Thresholds
from theory.conserved import weight_invariants
from theory.errors import InputError

FloatArray = NDArray[np.float64]

_GD, _MOMENTUM, _SIGN = range(3)
_CODES = {"gd": _GD, "momentum": _MOMENTUM, "sign": _SIGN}
_CELLS_A_TASK = 16  # cells end at very different steps: small tasks keep both the first and the last thread busy


# --- the compiled map -----------------------------------------------------------------------------------------------


@compiled(inline="always")
def _products(start: FloatArray, displacement: FloatArray, others: FloatArray) -> float:
    """Return P − P₀ and fill ``others`` with ∏_{ℓ≠i} w_ℓ."""
    raw, product = 0.0, 1.0
    for i in range(start.size):
        others[i] = product
        raw = raw * start[i] + displacement[i] * product
        product *= start[i] + displacement[i]
    product = 1.0
    for i in range(start.size - 1, -1, -1):
        others[i] *= product
        product *= start[i] + displacement[i]
    return raw


@compiled(inline="always")
def _move(
    displacement: FloatArray,
    velocity: FloatArray,
    others: FloatArray,
    pull: float,
    eta: float,
    rate: float,
    beta: float,
    optimizer: int,
) -> None:
    """One step, in place; ``pull`` is ℓ′(f), ``rate`` η/γ, and the velocity is held as η v."""
    for i in range(displacement.size):
        gradient = pull * others[i]
        if optimizer == _SIGN:
            if gradient != 0.0:
                displacement[i] -= math.copysign(eta, gradient)
        elif optimizer == _MOMENTUM:
            velocity[i] = beta * velocity[i] + rate * gradient
            displacement[i] -= velocity[i]
        else:
            displacement[i] -= rate * gradient


@compiled(inline="always")
def _same(one: FloatArray, other: FloatArray) -> bool:
    for i in range(one.size):  # the first entry decides nearly always  # noqa: SIM110
        if one[i] != other[i]:
            return False
    return True


@compiled()
def _run_cell(
    start: FloatArray,
    gamma: float,
    eta: float,
    beta: float,
    loss: int,
    optimizer: int,
    steps: int,
    tail_steps: int,
    bound: float,
) -> tuple[float, float, int, bool]:
    """Run one cell.

    A floating-point state, velocity included, that has been seen before repeats for ever: the rest of the run is known,
    and one turn of the cycle gives its tail. Brent's algorithm finds it: the state is compared with one kept from
    earlier, which is renewed at step numbers that grow by a quarter. A cycle of length p is seen by the time the run is
    a quarter longer than the approach to it, or 4p steps if that is more.

    The largest loss is that of the smallest or of the largest output, since ℓ is convex: only the tail needs ℓ itself.

    Returns:
        (tail loss, peak loss, steps run, diverged).
    """
    displacement, velocity, others = np.zeros((3, start.size))
    kept, kept_velocity = np.zeros((2, start.size))
    kept_at, renew_at, period = 0, 1, 0
    rate = eta / gamma
    f, lowest, highest = 0.0, 0.0, 0.0
    tail_start = steps - tail_steps  # the losses after steps tail_start+1 … steps are averaged
    tail_sum, step, last = 0.0, 0, steps
    repeats_at = 0  # the step at which a cycle was seen; 0 before
    _products(start, displacement, others)
    while step < last:
        _move(displacement, velocity, others, slope(f, loss), eta, rate, beta, optimizer)
        raw = _products(start, displacement, others)
        step += 1
        if not abs(raw) <= bound:  # also true for NaN
            return np.nan, np.inf, step, True
        f = raw / gamma
        if repeats_at > 0:  # one turn of the cycle: this loss occurs again and again until the end
            first = max(repeats_at, tail_start) + 1
            until_first = (step - first) % period
            count = (steps - first - until_first) // period + 1  # 0 where it would come after the last step
            tail_sum += max(count, 0) * excess(f, loss)
            continue
        lowest, highest = min(lowest, f), max(highest, f)
        if step > tail_start:
            tail_sum += excess(f, loss)
        if _same(displacement, kept) and (optimizer != _MOMENTUM or _same(velocity, kept_velocity)):
            period = step - kept_at
            if period < steps - step:
                repeats_at, last = step, step + period
        if step == renew_at:
            kept[:], kept_velocity[:] = displacement, velocity
            kept_at, renew_at = step, step + 1 + step // 4
    peak = max(excess(lowest, loss), excess(highest, loss))
    return tail_sum / tail_steps, peak, steps, False


@compiled(parallel=True)
def _run_cells(  # type: ignore[no-untyped-def]
    start, gamma, eta, beta, loss, optimizer, steps, tail_steps, divergence, tail, peak, steps_run, diverged
):
    for i in prange(gamma.size):
        bound = divergence * max(1.0, gamma[i])
        tail[i], peak[i], steps_run[i], diverged[i] = _run_cell(
            start, gamma[i], eta[i], beta, loss, optimizer, steps, tail_steps, bound
        )


@compiled(parallel=True)
def _trajectories(start, gamma, eta, beta, loss, optimizer, displacements, outputs, losses):  # type: ignore[no-untyped-def]
    for i in prange(gamma.size):
        displacement, velocity, others = np.zeros((3, start.size))
        rate, f = eta[i] / gamma[i], 0.0
        _products(start, displacement, others)
        displacements[i, 0], outputs[i, 0], losses[i, 0] = displacement, f, excess(f, loss)
        for step in range(1, outputs.shape[1]):
            _move(displacement, velocity, others, slope(f, loss), eta[i], rate, beta, optimizer)
            f = _products(start, displacement, others) / gamma[i]
            displacements[i, step], outputs[i, step], losses[i, step] = displacement, f, excess(f, loss)


# --- public ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UnbalancedTrajectories:
    """Every step of a few cells; escaped cells end in ``inf`` or ``nan``.

    Attributes:
        gamma: feature-learning strength, shape ``(cells,)``.
        eta: learning rate on each weight, shape ``(cells,)``.
        start: weights before the first step, shape ``(L,)``.
        displacement: w − w₀ after steps 0 … T, shape ``(cells, T + 1, L)``.
        output: f, shape ``(cells, T + 1)``.
        loss: excess loss ℓ(f), shape ``(cells, T + 1)``.
    """

    gamma: FloatArray
    eta: FloatArray
    start: FloatArray
    displacement: FloatArray
    output: FloatArray
    loss: FloatArray

    @property
    def weights(self) -> FloatArray:
        """The weights w₀ + δ, shape ``(cells, T + 1, L)``."""
        return self.start + self.displacement

    @property
    def imbalance(self) -> FloatArray:
        """The w_i² − w_j², shape ``(cells, T + 1, L, L)``; raises ``InputError`` if a weight has overflowed."""
        return weight_invariants(self.weights)

    @property
    def imbalance_change(self) -> FloatArray:
        """What ``imbalance`` has gained since the start, from δ, so that no change is too small to be seen."""
        with np.errstate(over="ignore", invalid="ignore"):  # escaped cells
            gained = self.displacement * (2.0 * self.start + self.displacement)
            return gained[..., :, None] - gained[..., None, :]


def _checked(
    gamma: ArrayLike, eta: ArrayLike, weights: ArrayLike, steps: int, loss: str, optimizer: str, beta: float
) -> tuple[FloatArray, FloatArray, FloatArray, int]:
    code = loss_code(loss, optimizer, beta, steps)
    start = np.asarray(weights)
    if start.dtype.kind not in "iuf" or start.ndim != 1 or start.size == 0 or not np.isfinite(start).all():
        raise InputError("weights", weights, "a vector of finite real numbers, one for each layer")
    return *cells(gamma, eta), np.ascontiguousarray(start, dtype=np.float64), code


def run_unbalanced(
    gamma: ArrayLike,
    eta: ArrayLike,
    *,
    weights: ArrayLike,
    steps: int,
    loss: str = "mse",
    optimizer: str = "gd",
    beta: float = 0.9,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> CellResults:
    """Run descent on L separate weights from one start, one run for each pair (γ, η).

    Args:
        gamma: feature-learning strengths, shape ``(cells,)``.
        eta: learning rates on each of the L separate weights, shape ``(cells,)`` (no width multiplier: N = 1).
        weights: the start w₀ that all cells share, shape ``(L,)``; any signs, zeros allowed.
        steps: budget T in steps.
        loss: ``"mse"`` or ``"cross-entropy"``.
        optimizer: ``"gd"``, ``"momentum"`` (heavy ball) or ``"sign"``.
        beta: β of heavy-ball momentum; not used by the others.
        thresholds: the numbers in the definitions of the outcomes.

    Returns:
        One entry a cell; ``final_accuracy`` is NaN, since the model has no classes.

    Raises:
        InputError: a γ or η that is not positive, lengths that differ, weights that are not finite, T below 1, an
            unknown loss or optimizer, or β outside [0, 1).
    """
    gammas, etas, start, code = _checked(gamma, eta, weights, steps, loss, optimizer, beta)
    tail, peak = np.empty(gammas.size), np.empty(gammas.size)
    steps_run, diverged = np.empty(gammas.size, dtype=np.int64), np.empty(gammas.size, dtype=np.bool_)
    with parallel_chunksize(_CELLS_A_TASK):
        _run_cells(
            start, gammas, etas, float(beta), code, _CODES[optimizer], steps,
            thresholds.tail_steps(steps), thresholds.divergence, tail, peak, steps_run, diverged,
        )  # fmt: skip
    return results(tail, peak, steps_run, diverged, code, thresholds)


def descend_unbalanced(
    gamma: ArrayLike,
    eta: ArrayLike,
    *,
    weights: ArrayLike,
    steps: int,
    loss: str = "mse",
    optimizer: str = "gd",
    beta: float = 0.9,
) -> UnbalancedTrajectories:
    """The same runs with every step kept: cells · (T + 1) · L numbers, so for a few cells.

    Args:
        gamma: feature-learning strengths, shape ``(cells,)``.
        eta: learning rates on each of the L separate weights, shape ``(cells,)``.
        weights: the start w₀ that all cells share, shape ``(L,)``.
        steps: number of steps T; no run ends earlier.
        loss: ``"mse"`` or ``"cross-entropy"``.
        optimizer: ``"gd"``, ``"momentum"`` (heavy ball) or ``"sign"``.
        beta: β of heavy-ball momentum; not used by the others.

    Returns:
        Weights, outputs and losses after steps 0 … T.

    Raises:
        InputError: as for ``run_unbalanced``.
    """
    gammas, etas, start, code = _checked(gamma, eta, weights, steps, loss, optimizer, beta)
    displacement = np.empty((gammas.size, steps + 1, start.size))
    output, losses = np.empty((2, gammas.size, steps + 1))
    _trajectories(start, gammas, etas, float(beta), code, _CODES[optimizer], displacement, output, losses)
    return UnbalancedTrajectories(gammas, etas, start, displacement, output, losses)
