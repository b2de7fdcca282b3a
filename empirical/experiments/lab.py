"""Where experiments run: who trains, where shards go, and who is told how far they are."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from empirical.observe import Measurements, ObservedResult, observe
from empirical.progress import Progress, Silent
from empirical.runners import Runner
from empirical.shard import TrainingConfig
from empirical.store import RunDirectory
from empirical.sweep import Sweep


@dataclass(frozen=True)
class Lab:
    """Runs the experiments of the figures.

    Attributes:
        store: where shards go; nothing is kept when ``None``.
        runner: who trains.
        progress: is told how far the run is.
    """

    store: RunDirectory | None = None
    runner: Runner = field(default_factory=Runner)
    progress: Progress = field(default_factory=Silent)

    def sweep(self, config: TrainingConfig) -> Sweep:
        """A sweep of one configuration.

        Args:
            config: what is trained.

        Returns:
            The sweep, with this lab's store, progress and runner.
        """
        return Sweep(config, self.store, lambda _cells, steps, held: self.progress.advance(steps, held), self.runner)

    def observe(
        self,
        config: TrainingConfig,
        gamma: NDArray[np.float64],
        eta: NDArray[np.float64],
        seed: NDArray[np.int64],
        measurements: Measurements,
    ) -> ObservedResult:
        """Train cells and measure them.

        Args:
            config: what is trained.
            gamma: feature-learning strengths, shape ``(cells,)``.
            eta: learning rates before the width multiplier, same shape.
            seed: seeds, same shape.
            measurements: what is measured, and when.

        Returns:
            Results in the order of the cells given.
        """
        return observe(
            config,
            gamma,
            eta,
            seed,
            measurements,
            store=self.store,
            runner=self.runner,
            on_block=lambda _cells, steps, held: self.progress.advance(steps, held),
        )
