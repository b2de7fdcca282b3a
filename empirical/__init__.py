"""Real networks on real data: ensembles over (γ, η, seed), traced boundaries, theory against experiment."""

from empirical.data import DATA_SETS, DataStream, data_stream
from empirical.ensemble import Ensemble, EnsembleResult
from empirical.models import MLP
from empirical.networks import Networks, join
from empirical.parametrization import RescaledModule, mup_layers, rescale

__all__ = [
    "DATA_SETS",
    "MLP",
    "DataStream",
    "Ensemble",
    "EnsembleResult",
    "Networks",
    "RescaledModule",
    "data_stream",
    "join",
    "mup_layers",
    "rescale",
]
