"""Bias-free ReLU convolutional networks in μP, many at once, with their gradients written out.

    h₁ = V₁ ∗ x,   h_ℓ = V_ℓ ∗ φ(h_{ℓ−1}),   F = V_L ⟨φ(h_{L−1})⟩_pixels,      V_ℓ = a_ℓ W_ℓ,  W_ℓ standard normal,

with 3×3 kernels, padding 1 and strides of 1 or 2. The readout sees the average over pixels, so that its fan-in is the
number of channels N, as in an MLP, and does not grow with the image.

Layout. The batch is the innermost dimension and the image is cut into its stride × stride phases (even and odd rows
and columns), each on a zero-padded grid: activations are (phase, channel, row, column, batch). Tap (u, v) then reads
phase (u mod s, v mod s) shifted by (u // s, v // s) pixels, and a shifted grid is a *view*, 64 numbers further on for
a batch of 64. So a convolution is one matrix product for each shift (four of them for stride 2, with inner dimensions
4N, 2N, 2N, N), nothing is copied, and both backward passes are products of the same views. Pixels that fall off the
right edge of the grid are computed and ignored: 12 % more arithmetic at 14×14.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import unfold

from empirical.optimizers import Optimizer
from theory.errors import InputError, positive_integer


@dataclass(frozen=True)
class ConvScale:
    """Scales of one weight layer.

    Attributes:
        fan_out: output channels, or classes.
        fan_in: 9 × input channels for a convolution, channels for the readout.
        multiplier: a_ℓ, also the standard deviation of the effective weights at the start.
        learning_rate: what multiplies η in a gradient step of the effective weights, N a_ℓ².
        normalized_rate: the same for optimizers whose step ignores the size of the gradient, s a_ℓ with s = 1 for
            the first and the last layer and fan_in^{−1/2} between.
    """

    fan_out: int
    fan_in: int
    multiplier: float
    learning_rate: float
    normalized_rate: float


@dataclass(frozen=True)
class CNN:
    """Specification of a bias-free ReLU convolutional network with a global average pool.

    Attributes:
        strides: of the 3×3 convolutions, one entry each, 1 or 2; between 2 and 6 entries.
        width: channels N of every convolution.
        image_size: side of the square images in pixels.
        num_classes: outputs.
        image_channels: channels of the images; inputs are flattened, channels first.
    """

    strides: tuple[int, ...]
    width: int
    image_size: int
    num_classes: int
    image_channels: int = 1

    def __post_init__(self) -> None:
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
    def layers(self) -> tuple[ConvScale, ...]:
        """Scales of each weight layer, input first."""
        n, into = self.width, 9 * self.image_channels
        first, hidden, last = (2 / into) ** 0.5, (2 / (9 * n)) ** 0.5, 1 / n
        return (
            ConvScale(n, into, first, n * first**2, first),
            *[ConvScale(n, 9 * n, hidden, n * hidden**2, hidden * (9 * n) ** -0.5)] * (len(self.strides) - 1),
            ConvScale(self.num_classes, n, last, n * last**2, last),
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

    def stack(
        self,
        seeds: Sequence[int],
        sections: Sequence[int],
        optimizer: Optimizer,
        *,
        lazy: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> CNNStack:
        """Networks at their θ₀.

        Args:
            seeds: the different seeds.
            sections: cells of each seed.
            optimizer: moves the weights; its cells are those of the stack.
            lazy: compute in double precision, so that F(θ) − F(θ₀) does not cancel.
            dtype: of inputs, outputs and, unless ``lazy``, everything between.
            device: where they live.

        Returns:
            The stack.
        """
        return CNNStack(self, seeds, sections, optimizer, lazy=lazy, dtype=dtype, device=device)


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


def _multiply(out: Tensor, a: Tensor, b: Tensor, *, add: bool) -> None:
    """``out`` = (``out`` if ``add``) + a b, into memory whose rows may lie apart."""
    if out.dim() == 2:
        torch.addmm(out, a, b, beta=float(add), out=out) if add else torch.mm(a, b, out=out)
    else:
        out.baddbmm_(a, b, beta=float(add))


class _Passes:
    """Buffers of the forward and backward pass of C cells on batches of one size; nothing is allocated in a step."""

    def __init__(self, spec: CNN, cells: int, batch: int, like: Tensor) -> None:
        self.batch, self.cells = batch, cells
        side, self.grids = (spec.image_size - 1) // spec.strides[0] + 1, []
        for stride in spec.strides[1:]:
            self.grids.append(_Grid(side, stride))
            side = self.grids[-1].out
        self.side, n = side, spec.width
        # one cell after the other stays in the cache of a CPU; a GPU wants them all at once
        self.parts: list[int | slice] = list(range(cells)) if like.device.type == "cpu" else [slice(None)]
        lead = (cells,)
        once = () if like.device.type == "cpu" else (cells,)
        spots = [(len(g.phases), n, g.width**2 * batch) for g in self.grids]
        rows = [(n, g.out * g.width * batch) for g in self.grids]
        self.inputs = [like.new_zeros(*lead, *shape) for shape in spots]
        self.backs = [like.new_zeros(*once, *shape) for shape in spots]
        self.outs = [like.new_zeros(*once, *shape) for shape in rows[:-1]] + [like.new_zeros(*lead, *rows[-1])]
        self.slopes = [like.new_zeros(*once, *shape) for shape in rows]
        self.patches: list[Tensor] = []
        self.pooled = like.new_zeros(cells, n, batch)
        self.image = (spec.image_channels, spec.image_size, spec.image_size)
        self.stride = spec.strides[0]

    def lay_out(self, inputs: Sequence[Tensor]) -> None:
        """Patches of the first layer, one set a seed, in the order in which the second layer wants its input.

        All cells of a seed share them, and the zeros around the grid come out of the product by themselves.
        """
        grid = self.grids[0]
        self.patches = []
        for x in inputs:
            patches = unfold(x.view(-1, *self.image), 3, padding=1, stride=self.stride)
            patches = patches.permute(1, 2, 0).unflatten(1, (grid.side, grid.side))
            laid = x.new_zeros(len(grid.phases), patches.shape[0], grid.width, grid.width, self.batch)
            for place, (pixels, spots) in zip(laid, grid.windows(), strict=True):
                place[:, *spots] = patches[:, *pixels]
            self.patches.append(laid.flatten(2))

    def _views(self, layer: int, stored: Tensor) -> list[tuple[slice, Tensor]]:
        """Rows of the weights, and the shifted view of a grid that they multiply, for each shift."""
        grid, start, out = self.grids[layer], 0, []
        channels = stored.shape[-2]
        for shift, phases in grid.shifts:
            rows = stored.flatten(-3, -2)[..., channels * phases.start : channels * phases.stop, :]
            count = rows.shape[-2]
            reach = slice(shift * self.batch, (shift + grid.pixels) * self.batch)
            out.append((slice(start, start + count), rows[..., reach]))
            start += count
        return out

    def _image(self, flat: Tensor, layer: int) -> Tensor:
        """Valid pixels of a convolution's output: (…, channel, row, column, batch)."""
        grid = self.grids[layer]
        return flat.unflatten(-1, (grid.out, grid.width, self.batch))[..., : grid.out, :]

    def _grid(self, stored: Tensor, layer: int) -> Tensor:
        grid = self.grids[layer]
        return stored.unflatten(-1, (grid.width, grid.width, self.batch))
