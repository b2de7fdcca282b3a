"""What stands between the products of a step: an exponential that vectorizes, losses, optimizers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, types
from numba.extending import intrinsic, overload

from empirical.kernels.compiled import compiled
from empirical.optimizers import ADAM_BETA2, ADAM_EPSILON

MSE, CROSS_ENTROPY = 0, 1
LOSSES = {"mse": MSE, "cross-entropy": CROSS_ENTROPY}
"""Codes of the losses of ``empirical.losses``."""

PLAIN, DECAYED, HEAVY_BALL, ADAM, SIGN = range(5)
"""Gradient descent without and with weight decay, and the others."""

_LOG2_E = float32(1 / math.log(2))
_LN2_HIGH = float32(0.693359375)  # nine bits: whole multiples are exact
_LN2_LOW = float32(math.log(2) - 0.693359375)
_TAYLOR = tuple(float32(1 / math.factorial(k)) for k in range(8))  # |r| ≤ ½ ln 2: the next term is below 6e-9
_SMALLEST = float32(-87.0)  # e⁻⁸⁷ is about the smallest normal number


@intrinsic
def _two_to(_typing: Any, exponent: Any) -> Any:
    """2ⁿ in single precision, n in −126 … 127, from its bits."""

    def generate(_context, builder, _signature, given):  # type: ignore[no-untyped-def]
        whole = ir.IntType(32)
        bits = builder.shl(builder.add(given[0], whole(127)), whole(23))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.int32), generate


def exponential(x: Any) -> Any:
    """The exponential of a number that is not positive: one unit in the last place, or two, in single precision.

    Args:
        x: at most 0, or NaN.

    Returns:
        eˣ; 0 where it would not be a normal number.
    """
    return math.exp(x)


@overload(exponential)
def _exponential(x):  # type: ignore[no-untyped-def]
    if x != types.float32:
        return lambda x: math.exp(x)

    def single(x):  # type: ignore[no-untyped-def]
        # keeps NaN, and the exponent in range
        held = _SMALLEST if x < _SMALLEST else x
        n = math.floor(held * _LOG2_E + float32(0.5))
        r = (held - n * _LN2_HIGH) - n * _LN2_LOW
        total = _TAYLOR[7]
        total = total * r + _TAYLOR[6]
        total = total * r + _TAYLOR[5]
        total = total * r + _TAYLOR[4]
        total = total * r + _TAYLOR[3]
        total = total * r + _TAYLOR[2]
        total = total * r + _TAYLOR[1]
        total = total * r + _TAYLOR[0]
        kept = x >= _SMALLEST or x != x
        return total * _two_to(types.int32(n)) if kept else float32(0.0)  # type: ignore[call-arg]

    return single


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
