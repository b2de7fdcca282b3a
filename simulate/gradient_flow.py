"""Gradient flow of the scalar deep linear model on the balanced line, by SciPy.

With u = w^L and f = (u − 1)/γ the flow on L separate weights is, for MSE, df/dt = (ηL/γ²) u^{2−2/L} (1 − f). It is
solved in

    y = ln(1 + γ f) / ln(1 + γ),     dy/dt = (ηL/γ) u^{1−2/L} (1 − f) / ln(1 + γ),

which runs from 0 to 1 at every γ: it is f itself when γ ≪ 1, and the logarithm of the weights when γ ≫ 1, so that
neither 1 − f nor the plateau's w − 1 is lost to cancellation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from theory.errors import one_of, positive_integer, positive_number


@dataclass(frozen=True)
class Trajectory:
    """A solved gradient flow; all arrays have one entry a time.

    Attributes:
        t: time in units of steps (not the rescaled τ = ηt/γ).
        weights: the weight w that all L layers share.
        output: f.
        loss: (f − 1)²/2.
        sharpness: largest eigenvalue of the loss Hessian with respect to the L weights.
        success: whether the solver reached ``t_end``; otherwise the arrays end where it stopped.
        message: what the solver says.
    """

    t: NDArray[np.float64]
    weights: NDArray[np.float64]
    output: NDArray[np.float64]
    loss: NDArray[np.float64]
    sharpness: NDArray[np.float64]
    success: bool
    message: str


def gradient_flow(
    *,
    loss: str = "mse",
    depth: int,
    gamma: float,
    eta: float = 1.0,
    t_end: float,
    points: int = 500,
    rtol: float = 1e-10,
) -> Trajectory:
    """Solve the flow from w = 1.

    Args:
        loss: ``"mse"``.
        depth: number of weights L.
        gamma: feature-learning strength.
        eta: learning rate on each of the L separate weights.
        t_end: time at which to stop, in units of steps (t, not τ).
        points: number of evenly spaced times, 0 and ``t_end`` included.
        rtol: relative tolerance of the solver.

    Returns:
        The trajectory. A solver that fails is reported in ``success`` and ``message``, with the part that was solved.

    Raises:
        InputError: γ, η, ``t_end`` or ``rtol`` not positive, L below 1, fewer than 2 points, an unknown loss.
    """
    one_of("loss", loss, ("mse",))
    layers = positive_integer("depth", depth)
    strength, rate = positive_number("gamma", gamma), positive_number("eta", eta)
    end = positive_number("t_end", t_end)
    count = positive_integer("points", points, least=2)
    scale = np.log1p(strength)
    speed = rate * layers / (strength * scale)

    def velocity(_t: float, y: NDArray[np.float64]) -> NDArray[np.float64]:
        log_u = scale * y
        return np.asarray(speed * np.exp((1 - 2 / layers) * log_u) * (1 - np.expm1(log_u) / strength))

    solution = solve_ivp(
        velocity,
        (0.0, end),
        np.zeros(1),
        method="LSODA",
        t_eval=np.linspace(0.0, end, count),
        rtol=positive_number("rtol", rtol),
        atol=1e-13,
        first_step=min(end, 1e-3 / speed),  # a plateau that lasts must not let the first step jump over the drop
    )
    log_u = scale * np.clip(solution.y[0], 0.0, 1.0)
    output = np.expm1(log_u) / strength
    residual = output - 1
    weights = np.exp(log_u / layers)
    # along (1,…,1) and across it: Gauss–Newton term L w^{2L−2}/γ² plus (L−1) or −1 times f'' terms
    across = -residual * np.exp((1 - 2 / layers) * log_u) / strength
    along = layers * np.exp((2 - 2 / layers) * log_u) / strength**2 - (layers - 1) * across
    sharpness = along if layers == 1 else np.maximum(along, across)
    return Trajectory(
        t=solution.t,
        weights=weights,
        output=output,
        loss=residual**2 / 2,
        sharpness=sharpness,
        success=bool(solution.success),
        message=str(solution.message),
    )
