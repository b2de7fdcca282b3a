"""One process at a time in a run directory.

The lock is the operating system's (``flock``) on the file ``.lock``: the kernel lets it go when its holder ends,
however that happens, so that nothing a killed process leaves behind is in the way of the next one. What the file says,
who holds it and since when, is for people; only the lock counts.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from theory.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"

_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
"""What file systems answer that have no locks."""

_SETTLING = 0.1
"""Seconds that a holder is given to write its name after taking the lock."""


class DirectoryLock:
    """A held lock; let go when nobody refers to it any more, or when the process ends.

    Args:
        handle: open file that carries the lock.
    """

    def __init__(self, handle: int) -> None:
        weakref.finalize(self, os.close, handle)


_held: weakref.WeakValueDictionary[tuple[int, int], DirectoryLock] = weakref.WeakValueDictionary()
"""Locks of this process, by the file's device and inode: a process is not in its own way."""


def hold(folder: Path, notice: Callable[[str], None]) -> tuple[DirectoryLock | None, bool]:
    """Take the lock of a run directory, or share it where this process has it already.

    Args:
        folder: the directory.
        notice: is told in one line when the file system has no locks.

    Returns:
        The lock, ``None`` where there are none, and whether this call is what took it.

    Raises:
        InputError: another process holds it; the message names it. Or the folder cannot be written to.
    """
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError("--out", str(folder), f"a folder that can be written to ({error.strerror})") from None
    status = os.fstat(handle)
    place = (status.st_dev, status.st_ino)
    ours = _held.get(place)
    if ours is not None:
        os.close(handle)
        return ours, False
    try:
        _lock(handle)
    except OSError as error:
        holder = _holder(folder / LOCK) if error.errno in {errno.EWOULDBLOCK, errno.EACCES} else ""
        os.close(handle)
        if holder:
            raise InputError("--out", str(folder), f"free: {holder}; wait for it, or use another --out") from None
        if error.errno not in _WITHOUT_LOCKS:
            raise InputError("--out", str(folder), f"a folder that can be locked ({error.strerror})") from None
        notice(f"notice: {folder} cannot be locked ({error.strerror}): start no second process on it")
        return None, False
    who = {"pid": os.getpid(), "host": socket.gethostname()}
    who["since"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(who).encode(), 0)
    _held[place] = lock = DirectoryLock(handle)
    return lock, True


def _lock(handle: int) -> None:
    """Lock an open file, or fail at once."""
    if fcntl is None:
        raise OSError(errno.ENOSYS, "this system has no flock")
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(file: Path) -> str:
    """Who holds a lock, in words."""
    time.sleep(_SETTLING)  # otherwise the name read could be that of the holder before
    try:
        who = json.loads(file.read_text())
        return f"process {int(who['pid'])} on {str(who['host'])[:80]} has held it since {str(who['since'])[:40]}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process holds it"
