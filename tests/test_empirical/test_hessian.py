"""Hessian spectra of many cells against closed forms, finite differences, dense matrices and curvlinops.

Why these oracles are independent: the closed forms and the gradients that are differenced (NumPy) use no autograd; the
dense matrices use ``torch.func`` on a plain loss in float64, where the code under test differentiates a surrogate twice
in float32; curvlinops with SciPy's eigsh shares neither the products nor the eigensolver.

Tolerances: 10⁻⁴ of an eigenvalue is what is promised by default, with the error usually near its square.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from curvlinops import HessianLinearOperator
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import eigsh
from torch import nn

from empirical import MLP, Ensemble, Networks, data_stream, join
from empirical.measure.hessian import sharpness, top_eigenvalues
from empirical.models.cnn import CNN
from theory.errors import InputError

PROMISED = 1e-4
LOSSES, CURVATURES, KINDS = ("mse", "cross-entropy"), ("hessian", "gauss-newton"), ("relu", "tanh", "cnn")


class TanhMLP(nn.Module):
    """tanh network of given weights, ``(out, in)`` each, with trained biases on the hidden layers."""

    def __init__(self, weights, biases=True):
        super().__init__()
        self.layers = nn.ParameterList(weights)
        ones = [torch.ones(len(w), dtype=w.dtype) for w in weights[:-1]]
        self.biases = nn.ParameterList([0.3 * one for one in ones] if biases else [])

    def forward(self, x):
        last = len(self.layers) - 1
        for layer in range(last):
            x = torch.tanh(x @ self.layers[layer].T + (self.biases[layer] if len(self.biases) else 0))
        return x @ self.layers[last].T


def networks_of(module, gamma, rates=None, displacement=None, example_shape=None, moved=0.1, seed=0):
    """Cells at random displacements, or at given ones."""
    start = {name: p.detach().double().clone() for name, p in module.named_parameters()}
    gamma = torch.as_tensor(gamma, dtype=torch.float64)
    if displacement is None:
        draw = torch.Generator().manual_seed(seed)
        small = gamma.clamp_max(1.0)
        displacement = {
            name: moved
            * torch.einsum("c,c...->c...", small, torch.randn(len(gamma), *p.shape, generator=draw).double())
            for name, p in start.items()
        }
    rates = dict.fromkeys(start, 1.0) if rates is None else rates
    return Networks(module, start, displacement, {}, gamma, rates, example_shape, seed, np.arange(len(gamma)))


def data(n, inputs, classes, seed=0):
    """Inputs of both signs and one-hot targets."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.standard_normal((n, inputs)) + 0.3)
    return x, torch.from_numpy(np.eye(classes)[rng.integers(classes, size=n)])


@dataclass(frozen=True)
class Case:
    """Cells and data."""

    networks: Networks
    x: torch.Tensor
    y: torch.Tensor


def case(kind, gamma=(1e-3, 1.0, 50.0), classes=10, n=24):
    """One of the architectures, with the width multipliers of μP where it has them."""
    if kind == "cnn":
        spec = CNN((2, 2), 6, 8, classes)
        module, rates, shape, inputs = spec.module(0), spec.rates(), spec.example_shape, 64
    else:
        spec = MLP(3, 16, 25, classes)
        module, rates, shape, inputs = spec.module(0), spec.rates(), (25,), 25
        if kind == "tanh":
            module = TanhMLP(spec.initial_weights(0))
            rates = {name: 1.0 + 0.5 * i for i, (name, _) in enumerate(module.named_parameters())}
    return Case(networks_of(module, gamma, rates, example_shape=shape), *data(n, inputs, classes))


def roots(networks):
    """Diagonal of M^½, flat."""
    return torch.cat([
        torch.full((w.numel(),), networks.rates[n] ** 0.5, dtype=torch.float64) for n, w in networks.start.items()
    ])


def unflatten(networks, flat):
    parts = flat.split([w.numel() for w in networks.start.values()])
    return {n: part.view(w.shape) for (n, w), part in zip(networks.start.items(), parts, strict=True)}


def flat_weights(networks, cell):
    return torch.cat([w[cell].flatten() for w in networks.weights.values()])


def plain_output(networks, cell, x):
    """θ ↦ f(θ), of one cell, in plain PyTorch."""
    shaped = x.reshape(len(x), *networks.example_shape)
    initial = torch.func.functional_call(networks.module, networks.start, (shaped,))

    def output(flat):
        raw = torch.func.functional_call(networks.module, unflatten(networks, flat), (shaped,))
        return (raw - initial) / networks.gamma[cell]

    return output


def plain_loss(output, y, loss):
    if loss == "mse":
        return ((output - y) ** 2).sum(1).mean() / 2
    return torch.nn.functional.cross_entropy(output, y)


def dense(case, cell, loss, curvature):
    """M^½ H M^½ by ``torch.func.hessian``, or from the Jacobian."""
    networks, x, y = case.networks, case.x, case.y
    output, at = plain_output(networks, cell, x), flat_weights(networks, cell)
    if curvature == "hessian":
        matrix = torch.func.hessian(lambda flat: plain_loss(output(flat), y, loss))(at)
    else:
        jacobian, f = torch.func.jacrev(output)(at), output(at)
        inner = torch.eye(y.shape[1]).double().expand(len(x), -1, -1)
        if loss != "mse":
            p = f.softmax(1)
            inner = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
        matrix = torch.einsum("nap,nab,nbq->pq", jacobian, inner, jacobian) / len(x)
    root = roots(networks)
    return (root.unsqueeze(1) * matrix.detach() * root).numpy()


def top(matrix, k):
    """Largest eigenvalues, descending."""
    return np.linalg.eigvalsh(matrix)[::-1][:k]


def assert_close(values, expected, rtol=PROMISED):
    """Relative to each eigenvalue, down to a thousandth of the largest magnitude."""
    values, expected = np.asarray(values), np.asarray(expected)
    scale = np.maximum(np.abs(expected), 1e-3 * np.abs(expected).max())
    error = np.abs(values - expected) / scale
    assert (error <= rtol).all(), f"entry {error.argmax()}: {values[error.argmax()]} is not {expected[error.argmax()]}"


# ------------------------------------------------------------------------------------------------- dense matrices


def numpy_gradient(weights, x, y, start, gamma, loss, tanh):
    """∂ℓ/∂V of a bias-free MLP, by hand."""

    def forward(layers):
        hidden = [x.T]
        for layer, weight in enumerate(layers):
            h = weight @ hidden[-1]
            hidden.append(h if layer == len(layers) - 1 else np.tanh(h) if tanh else np.maximum(h, 0))
        return hidden

    hidden = forward(weights)
    f = ((hidden[-1] - forward(start)[-1]) / gamma).T
    if loss == "cross-entropy":
        f = np.exp(f - f.max(1, keepdims=True))
        f /= f.sum(1, keepdims=True)
    delta, out = (f - y).T / (gamma * len(x)), []
    for layer in range(len(weights) - 1, -1, -1):
        out.append((delta @ hidden[layer].T).ravel())
        slope = 1 - hidden[layer] ** 2 if tanh else hidden[layer] > 0
        delta = (weights[layer].T @ delta) * slope
    return np.concatenate(out[::-1])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("tanh", [False, True], ids=["relu", "tanh"])
def test_top_20_are_those_of_differenced_gradients(tanh, loss):
    spec = MLP(3, 16, 25, 10)
    module = TanhMLP(spec.initial_weights(0), biases=False) if tanh else spec.module(0)
    networks = networks_of(module, [0.3, 20.0], spec.rates(), example_shape=(25,))
    x, y = data(24, 25, 10)
    spectrum = top_eigenvalues(networks, x, y, 20, loss=loss)
    for cell in range(2):
        start = [w.numpy() for w in networks.start.values()]
        at, h = flat_weights(networks, cell).numpy(), 1e-6  # errors h² ~ 10⁻¹², and 10⁻¹⁶/h ~ 10⁻¹⁰ of the gradient

        def gradient(flat, start=start, cell=cell):
            layers = [w.numpy() for w in unflatten(networks, torch.from_numpy(flat)).values()]
            return numpy_gradient(layers, x.numpy(), y.numpy(), start, float(networks.gamma[cell]), loss, tanh)

        steps = h * np.eye(len(at))
        matrix = np.stack([(gradient(at + step) - gradient(at - step)) / (2 * h) for step in steps])
        root = roots(networks).numpy()
        assert_close(spectrum.values[cell], top(root[:, None] * (matrix + matrix.T) / 2 * root, 20))


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", KINDS)
def test_top_20_are_those_of_the_dense_matrix_and_residuals_are_true(kind, loss, curvature):
    this = case(kind, gamma=(1e-3, 50.0))
    spectrum = top_eigenvalues(this.networks, this.x, this.y, 20, loss=loss, curvature=curvature)
    assert spectrum.converged.all()
    assert (spectrum.products < spectrum.vectors.shape[2]).all()  # found by products, not written out
    for cell in range(len(this.networks)):
        matrix = dense(this, cell, loss, curvature)
        assert_close(spectrum.values[cell], top(matrix, 20))
        v, values = spectrum.vectors[cell].double().numpy(), spectrum.values[cell].numpy()
        np.testing.assert_allclose(v @ v.T, np.eye(20), atol=1e-4)
        true = np.linalg.norm(v @ matrix - values[:, None] * v, axis=1)
        assert (true <= 1.01 * spectrum.residuals[cell].numpy() + 1e-6 * np.abs(values).max()).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_curvlinops_and_eigsh_agree_on_trained_networks_of_3000_weights(loss):
    spec, gamma, seen = MLP(3, 32, 49, 10), np.array([0.05, 20.0]), []
    stream = data_stream("fashion-mnist-deformed", 32, 0, size=7)
    run = Ensemble(spec, gamma, 0.2 * gamma**2 / (1 + gamma) ** (4 / 3), stream=lambda seed: stream, loss=loss)
    run.run(100, probe=lambda step, networks: seen.append(networks), probe_steps=[100])
    networks, (x, y) = join(seen), stream(1000)
    x, y = x.double(), y.double()
    spectrum = top_eigenvalues(networks, x, y, 20, loss=loss)
    assert spectrum.converged.all()

    class Metric(nn.Module):
        def __init__(self, cell):
            super().__init__()
            self.gamma, self.roots = float(gamma[cell]), [networks.rates[n] ** 0.5 for n in networks.start]
            weights = [w[cell] for w in networks.weights.values()]
            self.layers = nn.ParameterList([w / root for w, root in zip(weights, self.roots, strict=True)])

        def forward(self, x):
            shift = networks.one(networks.start, x)
            for layer, (weight, root) in enumerate(zip(self.layers, self.roots, strict=True)):
                x = (x.relu() if layer else x) @ (root * weight).T
            return (x - shift) / self.gamma

    function, factor = (nn.MSELoss(), 5.0) if loss == "mse" else (nn.CrossEntropyLoss(), 1.0)  # mean of classes, no ½
    for cell in range(2):
        module = Metric(cell)
        operator = HessianLinearOperator(module, function, list(module.parameters()), [(x, y)]).to_scipy()
        values = eigsh(operator, 20, which="LA", tol=1e-8, return_eigenvectors=False)
        assert_close(spectrum.values[cell], factor * np.sort(values)[::-1])


def test_spectra_of_many_decades_are_taken_up_again_in_float64():
    this = case("relu", gamma=(1e-3, 1e-3))
    x = this.x * torch.logspace(0, -3, 24).double().unsqueeze(1)  # examples of ever less weight
    spectrum = top_eigenvalues(this.networks, x, this.y, 30, curvature="gauss-newton", tolerance=2e-5)
    for cell in range(2):
        expected = top(dense(Case(this.networks, x, this.y), cell, "mse", "gauss-newton"), 30)
        assert 2e-5 * expected[-1] < 5e-7 * expected[0]  # what is asked for is below float32's rounding
        assert_close(spectrum.values[cell], expected)
    assert spectrum.converged.all()
    rough = replace(this, networks=this.networks.select(np.array([0])))
    low = top_eigenvalues(rough.networks, this.x, this.y, 2, tolerance=1e-9)  # float32 cannot, float64 can
    assert low.converged.all()
    assert_close(low.values[0], top(dense(rough, 0, "mse", "hessian"), 2), 1e-9)


# ----------------------------------------------------------------------------------------------------- properties


@settings(max_examples=25, deadline=None)
@given(
    depth=st.integers(2, 3),
    width=st.integers(1, 9),
    classes=st.integers(2, 4),
    n=st.integers(1, 6),
    gamma=st.floats(-8, 8),
    loss=st.sampled_from(LOSSES),
    curvature=st.sampled_from(CURVATURES),
    seed=st.integers(0, 99),
)
def test_any_small_network_has_the_spectrum_of_its_dense_matrix(depth, width, classes, n, gamma, loss, curvature, seed):
    spec = MLP(depth, width, 12, classes)
    networks = networks_of(spec.module(seed), [10.0**gamma], spec.rates(), example_shape=(12,), seed=seed)
    x, y = data(n, 12, classes, seed)
    matrix = dense(Case(networks, x, y), 0, loss, curvature)
    k = min(5, len(matrix))
    spectrum = top_eigenvalues(networks, x, y, k, loss=loss, curvature=curvature)
    # at γ = 10⁻⁸ both sides subtract outputs that agree to eight digits
    allowed = PROMISED * np.abs(np.linalg.eigvalsh(matrix)).max() * 1e-2 + 1e-12
    np.testing.assert_allclose(spectrum.values[0], top(matrix, k), rtol=PROMISED, atol=allowed)


@pytest.mark.parametrize("curvature", CURVATURES)
def test_a_cell_does_not_depend_on_companions_or_on_chunks(curvature):
    this = case("relu", gamma=np.geomspace(1e-4, 1e3, 5))
    options = {"loss": "cross-entropy", "curvature": curvature}
    together = top_eigenvalues(this.networks, this.x, this.y, 8, **options)
    chunked = top_eigenvalues(this.networks, this.x, this.y, 8, memory=1.0, **options)
    assert_close(chunked.values, together.values, 1e-6)  # batched products round differently
    for cell in range(5):
        alone = top_eigenvalues(this.networks.select(np.array([cell])), this.x, this.y, 8, **options)
        assert_close(alone.values[0], together.values[cell], 1e-6)


def test_gauss_newton_is_that_of_gamma_one_over_gamma_squared():
    this = case("tanh", gamma=[1.0] * 5)
    same = {n: d[:1].expand(5, *d.shape[1:]) for n, d in this.networks.displacement.items()}
    gamma = torch.tensor([1.0, 1e-8, 1e-3, 1e3, 1e8]).double()
    networks = replace(this.networks, displacement=same, gamma=gamma)
    values = top_eigenvalues(networks, this.x, this.y, 6, curvature="gauss-newton").values
    assert_close(values * gamma.square().unsqueeze(1) / values[:1], np.ones((5, 6)), 1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_vectors_of_the_step_before_save_products(loss):
    this = case("relu", gamma=(1e-2, 1.0, 30.0))
    before = top_eigenvalues(this.networks, this.x, this.y, 10, loss=loss)
    moved = {name: 1.001 * d for name, d in this.networks.displacement.items()}
    networks = replace(this.networks, displacement=moved)
    cold = top_eigenvalues(networks, this.x, this.y, 10, loss=loss)
    warm = top_eigenvalues(networks, this.x, this.y, 10, loss=loss, start_vectors=before.vectors)
    assert_close(warm.values, cold.values)
    assert (warm.products < cold.products).all()


def test_sharpness_is_the_top_in_fewer_products():
    this = case("cnn")
    one, many = sharpness(this.networks, this.x, this.y), top_eigenvalues(this.networks, this.x, this.y, 20)
    assert_close(one.sharpness, many.sharpness, 1e-3)  # the square of a residual of 10⁻², over the gap
    assert (one.products < many.products / 2).all()


# ------------------------------------------------------------------------------------------------------- failures


def test_what_has_not_converged_says_so():
    this = case("relu")
    spectrum = top_eigenvalues(this.networks, this.x, this.y, 20, max_products=22)
    assert not spectrum.converged.any()
    assert spectrum.values.isfinite().all()


@pytest.mark.parametrize("kind", ["relu", "cnn"])
def test_broken_and_dead_cells_are_values_and_leave_the_others_alone(kind):
    this = case(kind, gamma=(1.0,) * 4)
    x = this.x.abs()
    moved = {n: d.clone() for n, d in this.networks.displacement.items()}
    first = "layers.0"
    moved[first][1] = torch.nan
    start = this.networks.start[first]
    moved[first][2] = -(start.abs() + 0.1) - start  # no unit is ever on
    moved[first][3] = 1e200  # finite weights, outputs beyond float32
    networks = replace(this.networks, displacement=moved)
    spectrum = top_eigenvalues(networks, x, this.y, 20)
    alone = top_eigenvalues(networks.select(np.array([0])), x, this.y, 20)
    assert_close(spectrum.values[0], alone.values[0], 1e-6)
    assert spectrum.values[1].isnan().all()
    assert spectrum.converged.tolist()[:3] == [True, False, True]
    assert spectrum.values[2].eq(0).all()
    assert not spectrum.converged[3] or spectrum.values[3].isfinite().all()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"k": 0}, "k"),
        ({"k": 10**6}, "k"),
        ({"loss": "hinge"}, "loss"),
        ({"curvature": "fisher"}, "curvature"),
        ({"dtype": "float16"}, "dtype"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"block": 0}, "block"),
        ({"x": torch.full((24, 25), torch.nan)}, "x"),
        ({"y": torch.ones(24, 3)}, "y"),
        ({"y": torch.full((24, 10), 0.5), "loss": "cross-entropy"}, "y"),
        ({"start_vectors": torch.ones(1, 2, 3)}, "start_vectors"),
    ],
)
def test_bad_input_is_named(changes, field):
    this = case("relu")
    with pytest.raises(InputError) as caught:
        top_eigenvalues(**({"networks": this.networks, "x": this.x, "y": this.y} | changes))
    assert caught.value.field == field


def test_an_exhausted_krylov_space_adds_nothing():
    """Rank 3 in 588 dimensions: what orthogonalisation leaves of a product is rounding inside the basis."""
    spec = MLP(2, 12, 46, 3)
    networks = networks_of(spec.module(3), [1e-2, 1.0, 1e2], spec.rates(), example_shape=(46,), seed=3)
    x, y = data(1, 46, 3, 3)
    spectrum = top_eigenvalues(networks, x, y, 8, curvature="gauss-newton")
    for cell in range(3):
        expected = top(dense(Case(networks, x, y), cell, "mse", "gauss-newton"), 8)
        np.testing.assert_allclose(spectrum.values[cell], expected, rtol=PROMISED, atol=1e-6 * expected[0])
