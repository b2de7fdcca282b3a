"""The statements of the theory about the cross-entropy band and about sections 4 to 6, one test each, in words.

Oracles: gradient descent on explicit weights, vectors and matrices, and numerical quadrature.
"""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import sympy as sp
from scipy.special import expit

from theory import ToyModel, rescaled_time, symbols
from theory.band import band_threshold, band_zero_crossing
from theory.catapult import catapult_map, predict_catapult
from theory.conserved import step_drift, weight_invariants
from theory.deep_linear import layer_balance, staircase_times
from theory.flow import mse_time, product_velocity
from theory.losses import MSE

gamma, eta, L = symbols.gamma, symbols.eta, symbols.depth
MODELS = {"mse": ToyModel(), "cross-entropy": ToyModel("cross-entropy")}
LABEL = 1 / (1 + math.exp(-1))
DEPTHS = (2, 3, 5)


def iterate_band(layers, ratio, start, count, strength=1e-10):
    """Gradient descent on the cross-entropy with equal weights, η = ratio·γ, frozen at |w| > 30."""
    place = np.asarray(start)
    for _ in range(count):
        residual = expit((place**layers - 1.0) / strength) - LABEL
        place = np.where(np.abs(place) > 30.0, place, place - ratio * place ** (layers - 1) * residual)
    return place


# --- section 3: the cross-entropy band


def test_cross_entropy_weights_move_by_at_most_eta_over_gamma():
    """Section 3: for γ ≪ 1, above eta_crit, ℓ′ is bounded, the weights move by O(η/γ) and nothing diverges."""
    strength, layers = 1e-6, 3
    edge = MODELS["cross-entropy"].boundary("eta_crit").numeric(gamma=strength, depth=layers)
    for ratio in (1e-4, 1e-2, 0.3):  # η/γ
        assert ratio * strength > edge
        ends = np.array([iterate_band(layers, ratio, 1.0, count, strength) for count in range(200, 220)])
        assert np.abs(np.diff(ends)).max() <= ratio * LABEL * ends.max() ** (layers - 1)
        assert np.abs(ends - 1).max() < 2 * ratio


def test_cross_entropy_band_thresholds():
    """Section 3: c₂ = 2/(1−σ(1)) ≈ 7.4366, c₄ ≈ 1.590, c₆ ≈ 0.931; odd: c₃ ≈ 2.255, c₅ ≈ 1.111; γ → 0, η = cγ."""
    expected = {2: 7.4366, 3: 2.255, 4: 1.590, 5: 1.111, 6: 0.931}
    starts = np.concatenate([np.linspace(1e-3, 0.999, 2000), 1 - np.logspace(-8, -4, 9)])
    for layers, number in expected.items():
        threshold = band_threshold(layers)
        assert threshold == pytest.approx(number, abs=6e-4)
        for factor, escapes in ((0.995, False), (1.02, True)):
            assert (np.abs(iterate_band(layers, factor * threshold, starts, 500)) > 30).any() == escapes
        if layers % 2 == 0:
            assert threshold * (1 - LABEL) * (1 + threshold * LABEL) ** (layers - 2) == pytest.approx(2)
    assert band_threshold(2) == pytest.approx(2 / (1 - LABEL))


@pytest.mark.parametrize(("layers", "number"), [(3, 1.673), (5, 0.860)])
def test_cross_entropy_trapping_for_odd_depth(layers, number):
    """Section 3: for odd L trapping is possible from 1.673 (L = 3) and 0.860 (L = 5): some starts, none below."""
    crossing = band_zero_crossing(layers)
    assert crossing == pytest.approx(number, abs=6e-4)
    starts = np.concatenate([np.linspace(1e-3, 0.999, 2000), 1 - np.logspace(-8, -4, 9)])
    for factor, trapped in ((0.995, False), (1.02, True)):
        ends = iterate_band(layers, factor * crossing, starts, 1000)
        assert (np.abs(ends) < 30).all()
        assert (ends < 0).any() == trapped


def test_first_step_of_the_band_uses_the_slope_at_zero():
    """Section 3: the first step from w = 1 uses ℓ′(0), and the limit map contains no γ."""
    for layers in DEPTHS:
        ends = [float(iterate_band(layers, 0.4, 1.0, 1, strength)) for strength in (1e-6, 1e-10)]
        assert ends == pytest.approx([1 + 0.4 * (LABEL - 0.5)] * 2)
        later = [float(iterate_band(layers, 0.4, 1.0, 8, strength)) for strength in (1e-8, 1e-12)]
        assert later[0] == pytest.approx(later[1], rel=1e-9)


# --- section 4


def flow_time(loss, strength, layers, output):
    """τ(f) = (γ/L) ∫₀^f (1+γs)^{2/L−2}/|ℓ′(s)| ds, in y = ln(1+γs), by numerical quadrature."""
    power = mpmath.mpf(2) / layers - 1

    def integrand(y):
        place = mpmath.expm1(y) / strength
        slope = 1 - place if loss == "mse" else LABEL - 1 / (1 + mpmath.exp(-place))
        return mpmath.exp(power * y) / slope

    end = mpmath.log1p(mpmath.mpf(strength) * output)
    return float(mpmath.quad(integrand, mpmath.linspace(0, end, 9)) / layers)


def test_velocity_of_the_product():
    """Section 4: with u = w^L and MSE, du/dt = (ηL/γ²) u^{2−2/L} (1 + γ − u)."""
    u = symbols.u
    claimed = eta * L / gamma**2 * u ** (2 - 2 / L) * (1 + gamma - u)
    for layers in DEPTHS:
        place = {gamma: 0.7, eta: 1e-7, u: 1.3, L: layers}
        weights = np.full(layers, 1.3 ** (1 / layers))
        moved = weights - 1e-7 / 0.7 * (1.3 / weights) * (0.3 / 0.7 - 1)
        assert moved.prod() - 1.3 == pytest.approx(float(claimed.subs(place)), rel=1e-5)
        assert float(product_velocity(MSE).subs(place)) == pytest.approx(float(claimed.subs(place)))


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
def test_flow_time_hypergeometric(layers):
    """Section 4: t(u) = (γ²/(ηL)) ∫₁^u dv/(v^{2−2/L}(1+γ−v)), a ₂F₁ but for L = 2: γ²/(2η(1+γ)) ln[γu/(1+γ−u)]."""
    strength, rate, u = 6.0, 0.3, 4.5
    integral = mpmath.quad(lambda v: v ** (mpmath.mpf(2) / layers - 2) / (1 + strength - v), [1, 2, u])
    expected = float(strength**2 / (rate * layers) * integral)
    values = {gamma: sp.Integer(6), eta: sp.Rational(3, 10), L: layers}
    found = mse_time(sp.Rational(9, 2)).subs(values)
    assert complex(found.evalf(20)).real == pytest.approx(expected, rel=1e-9)
    if layers == 2:
        closed = strength**2 / (2 * rate * (1 + strength)) * math.log(strength * u / (1 + strength - u))
        assert expected == pytest.approx(closed, rel=1e-9)
    tau = rescaled_time(output=(u - 1) / strength, gamma=strength, depth=layers)
    assert strength * tau / rate == pytest.approx(expected, rel=1e-9)


def test_raw_outputs_of_large_gammas_coincide_in_rescaled_time():
    """Section 4: while u ≪ γ the flow in τ = ηt/γ does not contain γ; the drop of the loss still depends on γ."""
    for layers, end in ((2, 3.0), (3, 0.9)):
        products = []
        for strength in (1e8, 1e11):
            w = 1.0
            for _ in range(3000):
                w -= end / 3000 * w ** (layers - 1) * ((w**layers - 1) / strength - 1)
            products.append(w**layers)
        assert products[0] == pytest.approx(products[1], rel=1e-4)
        drops = rescaled_time(output=0.5, gamma=np.array([1e8, 1e11]), depth=layers)
        assert drops[1] - drops[0] > 1e-3


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_plateau_exit_times(loss):
    """Section 4: the plateau ends at τ* = 1/((L−2)|ℓ′(0)|) for L > 2, and at ln γ/(2|ℓ′(0)|) + constant for L = 2."""
    pull = 1.0 if loss == "mse" else LABEL - 0.5
    for layers in (4, 6):
        assert flow_time(loss, 1e14, layers, 0.5) == pytest.approx(1 / ((layers - 2) * pull), rel=1e-5)
    gap = flow_time(loss, 1e12, 2, 0.5) - flow_time(loss, 1e8, 2, 0.5)
    assert gap == pytest.approx(math.log(1e4) / (2 * pull), rel=1e-5)


def test_two_layer_flow_time_and_its_constant():
    """Section 4: τ(f) = γ/(2(1+γ)) ln((1+γf)/(1−f)); the constant ½ ln(f/(1−f)) is 0 at ½, −1.46 at f = 0.0513."""
    for strength in (0.1, 5.0, 1e9):
        for output in (0.0513, 0.5, 0.9):
            expected = strength / (2 * (1 + strength)) * math.log((1 + strength * output) / (1 - output))
            assert rescaled_time(output=output, gamma=strength, depth=2) == pytest.approx(expected, rel=1e-10)
            assert flow_time("mse", strength, 2, output) == pytest.approx(expected, rel=1e-9)
    for output, constant in ((0.5, 0.0), (0.0513, -1.46)):
        rest = rescaled_time(output=output, gamma=1e12, depth=2) - math.log(1e12) / 2
        assert rest == pytest.approx(constant, abs=5e-3)


def test_balance_is_conserved_and_gd_drift():
    """Section 4: flow conserves w_i² − w_j²; one step changes it by (ηℓ′P/γ)² (w_i^{−2} − w_j^{−2}), P = ∏ w."""
    weights, strength = np.array([0.5, 1.3, 2.1, 0.9]), 0.7
    product = weights.prod()
    slope = (product - 1) / strength - 1
    for rate in (1e-2, 1e-4):
        moved = weights - rate * slope / strength * product / weights
        change = weight_invariants(moved) - weight_invariants(weights)
        inverse = weights**-2.0
        expected = (rate * slope * product / strength) ** 2 * (inverse[:, None] - inverse)
        assert change == pytest.approx(expected, rel=1e-6, abs=1e-14)  # quadratic in the rate: none of it under flow
        assert step_drift(weights, eta=rate, gamma=strength, slope=slope) == pytest.approx(expected)


# --- section 5


def two_layers(strength, scaled_rate, count, correlation=0.0, width=50):
    """Outputs and kernels of gradient descent on explicit u and v of unit variance; η = scaled_rate/λ₀."""
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.normal(size=(width, 2)))[0].T * math.sqrt(width)
    u, v = basis[0], correlation * basis[0] + math.sqrt(1 - correlation**2) * basis[1]
    start, rate = u @ v, scaled_rate * strength**2 / 2
    outputs, kernels = [], []
    for _ in range(count + 1):
        outputs.append((u @ v - start) / (strength * width))
        kernels.append((u @ u + v @ v) / (width * strength**2))
        pull = rate * (outputs[-1] - 1) / strength
        u, v = u - pull * v, v - pull * u
        if abs(outputs[-1]) > 1e9:
            break
    return np.array(outputs), np.array(kernels), rate


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_catapult_map_closes_in_output_and_kernel(correlation):
    """Section 5: f ← f − ηλr + (ηr/γ)²(u·v)/(nγ) and λ ← λ(1 + (ηr/γ)²) − 4(ηr/γ²)(u·v)/(nγ), r = f − 1."""
    strength = 0.3
    outputs, kernels, rate = two_layers(strength, 1.5, 6, correlation)
    residual, overlap = outputs[:-1] - 1, outputs[:-1] + correlation / strength  # (u·v)/(nγ)
    scaled = rate * residual / strength
    next_outputs = outputs[:-1] - rate * kernels[:-1] * residual + scaled**2 * overlap
    next_kernels = kernels[:-1] * (1 + scaled**2) - 4 * scaled / strength * overlap
    assert outputs[1:] == pytest.approx(next_outputs, rel=1e-9, abs=1e-9)
    assert kernels[1:] == pytest.approx(next_kernels, rel=1e-9)
    found = catapult_map(outputs[:-1], kernels[:-1], eta=rate, gamma=strength, overlap=correlation)
    assert found[0] == pytest.approx(next_outputs)
    assert found[1] == pytest.approx(next_kernels)


@pytest.mark.parametrize("k0", [0.5, 1.5, 2.5, 3.5, 4.3])
def test_catapult_thresholds(k0):
    """Section 5: for γ ≪ 1 monotone below ηλ₀ = 2, catapult to ηλ < 2 between 2 and 4, divergence above 4."""
    strength = 1e-4
    outputs, kernels, rate = two_layers(strength, k0, 3000)
    losses = (outputs - 1) ** 2 / 2
    regime = str(predict_catapult(eta=rate, gamma=strength, kernel=kernels[0]).regime)
    if k0 < 2:
        assert regime == "monotone"
        assert (losses[1:] <= losses[:-1] * (1 + 1e-9) + 1e-12).all()
    elif k0 < 4:
        assert regime == "catapult"
        assert losses.max() > 1e4
        assert losses[-1] < 1e-12
        assert rate * kernels[-1] < 2
    else:
        assert regime == "divergent"
        assert abs(outputs[-1]) > 1e9


def test_catapult_loss_peaks_at_order_gamma_to_the_minus_2():
    """Section 5: in a catapult the loss peaks at order γ⁻² (it also varies with the phase of the start)."""
    scaled = [((two_layers(one, 3.0, 300)[0] - 1) ** 2 / 2).max() * one**2 for one in (1e-3, 1e-4, 1e-5)]
    assert max(scaled) < 3 * min(scaled)
    assert min(scaled) > 0.01


def test_fall_below_two_needs_nearly_orthogonal_starts():
    """Section 5: at correlation 0.6 the run still oscillates at ηλ₀ = 3.5; at 0 it has settled below ηλ = 2."""
    outputs, kernels, rate = two_layers(1e-3, 3.5, 5000, correlation=0.6)
    assert np.abs(outputs[-50:] - 1).max() > 1
    assert np.abs(outputs).max() < 1e9
    assert not predict_catapult(eta=rate, gamma=1e-3, kernel=kernels[0], overlap=0.6).can_settle
    settled, kernels, rate = two_layers(1e-3, 3.5, 5000)
    assert settled[-1] == pytest.approx(1, abs=1e-9)
    assert rate * kernels[-1] < 2


# --- section 6


def test_singular_modes_decouple_from_an_aligned_balanced_start():
    """Section 6: whitened inputs, aligned balanced start: each singular mode follows its own scalar equation."""
    rng = np.random.default_rng(2)
    values, strength, rate, layers = np.array([4.0, 2.0, 1.0]), 30.0, 0.02, 3
    frames = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(layers + 1)]
    weights = [frames[at + 1] @ frames[at].T for at in range(layers)]
    target, start = frames[-1] @ np.diag(values) @ frames[0].T, frames[-1] @ frames[0].T
    modes = np.ones(3)
    for _ in range(2000):
        one, two, three = weights
        error = (three @ two @ one - start) / strength - target
        steps = [(three @ two).T @ error, three.T @ error @ one.T, error @ (two @ one).T]
        weights = [matrix - rate / strength * step for matrix, step in zip(weights, steps, strict=True)]
        modes = modes - rate / strength * modes ** (layers - 1) * ((modes**layers - 1) / strength - values)
    for at, matrix in enumerate(weights):
        assert frames[at + 1].T @ matrix @ frames[at] == pytest.approx(np.diag(modes), abs=1e-8)
    assert modes[0] > 1.5


def test_staircase_ratios():
    """Section 6: τ_a ∝ 1/s_a for L > 2; s = 4, 2, 1, L = 3, γ = 10⁸: 1 : 1.9994 : 3.9973."""
    values = [4.0, 2.0, 1.0]
    times = staircase_times(values, 1e8, 3)
    assert times / times[0] == pytest.approx([1, 1.9994, 3.9973], abs=1e-4)
    exact = [flow_time("mse", 1e8 * value, 3, 0.5) / value for value in values]  # mode a: γ_a = γ s_a, time over s_a
    assert times == pytest.approx(exact, rel=1e-9)


def test_two_layer_staircase_times():
    """Section 6: for L = 2, τ_a = ln(γ s_a)/(2 s_a) (at half of the mode's target)."""
    values = np.array([4.0, 2.0, 1.0])
    assert staircase_times(values, 1e8, 2) == pytest.approx(np.log(1e8 * values) / (2 * values), rel=1e-6)


def test_layer_balance_is_conserved_by_flow():
    """Section 6: W_{ℓ+1}ᵀW_{ℓ+1} − W_ℓW_ℓᵀ is conserved by flow: a step changes it at second order in η only."""
    rng = np.random.default_rng(3)
    one, two, target = rng.normal(size=(4, 3)), rng.normal(size=(2, 4)), rng.normal(size=(2, 3))
    error = two @ one - target
    slopes = [two.T @ error, error @ one.T]
    before = layer_balance([one, two])[0]
    for rate in (1e-2, 1e-3):
        change = layer_balance([one - rate * slopes[0], two - rate * slopes[1]])[0] - before
        assert change == pytest.approx(rate**2 * layer_balance(slopes)[0], rel=1e-6, abs=1e-12)


def test_heavy_ball_edge():
    """Section 6: v ← βv + g: eta_crit = 2(1+β)/λ*; the averaging form v ← βv + (1−β)g gains 1/(1−β)."""
    strength, layers, beta = 3.0, 3, 0.8
    place = (1 + strength) ** (1 / layers)
    edge = ToyModel(optimizer="momentum").boundary("eta_crit").numeric(gamma=strength, depth=layers, beta=beta)
    sharpness = layers * (1 + strength) ** (2 - 2 / layers) / strength**2
    assert edge == pytest.approx(2 * (1 + beta) / sharpness)
    for gain in (1.0, 1 - beta):
        for factor, stable in ((0.99, True), (1.01, False)):
            w, velocity = place * (1 + 1e-6), 0.0
            for _ in range(1000):
                slope = ((w**layers - 1) / strength - 1) * w ** (layers - 1) / strength
                velocity = beta * velocity + gain * slope
                w -= factor * edge / gain * velocity
            assert (abs(w / place - 1) < 1e-6) == stable


def test_sign_descent_window():
    """Section 6: eta_min = ((1+γ)^{1/L} − 1)/T, eta_max = ((1+γ) + δγ)^{1/L} − (1+γ)^{1/L}; exponents 1 and 1/L."""
    model, layers, budget, error = ToyModel(optimizer="sign"), 3, 500, 0.01
    for strength in (0.1, 50.0):
        low = model.boundary("eta_min").numeric(gamma=strength, depth=layers, steps=budget)
        high = model.boundary("eta_max").numeric(gamma=strength, depth=layers, delta=error)
        w = 1.0
        for _ in range(budget):
            w += low * np.sign(1 - (w**layers - 1) / strength)
        assert (w**layers - 1) / strength == pytest.approx(1, abs=1e-2)
        step = (1 + strength) ** (1 / layers) + high
        assert (step**layers - 1) / strength == pytest.approx(1 + error, rel=1e-9)
        approximate = error * strength / (layers * (1 + strength) ** (1 - 1 / layers))
        assert high == pytest.approx(approximate, rel=error)
    for name in ("eta_min", "eta_max"):
        assert model.boundary(name).limit("lazy", layers).exponent == 1
        assert model.boundary(name).limit("rich", layers).exponent == sp.Rational(1, layers)


def test_sign_descent_triangle_does_not_close():
    """Section 6: the window's ratio falls only from δT to δT/L; precisely to T((1+δ)^{1/L} − 1), δT/L for small δ."""
    model, layers, budget, error = ToyModel(optimizer="sign"), 4, 500, 0.01
    places = np.array([1e-8, 1.0, 1e40])
    high = model.boundary("eta_max").numeric(gamma=places, depth=layers, delta=error)
    ratio = high / model.boundary("eta_min").numeric(gamma=places, depth=layers, steps=budget)
    assert ratio[0] == pytest.approx(error * budget, rel=1e-6)
    assert ratio[2] == pytest.approx(budget * ((1 + error) ** (1 / layers) - 1), rel=1e-6)
    assert ratio[2] == pytest.approx(error * budget / layers, rel=error)
    assert ratio[0] > ratio[1] > ratio[2]
    assert model.apex(steps=budget, depth=layers, delta=error) == math.inf
