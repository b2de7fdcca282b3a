"""The discrete maps of the scalar deep linear model, compiled: gradient descent, heavy ball, sign descent.

L separate weights, all equal to w, on the loss ℓ(f) with f = (w^L − 1)/γ and w(0) = 1; g = (1/γ) w^{L−1} ℓ′(f):

    gradient descent   w ← w − η g
    heavy ball         v ← β v + g,  w ← w − η v,  v(0) = 0
    sign descent       w ← w − η sign(g)

The state is the displacement δ = w − 1 and w^L − 1 is summed from it: nothing cancels, so that γ = 1e-8 is as accurate
as γ = 1. A run is not iterated to its end where its end is known:

* it has diverged;
* its state has occurred before (found by Brent's method), so that the rest repeats it; the tail is summed from one
  period;
* L ≥ 3 is odd, w < 0, and the step of gradient descent leaves w ≤ 0. There f ≤ −1/γ, and the step is
  η|w|^{L−1}|ℓ′(f)|/γ, which divided by |w| grows with |w| (ℓ′ is monotone), so that no later step crosses zero either:
  w → 0⁻, and every later loss lies between ℓ(−1/γ) and the present one. These are awaited to be within about 10⁻⁶;
* it is slow, and its flow time certifies the outcome (``simulate.maps.slow_descent``);
* it is sign descent (``simulate.maps.sign_descent``).

With noise none of this applies (``simulate.maps.noise``).
"""

from __future__ import annotations

import numpy as np
from numba import parallel_chunksize, prange
from numpy.typing import ArrayLike

from simulate.maps.arguments import cells, loss_code, results
from simulate.maps.compiled import compiled
from simulate.maps.loops import CHUNK, run_heads, run_rest
from simulate.maps.losses import excess
from simulate.maps.noise import NO_NOISE, Noise, run_noisy
from simulate.maps.slow_descent import SLOW, flow_table, follow
from simulate.outcomes import DEFAULT_THRESHOLDS, CellResults, Thresholds
from theory.errors import InputError, positive_integer

SHORT = 2000
"""Budgets up to which every run is iterated: following one through the flow costs as much as a few thousand steps."""


@compiled(parallel=True)
def _follow_all(gamma, eta, order, starts, beta, depth, loss_code, steps, tail_steps, levels, slow, tail, decided):  # type: ignore[no-untyped-def]
    """Follow the slow cells, column by column; ``order`` sorts the cells by γ, ``starts`` says where a γ begins."""
    for column in prange(starts.size - 1):
        strength = gamma[order[starts[column]]]
        table = flow_table(strength, depth, loss_code)
        for j in range(starts[column], starts[column + 1]):
            i = order[j]
            holds, value, low, high = follow(eta[i], beta, steps, tail_steps, table, strength, depth, loss_code, slow)
            # every threshold that a name may hang on must lie outside the bounds
            clear = holds
            for level in levels:
                clear = clear and (high <= level or low > level)
            decided[i], tail[i] = clear, value


def run_gradient_descent(
    gamma: ArrayLike,
    eta: ArrayLike,
    *,
    depth: int,
    steps: int,
    loss: str = "mse",
    optimizer: str = "gd",
    beta: float = 0.9,
    noise: Noise = NO_NOISE,
    seed: ArrayLike = 0,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    certified: bool = True,
) -> CellResults:
    """Descend on the scalar model, one run for each pair (γ, η).

    Args:
        gamma: feature-learning strengths, shape ``(cells,)``.
        eta: learning rates on each of the L separate weights, shape ``(cells,)`` (no width multiplier: N = 1).
        depth: number of weights L.
        steps: budget T in steps.
        loss: ``"mse"`` or ``"cross-entropy"``.
        optimizer: ``"gd"``, ``"momentum"`` (heavy ball) or ``"sign"``.
        beta: momentum β in [0, 1), for ``"momentum"``.
        noise: of labels and batches; none by default.
        seed: of the noise, one integer or one a cell.
        thresholds: the numbers in the definitions of the outcomes.
        certified: leave out the iteration of runs whose outcome is certified. Their final loss then comes from the
            flow time, to about 10⁻⁵ of itself. (A loss that has settled is smaller than an iteration would show, whose
            residual stands still at about 1e-16 γ²/(ηL) when lazy and 1e-16 γ^{2/L}/η when rich.)

    Returns:
        One entry a cell; ``final_accuracy`` is NaN, since the model has no classes.

    Raises:
        InputError: a γ or η that is not positive, lengths that differ, L or T below 1, an unknown loss or optimizer, β
            outside [0, 1), a negative seed.
    """
    code = loss_code(loss, optimizer, beta, steps)
    positive_integer("depth", depth)
    gammas, etas = cells(gamma, eta)
    seeds = np.atleast_1d(np.asarray(seed, dtype=np.int64)).ravel()
    if seeds.size not in {1, gammas.size} or (seeds < 0).any():
        raise InputError("seed", seed, f"one integer >= 0, or one for each of {gammas.size} cells")
    seeds = np.ascontiguousarray(np.broadcast_to(seeds, gammas.size))
    momentum = beta if optimizer == "momentum" else 0.0
    tail_steps = thresholds.tail_steps(steps)
    if noise:
        tail, peak, steps_run, diverged = run_noisy(
            gammas, etas, seeds, noise=noise, beta=momentum, signed=optimizer == "sign", depth=depth, loss_code=code,
            steps=steps, tail_steps=tail_steps, divergence=thresholds.divergence,
        )  # fmt: skip
    else:
        count, start = gammas.size, excess(0.0, code)
        tail, peak, diverged = np.empty(count), np.full(count, start), np.zeros(count, dtype=np.bool_)
        steps_run = np.full(count, steps, dtype=np.int64)
        decided = np.zeros(count, dtype=np.bool_)
        if certified and steps > SHORT and optimizer != "sign":
            order = np.argsort(gammas, kind="stable")
            starts = np.append(np.unique(gammas[order], return_index=True)[1], count)
            levels = start * np.array([thresholds.level, thresholds.settle])
            with parallel_chunksize(1):
                _follow_all(
                    gammas, etas, order, starts, momentum, depth, code, steps, tail_steps, levels, SLOW, tail, decided
                )
        unfinished, states = np.zeros(count, dtype=np.bool_), np.empty((count, 3))
        found = (tail, peak, steps_run, diverged)
        common = (depth, code, steps, tail_steps, thresholds.divergence, certified, *found)
        with parallel_chunksize(CHUNK):
            open_cells = np.nonzero(~decided)[0]
            run_heads(gammas, etas, open_cells, momentum, optimizer == "sign", *common, unfinished, states)
        with parallel_chunksize(1):
            run_rest(gammas, etas, np.nonzero(unfinished)[0], *common, states)
    return results(tail, peak, steps_run, diverged, code, thresholds)
