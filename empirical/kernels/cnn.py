"""Trains bias-free ReLU CNNs cell by cell, several steps at a time; the steps are those of ``empirical.models.cnn``.

Examples are the innermost dimension, in columns few enough for a network's activations to stay in the core's cache: a
step goes through its batch column by column, forwards and backwards, and sums the gradients. Activations are (row,
column, channel, example) on a grid with a border of zeros, so that the three pixels that one row of a kernel sees are
one matrix, (3 · channels, examples), and a convolution's output at one pixel is the sum of three products. The first
layer reads patches, (pixel, 9 · image channels, examples), which all cells of a seed share.

Weights of a cell lie layer by layer: convolutions ``(width, 9 · channels)`` with the channel innermost, the readout
``(outputs, width)``, each row a whole number of vectors long. θ − θ₀ is what is moved; θ is made of it at every step.
"""

from __future__ import annotations

import numpy as np

from empirical.kernels.compiled import compiled
from empirical.kernels.elementwise import (
    CROSS_ENTROPY,
    centre,
    largest_class,
    move,
    put_sum,
    softmax_excess,
    some_unit_is_on,
    squared_error,
    zeros,
)
from empirical.kernels.products import apart, multiply, multiply_several, turn, whole_vectors
from empirical.kernels.tiles import ADD, FIRST, NEXT, RELU, STORE


@compiled()
def taps(position, stride, out):  # type: ignore[no-untyped-def]
    """The outputs whose windows hold an input, along one axis: the first, its tap there, and how many."""
    first = max(0, (position - 1 + stride - 1) // stride)
    last = min(out - 1, (position + 1) // stride)
    return first, position + 1 - first * stride, last - first + 1


@compiled()
def convolutions(  # type: ignore[no-untyped-def]
    weights, at, sides, strides, places, rows, width, patches, patches_at, channels, examples, grids, acts
):
    """Activations of all convolutions on one column of examples, one grid after the other."""
    one, pixel = weights.dtype.type(1), width * examples
    side, depth = sides[1], 9 * channels
    border = 1 if strides.size > 1 else 0
    grid = side + 2 * border
    for y in range(side):
        for x in range(side):
            place = ((y + border) * grid + x + border) * pixel
            multiply(
                RELU, one, weights, at, rows[0], NEXT,
                patches, patches_at + (y * side + x) * depth * examples, examples, width, examples, depth,
                acts, place, examples, acts, place,
            )  # fmt: skip
    for layer in range(1, strides.size):
        below, below_grid, stride = grids[layer - 1], grid, strides[layer]
        side = sides[layer + 1]
        border = 1 if layer < strides.size - 1 else 0
        grid = side + 2 * border
        for y in range(side):
            for x in range(side):
                place = grids[layer] + ((y + border) * grid + x + border) * pixel
                window = below + (y * stride * below_grid + x * stride) * pixel
                multiply_several(
                    RELU, one, weights, at + places[layer], rows[layer], NEXT, 3 * width,
                    acts, window, examples, below_grid * pixel, width, examples, 3 * width, np.int64(3),
                    acts, place, examples, acts, place,
                )  # fmt: skip


@compiled()
def pool(acts, at, pixels, pooled):  # type: ignore[no-untyped-def]
    """The mean over pixels, ``(channels, examples)``."""
    size = pooled.size
    share = pooled.dtype.type(1.0 / pixels)
    for i in range(size):
        pooled[i] = 0.0
    for pixel in range(pixels):
        here = acts[at + pixel * size : at + (pixel + 1) * size]
        for i in range(size):
            pooled[i] += here[i]
    for i in range(size):
        pooled[i] *= share


@compiled()
def read_out(weights, at, row, width, outputs, pooled, examples, out):  # type: ignore[no-untyped-def]
    """F, ``(outputs, examples)``."""
    multiply(
        STORE, weights.dtype.type(1), weights, at, row, NEXT, pooled, FIRST, examples, outputs, examples, width,
        out, FIRST, examples, out, FIRST,
    )  # fmt: skip


@compiled()
def gate(active, slope):  # type: ignore[no-untyped-def]
    """Zero where a unit is off."""
    zero = slope.dtype.type(0)
    for i in range(slope.size):
        slope[i] = zero if active[i] <= zero else slope[i]


@compiled()
def gated_copy(active, slope, out):  # type: ignore[no-untyped-def]
    """A slope where a unit is on, else zero."""
    zero = out.dtype.type(0)
    for i in range(out.size):
        out[i] = zero if active[i] <= zero else slope[i]


@compiled()
def filter_gradient(  # type: ignore[no-untyped-def]
    slope, slope_border, side, stride, acts, acts_at, grid, width, examples, turned, part, gradient, at, row
):
    """Add to the gradient of a convolution's weights what one column of examples says."""
    one, pixel, columns = slope.dtype.type(1), width * examples, 3 * width
    padded, slope_grid = part.size // width, side + 2 * slope_border
    span = apart(grid * width, acts)
    for down in range(3):
        for i in range(part.size):
            part[i] = 0.0
        for y in range(side):
            turn(
                acts, acts_at + (y * stride + down) * grid * pixel, examples, grid * width, examples,
                turned, FIRST, span,
            )  # fmt: skip
            multiply_several(
                ADD, one, slope, ((y + slope_border) * slope_grid + slope_border) * pixel, examples, NEXT, pixel,
                turned, FIRST, span, stride * width, width, padded, examples, side,
                part, FIRST, padded, part, FIRST,
            )  # fmt: skip
        for o in range(width):
            line = gradient[at + o * row + down * columns : at + o * row + (down + 1) * columns]
            sums = part[o * padded : o * padded + columns]
            for i in range(columns):
                line[i] += sums[i]


@compiled()
def input_gradient(  # type: ignore[no-untyped-def]
    weights, at, row, slope, slope_border, side, stride, acts, acts_at, out, out_side, width, examples
):
    """What a convolution sends back to its input, on a grid with a border, where the input's units are on."""
    one, pixel = slope.dtype.type(1), width * examples
    slope_grid, grid = side + 2 * slope_border, out_side + 2
    for y in range(out_side):
        first_y, tap_y, count_y = taps(y, stride, side)
        for x in range(out_side):
            first_x, tap_x, count_x = taps(x, stride, side)
            place = ((y + 1) * grid + x + 1) * pixel
            for k in range(count_y):
                tap = (tap_y - k * stride) * 3 + tap_x
                from_pixel = (first_y + k + slope_border) * slope_grid + first_x + slope_border
                multiply_several(
                    STORE if k == 0 else ADD, one, weights, at + tap * width, NEXT, row, -stride * width,
                    slope, from_pixel * pixel, examples, pixel, width, examples, width, count_x,
                    out, place, examples, out, place,
                )  # fmt: skip
        here = ((y + 1) * grid + 1) * pixel
        gate(acts[acts_at + here : acts_at + here + out_side * pixel], out[here : here + out_side * pixel])


@compiled()
def train(  # type: ignore[no-untyped-def]
    weights, start, displacement, first, second, seed_of, sides, strides, places, rows, sizes, loss, kind, patches,
    turned_patches, y, entropy, rates, steps_before, output_scale, inverse_gamma, eta, beta, decay, watched, told, hits,
):  # fmt: skip
    """Train every cell on some batches.

    Args:
        weights: θ of the cells, flat, as the head of this file says; changed.
        start: θ₀ of the seeds, same.
        displacement: θ − θ₀ of the cells, same; changed.
        first: velocity or first moment, same, where the optimizer has one.
        second: second moment, same.
        seed_of: which seed each cell has, ``(cells,)``.
        sides: of the image and of each convolution's output.
        strides: of the convolutions.
        places: where the layers lie among the weights of a cell, and how many weights it has.
        rows: length of a row of each layer's weights.
        sizes: image channels, width, outputs, examples of a batch.
        loss: a code of ``elementwise``.
        kind: of the optimizer, likewise.
        patches: ``(steps, seeds, columns, pixels · 9 · channels · examples)``, padded with zeros.
        turned_patches: the same with examples before the patch, whose rows are whole vectors.
        y: targets, ``(steps, seeds, columns, outputs, examples)``, padded with zeros.
        entropy: Σ_c y ln y, ``(steps, seeds, batch)``.
        rates: width multiplier times schedule, ``(steps, L)``.
        steps_before: how many steps these cells have done.
        output_scale: of the optimizer, over the batch size; ``(cells,)``.
        inverse_gamma: 1/γ, ``(cells,)``.
        eta: η, ``(cells,)``.
        beta: β, ``(cells,)``.
        decay: λ.
        watched: at which steps accuracies are wanted, ``(steps,)``.
        told: gets losses, ⟨|F − F₀|²⟩ and whether no unit of the last convolution is on, ``(3, steps, cells)``.
        hits: gets accuracies, ``(steps, cells)``.
    """
    channels, width, outputs, batch = sizes[0], sizes[1], sizes[2], sizes[3]
    steps, seeds, columns, _, examples = y.shape
    last, total, pixel, one = strides.size - 1, places[-1], width * examples, weights.dtype.type(1)
    grids, largest = np.zeros(strides.size + 1, np.int64), 0
    for layer in range(strides.size):
        size = (sides[layer + 1] + (2 if layer < last else 0)) ** 2 * pixel
        grids[layer + 1], largest = grids[layer] + size, max(largest, size)
    acts, above, below = zeros(grids[-1], weights), zeros(largest, weights), zeros(largest, weights)
    pooled, sent, out = zeros(pixel, weights), zeros(pixel, weights), zeros(outputs * examples, weights)
    padded = whole_vectors(3 * width, weights)
    part, turned = (
        zeros(width * padded, weights),
        zeros(examples * apart((sides[1] + 2) * width, weights) + padded, weights),
    )
    gradient, turned_pool = zeros(total, weights), zeros(examples * rows[-1], weights)
    scratch, guesses, labels = zeros(3 * examples, weights), zeros(examples, weights), zeros(examples, weights)
    flat_patches, flat_turned, flat_y = patches.reshape(-1), turned_patches.reshape(-1), y.reshape(-1)
    patch_size, turned_size, target_size = patches.shape[3], turned_patches.shape[3], outputs * examples
    pixels, read = sides[-1] ** 2, places[last + 1]

    origins = zeros(steps * seeds * columns * target_size, weights)
    for which in range(steps * seeds * columns):
        at = which // columns % seeds * total
        convolutions(
            start, at, sides, strides, places, rows, width, flat_patches, which * patch_size, channels, examples,
            grids, acts,
        )  # fmt: skip
        pool(acts, grids[last], pixels, pooled)
        read_out(start, at + read, rows[-1], width, outputs, pooled, examples, out)
        origins[which * target_size : (which + 1) * target_size] = out

    for turn_of in range(steps * seed_of.size):
        step, cell = divmod(turn_of, seed_of.size)
        seed, at = seed_of[cell], cell * total
        gradient[:] = 0.0
        loss_sum, square_sum, right, active = 0.0, 0.0, 0, False
        for column in range(columns):
            which = (step * seeds + seed) * columns + column
            counted = min(examples, batch - column * examples)
            convolutions(
                weights, at, sides, strides, places, rows, width, flat_patches, which * patch_size, channels, examples,
                grids, acts,
            )  # fmt: skip
            pool(acts, grids[last], pixels, pooled)
            read_out(weights, at + read, rows[-1], width, outputs, pooled, examples, out)
            active = active or some_unit_is_on(pooled, width, examples, counted)
            target = flat_y[which * target_size : (which + 1) * target_size]
            square_sum += centre(out, origins[which * target_size : (which + 1) * target_size], inverse_gamma[cell])
            if watched[step]:
                largest_class(out, 0, examples, counted, outputs, scratch, guesses)
                largest_class(target, 0, examples, counted, outputs, scratch, labels)
                for b in range(counted):
                    right += guesses[b] == labels[b]
            if loss == CROSS_ENTROPY:
                known = entropy[step, seed, column * examples : column * examples + counted]
                loss_sum += softmax_excess(out, examples, target, known, output_scale[cell], scratch)
            else:
                loss_sum += np.float64(squared_error(out, target, output_scale[cell]))

            turn(pooled, FIRST, examples, width, examples, turned_pool, FIRST, rows[-1])
            multiply(
                ADD, one, out, FIRST, examples, NEXT, turned_pool, FIRST, rows[-1], outputs, rows[-1], examples,
                gradient, read, rows[-1], gradient, read,
            )  # fmt: skip
            multiply(
                STORE, one, weights, at + read, NEXT, rows[-1], out, FIRST, examples, width, examples, outputs,
                sent, FIRST, examples, sent, FIRST,
            )  # fmt: skip
            for i in range(pixel):
                sent[i] /= pixels
            for p in range(pixels):
                here = grids[last] + p * pixel
                gated_copy(acts[here : here + pixel], sent, above[p * pixel : (p + 1) * pixel])
            for layer in range(last, 0, -1):
                border, side = (0 if layer == last else 1), sides[layer + 1]
                filter_gradient(
                    above, border, side, strides[layer], acts, grids[layer - 1], sides[layer] + 2, width, examples,
                    turned, part, gradient, places[layer], rows[layer],
                )  # fmt: skip
                input_gradient(
                    weights, at + places[layer], rows[layer], above, border, side, strides[layer],
                    acts, grids[layer - 1], below, sides[layer], width, examples,
                )  # fmt: skip
                above, below = below, above
            border, side = (0 if last == 0 else 1), sides[1]
            for line in range(side):
                multiply_several(
                    ADD, one, above, ((line + border) * (side + 2 * border) + border) * pixel, examples, NEXT, pixel,
                    flat_turned, which * turned_size + line * side * examples * rows[0], rows[0], examples * rows[0],
                    width, rows[0], examples, side, gradient, FIRST, rows[0], gradient, FIRST,
                )  # fmt: skip

        told[0, step, cell], told[1, step, cell] = loss_sum / batch, square_sum / batch
        told[2, step, cell] = 0.0 if active else 1.0
        hits[step, cell] = right / batch if watched[step] else np.nan
        for layer in range(last + 2):
            here, end = at + places[layer], at + places[layer + 1]
            moving, from_start = displacement[here:end], seed * total + places[layer]
            move(
                kind, weights[here:end], moving, gradient[places[layer] : places[layer + 1]], first[here:end],
                second[here:end], rates[step, layer], eta[cell], beta[cell], decay, steps_before + step + 1,
            )  # fmt: skip
            put_sum(start[from_start : from_start + end - here], moving, weights[here:end])


@compiled()
def outputs_of(weights, start, seed_of, sides, strides, places, rows, sizes, patches, out):  # type: ignore[no-untyped-def]
    """Centred raw outputs F(θ) − F(θ₀), ``(cells, columns, outputs, examples)``.

    ``patches`` are ``(seeds, columns, pixels · 9 · channels · examples)``; the others are those of ``train``.
    """
    channels, width, outputs, total = sizes[0], sizes[1], sizes[2], places[-1]
    seeds, columns, patch_size = patches.shape
    examples, last, flat = out.shape[3], strides.size - 1, patches.reshape(-1)
    pixel, target_size = width * examples, outputs * examples
    grids = np.zeros(strides.size + 1, np.int64)
    for layer in range(strides.size):
        grids[layer + 1] = grids[layer] + (sides[layer + 1] + (2 if layer < last else 0)) ** 2 * pixel
    acts, pooled, here = zeros(grids[-1], weights), zeros(pixel, weights), zeros(target_size, weights)
    origins = zeros(seeds * columns * target_size, weights)
    for which in range((seeds + seed_of.size) * columns):
        cell, column = which // columns - seeds, which % columns
        origin = which if cell < 0 else seed_of[cell] * columns + column
        at = which // columns * total if cell < 0 else cell * total
        convolutions(
            start if cell < 0 else weights, at, sides, strides, places, rows, width, flat, origin * patch_size,
            channels, examples, grids, acts,
        )  # fmt: skip
        pool(acts, grids[last], sides[-1] ** 2, pooled)
        read_out(
            start if cell < 0 else weights, at + places[last + 1], rows[-1], width, outputs, pooled, examples, here
        )
        there = origins[origin * target_size : (origin + 1) * target_size]
        if cell < 0:
            there[:] = here
        else:
            for i in range(target_size):
                here[i] -= there[i]
            out[cell, column] = here.reshape(outputs, examples)
