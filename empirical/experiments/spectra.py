"""Top of the spectrum of lazy networks, wide and on many examples, so that outliers can be told from the bulk.

Training leaves a lazy Hessian as it found it, and all γ ≪ 1 of one seed share it up to γ⁻²: so one γ, and many seeds.
Beside the Hessian stands the Gauss–Newton matrix JᵀℓʺJ, which has no curvature of the network itself. Both are in the
metric of the update. At infinite width JJᵀ is the kernel of one output, once for each class: every eigenvalue of the
kernel comes as many times as there are classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from empirical.experiments.lab import Lab
from empirical.experiments.plane import Plane, convergent_eta
from empirical.observe import Measurements


@dataclass(frozen=True)
class SpectraConfig:
    """Spectra at the end of training.

    Attributes:
        steps: length of the runs.
        gamma: near which γ of the grid.
        width: of the networks; in μP the learning rates of the grid serve every width.
        seeds: number of seeds.
        first_seed: the first of them; another one repeats the experiment on networks and data that it has not seen.
        examples: test examples that the curvature is taken on.
        eigenvalues: kept of each spectrum.
    """

    steps: int = 400
    gamma: float = 1e-3
    width: int = 256
    seeds: int = 16
    first_seed: int = 0
    examples: int = 512
    eigenvalues: int = 24


def run_spectra(config: SpectraConfig, plane: Plane, lab: Lab) -> xr.Dataset:
    """Train lazy networks and take their spectra.

    Args:
        config: what to run.
        plane: the grid that gives the learning rate, and what is trained.
        lab: who runs it.

    Returns:
        ``hessian`` and ``gauss_newton``, eigenvalues at the end of training, descending, over seed and rank. Attributes
        say what was trained, at which γ and η, and the number of classes.
    """
    training = replace(plane.config.training, steps=config.steps, width=config.width)
    gamma, eta = plane.portrait.data["gamma"].values, convergent_eta(plane.portrait)
    known = np.nonzero(np.isfinite(eta))[0]
    place = known[np.argmin(np.abs(np.log(gamma[known] / config.gamma)))]
    seeds = np.arange(config.first_seed, config.first_seed + config.seeds)
    what = Measurements(
        steps=(("eigenvalues", (config.steps,)), ("gauss_newton", (config.steps,)), ("raw_outputs", (config.steps,))),
        examples=config.examples,
        eigenvalues=config.eigenvalues,
    )
    lab.progress.phase("lazy spectra", config.seeds * config.steps)
    found = lab.observe(training, np.full(len(seeds), gamma[place]), np.full(len(seeds), eta[place]), seeds, what)
    return xr.Dataset(
        {
            "hessian": (("seed", "rank"), found.measured["eigenvalues"][:, 0]),
            "gauss_newton": (("seed", "rank"), found.measured["gauss_newton"][:, 0]),
        },
        coords={"seed": seeds},
        attrs={
            "gamma": float(gamma[place]),
            "eta": float(eta[place]),
            "width": config.width,
            "examples": config.examples,
            "classes": int(found.measured["raw_outputs"].shape[-1]),
        },
    )
