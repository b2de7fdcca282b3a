"""The phase portrait: outcomes and losses on a grid of (γ, η, seed), and the boundaries read off it.

One labelled dataset serves toy models and trained networks; it is what ``portrait.nc`` holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from simulate.boundary import BOUNDARIES, BoundaryPoints, Line, collect
from simulate.gradient_descent import run_gradient_descent
from simulate.outcomes import DEFAULT_THRESHOLDS, OUTCOME_NAMES, CellResults, Outcome, Thresholds
from theory.errors import InputError, one_of, positive_array, positive_integer

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
        try:
            data = xr.load_dataset(path, group=group, engine="netcdf4")
        except (OSError, ValueError, KeyError) as error:
            raise InputError("portrait", str(path), f"a readable NetCDF phase portrait ({error})") from None
        missing = [name for name in (*_LONG_NAMES, *_DIMS) if name not in data.variables]
        missing += [
            k
            for k in ("noise_free", *(f"threshold_{k}" for k in Thresholds.__dataclass_fields__))
            if k not in data.attrs
        ]
        if missing:
            raise InputError("portrait", str(path), f"a phase portrait; this file lacks {', '.join(missing)}")
        return cls(data)


def phase_portrait(
    *,
    loss: str = "mse",
    depth: int,
    gamma: ArrayLike,
    eta: ArrayLike,
    steps: int = 10_000,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> PhasePortrait:
    """Phase portrait of the scalar deep linear model under gradient descent on its L separate weights.

    Args:
        loss: ``"mse"``.
        depth: number of weights L.
        gamma: grid of γ, ascending.
        eta: grid of η, ascending (no width multiplier: N = 1).
        steps: budget T in steps.
        thresholds: the numbers in the definitions of the outcomes.

    Returns:
        The portrait, with one seed, 0: the model has no noise.

    Raises:
        InputError: an axis that is not positive and ascending, L or T below 1, an unknown loss.
    """
    one_of("loss", loss, ("mse",))
    positive_integer("depth", depth)
    positive_integer("steps", steps)
    gammas, etas = axis("gamma", gamma), axis("eta", eta)
    cells = run_gradient_descent(
        np.repeat(gammas, len(etas)),
        np.tile(etas, len(gammas)),
        depth=depth,
        steps=steps,
        loss=loss,
        thresholds=thresholds,
    )
    what = {"arch": "toy", "depth": depth, "loss": loss, "optimizer": "gd", "steps": steps, "noise_free": 1}
    return PhasePortrait.from_cells(cells, gammas, etas, thresholds=thresholds, **what)  # type: ignore[arg-type]
