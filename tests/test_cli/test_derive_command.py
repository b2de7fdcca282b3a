"""``richscape derive``: what it prints, what it writes, and how loudly it fails."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import richscape
from theory import Derivation, ToyModel


def test_the_table_comes_first_then_every_step_with_a_mark(run):
    ran = run("derive", "--depth", "3")
    assert (ran.code, ran.err) == (0, "")
    assert re.search(r"eta_crit +\(2/3\) γ\^2 +\(2/3\) γ\^\(2/3\)", ran.out)
    assert ran.out.index("eta_max") < ran.out.index("Exactly:") < ran.out.index("✓")
    steps = ToyModel().derivation().steps
    assert len(re.findall(r"(?m)^✓ +\d+\.\d\d s  ", ran.out)) == len(steps)
    assert f"{len(steps)} of {len(steps)} steps checked" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("suffix", "start", "mark"),
    [
        (".md", "# Scalar", "✓ **Checked**"),
        (".tex", r"\documentclass", r"\checked{"),
        (".html", "<!doctype", "✓ checked"),
    ],
)
def test_the_document_is_written_in_the_format_of_its_name(run, tmp_path, suffix, start, mark):
    path = tmp_path / f"derivation{suffix}"
    ran = run("derive", "--optimizer", "sign", "--out", path)
    assert (ran.code, ran.err) == (0, "")
    assert f"written to {path}" in ran.out
    text = path.read_text(encoding="utf-8")
    assert text.startswith(start)
    assert text.count(mark) == len(ToyModel(optimizer="sign").derivation().steps)
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def falsified(monkeypatch) -> str:
    """The derivation with one expression 1 % off; the step's name."""
    steps = ToyModel().derivation().steps
    wrong = dataclasses.replace(steps[3], expression=steps[3].expression * 101 / 100)
    broken = Derivation("Scalar model", (*steps[:3], wrong, steps[4]))
    monkeypatch.setattr(ToyModel, "derivation", lambda _model: broken)
    return wrong.name


def test_a_falsified_step_is_named_and_ends_in_exit_code_1(run, tmp_path, falsified):
    path = tmp_path / "page.html"
    ran = run("derive", "--out", path)
    assert ran.code == 1
    assert f"falsified step '{falsified}'" in ran.err
    assert len(ran.err.splitlines()) == 1
    assert re.search(rf"(?m)^✗ +\d+\.\d\d s  {falsified}  FAILED$", ran.out)
    assert f"FALSIFIED: {falsified}" in ran.out
    page = path.read_text(encoding="utf-8")
    assert page.count('class="step falsified"') == 1
    assert f"FALSIFIED: {falsified}" in page


@pytest.mark.parametrize(
    "words",
    ["--out page.docx", "--out page", "--depth 0", "--depth -2 --out page.tex", "--chapter alchemy", "--loss hinge"],
)
def test_what_is_refused(run, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    ran = run("derive", *words.split())
    assert ran.code == 2
    assert ran.out == ""
    assert list(tmp_path.iterdir()) == []
    option, given = words.split()[:2]
    assert option in ran.err
    assert given in ran.err


def test_another_optimizer_and_a_further_chapter(run):
    ran = run("derive", "--optimizer", "momentum", "--chapter", "conserved")
    assert (ran.code, ran.err) == (0, "")
    assert "Boundaries of the γ–η plane: MSE, heavy ball, every L" in ran.out
    assert "(2 (β + 1)/L) γ^(2/L)" in ran.out
    assert "Conserved quantities" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80
    seconds = [float(text) for text in re.findall(r"steps checked in ([\d.]+) s", ran.out)]
    assert len(seconds) == 2
    assert max(seconds) < 20  # 2 s on a free core


def test_the_help_and_the_start_load_neither_sympy_nor_torch(tmp_path):
    code = (
        "import sys, richscape; sys.argv = ['richscape', 'derive', '--help']\n"
        "try: richscape.main()\nexcept SystemExit: print(sorted({'sympy', 'torch', 'numpy'} & set(sys.modules)))"
    )
    path = os.pathsep.join(filter(None, [str(Path(richscape.__file__).parent), os.environ.get("PYTHONPATH")]))
    start = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, timeout=60, check=False,
    )  # fmt: skip
    assert time.perf_counter() - start < 10  # 0.7 s on a free core
    assert ran.stdout.splitlines()[-1] == "[]", ran.stderr


def test_deriving_loads_no_torch(tmp_path):
    code = (
        "import sys, richscape; sys.argv = ['richscape', 'derive', '--optimizer', 'sign', '--out', 'page.html']\n"
        "richscape.main(); print(sorted({'torch', 'numba', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    path = os.pathsep.join(filter(None, [str(Path(richscape.__file__).parent), os.environ.get("PYTHONPATH")]))
    command, env = [sys.executable, "-c", code], os.environ | {"PYTHONPATH": path}
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=60, check=False)
    assert ran.stdout.splitlines()[-1] == "[]", ran.stderr


def test_a_place_that_cannot_be_written_to_is_named(run, tmp_path):
    ran = run("derive", "--optimizer", "sign", "--out", tmp_path / "no" / "page.md")
    assert ran.code == 2
    assert ran.err.startswith("richscape: --out = ")
    assert "writable (No such file or directory)" in ran.err
    assert list(tmp_path.iterdir()) == []
