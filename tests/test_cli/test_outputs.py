"""The files of the contract, as ``simulate``, ``sweep`` and ``trace`` write them."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from theory import ToyModel

BOUNDARIES = "arch,variant,depth,loss,optimizer,steps,seed,boundary,gamma,eta,eta_low,eta_high"
EXPONENTS = (
    "arch,variant,depth,loss,optimizer,boundary,regime,predicted,predicted_by,predicted_window,fitted,"
    "ci_low,ci_high,n_points,gamma_low,gamma_high,verdict"
)
OUTCOMES = "not_run untrained trained catapult unstable dead diverged"
VARIABLES = {"outcome", "final_loss", "initial_loss", "peak_loss", "final_accuracy", "steps_run"}


@pytest.fixture(params=["simulated", "swept", "traced"])
def finished(request):
    return request.getfixturevalue(request.param)


def test_nothing_half_written_is_left(finished):
    assert [path.name for path in finished.rglob(".*")] == [".lock"]


def test_the_manifest_says_what_was_run_with_what(finished):
    manifest = json.loads((finished / "manifest.json").read_text())
    assert re.fullmatch(r"unknown|[0-9a-f]{40}(\+changes)?", manifest["source_revision"])
    assert {"numpy", "scipy", "sympy", "numba", "torch", "xarray", "matplotlib"} <= manifest["packages"].keys()
    assert manifest["packages"]["numpy"] == np.__version__
    assert manifest["machine"].keys() >= {"system", "processor", "cores"}
    assert manifest["python"].startswith("3.")


def test_the_manifest_holds_the_whole_configuration(simulated, swept, traced):
    def config(folder):
        return json.loads((folder / "manifest.json").read_text())["config"]

    toy = {"command": "simulate", "loss": "mse", "depth": 3, "gamma": [1e-2, 1e2, 5], "eta": [1e-6, 1e3, 19]}
    assert config(simulated).items() >= (toy | {"steps": 2000}).items()
    network = {"arch": "mlp", "depth": 2, "width": 8, "data": "fashion-mnist-deformed", "image_size": 7}
    network |= {"batch_size": 8, "loss": "mse", "steps": 30, "seeds": 2, "device": "cpu"}
    sweep = {"command": "sweep", "gamma": [0.1, 10, 2], "eta": [1e-4, 1e2, 4]}
    trace = {"command": "trace", "gamma": [1e-3, 1e-2, 5], "boundaries": ["eta_min", "eta_crit"], "resolution": 0.3}
    assert config(swept).items() >= (network | sweep).items()
    assert config(traced).items() >= (network | trace).items()


@pytest.mark.parametrize(
    ("fixture", "gamma", "eta", "seeds"),
    [("simulated", (1e-2, 1e2, 5), (1e-6, 1e3, 19), [0]), ("swept", (0.1, 10, 2), (1e-4, 1e2, 4), [0, 1])],
)
def test_the_portrait_is_a_labelled_grid(request, fixture, gamma, eta, seeds):
    with xr.open_dataset(request.getfixturevalue(fixture) / "portrait.nc") as data:
        assert set(data.data_vars) == VARIABLES
        for name in VARIABLES:
            assert data[name].dims == ("gamma", "eta", "seed")
        # LO HI N: log-spaced, ends included
        np.testing.assert_allclose(np.log(data["gamma"]), np.linspace(*np.log(gamma[:2]), gamma[2]), atol=1e-12)
        np.testing.assert_allclose(np.log(data["eta"]), np.linspace(*np.log(eta[:2]), eta[2]), atol=1e-12)
        assert data["seed"].values.tolist() == seeds
        assert data["outcome"].attrs["flag_meanings"] == OUTCOMES
        assert list(data["outcome"].attrs["flag_values"]) == list(range(7))
        assert data["outcome"].attrs["flag_values"].dtype == data["outcome"].dtype
        named = [OUTCOMES.split()[value] for value in np.unique(data["outcome"])]
        assert {"untrained", "trained"} <= set(named)
        assert "not_run" not in named


def test_the_simulated_boundary_brackets_the_exact_law(simulated):
    """Theory is the oracle: η_crit from its closed form lies in the grid cell that the simulation names."""
    table = pd.read_csv(simulated / "boundaries.csv")
    found = table[table["boundary"] == "eta_crit"]
    assert len(found) == 5
    law = ToyModel().boundary("eta_crit").numeric(gamma=found["gamma"].to_numpy(), depth=3)
    assert (found["eta_low"] < law).all()
    assert (law < found["eta_high"]).all()


@pytest.mark.parametrize(
    ("fixture", "identity", "names"),
    [
        ("simulated", ("toy", 3, 2000), {"eta_min", "eta_crit", "eta_fail", "eta_max", "eta_star"}),
        ("swept", ("mlp", 2, 30), {"eta_min", "eta_crit", "eta_fail", "eta_max", "eta_star"}),
        ("traced", ("mlp", 2, 30), {"eta_min", "eta_crit"}),
    ],
)
def test_the_boundaries_are_a_table_of_brackets(request, fixture, identity, names):
    file = request.getfixturevalue(fixture) / "boundaries.csv"
    assert file.read_text().splitlines()[0] == BOUNDARIES
    table = pd.read_csv(file)
    assert set(table["boundary"]) == names
    assert set(zip(table["arch"], table["depth"], table["steps"], strict=True)) == {identity}
    assert set(table["loss"]) == {"mse"}
    assert set(table["optimizer"]) == {"gd"}
    assert not table.isna().any(axis=None)
    assert (table["eta_low"] <= table["eta"]).all()
    assert (table["eta"] <= table["eta_high"]).all()
    if fixture == "traced":
        # every line of both seeds, each bracket as narrow as was asked for
        assert len(table) == 2 * 2 * 5
        assert (np.log10(table["eta_high"] / table["eta_low"]) <= 0.3 * (1 + 1e-6)).all()


@pytest.mark.parametrize("fixture", ["simulated", "swept"])
def test_the_portrait_is_drawn_as_png_and_svg(request, fixture):
    folder = request.getfixturevalue(fixture)
    assert (folder / "portrait.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert ET.parse(folder / "portrait.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_the_sweep_keeps_learning_curves(swept):
    with (
        xr.open_dataset(swept / "curves.nc") as curves,
        xr.open_dataset(swept / "portrait.nc") as portrait,
    ):
        assert set(curves.data_vars) == {"loss", "accuracy"}
        assert curves["loss"].dims == curves["accuracy"].dims == ("gamma", "eta", "seed", "step")
        assert curves["step"].values[0] == 0
        assert (np.diff(curves["step"]) > 0).all()
        np.testing.assert_array_equal(curves["loss"].isel(step=0), portrait["initial_loss"])
        last = portrait["steps_run"] == 30
        assert curves["loss"].isel(step=-1).where(last, 0).notnull().all()
        assert ((curves["accuracy"] >= 0) & (curves["accuracy"] <= 1) | curves["accuracy"].isnull()).all()


def test_the_trace_fits_what_theory_allows(traced):
    assert (traced / "exponents.csv").read_text().splitlines()[0] == EXPONENTS
    table = pd.read_csv(traced / "exponents.csv")
    # 10⁻³ … 10⁻² lies in the lazy window and has no part in a rich one
    assert list(zip(table["regime"], table["boundary"], strict=True)) == [("lazy", "eta_min"), ("lazy", "eta_crit")]
    assert (table["predicted"] == 2).all()
    assert set(table["predicted_by"]) == {"depth"}
    assert set(table["verdict"]) <= {"consistent", "inconsistent", "undetermined"}
    assert (table["ci_low"] < table["fitted"]).all()
    assert (table["fitted"] < table["ci_high"]).all()
    # networks of any width are lazy here, and η ∝ γ² then: brackets of 0.27 decades over one decade leave 0.27,
    # and edges that are ragged after 30 steps as much again
    assert (abs(table["fitted"] - 2) < 0.54).all()


def test_a_regime_without_a_window_is_said_and_not_fatal(run, commands, traced, tmp_path):
    shutil.copytree(traced, tmp_path / "run")
    ran = run(*commands["trace"], "--out", tmp_path / "run")
    assert ran.code == 0
    assert "no rich fit: " in ran.err
    assert "no lazy fit: " not in ran.err


def test_a_grid_of_one_gamma_is_a_grid(run, tmp_path):
    words = ["simulate", "--depth", "2", "--gamma", "1", "2", "1", "--eta", "1e-3", "1e2", "6", "--steps", "50"]
    ran = run(*words, "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert (tmp_path / "run" / "portrait.png").exists()
    with xr.open_dataset(tmp_path / "run" / "portrait.nc") as data:
        assert dict(data.sizes) == {"gamma": 1, "eta": 6, "seed": 1}
