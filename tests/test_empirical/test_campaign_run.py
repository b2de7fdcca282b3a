"""A campaign of two entries that takes seconds: tables, order of prediction and fit, interruptions, the command."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from empirical.campaign import parse, run_campaign, save
from empirical.campaign.journal import JOURNAL, PREDICTIONS, Journal, digest
from empirical.store import RunDirectory
from theory import InputError

CAMPAIGN = {
    "format": 1,
    "name": "tiny",
    "defaults": {
        "training": {"width": 8, "image_size": 7, "batch_size": 8},
        "budgets": [30],
        "points": 5,
        "seeds": 2,
        "resolution": 0.2,
        "regimes": ["rich", "lazy"],
    },
    "entries": [
        {"name": "mlp-2", "training": {"depth": 2}, "boundaries": ["eta_min", "eta_crit", "eta_star"]},
        {
            "name": "ball",
            "training": {"depth": 2, "optimizer": "momentum", "beta": 0.5},
            "boundaries": ["eta_crit"],
            "regimes": ["lazy"],
            "baseline": "mlp-2",
        },
    ],
}
TABLES = ("boundaries.csv", "exponents.csv", "degrees.csv", "laws.csv", "learned.csv", "windows.csv")


class Counting:
    """Progress that counts what was trained, and can end the run."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.trained, self.stop_after = 0, stop_after

    def plan(self, total): ...

    def phase(self, description, expected): ...

    def advance(self, cell_steps, held):
        self.trained += not held
        if self.stop_after is not None and self.trained > self.stop_after:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True, scope="module")
def _restore_torch():
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_flush_denormal(False)


def run_in(folder, progress=None, on_unit=None):
    campaign = parse(CAMPAIGN)
    store = RunDirectory(folder, {"command": "compare"} | campaign.describe())
    progress = progress or Counting()
    result = run_campaign(campaign, store, progress, on_unit=on_unit)
    save(result, store)
    return result, progress, store


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished campaign and what it found; not to be changed."""
    folder = tmp_path_factory.mktemp("campaign") / "run"
    return folder, run_in(folder)[0]


def test_tables_have_the_columns_of_the_contract(finished):
    folder, _ = finished
    exponents = pd.read_csv(folder / "exponents.csv")
    heads = {name: (folder / name).read_text().splitlines()[0] for name in ("exponents.csv", "boundaries.csv")}
    assert heads["exponents.csv"].startswith(
        "arch,variant,depth,loss,optimizer,boundary,regime,predicted,predicted_by,predicted_window,"
        "fitted,ci_low,ci_high,n_points,gamma_low,gamma_high,verdict,"
    )
    assert heads["boundaries.csv"].startswith(
        "arch,variant,depth,loss,optimizer,steps,seed,boundary,gamma,eta,eta_low,eta_high,"
    )
    assert set(exponents[["entry", "regime", "boundary", "predicted_by"]].itertuples(index=False, name=None)) == {
        ("mlp-2", "rich", "eta_min", "depth"),
        ("mlp-2", "rich", "eta_crit", "depth"),
        ("mlp-2", "rich", "eta_crit", "euler_degree"),
        ("mlp-2", "rich", "eta_star", "depth"),
        ("mlp-2", "rich", "eta_star", "euler_degree"),
        ("mlp-2", "lazy", "eta_min", "depth"),
        ("mlp-2", "lazy", "eta_crit", "depth"),
        ("mlp-2", "lazy", "eta_star", "depth"),
        ("ball", "lazy", "eta_crit", "depth"),
    }
    by_degree = exponents[exponents["predicted_by"] == "euler_degree"]
    # bias-free ReLU: homogeneous of degree 2 at every weight, in double precision
    np.testing.assert_allclose(by_degree["degree"], 2, rtol=1e-9)
    np.testing.assert_allclose(by_degree["predicted"], 1, rtol=1e-9)


def test_learned_is_the_loss_of_the_last_cell_below_the_boundary(finished):
    folder, _ = finished
    learned, boundaries = pd.read_csv(folder / "learned.csv"), pd.read_csv(folder / "boundaries.csv")
    crit = boundaries[boundaries["boundary"] == "eta_crit"]
    assert learned["seeds"].sum() == len(crit)
    with xr.open_dataset(folder / "cells.nc") as cells:
        units = cells.attrs["units"].split()
        for row in learned.itertuples():
            mine = (cells.unit.values == units.index(f"{row.entry}.T{row.steps}.{row.regime}")) & np.isclose(
                cells.gamma.values, row.gamma, rtol=1e-6, atol=0
            )
            rows = crit[
                (crit.entry == row.entry)
                & (crit.regime == row.regime)
                & np.isclose(crit.gamma, row.gamma, rtol=1e-6, atol=0)
            ]
            found = []
            for seed, eta in zip(rows.seed, rows.eta_low, strict=True):
                here = mine & (cells.seed.values == seed) & np.isclose(cells.eta.values, eta, rtol=1e-6, atol=0)
                found.append(float((cells.final_loss / cells.initial_loss).values[here][0]))
            np.testing.assert_allclose(
                [row.remaining, row.least, row.largest], [np.median(found), min(found), max(found)]
            )
            assert row.largest < 1  # they learned


def test_lazy_slopes_are_2_as_theory_has_it(finished):
    """Ten points of brackets of 0.2 decades over 1.7 decades: a standard error of 0.03."""
    exponents = pd.read_csv(finished[0] / "exponents.csv")
    lazy = exponents[(exponents["regime"] == "lazy") & exponents["boundary"].isin(["eta_min", "eta_crit"])]
    np.testing.assert_allclose(lazy["fitted"], 2, atol=0.12)


def test_every_prediction_precedes_its_fit(finished):
    folder, result = finished
    events = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    before = ""
    for event in events:
        assert event["previous"] == before
        before = digest(event)
    order = [(event["event"], event["unit"]) for event in events]
    assert order == [
        ("predicted", "mlp-2.T30.rich"), ("fitted", "mlp-2.T30.rich"), ("fitted", "mlp-2.T30.lazy"),
        ("fitted", "ball.T30.lazy"),
    ]  # fmt: skip
    predictions = json.loads((folder / PREDICTIONS).read_text())
    manifest = json.loads((folder / "manifest.json").read_text())
    noted = manifest["predictions"]["mlp-2.T30.rich"]
    assert noted == {"time": events[0]["time"], "sha256": events[0]["sha256"]}
    assert digest(predictions["mlp-2.T30.rich"]) == noted["sha256"]
    assert result.done[0].prediction.record() == {
        k: tuple(v) if isinstance(v, list) else v for k, v in predictions["mlp-2.T30.rich"].items()
    }


def test_a_fit_without_a_prediction_cannot_be_given_one_later(finished, tmp_path):
    store = RunDirectory(tmp_path / "run", {})
    journal = Journal(store)
    journal.note("fitted", "a.T30.rich", 1)
    with pytest.raises(InputError, match="made before the fit"):
        journal.predict("a.T30.rich", {"slope": 1})


def test_the_first_prediction_holds(tmp_path):
    store = RunDirectory(tmp_path / "run", {})
    assert Journal(store).predict("u", {"slope": 1.0}) == {"slope": 1.0}
    assert Journal(store).predict("u", {"slope": 2.0}) == {"slope": 1.0}


@pytest.mark.parametrize("name", [JOURNAL, PREDICTIONS])
def test_what_was_changed_by_hand_is_noticed(tmp_path, name):
    store = RunDirectory(tmp_path / "run", {})
    journal = Journal(store)
    journal.predict("u", {"slope": 1.0})
    journal.note("fitted", "u", 1)
    file = store.path / name
    changed = {JOURNAL: ('"unit":"u"', '"unit":"v"'), PREDICTIONS: ("1.0", "1.5")}[name]
    file.write_text(file.read_text().replace(*changed, 1))
    with pytest.raises(InputError, match=r"predictions.json|journal.jsonl"):
        Journal(store)


def test_an_interrupted_campaign_ends_with_the_same_tables(finished, tmp_path):
    folder = tmp_path / "run"
    for stop_after in (3, 9):
        with pytest.raises(KeyboardInterrupt):
            run_in(folder, Counting(stop_after))
    _, progress, store = run_in(folder)
    assert progress.trained > 0
    for name in TABLES:
        assert (folder / name).read_bytes() == (finished[0] / name).read_bytes(), name
    first, again = (json.loads((place / PREDICTIONS).read_text()) for place in (finished[0], folder))
    assert first == again
    del store
    _, progress, _ = run_in(folder)
    assert progress.trained == 0
    for name in TABLES:
        assert (folder / name).read_bytes() == (finished[0] / name).read_bytes(), name


def test_results_are_usable_after_every_unit(tmp_path):
    seen = []
    campaign = parse(CAMPAIGN)
    store = RunDirectory(tmp_path / "run", {"command": "compare"} | campaign.describe())

    def look(result):
        save(result, store)
        table = pd.read_csv(store.path / "exponents.csv")
        seen.append((len(result.done), len(result.waiting), table["entry"].nunique()))
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_campaign(campaign, store, Counting(), on_unit=look)
    assert seen == [(1, 2, 1), (2, 1, 1)]


def test_momentum_is_held_against_its_baseline(finished):
    laws = pd.read_csv(finished[0] / "laws.csv")
    laws = laws[laws["boundary"] != "sharpness"]
    assert set(laws[["unit", "over", "quantity"]].itertuples(index=False, name=None)) == {
        ("ball.T30.lazy", "mlp-2.T30.lazy", "ratio"),
        ("ball.T30.lazy", "mlp-2.T30.lazy", "slope"),
    }
    ratio, slope = (laws[laws["quantity"] == name].iloc[0] for name in ("ratio", "slope"))
    assert ratio["predicted"] == pytest.approx(1.5)
    assert slope["predicted"] == pytest.approx(0, abs=1e-9)
    points = pd.read_csv(finished[0] / "boundaries.csv")
    points = points[(points["regime"] == "lazy") & (points["boundary"] == "eta_crit")]
    eta = points.pivot_table(index=["gamma", "seed"], columns="entry", values="eta")
    by_hand = np.log(eta["ball"] / eta["mlp-2"]).groupby("gamma").mean().mean()
    assert np.log(ratio["fitted"]) == pytest.approx(by_hand, abs=1e-8)
    assert ratio["n_points"] == 10


def test_cells_of_the_traces_are_kept(finished):
    folder, result = finished
    with xr.open_dataset(folder / "cells.nc") as cells:
        assert cells.sizes["cell"] == sum(len(one.cells["eta"]) for one in result.done)
        assert cells.attrs["units"].split() == [one.plan.unit.name for one in result.done]
        brackets = pd.read_csv(folder / "boundaries.csv")
        known = set(np.round(np.log(cells["eta"].values), 6))
        traced = brackets[brackets["boundary"] != "eta_star"]
        assert set(np.round(np.log(traced["eta_low"]), 6)) <= known


def test_degrees_are_those_of_every_cell_and_step(finished):
    degrees = pd.read_csv(finished[0] / "degrees.csv")
    assert set(degrees["regime"]) == {"rich", "lazy"}
    assert len(degrees.groupby(["entry", "gamma", "seed"])) == 30
    trained = degrees[degrees["outcome"] == "trained"]
    assert len(trained)
    # F(θ₀) is of size 1/√N and θ·∇F is twice that from the first step on
    np.testing.assert_allclose(trained["degree"], 2, rtol=1e-9)
    assert (trained["settled_at"] == 0).all()


def test_the_sharpness_where_training_ends_follows_the_edge(finished):
    """λ ∝ 1/η_crit: slopes −2 and −2/D = −1; and below the edge ηλ/2 < 1."""
    laws = pd.read_csv(finished[0] / "laws.csv")
    sharp = laws[laws["boundary"] == "sharpness"].set_index("unit")
    assert set(sharp.index) == {"mlp-2.T30.rich", "mlp-2.T30.lazy", "ball.T30.lazy"}
    for unit, slope in (("mlp-2.T30.lazy", -2), ("mlp-2.T30.rich", -1)):
        assert sharp.loc[unit, "predicted"] == pytest.approx(slope, abs=0.01)
        assert sharp.loc[unit, "fitted"] == pytest.approx(slope, abs=0.1)  # 30 steps, width 8
    degrees = pd.read_csv(finished[0] / "degrees.csv")
    trained = degrees[(degrees["outcome"] == "trained") & (degrees["entry"] == "mlp-2")]
    assert trained["edge"].median() < 1
    assert trained["edge"].median() > 0.1
