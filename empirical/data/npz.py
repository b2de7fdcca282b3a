"""Maps arrays inside npz archives into memory without reading them.

An npz archive is a zip file of npy files. A member that is stored (``numpy.savez``) lies in the archive as it is:
local header, npy header, entries. It is mapped there. A member that is compressed (``numpy.savez_compressed``) cannot
be mapped; ``python -m empirical.data.prepare`` writes it once to ``<archive>.<member>.npy`` beside the archive, where
it is found.
"""

from __future__ import annotations

import os
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from empirical.data.locate import damaged
from theory.errors import InputError

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, …, lengths of the name and of the extra field
_SIGNATURE = b"PK\x03\x04"


def sidecar(path: Path, member: str) -> Path:
    """Name the file that a compressed member is unpacked to.

    Args:
        path: the archive.
        member: name of the array.

    Returns:
        The npy file beside it.
    """
    return path.with_name(f"{path.name}.{member}.npy")


def map_npz(path: Path, member: str, prepare: str) -> NDArray:
    """Map one array of an archive.

    Args:
        path: an npz file.
        member: name of the array.
        prepare: the command that unpacks compressed members, for the message.

    Returns:
        The array, read-only; nothing but headers has been read.

    Raises:
        InputError: the archive is missing or damaged, or the member is missing, compressed or not numeric.
    """
    with (
        damaged(path, "an npz archive", zipfile.BadZipFile, ValueError, struct.error, EOFError),
        path.open("rb") as file,
    ):
        info = _member(zipfile.ZipFile(file), path, member)
        if info.compress_type == zipfile.ZIP_STORED:
            file.seek(info.header_offset)
            signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            if signature != _SIGNATURE:
                allowed = f"a whole archive, but {path} has no header of {member} where its directory says"
                raise InputError("data file", path.name, allowed)
            file.seek(name + extra, os.SEEK_CUR)
            return _map_at(path, file.tell(), member)
    unpacked = sidecar(path, member)
    if not unpacked.exists():
        allowed = f"stored, since compressed arrays cannot be mapped: run `{prepare}` once, which writes {unpacked}"
        raise InputError("data file", f"{path.name}:{member}", allowed)
    with damaged(unpacked, "an npy file", ValueError, EOFError):
        return _map_at(unpacked, 0, member)


def _member(archive: zipfile.ZipFile, path: Path, member: str) -> zipfile.ZipInfo:
    try:
        return archive.getinfo(f"{member}.npy")
    except KeyError:
        held = ", ".join(name.removesuffix(".npy") for name in archive.namelist()) or "nothing"
        raise InputError("data file", path.name, f"an archive with an array {member}, but {path} has {held}") from None


def _map_at(path: Path, offset: int, member: str) -> NDArray:
    """Map the npy data that begin at an offset of a file."""
    with path.open("rb") as file:
        file.seek(offset)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        start = file.tell()
    if dtype.kind not in "biuf":
        raise InputError("data file", f"{path.name}:{member}", f"an array of numbers, but {path} has {dtype}")
    needed, held = start + dtype.itemsize * int(np.prod(shape, dtype=np.int64)), path.stat().st_size
    if needed > held:
        allowed = f"a whole file, but {path} has {held} of the {needed} bytes that {member} needs: it is truncated"
        raise InputError("data file", path.name, allowed)
    return np.asarray(np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C"))


def unpack(path: Path, member: str) -> Path | None:
    """Write a compressed member beside its archive, where `map_npz` looks; in one step, with little memory.

    Args:
        path: an npz file.
        member: name of the array.

    Returns:
        The file, or ``None`` where the member can be mapped as it is.
    """
    with (
        damaged(path, "an npz archive", zipfile.BadZipFile, EOFError, ValueError, zlib.error),
        zipfile.ZipFile(path) as archive,
    ):
        info = _member(archive, path, member)
        if info.compress_type == zipfile.ZIP_STORED:
            return None
        target = sidecar(path, member)
        partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
        try:
            with archive.open(info) as source, partial.open("wb") as sink:
                shutil.copyfileobj(source, sink, 2**20)  # the archive's checksum is verified on the way
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    return target
