"""Judges on made-up data: each says what was put in, and turns its verdict when the data turn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from paper_figures.claims import CLAIMS
from paper_figures.claims.plane import best_eta
from paper_figures.claims.tables import COLUMNS, committed_tables, judge_rows, sources
from paper_figures.ledger import (
    COLUMNS as LEDGER_COLUMNS,
)
from paper_figures.ledger import (
    VERDICTS,
    above,
    against,
    judge_all,
    mean_interval,
    measured,
    number,
    of_fit,
    to_csv,
    to_html,
    within,
)
from simulate import Outcome, fit_power_law

BY_ID = {claim.id: claim for claim in CLAIMS}


def judge(name, data):
    claim = BY_ID[name]
    return claim.judge(*(data[need] for need in claim.needs))


def test_ids_are_unique_and_every_rule_says_when_it_is_supported():
    assert len(BY_ID) == len(CLAIMS)
    for claim in CLAIMS:
        assert claim.rule.startswith("Supported when"), claim.id
        assert "Returns" not in claim.rule


@pytest.mark.parametrize("name", [
    "eta-crit-lazy-mse", "eta-crit-rich-mse", "eta-fail-lazy-mse", "eta-max-lazy-ce", "eta-max-rich-ce",
    "eta-min-budget-lazy", "eta-min-budget-rich", "power-law-lazy", "power-law-rich", "power-laws-differ",
    "accuracy-rich", "accuracy-budget", "catapult-height", "catapult-rich", "silent-alignment",
    "silent-alignment-centred", "sharpness-lazy",
    "sharpness-rich", "outliers-lazy", "outliers-lazy-gn", "hessian-lazy-constant", "hessian-rich-grows",
    "lazy-agree", "rich-agree",
    "lazy-not-rich", "alignment-gamma",
])  # fmt: skip
def test_what_was_put_in_is_supported(name, made):
    finding = judge(name, made)
    assert finding.verdict == "supported", finding
    assert finding.interval[0] <= finding.measured <= finding.interval[1]


@pytest.mark.parametrize(("name", "data", "change"), [
    ("eta-crit-lazy-mse", "plane", {"tilt": 0.1}),
    ("eta-min-budget-lazy", "budgets", {"slope": -0.8}),
    ("eta-min-budget-rich", "budgets", {"slope": -1.2}),
    ("power-laws-differ", "curves", {"lazy": 0.6, "rich": 0.2}),
    ("accuracy-rich", "curves", {"gain": -0.1}),
    ("accuracy-budget", "curves", {"gain": -0.05}),
    ("catapult-height", "catapults", {"slope": 0.5, "largest": 20.0}),
    ("catapult-rich", "catapults", {"largest": 1e9}),
    ("catapult-power", "catapults", {"slope": -1.0}),
    ("outliers-lazy", "spectra", {"outliers": 3}),
    ("outliers-lazy-gn", "spectra", {"outliers": 0}),
    ("silent-alignment", "landscape", {"lead": 0.4}),
    ("sharpness-lazy", "landscape", {"lazy": -1.8}),
    ("sharpness-rich", "landscape", {"rich": -0.5}),
    ("lazy-agree", "landscape", {"agree": 1.0}),
    ("rich-agree", "landscape", {"agree": 1.0}),
])  # fmt: skip
def test_a_verdict_turns_with_the_data(name, data, change, make):
    claim = BY_ID[name]
    assert len(claim.needs) == 1
    finding = claim.judge(make[data](**change))
    assert finding.verdict == "not supported", finding


def test_catapults_of_the_two_layer_map_are_recognised(make):
    finding = BY_ID["catapult-power"].judge(make["catapults"](slope=-2.0))
    assert finding.verdict == "supported"
    assert finding.measured == pytest.approx(-2.0, abs=1e-9)


def test_few_rich_catapults_are_told_from_none_only_with_enough_runs(make):
    """3 in 100 are fewer than 1 in 20 on 2000 runs, and may be more on 200."""
    few = make["catapults"]()
    rich = np.nonzero(few["gamma"].values >= 10)[0]
    for times, verdict in ((10, "undetermined"), (100, "supported")):
        many = few.isel(seed=np.tile([0, 1], times)).copy(deep=True)
        trained = np.argwhere(many["outcome"].values[rich] == Outcome.TRAINED)
        hits = trained[::33]
        many["outcome"].values[rich[hits[:, 0]], hits[:, 1], hits[:, 2]] = Outcome.CATAPULT
        assert BY_ID["catapult-rich"].judge(many).verdict == verdict


def test_outputs_collapse_where_losses_need_not(make):
    """F is one function of τ, at learning rates that make equal t another τ; losses once of τ, once of t."""
    data = make["landscape"]()
    gamma = data["gamma"].values
    eta = gamma**0.5
    tau = data["step"].values * (eta / gamma)[:, None]
    data["eta"] = ("gamma", eta)
    data["raw"] = data["raw"] * 0 + (tau**2)[:, None, :, None, None]
    left = 1 / (1 + (tau / 20) ** 2)
    data["loss"] = data["loss"] * 0 + left[:, None, :]
    finding = BY_ID["tau-collapse"].judge(data)
    assert finding.verdict == "supported"
    assert finding.measured > 10
    assert BY_ID["tau-collapse-loss"].judge(data).verdict == "supported"
    jitter = 1 + 1e-4 * np.arange(len(gamma))[:, None, None]  # two equal curves would be infinitely nearer
    data["loss"] = data["loss"] * 0 + jitter / (1 + (data["step"].values / 20) ** 2)
    assert BY_ID["tau-collapse-loss"].judge(data).verdict == "not supported"


def test_the_numbers_are_those_put_in(made):
    assert judge("power-law-lazy", made).measured == pytest.approx(0.2, abs=0.01)  # noise of 0.5 % on 20 bins
    assert judge("catapult-height", made).measured == pytest.approx(-1.0, abs=1e-9)
    assert judge("silent-alignment", made).measured == pytest.approx(3.0, rel=0.05)  # 60 points in three decades
    assert judge("sharpness-lazy", made).measured == pytest.approx(-2.0, abs=0.02)  # noise of 1 %
    assert judge("hessian-rich-grows", made).measured == pytest.approx(100.0, rel=1e-9)


def test_missing_data_leave_a_claim_undetermined_with_the_command():
    ledger = judge_all(CLAIMS, {}, "richscape figures {figure} --scale quick")
    assert list(ledger.columns) == list(LEDGER_COLUMNS)
    assert (ledger["verdict"] == "undetermined").all()
    assert ledger.set_index("id").loc["lazy-agree", "detail"].endswith("richscape figures fig5 --scale quick")


def test_the_ledger_is_written_whole(made):
    ledger = judge_all(CLAIMS, made, "richscape figures {figure}")
    back = pd.read_csv(pd.io.common.StringIO(to_csv(ledger)))
    assert list(back["id"]) == list(ledger["id"])
    assert set(back["verdict"]) <= set(VERDICTS)
    page = to_html(ledger, "made up")
    for claim in CLAIMS:
        assert claim.id in page
    assert "<script" not in page


def test_the_best_learning_rate_is_found_between_grid_points(made):
    """A parabola in ln η is put in place of the losses: its vertex comes back, on a grid that does not hold it."""
    from simulate import Outcome, PhasePortrait

    data = made["mse"].portrait.data.copy(deep=True)
    x = np.log(data["eta"].values)
    vertex = np.interp(0.43, np.linspace(0, 1, len(x)), x)
    data["outcome"][:] = Outcome.TRAINED
    data["final_loss"][:] = (1 + 0.01 * (x - vertex) ** 2)[None, :, None]
    np.testing.assert_allclose(np.log(best_eta(PhasePortrait(data))), vertex, atol=1e-9)


def test_rows_of_a_table_need_several_architectures():
    row = {"arch": "mlp", "variant": "relu", "boundary": "eta_fail", "regime": "lazy", "fitted": 2.0}
    row |= {"predicted_window": 2.0, "entry": "mlp-3", "campaign": "one", "steps": 300}
    rows = pd.DataFrame([row | {"arch": arch, "verdict": "consistent"} for arch in ("mlp", "cnn", "vit", "resnet")])
    assert judge_rows(rows, "", 4).verdict == "supported"
    assert judge_rows(rows.head(3), "", 4).verdict == "undetermined"
    many = pd.concat([rows] * 10, ignore_index=True)
    many.loc[:9, "verdict"] = "inconsistent"
    # 30 of 40: the interval of the share ends at 0.87
    assert judge_rows(many, "", 4).verdict == "not supported"


def test_committed_tables_are_read(tmp_path):
    assert committed_tables(tmp_path) is None
    (tmp_path / "one").mkdir()
    pd.DataFrame({"arch": ["mlp"]}).to_csv(tmp_path / "one" / "exponents.csv", index=False)
    rows = committed_tables(tmp_path)
    assert list(rows["arch"]) == ["mlp"]
    assert list(rows["campaign"]) == ["one"]
    assert sources(rows) == "one"  # a table of one comparison says no budget


def make_fits(**changed):
    """Two boundaries of one network, each held against its depth and against its degree."""
    one = dict.fromkeys(COLUMNS) | {
        "arch": "mlp", "variant": "relu, width 64", "depth": 4, "loss": "mse", "optimizer": "gd", "regime": "rich",
        "fitted": 0.5, "predicted_window": 0.5, "n_points": 18, "steps": 300, "entry": "mlp-4", "verdict": "consistent",
    }  # fmt: skip
    rows = [
        one | {"boundary": boundary, "predicted_by": by} | changed
        for boundary in ("eta_crit", "eta_fail")
        for by in ("depth", "euler_degree")
    ]
    return pd.DataFrame(rows)


def test_of_several_campaigns_the_longest_budget_counts(tmp_path):
    """Whatever its verdict; another width is another network; of equal budgets the one of more points."""
    tables = {
        "a": make_fits(),
        "b": pd.concat([make_fits(steps=3000, verdict="inconsistent"), make_fits(steps=1000)]),
        "c": pd.concat([make_fits(steps=3000, n_points=30), make_fits(variant="relu, width 256")]),
    }
    for name, table in tables.items():
        (tmp_path / name).mkdir()
        table.to_csv(tmp_path / name / "exponents.csv", index=False)
    rows = committed_tables(tmp_path)
    assert list(zip(rows["campaign"], rows["steps"], rows["variant"], strict=True)) == (
        [("c", 3000, "relu, width 64")] * 4 + [("c", 300, "relu, width 256")] * 4
    )
    assert sources(rows) == "c (T = 300, 3000)"
    (tmp_path / "c" / "exponents.csv").unlink()
    rows = committed_tables(tmp_path)
    assert set(zip(rows["campaign"], rows["steps"], rows["verdict"], strict=True)) == {("b", 3000, "inconsistent")}
    assert len(rows) == 4


def test_a_fit_held_against_two_predictions_counts_once():
    kinds = [make_fits(variant=f"relu, width {width}", campaign="one") for width in (16, 32, 64, 128)]
    finding = BY_ID["everywhere-rich-mse"].judge(pd.concat(kinds, ignore_index=True))
    assert finding.verdict == "supported"
    assert "among 4 on 4 kinds of networks, from one (T = 300)" in finding.detail


@pytest.mark.parametrize(("claim", "by"), [("euler-degree-drift", "euler_degree_drift"), ("large-weights",) * 2])
def test_other_degrees_are_judged_from_their_own_rows(claim, by):
    by = by.replace("-", "_")
    kinds = [make_fits(variant=f"relu, width {width}", campaign="one") for width in (16, 32, 64, 128)]
    rows = pd.concat(kinds, ignore_index=True)
    assert BY_ID[claim].judge(rows).verdict == "undetermined"  # there are none
    other = rows.assign(predicted_by=by)
    assert BY_ID[claim].judge(pd.concat([rows.assign(verdict="inconsistent"), other])).verdict == "supported"
    assert BY_ID[claim].judge(pd.concat([rows, other.assign(verdict="inconsistent")])).verdict == "not supported"


def test_cross_entropy_is_judged_from_a_campaign_only_where_this_run_decides_nothing(make):
    claim = BY_ID["eta-max-rich-ce"]
    sure = make["plane"]("cross-entropy", boundaries=("eta_crit", "eta_max"))
    few = replace(sure, fits={key: replace(fit, verdict="undetermined") for key, fit in sure.fits.items()})
    who = sure.config.training.identity()
    row = {"depth": 3, "boundary": "eta_max", "loss": "cross-entropy", "predicted_by": "depth", "campaign": "far"}
    row |= {"predicted": 2 / 3, "predicted_window": 0.67, "arch": who["arch"], "gamma_low": 50, "gamma_high": 1e4}
    wide = make_fits(**row, fitted=0.6, ci_low=0.5, ci_high=0.7, verdict="consistent").iloc[:1]
    narrow = make_fits(**row, fitted=0.5, ci_low=0.45, ci_high=0.55, verdict="inconsistent").iloc[:1]
    tables = pd.concat([wide, narrow, make_fits(**row | {"arch": "vit"}, ci_low=0.5, ci_high=0.5)], ignore_index=True)
    assert claim.judge(sure, tables) == claim.judge(sure, None)
    assert claim.judge(few, None).verdict == "undetermined"
    found = claim.judge(few, tables)
    assert (found.verdict, found.measured) == ("not supported", 0.5)  # the narrower one, whatever it says
    assert measured(pd.Series(vars(found) | {"ci_low": 0.45, "ci_high": 0.55})).endswith("(campaign far)")
    assert claim.judge(few, tables[tables["arch"] == "vit"]).verdict == "undetermined"


def test_an_undetermined_finding_says_what_it_needs():
    """(half-width / distance)² times as many independent numbers bring the interval to the threshold."""
    found = against("> 0", 0.1, (-0.2, 0.4), 0.0, "of what", "seeds")
    assert found.whole_detail == "of what; needs about 9 times as many seeds"
    assert against("> 0", 0.1, (0.05, 0.15), 0.0, "of what").whole_detail == "of what"
    gamma = np.geomspace(1, 10, 6)
    scatter = np.exp(0.2 * np.array([1, -1, 0.5, -0.5, 1, -1]))
    fit = fit_power_law(gamma, gamma * scatter, predicted=1.0)
    ratio = fit.half_width / 0.15
    assert ratio > 1
    said = of_fit(fit).whole_detail
    assert f"{np.ceil(ratio**2):g} times as many γ" in said
    assert of_fit(fit_power_law(gamma, gamma, predicted=1.0)).needs not in ("", None)
    assert "needs" not in of_fit(fit_power_law(gamma, gamma, predicted=1.0)).whole_detail


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
def test_the_interval_of_a_mean_is_that_of_scipy(values):
    mean, (low, high) = mean_interval(values)
    error = stats.sem(values)
    if error > 1e-9:
        expected = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=error)
        np.testing.assert_allclose((low, high), expected, rtol=1e-9, atol=1e-9)
    assert low <= mean <= high


@given(st.floats(-5, 5), st.floats(0, 3), st.floats(-5, 5), st.floats(0, 3))
def test_within_is_above_one_end_and_below_the_other(middle, half, centre, reach):
    interval, ends = (middle - half, middle + half), (centre - reach, centre + reach)
    inside = max(abs(interval[0] - centre), abs(interval[1] - centre)) - reach
    apart = abs(middle - centre) - half - reach
    assume(abs(inside) > 1e-9 and abs(apart) > 1e-9)
    expected = "supported" if inside < 0 else "not supported" if apart > 0 else "undetermined"
    assert within(interval, ends) == expected
    assert within((-np.inf, np.inf), ends) == within((np.nan, np.nan), ends) == "undetermined"


@given(st.floats(-5, 5), st.floats(0, 3), st.floats(-5, 5))
def test_above_turns_over_when_everything_is_mirrored(middle, half, threshold):
    opposite = {"supported": "not supported", "not supported": "supported", "undetermined": "undetermined"}
    verdict = above((middle - half, middle + half), threshold)
    assert above((-middle - half, -middle + half), -threshold) == opposite[verdict]


@given(st.floats(1e-6, 1e9))
def test_a_number_is_shown_to_three_digits(value):
    # half a unit of the third digit, or of the third place behind the point
    assert float(number(value)) == pytest.approx(value, rel=6e-3, abs=6e-4)


def test_a_row_without_a_number_says_so():
    row = pd.Series({"measured": np.nan, "ci_low": np.nan, "ci_high": np.nan})
    assert measured(row) == "not determined"
