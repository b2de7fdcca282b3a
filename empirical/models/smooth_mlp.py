"""Stacks of bias-free MLPs with any activation: the passes of ``mlp`` with φ and φ′ in place of ReLU and its gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from empirical.models.activations import activation
from empirical.models.mlp import MLP, MLPStack
from empirical.models.stack import Placement


class SmoothMLPStack(MLPStack):
    """Any activation: preactivations are kept, and the gradient is multiplied by φ′ in place of ReLU's gate.

    Lazy cells compute in double precision, with displacements held apart from the start. A linear or smooth network
    has no unit that could be switched off: no cell is ever inactive.
    """

    def __init__(self, spec: MLP, placement: Placement) -> None:
        super().__init__(spec, replace(placement, dtype=placement.inner_dtype))
        self.phi, self.dtype = activation(spec.activation), placement.dtype
        self.displacement = [torch.zeros_like(weight) for weight in self.weights]

    def _reserve(self, batch: int) -> None:
        if batch != self._batch:
            super()._reserve(batch)
            self._active, self._slopes = list[Tensor](), list[Tensor]()

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Centred raw outputs; see ``MLPStack.forward``.

        Args:
            inputs: one batch a seed, each ``(batch, input_dim)``.

        Returns:
            Shape ``(cells, num_classes, batch)``.
        """
        self._reserve(len(inputs[0]))
        self._inputs = [x.to(self.weights[0].dtype) for x in inputs]
        self._first_product(self.weights[0], self._hidden[0])
        self._active, self._slopes = [], []
        for weight, hidden, above in zip(self.weights[1:], self._hidden, self._hidden[1:], strict=False):
            self._active.append(self.phi.apply(hidden))
            self._slopes.append(self.phi.slope(hidden, self._active[-1]))
            torch.bmm(weight, self._active[-1], out=above)
        output = self._hidden[-1]
        self._inactive = torch.zeros(len(output), dtype=torch.bool, device=output.device)
        for part, start in zip(self.sections, self._start_forward(), strict=True):
            output[part] -= start[-1]
        return output.to(self.dtype)

    def _start_forward(self) -> list[list[Tensor]]:
        out = []
        for seed, x in enumerate(self._inputs):
            hidden = [self.start[0][seed] @ x.T]
            for start in self.start[1:]:
                hidden.append(start[seed] @ self.phi.apply(hidden[-1]))
            out.append(hidden)
        return out

    def update(self, gradient: Tensor) -> None:
        """One optimizer step of the displacements; see ``MLPStack.update``.

        Args:
            gradient: ∂ℓ/∂f times ``optimizer.output_scale``, shape ``(cells, num_classes, batch)``.
        """
        gradient = gradient.to(self.weights[0].dtype)
        for layer in range(len(self.weights) - 1, 0, -1):
            below = self._below[layer - 1]
            torch.bmm(self.weights[layer].mT, gradient, out=below)
            self._move(layer, gradient, self._active[layer - 1])
            gradient = below.mul_(self._slopes[layer - 1])
        self._move(0, gradient, None)
        for start, displacement, weight in zip(self.start, self.displacement, self.weights, strict=True):
            for origin, part in zip(start, self.sections, strict=True):
                torch.add(origin, displacement[part], out=weight[part])

    def displacements(self) -> dict[str, Tensor]:
        """How far every cell is from its start, as it is held.

        Returns:
            Δ = θ − θ₀ by the names of ``MLP.module``, float64, each ``(cells, fan_out, fan_in)``.
        """
        return {f"layers.{layer}": moved.to(torch.float64, copy=True) for layer, moved in enumerate(self.displacement)}

    def _moving(self) -> list[Tensor]:
        return self.displacement

    def keep(self, index: Tensor, sections: Sequence[int]) -> None:
        """Drop cells, here and in the optimizer.

        Args:
            index: positions of the cells to keep, ascending.
            sections: how many of each seed they are.
        """
        self.displacement = [displacement.index_select(0, index) for displacement in self.displacement]
        super().keep(index, sections)
