"""Local degree of homogeneity of a network in its weights, by one Jacobian–vector product.

    D = θ·∇F / F,   so that F(sθ) ∝ s^D at s = 1;      over a batch:  D = ⟨F, θ·∇F⟩ / ⟨F, F⟩,

with the raw output F and the inner product over examples and classes, which weighs each output by F² and is not upset
by those near zero. Euler's theorem: a network whose output is homogeneous of degree L in θ has D = L at every θ
(bias-free ReLU MLPs and CNNs of L weight layers).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import jvp

from empirical.measure.batched import for_each
from empirical.networks import Networks, Weights


def _output_and_radial(networks: Networks, x: Tensor) -> NDArray[np.float64]:
    """F and θ·∇F, shape (cells, n, 2, classes)."""

    def of_one(weights: Weights, rows: Tensor) -> Tensor:
        return torch.stack(jvp(lambda w: networks.one(w, rows), (weights,), (weights,)), dim=1)

    return for_each(networks, x, of_one, copies=2)


def euler_degree(networks: Networks, x: Tensor) -> NDArray[np.float64]:
    """Degree of each cell over a batch, ⟨F, θ·∇F⟩ / ⟨F, F⟩.

    Args:
        networks: C cells. θ are the tensors that are trained; those that are not count as constants.
        x: inputs ``(n, input_dim)``.

    Returns:
        D, shape ``(cells,)``; NaN where F is zero or not finite on the whole batch.
    """
    both = _output_and_radial(networks, x)
    scale = np.abs(both[:, :, 0]).max((1, 2), keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        output, radial = both[:, :, 0] / scale, both[:, :, 1] / scale  # F² of tiny or huge outputs stays in range
        return (output * radial).sum((1, 2)) / np.square(output).sum((1, 2))


def euler_degree_by_output(networks: Networks, x: Tensor) -> NDArray[np.float64]:
    """Degree of every output by itself, θ·∇F_a(x) / F_a(x).

    Args:
        networks: C cells.
        x: inputs ``(n, input_dim)``.

    Returns:
        D, shape ``(cells, n, classes)``; NaN where F_a(x) is exactly zero, and unreliable near it.
    """
    both = _output_and_radial(networks, x)
    return both[:, :, 1] / np.where(both[:, :, 0] == 0, np.nan, both[:, :, 0])
