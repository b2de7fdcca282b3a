"""Traced boundaries of networks as the tables that users read: points, and fits on the windows that theory allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from empirical.law import law_depth
from empirical.shard import TrainingConfig
from empirical.trace import EXPONENT_COLUMNS, boundary_rows, default_window, exponent_row, fit_boundary, law_of
from simulate import BoundaryPoints
from theory.errors import InputError


def trace_tables(
    training: TrainingConfig, traced: dict[str, BoundaryPoints], gamma: NDArray[np.float64]
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Make the tables of a trace.

    Args:
        training: what was trained.
        traced: points by boundary.
        gamma: where they were traced, ascending.

    Returns:
        ``boundaries.csv``, ``exponents.csv``, and for each regime and boundary that has no window a line that says why.
    """
    rows: list[dict[str, Any]] = []
    law, ends = law_of(training), (float(gamma[0]), float(gamma[-1]))
    identity = training.identity()
    who = identity | {"predicted_by": law_depth(training)[1]}
    refused: set[str] = set()
    for regime in ("lazy", "rich"):
        for name, points in traced.items():
            try:
                window = default_window(regime=regime, gamma_range=ends, boundary=name, **law)
            except InputError as error:
                refused.add(f"no {regime} fit: {error}")
                continue
            if len(points):
                rows.append(exponent_row(fit_boundary(points, window, **law), name, regime, **who))
    table = pd.concat([boundary_rows(points, training.steps, **identity) for points in traced.values()])
    return table, pd.DataFrame(rows, columns=EXPONENT_COLUMNS), sorted(refused)
