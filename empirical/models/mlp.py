"""Bias-free ReLU MLPs in μP, many at once, with their gradients written out.

A stack holds the effective weights of C cells as a shared start and a displacement of each cell, V_ℓ = V_ℓ(0) + Δ_ℓ:
lazy networks move by less than one unit in the last place of V a step, and Δ keeps what V would lose. Weights are
(C, out, in) and activations (C, features, batch), so that every product is one matrix product over contiguous memory.
The first layer sees the same batch in every cell of a seed: it is a single product of (C·N, d) with (d, batch).

The gradient of the loss with respect to F arrives multiplied by η; since backpropagation is linear the learning
rate of each cell needs no further pass, and each weight is updated inside its own matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from empirical.parametrization import LayerScale, mup_layers


@dataclass(frozen=True)
class MLP:
    """Specification of a bias-free ReLU MLP.

    Attributes:
        depth: weight layers L.
        width: hidden width N.
        input_dim: inputs d.
        num_classes: outputs.
    """

    depth: int
    width: int
    input_dim: int
    num_classes: int

    def __post_init__(self) -> None:
        mup_layers(self.depth, self.width, self.input_dim, self.num_classes)  # raises on bad sizes

    @property
    def layers(self) -> tuple[LayerScale, ...]:
        """Scales of each weight layer, input first."""
        return mup_layers(self.depth, self.width, self.input_dim, self.num_classes)

    def initial_weights(self, seed: int) -> list[Tensor]:
        """Draw θ₀, a pure function of the seed and the sizes.

        Args:
            seed: non-negative integer.

        Returns:
            Effective weights V_ℓ, float64, shapes ``(fan_out, fan_in)``.
        """
        draws = (np.random.Generator(np.random.Philox(key=[seed, layer])) for layer in range(self.depth))
        return [
            torch.from_numpy(scale.multiplier * draw.standard_normal((scale.fan_out, scale.fan_in)))
            for scale, draw in zip(self.layers, draws, strict=True)
        ]

    def parameter_count(self) -> int:
        """Number of weights of one network.

        Returns:
            The number.
        """
        return sum(scale.fan_in * scale.fan_out for scale in self.layers)


class MLPStack:
    """The weights of C cells, and the two passes over them.

    Cells of one seed stand side by side; ``sections`` counts them, seed by seed, in the order of the batches.

    Args:
        spec: the architecture.
        seeds: the different seeds.
        sections: cells of each seed.
        dtype: of weights and activations.
        device: where they live.
    """

    def __init__(
        self, spec: MLP, seeds: Sequence[int], sections: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.spec = spec
        self.sections = list(sections)
        per_seed = [spec.initial_weights(seed) for seed in seeds]
        to = {"device": device, "dtype": dtype}
        self.start = [torch.stack([w[layer] for w in per_seed]).to(**to) for layer in range(spec.depth)]  # type: ignore[call-overload]
        cells = sum(sections)
        self.displacement = [start.new_zeros(cells, *start.shape[1:]) for start in self.start]
        self.weights = [torch.empty_like(displacement) for displacement in self.displacement]
        self._move()
        self._inputs: Sequence[Tensor] = ()
        self._activations: list[Tensor] = []
        self._silent = torch.zeros(0, dtype=torch.bool)

    def _input_sections(self) -> list[slice]:
        ends = np.cumsum(self.sections)
        return [slice(int(end) - count, int(end)) for end, count in zip(ends, self.sections, strict=True)]

    def _move(self) -> None:
        """Weights from start and displacement."""
        for start, displacement, weight in zip(self.start, self.displacement, self.weights, strict=True):
            for origin, part in zip(start, self._input_sections(), strict=True):
                torch.add(origin, displacement[part], out=weight[part])

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Raw outputs F(θ; x); keeps what ``update`` needs.

        Args:
            inputs: one batch a seed, each ``(batch, input_dim)``.

        Returns:
            Shape ``(cells, num_classes, batch)``.
        """
        first = self.weights[0]
        cells, rows, columns = first.shape
        hidden = first.new_empty(cells, rows, len(inputs[0]))
        for part, x in zip(self._input_sections(), inputs, strict=True):
            if part.stop > part.start:
                count = part.stop - part.start
                torch.mm(first[part].view(-1, columns), x.T, out=hidden[part].view(count * rows, len(x)))
        self._inputs, self._activations = inputs, []
        for weight in self.weights[1:]:
            self._activations.append(hidden.clamp_min_(0))
            hidden = torch.bmm(weight, hidden)
        self._silent = (hidden == 0).flatten(1).all(1) & (self.spec.depth > 1)
        return hidden

    def inactive(self) -> Tensor:
        """Cells without a single active hidden unit on the last batch, whose gradient is therefore exactly zero.

        Without biases such a network has F = 0 on the whole batch, and F is 64 times smaller to read than the units.

        Returns:
            Booleans, shape ``(cells,)``; never true without hidden layers.
        """
        return self._silent

    def update(self, gradient: Tensor) -> None:
        """One step of gradient descent from the last ``forward``.

        Args:
            gradient: η ∂ℓ/∂F of each cell, the loss averaged over the batch, shape ``(cells, num_classes, batch)``;
                η without the width multiplier, which the layers' scales supply. Overwritten.
        """
        scales = self.spec.layers
        for layer in range(self.spec.depth - 1, 0, -1):
            weight, active = self.weights[layer], self._activations[layer - 1]
            below = torch.bmm(weight.transpose(1, 2), gradient)
            self.displacement[layer].baddbmm_(gradient, active.transpose(1, 2), alpha=-scales[layer].learning_rate)
            gradient = torch.ops.aten.threshold_backward(below, active, 0)  # zero where the unit is off, in one pass
        first = self.displacement[0]
        columns = first.shape[2]
        for part, x in zip(self._input_sections(), self._inputs, strict=True):
            if part.stop > part.start:
                rows = gradient[part].reshape(-1, gradient.shape[2])
                first[part].view(-1, columns).addmm_(rows, x, alpha=-scales[0].learning_rate)
        self._move()

    def keep(self, index: Tensor, sections: Sequence[int]) -> None:
        """Drop cells.

        Args:
            index: positions of the cells to keep, ascending.
            sections: how many of each seed they are.
        """
        self.displacement = [displacement.index_select(0, index) for displacement in self.displacement]
        self.weights = [weight.index_select(0, index) for weight in self.weights]
        self.sections = list(sections)
        self._activations = []
