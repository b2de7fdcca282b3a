"""Trains networks of any ``layers`` cell by cell, several steps at a time.

A network is a list of instructions, one a layer, in a table (``Instruction``): from grid to grid forwards, and the same
list from its end backwards. Its first instruction reads patches of the images, (pixel, numbers of a patch, examples),
which all cells of a seed share; after the last one stand the mean over pixels and the readout. A batch goes through the
list column by column of examples, few enough for all grids to stay in the core's cache, and gradients are summed.

Where several instructions read one grid, its derivative is put there by the last of them and added to by the others.
A residual stream is one grid, to which branches add their last product: its derivative is already what they are sent.

Weights of a cell lie tensor by tensor, ``(fan out, fan in)`` with the channel innermost, each row a whole number of
vectors long. θ − θ₀ is what is moved; θ is made of it at every step.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

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
from empirical.kernels.layers import (
    BORDER,
    CHANNELS,
    SIDE,
    attend,
    convolve,
    filter_gradient,
    gate,
    gelu,
    grid_row,
    input_gradient,
    normalize,
    pool,
    rectify_grid,
    through_attention,
    through_gelu,
    through_norm,
    through_pool,
    through_rectifier,
)
from empirical.kernels.products import apart, multiply, multiply_several, turn, whole_vectors
from empirical.kernels.tiles import ADD, FIRST, NEXT, RELU, STORE

EMBED, CONVOLVE, RECTIFY, GELU, NORMALIZE, ATTEND = range(6)
CODE, TARGET, SOURCE, SECOND, THIRD, KEPT, TENSOR, POSITIONS, KERNEL, STRIDE, MODE, HEADS, ADDS = range(13)


@dataclass(frozen=True)
class Instruction:
    """A row of the table of layers; grids and tensors by their numbers.

    Attributes:
        code: ``EMBED`` and so on.
        target: grid that is written.
        source: grid that is read; queries of an attention.
        second: keys.
        third: values.
        kept: grid of what the way back needs: inverse deviations of a norm, softmax of an attention.
        tensor: weights.
        positions: weights that an embedding adds, one row a pixel; −1 for none.
        kernel: side of a convolution's kernel.
        stride: of a convolution.
        mode: of a product, ``STORE``, ``RELU`` or ``ADD``.
        heads: of an attention.
        adds: whether the derivative by ``source`` is added to what is there.
    """

    code: int
    target: int
    source: int = 0
    second: int = 0
    third: int = 0
    kept: int = 0
    tensor: int = 0
    positions: int = -1
    kernel: int = 1
    stride: int = 1
    mode: int = int(STORE)
    heads: int = 1
    adds: bool = False

    def row(self) -> tuple[int, ...]:
        """Numbers of the table, in the order of its columns."""
        return tuple(int(number) for number in astuple(self))


@compiled()
def embed(weights, at, row, positions, grid, mode, patches, patches_at, depth, examples, acts, position_row):  # type: ignore[no-untyped-def]
    """Weights of the first layer on patches, plus the positions, where there are any (``positions`` ≥ 0)."""
    one, channels = weights.dtype.type(1), grid[CHANNELS]
    pixel = channels * examples
    for y in range(grid[SIDE]):
        line = grid_row(grid, y, examples)[0]
        for x in range(grid[SIDE]):
            place, number = line + x * pixel, y * grid[SIDE] + x
            multiply(
                mode, one, weights, at, row, NEXT, patches, patches_at + number * depth * examples, examples,
                channels, examples, depth, acts, place, examples, acts, place,
            )  # fmt: skip
            if positions >= 0:
                for c in range(channels):
                    moved = weights[positions + number * position_row + c]
                    here = acts[place + c * examples : place + (c + 1) * examples]
                    for b in range(examples):
                        here[b] += moved


@compiled()
def embedding_gradient(slopes, grid, turned_patches, at, row, examples, gradient, tensor_at, positions, position_row):  # type: ignore[no-untyped-def]
    """Add to the gradients of the first layer's weights, and of the positions, what a column says."""
    one, channels, side = slopes.dtype.type(1), grid[CHANNELS], grid[SIDE]
    pixel = channels * examples
    for y in range(side):
        line = grid_row(grid, y, examples)[0]
        multiply_several(
            ADD, one, slopes, line, examples, NEXT, pixel,
            turned_patches, at + y * side * examples * row, row, examples * row, channels, row, examples, side,
            gradient, tensor_at, row, gradient, tensor_at,
        )  # fmt: skip
        for x in range(side if positions >= 0 else 0):
            for c in range(channels):
                here = slopes[line + x * pixel + c * examples : line + x * pixel + (c + 1) * examples]
                total = slopes.dtype.type(0)
                for b in range(examples):
                    total += here[b]
                gradient[positions + (y * side + x) * position_row + c] += total


@compiled()
def forward(  # type: ignore[no-untyped-def]
    weights, at, table, factors, grids, places, rows, epsilon, patches, patches_at, depth, examples, acts, scratch
):
    """Fill the grids of one network on one column of examples."""
    for i in range(len(table)):
        code, source, target = table[i, CODE], grids[table[i, SOURCE]], grids[table[i, TARGET]]
        tensor, positions = table[i, TENSOR], table[i, POSITIONS]
        if code == EMBED:
            embed(
                weights, at + places[tensor], rows[tensor], at + places[positions] if positions >= 0 else positions,
                target, table[i, MODE], patches, patches_at, depth, examples, acts, rows[positions],
            )  # fmt: skip
        elif code == CONVOLVE:
            convolve(
                table[i, MODE], weights.dtype.type(factors[i]), weights, at + places[tensor], rows[tensor],
                table[i, KERNEL], table[i, STRIDE], acts, source, target, examples,
            )  # fmt: skip
        elif code == RECTIFY:
            rectify_grid(acts, source, target, examples)
        elif code == GELU:
            gelu(acts, source, target, examples)
        elif code == NORMALIZE:
            normalize(acts, source, target, grids[table[i, KEPT]], examples, epsilon, scratch)
        else:
            attend(
                acts, source, grids[table[i, SECOND]], grids[table[i, THIRD]], grids[table[i, KEPT]], target,
                table[i, HEADS], examples, scratch,
            )  # fmt: skip


@compiled()
def backward(  # type: ignore[no-untyped-def]
    weights, at, table, factors, grids, places, rows, turned_patches, patches_at, examples, acts, slopes, scratch,
    turned, part, gradient,
):  # fmt: skip
    """Add what one column of examples says to the gradient, from the derivative by the last grid on."""
    for i in range(len(table) - 1, -1, -1):
        code, source, target = table[i, CODE], grids[table[i, SOURCE]], grids[table[i, TARGET]]
        tensor, positions, adds = table[i, TENSOR], table[i, POSITIONS], table[i, ADDS] == 1
        if code in (EMBED, CONVOLVE) and table[i, MODE] == RELU:
            gate(acts, slopes, target, examples)
        if code == EMBED:
            embedding_gradient(
                slopes, target, turned_patches, patches_at, rows[tensor], examples, gradient, places[tensor],
                places[positions] if positions >= 0 else positions, rows[positions],
            )  # fmt: skip
        elif code == CONVOLVE:
            factor = weights.dtype.type(factors[i])
            filter_gradient(
                factor, slopes, target, acts, source, table[i, KERNEL], table[i, STRIDE], examples, turned, part,
                gradient, places[tensor], rows[tensor],
            )  # fmt: skip
            input_gradient(
                adds, factor, weights, at + places[tensor], rows[tensor], table[i, KERNEL], table[i, STRIDE],
                slopes, source, target, examples,
            )  # fmt: skip
        elif code == RECTIFY:
            through_rectifier(acts, slopes, source, target, examples, adds)
        elif code == GELU:
            through_gelu(acts, slopes, source, target, examples)
        elif code == NORMALIZE:
            through_norm(acts, slopes, source, target, grids[table[i, KEPT]], examples, adds, scratch)
        else:
            through_attention(
                acts, slopes, source, grids[table[i, SECOND]], grids[table[i, THIRD]], grids[table[i, KEPT]], target,
                table[i, HEADS], examples, scratch,
            )  # fmt: skip


@compiled()
def read_out(weights, at, row, width, outputs, pooled, examples, counted, out):  # type: ignore[no-untyped-def]
    """F, ``(outputs, examples)``; zero for examples that only fill a column, though positions say something of them."""
    multiply(
        STORE, weights.dtype.type(1), weights, at, row, NEXT, pooled, FIRST, examples, outputs, examples, width,
        out, FIRST, examples, out, FIRST,
    )  # fmt: skip
    for c in range(outputs):
        out[c * examples + counted : (c + 1) * examples] = 0.0


@compiled()
def train(  # type: ignore[no-untyped-def]
    weights, start, displacement, first, second, seed_of, table, factors, grids, places, rows, sizes, epsilon, loss,
    kind, patches, turned_patches, y, entropy, rates, steps_before, output_scale, inverse_gamma, eta, beta, decay,
    watched, told, hits,
):  # fmt: skip
    """Train every cell on some batches.

    Args:
        weights: θ of the cells, flat, as the head of this file says; changed.
        start: θ₀ of the seeds, same.
        displacement: θ − θ₀ of the cells, same; changed.
        first: velocity or first moment, same, where the optimizer has one.
        second: second moment, same.
        seed_of: which seed each cell has, ``(cells,)``.
        table: the layers, ``(instructions, fields of an Instruction)``.
        factors: what the products of each instruction are multiplied with.
        grids: as the head of ``layers`` says, ``(grids, 4)``.
        places: where the tensors lie among the weights of a cell, and how many weights it has; the readout is the last.
        rows: length of a row of each tensor.
        sizes: numbers of a patch, outputs, examples of a batch, grid that is averaged, numbers an example in all grids.
        epsilon: ε of the norms.
        loss: a code of ``elementwise``.
        kind: of the optimizer, likewise.
        patches: ``(steps, seeds, columns, pixels · numbers of a patch · examples)``, padded with zeros.
        turned_patches: the same with examples before the patch, whose rows are whole vectors.
        y: targets, ``(steps, seeds, columns, outputs, examples)``, padded with zeros.
        entropy: Σ_c y ln y, ``(steps, seeds, batch)``.
        rates: width multiplier times schedule, ``(steps, tensors)``.
        steps_before: how many steps these cells have done.
        output_scale: of the optimizer, over the batch size; ``(cells,)``.
        inverse_gamma: 1/γ, ``(cells,)``.
        eta: η, ``(cells,)``.
        beta: β, ``(cells,)``.
        decay: λ.
        watched: at which steps accuracies are wanted, ``(steps,)``.
        told: gets losses, ⟨|F − F₀|²⟩ and whether the mean over pixels is exactly zero, ``(3, steps, cells)``.
        hits: gets accuracies, ``(steps, cells)``.
    """
    depth, outputs, batch, top = sizes[0], sizes[1], sizes[2], grids[sizes[3]]
    steps, seeds, columns, _, examples = y.shape
    total, one, width, read, readout = places[-1], weights.dtype.type(1), top[CHANNELS], places[-2], rows[-1]
    acts, slopes = zeros(sizes[4] * examples, weights), zeros(sizes[4] * examples, weights)
    most, least = 0, 0
    for i in range(len(table)):
        source, target = grids[table[i, SOURCE]], grids[table[i, TARGET]]
        side, padded = source[SIDE] + 2 * source[BORDER], whole_vectors(table[i, KERNEL] * source[CHANNELS], weights)
        most = max(most, side * examples * apart(side * source[CHANNELS], weights) + padded)
        least = max(least, target[CHANNELS] * padded)
    turned, part, gradient = zeros(most, weights), zeros(least, weights), zeros(total, weights)
    pooled, sent = zeros(width * examples, weights), zeros(width * examples, weights)
    out, turned_pool = zeros(outputs * examples, weights), zeros(examples * readout, weights)
    scratch, guesses, labels = zeros(3 * examples, weights), zeros(examples, weights), zeros(examples, weights)
    flat_patches, flat_turned, flat_y = patches.reshape(-1), turned_patches.reshape(-1), y.reshape(-1)
    patch_size, turned_size, target_size = patches.shape[3], turned_patches.shape[3], outputs * examples

    origins = zeros(steps * seeds * columns * target_size, weights)
    for which in range(steps * seeds * columns):
        at = which // columns % seeds * total
        forward(
            start, at, table, factors, grids, places, rows, epsilon, flat_patches, which * patch_size, depth, examples,
            acts, scratch,
        )  # fmt: skip
        pool(acts, top, examples, pooled)
        counted = min(examples, batch - which % columns * examples)
        read_out(start, at + read, readout, width, outputs, pooled, examples, counted, out)
        origins[which * target_size : (which + 1) * target_size] = out

    for turn_of in range(steps * seed_of.size):
        step, cell = divmod(turn_of, seed_of.size)
        seed, at = seed_of[cell], cell * total
        gradient[:] = 0.0
        loss_sum, square_sum, right, active = 0.0, 0.0, 0, False
        for column in range(columns):
            which = (step * seeds + seed) * columns + column
            counted = min(examples, batch - column * examples)
            forward(
                weights, at, table, factors, grids, places, rows, epsilon, flat_patches, which * patch_size, depth,
                examples, acts, scratch,
            )  # fmt: skip
            pool(acts, top, examples, pooled)
            read_out(weights, at + read, readout, width, outputs, pooled, examples, counted, out)
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

            turn(pooled, FIRST, examples, width, examples, turned_pool, FIRST, readout)
            multiply(
                ADD, one, out, FIRST, examples, NEXT, turned_pool, FIRST, readout, outputs, readout, examples,
                gradient, read, readout, gradient, read,
            )  # fmt: skip
            multiply(
                STORE, one, weights, at + read, NEXT, readout, out, FIRST, examples, width, examples, outputs,
                sent, FIRST, examples, sent, FIRST,
            )  # fmt: skip
            through_pool(sent, slopes, top, examples)
            backward(
                weights, at, table, factors, grids, places, rows, flat_turned, which * turned_size, examples, acts,
                slopes, scratch, turned, part, gradient,
            )  # fmt: skip

        told[0, step, cell], told[1, step, cell] = loss_sum / batch, square_sum / batch
        told[2, step, cell] = 0.0 if active else 1.0
        hits[step, cell] = right / batch if watched[step] else np.nan
        for tensor in range(rows.size):
            here, end = at + places[tensor], at + places[tensor + 1]
            moving, from_start = displacement[here:end], seed * total + places[tensor]
            move(
                kind, weights[here:end], moving, gradient[places[tensor] : places[tensor + 1]], first[here:end],
                second[here:end], rates[step, tensor], eta[cell], beta[cell], decay, steps_before + step + 1,
            )  # fmt: skip
            put_sum(start[from_start : from_start + end - here], moving, weights[here:end])


@compiled()
def outputs_of(  # type: ignore[no-untyped-def]
    weights, start, seed_of, table, factors, grids, places, rows, sizes, epsilon, patches, out
):
    """Centred raw outputs F(θ) − F(θ₀), ``(cells, columns, outputs, examples)``.

    ``patches`` are ``(seeds, columns, pixels · numbers of a patch · examples)``; the others are those of ``train``.
    """
    depth, outputs, top, total = sizes[0], sizes[1], grids[sizes[3]], places[-1]
    seeds, columns, patch_size = patches.shape
    examples, flat, target_size = out.shape[3], patches.reshape(-1), outputs * out.shape[3]
    acts, scratch = zeros(sizes[4] * examples, weights), zeros(3 * examples, weights)
    pooled, here = zeros(top[CHANNELS] * examples, weights), zeros(target_size, weights)
    origins = zeros(seeds * columns * target_size, weights)
    for which in range((seeds + seed_of.size) * columns):
        cell, column = which // columns - seeds, which % columns
        origin = which if cell < 0 else seed_of[cell] * columns + column
        at, own = (which // columns * total, start) if cell < 0 else (cell * total, weights)
        forward(
            own, at, table, factors, grids, places, rows, epsilon, flat, origin * patch_size, depth, examples, acts,
            scratch,
        )  # fmt: skip
        pool(acts, top, examples, pooled)
        read_out(own, at + places[-2], rows[-1], top[CHANNELS], outputs, pooled, examples, examples, here)
        there = origins[origin * target_size : (origin + 1) * target_size]
        if cell < 0:
            there[:] = here
        else:
            for i in range(target_size):
                here[i] -= there[i]
            out[cell, column] = here.reshape(outputs, examples)
