"""Optimizers of many cells at once: one step of a stacked weight tensor, each cell with its own η and β.

=============  ==========================================================  ==========================================
name           step of the unit-variance weights W                         width multiplier of μP
=============  ==========================================================  ==========================================
``gd``         W ← W − η N g                                               N, every layer
``momentum``   v ← βv + g,  W ← W − η N v                                  N, every layer
``adam``       W ← W − η s m̂ / (√v̂ + ε),  β₁ = β, β₂ = 0.999                s: 1 input, N^{−1/2} hidden, 1 output
``sign``       W ← W − η s sign(g)                                         s: 1 input, N^{−1/2} hidden, 1 output
=============  ==========================================================  ==========================================

The first two are linear in g, so η and 1/γ ride on ∂ℓ/∂F and cost no pass over the weights. The last two take every
weight about η far whatever the size of g: they see γ ∂ℓ/∂V, V the effective weights (see ``parametrization``), whose
size does not depend on γ. So Adam's ε = 1e-8 means the same on the whole γ axis: it is ε a_ℓ/γ in terms of ∂ℓ/∂W.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

OPTIMIZERS = ("gd", "momentum", "adam", "sign")

DEFAULT_BETA = 0.9
"""Memory β of heavy ball, and β₁ of Adam."""

ADAM_BETA2, ADAM_EPSILON = 0.999, 1e-8


class Optimizer(ABC):
    """Moves stacked weights; state, where there is any, is one tensor or two for each weight tensor (slot).

    Args:
        eta: learning rate of each cell before the width multiplier, float64, shape ``(cells,)``.
        gamma: feature-learning strength of each cell, same.
        dtype: of the weights.
    """

    normalized = False
    """Whether the size of a step ignores that of the gradient: which width multiplier of μP holds."""

    plain = False
    """Whether a step is w ← w − rate·g and nothing else."""

    def __init__(self, eta: Tensor, gamma: Tensor, dtype: torch.dtype) -> None:
        self.eta = eta.to(dtype)
        scale = torch.ones_like(eta) if self.normalized else eta / gamma
        self.output_scale = scale.to(dtype)
        """What the derivative ∂ℓ/∂f of each cell is multiplied with before it is sent back, shape ``(cells,)``."""

    def begin(self) -> None:  # noqa: B027 (most optimizers count no steps)
        """Count a step; to be called once before the weights of a step are moved."""

    @abstractmethod
    def step(self, slot: int, weight: Tensor, gradient: Tensor, rate: float) -> None:
        """Move one stacked weight tensor.

        Args:
            slot: which tensor, from 0 on.
            weight: the weights, or their displacements, shape ``(cells, …)``; changed in place.
            gradient: what was sent back to them, same shape; may be overwritten.
            rate: multiplier of η for this tensor, by ``normalized``.
        """

    def keep(self, index: Tensor) -> None:
        """Drop cells.

        Args:
            index: positions of the cells to keep, ascending.
        """
        self.eta = self.eta.index_select(0, index)
        self.output_scale = self.output_scale.index_select(0, index)


def _like(per_cell: Tensor, weight: Tensor) -> Tensor:
    """One number a cell, shaped to multiply a stacked weight."""
    return per_cell.view(-1, *[1] * (weight.dim() - 1))


class GradientDescent(Optimizer):
    """w ← w − η g."""

    plain = True

    def step(self, slot: int, weight: Tensor, gradient: Tensor, rate: float) -> None:  # noqa: D102
        weight.sub_(gradient, alpha=rate)


class HeavyBall(Optimizer):
    """v ← βv + g, w ← w − η v; v holds η along with g.

    Args:
        eta: see ``Optimizer``.
        gamma: see ``Optimizer``.
        dtype: see ``Optimizer``.
        beta: memory of each cell, shape ``(cells,)``.
    """

    def __init__(self, eta: Tensor, gamma: Tensor, dtype: torch.dtype, beta: Tensor) -> None:
        super().__init__(eta, gamma, dtype)
        self.beta = beta.to(dtype)
        self.velocity: dict[int, Tensor] = {}

    def step(self, slot: int, weight: Tensor, gradient: Tensor, rate: float) -> None:  # noqa: D102
        if slot not in self.velocity:
            self.velocity[slot] = gradient.clone()
        else:
            self.velocity[slot].mul_(_like(self.beta, weight)).add_(gradient)
        weight.sub_(self.velocity[slot], alpha=rate)

    def keep(self, index: Tensor) -> None:  # noqa: D102
        super().keep(index)
        self.beta = self.beta.index_select(0, index)
        self.velocity = {slot: v.index_select(0, index) for slot, v in self.velocity.items()}


class Adam(Optimizer):
    """Adam with bias correction (Kingma & Ba 2015), β₁ of each cell, β₂ = 0.999, ε = 1e-8.

    Args:
        eta: see ``Optimizer``.
        gamma: see ``Optimizer``.
        dtype: see ``Optimizer``.
        beta: β₁ of each cell, shape ``(cells,)``.
    """

    normalized = True

    def __init__(self, eta: Tensor, gamma: Tensor, dtype: torch.dtype, beta: Tensor) -> None:
        super().__init__(eta, gamma, dtype)
        self.beta = beta.double()  # 1 − β₁ᵗ is formed in double precision
        self.steps = 0
        self.first: dict[int, Tensor] = {}
        self.second: dict[int, Tensor] = {}

    def begin(self) -> None:  # noqa: D102
        self.steps += 1

    def step(self, slot: int, weight: Tensor, gradient: Tensor, rate: float) -> None:  # noqa: D102
        if slot not in self.first:
            self.first[slot], self.second[slot] = torch.zeros_like(weight), torch.zeros_like(weight)
        first, second = self.first[slot], self.second[slot]
        first.lerp_(gradient, _like((1 - self.beta).to(weight.dtype), weight))
        second.mul_(ADAM_BETA2).addcmul_(gradient, gradient, value=1 - ADAM_BETA2)
        size = (rate * self.eta.double() / (1 - self.beta**self.steps)).to(weight.dtype)
        root = torch.sqrt(second, out=gradient).mul_((1 - ADAM_BETA2**self.steps) ** -0.5).add_(ADAM_EPSILON)
        weight.sub_(torch.div(first, root, out=root).mul_(_like(size, weight)))

    def keep(self, index: Tensor) -> None:  # noqa: D102
        super().keep(index)
        self.beta = self.beta.index_select(0, index)
        self.first = {slot: m.index_select(0, index) for slot, m in self.first.items()}
        self.second = {slot: v.index_select(0, index) for slot, v in self.second.items()}


class SignDescent(Optimizer):
    """w ← w − η sign(g), sign(0) = 0."""

    normalized = True

    def step(self, slot: int, weight: Tensor, gradient: Tensor, rate: float) -> None:  # noqa: D102
        weight.sub_(gradient.sign_().mul_(_like(rate * self.eta, weight)))


def make_optimizer(name: str, eta: Tensor, gamma: Tensor, beta: Tensor, dtype: torch.dtype) -> Optimizer:
    """Build an optimizer by name.

    Args:
        name: one of ``OPTIMIZERS``.
        eta: learning rate of each cell before the width multiplier, float64, shape ``(cells,)``, on the device.
        gamma: feature-learning strength of each cell, same.
        beta: memory of each cell, same; ``gd`` and ``sign`` have none.
        dtype: of the weights.

    Returns:
        The optimizer, without state.
    """
    if name == "momentum":
        return HeavyBall(eta, gamma, dtype, beta)
    if name == "adam":
        return Adam(eta, gamma, dtype, beta)
    return {"gd": GradientDescent, "sign": SignDescent}[name](eta, gamma, dtype)
