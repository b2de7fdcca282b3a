"""The discrete map of the scalar deep linear model, compiled.

Gradient descent on L separate weights, all equal to w, on the loss ℓ(f) with f = (w^L − 1)/γ and w(0) = 1:

    w ← w − (η/γ) w^{L−1} ℓ′(f).

The state is the displacement δ = w − 1, and w^L − 1 = δ (1 + w + … + w^{L−1}) is summed by Horner's rule: nothing
cancels, so that γ = 1e-8 is as accurate as γ = 1.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from simulate.outcomes import DEFAULT_THRESHOLDS, CellResults, Thresholds, classify
from theory.errors import InputError, one_of, positive_array, positive_integer

LOSSES = ("mse",)


@njit(cache=True, inline="always")
def _powers(displacement: float, depth: int) -> tuple[float, float]:
    """Return (w^L − 1, w^{L−1}) for w = 1 + displacement."""
    w = 1.0 + displacement
    geometric_sum, power = 1.0, 1.0
    for _ in range(depth - 1):
        geometric_sum = geometric_sum * w + 1.0
        power *= w
    return displacement * geometric_sum, power


@njit(cache=True)
def _run_cell(
    gamma: float, eta: float, depth: int, steps: int, tail_steps: int, bound: float
) -> tuple[float, float, int, bool]:
    """Run one cell of the MSE map.

    A state that repeats exactly (a fixed point or a 2-cycle of the floating-point map) repeats for ever: the rest
    of the run is known and is not computed.

    Returns:
        (tail loss, peak loss, steps run, diverged).
    """
    displacement, before, rate = 0.0, np.nan, eta / gamma
    raw, power = _powers(displacement, depth)
    loss = 0.5 * (raw / gamma - 1.0) ** 2
    loss_before = loss
    peak, tail_sum = loss, 0.0
    tail_start = steps - tail_steps  # the losses after steps tail_start+1 … steps are averaged
    for step in range(1, steps + 1):
        updated = displacement - rate * power * (raw / gamma - 1.0)
        if step - 1 <= tail_start:
            if updated == displacement:
                return loss, peak, steps, False
            if updated == before:  # the tail alternates between the two losses, starting here with loss_before
                odd = (tail_start + 1 - step) % 2
                first, second = (loss_before, loss) if odd == 0 else (loss, loss_before)
                count = (tail_steps + 1) // 2
                return (first * count + second * (tail_steps - count)) / tail_steps, peak, steps, False
        before, displacement, loss_before = displacement, updated, loss
        raw, power = _powers(displacement, depth)
        if not abs(raw) <= bound:  # also true for NaN
            return np.nan, np.inf, step, True
        loss = 0.5 * (raw / gamma - 1.0) ** 2
        peak = max(peak, loss)
        if step > tail_start:
            tail_sum += loss
    return tail_sum / tail_steps, peak, steps, False


@njit(cache=True, parallel=True)
def _run_cells(gamma, eta, depth, steps, tail_steps, divergence, tail, peak, steps_run, diverged):  # type: ignore[no-untyped-def]
    for i in prange(gamma.size):
        bound = divergence * max(1.0, gamma[i])
        tail[i], peak[i], steps_run[i], diverged[i] = _run_cell(gamma[i], eta[i], depth, steps, tail_steps, bound)


def run_gradient_descent(
    gamma: NDArray[np.float64],
    eta: NDArray[np.float64],
    *,
    depth: int,
    steps: int,
    loss: str = "mse",
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> CellResults:
    """Run gradient descent on the scalar model, one run for each pair (γ, η).

    Args:
        gamma: feature-learning strengths, shape ``(cells,)``.
        eta: learning rates on each of the L separate weights, shape ``(cells,)`` (no width multiplier: N = 1).
        depth: number of weights L.
        steps: budget T in steps.
        loss: ``"mse"``.
        thresholds: the numbers in the definitions of the outcomes.

    Returns:
        One entry a cell; ``final_accuracy`` is NaN, since the model has no classes.

    Raises:
        InputError: a γ or η that is not positive, lengths that differ, L or T below 1, an unknown loss.
    """
    one_of("loss", loss, LOSSES)
    positive_integer("depth", depth)
    positive_integer("steps", steps)
    gamma, eta = positive_array("gamma", gamma).ravel(), positive_array("eta", eta).ravel()
    if gamma.size != eta.size and 1 not in {gamma.size, eta.size}:
        raise InputError("eta", eta.size, f"a single value, or as many as gamma has ({gamma.size})")
    gamma, eta = np.broadcast_arrays(gamma, eta)
    gamma, eta = np.ascontiguousarray(gamma), np.ascontiguousarray(eta)
    tail, peak = np.empty(gamma.size), np.empty(gamma.size)
    steps_run, diverged = np.empty(gamma.size, dtype=np.int64), np.empty(gamma.size, dtype=np.bool_)
    _run_cells(
        gamma, eta, depth, steps, thresholds.tail_steps(steps), thresholds.divergence, tail, peak, steps_run, diverged
    )
    initial = np.full(gamma.size, 0.5)
    return CellResults(
        outcome=classify(tail, peak, initial, diverged=diverged, thresholds=thresholds),
        final_loss=tail,
        initial_loss=initial,
        peak_loss=peak,
        final_accuracy=np.full(gamma.size, np.nan),
        steps_run=steps_run,
    )
