"""The block Lanczos method on explicit matrices, against ``numpy.linalg.eigvalsh`` and against prescribed spectra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from empirical.measure.lanczos import largest, orthonormal


class Explicit:
    """Matrices as operators."""

    def __init__(self, matrices):
        self.matrices = matrices

    def __call__(self, vectors):
        return vectors @ self.matrices

    def select(self, index):
        return Explicit(self.matrices[index])


def with_spectrum(values, seed=0):
    """Symmetric matrix of given eigenvalues."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((len(values), len(values))))
    return torch.from_numpy((q * values) @ q.T)


def solve(matrices, k, block=2, room=30, tolerance=1e-10, most=3000, dtype=torch.float64):
    start = torch.randn(len(matrices), block, matrices.shape[1], generator=torch.Generator().manual_seed(5)).to(dtype)
    rounding = 1e-14 if dtype == torch.float64 else 1e-6
    options = {"room": room, "tolerance": tolerance, "rounding": rounding, "most_products": most}
    return largest(Explicit(matrices.to(dtype)), k, start, **options)


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(40, 120),
    k=st.integers(1, 8),
    block=st.integers(1, 4),
    decay=st.floats(0.6, 0.97),
    seed=st.integers(0, 10**6),
)
def test_signed_spectra_of_any_decay(size, k, block, decay, seed):
    rng = np.random.default_rng(seed)
    values = decay ** np.arange(size) * np.where(
        rng.random(size) < 0.3, -3.0, 1.0
    )  # the largest magnitudes are negative
    matrix = with_spectrum(values, seed)
    found = solve(matrix.unsqueeze(0), k, block)
    assert float(found.excess(1e-9)) <= 1
    np.testing.assert_allclose(found.values[0], np.sort(values)[::-1][:k], rtol=1e-8, atol=1e-10)
    true = (found.vectors @ matrix - found.values.unsqueeze(2) * found.vectors).norm(dim=2)
    assert bool((true <= found.residuals + 1e-12).all())


def test_restarts_reach_what_one_basis_reaches():
    values = np.concatenate([1 + 0.02 * np.arange(5), np.linspace(-1, 0.99, 195)])
    matrices = with_spectrum(values).unsqueeze(0)
    short, long = solve(matrices, 5, room=14), solve(matrices, 5, room=150)
    assert int(short.products) > 3 * 14  # it did restart
    np.testing.assert_allclose(short.values, long.values, rtol=1e-9)
    np.testing.assert_allclose(short.values[0], np.sort(values)[::-1][:5], rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_copies_of_an_eigenvalue_are_found_up_to_the_block(dtype):
    values = np.concatenate([[3.0] * 4, [2.0] * 3, np.linspace(0, 1, 93)])
    found = solve(with_spectrum(values).unsqueeze(0), 7, block=4, dtype=dtype, tolerance=1e-5)
    np.testing.assert_allclose(found.values[0], [3.0] * 4 + [2.0] * 3, rtol=1e-5)


def test_low_rank_and_zero_matrices_are_filled_up_with_zeros():
    values = np.zeros(60)
    values[:3] = [5.0, 2.0, -1.0]
    found = solve(torch.stack([with_spectrum(values), torch.zeros(60, 60).double()]), 6, block=3)
    assert bool((found.excess(1e-9) <= 1).all())
    np.testing.assert_allclose(found.values[0], [5, 2, 0, 0, 0, 0], atol=1e-12)
    assert found.values[1].eq(0).all()
    gram = found.vectors @ found.vectors.transpose(1, 2)
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(6), (2, 6, 6)), atol=1e-10)


def test_operators_leave_when_done_and_broken_ones_are_named():
    easy, hard = 0.5 ** np.arange(80), np.linspace(0, 1, 80)
    matrices = torch.stack([with_spectrum(v, i) for i, v in enumerate((easy, hard, easy, hard, easy))])
    matrices[2, 0, 0] = torch.nan
    found = solve(matrices, 4)
    assert found.values[2].isnan().all()
    assert found.products[0] < found.products[1]
    for i, values in ((0, easy), (1, hard), (3, hard), (4, easy)):
        np.testing.assert_allclose(found.values[i], np.sort(values)[::-1][:4], rtol=1e-8)


def test_too_few_products_end_without_convergence():
    found = solve(with_spectrum(np.linspace(0, 1, 80)).unsqueeze(0), 4, most=8)
    assert int(found.products) <= 8
    assert float(found.excess(1e-8)) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orthonormal_rows_reproduce_what_they_came_from(dtype):
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 4, 50, generator=draw).to(dtype)
    rows[0, 3] = rows[0, 0] - rows[0, 1]  # dependent
    z, r = orthonormal(rows)
    eps = torch.finfo(dtype).eps
    np.testing.assert_allclose(r @ z.double(), rows.double(), atol=200 * eps)
    gram = (z.double() @ z.double().transpose(1, 2)).numpy()
    np.testing.assert_allclose(gram[1], np.eye(4), atol=100 * eps)
    np.testing.assert_allclose(gram[0], np.diag([1.0, 1, 1, 0]), atol=1e-4 if dtype == torch.float32 else 1e-7)
