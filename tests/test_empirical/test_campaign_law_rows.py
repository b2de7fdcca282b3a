"""Rows of laws.csv on units whose points are the exact law's, moved and scattered by known amounts."""

from __future__ import annotations

import numpy as np
import pytest

from empirical.campaign import CampaignResult, UnitResult, parse
from empirical.campaign.law_rows import COLUMNS, law_table
from empirical.campaign.plan import plan_all
from empirical.trace import exact_law
from simulate.boundary import collect
from theory import ToyModel

STEPS, DEPTH, SEEDS = 1000, 3, 4
APEX = ToyModel().apex(steps=STEPS, depth=DEPTH)


def units(boundaries, windows=None, lift=lambda name, gamma, seed: 1.0, arch="mlp"):
    """A finished campaign of one entry: η of the exact law times ``lift``, in brackets of 0.01 decades."""
    training = {"arch": arch, "width": 8, "image_size": 7} | ({"depth": DEPTH} if arch == "mlp" else {})
    entry = {"name": "net", "training": training, "boundaries": boundaries, "windows": windows or {}, "seeds": SEEDS}
    entry |= {"budgets": [STEPS], "points": 7, "regimes": ["rich", "lazy", "middle"]}
    campaign = parse({"format": 1, "name": "made-up", "entries": [entry]})
    plans, refused = plan_all(campaign)
    assert not refused
    done = []
    for plan in plans.values():
        points = {}
        for name in boundaries:
            law = exact_law(name, plan.gamma, **plan.law)
            eta = [(g, s, e * lift(name, g, s)) for s in range(SEEDS) for g, e in zip(plan.gamma, law, strict=True)]
            points[name] = collect(name, [(g, s, e, e * 10**-0.005, e * 10**0.005) for g, s, e in eta])
        done.append(UnitResult(plan, points, {}, {}, None, None))
    return law_table(CampaignResult(campaign, tuple(done), {}, ()))


def rows(table, quantity):
    assert list(table.columns) == COLUMNS
    return table[table["quantity"] == quantity].set_index("boundary")


ACROSS = {"rich": (0.3 * APEX, 3 * APEX), "middle": (0.01, 0.3 * APEX), "lazy": (1e-4, 1e-2)}


def scattered(name, gamma, seed):
    """1.5 % up and down from seed to seed, so that the seeds' mean is the law's to second order."""
    return (1 + 0.015 * (-1) ** seed) if name == "eta_min" else 1.0


def test_the_apex_of_the_exact_law_is_the_toys():
    apex = rows(units(["eta_min", "eta_crit"], ACROSS, scattered), "apex").loc["apex"]
    # interpolated between γ that are a factor 10^(1/6) apart, along lines that are nearly straight
    assert apex["fitted"] == pytest.approx(APEX, rel=0.02)
    assert apex["predicted"] == pytest.approx(APEX, rel=1e-9)
    assert apex["ci_low"] < apex["fitted"] < apex["ci_high"]
    assert (apex["verdict"], apex["n_points"], apex["unit"]) == ("consistent", SEEDS, "net.T1000.rich")


def test_networks_that_learn_twice_as_slowly_close_earlier_and_that_is_noticed():
    def slower(name, gamma, seed):
        return scattered(name, gamma, seed) * (2 if name == "eta_min" else 1)

    apex = rows(units(["eta_min", "eta_crit"], ACROSS, slower), "apex").loc["apex"]
    # eta_min is inversely proportional to T: twice as slow is half the budget
    assert apex["fitted"] == pytest.approx(ToyModel().apex(steps=STEPS / 2, depth=DEPTH), rel=0.02)
    assert apex["verdict"] == "inconsistent"


def test_an_extrapolated_apex_is_not_judged():
    below = ACROSS | {"rich": (0.1 * APEX, 0.7 * APEX), "middle": (0.01, 0.1 * APEX)}
    apex = rows(units(["eta_min", "eta_crit"], below, scattered), "apex").loc["apex"]
    assert apex["fitted"] == pytest.approx(APEX, rel=0.1)
    assert apex["verdict"] == "undetermined"


def noisy(name, gamma, seed):
    return np.exp(0.01 * np.random.default_rng([int(1e6 * gamma) % 2**31, seed]).normal())


def test_the_exact_law_has_no_bump():
    table = rows(units(["eta_crit"], lift=noisy), "bump")
    assert set(table.index) == {"eta_crit"}
    row = table.loc["eta_crit"]
    assert abs(row["fitted"]) < 0.02  # the largest of a few means of points that scatter by 0.01/ln 10
    assert (row["predicted"], row["verdict"], row["over"]) == (0.0, "consistent", "net.T1000.lazy")
    assert "apex" not in units(["eta_crit"])["quantity"].tolist()


def test_a_bump_of_known_height_is_found():
    def bell(name, gamma, seed):
        return noisy(name, gamma, seed) * 10 ** (0.5 * np.exp(-(np.log10(gamma) ** 2) / 0.2))

    windows = {"lazy": (1e-4, 1e-2), "middle": (1e-2, 1e2), "rich": (1e2, 1e4)}  # seven γ, of which one is 1
    row = rows(units(["eta_crit", "eta_fail"], windows, bell), "bump").loc["eta_fail"]
    assert row["fitted"] == pytest.approx(0.5, abs=0.02)  # means of four points that scatter by 0.004
    assert row["ci_low"] <= row["fitted"] <= row["ci_high"]
    assert row["verdict"] == "inconsistent"


def test_networks_of_unknown_degree_are_not_held_against_the_toy():
    table = units(["eta_min", "eta_crit"], ACROSS, scattered, arch="vit")
    assert rows(table, "apex")["predicted"].isna().all()
    assert rows(table, "bump").empty  # no degree was measured, so that there is no exponent
