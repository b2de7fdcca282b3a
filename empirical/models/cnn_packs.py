"""Convolutions of a few cells at once by oneDNN: the passes of CNNs in single precision on a CPU.

The cells of a seed go through the layers in packs, whose networks are the groups of one grouped convolution. The batch
is the innermost *spatial* dimension of a convolution in three, with kernels 3 × 3 × 1 and stride s × s × 1; channels
are innermost in memory: activations are (row, column, batch, cell, channel). In one's own words to oneDNN: many rows as
long as the batch, on which nothing is ever strided. That is what makes the input gradient of a strided convolution as
fast as its forward pass, without the products by zero that other layouts pay; images beside each other in the batch
dimension, as a loop has them, are the slow case.

The first layer reads the patches of the images, which all cells of a seed share, through a 1×1 convolution. It is made
again in the backward pass: its output is the largest, and slower to fetch than to make.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv3d, pad

if TYPE_CHECKING:
    from empirical.models.cnn import CNN

PACK = 2
"""Cells of a pack. Of 1, 2, 4 and 8 it was the fastest: two share the cost of the calls, four are out of the cache."""


@dataclass
class _Pack:
    """Some cells of one seed, and what their forward pass leaves to the backward pass."""

    seed: int
    cells: slice
    weights: list[Tensor]
    kept: list[Tensor]


class PackedCells:
    """Weights of C cells and their passes.

    Args:
        spec: the architecture.
        weights: of all cells, as ``store`` lays them out; the tensors are read at each pass.
        sections: how many cells each seed has.
        batch: examples in a batch.
    """

    def __init__(self, spec: CNN, weights: list[Tensor], sections: Sequence[int], batch: int) -> None:
        self.spec, self.weights, self.batch = spec, weights, batch
        self.sides = [spec.image_size]
        for stride in spec.strides:
            self.sides.append((self.sides[-1] - 1) // stride + 1)
        self.gradients = [torch.empty_like(weight) for weight in weights]
        self.pooled = weights[0].new_zeros(len(weights[0]), spec.width, batch)
        self.patches: list[Tensor] = []
        self.packs, end = list[_Pack](), 0
        for seed, count in enumerate(sections):
            # no pack of one beside others: PyTorch has its own, slow, convolution for a single group
            for part in np.array_split(np.arange(end, end + count), max(1, count // PACK)) if count else []:
                self.packs.append(_Pack(seed, slice(int(part[0]), int(part[-1]) + 1), [], []))
            end += count

    @staticmethod
    def store(spec: CNN, weights: Sequence[Tensor]) -> list[Tensor]:
        """Lay out the weights of one network: PyTorch's order, each ``(out, fan_in)``."""
        return [weight.flatten(1) for weight in weights]

    @staticmethod
    def restore(spec: CNN, stored: Sequence[Tensor]) -> list[Tensor]:
        """Shapes of PyTorch, ``(cells, out, in, 3, 3)`` and the readout ``(cells, out, in)``."""
        return [*(weight.unflatten(-1, (-1, 3, 3)) for weight in stored[:-1]), stored[-1]]

    def _filters(self, pack: _Pack) -> list[Tensor]:
        """Filters of the convolutions, those of all cells of a pack below each other."""
        out = []
        for layer, stacked in enumerate(self.weights[:-1]):
            weight = stacked[pack.cells]
            if len(weight) == 1:  # zeros beside a cell that is alone
                weight = torch.cat((weight, torch.zeros_like(weight)))
            weight = weight.flatten(0, 1)
            out.append(weight.view(*weight.shape, 1, 1) if layer == 0 else weight.view(len(weight), -1, 3, 3, 1))
        return out

    def _patches(self, x: Tensor) -> Tensor:
        """Patches of the images, shape (pixels, 9 · image_channels, 1, batch), channels innermost in memory."""
        spec = self.spec
        image = pad(x.T.reshape(spec.image_channels, spec.image_size, spec.image_size, -1), (0, 0, 1, 1, 1, 1))
        patches = image.unfold(1, 3, spec.strides[0]).unfold(2, 3, spec.strides[0]).permute(1, 2, 3, 0, 4, 5)
        return patches.reshape(self.sides[1] ** 2, 1, self.batch, -1).permute(0, 3, 1, 2)

    def _first(self, pack: _Pack) -> Tensor:
        """Output of the first layer, rows (row, column, batch) of all channels of all cells."""
        out = conv2d(self.patches[pack.seed], pack.weights[0])
        return _rows(out).clamp_min_(0)

    def _volume(self, rows: Tensor, layer: int) -> Tensor:
        """Output of a layer as oneDNN is to see it: (1, channels, row, column, batch)."""
        side = self.sides[layer + 1]
        return rows.view(1, side, side, self.batch, -1).permute(0, 4, 1, 2, 3)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Raw outputs F, shape (cells, num_classes, batch)."""
        self.patches = [self._patches(x) for x in inputs]
        pixels, width = self.sides[-1] ** 2, self.spec.width
        for pack in self.packs:
            pack.weights = self._filters(pack)
            rows, kept = self._first(pack), []
            for layer, stride in enumerate(self.spec.strides[1:], 1):
                weight = pack.weights[layer]
                below = self._volume(rows, layer - 1)
                out = conv3d(below, weight, stride=(stride, stride, 1), padding=(1, 1, 0), groups=len(weight) // width)
                rows = _rows(out).clamp_min_(0)
                kept.append(rows)
            pack.kept = kept
            mean = rows.view(pixels, -1).mean(0).view(self.batch, -1, width)
            here = self.pooled[pack.cells]
            here.copy_(mean[:, : len(here)].permute(1, 2, 0))
        return torch.bmm(self.weights[-1], self.pooled)

    def backward(self, gradient: Tensor) -> None:
        """Gradients of all weights from ∂ℓ/∂F, shape (cells, num_classes, batch)."""
        torch.bmm(gradient, self.pooled.mT, out=self.gradients[-1])
        pixels, width = self.sides[-1] ** 2, self.spec.width
        pooled = torch.bmm(gradient.mT, self.weights[-1]).div_(pixels)
        for pack in self.packs:
            outputs = [self._first(pack), *pack.kept]
            groups = len(pack.weights[0]) // width
            sent = pooled.new_zeros(self.batch, groups, width)
            here = pooled[pack.cells]
            sent[:, : len(here)] = here.transpose(0, 1)
            last = outputs[-1].view(pixels, -1)
            slope = torch.ops.aten.threshold_backward(sent.view(1, -1).expand_as(last), last, 0).view_as(outputs[-1])
            for layer in range(len(outputs) - 1, 0, -1):
                stride, below = self.spec.strides[layer], outputs[layer - 1]
                sent, found, _ = torch.ops.aten.convolution_backward(
                    self._volume(slope, layer),
                    self._volume(below, layer - 1),
                    pack.weights[layer],
                    None,
                    (stride, stride, 1),
                    (1, 1, 0),
                    (1, 1, 1),
                    False,
                    (0, 0, 0),
                    groups,
                    (True, True, False),
                )
                self._keep(layer, pack, found)
                slope = _rows(sent)
                _gate(slope, below)
            image = slope.view(self.sides[1] ** 2, 1, self.batch, -1).permute(0, 3, 1, 2)
            _, found, _ = torch.ops.aten.convolution_backward(
                image,
                self.patches[pack.seed],
                pack.weights[0],
                None,
                (1, 1),
                (0, 0),
                (1, 1),
                False,
                (0, 0),
                1,
                (False, True, False),
            )
            self._keep(0, pack, found)

    def _keep(self, layer: int, pack: _Pack, found: Tensor) -> None:
        """Gradient of the filters of a pack, to its cells."""
        here = self.gradients[layer][pack.cells]
        here.copy_(found.reshape(-1, *here.shape[1:])[: len(here)])


def _rows(volume: Tensor) -> Tensor:
    """Channels of each pixel and example; a view of what oneDNN returns."""
    return volume.movedim(1, -1).contiguous().view(-1, volume.shape[1])


def _gate(gradient: Tensor, active: Tensor) -> None:
    """Gradient where the unit is on, else 0, in place."""
    torch.ops.aten.threshold_backward.grad_input(gradient, active, 0, grad_input=gradient)
