"""What is drawn: the exact laws where theory says, edges around cells, marks for verdicts."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from paper_figures.overlay import draw_laws, draw_points, portrait_figure, slope_label
from simulate import BoundaryPoints, fit_power_law, phase_portrait


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.mark.parametrize("depth", [2, 3])
def test_the_line_of_eta_crit_has_the_slopes_of_the_law(depth):
    """Read off the drawn line itself: 2 where lazy, 2/L where rich."""
    _, ax = plt.subplots()
    gamma = np.geomspace(1e-6, 1e6, 200)
    draw_laws(ax, gamma, depth, steps=10_000, level=0.9)
    slopes = [np.gradient(np.log(line.get_ydata()), np.log(line.get_xdata()))[[0, -1]] for line in ax.lines]
    assert any(np.allclose(slope, [2, 2 / depth], atol=1e-4) for slope in slopes)
    # three boundaries, each with a halo that has the same course
    assert len(ax.lines) == 6
    for halo, line in zip(ax.lines[::2], ax.lines[1::2], strict=True):
        np.testing.assert_array_equal(halo.get_xydata(), line.get_xydata())


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_grid_of_a_portrait_is_drawn_with_its_cells_inside(count):
    gamma, eta = np.geomspace(1, 100, count), np.geomspace(1e-3, 1e2, 6)
    figure = portrait_figure(phase_portrait(depth=2, gamma=gamma, eta=eta, steps=50))
    (ax,) = figure.axes
    low, high = ax.get_xlim()
    assert low < gamma[0]
    assert gamma[-1] < high
    # cells of one width in ln γ: the point is in the middle of its cell
    if count > 1:
        assert low * gamma[1] == pytest.approx(gamma[0] ** 2 * (gamma[1] / gamma[0]) ** 0.5)
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_brackets_are_drawn_as_error_bars():
    _, ax = plt.subplots()
    gamma, eta = np.array([0.1, 1.0]), np.array([2.0, 4.0])
    draw_points(ax, BoundaryPoints("eta_crit", gamma, np.array([0, 0]), eta, eta / 2, eta * 3), divide_by=2.0)
    (container,) = ax.containers
    (bars,) = container.lines[2]
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [[0.5, 3.0], [1.0, 6.0]])


@pytest.mark.parametrize(("slope", "mark"), [(2.0, ""), (1.5, " ✗")])
def test_the_verdict_is_in_the_label(slope, mark):
    gamma = np.geomspace(1e-3, 1e-1, 8)
    eta = gamma**slope
    bracket = {"eta_low": eta * 0.99, "eta_high": eta * 1.01, "seed": np.zeros(8, dtype=np.int64)}
    fit = fit_power_law(gamma, eta, **bracket, window=(1e-3, 1e-1), predicted=2.0, law=gamma**2)
    assert slope_label(fit).startswith(f"{slope:.3f}"[:4])
    assert slope_label(fit).endswith(mark or f"{fit.half_width:.3f}")
