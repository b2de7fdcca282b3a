"""What sets the bump of η_crit around γ ≈ 1: networks that differ in one thing at a time, traced and watched.

    log₁₀ η_crit = log₁₀(2/λ) + log₁₀(η_crit λ/2)

splits the boundary into a static part, the sharpness λ (top eigenvalue of M^½ H M^½) that a run much slower than the
boundary meets, and a dynamic one, how far beyond that edge runs still train. A *slow* run has η_crit/10 and 10 T
steps, so that it ends at the τ at which the runs on the boundary do. Of each part a bump is measured over the crossover
law of the same two windows (``empirical.phenomena.bump``); the two add up but for their own fits.

    python -m empirical.experiments_bump --setups fixed-2 fixed-2-one --out runs/bump

What was predicted, and what came out, is in docs/bump.md.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from empirical.bump_setups import SETUPS, SLOWER, Setup, make_ensemble, watched
from empirical.measure.hessian import sharpness
from empirical.measure.record import Recorder, recorded_steps
from empirical.networks import Networks
from empirical.phenomena.bump import measure_bump
from empirical.shard import reproducible_torch
from empirical.trace import exact_law
from simulate import CellResults, Outcome, Thresholds, TraceSettings, catapult_portrait, classify, trace_boundaries
from theory.errors import InputError

_MIDDLE = (0.03, 0.1, 0.2, 0.4, 0.7, 1.0, 2.0, 4.0, 10.0, 30.0)
GAMMA = (5e-4, 2e-3, 5e-3, *_MIDDLE, 100.0, 300.0, 1000.0)
"""Three γ in each window and the middle between them."""

LAZY_WINDOW, RICH_WINDOW = (4e-4, 6e-3), (90.0, 1100.0)
"""Where the scalar law's local exponent is within 0.01 of its limits, for L = 2, 3, 4."""

PEAKS = (1.05, 1.5, 5.0, 50.0)
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
        One row a point: ``setup, depth, loss, peak, seed, boundary, gamma, eta, eta_low, eta_high``.
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
        thresholds = Thresholds(peak=peak)
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
    table = pd.concat(tables, ignore_index=True)
    return table.assign(setup=setup.name, depth=setup.depth, loss=setup.loss)


def watch(setup: Setup, points: pd.DataFrame, share: float, steps: int, count: int) -> pd.DataFrame:
    """Follow the sharpness of runs at a share of their η_crit.

    Args:
        setup: what is trained.
        points: rows of ``trace`` for one boundary and threshold.
        share: of ``eta_low``, the last cell that trains.
        steps: budget of these runs.
        count: how many log-spaced times to look at.

    Returns:
        One row a point: ``eta_run`` and the sharpness at the start, at the end, the largest and the least on the way;
        the peak and the tail of the loss over L₀, and its outcome by name.
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
    out = points[["setup", "depth", "loss", "seed", "gamma", "eta"]].reset_index(drop=True)
    return out.assign(
        eta_run=eta,
        steps=steps,
        start=seen[:, 0],
        end=seen[:, -1],
        most=np.nanmax(seen, axis=1),
        least=np.nanmin(seen, axis=1),
        peak_loss=cells.peak_loss / cells.initial_loss,
        tail_loss=cells.final_loss / cells.initial_loss,
        outcome=[Outcome(int(one)).label for one in cells.outcome],
    )


def bump_row(gamma: NDArray, eta: NDArray, seed: NDArray, rich: float, **about: Any) -> dict[str, Any]:
    """Measure a bump in the windows of this file.

    Args:
        gamma: γ of each point.
        eta: η, or 2/λ, of each.
        seed: seed of each.
        rich: exponent of the law at large γ.
        **about: further columns.

    Returns:
        A row of ``bumps.csv``: height in decades with its 95 % interval, where it is, A, γ₀, the scatter; ``corner`` is
        what min(A γ², A γ₀^{2−r} γ^r), the two powers without a smooth joint, has there, ``remainder`` the rest.
    """
    found = measure_bump(gamma, eta, seed=seed, lazy_window=LAZY_WINDOW, rich_window=RICH_WINDOW, rich_exponent=rich)
    low, high = found.height_interval
    ratio = found.peak_gamma / found.crossover
    corner = (2 - rich) * float(np.log10(1 + min(ratio, 1 / ratio))) if ratio > 0 else float("nan")
    row = {"status": found.status, "height": found.height, "low": low, "high": high, "at": found.peak_gamma}
    row |= {"A": found.coefficient, "gamma0": found.crossover, "scatter": found.scatter, "rich": rich}
    row |= {"corner": corner, "remainder": found.height - corner}
    return about | row


def free_exponent(points: pd.DataFrame) -> float:
    """Slope of a boundary in the rich window, by least squares over all points.

    Args:
        points: with ``gamma`` and ``eta``.

    Returns:
        d ln η / d ln γ.
    """
    part = points[points["gamma"].between(*RICH_WINDOW)]
    return float(np.polyfit(np.log(part["gamma"]), np.log(part["eta"]), 1)[0])


def bumps(points: pd.DataFrame, slow: pd.DataFrame) -> pd.DataFrame:
    """Bumps of every traced boundary, and of the parts of η_crit.

    Args:
        points: of ``trace``, one setup.
        slow: of ``watch``, the same setup.

    Returns:
        One row a quantity.
    """
    name, depth = str(points["setup"].iloc[0]), int(points["depth"].iloc[0])
    unit = SETUPS[name].unit if name in SETUPS else 1.0
    points, slow = (table.assign(gamma=table["gamma"] / unit) for table in (points, slow))
    rows = []

    def add(quantity: str, part: pd.DataFrame, eta: pd.Series, rich: float, peak: float) -> None:
        columns = (part["gamma"].to_numpy(), eta.to_numpy(), part["seed"].to_numpy())
        rows.append(bump_row(*columns, rich, setup=name, quantity=quantity, peak=peak))

    usual = Thresholds().peak
    for (boundary, peak), part in points.groupby(["boundary", "peak"]):
        add(str(boundary), part, part["eta"], 2 / depth, float(str(peak)))
        if boundary == "eta_crit" and peak == usual:
            add("eta_crit, free exponent", part, part["eta"], free_exponent(part), usual)
    for which in ("start", "end", "most"):
        add(f"2/lambda {which}", slow, 2 / slow[which], 2 / depth, usual)
    return pd.DataFrame(rows)


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


def two_layer(
    peaks: Sequence[float] = PEAKS,
    gamma: Sequence[float] = GAMMA,
    steps: int = 300,
    correlations: Sequence[float] = (0.0, 0.5, 0.9, 1.0),
) -> pd.DataFrame:
    """η_crit of the two-layer linear net of any width: the minimal model.

    Args:
        peaks: thresholds of the peak in units of L₀.
        gamma: feature-learning strengths.
        steps: budget T.
        correlations: of the two layers at the start: 0 is a wide network's, 1 the scalar model's.

    Returns:
        Rows like those of ``trace``, with the sharpness of the flow's minimum as ``end``.

    Raises:
        InputError: a γ at which the boundary is not within 0.3 to 10 of 2/λ*.
    """
    rows = []
    for correlation, g in itertools.product(correlations, gamma):
        end = float(two_layer_sharpness(g, correlation))
        scaled = np.geomspace(0.3, 10, 800) * 2 / end * 2 / g**2  # ηλ₀, λ₀ = 2/γ²
        run = catapult_portrait(scaled_rate=scaled, gamma=[g], correlation=correlation, steps=steps).data
        for peak in peaks:
            good = ((run.final_loss <= 0.9 * 0.5) & (run.peak_loss <= peak * 0.5)).values[0]
            if not good[0] or good.all():
                raise InputError("gamma", g, "one at which the boundary is within 0.3 to 10 of 2/λ*")
            low, high = scaled[np.argmin(good) - 1 : np.argmin(good) + 1] * g**2 / 2
            row = {"setup": f"two-layer {correlation:g}", "depth": 2, "loss": "mse", "peak": peak, "seed": 0}
            row |= {"boundary": "eta_crit", "gamma": g, "eta": (low * high) ** 0.5, "eta_low": low, "eta_high": high}
            rows.append(row | {"end": end})
    return pd.DataFrame(rows)


def investigate(setup: Setup, out: Path, **options: Any) -> None:
    """Trace a setup, watch it, and write ``NAME-points.csv``, ``-slow.csv``, ``-edge.csv`` and ``-bumps.csv``.

    Args:
        setup: what is trained.
        out: folder of the tables.
        **options: of ``trace``.
    """
    points = trace(setup, **options)
    usual = points[(points["boundary"] == "eta_crit") & (points["peak"] == Thresholds().peak)]
    slow = watch(setup, usual, 1 / SLOWER, SLOWER * setup.steps, _SLOW_POINTS)
    edge = watch(setup, usual, 0.9, setup.steps, _EDGE_POINTS)
    out.mkdir(parents=True, exist_ok=True)
    tables = {"points": points, "slow": slow, "edge": edge, "bumps": bumps(points, slow)}
    for name, table in tables.items():
        table.to_csv(out / f"{setup.name}-{name}.csv", index=False, float_format="%.5g")


def main(setups: tuple[str, ...], out: Path = Path("paper_figures/results/bump")) -> None:
    """Run setups by name; ``two-layer`` is the minimal model.

    Args:
        setups: names from ``SETUPS``, or ``two-layer``.
        out: folder of the tables.

    Raises:
        InputError: an unknown name.
    """
    for name in setups:
        if name != "two-layer" and name not in SETUPS:
            raise InputError("setups", name, "two-layer, " + ", ".join(SETUPS))
    out.mkdir(parents=True, exist_ok=True)
    for name in setups:
        if name == "two-layer":
            points = two_layer()
            points.to_csv(out / "two-layer-points.csv", index=False, float_format="%.5g")
            table = pd.concat([
                bumps(part, part.assign(start=2 / part["gamma"] ** 2, most=part["end"]))
                for _, part in points.groupby("setup")
            ])
            table.to_csv(out / "two-layer-bumps.csv", index=False, float_format="%.5g")
        else:
            investigate(SETUPS[name], out)


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
