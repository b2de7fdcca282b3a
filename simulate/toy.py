"""Boundaries of the scalar deep linear model, measured on the discrete map as those of a network are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulate.boundary import BoundaryPoints, TraceSettings, trace_boundaries
from simulate.gradient_descent import run_gradient_descent
from simulate.maps.noise import NO_NOISE, Noise
from simulate.outcomes import DEFAULT_THRESHOLDS, CellResults, Thresholds
from simulate.portrait import axis
from theory import ToyModel
from theory.errors import InputError, one_of, positive_integer, positive_number

TOY_TRACE = TraceSettings(coarse=0.1, resolution=1e-3, sections=8, guard_span=0.3, guard_spacing=2e-3)
"""A toy cell costs microseconds: its boundaries are traced twenty times finer than those of networks."""


def _span(model: ToyModel, loss: str, depth: int, steps: int, beta: float, thresholds: Thresholds) -> SpanOf:
    """The first scan of each γ: from a tenth of the predicted eta_min to ten times the highest predicted boundary."""
    # a sign descent that settles hops around the minimum with a loss of ``settle`` L₀: f is off by about √settle
    given = {"depth": depth, "steps": steps, "level": thresholds.level, "beta": beta, "delta": thresholds.settle**0.5}
    tops = [name for name in model.boundary_names if name != "eta_min"]

    def span(one: float) -> tuple[float, float]:
        at = {
            name: float(model.boundary(name).numeric(gamma=np.array([one]), **given)[0]) for name in ("eta_min", *tops)
        }
        high = max(at[name] for name in tops)
        return min(at["eta_min"], high) / 10, high * 10

    return span


SpanOf = Callable[[float], tuple[float, float]]


def trace_toy(
    *,
    loss: str = "mse",
    depth: int,
    gamma: ArrayLike,
    names: tuple[str, ...] = ("eta_min", "eta_crit"),
    steps: int = 10_000,
    optimizer: str = "gd",
    beta: float = 0.9,
    noise: Noise = NO_NOISE,
    seeds: tuple[int, ...] = (0,),
    settings: TraceSettings = TOY_TRACE,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> dict[str, BoundaryPoints]:
    """Trace boundaries of the toy model by multisection.

    The first scan reaches from a factor 10 below the predicted ``eta_min`` to a factor 10 above the highest predicted
    boundary, so it holds the boundary wherever theory is right within that factor; where it is not, the scan is
    extended.

    Args:
        loss: ``"mse"`` or ``"cross-entropy"``.
        depth: number of weights L.
        gamma: feature-learning strengths, ascending.
        names: boundaries to trace.
        steps: budget T in steps.
        optimizer: ``"gd"``, ``"momentum"`` (heavy ball) or ``"sign"``.
        beta: momentum β in [0, 1), for ``"momentum"``.
        noise: of labels and batches; with it cells cannot settle, and ``eta_crit`` is the first cell that has not
            trained.
        seeds: of the noise; one line for each γ and each of them.
        settings: resolution of the trace.
        thresholds: the numbers in the definitions of the outcomes.

    Returns:
        The points of each boundary, with η on each of the L separate weights.

    Raises:
        InputError: a γ that is not positive, L or T below 1, an unknown loss, optimizer or boundary.
    """
    gammas = axis("gamma", gamma)
    positive_integer("depth", depth)
    positive_integer("steps", steps)
    model = ToyModel(loss=loss, optimizer=optimizer)

    def run(gamma: NDArray[np.float64], eta: NDArray[np.float64], seed: NDArray[np.int64]) -> CellResults:
        return run_gradient_descent(
            gamma, eta, depth=depth, steps=steps, loss=loss, optimizer=optimizer, beta=beta, noise=noise, seed=seed,
            thresholds=thresholds,
        )  # fmt: skip

    return trace_boundaries(
        run,
        gammas,
        names,
        _span(model, loss, depth, steps, beta, thresholds),
        seeds=seeds,
        settings=settings,
        noise_free=not noise,
        thresholds=thresholds,
    )


_APEX_RATES = 49  # learning rates tried at each γ of the search for the apex


@dataclass(frozen=True)
class Apex:
    """The γ above which nothing trains within T steps at a stable learning rate.

    Attributes:
        gamma: the apex: geometric mean of the bracket.
        gamma_low: largest γ found at which something trains.
        gamma_high: smallest γ found at which nothing does.
        predicted: the apex of theory, from gradient flow.
    """

    gamma: float
    gamma_low: float
    gamma_high: float
    predicted: float


def find_apex(
    *,
    loss: str = "mse",
    depth: int,
    steps: int,
    optimizer: str = "gd",
    beta: float = 0.9,
    resolution: float = 1e-3,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> Apex:
    """Find the apex of the triangle of optimizability on the discrete map.

    At each γ runs are made at learning rates from below the predicted eta_min up to the exact eta_crit, above which the
    minimum is not linearly stable. The γ at which the last of them stops being trained within T steps is found by
    bisection. It lies below the prediction from gradient flow by the share of the budget that is spent at large steps:
    2.6 % at L = 3 and T = 1000; by orders of magnitude at L = 2, where every step on the plateau is large.

    Args:
        loss: ``"mse"`` or ``"cross-entropy"``.
        depth: number of weights L, at least 2: for L = 1 the window never closes.
        steps: budget T in steps.
        optimizer: ``"gd"`` or ``"momentum"``; under sign descent nothing is linearly stable.
        beta: momentum β in [0, 1), for ``"momentum"``.
        resolution: width of the final bracket in decades of γ.
        thresholds: the numbers in the definitions of the outcomes.

    Returns:
        The apex, with its bracket and the prediction.

    Raises:
        InputError: L below 2, T below 1, an optimizer without linear stability, no apex within float64.
    """
    positive_integer("depth", depth, least=2)
    positive_integer("steps", steps)
    positive_number("resolution", resolution)
    one_of("optimizer", optimizer, ("gd", "momentum"))
    model = ToyModel(loss=loss, optimizer=optimizer)
    edge, slowest = model.boundary("eta_crit"), model.boundary("eta_min")
    predicted = model.apex(steps=steps, depth=depth, level=thresholds.level, beta=beta)

    def trains(exponent: float) -> bool:
        at = np.array([10.0**exponent])
        top = float(edge.numeric(gamma=at, depth=depth, beta=beta)[0])
        least = float(slowest.numeric(gamma=at, depth=depth, steps=steps, level=thresholds.level, beta=beta)[0])
        eta = np.geomspace(min(0.5 * least, 0.9 * top), top, _APEX_RATES)
        cells = run_gradient_descent(
            at, eta, depth=depth, steps=steps, loss=loss, optimizer=optimizer, beta=beta, thresholds=thresholds
        )
        return bool((cells.final_loss <= thresholds.level * cells.initial_loss).any())

    if not 1e-150 < predicted < 1e150:
        raise InputError(
            "steps", steps, f"a budget whose apex can be simulated; it is predicted at gamma = {predicted}"
        )
    low = high = np.log10(predicted)
    while not trains(low):
        low -= 0.5
        if low < -200:
            raise InputError("steps", steps, "a budget within which something trains")
    while trains(high):
        high += 0.5
    while high - low > resolution:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if trains(middle) else (low, middle)
    return Apex(float(10 ** (0.5 * (low + high))), float(10**low), float(10**high), predicted)
