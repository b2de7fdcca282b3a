"""What an ensemble asks of a stack of C networks of one architecture that train side by side.

There are two kinds. A ``StepwiseStack`` does one step of all its cells at a time, in two passes: ``forward`` on one
batch a seed, then, after the loss and its derivative by the output (which are not the stack's), ``update``. It knows
nothing of γ and losses. A ``FusedStack`` is given several batches and everything else that a step needs.

All are told by ``lazy`` whether their cells move so little that θ₀ and the displacement Δ = θ − θ₀ have to be held
apart. Cells of one seed stand side by side; ``sections`` counts them, seed by seed, in the order of the batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from empirical.optimizers import Optimizer


class Stack(Protocol):
    """The weights of C cells, and what all stacks can do."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Centred raw outputs F(θ; x) − F(θ₀; x).

        Called under ``torch.no_grad``. The batch size may change from call to call, and no call changes a weight.

        Args:
            inputs: one batch a seed, each ``(batch, input_dim)``.

        Returns:
            Shape ``(cells, num_classes, batch)``; the caller may overwrite it.
        """

    def displacements(self) -> dict[str, Tensor]:
        """How far every cell is from its start, by the names and shapes of ``Architecture.module``.

        Returns:
            Δ = θ − θ₀ of each trainable tensor, float64, each ``(cells, *shape)``; copies.
        """

    def keep(self, index: Tensor, sections: Sequence[int]) -> None:
        """Drop cells, here and in the optimizer.

        Args:
            index: positions of the cells to keep, ascending.
            sections: how many of each seed they are.
        """


class StepwiseStack(Stack, Protocol):
    """A stack whose ``forward`` keeps what ``update`` needs."""

    def update(self, gradient: Tensor) -> None:
        """One optimizer step from the last ``forward``.

        Each weight tensor w is one slot of the optimizer, from 0 on: ``optimizer.step(slot, moving, g, rate, w)`` with
        ``moving`` what is stored (w or its displacement), g the product of ``gradient`` with ∂F/∂w, of the shape of w,
        and ``rate`` the multiplier of η for that tensor, which depends on ``optimizer.normalized``. Without
        ``optimizer.weight_decay``, w may be left out; where ``optimizer.plain``, w −= rate · ``optimizer.multiplier``
        · g may be done in any other way. The caller begins each step of the optimizer.

        Args:
            gradient: ∂ℓ/∂f times ``optimizer.output_scale``, shape ``(cells, num_classes, batch)``. May be
                overwritten.
        """

    def inactive(self) -> Tensor:
        """Cells whose gradient is exactly zero on the last batch, because no hidden unit is active.

        Returns:
            Booleans, shape ``(cells,)``; all false for architectures that cannot die.
        """


@dataclass(frozen=True)
class Lesson:
    """What a ``FusedStack`` is told about some steps.

    Attributes:
        loss: name of the loss.
        inverse_gamma: 1/γ of each cell, in the stack's precision, shape ``(cells,)``.
        multipliers: s(t) of the schedule, step by step.
        watched: whether the accuracy on the batch is wanted, step by step.
    """

    loss: str
    inverse_gamma: Tensor
    multipliers: Sequence[float]
    watched: Sequence[bool]


@runtime_checkable
class FusedStack(Stack, Protocol):
    """A stack that does several steps of one cell before it looks at the next; its optimizer only holds numbers."""

    def train(
        self, inputs: Sequence[Tensor], targets: Sequence[Tensor], lesson: Lesson
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Train all cells on some batches.

        Args:
            inputs: of each seed, ``(steps, batch, input_dim)``.
            targets: of each seed, ``(steps, classes, batch)``.
            lesson: loss and schedule.

        Returns:
            Losses before each update, ⟨|F − F₀|²⟩ over the batch, and whether no hidden unit was active, 0 or 1, shape
            ``(3, steps, cells)``; the accuracy on the batch where it was wanted and there are
            classes, else NaN, shape ``(steps, cells)``.
        """


@dataclass(frozen=True)
class Placement:
    """Which cells a stack holds, what moves them, and where they live.

    Attributes:
        seeds: the different seeds.
        sections: cells of each seed.
        optimizer: moves the weights; its cells are those of the stack.
        lazy: F(θ) − F(θ₀) must not cancel. MLPs send displacements forward, the others compute in double precision.
        dtype: of inputs and outputs.
        device: where everything lives.
    """

    seeds: Sequence[int]
    sections: Sequence[int]
    optimizer: Optimizer
    lazy: bool
    dtype: torch.dtype
    device: torch.device

    @property
    def inner_dtype(self) -> torch.dtype:
        """Precision of a stack that meets cancellation with more digits."""
        return torch.float64 if self.lazy else self.dtype


class Architecture(Protocol):
    """Specification of a network: sizes only, hashable, the same in every process."""

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape in which ``module`` takes one example; streams give it flattened."""

    def parameter_count(self) -> int:
        """Number of weights of one network."""

    def module(self, seed: int) -> nn.Module:
        """One network at its θ₀, with effective weights, in double precision where its draws are."""

    def rates(self, normalized: bool = False) -> Mapping[str, float]:
        """Width multiplier of η for each trainable tensor of ``module``, by name.

        Args:
            normalized: for optimizers that take every weight equally far (sign descent, Adam), not for gradients.
        """

    def stack(self, placement: Placement) -> StepwiseStack | FusedStack:
        """Networks at their θ₀, which is a pure function of the seed."""


@runtime_checkable
class CellByCell(Protocol):
    """An architecture that has fused stacks."""

    def trains_cell_by_cell(self, device: torch.device) -> bool:
        """Tell whether stacks are fused.

        Args:
            device: where they are to live.

        Returns:
            Whether any number of cells may go into one stack: never more than one is in the core's cache.
        """
