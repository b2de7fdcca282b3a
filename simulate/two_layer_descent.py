"""Gradient descent on the vectors of a two-layer linear net: what the closed map of ``simulate.catapult`` describes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.errors import InputError, positive_integer, positive_number

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class TwoLayerRun:
    """Curves of one run on explicit vectors, each of shape ``(T + 1,)``; an escaped run ends in ``inf`` or ``nan``.

    Attributes:
        output: f.
        loss: (f − 1)²/2.
        kernel: λ = (|u|² + |v|²)/(nγ²).
        sharpness: largest eigenvalue of n times the Hessian, that is of the step ηn actually made, so that η·sharpness
            = 2 is the edge of stability; the kernel where f = 1.
    """

    output: FloatArray
    loss: FloatArray
    kernel: FloatArray
    sharpness: FloatArray


def two_layer_descent(u: ArrayLike, v: ArrayLike, *, gamma: float, eta: float, steps: int) -> TwoLayerRun:
    """Gradient descent on the weights u and v, in NumPy: the oracle of the closed map, and curves to plot.

    Args:
        u: weights of the first layer at the start, shape ``(n,)``.
        v: weights of the second layer at the start, shape ``(n,)``.
        gamma: feature-learning strength.
        eta: learning rate; the weights move by ηn times the gradient.
        steps: number of steps T.

    Returns:
        The curves at steps 0 … T.

    Raises:
        InputError: u or v not finite real vectors of one length, γ or η not positive, T below 1.
    """
    first, second = _vector("u", u), _vector("v", v)
    if first.size != second.size:
        raise InputError("v", second.shape, f"as long as u ({first.size})")
    strength, rate, count = (
        positive_number("gamma", gamma),
        positive_number("eta", eta),
        positive_integer("steps", steps),
    )
    n = first.size
    # displacements are held apart from the start: at small γ they are far below one rounding of it
    du, dv = np.zeros(n), np.zeros(n)
    output, kernel, product = np.empty((3, count + 1))
    with np.errstate(over="ignore", invalid="ignore"):  # escaping runs overflow, which is their result
        for step in range(count + 1):
            now_u, now_v = first + du, second + dv
            output[step] = (du @ second + now_u @ dv) / (strength * n)
            kernel[step] = (now_u @ now_u + now_v @ now_v) / (n * strength**2)
            product[step] = (now_u @ now_v) / (n * strength**2)
            pull = rate * (output[step] - 1.0) / strength
            du, dv = du - pull * now_v, dv - pull * now_u
        residual = output - 1.0
        # n·Hessian is λ ĝĝᵀ + (r/γ) S, S exchanging u and v: a 2 × 2 problem in the span of u + v and u − v
        root = np.sqrt(kernel**2 / 4.0 + 2.0 * product * residual / strength + (residual / strength) ** 2)
        return TwoLayerRun(output, residual**2 / 2.0, kernel, kernel / 2.0 + root)


def _vector(field: str, given: ArrayLike) -> FloatArray:
    values = np.asarray(given)
    if values.dtype.kind not in "iuf" or values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise InputError(field, given, "a vector of finite real numbers")
    return values.astype(np.float64)
