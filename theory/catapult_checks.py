"""The steps of ``theory.catapult`` and their checks.

Oracles: gradient descent on two explicit components of u and v, the Jacobian of the (f, λ) map, exact rational
iteration, and the differential equation and stationarity conditions themselves.
"""

from __future__ import annotations

import numpy as np
import sympy as sp

from theory import catapult
from theory.catapult import drift, excess, kernel_symbol, overlap_symbol, scaled_kernel, scaled_residual, width
from theory.derivation import Step
from theory.symbols import eta, f, gamma

_COMPONENTS = 2
_correlation = sp.Symbol("rho", positive=True)


def _explicit_next() -> tuple[sp.Expr, sp.Expr, dict[sp.Symbol, sp.Expr]]:
    # f and λ after one step on explicit weights, and f, λ, κ, n before it, in the weights
    now_u, now_v, first_u, first_v = (
        sp.Matrix(sp.symbols(f"{name}1:{_COMPONENTS + 1}", real=True)) for name in ("u", "v", "a", "b")
    )

    def output(left: sp.Matrix, right: sp.Matrix) -> sp.Expr:
        return (left.dot(right) - first_u.dot(first_v)) / (gamma * _COMPONENTS)

    loss = (output(now_u, now_v) - 1) ** 2 / 2
    moved = [now - eta * _COMPONENTS * sp.Matrix([sp.diff(loss, entry) for entry in now]) for now in (now_u, now_v)]
    kernels = [
        (left.dot(left) + right.dot(right)) / (_COMPONENTS * gamma**2) for left, right in ((now_u, now_v), moved)
    ]
    before = {
        f: output(now_u, now_v), kernel_symbol: kernels[0],
        overlap_symbol: first_u.dot(first_v) / _COMPONENTS, width: sp.Integer(_COMPONENTS),
    }  # fmt: skip
    return output(*moved), kernels[1], before


def _map_agrees(claimed: sp.Basic, which: int) -> bool:
    *after, before = _explicit_next()
    return bool(sp.expand(claimed.subs(before) - after[which]) == 0)


def _in_closed_map(claimed: sp.Basic, which: int) -> bool:
    # c and k are η(f−1)/γ and ηλ before and after a step of the (f, λ) map
    c, k, e = scaled_residual, scaled_kernel, drift
    output, kernel = catapult.closed_map()
    after = (eta * (output - 1) / gamma, eta * kernel)[which]
    old = {c: eta * (f - 1) / gamma, k: eta * kernel_symbol, e: eta / gamma * (1 + overlap_symbol / gamma)}
    return bool(sp.expand(claimed.subs(old, simultaneous=True) - after) == 0)


def _multiplies_cone(claimed: sp.Basic) -> bool:
    # (k/2)² − (c+ε)², before and after a step
    def cone(c: sp.Expr, k: sp.Expr) -> sp.Expr:
        return (k / 2) ** 2 - (c + drift) ** 2

    after = cone(*catapult.reduced_map())
    return bool(sp.expand(after - claimed * cone(scaled_residual, scaled_kernel)) == 0)


def _jacobian_multiplier(claimed: sp.Basic) -> bool:
    # eigenvalues of the (f, λ) map's Jacobian at the minimum f = 1: one is 1 (along the minima), the other is claimed
    jacobian = sp.Matrix(catapult.closed_map()).jacobian([f, kernel_symbol]).subs(f, 1)
    at = claimed.subs(scaled_kernel, eta * kernel_symbol)
    return bool(sp.expand(jacobian.det() - at) == 0 and sp.expand(jacobian.trace() - 1 - at) == 0)


def _lower_threshold(claimed: sp.Basic) -> bool:
    # the multiplier of r at γ → 0, where λ does not move at first order, has size 1 there
    output, _ = catapult.closed_map()
    multiplier = sp.limit(sp.diff(output.subs(overlap_symbol, 0), f).subs(eta, claimed / kernel_symbol)
                          .subs({f: 0, kernel_symbol: 2 / gamma**2}), gamma, 0)  # fmt: skip
    return bool(multiplier == -1)


def _peaks(starts: np.ndarray, k0: float, count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    # largest k seen and largest c² of the weights' own step, in p = |u+v|², m = |u−v|² scaled so that ε = 0
    plus, minus = (k0 / 2 + starts) / 2, (k0 / 2 - starts) / 2
    highest_k, highest_q = np.full_like(starts, k0), starts**2
    for _ in range(count):
        c = plus - minus
        if np.abs(c).max() > 1e3:
            return np.full_like(starts, np.inf), np.full_like(starts, np.inf)
        plus, minus = (1 - c) ** 2 * plus, (1 + c) ** 2 * minus
        highest_k = np.maximum(highest_k, 2 * (plus + minus))
        highest_q = np.maximum(highest_q, (plus - minus) ** 2)
    return highest_k, highest_q


def _upper_threshold(claimed: sp.Basic) -> bool:
    # just below, k never exceeds its start; just above, the run escapes
    starts = 1e-3 * np.linspace(1, 3, 8)
    below, above = (_peaks(starts, float(claimed) + shift)[0] for shift in (-0.02, 0.02))
    return bool(np.all(below <= float(claimed)) and np.all(np.isinf(above)))


def _floor_solves_ode(claimed: sp.Basic) -> bool:
    # the floor is where q' = x − q turns, along dq/d(−k): q(x) = x there, and q = 0 at x = δ (x = k − 2)
    x = sp.Symbol("x", positive=True)
    q = sp.Function("q")
    solution = sp.dsolve(sp.Eq(-q(x).diff(x), x - q(x)), q(x), ics={q(excess): 0}).rhs
    return bool(sp.simplify(solution.subs(x, claimed) - claimed) == 0 and claimed.subs(excess, 1) > 0)


def _floor_is_tight(claimed: sp.Basic) -> bool:
    # at δ = 0.02 measured peaks lie just above δ − ln(1+δ): by a part that falls like δ
    delta = 0.02
    _, peaks = _peaks(1e-4 * (1 + delta) ** -(np.arange(16) / 16), 2 + delta, 600)
    ratio = peaks / float(claimed.subs(excess, delta))
    return bool(np.all(ratio > 1) and np.all(ratio < 1.045))


def _ceiling_is_maximum(claimed: sp.Basic) -> bool:
    # c² after one step from any c² = q: the stationary value of q(k−1−q)² other than 0, at k = 2 + δ
    q = sp.Symbol("q", positive=True)
    after = catapult.reduced_map()[0].subs({drift: 0, scaled_kernel: 2 + excess, scaled_residual: sp.sqrt(q)}) ** 2
    values = [sp.simplify(after.subs(q, root) - claimed) for root in sp.solve(sp.diff(after, q), q)]
    return any(value == 0 for value in values)


def _flattest_minimum(claimed: sp.Basic) -> bool:
    # least λ over (x, y) with x y = γ + κ, where n = 1
    x = sp.Symbol("x", positive=True)
    total = gamma + sp.Symbol("kappa_+", positive=True)
    (place,) = [root for root in sp.solve(sp.diff(x**2 + (total / x) ** 2, x), x) if root.is_positive]
    least = ((x**2 + (total / x) ** 2) / gamma**2).subs(x, place)
    positive = claimed.subs(overlap_symbol, total - gamma)
    return bool(sp.simplify(least - positive) == 0)


def _correlation_bound(claimed: sp.Basic) -> bool:
    # at the claimed ηλ₀ the flattest minimum of a start with |u₀|² = |v₀|² = n sits on the edge ηλ = 2, as γ → 0
    rate = claimed * gamma**2 / 2  # λ₀ = 2/γ²
    return bool(sp.limit(rate * 2 * (gamma + _correlation) / gamma**2, gamma, 0) == 2)


def _final_kernel(claimed: sp.Basic) -> bool:
    # runs in |u±v|² from sixteen phases: the distance falls like δ²
    good = []
    for delta in (0.04, 0.02):
        starts = 1e-4 * (1 + delta) ** -(np.arange(16) / 16)
        plus, minus = (2 + delta) / 4 + starts / 2, (2 + delta) / 4 - starts / 2
        for _ in range(1000):
            c = plus - minus
            plus, minus = (1 - c) ** 2 * plus, (1 + c) ** 2 * minus
        good.append(bool(np.all(np.abs(2 * (plus + minus) - float(claimed.subs(excess, delta))) < delta**2)))
    return all(good)


def catapult_steps() -> tuple[Step, ...]:
    """The steps of the catapult, in reading order.

    Returns:
        The steps, unrun.
    """
    output, kernel = catapult.closed_map()
    return (
        Step("Catapult: output", "The next output is a function of f and the kernel, whatever the width.",
             r"f_{t+1}", output, lambda claimed: _map_agrees(claimed, 0), "one step on explicit weights"),
        Step("Catapult: kernel", "So is the next kernel.",
             r"\lambda_{t+1}", kernel, lambda claimed: _map_agrees(claimed, 1), "one step on explicit weights"),
        *_reduced_steps(),
        *_bound_steps(),
    )  # fmt: skip


def _reduced_steps() -> list[Step]:
    c, k = scaled_residual, scaled_kernel
    residual, kernel = catapult.reduced_map()
    return [
        Step("Catapult: one parameter", "In c = η(f−1)/γ and k = ηλ the map has the one parameter ε = (η/γ)(1+κ/γ).",
             r"c_{t+1}", residual, lambda claimed: _in_closed_map(claimed, 0), "change of variables in the (f, λ) map"),
        Step("Catapult: one parameter, kernel", "At ε = 0 the kernel only falls below k = 4 and only grows above it.",
             r"k_{t+1}", kernel, lambda claimed: _in_closed_map(claimed, 1), "change of variables in the (f, λ) map"),
        Step("Catapult: cone", "|c+ε| ≤ k/2 is kept: (k/2)² − (c+ε)² is multiplied by a square.",
             r"\frac{(k/2)^2-(c+\epsilon)^2|_{t+1}}{(k/2)^2-(c+\epsilon)^2|_t}", (1 - c**2) ** 2, _multiplies_cone,
             "both sides expanded with the one-parameter map"),
        Step("Catapult: multiplier at a minimum", "A minimum with ηλ = k multiplies small residuals by 1 − k.",
             r"\mu", 1 - k, _jacobian_multiplier, "trace and determinant of the (f, λ) map's Jacobian at f = 1"),
        Step("Catapult: lower threshold", "For γ ≪ 1 the loss falls monotonically below this ηλ₀.",
             r"\eta\lambda_0", sp.Integer(2), _lower_threshold, "derivative of the map at the start, γ → 0"),
        Step("Catapult: upper threshold", "For γ ≪ 1 and κ = 0 runs above this ηλ₀ diverge, runs below stay bounded.",
             r"\eta\lambda_0", sp.Integer(4), _upper_threshold, "runs on either side of it, in |u±v|²"),
    ]  # fmt: skip


def _bound_steps() -> list[Step]:
    floor, ceiling = catapult.peak_bounds()
    return [
        Step("Catapult: floor of the peak", "With δ = ηλ₀ − 2 the peak is at least this, at ε = 0.",
             r"\min\max_t c^2", floor, _floor_solves_ode, "turning point of the differential equation, solved anew"),
        Step("Catapult: floor is attained", "For small δ the peak is the floor to leading order.",
             r"\max_t c^2", floor, _floor_is_tight, "runs at δ = 0.02, sixteen phases: ratio between 1 and 1.045"),
        Step("Catapult: ceiling of the peak", "The peak is at most this, at ε = 0.",
             r"\max\max_t c^2", ceiling, _ceiling_is_maximum, "stationary value of one step of the map"),
        Step("Catapult: final kernel near the threshold", "For small δ it ends as far below 2 as it began above.",
             r"\eta\lambda_\infty", 2 - excess, _final_kernel,
             "runs at δ = 0.04 and 0.02, sixteen phases: they agree within δ²"),
        Step("Catapult: flattest minimum", "No minimum has a smaller kernel; exact at every γ, for γ + κ > 0.",
             r"\lambda_{\min}", 2 * (gamma + overlap_symbol) / gamma**2, _flattest_minimum,
             "least |u|² + |v|² at given u·v, one component"),
        Step("Catapult: correlated start", "With correlation ρ no stable minimum is left above this ηλ₀, as γ → 0.",
             r"\eta\lambda_0", 2 / _correlation, _correlation_bound, "limit of ηλ at the flattest minimum"),
    ]  # fmt: skip
