"""A disk that is full, and a directory that another process holds: one line, exit code 2, and nothing is lost.

The small disk is a tmpfs where one may be mounted (as root). Where not, the size of every file is limited instead
(``RLIMIT_FSIZE``): a write fails half way as it does on a full disk, with "File too large" for "No space left".
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

import empirical.sweep
from empirical.ensemble import Ensemble


@dataclass
class Mounted:
    """A disk of its own; ``full`` leaves so many KiB on it."""

    place: Path

    @contextlib.contextmanager
    def full(self, left: int):
        ballast = self.place / "ballast"
        ballast.write_bytes(bytes(max(shutil.disk_usage(self.place).free - 1024 * left, 0)))
        yield
        ballast.unlink()


@dataclass
class Limited:
    """No disk of its own: files are limited in size."""

    place: Path

    @contextlib.contextmanager
    def full(self, left: int):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * left, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(params=["tmpfs", "limit"])
def disk(request, tmp_path):
    if request.param == "limit":
        yield Limited(tmp_path)
        return
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    words = [mount or "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if mount is None or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield Mounted(place)
    # lazily: the NetCDF library keeps a file open that it could not write
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize(("block", "left", "kept"), [(2, 1, 1), (4, 12, 4)], ids=["shard", "portrait"])
def test_a_full_disk_ends_in_one_line_and_the_run_goes_on(
    run, commands, contents, swept, disk, monkeypatch, block, left, kept
):
    """The disk is full from the second block on; or from the fourth and last, with room for its shard only."""
    monkeypatch.setattr(empirical.sweep, "LARGEST_BLOCK", 5)
    place, train, trained = disk.place / "run", Ensemble.run, []
    with contextlib.ExitStack() as stack:

        def filling(self, *args):
            trained.append(len(self.gamma))
            if len(trained) == block:
                stack.enter_context(disk.full(left))
            return train(self, *args)

        monkeypatch.setattr(Ensemble, "run", filling)
        ran = run(*commands["sweep"], "--out", place)
        shards = contents(place / "shards")
        half_written = list(place.rglob(".partial-*"))
    assert ran.code == 2
    last = ran.err.splitlines()[-1]
    assert last.startswith(f"richscape: --out = '{place}"), ran.err
    assert any(words in last for words in ("No space left", "File too large", "is the disk full?"))
    assert "Traceback" not in ran.err
    assert half_written == []
    assert len(shards) == kept
    trained[:] = [0] * block  # the disk has room again, and keeps it
    assert run(*commands["sweep"], "--out", place).code == 0
    assert len(trained) == block + 4 - kept  # what was there was not trained again
    assert contents(place / "shards").items() >= shards.items()
    for name in ("portrait.nc", "curves.nc", "boundaries.csv"):
        assert (place / name).read_bytes() == (swept / name).read_bytes()


@pytest.mark.parametrize("command", ["simulate", "sweep", "trace"])
def test_a_second_process_on_one_directory_is_refused(run, commands, contents, request, tmp_path, command):
    fixture = {"simulate": "simulated", "sweep": "swept", "trace": "traced"}[command]
    place = shutil.copytree(request.getfixturevalue(fixture), tmp_path / "copy")
    before, other = contents(place), os.open(place / ".lock", os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX)
    try:
        ran = run(*commands[command], "--out", place)
    finally:
        os.close(other)
    assert ran.code == 2
    assert ran.out == ""
    (line,) = ran.err.splitlines()
    assert line.startswith(f"richscape: --out = '{place}': must be free: process {os.getpid()} on ")
    assert contents(place) == before
    assert run(*commands[command], "--out", place).code == 0
