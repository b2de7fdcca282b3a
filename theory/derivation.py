"""A derivation: a list of steps, each a statement, the expression it asserts, and a check that runs.

A check receives the asserted expression and tests it by other means than those that produced it; so replacing the
expression by another one falsifies the step. Nothing here knows any physics.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sympy as sp


@dataclass(frozen=True)
class Step:
    """One step of a derivation.

    Args:
        name: short name, unique in its derivation; errors name it.
        statement: one sentence.
        label: LaTeX of the left-hand side, what the expression is.
        expression: the asserted right-hand side.
        check: takes the expression, returns ``True`` when it is right.
        method: how the check tests it, in words.
    """

    name: str
    statement: str
    label: str
    expression: sp.Basic
    check: Callable[[sp.Basic], bool]
    method: str


@dataclass(frozen=True)
class StepResult:
    """What came of running one step.

    Args:
        step: the step.
        passed: whether the check returned ``True``.
        seconds: wall time of the check.
        problem: what the check raised or returned in place of ``True``; empty when it passed.
    """

    step: Step
    passed: bool
    seconds: float
    problem: str = ""


class FalsifiedStepError(Exception):
    """A step of a derivation did not survive its check. The message names every such step.

    Args:
        title: title of the derivation.
        results: results of all steps; at least one did not pass.
    """

    def __init__(self, title: str, results: Sequence[StepResult]) -> None:
        self.results = tuple(results)
        failed = [f"'{result.step.name}' ({result.problem})" for result in results if not result.passed]
        super().__init__(f"{title}: falsified step" + ("s " if len(failed) > 1 else " ") + ", ".join(failed))


@dataclass(frozen=True)
class Derivation:
    """A titled list of steps.

    Args:
        title: heading.
        steps: in the order in which they are read.
    """

    title: str
    steps: tuple[Step, ...]

    def run(self, *, strict: bool = True) -> tuple[StepResult, ...]:
        """Run every check.

        Args:
            strict: raise when a step fails; otherwise failures are in the results, and in what is rendered from them.

        Returns:
            One result per step, in order.

        Raises:
            FalsifiedStepError: ``strict``, and at least one check did not return ``True``.
        """
        results = tuple(_run(step) for step in self.steps)
        if strict and not all(result.passed for result in results):
            raise FalsifiedStepError(self.title, results)
        return results

    def to_markdown(self, results: Sequence[StepResult] | None = None) -> str:
        """Render as Markdown with LaTeX mathematics, one section per step.

        Args:
            results: from ``run``; left out, the checks are run now and failures are shown, not raised.

        Returns:
            The document, ending in a newline.
        """
        results = self.run(strict=False) if results is None else results
        lines = [f"# {self.title}", "", _summary(results), ""]
        for number, result in enumerate(results, start=1):
            step = result.step
            lines += [f"## {number}. {step.name}", "", step.statement, ""]
            lines += ["$$", f"{step.label} = {sp.latex(step.expression)}", "$$", ""]
            lines += [f"{_verdict(result)} ({result.seconds:.2f} s): {step.method}.", ""]
        return "\n".join(lines)

    def to_text(self, results: Sequence[StepResult] | None = None) -> str:
        """Render as a plain table for a terminal.

        Args:
            results: as for ``to_markdown``.

        Returns:
            One line per step: verdict, seconds, name, statement; then a summary. Ends in a newline.
        """
        results = self.run(strict=False) if results is None else results
        width = max((len(result.step.name) for result in results), default=0)
        lines = [self.title]
        for result in results:
            verdict = "ok    " if result.passed else "FAILED"
            lines.append(f"{verdict} {result.seconds:6.2f} s  {result.step.name:<{width}}  {result.step.statement}")
            if result.problem:
                lines.append(f"       {result.problem}")
        return "\n".join([*lines, _summary(results), ""])


def _run(step: Step) -> StepResult:
    start = time.perf_counter()
    try:
        answer: object = step.check(step.expression)
        # an undecided SymPy relation is truthy in places where it must not be: only True passes
        passed = answer is True
        problem = "" if passed else f"the check returned {answer!r}"
    except Exception as error:  # a check that breaks on the expression has not confirmed it
        passed, problem = False, f"the check raised {type(error).__name__}: {error}"
    return StepResult(step, passed, time.perf_counter() - start, problem)


def _verdict(result: StepResult) -> str:
    return "**Checked**" if result.passed else f"**FALSIFIED**, {result.problem}"


def _summary(results: Sequence[StepResult]) -> str:
    passed = sum(result.passed for result in results)
    text = f"{passed} of {len(results)} steps checked in {sum(result.seconds for result in results):.2f} s"
    failed = [result.step.name for result in results if not result.passed]
    return text + ("." if not failed else "; FALSIFIED: " + ", ".join(failed) + ".")
