"""Gradient flow on the output of a network of separate weights, for checks: complex steps, and Runge and Kutta's.

On any loss of one example gradient flow moves weights along ∇F; in ln F the path is d θ/d ln F = F ∇F/|∇F|².
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from theory.quadrature import FloatArray

Output = Callable[[FloatArray], complex]
"""F of weights, real or complex."""

STEP = 1e-30


def slopes(output: Output, theta: FloatArray) -> FloatArray:
    """∇F by complex steps, to rounding.

    Args:
        output: F, analytic in θ.
        theta: weights θ, shape ``(n,)``.

    Returns:
        Shape ``(n,)``.
    """
    return np.array([output(theta + 1j * STEP * unit).imag / STEP for unit in np.eye(len(theta))])


def ascend(output: Output, theta: FloatArray, logs: float) -> FloatArray:
    """Follow the path until ln F has grown by ``logs``.

    Args:
        output: F, positive along the path.
        theta: where it starts, shape ``(n,)``.
        logs: of either sign; steps are of 1/100 or less.

    Returns:
        θ there.
    """

    def pace(at: FloatArray) -> FloatArray:
        gradient = slopes(output, at)
        return gradient * output(at).real / float(gradient @ gradient)

    count = max(1, int(np.ceil(abs(logs) * 100)))
    h = logs / count
    for _ in range(count):
        k1 = pace(theta)
        k2 = pace(theta + h / 2 * k1)
        k3 = pace(theta + h / 2 * k2)
        theta = theta + h / 6 * (k1 + 2 * k2 + 2 * k3 + pace(theta + h * k3))
    return theta
