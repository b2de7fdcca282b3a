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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

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


def width_multipliers(module: nn.Module, normalized: bool = False) -> dict[str, float]:
    """Multipliers of η for a module of unknown make, from the shapes of its parameters alone.

    Matrices and kernels (two axes or more, outputs first) are taken to have entries of order fan_in^{−1/2}, as PyTorch
    and He give them, also in the readout; N is the fan-in of the last one. Tensors with one axis (biases, gains) and
    tables of ``nn.Embedding`` have one input.

    ====================  ======================  =============================
    parameter             along a gradient        equally far (sign, Adam)
    ====================  ======================  =============================
    fan_in n              N / n                   1 / n
    one input             N                       1
    ====================  ======================  =============================

    A readout of order N^{−1/2} in place of μP's 1/N makes F larger by N^{1/2}: the network is the one that μP would
    have at γ N^{−1/2}. Everything else on the γ axis is as in μP.

    Args:
        module: with its parameters in the order in which they act, the readout last.
        normalized: for optimizers that take every weight equally far.

    Returns:
        One entry a trainable parameter, in the order of ``named_parameters``.

    Raises:
        InputError: no parameter can be trained.
    """
    tables = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Embedding)}
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not trained:
        raise InputError("module", type(module).__name__, "one with trainable parameters")
    fans = {n: 1 if p.dim() < 2 or id(p) in tables else p[0].numel() for n, p in trained.items()}
    width = next((fan for fan in reversed(fans.values()) if fan > 1), 1)
    return {name: (1 if normalized else width) / fan for name, fan in fans.items()}


class RescaledModule(nn.Module):
    """The centred, downscaled output f = (F(θ) − F(θ₀)) / γ of any module; made by ``rescale``."""

    def __init__(self, module: nn.Module, gamma: float, multipliers: Mapping[str, float]) -> None:
        super().__init__()
        self.module = module
        self.gamma = gamma
        self.multipliers = dict(multipliers)
        self.initial = copy.deepcopy(module).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the network.

        Args:
            x: inputs as ``module`` takes them.

        Returns:
            (F(θ; x) − F(θ₀; x)) / γ, shaped as the module's output.
        """
        return cast(Tensor, (self.module(x) - self.initial(x)) / self.gamma)

    def parameter_groups(self, eta: float) -> list[dict[str, Any]]:
        """Parameters with their learning rates, for ``torch.optim.SGD`` and others that take groups.

        Args:
            eta: η before the width multiplier. The 1/γ of the output is in the gradient already.

        Returns:
            One group a trainable parameter, ``{"params": [p], "lr": multiplier · η}``.
        """
        positive_number("eta", eta)
        parameters = dict(self.module.named_parameters())
        return [{"params": [parameters[name]], "lr": eta * rate} for name, rate in self.multipliers.items()]


def rescale(
    module: nn.Module,
    gamma: float,
    *,
    learning_rates: Mapping[str, float] | None = None,
    normalized: bool = False,
) -> RescaledModule:
    """Put a network on the γ axis: centre its output at the start and divide it by γ.

    The weights θ₀ are copied when this is called and never trained; ``parameters()`` that require a gradient are the
    module's own.

    Args:
        module: any module that maps a batch to a tensor of outputs, without state shared between examples.
        gamma: feature-learning strength; lazy when small, rich when large.
        learning_rates: multipliers of η by name of the parameter, for ``parameter_groups``; those of
            ``width_multipliers`` where not given.
        normalized: whether ``parameter_groups`` is for an optimizer that takes every weight equally far (Adam).

    Returns:
        A module whose output is zero now, and whose trainable parameters are those of ``module``.

    Raises:
        InputError: γ is not positive and finite, ``module`` has batch statistics, or ``learning_rates`` names no
            trainable parameter or gives a number that is not positive.
    """
    positive_number("gamma", gamma)
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise InputError("module", f"{name} ({type(layer).__name__})", "without batch normalisation: f(0) is not 0")
    multipliers = width_multipliers(module, normalized) if any(p.requires_grad for p in module.parameters()) else {}
    for name, rate in (learning_rates or {}).items():
        if name not in multipliers:
            raise InputError("learning_rates", name, "names of trainable parameters: " + ", ".join(multipliers))
        multipliers[name] = positive_number(f"learning_rates[{name}]", rate)
    return RescaledModule(module, float(gamma), multipliers)
