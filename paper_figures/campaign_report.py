"""Renders a campaign: fitted rich slopes against 2/D, and one self-contained page; whole after every unit."""

from __future__ import annotations

import base64
import json
import math
import time
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.box import SIMPLE_HEAD
from rich.table import Table

from empirical.campaign import CampaignResult, UnitResult, save
from empirical.campaign.journal import JOURNAL, Journal
from empirical.store import RunDirectory
from paper_figures.output import save_plain
from paper_figures.style import BOUNDARY_COLOURS, BOUNDARY_MARKS, BOUNDARY_SYMBOLS, INK, QUIET, house_style
from simulate import ScalingFit

CAMPAIGNS = Path(__file__).with_name("campaigns")
FULL = CAMPAIGNS / "cpu.json"
"""What ``richscape compare --preset full`` runs."""

FIGURE = "slopes"
EVERY_SECONDS = 60.0
"""While a campaign runs, tables and report are made again at most this often."""

OFFSETS = {"eta_crit": -0.22, "eta_fail": 0.0, "eta_max": 0.22}
LOSS_FACES: dict[str, Literal["full", "none"]] = {"mse": "full", "cross-entropy": "none"}


def _rows(one: UnitResult) -> list[tuple[str, str, ScalingFit]]:
    return [(boundary, by, fit) for (boundary, by), fit in one.fits.items()]


def _network(one: UnitResult) -> str:
    who = one.plan.config.identity()
    layers = f", L = {who['depth']}" if one.plan.exact else ""
    return f"{who['arch']} ({who['variant']}{layers})"


def draw_degree_law(ax: plt.Axes, result: CampaignResult) -> None:
    """Fitted rich slopes against 2/D, one mark a boundary, open for cross-entropy.

    Args:
        ax: where.
        result: what was found so far.
    """
    ends = [0.0, 0.4]
    for one in result.done:
        guess = one.prediction
        if guess is None:
            continue
        for boundary, by, fit in _rows(one):
            if by != "euler_degree" or boundary not in OFFSETS or not math.isfinite(fit.half_width):
                continue
            across = [[max(guess.slope - guess.low, 0)], [max(guess.high - guess.slope, 0)]]
            ax.errorbar(
                guess.slope, fit.exponent, yerr=fit.half_width, xerr=across, lw=0.9, ms=5, mew=1.1,
                fmt=BOUNDARY_MARKS[boundary], color=BOUNDARY_COLOURS[boundary],
                fillstyle=LOSS_FACES[one.plan.config.loss],
                alpha=0.35 if fit.verdict == "undetermined" else 1.0,
            )  # fmt: skip
            ends += [guess.high, fit.exponent]
    top = 1.1 * max(ends)
    ax.plot([0, top], [0, top], color=INK, lw=1, dashes=(4, 2.5), zorder=0)
    ax.set(xlim=(0, top), ylim=(0, top), xlabel=r"predicted slope $2/D$", ylabel="fitted slope in the rich regime")
    ax.set_title(r"the Euler-degree law $\eta \propto \gamma^{2/D}$")


def draw_departures(ax: plt.Axes, result: CampaignResult) -> None:
    """Fitted less predicted slope of every unit, with its interval.

    Args:
        ax: where.
        result: what was found so far.
    """
    names = [one.plan.unit.name for one in result.done]
    for place, one in enumerate(result.done):
        shown = {boundary: fit for boundary, by, fit in _rows(one) if by == "depth"}
        shown |= {boundary: fit for boundary, by, fit in _rows(one) if by == "euler_degree"}
        for boundary, fit in shown.items():
            if boundary in OFFSETS and math.isfinite(fit.half_width):
                ax.errorbar(
                    fit.exponent - fit.predicted_window, place + OFFSETS[boundary], xerr=fit.half_width, lw=0.9, ms=4,
                    fmt=BOUNDARY_MARKS[boundary], color=BOUNDARY_COLOURS[boundary],
                    alpha=0.35 if fit.verdict == "undetermined" else 1.0,
                )  # fmt: skip
    ax.axvline(0, color=INK, lw=1, dashes=(4, 2.5), zorder=0)
    ax.set_yticks(np.arange(len(names)), names, fontsize=7)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlim(-0.4, 0.4)
    ax.set_xlabel("fitted less predicted slope")
    ax.grid(axis="y", color=QUIET, alpha=0.15, lw=0.6)


def campaign_figure(result: CampaignResult) -> Figure:
    """Draw a campaign.

    Args:
        result: what was found so far.

    Returns:
        Slopes against 2/D beside the departures of every unit.
    """
    with house_style():
        height = max(4.6, 0.24 * len(result.done) + 1.4)
        fig, (left, right) = plt.subplots(1, 2, figsize=(12, height), layout="constrained", width_ratios=(1, 1.1))
        draw_degree_law(left, result)
        draw_departures(right, result)
        left.set_aspect("equal")
        handles = [
            Line2D([], [], lw=0, marker=BOUNDARY_MARKS[name], color=BOUNDARY_COLOURS[name],
                   label=f"${BOUNDARY_SYMBOLS[name]}$") for name in OFFSETS
        ]  # fmt: skip
        handles += [Line2D([], [], lw=0, marker="o", color=QUIET, fillstyle=face, label=loss)
                    for loss, face in LOSS_FACES.items()]  # fmt: skip
        fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return fig


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def table_rows(result: CampaignResult) -> list[dict[str, Any]]:
    """The fits as text.

    Args:
        result: what was found so far.

    Returns:
        One dictionary a fit; ``first`` marks where a unit begins.
    """
    return [
        {
            "entry": one.plan.unit.entry.name,
            "network": _network(one),
            "loss": one.plan.config.loss,
            "steps": one.plan.config.steps,
            "boundary": boundary,
            "regime": one.plan.unit.regime,
            "by": by,
            "degree": _number(one.prediction.degree[-1], 2) if one.prediction and by == "euler_degree" else "–",
            "predicted": _number(fit.predicted),
            "predicted_window": _number(fit.predicted_window),
            "fitted": _number(fit.exponent),
            "interval": f"[{_number(fit.interval[0])}, {_number(fit.interval[1])}]",
            "n_points": fit.n_points,
            "window": f"{fit.window[0]:.3g} … {fit.window[1]:.3g}",
            "verdict": fit.verdict,
            "explanation": fit.explanation,
            "first": i == 0,
        }
        for one in result.done
        for i, (boundary, by, fit) in enumerate(_rows(one))
    ]


def degree_rows(result: CampaignResult, journal: Journal) -> list[dict[str, Any]]:
    """The predictions as text.

    Args:
        result: what was found so far.
        journal: says when each was written down.

    Returns:
        One dictionary a unit that has one.
    """
    rows = []
    for one in result.done:
        guess, made = one.prediction, journal.event("predicted", one.plan.unit.name)
        if guess is not None:
            rows.append({
                "unit": one.plan.unit.name,
                "cells": guess.cells,
                "degree": ", ".join(f"{d:.2f}" for d in guess.degree),
                "settled": f"{guess.settled_from:.3g}",
                "slope": f"{guess.slope:.3f}",
                "range": f"{guess.low:.3f} … {guess.high:.3f}",
                "made": f"{made['time']}, {made['sha256'][:12]}" if made else "–",
            })  # fmt: skip
    return rows


def summary(result: CampaignResult) -> str:
    """The result in one or two sentences.

    Args:
        result: what was found so far.

    Returns:
        How many intervals hold what was predicted.
    """
    parts = []
    for regime, by, words in (
        ("lazy", "depth", "lazy slopes hold the exact law's"),
        ("rich", "depth", "rich slopes hold that of the depth"),
        ("rich", "euler_degree", "rich slopes hold that of the measured Euler degree"),
    ):
        fits = [f for one in result.done if one.plan.unit.regime == regime for _, b, f in _rows(one) if b == by]
        decided = [fit for fit in fits if fit.verdict != "undetermined"]
        held = sum(fit.verdict == "consistent" for fit in decided)
        if fits:
            parts.append(f"{held} of {len(decided)} {words} ({len(fits) - len(decided)} undetermined)")
    waiting = f" {len(result.waiting)} units have not run." if result.waiting else ""
    return ("; ".join(parts) or "No boundary was met") + "." + waiting


def terminal_table(result: CampaignResult) -> Table:
    """The fits as a table for a terminal.

    Args:
        result: what was found so far.

    Returns:
        A ``rich`` table.
    """
    colours = {"consistent": "green", "inconsistent": "red", "undetermined": "yellow"}
    table = Table(title=summary(result), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("entry", "T", "regime", "boundary", "by", "predicted", "fitted", "n", "verdict"):
        table.add_column(heading, no_wrap=True)
    for one in result.done:
        table.add_section()
        for boundary, by, fit in _rows(one):
            table.add_row(
                one.plan.unit.entry.name, str(one.plan.config.steps), one.plan.unit.regime, boundary, by,
                _number(fit.predicted_window), f"{_number(fit.exponent)} ± {_number(fit.half_width)}",
                str(fit.n_points), f"[{colours[fit.verdict]}]{fit.verdict}[/]",
            )  # fmt: skip
    return table


class Reporter:
    """Writes tables, figure and page of a campaign, every now and then while it runs.

    Args:
        store: where they go.
    """

    def __init__(self, store: RunDirectory) -> None:
        self.store = store
        self._last = -math.inf

    def __call__(self, result: CampaignResult) -> None:
        """Write what has been found, unless that was done a moment ago.

        Args:
            result: what was found so far.
        """
        if time.monotonic() - self._last > EVERY_SECONDS:
            self.finish(result)
            self._last = time.monotonic()

    def finish(self, result: CampaignResult) -> None:
        """Write tables, figure and page.

        Args:
            result: what was found.
        """
        save(result, self.store)
        png, _ = save_plain(self.store, FIGURE, campaign_figure(result), grows=True)
        environment = Environment(
            autoescape=True, undefined=StrictUndefined, loader=FileSystemLoader(Path(__file__).parent, encoding="utf-8")
        )
        page = environment.get_template("campaign.html.jinja").render(
            title=f"Campaign {result.campaign.name}: the γ–η plane of many architectures",
            description=result.campaign.description,
            summary=summary(result),
            figure=base64.b64encode(png.read_bytes()).decode(),
            rows=table_rows(result),
            degrees=degree_rows(result, Journal(self.store)),
            windows=[(one.plan.unit.name, one.plan.window.reason) for one in result.done],
            refused=list(result.refused.items()),
            waiting=[unit.name for unit in result.waiting],
            manifest=json.dumps(json.loads((self.store.path / "manifest.json").read_text()), indent=2),
        )
        self.store.write("report.html", page, grows=True)

    def files(self) -> list[str]:
        """Names of the files of the run.

        Returns:
            In order, without hidden ones; the journal is there once something has been fitted.
        """
        names = self.store.files()
        return [name for name in names if name != JOURNAL] + [name for name in names if name == JOURNAL]
