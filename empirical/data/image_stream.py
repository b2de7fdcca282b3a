"""Streams of images drawn with replacement from a data set on disk: online, without epochs.

Sample i of a step is training image ⌊u n⌋, with u the i-th word of that step as a number in [0, 1).
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray

from empirical.data import words
from empirical.data.files import OPENERS
from empirical.data.locate import data_root
from empirical.data.source import Examples, ImageSource, evenly_spread, normalise
from empirical.data.stream import Arrays, DataStream, check_size, one_hot

TEST_EXAMPLES = 10_000
"""Of a larger test set this many are used, evenly spread."""

_CHUNK = 512  # test images normalised at a time


@functools.lru_cache(maxsize=4)
def open_source(name: str, root: str) -> ImageSource:
    """Open a data set; large ones are mapped, not read.

    Args:
        name: one of ``OPENERS``.
        root: folder of all data sets.

    Returns:
        Its images and labels, checked.
    """
    return OPENERS[name](data_root(root)).check(name)


@functools.lru_cache(maxsize=16)
def normalisation(name: str, size: int, root: str) -> tuple[NDArray[np.float64], float]:
    """Measure the centre and the scale of a stream's inputs; see `empirical.data.source.normalise`.

    Args:
        name: one of ``OPENERS``.
        size: side of the inputs.
        root: folder of all data sets.

    Returns:
        ``mean`` of shape (channels·size²,) in grey levels, and ``scale``: inputs are ``scale * (grey - mean)``.
    """
    return normalise(open_source(name, root), size)


class ImageStream(DataStream):
    """Images drawn with replacement from the training half of a data set."""

    def test_set(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Make the test set: images that no batch comes from, normalised as the batches are.

        Returns:
            ``x`` of shape (examples, input_dim) and one-hot ``y`` of shape (examples, num_classes), of at most
            ``TEST_EXAMPLES`` examples.
        """
        test = self._source().test
        index = evenly_spread(len(test), TEST_EXAMPLES)
        parts = [self._tensors(*self._read(test, part)) for part in np.split(index, range(_CHUNK, len(index), _CHUNK))]
        return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Channels × size × size."""
        return (self._source().channels, self.size, self.size)

    @property
    def num_classes(self) -> int:
        """Length of a row of y."""
        return self._source().num_classes

    def _open(self) -> None:
        check_size(self.size, self._source().side)

    def _source(self) -> ImageSource:
        return open_source(self.name, str(self.root))

    def _draw(self, steps: range) -> Arrays:
        train = self._source().train
        uniforms = words.unit_interval(words.raw_words(self.seed, words.TRAINING, steps, self.batch_size)).ravel()
        return self._read(train, (uniforms * len(train)).astype(np.int64))

    def _read(self, examples: Examples, index: NDArray[np.int64]) -> Arrays:
        source = self._source()
        mean, scale = normalisation(self.name, self.size, str(self.root))
        x = source.inputs(examples, index, mean, scale, np.float32 if self.dtype == torch.float32 else np.float64)
        return x, one_hot(examples.labels[index], source.num_classes)
