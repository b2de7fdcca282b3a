"""Catapults: gradient descent on a linear net with two layers of width n closes in the output and its kernel.

    f = (u·v − u₀·v₀)/(γn),   λ = (|u|² + |v|²)/(nγ²),   κ = u₀·v₀/n,   r = f − 1,   loss r²/2,   step ηn

    f ← f − ηλr + (ηr/γ)² (f + κ/γ),        λ ← λ (1 + (ηr/γ)²) − 4 (ηr/γ²)(f + κ/γ)

at every γ and n, because the step multiplies (u, v) by the matrix ((1, −c), (−c, 1)) with c = ηr/γ, so that
|u+v|² ← (1−c)² |u+v|² and |u−v|² ← (1+c)² |u−v|². In c and k = ηλ one parameter is left, ε = (η/γ)(1 + κ/γ):

    c ← c (1 − k + c²) + ε c²,        k ← k + c² (k − 4) − 4 ε c,        |c + ε| ≤ k/2.

For κ = 0 and γ ≪ 1, ε = η/γ is of order γ, and the start is c₀ = −ε, k₀ = ηλ₀. At ε = 0:

* k₀ < 2: |c| shrinks, the loss falls monotonically (f itself alternates around 1 when k₀ > 1);
* 2 < k₀ < 4: |c| grows to order 1 while k can only fall (k − 4 < 0) and |c| ≤ k/2 < 2, so nothing escapes; since
  Σ c²(4 − k) = k₀ − k_∞ is finite, c → 0, and then |1 − k_∞| ≤ 1: the run ends at ηλ ≤ 2. On the way
  δ − ln(1+δ) ≤ max c² ≤ 4(k₀−1)³/27, δ = k₀ − 2: the loss peaks at c²γ²/(2η²), of order γ⁻²;
* k₀ > 4: k only grows, c → 0 would need k ≤ 2, so Σ c² and with it k diverge (unless c lands on 0 exactly).

With an overlap κ, |c + ε| ≤ k/2 at c = 0 leaves no minimum flatter than ηλ = 2|ε|. So the fall below 2 needs
|ε| < 1; for γ ≪ 1, |u₀| = |v₀| and correlation ρ = cos(u₀, v₀) that is ηλ₀|ρ| < 2.

Source: the model is in the appendix of arXiv:2410.04642; derived here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike, NDArray

from theory.derivation import Step
from theory.errors import InputError, positive_array, positive_integer
from theory.quadrature import FloatArray
from theory.symbols import eta, f, gamma

width = sp.Symbol("n", integer=True, positive=True)
overlap_symbol = sp.Symbol("kappa", real=True)  # u_0 . v_0 / n
kernel_symbol = sp.Symbol("lambda_K", positive=True)  # (|u|^2 + |v|^2)/(n gamma^2): the tangent kernel
scaled_residual = sp.Symbol("c", real=True)  # eta (f - 1)/gamma
scaled_kernel = sp.Symbol("k", positive=True)  # eta lambda_K
drift = sp.Symbol("epsilon", real=True)  # (eta/gamma)(1 + kappa/gamma)
excess = sp.Symbol("delta", positive=True)  # k_0 - 2
_norm_v = sp.Symbol("V", positive=True)  # |v|^2

_SMALL_START = 1e-6  # of c: the limit map's corrections are of its square
_SETTLED = 1e-10
_MOST_STEPS = 20_000  # growth from 1e-6 takes 14/(k_0 - 2) steps


@dataclass(frozen=True)
class CatapultPrediction:
    """What the theory says about runs before they are made; every field has the shape of the broadcast arguments.

    Args:
        scaled_rate: k₀ = ηλ₀.
        regime: "monotone" (k₀ < 2), "catapult" (2 < k₀ < 4), "divergent" (k₀ > 4) or "edge": for γ ≪ 1 and
            |κ| ≪ γ²λ₀/2.
        can_settle: whether a stable minimum exists, that is η|γ+κ|/γ² < 1; exact at every γ. Without one a run ends at
            f = 1 only by landing on it exactly (as one step at ηλ₀ = 1, κ = 0 does).
        peak_loss_low: bound from below on the largest loss, leading order in γ ≪ 1; ``nan`` outside "catapult".
        peak_loss_high: bound from above, likewise.
        final_kernel_low: 2|γ+κ|/γ², the kernel of the flattest minimum; exact at every γ.
        final_kernel_high: 2/η, above which no minimum attracts; exact at every γ.
    """

    scaled_rate: FloatArray
    regime: NDArray[np.str_]
    can_settle: NDArray[np.bool_]
    peak_loss_low: FloatArray
    peak_loss_high: FloatArray
    final_kernel_low: FloatArray
    final_kernel_high: FloatArray


@dataclass(frozen=True)
class CatapultRange:
    """Extremes over the phase of the start, which is all that γ → 0 leaves of γ: results are periodic in ln γ.

    Args:
        peak_low: smallest max c² over a run.
        peak_high: largest max c².
        final_low: smallest final k = ηλ.
        final_high: largest final k.
    """

    peak_low: float
    peak_high: float
    final_low: float
    final_high: float


def _real_array(field: str, given: ArrayLike) -> FloatArray:
    values = np.asarray(given)
    if values.dtype.kind not in "iuf" or values.size == 0:
        raise InputError(field, given, "a real number, or an array of them")
    return values.astype(np.float64)


def _broadcast(*arrays: FloatArray) -> tuple[FloatArray, ...]:
    try:
        return tuple(np.broadcast_arrays(*arrays))
    except ValueError:
        raise InputError("kernel", tuple(array.shape for array in arrays), "of shapes that fit together") from None


def _start(eta: ArrayLike, gamma: ArrayLike, kernel: ArrayLike, overlap: ArrayLike) -> tuple[FloatArray, ...]:
    arrays = (
        positive_array("eta", eta), positive_array("gamma", gamma),
        positive_array("kernel", kernel), _real_array("overlap", overlap),
    )  # fmt: skip
    rate, strength, lam, kappa = _broadcast(*arrays)
    # 1e-12: a start with u = v sits on the bound up to rounding
    wrong = ~(np.abs(kappa) <= strength**2 * lam / 2 * (1 + 1e-12))
    if wrong.any():
        raise InputError("overlap", float(kappa[wrong].flat[0]), "at most gamma^2 kernel/2 in size (Cauchy-Schwarz)")
    return rate, strength, lam, kappa


def catapult_map(
    output: ArrayLike, kernel: ArrayLike, *, eta: ArrayLike, gamma: ArrayLike, overlap: ArrayLike = 0.0
) -> tuple[FloatArray, FloatArray]:
    """One step of gradient descent on (f, λ), exactly, at every γ and width.

    Args:
        output: f; a value that has overflowed stays so.
        kernel: λ = (|u|² + |v|²)/(nγ²).
        eta: learning rate; the weights move by ηn times the gradient.
        gamma: feature-learning strength.
        overlap: κ = u₀·v₀/n of the start. All five broadcast.

    Returns:
        The next f and λ, float64, in the broadcast shape.

    Raises:
        InputError: η or γ not positive and finite, any argument not real, or shapes that do not broadcast.
    """
    outputs, lam, kappa = _real_array("output", output), _real_array("kernel", kernel), _real_array("overlap", overlap)
    rate, strength = positive_array("eta", eta), positive_array("gamma", gamma)
    outputs, lam, kappa, rate, strength = _broadcast(outputs, lam, kappa, rate, strength)
    with np.errstate(over="ignore", invalid="ignore"):  # escaping runs overflow, which is their result
        residual, product = outputs - 1.0, outputs + kappa / strength
        c = rate * residual / strength
        return (
            np.asarray(outputs - rate * lam * residual + c**2 * product)[()],
            np.asarray(lam * (1.0 + c**2) - 4.0 * c / strength * product)[()],
        )


def catapult_run(
    *, eta: ArrayLike, gamma: ArrayLike, kernel: ArrayLike, steps: int, overlap: ArrayLike = 0.0
) -> tuple[FloatArray, FloatArray]:
    """Trajectories of the closed map from f = 0.

    Args:
        eta: learning rate (the weights' step is ηn).
        gamma: feature-learning strength.
        kernel: λ₀ at the start; 2/γ² when the entries of u and v have unit variance.
        steps: number of steps T.
        overlap: κ = u₀·v₀/n. All four arrays broadcast.

    Returns:
        f and λ, each of shape (T + 1, *broadcast shape). Escaped runs end in ``inf`` or ``nan``.

    Raises:
        InputError: η, γ or λ₀ not positive, κ beyond γ²λ₀/2 in size, steps not an integer ≥ 1.
    """
    rate, strength, lam, kappa = _start(eta, gamma, kernel, overlap)
    count = positive_integer("steps", steps)
    outputs, kernels = (np.empty((count + 1, *lam.shape)) for _ in range(2))
    outputs[0], kernels[0] = 0.0, lam
    for now in range(count):
        outputs[now + 1], kernels[now + 1] = catapult_map(
            outputs[now], kernels[now], eta=rate, gamma=strength, overlap=kappa
        )
    return outputs, kernels


def predict_catapult(
    *, eta: ArrayLike, gamma: ArrayLike, kernel: ArrayLike, overlap: ArrayLike = 0.0
) -> CatapultPrediction:
    """Regime, height of the catapult and bounds on the final kernel, without running anything.

    Args:
        eta: learning rate (the weights' step is ηn).
        gamma: feature-learning strength.
        kernel: λ₀ at the start.
        overlap: κ = u₀·v₀/n. All four broadcast.

    Returns:
        The prediction; its fields say which are exact and which hold for γ ≪ 1.

    Raises:
        InputError: η, γ or λ₀ not positive, κ beyond γ²λ₀/2 in size.
    """
    rate, strength, lam, kappa = _start(eta, gamma, kernel, overlap)
    k0 = rate * lam
    regime = np.select([k0 < 2, (k0 > 2) & (k0 < 4), k0 > 4], ["monotone", "catapult", "divergent"], "edge")
    delta = np.where(regime == "catapult", k0 - 2.0, np.nan)
    scale = (strength / rate) ** 2 / 2.0  # the loss is c² times this
    flattest = 2.0 * np.abs(strength + kappa) / strength**2
    return CatapultPrediction(
        scaled_rate=k0,
        regime=regime,
        can_settle=rate * flattest < 2.0,
        peak_loss_low=scale * (delta - np.log1p(delta)),
        peak_loss_high=scale * 4.0 * (1.0 + delta) ** 3 / 27.0,
        final_kernel_low=flattest,
        final_kernel_high=2.0 / rate,
    )


def catapult_range(scaled_rate: float, *, phases: int = 256) -> CatapultRange:
    """Iterate the limit map (ε = 0) over one period of the start's phase and collect the extremes.

    Args:
        scaled_rate: k₀ = ηλ₀, at least 2.01 and below 4.
        phases: number of starts c₀, spread over one factor k₀ − 1.

    Returns:
        The extremes over these starts. They are measured, so the true range is at least this wide.

    Raises:
        InputError: scaled_rate outside [2.01, 4), or phases not an integer ≥ 1.
    """
    (k0,) = positive_array("scaled_rate", [scaled_rate])
    if not 2.01 <= k0 < 4:
        raise InputError("scaled_rate", scaled_rate, "at least 2.01 and below 4")
    phase = np.arange(positive_integer("phases", phases)) / phases
    c = _SMALL_START * (k0 - 1.0) ** -phase
    k, peak = np.full_like(c, k0), c**2
    for _ in range(_MOST_STEPS):
        c, k = c * (1.0 - k + c**2), k + c**2 * (k - 4.0)
        peak = np.maximum(peak, c**2)
        if np.abs(c).max() < _SETTLED:
            break
    return CatapultRange(float(peak.min()), float(peak.max()), float(k.min()), float(k.max()))


@cache
def closed_map() -> tuple[sp.Expr, sp.Expr]:
    """The map of (f, λ), from the step's action on the Gram matrix of u and v.

    Returns:
        The next f and λ in f, lambda_K, kappa, eta and gamma; width has cancelled.
    """
    product = width * (gamma * f + overlap_symbol)
    squares = width * gamma**2 * kernel_symbol
    # ∂ℓ/∂u = (f − 1) v/(γn) and the same with u and v exchanged, times the step ηn
    c = eta * width * (f - 1) / (gamma * width)
    step = sp.Matrix([[1, -c], [-c, 1]])
    gram = step * sp.Matrix([[squares - _norm_v, product], [product, _norm_v]]) * step.T
    output = sp.expand((gram[0, 1] - width * overlap_symbol) / (gamma * width))
    return output, sp.expand(gram.trace() / (width * gamma**2))


@cache
def reduced_map() -> tuple[sp.Expr, sp.Expr]:
    """The map of (c, k), from |u±v|² ← (1∓c)² |u±v|².

    Returns:
        The next c and k in c, k and epsilon.
    """
    # (η/γ²)(|u+v|² ± |u−v|²)/(4n) are c + ε (minus) and k/2 (plus)
    c, k, e = scaled_residual, scaled_kernel, drift
    plus = (1 - c) ** 2 * (k / 2 + c + e) / 2
    minus = (1 + c) ** 2 * (k / 2 - c - e) / 2
    return sp.expand(plus - minus - e), sp.expand(2 * (plus + minus))


def peak_bounds() -> tuple[sp.Expr, sp.Expr]:
    """Bounds on max c² at ε = 0 for 2 < k₀ < 4, in δ = k₀ − 2.

    Before the peak, q = c² and k obey Δq ≥ (−Δk)(k − 2 − q), an Euler step of dq/d(−k) = k − 2 − q with a step below 1;
    that solution is concave, so Euler steps stay above it, and so does the peak. From above: q ← q(k−1−q)², k ≤ k₀.

    Returns:
        The floor δ − ln(1+δ) (δ²/2 as δ → 0, which the peak then attains) and the ceiling 4(1+δ)³/27.
    """
    at = sp.Symbol("x", positive=True)
    solution = 1 + at - (1 + excess) * sp.exp(at - excess)  # zero at k = k₀, that is x = k − 2 = δ
    (turn,) = sp.solve(sp.Eq(sp.diff(solution, at), 0), at)
    return sp.simplify(sp.expand_log(solution.subs(at, turn))), 4 * (1 + excess) ** 3 / 27


def steps() -> tuple[Step, ...]:
    """The statements of this module, with their checks.

    Returns:
        The steps, unrun.
    """
    from theory.catapult_checks import catapult_steps

    return catapult_steps()
