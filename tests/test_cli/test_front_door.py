"""The help, the lazy wings, and what happens when a folder on the path has the name of a wing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import richscape

NETWORK = (
    "--out --arch --depth --width --activation --strides --blocks --norm --final-norm --norm-gain --heads --patch"
    " --frozen --data --data-root --image-size --batch-size --label-noise --loss --optimizer --beta --schedule --warmup"
    " --weight-decay --gamma --steps --seeds --device --workers"
)
OPTIONS = {
    "derive": "--loss --optimizer --depth --chapter --out",
    "simulate": "--out --loss --depth --gamma --eta --steps --optimizer --beta --label-noise --batch --seeds",
    "sweep": NETWORK + " --eta",
    "trace": NETWORK + " --boundaries --resolution",
    "compare": "--out --preset --campaign --depths --width --steps --seeds --first-seed --data --device --workers",
}


def python(code: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a line in a fresh interpreter, with another folder in front of the path."""
    inherited = os.environ.get("PYTHONPATH")
    parts = [str(part) for part in (path, Path(richscape.__file__).parent, inherited) if part]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(parts)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=120, check=False)


def test_the_help_names_every_command(run):
    ran = run("--help")
    assert (ran.code, ran.err) == (0, "")
    for command in OPTIONS:
        assert f"• {command} " in ran.out


@pytest.mark.parametrize("command", OPTIONS)
def test_the_help_of_a_command_names_and_explains_every_option(run, command):
    ran = run(command, "--help")
    assert (ran.code, ran.err) == (0, "")
    flat = " ".join(ran.out.replace("│", " ").split())
    for option in OPTIONS[command].split():
        assert f" {option} " in flat
        meaning = flat.split(f" {option} ", maxsplit=1)[1].split(" --")[0]
        assert len(meaning.split()) >= 3, f"{option} is not explained: {meaning!r}"


def test_no_option_is_missing_from_the_table_above(run):
    for command, options in OPTIONS.items():
        found = set(re.findall(r"(?<=\s)--[a-z][a-z-]*", run(command, "--help").out))
        assert found - {"--help"} == set(options.split())


def test_importing_the_front_door_is_cheap(tmp_path):
    heavy = ("torch", "matplotlib", "sympy", "numba", "scipy", "pandas", "xarray", "numpy", *richscape.WINGS)
    ran = python(f"import richscape, sys; print(*(set({heavy!r}) & set(sys.modules)))", tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == []


def test_a_wing_is_loaded_when_it_is_asked_for(tmp_path):
    code = (
        "import sys, richscape; before = 'theory' in sys.modules; wing = richscape.theory;"
        "print(before, wing is sys.modules['theory'], wing.ToyModel.__name__, 'torch' in sys.modules)"
    )
    assert python(code, tmp_path).stdout.split() == ["False", "True", "ToyModel", "False"]


@pytest.mark.parametrize("wing", ["theory", "simulate", "empirical", "paper_figures"])
def test_every_wing_is_there(wing):
    found = getattr(richscape, wing)
    assert Path(found.__file__).parent == Path(richscape.__file__).parent / wing


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'richscape' has no attribute 'practice'"):
        _ = richscape.practice
    assert not hasattr(richscape, "numpy")


@pytest.fixture
def shadow(tmp_path) -> Path:
    """A folder with somebody else's package ``theory``."""
    (tmp_path / "elsewhere" / "theory").mkdir(parents=True)
    (tmp_path / "elsewhere" / "theory" / "__init__.py").write_text("raise SystemExit('imported')\n")
    return tmp_path / "elsewhere"


def test_a_package_that_shadows_a_wing_is_named(shadow, tmp_path):
    ran = python("import richscape; richscape.theory", tmp_path, shadow)
    last = ran.stderr.splitlines()[-1]
    assert ran.returncode == 1
    assert last.startswith("ImportError: theory ")
    assert str(shadow / "theory" / "__init__.py") in last
    assert str(Path(richscape.__file__).parent / "theory") in last


def test_the_command_line_names_it_in_one_line(shadow, tmp_path):
    code = "import sys, richscape; sys.argv = ['richscape', 'derive']; richscape.main()"
    ran = python(code, tmp_path, shadow)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert len(ran.stderr.splitlines()) == 1
    assert ran.stderr.startswith("richscape: theory is found at ")
    assert str(shadow / "theory" / "__init__.py") in ran.stderr


def test_a_folder_of_that_name_without_code_is_harmless(tmp_path):
    (tmp_path / "theory").mkdir()
    (tmp_path / "theory" / "notes.txt").write_text("lecture")
    ran = python("import richscape; print(richscape.theory.ToyModel.__name__)", tmp_path, tmp_path)
    assert ran.stdout == "ToyModel\n", ran.stderr
