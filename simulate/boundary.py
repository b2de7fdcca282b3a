"""Where a boundary of the γ–η plane lies: brackets seen from below, traced by multisection with a guard scan.

A *line* is one γ (and one seed) with the learning rates run so far. On it every boundary is the first cell that fails,
scanning up from small η, never the last that succeeds: above a boundary isolated learning rates still succeed, and the
set of them is fractal. One definition serves dense grids and traces, toy models and trained networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from simulate.outcomes import DEFAULT_THRESHOLDS, CellResults, Outcome, Thresholds
from theory.errors import InputError, one_of, positive_integer, positive_number

BOUNDARIES = ("eta_min", "eta_crit", "eta_fail", "eta_max", "eta_star")

GOLDEN_RATIO = 0.6180339887498949
"""Step of the low-discrepancy sequence that dithers the scans. A scan that starts at a fixed multiple of the law puts
the boundary at the same place of its bracket on every line; the errors of all brackets then agree, and a drift of the
boundary shows as one jump of a whole bracket. Scans are shifted by this sequence in units of the final resolution, so
that bracket errors are as independent as the fit takes them to be. (In units of the coarse step the sequence aliases
with the resolution, 0.5 · 0.618 = 30.9 · 0.01, and draws a slope of its own.)"""

FATAL = (Outcome.DEAD, Outcome.DIVERGED)
FAILED = (Outcome.UNSTABLE, *FATAL)

RunCells = Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]], CellResults]
"""Runs cells given as three arrays (γ, η, seed) of one length."""


@dataclass(frozen=True)
class BoundaryPoints:
    """Points of one boundary, each with the bracket that holds it; all arrays have one entry a point.

    Attributes:
        name: ``eta_min``, ``eta_crit``, ``eta_fail``, ``eta_max`` or ``eta_star``.
        gamma: feature-learning strength.
        seed: seed of the line (0 for a noise-free toy).
        eta: the boundary: geometric mean of the bracket (for ``eta_star`` the best cell itself).
        eta_low: last cell below the boundary.
        eta_high: first cell at or above it.
    """

    name: str
    gamma: NDArray[np.float64]
    seed: NDArray[np.int64]
    eta: NDArray[np.float64]
    eta_low: NDArray[np.float64]
    eta_high: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.gamma)

    def table(self) -> pd.DataFrame:
        """The points as the columns of ``boundaries.csv``.

        Returns:
            One row a point: ``seed, boundary, gamma, eta, eta_low, eta_high``.
        """
        columns = ("gamma", "eta", "eta_low", "eta_high")
        return pd.DataFrame({"seed": self.seed, "boundary": self.name} | {c: getattr(self, c) for c in columns})


def collect(name: str, rows: Iterable[tuple[float, int, float, float, float]]) -> BoundaryPoints:
    """Gather points into arrays.

    Args:
        name: the boundary.
        rows: tuples (γ, seed, η, η_low, η_high).

    Returns:
        The points, sorted by seed and then γ.
    """
    array = np.array(sorted(rows, key=lambda row: (row[1], row[0])), dtype=np.float64).reshape(-1, 5)
    gamma, seed, eta, low, high = array.T
    return BoundaryPoints(name, gamma, seed.astype(np.int64), eta, low, high)


def find_bracket(
    name: str,
    outcome: NDArray[np.int8],
    final_loss: NDArray[np.float64],
    peak_loss: NDArray[np.float64],
    initial_loss: NDArray[np.float64],
    *,
    noise_free: bool,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> tuple[int, int] | None:
    """Find a boundary on one line of cells with ascending η, all of which have been run.

    Args:
        name: the boundary.
        outcome: ``Outcome`` values, shape ``(cells,)``.
        final_loss: tails, same shape.
        peak_loss: peaks, same shape.
        initial_loss: L₀, same shape.
        noise_free: whether cells can settle; ``eta_crit`` is then the loss of linear stability (first tail above
            ``settle`` · L₀, or peak above ``peak`` · L₀, after the first settled cell), otherwise the first cell
            that is not ``trained``.
        thresholds: the numbers in the definitions.

    Returns:
        Positions (last cell below, first cell above), or ``None`` when the line does not show the boundary.
    """
    if name == "eta_star":
        if not np.isfinite(final_loss).any():
            return None
        best = int(np.nanargmin(final_loss))
        return max(best - 1, 0), min(best + 1, len(outcome) - 1)
    trained = outcome == Outcome.TRAINED
    if name == "eta_min":
        band, failed = np.ones(len(outcome), dtype=bool), trained
    elif name == "eta_crit" and noise_free:
        with np.errstate(invalid="ignore"):
            band = (final_loss <= thresholds.settle * initial_loss) & (peak_loss <= thresholds.peak * initial_loss)
        failed = ~band
    elif name == "eta_crit":
        band, failed = trained, ~trained
    elif name == "eta_fail":
        band, failed = trained, np.isin(outcome, FAILED)
    else:
        band, failed = np.ones(len(outcome), dtype=bool), np.isin(outcome, FATAL)
    start = int(np.argmax(band))
    if not band.any() or not failed[start:].any():
        return None
    first = start + int(np.argmax(failed[start:]))
    return (first - 1, first) if first > 0 else None


class Line:
    """The cells run so far at one (γ, seed), kept in order of η.

    Args:
        gamma: feature-learning strength.
        seed: seed.
        dither: share of the final resolution, in [0, 1), by which the first scan of a trace starts lower.
    """

    def __init__(self, gamma: float, seed: int, dither: float = 0.0) -> None:
        self.gamma, self.seed, self.dither = gamma, seed, dither
        self.eta = np.empty(0)
        self._cells: dict[str, NDArray] = {}

    def add(self, eta: NDArray[np.float64], cells: dict[str, NDArray]) -> None:
        """Merge newly run cells.

        Args:
            eta: their learning rates, shape ``(new,)``.
            cells: the fields of ``CellResults`` restricted to them.
        """
        merged = np.concatenate([self.eta, eta])
        order = np.argsort(merged, kind="stable")
        self.eta = merged[order]
        for name, values in cells.items():
            held = self._cells.get(name, np.empty(0, dtype=values.dtype))
            self._cells[name] = np.concatenate([held, values])[order]

    def bracket(self, name: str, *, noise_free: bool, thresholds: Thresholds) -> tuple[float, float, float] | None:
        """Locate a boundary on this line.

        Args:
            name: the boundary.
            noise_free: as in ``find_bracket``.
            thresholds: as in ``find_bracket``.

        Returns:
            (η, η_low, η_high), or ``None`` when the cells run so far do not show it.
        """
        run = np.asarray(self._cells["outcome"] != Outcome.NOT_RUN)
        eta = self.eta[run]
        if eta.size == 0:
            return None
        cells = [self._cells[k][run] for k in ("outcome", "final_loss", "peak_loss", "initial_loss")]
        found = find_bracket(name, *cells, noise_free=noise_free, thresholds=thresholds)
        if found is None:
            return None
        low, high = float(eta[found[0]]), float(eta[found[1]])
        if name == "eta_star":
            return float(eta[np.nanargmin(cells[1])]), low, high
        return float(np.sqrt(low * high)), low, high


@dataclass(frozen=True)
class TraceSettings:
    """How finely a boundary is traced; widths are in decades of η.

    Attributes:
        coarse: spacing of the first scan.
        resolution: widest final bracket.
        sections: parts into which a bracket is cut in one round.
        guard_span: how far below each bracket the guard scan looks for an earlier failure.
        guard_spacing: widest gap that it leaves there.
        extend: how far a scan that has not met the boundary is extended, in total, to either side.
        max_rounds: rounds after which a line that still moves is given up.
    """

    coarse: float = 0.25
    resolution: float = 0.02
    sections: int = 4
    guard_span: float = 0.25
    guard_spacing: float = 0.06
    extend: float = 3.0
    max_rounds: int = 100

    def __post_init__(self) -> None:
        for name in ("coarse", "resolution", "guard_span", "guard_spacing"):
            positive_number(f"trace.{name}", getattr(self, name))
        positive_integer("trace.sections", self.sections, least=2)
        positive_integer("trace.max_rounds", self.max_rounds)
        if not self.extend >= 0:
            raise InputError("trace.extend", self.extend, "a number of decades >= 0")


def _log_points(low: float, high: float, count: int) -> NDArray[np.float64]:
    """``count`` points strictly between two learning rates, evenly spaced in ln η."""
    return np.exp(np.linspace(np.log(low), np.log(high), count + 2)[1:-1])


def _refine(line: Line, low: float, high: float, settings: TraceSettings) -> NDArray[np.float64]:
    """Next cells for a line whose bracket is known: cut the bracket, or guard what lies below it."""
    width = np.log10(high / low)
    if width > settings.resolution * (1 + 1e-9):
        sections = min(settings.sections, int(np.ceil(width / settings.resolution - 1e-9)))
        return _log_points(low, high, max(sections - 1, 1))
    floor = low / 10**settings.guard_span
    below = np.append(line.eta[(line.eta <= low) & (line.eta > floor)], low)
    edges = np.unique(np.append(below, max(floor, line.eta[0])))
    wanted: list[NDArray[np.float64]] = []
    for left, right in pairwise(edges):
        gap = np.log10(right / left)
        count = int(np.ceil(gap / settings.guard_spacing - 1e-9)) - 1
        if count > 0:
            wanted.append(_log_points(left, right, count))
    return np.concatenate(wanted) if wanted else np.empty(0)


def _next_cells(
    line: Line,
    names: tuple[str, ...],
    span: tuple[float, float],
    settings: TraceSettings,
    noise_free: bool,
    thresholds: Thresholds,
) -> NDArray[np.float64]:
    """Choose the next cells of a line.

    Returns:
        Learning rates that it still needs; empty when every boundary is settled or out of reach.

    Raises:
        InputError: a span that does not ascend.
    """
    if line.eta.size == 0:
        if not 0 < span[0] < span[1]:
            raise InputError("span", span, "(low, high) with 0 < low < high")
        low = span[0] / 10 ** (settings.resolution * line.dither)
        count = int(np.ceil(np.log10(span[1] / low) / settings.coarse - 1e-9)) + 1
        return np.asarray(low * 10 ** (settings.coarse * np.arange(count)), dtype=np.float64)
    wanted: list[NDArray[np.float64]] = []
    for name in names:
        found = line.bracket(name, noise_free=noise_free, thresholds=thresholds)
        if found is not None and name != "eta_star":
            wanted.append(_refine(line, found[1], found[2], settings))
        elif found is None:
            lowest, highest = line.eta[0], line.eta[-1]
            # The band lies to one side or the other: a scan that has already met a failure needs smaller η.
            failing = np.isin(line._cells["outcome"], FATAL if name == "eta_max" else FAILED).any()
            if (failing or name == "eta_min") and lowest > span[0] / 10**settings.extend * (1 + 1e-9):
                wanted.append(lowest / 10 ** (settings.coarse * np.arange(1, 5)))
            elif not failing and highest < span[1] * 10**settings.extend * (1 - 1e-9):
                wanted.append(highest * 10 ** (settings.coarse * np.arange(1, 5)))
    asked = np.unique(np.concatenate(wanted)) if wanted else np.empty(0)
    return asked[~np.isin(asked, line.eta)]


def trace_boundaries(
    run: RunCells,
    gamma: NDArray[np.float64],
    names: tuple[str, ...],
    span: Callable[[float], tuple[float, float]],
    *,
    seeds: tuple[int, ...] = (0,),
    settings: TraceSettings | None = None,
    noise_free: bool = False,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> dict[str, BoundaryPoints]:
    """Trace boundaries by multisection; all lines go on together, and each round is one call of ``run``.

    A line is scanned coarsely, each bracket is cut until it is narrower than ``resolution``, and the cells below it
    are filled in to ``guard_spacing``; a failure found there moves the bracket down and the refinement starts again.

    Args:
        run: runs the cells of one round.
        gamma: feature-learning strengths to trace at, shape ``(lines,)``.
        names: the boundaries to trace; ``eta_star`` is read off the cells that the others need.
        span: the first range of η for a γ, from theory.
        seeds: one line for each γ and each of these.
        settings: spacings and resolutions; the defaults of ``TraceSettings`` when ``None``.
        noise_free: as in ``find_bracket``.
        thresholds: as in ``find_bracket``.

    Returns:
        The points of each boundary; a line whose boundary was not met within reach has none.

    Raises:
        InputError: an unknown boundary, or a span that does not ascend.
    """
    settings = settings or TraceSettings()
    for name in names:
        one_of("boundary", name, BOUNDARIES)
    pairs = [(float(g), int(s)) for s in seeds for g in gamma]
    lines = [Line(g, s, dither=(i * GOLDEN_RATIO) % 1.0) for i, (g, s) in enumerate(pairs)]
    for _ in range(settings.max_rounds):
        asked = [_next_cells(line, names, span(line.gamma), settings, noise_free, thresholds) for line in lines]
        sizes = [len(etas) for etas in asked]
        if sum(sizes) == 0:
            break
        cells = run(
            np.repeat([line.gamma for line in lines], sizes),
            np.concatenate(asked),
            np.repeat(np.array([line.seed for line in lines], dtype=np.int64), sizes),
        )
        ends = np.cumsum(sizes)
        for line, etas, end in zip(lines, asked, ends, strict=True):
            part = slice(end - len(etas), end)
            line.add(etas, {name: values[part] for name, values in cells.fields().items()})
    out = {}
    for name in names:
        found = [(line, line.bracket(name, noise_free=noise_free, thresholds=thresholds)) for line in lines]
        out[name] = collect(name, ((line.gamma, line.seed, *point) for line, point in found if point is not None))
    return out
