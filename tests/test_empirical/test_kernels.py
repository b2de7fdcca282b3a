"""Compiled products, exponentials and optimizers of the kernels against NumPy in double precision.

A sum of k products, in any order, is off by at most k units of rounding of the sum of their magnitudes; scaling and
adding it round twice more.
"""

from __future__ import annotations

import os
import subprocess
import sys

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import njit

from empirical.kernels import elementwise, mlp, products
from empirical.kernels.elementwise import exponential
from empirical.kernels.tiles import ADD, FIRST, GATE, NEXT, RELU, STORE, lanes, vector_registers
from empirical.losses import LOSSES
from empirical.optimizers import make_optimizer

DTYPES = st.sampled_from([np.float32, np.float64])
SIZES = st.integers(1, 40)

pytestmark = pytest.mark.skipif(vector_registers() is None, reason="this processor has no fused multiply-add")


def padded(size, dtype):
    vector = lanes(np.dtype(dtype).itemsize)
    return -(-size // vector) * vector


@settings(max_examples=80, deadline=None)
@given(
    dtype=DTYPES, rows=SIZES, columns=st.integers(1, 150), depth=SIZES, turned=st.booleans(), mode=st.integers(0, 3),
    seed=st.integers(0, 9),
)  # fmt: skip
@example(dtype=np.float32, rows=1, columns=1, depth=1, turned=False, mode=0, seed=0)
@example(dtype=np.float32, rows=64, columns=64, depth=64, turned=True, mode=3, seed=0)
def test_products_of_any_size(dtype, rows, columns, depth, turned, mode, seed):
    draw = np.random.default_rng(seed)
    row = padded(columns, dtype)
    a, b, c, gate = (
        draw.standard_normal(shape).astype(dtype) for shape in ((rows, depth), (depth, row), *[(rows, row)] * 2)
    )
    kept = np.asfortranarray(a) if turned else a
    steps = (NEXT, np.int64(rows)) if turned else (np.int64(depth), NEXT)
    out, scale = c.copy(), dtype(-0.3)
    where = FIRST, np.int64(row), np.int64(rows), np.int64(row), np.int64(depth)
    products.multiply(
        (STORE, RELU, GATE, ADD)[mode], scale, kept.ravel(order="K"), FIRST, *steps, b.ravel(), *where,
        out.reshape(-1), FIRST, np.int64(row), gate.ravel(), FIRST,
    )  # fmt: skip
    exact = a.astype(float) @ b.astype(float)
    scaled = float(scale) * exact
    exact = [scaled, np.maximum(exact, 0), np.where(gate > 0, exact, 0), c + scaled][mode]
    size = abs(a).astype(float) @ abs(b).astype(float) + (abs(c) if mode == 3 else 0)
    assert (abs(out - exact) <= (depth + 2) * np.finfo(dtype).eps / 2 * size).all()


@settings(max_examples=60, deadline=None)
@given(
    dtype=DTYPES, rows=SIZES, examples=st.integers(1, 80), depth=SIZES, turned=st.booleans(), add=st.booleans(),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_a_product_for_each_example(dtype, rows, examples, depth, turned, add, seed):
    draw, row = np.random.default_rng(seed), padded(examples, dtype)
    a, b, c = (draw.standard_normal(shape).astype(dtype) for shape in ((rows, depth, row), (depth, row), (rows, row)))
    kept = np.ascontiguousarray(a.transpose(1, 0, 2)) if turned else a
    steps = (np.int64(row), np.int64(rows * row)) if turned else (np.int64(depth * row), np.int64(row))
    out, scale, sizes = c.copy(), dtype(0.7), [np.int64(n) for n in (rows, row, depth)]
    products.multiply_each(
        ADD if add else STORE, scale, kept.reshape(-1), FIRST, *steps, b.reshape(-1), FIRST, sizes[1], *sizes,
        out.reshape(-1), FIRST, sizes[1],
    )  # fmt: skip
    exact = float(scale) * np.einsum("ike,ke->ie", a.astype(float), b.astype(float)) + (c if add else 0)
    size = np.einsum("ike,ke->ie", abs(a).astype(float), abs(b).astype(float)) + abs(c)
    assert (abs(out - exact) <= (depth + 3) * np.finfo(dtype).eps / 2 * size).all()


def product(a, b):
    """C = AB by the tiles, with as many columns as there are whole vectors."""
    out = np.zeros((len(a), b.shape[1]), a.dtype)
    sizes = np.int64(len(a)), np.int64(b.shape[1]), np.int64(len(b))
    products.multiply(
        STORE, a.dtype.type(1), a.ravel(), FIRST, sizes[2], NEXT, b.ravel(), FIRST, sizes[1], *sizes,
        out.reshape(-1), FIRST, sizes[1], out.reshape(-1), FIRST,
    )  # fmt: skip
    return out


def test_an_entry_has_the_same_bits_wherever_it_stands():
    draw = np.random.default_rng(0)
    a, b = (draw.standard_normal(shape).astype(np.float32) for shape in ((37, 29), (29, 7 * lanes(4))))
    whole, row, column = product(a, b), draw.permutation(37), draw.permutation(7 * lanes(4))
    np.testing.assert_array_equal(product(a[row], b[:, column].copy()), whole[np.ix_(row, column)])
    for rows in range(1, 9):
        np.testing.assert_array_equal(product(a[:rows], b), whole[:rows])


def test_gates_keep_what_is_not_a_number():
    vector = lanes(8)
    a, b = np.array([[1.0]]), np.full((1, vector), np.nan)
    for mode in (RELU, GATE):
        out, gate = np.zeros(vector), np.ones(vector)
        products.multiply(
            mode, 1.0, a.ravel(), FIRST, NEXT, NEXT, b.ravel(), FIRST, np.int64(vector), NEXT, np.int64(vector), NEXT,
            out, FIRST, np.int64(vector), gate, FIRST,
        )  # fmt: skip
        assert np.isnan(out).all()


@settings(max_examples=60, deadline=None)
@given(dtype=DTYPES, rows=st.integers(1, 70), columns=st.integers(1, 70))
def test_transposes_write_nothing_else(dtype, rows, columns):
    a = np.arange(rows * columns, dtype=dtype).reshape(rows, columns)
    out = np.full((columns, rows + 3), -1.0, dtype)
    products.turn(a.ravel(), FIRST, columns, rows, columns, out.reshape(-1), FIRST, rows + 3)
    np.testing.assert_array_equal(out[:, :rows], a.T)
    assert (out[:, rows:] == -1).all()


@njit
def exponentials(x):
    out = np.empty_like(x)
    for i in range(x.size):
        out[i] = exponential(x[i])
    return out


def test_the_exponential_is_right_to_a_unit_in_the_last_place():
    x = np.concatenate([-np.geomspace(1e-9, 87, 20_000), [-0.0]]).astype(np.float32)
    exact = np.exp(x.astype(float))
    assert (abs(exponentials(x) - exact) <= np.spacing(exact.astype(np.float32))).all()
    np.testing.assert_array_equal(exponentials(np.array([-100, -np.inf, np.nan], np.float32)), [0, 0, np.nan])


def test_the_exponential_in_double_precision_is_right_to_two_units_in_the_last_place():
    x = np.concatenate([-np.geomspace(1e-12, 707, 4000), [-0.0]])
    exact = np.array([mpmath.exp(mpmath.mpf(float(value))) for value in x])
    units = np.array([
        float((mpmath.mpf(float(found)) - true) / true) for found, true in zip(exponentials(x), exact, strict=True)
    ])
    assert abs(units).max() <= 2 * np.finfo(float).eps
    np.testing.assert_array_equal(exponentials(np.array([-800, -np.inf, np.nan])), [0, 0, np.nan])


@settings(max_examples=40, deadline=None)
@given(
    classes=st.integers(1, 12), examples=st.integers(1, 40), size=st.floats(0.01, 300), soft=st.booleans(), dtype=DTYPES
)
def test_losses_are_those_of_torch(classes, examples, size, soft, dtype):
    draw, row = np.random.default_rng(0), padded(examples, dtype)
    f, y = np.zeros((2, classes, row), dtype)
    f[:, :examples] = size * draw.standard_normal((classes, examples))
    chances = (
        draw.dirichlet(np.ones(classes), examples) if soft else np.eye(classes)[draw.integers(classes, size=examples)]
    )
    y[:, :examples] = chances.T
    real, wanted = (torch.from_numpy(values[None, :, :examples].astype(float)) for values in (f, y))
    tolerance = {"rtol": 2e-5, "atol": 1e-5} if dtype is np.float32 else {"rtol": 1e-12, "atol": 1e-12}

    loss, slope = LOSSES["mse"](real.clone(), wanted)
    out = f.copy()
    np.testing.assert_allclose(
        elementwise.squared_error(out.reshape(-1), y.ravel(), dtype(1)) / examples, loss, **tolerance
    )
    np.testing.assert_allclose(out[:, :examples], slope[0], **tolerance)
    assert (out[:, examples:] == 0).all()

    loss, slope = LOSSES["cross-entropy"](real.clone(), wanted)
    out, entropy = f.copy(), torch.xlogy(wanted, wanted)[0].sum(0).numpy().astype(dtype)
    total = elementwise.softmax_excess(
        out.reshape(-1), row, y.ravel(), entropy, dtype(1), np.zeros(3 * examples, dtype)
    )
    np.testing.assert_allclose(total / examples, loss, rtol=tolerance["rtol"], atol=tolerance["atol"] * max(1, size))
    np.testing.assert_allclose(out[:, :examples], slope[0], rtol=1e-4 if dtype is np.float32 else 1e-11, atol=3e-7)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", ["gd", "momentum", "adam", "sign"])
def test_optimizers_are_those_of_the_stacks(name, decay):
    draw, one = np.random.default_rng(0), torch.ones(1, dtype=torch.float64)
    weight, gradients = draw.standard_normal(40), draw.standard_normal((5, 40))
    gradients[:, :3] = 0  # sign(0) = 0
    theirs, ours = torch.from_numpy(weight.copy())[None], weight.copy()
    optimizer = make_optimizer(name, 0.03 * one, one, 0.8 * one, torch.float64, decay)
    first, second = np.zeros((2, 40))
    kinds = {
        "gd": elementwise.DECAYED,
        "momentum": elementwise.HEAVY_BALL,
        "adam": elementwise.ADAM,
        "sign": elementwise.SIGN,
    }
    for step, gradient in enumerate(gradients):
        optimizer.begin(0.5 + step)
        optimizer.step(0, theirs, torch.from_numpy(gradient.copy())[None], 2.0, theirs)
        elementwise.move(kinds[name], ours, ours, gradient, first, second, 2 * (0.5 + step), 0.03, 0.8, decay, step + 1)
    np.testing.assert_allclose(ours, theirs[0], rtol=1e-12)
    assert abs(ours - weight).max() > 0.01


AS_ON_ANOTHER_PROCESSOR = """
import numpy as np
from empirical.kernels import tiles
assert tiles.REGISTERS == tiles.Registers(32, 16), tiles.REGISTERS
from tests.test_empirical.test_kernels import product
a, b = (np.random.default_rng(0).standard_normal(shape).astype(np.float32) for shape in ((21, 13), (13, 56)))
np.testing.assert_allclose(product(a, b), a @ b, rtol=1e-4, atol=1e-5)
"""


@pytest.mark.skipif(lanes(4) < 8, reason="this processor has no AVX2")
def test_products_by_half_as_many_registers_half_as_long():
    features = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma"
    environment = os.environ | {"NUMBA_CPU_FEATURES": features, "NUMBA_CPU_NAME": "haswell", "PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-c", AS_ON_ANOTHER_PROCESSOR], check=True, env=environment)


def test_what_is_not_whole_vectors_never_reaches_a_result():
    """NaN in all padding of the weights changes no bit."""
    from empirical import MLP, data_stream
    from empirical.models.fused_mlp import FusedMLPStack
    from empirical.models.stack import Lesson, Placement

    spec, stream = MLP(3, 5, 49, 10), data_stream("fashion-mnist-deformed", 6, 0, size=7, dtype=torch.float64)
    batches = [stream(step) for step in range(4)]
    found = []
    for spoiled in (False, True):
        one = torch.ones(2, dtype=torch.float64)
        optimizer = make_optimizer("momentum", 0.1 * one, one, 0.9 * one, torch.float64)
        placement = Placement([0], [2], optimizer, False, torch.float64, torch.device("cpu"))
        stack = spec.stack(placement)
        assert isinstance(stack, FusedMLPStack)
        if spoiled:
            real = torch.zeros_like(stack.weights, dtype=torch.bool)
            for part in stack.layers_of(real):
                part.fill_(True)
            for flat in (stack.weights, stack.start):
                flat[~real[: len(flat)]] = torch.nan
        lesson = Lesson("mse", one, [1.0] * 4, [True] * 4)
        told, hits = stack.train(
            [torch.stack([x for x, _ in batches])], [torch.stack([y.T for _, y in batches])], lesson
        )
        found.append((told, hits, stack.forward([batches[0][0]]).numpy()))
    for clean, dirty in zip(*found, strict=True):
        np.testing.assert_array_equal(clean, dirty)
        assert np.isfinite(clean).all()


def test_the_loops_are_compiled_once_for_each_precision():
    from empirical import MLP, Ensemble, data_stream

    def stream(seed):
        return data_stream("fashion-mnist-deformed", 6, seed, size=7)

    for loss in elementwise.LOSSES:
        Ensemble(MLP(3, 5, 49, 10), [1e-4, 1.0], 1e-9, stream=stream, loss=loss).run(2)
    assert len([kinds for kinds in mlp.train.signatures if "float32" in str(kinds)]) == 1
