"""The apex of the triangle of optimizability on the discrete map, against where eta_min meets eta_crit in theory.

The map needs more of the budget than the flow does, by the steps that it makes at large rates, so that its apex lies
lower, and approaches the flow's as the budget grows.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from simulate import Thresholds, run_gradient_descent
from simulate.toy import find_apex
from theory import ToyModel
from theory.errors import InputError


def plain_tail(gamma, eta, depth, steps):
    """Mean loss of the last 2 % of a float64 loop for MSE; NaN where it leaves the floats."""
    w, losses = 1.0, []
    for _ in range(steps):
        w -= eta / gamma * w ** (depth - 1) * ((w**depth - 1) / gamma - 1)
        losses.append(0.5 * ((w**depth - 1) / gamma - 1) ** 2)
        if not abs(w) < 1e9:
            return math.nan
    return float(np.mean(losses[-max(1, round(0.02 * steps)) :]))


@pytest.mark.parametrize(("depth", "predicted"), [(3, 2.998e8), (4, 1.0084e6)])
def test_the_apex_is_that_of_theory_a_few_per_cent_lower(depth, predicted):
    found = find_apex(depth=depth, steps=1000)
    assert found.predicted == pytest.approx(predicted, rel=1e-3)
    assert found.predicted == ToyModel().apex(steps=1000, depth=depth)
    assert 0.93 < found.gamma / predicted < 1.0
    assert found.gamma_low < found.gamma < found.gamma_high
    assert math.log10(found.gamma_high / found.gamma_low) <= 1e-3


@pytest.mark.parametrize("depth", [3, 4])
def test_the_bracket_holds_what_a_plain_loop_says(depth):
    steps = 200
    found = find_apex(depth=depth, steps=steps)
    edge = ToyModel().boundary("eta_crit")

    def best(gamma):
        top = float(edge.numeric(gamma=np.array([gamma]), depth=depth)[0])
        return min(plain_tail(gamma, share * top, depth, steps) for share in np.geomspace(0.3, 1.0, 60))

    # 60 rates against the package's 49: the best of either is at or next to eta_crit
    assert best(found.gamma_low * 0.995) <= 0.9 * 0.5
    assert best(found.gamma_high * 1.005) > 0.9 * 0.5


@pytest.mark.parametrize(("depth", "loss"), [(3, "mse"), (4, "mse"), (5, "mse"), (3, "cross-entropy")])
def test_the_gap_to_theory_closes_as_the_budget_grows(depth, loss):
    budgets = [300, 1000, 3000, 10_000]
    gaps = []
    for steps in budgets:
        found = find_apex(depth=depth, steps=steps, loss=loss, resolution=1e-4)
        gaps.append(1 - found.gamma / found.predicted)
    # At the apex the drop is sudden: the tail's mean is at 0.9 L₀ when a tenth of the tail, 0.2 % of T, comes after the
    # drop. With γ ∝ T^{L/(L−2)} that share of γ lasts; what discreteness adds shrinks.
    lasting = 0.002 * depth / (depth - 2)
    assert all(first > second for first, second in pairwise(gaps))
    assert lasting < gaps[-1] < 2 * lasting
    assert gaps[0] > 3 * gaps[-1]


def test_a_shorter_tail_brings_the_apex_nearer():
    short = find_apex(depth=3, steps=3000, resolution=1e-4, thresholds=Thresholds(tail_fraction=1e-3))
    usual = find_apex(depth=3, steps=3000, resolution=1e-4)
    assert usual.gamma < short.gamma < usual.predicted
    assert short.gamma / short.predicted > 0.99


def test_nothing_trains_above_and_something_below():
    found = find_apex(depth=3, steps=500)
    top = ToyModel().boundary("eta_crit")
    for gamma, trains in ((found.gamma_low, True), (found.gamma_high * 1.01, False)):
        eta = np.geomspace(1e-3, 1, 400) * float(top.numeric(gamma=np.array([gamma]), depth=3)[0])
        cells = run_gradient_descent(np.full(400, gamma), eta, depth=3, steps=500)
        assert (cells.final_loss <= 0.9 * cells.initial_loss).any() == trains


def test_momentum_raises_the_apex():
    # T(1+β)/(1−β) in place of T: γ ∝ T³ at L = 3
    beta = 0.5
    found = find_apex(depth=3, steps=1000, optimizer="momentum", beta=beta)
    assert found.predicted == pytest.approx(ToyModel().apex(steps=3000, depth=3), rel=1e-6)
    assert 0.85 < found.gamma / found.predicted < 1.0


def test_two_layers_close_far_below_the_prediction():
    # every step on the plateau is large there: w doubles or triples at each
    found = find_apex(depth=2, steps=20)
    assert found.gamma < 0.1 * found.predicted
    assert math.log10(found.gamma_high / found.gamma_low) <= 1e-3


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("depth", {"depth": 1}),
        ("depth", {"depth": 2.0}),
        ("steps", {"steps": 0}),
        ("steps", {"steps": 1e3}),
        ("resolution", {"resolution": 0.0}),
        ("optimizer", {"optimizer": "sign"}),
        ("loss", {"loss": "hinge"}),
        ("steps", {"depth": 2, "steps": 1000}),  # γ = e^{2000}
    ],
)
def test_bad_input_names_its_field(field, change):
    with pytest.raises(InputError) as caught:
        find_apex(**({"depth": 3, "steps": 100} | change))
    assert caught.value.field == field
