"""ReLU CNNs on a CPU: cells are trained one by one for several steps in a row by compiled loops (``kernels.cnn``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from empirical.kernels import cnn, elementwise
from empirical.kernels.tiles import lanes, widest
from empirical.models.fused import FusedCells
from empirical.models.stack import Placement

COLUMN_BYTES = 4e6
"""Activations of a network and as many slopes: a batch that has more goes through the layers in parts.

Wider columns make better tiles, and a few megabytes come from the third-level cache fast enough."""


class FusedCNNStack(FusedCells):
    """The weights of C ReLU networks of one core; see ``stack.FusedStack``.

    Lazy cells compute in double precision. A cell has the same bits whatever other cells and seeds there are.

    Args:
        strides: of the convolutions.
        image: channels and side of an image.
        starts: weights of each seed: convolutions ``(width, channels, 3, 3)``, then the readout ``(classes, width)``.
        rates: width multiplier of η for each layer, of the optimizer at hand.
        placement: cells and optimizer.
    """

    def __init__(
        self,
        strides: Sequence[int],
        image: tuple[int, int],
        starts: Sequence[Sequence[Tensor]],
        rates: Sequence[float],
        placement: Placement,
    ) -> None:
        flat = [[*(_channel_innermost(w) for w in weights[:-1]), weights[-1]] for weights in starts]
        super().__init__(flat, rates, placement, placement.inner_dtype, held_apart=True)
        self.outer_dtype, (self.channels, side) = placement.dtype, image
        self.strides, self.sides = np.array(strides, dtype=np.int64), [side]
        for stride in strides:
            self.sides.append((self.sides[-1] - 1) // stride + 1)
        if self.kind == elementwise.PLAIN:
            self.kind = elementwise.DECAYED  # gradients are summed before they are used

    def _columns(self, batch: int) -> tuple[int, int]:
        """In how many parts of how many examples a batch goes through the layers."""
        width, vector = self.shapes[-1][1], lanes(self.dtype.itemsize)
        pixels = sum((side + 2) ** 2 for side in self.sides[1:])
        vectors = widest()
        while vectors > 1 and (
            vectors * vector >= 2 * self.padded(batch)
            or 2 * pixels * width * vectors * vector * self.dtype.itemsize > COLUMN_BYTES
        ):
            vectors //= 2
        return -(-batch // (vectors * vector)), vectors * vector

    def _in_columns(self, batches: Tensor) -> Tensor:
        """Numbers of each example, ``(…, batch, n)``, as ``(…, columns, examples, n)``, padded with zeros."""
        columns, examples = self._columns(batches.shape[-2])
        padding = columns * examples - batches.shape[-2]
        return pad(batches, (0, 0, 0, padding)).unflatten(-2, (columns, examples))

    def _patches(self, inputs: Tensor) -> Tensor:
        """Patches of images ``(…, batch, input_dim)``: ``(…, columns, examples, pixels, 9 · channels)``."""
        side, stride = self.sides[0], int(self.strides[0])
        images = pad(inputs.to(self.dtype).unflatten(-1, (self.channels, side, side)), (1, 1, 1, 1))
        patches = images.unfold(-2, 3, stride).unfold(-2, 3, stride)  # (…, channel, row, column, down, right)
        patches = patches.movedim(-5, -1).flatten(-3).flatten(-3, -2)
        return self._in_columns(patches.flatten(-2)).unflatten(-1, (self.sides[1] ** 2, -1))

    def _shape(self, batch: int) -> tuple[Any, ...]:
        """Arguments of all loops that say what the networks are."""
        outputs, width = self.shapes[-1]
        sizes = np.array([self.channels, width, outputs, batch])
        return np.array(self.sides), self.strides, self.places, np.array(self.rows), sizes

    def run_loops(self, codes: tuple[int, int], batches: tuple[Tensor, Tensor], common: tuple[Any, ...]) -> None:
        """Call the loops that train; see ``FusedCells.run_loops``.

        Args:
            codes: of the loss and of the optimizer.
            batches: inputs and targets of all seeds.
            common: arguments of all loops that train.
        """
        patches, targets = self._patches(batches[0]), self._in_columns(batches[1].mT).mT.contiguous()
        rows = pad(patches.transpose(-3, -2), (0, self.rows[0] - patches.shape[-1]))
        cnn.train(
            *self.numbers(self.weights, self.start, self.displacement, self.first, self.second),
            self.seed_of,
            *self._shape(batches[0].shape[2]),
            *codes,
            _flat_columns(patches.movedim(-3, -1)),
            _flat_columns(rows),
            targets.numpy(),
            *common,
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Centred raw outputs F(θ; x) − F(θ₀; x); see ``stack.Stack.forward``.

        Args:
            inputs: one batch a seed, each ``(batch, input_dim)``.

        Returns:
            Shape ``(cells, num_classes, batch)``.
        """
        patches = self._patches(torch.stack(tuple(inputs)))
        columns, examples = self._columns(len(inputs[0]))
        out = torch.empty(len(self.seed_of), columns, self.shapes[-1][0], examples, dtype=self.dtype)
        cnn.outputs_of(
            *self.numbers(self.weights, self.start),
            self.seed_of,
            *self._shape(len(inputs[0])),
            _flat_columns(patches.movedim(-3, -1)),
            out.numpy(),
        )
        return out.transpose(1, 2).flatten(2)[..., : len(inputs[0])].to(self.outer_dtype)

    def displacements(self) -> dict[str, Tensor]:
        """How far every cell is from its start, as PyTorch lays weights out.

        Returns:
            Δ = θ − θ₀ by the names of ``CNN.module``, float64: ``(cells, width, channels, 3, 3)``, readout
            ``(cells, num_classes, width)``.
        """
        *filters, readout = self.moved()
        kernels = [part.unflatten(-1, (3, 3, -1)).movedim(-1, -3).contiguous() for part in filters]
        return {f"layers.{layer}": part for layer, part in enumerate([*kernels, readout])}


def _channel_innermost(kernel: Tensor) -> Tensor:
    """A kernel ``(out, in, 3, 3)`` as ``(out, 9 · in)``."""
    return kernel.movedim(1, -1).flatten(1)


def _flat_columns(columns: Tensor) -> NDArray[Any]:
    """The last three dimensions as one, for the loops."""
    return columns.flatten(-3).contiguous().numpy()
