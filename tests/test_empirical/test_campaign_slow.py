"""Cells of a campaign trained again, slower; and crossovers of eta_min against toys that start elsewhere."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from empirical.campaign import parse, run_campaign
from empirical.campaign import slow as module
from empirical.campaign.again import command
from empirical.campaign.crossover import crossovers, fit_crossover
from empirical.campaign.rays import rays
from empirical.campaign.slow import slow, summary
from empirical.campaign.tables import save
from empirical.store import RunDirectory
from empirical.trace import exact_law
from simulate import TraceSettings, run_gradient_descent, trace_toy
from simulate.maps.unbalanced import run_unbalanced
from theory.errors import InputError

CAMPAIGN = {
    "format": 1,
    "name": "small",
    "description": "a residual network and an MLP",
    "defaults": {
        "training": {"image_size": 7, "batch_size": 16}, "budgets": [60], "seeds": 2, "points": 3, "resolution": 0.1,
    },
    "entries": [
        {"name": "resnet", "training": {"arch": "resnet", "width": 6, "blocks": 1, "norm": "layer"},
         "boundaries": ["eta_crit"], "regimes": ["rich"], "windows": {"rich": [30, 1e3]}},
        {"name": "mlp", "training": {"depth": 2, "width": 8}, "boundaries": ["eta_min"],
         "windows": {"lazy": [1e-3, 1e-2], "rich": [3, 30]}, "margin": 1.0, "degree": False, "sharpness": False},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished campaign; not to be changed."""

    class Quiet:
        def plan(self, total): ...
        def phase(self, description, expected): ...
        def advance(self, cell_steps, held): ...

    at, campaign = tmp_path_factory.mktemp("campaign") / "run", parse(CAMPAIGN)
    store = RunDirectory(at, {"command": "compare"} | campaign.describe())
    save(run_campaign(campaign, store, Quiet()), store)
    yield at
    torch.use_deterministic_algorithms(False)
    torch.set_flush_denormal(False)


def test_the_same_cells_are_trained_again(folder, monkeypatch):
    kept = pd.read_csv(folder / "degrees.csv")
    kept = kept[kept["entry"].eq("resnet") & kept["step"].eq(60)].reset_index(drop=True)
    monkeypatch.setattr(module, "SLOW", 1)  # no slower: nothing may change
    same = slow(folder)
    assert len(same) == len(kept) > 3
    for name in ("gamma", "eta", "seed"):
        np.testing.assert_allclose(same[name], kept[name], rtol=1e-9)
    np.testing.assert_allclose(same["degree"], kept["degree"], rtol=1e-6)
    np.testing.assert_allclose(same["sharpness"], kept["sharpness"], rtol=1e-6)
    np.testing.assert_allclose(same["near"], kept["degree"], rtol=1e-9)
    assert same["outcome"].tolist() == kept["outcome"].tolist()


def test_slower_and_longer(folder):
    table = slow(folder, ("resnet",), steps=60)
    near = pd.read_csv(folder / "degrees.csv")
    near = near[near["entry"].eq("resnet") & near["step"].eq(60)]
    np.testing.assert_allclose(table["eta"], near["eta"] / 16, rtol=1e-9)
    assert (table["outcome"] == "trained").all()
    # gradient flow sharpens where the edge of stability does not let it
    assert np.median(table["sharpness"].to_numpy() / near["sharpness"].to_numpy()) > 1.5
    (row,) = summary(folder, table).to_dict("records")
    assert (row["entry"], row["steps"], row["boundary"]) == ("resnet", 60, "eta_crit")
    assert row["slow_low"] == pytest.approx(table[table["gamma"] == table["gamma"].min()]["degree"].median())
    fits = pd.read_csv(folder / "exponents.csv")
    fit = fits[fits["entry"].eq("resnet") & fits["predicted_by"].eq("euler_degree")].iloc[0]
    assert (row["fitted"], row["near"]) == pytest.approx((fit["fitted"], fit["predicted_window"]), rel=1e-5)


def test_rays_of_the_same_cells(folder):
    kept = pd.read_csv(folder / "degrees.csv")
    kept = kept[kept["entry"].eq("resnet") & kept["step"].eq(60) & kept["outcome"].isin(["trained", "catapult"])]
    table = rays(folder)
    assert table.columns.tolist() == ["entry", "steps", "gamma", "eta", "seed", "degree", "sharpness", "ray_exponent"]
    np.testing.assert_allclose(table["degree"], kept["degree"], rtol=1e-6)
    assert np.isfinite(table["ray_exponent"]).all()
    with pytest.raises(InputError, match=r"nobody.*resnet"):
        rays(folder, ("nobody",))


def test_other_budgets_and_unknown_entries(folder):
    assert slow(folder, steps=61).empty
    with pytest.raises(InputError, match="mlp"):
        slow(folder, ("mlp",))


LAW = {"depth": 3, "steps": 4000, "level": 0.9, "loss": "mse", "optimizer": "gd"}


def test_a_toy_that_starts_elsewhere_crosses_over_at_another_gamma():
    """Gradient descent from weights s, not from the law: γ₀ = s^L and h = s²."""
    start, gamma = 0.5, np.geomspace(1e-3, 1e3, 9)
    found = []
    for one in gamma:
        low, high = 1e-6 * min(one, one**2), 10.0 * one
        for _ in range(25):  # bisection of η at which the loss falls to 0.9 of itself in T steps
            eta = np.sqrt(low * high)
            run = run_unbalanced(one, eta, weights=np.full(3, start), steps=LAW["steps"])
            low, high = (low, eta) if run.final_loss[0] <= 0.9 * run.initial_loss[0] else (eta, high)
        found.append(eta)
    crossover, rate, misfit = fit_crossover(gamma, found, **LAW)
    assert crossover == pytest.approx(start**3, rel=0.02)
    assert rate == pytest.approx(start**2, rel=0.02)
    assert misfit < 0.01


def test_the_toy_itself_crosses_over_where_it_does():
    gamma = np.geomspace(1e-3, 1e3, 13)
    coarse = TraceSettings(resolution=0.005, guard_spacing=0.1)
    points = trace_toy(depth=3, gamma=gamma, names=("eta_min",), steps=4000, settings=coarse)["eta_min"]
    crossover, rate, misfit = fit_crossover(points.gamma, points.eta, **LAW)
    assert (crossover, rate) == pytest.approx((1, 1), rel=0.02)
    assert misfit < 0.005
    assert exact_law("eta_min", [1.0], **LAW)[0] == pytest.approx(points.eta[6], rel=0.02)
    assert run_gradient_descent(1.0, points.eta_high[6], depth=3, steps=4000).outcome[0] == 2


def test_crossovers_of_a_campaign(folder):
    (row,) = crossovers(folder).to_dict("records")
    assert (row["entry"], row["steps"], row["points"]) == ("mlp", 60, 12)
    assert 0 < row["crossover_low"] < row["crossover"] < row["crossover_high"]
    assert row["misfit"] < 0.2
    fits = pd.read_csv(folder / "exponents.csv")
    fit = fits[fits["entry"].eq("mlp") & fits["regime"].eq("rich") & fits["predicted_by"].eq("depth")].iloc[0]
    assert (row["fitted"], row["law"]) == pytest.approx((fit["fitted"], fit["predicted_window"]), rel=1e-5)
    with pytest.raises(InputError, match=r"nobody.*mlp"):
        crossovers(folder, ("nobody",))


def test_commands_say_what_is_wrong(folder, capsys, monkeypatch):
    for rest in ([], [str(folder), "nobody"], [str(folder / "nowhere")]):
        monkeypatch.setattr("sys.argv", ["command", *rest])
        with pytest.raises(SystemExit) as stop:
            command(lambda at, names: print(crossovers(at, tuple(names))), "python -m … FOLDER")
        assert stop.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    monkeypatch.setattr("sys.argv", ["command", str(folder), "mlp"])
    command(lambda at, names: print(len(crossovers(at, tuple(names)))), "")
    assert capsys.readouterr().out == "1\n"
