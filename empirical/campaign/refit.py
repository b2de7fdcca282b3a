"""Fits again what a campaign has traced, from its committed tables and without training.

A law that was thought of later is held against all the boundaries there are, and anyone can redo the fits of a
campaign from ``manifest.json``, ``boundaries.csv`` and ``predictions.json``.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd

from empirical.campaign.degree import Prediction
from empirical.campaign.plan import plan_all
from empirical.campaign.run import CampaignResult, UnitResult, fit_unit
from empirical.campaign.schema import FORMAT, parse
from empirical.campaign.tables import exponent_table
from simulate import BoundaryPoints
from theory.errors import InputError

_COLUMNS = ("gamma", "seed", "eta", "eta_low", "eta_high")


def _read(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            name, str(folder), f"a folder of a campaign, with a readable {name} ({error.strerror})"
        ) from None


def refit(folder: Path | str) -> CampaignResult:
    """Fit the boundaries of a campaign again.

    Args:
        folder: with the campaign's ``manifest.json`` and ``boundaries.csv``, and ``predictions.json`` where it has one.

    Returns:
        Its units with their points, predictions and new fits; cells and degrees are not read.

    Raises:
        InputError: a file is missing, or the manifest is not a campaign's.
    """
    folder = Path(folder)
    config: dict[str, Any] = json.loads(_read(folder, "manifest.json"))["config"]
    if "entries" not in config:
        raise InputError("manifest.json", str(folder), "the manifest of a campaign")
    campaign = parse(
        {"format": FORMAT} | {key: config[key] for key in ("name", "description", "entries") if key in config}
    )
    plans, refused = plan_all(campaign)
    made = folder / "predictions.json"
    predictions = json.loads(made.read_text(encoding="utf-8")) if made.exists() else {}
    table = pd.read_csv(io.StringIO(_read(folder, "boundaries.csv")))
    done = []
    for unit in campaign.units():
        mine = table["entry"].eq(unit.entry.name) & table["steps"].eq(unit.steps) & table["regime"].eq(unit.regime)
        if unit.name not in plans or not mine.any():
            continue
        points = {
            str(name): BoundaryPoints(str(name), *(rows[column].to_numpy() for column in _COLUMNS))
            for name, rows in table[mine].groupby("boundary", sort=False)
        }
        prediction = Prediction.from_record(predictions[unit.name]) if unit.name in predictions else None
        fits = fit_unit(plans[unit.name], points, prediction)
        done.append(UnitResult(plans[unit.name], points, fits, {}, None, prediction))
    waiting = tuple(unit for unit in campaign.units() if unit.name not in {one.plan.unit.name for one in done})
    return CampaignResult(campaign, tuple(done), refused, waiting)


def refit_table(folder: Path | str) -> pd.DataFrame:
    """The columns of ``exponents.csv``, from fits made again.

    Args:
        folder: as in ``refit``.

    Returns:
        One row a fit.
    """
    return exponent_table(refit(folder))
