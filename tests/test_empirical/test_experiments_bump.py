"""The experiments on the bump: the two-layer formula against an integrated flow, tables of known laws, a tiny run."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from empirical import experiments_bump as experiment
from empirical.bump_setups import Setup, batches, make_ensemble, watched
from empirical.bump_tables import LAZY_WINDOW, RICH_WINDOW, bumps, corner_law, edges, fit_corner, orders
from simulate import Outcome, Thresholds
from theory.errors import InputError

SMALL = Setup("small", depth=2, batch=16, steps=60, width=16)


def flow_end(gamma, correlation, n=8):
    """u, v at the end of the gradient flow of (u·v/(γn) − start − 1)²/2, |u₀|² = |v₀|² = n, by an ODE solver."""
    draw = np.linalg.qr(np.random.default_rng(0).standard_normal((n, 2)))[0].T * n**0.5
    u0, v0 = draw[0], correlation * draw[0] + (1 - correlation**2) ** 0.5 * draw[1]

    def slope(_t, w):
        u, v = w[:n], w[n:]
        r = (u @ v - u0 @ v0) / (gamma * n) - 1
        return -r / gamma * np.concatenate([v, u])

    end = solve_ivp(slope, (0, 60 * gamma), np.concatenate([u0, v0]), method="DOP853", rtol=1e-10, atol=1e-12).y[:, -1]
    return end, u0 @ v0


@pytest.mark.parametrize(("gamma", "correlation"), [(0.3, 0.0), (1.0, 0.0), (5.0, 0.0), (1.0, 0.5), (2.0, 1.0)])
def test_two_layer_sharpness_is_the_hessian_at_the_end_of_an_integrated_flow(gamma, correlation):
    n = 8
    end, offset = flow_end(gamma, correlation, n)

    def loss(w):
        return ((w[:n] @ w[n:] - offset) / (gamma * n) - 1) ** 2 / 2

    hessian = torch.autograd.functional.hessian(loss, torch.tensor(end))
    top = n * float(torch.linalg.eigvalsh(hessian)[-1])  # the weights' step is ηn
    # the flow has run for 60 γ/γ times the slowest rate, 2 or more: e^{−60} is left; the solver is good to 1e-9
    assert top == pytest.approx(float(experiment.two_layer_sharpness(gamma, correlation)), rel=1e-6)


@given(st.floats(1e-4, 1e4), st.floats(0, 1))
def test_no_minimum_is_flatter_than_the_flattest_nor_sharper_than_the_scalar_models(gamma, correlation):
    found = float(experiment.two_layer_sharpness(gamma, correlation))
    assert found >= 2 * (correlation + gamma) / gamma**2 * (1 - 1e-12)
    assert found <= 2 * (1 + gamma) / gamma**2 * (1 + 1e-12)


def test_two_layer_net_is_linearly_stable_to_the_edge_when_lazy():
    points = experiment.two_layer(0.0, peaks=(1.5,), gamma=(1e-3,))
    # at T = 300 a rate just above the edge needs a growth of ½ L₀ from f = 0, so the edge is seen to within 1 %
    assert points["eta"].item() * experiment.two_layer_sharpness(1e-3, 0.0) / 2 == pytest.approx(1, abs=0.01)


def test_two_layer_net_with_a_strict_tail_has_the_edge_of_its_start_or_of_the_flattest_minimum():
    gamma = (1e-3, 0.1, 0.5, 1.0, 2.0, 30.0, 1000.0)
    for correlation in (0.0, 1.0):
        points = experiment.two_layer(correlation, (1.05,), gamma, level=0.01)
        # brackets of 0.44 %; within 1 % of an edge a mode needs more than T = 300 steps to leave or to settle to 0.01
        assert np.allclose(points["eta"], experiment.two_layer_edge(np.array(gamma), correlation), rtol=0.015)
    # one that may oscillate at the end goes on to the crisis, at twice the edge
    (lenient,) = experiment.two_layer(0.0, (1.05,), (1000.0,))["eta"]
    assert lenient == pytest.approx(2 * float(experiment.two_layer_edge(1000.0, 0.0)), rel=0.02)


@given(st.floats(0, 0.95), st.floats(1e-3, 1e3))
def test_the_corner_of_the_two_layer_net_is_highest_where_its_edges_meet(correlation, gamma):
    def excess(g):
        return float(np.log10(experiment.two_layer_edge(g, correlation) * (1 + g) / g**2))

    assert excess(1 - correlation) == pytest.approx(np.log10(2 - correlation))
    assert excess(gamma) <= np.log10(2 - correlation) + 1e-12


def wide(eta, gamma, depth=3):
    """A wide table of a given boundary, sharpness 1/γ² on the way."""
    about = pd.DataFrame({"setup": "known-3", "depth": depth, "gamma": gamma, "seed": 0, "crit_1.5": eta})
    return about.assign(slow_start=1 / gamma**2, slow_end=2 / eta / 2, slow_most=2 / eta)


def test_a_corner_has_the_height_of_a_corner():
    gamma = np.append(np.geomspace(1e-5, 5e-3, 5), [0.1, 0.5, 1, 2, 10, 100, 300, 1000])
    table = wide(np.minimum(gamma**2, gamma ** (2 / 3)), gamma)
    found = bumps([table])
    (row,) = found[found["quantity"] == "crit_1.5"].to_dict("records")
    # the corner is at γ = 1; the law's own rounding within the windows, 4/3 log₁₀ 1.01 = 0.006 decades, moves the fit
    assert row["height"] == pytest.approx(4 / 3 * np.log10(2), abs=0.01)
    assert row["at"] == 1
    assert row["remainder"] == pytest.approx(0, abs=0.01)
    (edge,) = edges([table], found).to_dict("records")
    assert edge["rich"] == pytest.approx(0.5)  # slow_end was made 1/η, so that ηλ/2 = ½ throughout
    assert edge["carry_low"] == pytest.approx(0, abs=0.01)
    assert edge["start"] == pytest.approx(0.5, abs=1e-6)


def test_the_scalar_law_has_no_bump_and_does_not_carry_its_rich_power_down():
    gamma = np.append(np.geomspace(1e-5, 5e-3, 5), [0.1, 0.5, 1, 2, 10, 100, 300, 1000])
    table = wide(gamma**2 * (1 + gamma) ** (-4 / 3), gamma)
    found = bumps([table])
    assert found.loc[found["quantity"] == "crit_1.5", "height"].item() == pytest.approx(0, abs=1e-6)
    # at γ = γ₀ = 1 the law is 2^{−4/3} of its rich power
    assert edges([table], found)["carry_low"].item() == pytest.approx(-4 / 3 * np.log10(2), abs=1e-5)


@given(st.floats(0.5, 8), st.floats(-2, 2), st.floats(-2, 2), st.sampled_from([2, 3, 4]))
def test_the_sharpness_of_a_joint_is_recovered(order, coefficient, crossover, depth):
    gamma = np.geomspace(1e-5, 1e5, 41)
    eta = corner_law(gamma, coefficient=10**coefficient, crossover=10**crossover, rich=2 / depth, order=order)
    found, rms = fit_corner(gamma, eta, 2 / depth)
    assert found == pytest.approx(order, rel=1e-3)
    assert rms < 1e-5  # exact points: what is left is the tolerance of the search


def test_orders_of_the_two_static_laws_are_one_and_two():
    gamma = np.geomspace(1e-3, 1e3, 25)
    tables = [
        wide(2 / experiment.two_layer_sharpness(gamma, rho), gamma, depth=2).assign(setup=f"rho-{rho}")
        for rho in (0, 1)
    ]
    table = orders(tables)
    found = table[table["quantity"] == "crit_1.5"].set_index("setup")["order"]
    assert found["rho-1"] == pytest.approx(1, abs=1e-3)
    assert found["rho-0"] == pytest.approx(2, abs=1e-3)  # γ²/√(1 + γ²) is the law with s = 2, exactly


def test_windows_are_where_the_scalar_law_is_near_its_limits():
    for depth in (2, 3, 4):
        slope = [2 - (2 - 2 / depth) * g / (1 + g) for g in (LAZY_WINDOW[1], RICH_WINDOW[0])]
        assert abs(slope[0] - 2) < 0.02
        assert abs(slope[1] - 2 / depth) < 0.02


def test_data_are_what_setups_say():
    x, y = batches(SMALL, 0, 0, 5)
    assert x.shape == (1, 16, 49)
    online = replace(SMALL, fixed=False)
    assert len(batches(online, 0, 0, 5)[0]) == 5
    assert torch.equal(batches(online, 0, 0, 5)[0][0], x[0])
    signs = batches(replace(SMALL, one=True), 0, 0, 1)[1]
    assert torch.equal(signs[..., 0] == 1, y.argmax(2) >= 5)
    spectra = {}
    for white in (False, True):
        many = batches(replace(online, white=white), 7, 0, 200)[0].flatten(0, 1)
        spectra[white] = torch.linalg.eigvalsh(many.T @ many / len(many))
        assert float(many.square().mean()) == pytest.approx(1, rel=0.05)  # 3200 examples
    share = {white: float(values[-1] / values.sum()) for white, values in spectra.items()}
    assert share[False] > 0.2  # the outlier of images
    assert share[True] < 0.04  # 1/49, widened by sampling: (1 + √(49/3200))² = 1.26
    assert not torch.equal(watched(online, 0)[0][:16], x[0])


def test_other_thresholds_rename_runs_without_running_them_again(monkeypatch):
    cells, gamma, seed = experiment.Cells(SMALL), np.full(12, 0.3), np.zeros(12, dtype=np.int64)
    eta = np.geomspace(0.05, 5, 12)
    strict = cells.run(gamma, eta, seed, Thresholds(peak=1.05))
    monkeypatch.setattr(experiment, "make_ensemble", None)
    loose = cells.run(gamma, eta, seed, Thresholds(peak=50.0))
    assert np.array_equal(strict.peak_loss, loose.peak_loss)
    for found, peak in ((strict, 1.05), (loose, 50.0)):
        trained = (found.final_loss <= 0.9 * 0.5) & (found.peak_loss <= peak * 0.5)
        assert np.array_equal(found.outcome == Outcome.TRAINED, trained)
    assert (strict.outcome != loose.outcome).any()


def test_a_trained_start_is_aligned_with_the_target():
    setup = replace(SMALL, pretrained=10.0)
    x, y = watched(setup, 0)
    correlation = []
    for one in (SMALL, setup):
        module = make_ensemble(one, np.ones(1), np.ones(1), np.zeros(1, dtype=int), 1).spec.module(0)
        with torch.no_grad():
            raw = module(x)
        correlation.append(float((raw * y).sum() / raw.norm() / y.norm()))
    assert abs(correlation[0]) < 0.5
    assert correlation[1] > 0.9


def test_an_experiment_from_end_to_end(tmp_path):
    gamma = (2e-3, 5e-3, 1.0, 100.0, 300.0)
    made = experiment.investigate(replace(SMALL, name="small-2"), gamma=gamma, seeds=(0,), peaks=(1.5, 50.0))
    made.to_csv(tmp_path / "small-2.csv", index=False)
    experiment.main((), tmp_path)
    table = pd.read_csv(tmp_path / "small-2.csv")
    assert sorted(table["gamma"]) == list(gamma)
    assert (table["crit_50"] >= table["crit_1.5"] * 10**-0.03).all()  # a bracket wide
    lazy = table[table["gamma"] < 0.01]
    # where the kernel does not move, the boundary is the edge of the start and of the end; the bracket is 7 % wide
    assert np.allclose(lazy["crit_1.5"] * lazy["slow_start"] / 2, 1, atol=0.15)
    assert np.allclose(lazy["slow_start"], lazy["slow_end"], rtol=0.05)
    assert set(pd.read_csv(tmp_path / "bumps.csv")["setup"]) == {"small-2"}
    assert len(pd.read_csv(tmp_path / "edges.csv")) == 1


def test_unknown_setup_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(InputError, match="setups"):
        experiment.main(("two-layer", "fixed-9"), tmp_path / "never")
    assert not (tmp_path / "never").exists()
