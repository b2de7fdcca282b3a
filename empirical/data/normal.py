"""Standard normal numbers from raw words, by the method of Box and Muller and the four operations of IEEE arithmetic.

    x₀ = √(-2 ln u) cos 2πv,    x₁ = √(-2 ln u) sin 2πv,      u in (0, 1], v in [0, 1).

The logarithm is that of the mantissa, 2 artanh((m - 1)/(m + 1)) with m in [√½, √2), plus the exponent's; sine and
cosine are Taylor series on an eighth of the circle. Both are cut where the next term is below 10⁻¹⁷, so the result is
that of the exact formula up to rounding, and does not depend on the machine's mathematics library.

G. E. P. Box and M. E. Muller, A Note on the Generation of Random Normal Deviates, Ann. Math. Statist. 29 (1958) 610.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

_LN2 = math.log(2.0)  # correctly rounded: a constant, not a computation of the machine at hand
_HALF_PI = 1.5707963267948966
_ROOT_HALF = 0.7071067811865476
_LOG_TERMS = 12  # |(m - 1)/(m + 1)| ≤ 0.172: the 13th odd power is below 10⁻¹⁹
_TRIGONOMETRIC_TERMS = 9  # |a| ≤ π/4: a¹⁸/18! is below 10⁻¹⁷


@numba.njit(cache=True, nogil=True)
def _logarithm(u):  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    """Natural logarithm of a number in (0, 1]."""
    mantissa, exponent = math.frexp(u)
    if mantissa < _ROOT_HALF:
        mantissa *= 2.0
        exponent -= 1
    t = (mantissa - 1.0) / (mantissa + 1.0)
    square, total = t * t, 0.0
    for k in range(_LOG_TERMS - 1, -1, -1):
        total = total * square + 1.0 / (2 * k + 1)
    return exponent * _LN2 + 2.0 * t * total


@numba.njit(cache=True, nogil=True)
def _pair(u, v):  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    """Two normal numbers from u in (0, 1] and v in [0, 1)."""
    radius = math.sqrt(-2.0 * _logarithm(u))
    quadrant = int(4.0 * v + 0.5)
    a = (4.0 * v - quadrant) * _HALF_PI
    square, cosine, sine = a * a, 1.0, 1.0
    for k in range(_TRIGONOMETRIC_TERMS, 0, -1):
        cosine = 1.0 - cosine * square / ((2 * k - 1) * (2 * k))
        sine = 1.0 - sine * square / ((2 * k) * (2 * k + 1))
    sine *= a
    turn = quadrant % 4
    if turn == 1:
        cosine, sine = -sine, cosine
    elif turn == 2:
        cosine, sine = -cosine, -sine
    elif turn == 3:
        cosine, sine = sine, -cosine
    return radius * cosine, radius * sine


@numba.njit(cache=True, nogil=True)
def _fill(words, out):  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    for n in range(out.shape[0]):
        for j in range(0, out.shape[1], 2):
            u = (np.float64(words[n, j] >> np.uint64(11)) + 1.0) * 2.0**-53
            v = np.float64(words[n, j + 1] >> np.uint64(11)) * 2.0**-53
            first, second = _pair(u, v)
            out[n, j] = first
            if j + 1 < out.shape[1]:
                out[n, j + 1] = second


def words_needed(count: int) -> int:
    """How many words make so many normal numbers.

    Args:
        count: normal numbers.

    Returns:
        The same, made even.
    """
    return count + count % 2


def normal_numbers(words: NDArray[np.uint64], count: int) -> NDArray[np.float64]:
    """Turn raw words into independent standard normal numbers.

    Args:
        words: shape (n, `words_needed` (count)).
        count: numbers a row.

    Returns:
        Shape (n, count).
    """
    out = np.empty((len(words), count))
    _fill(words, out)
    return out
