"""Which module knows which boundary: the table of (loss, optimizer)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from theory.boundaries import BOUNDARIES, Boundary
from theory.losses import MSE, Loss

if TYPE_CHECKING:
    from theory.derivation import Derivation


def gradient_descent_boundary(loss: Loss, name: str) -> Boundary:
    """A boundary under gradient descent.

    Args:
        loss: a convex loss with its minimum at 1.
        name: "eta_min", "eta_crit" or "eta_max".

    Returns:
        The closed forms for MSE, the general ones for every other loss.
    """
    if loss == MSE:
        from theory import mse_gd

        return mse_gd.boundary(name)
    from theory import general_loss

    return general_loss.boundary(loss, name)


def boundary(loss: Loss, optimizer: str, name: str) -> Boundary:
    """A boundary of one loss under one optimizer.

    Args:
        loss: a convex loss with its minimum at 1.
        optimizer: "gd", "momentum" or "sign".
        name: "eta_min", "eta_crit" or "eta_max".

    Returns:
        The boundary.
    """
    if optimizer == "momentum":
        from theory import momentum

        return momentum.boundary(loss, name)
    if optimizer == "sign":
        from theory import sign_descent

        return sign_descent.boundary(name)
    return gradient_descent_boundary(loss, name)


def boundary_names(optimizer: str) -> tuple[str, ...]:
    """The boundaries that a model has under one optimizer; the loss does not matter.

    Args:
        optimizer: the optimizer.

    Returns:
        Names, from the lowest boundary up.
    """
    if optimizer == "sign":
        return ("eta_min", "eta_max")
    if optimizer == "momentum":
        return ("eta_min", "eta_crit")
    return BOUNDARIES


def derivation(loss: Loss, optimizer: str) -> Derivation:
    """The derivation for one loss and one optimizer.

    Args:
        loss: a convex loss with its minimum at 1.
        optimizer: "gd", "momentum" or "sign".

    Returns:
        The steps, unrun.
    """
    if optimizer == "sign":
        from theory import sign_derivation

        return sign_derivation.derivation(loss)
    if optimizer == "momentum":
        from theory import momentum_derivation

        return momentum_derivation.derivation(loss)
    if loss == MSE:
        from theory import mse_gd_derivation

        return mse_gd_derivation.derivation()
    from theory import general_derivation

    return general_derivation.derivation(loss)
