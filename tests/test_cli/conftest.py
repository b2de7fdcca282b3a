"""The command line as a function, tiny runs to look at, and what a directory holds."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import richscape

# fmt: off
NETWORK = ["--depth", "2", "--width", "8", "--image-size", "7", "--batch-size", "8", "--steps", "30", "--seeds", "2"]
COMMANDS = {
    "simulate": ["simulate", "--depth", "3", "--gamma", "1e-2", "1e2", "5", "--eta", "1e-6", "1e3", "19",
                 "--steps", "2000"],
    "sweep": ["sweep", *NETWORK, "--gamma", "0.1", "10", "2", "--eta", "1e-4", "1e2", "4"],
    "trace": ["trace", *NETWORK, "--gamma", "1e-3", "1e-2", "5", "--boundaries", "eta_min", "eta_crit",
              "--resolution", "0.3"],
}
# fmt: on


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def run_command(*words: object) -> Ran:
    """Run ``richscape`` in this process, as a shell would."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["richscape", *map(str, words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            richscape.main()
        code: object = 0
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
        # commands on networks set these for the whole process; other tests, and Hypothesis, count on denormals
        torch.use_deterministic_algorithms(False)
        torch.set_flush_denormal(False)
    assert isinstance(code, int)
    return Ran(code, out.getvalue(), err.getvalue())


def read_files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of change of every file below a folder, but for hidden ones: the lock names its last holder."""
    files = (path for path in sorted(folder.rglob("[!.]*")) if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture(scope="session")
def run() -> Callable[..., Ran]:
    return run_command


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, tuple[bytes, int]]]:
    return read_files


def _finished(command: str, folder: Path) -> Path:
    ran = run_command(*COMMANDS[command], "--out", folder)
    assert ran.code == 0, ran.err
    return folder


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of ``COMMANDS["simulate"]``; not to be changed."""
    return _finished("simulate", tmp_path_factory.mktemp("simulated") / "run")


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of ``COMMANDS["sweep"]``; not to be changed."""
    return _finished("sweep", tmp_path_factory.mktemp("swept") / "run")


@pytest.fixture(scope="session")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of ``COMMANDS["trace"]``; not to be changed."""
    return _finished("trace", tmp_path_factory.mktemp("traced") / "run")


@pytest.fixture(scope="session")
def commands() -> dict[str, list[str]]:
    """The commands of the finished runs, without ``--out``."""
    return COMMANDS
