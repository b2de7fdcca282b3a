"""The image data sets that are read from files of the user's: where each lies, and how it is opened.

========================  ============================================================================================
name                      files, in the folder of all data sets
========================  ============================================================================================
``mnist``                 ``mnist/`` or ``MNIST/raw/``: four IDX files, gzipped or raw
``fashion-mnist``         ``fashion-mnist/`` or ``FashionMNIST/raw/``, or Debian's package: four IDX files
``cifar-10``              ``cifar-10-batches-py/`` (also inside ``cifar-10/``): ``data_batch_1`` … ``5``, ``test_batch``
``cifar-5m``              ``cifar-5m/`` or ``cifar5m/``: ``part0.npz`` …, or ``cifar5m_part0.npz`` …, with X and Y
``mnist-1m``              ``mnist-1m/``: ``class_0_images.zip`` … ``class_9_images.zip``, prepared once, or one npz file
``tiny-imagenet``         ``tiny-imagenet-200/`` (also inside ``tiny-imagenet/``): as distributed, prepared once
========================  ============================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from empirical.data.images import SIDE, read_idx_set
from empirical.data.locate import damaged, first_existing
from empirical.data.npz import map_npz
from empirical.data.source import Examples, ImageSource, side_of
from empirical.data.unpickle import read_plain_pickle
from theory.errors import InputError

PREPARED = "prepared"
"""Folder, inside that of a data set, of what ``python -m empirical.data.prepare`` makes of image files."""

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
"""What lies in it, each an npy file of uint8."""

CIFAR_HELD_OUT = 10_000
"""Images at the end of the last part of CIFAR-5M that are held out; a tenth of the part, where that is less."""

_CIFAR_TRAINING = tuple(f"data_batch_{number}" for number in range(1, 6))
_CIFAR_SIDE, _TINY_SIDE = 32, 64


def prepare_command(name: str, root: Path) -> str:
    """What the user has to run, for messages.

    Args:
        name: the data set.
        root: folder of all data sets.

    Returns:
        A command line.
    """
    return f"python -m empirical.data.prepare {name} --root {root}"


def _idx(name: str, root: Path) -> ImageSource:
    images = read_idx_set(name, str(root))
    train = Examples((images.train_images,), images.train_labels)
    return ImageSource(train, Examples((images.test_images,), images.test_labels), images.num_classes, 1, SIDE)


def _is_digit(label: Any) -> bool:
    return type(label) is int and 0 <= label < 10


def _cifar_batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    content = read_plain_pickle(path)
    images, labels = content.get("data"), content.get("labels")
    numbers = 3 * _CIFAR_SIDE**2
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (numbers,):
        raise InputError("data file", path.name, f"a CIFAR-10 batch with data of {numbers} bytes a row, unlike {path}")
    if not isinstance(labels, list) or len(labels) != len(images) or not all(map(_is_digit, labels)):
        raise InputError("data file", path.name, f"a CIFAR-10 batch with a label from 0 to 9 a row, unlike {path}")
    return images, np.array(labels, dtype=np.uint8)


def _cifar_10(root: Path) -> ImageSource:
    choices = [root / "cifar-10-batches-py", root / "cifar-10" / "cifar-10-batches-py"]
    source = "https://www.cs.toronto.edu/~kriz/cifar.html (python version, unpacked)"
    folder = first_existing("cifar-10", choices, source)
    images, labels = zip(*(_cifar_batch(folder / name) for name in _CIFAR_TRAINING), strict=True)
    test_images, test_labels = _cifar_batch(folder / "test_batch")
    train = Examples(images, np.concatenate(labels))
    return ImageSource(train, Examples((test_images,), test_labels), 10, 3, _CIFAR_SIDE)


def small_labels(labels: NDArray, what: str) -> NDArray[np.uint8]:
    """Read labels of any integer type.

    Args:
        labels: shape (n,) or (n, 1).
        what: where they are from, for the message.

    Returns:
        Shape (n,), in memory.

    Raises:
        InputError: they are not integers from 0 to 255.
    """
    values = np.asarray(labels).reshape(len(labels), -1)
    if values.dtype.kind not in "iu" or values.shape[1] != 1 or not len(values):
        raise InputError("data", what, f"one integer a label, but they are {labels.dtype} {labels.shape}")
    if values.min() < 0 or values.max() > 255:
        raise InputError("data", what, f"labels from 0 to 255, but they reach from {values.min()} to {values.max()}")
    return values[:, 0].astype(np.uint8)


def cifar_5m_parts(root: Path) -> list[Path]:
    """Find the parts of CIFAR-5M.

    Args:
        root: folder of all data sets.

    Returns:
        Their archives, by number.

    Raises:
        InputError: there is none.
    """
    source = "https://github.com/preetum/cifar5m (six npz files; some will do)"
    folder = first_existing("cifar-5m", [root / "cifar-5m", root / "cifar5m"], source)
    numbered = [(re.fullmatch(r"(?:cifar5m_)?part(\d+)\.npz", path.name), path) for path in folder.iterdir()]
    parts = sorted((int(match[1]), path) for match, path in numbered if match)
    if not parts:
        raise InputError(
            "data", "cifar-5m", f"in files part0.npz or cifar5m_part0.npz and so on in {folder}, from {source}"
        )
    return [path for _, path in parts]


def _cifar_5m(root: Path) -> ImageSource:
    command = prepare_command("cifar-5m", root)
    images, labels = [], []
    for path in cifar_5m_parts(root):
        images.append(map_npz(path, "X", command))
        labels.append(small_labels(map_npz(path, "Y", command), str(path)))
        if images[-1].shape[1:] != (_CIFAR_SIDE, _CIFAR_SIDE, 3) or len(images[-1]) != len(labels[-1]):
            found = f"{images[-1].shape} and {labels[-1].shape}"
            raise InputError(
                "data file", path.name, f"X of shape (n, 32, 32, 3) and Y of shape (n,), but {path}: {found}"
            )
    last = images[-1]
    held = max(1, min(CIFAR_HELD_OUT, len(last) // 10))
    train = Examples((*images[:-1], last[:-held]), np.concatenate([*labels[:-1], labels[-1][:-held]]))
    test = Examples((last[-held:],), labels[-1][-held:])
    return ImageSource(train, test, 10, 3, _CIFAR_SIDE, channels_last=True)


def _prepared(name: str, folder: Path, root: Path, num_classes: int, channels: int, side: int) -> ImageSource:
    """Map what was prepared from image files."""
    made = folder / PREPARED
    if not made.exists():
        allowed = f"prepared: run `{prepare_command(name, root)}` once, which writes {made}"
        raise InputError("data", name, allowed)
    arrays = {}
    for key in ARRAYS:
        path = made / f"{key}.npy"
        with damaged(path, f"a whole npy file (delete {made} and prepare it again)", ValueError, EOFError):
            arrays[key] = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    halves = []
    for half in ("train", "test"):
        labels = small_labels(arrays[f"{half}_labels"], str(made))
        halves.append(Examples((arrays[f"{half}_images"],), labels))
    return ImageSource(halves[0], halves[1], num_classes, channels, side)


def mnist_1m_folder(root: Path) -> Path:
    """Find the folder of MNIST-1M.

    Args:
        root: folder of all data sets.

    Returns:
        The folder.
    """
    source = "its authors (ten files class_D_images.zip, or one npz file with X_train, y_train, X_test, y_test)"
    return first_existing("mnist-1m", [root / "mnist-1m", root / "mnist1m"], source)


def mnist_1m_archives(folder: Path) -> list[Path]:
    """Find the npz form of MNIST-1M.

    Args:
        folder: of the data set.

    Returns:
        The archive, or nothing where the folder has none.

    Raises:
        InputError: there are several.
    """
    archives = sorted(folder.glob("*.npz"))
    if len(archives) > 1:
        raise InputError("data", "mnist-1m", f"in a single npz file, of which {folder} has {len(archives)}")
    return archives


def _mnist_1m(root: Path) -> ImageSource:
    folder = mnist_1m_folder(root)
    archives = mnist_1m_archives(folder)
    if not archives:
        return _prepared("mnist-1m", folder, root, 10, 1, SIDE)
    command, halves = prepare_command("mnist-1m", root), []
    for half in ("train", "test"):
        images = map_npz(archives[0], f"X_{half}", command)
        if side_of(images.shape) != SIDE:
            allowed = f"an archive of 28×28 grey images, but {archives[0]} has X_{half} of shape {images.shape}"
            raise InputError("data file", archives[0].name, allowed)
        labels = small_labels(map_npz(archives[0], f"y_{half}", command), str(archives[0]))
        halves.append(Examples((images,), labels))
    return ImageSource(halves[0], halves[1], 10, 1, SIDE)


def tiny_imagenet_folder(root: Path) -> Path:
    """Find the folder of Tiny ImageNet.

    Args:
        root: folder of all data sets.

    Returns:
        The folder.
    """
    choices = [root / "tiny-imagenet-200", root / "tiny-imagenet" / "tiny-imagenet-200", root / "tiny-imagenet"]
    return first_existing("tiny-imagenet", choices, "http://cs231n.stanford.edu/tiny-imagenet-200.zip (unpacked)")


def _tiny_imagenet(root: Path) -> ImageSource:
    return _prepared("tiny-imagenet", tiny_imagenet_folder(root), root, 200, 3, _TINY_SIDE)


OPENERS: dict[str, Callable[[Path], ImageSource]] = {
    "mnist": lambda root: _idx("mnist", root),
    "fashion-mnist": lambda root: _idx("fashion-mnist", root),
    "cifar-10": _cifar_10,
    "cifar-5m": _cifar_5m,
    "mnist-1m": _mnist_1m,
    "tiny-imagenet": _tiny_imagenet,
}
"""Name of a data set → what opens it, given the folder of all data sets."""
