"""The phase portrait: its layout on disk and in memory, and the boundaries read off it."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import xarray as xr

from simulate import (
    BOUNDARIES,
    OUTCOME_NAMES,
    CellResults,
    Outcome,
    PhasePortrait,
    Thresholds,
    find_bracket,
    phase_portrait,
    run_gradient_descent,
)
from simulate import portrait as portrait_module
from simulate.maps.noise import Noise
from theory import ToyModel
from theory.errors import InputError

GAMMA, ETA = np.logspace(-2, 2, 5), np.logspace(-9, 2, 111)
VARIABLES = {"outcome", "final_loss", "initial_loss", "peak_loss", "final_accuracy", "steps_run"}


@pytest.fixture(scope="module")
def portrait():
    return phase_portrait(loss="mse", depth=3, gamma=GAMMA, eta=ETA, steps=500)


# --- layout ---------------------------------------------------------------------------------------------------------


def test_the_dataset_has_the_dimensions_and_variables_of_the_contract(portrait):
    data = portrait.data
    assert isinstance(data, xr.Dataset)
    assert set(data.data_vars) == VARIABLES
    for name in VARIABLES:
        assert data[name].dims == ("gamma", "eta", "seed")
        assert data[name].shape == (5, 111, 1)
        assert data[name].attrs["long_name"]
    np.testing.assert_array_equal(data["gamma"], GAMMA)
    np.testing.assert_array_equal(data["eta"], ETA)
    assert data["seed"].values.tolist() == [0]


def test_outcome_is_a_cf_flag_variable(portrait):
    outcome = portrait.data["outcome"]
    assert outcome.dtype == np.int8
    values, meanings = outcome.attrs["flag_values"], outcome.attrs["flag_meanings"].split(" ")
    assert values.dtype == outcome.dtype  # CF: flag_values has the type of the variable
    expected = ["not_run", "untrained", "trained", "catapult", "unstable", "dead", "diverged"]
    assert dict(zip(values.tolist(), meanings, strict=True)) == dict(enumerate(expected))


def test_the_attributes_say_what_was_run(portrait):
    what = {"arch": "toy", "depth": 3, "loss": "mse", "optimizer": "gd", "steps": 500}
    assert {name: portrait.data.attrs[name] for name in what} == what
    assert portrait.thresholds == Thresholds()
    other = Thresholds(level=0.5, settle=1e-4, tail_fraction=0.1)
    assert phase_portrait(depth=2, gamma=[1.0], eta=[0.1], steps=10, thresholds=other).thresholds == other


def test_every_cell_lies_where_its_coordinates_say(portrait):
    rng = np.random.default_rng(0)
    for g, e in zip(rng.integers(0, 5, 40), rng.integers(0, 111, 40), strict=True):
        alone = run_gradient_descent(GAMMA[[g]], ETA[[e]], depth=3, steps=500)
        cell = portrait.data.isel(gamma=g, eta=e, seed=0)
        for name, values in alone.fields().items():
            np.testing.assert_array_equal(cell[name].values, values[0], err_msg=name)


def numbered_cells(shape, letters=None):
    n = math.prod(shape)
    number = np.arange(n, dtype=np.float64)
    outcome = np.full(n, Outcome.TRAINED, dtype=np.int8) if letters is None else letters
    return CellResults(outcome, number, np.ones(n), number + 1, np.full(n, math.nan), np.full(n, 7))


def test_cells_are_laid_out_with_the_seed_fastest():
    data = PhasePortrait.from_cells(
        numbered_cells((2, 3, 4)), np.array([1.0, 2.0]), np.array([1.0, 2.0, 3.0]), (5, 6, 7, 8), arch="mlp"
    ).data
    assert float(data["final_loss"].sel(gamma=2.0, eta=3.0, seed=6)) == 1 * 12 + 2 * 4 + 1
    assert data["seed"].values.tolist() == [5, 6, 7, 8]
    assert data.attrs["arch"] == "mlp"


# --- boundaries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOUNDARIES)
def test_boundaries_are_those_of_the_columns(portrait, name):
    points = portrait.boundary(name)
    assert points.name == name
    expected = []
    for g, gamma in enumerate(GAMMA):
        column = portrait.data.isel(gamma=g, seed=0)
        tail = column["final_loss"].values
        losses = (tail, column["peak_loss"].values, column["initial_loss"].values)
        found = find_bracket(name, column["outcome"].values, *losses, noise_free=True)
        if found is not None:
            low, high = ETA[list(found)]
            eta = ETA[np.nanargmin(tail)] if name == "eta_star" else math.sqrt(low * high)
            expected.append((gamma, 0, eta, low, high))
    assert len(expected) >= 4  # the grid shows it at most γ
    columns = (points.gamma, points.seed, points.eta, points.eta_low, points.eta_high)
    np.testing.assert_allclose(np.column_stack(columns), expected, rtol=1e-14)


def test_the_grid_brackets_the_exact_stability_limit():
    gamma, eta = np.logspace(-3, 3, 13), np.logspace(-8, 3, 441)
    points = phase_portrait(depth=2, gamma=gamma, eta=eta, steps=20_000).boundary("eta_crit")
    exact = ToyModel().boundary("eta_crit").numeric(gamma=gamma, depth=2)
    np.testing.assert_array_equal(points.gamma, gamma)
    assert (points.eta_low < exact * 1.005).all()  # 0.5 %: how far above η_crit a tail may still count as settled
    assert (points.eta_high > exact).all()


def test_cells_not_run_are_passed_over_and_seeds_kept_apart():
    t, x, no = Outcome.TRAINED, Outcome.UNSTABLE, Outcome.NOT_RUN
    columns = np.array([[t, t], [no, t], [x, no], [x, x]], dtype=np.int8)  # (eta, seed)
    cells = numbered_cells((1, 4, 2), letters=columns.ravel())
    portrait = PhasePortrait.from_cells(cells, np.ones(1), np.array([1.0, 2.0, 4.0, 8.0]), (3, 9), noise_free=0)
    points = portrait.boundary("eta_crit")
    assert points.seed.tolist() == [3, 9]
    assert points.eta_low.tolist() == [1.0, 2.0]
    assert points.eta_high.tolist() == [4.0, 8.0]


def test_an_unknown_boundary_is_bad_input(portrait):
    with pytest.raises(InputError, match=r"^boundary = "):
        portrait.boundary("eta_mid")


@pytest.mark.parametrize(
    ("votes", "expected"),
    [("ttx", "t"), ("txx", "x"), ("tx", "x"), ("ut", "t"), ("tD", "D"), ("utD", "D"), ("..t", "."), ("t.", "t")],
)
def test_the_most_common_outcome_and_of_equals_the_worst(votes, expected):
    codes = {".": Outcome.NOT_RUN, "u": Outcome.UNTRAINED, "t": Outcome.TRAINED}
    codes |= {"x": Outcome.UNSTABLE, "D": Outcome.DIVERGED}
    cells = numbered_cells((1, 1, len(votes)), letters=np.array([codes[v] for v in votes], dtype=np.int8))
    portrait = PhasePortrait.from_cells(cells, np.ones(1), np.ones(1), tuple(range(len(votes))))
    assert OUTCOME_NAMES[portrait.most_common_outcome()[0, 0]] == codes[expected].label


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_saved_portrait_comes_back_identical(portrait, tmp_path):
    portrait.save(tmp_path / "portrait.nc")
    back = PhasePortrait.load(tmp_path / "portrait.nc")
    xr.testing.assert_identical(back.data, portrait.data)  # values, NaN, coordinates and attributes
    for name in VARIABLES:
        assert back.data[name].dtype == portrait.data[name].dtype
    assert back.thresholds == portrait.thresholds
    for name in BOUNDARIES:
        ours, theirs = portrait.boundary(name).table(), back.boundary(name).table()
        assert ours.equals(theirs)


def test_the_flags_are_in_the_file_itself(portrait, tmp_path):
    portrait.save(tmp_path / "portrait.nc")
    with xr.open_dataset(tmp_path / "portrait.nc", decode_cf=False) as raw:
        outcome = raw["outcome"]
        assert outcome.dtype == np.int8
        assert outcome.attrs["flag_values"].tolist() == list(range(7))
        assert outcome.attrs["flag_values"].dtype == np.int8
        assert outcome.attrs["flag_meanings"] == " ".join(OUTCOME_NAMES)


def test_groups_hold_several_portraits(portrait, tmp_path):
    path = tmp_path / "portraits.nc"
    other = phase_portrait(depth=2, gamma=GAMMA, eta=ETA, steps=50)
    portrait.save(path, group="three")
    other.save(path, group="two", mode="a")
    xr.testing.assert_identical(PhasePortrait.load(path, group="three").data, portrait.data)
    xr.testing.assert_identical(PhasePortrait.load(path, group="two").data, other.data)
    with pytest.raises(InputError, match=r"^portrait = "):
        PhasePortrait.load(path, group="four")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_bad_input(portrait, tmp_path, share):
    portrait.save(tmp_path / "whole.nc")
    whole = (tmp_path / "whole.nc").read_bytes()
    path = tmp_path / "cut.nc"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"^portrait = .*cut\.nc") as caught:
        PhasePortrait.load(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_something_else_is_bad_input(tmp_path):
    text = tmp_path / "notes.nc"
    text.write_text("not a portrait\n" * 100)
    for path in (text, tmp_path, tmp_path / "missing.nc"):
        with pytest.raises(InputError, match=r"^portrait = "):
            PhasePortrait.load(path)


@pytest.mark.parametrize("absent", [*sorted(VARIABLES), "gamma"])
def test_a_foreign_dataset_is_bad_input_and_says_what_it_lacks(portrait, tmp_path, absent):
    path = tmp_path / "foreign.nc"
    portrait.data.drop_vars(absent).to_netcdf(path)
    with pytest.raises(InputError, match=absent):
        PhasePortrait.load(path)


@pytest.mark.parametrize("absent", ["noise_free", "threshold_settle"])
def test_a_portrait_without_the_attributes_it_needs_is_bad_input(portrait, tmp_path, absent):
    data = portrait.data.copy()
    del data.attrs[absent]
    data.to_netcdf(tmp_path / "bare.nc")
    with pytest.raises(InputError, match=absent):
        PhasePortrait.load(tmp_path / "bare.nc").boundary("eta_crit")


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("gamma", {"gamma": [0.0, 1.0]}),
        ("gamma", {"gamma": [-1.0, 1.0]}),
        ("gamma", {"gamma": [1.0, math.nan]}),
        ("gamma", {"gamma": [1.0, math.inf]}),
        ("gamma", {"gamma": [2.0, 1.0]}),
        ("gamma", {"gamma": [1.0, 1.0]}),
        ("gamma", {"gamma": []}),
        ("gamma", {"gamma": 1.0}),
        ("gamma", {"gamma": [[1.0, 2.0]]}),
        ("gamma", {"gamma": ["one"]}),
        ("gamma", {"gamma": [1 + 1j]}),
        ("eta", {"eta": [0.0]}),
        ("eta", {"eta": [-1e-3]}),
        ("eta", {"eta": [math.nan]}),
        ("eta", {"eta": [1.0, 0.5]}),
        ("depth", {"depth": 0}),
        ("depth", {"depth": 2.5}),
        ("depth", {"depth": 2.0}),
        ("depth", {"depth": "3"}),
        ("steps", {"steps": 0}),
        ("steps", {"steps": -5}),
        ("steps", {"steps": 10.0}),
        ("loss", {"loss": "hinge"}),
        ("loss", {"loss": None}),
    ],
)
def test_bad_input_names_its_field(field, change):
    arguments = {"gamma": [1.0, 2.0], "eta": [0.1, 0.2], "depth": 2, "steps": 10, "loss": "mse"} | change
    with pytest.raises(InputError) as caught:
        phase_portrait(**arguments)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field} = ")
    assert "\n" not in str(caught.value)


# --- regression -----------------------------------------------------------------------------------------------------

# L = 3, T = 1000, γ from 10⁻³ to 10⁴ downwards, η to the right. "?" marks the cells whose outcome hangs on the last
# bits or on a change of η by 1 %: those of the fractal band.
LETTERS = {".": "not_run", "u": "untrained", "t": "trained", "c": "catapult", "x": "unstable", "D": "diverged"}
PORTRAITS = {
    "mse": (
        (1e-9, 1e5),
        """
        ttttDDDDDDDDDDDDDD
        tttttxDDDDDDDDDDDD
        uttttttDDDDDDDDDDD
        uuuttttttDDDDDDDDD
        uuuuutttttDDDDDDDD
        uuuuuutttttDDDDDDD
        uuuuuuuutttt?DDDDD
        uuuuuuuuuttttDDDDD
        uuuuuuuuuutttDDDDD
        uuuuuuuuuuutttDDDD
        uuuuuuuuuuuuttDDDD
        uuuuuuuuuuuuuttDDD
        """,
    ),
    "cross-entropy": (
        (1e-7, 1e7),
        """
        ttxxxxDDDDDDDDDDDD
        ttttxxxDDDDDDDDDDD
        ttttt?x?DDDDDDDDDD
        uttttttxDDDDDDDDDD
        uuutttttxDDDDDDDDD
        uuuuttttttDDDDDDDD
        uuuuuutttttDDDDDDD
        uuuuuuuttttDDDDDDD
        uuuuuuuuttttDDDDDD
        uuuuuuuuutttDDDDDD
        uuuuuuuuuutttDDDDD
        uuuuuuuuuuutt?DDDD
        """,
    ),
}


@pytest.mark.parametrize("loss", PORTRAITS)
def test_the_portrait_of_three_layers(loss):
    (low, high), rows = PORTRAITS[loss]
    made = phase_portrait(
        loss=loss, depth=3, gamma=np.geomspace(1e-3, 1e4, 12), eta=np.geomspace(low, high, 18), steps=1000
    )
    expected = np.array([list(row) for row in rows.split()])
    letter = {name: code for code, name in LETTERS.items()}
    found = np.array([[letter[OUTCOME_NAMES[cell]] for cell in row] for row in made.data["outcome"].values[..., 0]])
    sure = expected != "?"
    np.testing.assert_array_equal(np.where(sure, found, "?"), expected)


# --- seeds, blocks and size -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["gd", "momentum", "sign"])
def test_seeds_of_the_noise_are_a_dimension(optimizer):
    noise, seeds, gamma, eta = Noise(label=0.2, batch=6), (7, 2, 30), [0.1, 10.0], [1e-3, 0.01, 0.1]
    made = phase_portrait(
        depth=2, gamma=gamma, eta=eta, steps=300, noise=noise, seeds=seeds, optimizer=optimizer, beta=0.5
    )
    assert made.data["seed"].values.tolist() == list(seeds)
    for g, strength in enumerate(gamma):
        for e, rate in enumerate(eta):
            for s, seed in enumerate(seeds):
                alone = run_gradient_descent(
                    [strength], [rate], depth=2, steps=300, noise=noise, seed=seed, optimizer=optimizer, beta=0.5
                )
                for name, values in alone.fields().items():
                    np.testing.assert_array_equal(made.data[name].values[g, e, s], values[0], err_msg=name)
    assert len(np.unique(made.data["final_loss"].values[0, 0])) == 3
    assert (made.data.attrs["label_noise"], made.data.attrs["batch"], made.data.attrs["noise_free"]) == (0.2, 6, 0)
    assert made.data.attrs.get("beta") == (0.5 if optimizer == "momentum" else None)


@pytest.mark.parametrize("cells_a_block", [1, 37, 111, 250, 10**6])
def test_blocks_give_the_same_portrait(portrait, monkeypatch, cells_a_block):
    monkeypatch.setattr(portrait_module, "BLOCK_CELLS", cells_a_block)
    seen = []

    def run_block(run, gamma):
        seen.append(gamma)
        return run()

    made = phase_portrait(loss="mse", depth=3, gamma=GAMMA, eta=ETA, steps=500, run_block=run_block)
    xr.testing.assert_identical(made.data, portrait.data)
    np.testing.assert_array_equal(np.concatenate(seen), GAMMA)
    # whole columns: as many as fit, and one where not even one does
    assert max(len(columns) for columns in seen) == min(5, max(1, cells_a_block // len(ETA)))


def test_results_of_a_block_may_come_from_elsewhere():
    # a hook that has the results already need not run anything
    kept = run_gradient_descent(np.repeat([1.0, 2.0], 3), np.tile([0.1, 0.2, 0.3], 2), depth=2, steps=50)
    made = phase_portrait(
        depth=2, gamma=[1.0, 2.0], eta=[0.1, 0.2, 0.3], steps=10**12, run_block=lambda _run, _gamma: kept
    )
    np.testing.assert_array_equal(made.data["final_loss"].values.ravel(), kept.final_loss)


@pytest.mark.parametrize(("sides", "seeds"), [((150_000, 170_000), 1), ((9_000, 11_000), 10_000)])
def test_a_grid_beyond_the_memory_is_refused_before_any_is_taken(sides, seeds):
    gamma, eta = np.geomspace(1e-3, 1e3, sides[0]), np.geomspace(1e-3, 1e3, sides[1])
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=rf"^grid = .*{sides[0]} x {sides[1]} x {seeds}") as caught:
            phase_portrait(depth=3, gamma=gamma, eta=eta, steps=10**6, seeds=range(seeds))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20e6  # copies of the axes, and nothing of the size of the grid
    assert "GiB" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("field", "seeds"), [("seeds", ()), ("seeds", (1, 1)), ("seed", (0, -1))])
def test_bad_seeds_are_bad_input(field, seeds):
    with pytest.raises(InputError) as caught:
        phase_portrait(depth=2, gamma=[1.0], eta=[0.1], steps=10, noise=Noise(batch=2), seeds=seeds)
    assert caught.value.field == field
