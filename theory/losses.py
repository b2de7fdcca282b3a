"""Losses of the scalar model, as the excess over their minimum, in terms of the output f.

MSE:  ℓ(f) = (f − 1)²/2, target y = 1.

A loss is one expression; its slope ℓ′, curvature ℓ″, minimum and level sets are computed from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import sympy as sp

from theory.symbols import f, level


@dataclass(frozen=True)
class Loss:
    """A loss ℓ(f) of the centred output, with minimum value zero.

    Args:
        name: the name used everywhere ("mse").
        excess: ℓ(f) minus its minimum, a SymPy expression in the symbol ``f``.
    """

    name: str
    excess: sp.Expr

    @cached_property
    def slope(self) -> sp.Expr:
        """ℓ′(f)."""
        return sp.diff(self.excess, f)

    @cached_property
    def curvature(self) -> sp.Expr:
        """ℓ″(f)."""
        return sp.diff(self.excess, f, 2)

    @cached_property
    def minimum(self) -> sp.Expr:
        """The output at which ℓ′ vanishes."""
        (root,) = sp.solve(self.slope, f)
        return root

    @cached_property
    def output_at_level(self) -> sp.Expr:
        """The output at which the loss has first fallen to ``level`` times ℓ(0): the root that is 0 at level 1."""
        roots = sp.solve(self.excess - level * self.excess.subs(f, 0), f)
        (first,) = [root for root in roots if root.subs(level, 1) == 0]
        return first


MSE = Loss("mse", (f - 1) ** 2 / 2)

#: losses for which the boundaries are derived so far
LOSSES = {loss.name: loss for loss in (MSE,)}
