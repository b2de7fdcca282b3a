"""Trains many networks at once: one cell for each (γ, η, seed), all in one batched program.

Every cell of a seed starts from the same θ₀ and sees the same batches, and what becomes of it does not depend on the
cells beside it. The output is centred and downscaled, f = (F(θ) − F(θ₀)) / γ; losses, optimizers and schedules are
those of the modules of these names. Losses are those of the batch about to be learned from, without the penalty of a
weight decay.

Cells train in groups, small enough for the weights of a group to stay in a core's cache for the ``CHECK_EVERY`` steps
that it is trained before its turn ends; where a stack trains cell by cell, and on a GPU, one group has them all. Lazy
cells (γ < ``LAZY_BELOW``) have groups of their own, in which θ₀ and the displacement are held apart: what a cell is
trained with depends on its own γ alone. A cell leaves its group as soon as its outcome is decided: diverged, or dead on
as many batches in a row as the tail has steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from empirical.account import Account
from empirical.graphs import RECORDERS, Replay
from empirical.losses import LOSSES
from empirical.models.stack import Architecture, CellByCell, FusedStack, Lesson, Placement
from empirical.networks import Networks, Probe
from empirical.optimizers import DEFAULT_BETA, OPTIMIZERS, make_optimizer
from empirical.schedules import DEFAULT_WARMUP, Schedule
from simulate.outcomes import DEFAULT_THRESHOLDS, CellResults, Thresholds, classify
from theory.errors import InputError, one_of, positive_array, positive_integer

CHECK_EVERY = 10
"""Steps that a group trains in one go, and between looks at which cells are decided; no step waits for the host."""

LAZY_BELOW = 1e-2
"""Cells of smaller γ hold θ₀ and the displacement apart. At γ = 1e-3 and η = 1e-3 η_crit single updates of float32
weights are already of the size of their rounding, which costs the loss curve 6e-3 without the split."""

GROUP_BYTES = 4e6
"""Weights of a group on a CPU whose cells train side by side: few enough for a share of the cache, enough for their
products to outweigh the calls."""

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Stream(Protocol):
    """What an ensemble asks of data: batches that are a pure function of the step."""

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Batch of a step: inputs ``(batch, d)`` and one-hot targets ``(batch, classes)``."""

    def test_set(self) -> tuple[Tensor, Tensor]:
        """Held-out inputs ``(examples, d)`` and one-hot targets ``(examples, classes)``."""


Batches = tuple[Tensor, Tensor]
"""Inputs ``(steps, batch, d)`` and targets ``(steps, classes, batch)`` of a seed, on the device."""


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
    """A batch of networks with their own γ, η, β and seed.

    Args:
        spec: the architecture, shared by all cells.
        gamma: feature-learning strength of each cell, shape ``(cells,)``.
        eta: learning rate of each cell, before the width multiplier, shape ``(cells,)``.
        seed: seed of each cell, for θ₀ and batches, shape ``(cells,)``; a single integer serves all.
        stream: gives the data stream of a seed.
        loss: ``"mse"`` or ``"cross-entropy"``.
        optimizer: ``"gd"``, ``"momentum"``, ``"adam"`` or ``"sign"``.
        beta: memory of each cell, for heavy ball and Adam, shape ``(cells,)``; a single number serves all.
        schedule: ``"constant"``, ``"warmup"``, ``"cosine"`` or ``"warmup-cosine"``, a multiplier of η.
        warmup: share of T that a warm-up takes.
        weight_decay: λ, coupled for ``gd`` and ``momentum``, decoupled for the others (see ``optimizers``).
        dtype: ``"float32"`` or ``"float64"``.
        device: where to train.
        thresholds: the numbers in the definitions of the outcomes.

    Raises:
        InputError: shapes that differ, a γ or η that is not positive, a β outside [0, 1), a warm-up outside [0, 1], a
            negative seed or weight decay, an unknown loss, optimizer, schedule, dtype or device.
    """

    def __init__(
        self,
        spec: Architecture,
        gamma: ArrayLike,
        eta: ArrayLike,
        seed: ArrayLike = 0,
        *,
        stream: Callable[[int], Stream],
        loss: str = "mse",
        optimizer: str = "gd",
        beta: ArrayLike = DEFAULT_BETA,
        schedule: str = "constant",
        warmup: float = DEFAULT_WARMUP,
        weight_decay: float = 0.0,
        dtype: str = "float32",
        device: str = "cpu",
        thresholds: Thresholds = DEFAULT_THRESHOLDS,
    ) -> None:
        gammas, etas = positive_array("gamma", gamma).ravel(), positive_array("eta", eta).ravel()
        seeds, betas = np.asarray(seed).ravel(), np.asarray(beta, dtype=float).ravel()
        if seeds.dtype.kind not in "iu" or (seeds < 0).any():
            raise InputError("seed", seed, "non-negative integers")
        if not ((betas >= 0) & (betas < 1)).all():
            raise InputError("beta", beta, "at least 0 and below 1")
        one_of("loss", loss, tuple(LOSSES))
        one_of("optimizer", optimizer, OPTIMIZERS)
        if not 0 <= weight_decay < np.inf:
            raise InputError("weight_decay", weight_decay, "a finite number, at least 0")
        if dtype not in DTYPES:
            raise InputError("dtype", dtype, "float32 or float64")
        try:
            self.gamma, self.eta, self.seed, self.beta = np.broadcast_arrays(gammas, etas, seeds, betas)
        except ValueError:
            sizes = (gammas.size, etas.size, seeds.size, betas.size)
            raise InputError("gamma, eta, seed, beta", sizes, "of one length") from None
        self.spec, self.stream, self.thresholds = spec, stream, thresholds
        self.loss, self.optimizer, self.weight_decay = loss, optimizer, float(weight_decay)
        self.schedule = Schedule(schedule, warmup)
        self.dtype, self.device = DTYPES[dtype], torch_device(device)
        self._ran = False

    @torch.no_grad()
    def run(
        self,
        steps: int,
        curve_steps: ArrayLike | None = None,
        *,
        probe: Probe | None = None,
        probe_steps: Iterable[int] = (),
    ) -> EnsembleResult:
        """Train every cell for T steps, or until it is decided. An ensemble runs once.

        Args:
            steps: budget T.
            curve_steps: steps in 0 … T − 1 at which curves are kept; about 40 log-spaced ones when ``None``.
            probe: shown the networks at ``probe_steps``, each seed of each group by itself (``networks.join`` puts
                those of a seed together). Cells that were decided before are not shown.
            probe_steps: steps in 0 … T: 0 is the start, T is after the last update.

        Returns:
            One entry a cell, in the order of the cells given.

        Raises:
            InputError: T below 1, or the ensemble has run before.
        """
        positive_integer("steps", steps)
        if self._ran:
            raise InputError("ensemble", "already run", "a new one: its weights have been trained")
        self._ran = True
        kept = log_spaced_steps(steps) if curve_steps is None else np.asarray(curve_steps, dtype=np.int64).ravel()
        places = self._places()
        probing = _Probing(probe, frozenset(int(step) for step in probe_steps), self.spec)
        groups = [_Group(self, cells, steps, kept, probing) for cells in places]
        streams = {int(seed): self.stream(int(seed)) for seed in np.unique(self.seed)}
        for start in range(0, steps, CHECK_EVERY):
            training = [group for group in groups if len(group)]
            batches: dict[int, Batches] = {}
            for seed in {seed for group in training for seed in group.seeds}:
                batches[seed] = self._fetch(streams[seed], range(start, min(start + CHECK_EVERY, steps)))
            for group in training:
                group.train(start, batches)
        for group in groups:
            if len(group):
                group.show(steps)
                group.account.close(group.accuracy(*next(iter(streams.values())).test_set()))
        return self._join([group.account for group in groups], np.concatenate(places), kept)

    def _places(self) -> list[NDArray[np.intp]]:
        """Cells of each group: lazy ones apart, those of one seed side by side."""
        size = self.spec.parameter_count() * torch.finfo(self.dtype).bits // 8
        alone = isinstance(self.spec, CellByCell) and self.spec.trains_cell_by_cell(self.device)
        together = self.device.type == "cpu" and not alone
        most = max(1, int(GROUP_BYTES / size)) if together else len(self.gamma)
        places = []
        for lazy in (False, True):
            cells = np.nonzero((self.gamma < LAZY_BELOW) == lazy)[0]
            if len(cells):
                cells = cells[np.argsort(self.seed[cells], kind="stable")]
                places += np.array_split(cells, -(-len(cells) // most))
        return places

    def _fetch(self, stream: Stream, steps: range) -> Batches:
        """Batches of some steps, on the device: one transfer, not one a step."""
        to = {"device": self.device, "dtype": self.dtype}
        x, y = (torch.stack(part).to(**to) for part in zip(*(stream(step) for step in steps), strict=True))  # type: ignore[call-overload]
        return x, y.mT.contiguous()

    def _join(self, accounts: list[Account], places: NDArray[np.intp], kept: NDArray[np.int64]) -> EnsembleResult:
        """Results of the groups, in the order in which the cells were given."""
        back = np.argsort(places, kind="stable")
        out = {name: np.concatenate([a.out[name] for a in accounts])[back] for name in accounts[0].out}
        outcome = classify(
            out["tail"],
            out["peak"],
            out["initial"],
            diverged=out["diverged"],
            dead=out["dead"],
            thresholds=self.thresholds,
        )
        names = ("tail", "initial", "peak", "accuracy", "steps_run")
        curves = (
            torch.cat([getattr(a, name) for a in accounts]).cpu().numpy()[back]
            for name in ("loss_curve", "accuracy_curve")
        )
        return EnsembleResult(CellResults(outcome, *(out[name] for name in names)), kept, *curves)


@dataclass(frozen=True)
class _Probing:
    """Who wants to see the networks, and when."""

    probe: Probe | None
    steps: frozenset[int]
    spec: Architecture

    def show(self, step: int, group: _Group) -> None:
        """Show the cells of a group, seed by seed."""
        if self.probe is None or step not in self.steps:
            return
        moved, rates, first = group.stack.displacements(), self.spec.rates(), 0
        for seed, count in zip(group.seeds, group.sections, strict=True):
            part = slice(first, first + count)
            first += count
            if not count:
                continue
            device = group.gamma.device
            module = self.spec.module(seed).double().to(device)
            state = {n: p.detach() for n, p in [*module.named_parameters(), *module.named_buffers()]}
            networks = Networks(
                module,
                start={name: state[name] for name in moved},
                displacement={name: tensor[part] for name, tensor in moved.items()},
                fixed={name: tensor for name, tensor in state.items() if name not in moved},
                gamma=group.gamma[part],
                rates=rates,
                example_shape=self.spec.example_shape,
                seed=seed,
                cells=group.cells[part],
            )
            self.probe(step, networks)


class _Group:
    """Cells that train in one stack."""

    def __init__(
        self, ensemble: Ensemble, cells: NDArray[np.intp], steps: int, kept: NDArray[np.int64], probing: _Probing
    ) -> None:
        def tensor(values: NDArray[np.float64]) -> Tensor:
            return torch.tensor(values[cells], dtype=torch.float64, device=ensemble.device)

        gamma, beta = tensor(ensemble.gamma), tensor(ensemble.beta)
        self.cells, self.gamma, self.probing = cells, gamma, probing
        memory = beta if ensemble.optimizer in {"momentum", "adam"} else torch.zeros_like(beta)
        names, index, counts = np.unique(ensemble.seed[cells], return_inverse=True, return_counts=True)
        self.seeds: list[int] = names.tolist()
        self.sections: list[int] = counts.tolist()
        self.seed_index = torch.tensor(index, device=ensemble.device)
        self.inverse_gamma = (1 / gamma).to(ensemble.dtype).view(-1, 1, 1)
        self.loss_name, self.loss = ensemble.loss, LOSSES[ensemble.loss]
        self.schedule, decay = ensemble.schedule, ensemble.weight_decay
        self.optimizer = make_optimizer(ensemble.optimizer, tensor(ensemble.eta), gamma, beta, ensemble.dtype, decay)
        lazy = bool((gamma < LAZY_BELOW).all())
        place = Placement(self.seeds, self.sections, self.optimizer, lazy, ensemble.dtype, ensemble.device)
        self.stack = ensemble.spec.stack(place)
        self.fused = self.stack if isinstance(self.stack, FusedStack) else None
        self.account = Account(gamma, memory, steps, kept, ensemble.thresholds)
        # a step under a schedule is not like the one before
        self.record = RECORDERS.get(ensemble.device.type) if ensemble.schedule.name == "constant" else None
        self.replay: Replay | None = None
        self.settled = False
        if decay:  # weights still move where the gradient is zero, and a heavy ball carries them through 0, to life
            self.account.patience.fill_(torch.inf)

    def __len__(self) -> int:
        return len(self.seed_index)

    def train(self, start: int, batches: dict[int, Batches]) -> None:
        """Train for as many steps as there are batches, then let decided cells go."""
        inputs, targets = zip(*(batches[seed] for seed in self.seeds), strict=True)
        steps = range(len(inputs[0]))
        if self.fused is not None:
            parts = [self._several(self.fused, start, part, inputs, targets) for part in self._parts(start, steps)]
            told = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        else:
            rows = [self._step(start + i, [x[i] for x in inputs], [y[i] for y in targets]) for i in steps]
            told = torch.stack(rows, 1)
        self.account.record(start, told[0], told[1], told[2] > 0)
        staying = self.account.retire(start + len(steps))
        self.settled = staying is None
        if staying is not None:
            self.replay = None
            self.seed_index = self.seed_index.index_select(0, staying)
            self.gamma, self.cells = self.gamma.index_select(0, staying), self.cells[staying.cpu().numpy()]
            self.inverse_gamma = self.inverse_gamma.index_select(0, staying)
            self.sections = torch.bincount(self.seed_index, minlength=len(self.seeds)).tolist()
            self.stack.keep(staying, self.sections)

    def show(self, step: int) -> None:
        """Show the networks to the probe, if it wants to see them at this step."""
        self.probing.show(step, self)

    def _parts(self, start: int, steps: range) -> list[range]:
        """The steps, parted before each at which the networks are shown."""
        cuts = [i for i in steps if i and start + i in self.probing.steps]
        return [range(a, b) for a, b in pairwise([0, *cuts, len(steps)])]

    def _several(
        self, stack: FusedStack, start: int, steps: range, inputs: Sequence[Tensor], targets: Sequence[Tensor]
    ) -> Tensor:
        """Train on some batches in one go.

        Args:
            stack: what trains.
            start: step of the first batch.
            steps: which of the batches.
            inputs: seed by seed, ``(steps, batch, d)``.
            targets: seed by seed, ``(steps, classes, batch)``.

        Returns:
            Losses, ⟨|F − F₀|²⟩ and whether a cell is inactive, shape ``(3, steps, cells)``.
        """
        self.show(start + steps[0])
        watched = [start + i in self.account.column for i in steps]
        multipliers = [self.schedule.multiplier(start + i, self.account.steps) for i in steps]
        lesson = Lesson(self.loss_name, self.inverse_gamma.view(-1), multipliers, watched)
        here = slice(steps[0], steps[-1] + 1)
        told, accuracies = stack.train([x[here] for x in inputs], [y[here] for y in targets], lesson)
        for row, (i, wanted) in enumerate(zip(steps, watched, strict=True)):
            if wanted:
                self.account.keep_accuracy(start + i, torch.from_numpy(accuracies[row]))
        return torch.from_numpy(told)

    def _step(self, step: int, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Train on one batch: recorded, where that pays and the step is like any other.

        Returns:
            Losses, ⟨|F − F₀|²⟩ and whether a cell is inactive, shape ``(3, cells)``.
        """
        self.show(step)
        if step == 0 or step in self.account.column or self.record is None or not self.settled:
            return self._pass(inputs, targets, step)
        if self.replay is None:
            self.replay = Replay(self._pass, inputs, targets, self.record)
        return self.replay(inputs, targets)

    def _pass(self, inputs: Sequence[Tensor], targets: Sequence[Tensor], step: int | None = None) -> Tensor:
        """Forward, loss, update; ``step`` is left out of one that may be recorded."""
        stack = self.stack
        assert not isinstance(stack, FusedStack)
        moved = stack.forward(inputs)
        if step == 0:
            moved.zero_()  # F(θ₀) − F(θ₀): the sign of what rounding leaves of it would move sign descent and Adam
        batch = moved.shape[2]
        raw_square = moved.square().sum((1, 2)) / batch
        output = moved.mul_(self.inverse_gamma)
        target = targets[0].unsqueeze(0) if len(targets) == 1 else torch.stack(tuple(targets))[self.seed_index]
        if step is not None and step in self.account.column:
            hits = (output.argmax(1) == target.argmax(1)).double().mean(1)
            self.account.keep_accuracy(step, hits if output.shape[1] > 1 else torch.full_like(hits, torch.nan))
        losses, slope = self.loss(output, target)
        inactive = stack.inactive()
        self.optimizer.begin(self.schedule.multiplier(step or 0, self.account.steps))
        stack.update(slope.mul_((self.optimizer.output_scale / batch).view(-1, 1, 1)))
        return torch.stack((losses, raw_square, inactive.to(losses.dtype)))

    def accuracy(self, x: Tensor, y: Tensor) -> Tensor:
        """Share of correct predictions on a test set, shape ``(cells,)``, float64; NaN for real targets."""
        like = self.inverse_gamma
        if y.shape[1] == 1:
            return torch.full((len(self),), torch.nan, dtype=torch.float64, device=like.device)
        x, labels = x.to(device=like.device, dtype=like.dtype), y.argmax(1).to(like.device)
        hits = torch.zeros(len(self), dtype=torch.float64, device=like.device)
        for part in torch.arange(len(x), device=like.device).split(250):
            output = self.stack.forward([x[part]] * len(self.seeds)) * like
            hits += (output.argmax(1) == labels[part]).sum(1)
        return hits / len(x)
