"""The Euler-degree law: η_crit ∝ γ^{2/D} for any network whose degree has settled where training ends.

Assumptions. (a) γ ≫ 1: F(θ₀) is negligible at the end, so f = F/γ. (b) Training ends at f = y of order 1, so F = γy.
(c) Along the ray through the final weights, r = |θ|, the raw output has degree D there: F(cθ) = c^D F(θ) for c near 1,
with direction-dependent constants F̂ = F(θ/r), Ĝ = |∇F(θ/r)| that do not depend on γ any more. Then

    r = (γy/F̂)^{1/D},      λ = ℓ″ |∇F|²/γ² = ℓ″ Ĝ² (y/F̂)^{2−2/D} γ^{−2/D},      η_crit = 2/λ ∝ γ^{2/D}.

* Cauchy–Schwarz with θ·∇F = DF gives λ ≥ ℓ″y²D²/r²: the radial direction alone has this exponent.
* A residual does not change it: ℓ′∇²F/γ has degree D − 2, hence the same γ^{−2/D} at any fixed f.
* Where D still depends on the scale, D′ = dD/d ln r, the radial curvature has the local slope 2/D − 2D′/D².
* Weights b below a normalisation are scale-invariant: they add nothing to D, and their own curvature
  ℓ″y²B²/|b|², B = |b||∇_b F|/F, knows γ only through |b|. It is the larger one, and sets η_crit, until |b| has grown
  like r. Gradient flow leaves |b| as it is; a step of gradient descent is orthogonal to b and adds its square:

      |b|² ← |b|² + (ηg/|b|)²,   g = |ℓ′f|B,      so |b|⁴ ≥ |b₀|⁴ + 2η²Σg²  (= in the limit of small steps),

  so that ηλ_b stays bounded for η → ∞: large steps grow the weights until they are stable (Arora, Li and Lyu 2018,
  arXiv:1812.03981). At η ∝ γ², the law of a linear head (D = 1), |b| ∝ γ and λ_b ∝ γ^{−2}: 2/D then holds for both.

With several examples ∇F∇Fᵀ becomes Σ∇F∇Fᵀ, of the same degree 2D − 2. Derived here; for D = L it is the toy's own
limit, λ* → Lγ^{−2/L} (``theory.sharpness``).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

from theory.derivation import Step
from theory.errors import InputError, positive_array
from theory.quadrature import FloatArray
from theory.symbols import eta, gamma, target

_degree = sp.Symbol("D", positive=True)
_unit_output, _unit_gradient = sp.symbols("F_1 G_1", positive=True)  # |F| and |∇F| at θ/|θ|
_curvature, _slope_of_loss = sp.symbols("c_2 c_1", positive=True)  # ℓ″ and |ℓ′| at the end
_scale = sp.Symbol("r", positive=True)
_norm, _start_norm, _angle, _sum = sp.symbols("b b_0 B S", positive=True)

_radius = (gamma * target / _unit_output) ** (1 / _degree)
_sharpness = _curvature * _unit_gradient**2 * (target / _unit_output) ** (2 - 2 / _degree) * gamma ** (-2 / _degree)


def exponent_of_degree(degree: ArrayLike, degree_slope: ArrayLike = 0.0) -> FloatArray:
    """Local exponent of η_crit in the rich regime, 2/D − 2D′/D².

    Args:
        degree: D, positive.
        degree_slope: D′ = dD/d ln|θ|; 0 where the degree has settled. Broadcasts with ``degree``.

    Returns:
        d ln η_crit/d ln γ by the radial curvature.

    Raises:
        InputError: D not positive, D′ not real, or shapes that do not broadcast.
    """
    powers, slopes = positive_array("degree", degree), np.asarray(degree_slope, dtype=np.float64)
    if not np.isfinite(slopes).all():
        raise InputError("degree_slope", degree_slope, "real and finite")
    try:
        return np.asarray(2 / powers - 2 * slopes / powers**2)[()]
    except ValueError:
        raise InputError("degree_slope", slopes.shape, f"of a shape that broadcasts with {powers.shape}") from None


def sharpness_at_end(
    strength: ArrayLike, *, degree: float, unit_output: float, unit_gradient: float, curvature: float = 1.0
) -> FloatArray:
    """Curvature where training ends, of one example with target 1.

    Args:
        strength: γ, any shape.
        degree: D.
        unit_output: |F| at weights of norm 1 in the final direction.
        unit_gradient: |∇F| there.
        curvature: ℓ″ at the minimum; 1 for MSE.

    Returns:
        λ, in the shape of γ.
    """
    strengths = positive_array("strength", strength)
    power, output = float(positive_array("degree", degree)), float(positive_array("unit_output", unit_output))
    slope = float(positive_array("unit_gradient", unit_gradient))
    rest = slope**2 * output ** (2 / power - 2) * float(positive_array("curvature", curvature))
    return np.asarray(rest * strengths ** (-2 / power))[()]


# --- checks: small networks in floating point, with derivatives by differences


Network = Callable[[FloatArray], float]


def _power_toy(powers: tuple[float, ...]) -> Network:
    # ∏ w_i^{p_i}: homogeneous of any real degree Σp
    return lambda theta: float(np.prod(theta ** np.array(powers)))


def _relu_toy(layers: int) -> tuple[Network, FloatArray]:
    rng = np.random.default_rng(layers)
    x, shape = rng.normal(size=3) + 1.5, (3, 3)

    def network(theta: FloatArray) -> float:
        stream = x
        for at in range(layers - 1):
            stream = np.maximum(theta[9 * at : 9 * at + 9].reshape(shape) @ stream, 0.0)
        return float(theta[-3:] @ stream)

    return network, np.abs(rng.normal(size=9 * (layers - 1) + 3)) + 0.1  # positive weights: no unit switches


def _gradient(network: Network, theta: FloatArray) -> FloatArray:
    step = 1e-5 * float(np.linalg.norm(theta))
    return np.array([
        (network(theta + step * unit) - network(theta - step * unit)) / (2 * step) for unit in np.eye(len(theta))
    ])  # fmt: skip


def _trained(network: Network, start: FloatArray, strength: float) -> FloatArray:
    # gradient flow of (F/γ − 1)²/2 moves along ∇F until F = γ: steps of 2 % of |θ|, then Newton on the last
    theta = start.copy()
    for _ in range(100_000):
        slope = _gradient(network, theta)
        gap = strength - network(theta)
        if abs(gap) < 1e-9 * strength:
            return theta
        along = slope / float(slope @ slope) * gap
        theta = theta + along * min(1.0, 0.02 * float(np.linalg.norm(theta) / np.linalg.norm(along)))
    raise ArithmeticError("the flow did not reach its target")


def _cases() -> tuple[tuple[Network, FloatArray, float], ...]:
    return (
        (_power_toy((1.5, 0.7)), np.array([0.8, 1.3]), 2.2),
        (_power_toy((0.4, 0.5)), np.array([1.1, 0.6]), 0.9),
        (*_relu_toy(2), 2.0),
        (*_relu_toy(3), 3.0),
    )


def _at(claimed: sp.Basic, theta: FloatArray, network: Network, degree: float, strength: float) -> float:
    unit = theta / np.linalg.norm(theta)
    values = {_degree: degree, _unit_output: network(unit), _unit_gradient: np.linalg.norm(_gradient(network, unit))}
    return float(claimed.subs({**values, gamma: strength, target: 1, _curvature: 1}))


def _radius_of_trained(claimed: sp.Basic) -> bool:
    for network, start, degree in _cases():
        theta = _trained(network, start, 1e4)
        if abs(_at(claimed, theta, network, degree, 1e4) / np.linalg.norm(theta) - 1) > 1e-6:
            return False
    return True


def _second_derivatives(network: Network, theta: FloatArray, strength: float, goal: float) -> FloatArray:
    # Hessian of (F/γ − goal)²/2 by central differences, good to 1e-5 of its largest entry
    def loss(at: FloatArray) -> float:
        return (network(at) / strength - goal) ** 2 / 2

    h, n = 1e-4 * float(np.linalg.norm(theta)), len(theta)
    units = h * np.eye(n)
    return np.array([
        [(loss(theta + a + b) - loss(theta + a - b) - loss(theta - a + b) + loss(theta - a - b)) / (4 * h * h)
         for b in units] for a in units
    ])  # fmt: skip


def _hessian_of_trained(claimed: sp.Basic) -> bool:
    for network, start, degree in _cases():
        for strength in (1e2, 1e4):
            theta = _trained(network, start, strength)
            top = float(np.linalg.eigvalsh(_second_derivatives(network, theta, strength, 1.0))[-1])
            if abs(_at(claimed, theta, network, degree, strength) / top - 1) > 1e-3:
                return False
    return True


def _trained_slope(claimed: sp.Basic) -> bool:
    # flows to two large γ, from one start: the measured slope of 2/λ, λ by differences
    for network, start, degree in _cases():
        tops = [
            np.linalg.eigvalsh(_second_derivatives(network, _trained(network, start, one), one, 1.0))[-1]
            for one in (1e6, 1e8)
        ]
        measured = -np.log(tops[1] / tops[0]) / np.log(1e2)
        if abs(measured - float(claimed.subs(_degree, degree))) > 5e-3:  # the direction still turns a little
            return False
    return True


def _is_toy_limit(claimed: sp.Basic) -> bool:
    from theory.losses import MSE
    from theory.sharpness import sharpness_at_minimum
    from theory.symbols import depth

    exact = sharpness_at_minimum(MSE)
    for layers in (2, 3, 5):
        share = float(sp.N(exact.subs({depth: layers, gamma: 10**12, target: 1}) / claimed.subs(
            {depth: layers, gamma: 10**12})))  # fmt: skip
        if abs(share - 1) > 1e-3:
            return False
    return True


def _with_residual(claimed: sp.Basic) -> bool:
    # the whole Hessian at f = y while the goal is 2: on one ray, from γ to 100γ
    for network, start, degree in _cases():
        unit, tops = start / np.linalg.norm(start), []
        for strength in (1e4, 1e6):
            theta = unit * (strength / network(unit)) ** (1 / degree)
            tops.append(float(np.abs(np.linalg.eigvalsh(_second_derivatives(network, theta, strength, 2.0))).max()))
        if abs(np.log(tops[1] / tops[0]) / np.log(1e2) - float(claimed.subs(_degree, degree))) > 1e-4:
            return False
    return True


def _radial_bound(claimed: sp.Basic) -> bool:
    for network, start, degree in _cases():
        theta = _trained(network, start, 1e3)
        top = float(np.linalg.eigvalsh(_second_derivatives(network, theta, 1e3, 1.0))[-1])
        radial = float(claimed.subs({_curvature: 1, target: 1, _degree: degree, _scale: np.linalg.norm(theta)}))
        if top < radial * (1 - 1e-3):
            return False
    # attained where the gradient is radial: one weight
    return abs(float(claimed.subs({_curvature: 1, target: 1, _degree: 3, _scale: 10})) - (3e2 / 1e3) ** 2) < 1e-12


def _of_residual_ray(claimed: sp.Basic) -> bool:
    # F = r + 0.3 r³: degree 1 to 3. Slope of (F′/γ)^−2 against γ = F, by differences along the ray
    for r in (0.3, 1.0, 2.0, 8.0):
        h = 1e-5

        def output(at: float) -> float:
            return at + 0.3 * at**3

        def edge(at: float) -> float:
            return 2 * (output(at) / (1 + 0.9 * at**2)) ** 2

        measured = np.log(edge(r * (1 + h)) / edge(r * (1 - h))) / np.log(output(r * (1 + h)) / output(r * (1 - h)))
        degree = (1 + 0.9 * r**2) / (1 + 0.3 * r**2)
        change = 4 * 0.3 * r**2 / (1 + 0.3 * r**2) ** 2
        if abs(measured - float(claimed.subs({_degree: degree, sp.Symbol("D'"): change}))) > 1e-6:
            return False
    return True


def _normalised(theta: FloatArray) -> float:
    # head a on a direction: F = a (b·x)/|b|
    return float(theta[0] * (theta[1:] @ np.array([0.6, -0.3, 0.9])) / np.linalg.norm(theta[1:]))


def _invariant_curvature(claimed: sp.Basic) -> bool:
    for head, norm in ((3.0, 1.0), (300.0, 1.0), (300.0, 40.0)):
        theta = np.concatenate([[head], norm * np.array([0.5, 0.5, np.sqrt(0.5)])])
        strength = _normalised(theta)  # f = 1
        below = _second_derivatives(_normalised, theta, strength, 1.0)[1:, 1:]
        slope = np.linalg.norm(_gradient(_normalised, theta)[1:])
        share = float(claimed.subs({_curvature: 1, target: 1, _angle: norm * slope / strength, _norm: norm}))
        if abs(share / float(np.linalg.eigvalsh(below)[-1]) - 1) > 1e-2:
            return False
    return True


def _growth_under_descent(claimed: sp.Basic) -> bool:
    # gradient descent on b with a moving target: |b|⁴ is above the claim by (ηg)⁴/|b|⁴ a step, which small steps lack
    for rate, closeness in ((1e-3, 1e-5), (1.0, None)):
        b, total, x = np.array([1.0, 0.5, 0.2]), 0.0, np.array([0.6, -0.3, 0.9])
        first = float(b @ b) ** 0.5
        for step in range(200):
            size = float(np.linalg.norm(b))
            across = (x - (x @ b) * b / size**2) / size  # ∇ of (b·x)/|b|
            pull = float(x @ b) / size - 2.0 * (-1) ** step
            total += float((pull * across) @ (pull * across)) * size**2
            b = b - rate * pull * across
        fourth = float(claimed.subs({_start_norm: first, eta: rate, _sum: total}))
        share = float(b @ b) ** 2 / fourth
        if share < 1 - 1e-9 or (closeness is not None and share > 1 + closeness):
            return False
    return True


def steps() -> tuple[Step, ...]:
    """The statements of this module, with their checks.

    Returns:
        The steps, unrun.
    """
    from theory.symbols import depth

    change = sp.Symbol("D'")
    derived = _curvature * (_unit_gradient * _radius ** (_degree - 1)) ** 2 / gamma**2
    law = sp.simplify(gamma * sp.diff(sp.log(2 / derived), gamma))
    # radial: ln λ = 2 ln D + 2 ln F − 2 ln r − 2 ln γ with F = γy and d ln r/d ln γ = 1/D
    local = 2 / _degree - 2 * change / _degree**2
    toy = {_degree: depth, _unit_output: depth ** (-depth / sp.S(2)), _curvature: 1, target: 1}
    of_toy = sp.powsimp(_sharpness.subs({**toy, _unit_gradient: depth ** (1 - depth / sp.S(2))}), force=True)
    below = _curvature * target**2 * _angle**2 / _norm**2
    return (
        Step("Weights at the end", "F = γy at weights of degree D puts |θ| at γ^(1/D).",
             r"|\theta|", _radius, _radius_of_trained, "flows of power-law toys (D = 0.9, 2.2) and ReLU networks"),
        Step("Curvature at the end", "The Hessian at f = y is the Gauss–Newton one, of degree 2D − 2 over γ².",
             r"\lambda", _sharpness, _hessian_of_trained, "Hessians by differences where these flows end, two γ"),
        Step("The Euler-degree law", "eta_crit = 2/λ goes like γ^(2/D) once the direction of the weights is constant.",
             r"\frac{d\ln\eta_{\mathrm{crit}}}{d\ln\gamma}", law, _trained_slope, "flows to γ = 1e6 and 1e8"),
        Step("Degree L", "For the toy, D = L and all weights equal: the rich limit of its exact sharpness.",
             r"\lambda", of_toy, _is_toy_limit, "exact sharpness of the toy at γ = 1e12, L = 2, 3, 5"),
        Step("A residual changes nothing", "ℓ′∇²F/γ has degree D − 2: the whole Hessian keeps the exponent at fixed f.",
             r"\frac{d\ln\lambda}{d\ln\gamma}", -2 / _degree, _with_residual, "Hessians by differences at f = y/2"),
        Step("Radial bound", "Cauchy–Schwarz with θ·∇F = DF: the curvature is at least that along the weights.",
             r"\lambda \geq", _curvature * target**2 * _degree**2 / _scale**2, _radial_bound,
             "Hessians by differences; equality for one weight"),
        Step("A degree that changes with the scale", "Where D has not settled, its change D' enters the radial slope.",
             r"\frac{d\ln\eta_{\mathrm{crit}}}{d\ln\gamma}", local, _of_residual_ray, "F = r + 0.3 r³ at four scales"),
        Step("Weights below a normalisation", "The curvature in scale-invariant weights knows γ by their norm only.",
             r"\lambda_b", below, _invariant_curvature, "Hessians by differences of a head on a direction"),
        Step("They grow under large steps", "A step is orthogonal to b: |b|⁴ gains 2η²g² or more; with S = Σg².",
             r"|b|^4 \geq", _start_norm**4 + 2 * eta**2 * _sum, _growth_under_descent,
             "gradient descent on a direction: equality for small steps, the bound for large ones"),
    )  # fmt: skip
