"""What importing the package does, and does not do."""

from __future__ import annotations

import subprocess
import sys

import theory


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_pulls_in_neither_torch_nor_scipy():
    heavy = ("torch", "scipy", "matplotlib", "numba", "pandas", "xarray", "numpy.testing")
    loaded = run(f"import sys, theory; print([name for name in {heavy!r} if name in sys.modules])")
    assert loaded == "[]"


def test_using_the_boundaries_loads_no_scipy_either():
    code = (
        "import sys; from theory import ToyModel; "
        "ToyModel().boundary('eta_min').numeric(gamma=1.0, depth=3, steps=9); print('scipy' in sys.modules)"
    )
    assert run(code) == "False"


def test_import_derives_nothing():
    assert run("import sys, theory; print('theory.mse_gd' in sys.modules)") == "False"


def test_exports_exist_and_are_sorted():
    assert all(hasattr(theory, name) for name in theory.__all__)
    assert theory.__all__ == sorted(theory.__all__)
