"""The phase portrait: outcomes and losses on a grid of (γ, η, seed), and the boundaries read off it.

One labelled dataset serves toy models and trained networks; it is what ``portrait.nc`` holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from simulate import netcdf
from simulate.boundary import BOUNDARIES, BoundaryPoints, Line, collect
from simulate.gradient_descent import run_gradient_descent
from simulate.maps.noise import NO_NOISE, Noise
from simulate.outcomes import DEFAULT_THRESHOLDS, OUTCOME_NAMES, CellResults, Outcome, Thresholds
from theory.errors import InputError, one_of, positive_array

_DIMS = ("gamma", "eta", "seed")
_LONG_NAMES = {
    "outcome": "outcome of training",
    "final_loss": "mean excess loss over the tail",
    "initial_loss": "excess loss before the first step",
    "peak_loss": "largest excess loss",
    "final_accuracy": "accuracy at the end",
    "steps_run": "steps until the outcome was decided",
}


def axis(field: str, values: ArrayLike) -> NDArray[np.float64]:
    """Check one axis of a grid.

    Args:
        field: ``"gamma"`` or ``"eta"``, shown in errors.
        values: its points.

    Returns:
        The points as a float64 vector.

    Raises:
        InputError: not one-dimensional, not positive and finite, or not strictly ascending.
    """
    checked = positive_array(field, values)
    if checked.ndim != 1:
        raise InputError(field, checked.shape, "a vector of grid points")
    if not (np.diff(checked) > 0).all():
        raise InputError(field, "not ascending", "strictly ascending")
    return checked


@dataclass(frozen=True)
class PhasePortrait:
    """A phase portrait in the γ–η plane.

    Attributes:
        data: dataset with dimensions ``gamma, eta, seed`` and variables ``outcome`` (a CF flag variable),
            ``final_loss, initial_loss, peak_loss, final_accuracy, steps_run``; its attributes say what was run
            (``arch, depth, loss, optimizer, steps, noise_free`` and the thresholds).
    """

    data: xr.Dataset

    @classmethod
    def from_cells(
        cls,
        cells: CellResults,
        gamma: NDArray[np.float64],
        eta: NDArray[np.float64],
        seeds: tuple[int, ...] = (0,),
        *,
        thresholds: Thresholds = DEFAULT_THRESHOLDS,
        **attributes: str | int | float,
    ) -> PhasePortrait:
        """Put results on their grid.

        Args:
            cells: one entry a cell, ordered with γ slowest and the seed fastest.
            gamma: grid of γ, ascending.
            eta: grid of η, ascending.
            seeds: the seeds.
            thresholds: those that named the outcomes; kept in the attributes.
            **attributes: what was run, kept with the data.

        Returns:
            The portrait.
        """
        shape = (len(gamma), len(eta), len(seeds))
        data = xr.Dataset(
            {name: (_DIMS, values.reshape(shape)) for name, values in cells.fields().items()},
            coords={"gamma": gamma, "eta": eta, "seed": np.asarray(seeds, dtype=np.int64)},
            attrs=dict(attributes) | {f"threshold_{k}": v for k, v in vars(thresholds).items()},
        )
        for name, text in _LONG_NAMES.items():
            data[name].attrs["long_name"] = text
        data["outcome"].attrs |= {
            "flag_values": np.arange(len(OUTCOME_NAMES), dtype=np.int8),
            "flag_meanings": " ".join(OUTCOME_NAMES),
        }
        data["gamma"].attrs["long_name"] = "feature-learning strength"
        data["eta"].attrs["long_name"] = "learning rate, before the width multiplier"
        return cls(data)

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds that named the outcomes."""
        fields = Thresholds.__dataclass_fields__
        return Thresholds(**{name: float(self.data.attrs[f"threshold_{name}"]) for name in fields})

    def boundary(self, name: str) -> BoundaryPoints:
        """Read a boundary off the grid, seen from below; cells that were not run are passed over.

        Args:
            name: ``eta_min``, ``eta_crit``, ``eta_fail``, ``eta_max`` or ``eta_star``.

        Returns:
            One point for each (γ, seed) whose column shows the boundary; the bracket is a step of the grid.

        Raises:
            InputError: an unknown name.
        """
        one_of("boundary", name, BOUNDARIES)
        rows = []
        for s, seed in enumerate(self.data["seed"].values):
            for g, gamma in enumerate(self.data["gamma"].values):
                line = Line(float(gamma), int(seed))
                column = self.data.isel(gamma=g, seed=s)
                line.add(self.data["eta"].values, {name: column[name].values for name in _LONG_NAMES})
                found = line.bracket(name, noise_free=bool(self.data.attrs["noise_free"]), thresholds=self.thresholds)
                if found is not None:
                    rows.append((float(gamma), int(seed), *found))
        return collect(name, rows)

    def most_common_outcome(self) -> NDArray[np.int8]:
        """The outcome of most seeds in each cell; of equally common ones the worst.

        Returns:
            ``Outcome`` values, shape ``(gamma, eta)``.
        """
        votes = np.stack([(self.data["outcome"].values == o).sum(axis=-1) for o in Outcome], axis=-1)
        return (len(Outcome) - 1 - np.argmax(votes[..., ::-1], axis=-1)).astype(np.int8)

    def save(self, path: Path | str, *, group: str | None = None, mode: str = "w") -> None:
        """Write the portrait as NetCDF.

        Args:
            path: the file.
            group: NetCDF group; the root when ``None``.
            mode: ``"w"`` for a new file, ``"a"`` to add a group.
        """
        self.data.to_netcdf(path, mode=mode, group=group, engine="netcdf4")  # type: ignore[call-overload]

    @classmethod
    def load(cls, path: Path | str, *, group: str | None = None) -> PhasePortrait:
        """Read a portrait that ``save`` wrote.

        Args:
            path: the file.
            group: NetCDF group.

        Returns:
            The portrait, in memory.

        Raises:
            InputError: not a readable NetCDF file, or one without the variables and attributes of a portrait.
        """
        needed = ("noise_free", *(f"threshold_{name}" for name in Thresholds.__dataclass_fields__))
        return cls(netcdf.load(path, "phase portrait", (*_LONG_NAMES, *_DIMS), needed, group=group))


BLOCK_CELLS = 16_384
"""Cells that ``phase_portrait`` runs at a time, in whole columns: between blocks it can be stopped."""

BYTES_PER_CELL = 160
"""Memory that a cell needs while it is run: some twenty float64 numbers."""

RunBlock = Callable[[Callable[[], CellResults], NDArray[np.float64]], CellResults]
"""Given a function that runs a block of columns and the γ of these columns, returns the block's results."""


def check_grid(gamma: int, eta: int, seeds: int = 1) -> None:
    """Refuse a grid that does not fit into memory, before anything is made of that size.

    Args:
        gamma: points along γ.
        eta: points along η.
        seeds: number of seeds.

    Raises:
        InputError: the grid needs more than this machine's memory.
    """
    needed, there = gamma * eta * seeds * BYTES_PER_CELL, _memory()
    if needed > there:
        raise InputError(
            "grid",
            f"{gamma} x {eta} x {seeds} cells (gamma x eta x seeds)",
            f"at most {there // BYTES_PER_CELL:.3g} cells in {there / 2**30:.3g} GiB of memory; "
            f"this one needs {needed / 2**30:.3g} GiB",
        )


def _memory() -> int:
    """Bytes of memory of this machine; where it does not say, a modest one is assumed."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 * 2**30


def _all_at_once(run: Callable[[], CellResults], _gamma: NDArray[np.float64]) -> CellResults:
    return run()


def phase_portrait(
    *,
    loss: str = "mse",
    depth: int,
    gamma: ArrayLike,
    eta: ArrayLike,
    steps: int = 10_000,
    optimizer: str = "gd",
    beta: float = 0.9,
    noise: Noise = NO_NOISE,
    seeds: Sequence[int] = (0,),
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    run_block: RunBlock = _all_at_once,
) -> PhasePortrait:
    """Phase portrait of the scalar deep linear model, descending on its L separate weights.

    Args:
        loss: ``"mse"`` or ``"cross-entropy"``.
        depth: number of weights L.
        gamma: grid of γ, ascending.
        eta: grid of η, ascending (no width multiplier: N = 1).
        steps: budget T in steps.
        optimizer: ``"gd"``, ``"momentum"`` (heavy ball) or ``"sign"``.
        beta: momentum β in [0, 1), for ``"momentum"``.
        noise: of labels and batches; none by default.
        seeds: of the noise; without noise one is enough.
        thresholds: the numbers in the definitions of the outcomes.
        run_block: for keeping blocks of columns and showing progress; runs them as they come by default.

    Returns:
        The portrait.

    Raises:
        InputError: an axis that is not positive and ascending, L or T below 1, an unknown loss or optimizer, β outside
            [0, 1), no seed or a repeated one, a grid too large for memory.
    """
    gammas, etas = axis("gamma", gamma), axis("eta", eta)
    chosen = tuple(int(seed) for seed in seeds)
    if not chosen or len(set(chosen)) != len(chosen):
        raise InputError("seeds", list(seeds), "different integers, at least one")
    check_grid(len(gammas), len(etas), len(chosen))
    per_column = len(etas) * len(chosen)
    parts = []
    for columns in np.array_split(gammas, min(len(gammas), -(-len(gammas) * per_column // BLOCK_CELLS))):

        def run(columns: NDArray[np.float64] = columns) -> CellResults:
            return run_gradient_descent(
                np.repeat(columns, per_column),
                np.tile(np.repeat(etas, len(chosen)), len(columns)),
                depth=depth,
                steps=steps,
                loss=loss,
                optimizer=optimizer,
                beta=beta,
                noise=noise,
                seed=np.tile(np.array(chosen, dtype=np.int64), len(columns) * len(etas)),
                thresholds=thresholds,
            )

        parts.append(run_block(run, columns))
    cells = CellResults(*(np.concatenate(values) for values in zip(*(p.fields().values() for p in parts), strict=True)))
    what: dict[str, str | int | float] = {"arch": "toy", "depth": depth, "loss": loss, "optimizer": optimizer}
    what |= {"steps": steps, "noise_free": int(not noise)}
    if optimizer == "momentum":
        what["beta"] = float(beta)
    if noise:
        what |= {"label_noise": float(noise.label), "batch": noise.batch or 0}
    return PhasePortrait.from_cells(cells, gammas, etas, chosen, thresholds=thresholds, **what)
