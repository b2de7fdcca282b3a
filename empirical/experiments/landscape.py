"""What happens inside the networks across γ: Hessian spectra, kernel–target alignment and outputs along training.

One set of runs serves several figures: MLPs on squared error, each γ at the second largest learning rate that converges
on the grid. Spectra are those of M^½ H M^½, the Hessian in the metric of the update, on fixed test examples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from empirical.experiments.lab import Lab
from empirical.experiments.plane import Plane, convergent_line
from empirical.observe import Measurements, measured_steps


@dataclass(frozen=True)
class LandscapeConfig:
    """Measurements along training.

    Attributes:
        steps: length of the runs.
        seeds: number of seeds.
        first_seed: the first of them; another one repeats the experiment on networks and data that it has not seen.
        spectrum_points: steps at which spectra are taken, log-spaced, the start and the end among them.
        points: steps at which losses, alignments and outputs are taken.
        examples: test examples that everything is measured on.
        eigenvalues: kept of each spectrum.
        every: every how many γ of the grid.
        width: of the networks; that of the grid when ``None`` (in μP its learning rates serve every width).
    """

    steps: int
    seeds: int = 2
    first_seed: int = 0
    spectrum_points: int = 10
    points: int = 40
    examples: int = 200
    eigenvalues: int = 20
    every: int = 1
    width: int | None = None


def run_landscape(config: LandscapeConfig, plane: Plane, lab: Lab) -> xr.Dataset:
    """Train across γ and measure.

    Args:
        config: what to run.
        plane: the grid that gives the learning rates, and what is trained.
        lab: who runs it.

    Returns:
        ``loss`` (on the sample), ``alignment``, ``centred_alignment``, ``raw`` (F − F₀ over example, class), each over
        gamma, seed, step; ``eigenvalue`` over gamma, seed, spectrum_step, rank; ``eta`` over gamma.
    """
    grid_width = plane.config.training.width
    training = replace(plane.config.training, steps=config.steps, width=config.width or grid_width)
    gamma, eta = convergent_line(plane, config.every)
    seeds = np.arange(config.first_seed, config.first_seed + config.seeds)
    g, s = (index.ravel() for index in np.indices((len(gamma), len(seeds))))
    steps, spectra = measured_steps(config.steps, config.points), measured_steps(config.steps, config.spectrum_points)
    what = Measurements(
        steps=(
            ("test_loss", steps),
            ("alignment", steps),
            ("centred_alignment", steps),
            ("raw_outputs", steps),
            ("eigenvalues", spectra),
        ),
        examples=config.examples,
        eigenvalues=config.eigenvalues,
    )
    lab.progress.phase("spectra, alignment, outputs", len(g) * config.steps)
    found = lab.observe(training, gamma[g], eta[g], seeds[s], what)
    shape, axes = (len(gamma), len(seeds)), ("gamma", "seed")

    def grid(name: str) -> np.ndarray:
        values = found.measured[name]
        return values.reshape(*shape, *values.shape[1:])

    return xr.Dataset(
        {
            "loss": ((*axes, "step"), grid("test_loss")),
            "alignment": ((*axes, "step"), grid("alignment")),
            "centred_alignment": ((*axes, "step"), grid("centred_alignment")),
            "raw": ((*axes, "step", "example", "class"), grid("raw_outputs")),
            "eigenvalue": ((*axes, "spectrum_step", "rank"), grid("eigenvalues")),
            "eta": ("gamma", eta),
        },
        coords={"gamma": gamma, "seed": seeds, "step": list(steps), "spectrum_step": list(spectra)},
        attrs={
            "arch": training.arch,
            "depth": training.depth,
            "loss": training.loss,
            "width": training.width,
            "classes": int(found.measured["raw_outputs"].shape[-1]),
        },
    )
