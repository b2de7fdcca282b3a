"""Sign descent on the scalar model, w ← w − η sign(∂ℓ/∂w), in closed form: it walks on the lattice w = 1 + kη.

The loss falls until the minimum and rises beyond it, so k counts the steps up to the first k_c with f(1 + k_c η) > 1
and then alternates between k_c and k_c − 1; a run that lands on f = 1 stays there. Only the losses of the tail are
summed: one by one when they are few, else by Euler–Maclaurin, Σ h(n) = ∫h + (h(a) + h(b))/2 + (h′(b) − h′(a))/12 + ….
"""

from __future__ import annotations

import math

import numpy as np

from simulate.maps.balanced import powers
from simulate.maps.compiled import compiled
from simulate.maps.losses import excess, slope

_FEW = 4096  # terms up to which a sum is a loop; the next Euler–Maclaurin term is then of order 1e-11 of the sum
_PANELS = 64
_gauss, _gauss_weights = np.polynomial.legendre.leggauss(8)
_X, _W = (_gauss + 1) / 2, _gauss_weights / 2


@compiled()
def _output(k: float, gamma: float, eta: float, depth: int) -> float:
    return powers(k * eta, depth)[0] / gamma


@compiled()
def _climb_losses(first: int, last: int, gamma: float, eta: float, depth: int, loss_code: int) -> float:
    """Sum of the losses at k = first, …, last."""
    total = 0.0
    if last - first < _FEW:
        for k in range(first, last + 1):
            total += excess(_output(k, gamma, eta, depth), loss_code)
        return total
    width = (last - first) / _PANELS
    for panel in range(_PANELS):
        for i in range(_X.size):
            place = first + width * (panel + _X[i])
            total += width * _W[i] * excess(_output(place, gamma, eta, depth), loss_code)
    for k, sign in ((first, -1.0), (last, 1.0)):
        raw, power = powers(k * eta, depth)
        total += 0.5 * excess(raw / gamma, loss_code)
        total += sign / 12.0 * slope(raw / gamma, loss_code) * depth * power * eta / gamma
    return total


@compiled()
def walk(
    gamma: float, eta: float, depth: int, loss_code: int, steps: int, tail_steps: int, bound: float
) -> tuple[float, float, int, bool]:
    """Run one cell of sign descent.

    Args:
        gamma: feature-learning strength.
        eta: by which every weight moves at each step.
        depth: number of weights L.
        loss_code: MSE or CROSS_ENTROPY.
        steps: budget T.
        tail_steps: length of the tail.
        bound: |F − F₀| beyond which a run has diverged.

    Returns:
        (tail loss, peak loss, steps run, diverged).
    """
    start = excess(0.0, loss_code)
    way = math.expm1(math.log1p(gamma) / depth) / eta
    turn = steps + 1  # first k beyond the minimum, or on it
    if way < steps + 2:
        turn = max(1, math.floor(way))
        while turn > 1 and slope(_output(turn - 1, gamma, eta, depth), loss_code) >= 0.0:
            turn -= 1
        while slope(_output(turn, gamma, eta, depth), loss_code) < 0.0:
            turn += 1
    tail_start = steps - tail_steps
    climbed = min(steps, turn - 1)
    total = 0.0
    if climbed > tail_start:
        total += _climb_losses(tail_start + 1, climbed, gamma, eta, depth, loss_code)
    if turn > steps:
        return total / tail_steps, start, steps, False
    raw, _ = powers(turn * eta, depth)
    if not abs(raw) <= bound:
        return np.nan, np.inf, turn, True
    top = excess(raw / gamma, loss_code)
    low = top if slope(raw / gamma, loss_code) == 0.0 else excess(_output(turn - 1, gamma, eta, depth), loss_code)
    first = max(tail_start + 1, turn)  # the tail's first step on the 2-cycle, or on the minimum
    count = steps - first + 1
    tops = (count + 1) // 2 if (first - turn) % 2 == 0 else count // 2
    total += tops * top + (count - tops) * low
    return total / tail_steps, max(start, top), steps, False
