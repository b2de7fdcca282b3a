"""Matrix products of many cells, by the faster of the two libraries behind PyTorch on a CPU.

``torch.mm`` and ``torch.bmm`` are MKL's in single precision, and MKL does not use AVX-512 on AMD's processors: a Zen 5
core ends at 106 GFLOP/s. oneDNN does and reaches 230, but PyTorch leaves to it only convolutions and the operator
behind the linear layers of compiled programs, left · rightᵀ of two matrices; a call takes 13 μs, in which MKL makes
100 × 100 · 100 × 64. So oneDNN gets the products in which all cells share a factor, which are one large product, and
those of large matrices cell by cell. It returns the same bits whatever other rows a matrix of two or more has, and
factors are scaled before the product, since ``add_`` rounds a scaled sum once or twice by its place: no cell feels
another.

Double precision, GPUs and machines without oneDNN keep PyTorch's products, and so does whoever sets
``torch.backends.mkldnn.enabled = False``.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGE = 3e6
"""Multiplications of a cell from which on oneDNN is faster cell by cell: a third at 256 · 256 · 64, nothing at half."""

LARGEST_BLOCK = (32 << 20) - 4096
"""A little less than what glibc is ready to keep for a program, once it has freed as much in one block. Before that, it
may return each output of oneDNN to the system, which clears the pages of the next: up to half of the time."""


def keep_freed_memory() -> None:
    """Have the C library keep what oneDNN's outputs leave, for the next of them."""
    torch.empty(LARGEST_BLOCK, dtype=torch.uint8)  # freed at once


def shared(left: Tensor, right: Tensor, out: Tensor, *, keep: float = 0.0, scale: float = 1.0) -> None:
    """Add scale · left · right to keep · out, with one right factor for all cells.

    Args:
        left: shape ``(cells, m, k)``.
        right: shape ``(k, n)``.
        out: shape ``(cells, m, n)``, contiguous.
        keep: 0 or 1.
        scale: any number.
    """
    if not len(left):
        return
    rows, sums = left.flatten(0, 1), out.view(-1, out.shape[-1])
    if _is_for_onednn(left):
        _put(_product(rows, _scaled(right, scale).T), sums, keep)
    else:
        sums.addmm_(rows, right, beta=keep, alpha=scale)


def batched(left: Tensor, right: Tensor, out: Tensor, *, keep: float = 0.0, scale: float = 1.0) -> None:
    """Add scale · left · right to keep · out, cell by cell.

    Args:
        left: shape ``(cells, m, k)``.
        right: shape ``(cells, k, n)``.
        out: shape ``(cells, m, n)``.
        keep: 0 or 1.
        scale: any number.
    """
    if not _is_for_onednn(left) or left[0].numel() * out.shape[-1] < LARGE:
        out.baddbmm_(left, right, beta=keep, alpha=scale)
        return
    for a, b, c in zip(left, _scaled(right, scale), out, strict=True):
        if a.is_contiguous():
            _put(_product(a, b.T), c, keep)
        else:  # (a · b)ᵀ = bᵀ · aᵀ: the smaller factor is the one to be turned in memory
            _put(_product(b.T.contiguous(), a).T, c, keep)


def _is_for_onednn(tensor: Tensor) -> bool:
    here = tensor.device.type == "cpu" and tensor.dtype == torch.float32 and len(tensor) > 0
    return here and torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """The product left · rightᵀ."""
    return torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")


def _scaled(factor: Tensor, scale: float) -> Tensor:
    return factor if scale == 1 else factor * scale


def _put(found: Tensor, out: Tensor, keep: float) -> None:
    if keep:
        out.add_(found)
    else:
        out.copy_(found)
