"""Networks whose weight tensors follow one table of μP scales: what residual networks and transformers are made of.

A specification lists, for each tensor of its module, the size of its entries at the start and how far η moves it; from
the list follow θ₀ (NumPy's Philox, one stream a tensor), the width multipliers and the stack. With a residual stream h,
width N and B residual branches, h ← h + branch(h)/√B,

===================  ======================  =====================  ===============================  ==================
tensor               a, entries at θ₀        along a gradient: ηN   equally far (sign, Adam): η s    s
===================  ======================  =====================  ===============================  ==================
reads the inputs     gain/√fan_in            N a²                   s a                              1
hidden               gain/√fan_in            N a²                   s a                              fan_in^{−1/2}
… in a branch        the same                the same               the same                         (B fan_in)^{−1/2}
position             1, one a token          N                      s                                1
norm's gain          the number 1            N                      s                                1
readout              1/N                     N a² = 1/N             s a                              1
===================  ======================  =====================  ===============================  ==================

``gain`` is that of the activation just below, 1 where there is none (see ``activations``). These are μP's entries for
matrices, and, for positions and gains, those of weights with one input: N times the gradient of a vector-like tensor
moves it at order one (Yang et al. 2022, arXiv:2203.03466, Table 8). The factor 1/√B on branches, with rates as here, is
the depth scaling of Bordelon et al. 2023 (arXiv:2309.16620) and Yang et al. 2023 (arXiv:2310.02244).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from empirical.models import fused
from empirical.models.fused_network import FusedNetwork, FusedNetworkStack
from empirical.models.module import ModuleStack
from empirical.models.stack import Placement
from theory.errors import InputError

NORM_EPSILON = 1e-5
"""ε of LayerNorm, PyTorch's: what breaks its invariance to the scale of its input when that is small."""


@dataclass(frozen=True)
class TensorScale:
    """Scales of one weight tensor; N is the width.

    Attributes:
        shape: of the tensor.
        multiplier: a, the standard deviation of its entries at θ₀.
        learning_rate: what multiplies η in a step along the gradient, N a².
        normalized_learning_rate: what multiplies η in a step that takes every weight equally far (sign, Adam), s a.
        ones: the entries start at 1 and not at random.
    """

    shape: tuple[int, ...]
    multiplier: float
    learning_rate: float
    normalized_learning_rate: float
    ones: bool = False

    @classmethod
    def reads_input(cls, shape: tuple[int, ...], width: int, gain: float = 1.0) -> TensorScale:
        """Scales of a tensor ``(out, in, …)`` that multiplies the inputs."""
        a = gain * prod(shape[1:]) ** -0.5
        return cls(shape, a, width * a * a, a)

    @classmethod
    def hidden(cls, shape: tuple[int, ...], width: int, gain: float = 1.0, branches: int = 1) -> TensorScale:
        """Scales of a tensor ``(out, in, …)`` between hidden layers, in one of ``branches`` residual branches."""
        a = gain * prod(shape[1:]) ** -0.5
        return cls(shape, a, width * a * a, a * (branches * prod(shape[1:])) ** -0.5)

    @classmethod
    def readout(cls, shape: tuple[int, int]) -> TensorScale:
        """Scales of the readout ``(classes, N)``."""
        a = 1 / shape[1]
        return cls(shape, a, shape[1] * a * a, a)

    @classmethod
    def vector(cls, shape: tuple[int, ...], width: int, *, ones: bool) -> TensorScale:
        """Scales of a tensor with one input: positions of tokens, a norm's gain."""
        return cls(shape, 1.0, float(width), 1.0, ones)


class ScaledArchitecture(ABC):
    """Specification of a network by the scales of its tensors; see ``empirical.models.stack.Architecture``.

    Attributes:
        frozen: tensors that stay at θ₀, by their names or by a part of their names between dots: ``query`` is that of
            every block, ``blocks.0.attention.query.weight`` one.
    """

    frozen: tuple[str, ...] = ()

    @property
    def can_die(self) -> bool:
        """Whether F = 0 on a whole batch says that no gradient is left."""
        return False

    @property
    @abstractmethod
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one image, channels first."""

    @property
    @abstractmethod
    def scales(self) -> dict[str, TensorScale]:
        """Scales of each tensor by its name in the module, in the order of ``named_parameters``."""

    @abstractmethod
    def skeleton(self) -> nn.Module:
        """The module in double precision, with weights of any value."""

    def trained(self) -> tuple[str, ...]:
        """Names of the tensors that are trained.

        Returns:
            Those of ``scales`` that are not frozen, in order.

        Raises:
            InputError: a frozen name that no tensor has, or nothing left to train.
        """
        names = list(self.scales)
        for one in self.frozen:
            if not any(_meant(name, one) for name in names):
                raise InputError("frozen", one, "names of tensors, or parts of them: " + ", ".join(names))
        moving = tuple(name for name in names if not any(_meant(name, one) for one in self.frozen))
        if not moving:
            raise InputError("frozen", self.frozen, "fewer tensors: nothing is left to train")
        return moving

    def initial_weights(self, seed: int) -> dict[str, Tensor]:
        """Draw θ₀, a pure function of the seed and the sizes.

        Args:
            seed: non-negative integer.

        Returns:
            Effective weights by name, float64.
        """
        out = {}
        for index, (name, scale) in enumerate(self.scales.items()):
            if scale.ones:
                out[name] = torch.ones(scale.shape, dtype=torch.float64)
            else:
                draw = np.random.Generator(np.random.Philox(key=[seed, index]))
                out[name] = torch.from_numpy(scale.multiplier * draw.standard_normal(scale.shape))
        return out

    def parameter_count(self) -> int:
        """Number of weights of one network that are trained.

        Returns:
            The number.
        """
        scales = self.scales
        return sum(prod(scales[name].shape) for name in self.trained())

    def module(self, seed: int) -> nn.Module:
        """One network at its θ₀.

        Args:
            seed: non-negative integer.

        Returns:
            A module of effective weights, float64; frozen ones ask for no gradient.
        """
        network, trained = self.skeleton(), set(self.trained())
        network.load_state_dict(self.initial_weights(seed))
        for name, weight in network.named_parameters():
            weight.requires_grad_(name in trained)
        return network

    def rates(self, normalized: bool = False) -> dict[str, float]:
        """Width multiplier of η for each trained tensor of ``module``, by name.

        Args:
            normalized: for optimizers that take every weight equally far.

        Returns:
            One entry a tensor.
        """
        scales, rate = self.scales, "normalized_learning_rate" if normalized else "learning_rate"
        return {name: getattr(scales[name], rate) for name in self.trained()}

    def drawn(self) -> FusedNetwork | None:
        """The layers for the compiled loops.

        Returns:
            ``None`` where there are no loops for one of them.
        """
        return None

    def trains_cell_by_cell(self, device: torch.device) -> bool:
        """Whether the stack is a fused one; see ``stack.CellByCell``.

        Args:
            device: where it is to live.

        Returns:
            True on most CPUs, where there are loops for all layers.
        """
        return self.drawn() is not None and fused.can_train(device)

    def stack(self, placement: Placement) -> ModuleStack | FusedNetworkStack:
        """Networks at their θ₀."""
        drawn = self.drawn()
        if drawn is None or not fused.can_train(placement.device):
            return ModuleStack(self, placement)
        starts = [self.initial_weights(seed) for seed in placement.seeds]
        return FusedNetworkStack(drawn, starts, self.rates(placement.optimizer.normalized), placement)


def _meant(name: str, given: str) -> bool:
    """Whether a tensor is meant by a name, or a part of one."""
    return given == name or given in name.split(".")


class Product(nn.Module):
    """x ↦ x Wᵀ without bias.

    Args:
        fan_out: rows of W.
        fan_in: columns of W.
    """

    def __init__(self, fan_out: int, fan_in: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(fan_out, fan_in, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Shape ``(…, fan_in)`` to ``(…, fan_out)``."""
        return x @ self.weight.T


class Convolution(nn.Module):
    """Convolution without bias, padded so that stride 1 keeps the size.

    Args:
        fan_out: channels out.
        fan_in: channels in.
        size: side of the kernel, odd.
        stride: of the convolution.
    """

    def __init__(self, fan_out: int, fan_in: int, size: int, stride: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(fan_out, fan_in, size, size, dtype=torch.float64))
        self.stride, self.padding = stride, size // 2

    def forward(self, x: Tensor) -> Tensor:
        """Shape ``(batch, fan_in, side, side)`` to ``(batch, fan_out, side', side')``."""
        return fn.conv2d(x, self.weight, stride=self.stride, padding=self.padding)


class LayerNorm(nn.Module):
    """x ↦ (x − mean)/√(variance + ε) over one axis, times a learnable gain where there is one.

    Args:
        axis: of the features.
        features: how many, for the gain.
        gain: whether there is one.
    """

    def __init__(self, axis: int, features: int, gain: bool) -> None:
        super().__init__()
        self.axis = axis
        self.gain = nn.Parameter(torch.ones(features, dtype=torch.float64)) if gain else None

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        centred = x - x.mean(self.axis, keepdim=True)
        out = centred * (centred.square().mean(self.axis, keepdim=True) + NORM_EPSILON).rsqrt()
        if self.gain is None:
            return out
        return out * self.gain.view(-1, *[1] * (x.dim() - 1 - self.axis % x.dim()))
