"""Watches a training run: evaluates chosen measurements at chosen steps and collects them in one labelled dataset.

    recorder = Recorder({"euler_degree": lambda nets: euler_degree(nets, x)})
    ensemble.run(T, probe=recorder, probe_steps=recorded_steps(T))
    recorder.dataset(ensemble)          # dims cell, step; coordinates gamma, eta, seed, tau

A probe is shown the cells of a run group by group and seed by seed, and no longer shown those that are decided. Here
they are put together again: every cell of the run has its row, NaN from the step on at which it was gone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from empirical.networks import Networks
from theory.errors import InputError, positive_integer

Function = Callable[[Networks], ArrayLike]
"""Gives one row a cell, ``(cells, …)``, of the same shape at every step; a row depends on its own cell alone."""


@dataclass(frozen=True)
class Measurement:
    """A measurement with what its entry in the dataset should say.

    Attributes:
        function: what is evaluated.
        dims: names of the dimensions after cell and step; made up from the measurement's name when there are none.
        units: ``"1"`` for pure numbers.
        description: a phrase, kept as ``long_name``.
        steps: when it is made; at every step that the recorder is shown when ``None``.
    """

    function: Function
    dims: tuple[str, ...] = ()
    units: str = "1"
    description: str = ""
    steps: frozenset[int] | None = None


class CellTable(Protocol):
    """What says which cells a run has: an ``Ensemble``, or a ``Block`` of a sweep."""

    @property
    def gamma(self) -> ArrayLike:
        """Feature-learning strength of each cell."""

    @property
    def eta(self) -> ArrayLike:
        """Learning rate of each cell before the width multiplier."""

    @property
    def seed(self) -> ArrayLike:
        """Seed of each cell."""


def recorded_steps(steps: int, points: int = 40) -> NDArray[np.int64]:
    """Log-spaced steps that include the start and the end.

    Args:
        steps: budget T.
        points: how many to aim for.

    Returns:
        Ascending steps from 0 to T, without repeats.
    """
    positive_integer("steps", steps)
    return np.union1d(0, np.round(np.geomspace(1, steps, max(points - 1, 2))).astype(np.int64))


class Recorder:
    """A probe that keeps measurements.

    Args:
        measurements: by the name that each gets in the dataset; functions of ``Networks``, or ``Measurement``.

    Raises:
        InputError: no measurements, or a name that a coordinate has.
    """

    def __init__(self, measurements: Mapping[str, Function | Measurement]) -> None:
        taken = {"cell", "step", "gamma", "eta", "seed", "tau"}
        if not measurements or taken & set(measurements):
            raise InputError("measurements", sorted(measurements), f"at least one, none named {sorted(taken)}")
        self.measurements = {
            name: given if isinstance(given, Measurement) else Measurement(given)
            for name, given in measurements.items()
        }
        self._rows: dict[str, dict[tuple[int, int], NDArray[np.float64]]] = {name: {} for name in self.measurements}

    def __call__(self, step: int, networks: Networks) -> None:
        """Measure some cells at a step.

        Args:
            step: number of updates t.
            networks: the cells.

        Raises:
            InputError: a measurement that does not give one row a cell, or whose rows change shape.
        """
        for name, measurement in self.measurements.items():
            if measurement.steps is not None and step not in measurement.steps:
                continue
            values = np.asarray(measurement.function(networks), dtype=np.float64)
            if values.ndim == 0 or len(values) != len(networks):
                raise InputError(name, values.shape, f"one row for each of the {len(networks)} cells")
            rows = self._rows[name]
            known = next(iter(rows.values())).shape if rows else values.shape[1:]
            if values.shape[1:] != known:
                raise InputError(name, values.shape[1:], f"of the shape it had before, {known}")
            for cell, row in zip(networks.cells, values, strict=True):
                rows[int(cell), int(step)] = row.copy()

    def values(self, name: str, cells: int, steps: Sequence[int]) -> NDArray[np.float64] | None:
        """One measurement as an array.

        Args:
            name: of the measurement.
            cells: cells of the run.
            steps: the steps that are wanted.

        Returns:
            Shape ``(cells, steps, …)``, NaN where there is nothing; ``None`` where it was never made.
        """
        rows, column = self._rows[name], {int(step): i for i, step in enumerate(steps)}
        if not rows:
            return None
        values = np.full((cells, len(column), *next(iter(rows.values())).shape), np.nan)
        for (cell, step), row in rows.items():
            if step in column:
                values[cell, column[step]] = row
        return values

    def dataset(self, cells: CellTable) -> xr.Dataset:
        """Everything measured so far.

        Args:
            cells: the run's γ, η and seeds, one entry a cell.

        Returns:
            One variable for each measurement that was made, dims ``cell, step, …``, float64, NaN where a cell was not
            shown; coordinates ``gamma, eta, seed`` along ``cell`` and τ = ηt/γ, ``tau``, along both.

        Raises:
            InputError: nothing was measured, cells beyond the table, or names of dimensions that do not fit.
        """
        gamma, eta = (np.asarray(values, dtype=np.float64) for values in (cells.gamma, cells.eta))
        shown = {key for rows in self._rows.values() for key in rows}
        if not shown:
            raise InputError("recorder", "nothing measured", "given to a run as probe, with probe_steps")
        if max(cell for cell, _ in shown) >= len(gamma):
            raise InputError("cells", len(gamma), "the table of the run that was recorded")
        steps = np.array(sorted({step for _, step in shown}), dtype=np.int64)
        data = xr.Dataset(
            coords={
                "cell": np.arange(len(gamma)),
                "step": ("step", steps, {"units": "1", "long_name": "number of updates t"}),
                "gamma": ("cell", gamma, {"units": "1", "long_name": "feature-learning strength"}),
                "eta": ("cell", eta, {"units": "1", "long_name": "learning rate before the width multiplier"}),
                "seed": ("cell", np.asarray(cells.seed, dtype=np.int64), {"long_name": "seed"}),
                "tau": (
                    ("cell", "step"),
                    (eta / gamma)[:, None] * steps,
                    {"units": "1", "long_name": "rescaled time eta t / gamma"},
                ),
            }
        )
        for name, measurement in self.measurements.items():
            values = self.values(name, len(gamma), steps.tolist())
            if values is None:
                continue
            dims = measurement.dims or tuple(f"{name}_{axis}" for axis in range(values.ndim - 2))
            if len(dims) != values.ndim - 2:
                raise InputError(f"dims of {name}", dims, f"{values.ndim - 2} names")
            about = {"units": measurement.units, "long_name": measurement.description or name.replace("_", " ")}
            data[name] = (("cell", "step", *dims), values, about)
        return data

    def save(self, path: Path | str, cells: CellTable) -> Path:
        """Write the dataset as NetCDF: beside its place, then renamed, so that a reader never sees half a file.

        Args:
            path: the file.
            cells: as in ``dataset``.

        Returns:
            The file.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            self.dataset(cells).to_netcdf(temporary, engine="netcdf4")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path


def load_record(path: Path | str) -> xr.Dataset:
    """Read what ``Recorder.save`` wrote.

    Args:
        path: the file.

    Returns:
        The dataset, in memory.

    Raises:
        InputError: not a readable NetCDF file of a recorder.
    """
    try:
        data = xr.load_dataset(path, engine="netcdf4")
    except (OSError, ValueError, KeyError) as error:
        raise InputError("path", str(path), f"a readable NetCDF file ({error})") from None
    if not {"cell", "step", "gamma", "eta", "seed"} <= set(data.variables):
        raise InputError("path", str(path), "a file that a Recorder saved")
    return data
