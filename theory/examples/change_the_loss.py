"""Another loss: give any convex ℓ(f) with its minimum at f > 0, get its boundaries, and check one by running the map.

Change the line marked HERE and run again: python -m theory.examples.change_the_loss
"""

import numpy as np
import sympy as sp

from theory import ToyModel
from theory.symbols import depth, gamma

f = sp.Symbol("f", real=True)
LOSS = sp.log(sp.cosh(3 * (f - 1)))  # HERE: log-cosh, quadratic near its minimum f = 1 and linear far from it
GAMMAS, DEPTH = (0.1, 1.0, 30.0), 3


def distance_kept(eta: float, strength: float) -> float:
    """Last over first distance from the minimum, in 400 steps of gradient descent on the L weights."""
    slope = sp.lambdify(f, sp.diff(LOSS, f))
    target = float(sp.nsolve(sp.diff(LOSS, f), f, 1))
    at_rest = (1 + strength * target) ** (1 / DEPTH)
    weights = np.full(DEPTH, at_rest * (1 + 1e-9))
    first = weights[0] - at_rest
    for _ in range(400):
        product = weights.prod()
        weights = weights - eta / strength * (product / weights) * slope((product - 1) / strength)
    return float(abs(weights[0] - at_rest) / first)


def main() -> None:
    """Derive the boundary, then see that the minimum is stable below it and not above it."""
    crit, reference = ToyModel(loss=LOSS).boundary("eta_crit"), ToyModel(loss="mse").boundary("eta_crit")
    print(f"loss      {LOSS}")
    print(f"eta_crit  {crit.expr}")
    print(f"          {sp.simplify(crit.expr / reference.expr)} times that of MSE")
    for regime in ("lazy", "rich"):
        limit = crit.limit(regime)
        print(f"{regime:9} ({limit.coefficient}) gamma^({limit.exponent})")
    for strength in GAMMAS:
        edge = float(crit.expr.subs({gamma: strength, depth: DEPTH}))
        below, above = (distance_kept(factor * edge, strength) for factor in (0.98, 1.02))
        print(f"gamma = {strength:<5g} eta_crit = {edge:.4g}: distance x {below:.1e} below it, x {above:.1e} above it")
        assert below < 1e-2 < 1e2 < above, "the map does not turn unstable where the derivation says"
    print("checked")


if __name__ == "__main__":
    main()
