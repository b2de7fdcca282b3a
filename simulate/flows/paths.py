"""The flows of one output, each reduced to one coordinate x (see ``simulate.flows.clock``).

Balanced, w_ℓ = w, w(0) = 1:         x = ln w,     u = w^L = e^{Lx},     f = (u − 1)/γ,     dx/dτ = −ℓ′ e^{(L−2)x}

Unbalanced. All w_i² move together, so every weight is a function of m, the one of least magnitude, with its sign
chosen such that P = ∏ w_i = m ∏ |w_i| over the others:

    |w_i| = (m² + d_i)^{1/2},   d_i = w_i(0)² − m(0)² ≥ 0,        dm/dτ = −ℓ′ ∏ |w_i|,     f = (P − P(0))/γ.

m rises always. If it is the only one of least magnitude it may pass through zero (that weight changes sign) and
m = h sinh(ξ), h² = min d_i, x = ξ − ξ(0). If it is not, its kind never reach zero: m = m(0) e^{±x}. In x the speed
is smooth on a scale that knows neither γ nor the weights (branch points are π/2 away).

Two-layer, f = (u·v − u₀·v₀)/(γn), step ηn: du/dτ = −ℓ′ v, dv/dτ = −ℓ′ u, so p = u + v and q = u − v are only scaled:

    p = p₀ eˣ,   q = q₀ e^{−x},   dx/dτ = −ℓ′,        f = (|p₀|² (e^{2x} − 1) + |q₀|² (1 − e^{−2x}))/(4γn).

f and 1 − f are sums of terms of one sign, or differences of products taken factor by factor: nothing cancels, at
γ = 1e-8 or at 1e8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import brentq

from simulate.flows.clock import ScalarLoss
from simulate.trajectory import FloatArray

_WIDEST = 0.5  # of a panel in x: branch points are π/2 from the real axis
_NARROW = 2.5  # the zeros of 1 − f other than x = reach are about 2π/L away from it, and the speed grows as e^{Lx}
_TINY = 4 * float(np.finfo(float).eps)
_HUGE, _FARTHEST = 1e300, 1e4  # e^x overflows long before the latter


def _first_crossing(rising: Callable[[FloatArray], FloatArray], guess: float) -> float:
    # the x at which a rising function passes through zero, to rounding and relative to x; NaN if there is none
    def clipped(x: float) -> float:
        value = float(rising(np.array(x)))
        return min(value, _HUGE) if value == value else _HUGE  # what overflows is far beyond the crossing

    low = min(guess, 1.0) if guess > 0 else 1.0
    while clipped(low) > 0 and low > 0:
        low /= 2
    high = 2 * low
    while clipped(high) < 0 and high < _FARTHEST:
        high *= 2
    if not (low > 0 and clipped(high) >= 0):
        return np.nan
    return float(brentq(clipped, low, high, xtol=low * _TINY, rtol=_TINY))


class Balanced:
    """All L weights equal, from w = 1.

    Args:
        depth: L.
        gamma: feature-learning strength.
    """

    stuck = False

    def __init__(self, depth: int, gamma: float) -> None:
        self.depth, self.gamma = depth, gamma
        self.reach = float(np.log1p(gamma)) / depth
        self.width = min(_WIDEST, _NARROW / depth)

    def evaluate(self, x: FloatArray, gap: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Output f, 1 − f and speed at x."""
        f = np.expm1(self.depth * x) / self.gamma
        rest = (1 + 1 / self.gamma) * -np.expm1(-self.depth * gap)
        return f, rest, np.exp((self.depth - 2) * x)

    def fields(self, loss: ScalarLoss, x: FloatArray, gap: FloatArray) -> dict[str, Any]:
        """Weights, sharpness, kernel and balance of the trajectory."""
        f, rest, _ = self.evaluate(x, gap)
        layers, slope = self.depth, -loss.pull(f, rest) / self.gamma
        one = np.exp((layers - 1) * x) / self.gamma  # ∂f/∂w of one weight
        mixed = slope * np.exp((layers - 2) * x)
        along = layers * loss.curvature(f) * one**2 + (layers - 1) * mixed
        return {
            "weights": np.exp(x),
            "sharpness": along if layers == 1 else np.maximum(along, -mixed),
            "kernel": layers * one**2,
            "balance": np.zeros_like(x),
        }


class Unbalanced:
    """L weights of any sign and size.

    Args:
        weights: at the start, shape ``(L,)``; at rest, if two or more are zero.
        gamma: feature-learning strength.
    """

    def __init__(self, weights: FloatArray, gamma: float) -> None:
        self.start, self.gamma, self.depth = weights, gamma, len(weights)
        self.least = int(np.argmin(np.abs(weights)))
        others = np.delete(weights, self.least)
        self.sign = float(np.prod(np.where(others < 0, -1.0, 1.0)))
        self.m = float(weights[self.least]) * self.sign
        self.sizes = np.abs(others)
        self.d = (self.sizes - abs(self.m)) * (self.sizes + abs(self.m))
        self.product = self.m * float(np.prod(self.sizes))
        self.tied = bool((self.d == 0).any())
        # alone (L = 1) m moves in a straight line, and any scale h of its own size will do
        self.scale = np.sqrt(self.d.min()) if len(others) else abs(self.m) + gamma
        self.width = min(_WIDEST, _NARROW / self.depth)
        self.stuck = self.m == 0 and self.tied
        self.reach = np.inf if self.stuck else self._find_reach()
        self.m_end, self.sizes_end = self._state(np.array(self.reach if np.isfinite(self.reach) else 0.0))

    def _find_reach(self) -> float:
        if self.tied and self.m < 0 and self.product + self.gamma >= 0:
            return np.inf  # the tied weights shrink towards zero, and P = P(0) + γ lies beyond
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            pace = float(self._slope(np.array(0.0)) * np.prod(self.sizes))
            if not np.isfinite(pace) or not np.isfinite(self.product) or pace == 0:
                return np.nan
            return _first_crossing(lambda x: self._begun(x, *self._state(x))[0] - 1, self.gamma / pace)

    def _m(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        # m and m − m(0)
        if self.tied:
            moved = self.m * np.expm1(np.sign(self.m) * x)
            return self.m * np.exp(np.sign(self.m) * x), moved
        origin = np.arcsinh(self.m / self.scale)
        return self.scale * np.sinh(origin + x), 2 * self.scale * np.cosh(origin + x / 2) * np.sinh(x / 2)

    def _slope(self, x: FloatArray) -> FloatArray:
        # dm/dx
        if self.tied:
            return np.asarray(np.abs(self._m(x)[0]))
        return np.asarray(self.scale * np.cosh(np.arcsinh(self.m / self.scale) + x))

    def _state(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        m = self._m(x)[0]
        sizes = np.sqrt(m[..., None] ** 2 + self.d)
        # a tied weight is |m| itself, however small
        return m, np.where(self.d == 0, np.abs(m)[..., None], sizes) if self.tied else sizes

    def _rise(self, moved: FloatArray, low: tuple[Any, Any], high: tuple[Any, Any]) -> FloatArray:
        # P(high) − P(low), factor by factor: each |w_i| grows by (m² − m²)/(|w_i| + |w_i|)
        growth = (moved * (low[0] + high[0]))[..., None] / (low[1] + high[1])
        rise, product = moved, low[0]
        for i in range(self.depth - 1):
            low_i, high_i = low[1][..., i], high[1][..., i]
            rise = rise * high_i + product * growth[..., i]
            product = product * low_i
        return np.asarray(rise)

    def _begun(self, x: FloatArray, m: FloatArray, sizes: FloatArray) -> tuple[FloatArray, FloatArray]:
        # f and the speed, without use of the reach
        f = self._rise(self._m(x)[1], (self.m, self.sizes), (m, sizes)) / self.gamma
        if self.tied:  # ∏ |w_i| / |m|, one of the |w_i| being |m|
            rest = np.delete(sizes, int(np.argmin(self.d)), axis=-1)
            return f, np.prod(rest, axis=-1)
        return f, np.prod(sizes, axis=-1) / self._slope(x)

    def evaluate(self, x: FloatArray, gap: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Output f, 1 − f and speed at x."""
        if self.stuck:
            return np.zeros_like(x), np.ones_like(x), np.ones_like(x)
        m, sizes = self._state(x)
        f, speed = self._begun(x, m, sizes)
        if np.isinf(self.reach):
            product = m * np.prod(sizes, axis=-1)
            return f, (self.product + self.gamma - product) / self.gamma, speed
        if self.tied:
            left = m * np.expm1(np.sign(self.m) * gap)
        else:
            left = 2 * self.scale * np.cosh(np.arcsinh(m / self.scale) + gap / 2) * np.sinh(gap / 2)
        return f, self._rise(left, (m, sizes), (self.m_end, self.sizes_end)) / self.gamma, speed

    def fields(self, loss: ScalarLoss, x: FloatArray, gap: FloatArray) -> dict[str, Any]:
        """Weights, sharpness, kernel and balance of the trajectory."""
        f, rest, _ = self.evaluate(x, gap)
        m, sizes = self._state(x)
        weights = np.insert(sizes * np.where(np.delete(self.start, self.least) < 0, -1.0, 1.0), self.least,
                            m * self.sign, axis=-1)  # fmt: skip
        one, two = leave_out(weights)
        slope = -loss.pull(f, rest)[..., None, None] / self.gamma
        gradient = one / self.gamma
        hessian = loss.curvature(f)[..., None, None] * gradient[..., :, None] * gradient[..., None, :] + slope * two
        squares = weights**2
        drift = squares - self.start**2
        drift = drift.max(axis=-1) - drift.min(axis=-1)
        return {
            "weights": weights,
            "sharpness": np.linalg.eigvalsh(hessian)[..., -1],
            "kernel": np.sum(gradient**2, axis=-1),
            "balance": drift / np.maximum(squares.max(axis=-1), np.finfo(float).tiny),
        }


def leave_out(weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Products of all weights but one, and of all but two; zeros among them are allowed.

    Args:
        weights: shape ``(times, L)``.

    Returns:
        Shapes ``(times, L)`` and ``(times, L, L)``, the second symmetric with a zero diagonal.
    """
    times, layers = weights.shape
    before, after = np.ones((times, layers + 1)), np.ones((times, layers + 1))
    np.cumprod(weights, axis=1, out=before[:, 1:])
    after[:, :-1] = np.cumprod(weights[:, ::-1], axis=1)[:, ::-1]
    two = np.zeros((times, layers, layers))
    for i in range(layers - 1):
        between = np.ones((times, layers - i - 1))
        between[:, 1:] = np.cumprod(weights[:, i + 1 : -1], axis=1)
        two[:, i, i + 1 :] = two[:, i + 1 :, i] = before[:, i, None] * between * after[:, i + 2 :]
    return before[:, :-1] * after[:, 1:], two


class TwoLayer:
    """Two layers of width n, in the μP convention: step ηn.

    Args:
        u: output weights, shape ``(n,)``.
        v: input weights, shape ``(n,)``.
        gamma: feature-learning strength.
    """

    def __init__(self, u: FloatArray, v: FloatArray, gamma: float) -> None:
        self.u, self.v, self.gamma, self.n = u, v, gamma, len(u)
        self.width = _WIDEST
        self.grow, self.shrink = float(np.sum((u + v) ** 2)), float(np.sum((u - v) ** 2))
        self.stuck = self.grow == 0 and self.shrink == 0
        span = 4 * gamma * self.n
        if self.grow == 0 and self.shrink <= span:
            self.reach = np.inf
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                pace = 2 * (self.grow + self.shrink) / span
                self.reach = _first_crossing(lambda x: self._output(x) - 1, 1 / pace) if np.isfinite(pace) else np.nan

    def _output(self, x: FloatArray) -> FloatArray:
        risen = self.grow * np.expm1(2 * x) - self.shrink * np.expm1(-2 * x)
        return np.asarray(risen / (4 * self.gamma * self.n))

    def evaluate(self, x: FloatArray, gap: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Output f, 1 − f and speed (1) at x."""
        span = 4 * self.gamma * self.n
        if np.isinf(self.reach):
            rest = (span - self.shrink + self.shrink * np.exp(-2 * x)) / span
        else:
            grown, shrunk = self.grow * np.exp(2 * self.reach), self.shrink * np.exp(-2 * self.reach)
            rest = (shrunk * np.expm1(2 * gap) - grown * np.expm1(-2 * gap)) / span
        return self._output(x), rest, np.ones_like(x)

    def fields(self, loss: ScalarLoss, x: FloatArray, gap: FloatArray) -> dict[str, Any]:
        """Weights, sharpness, kernel and balance of the trajectory."""
        f, rest, _ = self.evaluate(x, gap)
        rising, falling = np.exp(x)[:, None] * (self.u + self.v) / 2, np.exp(-x)[:, None] * (self.u - self.v) / 2
        u, v = rising + falling, rising - falling
        # n times the Hessian is ±ℓ′/γ on u = ±v, plus the gradient's square, which lies in the plane of p and q; the
        # top eigenvalue of that plane is at least |ℓ′|/γ, the top one across it
        p, q = np.sqrt(self.grow) * np.exp(x), np.sqrt(self.shrink) * np.exp(-x)
        bend, mixed = loss.curvature(f) / (2 * self.n), -loss.pull(f, rest) / self.gamma
        first, second = bend * (p / self.gamma) ** 2 + mixed, bend * (q / self.gamma) ** 2 - mixed
        off = bend * (p / self.gamma) * (q / self.gamma)
        top = (first + second) / 2 + np.hypot((first - second) / 2, off)
        drift = np.abs((u - v) * (u + v) - (self.u - self.v) * (self.u + self.v)).max(axis=1)
        return {
            "weights": (u, v),
            "sharpness": top,
            "kernel": (p**2 + q**2) / (2 * self.n * self.gamma**2),
            "balance": drift / np.maximum((u**2 + v**2).max(axis=1), np.finfo(float).tiny),
        }
