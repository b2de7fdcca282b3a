"""Residual toys: networks with terms of several degrees, solved exactly, and what their boundary does in place of 2/D.

Where a network has terms of several degrees, 2/D with D its Euler degree is no theorem (``theory.degree_law``,
assumption c): D weighs the terms by what they give to the output and the curvature by their gradients, of which that of
the higher degree is larger; and growing γ does not move the final weights along a ray, since gradient flow grows the
weights of a term at the pace of that term. The smallest networks that show it have a readout a, a residual stream that
starts as c, and B blocks whose branches are products of two weights, all of which stay equal, b, if they start so; with
s = B^{−1/2}

    normalised branches:   F = a (c + s B b²),         of degrees 2 and 3,        D∞ = 3;
    plain branches:        F = a c (1 + s b²)^B,       of degrees 2 … 2 + 2B,     D∞ = 2 + 2B.

(A normalised branch reads a stream of size 1, whatever c is; inputs are 1.) Gradient flow on any loss of one example
conserves, and so gives the path by b alone:

    normalised:  c − ln(b)/s,              a² − c² − B b²;
    plain:       c² − b² − 2 ln(b)/s,      a² − c².

The stream of a normalised network grows only by the logarithm of what its branches grow by. Training ends at f =
(F − F₀)/γ = 1 with curvature λ = |∇F|²/γ², so that along the path E = d ln(2/λ)/d ln γ is known in closed form. For
γ → ∞ it goes to 2/D∞, from the other side than 2/D:

    E − 2/D∞  →  −κ (2/D − 2/D∞),      κ = 2 (normalised, up to 1/ln b), 1 (plain).

Where D has not settled, 2/D is thus on the wrong side: for D < D∞ it is above 2/D∞, and the exponent below. So is that
along the ray through the weights, which a network of one direction would have (``ResidualToy.ray_exponent``). Derived
here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

from theory.derivation import Step
from theory.errors import InputError, positive_array, positive_integer, positive_number
from theory.output_flow import ascend, slopes
from theory.quadrature import FloatArray

_blocks = sp.Symbol("B", integer=True, positive=True)
_readout, _stream, _branch = sp.symbols("a c b", positive=True)
_readout_0, _stream_0, _branch_0 = sp.symbols("a_0 c_0 b_0", positive=True)
_scale, _settled, _degree = sp.symbols("sigma D_oo D", positive=True)
_root = sp.sqrt(_blocks)
_START = (_readout_0, _stream_0, _branch_0)

BISECTIONS = 100


@dataclass(frozen=True)
class _Toy:
    """The expressions of one kind of toy; those of the path are in b and the start.

    Attributes:
        output: ln F of a, c, b.
        gradient: |∇F|²/F² of a, c, b.
        degree: D of a, c, b.
        stream: c along the path.
        readout: a along the path, of c there.
        settled: D∞.
        mirror: κ.
    """

    output: sp.Expr
    gradient: sp.Expr
    degree: sp.Expr
    stream: sp.Expr
    readout: sp.Expr
    settled: sp.Expr
    mirror: int


_log_growth = sp.log(_branch / _branch_0)
_sum = _stream + _root * _branch**2
_NORMALISED = _Toy(
    output=sp.log(_readout) + sp.log(_sum),
    gradient=1 / _readout**2 + (1 + 2 * _branch**2) / _sum**2,
    degree=2 + _root * _branch**2 / _sum,
    stream=_stream_0 + _root * _log_growth,
    readout=sp.sqrt(_readout_0**2 + _stream**2 - _stream_0**2 + _blocks * (_branch**2 - _branch_0**2)),
    settled=sp.Integer(3),
    mirror=2,
)
_factor = 1 + _branch**2 / _root
_PLAIN = _Toy(
    output=sp.log(_readout) + sp.log(_stream) + _blocks * sp.log(_factor),
    gradient=1 / _readout**2 + 1 / _stream**2 + 2 * _branch**2 / _factor**2,
    degree=2 + 2 * _root * _branch**2 / _factor,
    stream=sp.sqrt(_stream_0**2 + _branch**2 - _branch_0**2 + 2 * _root * _log_growth),
    readout=sp.sqrt(_readout_0**2 + _stream**2 - _stream_0**2),
    settled=2 + 2 * _blocks,
    mirror=1,
)


def _along(toy: _Toy, expression: sp.Expr) -> sp.Expr:
    """An expression of a, c, b on the path, in b alone."""
    return expression.subs(_readout, toy.readout).subs(_stream, toy.stream)


@cache
def _growth(normalized: bool) -> sp.Expr:
    """Growth of the squared gradient, d ln|∇F|² / d ln F, along the path."""
    toy = _NORMALISED if normalized else _PLAIN
    output, gradient = _along(toy, toy.output), _along(toy, toy.gradient)
    return 2 + sp.diff(sp.log(gradient), _branch) / sp.diff(output, _branch)


def _ray(toy: _Toy) -> sp.Expr:
    """−d ln λ/d ln γ along the ray, at F ≫ F₀: −(1/D) d ln(|∇F|²/F²)/d ln σ."""
    at = {name: _scale * name for name in (_readout, _stream, _branch)}
    return -sp.diff(sp.log(toy.gradient.subs(at, simultaneous=True)), _scale).subs(_scale, 1) / toy.degree


@cache
def _compiled(normalized: bool) -> dict[str, Callable[..., FloatArray]]:
    """NumPy functions of b, B, a₀, c₀, b₀; of a, c, b, B for those that are no path's."""
    toy = _NORMALISED if normalized else _PLAIN
    path, point = (_branch, _blocks, *_START), (_readout, _stream, _branch, _blocks)
    return {
        "readout": sp.lambdify(path, _along(toy, _readout), "numpy"),
        "stream": sp.lambdify(path, toy.stream, "numpy"),
        "growth": sp.lambdify(path, _growth(normalized), "numpy"),
        "output": sp.lambdify(point, toy.output, "numpy"),
        "gradient": sp.lambdify(point, toy.gradient, "numpy"),
        "degree": sp.lambdify(point, toy.degree, "numpy"),
        "ray": sp.lambdify(point, _ray(toy), "numpy"),
    }


@dataclass(frozen=True)
class ResidualToy:
    """A residual toy, trained by gradient flow from one start to f = 1 at any γ.

    Attributes:
        blocks: B.
        normalized: whether branches read a stream of size 1.
        start: a₀, c₀, b₀, positive.

    Raises:
        InputError: blocks or start that are not positive.
    """

    blocks: int
    normalized: bool = True
    start: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        positive_integer("blocks", self.blocks)
        if len(self.start) != len(_START):
            raise InputError("start", self.start, "three numbers: a₀, c₀, b₀")
        for value in self.start:
            positive_number("start", value)

    @property
    def settled_degree(self) -> int:
        """D∞, to which D goes as γ → ∞."""
        return 3 if self.normalized else 2 + 2 * self.blocks

    def _output(self, branch: FloatArray) -> FloatArray:
        """Ln F on the path."""
        return self._on("output", branch)

    def _on(self, name: str, branch: FloatArray) -> FloatArray:
        made, path = _compiled(self.normalized), (branch, self.blocks, *self.start)
        return np.asarray(made[name](made["readout"](*path), made["stream"](*path), branch, self.blocks))

    def weights(self, strength: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Where gradient flow ends.

        Args:
            strength: γ, any shape.

        Returns:
            a, c, b, each in the shape of γ.

        Raises:
            InputError: γ not positive.
        """
        gammas, first = positive_array("strength", strength), np.asarray(self.start[2], dtype=np.float64)
        wanted = np.logaddexp(self._output(first), np.log(gammas))  # ln(F₀ + γ)
        low, high = np.full(gammas.shape, np.log(first)), np.full(gammas.shape, np.log(first) + 1)
        while (self._output(np.exp(high)) < wanted).any():
            high = high + 1
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            below = self._output(np.exp(middle)) < wanted
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        branch, made = np.exp(high), _compiled(self.normalized)
        path = (branch, self.blocks, *self.start)
        return np.asarray(made["readout"](*path)), np.asarray(made["stream"](*path)), branch

    def degree(self, strength: ArrayLike) -> FloatArray:
        """Euler degree where training ends.

        Args:
            strength: γ, any shape.

        Returns:
            D, in the shape of γ.
        """
        return self._on("degree", self.weights(strength)[2])

    def sharpness(self, strength: ArrayLike) -> FloatArray:
        """Curvature of the squared error (f − 1)²/2 where training ends.

        Args:
            strength: γ, any shape.

        Returns:
            λ = |∇F|²/γ², in the shape of γ.
        """
        gammas, branch = positive_array("strength", strength), self.weights(strength)[2]
        share = np.exp(self._output(branch) - np.log(gammas))  # F/γ, which goes to 1 as γ → ∞
        return np.asarray(self._on("gradient", branch) * share**2)

    def exponent(self, strength: ArrayLike) -> FloatArray:
        """Local exponent of η_crit = 2/λ in γ, along the path.

        Args:
            strength: γ, any shape.

        Returns:
            E, in the shape of γ: 2 for γ → 0, 2/D∞ for γ → ∞.
        """
        gammas, branch = positive_array("strength", strength), self.weights(strength)[2]
        growth = _compiled(self.normalized)["growth"](branch, self.blocks, *self.start)
        return np.asarray(2 - growth * np.exp(np.log(gammas) - self._output(branch)))

    def ray_exponent(self, strength: ArrayLike) -> FloatArray:
        """The same along the ray through the final weights, for F ≫ F₀: what E would be if they only changed in size.

        Args:
            strength: γ, any shape.

        Returns:
            In the shape of γ; 2/D∞ for γ → ∞.
        """
        return self._on("ray", self.weights(strength)[2])


# --- checks: networks of separate weights, with derivatives by complex steps, and flows by Runge and Kutta


def _network(theta: FloatArray, normalized: bool) -> complex:
    # readout, stream, then two weights a block; the branch is a product of two, of a stream of 1 or of the stream
    stream, scale = theta[1], (len(theta) // 2 - 1) ** -0.5
    for block in range(1, len(theta) // 2):
        stream = stream + scale * theta[2 * block] * theta[2 * block + 1] * (1 if normalized else stream)
    return complex(theta[0] * stream)


def _gradient(theta: FloatArray, normalized: bool) -> FloatArray:
    return slopes(partial(_network, normalized=normalized), theta)


def _flow(theta: FloatArray, normalized: bool, outputs: Sequence[float]) -> list[FloatArray]:
    """Weights along the flow, where F is each of these."""
    found, network = [], partial(_network, normalized=normalized)
    for output in outputs:
        theta = ascend(network, theta, float(np.log(output / network(theta).real)))
        found.append(theta)
    return found


_CASES = ((1, (1.0, 1.0, 1.0)), (2, (0.3, 0.7, 0.4)), (3, (0.1, 1.5, 0.9)))


def _ends(normalized: bool) -> list[tuple[dict[sp.Symbol, float], FloatArray]]:
    """Starts, and weights that flows came to."""
    out = []
    for blocks, (readout, stream, branch) in _CASES:
        theta = np.array([readout, stream, *[branch] * (2 * blocks)])
        first = _network(theta, normalized).real
        values = {_blocks: blocks, _readout_0: readout, _stream_0: stream, _branch_0: branch}
        out += [(values, end) for end in _flow(theta, normalized, [3 * first, 100 * first])]
    return out


def _agrees(claimed: sp.Basic, values: dict[sp.Symbol, float], end: FloatArray, measured: float, error: float) -> bool:
    at = {**values, _readout: end[0], _stream: end[1], _branch: end[2]}
    return abs(float(claimed.subs(at)) - measured) <= error * max(abs(measured), 1e-3)


def _weight_on_flows(normalized: bool, index: int) -> Callable[[sp.Basic], bool]:
    return lambda claimed: all(
        np.ptp(end[2:]) < 1e-12 and _agrees(claimed, values, end, end[index], 1e-7)
        for values, end in _ends(normalized)
    )  # fmt: skip


def _degree_by_scaling(normalized: bool) -> Callable[[sp.Basic], bool]:
    def check(claimed: sp.Basic) -> bool:
        for values, end in _ends(normalized):
            h = 1e-4
            up, down = (np.log(_network(end * np.exp(sign * h), normalized).real) for sign in (1, -1))
            if not _agrees(claimed, values, end, (up - down) / (2 * h), 1e-6):
                return False
        return True

    return check


def _curvature(theta: FloatArray, normalized: bool) -> float:
    """|∇F|²/F²: γ² λ of the squared error at f = 1, over F²."""
    gradient = _gradient(theta, normalized)
    return float(gradient @ gradient) / _network(theta, normalized).real ** 2


def _curvature_of_weights(normalized: bool) -> Callable[[sp.Basic], bool]:
    return lambda claimed: all(
        _agrees(claimed, values, end, _curvature(end, normalized), 1e-9) for values, end in _ends(normalized)
    )


def _growth_by_flows(normalized: bool) -> Callable[[sp.Basic], bool]:
    def check(claimed: sp.Basic) -> bool:
        for values, end in _ends(normalized):
            output, h = _network(end, normalized).real, 1e-3
            low, high = (_flow(end, normalized, [output * np.exp(sign * h)])[0] for sign in (-1, 1))
            measured = 2 + np.log(_curvature(high, normalized) / _curvature(low, normalized)) / (2 * h)
            if not _agrees(claimed, values, end, measured, 1e-5):
                return False
        return True

    return check


def _mirror_far_out(normalized: bool) -> Callable[[sp.Basic], bool]:
    toy = _NORMALISED if normalized else _PLAIN

    def check(claimed: sp.Basic) -> bool:
        # exact at b = 10^400, where 1/ln b is 1e-3; E for F ≫ F₀
        for blocks, start in _CASES:
            values = (blocks, *map(sp.Rational, map(str, start)), sp.Integer(10) ** 400)
            at = dict(zip((_blocks, *_START, _branch), values, strict=True))
            exponent = (2 - _growth(normalized)).subs(at).evalf(1000)
            degree = _along(toy, toy.degree).subs(at).evalf(1000)
            settled = toy.settled.subs(_blocks, blocks)
            predicted = claimed.subs({_degree: degree, _settled: settled}).evalf(1000)
            if abs(float((exponent - 2 / settled) / (predicted - 2 / settled)) - 1) > 2e-3:
                return False
        return True

    return check


def steps() -> tuple[Step, ...]:
    """Steps of this derivation, in order.

    Returns:
        Statements with their checks.
    """
    out: list[Step] = []
    for name, toy, normalized in (("normalised", _NORMALISED, True), ("plain", _PLAIN, False)):
        degrees = f"of the toy with {name} branches"
        out += [
            Step(f"{name}_stream", f"The stream along gradient flow, {degrees}.", "c(b)", toy.stream,
                 _weight_on_flows(normalized, 1), "flows of 2B + 2 separate weights, by Runge and Kutta"),
            Step(f"{name}_readout", f"The readout along gradient flow, {degrees}.", "a(c, b)", toy.readout,
                 _weight_on_flows(normalized, 0), "the same flows"),
            Step(f"{name}_degree", f"The Euler degree, {degrees}.", "D", toy.degree,
                 _degree_by_scaling(normalized), "differences of ln F over ln of the scale of all weights"),
            Step(f"{name}_curvature", f"γ²λ/F² where training ends, {degrees}.",
                 r"\frac{|\nabla F|^2}{F^2}", toy.gradient,
                 _curvature_of_weights(normalized), "complex steps in every weight"),
            Step(f"{name}_growth", f"How the curvature grows along the path, {degrees}: E is 2 minus this, at F ≫ F₀.",
                 r"\frac{d\ln|\nabla F|^2}{d\ln F}", _growth(normalized),
                 _growth_by_flows(normalized), "flows to two nearby outputs"),
            Step(f"{name}_mirror", f"The exponent goes to its limit from the other side than 2/D, {degrees}.",
                 r"E(\gamma\to\infty)", 2 / _settled - toy.mirror * (2 / _degree - 2 / _settled),
                 _mirror_far_out(normalized), "the exact exponent at b = 10^400, with a thousand digits"),
        ]  # fmt: skip
    return tuple(out)
