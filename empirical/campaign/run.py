"""Runs a campaign, unit by unit; the tables are whole after every unit, whatever comes after it.

A unit is: (1) Euler degree and sharpness below eta_crit, and in the rich regime what the degree predicts, written down;
(2) its boundaries, traced; (3) fits, each held against the toy's law at the depth, against 2/D, or both. All networks
are trained in blocks that are kept as shards, so that an interrupted campaign goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from numpy.typing import NDArray

from empirical.campaign.degree import DegreeCells, Prediction, fit_against, measure_degrees, power_of, predict
from empirical.campaign.journal import Journal
from empirical.campaign.plan import Plan, plan_all
from empirical.campaign.schema import Campaign, Unit
from empirical.law import law_depth
from empirical.progress import Progress
from empirical.runners import Runner
from empirical.star import Recording, trace_star
from empirical.store import RunDirectory
from empirical.sweep import Sweep
from empirical.trace import fit_boundary
from simulate import BoundaryPoints, ScalingFit, fit_power_law, trace_boundaries
from theory.errors import InputError

Fits = dict[tuple[str, str], ScalingFit]
"""Fits by (boundary, what the prediction came from).

``depth``: the toy's exact law at the network's depth. ``euler_degree``: 2/D of the measured degree;
``euler_degree_drift``: with the drift of D counted. ``large_weights``: 2/D of the degree that the architecture has when
its weights are large, known before anything is trained. ``none``: no law.
"""


@dataclass(frozen=True)
class UnitResult:
    """What one unit found.

    Attributes:
        plan: where it looked.
        points: traced points by boundary.
        fits: see ``Fits``.
        cells: all cells that were run for it, as ``Recording.table`` gives them.
        degrees: cells whose Euler degree was measured; ``None`` where it was not.
        prediction: of the rich slope from the degree; ``None`` where there is none.
    """

    plan: Plan
    points: dict[str, BoundaryPoints]
    fits: Fits
    cells: dict[str, NDArray]
    degrees: DegreeCells | None
    prediction: Prediction | None


@dataclass(frozen=True)
class CampaignResult:
    """What a campaign has found so far.

    Attributes:
        campaign: what is run.
        done: finished units, in order.
        refused: units for which theory leaves no window, with the reason.
        waiting: units that have not run.
    """

    campaign: Campaign
    done: tuple[UnitResult, ...]
    refused: dict[str, str]
    waiting: tuple[Unit, ...]


def fit_unit(planned: Plan, points: dict[str, BoundaryPoints], prediction: Prediction | None) -> Fits:
    """Fit what a unit traced.

    Args:
        planned: the unit.
        points: traced points by boundary.
        prediction: made before, from the degree.

    Returns:
        One fit a boundary against the toy's law, where the degree is the depth exactly or the regime is lazy (there the
        exponent does not depend on it); one against 2/D where there is a prediction, but for ``eta_min``,
        another against the law of a drifting D where D differs between γ, and, where the degree is not the depth,
        one against that of large weights; one against nothing where there is neither, none in the middle.

    Raises:
        InputError: anything but a boundary that has no law at this depth.
    """
    fits: Fits = {}
    if planned.unit.regime == "middle":
        return fits
    window, rich = planned.window, planned.unit.regime == "rich"
    ends = (window.low, window.high)
    for name, found in points.items():
        if not len(found):
            continue
        if planned.exact or not rich:
            try:
                fits[name, "depth"] = fit_boundary(found, window, **planned.law)
            except InputError as error:
                if error.field != "depth":
                    raise
        if prediction is not None and rich and name != "eta_min":
            fits[name, "euler_degree"] = fit_against(prediction, found, ends)
            if prediction.drifts:
                fits[name, "euler_degree_drift"] = fit_against(prediction, found, ends, drift=True)
        fit = partial(
            fit_power_law, found.gamma, found.eta,
            eta_low=found.eta_low, eta_high=found.eta_high, seed=found.seed, window=ends,
        )  # fmt: skip
        if rich and not planned.exact and name != "eta_min":
            degree, _ = law_depth(planned.config)
            fits[name, "large_weights"] = fit(predicted=power_of(planned.config.optimizer) / degree)
        if not any(boundary == name for boundary, _ in fits):
            fits[name, "none"] = fit()
    return fits


def run_unit(planned: Plan, sweep: Sweep, journal: Journal | None) -> UnitResult:
    """Measure, predict, trace, fit: in this order.

    Args:
        planned: the unit.
        sweep: trains its networks.
        journal: where the prediction and the fit are dated; nowhere when ``None``.

    Returns:
        What was found.
    """
    unit = planned.unit
    seeds = unit.entry.every_seed
    recording, degrees, prediction = Recording(sweep.run_cells), None, None
    if unit.entry.degree and unit.regime != "middle":
        degrees, rough = measure_degrees(planned, sweep, seeds)
        if unit.regime == "rich":
            prediction = predict(degrees, power=power_of(planned.config.optimizer))
        if prediction is not None and journal is not None:
            prediction = Prediction.from_record(journal.predict(unit.name, prediction.record()))
        span = _around(planned, rough)
    else:
        span = planned.span
    points = trace_boundaries(
        recording, planned.gamma, planned.traced, span,
        seeds=seeds, settings=planned.settings, thresholds=planned.config.thresholds,
    )  # fmt: skip
    if "eta_star" in unit.entry.boundaries:
        points["eta_star"] = trace_star(recording, planned.gamma, seeds)
    points = {name: points[name] for name in unit.entry.boundaries}
    fits = fit_unit(planned, points, prediction)
    if journal is not None:
        journal.note("fitted", unit.name, [[*key, f"{fit.exponent:.9g}"] for key, fit in fits.items()])
    return UnitResult(planned, points, fits, recording.table(), degrees, prediction)


def _around(planned: Plan, rough: BoundaryPoints) -> Callable[[float], tuple[float, float]]:
    """First scans around the rough brackets, which cost fewer cells than those from the law."""
    known = {float(g): (low, high) for g, low, high in zip(rough.gamma, rough.eta_low, rough.eta_high, strict=True)}

    def span(gamma: float) -> tuple[float, float]:
        by_law = planned.span(gamma)
        if gamma not in known:
            return by_law
        low, high = known[gamma]
        bottom = by_law[0] if "eta_min" in planned.traced else low / 4
        return min(bottom, low / 4), 6 * planned.ratio_of_max(gamma) * high

    return span


def run_campaign(
    campaign: Campaign,
    store: RunDirectory | None,
    progress: Progress,
    runner: Runner | None = None,
    *,
    device: str = "cpu",
    on_unit: Callable[[CampaignResult], None] | None = None,
) -> CampaignResult:
    """Run a campaign, or go on with one.

    Args:
        campaign: what to run.
        store: directory that keeps what was computed; nothing is kept when ``None``.
        progress: is told how far the run is.
        runner: who trains, this process when ``None``.
        device: where to train.
        on_unit: called with all that has been found after each unit.

    Returns:
        Everything that was found.
    """
    units, (plans, refused) = campaign.units(), plan_all(campaign, device)
    progress.plan(sum(p.expected_cells() * p.config.steps for p in plans.values()))
    journal = None if store is None else Journal(store)
    done: list[UnitResult] = []
    with runner or Runner() as trainer:
        for i, unit in enumerate(units):
            if unit.name not in plans:
                continue
            planned = plans[unit.name]
            progress.phase(unit.name, planned.expected_cells() * planned.config.steps)
            sweep = Sweep(planned.config, store, lambda _c, steps, held: progress.advance(steps, held), trainer)
            done.append(run_unit(planned, sweep, journal))
            if on_unit is not None:
                on_unit(CampaignResult(campaign, tuple(done), refused, units[i + 1 :]))
    return CampaignResult(campaign, tuple(done), refused, ())
