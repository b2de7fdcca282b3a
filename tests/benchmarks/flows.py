"""Milliseconds and accuracy of one balanced trajectory, by the closed form and by the solver, on one core."""

from __future__ import annotations

import mpmath
import numpy as np
from common import alternate, row, seconds, spread

from simulate import gradient_flow

DEPTHS, STRENGTHS, METHODS = (2, 3, 6, 16), (1e-6, 1.0, 1e4, 1e8), ("auto", "ode")


@mpmath.workdps(40)
def exact_tau(f: mpmath.mpf, gamma: float, depth: int) -> mpmath.mpf:
    """τ at which the balanced MSE flow reaches f, by the hypergeometric function."""
    g = mpmath.mpf(gamma)
    if depth == 2:
        return g / (2 * (1 + g)) * mpmath.log((1 + g * f) / (1 - f))
    power = mpmath.mpf(2) / depth - 1

    def primitive(v: mpmath.mpf) -> mpmath.mpf:
        return v**power / (power * (1 + g)) * mpmath.hyp2f1(1, power, power + 1, v / (1 + g))

    return g / depth * (primitive(1 + g * f) - primitive(1))


def worst_error(depth: int, gamma: float, method: str) -> float:
    """Largest relative error of u at outputs on the plateau, through the drop, and beside the minimum."""
    with mpmath.workdps(40):
        outputs = [mpmath.expm1(mpmath.mpf(k) / 9 * mpmath.log1p(gamma)) / gamma for k in range(1, 9)]
        outputs += [mpmath.mpf(1) / 2, mpmath.mpf("0.999")]
        times = np.array([float(exact_tau(f, gamma, depth) * gamma) for f in outputs])
        order = np.argsort(times)
        path = gradient_flow(depth=depth, gamma=gamma, times=times[order], method=method)
        exact = np.array([float(1 + gamma * outputs[i]) for i in order])
        return float(np.max(np.abs(path.weights**depth / exact - 1)))


def table(rounds: int = 7) -> str:
    lines = [row("L", "γ", *(f"{m}: ms, 500 points | worst error of u" for m in METHODS)), row(*["---"] * 6)]
    for depth in DEPTHS:
        for gamma in STRENGTHS:
            end = 1.5 * float(exact_tau(mpmath.mpf("0.9"), gamma, depth))
            runs = {
                m: lambda m=m: 1e3 * seconds(
                    lambda: gradient_flow(depth=depth, gamma=gamma, tau_end=end, points=500, method=m)  # noqa: B023
                )
                for m in METHODS
            }  # fmt: skip
            for run in runs.values():
                run()
            taken = alternate(runs, rounds)
            cells = [cell for m in METHODS for cell in (spread(taken[m], 1), f"{worst_error(depth, gamma, m):.0e}")]
            lines.append(row(depth, f"{gamma:.0e}", *cells))
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
