"""Kernels against finite differences, loops over examples, closed forms, and the step that they predict.

``ntk`` is reverse-mode ``jacrev`` under two vmaps; the oracles share none of that: central differences of the
module itself, ``torch.autograd.grad`` one output at a time on weights written into the module, and formulas.
"""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from empirical import MLP, Ensemble, data_stream
from empirical.measure.features import representations
from empirical.measure.kernels import (
    _hsic_u,
    cka,
    class_trace,
    drift,
    kernel_drift,
    kernel_target_alignment,
    last_layer_kernel,
    ntk,
    trace_by_class,
)
from empirical.measure.modules import networks_of
from empirical.models.cnn import CNN
from theory.errors import InputError

SPECS = {"mlp": MLP(3, 6, 16, 3), "cnn": CNN((2, 1), 3, 4, 3)}


def moved(module: nn.Module, size: float, seed: int) -> nn.Module:
    """The module after every weight has moved by a random amount."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p += size * p.abs().mean() * torch.randn(p.shape, generator=draw, dtype=p.dtype)
    return module


def cells_of(spec, count=3, size=0.3):
    modules = [moved(spec.module(0), size, i) for i in range(count)]
    return networks_of(spec.module(0), modules, example_shape=spec.example_shape, rates=spec.rates()), modules


def examples(spec, n=5, seed=1):
    return torch.randn(n, spec.input_dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flat(kernel):
    """(cells, n·C, m·C)"""
    return kernel.reshape(len(kernel), kernel.shape[1] * kernel.shape[2], -1)


@pytest.mark.parametrize("name", SPECS)
def test_ntk_against_loops_over_outputs(name):
    spec = SPECS[name]
    networks, modules = cells_of(spec)
    x = examples(spec)
    for module, found in zip(modules, flat(ntk(networks, x)), strict=True):
        parameters = dict(module.named_parameters())
        rows = []
        for output in module(x.reshape(-1, *spec.example_shape)).flatten():
            gradients = torch.autograd.grad(output, list(parameters.values()), retain_graph=True)
            scaled = [spec.rates()[n] ** 0.5 * g.flatten() for n, g in zip(parameters, gradients, strict=True)]
            rows.append(torch.cat(scaled))
        jacobian = torch.stack(rows).numpy()
        np.testing.assert_allclose(found, jacobian @ jacobian.T, rtol=1e-11, atol=1e-12 * np.abs(found).max())


@pytest.mark.parametrize("name", SPECS)
def test_ntk_against_finite_differences(name):
    # piecewise polynomial in each weight: central differences are exact up to the third derivative (zero in a single
    # weight), so only rounding is left, ε F/h, unless a unit switches within h: 1e-6 leaves both below 1e-8
    spec = SPECS[name]
    networks, modules = cells_of(spec, count=1)
    x, module, h = examples(spec, 3), modules[0], 1e-6
    columns = []
    with torch.no_grad():
        for parameter_name, p in module.named_parameters():
            for i in range(p.numel()):
                kept, outputs = float(p.view(-1)[i]), []
                for sign in (1, -1):
                    p.view(-1)[i] = kept + sign * h
                    outputs.append(module(x.reshape(-1, *spec.example_shape)).flatten())
                p.view(-1)[i] = kept
                columns.append(spec.rates()[parameter_name] ** 0.5 * (outputs[0] - outputs[1]) / (2 * h))
    jacobian = torch.stack(columns, dim=1).numpy()
    found = flat(ntk(networks, x))[0]
    np.testing.assert_allclose(found, jacobian @ jacobian.T, atol=1e-7 * np.abs(found).max())


def linear(*sizes: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(sizes))).double()


def test_ntk_of_linear_networks_in_closed_form():
    x, y = examples(SPECS["mlp"], 4), examples(SPECS["mlp"], 2, seed=3)
    gram = (x @ y.T).numpy()
    one = networks_of(linear(16, 3), example_shape=(16,), rates={"0.weight": 2.5})
    expected = 2.5 * np.einsum("ij,ab->iajb", gram, np.eye(3))
    np.testing.assert_allclose(ntk(one, x, y)[0], expected, rtol=1e-12, atol=1e-12)
    module = linear(16, 5, 3)
    two = networks_of(module, example_shape=(16,), rates={"0.weight": 2.5, "1.weight": 0.3})
    below, above = (p.detach() for p in module.parameters())
    hidden = ((x @ below.T) @ (y @ below.T).T).numpy()
    first = 2.5 * np.einsum("ij,ab->iajb", gram, (above @ above.T).numpy())
    expected = first + 0.3 * np.einsum("ij,ab->iajb", hidden, np.eye(3))
    np.testing.assert_allclose(ntk(two, x, y)[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SPECS)
def test_pieces_change_nothing(name):
    spec = SPECS[name]
    networks, _ = cells_of(spec)
    x, y = examples(spec, 7), examples(spec, 4, seed=2)
    for other in (None, y):
        whole, cut = ntk(networks, x, other), ntk(networks, x, other, chunk_bytes=4e4)
        np.testing.assert_allclose(cut, whole, rtol=1e-12, atol=1e-14 * np.abs(whole).max())
    np.testing.assert_allclose(ntk(networks, x, x), ntk(networks, x), rtol=1e-12, atol=1e-12)


def test_the_kernel_predicts_the_step_of_training():
    # an ensemble's own step moves F by −(η/γ) K (f − y)/B; the next order is η² smaller, so halving η halves the error
    spec, errors = SPECS["mlp"], []

    def stream(seed):
        return data_stream("fashion-mnist-deformed", 6, seed, size=7, dtype=torch.float64)

    spec = MLP(3, 8, 49, 10)
    x, y = stream(0)(0)
    for eta in (2e-4, 1e-4):
        seen = []
        run = Ensemble(spec, [1.0, 0.5], [eta, eta], 0, stream=stream, dtype="float64")
        run.run(1, probe=lambda step, networks, seen=seen: seen.append(networks), probe_steps=[0, 1])
        before, after = seen
        kernel = ntk(before, x)
        gradient = before.output(x).numpy() - y.numpy()
        predicted = -np.einsum("ciajb,cjb->cia", kernel, gradient) * eta / (len(x) * run.gamma[:, None, None])
        change = (after.raw(x) - before.raw(x)).detach().numpy()
        errors.append(np.abs(change - predicted).max() / np.abs(change).max())
    assert errors[0] < 5e-3
    assert 1.8 < errors[0] / errors[1] < 2.2


def test_traces():
    spec = SPECS["mlp"]
    networks, _ = cells_of(spec)
    kernel = ntk(networks, examples(spec))
    loops = [[[sum(k[i, a, j, a] for a in range(3)) for j in range(5)] for i in range(5)] for k in kernel]
    np.testing.assert_allclose(class_trace(kernel), loops, rtol=1e-13)
    np.testing.assert_allclose(trace_by_class(kernel)[:, 1], [sum(k[i, 1, i, 1] for i in range(5)) for k in kernel])
    np.testing.assert_allclose(trace_by_class(kernel).sum(1), np.trace(flat(kernel), axis1=1, axis2=2))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
def test_drift_of_scaled_and_turned_kernels(seed, scale):
    draw = np.random.default_rng(seed)
    a, b = draw.standard_normal((2, 4, 4))
    scaled = drift(scale * a[None], a[None])
    np.testing.assert_allclose(scaled.relative, abs(scale - 1), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(scaled.rotation, 0, atol=1e-14)
    cosine = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
    np.testing.assert_allclose(drift(a[None], scale * b[None]).rotation, 1 - cosine, rtol=1e-12)


def test_kernel_drift_is_zero_at_the_start_and_known_for_scaled_weights():
    spec = SPECS["mlp"]
    scaled = spec.module(0)
    with torch.no_grad():
        for p in scaled.parameters():
            p *= 1.1
    networks = networks_of(spec.module(0), [spec.module(0), scaled], example_shape=(16,), rates=spec.rates())
    found = kernel_drift(networks, examples(spec))
    # each ∂F/∂w of a bias-free ReLU net of 3 layers is homogeneous of degree 2: K grows as s⁴, and does not turn
    np.testing.assert_allclose(found.relative, [0, 1.1**4 - 1], rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(found.rotation, 0, atol=1e-14)


class WithFeatures(nn.Module):
    def __init__(self, inner: nn.Module, scale: float) -> None:
        super().__init__()
        self.inner, self.scale = inner, scale

    def features(self, x):
        return (x @ self.inner.layers[0].T).relu() * self.scale

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize("name", SPECS)
def test_representations_of_modules_that_say_nothing(name):
    spec = SPECS[name]
    networks, modules = cells_of(spec)
    x = examples(spec)
    for module, found in zip(modules, representations(networks, x), strict=True):
        hidden = x.reshape(-1, *spec.example_shape)
        for layer, weight in enumerate(list(module.layers)[:-1]):
            if name == "mlp":
                hidden = torch.relu(hidden @ weight.T)
            else:
                stride = spec.strides[layer]
                hidden = torch.relu(nn.functional.conv2d(hidden, weight, stride=stride, padding=1))
        hidden = hidden if name == "mlp" else hidden.mean((2, 3))
        np.testing.assert_allclose(found, hidden.detach().numpy(), rtol=1e-11, atol=1e-13)
    features = representations(networks, x)
    gram = np.einsum("cik,cjk->cij", features, features) / features.shape[2]
    np.testing.assert_allclose(last_layer_kernel(networks, x), gram, rtol=1e-12, atol=1e-14)


def test_representations_of_modules_with_a_bias_or_a_say():
    torch.manual_seed(0)
    biased = nn.Sequential(nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x = examples(SPECS["mlp"])
    expected = torch.tanh(biased[0](x)).detach().numpy()
    np.testing.assert_allclose(representations(networks_of(biased, example_shape=(16,)), x)[0], expected, rtol=1e-12)
    spec = SPECS["mlp"]
    wrapped = networks_of(WithFeatures(spec.module(0), 7.0), example_shape=(16,))
    expected = 7 * torch.relu(x @ spec.module(0).layers[0].T).detach().numpy()
    np.testing.assert_allclose(representations(wrapped, x)[0], expected, rtol=1e-12)


def test_a_representation_that_cannot_be_found_is_refused():
    torch.manual_seed(0)
    squashed = nn.Sequential(nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 3), nn.Tanh()).double()
    with pytest.raises(InputError, match="defines features"):
        representations(networks_of(squashed, example_shape=(16,)), examples(SPECS["mlp"]))
    conv = nn.Sequential(nn.Conv2d(1, 3, 4), nn.Flatten()).double()  # no matrix at all
    with pytest.raises(InputError, match="defines features"):
        representations(networks_of(conv, example_shape=(1, 4, 4)), examples(SPECS["mlp"]))


def test_alignment_in_closed_form():
    y = np.array([1.0, 1.0, -1.0, -1.0])
    np.testing.assert_allclose(kernel_target_alignment(3 * np.outer(y, y)[None], y), 1)
    np.testing.assert_allclose(kernel_target_alignment(np.eye(4)[None], y), 0.5)  # n / (√n · n)
    np.testing.assert_allclose(kernel_target_alignment(np.ones((4, 4)), y), 0, atol=1e-15)
    # centring removes the constant from features: 11ᵀ + yyᵀ has cosine 1/√2 with yyᵀ, and 1 once centred
    both = np.outer(y, y) + np.ones((4, 4))
    np.testing.assert_allclose(kernel_target_alignment(both, y), 2**-0.5)
    np.testing.assert_allclose(kernel_target_alignment(both, y, centered=True), 1)
    assert np.isnan(kernel_target_alignment(np.zeros((4, 4)), y))


SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.floats(1e-8, 1e8))
def test_alignments_ignore_scale_and_rotation(seed, scale):
    draw = np.random.default_rng(seed)
    n = 7
    a, b, y = draw.standard_normal((n, 5)), draw.standard_normal((n, 9)), draw.standard_normal((n, 2))
    turn = np.linalg.qr(draw.standard_normal((5, 5)))[0]
    kernel, other = a @ a.T, b @ b.T
    plain = scale * a @ turn
    shifted = plain + scale * draw.standard_normal(5)
    for options in ({"unbiased": False}, {"unbiased": True}):
        # a shift of all features changes neither estimate
        reference, found = cka(kernel, other, **options), cka(shifted @ shifted.T, other, **options)
        np.testing.assert_allclose(found, reference, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(cka(other, kernel, **options), reference, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(cka(kernel, 3 * kernel, **options), 1, rtol=1e-12)
    assert -1e-12 <= float(cka(kernel, other)) <= 1 + 1e-12
    for centered in (False, True):
        reference = kernel_target_alignment(kernel, y, centered=centered)
        np.testing.assert_allclose(kernel_target_alignment(plain @ plain.T, y, centered=centered), reference, rtol=1e-9)
        assert 0 <= float(reference) <= 1 + 1e-12
    order = draw.permutation(n)
    np.testing.assert_allclose(cka(kernel[order][:, order], other[order][:, order]), cka(kernel, other), rtol=1e-12)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_cka_against_features(seed):
    # linear CKA on features (Kornblith et al. 2019, section 3): ‖BᵀA‖² / (‖AᵀA‖‖BᵀB‖) of centred features
    draw = np.random.default_rng(seed)
    a, b = draw.standard_normal((2, 6, 4))
    a, b = a - a.mean(0), b - b.mean(0)
    expected = np.square(b.T @ a).sum() / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    shift = draw.standard_normal(4)
    np.testing.assert_allclose(cka((a + shift) @ (a + shift).T, b @ b.T), expected, rtol=1e-9)


def test_unbiased_cka_of_independent_features_averages_zero():
    # the biased estimate of features that have nothing in common grows to 1 with their number, the other stays at 0:
    # 200 draws of n = 10, whose spread is near 0.2, leave a mean within 0.06 with four standard errors
    draw = np.random.default_rng(0)
    a, b = draw.standard_normal((2, 200, 10, 100))
    kernels = a @ a.swapaxes(1, 2), b @ b.swapaxes(1, 2)
    assert abs(cka(*kernels, unbiased=True).mean()) < 0.06
    assert cka(*kernels).mean() > 0.8


def test_the_unbiased_estimate_is_the_mean_over_different_examples():
    # Song et al. 2012, equation 4: sums over tuples of different indices, written out
    draw = np.random.default_rng(1)
    features = draw.standard_normal((2, 5, 3))
    k, m = (f @ f.T for f in features)
    two = np.mean([k[i, j] * m[i, j] for i, j in permutations(range(5), 2)])
    four = np.mean([k[i, j] * m[q, r] for i, j, q, r in permutations(range(5), 4)])
    three = np.mean([k[i, j] * m[i, q] for i, j, q in permutations(range(5), 3)])
    np.testing.assert_allclose(_hsic_u(k, m), two + four - 2 * three, rtol=1e-12)


def test_bad_kernels_are_refused():
    with pytest.raises(InputError, match="class_trace"):
        kernel_target_alignment(np.ones((2, 3, 4)), np.ones(3))
    with pytest.raises(InputError, match="y ="):
        kernel_target_alignment(np.ones((3, 3)), np.ones(4))
    with pytest.raises(InputError, match="kernel_b"):
        cka(np.ones((3, 3)), np.ones((4, 4)))
    with pytest.raises(InputError, match="four"):
        cka(np.ones((3, 3)), np.ones((3, 3)), unbiased=True)
    networks, _ = cells_of(SPECS["mlp"])
    with pytest.raises(InputError, match="x ="):
        ntk(networks, torch.zeros(2, 15))


def test_the_readout_is_found_among_matrices_of_its_shape():
    """Width and classes equal, and the readout registered first."""
    torch.manual_seed(0)

    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.readout, self.hidden = nn.Linear(4, 4), nn.Linear(16, 4, bias=False)
            self.between = nn.Linear(4, 4)

        def forward(self, x):
            return self.readout(torch.tanh(self.between(torch.tanh(self.hidden(x)))))

    module, x = Shuffled().double(), examples(SPECS["mlp"])
    expected = torch.tanh(module.between(torch.tanh(module.hidden(x)))).detach().numpy()
    np.testing.assert_allclose(representations(networks_of(module, example_shape=(16,)), x)[0], expected, rtol=1e-12)
