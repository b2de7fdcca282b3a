"""Optimizers, as what they do to a small deviation from a minimum.

Gradient descent at learning rate η multiplies the deviation along an eigenvector of curvature λ by 1 − ηλ at each
step; the minimum is linearly stable while that factor lies inside (−1, 1), i.e. while ηλ < 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import sympy as sp

from theory.symbols import eta, sharpness


@dataclass(frozen=True)
class Optimizer:
    """An optimizer, by its linear stability.

    Args:
        name: the name used everywhere ("gd").
        multiplier: factor on a small deviation per step, in the symbols ``eta`` and ``lambda``.
    """

    name: str
    multiplier: sp.Expr

    @cached_property
    def critical_eta(self) -> sp.Expr:
        """The η at which the multiplier leaves the unit interval through −1, in terms of λ."""
        (edge,) = sp.solve(sp.Eq(self.multiplier, -1), eta)
        return edge


GD = Optimizer("gd", 1 - eta * sharpness)

#: optimizers for which the boundaries are derived so far
OPTIMIZERS = {optimizer.name: optimizer for optimizer in (GD,)}
