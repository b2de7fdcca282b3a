"""Online learning curves across γ, each at the second largest learning rate that converges on the grid.

The learning rate is constant, so that a run of T steps is the beginning of a longer one: the accuracy at budget T is
measured at step T of one run, with the learning rate that the grid chose. The online loss is that of the batch about to
be learned from, kept at every step and averaged over bins of equal width in log time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from empirical.experiments.lab import Lab
from empirical.experiments.plane import Plane, convergent_line
from empirical.observe import Measurements


@dataclass(frozen=True)
class CurvesConfig:
    """Learning curves on top of a plane.

    Attributes:
        steps: length of the runs.
        budgets: steps at which the test accuracy is measured.
        seeds: number of seeds.
        first_seed: the first of them; another one repeats the experiment on networks and data that it has not seen.
        every: every how many γ of the grid.
        bins: of log time, over which the online loss is averaged.
    """

    steps: int
    budgets: tuple[int, ...]
    seeds: int = 3
    first_seed: int = 0
    every: int = 1
    bins: int = 50


def log_bins(steps: int, bins: int) -> NDArray[np.int64]:
    """First step of each bin of log time, and T.

    Args:
        steps: T.
        bins: how many to aim for; the first ones would hold less than a step and are merged.

    Returns:
        Ascending edges from 0 to T.
    """
    return np.unique(np.concatenate([[0], np.round(np.geomspace(1, steps, bins + 1)).astype(np.int64)]))


def run_curves(config: CurvesConfig, plane: Plane, lab: Lab) -> xr.Dataset:
    """Train across γ.

    Args:
        config: what to run.
        plane: the grid that gives the learning rates, and what is trained.
        lab: who runs it.

    Returns:
        ``loss`` (online, binned; ``step`` is the middle of a bin, counted from 1) over gamma, seed, step; ``accuracy``
        (test set) over gamma, seed, budget; ``eta`` over gamma. Attributes say what was trained.
    """
    training = replace(plane.config.training, steps=config.steps)
    gamma, eta = convergent_line(plane, config.every)
    seeds = np.arange(config.first_seed, config.first_seed + config.seeds)
    g, s = (index.ravel() for index in np.indices((len(gamma), len(seeds))))
    what = Measurements(steps=(("test_accuracy", config.budgets),), curve_steps=tuple(range(config.steps)))
    lab.progress.phase("learning curves", len(g) * config.steps)
    found = lab.observe(training, gamma[g], eta[g], seeds[s], what)
    edges = log_bins(config.steps, config.bins)
    loss = np.add.reduceat(found.loss_curve, edges[:-1], axis=1) / np.diff(edges)
    shape = (len(gamma), len(seeds), -1)
    axes = ("gamma", "seed")
    return xr.Dataset(
        {
            "loss": ((*axes, "step"), loss.reshape(shape)),
            "accuracy": ((*axes, "budget"), found.measured["test_accuracy"].reshape(shape)),
            "eta": ("gamma", eta),
        },
        coords={
            "gamma": gamma,
            "seed": seeds,
            "step": (edges[:-1] + edges[1:] + 1) / 2,
            "budget": list(config.budgets),
        },
        attrs={"arch": training.arch, "depth": training.depth, "loss": training.loss, "width": training.width},
    )
