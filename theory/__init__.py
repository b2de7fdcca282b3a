"""Exact statements about the toy models of the γ–η plane, each with the check that proves it.

>>> from theory import ToyModel
>>> ToyModel(loss="mse", optimizer="gd").boundary("eta_crit").local_exponent
2*(L + gamma)/(L*(gamma + 1))

Importing this package derives nothing: expressions are built when they are first asked for.
"""

from __future__ import annotations

from theory.boundaries import BOUNDARIES, Boundary, Limit
from theory.crisis import crisis_ratio
from theory.derivation import Derivation, FalsifiedStepError, Step, StepResult
from theory.errors import InputError
from theory.flow import rescaled_time
from theory.toy_model import ToyModel
from theory.triangle import apex, apex_log10
from theory.windows import FitWindow, fit_window

__all__ = [
    "BOUNDARIES",
    "Boundary",
    "Derivation",
    "FalsifiedStepError",
    "FitWindow",
    "InputError",
    "Limit",
    "Step",
    "StepResult",
    "ToyModel",
    "apex",
    "apex_log10",
    "crisis_ratio",
    "fit_window",
    "rescaled_time",
]
