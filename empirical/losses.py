"""Losses of many cells at once, with their derivatives by the output written out.

==================  =====================================  =================
name                ℓ, averaged over the batch             ∂ℓ/∂f of an example
==================  =====================================  =================
``mse``             ½ Σ_c (f_c − y_c)²                     f − y
``cross-entropy``   Σ_c y_c (ln y_c − ln softmax(f)_c)     softmax(f) − y
==================  =====================================  =================

Both are the excess over their minimum in f: cross-entropy is less the entropy of the label, which hard labels do not
have. Labels are probabilities: they sum to one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LossFunction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes the outputs f, ``(cells, classes, batch)``, overwritten, and the targets, same shape; gives the mean loss,
``(cells,)``, and the derivative of the summed loss, shape of the outputs."""


def mse(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error.

    Args:
        output: f, shape ``(cells, classes, batch)``; overwritten.
        target: same shape.

    Returns:
        The mean loss of each cell, and the derivative of the loss summed over the batch.
    """
    residual = output.sub_(target)
    return residual.square().sum((1, 2)) / (2 * output.shape[2]), residual


def cross_entropy(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of softmax(f), less the entropy of the label.

    Args:
        output: f, shape ``(cells, classes, batch)``; overwritten.
        target: same shape, non-negative, summing to one over the classes.

    Returns:
        The mean loss of each cell, and the derivative of the loss summed over the batch.
    """
    log_probability = torch.log_softmax(output, dim=1)
    excess = torch.xlogy(target, target) - target * log_probability
    return excess.sum((1, 2)) / output.shape[2], torch.exp(log_probability, out=output).sub_(target)


LOSSES: dict[str, LossFunction] = {"mse": mse, "cross-entropy": cross_entropy}
"""By the name that a configuration gives them."""
