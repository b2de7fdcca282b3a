"""The checked derivation: it passes, every step of it can fail, and a failure is loud."""

from __future__ import annotations

import dataclasses
import re

import pytest
import sympy as sp

import theory.derivation
from theory import Derivation, FalsifiedStepError, InputError, Step, ToyModel
from theory.derivation import CHAPTERS, chapters

DERIVATION = ToyModel().derivation()


def test_every_step_passes_and_is_named_once():
    results = DERIVATION.run()
    assert all(result.passed for result in results)
    names = [result.step.name for result in results]
    assert len(set(names)) == len(names) > 20
    # about 2 s on one slow core; the bound leaves room for a busy machine
    assert sum(result.seconds for result in results) < 15


@pytest.mark.parametrize("step", DERIVATION.steps, ids=lambda step: step.name)
@pytest.mark.parametrize("factor", [sp.Rational(19, 20), sp.Rational(21, 20)])
def test_a_wrong_expression_falsifies_its_step(step, factor):
    wrong = dataclasses.replace(step, expression=step.expression * factor)
    with pytest.raises(FalsifiedStepError, match=re.escape(f"'{step.name}'")):
        Derivation("wrong", (wrong,)).run()


def test_wrong_powers_of_gamma_and_depth_are_caught():
    from theory.symbols import depth, gamma

    for name in ("eta_crit", "eta_crit, rich limit", "eta_min", "eta_min, rich limit", "Apex for L > 2", "eta_max"):
        (step,) = [step for step in DERIVATION.steps if step.name == name]
        for variable in (gamma, depth):
            wrong = dataclasses.replace(step, expression=step.expression * variable ** sp.Rational(1, 10))
            (result,) = Derivation("wrong", (wrong,)).run(strict=False)
            assert not result.passed, (name, variable)


def test_a_failure_is_named_wherever_it_is_shown():
    x = sp.Symbol("x")
    steps = (
        Step("right", "x is x.", "x", x, lambda claimed: claimed == x, "comparison"),
        Step("wrong", "x is 2.", "x", sp.Integer(2), lambda claimed: claimed == x, "comparison"),
        Step("broken", "x is 0.", "x", sp.Integer(0), lambda claimed: 1 // int(claimed) == 1, "division"),
        Step("undecided", "x is big.", "x", x, lambda claimed: claimed > 3, "an undecided relation"),
    )
    derivation = Derivation("Four", steps)
    with pytest.raises(FalsifiedStepError, match=r"'wrong'.*'broken'.*ZeroDivisionError.*'undecided'"):
        derivation.run()
    results = derivation.run(strict=False)
    assert [result.passed for result in results] == [True, False, False, False]
    shown = {
        r"\*\*FALSIFIED\*\*": derivation.to_markdown(results),
        r"\\falsified\{the check": derivation.to_latex(results),
        "✗ FALSIFIED": derivation.to_html(results),
        "✗.*FAILED": derivation.to_text(results),
    }
    for mark, text in shown.items():
        assert "FALSIFIED: wrong, broken, undecided" in text
        assert "1 of 4 steps checked" in text
        assert "ZeroDivisionError" in text
        assert len(re.findall(mark, text)) == 3, mark


def test_chapters_come_by_name_in_a_fixed_order():
    every = chapters()
    titles = [chapter.title for chapter in every]
    assert titles == [title for title in CHAPTERS.values() if title in titles]
    assert all(isinstance(step, Step) for chapter in every for step in chapter.steps)
    for name, title in CHAPTERS.items():
        if title in titles:
            (one,) = chapters([name])
            assert one.title == title
    assert chapters([]) == ()
    with pytest.raises(InputError, match="chapter = 'alchemy'"):
        chapters(["alchemy"])


def test_a_chapter_that_is_not_written_is_left_out_or_refused(monkeypatch):
    monkeypatch.setitem(theory.derivation.CHAPTERS, "unwritten", "Not yet")
    assert "Not yet" not in [chapter.title for chapter in chapters()]
    with pytest.raises(InputError, match="chapter = 'unwritten'"):
        chapters(["unwritten"])
