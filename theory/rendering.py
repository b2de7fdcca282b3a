r"""A document as Markdown with LaTeX, as standalone LaTeX, and as one HTML page that needs no network.

Mathematics has one source, LaTeX: Markdown and LaTeX carry it as it is, the page carries its MathML. Prose
is split into text, mathematics and code by ``theory.prose``.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable
from pathlib import Path

import sympy as sp
from sympy.printing.latex import LatexPrinter
from sympy.printing.precedence import PRECEDENCE

from theory.document import BoundaryTable, Case, Document, Row
from theory.errors import InputError
from theory.prose import latex_text, spans
from theory.symbols import level

SUFFIXES = (".md", ".tex", ".html")
_TEMPLATE = Path(__file__).with_name("derivation.html.jinja")


class _Latex(LatexPrinter):
    """SymPy's LaTeX with hypergeometric functions on one line and cases in full size."""

    def _print_hyper(self, expr: sp.hyper, exp: str | None = None) -> str:
        upper, lower, argument = expr.args
        lists = [", ".join(self._print(entry) for entry in entries) for entries in (upper, lower)]
        power = "" if exp is None else f"^{{{exp}}}"
        inside = rf"{lists[0]};\, {lists[1]};\, {self._print(argument)}"
        return rf"{{}}_{{{len(upper)}}}F_{{{len(lower)}}}{power}\left({inside}\right)"

    def _helper_print_standard_power(self, expr: sp.Pow, template: str) -> str:
        exponent = self._raised(expr.exp)
        base = self.parenthesize(expr.base, PRECEDENCE["Pow"])
        return template % ((rf"{{{base}}}" if expr.base.is_Symbol and "^" in base else base), exponent)

    def _raised(self, exponent: sp.Expr) -> str:
        before = self._settings["fold_short_frac"]
        self._settings["fold_short_frac"] = True  # a raised 2/L is readable, a raised fraction is not
        try:
            return str(self._print(exponent))
        finally:
            self._settings["fold_short_frac"] = before

    def _print_ExpBase(self, expr: sp.exp, exp: str | None = None) -> str:  # noqa: N802 (SymPy's name)
        power = f"e^{{{self._raised(expr.args[0])}}}"
        return power if exp is None else rf"\left({power}\right)^{{{exp}}}"

    def _print_C_rich(self, expr: sp.Function, exp: str | None = None) -> str:  # noqa: N802 (the function's name)
        return rf"C_{{{self._print(expr.args[0])}}}" + ("" if exp is None else f"^{{{exp}}}")

    def _print_eta_max(self, expr: sp.Function, exp: str | None = None) -> str:
        power = "" if exp is None else f"^{{{exp}}}"
        return rf"\eta_{{\mathrm{{max}}}}{power}\left({', '.join(map(self._print, expr.args))}\right)"

    def _print_Piecewise(self, expr: sp.Piecewise) -> str:  # noqa: N802 (SymPy's name)
        rows = []
        for branch, condition in expr.args:
            where = r"\text{otherwise}" if condition == sp.true else rf"\text{{for }} {self._print(condition)}"
            rows.append(rf"\displaystyle {self._print(branch)} & {where}")
        return r"\begin{cases} " + r" \\ ".join(rows) + r" \end{cases}"


def latex(expression: sp.Basic) -> str:
    """LaTeX of an expression, in this project's notation.

    Args:
        expression: any SymPy object.

    Returns:
        LaTeX without delimiters.
    """
    return _Latex({"ln_notation": True, "fold_frac_powers": True, "symbol_names": {level: r"\mathrm{level}"}}).doprint(
        expression
    )


def mathml(source: str, *, display: bool = False) -> str:
    """MathML of a LaTeX formula; the LaTeX itself where it cannot be converted.

    Args:
        source: LaTeX without delimiters.
        display: as a block of its own.

    Returns:
        A ``math`` element.
    """
    import latex2mathml.converter

    # two things that the converter does not know: small fractions, and a power of a derivative
    plain = re.sub(r"\\[td]frac(?![a-z])", r"\\frac", source)
    plain = re.sub(r"('+)\^(\{[^{}]*\}|\w)", lambda m: "^{" + r"\prime" * len(m[1]) + f" {m[2]}}}", plain)
    try:
        return latex2mathml.converter.convert(plain, display="block" if display else "inline")
    except Exception:  # a label that the converter cannot read is still to be seen
        return f"<code>{html.escape(source)}</code>"


def _cases_latex(cases: tuple[Case, ...]) -> list[tuple[str, str]]:
    return [(_case_latex(case), case.condition) for case in cases]


def _case_latex(case: Case) -> str:
    if case.power == 1:
        return latex(case.value)
    coefficient = rf"\left({latex(case.value)}\right)" if case.value.is_Add else latex(case.value)
    return latex(case.power) if case.value == 1 else rf"{coefficient}\, {latex(case.power)}"


def _symbol(row: Row) -> str:
    return rf"\eta_{{\mathrm{{{row.name.removeprefix('eta_')}}}}}"


def _exact(row: Row) -> str:
    cases = _cases_latex(row.exact)
    if len(cases) == 1:
        return f"{_symbol(row)} = {cases[0][0]}"
    values = [rf"\displaystyle {value} & \text{{{_for(where)}}}" for value, where in cases]
    return rf"{_symbol(row)} = \begin{{cases}} " + r" \\ ".join(values) + r" \end{cases}"


def _for(condition: str) -> str:
    return condition if condition == "otherwise" else f"for {condition}"


def _functions(table: BoundaryTable) -> list[str]:
    return [f"{latex(left)} = {latex(right)}" for left, right in table.functions]


# --- Markdown


def _markdown_prose(prose: str) -> str:
    shown = {"text": lambda text: re.sub(r"([*\\<])", r"\\\1", text), "math": "${}$".format, "code": "`{}`".format}
    return "".join(shown[kind](content) for kind, content in spans(prose))


def _markdown_table(table: BoundaryTable) -> list[str]:
    def cell(cases: tuple[Case, ...]) -> str:
        parts = [
            f"${value}$" + (f" ({_markdown_prose(where)})" if where else "") for value, where in _cases_latex(cases)
        ]
        return "; ".join(parts)

    lines = [f"## {table.title}", "", "| | lazy, γ → 0 | rich, γ → ∞ |", "|---|---|---|"]
    lines += [f"| ${_symbol(row)}$ | {cell(row.lazy)} | {cell(row.rich)} |" for row in table.rows]
    lines += ["", "Exactly:", ""]
    for formula in [*map(_exact, table.rows), *_functions(table)]:
        lines += ["$$", formula, "$$", ""]
    for note in table.notes:
        lines += [_markdown_prose(note), ""]
    return lines


def to_markdown(document: Document) -> str:
    """Render as Markdown with LaTeX mathematics.

    Args:
        document: what to show.

    Returns:
        The document, ending in a newline.
    """
    lines = [f"# {document.title}", "", document.summary(), ""]
    lines += [] if document.table is None else _markdown_table(document.table)
    for chapter in document.chapters:
        deep = "##"
        if len(document.chapters) > 1 or document.table is not None:
            lines += [f"## {chapter.title}", ""]
            deep = "###"
        for number, result in enumerate(chapter.results, start=1):
            step = result.step
            lines += [f"{deep} {number}. {_markdown_prose(step.name)}", "", _markdown_prose(step.statement), ""]
            lines += ["$$", f"{step.label} = {latex(step.expression)}", "$$", ""]
            verdict = "✓ **Checked**" if result.passed else f"✗ **FALSIFIED**, {_markdown_prose(result.problem)}"
            lines += [f"{verdict} ({result.seconds:.2f} s): {_markdown_prose(step.method)}.", ""]
    return "\n".join(lines)


# --- LaTeX

_PREAMBLE = r"""\documentclass[11pt,a4paper]{article}
\usepackage[T1]{fontenc}
\usepackage{amsmath,amssymb,graphicx,xcolor}
\usepackage[margin=25mm]{geometry}
\setlength{\parindent}{0pt}\setlength{\parskip}{0.5ex plus 0.3ex}
\definecolor{good}{HTML}{14694F}\definecolor{bad}{HTML}{B3261E}
% a formula that is wider than the page is scaled down to fit it
\newsavebox{\formulabox}
\newcommand{\formula}[1]{\par\smallskip\sbox{\formulabox}{$\displaystyle #1$}\begin{center}%
\ifdim\wd\formulabox>\linewidth\resizebox{\linewidth}{!}{\usebox{\formulabox}}\else\usebox{\formulabox}\fi
\end{center}}
\newcommand{\checked}[1]{{\color{good}\ensuremath{\checkmark}}\ {\small\color{gray}#1}}
\newcommand{\falsified}[1]{{\color{bad}\bfseries\ensuremath{\times}\ FALSIFIED}\ {\small #1}}
"""


def _latex_prose(prose: str) -> str:
    shown: dict[str, Callable[[str], str]] = {
        "text": latex_text,
        "math": lambda source: f"${source}$",
        "code": lambda code: rf"\texttt{{{latex_text(code)}}}",
    }
    return "".join(shown[kind](content) for kind, content in spans(prose))


def _latex_table(table: BoundaryTable) -> list[str]:
    def cell(cases: tuple[Case, ...]) -> str:
        parts = [
            rf"$\displaystyle {value}$" + (f" ({_latex_prose(where)})" if where else "")
            for value, where in _cases_latex(cases)
        ]
        return r"\renewcommand{\arraystretch}{2}\begin{tabular}{@{}l@{}}" + r"\\".join(parts) + r"\end{tabular}"

    lines = [rf"\section*{{{_latex_prose(table.title)}}}", r"\begin{center}\renewcommand{\arraystretch}{2.2}"]
    lines += [r"\begin{tabular}{lll}", r"\hline", r" & lazy, $\gamma \to 0$ & rich, $\gamma \to \infty$ \\ \hline"]
    lines += [rf"${_symbol(row)}$ & {cell(row.lazy)} & {cell(row.rich)} \\ \hline" for row in table.rows]
    lines += [r"\end{tabular}\end{center}", "Exactly:"]
    lines += [rf"\formula{{{source}}}" for source in [*map(_exact, table.rows), *_functions(table)]]
    return [*lines, *(_latex_prose(note) + "\n" for note in table.notes)]


def to_latex(document: Document) -> str:
    """Render as a LaTeX document that compiles on its own.

    Args:
        document: what to show.

    Returns:
        The source, ending in a newline; ASCII wherever the text uses characters that this module knows.
    """
    lines = [_PREAMBLE, rf"\title{{{_latex_prose(document.title)}}}\author{{}}\date{{}}", r"\begin{document}\maketitle"]
    lines += [_latex_prose(document.summary()), ""]
    lines += [] if document.table is None else _latex_table(document.table)
    for chapter in document.chapters:
        lines += [rf"\section*{{{_latex_prose(chapter.title)}}}"]
        for number, result in enumerate(chapter.results, start=1):
            step = result.step
            lines += [rf"\subsection*{{{number}. {_latex_prose(step.name)}}}", _latex_prose(step.statement)]
            lines += [rf"\formula{{{step.label} = {latex(step.expression)}}}"]
            tail = f"{result.seconds:.2f} s: {_latex_prose(step.method)}."
            mark = rf"\checked{{{tail}}}" if result.passed else rf"\falsified{{{_latex_prose(result.problem)}; {tail}}}"
            lines += [mark, ""]
    return "\n".join([*lines, r"\end{document}", ""])


# --- HTML


def _html_prose(prose: str) -> str:
    shown: dict[str, Callable[[str], str]] = {
        "text": html.escape,
        "math": mathml,
        "code": lambda code: f"<code>{html.escape(code)}</code>",
    }
    return "".join(shown[kind](content) for kind, content in spans(prose))


def to_html(document: Document) -> str:
    """Render as one HTML page with MathML: no script, no font, no picture, no network.

    Args:
        document: what to show.

    Returns:
        The page, ending in a newline.
    """
    import jinja2
    from markupsafe import Markup

    def block(source: str) -> Markup:
        return Markup(mathml(source, display=True))

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "prose": lambda prose: Markup(_html_prose(prose)),
        "formula": block,
        "inline": lambda source: Markup(mathml(rf"\displaystyle {source}")),
    }
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    names = {"latex": latex, "symbol": _symbol, "exact": _exact, "functions": _functions, "cases": _cases_latex}
    return template.render(document=document, table=document.table, **names) + "\n"


def render(document: Document, path: Path) -> str:
    """Render in the format that a file's name asks for.

    Args:
        document: what to show.
        path: a name ending in .md, .tex or .html.

    Returns:
        The content of the file.

    Raises:
        InputError: any other suffix.
    """
    renderers = {".md": to_markdown, ".tex": to_latex, ".html": to_html}
    return renderers[checked_suffix(path)](document)


def checked_suffix(path: Path) -> str:
    """Check that a file's name asks for a known format.

    Args:
        path: the file.

    Returns:
        Its suffix.

    Raises:
        InputError: a suffix other than .md, .tex and .html.
    """
    if path.suffix not in SUFFIXES:
        raise InputError("--out", str(path), "a file ending in " + ", ".join(SUFFIXES))
    return path.suffix


def save(document: Document, path: Path) -> None:
    """Render into a file, which is replaced in one step: never half of it.

    Args:
        document: what to show.
        path: a name ending in .md, .tex or .html.

    Raises:
        InputError: any other suffix, or a place that cannot be written to.
    """
    content = render(document, path)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(content, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError("--out", str(path), f"writable ({error.strerror or error})") from None
