"""Cells of a campaign trained again, slower; and its eta_min against gradient flow of the networks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from empirical.campaign import parse, run_campaign
from empirical.campaign import slow as module
from empirical.campaign.again import command
from empirical.campaign.flow import flows, growths, starting
from empirical.campaign.flow import summary as summary_of_flow
from empirical.campaign.rays import rays
from empirical.campaign.slow import slow, summary
from empirical.campaign.tables import save
from empirical.ensemble import Ensemble
from empirical.measure.catalogue import training_examples
from empirical.shard import TrainingConfig
from empirical.store import RunDirectory
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


def test_flow_of_the_networks_of_a_campaign(folder):
    table = flows(folder)
    traced = pd.read_csv(folder / "boundaries.csv")
    traced = traced[traced["boundary"].eq("eta_min")]
    assert table.columns.tolist() == ["entry", "gamma", "seed", "tau", "rest"]
    assert (table["rest"] > 1).all()
    table = table.assign(rest=1.12)
    assert len(table) == len(traced) == 12
    rows = summary_of_flow(folder, table)
    assert rows["regime"].tolist() == ["lazy", "rich"] or rows["regime"].tolist() == ["rich", "lazy"]
    both = traced.merge(table, on=["entry", "seed"], suffixes=("", "_flow"))
    both = both[np.isclose(both["gamma"], both["gamma_flow"], rtol=1e-5)]
    ratio = both["eta"] / (both["gamma"] * both["tau"] / (0.99 * 60))
    assert len(both) == 12
    np.testing.assert_allclose(np.log(ratio), 0, atol=0.5)  # the tail is the loss of one batch of 16
    for row in rows.itertuples():
        mine = ratio[both["regime"].eq(row.regime)]
        assert row.points == 6
        assert row.ratio == pytest.approx(np.exp(np.log(mine).mean()), rel=1e-4)
        assert row.spread == pytest.approx(np.log10(mine).std(), rel=1e-3)
    fits = pd.read_csv(folder / "exponents.csv")
    fit = fits[fits["entry"].eq("mlp") & fits["regime"].eq("rich") & fits["predicted_by"].eq("depth")].iloc[0]
    rich = rows[rows["regime"].eq("rich")].iloc[0]
    assert (rich["fitted"], rich["toy"]) == pytest.approx((fit["fitted"], fit["predicted_window"]), rel=1e-5)
    assert rich["flow"] < rich["toy"]  # networks cross over at smaller γ than the toy
    at = table["gamma"].eq(table["gamma"].max()) & table["seed"].eq(0)
    one = summary_of_flow(folder, table.assign(rest=np.where(at, 2.0, 1.1)))
    resting = one[one["regime"].eq("rich")].iloc[0]
    assert (resting["points"], resting["pass"], resting["flow_verdict"]) == (6, 5, "")
    assert np.isnan(resting["flow"])


def test_flows_that_are_known_are_kept(folder, monkeypatch, tmp_path):
    whole, kept = flows(folder), []
    known = whole.iloc[:3].assign(tau=-1.0)
    half = flows(folder, known=known, keep=lambda table: kept.append(len(table)))
    assert kept[-1] == len(half) == len(whole)
    assert kept == sorted(kept)
    assert (half["tau"] == -1).sum() == 3
    known.to_csv(tmp_path / "flow.csv", index=False, float_format="%.8g")
    again = flows(folder, known=pd.read_csv(tmp_path / "flow.csv"))  # as it is read back
    assert (again["tau"] == -1).sum() == 3
    monkeypatch.setattr("empirical.campaign.flow.flow_time", lambda *_, **__: pytest.fail("nothing is left to do"))
    pd.testing.assert_frame_equal(flows(folder, ("mlp",), known=whole), whole)
    with pytest.raises(InputError, match=r"nobody.*mlp"):
        flows(folder, ("nobody",))


def test_the_kernel_of_the_first_network_of_each_rich_unit(folder):
    table = growths(folder)
    assert table["entry"].unique().tolist() == ["mlp"]
    assert (table["seed"] == 0).all()
    assert (table["alignment"].iloc[0], table["tau"].iloc[0]) == (0, 0)
    late = np.diff(np.log(table["kernel"].to_numpy()[-3:])) / np.diff(np.log(table["alignment"].to_numpy()[-3:]))
    np.testing.assert_allclose(late, 1, atol=0.03)  # 2 − 2/L
    pd.testing.assert_frame_equal(growths(folder, known=table), table)


def test_flow_starts_where_training_does():
    config, seen = TrainingConfig(depth=2, width=8, image_size=7, batch_size=16, steps=60), []
    cells = Ensemble(config.spec(), [2.0, 3.0], [1.0, 1.0], seed=5, stream=config.stream)
    cells.run(1, probe=lambda step, networks: seen.append(networks), probe_steps=[0])
    mine, (x, y) = starting(config, 5, np.array([2.0, 3.0])), training_examples(config, 5, 20)
    for name, weights in seen[0].weights.items():
        np.testing.assert_array_equal(mine.weights[name], weights)
    assert (mine.rates, mine.seed, mine.gamma.tolist()) == (seen[0].rates, 5, [2.0, 3.0])
    first, target = config.stream(5)(0)
    assert (x.shape, y.shape) == ((32, 49), (32, 10))
    np.testing.assert_array_equal(x[:16], first.double())
    np.testing.assert_array_equal(y[:16], target.double())


def test_commands_say_what_is_wrong(folder, capsys, monkeypatch):
    for rest in ([], [str(folder), "nobody"], [str(folder / "nowhere")]):
        monkeypatch.setattr("sys.argv", ["command", *rest])
        with pytest.raises(SystemExit) as stop:
            command(lambda at, names: print(flows(at, tuple(names))), "python -m … FOLDER")
        assert stop.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    monkeypatch.setattr("sys.argv", ["command", str(folder), "mlp"])
    command(lambda at, names: print(len(flows(at, tuple(names)))), "")
    assert capsys.readouterr().out == "12\n"
