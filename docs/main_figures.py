"""Makes the gallery page of the main figures from a finished run of ``richscape figures``.

richscape figures main --scale quick --out runs/figures
richscape figures main --scale quick --first-seed 100 --out runs/again
python docs/main_figures.py runs/figures runs/again

It writes docs/figures.md and docs/images/figN.png, and into paper_figures/results/figures-SCALE the ledger and
captions of the first run, and reproduction.csv: the same numbers in the second one, which may be left out.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
from PIL import Image

from paper_figures.figures import FIGURES
from paper_figures.ledger import measured
from paper_figures.reproduction import reproduction

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "paper_figures" / "results"
KEPT = ("claims.csv", "manifest.json", *(f"{name}.md" for name in FIGURES))
WIDTH = 1100
"""Pixels across."""


def save_small(source: Path, target: Path) -> None:
    """Write a picture at the width of a page.

    Args:
        source: PNG file of the run.
        target: PNG file of the page.
    """
    picture = Image.open(source).convert("RGB")
    size = (WIDTH, round(picture.height * WIDTH / picture.width))
    picture.resize(size, Image.Resampling.LANCZOS).save(target, optimize=True)


def keep(folder: Path, again: Path | None) -> Path:
    """Put the tables of a run where the repository keeps results.

    Args:
        folder: of the finished run.
        again: of the run on other seeds, if there is one.

    Returns:
        Where they are.
    """
    scale = json.loads((folder / "manifest.json").read_text())["config"]["name"]
    out = RESULTS / f"figures-{scale}"
    out.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        if (folder / name).exists():
            shutil.copyfile(folder / name, out / name)
    if again is not None:
        table = reproduction(*(pd.read_csv(run / "claims.csv") for run in (folder, again)))
        table.to_csv(out / "reproduction.csv", index=False, float_format="%.6g")
    return out


def recurrence(table: pd.DataFrame) -> str:
    """What became of the numbers on other seeds, in words.

    Args:
        table: as ``reproduction`` gives it.

    Returns:
        Markdown.
    """
    known = table[table["agrees"].fillna("") != ""]
    agree, same = int((known["agrees"] == "yes").sum()), int((table["same_verdict"] == "yes").sum())
    missed = ", ".join(f"`{name}`" for name in known.loc[known["agrees"] == "no", "id"])
    text = f"Of the numbers also measured on other seeds {agree} of {len(known)} come back to within their intervals"
    text += f" (not: {missed})" if missed else ""
    return text + f", and {same} of {len(table)} verdicts are the same: `reproduction.csv` beside the ledger."


def page(folder: Path, again: Path | None = None) -> str:
    """The page, and the images beside it.

    Args:
        folder: of the finished run.
        again: of the run on other seeds, if there is one.

    Returns:
        Markdown.
    """
    ledger = pd.read_csv(folder / "claims.csv")
    scale = json.loads((folder / "manifest.json").read_text())["config"]["name"]
    intro = f"""\
Scale `{scale}`. Made by `python docs/main_figures.py` from a run of `richscape figures`; intervals are of 95 %, from
the ledger of claims (`claims.csv` in `paper_figures/results/figures-{scale}`), which also has every rule."""
    parts = ["# The main figures", intro]
    if again is not None:
        parts.append(recurrence(reproduction(ledger, pd.read_csv(again / "claims.csv"))))
    for name, figure in FIGURES.items():
        if not (folder / f"{name}.png").exists():
            continue
        save_small(folder / f"{name}.png", DOCS / "images" / f"{name}.png")
        rows = ledger[ledger["figure"] == name]
        table = ["| claim | predicted | measured | verdict |", "|---|---|---|---|"]
        table += [
            f"| {r['statement']} | {r['predicted']} | {measured(r)} | {r['verdict']} |" for _, r in rows.iterrows()
        ]
        command = f"`richscape figures {name} --scale {scale} --out runs/figures`"
        parts.append(f"## {figure.title}")
        parts.append(f"![{figure.title}](images/{name}.png)")
        parts.append((folder / f"{name}.md").read_text().strip())
        parts.append(command)
        parts.append("\n".join(table))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    runs = [Path(argument) for argument in sys.argv[1:]]
    keep(runs[0], runs[1] if len(runs) > 1 else None)
    (DOCS / "figures.md").write_text(page(*runs), encoding="utf-8")
