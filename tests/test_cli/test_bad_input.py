"""Bad input ends in one line that names the field, the value and what is allowed, in exit code 2, and harms nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch

POSITIVE = "must be a positive finite number"
INTEGER = "must be an integer >= 1"

BAD_VALUES = [
    ("simulate", "--gamma 0 1 3", "--gamma LO = 0.0", POSITIVE),
    ("simulate", "--gamma -1 1 3", "--gamma LO = -1.0", POSITIVE),
    ("simulate", "--gamma nan 1 3", "--gamma LO = nan", POSITIVE),
    ("simulate", "--gamma 1 inf 3", "--gamma HI = inf", POSITIVE),
    ("simulate", "--eta 0 1 3", "--eta LO = 0.0", POSITIVE),
    ("simulate", "--eta -1e-3 1 3", "--eta LO = -0.001", POSITIVE),
    ("simulate", "--gamma 2 1 3", "--gamma LO HI = (2.0, 1.0)", "ascending: LO < HI"),
    ("simulate", "--eta 1 1 3", "--eta LO HI = (1.0, 1.0)", "ascending: LO < HI"),
    ("simulate", "--gamma 1 2 0", "--gamma N = 0", INTEGER),
    ("simulate", "--eta 1 2 -5", "--eta N = -5", INTEGER),
    ("simulate", "--depth 0", "depth = 0", INTEGER),
    ("simulate", "--steps 0", "steps = 0", INTEGER),
    ("sweep", "--gamma 0 1 3", "--gamma LO = 0.0", POSITIVE),
    ("sweep", "--eta 1 nan 3", "--eta HI = nan", POSITIVE),
    ("sweep", "--depth 0", "depth = 0", INTEGER),
    ("sweep", "--width -8", "width = -8", INTEGER),
    ("sweep", "--batch-size 0", "batch_size = 0", INTEGER),
    ("sweep", "--steps 0", "steps = 0", INTEGER),
    ("sweep", "--seeds 0", "seeds = 0", INTEGER),
    ("sweep", "--data cifar-11", "data = 'cifar-11'", "must be one of fashion-mnist-deformed"),
    ("sweep", "--image-size 9", "size = 9", "must be one of 7, 14, 28"),
    ("sweep", "--device gpu9", "device = 'gpu9'", "must be one of those on this machine: cpu"),
    ("sweep", "--device cuda", "device = 'cuda'", "must be one of those on this machine: cpu"),
    ("sweep", "--device cuda:1", "device = 'cuda:1'", "must be one of those on this machine: cpu"),
    ("sweep", "--device meta", "device = 'meta'", "must be one of those on this machine: cpu"),
    ("sweep", "--warmup 1.5", "warmup = 1.5", "must be at least 0 and at most 1, a share of the steps"),
    ("sweep", "--warmup nan", "warmup = nan", "must be at least 0 and at most 1, a share of the steps"),
    ("sweep", "--weight-decay -0.1", "weight_decay = -0.1", "must be a finite number, at least 0"),
    ("sweep", "--weight-decay nan", "weight_decay = nan", "must be a finite number, at least 0"),
    ("trace", "--weight-decay inf", "weight_decay = inf", "must be a finite number, at least 0"),
    ("sweep", "--label-noise 1", "label_noise = 1.0", "must be a probability, at least 0 and below 1"),
    ("trace", "--label-noise -0.2", "label_noise = -0.2", "must be a probability, at least 0 and below 1"),
    ("trace", "--gamma 1 0 3", "--gamma HI = 0.0", POSITIVE),
    ("trace", "--resolution 0", "--resolution = 0.0", POSITIVE),
    ("trace", "--resolution nan", "--resolution = nan", POSITIVE),
    ("trace", "--boundaries", "--boundaries = ()", "at least one boundary"),
    ("compare", "--depths 2 0", "depth = 0", INTEGER),
    ("compare", "--depths", "depths = ()", "one or more different depths"),
    ("compare", "--width 0", "width = 0", INTEGER),
    ("compare", "--steps -1", "steps = -1", INTEGER),
    ("compare", "--steps 3", "steps = 3.0", "must be larger"),
    ("compare", "--seeds 0", "seeds = 0", INTEGER),
    ("compare", "--data minst", "data = 'minst'", "must be one of fashion-mnist-deformed"),
    ("compare", "--device gpu9", "device = 'gpu9'", "must be one of those on this machine: cpu"),
]


@pytest.fixture(autouse=True)
def _no_cuda(monkeypatch):
    """The same answers on a machine with a GPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def assert_refused(ran, *parts):
    """One line on stderr with these parts, nothing on stdout, exit code 2."""
    assert ran.code == 2, ran
    assert ran.out == ""
    assert len(ran.err.splitlines()) == 1, ran.err
    assert ran.err.startswith("richscape: ")
    assert "Traceback" not in ran.err
    for part in parts:
        assert part in ran.err


@pytest.mark.parametrize(("command", "words", "what", "allowed"), BAD_VALUES)
def test_a_bad_value_is_named_and_makes_no_directory(run, tmp_path, command, words, what, allowed):
    assert_refused(run(command, *words.split(), "--out", tmp_path / "new"), what, allowed)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("derive --depth 0", "--depth = 0: must be an integer >= 1"),
        ("derive --out table.docx", "--out = 'table.docx': must be"),
    ],
)
def test_derive_refuses(run, words, what):
    assert_refused(run(*words.split()), what)


@pytest.mark.parametrize(
    "words",
    ["--gamma 0 1 3", "--eta 1 nan 3", "--depth 0", "--data cifar-11", "--device gpu9", "--steps 31", "--seeds 3"],
)
def test_nothing_that_was_computed_is_lost(run, contents, commands, swept, words):
    """A bad value, or a good one that the directory was not made with, leaves every byte of a finished run."""
    before = contents(swept)
    assert run(*commands["sweep"], *words.split(), "--out", swept).code == 2
    assert contents(swept) == before
    assert {"portrait.nc", "manifest.json"} < before.keys()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("compare --preset huge", "'huge'"),
        ("sweep --schedule linear", "'linear'"),
        ("compare --steps many", "many"),
        ("simulate --gamma a b c", "--gamma"),
        ("simulate --gamma 1 2", "--gamma"),
        ("sweep --width 8.5", "--width"),
        ("sweep --arch transformer", "transformer"),
        ("sweep --learning-rate 3", "--learning-rate"),
        ("trace --boundaries eta_top", "eta_top"),
        ("paint", "paint"),
        ("simulate", "--out"),
    ],
)
def test_what_the_parser_refuses_also_exits_with_2(run, tmp_path, words, said):
    command = words.split()
    if words not in {"simulate", "paint"}:
        command += ["--out", tmp_path / "new"]
    ran = run(*command)
    assert ran.code == 2
    assert said in ran.err + ran.out
    assert "Traceback" not in ran.err
    assert not (tmp_path / "new").exists()


def test_out_below_a_file_is_refused(run, commands, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    place = tmp_path / "notes.txt" / "run"
    assert_refused(run(*commands["simulate"], "--out", place), f"--out = {str(place)!r}"[:60], "a folder that can be")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_out_that_is_a_file_is_refused(run, commands, tmp_path):
    place = tmp_path / "notes.txt"
    place.write_text("mine")
    assert_refused(run(*commands["sweep"], "--out", place), "--out = ", "a folder that can be written to")
    assert place.read_text() == "mine"


def test_out_with_other_files_is_refused(run, commands, contents, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    before = contents(tmp_path)
    ran = run(*commands["trace"], "--out", tmp_path)
    assert_refused(ran, "--out = ", "'thesis.tex' but no manifest.json", "empty, new, or an earlier run")
    assert contents(tmp_path) == before


def test_another_configuration_is_refused_with_the_fields_that_differ(run, commands, contents, simulated):
    before = contents(simulated)
    ran = run(*commands["simulate"], "--steps", "500", "--out", simulated)
    assert_refused(ran, "--out = ", "the same configuration", "steps: 2000 there, 500 here")
    for same in ("depth", "gamma:", "eta:", "loss"):
        assert f"{same}" not in ran.err.split("it differs in")[1]
    assert contents(simulated) == before


def test_another_command_is_refused(run, commands, contents, simulated):
    before = contents(simulated)
    assert_refused(run(*commands["sweep"], "--out", simulated), "command: simulate there, sweep here")
    assert contents(simulated) == before


MANIFESTS = {
    "truncated": lambda text: text[: len(text) // 2],
    "empty": lambda _: "",
    "list": lambda _: "[1, 2]",
    "number": lambda _: "7",
    "without config": lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "config"}),
    "config is a list": lambda text: json.dumps(json.loads(text) | {"config": [1]}),
    "somebody else's": lambda _: '{"name": "my-web-page", "version": "1.0.0"}',
    "not text": lambda _: "\udcff\udcfe",
    "endless nesting": lambda _: "[" * 100_000,
}


@pytest.mark.parametrize("damage", MANIFESTS.values(), ids=MANIFESTS.keys())
def test_a_damaged_manifest_is_refused_and_left_alone(run, commands, contents, simulated, tmp_path, damage):
    place = tmp_path / "run"
    shutil.copytree(simulated, place)
    manifest = place / "manifest.json"
    manifest.write_text(damage(manifest.read_text()), errors="surrogateescape")
    before = contents(place)
    assert_refused(run(*commands["simulate"], "--out", place), "--out = ", "truncated or foreign", "another --out")
    assert contents(place) == before


def test_a_real_process_prints_one_line(tmp_path):
    command = [sys.executable, "-m", "richscape", "simulate", "--gamma", "0", "1", "3", "--out", str(tmp_path / "new")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "richscape: --gamma LO = 0.0: must be a positive finite number\n"
    assert not (tmp_path / "new").exists()
