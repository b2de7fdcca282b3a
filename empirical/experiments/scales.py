"""The experiments behind the main figures, at two scales, each run when it is first asked for.

``quick`` is minutes on two cores; ``full`` is longer, wider and has more seeds, for a GPU or a night.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import pandas as pd
import xarray as xr

from empirical.experiments.budgets import BudgetsConfig, run_apex, run_budgets
from empirical.experiments.catapults import CatapultConfig, run_catapults
from empirical.experiments.curves import CurvesConfig, run_curves
from empirical.experiments.lab import Lab
from empirical.experiments.landscape import LandscapeConfig, run_landscape
from empirical.experiments.plane import Plane, PlaneConfig, run_plane
from empirical.experiments.spectra import SpectraConfig, run_spectra
from empirical.shard import TrainingConfig
from theory.errors import positive_integer

_Configured = TypeVar("_Configured", PlaneConfig, CatapultConfig, BudgetsConfig)

BOUNDARIES_MSE = ("eta_crit", "eta_fail")
BOUNDARIES_CE = ("eta_crit", "eta_max")


@dataclass(frozen=True)
class Scale:
    """Configurations of all experiments.

    Attributes:
        name: ``quick`` or ``full``.
        mse: the plane of MLPs on squared error.
        cross_entropy: the plane of CNNs on cross-entropy.
        curves: learning curves of the CNNs.
        landscape: spectra, alignment and outputs of the MLPs.
        spectra: top of the spectrum of lazy MLPs, wide and on many examples.
        catapults: of MLPs.
        budgets: eta_min and the apex against T, of MLPs.
    """

    name: str
    mse: PlaneConfig
    cross_entropy: PlaneConfig
    curves: CurvesConfig
    landscape: LandscapeConfig
    spectra: SpectraConfig
    catapults: CatapultConfig
    budgets: BudgetsConfig

    def on(self, device: str) -> Scale:
        """The same experiments on another kind of device.

        Args:
            device: such as ``cpu`` or ``cuda``.

        Returns:
            The configurations.
        """

        def moved(config: _Configured) -> _Configured:
            return replace(config, training=replace(config.training, device=device))

        return replace(
            self,
            mse=moved(self.mse),
            cross_entropy=moved(self.cross_entropy),
            catapults=moved(self.catapults),
            budgets=moved(self.budgets),
        )

    def from_seed(self, first_seed: int) -> Scale:
        """The same experiments on other networks and other data.

        Args:
            first_seed: of every experiment.

        Returns:
            The configurations.

        Raises:
            InputError: a negative seed.
        """
        first = positive_integer("first_seed", first_seed, least=0)
        return replace(
            self,
            mse=replace(self.mse, first_seed=first),
            cross_entropy=replace(self.cross_entropy, first_seed=first),
            curves=replace(self.curves, first_seed=first),
            landscape=replace(self.landscape, first_seed=first),
            spectra=replace(self.spectra, first_seed=first),
            catapults=replace(self.catapults, first_seed=first),
            budgets=replace(self.budgets, first_seed=first),
        )

    def describe(self) -> dict[str, Any]:
        """The configuration for the manifest.

        Returns:
            JSON-ready description.
        """
        return {"command": "figures"} | asdict(self)


_MLP: dict[str, Any] = {"depth": 3, "width": 64}
_CNN: dict[str, Any] = {"arch": "cnn", "depth": 3, "width": 16, "loss": "cross-entropy"}

SCALES: dict[str, Scale] = {
    "quick": Scale(
        "quick",
        mse=PlaneConfig(
            TrainingConfig(**_MLP, steps=400), (1e-4, 1e4, 25), (1e-13, 1e4, 52), BOUNDARIES_MSE, window_points=(6, 6)
        ),
        cross_entropy=PlaneConfig(
            TrainingConfig(**_CNN, steps=400),
            (1e-4, 1e4, 25),
            (1e-12, 1e4, 33),
            BOUNDARIES_CE,
            window_points=(5, 7),
            resolution=0.06,
        ),
        curves=CurvesConfig(steps=2000, budgets=(200, 600, 2000), seeds=5, every=3),
        landscape=LandscapeConfig(steps=1000, seeds=2),
        spectra=SpectraConfig(),
        catapults=CatapultConfig(
            TrainingConfig(depth=3, width=64, image_size=7, batch_size=256, steps=150),
            gamma=(1e-2, 1e4, 13),
            seeds=8,
        ),
        budgets=BudgetsConfig(TrainingConfig(**_MLP, image_size=7)),
    ),
    "full": Scale(
        "full",
        mse=PlaneConfig(
            TrainingConfig(**_MLP | {"width": 256}, image_size=28, steps=10_000),
            (1e-5, 1e5, 61),
            (1e-16, 1e5, 127),
            (*BOUNDARIES_MSE, "eta_min"),
            window_points=(12, 12),
            trace_seeds=4,
            resolution=0.01,
        ),
        cross_entropy=PlaneConfig(
            TrainingConfig(**_CNN | {"width": 64}, image_size=28, steps=10_000),
            (1e-4, 1e4, 49),
            (1e-14, 1e4, 109),
            (*BOUNDARIES_CE, "eta_min"),
            window_points=(12, 12),
            trace_seeds=4,
            resolution=0.01,
        ),
        curves=CurvesConfig(steps=100_000, budgets=(1000, 10_000, 100_000), seeds=5),
        landscape=LandscapeConfig(steps=30_000, seeds=4, spectrum_points=24, points=100, examples=1000),
        spectra=SpectraConfig(steps=10_000, width=1024, seeds=12, examples=2048),
        catapults=CatapultConfig(
            TrainingConfig(depth=3, width=1024, image_size=14, batch_size=256, steps=400),
            gamma=(1e-3, 1e3, 25),
            ladder=(1.0, 100.0, 60),
            seeds=4,
        ),
        budgets=BudgetsConfig(
            TrainingConfig(**_MLP | {"width": 256}),
            budgets=(100, 300, 1000, 3000, 10_000),
            gamma=(1e-4, 1e-2, 1e2, 1e4),
            seeds=4,
            apex_budgets=(8, 12, 18, 27, 40, 60, 90),
            apex_spacing=0.05,
        ),
    ),
}


class Experiments:
    """What the figures show, computed when first asked for.

    Args:
        scale: which configurations.
        lab: who runs them, and where they are kept.
    """

    def __init__(self, scale: Scale, lab: Lab) -> None:
        self.scale, self.lab = scale, lab

    @cached_property
    def mse(self) -> Plane:
        """The plane of MLPs on squared error."""
        return run_plane(self.scale.mse, self.lab, "MLP, MSE")

    @cached_property
    def cross_entropy(self) -> Plane:
        """The plane of CNNs on cross-entropy."""
        return run_plane(self.scale.cross_entropy, self.lab, "CNN, cross-entropy")

    @cached_property
    def curves(self) -> xr.Dataset:
        """Learning curves of the CNNs across γ."""
        return run_curves(self.scale.curves, self.cross_entropy, self.lab)

    @cached_property
    def landscape(self) -> xr.Dataset:
        """Spectra, alignment and outputs of the MLPs across γ."""
        return run_landscape(self.scale.landscape, self.mse, self.lab)

    @cached_property
    def spectra(self) -> xr.Dataset:
        """Top of the spectrum of lazy MLPs, wide and on many examples."""
        return run_spectra(self.scale.spectra, self.mse, self.lab)

    @cached_property
    def catapults(self) -> xr.Dataset:
        """Loss of MLPs around their edge of stability."""
        return run_catapults(self.scale.catapults, self.lab)

    @cached_property
    def budgets(self) -> pd.DataFrame:
        """eta_min of MLPs at several budgets."""
        return run_budgets(self.scale.budgets, self.lab)

    @cached_property
    def apex(self) -> pd.DataFrame:
        """Where the window of MLPs closes, at several short budgets."""
        return run_apex(self.scale.budgets, self.lab)
