"""The main figures on made-up data: as they looked when somebody last looked, and with the numbers where they belong.

Baselines are replaced by ``RICHSCAPE_BASELINES=write pytest tests/test_paper_figures/test_main_figures.py``, and looked
at.
"""

from __future__ import annotations

import os
import re
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.testing.compare import compare_images

from empirical.experiments.scales import SCALES
from paper_figures import figures, style
from paper_figures.claims import CLAIMS
from paper_figures.figures import FIGURES, caption, chosen_figures
from paper_figures.ledger import judge_all, number
from paper_figures.output import Provenance, figure_files
from theory.errors import InputError

BASELINES = Path(__file__).parent / "baseline"
TOLERANCE = 6.0
"""Root-mean-square difference of grey levels: another release of FreeType shifts text by up to 4, a line by more."""


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.mark.parametrize("name", list(FIGURES))
def test_a_figure_looks_as_before(name, made, tmp_path):
    with style.house_style():
        FIGURES[name].draw(made).savefig(tmp_path / f"{name}.png", dpi=50, metadata={"Software": None})
    baseline = BASELINES / f"{name}.png"
    if os.environ.get("RICHSCAPE_BASELINES") == "write":
        BASELINES.mkdir(exist_ok=True)
        baseline.write_bytes((tmp_path / f"{name}.png").read_bytes())
    assert compare_images(str(baseline), str(tmp_path / f"{name}.png"), TOLERANCE) is None


def test_the_comparison_sees_a_moved_line(made, make, tmp_path):
    with style.house_style():
        tilted = {**made, "landscape": make["landscape"](lazy=-1.0)}
        FIGURES["fig3"].draw(tilted).savefig(tmp_path / "fig3.png", dpi=50, metadata={"Software": None})
    assert compare_images(str(BASELINES / "fig3.png"), str(tmp_path / "fig3.png"), TOLERANCE) is not None


@pytest.mark.parametrize("name", list(FIGURES))
def test_every_number_of_a_caption_is_in_the_ledger(name, made):
    ledger = judge_all(CLAIMS, made, "")
    text = caption(FIGURES[name], ledger, SCALES["quick"])
    asked = re.findall(r'm\("([^"]+)"\)', FIGURES[name].caption)
    assert asked
    for one in asked:
        row = ledger.set_index("id").loc[one]
        if np.isfinite(row["measured"]):
            assert number(row["measured"]) in text, one


def test_names_are_put_in_order_and_unknown_ones_refused():
    assert chosen_figures(("fig3", "fig1")) == ("fig1", "fig3")
    assert chosen_figures(("main",)) == tuple(FIGURES)
    with pytest.raises(InputError, match="fig9"):
        chosen_figures(("fig9",))


def test_another_seed_moves_every_experiment():
    moved = SCALES["quick"].from_seed(100)
    parts = [part for part in vars(moved).values() if hasattr(part, "first_seed")]
    assert len(parts) == 7
    assert {part.first_seed for part in parts} == {100}
    most = max(getattr(part, "seeds", getattr(part, "trace_seeds", 0)) for part in parts)
    assert most <= 100  # seeds from 0 and from 100 have none in common
    assert moved.describe() != SCALES["quick"].describe()
    assert moved.from_seed(0) == SCALES["quick"]
    with pytest.raises(InputError, match="first_seed"):
        SCALES["quick"].from_seed(-1)


def test_a_figure_is_drawn_three_times_with_its_provenance():
    contents = []
    for _ in range(2):
        figure, ax = plt.subplots()
        ax.plot([0, 1])
        contents.append(figure_files(figure, Provenance("A line", "richscape figures one", "abc123")))
    assert list(contents[0]) == ["png", "svg", "pdf"]
    assert contents[0] == contents[1]  # no date in them
    for content in contents[0].values():
        assert b"abc123" in content


def test_gamma_has_one_colour_and_lightness_rises_from_lazy_to_rich():
    """Lightness of CIE L*a*b*, computed here, must rise along the scale and leave room to white."""

    def lightness(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
        y = float(np.dot(linear, [0.2126, 0.7152, 0.0722]))
        return 116 * y ** (1 / 3) - 16

    values = [lightness(style.gamma_colour(g)) for g in np.geomspace(1e-4, 1e4, 30)]
    assert (np.diff(values) > 0).all()
    assert values[-1] < 85
    assert style.gamma_colour(1e-9) == style.gamma_colour(1e-4)


def test_figures_are_the_same_when_their_process_is_killed(monkeypatch):
    """Every other figure is drawn apart; when that process is dead they are drawn here."""
    drawn = []

    def draw(name, data, made):
        drawn.append((name, os.getpid()))
        return {"png": name.encode()}, 0.0

    monkeypatch.setattr(figures, "draw", draw)
    with figures._Drawing(apart=True) as drawing:
        with pytest.raises(BrokenProcessPool):
            drawing._pool.submit(os._exit, 9).result()
        for name in ("fig1", "fig2", "fig3"):
            drawing.begin((name, {}, Provenance("", "", "")))
        found = drawing.finish()
    assert list(found) == ["fig1", "fig2", "fig3"]
    assert {content["png"] for content, _ in found.values()} == {b"fig1", b"fig2", b"fig3"}
    assert {pid for _, pid in drawn} == {os.getpid()}
