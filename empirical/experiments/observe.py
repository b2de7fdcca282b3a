"""Trains cells and measures them on the way; every block is kept as a shard, so that a second call trains nothing.

A measurement is a name of ``measures.MEASURES`` and the steps at which it is taken. Blocks go through the same runners
as those of a sweep; their key holds the measurements too, and the cells of a block are of one seed, because a
measurement is made of all cells of a seed at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from empirical.ensemble import EnsembleResult
from empirical.experiments.measures import MEASURES, Sample
from empirical.networks import Networks
from empirical.runners import Runner
from empirical.shard import Block, TrainingConfig, from_arrays, to_arrays
from empirical.store import RunDirectory
from empirical.sweep import OnBlock
from simulate import CellResults
from theory.errors import InputError, one_of

LARGEST_BLOCK = 16
"""Cells in one block: measurements cost more memory than training."""


@dataclass(frozen=True)
class ObservedResult(EnsembleResult):
    """What became of the cells, and what was measured on them.

    Attributes:
        measured: by name, each ``(cells, steps of the measurement, …)``; NaN once a cell was decided.
    """

    measured: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Measurements:
    """What is measured, when, and on what.

    Attributes:
        steps: by name of ``MEASURES``: the steps, in 0 … T.
        examples: examples of the test set that measurements are made on, the first ones.
        eigenvalues: eigenvalues of a Hessian that are kept.
        curve_steps: steps at which losses are kept; the ensemble's own when empty.

    Raises:
        InputError: an unknown measurement.
    """

    steps: tuple[tuple[str, tuple[int, ...]], ...]
    examples: int = 256
    eigenvalues: int = 20
    curve_steps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, _ in self.steps:
            one_of("measurement", name, tuple(MEASURES))


@dataclass(frozen=True)
class ObservedBlock(Block):
    """Cells that train as one ensemble and are measured.

    Attributes:
        measurements: what is measured.
    """

    measurements: Measurements = field(default_factory=lambda: Measurements(()))

    def key(self) -> dict[str, Any]:
        """Everything that the result depends on."""
        return {"observed": 1} | asdict(self)

    def observer(self) -> Recording:
        """A recording of these measurements."""
        return Recording(self)


class Recording:
    """Measures the networks that it is shown.

    Args:
        block: the cells, and what is measured on them.
    """

    def __init__(self, block: ObservedBlock) -> None:
        what = block.measurements
        self.block, self.plan = block, {name: list(steps) for name, steps in what.steps}
        self.steps = frozenset(step for steps in self.plan.values() for step in steps)
        self._sample = Sample.of(block.config, what.examples, what.eigenvalues)
        self._measured: dict[str, NDArray[np.float64]] = {}

    @property
    def curve_steps(self) -> NDArray[np.int64]:
        """Steps at which losses are kept."""
        from empirical.ensemble import log_spaced_steps

        given = self.block.measurements.curve_steps
        return np.array(given, dtype=np.int64) if given else log_spaced_steps(self.block.config.steps)

    def __call__(self, step: int, networks: Networks) -> None:
        """Measure the networks of one seed.

        Args:
            step: t.
            networks: some of the cells.
        """
        for name, steps in self.plan.items():
            if step not in steps:
                continue
            values = np.asarray(MEASURES[name](networks, self._sample), dtype=np.float64)
            if name not in self._measured:
                shape = (len(self.block.gamma), len(steps), *values.shape[1:])
                self._measured[name] = np.full(shape, np.nan)
            self._measured[name][networks.cells, steps.index(step)] = values

    def result(self, trained: EnsembleResult) -> ObservedResult:
        """Put what was measured beside what became of the cells.

        Args:
            trained: the ensemble's result.

        Returns:
            Both.
        """
        plain = {f.name: getattr(trained, f.name) for f in fields(EnsembleResult)}
        return ObservedResult(**plain, measured=self._measured)


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
    seed = cells[2]
    out: dict[ObservedBlock, NDArray[np.intp]] = {}
    for one in np.unique(seed):
        chosen = np.nonzero(seed == one)[0]
        for part in np.array_split(chosen, -(-len(chosen) // LARGEST_BLOCK)):
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
    results: dict[Block, ObservedResult] = {}
    missing: list[Block] = []
    for block in places:
        arrays = None if store is None else store.read_shard(block.key())
        if arrays is None:
            missing.append(block)
        else:
            results[block] = observed_from_arrays(arrays)
            on_block(len(block.gamma), len(block.gamma) * config.steps, True)
    # a block that does not fit in memory comes back as its halves: they are not kept, and joined below
    halves: list[tuple[Block, ObservedResult]] = []
    for done, trained in (runner or Runner()).run(missing):
        assert isinstance(trained, ObservedResult)
        on_block(len(done.gamma), len(done.gamma) * config.steps, False)
        if done not in places:
            halves.append((done, trained))
            continue
        results[done] = trained
        if store is not None:
            store.write_shard(done.key(), observed_to_arrays(trained))
    pieces = [(places[block], result) for block, result in results.items() if isinstance(block, ObservedBlock)]
    pieces += [(_positions(cells, block), result) for block, result in halves]
    return _join(pieces)


def _positions(cells: tuple[NDArray, NDArray, NDArray], block: Block) -> NDArray[np.intp]:
    """Where the cells of a half stand."""
    table = {key: i for i, key in enumerate(zip(*(values.tolist() for values in cells), strict=True))}
    return np.array([table[key] for key in zip(block.gamma, block.eta, block.seed, strict=True)], dtype=np.intp)


def _join(pieces: list[tuple[NDArray[np.intp], ObservedResult]]) -> ObservedResult:
    """Results of several blocks, in the order of the cells; a measurement that a block never made is NaN there."""
    back = np.argsort(np.concatenate([places for places, _ in pieces]), kind="stable")
    parts = [result for _, result in pieces]
    cells = {
        name: np.concatenate([part.cells.fields()[name] for part in parts])[back] for name in parts[0].cells.fields()
    }
    losses, accuracies = (
        np.concatenate([getattr(p, name) for p in parts])[back] for name in ("loss_curve", "accuracy_curve")
    )
    measured = {}
    for name in {name for part in parts for name in part.measured}:
        shape = next(part.measured[name].shape[1:] for part in parts if name in part.measured)
        missing = (np.full((len(part.cells.outcome), *shape), np.nan) for part in parts)
        filled = [part.measured.get(name, empty) for part, empty in zip(parts, missing, strict=True)]
        measured[name] = np.concatenate(filled)[back]
    return ObservedResult(CellResults(**cells), parts[0].curve_steps, losses, accuracies, measured)
