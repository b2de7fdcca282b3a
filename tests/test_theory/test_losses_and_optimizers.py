"""Cross-entropy, user losses, momentum and sign descent.

Oracles that share no formula with the package: eigenvalues by NumPy of the Hessian of L explicit weights, 50-digit
mpmath quadrature in the weight with σ written out, the maps themselves iterated in float64, and the thresholds of the
piecewise polynomial limit.
"""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import InputError, ToyModel, symbols
from theory.escape import escape_rate
from theory.losses import CROSS_ENTROPY, MSE, exact_output
from theory.sharpness import spectrum

CE, HEAVY, SIGN = ToyModel("cross-entropy"), ToyModel(optimizer="momentum"), ToyModel(optimizer="sign")
F = sp.Symbol("F")
LABEL = 1 / (1 + np.exp(-1.0))
GAMMAS = np.array([1e-8, 1e-5, 0.01, 0.3, 1.0, 7.0, 1e3, 1e6, 1e8])
gammas = st.floats(-8, 8).map(lambda exponent: 10.0**exponent)
depths = st.integers(2, 64)


def sigma(x):
    return 1 / (1 + mpmath.exp(-x))


def hessian(weights, strength, loss):
    """ℓ″ ∂f∂f + ℓ′ ∂∂f from products that leave out one or two weights."""
    count, output = len(weights), (np.prod(weights) - 1) / strength
    s = 1 / (1 + np.exp(-output))
    slope, bend = (output - 1, 1.0) if loss == "mse" else (s - LABEL, s * (1 - s))
    without = np.array([np.prod(np.delete(weights, i)) for i in range(count)]) / strength
    second = [
        [0 if i == j else np.prod(np.delete(weights, [i, j])) / strength for j in range(count)] for i in range(count)
    ]
    return bend * np.outer(without, without) + slope * np.array(second)


@pytest.mark.parametrize("loss", [MSE, CROSS_ENTROPY])
@pytest.mark.parametrize("depth", range(2, 9))
@pytest.mark.parametrize(("strength", "weight"), [(0.3, 1.0), (5.0, 1.2), (30.0, 1.5)])
def test_whole_spectrum_along_the_balanced_line(loss, depth, strength, weight):
    along, across = (
        float(part.subs(symbols.depth, depth).subs({symbols.w: weight, symbols.gamma: strength}))
        for part in spectrum(loss)
    )
    found = np.linalg.eigvalsh(hessian(np.full(depth, weight), strength, loss.name))
    expected = np.sort([along] + [across] * (depth - 1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("depth", [2, 3, 5, 8])
def test_spectrum_does_not_depend_on_the_order_of_layers(depth):
    rng = np.random.default_rng(depth)
    weights, order = rng.uniform(0.5, 1.5, depth), rng.permutation(depth)
    first, second = (np.linalg.eigvalsh(hessian(one, 2.0, "ce")) for one in (weights, weights[order]))
    np.testing.assert_allclose(first, second, atol=1e-13)


@pytest.mark.parametrize("depth", [1, 2, 3, 8])
@pytest.mark.parametrize("strength", [0.01, 1.0, 30.0])
def test_cross_entropy_eta_crit_is_two_over_the_largest_eigenvalue(depth, strength):
    top = np.linalg.eigvalsh(hessian(np.full(depth, (1 + strength) ** (1 / depth)), strength, "ce"))[-1]
    assert CE.boundary("eta_crit").numeric(gamma=strength, depth=depth) == pytest.approx(2 / top, rel=1e-11)


def exact_ce_flow(strength, depth, part):
    """eta_min·T: root of the loss, then ∫ dt of the flow in y = ln w, all to 50 digits."""
    with mpmath.workdps(50):
        gamma, one = mpmath.mpf(strength), mpmath.mpf(1)

        def excess(x):
            return mpmath.log(1 + mpmath.exp(x)) - sigma(one) * x

        floor = excess(one)
        goal = mpmath.mpf(part) * (excess(mpmath.mpf(0)) - floor)
        output = mpmath.findroot(lambda x: excess(x) - floor - goal, (0, 1 - mpmath.mpf(10) ** -12), solver="anderson")
        end = mpmath.log1p(gamma * output) / depth

        def waiting(y):
            return gamma * mpmath.exp((2 - depth) * y) / (sigma(one) - sigma(mpmath.expm1(depth * y) / gamma))

        return mpmath.quad(waiting, mpmath.linspace(0, end, 8))


@pytest.mark.parametrize("depth", [2, 3, 8, 64])
@pytest.mark.parametrize("part", [0.9, 0.05])
def test_cross_entropy_eta_min_matches_50_digit_quadrature(depth, part):
    chosen = GAMMAS[::2] if part == 0.9 else GAMMAS[::4]
    ours = CE.boundary("eta_min").numeric(gamma=chosen, depth=depth, steps=1000, level=part)
    for strength, value in zip(chosen, ours, strict=True):
        exact = exact_ce_flow(strength, depth, part) / 1000
        assert abs(float(value / exact - 1)) < 1e-12, (strength, value, exact)


@pytest.mark.parametrize("depth", [3, 4, 8, 64])
def test_rich_expansion_holds_to_its_stated_error(depth):
    limit = CE.boundary("eta_min").limit("rich", depth)
    integral = limit.correction.atoms(sp.Integral).pop()
    ((variable, _, high),) = integral.limits
    high = mpmath.mpf(exact_output(CROSS_ENTROPY, 0.9))
    finite = mpmath.quad(sp.lambdify(variable, integral.function, "mpmath"), [0, high / 1000, high / 10, high])
    symbol = sp.Symbol("I")
    correction = limit.correction.xreplace({integral: symbol}).subs({
        symbol: sp.Float(finite),
        symbols.level: sp.Float(0.9),
    })
    for strength in (1e3, 1e5, 1e7):
        factor = 1 + float(correction.subs(symbols.gamma, strength).evalf())
        leading = float(limit.coefficient.subs(symbols.steps, 10)) * strength
        exact = CE.boundary("eta_min").numeric(gamma=strength, depth=depth, steps=10)
        assert abs(leading * factor / exact - 1) < 60 / strength  # O(1/(γf)), f = 0.049


@given(gammas.filter(lambda value: value < 1), depths)
@settings(deadline=None)
def test_lazy_expansion_holds_to_its_bound(strength, depth):
    low = CE.boundary("eta_min")
    near = low.numeric(gamma=1e-12, depth=depth, steps=1) * (strength / 1e-12) ** 2
    output = float(exact_output(CROSS_ENTROPY, 0.9))
    power = 2 - 2 / depth
    ratio = low.numeric(gamma=strength, depth=depth, steps=1) / near
    # M₁/M₀ lies between 0 and f
    assert 1 - power * strength * output - 1e-10 <= ratio <= 1 + 1e-10


@pytest.mark.parametrize(
    ("depth", "coefficient"), [(2, 2 / (1 - LABEL)), (3, 2.255), (4, 1.590), (5, 1.111), (6, 0.931)]
)
def test_cross_entropy_diverges_at_a_multiple_of_gamma(depth, coefficient):
    high = CE.boundary("eta_max")
    assert high.limit("lazy", depth).exponent == 1
    assert float(high.limit("lazy", depth).coefficient.evalf()) == pytest.approx(coefficient, abs=6e-4)
    assert high.numeric(gamma=1e-8, depth=depth) / 1e-8 == pytest.approx(coefficient, abs=6e-4)
    # the map of any γ and the threshold of the limiting map are found in different ways
    limit = float(high.limit("lazy", depth).coefficient.evalf())
    assert high.numeric(gamma=1e-8, depth=depth) / 1e-8 == pytest.approx(limit, rel=1e-6)
    far = high.numeric(gamma=[1e-150, 1e-30], depth=depth) / [1e-150, 1e-30]
    np.testing.assert_allclose(far, limit, rtol=1e-9)
    if depth % 2 == 0:
        c = high.numeric(gamma=1e-8, depth=depth) / 1e-8
        assert c * (1 - LABEL) * (1 + c * LABEL) ** (depth - 2) == pytest.approx(2, rel=1e-6)


def heavy_ball(weights, *, strength, eta, beta, loss, count):
    speed = np.zeros_like(weights)
    for _ in range(count):
        with np.errstate(all="ignore"):
            output = (np.prod(weights) - 1) / strength
            slope = output - 1 if loss == "mse" else 1 / (1 + np.exp(-output)) - LABEL
            speed = beta * speed + slope * np.prod(weights) / weights / strength
            weights = weights - eta * speed
    return (np.prod(weights) - 1) / strength


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("strength", [0.05, 3.0])
def test_cross_entropy_eta_max_by_iterating_the_map(depth, strength):
    edge = float(CE.boundary("eta_max").numeric(gamma=strength, depth=depth))
    starts = np.linspace(0.001, 1, 2000) * (1 + strength) ** (1 / depth)
    escaped = []
    for factor in (0.995, 1.03):
        weights = starts.copy()
        for _ in range(300):
            with np.errstate(all="ignore"):
                pull = 1 / (1 + np.exp(-(weights**depth - 1) / strength)) - LABEL
                weights = weights - factor * edge / strength * weights ** (depth - 1) * pull
            weights[~(np.abs(weights) < 1e6)] = np.nan
        escaped.append(bool(np.isnan(weights).any()))
    assert escaped == [False, True]


@given(gammas, st.integers(2, 30))
@settings(max_examples=40, deadline=None)
def test_crisis_of_any_loss_reduces_to_that_of_mse(strength, depth):
    ours = escape_rate(MSE, np.array([strength]), depth)[0]
    assert ours == pytest.approx(ToyModel().boundary("eta_max").numeric(gamma=strength, depth=depth), rel=1e-11)


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize(("depth", "beta"), [(2, 0.5), (3, 0.9), (5, 0.3)])
def test_heavy_ball_stability_edge(loss, depth, beta):
    strength = 2.0
    edge = ToyModel(loss, "momentum").boundary("eta_crit").numeric(gamma=strength, depth=depth, beta=beta)
    start = np.full(depth, (1 + strength) ** (1 / depth) * (1 + 1e-8))
    runs = [
        heavy_ball(start.copy(), strength=strength, eta=edge * factor, beta=beta, loss=loss, count=3000)
        for factor in (0.997, 1.003)
    ]
    deviation = abs((start**depth)[0] - 1 - strength) / strength
    assert abs(runs[0] - 1) < deviation < abs(runs[1] - 1) / 2


@pytest.mark.parametrize("depth", [1, 2, 3, 8])
@pytest.mark.parametrize("strength", [0.01, 1.0, 1e4])
def test_sign_descent_by_iteration(depth, strength):
    rate = SIGN.boundary("eta_min").numeric(gamma=strength, depth=depth, steps=40)
    weights = np.ones(depth)
    for _ in range(40):
        weights = weights + rate  # every gradient is negative below the minimum
    assert (np.prod(weights) - 1) / strength == pytest.approx(1, rel=1e-10)
    last = SIGN.boundary("eta_max").numeric(gamma=strength, depth=depth, delta=0.1)
    assert (np.prod(weights + last) - 1) / strength == pytest.approx(1.1, rel=1e-10)


@pytest.mark.parametrize("name", ["eta_min", "eta_max"])
@pytest.mark.parametrize("depth", [2, 3, 64])
def test_sign_descent_matches_50_digits(name, depth):
    ours = SIGN.boundary(name).numeric(gamma=GAMMAS, depth=depth, steps=7, delta=0.25)
    with mpmath.workdps(50):
        for strength, value in zip(GAMMAS, ours, strict=True):
            u, root = 1 + mpmath.mpf(strength), mpmath.mpf(1) / depth
            ends = ((u**root - 1) / 7) if name == "eta_min" else (u + mpmath.mpf(strength) / 4) ** root - u**root
            assert abs(float(value / ends - 1)) < 1e-13


MODELS = [
    (CE, {}),
    (HEAVY, {"beta": 0.9}),
    (ToyModel("cross-entropy", "momentum"), {"beta": 0.5}),
    (SIGN, {"delta": 0.1}),
]


@pytest.mark.parametrize(("model", "extra"), MODELS)
@pytest.mark.parametrize("depth", [2, 3, 7])
def test_exponent_is_the_central_difference_and_boundaries_rise(model, extra, depth):
    h = 1e-4
    for name in model.boundary_names:
        edge = model.boundary(name)
        low, high = (edge.numeric(gamma=GAMMAS * np.exp(x), depth=depth, steps=50, **extra) for x in (-h, h))
        slope = edge.numeric_exponent(gamma=GAMMAS, depth=depth, steps=50, **extra)
        np.testing.assert_allclose(slope, np.log(high / low) / (2 * h), rtol=0, atol=1e-8)
        assert (slope > 0).all()


@given(gammas, st.integers(2, 12), st.floats(10, 1e5))
@settings(max_examples=30, deadline=None)
def test_boundaries_are_ordered_where_the_window_is_open(strength, depth, budget):
    low, crit, high = (
        CE.boundary(name).numeric(gamma=strength, depth=depth, steps=budget) for name in CE.boundary_names
    )
    assert crit < high
    top = CE.apex(steps=budget, depth=depth)
    if abs(strength / top - 1) > 1e-6:
        assert (low < crit) == (strength < top)


@given(gammas, st.integers(2, 12), st.floats(0.2, 5), st.floats(0.5, 2))
@settings(max_examples=40, deadline=None)
def test_scaling_symmetry_by_iterating_the_map(strength, depth, place, scale):
    """The same orbit, in units of y and w₀, from the model in its own units."""
    plain = ToyModel().boundary("eta_crit").numeric(gamma=strength * place / scale**depth, depth=depth)
    scaled = ToyModel(target=place, init_scale=scale).boundary("eta_crit").numeric(gamma=strength, depth=depth)
    weight, unit = scale, 1.0
    for _ in range(5):
        output = (weight**depth - scale**depth) / strength
        weight -= scaled / 3 / strength * weight ** (depth - 1) * (output - place)
        inner = strength * place / scale**depth
        unit -= plain / 3 / inner * unit ** (depth - 1) * ((unit**depth - 1) / inner - 1)
    assert weight / scale == pytest.approx(unit, rel=1e-7)


def test_symbolic_target_and_scale():
    model = ToyModel(target=symbols.target, init_scale=symbols.init_scale)
    edge = model.boundary("eta_crit")
    numbers = {symbols.depth: 3, symbols.gamma: 2, symbols.target: 5, symbols.init_scale: sp.Rational(1, 2)}
    numeric = ToyModel(target=5, init_scale=0.5).boundary("eta_crit").numeric(gamma=2.0, depth=3)
    assert float(edge.expr.subs(numbers)) == pytest.approx(float(numeric), rel=1e-13)
    with pytest.raises(InputError, match="numbers for a numeric form"):
        edge.numeric(gamma=1.0, depth=3)


def test_user_loss_is_the_named_one():
    softplus = sp.log(1 + sp.exp(F)) - F / (1 + sp.exp(-1))
    user = ToyModel(softplus)
    for name in CE.boundary_names:
        ours, theirs = (
            model.boundary(name).numeric(gamma=[0.01, 1.0, 100.0], depth=3, steps=9) for model in (user, CE)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-11)
    quadratic = ToyModel((F - 2) ** 2 / 2)
    for name in ToyModel().boundary_names:
        ours = quadratic.boundary(name).numeric(gamma=[0.01, 100.0], depth=4, steps=9)
        np.testing.assert_allclose(
            ours, ToyModel(target=2).boundary(name).numeric(gamma=[0.01, 100.0], depth=4, steps=9), rtol=1e-11
        )


@pytest.mark.parametrize("depth", [2, 3, 8, 64])
@pytest.mark.parametrize("strength", [1e-8, 1e-3, 1.0, 40.0, 1e8])
def test_cross_entropy_eta_max_solves_its_condition_to_50_digits(depth, strength):
    ours = float(CE.boundary("eta_max").numeric(gamma=strength, depth=depth))
    with mpmath.workdps(50):
        gamma, pull = mpmath.mpf(strength), sigma(mpmath.mpf(1))

        def push(w):
            return w ** (depth - 1) * (sigma((w**depth - 1) / gamma) - pull)

        def excess(place):
            """g(g(m)) - m at the rate whose critical point has the output `place`, and that rate."""
            w = (1 + gamma * place) ** (mpmath.mpf(1) / depth)
            h = w * mpmath.mpf(10) ** -20 * min(gamma, 1)
            rate = 2 * h / (push(w + h) - push(w - h))
            top = w - rate * push(w)
            across = top - rate * push(top)
            return across - rate * push(across) - top, rate

        def rate_at(place):
            return excess(place)[1]

        # the output of the critical point at our rate, then the sign of the condition 1e-12 on either side of it
        low, high = -1 / gamma, mpmath.mpf(1)
        signs = []
        for side in (1 - mpmath.mpf(10) ** -12, 1 + mpmath.mpf(10) ** -12):
            a, b = low, high
            for _ in range(150):
                middle = (a + b) / 2
                beyond = middle <= -1 / gamma or not 0 < rate_at(middle) * gamma < ours * side
                a, b = (middle, b) if beyond else (a, middle)
            signs.append(excess(b)[0] > 0)
        assert signs == [False, True]


@pytest.mark.parametrize("depth", [3, 5, 7])
@pytest.mark.parametrize("strength", [1e-4, 0.3, 2.0, 1e3])
def test_the_map_falls_from_the_minimiser_to_its_edge_for_odd_depth(depth, strength):
    """What the argument of theory.escape needs besides convexity: min of g over [w*, m] is g(m)."""
    rate = float(CE.boundary("eta_max").numeric(gamma=strength, depth=depth)) / strength

    def image(w):
        with np.errstate(over="ignore"):
            return w - rate * w ** (depth - 1) * (1 / (1 + np.exp(-(w**depth - 1) / strength)) - LABEL)

    end = (1 + strength) ** (1 / depth)
    top = image(np.linspace(0, end, 200_001)).max()
    beyond = image(np.linspace(end, top, 200_001))
    assert beyond.min() >= beyond[-1] - 1e-9 * abs(beyond[-1])


@pytest.mark.parametrize("place", [0.5, 3.0])
def test_cross_entropy_with_another_label(place):
    model = ToyModel("cross-entropy", target=place)
    label = 1 / (1 + np.exp(-place))
    edge = model.boundary("eta_crit").numeric(gamma=2.0, depth=3)
    sharp = 3 * label * (1 - label) * (1 + 2.0 * place) ** (4 / 3) / 4
    assert edge == pytest.approx(2 / sharp, rel=1e-12)
