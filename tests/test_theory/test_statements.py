"""The statements of the theory about the γ–η plane (sections 2 and 3), one test each, in words.

Oracles: explicit weights and their losses at 40 digits, iterated gradient descent, and numerical quadrature.
"""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import sympy as sp

from theory import ToyModel, apex, apex_log10, symbols
from theory.cascade import amplitude_coefficient, flip_coefficient, zero_crossing_ratio
from theory.crisis import crisis_ratio, first_escape
from theory.losses import CROSS_ENTROPY, MSE
from theory.sharpness import eigenvalues_at_start, minimiser, saddle_gamma, sharpening_ratio, sharpness_at_minimum

gamma, L = symbols.gamma, symbols.depth
MODELS = {"mse": ToyModel(), "cross-entropy": ToyModel("cross-entropy")}
LABEL = 1 / (1 + math.exp(-1))
DEPTHS = (2, 3, 5)
STRENGTHS = (0.01, 0.7, 40.0)
PULL = {"mse": 1.0, "cross-entropy": LABEL - 0.5}  # |ℓ′(0)|


def excess(loss, output):
    """ℓ(f) above its minimum, at mpmath's precision."""
    if loss == "mse":
        return (output - 1) ** 2 / 2
    label = 1 / (1 + mpmath.exp(-1))
    return mpmath.log1p(mpmath.exp(output)) - label * output - (mpmath.log1p(mpmath.e) - label)


@mpmath.workdps(40)
def spectrum(loss, weights, strength):
    """Hessian eigenvalues, ascending, by second differences of the loss of explicit weights."""
    by = mpmath.mpf("1e-12")

    def energy(i, j, a, b):
        moved = [mpmath.mpf(value) for value in weights]
        moved[i] += a * by
        moved[j] += b * by
        return excess(loss, (mpmath.fprod(moved) - 1) / mpmath.mpf(strength))

    size = range(len(weights))
    rows = [[sum(a * b * energy(i, j, a, b) for a in (1, -1) for b in (1, -1)) for j in size] for i in size]
    return np.linalg.eigvalsh(np.array([[float(entry / (4 * by**2)) for entry in row] for row in rows]))


def at(expression, strength, layers):
    return float(expression.subs({gamma: sp.Float(strength, 20), L: layers}))


def flow_time(loss, strength, layers, output):
    """τ(f) = (γ/L) ∫₀^f (1+γs)^{2/L−2}/|ℓ′(s)| ds, in y = ln(1+γs), by numerical quadrature."""
    power = mpmath.mpf(2) / layers - 1

    def integrand(y):
        place = mpmath.expm1(y) / strength
        slope = 1 - place if loss == "mse" else LABEL - 1 / (1 + mpmath.exp(-place))
        return mpmath.exp(power * y) / slope

    end = mpmath.log1p(mpmath.mpf(strength) * output)
    return float(mpmath.quad(integrand, mpmath.linspace(0, end, 9)) / layers)


def iterate(layers, ratio, start, count):
    """z ← z − C z^{L−1}(z^L − 1) at C = (2/L)·ratio, frozen at |z| > 30; broadcasts."""
    strength, place = np.broadcast_arrays(2.0 / layers * np.asarray(ratio), np.asarray(start))
    for _ in range(count):
        moved = place - strength * place ** (layers - 1) * (place**layers - 1.0)
        place = np.where(np.abs(place) > 30.0, place, moved)
    return place


# --- section 2


def test_numbers_of_the_cross_entropy():
    """Section 2: the minimum is at f = 1 with excess 0; ℓ′(0) = 1/2 − σ(1) ≈ −0.23106, ℓ″(1) ≈ 0.19661."""
    assert CROSS_ENTROPY.minimum == 1
    assert float(CROSS_ENTROPY.excess.subs(symbols.f, 1)) == pytest.approx(0, abs=1e-15)
    assert -float(CROSS_ENTROPY.pull_at_start) == pytest.approx(-0.23106, abs=5e-6)
    assert CROSS_ENTROPY.numeric_curvature_at_minimum == pytest.approx(0.19661, abs=5e-6)


@pytest.mark.parametrize("layers", DEPTHS)
def test_one_parameter_reduction_has_L_times_the_step(layers):
    """Section 2: L separate weights step by (η/γ) w^{L−1} ℓ′(f); descent on w itself has L times this step."""
    strength, rate, w = 0.7, 0.1, 1.1

    def energy(*weights):
        return excess("mse", (mpmath.fprod(weights) - 1) / strength)

    separate = rate * mpmath.diff(lambda one: energy(one, *[w] * (layers - 1)), w)
    together = rate * mpmath.diff(lambda one: energy(*[one] * layers), w)
    assert float(separate) == pytest.approx(rate / strength * w ** (layers - 1) * ((w**layers - 1) / strength - 1))
    assert float(together / separate) == pytest.approx(layers)


# --- section 3: exponents, minimum and start


@pytest.mark.parametrize("layers", [3, 4])
def test_exponents_of_the_boundaries(layers):
    """Section 3, table: 2, 2, 2 lazy (cross-entropy eta_max: 1) and 1, 2/L, 2/L rich."""
    for loss, model in MODELS.items():
        found = {
            (name, regime): model.boundary(name).limit(regime, layers).exponent
            for name in ("eta_min", "eta_crit", "eta_max")
            for regime in ("lazy", "rich")
        }
        rich = sp.Rational(2, layers)
        assert [found[name, "rich"] for name in ("eta_min", "eta_crit", "eta_max")] == [1, rich, rich]
        assert found["eta_min", "lazy"] == found["eta_crit", "lazy"] == 2
        assert found["eta_max", "lazy"] == (2 if loss == "mse" else 1)


@pytest.mark.parametrize("layers", DEPTHS)
@pytest.mark.parametrize("strength", STRENGTHS)
def test_minimiser_and_sharpness_at_the_minimum(layers, strength):
    """Section 3: w* = (1+γ)^{1/L}; one non-zero eigenvalue λ* = L(1+γ)^{2−2/L}/γ² there; eta_crit = 2/λ*."""
    place = (1 + strength) ** (1 / layers)
    expected = layers * (1 + strength) ** (2 - 2 / layers) / strength**2
    values = spectrum("mse", [place] * layers, strength)
    assert values[-1] == pytest.approx(expected, rel=1e-9)
    assert np.abs(values[:-1]).max() < 1e-9 * expected
    assert at(minimiser(MSE), strength, layers) == pytest.approx(place)
    assert at(sharpness_at_minimum(MSE), strength, layers) == pytest.approx(expected)
    edge = MODELS["mse"].boundary("eta_crit").numeric(gamma=strength, depth=layers)
    assert edge == pytest.approx(2 / values[-1], rel=1e-9)


def test_local_exponent_of_eta_crit():
    """Section 3: d ln η_crit/d ln γ = 2(L+γ)/(L(1+γ)), with limits 2 and 2/L."""
    edge = MODELS["mse"].boundary("eta_crit")
    assert sp.simplify(edge.local_exponent - 2 * (L + gamma) / (L * (1 + gamma))) == 0
    assert sp.limit(edge.local_exponent, gamma, 0) == 2
    assert sp.limit(edge.local_exponent, gamma, sp.oo) == 2 / L
    for layers in DEPTHS:
        ends = [2 / spectrum("mse", [(1 + one) ** (1 / layers)] * layers, one)[-1] for one in (2.999, 3.001)]
        slope = math.log(ends[1] / ends[0]) / math.log(3.001 / 2.999)
        assert slope == pytest.approx(2 * (layers + 3) / (4 * layers), rel=1e-6)


@pytest.mark.parametrize("layers", DEPTHS)
@pytest.mark.parametrize("strength", STRENGTHS)
def test_curvature_at_start(layers, strength):
    """Section 3: at the start L/γ² − (L−1)/γ along (1,…,1), and 1/γ with multiplicity L−1 across it."""
    along, across = layers / strength**2 - (layers - 1) / strength, 1 / strength
    expected = sorted([along] + [across] * (layers - 1))
    assert spectrum("mse", [1.0] * layers, strength) == pytest.approx(expected, rel=1e-9)
    found = [at(value, strength, layers) for value in eigenvalues_at_start(MSE)]
    assert found == pytest.approx([along, across])


@pytest.mark.parametrize("layers", DEPTHS)
def test_start_is_a_saddle_above_L_over_L_minus_1(layers):
    """Section 3: the start turns from bowl to saddle at γ = L/(L−1) (MSE)."""
    turn = layers / (layers - 1)
    assert saddle_gamma(MSE) == L / (L - 1)
    assert spectrum("mse", [1.0] * layers, 0.999 * turn)[0] > 0 > spectrum("mse", [1.0] * layers, 1.001 * turn)[0]


def test_progressive_sharpening_ratio():
    """Section 3: progressive sharpening multiplies the sharpness by λ*/(1/γ) → L γ^{1−2/L}."""
    for layers in DEPTHS:
        strength = 1e7
        start = spectrum("mse", [1.0] * layers, strength)[-1]
        end = spectrum("mse", [(1 + strength) ** (1 / layers)] * layers, strength)[-1]
        assert end / start == pytest.approx(layers * strength ** (1 - 2 / layers), rel=1e-5)
        assert at(sharpening_ratio(MSE)[1], strength, layers) == pytest.approx(end / start, rel=1e-5)


@pytest.mark.parametrize("layers", DEPTHS)
@pytest.mark.parametrize("strength", STRENGTHS)
def test_cross_entropy_curvature_at_start(layers, strength):
    """Section 3: L/(4γ²) − |ℓ′(0)|(L−1)/γ along (1,…,1) and |ℓ′(0)|/γ across it."""
    pull = LABEL - 0.5
    along, across = layers / (4 * strength**2) - pull * (layers - 1) / strength, pull / strength
    values = spectrum("cross-entropy", [1.0] * layers, strength)
    assert values == pytest.approx(sorted([along] + [across] * (layers - 1)), rel=1e-9)
    found = [at(value, strength, layers) for value in eigenvalues_at_start(CROSS_ENTROPY)]
    assert found == pytest.approx([along, across])


def test_cross_entropy_sharpness_has_the_factor_of_its_curvature():
    """Section 3: for cross-entropy λ* is that of MSE times ℓ″(1), and eta_crit = 2/λ*."""
    for layers, strength in ((2, 0.01), (3, 0.7), (5, 40.0)):
        sharpness = spectrum("cross-entropy", [(1 + strength) ** (1 / layers)] * layers, strength)[-1]
        mse = layers * (1 + strength) ** (2 - 2 / layers) / strength**2
        assert sharpness / mse == pytest.approx(LABEL * (1 - LABEL), rel=1e-9)
        edge = MODELS["cross-entropy"].boundary("eta_crit").numeric(gamma=strength, depth=layers)
        assert edge == pytest.approx(2 / sharpness, rel=1e-9)


# --- section 3: above the stability edge


def test_conjugacy_of_the_mse_map():
    """Section 3: with z = w/(1+γ)^{1/L}, z ← z − C z^{L−1}(z^L − 1), C = (2/L) η/eta_crit, exactly, at every γ."""
    for layers in (2, 3, 4):
        for strength in STRENGTHS:
            unit, ratio = (1 + strength) ** (1 / layers), 1.3
            rate = ratio * MODELS["mse"].boundary("eta_crit").numeric(gamma=strength, depth=layers)
            weights = np.ones(layers)
            for _ in range(5):
                product = weights.prod()
                weights = weights - rate / strength * (product / weights) * ((product - 1) / strength - 1)
            assert weights / unit == pytest.approx(float(iterate(layers, ratio, 1 / unit, 5)), rel=1e-9)


@pytest.mark.parametrize("layers", [2, 3, 4, 5, 6])
def test_supercritical_period_doubling_at_eta_crit(layers):
    """Section 3: above eta_crit the minimum is unstable (supercritical period doubling): a bounded orbit takes over."""
    assert float(flip_coefficient().subs(L, layers)) > 0
    below, above = 0.99, 1.001
    assert float(iterate(layers, below, 0.9, 3000)) == pytest.approx(1, abs=1e-9)
    settled = iterate(layers, above, 0.9, 10_000)
    orbit = [float(iterate(layers, above, settled, count)) for count in (0, 1, 2)]
    assert orbit[0] == pytest.approx(orbit[2], abs=1e-10)
    amplitude = float(amplitude_coefficient().subs(L, layers)) * math.sqrt(above - 1)
    assert abs(orbit[1] - orbit[0]) / 2 == pytest.approx(amplitude, rel=2e-2)  # corrections are of order above − 1


def test_crisis_ratios():
    """Section 3: eta_max/eta_crit = 2 exactly for L = 2 (4(1+C)³ = 27(2+C)), about 2.150, 2.409, 2.494, 2.647 for 3…6.

    The number is the boundary crisis: below it no start escapes, above it some do. A given run, from its own start,
    first escapes at the crisis or later.
    """
    C = sp.Symbol("C", positive=True)
    assert sp.solve(4 * (1 + C) ** 3 - 27 * (2 + C), C) == [2]
    assert [crisis_ratio(n) for n in (2, 3, 4, 5, 6)] == pytest.approx([2, 2.150, 2.409, 2.494, 2.647], abs=5e-4)
    starts = np.linspace(1e-3, 1, 2001)
    for layers in (2, 3, 4, 5, 6):
        for factor, escapes in ((0.9999, False), (1.01, True)):
            ends = iterate(layers, factor * crisis_ratio(layers), starts, 500)
            assert (np.abs(ends) > 30).any() == escapes
    assert first_escape(gamma=100.0, depth=4) >= crisis_ratio(4)


@pytest.mark.parametrize("layers", [3, 4])
def test_escaping_set_is_fractal_above_the_crisis(layers):
    """Section 3: above the crisis, for L ≥ 3, the set of escaping η is fractal: finer grids find ever more windows."""
    switches = []
    for count in (500, 5000, 50_000):
        ratios = np.linspace(1.0, 1.1, count) * crisis_ratio(layers)
        escaped = np.abs(iterate(layers, ratios, 0.2, 150)) > 30
        switches.append(int((escaped[1:] != escaped[:-1]).sum()))
    assert switches[0] > 0
    assert switches[1] > 2 * switches[0]
    assert switches[2] > 2 * switches[1]


@pytest.mark.parametrize(("layers", "number"), [(3, 1.83), (5, 2.11)])
def test_trapping_for_odd_depth(layers, number):
    """Section 3: z = 0 attracts from the left, so from η/eta_crit ≈ 1.83 (L = 3), 2.11 (L = 5) orbits can be trapped.

    They can: some starts are, not all, and none is below that ratio.
    """
    assert zero_crossing_ratio(layers) == pytest.approx(number, abs=5e-3)
    starts = np.linspace(1e-3, 1, 4001)
    for factor, trapped in ((0.999, False), (1.01, True)):
        ends = iterate(layers, factor * zero_crossing_ratio(layers), starts, 2000)
        assert (np.abs(ends) < 2).all()
        assert (ends < 0).any() == trapped
    near = iterate(layers, 2.0, -0.1, np.array(20_000))
    assert -0.1 < near < 0


# --- section 3: eta_min and the triangle


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_eta_min_brings_the_loss_to_its_level_at_step_T(loss):
    """Section 3: eta_min is the η whose gradient flow brings the loss to level·L₀ at step T (level 0.9)."""
    layers, budget = 3, 20_000
    for strength in (0.01, 30.0):
        rate = MODELS[loss].boundary("eta_min").numeric(gamma=strength, depth=layers, steps=budget)
        w = 1.0
        for _ in range(budget):
            output = (w**layers - 1) / strength
            slope = output - 1 if loss == "mse" else 1 / (1 + math.exp(-output)) - LABEL
            w -= rate / strength * w ** (layers - 1) * slope
        ratio = excess(loss, (w**layers - 1) / strength) / excess(loss, 0)
        assert float(ratio) == pytest.approx(0.9, abs=1e-3)  # descent follows the flow up to O(1/T)


def test_eta_min_of_two_rich_layers_is_gamma_ln_gamma_over_T():
    """Section 3: for L = 2 and γ ≫ 1, eta_min is γ ln γ/T.

    Precisely γ(ln γ + ln(f/(1−f)))/(2T) for MSE, f = 1 − √0.9: proportional to γ ln γ, with the coefficient ½.
    """
    values = [
        MODELS["mse"].boundary("eta_min").numeric(gamma=one, depth=2, steps=1) / one for one in (1e20, 1e40, 1e80)
    ]
    assert np.diff(values) / np.diff(np.log([1e20, 1e40, 1e80])) == pytest.approx([0.5, 0.5], rel=1e-9)
    assert values[0] == pytest.approx(flow_time("mse", 1e20, 2, 1 - math.sqrt(0.9)), rel=1e-9)


def test_eta_min_rich_slopes_1_21_1_08_1_03():
    """Section 3: even for L = 3 the slope approaches 1 slowly: 1.21, 1.08, 1.03 in successive decades from γ = 10²."""
    places = np.array([1e2, 1e3, 1e4, 1e5])
    exact = [one * flow_time("mse", one, 3, 1 - math.sqrt(0.9)) for one in places]
    assert np.diff(np.log10(exact)) == pytest.approx([1.21, 1.08, 1.03], abs=6e-3)
    found = MODELS["mse"].boundary("eta_min").numeric(gamma=places, depth=3, steps=1)
    assert found == pytest.approx(exact, rel=1e-9)


def test_rich_and_lazy_coefficients_of_eta_min():
    """Section 3: rich, L > 2: γ/((L−2)|ℓ′(0)|T); lazy MSE at level 0.9: 0.0527 γ²/(LT)."""
    for loss, layers in (("mse", 4), ("cross-entropy", 4), ("mse", 6), ("cross-entropy", 6)):
        expected = 1 / ((layers - 2) * PULL[loss])
        found = MODELS[loss].boundary("eta_min").limit("rich", layers).coefficient * symbols.steps
        assert float(sp.simplify(found)) == pytest.approx(expected)
        assert flow_time(loss, 1e14, layers, 0.05) == pytest.approx(expected, rel=1e-5)
    assert -math.log(0.9) / 2 == pytest.approx(0.0527, abs=5e-5)
    lazy = MODELS["mse"].boundary("eta_min").numeric(gamma=1e-7, depth=3, steps=50) / 1e-14
    assert lazy == pytest.approx(-math.log(0.9) / 2 / (3 * 50), rel=1e-6)


@pytest.mark.parametrize(("layers", "budget"), [(2, 3.0), (3, 20.0), (4, 20.0)])
def test_apex_where_the_integral_equals_twice_the_budget(layers, budget):
    """Section 3: they meet where T = ½ ∫ s^{−(2−2/L)}/(1−s) ds from 1/(1+γ) to (1+γf)/(1+γ), f = 1 − √level."""
    place, output = mpmath.mpf(apex(steps=budget, depth=layers)), 1 - mpmath.sqrt(mpmath.mpf("0.9"))
    ends = mpmath.log(1 / (1 + place)), mpmath.log((1 + place * output) / (1 + place))  # s = e^x
    integral = mpmath.quad(
        lambda x: mpmath.exp(x * (mpmath.mpf(2) / layers - 1)) / (1 - mpmath.exp(x)), mpmath.linspace(*ends, 9)
    )
    assert float(integral / 2) == pytest.approx(budget, rel=1e-9)


def test_apex_values_for_T_1000():
    """Section 3: T = 1000: exact 2.998·10⁸ for L = 3, 1.0084·10⁶ for L = 4."""
    assert apex(steps=1000, depth=3) == pytest.approx(2.998e8, rel=2e-4)
    assert apex(steps=1000, depth=4) == pytest.approx(1.0084e6, rel=1e-4)


def test_apex_leading_forms():
    """Section 3: γ_max = (2(L−2)T/L)^{L/(L−2)} for L > 2 and ((1−f)e^{2T} − 1)/f for L = 2."""
    for layers in (3, 4, 6):
        leading = layers / (layers - 2) * math.log10(2 * (layers - 2) * 1e9 / layers)
        assert apex_log10(steps=1e9, depth=layers) == pytest.approx(leading, rel=1e-6)
    output = 1 - math.sqrt(0.9)
    assert apex(steps=5, depth=2) == pytest.approx(((1 - output) * math.exp(10) - 1) / output, rel=1e-10)
