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

A schedule multiplies η by s(t), the same for every cell (see ``schedules``). The heavy ball's velocity holds ηg without
it, so that the step is W ← W − η s(t) N v with v ← βv + g, as in PyTorch.

Weight decay λ acts on the tensors V_n of ``Architecture.module``, whose learning rate is η s(t) M_n (M_n the rate of
the optimizer at hand). It is what ``torch.optim`` does with one parameter group a tensor:

=====================  ================================================  ============================================
``gd``, ``momentum``   coupled, as ``SGD(weight_decay=λ)``               g ← g + λV: the penalty (λ/2) Σ_n |V_n|²
``adam``, ``sign``     decoupled, as ``AdamW(weight_decay=λ)``           V ← (1 − η s(t) M_n λ) V before the step
=====================  ================================================  ============================================

In both a tensor by itself shrinks by κ_n = η s(t) M_n λ a step. In terms of W_ℓ = V_ℓ/a_ℓ the shrinking is the same, V
being proportional to W, but the penalty is (λ a_ℓ²/2)|W_ℓ|²: PyTorch's λ for unit-variance weights with rate ηN is
λ a_ℓ² (coupled), with rate η s_ℓ it is λ a_ℓ (decoupled). The same λ means the same for V and W only where a_ℓ = 1.
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
        weight_decay: λ, at least 0.
    """

    normalized = False
    """Whether the size of a step ignores that of the gradient: which width multiplier of μP holds."""

    plain = False
    """Whether a step is w ← w − rate·multiplier·g and nothing else."""

    def __init__(self, eta: Tensor, gamma: Tensor, dtype: torch.dtype, weight_decay: float = 0.0) -> None:
        self.eta = eta.to(dtype)
        self.weight_decay = weight_decay
        self.multiplier = 1.0
        """s(t) of the schedule, for the step at hand."""
        scale = torch.ones_like(eta) if self.normalized else eta / gamma
        self.output_scale = scale.to(dtype)
        """What the derivative ∂ℓ/∂f of each cell is multiplied with before it is sent back, shape ``(cells,)``."""

    def begin(self, multiplier: float = 1.0) -> None:
        """Begin a step; to be called once before the weights of a step are moved.

        Args:
            multiplier: s(t) of the schedule.
        """
        self.multiplier = multiplier

    def step(self, slot: int, moving: Tensor, gradient: Tensor, rate: float, weight: Tensor | None = None) -> None:
        """Move one stacked weight tensor.

        Args:
            slot: which tensor, from 0 on.
            moving: the weights, or their displacements, shape ``(cells, …)``; changed in place.
            gradient: what was sent back to them, same shape; may be overwritten.
            rate: multiplier of η for this tensor, by ``normalized``.
            weight: the weights θ₀ + Δ before the step, same shape, may be ``moving`` itself; needed for weight decay.

        Raises:
            ValueError: there is weight decay, and no ``weight``.
        """
        rate = rate * self.multiplier
        if self.weight_decay:
            if weight is None:
                raise ValueError("weight decay needs the weights")
            pull = _like((self.eta * self.weight_decay).to(weight.dtype), weight)
            if self.normalized:
                moving.addcmul_(pull, weight, value=-rate)
            else:
                gradient.addcmul_(pull, weight)
        self._move(slot, moving, gradient, rate)

    @abstractmethod
    def _move(self, slot: int, moving: Tensor, gradient: Tensor, rate: float) -> None:
        """Move without decay; ``rate`` includes the schedule."""

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

    def __init__(self, eta: Tensor, gamma: Tensor, dtype: torch.dtype, weight_decay: float = 0.0) -> None:
        super().__init__(eta, gamma, dtype, weight_decay)
        self.plain = not weight_decay

    def _move(self, slot: int, moving: Tensor, gradient: Tensor, rate: float) -> None:
        moving.sub_(gradient, alpha=rate)


class HeavyBall(Optimizer):
    """v ← βv + g, w ← w − η v; v holds η along with g.

    Args:
        eta: see ``Optimizer``.
        gamma: see ``Optimizer``.
        dtype: see ``Optimizer``.
        beta: memory of each cell, shape ``(cells,)``.
        weight_decay: see ``Optimizer``.
    """

    def __init__(self, eta: Tensor, gamma: Tensor, dtype: torch.dtype, beta: Tensor, weight_decay: float = 0.0) -> None:
        super().__init__(eta, gamma, dtype, weight_decay)
        self.beta = beta.to(dtype)
        self.velocity: dict[int, Tensor] = {}

    def _move(self, slot: int, moving: Tensor, gradient: Tensor, rate: float) -> None:
        if slot not in self.velocity:
            self.velocity[slot] = gradient.clone()
        else:
            self.velocity[slot].mul_(_like(self.beta, moving)).add_(gradient)
        moving.sub_(self.velocity[slot], alpha=rate)

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
        weight_decay: see ``Optimizer``.
    """

    normalized = True

    def __init__(self, eta: Tensor, gamma: Tensor, dtype: torch.dtype, beta: Tensor, weight_decay: float = 0.0) -> None:
        super().__init__(eta, gamma, dtype, weight_decay)
        self.beta = beta.double()  # 1 − β₁ᵗ is formed in double precision
        self.steps = torch.zeros((), dtype=torch.float64, device=eta.device)  # a step can be recorded: no number of it
        self.first: dict[int, Tensor] = {}
        self.second: dict[int, Tensor] = {}

    def begin(self, multiplier: float = 1.0) -> None:  # noqa: D102
        super().begin(multiplier)
        self.steps.add_(1)

    def _move(self, slot: int, moving: Tensor, gradient: Tensor, rate: float) -> None:
        if slot not in self.first:
            self.first[slot], self.second[slot] = torch.zeros_like(moving), torch.zeros_like(moving)
        first, second = self.first[slot], self.second[slot]
        first.lerp_(gradient, _like((1 - self.beta).to(moving.dtype), moving))
        second.mul_(ADAM_BETA2).addcmul_(gradient, gradient, value=1 - ADAM_BETA2)
        size = (rate * self.eta.double() / (1 - self.beta**self.steps)).to(moving.dtype)
        root = torch.sqrt(second, out=gradient).mul_((1 - ADAM_BETA2**self.steps) ** -0.5).add_(ADAM_EPSILON)
        moving.sub_(torch.div(first, root, out=root).mul_(_like(size, moving)))

    def keep(self, index: Tensor) -> None:  # noqa: D102
        super().keep(index)
        self.beta = self.beta.index_select(0, index)
        self.first = {slot: m.index_select(0, index) for slot, m in self.first.items()}
        self.second = {slot: v.index_select(0, index) for slot, v in self.second.items()}


class SignDescent(Optimizer):
    """w ← w − η sign(g), sign(0) = 0."""

    normalized = True

    def _move(self, slot: int, moving: Tensor, gradient: Tensor, rate: float) -> None:
        moving.sub_(gradient.sign_().mul_(_like(rate * self.eta, moving)))


def make_optimizer(
    name: str, eta: Tensor, gamma: Tensor, beta: Tensor, dtype: torch.dtype, weight_decay: float = 0.0
) -> Optimizer:
    """Build an optimizer by name.

    Args:
        name: one of ``OPTIMIZERS``.
        eta: learning rate of each cell before the width multiplier, float64, shape ``(cells,)``, on the device.
        gamma: feature-learning strength of each cell, same.
        beta: memory of each cell, same; ``gd`` and ``sign`` have none.
        dtype: of the weights.
        weight_decay: λ, at least 0.

    Returns:
        The optimizer, without state.
    """
    if name == "momentum":
        return HeavyBall(eta, gamma, dtype, beta, weight_decay)
    if name == "adam":
        return Adam(eta, gamma, dtype, beta, weight_decay)
    return {"gd": GradientDescent, "sign": SignDescent}[name](eta, gamma, dtype, weight_decay)
