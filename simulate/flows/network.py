"""A deep linear matrix network: its losses, its velocity under gradient flow, and the Hessian of its loss.

    f = (W_L ⋯ W_1 − W_L(0) ⋯ W_1(0))/γ,     dW_ℓ/dτ = −A_ℓᵀ G B_ℓᵀ,     τ = ηt/γ,
    A_ℓ = W_L ⋯ W_{ℓ+1},   B_ℓ = W_{ℓ−1} ⋯ W_1,     G = ∂loss/∂f:

    MSE             loss = ½ E|fx − y|²,       G = fΣ − M,            Σ = E xxᵀ, M = E yxᵀ
    cross-entropy   loss = E KL(p ‖ softmax fx),      G = E (softmax(fx) − p)xᵀ,     on a finite set of (x, p)

The state is the displacement D_ℓ = W_ℓ − W_ℓ(0), and the products are taken with it, from the input up,

    δ_1 = D_1,    δ_ℓ = W_ℓ δ_{ℓ−1} + D_ℓ (W_{ℓ−1} ⋯ W_1)(0),    f = δ_L/γ,

so that f is accurate at γ = 1e-8, where the two products agree to eight digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.special import log_softmax, softmax

from simulate.trajectory import FloatArray
from theory.errors import InputError

_DENSE_HESSIAN = 64  # up to so many weights the Hessian is built, beyond it Lanczos is used
_EXACT = 1e-12  # to which the eigenvalues of Σ must be ≥ 0; smaller ones, relative to the largest, are zero


class MatrixLoss(Protocol):
    """A loss of the centred end-to-end map f, shape (out, in), as the excess over its minimum in f.

    Attributes:
        shape: (out, in).
        root: S with Σ = S Sᵀ, shape (in, k).
    """

    shape: tuple[int, int]
    root: FloatArray

    def excess(self, f: FloatArray) -> float:
        """The loss less its minimum."""
        ...

    def gradient(self, f: FloatArray) -> FloatArray:
        """∂loss/∂f."""
        ...

    def curve(self, f: FloatArray, change: FloatArray) -> FloatArray:
        """Change of the gradient with f."""
        ...


class MatrixMSE:
    """½ E|fx − y|² less its minimum: ½ |(f − f*) Σ^{1/2}|², with f* = M Σ⁺.

    Args:
        target: M = E yxᵀ, shape (out, in).
        covariance: Σ = E xxᵀ, shape (in, in); the identity when ``None``.
    """

    def __init__(self, target: FloatArray, covariance: FloatArray | None) -> None:
        self.shape = (target.shape[0], target.shape[1])
        self.target = target
        self.covariance = np.eye(target.shape[1]) if covariance is None else covariance
        values, vectors = np.linalg.eigh(self.covariance)
        kept = values > _EXACT * max(values[-1], 0.0)
        if values[0] < -_EXACT * abs(values[-1]) or not kept.any():
            raise InputError("covariance", covariance, "positive semidefinite and not zero")
        self.root = vectors[:, kept] * np.sqrt(values[kept])
        self.best = target @ (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
        left = np.linalg.norm(self.best @ self.covariance - target)
        if left > 1e-9 * max(np.linalg.norm(target), np.finfo(float).tiny):
            raise InputError("target", target, "E yxᵀ, whose rows lie in the range of the covariance E xxᵀ")

    def excess(self, f: FloatArray) -> float:
        """The loss less its minimum."""
        return 0.5 * float(np.sum(((f - self.best) @ self.root) ** 2))

    def gradient(self, f: FloatArray) -> FloatArray:
        """∂loss/∂f."""
        return np.asarray(f @ self.covariance - self.target)

    def curve(self, f: FloatArray, change: FloatArray) -> FloatArray:
        """Change of the gradient with f."""
        return np.asarray(change @ self.covariance)


class MatrixCrossEntropy:
    """E KL(p ‖ softmax(fx)), the cross-entropy less the labels' entropy.

    Args:
        inputs: examples, shape (samples, in).
        labels: probabilities, shape (samples, out).
    """

    def __init__(self, inputs: FloatArray, labels: FloatArray) -> None:
        self.shape = (labels.shape[1], inputs.shape[1])
        self.inputs, self.labels = inputs, labels
        self.root = inputs.T / math.sqrt(len(inputs))

    def excess(self, f: FloatArray) -> float:
        """The loss less the labels' entropy."""
        log_q = log_softmax(self.inputs @ f.T, axis=1)
        known = np.where(self.labels > 0, self.labels, 1.0)  # 0 ln 0 = 0
        # p ln(p/q) − p + q: the last two cancel in the sum, and each term is ≥ 0
        terms = self.labels * (np.log(known) - log_q) - self.labels + np.exp(log_q)
        return float(np.sum(np.maximum(terms, 0.0))) / len(self.inputs)

    def gradient(self, f: FloatArray) -> FloatArray:
        """∂loss/∂f."""
        residual = softmax(self.inputs @ f.T, axis=1) - self.labels
        return np.asarray(residual.T @ self.inputs / len(self.inputs))

    def curve(self, f: FloatArray, change: FloatArray) -> FloatArray:
        """Change of the gradient with f."""
        q = softmax(self.inputs @ f.T, axis=1)
        moved = q * (self.inputs @ change.T)
        moved -= q * moved.sum(axis=1, keepdims=True)
        return np.asarray(moved.T @ self.inputs / len(self.inputs))


@dataclass(frozen=True)
class Pass:
    """One pass through a network.

    Attributes:
        weights: W_1, …, W_L.
        below: B_2, …, B_L: W_1, W_2 W_1, …
        output: f.
    """

    weights: list[FloatArray]
    below: list[FloatArray]
    output: FloatArray


class Network:
    """The equations of one network; its state is the vector of all displacements, layer by layer.

    Args:
        weights: the start, W_1 first.
        gamma: feature-learning strength.
        loss: of f.
    """

    def __init__(self, weights: list[FloatArray], gamma: float, loss: MatrixLoss) -> None:
        self.start, self.gamma, self.loss = weights, gamma, loss
        self.shapes = [matrix.shape for matrix in weights]
        self.ends = np.cumsum([matrix.size for matrix in weights])
        self.size = int(self.ends[-1])
        self.below_start = [weights[0]]
        for matrix in weights[1:-1]:
            self.below_start.append(matrix @ self.below_start[-1])

    def split(self, state: FloatArray) -> list[FloatArray]:
        """One array per layer, views of the vector."""
        parts = np.split(state, self.ends[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def forward(self, state: FloatArray) -> Pass:
        """Weights, products from the input up, and f."""
        moved = self.split(state)
        weights = [start + d for start, d in zip(self.start, moved, strict=True)]
        risen, below = moved[0], []
        for layer in range(1, len(weights)):
            below.append(self.below_start[layer - 1] + risen)
            risen = weights[layer] @ risen + moved[layer] @ self.below_start[layer - 1]
        return Pass(weights, below, risen / self.gamma)

    def velocity(self, _tau: float, state: Any) -> FloatArray:
        """dD/dτ, in the form of the state."""
        at = self.forward(state)
        result = np.empty(self.size)
        parts = self.split(result)
        back = -self.loss.gradient(at.output)
        for layer in range(len(parts) - 1, 0, -1):
            np.matmul(back, at.below[layer - 1].T, out=parts[layer])
            back = at.weights[layer].T @ back
        parts[0][...] = back
        return result

    def jacobian_product(self, at: Pass, change: FloatArray) -> FloatArray:
        """The change of the velocity with the state, in one direction: −γ times the Hessian of the loss.

        Args:
            at: a pass through the network.
            change: direction, shape ``(size,)``.

        Returns:
            Same shape.
        """
        moved = self.split(change)
        risen, changes = moved[0], []
        for layer in range(1, len(moved)):
            changes.append(risen)
            risen = at.weights[layer] @ risen + moved[layer] @ at.below[layer - 1]
        result = np.empty(self.size)
        parts = self.split(result)
        back = -self.loss.gradient(at.output)
        back_change = -self.loss.curve(at.output, risen / self.gamma)
        for layer in range(len(parts) - 1, 0, -1):
            parts[layer][...] = back_change @ at.below[layer - 1].T + back @ changes[layer - 1].T
            back_change = at.weights[layer].T @ back_change + moved[layer].T @ back
            back = at.weights[layer].T @ back
        parts[0][...] = back_change
        return result

    def jacobian(self, _tau: float, state: FloatArray) -> FloatArray:
        """The whole matrix of ``jacobian_product``."""
        at = self.forward(state)
        return np.stack([self.jacobian_product(at, unit) for unit in np.eye(self.size)], axis=1)

    def sharpness(self, state: FloatArray) -> float:
        """Largest eigenvalue of the Hessian of the loss with respect to all weights."""
        if self.size <= _DENSE_HESSIAN:
            dense = self.jacobian(0.0, state)
            return float(np.linalg.eigvalsh(-(dense + dense.T) / 2)[-1]) / self.gamma
        at = self.forward(state)
        operator = LinearOperator((self.size, self.size), matvec=lambda x: -self.jacobian_product(at, x.ravel()),
                                  dtype=np.float64)  # fmt: skip
        first = np.random.default_rng(0).standard_normal(self.size)  # a fixed start: the result is reproducible
        return float(eigsh(operator, k=1, which="LA", v0=first, tol=1e-10, return_eigenvectors=False)[0]) / self.gamma

    def excess(self, state: FloatArray) -> float:
        """The loss less its minimum."""
        return self.loss.excess(self.forward(state).output)

    def fields(self, states: FloatArray, *, sharpness: bool) -> dict[str, Any]:
        """The fields of a trajectory.

        Args:
            states: shape ``(times, size)``.
            sharpness: whether to compute it, or leave NaN.

        Returns:
            Every field with one entry a time, but for the times.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # weights of 1e150 have an infinite kernel
            return self._fields(states, sharpness=sharpness)

    def _fields(self, states: FloatArray, *, sharpness: bool) -> dict[str, Any]:
        pull = -self.loss.gradient(np.zeros(self.loss.shape))
        passes = [self.forward(state) for state in states]
        output = np.array([at.output for at in passes]).reshape(-1, *self.loss.shape)
        return {
            "weights": tuple(
                np.array([at.weights[layer] for at in passes]).reshape(-1, *shape)
                for layer, shape in enumerate(self.shapes)
            ),
            "output": output,
            "loss": np.array([self.loss.excess(at.output) for at in passes]),
            "sharpness": np.array([self.sharpness(state) if sharpness else np.nan for state in states]),
            "kernel": np.array([self._kernel(at) for at in passes]),
            "balance": np.array([self._drift(state) for state in states]),
            "alignment": np.array([_cosine(f, pull) for f in output]),
        }

    def _kernel(self, at: Pass) -> float:
        inputs = [self.loss.root, *(below @ self.loss.root for below in at.below)]
        above, total = np.eye(self.loss.shape[0]), 0.0
        for layer in range(len(at.weights) - 1, -1, -1):
            total += float(np.sum((above / self.gamma) ** 2) * np.sum(inputs[layer] ** 2))
            above = above @ at.weights[layer]
        return total

    def _drift(self, state: FloatArray) -> float:
        # from the displacement: W_{ℓ+1}ᵀW_{ℓ+1} changes by D ᵀW(0) + W(0)ᵀD + DᵀD, W_ℓW_ℓᵀ likewise
        moved, worst = self.split(state), 0.0
        for lower in range(len(moved) - 1):
            late, early = self.start[lower + 1], self.start[lower]
            d_late, d_early = moved[lower + 1], moved[lower]
            cross = d_late.T @ late - d_early @ early.T
            change = cross + cross.T + d_late.T @ d_late - d_early @ d_early.T
            scale = float(np.sum((late + d_late) ** 2) + np.sum((early + d_early) ** 2))
            if scale > 0:
                worst = max(worst, float(np.linalg.norm(change)) / scale)
        return worst


def _cosine(first: FloatArray, second: FloatArray) -> float:
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(np.sum(first * second)) / norms if norms > 0 else math.nan
