"""The scalar deep linear model, f = (∏ w_ℓ − 1)/γ with x = y = w_ℓ(0) = 1: the front door of the theory.

Source: arXiv:2410.04642, section on the linear network. Gradient descent acts on the L separate weights: on the
balanced line w ← w − (η/γ) w^{L−1} ℓ′(f). (The one-parameter reduction, descent on w itself, has L times this step.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from theory.boundaries import BOUNDARIES
from theory.errors import one_of
from theory.losses import LOSSES
from theory.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from theory.boundaries import Boundary
    from theory.derivation import Derivation


@dataclass(frozen=True)
class ToyModel:
    """The model for one loss and one optimizer, with the depth left symbolic.

    Args:
        loss: "mse" (the only loss derived so far).
        optimizer: "gd", gradient descent (the only optimizer derived so far).

    Raises:
        InputError: a loss or an optimizer that has not been derived.
    """

    loss: str = "mse"
    optimizer: str = "gd"

    def __post_init__(self) -> None:
        one_of("loss", self.loss, tuple(LOSSES))
        one_of("optimizer", self.optimizer, tuple(OPTIMIZERS))

    def boundary(self, name: str) -> Boundary:
        """A boundary of the γ–η plane.

        Args:
            name: "eta_min", "eta_crit" or "eta_max".

        Returns:
            Its exact expression, local exponent, limits, LaTeX and numeric form.

        Raises:
            InputError: any other name.
        """
        from theory.mse_gd import boundary

        return boundary(one_of("boundary", name, BOUNDARIES))

    def derivation(self) -> Derivation:
        """The derivation of this model's results; ``run`` it to have every step checked.

        Returns:
            The steps, unrun.
        """
        from theory.mse_gd_derivation import derivation

        return derivation()

    def apex(self, *, steps: float, depth: int, level: float = 0.9) -> float:
        """The γ at which eta_min meets eta_crit, above which nothing trains within T steps.

        Args:
            steps: training budget T in optimizer steps.
            depth: number of layers L.
            level: fraction of the initial loss that counts as trained, in (0, 1).

        Returns:
            γ_max(T); ``inf`` for L = 1 or beyond float64 (see ``theory.apex_log10``), 0 when nothing trains at any γ.

        Raises:
            InputError: steps not positive, depth not an integer >= 1, level outside (0, 1).
        """
        from theory.triangle import apex

        return apex(steps=steps, depth=depth, level=level)
