"""Closed forms and limits of the balanced MSE flow, in the rescaled time τ = ηt/γ (t in optimizer steps).

With w the common weight, f = (w^L − 1)/γ, the flow is dw/dτ = w^{L−1}(1 − f), so that

    τ = γ ∫₁^w dq / (q^{L−1}(1 + γ − q^L)) = γ c^{2−2L} ∫ dy / (y^{L−1}(1 − y^L)),     q = cy,  c = (1+γ)^{1/L},

which is elementary: logarithms, and an arctangent at L = 3. Two limits, F = γf = w^L − 1 being the raw output's change:

    γ → ∞ at fixed τ < τ*:   F = F_∞(τ) + F₁(τ)/γ + O(γ⁻²),   F_∞ = w^L − 1,   w = (1 − (L−2)τ)^{−1/(L−2)}
                             (L = 2: w = e^τ),
                             F₁ = −L w^{2L−2} [(w² − 1)/2 − τ]
    γ → 0 at fixed θ = Lτ/γ = Lηt/γ²:   f = 1 − e^{−θ} + γ(2 − 2/L) e^{−θ}(θ − 1 + e^{−θ}) + O(γ²).

The first correction, relative to F_∞, is −f/2 at small τ and goes to −Lf/2 as w grows (L ≥ 2): the curves of different
γ coincide up to a deviation of order f. The plateau ends at τ* = 1/((L−2)|ℓ′(0)|) for L > 2, at a logarithm for L = 2.
"""

from __future__ import annotations

from functools import cache

import mpmath
import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

from theory.derivation import Step
from theory.errors import InputError, positive_array, positive_integer
from theory.flow import mse_time
from theory.mse_gd_checks import close, is_zero
from theory.quadrature import FloatArray, scaled_integral
from theory.symbols import depth, eta, f, gamma, tau, u, w

_y = sp.Symbol("y", positive=True)  # weight over the minimiser's, in (0, 1)
_slope = sp.Symbol("g", positive=True)  # |ℓ′(0)|
_ELEMENTARY = (1, 2, 3, 4)
_FAR = 700.0  # the inverse is sought among outputs with |logit f| below this
_ROUNDS = 150  # every third halves the bracket of width 1400: 50 halvings bring it below 2e-12, Newton below rounding


@cache
def scaled_antiderivative(layers: int) -> sp.Expr:
    """Antiderivative of 1/(y^{L−1}(1 − y^L)) on 0 < y < 1, elementary.

    Args:
        layers: number of layers L, 1 to 4.

    Returns:
        Logarithms, powers and (L = 3) an arctangent in y, the weight over the minimiser's; dimensionless.

    Raises:
        InputError: another L.
    """
    if positive_integer("depth", layers) not in _ELEMENTARY:
        raise InputError("depth", layers, "1, 2, 3 or 4")
    raw = sp.integrate(sp.apart(1 / (_y ** (layers - 1) * (1 - _y**layers)), _y), _y)
    # SymPy writes ln(y − 1) and ln(y² − 1): real logarithms on 0 < y < 1 differ by a constant
    return raw.subs({sp.log(_y - 1): sp.log(1 - _y), sp.log(_y**2 - 1): sp.log(1 - _y**2)})


def elementary_time(layers: int) -> sp.Expr:
    """τ(f) of the balanced MSE flow from f = 0, without special functions.

    Args:
        layers: number of layers L, 1 to 4; an :class:`theory.errors.InputError` for any other.

    Returns:
        τ = ηt/γ in f and gamma; t(f) is γ/η times it.
    """
    primitive, one_plus = scaled_antiderivative(layers), 1 + gamma
    root = sp.Rational(1, layers)
    here, start = ((at / one_plus) ** root for at in (1 + gamma * f, sp.S.One))
    difference = primitive.subs(_y, here) - primitive.subs(_y, start)
    return gamma * one_plus ** (2 * root - 2) * difference


def plateau_weight(time: sp.Expr = tau, layers: sp.Expr = depth) -> sp.Expr:
    """The balanced weight while u ≪ γ, where the flow is dw/dτ = w^{L−1} and does not contain γ.

    Args:
        time: τ; |ℓ′(0)|τ for a loss whose slope at the start is not −1.
        layers: L, an integer or the symbol.

    Returns:
        w(τ); diverges at τ = 1/(L − 2) for L > 2.
    """
    number, gap = sp.sympify(layers), sp.sympify(layers) - 2
    if number == 2:
        return sp.exp(time)
    general = (1 - gap * time) ** (-1 / gap)
    return general if number.is_number else sp.Piecewise((sp.exp(time), sp.Eq(number, 2)), (general, True))


def collapse_curve(time: sp.Expr = tau, layers: sp.Expr = depth) -> sp.Expr:
    """F_∞(τ), the curve on which the raw outputs F − F₀ = γf of all large γ fall.

    Args:
        time: τ, in [0, 1/(L−2)) for L > 2.
        layers: L, an integer or the symbol.

    Returns:
        w^L − 1 with the plateau's w(τ).
    """
    return sp.piecewise_fold(plateau_weight(time, layers) ** layers - 1)


def collapse_correction(time: sp.Expr = tau, layers: sp.Expr = depth) -> sp.Expr:
    """F₁(τ) in F − F₀ = γf = F_∞(τ) + F₁(τ)/γ + O(γ⁻²), by inverting τ(w) to first order in 1/γ.

    Args:
        time: τ, in [0, 1/(L−2)) for L > 2.
        layers: L, an integer or the symbol.

    Returns:
        −L w^{2L−2}[(w² − 1)/2 − τ], MSE; F₁/F_∞ is between −F_∞/2 and −L F_∞/2 for L ≥ 2.
    """
    # τ(w) = ∫ q^{1−L}(1 + (q^L − 1)/γ) dq = T₀ + (1/γ)((w² − 1)/2 − T₀), hence F₁ = −(dF_∞/dτ)((w² − 1)/2 − τ)
    at = plateau_weight(time, layers)
    return sp.piecewise_fold(-layers * at ** (2 * layers - 2) * ((at**2 - 1) / 2 - time))


def plateau_exit() -> sp.Expr:
    """τ* at which the flow leaves the plateau, to leading order in large γ, for any loss.

    Returns:
        1/((L−2)g) for L > 2 and ln(γ)/(2g) plus a constant of order 1 for L = 2, with g = |ℓ′(0)|; for MSE g = 1 and
        the constant is ½ ln(f/(1−f)). NaN at L = 1, where there is no plateau.
    """
    return sp.Piecewise(
        (1 / ((depth - 2) * _slope), depth > 2), (sp.log(gamma) / (2 * _slope), sp.Eq(depth, 2)), (sp.nan, True)
    )


def lazy_output(time: sp.Expr = tau) -> sp.Expr:
    """f(τ) for small γ at fixed θ = Lτ/γ = Lηt/γ², up to an error of order γ².

    Args:
        time: τ = ηt/γ.

    Returns:
        1 − e^{−θ} + γ(2 − 2/L) e^{−θ}(θ − 1 + e^{−θ}), in γ and L.
    """
    theta = depth * time / gamma
    return 1 - sp.exp(-theta) + gamma * (2 - 2 / depth) * sp.exp(-theta) * (theta - 1 + sp.exp(-theta))


def output_at_time(*, tau: ArrayLike, gamma: ArrayLike, depth: int) -> FloatArray:
    """f(τ): output of the balanced MSE flow at a rescaled time, the inverse of ``rescaled_time``; vectorised.

    Tested for L in 1..8, γ in 1e-6..1e6 and outputs in (1e-6, 1 − 1e-6): both round trips close to 1e-9 relative. For
    L > 2 and large γ the output is ill-conditioned in τ near the plateau's end, by a factor up to about γ^{1−2/L}.

    Args:
        tau: τ = ηt/γ, positive, any shape.
        gamma: feature-learning strength, positive; broadcasts against ``tau``.
        depth: number of layers L.

    Returns:
        f, float64, in the broadcast shape; it rounds to 1 when 1 − f is below 1e-16.

    Raises:
        InputError: τ or γ not positive and finite, a depth that is not an integer >= 1, or shapes that do not fit.
    """
    times, strengths = positive_array("tau", tau), positive_array("gamma", gamma)
    layers = positive_integer("depth", depth)
    try:
        times, strengths = np.broadcast_arrays(times, strengths)
    except ValueError:
        raise InputError("tau", times.shape, f"of a shape that fits gamma's, {strengths.shape}") from None
    logit = _solve_logit(times.ravel(), strengths.ravel(), layers)
    return np.asarray(1.0 / (1.0 + np.exp(-logit))).reshape(times.shape)[()]


def _time_of_logit(logit: FloatArray, strength: FloatArray, layers: int) -> tuple[FloatArray, FloatArray]:
    # τ and dτ/d(logit f) = (γ/L) f (1+γf)^{2/L−2}; −ln(1−f) = ln(1 + e^logit) is exact at both ends
    output, one_plus = 1.0 / (1.0 + np.exp(-logit)), 1.0 + strength
    integral = scaled_integral(strength, output, np.logaddexp(0.0, logit), layers)
    power = 2.0 / layers - 1.0
    value = strength / one_plus * one_plus**power * integral / layers
    grown = 1.0 + strength * output
    return value, strength / layers * output / grown * grown**power


def _solve_logit(times: FloatArray, strength: FloatArray, layers: int) -> FloatArray:
    # Newton in (logit f, ln τ), where τ(f) is a straight line at small f; a halving when it leaves the bracket, and
    # at every third round, for the flat stretch between the plateau's end and f near 1
    low, high = np.full_like(times, -_FAR), np.full_like(times, _FAR)
    at = np.clip(np.log(layers * times / strength), -_FAR, 0.0)
    for turn in range(1, _ROUNDS + 1):
        value, slope = _time_of_logit(at, strength, layers)
        below = value < times
        low, high = np.where(below, at, low), np.where(below, high, at)
        step = np.log(times / value) * value / slope
        moved = at + step
        if (np.abs(step) <= 4e-16 * np.maximum(1.0, np.abs(at))).all():
            return moved
        halve = ~((moved >= low) & (moved <= high)) | ((turn % 3 == 0) & (np.abs(step) > 1e-6))
        moved = np.where(halve, 0.5 * (low + high), moved)
        if (moved == at).all():
            break
        at = moved
    return at


# --- checks


@mpmath.workdps(30)
def _elementary(claimed: sp.Basic) -> bool:
    # the tuple of τ(f) for L = 1…4, against the hypergeometric time and by quadrature of dτ = dw/(w^{L−1}(1 − f))
    for layers, form in enumerate(claimed, start=1):
        for rate, goal in ((sp.Rational(1, 3), sp.Rational(3, 4)), (sp.Integer(40), sp.Rational(7, 10))):
            strength = mpmath.mpf(rate)
            value = mpmath.mpf(form.subs({gamma: rate, f: goal}).evalf(30))
            reference = mse_time().subs(depth, layers).subs({gamma: rate, eta: rate, u: 1 + rate * goal})
            top = mpmath.root(1 + strength * goal.p / goal.q, layers)

            def slowness(q: mpmath.mpf, g: mpmath.mpf = strength, n: int = layers) -> mpmath.mpf:
                return q ** (1 - n) / (1 - (q**n - 1) / g)

            by_quadrature = mpmath.quad(slowness, mpmath.linspace(1, top, 4))
            if not close(value, by_quadrature) or not close(value, mpmath.mpf(sp.re(reference.evalf(30)).evalf(30))):
                return False
    return True


def _in_powers(expression: sp.Expr) -> sp.Expr:
    # the branch L ≠ 2 in powers of w: 1 − (L−2)τ = w^{2−L}, with w a positive number
    placed = expression.subs(1 - tau * (depth - 2), w ** (2 - depth)).subs(tau, (1 - w ** (2 - depth)) / (depth - 2))
    tidy = placed.replace(lambda part: part.is_Pow and part.base == w, lambda part: w ** sp.cancel(part.exp))
    return sp.powsimp(sp.expand(tidy, power_exp=False))


def _leading(claimed: sp.Basic) -> bool:
    # dF/dτ = L(1 + F)^{2−2/L} from F = 0, symbolic L; and L = 2
    grown = plateau_weight().args[-1][0]
    rate = sp.diff(claimed.args[-1][0], tau) - depth * grown ** (2 * depth - 2)
    two = claimed.subs(depth, 2)
    return bool(
        is_zero(_in_powers(rate)) and claimed.args[-1][0].subs(tau, 0) == 0
        and is_zero(sp.diff(two, tau) - 2 * (1 + two)) and two.subs(tau, 0) == 0
    )  # fmt: skip


def _correction(claimed: sp.Basic) -> bool:
    # F₁′ = (2L−2)(1+F)^{1−2/L} F₁ − L(1+F)^{2−2/L} F at F = F_∞: the flow linearised in 1/γ; symbolic L, and L = 2
    for form, grown, layers in (
        (claimed.args[-1][0], plateau_weight().args[-1][0], depth),
        (claimed.subs(depth, 2), sp.exp(tau), sp.Integer(2)),
    ):
        driven = (2 * layers - 2) * grown ** (layers - 2) * form
        source = layers * grown ** (2 * layers - 2) * (grown**layers - 1)
        rest = sp.diff(form, tau) - driven + source
        if not is_zero(_in_powers(rest) if layers == depth else rest) or form.subs(tau, 0) != 0:
            return False
    return True


def _exit(claimed: sp.Basic) -> bool:
    # MSE, γ = 10^60: the exact times of f = 1/2 at L = 3 and 4 are τ* to γ^{−(1−2/L)}, and ½ ln γ at L = 2
    huge = sp.Integer(10) ** 60
    for layers in (2, 3, 4):
        exact = mpmath.mpf(elementary_time(layers).subs({gamma: huge, f: sp.S.Half}).evalf(40, maxn=400))
        stated = mpmath.mpf(claimed.subs(depth, layers).subs({gamma: huge, _slope: 1}).evalf(40))
        if not close(exact, stated, 1e-17):
            return False
    return True


def _lazy(claimed: sp.Basic) -> bool:
    # the residual of df/dτ = (L/γ)(1 + γf)^{2−2/L}(1 − f) vanishes at orders γ⁰ and γ¹, θ = Lτ/γ kept fixed
    theta, power = sp.Symbol("theta", positive=True), 2 - 2 / depth
    course = sp.expand(claimed.subs(tau, theta * gamma / depth))
    residual = sp.diff(course, theta) - (1 + gamma * course) ** power * (1 - course)
    orders = (residual.subs(gamma, 0), sp.diff(residual, gamma).subs(gamma, 0))
    return all(is_zero(order) for order in orders) and is_zero(course.subs(theta, 0))


def steps() -> tuple[Step, ...]:
    """The statements of this module, with their checks.

    Returns:
        The steps, unrun.
    """
    power = sp.Symbol("q", real=True)
    return (
        Step("Elementary flow times", "For one to four layers the flow time has no special function.",
             r"\tau(f),\ L = 1,\dots,4", sp.Tuple(*map(elementary_time, _ELEMENTARY)), _elementary,
             "20 digits against quadrature in w and against the hypergeometric form"),
        Step("Lemma: time to first order in 1/γ", "While f is small, 1/(1 − f) = 1 + f, and the time integrand in w is "
             "a sum of two powers.", r"\frac{d}{dw}\left[T_0 + \tfrac{1}{\gamma}(\tfrac{w^2-1}{2} - T_0)\right]",
             w**power + (w - w**power) / gamma,
             lambda claimed: is_zero(w**power * (1 + (w ** (1 - power) - 1) / gamma) - claimed),
             "with q = 1 − L, so that w^L = w^(1−q); reduced to zero for symbolic q"),
        Step("Collapse", "At large γ the raw outputs are one function of τ.", r"F_\infty(\tau)", collapse_curve(),
             _leading, "put into the flow without γ, symbolic L, and L = 2"),
        Step("First correction to the collapse", "The curves of finite γ deviate by a relative amount of order f.",
             r"F_1(\tau)", collapse_correction(), _correction, "put into the flow linearised in 1/γ, symbolic L"),
        Step("Plateau exit", "The plateau ends at a τ that does not depend on γ for L > 2, and on ln γ at L = 2.",
             r"\tau^*", plateau_exit(), _exit, "exact times of f = 1/2 at γ = 10^60, L = 2, 3, 4"),
        Step("Lazy limit", "At small γ the output relaxes exponentially at the rate Lη/γ².", r"f(\tau)", lazy_output(),
             _lazy, "put into the flow, orders γ⁰ and γ¹, symbolic L"),
    )  # fmt: skip
