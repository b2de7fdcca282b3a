"""A campaign is a JSON file: which networks, which boundaries, which budgets, in the order of their worth.

::

    {"format": 1, "name": "cpu-short", "description": "…",
     "defaults": {"training": {"image_size": 7}, "budgets": [300], …},
     "entries": [{"name": "mlp-3", "training": {"arch": "mlp", "depth": 3}}, …]}

An entry has the fields of ``Entry``; what it leaves out comes from ``defaults``, then from ``Entry`` itself, and its
``training`` is laid over that of ``defaults``. ``training`` takes every field of ``TrainingConfig`` but the budget, the
device and the thresholds. One (entry, budget, regime) is a *unit*: it is traced, fitted and reported by itself, and
units run budget by budget, each in the order of the entries, so that what is most worth knowing is known first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from empirical.shard import TrainingConfig
from empirical.trace import LAW_OF, LAZY_TOLERANCE, MARGIN, RICH_TOLERANCE
from theory.errors import InputError, one_of, positive_integer, positive_number

FORMAT = 1
REGIMES = ("lazy", "rich", "middle")
"""``middle`` is what lies between the two windows: it is traced and not fitted."""

BOUNDARIES = tuple(LAW_OF)
GIVEN_ELSEWHERE = {"steps": "budgets", "device": "--device", "thresholds": "the definitions"}
"""Fields of ``TrainingConfig`` that a campaign sets in another place."""


@dataclass(frozen=True)
class Entry:
    """One kind of network, and what is measured on it.

    Attributes:
        name: letters, digits, ``-`` and ``_``; unique.
        training: fields of ``TrainingConfig``.
        budgets: budgets T in steps, most important first; all of them trace the γ of the smallest.
        boundaries: any of ``eta_min, eta_crit, eta_fail, eta_max, eta_star``.
        regimes: any of ``lazy``, ``rich``, ``middle``; the first two when left out.
        seeds: number of seeds.
        first_seed: the first of them; another one repeats a campaign on networks and data that it has not seen.
        points: γ in each window.
        resolution: widest final bracket, in decades of η.
        gamma_range: least and largest γ; the windows that theory chooses are clipped to it.
        windows: windows of γ by regime that take the place of theory's.
        lazy_tolerance: as in ``default_window``.
        rich_tolerance: as in ``default_window``.
        margin: as in ``default_window``.
        degree: measure the Euler degree first, and predict the rich slope from it.
        sharpness: measure the sharpness of the same cells at the end of their training.
        baseline: name of an entry whose boundaries these are divided by, at the same γ, budget and regime.
    """

    name: str
    training: Mapping[str, Any]
    budgets: tuple[int, ...] = (1000,)
    boundaries: tuple[str, ...] = ("eta_crit", "eta_fail", "eta_max")
    regimes: tuple[str, ...] = REGIMES[:2]
    seeds: int = 3
    first_seed: int = 0
    points: int = 6
    resolution: float = 0.03
    gamma_range: tuple[float, float] = (1e-4, 1e4)
    windows: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    lazy_tolerance: float = LAZY_TOLERANCE
    rich_tolerance: float = RICH_TOLERANCE
    margin: float = MARGIN
    degree: bool = True
    sharpness: bool = True
    baseline: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise InputError("name", self.name, "letters, digits, - and _")
        for name in ("budgets", "boundaries", "regimes"):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise InputError(name, list(given), "a list of one or more different values")
        for steps in self.budgets:
            positive_integer("budgets", steps)
        for boundary in self.boundaries:
            one_of("boundaries", boundary, BOUNDARIES)
        for regime in (*self.regimes, *self.windows):
            one_of("regimes", regime, REGIMES)
        positive_integer("seeds", self.seeds)
        positive_integer("first_seed", self.first_seed, least=0)
        positive_integer("points", self.points, least=3)
        for name in ("resolution", "lazy_tolerance", "rich_tolerance", "margin"):
            positive_number(name, getattr(self, name))
        for name, ends in {"gamma_range": self.gamma_range, **self.windows}.items():
            if len(ends) != 2 or not positive_number(name, ends[0]) < positive_number(name, ends[1]):
                raise InputError(name, list(ends), "[LO, HI] with LO < HI")
        for name in ("degree", "sharpness"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(name, getattr(self, name), "true or false")
        for steps in self.budgets:
            self.config(steps)

    @property
    def every_seed(self) -> tuple[int, ...]:
        """The seeds."""
        return tuple(range(self.first_seed, self.first_seed + self.seeds))

    def config(self, steps: int, device: str = "cpu") -> TrainingConfig:
        """What the networks of one budget train.

        Args:
            steps: budget T.
            device: where to train.

        Returns:
            The configuration.

        Raises:
            InputError: a field of ``training`` is missing, or out of range.
        """
        try:
            return TrainingConfig(**self.training, steps=steps, device=device)
        except InputError as error:
            raise InputError(f"training.{error.field}", error.given, error.allowed) from None
        except TypeError as error:  # a field without a default is missing, or of a type that has no order
            raise InputError("training", dict(self.training), f"fields of a network ({error})") from None


@dataclass(frozen=True)
class Unit:
    """What is traced, fitted and reported by itself.

    Attributes:
        entry: the kind of network.
        steps: budget T.
        regime: ``lazy``, ``rich`` or ``middle``.
    """

    entry: Entry
    steps: int
    regime: str

    @property
    def name(self) -> str:
        """Name in files: entry, budget, regime."""
        return f"{self.entry.name}.T{self.steps}.{self.regime}"


@dataclass(frozen=True)
class Campaign:
    """What a campaign file says.

    Attributes:
        name: of the campaign.
        description: what it is for, and what it costs.
        entries: in the order of their worth.
    """

    name: str
    description: str
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.entries]
        if not names:
            raise InputError("entries", [], "a list of at least one entry")
        for i, entry in enumerate(self.entries):
            if entry.name in names[:i]:
                raise InputError(f"entries[{i}].name", entry.name, "unlike the names before it")
            if entry.baseline is not None and entry.baseline not in names[:i]:
                raise InputError(f"entries[{i}].baseline", entry.baseline, "the name of an earlier entry")

    def units(self) -> tuple[Unit, ...]:
        """All units, in the order in which they run.

        Returns:
            First budgets of all entries, then second ones; entries in order; the regimes of an entry as it lists them.
        """
        rank = range(max(len(entry.budgets) for entry in self.entries))
        return tuple(
            Unit(entry, entry.budgets[i], regime)
            for i in rank
            for entry in self.entries
            if i < len(entry.budgets)
            for regime in entry.regimes
        )

    def from_seed(self, first_seed: int) -> Campaign:
        """The same campaign on other networks and data.

        Args:
            first_seed: first seed of every entry.

        Returns:
            The campaign.

        Raises:
            InputError: a negative seed.
        """
        return replace(self, entries=tuple(replace(entry, first_seed=first_seed) for entry in self.entries))

    def describe(self) -> dict[str, Any]:
        """The whole campaign, for the manifest.

        Returns:
            JSON-ready, with every default spelled out.
        """
        return asdict(self)


_LISTS: dict[str, Callable[[Any], Any]] = dict.fromkeys(("budgets", "boundaries", "regimes", "gamma_range"), tuple)
_LISTS["windows"] = lambda given: {regime: tuple(ends) for regime, ends in given.items()}
_ENTRY = tuple(entry.name for entry in fields(Entry))


def _known(where: str, given: Any, allowed: tuple[str, ...]) -> dict[str, Any]:
    """An object of a campaign file, whose keys are all known."""
    if not isinstance(given, dict):
        raise InputError(where, given, "an object")
    for key in given:
        if key not in allowed:
            raise InputError(f"{where}.{key}", given[key], "left out; known are " + ", ".join(allowed))
    return given


def _training(where: str, given: Any) -> dict[str, Any]:
    allowed = tuple(f.name for f in fields(TrainingConfig) if f.name not in GIVEN_ELSEWHERE)
    for key in given if isinstance(given, dict) else ():
        if key in GIVEN_ELSEWHERE:
            raise InputError(f"{where}.{key}", given[key], f"left out: it is set by {GIVEN_ELSEWHERE[key]}")
    # JSON has no tuples, and a configuration has to be hashable
    values = _known(where, given, allowed)
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _entry(where: str, given: Any, defaults: dict[str, Any]) -> Entry:
    own = _known(where, given, _ENTRY)
    both = defaults | own
    training = {**_training("defaults.training", defaults.get("training", {}))}
    training |= _training(f"{where}.training", own.get("training", {}))
    try:
        lists = {name: make(both[name]) for name, make in _LISTS.items() if name in both}
    except (TypeError, AttributeError):
        wrong = {name: both[name] for name in _LISTS if name in both}
        raise InputError(where, wrong, "lists where lists are wanted, and windows an object of [LO, HI]") from None
    try:
        return Entry(**{"name": "", **both, **lists, "training": training})
    except InputError as error:
        raise InputError(f"{where}.{error.field}", error.given, error.allowed) from None
    except TypeError as error:
        raise InputError(where, own, f"values of the right types ({error})") from None


def parse(content: Any) -> Campaign:
    """Check what a campaign file holds.

    Args:
        content: as ``json`` gives it.

    Returns:
        The campaign.

    Raises:
        InputError: anything unknown, missing or out of range; the field is named with its place in the file.
    """
    top = _known("campaign", content, ("format", "name", "description", "defaults", "entries"))
    if top.get("format") != FORMAT:
        raise InputError("format", top.get("format"), f"{FORMAT}")
    for name in ("name", "description"):
        if not isinstance(top.get(name, ""), str):
            raise InputError(name, top[name], "text")
    defaults = _known("defaults", top.get("defaults", {}), tuple(name for name in _ENTRY if name != "name"))
    entries = top.get("entries")
    if not isinstance(entries, list):
        raise InputError("entries", entries, "a list of entries")
    made = tuple(_entry(f"entries[{i}]", entry, defaults) for i, entry in enumerate(entries))
    return Campaign(top.get("name", ""), top.get("description", ""), made)


def load(path: Path | str) -> Campaign:
    """Read a campaign file.

    Args:
        path: the file.

    Returns:
        The campaign.

    Raises:
        InputError: not readable, not JSON, or as in ``parse``.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError("--campaign", str(path), f"a readable file ({error.strerror})") from None
    except ValueError as error:
        raise InputError("--campaign", str(path), f"JSON ({error})") from None
    return parse(content)
