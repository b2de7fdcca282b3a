"""Bias-free ReLU convolutional networks in μP, many at once, with their gradients written out.

    h₁ = V₁ ∗ x,   h_ℓ = V_ℓ ∗ φ(h_{ℓ−1}),   F = V_L ⟨φ(h_{L−1})⟩_pixels,      V_ℓ = a_ℓ W_ℓ,  W_ℓ standard normal,

with 3×3 kernels, padding 1 and strides of 1 or 2. The readout sees the average over pixels, so that its fan-in is the
number of channels N, as in an MLP, and does not grow with the image.

On a CPU it is the compiled loops of ``fused_network`` that train ReLU networks. The stack below is for GPUs, and for
processors without fused multiply-add: its cells go through matrix products of shifted views (``cnn_views``), one at a
time on a CPU, all of a seed at a time on a GPU.

Microseconds for one cell (16 → 16 channels, 14×14, stride 2, batch 64, float32, 14.5 MFLOP each; least of 15 to 25 runs
on one Zen 5 core, PyTorch 2.13), by the libraries behind PyTorch; 262 GFLOP/s would be 55:

==================================================  ========  ================  ==================
layout                                              forward   filter gradient   input gradient
==================================================  ========  ================  ==================
shifted views, MKL (``cnn_views``)                  250       214               199
oneDNN, images in the batch, channels first         128       134               1290
oneDNN, images in the batch, channels last          120       103               332
oneDNN, batch a spatial dimension, one cell         94        111               125
… four cells as groups                              70        90                84
==================================================  ========  ================  ==================

A whole step, with a first layer and everything else, takes 330 by the loops and took 580 by the best of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from empirical.models.activations import activation
from empirical.models.cnn_views import ShiftedCells
from empirical.models.feed_forward import FeedForward
from empirical.models.fused_network import Blueprint, FusedNetwork, FusedNetworkStack, kernel_patches
from empirical.models.module import ModuleStack
from empirical.models.stack import Placement, StepwiseStack
from empirical.parametrization import LayerScale
from theory.errors import InputError, one_of, positive_integer


@dataclass(frozen=True)
class CNN(FeedForward):
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

    def drawn(self) -> FusedNetwork:
        """The layers for the compiled loops, those of ReLU networks."""
        layers = Blueprint([f"layers.{layer}" for layer in range(self.depth)], border=1)
        side = (self.image_size - 1) // self.strides[0] + 1
        h = layers.embed("layers.0", self.width, side, rectified=True)
        for layer, stride in enumerate(self.strides[1:], 1):
            h = layers.convolve(f"layers.{layer}", h, self.width, kernel=3, stride=stride, rectified=True)
        *filters, readout = self.layers
        sizes = [*((scale.fan_out, scale.fan_in // 9, 3, 3) for scale in filters), (readout.fan_out, readout.fan_in)]
        shapes = {f"layers.{layer}": size for layer, size in enumerate(sizes)}
        return FusedNetwork(layers, h, kernel_patches(self.strides[0]), self.example_shape, shapes, can_die=True)

    def stack(self, placement: Placement) -> StepwiseStack | FusedNetworkStack:
        """Networks at their θ₀."""
        if self.activation != "relu":
            return ModuleStack(self, placement)
        if self.trains_cell_by_cell(placement.device):
            starts = [self.module(seed).state_dict() for seed in placement.seeds]
            return FusedNetworkStack(self.drawn(), starts, self.rates(placement.optimizer.normalized), placement)
        return CNNStack(self, placement)


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


PASSES = ("cells", "seeds")
"""How a stack goes through its cells: one, or all of a seed, at a time."""


class CNNStack:
    """The weights of C cells, and the two passes over them; see ``empirical.models.stack.StepwiseStack``.

    θ₀ and the displacement of each cell are held apart, in the layout of the passes; ``displacements`` have PyTorch's.

    Args:
        spec: the architecture.
        placement: cells, optimizer and device.
        passes: one of ``PASSES``; ``None`` takes the faster.
    """

    def __init__(self, spec: CNN, placement: Placement, *, passes: str | None = None) -> None:
        seeds, device = placement.seeds, placement.device
        self.spec, self.optimizer, self.dtype = spec, placement.optimizer, placement.dtype
        self.sections, self.inner = list(placement.sections), placement.inner_dtype
        faster = "cells" if device.type == "cpu" else "seeds"
        self.passes = faster if passes is None else one_of("passes", passes, PASSES)
        per_seed = [ShiftedCells.store(spec, spec.initial_weights(seed)) for seed in seeds]
        self.start = [torch.stack(same).to(device=device, dtype=self.inner) for same in zip(*per_seed, strict=True)]
        self.seed_index = torch.repeat_interleave(torch.arange(len(seeds)), torch.tensor(self.sections)).to(device)
        self.displacement = [start.new_zeros(len(self.seed_index), *start.shape[1:]) for start in self.start]
        self.weights = [start[self.seed_index] for start in self.start]
        self._cells: ShiftedCells | None = None
        self._initial: ShiftedCells | None = None
        self._silent = torch.zeros(len(self.seed_index), dtype=torch.bool, device=device)

    def _make(self, weights: list[Tensor], sections: Sequence[int], batch: int) -> ShiftedCells:
        return ShiftedCells(self.spec, weights, sections, batch, self.passes == "seeds")

    def displacements(self) -> dict[str, Tensor]:
        """How far every cell is from its start, as PyTorch lays weights out.

        Returns:
            Δ = θ − θ₀ by the names of ``CNN.module``, float64: ``(cells, width, channels, 3, 3)``, readout
            ``(cells, num_classes, width)``.
        """
        moved = ShiftedCells.restore(self.spec, self.displacement)
        return {f"layers.{layer}": tensor.to(torch.float64, copy=True) for layer, tensor in enumerate(moved)}

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Centred raw outputs F(θ; x) − F(θ₀; x); keeps what ``update`` needs.

        Args:
            inputs: one batch a seed, each ``(batch, input_dim)``.

        Returns:
            Shape ``(cells, num_classes, batch)``.
        """
        batch = len(inputs[0])
        if self._cells is None or self._initial is None or self._cells.batch != batch:
            self._cells = self._make(self.weights, self.sections, batch)
            self._initial = self._make(self.start, [1] * len(inputs), batch)
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
