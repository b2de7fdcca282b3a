"""Seconds for a million points of each numeric boundary, on one core."""

from __future__ import annotations

import numpy as np
from common import row, seconds, spread

from theory import ToyModel

FORMS: tuple[tuple[str, str, str, dict[str, float]], ...] = (
    ("mse", "gd", "eta_crit", {}),
    ("mse", "gd", "eta_min", {"steps": 1000}),
    ("cross-entropy", "gd", "eta_crit", {}),
    ("cross-entropy", "gd", "eta_min", {"steps": 1000}),
    ("cross-entropy", "gd", "eta_max", {}),
    ("mse", "momentum", "eta_crit", {"beta": 0.9}),
    ("mse", "sign", "eta_min", {"steps": 1000}),
    ("mse", "sign", "eta_max", {"delta": 0.01}),
)


def table(rounds: int = 5, points: int = 1_000_000) -> str:
    gamma = np.geomspace(1e-8, 1e8, points)
    lines = [row("loss", "optimizer", "boundary", "L = 3, seconds", "L = 17, seconds"), row(*["---"] * 5)]
    for loss, optimizer, name, arguments in FORMS:
        boundary = ToyModel(loss=loss, optimizer=optimizer).boundary(name)
        cells = []
        for depth in (3, 17):

            def run(depth: int = depth) -> None:
                boundary.numeric(gamma=gamma, depth=depth, **arguments)  # noqa: B023

            run()  # tables and expressions are built once
            cells.append(spread([seconds(run) for _ in range(rounds)], 3))
        lines.append(row(loss, optimizer, name, *cells))
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
