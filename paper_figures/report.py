"""Renders what a comparison computed: the figure as PNG and SVG, and one self-contained HTML page."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from jinja2 import Environment, StrictUndefined
from rich.markup import escape
from rich.table import Table

from empirical.compare import Comparison, Family
from empirical.store import RunDirectory
from paper_figures.comparison import comparison_figure
from simulate import ScalingFit

FIGURE = "comparison"
TEMPLATE = Path(__file__).with_name("report.html.jinja")


def table_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """The fits as text, for the terminal and for the page.

    Args:
        comparison: what was found.

    Returns:
        One dictionary a fit, networks after toys, depth by depth; ``first`` marks where a depth begins.
    """
    return [
        _row(family, boundary, regime, fit) | {"first": i == 0}
        for family in (*comparison.toy, *comparison.trained)
        for i, ((regime, boundary), fit) in enumerate(family.fits.items())
    ]


def _row(family: Family, boundary: str, regime: str, fit: ScalingFit) -> dict[str, Any]:
    return {
        "network": f"{family.arch} ({family.variant})",
        "depth": family.depth,
        "boundary": boundary,
        "regime": regime,
        "predicted": f"{fit.predicted:.3f}",
        "predicted_window": f"{fit.predicted_window:.3f}",
        "fitted": f"{fit.exponent:.4f}" if family.arch == "toy" else f"{fit.exponent:.3f}",
        "interval": f"[{fit.interval[0]:.3f}, {fit.interval[1]:.3f}]",
        "n_points": fit.n_points,
        "window": f"{fit.window[0]:.3g} … {fit.window[1]:.3g}",
        "verdict": fit.verdict,
        "explanation": fit.explanation,
    }


def summary(comparison: Comparison) -> str:
    """The result in two sentences.

    Args:
        comparison: what was found.

    Returns:
        How the networks' fitted slopes of ``eta_crit`` compare with 2 and 2/L.
    """
    parts, verdicts = [], []
    for family in comparison.trained:
        for regime, limit in (("lazy", "2"), ("rich", f"2/{family.depth}")):
            fit = family.fits.get((regime, "eta_crit"))
            if fit is not None:
                parts.append(f"L = {family.depth} {regime}: {fit.exponent:.3f} ± {fit.half_width:.3f} (law {limit})")
                verdicts.append(fit.verdict)
    held = sum(verdict == "consistent" for verdict in verdicts)
    return (
        f"Fitted slopes of the networks' eta_crit. {'; '.join(parts)}. "
        f"{held} of {len(verdicts)} intervals hold the slope of the exact toy law over the same points."
    )


def terminal_table(comparison: Comparison) -> Table:
    """The fits as a table for the terminal.

    Args:
        comparison: what was found.

    Returns:
        A ``rich`` table.
    """
    colours = {"consistent": "green", "inconsistent": "red", "undetermined": "yellow"}
    table = Table(title="Fitted exponents, 95 % intervals", title_justify="left")
    for heading in ("network", "L", "boundary", "regime", "limit", "exact law", "fitted", "interval", "n", "verdict"):
        table.add_column(
            heading, justify="left" if heading in {"network", "boundary", "regime", "verdict"} else "right"
        )
    for row in table_rows(comparison):
        if row["first"]:
            table.add_section()
        names = (
            "network",
            "depth",
            "boundary",
            "regime",
            "predicted",
            "predicted_window",
            "fitted",
            "interval",
            "n_points",
        )
        verdict = f"[{colours[row['verdict']]}]{row['verdict']}[/]"
        table.add_row(*(escape(str(row[name])) for name in names), verdict)
    return table


def render(comparison: Comparison, store: RunDirectory) -> list[Path]:
    """Draw the figure and write the report.

    Args:
        comparison: what was found.
        store: where they go.

    Returns:
        The files written: PNG, SVG, HTML.
    """
    config = comparison.config
    figure = comparison_figure(comparison)
    # fixed metadata: the same numbers give the same bytes
    png = store.write_with(f"{FIGURE}.png", lambda path: figure.savefig(path, metadata={"Software": None}))
    svg = store.write_with(f"{FIGURE}.svg", lambda path: figure.savefig(path, metadata={"Date": None}))
    plt.close(figure)
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    thresholds = config.thresholds
    manifest = json.loads((store.path / "manifest.json").read_text())
    depths = ", ".join(str(depth) for depth in config.depths)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title="Theory against experiment in the γ–η plane",
        subtitle=(
            f"{comparison.trained[0].arch.upper()}s of depth {depths}, width {config.width}, on {config.data} at "
            f"{config.image_size}×{config.image_size}, mean squared error, T = {config.steps:,} steps, "
            f"{config.seeds} seeds, preset {config.preset}"
        ),
        summary=summary(comparison),
        figure=base64.b64encode(png.read_bytes()).decode(),
        rows=table_rows(comparison),
        windows=[f.windows[regime].reason for f in comparison.trained for regime in f.windows],
        tail=f"{thresholds.tail_fraction:.0%}",
        level=thresholds.level,
        peak=thresholds.peak,
        divergence=f"{thresholds.divergence:g}",
        manifest=json.dumps(manifest, indent=2, ensure_ascii=False),
    )
    return [png, svg, store.write("report.html", page)]
