"""Measurements by name: functions of all cells of a seed and a sample of examples, for blocks that are kept as shards.

A worker process is told what to measure by these names (``empirical.observe``); in one process any function of
``Networks`` can be recorded (``empirical.measure.record``).
"""

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
from theory.errors import one_of

SAMPLES = ("test", "fresh")
"""``test``: the first examples of the test set; ``fresh``: those of the seed's batches after the last one."""

SHARPNESS_TOLERANCE = 1e-2
"""Largest relative residual of a sharpness; its error is of the order of the square."""


@dataclass(frozen=True)
class Sample:
    """What measurements are made on.

    Attributes:
        x: inputs ``(examples, d)``, float64.
        y: targets ``(examples, classes)``, float64.
        config: what is trained.
        eigenvalues: how many of a Hessian are asked for.
    """

    x: Tensor
    y: Tensor
    config: TrainingConfig
    eigenvalues: int

    @classmethod
    def of(cls, config: TrainingConfig, seed: int, examples: int, eigenvalues: int, source: str = "test") -> Sample:
        """Take some examples of a configuration's data.

        Args:
            config: what is trained.
            seed: whose fresh batches.
            examples: how many; of fresh batches as many whole ones as hold them.
            eigenvalues: how many eigenvalues of a Hessian.
            source: one of ``SAMPLES``.

        Returns:
            The sample, on the configuration's device.

        Raises:
            InputError: an unknown source.
        """
        one_of("sample", source, SAMPLES)
        if source == "test":
            x, y = (part[:examples] for part in _test_set(config))
            return cls(x, y, config, eigenvalues)
        x, y = training_examples(config, seed, examples, first=config.steps)
        return cls(x, y, config, eigenvalues)


def training_examples(config: TrainingConfig, seed: int, count: int, *, first: int = 0) -> tuple[Tensor, Tensor]:
    """Examples of consecutive batches of training.

    Args:
        config: of the training.
        seed: of the data stream.
        count: how many; as many whole batches as hold them.
        first: step of the first batch.

    Returns:
        Inputs ``(n, input_dim)`` and targets ``(n, classes)``, float64, on the configuration's device.
    """
    stream = config.stream(seed)
    batches = [stream(first + i) for i in range(-(-count // config.batch_size))]
    x, y = (torch.cat([batch[i] for batch in batches]).double().to(config.device) for i in (0, 1))
    return x, y


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
    x, y = _test_set(sample.config)
    labels = y.argmax(1)
    hits = torch.zeros(len(networks), dtype=torch.float64, device=labels.device)
    for part in torch.arange(len(labels), device=labels.device).split(250):
        hits += (networks.output(x[part]).argmax(2) == labels[part]).sum(1)
    return (hits / len(labels)).cpu().numpy()


def test_loss(networks: Networks, sample: Sample) -> NDArray[np.float64]:
    """Mean loss on the sample, shape ``(cells,)``: free of the noise of batches."""
    output = networks.output(sample.x)
    if sample.config.loss == "mse":
        return (output - sample.y).square().sum(2).mean(1).div(2).cpu().numpy()
    return -(sample.y * torch.log_softmax(output, 2)).sum(2).mean(1).cpu().numpy()


def eigenvalues(networks: Networks, sample: Sample) -> NDArray[np.float64]:
    """Largest eigenvalues of the Hessian in the metric of the update, descending, shape ``(cells, k)``."""
    return _top(networks, sample, "hessian")


def gauss_newton(networks: Networks, sample: Sample) -> NDArray[np.float64]:
    """Those of the Gauss–Newton matrix, shape ``(cells, k)``."""
    return _top(networks, sample, "gauss-newton")


def _top(networks: Networks, sample: Sample, curvature: str) -> NDArray[np.float64]:
    from empirical.measure.hessian import top_eigenvalues

    spectrum = top_eigenvalues(
        networks,
        sample.x,
        sample.y,
        k=sample.eigenvalues,
        loss=sample.config.loss,
        curvature=curvature,
        keep_vectors=False,
    )
    return np.asarray(spectrum.values, dtype=np.float64)


def sharpness(networks: Networks, sample: Sample) -> NDArray[np.float64]:
    """The largest of them, shape ``(cells,)``; NaN where it has not converged to ``SHARPNESS_TOLERANCE``."""
    from empirical.measure.hessian import top_eigenvalues

    loss, tolerance = sample.config.loss, SHARPNESS_TOLERANCE
    spectrum = top_eigenvalues(networks, sample.x, sample.y, 1, loss=loss, tolerance=tolerance, keep_vectors=False)
    return torch.where(spectrum.converged, spectrum.values[:, 0], torch.nan).cpu().numpy()


def euler_degree(networks: Networks, sample: Sample) -> NDArray[np.float64]:
    """D = ⟨F, θ·∇F⟩/⟨F, F⟩ over examples and classes, shape ``(cells,)``."""
    from empirical.measure.degree import euler_degree as measured

    return np.asarray(measured(networks, sample.x), dtype=np.float64)


def ray_exponent(networks: Networks, sample: Sample) -> NDArray[np.float64]:
    """Local exponent of 2/λ in γ along the ray through the weights, shape ``(cells,)``."""
    from empirical.measure.ray import ray_exponent as measured

    return measured(networks, sample.x, sample.y, loss=sample.config.loss, tolerance=SHARPNESS_TOLERANCE)


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
    "sharpness": sharpness,
    "euler_degree": euler_degree,
    "ray_exponent": ray_exponent,
    "gauss_newton": gauss_newton,
    "alignment": alignment,
    "centred_alignment": centred_alignment,
    "cka_start": cka_start,
    "last_kernel": last_kernel,
}
"""By the name that a measurement plan gives them."""
