"""The measurements that the figures need, by name: functions of all cells of a seed and a sample of test examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empirical.networks import Networks
from empirical.shard import TrainingConfig


@dataclass(frozen=True)
class Sample:
    """What measurements are made on.

    Attributes:
        x: test inputs ``(examples, d)``, float64.
        y: one-hot targets ``(examples, classes)``, float64.
        all_x: the whole test set, for accuracies.
        all_y: its targets.
        loss: ``mse`` or ``cross-entropy``.
        eigenvalues: how many of a Hessian are asked for.
    """

    x: Tensor
    y: Tensor
    all_x: Tensor
    all_y: Tensor
    loss: str
    eigenvalues: int

    @classmethod
    def of(cls, config: TrainingConfig, examples: int, eigenvalues: int) -> Sample:
        """Take the first examples of a configuration's test set.

        Args:
            config: what is trained.
            examples: how many.
            eigenvalues: how many eigenvalues of a Hessian.

        Returns:
            The sample, on the configuration's device.
        """
        x, y = _test_set(config)
        return cls(x[:examples], y[:examples], x, y, config.loss, eigenvalues)


@lru_cache(maxsize=2)
def _test_set(config: TrainingConfig) -> tuple[Tensor, Tensor]:
    x, y = config.stream(0).test_set()  # the same for every seed
    return x.double().to(config.device), y.double().to(config.device)


def raw_outputs(networks: Networks, sample: Sample) -> NDArray[np.float64]:
    """F − F₀ on the sample, shape ``(cells, examples, classes)``."""
    moved = networks.output(sample.x) * networks.gamma.view(-1, 1, 1)
    return moved.cpu().numpy()


def test_accuracy(networks: Networks, sample: Sample) -> NDArray[np.float64]:
    """Share of the whole test set that is classified correctly, shape ``(cells,)``."""
    labels = sample.all_y.argmax(1)
    hits = torch.zeros(len(networks), dtype=torch.float64, device=labels.device)
    for part in torch.arange(len(labels), device=labels.device).split(250):
        hits += (networks.output(sample.all_x[part]).argmax(2) == labels[part]).sum(1)
    return (hits / len(labels)).cpu().numpy()


def test_loss(networks: Networks, sample: Sample) -> NDArray[np.float64]:
    """Mean loss on the sample, shape ``(cells,)``: free of the noise of batches."""
    output = networks.output(sample.x)
    if sample.loss == "mse":
        return (output - sample.y).square().sum(2).mean(1).div(2).cpu().numpy()
    return -(sample.y * torch.log_softmax(output, 2)).sum(2).mean(1).cpu().numpy()


def eigenvalues(networks: Networks, sample: Sample) -> NDArray[np.float64]:
    """Largest eigenvalues of the Hessian in the metric of the update, descending, shape ``(cells, k)``."""
    from empirical.measure.hessian import top_eigenvalues

    spectrum = top_eigenvalues(networks, sample.x, sample.y, k=sample.eigenvalues, loss=sample.loss, keep_vectors=False)
    return np.asarray(spectrum.values, dtype=np.float64)


def alignment(networks: Networks, sample: Sample) -> NDArray[np.float64]:
    """Kernel–target alignment of the last layer's representations, shape ``(cells,)``."""
    from empirical.measure.kernels import kernel_target_alignment, last_layer_kernel

    return np.asarray(kernel_target_alignment(last_layer_kernel(networks, sample.x), sample.y), dtype=np.float64)


def centred_alignment(networks: Networks, sample: Sample) -> NDArray[np.float64]:
    """The same of the centred kernel, which the mean representation does not count in, shape ``(cells,)``."""
    from empirical.measure.kernels import kernel_target_alignment, last_layer_kernel

    kernel = last_layer_kernel(networks, sample.x)
    return np.asarray(kernel_target_alignment(kernel, sample.y, centered=True), dtype=np.float64)


def cka_start(networks: Networks, sample: Sample) -> NDArray[np.float64]:
    """CKA of the last layer's kernel with the one at θ₀, shape ``(cells,)``."""
    from empirical.measure.kernels import cka, last_layer_kernel

    start = last_layer_kernel(networks.at_start().select(np.array([0])), sample.x)
    return cka(last_layer_kernel(networks, sample.x), start)


def last_kernel(networks: Networks, sample: Sample) -> NDArray[np.float64]:
    """The last layer's kernel itself, shape ``(cells, examples, examples)``."""
    from empirical.measure.kernels import last_layer_kernel

    return last_layer_kernel(networks, sample.x)


MEASURES: dict[str, Callable[[Networks, Sample], NDArray[np.float64]]] = {
    "raw_outputs": raw_outputs,
    "test_accuracy": test_accuracy,
    "test_loss": test_loss,
    "eigenvalues": eigenvalues,
    "alignment": alignment,
    "centred_alignment": centred_alignment,
    "cka_start": cka_start,
    "last_kernel": last_kernel,
}
"""By the name that a measurement plan gives them."""
