"""The scripts that a theorist starts from: short, quick, and checked by themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import theory

FOLDER = Path(theory.__file__).parent / "examples"
SAID = {
    "change_the_loss": [
        "eta_crit  2*gamma**2*(gamma + 1)**(-2 + 2/L)/(9*L)",
        "1/9 times that of MSE",
        "(2/(9*L)) gamma^(2/L)",
    ],
    "weight_decay": ["w*^2 = -alpha*gamma**2 + gamma + 1", "min(gamma**2/(-alpha*gamma**2 + gamma + 1), 1/alpha)"],
    "unbalanced_start": ["d(a^2 - b^2)/dt = 0", "balanced: gamma**2/(b_0**2 + gamma)", "eta_crit = 95.17"],
}


def start(script: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script from another folder, as a user would."""
    parts = [str(FOLDER.parent.parent), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, parts))}
    command = [sys.executable, "-W", "error", str(script)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, timeout=100, check=False)


def test_every_script_is_in_the_table_above():
    assert {path.stem for path in FOLDER.glob("*.py")} - {"__init__"} == set(SAID)


@pytest.mark.parametrize("name", SAID)
def test_the_script_runs_and_says_what_it_found(name, tmp_path):
    ran = start(FOLDER / f"{name}.py", tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    for line in SAID[name]:
        assert line in ran.stdout
    assert ran.stdout.endswith("checked\n")
    assert max(map(len, ran.stdout.splitlines())) <= 110
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", SAID)
def test_the_script_is_short_enough_to_read_at_once(name):
    assert len((FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("change_the_loss", "edge = float(", "edge = 1.1 * float("),
        ("weight_decay", "edge = 2 /", "edge = 2.2 /"),
        ("unbalanced_start", "return rate, 2 /", "return rate, 2.2 /"),
    ],
)
def test_a_wrong_result_stops_the_script(name, right, wrong, tmp_path):
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert text.count(right) == 1
    (tmp_path / "changed.py").write_text(text.replace(right, wrong), encoding="utf-8")
    ran = start(tmp_path / "changed.py", tmp_path)
    assert ran.returncode == 1
    assert "AssertionError: " in ran.stderr or "Warning: " in ran.stderr
    assert "checked" not in ran.stdout
