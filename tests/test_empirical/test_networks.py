"""What a probe is shown, against plain PyTorch loops that share only data and draws of θ₀."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from empirical import MLP, Ensemble, data_stream, join
from empirical.models.cnn import CNN

STEPS, GAMMA = 12, (1e-4, 1e-4, 1.0, 30.0)
SPECS = [MLP(3, 16, 49, 10), CNN((2, 2), 4, 7, 10)]


def stream(seed: int):
    return data_stream("fashion-mnist-deformed", 8, seed, size=7, dtype=torch.float64)


def ensemble(spec, **options):
    gamma, seed = np.array(GAMMA), np.array([0, 1, 1, 0])
    eta = 0.02 * gamma**2 / (1 + gamma) ** 1.3
    return Ensemble(spec, gamma, eta, seed, stream=stream, dtype="float64", **options)


def plain(spec, gamma, eta, seed, steps):
    """Displacements by autograd on the module itself."""
    module = spec.module(seed)
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    initial = spec.module(seed)
    for step in range(steps):
        x, y = stream(seed)(step)
        x = x.reshape(len(x), *spec.example_shape)
        loss = (((module(x) - initial(x)) / gamma - y) ** 2).sum(1).mean() / 2
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        with torch.no_grad():
            for (name, p), g in zip(module.named_parameters(), gradients, strict=True):
                p -= eta * spec.rates()[name] * g
    return {name: p.detach() - start[name] for name, p in module.named_parameters()}


@pytest.mark.parametrize("spec", SPECS, ids=["mlp", "cnn"])
def test_a_probe_sees_the_networks_of_plain_loops(spec):
    seen = {}
    run = ensemble(spec)
    run.run(
        STEPS, probe=lambda step, nets: seen.setdefault((step, nets.seed), []).append(nets), probe_steps=[0, 5, STEPS]
    )
    assert sorted(seen) == [(step, seed) for step in (0, 5, STEPS) for seed in (0, 1)]
    for (step, seed), parts in seen.items():
        nets = join(parts)
        assert nets.cells.tolist() == [i for i in range(4) if run.seed[i] == seed]
        x, _ = stream(seed)(99)
        for row, cell in enumerate(nets.cells):
            gamma, eta = float(run.gamma[cell]), float(run.eta[cell])
            expected = plain(spec, gamma, eta, seed, step)
            for name, moved in expected.items():
                scale = float(moved.abs().max()) + 1e-300
                assert float((nets.displacement[name][row] - moved).abs().max()) <= 1e-6 * scale, (name, step, gamma)
            trained, initial = spec.module(seed), spec.module(seed)
            with torch.no_grad():
                for name, p in trained.named_parameters():
                    p += nets.displacement[name][row]
                shaped = x.reshape(len(x), *spec.example_shape)
                output = (trained(shaped) - initial(shaped)) / gamma
            torch.testing.assert_close(nets.output(x)[row], output, rtol=1e-9, atol=1e-9)


def test_watching_changes_nothing():
    spec = SPECS[0]
    watched, alone = (
        ensemble(spec).run(STEPS, **options)
        for options in (
            {"probe": lambda step, nets: nets.output(stream(0)(0)[0]), "probe_steps": range(STEPS + 1)},
            {},
        )
    )
    np.testing.assert_array_equal(watched.loss_curve, alone.loss_curve)


def test_selecting_and_joining_keep_cells_apart():
    seen = []
    ensemble(SPECS[0]).run(STEPS, probe=lambda step, nets: seen.append(nets), probe_steps=[STEPS])
    nets = join([n for n in seen if n.seed == 1])
    assert len(nets) == 2
    for i in range(2):
        one = nets.select(np.array([i]))
        assert one.cells.tolist() == [nets.cells[i]]
        for name, moved in one.displacement.items():
            assert torch.equal(moved[0], nets.displacement[name][i])
    assert all(float(moved.abs().max()) == 0 for moved in nets.at_start().displacement.values())
