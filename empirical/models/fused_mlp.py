"""ReLU MLPs on a CPU: cells are trained one by one for several steps in a row by compiled loops (``kernels.mlp``)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empirical.kernels import elementwise, mlp
from empirical.kernels.tiles import lanes, vector_registers
from empirical.models.stack import Lesson, Placement
from empirical.optimizers import Adam, HeavyBall, SignDescent
from empirical.parametrization import LayerScale


def can_train(device: torch.device) -> bool:
    """Tell whether the loops are for a device.

    Args:
        device: where a stack is to live.

    Returns:
        Whether it is a CPU with fused multiply-add.
    """
    return device.type == "cpu" and vector_registers() is not None


class FusedMLPStack:
    """The weights of C ReLU networks of one core; see ``stack.FusedStack``.

    Weights are float32 or float64, flat, laid out as ``kernels.mlp`` says. A cell has the same bits whatever other
    cells and seeds there are.

    Args:
        layers: scales of each weight layer, input first.
        starts: V_ℓ(0) of each seed, input layer first, each ``(fan_out, fan_in)``.
        rates: width multiplier of η for each layer, of the optimizer at hand.
        placement: cells and optimizer.
    """

    def __init__(
        self,
        layers: Sequence[LayerScale],
        starts: Sequence[Sequence[Tensor]],
        rates: Sequence[float],
        placement: Placement,
    ) -> None:
        self.optimizer, self.rates, self.lazy, self.dtype = placement.optimizer, rates, placement.lazy, placement.dtype
        self.layers, self.steps_done = layers, 0
        inputs, width, outputs = layers[0].fan_in, layers[-1].fan_in, layers[-1].fan_out
        self.sizes = np.array(
            [len(layers), inputs, width, outputs, self._padded(inputs), self._padded(width)], dtype=np.int64
        )
        self.rows = [self._padded(layer.fan_in) for layer in layers]
        sizes = [layer.fan_out * row for layer, row in zip(layers, self.rows, strict=True)]
        self.ends = list(pairwise([0, *np.cumsum(sizes).tolist()]))
        self.start = torch.zeros(len(starts), sum(sizes), dtype=self.dtype)
        for layer, part in enumerate(self._layers_of(self.start)):
            part.copy_(torch.stack([weights[layer] for weights in starts]))
        self._set_sections(placement.sections)
        self.weights = self.start[torch.from_numpy(self.seed_of)]
        self.displacement, self.first, self.second = (
            torch.zeros_like(self.weights if needed else self.weights[:0])
            for needed in (
                self.lazy,
                isinstance(self.optimizer, HeavyBall | Adam),
                isinstance(self.optimizer, Adam),
            )
        )

    def _padded(self, size: int) -> int:
        """The length of a row of whole vectors."""
        return -(-size // lanes(self.dtype.itemsize)) * lanes(self.dtype.itemsize)

    def _layers_of(self, flat: Tensor) -> list[Tensor]:
        """Views of the weights of each layer, each ``(cells, fan_out, fan_in)``."""
        return [
            flat[:, first:last].view(len(flat), layer.fan_out, row)[..., : layer.fan_in]
            for layer, row, (first, last) in zip(self.layers, self.rows, self.ends, strict=True)
        ]

    def _set_sections(self, sections: Sequence[int]) -> None:
        self.seed_of = np.repeat(np.arange(len(sections)), sections).astype(np.int64)

    @cached_property
    def _kind(self) -> int:
        """The optimizer, as the loops know it."""
        kinds = {HeavyBall: elementwise.HEAVY_BALL, Adam: elementwise.ADAM, SignDescent: elementwise.SIGN}
        plain = elementwise.PLAIN if self.optimizer.plain else elementwise.DECAYED
        return kinds.get(type(self.optimizer), plain)

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
        cells, (steps, batch, _) = len(self.seed_of), inputs[0].shape
        told, hits = np.empty((3, steps, cells)), np.full((steps, cells), np.nan)
        x, y = self._padded_rows(inputs), self._padded_rows(targets)
        entropy = torch.zeros(steps, len(targets), batch, dtype=self.dtype)
        if lesson.loss == "cross-entropy":
            entropy = torch.xlogy(y, y).sum(2)[..., :batch].contiguous()
        optimizer = self.optimizer
        mlp.train(
            *(flat.view(-1).numpy() for flat in (self.weights, self.start, self.displacement)),
            *(flat.view(-1).numpy() for flat in (self.first, self.second)),
            self.seed_of,
            self.sizes,
            self.lazy,
            elementwise.LOSSES[lesson.loss],
            self._kind,
            x.numpy(),
            y.numpy(),
            entropy.numpy(),
            np.outer(lesson.multipliers, self.rates),
            self.steps_done,
            (optimizer.output_scale / batch).numpy(),
            lesson.inverse_gamma.numpy(),
            optimizer.eta.double().numpy(),
            optimizer.beta.double().numpy() if isinstance(optimizer, HeavyBall | Adam) else np.zeros(cells),
            optimizer.weight_decay,
            np.array(lesson.watched) & (self.layers[-1].fan_out > 1),  # one output is no class
            told,
            hits,
        )
        self.steps_done += steps
        return told, hits

    def _padded_rows(self, batches: Sequence[Tensor]) -> Tensor:
        """Batches of several seeds in one tensor, ``(steps, seeds, rows, columns)``, columns padded with zeros."""
        padding = self._padded(batches[0].shape[2]) - batches[0].shape[2]
        together = batches[0].unsqueeze(1) if len(batches) == 1 else torch.stack(tuple(batches), 1)
        return torch.nn.functional.pad(together, (0, padding)).contiguous()

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Centred raw outputs F(θ; x) − F(θ₀; x); see ``stack.Stack.forward``.

        Args:
            inputs: one batch a seed, each ``(batch, input_dim)``.

        Returns:
            Shape ``(cells, num_classes, batch)``.
        """
        batch = len(inputs[0])
        x = torch.zeros(len(inputs), self.layers[0].fan_in, self._padded(batch), dtype=self.dtype)
        for seed, examples in enumerate(inputs):
            x[seed, :, :batch] = examples.T
        out = torch.empty(len(self.seed_of), self.layers[-1].fan_out, x.shape[2], dtype=self.dtype)
        flat = (self.weights, self.start, self.displacement)
        mlp.outputs_of(
            *(part.view(-1).numpy() for part in flat), self.seed_of, self.sizes, self.lazy, x.numpy(), out.numpy()
        )
        return out[..., :batch]

    def displacements(self) -> dict[str, Tensor]:
        """How far every cell is from its start.

        Returns:
            Δ = θ − θ₀ by the names of ``MLP.module``, float64, each ``(cells, fan_out, fan_in)``.
        """
        if self.lazy:
            moved = self.displacement.to(torch.float64, copy=True)  # training goes on in the other
        else:
            moved = self.weights.double() - self.start.double()[torch.from_numpy(self.seed_of)]
        return {f"layers.{layer}": part.contiguous() for layer, part in enumerate(self._layers_of(moved))}

    def keep(self, index: Tensor, sections: Sequence[int]) -> None:
        """Drop cells, here and in the optimizer.

        Args:
            index: positions of the cells to keep, ascending.
            sections: how many of each seed they are.
        """
        self.weights = self.weights.index_select(0, index)
        for name in ("displacement", "first", "second"):
            flat = getattr(self, name)
            if len(flat):
                setattr(self, name, flat.index_select(0, index))
        self.optimizer.keep(index)
        self._set_sections(sections)
