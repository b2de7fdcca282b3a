"""Runs any set of cells (γ, η, seed) of one training configuration, block by block, each block kept as a shard.

Dense grids and traces are both lists of cells; this file is where a list becomes results.

A block that did not fit in memory was trained as its halves, or theirs. Each of them is a block like any other, kept
as a shard under its own key; a block without a shard is therefore looked for as its halves before it is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from empirical.ensemble import EnsembleResult
from empirical.law import law_depth
from empirical.runners import Runner
from empirical.shard import Block, TrainingConfig, from_arrays, to_arrays
from empirical.store import RunDirectory
from simulate import CellResults, PhasePortrait
from theory.errors import InputError

LARGEST_BLOCK = 32
"""Cells in one ensemble: their weights fit a core's share of the cache; a block is what an interruption can lose."""

ON_A_GPU = 32
"""A block is so many times larger on other devices than a CPU, where a step of a thousand small networks takes hardly
longer than that of one."""

OnBlock = Callable[[int, int, bool], None]
Arrays = dict[str, NDArray]
BlockType = TypeVar("BlockType", bound=Block)
SHARED = "curve_steps"
"""The one array of a shard that has no row for each cell: it is the same in every block of a run."""


class Sweep:
    """Runs cells of one configuration; keeps them in a run directory where there is one.

    Args:
        config: what is trained.
        store: where shards go; nothing is kept when ``None``.
        on_block: called after each block with (cells, cell-steps budgeted, whether it was read back).
        runner: who trains the blocks; this process when ``None``.
    """

    def __init__(
        self,
        config: TrainingConfig,
        store: RunDirectory | None = None,
        on_block: OnBlock | None = None,
        runner: Runner | None = None,
    ) -> None:
        self.config, self.store, self.runner = config, store, runner or Runner()
        self.on_block: OnBlock = on_block or (lambda _cells, _steps, _held: None)

    def run(self, gamma: NDArray[np.float64], eta: NDArray[np.float64], seed: NDArray[np.int64]) -> EnsembleResult:
        """Run cells, in blocks.

        Args:
            gamma: feature-learning strengths, shape ``(cells,)``.
            eta: learning rates before the width multiplier, same shape.
            seed: seeds, same shape.

        Returns:
            Results in the order of the cells given.

        Raises:
            InputError: no cells.
        """
        if len(gamma) == 0:
            raise InputError("cells", 0, "at least one")
        if self.config.device == "cpu":
            # at least two blocks, so that two processes share a small round; never a function of how many there are
            count = max(-(-len(gamma) // LARGEST_BLOCK), min(2, len(gamma)))
        else:
            count = -(-len(gamma) // (ON_A_GPU * LARGEST_BLOCK))
        places: dict[Block, NDArray[np.intp]] = {}
        # cells of a seed side by side: a block draws the batches of each of its seeds, which takes as long as steps do
        for part in np.array_split(np.argsort(seed, kind="stable"), count):
            places[Block(self.config, *(tuple(values[part].tolist()) for values in (gamma, eta, seed)))] = part
        return from_arrays(run_blocks(places, to_arrays, self.store, self.runner, self.on_block))

    def run_cells(self, gamma: NDArray[np.float64], eta: NDArray[np.float64], seed: NDArray[np.int64]) -> CellResults:
        """Run cells and leave their curves in the shards: what ``trace_boundaries`` calls.

        Args:
            gamma: as in ``run``.
            eta: as in ``run``.
            seed: as in ``run``.

        Returns:
            Results in the order of the cells given.
        """
        return self.run(gamma, eta, seed).cells


def run_blocks(
    places: Mapping[BlockType, NDArray[np.intp]],
    pack: Callable[[Any], Arrays],
    store: RunDirectory | None,
    runner: Runner,
    on_block: OnBlock,
) -> Arrays:
    """Train what has no shard, keep it, and put everything together.

    Args:
        places: blocks, each with the positions of its cells; together they are 0 … cells − 1.
        pack: flattens a block's result into the arrays of its shard.
        store: where shards go; nothing is kept when ``None``.
        runner: who trains.
        on_block: called after each block with (cells, cell-steps budgeted, whether it was read back).

    Returns:
        The arrays of all blocks in the order of the cells.
    """
    results: dict[Block, Arrays] = {}

    def report(block: Block, held: bool) -> None:
        on_block(len(block.gamma), len(block.gamma) * block.config.steps, held)

    def kept(block: Block) -> bool:
        """Whether there is a shard of a block, or of any part of it."""
        assert store is not None
        return store.shard_path(block.key()).exists() or any(kept(half) for half in block.halves())

    def missing(block: Block) -> list[Block]:
        """What is left to train of a block, itself or halves of it; what has been kept goes to the results."""
        if store is None:
            return [block]
        arrays = store.read_shard(block.key())
        if arrays is not None:
            results[block] = arrays
            report(block, held=True)
            return []
        if any(kept(half) for half in block.halves()):
            return [part for half in block.halves() for part in missing(half)]
        return [block]

    untrained = [part for whole in places for part in missing(whole)]
    for block, result in runner.run(untrained):
        results[block] = pack(result)
        if store is not None:
            store.write_shard(block.key(), results[block])
        report(block, held=False)
    return _join([_whole(block, results) for block in places], np.concatenate(list(places.values())))


def _whole(block: Block, results: Mapping[Block, Arrays]) -> Arrays:
    """Result of a block, put together where it was trained in parts."""
    if block in results:
        return results[block]
    return _join([_whole(half, results) for half in block.halves()], np.arange(len(block.gamma)))


def _join(parts: list[Arrays], places: NDArray[np.intp]) -> Arrays:
    """Arrays of several blocks, in the order of the cells; NaN for the cells of a block that has no such array."""
    back = np.argsort(places, kind="stable")
    joined: Arrays = {SHARED: parts[0][SHARED]}
    for name in dict.fromkeys(name for part in parts for name in part if name != SHARED):
        shape = next(part[name].shape[1:] for part in parts if name in part)
        rows = [part[name] if name in part else np.full((len(part["outcome"]), *shape), np.nan) for part in parts]
        joined[name] = np.concatenate(rows)[back]
    return joined


def sweep_portrait(
    sweep: Sweep, gamma: NDArray[np.float64], eta: NDArray[np.float64], seeds: tuple[int, ...]
) -> PhasePortrait:
    """Train a dense grid.

    Args:
        sweep: what is trained, and where results are kept.
        gamma: grid of γ, ascending.
        eta: grid of η, ascending.
        seeds: the seeds.

    Returns:
        The portrait, with the learning curves as ``loss_curve`` and ``accuracy_curve`` along ``step``.
    """
    shape = (len(gamma), len(eta), len(seeds))
    g, e, s = (index.ravel() for index in np.indices(shape))
    result = sweep.run(gamma[g], eta[e], np.array(seeds, dtype=np.int64)[s])
    config = sweep.config
    what = config.identity() | {"width": config.width or 0, "law_depth": law_depth(config)[0]}
    what |= {"beta": config.beta} if config.optimizer == "momentum" else {}
    what |= {"steps": config.steps, "data": config.data, "noise_free": 0}
    usual = {"schedule": "constant", "weight_decay": 0.0, "label_noise": 0.0}
    what |= {name: getattr(config, name) for name, value in usual.items() if getattr(config, name) != value}
    portrait = PhasePortrait.from_cells(result.cells, gamma, eta, seeds, thresholds=config.thresholds, **what)
    for name in ("loss_curve", "accuracy_curve"):
        portrait.data[name] = (("gamma", "eta", "seed", "step"), getattr(result, name).reshape(*shape, -1))
    return PhasePortrait(portrait.data.assign_coords(step=result.curve_steps))


def save_portrait(store: RunDirectory, portrait: PhasePortrait, toy: PhasePortrait | None = None) -> None:
    """Write ``portrait.nc``, and ``curves.nc`` where the portrait has learning curves.

    Args:
        store: where.
        portrait: the portrait; may have further dimensions, such as ``depth``.
        toy: the toy's portrait beside it, for the group ``toy`` of the same file.
    """
    curves = [name for name in ("loss_curve", "accuracy_curve") if name in portrait.data]
    cells = PhasePortrait(portrait.data.drop_vars([*curves, "step"], errors="ignore"))

    def write(path: Path) -> None:
        cells.save(path)
        if toy is not None:
            toy.save(path, group="toy", mode="a")

    store.write_with("portrait.nc", write)
    if curves:
        renamed = portrait.data[curves].rename({"loss_curve": "loss", "accuracy_curve": "accuracy"})
        store.write_with("curves.nc", lambda path: PhasePortrait(renamed).save(path))
