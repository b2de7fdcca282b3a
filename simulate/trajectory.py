"""What every flow returns: a ``Trajectory`` at the times asked for, which can be asked again at any others.

Times are t in optimizer steps and τ = ηt/γ. The three events are levels of the loss, for scalars and matrices alike:

    plateau_exit    loss = level · L₀, level = 0.9 unless given: training has begun to show (the level of ``eta_min``)
    drop            loss = ½ L₀
    convergence     loss = settle · L₀, settle = 10⁻³ unless given
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.errors import InputError, one_of, positive_integer, positive_number

FloatArray: TypeAlias = NDArray[np.float64]
LongArray: TypeAlias = NDArray[np.longdouble]
Weights: TypeAlias = FloatArray | tuple[FloatArray, ...]

EVENTS = ("plateau_exit", "drop", "convergence")
_SMALLEST = 1e-150  # γ
_FIRST = 1e-6  # of the end: the earliest positive time on a logarithmic grid


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A solved gradient flow; unless said otherwise arrays have one entry a time.

    Attributes:
        t: time in units of steps.
        tau: rescaled time τ = ηt/γ.
        weights: balanced: the weight w that all L layers share, ``(times,)``; unbalanced: ``(times, L)``; two-layer:
            (u, v), each ``(times, n)``; matrices: W_1, …, W_L, each ``(times, n_{l+1}, n_l)``.
        output: f, ``(times,)``; of a matrix network the centred end-to-end map, ``(times, out, in)``.
        loss: excess over its minimum in f.
        sharpness: largest eigenvalue of the Hessian of the loss with respect to all weights; two-layer: n times that,
            since their step is ηn, so that η·sharpness = 2 is the edge. Matrices: NaN unless asked for.
        kernel: tangent kernel Σ_l (∂f/∂w_l)²; two-layer: (|u|² + |v|²)/(nγ²), n times that; matrices: its trace over
            the outputs, averaged over inputs, Σ_l |W_L⋯W_{l+1}|² tr(B_l Σ B_lᵀ)/γ² with B_l = W_{l−1}⋯W_1.
        balance: largest change since the start among the conserved differences of squares, relative to the squares
            at that time: |w_i² − w_j²| over max w²; u_i² − v_i² over max (u² + v²); for matrices the Frobenius norm
            of W_{l+1}ᵀW_{l+1} − W_lW_lᵀ over |W_{l+1}|² + |W_l|². (Not relative to the start: squares of order
            γ^{2/L} are stored with an error of 10⁻¹⁶ of themselves.)
        alignment: matrices: cosine, in the Frobenius product, between f and −∂loss/∂f at the start (which is M = E yxᵀ
            for MSE); NaN while f is zero, and for scalar outputs, which have one direction only.
        events: time t of ``plateau_exit``, ``drop`` and ``convergence``; NaN where it is not reached.
        success: whether every time asked for was reached; otherwise the arrays end where the solver stopped.
        status: in a few words: ``solved``, ``too many evaluations``, ``step too small``, ``overflow``.
        message: in a sentence.
        method: ``closed form``, ``quadrature``, or the name of SciPy's solver.
        gamma: feature-learning strength.
        eta: learning rate.
        t_end: last time, in steps, at which the flow is known; ``at`` answers up to there.
    """

    t: FloatArray
    tau: FloatArray
    weights: Weights
    output: FloatArray
    loss: FloatArray
    sharpness: FloatArray
    kernel: FloatArray
    balance: FloatArray
    alignment: FloatArray
    events: Mapping[str, float]
    success: bool
    status: str
    message: str
    method: str
    gamma: float
    eta: float
    t_end: float
    sample: Callable[..., dict[str, Any]] = field(repr=False)

    def at(self, t: ArrayLike | None = None, *, tau: ArrayLike | None = None, **options: Any) -> Trajectory:
        """The same flow at other times, by the solver's own dense output (nothing is interpolated between points).

        Args:
            t: times in steps, any order, within [0, ``t_end``].
            tau: rescaled times, in place of ``t``.
            **options: matrices only: ``sharpness=True`` to compute the sharpness at these times.

        Returns:
            A trajectory with these times, one-dimensional.

        Raises:
            InputError: both or neither of t and tau, or times outside the part that was solved.
        """
        if (t is None) == (tau is None):
            raise InputError("t", t, "given, or tau in its place, and not both")
        name, given = ("t", t) if tau is None else ("tau", tau)
        scale = 1.0 if tau is None else self.gamma / self.eta
        wanted = np.atleast_1d(_times(name, given))
        end = self.t_end / scale
        slack = 1 + 4 * np.finfo(float).eps  # t to τ and back rounds
        if wanted.size and wanted.max() > end * slack:
            raise InputError(name, float(wanted.max()), f"at most {end:.17g}, where the solved part ends")
        steps, rescaled, fine = _both_times(wanted, self.gamma, self.eta, is_tau=tau is not None)
        return replace(self, t=steps, tau=rescaled, **self.sample(fine, **options))


def _times(name: str, given: Any) -> FloatArray:
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(name, given, "finite numbers >= 0") from None
    if values.ndim > 1 or not np.isfinite(values).all() or (values < 0).any():
        raise InputError(name, given, "finite numbers >= 0, in one dimension")
    return values


def _both_times(
    given: FloatArray, gamma: float, eta: float, *, is_tau: bool
) -> tuple[FloatArray, FloatArray, LongArray]:
    # τ in long double, where there is one: near the drop du/u is up to about γ^{1−2/L} dτ/τ
    factor = np.longdouble(gamma) / np.longdouble(eta)
    fine = given.astype(np.longdouble)
    if is_tau:
        return np.asarray(fine * factor, dtype=np.float64), given, fine
    return given, np.asarray(fine / factor, dtype=np.float64), fine / factor


def usable_gamma(given: float) -> float:
    """Check γ: its square, and that of 1/γ, must fit into float64.

    Args:
        given: γ.

    Returns:
        γ as a Python ``float``.

    Raises:
        InputError: not positive, or outside [1e-150, 1e150].
    """
    value = positive_number("gamma", given)
    if not _SMALLEST <= value <= 1 / _SMALLEST:
        raise InputError("gamma", value, f"between {_SMALLEST:g} and {1 / _SMALLEST:g}")
    return value


def requested_times(
    gamma: float,
    eta: float,
    *,
    t_end: float | None,
    tau_end: float | None,
    times: ArrayLike | None,
    points: int,
    spacing: str,
) -> tuple[FloatArray, FloatArray, LongArray]:
    """Resolve the ways of asking for times.

    Args:
        gamma: feature-learning strength.
        eta: learning rate.
        t_end: end in steps.
        tau_end: end in rescaled time, in place of ``t_end``.
        times: ascending times in steps, in place of either; 0 need not be among them.
        points: number of times, 0 and the end included; not used with ``times``.
        spacing: ``"linear"``, or ``"log"``: 0 and then geometric from 10⁻⁶ of the end.

    Returns:
        t, τ, and τ in long double, each of shape ``(points,)``.

    Raises:
        InputError: not exactly one of the three given, not positive, or times that do not ascend from 0 or above.
    """
    named = {"t_end": t_end, "tau_end": tau_end, "times": times}
    given = [name for name, value in named.items() if value is not None]
    if len(given) != 1:
        raise InputError("t_end", given, "given, or tau_end or times in its place: exactly one of the three")
    if times is not None:
        grid = np.atleast_1d(_times("times", times))
        if grid.size == 0 or (np.diff(grid) <= 0).any():
            raise InputError("times", times, "strictly ascending, at least one")
        return _both_times(grid, gamma, eta, is_tau=False)
    end = positive_number(given[0], named[given[0]])
    count = positive_integer("points", points, least=2)
    if one_of("spacing", spacing, ("linear", "log")) == "linear" or count == 2:
        grid = np.linspace(0.0, end, count)
    else:
        grid = np.concatenate([[0.0], np.geomspace(_FIRST * end, end, count - 1)])
    grid[-1] = end  # geomspace rounds
    return _both_times(grid, gamma, eta, is_tau=given[0] == "tau_end")


def event_levels(level: float, settle: float) -> dict[str, float]:
    """The loss, as a fraction of its start, at each event.

    Args:
        level: of ``plateau_exit``.
        settle: of ``convergence``.

    Returns:
        Fractions by the names in ``EVENTS``.

    Raises:
        InputError: a level outside (0, 1).
    """
    for name, value in (("level", level), ("settle", settle)):
        if positive_number(name, value) >= 1:
            raise InputError(name, value, "strictly between 0 and 1")
    return dict(zip(EVENTS, (float(level), 0.5, float(settle)), strict=True))
