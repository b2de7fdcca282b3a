"""Boundaries of the scalar deep linear model, measured on the discrete map as those of a network are."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulate.boundary import BoundaryPoints, TraceSettings, trace_boundaries
from simulate.gradient_descent import run_gradient_descent
from simulate.outcomes import DEFAULT_THRESHOLDS, CellResults, Thresholds
from simulate.portrait import axis
from theory import ToyModel
from theory.errors import positive_integer

TOY_TRACE = TraceSettings(coarse=0.1, resolution=1e-3, sections=8, guard_span=0.1, guard_spacing=0.01)
"""A toy cell costs microseconds: its boundaries are traced twenty times finer than those of networks."""


def trace_toy(
    *,
    loss: str = "mse",
    depth: int,
    gamma: ArrayLike,
    names: tuple[str, ...] = ("eta_min", "eta_crit"),
    steps: int = 10_000,
    settings: TraceSettings = TOY_TRACE,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> dict[str, BoundaryPoints]:
    """Trace boundaries of the toy model by multisection.

    The first scan reaches from a factor 10 below the predicted ``eta_min`` to a factor 10 above the predicted
    ``eta_crit``, so it holds the boundary wherever theory is right within that factor; where it is not, the scan is
    extended.

    Args:
        loss: ``"mse"``.
        depth: number of weights L.
        gamma: feature-learning strengths, ascending.
        names: boundaries to trace.
        steps: budget T in steps.
        settings: resolution of the trace.
        thresholds: the numbers in the definitions of the outcomes.

    Returns:
        The points of each boundary, with η on each of the L separate weights.

    Raises:
        InputError: a γ that is not positive, L or T below 1, an unknown loss or boundary.
    """
    gammas = axis("gamma", gamma)
    positive_integer("depth", depth)
    positive_integer("steps", steps)
    model = ToyModel(loss=loss, optimizer="gd")
    eta_min, eta_crit = model.boundary("eta_min"), model.boundary("eta_crit")

    def span(one: float) -> tuple[float, float]:
        point = np.array([one])
        slowest = float(eta_min.numeric(gamma=point, depth=depth, steps=steps, level=thresholds.level)[0])
        edge = float(eta_crit.numeric(gamma=point, depth=depth)[0])
        return min(slowest, edge) / 10, edge * 10

    def run(gamma: NDArray[np.float64], eta: NDArray[np.float64], _seed: NDArray[np.int64]) -> CellResults:
        return run_gradient_descent(gamma, eta, depth=depth, steps=steps, loss=loss, thresholds=thresholds)

    return trace_boundaries(run, gammas, names, span, settings=settings, noise_free=True, thresholds=thresholds)
