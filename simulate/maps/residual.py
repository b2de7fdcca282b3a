"""Gradient descent on residual toys of separate weights, compiled: what large learning rates do to the Euler degree.

A readout a, a stream that starts as c, B blocks of two weights u, v in stages, and a shortcut weight w at the entrance
of every stage but the first; s = B^{−1/2}:

    normalised branches:   h ← w h + s u v,        plain branches:   h ← w h + s u v h,        F = a h,

with w = 1 within a stage. One example x = 1 with target y = 1, f = (F − F₀)/γ, loss (f − 1)²/2, and every weight steps
by η ∂ℓ/∂θ. Where all weights of a stage start equal and η is small this is the gradient flow of ``theory.residual``.
Where η is near the boundary it is not: on the edge of stability descent slides to flatter minima, of lower degree D,
and stays there over decades of γ, while the boundary goes with γ as that of the flow.

F − F₀ is a difference: f has a relative error of about 1e-16 F₀/γ, which matters for γ below 1e-8.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import parallel_chunksize, prange
from numpy.typing import ArrayLike, NDArray

from simulate.maps.arguments import cells, results
from simulate.maps.compiled import compiled
from simulate.maps.losses import LOSS_CODES
from simulate.outcomes import DEFAULT_THRESHOLDS, CellResults, Thresholds
from theory.errors import InputError, positive_integer, positive_number

FloatArray = NDArray[np.float64]

_CELLS_A_TASK = 16
_READOUT, _STREAM, _FIRST = range(3)


@dataclass(frozen=True)
class ResidualStages:
    """The blocks of a residual toy.

    Attributes:
        blocks: number of blocks of each stage.
        normalized: whether branches read a stream of size 1.

    Raises:
        InputError: no stage, or one without a block.
    """

    blocks: tuple[int, ...]
    normalized: bool = True

    def __post_init__(self) -> None:
        if not self.blocks:
            raise InputError("blocks", self.blocks, "at least one stage")
        for count in self.blocks:
            positive_integer("blocks", count)

    @cached_property
    def shortcuts(self) -> NDArray[np.int64]:
        """Place of the shortcut weight of each block among the weights; 0 where it has none; shape ``(B,)``."""
        count, out = sum(self.blocks), np.zeros(sum(self.blocks), dtype=np.int64)
        starts = np.cumsum(self.blocks)[:-1]
        out[starts] = _FIRST + 2 * count + np.arange(len(starts))
        return out

    @property
    def size(self) -> int:
        """Number of weights: a, c, two a block, then the shortcuts."""
        return 2 + 2 * sum(self.blocks) + len(self.blocks) - 1

    @property
    def settled_degree(self) -> int:
        """D∞, the degree of F at large weights."""
        return 2 + len(self.blocks) if self.normalized else 2 + 2 * sum(self.blocks)

    def starts(self, seed: ArrayLike, *, size: float = 1.0, spread: float = 0.3) -> FloatArray:
        """Draw weights that are log-normal, so that every term of F is positive.

        Args:
            seed: one a network.
            size: median weight.
            spread: standard deviation of ln θ; 0 gives equal weights.

        Returns:
            θ₀, shape ``(networks, size)``.

        Raises:
            InputError: a size that is not positive, a negative spread or seed.
        """
        positive_number("size", size)
        if not spread >= 0:
            raise InputError("spread", spread, "a number >= 0")
        seeds = np.atleast_1d(np.asarray(seed, dtype=np.int64))
        if (seeds < 0).any():
            raise InputError("seed", seed, "integers >= 0")
        drawn = {int(s): np.random.default_rng(int(s)).standard_normal(self.size) for s in np.unique(seeds)}
        return size * np.exp(spread * np.array([drawn[int(s)] for s in seeds]))


@dataclass(frozen=True)
class ResidualRuns:
    """Ends of runs; every array has one entry a cell.

    Attributes:
        cells: outcomes and losses.
        degree: Euler degree D = θ·∇F/F after the last step; NaN once diverged.
        sharpness: |∇F|²/γ² there, the curvature of the loss along the gradient of F.
    """

    cells: CellResults
    degree: FloatArray
    sharpness: FloatArray


@compiled(inline="always")
def _gradient(theta, shortcuts, normalized, scale, streams, gradient):  # type: ignore[no-untyped-def]
    """Return F and fill ``gradient``; ``streams`` has the stream before each block, and after the last."""
    streams[0] = theta[_STREAM]
    for block in range(shortcuts.size):
        branch = scale * theta[_FIRST + 2 * block] * theta[_FIRST + 2 * block + 1]
        h = streams[block]
        kept = h if shortcuts[block] == 0 else theta[shortcuts[block]] * h
        streams[block + 1] = kept + (branch if normalized else branch * h)
    top = streams[shortcuts.size]
    gradient[_READOUT] = top
    back = theta[_READOUT]  # ∂F/∂h
    for block in range(shortcuts.size - 1, -1, -1):
        u, v, h = _FIRST + 2 * block, _FIRST + 2 * block + 1, streams[block]
        pull = back * scale * (1.0 if normalized else h)
        gradient[u], gradient[v] = pull * theta[v], pull * theta[u]
        through = 0.0 if normalized else scale * theta[u] * theta[v]
        if shortcuts[block] == 0:
            through += 1.0
        else:
            gradient[shortcuts[block]] = back * h
            through += theta[shortcuts[block]]
        back *= through
    gradient[_STREAM] = back
    return theta[_READOUT] * top


@compiled(parallel=True)
def _descend(  # type: ignore[no-untyped-def]
    gamma, eta, starts, shortcuts, normalized, steps, tail_steps, divergence,
    tail, peak, steps_run, diverged, degree, sharpness,
):  # fmt: skip
    scale = shortcuts.size**-0.5
    for i in prange(gamma.size):
        theta, gradient, streams = starts[i].copy(), np.empty(starts.shape[1]), np.empty(shortcuts.size + 1)
        first = _gradient(theta, shortcuts, normalized, scale, streams, gradient)
        bound, rate, f, total, highest = divergence * max(1.0, gamma[i]), eta[i] / gamma[i], 0.0, 0.0, 0.5
        steps_run[i], diverged[i] = steps, False
        for step in range(1, steps + 1):
            for j in range(theta.size):
                theta[j] -= rate * (f - 1.0) * gradient[j]
            raw = _gradient(theta, shortcuts, normalized, scale, streams, gradient) - first
            if not abs(raw) <= bound:  # also true for NaN
                steps_run[i], diverged[i] = step, True
                break
            f = raw / gamma[i]
            loss = 0.5 * (f - 1.0) ** 2
            highest = max(highest, loss)
            if step > steps - tail_steps:
                total += loss
        if diverged[i]:
            tail[i], peak[i], degree[i], sharpness[i] = np.nan, np.inf, np.nan, np.nan
            continue
        along, square = 0.0, 0.0
        for j in range(theta.size):
            along += theta[j] * gradient[j]
            square += gradient[j] ** 2
        tail[i], peak[i] = total / tail_steps, highest
        degree[i], sharpness[i] = along / (raw + first), square / gamma[i] ** 2


def run_residual(
    gamma: ArrayLike,
    eta: ArrayLike,
    *,
    network: ResidualStages,
    steps: int,
    seed: ArrayLike = 0,
    size: float = 1.0,
    spread: float = 0.3,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> ResidualRuns:
    """Train residual toys by gradient descent, one run for each (γ, η, seed).

    Args:
        gamma: feature-learning strengths, shape ``(cells,)``.
        eta: learning rates on each weight, shape ``(cells,)`` (no width multiplier).
        network: the blocks.
        steps: budget T in steps t.
        seed: of the start, one or one a cell.
        size: as in ``ResidualStages.starts``.
        spread: likewise.
        thresholds: the numbers in the definitions of the outcomes.

    Returns:
        Ends of the runs.

    Raises:
        InputError: a γ or η that is not positive, lengths that differ, T below 1, a start that cannot be.
    """
    positive_integer("steps", steps)
    gammas, etas = cells(gamma, eta)
    seeds = np.atleast_1d(np.asarray(seed, dtype=np.int64)).ravel()
    if seeds.size not in {1, gammas.size}:
        raise InputError("seed", seeds.size, f"one integer >= 0, or one for each of {gammas.size} cells")
    starts = np.ascontiguousarray(
        np.broadcast_to(network.starts(seeds, size=size, spread=spread), (gammas.size, network.size))
    )
    tail, peak, degree, sharpness = np.empty((4, gammas.size))
    steps_run, diverged = np.empty(gammas.size, dtype=np.int64), np.empty(gammas.size, dtype=np.bool_)
    with parallel_chunksize(_CELLS_A_TASK):
        _descend(
            gammas, etas, starts, network.shortcuts, network.normalized, steps, thresholds.tail_steps(steps),
            thresholds.divergence, tail, peak, steps_run, diverged, degree, sharpness,
        )  # fmt: skip
    ends = results(tail, peak, steps_run, diverged, LOSS_CODES["mse"], thresholds)
    return ResidualRuns(ends, degree, sharpness)
