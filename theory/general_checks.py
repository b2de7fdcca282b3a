"""Checks for any convex loss: the explicit network of L weights, quadrature, iteration, numerical differentiation.

None of them uses the expressions it tests: gradients and Hessians are those of L separate symbols, times are integrals
of 1/(dw/dt), and stability is read off the map itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product

import mpmath
import numpy as np
import sympy as sp

from theory.losses import Loss, exact_output
from theory.symbols import depth, f, gamma, level, steps, w

_DIGITS = 30
_TOLERANCE = 1e-20
_STRENGTHS = (sp.Rational(1, 7), sp.Integer(3), sp.Integer(40))
_EXPLICIT_DEPTHS = range(2, 9)
_FLOW_DEPTHS = (1, 2, 3, 5)


def value(expression: sp.Expr, *, strength: sp.Expr, layers: int, **others: object) -> mpmath.mpf:
    """An expression as a 30-digit number.

    Args:
        expression: in γ, L, T and level.
        strength: γ.
        layers: L.
        **others: numbers for steps and level.

    Returns:
        The value.
    """
    names = {"steps": steps, "level": level}
    numbers = {names[name]: sp.sympify(number) for name, number in others.items()}
    placed = expression.subs(depth, layers).subs(numbers).subs(gamma, strength)
    integrals = {whole: sp.Float(_quadrature(whole), _DIGITS) for whole in placed.atoms(sp.Integral)}
    return mpmath.mpf(sp.N(placed.xreplace(integrals), _DIGITS))


def _quadrature(whole: sp.Integral) -> mpmath.mpf:
    # tanh-sinh, which bears the integrable powers of s at 0; far faster than SymPy's own evaluation
    ((variable, low, high),) = whole.limits
    ends = [mpmath.mpf(sp.N(end, _DIGITS)) for end in (low, high)]
    integrand = sp.lambdify(variable, whole.function, "mpmath")
    middle = (ends[0] + ends[1]) / 2
    return mpmath.quad(integrand, [ends[0], middle / 64, middle / 8, middle, ends[1]], maxdegree=7)


def close(first: mpmath.mpf, second: mpmath.mpf, tolerance: float = _TOLERANCE) -> bool:
    """Relative comparison.

    Args:
        first: a number.
        second: a number; when it is zero, the first is compared with 1.
        tolerance: largest difference.

    Returns:
        Whether they agree.
    """
    return bool(abs(first - second) <= tolerance * max(abs(second), tolerance))


@cache
def explicit_spectrum(loss: Loss, layers: int, strength: sp.Expr, weight: sp.Expr) -> tuple[mpmath.mpf, mpmath.mpf]:
    """Eigenvalues along and across, from the L×L Hessian of L explicit weights, each verified as an eigenvalue.

    Args:
        loss: the loss.
        layers: L ≥ 2.
        strength: γ.
        weight: common weight, a number.

    Returns:
        Both eigenvalues.
    """
    with mpmath.workdps(_DIGITS):
        names = sp.symbols(f"w_1:{layers + 1}")
        energy = loss.excess.subs(f, (sp.prod(names) - 1) / strength)
        balanced = dict.fromkeys(names, weight)
        # by permutation symmetry of the network the Hessian has two kinds of entry; both are differentiated out
        diagonal, off = (mpmath.mpf(sp.N(sp.diff(energy, names[0], other).subs(balanced), 40)) for other in names[:2])
        hessian = mpmath.matrix(layers, layers)
        for row, column in product(range(layers), repeat=2):
            hessian[row, column] = diagonal if row == column else off
        found = sorted(mpmath.eigsy(hessian, eigvals_only=True), key=lambda one: abs(one - (diagonal - off)))
        return found[-1], found[0]


@mpmath.workdps(_DIGITS)
def spectrum_check(loss: Loss, which: int, weight: Callable[[sp.Expr, int], sp.Expr], claimed: sp.Expr) -> bool:
    """A claimed eigenvalue against the explicit Hessian, L = 2…8.

    Args:
        loss: the loss.
        which: 0 along (1,…,1), 1 across.
        weight: the balanced weight as a function of γ and L.
        claimed: eigenvalue in γ and L (and w, replaced by the weight).

    Returns:
        Whether all agree to 20 digits.
    """
    for layers in _EXPLICIT_DEPTHS:
        strength = _STRENGTHS[layers % len(_STRENGTHS)]
        at = weight(strength, layers)
        expected = explicit_spectrum(loss, layers, strength, at)[which]
        if not close(value(claimed.subs(w, at), strength=strength, layers=layers), expected):
            return False
    return True


def weight_time(loss: Loss, layers: int, strength: sp.Expr, part: mpmath.mpf) -> mpmath.mpf:
    """η·t at which the flow dw/dt = −(η/γ) w^{L−1} ℓ′ brings the loss to a level, by quadrature in ln w.

    Args:
        loss: the loss.
        layers: L.
        strength: γ.
        part: level.

    Returns:
        The product.
    """
    rate, slope = mpmath.mpf(strength), sp.lambdify(f, loss.slope, "mpmath")
    end = mpmath.log1p(rate * exact_output(loss, part)) / layers

    def waiting(y: mpmath.mpf) -> mpmath.mpf:
        return -rate * mpmath.exp((2 - layers) * y) / slope(mpmath.expm1(layers * y) / rate)

    return mpmath.quad(waiting, mpmath.linspace(0, end, 4))


@mpmath.workdps(_DIGITS)
def level_reached(loss: Loss, claimed: sp.Expr) -> bool:
    """The flow at the claimed eta_min spends T steps on the way to the level, by quadrature in the weight.

    Args:
        loss: the loss.
        claimed: eta_min.

    Returns:
        Whether all agree to 15 digits (the quadrature of the claim is done to 20).
    """
    for layers in _FLOW_DEPTHS:
        strength = _STRENGTHS[layers % len(_STRENGTHS)]
        claim = value(claimed, strength=strength, layers=layers, steps=77, level=sp.Rational(9, 10))
        if not close(claim, weight_time(loss, layers, strength, mpmath.mpf(9) / 10) / 77, 1e-15):
            return False
    return True


def expansion_check(loss: Loss, strength: sp.Expr, depths: tuple[int, ...], tolerance: float, claimed: sp.Expr) -> bool:
    """A claimed expansion of eta_min against the flow time far out on the axis.

    Args:
        loss: the loss.
        strength: γ there.
        depths: depths to test.
        tolerance: largest relative difference, the size of the next term.
        claimed: eta_min's expansion in γ, L, T and level.

    Returns:
        Whether all agree.
    """
    part = sp.Rational(9, 10)
    with mpmath.workdps(_DIGITS):
        for layers in depths:
            claim = value(claimed, strength=strength, layers=layers, steps=10, level=part)
            if not close(claim, weight_time(loss, layers, strength, mpmath.mpf(9) / 10) / 10, tolerance):
                return False
    return True


@mpmath.workdps(_DIGITS)
def map_multiplier(loss: Loss, claimed: sp.Expr) -> bool:
    """The derivative of one gradient step at the minimum is −1 at the claimed eta_crit, by central difference.

    Args:
        loss: the loss.
        claimed: eta_crit.

    Returns:
        Whether it is, to 12 digits, L = 1…8.
    """
    slope = sp.lambdify(f, loss.slope, "mpmath")
    for layers in range(1, 9):
        strength = _STRENGTHS[layers % len(_STRENGTHS)]
        rate, number = value(claimed, strength=strength, layers=layers), mpmath.mpf(strength)
        minimum, h = (1 + number) ** (mpmath.mpf(1) / layers), mpmath.mpf(10) ** -8

        def step(
            weight: mpmath.mpf, rate: mpmath.mpf = rate, number: mpmath.mpf = number, layers: int = layers
        ) -> mpmath.mpf:
            return weight - rate / number * weight ** (layers - 1) * slope((weight**layers - 1) / number)

        if not close((step(minimum + h) - step(minimum - h)) / (2 * h), mpmath.mpf(-1), 1e-12):
            return False
    return True


def escape_check(loss: Loss, claimed: sp.Expr) -> bool:
    """Iterating the map from starts in (0, w*]: none escapes 1 % below the claimed eta_max, some do 3 % above.

    Args:
        loss: the loss.
        claimed: eta_max in γ and L.

    Returns:
        Whether both hold, L = 2…6 and three γ.
    """
    for layers, strength in product(range(2, 7), (0.01, 2.0, 300.0)):
        limit = float(claimed.subs(depth, layers).subs(gamma, strength).evalf())
        end = (1.0 + strength) ** (1.0 / layers)
        escaped = []
        for factor in (0.99, 1.03):
            weights = np.linspace(0.001, 1.0, 1000) * end
            for _ in range(200):
                with np.errstate(all="ignore"):
                    pull = loss.numeric_slope((weights**layers - 1.0) / strength)
                    weights = weights - limit * factor / strength * weights ** (layers - 1) * pull
                weights[~(np.abs(weights) < 100.0 * end)] = np.nan  # the trapping interval ends far below
            escaped.append(bool(np.isnan(weights).any()))
        if escaped != [False, True]:
            return False
    return True
