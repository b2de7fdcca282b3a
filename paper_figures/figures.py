"""The paper's figures by name, main ones and appendix: what each needs, how it is drawn, and what its caption says.

Every number of a caption is taken from the ledger of claims, with its interval.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from empirical.experiments.analysis import agreement_matrix, catapult_fit, loss_laws, plateaus, sharpness_fits
from empirical.experiments.appendix import AppendixExperiments
from empirical.experiments.scales import Scale
from empirical.runners import obey_parent
from empirical.store import RunDirectory, canonical_json, source_revision, write_atomically
from paper_figures import fig1_phase_portraits as fig1
from paper_figures import fig2_online_loss as fig2
from paper_figures import fig3_hessian as fig3
from paper_figures import fig4_catapults as fig4
from paper_figures import fig5_agreement as fig5
from paper_figures.appendix import APPENDIX
from paper_figures.claims import CLAIMS, committed_degrees, committed_flows, committed_growth, committed_tables
from paper_figures.claims.tables import RESULTS
from paper_figures.figure import PaperFigure
from paper_figures.ledger import judge_all, measured, to_csv, to_html
from paper_figures.output import Provenance, figure_files
from theory.errors import InputError, one_of

RUNTIMES = "runtimes.json"
"""Seconds that each figure took when it was first made; one that shares experiments with an earlier one is quick."""


FIGURES: dict[str, PaperFigure] = {
    figure.name: figure
    for figure in (
        PaperFigure(
            fig1.NAME, fig1.TITLE, ("mse", "cross_entropy"), ("budgets", "apex"),
            lambda d: fig1.figure(d["mse"], d["cross_entropy"]), fig1.CAPTION,
        ),
        PaperFigure(
            fig2.NAME, fig2.TITLE, ("curves",), (), lambda d: fig2.figure(d["curves"], loss_laws(d["curves"])),
            fig2.CAPTION,
        ),
        PaperFigure(
            fig3.NAME, fig3.TITLE, ("landscape", "spectra"), (),
            lambda d: fig3.figure(d["landscape"], sharpness_fits(d["landscape"]), d["spectra"]), fig3.CAPTION,
        ),
        PaperFigure(
            fig4.NAME, fig4.TITLE, ("catapults", "landscape"), (),
            lambda d: fig4.figure(
                d["catapults"], catapult_fit(d["catapults"]), d["landscape"], plateaus(d["landscape"])
            ),
            fig4.CAPTION,
        ),
        PaperFigure(
            fig5.NAME, fig5.TITLE, ("landscape",), (),
            lambda d: fig5.figure(d["landscape"], agreement_matrix(d["landscape"])), fig5.CAPTION,
        ),
    )
}  # fmt: skip
"""The main figures by name, in the order of the paper."""

EVERY: dict[str, PaperFigure] = FIGURES | APPENDIX
"""The main figures, then the appendix."""

FROM_CAMPAIGNS: dict[str, Callable[[Path], pd.DataFrame | None]] = {
    "tables": committed_tables,
    "degrees": committed_degrees,
    "flows": committed_flows,
    "growth": committed_growth,
}
"""Data that are read from the folders of campaigns, by name."""

GROUPS: dict[str, tuple[str, ...]] = {"all": tuple(EVERY), "main": tuple(FIGURES), "appendix": tuple(APPENDIX)}
"""Several figures by one name."""


def chosen_figures(names: tuple[str, ...], *, campaign: Path = RESULTS) -> tuple[str, ...]:
    """Names of figures, groups spelled out.

    Args:
        names: as on the command line, of ``EVERY`` and ``GROUPS``; all when empty.
        campaign: folder below which the tables of campaigns lie.

    Returns:
        Names of ``EVERY``, each once, in the order of the paper; of a group, figures that are drawn from campaigns are
        left out when there are none.

    Raises:
        InputError: a figure asked for by its name needs campaigns, and there are none.
    """
    for name in names:
        one_of("NAME", name, (*GROUPS, *EVERY))
    asked = {one for name in names or ("all",) for one in GROUPS.get(name, (name,))}
    for name in sorted(asked):
        if all(read(campaign) is not None for need, read in FROM_CAMPAIGNS.items() if need in EVERY[name].needs):
            continue
        if name in names:
            what = f"a folder of campaigns in or below which are the tables that {name} is drawn from (docs/figures.md)"
            raise InputError("--campaign", str(campaign), what)
        asked -= {name}
    return tuple(name for name in EVERY if name in asked)


def caption(figure: PaperFigure, ledger: pd.DataFrame, scale: Scale) -> str:
    """The caption of a figure, with the numbers of the ledger.

    Args:
        figure: which.
        ledger: as ``judge_all`` gives it.
        scale: what was trained.

    Returns:
        Markdown.
    """
    rows = {str(row["id"]): row for _, row in ledger.iterrows()}

    def training(config: Any) -> dict[str, Any]:
        names = ("depth", "width", "data", "steps")
        return {name: getattr(config, name) for name in names} | {"arch": config.arch.upper()}

    template = Environment(undefined=StrictUndefined).from_string(figure.caption)
    return template.render(
        m=lambda name: measured(rows[name]),
        mse=training(scale.mse.training),
        ce=training(scale.cross_entropy.training),
    )


@dataclass(frozen=True)
class Rendered:
    """What was written.

    Attributes:
        files: all files.
        seconds: wall time of each figure, its experiments included.
        ledger: the ledger.
    """

    files: tuple[Path, ...]
    seconds: dict[str, float]
    ledger: pd.DataFrame


def _runtimes(store: RunDirectory, seconds: dict[str, float]) -> dict[str, float]:
    """Longest wall time of each figure so far: that of the run that trained, not of one that only drew."""
    file = store.path / RUNTIMES
    before: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    return before | {name: round(max(took, before.get(name, 0.0)), 1) for name, took in seconds.items()}


def draw(name: str, data: Mapping[str, Any], made: Provenance) -> tuple[dict[str, bytes], float]:
    """Draw one figure.

    Args:
        name: of ``EVERY``.
        data: what it needs, by name.
        made: for the metadata.

    Returns:
        The content of its files by their suffix, and the seconds that it took.
    """
    start = time.monotonic()
    return figure_files(EVERY[name].draw(data), made), time.monotonic() - start


Task = tuple[str, Mapping[str, Any], Provenance]
"""Arguments of ``draw``."""


class _Drawing:
    """Draws every other figure in a process of its own, while the next experiment runs, and the rest here at the end.

    Args:
        apart: whether there is such a process.
    """

    def __init__(self, apart: bool) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=obey_parent) if apart else None
        self._tasks: list[tuple[Task, Future[tuple[dict[str, bytes], float]] | None]] = []

    def __enter__(self) -> _Drawing:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def begin(self, task: Task) -> None:
        """Have a figure drawn when there is time."""
        future = None
        if self._pool is not None and len(self._tasks) % 2 == 0:
            with contextlib.suppress(BrokenProcessPool):  # it was killed, as for want of memory
                future = self._pool.submit(draw, *task)
        self._tasks.append((task, future))

    def finish(self) -> dict[str, tuple[dict[str, bytes], float]]:
        """Results of ``draw`` by the name of the figure, in the order in which they were begun."""
        here = {task[0]: draw(*task) for task, future in self._tasks if future is None}
        out = {}
        for task, future in self._tasks:
            try:
                out[task[0]] = here[task[0]] if future is None else future.result()
            except BrokenProcessPool:
                out[task[0]] = draw(*task)
        return out


def render(
    names: tuple[str, ...],
    experiments: AppendixExperiments,
    store: RunDirectory,
    campaign: Path = RESULTS,
    apart: bool = False,
) -> Rendered:
    """Compute what is missing, draw the figures, judge the claims, write captions.

    Args:
        names: of ``EVERY``.
        experiments: where the data come from.
        store: where files go: ``NAME.png, .svg, .pdf, .md``, ``claims.csv``, ``claims.html`` and ``runtimes.json``;
            ``appendix.json`` says what was trained for the appendix, as the manifest does for the main figures.
        campaign: folder below which the tables of campaigns lie.
        apart: draw half of the figures in a process of its own.

    Returns:
        What was written.
    """
    scale, revision = experiments.scale, source_revision()
    other = f" --first-seed {scale.mse.first_seed}" if scale.mse.first_seed else ""
    command = f"richscape figures {{figure}} --scale {scale.name}{other} --out {store.path.name}"
    data: dict[str, Any] = {}
    files: list[Path] = []
    seconds: dict[str, float] = {}
    for need, read in FROM_CAMPAIGNS.items():
        if (found := read(campaign)) is not None:
            data[need] = found
    with _Drawing(apart) as drawing:
        for name in names:
            figure, start = EVERY[name], time.monotonic()
            for need in (*figure.needs, *figure.bears_on):
                if need not in FROM_CAMPAIGNS:
                    data[need] = getattr(experiments, need)
            seconds[name] = time.monotonic() - start
            mine = {need: data[need] for need in figure.needs}
            made = Provenance(figure.title, command.format(figure=name), revision)
            drawing.begin((name, mine, made))
        for name, (drawn, took) in drawing.finish().items():
            seconds[name] += took
            files += [store.write(f"{name}.{suffix}", content) for suffix, content in drawn.items()]
    ledger = judge_all(CLAIMS, data, command)
    texts = {f"{name}.md": caption(EVERY[name], ledger, scale) + "\n" for name in names}
    texts["claims.csv"] = to_csv(ledger)
    texts["claims.html"] = to_html(ledger, f"Scale {scale.name}, source revision {revision}.")
    if set(names) & set(APPENDIX):
        texts["appendix.json"] = canonical_json(experiments.appendix.describe()) + "\n"
    texts[RUNTIMES] = json.dumps(_runtimes(store, seconds), indent=2) + "\n"
    for file, text in texts.items():  # they follow from which figures were asked for: replaced without a notice
        write_atomically(store.path / file, text)
        files.append(store.path / file)
    return Rendered(tuple(files), seconds, ledger)
