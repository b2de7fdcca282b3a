"""Detectors on curves whose answer is known from elsewhere.

Oracles: the exact two-layer map, the events of the scalar flow, the closed form of the linear stage of a matrix flow,
exact mode times, the toy's own collapse distances, and analytic curves.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy.linalg import expm

from empirical import MLP, Ensemble, data_stream
from empirical.ensemble import log_spaced_steps
from empirical.phenomena import (
    curve_collapse,
    detect_catapult,
    find_staircase,
    loss_power_law,
    plateau_exit,
    progressive_sharpening,
    silent_alignment,
    tabulate,
)
from simulate import catapult_portrait, gradient_flow, matrix_flow, mode_staircase, tau_collapse, two_layer_descent
from simulate.collapse import drop_time
from simulate.outcomes import OUTCOME_NAMES, Outcome
from theory import ToyModel
from theory.deep_linear import staircase_times
from theory.flow import rescaled_time
from theory.flow_forms import output_at_time

STEP_LEVEL = 1 - 1 / np.sqrt(2)  # of a mode: where its part of the loss, (1 − q)², is half of its start


# --- catapult -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k0", [1.5, 2.5, 3.0, 3.5, 4.5])
def test_catapult_of_the_two_layer_net(k0):
    gamma, n, steps = 1e-3, 20, 1500
    u, v = np.random.default_rng(0).normal(size=(2, n))
    v -= u * (u @ v) / (u @ u)  # no overlap: the fall below 2 needs that
    eta = k0 * n * gamma**2 / (u @ u + v @ v)
    run = two_layer_descent(u, v, gamma=gamma, eta=eta, steps=steps)
    found = detect_catapult(np.arange(steps + 1), run.loss, eta=eta, kernel=run.kernel)
    # the closed map, an independent program
    cell = catapult_portrait(
        scaled_rate=[k0], gamma=[gamma], variance=(u @ u + v @ v) / (2 * n), correlation=0.0, steps=steps
    ).data
    assert found.determined
    assert found.outcome == {1.5: "trained", 4.5: "diverged"}.get(k0, "catapult")
    assert found.present == (2 < k0 < 4)
    assert found.edge_before == pytest.approx(k0 / 2, rel=1e-12)
    if k0 > 4:
        assert np.isnan(found.edge_step)
        assert found.edge_after > 1
        return
    # both programs iterate a map whose rounding grows by at most k0 − 1 a step until the peak: 1e-6 is ample
    assert found.height == pytest.approx(float(cell["peak_loss"].item()) / 0.5, rel=1e-6)
    assert found.peak_step == int(cell["peak_step"].item())
    assert 2 * found.edge_after == pytest.approx(float(cell["final_scaled_kernel"].item()), rel=1e-6)
    assert found.kernel_ratio == pytest.approx(found.edge_after / found.edge_before, rel=1e-12)
    if k0 < 2:
        assert found.height == 1.0
        assert np.isnan(found.edge_step)  # below the edge all along
    else:
        below = eta * run.kernel / 2 < 1
        assert below[int(np.ceil(found.edge_step)) :].all()
        assert not below[int(np.floor(found.edge_step))]
        assert run.loss[int(np.ceil(found.recovery_step))] <= run.loss[0]
        assert found.recovery_step > found.peak_step


def test_a_catapult_between_kept_steps_is_seen_by_the_peak_that_the_ensemble_kept():
    steps = np.array([0, 1, 10, 100, 1000])
    loss = np.array([1.0, 1.1, 0.9, 0.3, 0.1])
    assert detect_catapult(steps, loss).outcome == "trained"
    found = detect_catapult(steps, loss, peak_loss=30.0)
    assert found.present
    assert found.height == 30.0
    assert detect_catapult(steps, np.array([1, 2, 1, 0.95, 0.95])).outcome == "unstable"


# --- plateau exit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "depth", "gamma"), [("mse", 2, 1e4), ("mse", 3, 1e5), ("cross-entropy", 4, 1e3)])
def test_plateau_exit_of_the_flow(loss, depth, gamma):
    tau_end = 2 * float(drop_time(gamma=gamma, depth=depth, loss=loss))
    eta = 0.7
    flow = gradient_flow(loss=loss, depth=depth, gamma=gamma, eta=eta, tau_end=tau_end, points=20_000)
    found = plateau_exit(flow.t, flow.loss, eta=eta, gamma=gamma)
    # chords over intervals of 5e-5 of the run: the error is a small part of one interval
    assert found.step == pytest.approx(flow.events["plateau_exit"], rel=2e-5)
    assert found.half_step == pytest.approx(flow.events["drop"], rel=2e-5)
    assert found.low <= flow.events["plateau_exit"] <= found.high
    assert found.tau == pytest.approx(found.step * eta / gamma, rel=1e-12)
    # the asymptotic formula of the drop has relative errors of order 1/γ, times ln γ at L = 2
    assert found.half_step * eta / gamma == pytest.approx(
        float(drop_time(gamma=gamma, depth=depth, loss=loss)), rel=5e-3
    )


def test_abruptness_tells_a_plateau_from_an_exponential():
    t = np.linspace(0, 1000, 5001)
    smooth = plateau_exit(t, np.exp(-t / 100))
    assert smooth.abruptness == pytest.approx(np.log(0.9) / np.log(0.5), rel=1e-4)
    assert smooth.step == pytest.approx(-100 * np.log(0.9), rel=1e-4)
    flow = gradient_flow(depth=3, gamma=1e8, tau_end=1.5, points=2000)
    assert plateau_exit(flow.t, flow.loss).abruptness > 0.99


def test_noise_on_the_plateau_does_not_end_it():
    rng = np.random.default_rng(3)
    t = np.arange(4000)
    clean = 1 / (1 + (t / 1000) ** 8)
    exact = 1000 * (1 / 9) ** (1 / 8)
    noisy = clean * np.exp(0.05 * rng.normal(size=t.size))
    raw, found = plateau_exit(t, noisy, level=1.0), plateau_exit(t, noisy, level=1.0, smooth=0.05)
    assert raw.step < 0.5 * exact  # the first of many noisy points below the level
    # 40 points or more in the window leave 1 % of noise, and the loss falls by 10 % in 9 % of the time there
    assert found.step == pytest.approx(exact, rel=0.03)
    assert found.low < exact < found.high


# --- silent alignment -----------------------------------------------------------------------------------------------


def test_silent_alignment_of_a_matrix_flow():
    """Two layers, one mode: while f is small the flow is linear, so alignment and drop have closed forms."""
    gamma, s, hidden, size = 1e6, 2.0, 6, 4
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(hidden, size)), rng.normal(size=(size, hidden))
    left, right = (w / np.linalg.norm(w) for w in rng.normal(size=(2, size)))
    target = s * np.outer(left, right)

    # dW₁/dτ = W₂ᵀM, dW₂/dτ = M W₁ᵀ: linear in z = (W₁ᵀ, W₂)
    generator = np.block([[np.zeros((size, size)), target.T], [target, np.zeros((size, size))]])
    state = np.vstack([first.T, second])

    def alignment(tau):
        moved = expm(generator * tau) @ state
        f = moved[size:] @ moved[:size].T - second @ first
        return np.sum(f * target) / (np.linalg.norm(f) * np.linalg.norm(target))

    # the growing part p of mode and hidden units makes a logistic: f/s = q at 2sτ = ln(4γs/|p|²) + ln(q/(1−q))
    p = first @ right + second.T @ left
    half = (np.log(4 * gamma * s / (p @ p)) + np.log(STEP_LEVEL / (1 - STEP_LEVEL))) / (2 * s)
    tau_end = 2.0 * half
    tau = np.concatenate([np.geomspace(1e-6, 1e-2, 50), np.linspace(1e-2, tau_end, 4000)[1:]])
    path = matrix_flow((first, second), gamma=gamma, target=target, times=tau * gamma)
    found = silent_alignment(path.tau, path.loss, path.alignment)
    exact = np.array([alignment(at) for at in tau[:1500]])
    middle = (exact[0] + 1.0) / 2  # f aligns with a target of one mode completely, up to 1/√γ
    assert exact[0] < 0.95
    assert found.determined
    assert found.alignment_half_time == pytest.approx(np.interp(middle, exact, tau[:1500]), rel=1e-2)
    assert found.loss_half_time == pytest.approx(half, rel=2e-3)  # 1/γ, and remnants of the start of order e^{−2sτ}
    assert found.lead == pytest.approx(found.loss_half_time / found.alignment_half_time, rel=1e-12)
    assert found.lead > 3
    assert found.share > 0.99
    assert found.lead_low <= found.lead <= found.lead_high


@pytest.mark.parametrize(("t_loss", "t_alignment"), [(300.0, 20.0), (100.0, 100.0), (50.0, 400.0)])
def test_alignment_with_analytic_half_times(t_loss, t_alignment):
    t = np.linspace(0, 20_000, 40_001)
    power = 2.0  # Hill curves: half at the time constant, a share 1/(1 + (c/t)²) before
    loss, alignment = 1 / (1 + (t / t_loss) ** power), 0.2 + 0.6 * (1 - 1 / (1 + (t / t_alignment) ** power))
    found = silent_alignment(t, loss, alignment, drop=0.1)
    # the ends are (t/c)^−2 ≤ 4e-4 away from the limits that the half times are of
    assert found.loss_half_time == pytest.approx(t_loss, rel=2e-3)
    assert found.alignment_half_time == pytest.approx(t_alignment, rel=2e-3)
    assert found.lead == pytest.approx(t_loss / t_alignment, rel=3e-3)
    at = t_loss * (1 / 9) ** 0.5
    assert found.share == pytest.approx(1 / (1 + (t_alignment / at) ** power), rel=4e-3)


# --- staircase ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "depth", "gamma", "tolerance"),
    [
        ((4.0, 2.0, 1.0), 3, 1e8, 1e-5),
        ((8.0, 4.0, 2.0, 1.0), 4, 1e8, 1e-5),
        ((3.0, 2.0, 1.0), 3, 1e8, 2e-5),
        ((4.0, 2.0, 1.0), 3, 1e3, 4e-3),  # the plateaus are not flat: their levels are a little off
        ((4.0, 2.0, 1.0), 2, 1e6, 4e-3),
    ],
)
@pytest.mark.parametrize(("clock", "smooth"), [("log", 0.05), ("linear", 0.03)])
def test_steps_of_a_matrix_network(values, depth, gamma, tolerance, clock, smooth):
    exact = staircase_times(values, gamma, depth, level=STEP_LEVEL)
    tau = np.union1d(np.linspace(0, 1.3 * exact[-1], 4001)[1:], (exact * np.linspace(0.99, 1.01, 401)[:, None]).ravel())
    s = np.array(values)
    learned = output_at_time(tau=tau[:, None] * s, gamma=gamma * s, depth=depth)  # mode a is the scalar model at γs_a
    found = find_staircase(tau, np.sum(s**2 * (1 - learned) ** 2, axis=1) / 2, clock=clock, smooth=smooth)
    assert found.count == len(values)
    np.testing.assert_allclose(found.times, exact, rtol=tolerance)
    energy = np.cumsum(np.square(values[::-1]))[::-1] / 2  # of the modes that are still to be learned
    np.testing.assert_allclose(found.levels[:, 0], energy, rtol=0.03)


@pytest.fixture(scope="module")
def three_modes():
    """T = 10⁴ steps of a loss with three steps, and the exact times in steps."""
    run = mode_staircase()
    t = np.arange(10_000)
    pace = run.tau[-1] / t.size
    return t, np.interp(t * pace, run.tau, run.loss), staircase_times([4.0, 2.0, 1.0], 1e8, 3, level=STEP_LEVEL) / pace


@pytest.mark.parametrize("noise", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_steps_under_sgd_noise(three_modes, noise, seed):
    t, clean, exact = three_modes
    noisy = clean * np.exp(noise * np.random.default_rng(seed).normal(size=t.size))
    found = find_staircase(t, noisy)
    assert found.count == 3
    # at 0.3 a few points beside the step are on the wrong side of its middle
    np.testing.assert_allclose(found.times, exact, rtol=3e-3 if noise < 0.3 else 1e-2)
    assert found.noise == pytest.approx(noise, rel=0.1)
    assert ((found.low <= exact + 5) & (exact - 5 <= found.high)).all()  # noise may shift a whole short bracket
    assert found.times[1:] / found.times[0] == pytest.approx([2.0, 4.0], rel=0.015)


@pytest.mark.parametrize("end", [0.85, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("points", [40, 80])
def test_steps_on_a_log_spaced_curve(three_modes, end, points):
    t, clean, exact = three_modes
    kept = log_spaced_steps(t.size, points)
    shifted = np.interp(kept * end, t, clean)  # another place of the steps between the points
    found = find_staircase(kept, shifted)
    assert found.count == 3
    assert ((found.low <= exact / end) & (exact / end <= found.high)).all()  # nothing better is known


def test_no_steps_in_noise_or_on_a_slope():
    t = np.arange(1, 5000)
    assert find_staircase(t, t**-0.5).count == 0
    assert find_staircase(t, np.exp(-t / 300)).count == 0
    wrong = 0
    for seed in range(10):
        noise = np.exp(0.2 * np.random.default_rng(seed).normal(size=t.size))
        assert find_staircase(t, noise).count == 0
        wrong += sum(find_staircase(t, noise * t**-exponent).count > 0 for exponent in (0.5, 1.0))
    # on steep noisy slopes about one curve in thirty has a stretch that looks like a step: three of 20 has p = 0.03
    assert wrong <= 2


# --- sharpening -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "gamma"), [(3, 1e4), (4, 1e3)])
def test_sharpening_of_the_flow(depth, gamma):
    minimum = depth * (1 + gamma) ** (2 - 2 / depth) / gamma**2  # λ* of theory
    eta = 3.0 / minimum  # the edge is crossed at two thirds of the final sharpness
    tau = np.linspace(0, 3 * float(drop_time(gamma=gamma, depth=depth)), 20_001)
    flow = gradient_flow(depth=depth, gamma=gamma, eta=eta, times=tau * gamma / eta)
    found = progressive_sharpening(flow.t, flow.sharpness, eta=eta)
    assert found.ratio == pytest.approx(minimum * gamma, rel=1e-6)  # starts at 1/γ, across (1, …, 1)
    assert found.edge_end == pytest.approx(1.5, rel=1e-6)
    assert found.regime == "leaves upwards"  # a flow does not know of the edge
    # along (1, …, 1): λ = (L/γ²) u^{2−2/L} (1 + (1 − 1/L)(u − 1 − γ)/u) with u = 1 + γf; solved for the edge
    output = np.linspace(1e-3, 1, 2_000_001)
    u = 1 + gamma * output
    sharpness = depth / gamma**2 * u ** (2 - 2 / depth) * (1 + (1 - 1 / depth) * (u - 1 - gamma) / u)
    place = output[int(np.argmax(sharpness >= 0.95 * 2 / eta))]
    exact = float(rescaled_time(output=place, gamma=gamma, depth=depth)) * gamma / eta
    assert found.edge_step == pytest.approx(exact, rel=1e-4)


def test_regimes_of_the_edge():
    t = np.arange(400)
    rise = np.minimum(0.2 + 0.005 * t, 1.0)
    wobble = 0.08 * np.where(t > 160, (-1.0) ** t, 0)
    hover = progressive_sharpening(t, 2 * (rise + wobble), eta=1.0)
    assert hover.regime == "hovers"
    assert hover.edge_step == pytest.approx(150, rel=1e-9)
    assert hover.hover_mean == pytest.approx(1.0, abs=0.01)
    assert hover.monotone_ratio == pytest.approx(5.0, rel=1e-9)
    assert hover.monotone_until == 160  # at 161 the wobble begins, downwards
    assert progressive_sharpening(t, 1.8 * rise, eta=1.0).regime == "below the edge"
    tent = np.where(t < 200, rise, np.maximum(1 - 0.01 * (t - 200), 0.1))
    assert progressive_sharpening(t, 2 * tent, eta=1.0, share=0.9).regime == "leaves downwards"
    assert progressive_sharpening(t, 2 * (0.5 + 0.01 * t), eta=1.0).regime == "leaves upwards"
    assert progressive_sharpening(t, 4 * np.exp(-t / 50), eta=1.0).regime == "started beyond"


# --- collapse -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "loss"), [(2, "mse"), (3, "mse"), (3, "cross-entropy")])
def test_collapse_of_the_toy(depth, loss):
    toy = tau_collapse(gamma=[1e3, 1e4, 1e6], depth=depth, loss=loss, eta=0.3)
    times = toy.tau * toy.gamma[:, None] / toy.eta
    found = curve_collapse(times, toy.raw_output, eta=toy.eta, gamma=toy.gamma)
    # the grids are one in τ, up to rounding: γτ/η and back; raw outputs change by 1e-13 there
    assert found.distance == pytest.approx(toy.distance, rel=1e-7)
    np.testing.assert_allclose(found.pairs["distance"], toy.pairs["distance"], rtol=1e-7)
    # before: at γ = 10³ and 10⁴ the raw outputs at equal t are 10 times apart or more, as f is linear in t/γ first
    first = curve_collapse(times[:2], toy.raw_output[:2], eta=toy.eta, gamma=toy.gamma[:2])
    assert first.distance_before > 9
    assert first.gain > 1e3


def test_collapse_of_vectors_and_of_nothing():
    t = np.linspace(0, 10, 200)
    direction = np.array([3.0, -4.0])
    curves = [np.outer(t * c, direction) for c in (1.0, 1.02)]
    found = curve_collapse(t, curves, eta=1.0, gamma=[2.0, 2.0])
    assert found.distance == pytest.approx(0.02, rel=1e-9)
    assert found.gain == pytest.approx(1.0, rel=1e-9)  # equal γ: τ is t
    assert curve_collapse([t, t + 1e6], [t + 1, t + 1], eta=1.0, gamma=[2.0, 2.0]).status.startswith("undetermined")


# --- power law ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [0.3, 1.0, 2.0])
def test_exact_power_law(exponent):
    t = np.arange(1, 5001.0)
    found = loss_power_law(t, 3.0 * t**-exponent)
    assert found.determined
    assert found.exponent == pytest.approx(exponent, rel=1e-9)
    assert found.coefficient == pytest.approx(3.0, rel=1e-9)
    assert found.curvature == pytest.approx(0, abs=1e-9)
    assert found.window == (500.0, 5000.0)
    np.testing.assert_allclose(found([10.0]), 3.0 * 10**-exponent, rtol=1e-9)


@pytest.mark.parametrize(("rho", "least"), [(0.0, 0.92), (0.5, 0.85)])
def test_intervals_hold_the_exponent(rho, least):
    """95 % intervals, over 300 curves: the standard error of a coverage is 0.013; at ρ = 0.5, ρ is hard to know."""
    rng = np.random.default_rng(5)
    t = np.geomspace(100, 1000, 21)
    held = 0
    for _ in range(300):
        error = np.empty(t.size)
        error[0] = rng.normal()
        for i in range(1, t.size):
            error[i] = rho * error[i - 1] + np.sqrt(1 - rho**2) * rng.normal()
        low, high = loss_power_law(t, t**-0.7 * np.exp(0.05 * error)).interval
        held += low <= 0.7 <= high
    assert held / 300 >= least


def test_what_is_no_power_law():
    t = np.arange(1, 5001.0)
    noise = np.exp(0.2 * np.random.default_rng(0).normal(size=t.size))
    for loss in (np.exp(-t / 1000), t**-0.5 + 0.02, noise, np.exp(-t / 1000) * noise):
        assert loss_power_law(t, loss).status.startswith("undetermined")
    assert loss_power_law(t, noise * t**-0.5).determined


def test_window_from_the_plateau_to_the_floor():
    t = np.geomspace(1, 1e6, 400)
    loss = 1 / (1 + (t / 100) ** 0.8)
    found = loss_power_law(t, loss + 1e-4, window="after-plateau", floor=1e-3)
    half = (loss[0] + 1e-4) / 2 - 1e-4
    assert found.window[0] == pytest.approx(100 * (1 / half - 1) ** 1.25, rel=1e-3)
    assert 2e-3 >= np.interp(found.window[1], t, loss + 1e-4) > 1.9e-3
    assert loss_power_law(t, np.ones(400), window="after-plateau").status.startswith("undetermined: still on")


# --- trained networks -----------------------------------------------------------------------------------------------


def test_outcomes_of_an_ensemble_are_found_again_in_its_curves():
    """The ensemble's own account of tail and peak, kept step by step in torch, is the oracle."""
    steps = 300
    crit = ToyModel().boundary("eta_crit").numeric(gamma=np.array([1e-2, 1.0, 100.0]), depth=3)
    gamma, eta = np.repeat([1e-2, 1.0, 100.0], 5), np.outer(crit, [1e-4, 0.3, 1.5, 4, 30]).ravel()
    data = partial(data_stream, "fashion-mnist-deformed", 32, size=14)
    ensemble = Ensemble(MLP(3, 16, 196, 10), gamma, eta, 0, stream=data)
    result = ensemble.run(steps, np.arange(steps))
    alive = result.cells.outcome != Outcome.DEAD  # the curve of the loss does not tell
    table = tabulate("catapult", result.curve_steps, result.loss_curve)[alive]
    names = [OUTCOME_NAMES[outcome] for outcome in result.cells.outcome[alive]]
    assert len(set(names)) >= 3
    # float32 losses are summed in another order; no tail here is so close to 0.9 L₀
    assert list(table["outcome"]) == names
    finite = ~np.isin(names, ["diverged"])
    peaks = (result.cells.peak_loss / result.cells.initial_loss)[alive]
    np.testing.assert_allclose(table["height"][finite], np.maximum(peaks, 1.0)[finite], rtol=1e-6)
