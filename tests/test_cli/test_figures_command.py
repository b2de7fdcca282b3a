"""``richscape figures`` on a tiny scale: all is computed, drawn, judged and kept; a second call trains nothing."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import richscape
from empirical.experiments import appendix, scales
from empirical.experiments.appendix import AppendixScale
from empirical.experiments.budgets import BudgetsConfig
from empirical.experiments.catapults import CatapultConfig
from empirical.experiments.curves import CurvesConfig
from empirical.experiments.families import FamilyConfig, Member, PortraitsConfig, SharedRatesConfig
from empirical.experiments.landscape import LandscapeConfig
from empirical.experiments.plane import PlaneConfig
from empirical.experiments.representations import RepresentationsConfig
from empirical.experiments.scales import Scale
from empirical.experiments.spectra import SpectraConfig
from empirical.shard import TrainingConfig
from empirical.sweep import Sweep
from paper_figures.appendix import APPENDIX
from paper_figures.figures import EVERY

NETWORK = {"depth": 2, "width": 8, "image_size": 7, "batch_size": 8}
TINY = Scale(
    "quick",
    mse=PlaneConfig(TrainingConfig(**NETWORK, steps=40), (1e-2, 1e2, 5), (1e-4, 1e2, 13)),
    cross_entropy=PlaneConfig(
        TrainingConfig(**NETWORK, steps=40, loss="cross-entropy"), (1e-2, 1e1, 4), (1e-4, 1e2, 13)
    ),
    curves=CurvesConfig(steps=30, budgets=(10, 30), seeds=2, bins=10),
    landscape=LandscapeConfig(steps=30, seeds=2, spectrum_points=3, points=8, examples=20, eigenvalues=12),
    spectra=SpectraConfig(steps=20, gamma=1e-2, width=16, seeds=2, examples=20, eigenvalues=12),
    catapults=CatapultConfig(
        TrainingConfig(**NETWORK, steps=20), gamma=(1e-2, 1e1, 4), ladder=(1.0, 10.0, 4), seeds=1
    ),
    budgets=BudgetsConfig(
        TrainingConfig(**NETWORK), budgets=(10, 20), gamma=(1e-2, 1e1), seeds=1, resolution=0.2, apex_budgets=(3,),
        apex_spacing=0.5, apex_span=1.0,
    ),
)  # fmt: skip


def members(name, *values, **fixed):
    """Networks that differ in one option."""
    what = NETWORK | {"steps": 40} | fixed
    return tuple(Member(f"{name} {v}", float(n), TrainingConfig(**what | {name: v})) for n, v in enumerate(values, 1))


TRACE = {"points": 3, "seeds": 1, "resolution": 0.3, "margin": 1.5}
UPPER = ("eta_crit", "eta_fail")
TINY_APPENDIX = AppendixScale(
    portraits=PortraitsConfig(
        members("loss", "mse", "cross-entropy") + members("arch", "cnn", depth=3, width=4), (1e-2, 1e2, 3),
        (1e-4, 1e2, 7),
    ),
    depths=FamilyConfig("depth", members("depth", 2, 3), UPPER, **TRACE),
    lower=FamilyConfig("budget", members("steps", 10, 40), ("eta_min",), gamma=(1e-2, 1.0), seeds=1, resolution=0.3),
    widths=FamilyConfig("width", members("width", 4, 8), UPPER, **TRACE),
    batches=FamilyConfig("batch", members("batch_size", 4, 8), UPPER, **TRACE),
    width_curves=SharedRatesConfig("width", members("width", 4, 8), steps=20, points=6, examples=20),
    batch_curves=SharedRatesConfig("batch", members("batch_size", 4, 8), steps=20, points=6, examples=20),
    optimizers=FamilyConfig("optimizer", members("optimizer", "sign", "adam"), ("eta_min", *UPPER), **TRACE),
    representations=RepresentationsConfig(steps=20, points=5, examples=20, every=1),
)  # fmt: skip


@pytest.fixture(scope="module")
def drawn(run, tmp_path_factory):
    """A finished run of all figures, and what it said."""
    folder = tmp_path_factory.mktemp("figures") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(scales.SCALES, "quick", TINY)
        ran = run("figures", "main", "--workers", "1", "--out", folder)
    assert ran.code == 0, ran.err
    return folder, ran


def test_everything_is_written(drawn):
    folder, ran = drawn
    for number in range(1, 6):
        for suffix in ("png", "svg", "pdf", "md"):
            assert (folder / f"fig{number}.{suffix}").stat().st_size > 0
    ledger = pd.read_csv(folder / "claims.csv")
    assert "claims: " in ran.out
    # only claims on the appendix, which was not asked for, may lack their data; those on campaigns have the tables
    lacking = ledger[ledger["detail"].fillna("").str.startswith("not computed")]
    assert all(name.startswith("appendix-") for name in lacking["figure"])
    of_campaigns = ledger[ledger["id"].str.startswith(("everywhere-", "euler-degree"))]
    # each names campaigns and budgets
    assert of_campaigns["detail"].str.contains(r"from .*\bcpu(?:-\w+)? \(T = \d+").all()
    assert "{{" not in (folder / "fig3.md").read_text()


def test_a_second_call_trains_nothing_and_says_the_same(drawn, run, monkeypatch):
    folder, _ = drawn
    before = {name: (folder / name).read_bytes() for name in ("fig4.png", "claims.csv", "fig2.md")}

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setitem(scales.SCALES, "quick", TINY)
    monkeypatch.setattr("empirical.runners.train_block", refuse)
    ran = run("figures", "main", "--workers", "1", "--out", folder)
    assert ran.code == 0, ran.err
    assert {name: (folder / name).read_bytes() for name in before} == before


@pytest.fixture(scope="module")
def appendix_drawn(run, drawn):
    """The appendix, in the folder of the main figures, and what it said."""
    folder, _ = drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(scales.SCALES, "quick", TINY)
        patch.setitem(appendix.APPENDIX, "quick", TINY_APPENDIX)
        ran = run("figures", "appendix", "--workers", "1", "--out", folder)
    assert ran.code == 0, ran.err
    return folder, ran


def test_the_appendix_is_written_whole(appendix_drawn):
    folder, ran = appendix_drawn
    for name in APPENDIX:
        for suffix in ("png", "svg", "pdf", "md"):
            assert (folder / f"{name}.{suffix}").stat().st_size > 0
        assert "{{" not in (folder / f"{name}.md").read_text()
        assert f"{name}: " in ran.out  # how long it took
    ledger = pd.read_csv(folder / "claims.csv")
    lacking = ledger[ledger["detail"].fillna("").str.startswith("not computed")]
    assert {"fig1", "fig2", "fig3"} >= set(lacking["figure"])  # what the appendix does not train
    assert set(ledger["figure"]) <= {*APPENDIX, *(f"fig{number}" for number in range(1, 6))}
    undecided = ledger.loc[ledger["verdict"] == "undetermined", "detail"]
    mute = undecided[~undecided.str.contains("; needs |not computed in this run")]
    assert list(mute) == []
    trained = json.loads((folder / "appendix.json").read_text())["optimizers"]["members"]
    assert [one["training"]["optimizer"] for one in trained] == ["sign", "adam"]


def test_a_second_call_trains_nothing_for_the_appendix_either(appendix_drawn, run, monkeypatch):
    folder, _ = appendix_drawn
    names = ("appendix-sizes", "appendix-budgets")
    before = {name: [(folder / f"{name}.{suffix}").read_bytes() for suffix in ("png", "md")] for name in names}

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setitem(scales.SCALES, "quick", TINY)
    monkeypatch.setitem(appendix.APPENDIX, "quick", TINY_APPENDIX)
    monkeypatch.setattr("empirical.runners.train_block", refuse)
    ran = run("figures", *names, "--workers", "1", "--out", folder)
    assert ran.code == 0, ran.err
    for name, contents in before.items():
        assert [(folder / f"{name}.{suffix}").read_bytes() for suffix in ("png", "md")] == contents


def test_the_gallery_shows_every_figure_and_claim(appendix_drawn, tmp_path, monkeypatch):
    folder, _ = appendix_drawn
    script = Path(richscape.__file__).parent / "docs" / "main_figures.py"
    spec = importlib.util.spec_from_file_location("main_figures", script)
    gallery = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gallery)
    monkeypatch.setattr(gallery, "DOCS", tmp_path)
    (tmp_path / "images").mkdir()
    page = gallery.page(folder)
    for name, figure in EVERY.items():
        assert f"### {figure.title}" in page
        assert f"`richscape figures {name} --scale quick" in page
        assert 0 < (tmp_path / "images" / f"{name}.png").stat().st_size <= gallery.LARGEST
    ledger = pd.read_csv(folder / "claims.csv")
    for statement in ledger["statement"]:
        assert statement in page
    counts = re.search(r"Of (\d+) claims (\d+) are supported, (\d+) are not supported and (\d+) undetermined", page)
    total, *parts = map(int, counts.groups())
    assert total == len(ledger) == sum(parts)
    assert "{{" not in page


def test_an_unknown_figure_is_refused_before_anything_is_made(run, tmp_path):
    ran = run("figures", "fig9", "--out", tmp_path / "run")
    assert ran.code == 2
    assert "fig9" in ran.err
    assert not (tmp_path / "run").exists()


def test_measured_cells_train_as_those_of_a_sweep():
    """The probe is shown the networks and changes nothing: bit for bit the outcome of an unobserved run."""
    from empirical.observe import Measurements, observe

    config = TINY.mse.training
    gamma, eta, seed = np.array([0.1, 1.0, 10.0]), np.array([0.01, 0.1, 1.0]), np.array([0, 1, 0])
    what = Measurements((("test_loss", (0, 40)), ("raw_outputs", (0, 40))), examples=10)
    seen = observe(config, gamma, eta, seed, what)
    plain = Sweep(config).run(gamma, eta, seed)
    for name, values in plain.cells.fields().items():
        np.testing.assert_array_equal(getattr(seen.cells, name), values)
    assert seen.measured["raw_outputs"].shape == (3, 2, 10, 10)
    np.testing.assert_array_equal(seen.measured["raw_outputs"][:, 0], 0.0)
    np.testing.assert_allclose(seen.measured["test_loss"][:, 0], 0.5, rtol=1e-12)  # f = 0 against one-hot targets
