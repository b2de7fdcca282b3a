"""Trains bias-free ReLU MLPs cell by cell, several steps at a time, with everything a cell needs in the core's cache.

The steps are those of ``empirical.models.mlp``. A step of a network of width 64 is nine products of some 64 × 64
numbers, two microseconds each: a library's call for each layer of many cells sends their activations through memory
between one layer and the next. Here one cell is trained for all steps at hand before the next is looked at. Gates,
sums and plain steps happen while the products are still in registers (``tiles``).

Arrays are flat and padded: a row of weights, of inputs and of activations is a whole number of vectors long. Weights of
a cell lie layer by layer, ``(fan_out, row)``; activations are ``(features, batch)``, inputs ``(batch, d)``. What pads
the batch stays zero; what pads rows of weights is never read.
"""

from __future__ import annotations

import numpy as np

from empirical.kernels.compiled import compiled
from empirical.kernels.elementwise import (
    CROSS_ENTROPY,
    PLAIN,
    centre,
    largest_class,
    move,
    put_sum,
    rectify,
    softmax_excess,
    some_unit_is_on,
    squared_error,
    zeros,
)
from empirical.kernels.products import apart, multiply, turn
from empirical.kernels.tiles import ADD, FIRST, GATE, NEXT, RELU, STORE

BATCHES_BYTES = 3 << 17
"""Batches of a seed that are to stay in the cache of a core while cell after cell is trained on them."""


@compiled()
def layer_place(sizes, layer):  # type: ignore[no-untyped-def]
    """Where a layer lies among the weights of a cell, its fan-out, fan-in, and the length of a row."""
    depth, inputs, width, outputs, input_row, width_row = sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]
    above = outputs if layer == depth - 1 else width
    if layer == 0:
        return 0, above, inputs, input_row
    return width * input_row + (layer - 1) * width * width_row, above, width, width_row


@compiled()
def layer_product(mode, scale, weights, at, sizes, layer, x, x_at, batch_row, out, out_at):  # type: ignore[no-untyped-def]
    """Weights of a layer times what is below it, ``(fan_in, batch_row)``, by a mode of ``tiles``."""
    place, above, below, row = layer_place(sizes, layer)
    multiply(
        mode, scale, weights, at + place, row, NEXT, x, x_at, batch_row, above, batch_row, below,
        out, out_at, batch_row, out, out_at,
    )  # fmt: skip


@compiled()
def forward(weights, at, sizes, x, x_at, batch_row, hidden, out, out_at):  # type: ignore[no-untyped-def]
    """Raw outputs of one network on inputs ``(d, batch)``; ``hidden`` gets the activations, layer by layer."""
    one, last, size = weights.dtype.type(1), sizes[0] - 1, sizes[2] * batch_row
    for layer in range(last + 1):
        source, source_at = (x, x_at) if layer == 0 else (hidden, (layer - 1) * size)
        target, target_at = (out, out_at) if layer == last else (hidden, layer * size)
        mode = STORE if layer == last else RELU
        layer_product(mode, one, weights, at, sizes, layer, source, source_at, batch_row, target, target_at)


@compiled()
def displace(origin, change, base, activation):  # type: ignore[no-untyped-def]
    """From h⁰ and δh (``change``) make a⁰, δa (in place of δh) and a, without subtracting numbers of the size of a."""
    zero = origin.dtype.type(0)
    for i in range(origin.size):
        h, moved = origin[i], change[i]
        inside, least = h if h > zero else zero, -h
        moved = (least if moved < least else moved) + (h - inside)  # h − a⁰ is h or 0
        base[i] = inside
        change[i] = moved
        activation[i] = inside + moved


@compiled()
def preactivations(weights, at, sizes, x, x_at, batch_row, hidden, out, out_at):  # type: ignore[no-untyped-def]
    """Preactivations of the hidden layers of one network, layer by layer; ``hidden`` has room for one layer."""
    one, size = weights.dtype.type(1), sizes[2] * batch_row
    for layer in range(sizes[0] - 1):
        source, source_at = (x, x_at) if layer == 0 else (hidden, FIRST)
        here = out_at + layer * size
        layer_product(STORE, one, weights, at, sizes, layer, source, source_at, batch_row, out, here)
        rectify(out[here : here + size], hidden[:size])


@compiled()
def displaced_forward(weights, displacement, at, sizes, x, x_at, batch_row, origin, origin_at, hidden, change, out):  # type: ignore[no-untyped-def]
    """F(θ) − F(θ₀) of one network without cancellation, from the preactivations of θ₀ (``origin``).

    ``hidden`` gets the activations of θ; ``change`` has room for the changes of two layers and one layer of θ₀.
    """
    one, last, size = weights.dtype.type(1), sizes[0] - 1, sizes[2] * batch_row
    base = change[2 * size :]
    for layer in range(last + 1):
        target, target_at = (out, FIRST) if layer == last else (change, layer % 2 * size)
        if layer == 0:
            layer_product(STORE, one, displacement, at, sizes, layer, x, x_at, batch_row, target, target_at)
            continue
        below, place = (layer - 1) % 2 * size, (layer - 1) * size
        displace(
            origin[origin_at + place : origin_at + place + size],
            change[below : below + size],
            base,
            hidden[place : place + size],
        )
        layer_product(STORE, one, weights, at, sizes, layer, change, below, batch_row, target, target_at)
        layer_product(ADD, one, displacement, at, sizes, layer, base, FIRST, batch_row, target, target_at)


@compiled()
def backward(  # type: ignore[no-untyped-def]
    kind, weights, at, displacement, first, second, start, start_at, sizes, lazy, rates, eta, beta, decay, step,
    slope, slopes, x, x_at, batch, batch_row, hidden, turned, gradient,
):  # fmt: skip
    """Send ``slope``, ∂ℓ/∂F times η/γ for linear optimizers, through one network and move its weights."""
    one, width, size = weights.dtype.type(1), sizes[2], sizes[2] * batch_row
    above_slope, above_at = slope, FIRST
    for layer in range(sizes[0] - 1, -1, -1):
        place, above, _, row = layer_place(sizes, layer)
        here, below_at = at + place, layer % 2 * size
        seen, seen_at, seen_row = x, x_at, row
        if layer > 0:
            active = (layer - 1) * size
            multiply(
                GATE, one, weights, here, NEXT, row, above_slope, above_at, batch_row, width, batch_row, above,
                slopes, below_at, batch_row, hidden, active,
            )  # fmt: skip
            seen, seen_at, seen_row = turned, FIRST, apart(width, turned)
            turn(hidden, active, batch_row, width, batch, turned, FIRST, seen_row)
        moving = displacement if lazy else weights
        if kind == PLAIN:
            multiply(
                ADD, -weights.dtype.type(rates[layer]), above_slope, above_at, batch_row, NEXT, seen, seen_at, seen_row,
                above, row, batch, moving, here, row, moving, here,
            )  # fmt: skip
        else:
            multiply(
                STORE, one, above_slope, above_at, batch_row, NEXT, seen, seen_at, seen_row,
                above, row, batch, gradient, FIRST, row, gradient, FIRST,
            )  # fmt: skip
            end = here + above * row
            move(
                kind, weights[here:end], moving[here:end], gradient[: end - here], first[here:end], second[here:end],
                rates[layer], eta, beta, decay, step,
            )  # fmt: skip
        if lazy:
            end, from_start = here + above * row, start_at + place
            put_sum(start[from_start : from_start + above * row], displacement[here:end], weights[here:end])
        above_slope, above_at = slopes, below_at


@compiled()
def train(  # type: ignore[no-untyped-def]
    weights, start, displacement, first, second, seed_of, sizes, lazy, loss, kind, x, y, entropy, rates, steps_before,
    output_scale, inverse_gamma, eta, beta, decay, watched, told, hits,
):  # fmt: skip
    """Train every cell on some batches.

    Args:
        weights: θ of the cells, flat, each as the head of this file says; changed.
        start: θ₀ of the seeds, same.
        displacement: θ − θ₀ of the cells, same, where ``lazy``.
        first: velocity or first moment, same, where the optimizer has one.
        second: second moment, same.
        seed_of: which seed each cell has, ``(cells,)``.
        sizes: depth L, d, N, outputs, rows of inputs and of hidden layers, padded; ``(6,)``.
        lazy: whether displacements are held apart and sent forward.
        loss: a code of ``elementwise``.
        kind: of the optimizer, likewise.
        x: inputs, ``(steps, seeds, batch, row)``, padded.
        y: targets, ``(steps, seeds, outputs, batch)``, padded.
        entropy: Σ_c y ln y, ``(steps, seeds, batch)``.
        rates: width multiplier times schedule, ``(steps, L)``.
        steps_before: how many steps these cells have done.
        output_scale: of the optimizer, over the batch size; ``(cells,)``.
        inverse_gamma: 1/γ, ``(cells,)``.
        eta: η, ``(cells,)``.
        beta: β, ``(cells,)``.
        decay: λ.
        watched: at which steps accuracies are wanted, ``(steps,)``.
        told: gets losses, ⟨|F − F₀|²⟩ and whether no hidden unit is on, ``(3, steps, cells)``.
        hits: gets accuracies, ``(steps, cells)``.
    """
    depth, inputs, width, outputs, width_row = sizes[0], sizes[1], sizes[2], sizes[3], sizes[5]
    (steps, seeds, batch, input_row), batch_row, cells = x.shape, y.shape[3], seed_of.size
    size, total = width * batch_row, weights.size // seed_of.size
    layers = (depth - 1) * size
    flat_x, flat_y = x.reshape(-1), y.reshape(-1)
    example_size, target_size = batch * input_row, outputs * batch_row
    hidden, out, slopes, change = (
        zeros(layers, weights),
        zeros(target_size, weights),
        zeros(2 * size, weights),
        zeros(3 * size if lazy else 0, weights),
    )
    turned = zeros(batch * apart(width, weights), weights)
    largest = max(width * input_row, max(width, outputs) * width_row)
    gradient = zeros(0 if kind == PLAIN else largest, weights)
    scratch, nothing = zeros(3 * batch, weights), zeros(target_size, weights)
    guesses, labels = zeros(batch, weights), zeros(steps * seeds * batch, weights)
    origin_size = layers if lazy else target_size
    turned_x = zeros(steps * seeds * inputs * batch_row, weights)
    origins = zeros(steps * seeds * origin_size, weights)
    # a cell trains for as many steps as there are batches in the cache
    one_step = (2 * example_size + target_size + origin_size) * weights.itemsize
    together = max(1, BATCHES_BYTES // one_step)
    for which in range(steps * seeds):
        x_at, seed_at = which * inputs * batch_row, which % seeds * total
        turn(flat_x, which * example_size, input_row, batch, inputs, turned_x, x_at, batch_row)
        if watched[which // seeds]:
            label = labels[which * batch : (which + 1) * batch]
            largest_class(flat_y, which * target_size, batch_row, batch, outputs, scratch, label)
        if lazy:
            preactivations(start, seed_at, sizes, turned_x, x_at, batch_row, hidden, origins, which * origin_size)
        else:
            forward(start, seed_at, sizes, turned_x, x_at, batch_row, hidden, origins, which * origin_size)

    for turn_of in range(cells * -(-steps // together)):
        part, cell = divmod(turn_of, cells)
        seed, at = seed_of[cell], cell * total
        inverse, scale = inverse_gamma[cell], output_scale[cell]
        for step in range(part * together, min((part + 1) * together, steps)):
            which = step * seeds + seed
            x_at, y_at, origin_at = which * inputs * batch_row, which * target_size, which * origin_size
            if lazy:
                displaced_forward(
                    weights, displacement, at, sizes, turned_x, x_at, batch_row, origins, origin_at,
                    hidden, change, out,
                )  # fmt: skip
            else:
                forward(weights, at, sizes, turned_x, x_at, batch_row, hidden, out, FIRST)
            inactive = False
            if depth > 1:
                if lazy:
                    inactive = not some_unit_is_on(hidden[layers - size :], width, batch_row, batch)
                else:
                    inactive = not some_unit_is_on(out, outputs, batch_row, batch)
            here = nothing if lazy else origins[origin_at : origin_at + target_size]
            mean_square = centre(out, here, inverse)
            if watched[step]:
                largest_class(out, 0, batch_row, batch, outputs, scratch, guesses)
                right = 0
                for b in range(batch):
                    right += guesses[b] == labels[which * batch + b]
                hits[step, cell] = right / batch
            target = flat_y[y_at : y_at + target_size]
            if loss == CROSS_ENTROPY:
                mean_loss = softmax_excess(out, batch_row, target, entropy[step, seed], scale, scratch)
            else:
                mean_loss = np.float64(squared_error(out, target, scale))
            told[0, step, cell], told[1, step, cell] = mean_loss / batch, mean_square / batch
            told[2, step, cell] = 1.0 if inactive else 0.0
            backward(
                kind, weights, at, displacement, first, second, start, seed * total, sizes, lazy, rates[step],
                eta[cell], beta[cell], decay, steps_before + step + 1,
                out, slopes, flat_x, which * example_size, batch, batch_row, hidden, turned, gradient,
            )  # fmt: skip


@compiled()
def outputs_of(weights, start, displacement, seed_of, sizes, lazy, x, out):  # type: ignore[no-untyped-def]
    """Centred raw outputs F(θ) − F(θ₀), ``(cells, outputs, batch_row)``, on inputs ``(seeds, d, batch_row)``."""
    cells, batch_row, total = seed_of.size, x.shape[2], weights.size // seed_of.size
    (seeds, inputs), flat, size = x.shape[:2], x.reshape(-1), sizes[2] * batch_row
    layers, target_size = (sizes[0] - 1) * size, sizes[3] * batch_row
    hidden, change, here = zeros(layers, weights), zeros(3 * size if lazy else 0, weights), zeros(target_size, weights)
    origin_size = layers if lazy else target_size
    origins = zeros(seeds * origin_size, weights)
    for seed in range(seeds):
        x_at = seed * inputs * batch_row
        if lazy:
            preactivations(start, seed * total, sizes, flat, x_at, batch_row, hidden, origins, seed * origin_size)
        else:
            forward(start, seed * total, sizes, flat, x_at, batch_row, hidden, origins, seed * origin_size)
    for cell in range(cells):
        seed = seed_of[cell]
        x_at, origin_at = seed * inputs * batch_row, seed * origin_size
        if lazy:
            displaced_forward(
                weights, displacement, cell * total, sizes, flat, x_at, batch_row, origins, origin_at,
                hidden, change, here,
            )  # fmt: skip
        else:
            forward(weights, cell * total, sizes, flat, x_at, batch_row, hidden, here, FIRST)
            for i in range(target_size):
                here[i] -= origins[origin_at + i]
        out[cell] = here.reshape(sizes[3], batch_row)
