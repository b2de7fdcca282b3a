"""What training does to the weights themselves: their distance from the start, their norms, and the layers' balance.

In the metric of the update every tensor is taken as w_n = θ_n / √M_n, with the width multiplier M_n of
``Networks.rates``: a step of gradient descent is w ← w − η ∂ℓ/∂w, without multipliers. In the μP of ``parametrization``
w = W/√N, where W has unit variance at the start.

Balance. Where layers follow each other with nothing but ReLU between, scaling the weights into a unit by s and those
out of it by 1/s leaves F as it is, and gradient flow conserves

    b_i = Σ w_out(i)² − Σ w_in(i)²                       for every unit i of every hidden layer;

where nothing at all is between them, the same holds for rotations, and flow conserves w_{ℓ+1}ᵀ w_{ℓ+1} − w_ℓ w_ℓᵀ whole
(Du, Hu & Lee 2018, arXiv:1806.00900, section 2; for deep linear networks Saxe et al. 2014, arXiv:1312.6120). A step of
gradient descent changes them by order η², a run of fixed time ηT therefore by order η.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empirical.networks import Networks, Weights
from theory.errors import InputError

_SYMMETRY = 1e-9
"""Largest relative change of F under a rescaling that should not change it: rounding is near 1e-15 a layer."""


def distance_from_start(networks: Networks) -> NDArray[np.float64]:
    """Relative distance of all weights from their start, ‖Δ‖ / ‖θ₀‖ in the metric of the update.

    Args:
        networks: C cells.

    Returns:
        Shape ``(cells,)``.
    """
    moved = sum(_squares(tensor) / networks.rates[name] for name, tensor in networks.displacement.items())
    start = sum(_squares(tensor[None]) / networks.rates[name] for name, tensor in networks.start.items())
    return np.asarray(torch.sqrt(torch.as_tensor(moved) / torch.as_tensor(start)).cpu())


def distance_by_layer(networks: Networks) -> NDArray[np.float64]:
    """Relative distance of each tensor from its start, ‖Δ_n‖ / ‖θ_n(0)‖, which no multiplier changes.

    Args:
        networks: C cells.

    Returns:
        Shape ``(cells, tensors)``, in the order of ``Networks.start``; NaN for a tensor that starts at zero.
    """
    columns = []
    for name, start in networks.start.items():
        size = float(_squares(start[None]))
        columns.append(torch.sqrt(_squares(networks.displacement[name]) / (size if size > 0 else float("nan"))))
    return torch.stack(columns, dim=1).cpu().numpy()


def layer_norms(networks: Networks) -> NDArray[np.float64]:
    """Frobenius norm of each tensor in the metric of the update, ‖θ_n‖ / √M_n.

    Args:
        networks: C cells.

    Returns:
        Shape ``(cells, tensors)``, in the order of ``Networks.start``.
    """
    columns = [torch.sqrt(_squares(tensor) / networks.rates[name]) for name, tensor in networks.weights.items()]
    return torch.stack(columns, dim=1).cpu().numpy()


def layer_balance(networks: Networks, chain: Sequence[str] | None = None) -> NDArray[np.float64]:
    """Balance of each pair of neighbouring layers, ‖w_{ℓ+1}‖² − ‖w_ℓ‖²: the sum of ``neuron_balance`` over units.

    Args:
        networks: C cells.
        chain: as in ``neuron_balance``.

    Returns:
        Shape ``(cells, pairs)``, in the metric of the update; for the unit-variance weights of μP times N.
    """
    return np.stack([units.sum(1) for units in neuron_balance(networks, chain)], axis=1)


def neuron_balance(networks: Networks, chain: Sequence[str] | None = None) -> list[NDArray[np.float64]]:
    """Balance b_i of every hidden unit (of every channel, for convolutions).

    Args:
        networks: C cells.
        chain: names of weights, each of which reads what the one before it makes, through ReLU or nothing; all weights
            of two or more dimensions when ``None``. First dimension: units made; second: units read.

    Returns:
        For each pair of neighbours ``(cells, units)``, in the metric of the update.
    """
    weights = networks.weights
    out = []
    for below, above in _pairs(networks, chain):
        into = weights[below].square().flatten(2).sum(2) / networks.rates[below]
        away = weights[above].square().transpose(1, 2).flatten(2).sum(2) / networks.rates[above]
        out.append((away - into).cpu().numpy())
    return out


def balance_matrices(networks: Networks, chain: Sequence[str] | None = None) -> list[NDArray[np.float64]]:
    """Matrices w_{ℓ+1}ᵀ w_{ℓ+1} − w_ℓ w_ℓᵀ, whose diagonals are ``neuron_balance``.

    Conserved by flow as a whole only where nothing is between the layers (linear networks).

    Args:
        networks: C cells.
        chain: as in ``neuron_balance``.

    Returns:
        For each pair of neighbours ``(cells, units, units)``, in the metric of the update.
    """
    weights = networks.weights
    out = []
    for below, above in _pairs(networks, chain):
        into, away = weights[below].flatten(2), weights[above].transpose(1, 2).flatten(2)
        found = away @ away.mT / networks.rates[above] - into @ into.mT / networks.rates[below]
        out.append(found.cpu().numpy())
    return out


def _pairs(networks: Networks, chain: Sequence[str] | None) -> list[tuple[str, str]]:
    """Neighbours of a chain, each checked to have the symmetry that makes their balance mean something."""
    names = [n for n, start in networks.start.items() if start.dim() >= 2] if chain is None else list(chain)
    for name in names:
        if name not in networks.start or networks.start[name].dim() < 2:
            raise InputError("chain", name, "names of weights: " + ", ".join(networks.start))
    if len(names) < 2:
        raise InputError("chain", names, "at least two layers")
    pairs = list(pairwise(names))
    for below, above in pairs:
        made, read = networks.start[below].shape[0], networks.start[above].shape[1]
        if made != read or not _symmetric(networks, below, above):
            raise InputError(
                "chain", (below, above), "layers that follow each other with only ReLU, or nothing, between"
            )
    return pairs


def _symmetric(networks: Networks, below: str, above: str) -> bool:
    """Whether F stays as it is when units of ``below`` grow by s and what ``above`` reads of them shrinks by s."""
    draw = torch.Generator().manual_seed(0)
    like = next(iter(networks.start.values()))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(like)

    # away from the start, so that a bias or a gain that starts at a special value shows
    size = {name: start.square().mean().sqrt().clamp_min(1e-3) for name, start in networks.start.items()}
    weights: Weights = {n: start + 0.3 * size[n] * normal(*start.shape) for n, start in networks.start.items()}
    x = normal(4, int(np.prod(networks.example_shape)))
    scale = normal(len(weights[below])).exp()
    moved = dict(weights)
    moved[below] = weights[below] * scale.view(-1, *[1] * (weights[below].dim() - 1))
    moved[above] = weights[above] / scale.view(1, -1, *[1] * (weights[above].dim() - 2))
    with torch.no_grad():
        before, after = networks.one(weights, x), networks.one(moved, x)
    return bool((after - before).norm() <= _SYMMETRY * before.norm())


def _squares(tensor: Tensor) -> Tensor:
    """Sum of squares of each cell, shape (cells,)."""
    return tensor.flatten(1).square().sum(1)
