"""A run directory: a manifest, shards that hold what has been computed, and files that are replaced in one step.

A shard is the result of one block of cells, a pure function of (configuration, cells), named by the hash of both. It is
written beside its place and renamed, so that it is whole or absent; its own hash is inside, so that a damaged one is
found, named, and computed again. All other files are made from the shards, each in one step too: a run that is killed
leaves the old file or the new one, and temporaries of one name pattern, which the next run removes. One process at a
time works in a directory. Nothing here knows what a network is.
"""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from empirical.lock import hold
from theory.errors import InputError

MANIFEST = "manifest.json"
PARTIAL = ".partial-"
"""How the names of files begin that are being written; what a killed run left of them is removed by the next."""

DERIVED = ("fit_windows.",)
FORMAT = 1
"""Version of the shard format; part of every shard's name, so that an older file is never misread."""

SHOWN = 8
"""Differences between two configurations that a message spells out."""


def canonical_json(value: Any) -> str:
    """Write a configuration the same way every time.

    Args:
        value: nested dicts, lists, strings and numbers.

    Returns:
        JSON with sorted keys and no spaces.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _digest(arrays: Mapping[str, NDArray], place: str = "") -> str:
    """Hash of names, types, shapes and bytes, and of the file that they belong in."""
    sha = hashlib.sha256(place.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"{name}{array.dtype.str}{array.shape}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path``, of the same suffix, that takes its place in one step if all goes well."""
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=PARTIAL, suffix=f"-{path.name}")
        temporary = Path(name)
        os.close(handle)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError("--out", str(path), f"writable ({error.strerror or error})") from None
    except RuntimeError as error:
        if "HDF error" not in str(error):  # all that the NetCDF library says of a write that failed
            raise
        raise InputError("--out", str(path), f"writable ({error}: is the disk full?)") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace a file in one step: readers see the old one or the new one, never half of it.

    Args:
        path: the file.
        content: its new bytes or text.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    with _replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def environment() -> dict[str, Any]:
    """What the numbers were made with: package versions, source revision, machine.

    Returns:
        JSON-ready description.
    """
    packages = ("richscape", "numpy", "scipy", "sympy", "numba", "torch", "xarray", "matplotlib")
    versions: dict[str, str] = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "python": platform.python_version(),
        "packages": versions,
        "source_revision": source_revision(),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()} | _gpus(),
    }


def _gpus() -> dict[str, list[str]]:
    torch = sys.modules.get("torch")  # what trained nothing does not wait for it
    if torch is None or not torch.cuda.is_available():
        return {}
    return {"gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]}


def source_revision() -> str:
    """Git commit of the source, where it is a checkout.

    Returns:
        The hash, followed by ``+changes`` when the working tree differs; ``unknown`` outside a checkout.
    """
    here = Path(__file__).resolve().parent
    try:
        git = ["git", "-C", str(here)]
        # a package installed below somebody else's checkout must not report that one's commit
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+changes" if status.stdout.strip() else "")


_ABSENT = object()


def _shown(value: Any) -> str:
    """A value of a configuration, short enough for a message of one line."""
    text = "absent" if value is _ABSENT else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Fields in which two configurations differ, one line each; plain values before nested ones."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = {str(key): (old.get(key, _ABSENT), new.get(key, _ABSENT)) for key in old.keys() | new.keys()}
        order = sorted(pairs, key=lambda key: (any(isinstance(side, dict) for side in pairs[key]), key))
        return [line for key in order for line in _differences(*pairs[key], f"{path}.{key}" if path else key)]
    return [] if old == new else [f"{path}: {_shown(old)} there, {_shown(new)} here"]


class RunDirectory:
    """An ``--out`` directory, new or to be continued.

    Args:
        path: the directory; made when absent.
        config: the whole configuration, JSON-ready; two runs with equal ones are the same run.
        notice: called with one line about everything odd that is found but does no harm.

    Raises:
        InputError: the path is a file or not writable; the directory holds files but no manifest; its manifest is
            unreadable, or describes another run (the message lists the differing fields); another process works in it.
    """

    def __init__(self, path: Path, config: dict[str, Any], notice: Callable[[str], None] | None = None) -> None:
        self.path = Path(path)
        self.config = json.loads(canonical_json(config))
        self.notice = notice or (lambda line: print(line, file=sys.stderr))
        self.shards = self.path / "shards"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            held = self._files()
        except OSError as error:
            raise InputError("--out", str(path), f"a folder that can be written to ({error.strerror})") from None
        if held and MANIFEST not in held:  # nothing is put, not even a lock, into a folder that is not a run's
            raise InputError(
                "--out", str(path), f"empty, new, or an earlier run: it holds {held[0]!r} but no {MANIFEST}"
            )
        self._lock, fresh = hold(self.path, self.notice)
        if fresh:
            self._remove_partial()
        if MANIFEST in self._files():  # asked again: it may have come while the lock was another's
            self._check_manifest()
        else:
            self._write_manifest()
        try:
            self.shards.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError("--out", str(path), f"a folder that can be written to ({error.strerror})") from None

    def _files(self) -> list[str]:
        """Names of what is there, in order; hidden files, among them the lock and temporaries, do not count."""
        return sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith("."))

    def _remove_partial(self) -> None:
        """Remove what killed runs were writing; only with the lock, or it could be another's."""
        for folder in (self.path, self.shards):
            for left in folder.glob(f"{PARTIAL}*"):
                with contextlib.suppress(OSError):
                    left.unlink()

    def _write_manifest(self) -> None:
        content = {"format": FORMAT, "config": self.config} | environment()
        write_atomically(self.path / MANIFEST, json.dumps(content, indent=2) + "\n")

    def _check_manifest(self) -> None:
        file = self.path / MANIFEST
        try:
            there = json.loads(file.read_text())
            config, packages = there["config"], there["packages"]
            if not isinstance(config, dict):
                raise TypeError(type(config))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise InputError(
                "--out",
                str(file),
                "a readable manifest; this one is truncated or foreign: move it away or use another --out",
            ) from None
        differing = _differences(config, self.config)
        # what follows from the other fields is named only when it alone differs
        differing = [line for line in differing if not line.startswith(DERIVED)] or differing
        if differing:
            more = [f"and {len(differing) - SHOWN} more"] if len(differing) > SHOWN else []
            raise InputError(
                "--out",
                str(self.path),
                "new, or a run with the same configuration; it differs in " + "; ".join(differing[:SHOWN] + more),
            )
        for line in _differences(packages, environment()["packages"], "packages"):
            self.notice(f"notice: continuing {self.path} with another version: {line}")

    def files(self) -> list[str]:
        """Names of the files that users read.

        Returns:
            In order, without hidden ones and folders.
        """
        return [name for name in self._files() if (self.path / name).is_file()]

    def shard_path(self, key: Mapping[str, Any]) -> Path:
        """Place of the shard of a block of cells.

        Args:
            key: everything that its content depends on, JSON-ready.

        Returns:
            The path, whether or not it is there.
        """
        name = hashlib.sha256(canonical_json({"format": FORMAT} | dict(key)).encode()).hexdigest()[:24]
        return self.shards / f"{name}.npz"

    def read_shard(self, key: Mapping[str, Any]) -> dict[str, NDArray] | None:
        """Read what was computed for a block of cells.

        Args:
            key: as for ``shard_path``.

        Returns:
            The arrays, or ``None`` when there is no shard or it is damaged, in which case a notice has named it.
        """
        path = self.shard_path(key)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            reason = (
                ""
                if str(arrays.pop("digest")) == _digest(arrays, path.name)
                else "its content does not match its checksum"
            )
        except Exception as error:  # damage shows as zlib.error, NotImplementedError, TypeError, … wherever it fell
            reason = str(error) or type(error).__name__
        if reason:
            self.notice(f"notice: {path} is truncated or foreign ({reason}); computing it again")
            return None
        return arrays

    def write_shard(self, key: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> None:
        """Keep what was computed for a block of cells.

        Args:
            key: as for ``shard_path``.
            arrays: the result.
        """
        buffer = io.BytesIO()
        path = self.shard_path(key)
        np.savez_compressed(buffer, digest=np.array(_digest(arrays, path.name)), **dict(arrays))  # type: ignore[arg-type]
        write_atomically(path, buffer.getvalue())

    def write(self, name: str, content: bytes | str, *, grows: bool = False) -> Path:
        """Write one of the files that users read.

        Args:
            name: file name.
            content: bytes or text.
            grows: as in ``write_with``.

        Returns:
            Where it is.
        """
        data = content.encode() if isinstance(content, str) else content
        return self.write_with(name, lambda path: path.write_bytes(data), grows=grows)

    def write_with(self, name: str, writer: Callable[[Path], object], *, grows: bool = False) -> Path:
        """Write a file that users read with a library that wants a path, and put it in place in one step.

        The file is a function of the shards: one that is there and differs was damaged, or made by another version. A
        notice says so, unless the file grows with the run.

        Args:
            name: file name.
            writer: called with a temporary path that has the same suffix.
            grows: the file is written many times in one run, each time of more shards.

        Returns:
            Where the file is.
        """
        place = self.path / name
        with _replacing(place) as temporary:
            writer(temporary)
            if not grows and place.exists() and not filecmp.cmp(temporary, place, shallow=False):
                self.notice(f"notice: {place} is damaged, or of another version; made again from the shards")
        return place
