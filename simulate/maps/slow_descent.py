"""Runs too slow to be iterated: descent followed through the time of its gradient flow, with certified bounds.

On the balanced line gradient descent is Euler's method, w ← w + η g(w), for the flow dw/dθ = g(w), θ = ηn, with
g(w) = −w^{L−1} ℓ′(f)/γ, and the heavy ball is w_{n+1} − w_n = d_n, d_n = β d_{n−1} + η g(w_n), d_{−1} = 0. Let

    Θ(w) = ∫₁^w dv/g(v)          flow time to reach w; g > 0 from the start to the minimum w*
    q = η sup(−g′),  a = η sup g′       over the weights that the run passes, both ≥ 0 (β = 0 for gradient descent)
    ρ = the smaller root of qρ² − (1 + q − β)ρ + 1 = 0,        κ = β/(1 + aρ),     σ_n = 1 + κ σ_{n−1},  σ_0 = 1.

**Theorem.** If √q ≤ 1 − √β, the run rises monotonically, stays below w*, and for every n

    ln(1+aρ)/(aρ) Σ_{j<n} σ_j  ≤  Θ(w_n)/η  ≤  n ln(1/(1−qρ))/q.

*Proof.* By induction σ_n ηg(w_n) ≤ d_n ≤ ρ ηg(w_n). With d = d_{n−1} ≤ ρηg(w_{n−1}) the step changes g by at least
−(q/η)d and at most (a/η)d, so that (1−qρ) g(w_{n−1}) ≤ g(w_n) ≤ (1+aρ) g(w_{n−1}): positive, so the run stays below w*;
then d_n = βd_{n−1} + ηg(w_n) ≤ (βρ/(1−qρ) + 1) ηg(w_n) = ρηg(w_n), which is the equation for ρ, and likewise from below
with κ. Within a step g(w_n + x) ≥ g(w_n) − (q/η)x and ≤ g(w_n) + (a/η)x; integrating dx/g over a step between σ_n and ρ
times ηg(w_n) gives at most ln(1/(1−qρ))/q, and at least ln(1+aσ_n)/a ≥ σ_n ln(1+aρ)/(aρ). ∎ For gradient descent
ρ = σ_n = 1.

The supremum over the whole way gives a first upper bound of the place after T steps, the supremum up to that place a
second and better one: on a plateau q and a are η times the curvature there, not at the minimum. The loss falls along
the way, so the two bounds of Θ at every step bound the mean loss of the tail from both sides, and the peak is the
start. When both sides name the same outcome it is *certified*: the cell cannot have left the plateau within T, or must
have settled. Otherwise the cell is iterated.

**Value.** Inside the bounds the place after n steps is known to second order in q and a. The flow whose steps are the
run's has dΘ/dn = η/(1−β) − η² (1+β)/(2(1−β)³) g′ + …, so that

    n = (1−β) Θ/η + (1+β)/(2(1−β)) ln(g(w_n)/g(1)) + β/(1−β) + O(q, a),

and the tail's sum of losses follows by the trapezoidal rule. Everything is integrated by Gauss–Legendre on panels in
ln(1+γf) up to f = ½ and in −ln(1−f) beyond, so that neither the plateau nor the approach to the minimum is lost. All
quadratures are per unit of η: one table serves all learning rates of a γ.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from simulate.maps.compiled import compiled
from simulate.maps.losses import curvature, excess, slope

SLOW = 1e-3
"""Largest q and a, as multiples of (1−√β)², at which a run is followed by its flow time; the value's error is of their
square. A run above it reaches its minimum, to the last bit, within some ten thousand steps."""

_NODES = 6
_FIRST, _SECOND = 24, 96  # panels before and after f = 1/2; the first grows with ln γ
_WIDEST = 0.35  # of a first panel, in ln(1 + γf)
_END = 48.0  # of −ln(1−f): a loss of 1e-42
_MARGIN = 1e-9  # by which bounds are widened: far above the quadrature's error, 1e-12
_NEWTON = 50

_gauss, _gauss_weights = np.polynomial.legendre.leggauss(_NODES)
_X, _W = (_gauss + 1) / 2, _gauss_weights / 2


@compiled()
def _place(x: float, half: float, gamma: float) -> tuple[float, float, float]:
    """(f, 1 − f, ln(1 + γf)) at the coordinate x: ln(1 + γf) up to ``half``, then half − ln 2 − ln(1−f)."""
    if x <= half:
        f = math.expm1(x) / gamma
        return f, 1.0 - f, x
    gap = 0.5 * math.exp(half - x)
    f = 1.0 - gap
    return f, gap, math.log1p(gamma * f)


@compiled()
def _slope_below(f: float, gap: float, loss_code: int) -> float:
    """−ℓ′(f), from whichever of f and 1 − f is exact."""
    if gap > 0.25:
        return -slope(f, loss_code)
    if loss_code == 0:
        return gap
    fall = math.expm1(-gap)
    return -0.19661193324148188 * fall / (1.0 + 0.7310585786300049 * fall)


@compiled()
def _excess_below(f: float, gap: float, loss_code: int) -> float:
    """ℓ(f), from whichever of f and 1 − f is exact."""
    if gap > 1e-8 or loss_code == 0:
        return 0.5 * gap * gap if loss_code == 0 else excess(f, loss_code)
    return 0.5 * 0.19661193324148188 * gap * gap


@compiled()
def _at(x: float, half: float, gamma: float, depth: int, loss_code: int) -> tuple[float, float, float, float]:
    """(dΘ/dx, g, dg/dw, ℓ) at the coordinate x."""
    f, gap, y = _place(x, half, gamma)
    pull = _slope_below(f, gap, loss_code)
    w = math.exp(y / depth)
    power = math.exp(y * (depth - 2) / depth)  # w^{L−2}
    g = power * w * pull / gamma
    bend = ((depth - 1) * power * pull - depth * (power * w) ** 2 * curvature(f, loss_code) / gamma) / gamma
    # dw/dx = w/L before one half; after it df/dx = 1 − f and dw/df = γ/(L w^{L−1})
    pace = w / depth if x <= half else gamma * gap / (depth * power * w)
    return pace / g, g, bend, _excess_below(f, gap, loss_code)


@compiled()
def _sums(low: float, high: float, half: float, gamma: float, depth: int, loss_code: int) -> tuple[float, float, float]:
    """∫dΘ, ∫ℓ dΘ and ∫ℓ g′ dΘ over [low, high], which must not contain ``half`` inside."""
    width = high - low
    time, loss, bent = 0.0, 0.0, 0.0
    for i in range(_NODES):
        rate, _, bend, value = _at(low + width * _X[i], half, gamma, depth, loss_code)
        weight = _W[i] * width * rate
        time += weight
        loss += weight * value
        bent += weight * value * bend
    return time, loss, bent


@compiled()
def flow_table(gamma: float, depth: int, loss_code: int) -> tuple[float, NDArray, NDArray, NDArray, NDArray, NDArray]:
    """The flow at one γ, on panels, per unit of η.

    Returns:
        ``half`` (coordinate of f = ½), panel edges, Θ at the edges, and per edge the suprema of −g′ and g′ up to it;
        then per panel ∫ℓ dΘ and ∫ℓ g′ dΘ as two rows.
    """
    half = math.log1p(0.5 * gamma)
    first = max(_FIRST, math.ceil(half / _WIDEST))
    panels = first + _SECOND
    edges = np.empty(panels + 1)
    for k in range(first + 1):
        edges[k] = half * k / first
    for k in range(1, _SECOND + 1):
        edges[first + k] = half + (_END - math.log(2.0)) * k / _SECOND
    time, integrals = np.zeros(panels + 1), np.empty((2, panels))
    falling, rising = np.zeros(panels + 1), np.zeros(panels + 1)
    for k in range(panels):
        whole, integrals[0, k], integrals[1, k] = _sums(edges[k], edges[k + 1], half, gamma, depth, loss_code)
        time[k + 1] = time[k] + whole
        # −g′ = L w^{2L−2} ℓ″/γ² − (L−1) w^{L−2} |ℓ′|/γ; over a panel w rises, |ℓ′| and ℓ″ fall (f ≥ 0)
        f_low, gap_low, y_low = _place(edges[k], half, gamma)
        f_high, gap_high, y_high = _place(edges[k + 1], half, gamma)
        pull_low, pull_high = _slope_below(f_low, gap_low, loss_code), _slope_below(f_high, gap_high, loss_code)
        bowl_high = depth * math.exp(y_high * (2 * depth - 2) / depth) * curvature(f_low, loss_code) / gamma**2
        bowl_low = depth * math.exp(y_low * (2 * depth - 2) / depth) * curvature(f_high, loss_code) / gamma**2
        saddle_high, saddle_low = 0.0, 0.0
        if depth > 1:
            saddle_high = (depth - 1) * math.exp(y_high * (depth - 2) / depth) * pull_low / gamma
            saddle_low = (depth - 1) * math.exp(y_low * (depth - 2) / depth) * pull_high / gamma
        falling[k + 1] = max(falling[k], bowl_high - saddle_low)
        rising[k + 1] = max(rising[k], saddle_high - bowl_low)
    return half, edges, time, falling, rising, integrals


@compiled()
def _find(goal: float, table, gamma: float, depth: int, loss_code: int) -> tuple[float, int]:  # type: ignore[no-untyped-def]
    """Coordinate at which Θ = goal, and its panel; beyond the last edge the approach is exponential."""
    half, edges, time, _, _, _ = table
    last = edges.size - 1
    if goal >= time[last]:
        rate, _, _, _ = _at(edges[last], half, gamma, depth, loss_code)
        return edges[last] + (goal - time[last]) / rate, last
    k = min(max(np.searchsorted(time, goal, side="right") - 1, 0), last - 1)
    low, high = edges[k], edges[k + 1]
    span = time[k + 1] - time[k]
    x = low + (high - low) * (goal - time[k]) / span
    for _ in range(_NEWTON):
        inner = _sums(edges[k], x, half, gamma, depth, loss_code)[0]
        rate, _, _, _ = _at(x, half, gamma, depth, loss_code)
        error = goal - time[k] - inner
        if error > 0:
            low = x
        else:
            high = x
        moved = x + error / rate
        if not low <= moved <= high:
            moved = 0.5 * (low + high)
        if abs(moved - x) <= 4e-16 * abs(x):
            return moved, k
        x = moved
    return x, k


@compiled()
def _between(low: float, k_low: int, high: float, k_high: int, table, gamma: float, depth: int, loss_code: int):  # type: ignore[no-untyped-def]
    """∫ℓ dΘ and ∫ℓ g′ dΘ from ``low`` in panel k_low to ``high`` in panel k_high; nothing is subtracted."""
    half, edges, _, _, _, integrals = table
    last = edges.size - 1
    if k_low >= last:  # ℓ ∝ e^{−2x} there: 1e-42 of the start, and less
        return 0.0, 0.0
    if k_low == k_high:
        _, loss, bent = _sums(low, high, half, gamma, depth, loss_code)
        return loss, bent
    _, loss, bent = _sums(low, edges[k_low + 1], half, gamma, depth, loss_code)
    for k in range(k_low + 1, min(k_high, last)):
        loss += integrals[0, k]
        bent += integrals[1, k]
    if k_high < last:
        _, more, more_bent = _sums(edges[k_high], high, half, gamma, depth, loss_code)
        loss, bent = loss + more, bent + more_bent
    return loss, bent


@compiled()
def _speed_bound(q: float, beta: float) -> float:
    """ρ of the theorem; NaN where it does not hold."""
    if beta == 0.0:
        return 1.0 if q < 1.0 else np.nan
    middle = 1.0 + q - beta
    under = middle * middle - 4.0 * q
    if not (math.sqrt(q) <= 1.0 - math.sqrt(beta) and under >= 0.0):
        return np.nan
    return 2.0 / (middle + math.sqrt(under))


@compiled()
def _most(q: float, rho: float) -> float:
    """Upper bound of the flow time of one step, in units of η: ln(1/(1−qρ))/q."""
    x = q * rho
    return rho * (1.0 + 0.5 * x) if x < 1e-9 else -math.log1p(-x) / q


@compiled()
def _least(steps: float, a: float, rho: float, beta: float) -> tuple[float, float]:
    """Lower bound of the flow time of n steps, c·n − shift: (c, shift), in units of η; the shift is for n → ∞."""
    x = a * rho
    factor = 1.0 - 0.5 * x if x < 1e-9 else math.log1p(x) / x
    kappa = beta / (1.0 + x)
    return factor / (1.0 - kappa), factor * kappa / (1.0 - kappa) ** 2


@compiled()
def _local_bound(q, a, n, eta, beta, table, gamma, depth, loss_code):  # type: ignore[no-untyped-def]
    """Where a run is at most after n steps, with q and a up to there."""
    _, edges, _, falling, rising, _ = table
    rho = _speed_bound(q, beta)
    x, k = _find(eta * n * _most(q, rho) * (1.0 + _MARGIN), table, gamma, depth, loss_code)
    k = min(k + 1, edges.size - 1)
    return x, min(q, eta * falling[k]), min(a, eta * rising[k])


@compiled()
def follow(  # type: ignore[no-untyped-def]
    eta: float, beta: float, steps: int, tail_steps: int, table, gamma: float, depth: int, loss_code: int, slow: float
) -> tuple[bool, float, float, float]:
    """Follow one run through its flow time.

    Args:
        eta: learning rate.
        beta: momentum β; 0 for gradient descent.
        steps: budget T.
        tail_steps: length of the tail.
        table: of this γ, depth and loss.
        gamma: feature-learning strength.
        depth: number of weights L.
        loss_code: MSE or CROSS_ENTROPY.
        slow: largest q and a in units of (1−√β)², see ``SLOW``.

    Returns:
        Whether the theorem holds and the run is slow; the tail's mean loss; bounds of it from below and above.
    """
    half, edges, _, falling, rising, _ = table
    last = edges.size - 1
    q, a = eta * falling[last], eta * rising[last]
    limit = (1.0 - math.sqrt(beta)) ** 2
    if not q < 0.5 * limit:
        return False, np.nan, np.nan, np.nan
    for _ in range(2):
        _, q, a = _local_bound(q, a, float(steps), eta, beta, table, gamma, depth, loss_code)
    if q > slow * limit or a > slow * limit:
        return False, np.nan, np.nan, np.nan
    rho = _speed_bound(q, beta)
    start = steps - tail_steps
    # from below: Σ_{start<n≤T} ℓ(w_n) ≥ ∫ over n from start+1 to T+1 of ℓ at the upper bound of Θ, ℓ falling
    fast = eta * _most(q, rho) * (1.0 + _MARGIN)
    x0, k0 = _find(fast * (start + 1), table, gamma, depth, loss_code)
    x1, k1 = _find(fast * (steps + 1), table, gamma, depth, loss_code)
    low = _between(x0, k0, x1, k1, table, gamma, depth, loss_code)[0] / fast / tail_steps * (1.0 - _MARGIN)
    # from above: ≤ ∫ from start to T at the lower bound c·n − shift
    pace, shift = _least(float(steps), a, rho, beta)
    lag = eta * pace * (1.0 - _MARGIN)
    x0, k0 = _find(max(0.0, lag * start - eta * shift), table, gamma, depth, loss_code)
    end = max(0.0, lag * steps - eta * shift)
    x1, k1 = _find(end, table, gamma, depth, loss_code)
    high = excess(0.0, loss_code)
    if lag * start >= eta * shift:
        high = _between(x0, k0, x1, k1, table, gamma, depth, loss_code)[0] / lag / tail_steps * (1.0 + _MARGIN)
    # the value: Θ/η = (n − β/(1−β))/(1−β) − (1+β)/(2(1−β)²) ln(g/g₀), solved by iteration from the leading term
    x0, k0 = _second_order(start, eta, beta, table, gamma, depth, loss_code)
    x1, k1 = _second_order(steps, eta, beta, table, gamma, depth, loss_code)
    flow, bent = _between(x0, k0, x1, k1, table, gamma, depth, loss_code)
    total = (1.0 - beta) * flow / eta + (1.0 + beta) / (2.0 * (1.0 - beta)) * bent
    # a ball that starts at rest lags β(1 − βⁿ)/(1−β) steps behind; what it lost during the tail stood at the start
    total += beta * (beta**start - beta**steps) / (1.0 - beta) * excess(0.0, loss_code)
    total += 0.5 * (_loss_at(x1, half, gamma, loss_code) - _loss_at(x0, half, gamma, loss_code))
    return True, min(max(total / tail_steps, low), high), low, high


@compiled()
def _loss_at(x: float, half: float, gamma: float, loss_code: int) -> float:
    f, gap, _ = _place(x, half, gamma)
    return _excess_below(f, gap, loss_code)


@compiled()
def _second_order(n: int, eta: float, beta: float, table, gamma: float, depth: int, loss_code: int):  # type: ignore[no-untyped-def]
    """Coordinate after n steps, to second order in the step."""
    half, edges, _, _, _, _ = table
    first = _at(0.0, half, gamma, depth, loss_code)[1]
    lead = max(0.0, (n - beta * (1.0 - beta**n) / (1.0 - beta)) / (1.0 - beta))
    weight = (1.0 + beta) / (2.0 * (1.0 - beta) ** 2)
    goal = eta * lead
    x, k = _find(goal, table, gamma, depth, loss_code)
    for _ in range(3):
        if k >= edges.size - 1:
            break  # settled: no loss is left to know better
        now = _at(x, half, gamma, depth, loss_code)[1]
        corrected = max(0.0, eta * (lead - weight * math.log(now / first)))
        if abs(corrected - goal) <= 1e-12 * goal:
            break
        goal = corrected
        x, k = _find(goal, table, gamma, depth, loss_code)
    return x, k
