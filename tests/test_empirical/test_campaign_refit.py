"""Fits made again from committed tables, and the laws of a degree that drifts."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq

from empirical.campaign import load
from empirical.campaign.degree import Prediction
from empirical.campaign.refit import refit, refit_table
from empirical.law import law_depth
from paper_figures.campaign_report import FULL
from theory.errors import InputError

RESULTS = Path(__file__).parents[2] / "paper_figures" / "results"


@pytest.mark.parametrize("name", ["gpu/resnet", "gpu/vit-ce", "held-out/gpu/mlp", "cpu-momentum"])
def test_committed_exponents_follow_from_committed_boundaries(name):
    kept, again = pd.read_csv(RESULTS / name / "exponents.csv"), refit_table(RESULTS / name)
    assert list(kept.columns) == list(again.columns)
    assert len(kept) == len(again) > 5
    for column in ("entry", "steps", "boundary", "regime", "predicted_by", "verdict", "n_points"):
        assert kept[column].tolist() == again[column].tolist()
    for column in ("predicted_window", "fitted", "ci_low", "ci_high"):
        np.testing.assert_allclose(kept[column], again[column], rtol=1e-6)


def test_refit_says_what_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"manifest\.json"):
        refit(tmp_path)
    (tmp_path / "manifest.json").write_text('{"config": {"command": "sweep"}}')
    with pytest.raises(InputError, match="campaign"):
        refit(tmp_path)


def test_units_of_residual_networks_are_held_against_three_laws():
    found = refit(RESULTS / "gpu" / "resnet")
    for one in found.done:
        assert {by for _, by in one.fits} == {"euler_degree", "euler_degree_drift", "large_weights"}
        for (_, by), fit in one.fits.items():
            if by == "large_weights":
                assert fit.predicted == 2 / law_depth(one.plan.config)[0]


def _sum_of_powers(gamma):
    """F = r² + r³/10 at F = γ: the degree, and the curvature (F′/γ)² along the ray."""
    r = np.array([brentq(lambda x, g=g: x**2 + x**3 / 10 - g, 1e-9, g + 1, xtol=1e-14) for g in gamma])
    return (2 * r**2 + 0.3 * r**3) / gamma, ((2 * r + 0.3 * r**2) / gamma) ** 2


def test_the_drifting_degree_is_that_of_the_curvature_along_the_ray():
    gamma = np.geomspace(1, 1e6, 400)
    degree, curvature = _sum_of_powers(gamma)
    prediction = Prediction(tuple(gamma), tuple(degree), 2.0, 2 / degree[-1], 0.0, 1.0, 1.0, 1)
    assert prediction.drifts
    exact = curvature[0] / curvature  # η_crit ∝ 1/λ
    np.testing.assert_allclose(prediction.law(gamma, drift=True), exact, rtol=1e-4)
    assert abs(np.log(prediction.law(gamma)[-1] / exact[-1])) > 0.5  # 2/D alone is another law


def test_a_settled_degree_has_one_law():
    gamma = np.geomspace(1, 1e4, 6)
    assert not Prediction(tuple(gamma), (3.0,) * 6, 2.0, 2 / 3, 0.6, 0.7, 1.0, 6).drifts
    assert not Prediction(tuple(gamma), (2.0, 2.2, 2.5, 2.8, 3.0, 3.0), 1.0, 1 / 3, 0.3, 0.4, 1.0, 6).drifts


def test_a_campaign_moves_to_other_seeds_as_a_whole():
    campaign = load(FULL)
    moved = campaign.from_seed(100)
    assert {entry.every_seed for entry in moved.entries} == {(100, 101, 102)}
    assert moved.from_seed(0) == campaign
    with pytest.raises(InputError, match="first_seed"):
        campaign.from_seed(-1)
