"""The one integral behind ``eta_min``, the flow time and the apex, in float64, vectorised and free of cancellation.

    J(γ, f) = (1+γ)^p ∫₀^f (1+γs)^{−p}/(1−s) ds = ∫ₐᵇ σ^{−p}/(1−σ) dσ,      p = 2 − 2/L,
    a = 1/(1+γ),  b = (1+γf)/(1+γ).

With σ = e^{−x} and m = p − 1 = 1 − 2/L the integrand splits exactly into three parts, all of them ≥ 0 for L ≥ 2:

    J = −ln(1−f)  +  ∫ e^{mx} dx  +  ∫ (e^{mx} − 1)/(eˣ − 1) dx,      x from ln((1+γ)/(1+γf)) to ln(1+γ).

The first two are elementary. The third is smooth (its nearest poles are at ±2πi), is e^{−x} times smaller than the
second at large x, and is done by Gauss–Legendre. Nothing is subtracted, so the relative error of J is that of its
parts. For L = 1 the last two cancel identically and J = −ln(1−f).
"""

from __future__ import annotations

from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float64]

_FAR = 38.0  # beyond this x the third part is below e^-38 = 3e-17 of the second, pointwise
_NEAR = 1e-8  # below this x the third integrand is m to 1e-8, and the part itself at most about 1e-8 of J
_BLOCK = 8192  # points handled at once: keeps the temporaries in the processor's cache
# (upper end of the interval's width, nodes): chosen so that the rule's error is below 1e-13 of J for L in 1..256
_RULES = ((1.0, 8), (5.0, 14), (12.0, 22), (_FAR, 40))


def trained_output(level: float) -> tuple[float, float]:
    """The output f = 1 − √level and −ln(1−f) = −½ ln(level), without cancellation near level = 1.

    Args:
        level: fraction of the initial loss, in (0, 1).

    Returns:
        f and −ln(1 − f).
    """
    root = float(np.sqrt(level))
    return (1.0 - level) / (1.0 + root), -0.5 * float(np.log(level))


@cache
def _gauss_legendre(count: int) -> tuple[FloatArray, FloatArray]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2  # moved to [0, 1]


def _smooth_part(m: float, low: FloatArray, width: FloatArray, count: int) -> FloatArray:
    # ∫ (e^{mx} − 1)/(eˣ − 1) dx over [low, low + width], by `count` Gauss–Legendre nodes
    total = np.zeros_like(low)
    for node, weight in zip(*_gauss_legendre(count), strict=True):
        at = np.maximum(low + node * width, _NEAR)
        total += weight * (np.exp(m * at) - 1.0) / (np.exp(at) - 1.0)
    return total * width


def scaled_integral(gamma: FloatArray, output: FloatArray, log_gap: FloatArray, depth: int) -> FloatArray:
    """J(γ, f), the integral of the module's header.

    Args:
        gamma: feature-learning strength, positive; one-dimensional.
        output: f, in (0, 1); same shape.
        log_gap: −ln(1 − f), given beside f so that it stays exact when f is near 0 or 1; same shape.
        depth: number of layers L.

    Returns:
        J, same shape, dimensionless. It increases with γ (L ≥ 2) from −ln(1−f), and is below 2T inside the triangle
        of optimizability.
    """
    if depth == 1:
        return log_gap.copy()
    m = (depth - 2) / depth
    width = np.log1p(gamma * output)
    if depth == 2:
        return log_gap + width
    low = np.log1p(gamma * np.exp(-log_gap) / (1.0 + gamma * output))
    result = log_gap + np.exp(m * low) * np.expm1(m * width) / m
    reach = np.clip(np.minimum(width, _FAR - low), 0.0, None)
    bounds = [0.0, *(bound for bound, _ in _RULES)]
    for (bound, count), previous in zip(_RULES, bounds[:-1], strict=True):
        (chosen,) = np.nonzero((reach > previous) & (reach <= bound))
        for block in np.array_split(chosen, -(-chosen.size // _BLOCK)) if chosen.size else ():
            result[block] += _smooth_part(m, low[block], reach[block], count)
    return result
