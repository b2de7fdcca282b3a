"""Reads pickles of plain data and numeric arrays, and nothing else: no name in the file is ever looked up.

A pickle is a program: it names callables and calls them. Here every name is answered by one of the few functions below,
written for this purpose, which build arrays of numbers out of bytes; any other name ends the reading before anything is
called. They are wrapped so that a pickle can neither set their attributes nor make instances of them.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from empirical.data.locate import damaged
from theory.errors import InputError

_KINDS = "biuf"  # booleans and numbers: never objects, which could hide further pickles


class _Refused(pickle.UnpicklingError):
    """The pickle asks for something that is not plain data."""


class _Allowed:
    """A callable that a pickle may call, and do nothing else with."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _Refused("attributes of a function are set")

    def __setstate__(self, state: Any) -> None:
        raise _Refused("a function is given a state")


def _text(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else value


class _Type:
    """A numeric type: what ``numpy.dtype(…)`` makes in a pickle."""

    def __init__(self, name: Any, *_flags: Any) -> None:
        self.dtype = np.dtype(str(_text(name)))
        if self.dtype.kind not in _KINDS or self.dtype.shape or self.dtype.fields:
            raise _Refused(f"an array of {self.dtype}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = _text(state[1])
        if order not in {"<", ">", "|", "="}:
            raise _Refused(f"byte order {order!r}")
        if order != "|":
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array that is filled when its state comes: what ``_reconstruct(ndarray, …)`` makes in a pickle."""

    def __init__(self, *_arguments: Any) -> None:
        self.values: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, kind, fortran, content = state
        self.values = _filled(content, kind, shape, "F" if fortran else "C")


def _filled(content: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(kind, _Type) or not isinstance(content, bytes | bytearray):
        raise _Refused("an array that is not made of bytes")
    return np.frombuffer(content, dtype=kind.dtype).reshape(shape, order="F" if order == "F" else "C")


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.values = _filled(content, kind, shape, order)
    return array


def _encode(text: Any, encoding: Any) -> bytes:
    if encoding not in {"latin1", "latin-1"} or not isinstance(text, str):
        raise _Refused(f"text encoded as {encoding!r}")
    return text.encode("latin-1")


_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _encode,  # how Python 3 writes bytes in protocols 0 to 2
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
}
for _module in ("numpy.core", "numpy._core"):  # before and after NumPy 2
    _NAMES[f"{_module}.multiarray", "_reconstruct"] = _Array
    _NAMES[f"{_module}.numeric", "_frombuffer"] = _from_buffer


class _Reader(pickle.Unpickler):
    """An unpickler that knows no names but those of ``_NAMES``."""

    def find_class(self, module: str, name: str) -> _Allowed:
        function = _NAMES.get((module, name))
        if function is None:
            raise _Refused(f"{module}.{name} is asked for")
        return _Allowed(function)


def _plain(value: Any, seen: dict[int, Any]) -> Any:
    """Take arrays out of their shells, inside dictionaries, lists and tuples; what is shared stays shared."""
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    if id(value) not in seen:
        if isinstance(value, dict):
            seen[id(value)] = {_text(key): _plain(entry, seen) for key, entry in value.items()}
        elif isinstance(value, list | tuple):
            seen[id(value)] = [_plain(entry, seen) for entry in value]
        elif isinstance(value, _Array) and value.values is not None:
            seen[id(value)] = value.values
        else:
            raise _Refused(f"a {type(value).__name__.strip('_')}")
    return seen[id(value)]


def read_plain_pickle(path: Path) -> dict[str, Any]:
    """Read a pickled dictionary of numbers, text, bytes, lists and numeric arrays, of any protocol and Python.

    Args:
        path: the file.

    Returns:
        The dictionary; keys that were bytes are text, tuples are lists.

    Raises:
        InputError: the file is missing or damaged, or asks for anything else; nothing of it has been executed.
    """
    with damaged(path, "a readable pickle"):
        content = path.read_bytes()
    try:
        value = _plain(_Reader(io.BytesIO(content), encoding="bytes").load(), {})
    except _Refused as error:
        allowed = f"plain data: {error} in {path}, which was refused; nothing was executed"
        raise InputError("data file", path.name, allowed) from None
    except Exception as error:  # a damaged or hostile file makes the unpickler raise anything at all
        allowed = f"a whole pickle, but {path}: {type(error).__name__}: {error}"
        raise InputError("data file", path.name, " ".join(allowed.split())) from None
    if not isinstance(value, dict):
        raise InputError("data file", path.name, f"a pickled dictionary, but {path} holds a {type(value).__name__}")
    return value
