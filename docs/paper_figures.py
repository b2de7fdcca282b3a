"""Makes the gallery page of the main figures from a finished run of ``richscape figures``.

richscape figures all --scale quick --out runs/figures
python docs/paper_figures.py runs/figures      # docs/figures.md and docs/images/figN.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd

from paper_figures.figures import FIGURES, RUNTIMES
from paper_figures.ledger import measured

DOCS = Path(__file__).parent
LARGEST = 1100
"""Pixels across, at most."""


def shrink(picture: np.ndarray) -> np.ndarray:
    """Average whole blocks of pixels until a picture is small enough for a page.

    Args:
        picture: shape ``(rows, columns, channels)``, from 0 to 1.

    Returns:
        The same picture, by a whole factor smaller.
    """
    factor = -(-picture.shape[1] // LARGEST)
    rows, columns = (size // factor * factor for size in picture.shape[:2])
    blocks = picture[:rows, :columns].reshape(rows // factor, factor, columns // factor, factor, -1)
    return blocks.mean(axis=(1, 3))


def page(folder: Path) -> str:
    """The page, and the images beside it.

    Args:
        folder: of the finished run.

    Returns:
        Markdown.
    """
    ledger = pd.read_csv(folder / "claims.csv")
    runtimes = json.loads((folder / RUNTIMES).read_text())
    scale = json.loads((folder / "manifest.json").read_text())["config"]["name"]
    intro = f"""\
Scale `{scale}`. Made by `python docs/paper_figures.py` from a run of `richscape figures`; intervals are of 95 %, from
the ledger of claims (`claims.csv` and `claims.html` in the folder of the run), which also has every rule."""
    parts = ["# The main figures", intro]
    for name, figure in FIGURES.items():
        if not (folder / f"{name}.png").exists():
            continue
        picture = shrink(matplotlib.image.imread(folder / f"{name}.png"))
        matplotlib.image.imsave(DOCS / "images" / f"{name}.png", picture, metadata={"Software": None})
        rows = ledger[ledger["figure"] == name]
        table = ["| claim | predicted | measured | verdict |", "|---|---|---|---|"]
        table += [
            f"| {r['statement']} | {r['predicted']} | {measured(r)} | {r['verdict']} |" for _, r in rows.iterrows()
        ]
        command = f"`richscape figures {name} --scale {scale} --out runs/figures`"
        parts.append(f"## {figure.title}")
        parts.append(f"![{figure.title}](images/{name}.png)")
        parts.append((folder / f"{name}.md").read_text().strip())
        parts.append(f"{command}: {runtimes[name]:.0f} s, when the figures above were there.")
        parts.append("\n".join(table))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    (DOCS / "figures.md").write_text(page(Path(sys.argv[1])), encoding="utf-8")
