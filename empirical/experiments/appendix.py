"""The experiments behind the appendix, at the two scales of the main figures.

What the main figures have measured is used again; what is added here is small: grids of every architecture, and
boundaries of MLPs across depth, width, batch size, optimizer and budget. Each of them is a minute or two on two cores
at the quick scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd
import xarray as xr

from empirical.experiments.families import (
    FamilyConfig,
    Member,
    PortraitsConfig,
    SharedRatesConfig,
    run_family,
    run_portraits,
    run_shared_rates,
)
from empirical.experiments.plane import Plane
from empirical.experiments.representations import RepresentationsConfig, run_representations
from empirical.experiments.scales import Experiments
from empirical.shard import TrainingConfig

LOSS_NAMES = {"mse": "MSE", "cross-entropy": "cross-entropy"}
ARCH_NAMES = {"mlp": "MLP", "cnn": "CNN", "resnet": "ResNet", "vit": "ViT"}


@dataclass(frozen=True)
class AppendixScale:
    """Configurations of the experiments of the appendix.

    Attributes:
        portraits: small grids of every architecture and loss.
        depths: upper boundaries of MLPs across depth.
        lower: eta_min of MLPs across γ at several budgets.
        widths: upper boundaries of MLPs across width.
        batches: the same across batch size.
        width_curves: learning curves across width.
        batch_curves: the same across batch size.
        optimizers: upper boundaries of MLPs under sign descent and Adam.
        representations: alignment and CKA of MLPs along training.
    """

    portraits: PortraitsConfig
    depths: FamilyConfig
    lower: FamilyConfig
    widths: FamilyConfig
    batches: FamilyConfig
    width_curves: SharedRatesConfig
    batch_curves: SharedRatesConfig
    optimizers: FamilyConfig
    representations: RepresentationsConfig

    def on(self, device: str) -> AppendixScale:
        """The same experiments on another kind of device.

        Args:
            device: such as ``cpu`` or ``cuda``.

        Returns:
            The configurations.
        """

        def moved(config: Any) -> Any:
            if not hasattr(config, "members"):
                return config
            members = (replace(m, training=replace(m.training, device=device)) for m in config.members)
            return replace(config, members=tuple(members))

        return AppendixScale(**{name: moved(config) for name, config in vars(self).items()})

    def from_seed(self, first: int) -> AppendixScale:
        """The same experiments on other networks and data.

        Args:
            first: the first seed.

        Returns:
            The configurations.
        """
        return AppendixScale(**{name: replace(config, first_seed=first) for name, config in vars(self).items()})

    def describe(self) -> dict[str, Any]:
        """The configuration, for a file beside the manifest.

        Returns:
            JSON-ready description.
        """
        return asdict(self)


Base = dict[str, Any]


def _members(name: str, values: tuple[Any, ...], base: Base, label: Callable[[Any], str] | None = None) -> tuple:
    """One member for each value of an option."""
    out = []
    for place, value in enumerate(values):
        number = float(place) if isinstance(value, str) else float(value)
        text = label(value) if label else f"{name} {value}"
        out.append(Member(text, number, TrainingConfig(**base | {name: value})))
    return tuple(out)


def _grids(base: Base, networks: dict[str, Base]) -> tuple[Member, ...]:
    return tuple(
        Member(f"{ARCH_NAMES[arch]}, {LOSS_NAMES[loss]}", float(place), TrainingConfig(**base | own | {"loss": loss}))
        for loss in LOSS_NAMES
        for place, (arch, own) in enumerate(networks.items())
    )


def _scale(
    *,
    side: int,
    steps: int,
    width: int,
    depths: tuple[int, ...],
    widths: tuple[int, ...],
    batches: tuple[int, ...],
    budgets: tuple[int, ...],
    networks: dict[str, Base],
    portraits: Base,
    trace: Base,
    curves: Base,
    representations: RepresentationsConfig,
) -> AppendixScale:
    base: Base = {"image_size": side, "batch_size": 32, "steps": steps, "width": width, "depth": 3}
    grid: Base = {name: base[name] for name in ("image_size", "batch_size")} | {"steps": portraits["steps"]}
    upper = ("eta_crit", "eta_fail")
    by_depth = _members("depth", depths, base, lambda depth: f"L = {depth}")
    by_width = _members("width", widths, base, lambda one: f"N = {one}")
    by_batch = _members("batch_size", batches, base, lambda one: f"B = {one}")
    by_optimizer = _members("optimizer", ("sign", "adam"), base, lambda one: one)
    by_budget = _members("steps", budgets, base, lambda one: f"T = {one}")
    gamma = tuple(10.0**power for power in range(-3, 5))
    return AppendixScale(
        portraits=PortraitsConfig(_grids(grid, networks), portraits["gamma"], portraits["eta"]),
        depths=FamilyConfig("depth", by_depth, upper, **trace),
        lower=FamilyConfig("budget", by_budget, ("eta_min",), gamma=gamma, seeds=1),
        # the exponent in width is that between two members alone: it needs more seeds than a slope over γ
        widths=FamilyConfig("width", by_width, upper, **trace | {"seeds": 4}),
        batches=FamilyConfig("batch", by_batch, upper, **trace),
        width_curves=SharedRatesConfig("width", by_width, **curves),
        batch_curves=SharedRatesConfig("batch", by_batch, **curves),
        optimizers=FamilyConfig("optimizer", by_optimizer, ("eta_min", *upper), **trace),
        representations=representations,
    )


APPENDIX: dict[str, AppendixScale] = {
    "quick": _scale(
        side=7,
        steps=300,
        width=64,
        depths=(2, 3, 4, 5, 6),
        widths=(16, 32, 64, 128),
        batches=(8, 32, 128),
        budgets=(20, 60, 200, 600),
        networks={
            "mlp": {"arch": "mlp", "depth": 3, "width": 64},
            "cnn": {"arch": "cnn", "depth": 3, "width": 16},
            "resnet": {"arch": "resnet", "blocks": 1, "width": 8},
            "vit": {"arch": "vit", "blocks": 1, "width": 16, "patch": 4},
        },
        portraits={"steps": 100, "gamma": (1e-4, 1e4, 9), "eta": (1e-10, 1e4, 22)},
        trace={"points": 6, "seeds": 2, "resolution": 0.04},
        curves={"steps": 300},
        representations=RepresentationsConfig(steps=600),
    ),
    "full": _scale(
        side=14,
        steps=3000,
        width=256,
        depths=(2, 3, 4, 5, 6),
        widths=(32, 64, 128, 256, 512, 1024),
        batches=(8, 32, 128, 512),
        budgets=(30, 100, 300, 1000, 3000, 10_000),
        networks={
            "mlp": {"arch": "mlp", "depth": 3, "width": 256},
            "cnn": {"arch": "cnn", "depth": 3, "width": 64},
            "resnet": {"arch": "resnet", "blocks": 2, "width": 32},
            "vit": {"arch": "vit", "blocks": 2, "width": 64, "patch": 4},
        },
        portraits={"steps": 2000, "gamma": (1e-4, 1e4, 25), "eta": (1e-12, 1e4, 65)},
        trace={"points": 9, "seeds": 4, "resolution": 0.02},
        curves={"steps": 10_000, "seeds": 4},
        representations=RepresentationsConfig(steps=10_000, seeds=4, examples=300, every=3),
    ),
}


class AppendixExperiments(Experiments):
    """What the main figures and the appendix show, computed when first asked for.

    Args:
        as for ``Experiments``.
    """

    @cached_property
    def appendix(self) -> AppendixScale:
        """Configurations of the appendix, on the device and from the first seed of the main ones."""
        plane = self.scale.mse
        return APPENDIX[self.scale.name].from_seed(plane.first_seed).on(plane.training.device)

    @cached_property
    def portraits(self) -> dict[str, Plane]:
        """Small grids of every architecture and loss."""
        return run_portraits(self.appendix.portraits, self.lab)

    @cached_property
    def depths(self) -> pd.DataFrame:
        """Upper boundaries across depth."""
        return run_family(self.appendix.depths, self.lab)

    @cached_property
    def lower(self) -> pd.DataFrame:
        """The lower boundary at several budgets."""
        return run_family(self.appendix.lower, self.lab)

    @cached_property
    def widths(self) -> pd.DataFrame:
        """Upper boundaries across width."""
        return run_family(self.appendix.widths, self.lab)

    @cached_property
    def batches(self) -> pd.DataFrame:
        """Upper boundaries across batch size."""
        return run_family(self.appendix.batches, self.lab)

    @cached_property
    def width_curves(self) -> xr.Dataset:
        """Learning curves across width."""
        return run_shared_rates(self.appendix.width_curves, self.lab)

    @cached_property
    def batch_curves(self) -> xr.Dataset:
        """Learning curves across batch size."""
        return run_shared_rates(self.appendix.batch_curves, self.lab)

    @cached_property
    def optimizers(self) -> pd.DataFrame:
        """Boundaries under sign descent and Adam."""
        return run_family(self.appendix.optimizers, self.lab)

    @cached_property
    def representations(self) -> xr.Dataset:
        """Alignment and CKA along training."""
        return run_representations(self.appendix.representations, self.mse, self.lab)
