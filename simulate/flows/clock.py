"""The time along a flow of one coordinate, and the coordinate at a time.

Every flow with one output (balanced, unbalanced, two-layer) moves along one coordinate x, from x = 0 to the place
x = ``reach`` where f = 1, and always forwards:

    dx/dτ = −ℓ′(f(x)) · speed(x),        τ(x) = ∫₀ˣ dx / (−ℓ′ · speed).

So the flow is solved inside out, time as a function of place. In time the drop is a jump after a long plateau, which
an adaptive step can miss; in x the plateau and the drop have about the same length. The approach to the minimum is
stretched by θ,

    reach − x = reach · e^{−θ},     dτ/dθ = (reach − x)/(−ℓ′ · speed) → constant,

with x and the gap reach − x both free of cancellation. A flow that ends at a saddle with f < 1 has reach = ∞, θ = x.

The range of θ is cut into panels on which dτ/dθ is smooth. On each the increment of τ is integrated by Gauss–Legendre
(``GaussClock``) or by SciPy's DOP853 (``OdeClock``), with an error relative to that increment; the sum over the panels
is held in long double. That matters: near the drop du/u is up to about γ^{1−2/L} dτ/τ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import DOP853, DenseOutput, OdeSolution

from simulate.trajectory import FloatArray, LongArray

IntArray: TypeAlias = NDArray[np.intp]

FAR = 60.0  # θ beyond which dτ/dθ is constant to e^-60; the gap is then 1e-26 of the whole way
FAR_SADDLE = 300.0  # where the panels of a flow end that only approaches a saddle: e^2x still fits
_STRETCH = 1.0  # widest panel in θ
_NODES = 16
_SLACK = 1e-6  # by which the panels reach beyond the last time: more than any integrator's error
_ROUNDS = 40  # of Newton's iteration; it takes about 5

_nodes, _weights = np.polynomial.legendre.leggauss(_NODES)
_nodes, _weights = (_nodes + 1) / 2, _weights / 2  # on [0, 1]


class Path(Protocol):
    """A flow of one coordinate.

    Attributes:
        reach: x at which f = 1, from the start; infinite when the flow does not get there, NaN on overflow.
        width: widest panel in x over which speed and f are smooth.
        stuck: whether the start is at rest.
    """

    reach: float
    width: float
    stuck: bool

    def evaluate(self, x: FloatArray, gap: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """f, 1 − f and the speed.

        Args:
            x: the coordinate.
            gap: reach − x, same shape.

        Returns:
            Three arrays of that shape, each with full relative accuracy.
        """
        ...

    def fields(self, loss: ScalarLoss, x: FloatArray, gap: FloatArray) -> dict[str, Any]:
        """Weights, sharpness, kernel and balance of the trajectory.

        Args:
            loss: the loss.
            x: the coordinate, one-dimensional.
            gap: reach − x, same shape.

        Returns:
            Fields of ``Trajectory``, one entry a place.
        """
        ...


@dataclass(frozen=True)
class ScalarLoss:
    """A loss of one output, as a function of f and of rest = 1 − f, which are both given to keep their accuracy.

    Args:
        name: ``"mse"`` or ``"cross-entropy"`` (two classes, soft label σ(1)).
    """

    name: str

    def pull(self, f: FloatArray, rest: FloatArray) -> FloatArray:
        """−ℓ′(f), from f and 1 − f."""
        if self.name == "mse":
            return rest
        # σ(1) − σ(f): nothing cancels at f = 1
        return np.asarray(np.sinh(rest / 2) / (2 * np.cosh(0.5) * np.cosh(f / 2)))

    def curvature(self, f: FloatArray) -> FloatArray:
        """ℓ″(f)."""
        return np.ones_like(f) if self.name == "mse" else np.asarray(0.25 / np.cosh(f / 2) ** 2)

    def excess(self, rest: FloatArray) -> FloatArray:
        """ℓ(f) − ℓ(1), from 1 − f."""
        if self.name == "mse":
            return rest**2 / 2
        # the integral of the pull from f to 1, so that nothing cancels; entire but for poles π away
        inner = rest[..., None] * _nodes
        return np.asarray(rest * (self.pull(1.0 - inner, inner) @ _weights))


class Clock:
    """τ at a place and the place at a τ; the two integrators are its subclasses.

    Args:
        path: the flow.
        loss: its loss.
        end: τ up to which the clock must run.
        evaluations: how many evaluations of dτ/dθ it may spend.
    """

    method = ""

    def __init__(self, path: Path, loss: ScalarLoss, end: float, evaluations: float = np.inf) -> None:
        self.path, self.loss = path, loss
        self.allowed, self.exhausted = evaluations, False
        self.edges = self._edges()
        with np.errstate(over="ignore", divide="ignore"):  # an infinite time is past any end
            coarse = np.cumsum(self._gauss(np.arange(len(self.edges) - 1), np.diff(self.edges)))
        needed = int(np.searchsorted(coarse, end * (1 + _SLACK))) + 1
        self.edges = self.edges[: needed + 1]
        increments = self._integrate()
        self.reached = np.concatenate([[np.longdouble(0)], np.cumsum(increments, dtype=np.longdouble)])

    def _edges(self) -> FloatArray:
        reach, width = self.path.reach, self.path.width
        if np.isinf(reach):
            return np.linspace(0.0, FAR_SADDLE, int(np.ceil(FAR_SADDLE / width)) + 1)
        # even in x while that is the finer rule, then even in θ
        count = max(0, int(reach / width - 1 / -np.expm1(-_STRETCH)))
        even = -np.log1p(-np.arange(count + 1) * width / reach)
        return np.concatenate([even, np.arange(even[-1] + _STRETCH, even[-1] + FAR, _STRETCH)])

    def place(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Coordinate x, and reach − x.

        Args:
            theta: θ >= 0.

        Returns:
            Both, of the same shape.
        """
        if np.isinf(self.path.reach):
            return np.minimum(theta, FAR_SADDLE), np.full_like(theta, np.inf)
        return -self.path.reach * np.expm1(-theta), self.path.reach * np.exp(-theta)

    def slowness(self, theta: FloatArray) -> FloatArray:
        """dτ/dθ.

        Args:
            theta: θ >= 0.

        Returns:
            Same shape.
        """
        x, gap = self.place(np.minimum(theta, self.edges[-1]))
        f, rest, speed = self.path.evaluate(x, gap)
        return (1.0 if np.isinf(self.path.reach) else gap) / (self.loss.pull(f, rest) * speed)

    def _gauss(self, panel: IntArray, offset: FloatArray) -> FloatArray:
        # the time from the start of each panel, by Gauss–Legendre
        at = self.edges[panel][:, None] + offset[:, None] * _nodes
        return np.asarray(offset * (self.slowness(at) @ _weights))

    def _integrate(self) -> FloatArray:
        # the increments of all panels
        raise NotImplementedError

    def _partial(self, panel: IntArray, offset: FloatArray) -> FloatArray:
        # the time from the start of each panel
        raise NotImplementedError

    def tau(self, theta: float) -> float:
        """τ at a place.

        Args:
            theta: θ >= 0.

        Returns:
            τ; infinite beyond the part that was integrated.
        """
        if theta > self.edges[-1]:
            return np.inf
        panel = max(0, min(int(np.searchsorted(self.edges, theta, side="right")) - 1, len(self.edges) - 2))
        offset = np.array([theta - self.edges[panel]])
        return float(self.reached[panel] + self._partial(np.array([panel]), offset)[0])

    def theta(self, tau: LongArray) -> FloatArray:
        """The place at a time, by Newton's iteration within a panel.

        Args:
            tau: times, one-dimensional.

        Returns:
            θ, same shape.
        """
        panel = np.clip(np.searchsorted(self.reached, tau, side="right") - 1, 0, len(self.edges) - 2)
        low, whole = self.edges[panel], self.edges[panel + 1] - self.edges[panel]
        left = np.asarray(tau - self.reached[panel], dtype=np.float64)  # the time to spend within the panel
        size = np.asarray(self.reached[panel + 1] - self.reached[panel], dtype=np.float64)
        late = left > size
        result = np.empty_like(low)
        result[late] = self.edges[-1] + (left[late] - size[late]) / self.slowness(self.edges[-1:])
        (open_,) = np.nonzero(~late)
        # a panel may take no time at all, to 19 digits, when the drop is steeper than that
        offset = whole * np.minimum(np.divide(left, size, out=np.zeros_like(left), where=size > 0), 1.0)
        for _ in range(_ROUNDS):
            at, k = offset[open_], panel[open_]
            step = (self._partial(k, at) - left[open_]) / self.slowness(low[open_] + at)
            moved = np.clip(at - step, 0.0, whole[open_])
            offset[open_] = moved
            open_ = open_[np.abs(moved - at) > 1e-15 * moved]
            if open_.size == 0:
                break
        result[~late] = (low + offset)[~late]
        return result


class GaussClock(Clock):
    """Increments by Gauss–Legendre with 16 nodes: below 1e-15 on panels of the widths used here."""

    method = "quadrature"

    def _integrate(self) -> FloatArray:
        return self._gauss(np.arange(len(self.edges) - 1), np.diff(self.edges))

    def _partial(self, panel: IntArray, offset: FloatArray) -> FloatArray:
        return self._gauss(panel, offset)


class OdeClock(Clock):
    """Increments by DOP853, all panels side by side, so that its relative tolerance is one of each panel's increment.

    With s the place within a panel, from 0 to 1, and h_k the panel's width: dτ_k/ds = h_k dτ/dθ(θ_k + s h_k).
    """

    method = "DOP853"
    rtol = 1e-13

    def _integrate(self) -> FloatArray:
        low, self._width = self.edges[:-1].copy(), np.diff(self.edges)

        def pace(s: float, _y: FloatArray) -> FloatArray:
            return self._width * self.slowness(low + s * self._width)

        # the first step is given: SciPy's own guess divides by the state, which is zero
        solver = DOP853(pace, 0.0, np.zeros(len(low)), 1.0, first_step=0.1, rtol=self.rtol, atol=1e-300)
        ends: list[float] = [0.0]
        pieces: list[DenseOutput] = []
        while solver.status == "running":
            if solver.nfev >= self.allowed:
                self.exhausted = True  # what is known then is the first part of the first panel
                self.edges = np.array([0.0, solver.t * self._width[0]])
                break
            solver.step()
            ends.append(float(solver.t))
            pieces.append(solver.dense_output())
        self._dense = OdeSolution(ends, pieces) if pieces else None
        return np.array(solver.y[: len(self.edges) - 1])

    def _partial(self, panel: IntArray, offset: FloatArray) -> FloatArray:
        if self._dense is None:
            return np.zeros_like(offset)
        return np.asarray(self._dense(offset / self._width[panel])[panel, np.arange(len(panel))])
