r"""Gaussian inputs with targets of a fixed teacher: x ~ N(0, 1) in d dimensions, y real with E y = 0 and E y² = 1.

===========================  =========================================================================================
name                         y
===========================  =========================================================================================
``teacher-linear``           w·x
``teacher-single-index:k``   He_k(w·x)/√k!, He_k the Hermite polynomial of degree k, from 1 to ``MOST``; 2 if left out
``teacher-mlp:LxN``          (g(x) - E g)/√Var g, g a random bias-free ReLU network of L weight layers of width N; 2x32
===========================  =========================================================================================

w is one unit vector for each d. The polynomials are orthonormal under the normal distribution, so y is uncorrelated
with every polynomial of lower degree in x. Mean and variance of g are measured on ``REFERENCE`` samples of their own.
Teachers depend on (name, d) and not on the seed. Their sums run in a fixed order, with IEEE arithmetic alone.
"""

from __future__ import annotations

import functools
import itertools
import re

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from empirical.data import words
from empirical.data.normal import normal_numbers, words_needed
from empirical.data.stream import Arrays, DataStream
from theory.errors import InputError

TEACHERS = ("teacher-linear", "teacher-single-index", "teacher-mlp")
"""Names, without options."""

MOST = 20
"""Largest degree of a Hermite polynomial, and largest depth of a network."""

WIDEST = 4096
"""Largest width of a network."""

REFERENCE = 65_536
"""Samples that the outputs of a network are normalised by: their variance is known to about 1 %."""

TEST_EXAMPLES = 1000
"""Samples of the test set."""

_CHUNK = 4096


def parse(name: str) -> tuple[str, tuple[int, ...]]:
    """Split a teacher's name into kind and options.

    Args:
        name: such as ``teacher-single-index:3``.

    Returns:
        The kind, one of ``TEACHERS``, and its numbers: nothing, (degree,) or (layers, width).

    Raises:
        InputError: the option is not one of that teacher's.
    """
    kind, colon, option = name.partition(":")
    if kind == "teacher-linear" and not colon:
        return kind, ()
    if kind == "teacher-single-index":
        option = option if colon else "2"
        if re.fullmatch(r"[0-9]{1,2}", option) and 1 <= int(option) <= MOST:
            return kind, (int(option),)
    if kind == "teacher-mlp":
        match = re.fullmatch(r"([0-9]{1,2})x([0-9]{1,4})", option if colon else "2x32")
        if match and 2 <= int(match[1]) <= MOST and 1 <= int(match[2]) <= WIDEST:
            return kind, (int(match[1]), int(match[2]))
    raise InputError(
        "data",
        name,
        f"teacher-linear, teacher-single-index:k with a degree k from 1 to {MOST}, or teacher-mlp:LxN with 2 to {MOST} "
        f"weight layers L of width N up to {WIDEST}",
    )


@numba.njit(cache=True, nogil=True)
def _product(x, weights):  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    """Product of x (n, d) and weights (d, m), summed over d in order."""
    out = np.zeros((x.shape[0], weights.shape[1]))
    for i in range(x.shape[0]):
        for k in range(x.shape[1]):
            for j in range(weights.shape[1]):
                out[i, j] += x[i, k] * weights[k, j]
    return out


def hermite(z: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    """Evaluate the orthonormal Hermite polynomial He_k(z)/√k!.

    Args:
        z: any shape.
        degree: k, at least 0.

    Returns:
        The same shape; mean zero (k > 0) and unit variance where z is standard normal.
    """
    before, now = np.zeros_like(z), np.ones_like(z)
    for k in range(degree):
        before, now = now, (z * now - np.sqrt(k) * before) / np.sqrt(k + 1.0)
    return now


def _gaussian(seed: int, purpose: int, steps: range, rows: int, columns: int) -> NDArray[np.float64]:
    """Normal numbers of some steps, shape (len(steps)·rows, columns)."""
    each = words_needed(columns)
    return normal_numbers(words.raw_words(seed, purpose, steps, rows * each).reshape(-1, each), columns)


@functools.lru_cache(maxsize=16)
def direction(dim: int) -> NDArray[np.float64]:
    """The unit vector w of linear and single-index teachers.

    Args:
        dim: input dimension d.

    Returns:
        Shape (d,).
    """
    w = _gaussian(0, words.TEACHER, range(1), 1, dim)[0]
    square = 0.0
    for entry in w.tolist():
        square += entry * entry
    w /= np.sqrt(square)
    w.flags.writeable = False
    return w


@functools.lru_cache(maxsize=16)
def network_weights(dim: int, layers: int, width: int) -> tuple[NDArray[np.float64], ...]:
    """Weights of a network teacher: independent, of mean zero, and of variance 2/fan-in below each ReLU.

    Args:
        dim: input dimension d.
        layers: weight layers L.
        width: hidden width N.

    Returns:
        One array (fan-in, fan-out) a layer; the last has one column.
    """
    sizes = [dim, *[width] * (layers - 1), 1]
    weights = []
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes), start=1):
        drawn = _gaussian(0, words.TEACHER, range(layer, layer + 1), fan_in, fan_out)
        weights.append(drawn * np.sqrt((2.0 if layer < layers else 1.0) / fan_in))
    return tuple(weights)


def network_output(x: NDArray[np.float64], weights: tuple[NDArray[np.float64], ...]) -> NDArray[np.float64]:
    """Output g of a network teacher, before it is centred and scaled.

    Args:
        x: shape (n, d).
        weights: from `network_weights`.

    Returns:
        Shape (n,).
    """
    hidden = x
    for matrix in weights[:-1]:
        hidden = np.maximum(_product(hidden, matrix), 0.0)
    return _product(hidden, weights[-1])[:, 0]


@functools.lru_cache(maxsize=16)
def network_moments(dim: int, layers: int, width: int) -> tuple[float, float]:
    """Measure mean and standard deviation of a network teacher's output.

    Args:
        dim: input dimension d.
        layers: weight layers L.
        width: hidden width N.

    Returns:
        Both numbers.
    """
    weights = network_weights(dim, layers, width)
    outputs: list[float] = []
    for step in range(REFERENCE // _CHUNK):
        x = _gaussian(0, words.REFERENCE, range(step, step + 1), _CHUNK, dim)
        outputs += network_output(x, weights).tolist()
    mean = sum(outputs) / REFERENCE
    return mean, float(np.sqrt(sum((g - mean) * (g - mean) for g in outputs) / REFERENCE))


class TeacherStream(DataStream):
    """Endless Gaussian inputs with the targets of a teacher; a regression, for the loss ``mse``."""

    def teacher(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Evaluate the teacher.

        Args:
            x: inputs, shape (n, d).

        Returns:
            Targets y, shape (n,).
        """
        kind, options = parse(self.name)
        if kind == "teacher-mlp":
            mean, deviation = network_moments(self.size, *options)
            return (network_output(x, network_weights(self.size, *options)) - mean) / deviation
        return hermite(_product(x, direction(self.size)[:, None])[:, 0], options[0] if options else 1)

    def test_set(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Make the test set: samples that no batch has, the same for every seed.

        Returns:
            ``x`` of shape (1000, d) and ``y`` of shape (1000, 1).
        """
        return self._tensors(*self._labelled(_gaussian(0, words.TEST, range(1), TEST_EXAMPLES, self.size)))

    @property
    def example_shape(self) -> tuple[int, ...]:
        """A vector of length d."""
        return (self.size,)

    @property
    def num_classes(self) -> int:
        """One real number."""
        return 1

    def _open(self) -> None:
        parse(self.name)

    def _draw(self, steps: range) -> Arrays:
        return self._labelled(_gaussian(self.seed, words.TRAINING, steps, self.batch_size, self.size))

    def _labelled(self, x: NDArray[np.float64]) -> Arrays:
        return x, self.teacher(x)[:, None]
