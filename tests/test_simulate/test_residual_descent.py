"""Gradient descent on residual toys: against plain loops, against the exact flows of theory, and what its edge does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulate import (
    Outcome,
    ResidualStages,
    TraceSettings,
    fit_power_law,
    run_residual,
    trace_residual,
)
from theory import InputError
from theory.residual import ResidualToy
from theory.residual_stages import StagedToy

NETWORKS = [
    ResidualStages((1,)), ResidualStages((2,)), ResidualStages((2,), False), ResidualStages((1, 2)),
    ResidualStages((2, 1, 1), False),
]  # fmt: skip


def output(theta, network):
    """F of one network's weights: readout, stream, two a block, then the shortcuts; complex numbers welcome."""
    count = sum(network.blocks)
    pairs, shortcuts = theta[2 : 2 + 2 * count].reshape(count, 2).prod(1) / np.sqrt(count), list(theta[2 + 2 * count :])
    h, block = theta[1], 0
    for stage, blocks in enumerate(network.blocks):
        for i in range(blocks):
            kept = h * shortcuts[stage - 1] if stage and not i else h
            h = kept + pairs[block] * (1 if network.normalized else h)
            block += 1
    return theta[0] * h


def slopes(theta, network):
    return np.array([output(theta + 1e-30j * unit, network).imag / 1e-30 for unit in np.eye(len(theta))])


@settings(max_examples=40, deadline=None)
@given(
    network=st.sampled_from(NETWORKS), seed=st.integers(0, 10), gamma=st.floats(-1, 3).map(lambda x: 10**x),
    rate=st.floats(-2, 1).map(lambda x: 10**x), steps=st.integers(1, 60),
)  # fmt: skip
def test_a_plain_loop_with_complex_steps_gives_the_same(network, seed, gamma, rate, steps):
    eta = rate * gamma ** (2 / network.settled_degree)
    found = run_residual(gamma, eta, network=network, steps=steps, seed=seed)
    theta, losses = network.starts(seed)[0], [0.5]
    first = output(theta, network)
    with np.errstate(all="ignore"):
        for _ in range(steps):
            f = (output(theta, network) - first) / gamma
            theta = theta - eta * (f - 1) / gamma * slopes(theta, network)
            raw = output(theta, network) - first
            losses.append(0.5 * (raw / gamma - 1) ** 2)
            if not abs(raw) <= 1e6 * max(1, gamma):
                break
    if found.cells.outcome[0] == Outcome.DIVERGED:
        assert not abs(raw) <= 0.99e6 * max(1, gamma)
        assert np.isnan(found.degree[0])
        return
    if max(losses) > 1e3:  # chaos: roundings grow with the loss
        return
    kept = slopes(theta, network)
    assert found.cells.peak_loss[0] == pytest.approx(max(losses), rel=1e-6)
    assert found.degree[0] == pytest.approx(theta @ kept / output(theta, network), rel=1e-4, abs=1e-4)
    assert found.sharpness[0] == pytest.approx(kept @ kept / gamma**2, rel=1e-4)


@pytest.mark.parametrize(("blocks", "normalized"), [(1, True), (2, True), (1, False), (2, False)])
def test_slow_runs_end_where_gradient_flow_does(blocks, normalized):
    gamma, toy = np.array([5.0, 100.0, 2000.0]), ResidualToy(blocks, normalized)
    found = run_residual(
        gamma, 0.02 / toy.sharpness(gamma), network=ResidualStages((blocks,), normalized), steps=30_000, spread=0
    )
    np.testing.assert_allclose(found.degree, toy.degree(gamma), rtol=2e-3)
    np.testing.assert_allclose(found.sharpness, toy.sharpness(gamma), rtol=5e-3)
    assert (found.cells.outcome == Outcome.TRAINED).all()


def test_slow_runs_of_two_stages_too():
    gamma, toy = np.array([5.0, 100.0, 2000.0]), StagedToy((2, 1))
    found = run_residual(gamma, 0.02 / toy.sharpness(gamma), network=ResidualStages((2, 1)), steps=30_000, spread=0)
    np.testing.assert_allclose(found.degree, toy.degree(gamma), rtol=2e-3)
    np.testing.assert_allclose(found.sharpness, toy.sharpness(gamma), rtol=5e-3)


@settings(max_examples=30, deadline=None)
@given(network=st.sampled_from(NETWORKS), factor=st.floats(0.2, 5), seed=st.integers(0, 5))
def test_the_settled_degree_is_that_of_large_weights(network, factor, seed):
    theta = network.starts(seed)[0] * 1e6
    grown = np.log(output(theta * factor, network) / output(theta, network))
    assert grown == pytest.approx(network.settled_degree * np.log(factor), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("network", [ResidualStages((2,)), ResidualStages((2, 2))], ids=["one stage", "two stages"])
def test_at_the_edge_the_degree_is_low_and_the_slope_that_of_the_flow(network):
    """What campaigns see in residual networks: 2/D where they measure it is too high, and by how much."""
    made = trace_residual(
        network=network, gamma=np.geomspace(100, 1e4, 6), steps=1000, settings=TraceSettings(resolution=0.03)
    )
    crit = made.points["eta_crit"]
    assert len(crit) == 24
    assert (made.near.degree < made.slow.degree - 0.1).all()
    fit = fit_power_law(crit.gamma, crit.eta, eta_low=crit.eta_low, eta_high=crit.eta_high, seed=crit.seed)
    flow = fit_power_law(crit.gamma, 2 / made.slow.sharpness, seed=crit.seed)
    assert fit.exponent == pytest.approx(flow.exponent, abs=0.02)
    assert fit.exponent < np.mean(2 / made.near.degree) - 0.08
    assert fit.exponent < 2 / network.settled_degree
    # the boundary is a fixed multiple of that of the flow
    multiple = crit.eta * made.slow.sharpness / 2
    assert multiple.min() > 1.7
    assert np.ptp(np.log(multiple)) < 0.4


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="blocks"):
        ResidualStages(())
    with pytest.raises(InputError, match="blocks"):
        ResidualStages((2, 0))
    with pytest.raises(InputError, match="spread"):
        ResidualStages((1,)).starts(0, spread=-1.0)
    with pytest.raises(InputError, match="seed"):
        run_residual(1.0, [0.1, 0.2], network=ResidualStages((1,)), steps=3, seed=[1, 2, 3])
    with pytest.raises(InputError, match="steps"):
        trace_residual(network=ResidualStages((1,)), gamma=[10.0], steps=0)
    with pytest.raises(InputError, match="gamma"):
        trace_residual(network=ResidualStages((1,)), gamma=[10.0, 5.0], steps=10)
