"""Trains many networks at once: one cell for each (γ, η, seed), all in one batched program.

Every cell of a seed starts from the same θ₀ and sees the same batches, and what becomes of it does not depend on the
cells beside it. Mean squared error against one-hot targets,

    ℓ = ½ ⟨ Σ_c (f_c − y_c)² ⟩_batch,      f = (F(θ) − F(θ₀)) / γ,      θ ← θ − η N ∂ℓ/∂θ.

Losses are those of the batch about to be learned from. A cell leaves the stack as soon as its outcome is decided:
diverged, or dead on as many batches in a row as the tail has steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from empirical.models import MLP, MLPStack
from simulate.outcomes import DEFAULT_THRESHOLDS, CellResults, Thresholds, classify
from theory.errors import InputError, positive_array, positive_integer

CHECK_EVERY = 10
"""Steps between looks at which cells are decided; the steps themselves never wait for the host."""

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Stream(Protocol):
    """What an ensemble asks of data: batches that are a pure function of the step."""

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Batch of a step: inputs ``(batch, d)`` and one-hot targets ``(batch, classes)``."""

    def test_set(self) -> tuple[Tensor, Tensor]:
        """Held-out inputs ``(examples, d)`` and one-hot targets ``(examples, classes)``."""


@dataclass(frozen=True)
class EnsembleResult:
    """What became of the cells, in the order in which they were given.

    Attributes:
        cells: outcomes, losses, accuracies.
        curve_steps: steps at which curves were kept, shape ``(points,)``; 0 is before the first update.
        loss_curve: batch loss there, shape ``(cells, points)``; NaN once a cell was decided.
        accuracy_curve: batch accuracy there, same shape.
    """

    cells: CellResults
    curve_steps: NDArray[np.int64]
    loss_curve: NDArray[np.float64]
    accuracy_curve: NDArray[np.float64]


def log_spaced_steps(steps: int, points: int = 40) -> NDArray[np.int64]:
    """Steps at which learning curves are kept.

    Args:
        steps: budget T.
        points: how many to aim for.

    Returns:
        Ascending steps from 0 to T − 1 without repeats.
    """
    return np.unique(np.round(np.geomspace(1, max(steps, 2), points)).astype(np.int64).clip(max=steps) - 1)


def torch_device(name: str) -> torch.device:
    """Find a device by name.

    Args:
        name: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, …

    Returns:
        The device.

    Raises:
        InputError: PyTorch does not know the name, or this machine does not have the device.
    """
    here = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    here += ["mps"] if torch.backends.mps.is_available() else []
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise InputError("device", name, "one of those on this machine: " + ", ".join(here)) from None
    indexed = f"{device.type}:{device.index or 0}" if device.type == "cuda" else device.type
    if indexed not in here:
        raise InputError("device", name, "one of those on this machine: " + ", ".join(here))
    return device


class Ensemble:
    """A batch of networks with their own γ, η and seed.

    Args:
        spec: the architecture, shared by all cells.
        gamma: feature-learning strength of each cell, shape ``(cells,)``.
        eta: learning rate of each cell, before the width multiplier N, shape ``(cells,)``.
        seed: seed of each cell, for θ₀ and batches, shape ``(cells,)``; a single integer serves all.
        stream: gives the data stream of a seed.
        dtype: ``"float32"`` or ``"float64"``.
        device: where to train.
        thresholds: the numbers in the definitions of the outcomes.

    Raises:
        InputError: shapes that differ, a γ or η that is not positive, a negative seed, an unknown dtype or device.
    """

    def __init__(
        self,
        spec: MLP,
        gamma: ArrayLike,
        eta: ArrayLike,
        seed: ArrayLike = 0,
        *,
        stream: Callable[[int], Stream],
        dtype: str = "float32",
        device: str = "cpu",
        thresholds: Thresholds = DEFAULT_THRESHOLDS,
    ) -> None:
        self.gamma, self.eta = positive_array("gamma", gamma).ravel(), positive_array("eta", eta).ravel()
        seeds = np.asarray(seed).ravel()
        if seeds.dtype.kind not in "iu" or (seeds < 0).any():
            raise InputError("seed", seed, "non-negative integers")
        if dtype not in DTYPES:
            raise InputError("dtype", dtype, "float32 or float64")
        try:
            self.gamma, self.eta, seeds = np.broadcast_arrays(self.gamma, self.eta, seeds)
        except ValueError:
            sizes = (self.gamma.size, self.eta.size, seeds.size)
            raise InputError("gamma, eta, seed", sizes, "of one length") from None
        self.spec, self.thresholds = spec, thresholds
        self.dtype, self.device = DTYPES[dtype], torch_device(device)
        # cells of one seed stand side by side, so that they share one product with their batch
        self.order = np.argsort(seeds, kind="stable")
        self.seeds, inverse, counts = np.unique(seeds, return_inverse=True, return_counts=True)
        self._seed_index = inverse[self.order]
        self.streams = [stream(int(s)) for s in self.seeds]
        names, sections = [int(s) for s in self.seeds], [int(c) for c in counts]
        self.stack = MLPStack(spec, names, sections, self.dtype, self.device)
        self.initial = MLPStack(spec, names, [1] * len(names), self.dtype, self.device)

    @torch.no_grad()
    def run(self, steps: int, curve_steps: ArrayLike | None = None) -> EnsembleResult:
        """Train every cell for T steps, or until it is decided. An ensemble runs once.

        Args:
            steps: budget T.
            curve_steps: steps in 0 … T − 1 at which curves are kept; about 40 log-spaced ones when ``None``.

        Returns:
            One entry a cell, in the order of the cells given.

        Raises:
            InputError: T below 1, or the ensemble has run before.
        """
        positive_integer("steps", steps)
        if not self.stack.weights:
            raise InputError("ensemble", "already run", "a new one: its weights have been trained")
        kept = log_spaced_steps(steps) if curve_steps is None else np.asarray(curve_steps, dtype=np.int64).ravel()
        book = _Book(self, steps, kept)
        for start in range(0, steps, CHECK_EVERY):
            stop = min(start + CHECK_EVERY, steps)
            batches = [self._fetch(stream, start, stop) for stream in self.streams]
            for step in range(start, stop):
                inputs = [x[step - start] for x, _ in batches]
                targets = torch.stack([y[step - start].T for _, y in batches])
                self._step(step, inputs, targets, book)
            if not book.retire(stop):
                break
        result = book.finish()
        self.stack.weights = []
        return result

    def _fetch(self, stream: Stream, start: int, stop: int) -> tuple[list[Tensor], list[Tensor]]:
        pairs = [stream(step) for step in range(start, stop)]
        to = {"device": self.device, "dtype": self.dtype}
        return [x.to(**to) for x, _ in pairs], [y.to(**to) for _, y in pairs]  # type: ignore[call-overload]

    def _step(self, step: int, inputs: Sequence[Tensor], targets: Tensor, book: _Book) -> None:
        moved = self.stack.forward(inputs) - self.initial.forward(inputs)[book.seed_index]
        raw_square = (moved * moved).sum((1, 2)) / moved.shape[2]  # ⟨|F − F₀|²⟩ over the batch
        output = moved.mul_(book.inverse_gamma)
        if step in book.curve_column:
            book.keep_accuracy(step, output, targets)
        residual = output.sub_(targets[book.seed_index])
        losses = (residual * residual).sum((1, 2)) / (2 * residual.shape[2])
        book.record(step, losses, raw_square, self.stack)
        # dℓ/dF = residual / (γ batch)
        self.stack.update(residual.mul_(book.rate / residual.shape[2]))

    def accuracy(self, seed_index: Tensor, inverse_gamma: Tensor) -> Tensor:
        """Share of correct predictions on the test set.

        Args:
            seed_index: which of ``self.seeds`` each cell still in the stack has.
            inverse_gamma: 1/γ of those cells, shape ``(cells, 1, 1)``.

        Returns:
            Shape ``(cells,)``, float64.
        """
        x, y = self.streams[0].test_set()
        x, labels = x.to(device=self.device, dtype=self.dtype), y.argmax(1).to(self.device)
        hits = torch.zeros(len(seed_index), dtype=torch.float64, device=self.device)
        for part in torch.arange(len(x), device=self.device).split(250):
            inputs = [x[part]] * len(self.seeds)
            output = (self.stack.forward(inputs) - self.initial.forward(inputs)[seed_index]) * inverse_gamma
            hits += (output.argmax(1) == labels[part]).sum(1)
        return hits / len(x)


class _Book:
    """The running account of an ensemble: losses of the cells still in the stack, results of those that have left."""

    def __init__(self, ensemble: Ensemble, steps: int, kept: NDArray[np.int64]) -> None:
        self.ensemble, self.steps = ensemble, steps
        self.tail_steps = ensemble.thresholds.tail_steps(steps)
        cells, device = len(ensemble.order), ensemble.device
        to = {"device": device, "dtype": ensemble.dtype}
        gamma = torch.from_numpy(np.array(ensemble.gamma[ensemble.order]))
        eta = torch.from_numpy(np.array(ensemble.eta[ensemble.order]))
        self.alive = torch.arange(cells, device=device)  # positions in seed order of the cells in the stack
        self.seed_index = torch.from_numpy(ensemble._seed_index).to(device)
        self.inverse_gamma = (1 / gamma).to(**to).view(-1, 1, 1)  # type: ignore[call-overload]
        self.rate = (eta / gamma).to(**to).view(-1, 1, 1)  # type: ignore[call-overload]
        bound = ensemble.thresholds.divergence * torch.clamp_min(gamma, 1.0)
        self.bound_square = (bound**2).to(device)
        wide = {"device": device, "dtype": torch.float64}
        self.initial = torch.full((cells,), torch.nan, **wide)  # type: ignore[call-overload]
        self.peak = torch.zeros(cells, **wide)  # type: ignore[call-overload]
        self.tail_sum = torch.zeros(cells, **wide)  # type: ignore[call-overload]
        self.idle_sum = torch.zeros(cells, **wide)  # type: ignore[call-overload]
        self.idle = torch.zeros(cells, dtype=torch.int64, device=device)
        self.diverged_at = torch.zeros(cells, dtype=torch.int64, device=device)
        self.curve_column = {int(step): column for column, step in enumerate(kept)}
        self.kept = kept
        shape = (cells, len(kept))
        self.loss_curve = torch.full(shape, torch.nan, **wide)  # type: ignore[call-overload]
        self.accuracy_curve = torch.full(shape, torch.nan, **wide)  # type: ignore[call-overload]
        self.out = {
            "tail": np.full(cells, np.nan),
            "peak": np.full(cells, np.inf),
            "initial": np.full(cells, np.nan),
            "accuracy": np.full(cells, np.nan),
            "steps_run": np.full(cells, steps, dtype=np.int64),
            "diverged": np.zeros(cells, dtype=bool),
            "dead": np.zeros(cells, dtype=bool),
        }

    def record(self, step: int, losses: Tensor, raw_square: Tensor, stack: MLPStack) -> None:
        """Enter one step; nothing here waits for the device."""
        wide = losses.double()
        if step == 0:
            self.initial = wide
        self.peak = torch.maximum(self.peak, wide)
        if step >= self.steps - self.tail_steps:
            self.tail_sum += wide
        out_of_bounds = ~(raw_square.double() <= self.bound_square) & (self.diverged_at == 0)
        self.diverged_at = torch.where(out_of_bounds, step + 1, self.diverged_at)
        idle = stack.inactive()
        self.idle = torch.where(idle, self.idle + 1, 0)
        self.idle_sum = torch.where(idle, self.idle_sum + wide, 0.0)
        column = self.curve_column.get(step)
        if column is not None:
            self.loss_curve[self.alive, column] = wide

    def keep_accuracy(self, step: int, output: Tensor, targets: Tensor) -> None:
        """Enter the accuracy on the batch."""
        hits = output.argmax(1) == targets.argmax(1)[self.seed_index]
        self.accuracy_curve[self.alive, self.curve_column[step]] = hits.double().mean(1)

    def retire(self, step: int) -> bool:
        """Take decided cells out of the stack; False when none is left."""
        diverged, dead = self.diverged_at > 0, self.idle >= self.tail_steps
        leaving = diverged | dead
        if not bool(leaving.any()):
            return True
        gone = self.alive[leaving].cpu().numpy()
        self.out["initial"][gone] = self.initial[leaving].cpu().numpy()
        self.out["diverged"][gone] = diverged[leaving].cpu().numpy()
        self.out["dead"][gone] = (dead & ~diverged)[leaving].cpu().numpy()
        left_at = torch.where(diverged, self.diverged_at, step)
        self.out["steps_run"][gone] = left_at[leaving].cpu().numpy()
        quiet = self.alive[dead & ~diverged].cpu().numpy()
        self.out["peak"][quiet] = self.peak[dead & ~diverged].cpu().numpy()
        self.out["tail"][quiet] = (self.idle_sum / self.idle)[dead & ~diverged].cpu().numpy()
        staying = torch.nonzero(~leaving).squeeze(1)
        for name in (
            *("alive", "seed_index", "inverse_gamma", "rate", "bound_square"),
            *("initial", "peak", "tail_sum", "idle_sum", "idle", "diverged_at"),
        ):
            setattr(self, name, getattr(self, name).index_select(0, staying))
        counts = torch.bincount(self.seed_index, minlength=len(self.ensemble.seeds)).tolist()
        self.ensemble.stack.keep(staying, counts)
        return len(staying) > 0

    def finish(self) -> EnsembleResult:
        """Close the account: outcomes in the order in which the cells were given."""
        ensemble, out = self.ensemble, self.out
        if len(self.alive):
            left = self.alive.cpu().numpy()
            out["tail"][left] = (self.tail_sum / self.tail_steps).cpu().numpy()
            out["peak"][left] = self.peak.cpu().numpy()
            out["initial"][left] = self.initial.cpu().numpy()
            out["accuracy"][left] = ensemble.accuracy(self.seed_index, self.inverse_gamma).cpu().numpy()
        outcome = classify(
            out["tail"],
            out["peak"],
            out["initial"],
            diverged=out["diverged"],
            dead=out["dead"],
            thresholds=ensemble.thresholds,
        )
        back = np.argsort(ensemble.order, kind="stable")
        names = ("tail", "initial", "peak", "accuracy", "steps_run")
        cells = CellResults(outcome[back], *(out[name][back] for name in names))
        curves = [curve.cpu().numpy()[back] for curve in (self.loss_curve, self.accuracy_curve)]
        return EnsembleResult(cells, self.kept, *curves)
