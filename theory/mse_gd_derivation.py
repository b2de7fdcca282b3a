"""The derivation of the γ–η plane for MSE and gradient descent on L separate weights: statements, expressions, checks.

The expressions come from ``theory.sharpness``, ``theory.flow``, ``theory.mse_gd`` and ``theory.triangle``, the checks
from ``theory.mse_gd_checks``; neither looks at the other.
"""

from __future__ import annotations

from functools import partial

import mpmath
import sympy as sp

from theory import mse_gd_checks as checks
from theory.boundaries import Boundary, Regime
from theory.crisis import CrisisRatio, two_layer_crisis
from theory.derivation import Derivation, Step
from theory.flow import mse_time, product_velocity
from theory.losses import MSE
from theory.mse_gd import boundary, eta_crit_expr, eta_min_expr
from theory.sharpness import eigenvalues_at_start, hessian_eigenvalues, minimiser, sharpness_at_minimum
from theory.symbols import C, depth, eta, gamma, level, steps, x, z
from theory.triangle import leading_form, two_layer_form

_SOME_DEPTHS = (1, 2, 3, 5, 8)
_TRAINED = {"steps": 1000, "level": sp.Rational(9, 10)}
_FAR_RICH, _FAR_LAZY = sp.Integer(10) ** 60, sp.Integer(10) ** -12


def derivation() -> Derivation:
    """The derivation, unrun.

    Returns:
        All steps, in reading order.
    """
    steps_in_order = [*_hessian_steps(), *_crit_steps(), *_flow_steps(), *_min_steps(), *_apex_steps(), *_max_steps()]
    return Derivation("Scalar deep linear model, MSE, gradient descent", tuple(steps_in_order))


def _hessian_steps() -> list[Step]:
    along, across = hessian_eigenvalues(MSE)
    start_along, start_across = eigenvalues_at_start(MSE)
    explicit = "compared with the L×L Hessian of L explicit weights, L = 2…6"
    return [
        Step(
            "Hessian along the balanced line",
            "At w_1 = … = w_L = w, the vector (1,…,1) is an eigenvector of the Hessian.",
            r"\lambda_\parallel(w)", along, checks.eigenvalue_along, explicit,
        ),
        Step(
            "Hessian across the balanced line",
            "The other eigenvalue has multiplicity L − 1, on vectors whose entries add to zero.",
            r"\lambda_\perp(w)", across, checks.eigenvalue_across, explicit,
        ),
        Step(
            "Minimiser",
            "The loss is least, and zero, at one balanced weight.",
            r"w^*", minimiser(MSE), checks.is_minimiser,
            "loss put to zero for symbolic L, all L gradient entries for L = 2…6",
        ),
        Step(
            "Sharpness at the minimum",
            "At the minimum the Hessian has one eigenvalue that is not zero.",
            r"\lambda^*", sharpness_at_minimum(MSE), checks.gauss_newton,
            "compared with the squared norm of ∇f for symbolic L, and with the explicit Hessian, L = 2…6",
        ),
        Step(
            "Start, along",
            "At the start the curvature along (1,…,1) is negative for γ > L/(L−1): the start is a saddle.",
            r"\lambda_\parallel(1)", start_along, partial(checks.eigenvalue_along, weight=sp.S.One), explicit,
        ),
        Step(
            "Start, across",
            "At the start the curvature across (1,…,1) does not depend on L.",
            r"\lambda_\perp(1)", start_across, partial(checks.eigenvalue_across, weight=sp.S.One), explicit,
        ),
    ]  # fmt: skip


def _limit_step(edge: Boundary, regime: Regime, depths: tuple[int, ...], tolerance: float) -> Step:
    limit = edge.limit(regime)
    end = _FAR_LAZY if regime == "lazy" else _FAR_RICH
    short = edge.name.removeprefix("eta_")
    condition = "" if limit.condition is sp.true else f" ({limit.condition})"
    return Step(
        f"{edge.name}, {regime} limit",
        f"As gamma goes to {'0' if regime == 'lazy' else 'infinity'}, {edge.name} becomes a power of gamma{condition}.",
        rf"\eta_{{\mathrm{{{short}}}}}",
        limit.coefficient * gamma**limit.exponent,
        checks.power_law_at(edge.expr, end, depths, tolerance, **_TRAINED),
        f"compared with the exact expression at γ = 10^{sp.log(end, 10)}, L in {depths}",
    )


def _crit_steps() -> list[Step]:
    crit = boundary("eta_crit")
    return [
        Step(
            "eta_crit",
            "Gradient descent is linearly stable at the minimum below η = 2/λ*.",
            r"\eta_{\mathrm{crit}}", crit.expr, checks.map_multiplier,
            "derivative of one gradient step at w* is −1, for symbolic L",
        ),
        Step(
            "eta_crit, local exponent",
            "The logarithmic slope of eta_crit falls from 2 to 2/L around γ = 1.",
            r"\frac{d\ln\eta_{\mathrm{crit}}}{d\ln\gamma}", crit.local_exponent,
            checks.slope_of(crit.expr, _SOME_DEPTHS), "numerical derivative at three γ and five L",
        ),
        _limit_step(crit, "lazy", _SOME_DEPTHS, 1e-11),
        _limit_step(crit, "rich", _SOME_DEPTHS, 1e-20),
    ]  # fmt: skip


def _flow_steps() -> list[Step]:
    v, q, c = sp.symbols("v q c", positive=True)
    n = sp.Symbol("n", integer=True, nonnegative=True)
    return [
        Step(
            "Balanced flow",
            "Under gradient flow the product u of the weights obeys one equation.",
            r"\frac{du}{dt}", product_velocity(MSE), checks.product_rule, "product rule on L explicit weights, L = 1…6",
        ),
        Step(
            "Lemma: the antiderivative, term by term",
            "With q = 2/L − 1 and c = 1 + γ, the terms of the series of (v^q/q) ₂F₁(1, q; q+1; v/c) "
            "have derivatives that sum to v^(q−1)/(1 − v/c).",
            r"a_n(v)", v ** (q + n) / ((q + n) * c**n), checks.hypergeometric_term,
            "Pochhammer symbols reduced for symbolic q and n; the derivatives are a geometric series",
        ),
        Step(
            "Flow time",
            "The time to reach u is closed: a hypergeometric function, elementary at L = 1 and L = 2.",
            r"t(u)", mse_time(), checks.flow_quadrature, "quadrature of 1/(dw/dt) to 20 digits, L = 1, 2, 3, 4, 5, 8",
        ),
    ]  # fmt: skip


def _lemmas_of_the_integral() -> list[Step]:
    m = sp.Symbol("m", real=True)
    rest = (sp.exp(m * x) - 1) / (sp.exp(x) - 1)
    return [
        Step(
            "Lemma: three parts of the time integral",
            "With v = (1+γ)e^(−x) and m = 1 − 2/L, the integrand v^(2/L−2)/(1+γ−v) dv becomes, up to a power of 1 + γ, "
            "a sum of three terms.",
            r"\frac{e^{(1+m)x}}{e^x - 1}", 1 / (sp.exp(x) - 1) + sp.exp(m * x) + rest,
            checks.equals(sp.exp((1 + m) * x) / (sp.exp(x) - 1)), "reduced to zero for symbolic m",
        ),
        Step(
            "Lemma: the third part is bounded",
            "It lies below e^(−(1−m)x), by an amount that is not negative for m < 1; so only ∫e^(mx)dx grows with γ.",
            r"e^{-(1-m)x} - \frac{e^{mx} - 1}{e^x - 1}", (1 - sp.exp((m - 1) * x)) / (sp.exp(x) - 1),
            checks.equals(sp.exp((m - 1) * x) - rest), "reduced to zero for symbolic m",
        ),
    ]  # fmt: skip


def _min_steps() -> list[Step]:
    low = boundary("eta_min")
    return [
        *_lemmas_of_the_integral(),
        Step(
            "eta_min",
            "The flow reaches level·L₀, that is f = 1 − √level, at step T.",
            r"\eta_{\mathrm{min}}", low.expr, checks.level_reached,
            "time spent by the flow at this η, by quadrature in f, is T to 20 digits",
        ),
        Step(
            "eta_min, local exponent",
            "Differentiating the integral at its limits gives the logarithmic slope of eta_min.",
            r"\frac{d\ln\eta_{\mathrm{min}}}{d\ln\gamma}", low.local_exponent,
            checks.slope_of(low.expr, _SOME_DEPTHS, **_TRAINED), "numerical derivative at three γ and five L",
        ),
        _limit_step(low, "lazy", _SOME_DEPTHS, 1e-11),
        # at γ = 10^60 the bounded parts of the integral are γ^−(1−2/L) of the growing one: 10^-20 at L = 3
        _limit_step(low, "rich", (3, 4, 5, 8), 1e-17),
        Step(
            "eta_min, rich limit at L = 2",
            "At two layers there is no pure power: a logarithm of γ stays.",
            r"\eta_{\mathrm{min}}", low.limit("rich", 2).coefficient * gamma,
            checks.power_law_at(low.expr, _FAR_RICH, (2,), 1e-20, **_TRAINED),
            "compared with the exact expression at γ = 10^60",
        ),
    ]  # fmt: skip


@mpmath.workdps(30)
def _closes(budget: int, depths: tuple[int, ...], tolerance: float, claimed: sp.Expr) -> bool:
    # eta_min = eta_crit at the claimed γ, to `tolerance`, for this T
    for layers in depths:
        place = claimed.subs(depth, layers).subs({steps: budget, level: sp.Rational(9, 10)})
        values = {"gamma": sp.Rational(str(sp.N(place, 60))), "depth": layers, "steps": budget, "level": "9/10"}
        if not checks.close(checks.at(eta_min_expr(), **values), checks.at(eta_crit_expr(), **values), tolerance):
            return False
    return True


def _apex_steps() -> list[Step]:
    return [
        Step(
            "Apex at L = 2",
            "eta_min and eta_crit meet at one γ, exponentially far out.",
            r"\gamma_{\mathrm{max}}", two_layer_form(), partial(_closes, 9, (2,), 1e-20),
            "eta_min = eta_crit there to 20 digits, T = 9",
        ),
        Step(
            "Apex for L > 2",
            "For large T, eta_min and eta_crit meet at a power of T.",
            r"\gamma_{\mathrm{max}}", leading_form(), partial(_closes, 10**25, (3, 4, 5, 8), 1e-20),
            "eta_min = eta_crit there at T = 10^25, L = 3, 4, 5, 8",
        ),
    ]  # fmt: skip


def _max_steps() -> list[Step]:
    left, right = two_layer_crisis()
    (solution,) = sp.solve(sp.Eq(left, right), C)
    return [
        Step(
            "One map for every γ",
            "In units of the minimiser, gradient descent depends on γ through its start only; C = (2/L) η/eta_crit.",
            r"z'", z - C * z ** (depth - 1) * (z**depth - 1), checks.map_of_z,
            "one gradient step in w, rescaled, for symbolic L",
        ),
        Step(
            "Crisis at L = 2",
            "At two layers the critical value meets the edge of the trapping interval at C = 2: eta_max = 2 eta_crit.",
            r"r(2)", solution, lambda claimed: checks.is_zero((4 * (1 + C) ** 3 - 27 * (2 + C)).subs(C, claimed)),
            "root of 4(1+C)³ = 27(2+C)",
        ),
        Step(
            "Crisis for every L",
            "Below eta_max = r(L) eta_crit no iterate escapes; above it some do.",
            r"\frac{\eta_{\mathrm{max}}}{\eta_{\mathrm{crit}}}", CrisisRatio(depth), checks.escape_by_iteration,
            "1000 starts iterated 200 times, 1 % below and 3 % above, L = 2…6",
        ),
        Step(
            "eta_max",
            "Divergence begins at a fixed multiple of eta_crit.",
            r"\eta_{\mathrm{max}}", boundary("eta_max").expr,
            lambda claimed: checks.escape_by_iteration(sp.simplify(claimed * sharpness_at_minimum(MSE) / 2)),
            "the multiple ηλ*/2 of the stability edge, iterated as in the step before",
        ),
        Step(
            "Imbalance",
            "Flow conserves w_1² − w_2²; one gradient step changes it by a term of second order in η.",
            r"\Delta(w_1^2 - w_2^2)", _imbalance_change(), _imbalance_check, "explicit step of L weights, L = 2…5",
        ),
    ]  # fmt: skip


def _imbalance_change() -> sp.Expr:
    first, second, product, slope = sp.symbols("w_1 w_2 P g")
    steps_of_two = [weight - eta * slope * product / (gamma * weight) for weight in (first, second)]
    return sp.factor(sp.expand(steps_of_two[0] ** 2 - steps_of_two[1] ** 2 - first**2 + second**2))


def _imbalance_check(claimed: sp.Expr) -> bool:
    first, second, product, slope = sp.symbols("w_1 w_2 P g")
    for layers in range(2, 6):
        names = [first, second, *sp.symbols(f"w_3:{layers + 1}")]
        placed = {name: sp.Rational(k + 2, k + 1) for k, name in enumerate(names)}  # unbalanced
        network = (sp.prod(names) - 1) / gamma
        residual = (network - 1).subs(placed)  # ℓ′ of MSE
        after = [weight - eta * residual * sp.diff(network, name).subs(placed) for name, weight in placed.items()]
        change = after[0] ** 2 - after[1] ** 2 - placed[first] ** 2 + placed[second] ** 2
        values = {**placed, product: sp.prod(placed.values()), slope: residual}
        if not checks.is_zero(change - claimed.subs(values)):
            return False
    return True
