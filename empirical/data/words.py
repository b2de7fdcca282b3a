"""Random words as a pure function of (seed, purpose, step): NumPy's Philox in counter mode.

The key is (seed, purpose), the counter starts at (0, 0, step, 0). There is no generator state to save, and steps can be
asked for in any order and by any process. Raw words, unlike NumPy's distributions, are promised never to change between
versions (NEP 19); what is made of them uses IEEE arithmetic alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TRAINING, REFERENCE, TEST, TEACHER, LABEL_NOISE = range(5)
"""Purposes, the second word of the key: batches, the sample that inputs are normalised by, held-out data, teachers,
noise of the labels of batches."""

WORD_LIMIT = 2**64
"""Seeds and steps are below this."""


def raw_words(seed: int, purpose: int, steps: range, count: int) -> NDArray[np.uint64]:
    """Draw the words of some steps.

    Args:
        seed: from 0 to 2⁶⁴ - 1.
        purpose: what they are for.
        steps: from 0 to 2⁶⁴ - 1.
        count: words a step; fewer words are the beginning of more.

    Returns:
        Shape (len(steps), count).
    """
    words = np.empty((len(steps), count), dtype=np.uint64)
    key = np.array((seed, purpose), np.uint64)
    for row, step in zip(words, steps, strict=True):
        row[:] = np.random.Philox(key=key, counter=np.array([0, 0, step, 0], np.uint64)).random_raw(count)
    return words


def unit_interval(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Read the 53 leading bits of each word as a number in [0, 1), exactly.

    Args:
        words: any shape.

    Returns:
        The same shape.
    """
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
