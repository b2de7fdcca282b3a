"""ReLU MLPs on a CPU: cells are trained one by one for several steps in a row by compiled loops (``kernels.mlp``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from empirical.kernels import elementwise, mlp
from empirical.models.fused import FusedCells
from empirical.models.stack import Lesson, Placement


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

    def train(
        self, inputs: Sequence[Tensor], targets: Sequence[Tensor], lesson: Lesson
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Train all cells on some batches; see ``stack.FusedStack.train``.

        Args:
            inputs: of each seed, ``(steps, batch, input_dim)``.
            targets: of each seed, ``(steps, classes, batch)``.
            lesson: loss and schedule.

        Returns:
            Losses, ⟨|F − F₀|²⟩ and whether a cell is inactive, ``(3, steps, cells)``; accuracies, ``(steps, cells)``.
        """
        cells, (steps, batch, _) = len(self.seed_of), inputs[0].shape
        told, hits = np.empty((3, steps, cells)), np.full((steps, cells), np.nan)
        x, y = self._padded_rows(inputs), self._padded_rows(targets)
        entropy = torch.zeros(steps, len(targets), batch, dtype=self.dtype)
        if lesson.loss == "cross-entropy":
            entropy = torch.xlogy(y, y).sum(2)[..., :batch].contiguous()
        given = self.optimizer_arguments(batch)
        mlp.train(
            *self.numbers(self.weights, self.start, self.displacement, self.first, self.second),
            self.seed_of,
            self.sizes,
            self.lazy,
            elementwise.LOSSES[lesson.loss],
            self.kind,
            x.numpy(),
            y.numpy(),
            entropy.numpy(),
            np.outer(lesson.multipliers, self.rates),
            self.steps_done,
            given["output_scale"],
            lesson.inverse_gamma.numpy(),
            given["eta"],
            given["beta"],
            self.optimizer.weight_decay,
            np.array(lesson.watched) & (targets[0].shape[1] > 1),  # one output is no class
            told,
            hits,
        )
        self.steps_done += steps
        return told, hits

    def _padded_rows(self, batches: Sequence[Tensor]) -> Tensor:
        """Batches of several seeds in one tensor, ``(steps, seeds, rows, columns)``, columns padded with zeros."""
        padding = self.padded(batches[0].shape[2]) - batches[0].shape[2]
        together = batches[0].unsqueeze(1) if len(batches) == 1 else torch.stack(tuple(batches), 1)
        return pad(together, (0, padding)).contiguous()

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
