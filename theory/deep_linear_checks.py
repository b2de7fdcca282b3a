"""The steps of ``theory.deep_linear`` and their checks.

Oracles: the loss of explicit rational matrices, differentiated exactly entry by entry (it is quadratic in each entry,
so a central difference is the derivative), and quadrature of dw/(dw/dτ) to 30 digits.
"""

from __future__ import annotations

from collections.abc import Sequence

import mpmath
import sympy as sp

from theory import deep_linear
from theory.deep_linear import fraction, strength, variance
from theory.derivation import Step
from theory.symbols import depth, eta, gamma, s, w

_layer = sp.Symbol("l", integer=True, positive=True)
_other, _mixing = sp.symbols("w_b sigma_ab", positive=True)
_size = sp.Symbol("d", integer=True, positive=True)
_above, _late, _early, _below, _error = (sp.MatrixSymbol(name, _size, _size) for name in ("A", "W_2", "W_1", "B", "E"))
_slope_late, _slope_early = (sp.MatrixSymbol(name, _size, _size) for name in ("G_2", "G_1"))
_FAR = sp.Integer(10) ** 30  # of γ, for leading forms
_DIGITS = 30


def _loss(weights: Sequence[sp.Matrix], strength_: sp.Expr, correlation: sp.Matrix, covariance: sp.Matrix) -> sp.Expr:
    # ½ E|fx − y|² up to a constant, with W(0) = 1
    output = (sp.prod(list(reversed(weights))) - sp.eye(2)) / strength_
    return (output * covariance * output.T).trace() / 2 - (output * correlation.T).trace()


def _gradients(
    weights: Sequence[sp.Matrix], strength_: sp.Expr, correlation: sp.Matrix, covariance: sp.Matrix
) -> list[sp.Matrix]:
    result = []
    for at, matrix in enumerate(weights):

        def shifted(row: int, column: int, by: int, at: int = at, matrix: sp.Matrix = matrix) -> sp.Expr:
            moved = matrix.copy()
            moved[row, column] += by
            return _loss([*weights[:at], moved, *weights[at + 1 :]], strength_, correlation, covariance)

        result.append(sp.Matrix(2, 2, lambda i, j, shift=shifted: (shift(i, j, 1) - shift(i, j, -1)) / 2))
    return result


def _rotation(p: int, q: int) -> sp.Matrix:
    size = p * p + q * q
    return sp.Matrix([[p * p - q * q, -2 * p * q], [2 * p * q, p * p - q * q]]) / size


def _explicit_modes(claimed: sp.Basic) -> bool:
    # two modes in rotated bases; the product of the R_ℓ at the start is U Vᵀ, so the start here is UVᵀ, not 1
    number = sp.Rational
    values, targets, variances, big = (number(3, 2), number(4, 3)), (2, number(5, 3)), (1, number(1, 2)), number(7, 2)
    for layers in (1, 2, 3):
        frames = [_rotation(2, 1), *(_rotation(at + 3, 2) for at in range(layers - 1)), _rotation(2, 1)]
        weights = [frames[at + 1] * sp.diag(*values) * frames[at].T for at in range(layers)]
        correlation = frames[-1] * sp.diag(*targets) * frames[0].T
        covariance = frames[0] * sp.diag(*variances) * frames[0].T
        expected = sp.diag(*(
            claimed.subs({depth: layers, w: value, strength: target, variance: spread, gamma: big})
            for value, target, spread in zip(values, targets, variances, strict=True)
        ))  # fmt: skip
        # τ = ηt/γ and Ẇ = −η ∂ℓ/∂W: dW/dτ = −γ ∂ℓ/∂W
        gradients = _gradients(weights, big, correlation, covariance)
        for at, gradient in enumerate(gradients):
            if sp.simplify(frames[at + 1].T * (-big * gradient) * frames[at] - expected) != sp.zeros(2, 2):
                return False
    return True


def _integrand_is_slowness(claimed: sp.Basic) -> bool:
    # 1/(d level/dτ) with level = σ(w^L − 1)/(γ s_a), at w = (1 + γ s_a level/σ)^{1/L}
    for layers in (1, 2, 3, 5):
        level = variance * (w**layers - 1) / (gamma * strength)
        pace = sp.diff(level, w) * deep_linear.mode_velocity().subs(depth, layers)
        if sp.simplify(claimed.subs({depth: layers, s: level}) * pace - 1) != 0:
            return False
    return True


def _quadrature(layers: int, big: sp.Expr, target: sp.Expr, spread: sp.Expr, level: sp.Expr) -> mpmath.mpf:
    # τ = ∫ dw/(dw/dτ), in ln w, in pieces of the length over which the integrand changes
    with mpmath.workdps(_DIGITS):
        numbers = [mpmath.mpf(value.p) / value.q for value in map(sp.Rational, (big, target, spread, level))]
        top, a, b, part = numbers

        def slowness(x: mpmath.mpf) -> mpmath.mpf:
            rise = mpmath.exp(layers * x) - 1
            return mpmath.exp(-(layers - 2) * x) / (a - b * rise / top)

        end = mpmath.log1p(top * a * part / b) / layers
        return mpmath.quad(slowness, mpmath.linspace(0, end, int(end) + 2))


def _time_agrees(claimed: sp.Basic, layers: int, big: sp.Expr, tolerance: float) -> bool:
    for target, spread, level in ((2, 1, sp.Rational(1, 2)), (sp.Rational(1, 3), sp.Rational(5, 2), sp.Rational(1, 5))):
        expected = _quadrature(layers, big, sp.Rational(target), sp.Rational(spread), level)
        place = {depth: layers, gamma: big, strength: target, variance: spread, fraction: level}
        value = mpmath.mpf(sp.N(claimed.subs(place), _DIGITS))
        if not abs(value / expected - 1) < tolerance:
            return False
    return True


def _correction_agrees(claimed: sp.Basic) -> bool:
    # (s_a τ_a − 1/(L−2)) γ_a^m at γ = 10^30: the next term is smaller by γ_a^{−(1−m)}, 10^{−15} or less
    for layers in (3, 4):
        m = 1 - sp.Rational(2, layers)
        target, spread, level = sp.Integer(2), sp.Rational(3, 2), sp.Rational(1, 2)
        exact = _quadrature(layers, _FAR, target, spread, level)
        with mpmath.workdps(_DIGITS):
            rest = (2 * exact - mpmath.mpf(1) / (layers - 2)) * mpmath.mpf(sp.N((_FAR * target / spread) ** m, _DIGITS))
            value = mpmath.mpf(sp.N(claimed.subs({depth: layers, fraction: level}), _DIGITS))
            if not abs(value / rest - 1) < 1e-8:
                return False
    return True


def _explicit_balance(claimed: sp.Basic) -> bool:
    # three matrices of integers and a loss that is not whitened: the balance after a step, entry by entry
    weights = [sp.Matrix([[1, 2], [-1, 1]]), sp.Matrix([[0, 1], [2, 1]]), sp.Matrix([[1, -1], [3, 1]])]
    correlation, covariance = sp.Matrix([[1, 2], [0, -1]]), sp.Matrix([[2, 1], [1, 3]])
    gradients = _gradients(weights, sp.Rational(3, 2), correlation, covariance)
    moved = [matrix - eta * gradient for matrix, gradient in zip(weights, gradients, strict=True)]

    def balance(early: sp.Matrix, late: sp.Matrix) -> sp.Matrix:
        return late.T * late - early * early.T

    for at in (0, 1):
        change = balance(moved[at], moved[at + 1]) - balance(weights[at], weights[at + 1])
        concrete = {_slope_early: gradients[at], _slope_late: gradients[at + 1], _size: 2}
        if (change - sp.Matrix(_concrete(claimed, concrete))).expand() != sp.zeros(2, 2):
            return False
    return True


def _concrete(expression: sp.Basic, values: dict[sp.Basic, object]) -> sp.Matrix:
    # MatrixSymbols of symbolic size replaced by explicit matrices
    return expression.replace(
        lambda part: isinstance(part, sp.MatrixSymbol), lambda part: sp.ImmutableMatrix(values[part])
    ).doit()


def _mixed_entry(claimed: sp.Basic) -> bool:
    # W_ℓ = diag(w, w_b), M diagonal, Σ not: entry (1, 2) of dW_ℓ/dτ
    a, b, mix, big = sp.Rational(3, 2), sp.Rational(5, 4), sp.Rational(1, 3), sp.Rational(7, 2)
    correlation, covariance = sp.diag(2, 1), sp.Matrix([[1, mix], [mix, 2]])
    for layers in (2, 3):
        gradients = _gradients([sp.diag(a, b)] * layers, big, correlation, covariance)
        for at, gradient in enumerate(gradients, start=1):
            place = {depth: layers, _layer: at, w: a, _other: b, _mixing: mix, gamma: big}
            if claimed.subs(place) != -big * gradient[0, 1]:
                return False
    return True


def balance_change() -> sp.Basic:
    """Change of W_2ᵀW_2 − W_1W_1ᵀ for neighbours in any chain A W_2 W_1 B: what lies above and below is A and B.

    Returns:
        η²(G_2ᵀG_2 − G_1G_1ᵀ), after the part of first order in η, written out in A, B and the error E, has cancelled.

    Raises:
        ArithmeticError: it has not cancelled.
    """
    late, early = _above.T * _error * (_early * _below).T, (_above * _late).T * _error * _below.T
    first = (_late.T * late - early * _early.T).doit()
    if first != sp.ZeroMatrix(_size, _size):
        raise ArithmeticError(f"the part of first order is {first}")
    return eta**2 * (_slope_late.T * _slope_late - _slope_early * _slope_early.T)


def deep_linear_steps() -> tuple[Step, ...]:
    """The steps of the matrix network, in reading order.

    Returns:
        The steps, unrun.
    """
    scaled = gamma * strength / variance
    m = 1 - 2 / depth
    correction = -(fraction**-m) / (depth * m) * sp.hyper((1, -m), (1 - m,), fraction)
    third = sp.Rational(1, 3)
    two = sp.log((1 + scaled * fraction) / (1 - fraction)) * scaled / (2 * strength * (1 + scaled))
    mixed = -(w ** (depth - _layer)) * (w**depth - 1) / gamma * _mixing * _other ** (_layer - 1)
    return (
        Step("Modes decouple", "From an aligned balanced start each mode obeys its own equation (τ = ηt/γ).",
             r"\frac{dw_a}{d\tau}", deep_linear.mode_velocity(), _explicit_modes,
             "gradients of the loss of two rotated modes, L = 1, 2, 3, all entries"),
        Step("Mode time", "The time of a mode is that of the scalar model at γ_a = γ s_a/σ_a, divided by s_a.",
             r"\frac{d\tau_a}{d\,\mathrm{level}}", deep_linear.mode_time_integrand(), _integrand_is_slowness,
             "change of variables in the mode's equation, L = 1, 2, 3, 5"),
        Step("Staircase, L > 2", "At large γ a mode leaves its plateau at a time in inverse ratio to s_a.",
             r"\tau_a", 1 / ((depth - 2) * strength),
             lambda claimed: all(_time_agrees(claimed, layers, _FAR, 1e-8) for layers in (3, 4)),
             "quadrature of the mode's equation at γ = 10^30, L = 3, 4"),
        Step("Staircase, first correction", "Its correction falls like γ_a^{−(1−2/L)}, with this coefficient.",
             r"K(\mathrm{level})", correction, _correction_agrees, "the same quadrature, L = 3, 4"),
        Step("Staircase, L = 2", "With two layers the time is a logarithm, exactly.",
             r"\tau_a", two, lambda claimed: all(_time_agrees(claimed, 2, big, 1e-20) for big in (third, _FAR)),
             "quadrature of the mode's equation, small and large γ"),
        Step("Balance", "One step changes W_2ᵀW_2 − W_1W_1ᵀ of neighbours at second order only; flow conserves it.",
             r"\Delta(W_2^\top W_2 - W_1 W_1^\top)", balance_change(), _explicit_balance,
             "a step on three integer matrices, every entry"),
        Step("Modes that mix", "Where Σ mixes two right singular vectors, so does the velocity as soon as f is not 0.",
             r"\left(\frac{dW_l}{d\tau}\right)_{ab}", mixed, _mixed_entry, "gradients of explicit matrices, L = 2, 3"),
    )  # fmt: skip
