"""What stands between the products of a step: an exponential that vectorizes, losses, optimizers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

from empirical.kernels.compiled import compiled
from empirical.optimizers import ADAM_BETA2, ADAM_EPSILON

MSE, CROSS_ENTROPY = 0, 1
LOSSES = {"mse": MSE, "cross-entropy": CROSS_ENTROPY}
"""Codes of the losses of ``empirical.losses``."""

PLAIN, DECAYED, HEAVY_BALL, ADAM, SIGN = range(5)
"""Gradient descent without and with weight decay, and the others."""


@dataclass(frozen=True)
class _Precision:
    """What the exponential of one type is made of.

    Attributes:
        real: the type.
        whole: an integer of its size.
        mantissa: bits of it.
        degree: of the Taylor polynomial, for |r| ≤ ½ ln 2.
        smallest: logarithm of about the smallest normal number.
        high_bits: of ln 2, so few that whole multiples are exact.
    """

    real: Any
    whole: Any
    mantissa: int
    degree: int
    smallest: float
    high_bits: int


_SINGLE = _Precision(types.float32, types.int32, 23, 7, -87.0, 9)
_DOUBLE = _Precision(types.float64, types.int64, 52, 13, -708.0, 32)
_LN2 = Fraction("0.693147180559945309417232121458176568")


def polynomial(coefficients: Sequence[Any]) -> Any:
    """A polynomial by Horner's rule, for compiled code: functions in one another, all of which become one expression.

    Args:
        coefficients: from the highest power down, all of the type of the argument.

    Returns:
        A compiled function of one number.
    """
    *higher, last = coefficients
    if not higher:
        return njit(lambda u: last)
    inner = polynomial(higher)
    return njit(fastmath={"contract"})(lambda u: inner(u) * u + last)


def polynomial_by_precision(single: Sequence[float], double: Sequence[float]) -> Any:
    """A polynomial with coefficients for each precision, for compiled code.

    Args:
        single: coefficients where the argument is in single precision, from the highest power down.
        double: where it is in double precision.

    Returns:
        A function of one number.
    """

    def evaluate(u: Any) -> Any:
        return np.polyval(double, u)

    @overload(evaluate)
    def _evaluate(u):  # type: ignore[no-untyped-def]
        made = polynomial([np.float32(c) for c in single] if u == types.float32 else [float(c) for c in double])
        return lambda u: made(u)

    return evaluate


def _make_exponential(kind: _Precision) -> Any:
    """The exponential in one precision."""

    @intrinsic
    def two_to(_typing, exponent):  # type: ignore[no-untyped-def]
        """2ⁿ, n that of a normal number, from its bits."""

        def generate(context, builder, _signature, given):  # type: ignore[no-untyped-def]
            whole = context.get_value_type(kind.whole)
            biased = builder.add(given[0], whole((1 << kind.real.bitwidth - kind.mantissa - 2) - 1))
            return builder.bitcast(builder.shl(biased, whole(kind.mantissa)), context.get_value_type(kind.real))

        return kind.real(kind.whole), generate

    real = np.float32 if kind is _SINGLE else np.float64
    whole, high = kind.whole, Fraction(round(_LN2 * 2**kind.high_bits), 2**kind.high_bits)
    series = polynomial([real(1 / math.factorial(k)) for k in range(kind.degree, -1, -1)])
    per_power, ln2_high, ln2_low = real(1 / math.log(2)), real(float(high)), real(float(_LN2 - high))
    smallest, half, zero = real(kind.smallest), real(0.5), real(0.0)

    def exponential_of(x):  # type: ignore[no-untyped-def]
        # keeps NaN, and the exponent in range
        held = smallest if x < smallest else x
        n = math.floor(held * per_power + half)
        r = (held - n * ln2_high) - n * ln2_low
        kept = x >= smallest or x != x
        return series(r) * two_to(whole(n)) if kept else zero  # type: ignore[call-arg]

    return exponential_of


_EXPONENTIALS = {kind.real: _make_exponential(kind) for kind in (_SINGLE, _DOUBLE)}


def exponential(x: Any) -> Any:
    """The exponential of a number that is not positive, within two units in the last place.

    Args:
        x: at most 0, or NaN.

    Returns:
        eˣ; 0 where it would not be a normal number.
    """
    return math.exp(x)


@overload(exponential)
def _exponential(x):  # type: ignore[no-untyped-def]
    return _EXPONENTIALS[x]


@compiled(sums_in_any_order=True)
def centre(output, origin, inverse_gamma):  # type: ignore[no-untyped-def]
    """Make f = (F − F₀)/γ of F in place, and sum (F − F₀)²."""
    total = output.dtype.type(0)
    for i in range(output.size):
        moved = output[i] - origin[i]
        total += moved * moved
        output[i] = moved * inverse_gamma
    return total


@compiled(sums_in_any_order=True)
def squared_error(output, target, scale):  # type: ignore[no-untyped-def]
    """Sum ½(f − y)²; f becomes (f − y) · scale."""
    total = output.dtype.type(0)
    for i in range(output.size):
        residual = output[i] - target[i]
        total += residual * residual
        output[i] = residual * scale
    return output.dtype.type(0.5) * total


@compiled()
def softmax_excess(output, row, target, entropy, scale, scratch):  # type: ignore[no-untyped-def]
    """Sum y (ln y − ln softmax f) over examples and classes; f becomes (softmax f − y) · scale.

    ``output`` and ``target`` are ``(classes, row)``, flat; ``entropy``, ``(examples,)``, is Σ y ln y, and ``scratch``
    has room for three times the examples.

    Returns:
        The sum.
    """
    classes, examples = output.size // row, entropy.size
    highest, total = scratch[:examples], scratch[examples : 2 * examples]
    sums = scratch[2 * examples : 3 * examples]
    for b in range(examples):
        sums[b] = entropy[b]
    first = output[:examples]
    for b in range(examples):
        highest[b], total[b] = first[b], 0.0
    for c in range(1, classes):
        f = output[c * row : c * row + examples]
        for b in range(examples):
            highest[b] = f[b] if f[b] > highest[b] else highest[b]
    for c in range(classes):
        f = output[c * row : c * row + examples]
        for b in range(examples):
            total[b] += exponential(f[b] - highest[b])
    for b in range(examples):
        total[b] = math.log(total[b])
    for c in range(classes):
        f = output[c * row : c * row + examples]
        y = target[c * row : c * row + examples]
        for b in range(examples):
            logarithm = (f[b] - highest[b]) - total[b]  # not f − (…), which rounds to digits of f
            sums[b] -= y[b] * logarithm
            f[b] = (exponential(logarithm) - y[b]) * scale
    excess = 0.0
    for b in range(examples):
        excess += sums[b]
    return excess


@compiled()
def move(kind, weight, moving, gradient, first, second, rate, eta, beta, decay, step):  # type: ignore[no-untyped-def]
    """One step of an optimizer that is more than w ← w − rate·g; see ``empirical.optimizers``.

    Args:
        kind: one of those above but ``PLAIN``.
        weight: θ, for weight decay.
        moving: what is moved, θ or θ − θ₀; may be the same array.
        gradient: what was sent back, times η/γ for the linear ones.
        first: velocity, or first moment.
        second: second moment.
        rate: width multiplier times schedule.
        eta: of the cell.
        beta: of the cell.
        decay: λ.
        step: number of this step, from 1 on.
    """
    real = moving.dtype.type
    along, pull = real(rate), real(eta * decay)
    if kind == DECAYED:
        for i in range(moving.size):
            moving[i] -= along * (gradient[i] + pull * weight[i])
    elif kind == HEAVY_BALL:
        kept = real(beta)
        for i in range(moving.size):
            velocity = kept * first[i] + (gradient[i] + pull * weight[i])
            first[i] = velocity
            moving[i] -= along * velocity
    elif kind == ADAM:
        new, old, fresh = real(1.0 - beta), real(ADAM_BETA2), real(1.0 - ADAM_BETA2)
        size = real(rate * eta / (1.0 - beta**step))
        correction, least = real((1.0 - ADAM_BETA2**step) ** -0.5), real(ADAM_EPSILON)
        for i in range(moving.size):
            g, shrunk = gradient[i], along * pull * weight[i]
            mean = first[i] + new * (g - first[i])
            square = old * second[i] + fresh * g * g
            first[i], second[i] = mean, square
            moving[i] -= shrunk + size * (mean / (math.sqrt(square) * correction + least))
    else:
        size, zero = real(rate * eta), real(0.0)
        for i in range(moving.size):
            g = gradient[i]
            forward, back = size if g > zero else zero, size if g < zero else zero
            moving[i] -= along * pull * weight[i] + (forward - back)


@compiled()
def zeros(size, like):  # type: ignore[no-untyped-def]
    """Zeros that start a line of the cache, in which no vector then straddles two."""
    line = 64 // like.itemsize
    room = np.zeros(size + line, like.dtype)
    skip = -(room.ctypes.data // like.itemsize) % line
    return room[skip : skip + size]


@compiled()
def rectify(preactivation, activation):  # type: ignore[no-untyped-def]
    """The activation max(h, 0); NaN stays NaN."""
    zero = activation.dtype.type(0)
    for i in range(activation.size):
        activation[i] = zero if preactivation[i] < zero else preactivation[i]


@compiled()
def put_sum(one, other, out):  # type: ignore[no-untyped-def]
    """Add two arrays into a third."""
    for i in range(out.size):
        out[i] = one[i] + other[i]


@compiled()
def largest_class(values, at, row, examples, classes, largest, where):  # type: ignore[no-untyped-def]
    """For each example, the first of the classes with the largest value goes to ``where``, as a real number."""
    first = values[at : at + examples]
    for b in range(examples):
        largest[b], where[b] = first[b], 0.0
    for c in range(1, classes):
        line, number = values[at + c * row : at + c * row + examples], values.dtype.type(c)
        for b in range(examples):
            higher = line[b] > largest[b]
            largest[b] = line[b] if higher else largest[b]
            where[b] = number if higher else where[b]


@compiled()
def some_unit_is_on(activation, rows, row, examples):  # type: ignore[no-untyped-def]
    """Whether any of the numbers is not zero."""
    for i in range(rows):
        line, count = activation[i * row : i * row + examples], 0
        for b in range(examples):
            count += line[b] != 0
        if count > 0:
            return True
    return False
