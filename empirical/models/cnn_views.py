"""Convolutions as products of shifted views: the passes of CNNs where PyTorch has no fast convolution to offer.

The batch is the innermost dimension and the image is cut into its stride × stride phases (even and odd rows and
columns), each on a zero-padded grid: activations are (phase, channel, row, column, batch). Tap (u, v) then reads phase
(u mod s, v mod s) shifted by (u // s, v // s) grid points, and a shifted grid is a *view*. So a convolution is one
matrix product for each shift (four of them for stride 2, with inner dimensions 4N, 2N, 2N, N), nothing is copied, and
both backward passes are products of the same views. Grid points off the right edge are computed and ignored: 12 % more
arithmetic at 14×14. With stride 1 there are nine shifts of inner dimension N, whose sums go through memory nine times.

The first layer writes 1 MB a cell, as much as a core's second-level cache holds. So a CPU takes one cell at a time
through all layers, and makes the first layer's output again in the backward pass instead of keeping it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

if TYPE_CHECKING:
    from empirical.models.cnn import CNN


@dataclass(frozen=True)
class _Grid:
    """Where the pixels of a ``side`` × ``side`` image are when the convolution that reads it has a given stride.

    Phase (p, q) at (a, b) holds the pixel (s a + p − 1, s b + q − 1); what lies outside of the image is zero.
    """

    side: int
    stride: int

    @property
    def out(self) -> int:
        """Side of the convolution's output."""
        return (self.side - 1) // self.stride + 1

    @property
    def width(self) -> int:
        """Side of the grid: the output and the farthest shift."""
        return self.out + 2 // self.stride

    @property
    def pixels(self) -> int:
        """Grid points from the first output pixel to the last, in reading order."""
        return (self.out - 1) * self.width + self.out

    @cached_property
    def phases(self) -> list[tuple[int, int]]:
        """Phases in the order of storage: those that each shift needs are neighbours."""
        return [(0, 0)] if self.stride == 1 else [(0, 1), (0, 0), (1, 0), (1, 1)]

    @cached_property
    def shifts(self) -> list[tuple[int, slice]]:
        """Each shift in pixels of the grid, and the phases that it reads."""
        if self.stride == 1:
            return [(u * self.width + v, slice(0, 1)) for u in range(3) for v in range(3)]
        w = self.width
        return [(0, slice(0, 4)), (1, slice(1, 3)), (w, slice(0, 2)), (w + 1, slice(1, 2))]

    @cached_property
    def taps(self) -> list[int]:
        """Tap 3u + v of every block of weights, in the order of shifts and phases."""
        order = []
        for shift, which in self.shifts:
            for p, q in self.phases[which]:
                order.append(3 * (p + self.stride * (shift // self.width)) + q + self.stride * (shift % self.width))
        return order

    def windows(self) -> list[tuple[tuple[slice, slice], tuple[slice, slice]]]:
        """For each phase: its pixels in the image, and where they are on the grid."""
        out = []
        for phase in self.phases:
            ends = []
            for p in phase:
                first = 1 if p == 0 else 0  # grid point 0 of phase 0 is padding
                start = self.stride * first + p - 1
                count = len(range(start, self.side, self.stride))
                ends.append((slice(start, None, self.stride), slice(first, first + count)))
            (rows, grid_rows), (columns, grid_columns) = ends
            out.append(((rows, columns), (grid_rows, grid_columns)))
        return out


_Product = tuple[Tensor, Tensor, Tensor, bool]
"""(out, a, b, add): out = a b, or out += a b."""


def _multiply(products: list[_Product]) -> None:
    """Carry out products of matrices, or of stacks of them, whose rows may lie apart in memory."""
    for out, a, b, add in products:
        if out.dim() == 3:
            out.baddbmm_(a, b, beta=float(add))
        elif add:
            out.addmm_(a, b)
        else:
            torch.mm(a, b, out=out)


@dataclass
class _Plan:
    """Everything that the two passes over some cells do, as views made once: slicing costs more than the arithmetic.

    ``cells`` is one cell (matrices) on a CPU, whose cache holds one cell but not two, and all cells of a seed (stacks
    of matrices) elsewhere.
    """

    seed: int
    first: list[_Product]
    first_input: Tensor
    forward: list[list[_Product]]
    relus: list[list[tuple[Tensor, Tensor]]]
    last_output: Tensor
    last_image: Tensor
    average: Tensor
    pooled: Tensor
    pool_gradient: Tensor
    last_slope: Tensor
    weight_gradients: list[list[_Product]]
    unwritten: list[Tensor]
    input_gradients: list[list[_Product]]
    gates: list[list[tuple[Tensor, Tensor, Tensor]]]
    first_gradient: list[_Product]

    def _run_first(self) -> None:
        """The first layer, in both passes: its output is the largest by far, and slower to fetch than to make again."""
        _multiply(self.first)
        self.first_input.clamp_min_(0)

    def run_forward(self) -> None:
        """From the patches of the image to the average over pixels."""
        self._run_first()
        for products, relus in zip(self.forward, self.relus, strict=True):
            _multiply(products)
            for raw, active in relus:
                torch.clamp_min(raw, 0, out=active)
        torch.matmul(self.average, self.last_output.clamp_min_(0), out=self.pooled)

    def run_backward(self) -> None:
        """From the gradient by the average over pixels to that by every weight of the convolutions."""
        self._run_first()
        _gate(self.pool_gradient, self.last_image, self.last_slope)
        for layer in range(len(self.forward) - 1, -1, -1):
            _multiply(self.weight_gradients[layer])
            self.unwritten[layer].zero_()
            _multiply(self.input_gradients[layer])
            for gate in self.gates[layer]:
                _gate(*gate)
        _multiply(self.first_gradient)


def _gate(gradient: Tensor, active: Tensor, out: Tensor) -> None:
    """Gradient where the unit is on, else 0, in one pass."""
    torch.ops.aten.threshold_backward.grad_input(gradient, active, 0, grad_input=out)


class ShiftedCells:
    """Weights of C cells and the buffers of their passes; nothing is allocated from one step to the next."""

    def __init__(self, spec: CNN, weights: list[Tensor], sections: Sequence[int], batch: int, together: bool) -> None:
        self.spec, self.weights, self.batch = spec, weights, batch
        side, self.grids = (spec.image_size - 1) // spec.strides[0] + 1, []
        for stride in spec.strides[1:]:
            self.grids.append(_Grid(side, stride))
            side = self.grids[-1].out
        last = self.grids[-1]
        inside = (torch.arange(last.out * last.width) % last.width < last.out).to(weights[0])
        self.average = (inside / side**2).unsqueeze(0)  # over the valid pixels of a grid
        self.pixels = side * side
        self.gradients = [torch.empty_like(weight) for weight in weights]
        like, cells, n = weights[0], len(weights[0]), spec.width
        spots = [(len(g.phases), n, g.width**2 * batch) for g in self.grids]
        rows = [(n, g.out * g.width * batch) for g in self.grids]
        shared = max(sections) if together else 1  # scratch that one part of the cells leaves to the next
        # the first layer is computed again in the backward pass, so its output needs no place of its own
        self.inputs = [like.new_zeros(shared, *spots[0])] + [like.new_zeros(cells, *shape) for shape in spots[1:]]
        self.input_slopes = [like.new_zeros(shared, *shape) for shape in spots]
        self.outputs = [like.new_zeros(shared, *shape) for shape in rows[:-1]] + [like.new_zeros(cells, *rows[-1])]
        self.slopes = [like.new_zeros(shared, *shape) for shape in rows]
        self.pooled = like.new_zeros(cells, n, batch)
        self.pool_gradient = torch.zeros_like(self.pooled)
        grid = self.grids[0]
        patch = (len(grid.phases), 9 * spec.image_channels, grid.width, grid.width, batch)
        self.patches = [like.new_zeros(patch) for _ in sections]
        ends = np.cumsum(sections).tolist()
        parts = [(seed, slice(end - count, end)) for seed, (end, count) in enumerate(zip(ends, sections, strict=True))]
        if together:
            self.plans = [
                self._plan(seed, part, slice(part.stop - part.start)) for seed, part in parts if sections[seed]
            ]
        else:
            self.plans = [self._plan(seed, i, 0) for seed, part in parts for i in range(part.start, part.stop)]

    @staticmethod
    def _orders(spec: CNN) -> list[Tensor]:
        """For each convolution, the tap of every block of rows."""
        side, orders = (spec.image_size - 1) // spec.strides[0] + 1, [torch.arange(9)]
        for stride in spec.strides[1:]:
            grid = _Grid(side, stride)
            orders.append(torch.tensor(grid.taps))
            side = grid.out
        return orders

    @classmethod
    def store(cls, spec: CNN, weights: Sequence[Tensor]) -> list[Tensor]:
        """Lay out the weights of one network: rows of (tap, in), while patches of the image are (in, tap)."""
        out = []
        for layer, (weight, order) in enumerate(zip(weights, cls._orders(spec), strict=False)):
            taps = weight.flatten(-2)[..., order]
            rows = taps.flatten(-2) if layer == 0 else taps.mT.flatten(-2)
            out.append(rows.mT.contiguous())
        return [*out, weights[-1].mT.contiguous()]

    @classmethod
    def restore(cls, spec: CNN, stored: Sequence[Tensor]) -> list[Tensor]:
        """Shapes of PyTorch, ``(cells, out, in, 3, 3)`` and the readout ``(cells, out, in)``."""
        out = []
        for layer, (rows, order) in enumerate(zip(stored, cls._orders(spec), strict=False)):
            back = torch.argsort(order).to(rows.device)
            taps = rows.mT.unflatten(-1, (-1, 9)) if layer == 0 else rows.mT.unflatten(-1, (9, -1)).mT
            out.append(taps[..., back].unflatten(-1, (3, 3)))
        return [*out, stored[-1].mT]

    def _plan(self, seed: int, part: int | slice, scratch: int | slice) -> _Plan:
        weights, gradients = [w[part] for w in self.weights], [g[part] for g in self.gradients]
        inputs = [self.inputs[0][scratch]] + [x[part] for x in self.inputs[1:]]
        input_slopes = [x[scratch] for x in self.input_slopes]
        outputs = [y[scratch] for y in self.outputs[:-1]] + [self.outputs[-1][part]]
        slopes, patches = [y[scratch] for y in self.slopes], self.patches[seed].flatten(2)
        if isinstance(part, slice):
            patches = patches.expand(part.stop - part.start, *patches.shape)
        first, first_gradient, row = [], [], self.grids[0].width * self.batch
        for p, (_, (rows, _)) in enumerate(self.grids[0].windows()):
            span = slice(rows.start * row, rows.stop * row)  # whole rows of padding stay zero
            below, image, slope = (t.select(-3, p)[..., span] for t in (inputs[0], patches, input_slopes[0]))
            first.append((below, weights[0].mT, image, False))
            first_gradient.append((gradients[0], image, slope.mT, p > 0))
        plan = _Plan(
            seed=seed,
            first=first,
            first_input=inputs[0],
            forward=[],
            relus=[],
            last_output=outputs[-1].unflatten(-1, (-1, self.batch)),
            last_image=self._image(outputs[-1], -1),
            average=self.average,
            pooled=self.pooled[part].unsqueeze(-2),
            pool_gradient=self.pool_gradient[part].unsqueeze(-2).unsqueeze(-2).expand_as(self._image(outputs[-1], -1)),
            last_slope=self._image(slopes[-1], -1),
            weight_gradients=[],
            unwritten=[],
            input_gradients=[],
            gates=[],
            first_gradient=first_gradient,
        )
        for layer, grid in enumerate(self.grids):
            reach = grid.pixels * self.batch
            output, slope = outputs[layer][..., :reach], slopes[layer][..., :reach]
            read, written = self._windows(layer, inputs[layer]), self._windows(layer, input_slopes[layer])
            weight, gradient = (
                [t[..., rows, :] for rows, _ in read] for t in (weights[layer + 1], gradients[layer + 1])
            )
            views, slope_views = [view for _, view in read], [view for _, view in written]
            plan.forward.append([(output, w.mT, x, i > 0) for i, (w, x) in enumerate(zip(weight, views, strict=True))])
            plan.weight_gradients.append([(g, x, slope.mT, False) for g, x in zip(gradient, views, strict=True)])
            plan.input_gradients.append([
                (x, w, slope, i > 0) for i, (w, x) in enumerate(zip(weight, slope_views, strict=True))
            ])
            plan.unwritten.append(input_slopes[layer][..., reach:])
            if layer + 1 < len(self.grids):
                image = self._image(outputs[layer], layer)
                plan.relus.append(self._pairs(image, inputs[layer + 1], layer + 1))
            else:
                plan.relus.append([])
            if layer == 0:
                plan.gates.append([(input_slopes[0], inputs[0], input_slopes[0])])
            else:
                image = self._image(slopes[layer - 1], layer - 1)
                active = self._pairs(image, inputs[layer], layer)
                sent = self._pairs(image, input_slopes[layer], layer)
                plan.gates.append([(g, a, out) for (out, a), (_, g) in zip(active, sent, strict=True)])
        return plan

    def _windows(self, layer: int, stored: Tensor) -> list[tuple[slice, Tensor]]:
        """For each shift: rows of the weights, and the shifted view of the phases that they multiply."""
        grid, start, out = self.grids[layer], 0, []
        channels = stored.shape[-2]
        for shift, phases in grid.shifts:
            rows = stored.flatten(-3, -2)[..., channels * phases.start : channels * phases.stop, :]
            reach = slice(shift * self.batch, (shift + grid.pixels) * self.batch)
            out.append((slice(start, start + rows.shape[-2]), rows[..., reach]))
            start += rows.shape[-2]
        return out

    def _image(self, flat: Tensor, layer: int) -> Tensor:
        """Valid pixels of a convolution's output: (…, channel, row, column, batch)."""
        grid = self.grids[layer]
        return flat.unflatten(-1, (grid.out, grid.width, self.batch))[..., : grid.out, :]

    def _pairs(self, image: Tensor, stored: Tensor, layer: int) -> list[tuple[Tensor, Tensor]]:
        """For each phase: its pixels in an image, and the same pixels on the grid."""
        grid = self.grids[layer]
        stored = stored.unflatten(-1, (grid.width, grid.width, self.batch))
        out = []
        for p, (pixels, spots) in enumerate(grid.windows()):
            out.append((image[..., *pixels, :], stored.select(-5, p)[..., *spots, :]))
        return out

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Raw outputs F, shape (cells, num_classes, batch)."""
        spec, grid = self.spec, self.grids[0]
        for x, laid in zip(inputs, self.patches, strict=True):
            image = pad(x.T.reshape(spec.image_channels, spec.image_size, spec.image_size, -1), (0, 0, 1, 1, 1, 1))
            patches = image.unfold(1, 3, spec.strides[0]).unfold(2, 3, spec.strides[0]).permute(0, 4, 5, 1, 2, 3)
            for place, (pixels, spots) in zip(laid.unflatten(1, (-1, 3, 3)), grid.windows(), strict=True):
                place[..., *spots, :] = patches[..., *pixels, :]  # padding stays zero, and so does its product
        for plan in self.plans:
            plan.run_forward()
        return torch.bmm(self.weights[-1].mT, self.pooled)

    def backward(self, gradient: Tensor) -> None:
        """Gradients of all weights from ∂ℓ/∂F, shape (cells, num_classes, batch)."""
        torch.bmm(self.pooled, gradient.mT, out=self.gradients[-1])
        torch.bmm(self.weights[-1], gradient, out=self.pool_gradient).div_(self.pixels)
        for plan in self.plans:
            plan.run_backward()
