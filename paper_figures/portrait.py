"""The files of a phase portrait: portrait.nc, curves.nc where there are curves, boundaries.csv and the figure."""

from __future__ import annotations

from typing import Any

import pandas as pd

from empirical.store import RunDirectory
from empirical.sweep import save_portrait
from empirical.trace import boundary_rows
from paper_figures.output import save_plain
from paper_figures.overlay import portrait_figure
from simulate import PhasePortrait

BOUNDARIES = ("eta_min", "eta_crit", "eta_fail", "eta_max", "eta_star")


def write_portrait(store: RunDirectory, portrait: PhasePortrait, identity: dict[str, Any]) -> str:
    """Write a portrait, the boundaries read off its grid, and its figure.

    Args:
        store: where.
        portrait: the portrait.
        identity: ``arch, variant, depth, loss, optimizer``.

    Returns:
        What was found and written, in two lines.
    """
    save_portrait(store, portrait)
    points = {name: portrait.boundary(name) for name in BOUNDARIES}
    steps = int(portrait.data.attrs["steps"])
    table = pd.concat([boundary_rows(found, steps, **identity) for found in points.values()])
    store.write("boundaries.csv", table.to_csv(index=False, float_format="%.10g"))
    save_plain(store, "portrait", portrait_figure(portrait))
    counts = ", ".join(f"{name} {len(found)}" for name, found in points.items())
    written = "portrait.nc, boundaries.csv, portrait.png, portrait.svg, manifest.json"
    return f"boundary points on the grid: {counts}\nwritten to {store.path}: {written}"
