"""Networks as functions of stacked weights: what every measurement takes, and what a training run hands out.

    f_c(x) = (F(θ₀ + Δ_c; x) − F(θ₀; x)) / γ_c,      c = 1 … C cells of one architecture and one seed.

θ₀ and Δ are held apart and in double precision, so that nothing that a measurement asks for is lost to the rounding of
the training run. Weights are *effective* ones (see ``parametrization``): a step of gradient descent moves the tensor of
name n by −η M_n ∂ℓ/∂θ_n, with the width multiplier M_n in ``rates``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap

Weights = dict[str, Tensor]
"""Tensors by name, each ``(cells, *shape)``, or ``(*shape)`` for a single network."""


@dataclass(frozen=True)
class Networks:
    """C networks of one architecture and one seed.

    Attributes:
        module: evaluates one network: called with any weights by ``functional_call``; never changed.
        start: θ₀ by name, each ``(*shape)``, float64.
        displacement: Δ by name, each ``(cells, *shape)``, float64.
        fixed: parameters that are not trained, and buffers, by name.
        gamma: feature-learning strengths, float64, shape ``(cells,)``.
        rates: width multiplier M of each tensor along a gradient: what multiplies η, before 1/γ and the batch.
        example_shape: shape in which the module takes one example.
        seed: of θ₀ and of the batches.
        cells: which cells of the ensemble they are, shape ``(cells,)``.
    """

    module: nn.Module
    start: Weights
    displacement: Weights
    fixed: Weights
    gamma: Tensor
    rates: Mapping[str, float]
    example_shape: tuple[int, ...]
    seed: int
    cells: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.gamma)

    @property
    def weights(self) -> Weights:
        """θ₀ + Δ by name, each ``(cells, *shape)``."""
        return {name: self.start[name] + moved for name, moved in self.displacement.items()}

    def one(self, weights: Weights, x: Tensor) -> Tensor:
        """Raw output of a single network; differentiable, and safe under ``torch.func`` transforms.

        Args:
            weights: by name, each ``(*shape)``.
            x: inputs ``(batch, input_dim)``, flattened or not.

        Returns:
            F, shape ``(batch, num_classes)``.
        """
        shaped = x.to(next(iter(weights.values())).dtype).reshape(len(x), *self.example_shape)
        return cast(Tensor, functional_call(self.module, {**weights, **self.fixed}, (shaped,)))

    def raw(self, x: Tensor, weights: Weights | None = None) -> Tensor:
        """Raw outputs of every cell.

        Args:
            x: inputs ``(batch, input_dim)``, shared by the cells.
            weights: stacked weights; the cells' own when ``None``.

        Returns:
            F, shape ``(cells, batch, num_classes)``.
        """
        return vmap(self.one, in_dims=(0, None))(self.weights if weights is None else weights, x)

    def output(self, x: Tensor, weights: Weights | None = None) -> Tensor:
        """Centred, downscaled outputs of every cell.

        Args:
            x: inputs ``(batch, input_dim)``, shared by the cells.
            weights: stacked weights; the cells' own when ``None``.

        Returns:
            f = (F(θ) − F(θ₀)) / γ, shape ``(cells, batch, num_classes)``.
        """
        return (self.raw(x, weights) - self.one(self.start, x)) / self.gamma.view(-1, 1, 1)

    def select(self, index: NDArray[np.intp]) -> Networks:
        """Some of the cells.

        Args:
            index: their positions here.

        Returns:
            The networks at these positions.
        """
        places = torch.as_tensor(index, device=self.gamma.device)
        moved = {name: tensor.index_select(0, places) for name, tensor in self.displacement.items()}
        return replace(self, displacement=moved, gamma=self.gamma[places], cells=self.cells[index])

    def at_start(self) -> Networks:
        """The same cells at θ₀."""
        return replace(self, displacement={n: torch.zeros_like(moved) for n, moved in self.displacement.items()})


Probe = Callable[[int, Networks], None]
"""Called with a step t and the cells of one seed (or some of them) as they are after t updates."""


def join(parts: list[Networks]) -> Networks:
    """Put cells of one seed together, in the order of the ensemble.

    Args:
        parts: of one architecture and seed, such as a probe was given for one step.

    Returns:
        All of their cells.
    """
    order = np.argsort(np.concatenate([part.cells for part in parts]), kind="stable")
    moved = {name: torch.cat([part.displacement[name] for part in parts]) for name in parts[0].displacement}
    gamma, cells = torch.cat([part.gamma for part in parts]), np.concatenate([part.cells for part in parts])
    return replace(parts[0], displacement=moved, gamma=gamma, cells=cells).select(order)
