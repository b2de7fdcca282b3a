"""Bias-free MLPs in μP, many at once, with their gradients written out: ReLU's here, others in ``smooth_mlp``.

A stack holds the effective weights V_ℓ of C cells. On a CPU it is the compiled loops of ``fused_mlp`` that train ReLU
networks; the stacks below are for GPUs, and for processors without fused multiply-add. Their weights are (C, out, in)
and activations (C, features, batch), so that every product is one matrix product over contiguous memory. The first
layer sees the same batch in every cell of a seed: it is a single product of (C·N, d) with (d, batch). The gradient
arrives at the output multiplied by η; since backpropagation is linear, plain gradient descent adds each weight's
gradient to the weight inside its own product.

Lazy cells move by less than one unit in the last place of V a step, and F(θ) − F(θ₀) loses all digits that the two have
in common. Their stack holds the start and the displacement apart, V_ℓ = V_ℓ(0) + Δ_ℓ, and sends displacements forward:
with h⁰, a⁰ the activations of θ₀, which all cells of a seed share,

    δh_ℓ = V_ℓ δa_{ℓ−1} + Δ_ℓ a⁰_{ℓ−1},      δa = φ(h⁰ + δh) − φ(h⁰) = max(δh, −h⁰) + min(h⁰, 0),

and δh_L = F(θ) − F(θ₀), in which nothing of the size of F has been subtracted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from empirical.models.activations import activation
from empirical.models.feed_forward import FeedForward
from empirical.models.fused_mlp import FusedMLPStack
from empirical.models.stack import Placement
from empirical.parametrization import LayerScale, mup_layers


@dataclass(frozen=True)
class MLP(FeedForward):
    """Specification of a bias-free MLP.

    Attributes:
        depth: weight layers L.
        width: hidden width N.
        input_dim: inputs d.
        num_classes: outputs.
        activation: one of ``ACTIVATIONS``.
    """

    depth: int
    width: int
    input_dim: int
    num_classes: int
    activation: str = "relu"

    def __post_init__(self) -> None:
        _ = self.layers  # raises on bad sizes

    @property
    def layers(self) -> tuple[LayerScale, ...]:
        """Scales of each weight layer, input first."""
        gain = activation(self.activation).gain
        return mup_layers(self.depth, self.width, self.input_dim, self.num_classes, gain)

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

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return (self.input_dim,)

    def module(self, seed: int) -> nn.Module:
        """One network at its θ₀; weight ℓ is ``layers.ℓ``.

        Args:
            seed: non-negative integer.

        Returns:
            A module of effective weights, float64.
        """
        return MLPModule(self.initial_weights(seed), self.activation)

    def stack(self, placement: Placement) -> MLPStack | FusedMLPStack:
        """Networks at their θ₀."""
        if self.activation != "relu":
            from empirical.models.smooth_mlp import SmoothMLPStack  # which extends the stack below

            return SmoothMLPStack(self, placement)
        if self.trains_cell_by_cell(placement.device):
            starts = [self.initial_weights(seed) for seed in placement.seeds]
            rates = list(self.rates(placement.optimizer.normalized).values())
            return FusedMLPStack(starts, rates, placement)
        return (LazyMLPStack if placement.lazy else MLPStack)(self, placement)


class MLPModule(nn.Module):
    """One bias-free MLP of given effective weights, for measurements and for plain training loops.

    Args:
        weights: V_ℓ, input layer first.
        phi: name of the activation.
    """

    def __init__(self, weights: Sequence[Tensor], phi: str = "relu") -> None:
        super().__init__()
        self.layers, self.phi = nn.ParameterList(weights), activation(phi).apply

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs F.

        Args:
            x: inputs ``(batch, input_dim)``.

        Returns:
            Shape ``(batch, num_classes)``.
        """
        for layer, weight in enumerate(self.layers):
            x = (self.phi(x) if layer else x) @ weight.T
        return x


def shared_product(left: Tensor, right: Tensor, out: Tensor, *, keep: float = 0.0, scale: float = 1.0) -> None:
    """Add scale · left · right to keep · out, with one right factor for all cells: a single product.

    Args:
        left: shape ``(cells, m, k)``.
        right: shape ``(k, n)``.
        out: shape ``(cells, m, n)``, contiguous.
        keep: 0 or 1.
        scale: any number.
    """
    out.view(-1, out.shape[-1]).addmm_(left.flatten(0, 1), right, beta=keep, alpha=scale)


class MLPStack:
    """The weights of C ReLU networks, and the two passes over them; see ``stack.StepwiseStack``.

    Args:
        spec: the architecture.
        placement: cells, optimizer and device.
    """

    def __init__(self, spec: MLP, placement: Placement) -> None:
        self.optimizer = optimizer = placement.optimizer
        self.rates = list(spec.rates(optimizer.normalized).values())
        draws = [spec.initial_weights(seed) for seed in placement.seeds]
        self.start = [
            torch.stack(layer).to(dtype=placement.dtype, device=placement.device) for layer in zip(*draws, strict=True)
        ]  # (seeds, out, in)
        counts = torch.tensor(placement.sections, device=placement.device)
        self.weights = [start.repeat_interleave(counts, 0) for start in self.start]
        self._set_sections(placement.sections)

    def _set_sections(self, sections: Sequence[int]) -> None:
        ends = np.cumsum(sections)
        self.sections = [slice(int(end) - count, int(end)) for end, count in zip(ends, sections, strict=True)]
        self._batch = 0  # buffers are to be made anew

    def _reserve(self, batch: int) -> None:
        """Make the buffers of a batch size: no step allocates any."""
        if batch == self._batch:
            return
        self._batch = batch
        self._hidden = [w.new_empty(*w.shape[:2], batch) for w in self.weights]  # h_ℓ, then φ(h_ℓ); F last
        self._below = [torch.empty_like(hidden) for hidden in self._hidden[:-1]]  # ∂ℓ/∂h_ℓ
        self._gradients = [] if self.optimizer.plain else [torch.empty_like(w) for w in self.weights]

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Centred raw outputs F(θ; x) − F(θ₀; x); keeps what ``update`` needs.

        Args:
            inputs: one batch a seed, each ``(batch, input_dim)``.

        Returns:
            Shape ``(cells, num_classes, batch)``; valid until the next call.
        """
        self._reserve(len(inputs[0]))
        self._inputs = inputs
        self._first_product(self.weights[0], self._hidden[0])
        for weight, below, above in zip(self.weights[1:], self._hidden, self._hidden[1:], strict=False):
            torch.bmm(weight, below.clamp_min_(0), out=above)
        output = self._hidden[-1]
        self._inactive = (output.abs().flatten(1).amax(1) == 0) & (len(self.weights) > 1)
        for part, start in zip(self.sections, self._start_forward(), strict=True):
            output[part] -= start[-1]
        return output

    def _first_product(self, weight: Tensor, out: Tensor) -> None:
        """V₁ x: one product a seed."""
        for part, x in zip(self.sections, self._inputs, strict=True):
            shared_product(weight[part], x.T, out[part])

    def _start_forward(self) -> list[list[Tensor]]:
        """Preactivations h⁰_ℓ of θ₀, seed by seed; the last is F(θ₀)."""
        out = []
        for seed, x in enumerate(self._inputs):
            hidden = [self.start[0][seed] @ x.T]
            for start in self.start[1:]:
                hidden.append(start[seed] @ hidden[-1].clamp_min(0))
            out.append(hidden)
        return out

    def inactive(self) -> Tensor:
        """Cells without a single active hidden unit on the last batch, whose gradient is therefore exactly zero.

        Without biases such a network has F = 0 on the whole batch, and F is 64 times smaller to read than the units.

        Returns:
            Booleans, shape ``(cells,)``; never true without hidden layers.
        """
        return self._inactive

    def update(self, gradient: Tensor) -> None:
        """One optimizer step from the last ``forward``.

        Args:
            gradient: ∂ℓ/∂f times ``optimizer.output_scale``, shape ``(cells, num_classes, batch)``.
        """
        for layer in range(len(self.weights) - 1, 0, -1):
            active, below = self._hidden[layer - 1], self._below[layer - 1]
            torch.bmm(self.weights[layer].mT, gradient, out=below)
            self._move(layer, gradient, active)
            # zero where the unit is off, in one pass
            gradient = torch.ops.aten.threshold_backward.grad_input(below, active, 0, grad_input=below)
        self._move(0, gradient, None)

    def displacements(self) -> dict[str, Tensor]:
        """How far every cell is from its start.

        Returns:
            Δ = θ − θ₀ by the names of ``MLP.module``, float64, each ``(cells, fan_out, fan_in)``.
        """
        counts = torch.tensor([part.stop - part.start for part in self.sections], device=self.start[0].device)
        starts = [start.double().repeat_interleave(counts, 0) for start in self.start]
        return {f"layers.{i}": w.double() - s for i, (w, s) in enumerate(zip(self.weights, starts, strict=True))}

    def _moving(self) -> list[Tensor]:
        """What the optimizer moves."""
        return self.weights

    def _move(self, layer: int, gradient: Tensor, active: Tensor | None) -> None:
        """Step of one layer; ``active`` is what the layer saw, ``None`` for the inputs."""
        weight, rate = self._moving()[layer], self.rates[layer]
        if self.optimizer.plain:
            target, scale, keep = weight, -rate * self.optimizer.multiplier, 1
        else:
            target, scale, keep = self._gradients[layer], 1.0, 0
        if active is not None:
            target.baddbmm_(gradient, active.mT, beta=keep, alpha=scale)
        else:
            for part, x in zip(self.sections, self._inputs, strict=True):
                shared_product(gradient[part], x, target[part], keep=keep, scale=scale)
        if not self.optimizer.plain:
            self.optimizer.step(layer, weight, target, rate, self.weights[layer])

    def keep(self, index: Tensor, sections: Sequence[int]) -> None:
        """Drop cells, here and in the optimizer.

        Args:
            index: positions of the cells to keep, ascending.
            sections: how many of each seed they are.
        """
        self.weights = [weight.index_select(0, index) for weight in self.weights]
        self.optimizer.keep(index)
        self._set_sections(sections)


class LazyMLPStack(MLPStack):
    """As ``MLPStack``, with the displacements held apart from the start and sent forward by themselves."""

    def __init__(self, spec: MLP, placement: Placement) -> None:
        super().__init__(spec, placement)
        self.displacement = [torch.zeros_like(weight) for weight in self.weights]

    def _reserve(self, batch: int) -> None:
        if batch != self._batch:
            super()._reserve(batch)
            self._change = [torch.empty_like(hidden) for hidden in self._hidden]  # δh_ℓ, then δa_ℓ

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Centred raw outputs without cancellation; see ``MLPStack.forward``.

        Args:
            inputs: one batch a seed, each ``(batch, input_dim)``.

        Returns:
            Shape ``(cells, num_classes, batch)``; valid until the next call.
        """
        self._reserve(len(inputs[0]))
        self._inputs = inputs
        starts = self._start_forward()
        self._first_product(self.displacement[0], self._change[0])
        for layer in range(1, len(self.weights)):
            below, above = self._change[layer - 1], self._change[layer]
            origins = [start[layer - 1] for start in starts]
            for part, origin in zip(self.sections, origins, strict=True):
                torch.maximum(below[part], -origin, out=below[part]).add_(origin.clamp_max(0))
                torch.add(below[part], origin.clamp_min(0), out=self._hidden[layer - 1][part])
            torch.bmm(self.weights[layer], below, out=above)
            for part, origin in zip(self.sections, origins, strict=True):
                shared_product(self.displacement[layer][part], origin.clamp_min(0), above[part], keep=1)
        if len(self.weights) > 1:
            self._inactive = self._hidden[-2].flatten(1).amax(1) == 0
        else:
            self._inactive = torch.zeros(len(self.weights[0]), dtype=torch.bool, device=inputs[0].device)
        return self._change[-1]

    def displacements(self) -> dict[str, Tensor]:
        """How far every cell is from its start, as it is held.

        Returns:
            Δ = θ − θ₀ by the names of ``MLP.module``, float64, each ``(cells, fan_out, fan_in)``.
        """
        return {f"layers.{layer}": moved.to(torch.float64, copy=True) for layer, moved in enumerate(self.displacement)}

    def _moving(self) -> list[Tensor]:
        return self.displacement

    def update(self, gradient: Tensor) -> None:
        """One optimizer step of the displacements; see ``MLPStack.update``.

        Args:
            gradient: ∂ℓ/∂f times ``optimizer.output_scale``, shape ``(cells, num_classes, batch)``.
        """
        super().update(gradient)
        for start, displacement, weight in zip(self.start, self.displacement, self.weights, strict=True):
            for origin, part in zip(start, self.sections, strict=True):
                torch.add(origin, displacement[part], out=weight[part])

    def keep(self, index: Tensor, sections: Sequence[int]) -> None:
        """Drop cells, here and in the optimizer.

        Args:
            index: positions of the cells to keep, ascending.
            sections: how many of each seed they are.
        """
        self.displacement = [displacement.index_select(0, index) for displacement in self.displacement]
        super().keep(index, sections)
