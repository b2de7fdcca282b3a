"""The appendix on made-up data with known answers: figures look as before, captions have their numbers, verdicts turn.

Baselines are replaced by ``RICHSCAPE_BASELINES=write pytest tests/test_paper_figures/test_appendix_figures.py``, and
looked at.
"""

from __future__ import annotations

import os
import re
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.testing.compare import compare_images

from empirical.experiments.agreement import agreement_at_loss, agreement_by_level, agreement_with, at_level
from empirical.experiments.families import family_fits
from empirical.experiments.scales import SCALES
from empirical.trace import asymptotic_exponent, exact_law
from paper_figures.appendix import APPENDIX
from paper_figures.appendix_collapse import collapses, from_smallest
from paper_figures.appendix_degree import degree_rows
from paper_figures.appendix_silent import progress
from paper_figures.claims import CLAIMS
from paper_figures.claims.appendix import APPENDIX_CLAIMS, power_of_value
from paper_figures.claims.edge import committed_degrees, edge_degree, edge_scores
from paper_figures.claims.start import committed_flows, committed_growth, start_slope, start_time
from paper_figures.figures import EVERY, FIGURES, caption, chosen_figures
from paper_figures.ledger import judge_all, measured
from paper_figures.style import house_style
from theory.errors import InputError

BASELINES = Path(__file__).parent / "baseline"
TOLERANCE = 6.0
"""As for the main figures: a moved line differs by more, another release of FreeType by less."""
BY_ID = {claim.id: claim for claim in CLAIMS}


def make_family(values, name="depth", tilt=0.0, power=0.0, boundaries=("eta_crit", "eta_fail"), **fixed):
    """Boundaries on the exact law of each member, times γ^tilt times value^power."""
    rows = []
    for place, value in enumerate(values):
        law = {"depth": 3, "steps": 300} | fixed | ({name: value} if name in {"depth", "steps", "optimizer"} else {})
        number = float(place) if isinstance(value, str) else float(value)
        label = value if isinstance(value, str) else f"V = {value}"
        which = {"loss": "mse", "optimizer": law.get("optimizer", "gd")}
        for boundary in boundaries:
            for regime, ends in (("lazy", (1e-4, 3e-3)), ("rich", (50.0, 2e3))):
                limit = asymptotic_exponent(boundary, regime, law["depth"], **which)
                for gamma in np.geomspace(*ends, 6):
                    exact = float(exact_law(boundary, gamma, **law))
                    eta = exact * gamma**tilt * number**power
                    rows += [
                        (label, number, regime, boundary, gamma, seed, eta, eta / 1.03, eta * 1.03, exact, limit,
                         law["steps"])
                        for seed in (0, 1)
                    ]  # fmt: skip
    columns = ["member", "value", "regime", "boundary", "gamma", "seed", "eta", "eta_low", "eta_high", "law"]
    return pd.DataFrame(rows, columns=[*columns, "predicted", "steps"])


def make_rates(values):
    """Losses that fall as exp(−t/100) whatever the member, the later the larger γ."""
    gamma, step = np.array([1e-2, 1.0, 1e2]), np.arange(0, 301, 10)
    fall = 0.5 * np.exp(-step[None, :] / (100 * (1 + np.log10(gamma / 1e-2)))[:, None])
    loss = np.broadcast_to(fall[None, :, None], (len(values), 3, 2, len(step)))
    data = {"loss": (("member", "gamma", "seed", "step"), loss), "value": ("member", np.array(values, float))}
    return xr.Dataset(data, {"member": [f"V = {v}" for v in values], "gamma": gamma, "seed": [0, 1], "step": step})


def make_representations(fall=0.4):
    """Kernels that stay below γ = 1 and turn by ``fall`` above."""
    gamma, step = np.geomspace(1e-4, 1e4, 9), np.arange(0, 101, 5)
    rich = (gamma >= 1)[:, None, None]
    done = (step / 100)[None, None] * np.array([1.0, 0.98])[None, :, None]
    same = np.equal.outer(gamma >= 1, gamma >= 1)
    cka = np.repeat(np.where(same, 0.95, 0.5)[..., None], 2, axis=2)
    axes = ("gamma", "seed", "step")
    data = {
        "alignment": (axes, 0.3 + 0.3 * rich * done),
        "centred_alignment": (axes, 0.2 + 0.4 * rich * done),
        "cka_start": (axes, 1 - np.where(rich, fall, 0.01) * done - 1e-3 * np.arange(9)[:, None, None]),
        "cka": (("gamma", "other", "seed"), cka),
    }
    return xr.Dataset(data, {"gamma": gamma, "other": gamma, "seed": [0, 1], "step": step}, {"arch": "mlp"})


def make_tables(off=0.0):
    """Rich fits at 2/D + off on five kinds of networks, both losses."""
    rows = []
    for arch, depth, degree in (
        ("mlp", 2, 2.0),
        ("mlp", 4, 4.0),
        ("cnn", 3, 3.0),
        ("resnet", 4, 3.97),
        ("vit", 6, 1.02),
    ):
        for loss, boundary in (("mse", "eta_fail"), ("cross-entropy", "eta_max")):
            slope = 2 / degree + off
            verdict = "consistent" if abs(off) < 0.1 else "inconsistent"
            rows.append({
                "arch": arch, "variant": "v", "depth": depth, "loss": loss, "optimizer": "gd", "boundary": boundary,
                "regime": "rich", "predicted": 2 / degree, "predicted_by": "euler_degree",
                "predicted_window": 2 / degree, "fitted": slope, "ci_low": slope - 0.1, "ci_high": slope + 0.1,
                "verdict": verdict, "entry": f"{arch}-{depth}-{loss}", "degree": degree,
                "campaign": "one", "steps": 300,
                "n_points": 18,
            })  # fmt: skip
    return pd.DataFrame(rows)


def make_degrees(fall=0.85, settled=3.0):
    """Degrees that rise to D∞ and fall to a share of it, in two residual networks; slow ones stay at D∞."""
    rows = []
    for entry, gamma, seed in product(("resnet", "vit"), np.geomspace(1e2, 1e4, 5), (0, 1)):
        for step, share in ((0, 0.75), (1, 0.8), (10, 1.0), (100, 0.5 * (1 + fall)), (300, fall)):
            rows.append({
                "entry": entry, "steps": 300, "gamma": gamma, "seed": seed, "step": step,
                "degree": settled * share * (1 + 0.01 * seed), "slow_degree": settled, "settled": settled,
                "campaign": "one", "frozen": "", "edge": 0.9,
            })  # fmt: skip
    return pd.DataFrame(rows)


def make_frozen(still=1.0):
    """Degrees as above, and transformers whose ηλ/2 is far above 1 but where queries and keys are frozen."""
    whole = make_degrees()
    twins = [
        whole[whole["entry"].eq("vit")].assign(
            entry=entry, campaign="two", frozen=frozen, edge=edge * (1 + 0.1 * whole["seed"]), slow_degree=np.nan
        )
        for entry, frozen, edge in (
            ("vit", "", 50.0),
            ("vit-scores", "query key", still),
            ("vit-inputs", "position", 30.0),
        )
    ]
    return pd.concat([whole, *twins], ignore_index=True)


def make_flows(ratio=1.02, off=0.0):
    """η_min of MLPs and a ViT at a ratio of flow's, with slopes that are off by a little; the toy's are not there."""
    rows = []
    for (arch, depth), regime, seed in product((("mlp", 2), ("mlp", 3), ("vit", 6)), ("lazy", "rich"), (0, 1)):
        for gamma in np.geomspace(*((1e-4, 1e-2) if regime == "lazy" else (1e2, 1e4)), 6):
            flow = 10 * gamma**2 / (1 + gamma / 0.2) ** 0.9 / 300
            eta = flow * ratio * (1 + 0.01 * seed) * (gamma**off if regime == "rich" else 1)
            rows.append({
                "arch": arch, "variant": "v", "depth": depth, "loss": "mse", "steps": 300, "seed": seed, "gamma": gamma,
                "eta": eta, "eta_low": 0.99 * eta, "eta_high": 1.01 * eta, "entry": f"{arch}-{depth}",
                "regime": regime, "flow": flow, "toy": 1.25 if arch == "mlp" and regime == "rich" else np.nan,
                "rest": 1.12, "campaign": "one",
            })  # fmt: skip
    return pd.DataFrame(rows)


def make_growth():
    """Kernels of the two MLPs."""
    alignment = np.append(0.0, np.geomspace(1e-3, 1e5, 20))
    parts = [
        pd.DataFrame({"campaign": "one", "entry": f"mlp-{depth}", "seed": 0, "alignment": alignment,
                      "kernel": 0.1 * (1 + (5 * alignment) ** 2) ** (1 - 1 / depth), "tau": alignment})
        for depth in (2, 3)
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def make_lower(values=(20, 60, 200)):
    """eta_min on its exact law at several budgets."""
    whole = make_family(values, "steps", boundaries=("eta_min",))
    return whole.assign(regime="all")


def make_apex():
    """γ_max a factor of two above the toy's, within 10 %."""
    rows = []
    for steps, toy in ((8, 6.0), (12, 25.0), (18, 90.0), (27, 330.0), (40, 1150.0)):
        rows += [
            {"steps": steps, "seed": s, "gamma_low": 1.9 * toy, "gamma_high": 2.1 * toy, "toy": toy} for s in (0, 1)
        ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def all_made(made, make):
    names = [f"{arch}, {loss}" for loss in ("MSE", "cross-entropy") for arch in ("MLP", "CNN")]
    planes = [make["plane"](loss) for loss in ("mse", "mse")] + [make["plane"]("cross-entropy") for _ in range(2)]
    return made | {
        "portraits": dict(zip(names, planes, strict=True)),
        "depths": make_family((2, 3, 4)),
        "lower": make_lower(),
        "apex": make_apex(),
        "widths": make_family((16, 32, 64), "width"),
        "batches": make_family((8, 32, 128), "batch", power=0.3),
        "width_curves": make_rates((16, 32, 64)),
        "batch_curves": make_rates((8, 32, 128)),
        "optimizers": make_family(("sign", "adam"), "optimizer", boundaries=("eta_min", "eta_crit", "eta_fail")),
        "representations": make_representations(),
        "tables": make_tables(),
        "degrees": make_frozen(),
        "flows": make_flows(),
        "growth": make_growth(),
    }


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.mark.parametrize("name", list(APPENDIX))
def test_a_figure_looks_as_before(name, all_made, tmp_path):
    with house_style():
        APPENDIX[name].draw(all_made).savefig(tmp_path / f"{name}.png", dpi=50, metadata={"Software": None})
    baseline = BASELINES / f"{name}.png"
    if os.environ.get("RICHSCAPE_BASELINES") == "write":
        baseline.write_bytes((tmp_path / f"{name}.png").read_bytes())
    assert compare_images(str(baseline), str(tmp_path / f"{name}.png"), TOLERANCE) is None


@pytest.fixture(scope="module")
def ledger(all_made):
    return judge_all(CLAIMS, all_made, "").set_index("id", drop=False)


@pytest.mark.parametrize("name", list(APPENDIX))
def test_every_number_of_a_caption_is_in_the_ledger(name, ledger):
    text = caption(APPENDIX[name], ledger, SCALES["quick"])
    asked = re.findall(r'm\("([^"]+)"\)', APPENDIX[name].caption)
    assert asked
    for one in asked:
        assert measured(ledger.loc[one]) in text, one


@pytest.mark.parametrize("claim", [c.id for c in APPENDIX_CLAIMS if not c.id.startswith("portrait")])
def test_what_was_put_in_is_supported(claim, ledger):
    assert ledger.loc[claim, "verdict"] == "supported", ledger.loc[claim, "detail"]


TURNED = [
    ("depth-lazy", lambda make: make_family((2, 3, 4), tilt=0.1)),
    ("depth-rich", lambda make: make_family((2, 3, 4), tilt=0.1)),
    ("width-exponents", lambda make: make_family((16, 32, 64), "width", tilt=0.1)),
    ("width-boundary-lazy", lambda make: make_family((16, 32, 64), "width", power=-0.4)),
    ("width-boundary-rich", lambda make: make_family((16, 32, 64), "width", power=0.4)),
    ("batch-exponents", lambda make: make_family((8, 32, 128), "batch", tilt=-0.1)),
    ("batch-boundary-lazy", lambda make: make_family((8, 32, 128), "batch", power=-0.3)),
    ("batch-boundary-rich", lambda make: make_family((8, 32, 128), "batch", power=1.3)),
    ("sign-lazy", lambda make: make_family(("sign", "adam"), "optimizer", tilt=0.2)),
    ("sign-rich", lambda make: make_family(("sign", "adam"), "optimizer", tilt=0.2)),
    ("adam-lazy", lambda make: make_family(("sign", "adam"), "optimizer", tilt=-0.2)),
    ("adam-rich", lambda make: make_family(("sign", "adam"), "optimizer", tilt=-0.2)),
    ("rich-consistent", lambda make: make["landscape"](agree=2.0)),
    ("cka-moves", lambda make: make_representations(fall=-0.2)),
    ("euler-degree-kinds", lambda make: make_tables(off=0.3)),
]


@pytest.mark.parametrize(("claim", "other"), TURNED, ids=[name for name, _ in TURNED])
def test_a_verdict_turns_with_the_data(claim, other, make):
    finding = BY_ID[claim].judge(other(make))
    assert finding.verdict == "not supported", finding


def test_every_claim_of_the_appendix_is_turned_somewhere():
    assert {name for name, _ in TURNED} | {"portrait-inside", "portrait-below"} == {c.id for c in APPENDIX_CLAIMS}


def test_grids_of_the_toy_itself_train_inside_its_band_and_nowhere_below(all_made):
    planes = all_made["portraits"]
    for name in ("portrait-inside", "portrait-below"):
        finding = BY_ID[name].judge(planes)
        assert finding.verdict == "supported"
        assert finding.measured == 1.0  # theory against its own map
    shifted = {}
    for name, plane in planes.items():
        moved = plane.portrait.data.assign_coords(eta=plane.portrait.data["eta"].values * 300)
        shifted[name] = type(plane)(plane.config, type(plane.portrait)(moved), {}, {}, {})
    assert BY_ID["portrait-inside"].judge(shifted).verdict == "not supported"
    moved_down = {}
    for name, plane in planes.items():
        moved = plane.portrait.data.assign_coords(eta=plane.portrait.data["eta"].values / 1e4)
        moved_down[name] = type(plane)(plane.config, type(plane.portrait)(moved), {}, {}, {})
    assert BY_ID["portrait-below"].judge(moved_down).verdict == "not supported"


def test_fits_of_a_family_are_those_put_in():
    fits = family_fits(make_family((2, 3, 4), tilt=0.05))
    for (_, _, _), fit in fits.items():
        assert fit.exponent == pytest.approx(fit.predicted_window + 0.05, abs=1e-6)  # a power law without noise


def test_the_power_of_what_differs_is_the_one_put_in():
    points = make_family((8, 32, 128), "batch", power=0.3)
    for last in (0, 2):
        np.testing.assert_allclose(power_of_value(points, "rich", last), 0.3, atol=1e-9)


def test_outputs_at_a_level_lie_on_the_straight_line():
    loss = np.array([2.0, 1.6, 1.0])
    f = np.arange(3.0)[:, None, None] * np.ones((3, 4, 2))
    np.testing.assert_allclose(at_level(loss, f, 0.7), 4 / 3)  # 1.4 is a third of the way from 1.6 to 1.0
    assert at_level(loss, f, 0.4) is None


def test_networks_that_differ_by_noise_agree_at_equal_loss(make):
    noise = 0.1
    landscape = make["landscape"](agree=noise)
    gamma, matrix = agreement_at_loss(landscape, 0.5, 10.0)
    assert (gamma >= 10).all()
    off = matrix[~np.eye(len(gamma), dtype=bool)]
    # f_a = b + n ε_a, f_b = b + n ε_b: 1 − R² = 2 n² / (1 + n²), within the spread of 120 draws
    assert off.mean() == pytest.approx(1 - 2 * noise**2 / (1 + noise**2), abs=0.005)
    assert set(agreement_by_level(landscape)) == {0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2}


def test_a_reference_agrees_with_itself(make):
    landscape = make["landscape"]()
    np.testing.assert_allclose(agreement_with(landscape, 3)[3], 1.0)
    still = landscape.assign(raw=landscape["raw"].where(landscape["step"] > 0, 0.0))
    assert np.isnan(agreement_with(still, 3)[..., 0]).all()  # every f is zero at the start


def test_progress_goes_from_nothing_to_the_furthest_point():
    np.testing.assert_allclose(progress(np.array([3.0, 2.0, -1.0, 0.0])), [0.0, 0.25, 1.0, 0.75])
    assert np.isnan(progress(np.ones(4))).all()


def test_the_distances_shown_are_those_from_the_smallest_gamma(make):
    landscape = make["landscape"]()
    gamma = landscape["gamma"].values
    rows, others = from_smallest(collapses(landscape)[0].pairs)
    np.testing.assert_allclose(others, gamma[gamma >= 1e2][1:], rtol=1e-9)
    assert len(rows) == len(set(rows)) == len(others)
    assert collapses(landscape.isel(gamma=gamma < 2e2)) == []  # one large γ has no other to be compared with


def test_rows_of_the_degree_are_rich_upper_boundaries():
    tables = make_tables()
    other = tables.assign(boundary="eta_crit")
    assert len(degree_rows(pd.concat([tables, other, tables.assign(regime="lazy")]))) == len(tables)


def test_groups_are_spelled_out_and_campaigns_asked_for(tmp_path):
    made = {name for name in EVERY if name not in {"appendix-degree", "appendix-edge", "appendix-start"}}
    assert set(chosen_figures(("all",), campaign=tmp_path)) == made
    assert chosen_figures(("appendix", "fig2"), campaign=tmp_path)[0] == "fig2"
    with pytest.raises(InputError, match=r"campaign.*appendix-degree"):
        chosen_figures(("appendix-degree",), campaign=tmp_path)
    tables = make_tables()
    tables.to_csv(tmp_path / "exponents.csv", index=False)
    assert set(chosen_figures((), campaign=tmp_path)) == made | {"appendix-degree"}
    with pytest.raises(InputError, match=r"campaign.*appendix-edge"):
        chosen_figures(("appendix-edge",), campaign=tmp_path)
    tables.assign(predicted_by="large_weights", entry="resnet").to_csv(tmp_path / "exponents.csv", index=False)
    cells = make_degrees()[["entry", "steps", "gamma", "seed", "step", "degree"]].assign(outcome="trained")
    cells.to_csv(tmp_path / "degrees.csv", index=False)
    assert set(chosen_figures((), campaign=tmp_path)) == {*EVERY} - {"appendix-start"}
    write_flows(tmp_path)
    make_growth().drop(columns="campaign").to_csv(tmp_path / "growth.csv", index=False)
    assert chosen_figures((), campaign=tmp_path) == (*FIGURES, *APPENDIX)


def write_flows(folder):
    """Tables that ``make_flows`` could have been read from; one point without a flow."""
    flows = make_flows()
    flows.assign(boundary="eta_min", optimizer="gd").drop(columns=["flow", "toy", "rest", "campaign"]).to_csv(
        folder / "boundaries.csv", index=False
    )
    laws = flows.groupby(["entry", "steps", "regime"], as_index=False)["toy"].first().dropna()
    laws = laws.rename(columns={"toy": "predicted_window"}).assign(boundary="eta_min", predicted_by="depth")
    if (folder / "exponents.csv").exists():
        laws = pd.concat([pd.read_csv(folder / "exponents.csv"), laws], ignore_index=True)
    laws.to_csv(folder / "exponents.csv", index=False)
    tau = flows.assign(tau=flows["flow"] * 0.99 * flows["steps"] / flows["gamma"])
    tau[["entry", "gamma", "seed", "tau", "rest"]].iloc[1:].to_csv(
        folder / "flow.csv", index=False, float_format="%.8g"
    )


def test_flows_are_read_beside_the_points(tmp_path):
    assert committed_flows(tmp_path) is None
    assert committed_growth(tmp_path) is None
    for folder in (tmp_path / "one", tmp_path / "held-out" / "one"):
        folder.mkdir(parents=True)
        write_flows(folder)
        make_growth().drop(columns="campaign").to_csv(folder / "growth.csv", index=False)
    read, made = committed_flows(tmp_path), make_flows().iloc[1:].reset_index(drop=True)
    pd.testing.assert_frame_equal(read, made[read.columns], check_dtype=False, rtol=1e-6)
    pd.testing.assert_frame_equal(committed_growth(tmp_path)[list(make_growth())], make_growth())


def test_times_of_flow_are_held_against_training():
    assert start_time(make_flows()).verdict == "supported"
    assert start_time(make_flows()).measured == pytest.approx(1.025, rel=0.01)
    assert start_time(make_flows(ratio=1.3)).verdict == "not supported"
    assert start_time(make_flows().query("entry == 'mlp-2'")).verdict == "undetermined"
    finding = start_slope(make_flows())
    assert finding.verdict == "supported"
    assert "3 of 3" in finding.detail
    resting = make_flows()
    resting.loc[resting["entry"].eq("vit-6") & (resting["gamma"] > 1e3), ["rest", "eta"]] = [2.5, 1e9]
    assert start_time(resting).measured == pytest.approx(1.025, rel=0.01)  # what rests does not count
    assert "6 others" in start_time(resting).detail
    assert "2 of 2" in start_slope(resting).detail
    assert start_slope(make_flows().assign(rest=2.0)).verdict == "undetermined"
    assert start_slope(make_flows(off=0.1)).verdict == "not supported"
    assert start_slope(make_flows(off=0.1)).measured == pytest.approx(0.1, abs=1e-3)


def test_the_edge_lowers_the_degree_where_it_does(tmp_path):
    assert edge_degree(make_degrees()).verdict == "supported"
    assert edge_degree(make_degrees()).measured == pytest.approx(0.85, rel=0.02)
    assert edge_degree(make_degrees(fall=1.1)).verdict == "not supported"
    assert edge_degree(make_degrees(settled=1.0)).verdict == "undetermined"  # a final norm: nothing to lose
    assert np.isnan(edge_degree(make_degrees().assign(slow_degree=np.nan)).measured)


def test_the_edge_is_met_where_scores_are_frozen():
    finding = edge_scores(make_frozen())
    assert finding.verdict == "supported"
    assert finding.measured == pytest.approx(1.05, rel=0.02)
    assert "40" in finding.detail  # √(50 · 30), and the seeds
    assert edge_scores(make_frozen(still=20.0)).verdict == "not supported"
    assert edge_scores(make_degrees()).verdict == "undetermined"


def test_a_figure_without_frozen_networks_has_three_panels():
    assert len(EVERY["appendix-edge"].draw({"degrees": make_degrees()}).axes) == 3
    assert len(EVERY["appendix-edge"].draw({"degrees": make_frozen()}).axes) == 4


def test_degrees_are_read_with_those_of_slow_runs_beside(tmp_path):
    assert committed_degrees(tmp_path) is None
    kept, cell = make_degrees(), ["entry", "steps", "gamma", "seed"]
    for folder in (tmp_path / "one", tmp_path / "held-out" / "one"):
        folder.mkdir(parents=True)
        row = {"entry": "resnet", "predicted_by": "large_weights", "optimizer": "gd", "predicted": 2 / 3}
        row["variant"] = "gelu, frozen query key, width 8"
        pd.DataFrame([row]).to_csv(folder / "exponents.csv", index=False)
        written = kept[[*cell, "step", "degree"]].assign(outcome="trained", regime="rich")
        written.loc[written["gamma"] > 9e3, "outcome"] = "diverged"
        written.to_csv(folder / "degrees.csv", index=False, float_format="%.10g")
    here = committed_degrees(tmp_path)
    assert set(here["campaign"]) == {"one"}
    assert set(here["entry"]) == {"resnet"}  # the other has no degree at large weights
    assert set(here["frozen"]) == {"query key"}
    assert len(here) == 4 * 2 * 5
    np.testing.assert_allclose(here["settled"], 3)
    assert here["slow_degree"].isna().all()
    slow = kept[kept["step"].eq(300)][cell].assign(degree=2.9, outcome="trained")
    slow.to_csv(tmp_path / "one" / "slow.csv", index=False, float_format="%.10g")
    again = committed_degrees(tmp_path)
    assert len(again) == len(here)
    np.testing.assert_allclose(again["slow_degree"], 2.9)
