"""The derivation of the γ–η plane for a convex loss and gradient descent: statements, expressions, checks.

The expressions come from ``theory.sharpness`` and ``theory.general_loss``, the checks from ``theory.general_checks``;
neither looks at the other.
"""

from __future__ import annotations

from functools import partial

import mpmath
import sympy as sp

from theory import general_checks as checks
from theory.boundaries import Boundary, Regime
from theory.derivation import Derivation, Step
from theory.general_loss import boundary
from theory.losses import CROSS_ENTROPY, Loss
from theory.scaling import Scaling
from theory.sharpness import (
    eigenvalues_at_start,
    minimiser,
    saddle_gamma,
    sharpening_ratio,
    sharpness_at_minimum,
    spectrum,
)
from theory.symbols import depth, eta, f, gamma, init_scale, target, w

_EXPLICIT = "compared with the L×L Hessian of L explicit weights, L = 2…8"


def derivation(loss: Loss) -> Derivation:
    """The derivation, unrun.

    Args:
        loss: a convex loss with its minimum at 1.

    Returns:
        All steps, in reading order.
    """
    steps_in_order = [*loss_steps(loss), *_crit_steps(loss), *_min_steps(loss), *_max_steps(loss), scaling_step()]
    name = "convex loss given by the user" if loss.name == "user" else loss.name
    return Derivation(f"Scalar deep linear model, {name}, gradient descent", tuple(steps_in_order))


def loss_steps(loss: Loss) -> list[Step]:
    """The loss and the Hessian on the balanced line.

    Args:
        loss: a convex loss with its minimum at 1.

    Returns:
        Steps up to the sharpness at the minimum.
    """
    along, across = spectrum(loss)
    start_along, start_across = eigenvalues_at_start(loss)
    midway = lambda strength, layers: sp.Rational(6, 5)  # noqa: E731
    start = lambda strength, layers: sp.S.One  # noqa: E731
    end = lambda strength, layers: (1 + strength) ** sp.Rational(1, layers)  # noqa: E731
    return [
        Step(
            "Curvature of the loss", "At its minimum, f = 1, the loss is quadratic with curvature κ.",
            r"\kappa", loss.curvature_at_minimum, partial(_is_curvature, loss), "second difference of ℓ at f = 1",
        ),
        Step(
            "Hessian along the balanced line",
            "At w_1 = … = w_L = w, the vector (1,…,1) is an eigenvector of the Hessian.",
            r"\lambda_\parallel(w)", along, partial(checks.spectrum_check, loss, 0, midway), _EXPLICIT,
        ),
        Step(
            "Hessian across the balanced line",
            "The other eigenvalue has multiplicity L − 1: with the one along, that is the whole spectrum.",
            r"\lambda_\perp(w)", across, partial(checks.spectrum_check, loss, 1, midway), _EXPLICIT,
        ),
        Step(
            "Minimiser", "The loss is least at one balanced weight.",
            r"w^*", minimiser(loss), partial(_is_minimiser, loss), "ℓ′ = 0 there, for symbolic L",
        ),
        Step(
            "Sharpness at the minimum", "At the minimum the Hessian has one eigenvalue that is not zero.",
            r"\lambda^*", sharpness_at_minimum(loss), partial(checks.spectrum_check, loss, 0, end), _EXPLICIT,
        ),
        Step(
            "Start, along", "At the start the curvature along (1,…,1) is negative for large γ: the start is a saddle.",
            r"\lambda_\parallel(1)", start_along, partial(checks.spectrum_check, loss, 0, start), _EXPLICIT,
        ),
        Step(
            "Start, across", "At the start the curvature across (1,…,1) does not depend on L.",
            r"\lambda_\perp(1)", start_across, partial(checks.spectrum_check, loss, 1, start), _EXPLICIT,
        ),
        Step(
            "From bowl to saddle", "The eigenvalue along (1,…,1) at the start changes sign at one γ.",
            r"\gamma_{\mathrm{saddle}}", saddle_gamma(loss), partial(_is_saddle, loss),
            "the explicit Hessian just below and above it, L = 2, 3, 6",
        ),
        Step(
            "Progressive sharpening", "From a rich start to the minimum the sharpness grows by this factor.",
            r"\lambda^*/\lambda_\perp(1)", sharpening_ratio(loss)[1], partial(_is_sharpening, loss),
            "quotient of eigenvalues of the explicit Hessian, L = 2, 3, 6",
        ),
    ]  # fmt: skip


@mpmath.workdps(40)
def _is_curvature(loss: Loss, claimed: sp.Expr) -> bool:
    energy, h = sp.lambdify(f, loss.excess, "mpmath"), mpmath.mpf(10) ** -8
    second = (energy(1 + h) - 2 * energy(mpmath.mpf(1)) + energy(1 - h)) / h**2
    return checks.close(mpmath.mpf(sp.N(claimed, 30)), second, 1e-13)


def _is_minimiser(loss: Loss, claimed: sp.Expr) -> bool:
    output = sp.simplify((claimed**depth - 1) / gamma)
    return bool(abs(sp.N(loss.slope.subs(f, output), 30)) < 1e-25) and bool(sp.N(loss.curvature.subs(f, output)) > 0)


def _is_saddle(loss: Loss, claimed: sp.Expr) -> bool:
    for layers in (2, 3, 6):
        place = sp.Rational(str(sp.N(claimed.subs(depth, layers), 15)))
        signs = [checks.explicit_spectrum(loss, layers, place * side, sp.S.One)[0] for side in (0.999, 1.001)]
        if not signs[0] > 0 > signs[1]:
            return False
    return True


@mpmath.workdps(30)
def _is_sharpening(loss: Loss, claimed: sp.Expr) -> bool:
    for layers in (2, 3, 6):
        strength = sp.Integer(5)
        final = checks.explicit_spectrum(loss, layers, strength, 6 ** sp.Rational(1, layers))[0]
        first = checks.explicit_spectrum(loss, layers, strength, sp.S.One)[1]
        if not checks.close(checks.value(claimed, strength=strength, layers=layers), final / first):
            return False
    return True


def _expanded(edge: Boundary, regime: Regime, layers: int | None = None) -> sp.Expr:
    limit = edge.limit(regime, layers)
    return limit.coefficient * gamma**limit.exponent * (1 + (limit.correction or 0))


def _expression_far_out(edge: Boundary, end: sp.Expr, claimed: sp.Expr) -> bool:
    # the neglected term is of second order in the small quantity, 10^-12
    with mpmath.workdps(40):
        pairs = [
            [checks.value(part, strength=end, layers=layers) for part in (claimed, edge.expr)] for layers in range(1, 9)
        ]
        return all(checks.close(first, second, 1e-22) for first, second in pairs)


def _crit_steps(loss: Loss) -> list[Step]:
    crit = boundary(loss, "eta_crit")
    near, far = sp.Rational(1, 10**12), sp.Integer(10) ** 12
    label = r"\eta_{\mathrm{crit}}"
    return [
        Step(
            "eta_crit", "Gradient descent is linearly stable at the minimum below η = 2/λ*.",
            label, crit.expr, partial(checks.map_multiplier, loss),
            "derivative of one gradient step at w* is −1, by central difference, L = 1…8",
        ),
        Step(
            "eta_crit, lazy limit", "As gamma goes to 0, with the first correction.",
            label, _expanded(crit, "lazy"), partial(_expression_far_out, crit, near), "exact expression at γ = 10^−12",
        ),
        Step(
            "eta_crit, rich limit", "As gamma goes to infinity, with the first correction.",
            label, _expanded(crit, "rich"), partial(_expression_far_out, crit, far), "exact expression at γ = 10^12",
        ),
    ]  # fmt: skip


def _min_steps(loss: Loss) -> list[Step]:
    low = boundary(loss, "eta_min")
    label = r"\eta_{\mathrm{min}}"
    small, large = sp.Rational(1, 10**6), sp.Integer(10) ** 9
    return [
        Step(
            "eta_min", "The flow reaches level·ℓ(0) at step T; there is no closed form, the integral is exact.",
            label, low.expr, partial(checks.level_reached, loss),
            "time spent by the flow at this η, by quadrature of 1/(dw/dt) in the weight, L = 1, 2, 3, 5",
        ),
        Step(
            "eta_min, lazy expansion", "As gamma goes to 0, with the first correction; the error is of order γ².",
            label, _expanded(low, "lazy"), partial(checks.expansion_check, loss, small, (1, 2, 3, 5), 1e-11),
            "flow time at γ = 10^−6",
        ),
        Step(
            "eta_min, rich expansion",
            "As gamma goes to infinity, L > 2, with the first correction; the error is of order 1/γ.",
            label, _expanded(low, "rich"), partial(checks.expansion_check, loss, large, (3, 4, 5, 8), 1e-7),
            "flow time at γ = 10^9; leaving the correction out would miss by 10^−3 at L = 3",
        ),
        Step(
            "eta_min, rich limit at L = 2", "At two layers a logarithm of γ stays; the error is of order ln γ/γ.",
            label, _expanded(low, "rich", 2), partial(checks.expansion_check, loss, large, (2,), 1e-7),
            "flow time at γ = 10^9",
        ),
    ]  # fmt: skip


def _max_steps(loss: Loss) -> list[Step]:
    high, label = boundary(loss, "eta_max"), r"\eta_{\mathrm{max}}"
    found = [
        Step(
            "eta_max", "The crisis of the map: below it no iterate escapes, above it some do. Numeric only.",
            label, high.expr, partial(checks.escape_check, loss),
            "1000 starts iterated 200 times, 1 % below and 3 % above, L = 2…6, γ = 0.01, 2, 300",
        ),
        Step(
            "eta_max, rich limit", "In units of γ^(1/L) the map loses γ; the coefficient is a number for each L.",
            label, _expanded(high, "rich"), partial(_close_to_escape, loss, 1e7), "the crisis at γ = 10^7, L = 2…6",
        ),
    ]  # fmt: skip
    if loss == CROSS_ENTROPY:
        found.append(
            Step(
                "eta_max, lazy limit", "The residual is bounded, so nothing diverges before η ~ γ.",
                label, _expanded(high, "lazy"), partial(_close_to_escape, loss, 1e-7),
                "the crisis at γ = 10^−7, L = 2…6",
            )
        )  # fmt: skip
    return found


def _close_to_escape(loss: Loss, strength: float, claimed: sp.Expr) -> bool:
    import numpy as np

    from theory.escape import escape_rate

    for layers in range(2, 7):
        exact = float(escape_rate(loss, np.array([strength]), layers)[0])
        if abs(float(claimed.subs(depth, layers).subs(gamma, strength).evalf()) / exact - 1) > 1e-5:
            return False
    return True


def scaling_step() -> Step:
    """The scaling symmetry in target, initial weight and γ.

    Returns:
        The step; its expression is η(γ)/η̃(γ̃) times γ̃/γ, the two factors of the map together.
    """
    scaling = Scaling(target, init_scale)
    return Step(
        "Scaling symmetry",
        "A target y and an initial weight w₀ are the default model at (γ̃, η̃) with the loss ℓ(ys)/y².",
        r"(\tilde\gamma,\ \tilde\eta)",
        sp.Tuple(gamma * scaling.strength, eta / scaling.rate),
        _maps_the_step,
        "one gradient step for an unspecified ℓ, in both units, for symbolic L",
    )


def _maps_the_step(claimed: sp.Basic) -> bool:
    strength, rate = claimed.args
    pull = sp.Function("dell")  # ℓ′
    weight = init_scale * w
    after = (weight - eta / gamma * weight ** (depth - 1) * pull((weight**depth - init_scale**depth) / gamma)) / w
    inner = (w**depth - 1) / strength
    expected = init_scale * (w - rate / strength * w ** (depth - 1) * pull(target * inner) / target) / w
    # the arguments of ℓ′ first, then its factors
    calls = [next(iter(side.atoms(sp.core.function.AppliedUndef))) for side in (after, expected)]
    if sp.simplify(sp.powsimp(sp.expand(sp.expand_power_base(calls[0].args[0] - calls[1].args[0])))) != 0:
        return False
    mark = sp.Symbol("mark")
    both = [
        sp.expand_power_base(sp.expand(side.subs(call, mark)))
        for side, call in zip((after, expected), calls, strict=True)
    ]
    return bool(sp.simplify(sp.powsimp(sp.expand(both[0] - both[1]))) == 0)
