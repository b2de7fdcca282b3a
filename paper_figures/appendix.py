"""The figures of the appendix by name. What they show beside the main figures is in ``empirical/experiments``."""

from __future__ import annotations

from paper_figures import (
    appendix_agreement,
    appendix_budgets,
    appendix_catapults,
    appendix_collapse,
    appendix_consistency,
    appendix_degree,
    appendix_depth,
    appendix_edge,
    appendix_kernels,
    appendix_optimizers,
    appendix_portraits,
    appendix_silent,
    appendix_sizes,
    appendix_spectra,
    appendix_start,
)
from paper_figures.figure import PaperFigure

DEPTH = 3
"""Weight layers of the MLPs whose budgets and optimizers the appendix shows."""

APPENDIX: dict[str, PaperFigure] = {
    figure.name: figure
    for figure in (
        PaperFigure(
            appendix_portraits.NAME, appendix_portraits.TITLE, ("portraits",), (),
            lambda d: appendix_portraits.figure(d["portraits"]), appendix_portraits.CAPTION,
        ),
        PaperFigure(
            appendix_depth.NAME, appendix_depth.TITLE, ("depths",), (),
            lambda d: appendix_depth.figure(d["depths"]), appendix_depth.CAPTION,
        ),
        PaperFigure(
            appendix_budgets.NAME, appendix_budgets.TITLE, ("lower", "budgets", "apex"), (),
            lambda d: appendix_budgets.figure(d["lower"], d["budgets"], d["apex"], DEPTH), appendix_budgets.CAPTION,
        ),
        PaperFigure(
            appendix_spectra.NAME, appendix_spectra.TITLE, ("landscape",), (),
            lambda d: appendix_spectra.figure(d["landscape"]), appendix_spectra.CAPTION,
        ),
        PaperFigure(
            appendix_catapults.NAME, appendix_catapults.TITLE, ("catapults",), (),
            lambda d: appendix_catapults.figure(d["catapults"]), appendix_catapults.CAPTION,
        ),
        PaperFigure(
            appendix_silent.NAME, appendix_silent.TITLE, ("landscape",), (),
            lambda d: appendix_silent.figure(d["landscape"]), appendix_silent.CAPTION,
        ),
        PaperFigure(
            appendix_agreement.NAME, appendix_agreement.TITLE, ("landscape",), (),
            lambda d: appendix_agreement.figure(d["landscape"]), appendix_agreement.CAPTION,
        ),
        PaperFigure(
            appendix_kernels.NAME, appendix_kernels.TITLE, ("representations",), (),
            lambda d: appendix_kernels.figure(d["representations"]), appendix_kernels.CAPTION,
        ),
        PaperFigure(
            appendix_consistency.NAME, appendix_consistency.TITLE, ("landscape",), (),
            lambda d: appendix_consistency.figure(d["landscape"]), appendix_consistency.CAPTION,
        ),
        PaperFigure(
            appendix_collapse.NAME, appendix_collapse.TITLE, ("landscape",), (),
            lambda d: appendix_collapse.figure(d["landscape"]), appendix_collapse.CAPTION,
        ),
        PaperFigure(
            appendix_sizes.NAME, appendix_sizes.TITLE, ("widths", "width_curves", "batches", "batch_curves"), (),
            lambda d: appendix_sizes.figure(d["widths"], d["width_curves"], d["batches"], d["batch_curves"]),
            appendix_sizes.CAPTION,
        ),
        PaperFigure(
            appendix_optimizers.NAME, appendix_optimizers.TITLE, ("optimizers",), (),
            lambda d: appendix_optimizers.figure(d["optimizers"], DEPTH), appendix_optimizers.CAPTION,
        ),
        PaperFigure(
            appendix_degree.NAME, appendix_degree.TITLE, ("tables",), (),
            lambda d: appendix_degree.figure(d["tables"]), appendix_degree.CAPTION,
        ),
        PaperFigure(
            appendix_edge.NAME, appendix_edge.TITLE, ("degrees",), (),
            lambda d: appendix_edge.figure(d["degrees"]), appendix_edge.CAPTION,
        ),
        PaperFigure(
            appendix_start.NAME, appendix_start.TITLE, ("flows", "growth"), (),
            lambda d: appendix_start.figure(d["flows"], d["growth"]), appendix_start.CAPTION,
        ),
    )
}  # fmt: skip
"""By name, in order."""
