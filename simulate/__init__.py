"""Solves the toy models: flows, discrete maps, phase portraits, traced boundaries, and power-law fits with intervals.

The portraits, boundaries and fits here also serve the trained networks of ``empirical``: that is what makes a
comparison a comparison.
"""

from simulate.boundary import BOUNDARIES, BoundaryPoints, TraceSettings, find_bracket, trace_boundaries
from simulate.catapult import CatapultPortrait, catapult_portrait
from simulate.collapse import TauCollapse, tau_collapse
from simulate.flows.matrix import matrix_flow
from simulate.gradient_descent import run_gradient_descent
from simulate.gradient_flow import gradient_flow, two_layer_flow
from simulate.maps.noise import Noise
from simulate.maps.residual import ResidualRuns, ResidualStages, run_residual
from simulate.maps.unbalanced import descend_unbalanced, run_unbalanced
from simulate.outcomes import OUTCOME_NAMES, CellResults, Outcome, Thresholds, classify
from simulate.portrait import PhasePortrait, check_grid, phase_portrait
from simulate.residual import ResidualTrace, trace_residual
from simulate.scaling import ScalingFit, fit_power_law
from simulate.staircase import Staircase, mode_staircase
from simulate.toy import Apex, find_apex, trace_toy
from simulate.trajectory import Trajectory
from simulate.two_layer_descent import TwoLayerRun, two_layer_descent

__all__ = [
    "BOUNDARIES",
    "OUTCOME_NAMES",
    "Apex",
    "BoundaryPoints",
    "CatapultPortrait",
    "CellResults",
    "Noise",
    "Outcome",
    "PhasePortrait",
    "ResidualRuns",
    "ResidualStages",
    "ResidualTrace",
    "ScalingFit",
    "Staircase",
    "TauCollapse",
    "Thresholds",
    "TraceSettings",
    "Trajectory",
    "TwoLayerRun",
    "catapult_portrait",
    "check_grid",
    "classify",
    "descend_unbalanced",
    "find_apex",
    "find_bracket",
    "fit_power_law",
    "gradient_flow",
    "matrix_flow",
    "mode_staircase",
    "phase_portrait",
    "run_gradient_descent",
    "run_residual",
    "run_unbalanced",
    "tau_collapse",
    "trace_boundaries",
    "trace_residual",
    "trace_toy",
    "two_layer_descent",
    "two_layer_flow",
]
