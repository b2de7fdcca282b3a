"""Where a unit of a campaign looks: its γ, its window, and the range of η of the first scan. From theory alone.

A unit has one window: where the windows of all the boundaries that it traces overlap. For a network whose degree is
not exactly its depth (residual, normalised, not homogeneous) the edge on the side of γ = 1 is that of a deep network,

    lazy: γ ≤ ε/(2 − 2/L − ε),      rich: γ ≥ (2 − 2/L)/ε − 1      at L = DEEP,

which holds for every smaller degree; the far edge is the apex of the law that traces start from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from empirical.campaign.schema import Campaign, Unit
from empirical.shard import TrainingConfig
from empirical.trace import NETWORK_TRACE, default_window, exact_law, law_of
from simulate import TraceSettings
from theory import FitWindow
from theory.errors import InputError

DEEP = 16
"""Depth whose window serves every network of unknown degree: (2 − 2/L) is within 7 % of its largest value 2 there."""

BELOW, ABOVE = 30.0, 10.0
"""A first scan goes from eta_crit of the law over BELOW (or from eta_min, where that is traced) to ABOVE times it."""

HOMOGENEOUS = ("relu", "linear")
"""Activations of degree 1: with them MLPs and CNNs have the degree L exactly."""


@dataclass(frozen=True)
class Plan:
    """What a unit will do.

    Attributes:
        unit: the unit.
        config: what its networks train.
        window: the fit window.
        gamma: feature-learning strengths, ascending, shape ``(points,)``.
        settings: spacings of the trace.
        exact: whether the degree is the depth exactly, so that the toy's law is this network's.
    """

    unit: Unit
    config: TrainingConfig
    window: FitWindow
    gamma: NDArray[np.float64]
    settings: TraceSettings
    exact: bool

    @property
    def law(self) -> dict[str, Any]:
        """Arguments of ``exact_law``."""
        return law_of(self.config)

    @property
    def traced(self) -> tuple[str, ...]:
        """The boundaries that are traced from below; ``eta_star`` is not one."""
        return tuple(name for name in self.unit.entry.boundaries if name != "eta_star") or ("eta_crit",)

    def span(self, gamma: float) -> tuple[float, float]:
        """Range of η of the first scan.

        Args:
            gamma: feature-learning strength.

        Returns:
            Lowest and highest η.
        """
        crit = float(exact_law("eta_crit", gamma, **self.law))
        low = crit / BELOW
        if "eta_min" in self.traced:
            low = min(low, float(exact_law("eta_min", gamma, **self.law)))
        return low, ABOVE * max(crit, self.ratio_of_max(gamma) * crit)

    def ratio_of_max(self, gamma: float) -> float:
        """``eta_max / eta_crit`` of the law where eta_max is traced, else 1; large for lazy cross-entropy.

        Args:
            gamma: feature-learning strength.

        Returns:
            The ratio; 1 where the law has no eta_max.
        """
        if "eta_max" not in self.traced:
            return 1.0
        try:
            ratio = exact_law("eta_max", gamma, **self.law) / exact_law("eta_crit", gamma, **self.law)
        except InputError:  # one layer under a loss of bounded slope never diverges
            return 1.0
        return max(1.0, float(ratio))

    def expected_cells(self) -> int:
        """Rough number of cells, for the time left.

        Returns:
            First scan, cuts and guard of every line; boundaries share half of theirs.
        """
        settings = self.settings
        decades = np.array([np.log10(np.divide(*self.span(float(g))[::-1])) for g in self.gamma])
        scan = float(np.ceil(decades / settings.coarse).sum()) + len(self.gamma)
        rounds = np.ceil(np.log(max(settings.coarse / settings.resolution, 1)) / np.log(settings.sections) - 1e-9)
        cuts = rounds * (settings.sections - 1) + settings.guard_span / settings.guard_spacing
        return round(self.unit.entry.seeds * (scan + len(self.gamma) * cuts * (1 + 0.5 * (len(self.traced) - 1))))


def has_exact_degree(config: TrainingConfig) -> bool:
    """Whether a network is homogeneous in its weights, of its depth.

    Args:
        config: what is trained.

    Returns:
        True for bias-free MLPs and CNNs with activations of degree 1.
    """
    return config.arch in {"mlp", "cnn"} and config.activation in HOMOGENEOUS


def _edges(unit: Unit, config: TrainingConfig, boundary: str, exact: bool) -> FitWindow:
    entry, law = unit.entry, law_of(config)
    given: dict[str, Any] = {
        "regime": unit.regime, "gamma_range": entry.gamma_range, "lazy_tolerance": entry.lazy_tolerance,
        "rich_tolerance": entry.rich_tolerance, "margin": entry.margin, "boundary": boundary,
    }  # fmt: skip
    own = default_window(**given, **law)
    if exact:
        return own
    # margin: the deep network only lends its edge near γ = 1; its apex is its own
    deep = default_window(**given | {"margin": 1e-6}, **law | {"depth": DEEP})
    reason = f"{own.reason} The edge towards gamma = 1 is that of depth {DEEP}, which serves every smaller degree."
    if unit.regime == "lazy":
        return replace(own, high=min(own.high, deep.high), reason=reason)
    return replace(own, low=max(own.low, deep.low), reason=reason)


def window_of(unit: Unit, config: TrainingConfig) -> FitWindow:
    """Window of a unit.

    Args:
        unit: the unit.
        config: what its networks train.

    Returns:
        Where the windows of its boundaries overlap, or what the campaign file gives.

    Raises:
        InputError: they do not overlap, or one of them is empty.
    """
    if unit.regime in unit.entry.windows:
        low, high = unit.entry.windows[unit.regime]
        return FitWindow(unit.regime, low, high, f"gamma in [{low:.4g}, {high:.4g}], given in the campaign file.")
    if unit.regime == "middle":
        ends = [window_of(replace(unit, regime=regime), config) for regime in ("lazy", "rich")]
        reason = f"gamma in [{ends[0].high:.4g}, {ends[1].low:.4g}], between the lazy and the rich window: no fit."
        return FitWindow(unit.regime, ends[0].high, ends[1].low, reason)
    windows = []
    for boundary in unit.entry.boundaries:
        try:
            windows.append(_edges(unit, config, boundary, has_exact_degree(config)))
        except InputError as error:
            if error.field != "depth":  # a boundary without a law has no window of its own
                raise
    if not windows:
        raise InputError("boundaries", list(unit.entry.boundaries), "at least one that has a law at this depth")
    low, high = max(w.low for w in windows), min(w.high for w in windows)
    if low >= high:
        raise InputError("boundaries", list(unit.entry.boundaries), "such that their windows of gamma overlap")
    reasons = dict.fromkeys(w.reason for w in windows)
    return FitWindow(unit.regime, low, high, " Overlap with: ".join(reasons))


def plan(unit: Unit, device: str = "cpu", baseline: Plan | None = None) -> Plan:
    """Decide where a unit looks, before anything is trained.

    Args:
        unit: the unit.
        device: where to train.
        baseline: plan of the unit that it will be compared with, whose window and γ it takes.

    Returns:
        The plan; an ``InputError`` says why when theory leaves no window.
    """
    config = unit.entry.config(unit.steps, device)
    window = window_of(unit, config) if baseline is None else baseline.window
    gamma = np.geomspace(window.low, window.high, unit.entry.points) if baseline is None else baseline.gamma
    settings = replace(NETWORK_TRACE, resolution=unit.entry.resolution)
    return Plan(unit, config, window, gamma, settings, has_exact_degree(config))


def reference(campaign: Campaign, unit: Unit) -> Unit | None:
    """The unit that another is compared with.

    Args:
        campaign: both are in it.
        unit: a unit.

    Returns:
        The same of its entry's baseline; without one, that of its entry's smallest budget; ``None`` for this itself.
    """
    if unit.entry.baseline is not None:
        return replace(unit, entry=next(e for e in campaign.entries if e.name == unit.entry.baseline))
    least = min(unit.entry.budgets)
    return replace(unit, steps=least) if unit.steps != least else None


def plan_all(campaign: Campaign, device: str = "cpu") -> tuple[dict[str, Plan], dict[str, str]]:
    """Plan every unit, before anything is trained.

    Args:
        campaign: what to run.
        device: where to train.

    Returns:
        Plans by the unit's name, and for units that theory leaves no window the reason.
    """
    plans, refused = dict[str, Plan](), dict[str, str]()

    def planned(unit: Unit) -> Plan | None:
        if unit.name not in plans and unit.name not in refused:
            other = reference(campaign, unit)
            try:
                plans[unit.name] = plan(unit, device, planned(other) if other is not None else None)
            except InputError as error:
                refused[unit.name] = str(error)
        return plans.get(unit.name)

    for unit in campaign.units():
        planned(unit)
    return plans, refused
