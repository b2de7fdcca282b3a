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


def readout_name(networks: Networks, x: Tensor) -> str:
    """Name of the readout's weight: the last trainable matrix with one row a class.

    Args:
        networks: the networks.
        x: inputs ``(n, input_dim)``, of which one is used to count the classes.

    Returns:
        Its name in ``Networks.start``.

    Raises:
        InputError: there is none.
    """
    with torch.no_grad():
        classes = networks.one(networks.start, inputs(networks, x[:1])).shape[1]
    shaped = [name for name, start in networks.start.items() if start.dim() == 2 and start.shape[0] == classes]
    if not shaped:
        raise InputError("networks.module", type(networks.module).__name__, _REMEDY)
    return shaped[-1]


def _readout_gradient(networks: Networks, x: Tensor) -> NDArray[np.float64]:
    """By the derivative of the outputs by the readout's weight."""
    name = readout_name(networks, x)

    def of_one(weights: Weights, rows: Tensor) -> Tensor:
        def output(readout: Tensor, example: Tensor) -> Tensor:
            return networks.one({**weights, name: readout}, example.unsqueeze(0))[0]

        return vmap(jacrev(output), in_dims=(None, 0))(weights[name], rows)  # (batch, class a, class b, N)

    classes, width = networks.start[name].shape
    found = for_each(networks, x, of_one, copies=1 + classes)
    features = found[:, :, 0, 0]
    expected = np.eye(classes)[:, :, None] * features[:, :, None, None]
    if not np.allclose(found, expected, rtol=1e-9, atol=1e-9 * (np.abs(features).max(initial=0.0) + 1e-300)):
        raise InputError("networks.module", f"{type(networks.module).__name__}, readout {name}", _REMEDY)
    assert features.shape[2] == width
    return features
