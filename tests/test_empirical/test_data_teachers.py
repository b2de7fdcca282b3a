"""Gaussian teachers.

Normal numbers are held against the formula of Box and Muller in NumPy's own logarithm, sine and cosine, and their
distribution against SciPy's. Teachers are held against closed forms: unit variance, orthogonal Hermite polynomials
(SciPy's, and exact Gauss–Hermite quadrature), and the arc-cosine kernel for the moments of a two-layer ReLU network.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import eval_hermitenorm

from empirical import Ensemble
from empirical.data import data_stream, words
from empirical.data.normal import normal_numbers
from empirical.data.teachers import (
    MOST,
    TeacherStream,
    direction,
    hermite,
    network_moments,
    network_output,
    network_weights,
)
from empirical.shard import TrainingConfig
from theory.errors import InputError

SAMPLES = 200_000
WORDS = st.integers(0, 2**64 - 1)
EXPECTED_X = ["0x1.7ed399db441b2p+1", "-0x1.09819e87fed32p-1", "0x1.8f251e1500882p-1"]
EXPECTED_Y = "-0x1.379072b353770p+1"


def sample(name, size, seed=0):
    x, y = data_stream(name, SAMPLES // 20, seed, size=size, dtype=torch.float64).batches(0, 20)
    return x.flatten(0, 1).numpy(), y.flatten().numpy()


# --- normal numbers ---------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=8))
def test_normal_numbers_agree_with_the_mathematics_library(pairs):
    drawn = np.array(pairs, dtype=np.uint64)
    u = [(int(word) // 2**11 + 1) / 2**53 for word in drawn[:, 0]]
    v = [int(word) // 2**11 / 2**53 for word in drawn[:, 1]]
    radius = np.sqrt(-2 * np.log(u))
    expected = np.stack([radius * np.cos(2 * np.pi * np.array(v)), radius * np.sin(2 * np.pi * np.array(v))], 1)
    # the argument 2πv is rounded in the oracle: 1e-15 of up to 8.6
    np.testing.assert_allclose(normal_numbers(drawn, 2), expected, rtol=1e-14, atol=2e-14)


@pytest.mark.parametrize("pair", [(0, 0), (2**64 - 1, 0), (0, 2**64 - 1), (2**64 - 1, 2**64 - 1), (2**63, 2**62)])
def test_the_ends_are_finite(pair):
    x = normal_numbers(np.array([pair], dtype=np.uint64), 2)
    assert np.isfinite(x).all()
    assert np.abs(x).max() <= math.sqrt(2 * 53 * math.log(2)) * (1 + 1e-15)


def test_inputs_are_standard_normal_and_independent():
    x, _ = sample("teacher-linear", 5)
    assert stats.kstest(x.ravel(), "norm").pvalue > 1e-3
    assert stats.kstest((x**2).sum(1), "chi2", args=(5,)).pvalue > 1e-3
    covariance = x.T @ x / len(x)
    # each entry has a standard deviation of at most √2/√n; 5 of them
    assert np.abs(covariance - np.eye(5)).max() < 5 * (2 / len(x)) ** 0.5


@pytest.mark.parametrize("size", [1, 2, 7])
def test_an_odd_dimension_drops_a_number(size):
    x = data_stream("teacher-linear", 3, size=size, dtype=torch.float64)(4)[0]
    even = size + size % 2
    drawn = words.raw_words(0, words.TRAINING, range(4, 5), 3 * even).reshape(3, even)
    assert np.array_equal(x.numpy(), normal_numbers(drawn, even)[:, :size])


def test_every_machine_draws_the_same_numbers():
    """A regression value, from x86-64; every operation is one of IEEE arithmetic."""
    x, y = data_stream("teacher-mlp:3x8", 2, 7, size=3, dtype=torch.float64)(5)
    assert [entry.hex() for entry in x[0].tolist()] == EXPECTED_X
    assert float(y[0]).hex() == EXPECTED_Y


# --- teachers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 7, MOST])
def test_hermite_polynomials_are_scipys(degree):
    z = np.linspace(-6, 6, 101)
    expected = eval_hermitenorm(degree, z) / math.sqrt(math.factorial(degree))
    # cancellation at the zeros: relative to the largest term
    np.testing.assert_allclose(hermite(z, degree), expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


def test_hermite_polynomials_are_orthonormal():
    """Exactly: quadrature with 32 nodes integrates polynomials of degree up to 63."""
    z, weight = np.polynomial.hermite_e.hermegauss(32)
    polynomials = np.stack([hermite(z, degree) for degree in range(MOST + 1)])
    gram = (polynomials * weight) @ polynomials.T / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(gram, np.eye(MOST + 1), atol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 9, 100])
def test_a_linear_teacher_is_its_vector(size):
    stream = data_stream("teacher-linear", 2 * size, size=size, dtype=torch.float64)
    x, y = stream(3)
    assert np.linalg.norm(direction(size)) == pytest.approx(1, abs=1e-14)
    fitted = np.linalg.lstsq(x.numpy(), y.numpy()[:, 0], rcond=None)[0]
    np.testing.assert_allclose(fitted, direction(size), atol=1e-10)
    x_test, y_test = stream.test_set()
    np.testing.assert_allclose(y_test.numpy()[:, 0], x_test.numpy() @ direction(size), atol=1e-12)


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_a_single_index_teacher_has_unit_variance_and_no_lower_degree(degree):
    x, y = sample(f"teacher-single-index:{degree}", 4)
    z = x @ direction(4)
    rest = x @ np.linalg.svd(direction(4)[None])[2][1:].T  # directions across w
    # fourth moment of He_k/√k!, by exact quadrature: the error of a mean square
    nodes, weight = np.polynomial.hermite_e.hermegauss(40)
    fourth = (weight * hermite(nodes, degree) ** 4).sum() / np.sqrt(2 * np.pi)
    assert abs(y.mean()) < 5 / SAMPLES**0.5
    assert abs((y**2).mean() - 1) < 5 * ((fourth - 1) / SAMPLES) ** 0.5
    for lower in range(degree):
        both = (weight * (hermite(nodes, degree) * hermite(nodes, lower)) ** 2).sum() / np.sqrt(2 * np.pi)
        assert abs((y * hermite(z, lower)).mean()) < 5 * (both / SAMPLES) ** 0.5
        assert abs((y * hermite(rest[:, 0], lower)).mean()) < 5 / SAMPLES**0.5
    np.testing.assert_allclose(y, hermite(z, degree), atol=1e-9)


def test_defaults_of_options():
    for short, long in (("teacher-single-index", "teacher-single-index:2"), ("teacher-mlp", "teacher-mlp:2x32")):
        assert torch.equal(data_stream(short, 5)(0)[1], data_stream(long, 5)(0)[1])
    linear, first = data_stream("teacher-linear", 5)(0)[1], data_stream("teacher-single-index:1", 5)(0)[1]
    assert torch.equal(linear, first)


@pytest.mark.parametrize("width", [1, 16])
def test_moments_of_a_two_layer_teacher_are_those_of_the_arc_cosine_kernel(width):
    first, second = network_weights(6, 2, width)
    norm, a = np.linalg.norm(first, axis=0), second[:, 0]
    mean = (a * norm).sum() / math.sqrt(2 * math.pi)  # E max(0, u·x) = |u|/√(2π)
    cosine = np.clip(first.T @ first / np.outer(norm, norm), -1, 1)
    angle = np.arccos(cosine)
    kernel = np.outer(norm, norm) * (np.sin(angle) + (np.pi - angle) * cosine) / (2 * np.pi)
    deviation = math.sqrt(a @ kernel @ a - mean**2)
    measured = network_moments(6, 2, width)
    # 65,536 samples: 1/256 of a deviation for the mean; the kurtosis of such outputs is below 12
    assert measured[0] == pytest.approx(mean, abs=5 * deviation / 256)
    assert measured[1] == pytest.approx(deviation, rel=5 * (11 / 4) ** 0.5 / 256)


@pytest.mark.parametrize("option", ["2x4", "4x16"])
def test_a_network_teacher_is_that_network_of_unit_variance(option):
    x, y = sample(f"teacher-mlp:{option}", 6, seed=5)
    layers, width = map(int, option.split("x"))
    weights = network_weights(6, layers, width)
    assert [w.shape for w in weights] == [(6, width), *[(width, width)] * (layers - 2), (width, 1)]
    hidden = torch.from_numpy(x)
    for matrix in weights[:-1]:
        hidden = torch.relu(hidden @ torch.from_numpy(matrix))
    raw = (hidden @ torch.from_numpy(weights[-1])).numpy()[:, 0]
    np.testing.assert_allclose(network_output(x, weights), raw, rtol=1e-10, atol=1e-12)
    mean, deviation = network_moments(6, layers, width)
    np.testing.assert_allclose(y, (raw - mean) / deviation, atol=1e-10)
    assert abs(y.mean()) < 0.03  # 5 deviations of the sample that the moments were measured on
    assert y.var() == pytest.approx(1, abs=0.06)


def test_the_teacher_belongs_to_the_name_and_not_to_the_seed():
    one, other = (data_stream("teacher-mlp", 50, seed, size=5, dtype=torch.float64) for seed in (0, 1))
    x, y = one(0)
    assert isinstance(other, TeacherStream)
    np.testing.assert_allclose(other.teacher(x.numpy()), y.numpy()[:, 0], atol=1e-12)
    assert not torch.equal(other(0)[0], x)
    assert torch.equal(one.test_set()[0], other.test_set()[0])


# --- in training ------------------------------------------------------------------------------------------------------


def test_training_on_real_targets():
    """A linear network with a linear teacher: the loss starts at ½ and falls to nothing; accuracies are undefined."""
    config = TrainingConfig(2, width=16, data="teacher-linear", image_size=4, steps=400)
    ensemble = Ensemble(config.spec(), [1.0, 1e-3], [0.1, 1e-7], 0, stream=config.stream)
    result = ensemble.run(400)
    assert result.loss_curve[0, 0] == pytest.approx(0.5, abs=0.3)  # ½ Σ y²/64 of one batch, χ² with 64 degrees
    _, y = config.stream(0)(0)
    assert result.loss_curve[0, 0] == pytest.approx(float(y.square().mean() / 2), rel=1e-5)
    assert result.cells.final_loss[0] < 0.05
    assert np.isnan(result.cells.final_accuracy).all()
    assert np.isnan(result.accuracy_curve).all()


def test_cross_entropy_is_refused():
    with pytest.raises(InputError, match=r"^loss = 'cross-entropy': must be mse"):
        TrainingConfig(2, data="teacher-single-index:3", loss="cross-entropy")


@pytest.mark.parametrize(
    "name",
    [
        *("teacher-linear:1", "teacher-single-index:0", "teacher-single-index:", "teacher-single-index:21"),
        *(
            "teacher-single-index:-1",
            "teacher-single-index:2.0",
            "teacher-single-index:٣",
            "teacher-mlp:2",
            "teacher-mlp:1x4",
        ),
        *("teacher-mlp:2x0", "teacher-mlp:2x4097", "teacher-mlp:x", "teacher-mlp:2x4x4", "teacher", "teacher-mlp "),
    ],
)
def test_bad_options_are_refused(name):
    with pytest.raises(InputError, match=r"^(data|name) = "):
        data_stream(name)
