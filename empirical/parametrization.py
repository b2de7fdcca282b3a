"""μP in one table, the strength γ, and the centring that make networks of every width and γ comparable.

A feed-forward network of L weight layers and width N has weights W_ℓ with independent standard normal entries and

    h₁ = a₁ W₁ x,   h_ℓ = a_ℓ W_ℓ φ(h_{ℓ−1}),   F = a_L W_L φ(h_{L−1}),      f = (F(θ) − F(θ₀)) / γ,

=========  ==============  =====================================================
layer      a_ℓ             why
=========  ==============  =====================================================
input      √2 / √d         unit inputs give preactivations of order one (He's √2 for ReLU)
hidden     √2 / √N         the same, one layer on
output     1 / N           mean-field: F starts at order N^{−1/2}, features move at order one
=========  ==============  =====================================================

trained by θ ← θ − η N ∂ℓ/∂θ. Code keeps the *effective* weights V_ℓ = a_ℓ W_ℓ, for which that step reads
V_ℓ ← V_ℓ − η (N a_ℓ²) ∂ℓ/∂V_ℓ. A single layer (L = 1) has a₁ = 1/√d and N = 1.

Optimizers that take every weight about equally far (sign descent, Adam) have other multipliers: W_ℓ ← W_ℓ − η s_ℓ σ
with |σ| ≲ 1. The steps of one layer are aligned with what it sees, so that a layer with fan-in N adds up N terms of one
sign; to move preactivations and F at order one at every width,

=========  ==========  ===================  ===========================================================
layer      s_ℓ         s_ℓ a_ℓ, for V_ℓ     why
=========  ==========  ===================  ===========================================================
input      1           √2 / √d              the fan-in is that of the data: nothing depends on N
hidden     N^{−1/2}    √2 / N               Δh = a_ℓ s_ℓ N η = √2 η
output     1           1 / N                ΔF = a_L s_L N η = η
=========  ==========  ===================  ===========================================================

These are the entries of the table for Adam in Yang et al. 2022 (arXiv:2203.03466, Table 8) up to constants.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from theory.errors import InputError, positive_integer, positive_number


@dataclass(frozen=True)
class LayerScale:
    """Scales of one weight layer.

    Attributes:
        fan_out: rows of its weight.
        fan_in: columns of its weight.
        multiplier: a_ℓ, also the standard deviation of the effective weights at the start.
        learning_rate: what multiplies η in a step of the effective weights along their gradient, N a_ℓ².
        normalized_learning_rate: what multiplies η in a step that takes every weight equally far (sign, Adam), s_ℓ a_ℓ.
    """

    fan_out: int
    fan_in: int
    multiplier: float
    learning_rate: float
    normalized_learning_rate: float


def mup_layers(
    depth: int, width: int, input_dim: int, num_classes: int, gain: float = 2**0.5
) -> tuple[LayerScale, ...]:
    """Scales of every weight layer of a bias-free feed-forward network in μP.

    Args:
        depth: weight layers L.
        width: hidden width N.
        input_dim: inputs d, of unit root-mean-square.
        num_classes: outputs.
        gain: of the activation (``models.activations``), in place of ReLU's √2.

    Returns:
        One entry a layer, input first; the learning rates contain the width multiplier, N along gradients and s_ℓ for
        optimizers that take every weight equally far: 1 at the input and the output, N^{−1/2} between.

    Raises:
        InputError: any of the sizes is not an integer of at least 1.
    """
    for name, value in (("depth", depth), ("width", width), ("input_dim", input_dim), ("num_classes", num_classes)):
        positive_integer(name, value)
    if depth == 1:
        return (LayerScale(num_classes, input_dim, input_dim**-0.5, 1 / input_dim, input_dim**-0.5),)
    sizes = [(width, input_dim, gain * input_dim**-0.5, 1.0)]
    sizes += [(width, width, gain * width**-0.5, width**-0.5)] * (depth - 2)
    sizes += [(num_classes, width, 1 / width, 1.0)]
    return tuple(LayerScale(out, into, a, width * a * a, s * a) for out, into, a, s in sizes)


class RescaledModule(nn.Module):
    """The centred, downscaled output f = (F(θ) − F(θ₀)) / γ of any module; made by ``rescale``."""

    def __init__(self, module: nn.Module, gamma: float) -> None:
        super().__init__()
        self.module = module
        self.gamma = gamma
        self.initial = copy.deepcopy(module).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the network.

        Args:
            x: inputs as ``module`` takes them.

        Returns:
            (F(θ; x) − F(θ₀; x)) / γ, shaped as the module's output.
        """
        return cast(Tensor, (self.module(x) - self.initial(x)) / self.gamma)


def rescale(module: nn.Module, gamma: float) -> RescaledModule:
    """Put a network on the γ axis: centre its output at the start and divide it by γ.

    The weights θ₀ are copied when this is called and never trained; ``parameters()`` that require a gradient are the
    module's own.

    Args:
        module: any module that maps a batch to a tensor of outputs, without state shared between examples.
        gamma: feature-learning strength; lazy when small, rich when large.

    Returns:
        A module whose output is zero now, and whose trainable parameters are those of ``module``.

    Raises:
        InputError: γ is not positive and finite, or ``module`` has batch statistics.
    """
    positive_number("gamma", gamma)
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise InputError("module", f"{name} ({type(layer).__name__})", "without batch normalisation: f(0) is not 0")
    return RescaledModule(module, float(gamma))
