"""A run that is stopped, damaged or repeated goes on and ends with the same numbers."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import empirical.sweep
from empirical.ensemble import Ensemble


@pytest.fixture
def copy(swept, tmp_path):
    """A finished sweep that may be damaged."""
    return shutil.copytree(swept, tmp_path / "copy")


@pytest.fixture
def no_training(monkeypatch, swept, traced):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a network was trained again")

    monkeypatch.setattr(Ensemble, "run", refuse)


def assert_same_numbers(one, other):
    """Portraits and curves bit for bit, tables byte for byte."""
    for name in ("portrait.nc", "curves.nc"):
        with (
            xr.open_dataset(one / name) as a,
            xr.open_dataset(other / name) as b,
        ):
            assert a.identical(b), f"{name}: {a} is not {b}"
    assert (one / "boundaries.csv").read_bytes() == (other / "boundaries.csv").read_bytes()


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("fixture", "command", "tables"),
    [
        ("swept", "sweep", ("boundaries.csv", "portrait.png", "portrait.svg")),
        ("traced", "trace", ("boundaries.csv", "exponents.csv")),
    ],
)
def test_the_same_command_again_trains_nothing(request, run, commands, contents, tmp_path, fixture, command, tables):
    place = shutil.copytree(request.getfixturevalue(fixture), tmp_path / "copy")
    before = contents(place)
    ran = run(*commands[command], "--out", place)
    after = contents(place)
    assert ran.code == 0, ran.err
    assert "notice" not in ran.err
    assert after.keys() == before.keys()
    shards = [name for name in before if name.startswith("shards")]
    assert shards
    for name in [*shards, "manifest.json"]:
        assert after[name] == before[name], f"{name} was written again"  # the time of change included
    for name in tables:
        assert after[name][0] == before[name][0]


def test_the_same_simulation_again_writes_the_same(run, commands, simulated, contents, tmp_path):
    place = shutil.copytree(simulated, tmp_path / "copy")
    assert run(*commands["simulate"], "--out", place).code == 0
    for name in ("manifest.json", "boundaries.csv", "portrait.png", "portrait.svg"):
        assert contents(place)[name][0] == contents(simulated)[name][0]


def test_an_interrupted_sweep_goes_on_where_it_was(run, commands, contents, tmp_path, monkeypatch):
    monkeypatch.setattr(empirical.sweep, "LARGEST_BLOCK", 5)  # 16 cells: four blocks
    train, blocks = Ensemble.run, []

    def interrupted(self, *args):
        if len(blocks) == 2:
            raise KeyboardInterrupt
        blocks.append(len(self.gamma))
        return train(self, *args)

    stopped, undisturbed = tmp_path / "stopped", tmp_path / "undisturbed"
    monkeypatch.setattr(Ensemble, "run", interrupted)
    ran = run(*commands["sweep"], "--out", stopped)
    assert ran.code == 130
    last = ran.err.splitlines()[-1]
    assert last.startswith("richscape: interrupted.")
    assert str(stopped) in last
    assert "Traceback" not in ran.err
    kept = contents(stopped / "shards")
    assert len(kept) == 2
    assert not (stopped / "portrait.nc").exists()

    def counted(self, *args):
        blocks.append(len(self.gamma))
        return train(self, *args)

    monkeypatch.setattr(Ensemble, "run", counted)
    assert run(*commands["sweep"], "--out", stopped).code == 0
    assert (len(blocks), sum(blocks)) == (4, 16)  # the two that were missing, and no other
    assert run(*commands["sweep"], "--out", undisturbed).code == 0
    assert contents(stopped / "shards").items() > kept.items()
    assert_same_numbers(stopped, undisturbed)


def test_sigterm_is_treated_as_ctrl_c(run, commands, contents, tmp_path, monkeypatch):
    """What batch systems send: exit code 143, one line, and the same command goes on."""
    monkeypatch.setattr(empirical.sweep, "LARGEST_BLOCK", 5)
    train, before = Ensemble.run, signal.getsignal(signal.SIGTERM)

    def terminated(self, *args):
        if any((tmp_path / "run" / "shards").iterdir()):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)  # the handler runs before this ends
        return train(self, *args)

    monkeypatch.setattr(Ensemble, "run", terminated)
    ran = run(*commands["sweep"], "--out", tmp_path / "run")
    assert ran.code == 143
    assert ran.err.splitlines()[-1] == (
        f"richscape: terminated. What is done is kept in {tmp_path / 'run'}; the same command goes on from there."
    )
    assert signal.getsignal(signal.SIGTERM) == before
    assert len(contents(tmp_path / "run" / "shards")) == 1


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.heavy)])
def test_ctrl_c_in_a_real_process(tmp_path, workers):
    """SIGINT while it trains: exit code 130, one line, and only whole shards."""
    place = tmp_path / "run"
    words = ["sweep", "--depth", "2", "--width", "8", "--image-size", "7", "--batch-size", "8", "--steps", "500"]
    words += ["--gamma", "0.1", "1", "40", "--eta", "1e-3", "1e-2", "40"]  # 1600 cells, of which it keeps a few
    words += ["--workers", str(workers), "--out", str(place)]
    # pytest may have been started with SIGINT ignored, which a child inherits
    code = "import signal, sys, richscape; signal.signal(signal.SIGINT, signal.default_int_handler); richscape.main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 120
        # a file that begins with a dot is still being written, and an interrupt then leaves nothing of it
        while not list(place.glob("shards/[!.]*.npz")) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert err.splitlines()[-1].startswith("richscape: interrupted. What is done is kept in ")
    assert "Traceback" not in err
    cells = 0
    for shard in (place / "shards").iterdir():
        with np.load(shard, allow_pickle=False) as file:
            cells += len(file["outcome"])
    assert 0 < cells < 1600


def pickled(_content: bytes) -> bytes:
    """An npz with an object array, which numpy would unpickle if it were let."""
    buffer = io.BytesIO()
    np.savez(buffer, digest=np.array([{"not": "data"}], dtype=object))
    return buffer.getvalue()


def bare_array(_content: bytes) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3.0))
    return buffer.getvalue()


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGE = {
    "truncated": lambda content: content[: 2 * len(content) // 3],
    "one byte short": lambda content: content[:-1],
    "empty": lambda _: b"",
    "one bit flipped": flipped,
    "text file": lambda _: b"gamma,eta\n1,2\n",
    "pickle": lambda _: pickle.dumps([1, 2]),
    "pickled npz": pickled,
    "npy": bare_array,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_shard_is_named_and_computed_again(run, commands, copy, swept, damage):
    shard = min((copy / "shards").iterdir())
    whole = shard.read_bytes()
    shard.write_bytes(damage(whole))
    ran = run(*commands["sweep"], "--out", copy)
    assert ran.code == 0, ran.err
    notices = [line for line in ran.err.splitlines() if line.startswith("notice: ")]
    assert len(notices) == 1
    assert str(shard) in notices[0]
    assert "truncated or foreign" in notices[0]
    assert_same_numbers(copy, swept)
    # it is whole again: nobody is told twice
    assert "notice" not in run(*commands["sweep"], "--out", copy).err


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("portrait.nc", lambda content: content[: len(content) // 3]),
        ("portrait.nc", lambda content: flipped(content)),
        ("curves.nc", lambda _: b""),
        ("boundaries.csv", lambda content: content[:-1]),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_a_damaged_result_is_named_and_made_again_from_the_shards(run, commands, copy, name, damage):
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(damage(whole))
    ran = run(*commands["sweep"], "--out", copy)
    assert ran.code == 0
    assert (copy / name).read_bytes() == whole
    notices = [line for line in ran.err.splitlines() if line.startswith("notice: ")]
    assert notices == [f"notice: {copy / name} is damaged, or of another version; made again from the shards"]


def test_a_lost_table_of_exponents_is_written_again(run, commands, traced, tmp_path):
    copy = shutil.copytree(traced, tmp_path / "copy")
    (copy / "exponents.csv").write_bytes(b"arch,var")
    assert run(*commands["trace"], "--out", copy).code == 0
    assert (copy / "exponents.csv").read_bytes() == (traced / "exponents.csv").read_bytes()
    assert len(pd.read_csv(copy / "exponents.csv")) == 2


def test_another_version_of_a_package_is_noted_and_no_obstacle(run, commands, copy):
    manifest = copy / "manifest.json"
    current = np.__version__
    manifest.write_text(manifest.read_text().replace(f'"numpy": "{current}"', '"numpy": "1.99.0"'))
    ran = run(*commands["sweep"], "--out", copy)
    assert ran.code == 0
    assert f"packages.numpy: 1.99.0 there, {current} here" in ran.err
