"""Prose with mathematics in it: plain text in which w_1, e^(mx), eta_crit, $…$ and `code` are recognised.

Statements are written as one writes in a letter, with Greek letters and scripts as they come; here they are split into
text, LaTeX and code, and characters that LaTeX does not have are translated.
"""

from __future__ import annotations

import re
from typing import Literal

Kind = Literal["text", "math", "code"]

# one character each, in mathematics
_SYMBOLS = {
    "−": "-", "·": r"\cdot ", "⋅": r"\cdot ", "×": r"\times ", "±": r"\pm ", "∓": r"\mp ", "√": r"\surd ",
    "∂": r"\partial ", "∇": r"\nabla ", "∏": r"\prod ", "∑": r"\sum ", "∫": r"\int ", "∞": r"\infty ",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∝": r"\propto ", "~": r"\sim ", "≪": r"\ll ",
    "≫": r"\gg ", "→": r"\to ", "←": r"\leftarrow ", "↦": r"\mapsto ", "∈": r"\in ", "ℓ": r"\ell ", "′": r"'",
    "″": r"''", "‖": r"\| ", "⟨": r"\langle ", "⟩": r"\rangle ", "⊤": r"\top ", "ᵀ": r"^{\top}", "ⁿ": "^{n}",
    "⁻": "^{-}", "⁺": "^{+}", "½": r"\tfrac12 ", "¼": r"\tfrac14 ", "θ": r"\theta ", "∥": r"\parallel ",
    "⊥": r"\perp ", "<": "<", ">": ">", "⇒": r"\Rightarrow ", "∘": r"\circ ", "⌊": r"\lfloor ", "⌋": r"\rfloor ",
    "ᵢ": "_{i}", "ⱼ": "_{j}", "ₙ": "_{n}", "ₖ": "_{k}", "∀": r"\forall ", "≡": r"\equiv ", "⁄": "/", "∓ ": r"\mp ",
}  # fmt: skip
_GREEK = (  # a dot where LaTeX has no such letter
    ("α", "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu"),
    ("ν", "nu xi . pi rho . sigma tau . phi chi psi omega"),
    ("Α", ". . Gamma Delta . . . Theta . . Lambda . . Xi . Pi . . Sigma . . Phi . Psi Omega"),
)
for _first, _names in _GREEK:
    _SYMBOLS |= {chr(ord(_first) + k): rf"\{name} " for k, name in enumerate(_names.split()) if name != "."}
_SYMBOLS |= {digit: f"^{{{k}}}" for k, digit in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
_SYMBOLS |= {digit: f"_{{{k}}}" for k, digit in enumerate("₀₁₂₃₄₅₆₇₈₉")}

# one character each, in LaTeX prose
_PROSE = {
    "–": "--", "—": "---", "…": r"\ldots{}", "’": "'", "‘": "`", "“": "``", "”": "''", "é": r"\'e", "ö": r'\"o',
    "ü": r'\"u', "ä": r'\"a', "\u202f": "~", "\u00a0": "~", "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}",
    "_": r"\_", "^": r"\^{}", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "§": r"\S{}", "✓": r"\ensuremath{\surd}",
}  # fmt: skip

_SCRIPT = r"[_^](?:\([^()]*\)|\{[^{}]*\}|[−-]?\d+|[a-z]{2,}\b|[A-Za-zΑ-Ωα-ωℓ*])"
_SPAN = re.compile(
    r"\$(?P<math>[^$]+)\$|`(?P<code>[^`]+)`"
    r"|\b(?P<greek>eta|gamma)_(?P<word>crit|min|max|fail|star)\b"
    rf"|(?P<base>(?<![A-Za-z_])[A-Za-zΑ-Ωα-ωℓ]|(?<![A-Za-z0-9_.])\d+)(?P<scripts>(?:{_SCRIPT})+)"
)


def spans(prose: str) -> list[tuple[Kind, str]]:
    """Split prose into text, mathematics (as LaTeX) and code.

    Args:
        prose: a statement, or the description of a check.

    Returns:
        Kind and content, in order; no content is empty.
    """
    found: list[tuple[Kind, str]] = []
    end = 0
    for match in _SPAN.finditer(prose):
        found.append(("text", prose[end : match.start()]))
        if match["code"]:
            found.append(("code", match["code"]))
        else:
            found.append(("math", match["math"] or _named(match) or _scripted(match)))
        end = match.end()
    found.append(("text", prose[end:]))
    return [(kind, content) for kind, content in found if content]


def _named(match: re.Match[str]) -> str:
    return rf"\{match['greek']}_{{\mathrm{{{match['word']}}}}}" if match["greek"] else ""


def _scripted(match: re.Match[str]) -> str:
    scripts = ""
    for script in re.findall(_SCRIPT, match["scripts"]):
        inside = script[2:-1] if script[1] in "({" else script[1:]
        scripts += script[0] + "{" + in_math(inside) + "}"
    return in_math(match["base"]) + scripts


def in_math(text: str) -> str:
    """Characters as LaTeX mathematics.

    Args:
        text: plain characters.

    Returns:
        LaTeX, to stand between dollars.
    """
    return "".join(_SYMBOLS.get(letter, letter) for letter in text).strip()


def latex_text(text: str) -> str:
    """Plain text as LaTeX prose, every special character escaped.

    Args:
        text: without mathematics.

    Returns:
        ASCII, except for characters that this module does not know.
    """

    def letter(given: str) -> str:
        if given in _PROSE:
            return _PROSE[given]
        return rf"\ensuremath{{{_SYMBOLS[given].strip()}}}" if given in _SYMBOLS else given

    return "".join(map(letter, text))
