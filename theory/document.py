"""What ``richscape derive`` shows: a table of boundaries and chapters of checked steps, and its form for a terminal.

A document knows no output format; ``theory.rendering`` turns it into Markdown, LaTeX and HTML.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

import sympy as sp
from sympy.printing.pretty.pretty_symbology import pretty_symbol
from sympy.printing.str import StrPrinter

from theory.boundaries import BOUNDARIES, Boundary, Regime
from theory.errors import InputError, positive_integer
from theory.symbols import depth as layers
from theory.symbols import gamma

if TYPE_CHECKING:
    from theory.derivation import StepResult
    from theory.toy_model import ToyModel

WIDTH = 80
_NAME, _LAZY, _RICH = 10, 28, 40  # columns of the table of limits, with a space or two between them
_SPOKEN = {"mse": "MSE", "gd": "gradient descent", "momentum": "heavy ball", "sign": "sign descent"}
_NAMES = "FGHKMN"  # given to hypergeometric functions
_SHORT = {"CrisisRatio": "r", "LazyBand": "c", "C_rich": "C"}  # names of functions of L
_MEANINGS = {
    "CrisisRatio": "r(L) is the boundary crisis of the map, a number for each L",
    "LazyBand": "c(L) is the boundary crisis of the lazy map, a number for each L",
    "C_rich": "C(L) is the boundary crisis of the rich map, a number for each L",
    "eta_max": "eta_max(γ, L) is the boundary crisis of the map at this γ, found by bisection",
    "f_T": "f_T(level) is the output at which the loss has fallen to level times its start",
}
_SYMBOLS = {
    "T": "T is the budget in optimizer steps.",
    "level": "level is the fraction of the initial loss to be reached.",
    "beta": "β is the momentum.",
    "delta": "δ is the relative error that is allowed at the end.",
}


@dataclass(frozen=True)
class Case:
    """An expression, and where it holds; a limit keeps its coefficient and its power of γ apart.

    Args:
        value: the expression, or the coefficient of ``power``.
        condition: plain text such as "L = 2"; empty when it holds for every L.
        power: what ``value`` is multiplied by.
    """

    value: sp.Expr
    condition: str = ""
    power: sp.Expr = sp.S.One


@dataclass(frozen=True)
class Row:
    """One boundary of the table.

    Args:
        name: "eta_crit", for example.
        exact: the exact expression, case by case.
        lazy: leading behaviour as γ → 0.
        rich: leading behaviour as γ → ∞.
    """

    name: str
    exact: tuple[Case, ...]
    lazy: tuple[Case, ...]
    rich: tuple[Case, ...]


@dataclass(frozen=True)
class BoundaryTable:
    """The boundaries of one model.

    Args:
        title: heading.
        rows: one per boundary.
        functions: what short names in the expressions stand for: left-hand side, right-hand side.
        notes: sentences below the table.
    """

    title: str
    rows: tuple[Row, ...]
    functions: tuple[tuple[sp.Expr, sp.Expr], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chapter:
    """A derivation that has been run.

    Args:
        title: heading.
        results: one per step.
    """

    title: str
    results: tuple[StepResult, ...]


@dataclass(frozen=True)
class Document:
    """All that is shown.

    Args:
        title: heading.
        chapters: in reading order.
        table: boundaries, when the document is about a model.
    """

    title: str
    chapters: tuple[Chapter, ...]
    table: BoundaryTable | None = None

    @property
    def results(self) -> tuple[StepResult, ...]:
        """Results of all chapters."""
        return tuple(result for chapter in self.chapters for result in chapter.results)

    def summary(self) -> str:
        """How many steps passed, in what time, and the names of those that did not."""
        return summary(self.results)


def summary(results: Sequence[StepResult]) -> str:
    """How many steps passed, in what time, and the names of those that did not.

    Args:
        results: from ``Derivation.run``.

    Returns:
        One sentence.
    """
    passed = sum(result.passed for result in results)
    text = f"{passed} of {len(results)} steps checked in {sum(result.seconds for result in results):.2f} s"
    failed = [result.step.name for result in results if not result.passed]
    return text + ("." if not failed else "; FALSIFIED: " + ", ".join(failed) + ".")


def boundary_table(model: ToyModel, depth: int | None = None) -> BoundaryTable:
    """The boundaries of a model with their exact expressions and limits.

    Args:
        model: the toy model.
        depth: number of layers to put in; symbolic when left out.

    Returns:
        The table; a boundary that the model does not have is named in a note.

    Raises:
        InputError: ``depth`` is not an integer >= 1, or the model has none of the boundaries.
    """
    if depth is not None:
        positive_integer("depth", depth)
    rows, absent = [], []
    for name in BOUNDARIES:
        try:
            edge = model.boundary(name)
        except InputError as error:
            absent.append(error)
            continue
        expr = edge.expr if depth is None else edge.expr.subs(layers, depth)
        rows.append(Row(name, _cases(expr), _limits(edge, "lazy", depth), _limits(edge, "rich", depth)))
    if not rows:
        raise absent[0]
    rows, functions = _abbreviated(rows)
    notes = [
        *_notes(rows, depth),
        *(f"{error.given} is not in the table; there is {error.allowed}." for error in absent),
    ]
    what = [_SPOKEN.get(name, str(name)) for name in (model.loss, model.optimizer)]
    title = f"Boundaries of the γ–η plane: {', '.join(what)}, {'every L' if depth is None else f'L = {depth}'}"
    return BoundaryTable(title, tuple(rows), functions, tuple(notes))


def _notes(rows: Sequence[Row], depth: int | None) -> list[str]:
    # what the symbols and functions in a table mean, and the values of the functions of L
    values = [case.value for row in rows for case in (*row.exact, *row.lazy, *row.rich)]
    found = {type(part) for value in values for part in value.atoms(sp.Function)}
    notes = []
    for function in sorted(found, key=lambda kind: kind.__name__):
        if (meaning := _MEANINGS.get(function.__name__)) is None:
            continue
        if function.nargs == {1} and function.__name__ != "f_T":
            name = _SHORT.get(function.__name__, function.__name__)
            numbers = [(count, function(count).evalf(8)) for count in ([depth] if depth is not None else range(2, 7))]
            shown = [
                f"{name}({count}) = {float(number):#.4g}"
                for count, number in numbers
                if number.is_Float or number.is_Integer
            ]
            meaning += ": " + ", ".join(shown)
        notes.append(meaning + ".")
    symbols = {symbol.name for value in values for symbol in value.free_symbols}
    return notes + [meaning for name, meaning in _SYMBOLS.items() if name in symbols]


def _cases(expr: sp.Expr) -> tuple[Case, ...]:
    factors = sp.Mul.make_args(expr)
    pieces = [factor for factor in factors if isinstance(factor, sp.Piecewise)]
    if len(pieces) != 1:
        return (Case(expr),)
    rest = sp.Mul(*(factor for factor in factors if factor != pieces[0]))
    return tuple(Case(rest * branch, _condition(condition) or "otherwise") for branch, condition in pieces[0].args)


def _condition(condition: sp.Basic) -> str:
    if condition == sp.true:
        return ""
    text = f"{condition.lhs} = {condition.rhs}" if isinstance(condition, sp.Eq) else str(condition)
    return text.replace(">=", "≥").replace("<=", "≤").replace("gamma", "γ")


def _limits(edge: Boundary, regime: Regime, depth: int | None) -> tuple[Case, ...]:
    if regime not in edge.limits:
        return ()
    limit = edge.limit(regime, depth)
    special = {} if depth is not None else edge.special_limits
    found = [(limit, _condition(limit.condition))]
    found += [(value, f"L = {count}") for (at, count), value in sorted(special.items()) if at == regime]
    return tuple(Case(one.coefficient, where, gamma**one.exponent) for one, where in found)


def _abbreviated(rows: Sequence[Row]) -> tuple[list[Row], tuple[tuple[sp.Expr, sp.Expr], ...]]:
    # one short name for each hypergeometric function, whatever its argument, and for each integral in a limit
    known: dict[object, sp.Expr] = {}
    integrals: dict[sp.Expr, sp.Expr] = {}
    z = sp.Symbol("z")

    def short(*parameters: sp.Basic) -> sp.Expr:
        if parameters[:2] not in known:
            known[parameters[:2]] = sp.Function(_NAMES[len(known)])
        return known[parameters[:2]](parameters[2])

    def constant(*parts: sp.Basic) -> sp.Expr:
        return integrals.setdefault(sp.Integral(*parts), sp.Symbol(f"I_{len(integrals) + 1}"))

    def shortened(cases: tuple[Case, ...], limit: bool = True) -> tuple[Case, ...]:
        done = [replace(case, value=case.value.replace(sp.hyper, short)) for case in cases]
        return (
            tuple(replace(one, value=one.value.replace(sp.Integral, constant)) for one in done)
            if limit
            else tuple(done)
        )

    done = [Row(row.name, shortened(row.exact, False), shortened(row.lazy), shortened(row.rich)) for row in rows]
    functions = [(name(z), sp.hyper(*parameters, z)) for parameters, name in known.items()]  # type: ignore[misc]
    return done, (*functions, *((name, integral) for integral, name in integrals.items()))


# --- terminal


class _Line(StrPrinter):
    """An expression on one line, as one would type it in a letter."""

    def _print_Symbol(self, expr: sp.Symbol) -> str:  # noqa: N802 (SymPy's name)
        return str(pretty_symbol(expr.name)) if "_" not in expr.name else expr.name

    def _print_Exp1(self, expr: sp.Expr) -> str:  # noqa: N802
        return "e"

    def _print_Function(self, expr: sp.Function) -> str:  # noqa: N802
        name = type(expr).__name__
        return _SHORT.get(name, name) + f"({', '.join(map(self._print, expr.args))})"


def _on_the_line(expr: sp.Expr) -> str:
    return _Line().doprint(expr).replace("**", "^").replace("sqrt(level)", "√level").replace("*", " ")


def _block(expr: sp.Expr, width: int) -> list[str]:
    # two-dimensional where it fits, else wrapped on the line
    shown = expr
    for function in {type(part) for part in expr.atoms(sp.Function)}:
        if function.__name__ in _SHORT:
            shown = shown.replace(function, sp.Function(_SHORT[function.__name__]))
    lines = sp.pretty(shown, use_unicode=True, wrap_line=False).splitlines()
    if max(map(len, lines)) <= width:
        return [line.rstrip() for line in lines]
    return textwrap.wrap(_on_the_line(expr), width)


def _function_text(left: sp.Expr, right: sp.Expr) -> list[str]:
    if isinstance(right, sp.hyper):
        upper, lower, argument = right.args
        parts = (", ".join(map(str, upper)), ", ".join(map(str, lower)), str(argument))
        return [f"with {left} = hypergeometric {len(upper)}F{len(lower)}({'; '.join(parts)})", ""]
    return [f"with {left} =", *("    " + line for line in _block(right, WIDTH - 4)), ""]


def _limit_text(case: Case) -> str:
    power = _on_the_line(case.power)
    if case.value == 1:
        return power
    coefficient = _on_the_line(case.value)
    simple = case.value.is_Integer or case.value.is_Symbol or case.value.is_Function
    return f"{coefficient} {power}" if simple else f"({coefficient}) {power}"


def _cell(cases: tuple[Case, ...], width: int) -> list[str]:
    lines: list[str] = []
    for case in cases:
        where = f"  ({case.condition})" if case.condition else ""
        wrapped = textwrap.wrap(_limit_text(case), width, subsequent_indent="  ")
        if len(wrapped[-1]) + len(where) > width:
            wrapped.append("")
        wrapped[-1] += where
        lines += wrapped
    return lines


def table_text(table: BoundaryTable) -> str:
    """The table for a terminal of 80 columns: the limits side by side, then the exact expressions.

    Args:
        table: the boundaries.

    Returns:
        Lines of at most 80 characters, ending in a newline.
    """
    rule = "─" * WIDTH
    lines = [table.title, rule, f"{'':{_NAME}}{'lazy, γ → 0':{_LAZY}}  rich, γ → ∞", rule]
    for row in table.rows:
        lazy, rich = _cell(row.lazy, _LAZY), _cell(row.rich, _RICH)
        columns = zip_longest([row.name], lazy, rich, fillvalue="")
        lines += [f"{name:{_NAME}}{left:{_LAZY}}  {right}".rstrip() for name, left, right in columns] + [rule]
    lines += ["", "Exactly:", ""]
    for row in table.rows:
        for number, case in enumerate(row.exact):
            where = f" ({case.condition})" if case.condition else ""
            lines += ["" for _ in range(number > 0)] + [f"{row.name}{where} ="]
            lines += ["    " + line for line in _block(case.value, WIDTH - 4)]
        lines.append("")
    for pair in table.functions:
        lines += _function_text(*pair)
    for note in table.notes:
        lines += textwrap.wrap(note, WIDTH)
    return "\n".join([*lines, ""])


def steps_text(title: str, results: Sequence[StepResult]) -> str:
    """The steps for a terminal of 80 columns: a mark, seconds, name, and the statement below.

    Args:
        title: heading.
        results: from ``Derivation.run``.

    Returns:
        The lines, then a summary. Ends in a newline.
    """
    lines = [title, "─" * WIDTH]
    for result in results:
        mark, loud = ("✓", "") if result.passed else ("✗", "  FAILED")
        lines.append(f"{mark} {result.seconds:5.2f} s  {result.step.name}{loud}")
        indent = " " * 11
        lines += textwrap.wrap(result.step.statement, WIDTH, initial_indent=indent, subsequent_indent=indent)
        if result.problem:
            lines += textwrap.wrap(result.problem, WIDTH, initial_indent=indent, subsequent_indent=indent)
    return "\n".join([*lines, "─" * WIDTH, *textwrap.wrap(summary(results), WIDTH), ""])


def write_up(model: ToyModel, depth: int | None, chapter: str | None, tell: Callable[[str], object]) -> Document:
    """Derive and check, and tell each part when it is there.

    Args:
        model: the toy.
        depth: number of layers L of the table; symbolic when ``None``.
        chapter: a further chapter, ``all`` of them, or ``None``.
        tell: called with the table, then with the steps of each chapter, as text for a terminal.

    Returns:
        The document, with the steps that failed in it.
    """
    from theory.derivation import chapters

    table = boundary_table(model, depth)
    tell(table_text(table))
    further = chapters(None if chapter == "all" else [chapter]) if chapter else ()
    done = []
    for derivation in (model.derivation(), *further):
        done.append(Chapter(derivation.title, derivation.run(strict=False)))
        tell(steps_text(derivation.title, done[-1].results))
    return Document(done[0].title, tuple(done), table)
