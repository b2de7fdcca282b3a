"""Heavy ball, sign descent, and the loops that run four cells at a time.

Oracles: a 50-digit mpmath loop on L separate weights with central differences; plain float64 loops that accumulate w
and know nothing of lattices, marks or traps; the boundaries of ``theory``.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numba import njit

import simulate
from simulate import Outcome, Thresholds, TraceSettings, run_gradient_descent, trace_toy
from simulate.maps.balanced import powers
from simulate.maps.loops import HEAD
from simulate.maps.losses import LOSS_CODES, excess, slope
from theory import ToyModel
from theory.crisis import crisis_ratio

EPS = np.finfo(float).eps
LOSSES = tuple(LOSS_CODES)


def eta_crit(gamma, depth, loss="mse", **more):
    optimizer = "momentum" if more else "gd"
    return ToyModel(loss=loss, optimizer=optimizer).boundary("eta_crit").numeric(gamma=gamma, depth=depth, **more)


# --- heavy ball -----------------------------------------------------------------------------------------------------


def heavy_ball_of_separate_weights(gamma, eta, beta, depth, loss, steps):
    """Losses after steps 0, 1, …: v_i ← β v_i + ∂ℓ/∂w_i, w_i ← w_i − η v_i, with numerical partial derivatives."""
    with mpmath.workdps(50):
        strength, h, label = mpmath.mpf(gamma), mpmath.mpf(10) ** -17, 1 / (1 + mpmath.exp(-1))

        def value(weights):
            f = (mpmath.fprod(weights) - 1) / strength
            if loss == "mse":
                return (f - 1) ** 2 / 2
            # the excess over the label's entropy
            return mpmath.log(1 + mpmath.exp(f)) - label * f - (mpmath.log(1 + mpmath.e) - label)

        weights, velocities = [mpmath.mpf(1)] * depth, [mpmath.mpf(0)] * depth
        losses = [value(weights)]
        for _ in range(steps):
            slopes = []
            for i in range(depth):
                up, down = ([w + s * h * (i == j) for j, w in enumerate(weights)] for s in (1, -1))
                slopes.append((value(up) - value(down)) / (2 * h))
            velocities = [mpmath.mpf(beta) * v + g for v, g in zip(velocities, slopes, strict=True)]
            weights = [w - mpmath.mpf(eta) * v for w, v in zip(weights, velocities, strict=True)]
            losses.append(abs(value(weights)))  # at the minimum the excess is a rounding error of either sign
        return losses


@settings(max_examples=25, deadline=None)
@given(
    log_gamma=st.floats(-6, 4),
    share=st.floats(0.01, 1.0),
    beta=st.sampled_from([0.1, 0.5, 0.9, 0.99]),
    depth=st.integers(1, 5),
    loss=st.sampled_from(LOSSES),
    steps=st.integers(1, 36),
)
def test_heavy_ball_is_that_of_separate_weights(log_gamma, share, beta, depth, loss, steps):
    gamma = 10.0**log_gamma
    eta = share * float(eta_crit(gamma, depth, loss, beta=beta))
    losses = heavy_ball_of_separate_weights(gamma, eta, beta, depth, loss, steps)
    assume(max(losses) < 1e4)  # with momentum a step at eta_crit can escape from a start that is not a minimum
    nudged = heavy_ball_of_separate_weights(gamma, eta * (1 + 1e-10), beta, depth, loss, steps)
    got = run_gradient_descent(
        [gamma], [eta], depth=depth, steps=steps, loss=loss, optimizer="momentum", beta=beta,
        thresholds=Thresholds(tail_fraction=1 / steps),
    )  # fmt: skip
    # How much an error of one step is amplified is measured: η is nudged by 1e-10, such an error in every step.
    # The smaller of an absolute and a relative change of 1 − f would hide an accidental zero of either, hence the sum.
    moved = max(abs(mpmath.sqrt(a) - mpmath.sqrt(b)) for a, b in zip(losses, nudged, strict=True))
    error = 32 * EPS * depth * steps * (1 + float(moved) * 1e10)
    assert math.sqrt(got.final_loss[0]) == pytest.approx(float(mpmath.sqrt(losses[-1])), rel=error, abs=error)
    assert math.sqrt(got.peak_loss[0]) == pytest.approx(float(mpmath.sqrt(max(losses))), rel=error, abs=error)


@settings(max_examples=20, deadline=None)
@given(
    cells=st.lists(st.tuples(st.floats(-6, 6), st.floats(-12, 4)), min_size=1, max_size=20),
    depth=st.integers(1, 6),
    loss=st.sampled_from(LOSSES),
    steps=st.sampled_from([1, 300, 9000]),
)
def test_heavy_ball_without_momentum_is_gradient_descent(cells, depth, loss, steps):
    gamma, eta = (10.0 ** np.array(column) for column in zip(*cells, strict=True))
    plain = run_gradient_descent(gamma, eta, depth=depth, steps=steps, loss=loss)
    ball = run_gradient_descent(gamma, eta, depth=depth, steps=steps, loss=loss, optimizer="momentum", beta=0.0)
    for name, values in plain.fields().items():
        np.testing.assert_array_equal(ball.fields()[name], values, err_msg=name)


@pytest.mark.parametrize(("loss", "beta"), [("mse", 0.3), ("mse", 0.9), ("mse", 0.98), ("cross-entropy", 0.3)])
@pytest.mark.parametrize("depth", [2, 3])
def test_momentum_raises_the_stability_limit_by_one_plus_beta(loss, depth, beta):
    gamma = np.array([1e-5, 1e-3])
    # The ball overshoots long before it is unstable, to a loss of at most (1/(1−√β))² L₀: the default peak would be met
    points = trace_toy(
        loss=loss, depth=depth, gamma=gamma, names=("eta_crit",), steps=20_000, optimizer="momentum", beta=beta,
        thresholds=Thresholds(peak=1e12),
    )["eta_crit"]  # fmt: skip
    np.testing.assert_array_equal(points.gamma, gamma)
    plain = eta_crit(gamma, depth, loss)  # 2/λ*
    # half a bracket of 1e-3 decades is 0.12 %, and γ ≤ 1e-3 bends the map by as much: 2-cycles settle a little above
    np.testing.assert_allclose(points.eta / plain, 1 + beta, rtol=5e-3)


@njit
def lazy_heavy_ball(f, rate, beta, steps):
    """The limit γ → 0 for cross-entropy, f ← f − v with v ← βv + rate ℓ′(f): the distance from f = 1 at the end."""
    v, furthest = 0.0, 0.0
    for n in range(steps):
        v = beta * v + rate * (math.tanh(0.5 * f) - math.tanh(0.5)) / 2
        f -= v
        if n >= steps - 100:
            furthest = max(furthest, abs(f - 1.0))
    return furthest


@pytest.mark.parametrize(("beta", "share"), [(0.5, 1.47), (0.9, 1.88), (0.98, 1.94)])
def test_strong_momentum_on_cross_entropy_is_caught_by_a_cycle_beside_a_stable_minimum(beta, share):
    # The residual saturates: far out the ball is driven by a constant, and a cycle there can hold it while the
    # minimum is still linearly stable (up to 1 + β). Not a fault of the measurement: which of the two a run ends
    # in depends on its start, and the start f = 0 is in the basin of the cycle.
    gamma, depth = 1e-6, 3
    eta = share * float(eta_crit(gamma, depth, "cross-entropy"))
    got = run_gradient_descent(
        [gamma], [eta], depth=depth, steps=20_000, loss="cross-entropy", optimizer="momentum", beta=beta
    )
    rate = depth * eta / gamma**2
    assert lazy_heavy_ball(0.999, rate, beta, 20_000) < 1e-6  # from beside the minimum: stable
    assert lazy_heavy_ball(0.0, rate, beta, 20_000) > 1.0  # from f = 0: held
    assert got.final_loss[0] > 0.2  # L₀ is 0.12


@pytest.mark.parametrize("beta", [0.5, 0.9])
@pytest.mark.parametrize("depth", [2, 3])
def test_momentum_divides_the_slowest_rate_by_its_gain(depth, beta):
    gamma, steps = np.array([1e-4, 0.1, 1.0, 100.0]), 10_000
    found = [
        trace_toy(depth=depth, gamma=gamma, names=("eta_min",), steps=steps, optimizer=name, beta=beta)["eta_min"]
        for name in ("gd", "momentum")
    ]
    # 1/(1−β) steps of the 10⁴ pass before the ball has its speed: 0.1 % at most; brackets of 0.23 % each
    np.testing.assert_allclose(found[1].eta / found[0].eta, 1 - beta, rtol=0.02)
    theory = (
        ToyModel(optimizer="momentum").boundary("eta_min").numeric(gamma=gamma, depth=depth, steps=steps, beta=beta)
    )
    np.testing.assert_allclose(found[1].eta, theory, rtol=0.02)  # the tail's mean is the loss at 0.99 T


# --- sign descent ---------------------------------------------------------------------------------------------------


@njit
def plain_sign_descent(gamma, eta, depth, code, steps, tail_steps):
    """Accumulates w, step by step: tail, peak, last weight and largest |F − F₀|."""
    w, total, widest = 1.0, 0.0, 0.0
    peak = excess(0.0, code)
    for n in range(steps):
        f = (w**depth - 1.0) / gamma
        w -= eta * np.sign(w ** (depth - 1) * (f - 1.0))  # both losses fall below f = 1 and rise above it
        loss = excess((w**depth - 1.0) / gamma, code)
        peak, widest = max(peak, loss), max(widest, abs(w**depth - 1.0))
        if n >= steps - tail_steps:
            total += loss
    return total / tail_steps, peak, w, widest


@settings(max_examples=150, deadline=None)
@given(
    log_gamma=st.floats(-3, 6),
    log_way=st.floats(-1, 5),
    depth=st.integers(1, 8),
    loss=st.sampled_from(LOSSES),
    steps=st.integers(1, 20_000),
    log_tail=st.floats(-4, 0),
)
def test_sign_descent_in_closed_form_is_the_loop(log_gamma, log_way, depth, loss, steps, log_tail):
    gamma = 10.0**log_gamma
    way = math.expm1(math.log1p(gamma) / depth)
    eta = way / 10.0**log_way
    # Which lattice point is next to the minimum is decided by rounding if it falls on one: 1e-16 a step, in steps
    nearest = abs(10.0**log_way - round(10.0**log_way))
    assume(nearest > 1e-6)
    tail_fraction = 10.0**log_tail
    thresholds = Thresholds(tail_fraction=tail_fraction)
    tail, peak, w, widest = plain_sign_descent(gamma, eta, depth, LOSS_CODES[loss], steps, thresholds.tail_steps(steps))
    got = run_gradient_descent(
        [gamma], [eta], depth=depth, steps=steps, loss=loss, optimizer="sign", thresholds=thresholds
    )
    assert (got.outcome[0] == Outcome.DIVERGED) == (widest > 1e6 * max(1.0, gamma))
    if got.outcome[0] == Outcome.DIVERGED:
        return
    # w is summed with an error of half an ulp a step, which f multiplies by L w^(L−1)/γ; a loss at a distance of at
    # least ``nearest`` steps from the minimum knows 1 − f by that over the step's own share of f
    lost = steps * EPS * depth * (w**depth + eta * depth * w ** (depth - 1)) / gamma
    root = math.sqrt(2 * tail)
    assert abs(math.sqrt(2 * got.final_loss[0]) - root) <= 1e-9 * root + 4 * lost
    assert got.peak_loss[0] == pytest.approx(peak, rel=1e-9, abs=8 * lost * math.sqrt(peak))
    assert got.steps_run[0] == steps


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("depth", [1, 2, 3, 6])
@pytest.mark.parametrize(("first", "last"), [(1, 5000), (7, 200_000), (60_001, 200_000), (195_000, 200_000)])
def test_long_tails_are_summed_to_ten_digits(first, last, depth, loss):
    # the run ends on the climb, so that the tail is one sum of more than 4096 terms: Euler–Maclaurin
    gamma, code = 20.0, LOSS_CODES[loss]
    eta = math.expm1(math.log1p(gamma) / depth) / 200_500
    steps, terms = last, last - first + 1
    fraction = terms / steps
    thresholds = Thresholds(tail_fraction=fraction)
    assert thresholds.tail_steps(steps) == terms
    got = run_gradient_descent(
        [gamma], [eta], depth=depth, steps=steps, loss=loss, optimizer="sign", thresholds=thresholds
    )
    k = np.arange(first, last + 1)
    f = np.expm1(depth * np.log1p(k * eta)) / gamma
    losses = 0.5 * (f - 1) ** 2 if loss == "mse" else np.array([excess(one, code) for one in f])
    assert got.final_loss[0] == pytest.approx(math.fsum(losses) / terms, rel=1e-10)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_that_lands_on_the_minimum_stays_there(loss, depth):
    # w* = 2 with dyadic steps: 2^L − 1 = γ exactly, so that f = 1 exactly
    gamma, eta = 2.0**depth - 1, 2.0**-7
    got = run_gradient_descent([gamma], [eta], depth=depth, steps=1000, loss=loss, optimizer="sign")
    assert got.final_loss[0] == 0.0
    # one lattice constant more and the minimum is straddled: the tail is the mean of the two losses beside it
    eta = 1 / 128.25
    got = run_gradient_descent([gamma], [eta], depth=depth, steps=1000, loss=loss, optimizer="sign")
    beside = [excess(((1 + k * eta) ** depth - 1) / gamma, LOSS_CODES[loss]) for k in (128, 129)]
    assert got.final_loss[0] == pytest.approx(sum(beside) / 2, rel=1e-10)


@pytest.mark.parametrize("gamma", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_slowest_sign_descent_reaches_the_level_at_the_end(loss, depth, gamma):
    # theory's eta_min brings the run to the minimum itself at step T. A run is *trained* once its tail is at the level:
    # at f_level with ℓ(f_level) = 0.9 ℓ(0), on average over the tail, which is near its middle, 0.99 T.
    steps = 10_000
    points = trace_toy(loss=loss, depth=depth, gamma=[gamma], names=("eta_min",), steps=steps, optimizer="sign")
    (eta,) = points["eta_min"].eta
    to_minimum = float(ToyModel(loss=loss, optimizer="sign").boundary("eta_min").numeric(
        gamma=np.array([gamma]), depth=depth, steps=steps)[0])  # fmt: skip
    with mpmath.workdps(30):
        label = 1 / (1 + mpmath.exp(-1))

        def value(f):
            if loss == "mse":
                return (f - 1) ** 2 / 2
            return mpmath.log(1 + mpmath.exp(f)) - label * f - mpmath.log(1 + mpmath.e) + label

        reached = float(mpmath.findroot(lambda f: value(f) - mpmath.mpf("0.9") * value(mpmath.mpf(0)), 0.05))
    share = math.expm1(math.log1p(gamma * reached) / depth) / math.expm1(math.log1p(gamma) / depth)
    assert eta == pytest.approx(share * to_minimum / 0.99, rel=3e-3)  # bracket of 0.23 %, and a curved tail


@pytest.mark.parametrize("gamma", [1e-3, 1.0, 100.0, 1e6])
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_settled_boundary_of_sign_descent_is_that_of_a_two_cycle(depth, gamma):
    # A 2-cycle across f = 1 with an output step Δ has the mean loss ¼Δ²(x² + (1−x)²), x the place of the minimum in it:
    # between Δ²/8 and Δ²/4. It is settled at 10⁻³ L₀ = 5·10⁻⁴ for every x up to Δ² = 0.002, for none above 0.004. A
    # step from the minimum to 1 + δ is theory's eta_max(δ). Seen from below the first failure comes soon after the
    # first, since x runs through [0, 1] while η changes by its share of the way, 1/40 or less, as soon as the trace
    # looks closely enough: a guard every 0.2 %.
    close = TraceSettings(coarse=0.02, resolution=1e-3, sections=8, guard_span=0.3, guard_spacing=1e-3)
    points = trace_toy(depth=depth, gamma=[gamma], names=("eta_crit",), steps=10_000, optimizer="sign", settings=close)[
        "eta_crit"
    ]
    limit = ToyModel(optimizer="sign").boundary("eta_max")
    surely, never = (
        float(limit.numeric(gamma=np.array([gamma]), depth=depth, delta=math.sqrt(square))[0])
        for square in (0.002, 0.004)
    )
    # δ is the step above the minimum; a step that straddles it is shorter in f by a share of up to δ
    assert surely * 0.99 < points.eta[0] < never
    assert points.eta[0] < surely * 1.08


def test_sign_descent_costs_nothing():
    gamma, eta = np.full(2000, 100.0), np.geomspace(1e-16, 1e-2, 2000)
    run_gradient_descent(gamma, eta, depth=3, steps=10, optimizer="sign")  # compiled
    start = time.perf_counter()
    got = run_gradient_descent(gamma, eta, depth=3, steps=10**15, optimizer="sign")
    assert time.perf_counter() - start < 5.0  # one run alone would take a week
    # below theory's eta_min nothing has arrived, above it everything hops beside the minimum
    slowest = ToyModel(optimizer="sign").boundary("eta_min").numeric(gamma=gamma, depth=3, steps=10**15)
    assert (got.final_loss[eta > 1.05 * slowest] < 1e-3).all()
    # w grows linearly: at a tenth of the way f = ((1 + 0.1 (w*−1))³ − 1)/γ = 0.016
    assert (got.outcome[eta < 0.1 * slowest] == Outcome.UNTRAINED).all()


# --- four cells at a time -------------------------------------------------------------------------------------------


@njit
def same_operations(gamma, eta, beta, depth, code, steps, tail_steps):
    """The package's step without any exit: tail, peak, steps, whether it diverged, and the losses of the tail."""
    d, v, total, peak = 0.0, 0.0, 0.0, excess(0.0, code)
    bound, losses = 1e6 * max(1.0, gamma), np.empty(tail_steps)
    raw, power = powers(d, depth)
    for n in range(steps):
        v = beta * v + eta / gamma * power * slope(raw * (1.0 / gamma), code)
        d -= v
        raw, power = powers(d, depth)
        if not abs(raw) <= bound:
            return math.nan, math.inf, n + 1, True, losses
        loss = excess(raw * (1.0 / gamma), code)
        peak = max(peak, loss)
        if n >= steps - tail_steps:
            total += loss
            losses[n - steps + tail_steps] = loss
    return total / tail_steps, peak, steps, False, losses


STEPS, TAIL = 10_007, 200
assert STEPS > 2 * HEAD


def mixture(depth, loss):
    """Cells of every kind that live longer than a head; γ and η, in a mixed order."""
    rng = np.random.default_rng(depth)
    gamma = 10 ** rng.uniform(-1, 1, 160)
    top = 1.3 * crisis_ratio(depth)
    share = np.concatenate([rng.uniform(1e-4, 1.0, 20), rng.uniform(1.0, top, 130), rng.uniform(0.999, 1.001, 10)])
    return gamma, share * eta_crit(gamma, depth, loss)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_cells_run_four_at_a_time_as_they_do_alone(depth, loss):
    gamma, eta = mixture(depth, loss)
    thresholds = Thresholds(tail_fraction=TAIL / STEPS)

    def run(cells):
        return run_gradient_descent(
            gamma[cells], eta[cells], depth=depth, steps=STEPS, loss=loss, thresholds=thresholds
        ).fields()

    everything = np.arange(len(gamma))
    together = run(everything)
    few = everything[::6]
    alone = [run(few[i : i + 1]) for i in range(len(few))]
    rng = np.random.default_rng(0)
    for cells in (rng.permutation(everything), rng.choice(everything, 300), everything[::-3]):
        for name, values in run(cells).items():
            np.testing.assert_array_equal(values, together[name][cells], err_msg=name)
    for name, values in together.items():
        np.testing.assert_array_equal(np.concatenate([one[name] for one in alone]), values[few], err_msg=name)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_cells_run_four_at_a_time_are_the_plain_loop_to_the_last_bit(depth, loss):
    gamma, eta = mixture(depth, loss)
    got = run_gradient_descent(
        gamma, eta, depth=depth, steps=STEPS, loss=loss, thresholds=Thresholds(tail_fraction=TAIL / STEPS)
    )
    kinds = {"late": 0, "periodic": 0, "chaotic": 0, "trapped": 0}
    for i, (g, e) in enumerate(zip(gamma, eta, strict=True)):
        tail, peak, last, diverged, losses = same_operations(g, e, 0.0, depth, LOSS_CODES[loss], STEPS, TAIL)
        assert got.steps_run[i] == last
        assert (got.outcome[i] == Outcome.DIVERGED) == diverged
        # outputs come back from raw ones by a product and a quotient with γ
        assert got.peak_loss[i] == pytest.approx(peak, rel=1e-12)
        if diverged:
            kinds["late"] += last > HEAD
            continue
        distinct = len(np.unique(losses))
        if distinct == TAIL and np.ptp(losses) > 1e-3 * losses.mean():
            kinds["chaotic"] += 1
            assert got.final_loss[i] == tail  # a different bit anywhere would have grown to order 1
        elif np.ptp(losses) <= 1e-6 * losses.mean() and depth % 2 == 1 and tail > 0.5 * loss_at_zero(g, loss):
            kinds["trapped"] += 1
            assert got.final_loss[i] == pytest.approx(tail, rel=3e-6)
        else:
            kinds["periodic"] += distinct < TAIL
            # a settled tail is a mean of rounded losses
            assert got.final_loss[i] == pytest.approx(tail, rel=1e-5, abs=1e-25)
    assert kinds["periodic"] >= 5
    assert kinds["chaotic"] >= 5
    if depth % 2 == 1 and loss == "mse":
        assert kinds["trapped"] >= 3


def loss_at_zero(gamma, loss):
    """ℓ(−1/γ), where the output of w = 0 is."""
    return float(excess(-1.0 / gamma, LOSS_CODES[loss]))


def test_a_late_divergence_stops_at_its_step_beside_runs_that_go_on():
    # long chaotic transients: just above the crisis orbits escape after hundreds or thousands of steps
    depth, gamma = 4, 1.0
    eta = crisis_ratio(depth) * (1 + np.geomspace(1e-6, 3e-3, 400)) * float(eta_crit(gamma, depth))
    got = run_gradient_descent(np.full(400, gamma), eta, depth=depth, steps=40_000)
    last = np.array([same_operations(gamma, e, 0.0, depth, 0, 40_000, 800)[2] for e in eta])
    np.testing.assert_array_equal(got.steps_run, last)
    assert ((last > HEAD) & (last < 40_000)).sum() >= 10
    assert (last == 40_000).sum() >= 1


def test_orbits_trapped_left_of_zero_end_as_the_plain_loop_does():
    # L = 3: from η/eta_crit ≈ 1.83 the orbit can land on w < 0, where zero attracts it and nothing trains
    gamma, steps = 1.0, 200_000
    share = np.linspace(1.79, 2.149, 240)
    eta = share * float(eta_crit(gamma, 3))
    got = run_gradient_descent(np.full(240, gamma), eta, depth=3, steps=steps)
    trapped = 0
    for i, e in enumerate(eta):
        tail, peak, last, diverged, losses = same_operations(gamma, e, 0.0, 3, 0, steps, 4000)
        assert not diverged
        assert got.steps_run[i] == last
        assert got.peak_loss[i] == pytest.approx(peak, rel=1e-12)
        # |w|³ below 1e-6 is a share of 1e-6 of the loss there, and its fall from then on is followed
        assert got.final_loss[i] == pytest.approx(tail, rel=1e-6)
        assert (got.outcome[i] == Outcome.UNSTABLE) == (tail > 0.9 * 0.5 and peak > 1.5 * 0.5)
        trapped += np.ptp(losses) < 1e-6 * tail and abs(tail / loss_at_zero(gamma, "mse") - 1) < 1e-5
    assert 20 <= trapped <= 220  # both kinds are among them


@pytest.mark.parametrize("tail_steps", [1, 2, 3, 199, 200, 201])
@pytest.mark.parametrize("share", [1.1, 1.3, 1.52])
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_tails_on_cycles_are_those_of_the_plain_loop(beta, share, tail_steps):
    # cycles of periods 2, 4, …, found after the head or, with momentum, before
    gamma, steps = 1.0, 30_001
    eta = share * float(eta_crit(gamma, 2)) * (1 + beta)
    tail, *_ = same_operations(gamma, eta, beta, 2, 0, steps, tail_steps)
    got = run_gradient_descent(
        [gamma], [eta], depth=2, steps=steps, optimizer="momentum", beta=beta,
        thresholds=Thresholds(tail_fraction=tail_steps / steps),
    )  # fmt: skip
    assert got.final_loss[0] == pytest.approx(tail, rel=1e-12, nan_ok=True)


# --- machine code ---------------------------------------------------------------------------------------------------


def test_machine_code_follows_a_change_in_another_file(tmp_path):
    # a copy of the package with an empty __init__, and a loop that calls ``powers`` of another file
    package = tmp_path / "simulate"
    shutil.copytree(Path(simulate.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__init__.py").write_text("")
    (package / "probe.py").write_text(
        "from simulate.maps.balanced import powers\nfrom simulate.maps.compiled import compiled\n\n\n"
        "@compiled()\ndef probe(d):\n    return powers(d, 3)[0]\n"
    )

    def run():
        code = (
            "from pathlib import Path; from simulate.probe import probe\n"
            "from simulate.maps.compiled import cache_folder\n"
            "print(probe(1.0), len(probe.stats.cache_hits), cache_folder(Path('simulate').resolve()))"
        )
        answer = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, text=True,
            capture_output=True, check=True, timeout=120,
        )  # fmt: skip
        value, hits, folder = answer.stdout.split(maxsplit=2)
        return float(value), int(hits), Path(folder.strip())

    value, hits, first = run()
    assert (value, hits) == (7.0, 0)  # 2³ − 1
    assert first.parent == package / "__pycache__"
    value, hits, again = run()
    assert (value, hits, again) == (7.0, 1, first)  # the second process compiles nothing
    source, probe = package / "maps" / "balanced.py", package / "probe.py"
    before = probe.stat().st_mtime_ns
    text = source.read_text()
    changed = text.replace("return displacement * (1.0 + w + square), square", "return -displacement, square")
    assert changed != text
    source.write_text(changed)
    value, hits, other = run()
    assert (value, hits) == (-1.0, 0)
    assert probe.stat().st_mtime_ns == before  # Numba's own check would have seen nothing
    assert other != first
    assert not first.exists()  # folders of sources that are no more do not pile up
