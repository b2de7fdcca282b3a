"""Layered networks on a CPU: cells are trained one by one by compiled loops over a list of layers, ``kernels.network``.

An architecture draws a ``Blueprint`` of itself; the stack holds the weights and hands the table to the loops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from empirical.kernels import elementwise, network
from empirical.kernels.network import Instruction
from empirical.kernels.tiles import ADD, RELU, STORE, lanes, widest
from empirical.models.fused import FusedCells
from empirical.models.stack import Placement

COLUMN_BYTES = 8e6
"""Numbers of all layers of a network and as many derivatives: a batch that has more goes through the layers in parts.

Wider columns make better tiles, and a few megabytes come from the third-level cache fast enough."""


class Blueprint:
    """The layers of a network, written down one after the other; each returns the number of the grid it fills.

    Args:
        tensors: names of the weights, in the order of the optimizer's slots; the readout is the last.
        border: of the grids: 1 for kernels of 3 × 3 pixels, 0 for tokens.
    """

    def __init__(self, tensors: Sequence[str], border: int) -> None:
        self.tensors, self.border = {name: index for index, name in enumerate(tensors)}, border
        self.grids: list[tuple[int, int, int, int]] = []
        self.numbers = 0
        self.instructions: list[Instruction] = []
        self.factors: list[float] = []

    def _grid(self, channels: int, side: int) -> int:
        self.grids.append((self.numbers, channels, side, self.border))
        self.numbers += channels * (side + 2 * self.border) ** 2
        return len(self.grids) - 1

    def _like(self, grid: int) -> int:
        return self._grid(*self.grids[grid][1:3])

    def _write(self, code: int, target: int, factor: float = 1.0, **fields: Any) -> int:
        self.instructions.append(Instruction(code, target, **fields))
        self.factors.append(factor)
        return target

    def embed(self, tensor: str, channels: int, side: int, *, rectified: bool = False, positions: str = "") -> int:
        """The first layer: a product for every patch.

        Args:
            tensor: its weights, ``(channels, numbers of a patch)``.
            channels: out.
            side: patches along a side.
            rectified: whether max(·, 0) follows.
            positions: weights to be added, ``(patches, channels)``, if any.

        Returns:
            Number of the grid.
        """
        return self._write(
            network.EMBED,
            self._grid(channels, side),
            tensor=self.tensors[tensor],
            positions=self.tensors[positions] if positions else -1,
            mode=int(RELU if rectified else STORE),
        )

    def convolve(
        self, tensor: str, source: int, channels: int, *, kernel: int = 1, stride: int = 1, rectified: bool = False
    ) -> int:
        """A convolution without bias, padded so that stride 1 keeps the size; with a kernel of 1, a product a pixel.

        Args:
            tensor: its weights.
            source: grid that it reads.
            channels: out.
            kernel: side of the kernel, 1 or 3.
            stride: 1 or 2.
            rectified: whether max(·, 0) follows.

        Returns:
            Number of the grid.
        """
        target = self._grid(channels, (self.grids[source][2] - 1) // stride + 1)
        mode = int(RELU if rectified else STORE)
        return self._write(
            network.CONVOLVE,
            target,
            source=source,
            tensor=self.tensors[tensor],
            kernel=kernel,
            stride=stride,
            mode=mode,
        )

    def add_convolution(self, tensor: str, source: int, target: int, *, kernel: int = 1, factor: float = 1.0) -> int:
        """Add a convolution, times a factor, to a grid that no instruction reads again on its way back.

        Args:
            tensor: its weights.
            source: grid that it reads.
            target: the residual stream.
            kernel: side of the kernel, 1 or 3.
            factor: of the branch.

        Returns:
            ``target``.
        """
        return self._write(
            network.CONVOLVE,
            target,
            factor,
            source=source,
            tensor=self.tensors[tensor],
            kernel=kernel,
            mode=int(ADD),
        )

    def rectify(self, source: int) -> int:
        """Rectified numbers, max(·, 0).

        Args:
            source: grid that it reads.

        Returns:
            Number of the grid.
        """
        return self._write(network.RECTIFY, self._like(source), source=source)

    def gelu(self, source: int) -> int:
        """Gaussian units h Φ(h).

        Args:
            source: grid that it reads and uses up; nothing else may read it.

        Returns:
            Number of the grid.
        """
        return self._write(network.GELU, self._like(source), source=source)

    def normalize(self, source: int) -> int:
        """LayerNorm over the channels of each pixel, without gain.

        Args:
            source: grid that it reads.

        Returns:
            Number of the grid.
        """
        kept = self._grid(1, self.grids[source][2])
        return self._write(network.NORMALIZE, self._like(source), source=source, kept=kept)

    def attend(self, queries: int, keys: int, values: int, heads: int) -> int:
        """Attention of all pixels to all, scores divided by the features of a head.

        Args:
            queries: grid of them, without a border.
            keys: likewise.
            values: likewise.
            heads: a divisor of the channels.

        Returns:
            Number of the grid.
        """
        side = self.grids[queries][2]
        kept = self._grid(heads * side**2, side)
        return self._write(
            network.ATTEND,
            self._like(queries),
            source=queries,
            second=keys,
            third=values,
            kept=kept,
            heads=heads,
        )

    def table(self, top: int) -> NDArray[np.int64]:
        """All instructions, each with whether its derivative is put or added.

        Args:
            top: grid whose mean the readout sees.

        Returns:
            Shape ``(instructions, fields)``.
        """
        reached, rows = {top}, []
        for instruction in reversed(self.instructions):
            rows.append(replace(instruction, adds=instruction.source in reached).row())
            if instruction.code != network.EMBED:
                reached.add(instruction.source)
        return np.array(rows[::-1], dtype=np.int64)


@dataclass(frozen=True)
class FusedNetwork:
    """What the loops are told of an architecture.

    Attributes:
        blueprint: its layers.
        top: grid whose mean the readout sees.
        patches: takes images ``(…, channels, side, side)`` apart, ``(…, patches, numbers of a patch)``.
        image: shape of an image.
        shapes: of the weights by name, in the order of the blueprint; those of 3 × 3 kernels have four dimensions.
        can_die: whether F = 0 on a whole batch says that no gradient is left.
        epsilon: ε of the norms.
    """

    blueprint: Blueprint
    top: int
    patches: Callable[[Tensor], Tensor]
    image: tuple[int, ...]
    shapes: Mapping[str, tuple[int, ...]]
    can_die: bool
    epsilon: float = 0.0


def kernel_patches(stride: int) -> Callable[[Tensor], Tensor]:
    """Windows of 3 × 3 pixels around every pixel, or every second one.

    Args:
        stride: 1 or 2.

    Returns:
        A function of images ``(…, channels, side, side)``: ``(…, pixels, 9 · channels)``, the channel innermost.
    """

    def patches(images: Tensor) -> Tensor:
        windows = (
            pad(images, (1, 1, 1, 1)).unfold(-2, 3, stride).unfold(-2, 3, stride)
        )  # (…, channel, y, x, down, right)
        return windows.movedim(-5, -1).flatten(-3).flatten(-3, -2)

    return patches


class FusedNetworkStack(FusedCells):
    """The weights of C networks of one architecture; see ``stack.FusedStack``.

    Lazy cells compute in double precision. A cell has the same bits whatever other cells and seeds there are.

    Args:
        drawn: the architecture.
        starts: weights of each seed by name, as PyTorch has them.
        rates: width multiplier of η for each tensor that is trained, by name, of the optimizer at hand.
        placement: cells and optimizer.
    """

    def __init__(
        self,
        drawn: FusedNetwork,
        starts: Sequence[Mapping[str, Tensor]],
        rates: Mapping[str, float],
        placement: Placement,
    ) -> None:
        self.trained = frozenset(rates)
        flat = [[_channel_innermost(weights[name]) for name in drawn.shapes] for weights in starts]
        multipliers = [rates.get(name, 0.0) for name in drawn.shapes]
        super().__init__(flat, multipliers, placement, placement.inner_dtype, held_apart=True)
        self.outer_dtype, self.drawn, blueprint = placement.dtype, drawn, drawn.blueprint
        self.can_die = drawn.can_die
        self.layers = (
            blueprint.table(drawn.top),
            np.array(blueprint.factors),
            np.array(blueprint.grids, dtype=np.int64),
            self.places,
            np.array(self.rows),
        )
        if self.kind == elementwise.PLAIN:
            self.kind = elementwise.DECAYED  # gradients are summed before they are used

    def _columns(self, batch: int) -> tuple[int, int]:
        """In how many parts of how many examples a batch goes through the layers."""
        vector, vectors = lanes(self.dtype.itemsize), widest()
        while vectors > 1 and (
            vectors * vector >= 2 * self.padded(batch)
            or 2 * self.drawn.blueprint.numbers * vectors * vector * self.dtype.itemsize > COLUMN_BYTES
        ):
            vectors //= 2
        return -(-batch // (vectors * vector)), vectors * vector

    def _in_columns(self, batches: Tensor) -> Tensor:
        """Numbers of each example, ``(…, batch, n)``, as ``(…, columns, examples, n)``, padded with zeros."""
        columns, examples = self._columns(batches.shape[-2])
        padding = columns * examples - batches.shape[-2]
        return pad(batches, (0, 0, 0, padding)).unflatten(-2, (columns, examples))

    def _patches(self, inputs: Tensor) -> Tensor:
        """Patches of images ``(…, batch, input_dim)``: ``(…, columns, examples, patches, numbers of a patch)``."""
        patches = self.drawn.patches(inputs.to(self.dtype).unflatten(-1, self.drawn.image))
        return self._in_columns(patches.flatten(-2)).unflatten(-1, patches.shape[-2:])

    def _sizes(self, batch: int) -> NDArray[np.int64]:
        drawn = self.drawn
        return np.array([
            self.shapes[self._first][1], self.shapes[-1][0], batch, drawn.top, drawn.blueprint.numbers
        ])  # fmt: skip

    @property
    def _first(self) -> int:
        """Which tensor reads the patches."""
        return int(self.drawn.blueprint.instructions[0].tensor)

    def run_loops(self, codes: tuple[int, int], batches: tuple[Tensor, Tensor], common: tuple[Any, ...]) -> None:
        """Call the loops that train; see ``FusedCells.run_loops``.

        Args:
            codes: of the loss and of the optimizer.
            batches: inputs and targets of all seeds.
            common: arguments of all loops that train.
        """
        patches, targets = self._patches(batches[0]), self._in_columns(batches[1].mT).mT.contiguous()
        rows = pad(patches.transpose(-3, -2), (0, self.rows[self._first] - patches.shape[-1]))
        network.train(
            *self.numbers(self.weights, self.start, self.displacement, self.first, self.second),
            self.seed_of,
            *self.layers,
            self._sizes(batches[0].shape[2]),
            self.drawn.epsilon,
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
        network.outputs_of(
            *self.numbers(self.weights, self.start),
            self.seed_of,
            *self.layers,
            self._sizes(len(inputs[0])),
            self.drawn.epsilon,
            _flat_columns(patches.movedim(-3, -1)),
            out.numpy(),
        )
        return out.transpose(1, 2).flatten(2)[..., : len(inputs[0])].to(self.outer_dtype)

    def displacements(self) -> dict[str, Tensor]:
        """How far every cell is from its start, as PyTorch lays weights out.

        Returns:
            Δ = θ − θ₀ of the tensors that are trained by name, float64, each ``(cells, *shape)``.
        """
        return {
            name: part.unflatten(-1, (*shape[2:], shape[1])).movedim(-1, 2).contiguous() if len(shape) == 4 else part
            for (name, shape), part in zip(self.drawn.shapes.items(), self.moved(), strict=True)
            if name in self.trained
        }


def _channel_innermost(weight: Tensor) -> Tensor:
    """A kernel ``(out, in, 3, 3)`` as ``(out, 9 · in)``; a matrix as it is."""
    return weight.movedim(1, -1).flatten(1) if weight.dim() == 4 else weight


def _flat_columns(columns: Tensor) -> NDArray[Any]:
    """The last three dimensions as one, for the loops."""
    return columns.flatten(-3).contiguous().numpy()
