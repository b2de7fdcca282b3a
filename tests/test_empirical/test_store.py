"""A run directory keeps what it was given, finds what was damaged, and never leaves half a file.

The oracle is the data itself: what was written must come back bit for bit, or not at all.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from empirical import store
from empirical.store import RunDirectory, _differences, _digest, canonical_json, environment, source_revision
from theory import InputError

CONFIG = {"command": "test", "depth": 3, "steps": 1000}
KEY = {"config": CONFIG, "cells": [[0.1, 1.0], [1e-3, 2e-3], [0, 0]]}

scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=8)
configurations = st.dictionaries(
    st.text(max_size=6),
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=5,
)
arrays = hnp.arrays(
    st.sampled_from([np.float64, np.float32, np.int64, np.int8, np.bool_]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
shards = st.dictionaries(
    st.sampled_from(["outcome", "final_loss", "peak_loss", "steps_run", "curve"]), arrays, max_size=4
)


def same(one, other):
    """Equal names, types, shapes and bits; NaN is equal to itself."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].tobytes() == other[name].tobytes()
        for name in one
    )


@pytest.fixture(scope="module")
def notices():
    return []


@pytest.fixture(scope="module")
def directory(tmp_path_factory, notices):
    return RunDirectory(tmp_path_factory.mktemp("store") / "run", CONFIG, notices.append)


@given(configurations, st.randoms(use_true_random=False))
def test_the_order_of_keys_means_nothing(value, random):
    def shuffled(part):
        if not isinstance(part, dict):
            return part
        keys = list(part)
        random.shuffle(keys)
        return {key: shuffled(part[key]) for key in keys}

    assert canonical_json(shuffled(value)) == canonical_json(value)
    assert json.loads(canonical_json(value)) == value


def test_different_configurations_have_different_shards(directory):
    changed = [
        KEY | {"config": CONFIG | {"steps": 1001}},
        KEY | {"cells": [[0.1], [1e-3], [0]]},
        KEY | {"dtype": "float64"},
    ]
    # one unit in the last place of one learning rate is another block
    changed.append(KEY | {"cells": [[0.1, 1.0], [1e-3, float(np.nextafter(2e-3, 1))], [0, 0]]})
    assert len({directory.shard_path(key) for key in [KEY, *changed]}) == 5
    assert directory.shard_path(dict(reversed(KEY.items()))) == directory.shard_path(KEY)


@given(shards)
def test_the_digest_does_not_depend_on_the_order_of_arrays(data):
    assert _digest(dict(reversed(data.items()))) == _digest(data)


@given(hnp.arrays(np.float64, hnp.array_shapes(max_dims=2, max_side=4)), st.data())
def test_any_changed_bit_changes_the_digest(array, data):
    bit = data.draw(st.integers(0, 8 * array.nbytes - 1))
    content = bytearray(array.tobytes())
    content[bit // 8] ^= 1 << (bit % 8)
    changed = np.frombuffer(bytes(content), dtype=array.dtype).reshape(array.shape)
    assert _digest({"loss": changed}) != _digest({"loss": array})


def test_names_types_and_shapes_are_part_of_the_digest():
    array = np.arange(6.0)
    variants = [{"a": array}, {"b": array}, {"a": array.view(np.int64)}, {"a": array.reshape(2, 3)}, {}]
    assert len({_digest(variant) for variant in variants}) == 5
    assert _digest({"a": array.reshape(2, 3).T}) == _digest({"a": array.reshape(2, 3).T.copy()})  # not of strides


@settings(deadline=None, max_examples=40)
@given(data=shards)
def test_a_shard_comes_back_bit_for_bit(directory, notices, data):
    before = len(notices)
    directory.write_shard(KEY, data)
    found = directory.read_shard(KEY)
    assert found is not None
    assert same(found, data)
    assert len(notices) == before


def test_a_shard_that_was_never_written_is_no_news(directory, notices):
    before = len(notices)
    assert directory.read_shard(KEY | {"dtype": "float16"}) is None
    assert len(notices) == before


@pytest.fixture(scope="module")
def whole(directory):
    """A shard as a sweep writes it: its place, its bytes and its arrays."""
    key = KEY | {"purpose": "damage"}
    data = {
        "outcome": np.arange(7, dtype=np.int8),
        "final_loss": np.geomspace(1e-9, 1, 40),
        "steps_run": np.full(7, 30),
    }
    directory.write_shard(key, data)
    path = directory.shard_path(key)
    return key, path, path.read_bytes(), data


def found_or_named(directory, notices, whole, content):
    """Put bytes in the shard's place; the arrays come back as they were, or it is named in exactly one notice."""
    key, path, _, data = whole
    path.write_bytes(content)
    before = len(notices)
    found = directory.read_shard(key)
    if found is None:
        (notice,) = notices[before:]
        assert notice.startswith(f"notice: {path} is truncated or foreign (")
        assert len(notice.splitlines()) == 1
        return False
    assert same(found, data)
    assert len(notices) == before
    return True


@settings(deadline=None, max_examples=300)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_changes_a_number(directory, notices, whole, place, bit):
    content = bytearray(whole[2])
    content[int(place * len(content))] ^= 1 << bit
    found_or_named(directory, notices, whole, bytes(content))


def test_every_flipped_byte_of_the_data_is_found(directory, notices, whole):
    """Every byte of the file in turn; where it is read back, the flip was in a name or date that nobody reads."""
    content, survived = whole[2], 0
    for place in range(len(content)):
        damaged = content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]
        survived += found_or_named(directory, notices, whole, damaged)
    assert survived < len(content) / 3


@settings(deadline=None, max_examples=100)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_shard_is_found(directory, notices, whole, share):
    assert not found_or_named(directory, notices, whole, whole[2][: int(share * len(whole[2]))])


@settings(deadline=None, max_examples=50)
@given(content=st.binary(max_size=200))
def test_a_foreign_file_is_found(directory, notices, whole, content):
    assert not found_or_named(directory, notices, whole, content)


class Trap:
    """Something that leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("kind", ["npz", "npy", "pickle"])
def test_a_pickle_is_never_opened(directory, notices, tmp_path, kind):
    trace, path = tmp_path / "executed", directory.shard_path(KEY | {"purpose": kind})
    array = np.array([Trap(trace)], dtype=object)
    with path.open("wb") as file:
        if kind == "npz":
            np.savez(file, outcome=array, digest=np.array("0"))
        elif kind == "npy":
            np.save(file, array, allow_pickle=True)
        else:
            pickle.dump(Trap(trace), file)
    assert directory.read_shard(KEY | {"purpose": kind}) is None
    assert str(path) in notices[-1]
    assert not trace.exists()


@settings(deadline=None, max_examples=60)
@given(old=configurations, new=configurations)
def test_differences_are_found_exactly_when_there_are_any(old, new):
    lines = _differences(old, new)
    assert bool(lines) == (old != new)
    assert _differences(old, json.loads(canonical_json(old))) == []


def test_differences_name_nested_fields_plain_values_first():
    old = {"a": {"x": 1, "y": [1, 2]}, "steps": 1000, "gone": None}
    new = {"a": {"x": 2, "y": [1, 2]}, "steps": 500, "come": "text"}
    assert _differences(old, new) == [
        "come: absent there, text here",
        "gone: None there, absent here",
        "steps: 1000 there, 500 here",
        "a.x: 1 there, 2 here",
    ]


def test_a_message_about_another_configuration_stays_readable(tmp_path):
    RunDirectory(tmp_path / "run", {f"field{i:02}": 0 for i in range(30)} | {"long": "a" * 1000})
    with pytest.raises(InputError) as refused:
        RunDirectory(tmp_path / "run", {f"field{i:02}": 1 for i in range(30)} | {"long": "b" * 1000})
    message = str(refused.value)
    assert "field00: 0 there, 1 here" in message
    assert message.endswith("and 23 more")
    assert len(message) < 1000


def test_the_same_configuration_continues(tmp_path):
    first = RunDirectory(tmp_path / "run", CONFIG)
    first.write_shard(KEY, {"outcome": np.arange(3)})
    manifest = (tmp_path / "run" / "manifest.json").read_bytes()
    # tuples and lists are one thing in JSON, and so are the orders of keys
    again = RunDirectory(tmp_path / "run", dict(reversed(CONFIG.items())))
    found = again.read_shard(KEY)
    assert found is not None
    assert found["outcome"].tolist() == [0, 1, 2]
    assert (tmp_path / "run" / "manifest.json").read_bytes() == manifest


def test_an_empty_folder_and_a_new_one_are_taken(tmp_path):
    RunDirectory(tmp_path, CONFIG)
    RunDirectory(tmp_path / "a" / "b", CONFIG)
    assert json.loads((tmp_path / "a" / "b" / "manifest.json").read_text())["config"] == CONFIG


def fail(number):
    def refuse(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize(
    ("call", "number"), [("fsync", errno.ENOSPC), ("replace", errno.EACCES), ("chmod", errno.EROFS)]
)
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, call, number):
    run = RunDirectory(tmp_path / "run", CONFIG)
    run.write("boundaries.csv", "old")
    monkeypatch.setattr(os, call, fail(number))
    with pytest.raises(InputError, match=rf"--out = .*: must be writable .{os.strerror(number)}"):
        run.write("boundaries.csv", "new")
    monkeypatch.undo()
    assert (run.path / "boundaries.csv").read_text() == "old"
    assert sorted(path.name for path in run.path.iterdir()) == [".lock", "boundaries.csv", "manifest.json", "shards"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt(), ValueError("bug")])
def test_a_writer_that_fails_half_way_leaves_the_old_file(tmp_path, error):
    run = RunDirectory(tmp_path / "run", CONFIG)
    run.write("portrait.nc", b"old")

    def writer(path):
        assert path.suffix == ".nc"
        path.write_bytes(b"half of the ne")
        raise error

    with pytest.raises(InputError if isinstance(error, OSError) else type(error)):
        run.write_with("portrait.nc", writer)
    assert (run.path / "portrait.nc").read_bytes() == b"old"
    assert sorted(path.name for path in run.path.iterdir()) == [".lock", "manifest.json", "portrait.nc", "shards"]


def test_a_folder_that_cannot_be_written_to_is_bad_input(tmp_path, monkeypatch):
    monkeypatch.setattr(store.tempfile, "mkstemp", fail(errno.EACCES))
    with pytest.raises(InputError, match=r"--out = .*: must be writable .Permission denied"):
        RunDirectory(tmp_path, CONFIG)
    monkeypatch.setattr(Path, "mkdir", fail(errno.EROFS))
    with pytest.raises(InputError, match=r"--out = .*: must be a folder that can be written to .Read-only"):
        RunDirectory(tmp_path / "new", CONFIG)


def git(folder, *words):
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    ran = subprocess.run(["git", *identity, "-C", folder, *words], check=True, capture_output=True, text=True)
    return ran.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_source_revision_is_that_of_the_source(tmp_path, monkeypatch):
    """Installed below somebody else's checkout, the package does not pass that commit off as its own."""
    source = tmp_path / "package" / "store.py"
    source.parent.mkdir()
    source.write_text("x = 1\n")
    (tmp_path / "paper.tex").write_text("text")
    monkeypatch.setattr(store, "__file__", str(source))
    assert source_revision() == "unknown"
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "paper.tex")
    git(tmp_path, "commit", "-q", "-m", "first")
    assert source_revision() == "unknown"
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "-q", "-m", "second")
    assert source_revision() == git(tmp_path, "rev-parse", "HEAD")
    source.write_text("x = 2\n")
    assert source_revision() == git(tmp_path, "rev-parse", "HEAD") + "+changes"


def test_without_git_the_revision_is_unknown(monkeypatch):
    monkeypatch.setattr(store.subprocess, "run", fail(errno.ENOENT))
    assert environment()["source_revision"] == "unknown"
