"""Euler degree: D(θ) = θ·∇F(θ)/F(θ) = d ln F(cθ)/d ln c at c = 1, the local degree of homogeneity in the weights.

* F homogeneous of degree D (F(cθ) = c^D F(θ), c > 0): D(θ) = D at every θ where F ≠ 0 is differentiable.
* A layer of degree a in its own weights and b in its input turns a stream of degree D into one of degree a + bD.
  Bias-free linear or convolutional layer: (1, 1). ReLU, max- and mean-pooling, leaky ReLU: (0, 1). LayerNorm or
  RMSNorm without a gain and with ε = 0: (0, 0), for it is scale-invariant; with a learnable gain, and shift: (1, 0).
  So a bias-free ReLU MLP or CNN of L weight layers has D = L at every scale; a normalisation sets the degree of all
  that lies below it to 0: a final LayerNorm and a linear head give D = 1, with a learnable gain 2.
* A sum of parts F_j of degrees d_j has D = Σ d_j F_j / Σ F_j. A residual branch of degree k on a stream of degree d,
  all weights scaled by c, with a the ratio of the branch's to the skip's part of F at c = 1:

      D(c) = d + k a c^k / (1 + a c^k),        d as c → 0, d + k as c → ∞,

  with a pole at c^k = −1/a where the two parts cancel (a < 0). With ReLUs above the sum, a itself changes with c when
  units switch.
* In a network with biases the degree depends on c in the same way: terms with a bias have fewer factors.
* Below a normalisation D(θ) is 0 and yet weights grow under gradient descent (``theory.conserved``). A LayerNorm makes
  its input's degree irrelevant only if all parts of that input have one degree: a residual stream changes direction
  with c where its parts differ in degree, so above it D = 1 holds in the limits c → 0 and c → ∞ only (and with ε > 0
  not at c → 0, where the norm is a linear map).

Source: Euler's theorem on homogeneous functions; the composition rules are derived here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

from theory.derivation import Step
from theory.errors import InputError, positive_array, positive_number
from theory.quadrature import FloatArray
from theory.symbols import depth

#: (degree in the layer's own weights, degree in its input)
LAYER_DEGREES = {
    "linear": (1.0, 1.0),  # bias-free; convolutions and embeddings too
    "relu": (0.0, 1.0),  # and leaky ReLU, max- and mean-pooling, reshaping
    "norm": (0.0, 0.0),  # LayerNorm and RMSNorm without gain, ε = 0
    "norm_gain": (1.0, 0.0),  # with a learnable gain, with or without shift
}

_scale = sp.Symbol("c", positive=True)
_ratio = sp.Symbol("a", positive=True)
_stream, _branch = sp.symbols("d k", positive=True)
_skip, _added = sp.symbols("F_1 F_2", positive=True)
_first, _second = sp.symbols("d_1 d_2", positive=True)
_STENCIL = 1e-3  # of ln c: the five-point rule's error is about its fourth power times D^5/30, its rounding 1e-13


def _real(field: str, given: ArrayLike) -> FloatArray:
    values = np.asarray(given)
    if values.dtype.kind not in "iuf" or values.size == 0 or not np.isfinite(values).all():
        raise InputError(field, given, "real and finite, and not empty")
    return values.astype(np.float64)


def degree_of_sequence(layers: Sequence[str | tuple[float, float]], *, input_degree: float = 0.0) -> float:
    """Degree of layers applied one after the other: D ← a + bD for each.

    Args:
        layers: first layer first; names of ``LAYER_DEGREES`` or pairs (degree in weights, degree in input).
        input_degree: degree of what enters; 0 for data.

    Returns:
        The degree of the output in all weights together.

    Raises:
        InputError: an unknown name, or something that is not a pair of finite numbers.
    """
    degree = float(_real("input_degree", input_degree))
    for layer in layers:
        if isinstance(layer, str):
            if layer not in LAYER_DEGREES:
                raise InputError("layers", layer, "a pair of degrees, or one of " + ", ".join(LAYER_DEGREES))
            pair = np.array(LAYER_DEGREES[layer])
        else:
            pair = _real("layers", layer)
        if pair.shape != (2,):
            raise InputError("layers", layer, "a pair: degree in the weights, degree in the input")
        degree = float(pair[0] + pair[1] * degree)
    return degree


def degree_of_sum(degrees: ArrayLike, parts: ArrayLike) -> FloatArray:
    """Degree of a sum of homogeneous parts, D = Σ d_j F_j / Σ F_j.

    Args:
        degrees: d_j on the last axis.
        parts: F_j, values of the parts at these weights, of any sign; broadcasts.

    Returns:
        D, without the last axis; outside the range of the d_j where parts have opposite signs.

    Raises:
        InputError: not real and finite, shapes that do not broadcast, or parts that cancel exactly.
    """
    powers, values = _real("degrees", degrees), _real("parts", parts)
    total = np.sum(values, axis=-1)
    if (total == 0).any():
        raise InputError("parts", values.tolist(), "such that their sum is not zero: the degree has a pole there")
    try:
        return np.asarray(np.sum(powers * values, axis=-1) / total)[()]
    except ValueError:
        raise InputError("parts", values.shape, f"of a shape that broadcasts with degrees {powers.shape}") from None


def degree_of_residual(
    scale: ArrayLike, *, ratio: ArrayLike, branch_degree: ArrayLike, stream_degree: ArrayLike = 0.0
) -> FloatArray:
    """Degree of skip + branch as a function of the common scale c of all weights.

    Args:
        scale: c, positive; 1 is where ``ratio`` was measured.
        ratio: a, the branch's part of the output over the skip's; may be negative.
        branch_degree: k, degree the branch adds to the stream's; positive.
        stream_degree: d, degree of the skip's part. All four broadcast.

    Returns:
        D = d + k a c^k/(1 + a c^k).

    Raises:
        InputError: scale or branch_degree not positive, others not real, shapes that do not broadcast, or parts that
            cancel exactly.
    """
    factor, power = positive_array("scale", scale), positive_array("branch_degree", branch_degree)
    share, base = _real("ratio", ratio), _real("stream_degree", stream_degree)
    try:
        factor, power, share, base = np.broadcast_arrays(factor, power, share, base)
    except ValueError:
        raise InputError("scale", factor.shape, "of a shape that broadcasts with the other arrays") from None
    # branch over skip in logarithms: c^k overflows long before the degree has any trouble
    exponent = power * np.log(factor) + np.log(np.abs(share) + (share == 0))
    shrunk = np.exp(-np.abs(exponent))
    # the larger of the two parts is 1 in size and the other is `shrunk`
    branch = np.where(share == 0, 0.0, np.sign(share) * np.where(exponent > 0, 1.0, shrunk))
    skip = np.where((exponent > 0) & (share != 0), shrunk, 1.0)
    if (branch + skip == 0).any():
        raise InputError(
            "ratio", share.tolist(), "such that skip and branch do not cancel: the degree has a pole there"
        )
    return np.asarray(base + power * branch / (branch + skip))[()]


def euler_degree(
    network: Callable[[FloatArray], ArrayLike], weights: ArrayLike, *, stencil: float = _STENCIL
) -> FloatArray:
    """Measured D(θ) of any function, by a five-point difference of F(cθ) in ln c; four evaluations and one at c = 1.

    Args:
        network: takes all weights as one array and returns the output or outputs.
        weights: θ, any shape.
        stencil: spacing in ln c. Kinks closer than twice this spoil the result.

    Returns:
        D in the shape of the output; ``nan`` where F is 0.

    Raises:
        InputError: weights not real and finite, stencil not positive, or an output that is not real and finite.
    """
    theta, spacing = _real("weights", weights), positive_number("stencil", stencil)
    far_low, low, centre, high, far_high = (
        _real("network", network(theta * np.exp(shift * spacing))) for shift in (-2, -1, 0, 1, 2)
    )
    slope = (8.0 * (high - low) - (far_high - far_low)) / (12.0 * spacing)
    return np.asarray(np.divide(slope, centre, out=np.full_like(centre, np.nan), where=centre != 0))[()]


# --- derivation: the rules in symbols, the checks on small networks in floating point


def _log_slope(expression: sp.Expr) -> sp.Expr:
    return sp.simplify(_scale * sp.diff(expression, _scale) / expression)


def _relu_net(layers: int, *, head: str = "none") -> tuple[Callable[[FloatArray], FloatArray], FloatArray]:
    # width 4, one input; `head`: "norm" puts a LayerNorm without gain before the last layer, "gain" one with gain
    rng = np.random.default_rng(layers)
    theta = 0.3 + rng.normal(size=16 * (layers - 1) + 4 + 4)  # shifted: few dead units
    x = rng.normal(size=4)

    def network(values: FloatArray) -> FloatArray:
        stream = x
        for at in range(layers - 1):
            stream = np.maximum(values[16 * at : 16 * at + 16].reshape(4, 4) @ stream, 0.0)
        if head != "none":
            stream = (stream - stream.mean()) / stream.std()
        if head == "gain":
            stream = values[-4:] * stream
        return np.asarray(values[16 * (layers - 1) : 16 * (layers - 1) + 4] @ stream)

    return network, theta


def _measured(claimed: float, layers: int, head: str = "none") -> bool:
    network, theta = _relu_net(layers, head=head)
    return all(abs(float(euler_degree(network, scale * theta)) - claimed) < 1e-6 for scale in (0.1, 1.0, 10.0))


def _euler_of_explicit(claimed: sp.Basic) -> bool:
    # homogeneous of symbolic degree d, and nothing simpler: (x² + xy)^{d/2} exp(y/x)
    x, y = sp.symbols("x y", positive=True)
    function = (x**2 + x * y) ** (_stream / 2) * sp.exp(y / x)
    inner = x * sp.diff(function, x) + y * sp.diff(function, y)
    return bool(sp.simplify(inner / function - claimed) == 0)


def _chain_of_layers(claimed: sp.Basic) -> bool:
    return all(_measured(float(claimed.subs(depth, layers)), layers) for layers in (1, 2, 3, 5))


def _of_explicit_residual(claimed: sp.Basic) -> bool:
    # F = w x + W_2 relu(W_1 w x) with one unit each: stream 1, branch 2
    def network(values: FloatArray) -> FloatArray:
        stream = 1.3 * values[0]
        return np.asarray(stream + values[2] * max(values[1] * stream, 0.0))

    theta = np.array([0.7, 0.4, 0.9])
    place = {_stream: 1, _branch: 2, _ratio: 0.9 * 0.4}
    return all(
        abs(float(euler_degree(network, scale * theta)) - float(claimed.subs({**place, _scale: scale}))) < 1e-7
        for scale in (0.1, 1.0, 3.0, 30.0)
    )


def _of_explicit_sum(claimed: sp.Basic) -> bool:
    # a network with a bias, w_2 relu(w_1 x + b_1) + b_2: degrees 2 and 1
    def network(values: FloatArray) -> FloatArray:
        return np.asarray(values[1] * max(2.0 * values[0] + values[2], 0.0) + values[3])

    theta = np.array([0.8, 1.1, 0.5, 0.6])
    parts = {_skip: 1.1 * (1.6 + 0.5), _added: 0.6, _first: 2, _second: 1}
    return bool(abs(float(euler_degree(network, theta)) - float(claimed.subs(parts))) < 1e-7)


def _residual_limit(claimed: sp.Basic, scale: float) -> bool:
    places = ({_stream: 1, _branch: 2}, {_stream: 2, _branch: 3})
    ends = [
        degree_of_residual(scale, ratio=0.3, branch_degree=float(at[_branch]), stream_degree=float(at[_stream]))
        for at in places
    ]
    return all(abs(float(claimed.subs(at)) - float(end)) < 1e-9 for at, end in zip(places, ends, strict=True))


def steps() -> tuple[Step, ...]:
    """The statements of this module, with their checks.

    Returns:
        The steps, unrun.
    """
    degree_so_far = sp.Function("D_l")  # D_l = a + b D_{l−1} with a = b = 1, from data of degree 0
    chain = sp.rsolve(degree_so_far(depth) - degree_so_far(depth - 1) - 1, degree_so_far(depth), {degree_so_far(0): 0})
    euler = _log_slope(_scale**_stream * _skip)
    residual = _log_slope(_scale**_stream * (1 + _ratio * _scale**_branch))
    total = _log_slope(_skip * _scale**_first + _added * _scale**_second).subs(_scale, 1)
    return (
        Step("Euler's identity", "F(cθ) = c^d F(θ) for all c > 0 gives θ·∇F/F = d at every θ.",
             r"\frac{\theta\cdot\nabla F}{F}", euler, _euler_of_explicit, "partial derivatives, two weights"),
        Step("Degree of a chain", "Each bias-free layer adds one: a ReLU MLP or CNN of L weight layers has D = L.",
             r"D", chain, _chain_of_layers, "difference quotients of ReLU networks of 1, 2, 3, 5 layers, three scales"),
        Step("Degree of a sum", "The degree of a sum is the mean of its parts' degrees, weighted by the parts.",
             r"D", sp.simplify(total), _of_explicit_sum, "difference quotient of a network with biases"),
        Step("Degree of a residual block", "A branch of degree k on a stream of degree d, against the scale c.",
             r"D(c)", residual, _of_explicit_residual, "difference quotient of a residual network, four scales"),
        Step("Residual, small weights", "Small weights leave the skip's degree.",
             r"\lim_{c\to 0} D(c)", sp.limit(residual, _scale, 0), lambda claimed: _residual_limit(claimed, 1e-9),
             "numeric form at c = 1e-9"),
        Step("Residual, large weights", "Large weights add the branch's degree.",
             r"\lim_{c\to\infty} D(c)", _stream + _branch, lambda claimed: _residual_limit(claimed, 1e9),
             "numeric form at c = 1e9"),
        Step("Final normalisation", "A scale-invariant map has degree 0 in what lies below: only the head counts.",
             r"D", sp.Float(degree_of_sequence(["linear", "relu", "linear", "relu", "norm", "linear"])),
             lambda claimed: _measured(float(claimed), 3, "norm"), "difference quotient of a normalised ReLU network"),
        Step("Final normalisation with a gain", "A learnable gain adds one.",
             r"D", sp.Float(degree_of_sequence(["linear", "relu", "linear", "relu", "norm_gain", "linear"])),
             lambda claimed: _measured(float(claimed), 3, "gain"), "difference quotient of a normalised ReLU network"),
    )  # fmt: skip
