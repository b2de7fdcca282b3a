"""What sets the bump of η_crit around γ ≈ 1: networks that differ in one thing at a time, traced and watched.

    log₁₀ η_crit = log₁₀(2/λ) + log₁₀(η_crit λ/2)

splits the boundary into a static part, the sharpness λ (top eigenvalue of M^½ H M^½) that a run much slower than the
boundary meets, and a dynamic one, how far beyond that edge runs still train. A *slow* run has η_crit/10 and 10 T
steps, so that it ends at the τ at which the runs on the boundary do. Of each part a bump is measured over the crossover
law of the same two windows (``empirical.phenomena.bump``); the two add up but for their own fits.

    python -m empirical.experiments_bump --setups two-layer fixed-2 fixed-2-one --out runs/bump

What was predicted, and what came out, is in docs/bump.md.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from empirical.bump_setups import SETUPS, SLOWER, STRICT, Setup, make_ensemble, watched
from empirical.bump_tables import bumps, edges, orders, widen
from empirical.measure.hessian import sharpness
from empirical.measure.record import Recorder, recorded_steps
from empirical.networks import Networks
from empirical.shard import reproducible_torch
from empirical.trace import exact_law
from simulate import CellResults, Outcome, Thresholds, TraceSettings, catapult_portrait, classify, trace_boundaries
from theory.errors import InputError

_MIDDLE = (0.03, 0.1, 0.2, 0.4, 0.7, 1.0, 2.0, 4.0, 10.0, 30.0)
GAMMA = (5e-4, 2e-3, 5e-3, *_MIDDLE, 100.0, 300.0, 1000.0)
"""Three γ in each window and the middle between them."""

PEAKS = (1.05, 1.5, 5.0, 50.0)
CORRELATIONS = (0.0, 0.5, 0.9, 1.0)
COARSE = TraceSettings(coarse=0.48, resolution=0.03, sections=4, guard_span=0.2, guard_spacing=0.1)
_SLOW_POINTS, _EDGE_POINTS = 12, 16


class Cells:
    """Runs cells once and remembers them: other thresholds name the same runs anew.

    Args:
        setup: what is trained.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._known: dict[tuple[float, float, int], tuple[Any, ...]] = {}

    def run(self, gamma: NDArray, eta: NDArray, seed: NDArray, thresholds: Thresholds) -> CellResults:
        """Run what is not known yet.

        Args:
            gamma: feature-learning strengths, shape ``(cells,)``.
            eta: learning rates before the width multiplier, same shape.
            seed: seeds, same shape.
            thresholds: by which outcomes are named; their tail and divergence are the default ones in any case.

        Returns:
            Results in the order of the cells.
        """
        keys = list(zip(gamma.tolist(), eta.tolist(), seed.tolist(), strict=True))
        new = [key for key in dict.fromkeys(keys) if key not in self._known]
        if new:
            gammas, etas, seeds = (np.array(column) for column in zip(*new, strict=True))
            with reproducible_torch("cpu"):
                cells = make_ensemble(self.setup, gammas, etas, seeds, self.setup.steps).run(self.setup.steps).cells
            rows = zip(*cells.fields().values(), strict=True)
            self._known.update(zip(new, rows, strict=True))
        fields = [np.array(column) for column in zip(*(self._known[key] for key in keys), strict=True)]
        result = CellResults(*fields)
        outcome = classify(
            result.final_loss,
            result.peak_loss,
            result.initial_loss,
            diverged=result.outcome == Outcome.DIVERGED,
            dead=result.outcome == Outcome.DEAD,
            thresholds=thresholds,
        )
        return replace(result, outcome=outcome)


def trace(
    setup: Setup,
    gamma: Sequence[float] = GAMMA,
    seeds: Sequence[int] = (0, 1, 2),
    peaks: Sequence[float] = PEAKS,
    settings: TraceSettings = COARSE,
) -> pd.DataFrame:
    """Trace η_crit for several thresholds of the peak, and η_fail and η_max for the usual one.

    Args:
        setup: what is trained.
        gamma: feature-learning strengths, in units of ``setup.unit``.
        seeds: of weights and batches.
        peaks: thresholds in units of L₀; 1.5 is the usual one.
        settings: spacings.

    Returns:
        One row a point: ``peak, seed, boundary, gamma, eta, eta_low, eta_high``.
    """
    cells, tables = Cells(setup), []

    def span(one: float) -> tuple[float, float]:
        unit = setup.unit
        least, crit = (
            unit ** (2 / setup.depth)
            * float(exact_law(name, one / unit, depth=setup.depth, steps=setup.steps, loss=setup.loss))
            for name in ("eta_min", "eta_crit")
        )
        return min(least, crit), 10 * crit

    for peak in sorted(peaks, key=lambda p: p != Thresholds().peak):
        thresholds = Thresholds(peak=peak, level=setup.level)
        points = trace_boundaries(
            functools.partial(cells.run, thresholds=thresholds),
            setup.unit * np.array(gamma),
            ("eta_crit", "eta_fail", "eta_max") if peak == Thresholds().peak else ("eta_crit",),
            span,
            seeds=tuple(seeds),
            settings=settings,
            thresholds=thresholds,
        )
        tables += [part.table().assign(peak=peak) for part in points.values()]
    return pd.concat(tables, ignore_index=True)


def watch(setup: Setup, points: pd.DataFrame, share: float, steps: int, count: int) -> pd.DataFrame:
    """Follow the sharpness of runs at a share of their η_crit.

    Args:
        setup: what is trained.
        points: rows of ``trace`` for one boundary and threshold.
        share: of ``eta_low``, the last cell that trains.
        steps: budget of these runs.
        count: how many log-spaced times to look at.

    Returns:
        One row a point: ``seed, gamma, eta``, the sharpness at the ``start``, at the ``end`` and the ``most`` on the
        way, and the ``peak`` and ``tail`` of the loss over L₀.
    """
    eta = points["eta_low"].to_numpy() * share
    with reproducible_torch("cpu"):
        ensemble = make_ensemble(setup, points["gamma"].to_numpy(), eta, points["seed"].to_numpy(), steps)

        def measure(networks: Networks) -> NDArray[np.float64]:
            x, y = watched(setup, networks.seed)
            return sharpness(networks, x, y, loss=setup.loss).sharpness.cpu().numpy()

        recorder = Recorder({"sharpness": measure})
        looks = np.union1d(recorded_steps(steps, count), [2, 5])
        cells = ensemble.run(steps, probe=recorder, probe_steps=looks).cells
    seen = recorder.dataset(ensemble)["sharpness"].values
    return points[["seed", "gamma"]].assign(
        eta=eta,
        start=seen[:, 0],
        end=seen[:, -1],
        most=np.nanmax(seen, axis=1),
        peak=cells.peak_loss / cells.initial_loss,
        tail=cells.final_loss / cells.initial_loss,
    )


def two_layer_sharpness(gamma: ArrayLike, correlation: float) -> NDArray[np.float64]:
    """Sharpness of the minimum that gradient flow finds in the two-layer linear net.

    With a, b the norms of (u ± v)/√(2n), flow conserves a b, and a² − b² = 2 u·v/n grows from 2ρ to 2(ρ + γ), so that
    λ* = (a² + b²)/γ² = (2/γ²) √((ρ + γ)² + 1 − ρ²). The flattest minimum, u = v, has 2(ρ + γ)/γ². (Derived here; the
    model is in the appendix of arXiv:2410.04642.)

    Args:
        gamma: feature-learning strengths, any shape.
        correlation: ρ = u₀·v₀/n for |u₀|² = |v₀|² = n.

    Returns:
        λ*, same shape; η λ*/2 = 1 is the edge, with the weights' step ηn.
    """
    g = np.asarray(gamma, dtype=np.float64)
    return np.asarray(2 / g**2 * np.sqrt((correlation + g) ** 2 + 1 - correlation**2))


def two_layer_edge(gamma: ArrayLike, correlation: float) -> NDArray[np.float64]:
    """η_crit of the two-layer linear net if the only edges are those of the start and of the flattest minimum.

    min(2/λ₀, 2/λ_flat), λ₀ = 2/γ² and λ_flat = 2(ρ + γ)/γ² (Cauchy–Schwarz: |u|² + |v|² ≥ 2 u·v). Its height over the
    scalar law γ²/(1 + γ) is log₁₀(2 − ρ), at γ = 1 − ρ. (Derived here.)

    Args:
        gamma: feature-learning strengths, any shape.
        correlation: ρ.

    Returns:
        γ²/max(1, ρ + γ), same shape; the weights' step is ηn.
    """
    g = np.asarray(gamma, dtype=np.float64)
    return np.asarray(g**2 / np.maximum(1.0, correlation + g))


def two_layer(
    correlation: float,
    peaks: Sequence[float] = PEAKS,
    gamma: Sequence[float] = GAMMA,
    steps: int = 300,
    level: float = Thresholds().level,
) -> pd.DataFrame:
    """η_crit of the two-layer linear net of any width: the minimal model.

    Args:
        correlation: of the two layers at the start: 0 is a wide network's, 1 the scalar model's.
        peaks: thresholds of the peak in units of L₀.
        gamma: feature-learning strengths.
        steps: budget T.
        level: share of L₀ that the tail of a trained run may have.

    Returns:
        Rows like those of ``trace``.

    Raises:
        InputError: a γ at which the boundary is not within 0.3 to 10 of 2/λ*.
    """
    rows = []
    for g in gamma:
        scaled = np.geomspace(0.3, 10, 800) * 4 / g**2 / float(two_layer_sharpness(g, correlation))  # ηλ₀, λ₀ = 2/γ²
        run = catapult_portrait(scaled_rate=scaled, gamma=[g], correlation=correlation, steps=steps).data
        for peak in peaks:
            good = ((run.final_loss <= level * 0.5) & (run.peak_loss <= peak * 0.5)).values[0]
            if not good[0] or good.all():
                raise InputError("gamma", g, "one at which the boundary is within 0.3 to 10 of 2/λ*")
            low, high = scaled[np.argmin(good) - 1 : np.argmin(good) + 1] * g**2 / 2
            row = {"seed": 0, "boundary": "eta_crit", "peak": peak, "gamma": g, "eta": (low * high) ** 0.5}
            rows.append(row | {"eta_low": low, "eta_high": high})
    return pd.DataFrame(rows)


def investigate(setup: Setup, **options: Any) -> pd.DataFrame:
    """Trace a setup and watch it.

    Args:
        setup: what is trained.
        **options: of ``trace``.

    Returns:
        A wide table (``bump_tables``).
    """
    points = trace(setup, **options)
    usual = points[(points["boundary"] == "eta_crit") & (points["peak"] == Thresholds().peak)]
    slow = watch(setup, usual, 1 / SLOWER, SLOWER * setup.steps, _SLOW_POINTS)
    edge = watch(setup, usual, 0.9, setup.steps, _EDGE_POINTS)
    watched = {"slow": slow.drop(columns=["eta", "peak"]), "edge": edge}
    return widen(points, watched, setup=setup.name, depth=setup.depth, loss=setup.loss, unit=setup.unit)


def minimal_model(correlation: float, level: float) -> pd.DataFrame:
    """The two-layer net as a wide table; its λ are exact.

    Args:
        correlation: of the layers at the start.
        level: share of L₀ that the tail of a trained run may have.

    Returns:
        The table.
    """
    points = two_layer(correlation, level=level)
    name = f"two-layer-{correlation:g}{'-strict' * (level == STRICT)}"
    gamma = np.array(GAMMA)
    end = two_layer_sharpness(gamma, correlation)
    exact = pd.DataFrame({"seed": 0, "gamma": gamma, "start": 2 / gamma**2, "end": end, "most": end})
    return widen(points, {"slow": exact}, setup=name, depth=2, loss="mse", unit=1.0)


def main(setups: tuple[str, ...] = (), out: Path = Path("paper_figures/results/bump")) -> None:
    """Run setups, write one table for each, and make ``bumps.csv``, ``edges.csv`` and ``orders.csv`` of all there.

    Args:
        setups: names from ``SETUPS``, or ``two-layer``; none to make the last three again.
        out: folder of the tables.

    Raises:
        InputError: an unknown name.
    """
    for name in setups:
        if name != "two-layer" and name not in SETUPS:
            raise InputError("setups", name, "two-layer, " + ", ".join(SETUPS))
    out.mkdir(parents=True, exist_ok=True)
    for name in setups:
        models = [(rho, level) for rho in CORRELATIONS for level in (Thresholds().level, STRICT)]
        two = name == "two-layer"
        for table in [minimal_model(*model) for model in models] if two else [investigate(SETUPS[name])]:
            table.to_csv(out / f"{table['setup'].iloc[0]}.csv", index=False, float_format="%.4g")
    tables = [pd.read_csv(path) for path in sorted(out.glob("*-*.csv"))]
    found = bumps(tables)
    found.to_csv(out / "bumps.csv", index=False, float_format="%.3g")
    orders(tables).to_csv(out / "orders.csv", index=False, float_format="%.3g")
    edges(tables, found).to_csv(out / "edges.csv", index=False, float_format="%.3g")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
