"""What a figure of the paper is: which data it needs, how it is drawn, and what its caption says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

Data = Mapping[str, Any]


@dataclass(frozen=True)
class PaperFigure:
    """One of the paper's figures.

    Attributes:
        name: such as ``fig1``.
        title: for metadata and the gallery.
        needs: experiments that it draws.
        bears_on: further experiments that claims beside it are judged from.
        draw: from the data to the figure.
        caption: a template, in which ``m(id)`` is a measured number of the ledger.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    bears_on: tuple[str, ...]
    draw: Callable[[Data], Figure]
    caption: str
