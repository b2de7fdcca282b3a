"""Weight decay: one term more in the loss of two weights, E = (f − 1)²/2 + (α/2)(a² + b²), f = (ab − 1)/γ.

SymPy finds the new minimiser and both curvatures there; gradient descent on (a, b) then confirms the stability edge.
Run: python -m theory.examples.weight_decay
"""

import numpy as np
import sympy as sp

from theory.symbols import gamma

a, b, alpha, w, square = sp.symbols("a b alpha w W", positive=True)
ENERGY = ((a * b - 1) / gamma - 1) ** 2 / 2 + alpha / 2 * (a**2 + b**2)
CASES = ((0.1, 0.5), (3.0, 0.02), (100.0, 0.002), (100.0, 0.008))  # γ, α


def derive() -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """The balanced w*², and the curvature there along (1, 1) and across it, for symbolic γ and α."""
    per_weight = sp.expand(sp.diff(ENERGY, a).subs({a: w, b: w}) / w)
    (squared,) = sp.solve(per_weight.subs(w**2, square), square)
    hessian = sp.hessian(ENERGY, (a, b)).subs({a: w, b: w})
    along, across = (sp.expand(hessian[0, 0] + sign * hessian[0, 1]).subs(w, sp.sqrt(squared)) for sign in (1, -1))
    return sp.simplify(squared), sp.simplify(along), sp.simplify(across)


def growth(eta: float, strength: float, decay: float, at_rest: float) -> float:
    """Factor by which the distance from the minimum changes in 400 steps of gradient descent."""
    gradient = sp.lambdify((a, b), [sp.diff(ENERGY, x).subs({gamma: strength, alpha: decay}) for x in (a, b)])
    weights = first = at_rest * np.array([1 + 2e-9, 1 - 1e-9])  # neither along (1, 1) nor across it
    for _ in range(400):
        weights = weights - eta * np.array(gradient(*weights))
    return float(np.linalg.norm(weights - at_rest) / np.linalg.norm(first - at_rest))


def main() -> None:
    """Print what is derived, then check it."""
    squared, along, across = derive()
    print(f"minimiser   w*^2 = {squared}   (zero once alpha > (1 + gamma)/gamma^2)")
    print(f"curvature   along {along}, across {across}")
    print(f"eta_crit    min({sp.simplify(2 / along)}, {sp.simplify(2 / across)})")
    for strength, decay in CASES:
        rest, *curvatures = (float(x.subs({gamma: strength, alpha: decay})) for x in (squared, along, across))
        edge = 2 / max(curvatures)
        below, above = (growth(factor * edge, strength, decay, rest**0.5) for factor in (0.98, 1.02))
        print(
            f"gamma = {strength:<4g} alpha = {decay:<5g} eta_crit = {edge:.4g}: distance x {below:.1e}, x {above:.1e}"
        )
        assert below < 1 < 1e2 < above, "gradient descent disagrees with the derivation"
    print("checked")


if __name__ == "__main__":
    main()
