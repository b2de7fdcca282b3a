"""A residual toy with two stages, whose shortcut is a weight: the smallest with the degrees of a staged ResNet.

The normalised toy of ``theory.residual`` with blocks in two stages, B₁ before and B₂ after a shortcut of weight w:

    h₁ = c + s B₁ b₁²,    h₂ = w h₁ + s B₂ b₂²,    F = a h₂,    s = B^{−1/2}, B = B₁ + B₂,

of degrees 3 and 4, D∞ = 4. Gradient flow conserves

    c − ln(b₁)/s,    w² − c² − B₁ b₁²,    a² − w² − B₂ b₂²,

and d ln b₂/d ln b₁ = 1/w, of which the integral converges: the branches of the second stage stop growing while those of
the first go on. That integral has no closed form; all that is said of the exponent E = d ln(2/λ)/d ln γ at a point of
the path has one. For γ → ∞ it goes to 1/2 as that of one stage goes to 2/3, from the other side than 2/D:

    E − 2/D∞  →  −2 (2/D − 2/D∞),    up to 1/ln b₁.

Derived here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp

from theory.derivation import Step
from theory.errors import InputError, positive_array, positive_integer, positive_number
from theory.output_flow import ascend, slopes
from theory.quadrature import FloatArray

_first, _second = sp.symbols("B_1 B_2", integer=True, positive=True)
_STATE = sp.symbols("a w c b_1 b_2", positive=True)
_START = sp.symbols("a_0 w_0 c_0 b_10 b_20", positive=True)
_readout, _shortcut, _stream, _early, _late = _STATE

SETTLED_DEGREE = 4
"""D∞."""

_SETTLED = sp.Rational(2, SETTLED_DEGREE)
_name_of_degree = sp.Symbol("D", positive=True)


def _output() -> sp.Expr:
    scale = 1 / sp.sqrt(_first + _second)
    return _readout * (_shortcut * (_stream + scale * _first * _early**2) + scale * _second * _late**2)


def _flow() -> tuple[sp.Expr, ...]:
    """Gradient ascent on F of weights that stay equal: b₁ stands for 2B₁ of them."""
    copies = (1, 1, 1, 2 * _first, 2 * _second)
    return tuple(sp.diff(_output(), name) / count for name, count in zip(_STATE, copies, strict=True))


def _gradient_squared() -> sp.Expr:
    return sum(sp.diff(_output(), name) * pace for name, pace in zip(_STATE, _flow(), strict=True))


def _degree() -> sp.Expr:
    return sum(name * sp.diff(_output(), name) for name in _STATE) / _output()


@cache
def _growth() -> sp.Expr:
    """Growth of the squared gradient, d ln|∇F|² / d ln F, along the flow."""
    square = _gradient_squared()
    along = sum(sp.diff(square, name) * pace for name, pace in zip(_STATE, _flow(), strict=True))
    return along * _output() / square**2


@cache
def _compiled() -> dict[str, Callable[..., FloatArray]]:
    names = (*_STATE, _first, _second)
    made = {"output": _output(), "square": _gradient_squared(), "degree": _degree(), "growth": _growth()}
    out = {name: sp.lambdify(names, expression, "numpy", cse=True) for name, expression in made.items()}
    return out | {"flow": sp.lambdify(names, list(_flow()), "numpy", cse=True)}


@dataclass(frozen=True)
class StagedToy:
    """A residual toy of two stages with normalised branches, trained by gradient flow from one start to f = 1.

    Attributes:
        blocks: B₁, B₂.
        start: a₀, w₀, c₀, b₁₀, b₂₀, positive.

    Raises:
        InputError: blocks or start that are not positive.
    """

    blocks: tuple[int, int] = (2, 2)
    start: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if len(self.blocks) != 2:
            raise InputError("blocks", self.blocks, "two numbers, one a stage")
        for count in self.blocks:
            positive_integer("blocks", count)
        if len(self.start) != len(_START):
            raise InputError("start", self.start, "five numbers: a₀, w₀, c₀, b₁₀, b₂₀")
        for value in self.start:
            positive_number("start", value)

    def _on(self, name: str, weights: FloatArray) -> FloatArray:
        return np.asarray(_compiled()[name](*weights, *self.blocks))

    def weights(self, strength: ArrayLike) -> FloatArray:
        """Where gradient flow ends.

        Args:
            strength: γ, any shape.

        Returns:
            a, w, c, b₁, b₂ along the first axis, then the shape of γ. Integrated in ln F, to about 1e-9.

        Raises:
            InputError: γ not positive.
        """
        gammas = positive_array("strength", strength)
        first = np.log(float(self._on("output", np.array(self.start))))
        wanted, where = np.unique(np.logaddexp(first, np.log(gammas)).ravel(), return_inverse=True)

        def pace(_: float, logs: FloatArray) -> FloatArray:  # d ln θ/d ln F
            theta = np.exp(logs)
            flow = np.array(_compiled()["flow"](*theta, *self.blocks))
            return np.asarray(flow / theta * self._on("output", theta) / self._on("square", theta))

        found = solve_ivp(
            pace, (first, wanted[-1]), np.log(self.start), method="DOP853", t_eval=wanted, rtol=1e-11, atol=1e-11
        )
        return np.asarray(np.exp(found.y)[:, where].reshape(len(_START), *gammas.shape))

    def degree(self, strength: ArrayLike) -> FloatArray:
        """Euler degree where training ends.

        Args:
            strength: γ, any shape.

        Returns:
            D, in the shape of γ.
        """
        return self._on("degree", self.weights(strength))

    def sharpness(self, strength: ArrayLike) -> FloatArray:
        """Curvature of the squared error (f − 1)²/2 where training ends.

        Args:
            strength: γ, any shape.

        Returns:
            λ = |∇F|²/γ², in the shape of γ.
        """
        return np.asarray(self._on("square", self.weights(strength)) / positive_array("strength", strength) ** 2)

    def exponent(self, strength: ArrayLike) -> FloatArray:
        """Local exponent of η_crit = 2/λ in γ, along the path.

        Args:
            strength: γ, any shape.

        Returns:
            E, in the shape of γ: 2 for γ → 0, 1/2 for γ → ∞.
        """
        at = self.weights(strength)
        return np.asarray(2 - self._on("growth", at) * positive_array("strength", strength) / self._on("output", at))


# --- checks: networks of separate weights, with derivatives by complex steps, and flows by Runge and Kutta


def _network(theta: FloatArray, blocks: tuple[int, int]) -> complex:
    # readout, shortcut, stream, then two weights a block
    scale, pairs = sum(blocks) ** -0.5, theta[3::2] * theta[4::2]
    stream = theta[2] + scale * pairs[: blocks[0]].sum()
    return complex(theta[0] * (theta[1] * stream + scale * pairs[blocks[0] :].sum()))


def _slopes(theta: FloatArray, blocks: tuple[int, int]) -> FloatArray:
    return slopes(partial(_network, blocks=blocks), theta)


def _ascend(theta: FloatArray, blocks: tuple[int, int], logs: float) -> FloatArray:
    return ascend(partial(_network, blocks=blocks), theta, logs)


_CASES = (((2, 2), (1.0, 1.0, 1.0, 1.0, 1.0)), ((1, 2), (0.3, 0.8, 0.7, 0.4, 0.6)), ((3, 1), (0.5, 0.4, 1.2, 0.9, 0.3)))


@cache
def _ends() -> tuple[tuple[tuple[int, int], dict[sp.Symbol, float], FloatArray], ...]:
    """Blocks, starts, and weights that flows came to."""
    out = []
    for blocks, start in _CASES:
        theta = np.array([*start[:3], *[start[3]] * (2 * blocks[0]), *[start[4]] * (2 * blocks[1])])
        values = dict(zip((_first, _second, *_START), (*blocks, *start), strict=True))
        out += [(blocks, values, _ascend(theta, blocks, logs)) for logs in (1.0, 4.0)]
    return tuple(out)


def _state(blocks: tuple[int, int], theta: FloatArray) -> dict[sp.Symbol, float]:
    return dict(zip(_STATE, [*theta[:4], theta[3 + 2 * blocks[0]]], strict=True))


def _agrees(measure: Callable[[tuple[int, int], FloatArray], float], error: float) -> Callable[[sp.Basic], bool]:
    """A check that an expression of blocks, start and end is what ``measure`` finds at the ends of flows."""
    return lambda claimed: all(
        abs(float(claimed.subs({**values, **_state(blocks, end)})) / measure(blocks, end) - 1) <= error
        for blocks, values, end in _ends()
    )


def _pace_of_branches(blocks: tuple[int, int], theta: FloatArray) -> float:
    gradient = _slopes(theta, blocks)
    late = 3 + 2 * blocks[0]
    return float(gradient[late] / theta[late] * theta[3] / gradient[3])


def _measured_degree(blocks: tuple[int, int], theta: FloatArray) -> float:
    h = 1e-4
    up, down = (np.log(_network(theta * np.exp(sign * h), blocks).real) for sign in (1, -1))
    return float((up - down) / (2 * h))


def _measured_growth(blocks: tuple[int, int], theta: FloatArray) -> float:
    h = 1e-3
    squares = [float(np.sum(_slopes(_ascend(theta, blocks, sign * h), blocks) ** 2)) for sign in (-1, 1)]
    return float(np.log(squares[1] / squares[0]) / (2 * h))


def _far_out(claimed: sp.Basic) -> bool:
    """Exact exponents at b₁ = 10^400, on the path but for a b₂ that may be any number."""
    for blocks, start in _CASES:
        values = dict(zip((_first, _second, *_START), (*blocks, *map(sp.Rational, map(str, start))), strict=True))
        at = {_early: sp.Integer(10) ** 400, _late: sp.Rational(3, 2)}
        for name, law in ((_stream, _stream_law()), (_shortcut, _shortcut_law()), (_readout, _readout_law())):
            at[name] = law.subs(values).subs(at).evalf(1000)
        exponent, degree = ((2 - _growth()).subs({**values, **at}), _degree().subs({**values, **at}))
        predicted = claimed.subs(_name_of_degree, degree.evalf(1000)).evalf(1000)
        if abs(float((exponent.evalf(1000) - _SETTLED) / (predicted - _SETTLED)) - 1) > 2e-3:
            return False
    return True


def _stream_law() -> sp.Expr:
    return _START[2] + sp.sqrt(_first + _second) * sp.log(_early / _START[3])


def _shortcut_law() -> sp.Expr:
    return sp.sqrt(_START[1] ** 2 + _stream**2 - _START[2] ** 2 + _first * (_early**2 - _START[3] ** 2))


def _readout_law() -> sp.Expr:
    return sp.sqrt(_START[0] ** 2 + _shortcut**2 - _START[1] ** 2 + _second * (_late**2 - _START[4] ** 2))


def steps() -> tuple[Step, ...]:
    """Steps of this derivation, in order.

    Returns:
        Statements with their checks.
    """
    flows = "flows of 2B + 3 separate weights, by Runge and Kutta"
    return (
        Step("stages_stream", "The stream along gradient flow, with two stages.", "c(b_1)", _stream_law(),
             _agrees(lambda _, end: float(end[2]), 1e-7), flows),
        Step("stages_shortcut", "The shortcut along gradient flow.", "w(c, b_1)", _shortcut_law(),
             _agrees(lambda _, end: float(end[1]), 1e-7), "the same flows"),
        Step("stages_readout", "The readout along gradient flow.", "a(w, b_2)", _readout_law(),
             _agrees(lambda _, end: float(end[0]), 1e-7), "the same flows"),
        Step("stages_branches", "The branches of the second stage grow by 1/w as fast as those of the first.",
             r"\frac{d\ln b_2}{d\ln b_1}", 1 / _shortcut, _agrees(_pace_of_branches, 1e-9),
             "complex steps in the weights of both, where flows ended"),
        Step("stages_degree", "The Euler degree of the toy with two stages.", "D", _degree(),
             _agrees(_measured_degree, 1e-6), "differences of ln F over ln of the scale of all weights"),
        Step("stages_curvature", "γ²λ where training ends.", r"|\nabla F|^2", _gradient_squared(),
             _agrees(lambda blocks, end: float(np.sum(_slopes(end, blocks) ** 2)), 1e-9),
             "complex steps in every weight"),
        Step("stages_growth", "How the curvature grows along the path: E is 2 minus this, at F ≫ F₀.",
             r"\frac{d\ln|\nabla F|^2}{d\ln F}", _growth(), _agrees(_measured_growth, 1e-5),
             "flows to two nearby outputs"),
        Step("stages_mirror", "The exponent goes to its limit from the other side than 2/D.", r"E(\gamma\to\infty)",
             _SETTLED - 2 * (2 / _name_of_degree - _SETTLED), _far_out,
             "the exact exponent at b₁ = 10^400, with a thousand digits"),
    )  # fmt: skip
