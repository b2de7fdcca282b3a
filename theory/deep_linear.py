"""Deep linear matrix networks: modes, staircases and conserved quantities.

    F(x) = W_L ⋯ W_1 x,   f = (W_L ⋯ W_1 − W_L(0) ⋯ W_1(0))/γ,   loss ½ E|f x − y|²,   Σ = E xxᵀ,   M = E yxᵀ

    Ẇ_ℓ = −(η/γ) (W_L ⋯ W_{ℓ+1})ᵀ (fΣ − M) (W_{ℓ−1} ⋯ W_1)ᵀ                    exactly, for every Σ and start.

**Modes.** Let M = Σ_a s_a u_a v_aᵀ with every v_a an eigenvector of Σ (σ_a; whitened inputs: σ_a = 1), and let the
start be aligned and balanced, W_ℓ(0) = R_{ℓ+1} R_ℓᵀ with orthogonal R_ℓ, R_1 = V, R_{L+1} = U. Then the matrices stay
R_{ℓ+1} diag(w_a) R_ℓᵀ and each mode is the scalar model with γ_a = γ s_a/σ_a and output f σ_a/s_a, at a pace s_a:

    dw_a/dτ = w_a^{L−1} (s_a − σ_a (w_a^L − 1)/γ),       τ_a(level) = (1/s_a) τ(level; γ s_a/σ_a, L),      τ = ηt/γ,

where τ(f; γ, L) is the time of ``theory.flow`` and level = f σ_a/s_a the fraction of the mode that is learned.

**Staircases**, γ s_a/σ_a ≫ 1:  L > 2: τ_a = (1/s_a) [1/(L−2) + K(level) (γs_a/σ_a)^{−(1−2/L)} + …], step times in the
inverse ratio of the s_a whatever σ_a is;  L = 2: τ_a = ln((1 + γ_a level)/(1 − level)) γ_a/(2 s_a (1+γ_a)), which at
half height and γ_a ≫ 1 is ln(γ_a)/(2 s_a);  L = 1: no plateau.

If M's right singular vectors are not eigenvectors of Σ (MᵀM and Σ do not commute) modes do not decouple: from the
second instant on, fΣ − M has entries between them, and only the matrix equation above is exact (``flow_velocity``).

**Conserved** by the flow, for any loss of f: W_{ℓ+1}ᵀW_{ℓ+1} − W_ℓW_ℓᵀ. One step of gradient descent with gradients G_ℓ
changes it by η²(G_{ℓ+1}ᵀG_{ℓ+1} − G_ℓG_ℓᵀ), exactly.

Source: A. M. Saxe, J. L. McClelland, S. Ganguli (2014), arXiv:1312.6120; the γ dependence is derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import mpmath
import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

from theory.derivation import Step
from theory.errors import InputError, positive_array, positive_integer, positive_number
from theory.flow import rescaled_time, time_integrand
from theory.losses import MSE
from theory.quadrature import FloatArray
from theory.symbols import depth, gamma, w

strength = sp.Symbol("s_a", positive=True)  # singular value of M
variance = sp.Symbol("sigma_a", positive=True)  # eigenvalue of Σ on the same direction
fraction = sp.Symbol("level", positive=True)  # of the mode that is learned, in (0, 1)


@cache
def mode_velocity() -> sp.Expr:
    """dw_a/dτ of an aligned balanced mode, for symbolic L: the matrix equation with diagonal matrices put in.

    Returns:
        The velocity in w, L, gamma, s_a and sigma_a.
    """
    layer = sp.Symbol("l", integer=True, positive=True)
    above, below = w ** (depth - layer), w ** (layer - 1)  # W_L ⋯ W_{ℓ+1} and W_{ℓ−1} ⋯ W_1 are powers of diag(w)
    error = variance * (w**depth - 1) / gamma - strength
    return sp.powsimp(above * below) * -error


@cache
def mode_time_integrand() -> sp.Expr:
    """Integrand of τ_a(level) in s, from 0 to the level: that of the scalar model at γ_a, over s_a.

    Returns:
        The integrand in s, L, gamma, s_a and sigma_a.
    """
    return time_integrand(MSE).subs(gamma, gamma * strength / variance) / strength


def plateau_correction(level: float, depth: int) -> float:
    """K(level): coefficient of the leading correction to the plateau's end, L > 2.

    Args:
        level: fraction of the mode that is learned, in (0, 1).
        depth: number of layers L > 2.

    Returns:
        K = −(level^{−m}/(Lm)) ₂F₁(1, −m; 1−m; level), m = 1 − 2/L: the finite part of the flow time.

    Raises:
        InputError: level outside (0, 1), or a depth that is not an integer ≥ 3.
    """
    part, layers = _level(level), positive_integer("depth", depth, least=3)
    m = 1 - 2 / mpmath.mpf(layers)
    return float(-(part**-m) / (layers * m) * mpmath.hyp2f1(1, -m, 1 - m, part))


def _level(level: float) -> float:
    value = positive_number("level", level)
    if value >= 1:
        raise InputError("level", value, "strictly between 0 and 1")
    return value


def staircase_times(
    singular_values: ArrayLike,
    gamma: ArrayLike,
    depth: int,
    *,
    level: float = 0.5,
    input_variances: ArrayLike = 1.0,
) -> FloatArray:
    """Rescaled times at which modes have learned a given fraction, exactly, from an aligned balanced start.

    Args:
        singular_values: s_a of E yxᵀ, positive.
        gamma: feature-learning strength, positive.
        depth: number of layers L.
        level: fraction of the mode's own target s_a/σ_a, in (0, 1).
        input_variances: σ_a, eigenvalues of E xxᵀ on the modes' right singular vectors; 1 when inputs are whitened.
            All arrays broadcast.

    Returns:
        τ_a = ηt_a/γ, float64, in the broadcast shape. The time in steps is γτ_a/η, with no width factor in η.

    Raises:
        InputError: values not positive and finite, shapes that do not broadcast, level outside (0, 1), depth not an
            integer ≥ 1.
    """
    values, strengths = positive_array("singular_values", singular_values), positive_array("gamma", gamma)
    variances, part = positive_array("input_variances", input_variances), _level(level)
    layers = positive_integer("depth", depth)
    try:
        effective = strengths * values / variances
    except ValueError:
        shapes = (values.shape, strengths.shape, variances.shape)
        raise InputError("singular_values", shapes, "of a shape that broadcasts with the other arrays") from None
    return np.asarray(rescaled_time(output=part, gamma=effective, depth=layers) / values)[()]


def plateau_times(
    singular_values: ArrayLike, gamma: ArrayLike, depth: int, *, level: float = 0.5, input_variances: ArrayLike = 1.0
) -> FloatArray:
    """Large-γ form of ``staircase_times``: 1/((L−2)s_a) with its first correction, or ln(γ_a level/(1−level))/(2 s_a).

    Args:
        singular_values: s_a, positive.
        gamma: feature-learning strength, positive.
        depth: number of layers L ≥ 2.
        level: fraction of the mode that is learned, in (0, 1).
        input_variances: σ_a. All arrays broadcast.

    Returns:
        τ_a up to terms of relative order 1/γ_a (times ln γ_a for L = 2), γ_a = γ s_a/σ_a.

    Raises:
        InputError: values not positive and finite, level outside (0, 1), depth not an integer ≥ 2.
    """
    values, strengths = positive_array("singular_values", singular_values), positive_array("gamma", gamma)
    effective = strengths * values / positive_array("input_variances", input_variances)
    layers, part = positive_integer("depth", depth, least=2), _level(level)
    if layers == 2:
        return np.asarray(np.log(effective * part / (1.0 - part)) / (2.0 * values))[()]
    correction = plateau_correction(part, layers) * effective ** -(1.0 - 2.0 / layers)
    return np.asarray((1.0 / (layers - 2) + correction) / values)[()]


def product_of(matrices: Sequence[FloatArray], columns: int) -> FloatArray:
    """W_k ⋯ W_1 of the matrices W_1, …, W_k in that order.

    Args:
        matrices: may be empty.
        columns: size of the identity that an empty product is.

    Returns:
        The product.
    """
    result: FloatArray = np.eye(columns)
    for matrix in matrices:
        result = matrix @ result
    return result


def flow_velocity(
    weights: Sequence[ArrayLike], *, start: ArrayLike, gamma: float, correlation: ArrayLike, covariance: ArrayLike
) -> list[FloatArray]:
    """dW_ℓ/dτ of the gradient flow, exactly, whether or not modes decouple.

    Args:
        weights: W_1, …, W_L, where W_1 acts on the input.
        start: the product W_L(0) ⋯ W_1(0).
        gamma: feature-learning strength.
        correlation: M = E yxᵀ.
        covariance: Σ = E xxᵀ.

    Returns:
        One array per layer, the shape of its matrix. A step of gradient descent at η adds η/γ times this.

    Raises:
        InputError: γ not positive, no weights, or shapes that do not fit together.
    """
    layers = [np.asarray(matrix, dtype=np.float64) for matrix in weights]
    strength = positive_number("gamma", gamma)
    if not layers:
        raise InputError("weights", weights, "at least one matrix")
    try:
        columns = layers[0].shape[1]
        output = (product_of(layers, columns) - np.asarray(start, dtype=np.float64)) / strength
        error = output @ np.asarray(covariance, dtype=np.float64) - np.asarray(correlation, dtype=np.float64)
        return [
            -product_of(layers[at + 1 :], matrix.shape[0]).T @ error @ product_of(layers[:at], columns).T
            for at, matrix in enumerate(layers)
        ]
    except (ValueError, IndexError):
        shapes = [matrix.shape for matrix in layers]
        raise InputError("weights", shapes, "matrices that multiply to the shape of start and correlation") from None


def layer_balance(weights: Sequence[ArrayLike]) -> list[FloatArray]:
    """W_{ℓ+1}ᵀW_{ℓ+1} − W_ℓW_ℓᵀ for ℓ = 1, …, L−1: constant under the flow of any loss, zero on a balanced start.

    Args:
        weights: W_1, …, W_L. With gradients G_ℓ in their place, η² times the result is one step's change.

    Returns:
        L − 1 symmetric matrices.

    Raises:
        InputError: matrices that do not multiply.
    """
    layers = [np.asarray(matrix, dtype=np.float64) for matrix in weights]
    if any(matrix.ndim != 2 for matrix in layers) or any(
        late.shape[1] != early.shape[0] for early, late in pairwise(layers)
    ):
        raise InputError("weights", [matrix.shape for matrix in layers], "matrices that multiply, first layer first")
    return [late.T @ late - early @ early.T for early, late in pairwise(layers)]


def steps() -> tuple[Step, ...]:
    """The statements of this module, with their checks.

    Returns:
        The steps, unrun.
    """
    from theory.deep_linear_checks import deep_linear_steps

    return deep_linear_steps()
