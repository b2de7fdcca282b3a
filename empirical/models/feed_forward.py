"""What MLPs and CNNs share: one weight a layer, scaled by a table of ``LayerScale``."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from empirical.models import fused
from empirical.parametrization import LayerScale


class FeedForward(ABC):
    """Specification of a network that is a chain of weight layers; see ``empirical.models.stack.Architecture``.

    Attributes:
        activation: one of ``ACTIVATIONS``.
    """

    activation: str

    @property
    @abstractmethod
    def layers(self) -> tuple[LayerScale, ...]:
        """Scales of each weight layer, input first."""

    def parameter_count(self) -> int:
        """Number of weights of one network.

        Returns:
            The number.
        """
        return sum(scale.fan_in * scale.fan_out for scale in self.layers)

    def rates(self, normalized: bool = False) -> dict[str, float]:
        """Width multiplier of η for each weight of ``module``, by name.

        Args:
            normalized: for optimizers that take every weight equally far.

        Returns:
            One entry a weight layer, input first.
        """
        chosen = [s.normalized_learning_rate if normalized else s.learning_rate for s in self.layers]
        return {f"layers.{layer}": rate for layer, rate in enumerate(chosen)}

    def trains_cell_by_cell(self, device: torch.device) -> bool:
        """Whether the stack is a fused one; see ``stack.CellByCell``.

        Args:
            device: where it is to live.

        Returns:
            True for ReLU networks on most CPUs.
        """
        return self.activation == "relu" and fused.can_train(device)
