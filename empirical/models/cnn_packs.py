"""Convolutions of a few cells at once by oneDNN: the passes of CNNs in single precision on a CPU.

The cells of a seed go through the layers in packs, whose networks are the groups of one grouped convolution. The batch
is the innermost *spatial* dimension of a convolution in three, with kernels 3 × 3 × 1 and stride s × s × 1; channels
are innermost in memory: activations are (row, column, batch, cell, channel). To oneDNN these are rows as long as the
batch, which no stride ever cuts. That makes the input gradient of a strided convolution as fast as its forward pass,
without any product by the zeros of a padding; ``cnn`` has the times of other layouts.

The first layer reads the patches of the images, which all cells of a seed share, through a 1×1 convolution. It is made
again in the backward pass: its output is the largest, and slower to fetch than to make.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv3d, pad

if TYPE_CHECKING:
    from empirical.models.cnn import CNN

PACK_BYTES = 2.5e6
"""Output of the first layer of a pack: many cells share the cost of the calls (30 μs each), few the cache. At 28×28,
width 16 and batch 64 these are three cells, which are a few per cent faster than two or four."""

LARGEST_BLOCK = (32 << 20) - 4096
"""A little less than what glibc is ready to keep for a program, once it has freed as much in one block. Before that, it
may return each output of oneDNN to the system, which clears the pages of the next: up to half of the time."""


def keep_freed_memory() -> None:
    """Have the C library keep what oneDNN's outputs leave, for the next of them."""
    torch.empty(LARGEST_BLOCK, dtype=torch.uint8)  # freed at once


@dataclass
class _Pack:
    """Some cells of one seed, and what their forward pass leaves to the backward pass.

    Attributes:
        seed: position of the seed.
        cells: positions of the cells.
        filters: of each convolution, those of all cells below each other.
        kept: outputs of all convolutions but the first.
    """

    seed: int
    cells: slice
    filters: list[Tensor] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return self.cells.stop - self.cells.start

    @property
    def groups(self) -> int:
        """Groups of its convolutions: a cell that is alone has a twin.

        PyTorch sends a single group to a slow convolution of its own, and other ways around that round differently, so
        that a cell would feel its companions leave. As it is, outputs are the same to the bit in packs of any size.
        """
        return max(2, len(self))


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
        size = self.sides[1] ** 2 * batch * spec.width * weights[0].element_size()
        most = max(3, int(PACK_BYTES / size))  # and at least two, where there are
        for seed, count in enumerate(sections):
            for part in np.array_split(np.arange(end, end + count), -(-count // most)) if count else []:
                self.packs.append(_Pack(seed, slice(int(part[0]), int(part[-1]) + 1)))
            end += count
        keep_freed_memory()

    @staticmethod
    def store(spec: CNN, weights: Sequence[Tensor]) -> list[Tensor]:
        """Lay out the weights of one network: PyTorch's order, each ``(out, fan_in)``."""
        return [weight.flatten(1) for weight in weights]

    @staticmethod
    def restore(spec: CNN, stored: Sequence[Tensor]) -> list[Tensor]:
        """Shapes of PyTorch, ``(cells, out, in, 3, 3)`` and the readout ``(cells, out, in)``."""
        return [*(weight.unflatten(-1, (-1, 3, 3)) for weight in stored[:-1]), stored[-1]]

    def _filters(self, pack: _Pack) -> list[Tensor]:
        """Filters of the convolutions: (cell · width, fan_in, 1, 1), then (cell · width, width, 3, 3, 1)."""
        flat = [weight[pack.cells].expand(pack.groups, -1, -1).flatten(0, 1) for weight in self.weights[:-1]]
        return [flat[0][..., None, None], *(weight.view(len(weight), -1, 3, 3, 1) for weight in flat[1:])]

    def _patches(self, x: Tensor) -> Tensor:
        """Patches of the images, shape (pixels, 9 · image_channels, 1, batch), channels innermost in memory."""
        side, stride = self.spec.image_size, self.spec.strides[0]
        image = pad(x.T.reshape(self.spec.image_channels, side, side, -1), (0, 0, 1, 1, 1, 1))
        patches = image.unfold(1, 3, stride).unfold(2, 3, stride).permute(1, 2, 0, 4, 5, 3)
        rows = patches.reshape(self.sides[1] ** 2, -1, self.batch)
        return rows.mT.contiguous().mT.unsqueeze(2)  # gathered as they lie, then turned: thrice as fast

    def _first(self, pack: _Pack) -> Tensor:
        """Output of the first layer: rows (row, column, batch) of the channels of all cells."""
        return _rows(conv2d(self.patches[pack.seed], pack.filters[0])).clamp_min_(0)

    def _volume(self, rows: Tensor, layer: int) -> Tensor:
        """Output of a layer as oneDNN is to see it: (1, channels, row, column, batch)."""
        side = self.sides[layer + 1]
        return rows.view(1, side, side, self.batch, -1).movedim(-1, 1)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Raw outputs F, shape (cells, num_classes, batch)."""
        self.patches = [self._patches(x) for x in inputs]
        for pack in self.packs:
            pack.filters = self._filters(pack)
            rows, pack.kept = self._first(pack), []
            for layer, stride in enumerate(self.spec.strides[1:], 1):
                below, steps = self._volume(rows, layer - 1), (stride, stride, 1)
                rows = _rows(conv3d(below, pack.filters[layer], None, steps, (1, 1, 0), 1, pack.groups)).clamp_min_(0)
                pack.kept.append(rows)
            mean = rows.view(self.sides[-1] ** 2, -1).mean(0).view(self.batch, pack.groups, -1)
            self.pooled[pack.cells] = mean[:, : len(pack)].permute(1, 2, 0)
        return torch.bmm(self.weights[-1], self.pooled)

    def backward(self, gradient: Tensor) -> None:
        """Gradients of all weights from ∂ℓ/∂F, shape (cells, num_classes, batch)."""
        torch.bmm(gradient, self.pooled.mT, out=self.gradients[-1])
        pooled = torch.bmm(gradient.mT, self.weights[-1]).div_(self.sides[-1] ** 2)
        for pack in self.packs:
            outputs = [self._first(pack), *pack.kept]
            last = outputs[-1].view(self.sides[-1] ** 2, -1)
            sent = pooled[pack.cells].transpose(0, 1).expand(-1, pack.groups, -1).reshape(1, -1)
            slope = torch.ops.aten.threshold_backward(sent.expand_as(last), last, 0).view_as(outputs[-1])
            for layer in range(len(outputs) - 1, 0, -1):
                above, below = self._volume(slope, layer), self._volume(outputs[layer - 1], layer - 1)
                steps = (self.spec.strides[layer],) * 2 + (1,)
                back, found = _convolution_backward(above, below, pack.filters[layer], steps, (1, 1, 0), pack.groups)
                self._keep(layer, pack, found)
                slope = _rows(back)
                torch.ops.aten.threshold_backward.grad_input(slope, outputs[layer - 1], 0, grad_input=slope)
            patches = self.patches[pack.seed]
            image = slope.view(len(patches), 1, -1, slope.shape[1]).movedim(-1, 1)
            self._keep(0, pack, _convolution_backward(image, patches, pack.filters[0], (1, 1), (0, 0))[1])

    def _keep(self, layer: int, pack: _Pack, found: Tensor) -> None:
        """Gradient of the filters of a pack, to its cells."""
        here = self.gradients[layer][pack.cells]
        here.view(-1, *found.shape[1:]).copy_(found[: len(pack) * here.shape[1]])


def _rows(volume: Tensor) -> Tensor:
    """Channels of each pixel and example; a view of what oneDNN returns."""
    return volume.movedim(1, -1).contiguous().view(-1, volume.shape[1])


def _convolution_backward(
    gradient: Tensor, below: Tensor, filters: Tensor, stride: tuple[int, ...], padding: tuple[int, ...], groups: int = 0
) -> tuple[Tensor, Tensor]:
    """Gradients by the input, for which there have to be groups, and by the filters."""
    ones, zeros = (1,) * len(stride), (0,) * len(stride)
    wanted = (groups > 0, True, False)
    sent, found, _ = torch.ops.aten.convolution_backward(
        gradient, below, filters, None, stride, padding, ones, False, zeros, max(groups, 1), wanted
    )
    return sent, found
