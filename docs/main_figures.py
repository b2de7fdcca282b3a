"""Makes the gallery page of all figures from a finished run of ``richscape figures``.

richscape figures all --scale quick --out runs/figures
richscape figures main --scale quick --first-seed 100 --out runs/again
python docs/main_figures.py runs/figures runs/again

It writes docs/figures.md and a small docs/images/NAME.png for every figure, and into
paper_figures/results/figures-SCALE the ledger and captions of the first run, and reproduction.csv: the same numbers in
the second one. Where that is left out, those that reproduction.csv has from an earlier one are compared again.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import pandas as pd
from PIL import Image

from paper_figures.appendix import APPENDIX
from paper_figures.appendix_degree import slopes_figure
from paper_figures.claims import committed_tables
from paper_figures.figures import EVERY, FIGURES, RUNTIMES
from paper_figures.ledger import NOT_SUPPORTED, SUPPORTED, UNDETERMINED, VERDICTS, measured
from paper_figures.reproduction import reproduction
from paper_figures.style import house_style

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "paper_figures" / "results"
KEPT = ("claims.csv", "manifest.json", "appendix.json", RUNTIMES, *(f"{name}.md" for name in EVERY))
WIDTHS = (1100, 1000, 900, 800, 700)
"""Pixels across, the first that is small enough."""

NUMBERS = ("measured", "ci_low", "ci_high")
LARGEST = 150_000
"""Bytes of a picture."""


def save_small(source: Path, target: Path) -> None:
    """Write a picture at the width of a page, with a palette of its own colours.

    Args:
        source: PNG file of the run.
        target: PNG file of the page.
    """
    picture = Image.open(source).convert("RGB")
    for width in WIDTHS:
        size = (width, round(picture.height * width / picture.width))
        small = picture.resize(size, Image.Resampling.LANCZOS).quantize(
            256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE
        )
        buffer = io.BytesIO()
        small.save(buffer, "PNG", optimize=True)
        if buffer.tell() <= LARGEST:
            break
    target.write_bytes(buffer.getvalue())


def save_slopes(target: Path) -> None:
    """Write the picture of every architecture that the committed campaigns have.

    Args:
        target: PNG file of the page.
    """
    tables = committed_tables()
    if tables is not None:
        with house_style():
            slopes_figure(tables).savefig(target, metadata={"Software": None})


def results(folder: Path) -> Path:
    """Where the repository keeps the tables of a run.

    Args:
        folder: of the run.

    Returns:
        A folder, which need not exist.
    """
    return RESULTS / f"figures-{json.loads((folder / 'manifest.json').read_text())['config']['name']}"


def other_seeds(out: Path, again: Path | None) -> pd.DataFrame | None:
    """The ledger of the run on other seeds.

    Args:
        out: where the repository keeps tables.
        again: of that run, if it is at hand.

    Returns:
        The ledger; what an earlier comparison has of it where the run is not at hand, ``None`` without that.
    """
    if again is not None:
        return pd.read_csv(again / "claims.csv")
    if not (out / "reproduction.csv").exists():
        return None
    table = pd.read_csv(out / "reproduction.csv")
    named = {f"{name}_again": name for name in (*NUMBERS, "verdict")}
    return table[["id", *named]].rename(columns=named)


def keep(folder: Path, again: pd.DataFrame | None) -> None:
    """Put the tables of a run where the repository keeps results.

    Args:
        folder: of the finished run.
        again: ledger of the run on other seeds, if there is one.
    """
    out = results(folder)
    out.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        if (folder / name).exists():
            shutil.copyfile(folder / name, out / name)
    if again is not None:
        table = reproduction(pd.read_csv(folder / "claims.csv"), again)
        table.to_csv(out / "reproduction.csv", index=False, float_format="%.6g")


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


def cell(text: object) -> str:
    """Text inside a table.

    Args:
        text: any.

    Returns:
        Markdown.
    """
    return str(text).replace("|", "\\|")


def verdicts(ledger: pd.DataFrame) -> str:
    """How many claims there are of each verdict, and the ones that are not supported.

    Args:
        ledger: as ``claims.csv`` has it.

    Returns:
        Markdown.
    """
    counts = {verdict: int((ledger["verdict"] == verdict).sum()) for verdict in VERDICTS}
    head = f"Of {len(ledger)} claims {counts[SUPPORTED]} are supported, {counts[NOT_SUPPORTED]} are not supported and "
    lines = [head + f"{counts[UNDETERMINED]} undetermined at this scale. Not supported:", ""]
    for verdict in (NOT_SUPPORTED, UNDETERMINED):
        if verdict == UNDETERMINED:
            lines += ["", "Undetermined, and what would decide them:", ""]
        for _, row in ledger[ledger["verdict"] == verdict].iterrows():
            text = f"- {row['statement']} (`{row['id']}`): {measured(row)} against {row['predicted']}"
            lines.append(f"{text}; {row['detail']}")
    return "\n".join(lines)


def section(folder: Path, name: str, ledger: pd.DataFrame, scale: str) -> list[str]:
    """One figure of the page, and its image beside it.

    Args:
        folder: of the finished run.
        name: of the figure.
        ledger: as ``claims.csv`` has it.
        scale: of the run.

    Returns:
        Paragraphs of Markdown.
    """
    save_small(folder / f"{name}.png", DOCS / "images" / f"{name}.png")
    figure, seconds = EVERY[name], json.loads((folder / RUNTIMES).read_text())[name]
    table = ["| claim | predicted | measured | verdict |", "|---|---|---|---|"]
    asked = ledger["id"].map(lambda one: f'm("{one}")' in figure.caption)
    for _, row in ledger[(ledger["figure"] == name) | asked].iterrows():
        cells = (row["statement"], row["predicted"], measured(row), row["verdict"])
        table.append(f"| {' | '.join(map(cell, cells))} |")
    return [
        f"### {figure.title}",
        f"![{figure.title}](images/{name}.png)",
        (folder / f"{name}.md").read_text().strip(),
        f"`richscape figures {name} --scale {scale} --out runs/figures` ({seconds:.0f} s)",
        "\n".join(table),
    ]


def page(folder: Path, again: pd.DataFrame | None = None) -> str:
    """The page, and the images beside it.

    Args:
        folder: of the finished run.
        again: ledger of the run on other seeds, if there is one.

    Returns:
        Markdown.
    """
    ledger = pd.read_csv(folder / "claims.csv", keep_default_na=False, na_values=dict.fromkeys(NUMBERS, ""))
    scale = json.loads((folder / "manifest.json").read_text())["config"]["name"]
    total = sum(json.loads((folder / RUNTIMES).read_text()).values()) / 60
    intro = f"""\
Scale `{scale}`. Made by `python docs/main_figures.py` from a run of `richscape figures all`; intervals are of 95 %,
from the ledger of claims (`claims.csv` in `paper_figures/results/figures-{scale}`), which also has every rule. Behind
each command stands how long it took in that run, {total:.0f} minutes in all, with what earlier figures had trained; a
second call draws from what the directory holds."""
    parts = ["# The figures", intro, verdicts(ledger)]
    if again is not None:
        parts.append(recurrence(reproduction(ledger, again)))
    for heading, group in (("Main figures", FIGURES), ("Appendix", APPENDIX)):
        parts.append(f"## {heading}")
        for name in group:
            if (folder / f"{name}.png").exists():
                parts += section(folder, name, ledger, scale)
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    runs = [Path(argument) for argument in sys.argv[1:]]
    other = other_seeds(results(runs[0]), runs[1] if len(runs) > 1 else None)
    keep(runs[0], other)
    (DOCS / "figures.md").write_text(page(runs[0], other), encoding="utf-8")
    save_slopes(DOCS / "images" / "slopes.png")
