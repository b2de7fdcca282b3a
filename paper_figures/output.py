"""Writes a figure as PNG, SVG and PDF, each with where it comes from in its metadata.

No date: the same numbers drawn by the same source are the same bytes.
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from empirical.store import RunDirectory
from paper_figures.style import house_style


@dataclass(frozen=True)
class Provenance:
    """Where a figure comes from.

    Attributes:
        title: what it shows.
        command: what makes it.
        source: revision of the source.
    """

    title: str
    command: str
    source: str

    def metadata(self, suffix: str) -> dict[str, str | None]:
        """Metadata in the words of a file format.

        Args:
            suffix: ``png``, ``svg`` or ``pdf``.

        Returns:
            For ``savefig``; ``None`` leaves out what would otherwise be written.
        """
        made = f"{self.command}; source revision {self.source}"
        if suffix == "png":
            return {"Title": self.title, "Description": made, "Software": None}
        if suffix == "svg":
            return {"Title": self.title, "Description": made, "Date": None, "Creator": "richscape"}
        return {"Title": self.title, "Subject": made, "Creator": "richscape", "CreationDate": None, "Producer": None}


def figure_files(figure: Figure, provenance: Provenance) -> dict[str, bytes]:
    """Draw a figure in three formats, and close it.

    Args:
        figure: the figure.
        provenance: for the metadata.

    Returns:
        The content of each file by its suffix.
    """
    out = {}
    logging.getLogger("fontTools").setLevel(logging.ERROR)  # it warns of old time stamps in fonts
    with house_style():  # resolution, fonts and the salt of an SVG's names are looked up when it is saved
        for suffix in ("png", "svg", "pdf"):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, metadata=provenance.metadata(suffix))
            out[suffix] = buffer.getvalue()
            figure.set_layout_engine("none")  # one layout for all three, found once: it is most of the time
    plt.close(figure)
    return out


def save_plain(store: RunDirectory, name: str, figure: Figure, *, grows: bool = False) -> tuple[Path, Path]:
    """Write a figure as PNG and SVG without a provenance, which the report beside it has, and close it.

    Args:
        store: where.
        name: of the files, without suffix.
        figure: the figure.
        grows: as in ``RunDirectory.write_with``.

    Returns:
        The PNG and the SVG.
    """
    with house_style():
        png = store.write_with(f"{name}.png", partial(figure.savefig, metadata={"Software": None}), grows=grows)
        svg = store.write_with(f"{name}.svg", partial(figure.savefig, metadata={"Date": None}), grows=grows)
    plt.close(figure)
    return png, svg
