"""The main job at its real size (minutes): exponents of trained MLPs against 2 and 2/L."""

from __future__ import annotations

from dataclasses import replace

import pytest

from empirical.compare import PRESETS, compare
from empirical.runners import Runner, available_cores


class Silent:
    def plan(self, total): ...

    def phase(self, description, expected): ...

    def advance(self, cell_steps, held): ...


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_slopes_of_trained_networks():
    config = replace(PRESETS["quick"], boundaries=("eta_crit",), portrait_gammas=2, portrait_etas=2)
    comparison = compare(config, None, Silent(), Runner(available_cores()))
    for family in comparison.trained:
        for regime, limit in (("lazy", 2.0), ("rich", 2 / family.depth)):
            fit = family.fits[regime, "eta_crit"]
            assert abs(fit.exponent - limit) < 0.05, (family.depth, regime, fit)
            assert fit.half_width < 0.08, (family.depth, regime, fit)
    for family in comparison.toy:
        for regime in ("lazy", "rich"):
            fit = family.fits[regime, "eta_crit"]
            assert abs(fit.exponent - fit.predicted_window) < 0.005, (family.depth, regime, fit)
