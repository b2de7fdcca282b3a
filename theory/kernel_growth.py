"""How the tangent kernel grows while the residual is that of the start, and where that puts eta_min.

For one example, f = (F − F₀)/γ moves by df/dt = −(η/γ²) K ℓ′(f), K = |∇F|². In B = F − F₀ = γf and τ = ηt/γ

    dB/dτ = −ℓ′(f) K(B),        η_min T = γ ∫₀^{γ f₁} dB / (K(B) (−ℓ′(B/γ))),        ℓ(f₁) = level · ℓ(0):

K is a function of B alone, whatever γ, and while f is small ℓ′ is ℓ′(0), so that one path serves every γ. Two starts of
the deep linear toy, both of size s:

    aligned     F = w^L,                 K = L (s^L + B)^{2 − 2/L};
    mirrored    F = (u^L − v^L)/√2,      u = v = s at first: 2L weights, of which half work against the output.

A readout that is drawn at random is as likely with all its signs turned, which turns F and leaves K: the growth
of K at first order in B is zero on average, as it is exactly in the mirrored toy (that of Woodworth et al. 2020,
arXiv:2002.09277, with L weights a path). Derived here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike
from scipy.integrate import quad, solve_ivp

from theory.derivation import Step
from theory.errors import InputError, one_of, positive_array, positive_integer, positive_number
from theory.quadrature import FloatArray, trained_output
from theory.symbols import depth, f, init_scale, tau

STARTS = ("aligned", "mirrored")

_alignment = sp.Symbol("B", nonnegative=True)
_root = sp.sqrt(2)


def _powers(sign: int) -> sp.Expr:
    """u^L or v^L of the mirrored toy after a time τ|ℓ′(0)|, from s = 1: d ln u = ± u^{L−2} dτ/√2."""
    return (1 - sign * (depth - 2) * tau / _root) ** (-depth / (depth - 2))


def _mirrored_alignment() -> sp.Expr:
    return (_powers(1) - _powers(-1)) / _root


def _mirrored_kernel() -> sp.Expr:
    power = 2 - 2 / depth
    return depth * (_powers(1) ** power + _powers(-1) ** power) / 2


def _aligned_kernel() -> sp.Expr:
    return depth * (init_scale**depth + _alignment) ** (2 - 2 / depth)


@dataclass(frozen=True)
class GrowingKernel:
    """The deep linear toy from one of its starts.

    Attributes:
        layers: L, at least 2.
        start: ``aligned`` or ``mirrored``.
        size: s, of every weight at the start.

    Raises:
        InputError: fewer than two layers, an unknown start, or a size that is not positive.
    """

    layers: int
    start: str = "aligned"
    size: float = 1.0

    def __post_init__(self) -> None:
        if positive_integer("layers", self.layers) < 2:
            raise InputError("layers", self.layers, "at least 2")
        one_of("start", self.start, STARTS)
        positive_number("size", self.size)

    @property
    def escape(self) -> float:
        """τ|ℓ′(0)| at which B would be infinite, in units of s^{2−L}; infinite for L = 2."""
        root = 1.0 if self.start == "aligned" else float(np.sqrt(2.0))
        return root / (self.layers - 2) if self.layers > 2 else float("inf")

    # A time is held as q, τ|ℓ′(0)| = escape · (1 − e^{−q}), or q itself for two layers: B is smooth in q to the end.

    def _path(self, q: FloatArray) -> tuple[FloatArray, FloatArray]:
        """B and K on the path from s = 1."""
        count, root = self.layers, np.sqrt(2.0)
        share = 2 - 2 / count
        if self.start == "aligned":
            up = np.exp(2 * q) if count == 2 else np.exp(q * count / (count - 2))
            return up - 1, count * up**share
        if count == 2:
            up, down = np.exp(root * q), np.exp(-root * q)
        else:
            up, down = np.exp(q * count / (count - 2)), (1 - np.expm1(-q)) ** (-count / (count - 2))
        return (up - down) / root, count * (up**share + down**share) / 2

    def _time(self, q: FloatArray) -> FloatArray:
        return np.asarray(q if self.layers == 2 else -np.expm1(-q) * self.escape)

    def _where(self, alignment: ArrayLike) -> FloatArray:
        """The q at which F − F₀ has come to B."""
        wanted = positive_array("alignment", alignment) / self.size**self.layers
        low, high = np.zeros_like(wanted), np.full_like(wanted, 300.0 * max(1.0, self.layers - 2) / self.layers)
        for _ in range(100):
            middle = (low + high) / 2
            far = self._path(middle)[0] > wanted
            low, high = np.where(far, low, middle), np.where(far, middle, high)
        return np.asarray((low + high) / 2)

    def time(self, alignment: ArrayLike) -> FloatArray:
        """τ|ℓ′(0)| at which F − F₀ has come to B, the residual being that of the start.

        Args:
            alignment: B, positive, any shape.

        Returns:
            Same shape.

        Raises:
            InputError: B not positive.
        """
        return np.asarray(self._time(self._where(alignment)) * self.size ** (2 - self.layers))

    def kernel(self, alignment: ArrayLike) -> FloatArray:
        """K where F − F₀ has come to B.

        Args:
            alignment: B, positive, any shape.

        Returns:
            |∇F|², same shape.

        Raises:
            InputError: B not positive.
        """
        return np.asarray(self._path(self._where(alignment))[1] * self.size ** (2 * self.layers - 2))

    def eta_min(self, gamma: ArrayLike, *, steps: int, level: float = 0.9) -> FloatArray:
        """The least learning rate that trains within T steps, squared error: gradient flow is at ``level`` at step T.

        Args:
            gamma: feature-learning strengths, any shape.
            steps: budget T.
            level: share of the loss that is left, in (0, 1).

        Returns:
            η on each of the separate weights, same shape.

        Raises:
            InputError: γ not positive, or a budget that is no positive integer.
        """
        strength, output = positive_array("gamma", gamma), trained_output(level)[0]
        positive_integer("steps", steps)
        scaled, ends = strength / self.size**self.layers, self._where(strength * output)

        def pace(q: float, g: float) -> float:  # dτ/dq over what is left of the residual
            own = 1.0 if self.layers == 2 else self.escape * np.exp(-q)
            return float(own / (1 - self._path(np.array(q))[0] / g))

        times = [
            quad(pace, 0, last, args=(g,), epsrel=1e-10, limit=200)[0]
            for g, last in zip(scaled.ravel(), ends.ravel(), strict=True)
        ]
        return np.asarray(strength * np.reshape(times, strength.shape) * self.size ** (2 - self.layers) / steps)


# --- checks: flows of separate weights, integrated


_SIZES = ((3, 1.0), (4, 0.7), (6, 1.2))
_TIMES = (0.3, 0.8)  # of the escape


@cache
def _flow(start: str, layers: int, size: float, share: float) -> tuple[float, float, float]:
    """τ, B and |∇F|² of separate weights after a share of the time that they take to escape."""
    signs = np.array([1.0] if start == "aligned" else [1.0, -1.0]) / (1.0 if start == "aligned" else np.sqrt(2.0))

    def slopes(weights: FloatArray) -> FloatArray:
        paths = weights.reshape(len(signs), layers)
        return np.asarray(signs[:, None] * paths.prod(axis=1, keepdims=True) / paths).ravel()

    def output(weights: FloatArray) -> float:
        return float(signs @ weights.reshape(len(signs), layers).prod(axis=1))

    first = np.full(len(signs) * layers, size)
    time = share * GrowingKernel(layers, start).escape * size ** (2 - layers)
    end = solve_ivp(lambda _, at: slopes(at), (0, time), first, method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
    return time, output(end) - output(first), float(slopes(end) @ slopes(end))


def _along(start: str, sizes: tuple[tuple[int, float], ...], which: int) -> Callable[[sp.Basic], bool]:
    """A check of an expression of L, s, τ and B against flows: ``which`` is 1 for B and 2 for K."""

    def check(claimed: sp.Basic) -> bool:
        for layers, size in sizes:
            for share in _TIMES:
                found = _flow(start, layers, size, share)
                at = {depth: layers, init_scale: size, tau: found[0], _alignment: found[1]}
                if abs(float(claimed.subs(at)) / found[which] - 1) > 1e-7:
                    return False
        return True

    return check


def _moves(claimed: sp.Basic) -> bool:
    """K from s at s^L B over K from 1 at B, of integrated flows of the same share of their time."""
    for start in STARTS:
        for layers, size in ((3, 0.5), (5, 1.4)):
            here, there = _flow(start, layers, size, 0.6), _flow(start, layers, 1.0, 0.6)
            same = abs(here[1] / (size**layers * there[1]) - 1) < 1e-8
            if not same or abs(here[2] / there[2] / float(claimed.subs({depth: layers, init_scale: size})) - 1) > 1e-8:
                return False
    return True


def _series(claimed: sp.Basic) -> bool:
    """Exact arithmetic: B and K at a small rational time, with 60 digits."""
    for layers in (3, 4, 5, 7):
        at = {depth: layers, tau: sp.Rational(1, 10**9)}
        alignment, kernel = (
            expression.subs(at).evalf(60) for expression in (_mirrored_alignment(), _mirrored_kernel())
        )
        found = (kernel / layers - 1) / alignment**2
        if abs(float(found / claimed.subs(depth, layers)) - 1) > 1e-8:
            return False
    return True


def _two_layers(claimed: sp.Basic) -> bool:
    """Flows of four weights."""

    def pace(_: float, at: FloatArray) -> FloatArray:
        return np.array([at[1], at[0], -at[3], -at[2]]) / np.sqrt(2.0)

    for time in (0.4, 2.0, 5.0):
        end = solve_ivp(pace, (0, time), np.ones(4), method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
        found = ((end[0] * end[1] - end[2] * end[3]) / np.sqrt(2.0), float(np.square(end).sum()) / 2)
        if abs(float(claimed.subs(_alignment, found[0])) / found[1] - 1) > 1e-8:
            return False
    return True


def _far(claimed: sp.Basic) -> bool:
    """The same two where B is about 10^30, with 60 digits."""
    for layers in (3, 4, 6):
        escape = _root / (layers - 2)
        at = {depth: layers, tau: escape * (1 - sp.Rational(10) ** -sp.Integer(30 * (layers - 2) // layers))}
        alignment, kernel = (
            expression.subs(at).evalf(80) for expression in (_mirrored_alignment(), _mirrored_kernel())
        )
        found = kernel / (layers * alignment ** (2 - sp.Rational(2, layers)))
        if abs(float(found / claimed.subs(depth, layers)) - 1) > 1e-6:
            return False
    return True


def _escapes(start: str) -> Callable[[sp.Basic], bool]:
    def check(claimed: sp.Basic) -> bool:
        """∫ dB/K over all B, by quadrature in ln(1 + B)."""
        for layers in (3, 4, 6):
            toy = GrowingKernel(layers, start)
            found = quad(
                lambda log, toy=toy: np.exp(log) / float(toy.kernel(np.expm1(log))), 1e-9, 40 * layers, limit=400
            )[0]
            if abs(found / float(claimed.subs(depth, layers)) - 1) > 1e-5:
                return False
        return True

    return check


def _meets(claimed: sp.Basic) -> bool:
    """Both limits of eta_min, at a level where f is small."""
    level = 1 - 2e-4
    output = trained_output(level)[0]
    for start in STARTS:
        for layers in (4, 6):
            toy = GrowingKernel(layers, start)
            lazy, rich = (float(toy.eta_min(gamma, steps=1, level=level)) for gamma in (1e-6, 1e30))
            at = {_kernel_at_start: layers, _escape: toy.escape, f: output}
            if abs(rich / 1e30 / (lazy / 1e-12) / float(claimed.subs(at)) - 1) > 2e-3:
                return False
    return True


_kernel_at_start, _escape = sp.symbols("K_0 tau_*", positive=True)


def steps() -> tuple[Step, ...]:
    """Steps of this derivation, in order.

    Returns:
        Statements with their checks.
    """
    flows = "flows of separate weights, by Runge and Kutta of order 8"
    return (
        Step("aligned_kernel", "The kernel from an aligned start of size s, a function of the output alone.", "K(B)",
             _aligned_kernel(), _along("aligned", _SIZES, 2), flows),
        Step("start_moves", "Another size of the start moves B to B/s^L and multiplies K; so η_min(γ) becomes s² times "
             "that at γ/s^L.", "K_s(s^L B)/K_1(B)", init_scale ** (2 * depth - 2), _moves, flows),
        Step("mirrored_alignment", "B along the path of the mirrored start, the residual being that of the start.",
             r"B(\tau|\ell'(0)|)", _mirrored_alignment(), _along("mirrored", tuple((n, 1.0) for n, _ in _SIZES), 1),
             flows),
        Step("mirrored_kernel", "Its kernel there.", r"K(\tau|\ell'(0)|)", _mirrored_kernel(),
             _along("mirrored", tuple((n, 1.0) for n, _ in _SIZES), 2), "the same flows"),
        Step("mirrored_growth", "It does not grow at first order in B; from an aligned start K/K₀ − 1 is (2 − 2/L) B.",
             r"(K/K_0 - 1)/B^2", (depth - 1) * (3 * depth - 4) / (2 * depth**2), _series,
             "60 digits, at τ = 10⁻⁹"),
        Step("mirrored_two", "For two layers the mirrored kernel has a closed form.", "K(B),\\ L = 2",
             2 * sp.sqrt(1 + _alignment**2 / 2), _two_layers, flows),
        Step("mirrored_far", "Far out both kernels have the same power of B; the mirrored one is this share of the "
             "other.", r"K/(L B^{2-2/L})", 2 ** (-1 / depth), _far, "80 digits, at B ≈ 10³⁰"),
        Step("aligned_escape", "All of B takes a finite time for L > 2: the plateau ends, whatever γ.",
             r"\int_0^\infty dB/K", 1 / (depth - 2), _escapes("aligned"), "quadrature of 1/K over B"),
        Step("mirrored_escape", "From the mirrored start likewise.", r"\int_0^\infty dB/K", _root / (depth - 2),
             _escapes("mirrored"), "quadrature of 1/K over B"),
        Step("crossing", "The lazy law γ²f/(K₀|ℓ′(0)|T) and the rich law γτ*/(|ℓ′(0)|T) of η_min, f ≪ 1, meet where a "
             "kernel that did not grow would come to f at the time of escape.", r"\gamma_\times",
             _kernel_at_start * _escape / f, _meets, "exact η_min at γ = 10⁻⁶ and 10³⁰, f = 10⁻⁴"),
    )  # fmt: skip
