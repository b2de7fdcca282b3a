"""Runs that are killed at any moment go on with the same command and end with the same bytes.

Each command runs once undisturbed. Then it is started in a folder of its own and killed, whole process group at once
and without warning, again and again, at moments spread over its whole duration; some kills wait for all shards to be
there, so that they fall into the writing of results, and some for a temporary file, so that they fall into the writing
of one file. After a few kills the same command is let finish, and

- every result is compared with the undisturbed run's, byte by byte, figures included; of ``manifest.json`` too, since
  both ran on one machine with one set of packages (on another, ``packages``, ``source_revision`` and ``machine`` are
  those of the process that began the run);
- every shard that was there after some kill still is the same file (inode, time of change, bytes): none was lost, and
  none was computed again, since a block that is computed is always written. All shards together are the undisturbed
  run's.

The runs are those of a copy of the packages whose compiled loops are thrown away with every folder, so that kills fall
into compilation too. ``pytest -m heavy -s tests/heavy/test_kills.py`` prints the table.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import richscape

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups are POSIX")

# fmt: off
NETWORK = ["--depth", "2", "--width", "8", "--image-size", "7", "--batch-size", "8", "--steps", "150", "--seeds", "2",
           "--workers", "2"]
COMMANDS = {
    "simulate": ["simulate", "--depth", "3", "--gamma", "1e-2", "1e2", "12", "--eta", "1e-6", "1e3", "19",
                 "--steps", "20000"],
    "sweep": ["sweep", *NETWORK, "--gamma", "0.1", "10", "4", "--eta", "1e-4", "1e2", "8"],
    "trace": ["trace", *NETWORK, "--gamma", "1e-3", "1e-2", "5", "--boundaries", "eta_min", "eta_crit",
              "--resolution", "0.3"],
}
# fmt: on
SETTINGS = """
import empirical.runners, empirical.sweep, simulate.portrait, richscape
empirical.runners.POOL_FROM_CELL_STEPS = 0
empirical.sweep.LARGEST_BLOCK = 8
simulate.portrait.BLOCK_CELLS = 40
"""
"""Small blocks and a pool for any work: many shards in seconds."""

FRESH = SETTINGS + "richscape.main()"
FORKED = (
    SETTINGS
    + """
import contextlib, os, sys, torch, paper_figures.overlay, theory
torch.use_deterministic_algorithms(True)  # what loads the compiler
for name in ("eta_min", "eta_crit", "eta_max"):
    theory.ToyModel().boundary(name)
empirical.runners.POOL_FROM_CELL_STEPS = 10**9
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.setpgrp()
        os.dup2(os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT), 1)
        os.dup2(1, 2)
        sys.argv, code = line.split(), 0
        try:
            richscape.main()
        except SystemExit as end:
            code = end.code
        os._exit(code)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
)
"""Runs are forks of one process that has imported everything, without a pool: a second each in place of fifteen."""


class Fork:
    """A run that another process has forked; it looks like a ``Popen``."""

    def __init__(self, parent: subprocess.Popen[bytes], words: list[str]) -> None:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write(" ".join(words).encode() + b"\n")
        self.answers, self.code = parent.stdout, None
        self.pid = int(self.answers.readline())

    def poll(self) -> int | None:
        if self.code is None and select.select([self.answers], [], [], 0)[0]:
            self.code = int(self.answers.readline())
        return self.code

    def wait(self, timeout: float) -> int:
        if self.poll() is None:
            select.select([self.answers], [], [], timeout)
        code = self.poll()
        assert code is not None, "it does not end"
        return code


ATTEMPTS = 6
"""Kills of one folder before it is let finish."""


@dataclass
class Attempt:
    """One kill, or a run that ended before it came."""

    command: str
    aim: str
    moment: float
    killed: bool
    phase: str


@dataclass
class Harness:
    """Runs one command from a copy of the packages, and kills it."""

    command: str
    root: Path
    random: random.Random
    fork: bool = False
    duration: float = 0.0
    writing: float = 0.0
    shards: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        source = Path(richscape.__file__).parent
        self.packages, self.expected = self.root / "packages", self.root / "undisturbed"
        self.packages.mkdir()
        shutil.copy(source / "richscape.py", self.packages)
        for wing in richscape.WINGS:
            shutil.copytree(source / wing, self.packages / wing)
        self.environment = os.environ | {"PYTHONPATH": str(self.packages), "MPLBACKEND": "agg"}
        self.parent = self._launch(FORKED, [], stdin=subprocess.PIPE, stdout=subprocess.PIPE) if self.fork else None
        if self.parent is not None:
            assert self.parent.stdout.readline() == b"ready\n", (self.root / "log").read_text()
        start = time.time()
        process = self.start(self.expected)
        assert process.wait(timeout=300) == 0, (self.root / "log").read_text()
        self.duration = time.time() - start
        last = max(path.stat().st_mtime for path in (self.expected / "shards").iterdir())
        self.writing = start + self.duration - last
        self.shards = {path.name: shard(path) for path in (self.expected / "shards").iterdir()}
        assert len(self.shards) >= 4

    def start(self, place: Path) -> subprocess.Popen[bytes] | Fork:
        words = [*COMMANDS[self.command], "--out", str(place)]
        if self.parent is not None:
            return Fork(self.parent, ["richscape", *words])
        return self._launch(FRESH, words)

    def _launch(self, code: str, words: list[str], **pipes: int) -> subprocess.Popen[bytes]:
        with (self.root / "log").open("ab") as log:
            streams = {"stdout": log, "stderr": log} | pipes
            return subprocess.Popen(
                [sys.executable, "-c", code, *words],
                env=self.environment,
                cwd=self.root,
                start_new_session=True,
                bufsize=0,
                **streams,
            )

    def forget_compiled(self) -> None:
        for folder in (self.packages / "simulate" / "__pycache__").glob("numba-*"):
            shutil.rmtree(folder)

    def kill(self, place: Path, aim: str, share: float) -> Attempt:
        """Start the run and kill it.

        ``anywhere`` is a share of the undisturbed duration after the start; ``results`` that share of the time that
        writing results takes, after the last shard is there; ``file`` the sight of a temporary file, not the first.
        """
        process, start = self.start(place), time.time()
        try:
            if aim == "anywhere":
                self._until(process, start + share * self.duration)
            elif aim == "results":
                self._until(process, condition=lambda: len(list(place.glob("shards/[!.]*"))) == len(self.shards))
                self._until(process, time.time() + share * self.writing)
            else:
                self._until(process, start + share * self.duration)
                self._until(process, condition=lambda: any(place.rglob(".partial-*")))
            moment = time.time() - start
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):  # it has ended this very moment
                    os.killpg(process.pid, signal.SIGKILL)
            code = process.wait(timeout=60)
        assert code in {0, -signal.SIGKILL}, (self.root / "log").read_text()[-2000:]
        return Attempt(self.command, aim, moment, code != 0, self.phase(place))

    def _until(self, process, deadline=float("inf"), condition=lambda: False):
        while process.poll() is None and time.time() < deadline and not condition():
            time.sleep(0.001 if deadline == float("inf") else min(0.02, max(deadline - time.time(), 0)))

    def phase(self, place: Path) -> str:
        """What a killed run left."""
        if not (place / "manifest.json").exists():
            return "before the manifest"
        whole, partial = len(list(place.glob("shards/[!.]*"))), sorted(path.name for path in place.rglob(".partial-*"))
        what = "no shard" if whole == 0 else "some shards" if whole < len(self.shards) else "all shards"
        there = [path.name for path in place.glob("[!.]*.*") if path.name != "manifest.json"]
        half = {name.split("-", 2)[2] if "npz" not in name else "a shard" for name in partial}
        what += f", {len(there)} results" if there else ""
        return what + (f", half of {', '.join(sorted(half))}" if half else "")

    def campaign(self, kills: int) -> list[Attempt]:
        """Kill the command so often, finishing each folder after a few kills and comparing it."""
        aims = ["anywhere", "results", "anywhere", "file", "anywhere"]
        shares = [(i + self.random.random()) / kills for i in range(kills)]
        self.random.shuffle(shares)
        attempts: list[Attempt] = []
        done, folder = 0, 0
        while done < kills:
            place, seen = self.root / f"run{folder}", dict[str, tuple]()
            folder += 1
            self.forget_compiled()
            for _ in range(ATTEMPTS):
                attempt = self.kill(place, aims[len(attempts) % len(aims)], shares[len(attempts) % kills])
                attempts.append(attempt)
                print("\n" + row(attempt), end="", flush=True)
                kept = identities(place)
                assert seen.items() <= kept.items(), "a committed shard was lost or computed again"
                seen = kept
                done += attempt.killed
                if done == kills or not attempt.killed:
                    break
            process = self.start(place)
            assert process.wait(timeout=300) == 0, (self.root / "log").read_text()[-2000:]
            assert seen.items() <= identities(place).items(), "a committed shard was lost or computed again"
            self.compare(place)
            print("  folder finished: same bytes", end="", flush=True)
            shutil.rmtree(place)
        return attempts

    def compare(self, place: Path) -> None:
        """Everything in a finished folder is what it is in the undisturbed one."""
        names = sorted(path.name for path in self.expected.iterdir())
        assert sorted(path.name for path in place.iterdir()) == names
        for name in names:
            if name not in {"shards", ".lock"}:
                assert (place / name).read_bytes() == (self.expected / name).read_bytes(), name
        found = {path.name: shard(path) for path in (place / "shards").iterdir()}
        assert found == self.shards


def shard(path: Path) -> dict[str, bytes]:
    """Arrays of a shard as bytes (the file itself holds the time at which it was written)."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name].tobytes() for name in file.files}


def identities(place: Path) -> dict[str, tuple]:
    """What makes every committed shard this very file."""
    files = ((path, path.stat()) for path in place.glob("shards/[!.]*"))
    return {path.name: (status.st_ino, status.st_mtime_ns, path.read_bytes()) for path, status in files}


def row(a: Attempt) -> str:
    """A line of the table; that the end is the same is asserted when the folder is finished."""
    return f"{a.command:<9} {a.aim:<9} {a.moment:6.1f} s  {a.phase:<60} {'killed' if a.killed else 'ended first'}"


def run(command: str, kills: int, root: Path, fork: bool = False) -> None:
    harness = Harness(command, root, random.Random(0), fork)
    try:
        attempts = harness.campaign(kills)
    finally:
        if harness.parent is not None:
            harness.parent.kill()
            harness.parent.communicate()
    assert sum(attempt.killed for attempt in attempts) == kills


def test_a_few_kills_change_nothing(tmp_path):
    """The small version: without the start of a process and of a pool, which are most of the time."""
    run("sweep", 4, tmp_path, fork=True)


@pytest.mark.heavy
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("command", "kills"), [("simulate", 14), ("sweep", 18), ("trace", 18)])
def test_fifty_kills_change_nothing(command, kills, tmp_path):
    run(command, kills, tmp_path)
