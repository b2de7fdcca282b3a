"""What every map checks at its door, and what it hands back."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulate.maps.losses import LOSS_CODES, excess
from simulate.outcomes import CellResults, Thresholds, classify
from theory.errors import InputError, one_of, positive_array, positive_integer

OPTIMIZERS = ("gd", "momentum", "sign")


def loss_code(loss: str, optimizer: str, beta: float, steps: int) -> int:
    """Check what is run, and give the loss the number that compiled loops know it by.

    Args:
        loss: ``"mse"`` or ``"cross-entropy"``.
        optimizer: ``"gd"``, ``"momentum"`` or ``"sign"``.
        beta: momentum β.
        steps: budget T.

    Returns:
        MSE or CROSS_ENTROPY of ``simulate.maps.losses``.

    Raises:
        InputError: an unknown loss or optimizer, β outside [0, 1), T below 1.
    """
    one_of("optimizer", optimizer, OPTIMIZERS)
    positive_integer("steps", steps)
    if isinstance(beta, bool) or not isinstance(beta, int | float | np.floating) or not 0.0 <= beta < 1.0:
        raise InputError("beta", beta, "a number from 0 (included) to 1 (excluded)")
    return LOSS_CODES[one_of("loss", loss, tuple(LOSS_CODES))]


def cells(gamma: ArrayLike, eta: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Check the cells of a map.

    Args:
        gamma: feature-learning strengths, one or one a cell.
        eta: learning rates, one or one a cell.

    Returns:
        γ and η, contiguous, shape ``(cells,)``.

    Raises:
        InputError: a γ or η that is not positive, or lengths that differ.
    """
    gammas, etas = positive_array("gamma", gamma).ravel(), positive_array("eta", eta).ravel()
    if gammas.size != etas.size and 1 not in {gammas.size, etas.size}:
        raise InputError("eta", etas.size, f"a single value, or as many as gamma has ({gammas.size})")
    gammas, etas = np.broadcast_arrays(gammas, etas)
    return np.ascontiguousarray(gammas), np.ascontiguousarray(etas)


def results(
    tail: NDArray[np.float64],
    peak: NDArray[np.float64],
    steps_run: NDArray[np.int64],
    diverged: NDArray[np.bool_],
    code: int,
    thresholds: Thresholds,
) -> CellResults:
    """Name the outcomes of finished runs from f = 0.

    Args:
        tail: mean loss over the tail, shape ``(cells,)``.
        peak: largest loss, same shape.
        steps_run: steps until the outcome was decided, same shape.
        diverged: which runs passed the divergence threshold, same shape.
        code: of the loss.
        thresholds: the numbers in the definitions of the outcomes.

    Returns:
        The results; ``final_accuracy`` is NaN, since the model has no classes.
    """
    initial = np.full(tail.size, excess(0.0, code))
    return CellResults(
        outcome=classify(tail, peak, initial, diverged=diverged, thresholds=thresholds),
        final_loss=tail,
        initial_loss=initial,
        peak_loss=peak,
        final_accuracy=np.full(tail.size, np.nan),
        steps_run=steps_run,
    )
