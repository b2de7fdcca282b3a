"""Make data sets that cannot be mapped into memory ready, once.

The command is::

    python -m empirical.data.prepare {cifar-5m,mnist-1m,tiny-imagenet} [--root DIR]

Image files are decoded into arrays in a folder ``prepared`` beside them, and compressed members of npz archives are
unpacked beside the archive. Each appears in one step, when it is whole; the originals are left alone. Nothing is
downloaded.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from empirical.data.files import (
    PREPARED,
    cifar_5m_parts,
    mnist_1m_archives,
    mnist_1m_folder,
    tiny_imagenet_folder,
)
from empirical.data.images import SIDE
from empirical.data.locate import VARIABLE, damaged, data_root, first_existing
from empirical.data.npz import unpack
from theory.errors import InputError

HELD_OUT = 1000
"""Images of each class of MNIST-1M that are held out, the last by name; a tenth, if that is less."""

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_TINY_SIDE = 64

Entry = tuple[Callable[[], IO[bytes]], str, int]
"""How an image file is opened, its name for messages, and the label."""


def decode(file: IO[bytes], name: str, side: int, mode: str) -> NDArray[np.uint8]:
    """Decode an image file.

    Args:
        file: open for reading.
        name: for messages.
        side: pixels that it must have along each side.
        mode: ``"L"`` for grey, ``"RGB"`` for colours; others are converted.

    Returns:
        Shape (side, side) or (3, side, side).

    Raises:
        InputError: it is no whole image of that size.
    """
    errors = (
        ValueError,
        SyntaxError,
        zlib.error,
        zipfile.BadZipFile,
        UnidentifiedImageError,
        Image.DecompressionBombError,
    )
    with damaged(Path(name), "a whole image", *errors), Image.open(file, formats=("BMP", "JPEG", "PNG")) as image:
        if image.size != (side, side):
            raise InputError("data file", Path(name).name, f"an image of {side}×{side}, but {name} is {image.size}")
        pixels = np.asarray(image.convert(mode), dtype=np.uint8)
    return pixels if mode == "L" else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def write_prepared(folder: Path, halves: dict[str, list[Entry]], side: int, mode: str) -> Path:
    """Decode image files into the arrays of a prepared folder, which appears when all of it is there.

    Args:
        folder: of the data set.
        halves: the files of ``train`` and ``test``.
        side: pixels along each side.
        mode: ``"L"`` or ``"RGB"``.

    Returns:
        The prepared folder.

    Raises:
        InputError: it is there already, or an image is damaged.
    """
    target, partial = folder / PREPARED, folder / f"{PREPARED}.{os.getpid()}.partial"
    shape = (side, side) if mode == "L" else (3, side, side)
    if target.exists():
        raise InputError("data", target.name, f"made once: delete {target} to make it again")
    partial.mkdir()
    try:
        for half, entries in halves.items():
            path = partial / f"{half}_images.npy"
            images = np.lib.format.open_memmap(path, "w+", np.uint8, (len(entries), *shape))
            for row, (opened, name, _) in zip(images, entries, strict=True):
                with closing(opened()) as file:
                    row[:] = decode(file, name, side, mode)
            images.flush()
            np.save(partial / f"{half}_labels.npy", np.array([label for *_, label in entries], dtype=np.uint8))
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _zip_entries(path: Path, label: int) -> Iterator[Entry]:
    """Image files of an archive, by name."""
    with damaged(path, "a zip file of images", zipfile.BadZipFile):
        archive = zipfile.ZipFile(path)
    names = sorted(name for name in archive.namelist() if name.lower().endswith(_SUFFIXES))
    if len(names) < 2:
        raise InputError("data file", path.name, f"a zip file of images, but {path} has {len(names)}")
    for name in names:
        yield (lambda name=name: io.BytesIO(archive.read(name))), f"{path}:{name}", label  # type: ignore[misc]


def _prepare_mnist_1m(root: Path) -> list[Path]:
    folder = mnist_1m_folder(root)
    archives = mnist_1m_archives(folder)
    if archives:
        members = [f"{letter}_{half}" for half in ("train", "test") for letter in "Xy"]
        return [made for member in members if (made := unpack(archives[0], member))]
    halves: dict[str, list[Entry]] = {"train": [], "test": []}
    for label in range(10):
        path = folder / f"class_{label}_images.zip"
        first_existing("mnist-1m", [path], "where the rest of the data set came from")
        entries = list(_zip_entries(path, label))
        held = max(1, min(HELD_OUT, len(entries) // 10))
        halves["train"] += entries[:-held]
        halves["test"] += entries[-held:]
    return [write_prepared(folder, halves, SIDE, "L")]


def _file_entry(path: Path, label: int) -> Entry:
    return (lambda: path.open("rb")), str(path), label


def _prepare_tiny_imagenet(root: Path) -> list[Path]:
    folder = tiny_imagenet_folder(root)
    train, annotations = folder / "train", folder / "val" / "val_annotations.txt"
    for path in (train, annotations):
        first_existing("tiny-imagenet", [path], "the same archive as the rest of the data set")
    names = sorted(path.name for path in train.iterdir() if path.is_dir())
    label_of = {name: label for label, name in enumerate(names)}
    halves: dict[str, list[Entry]] = {"train": [], "test": []}
    for name in names:
        files = sorted(path for path in (train / name / "images").glob("*") if path.suffix.lower() in {".jpeg", ".jpg"})
        halves["train"] += [_file_entry(path, label_of[name]) for path in files]
    for line in annotations.read_text().splitlines():
        columns = line.split("\t")
        if len(columns) < 2 or columns[1] not in label_of:
            allowed = (
                f"lines of a file name and one of the {len(names)} classes of {train}, but {annotations} has {line!r}"
            )
            raise InputError("data file", annotations.name, allowed)
        halves["test"].append(_file_entry(folder / "val" / "images" / columns[0], label_of[columns[1]]))
    for half, entries in halves.items():
        if not entries or len(names) > 200:
            raise InputError(
                "data", "tiny-imagenet", f"images of up to 200 classes, but {folder} has no {half} images or more"
            )
    return [write_prepared(folder, halves, _TINY_SIDE, "RGB")]


def _prepare_cifar_5m(root: Path) -> list[Path]:
    return [made for path in cifar_5m_parts(root) for member in "XY" if (made := unpack(path, member))]


PREPARE: dict[str, Callable[[Path], list[Path]]] = {
    "cifar-5m": _prepare_cifar_5m,
    "mnist-1m": _prepare_mnist_1m,
    "tiny-imagenet": _prepare_tiny_imagenet,
}
"""Data sets that may have to be prepared."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare a data set, and print what was written.

    Args:
        arguments: the command line; that of the process by default.

    Returns:
        0; bad input ends the program with code 2 and one line.
    """
    parser = argparse.ArgumentParser(description="Decode or unpack a data set once, so that it can be memory-mapped.")
    parser.add_argument("name", choices=sorted(PREPARE))
    parser.add_argument("--root", type=Path, help=f"folder of all data sets; ${VARIABLE} or ./data when not given")
    given = parser.parse_args(arguments)
    root = data_root(given.root)
    try:
        made = PREPARE[given.name](root)
    except (InputError, OSError) as error:
        parser.error(str(error))
    for path in made:
        print(f"written: {path}")
    if not made:
        print("nothing to do: it can be mapped as it is")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
