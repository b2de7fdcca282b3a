"""Compiled loops of gradient descent and the heavy ball on the scalar model, with their early exits.

A step waits for the step before it, some twenty processor cycles; four runs in one loop wait together. So cells are
first run one by one for a while, which ends most of them, and those of gradient descent that are left go on four at a
time, each by the same operations in the same order as alone.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from simulate.maps.balanced import powers
from simulate.maps.compiled import compiled
from simulate.maps.losses import excess, slope
from simulate.maps.sign_descent import walk

HEAD = 4096
"""Steps that every run makes alone."""

CHUNK = 8  # cells that a thread takes at a time in the first stage: their costs differ by orders of magnitude
GROUP = 24  # cells that a thread takes at a time in the second stage, four of them at once
_TRAPPED = 1e-6  # |w|^L, the relative distance of the loss from that at w = 0

_GOES_ON, _DIVERGED, _ENDED = 0, 1, 2


@compiled()
def _peak(lowest: float, highest: float, loss_code: int) -> float:
    """Largest loss over a range of outputs: ℓ is convex."""
    return max(excess(lowest, loss_code), excess(highest, loss_code))


@compiled()
def _tail_of_cycle(
    displacement: float,
    velocity: float,
    rate: float,
    beta: float,
    scale: float,
    depth: int,
    loss_code: int,
    period: int,
    ahead: int,
    tail_steps: int,
) -> float:
    """Mean loss over the ``tail_steps`` steps that begin ``ahead`` steps after a state on a cycle."""
    raw, power = powers(displacement, depth)
    for _ in range(ahead):
        velocity = beta * velocity + rate * power * slope(raw * scale, loss_code)
        displacement -= velocity
        raw, power = powers(displacement, depth)
    whole, rest = tail_steps // period, tail_steps % period
    total, head = 0.0, 0.0
    for i in range(period if whole > 0 else rest):
        velocity = beta * velocity + rate * power * slope(raw * scale, loss_code)
        displacement -= velocity
        raw, power = powers(displacement, depth)
        total += excess(raw * scale, loss_code)
        if i == rest - 1:
            head = total
    return (total * whole + head) / tail_steps


@compiled()
def _trap_loss(
    displacement: float, rate: float, scale: float, depth: int, loss_code: int, left: float
) -> tuple[bool, float]:
    """Whether a run is trapped on its way to w = 0⁻, and then its loss ``left`` steps later."""
    w = 1.0 + displacement
    raw, power = powers(displacement, depth)
    pull = -rate * slope(raw * scale, loss_code)
    if not (w < 0.0 and -w * power < _TRAPPED and w + power * pull <= 0.0):
        return False, np.nan
    # |w|^{2−L} grows at a constant rate as w → 0⁻
    size = ((-w) ** (2 - depth) + (depth - 2) * pull * left) ** (-depth / (depth - 2.0))
    return True, excess(-(1.0 + size) * scale, loss_code)


@compiled()
def _advance(  # type: ignore[no-untyped-def]
    state, until, gamma, eta, beta, depth, loss_code, steps, tail_steps, bound, certified
):
    """Run one cell from a state (δ, v, lowest f, highest f, step) to the step ``until``, before the tail.

    Returns:
        What became of it, its state, and the tail's loss if that is known.
    """
    displacement, velocity, lowest, highest, step = state
    rate, scale = eta / gamma, 1.0 / gamma
    raw, power = powers(displacement, depth)
    output = raw * scale
    mark, mark_velocity, mark_step, next_mark = displacement, velocity, step, 2 * step + 1
    traps = certified and beta == 0.0 and depth >= 3 and depth % 2 == 1
    while step < until:
        velocity = beta * velocity + rate * power * slope(output, loss_code)
        displacement -= velocity
        step += 1
        raw, power = powers(displacement, depth)
        if not abs(raw) <= bound:  # also true for NaN
            return _DIVERGED, (displacement, velocity, lowest, highest, step), np.nan
        output = raw * scale
        lowest, highest = min(lowest, output), max(highest, output)
        # without momentum the velocity is a function of the place before, and need not recur
        if displacement == mark and (beta == 0.0 or velocity == mark_velocity):
            period = step - mark_step
            ahead = (steps - tail_steps - step) % period
            tail = _tail_of_cycle(
                displacement, velocity, rate, beta, scale, depth, loss_code, period, ahead, tail_steps
            )
            return _ENDED, (displacement, velocity, lowest, highest, steps), tail
        if step == next_mark:
            mark, mark_velocity, mark_step, next_mark = displacement, velocity, step, 2 * step
            if traps and displacement < -1.0:
                left = steps - 0.5 * tail_steps - step  # to the middle of the tail
                trapped, loss = _trap_loss(displacement, rate, scale, depth, loss_code, left)
                if trapped:
                    return _ENDED, (displacement, velocity, lowest, highest, steps), loss
    return _GOES_ON, (displacement, velocity, lowest, highest, step), np.nan


@compiled()
def _finish(state, gamma, eta, beta, depth, loss_code, steps, tail_steps, bound, certified):  # type: ignore[no-untyped-def]
    """Run one cell from a state before its tail to the end.

    Returns:
        (tail loss, peak loss, steps run, diverged).
    """
    fate, state, tail = _advance(
        state, steps - tail_steps, gamma, eta, beta, depth, loss_code, steps, tail_steps, bound, certified
    )
    displacement, velocity, lowest, highest, step = state
    if fate == _DIVERGED:
        return np.nan, np.inf, step, True
    if fate == _ENDED:
        return tail, _peak(lowest, highest, loss_code), step, False
    rate, scale = eta / gamma, 1.0 / gamma
    raw, power = powers(displacement, depth)
    total = 0.0
    while step < steps:
        velocity = beta * velocity + rate * power * slope(raw * scale, loss_code)
        displacement -= velocity
        step += 1
        raw, power = powers(displacement, depth)
        if not abs(raw) <= bound:
            return np.nan, np.inf, step, True
        output = raw * scale
        lowest, highest = min(lowest, output), max(highest, output)
        total += excess(output, loss_code)
    return total / tail_steps, _peak(lowest, highest, loss_code), step, False


@compiled(parallel=True)
def run_heads(  # type: ignore[no-untyped-def]
    gamma, eta, cells, beta, signed, depth, loss_code, steps, tail_steps, divergence, certified, tail, peak, steps_run,
    diverged, unfinished, states,
):  # fmt: skip
    """Run cells for their first ``HEAD`` steps, to the end where that is all, or momentum, or sign descent."""
    for j in prange(cells.size):
        i = cells[j]
        bound = divergence * max(1.0, gamma[i])
        if signed:
            tail[i], peak[i], steps_run[i], diverged[i] = walk(
                gamma[i], eta[i], depth, loss_code, steps, tail_steps, bound
            )
            continue
        state = (0.0, 0.0, 0.0, 0.0, 0)
        if beta == 0.0 and steps - tail_steps > HEAD:
            fate, state, loss = _advance(
                state, HEAD, gamma[i], eta[i], beta, depth, loss_code, steps, tail_steps, bound, certified
            )
            if fate == _GOES_ON:
                unfinished[i] = True
                states[i, 0], states[i, 1], states[i, 2] = state[0], state[2], state[3]
                continue
            tail[i], diverged[i], steps_run[i] = loss, fate == _DIVERGED, state[4]
            peak[i] = np.inf if fate == _DIVERGED else _peak(state[2], state[3], loss_code)
        else:
            tail[i], peak[i], steps_run[i], diverged[i] = _finish(
                state, gamma[i], eta[i], beta, depth, loss_code, steps, tail_steps, bound, certified
            )


@compiled(inline="always")
def _step(displacement, raw, power, rate, scale, depth, loss_code):  # type: ignore[no-untyped-def]
    displacement = displacement - rate * power * slope(raw * scale, loss_code)
    raw, power = powers(displacement, depth)
    return displacement, raw, power


@compiled()
def _four(lanes, most, depth, loss_code):  # type: ignore[no-untyped-def]
    """Advance four runs together by at most ``most`` steps, and until one of them leaves its bound or meets its mark.

    Returns:
        The number of steps made.
    """
    d0, d1, d2, d3 = lanes[0, 0], lanes[0, 1], lanes[0, 2], lanes[0, 3]
    l0, l1, l2, l3 = lanes[1, 0], lanes[1, 1], lanes[1, 2], lanes[1, 3]
    h0, h1, h2, h3 = lanes[2, 0], lanes[2, 1], lanes[2, 2], lanes[2, 3]
    a0, a1, a2, a3 = lanes[3, 0], lanes[3, 1], lanes[3, 2], lanes[3, 3]
    s0, s1, s2, s3 = lanes[4, 0], lanes[4, 1], lanes[4, 2], lanes[4, 3]
    b0, b1, b2, b3 = lanes[5, 0], lanes[5, 1], lanes[5, 2], lanes[5, 3]
    m0, m1, m2, m3 = lanes[6, 0], lanes[6, 1], lanes[6, 2], lanes[6, 3]
    r0, p0 = powers(d0, depth)
    r1, p1 = powers(d1, depth)
    r2, p2 = powers(d2, depth)
    r3, p3 = powers(d3, depth)
    made = 0
    while made < most:
        d0, r0, p0 = _step(d0, r0, p0, a0, s0, depth, loss_code)
        d1, r1, p1 = _step(d1, r1, p1, a1, s1, depth, loss_code)
        d2, r2, p2 = _step(d2, r2, p2, a2, s2, depth, loss_code)
        d3, r3, p3 = _step(d3, r3, p3, a3, s3, depth, loss_code)
        made += 1
        l0, l1, l2, l3 = min(l0, r0), min(l1, r1), min(l2, r2), min(l3, r3)
        h0, h1, h2, h3 = max(h0, r0), max(h1, r1), max(h2, r2), max(h3, r3)
        if not (abs(r0) <= b0 and abs(r1) <= b1 and abs(r2) <= b2 and abs(r3) <= b3):
            break
        if d0 == m0 or d1 == m1 or d2 == m2 or d3 == m3:
            break
    lanes[0, 0], lanes[0, 1], lanes[0, 2], lanes[0, 3] = d0, d1, d2, d3
    lanes[1, 0], lanes[1, 1], lanes[1, 2], lanes[1, 3] = l0, l1, l2, l3
    lanes[2, 0], lanes[2, 1], lanes[2, 2], lanes[2, 3] = h0, h1, h2, h3
    return made


@compiled(parallel=True)
def run_rest(  # type: ignore[no-untyped-def]
    gamma,
    eta,
    cells,
    depth,
    loss_code,
    steps,
    tail_steps,
    divergence,
    certified,
    tail,
    peak,
    steps_run,
    diverged,
    states,
):
    """Run cells of gradient descent from step ``HEAD`` to the end, four at a time."""
    tail_start = steps - tail_steps
    traps = certified and depth >= 3 and depth % 2 == 1
    for group in prange((cells.size + GROUP - 1) // GROUP):
        waiting, last = group * GROUP, min((group + 1) * GROUP, cells.size)
        lanes = np.zeros((7, 4))  # δ, lowest and highest F − F₀, η/γ, 1/γ, bound, mark
        held = np.full(4, -1)
        step, marked, next_mark = np.zeros(4, dtype=np.int64), np.zeros(4, dtype=np.int64), np.zeros(4, dtype=np.int64)
        lanes[5], lanes[6] = np.inf, np.nan  # an empty lane rests at δ = 0
        while True:
            most, busy = steps, 0
            for k in range(4):
                if held[k] < 0 and waiting < last:
                    i = cells[waiting]
                    waiting += 1
                    held[k], step[k], marked[k], next_mark[k] = i, HEAD, HEAD, 2 * HEAD
                    lanes[0, k], lanes[6, k] = states[i, 0], states[i, 0]
                    lanes[1, k], lanes[2, k] = states[i, 1] * gamma[i], states[i, 2] * gamma[i]
                    lanes[3, k], lanes[4, k] = eta[i] / gamma[i], 1.0 / gamma[i]
                    lanes[5, k] = divergence * max(1.0, gamma[i])
                if held[k] >= 0:
                    busy += 1
                    most = min(most, min(tail_start, next_mark[k]) - step[k])
            if busy == 0:
                break
            made = _four(lanes, most, depth, loss_code)
            for k in range(4):
                i = held[k]
                if i < 0:
                    continue
                step[k] += made
                displacement, low, high = lanes[0, k], lanes[1, k] * lanes[4, k], lanes[2, k] * lanes[4, k]
                raw, _ = powers(displacement, depth)
                gone = False
                if not abs(raw) <= lanes[5, k]:
                    tail[i], peak[i], steps_run[i], diverged[i] = np.nan, np.inf, step[k], True
                    gone = True
                elif displacement == lanes[6, k]:
                    period = step[k] - marked[k]
                    ahead = (tail_start - step[k]) % period
                    tail[i] = _tail_of_cycle(
                        displacement, 0.0, lanes[3, k], 0.0, lanes[4, k], depth, loss_code, period, ahead, tail_steps
                    )
                    peak[i], steps_run[i], gone = _peak(low, high, loss_code), steps, True
                elif step[k] == tail_start:
                    tail[i], peak[i], steps_run[i], diverged[i] = _finish(
                        (displacement, 0.0, low, high, tail_start), gamma[i], eta[i], 0.0, depth, loss_code, steps,
                        tail_steps, lanes[5, k], certified,
                    )  # fmt: skip
                    gone = True
                elif step[k] == next_mark[k]:
                    lanes[6, k], marked[k], next_mark[k] = displacement, step[k], 2 * step[k]
                    if traps and displacement < -1.0:
                        left = steps - 0.5 * tail_steps - step[k]
                        trapped, loss = _trap_loss(displacement, lanes[3, k], lanes[4, k], depth, loss_code, left)
                        if trapped:
                            tail[i], peak[i], steps_run[i], gone = loss, _peak(low, high, loss_code), steps, True
                if gone:
                    held[k] = -1
                    lanes[:5, k], lanes[5, k], lanes[6, k] = 0.0, np.inf, np.nan
