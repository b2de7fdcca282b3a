r"""Streams of randomly deformed 28×28 images: no sample comes twice.

Each sample is one of the training images, chosen at random, under a new random deformation (`empirical.data.deform`).
The inputs are x = s (g - m), with g the grey levels of a deformed image, m their mean at each pixel and s the one scale
that gives E|x|²/d = 1. Both are measured once on ``REFERENCE`` samples of the stream, drawn with a key that no training
batch uses; they depend on (name, size) and not on the seed.
"""

from __future__ import annotations

import functools

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from empirical.data import words
from empirical.data.deform import PARAMETERS, deform, pad
from empirical.data.images import IMAGE_SETS, SIDE, ImageSet
from empirical.data.stream import Arrays, DataStream, check_size, one_hot

SIZES = (7, 14, 28)
"""Sides of the inputs: divisors of 28."""

REFERENCE = 16_384
"""Samples that the normalisation is measured on; the mean at a pixel is known to 1/128 of that pixel's deviation."""


@functools.lru_cache(maxsize=4)
def _padded(name: str, root: str | None) -> NDArray[np.uint8]:
    return pad(IMAGE_SETS[name](root).train_images)


def _grey_levels(
    name: str, root: str | None, size: int, key: tuple[int, int], steps: range, batch_size: int
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Draw steps of the stream, before normalisation.

    Args:
        name: one of ``IMAGE_SETS``.
        root: folder of the files.
        size: side of the inputs.
        key: the seed, and what the numbers are for.
        steps: which steps.
        batch_size: samples in each.

    Returns:
        Grey levels, shape (len(steps)·batch_size, size²), and labels, shape (len(steps)·batch_size,).
    """
    images = IMAGE_SETS[name](root)
    drawn = words.raw_words(*key, steps, batch_size * (1 + PARAMETERS))
    uniforms = words.unit_interval(drawn).reshape(-1, 1 + PARAMETERS)
    index = (uniforms[:, 0] * len(images.train_images)).astype(np.int64)
    grey = deform(_padded(name, root), index, uniforms[:, 1:], size)
    return grey.reshape(-1, size * size), images.train_labels[index]


@numba.njit(cache=True)
def _moments(grey):  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    """Measure the mean at each pixel and the mean square deviation, by plain sums: their order is the same everywhere.

    Args:
        grey: shape (n, d).

    Returns:
        The means, shape (d,), and one number.
    """
    n, d = grey.shape
    mean = np.zeros(d)
    for i in range(n):
        for j in range(d):
            mean[j] += grey[i, j]
    for j in range(d):
        mean[j] /= n
    square = 0.0
    for i in range(n):
        for j in range(d):
            square += (grey[i, j] - mean[j]) * (grey[i, j] - mean[j])
    return mean, square / (n * d)


@functools.cache
def normalisation(name: str, size: int, root: str | None = None) -> tuple[NDArray[np.float64], float]:
    """Measure the centre and the scale of a stream's inputs.

    Args:
        name: one of ``IMAGE_SETS``.
        size: side of the inputs, one of ``SIZES``.
        root: folder of the files.

    Returns:
        ``mean`` of shape (size²,) in grey levels, and ``scale``: inputs are ``scale * (grey - mean)``.
    """
    grey, _ = _grey_levels(name, root, size, (0, words.REFERENCE), range(1), REFERENCE)
    mean, variance = _moments(grey)
    mean.flags.writeable = False
    return mean, float(1.0 / np.sqrt(variance))


class DeformedStream(DataStream):
    """Endless deformations of the training images of a set; the test set is undeformed."""

    def test_set(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Make the test set: images that no batch comes from, undeformed, normalised as the batches are.

        Returns:
            ``x`` of shape (examples, size²) and one-hot ``y`` of shape (examples, num_classes).
        """
        images = self._images()
        block = SIDE // self.size
        # whole numbers up to 16·255 add without rounding
        grey = images.test_images.reshape(-1, self.size, block, self.size, block).mean(axis=(2, 4), dtype=np.float64)
        return self._tensors(*self._normalised(grey.reshape(len(grey), -1), images.test_labels))

    @property
    def example_shape(self) -> tuple[int, ...]:
        """One channel of size × size grey levels."""
        return (1, self.size, self.size)

    @property
    def num_classes(self) -> int:
        """Length of a row of y."""
        return self._images().num_classes

    def _open(self) -> None:
        check_size(self.size, SIDE)
        self._images()

    def _draw(self, steps: range) -> Arrays:
        key = (self.seed, words.TRAINING)
        return self._normalised(*_grey_levels(self.name, self.root, self.size, key, steps, self.batch_size))

    def _images(self) -> ImageSet:
        return IMAGE_SETS[self.name](self.root)

    def _normalised(self, grey: NDArray[np.float64], labels: NDArray[np.uint8]) -> Arrays:
        mean, scale = normalisation(self.name, self.size, self.root)
        grey -= mean
        grey *= scale
        return grey, one_hot(labels, self.num_classes)
