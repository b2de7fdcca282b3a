"""Traces the boundaries of networks, starting where the toy's exact law says they are."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from empirical.shard import TrainingConfig
from empirical.sweep import Sweep
from simulate import BoundaryPoints, ScalingFit, TraceSettings, fit_power_law, trace_boundaries
from theory import FitWindow, ToyModel, fit_window
from theory.errors import one_of

LAW_OF = {"eta_min": "eta_min", "eta_crit": "eta_crit", "eta_fail": "eta_crit", "eta_max": "eta_max"}
"""The law that each measured boundary is held against: where a run starts to fail follows eta_crit's."""

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


def exact_law(
    boundary: str, gamma: ArrayLike, *, depth: int, steps: int, level: float = 0.9, loss: str = "mse"
) -> NDArray[np.float64]:
    """The exact toy law that a measured boundary is held against.

    Args:
        boundary: ``eta_min``, ``eta_crit``, ``eta_fail`` (held against eta_crit's law) or ``eta_max``.
        gamma: feature-learning strengths, any shape.
        depth: weight layers L.
        steps: budget T.
        level: share of the initial loss that counts as trained.
        loss: ``mse``.

    Returns:
        η on each of the L separate weights, same shape.
    """
    law = ToyModel(loss=loss, optimizer="gd").boundary(LAW_OF[boundary])
    gamma = np.asarray(gamma, dtype=np.float64)
    if boundary == "eta_min":
        return law.numeric(gamma=gamma, depth=depth, steps=steps, level=level)
    return law.numeric(gamma=gamma, depth=depth)


def asymptotic_exponent(boundary: str, regime: str, depth: int) -> float:
    """Exponent of the law's limit, by depth.

    Args:
        boundary: one of ``LAW_OF``.
        regime: ``lazy`` or ``rich``.
        depth: weight layers L.

    Returns:
        2 when lazy; when rich 2/L, or 1 for ``eta_min`` (whose law at L = 2 is γ ln γ, counted as 1).
    """
    if regime == "lazy":
        return 2.0
    return 1.0 if boundary == "eta_min" else 2.0 / depth


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

    Returns:
        The window; an ``InputError`` says why when there is none.
    """
    lazy = one_of("regime", regime, ("lazy", "rich")) == "lazy"
    return fit_window(
        "eta_crit",
        depth,
        "lazy" if lazy else "rich",
        steps,
        tolerance=lazy_tolerance if lazy else rich_tolerance,
        margin=margin,
        gamma_range=gamma_range,
        level=level,
    )


def trace_networks(
    sweep: Sweep,
    gamma: NDArray[np.float64],
    names: tuple[str, ...],
    *,
    seeds: int,
    settings: TraceSettings = NETWORK_TRACE,
) -> dict[str, BoundaryPoints]:
    """Trace boundaries of the networks of a sweep.

    The first scan runs from the toy's exact ``eta_min`` to ten times its ``eta_crit``; it is extended where a network's
    boundary lies outside.

    Args:
        sweep: what is trained, and where results are kept.
        gamma: feature-learning strengths.
        names: boundaries to trace.
        seeds: number of seeds, from 0.
        settings: spacings and resolution.

    Returns:
        The points of each boundary.
    """
    config = sweep.config
    law = {"depth": config.depth, "steps": config.steps, "level": config.thresholds.level, "loss": config.loss}

    def span(one: float) -> tuple[float, float]:
        low = float(exact_law("eta_min", one, **law))  # type: ignore[arg-type]
        edge = float(exact_law("eta_crit", one, **law))  # type: ignore[arg-type]
        return min(low, edge), 10 * edge

    return trace_boundaries(
        sweep.run_cells,
        gamma,
        names,
        span,
        seeds=tuple(range(seeds)),
        settings=settings,
        thresholds=config.thresholds,
    )


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
    law = {"depth": config.depth, "steps": config.steps, "level": config.thresholds.level}
    ratio = 10 * exact_law("eta_crit", gamma, **law) / exact_law("eta_min", gamma, **law)  # type: ignore[arg-type]
    scan = float(np.ceil(np.log10(np.maximum(ratio, 10)) / settings.coarse).sum()) + len(gamma)
    rounds = np.ceil(np.log(max(settings.coarse / settings.resolution, 1)) / np.log(settings.sections) - 1e-9)
    cuts = rounds * (settings.sections - 1) + settings.guard_span / settings.guard_spacing
    return round(seeds * (scan + len(gamma) * cuts * (1 + 0.5 * (boundaries - 1))))


def fit_boundary(
    points: BoundaryPoints, window: FitWindow, *, depth: int, steps: int, level: float, loss: str
) -> ScalingFit:
    """Fit a boundary on a window and hold it against the exact law over the same points.

    Args:
        points: traced points; at least one.
        window: chosen beforehand, from theory.
        depth: weight layers L.
        steps: budget T.
        level: share of the initial loss that counts as trained.
        loss: ``mse``.

    Returns:
        The fit and its verdict.
    """
    return fit_power_law(
        points.gamma,
        points.eta,
        eta_low=points.eta_low,
        eta_high=points.eta_high,
        seed=points.seed,
        window=(window.low, window.high),
        predicted=asymptotic_exponent(points.name, window.regime, depth),
        law=exact_law(points.name, points.gamma, depth=depth, steps=steps, level=level, loss=loss),
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


def exponent_row(fit: ScalingFit, boundary: str, regime: str, **identity: str | int) -> dict[str, str | int | float]:
    """A fit as a row of ``exponents.csv``.

    Args:
        fit: the fit.
        boundary: what was fitted.
        regime: ``lazy`` or ``rich``.
        **identity: ``arch, variant, depth, loss, optimizer``.

    Returns:
        The row; ``ci_low`` and ``ci_high`` end the 95 % interval.
    """
    row: dict[str, str | int | float] = dict(identity)
    row |= {"boundary": boundary, "regime": regime, "predicted": fit.predicted, "predicted_by": "depth"}
    row |= {"predicted_window": fit.predicted_window, "fitted": fit.exponent, "ci_low": fit.interval[0]}
    row |= {"ci_high": fit.interval[1], "n_points": fit.n_points, "gamma_low": fit.window[0]}
    return row | {"gamma_high": fit.window[1], "verdict": fit.verdict}
