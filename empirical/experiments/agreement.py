"""Agreement of outputs along training: between networks of different γ, from one start, at moments that correspond.

Moments correspond at equal step t; or at equal loss, the first time that a run reaches it. Between the recorded steps
outputs are taken on straight lines.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from empirical.experiments.analysis import RICH_FROM
from empirical.measure.agreement import output_agreement

LEVELS = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Shares of the initial loss at which networks are compared."""


def outputs(landscape: xr.Dataset) -> NDArray[np.float64]:
    """F = (F − F₀)/γ on the sample along training.

    Args:
        landscape: as ``run_landscape`` gives it.

    Returns:
        Shape ``(gamma, seed, step, examples, classes)``.
    """
    return landscape["raw"].values / landscape["gamma"].values.reshape(-1, 1, 1, 1, 1)


def agreement_with(landscape: xr.Dataset, reference: int) -> NDArray[np.float64]:
    """R² of every γ with a reference γ of the same seed, at equal step.

    Args:
        landscape: as ``run_landscape`` gives it.
        reference: position of the reference γ.

    Returns:
        Shape ``(gamma, seed, step)``; NaN at the start, where every f is zero.
    """
    f = outputs(landscape)
    return np.asarray(output_agreement(f[reference][None], f).r2)


def at_level(loss: NDArray[np.float64], f: NDArray[np.float64], level: float) -> NDArray[np.float64] | None:
    """Outputs of one run where its loss first reaches a share of its start.

    Args:
        loss: along training, shape ``(steps,)``.
        f: outputs, shape ``(steps, examples, classes)``.
        level: share of the initial loss, below 1.

    Returns:
        Shape ``(examples, classes)``; ``None`` where the run never gets there.
    """
    share = loss / loss[0]
    reached = np.nonzero(share <= level)[0]
    if len(reached) == 0:
        return None
    after = int(reached[0])
    part = (share[after - 1] - level) / (share[after - 1] - share[after])
    return (1 - part) * f[after - 1] + part * f[after]


def agreement_at_loss(
    landscape: xr.Dataset, level: float, least: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """R² between all pairs of γ at equal loss, mean over the seeds that all get there.

    Args:
        landscape: as ``run_landscape`` gives it.
        level: share of the initial loss.
        least: smallest γ that counts.

    Returns:
        The γ that reach the level with some seed, and R² of their pairs, shape ``(gamma, gamma)``; NaN for pairs that
        no seed reaches together.
    """
    kept = landscape.isel(gamma=np.nonzero(landscape["gamma"].values >= least)[0])
    f, loss = outputs(kept), kept["loss"].values
    found = [[at_level(loss[g, s], f[g, s], level) for s in range(f.shape[1])] for g in range(len(f))]
    there = [g for g, row in enumerate(found) if any(one is not None for one in row)]
    matrix = np.full((len(there), len(there)), np.nan)
    for i, a in enumerate(there):
        for j, b in enumerate(there):
            pairs = [(p, q) for p, q in zip(found[a], found[b], strict=True) if p is not None and q is not None]
            if pairs:
                matrix[i, j] = np.mean([float(output_agreement(p, q).r2) for p, q in pairs])
    return kept["gamma"].values[there], matrix


def mean_of_pairs(matrix: NDArray[np.float64]) -> float:
    """Mean over pairs of different γ.

    Args:
        matrix: of all pairs, shape ``(gamma, gamma)``.

    Returns:
        The mean of what is known; NaN without a pair.
    """
    off = matrix[~np.eye(len(matrix), dtype=bool)]
    known = off[np.isfinite(off)]
    return float(known.mean()) if len(known) else float("nan")


def agreement_by_level(landscape: xr.Dataset, least: float = RICH_FROM) -> dict[float, float]:
    """Mean R² between all pairs of large γ at equal loss, for every level that two or more reach.

    Args:
        landscape: as ``run_landscape`` gives it.
        least: smallest γ that counts.

    Returns:
        By level.
    """
    found = {level: mean_of_pairs(agreement_at_loss(landscape, level, least)[1]) for level in LEVELS}
    return {level: value for level, value in found.items() if np.isfinite(value)}
