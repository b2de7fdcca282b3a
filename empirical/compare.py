"""Theory against experiment: the same boundaries, from the exact law, the simulated toy and trained networks.

One run computes, for every depth:

1. the windows of γ on which exponents will be fitted, from theory alone;
2. the toy's boundaries, traced on those windows, and its phase portrait;
3. the networks' boundaries, traced on the same γ with the same code, and their phase portrait;
4. power-law fits of all of them, each held against the slope of the exact law over its own points.

It draws nothing; ``paper_figures`` renders what it returns. Everything trained is kept in shards: an interrupted run
goes on where it was.
"""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from empirical.progress import Progress
from empirical.runners import Runner
from empirical.shard import TrainingConfig
from empirical.store import RunDirectory
from empirical.sweep import Sweep, save_portrait, sweep_portrait
from empirical.trace import (
    EXPONENT_COLUMNS,
    LAW_OF,
    LAZY_TOLERANCE,
    MARGIN,
    NETWORK_TRACE,
    RICH_TOLERANCE,
    boundary_rows,
    default_window,
    exact_law,
    expected_cells,
    exponent_row,
    fit_boundary,
    trace_networks,
)
from simulate import BoundaryPoints, PhasePortrait, ScalingFit, Thresholds, TraceSettings, phase_portrait, trace_toy
from theory import FitWindow, InputError
from theory.errors import one_of, positive_integer, positive_number

REGIMES = ("lazy", "rich")
TOY_BOUNDARIES = ("eta_min", "eta_crit")


@dataclass(frozen=True)
class CompareConfig:
    """What a comparison runs; every field is in the manifest, and a directory holds one configuration.

    Attributes:
        preset: name of the preset that these values started from.
        depths: weight layers L of the networks and toys.
        width: hidden width N.
        data: name of the data stream.
        image_size: side of the images in pixels.
        batch_size: examples in a batch.
        loss: ``mse``.
        steps: budget T, for toy and network alike.
        seeds: number of seeds of the traced boundaries, from 0; the portrait uses the first.
        gamma_low: least γ.
        gamma_high: largest γ.
        window_points: γ in each fit window.
        lazy_tolerance: a lazy window ends where the exact local exponent is this far from its limit.
        rich_tolerance: a rich window begins there. The lazy one can be, and is, smaller: nothing closes the plane on
            that side, and a fit with an interval of ± 0.004 would otherwise resolve the toy's own first correction.
        margin: least ``eta_crit / eta_min`` in a rich window.
        boundaries: boundaries traced on networks.
        portrait_gammas: points of the networks' portrait along γ.
        portrait_etas: points along η.
        toy_portrait_gammas: points of the toy's portrait along γ.
        toy_portrait_etas: points along η.
        device: where networks train.
        trace: spacings of the networks' traces.
        thresholds: the numbers in the definitions of the outcomes.
    """

    preset: str
    depths: tuple[int, ...] = (2, 3, 4)
    width: int = 64
    data: str = "fashion-mnist-deformed"
    image_size: int = 14
    batch_size: int = 64
    loss: str = "mse"
    steps: int = 1000
    seeds: int = 2
    gamma_low: float = 1e-4
    gamma_high: float = 1e4
    window_points: int = 8
    lazy_tolerance: float = LAZY_TOLERANCE
    rich_tolerance: float = RICH_TOLERANCE
    margin: float = MARGIN
    boundaries: tuple[str, ...] = ("eta_min", "eta_crit", "eta_fail")
    portrait_gammas: int = 17
    portrait_etas: int = 25
    toy_portrait_gammas: int = 161
    toy_portrait_etas: int = 217
    device: str = "cpu"
    trace: TraceSettings = NETWORK_TRACE
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        for name in ("seeds", "portrait_gammas", "portrait_etas", "toy_portrait_gammas", "toy_portrait_etas"):
            positive_integer(name, getattr(self, name))
        positive_integer("window_points", self.window_points, least=3)
        for name in ("gamma_low", "gamma_high", "lazy_tolerance", "rich_tolerance", "margin"):
            positive_number(name, getattr(self, name))
        if self.gamma_low >= self.gamma_high:
            raise InputError("gamma_low, gamma_high", (self.gamma_low, self.gamma_high), "ascending: LO < HI")
        if not self.depths or len(set(self.depths)) < len(self.depths):
            raise InputError("depths", self.depths, "one or more different depths")
        for depth in self.depths:
            positive_integer("depth", depth)
            self.training(depth)
        for name in self.boundaries:
            one_of("boundary", name, tuple(LAW_OF))

    def training(self, depth: int) -> TrainingConfig:
        """Configuration of the networks of one depth.

        Args:
            depth: weight layers L.

        Returns:
            What each cell trains.
        """
        shared = ("width", "data", "image_size", "batch_size", "loss", "steps", "device", "thresholds")
        return TrainingConfig(depth=depth, **{name: getattr(self, name) for name in shared})

    def window(self, depth: int, regime: str) -> FitWindow:
        """Fit window of one regime, from theory alone.

        Args:
            depth: weight layers L.
            regime: ``lazy`` or ``rich``.

        Returns:
            The window, clipped to the γ of this configuration.
        """
        return default_window(
            depth,
            regime,
            self.steps,
            (self.gamma_low, self.gamma_high),
            lazy_tolerance=self.lazy_tolerance,
            rich_tolerance=self.rich_tolerance,
            margin=self.margin,
            level=self.thresholds.level,
        )

    def trace_cells(self, depth: int, gamma: NDArray[np.float64]) -> int:
        """Rough number of cells of one trace.

        Args:
            depth: weight layers L.
            gamma: where it traces.

        Returns:
            The number, for the time left.
        """
        return expected_cells(self.training(depth), gamma, len(self.boundaries), self.seeds, self.trace)

    def describe(self) -> dict[str, Any]:
        """The configuration for the manifest, with the windows and the reason for each.

        Returns:
            JSON-ready description.
        """
        windows = {f"depth {L}": {r: asdict(self.window(L, r)) for r in REGIMES} for L in self.depths}
        return {"command": "compare"} | asdict(self) | {"fit_windows": windows}


PRESETS: dict[str, CompareConfig] = {"quick": CompareConfig(preset="quick")}
"""``quick`` is minutes on two cores; what takes longer is a campaign, a file of its own (``empirical.campaign``)."""


@dataclass(frozen=True)
class Family:
    """Boundaries of one kind of network at one depth.

    Attributes:
        arch: ``toy`` or ``mlp``.
        variant: what else identifies it, such as the width.
        depth: weight layers L.
        windows: the fit windows, by regime.
        points: traced points by (regime, boundary).
        fits: fits by (regime, boundary).
        portrait: the phase portrait.
    """

    arch: str
    variant: str
    depth: int
    windows: dict[str, FitWindow]
    points: dict[tuple[str, str], BoundaryPoints]
    fits: dict[tuple[str, str], ScalingFit]
    portrait: PhasePortrait


@dataclass(frozen=True)
class Comparison:
    """All that a comparison found.

    Attributes:
        config: what was run.
        toy: the simulated toy, one family a depth.
        trained: the networks, one family a depth.
    """

    config: CompareConfig
    toy: tuple[Family, ...]
    trained: tuple[Family, ...]

    def exponents(self) -> pd.DataFrame:
        """The columns of ``exponents.csv``.

        Returns:
            One row a fit; ``ci_low`` and ``ci_high`` end the 95 % interval.
        """
        rows = [
            exponent_row(fit, boundary, regime, **self._identity(family))
            for family in (*self.toy, *self.trained)
            for (regime, boundary), fit in family.fits.items()
        ]
        return pd.DataFrame(rows, columns=EXPONENT_COLUMNS)

    def boundaries(self) -> pd.DataFrame:
        """The columns of ``boundaries.csv``.

        Returns:
            One row a traced point, with its bracket.
        """
        tables = [
            boundary_rows(points, self.config.steps, **self._identity(family))
            for family in (*self.toy, *self.trained)
            for points in family.points.values()
        ]
        return pd.concat(tables, ignore_index=True)

    def _identity(self, family: Family) -> dict[str, Any]:
        what = {"arch": family.arch, "variant": family.variant, "depth": family.depth}
        return what | {"loss": self.config.loss, "optimizer": "gd"}


def _fits(
    depth: int, config: CompareConfig, windows: dict[str, FitWindow], points: dict[tuple[str, str], BoundaryPoints]
) -> dict[tuple[str, str], ScalingFit]:
    law = {"depth": depth, "steps": config.steps, "level": config.thresholds.level, "loss": config.loss}
    return {
        (regime, name): fit_boundary(found, windows[regime], **law)
        for (regime, name), found in points.items()
        if len(found)
    }


def _portrait_axes(config: CompareConfig, gammas: int, etas: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One grid for all depths: whole decades of η around every boundary that theory predicts."""
    ends = np.array([config.gamma_low, config.gamma_high])
    low = min(float(exact_law("eta_min", ends, depth=L, steps=config.steps).min()) for L in config.depths)
    high = max(float(exact_law("eta_crit", ends, depth=L, steps=config.steps).max()) for L in config.depths)
    gamma = np.geomspace(config.gamma_low, config.gamma_high, gammas)
    return gamma, np.logspace(math.floor(math.log10(low)), math.ceil(math.log10(high) + 0.7), etas)


def _toy_family(depth: int, config: CompareConfig) -> Family:
    windows = {regime: config.window(depth, regime) for regime in REGIMES}
    points: dict[tuple[str, str], BoundaryPoints] = {}
    for regime, window in windows.items():
        traced = trace_toy(
            loss=config.loss,
            depth=depth,
            gamma=np.geomspace(window.low, window.high, config.window_points),
            names=TOY_BOUNDARIES,
            steps=config.steps,
            thresholds=config.thresholds,
        )
        points |= {(regime, name): found for name, found in traced.items()}
    gamma, eta = _portrait_axes(config, config.toy_portrait_gammas, config.toy_portrait_etas)
    portrait = phase_portrait(
        loss=config.loss, depth=depth, gamma=gamma, eta=eta, steps=config.steps, thresholds=config.thresholds
    )
    return Family("toy", "balanced", depth, windows, points, _fits(depth, config, windows, points), portrait)


def _trained_family(
    depth: int, config: CompareConfig, store: RunDirectory | None, progress: Progress, runner: Runner
) -> Family:
    windows = {regime: config.window(depth, regime) for regime in REGIMES}
    training = config.training(depth)
    sweep = Sweep(training, store, lambda _cells, steps, held: progress.advance(steps, held), runner)

    points: dict[tuple[str, str], BoundaryPoints] = {}
    for regime, window in windows.items():
        gamma = np.geomspace(window.low, window.high, config.window_points)
        progress.phase(f"L = {depth}, {regime} boundaries", config.trace_cells(depth, gamma) * config.steps)
        traced = trace_networks(sweep, gamma, config.boundaries, seeds=config.seeds, settings=config.trace)
        points |= {(regime, name): found for name, found in traced.items()}

    grid_gamma, grid_eta = _portrait_axes(config, config.portrait_gammas, config.portrait_etas)
    cells = len(grid_gamma) * len(grid_eta)
    progress.phase(f"L = {depth}, portrait", cells * config.steps)
    portrait = sweep_portrait(sweep, grid_gamma, grid_eta, seeds=(0,))
    variant = f"relu, width {config.width}"
    return Family(training.arch, variant, depth, windows, points, _fits(depth, config, windows, points), portrait)


def compare(
    config: CompareConfig, store: RunDirectory | None, progress: Progress, runner: Runner | None = None
) -> Comparison:
    """Run a comparison, or go on with one.

    Args:
        config: what to run.
        store: directory that keeps what was computed; nothing is kept when ``None``.
        progress: is told how far the run is.
        runner: who trains, this process when ``None``; the results do not depend on it.

    Returns:
        Everything that was found, toy and trained.
    """
    grid = config.portrait_gammas * config.portrait_etas
    expected = 0
    for depth in config.depths:
        windows = [config.window(depth, regime) for regime in REGIMES]
        gammas = [np.geomspace(w.low, w.high, config.window_points) for w in windows]
        expected += grid + sum(config.trace_cells(depth, gamma) for gamma in gammas)
    progress.plan(expected * config.steps)
    toy = tuple(_toy_family(depth, config) for depth in config.depths)
    with runner or Runner() as trainer:
        trained = tuple(_trained_family(depth, config, store, progress, trainer) for depth in config.depths)
    return Comparison(config, toy, trained)


def save(comparison: Comparison, store: RunDirectory) -> None:
    """Write the tables and portraits of a comparison.

    Args:
        comparison: what was found.
        store: where: ``exponents.csv``, ``boundaries.csv``, ``portrait.nc`` (the networks' portraits, one depth after
            another along ``depth``; the toy's in the group ``toy``) and ``curves.nc``.
    """
    for name, table in (("exponents.csv", comparison.exponents()), ("boundaries.csv", comparison.boundaries())):
        buffer = io.StringIO()
        table.to_csv(buffer, index=False, float_format="%.10g")
        store.write(name, buffer.getvalue())

    def stacked(families: tuple[Family, ...]) -> xr.Dataset:
        depth = xr.DataArray([f.depth for f in families], dims="depth", name="depth")
        return xr.concat([f.portrait.data for f in families], dim=depth, combine_attrs="drop_conflicts")

    save_portrait(store, PhasePortrait(stacked(comparison.trained)), PhasePortrait(stacked(comparison.toy)))
