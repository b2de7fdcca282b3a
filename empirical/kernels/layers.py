"""What layers do, forwards and backwards: convolutions, norms, attention, activations.

Examples are the innermost dimension: an image, or a row of tokens, is (row, column, channel, example) on a square grid,
with or without a border of zeros, so that the pixels that one row of a kernel sees are one matrix, (kernel · channels,
examples), and a convolution's output at one pixel is a sum of products. A token is a pixel, and what is done to each
token by itself a convolution with a kernel of one pixel.

Where an array of numbers holds several grids, a grid is told by a row of a table: ``AT`` is where it starts, in numbers
an example; ``CHANNELS``, ``SIDE`` (without the border) and ``BORDER`` are its sizes. Derivatives lie in an array like
that of the numbers, at the same places.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial
from scipy.special import erfcx

from empirical.kernels.compiled import compiled
from empirical.kernels.elementwise import exponential, polynomial_by_precision, rectify
from empirical.kernels.products import apart, multiply_each, multiply_several, turn, whole_vectors
from empirical.kernels.tiles import ADD, FIRST, NEXT, STORE

AT, CHANNELS, SIDE, BORDER = range(4)


@compiled()
def grid_row(grid, y, examples):  # type: ignore[no-untyped-def]
    """Where row y of a grid starts, without its border, and how many numbers it has."""
    pixel = grid[CHANNELS] * examples
    side, border = grid[SIDE] + 2 * grid[BORDER], grid[BORDER]
    return grid[AT] * examples + ((y + border) * side + border) * pixel, grid[SIDE] * pixel


@compiled()
def convolve(mode, scale, weights, at, row, kernel, stride, acts, source, target, examples):  # type: ignore[no-untyped-def]
    """Weights ``(channels out, kernel · kernel · channels in)`` on a grid, by a mode of ``tiles``."""
    below, above, side = source[CHANNELS] * examples, target[CHANNELS] * examples, target[SIDE]
    line, out_line = (source[SIDE] + 2 * source[BORDER]) * below, (side + 2 * target[BORDER]) * above
    start = source[AT] * examples + (source[BORDER] - kernel // 2) * (line + below)
    out = target[AT] * examples + target[BORDER] * (out_line + above)
    columns = kernel * source[CHANNELS]
    for y in range(side):
        for x in range(side):
            place = out + y * out_line + x * above
            multiply_several(
                mode, scale, weights, at, row, NEXT, columns,
                acts, start + y * stride * line + x * stride * below, examples, line,
                target[CHANNELS], examples, columns, kernel, acts, place, examples, acts, place,
            )  # fmt: skip


@compiled()
def taps(position, kernel, stride, out):  # type: ignore[no-untyped-def]
    """The outputs whose windows hold an input, along one axis: the first, its tap there, and how many."""
    shifted = position + kernel // 2
    first = max(0, (shifted - kernel + stride) // stride)
    last = min(out - 1, shifted // stride)
    return first, shifted - first * stride, last - first + 1


@compiled()
def input_gradient(  # type: ignore[no-untyped-def]
    add, scale, weights, at, row, kernel, stride, slopes, source, target, examples
):
    """What a convolution sends back to its input: put there, or added to what is there."""
    below, above = source[CHANNELS] * examples, target[CHANNELS] * examples
    out_line = (target[SIDE] + 2 * target[BORDER]) * above
    out = target[AT] * examples + target[BORDER] * (out_line + above)
    for y in range(source[SIDE]):
        first_y, tap_y, count_y = taps(y, kernel, stride, target[SIDE])
        line = grid_row(source, y, examples)[0]
        for x in range(source[SIDE]):
            first_x, tap_x, count_x = taps(x, kernel, stride, target[SIDE])
            place, told = line + x * below, add
            for k in range(count_y if count_x > 0 else 0):
                tap = (tap_y - k * stride) * kernel + tap_x
                multiply_several(
                    ADD if told else STORE, scale, weights, at + tap * source[CHANNELS], NEXT, row,
                    -stride * source[CHANNELS],
                    slopes, out + (first_y + k) * out_line + first_x * above, examples, above,
                    source[CHANNELS], examples, target[CHANNELS], count_x,
                    slopes, place, examples, slopes, place,
                )  # fmt: skip
                told = True
            if not told:
                slopes[place : place + below] = 0.0


@compiled()
def filter_gradient(  # type: ignore[no-untyped-def]
    scale, slopes, target, acts, source, kernel, stride, examples, turned, part, gradient, at, row
):
    """Add to the gradient of a convolution's weights what one column of examples says.

    ``turned`` has room for the grid with examples first, ``part`` for a row of the kernel for each output channel.
    """
    one, channels, out_channels = slopes.dtype.type(1), source[CHANNELS], target[CHANNELS]
    columns, above = kernel * channels, out_channels * examples
    padded, side = whole_vectors(columns, acts), source[SIDE] + 2 * source[BORDER]
    span = apart(side * channels, acts)
    start, first = source[AT] * examples, source[BORDER] - kernel // 2
    for y in range(side):
        turn(
            acts, start + y * side * channels * examples, examples, side * channels, examples,
            turned, y * examples * span, span,
        )  # fmt: skip
    for down in range(kernel):
        part[: out_channels * padded] = 0.0
        for y in range(target[SIDE]):
            line = (y * stride + down + first) * examples * span + first * channels
            multiply_several(
                ADD, one, slopes, grid_row(target, y, examples)[0], examples, NEXT, above,
                turned, line, span, stride * channels, out_channels, padded, examples, target[SIDE],
                part, FIRST, padded, part, FIRST,
            )  # fmt: skip
        for o in range(out_channels):
            line = gradient[at + o * row + down * columns : at + o * row + (down + 1) * columns]
            sums = part[o * padded : o * padded + columns]
            for i in range(columns):
                line[i] += scale * sums[i]


@compiled()
def gate(acts, slopes, grid, examples):  # type: ignore[no-untyped-def]
    """Make slopes zero where a unit is off."""
    zero = slopes.dtype.type(0)
    for y in range(grid[SIDE]):
        at, size = grid_row(grid, y, examples)
        active, slope = acts[at : at + size], slopes[at : at + size]
        for i in range(size):
            slope[i] = zero if active[i] <= zero else slope[i]


_GELU_SCALE, _SINGLE_DEGREE, _DOUBLE_DEGREE = 3.0, 11, 27
"""e^{x²/2} times the normal distribution's tail is a smooth function of u = (x − 3)/(x + 3), for x ≥ 0: a polynomial of
these degrees is within 2e-8 and 2e-16 of it."""


def _tail_polynomial(degree: int) -> tuple[float, ...]:
    """Coefficients of e^{x²/2} Φ(−x) in powers of u."""

    def tail(u: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            x = _GELU_SCALE * (1 + u) / (1 - u)
        return np.asarray(0.5 * erfcx(x / math.sqrt(2)))

    return tuple(Chebyshev.interpolate(tail, degree).convert(kind=Polynomial).coef[::-1])


_tail = polynomial_by_precision(_tail_polynomial(_SINGLE_DEGREE), _tail_polynomial(_DOUBLE_DEGREE))


@compiled()
def gelu(acts, source, target, examples):  # type: ignore[no-untyped-def]
    """Gaussian units h Φ(h) of a grid to another; h itself becomes their slope."""
    real = acts.dtype.type
    zero, one, half, three = real(0), real(1), real(0.5), real(_GELU_SCALE)
    density = real(1 / math.sqrt(2 * math.pi))
    for y in range(source[SIDE]):
        at, size = grid_row(source, y, examples)
        to = grid_row(target, y, examples)[0]
        below, above = acts[at : at + size], acts[to : to + size]
        for i in range(size):
            h = below[i]
            x = abs(h)
            fall = exponential(-half * h * h)
            tail = fall * _tail((x - three) / (x + three))
            share = tail if h < zero else one - tail
            above[i] = h * share
            below[i] = share + h * (density * fall)


@compiled()
def through_gelu(acts, slopes, source, target, examples):  # type: ignore[no-untyped-def]
    """Send slopes back through ``gelu``."""
    for y in range(source[SIDE]):
        at, size = grid_row(source, y, examples)
        out = grid_row(target, y, examples)[0]
        steep, below, above = acts[at : at + size], slopes[at : at + size], slopes[out : out + size]
        for i in range(size):
            below[i] = above[i] * steep[i]


@compiled()
def rectify_grid(acts, source, target, examples):  # type: ignore[no-untyped-def]
    """The activation max(h, 0) of a grid to another."""
    for y in range(source[SIDE]):
        at, size = grid_row(source, y, examples)
        to = grid_row(target, y, examples)[0]
        rectify(acts[at : at + size], acts[to : to + size])


@compiled()
def through_rectifier(acts, slopes, source, target, examples, add):  # type: ignore[no-untyped-def]
    """Send slopes back through ``rectify_grid``: put there, or added to what is there."""
    zero = acts.dtype.type(0)
    for y in range(source[SIDE]):
        at, size = grid_row(source, y, examples)
        out = grid_row(target, y, examples)[0]
        active, below, above = acts[out : out + size], slopes[at : at + size], slopes[out : out + size]
        for i in range(size):
            told = below[i] if add else zero
            below[i] = told + (zero if active[i] <= zero else above[i])


@compiled()
def normalize(acts, source, target, deviations, examples, epsilon, scratch):  # type: ignore[no-untyped-def]
    """LayerNorm over the channels of each pixel; ``deviations``, a grid of one channel, gets 1/√(variance + ε)."""
    channels, real = source[CHANNELS], acts.dtype.type
    share, least = real(1.0 / channels), real(epsilon)
    mean, square = scratch[:examples], scratch[examples : 2 * examples]
    for y in range(source[SIDE]):
        at, _ = grid_row(source, y, examples)
        to, _ = grid_row(target, y, examples)
        scales, _ = grid_row(deviations, y, examples)
        for _x in range(source[SIDE]):
            mean[:] = 0.0
            square[:] = 0.0
            for c in range(channels):
                h = acts[at + c * examples : at + (c + 1) * examples]
                for b in range(examples):
                    mean[b] += h[b]
            for b in range(examples):
                mean[b] *= share
            for c in range(channels):
                h = acts[at + c * examples : at + (c + 1) * examples]
                z = acts[to + c * examples : to + (c + 1) * examples]
                for b in range(examples):
                    centred = h[b] - mean[b]
                    z[b] = centred
                    square[b] += centred * centred
            factor = acts[scales : scales + examples]
            for b in range(examples):
                factor[b] = real(1) / math.sqrt(square[b] * share + least)
            for c in range(channels):
                z = acts[to + c * examples : to + (c + 1) * examples]
                for b in range(examples):
                    z[b] *= factor[b]
            at, to, scales = at + channels * examples, to + channels * examples, scales + examples


@compiled()
def through_norm(acts, slopes, source, target, deviations, examples, add, scratch):  # type: ignore[no-untyped-def]
    """Send slopes back through ``normalize``: r (s − ⟨s⟩ − z⟨s z⟩), r the inverse deviation and z the output."""
    channels, zero = source[CHANNELS], acts.dtype.type(0)
    share = acts.dtype.type(1.0 / channels)
    mean, along = scratch[:examples], scratch[examples : 2 * examples]
    for y in range(source[SIDE]):
        at, _ = grid_row(source, y, examples)
        to, _ = grid_row(target, y, examples)
        scales, _ = grid_row(deviations, y, examples)
        for _x in range(source[SIDE]):
            mean[:] = 0.0
            along[:] = 0.0
            for c in range(channels):
                s = slopes[to + c * examples : to + (c + 1) * examples]
                z = acts[to + c * examples : to + (c + 1) * examples]
                for b in range(examples):
                    mean[b] += s[b]
                    along[b] += s[b] * z[b]
            for b in range(examples):
                mean[b] *= share
                along[b] *= share
            factor = acts[scales : scales + examples]
            for c in range(channels):
                s = slopes[to + c * examples : to + (c + 1) * examples]
                z = acts[to + c * examples : to + (c + 1) * examples]
                below = slopes[at + c * examples : at + (c + 1) * examples]
                for b in range(examples):
                    told = below[b] if add else zero
                    below[b] = told + factor[b] * (s[b] - mean[b] - z[b] * along[b])
            at, to, scales = at + channels * examples, to + channels * examples, scales + examples


@compiled()
def softmax(numbers, at, count, examples, scratch):  # type: ignore[no-untyped-def]
    """The softmax of some rows of scores, example by example, in their place."""
    highest, total, one = scratch[:examples], scratch[examples : 2 * examples], numbers.dtype.type(1)
    highest[:] = numbers[at : at + examples]
    for i in range(1, count):
        s = numbers[at + i * examples : at + (i + 1) * examples]
        for e in range(examples):
            highest[e] = s[e] if s[e] > highest[e] else highest[e]
    total[:] = 0.0
    for i in range(count):
        s = numbers[at + i * examples : at + (i + 1) * examples]
        for e in range(examples):
            s[e] = exponential(s[e] - highest[e])
            total[e] += s[e]
    for e in range(examples):
        total[e] = one / total[e]
    for i in range(count):
        s = numbers[at + i * examples : at + (i + 1) * examples]
        for e in range(examples):
            s[e] *= total[e]


@compiled()
def through_softmax(acts, slopes, at, count, examples, scratch):  # type: ignore[no-untyped-def]
    """Send slopes back through ``softmax``, in their place: p (s − Σ p s)."""
    mean = scratch[:examples]
    mean[:] = 0.0
    for i in range(count):
        p = acts[at + i * examples : at + (i + 1) * examples]
        s = slopes[at + i * examples : at + (i + 1) * examples]
        for e in range(examples):
            mean[e] += p[e] * s[e]
    for i in range(count):
        p = acts[at + i * examples : at + (i + 1) * examples]
        s = slopes[at + i * examples : at + (i + 1) * examples]
        for e in range(examples):
            s[e] = p[e] * (s[e] - mean[e])


@compiled()
def attend(acts, queries, keys, values, shares, target, heads, examples, scratch):  # type: ignore[no-untyped-def]
    """Attention of all tokens to all, without a border; ``shares``, of heads · tokens channels, gets the softmax."""
    tokens, size = queries[SIDE] ** 2, queries[CHANNELS] // heads
    pixel, one, share = size * heads * examples, acts.dtype.type(1), acts.dtype.type(1.0 / size)
    q, k, v, out = queries[AT] * examples, keys[AT] * examples, values[AT] * examples, target[AT] * examples
    for token in range(tokens):
        for head in range(heads):
            inside = head * size * examples
            row = (shares[AT] + (token * heads + head) * tokens) * examples
            multiply_each(
                STORE, share, acts, k + inside, pixel, examples, acts, q + token * pixel + inside, examples,
                tokens, examples, size, acts, row, examples,
            )  # fmt: skip
            softmax(acts, row, tokens, examples, scratch)
            multiply_each(
                STORE, one, acts, v + inside, examples, pixel, acts, row, examples,
                size, examples, tokens, acts, out + token * pixel + inside, examples,
            )  # fmt: skip


@compiled()
def through_attention(acts, slopes, queries, keys, values, shares, target, heads, examples, scratch):  # type: ignore[no-untyped-def]
    """Send slopes back through ``attend``, to queries, keys and values."""
    tokens, size = queries[SIDE] ** 2, queries[CHANNELS] // heads
    pixel, one, share = size * heads * examples, acts.dtype.type(1), acts.dtype.type(1.0 / size)
    q, k, v, out = queries[AT] * examples, keys[AT] * examples, values[AT] * examples, target[AT] * examples
    first, from_token = shares[AT] * examples, heads * tokens * examples
    for head in range(heads):
        inside, row = head * size * examples, first + head * tokens * examples
        for token in range(tokens):
            multiply_each(
                STORE, one, acts, v + inside, pixel, examples, slopes, out + token * pixel + inside, examples,
                tokens, examples, size, slopes, row + token * from_token, examples,
            )  # fmt: skip
            through_softmax(acts, slopes, row + token * from_token, tokens, examples, scratch)
            multiply_each(
                STORE, share, acts, k + inside, examples, pixel, slopes, row + token * from_token, examples,
                size, examples, tokens, slopes, q + token * pixel + inside, examples,
            )  # fmt: skip
        for token in range(tokens):  # as keys and values, which all others have looked at
            multiply_each(
                STORE, one, slopes, out + inside, examples, pixel, acts, row + token * examples, from_token,
                size, examples, tokens, slopes, v + token * pixel + inside, examples,
            )  # fmt: skip
            multiply_each(
                STORE, share, acts, q + inside, examples, pixel, slopes, row + token * examples, from_token,
                size, examples, tokens, slopes, k + token * pixel + inside, examples,
            )  # fmt: skip


@compiled()
def pool(acts, grid, examples, pooled):  # type: ignore[no-untyped-def]
    """The mean over pixels, ``(channels, examples)``."""
    pixel, side = grid[CHANNELS] * examples, grid[SIDE]
    share = pooled.dtype.type(1.0 / (side * side))
    pooled[:pixel] = 0.0
    for y in range(side):
        at = grid_row(grid, y, examples)[0]
        for x in range(side):
            here = acts[at + x * pixel : at + (x + 1) * pixel]
            for i in range(pixel):
                pooled[i] += here[i]
    for i in range(pixel):
        pooled[i] *= share


@compiled()
def through_pool(slope, slopes, grid, examples):  # type: ignore[no-untyped-def]
    """Send the slope of the mean back to every pixel."""
    pixel, side = grid[CHANNELS] * examples, grid[SIDE]
    share = slope.dtype.type(1.0 / (side * side))
    for y in range(side):
        at = grid_row(grid, y, examples)[0]
        for x in range(side):
            here = slopes[at + x * pixel : at + (x + 1) * pixel]
            for i in range(pixel):
                here[i] = share * slope[i]
