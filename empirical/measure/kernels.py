"""Kernels of networks, how far they moved, and how well they are aligned with a target or with each other.

    K_ab(x, x′) = Σ_n M_n ∂F_a(x)/∂θ_n · ∂F_b(x′)/∂θ_n         neural tangent kernel of the raw output F

in the metric of the update: with the width multipliers M_n of ``Networks.rates``, one step of gradient descent on a
batch of B examples moves F by −(η/γ) K ∂ℓ/∂f / B to first order, and f by −η (K/γ²) ∂ℓ/∂f / B: the kernel of f is
K/γ².

    K(x, x′) = φ(x)·φ(x′) / N                                  kernel of the last layer's representation φ

Alignments are ratios of inner products ⟨A, B⟩ = tr AᵀB and do not depend on the scale of a kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.func import jacrev, vmap

from empirical.measure.batched import CHUNK_BYTES, inputs, pieces, slices
from empirical.measure.features import representations
from empirical.networks import Networks, Weights
from theory.errors import InputError


def jacobians(networks: Networks, weights: Weights, x: Tensor) -> Tensor:
    """Jacobians of raw outputs by all trainable weights, each times the root of its width multiplier.

    Args:
        networks: supplies the module and the multipliers.
        weights: stacked weights, each ``(cells, *shape)``.
        x: inputs ``(batch, input_dim)``.

    Returns:
        √M ∂F/∂θ, shape ``(cells, batch · num_classes, weights)``, rows example by example.
    """

    def rows(cell: Weights, example: Tensor) -> Tensor:
        found = jacrev(lambda w: networks.one(w, example.unsqueeze(0))[0])(cell)
        return torch.cat([networks.rates[name] ** 0.5 * part.flatten(1) for name, part in found.items()], dim=1)

    return vmap(vmap(rows, in_dims=(None, 0)), in_dims=(0, None))(weights, x).flatten(1, 2)


def ntk(
    networks: Networks, x: Tensor, other: Tensor | None = None, *, chunk_bytes: float = CHUNK_BYTES
) -> NDArray[np.float64]:
    """Neural tangent kernel of the raw output F, in the metric of the update.

    The kernel of f = (F − F₀)/γ is this over γ². (Jacot, Gabriel & Hongler 2018, arXiv:1806.07572; with a multiplier
    for each tensor as in Yang & Hu 2021, arXiv:2011.14522.)

    Args:
        networks: C cells.
        x: inputs ``(n, input_dim)``.
        other: inputs ``(m, input_dim)`` of the second argument; ``x`` when ``None``.
        chunk_bytes: what the Jacobians held at once may take; they are made again where they do not fit.

    Returns:
        K, shape ``(cells, n, num_classes, m, num_classes)``, float64.
    """
    x = inputs(networks, x)
    symmetric = other is None
    right = x if other is None else inputs(networks, other)
    weights = networks.weights
    with torch.no_grad():
        classes = networks.one(networks.start, x[:1]).shape[1]
        # a Jacobian, its pieces before they are joined, and its partner in the product
        row = 3 * 8 * classes * sum(start.numel() for start in networks.start.values())
        at_once, block = pieces(len(networks), max(len(x), len(right)), row, chunk_bytes)
        out = np.empty((len(networks), len(x) * classes, len(right) * classes))
        for part in slices(len(networks), at_once):
            mine = {name: tensor[part] for name, tensor in weights.items()}
            for i in slices(len(x), block):
                left = jacobians(networks, mine, x[i])
                rows = slice(i.start * classes, i.stop * classes)
                for j in slices(len(right), block):
                    if symmetric and j.start < i.start:
                        continue
                    columns = slice(j.start * classes, j.stop * classes)
                    same = symmetric and i == j
                    found = left @ (left if same else jacobians(networks, mine, right[j])).mT
                    out[part, rows, columns] = found.cpu().numpy()
                    if symmetric and not same:
                        out[part, columns, rows] = out[part, rows, columns].swapaxes(1, 2)
    return out.reshape(len(networks), len(x), classes, len(right), classes)


def class_trace(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kernel between examples: sum over classes of K_aa(x, x′).

    Args:
        kernel: as ``ntk`` gives it, shape ``(…, n, classes, m, classes)``.

    Returns:
        Shape ``(…, n, m)``.
    """
    return np.einsum("...iaja->...ij", kernel)


def trace_by_class(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Trace of the kernel of each class, Σ_x K_aa(x, x).

    Args:
        kernel: as ``ntk`` gives it, shape ``(…, n, classes, n, classes)``.

    Returns:
        Shape ``(…, classes)``.
    """
    return np.einsum("...iaia->...a", kernel)


@dataclass(frozen=True)
class KernelDrift:
    """How far kernels are from a reference, one entry a cell.

    Attributes:
        relative: ‖K − K₀‖ / ‖K₀‖, Frobenius norms: change in scale and in direction.
        rotation: 1 − ⟨K, K₀⟩ / (‖K‖‖K₀‖): change in direction alone.
    """

    relative: NDArray[np.float64]
    rotation: NDArray[np.float64]


def drift(kernel: NDArray[np.float64], reference: NDArray[np.float64]) -> KernelDrift:
    """Compare kernels with a reference (Fort et al. 2020, arXiv:2010.15110, section 4, for the rotation).

    The rotation is found from the difference of the normalised kernels, ½‖K/‖K‖ − K₀/‖K₀‖‖², so that small ones have
    all their digits.

    Args:
        kernel: shape ``(cells, …)``.
        reference: same shape, or one that broadcasts to it along the cells.

    Returns:
        Both measures, each ``(cells,)``; NaN where a kernel is zero.
    """
    now = kernel.reshape(len(kernel), -1)
    first = np.broadcast_to(reference.reshape(len(reference), -1), now.shape)
    size, origin = np.linalg.norm(now, axis=1, keepdims=True), np.linalg.norm(first, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", over="ignore"):
        relative = _divide(np.linalg.norm(now - first, axis=1), origin[:, 0])
        apart = _divide(now, size) - _divide(first, origin)
    return KernelDrift(relative, 0.5 * np.square(apart).sum(1))


def kernel_drift(networks: Networks, x: Tensor) -> KernelDrift:
    """How far the neural tangent kernel of each cell is from that of its θ₀.

    Args:
        networks: C cells.
        x: inputs ``(n, input_dim)``.

    Returns:
        Relative change and rotation, each ``(cells,)``.
    """
    return drift(ntk(networks, x), ntk(networks.at_start().select(np.array([0])), x))


def last_layer_kernel(networks: Networks, x: Tensor) -> NDArray[np.float64]:
    """Kernel of the representation that the readout sees, φ(x)·φ(x′)/N.

    Args:
        networks: C cells.
        x: inputs ``(n, input_dim)``.

    Returns:
        Shape ``(cells, n, n)``, float64. How φ is found, and what is raised when it cannot be: ``representations``.
    """
    features = representations(networks, x)
    with np.errstate(invalid="ignore", over="ignore"):  # cells that have diverged
        return features @ features.swapaxes(1, 2) / features.shape[2]


def kernel_target_alignment(
    kernel: NDArray[np.float64], y: ArrayLike | Tensor, *, centered: bool = False
) -> NDArray[np.float64]:
    """Alignment ⟨K, Y⟩ / (‖K‖‖Y‖) of kernels with the target kernel Y = y yᵀ.

    Cristianini, Shawe-Taylor, Elisseeff & Kandola 2001, Definition 2. Centred, both kernels are first multiplied by
    1 − 11ᵀ/n from both sides: Cortes, Mohri & Rostamizadeh 2012 (arXiv:1203.0550), section 2.

    Args:
        kernel: shape ``(…, n, n)``; of a neural tangent kernel, its ``class_trace``.
        y: targets ``(n,)`` or ``(n, classes)``.
        centered: whether to centre in feature space.

    Returns:
        Shape ``(…)``, between −1 and 1, non-negative for positive semi-definite kernels; NaN where a kernel is zero.

    Raises:
        InputError: kernels that are not square, or another number of targets.
    """
    target = np.asarray(y.cpu() if isinstance(y, Tensor) else y, dtype=np.float64)
    target = target.reshape(len(target), -1)
    _square("kernel", kernel)
    if len(target) != kernel.shape[-1]:
        raise InputError("y", target.shape, f"targets of the kernel's {kernel.shape[-1]} examples")
    first, second = kernel, target @ target.T
    return _cosine(*((center(first), center(second)) if centered else (first, second)))


def center(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kernel of centred features: H K H with H = 1 − 11ᵀ/n.

    Args:
        kernel: shape ``(…, n, n)``.

    Returns:
        Same shape.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # cells that have diverged
        half = kernel - kernel.mean(-1, keepdims=True)
        return half - half.mean(-2, keepdims=True)


def cka(kernel_a: NDArray[np.float64], kernel_b: NDArray[np.float64], *, unbiased: bool = False) -> NDArray[np.float64]:
    """Centred kernel alignment HSIC(A, B) / √(HSIC(A, A) HSIC(B, B)).

    Kornblith, Norouzi, Lee & Hinton 2019 (arXiv:1905.00414), section 3. Unbiased, HSIC is the U-statistic of Song et
    al. 2012 (JMLR 13, equation 5), whose value does not grow as the representations outnumber the examples.

    Args:
        kernel_a: shape ``(…, n, n)``, symmetric.
        kernel_b: shape ``(…, n, n)``, symmetric; leading dimensions broadcast, so that ``k[:, None], k[None]``
            compares all pairs.
        unbiased: whether to use the U-statistic.

    Returns:
        Shape of the broadcast leading dimensions; 0 … 1 unless unbiased. NaN where a centred kernel is zero, or an
        unbiased HSIC(A, A) is not positive.

    Raises:
        InputError: kernels that are not square or not of one size, or fewer than four examples when unbiased.
    """
    _square("kernel_a", kernel_a)
    _square("kernel_b", kernel_b)
    if kernel_a.shape[-1] != kernel_b.shape[-1]:
        raise InputError("kernel_b", kernel_b.shape, f"a kernel of the same {kernel_a.shape[-1]} examples")
    if not unbiased:
        return _cosine(center(kernel_a), center(kernel_b))
    if kernel_a.shape[-1] < 4:
        raise InputError("kernel_a", kernel_a.shape, "of at least four examples for the unbiased estimate")
    with np.errstate(invalid="ignore", over="ignore"):  # negative estimates, and cells that have diverged
        scale = np.sqrt(_hsic_u(kernel_a, kernel_a) * _hsic_u(kernel_b, kernel_b))
        return _divide(_hsic_u(kernel_a, kernel_b), scale)


def _hsic_u(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unbiased HSIC: products of different examples only."""
    n = a.shape[-1]
    off = 1 - np.eye(n)
    a, b = a * off, b * off
    rows = (a.sum(-1) * b.sum(-1)).sum(-1)
    both = a.sum((-2, -1)) * b.sum((-2, -1)) / ((n - 1) * (n - 2))
    return ((a * b).sum((-2, -1)) + both - 2 * rows / (n - 2)) / (n * (n - 3))


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """⟨A, B⟩ / (‖A‖‖B‖) of the last two dimensions."""
    sizes = [np.linalg.norm(k, axis=(-2, -1), keepdims=True) for k in (a, b)]
    return (_divide(a, sizes[0]) * _divide(b, sizes[1])).sum((-2, -1))


def _square(field: str, kernel: NDArray[np.float64]) -> None:
    if kernel.ndim < 2 or kernel.shape[-1] != kernel.shape[-2]:
        raise InputError(field, kernel.shape, "of shape (…, n, n); of a neural tangent kernel, its class_trace")


def _divide(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quotient a / b, NaN where b is not positive and finite."""
    safe = np.where((b > 0) & np.isfinite(b), b, np.nan)
    with np.errstate(invalid="ignore"):
        return a / safe
