"""The losses of the scalar model for compiled loops: slope, excess and curvature at one output.

With r = f − 1, s = σ(1), a = |r|, and p = 1 − s for r > 0, p = s for r < 0:

    MSE            ℓ = r²/2                                ℓ′ = r                                          ℓ″ = 1
    cross-entropy  ℓ = p a + ln(1 + p (e^{−a} − 1))        ℓ′ = sign(r) s(1−s) (1 − e^{−a}) / (1 + p (e^{−a} − 1))
                                                           ℓ″ = e^{−|f|} / (1 + e^{−|f|})²

These are exactly ln(1+eᶠ) − s f − [ln(1+e) − s], σ(f) − s and σ(f)(1 − σ(f)). No exponent is positive, so that nothing
overflows, and the slope keeps its full relative accuracy at f = 1. The excess does not, near f = 1: there it is summed
as a power series. Since ln(1 − s + s eʳ) is the cumulant generating function of a coin with probability s, and the
linear term is taken away, ℓ = Σ_{n≥2} κ_n(s) rⁿ/n!, with κ_{n+1} = s(1−s) dκ_n/ds.

A loss is convex with its minimum at f = 1, so that a loop which wants the largest loss of a run needs no loss at all
on the way: the largest is that of the smallest or of the largest output.
"""

from __future__ import annotations

import math

from simulate.maps.compiled import compiled

MSE = 0
CROSS_ENTROPY = 1

LOSS_CODES = {"mse": MSE, "cross-entropy": CROSS_ENTROPY}

# σ(1), 1 − σ(1) and their product, each the nearest float: the difference 1 − σ(1) of floats would not be
_LABEL = 1.0 / (1.0 + math.exp(-1.0))
_OTHER = 1.0 / (1.0 + math.exp(1.0))
_BEND = _LABEL * _OTHER
_FAR_ABOVE = math.log(_LABEL)  # what is left of the logarithm once e^{−a} is gone
_FAR_BELOW = math.log(_OTHER)

_SATURATED = 40.0  # e⁻⁴⁰ is 4e-18: below half an ulp of what it is added to
_LN2 = math.log(2.0)
_NEAR = 0.5  # |f − 1| below which the excess is summed as a series: beyond, the closed form loses at most 4 bits
_TERMS = 23  # the series converges for |r| < |1 + iπ| = 3.3: (0.5/3.3)²³ is 1e-19


def _cumulants_over_factorials(terms: int) -> tuple[float, ...]:
    # κ_n(s)/n! for n = 2, 3, …; the polynomials κ_n have integer coefficients, and are kept exact
    polynomial, found = [0, 1], []
    for n in range(2, terms + 2):
        derivative = [i * c for i, c in enumerate(polynomial)][1:]
        raised, squared = [0, *derivative, 0], [0, 0, *derivative]
        polynomial = [a - b for a, b in zip(raised, squared, strict=True)]
        found.append(_exact_value(polynomial) / math.factorial(n))
    return tuple(found)


def _exact_value(polynomial: list[int]) -> float:
    # the coefficients alternate and grow: exact arithmetic on a 40-digit σ(1)
    digits, label = 10**40, 7310585786300048792511592418218362743651
    total = 0
    for coefficient in reversed(polynomial):
        total = total * label // digits + coefficient * digits
    return total / digits


_SERIES = _cumulants_over_factorials(_TERMS)


@compiled(inline="always")
def slope(f: float, loss_code: int) -> float:
    """ℓ′(f), with full relative accuracy everywhere; ±∞ gives the limit, NaN stays NaN."""
    r = f - 1.0
    if loss_code == MSE:
        return r
    a = abs(r)
    if a > _SATURATED:
        return _OTHER if r > 0.0 else -_LABEL
    # exp is twice as fast as expm1, and beyond ln 2 the difference loses nothing
    fall = math.exp(-a) - 1.0 if a > _LN2 else math.expm1(-a)
    p = _OTHER if r > 0.0 else _LABEL
    return -math.copysign(_BEND, r) * fall / (1.0 + p * fall)


@compiled()
def excess(f: float, loss_code: int) -> float:
    """ℓ(f) above its minimum, to about 1e-14 of itself everywhere."""
    r = f - 1.0
    if loss_code == MSE:
        return 0.5 * r * r
    a = abs(r)
    if a < _NEAR:
        total = 0.0
        for i in range(_TERMS):
            total = total * r + _SERIES[_TERMS - 1 - i]
        return total * r * r
    if a > _SATURATED:
        return _OTHER * a + _FAR_ABOVE if r > 0.0 else _LABEL * a + _FAR_BELOW
    p = _OTHER if r > 0.0 else _LABEL
    return p * a + math.log1p(p * math.expm1(-a))


@compiled()
def curvature(f: float, loss_code: int) -> float:
    """ℓ″(f), with full relative accuracy down to the smallest float."""
    if loss_code == MSE:
        return 1.0
    tail = math.exp(-abs(f))
    return tail / ((1.0 + tail) * (1.0 + tail))
