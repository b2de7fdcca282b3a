"""Phenomena as detectors: pure functions of curves (or spectra, or boundary points) with written-down definitions.

One file a detector; ``DETECTORS`` is the table of those that take curves of one cell. Each returns a frozen dataclass
with a ``status`` that is ``"ok"`` or says why nothing could be determined. Definitions, equations and limits are in
``docs/phenomena.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from empirical.phenomena.alignment import SilentAlignment, silent_alignment
from empirical.phenomena.bump import Bump, crossover_law, measure_bump
from empirical.phenomena.catapult import Catapult, detect_catapult
from empirical.phenomena.collapse import CurveCollapse, curve_collapse
from empirical.phenomena.curves import Finding, Smooth, smooth_in_log_time
from empirical.phenomena.outliers import Outliers, spectral_outliers
from empirical.phenomena.plateau import PlateauExit, plateau_exit
from empirical.phenomena.power_law import LossPowerLaw, loss_power_law
from empirical.phenomena.sharpening import Sharpening, progressive_sharpening
from empirical.phenomena.staircase import StaircaseSteps, find_staircase
from theory.errors import InputError

DETECTORS: Mapping[str, Callable[..., Finding]] = {
    "catapult": detect_catapult,
    "silent-alignment": silent_alignment,
    "plateau-exit": plateau_exit,
    "staircase": find_staircase,
    "progressive-sharpening": progressive_sharpening,
    "power-law": loss_power_law,
}
"""Detectors by name: each takes the times and one or two curves of one cell."""


def tabulate(
    detector: str,
    times: ArrayLike,
    *curves: ArrayLike,
    per_cell: Mapping[str, Sequence[Any] | np.ndarray] | None = None,
    **shared: Any,
) -> pd.DataFrame:
    """Run a detector on every cell.

    Args:
        detector: a name in ``DETECTORS``.
        times: of the curves, ``(points,)``, shared by the cells.
        *curves: what the detector takes after the times, each ``(cells, points)``.
        per_cell: keyword arguments with one entry a cell, such as ``{"eta": eta}``.
        **shared: keyword arguments that are the same for all cells.

    Returns:
        One row a cell, one column a field; fields that are arrays are left out, intervals become ``…_low`` and
        ``…_high``.

    Raises:
        InputError: an unknown detector, no curves, or numbers of cells that differ.
    """
    if detector not in DETECTORS:
        raise InputError("detector", detector, "one of " + ", ".join(DETECTORS))
    stacks, own = [np.asarray(curve, dtype=np.float64) for curve in curves], dict(per_cell or {})
    sizes = {len(stack) for stack in stacks if stack.ndim == 2} | {len(values) for values in own.values()}
    if not stacks or any(stack.ndim != 2 for stack in stacks) or len(sizes) != 1:
        raise InputError("curves", [stack.shape for stack in stacks], "at least one, each (cells, points), one length")
    rows = []
    for cell in range(len(stacks[0])):
        options = {name: values[cell] for name, values in own.items()} | shared
        rows.append(_row(DETECTORS[detector](times, *(stack[cell] for stack in stacks), **options)))
    return pd.DataFrame(rows)


def _row(finding: Finding) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in vars(finding).items():
        if isinstance(value, tuple):
            row |= {f"{name}_low": value[0], f"{name}_high": value[1]}
        elif not isinstance(value, np.ndarray):
            row[name] = value
    return row


__all__ = [
    "DETECTORS",
    "Bump",
    "Catapult",
    "CurveCollapse",
    "Finding",
    "LossPowerLaw",
    "Outliers",
    "PlateauExit",
    "Sharpening",
    "SilentAlignment",
    "Smooth",
    "StaircaseSteps",
    "crossover_law",
    "curve_collapse",
    "detect_catapult",
    "find_staircase",
    "loss_power_law",
    "measure_bump",
    "plateau_exit",
    "progressive_sharpening",
    "silent_alignment",
    "smooth_in_log_time",
    "spectral_outliers",
    "tabulate",
]
