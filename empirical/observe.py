"""Trains cells and measures them on the way; every block is kept as a shard, so that a second call trains nothing.

A measurement is a name of ``measure.catalogue.MEASURES`` and the steps at which it is taken. Blocks go through the same
runners as those of a sweep; their key holds the measurements too, and the cells of a block are of one seed, because a
measurement is made of all cells of a seed at once. Each block is watched by a ``Recorder``, where its process is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from empirical.ensemble import EnsembleResult, log_spaced_steps
from empirical.measure.catalogue import MEASURES, SAMPLES, Sample
from empirical.measure.record import Measurement, Recorder
from empirical.networks import Networks
from empirical.runners import Runner
from empirical.shard import Block, TrainingConfig, from_arrays, to_arrays
from empirical.store import RunDirectory
from empirical.sweep import OnBlock, run_blocks
from theory.errors import InputError, one_of

ON_A_GPU = 4
"""A block is so many times larger on other devices than a CPU."""

LARGEST_BLOCK = 16
"""Cells in one block: measurements cost more memory than training."""


def measured_steps(steps: int, points: int) -> tuple[int, ...]:
    """Log-spaced steps from the start to after the last update.

    Args:
        steps: budget T.
        points: how many to aim for.

    Returns:
        Ascending, 0 and T among them.
    """
    return (*log_spaced_steps(steps, points)[:-1].tolist(), steps)  # its own last one is T − 1


@dataclass(frozen=True)
class ObservedResult(EnsembleResult):
    """What became of the cells, and what was measured on them.

    Attributes:
        measured: by name, each ``(cells, steps of the measurement, …)``; NaN once a cell was decided; absent
            where no cell was shown.
    """

    measured: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Measurements:
    """What is measured, when, and on what.

    Attributes:
        steps: by name of ``measure.catalogue.MEASURES``: the steps, in 0 … T.
        examples: how many examples measurements are made on.
        sample: which ones: ``test`` or ``fresh``, as in ``measure.catalogue.SAMPLES``.
        eigenvalues: eigenvalues of a Hessian that are kept.
        curve_steps: steps at which losses are kept; the ensemble's own when empty.

    Raises:
        InputError: an unknown measurement or sample.
    """

    steps: tuple[tuple[str, tuple[int, ...]], ...]
    examples: int = 256
    sample: str = "test"
    eigenvalues: int = 20
    curve_steps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, _ in self.steps:
            one_of("measurement", name, tuple(MEASURES))
        one_of("sample", self.sample, SAMPLES)


@dataclass(frozen=True)
class ObservedBlock(Block):
    """Cells that train as one ensemble and are measured.

    Attributes:
        measurements: what is measured.
    """

    measurements: Measurements = field(default_factory=lambda: Measurements(()))

    def key(self) -> dict[str, Any]:
        """Everything that the result depends on."""
        return super().key() | {"observed": 1, "measurements": asdict(self.measurements)}

    def observer(self) -> Recording:
        """A recording of these measurements."""
        return Recording(self)


class Recording:
    """Measures the networks of a block.

    Args:
        block: the cells, all of one seed, and what is measured on them.
    """

    def __init__(self, block: ObservedBlock) -> None:
        what = block.measurements
        self.block, self.plan = block, dict(what.steps)
        self.steps = frozenset(step for steps in self.plan.values() for step in steps)
        sample = Sample.of(block.config, block.seed[0], what.examples, what.eigenvalues, what.sample)

        def made_at(name: str, steps: tuple[int, ...]) -> Measurement:
            return Measurement(lambda networks: MEASURES[name](networks, sample), steps=frozenset(steps))

        made = {name: made_at(name, steps) for name, steps in self.plan.items()}
        self._recorder = Recorder(made) if made else None  # without a measurement: losses alone

    @property
    def curve_steps(self) -> NDArray[np.int64]:
        """Steps at which losses are kept."""
        given = self.block.measurements.curve_steps
        return np.array(given, dtype=np.int64) if given else log_spaced_steps(self.block.config.steps)

    def __call__(self, step: int, networks: Networks) -> None:
        """Measure the networks of one seed.

        Args:
            step: t.
            networks: some of the cells.
        """
        if self._recorder is not None:
            self._recorder(step, networks)

    def result(self, trained: EnsembleResult) -> ObservedResult:
        """Put what was measured beside what became of the cells.

        Args:
            trained: the ensemble's result.

        Returns:
            Both.
        """
        plain = {f.name: getattr(trained, f.name) for f in fields(EnsembleResult)}
        cells = len(self.block.gamma)
        recorder = self._recorder
        made = {} if recorder is None else {n: recorder.values(n, cells, steps) for n, steps in self.plan.items()}
        return ObservedResult(**plain, measured={name: rows for name, rows in made.items() if rows is not None})


_PREFIX = "measured."


def observed_to_arrays(result: ObservedResult) -> dict[str, NDArray]:
    """Flatten a result into the arrays of a shard.

    Args:
        result: of one block.

    Returns:
        Arrays by name.
    """
    return to_arrays(result) | {_PREFIX + name: values for name, values in result.measured.items()}


def observed_from_arrays(arrays: Mapping[str, NDArray]) -> ObservedResult:
    """Build a result from the arrays of a shard.

    Args:
        arrays: as ``observed_to_arrays`` gives them.

    Returns:
        The result.
    """
    plain = from_arrays({name: values for name, values in arrays.items() if not name.startswith(_PREFIX)})
    measured = {name.removeprefix(_PREFIX): values for name, values in arrays.items() if name.startswith(_PREFIX)}
    return ObservedResult(**{f.name: getattr(plain, f.name) for f in fields(EnsembleResult)}, measured=measured)


def _blocks(
    config: TrainingConfig, cells: tuple[NDArray, NDArray, NDArray], what: Measurements
) -> dict[ObservedBlock, NDArray[np.intp]]:
    """Blocks of one seed, and where their cells stand."""
    seed, most = cells[2], LARGEST_BLOCK * (1 if config.device == "cpu" else ON_A_GPU)
    out: dict[ObservedBlock, NDArray[np.intp]] = {}
    for one in np.unique(seed):
        chosen = np.nonzero(seed == one)[0]
        for part in np.array_split(chosen, -(-len(chosen) // most)):
            gamma, eta, seeds = (tuple(values[part].tolist()) for values in cells)
            out[ObservedBlock(config, gamma, eta, seeds, measurements=what)] = part
    return out


def observe(
    config: TrainingConfig,
    gamma: ArrayLike,
    eta: ArrayLike,
    seed: ArrayLike,
    measurements: Measurements,
    *,
    store: RunDirectory | None = None,
    runner: Runner | None = None,
    on_block: OnBlock = lambda _cells, _steps, _held: None,
) -> ObservedResult:
    """Train cells and measure them.

    Args:
        config: what is trained.
        gamma: feature-learning strengths, shape ``(cells,)``.
        eta: learning rates before the width multiplier, same shape.
        seed: seeds, same shape.
        measurements: what is measured, and when.
        store: where shards go; nothing is kept when ``None``.
        runner: who trains; this process when ``None``.
        on_block: called after each block with (cells, cell-steps budgeted, whether it was read back).

    Returns:
        Results in the order of the cells given.

    Raises:
        InputError: no cells.
    """
    cells = (np.asarray(gamma, float).ravel(), np.asarray(eta, float).ravel(), np.asarray(seed, dtype=np.int64).ravel())
    if len(cells[0]) == 0:
        raise InputError("cells", 0, "at least one")
    places = _blocks(config, cells, measurements)
    return observed_from_arrays(run_blocks(places, observed_to_arrays, store, runner or Runner(), on_block))
