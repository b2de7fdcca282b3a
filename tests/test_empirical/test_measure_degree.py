"""Euler degree against Euler's theorem, against F(sθ) itself, and against the known degrees of residual networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from empirical import MLP, Ensemble, data_stream
from empirical.measure.degree import euler_degree, euler_degree_by_output
from empirical.measure.modules import networks_of
from empirical.models.cnn import CNN

WIDTH, DIM, CLASSES = 32, 20, 4
SPECS = [MLP(2, 8, 16, 3), MLP(4, 8, 16, 3), MLP(6, 8, 16, 3), CNN((2, 1), 4, 4, 3), CNN((1, 2, 1), 4, 4, 3)]


def scaled(module: nn.Module, scale: float) -> nn.Module:
    with torch.no_grad():
        for p in module.parameters():
            p *= scale
    return module


def inputs(dim, n=16):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_homogeneous_networks_have_their_depth(spec, scale):
    networks = networks_of(scaled(spec.module(1), scale), example_shape=spec.example_shape)
    x = inputs(spec.input_dim)
    # exact by Euler's theorem; what is left is rounding, 1e-15 a layer. The demand is 1e-6
    np.testing.assert_allclose(euler_degree(networks, x), spec.depth, rtol=1e-12)
    by_output = euler_degree_by_output(networks, x)
    assert by_output.shape == (1, 16, 3)
    np.testing.assert_allclose(by_output, spec.depth, rtol=1e-9)  # less where F_a(x) is small


@pytest.mark.parametrize("spec", [MLP(3, 12, 49, 10), CNN((2, 2), 4, 7, 10)], ids=["mlp", "cnn"])
def test_the_degree_stays_along_training_of_homogeneous_networks(spec):
    seen = {}
    gamma = np.array([1e-4, 1.0, 100.0])

    def stream(seed):
        return data_stream("fashion-mnist-deformed", 16, seed, size=7)

    x = stream(0).test_set()[0][:20]
    run = Ensemble(spec, gamma, 0.1 * gamma**2 / (1 + gamma) ** (4 / 3), 0, stream=stream)

    def probe(step, networks):
        seen.update({(step, c): d for c, d in zip(networks.cells, euler_degree(networks, x), strict=True)})

    run.run(20, probe=probe, probe_steps=[0, 5, 20])
    assert len(seen) == 9
    np.testing.assert_allclose(list(seen.values()), spec.depth, atol=1e-6)


class Residual(nn.Module):
    """Embedding, blocks h ← h + B φ(A n(h)), readout of n(h); n is LayerNorm where asked for, else nothing."""

    def __init__(self, blocks=2, *, norm=False, final=False, gain=False) -> None:
        super().__init__()
        torch.manual_seed(7)

        def layer(into, out, scale=2**0.5):
            return nn.Parameter(torch.randn(out, into, dtype=torch.float64) * scale / into**0.5)

        self.embed, self.readout = layer(DIM, WIDTH, 1.0), layer(WIDTH, CLASSES, 1.0)
        self.into = nn.ParameterList([layer(WIDTH, WIDTH) for _ in range(blocks)])
        self.out = nn.ParameterList([layer(WIDTH, WIDTH, 1.0) for _ in range(blocks)])
        self.norm, self.final = norm, final
        self.gain = nn.Parameter(torch.ones(WIDTH, dtype=torch.float64)) if gain else None

    def forward(self, x):
        h = x @ self.embed.T
        for a, b in zip(self.into, self.out, strict=True):
            h = h + (self._norm(h) if self.norm else h).matmul(a.T).relu() @ b.T
        if self.final:
            h = self._norm(h) if self.gain is None else self._norm(h) * self.gain
        return h @ self.readout.T

    @staticmethod
    def _norm(h):
        return nn.functional.layer_norm(h, (WIDTH,))


CASES = {
    # limit at large weights: every factor of the largest term counts once, except below a normalisation
    "two residual blocks": (lambda: Residual(), 6, 2e-3),  # readout, 2 × (A and B), embedding
    "one residual block": (lambda: Residual(1), 4, 2e-3),
    "pre-norm, no final norm": (lambda: Residual(norm=True), 3, 2e-3),  # readout, A and B of either block
    "pre-norm, final norm": (lambda: Residual(norm=True, final=True), 1, 2e-3),  # the readout alone
    "pre-norm, final norm with gain": (lambda: Residual(norm=True, final=True, gain=True), 2, 2e-3),
}


@pytest.mark.parametrize("name", CASES)
def test_degrees_of_residual_and_normalised_networks_settle(name):
    build, limit, tolerance = CASES[name]
    degrees = []
    for scale in (1.0, 10.0, 1000.0):
        module = scaled(build(), scale)
        networks = networks_of(module, example_shape=(DIM,))
        degrees.append(float(euler_degree(networks, inputs(DIM, 64))[0]))
    # each further factor of the weights is another power of 1/s: at s = 1000 the largest term is left
    assert degrees[2] == pytest.approx(limit, abs=tolerance)
    assert abs(degrees[1] - limit) < 0.1
    if "blocks" in name or "block" in name or name == "pre-norm, no final norm":
        assert degrees[0] < limit - 0.3  # at s = 1 branches and skips are of one size


def test_a_final_norm_without_gain_has_degree_one_where_nothing_is_below_but_layers():
    # F(sθ) = s F(θ) up to the ε of LayerNorm: 1e-5 of the variance, which grows with the weights
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = MLP(2, WIDTH, DIM, WIDTH).module(0)
            self.readout = nn.Parameter(torch.randn(CLASSES, WIDTH, dtype=torch.float64))

        def forward(self, x):
            return nn.functional.layer_norm(self.inner(x), (WIDTH,), eps=0.0) @ self.readout.T

    torch.manual_seed(1)
    for scale in (1.0, 10.0, 1000.0):
        networks = networks_of(scaled(Normed(), scale), example_shape=(DIM,))
        np.testing.assert_allclose(euler_degree(networks, inputs(DIM)), 1, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.3, 3.0), st.integers(0, 2))
def test_against_the_output_of_scaled_weights(seed, scale, kind):
    """F((1 ± h)θ) by central differences, on networks of no definite degree."""
    module = scaled([Residual(1), Residual(norm=True), Residual(norm=True, final=True, gain=True)][kind], scale)
    x, h = torch.randn(5, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), 1e-6

    def at(factor):
        weights = {name: factor * p.detach() for name, p in module.named_parameters()}
        return functional_call(module, weights, (x,)).numpy()

    centre, slope = at(1.0), (at(1 + h) - at(1 - h)) / (2 * h)
    networks = networks_of(module, example_shape=(DIM,))
    # rounding ε/h = 2e-10, curvature h² = 1e-12, and at worst a unit that switches within h
    np.testing.assert_allclose(
        euler_degree(networks, x)[0], (centre * slope).sum() / np.square(centre).sum(), rtol=1e-6, atol=1e-6
    )
    by_output = euler_degree_by_output(networks, x)[0]
    np.testing.assert_allclose(by_output * centre, slope, rtol=1e-5, atol=1e-6 * np.abs(slope).max())


def test_biases_and_frozen_weights_count_for_what_they_are():
    # F = w x + b: θ·∇F = F whatever the two are; frozen, b is a constant and D = w x/(w x + b)
    line = nn.Linear(1, 1).double()
    x = torch.tensor([[2.0]], dtype=torch.float64)
    with torch.no_grad():
        line.weight.fill_(3.0)
        line.bias.fill_(4.0)
    np.testing.assert_allclose(euler_degree(networks_of(line, example_shape=(1,)), x), 1)
    line.bias.requires_grad_(False)
    np.testing.assert_allclose(euler_degree(networks_of(line, example_shape=(1,)), x), 0.6)


def test_outputs_that_vanish():
    spec = MLP(3, 8, 16, 3)
    networks = networks_of(scaled(spec.module(0), 0.0), example_shape=(16,))
    assert np.isnan(euler_degree(networks, inputs(16)))
    assert np.isnan(euler_degree_by_output(networks, inputs(16))).all()
    tiny = networks_of(scaled(spec.module(0), 1e-80), example_shape=(16,))  # F² is below the smallest double
    np.testing.assert_allclose(euler_degree(tiny, inputs(16)), 3, rtol=1e-12)


def test_pieces_change_nothing(monkeypatch):
    spec = MLP(3, 8, 16, 3)
    networks = networks_of(spec.module(0), [scaled(spec.module(i), 2.0) for i in range(5)], example_shape=(16,))
    x = inputs(16)
    whole = euler_degree_by_output(networks, x)
    for limit in (1e4, 1e5):
        monkeypatch.setattr("empirical.measure.batched.CHUNK_BYTES", limit)
        np.testing.assert_allclose(euler_degree_by_output(networks, x), whole, rtol=1e-9)
