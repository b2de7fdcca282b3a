"""What a training run came to: the definitions that toy models and real networks share, in one place.

A loss is always the excess over its minimum in f, L₀ its value before the first step, the *tail* the mean over the
last 2 % of the steps, the *peak* the largest value on the way:

========== ============================================================================
diverged   a non-finite value, or root-mean-square |F − F₀| above 10⁶ max(1, γ)
dead       finite, but no hidden unit is active at the end, so that the gradient is exactly zero
trained    tail ≤ 0.9 L₀ and peak ≤ 1.5 L₀
catapult   tail ≤ 0.9 L₀ and peak above 1.5 L₀
untrained  tail above 0.9 L₀ and peak ≤ 1.5 L₀
unstable   tail above 0.9 L₀ and peak above 1.5 L₀
not_run    none of these: nobody has looked
========== ============================================================================

A run diverges by its output and not by its loss, since a catapult peaks at order γ⁻² L₀ and comes back.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from theory.errors import InputError, positive_number


class Outcome(IntEnum):
    """The seven ends of a run; the values are those of the CF flag variable in ``portrait.nc``."""

    NOT_RUN = 0
    UNTRAINED = 1
    TRAINED = 2
    CATAPULT = 3
    UNSTABLE = 4
    DEAD = 5
    DIVERGED = 6

    @property
    def label(self) -> str:
        """Name in files and figures, such as ``not_run``."""
        return self.name.lower()


OUTCOME_NAMES: tuple[str, ...] = tuple(outcome.label for outcome in Outcome)


@dataclass(frozen=True)
class Thresholds:
    """Every number in the definitions above, with its default; all are kept in the manifest of a run.

    Attributes:
        level: a tail of at most ``level`` · L₀ has trained.
        peak: a peak above ``peak`` · L₀ has overshot.
        settle: a noise-free tail of at most ``settle`` · L₀ has settled into the minimum.
        tail_fraction: share of the steps, at the end, that the tail averages (at least one step).
        divergence: root-mean-square |F − F₀| above ``divergence`` · max(1, γ) has diverged.
    """

    level: float = 0.9
    peak: float = 1.5
    settle: float = 1e-3
    tail_fraction: float = 0.02
    divergence: float = 1e6

    def __post_init__(self) -> None:
        for name in ("level", "peak", "settle", "tail_fraction", "divergence"):
            positive_number(f"thresholds.{name}", getattr(self, name))
        if not self.settle <= self.level < 1 <= self.peak:
            raise InputError(
                "thresholds", (self.settle, self.level, self.peak), "ordered as settle <= level < 1 <= peak"
            )
        if self.tail_fraction > 1:
            raise InputError("thresholds.tail_fraction", self.tail_fraction, "at most 1")

    def tail_steps(self, steps: int) -> int:
        """Length of the tail.

        Args:
            steps: training budget T.

        Returns:
            Number of last steps that the tail averages, at least 1.
        """
        return max(1, round(self.tail_fraction * steps))


DEFAULT_THRESHOLDS = Thresholds()


def classify(
    tail: NDArray[np.float64],
    peak: NDArray[np.float64],
    initial: NDArray[np.float64],
    *,
    diverged: NDArray[np.bool_],
    dead: NDArray[np.bool_] | None = None,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> NDArray[np.int8]:
    """Name the outcome of each run; all arrays have one shape.

    Args:
        tail: mean excess loss over the tail.
        peak: largest excess loss seen.
        initial: excess loss before the first step, L₀.
        diverged: the run passed the divergence threshold; a non-finite tail or peak has diverged in any case.
        dead: no hidden unit is active at the end; ``None`` when there are no such units.
        thresholds: the numbers in the definitions.

    Returns:
        ``Outcome`` values as int8, in the shape of the input.
    """
    with np.errstate(invalid="ignore"):
        learned, overshot = tail <= thresholds.level * initial, peak > thresholds.peak * initial
    out = np.where(
        learned,
        np.where(overshot, Outcome.CATAPULT, Outcome.TRAINED),
        np.where(overshot, Outcome.UNSTABLE, Outcome.UNTRAINED),
    ).astype(np.int8)
    if dead is not None:
        out[dead] = Outcome.DEAD
    out[diverged | ~np.isfinite(tail) | ~np.isfinite(peak)] = Outcome.DIVERGED
    return out


@dataclass(frozen=True)
class CellResults:
    """What is kept of each cell, toy or trained; every array has one entry a cell.

    Attributes:
        outcome: ``Outcome`` values, int8.
        final_loss: mean excess loss over the tail (NaN once diverged).
        initial_loss: excess loss before the first step.
        peak_loss: largest excess loss seen.
        final_accuracy: share of correct predictions at the end; NaN where there are no classes.
        steps_run: steps after which the outcome was decided; T for all that neither diverged nor died.
    """

    outcome: NDArray[np.int8]
    final_loss: NDArray[np.float64]
    initial_loss: NDArray[np.float64]
    peak_loss: NDArray[np.float64]
    final_accuracy: NDArray[np.float64]
    steps_run: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.outcome)

    def fields(self) -> dict[str, NDArray]:
        """The arrays by name, in the order in which files list them.

        Returns:
            Mapping from variable name to array.
        """
        return {name: getattr(self, name) for name in self.__dataclass_fields__}
