"""What gradient flow conserves, and by how much one step of gradient descent breaks it.

Scalar model, L weights that need not be balanced, any loss ℓ(f), f = (P − P₀)/γ, P = ∏ w_ℓ, slope ℓ′ = dℓ/df:

    flow:      d(w_i² − w_j²)/dt = 0
    one step:  Δ(w_i² − w_j²) = (ηℓ′P/γ)² (w_i⁻² − w_j⁻²), exactly.

Any network and any loss of its outputs: let F be homogeneous of degree k_a in the weights θ_a of each layer a. Euler's
identity θ_a·∇_a F = k_a F holds for every output and every example, so for a loss Σ ℓ_x(F_x) the sum θ_a·g_a =
k_a Σ ℓ′_x F_x is the same number for all layers, up to k_a. With g_a the gradient of the loss,

    flow:      d/dt (k_b |θ_a|² − k_a |θ_b|²) = 0             (k = 1, bias-free layers: |θ_a|² − |θ_b|²)
    one step:  Δ(k_b |θ_a|² − k_a |θ_b|²) = η² (k_b |g_a|² − k_a |g_b|²), exactly.

A scale-invariant layer (k_a = 0, weights below a normalisation) keeps its own norm under flow, and every step of
gradient descent makes it grow: Δ|θ_a|² = η² |g_a|². Where F is not differentiable (ReLU at 0) the statements hold
almost everywhere.

Source: derived here; the flow statements are classical (for linear networks Saxe et al. 2014).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

from theory.derivation import Step
from theory.errors import InputError, positive_array
from theory.quadrature import FloatArray
from theory.symbols import eta, f, gamma

_w_i, _w_j, _rest, _start = sp.symbols("w_i w_j R P_0", real=True)  # two weights, the product of all others, P at t = 0
_slope, _product = sp.symbols("l1 P", real=True)  # ℓ′(f), ∏ w
_scale = sp.Symbol("c", positive=True)
_degree_a, _degree_b = sp.symbols("k_a k_b", real=True)
_norm_a, _norm_b = sp.symbols("G_a G_b", nonnegative=True)  # |g_a|², |g_b|²
_common = sp.Symbol("S", real=True)  # Σ ℓ′_x F_x over the examples
_loss = sp.Function("loss")


def _gradient_entry(weight: sp.Symbol) -> sp.Expr:
    # ∂ℓ/∂w for one weight of any number, all the others gathered in R
    return _slope * sp.diff((_w_i * _w_j * _rest - _start) / gamma, weight)


@cache
def flow_rates() -> tuple[sp.Expr, sp.Expr]:
    """Rates of w_i² − w_j² and of w_i² + w_j² under gradient flow, per unit ηt.

    Returns:
        The first is 0; the second, −4ℓ′P/γ, shows that single squares do move.
    """
    rates = [sp.expand(-2 * weight * _gradient_entry(weight)) for weight in (_w_i, _w_j)]
    together = sp.expand(rates[0] + rates[1]).subs(_w_i * _w_j * _rest, _product)
    return sp.expand(rates[0] - rates[1]), together


@cache
def step_change() -> sp.Expr:
    """Change of w_i² − w_j² in one step of gradient descent, for any L and any loss.

    Returns:
        (ηℓ′P/γ)² (w_i⁻² − w_j⁻²), in eta, l1 (the loss's slope ℓ′), P, gamma, w_i and w_j.
    """
    moved = [(weight - eta * _gradient_entry(weight)) ** 2 - weight**2 for weight in (_w_i, _w_j)]
    change = sp.expand(moved[0] - moved[1]).subs(_rest, _product / (_w_i * _w_j))
    size = eta * _slope * _product / gamma
    return size**2 * sp.expand(change / size**2)


@cache
def layer_step_change() -> sp.Expr:
    """Change of k_b|θ_a|² − k_a|θ_b|² in one step of gradient descent, for layers homogeneous of degree k_a and k_b.

    Returns:
        η²(k_b|g_a|² − k_a|g_b|²); the part of first order in η has cancelled.
    """
    # |θ − ηg|² − |θ|² = −2η θ·g + η²|g|², with Euler's θ_a·g_a = k_a Σ ℓ′F
    changes = [
        -2 * eta * degree * _common + eta**2 * norm for degree, norm in ((_degree_a, _norm_a), (_degree_b, _norm_b))
    ]
    return sp.factor(sp.expand(_degree_b * changes[0] - _degree_a * changes[1]))


def weight_invariants(weights: ArrayLike) -> FloatArray:
    """All w_i² − w_j² of unbalanced weights.

    Args:
        weights: shape (..., L).

    Returns:
        Shape (..., L, L), antisymmetric; constant under gradient flow of any loss.

    Raises:
        InputError: not real and finite, or without a last axis.
    """
    squares = _weights(weights) ** 2
    return squares[..., :, None] - squares[..., None, :]


def step_drift(weights: ArrayLike, *, eta: ArrayLike, gamma: ArrayLike, slope: ArrayLike) -> FloatArray:
    """Change of all w_i² − w_j² in one step of gradient descent, exactly.

    Args:
        weights: shape (..., L); a zero among them is allowed.
        eta: learning rate of each weight (no factor of L), shape (...) or a scalar.
        gamma: feature-learning strength, likewise.
        slope: ℓ′(f) at the weights, likewise; f − 1 for MSE.

    Returns:
        Shape (..., L, L): (ηℓ′/γ)² (∏_{ℓ≠i} w_ℓ² − ∏_{ℓ≠j} w_ℓ²).

    Raises:
        InputError: η or γ not positive and finite, weights or slope not real and finite, or shapes that do not fit.
    """
    values, slopes = _weights(weights), _finite("slope", slope)
    rate, strength = positive_array("eta", eta), positive_array("gamma", gamma)
    others = np.stack([np.prod(np.delete(values, at, axis=-1), axis=-1) for at in range(values.shape[-1])], axis=-1)
    try:
        size = np.asarray(rate * slopes / strength)[..., None]
        squares = np.asarray((size * others) ** 2)
    except ValueError:
        raise InputError("weights", values.shape, "of a shape that fits eta, gamma and slope") from None
    return squares[..., :, None] - squares[..., None, :]


def layer_invariants(squared_norms: ArrayLike, degrees: ArrayLike | None = None) -> FloatArray:
    """All k_b|θ_a|² − k_a|θ_b|² of a network that is homogeneous in each of its layers.

    Args:
        squared_norms: |θ_a|², shape (..., layers). With |g_a|² in its place the result, times η², is the change in one
            step of gradient descent.
        degrees: k_a, shape (layers,); 1 for each layer if left out.

    Returns:
        Shape (..., layers, layers), antisymmetric; constant under gradient flow of any loss.

    Raises:
        InputError: not real and finite, negative norms, or a number of degrees that differs from that of layers.
    """
    norms = _weights(squared_norms, "squared_norms")
    if (norms < 0).any():
        raise InputError("squared_norms", float(norms.min()), "zero or above")
    powers = np.ones(norms.shape[-1]) if degrees is None else _finite("degrees", degrees)
    if powers.shape != norms.shape[-1:]:
        raise InputError("degrees", powers.shape, f"one number for each of the {norms.shape[-1]} layers")
    scaled = norms[..., :, None] * powers
    return scaled - np.swapaxes(scaled, -1, -2)


def _finite(field: str, given: ArrayLike) -> FloatArray:
    values = np.asarray(given)
    if values.dtype.kind not in "iuf" or values.size == 0 or not np.isfinite(values).all():
        raise InputError(field, given, "real and finite, and not empty")
    return values.astype(np.float64)


def _weights(given: ArrayLike, field: str = "weights") -> FloatArray:
    values = _finite(field, given)
    if values.ndim == 0:
        raise InputError(field, given, "an array with one entry per layer on its last axis")
    return values


# --- checks: explicit networks, differentiated by SymPy


def _explicit(layers: int) -> tuple[tuple[sp.Symbol, ...], list[sp.Expr], sp.Expr]:
    # weights, gradient of an arbitrary loss, and ℓ′ as SymPy writes it
    weights = sp.symbols(f"w1:{layers + 1}", positive=True)
    output = (sp.prod(weights) - _start) / gamma
    # d ℓ(f(w))/dw, with the derivative of the arbitrary function named l1
    gradient = [(sp.diff(_loss(f), f) * sp.diff(output, weight)).subs(sp.diff(_loss(f), f), _slope)
                for weight in weights]  # fmt: skip
    return weights, gradient, output


def _sum_rate(claimed: sp.Basic) -> bool:
    # two and more explicit weights with three definite losses, and the conserved differences with them
    for layers in (2, 3, 5):
        weights = sp.symbols(f"w1:{layers + 1}", positive=True)
        product = sp.prod(weights)
        output = (product - 1) / gamma
        for loss in ((f - 1) ** 2 / 2, sp.log(1 + sp.exp(-f)), f**4):
            energy, slope = loss.subs(f, output), sp.diff(loss, f).subs(f, output)
            rates = [-2 * weight * sp.diff(energy, weight) for weight in weights]
            expected = claimed.subs({_slope: slope, _product: product})
            if sp.simplify(rates[0] + rates[-1] - expected) != 0 or sp.simplify(rates[0] - rates[-1]) != 0:
                return False
    return flow_rates()[0] == 0


def _one_step(claimed: sp.Basic) -> bool:
    for layers in (2, 3, 5):
        weights, gradient, _ = _explicit(layers)
        moved = [weight - eta * part for weight, part in zip(weights, gradient, strict=True)]
        change = moved[0] ** 2 - moved[-1] ** 2 - weights[0] ** 2 + weights[-1] ** 2
        placed = claimed.subs({_product: sp.prod(weights), _w_i: weights[0], _w_j: weights[-1]}, simultaneous=True)
        if sp.expand(change - placed) != 0:
            return False
    return True


def _euler(claimed: sp.Basic) -> bool:
    # polynomial layers of degree 1, 2 and 3 in their weights
    a, b, c = sp.symbols("a b c", positive=True)
    network = 3 * a * b**2 * c**3
    return all(
        sp.expand(sp.cancel(weight * sp.diff(network, weight) - claimed.subs({_degree_a: degree, _product: network})))
        == 0
        for weight, degree in ((a, 1), (b, 2), (c, 3))
    )


def _layers_step(claimed: sp.Basic) -> bool:
    # a network with a layer of degree 1 (two weights) and a layer of degree 2 (one), two examples, any slopes
    a1, a2, b = sp.symbols("a1 a2 b", real=True)
    outputs = [(a1 + 2 * a2) * b**2, (3 * a1 - a2) * b**2]
    slopes = sp.symbols("s1 s2", real=True)
    gradients = {at: sum(s * sp.diff(out, at) for s, out in zip(slopes, outputs, strict=True)) for at in (a1, a2, b)}
    moved = {at: at - eta * gradient for at, gradient in gradients.items()}
    change = 2 * (moved[a1] ** 2 + moved[a2] ** 2 - a1**2 - a2**2) - (moved[b] ** 2 - b**2)
    norms = {_degree_a: 1, _degree_b: 2, _norm_a: gradients[a1] ** 2 + gradients[a2] ** 2, _norm_b: gradients[b] ** 2}
    return bool(sp.expand(change - claimed.subs(norms)) == 0)


def _invariant_layer(claimed: sp.Basic) -> bool:
    # F = b · a/|a|, one example: |a|² after a step
    a1, a2, b = sp.symbols("a1 a2 b", positive=True)
    loss = _slope * b * (a1 + 3 * a2) / sp.sqrt(a1**2 + a2**2)
    g1, g2 = sp.diff(loss, a1), sp.diff(loss, a2)
    change = (a1 - eta * g1) ** 2 + (a2 - eta * g2) ** 2 - a1**2 - a2**2
    return bool(sp.simplify(change - claimed.subs(_norm_a, g1**2 + g2**2)) == 0)


def steps() -> tuple[Step, ...]:
    """The statements of this module, with their checks.

    Returns:
        The steps, unrun.
    """
    euler = sp.diff(_scale**_degree_a * _product, _scale).subs(_scale, 1)  # F(cθ_a) = c^k F, differentiated at c = 1
    return (
        Step("Flow of two squares", "Under flow w_i² and w_j² move at one rate, so w_i² − w_j² is conserved.",
             r"\frac{d(w_i^2+w_j^2)}{\eta\,dt}", flow_rates()[1], _sum_rate,
             "2, 3 and 5 explicit weights and three losses; the difference is zero there"),
        Step("One step on unbalanced weights", "Gradient descent breaks the conservation at second order in η only.",
             r"\Delta(w_i^2-w_j^2)", step_change(), _one_step, "2, 3 and 5 explicit weights, any loss"),
        Step("Euler's identity in one layer", "F(cθ_a) = c^k F(θ_a) gives θ_a·∇_a F = k F.",
             r"\theta_a\cdot\nabla_a F", euler, _euler, "explicit layers of degree 1, 2 and 3"),
        Step("One step on homogeneous layers", "The norms of homogeneous layers drift apart at second order in η only.",
             r"\Delta(k_b|\theta_a|^2-k_a|\theta_b|^2)", layer_step_change(), _layers_step,
             "explicit layers of degree 1 and 2 on two examples"),
        Step("One step on a scale-invariant layer", "Below a normalisation the norm grows at every step.",
             r"\Delta|\theta_a|^2", layer_step_change().subs({_degree_a: 0, _degree_b: 1}), _invariant_layer,
             "an explicit normalised layer of two weights"),
    )  # fmt: skip
