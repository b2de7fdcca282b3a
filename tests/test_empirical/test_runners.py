"""Who trains the blocks does not change what comes out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from empirical import runners
from empirical.runners import Runner
from empirical.shard import Block, TrainingConfig, from_arrays, reproducible_torch, to_arrays, train_block
from theory import InputError

CONFIG = TrainingConfig(depth=2, width=8, image_size=7, batch_size=8, steps=30)
BLOCKS = [Block(CONFIG, "float32", (0.1, 1.0, 10.0), (eta, 10 * eta, 1e6), (0, 1, 0)) for eta in (1e-3, 1e-2)]


def arrays(results):
    return {block: to_arrays(result) for block, result in results}


def assert_identical(a, b):
    assert a.keys() == b.keys()
    for block in a:
        for name, values in a[block].items():
            np.testing.assert_array_equal(values, b[block][name], err_msg=name)


def test_a_pool_of_processes_gives_the_same_bits(monkeypatch):
    monkeypatch.setattr(runners, "POOL_FROM_CELL_STEPS", 0)
    here = arrays(Runner(1).run(BLOCKS))
    with Runner(2) as runner:
        pooled = arrays(runner.run(BLOCKS))
        assert runner._pool is not None
        assert_identical(here, pooled)
        assert_identical(here, arrays(runner.run(BLOCKS)))  # the pool serves every round
    assert runner._pool is None


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


@pytest.mark.parametrize("workers", [0, -1, 1.5])
def test_workers_are_counted_from_one(workers):
    with pytest.raises(InputError, match="workers"):
        Runner(workers)
