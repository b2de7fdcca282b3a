"""The scalar deep linear model, f = (∏ w_ℓ − w₀^L)/γ with x = 1 and w_ℓ(0) = w₀: the front door of the theory.

Source: arXiv:2410.04642, section on the linear network. Gradient descent acts on the L separate weights: on the
balanced line w ← w − (η/γ) w^{L−1} ℓ′(f). (The one-parameter reduction, descent on w itself, has L times this step.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import sympy as sp

from theory.boundaries import BOUNDARIES
from theory.errors import InputError, one_of
from theory.losses import CROSS_ENTROPY, LOSSES, Loss, canonical_loss, cross_entropy
from theory.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from theory.boundaries import Boundary
    from theory.derivation import Derivation
    from theory.scaling import Scaling


@dataclass(frozen=True)
class ToyModel:
    """The model for one loss and one optimizer, with the depth left symbolic.

    Args:
        loss: "mse", "cross-entropy" (soft label σ(y)), or a convex loss ℓ(f): a SymPy expression in one symbol.
        optimizer: "gd" (gradient descent), "momentum" (heavy ball, v ← βv + g) or "sign" (sign descent).
        target: y, the output at the minimum: a positive number or a positive SymPy expression such as
            ``theory.symbols.target``. A loss given as an expression brings its own.
        init_scale: w₀, the initial value of every weight; likewise.

    Raises:
        InputError: an unknown loss or optimizer, an expression that is not a loss the network can descend (the
            message says why), a target or a scale that is not positive.
    """

    loss: str | sp.Expr = "mse"
    optimizer: str = "gd"
    target: float | sp.Expr = 1
    init_scale: float | sp.Expr = 1

    def __post_init__(self) -> None:
        if not isinstance(self.loss, sp.Expr):
            one_of("loss", self.loss, tuple(LOSSES))
        elif self.target != 1:
            raise InputError("target", self.target, "left out: a loss given as an expression has its own minimum")
        one_of("optimizer", self.optimizer, tuple(OPTIMIZERS))
        _ = self.canonical, self.scaling

    @cached_property
    def canonical(self) -> tuple[Loss, sp.Expr]:
        """The loss ℓ̃(s) = ℓ(y s)/y² with its minimum at 1, and y."""
        from theory.scaling import positive_quantity

        if isinstance(self.loss, sp.Expr):
            return canonical_loss(self.loss)
        place = positive_quantity("target", self.target)
        if self.loss != CROSS_ENTROPY.name or place == 1:
            return LOSSES[self.loss], place
        if place.free_symbols:
            raise InputError("target", self.target, "a number for cross-entropy, whose label σ(y) it sets")
        return canonical_loss(cross_entropy(place), CROSS_ENTROPY.name)[0], place

    @cached_property
    def scaling(self) -> Scaling:
        """The map from this model to the one with y = w₀ = 1."""
        from theory.scaling import Scaling, positive_quantity

        return Scaling(self.canonical[1], positive_quantity("init_scale", self.init_scale), self.optimizer == "sign")

    @property
    def boundary_names(self) -> tuple[str, ...]:
        """The boundaries that this model has: sign descent has no eta_crit, the heavy ball no eta_max."""
        from theory.models import boundary_names

        return boundary_names(self.optimizer)

    def boundary(self, name: str) -> Boundary:
        """A boundary of the γ–η plane.

        Args:
            name: "eta_min", "eta_crit" or "eta_max".

        Returns:
            Its exact expression, local exponent, limits, LaTeX and numeric form.

        Raises:
            InputError: any other name, or a boundary that this optimizer does not have (see ``boundary_names``).
        """
        from theory.models import boundary
        from theory.scaling import rescale

        bare = boundary(self.canonical[0], self.optimizer, one_of("boundary", name, BOUNDARIES))
        return rescale(bare, self.scaling)

    def derivation(self) -> Derivation:
        """The derivation of this model's results, at y = w₀ = 1; ``run`` it to have every step checked.

        Returns:
            The steps, unrun.
        """
        from theory.models import derivation

        return derivation(self.canonical[0], self.optimizer)

    def apex(
        self,
        *,
        steps: float,
        depth: int,
        level: float = 0.9,
        beta: float | None = None,
        delta: float | None = None,
    ) -> float:
        """The γ at which eta_min meets eta_crit (sign descent: eta_max), above which nothing trains within T steps.

        Args:
            steps: training budget T in optimizer steps.
            depth: number of layers L.
            level: fraction of the initial loss that counts as trained, in (0, 1); without effect on sign descent.
            beta: momentum β, needed with momentum.
            delta: terminal error δ, needed with sign descent.

        Returns:
            γ_max(T); ``inf`` where the window never closes or beyond float64, 0 when nothing trains at any
            γ. (For MSE and gradient descent ``theory.apex_log10`` does not overflow.)

        Raises:
            InputError: steps not positive, depth not an integer >= 1, level outside (0, 1), β or δ missing or wrong.
        """
        from theory.triangle import model_apex

        there = model_apex(
            self.canonical[0], self.optimizer, steps=steps, depth=depth, level=level, beta=beta, delta=delta
        )
        return there if self.scaling.is_default else there / self.scaling.numbers(depth)[0]
