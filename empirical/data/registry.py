"""The list of data sets: what each is, and what opens a stream of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from empirical.data.deformed import DeformedStream
from empirical.data.image_stream import ImageStream, open_source
from empirical.data.images import SIDE
from empirical.data.locate import data_root
from empirical.data.stream import DataStream
from empirical.data.teachers import TeacherStream
from theory.errors import InputError


@dataclass(frozen=True)
class DataSet:
    """One kind of stream.

    Attributes:
        description: one line.
        stream: the class of its streams.
        on_disk: whether it needs files of the user's.
        option: what may follow its name after a colon; empty where nothing may.
    """

    description: str
    stream: type[DataStream]
    on_disk: bool = True
    option: str = ""


DATA_SETS: dict[str, DataSet] = {
    "fashion-mnist-deformed": DataSet(
        "5,000 images of Fashion-MNIST, endlessly deformed; ships with the package", DeformedStream, on_disk=False
    ),
    "fashion-mnist-full-deformed": DataSet("60,000 images of Fashion-MNIST, endlessly deformed", DeformedStream),
    "mnist-deformed": DataSet("60,000 images of MNIST, endlessly deformed", DeformedStream),
    "fashion-mnist": DataSet("Fashion-MNIST, 28×28 grey, 60,000 images in ten classes", ImageStream),
    "mnist": DataSet("MNIST, 28×28 grey, 60,000 images in ten classes", ImageStream),
    "mnist-1m": DataSet("a million generated images like MNIST's, 28×28 grey, ten classes", ImageStream),
    "cifar-10": DataSet("CIFAR-10, 32×32 colour, 50,000 images in ten classes", ImageStream),
    "cifar-5m": DataSet("six million generated images like CIFAR-10's, 32×32 colour, ten classes", ImageStream),
    "tiny-imagenet": DataSet("Tiny ImageNet, 64×64 colour, 100,000 images in 200 classes", ImageStream),
    "teacher-linear": DataSet("Gaussian inputs, y = w·x; mse only", TeacherStream, on_disk=False),
    "teacher-single-index": DataSet(
        "Gaussian inputs, y a Hermite polynomial of w·x; mse only", TeacherStream, on_disk=False, option="degree: 2"
    ),
    "teacher-mlp": DataSet(
        "Gaussian inputs, y a random ReLU network; mse only",
        TeacherStream,
        on_disk=False,
        option="layers x width: 2x32",
    ),
}
"""Name → what it is. ``docs/data.md`` has the files of each."""

_TEACHER_DIM = 32


def data_set(name: Any, field: str = "name") -> DataSet:
    """Find a data set by name.

    Args:
        name: one of ``DATA_SETS``, perhaps with an option after a colon.
        field: what the name is called where it was given, for the message.

    Returns:
        What it is.

    Raises:
        InputError: there is none of that name, or it takes no option.
    """
    kind = name.partition(":")[0] if isinstance(name, str) else None
    found = DATA_SETS.get(kind) if kind is not None else None
    if found is None or (":" in name and not found.option):
        raise InputError(field, name, "one of " + ", ".join(DATA_SETS))
    return found


def data_stream(
    name: str = "fashion-mnist-deformed",
    batch_size: int = 64,
    seed: int = 0,
    *,
    size: int | None = None,
    root: str | os.PathLike[str] | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> DataStream:
    """Open an endless stream of examples.

    ``"fashion-mnist-deformed"``: each sample is one of 5,000 images of Fashion-MNIST, chosen at random, under a new
    random deformation (see `empirical.data.deform`). The ten classes are equally likely and no sample comes twice.
    Everything ships with the package; nothing is downloaded, here or for any other name.

    >>> stream = data_stream("fashion-mnist-deformed", batch_size=64, seed=0, size=14)
    >>> x, y = stream(1000)
    >>> x.shape, y.shape, stream.example_shape
    (torch.Size([64, 196]), torch.Size([64, 10]), (1, 14, 14))

    Args:
        name: one of ``DATA_SETS``; those with an option take it after a colon, as in ``teacher-single-index:3``.
        batch_size: samples in a batch.
        seed: names the sequence of batches, from 0 to 2⁶⁴ - 1.
        size: side of the images, below their own for area averages; of a teacher, the input dimension d. When not
            given, the images' own side, or 32.
        root: folder of all data sets; that of the environment variable ``RICHSCAPE_DATA``, or ``data`` in the current
            directory, when not given. Read by those that need files only.
        dtype: ``torch.float32`` or ``torch.float64``.
        device: where the batches are put.

    Returns:
        The stream; inputs have mean zero at each coordinate and E|x|²/d = 1.
    """
    found = data_set(name)
    folder = str(data_root(root)) if found.on_disk else None
    if size is None:
        if folder is not None and found.stream is ImageStream:
            size = open_source(name, folder).side
        else:
            size = _TEACHER_DIM if found.stream is TeacherStream else SIDE
    return found.stream(name, batch_size, seed, size, dtype, device, folder)  # type: ignore[arg-type]  # text becomes a device there
