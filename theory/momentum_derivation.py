"""The derivation for heavy-ball momentum: what changes against gradient descent, with checks that iterate it."""

from __future__ import annotations

from functools import partial

import mpmath
import numpy as np
import sympy as sp

from theory.derivation import Derivation, Step
from theory.general_checks import close, value
from theory.general_derivation import loss_steps, scaling_step
from theory.losses import Loss
from theory.momentum import boundary
from theory.optimizers import MOMENTUM
from theory.symbols import beta, depth, eta, gamma, sharpness

_BETAS = (0.3, 0.9)


def derivation(loss: Loss) -> Derivation:
    """The derivation, unrun.

    Args:
        loss: a convex loss with its minimum at 1.

    Returns:
        All steps, in reading order.
    """
    crit, low = boundary(loss, "eta_crit"), boundary(loss, "eta_min")
    own = [
        Step(
            "Characteristic polynomial", "Along an eigenvector of curvature λ its roots m multiply a deviation.",
            r"\chi(m)", MOMENTUM.characteristic, _is_characteristic,
            "determinant of the 2×2 matrix of one step of (deviation, velocity)",
        ),
        Step(
            "Stability edge", "The roots stay inside the unit circle below this η.",
            r"\eta", MOMENTUM.critical_eta, _is_edge, "spectral radius of the 2×2 matrix just below and above, five β",
        ),
        Step(
            "eta_crit", "The edge at the sharpness of the minimum: 1 + β times that of gradient descent.",
            r"\eta_{\mathrm{crit}}", crit.expr, partial(_iterates, loss),
            "the map of L weights iterated from near the minimum, 0.2 % below (returns) and above (leaves), L = 1…5",
        ),
        Step(
            "eta_min", "Slow motion has velocity g/(1 − β): the flow runs at η/(1 − β). Relative error O(1/((1−β)T)).",
            r"\eta_{\mathrm{min}}", low.expr, partial(_arrives, loss),
            "the map iterated at this η reaches the level at step T = 20000 to 1 part in 500, L = 2, 3, β = 0.3, 0.9",
        ),
    ]  # fmt: skip
    return Derivation(
        f"Scalar deep linear model, {loss.name}, heavy-ball momentum", (*loss_steps(loss), *own, scaling_step())
    )


def _is_characteristic(claimed: sp.Expr) -> bool:
    # (x, v) -> (x - η(βv + λx), βv + λx)
    one_step = sp.Matrix([[1 - eta * sharpness, -eta * beta], [sharpness, beta]])
    m = MOMENTUM.multiplier
    return bool(sp.expand((m * sp.eye(2) - one_step).det() - claimed) == 0)


def _is_edge(claimed: sp.Expr) -> bool:
    for friction in (0.0, 0.2, 0.5, 0.9, 0.99):
        edge = float(claimed.subs({sharpness: 3, beta: friction}))
        radii = []
        for rate in (edge * 0.999, edge * 1.001):
            one_step = np.array([[1 - 3 * rate, -rate * friction], [3.0, friction]])
            radii.append(np.abs(np.linalg.eigvals(one_step)).max())
        if not radii[0] < 1 < radii[1]:
            return False
    return True


def run(loss: Loss, *, layers: int, gamma: float, eta: float, beta: float, weight: float, count: int) -> list[float]:
    """Iterate the heavy ball on the balanced line in float64.

    Args:
        loss: the loss.
        layers: L.
        gamma: γ.
        eta: η.
        beta: β.
        weight: initial weight.
        count: number of steps.

    Returns:
        The outputs f at steps 0…count; shorter when an iterate leaves |w| < 10⁶.
    """
    slope = sp.lambdify(sp.Symbol("f", real=True), loss.slope, "math")
    speed, outputs = 0.0, [(weight**layers - 1.0) / gamma]
    for _ in range(count):
        speed = beta * speed + weight ** (layers - 1) * slope(outputs[-1]) / gamma
        weight -= eta * speed
        if not abs(weight) < 1e6:
            break
        outputs.append((weight**layers - 1.0) / gamma)
    return outputs


def _iterates(loss: Loss, claimed: sp.Expr) -> bool:
    for layers in range(1, 6):
        friction, strength = _BETAS[layers % 2], (0.5, 3.0, 40.0)[layers % 3]
        edge = float(claimed.subs(depth, layers).subs({gamma: strength, beta: friction}).evalf())
        end = (1.0 + strength) ** (1.0 / layers)
        swings = []
        for factor in (0.998, 1.002):
            count = 4000
            outputs = run(
                loss,
                layers=layers,
                gamma=strength,
                eta=edge * factor,
                beta=friction,
                weight=end * (1 + 1e-9),
                count=count,
            )
            swings.append(abs(outputs[-1] - 1.0) / abs(outputs[0] - 1.0))
        if not swings[0] < 0.9 or not swings[1] > 1.1:
            return False
    return True


def _arrives(loss: Loss, claimed: sp.Expr) -> bool:
    from theory.losses import exact_output

    goal, budget = float(exact_output(loss, 0.9)), 20_000
    for layers, friction in ((2, 0.3), (3, 0.9)):
        placed = claimed.subs(beta, sp.Rational(str(friction)))
        with mpmath.workdps(20):
            rate = float(value(placed, strength=sp.Integer(3), layers=layers, steps=budget, level=sp.Rational(9, 10)))
        outputs = run(
            loss, layers=layers, gamma=3.0, eta=rate, beta=friction, weight=1.0, count=int(budget * 1.01)
        )  # fmt: skip
        arrival = next((k for k, output in enumerate(outputs) if output >= goal), 0)
        if not close(mpmath.mpf(arrival), mpmath.mpf(budget), 1 / 500):
            return False
    return True
