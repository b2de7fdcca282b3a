"""ReLU MLPs on a CPU: cells are trained one by one for several steps in a row by compiled loops (``kernels.mlp``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from empirical.kernels import mlp
from empirical.models.fused import FusedCells
from empirical.models.stack import Placement


class FusedMLPStack(FusedCells):
    """The weights of C ReLU networks of one core; see ``stack.FusedStack``.

    Weights are float32 or float64, laid out as ``kernels.mlp`` says. A cell has the same bits whatever other cells and
    seeds there are.

    Args:
        starts: V_ℓ(0) of each seed, input layer first, each ``(fan_out, fan_in)``.
        rates: width multiplier of η for each layer, of the optimizer at hand.
        placement: cells and optimizer.
    """

    def __init__(self, starts: Sequence[Sequence[Tensor]], rates: Sequence[float], placement: Placement) -> None:
        super().__init__(starts, rates, placement, placement.dtype, placement.lazy)
        self.lazy = placement.lazy
        (_, inputs), (outputs, width) = self.shapes[0], self.shapes[-1]
        self.sizes = np.array(
            [len(self.shapes), inputs, width, outputs, self.rows[0], self.padded(width)], dtype=np.int64
        )

    def run_loops(self, codes: tuple[int, int], batches: tuple[Tensor, Tensor], common: tuple[Any, ...]) -> None:
        """Call the loops that train; see ``FusedCells.run_loops``.

        Args:
            codes: of the loss and of the optimizer.
            batches: inputs and targets of all seeds.
            common: arguments of all loops that train.
        """
        x, y = (pad(part, (0, self.padded(part.shape[-1]) - part.shape[-1])).contiguous() for part in batches)
        flat = self.numbers(self.weights, self.start, self.displacement, self.first, self.second)
        mlp.train(*flat, self.seed_of, self.sizes, self.lazy, *codes, x.numpy(), y.numpy(), *common)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Centred raw outputs F(θ; x) − F(θ₀; x); see ``stack.Stack.forward``.

        Args:
            inputs: one batch a seed, each ``(batch, input_dim)``.

        Returns:
            Shape ``(cells, num_classes, batch)``.
        """
        batch = len(inputs[0])
        x = torch.zeros(len(inputs), self.shapes[0][1], self.padded(batch), dtype=self.dtype)
        for seed, examples in enumerate(inputs):
            x[seed, :, :batch] = examples.T
        out = torch.empty(len(self.seed_of), self.shapes[-1][0], x.shape[2], dtype=self.dtype)
        flat = self.numbers(self.weights, self.start, self.displacement)
        mlp.outputs_of(*flat, self.seed_of, self.sizes, self.lazy, x.numpy(), out.numpy())
        return out[..., :batch]

    def displacements(self) -> dict[str, Tensor]:
        """How far every cell is from its start.

        Returns:
            Δ = θ − θ₀ by the names of ``MLP.module``, float64, each ``(cells, fan_out, fan_in)``.
        """
        return {f"layers.{layer}": part for layer, part in enumerate(self.moved())}
