"""Sets of 28×28 grey images with class labels, read from files whose bytes are checked."""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from empirical.data import fashion_mnist
from empirical.data.idx import find_idx_folder, read_part
from empirical.data.locate import data_root
from theory.errors import InputError

SIDE = 28
"""Pixels along each side of every image, before area averaging."""


@dataclass(frozen=True)
class ImageSet:
    """Labelled images, split into those that are trained on and those that are not.

    Attributes:
        train_images: shape (n, 28, 28), uint8; 0 is background.
        train_labels: shape (n,), uint8, from 0 to ``num_classes`` - 1.
        test_images: shape (m, 28, 28), uint8.
        test_labels: shape (m,), uint8.
        num_classes: how many classes there are.
    """

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]
    num_classes: int


def read_image_set(path: Path, sha256: str, num_classes: int) -> ImageSet:
    """Read an image set from an npz file, after checking that it is the file that was meant.

    Args:
        path: an npz file with ``train_images, train_labels, test_images, test_labels``.
        sha256: hexadecimal digest of the bytes of the file.
        num_classes: how many classes the labels count.

    Returns:
        The images, as read-only arrays.

    Raises:
        InputError: the file is missing, truncated, or otherwise not the one with that digest; the message names it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError("data file", path.name, f"readable at {path} ({error.strerror}); reinstall it") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        found = f"{len(content)} bytes with SHA-256 {digest[:12]}…"
        raise InputError(
            "data file", path.name, f"the file with SHA-256 {sha256[:12]}…, but {path} is {found}; reinstall it"
        )
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {key: file[key] for key in ("train_images", "train_labels", "test_images", "test_labels")}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError("data file", path.name, f"an npz file of images and labels, but {path}: {error}") from None
    for array in arrays.values():
        array.flags.writeable = False
    return ImageSet(**arrays, num_classes=num_classes)


@functools.cache
def _fashion_mnist(_root: str | None = None) -> ImageSet:
    return read_image_set(fashion_mnist.FILE, fashion_mnist.SHA256, len(fashion_mnist.CLASSES))


_IDX_FOLDERS = {
    "mnist": ("mnist", "MNIST/raw"),
    "fashion-mnist": ("fashion-mnist", "FashionMNIST/raw", "/usr/share/datasets/fashion-mnist"),  # the last is Debian's
}
_SOURCES = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist (four IDX files, gzipped or not)",
    "fashion-mnist": "https://github.com/zalandoresearch/fashion-mnist or Debian's package dataset-fashion-mnist",
}


@functools.lru_cache(maxsize=4)
def read_idx_set(name: str, root: str) -> ImageSet:
    """Read MNIST or Fashion-MNIST, whole, from their IDX files.

    Args:
        name: ``mnist`` or ``fashion-mnist``.
        root: folder of all data sets.

    Returns:
        60,000 training and 10,000 test images in ten classes.
    """
    folders = [Path(root) / folder for folder in _IDX_FOLDERS[name]]
    folder = find_idx_folder(name, folders, _SOURCES[name])
    train, test = (read_part(folder, prefix, SIDE, 10) for prefix in ("train", "t10k"))
    return ImageSet(*train, *test, num_classes=10)


def _required(root: str | None) -> str:
    return str(data_root(root))


IMAGE_SETS: dict[str, Callable[[str | None], ImageSet]] = {
    "fashion-mnist-deformed": _fashion_mnist,
    "fashion-mnist-full-deformed": lambda root: read_idx_set("fashion-mnist", _required(root)),
    "mnist-deformed": lambda root: read_idx_set("mnist", _required(root)),
}
"""Name of a stream of deformed images → what loads them from a root. A further set is one further line."""
