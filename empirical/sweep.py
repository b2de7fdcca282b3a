"""Runs any set of cells (γ, η, seed) of one training configuration, block by block, each block kept as a shard.

Dense grids and traces are both lists of cells; this file is where a list becomes results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empirical.data import DATA_SETS, DataStream, data_stream
from empirical.ensemble import DTYPES, Ensemble, EnsembleResult, log_spaced_steps, torch_device
from empirical.models import MLP
from empirical.store import RunDirectory
from simulate import CellResults, PhasePortrait, Thresholds
from theory.errors import InputError, one_of, positive_integer

BLOCK = 64
"""Cells in one ensemble. Throughput on a CPU is flat from 32 to 128 cells; a block is what an interruption can lose."""

FLOAT32_LEAST_GAMMA = 1e-4
"""Below this γ the cancellation in F(θ) − F(θ₀) costs float32 more than 5e-4 of the loss: ``auto`` takes float64."""

ARCHITECTURES = ("mlp",)
NETWORK_LOSSES = ("mse",)
OPTIMIZERS = ("gd",)


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that the result of a cell depends on, besides its γ, η and seed.

    Attributes:
        depth: weight layers L.
        arch: ``mlp``.
        width: hidden width N.
        data: name of the data stream.
        image_size: side of the images in pixels.
        batch_size: examples in a batch.
        loss: ``mse``, on one-hot targets.
        optimizer: ``gd``: plain stochastic gradient descent.
        steps: budget T.
        dtype: ``auto`` (float32, float64 where γ < 1e-4), ``float32`` or ``float64``.
        device: where to train.
        thresholds: the numbers in the definitions of the outcomes.
    """

    depth: int
    arch: str = "mlp"
    width: int = 64
    data: str = "fashion-mnist-deformed"
    image_size: int = 14
    batch_size: int = 64
    loss: str = "mse"
    optimizer: str = "gd"
    steps: int = 1000
    dtype: str = "auto"
    device: str = "cpu"
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        for name in ("depth", "width", "batch_size", "steps"):
            positive_integer(name, getattr(self, name))
        one_of("arch", self.arch, ARCHITECTURES)
        one_of("data", self.data, DATA_SETS)
        one_of("loss", self.loss, NETWORK_LOSSES)
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        one_of("dtype", self.dtype, ("auto", *DTYPES))
        torch_device(self.device)
        self.stream(0)  # raises on a bad image size

    def stream(self, seed: int) -> DataStream:
        """Data stream of a seed.

        Args:
            seed: non-negative integer.

        Returns:
            The stream.
        """
        return data_stream(self.data, self.batch_size, seed, size=self.image_size)

    def spec(self) -> MLP:
        """The architecture.

        Returns:
            Its specification, sized for the data.
        """
        stream = self.stream(0)
        return MLP(self.depth, self.width, stream.input_dim, stream.num_classes)


class _RememberedStream:
    """A stream that keeps the batches it has made: every block of a run asks for the same ones again."""

    def __init__(self, stream: DataStream) -> None:
        self.stream = stream
        self._batches: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        if step not in self._batches:
            self._batches[step] = self.stream(step)
        return self._batches[step]

    def test_set(self) -> tuple[Tensor, Tensor]:
        return self.stream.test_set()


REMEMBERED_BYTES = 400e6
"""Batches are remembered only while all of them, for the seeds of a run, take less memory than this."""


class Sweep:
    """Runs cells of one configuration; keeps them in a run directory where there is one.

    Args:
        config: what is trained.
        store: where shards go; nothing is kept when ``None``.
        on_block: called after each block with (cells, cell-steps budgeted, whether it was read back).
    """

    def __init__(
        self,
        config: TrainingConfig,
        store: RunDirectory | None = None,
        on_block: Callable[[int, int, bool], None] | None = None,
    ) -> None:
        self.config, self.store = config, store
        self.on_block = on_block or (lambda _cells, _steps, _held: None)
        self._streams: dict[int, Any] = {}

    def _stream(self, seed: int) -> Any:
        if seed not in self._streams:
            stream = self.config.stream(seed)
            size = 4 * self.config.steps * stream.batch_size * (stream.input_dim + stream.num_classes)
            fits = size * (len(self._streams) + 1) < REMEMBERED_BYTES
            self._streams[seed] = _RememberedStream(stream) if fits else stream
        return self._streams[seed]

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
        double = gamma < FLOAT32_LEAST_GAMMA if self.config.dtype == "auto" else np.zeros(len(gamma), dtype=bool)
        parts: list[EnsembleResult] = []
        places: list[NDArray[np.intp]] = []
        for wide in (False, True):
            chosen = np.nonzero(double == wide)[0]
            dtype = self.config.dtype if self.config.dtype != "auto" else ("float64" if wide else "float32")
            for start in range(0, len(chosen), BLOCK):
                block = chosen[start : start + BLOCK]
                parts.append(self._block(gamma[block], eta[block], seed[block], dtype))
                places.append(block)
        back = np.argsort(np.concatenate(places), kind="stable")
        fields = [
            np.concatenate([part.cells.fields()[name] for part in parts])[back] for name in parts[0].cells.fields()
        ]
        curves = [np.concatenate([getattr(p, name) for p in parts])[back] for name in ("loss_curve", "accuracy_curve")]
        return EnsembleResult(CellResults(*fields), parts[0].curve_steps, *curves)

    def run_cells(self, gamma: NDArray[np.float64], eta: NDArray[np.float64], seed: NDArray[np.int64]) -> CellResults:
        """Run cells and keep no curves in memory: what ``trace_boundaries`` calls.

        Args:
            gamma: as in ``run``.
            eta: as in ``run``.
            seed: as in ``run``.

        Returns:
            Results in the order of the cells given.
        """
        return self.run(gamma, eta, seed).cells

    def _block(
        self, gamma: NDArray[np.float64], eta: NDArray[np.float64], seed: NDArray[np.int64], dtype: str
    ) -> EnsembleResult:
        """One block of cells: read back, or trained and kept."""
        steps = self.config.steps
        key = {
            "config": asdict(self.config),
            "dtype": dtype,
            "cells": [gamma.tolist(), eta.tolist(), seed.tolist()],
        }
        held = None if self.store is None else self.store.read_shard(key)
        if held is not None:
            curves = [held.pop(name) for name in ("curve_steps", "loss_curve", "accuracy_curve")]
            result = EnsembleResult(CellResults(**held), *curves)
        else:
            ensemble = Ensemble(
                self.config.spec(),
                gamma,
                eta,
                seed,
                stream=self._stream,
                dtype=dtype,
                device=self.config.device,
                thresholds=self.config.thresholds,
            )
            result = ensemble.run(steps, log_spaced_steps(steps))
            if self.store is not None:
                arrays = result.cells.fields() | {
                    name: getattr(result, name) for name in ("curve_steps", "loss_curve", "accuracy_curve")
                }
                self.store.write_shard(key, arrays)
        self.on_block(len(gamma), len(gamma) * steps, held is not None)
        return result


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
    what: dict[str, Any] = {"arch": config.arch, "depth": config.depth, "width": config.width, "loss": config.loss}
    what |= {"optimizer": config.optimizer}
    what |= {"steps": config.steps, "data": config.data, "noise_free": 0}
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


def prepare_torch() -> None:
    """Settings under which two runs of the same cells agree: deterministic kernels, no TF32, no denormal stalls."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_flush_denormal(True)
