"""Labelled images that may be larger than memory, and batches of them: chosen rows are read, averaged and normalised.

    x = s (g - m),    g_j = mean of a block of pixels of one channel.

m is the mean of g at each pixel and channel and s the one scale that gives E|x|²/d = 1 over the training images: over
all of them, or over a fixed sample where there are more than ``MEASURED_WHOLE``. Both come from exact sums of integers,
so they depend neither on the machine nor on the order of the sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import numba
import numpy as np
from numpy.typing import DTypeLike, NDArray

from empirical.data import words
from theory.errors import InputError

MEASURED_WHOLE = 65_536
"""The normalisation of larger sets is measured on this many of their images, drawn at random with replacement."""

_CHUNK = 512  # images measured at a time


@dataclass(frozen=True, eq=False)
class Examples:
    """Images in one or several arrays, which may be memory-mapped, and their labels, which are in memory.

    Attributes:
        parts: each (n, *shape) of uint8, all of one shape.
        labels: shape (total n,), uint8.
    """

    parts: tuple[NDArray[np.uint8], ...]
    labels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read chosen images.

        Args:
            index: shape (n,), positions in all parts laid end to end.

        Returns:
            Shape (n, *shape); a copy.
        """
        if len(self.parts) == 1:
            return self.parts[0][index]
        ends = np.cumsum([len(part) for part in self.parts])
        which = np.searchsorted(ends, index, side="right")
        out = np.empty((len(index), *self.parts[0].shape[1:]), dtype=np.uint8)
        for number in np.unique(which):
            chosen = which == number
            part = self.parts[number]
            out[chosen] = part[index[chosen] - (ends[number] - len(part))]
        return out


@dataclass(frozen=True, eq=False)
class ImageSource:
    """A data set of images of one size.

    Attributes:
        train: what batches are drawn from.
        test: what is held out.
        num_classes: how many classes there are.
        channels: numbers a pixel.
        side: pixels along each side.
        channels_last: whether the axes of an image are (row, column, channel) and not (channel, row, column).
    """

    train: Examples
    test: Examples
    num_classes: int
    channels: int
    side: int
    channels_last: bool = False

    def check(self, what: str) -> ImageSource:
        """See that shapes and labels are what they should be.

        Args:
            what: the data set, for the message.

        Returns:
            The source itself.

        Raises:
            InputError: there are no images, or a shape, a type, a count or a label is wrong.
        """
        numbers = self.channels * self.side**2
        for half, examples in (("training", self.train), ("test", self.test)):
            found = ", ".join(f"{part.dtype} {part.shape}" for part in examples.parts)
            if any(part.dtype != np.uint8 or part[:1].size != numbers for part in examples.parts):
                shape = f"{self.side}×{self.side}×{self.channels}"
                raise InputError("data", what, f"{half} images of {shape} unsigned bytes, but they are {found}")
            if sum(map(len, examples.parts)) != len(examples) or examples.labels.ndim != 1:
                raise InputError("data", what, f"a label for each {half} image: {found}, {examples.labels.shape}")
            if not len(examples) or examples.labels.max() >= self.num_classes:
                raise InputError("data", what, f"{half} images with labels below {self.num_classes}")
        return self

    def inputs(
        self,
        examples: Examples,
        index: NDArray[np.int64],
        mean: NDArray[np.float64],
        scale: float,
        dtype: DTypeLike = np.float64,
    ) -> NDArray[np.floating]:
        """Read chosen images, average and normalise them.

        Args:
            examples: one of the halves.
            index: shape (n,).
            mean: grey levels, shape (channels·size²,); its length says the size, which divides ``side``.
            scale: what is left is multiplied by this.
            dtype: of the result, which is computed in float64 and rounded.

        Returns:
            Shape (n, channels·size²), channel by channel.
        """
        rows = examples.take(index).reshape(len(index), -1)
        size, out = isqrt(mean.size // self.channels), np.empty((len(index), mean.size), dtype)
        _normalise_rows(rows, self.channels, self.side, size, self.channels_last, mean, scale, out)
        return out


@numba.njit(cache=True, nogil=True)
def _add_blocks(pixels, channels, side, size, channels_last, sums):  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    """Add up the blocks of one image (channels·side²,) in ``sums`` (channels·size²,)."""
    block = side // size
    pixel_stride = channels if channels_last else 1
    channel_stride = 1 if channels_last else side * side
    sums[:] = 0
    for c in range(channels):
        for i in range(side):
            target = c * size * size + (i // block) * size
            start = c * channel_stride + i * side * pixel_stride
            if block == 1:
                for j in range(side):
                    sums[target + j] = pixels[start + j * pixel_stride]
            else:
                for j in range(size):
                    total = np.int32(0)
                    for m in range(block):
                        total += pixels[start + (j * block + m) * pixel_stride]
                    sums[target + j] += total


@numba.njit(cache=True, nogil=True)
def _normalise_rows(rows, channels, side, size, channels_last, mean, scale, out):  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    """Fill ``out`` (n, channels·size²) with normalised averages of rows (n, channels·side²)."""
    share = 1.0 / (side // size) ** 2
    sums = np.zeros(out.shape[1], dtype=np.int32)
    for n in range(rows.shape[0]):
        _add_blocks(rows[n], channels, side, size, channels_last, sums)
        for j in range(out.shape[1]):
            out[n, j] = (sums[j] * share - mean[j]) * scale


@numba.njit(cache=True, nogil=True)
def _accumulate(rows, channels, side, size, channels_last, first):  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    """Add the sums of blocks to ``first`` (channels·size²,), and give the sum of all their squares."""
    sums = np.zeros(first.size, dtype=np.int32)
    second = np.int64(0)
    for n in range(rows.shape[0]):
        _add_blocks(rows[n], channels, side, size, channels_last, sums)
        for j in range(first.size):
            first[j] += sums[j]
            second += np.int64(sums[j]) * np.int64(sums[j])
    return second


def normalise(source: ImageSource, size: int) -> tuple[NDArray[np.float64], float]:
    """Measure the centre and the scale of the training inputs.

    Args:
        source: the data set.
        size: side of the area-averaged images.

    Returns:
        ``mean`` of shape (channels·size²,) in grey levels, and ``scale``: inputs are ``scale * (grey - mean)``.

    Raises:
        InputError: all images are the same.
    """
    total = len(source.train)
    if total <= MEASURED_WHOLE:
        index = np.arange(total)
    else:
        uniforms = words.unit_interval(words.raw_words(0, words.REFERENCE, range(1), MEASURED_WHOLE))[0]
        index = np.sort((uniforms * total).astype(np.int64))  # ascending: the disk is read in order
    first = np.zeros(source.channels * size * size, dtype=np.int64)
    parts = []
    for start in range(0, len(index), _CHUNK):
        rows = source.train.take(index[start : start + _CHUNK]).reshape(-1, source.channels * source.side**2)
        parts.append(_accumulate(rows, source.channels, source.side, size, source.channels_last, first))
    n, area, square_of_sums = len(index), (source.side // size) ** 2, sum(int(s) ** 2 for s in first)
    second = sum(int(part) for part in parts)  # Python integers cannot overflow
    spread = n * second - square_of_sums  # n² d area² times the variance, exactly
    if spread <= 0:
        raise InputError("images", f"{n} of side {source.side}", "different from each other: these are all the same")
    mean = first / (n * area)
    mean.flags.writeable = False
    return mean, n * area * (first.size / spread) ** 0.5


def evenly_spread(total: int, most: int) -> NDArray[np.int64]:
    """Choose some of many examples, evenly spread.

    Args:
        total: how many there are.
        most: how many to choose at most.

    Returns:
        Ascending indices.
    """
    return np.arange(total) if total <= most else np.arange(most) * total // most


def side_of(shape: tuple[int, ...]) -> int:
    """Side of square grey images laid out in any of the usual shapes.

    Args:
        shape: of an array of images: (n, s, s), (n, s, s, 1) or (n, s²).

    Returns:
        The side s, or 0 where the images are not square.
    """
    numbers = int(np.prod(shape[1:], dtype=np.int64))
    return isqrt(numbers) if isqrt(numbers) ** 2 == numbers else 0
