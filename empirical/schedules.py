"""Learning-rate schedules: η_t = η s(t), a multiplier s of the learning rate that all cells share.

With T the budget, W = ⌈warmup · T⌉ and t = 0 … T − 1 the number of updates done before the one that s(t) multiplies:

=================  =============================================================================
name               s(t)
=================  =============================================================================
``constant``       1
``warmup``         min(1, (t + 1)/W)
``cosine``         (1 + cos(π t/T)) / 2
``warmup-cosine``  (t + 1)/W for t < W, then (1 + cos(π (t − W)/(T − W))) / 2
=================  =============================================================================

No update is wasted on s = 0: warm-up begins at 1/W, and the cosine would reach zero at t = T. Gradient flow under a
schedule has gone τ = Σ_t η s(t) / γ, which is T (1 − warmup/2) η/γ after a warm-up and T/2 · η/γ under the cosine, up
to one step: everything that is bounded by time (``eta_min``, the plateau) moves by that factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, cos, pi

from theory.errors import InputError, one_of

SCHEDULES = ("constant", "warmup", "cosine", "warmup-cosine")

DEFAULT_WARMUP = 0.05


@dataclass(frozen=True)
class Schedule:
    """A schedule of the learning rate.

    Attributes:
        name: one of ``SCHEDULES``.
        warmup: share of the budget that a warm-up takes, at least 0 and at most 1; 0 is none.

    Raises:
        InputError: an unknown name, or a share outside its range.
    """

    name: str = "constant"
    warmup: float = DEFAULT_WARMUP

    def __post_init__(self) -> None:
        one_of("schedule", self.name, SCHEDULES)
        if not 0 <= self.warmup <= 1:
            raise InputError("warmup", self.warmup, "at least 0 and at most 1, a share of the steps")

    def multiplier(self, step: int, steps: int) -> float:
        """What η is multiplied with in one update.

        Args:
            step: updates done before, t in 0 … T − 1.
            steps: budget T.

        Returns:
            s(t), above 0 and at most 1.
        """
        if self.name == "constant":
            return 1.0
        rise = ceil(self.warmup * steps - 1e-9) if "warmup" in self.name else 0  # 0.07 · 100 is 7, not 8
        if step < rise:
            return (step + 1) / rise
        return (1 + cos(pi * (step - rise) / (steps - rise))) / 2 if "cosine" in self.name else 1.0
