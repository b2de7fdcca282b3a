"""What the figures of the toy models show is what was passed: line data, mesh data and texts, never pixels."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from paper_figures.axes import power_of_ten
from paper_figures.overlay import (
    catapult_figure,
    collapse_figure,
    draw_laws,
    portrait_figure,
    staircase_figure,
    trajectory_figure,
)
from paper_figures.style import BOUNDARY_COLOURS, FATE_COLOURS, run_colours
from simulate import phase_portrait
from simulate.catapult import Fate, catapult_portrait
from simulate.collapse import tau_collapse
from theory import InputError, ToyModel


@pytest.fixture(autouse=True)
def _no_warnings_and_close():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    plt.close("all")


def drawn(figure: object) -> Figure:
    """Lay the figure out: texts and ticks that cannot be drawn warn here."""
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    return figure


def lines(ax):
    return [np.asarray(line.get_xydata()) for line in ax.lines]


def holds(ax, x, y):
    """One line on the axes has exactly these points."""
    wanted = np.column_stack([x, y])
    return any(line.shape == wanted.shape and np.array_equal(line, wanted, equal_nan=True) for line in lines(ax))


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(plt.Text))


@pytest.mark.parametrize(("depth", "loss"), [(3, "mse"), (2, "cross-entropy"), (5, "mse")])
def test_collapse(depth, loss):
    found = tau_collapse(gamma=[1e2, 1e4, 1e7], depth=depth, loss=loss, eta=0.5, points=60)
    figure = drawn(collapse_figure(found))
    left, right = figure.axes
    for gamma, tau, raw in zip(found.gamma, found.curve_tau, found.curve_raw_output, strict=True):
        assert holds(right, tau, raw)
        assert holds(left, tau * (gamma / 0.5), raw)
    assert holds(right, *found.limit_curve)
    # drop times: dots on the curves, at the measured τ; ends of the plateaus: upright lines
    dots = np.sort([line[0, 0] for line in lines(right) if len(line) == 1])
    np.testing.assert_array_equal(dots, np.sort(found.drops["measured"]))
    upright = {float(line[0, 0]) for line in lines(right) if len(line) == 2 and line[0, 0] == line[1, 0]}
    assert upright == set(found.plateau_exit)
    written = texts(figure)
    assert f"measured {100 * found.distance:.3g}" in written
    assert f"predicted {100 * found.predicted_distance:.3g}" in written


def staircase(**changes):
    """A made-up result: three modes, smooth steps at 1, 2 and 4, measured a per mille later than predicted."""
    tau, values, place = np.linspace(0, 5, 90), np.array([4.0, 2.0, 1.0]), np.array([1.0, 2.0, 4.0])
    strengths = values / (1 + np.exp(-20 * (tau[:, None] - place)))
    measured = place * 1.001
    table = {"singular_value": values, "predicted": place, "measured": measured, "ratio": measured / measured[0]}
    given = {
        "singular_values": values, "depth": 3, "gamma": 1e8, "tau": tau, "strengths": strengths,
        "loss": ((strengths - values) ** 2).sum(axis=1) / (values**2).sum(), "steps": pd.DataFrame(table),
        "predicted_strengths": strengths * 1.01, "step_ratios": measured / measured[0],
    }  # fmt: skip
    return SimpleNamespace(**given | changes)


def test_staircase():
    given = staircase()
    figure = drawn(staircase_figure(given))
    above, below = figure.axes
    assert holds(above, given.tau, given.loss)
    for mode in range(3):
        assert holds(below, given.tau, given.strengths[:, mode])
        assert holds(below, given.tau, given.predicted_strengths[:, mode])
    for ax in (above, below):
        upright = sorted(line[0, 0] for line in lines(ax) if len(line) == 2)
        assert upright == [1.0, 2.0, 4.0]  # the predicted times, not the measured
    assert "1 : 2 : 4" in texts(figure)
    assert r"\tau_{3} = 4.004" in texts(figure)


def test_staircase_that_ended_early():
    given = staircase()
    given.steps.loc[2, ["measured", "ratio"]] = np.nan
    written = texts(drawn(staircase_figure(given)))
    assert "nan" not in written
    assert r"\tau_{2}" in written


def test_catapult_maps():
    portrait = catapult_portrait(gamma=np.geomspace(1e-3, 10, 12), scaled_rate=np.linspace(0.25, 4.75, 19), steps=400)
    figure = drawn(catapult_figure(portrait))
    left, right = figure.axes[:2]
    (mesh,) = left.collections
    fate = portrait.data["fate"].values
    assert {int(flag) for flag in np.unique(fate)} >= {Fate.MONOTONE, Fate.CATAPULT, Fate.DIVERGENT}
    shown = mesh.cmap(mesh.norm(mesh.get_array().reshape(fate.T.shape)))
    for flag in Fate:
        wanted = plt.matplotlib.colors.to_rgba(FATE_COLOURS[flag.label])
        assert (np.abs(shown[flag == fate.T] - wanted) < 1e-9).all()
    (heights,) = right.collections
    peak = portrait.data["peak_loss"].values.T / 0.5
    array = heights.get_array().reshape(peak.shape)
    np.testing.assert_array_equal(array[np.isfinite(peak)], peak[np.isfinite(peak)])
    np.testing.assert_array_equal(np.ma.getmaskarray(array), ~np.isfinite(peak))
    for ax in (left, right):
        assert {2.0, 4.0} <= {float(line[0, 1]) for line in lines(ax)}
        low, high = ax.get_ylim()
        assert low == pytest.approx(0.125)
        assert high == pytest.approx(4.875)


def test_catapult_runs():
    portrait = catapult_portrait(gamma=[0.01, 0.1], scaled_rate=[1.0, 3.0], steps=100)
    runs = {3.0: SimpleNamespace(loss=np.array([0.5, 5.0, 50.0, 0.1])), 1.0: SimpleNamespace(loss=0.5 ** np.arange(4))}
    figure = drawn(catapult_figure(portrait, runs))
    for run in runs.values():
        assert holds(figure.axes[2], np.arange(4), run.loss / run.loss[0])
    assert r"\eta\lambda_0 = 3" in texts(figure)


def trajectory(**changes):
    tau = np.linspace(0, 2, 40)
    output = 1 / (1 + np.exp(-8 * (tau - 1)))
    given = {
        "t": 50 * tau, "tau": tau, "gamma": 1e2, "eta": 2.0, "output": output, "loss": (1 - output) ** 2 / 2,
        "sharpness": 0.01 + output, "events": {"plateau_exit": 40.0, "drop": 50.0, "convergence": np.nan},
    }  # fmt: skip
    return SimpleNamespace(**given | changes)


@pytest.mark.parametrize("time", ["tau", "t"])
def test_trajectory(time):
    given = trajectory()
    figure = drawn(trajectory_figure(given, time))
    at = getattr(given, time)
    for ax, values in zip(
        figure.axes, [given.loss / given.loss[0], given.output, given.sharpness], strict=True
    ):  # fmt: skip
        assert holds(ax, at, values)
        upright = [line[0, 0] for line in lines(ax) if len(line) == 2]
        np.testing.assert_allclose(upright, np.array([40.0, 50.0]) * (0.02 if time == "tau" else 1))
    written = texts(figure)
    assert "plateau exit" in written
    assert "convergence" not in written  # it was not reached


def test_trajectory_of_matrices_has_every_entry_and_no_unknown_sharpness():
    output = np.arange(40.0)[:, None, None] * np.array([[1.0, 2.0], [3.0, 4.0]])
    given = trajectory(output=output, sharpness=np.full(40, np.nan))
    figure = drawn(trajectory_figure(given))
    assert len(figure.axes) == 2
    for i, j in np.ndindex(2, 2):
        assert holds(figure.axes[1], given.tau, output[:, i, j])
    with pytest.raises(InputError, match="time"):
        trajectory_figure(given, "epochs")


@pytest.mark.parametrize(
    ("loss", "optimizer", "given", "slopes"),
    [("cross-entropy", "gd", {}, {"eta_crit": (2, 2 / 3), "eta_max": (1, 2 / 3)}),
     ("mse", "momentum", {"beta": 0.9}, {"eta_crit": (2, 2 / 3)}),
     ("mse", "sign", {}, {"eta_min": (1, 1 / 3), "eta_max": (1, 1 / 3)})],
)  # fmt: skip
def test_laws_of_any_loss_and_optimizer(loss, optimizer, given, slopes):
    """Slopes read off the drawn lines, at the ends of the axis: those of THEORY sections 3 and 6."""
    _, ax = plt.subplots()
    gamma = np.geomspace(1e-7, 1e7, 200)
    draw_laws(ax, gamma, 3, steps=1000, level=0.9, loss=loss, optimizer=optimizer, **given)
    names = ToyModel(loss=loss, optimizer=optimizer).boundary_names
    by_colour = {line.get_color(): line.get_xydata() for line in ax.lines}
    assert len(ax.lines) == 2 * len(names)  # each with a halo
    for name, ends in slopes.items():
        x, y = by_colour[BOUNDARY_COLOURS[name]].T
        np.testing.assert_array_equal(x, gamma)
        np.testing.assert_allclose(np.gradient(np.log(y), np.log(x))[[0, -1]], ends, atol=5e-3)


def test_one_layer_of_cross_entropy_has_no_eta_max():
    _, ax = plt.subplots()
    names = draw_laws(ax, np.array([0.1, 1.0]), 1, steps=1000, level=0.9, loss="cross-entropy")
    assert names == ("eta_min", "eta_crit")
    assert len(ax.lines) == 4


def test_momentum_moves_the_drawn_edge():
    heights = []
    for beta in (0.0, 0.5):
        _, ax = plt.subplots()
        draw_laws(ax, np.array([0.1, 1.0]), 3, steps=1000, level=0.9, optimizer="momentum", beta=beta)
        heights.append({line.get_color(): line.get_ydata() for line in ax.lines}[BOUNDARY_COLOURS["eta_crit"]])
    np.testing.assert_allclose(heights[1] / heights[0], 1.5, rtol=1e-12)


def test_terminal_error_of_sign_descent_is_that_of_the_level():
    """At level 0.81 the MSE of a trained cell allows |f − 1| = 0.9."""
    _, ax = plt.subplots()
    draw_laws(ax, np.array([0.1, 1.0]), 3, steps=1000, level=0.81, optimizer="sign")
    drawn_edge = {line.get_color(): line.get_ydata() for line in ax.lines}[BOUNDARY_COLOURS["eta_max"]]
    law = ToyModel(optimizer="sign").boundary("eta_max").numeric(gamma=np.array([0.1, 1.0]), depth=3, delta=0.9)
    np.testing.assert_allclose(drawn_edge, law, rtol=1e-12)


def test_a_portrait_says_what_was_run():
    portrait = phase_portrait(depth=3, gamma=np.geomspace(0.1, 10, 4), eta=np.geomspace(1e-3, 10, 5), steps=50)
    portrait.data.attrs |= {"optimizer": "momentum", "beta": 0.9}
    figure = drawn(portrait_figure(portrait))
    assert r"toy, MSE, momentum $\beta=0.9$, $L=3$, $T=50$" in texts(figure)
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    laws = [label for label in labels if label.startswith("exact")]
    assert len(laws) == 2  # the heavy ball has no eta_max
    for attribute in ("loss", "optimizer", "beta"):
        del portrait.data.attrs[attribute]
    assert "$L=3$" in texts(drawn(portrait_figure(portrait)))  # silent: gradient descent on MSE


@pytest.mark.parametrize(("value", "text"), [(1e4, "10^{4}"), (3e-4, r"3\times 10^{-4}"), (20.0, "20"), (0.5, "0.5"),
                                             (1e8, "10^{8}"), (1000.0, "10^{3}")])  # fmt: skip
def test_numbers_as_mathematics_writes_them(value, text):
    assert power_of_ten(value) == text


def test_runs_get_darker():
    """In grey the order of the runs is still seen: luminance falls from each to the next."""
    grey = np.array(run_colours(6))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(grey) < -0.02).all()
