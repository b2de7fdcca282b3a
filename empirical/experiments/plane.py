"""The γ–η plane of one kind of network: a dense grid of outcomes, boundaries traced in the fit windows, and fits.

The grid shows; the fits rest on traces alone, at γ that theory chose before any data (``empirical.trace``). The grid
also gives the learning rate at which later experiments train: the second largest η of the grid that converges, that is
whose outcome is ``trained`` or ``catapult`` for every seed of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from empirical.experiments.lab import Lab
from empirical.shard import TrainingConfig
from empirical.sweep import sweep_portrait
from empirical.trace import NETWORK_TRACE, default_window, expected_cells, fit_boundary, law_of, trace_networks
from simulate import BoundaryPoints, Outcome, PhasePortrait, ScalingFit, TraceSettings
from theory import FitWindow
from theory.errors import InputError

REGIMES = ("lazy", "rich")


@dataclass(frozen=True)
class PlaneConfig:
    """A grid and the traces on it.

    Attributes:
        training: what is trained.
        gamma: (low, high, points) of the grid, log-spaced, ends included; the windows of the fits lie inside.
        eta: the same along η.
        boundaries: boundaries traced in the windows; none for a grid alone.
        window_points: γ in the lazy and in the rich window.
        trace_seeds: number of seeds of the traces.
        first_seed: the first of them, and that of the grid.
        resolution: widest final bracket, in decades of η.
    """

    training: TrainingConfig
    gamma: tuple[float, float, int]
    eta: tuple[float, float, int]
    boundaries: tuple[str, ...] = ()
    window_points: tuple[int, int] = (6, 6)
    trace_seeds: int = 2
    resolution: float = 0.02
    first_seed: int = 0

    def window(self, regime: str, boundary: str) -> FitWindow | None:
        """Fit window of a boundary, from theory alone.

        Args:
            regime: ``lazy`` or ``rich``.
            boundary: what is fitted.

        Returns:
            The window, ``None`` where theory leaves none on this grid.
        """
        law = law_of(self.training)
        try:
            return default_window(regime=regime, gamma_range=self.gamma[:2], boundary=boundary, **law)
        except InputError:
            return None


@dataclass(frozen=True)
class Plane:
    """What was found on a plane.

    Attributes:
        config: what was run.
        portrait: outcomes and losses on the grid, one seed.
        points: traced points by (regime, boundary).
        fits: fits by (regime, boundary).
        windows: fit windows by (regime, boundary).
    """

    config: PlaneConfig
    portrait: PhasePortrait
    points: dict[tuple[str, str], BoundaryPoints]
    fits: dict[tuple[str, str], ScalingFit]
    windows: dict[tuple[str, str], FitWindow]


def run_plane(config: PlaneConfig, lab: Lab, name: str) -> Plane:
    """Train the grid and trace the boundaries.

    Args:
        config: what to run.
        lab: who runs it.
        name: of the phases, for the progress.

    Returns:
        What was found.
    """
    training = config.training
    gamma, eta = np.geomspace(*config.gamma), np.geomspace(*config.eta)
    sweep = lab.sweep(training)
    lab.progress.phase(f"{name}: grid", len(gamma) * len(eta) * training.steps)
    portrait = sweep_portrait(sweep, gamma, eta, seeds=(config.first_seed,))
    points, fits, windows = {}, {}, {}
    settings = TraceSettings(**{**vars(NETWORK_TRACE), "resolution": config.resolution})
    for regime, points_wanted in zip(REGIMES, config.window_points, strict=True):
        shared: dict[tuple[float, float], list[str]] = {}
        for boundary in config.boundaries:
            window = config.window(regime, boundary)
            if window is not None:
                windows[regime, boundary] = window
                shared.setdefault((window.low, window.high), []).append(boundary)
        for ends, names in shared.items():
            at = np.geomspace(*ends, points_wanted)
            cells = expected_cells(training, at, len(names), config.trace_seeds, settings)
            lab.progress.phase(f"{name}: {regime} {', '.join(names)}", cells * training.steps)
            first, count = config.first_seed, config.trace_seeds
            traced = trace_networks(sweep, at, tuple(names), seeds=count, first_seed=first, settings=settings)
            for boundary, found in traced.items():
                points[regime, boundary] = found
                if len(found):
                    window = windows[regime, boundary]
                    fits[regime, boundary] = fit_boundary(found, window, **law_of(training))
    return Plane(config, portrait, points, fits, windows)


def convergent_eta(portrait: PhasePortrait, rank: int = 2) -> NDArray[np.float64]:
    """The largest learning rates that converge, read off a grid.

    Args:
        portrait: the grid.
        rank: 1 for the largest η whose outcome is ``trained`` or ``catapult`` for every seed, 2 for the second largest.

    Returns:
        η of each γ, shape ``(gamma,)``; NaN where fewer than ``rank`` converge.
    """
    outcome = portrait.data["outcome"].values
    good = np.asarray(np.isin(outcome, (Outcome.TRAINED, Outcome.CATAPULT)).all(axis=-1))
    eta = portrait.data["eta"].values
    picked = [np.nonzero(row)[0] for row in good]
    return np.array([eta[places[-rank]] if len(places) >= rank else np.nan for places in picked])


def convergent_line(plane: Plane, every: int = 1) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Every so many γ of a plane, each with a learning rate that converges.

    Args:
        plane: the grid.
        every: 1 for all γ, 2 for every other one, …

    Returns:
        γ and η, where there is one (``convergent_eta``).
    """
    eta = convergent_eta(plane.portrait)[::every]
    gamma = plane.portrait.data["gamma"].values[::every]
    return gamma[np.isfinite(eta)], eta[np.isfinite(eta)]
