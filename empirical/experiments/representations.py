"""How representations turn along training: alignment with the task, and CKA with the start and between networks.

The kernel is that of the last layer's representations on fixed test examples; each γ trains at the second largest
learning rate that converges on the grid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from empirical.experiments.lab import Lab
from empirical.experiments.plane import Plane, convergent_eta
from empirical.measure.kernels import cka
from empirical.observe import Measurements, measured_steps


@dataclass(frozen=True)
class RepresentationsConfig:
    """Kernels along training.

    Attributes:
        steps: length of the runs.
        seeds: number of seeds.
        first_seed: the first of them; another one repeats the experiment on networks and data that it has not seen.
        points: steps at which alignment and CKA are taken, log-spaced.
        examples: test examples of the kernels.
        every: every how many γ of the grid.
    """

    steps: int
    seeds: int = 2
    first_seed: int = 0
    points: int = 30
    examples: int = 100
    every: int = 3


def run_representations(config: RepresentationsConfig, plane: Plane, lab: Lab) -> xr.Dataset:
    """Train across γ and measure kernels.

    Args:
        config: what to run.
        plane: the grid that gives the learning rates, and what is trained.
        lab: who runs it.

    Returns:
        ``alignment``, ``centred_alignment`` and ``cka_start`` (with the kernel at θ₀) over gamma, seed, step; ``cka``
        (between the kernels of two γ of one seed at the end) over gamma, other, seed; ``eta`` over gamma.
    """
    training = replace(plane.config.training, steps=config.steps)
    gamma, eta = plane.portrait.data["gamma"].values, convergent_eta(plane.portrait)
    gamma, eta = gamma[:: config.every], eta[:: config.every]
    gamma, eta = gamma[np.isfinite(eta)], eta[np.isfinite(eta)]
    seeds = config.first_seed + np.arange(config.seeds)
    g, s = (index.ravel() for index in np.indices((len(gamma), len(seeds))))
    steps = measured_steps(config.steps, config.points)
    names = ("alignment", "centred_alignment", "cka_start")
    what = Measurements(
        (*((name, steps) for name in names), ("last_kernel", (config.steps,))), examples=config.examples
    )
    lab.progress.phase("representations", len(g) * config.steps)
    found = lab.observe(training, gamma[g], eta[g], seeds[s], what)
    shape, axes = (len(gamma), len(seeds)), ("gamma", "seed", "step")
    kernel = found.measured["last_kernel"][:, 0].reshape(*shape, config.examples, -1)
    curves = {name: (axes, found.measured[name].reshape(*shape, -1)) for name in names}
    return xr.Dataset(
        curves | {"cka": (("gamma", "other", "seed"), cka(kernel[:, None], kernel[None])), "eta": ("gamma", eta)},
        coords={"gamma": gamma, "other": gamma, "seed": seeds, "step": list(steps)},
        attrs={"arch": training.arch, "depth": training.depth, "loss": training.loss, "width": training.width},
    )
