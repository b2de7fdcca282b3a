"""Experiments of the appendix on tiny networks: what they give is what a sweep and a kernel give by themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from empirical.experiments.appendix import APPENDIX
from empirical.experiments.families import (
    FamilyConfig,
    Member,
    PortraitsConfig,
    SharedRatesConfig,
    run_family,
    run_portraits,
    run_shared_rates,
)
from empirical.experiments.lab import Lab
from empirical.experiments.plane import PlaneConfig, run_plane
from empirical.experiments.representations import RepresentationsConfig, run_representations
from empirical.shard import TrainingConfig
from empirical.sweep import Sweep
from empirical.trace import exact_law, law_of
from simulate import Outcome

TINY = TrainingConfig(depth=2, width=8, image_size=7, batch_size=8, steps=40)
MEMBERS = tuple(Member(f"N = {width}", width, replace(TINY, width=width)) for width in (4, 8))


def test_a_traced_boundary_is_where_a_sweep_begins_to_train():
    config = FamilyConfig("width", MEMBERS, ("eta_min",), gamma=(0.1, 1.0), seeds=1, resolution=0.1)
    points = run_family(config, Lab())
    assert len(points) == 4
    for row in points.itertuples():
        training = next(m.training for m in MEMBERS if m.label == row.member)
        ends = np.array([row.eta_low, row.eta_high])
        outcome = Sweep(training).run(np.full(2, row.gamma), ends, np.zeros(2, dtype=int)).cells.outcome
        assert outcome[0] == Outcome.UNTRAINED
        assert outcome[1] == Outcome.TRAINED
        assert row.law == exact_law("eta_min", row.gamma, **law_of(training))


def test_windows_of_a_family_are_those_of_theory_and_another_seed_is_another_run():
    config = FamilyConfig("width", MEMBERS[:1], ("eta_crit",), points=2, seeds=1, resolution=0.3)
    places = config.places(TINY)
    assert places["lazy"].max() < 1 < places.get("rich", np.array([2.0])).min()
    first, second = (run_family(replace(config, first_seed=seed), Lab()) for seed in (0, 7))
    assert set(first["seed"]) == {0}
    assert set(second["seed"]) == {7}


def test_curves_at_shared_rates_start_at_half_and_are_those_of_one_training():
    config = SharedRatesConfig("width", MEMBERS, steps=20, seeds=2, points=5, examples=20)
    curves = run_shared_rates(config, Lab())
    np.testing.assert_allclose(curves["loss"].isel(step=0), 0.5, rtol=1e-12)  # f = 0 against one-hot targets
    alone = run_shared_rates(replace(config, members=MEMBERS[:1]), Lab())
    np.testing.assert_array_equal(curves["loss"].isel(member=0), alone["loss"].isel(member=0))


def test_small_grids_are_those_of_a_plane():
    config = PortraitsConfig(MEMBERS[:1], (1e-1, 1e1, 3), (1e-3, 1e1, 5))
    found = run_portraits(config, Lab())["N = 4"].portrait.data["outcome"].values
    plain = run_plane(PlaneConfig(MEMBERS[0].training, config.gamma, config.eta), Lab(), "one")
    np.testing.assert_array_equal(found, plain.portrait.data["outcome"].values)


def test_cka_with_the_start_is_one_there_and_that_of_the_kernels():
    """A lazy network keeps its kernel: its CKA with another one is that of the other one with the start they share."""
    plane = run_plane(PlaneConfig(TINY, (1e-4, 1e1, 6), (1e-9, 1e1, 21)), Lab(), "tiny")
    config = RepresentationsConfig(steps=30, seeds=1, points=5, examples=24, every=1)
    found = run_representations(config, plane, Lab())
    np.testing.assert_allclose(found["cka_start"].isel(step=0), 1.0, atol=1e-12)
    np.testing.assert_allclose(found["cka_start"].isel(gamma=0), 1.0, atol=1e-5)  # γ = 10⁻⁴ moves features by order γ
    matrix = found["cka"].isel(seed=0).values
    np.testing.assert_allclose(np.diag(matrix), 1.0, atol=1e-12)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    # to a lazy network the end of another is as near as the start that they share
    np.testing.assert_allclose(matrix[0], found["cka_start"].isel(step=-1, seed=0), atol=1e-4)


def test_every_scale_moves_to_another_seed_and_device_as_a_whole():
    for scale in APPENDIX.values():
        moved = scale.from_seed(11)
        assert {config.first_seed for config in vars(moved).values()} == {11}
        assert moved.from_seed(0) == scale
        assert scale.on("cpu") == scale
