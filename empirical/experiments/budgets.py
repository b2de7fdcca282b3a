"""How the lower boundary falls with the budget T, and where the window closes (the apex of the triangle).

``eta_min`` is traced at one lazy and one rich γ for several T. The apex of a short budget is reached by networks: on a
grid of γ at each T, it lies between the last γ at which some learning rate trains and the first at which none does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from empirical.experiments.lab import Lab
from empirical.shard import TrainingConfig
from empirical.sweep import sweep_portrait
from empirical.trace import NETWORK_TRACE, exact_law, expected_cells, law_of, trace_networks
from simulate import Outcome, TraceSettings
from theory import ToyModel


@dataclass(frozen=True)
class BudgetsConfig:
    """Budgets of the two experiments.

    Attributes:
        training: what is trained.
        budgets: T at which eta_min is traced.
        gamma: where it is traced.
        seeds: number of seeds.
        first_seed: the first of them; another one repeats the experiment on networks and data that it has not seen.
        resolution: widest final bracket, in decades of η.
        apex_budgets: T at which the apex is looked for.
        apex_spacing: spacing of its grids along γ, in decades; along η it is twice that.
        apex_span: decades of γ on either side of the toy's apex.
    """

    training: TrainingConfig
    budgets: tuple[int, ...] = (50, 100, 200, 400, 800)
    gamma: tuple[float, ...] = (1e-3, 1e3)
    seeds: int = 2
    first_seed: int = 0
    resolution: float = 0.02
    apex_budgets: tuple[int, ...] = (8, 12, 18, 27, 40)
    apex_spacing: float = 0.1
    apex_span: float = 2.4


def run_budgets(config: BudgetsConfig, lab: Lab) -> pd.DataFrame:
    """Trace eta_min at several budgets.

    Args:
        config: what to run.
        lab: who runs it.

    Returns:
        One row a point: ``steps, gamma, seed, eta, eta_low, eta_high``, and ``law``, the exact toy's eta_min there.
    """
    rows = []
    settings = TraceSettings(**{**vars(NETWORK_TRACE), "resolution": config.resolution})
    gamma = np.array(config.gamma)
    for steps in config.budgets:
        training = replace(config.training, steps=steps)
        cells = expected_cells(training, gamma, 1, config.seeds, settings)
        lab.progress.phase(f"eta_min at T = {steps}", cells * steps)
        sweep, first = lab.sweep(training), config.first_seed
        points = trace_networks(sweep, gamma, ("eta_min",), seeds=config.seeds, first_seed=first, settings=settings)
        table = points["eta_min"].table().drop(columns="boundary").assign(steps=steps)
        rows.append(table.assign(law=exact_law("eta_min", table["gamma"].to_numpy(), **law_of(training))))
    return pd.concat(rows, ignore_index=True)


def run_apex(config: BudgetsConfig, lab: Lab) -> pd.DataFrame:
    """Look for the apex of networks at short budgets.

    Args:
        config: what to run.
        lab: who runs it.

    Returns:
        One row for each T and seed: ``steps, seed, gamma_low`` (last γ at which something trains), ``gamma_high``
        (first at which nothing does), ``toy`` (the exact apex of the toy's flow).
    """
    rows = []
    for steps in config.apex_budgets:
        training = replace(config.training, steps=steps)
        toy = ToyModel(loss=training.loss).apex(steps=steps, depth=training.depth)
        centre = np.log10(toy)
        half = config.apex_spacing * round(config.apex_span / config.apex_spacing)
        gamma = 10 ** np.arange(centre - half, centre + half / 2 + 1e-9, config.apex_spacing)
        law = law_of(training)
        low, high = (float(exact_law("eta_crit", one, **law)) for one in (gamma[0], gamma[-1]))
        eta = 10 ** np.arange(np.log10(low / 10), np.log10(high * 30), 2 * config.apex_spacing)
        seeds = tuple(range(config.first_seed, config.first_seed + config.seeds))
        lab.progress.phase(f"apex at T = {steps}", len(gamma) * len(eta) * len(seeds) * steps)
        outcome = sweep_portrait(lab.sweep(training), gamma, eta, seeds).data["outcome"].values
        trains = (outcome == Outcome.TRAINED).any(axis=1)
        for place, seed in enumerate(seeds):
            closed = np.nonzero(~trains[:, place])[0]
            first = int(closed[0]) if len(closed) else len(gamma)
            bracket = (gamma[first - 1] if first else np.nan, gamma[first] if first < len(gamma) else np.nan)
            rows.append({"steps": steps, "seed": seed, "gamma_low": bracket[0], "gamma_high": bracket[1], "toy": toy})
    return pd.DataFrame(rows)
