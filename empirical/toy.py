"""The toy's phase portrait in a run directory: columns of the grid are kept as shards, as blocks of networks are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from empirical.progress import Progress
from empirical.store import RunDirectory
from simulate import CellResults, PhasePortrait, phase_portrait


def kept_toy_portrait(
    store: RunDirectory,
    progress: Progress,
    *,
    gamma: NDArray[np.float64],
    eta: NDArray[np.float64],
    seeds: int,
    steps: int,
    **toy: Any,
) -> PhasePortrait:
    """Run a toy's grid, or go on with one.

    Args:
        store: where shards go; its configuration is part of their keys.
        progress: is told how far the run is.
        gamma: grid of γ, ascending.
        eta: grid of η, ascending.
        seeds: number of seeds of the noise, from 0.
        steps: budget T.
        **toy: further arguments of ``simulate.phase_portrait``.

    Returns:
        The portrait.
    """
    per_column = len(eta) * seeds * steps
    progress.plan(len(gamma) * per_column)
    progress.phase(f"{len(gamma) * len(eta) * seeds} toy cells", len(gamma) * per_column)

    def run_block(run: Callable[[], CellResults], columns: NDArray[np.float64]) -> CellResults:
        key = store.config | {"columns": columns.tolist()}
        held = store.read_shard(key)
        cells = run() if held is None else CellResults(**held)
        if held is None:
            store.write_shard(key, cells.fields())
        progress.advance(len(columns) * per_column, held is not None)
        return cells

    return phase_portrait(gamma=gamma, eta=eta, seeds=range(seeds), steps=steps, run_block=run_block, **toy)
