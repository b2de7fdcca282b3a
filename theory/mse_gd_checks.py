"""Checks of the MSE and gradient-descent derivation: each tests an expression by means other than those that made it.

Oracles: the Hessian and gradient of L explicit weights, high-precision quadrature of 1/(du/dt), numerical
differentiation at 30 digits, the exact expression far out on the γ axis, and iteration of the map itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import mpmath
import numpy as np
import sympy as sp

from theory.losses import MSE
from theory.symbols import C, depth, eta, f, gamma, level, steps, u, w, z

Check = Callable[[sp.Basic], bool]

DEPTHS = range(2, 7)  # explicit networks; their Hessians have L² entries
_FLOW_DEPTHS = (1, 2, 3, 4, 5, 8)
_DIGITS = 30  # of the numerical comparisons
_TOLERANCE = 1e-20  # well above rounding at 30 digits, far below any wrong formula
_SYMBOLS = {"gamma": gamma, "depth": depth, "steps": steps, "level": level, "eta": eta, "u": u}


def is_zero(expression: sp.Expr) -> bool:
    """Whether SymPy reduces an expression to zero.

    Args:
        expression: any.

    Returns:
        ``True`` only when it simplifies to 0.
    """
    return bool(sp.simplify(sp.powsimp(sp.expand(expression))) == 0)


def equals(expected: sp.Expr) -> Check:
    """A check that compares with an expression obtained in another way.

    Args:
        expected: the other derivation's result.

    Returns:
        The check.
    """
    return lambda claimed: is_zero(claimed - expected)


def at(expression: sp.Expr, **values: object) -> mpmath.mpf:
    """Value of an expression as a 30-digit number, in whatever mpmath precision is set.

    Args:
        expression: any.
        **values: numbers for gamma, depth, steps, level, eta and u.

    Returns:
        The value.
    """
    numbers = {_SYMBOLS[name]: sp.sympify(value) for name, value in values.items()}
    placed = expression.subs(depth, numbers.get(depth, depth))  # first: it picks the branch of a Piecewise
    return mpmath.mpf(sp.N(placed.subs(numbers), _DIGITS))


def close(first: mpmath.mpf, second: mpmath.mpf, tolerance: float = _TOLERANCE) -> bool:
    """Relative comparison of two numbers.

    Args:
        first: a number.
        second: a non-zero number.
        tolerance: largest relative difference.

    Returns:
        Whether they agree.
    """
    return bool(abs(first / second - 1) < tolerance)


@cache
def _explicit(layers: int) -> tuple[list[sp.Symbol], sp.Expr]:
    # L separate weights, and the MSE loss of their network
    weights = list(sp.symbols(f"w_1:{layers + 1}", positive=True))
    return weights, MSE.excess.subs(f, (sp.prod(weights) - 1) / gamma)


@cache
def explicit_hessian(layers: int) -> sp.Matrix:
    """The L×L Hessian by differentiation of the network of L separate weights, on the balanced line.

    Args:
        layers: number of layers.

    Returns:
        The matrix, in w and γ.
    """
    weights, energy = _explicit(layers)
    balanced = dict.fromkeys(weights, w)
    rows = [[sp.diff(energy, a, b).subs(balanced) for b in weights] for a in weights]
    return sp.Matrix(rows)


def eigenvalue_along(claimed: sp.Expr, weight: sp.Expr = w) -> bool:
    """(1,…,1) is an eigenvector of the explicit Hessian with the claimed eigenvalue, L = 2…6.

    Args:
        claimed: eigenvalue, in w, γ and L.
        weight: the point on the balanced line.

    Returns:
        Whether H·1 = claimed·1 in every row.
    """
    for layers in DEPTHS:
        matrix = explicit_hessian(layers).subs(w, weight)
        rows = (sum(matrix.row(row)) for row in range(layers))
        if not all(is_zero(row - claimed.subs(depth, layers)) for row in rows):
            return False
    return True


def eigenvalue_across(claimed: sp.Expr, weight: sp.Expr = w) -> bool:
    """The L − 1 vectors e₁ − e_j are eigenvectors of the explicit Hessian with the claimed eigenvalue, L = 2…6.

    Args:
        claimed: eigenvalue, in w, γ and L.
        weight: the point on the balanced line.

    Returns:
        Whether H(e₁ − e_j) = claimed (e₁ − e_j) for every j: multiplicity L − 1.
    """
    for layers in DEPTHS:
        matrix, value = explicit_hessian(layers).subs(w, weight), claimed.subs(depth, layers)
        for other in range(1, layers):
            difference = matrix.col(0) - matrix.col(other)
            expected = [value if row == 0 else -value if row == other else 0 for row in range(layers)]
            if not all(is_zero(have - want) for have, want in zip(difference, expected, strict=True)):
                return False
    return True


def is_minimiser(claimed: sp.Expr) -> bool:
    """The loss and every entry of its gradient vanish at the claimed weight: symbolic L, and L = 2…6.

    Args:
        claimed: balanced weight, in γ and L.

    Returns:
        Whether both hold.
    """
    if not is_zero(MSE.excess.subs(f, (claimed**depth - 1) / gamma)):
        return False
    for layers in DEPTHS:
        weights, energy = _explicit(layers)
        placed = dict.fromkeys(weights, claimed.subs(depth, layers))
        if not all(is_zero(sp.diff(energy, weight).subs(placed)) for weight in weights):
            return False
    return True


def gauss_newton(claimed: sp.Expr) -> bool:
    """λ* equals ℓ″ times the squared norm of ∇f at the minimum, for symbolic L, and the explicit eigenvalue, L = 2…6.

    Args:
        claimed: λ*, in γ and L.

    Returns:
        Whether both hold.
    """
    at_minimum = (1 + gamma) ** (1 / depth)
    norm = depth * (w ** (depth - 1) / gamma) ** 2  # L equal entries ∂f/∂w_1 = w^{L−1}/γ
    explicit = all(
        is_zero(sum(explicit_hessian(layers).row(0)).subs(w, (1 + gamma) ** sp.Rational(1, layers)) - value)
        for layers in DEPTHS
        for value in [claimed.subs(depth, layers)]
    )
    return explicit and is_zero(claimed - sp.powdenest(norm.subs(w, at_minimum), force=True))


def map_multiplier(claimed: sp.Expr) -> bool:
    """One gradient step at the claimed η turns a small deviation from w* into minus itself, for symbolic L.

    Args:
        claimed: eta_crit, in γ and L.

    Returns:
        Whether the derivative of w − (η/γ) w^{L−1}(f − 1) at w* is −1.
    """
    step = w - eta / gamma * w ** (depth - 1) * ((w**depth - 1) / gamma - 1)
    multiplier = sp.diff(step, w).subs(eta, claimed).subs(w, (1 + gamma) ** (1 / depth))
    return is_zero(sp.powdenest(sp.expand(multiplier), force=True) + 1)


def slope_of(expression: sp.Expr, depths: Iterable[int], **fixed: object) -> Check:
    """A check that compares a local exponent with the central difference of ln(expression) in ln γ, at 30 digits.

    Args:
        expression: the boundary.
        depths: depths to test.
        **fixed: values of T and level.

    Returns:
        The check.
    """

    @mpmath.workdps(_DIGITS)
    def check(claimed: sp.Expr) -> bool:
        half = sp.Rational(1, 10**9)  # central difference: relative error about half², 1e-18
        for layers in depths:
            for strength in (sp.Rational(1, 50), sp.Integer(3), sp.Integer(700)):
                values = [at(expression, gamma=strength * (1 + h), depth=layers, **fixed) for h in (half, -half)]
                measured = mpmath.log(values[0] / values[1]) / mpmath.log(
                    (1 + mpmath.mpf(half)) / (1 - mpmath.mpf(half))
                )
                if not close(at(claimed, gamma=strength, depth=layers, **fixed), measured, 1e-14):
                    return False
        return True

    return check


def power_law_at(expression: sp.Expr, end: sp.Expr, depths: Iterable[int], tolerance: float, **fixed: object) -> Check:
    """A check that compares a claimed power law with the expression itself far out on the axis.

    Args:
        expression: the boundary.
        end: a γ so small or large that the law holds to ``tolerance``.
        depths: depths to test.
        tolerance: largest relative difference.
        **fixed: values of T and level.

    Returns:
        The check, for claims coefficient · γ^exponent.
    """

    @mpmath.workdps(_DIGITS)
    def check(claimed: sp.Expr) -> bool:
        return all(
            close(
                at(claimed, gamma=end, depth=layers, **fixed),
                at(expression, gamma=end, depth=layers, **fixed),
                tolerance,
            )
            for layers in depths
        )

    return check


def product_rule(claimed: sp.Expr) -> bool:
    """du/dt from the L separate flow equations dw_i/dt = −η ∂ℓ/∂w_i by the product rule, L = 1…6.

    Args:
        claimed: du/dt, in u, η, γ and L.

    Returns:
        Whether both agree on the balanced line.
    """
    for layers in range(1, 7):
        weights, energy = _explicit(layers)
        balanced = dict.fromkeys(weights, w)
        velocity = sum(sp.diff(sp.prod(weights), weight) * -eta * sp.diff(energy, weight) for weight in weights)
        if not is_zero(velocity.subs(balanced) - claimed.subs(depth, layers).subs(u, w**layers)):
            return False
    return True


def hypergeometric_term(claimed: sp.Expr) -> bool:
    """The antiderivative's power series is differentiated term by term, for symbolic q and n.

    Args:
        claimed: the n-th term v^{q+n}/((q+n)cⁿ), in v, q, c and n.

    Returns:
        Whether it is the n-th term of (v^q/q) ₂F₁(1, q; q+1; v/c), and its derivative v^{q−1}(v/c)ⁿ.
    """
    v, q, c = sp.symbols("v q c", positive=True)
    n = sp.Symbol("n", integer=True, nonnegative=True)
    pochhammers = sp.rf(1, n) * sp.rf(q, n) / (sp.rf(q + 1, n) * sp.factorial(n))
    series_term = v**q / q * pochhammers * (v / c) ** n
    same = sp.combsimp(sp.gammasimp((series_term / claimed).rewrite(sp.gamma)))
    derivative = sp.diff(claimed, v) / (v ** (q - 1) * (v / c) ** n)
    return bool(sp.simplify(same) == 1) and bool(sp.simplify(derivative) == 1)


@mpmath.workdps(_DIGITS)
def flow_quadrature(claimed: sp.Expr) -> bool:
    """t(u) against high-precision quadrature of 1/(du/dt), with du/dt from first principles, for several L, γ and u.

    Args:
        claimed: t(u), in u, η, γ and L.

    Returns:
        Whether all agree to 20 digits.
    """
    for layers in _FLOW_DEPTHS:
        for strength, reached in ((sp.Rational(1, 3), sp.Rational(5, 4)), (sp.Integer(40), sp.Integer(30))):
            rate, goal = mpmath.mpf(strength), mpmath.mpf(reached)

            def weight_time(weight: mpmath.mpf, rate: mpmath.mpf = rate, layers: int = layers) -> mpmath.mpf:
                return 1 / (weight ** (layers - 1) * (1 - (weight**layers - 1) / rate) / rate)  # 1/(dw/dt), η = 1

            expected = mpmath.quad(weight_time, mpmath.linspace(1, goal ** (mpmath.mpf(1) / layers), 5))
            if not close(at(claimed, gamma=strength, depth=layers, eta=1, u=reached), expected):
                return False
    return True


@mpmath.workdps(_DIGITS)
def level_reached(claimed: sp.Expr) -> bool:
    """The flow at the claimed η spends exactly T steps on the way to ``level``·L₀, by quadrature in f.

    Args:
        claimed: eta_min, in γ, L, T and level.

    Returns:
        Whether all tested cases agree to 20 digits.
    """
    for layers in _FLOW_DEPTHS:
        for strength, part in ((sp.Rational(1, 100), sp.Rational(9, 10)), (sp.Integer(500), sp.Rational(1, 2))):
            rate = mpmath.mpf(strength)
            goal = mpmath.findroot(lambda out, part=part: (out - 1) ** 2 - mpmath.mpf(part), 0.1)
            power = mpmath.mpf(2 - 2 * layers) / layers
            pieces = [goal * mpmath.mpf(k) ** 3 / 216 for k in range(7)]  # denser near 0, where 1 + γf varies
            waited = mpmath.quad(lambda out, rate=rate, power=power: (1 + rate * out) ** power / (1 - out), pieces)
            budget = rate**2 * waited / (layers * at(claimed, gamma=strength, depth=layers, steps=77, level=part))
            if not close(budget, mpmath.mpf(77)):
                return False
    return True


def map_of_z(claimed: sp.Expr) -> bool:
    """One gradient step in w, divided by the minimiser, is the claimed map of z, for symbolic L.

    Args:
        claimed: the map, in z, C and L.

    Returns:
        Whether both agree with C = (2/L) η/eta_crit.
    """
    scale, place = (1 + gamma) ** (1 / depth), sp.Symbol("z", positive=True)
    weight = scale * place
    residual = ((1 + gamma) * place**depth - 1) / gamma - 1
    after = (weight - eta / gamma * scale ** (depth - 1) * place ** (depth - 1) * residual) / scale
    strength = eta * (1 + gamma) ** (2 - 2 / depth) / gamma**2  # (2/L) η λ*/2
    difference = sp.powdenest(sp.expand(after - claimed.subs(z, place).subs(C, strength)), force=True)
    return is_zero(difference)


def escape_by_iteration(claimed: sp.Expr) -> bool:
    """Iterating the map from starts in (0, 1]: none escapes 1 % below the claimed ratio, some do 3 % above, L = 2…6.

    Args:
        claimed: eta_max/eta_crit, in L.

    Returns:
        Whether both hold at every depth.
    """
    for layers in DEPTHS:
        ratio = float(claimed.subs(depth, layers).evalf())
        escaped = []
        for factor in (0.99, 1.03):
            places, strength = np.linspace(0.001, 1.0, 1000), 2.0 / layers * ratio * factor
            for _ in range(200):
                places = places - strength * places ** (layers - 1) * (places**layers - 1)
                places[np.abs(places) > 10.0] = np.nan  # the trapping interval ends below 3
            escaped.append(bool(np.isnan(places).any()))
        if escaped != [False, True]:
            return False
    return True
