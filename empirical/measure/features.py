"""The representation φ(x) that a network's readout sees: F(x) = R φ(x) (+ a bias), R of shape (classes, N).

A module may say what it is, by a method ``features(x)``. For any other module it is read off the derivative by the
readout's own weight,

    ∂F_a(x) / ∂R_bj = δ_ab φ_j(x),

which needs no knowledge of how the module computes: R is the last trainable matrix with one row a class, and the
identity is checked on the very examples.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from empirical.measure.batched import for_each, inputs
from empirical.networks import Networks, Weights
from theory.errors import InputError

_REMEDY = "a module whose output is linear in a last matrix (num_classes, N), or that defines features(x)"


_ROUNDING = 1e-9
"""Largest departure from the identity, relative to φ, that is rounding."""


class _Features(nn.Module):
    """Makes ``features`` the forward pass, so that it can be called with any weights."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """What the module says its readout sees, one row an example."""
        return cast(Tensor, cast(Any, self.module).features(x).flatten(1))


def representations(networks: Networks, x: Tensor) -> NDArray[np.float64]:
    """What the readout of each cell sees.

    Args:
        networks: C cells. Their module may define ``features(x)``, which takes inputs ``(batch, *example_shape)`` and
            gives ``(batch, …)``; it is called with the cells' weights.
        x: inputs ``(n, input_dim)``.

    Returns:
        φ, shape ``(cells, n, N)``, float64.
    """
    if callable(getattr(networks.module, "features", None)):
        return _own_features(networks, x)
    return _readout_gradient(networks, x)


def _own_features(networks: Networks, x: Tensor) -> NDArray[np.float64]:
    """By the method ``features`` of the module."""
    wrapped = _Features(networks.module)
    fixed = {f"module.{name}": tensor for name, tensor in networks.fixed.items()}

    def of_one(weights: Weights, rows: Tensor) -> Tensor:
        state = {f"module.{name}": tensor for name, tensor in weights.items()} | fixed
        return cast(Tensor, functional_call(wrapped, state, (rows.reshape(len(rows), *networks.example_shape),)))

    return for_each(networks, x, of_one)


def _readout_gradient(networks: Networks, x: Tensor) -> NDArray[np.float64]:
    """By the derivative of the outputs by the readout's weight, whichever of the candidates has the right one."""
    with torch.no_grad():
        classes = networks.one(networks.start, inputs(networks, x[:1])).shape[1]
    fits = [name for name, start in networks.start.items() if start.dim() == 2 and start.shape[0] == classes]
    for name in reversed(fits):
        features = _derivative_by(networks, x, name, classes)
        if features is not None:
            return features
    raise InputError("networks.module", f"{type(networks.module).__name__}, readout among {fits}", _REMEDY)


def _derivative_by(networks: Networks, x: Tensor, name: str, classes: int) -> NDArray[np.float64] | None:
    """φ by ∂F_a/∂R_bj = δ_ab φ_j, or nothing where the derivative by the weight of this name is no such thing."""

    def of_one(weights: Weights, rows: Tensor) -> Tensor:
        def output(readout: Tensor, example: Tensor) -> Tensor:
            return networks.one({**weights, name: readout}, example.unsqueeze(0))[0]

        found = vmap(jacrev(output), in_dims=(None, 0))(weights[name], rows)  # (batch, a, b, N)
        features = found[:, 0, 0]
        expected = torch.eye(classes).to(found).view(1, classes, classes, 1) * features[:, None, None]
        return torch.cat([features, (found - expected).abs().amax((1, 2, 3)).unsqueeze(1)], dim=1)

    both = for_each(networks, x, of_one, copies=1 + 2 * classes)
    features, apart = both[:, :, :-1], both[:, :, -1].max(1)
    size = np.abs(features).max((1, 2))
    known = np.isfinite(apart) & np.isfinite(size)  # a cell that has diverged tells nothing, and spoils nothing
    return features if (apart[known] <= _ROUNDING * size[known]).all() else None
