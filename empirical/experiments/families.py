"""Families of trainings that differ in one thing: depth, width, batch size, optimizer, budget or architecture.

Of each member the boundaries are traced, in the fit windows of theory or at given γ; or a small grid is trained; or its
learning curves are kept at given γ and η, which the members share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import xarray as xr

from empirical.experiments.lab import Lab
from empirical.experiments.plane import REGIMES, Plane, PlaneConfig, run_plane
from empirical.observe import Measurements, measured_steps
from empirical.shard import TrainingConfig
from empirical.trace import (
    NETWORK_TRACE,
    asymptotic_exponent,
    default_window,
    exact_law,
    expected_cells,
    law_of,
    trace_networks,
)
from simulate import ScalingFit, TraceSettings, fit_power_law
from theory.errors import InputError

Fits = dict[tuple[str, str, str], ScalingFit]
"""Fits by (member, regime, boundary)."""


@dataclass(frozen=True)
class Member:
    """One training of a family.

    Attributes:
        label: as figures name it.
        value: what differs, as a number.
        training: what is trained.
    """

    label: str
    value: float
    training: TrainingConfig


@dataclass(frozen=True)
class FamilyConfig:
    """Traces of a family.

    Attributes:
        name: for the progress.
        members: what is trained.
        boundaries: what is traced.
        gamma: where; in the fit windows of theory when empty.
        ends: least and largest γ of the windows.
        points: γ in each window.
        seeds: number of seeds.
        first_seed: the first of them; another one repeats the experiment on networks and data that it has not seen.
        resolution: widest final bracket, in decades of η.
        margin: least ``eta_crit / eta_min`` in a rich window.
    """

    name: str
    members: tuple[Member, ...]
    boundaries: tuple[str, ...]
    gamma: tuple[float, ...] = ()
    ends: tuple[float, float] = (1e-4, 1e4)
    points: int = 6
    seeds: int = 2
    first_seed: int = 0
    resolution: float = 0.04
    margin: float = 5.0

    def places(self, training: TrainingConfig) -> dict[str, np.ndarray]:
        """Where a member is traced.

        Args:
            training: of the member.

        Returns:
            γ by regime; a regime for which theory leaves no window is left out, and ``all`` is the only one when γ are
            given.
        """
        if self.gamma:
            return {"all": np.array(self.gamma)}
        out = {}
        for regime in REGIMES:
            try:
                window = default_window(
                    regime=regime, gamma_range=self.ends, boundary=self.boundaries[0], margin=self.margin,
                    **law_of(training),
                )  # fmt: skip
            except InputError:
                continue
            out[regime] = np.geomspace(window.low, window.high, self.points)
        return out


def run_family(config: FamilyConfig, lab: Lab) -> pd.DataFrame:
    """Trace the boundaries of every member.

    Args:
        config: what to run.
        lab: who runs it.

    Returns:
        One row a point: ``member, value, regime, boundary, gamma, seed, eta, eta_low, eta_high``, with ``law``, the
        exact toy's η there, ``predicted``, its exponent in the limit, and ``steps``, T.
    """
    settings = TraceSettings(**{**vars(NETWORK_TRACE), "resolution": config.resolution})
    tables = []
    for member in config.members:
        law = law_of(member.training)
        for regime, gamma in config.places(member.training).items():
            cells = expected_cells(member.training, gamma, len(config.boundaries), config.seeds, settings)
            lab.progress.phase(f"{config.name} {member.label}: {regime}", cells * member.training.steps)
            sweep = lab.sweep(member.training)
            found = trace_networks(
                sweep, gamma, config.boundaries, seeds=config.seeds, first_seed=config.first_seed, settings=settings
            )
            for boundary, points in found.items():
                table = points.table().assign(member=member.label, value=member.value, regime=regime)
                which = "rich" if regime == "rich" else "lazy"
                limit = asymptotic_exponent(boundary, which, law["depth"], law["loss"], law["optimizer"])
                exact = exact_law(boundary, table["gamma"].to_numpy(), **law)
                tables.append(table.assign(law=exact, predicted=limit, steps=member.training.steps))
    return pd.concat([table for table in tables if len(table)], ignore_index=True)


def family_fits(points: pd.DataFrame) -> Fits:
    """Slopes of the boundaries against γ.

    Args:
        points: as ``run_family`` gives them.

    Returns:
        The fits, held against the exact toy over the same points.
    """
    out: Fits = {}
    for (member, regime, boundary), part in points.groupby(["member", "regime", "boundary"], sort=False):
        out[str(member), str(regime), str(boundary)] = fit_power_law(
            part["gamma"], part["eta"], eta_low=part["eta_low"], eta_high=part["eta_high"], seed=part["seed"],
            law=part["law"], predicted=float(part["predicted"].iloc[0]),
        )  # fmt: skip
    return out


@dataclass(frozen=True)
class PortraitsConfig:
    """Small grids of several trainings.

    Attributes:
        members: what is trained.
        gamma: (low, high, points), log-spaced.
        eta: the same along η.
        first_seed: the seed of the grids.
    """

    members: tuple[Member, ...]
    gamma: tuple[float, float, int] = (1e-4, 1e4, 9)
    eta: tuple[float, float, int] = (1e-10, 1e4, 15)
    first_seed: int = 0


def run_portraits(config: PortraitsConfig, lab: Lab) -> dict[str, Plane]:
    """Train the grids.

    Args:
        config: what to run.
        lab: who runs it.

    Returns:
        A plane without traces for each member, by label.
    """
    return {
        member.label: run_plane(
            PlaneConfig(member.training, config.gamma, config.eta, first_seed=config.first_seed), lab, member.label
        )
        for member in config.members
    }


@dataclass(frozen=True)
class SharedRatesConfig:
    """Learning curves of a family at learning rates that its members share.

    Attributes:
        name: for the progress.
        members: what is trained.
        gamma: feature-learning strengths.
        share: η over the toy's exact eta_crit.
        steps: length of the runs.
        seeds: number of seeds.
        first_seed: the first of them; another one repeats the experiment on networks and data that it has not seen.
        points: steps at which the loss on the sample is taken, log-spaced.
        examples: of the sample.
    """

    name: str
    members: tuple[Member, ...]
    gamma: tuple[float, ...] = (1e-2, 1.0, 1e2)
    share: float = 0.2
    steps: int = 400
    seeds: int = 2
    first_seed: int = 0
    points: int = 40
    examples: int = 500


def run_shared_rates(config: SharedRatesConfig, lab: Lab) -> xr.Dataset:
    """Train every member at the same γ and η.

    Args:
        config: what to run.
        lab: who runs it.

    Returns:
        ``loss`` (on the sample) over member, gamma, seed, step; ``eta`` over gamma; ``value`` over member.
    """
    gamma, seeds = np.array(config.gamma), config.first_seed + np.arange(config.seeds)
    first = replace(config.members[0].training, steps=config.steps)
    eta = config.share * exact_law("eta_crit", gamma, **law_of(first))
    g, s = (index.ravel() for index in np.indices((len(gamma), len(seeds))))
    steps = measured_steps(config.steps, config.points)
    what = Measurements((("test_loss", steps),), examples=config.examples)
    losses = []
    for member in config.members:
        lab.progress.phase(f"{config.name} {member.label}: curves", len(g) * config.steps)
        found = lab.observe(replace(member.training, steps=config.steps), gamma[g], eta[g], seeds[s], what)
        losses.append(found.measured["test_loss"].reshape(len(gamma), len(seeds), -1))
    return xr.Dataset(
        {
            "loss": (("member", "gamma", "seed", "step"), np.array(losses)),
            "eta": ("gamma", eta),
            "value": ("member", [member.value for member in config.members]),
        },
        coords={"member": [m.label for m in config.members], "gamma": gamma, "seed": seeds, "step": list(steps)},
    )
