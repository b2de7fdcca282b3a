"""Staircases: a deep linear matrix network learns the modes of its target one after another, at times ∝ 1/s_a.

    f = (W_L ⋯ W_1 − W_L(0) ⋯ W_1(0))/γ,     target M = Σ_a s_a u_a v_aᵀ,     whitened inputs,     loss ½‖f − M‖²

From the aligned balanced start W_ℓ(0) = R_{ℓ+1} R_ℓᵀ, with R_1 = (v_a) and R_{L+1} = (u_a), theory says that the modes
decouple (``theory.deep_linear``) and that mode a leaves its plateau at τ_a ∝ 1/s_a (L > 2), τ_a = ln(γs_a)/(2s_a)
(L = 2). Here nothing is decoupled: the flow of all entries of all matrices is solved, the strengths u_aᵀ f v_a are
measured along it, and the times at which each is half learned are laid beside the predicted ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from simulate.flows.matrix import matrix_flow
from simulate.trajectory import Trajectory
from theory.deep_linear import plateau_times, staircase_times
from theory.errors import InputError, positive_array, positive_integer, positive_number
from theory.flow_forms import output_at_time

FloatArray = NDArray[np.float64]

_PAST_LAST = 1.2  # the flow is followed to this multiple of the last predicted step
_ZOOMS = 5  # each shortens the intervals in which modes step …
_INSIDE = 20  # … by this factor


@dataclass(frozen=True)
class Staircase:
    """A solved matrix flow seen mode by mode; times are τ = ηt/γ.

    Attributes:
        singular_values: s_a of the target, descending; (modes,).
        depth: number of matrices L.
        gamma: feature-learning strength.
        widths: n_0 (inputs), …, n_L (outputs); matrix ℓ has shape (n_ℓ, n_{ℓ−1}).
        perturbation: standard deviation of what was added to every entry of the aligned start.
        level: fraction of a mode that counts as its step.
        tau: times τ, ascending, denser inside the steps; (times,).
        loss: ½‖f − M‖² over its start; (times,).
        strengths: u_aᵀ f v_a, which goes from 0 to s_a; (times, modes).
        predicted_strengths: the same of decoupled modes; (times, modes).
        steps: one row a mode: ``singular_value, measured`` (τ at which the fraction ``level`` is learned; NaN when it
            is not within the run), ``predicted`` (exact for decoupled modes), ``asymptotic`` (large γ, first
            correction), ``departure`` = predicted/measured − 1, ``asymptotic_departure``, ``ratio`` (measured over that
            of the first mode) and ``predicted_ratio``.
        success: whether the solver reached the end; otherwise the arrays end where it stopped.
        status: what the solver says.
    """

    singular_values: FloatArray
    depth: int
    gamma: float
    widths: tuple[int, ...]
    perturbation: float
    level: float
    tau: FloatArray
    loss: FloatArray
    strengths: FloatArray
    predicted_strengths: FloatArray
    steps: pd.DataFrame
    success: bool
    status: str

    @property
    def step_ratios(self) -> FloatArray:
        """Measured step times over the first of them; (modes,)."""
        return self.steps["ratio"].to_numpy()


def _orthogonal(rng: np.random.Generator, size: int) -> FloatArray:
    q, r = np.linalg.qr(rng.normal(size=(size, size)))
    return np.asarray(q * np.sign(np.diag(r)))  # signs fixed: uniform over the group


def aligned_start(
    widths: Sequence[int], *, seed: int = 0, perturbation: float = 0.0
) -> tuple[tuple[FloatArray, ...], FloatArray, FloatArray]:
    """A random aligned balanced start W_ℓ = R_{ℓ+1} R_ℓᵀ, with as many unit modes as the narrowest layer has units.

    Args:
        widths: n_0, …, n_L.
        seed: of the orthogonal frames and of the perturbation.
        perturbation: standard deviation of what is added to every entry; breaks alignment and balance.

    Returns:
        W_1, …, W_L, then the left frame (n_L, r) and the right frame (n_0, r), r the least width: columns u_a and v_a.

    Raises:
        InputError: fewer than two widths, one that is not a positive integer, a perturbation below 0.
    """
    sizes = [positive_integer("widths", width) for width in widths]
    if len(sizes) < 2:
        raise InputError("widths", tuple(widths), "at least two: inputs and outputs")
    noise = _not_negative(perturbation)
    rng = np.random.default_rng(seed)
    # one rank for all layers, or the start would not be balanced across a change of width
    frames = [_orthogonal(rng, size)[:, : min(sizes)] for size in sizes]
    exact = [late @ early.T for early, late in pairwise(frames)]
    return tuple(matrix + noise * rng.normal(size=matrix.shape) for matrix in exact), frames[-1], frames[0]


def _not_negative(perturbation: float) -> float:
    return 0.0 if perturbation == 0 else positive_number("perturbation", perturbation)


def mode_staircase(
    *,
    singular_values: ArrayLike = (4.0, 2.0, 1.0),
    depth: int = 3,
    gamma: float = 1e8,
    widths: Sequence[int] | None = None,
    seed: int = 0,
    perturbation: float = 0.0,
    level: float = 0.5,
    tau_end: float | None = None,
    points: int = 600,
) -> Staircase:
    """Solve the matrix flow of a network with several modes and time its steps.

    The flow is solved once. It is looked at at evenly spaced times, and then ever more closely where modes step.

    Args:
        singular_values: s_a > 0 of the target, in any order.
        depth: number of matrices L >= 2 (one matrix has no plateau).
        gamma: feature-learning strength.
        widths: n_0, …, n_L, none below the number of modes; that number everywhere when ``None``.
        seed: of the random frames of start and target.
        perturbation: standard deviation of a perturbation of every entry of the start, which is then neither aligned
            nor balanced; predictions stay those of the unperturbed one.
        level: fraction of a mode that counts as its step, in (0, 1).
        tau_end: time τ at which to stop; a fifth past the last predicted step when ``None``.
        points: number of evenly spaced times.

    Returns:
        The staircase. A solver that fails is reported in ``success`` and ``status``, with the part that was solved.

    Raises:
        InputError: singular values, γ or ``tau_end`` not positive, L below 2, widths that do not fit L or the number of
            modes, a level outside (0, 1), a perturbation below 0.
    """
    values = np.sort(np.atleast_1d(positive_array("singular_values", singular_values)).ravel())[::-1]
    layers, strength = positive_integer("depth", depth, least=2), positive_number("gamma", gamma)
    sizes = (len(values),) * (layers + 1) if widths is None else tuple(widths)
    if len(sizes) != layers + 1 or min(sizes) < len(values):
        raise InputError("widths", sizes, f"{layers + 1} numbers, each at least {len(values)}, the number of modes")
    count = positive_integer("points", points, least=10)
    predicted = np.atleast_1d(staircase_times(values, strength, layers, level=level))
    end = _PAST_LAST * float(predicted.max()) if tau_end is None else positive_number("tau_end", tau_end)

    start, left, right = aligned_start(sizes, seed=seed, perturbation=perturbation)
    left, right = left[:, : len(values)], right[:, : len(values)]
    target = (left * values) @ right.T

    path = matrix_flow(start, gamma=strength, target=target, tau_end=end, points=count)
    for _ in range(_ZOOMS):
        path = path.at(tau=np.union1d(path.tau, _inside_steps(path.tau, _strengths(path, left, right) / values, level)))
    strengths = _strengths(path, left, right)
    measured = np.array([_crossing(path.tau, part, level) for part in (strengths / values).T])
    decoupled = np.zeros_like(strengths)
    decoupled[1:] = values * output_at_time(
        tau=path.tau[1:, None] * values, gamma=strength * values, depth=layers
    )  # mode a is the scalar model at γs_a, at a pace s_a
    return Staircase(
        singular_values=values,
        depth=layers,
        gamma=strength,
        widths=sizes,
        perturbation=float(perturbation),
        level=float(level),
        tau=path.tau,
        loss=path.loss / path.loss[0],
        strengths=strengths,
        predicted_strengths=decoupled,
        steps=_step_table(values, measured, predicted, plateau_times(values, strength, layers, level=level)),
        success=path.success,
        status=str(path.status),
    )


def _strengths(path: Trajectory, left: FloatArray, right: FloatArray) -> FloatArray:
    # u_aᵀ f v_a, (times, modes)
    return np.asarray(np.einsum("ia,tij,ja->ta", left, path.output, right))


def _first_above(fraction: FloatArray, level: float) -> int:
    # index of the first time at or above the level; 0 when there is none (f starts at 0, below every level)
    return int(np.argmax(fraction >= level))


def _inside_steps(tau: FloatArray, fraction: FloatArray, level: float) -> FloatArray:
    # more times in the interval in which each mode crosses the level, and in its neighbours
    inside = [np.empty(0)]
    for part in fraction.T:
        first = _first_above(part, level)
        if first:
            low, high = tau[max(first - 2, 0)], tau[min(first + 1, len(tau) - 1)]
            inside.append(np.linspace(low, high, 3 * _INSIDE + 1))
    return np.concatenate(inside)


def _crossing(tau: FloatArray, fraction: FloatArray, level: float) -> float:
    # on a straight line, in an interval that the zooms have made shorter than any step is wide
    first = _first_above(fraction, level)
    if not first:
        return float("nan")
    share = (level - fraction[first - 1]) / (fraction[first] - fraction[first - 1])
    return float(tau[first - 1] + share * (tau[first] - tau[first - 1]))


def _step_table(
    values: FloatArray, measured: FloatArray, predicted: FloatArray, asymptotic: FloatArray
) -> pd.DataFrame:
    return pd.DataFrame({
        "singular_value": values,
        "measured": measured,
        "predicted": predicted,
        "asymptotic": asymptotic,
        "departure": predicted / measured - 1,
        "asymptotic_departure": asymptotic / measured - 1,
        "ratio": measured / measured[0],
        "predicted_ratio": predicted / predicted[0],
    })
