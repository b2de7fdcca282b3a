r"""Endless online data as a pure function of (seed, step).

A batch is drawn with NumPy's Philox in counter mode: key (seed, purpose), counter starting at (0, 0, step, 0). Sample i
of a step takes the i-th group of raw words, so there is no generator state to save, steps can be asked for in any order
and by any process, and a smaller batch is the beginning of a larger one. Raw words, unlike NumPy's distributions, are
promised never to change between versions (NEP 19); what follows uses IEEE arithmetic alone.

The inputs are x = s (g - m), with g the grey levels of a deformed image, m their mean at each pixel and s the one scale
that gives E|x|²/d = 1. Both are measured once on ``REFERENCE`` samples of the stream, drawn with a key that no training
batch uses; they depend on (name, size) and not on the seed.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from empirical.data.deform import PARAMETERS, deform, pad
from empirical.data.images import IMAGE_SETS, SIDE, ImageSet
from theory.errors import InputError, one_of, positive_integer

DATA_SETS = tuple(IMAGE_SETS)
"""The names that `data_stream` accepts."""

SIZES = (7, 14, 28)
"""Sides of the inputs: divisors of 28."""

REFERENCE = 16_384
"""Samples that the normalisation is measured on; the mean at a pixel is known to 1/128 of that pixel's deviation."""

_TRAINING, _REFERENCE_KEY = 0, 1  # the second word of the key: what the numbers are for
_WORD_LIMIT = 2**64
_DTYPES = (torch.float32, torch.float64)


@functools.cache
def _padded(name: str) -> NDArray[np.uint8]:
    return pad(IMAGE_SETS[name]().train_images)


def _grey_levels(
    name: str, size: int, key: tuple[int, int], steps: range, batch_size: int
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Draw steps of the stream, before normalisation.

    Args:
        name: one of ``DATA_SETS``.
        size: side of the inputs.
        key: the seed, and what the numbers are for.
        steps: which steps.
        batch_size: samples in each.

    Returns:
        Grey levels, shape (len(steps)·batch_size, size²), and labels, shape (len(steps)·batch_size,).
    """
    images = IMAGE_SETS[name]()
    words = np.empty((len(steps), batch_size * (1 + PARAMETERS)), dtype=np.uint64)
    for row, step in zip(words, steps, strict=True):
        generator = np.random.Philox(key=np.array(key, np.uint64), counter=np.array([0, 0, step, 0], np.uint64))
        row[:] = generator.random_raw(row.size)
    # the 53 leading bits of a word as a number in [0, 1): exact
    uniforms = ((words >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(-1, 1 + PARAMETERS)
    index = (uniforms[:, 0] * len(images.train_images)).astype(np.int64)
    grey = deform(_padded(name), index, uniforms[:, 1:], size)
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
def normalisation(name: str, size: int) -> tuple[NDArray[np.float64], float]:
    """Measure the centre and the scale of a stream's inputs.

    Args:
        name: one of ``DATA_SETS``.
        size: side of the inputs, one of ``SIZES``.

    Returns:
        ``mean`` of shape (size²,) in grey levels, and ``scale``: inputs are ``scale * (grey - mean)``.
    """
    grey, _ = _grey_levels(name, size, (0, _REFERENCE_KEY), range(1), REFERENCE)
    mean, variance = _moments(grey)
    mean.flags.writeable = False
    return mean, float(1.0 / np.sqrt(variance))


@dataclass(frozen=True)
class DataStream:
    """Endless batches of labelled images: ``x, y = stream(step)`` is a pure function of (seed, step).

    Make one with `data_stream`. It holds settings and no state, so it can be copied, compared and sent to another
    process.

    Attributes:
        name: the data set, one of ``DATA_SETS``.
        batch_size: samples in a batch.
        seed: names the sequence of batches, from 0 to 2⁶⁴ - 1. Different seeds are independent.
        size: side of the images, one of ``SIZES``; those below 28 are area averages of the 28×28 ones.
        dtype: of x and y, ``torch.float32`` or ``torch.float64``; float32 values are the float64 ones, rounded.
        device: where x and y are put; they are made on the CPU.

    Raises:
        InputError: an attribute is outside its range, or the data file is damaged.
    """

    name: str
    batch_size: int
    seed: int
    size: int
    dtype: torch.dtype
    device: torch.device

    def __post_init__(self) -> None:
        one_of("name", self.name, DATA_SETS)
        positive_integer("batch_size", self.batch_size)
        if positive_integer("seed", self.seed, least=0) >= _WORD_LIMIT:
            raise InputError("seed", self.seed, "an integer below 2**64")
        if positive_integer("size", self.size) not in SIZES:
            raise InputError("size", self.size, "one of " + ", ".join(map(str, SIZES)))
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
        self._images()  # a damaged file is reported now, not at the first step

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Make the batch of one step.

        Args:
            step: from 0 to 2⁶⁴ - 1.

        Returns:
            ``x`` of shape (batch_size, size²), rows of pixels laid end to end, and one-hot ``y`` of shape
            (batch_size, num_classes).

        Raises:
            InputError: ``step`` is not an integer in that range.
        """
        if positive_integer("step", step, least=0) >= _WORD_LIMIT:
            raise InputError("step", step, "an integer below 2**64")
        x, y = self.batches(step, int(step) + 1)
        return x[0], y[0]

    def batches(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Make the batches of consecutive steps; the same as calling the stream at each, with less overhead.

        Args:
            start: first step, from 0.
            stop: one past the last step, from ``start + 1`` to 2⁶⁴.

        Returns:
            ``x`` of shape (stop - start, batch_size, size²) and one-hot ``y`` of shape
            (stop - start, batch_size, num_classes).

        Raises:
            InputError: a step is not an integer in those ranges.
        """
        first = positive_integer("start", start, least=0)
        last = positive_integer("stop", stop, least=first + 1)
        if last > _WORD_LIMIT:
            raise InputError("stop", stop, "an integer up to 2**64")
        grey, labels = _grey_levels(self.name, self.size, (self.seed, _TRAINING), range(first, last), self.batch_size)
        x, y = self._tensors(grey, labels)
        return x.view(-1, self.batch_size, self.input_dim), y.view(-1, self.batch_size, self.num_classes)

    def test_set(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Make the test set: images that no batch comes from, undeformed, normalised as the batches are.

        Returns:
            ``x`` of shape (1000, size²) and one-hot ``y`` of shape (1000, num_classes).
        """
        images = self._images()
        block = SIDE // self.size
        # whole numbers up to 16·255 add without rounding
        grey = images.test_images.reshape(-1, self.size, block, self.size, block).mean(axis=(2, 4), dtype=np.float64)
        return self._tensors(grey.reshape(len(grey), -1), images.test_labels)

    @property
    def input_dim(self) -> int:
        """Length of a row of x: size²."""
        return self.size * self.size

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one image, channels first."""
        return (1, self.size, self.size)

    @property
    def num_classes(self) -> int:
        """Length of a row of y."""
        return self._images().num_classes

    def _images(self) -> ImageSet:
        return IMAGE_SETS[self.name]()

    def _tensors(self, grey: NDArray[np.float64], labels: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
        mean, scale = normalisation(self.name, self.size)
        grey -= mean
        grey *= scale
        y = np.zeros((labels.size, self.num_classes))
        y[np.arange(labels.size), labels] = 1.0
        return torch.from_numpy(grey).to(self.device, self.dtype), torch.from_numpy(y).to(self.device, self.dtype)


def data_stream(
    name: str = "fashion-mnist-deformed",
    batch_size: int = 64,
    seed: int = 0,
    *,
    size: int = 28,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> DataStream:
    """Open an endless stream of labelled images.

    ``"fashion-mnist-deformed"``: each sample is one of 5,000 images of Fashion-MNIST, chosen at random, under a new
    random deformation (see `empirical.data.deform`). The ten classes are equally likely and no sample comes twice.
    Everything ships with the package; nothing is downloaded.

    >>> stream = data_stream("fashion-mnist-deformed", batch_size=64, seed=0, size=14)
    >>> x, y = stream(1000)
    >>> x.shape, y.shape
    (torch.Size([64, 196]), torch.Size([64, 10]))

    Args:
        name: one of ``DATA_SETS``.
        batch_size: samples in a batch.
        seed: names the sequence of batches, from 0 to 2⁶⁴ - 1.
        size: side of the images: 28, or 14 or 7 for area averages.
        dtype: ``torch.float32`` or ``torch.float64``.
        device: where the batches are put.

    Returns:
        The stream; inputs have mean zero at each pixel and E|x|²/d = 1, for d = size².
    """
    return DataStream(name, batch_size, seed, size, dtype, device)  # type: ignore[arg-type]  # text becomes a device there
