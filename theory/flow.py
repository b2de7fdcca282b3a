"""Gradient flow on the balanced line, and its closed-form time.

With u = w^L the product of the weights, dw_ℓ/dt = −η ∂ℓ/∂w_ℓ gives

    du/dt = −(ηL/γ) u^{2−2/L} ℓ′(f),    f = (u − 1)/γ        (MSE: du/dt = (ηL/γ²) u^{2−2/L} (1 + γ − u)).

Times are t in optimizer steps or τ = ηt/γ. Since f enters through 1 + γf, the time to reach the output f is

    τ(f) = (γ/L) ∫₀^f (1 + γs)^{−(2−2/L)} / (−ℓ′(s)) ds,        t = γτ/η,

which for MSE is elementary at L = 1 and 2 and a Gauss hypergeometric function at every other L.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

from theory.errors import InputError, positive_array, positive_integer
from theory.losses import Loss
from theory.quadrature import FloatArray, scaled_integral
from theory.sharpness import output_of_product
from theory.symbols import depth, eta, f, gamma, s, u, v, w


@cache
def product_velocity(loss: Loss) -> sp.Expr:
    """du/dt of the balanced gradient flow, from dw/dt = −η ∂ℓ/∂w_ℓ by the chain rule.

    Args:
        loss: the loss ℓ(f).

    Returns:
        du/dt in u, η, γ and L; t in optimizer steps, η without any depth factor.
    """
    # one weight moves in the field of the others: ∂/∂w_1 of ℓ(f) with ∏ = w_1 w^{L-1}
    one = sp.Symbol("w_1", positive=True)
    energy = loss.excess.subs(f, output_of_product(one * w ** (depth - 1)))
    weight_velocity = -eta * sp.diff(energy, one).subs(one, w)
    velocity = sp.powsimp(sp.simplify(sp.diff(w**depth, w) * weight_velocity))
    return sp.factor(sp.powsimp(sp.expand(velocity.subs(w, u ** (1 / depth)))))


@cache
def time_integrand(loss: Loss) -> sp.Expr:
    """Integrand of τ(f) in the output s: τ(f) = ∫₀^f (this) ds.

    Args:
        loss: the loss ℓ(f).

    Returns:
        (γ/L)(1 + γs)^{2/L−2}/(−ℓ′(s)), from (η/γ) dt = (η/γ)(du/ds) ds / (du/dt) at u = 1 + γs.
    """
    integrand = gamma * (eta / gamma) / product_velocity(loss).subs(u, 1 + gamma * s)
    return sp.powsimp(sp.factor(sp.simplify(integrand)))


def mse_antiderivative(at: sp.Expr) -> sp.Expr:
    """Antiderivative of v^{2/L−2}/(1 + γ − v), the MSE flow's time up to the factor γ²/(ηL).

    Args:
        at: the point v.

    Returns:
        v^{2/L−1}/((2/L−1)(1+γ)) ₂F₁(1, 2/L−1; 2/L; v/(1+γ)), and its elementary forms at L = 1 and 2.
    """
    power = 2 / depth - 1
    scale = 1 + gamma
    general = at**power / (power * scale) * sp.hyper((1, power), (power + 1,), at / scale)
    return sp.Piecewise(
        (-sp.log(scale - at), sp.Eq(depth, 1)),
        (sp.log(at / (scale - at)) / scale, sp.Eq(depth, 2)),
        (general, True),
    )


def mse_time(product: sp.Expr = u) -> sp.Expr:
    """Time at which the MSE flow, started from u = 1, reaches a given product of the weights.

    Args:
        product: u, between 1 and 1 + γ.

    Returns:
        t(u) in optimizer steps, in η (without depth factor), γ and L: one branch each for L = 1, L = 2 and the others.
    """
    difference = sp.piecewise_fold(mse_antiderivative(v).subs(v, product) - mse_antiderivative(v).subs(v, 1))
    return sp.piecewise_fold(gamma**2 / (eta * depth) * difference)


def rescaled_time(*, output: ArrayLike, gamma: ArrayLike, depth: int) -> FloatArray:
    """τ(f): rescaled time at which the balanced MSE flow reaches the output f; vectorised, about 1e-14 relative.

    Args:
        output: f, in (0, 1), any shape.
        gamma: feature-learning strength, positive; broadcasts against ``output``.
        depth: number of layers L.

    Returns:
        τ = ηt/γ, float64, in the broadcast shape. The time in steps at learning rate η is γτ/η.

    Raises:
        InputError: an output outside (0, 1), a γ that is not positive, a depth that is not an integer >= 1.
    """
    outputs, strengths = positive_array("output", output), positive_array("gamma", gamma)
    layers = positive_integer("depth", depth)
    if (outputs >= 1).any():
        raise InputError("output", float(outputs.max()), "below 1, the target, which the flow reaches only at infinity")
    outputs, strengths = np.broadcast_arrays(outputs, strengths)
    flat, one_plus = strengths.ravel(), 1.0 + strengths.ravel()
    integral = scaled_integral(flat, outputs.ravel(), -np.log1p(-outputs.ravel()), layers)
    # gamma/L (1+gamma)^-p J, p = 2 - 2/L, arranged so that no factor overflows
    result = flat / one_plus * one_plus ** (2.0 / layers - 1.0) * integral / layers
    return result.reshape(strengths.shape)[()]
