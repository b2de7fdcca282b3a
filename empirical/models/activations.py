"""Activation functions φ and their gains in μP.

The gain is what keeps signals at order one from layer to layer: with z standard normal,

    gain(φ) = E[φ(z)²]^{−1/2},

so that weights of standard deviation gain/√fan_in give preactivations whose mean square is that of z times gain², and
activations near unit mean square. For ReLU it is He's √2.

==========  =====================  ========
name        φ(h)                   gain
==========  =====================  ========
``relu``    max(h, 0)              √2
``linear``  h                      1
``tanh``    tanh h                 1.59254
``gelu``    h Φ(h), exact Φ        1.53353
==========  =====================  ========
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, sqrt

import torch
from torch import Tensor
from torch.nn import functional as fn

from theory.errors import one_of


@dataclass(frozen=True)
class Activation:
    """An activation function.

    Attributes:
        name: one of ``ACTIVATIONS``.
        gain: E[φ(z)²]^{−1/2} over standard normal z.
        apply: φ, entry by entry.
        slope: φ′(h) from h and a = φ(h), entry by entry.
    """

    name: str
    gain: float
    apply: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]


def _gelu_slope(h: Tensor, _: Tensor) -> Tensor:
    """Φ(h) + h Φ′(h)."""
    return 0.5 * (1 + torch.erf(h / sqrt(2))) + h * torch.exp(-h * h / 2) / sqrt(2 * pi)


_ALL = (
    Activation("relu", sqrt(2), torch.relu, lambda h, _: (h > 0).to(h)),
    Activation("linear", 1.0, lambda h: h, lambda h, _: torch.ones_like(h)),
    Activation("tanh", 1.5925374197228315, torch.tanh, lambda _, a: 1 - a * a),
    Activation("gelu", 1.533530441195535, fn.gelu, _gelu_slope),
)
ACTIVATIONS = tuple(each.name for each in _ALL)


def activation(name: str) -> Activation:
    """Find an activation by name.

    Args:
        name: one of ``ACTIVATIONS``.

    Returns:
        The activation; an ``InputError`` names the field for any other name.
    """
    one_of("activation", name, ACTIVATIONS)
    return _ALL[ACTIVATIONS.index(name)]
