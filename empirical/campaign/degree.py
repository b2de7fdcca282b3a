"""The Euler degree, measured before any slope is fitted, and the rich slope that it predicts.

In the rich regime f = F/γ is of order 1 at the end of training, so that F ∝ γ there; a network of local degree
D = d ln F/d ln|θ| has |θ| ∝ γ^{1/D} and a curvature ∝ (D F/|θ|)²/γ² ∝ γ^{−2/D} (``theory.degree_law``):

    η_crit ∝ γ^{2/D},        d ln η_crit / d ln γ = 2/D(γ) where D is settled.

Where D still drifts with γ the factor D² counts as well: η_crit ∝ |θ|²/D², of local slope 2/D − 2 d ln D/d ln γ (the
2/D − 2D′/D² of ``theory.degree_law``, since d ln γ = D d ln|θ|). Both laws are held against the boundary.

D(γ) = ⟨F, θ·∇F⟩/⟨F, F⟩ over fresh examples and classes, at the end of training just below eta_crit. Order matters
here: a rough trace of one seed (brackets of ``PILOT_RESOLUTION``, to which no slope is fitted) says where eta_crit is;
one cell for each γ and seed is trained ``BELOW_CRIT`` times below it; D is measured and the prediction is written down
with a time and a hash; only then is the boundary traced and fitted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from empirical.campaign.plan import Plan
from empirical.ensemble import log_spaced_steps
from empirical.observe import Measurements, observe
from empirical.sweep import Sweep
from simulate import BoundaryPoints, Outcome, ScalingFit, fit_power_law, trace_boundaries
from simulate.residual import BELOW_CRIT

PILOT_RESOLUTION = 0.27
"""Decades: half of the first scan's spacing. Enough to know a learning rate that trains, too little for a slope."""

SETTLED = 0.05
"""A degree has settled where it is within this share of its last value."""

GRADIENT_POWER = 2.0
"""Numerator of the slope for optimizers that step along the gradient."""

SAME = 1e-3
"""Degrees that differ by less, relatively, are the same."""

EXAMPLES = 256
"""Fresh examples, of batches after the last, over which degree and sharpness are averaged (at least)."""

PATH_POINTS = 12
"""Log-spaced steps at which the path of D is kept."""


@dataclass(frozen=True)
class DegreeCells:
    """Cells that trained just below eta_crit, and their degree on the way.

    Attributes:
        gamma: feature-learning strength, shape ``(cells,)``.
        eta: learning rate, same shape.
        seed: seed, same shape.
        outcome: ``Outcome`` values, same shape.
        step: steps t at which D was measured; the last is the budget T.
        degree: D, shape ``(cells, steps)``; NaN once a cell was decided.
        sharpness: λ of the loss after the last step, in the metric of the update, shape ``(cells,)``; NaN where it was
            not measured or has not converged.
    """

    gamma: NDArray[np.float64]
    eta: NDArray[np.float64]
    seed: NDArray[np.int64]
    outcome: NDArray[np.int8]
    step: NDArray[np.int64]
    degree: NDArray[np.float64]
    sharpness: NDArray[np.float64]

    def usable(self) -> NDArray[np.bool_]:
        """Cells that learned, with or without a catapult, and have a degree at the end.

        Returns:
            Shape ``(cells,)``.
        """
        return np.isin(self.outcome, (Outcome.TRAINED, Outcome.CATAPULT)) & np.isfinite(self.degree[:, -1])

    def settled_at(self) -> NDArray[np.float64]:
        """When D had reached what it is at the end.

        Returns:
            First kept step from which D stays within ``SETTLED`` of its last value, as a share of T; shape
            ``(cells,)``; NaN for cells without a degree at the end.
        """
        last = self.degree[:, -1:]
        with np.errstate(invalid="ignore"):
            near = np.abs(self.degree - last) <= SETTLED * np.abs(last)
        first = near.shape[1] - np.argmin(near[:, ::-1], axis=1)
        first = np.where(near.all(axis=1), 0, first).clip(max=len(self.step) - 1)
        return np.where(np.isfinite(last[:, 0]), self.step[first] / self.step[-1], np.nan)


def train_degrees(
    plan: Plan, gamma: NDArray[np.float64], eta: NDArray[np.float64], seed: NDArray[np.int64], sweep: Sweep
) -> DegreeCells:
    """Train cells, measure D at log-spaced steps, and the sharpness after the last one.

    Args:
        plan: whose networks these are.
        gamma: feature-learning strengths, shape ``(cells,)``.
        eta: learning rates, same shape.
        seed: seeds, same shape.
        sweep: says who trains, and where the shards go.

    Returns:
        The cells and their degrees.
    """
    config = plan.config
    steps = np.unique(np.append(log_spaced_steps(config.steps, PATH_POINTS), config.steps))
    wanted: tuple[tuple[str, tuple[int, ...]], ...] = (("euler_degree", tuple(steps.tolist())),)
    if plan.unit.entry.sharpness:
        wanted += (("sharpness", (config.steps,)),)
    what = Measurements(wanted, examples=EXAMPLES, sample="fresh", eigenvalues=1)
    found = observe(
        config, gamma, eta, seed, what, store=sweep.store, runner=sweep.runner, on_block=sweep.on_block
    )  # fmt: skip
    unseen = np.full((len(gamma), 1), np.nan)  # no cell was left after the last step, or none was to be measured
    sharpness = found.measured.get("sharpness", unseen)[:, 0]
    return DegreeCells(gamma, eta, seed, found.cells.outcome, steps, found.measured["euler_degree"], sharpness)


def measure_degrees(plan: Plan, sweep: Sweep, seeds: tuple[int, ...]) -> tuple[DegreeCells | None, BoundaryPoints]:
    """Find eta_crit roughly, then train below it and measure D.

    Args:
        plan: the unit.
        sweep: trains the rough trace.
        seeds: of the cells that are measured; the rough trace has the first.

    Returns:
        The cells (``None`` where nothing trained), and the rough brackets.
    """
    rough = replace(plan.settings, resolution=PILOT_RESOLUTION, sections=2)
    thresholds = plan.config.thresholds
    found = trace_boundaries(
        sweep.run_cells, plan.gamma, ("eta_crit",), plan.span, seeds=seeds[:1], settings=rough, thresholds=thresholds
    )["eta_crit"]
    if not len(found):
        return None, found
    gamma = np.tile(found.gamma, len(seeds))
    eta = np.tile(found.eta_low / BELOW_CRIT, len(seeds))
    seed = np.repeat(np.array(seeds, dtype=np.int64), len(found))
    return train_degrees(plan, gamma, eta, seed, sweep), found


@dataclass(frozen=True)
class Prediction:
    """The rich slope that the Euler degree predicts, written down before the slope is fitted.

    Attributes:
        gamma: where D was measured, ascending.
        degree: median D over seeds at each γ.
        power: 2 for optimizers that step along the gradient, 1 for those that take every weight equally far.
        slope: power/D at the largest γ, where the weights are largest and D has settled most.
        low: least power/D over γ and seeds within the settled part.
        high: largest.
        settled_from: least γ from which D stays within ``SETTLED`` of its value at the largest γ.
        cells: number of cells that were used.
    """

    gamma: tuple[float, ...]
    degree: tuple[float, ...]
    power: float
    slope: float
    low: float
    high: float
    settled_from: float
    cells: int

    @property
    def drifts(self) -> bool:
        """Whether the law of a drifting degree is another one: D differs between γ, and steps follow the gradient."""
        return self.power == GRADIENT_POWER and max(self.degree) > (1 + SAME) * min(self.degree)

    def law(self, gamma: NDArray[np.float64], *, drift: bool = False) -> NDArray[np.float64]:
        """The predicted law up to a factor: exp ∫ power/D(γ) d ln γ, D between and beyond its γ as at the nearest ones.

        Args:
            gamma: feature-learning strengths, any shape.
            drift: over D(γ)², as where the degree is not settled.

        Returns:
            η over its value at the least γ of the prediction, same shape.
        """
        known, slope = np.log(self.gamma), self.power / np.asarray(self.degree)
        at = np.log(gamma)
        fine = np.union1d(np.union1d(np.linspace(known[0], known[-1], 200), known), np.ravel(at))
        value = np.interp(fine, known, slope)
        rise = np.concatenate([[0.0], np.cumsum(np.diff(fine) * (value[1:] + value[:-1]) / 2)])
        settled = np.exp(np.interp(at, fine, rise) - np.interp(known[0], fine, rise))
        if not drift:
            return np.asarray(settled)
        degree = np.interp(at, known, self.degree)
        return np.asarray(settled * (self.degree[0] / degree) ** 2)

    def record(self) -> dict[str, Any]:
        """For ``predictions.json``.

        Returns:
            JSON-ready.
        """
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Prediction:
        """Read a prediction back.

        Args:
            record: as ``record`` gave it.

        Returns:
            The prediction.
        """
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
        return cls(**values)


def power_of(optimizer: str) -> float:
    """Numerator of the predicted slope.

    Args:
        optimizer: of the networks.

    Returns:
        2, or 1 for sign descent and Adam: they take each weight η far, and |θ| ∝ γ^{1/D}.
    """
    return 1.0 if optimizer in {"sign", "adam"} else GRADIENT_POWER


def predict(cells: DegreeCells | None, power: float = GRADIENT_POWER) -> Prediction | None:
    """Turn measured degrees into a predicted slope.

    Args:
        cells: as ``measure_degrees`` gives them.
        power: as ``power_of`` gives it.

    Returns:
        The prediction; ``None`` where fewer than two γ have a cell that trained with a positive degree.
    """
    if cells is None:
        return None
    good = cells.usable() & (cells.degree[:, -1] > 0)
    gamma, degree = cells.gamma[good], cells.degree[good, -1]
    grid = np.unique(gamma)
    if len(grid) < 2:
        return None
    median = np.array([np.median(degree[gamma == g]) for g in grid])
    near = np.abs(median - median[-1]) <= SETTLED * median[-1]
    first = 0 if near.all() else len(grid) - int(np.argmin(near[::-1]))
    settled = gamma >= grid[first]
    slopes = power / degree[settled]
    return Prediction(
        tuple(grid.tolist()),
        tuple(median.tolist()),
        power,
        float(power / median[-1]),
        float(slopes.min()),
        float(slopes.max()),
        float(grid[first]),
        int(good.sum()),
    )


def fit_against(
    prediction: Prediction, points: BoundaryPoints, window: tuple[float, float], *, drift: bool = False
) -> ScalingFit:
    """Fit a rich boundary and hold it against the prediction.

    Args:
        prediction: made before.
        points: traced points; at least one.
        window: (low, high) of γ.
        drift: hold it against the law of a drifting degree.

    Returns:
        The fit: ``predicted`` is power/D, ``predicted_window`` the slope of ``Prediction.law`` over the points.
    """
    return fit_power_law(
        points.gamma,
        points.eta,
        eta_low=points.eta_low,
        eta_high=points.eta_high,
        seed=points.seed,
        window=window,
        predicted=prediction.slope,
        law=prediction.law(points.gamma, drift=drift),
    )


def fit_sharpness(
    cells: DegreeCells, window: tuple[float, float], law: NDArray[np.float64] | None
) -> ScalingFit | None:
    """Fit the sharpness at the end of training as a power of γ.

    Args:
        cells: as ``measure_degrees`` gives them.
        window: (low, high) of γ.
        law: what λ should be proportional to at each cell, shape ``(cells,)``; no verdict when ``None``.

    Returns:
        The fit; ``None`` where no trained cell has a sharpness.
    """
    good = cells.usable() & (cells.sharpness > 0)
    if not good.any():
        return None
    return fit_power_law(
        cells.gamma[good],
        cells.sharpness[good],
        seed=cells.seed[good],
        window=window,
        law=None if law is None else law[good],
    )
