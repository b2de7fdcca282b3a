"""Renders what a comparison computed: the figure as PNG and SVG, and one self-contained HTML page."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, StrictUndefined
from rich.box import SIMPLE_HEAD
from rich.table import Table

from empirical.compare import Comparison, Family
from empirical.store import RunDirectory
from paper_figures.comparison import comparison_figure
from paper_figures.output import save_plain
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
    found = [
        (family, regime, fit)
        for family in comparison.trained
        for (regime, boundary), fit in family.fits.items()
        if boundary == "eta_crit"
    ]
    if not found:
        return "No eta_crit was met on the fit windows."
    slopes = "; ".join(
        f"L = {family.depth} {regime} {fit.exponent:.3f} ± {fit.half_width:.3f} (limit {fit.predicted:.3f})"
        for family, regime, fit in found
    )
    held = sum(fit.verdict == "consistent" for _, _, fit in found)
    return (
        f"Slopes of the networks' eta_crit: {slopes}. "
        f"{held} of {len(found)} intervals hold the slope of the exact toy law over the same points."
    )


def terminal_table(comparison: Comparison) -> Table:
    """The fits as a table that fits 80 columns.

    Args:
        comparison: what was found.

    Returns:
        A ``rich`` table.
    """
    colours = {"consistent": "green", "inconsistent": "red", "undetermined": "yellow"}
    table = Table(title="Fitted exponents, 95 % intervals", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "L", "boundary", "regime", "limit", "law", "fitted", "n", "verdict"):
        side: Literal["left", "right"] = "left" if heading in {"", "boundary", "regime", "verdict"} else "right"
        table.add_column(heading, justify=side, no_wrap=True)
    for family in (*comparison.toy, *comparison.trained):
        table.add_section()
        for (regime, boundary), fit in family.fits.items():
            table.add_row(
                family.arch,
                str(family.depth),
                boundary,
                regime,
                f"{fit.predicted:.3f}",
                f"{fit.predicted_window:.3f}",
                f"{fit.exponent:.3f} ± {fit.half_width:.3f}",
                str(fit.n_points),
                f"[{colours[fit.verdict]}]{fit.verdict}[/]",
            )
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
    png, svg = save_plain(store, FIGURE, comparison_figure(comparison))
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
