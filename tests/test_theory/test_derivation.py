"""The checked derivation: it passes, every step of it can fail, and a failure is loud."""

from __future__ import annotations

import dataclasses
import re

import pytest
import sympy as sp

from theory import Derivation, FalsifiedStepError, Step, ToyModel

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
    assert [result.passed for result in derivation.run(strict=False)] == [True, False, False, False]
    markdown, text = derivation.to_markdown(), derivation.to_text()
    assert "FALSIFIED: wrong, broken, undecided" in markdown
    assert markdown.count("**FALSIFIED**") == 3
    assert text.count("FAILED") == 3
    assert "1 of 4 steps checked" in text


def test_markdown_shows_statement_formula_and_check():
    results = DERIVATION.run()
    markdown = DERIVATION.to_markdown(results)
    for result in results:
        assert result.step.statement in markdown
        assert result.step.method in markdown
    assert markdown.count("$$") == 2 * len(results)
    assert "FALSIFIED" not in markdown
