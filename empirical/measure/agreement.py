"""How well two networks agree about the same examples, in two numbers.

    R² = 1 − Σ (f_b − f_a)² / Σ (f_a − f̄_a)²,        ρ = Σ (f_a − f̄_a)(f_b − f̄_b) / √(Σ (f_a − f̄_a)² Σ (f_b − f̄_b)²),

sums and means over examples and classes. ρ forgives a shift and a positive scale, R² forgives neither: R² ≤ ρ².
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from theory.errors import InputError


@dataclass(frozen=True)
class Agreement:
    """Agreement of outputs, one entry a pair of networks.

    Attributes:
        r2: coefficient of determination of f_b as a prediction of f_a: 1 where they are equal, 0 for a prediction as
            good as the mean of f_a, negative below that. Not symmetric.
        correlation: Pearson's ρ, between −1 and 1; symmetric.
    """

    r2: NDArray[np.float64]
    correlation: NDArray[np.float64]


def output_agreement(f_a: ArrayLike | Tensor, f_b: ArrayLike | Tensor) -> Agreement:
    """Compare outputs of networks on the same examples.

    Args:
        f_a: outputs ``(…, n, classes)``, the reference.
        f_b: outputs ``(…, n, classes)``; leading dimensions broadcast, so that ``f[:, None], f[None]`` compares all
            pairs of cells.

    Returns:
        Both numbers, of the shape of the broadcast leading dimensions; NaN where f_a, or for ρ either, is constant or
        not finite.

    Raises:
        InputError: outputs of different examples or classes, or without examples.
    """
    a, b = (np.asarray(f.detach().cpu() if isinstance(f, Tensor) else f, dtype=np.float64) for f in (f_a, f_b))
    if a.ndim < 2 or a.shape[-2:] != b.shape[-2:] or 0 in a.shape[-2:]:
        raise InputError("f_b", b.shape, f"outputs of the same examples and classes as f_a, {a.shape}")
    a, b = a.reshape(*a.shape[:-2], -1), b.reshape(*b.shape[:-2], -1)
    # divided by their own size first, so that neither 1e-200 nor 1e200 leaves the range of a square
    scale_a, scale_b = (_positive(np.abs(f).max(-1, keepdims=True)) for f in (a, b))
    ratio = scale_b / scale_a
    a, b = a / scale_a, b / scale_b
    about_a, about_b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    # what rounding leaves of a constant is not a variance
    spread_a, spread_b = (_positive(np.square(f).sum(-1), 1e-28 * f.shape[-1]) for f in (about_a, about_b))
    with np.errstate(over="ignore"):  # a prediction that is off by 1e200 has R² = −∞
        r2 = 1 - np.square(ratio * b - a).sum(-1) / spread_a
    return Agreement(r2, (about_a * about_b).sum(-1) / (np.sqrt(spread_a) * np.sqrt(spread_b)))


def _positive(values: NDArray[np.float64], least: float = 0.0) -> NDArray[np.float64]:
    """NaN where a number is not finite and above ``least``."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(values) & (values > least), values, np.nan)
