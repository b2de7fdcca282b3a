"""``richscape compare --campaign`` from end to end, on networks that take seconds."""

from __future__ import annotations

import base64
import json

import pandas as pd
import pytest

FILES = (
    "boundaries.csv cells.nc degrees.csv exponents.csv journal.jsonl laws.csv learned.csv manifest.json "
    "predictions.json report.html slopes.png slopes.svg windows.csv"
)
CAMPAIGN = {
    "format": 1,
    "name": "tiny",
    "description": "two kinds of network",
    "defaults": {
        "training": {"width": 8, "image_size": 7, "batch_size": 8},
        "budgets": [30],
        "boundaries": ["eta_crit"],
        "regimes": ["rich"],
        "points": 5,
        "seeds": 1,
        "resolution": 0.3,
        "margin": 5,
    },
    "entries": [{"name": "mlp-2", "training": {"depth": 2}}, {"name": "deep", "training": {"depth": 9}}],
}


@pytest.fixture(scope="module")
def campaign_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "tiny.json"
    path.write_text(json.dumps(CAMPAIGN))
    return path


@pytest.fixture(scope="module")
def ran(run, campaign_file, tmp_path_factory):
    place = tmp_path_factory.mktemp("campaign") / "run"
    ran = run("compare", "--campaign", campaign_file, "--out", place, "--workers", "1")
    assert ran.code == 0, ran.err
    return place, ran


def test_files_table_and_report(ran):
    place, out = ran
    assert sorted(path.name for path in place.glob("[!.]*") if path.is_file()) == FILES.split()
    for name in FILES.split():
        assert name in out.out
    page = (place / "report.html").read_text(encoding="utf-8")
    fits = pd.read_csv(place / "exponents.csv")
    assert set(fits["predicted_by"]) == {"depth", "euler_degree"}
    for fitted in fits["fitted"]:
        assert f"{fitted:.3f}" in page
    assert base64.b64encode((place / "slopes.png").read_bytes()).decode() in page
    sha = json.loads((place / "manifest.json").read_text())["predictions"]["mlp-2.T30.rich"]["sha256"]
    assert sha[:12] in page
    assert "deep.T30.rich" in page  # without a window, and the reason
    assert "{{" not in page
    assert "http" not in page.split("<details>")[0]


def test_the_same_command_again_trains_and_changes_nothing(run, ran, campaign_file, contents):
    place, _ = ran
    before = contents(place)
    again = run("compare", "--campaign", campaign_file, "--out", place, "--workers", "1")
    assert again.code == 0, again.err
    after = contents(place)
    assert after.keys() == before.keys()
    for name, (content, _) in before.items():
        if not name.endswith(".nc"):
            assert after[name][0] == content, name
    assert "notice" not in again.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--width", "16"], "--width"),
        (["--preset", "full"], "--preset"),
    ],
)
def test_options_that_a_file_sets_are_refused(run, campaign_file, tmp_path, words, message):
    refused = run("compare", "--campaign", campaign_file, *words, "--out", tmp_path / "run")
    assert refused.code == 2
    assert message in refused.err
    assert len(refused.err.splitlines()) == 1


def test_a_bad_file_is_one_line(run, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(CAMPAIGN | {"entries": [{"name": "a", "training": {"depht": 3}}]}))
    refused = run("compare", "--campaign", path, "--out", tmp_path / "run")
    assert refused.code == 2
    assert "entries[0].training.depht" in refused.err
    assert len(refused.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_first_seed_is_for_campaigns(run, tmp_path):
    refused = run("compare", "--first-seed", "5", "--out", tmp_path / "run")
    assert refused.code == 2
    assert "--first-seed" in refused.err
    assert len(refused.err.splitlines()) == 1


def test_another_first_seed_is_another_run(run, ran, campaign_file):
    place, *_ = ran if isinstance(ran, tuple) else (ran,)
    other = run("compare", "--campaign", campaign_file, "--first-seed", "5", "--out", place, "--workers", "1")
    assert other.code == 2  # the folder holds the run of other seeds
    assert "entries" in other.err
