"""The recorder against measurements made by hand, with cells of several seeds and groups, some of which leave early."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from empirical import MLP, Ensemble, data_stream, ensemble
from empirical.measure.degree import euler_degree
from empirical.measure.kernels import class_trace, ntk
from empirical.measure.modules import networks_of
from empirical.measure.record import Measurement, Recorder, load_record, recorded_steps
from empirical.measure.weights import distance_by_layer
from theory.errors import InputError

SPEC, STEPS = MLP(3, 12, 49, 10), 30
GAMMA = np.array([1.0, 1e-4, 1.0, 30.0, 1e-4, 1.0])
SEED = np.array([1, 0, 0, 1, 1, 0])
ETA = 0.05 * GAMMA**2 / (1 + GAMMA) ** 1.3
ETA[2] *= 1e9  # diverges at once


def stream(seed):
    return data_stream("fashion-mnist-deformed", 8, seed, size=7)


X = stream(0).test_set()[0][:6]


def recorder():
    return Recorder({
        "output": Measurement(lambda n: n.output(X), ("example", "class"), description="centred, downscaled output"),
        "degree": lambda n: euler_degree(n, X),
        "distance": Measurement(distance_by_layer, units="relative"),
        "kernel": lambda n: class_trace(ntk(n, X)),
    })


def run(watched, **options):
    cells = Ensemble(SPEC, GAMMA, ETA, SEED, stream=stream, dtype="float64", **options)
    result = cells.run(STEPS, probe=watched, probe_steps=recorded_steps(STEPS, 8))
    return cells, result


def test_every_cell_has_its_row_whatever_group_it_was_in(monkeypatch):
    monkeypatch.setattr(ensemble, "GROUP_BYTES", 1.0)  # groups of one cell, where cells train side by side
    monkeypatch.setattr("empirical.models.fused.can_train", lambda device: False)
    apart = recorder()
    cells, result = run(apart)
    found = apart.dataset(cells)
    monkeypatch.undo()
    together = recorder()
    xr.testing.assert_allclose(found, together.dataset(run(together)[0]), rtol=1e-9)
    assert found.output.dims == ("cell", "step", "example", "class")
    assert found.output.shape == (6, len(recorded_steps(STEPS, 8)), 6, 10)
    assert found.distance.dims == ("cell", "step", "distance_0")
    assert found.kernel.shape[2:] == (6, 6)
    np.testing.assert_array_equal(found.gamma, GAMMA)
    np.testing.assert_array_equal(found.eta, ETA)
    np.testing.assert_array_equal(found.seed, SEED)
    np.testing.assert_allclose(found.tau.sel(step=STEPS), ETA * STEPS / GAMMA)
    gone = found.degree.isnull().values
    assert gone[2, -1]  # the one that diverged
    assert not gone[2, 0]
    assert not np.delete(gone, 2, axis=0).any()
    assert result.cells.fields()["steps_run"][2] < STEPS


def test_each_row_is_what_its_cell_says_alone():
    watched = recorder()
    cells, _ = run(watched)
    found = watched.dataset(cells)
    for cell in (0, 1, 5):
        alone = []
        one = Ensemble(SPEC, GAMMA[cell], ETA[cell], int(SEED[cell]), stream=stream, dtype="float64")
        one.run(STEPS, probe=lambda step, networks, alone=alone: alone.append(networks.output(X)), probe_steps=[STEPS])
        np.testing.assert_allclose(found.output.sel(cell=cell, step=STEPS), alone[0][0].numpy(), rtol=1e-7, atol=1e-9)
        start = SPEC.module(int(SEED[cell]))
        kernel = class_trace(ntk(networks_of(start, example_shape=(49,), rates=SPEC.rates()), X))[0]
        np.testing.assert_allclose(found.kernel.sel(cell=cell, step=0), kernel, rtol=1e-12)


def test_a_file_holds_what_the_dataset_does(tmp_path):
    watched = recorder()
    cells, _ = run(watched)
    path = watched.save(tmp_path / "deep" / "record.nc", cells)
    read = load_record(path)
    xr.testing.assert_identical(read, watched.dataset(cells))
    assert read.output.attrs == {"units": "1", "long_name": "centred, downscaled output"}
    assert read.distance.attrs["units"] == "relative"
    assert [p.name for p in path.parent.iterdir()] == ["record.nc"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    watched = recorder()
    cells, _ = run(watched)
    path = watched.save(tmp_path / "record.nc", cells)
    before = path.read_bytes()

    def fail(self, target, **options):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", fail)
    with pytest.raises(OSError, match="full"):
        watched.save(path, cells)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["record.nc"]


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_recorded_steps_have_both_ends(steps):
    found = recorded_steps(steps, 10)
    assert found[0] == 0
    assert found[-1] == steps
    assert (np.diff(found) > 0).all()
    assert len(found) <= 12


def test_bad_measurements_are_refused(tmp_path):
    networks = networks_of(SPEC.module(0), [SPEC.module(0)] * 2, example_shape=(49,))
    for measurements in ({}, {"gamma": lambda n: n.gamma}):
        with pytest.raises(InputError, match="measurements"):
            Recorder(measurements)
    for wrong in (lambda n: 1.0, lambda n: np.ones(3)):
        with pytest.raises(InputError, match="one row"):
            Recorder({"wrong": wrong})(0, networks)
    sizes = iter((3, 4))
    changing = Recorder({"changing": lambda n: np.ones((2, next(sizes)))})
    changing(0, networks)
    with pytest.raises(InputError, match="shape it had"):
        changing(1, networks)
    cells = Ensemble(SPEC, GAMMA, ETA, SEED, stream=stream)
    with pytest.raises(InputError, match="nothing measured"):
        recorder().dataset(cells)
    named = Recorder({"flat": Measurement(lambda n: np.ones((2, 3)), ("a", "b"))})
    named(0, networks)
    with pytest.raises(InputError, match="dims of flat"):
        named.dataset(cells)
    with pytest.raises(InputError, match="cells"):
        named.dataset(Ensemble(SPEC, 1.0, 1.0, 0, stream=stream))
    (tmp_path / "text.nc").write_text("no")
    with pytest.raises(InputError, match="path"):
        load_record(tmp_path / "text.nc")


def test_modules_as_cells():
    torch.manual_seed(0)
    start, after = (nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)) for _ in range(2))
    start[1].bias.requires_grad_(False)
    networks = networks_of(start, [start, after], example_shape=(2, 3), gamma=[0.5, 2.0], rates={"3.bias": 4.0})
    after[1].bias = start[1].bias  # what is frozen is that of the start
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    expected = (after.double()(x) - start.double()(x)) / 2
    np.testing.assert_allclose(networks.output(x)[1].detach(), expected.detach(), rtol=1e-6, atol=1e-7)
    assert float(networks.output(x)[0].detach().abs().max()) < 1e-15  # rounding of two passes, one of them stacked
    assert networks.rates == {"1.weight": 1.0, "3.weight": 1.0, "3.bias": 4.0}
    other = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    for options in ({"trained": [other]}, {"trained": []}, {"gamma": [1.0, 2.0]}, {"rates": {"nowhere": 1.0}}):
        with pytest.raises(InputError, match=next(iter(options))):
            networks_of(start, example_shape=(2, 3), **options)
