"""Two weights that start apart, f = (ab − a₀b₀)/γ: what flow conserves, which minimum it reaches, how stable that is.

Run: python -m theory.examples.unbalanced_start
"""

import numpy as np
import sympy as sp
from scipy.integrate import solve_ivp

from theory.symbols import gamma

a, b, start_a, start_b = sp.symbols("a b a_0 b_0", positive=True)
ENERGY = ((a * b - start_a * start_b) / gamma - 1) ** 2 / 2
CASES = ((0.1, 1.0, 1.0), (0.1, 3.0, 0.5), (100.0, 3.0, 0.5), (100.0, 8.0, 0.01))  # γ, a₀, b₀


def derive() -> tuple[sp.Expr, sp.Expr]:
    """The rate of change of a² − b² under flow, and eta_crit at the minimum that the flow reaches."""
    rate = sp.simplify(-2 * a * sp.diff(ENERGY, a) + 2 * b * sp.diff(ENERGY, b))
    product = start_a * start_b + gamma  # where the loss vanishes; one of the two curvatures does too, so:
    sharpness = sp.simplify(sp.hessian(ENERGY, (a, b)).trace())  # (a² + b²)/γ²
    # (a² + b²)² = (a² − b²)² + 4(ab)², and a² − b² is what it was at the start
    total = sp.sqrt((start_a**2 - start_b**2) ** 2 + 4 * product**2)
    return rate, 2 / sharpness.subs(a**2, total - b**2)


def velocity(weights: np.ndarray, goal: float) -> np.ndarray:
    """Minus the gradient, times γ²."""
    return (goal - weights.prod()) * weights[::-1]


def flow(weights: list[float], goal: float) -> np.ndarray:
    """Where the flow comes to rest: time counts t/γ², and the rate there is at least twice the goal."""
    ends = (0.0, 40 / goal)
    return solve_ivp(lambda _, at: velocity(at, goal), ends, weights, "DOP853", rtol=1e-12, atol=1e-14).y[:, -1]


def main() -> None:
    """Print what is derived, then check it along computed flows and around the minima that they reach."""
    rate, crit = derive()
    balanced = sp.factor(sp.simplify(crit.subs(start_a, start_b)))
    print(f"d(a^2 - b^2)/dt = {rate}\neta_crit = {crit}\nbalanced: {balanced}")
    for strength, *start in CASES:
        goal = start[0] * start[1] + strength
        edge = float(crit.subs({gamma: strength, start_a: start[0], start_b: start[1]}))
        rest = flow(start, goal)
        kept = rest[0] ** 2 - rest[1] ** 2 - start[0] ** 2 + start[1] ** 2
        below, above = rest * (1 + 1e-9), rest * (1 + 1e-9)
        for _ in range(400):  # gradient descent from beside the minimum, 2 % below the edge and 2 % above it
            below, above = (w + k * edge / strength**2 * velocity(w, goal) for w, k in ((below, 0.98), (above, 1.02)))
        errors = [abs(w.prod() - goal) / goal for w in (below, above)]
        print(f"gamma = {strength:<4g} start {start}: a^2 - b^2 moved by {kept:+.0e}; eta_crit = {edge:.4g},", end=" ")
        print("error {:.0e} | {:.0e}".format(*errors))
        assert abs(kept) < 1e-5, "flow disagrees with the derivation"
        assert errors[0] < 1e-12 < 1e-6 < errors[1], "descent disagrees with the derivation"
    print("checked")


if __name__ == "__main__":
    main()
