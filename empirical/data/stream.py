"""What every data stream is: endless batches, each a pure function of (seed, step).

A step's randomness is the Philox words of that seed and step (see `empirical.data.words`), and sample i of a step takes
the i-th group of them: steps can be asked for in any order, and a smaller batch is the beginning of a larger one.
Inputs have mean zero at each coordinate and E|x|²/d = 1. Targets are one-hot, or one real number of unit variance.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray

from empirical.data.words import WORD_LIMIT
from theory.errors import InputError, positive_integer

_DTYPES = (torch.float32, torch.float64)

Arrays = tuple[NDArray[np.floating], NDArray[np.floating]]
"""Inputs (n, d) and targets (n, num_classes)."""


@dataclass(frozen=True)
class DataStream(ABC):
    """Endless batches: ``x, y = stream(step)`` is a pure function of (seed, step).

    Make one with `data_stream`. It holds settings and no state, so it can be copied, compared and sent to another
    process; files are named, not held.

    Attributes:
        name: the data set, one of ``DATA_SETS``, perhaps with an option after a colon.
        batch_size: samples in a batch.
        seed: names the sequence of batches, from 0 to 2⁶⁴ - 1. Different seeds are independent.
        size: side of the images, area averages where it is below their own; of a teacher, the input dimension.
        dtype: of x and y, ``torch.float32`` or ``torch.float64``; float32 values are the float64 ones, rounded.
        device: where x and y are put; they are made on the CPU.
        root: folder that the files are looked for in; ``None`` where the data need no files of the user's.

    Raises:
        InputError: an attribute is outside its range, or a data file is missing or damaged.
    """

    name: str
    batch_size: int
    seed: int
    size: int
    dtype: torch.dtype
    device: torch.device
    root: str | None = None

    def __post_init__(self) -> None:
        positive_integer("batch_size", self.batch_size)
        if positive_integer("seed", self.seed, least=0) >= WORD_LIMIT:
            raise InputError("seed", self.seed, "an integer below 2**64")
        positive_integer("size", self.size)
        if self.dtype not in _DTYPES:
            raise InputError("dtype", self.dtype, "torch.float32 or torch.float64")
        try:
            device = torch.device(self.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, TypeError, NotImplementedError):
            raise InputError("device", self.device, "a torch device of this machine, such as cpu or cuda") from None
        object.__setattr__(self, "device", device)
        for field in ("batch_size", "seed", "size"):  # NumPy integers become plain ones, which JSON can write
            object.__setattr__(self, field, int(getattr(self, field)))
        self._open()  # what is wrong is reported now, not at the first step

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Make the batch of one step.

        Args:
            step: from 0 to 2⁶⁴ - 1.

        Returns:
            ``x`` of shape (batch_size, input_dim), examples laid end to end, and ``y`` of shape (batch_size,
            num_classes).

        Raises:
            InputError: ``step`` is not an integer in that range.
        """
        if positive_integer("step", step, least=0) >= WORD_LIMIT:
            raise InputError("step", step, "an integer below 2**64")
        return self._tensors(*self._draw(range(step, int(step) + 1)))

    def batches(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Make the batches of consecutive steps; the same as calling the stream at each, with less overhead.

        Args:
            start: first step, from 0.
            stop: one past the last step, from ``start + 1`` to 2⁶⁴.

        Returns:
            ``x`` of shape (stop - start, batch_size, input_dim) and ``y`` of shape
            (stop - start, batch_size, num_classes).

        Raises:
            InputError: a step is not an integer in those ranges.
        """
        first = positive_integer("start", start, least=0)
        last = positive_integer("stop", stop, least=first + 1)
        if last > WORD_LIMIT:
            raise InputError("stop", stop, "an integer up to 2**64")
        x, y = self._tensors(*self._draw(range(first, last)))
        return x.view(-1, self.batch_size, self.input_dim), y.view(-1, self.batch_size, self.num_classes)

    @abstractmethod
    def test_set(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Make the test set: examples that no batch comes from, normalised as the batches are.

        Returns:
            ``x`` of shape (examples, input_dim) and ``y`` of shape (examples, num_classes).
        """

    @property
    @abstractmethod
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example: (channels, side, side) of images, (d,) otherwise."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Length of a row of y; 1 where the targets are real numbers."""

    @property
    def input_dim(self) -> int:
        """Length of a row of x."""
        return prod(self.example_shape)

    @abstractmethod
    def _open(self) -> None:
        """Raise an ``InputError`` where the size is not allowed or the data cannot be read."""

    @abstractmethod
    def _draw(self, steps: range) -> Arrays:
        """Inputs and targets of all samples of some steps, normalised."""

    def _tensors(self, x: NDArray, y: NDArray) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(x).to(self.device, self.dtype), torch.from_numpy(y).to(self.device, self.dtype)


def one_hot(labels: NDArray[np.integer], num_classes: int) -> NDArray[np.float64]:
    """Write labels as rows with a single one.

    Args:
        labels: shape (n,), from 0 to ``num_classes`` - 1.
        num_classes: length of a row.

    Returns:
        Shape (n, num_classes).
    """
    y = np.zeros((labels.size, num_classes))
    y[np.arange(labels.size), labels] = 1.0
    return y


def check_size(size: int, side: int) -> None:
    """Check that images can be area-averaged to a size.

    Args:
        size: side that is asked for.
        side: side that the images have.

    Raises:
        InputError: it does not divide the side, or is below ``SMALLEST``.
    """
    allowed = [s for s in range(SMALLEST, side + 1) if side % s == 0]
    if size not in allowed:
        raise InputError(
            "size", size, f"one of {', '.join(map(str, allowed))}: images of side {side} are area-averaged"
        )


SMALLEST = 7
"""Images are not averaged to a smaller side than this."""
