"""What a trace of networks costs, against a dense grid of its resolution over six decades of η.

Where the edge is sharp both find the same boundary. At γ = 10 it is not: over a tenth of a decade cells that train and
cells that do not alternate, and a grid shifted by half its spacing moves its own boundary by up to 0.09 decades.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from empirical.shard import TrainingConfig
from empirical.sweep import Sweep
from empirical.trace import NETWORK_TRACE, exact_law
from simulate import find_bracket, trace_boundaries

STEPS, DECADES, RESOLUTION = 400, 6, 0.02


class Meter(Sweep):
    """A sweep that adds up the steps that its cells took."""

    steps = 0

    def run_cells(self, gamma, eta, seed):
        ran = super().run_cells(gamma, eta, seed)
        self.steps += int(ran.steps_run.sum())
        return ran


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_a_trace_of_networks_costs_a_twelfth_of_the_dense_grid():
    config = TrainingConfig(depth=3, width=24, image_size=7, batch_size=32, steps=STEPS)
    gammas, grid, trace = np.array([1e-2, 0.1, 0.3]), Meter(config), Meter(config)

    def span(gamma):
        edge = float(exact_law("eta_crit", gamma, depth=3, steps=STEPS))
        return edge / 1e4, edge * 10 ** (DECADES - 4)

    settings = replace(NETWORK_TRACE, resolution=RESOLUTION)
    points = trace_boundaries(trace.run_cells, gammas, ("eta_crit",), span, settings=settings)["eta_crit"]
    apart = []
    for gamma, eta in zip(points.gamma, points.eta, strict=True):
        line = span(gamma)[0] * 10 ** np.arange(0, DECADES + 1e-9, RESOLUTION)
        cells = grid.run_cells(np.full(len(line), gamma), line, np.zeros(len(line), dtype=np.int64))
        losses = (cells.final_loss, cells.peak_loss, cells.initial_loss)
        below, above = find_bracket("eta_crit", cells.outcome, *losses, noise_free=False)
        apart.append(abs(np.log10(eta / np.sqrt(line[below] * line[above]))))
    print(f"\n{trace.steps / grid.steps:.2%} of the cell-steps; boundaries apart by {np.round(apart, 4)} decades")
    assert len(apart) == len(gammas)
    assert trace.steps <= 0.08 * grid.steps
    assert max(apart) <= RESOLUTION
