"""Label noise: a stream whose training labels are, with probability p, those of a class drawn at random.

Example i of a step keeps its label with probability 1 − p and takes one of the C classes, each equally likely and its
own among them, with probability p: a share p (C − 1)/C of the labels is wrong. Who is touched is a pure function of
(seed, step, i), drawn as the stream itself is (see ``words``) with a key of its own, so that the inputs are those of
the clean stream, cells with and without noise see the same batches, a smaller batch is the beginning of a larger one,
and of two probabilities the larger touches all that the smaller does. The test set is clean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from empirical.data.stream import DataStream
from empirical.data.words import LABEL_NOISE, raw_words, unit_interval
from theory.errors import InputError

_WORDS = 2  # raw words an example takes: whether its label is drawn anew, and which it becomes


@dataclass(frozen=True)
class NoisyLabels:
    """A stream with noisy training labels: ``x, y = stream(step)`` is a pure function of (seed, step).

    Attributes:
        stream: what it is laid over; targets are one-hot.
        probability: p, at least 0 and below 1.

    Raises:
        InputError: the probability is outside its range, or the targets are real numbers.
    """

    stream: DataStream
    probability: float

    def __post_init__(self) -> None:
        if not 0 <= self.probability < 1:
            raise InputError("label_noise", self.probability, "a probability, at least 0 and below 1")
        if self.stream.num_classes < 2:
            raise InputError("label_noise", self.probability, f"0 on {self.stream.name}, which has no classes")
        if self.stream.num_classes == 1:
            raise InputError("label_noise", self.probability, f"0: the targets of {self.stream.name} are not labels")

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Make the batch of one step.

        Args:
            step: from 0 to 2⁶⁴ - 1.

        Returns:
            ``x`` of the clean stream, and one-hot ``y`` of the shape of the clean one.
        """
        x, y = self.batches(step, step + 1)
        return x[0], y[0]

    def batches(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Make the batches of consecutive steps; the same as calling the stream at each.

        Args:
            start: first step, from 0.
            stop: one past the last step.

        Returns:
            ``x`` and ``y`` in the shapes of the clean stream's.
        """
        x, clean = self.stream.batches(start, stop)
        words = raw_words(self.seed, LABEL_NOISE, range(start, stop), self.batch_size * _WORDS)
        uniforms = unit_interval(words).reshape(*clean.shape[:2], _WORDS)
        touched = torch.from_numpy(uniforms[..., 0] < self.probability).to(clean.device)
        drawn = torch.from_numpy((uniforms[..., 1] * self.num_classes).astype(np.int64)).to(clean.device)
        noise = torch.zeros_like(clean).scatter_(-1, drawn.unsqueeze(-1), 1.0)
        return x, torch.where(touched.unsqueeze(-1), noise, clean)

    def test_set(self) -> tuple[Tensor, Tensor]:
        """Make the test set of the clean stream.

        Returns:
            Its inputs and one-hot targets.
        """
        return self.stream.test_set()

    @property
    def batch_size(self) -> int:
        """Samples in a batch."""
        return self.stream.batch_size

    @property
    def seed(self) -> int:
        """Names the sequence of batches, and of their noise."""
        return self.stream.seed

    @property
    def input_dim(self) -> int:
        """Length of a row of x."""
        return self.stream.input_dim

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.stream.example_shape

    @property
    def num_classes(self) -> int:
        """Length of a row of y."""
        return self.stream.num_classes
