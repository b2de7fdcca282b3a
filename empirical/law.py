"""Which toy law the boundaries of an architecture are held against: that of its depth, or of its Euler degree.

The toy of depth L is homogeneous of degree L in its weights, and so are bias-free MLPs and CNNs with ReLU, linear units
or, for large weights, GELU. Other networks have a degree D(θ) = θ·∇F/F that depends on the weights and settles as they
grow; an upper boundary ∝ γ^{2/D} in the rich regime is what is tested on them, with D at large weights:

    D = Σ F·(θ·∇F) / Σ F²,   sums over examples and classes, at θ = s θ₀,   s = 10⁴,

with θ·∇F by one Jacobian–vector product, in double precision. Rounded to an integer it takes the place of the depth L
in the toy's laws, where traces start and against which fits are held.
"""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import torch
from torch import Tensor
from torch.func import functional_call, jvp

from empirical.models.stack import Architecture
from empirical.shard import TrainingConfig

LARGE = 1e4
"""Weights are multiplied with this; the degree of a residual network is then within 10⁻³ of its limit."""

HOMOGENEOUS = {"mlp", "cnn"}


def degree_at_large_weights(spec: Architecture, scale: float = LARGE, seed: int = 0, examples: int = 16) -> float:
    """Euler degree of a network with its initial weights multiplied by a large number.

    Args:
        spec: the architecture.
        scale: s.
        seed: of θ₀, and of the standard normal inputs.
        examples: how many.

    Returns:
        D; NaN where F is zero or not finite.
    """
    module = spec.module(seed).double()
    fixed = {name: buffer.double() if buffer.is_floating_point() else buffer for name, buffer in module.named_buffers()}
    fixed |= {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
    weights = {name: scale * p.detach() for name, p in module.named_parameters() if p.requires_grad}
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, *spec.example_shape, generator=draw, dtype=torch.float64)
    result = jvp(lambda w: functional_call(module, {**w, **fixed}, (x,)), (weights,), (weights,))
    output, along = cast(tuple[Tensor, Tensor], result)
    return float((output * along).sum() / output.square().sum())


@lru_cache(maxsize=64)
def law_depth(config: TrainingConfig) -> tuple[int, str]:
    """The depth L of the toy law for a configuration.

    Args:
        config: what is trained.

    Returns:
        L of at least 1, and what it is: ``depth``, or ``euler_degree`` at large weights, rounded.
    """
    if config.arch in HOMOGENEOUS and config.activation != "tanh":
        return config.depth, "depth"
    degree = degree_at_large_weights(config.spec())
    return (max(1, round(degree)) if degree < 1e3 else 1), "euler_degree"
