"""Coordinate check: does what a layer computes, and how far training moves it, depend on the width?

In μP the root-mean-square entry of every layer's output h_ℓ, and of its change Δh_ℓ over the first steps of training,
have limits as the width N grows (Yang et al. 2022, arXiv:2203.03466, appendix D.1). Here a network takes a few steps of
gradient descent on one small batch at several widths, on the loss |f − y|²/2 at γ = 1, and every product with a weight
tensor (matrix product or convolution) is watched:

    size_ℓ(N) = rms h_ℓ(θ₀),     change_ℓ(N) = rms (h_ℓ(θ_t) − h_ℓ(θ₀)),     spread = largest / smallest over N.

The output itself starts at order N^{−1/2} by design (it is centred); only its change counts. Under a standard
parametrisation, He's weights with a readout of order N^{−1/2} and one learning rate for all tensors, the changes grow
with N, and the same check fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as fn
from torch.overrides import TorchFunctionMode

from empirical.models.stack import Architecture
from theory.errors import InputError, positive_integer, positive_number

FACTOR = 2.0
"""Largest spread that passes. From 64 to 1024 a power N^{1/2} too many in one hidden layer's rate gives 2.2 (4 in what
the layer moves by itself, less where layers below move it too); μP's own spreads there are 1.0 to 1.4."""

_PRODUCTS = {torch.matmul, Tensor.matmul, Tensor.__matmul__, fn.linear, fn.conv1d, fn.conv2d, fn.conv3d, torch.conv2d}


@dataclass(frozen=True)
class CoordinateCheck:
    """What a coordinate check measured.

    Attributes:
        widths: N, ascending.
        layers: names of the weight tensors, in the order in which the network multiplies with them.
        size: rms of each layer's output at θ₀, shape ``(widths, layers)``.
        change: rms of its change over the steps taken, same shape.
        factor: largest spread that passes.
    """

    widths: tuple[int, ...]
    layers: tuple[str, ...]
    size: NDArray[np.float64]
    change: NDArray[np.float64]
    factor: float

    @property
    def size_spread(self) -> NDArray[np.float64]:
        """Largest over smallest size of each layer below the readout, shape ``(layers − 1,)``."""
        return _spread(self.size[:, :-1])

    @property
    def change_spread(self) -> NDArray[np.float64]:
        """Largest over smallest change of each layer, shape ``(layers,)``; infinite where a run diverged."""
        return _spread(self.change)

    @property
    def passed(self) -> bool:
        """Whether no spread is above ``factor``."""
        return bool((self.size_spread <= self.factor).all() and (self.change_spread <= self.factor).all())


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    sound = np.isfinite(values).all(0) & (values > 0).all(0)
    return np.where(sound, values.max(0) / np.where(sound, values.min(0), 1.0), np.inf)


@dataclass(frozen=True)
class StandardParametrization:
    """The same network with a readout of order N^{−1/2} and the multiplier 1 of η for every tensor.

    Attributes:
        spec: in μP; its last tensor is the readout.
    """

    spec: Architecture

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.spec.example_shape

    def module(self, seed: int) -> nn.Module:
        """One network at its θ₀.

        Args:
            seed: non-negative integer.

        Returns:
            The module of ``spec`` with its readout multiplied by N^{1/2}.
        """
        module = self.spec.module(seed)
        *_, readout = module.parameters()
        with torch.no_grad():
            readout.mul_(readout.shape[1] ** 0.5)
        return module

    def rates(self, normalized: bool = False) -> dict[str, float]:
        """Multiplier of η for each tensor: 1.

        Args:
            normalized: makes no difference.

        Returns:
            One entry a tensor.
        """
        return dict.fromkeys(self.spec.rates(normalized), 1.0)


class _Products(TorchFunctionMode):
    """Keeps the output of every product with a parameter."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names = names
        self.outputs: dict[str, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _PRODUCTS:
            for value in (*args, *(kwargs or {}).values()):
                name = self.names.get(id(value)) or self.names.get(id(getattr(value, "_base", None)))
                if name is not None:
                    self.outputs[name] = out.detach()
        return out


def layer_outputs(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Outputs of every product with a weight tensor.

    Args:
        module: of products that PyTorch sees: ``@``, ``linear``, ``conv2d``.
        x: inputs as the module takes them.

    Returns:
        By the tensor's name, in the order of the products.
    """
    watch = _Products({id(p): name for name, p in module.named_parameters() if p.dim() > 1})
    with torch.no_grad(), watch:
        module(x)
    return watch.outputs


def _measure(
    spec: Architecture | StandardParametrization, eta: float, steps: int, examples: int, seed: int, dtype: torch.dtype
) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Names of the layers, and their sizes and changes, shape (2, layers)."""
    module = spec.module(seed).to(dtype)
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, *spec.example_shape, generator=draw, dtype=torch.float64).to(dtype)
    with torch.no_grad():
        at_start = module(x)
    target = torch.eye(at_start.shape[1], dtype=dtype)[torch.arange(examples) % at_start.shape[1]]
    rates, before = spec.rates(), layer_outputs(module, x)
    for _ in range(steps):
        loss = ((module(x) - at_start - target) ** 2).sum(1).mean() / 2
        slopes = torch.autograd.grad(loss, list(module.parameters()))
        with torch.no_grad():
            for (name, p), slope in zip(module.named_parameters(), slopes, strict=True):
                p.sub_(slope, alpha=eta * rates[name])
    after = layer_outputs(module, x)
    rows = [[_rms(h) for h in before.values()], [_rms(after[name] - h) for name, h in before.items()]]
    return tuple(before), np.array(rows)


def _rms(values: Tensor) -> float:
    return values.double().square().mean().sqrt().item()


def coordinate_check(
    architecture: Callable[[int], Architecture | StandardParametrization],
    widths: Sequence[int] = (64, 128, 256, 512, 1024),
    *,
    eta: float = 0.1,
    steps: int = 3,
    examples: int = 4,
    seeds: int = 2,
    factor: float = FACTOR,
    dtype: torch.dtype = torch.float32,
) -> CoordinateCheck:
    """Measure how outputs of layers and their first changes depend on the width.

    Args:
        architecture: gives the specification at a width.
        widths: N, at least two.
        eta: learning rate before the width multiplier; γ is 1.
        steps: of gradient descent on one batch. After a single one the weights below a small readout, or queries and
            keys of random alignment, have hardly moved.
        examples: standard normal inputs of the batch, with targets of one class each, in turn.
        seeds: over which root-mean-squares are averaged.
        factor: largest spread that passes.
        dtype: of the computation.

    Returns:
        The measurements; ``passed`` says whether every spread is at most ``factor``.

    Raises:
        InputError: fewer than two widths, or a number out of range.
    """
    ns = sorted({positive_integer("widths", width) for width in widths})
    if len(ns) < 2:
        raise InputError("widths", widths, "at least two")
    positive_number("eta", eta)
    positive_number("factor", factor)
    for name, value in (("steps", steps), ("examples", examples), ("seeds", seeds)):
        positive_integer(name, value)
    rows, layers = [], tuple[str, ...]()
    for width in ns:
        spec, runs = architecture(width), []
        for seed in range(seeds):
            layers, row = _measure(spec, eta, steps, examples, seed, dtype)
            runs.append(row)
        rows.append(np.mean(runs, axis=0))
    table = np.stack(rows)
    return CoordinateCheck(tuple(ns), layers, table[:, 0], table[:, 1], factor)
