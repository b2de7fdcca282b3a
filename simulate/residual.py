"""Boundaries of residual toys under gradient descent, and the Euler degree on both sides of the edge of stability.

The map is in ``simulate.maps.residual``; outcomes, boundaries and tracing are those of trained networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulate.boundary import BoundaryPoints, TraceSettings, trace_boundaries
from simulate.maps.residual import ResidualRuns, ResidualStages, run_residual
from simulate.outcomes import DEFAULT_THRESHOLDS, CellResults, Thresholds
from simulate.portrait import axis
from theory.errors import InputError, positive_integer

BELOW_CRIT = 1.5
"""How far below eta_crit the Euler degree is measured: here, and in the campaigns below a rough bracket."""

SLOW = 16
"""How many times slower than that, and longer, a run counts as slow."""

UPPER = ("eta_crit", "eta_fail", "eta_max")


@dataclass(frozen=True)
class ResidualTrace:
    """Boundaries of a residual toy, and runs below them.

    Attributes:
        points: traced points by boundary; ``eta_crit`` is the first cell that is not ``trained``, as for networks.
        near: runs of T steps, ``BELOW_CRIT`` times below each point of eta_crit, in its order.
        slow: the same networks ``SLOW`` times slower and longer: ηT is the same.
    """

    points: dict[str, BoundaryPoints]
    near: ResidualRuns
    slow: ResidualRuns


def trace_residual(
    *,
    network: ResidualStages,
    gamma: ArrayLike,
    steps: int,
    seeds: tuple[int, ...] = (0, 1, 2, 3),
    size: float = 1.0,
    spread: float = 0.3,
    settings: TraceSettings | None = None,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> ResidualTrace:
    """Trace the upper boundaries of a residual toy and train it below them.

    Args:
        network: the blocks.
        gamma: feature-learning strengths, ascending; above about 1, where a law in γ^{2/D} says where to look.
        steps: budget T in steps t.
        seeds: of the starts; one line for each γ and each of them.
        size: as in ``ResidualStages.starts``.
        spread: likewise.
        settings: resolution of the trace; the defaults of ``TraceSettings`` when ``None``.
        thresholds: the numbers in the definitions of the outcomes.

    Returns:
        The points, with η on each weight, and the runs.

    Raises:
        InputError: a γ that is not positive or does not ascend, T below 1, a start that cannot be; no eta_crit.
    """
    gammas = axis("gamma", gamma)
    positive_integer("steps", steps)

    def train(
        gamma: NDArray[np.float64], eta: NDArray[np.float64], seed: NDArray[np.int64], steps: int
    ) -> ResidualRuns:
        return run_residual(
            gamma, eta, network=network, steps=steps, seed=seed, size=size, spread=spread, thresholds=thresholds
        )  # fmt: skip

    def run(gamma: NDArray[np.float64], eta: NDArray[np.float64], seed: NDArray[np.int64]) -> CellResults:
        return train(gamma, eta, seed, steps).cells

    def span(one: float) -> tuple[float, float]:
        middle = one ** (2 / network.settled_degree)
        return middle / 100, middle * 100

    points = trace_boundaries(run, gammas, UPPER, span, seeds=seeds, settings=settings, thresholds=thresholds)
    crit = points["eta_crit"]
    if not len(crit):
        raise InputError("gamma", (gammas[0], gammas[-1]), f"where something trains within steps = {steps}")
    near = crit.eta_low / BELOW_CRIT
    return ResidualTrace(
        points, train(crit.gamma, near, crit.seed, steps), train(crit.gamma, near / SLOW, crit.seed, SLOW * steps)
    )
