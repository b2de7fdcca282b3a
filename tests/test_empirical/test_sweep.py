"""Any list of cells, in any blocks, run or read back: the same cells come out, in the order in which they were given.

The oracle is the cell alone: an ensemble of one, trained by itself. Batched and single matrix products may round
differently, so numbers are compared to 1e-9 in float64; what comes back from a shard is compared bit for bit.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empirical import sweep as module
from empirical.runners import Runner
from empirical.shard import TrainingConfig, to_arrays, train_block
from empirical.store import RunDirectory
from empirical.sweep import Sweep, save_portrait, sweep_portrait
from simulate import PhasePortrait, Thresholds
from theory import InputError

CONFIG = TrainingConfig(depth=2, width=4, image_size=7, batch_size=4, steps=12, dtype="float64")
GAMMA = np.array([10.0, 0.1, 1.0, 1.0, 0.1, 10.0, 1.0])
ETA = np.array([1.0, 1e-3, 1e-1, 1e8, 1e-2, 1e-4, 1e-6])
SEED = np.array([0, 1, 1, 0, 0, 2, 1])


class Recorder(Runner):
    """A runner that says what it was asked for, and may be interrupted."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.blocks = []
        self.stop_after = stop_after

    def run(self, blocks):
        for block in blocks:
            if len(self.blocks) == self.stop_after:
                raise KeyboardInterrupt
            self.blocks.append(block)
            yield block, train_block(block)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(module, "LARGEST_BLOCK", 3)


@pytest.fixture(scope="module")
def alone():
    """Every cell by itself."""
    cells = zip(GAMMA, ETA, SEED, strict=True)
    return [Sweep(CONFIG).run(*(np.array([value]) for value in cell)) for cell in cells]


def assert_cells(result, alone, order):
    for position, cell in enumerate(order):
        for name, values in to_arrays(alone[cell]).items():
            if name != "curve_steps":
                np.testing.assert_allclose(
                    to_arrays(result)[name][position], values[0], rtol=1e-9, err_msg=f"{name} of cell {cell}"
                )


def assert_bits(one, other):
    for name, values in to_arrays(one).items():
        np.testing.assert_array_equal(to_arrays(other)[name], values, err_msg=name)


def test_the_cells_differ(alone):
    """Otherwise the order would prove nothing."""
    assert len({float(cell.cells.final_loss[0]) for cell in alone}) == len(alone)
    assert len({int(cell.cells.outcome[0]) for cell in alone}) >= 3


@settings(deadline=None, max_examples=10)
@given(order=st.permutations(range(7)), block=st.integers(1, 8))
def test_results_come_in_the_order_of_the_cells(alone, order, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LARGEST_BLOCK", block)
        assert_cells(Sweep(CONFIG).run(GAMMA[order], ETA[order], SEED[order]), alone, order)


def test_every_cell_is_in_one_block_and_blocks_are_small():
    recorder = Recorder()
    Sweep(CONFIG, runner=recorder).run(GAMMA, ETA, SEED)
    assert max(len(block.gamma) for block in recorder.blocks) <= 3
    cells = [cell for block in recorder.blocks for cell in zip(block.gamma, block.eta, block.seed, strict=True)]
    assert sorted(cells) == sorted(zip(GAMMA.tolist(), ETA.tolist(), SEED.tolist(), strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_precision_that_is_given_is_taken_for_every_cell(dtype):
    gamma, eta = np.array([1e-6, 1.0]), np.array([1e-13, 0.1])
    result = Sweep(replace(CONFIG, dtype=dtype)).run(gamma, eta, SEED[:2])
    other = Sweep(replace(CONFIG, dtype="float64" if dtype == "float32" else "float32")).run(gamma, eta, SEED[:2])
    held_exactly = result.loss_curve[:, 1:] == result.loss_curve[:, 1:].astype(np.float32)
    assert held_exactly.all() == (dtype == "float32")
    np.testing.assert_allclose(result.loss_curve, other.loss_curve, rtol=1e-4)


def test_what_was_kept_is_read_back_and_not_trained(tmp_path):
    store = RunDirectory(tmp_path / "run", {"test": 1})
    told: list[tuple[int, int, bool]] = []
    first = Sweep(CONFIG, store, lambda *news: told.append(news)).run(GAMMA, ETA, SEED)
    assert sum(cells for cells, _, _ in told) == 7
    assert all(steps == 12 * cells and not held for cells, steps, held in told)
    told.clear()
    recorder = Recorder()
    second = Sweep(CONFIG, store, lambda *news: told.append(news), recorder).run(GAMMA, ETA, SEED)
    assert recorder.blocks == []
    assert sum(cells for cells, _, _ in told) == 7
    assert all(held for _, _, held in told)
    assert_bits(first, second)


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_an_interrupted_sweep_trains_only_what_is_missing(tmp_path, stop):
    store = RunDirectory(tmp_path / "run", {"test": 1})
    with pytest.raises(KeyboardInterrupt):
        Sweep(CONFIG, store, runner=Recorder(stop)).run(GAMMA, ETA, SEED)
    assert len(list(store.shards.iterdir())) == stop
    rest = Recorder()
    finished = Sweep(CONFIG, store, runner=rest).run(GAMMA, ETA, SEED)
    assert len(rest.blocks) == len(list(store.shards.iterdir())) - stop == 3 - stop
    assert_bits(finished, Sweep(CONFIG).run(GAMMA, ETA, SEED))


def test_a_damaged_shard_is_trained_again_and_no_other(tmp_path):
    notices: list[str] = []
    store = RunDirectory(tmp_path / "run", {"test": 1}, notices.append)
    first = Sweep(CONFIG, store).run(GAMMA, ETA, SEED)
    shard = max(store.shards.iterdir())
    shard.write_bytes(shard.read_bytes()[:100])
    recorder = Recorder()
    assert_bits(first, Sweep(CONFIG, store, runner=recorder).run(GAMMA, ETA, SEED))
    assert len(recorder.blocks) == len(notices) == 1
    assert str(shard) in notices[0]


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 13},
        {"width": 5},
        {"depth": 3},
        {"loss": "cross-entropy"},
        {"optimizer": "momentum"},
        {"beta": 0.8},
        {"schedule": "cosine"},
        {"warmup": 0.1},
        {"weight_decay": 0.1},
        {"label_noise": 0.1},
        {"batch_size": 5},
        {"dtype": "float32"},
        {"thresholds": Thresholds(level=0.8)},
    ],
)
def test_another_configuration_reads_no_shard_of_this_one(tmp_path, change):
    store = RunDirectory(tmp_path / "run", {"test": 1})
    Sweep(CONFIG, store).run(GAMMA[:2], ETA[:2], SEED[:2])
    recorder = Recorder()
    Sweep(replace(CONFIG, **change), store, runner=recorder).run(GAMMA[:2], ETA[:2], SEED[:2])
    assert sum(len(block.gamma) for block in recorder.blocks) == 2


def test_no_cells_are_bad_input():
    with pytest.raises(InputError, match=r"cells = 0: must be at least one"):
        Sweep(CONFIG).run(np.empty(0), np.empty(0), np.empty(0, dtype=np.int64))


@pytest.fixture(scope="module")
def portrait():
    """Axes of three lengths, so that a transposed grid cannot pass."""
    return sweep_portrait(Sweep(CONFIG), np.array([0.1, 1.0]), np.array([1e-6, 1e-1, 1e8]), (0, 1, 2, 5))


def test_a_portrait_has_every_cell_in_its_place(portrait):
    data = portrait.data
    assert dict(data.sizes) == {"gamma": 2, "eta": 3, "seed": 4, "step": len(data["step"])}
    for gamma, eta, seed in [(0.1, 1e-6, 5), (1.0, 1e-1, 0), (1.0, 1e8, 2), (0.1, 1e-1, 1)]:
        one = Sweep(CONFIG).run(np.array([gamma]), np.array([eta]), np.array([seed]))
        cell = data.sel(gamma=gamma, eta=eta, seed=seed)
        for name, values in one.cells.fields().items():
            np.testing.assert_allclose(cell[name], values[0], rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(cell["loss_curve"], one.loss_curve[0], rtol=1e-9)
        np.testing.assert_allclose(cell["accuracy_curve"], one.accuracy_curve[0], rtol=1e-9)


@pytest.mark.parametrize("name", ["eta_min", "eta_crit", "eta_fail", "eta_max", "eta_star"])
def test_a_trained_portrait_shows_its_boundaries(portrait, name):
    """Learning curves along a fourth dimension are no obstacle."""
    points = portrait.boundary(name)
    without = PhasePortrait(portrait.data.drop_vars(["loss_curve", "accuracy_curve", "step"])).boundary(name)
    np.testing.assert_array_equal(points.eta, without.eta)
    if name == "eta_max":  # η = 10⁸ is beyond every network, η = 0.1 at γ = 1 beyond none
        assert points.eta_high[points.gamma == 1.0].tolist() == [1e8] * 4


def test_a_portrait_is_read_back_as_it_was_saved(portrait, tmp_path):
    store = RunDirectory(tmp_path / "run", {"test": 1})
    save_portrait(store, portrait, toy=portrait)
    kept = PhasePortrait.load(store.path / "portrait.nc").data
    assert set(kept.data_vars) == set(portrait.data.data_vars) - {"loss_curve", "accuracy_curve"}
    for name in kept.data_vars:
        np.testing.assert_array_equal(kept[name], portrait.data[name])
    np.testing.assert_array_equal(kept["gamma"], portrait.data["gamma"])
    toy = PhasePortrait.load(store.path / "portrait.nc", group="toy")
    assert toy.thresholds == portrait.thresholds == CONFIG.thresholds


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "depth = 0"),
        ({"steps": 1.5}, "steps = 1.5"),
        ({"width": True}, "width = True"),
        ({"arch": "lstm"}, "arch = 'lstm': must be one of mlp"),
        ({"loss": "hinge"}, "loss = 'hinge': must be one of mse, cross-entropy"),
        ({"optimizer": "lion"}, "optimizer = 'lion': must be one of gd, momentum, adam, sign"),
        ({"beta": 1.0}, "beta = 1.0: must be at least 0 and below 1"),
        ({"schedule": "step"}, "schedule = 'step': must be one of constant, warmup, cosine, warmup-cosine"),
        ({"warmup": -0.1}, "warmup = -0.1: must be at least 0 and at most 1"),
        ({"weight_decay": float("inf")}, "weight_decay = inf: must be a finite number, at least 0"),
        ({"label_noise": 1.0}, "label_noise = 1.0: must be a probability, at least 0 and below 1"),
        ({"dtype": "float16"}, "dtype = 'float16': must be one of float32, float64"),
        ({"image_size": 8}, "size = 8: must be one of 7, 14, 28"),
        ({"device": "gpu9"}, "device = 'gpu9': must be one of those on this machine: cpu"),
    ],
)
def test_a_configuration_names_the_field_that_is_wrong(change, message):
    with pytest.raises(InputError) as refused:
        replace(CONFIG, **change)
    assert message in str(refused.value)
