"""Made-up data with known answers, in the form that the experiments have."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from empirical.experiments.plane import Plane, PlaneConfig
from empirical.shard import TrainingConfig
from empirical.trace import exact_law, fit_boundary, law_of
from simulate import BoundaryPoints, Outcome, phase_portrait

GAMMA = np.geomspace(1e-4, 1e4, 25)
DEPTH, CLASSES, SEEDS = 3, 4, 3


def make_plane(loss: str = "mse", tilt: float = 0.0, boundaries: tuple[str, ...] = ("eta_crit", "eta_fail")) -> Plane:
    """The toy's portrait, with boundary points on the exact law times γ^tilt."""
    training = TrainingConfig(depth=DEPTH, width=8, image_size=7, batch_size=8, steps=300, loss=loss)
    config = PlaneConfig(training, (1e-4, 1e4, 25), (1e-12, 1e4, 33), boundaries)
    portrait = phase_portrait(
        loss=loss, depth=DEPTH, gamma=np.geomspace(*config.gamma), eta=np.geomspace(*config.eta), steps=300
    )
    gone = portrait.data["final_loss"] / portrait.data["initial_loss"]
    accuracy = 0.9 - 0.8 * np.clip(gone, 0, 1)
    portrait.data["final_accuracy"] = accuracy.where(portrait.data["outcome"] < Outcome.UNSTABLE)
    points, fits, windows = {}, {}, {}
    for regime in ("lazy", "rich"):
        for name in boundaries:
            window = config.window(regime, name)
            assert window is not None
            gamma = np.tile(np.geomspace(window.low, window.high, 6), 2)
            eta = exact_law(name, gamma, **law_of(training)) * gamma**tilt
            seed = np.repeat([0, 1], 6)
            points[regime, name] = BoundaryPoints(name, gamma, seed, eta, eta / 1.02, eta * 1.02)
            windows[regime, name] = window
            fits[regime, name] = fit_boundary(points[regime, name], window, **law_of(training))
    return Plane(config, portrait, points, fits, windows)


def make_landscape(
    lazy: float = -2.0, rich: float = -2.0 / DEPTH, lead: float = 3.0, agree: float = 0.01
) -> xr.Dataset:
    """Spectra that are powers of γ, alignments ahead of losses by a factor, outputs that agree up to noise.

    Args:
        lazy: slope of the sharpness for γ < 1.
        rich: slope for γ > 1.
        lead: time of half the loss over that of half the alignment.
        agree: deviation of the outputs of one γ from those of its regime.
    """
    draw = np.random.default_rng(3)
    steps = np.unique(np.round(np.geomspace(1, 1001, 60)).astype(int)) - 1
    spectra = np.array([0, 10, 100, 1000])
    g, s = len(GAMMA), SEEDS
    half = 150.0
    progress = 1 / (1 + (half / np.maximum(steps, 1e-3)) ** 6)
    turn = 1 / (1 + (half / lead / np.maximum(steps, 1e-3)) ** 6)
    top = np.where(GAMMA < 1, GAMMA**lazy, GAMMA**rich)
    rank = np.concatenate([np.linspace(1, 0.7, CLASSES), 0.05 * np.linspace(1, 0.8, 20 - CLASSES)])
    growth = np.where(GAMMA[:, None] < 10, 1.0, np.geomspace(0.01, 1, len(spectra)))
    noise = np.exp(0.01 * draw.standard_normal((g, s, 1, 1)))
    eigenvalue = top[:, None, None, None] * growth[:, None, :, None] * rank * noise
    base = {regime: draw.standard_normal((s, 30, CLASSES)) for regime in ("lazy", "rich")}
    regimes = ["lazy" if one < 1 else "rich" for one in GAMMA]
    final = np.stack([base[regime] + agree * draw.standard_normal((s, 30, CLASSES)) for regime in regimes])
    raw = GAMMA[:, None, None, None, None] * final[:, :, None] * progress[None, None, :, None, None]
    rise = np.where(GAMMA > 1, 0.5, 0.01)[:, None, None]
    data = {
        "loss": (("gamma", "seed", "step"), np.broadcast_to(0.5 * (1 - 0.9 * progress), (g, s, len(steps)))),
        "alignment": (("gamma", "seed", "step"), np.broadcast_to(0.3 + rise * turn, (g, s, len(steps)))),
        "centred_alignment": (
            ("gamma", "seed", "step"),
            np.broadcast_to(0.1 + rise * turn, (g, s, len(steps))),
        ),
        "raw": (("gamma", "seed", "step", "example", "class"), raw),
        "eigenvalue": (("gamma", "seed", "spectrum_step", "rank"), eigenvalue),
        "eta": ("gamma", np.where(GAMMA < 1, GAMMA**2, GAMMA)),
    }
    coords = {"gamma": GAMMA, "seed": np.arange(s), "step": steps, "spectrum_step": spectra}
    attrs = {"arch": "mlp", "depth": DEPTH, "loss": "mse", "width": 8, "classes": CLASSES}
    return xr.Dataset(data, coords, attrs)


def make_curves(lazy: float = 0.2, rich: float = 0.6, gain: float = 0.05) -> xr.Dataset:
    """Losses that are powers of time, accuracies that rise with γ and the budget by ``gain``."""
    draw = np.random.default_rng(4)
    steps = np.unique(np.round(np.geomspace(1, 1000, 50)))
    exponent = np.where(GAMMA < 1, lazy, rich)[:, None, None]
    noise = np.exp(0.005 * draw.standard_normal((len(GAMMA), SEEDS, len(steps))))
    ln = np.log(GAMMA)[:, None, None]
    budgets = np.array([100, 1000])
    accuracy = 0.7 + gain * np.clip(ln, -3, 3) / 3 * (budgets / 1000 * 2 - 1) + np.zeros((1, SEEDS, 1))
    accuracy = accuracy + 1e-3 * draw.standard_normal(accuracy.shape)
    data = {
        "loss": (("gamma", "seed", "step"), 2.0 * steps**-exponent * noise),
        "accuracy": (("gamma", "seed", "budget"), accuracy),
        "eta": ("gamma", GAMMA),
    }
    coords = {"gamma": GAMMA, "seed": np.arange(SEEDS), "step": steps, "budget": budgets}
    return xr.Dataset(data, coords, {"arch": "cnn", "depth": DEPTH, "loss": "cross-entropy", "width": 8})


def make_catapults(slope: float = -1.0, largest: float = 1.0) -> xr.Dataset:
    """Catapults of height 2 (γ/largest)^slope below ``largest``, none above, at one rung of six."""
    gamma, steps = np.geomspace(1e-3, 1e3, 13), np.arange(60)
    shape = (len(gamma), 6, 4)
    outcome = np.full(shape, Outcome.TRAINED)
    outcome[:, 5] = Outcome.DIVERGED
    peak = np.ones(shape)
    low = gamma < largest
    outcome[low, 4] = Outcome.CATAPULT
    peak[low, 4] = (2 * (gamma[low] / largest) ** slope)[:, None]
    bump = np.exp(-0.5 * ((steps - 12) / 4) ** 2)
    loss = np.exp(-steps / 30) * np.maximum(1, peak[..., None] * bump)
    data = {
        "loss": (("gamma", "rate", "seed", "step"), loss),
        "outcome": (("gamma", "rate", "seed"), outcome),
        "peak": (("gamma", "rate", "seed"), peak),
        "start": (("gamma", "rate", "seed"), np.ones(shape)),
        "eta": (("gamma", "rate", "seed"), np.ones(shape)),
    }
    coords = {"gamma": gamma, "rate": np.geomspace(1, 30, 6), "seed": np.arange(4), "step": steps}
    return xr.Dataset(data, coords, {"arch": "mlp", "depth": DEPTH, "width": 8})


def make_spectra(outliers: int = CLASSES) -> xr.Dataset:
    """A bulk of even relative gaps of 5 %, and above it outliers, twice as high."""
    rank = np.arange(24)
    top = np.where(rank < outliers, 2.0, 1.0) * 0.95**rank
    draw = np.random.default_rng(5)
    values = np.sort(top * np.exp(0.005 * draw.standard_normal((12, 24))))[:, ::-1]
    attrs = {"classes": CLASSES, "gamma": 1e-3, "eta": 1e-6, "width": 256, "examples": 512}
    return xr.Dataset(
        dict.fromkeys(("hessian", "gauss_newton"), (("seed", "rank"), values)), {"seed": np.arange(12)}, attrs
    )


def make_budgets(slope: float = -1.0) -> pd.DataFrame:
    """eta_min = law · T^(slope + 1), with narrow brackets."""
    rows = [(T, g, s) for T in (50, 100, 200, 400, 800) for g in (1e-3, 1e3) for s in (0, 1)]
    table = pd.DataFrame(rows, columns=["steps", "gamma", "seed"])
    law = [float(exact_law("eta_min", g, depth=DEPTH, steps=T)) for T, g, _ in rows]
    eta = np.array(law) * table["steps"] ** (slope + 1.0)
    return table.assign(law=law, eta=eta, eta_low=eta / 1.02, eta_high=eta * 1.02)


@pytest.fixture(scope="session")
def made():
    """Everything that figures and claims ask for, where the claims hold."""
    return {
        "mse": make_plane(),
        "cross_entropy": make_plane("cross-entropy", boundaries=("eta_crit", "eta_max")),
        "landscape": make_landscape(),
        "spectra": make_spectra(),
        "curves": make_curves(),
        "catapults": make_catapults(),
        "budgets": make_budgets(),
    }


@pytest.fixture(scope="session")
def make():
    """The makers by name, for data in which a claim fails."""
    return {
        "plane": make_plane,
        "landscape": make_landscape,
        "spectra": make_spectra,
        "curves": make_curves,
        "catapults": make_catapults,
        "budgets": make_budgets,
    }
