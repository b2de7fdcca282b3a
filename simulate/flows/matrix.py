"""Gradient flow of deep linear matrix networks of any widths; the equations are in ``simulate.flows.network``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from simulate.flows.network import MatrixCrossEntropy, MatrixLoss, MatrixMSE, Network
from simulate.flows.run import METHODS, Run
from simulate.trajectory import FloatArray, LongArray, Trajectory, event_levels, requested_times, usable_gamma
from theory.errors import InputError, one_of, positive_integer, positive_number

_SYMMETRIC = 1e-12  # to which Σ must be symmetric


def matrix_flow(
    weights: Sequence[ArrayLike],
    *,
    gamma: float,
    eta: float = 1.0,
    target: ArrayLike | None = None,
    covariance: ArrayLike | None = None,
    inputs: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    loss: str = "mse",
    t_end: float | None = None,
    tau_end: float | None = None,
    times: ArrayLike | None = None,
    points: int = 500,
    spacing: str = "linear",
    sharpness: bool = False,
    method: str = "auto",
    rtol: float = 1e-12,
    level: float = 0.9,
    settle: float = 1e-3,
    max_evaluations: int = 1_000_000,
) -> Trajectory:
    """Solve the flow of a deep linear network f(x) = (W_L ⋯ W_1 − W_L(0) ⋯ W_1(0))x/γ.

    Args:
        weights: W_1(0), …, W_L(0), the first acting on the input; shapes (n_{l+1}, n_l), of any widths.
        gamma: feature-learning strength.
        eta: learning rate of every weight (no width multiplier).
        target: MSE: M = E yxᵀ, shape (out, in); the map to be learned when inputs are whitened.
        covariance: MSE: Σ = E xxᵀ, shape (in, in); the identity when ``None``.
        inputs: cross-entropy: the examples x, shape (samples, in), all with the same weight.
        labels: cross-entropy: their label probabilities, rows that sum to 1, shape (samples, out).
        loss: ``"mse"`` or ``"cross-entropy"``.
        t_end: end in units of steps (t, not τ).
        tau_end: end in rescaled time τ = ηt/γ, in place of ``t_end``.
        times: ascending times in steps, in place of either.
        points: number of times, 0 and the end included.
        spacing: of the times: ``"linear"`` or ``"log"``.
        sharpness: whether to compute the sharpness at these times, by Lanczos. For a few times only, solve without and
            ask ``path.at(times, sharpness=True)``.
        method: ``"auto"`` (see the module), ``"DOP853"`` or ``"LSODA"``.
        rtol: relative tolerance of the solver, at least 3e-14.
        level: loss over L₀ at the event ``plateau_exit``.
        settle: loss over L₀ at the event ``convergence``.
        max_evaluations: evaluations of the velocity after which the solver gives up.

    Returns:
        The trajectory. A solver that fails is reported in ``success``, ``status`` and ``message``, with the part that
        was solved.

    Raises:
        InputError: matrices that do not multiply to the shape of the target, values that are not real and finite, Σ
            not symmetric or not positive semidefinite, M outside its range, labels that are no probabilities, numbers
            that are not positive, or names that are not known.
    """
    strength, rate = usable_gamma(gamma), positive_number("eta", eta)
    start = _layers(weights)
    energy = _loss(one_of("loss", loss, ("mse", "cross-entropy")), target, covariance, inputs, labels)
    out, width = energy.shape
    if (start[-1].shape[0], start[0].shape[1]) != energy.shape:
        raise InputError("weights", [m.shape for m in start], f"a map from {width} inputs to {out} outputs")
    t, tau, _ = requested_times(
        strength, rate, t_end=t_end, tau_end=tau_end, times=times, points=points, spacing=spacing
    )
    levels = event_levels(level, settle)
    tolerance = positive_number("rtol", rtol)
    if not 3e-14 <= tolerance <= 1e-2:
        raise InputError("rtol", rtol, "between 3e-14 and 1e-2")
    network = Network(start, strength, energy)
    run = Run(network, tau, tolerance, one_of("method", method, METHODS),
               positive_integer("max_evaluations", max_evaluations), levels)  # fmt: skip

    def sample(at: LongArray, *, sharpness: bool = False) -> dict[str, Any]:
        return network.fields(run.at(np.asarray(at, dtype=np.float64)), sharpness=sharpness)

    states, unit, solved = run.states, strength / rate, run.status == "solved"
    end = float(t[-1]) if solved else run.reached * unit
    return Trajectory(
        t=t[: len(states)],
        tau=tau[: len(states)],
        **network.fields(states, sharpness=sharpness),
        events={name: time * unit for name, time in run.events.items()},
        success=solved,
        status=run.status,
        message="the end was reached" if solved else f"stopped at t = {end:.6g} of {t[-1]:.6g}",
        method=run.method,
        gamma=strength,
        eta=rate,
        t_end=end,
        sample=sample,
    )


def _matrix(field: str, given: Any) -> FloatArray:
    try:
        values = np.asarray(given)
    except (TypeError, ValueError):
        values = np.asarray(None)
    if values.dtype.kind not in "iuf" or values.ndim != 2 or values.size == 0 or not np.isfinite(values).all():
        raise InputError(field, given, "a matrix of real finite numbers")
    return values.astype(np.float64)


def _layers(weights: Sequence[ArrayLike]) -> list[FloatArray]:
    if len(weights) == 0:
        raise InputError("weights", weights, "at least one matrix, the one that acts on the input first")
    layers = [_matrix(f"weights[{i}]", matrix) for i, matrix in enumerate(weights)]
    if any(late.shape[1] != early.shape[0] for early, late in pairwise(layers)):
        raise InputError("weights", [m.shape for m in layers], "matrices that multiply, the first layer first")
    return layers


def _loss(name: str, target: Any, covariance: Any, inputs: Any, labels: Any) -> MatrixLoss:
    if name == "mse":
        for field, given in (("inputs", inputs), ("labels", labels)):
            if given is not None:
                raise InputError(field, given, 'left out with loss "mse", which takes target and covariance')
        goal = _matrix("target", target)
        second = None if covariance is None else _matrix("covariance", covariance)
        if second is not None and (
            second.shape != (goal.shape[1],) * 2 or np.abs(second - second.T).max() > _SYMMETRIC * np.abs(second).max()
        ):
            raise InputError("covariance", covariance, f"symmetric, of shape {(goal.shape[1],) * 2}")
        return MatrixMSE(goal, second)
    for field, given in (("target", target), ("covariance", covariance)):
        if given is not None:
            raise InputError(field, given, 'left out with loss "cross-entropy", which takes inputs and labels')
    x, p = _matrix("inputs", inputs), _matrix("labels", labels)
    if len(x) != len(p) or (p < 0).any() or (np.abs(p.sum(axis=1) - 1) > 1e-9).any():
        raise InputError("labels", labels, f"{len(x)} rows of probabilities, one for each of the inputs")
    return MatrixCrossEntropy(x, p)
