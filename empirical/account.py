"""The account of a group of cells that train together: losses of those in the stack, results of those that left."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simulate.outcomes import Thresholds

FORGOTTEN = 1e-7
"""An optimizer with memory β can revive a dead cell until βᵗ has fallen to this."""


class Account:
    """What is known of each cell of a group; entries come for several steps at a time, and none waits for the device.

    Args:
        gamma: feature-learning strengths, float64, shape ``(cells,)``.
        memory: β of each cell, same shape; 0 for optimizers without memory.
        steps: budget T.
        kept: steps at which curves are kept.
        thresholds: the numbers in the definitions of the outcomes.
    """

    def __init__(
        self, gamma: Tensor, memory: Tensor, steps: int, kept: NDArray[np.int64], thresholds: Thresholds
    ) -> None:
        cells, device = len(gamma), gamma.device
        self.steps, self.tail_steps = steps, thresholds.tail_steps(steps)
        self.column = {int(step): column for column, step in enumerate(kept)}
        self.alive = torch.arange(cells, device=device)  # positions in the group of the cells in the stack
        self.bound_square = (thresholds.divergence * gamma.clamp_min(1.0)).square()
        self.patience = self.tail_steps + torch.where(memory > 0, np.log(FORGOTTEN) / memory.log(), 0.0).ceil()
        self.initial = torch.full_like(gamma, torch.nan)
        self.peak, self.tail_sum, self.idle_sum = (torch.zeros_like(gamma) for _ in range(3))
        self.idle, self.diverged_at = (torch.zeros(cells, dtype=torch.int64, device=device) for _ in range(2))
        self.loss_curve = torch.full((cells, len(kept)), torch.nan, dtype=torch.float64, device=device)
        self.accuracy_curve = self.loss_curve.clone()
        self.out = {
            "tail": np.full(cells, np.nan),
            "peak": np.full(cells, np.inf),
            "initial": np.full(cells, np.nan),
            "accuracy": np.full(cells, np.nan),
            "steps_run": np.full(cells, steps, dtype=np.int64),
            "diverged": np.zeros(cells, dtype=bool),
            "dead": np.zeros(cells, dtype=bool),
        }

    def record(self, start: int, losses: Tensor, raw_square: Tensor, inactive: Tensor) -> None:
        """Enter some steps of the cells in the stack.

        Args:
            start: the first of the steps.
            losses: before the update of each step, shape ``(steps, cells)``.
            raw_square: ⟨|F − F₀|²⟩ over the batch, same shape.
            inactive: whether no hidden unit was active, same shape.
        """
        losses = losses.double()
        if start == 0:
            self.initial = losses[0].clone()
        self.peak = torch.maximum(self.peak, losses.amax(0))
        self.tail_sum += losses[max(0, self.steps - self.tail_steps - start) :].sum(0)
        outside = ~(raw_square.double() <= self.bound_square)
        # asking a device whether there is anything to do takes longer than doing it
        waits = losses.device.type != "cpu"
        if waits or bool(outside.any()):
            first = start + 1 + outside.int().argmax(0)
            self.diverged_at = torch.where(outside.any(0) & (self.diverged_at == 0), first, self.diverged_at)
        if waits or bool(inactive.any()):
            # steps since which the cell has been inactive without a break, counted from the last
            unbroken = inactive.flip(0).int().cumprod(0).flip(0).bool()
            self.idle = torch.where(unbroken[0], self.idle, 0) + unbroken.sum(0)
            still = torch.where(unbroken, losses, 0.0).sum(0)
            self.idle_sum = torch.where(unbroken[0], self.idle_sum, 0.0) + still
        else:
            self.idle.zero_()
            self.idle_sum.zero_()
        for row in range(len(losses)):
            column = self.column.get(start + row)
            if column is not None:
                self.loss_curve[self.alive, column] = losses[row]

    def keep_accuracy(self, step: int, accuracy: Tensor) -> None:
        """Enter the accuracy on the batch.

        Args:
            step: one of the steps at which curves are kept.
            accuracy: share of correct predictions, shape ``(cells in the stack,)``.
        """
        self.accuracy_curve[self.alive, self.column[step]] = accuracy

    def retire(self, step: int) -> Tensor | None:
        """Close the accounts of the cells that are decided.

        Args:
            step: steps done.

        Returns:
            Positions in the stack of the cells that stay; ``None`` where all do.
        """
        diverged = self.diverged_at > 0
        dead = (self.idle >= (self.patience if step < self.steps else self.tail_steps)) & ~diverged
        leaving = diverged | dead
        if not bool(leaving.any()):
            return None
        gone = self.alive[leaving].cpu().numpy()
        self.out["initial"][gone] = self.initial[leaving].cpu().numpy()
        self.out["diverged"][gone] = diverged[leaving].cpu().numpy()
        self.out["dead"][gone] = dead[leaving].cpu().numpy()
        self.out["steps_run"][gone] = torch.where(diverged, self.diverged_at, step)[leaving].cpu().numpy()
        quiet = self.alive[dead].cpu().numpy()
        self.out["peak"][quiet] = self.peak[dead].cpu().numpy()
        self.out["tail"][quiet] = (self.idle_sum / self.idle)[dead].cpu().numpy()
        staying = torch.nonzero(~leaving).squeeze(1)
        for name in (
            *("alive", "bound_square", "patience", "initial", "peak"),
            *("tail_sum", "idle_sum", "idle", "diverged_at"),
        ):
            setattr(self, name, getattr(self, name).index_select(0, staying))
        return staying

    def close(self, accuracy: Tensor) -> None:
        """Close the accounts of the cells that ran to the end.

        Args:
            accuracy: on the test set, shape ``(cells in the stack,)``.
        """
        left = self.alive.cpu().numpy()
        self.out["tail"][left] = (self.tail_sum / self.tail_steps).cpu().numpy()
        self.out["peak"][left] = self.peak.cpu().numpy()
        self.out["initial"][left] = self.initial.cpu().numpy()
        self.out["accuracy"][left] = accuracy.cpu().numpy()
