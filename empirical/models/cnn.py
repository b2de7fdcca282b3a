"""Bias-free ReLU convolutional networks in μP, many at once, with their gradients written out.

    h₁ = V₁ ∗ x,   h_ℓ = V_ℓ ∗ φ(h_{ℓ−1}),   F = V_L ⟨φ(h_{L−1})⟩_pixels,      V_ℓ = a_ℓ W_ℓ,  W_ℓ standard normal,

with 3×3 kernels, padding 1 and strides of 1 or 2. The readout sees the average over pixels, so that its fan-in is the
number of channels N, as in an MLP, and does not grow with the image.

Layout. The batch is the innermost dimension and the image is cut into its stride × stride phases (even and odd rows
and columns), each on a zero-padded grid: activations are (phase, channel, row, column, batch). Tap (u, v) then reads
phase (u mod s, v mod s) shifted by (u // s, v // s) grid points, and a shifted grid is a *view*. So a convolution is
one matrix product for each shift (four of them for stride 2, with inner dimensions 4N, 2N, 2N, N), nothing is copied,
and both backward passes are products of the same views. Grid points off the right edge are computed and ignored: 12 %
more arithmetic at 14×14.

Why this one. Microseconds for one cell (16 → 16 channels, 14×14, stride 2, batch 64, float32; least of 25 runs on one
Zen 4 core, PyTorch 2.13, where ``torch.bmm`` on 64×64 matrices would need 178 for the same arithmetic):

=====================================  ========  ================  ===============  ====================
layout                                 forward   weight gradient   input gradient   besides
=====================================  ========  ================  ===============  ====================
shifted views (here)                   239       231               230              nothing
patches copied, batch innermost        188–213   188–229           206              66 a copy, the fold
rows of the image in a batched product 199       206               (not a product)  –
oneDNN, channels first                 374       241               734              what a loop pays
oneDNN, channels last                  191       190               478              first layer 123, 251
=====================================  ========  ================  ===============  ====================

The products are not what a small convolution loses its time to. It is memory: the first layer writes 1 MB a cell, which
is as large as a core's second-level cache. One product for all 32 cells of a seed writes 33 MB and takes 222 a cell,
32 products 91. So a CPU takes one cell at a time through all layers, and makes the first layer's output again in the
backward pass (105) instead of keeping it. With stride 1 there are nine shifts of inner dimension N, whose sums go
through memory nine times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from empirical.models.activations import activation
from empirical.models.module import ModuleStack
from empirical.models.stack import Placement, Stack
from empirical.parametrization import LayerScale
from theory.errors import InputError, positive_integer


@dataclass(frozen=True)
class CNN:
    """Specification of a bias-free convolutional network with a global average pool.

    Attributes:
        strides: of the 3×3 convolutions, one entry each, 1 or 2; between 2 and 6 entries.
        width: channels N of every convolution.
        image_size: side of the square images in pixels.
        num_classes: outputs.
        image_channels: channels of the images; inputs are flattened, channels first.
        activation: one of ``ACTIVATIONS``; the passes below are ReLU's, others train through ``ModuleStack``.
    """

    strides: tuple[int, ...]
    width: int
    image_size: int
    num_classes: int
    image_channels: int = 1
    activation: str = "relu"

    can_die = False  # through ``ModuleStack``, where only other activations than ReLU go

    def __post_init__(self) -> None:
        activation(self.activation)
        object.__setattr__(self, "strides", tuple(self.strides))
        if not 2 <= len(self.strides) <= 6 or not set(self.strides) <= {1, 2}:
            raise InputError("strides", self.strides, "2 to 6 entries, each 1 or 2")
        for name in ("width", "image_size", "num_classes", "image_channels"):
            positive_integer(name, getattr(self, name))

    @property
    def depth(self) -> int:
        """Weight layers L: the convolutions and the readout."""
        return len(self.strides) + 1

    @property
    def input_dim(self) -> int:
        """Numbers in one image."""
        return self.image_channels * self.image_size**2

    @property
    def layers(self) -> tuple[LayerScale, ...]:
        """Scales of each weight layer, input first: those of an MLP whose fan-in is 9 channels for a convolution."""
        n, into = self.width, 9 * self.image_channels
        gain = activation(self.activation).gain
        first, hidden, last = gain * into**-0.5, gain * (9 * n) ** -0.5, 1 / n
        return (
            LayerScale(n, into, first, n * first**2, first),
            *[LayerScale(n, 9 * n, hidden, n * hidden**2, hidden * (9 * n) ** -0.5)] * (len(self.strides) - 1),
            LayerScale(self.num_classes, n, last, n * last**2, last),
        )

    def initial_weights(self, seed: int) -> list[Tensor]:
        """Draw θ₀, a pure function of the seed and the sizes.

        Args:
            seed: non-negative integer.

        Returns:
            Effective weights V_ℓ, float64: convolutions ``(width, channels, 3, 3)`` as in PyTorch, then the readout
            ``(num_classes, width)``.
        """
        out = []
        for layer, scale in enumerate(self.layers):
            draw = np.random.Generator(np.random.Philox(key=[seed, layer]))
            weight = torch.from_numpy(scale.multiplier * draw.standard_normal((scale.fan_out, scale.fan_in)))
            out.append(weight if layer == len(self.strides) else weight.view(scale.fan_out, -1, 3, 3))
        return out

    def parameter_count(self) -> int:
        """Number of weights of one network.

        Returns:
            The number.
        """
        return sum(scale.fan_in * scale.fan_out for scale in self.layers)

    def multiply_adds(self) -> int:
        """Multiply–add pairs of one training step of one cell for each example, centring left out.

        Returns:
            Forward pass, weight gradients and, above the first layer, input gradients, without padding or waste.
        """
        side, total = self.image_size, 0
        for layer, (stride, scale) in enumerate(zip(self.strides, self.layers, strict=False)):
            side = (side - 1) // stride + 1
            total += side * side * scale.fan_in * scale.fan_out * (3 if layer else 2)
        return total + 3 * self.width * self.num_classes

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one image, channels first."""
        return (self.image_channels, self.image_size, self.image_size)

    def module(self, seed: int) -> nn.Module:
        """One network at its θ₀; weight ℓ is ``layers.ℓ``.

        Args:
            seed: non-negative integer.

        Returns:
            A module of effective weights, float64.
        """
        return CNNModule(self.initial_weights(seed), self.strides, self.activation)

    def rates(self, normalized: bool = False) -> dict[str, float]:
        """Width multiplier of η for each weight of ``module``, by name.

        Args:
            normalized: for optimizers that take every weight equally far.

        Returns:
            One entry a weight layer, input first.
        """
        chosen = [s.normalized_learning_rate if normalized else s.learning_rate for s in self.layers]
        return {f"layers.{layer}": rate for layer, rate in enumerate(chosen)}

    def stack(self, placement: Placement) -> Stack:
        """Networks at their θ₀."""
        return CNNStack(self, placement) if self.activation == "relu" else ModuleStack(self, placement)


class CNNModule(nn.Module):
    """One bias-free CNN of given effective weights, for measurements and for plain training loops.

    Args:
        weights: kernels ``(out, in, 3, 3)``, input first, then the readout ``(num_classes, width)``.
        strides: of the convolutions.
        phi: name of the activation.
    """

    def __init__(self, weights: Sequence[Tensor], strides: Sequence[int], phi: str = "relu") -> None:
        super().__init__()
        self.layers, self.strides = nn.ParameterList(weights), tuple(strides)
        self.phi = activation(phi).apply

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs F.

        Args:
            x: images ``(batch, channels, side, side)``.

        Returns:
            Shape ``(batch, num_classes)``.
        """
        for kernel, stride in zip(self.layers, self.strides, strict=False):
            x = self.phi(conv2d(x, kernel, stride=stride, padding=1))
        return x.mean((2, 3)) @ self.layers[len(self.strides)].T


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


class _Cells:
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


class CNNStack:
    """The weights of C cells, and the two passes over them; see ``empirical.models.stack.Stack``.

    θ₀ and the displacement of each cell are held apart. Weights are stored for the products, input rows in the order
    of shifts, phases and channels, output channels innermost; ``displacements`` are laid out as in PyTorch.

    Args:
        spec: the architecture.
        placement: cells, optimizer and device.
        together: treat all cells of a seed in one product; ``None`` does where the device is not a CPU.
    """

    def __init__(
        self,
        spec: CNN,
        placement: Placement,
        *,
        together: bool | None = None,
    ) -> None:
        seeds, device = placement.seeds, placement.device
        self.spec, self.optimizer, self.dtype = spec, placement.optimizer, placement.dtype
        self.sections, self.inner = list(placement.sections), placement.inner_dtype
        self.together = device.type != "cpu" if together is None else together
        self.orders = self._orders()
        per_seed = [self._stored(spec.initial_weights(seed)) for seed in seeds]
        self.start = [torch.stack(same).to(device=device, dtype=self.inner) for same in zip(*per_seed, strict=True)]
        self.seed_index = torch.repeat_interleave(torch.arange(len(seeds)), torch.tensor(self.sections)).to(device)
        self.displacement = [start.new_zeros(len(self.seed_index), *start.shape[1:]) for start in self.start]
        self.weights = [start[self.seed_index] for start in self.start]
        self._cells: _Cells | None = None
        self._initial: _Cells | None = None
        self._silent = torch.zeros(len(self.seed_index), dtype=torch.bool, device=device)

    def _orders(self) -> list[Tensor]:
        """For each convolution, the tap of every block of rows."""
        side, orders = (self.spec.image_size - 1) // self.spec.strides[0] + 1, [torch.arange(9)]
        for stride in self.spec.strides[1:]:
            grid = _Grid(side, stride)
            orders.append(torch.tensor(grid.taps))
            side = grid.out
        return orders

    def _stored(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """From PyTorch's layout (…, out, in, 3, 3) to rows of (tap, in); patches of the image are (in, tap)."""
        out = []
        for layer, weight in enumerate(weights[:-1]):
            taps = weight.flatten(-2)[..., self.orders[layer]]
            rows = taps.flatten(-2) if layer == 0 else taps.mT.flatten(-2)
            out.append(rows.mT.contiguous())
        return [*out, weights[-1].mT.contiguous()]

    def displacements(self) -> dict[str, Tensor]:
        """How far every cell is from its start, as PyTorch lays weights out.

        Returns:
            Δ = θ − θ₀ by the names of ``CNN.module``, float64: ``(cells, width, channels, 3, 3)``, readout
            ``(cells, num_classes, width)``.
        """
        out = []
        for layer, rows in enumerate(self.displacement[:-1]):
            back = torch.argsort(self.orders[layer]).to(rows.device)
            taps = rows.mT.unflatten(-1, (-1, 9)) if layer == 0 else rows.mT.unflatten(-1, (9, -1)).mT
            out.append(taps[..., back].unflatten(-1, (3, 3)))
        out.append(self.displacement[-1].mT)
        return {f"layers.{layer}": moved.to(torch.float64, copy=True) for layer, moved in enumerate(out)}

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Centred raw outputs F(θ; x) − F(θ₀; x); keeps what ``update`` needs.

        Args:
            inputs: one batch a seed, each ``(batch, input_dim)``.

        Returns:
            Shape ``(cells, num_classes, batch)``.
        """
        batch = len(inputs[0])
        if self._cells is None or self._initial is None or self._cells.batch != batch:
            self._cells = _Cells(self.spec, self.weights, self.sections, batch, self.together)
            self._initial = _Cells(self.spec, self.start, [1] * len(inputs), batch, self.together)
        inputs = [x.to(self.inner) for x in inputs]
        output = self._cells.forward(inputs).sub_(self._initial.forward(inputs)[self.seed_index])
        self._silent = (self._cells.pooled == 0).flatten(1).all(1)
        return output.to(self.dtype)

    def inactive(self) -> Tensor:
        """Cells without an active unit in the last convolution on the whole of the last batch.

        Without biases F and every gradient are then exactly zero; a silent layer below silences the last one too.

        Returns:
            Booleans, shape ``(cells,)``.
        """
        return self._silent

    def update(self, gradient: Tensor) -> None:
        """One optimizer step from the last ``forward``.

        Args:
            gradient: ∂ℓ/∂F times ``optimizer.output_scale``, shape ``(cells, num_classes, batch)``.

        Raises:
            RuntimeError: there has been no ``forward``.
        """
        if self._cells is None:
            raise RuntimeError("update comes after forward")
        self._cells.backward(gradient.to(self.inner))
        rates = self.spec.rates(self.optimizer.normalized).values()
        for slot, (rate, moved) in enumerate(zip(rates, self.displacement, strict=True)):
            self.optimizer.step(slot, moved, self._cells.gradients[slot], rate, self.weights[slot])
            torch.add(self.start[slot][self.seed_index], moved, out=self.weights[slot])

    def keep(self, index: Tensor, sections: Sequence[int]) -> None:
        """Drop cells, here and in the optimizer.

        Args:
            index: positions of the cells to keep, ascending.
            sections: how many of each seed they are.
        """
        self.displacement = [moved.index_select(0, index) for moved in self.displacement]
        self.weights = [weight.index_select(0, index) for weight in self.weights]
        self.seed_index = self.seed_index.index_select(0, index)
        self.sections, self._cells = list(sections), None
        self.optimizer.keep(index)
