"""What stacks share whose cells are trained one by one by compiled loops (``empirical.kernels``)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empirical.kernels import elementwise
from empirical.kernels.tiles import lanes, vector_registers
from empirical.models.stack import Lesson, Placement
from empirical.optimizers import Adam, HeavyBall, SignDescent


def can_train(device: torch.device) -> bool:
    """Tell whether the loops are for a device.

    Args:
        device: where a stack is to live.

    Returns:
        Whether it is a CPU with fused multiply-add.
    """
    return device.type == "cpu" and vector_registers() is not None


class FusedCells(ABC):
    """Flat weights of C cells, layer by layer in rows of whole vectors, and what moves them.

    Args:
        starts: weights of each seed, layer by layer, each ``(fan_out, fan_in)``.
        rates: width multiplier of η for each layer, of the optimizer at hand.
        placement: cells and optimizer.
        dtype: of the weights.
        held_apart: whether it is θ − θ₀ that moves.
    """

    can_die = True
    """Whether F = 0 on a whole batch says that no gradient is left."""

    def __init__(
        self,
        starts: Sequence[Sequence[Tensor]],
        rates: Sequence[float],
        placement: Placement,
        dtype: torch.dtype,
        held_apart: bool,
    ) -> None:
        self.optimizer, self.rates, self.dtype = placement.optimizer, list(rates), dtype
        self.shapes = [tuple(weight.shape) for weight in starts[0]]
        self.rows = [self.padded(fan_in) for _, fan_in in self.shapes]
        sizes = [fan_out * row for (fan_out, _), row in zip(self.shapes, self.rows, strict=True)]
        self.places = np.array([0, *np.cumsum(sizes)], dtype=np.int64)
        self.start = torch.zeros(len(starts), int(self.places[-1]), dtype=dtype)
        for layer, part in enumerate(self.layers_of(self.start)):
            part.copy_(torch.stack([weights[layer] for weights in starts]))
        self.set_sections(placement.sections)
        self.weights = self.start[torch.from_numpy(self.seed_of)]
        heavy, adam = (isinstance(self.optimizer, kind) for kind in (HeavyBall, Adam))
        self.displacement, self.first, self.second = (
            torch.zeros_like(self.weights if needed else self.weights[:0])
            for needed in (held_apart, heavy or adam, adam)
        )
        self.steps_done = 0
        kinds = {HeavyBall: elementwise.HEAVY_BALL, Adam: elementwise.ADAM, SignDescent: elementwise.SIGN}
        self.kind = kinds.get(type(self.optimizer), elementwise.PLAIN if self.optimizer.plain else elementwise.DECAYED)

    def padded(self, size: int) -> int:
        """The length of a row of whole vectors.

        Args:
            size: numbers in it that count.

        Returns:
            At least as many.
        """
        return -(-size // lanes(self.dtype.itemsize)) * lanes(self.dtype.itemsize)

    def layers_of(self, flat: Tensor) -> list[Tensor]:
        """Take the layers apart.

        Args:
            flat: weights of some cells, ``(cells, numbers)``.

        Returns:
            Views, each ``(cells, fan_out, fan_in)``.
        """
        return [
            flat[:, first:last].view(len(flat), fan_out, row)[..., :fan_in]
            for (fan_out, fan_in), row, (first, last) in zip(
                self.shapes, self.rows, pairwise(self.places.tolist()), strict=True
            )
        ]

    def moved(self) -> list[Tensor]:
        """How far every cell is from its start.

        Returns:
            Δ = θ − θ₀ of each layer, float64, each ``(cells, fan_out, fan_in)``; copies.
        """
        if len(self.displacement) == len(self.seed_of):
            flat = self.displacement.to(torch.float64, copy=True)  # training goes on in the other
        else:
            flat = self.weights.double() - self.start.double()[torch.from_numpy(self.seed_of)]
        return [part.contiguous() for part in self.layers_of(flat)]

    def set_sections(self, sections: Sequence[int]) -> None:
        """Note which seed each cell has.

        Args:
            sections: cells of each seed.
        """
        self.seed_of = np.repeat(np.arange(len(sections)), sections).astype(np.int64)

    def numbers(self, *tensors: Tensor) -> list[np.ndarray]:
        """Flat views for the loops.

        Args:
            *tensors: contiguous, on the CPU.

        Returns:
            Arrays that share their memory.
        """
        return [tensor.view(-1).numpy() for tensor in tensors]

    def train(
        self, inputs: Sequence[Tensor], targets: Sequence[Tensor], lesson: Lesson
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Train all cells on some batches; see ``stack.FusedStack.train``.

        Args:
            inputs: of each seed, ``(steps, batch, input_dim)``.
            targets: of each seed, ``(steps, classes, batch)``.
            lesson: loss and schedule.

        Returns:
            Losses, ⟨|F − F₀|²⟩ and whether a cell is inactive, ``(3, steps, cells)``; accuracies, ``(steps, cells)``.
        """
        cells, (steps, batch, _), optimizer = len(self.seed_of), inputs[0].shape, self.optimizer
        told, hits = np.empty((3, steps, cells)), np.full((steps, cells), np.nan)
        x, y = (
            parts[0].unsqueeze(1) if len(parts) == 1 else torch.stack(tuple(parts), 1) for parts in (inputs, targets)
        )
        x, y = x.to(self.dtype), y.to(self.dtype)
        entropy = torch.zeros(steps, len(targets), batch, dtype=self.dtype)
        if lesson.loss == "cross-entropy":
            entropy = torch.xlogy(y, y).sum(2)
        beta = optimizer.beta.double().numpy() if isinstance(optimizer, HeavyBall | Adam) else np.zeros(cells)
        self.run_loops(
            (elementwise.LOSSES[lesson.loss], self.kind),
            (x, y),
            (
                entropy.numpy(),
                np.outer(lesson.multipliers, self.rates),
                self.steps_done,
                (optimizer.output_scale / batch).to(self.dtype).numpy(),
                lesson.inverse_gamma.to(self.dtype).numpy(),
                optimizer.eta.double().numpy(),
                beta,
                optimizer.weight_decay,
                np.array(lesson.watched) & (y.shape[2] > 1),  # one output is no class
                told,
                hits,
            ),
        )
        self.steps_done += steps
        if not self.can_die:
            told[2] = 0.0
        return told, hits

    @abstractmethod
    def run_loops(self, codes: tuple[int, int], batches: tuple[Tensor, Tensor], common: tuple[Any, ...]) -> None:
        """Call the loops that train.

        Args:
            codes: of the loss and of the optimizer.
            batches: inputs ``(steps, seeds, batch, input_dim)`` and targets ``(steps, seeds, classes, batch)``.
            common: arguments of all loops that train, from ``entropy`` on.
        """

    def keep(self, index: Tensor, sections: Sequence[int]) -> None:
        """Drop cells, here and in the optimizer.

        Args:
            index: positions of the cells to keep, ascending.
            sections: how many of each seed they are.
        """
        for name in ("weights", "displacement", "first", "second"):
            flat = getattr(self, name)
            if len(flat):
                setattr(self, name, flat.index_select(0, index))
        self.optimizer.keep(index)
        self.set_sections(sections)
