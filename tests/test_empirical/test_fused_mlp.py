"""Compiled loops against the stacks that GPUs train with: other code for the same steps, in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from empirical import MLP, Ensemble, data_stream
from empirical.kernels.tiles import vector_registers
from empirical.models import FusedMLPStack
from empirical.networks import Networks
from theory import ToyModel

SIZE = 7

pytestmark = pytest.mark.skipif(vector_registers() is None, reason="this processor has no fused multiply-add")


def stream(batch):
    return lambda seed: data_stream("fashion-mnist-deformed", batch, seed, size=SIZE, dtype=torch.float64)


def both(spec, gamma, eta, seed, steps, batch, **options):
    """The same cells by the loops and step by step; curves at every step, and what a probe saw on the way."""
    found = []
    for can in (None, lambda device: False):
        seen: list[tuple[int, Networks]] = []
        with pytest.MonkeyPatch.context() as patch:
            if can:
                patch.setattr("empirical.models.fused.can_train", can)
            ensemble = Ensemble(spec, gamma, eta, seed, stream=stream(batch), dtype="float64", **options)
            kept = np.arange(steps)
            result = ensemble.run(
                steps, kept, probe=lambda step, nets, seen=seen: seen.append((step, nets)), probe_steps=[0, 3, steps]
            )
        found.append((result, seen))
    return found


def assert_same(one, other, tolerance=1e-10, *, ties=False):
    """``ties``: outputs may be equal to rounding (few classes seen), and an argmax of those says nothing."""
    (a, seen_a), (b, seen_b) = one, other
    np.testing.assert_allclose(a.loss_curve, b.loss_curve, rtol=tolerance)
    if not ties:
        np.testing.assert_array_equal(a.accuracy_curve, b.accuracy_curve)
    for name, values in a.cells.fields().items():
        if ties and "accuracy" in name:
            continue
        if np.asarray(values).dtype.kind == "f":
            np.testing.assert_allclose(values, b.cells.fields()[name], rtol=tolerance)
        else:
            np.testing.assert_array_equal(values, b.cells.fields()[name])
    assert [step for step, _ in seen_a] == [step for step, _ in seen_b]
    for (_, x), (_, y) in zip(seen_a, seen_b, strict=True):
        np.testing.assert_array_equal(x.cells, y.cells)
        for name, moved in x.displacement.items():
            theirs = y.displacement[name].flatten(1)
            scale = theirs.abs().amax(1, keepdim=True).clamp_min(1e-300)
            assert ((moved.flatten(1) - theirs).abs() / scale).max() <= 1e-6


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize("optimizer", ["gd", "momentum", "adam", "sign"])
@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_every_optimizer_and_loss(depth, optimizer, loss):
    gamma = np.array([1e-6, 1e-3, 0.1, 1.0, 30.0, 0.3])
    eta = 0.1 * ToyModel().boundary("eta_crit").numeric(gamma=gamma, depth=max(depth, 2))
    if optimizer in {"adam", "sign"}:
        eta = 1e-3 * np.minimum(gamma, 1)
    seed = [0, 1, 0, 1, 1, 1]
    assert_same(*both(MLP(depth, 11, SIZE**2, 10), gamma, eta, seed, 15, 6, loss=loss, optimizer=optimizer))


@pytest.mark.parametrize("optimizer", ["gd", "momentum", "adam", "sign"])
def test_schedules_and_weight_decay(optimizer):
    gamma, options = np.array([1e-4, 0.1, 3.0]), {"schedule": "warmup-cosine", "weight_decay": 0.03}
    eta = 1e-3 * np.minimum(gamma, 1) ** (1 if optimizer in {"adam", "sign"} else 2)
    assert_same(*both(MLP(3, 16, SIZE**2, 10), gamma, eta, 0, 24, 16, optimizer=optimizer, **options))


@settings(max_examples=15, deadline=None)
@given(
    depth=st.integers(1, 4), width=st.integers(1, 40), batch=st.integers(1, 40), cells=st.integers(1, 6), data=st.data()
)
def test_networks_and_batches_of_any_size(depth, width, batch, cells, data):
    gamma = np.array(data.draw(st.lists(st.sampled_from([1e-5, 0.03, 1.0, 100.0]), min_size=cells, max_size=cells)))
    seed = data.draw(st.lists(st.integers(0, 2), min_size=cells, max_size=cells))
    eta = 0.1 * ToyModel().boundary("eta_crit").numeric(gamma=gamma, depth=max(depth, 2))
    assert_same(*both(MLP(depth, width, SIZE**2, 10), gamma, eta, seed, 8, batch), tolerance=1e-8, ties=True)


def test_cells_that_diverge_or_die_leave_at_the_same_step():
    gamma = np.array([0.1, 1.0, 10.0, 1e-3, 1.0, 1e3])
    eta = ToyModel().boundary("eta_crit").numeric(gamma=gamma, depth=3) * [1e4, 1e3, 1e2, 1e3, 0.1, 1e5]
    (ours, _), (theirs, _) = both(MLP(3, 8, SIZE**2, 10), gamma, eta, 0, 60, 8)
    np.testing.assert_array_equal(ours.cells.outcome, theirs.cells.outcome)
    np.testing.assert_array_equal(ours.cells.steps_run, theirs.cells.steps_run)
    assert len(set(ours.cells.outcome)) > 1


def test_an_mlp_on_a_cpu_trains_by_compiled_loops(monkeypatch):
    trained = []
    train = FusedMLPStack.train
    monkeypatch.setattr(FusedMLPStack, "train", lambda stack, *given: trained.append(stack) or train(stack, *given))
    Ensemble(MLP(3, 8, SIZE**2, 10), [1e-4, 1.0], 1e-9, stream=stream(8)).run(20)
    assert [stack.lazy for stack in trained] == [False, True] * 2


def test_bits_do_not_depend_on_companions_seeds_or_looks():
    gamma, steps = np.array([1e-4, 1e-3, 0.1, 1.0, 10.0, 100.0]), 45
    eta = 0.5 * ToyModel().boundary("eta_crit").numeric(gamma=gamma, depth=3)
    seed, spec = np.array([0, 1, 2, 0, 1, 2]), MLP(3, 24, SIZE**2, 10)

    def run(cells, **looks):
        return Ensemble(spec, gamma[cells], eta[cells], seed[cells], stream=stream(16)).run(
            steps, np.arange(steps), **looks
        )

    together = run(np.arange(6)).loss_curve
    looked_at = run(np.arange(6), probe=lambda step, networks: None, probe_steps=range(0, steps, 7)).loss_curve
    np.testing.assert_array_equal(looked_at, together)
    for cell in range(6):
        np.testing.assert_array_equal(run(np.array([cell])).loss_curve[0], together[cell])
