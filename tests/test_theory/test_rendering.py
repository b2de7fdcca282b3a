"""Markdown, LaTeX, HTML and the terminal: nothing is lost, everything is balanced, nothing needs a network.

No oracle shares code with the renderers: an HTML parser of the standard library, a brace counter, and pdflatex where
there is one.
"""

from __future__ import annotations

import html.parser
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import sympy as sp

from theory import Derivation, InputError, Step, ToyModel
from theory.crisis import CrisisRatio
from theory.derivation import chapters
from theory.document import Chapter, Document, boundary_table, steps_text, table_text
from theory.prose import spans
from theory.rendering import latex, mathml, render, to_html, to_latex, to_markdown
from theory.symbols import depth, gamma, level

MODEL = ToyModel()
RESULTS = MODEL.derivation().run()


def documents() -> dict[str, Document]:
    """The document of the model for every L, and one at a depth."""
    chapter = (Chapter("The γ–η plane", RESULTS),)
    return {
        "every": Document("All L", chapter, boundary_table(MODEL)),
        "three": Document("L = 3", chapter, boundary_table(MODEL, 3)),
    }


@pytest.fixture(scope="module", params=["every", "three"])
def document(request) -> Document:
    return documents()[request.param]


class Page(html.parser.HTMLParser):
    """Tags that do not match, outside references, and how many formulas there are."""

    VOID = ("meta", "link", "br", "img", "hr", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.outside: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.outside += [value for name, value in attrs if name in {"src", "href"} and not value.startswith("#")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def read(page: str) -> Page:
    parser = Page()
    parser.feed(page)
    parser.close()
    return parser


def test_the_page_is_well_formed_and_stands_alone(document):
    source = to_html(document)
    page = read(source)
    assert (page.wrong, page.open, page.outside) == ([], [], [])
    assert "script" not in page.seen
    assert not re.search(r"@import|url\(|@font-face", source)
    # a formula for each step at least, and none that could not be converted
    assert page.seen.count("math") > len(RESULTS) + 9
    assert "<code>" not in source
    assert source.count("✓ checked") == len(RESULTS)
    leftover = re.sub(r"<[^>]*>", " ", source)
    assert not re.findall(r"\\[a-z]+", leftover), "LaTeX is left in the page"


def balanced(source: str) -> bool:
    """Braces, environments, \\left–\\right and dollars."""
    bare = re.sub(r"\\[\\{}$&%#]", "", re.sub(r"(?m)(?<!\\)%.*$", "", source))
    level = 0
    for letter in bare:
        level += {"{": 1, "}": -1}.get(letter, 0)
        if level < 0:
            return False
    names: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+\*?)\}", source):
        if kind == "begin":
            names.append(name)
        elif not names or names.pop() != name:
            return False
    sides = [len(re.findall(rf"\\{side}(?![a-z])", source)) for side in ("left", "right")]
    return level == 0 and not names and sides[0] == sides[1] and bare.count("$") % 2 == 0


def test_the_balance_test_can_fail():
    assert balanced(r"\begin{a}{\left(1\right)}\end{a} $x$ \{")
    for wrong in (r"{", r"}{", r"\begin{a}\end{b}", r"\left(", r"$x", r"\begin{a}"):
        assert not balanced(wrong), wrong


def test_latex_is_ascii_and_balanced(document):
    source = to_latex(document)
    assert source.isascii(), set(re.findall(r"[^ -~\n]", source))
    assert balanced(source)
    assert source.count(r"\checked{") == len(RESULTS)
    # outside mathematics no character is left that LaTeX would take for an operator
    prose = re.sub(
        r"\\[\\_^$&{}]|\$[^$]*\$|\\formula\{.*\}|\\begin\{tabular\}.*?\\end\{tabular\}",
        "",
        source.split(r"\maketitle")[1],
    )
    prose = re.sub(r"\\ensuremath\{[^}]*(\{[^}]*\})?[^}]*\}", "", prose)
    assert not re.search(r"(?m)^(?!\$)[^\\$]*[_^]", prose)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_compiles(document, tmp_path):
    (tmp_path / "page.tex").write_text(to_latex(document))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:]


def test_markdown_has_every_statement_formula_and_check(document):
    markdown = to_markdown(document)
    assert markdown.count("$$") % 2 == 0
    assert markdown.count("✓ **Checked**") == len(RESULTS)
    assert balanced(markdown)
    for result in RESULTS:
        assert f"{result.step.label} = {latex(result.step.expression)}" in markdown
    assert "The loss is least, and zero, at one balanced weight." in markdown
    assert "At $w_{1}$ = … = $w_{L}$ = w" in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("| $")]
    assert len(rows) == 3
    assert all(row.count("|") == 4 for row in rows)


def test_the_terminal_has_80_columns(document):
    text = table_text(document.table) + steps_text("Steps", RESULTS)
    assert max(map(len, text.splitlines())) <= 80
    for result in RESULTS:
        assert f"s  {result.step.name}\n" in text
    assert text.count("✓") == len(RESULTS)


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 7])
def test_the_table_at_a_depth_is_the_table_for_every_depth(layers):
    """Values at one point, from the expressions shown, against the boundaries' own numeric form."""
    table = boundary_table(MODEL, layers)
    functions = {left.func: right for left, right in table.functions}
    z = sp.Symbol("z")
    point = {gamma: sp.Rational(3, 2), level: sp.Rational(9, 10), sp.Symbol("T", positive=True): 50}
    for row in table.rows:
        (case,) = row.exact
        value = case.value
        for name, meaning in functions.items():
            value = value.replace(name, lambda at, meaning=meaning: meaning.subs(z, at))
        expected = MODEL.boundary(row.name).numeric(gamma=1.5, depth=layers, steps=50)
        assert float(value.subs(point).evalf(20)) == pytest.approx(float(expected), rel=1e-12)
        for cases, regime in ((row.lazy, "lazy"), (row.rich, "rich")):
            limit = MODEL.boundary(row.name).limit(regime, layers)
            assert [sp.simplify(c.value * c.power - limit.coefficient * gamma**limit.exponent) for c in cases] == [0]


def test_the_limits_read_as_in_a_textbook():
    entropy = " ".join(table_text(boundary_table(ToyModel(loss="cross-entropy"))).split())
    assert "c(2) = 7.437, c(3) = 2.255, c(4) = 1.590, c(5) = 1.111, c(6) = 0.9314." in entropy
    text = table_text(boundary_table(MODEL))
    assert re.search(r"eta_crit +\(2/L\) γ\^2 +\(2/L\) γ\^\(2/L\)\n", text)
    assert re.search(r"eta_min .* \(1/\(T \(L - 2\)\)\) γ  \(L > 2\)\n", text)
    assert "r(2) = 2.000, r(3) = 2.150," in " ".join(text.split())
    markdown = to_markdown(documents()["every"])
    assert r"| $\eta_{\mathrm{crit}}$ | $\frac{2}{L}\, \gamma^{2}$ | $\frac{2}{L}\, \gamma^{2 / L}$ |" in markdown


@pytest.mark.parametrize(
    ("prose", "expected"),
    [
        ("w_1² − w_2²", [("math", "w_{1}"), ("text", "² − "), ("math", "w_{2}"), ("text", "²")]),
        (
            "below eta_crit, e^(−x)",
            [("text", "below "), ("math", r"\eta_{\mathrm{crit}}"), ("text", ", "), ("math", "e^{-x}")],
        ),
        ("10^25 and $a_b$", [("math", "10^{25}"), ("text", " and "), ("math", "a_b")]),
        ("W_1W_2", [("math", "W_{1}"), ("math", "W_{2}")]),
        ("W_ℓW_ℓᵀ", [("math", r"W_{\ell}"), ("math", r"W_{\ell}"), ("text", "ᵀ")]),
        (
            "call `phase_portrait`, train_loss",
            [("text", "call "), ("code", "phase_portrait"), ("text", ", train_loss")],
        ),
        ("", []),
    ],
)
def test_mathematics_in_prose_is_found(prose, expected):
    assert spans(prose) == expected


def test_special_functions_are_written_as_mathematicians_do():
    z = sp.Symbol("z")
    shown = latex(sp.hyper((1, 2 / depth - 1), (2 / depth,), z))
    assert shown == r"{}_{2}F_{1}\left(1, -1 + \frac{2}{L};\, \frac{2}{L};\, z\right)"
    assert latex((1 + gamma) ** (2 - 2 / depth)) == r"\left(\gamma + 1\right)^{2 - 2 / L}"
    assert latex(CrisisRatio(depth) ** 2) == "r_{L}^{2}"
    assert latex(sp.log(level)) == r"\ln{\left(\mathrm{level} \right)}"
    cases = latex(sp.Piecewise((1, sp.Eq(depth, 2)), (gamma, True)))
    assert cases.startswith(r"\begin{cases} \displaystyle 1 & \text{for } L = 2 \\")
    assert latex(sp.exp((gamma - 1) / depth)) == r"e^{\left(\gamma - 1\right) / L}"
    for source in (shown, cases, r"\tfrac12 g''^2 + \tfrac13 g'''"):
        page = read(mathml(source, display=True))
        assert "math" in page.seen
        assert (page.wrong, page.open) == ([], [])


def test_prose_from_a_user_cannot_break_a_page():
    x = sp.Symbol("x")
    step = Step("a & b_{<i>", "50 % of {x} < y_ \\ # $ *", r"\frac{", x, lambda claimed: claimed == x, "x^ & <b>")
    derivation = Derivation("<script>", (step,))
    page = read(derivation.to_html())
    assert (page.wrong, page.open) == ([], [])
    assert not {"script", "b", "i"} & set(page.seen)
    body = derivation.to_latex().replace(r"\frac{", "")
    assert balanced(body)


def test_the_suffix_chooses_the_format(document):
    assert render(document, Path("a.md")) == to_markdown(document)
    assert render(document, Path("a.tex")) == to_latex(document)
    assert render(document, Path("a.html")) == to_html(document)
    with pytest.raises(InputError, match=r"--out = 'a.docx'.*\.md, \.tex, \.html"):
        render(document, Path("a.docx"))


@pytest.mark.parametrize("chapter", chapters(), ids=lambda chapter: chapter.title)
def test_every_further_chapter_can_be_rendered(chapter):
    """Its checks have their own tests; here it is shown with the marks of an earlier run."""
    unrun = tuple(type(RESULTS[0])(step, True, 0.0) for step in chapter.steps)
    shown = Document(chapter.title, (Chapter(chapter.title, unrun),))
    source, page = to_latex(shown), read(to_html(shown))
    assert balanced(source)
    assert source.isascii(), set(re.findall(r"[^ -~\n]", source))
    assert (page.wrong, page.open) == ([], [])
    assert "code" not in page.seen, "a formula could not be converted"


@pytest.mark.parametrize("layers", [None, 1, 2, 3])
@pytest.mark.parametrize("optimizer", ["gd", "momentum", "sign"])
@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_the_table_of_every_model_can_be_shown_everywhere(loss, optimizer, layers):
    model = ToyModel(loss=loss, optimizer=optimizer)
    table = boundary_table(model, layers)
    assert tuple(row.name for row in table.rows) == model.boundary_names
    text, shown = table_text(table), Document("A model", (), table)
    assert max(map(len, text.splitlines())) <= 80
    for word in ("Piecewise", "hyper(", "LazyBand", "CrisisRatio", "gamma", "beta", "Integral"):
        assert word not in text
    assert balanced(to_latex(shown))
    assert to_latex(shown).isascii()
    page = read(to_html(shown))
    assert (page.wrong, page.open) == ([], [])
    assert "code" not in page.seen
    for name in {"eta_min", "eta_crit", "eta_max"} - set(model.boundary_names):
        assert any(note.startswith(f"{name} is not in the table") for note in table.notes)
