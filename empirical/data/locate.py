"""Where data files are looked for. Nothing is ever downloaded: an error says where to get a file and where to put it.

The folder is the one given, else that of the environment variable ``RICHSCAPE_DATA``, else ``data`` in the current
directory. Each data set has a folder of its own in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from theory.errors import InputError

VARIABLE = "RICHSCAPE_DATA"
"""Environment variable that names the folder of all data sets."""


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Choose the folder of all data sets.

    Args:
        root: the folder, where one is given.

    Returns:
        Its absolute path; it need not exist.
    """
    return Path(root or os.environ.get(VARIABLE) or "data").expanduser().absolute()


def first_existing(what: str, paths: Iterable[Path], source: str) -> Path:
    """Find the first of several places that exists.

    Args:
        what: the data set, for the message.
        paths: files or folders, in order of preference.
        source: where to get it, for the message.

    Returns:
        The first path that exists.

    Raises:
        InputError: none does; the message names every one.
    """
    tried = list(paths)
    for path in tried:
        if path.exists():
            return path
    places = ", ".join(str(path) for path in tried)
    raise InputError("data", what, f"on this machine: get it from {source} and put it at one of: {places}")


@contextmanager
def damaged(path: Path, expected: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn what a reader raises on a damaged file into an error that names the file.

    Args:
        path: the file that is being read.
        expected: what it should be.
        errors: exceptions of the reader, besides those of the operating system.

    Yields:
        Nothing.

    Raises:
        InputError: one of the errors was raised.
    """
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        if not isinstance(error, (OSError, *errors)):
            raise
        raise InputError("data file", path.name, f"{expected}, but {path}: {error or type(error).__name__}") from None
