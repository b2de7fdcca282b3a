"""Make the Fashion-MNIST subset from the four IDX files of the whole data set.

Debian packages the originals. To get them, and to make the file again, bit for bit::

    apt-get download dataset-fashion-mnist
    dpkg-deb -x dataset-fashion-mnist_*.deb unpacked
    python -m empirical.data.fashion_mnist.make_subset unpacked/usr/share/datasets/fashion-mnist subset.npz

Of each class, ``TRAIN_PER_CLASS`` images of the training files and ``TEST_PER_CLASS`` of the test files are kept:
those with the smallest words of a Philox stream keyed by ``SEED``. They stay in their original order. Raw Philox words
are the same in every version of NumPy, and the archive carries no time of day, so the arrays never depend on the
machine. The compressed bytes are those of zlib; another deflate library may pack the same arrays differently.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from empirical.data.fashion_mnist import SHA256
from empirical.data.idx import read_idx
from theory.errors import InputError

SEED = 20170825  # the day the data set was published
TRAIN_PER_CLASS, TEST_PER_CLASS = 500, 100
NUM_CLASSES = 10


def choose(labels: NDArray[np.uint8], per_class: int, words: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Choose the same number of items of each class.

    Args:
        labels: shape (n,), classes 0 to 9.
        per_class: how many to keep of each.
        words: shape (n,), one random word an item; those with the smallest are kept.

    Returns:
        Ascending indices into ``labels``, shape (10 · per_class,).

    Raises:
        InputError: a class has fewer than ``per_class`` items.
    """
    kept = []
    for label in range(NUM_CLASSES):
        members = np.flatnonzero(labels == label)
        if members.size < per_class:
            raise InputError(f"images of class {label}", int(members.size), f"at least {per_class}")
        kept.append(members[np.argsort(words[members], kind="stable")[:per_class]])
    return np.sort(np.concatenate(kept))


def subset(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """Read the four files and keep the balanced subset.

    Args:
        folder: holds ``{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz``.

    Returns:
        ``train_images`` (5000, 28, 28), ``train_labels`` (5000,), ``test_images`` (1000, 28, 28) and ``test_labels``
        (1000,).
    """
    arrays: dict[str, NDArray[np.uint8]] = {}
    for part, prefix, per_class, stream in (
        ("train", "train", TRAIN_PER_CLASS, 0),
        ("test", "t10k", TEST_PER_CLASS, 1),
    ):
        images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
        words = np.random.Philox(key=np.array([SEED, stream], dtype=np.uint64)).random_raw(labels.size)
        kept = choose(labels, per_class, words)
        arrays[f"{part}_images"], arrays[f"{part}_labels"] = images[kept], labels[kept]
    return arrays


def pack(arrays: dict[str, NDArray[np.uint8]]) -> bytes:
    """Write arrays as a compressed npz whose bytes depend on nothing else.

    Args:
        arrays: name → array.

    Returns:
        What ``numpy.load`` reads; the archive's dates are fixed.
    """
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # the same on every system: otherwise the system's own number is written
            entry.external_attr = 0o644 << 16
            file.writestr(entry, member.getvalue(), compress_type=zipfile.ZIP_DEFLATED, compresslevel=9)
    return archive.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the file, print its SHA-256 and whether it is the one that ships.

    Args:
        arguments: the command line; that of the process by default.

    Returns:
        0 when the file is the one that ships, 1 when it is another.
    """
    parser = argparse.ArgumentParser(description="Make the Fashion-MNIST subset from the IDX files of the whole set.")
    parser.add_argument("folder", type=Path, help="holds the four *-ubyte.gz files")
    parser.add_argument("out", type=Path, help="the npz file to write")
    given = parser.parse_args(arguments)
    try:
        content = pack(subset(given.folder))
    except InputError as error:
        parser.error(str(error))
    given.out.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    print(f"{digest}  {given.out}  ({'the file that ships' if digest == SHA256 else 'NOT the file that ships'})")
    return 0 if digest == SHA256 else 1


if __name__ == "__main__":
    raise SystemExit(main())
