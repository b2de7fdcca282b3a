"""IDX files of unsigned bytes, the format of MNIST and Fashion-MNIST: gzipped ones are read, raw ones are mapped.

The format is two zero bytes, the type code, the number of axes, each length as a big-endian 32-bit integer, then the
entries, last axis fastest.
"""

from __future__ import annotations

import gzip
import zlib
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from empirical.data.locate import damaged, first_existing
from theory.errors import InputError

_UNSIGNED_BYTES = 8  # the IDX code for uint8: the third byte of the file
_MOST_AXES = 255


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes.

    Args:
        path: a file such as ``train-images-idx3-ubyte.gz``; one without ``.gz`` is memory-mapped.

    Returns:
        The array, of the shape that the file states, read-only.

    Raises:
        InputError: the file cannot be read, or is not an IDX file of unsigned bytes.
    """
    if path.suffix == ".gz":
        with damaged(path, "a readable gzip file", EOFError, zlib.error):
            content = np.frombuffer(gzip.decompress(path.read_bytes()), dtype=np.uint8)
    else:
        with damaged(path, "a readable IDX file", ValueError):
            content = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    header = content[: 4 + 4 * _MOST_AXES].tobytes()
    if len(header) < 4 or header[:3] != bytes([0, 0, _UNSIGNED_BYTES]):
        raise InputError("IDX file", path.name, f"an IDX file of unsigned bytes, which {path} does not begin like")
    start = 4 + 4 * header[3]
    if len(header) < start:
        raise InputError("IDX file", path.name, f"an IDX file, but {path} ends within its header")
    shape = [int(n) for n in np.frombuffer(header[4:start], dtype=">u4")]
    if content.size - start != prod(shape):
        found = f"{path} has {content.size - start}: it is damaged or truncated"
        raise InputError("IDX file", path.name, f"an IDX file with the {shape} entries that it states, but {found}")
    return content[start:].reshape(shape)


def find_idx_folder(what: str, folders: list[Path], source: str) -> Path:
    """Find the folder of a data set.

    Args:
        what: name of the data set.
        folders: where to look.
        source: where to get the files.

    Returns:
        The first folder that has training images.
    """
    names = ("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz")
    files = [folder / name for folder in folders for name in names]
    return first_existing(what, files, source).parent


def read_part(folder: Path, prefix: str, side: int, num_classes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read the images and labels of one part of a data set.

    Args:
        folder: holds ``{prefix}-{images-idx3,labels-idx1}-ubyte``, with or without ``.gz``.
        prefix: ``train`` or ``t10k``.
        side: pixels along each side of the images.
        num_classes: how many classes there are.

    Returns:
        Images (n, side, side) and labels (n,).

    Raises:
        InputError: a file is missing or damaged, or they do not belong together.
    """
    arrays = []
    for kind in ("images-idx3", "labels-idx1"):
        name = f"{prefix}-{kind}-ubyte"
        choices = [folder / name, folder / f"{name}.gz"]
        arrays.append(read_idx(first_existing(name, choices, "where the other files of the set came from")))
    images, labels = arrays
    stem = f"{prefix}-images-idx3-ubyte"
    if images.ndim != 3 or images.shape[1:] != (side, side) or len(images) == 0:
        raise InputError("IDX file", stem, f"images of {side}×{side} pixels, but {folder} has shape {images.shape}")
    if labels.shape != images.shape[:1]:
        raise InputError("IDX file", stem, f"as many as labels, but {folder} has {len(images)} and {labels.size}")
    if labels.max() >= num_classes:
        raise InputError("IDX file", f"{prefix}-labels-idx1-ubyte", f"labels below {num_classes}, in {folder}")
    return images, labels
