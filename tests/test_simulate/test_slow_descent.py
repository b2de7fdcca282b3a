"""Descent followed through its flow time, and the certificate of its outcome.

Oracles: plain loops written here, on the displacement but with logarithms in place of Horner's rule and with hyperbolic
functions in place of the package's cross-entropy; flow times by Gauss–Legendre inside every single step and by SciPy's
adaptive quadrature; the closed form of gradient flow at L = 2. The theorem is checked as the docstring states it, with
suprema sampled here, and then what ``follow`` makes of it.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from scipy.integrate import quad

from simulate import Outcome, Thresholds, run_gradient_descent
from simulate.gradient_descent import SHORT
from simulate.maps.balanced import powers
from simulate.maps.losses import LOSS_CODES, excess, slope
from simulate.maps.slow_descent import SLOW, flow_table, follow

EPS = np.finfo(float).eps
LOSSES = tuple(LOSS_CODES)
BETAS = (0.0, 0.5, 0.9, 0.99)
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2


# --- the model, written again ---------------------------------------------------------------------------------------


@njit
def residual(f, code):
    """ℓ′(f); σ(f) − σ(1) = sinh((f−1)/2) / (2 cosh(f/2) cosh(1/2)) does not cancel."""
    if code == 0:
        return f - 1.0
    return math.sinh(0.5 * (f - 1.0)) / (2.0 * math.cosh(0.5 * f) * math.cosh(0.5))


@njit
def loss_at(f, code):
    """ℓ(f) = ∫₁^f ℓ′, for f within a few units of 1."""
    total = 0.0
    for i in range(_NODES.size):
        total += _WEIGHTS[i] * residual(1.0 + (f - 1.0) * _NODES[i], code)
    return total * (f - 1.0)


@njit
def output_at(d, gamma, depth):
    return math.expm1(depth * math.log1p(d)) / gamma


@njit
def speed(d, gamma, depth, code):
    """g at w = 1 + d."""
    return -math.exp((depth - 1) * math.log1p(d)) * residual(output_at(d, gamma, depth), code) / gamma


@njit
def plain_run(gamma, eta, beta, depth, code, steps, tail_steps):
    """All T steps of a run below the edge: its tail, last displacement, shortest step and largest output."""
    d, v, total, shortest, highest = 0.0, 0.0, 0.0, math.inf, 0.0
    for n in range(steps):
        v = beta * v + eta * speed(d, gamma, depth, code)
        before = d
        d += v
        f = output_at(d, gamma, depth)
        shortest, highest = min(shortest, d - before), max(highest, f)
        if n >= steps - tail_steps:
            total += loss_at(f, code)
    return total / tail_steps, d, shortest, highest


@njit
def flow_times(gamma, eta, beta, depth, code, steps, nearest):
    """Displacements and flow times Θ after 1, 2, … steps, each step integrated by itself; ends when 1 − f < nearest."""
    places, times = np.empty(steps), np.empty(steps)
    d, v, time = 0.0, 0.0, 0.0
    for n in range(steps):
        v = beta * v + eta * speed(d, gamma, depth, code)
        moved, made = d + v, 0.0
        for i in range(_NODES.size):
            made += _WEIGHTS[i] / speed(d + (moved - d) * _NODES[i], gamma, depth, code)
        time += made * (moved - d)
        d = moved
        places[n], times[n] = d, time
        if 1.0 - output_at(d, gamma, depth) < nearest:
            return places[: n + 1], times[: n + 1]
    return places, times


def bend(output, gamma, depth, loss):
    """dg/dw at outputs f, from the product rule."""
    w = np.exp(np.log1p(gamma * output) / depth)
    if loss == "mse":
        first, second = output - 1, 1.0
    else:
        first = np.sinh(0.5 * (output - 1)) / (2 * np.cosh(0.5 * output) * np.cosh(0.5))
        second = 0.25 / np.cosh(0.5 * output) ** 2
    return -((depth - 1) * w ** (depth - 2) * first + depth * w ** (2 * depth - 2) * second / gamma) / gamma


def way(last, gamma, points=4001):
    """Outputs from the start to ``last``, dense in w^L and in 1 − f."""
    grown = np.expm1(np.linspace(0, np.log1p(gamma * last), points)) / gamma
    return np.minimum(np.concatenate([grown, np.linspace(0, last, points)]), last)


def rate(share, gamma, beta, depth, loss):
    """η at which q over the whole way is ``share`` of what the theorem allows."""
    steepest = -bend(way(1.0, gamma), gamma, depth, loss).min()
    return share * (1 - math.sqrt(beta)) ** 2 / steepest


def floor_of(gamma, eta, beta, depth, displacement):
    """Loss below which a float64 loop stands still or only flickers.

    It stands when a step is less than half an ulp of the displacement; and it knows w^L − 1 to a few ulps of w^L, by
    Horner's rule some L of them, by logarithms some ln w^L of them.
    """
    w = 1 + displacement
    stands = (1 - beta) * gamma * displacement / (eta * w ** (depth - 1))
    return 0.5 * (4 * EPS * (stands + depth * (1 + np.log(w)) * w**depth / gamma)) ** 2


cases = {
    "log_gamma": st.floats(-8, 8),
    "log_share": st.floats(-9, math.log10(0.5)),
    "depth": st.integers(1, 8),
    "beta": st.sampled_from(BETAS),
    "loss": st.sampled_from(LOSSES),
    "steps": st.integers(1, 20_000),
}


# --- the theorem ----------------------------------------------------------------------------------------------------


def bounds_of_the_theorem(count, q, a, beta):
    """Bounds of Θ(w_n)/η for n = 1, …, count, as the docstring of the module states them."""
    n = np.arange(1, count + 1)
    # 1 − qρ of the smaller root, from the quadratic formula: exact at q = 0
    middle = 1 + q - beta
    rho = 2 / (middle + math.sqrt(middle**2 - 4 * q))
    upper = n * (-math.log1p(-q * rho) / q if q > 0 else rho)
    kappa = beta / (1 + a * rho)
    sigma = np.empty(count)
    value = 0.0
    for j in range(count):
        value = 1 + kappa * value
        sigma[j] = value
    lower = np.cumsum(sigma) * (math.log1p(a * rho) / (a * rho) if a > 0 else 1.0)
    return lower, upper


@settings(max_examples=120, deadline=None)
@given(**cases)
def test_flow_time_bounds_hold_at_every_step_of_a_plain_loop(log_gamma, log_share, depth, beta, loss, steps):
    gamma, code = 10.0**log_gamma, LOSS_CODES[loss]
    eta = rate(10.0**log_share, gamma, beta, depth, loss)
    # a step must be more than rounding of the place: 1 − f = 1e-2 leaves 1e-2 · q of it, against 1e-16
    places, times = flow_times(gamma, eta, beta, depth, code, steps, 1e-2)
    last = output_at(places[-1], gamma, depth)
    slopes = bend(way(last, gamma), gamma, depth, loss)
    # sampled suprema miss a smooth maximum by the square of the spacing, 1e-7
    q, a = (eta * max(0.0, value) * (1 + 1e-6) for value in (-slopes.min(), slopes.max()))
    lower, upper = bounds_of_the_theorem(len(times), q, a, beta)
    # rounding: one ulp of the place a step, times the number of steps; at L = 1 the upper bound is attained
    assert (times / eta <= upper * (1 + 1e-9)).all()
    assert (times / eta >= lower * (1 - 1e-9)).all()
    assert (np.diff(places, prepend=0.0) > 0).all()
    assert last < 1


def test_the_bounds_are_attained_by_a_linear_map():
    # L = 1: g is linear, and the upper bound n ln(1/(1−q))/q is the flow time itself; a looser bound would not show
    gamma, eta = 2.0, 0.4 * 4.0
    places, times = flow_times(gamma, eta, 0.0, 1, 0, 8, 0.0)
    _, upper = bounds_of_the_theorem(len(times), 0.4, 0.0, 0.0)
    np.testing.assert_allclose(times / eta, upper, rtol=1e-10)  # 12 nodes on a pole 1.5 steps away: 1e-12
    assert len(places) == 8


# --- what ``follow`` makes of it ------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(**cases, log_tail=st.floats(-4, 0))
def test_the_tail_lies_within_the_bounds_and_below_the_minimum(
    log_gamma, log_share, depth, beta, loss, steps, log_tail
):
    gamma, code = 10.0**log_gamma, LOSS_CODES[loss]
    eta = rate(10.0**log_share, gamma, beta, depth, loss)
    tail_steps = max(1, round(10.0**log_tail * steps))
    table = flow_table(gamma, depth, code)
    # the bounds hold wherever the theorem does, also where the value would be too coarse to be used
    holds, value, low, high = follow(eta, beta, steps, tail_steps, table, gamma, depth, code, 0.5)
    tail, place, shortest, highest = plain_run(gamma, eta, beta, depth, code, steps, tail_steps)
    floor = floor_of(gamma, eta, beta, depth, place)
    assert shortest >= -math.sqrt(2 * floor) * place  # at the minimum the last bits flicker
    assert highest <= 1 + math.sqrt(2 * floor)
    if not holds:
        # panels bound the suprema from above by no more than a factor of two, q must be below a half, and a is not
        # bounded by q: at γ ≫ 1 the plateau may rise faster than the minimum falls (L = 2)
        slopes = bend(way(1.0, gamma), gamma, depth, loss)
        assert eta * np.abs(slopes).max() > 0.2 * (1 - math.sqrt(beta)) ** 2
        return
    assert low <= value <= high
    assert low * (1 - 1e-8) <= tail + floor
    assert tail <= high * (1 + 1e-8) + 4 * floor
    slow, _, _, _ = follow(eta, beta, steps, tail_steps, table, gamma, depth, code, SLOW)
    # shorter runs are never followed; a tail that reaches into the ball's transient is the test below
    if slow and steps > SHORT and beta ** (steps - tail_steps) < 1e-9 and tail > 1e5 * floor:
        assert value == pytest.approx(tail, rel=1e-5)


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.99])
def test_the_value_holds_for_tails_that_begin_at_the_start(beta):
    # mean loss over the whole run, in which the ball needs β/(1−β) steps to gather speed
    gamma, steps = 1.0, 5000
    eta = rate(1e-4, gamma, beta, 2, "mse")
    got = run_gradient_descent(
        [gamma], [eta], depth=2, steps=steps, optimizer="momentum", beta=beta, thresholds=Thresholds(tail_fraction=1.0)
    )
    tail, *_ = plain_run(gamma, eta, beta, 2, 0, steps, steps)
    assert got.final_loss[0] == pytest.approx(tail, rel=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.9])
@pytest.mark.parametrize(("gamma", "depth", "loss"), [(1e-3, 3, "mse"), (30.0, 2, "cross-entropy"), (100.0, 4, "mse")])
def test_the_value_is_of_second_order_in_the_step(gamma, depth, loss, beta):
    code, errors = LOSS_CODES[loss], []
    table = flow_table(gamma, depth, code)
    goal = 0.3  # between plateau and minimum
    for share in (0.04, 0.02, 0.01):
        eta = rate(share, gamma, beta, depth, loss)
        # T such that the flow reaches f = goal: the same place at every η
        reach = quad(lambda f: 1 / flow_velocity(f, gamma, depth, loss), 0, goal, epsrel=1e-10, limit=200)[0]
        steps = round((1 - beta) * reach / eta)
        holds, value, _, _ = follow(eta, beta, steps, 1, table, gamma, depth, code, 0.5)
        assert holds
        exact, _, _, _ = plain_run(gamma, eta, beta, depth, code, steps, 1)
        errors.append(abs(value / exact - 1))
    order = np.polyfit(np.log([0.04, 0.02, 0.01]), np.log(errors), 1)[0]
    assert 1.7 < order < 2.5  # the place after whole steps is not quite the same one: the order is not a whole number


def flow_velocity(f, gamma, depth, loss):
    """df/dθ along the flow."""
    first = f - 1 if loss == "mse" else math.sinh(0.5 * (f - 1)) / (2 * math.cosh(0.5 * f) * math.cosh(0.5))
    return -depth / gamma**2 * math.exp((2 - 2 / depth) * math.log1p(gamma * f)) * first


# --- the table ------------------------------------------------------------------------------------------------------


def flow_time(half, x, gamma, depth, loss):
    """Θ at the table's coordinate x, by adaptive quadrature over pieces of unit length."""

    def before(y):  # y = ln(1 + γf)
        f = math.expm1(y) / gamma
        return math.exp(y) / gamma / flow_velocity(f, gamma, depth, loss)

    def beyond(s):  # s = −ln(1−f): 1 − f must not be formed as a difference
        gap = math.exp(-s)
        pull = gap if loss == "mse" else math.sinh(gap / 2) / (2 * math.cosh((1 - gap) / 2) * math.cosh(0.5))
        return gap * gamma**2 / (depth * pull) * math.exp((2 / depth - 2) * math.log1p(gamma * (1 - gap)))

    def pieces(function, start, end):
        edges = np.append(np.arange(start, end, 1.0), end)
        return sum(quad(function, a, b, epsrel=1e-13, epsabs=0)[0] for a, b in pairwise(edges))

    if x <= half:
        return pieces(before, 0.0, x)
    return pieces(before, 0.0, half) + pieces(beyond, math.log(2.0), math.log(2.0) + x - half)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("depth", [1, 2, 3, 8])
@pytest.mark.parametrize("gamma", [1e-8, 1e-2, 1.0, 50.0, 1e8])
def test_flow_times_of_the_table_are_those_of_adaptive_quadrature(gamma, depth, loss):
    half, edges, time, *_ = flow_table(gamma, depth, LOSS_CODES[loss])
    assert half == pytest.approx(math.log1p(gamma / 2), rel=1e-15)
    first = int(np.searchsorted(edges, half))
    for k in (1, first // 2, first, first + 1, first + 40, len(edges) - 1):
        assert time[k] == pytest.approx(flow_time(half, edges[k], gamma, depth, loss), rel=1e-11)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("depth", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("gamma", [1e-8, 1e-2, 0.5, 2.0, 50.0, 1e8])
def test_suprema_of_the_table_are_never_below_a_sampled_one(gamma, depth, loss):
    half, edges, _, falling, rising, _ = flow_table(gamma, depth, LOSS_CODES[loss])
    for k in range(0, len(edges), 7):
        x = edges[k]
        last = math.expm1(x) / gamma if x <= half else 1 - 0.5 * math.exp(half - x)
        slopes = bend(way(last, gamma, 2001), gamma, depth, loss)
        for bound, sampled in ((falling[k], -slopes.min()), (rising[k], slopes.max())):
            # at edge 0 no step has been made yet; sampled values carry the rounding of a difference of two terms
            if k > 0:
                assert bound >= max(0.0, sampled) * (1 - 1e-12) - 1e-12 * np.abs(slopes).max()
    whole = bend(way(1.0, gamma), gamma, depth, loss)
    assert falling[-1] <= 2 * max(0.0, -whole.min())
    assert (np.diff(falling) >= 0).all()
    assert (np.diff(rising) >= 0).all()


# --- outcomes -------------------------------------------------------------------------------------------------------


@njit
def same_arithmetic(gamma, eta, beta, depth, code, steps, tail_steps, divergence):
    """The package's step, operation by operation, with none of its exits: (tail, peak, steps, diverged)."""
    d, v, total, peak = 0.0, 0.0, 0.0, excess(0.0, code)
    bound = divergence * max(1.0, gamma)
    raw, power = powers(d, depth)
    for n in range(1, steps + 1):
        v = beta * v + eta / gamma * power * slope(raw * (1.0 / gamma), code)
        d -= v
        raw, power = powers(d, depth)
        if not abs(raw) <= bound:
            return math.nan, math.inf, n, True
        loss = excess(raw * (1.0 / gamma), code)
        peak = max(peak, loss)
        if n > steps - tail_steps:
            total += loss
    return total / tail_steps, peak, steps, False


def brute(gamma, eta, beta, depth, loss, steps, thresholds=None):
    """``same_arithmetic`` of many cells, as columns."""
    thresholds = thresholds or Thresholds()
    rows = [
        same_arithmetic(g, e, beta, depth, LOSS_CODES[loss], steps, thresholds.tail_steps(steps), thresholds.divergence)
        for g, e in zip(gamma, eta, strict=True)
    ]
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def outcomes_of(tail, peak, diverged, loss, thresholds=None):
    """The definitions of the outcomes, written again."""
    thresholds = thresholds or Thresholds()
    start = loss_at(0.0, LOSS_CODES[loss])
    learned, overshot = tail <= thresholds.level * start, peak > thresholds.peak * start
    names = np.where(learned, np.where(overshot, 3, 2), np.where(overshot, 4, 1))
    return np.where(diverged, int(Outcome.DIVERGED), names)


@settings(max_examples=40, deadline=None)
@given(
    cells=st.lists(st.tuples(st.floats(-5, 5), st.floats(-12, 6)), min_size=20, max_size=20),
    depth=st.integers(1, 8),
    steps=st.sampled_from([2001, 5000, 10_000]),
    optimizer=st.sampled_from(["gd", "momentum"]),
    beta=st.sampled_from([0.5, 0.9, 0.99]),
    loss=st.sampled_from(LOSSES),
)
def test_exits_and_certificates_contradict_no_plain_loop_anywhere(cells, depth, steps, optimizer, beta, loss):
    # the plain loop does the package's operations, so that even chaotic runs must agree to the last bit, and no band
    # of the plane has to be left out
    gamma, eta = (10.0 ** np.array(column) for column in zip(*cells, strict=True))
    got = run_gradient_descent(gamma, eta, depth=depth, steps=steps, loss=loss, optimizer=optimizer, beta=beta)
    momentum = beta if optimizer == "momentum" else 0.0
    tail, peak, last, diverged = brute(gamma, eta, momentum, depth, loss, steps)
    np.testing.assert_array_equal(got.outcome, outcomes_of(tail, peak, diverged, loss))
    np.testing.assert_array_equal(got.steps_run, last)
    np.testing.assert_allclose(got.peak_loss, peak, rtol=1e-12)
    displacement = np.expm1(np.log1p(gamma) / depth)
    floor = floor_of(gamma, eta, momentum, depth, displacement)
    open_run = ~diverged
    # 1e-5: the value of a certified cell; 2e-6: a trapped one; the others agree to the rounding of a mean
    error = np.abs(got.final_loss - tail)[open_run]
    assert (error <= 1e-5 * tail[open_run] + 10 * floor[open_run]).all()


@pytest.mark.parametrize("threshold", ["level", "settle"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("beta", "optimizer"), [(0.0, "gd"), (0.9, "momentum")])
@pytest.mark.parametrize(("gamma", "depth"), [(1e-6, 2), (1.0, 3), (300.0, 3), (50.0, 4), (10.0, 1)])
def test_cells_at_a_threshold_are_iterated_and_not_guessed(gamma, depth, beta, optimizer, loss, threshold):
    steps, thresholds = 20_000, Thresholds()
    goal = getattr(thresholds, threshold) * loss_at(0.0, LOSS_CODES[loss])

    def tail_of(eta):
        return brute([gamma], [eta], beta, depth, loss, steps)[0][0]

    # the tail falls with η while η is far below the edge
    low, high = rate(1e-12, gamma, beta, depth, loss), rate(0.3, gamma, beta, depth, loss)
    assert tail_of(low) > goal >= tail_of(high)
    while high > low * (1 + 4 * EPS):
        middle = math.sqrt(low * high)
        if not low < middle < high:
            break
        low, high = (middle, high) if tail_of(middle) > goal else (low, middle)
    table = flow_table(gamma, depth, LOSS_CODES[loss])
    for eta in (low, high):
        holds, _, below, above = follow(
            eta, beta, steps, thresholds.tail_steps(steps), table, gamma, depth, LOSS_CODES[loss], SLOW
        )
        if holds:  # then the bounds straddle the threshold, which is what leaves the cell to the loop
            assert below <= goal < above
    # around the threshold: from the last bit to the width of the bounds and beyond
    shifts = np.concatenate([[0.0], np.geomspace(1e-15, 1e-2, 27)])
    eta = np.unique(np.concatenate([low * (1 - shifts), high * (1 + shifts)]))
    got = run_gradient_descent(
        np.full(len(eta), gamma), eta, depth=depth, steps=steps, loss=loss, optimizer=optimizer, beta=beta
    )
    tail, *_ = brute(np.full(len(eta), gamma), eta, beta, depth, loss, steps)
    np.testing.assert_array_equal(got.final_loss <= goal, tail <= goal)
    assert (tail <= goal).any()
    assert (tail > goal).any()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("optimizer", ["gd", "momentum"])
@pytest.mark.parametrize("loss", LOSSES)
def test_slow_runs_cost_no_iteration(loss, optimizer):
    # 10^15 steps would take months; those that settle and those that stay on the plateau are both decided
    gamma, eta = np.array([1e-4, 1.0, 1e4, 1.0]), np.array([1e-12, 1e-5, 1e-4, 1e-30])
    got = run_gradient_descent(gamma, eta, depth=3, steps=10**15, loss=loss, optimizer=optimizer)
    assert [Outcome(o).label for o in got.outcome] == ["trained", "trained", "trained", "untrained"]
    assert (got.steps_run == 10**15).all()
    assert (got.peak_loss == got.initial_loss).all()


@pytest.mark.parametrize("gamma", [1e-6, 1.0, 1e3])
@pytest.mark.parametrize("times", [0.5, 1.0, 3.0, 8.0])
def test_ten_million_steps_are_gradient_flow(gamma, times):
    # L = 2: t = γ²/(2η(1+γ)) ln[γu/(1+γ−u)] + const, with u = w²: f(t) is a logistic curve
    steps = 10**7
    drop = 0.5 * gamma**2 / (1 + gamma) * math.log((1 + 0.5 * gamma) / 0.5)  # flow time to f = 1/2
    eta = times * drop / steps
    growth = math.exp(2 * (1 + gamma) / gamma**2 * eta * steps)
    gap = (1 + gamma) / (growth + gamma)  # 1 − f
    last = Thresholds(tail_fraction=1e-7)
    assert last.tail_steps(steps) == 1
    got = run_gradient_descent([gamma], [eta], depth=2, steps=steps, thresholds=last)
    # descent differs from flow by q ln(growth): q is at most 2(1+γ) η/γ², below 2e-5 here
    q = 2 * (1 + gamma) * eta / gamma**2
    assert got.final_loss[0] == pytest.approx(0.5 * gap**2, rel=2 * q * math.log(growth) + 1e-9)
    assert q < 5e-5


@pytest.mark.parametrize("optimizer", ["gd", "momentum"])
def test_everything_between_the_budget_and_the_edge_settles_after_ten_million_steps(optimizer):
    gamma = np.repeat([1e-4, 1.0, 100.0], 8)
    eta = np.concatenate([[rate(s, g, 0.0, 3, "mse") for s in np.geomspace(1e-4, 1e-2, 8)] for g in (1e-4, 1.0, 100.0)])
    got = run_gradient_descent(gamma, eta, depth=3, steps=10**7, optimizer=optimizer)
    assert (got.outcome == Outcome.TRAINED).all()
    # 10^7 steps at q = 1e-4 are e^{-1000}: only the rounding floor can be left
    assert (got.final_loss <= floor_of(gamma, eta, 0.0, 3, np.expm1(np.log1p(gamma) / 3))).all()
