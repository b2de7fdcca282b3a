"""``richscape compare`` from end to end, on networks and grids that take seconds."""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from empirical.compare import PRESETS
from empirical.ensemble import Ensemble
from simulate import TraceSettings
from theory import fit_window

FILES = "boundaries.csv comparison.png comparison.svg curves.nc exponents.csv manifest.json portrait.nc report.html"
WORDS = ["compare", "--depths", "2", "--width", "8", "--steps", "30", "--seeds", "1"]


@pytest.fixture(autouse=True, scope="module")
def small_preset():
    """A preset whose grids have tens of cells in place of thousands."""
    tiny = replace(
        PRESETS["quick"],
        image_size=7,
        batch_size=8,
        window_points=5,
        portrait_gammas=3,
        portrait_etas=5,
        toy_portrait_gammas=5,
        toy_portrait_etas=7,
        trace=TraceSettings(coarse=0.5, resolution=0.1, sections=5, guard_span=0.1, guard_spacing=0.06),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "quick", tiny)
        yield


@pytest.fixture(scope="module")
def compared(run, tmp_path_factory):
    """A finished comparison and what it printed; not to be changed."""
    place = tmp_path_factory.mktemp("compared") / "run"
    ran = run(*WORDS, "--out", place)
    assert ran.code == 0, ran.err
    return place, ran


class Page(HTMLParser):
    """The cells of the table, the text, and everything that an attribute points to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.targets: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.targets += [value for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}]
        if tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"}:
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag):
        if tag in {"td", "th"}:
            self._in_cell = False

    def handle_data(self, data):
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data


def test_every_file_of_the_contract_is_there(compared):
    place, ran = compared
    assert sorted(path.name for path in place.glob("[!.]*") if path.is_file()) == FILES.split()
    assert [path.name for path in place.rglob(".*")] == [".lock"]
    for name in FILES.split():
        assert name in ran.out


def test_the_tables_have_the_columns_of_the_contract(compared):
    place, _ = compared
    heads = {name: (place / name).read_text().splitlines()[0] for name in ("exponents.csv", "boundaries.csv")}
    assert heads["exponents.csv"] == (
        "arch,variant,depth,loss,optimizer,boundary,regime,predicted,predicted_by,predicted_window,"
        "fitted,ci_low,ci_high,n_points,gamma_low,gamma_high,verdict"
    )
    assert heads["boundaries.csv"] == (
        "arch,variant,depth,loss,optimizer,steps,seed,boundary,gamma,eta,eta_low,eta_high"
    )


def test_toy_and_network_are_fitted_on_windows_that_theory_chose(compared):
    place, _ = compared
    fits = pd.read_csv(place / "exponents.csv")
    keys = set(zip(fits["arch"], fits["regime"], fits["boundary"], strict=True))
    toy = {("toy", regime, name) for regime in ("lazy", "rich") for name in ("eta_min", "eta_crit")}
    network = {("mlp", regime, name) for regime in ("lazy", "rich") for name in ("eta_min", "eta_crit", "eta_fail")}
    assert keys == toy | network
    assert len(fits) == len(keys)
    assert set(fits["verdict"]) <= {"consistent", "inconsistent", "undetermined"}

    windows = json.loads((place / "manifest.json").read_text())["config"]["fit_windows"]["depth 2"]
    for regime, tolerance in (("lazy", 0.005), ("rich", 0.02)):
        chosen = fit_window("eta_crit", 2, regime, 30, tolerance=tolerance, margin=20.0, gamma_range=(1e-4, 1e4))
        assert (windows[regime]["low"], windows[regime]["high"]) == (chosen.low, chosen.high)
        assert windows[regime]["reason"] == chosen.reason
        rows = fits[fits["regime"] == regime]
        np.testing.assert_allclose(rows["gamma_low"], chosen.low, rtol=1e-8)
        np.testing.assert_allclose(rows["gamma_high"], chosen.high, rtol=1e-8)
    limits = {("lazy", "eta_min"): 2, ("lazy", "eta_crit"): 2, ("rich", "eta_min"): 1, ("rich", "eta_crit"): 1}
    for (regime, boundary), limit in limits.items():
        chosen = fits[(fits["regime"] == regime) & (fits["boundary"] == boundary)]
        assert (chosen["predicted"] == limit).all()


def test_the_toy_obeys_the_law_that_it_is(compared):
    """Lazy η_crit of the simulated toy: exponent 2 by theory, traced to 0.02 decades over more than a decade."""
    fits = pd.read_csv(compared[0] / "exponents.csv")
    toy = fits[(fits["arch"] == "toy") & (fits["boundary"] == "eta_crit")].set_index("regime")
    assert toy.loc["lazy", "fitted"] == pytest.approx(2, abs=0.02)
    assert toy.loc["rich", "fitted"] == pytest.approx(1, abs=0.03)
    assert (toy["verdict"] == "consistent").all()


def test_the_portraits_of_network_and_toy_are_in_one_file(compared):
    place, _ = compared
    with (
        xr.open_dataset(place / "portrait.nc") as network,
        xr.open_dataset(place / "portrait.nc", group="toy") as toy,
        xr.open_dataset(place / "curves.nc") as curves,
    ):
        assert dict(network.sizes) == {"depth": 1, "gamma": 3, "eta": 5, "seed": 1}
        assert dict(toy.sizes) == {"depth": 1, "gamma": 5, "eta": 7, "seed": 1}
        assert network["depth"].values.tolist() == toy["depth"].values.tolist() == [2]
        variables = {"outcome", "final_loss", "initial_loss", "peak_loss", "final_accuracy", "steps_run"}
        assert set(network.data_vars) == set(toy.data_vars) == variables
        assert (network.attrs["arch"], toy.attrs["arch"]) == ("mlp", "toy")
        for data in (network, toy):
            assert data["outcome"].attrs["flag_meanings"].split()[2] == "trained"
        assert set(curves.data_vars) == {"loss", "accuracy"}


def test_the_report_needs_no_other_file(compared):
    place, _ = compared
    text = (place / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    (figure,) = page.targets
    kind, data = figure.split(",", maxsplit=1)
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data, validate=True) == (place / "comparison.png").read_bytes()
    for outside in ("http://", "https://", "file:", "url(", "@import", "//cdn"):
        assert outside not in text.replace(data, "")
    assert page.tags.isdisjoint({"script", "link", "iframe", "object", "embed"})


def test_the_report_holds_every_fit_every_window_and_the_manifest(compared):
    place, _ = compared
    page = Page((place / "report.html").read_text(encoding="utf-8"))
    fits = pd.read_csv(place / "exponents.csv")
    head, *rows = page.rows
    assert len(rows) == len(fits)
    for row, (_, fit) in zip(rows, fits.iterrows(), strict=True):
        cells = dict(zip(head, row, strict=True))
        assert cells["network"] == f"{fit['arch']} ({fit['variant']})"
        assert (int(cells["L"]), cells["boundary"], cells["regime"]) == (fit["depth"], fit["boundary"], fit["regime"])
        assert float(cells["fitted"]) == pytest.approx(fit["fitted"], abs=5.1e-4)  # three decimals
        ends = [float(end) for end in cells["95 % interval"].strip("[]").split(",")]
        assert ends == pytest.approx([fit["ci_low"], fit["ci_high"]], abs=5.1e-4)
        assert cells["verdict"].split()[0] == fit["verdict"]
    manifest = json.loads((place / "manifest.json").read_text())
    for window in manifest["config"]["fit_windows"]["depth 2"].values():
        assert window["reason"] in page.text
    assert json.dumps(manifest, indent=2, ensure_ascii=False) in page.text
    assert "{{" not in page.text


def test_the_same_command_again_changes_nothing(run, compared, contents, tmp_path, monkeypatch):
    place = shutil.copytree(compared[0], tmp_path / "copy")
    before = contents(place)

    def refuse(*_args, **_kwargs):
        raise AssertionError("a network was trained again")

    monkeypatch.setattr(Ensemble, "run", refuse)
    ran = run(*WORDS, "--out", place)
    assert ran.code == 0, ran.err
    after = contents(place)
    assert after.keys() == before.keys()
    for name, (content, _) in before.items():
        if not name.endswith(".nc"):  # the tables, both figures, the report, the manifest, every shard
            assert after[name][0] == content, name


def test_a_comparison_from_nothing_gives_the_same_bytes(run, compared, tmp_path):
    """Not only what was kept is read back alike: training itself is repeatable."""
    assert run(*WORDS, "--out", tmp_path / "again").code == 0
    for name in ("exponents.csv", "boundaries.csv", "comparison.png", "comparison.svg"):
        assert (tmp_path / "again" / name).read_bytes() == (compared[0] / name).read_bytes(), name


def test_another_preset_value_is_refused(run, compared, contents):
    place, _ = compared
    before = contents(place)
    ran = run(*WORDS[:-2], "--seeds", "2", "--out", place)
    assert ran.code == 2
    assert ran.err.splitlines() == [ran.err.rstrip("\n")]
    assert ran.err.rstrip().endswith("it differs in seeds: 1 there, 2 here")
    assert contents(place) == before
