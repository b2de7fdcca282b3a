"""eta_star, the learning rate of least final loss: where ln(loss) is lowest along ln η, with an interval.

Near its minimum the loss on one line (γ, seed) is a parabola in ln η,

    ln ℓ(η) = ln ℓ* + (κ/2) (ln η − ln η*)² + noise.

All cells of a line see the same batches, so the noise is what differs from η to η. Cells are added between the best and
its neighbours until they are ``spacing`` apart; the parabola is fitted to the cells within ``RISE`` of the least
loss, and its 95 % interval for ln η* is the bracket. Where there is no such parabola (the best cell is the last that
trains, as it is for networks that learn until the edge) the bracket is the best cell's neighbours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from simulate import BoundaryPoints, CellResults, Outcome
from simulate.boundary import RunCells, collect
from theory.errors import positive_number

SPACING = 0.12
"""Decades between the cells around the best one: a minimum is flat, and finer cells would only sample its noise."""

RISE = 0.5
"""A parabola is fitted to cells whose ln(loss) is at most this far above the least."""

LEAST_CELLS = 5
ROUNDS = 12


class Recording:
    """Runs cells, and keeps what became of every one of them.

    Args:
        run: runs cells.
    """

    def __init__(self, run: RunCells) -> None:
        self._run = run
        self._parts: list[dict[str, NDArray]] = []

    def __call__(self, gamma: NDArray[np.float64], eta: NDArray[np.float64], seed: NDArray[np.int64]) -> CellResults:
        """Run cells.

        Args:
            gamma: feature-learning strengths.
            eta: learning rates.
            seed: seeds.

        Returns:
            Their results.
        """
        cells = self._run(gamma, eta, seed)
        self._parts.append({"gamma": gamma, "eta": eta, "seed": seed} | cells.fields())
        return cells

    def table(self) -> dict[str, NDArray]:
        """All cells run so far.

        Returns:
            ``gamma, eta, seed`` and the fields of ``CellResults``, one entry a cell, by γ, seed and η.
        """
        if not self._parts:
            return {}
        joined = {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}
        order = np.lexsort((joined["eta"], joined["seed"], joined["gamma"]))
        return {name: values[order] for name, values in joined.items()}

    def line(self, gamma: float, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Cells of one line that ended finite and learned.

        Args:
            gamma: feature-learning strength.
            seed: seed.

        Returns:
            η ascending, and final losses.
        """
        table = self.table()
        here = (table["gamma"] == gamma) & (table["seed"] == seed)
        here &= np.isin(table["outcome"], (Outcome.TRAINED, Outcome.CATAPULT)) & (table["final_loss"] > 0)
        return table["eta"][here], table["final_loss"][here]


def vertex(eta: NDArray[np.float64], loss: NDArray[np.float64]) -> tuple[float, float, float] | None:
    """Least-squares parabola of ln(loss) in ln η.

    Args:
        eta: learning rates, shape ``(cells,)``.
        loss: final losses, same shape, positive.

    Returns:
        η* and the ends of its 95 % interval (delta method, with the scatter about the parabola), or ``None`` where the
        parabola does not open upwards, its vertex lies outside the cells, or there are too few of them.
    """
    if len(eta) < LEAST_CELLS:
        return None
    centre = float(np.log(eta).mean())
    x, y = np.log(eta) - centre, np.log(loss)
    design = np.stack([x**2, x, np.ones_like(x)], axis=1)
    (a, b, _), *_ = np.linalg.lstsq(design, y, rcond=None)
    if a <= 0 or not x.min() <= -b / (2 * a) <= x.max():
        return None
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    covariance = np.linalg.inv(design.T @ design) * float(residual @ residual) / max(len(x) - 3, 1)
    slope = np.array([b / (2 * a**2), -1 / (2 * a), 0.0])
    half = float(stats.t.ppf(0.975, max(len(x) - 3, 1)) * np.sqrt(slope @ covariance @ slope))
    at = centre - b / (2 * a)
    return float(np.exp(at)), float(np.exp(at - half)), float(np.exp(at + half))


def _between(eta: NDArray[np.float64], loss: NDArray[np.float64], spacing: float) -> NDArray[np.float64]:
    """Cells still wanted next to the best one; empty when its neighbours are near."""
    best = int(np.argmin(loss))
    wanted = []
    for left, right in ((best - 1, best), (best, best + 1)):
        if left >= 0 and right < len(eta) and np.log10(eta[right] / eta[left]) > spacing * (1 + 1e-9):
            wanted.append(np.sqrt(eta[left] * eta[right]))
    # no cell below the best one that learned: the minimum may lie there, or the band is as narrow as this
    if best == 0:
        wanted.append(eta[0] / 10**spacing)
    return np.array(wanted)


def trace_star(
    recording: Recording, gamma: NDArray[np.float64], seeds: tuple[int, ...], *, spacing: float = SPACING
) -> BoundaryPoints:
    """Find eta_star on lines whose trained band has been traced.

    Args:
        recording: holds the cells run so far, and runs those that are missing.
        gamma: feature-learning strengths.
        seeds: seeds.
        spacing: decades between the cells next to the best one.

    Returns:
        One point a line that has a cell that learned, with its interval or bracket.
    """
    positive_number("spacing", spacing)
    lines = [(float(g), int(s)) for s in seeds for g in gamma]
    for _ in range(ROUNDS):
        asked: list[tuple[float, int, float]] = []
        for one, seed in lines:
            eta, loss = recording.line(one, seed)
            if len(eta):
                asked += [(one, seed, float(e)) for e in _between(eta, loss, spacing)]
        run = {(g, s, round(np.log(e), 9)) for g, s, e in zip(*(recording.table()[k] for k in ("gamma", "seed", "eta")),
                                                              strict=True)}  # fmt: skip
        asked = [(g, s, e) for g, s, e in asked if (g, s, round(np.log(e), 9)) not in run]
        if not asked:
            break
        g, s, e = zip(*asked, strict=True)
        recording(np.array(g), np.array(e), np.array(s, dtype=np.int64))
    rows = []
    for one, seed in lines:
        eta, loss = recording.line(one, seed)
        if len(eta) == 0:
            continue
        best, near = int(np.argmin(loss)), np.log(loss) - np.log(loss.min()) <= RISE
        found = vertex(eta[near], loss[near])
        if found is None:
            found = float(eta[best]), float(eta[max(best - 1, 0)]), float(eta[min(best + 1, len(eta) - 1)])
        rows.append((one, seed, *found))
    return collect("eta_star", rows)
