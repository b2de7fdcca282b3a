"""Optimizers, as what they do to a small deviation from a minimum.

Gradient descent multiplies a deviation along an eigenvector of curvature λ by 1 − ηλ at each step. Heavy-ball
momentum, v ← βv + g, w ← w − ηv, obeys x″ = (1 + β − ηλ) x′ − β x: the multipliers are the roots of
m² − (1 + β − ηλ) m + β. Either is stable until a multiplier leaves the unit circle through −1, at ηλ = 2 and 2(1+β).
(The averaging form, v ← βv + (1−β)g, is the same with η(1−β) in place of η.) Sign descent, w ← w − η sign(g), has steps
that do not shrink with the deviation, so it has no linear stability.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import sympy as sp

from theory.errors import InputError
from theory.symbols import beta, eta, sharpness

_MULTIPLIER = sp.Symbol("m")


@dataclass(frozen=True)
class Optimizer:
    """An optimizer, by its linear stability.

    Args:
        name: the name used everywhere ("gd", "momentum", "sign").
        characteristic: polynomial in ``multiplier`` whose roots are the factors on a small deviation per step, in
            the symbols ``eta``, ``lambda`` and ``beta``; ``None`` where there is no linear stability.
    """

    name: str
    characteristic: sp.Expr | None

    @cached_property
    def critical_eta(self) -> sp.Expr:
        """The η at which a multiplier leaves the unit circle through −1, in terms of λ and β."""
        if self.characteristic is None:
            raise InputError("optimizer", self.name, "one with linear stability: gd or momentum")
        (edge,) = sp.solve(self.characteristic.subs(_MULTIPLIER, -1), eta)
        return sp.factor(edge)

    @property
    def multiplier(self) -> sp.Symbol:
        """The variable of the characteristic polynomial."""
        return _MULTIPLIER


GD = Optimizer("gd", _MULTIPLIER - (1 - eta * sharpness))
MOMENTUM = Optimizer("momentum", _MULTIPLIER**2 - (1 + beta - eta * sharpness) * _MULTIPLIER + beta)
SIGN = Optimizer("sign", None)

#: the optimizers of the toy model
OPTIMIZERS = {optimizer.name: optimizer for optimizer in (GD, MOMENTUM, SIGN)}
