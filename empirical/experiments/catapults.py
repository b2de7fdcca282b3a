"""Catapults: the loss of networks around their edge of stability, step by step.

Learning rates are a ladder in units of the toy's exact eta_crit(γ), the same rungs at every γ, from where everything
trains to where nothing comes back. The height of a catapult is peak loss / L₀; of the rungs that come back (outcome
``catapult``) the highest one of each γ and seed is what theory speaks of: it grows as γ⁻² in the two-layer map, γ ≪ 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from empirical.experiments.lab import Lab
from empirical.observe import Measurements
from empirical.shard import TrainingConfig
from empirical.trace import exact_law, law_of
from simulate import Outcome


@dataclass(frozen=True)
class CatapultConfig:
    """A ladder of learning rates at several γ.

    Attributes:
        training: what is trained; its budget is short.
        gamma: (low, high, points), log-spaced.
        ladder: (low, high, points) of η over the toy's exact eta_crit, log-spaced.
        seeds: number of seeds.
        first_seed: the first of them; another one repeats the experiment on networks and data that it has not seen.
    """

    training: TrainingConfig
    gamma: tuple[float, float, int] = (1e-3, 1e3, 13)
    ladder: tuple[float, float, int] = (1.0, 60.0, 20)
    seeds: int = 2
    first_seed: int = 0


def run_catapults(config: CatapultConfig, lab: Lab) -> xr.Dataset:
    """Train the ladder.

    Args:
        config: what to run.
        lab: who runs it.

    Returns:
        ``loss`` over gamma, rate, seed, step (every step), ``outcome``, ``peak`` and ``start`` (losses), and ``eta``
        over gamma, rate, seed.
    """
    gamma, ladder = np.geomspace(*config.gamma), np.geomspace(*config.ladder)
    seeds = np.arange(config.first_seed, config.first_seed + config.seeds)
    g, r, s = (index.ravel() for index in np.indices((len(gamma), len(ladder), len(seeds))))
    eta = ladder[r] * exact_law("eta_crit", gamma[g], **law_of(config.training))
    steps = config.training.steps
    lab.progress.phase("catapults", len(g) * steps)
    what = Measurements(steps=(), curve_steps=tuple(range(steps)))
    found = lab.observe(config.training, gamma[g], eta, seeds[s], what)
    shape, axes = (len(gamma), len(ladder), len(seeds)), ("gamma", "rate", "seed")
    return xr.Dataset(
        {
            "loss": ((*axes, "step"), found.loss_curve.reshape(*shape, -1)),
            "outcome": (axes, found.cells.outcome.reshape(shape)),
            "peak": (axes, found.cells.peak_loss.reshape(shape)),
            "start": (axes, found.cells.initial_loss.reshape(shape)),
            "eta": (axes, eta.reshape(shape)),
        },
        coords={"gamma": gamma, "rate": ladder, "seed": seeds, "step": found.curve_steps},
        attrs={"arch": config.training.arch, "depth": config.training.depth, "width": config.training.width},
    )


def highest_catapults(data: xr.Dataset) -> xr.Dataset:
    """The highest catapult that comes back, at each γ and seed.

    Args:
        data: as ``run_catapults`` gives it.

    Returns:
        ``height`` (peak / L₀, NaN where no rung is a catapult) and ``rung`` (its position, −1 there), over gamma, seed.
    """
    height = (data["peak"] / data["start"]).where(data["outcome"] == Outcome.CATAPULT)
    some = height.notnull().any("rate")
    rung = height.fillna(-1.0).argmax("rate").where(some, -1)
    return xr.Dataset({"height": height.max("rate"), "rung": rung.astype(int)})
