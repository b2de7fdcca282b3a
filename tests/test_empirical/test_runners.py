"""Who trains the blocks does not change what comes out, nor does the memory that they find.

Memory that runs out is injected: ``scarce_memory.py`` refuses blocks above a given size, or kills the process that
tries one, as the kernel does.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import richscape
from empirical import runners
from empirical.runners import Runner, default_workers, device_list, is_out_of_memory
from empirical.shard import Block, TrainingConfig, from_arrays, reproducible_torch, to_arrays, train_block
from empirical.store import RunDirectory
from empirical.sweep import Sweep
from theory import InputError

CONFIG = TrainingConfig(depth=2, width=8, image_size=7, batch_size=8, steps=30)
BLOCKS = [Block(CONFIG, (0.1, 1.0, 10.0), (eta, 10 * eta, 1e6), (0, 1, 0)) for eta in (1e-3, 1e-2)]


def arrays(results):
    return {block: to_arrays(result) for block, result in results}


def assert_identical(a, b):
    assert a.keys() == b.keys()
    for block in a:
        for name, values in a[block].items():
            np.testing.assert_array_equal(values, b[block][name], err_msg=name)


def test_a_process_for_each_device_gives_the_same_bits(monkeypatch):
    """A machine with two GPUs is played by one whose CPU is named twice."""
    monkeypatch.setattr(runners, "POOL_FROM_CELL_STEPS", 0)
    here = arrays(Runner(1).run(BLOCKS))
    kind, devices = device_list("cpu,cpu")
    assert (kind, devices, default_workers(devices)) == ("cpu", ("cpu", "cpu"), 2)
    with Runner(default_workers(devices), devices) as runner:
        pooled = arrays(runner.run(BLOCKS))
        assert runner._pool is not None
        assert_identical(here, pooled)
        assert_identical(here, arrays(runner.run(BLOCKS)))  # the pool serves every round
    assert runner._pool is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("cpu,gpu9", "device = 'gpu9': must be one of those on this machine: cpu"),
        ("cpu,", "device = '': must be one of those on this machine: cpu"),
        ("meta", "device = 'meta': must be one of those on this machine: cpu"),
    ],
)
def test_a_device_that_is_not_there_is_named(given, message):
    with pytest.raises(InputError) as refused:
        device_list(given)
    assert str(refused.value).startswith(message)


def test_all_gpus_are_those_of_this_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match="'cuda:all'"):
        device_list("cuda:all")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_list("cuda:all") == ("cuda", ("cuda:0", "cuda:1"))
    with pytest.raises(InputError, match="of one kind"):
        device_list("cpu,cuda:1")


def test_threads_do_not_change_the_bits():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = to_arrays(train_block(BLOCKS[0]))
        assert torch.get_num_threads() == 2  # the settings that were there came back
        torch.set_num_threads(1)
        one = to_arrays(train_block(BLOCKS[0]))
    finally:
        torch.set_num_threads(threads)
    assert_identical({0: one}, {0: two})


def test_settings_come_back_after_an_error():
    before = torch.are_deterministic_algorithms_enabled()

    def fail() -> None:
        with reproducible_torch("cpu"):
            assert torch.are_deterministic_algorithms_enabled()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert torch.are_deterministic_algorithms_enabled() == before


def test_a_shard_holds_the_whole_result():
    result = train_block(BLOCKS[0])
    again = from_arrays(to_arrays(result))
    for name, values in to_arrays(again).items():
        np.testing.assert_array_equal(values, to_arrays(result)[name], err_msg=name)


def test_small_work_starts_no_processes():
    with Runner(2) as runner:
        list(runner.run(BLOCKS))
        assert runner._pool is None


def test_many_small_rounds_together_start_processes(monkeypatch):
    """A trace is many rounds, none of which is worth a pool by itself."""
    work = sum(len(block.gamma) * block.config.steps for block in BLOCKS)
    monkeypatch.setattr(runners, "POOL_FROM_CELL_STEPS", 2 * work)
    with Runner(2) as runner:
        first = arrays(runner.run(BLOCKS))
        assert runner._pool is None
        assert_identical(first, arrays(runner.run(BLOCKS)))
        assert runner._pool is not None


@pytest.mark.parametrize("workers", [0, -1, 1.5])
def test_workers_are_counted_from_one(workers):
    with pytest.raises(InputError, match="workers"):
        Runner(workers)


# --- memory that runs out -------------------------------------------------------------------------------------------

LARGE = [
    Block(CONFIG, tuple(np.geomspace(0.1, 10, 7).tolist()), (eta,) * 7, (0, 1, 0, 1, 0, 1, 0)) for eta in (1e-3, 1e-2)
]


@pytest.fixture
def scarce(monkeypatch):
    """Memory for two networks only."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # spawned workers are given the path too
    return importlib.import_module("scarce_memory")


def allocate_too_much() -> None:
    torch.empty(2**50, dtype=torch.uint8)


def test_what_torch_says_when_memory_runs_out_is_understood():
    with pytest.raises(RuntimeError) as refused:
        allocate_too_much()
    assert is_out_of_memory(refused.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def whole(store, blocks):
    """What a sweep makes of blocks, whose parts may lie in its store."""
    gamma, eta, seed = (np.concatenate([getattr(b, name) for b in blocks]) for name in ("gamma", "eta", "seed"))
    return to_arrays(Sweep(CONFIG, store, runner=Runner(notice=lambda _: None)).run(gamma, eta, seed))


@pytest.mark.parametrize("refuse", ["python", "torch"])
def test_a_block_that_does_not_fit_is_halved(scarce, monkeypatch, refuse):
    notices: list[str] = []
    monkeypatch.setattr(runners, "train_block", getattr(scarce, refuse))
    parts = arrays(Runner(notice=notices.append).run(LARGE))
    assert [len(block.gamma) for block in parts] == [1, 2, 2, 2] * 2  # 7 = (1 + 2) + (2 + 2)
    assert notices == [
        f"notice: {n} networks together do not fit in memory; going on with two halves" for n in (7, 3, 4) * 2
    ]
    for start, block in zip((0, 4), LARGE, strict=True):
        joined = [part for part, _ in zip(list(parts)[start:], range(4), strict=False)]
        assert sum((part.gamma for part in joined), ()) == block.gamma
        assert sum((part.seed for part in joined), ()) == block.seed


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_run_goes_on_from_the_halves_that_it_has(scarce, monkeypatch, tmp_path, stop):
    """Stopped after some parts; the next run trains the parts that are missing, and the numbers are the same."""
    undisturbed = whole(None, LARGE)
    trained: list[int] = []

    def counted(block, device=None):
        if len(block.gamma) <= 2 and len(trained) == stop:
            raise KeyboardInterrupt
        result = scarce.python(block, device)
        trained.append(len(block.gamma))
        return result

    monkeypatch.setattr(runners, "train_block", counted)
    store = RunDirectory(tmp_path / "run", {"test": 1})
    with pytest.raises(KeyboardInterrupt):
        whole(store, LARGE)
    kept = {path: path.stat().st_mtime_ns for path in store.shards.iterdir()}
    assert len(kept) == stop
    stop = -1
    found = whole(store, LARGE)
    assert sum(trained) == 14  # no network was trained twice
    assert all(path.stat().st_mtime_ns == changed for path, changed in kept.items())
    for name, values in undisturbed.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_one_network_that_does_not_fit_is_bad_input(scarce, monkeypatch):
    monkeypatch.setattr(scarce, "LARGEST", 0)
    monkeypatch.setattr(runners, "train_block", scarce.python)
    with pytest.raises(InputError, match=r"width = 8: must be smaller: one network alone does not fit in memory"):
        list(Runner(notice=lambda _: None).run(LARGE))


@pytest.mark.heavy
def test_a_worker_that_is_killed_costs_nothing_but_time(scarce, monkeypatch):
    """Seven networks kill their worker: the kernel gives no reason, so that blocks are tried again one at a time."""
    monkeypatch.setattr(runners, "POOL_FROM_CELL_STEPS", 0)
    monkeypatch.setattr(runners, "_attempt", scarce.killed)
    notices: list[str] = []
    small = [Block(CONFIG, (0.1, 1.0), (eta, eta), (0, 1)) for eta in (1e-4, 1e-3, 1e-2)]
    with Runner(2, notice=notices.append) as runner:
        parts = arrays(runner.run([*small[:2], LARGE[0], small[2]]))
    assert len(notices) == 1
    monkeypatch.undo()
    assert_identical(parts, arrays(Runner().run([*parts])))
    assert sorted(len(block.gamma) for block in parts) == [2, 2, 2, 3, 4]


@pytest.mark.heavy
def test_a_worker_that_ends_by_itself_is_no_lack_of_memory(scarce, monkeypatch):
    monkeypatch.setattr(runners, "POOL_FROM_CELL_STEPS", 0)
    monkeypatch.setattr(runners, "_attempt", scarce.ended)
    with Runner(2) as runner, pytest.raises(InputError, match=r"workers = 2: .* ended by itself \(exit code 3\)"):
        list(runner.run(LARGE))


@pytest.mark.heavy
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    code = """
import multiprocessing, sys
from empirical import runners
from empirical.shard import Block, TrainingConfig
config = TrainingConfig(depth=2, width=8, image_size=7, batch_size=8, steps=100_000)
blocks = [Block(config, (1.0,), (1e-6 * i,), (0,)) for i in range(1, 5)]
runner = runners.Runner(2)
pool = runner._started()
futures = [pool.submit(runners._attempt, block) for block in blocks]
print(*[process.pid for process in multiprocessing.active_children()], flush=True)
futures[0].result()
"""
    path = os.pathsep.join([str(Path(richscape.__file__).parent), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    ) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        time.sleep(15)  # they have begun to train
        os.kill(parent.pid, signal.SIGKILL)
    until = time.monotonic() + 30
    while (left := [pid for pid in workers if Path(f"/proc/{pid}/exe").exists()]) and time.monotonic() < until:
        time.sleep(0.1)
    assert left == []
