"""Products of many cells by oneDNN and by MKL.

The oracle is the same product in double precision by NumPy. A sum of k products in single precision, in any order, is
off by at most k units of rounding (2⁻²⁴ each) of the sum of their magnitudes; scaling and adding it round thrice more.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from empirical import MLP, Ensemble, data_stream
from empirical.models import products
from theory import ToyModel

SIZES = st.integers(1, 40)
SHAPES = {"cells": st.integers(1, 5), "m": SIZES, "k": SIZES, "n": SIZES}
BY_ONEDNN = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


def draws(seed, *shapes):
    draw = np.random.default_rng(seed)
    return [torch.from_numpy(draw.standard_normal(shape).astype(np.float32)) for shape in shapes]


def assert_product(found, before, left, right, keep, scale):
    left, right, before = (tensor.double().numpy() for tensor in (left, right, before))
    exact, size = keep * before + scale * (left @ right), abs(keep * before) + abs(scale) * (abs(left) @ abs(right))
    assert (abs(found.double().numpy() - exact) <= (left.shape[-1] + 3) * 2.0**-24 * size).all()


@settings(max_examples=60, deadline=None)
@given(**SHAPES, keep=st.sampled_from([0, 1]), scale=st.sampled_from([1.0, -0.3]), seed=st.integers(0, 9))
def test_a_factor_that_all_cells_share(cells, m, k, n, keep, scale, seed):
    left, right, out = draws(seed, (cells, m, k), (n, k), (cells, m, n))
    before = out.clone()
    products.shared(left, right.T, out, keep=keep, scale=scale)
    assert_product(out, before, left, right.T, keep, scale)


@settings(max_examples=60, deadline=None)
@given(
    **SHAPES, keep=st.sampled_from([0, 1]), scale=st.sampled_from([1.0, -0.3]), large=st.booleans(), turn=st.booleans()
)
@example(cells=2, m=256, k=256, n=64, keep=0, scale=1.0, large=False, turn=False)  # large without being told
@example(cells=2, m=256, k=256, n=64, keep=0, scale=1.0, large=False, turn=True)
def test_a_factor_for_each_cell(cells, m, k, n, keep, scale, large, turn):
    left, right, out = draws(1, (cells, k, m) if turn else (cells, m, k), (cells, k, n), (cells, m, n))
    left, before = left.mT if turn else left, out.clone()
    with pytest.MonkeyPatch.context() as patch:
        if large:
            patch.setattr(products, "LARGE", 0)
        products.batched(left, right, out, keep=keep, scale=scale)
    assert_product(out, before, left, right, keep, scale)


def test_no_cells_and_what_an_overwritten_tensor_held():
    left, right = draws(0, (2, 3, 4), (4, 5))
    out = torch.full((2, 3, 5), torch.nan)
    products.shared(left, right, out)
    assert_product(out, torch.zeros(()), left, right, 0, 1)
    products.shared(left[:0], right, out[:0], keep=1)


@BY_ONEDNN
def test_who_makes_which_product(monkeypatch):
    calls, product = [], products._product
    monkeypatch.setattr(products, "_product", lambda *factors: calls.append(factors) or product(*factors))
    (left, right, out), (wide, tall, sums) = draws(0, (2, 4, 4), (4, 4), (2, 4, 4)), draws(0, *[(2, 200, 200)] * 3)

    def made():
        calls.clear()
        products.shared(left, right, out)
        products.batched(left, left, out)
        products.batched(wide, tall, sums)
        return len(calls)

    assert made() == 1 + 0 + 2
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert made() == 0
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", True)
    left, right, out, wide, tall, sums = (tensor.double() for tensor in (left, right, out, wide, tall, sums))
    assert made() == 0


@BY_ONEDNN
@settings(max_examples=60, deadline=None)
@given(
    cells=st.integers(2, 60),
    first=st.integers(0, 58),
    m=st.integers(2, 70),
    k=st.integers(1, 300),
    n=st.integers(1, 80),
)
@example(cells=57, first=9, m=64, k=196, n=64)
@example(cells=57, first=56, m=64, k=64, n=196)
def test_the_same_bits_whatever_the_other_cells_are(cells, first, m, k, n):
    first = min(first, cells - 1)
    left, right, out = draws(2, (cells, m, k), (n, k), (cells, m, n))
    alone = out[first : first + 1].clone()
    products.shared(left, right.T, out, keep=1, scale=0.3)
    products.shared(left[first : first + 1], right.T, alone, keep=1, scale=0.3)
    assert torch.equal(alone[0], out[first])


def curves(width, gamma, eta, seed, steps, **options):
    def stream(of):
        return data_stream("fashion-mnist-deformed", 64, of, size=14, dtype=torch.float64)

    run = Ensemble(MLP(3, width, 196, 10), gamma, eta, seed, stream=stream, **options).run(steps, np.arange(steps))
    return run.loss_curve


@pytest.mark.parametrize("width", [64, 256])
def test_in_single_precision_a_cell_has_the_same_bits_alone_and_among_others(width):
    # the third is above eta_max and leaves the others within the first steps; the last two are lazy
    gamma, seed = np.array([1.0, 0.1, 1.0, 10.0, 1e-3, 1e-4]), np.array([0, 0, 1, 1, 0, 1])
    eta = np.array([0.1, 0.1, 1e4, 0.1, 0.1, 0.1]) * ToyModel().boundary("eta_crit").numeric(gamma=gamma, depth=3)
    beside = curves(width, gamma, eta, seed, 12)
    assert np.isnan(beside[2, -1])
    for cell in (0, 1, 3, 4, 5):
        here = slice(cell, cell + 1)
        np.testing.assert_array_equal(curves(width, gamma[here], eta[here], seed[here], 12)[0], beside[cell])


@BY_ONEDNN
@pytest.mark.parametrize("width", [64, 256])
def test_training_by_either_library_is_training_in_double_precision(width, monkeypatch):
    # 1e-6 of rounding grows along twenty stable steps; the two differ from each other, or only one of them was used
    gamma = np.array([1e-3, 1.0, 10.0])
    eta = 0.2 * ToyModel().boundary("eta_crit").numeric(gamma=gamma, depth=3)
    exact, by_onednn = (curves(width, gamma, eta, 0, 20, dtype=dtype) for dtype in ("float64", "float32"))
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    by_mkl = curves(width, gamma, eta, 0, 20)
    np.testing.assert_allclose(by_onednn, exact, rtol=1e-4)
    np.testing.assert_allclose(by_mkl, exact, rtol=1e-4)
    assert abs(by_onednn - exact).max() < 3 * abs(by_mkl - exact).max()
