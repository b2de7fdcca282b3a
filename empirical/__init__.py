"""Real networks on real data: ensembles over (γ, η, seed), traced boundaries, theory against experiment.

What trains is imported here; other architectures and measurements are loaded when their names are first used. Detectors
are in ``empirical.phenomena``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from empirical.data import DATA_SETS, DataStream, data_stream
from empirical.ensemble import Ensemble, EnsembleResult
from empirical.models import MLP
from empirical.networks import Networks, join
from empirical.parametrization import RescaledModule, mup_layers, rescale

if TYPE_CHECKING:
    from empirical.measure.agreement import output_agreement
    from empirical.measure.degree import euler_degree, euler_degree_by_output
    from empirical.measure.features import representations
    from empirical.measure.flow import KernelGrowth, flow_time, kernel_growth
    from empirical.measure.hessian import sharpness, top_eigenvalues
    from empirical.measure.kernels import (
        cka,
        class_trace,
        kernel_drift,
        kernel_target_alignment,
        last_layer_kernel,
        ntk,
        trace_by_class,
    )
    from empirical.measure.linearized import kernel_regression, train_linearized
    from empirical.measure.modules import networks_of
    from empirical.measure.ray import ray_exponent
    from empirical.measure.record import Measurement, Recorder, load_record, recorded_steps
    from empirical.measure.weights import (
        balance_matrices,
        distance_by_layer,
        distance_from_start,
        layer_balance,
        layer_norms,
        neuron_balance,
    )
    from empirical.models.cnn import CNN
    from empirical.models.resnet import ResNet
    from empirical.models.vit import ViT
    from empirical.shard import TrainingConfig

_LATER = {
    "measure.agreement": ["output_agreement"],
    "measure.degree": ["euler_degree", "euler_degree_by_output"],
    "measure.features": ["representations"],
    "measure.flow": ["KernelGrowth", "flow_time", "kernel_growth"],
    "measure.hessian": ["sharpness", "top_eigenvalues"],
    "measure.kernels": [
        "cka", "class_trace", "kernel_drift", "kernel_target_alignment", "last_layer_kernel", "ntk",
        "trace_by_class",
    ],
    "measure.linearized": ["kernel_regression", "train_linearized"],
    "measure.modules": ["networks_of"],
    "measure.ray": ["ray_exponent"],
    "measure.record": ["Measurement", "Recorder", "load_record", "recorded_steps"],
    "measure.weights": [
        "balance_matrices", "distance_by_layer", "distance_from_start", "layer_balance", "layer_norms",
        "neuron_balance",
    ],
    "models.cnn": ["CNN"],
    "models.resnet": ["ResNet"],
    "models.vit": ["ViT"],
    "shard": ["TrainingConfig"],
}  # fmt: skip
_MODULE = {name: module for module, names in _LATER.items() for name in names}

__all__ = [
    "CNN",
    "DATA_SETS",
    "MLP",
    "DataStream",
    "Ensemble",
    "EnsembleResult",
    "KernelGrowth",
    "Measurement",
    "Networks",
    "Recorder",
    "RescaledModule",
    "ResNet",
    "TrainingConfig",
    "ViT",
    "balance_matrices",
    "cka",
    "class_trace",
    "data_stream",
    "distance_by_layer",
    "distance_from_start",
    "euler_degree",
    "euler_degree_by_output",
    "flow_time",
    "join",
    "kernel_drift",
    "kernel_growth",
    "kernel_regression",
    "kernel_target_alignment",
    "last_layer_kernel",
    "layer_balance",
    "layer_norms",
    "load_record",
    "mup_layers",
    "networks_of",
    "neuron_balance",
    "ntk",
    "output_agreement",
    "ray_exponent",
    "recorded_steps",
    "representations",
    "rescale",
    "sharpness",
    "top_eigenvalues",
    "trace_by_class",
    "train_linearized",
]


def __getattr__(name: str) -> Any:
    """Load what is not needed for training when it is first asked for."""
    if name not in _MODULE:
        raise AttributeError(f"module 'empirical' has no attribute {name!r}")
    value = getattr(import_module(f"empirical.{_MODULE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE})
