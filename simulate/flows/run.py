"""Solves the flow of a matrix network: the choice of solver, its steps, and the states at the times asked for.

DOP853, eighth order: its steps follow the accuracy asked for, and each is bounded so that no weight matrix moves by
more than half its own size within one step: a step cannot cross the drop after a plateau on which nothing seems to
happen. After the first large mode is learned the flow of a rich network is stiff (its sharpness is of order γ^{1−2/L}
in τ while the next mode waits for τ of order 1). So a network of at most ``STIFF_SIZE`` weights that has taken 1500
steps goes on with LSODA, which steps by BDF where that pays, with the exact Jacobian, −γ times the Hessian of the
loss. It is not used from the start, since the drops are sharper in DOP853; larger networks stay with DOP853.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from scipy.integrate import DOP853, LSODA, DenseOutput, OdeSolution
from scipy.optimize import brentq

from simulate.flows.network import Network
from simulate.trajectory import EVENTS, FloatArray

METHODS = ("auto", "DOP853", "LSODA")
STIFF_SIZE = 400  # most weights for which the stiff method is used: its Jacobian is dense
_STIFF_MARGIN = 0.03  # of the tolerances, given to LSODA: its error at equal ones is about so much larger than DOP853's
_EXPLICIT_STEPS = 1500  # steps of DOP853 after which a small network is taken to be stiff
_DENSE_BYTES = 2**28  # most memory that the dense output may take
_GROWTH = 0.5  # most that a weight matrix may move in one step, relative to its size


class Run:
    """One integration: the states at the times asked for, the events, and any other time of the part that was solved.

    The dense output of DOP853 holds eight states a step. Where that is too much it is let go, and other times are
    reached by integrating again from the last time on the grid.

    Args:
        network: the equations.
        grid: τ at the times asked for, ascending.
        rtol: relative tolerance.
        method: one of ``METHODS``.
        allowed: evaluations of the velocity.
        levels: the loss over L₀ at each event.
    """

    def __init__(
        self, network: Network, grid: FloatArray, rtol: float, method: str, allowed: int, levels: dict[str, float]
    ) -> None:
        self.network, self.grid, self.rtol = network, grid, rtol
        self.reached, self.status, self.method = 0.0, "solved", "closed form"
        self.events = dict.fromkeys(EVENTS, math.nan)
        self._times: list[float] = [0.0]
        self._pieces: list[DenseOutput] = []
        self._keep, self._still = True, False
        self._known: list[FloatArray] = [np.zeros(network.size)] if grid[0] == 0 else []
        with np.errstate(over="ignore", invalid="ignore"):
            velocity = network.velocity(0.0, np.zeros(network.size))
        if grid[-1] == 0 or not velocity.any():  # a start at rest, or one that is trained: nothing ever moves
            self.reached, self._still = float(grid[-1]), True
            self._known = [np.zeros(network.size)] * len(grid)
            return
        self._atol = _tolerance(network, velocity, rtol)
        if not 0 < self._atol < np.inf:
            self.status, self.method = "overflow", "none"
            return
        self._solve(method, allowed, levels)

    @property
    def states(self) -> FloatArray:
        """States at the times of the grid that were reached, shape ``(times, size)``."""
        return np.array(self._known).reshape(-1, self.network.size)

    def at(self, taus: FloatArray) -> FloatArray:
        """States at other times.

        Args:
            taus: within the part that was solved, any order.

        Returns:
            Shape ``(times, size)``.
        """
        if self._still:
            return np.zeros((len(taus), self.network.size))
        taus = np.minimum(taus, self.reached)  # τ from t and back rounds
        if self._keep and self._pieces:
            return np.asarray(OdeSolution(self._times, self._pieces)(taus)).T
        return np.array([self._again(float(tau)) for tau in taus]).reshape(-1, self.network.size)

    def _again(self, tau: float) -> FloatArray:
        last = int(np.searchsorted(self.grid[: len(self._known)], tau, side="right")) - 1
        begin = float(self.grid[last]) if last >= 0 else 0.0
        state = self._known[last] if last >= 0 else np.zeros(self.network.size)
        if tau == begin:
            return state
        solver = self._explicit(begin, state, tau)
        while solver.status == "running":
            solver.max_step = _longest(self.network, solver)
            solver.step()
        return np.asarray(solver.y, dtype=np.float64)

    def _explicit(self, tau: float, state: FloatArray, end: float) -> DOP853:
        return DOP853(self.network.velocity, tau, state, end, rtol=self.rtol, atol=self._atol)

    def _stiff(self, tau: float, state: FloatArray, end: float) -> LSODA:
        part, velocity, jacobian = max(_STIFF_MARGIN, 3e-14 / self.rtol), self.network.velocity, self.network.jacobian
        return LSODA(velocity, tau, state, end, rtol=part * self.rtol, atol=part * self._atol, jac=jacobian)

    def _solve(self, method: str, allowed: int, levels: dict[str, float]) -> None:
        end, start = float(self.grid[-1]), np.zeros(self.network.size)
        solver: DOP853 | LSODA
        solver = self._stiff(0.0, start, end) if method == "LSODA" else self._explicit(0.0, start, end)
        self.method = type(solver).__name__
        first, spent, steps = self.network.excess(start), 0, 0
        while solver.status == "running":
            if spent + solver.nfev >= allowed:
                self.status = "too many evaluations"
                return
            if method == "auto" and self.network.size <= STIFF_SIZE and steps == _EXPLICIT_STEPS:
                spent, solver = spent + solver.nfev, self._stiff(self.reached, np.asarray(solver.y.real), end)
                self.method += ", LSODA"
            if isinstance(solver, DOP853):
                solver.max_step = _longest(self.network, solver)
            with np.errstate(over="ignore", invalid="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # LSODA warns of what its status says
                solver.step()
            if solver.status == "failed" or not np.isfinite(solver.y).all():
                self.status = "step too small" if solver.status == "failed" else "overflow"
                return
            steps += 1
            self._record(solver.dense_output(), float(solver.t), np.asarray(solver.y.real), first, levels)

    def _record(
        self, piece: DenseOutput, now: float, state: FloatArray, first: float, levels: dict[str, float]
    ) -> None:
        before, self.reached = self.reached, now
        inside = self.grid[len(self._known) : int(np.searchsorted(self.grid, now, side="right"))]
        if inside.size:
            self._known.extend(np.asarray(piece(inside)).T)
        loss = self.network.excess(state)
        for name, level in levels.items():
            if np.isnan(self.events[name]) and loss <= level * first:
                self.events[name] = self._crossing(piece, before, now, level * first)
        if self._keep:
            self._times.append(now)
            self._pieces.append(piece)
            self._keep = 64 * self.network.size * len(self._pieces) <= _DENSE_BYTES
            if not self._keep:
                self._pieces, self._times = [], []

    def _crossing(self, piece: DenseOutput, low: float, high: float, goal: float) -> float:
        def surplus(tau: float) -> float:
            return self.network.excess(np.asarray(piece(tau))) - goal

        # the dense output need not repeat the ends of the step to the last bit
        if surplus(high) >= 0:
            return high
        return low if surplus(low) <= 0 else float(brentq(surplus, low, high, xtol=1e-15 * high, rtol=1e-15))


def _tolerance(network: Network, velocity: FloatArray, rtol: float) -> float:
    # absolute error allowed: rtol of the smaller of a weight and the displacement that a lazy network needs, which is
    # the velocity over the rate at which the loss starts to fall
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        pace = float(np.sqrt(np.mean(velocity**2)))
        lazy = network.gamma * network.excess(np.zeros(network.size)) / (pace * network.size)
        typical = [float(np.sqrt(np.mean(matrix**2))) for matrix in network.start]
    return 0.1 * rtol * min([size for size in typical if size > 0] + [lazy])


def _longest(network: Network, solver: DOP853) -> float:
    # the step in which some matrix would move by _GROWTH of its size, at the pace it has now
    displacements, velocities = (network.split(np.asarray(vector, dtype=np.float64)) for vector in (solver.y, solver.f))
    paces = [
        float(np.linalg.norm(v)) / norm
        for start, d, v in zip(network.start, displacements, velocities, strict=True)
        if (norm := float(np.linalg.norm(start + d))) > 0
    ]
    fastest = max(paces, default=0.0)
    return _GROWTH / fastest if fastest > 0 else np.inf
