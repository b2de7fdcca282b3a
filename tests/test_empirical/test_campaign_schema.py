"""Campaign files: what they mean, and what is refused with the place of the mistake."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from empirical.campaign import load, parse
from empirical.campaign.plan import plan_all
from theory import InputError, fit_window

SMALL = {
    "format": 1,
    "name": "small",
    "defaults": {
        "training": {"width": 8, "image_size": 7, "batch_size": 8},
        "budgets": [30, 60],
        "points": 5,
        "margin": 5,
    },
    "entries": [
        {"name": "mlp-3", "training": {"depth": 3}},
        {"name": "ball", "training": {"depth": 3, "optimizer": "momentum"}, "baseline": "mlp-3", "budgets": [30]},
    ],
}
COMMITTED = sorted((Path(__file__).parents[2] / "paper_figures" / "campaigns").glob("*.json"))


def test_defaults_lie_under_entries():
    first, second = parse(SMALL).entries
    assert dict(first.training) == {"width": 8, "image_size": 7, "batch_size": 8, "depth": 3}
    assert (first.budgets, second.budgets) == ((30, 60), (30,))
    assert first.config(60).steps == 60
    assert second.config(30).optimizer == "momentum"


def test_units_run_budget_by_budget():
    names = [unit.name for unit in parse(SMALL).units()]
    assert names == [
        *("mlp-3.T30.lazy", "mlp-3.T30.rich", "ball.T30.lazy", "ball.T30.rich"),
        *("mlp-3.T60.lazy", "mlp-3.T60.rich"),
    ]


def test_a_campaign_survives_json():
    campaign = parse(SMALL)
    described = json.loads(json.dumps(campaign.describe()))
    assert parse({"format": 1} | described).describe() == campaign.describe()


@pytest.mark.parametrize(
    ("place", "value", "field", "allowed"),
    [
        (("format",), 2, "format", "1"),
        (("entires",), [], "campaign.entires", "entries"),
        (("entries",), [], "entries", "at least one"),
        (("entries",), {}, "entries", "a list"),
        (("defaults", "point"), 5, "defaults.point", "points"),
        (("entries", 0, "name"), "mlp 3", "entries[0].name", "letters"),
        (("entries", 1, "name"), "mlp-3", "entries[1].name", "unlike"),
        (("entries", 1, "baseline"), "mlp-4", "entries[1].baseline", "earlier entry"),
        (("entries", 0, "training", "widht"), 8, "entries[0].training.widht", "width"),
        (("entries", 0, "training", "depth"), 0, "entries[0].training.depth", "integer >= 1"),
        (("entries", 0, "training", "steps"), 9, "entries[0].training.steps", "budgets"),
        (("entries", 0, "training", "loss"), "hinge", "entries[0].training.loss", "cross-entropy"),
        (("entries", 1, "budgets"), 30, "entries[1]", "lists"),
        (("entries", 1, "budgets"), [30, 30], "entries[1].budgets", "different"),
        (("entries", 1, "boundaries"), ["eta_mid"], "entries[1].boundaries", "eta_crit"),
        (("entries", 1, "regimes"), ["ultra"], "entries[1].regimes", "lazy"),
        (("entries", 1, "seeds"), 0, "entries[1].seeds", "integer >= 1"),
        (("entries", 1, "points"), 2, "entries[1].points", "integer >= 3"),
        (("entries", 1, "resolution"), -1, "entries[1].resolution", "positive"),
        (("entries", 1, "windows"), {"rich": [9, 1]}, "entries[1].rich", "LO < HI"),
        (("entries", 1, "windows"), [1, 9], "entries[1]", "windows"),
        (("entries", 1, "degree"), "yes", "entries[1].degree", "true or false"),
    ],
)
def test_mistakes_are_named_with_their_place(place, value, field, allowed):
    content = copy.deepcopy(SMALL)
    target = content
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    with pytest.raises(InputError) as caught:
        parse(content)
    assert caught.value.field == field
    assert allowed in caught.value.allowed
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="readable file"):
        load(tmp_path / "absent.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(InputError, match="must be JSON"):
        load(tmp_path / "broken.json")


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_campaigns_can_be_planned(path):
    campaign = load(path)
    plans, refused = plan_all(campaign)
    assert len(plans) + len(refused) == len(campaign.units())
    # an empty window is a finding, but a file made of them is a mistake
    assert len(refused) <= 0.1 * len(campaign.units()), refused
    for planned in plans.values():
        assert planned.window.low < planned.window.high
        assert len(planned.gamma) >= 5


def test_windows_are_those_of_theory_and_shared_where_boundaries_are_compared():
    plans, refused = plan_all(parse(SMALL))
    assert not refused
    rich = plans["mlp-3.T30.rich"]
    chosen = fit_window("eta_crit", 3, "rich", 30, tolerance=0.02, margin=5.0, gamma_range=(1e-4, 1e4))
    assert (rich.window.low, rich.window.high) == (chosen.low, chosen.high)
    for other in ("mlp-3.T60.rich", "ball.T30.rich"):
        np.testing.assert_array_equal(plans[other].gamma, rich.gamma)


def test_the_window_of_several_boundaries_is_where_theirs_overlap():
    content = copy.deepcopy(SMALL)
    content["defaults"] |= {"boundaries": ["eta_crit", "eta_max"]}
    content["entries"] = [{"name": "ce", "training": {"depth": 4, "loss": "cross-entropy"}}]
    lazy = plan_all(parse(content))[0]["ce.T30.lazy"].window
    given = {"tolerance": 0.005, "gamma_range": (1e-4, 1e4), "loss": "cross-entropy"}
    ends = [fit_window(name, 4, "lazy", 30, **given).high for name in ("eta_crit", "eta_max")]
    assert lazy.high == min(ends)
    assert ends[0] != ends[1]


def test_the_middle_lies_between_the_windows():
    content = copy.deepcopy(SMALL)
    content["entries"][0]["regimes"] = ["lazy", "middle", "rich"]
    plans, _ = plan_all(parse(content))
    lazy, middle, rich = (plans[f"mlp-3.T60.{regime}"].window for regime in ("lazy", "middle", "rich"))
    assert (middle.low, middle.high) == (lazy.high, rich.low)


def test_a_budget_without_a_window_is_refused_alone():
    content = copy.deepcopy(SMALL)
    content["entries"][0] |= {"training": {"depth": 6}}
    plans, refused = plan_all(parse(content))
    assert "mlp-3.T30.rich" in refused
    assert "mlp-3.T60.rich" in plans  # on a window of its own, since the smaller budget has none
    assert "margin" in refused["mlp-3.T30.rich"]
    assert "mlp-3.T30.lazy" in plans
