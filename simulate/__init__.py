"""Solves the toy models: discrete maps, phase portraits, traced boundaries, and power-law fits with intervals.

The portraits, boundaries and fits here also serve the trained networks of ``empirical``: that is what makes a
comparison a comparison.
"""

from simulate.boundary import BOUNDARIES, BoundaryPoints, TraceSettings, find_bracket, trace_boundaries
from simulate.gradient_descent import run_gradient_descent
from simulate.gradient_flow import Trajectory, gradient_flow
from simulate.noise import Noise
from simulate.outcomes import OUTCOME_NAMES, CellResults, Outcome, Thresholds, classify
from simulate.portrait import PhasePortrait, check_grid, phase_portrait
from simulate.scaling import ScalingFit, fit_power_law
from simulate.toy import Apex, find_apex, trace_toy

__all__ = [
    "BOUNDARIES",
    "Apex",
    "Noise",
    "check_grid",
    "find_apex",
    "OUTCOME_NAMES",
    "BoundaryPoints",
    "CellResults",
    "Outcome",
    "PhasePortrait",
    "ScalingFit",
    "Thresholds",
    "TraceSettings",
    "Trajectory",
    "classify",
    "find_bracket",
    "fit_power_law",
    "gradient_flow",
    "phase_portrait",
    "run_gradient_descent",
    "trace_boundaries",
    "trace_toy",
]
