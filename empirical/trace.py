"""Traces the boundaries of networks, starting where the toy's exact law says they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from empirical.law import law_depth
from empirical.optimizers import DEFAULT_BETA
from empirical.shard import TrainingConfig
from empirical.star import Recording, trace_star
from empirical.sweep import Sweep
from simulate import BoundaryPoints, ScalingFit, TraceSettings, fit_power_law, trace_boundaries
from theory import FitWindow, ToyModel, fit_window
from theory.errors import one_of

LAW_OF = {
    "eta_min": "eta_min",
    "eta_crit": "eta_crit",
    "eta_fail": "eta_crit",
    "eta_max": "eta_max",
    "eta_star": "eta_crit",
}
"""The law that each measured boundary is held against: where a run starts to fail, and the η of least final loss,
follow eta_crit's."""

NETWORK_TRACE = TraceSettings(coarse=0.54, resolution=0.01, sections=3, guard_span=0.2, guard_spacing=0.07)
"""Spacings of a trace on networks, where a cell costs a training run.

Thirds need fewer cells than finer cuts and fewer rounds than halves; 0.54 is 27 brackets of 0.02. One boundary traced
to 0.02 decades takes 8 % or less of the cell-steps of a grid of that spacing over six decades."""

_IDENTITY = ("arch", "variant", "depth", "loss", "optimizer")
BOUNDARY_COLUMNS = [*_IDENTITY, "steps", "seed", "boundary", "gamma", "eta", "eta_low", "eta_high"]
EXPONENT_COLUMNS = [
    *(*_IDENTITY, "boundary", "regime", "predicted", "predicted_by", "predicted_window", "fitted"),
    *("ci_low", "ci_high", "n_points", "gamma_low", "gamma_high", "verdict"),
]


def toy_law(boundary: str, loss: str, optimizer: str) -> tuple[ToyModel, str]:
    """The toy whose boundary a measured one is held against.

    Args:
        boundary: one of ``LAW_OF``.
        loss: of the networks.
        optimizer: of the networks; Adam is held against its caricature, sign descent.

    Returns:
        The model, and the name of its boundary: under sign descent, which has no linear stability, every upper boundary
        is its eta_max; the heavy ball, whose divergence has no theory, is held against eta_crit there.
    """
    model = ToyModel(loss=loss, optimizer="sign" if optimizer == "adam" else optimizer)
    name = LAW_OF[boundary]
    if name not in model.boundary_names:
        name = "eta_max" if model.optimizer == "sign" else "eta_crit"
    return model, name


def exact_law(
    boundary: str,
    gamma: ArrayLike,
    *,
    depth: int,
    steps: int,
    level: float = 0.9,
    loss: str = "mse",
    optimizer: str = "gd",
    beta: float = DEFAULT_BETA,
) -> NDArray[np.float64]:
    """The exact toy law that a measured boundary is held against.

    Args:
        boundary: ``eta_min``, ``eta_crit``, ``eta_fail`` (held against eta_crit's law) or ``eta_max``.
        gamma: feature-learning strengths, any shape.
        depth: weight layers L.
        steps: budget T.
        level: share of the initial loss that counts as trained; under sign descent the output may end √level off.
        loss: ``mse`` or ``cross-entropy``.
        optimizer: ``gd``, ``momentum``, ``sign``, or ``adam`` (as sign).
        beta: momentum β.

    Returns:
        η on each of the L separate weights, same shape.
    """
    model, name = toy_law(boundary, loss, optimizer)
    strengths = np.asarray(gamma, dtype=np.float64)
    return model.boundary(name).numeric(
        gamma=strengths, depth=depth, steps=steps, level=level, beta=beta, delta=level**0.5
    )


def asymptotic_exponent(boundary: str, regime: str, depth: int, loss: str = "mse", optimizer: str = "gd") -> float:
    """Exponent of the law's limit, by depth.

    Args:
        boundary: one of ``LAW_OF``.
        regime: ``lazy`` or ``rich``.
        depth: weight layers L.
        loss: of the networks.
        optimizer: of the networks.

    Returns:
        For gradient descent on MSE 2 when lazy; when rich 2/L, or 1 for ``eta_min`` (whose law at L = 2 is γ ln γ,
        counted as 1).
    """
    model, name = toy_law(boundary, loss, optimizer)
    return float(model.boundary(name).limit("lazy" if regime == "lazy" else "rich", depth).exponent)


LAZY_TOLERANCE = 0.005
"""A lazy window ends where the exact local exponent is this far from its limit. Nothing closes the plane on that side,
so it can be small: a fit good to 0.004 would otherwise resolve the toy's own first correction, which networks do not
share."""

RICH_TOLERANCE = 0.02
"""A rich window begins where the exact local exponent is this close to its limit."""

MARGIN = 20.0
"""Least ``eta_crit / eta_min`` in a rich window: it stays this far below the apex of the triangle."""


def default_window(
    depth: int,
    regime: str,
    steps: int,
    gamma_range: tuple[float, float],
    *,
    lazy_tolerance: float = LAZY_TOLERANCE,
    rich_tolerance: float = RICH_TOLERANCE,
    margin: float = MARGIN,
    level: float = 0.9,
    boundary: str = "eta_crit",
    loss: str = "mse",
    optimizer: str = "gd",
    beta: float = DEFAULT_BETA,
) -> FitWindow:
    """Fit window for networks, from theory alone.

    Args:
        depth: weight layers L.
        regime: ``lazy`` or ``rich``.
        steps: budget T.
        gamma_range: least and largest γ at hand.
        lazy_tolerance: distance of the exact local exponent from its limit at the end of a lazy window.
        rich_tolerance: the same at the beginning of a rich one.
        margin: least ``eta_crit / eta_min`` in a rich window.
        level: share of the initial loss that counts as trained.
        boundary: what will be fitted; eta_max of cross-entropy has a window of its own.
        loss: of the networks.
        optimizer: of the networks.
        beta: momentum β.

    Returns:
        The window; an ``InputError`` says why when there is none.
    """
    lazy = one_of("regime", regime, ("lazy", "rich")) == "lazy"
    model, name = toy_law(boundary, loss, optimizer)
    if depth == 1:  # the toy has one slope and no crossover; a network of degree 1 has one, placed where depth 2 has it
        low, high = gamma_range
        gamma_range = (low, min(high, lazy_tolerance)) if lazy else (max(low, 1 / rich_tolerance), high)
    return fit_window(
        name if name == "eta_max" else model.boundary_names[1],  # eta_min shares the window of the edge
        depth,
        "lazy" if lazy else "rich",
        steps,
        tolerance=lazy_tolerance if lazy else rich_tolerance,
        margin=margin,
        gamma_range=gamma_range,
        level=level,
        loss=loss,
        optimizer=model.optimizer,
        beta=beta,
        delta=level**0.5,
    )


def law_of(config: TrainingConfig) -> dict[str, Any]:
    """What the toy's law needs to know of a training configuration.

    Args:
        config: what is trained.

    Returns:
        Arguments of ``exact_law`` by name; ``depth`` is the Euler degree for networks that are not homogeneous in their
        weights (``law_depth``).
    """
    law = {name: getattr(config, name) for name in ("steps", "loss", "optimizer", "beta")}
    return law | {"depth": law_depth(config)[0], "level": config.thresholds.level}


def trace_networks(
    sweep: Sweep,
    gamma: NDArray[np.float64],
    names: tuple[str, ...],
    *,
    seeds: int,
    first_seed: int = 0,
    settings: TraceSettings = NETWORK_TRACE,
) -> dict[str, BoundaryPoints]:
    """Trace boundaries of the networks of a sweep.

    The first scan runs from the toy's exact ``eta_min`` to ten times its ``eta_crit``, or ``eta_max`` where that is
    traced; it is extended where a network's boundary lies outside. ``eta_star`` is found among the cells of the others
    and some between them (``star``).

    Args:
        sweep: what is trained, and where results are kept.
        gamma: feature-learning strengths.
        names: boundaries to trace.
        seeds: number of seeds.
        first_seed: the first of them.
        settings: spacings and resolution.

    Returns:
        The points of each boundary.
    """
    config = sweep.config
    law = law_of(config)
    below = tuple(name for name in names if name != "eta_star") or ("eta_crit",)  # what is seen from below
    recording, every = Recording(sweep.run_cells), tuple(range(first_seed, first_seed + seeds))
    top = "eta_max" if "eta_max" in names else "eta_crit"

    def span(one: float) -> tuple[float, float]:
        low = float(exact_law("eta_min", one, **law))
        return min(low, float(exact_law("eta_crit", one, **law))), 10 * float(exact_law(top, one, **law))

    points = trace_boundaries(
        recording,
        gamma,
        below,
        span,
        seeds=every,
        settings=settings,
        thresholds=config.thresholds,
    )
    if "eta_star" in names:
        points["eta_star"] = trace_star(recording, gamma, every)
    return {name: points[name] for name in names}


def expected_cells(
    config: TrainingConfig, gamma: NDArray[np.float64], boundaries: int, seeds: int, settings: TraceSettings
) -> int:
    """Rough size of a trace, for the time left.

    Args:
        config: what is trained.
        gamma: feature-learning strengths.
        boundaries: number of boundaries traced.
        seeds: number of seeds.
        settings: spacings of the trace.

    Returns:
        Cells of the first scan, of the rounds of cuts and of the guard; boundaries share half of theirs.
    """
    law = law_of(config)
    ratio = 10 * exact_law("eta_crit", gamma, **law) / exact_law("eta_min", gamma, **law)
    scan = float(np.ceil(np.log10(np.maximum(ratio, 10)) / settings.coarse).sum()) + len(gamma)
    rounds = np.ceil(np.log(max(settings.coarse / settings.resolution, 1)) / np.log(settings.sections) - 1e-9)
    cuts = rounds * (settings.sections - 1) + settings.guard_span / settings.guard_spacing
    return round(seeds * (scan + len(gamma) * cuts * (1 + 0.5 * (boundaries - 1))))


def fit_boundary(points: BoundaryPoints, window: FitWindow, **law: Any) -> ScalingFit:
    """Fit a boundary on a window and hold it against the exact law over the same points.

    Args:
        points: traced points; at least one.
        window: chosen beforehand, from theory.
        **law: arguments of ``exact_law``, such as ``law_of`` gives them.

    Returns:
        The fit and its verdict.
    """
    which = {name: law[name] for name in ("loss", "optimizer") if name in law}
    return fit_power_law(
        points.gamma,
        points.eta,
        eta_low=points.eta_low,
        eta_high=points.eta_high,
        seed=points.seed,
        window=(window.low, window.high),
        predicted=asymptotic_exponent(points.name, window.regime, law["depth"], **which),
        law=exact_law(points.name, points.gamma, **law),
    )


def boundary_rows(points: BoundaryPoints, steps: int, **identity: str | int) -> pd.DataFrame:
    """Points as rows of ``boundaries.csv``.

    Args:
        points: traced, or read off a portrait.
        steps: budget T.
        **identity: ``arch, variant, depth, loss, optimizer``.

    Returns:
        One row a point, in the columns of the contract.
    """
    return points.table().assign(steps=steps, **identity)[BOUNDARY_COLUMNS]


def exponent_row(
    fit: ScalingFit, boundary: str, regime: str, *, predicted_by: str = "depth", **identity: str | int
) -> dict[str, str | int | float]:
    """A fit as a row of ``exponents.csv``.

    Args:
        fit: the fit.
        boundary: what was fitted.
        regime: ``lazy`` or ``rich``.
        predicted_by: whose law the fit is held against: the network's ``depth`` or its ``euler_degree``.
        **identity: ``arch, variant, depth, loss, optimizer``.

    Returns:
        The row; ``ci_low`` and ``ci_high`` end the 95 % interval.
    """
    row: dict[str, str | int | float] = dict(identity)
    row |= {"boundary": boundary, "regime": regime, "predicted": fit.predicted, "predicted_by": predicted_by}
    row |= {"predicted_window": fit.predicted_window, "fitted": fit.exponent, "ci_low": fit.interval[0]}
    row |= {"ci_high": fit.interval[1], "n_points": fit.n_points, "gamma_low": fit.window[0]}
    return row | {"gamma_high": fit.window[1], "verdict": fit.verdict}
