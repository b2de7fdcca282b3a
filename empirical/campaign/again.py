"""What the commands that look at a finished campaign once more have in common."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from empirical.campaign.degree import EXAMPLES
from empirical.campaign.plan import Plan
from empirical.campaign.run import UnitResult
from empirical.observe import Measurements, observe
from empirical.shard import TrainingConfig
from simulate import Outcome
from theory.errors import InputError

LEARNED = ("trained", "catapult")
"""Outcomes of cells that learned."""


def chosen(units: Sequence[UnitResult], entries: Sequence[str], folder: Path | str) -> list[UnitResult]:
    """The units of some entries.

    Args:
        units: those that a command can look at.
        entries: names of entries; all when empty.
        folder: of the campaign, for the error.

    Returns:
        Units, in their order.

    Raises:
        InputError: a name that no unit has.
    """
    names = list(dict.fromkeys(unit.plan.unit.entry.name for unit in units))
    for name in entries:
        if name not in names:
            raise InputError(
                "ENTRY", name, f"one that can be looked at in {folder}: {', '.join(names) or 'there is none'}"
            )
    return [unit for unit in units if not entries or unit.plan.unit.entry.name in entries]


def just_below(folder: Path, plan: Plan) -> pd.DataFrame:
    """Ends of the cells that a rich unit trained just below eta_crit to measure their degree.

    Args:
        folder: of the campaign, with its ``degrees.csv``.
        plan: of the unit.

    Returns:
        Rows of ``degrees.csv``, one a cell.
    """
    table, unit = pd.read_csv(io.StringIO((folder / "degrees.csv").read_text(encoding="utf-8"))), plan.unit
    mine = table["entry"].eq(unit.entry.name) & table["steps"].eq(unit.steps) & table["regime"].eq("rich")
    return table[mine & table["step"].eq(unit.steps)]


def measure_again(config: TrainingConfig, cells: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Train cells again and measure them at the end, on the fresh examples that degrees are measured on.

    Args:
        config: of their networks, with its budget T.
        cells: with ``gamma, eta, seed``.
        names: of ``measure.catalogue.MEASURES``, one number a cell each.

    Returns:
        One row a cell, in order: ``gamma, eta, seed, outcome`` and the measurements by name.
    """
    columns: dict[str, Any] = {name: cells[name].to_numpy() for name in ("gamma", "eta", "seed")}
    wanted = tuple((name, (config.steps,)) for name in names)
    what = Measurements(wanted, examples=EXAMPLES, sample="fresh", eigenvalues=1)
    found = observe(config, measurements=what, **columns)
    outcome = [Outcome(value).label for value in found.cells.outcome]
    return pd.DataFrame(columns | {"outcome": outcome} | {name: found.measured[name][:, 0] for name in names})


def command(main: Callable[[Path, list[str]], None], usage: str) -> None:
    """Run a command on the folder of a campaign.

    Args:
        main: takes the folder and what stands after it on the command line.
        usage: what stands there, for whoever gave no folder.

    Raises:
        SystemExit: 2, after one line that says what is wrong with what was given.
    """
    if len(sys.argv) < 2:
        print(f"usage: {usage}", file=sys.stderr)
        raise SystemExit(2)
    try:
        main(Path(sys.argv[1]), sys.argv[2:])
    except InputError as error:
        print(f"richscape: {error}", file=sys.stderr)
        raise SystemExit(2) from None
