"""Cells that are measured while they train: against measurements by hand, interrupted, halved, on a device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from empirical.ensemble import Ensemble
from empirical.measure.degree import euler_degree
from empirical.measure.hessian import top_eigenvalues
from empirical.observe import Measurements, ObservedBlock, observe
from empirical.runners import Runner
from empirical.shard import TrainingConfig, train_block
from empirical.store import RunDirectory
from theory import InputError

STEPS = 30
CONFIG = TrainingConfig(depth=2, width=8, image_size=7, batch_size=12, steps=STEPS, loss="cross-entropy")
GAMMA, ETA, SEED = np.array([0.5, 2.0, 1.0, 1.0]), np.array([0.1, 0.4, 0.2, 1e9]), np.array([3, 0, 0, 0])
WHAT = Measurements(
    (("euler_degree", (0, 10, STEPS)), ("sharpness", (STEPS,))), examples=20, sample="fresh", eigenvalues=1
)


@pytest.fixture(scope="module")
def seen():
    return observe(CONFIG, GAMMA, ETA, SEED, WHAT)


def test_measurements_are_those_of_the_batches_after_the_last(seen):
    """By hand: an ensemble, a probe, and two batches of twelve that hold the twenty examples."""
    by_hand = {"euler_degree": np.full((4, 3), np.nan), "sharpness": np.full((4, 1), np.nan)}

    def probe(step, networks):
        batches = [CONFIG.stream(networks.seed)(STEPS + i) for i in (0, 1)]
        x, y = (torch.cat([batch[i] for batch in batches]).double() for i in (0, 1))
        by_hand["euler_degree"][networks.cells, (0, 10, STEPS).index(step)] = euler_degree(networks, x)
        if step == STEPS:
            spectrum = top_eigenvalues(networks, x, y, 1, loss=CONFIG.loss, tolerance=1e-9)
            by_hand["sharpness"][networks.cells, 0] = spectrum.values[:, 0]

    run = Ensemble(CONFIG.spec(), GAMMA, ETA, SEED, stream=CONFIG.stream, loss=CONFIG.loss)
    plain = run.run(STEPS, probe=probe, probe_steps=[0, 10, STEPS])
    np.testing.assert_array_equal(seen.cells.outcome, plain.cells.outcome)
    np.testing.assert_allclose(seen.measured["euler_degree"], by_hand["euler_degree"], rtol=1e-9)
    # the error of an eigenvalue is of the order of its residual squared, 1e-2 squared
    np.testing.assert_allclose(seen.measured["sharpness"], by_hand["sharpness"], rtol=1e-3)
    assert np.isnan(seen.measured["sharpness"][3]).all()  # diverged
    np.testing.assert_allclose(seen.measured["euler_degree"][:3, -1], 2, rtol=1e-9)  # homogeneous


def test_a_measurement_that_nobody_lived_to_is_absent():
    lost = observe(CONFIG, np.ones(2), np.full(2, 1e9), np.array([0, 1]), WHAT)
    assert set(lost.measured) == {"euler_degree"}


class Scarce(Runner):
    """Trains blocks of one cell only, as if memory held no more, and counts them; interrupts after some."""

    def __init__(self, stop_after=None):
        super().__init__(notice=lambda line: None)
        self.trained, self.stop_after = 0, stop_after

    def run(self, blocks):
        waiting = list(blocks)
        while waiting:
            block = waiting.pop(0)
            if len(block.gamma) > 1:
                waiting[:0] = self._halves(block)
                continue
            if self.trained == self.stop_after:
                raise KeyboardInterrupt
            self.trained += 1
            yield block, train_block(block)


def test_halves_are_kept_and_found_again(seen, tmp_path):
    store = RunDirectory(tmp_path / "run", {})
    with pytest.raises(KeyboardInterrupt):
        observe(CONFIG, GAMMA, ETA, SEED, WHAT, store=store, runner=Scarce(2))
    rest = Scarce()
    done = observe(CONFIG, GAMMA, ETA, SEED, WHAT, store=store, runner=rest)
    assert rest.trained == 2
    again = Scarce(0)
    for result in (done, observe(CONFIG, GAMMA, ETA, SEED, WHAT, store=store, runner=again)):
        for name, values in seen.measured.items():
            np.testing.assert_allclose(result.measured[name], values, rtol=1e-9)
        np.testing.assert_array_equal(result.cells.outcome, seen.cells.outcome)
        np.testing.assert_array_equal(result.curve_steps, seen.curve_steps)
    assert again.trained == 0


def test_what_is_measured_is_part_of_the_key():
    keys = [
        ObservedBlock(CONFIG, (1.0,), (1.0,), (0,), measurements=Measurements(WHAT.steps, sample=sample)).key()
        for sample in ("test", "fresh")
    ]
    assert keys[0] != keys[1]
    assert keys[0]["config"] == keys[1]["config"]


def test_measurements_are_made_where_the_block_trains(monkeypatch):
    """A worker's device takes the place of the configuration's for the examples as well as for the networks."""
    asked = []
    monkeypatch.setattr(
        "empirical.observe.Sample.of", classmethod(lambda cls, config, *rest: asked.append(config.device) or None)
    )
    block = ObservedBlock(CONFIG, (1.0,), (0.1,), (0,), measurements=Measurements(()))
    train_block(block, device="cpu:0")
    assert asked == ["cpu:0"]


@pytest.mark.parametrize("wrong", [{"steps": (("iq", (0,)),)}, {"steps": (), "sample": "stale"}])
def test_unknown_names_are_refused(wrong):
    with pytest.raises(InputError, match=r"iq|stale"):
        Measurements(**wrong)
