"""A derivation: a list of steps, each a statement, the expression it asserts, and a check that runs.

A check receives the asserted expression and tests it by other means than those that produced it; so replacing the
expression by another one falsifies the step. Nothing here knows any physics.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import sympy as sp

from theory.errors import one_of

if TYPE_CHECKING:
    from theory.document import Document


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
        from theory.rendering import to_markdown

        return to_markdown(self.document(results))

    def to_latex(self, results: Sequence[StepResult] | None = None) -> str:
        """Render as a LaTeX document that compiles on its own.

        Args:
            results: as for ``to_markdown``.

        Returns:
            The source, ending in a newline.
        """
        from theory.rendering import to_latex

        return to_latex(self.document(results))

    def to_html(self, results: Sequence[StepResult] | None = None) -> str:
        """Render as one HTML page with MathML, readable without a network.

        Args:
            results: as for ``to_markdown``.

        Returns:
            The page, ending in a newline.
        """
        from theory.rendering import to_html

        return to_html(self.document(results))

    def to_text(self, results: Sequence[StepResult] | None = None) -> str:
        """Render for a terminal of 80 columns.

        Args:
            results: as for ``to_markdown``.

        Returns:
            For each step a mark, seconds, name and statement; then a summary. Ends in a newline.
        """
        from theory.document import steps_text

        return steps_text(self.title, self.run(strict=False) if results is None else results)

    def document(self, results: Sequence[StepResult] | None = None) -> Document:
        """This derivation as a document of one chapter.

        Args:
            results: as for ``to_markdown``.

        Returns:
            What the renderers take.
        """
        from theory.document import Chapter, Document

        done = self.run(strict=False) if results is None else tuple(results)
        return Document(self.title, (Chapter(self.title, done),))


#: further chapters: a module ``theory.<name>`` with a function ``steps``, and its heading
CHAPTERS = {
    "flow_forms": "Gradient flow: elementary times, collapse in τ, plateau exit",
    "cascade": "Above eta_crit: period doubling",
    "crisis": "Above eta_crit: the boundary crisis",
    "band": "Above eta_crit: the cross-entropy band",
    "catapult": "Catapults in two directions",
    "deep_linear": "Deep linear networks: modes and staircases",
    "conserved": "Conserved quantities",
    "euler_degree": "The Euler degree",
    "degree_law": "The Euler-degree law",
    "kernel_growth": "How the kernel grows from the start, and eta_min",
    "residual": "Residual toys: terms of several degrees",
    "residual_stages": "A residual toy with two stages",
}


def chapters(names: Sequence[str] | None = None) -> tuple[Derivation, ...]:
    """Derivations beyond the γ–η plane, unrun.

    Args:
        names: keys of ``CHAPTERS``; left out, every chapter there is.

    Returns:
        One derivation per chapter, in the order of ``CHAPTERS``.

    Raises:
        InputError: a name without a chapter.
    """
    written = {name: module for name in CHAPTERS if (module := _module(name)) is not None}
    for name in names or ():
        one_of("chapter", name, tuple(written))
    chosen = [name for name in written if names is None or name in names]
    return tuple(Derivation(CHAPTERS[name], tuple(written[name].steps())) for name in chosen)


def _module(name: str) -> ModuleType | None:
    # None for a chapter that is listed but not written
    if importlib.util.find_spec(f"theory.{name}") is None:
        return None
    module = importlib.import_module(f"theory.{name}")
    return module if hasattr(module, "steps") else None


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
