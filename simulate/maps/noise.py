"""Noise of online training on the scalar model: mini-batches and labels, with stated statistics.

A batch of B examples with inputs x ~ N(0, 1), targets x + label · ξ, ξ ~ N(0, 1), and outputs f x has, for MSE, the
gradient (1/B) Σ x² (f − 1) − (label/B) Σ x ξ in f. Given the inputs the second sum is Gaussian, so that a step uses

    s_t ℓ′(f) + label √(s_t/B) ξ_t,      s_t = χ²_B / B,   mean 1, variance 2/B,      ξ_t ~ N(0, 1)

in place of ℓ′(f), exactly. Without ``batch`` there is one example with x = 1: s_t = 1 and B = 1. The same two noises
are used for cross-entropy, as a model: s_t multiplies the residual, and ``label`` is the standard deviation of one
example's label (hard labels drawn from the soft one have √(σ(1)(1−σ(1))) ≈ 0.4434).

Losses are those of the mean gradient, ℓ(f), not of the batch. All cells of one seed meet the same s_t and ξ_t, which
are a function of seed and step alone.

**Boundary.** Near the minimum r ← (1 − ηλ* s_t) r + noise, so that the mean square of r stays bounded if and only if
E(1 − ηλ*s)² < 1: η < eta_crit / E s² = eta_crit · B/(B+2). Almost every run still contracts beyond that, as long as
E ln|1 − ηλ*s| < 0; in between it visits large losses rarely, with a power-law tail.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import prange
from numpy.typing import NDArray

from simulate.maps.balanced import powers
from simulate.maps.compiled import compiled
from simulate.maps.losses import excess, slope
from theory.errors import InputError, positive_integer

_CHUNK = 8192  # steps whose noise is drawn at a time


@dataclass(frozen=True)
class Noise:
    """What makes the gradient random.

    Attributes:
        label: standard deviation of one example's label noise; 0 for exact labels.
        batch: examples in a batch, B; ``None`` for the one noise-free input x = 1.
    """

    label: float = 0.0
    batch: int | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.label) and self.label >= 0):
            raise InputError("noise.label", self.label, "a finite number >= 0")
        if self.batch is not None:
            positive_integer("noise.batch", self.batch)

    def __bool__(self) -> bool:
        return self.label > 0 or self.batch is not None

    @property
    def mean_square_multiplier(self) -> float:
        """E s², by which eta_crit is divided for the mean square to stay bounded: 1 + 2/B, or 1."""
        return 1.0 if self.batch is None else 1.0 + 2.0 / self.batch


NO_NOISE = Noise()


@compiled(parallel=True)
def _advance(  # type: ignore[no-untyped-def]
    gamma, eta, beta, signed, depth, loss_code, first, tail_start, divergence, multiplier, additive, alive,
    displacement, velocity, lowest, highest, total, steps_run,
):  # fmt: skip
    for i in prange(gamma.size):
        if alive[i]:
            bound = divergence * max(1.0, gamma[i])
            scale = 1.0 / gamma[i]
            d, v, low, high, tail = displacement[i], velocity[i], lowest[i], highest[i], total[i]
            raw, power = powers(d, depth)
            for t in range(multiplier.size):
                gradient = scale * power * (multiplier[t] * slope(raw * scale, loss_code) + additive[t])
                if signed:
                    d -= eta[i] * np.sign(gradient)
                else:
                    v = beta * v + eta[i] * gradient
                    d -= v
                raw, power = powers(d, depth)
                if not abs(raw) <= bound:
                    alive[i], steps_run[i] = False, first + t + 1
                    break
                output = raw * scale
                low, high = min(low, output), max(high, output)
                if first + t + 1 > tail_start:
                    tail += excess(output, loss_code)
            displacement[i], velocity[i], lowest[i], highest[i], total[i] = d, v, low, high, tail


def _streams(seed: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Generators of s and of ξ for a seed; apart, so that neither depends on whether the other is drawn."""
    inputs, labels = np.random.SeedSequence(seed).spawn(2)
    return np.random.Generator(np.random.PCG64(inputs)), np.random.Generator(np.random.PCG64(labels))


def run_noisy(
    gamma: NDArray[np.float64],
    eta: NDArray[np.float64],
    seed: NDArray[np.int64],
    *,
    noise: Noise,
    beta: float,
    signed: bool,
    depth: int,
    loss_code: int,
    steps: int,
    tail_steps: int,
    divergence: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Run noisy cells, one for each (γ, η, seed); all T steps of every one that does not diverge.

    Args:
        gamma: feature-learning strengths, shape ``(cells,)``.
        eta: learning rates, same shape.
        seed: seeds of the noise, same shape.
        noise: the statistics.
        beta: momentum β; 0 for gradient descent.
        signed: sign descent.
        depth: number of weights L.
        loss_code: MSE or CROSS_ENTROPY.
        steps: budget T.
        tail_steps: length of the tail.
        divergence: as in ``Thresholds``.

    Returns:
        Tail loss, peak loss, steps run and whether it diverged, each of shape ``(cells,)``.
    """
    cells = gamma.size
    alive = np.ones(cells, dtype=np.bool_)
    displacement, velocity, lowest, highest, total = np.zeros((5, cells))
    steps_run = np.full(cells, steps, dtype=np.int64)
    examples = 1 if noise.batch is None else noise.batch
    for one in np.unique(seed):
        (mine,) = np.nonzero(seed == one)
        inputs, labels = _streams(int(one))
        state = [array[mine] for array in (alive, displacement, velocity, lowest, highest, total, steps_run)]
        for first in range(0, steps, _CHUNK):
            count = min(_CHUNK, steps - first)
            multiplier = np.ones(count) if noise.batch is None else inputs.chisquare(examples, count) / examples
            additive = noise.label * np.sqrt(multiplier / examples) * labels.standard_normal(count)
            _advance(
                gamma[mine], eta[mine], beta, signed, depth, loss_code, first, steps - tail_steps, divergence,
                multiplier, additive, *state,
            )  # fmt: skip
            if not state[0].any():
                break
        for array, part in zip((alive, displacement, velocity, lowest, highest, total, steps_run), state, strict=True):
            array[mine] = part
    tail, peak = total / tail_steps, np.maximum(_losses(lowest, loss_code), _losses(highest, loss_code))
    tail[~alive], peak[~alive] = np.nan, np.inf
    return tail, peak, steps_run, ~alive


@compiled()
def _losses(outputs: NDArray[np.float64], loss_code: int) -> NDArray[np.float64]:
    found = np.empty_like(outputs)
    for i in range(outputs.size):
        found[i] = excess(outputs[i], loss_code)
    return found
