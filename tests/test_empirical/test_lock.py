"""One process at a time in a run directory, whatever became of the one before.

Another process is played by a lock on a second open file, which is as foreign to the first one as another process's;
the test that kills a holder has a real one.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from empirical import lock
from empirical.store import RunDirectory
from theory import InputError

CONFIG = {"command": "test"}


@pytest.fixture
def notices():
    return []


@pytest.fixture
def place(tmp_path):
    """A run directory in which nobody works."""
    RunDirectory(tmp_path / "run", CONFIG)
    gc.collect()
    return tmp_path / "run"


@pytest.fixture
def other(place):
    """Take and let go the lock as another process does."""
    handles = []

    def take():
        handles.append(os.open(place / ".lock", os.O_RDWR))
        fcntl.flock(handles[0], fcntl.LOCK_EX | fcntl.LOCK_NB)

    yield take
    for handle in handles:
        os.close(handle)


def test_the_second_is_refused_and_told_who_is_first(place, other, notices):
    other()
    who = {"pid": 4711, "host": "node7", "since": "2026-01-02 03:04:05 UTC"}
    (place / ".lock").write_text(json.dumps(who))
    left = place / "shards" / ".partial-1-being-written"
    left.touch()
    with pytest.raises(InputError) as refused:
        RunDirectory(place, CONFIG, notices.append)
    assert str(refused.value) == (
        f"--out = {str(place)!r}: must be free: process 4711 on node7 has held it since 2026-01-02 03:04:05 UTC; "
        "wait for it, or use another --out"
    )
    assert left.exists()  # it is the other's
    assert notices == []


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"pid": "x", "host": 1, "since": 2}'])
def test_a_holder_without_a_name_holds(place, other, content):
    other()
    (place / ".lock").write_text(content)
    with pytest.raises(InputError, match="must be free: another process holds it; wait"):
        RunDirectory(place, CONFIG)


def test_the_holder_leaves_its_name_and_lets_go_at_the_end(place, other):
    run = RunDirectory(place, CONFIG)
    who = json.loads((place / ".lock").read_text())
    assert (who["pid"], who["host"]) == (os.getpid(), socket.gethostname())
    assert who["since"].endswith(" UTC")
    with pytest.raises(BlockingIOError):
        other()
    del run
    gc.collect()
    fcntl.flock(os.open(place / ".lock", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_process_is_not_in_its_own_way(place, other):
    first, second = RunDirectory(place, CONFIG), RunDirectory(place, CONFIG)
    del first
    gc.collect()
    with pytest.raises(BlockingIOError):  # the second holds it still
        other()
    assert second.path == place


def test_a_killed_process_is_not_in_the_way(place):
    code = (
        "import sys, time; from pathlib import Path; from importlib import util;"
        "spec = util.spec_from_file_location('lock', sys.argv[1]); lock = util.module_from_spec(spec);"
        "spec.loader.exec_module(lock); held = lock.hold(Path(sys.argv[2]), print);"
        "print('held', flush=True); time.sleep(60)"
    )
    path = os.pathsep.join(map(str, sys.path))
    with subprocess.Popen(
        [sys.executable, "-c", code, lock.__file__, str(place)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=rf"process {process.pid} on {socket.gethostname()} has held it since"):
            RunDirectory(place, CONFIG)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert RunDirectory(place, CONFIG).path == place


def test_a_file_system_without_locks_is_noted_and_used(place, notices, monkeypatch):
    def refuse(_handle):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_lock", refuse)
    left = place / ".partial-1-portrait.nc"
    left.touch()
    RunDirectory(place, CONFIG, notices.append)
    assert notices == [
        f"notice: {place} cannot be locked (No locks available): start no second process on it",
    ]
    assert left.exists()  # it could be another's


def test_a_lock_that_fails_otherwise_is_bad_input(place, monkeypatch):
    def fail(_handle):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(lock, "_lock", fail)
    with pytest.raises(InputError, match=r"a folder that can be locked .Input/output error"):
        RunDirectory(place, CONFIG)


def test_what_killed_runs_were_writing_is_removed_and_nothing_else(place):
    left = [place / ".partial-x1-portrait.nc", place / "shards" / ".partial-x2-0123.npz"]
    kept = [place / ".gitignore", place / "notes.txt", place / "shards" / "0123.npz"]
    for path in (*left, *kept):
        path.write_bytes(b"content")
    RunDirectory(place, CONFIG)
    assert not any(path.exists() for path in left)
    assert all(path.read_bytes() == b"content" for path in kept)


def test_a_folder_with_nothing_but_remains_is_empty(tmp_path):
    """A process was killed before its manifest was there."""
    (tmp_path / ".lock").touch()
    (tmp_path / ".partial-x1-manifest.json").write_text('{"form')
    RunDirectory(tmp_path, CONFIG)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "manifest.json", "shards"]


def test_no_lock_is_left_in_a_folder_that_is_not_a_run(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="it holds 'thesis"):
        RunDirectory(tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
