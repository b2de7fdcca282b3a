"""Holds eta_min of a campaign against gradient flow of the very networks, in which nothing is fitted.

``python -m empirical.campaign.flow FOLDER [ENTRY …]``

From each network's θ₀ flow is followed until the loss on the examples that its training starts with is ``level`` of
itself (``measure.flow``). It gets there at τ(γ), and descent of T small steps has to get there at

    η_min(γ) = γ τ(γ) / (1 − q/2)T,

where q is the share of the steps that the tail averages. This is known from θ₀ and the data, before anything is
trained, for every γ and both regimes, and absolutely, where flow *passes* the level. Where it rests there, the noise of
the tail decides when the level is passed, and flow cannot say: a network that knows how frequent ten classes are, and
nothing else, has 0.9 of its squared error. ``FOLDER/flow.csv`` gets a row a network and γ, and ``FOLDER/growth.csv``
how the kernel of the first network of each rich unit grows on the one path that serves every γ. What is there already
is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from empirical.campaign.again import chosen, command
from empirical.campaign.refit import refit
from empirical.campaign.run import UnitResult
from empirical.measure.catalogue import training_examples
from empirical.measure.flow import flow_time, kernel_growth
from empirical.measure.modules import networks_of
from empirical.networks import Networks
from empirical.shard import TrainingConfig
from simulate import ScalingFit, fit_power_law

EXAMPLES = 4096
"""Over which the loss of flow is averaged (at least). With fewer flow learns them by heart: with 1024 its time is up to
0.04 decades too short."""

FEW = 1024
"""Over which kernels, and times to be compared with one another, are averaged (at least)."""

AROUND = 0.005
"""Half a per cent of the level on both sides of it: more than the loss of a tail is off by."""

PASSES = 1.25
"""Flow passes a level where it takes less than this factor to get from one side to the other. At 0.9 a steady fall
takes 1.10, an exponential one 1.12."""

ALIGNMENTS = np.geomspace(1e-3, 1e5, 49)
"""Where the growth of a kernel is kept."""

KEY = ["entry", "gamma", "seed"]
COLUMNS = [*KEY, "tau", "rest"]


def starting(config: TrainingConfig, seed: int, gamma: NDArray[np.float64]) -> Networks:
    """Networks at θ₀, one for each γ.

    Args:
        config: what they are.
        seed: of θ₀.
        gamma: feature-learning strengths, shape ``(cells,)``.

    Returns:
        The networks.
    """
    spec = config.spec()
    module = spec.module(seed).to(config.device)
    return networks_of(
        module, [module] * len(gamma), example_shape=spec.example_shape, gamma=gamma, rates=spec.rates(), seed=seed
    )  # fmt: skip


def _units(folder: Path | str, entries: tuple[str, ...] = ()) -> list[UnitResult]:
    """Units that traced eta_min with training that follows gradient flow when η is small."""

    def follows(unit: UnitResult) -> bool:
        config = unit.plan.config
        plain = config.optimizer == "gd" and config.schedule == "constant" and config.weight_decay == 0
        return plain and len(unit.points.get("eta_min", ())) > 0

    return chosen([unit for unit in refit(folder).done if follows(unit)], entries, folder)


def flows(
    folder: Path | str,
    entries: tuple[str, ...] = (),
    known: pd.DataFrame | None = None,
    keep: Callable[[pd.DataFrame], None] = lambda table: None,
) -> pd.DataFrame:
    """Follow flow for every network and γ at which a campaign traced eta_min under gradient descent.

    Args:
        folder: of the campaign.
        entries: names of entries; all when empty.
        known: rows made before.
        keep: is given all rows after every network.

    Returns:
        One row a network and γ: ``entry, gamma, seed, tau``, τ = ηt/γ, and ``rest``, the factor by which flow takes
        longer to get ``AROUND`` below the level than above it; with those that were known.

    Raises:
        InputError: an entry without such points; as ``refit`` does.
    """
    parts = [] if known is None else [known]
    for unit in _units(folder, entries):
        config, points = unit.plan.config, unit.points["eta_min"]
        wanted = pd.DataFrame({"entry": unit.plan.unit.entry.name, "gamma": points.gamma, "seed": points.seed})
        for part in parts:  # budgets share their γ, and so do networks
            wanted = wanted[~keys(wanted).isin(keys(part))]
        for seed, rows in wanted.groupby("seed"):
            x, y = training_examples(config, int(str(seed)), EXAMPLES)
            networks = starting(config, int(str(seed)), rows["gamma"].to_numpy())
            level = config.thresholds.level
            tau = flow_time(networks, x, y, loss=config.loss, level=level)
            parts.append(rows.assign(tau=tau, rest=resting(networks, x[:FEW], y[:FEW], config.loss, level)))
            keep(pd.concat(parts, ignore_index=True))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)


def resting(networks: Networks, x: torch.Tensor, y: torch.Tensor, loss: str, level: float) -> NDArray[np.float64]:
    """How long flow rests at a level.

    Args:
        networks: C cells at θ₀.
        x: inputs ``(n, input_dim)``.
        y: targets ``(n, classes)``.
        loss: ``mse`` or ``cross-entropy``.
        level: of the loss at the start.

    Returns:
        The time to ``AROUND`` below it over that to as much above it, shape ``(cells,)``; infinite where flow does not
        get below.
    """
    above, below = flow_time(networks, x, y, loss=loss, level=[level * (1 + AROUND), level * (1 - AROUND)]).T
    return np.where(np.isfinite(below), below / above, np.inf)


def growths(folder: Path | str, entries: tuple[str, ...] = (), known: pd.DataFrame | None = None) -> pd.DataFrame:
    """Follow the kernel of the first network of each rich unit from its start, while the residual is that of the start.

    Args:
        folder: of the campaign.
        entries: names of entries; all when empty.
        known: rows made before.

    Returns:
        Rows ``entry, seed, alignment, kernel, tau``, as in ``measure.flow.KernelGrowth``; the first of each entry has
        the alignment 0.

    Raises:
        InputError: as ``flows`` does.
    """
    parts = [] if known is None else [known]
    for unit in _units(folder, entries):
        entry, config = unit.plan.unit.entry.name, unit.plan.config
        if unit.plan.unit.regime != "rich" or any(entry in set(part["entry"]) for part in parts):
            continue
        seed = int(unit.points["eta_min"].seed.min())
        x, y = training_examples(config, seed, FEW)
        found = kernel_growth(starting(config, seed, np.ones(1)), x, y, ALIGNMENTS, loss=config.loss)
        alignment, tau = np.append(0.0, found.alignment), np.append(0.0, found.tau)
        kernel = np.append(found.start, found.kernel)
        made = {"entry": entry, "seed": seed, "alignment": alignment, "kernel": kernel, "tau": tau}
        parts.append(pd.DataFrame(made))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def keys(rows: pd.DataFrame) -> pd.MultiIndex:
    """What tells networks and their γ apart, with as many digits as tables keep.

    Args:
        rows: with ``entry, gamma, seed``.

    Returns:
        One key a row.
    """
    return pd.MultiIndex.from_frame(rows[KEY].assign(gamma=[f"{gamma:.8g}" for gamma in rows["gamma"]]))


def _law(unit: UnitResult, table: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The eta_min of flow at the points of a unit, NaN where it is not known; and where flow passes the level."""
    points, config = unit.points["eta_min"], unit.plan.config
    at = pd.DataFrame({"entry": unit.plan.unit.entry.name, "gamma": points.gamma, "seed": points.seed})
    mine = table.set_index(keys(table))[["tau", "rest"]].reindex(keys(at))
    steps = (1 - config.thresholds.tail_fraction / 2) * config.steps
    return points.gamma * mine["tau"].to_numpy() / steps, mine["rest"].to_numpy() < PASSES


def summary(folder: Path | str, table: pd.DataFrame) -> pd.DataFrame:
    """Hold eta_min of a campaign against flow.

    Args:
        folder: of the campaign.
        table: as ``flows`` makes it.

    Returns:
        One row a unit: ``entry, steps, regime``; its ``points`` whose flow is known, and how many of them ``pass`` the
        level; of these the geometric mean of eta_min over that of flow, ``ratio``, and the spread of its logarithm in
        decades, ``spread``; ``fitted`` and ``half_width``; the slopes of flow and of the toy's law over the points with
        their verdicts, ``flow, flow_verdict`` (NaN where some points rest at the level) and ``toy, toy_verdict`` (NaN
        where no toy has the degree of the network).
    """
    out = []
    for unit in _units(folder):
        points, plan = unit.points["eta_min"], unit.plan
        law, passes = _law(unit, table)
        known = np.isfinite(law)
        if not known.any():
            continue
        good = known & passes
        logs = np.log(points.eta[good] / law[good])
        fit, toy = _fit(unit, law, known), unit.fits.get(("eta_min", "depth"))
        row: dict[str, Any] = {"entry": plan.unit.entry.name, "steps": plan.unit.steps, "regime": plan.unit.regime}
        row |= {"points": int(known.sum()), "pass": int(good.sum())}
        row |= {"ratio": np.exp(logs.mean()) if len(logs) else np.nan}
        row |= {"spread": logs.std(ddof=1) / np.log(10) if len(logs) > 1 else np.nan}
        row |= {"fitted": fit.exponent, "half_width": fit.half_width}
        whole = bool(good[known].all())
        row |= {"flow": fit.predicted_window if whole else np.nan, "flow_verdict": fit.verdict if whole else ""}
        row |= {"toy": np.nan if toy is None else toy.predicted_window}
        out.append(row | {"toy_verdict": "" if toy is None else toy.verdict})
    return pd.DataFrame(out)


def _fit(unit: UnitResult, law: NDArray[np.float64], known: NDArray[np.bool_]) -> ScalingFit:
    points = unit.points["eta_min"]
    return fit_power_law(
        points.gamma[known],
        points.eta[known],
        eta_low=points.eta_low[known],
        eta_high=points.eta_high[known],
        seed=points.seed[known],
        window=(unit.plan.window.low, unit.plan.window.high),
        law=law[known],
    )


def _main(folder: Path, rest: list[str]) -> None:
    def read(name: str) -> pd.DataFrame | None:
        return pd.read_csv(folder / name) if (folder / name).exists() else None

    def keep(table: pd.DataFrame, name: str = "flow.csv") -> None:
        table.to_csv(folder / name, index=False, float_format="%.8g")

    made = flows(folder, tuple(rest), read("flow.csv"), keep)
    keep(made)
    keep(growths(folder, tuple(rest), read("growth.csv")), "growth.csv")
    print(summary(folder, made).to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    command(_main, "python -m empirical.campaign.flow FOLDER [ENTRY …]")
