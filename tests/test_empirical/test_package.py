"""What importing the package does, and does not do."""

from __future__ import annotations

import subprocess
import sys

import pytest

import empirical


def test_names_are_there_and_are_what_their_modules_define():
    assert len(set(empirical.__all__)) == len(empirical.__all__)
    for name in empirical.__all__:
        found = getattr(empirical, name)
        module = getattr(found, "__module__", "empirical")  # a dictionary has none
        assert module.startswith("empirical"), (name, module)
        assert getattr(found, "__name__", name) == name
    assert set(empirical.__all__) <= set(dir(empirical))


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'hessian_of'"):
        empirical.hessian_of  # noqa: B018


def test_measurements_are_loaded_when_first_used():
    code = (
        "import sys, empirical; before = [m for m in sys.modules if m.startswith('empirical.measure')]; "
        "from empirical import Recorder; print(before, 'empirical.measure.record' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"
