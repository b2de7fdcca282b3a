"""What the commands that look at a finished campaign once more have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from empirical.campaign.run import UnitResult
from theory.errors import InputError


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
