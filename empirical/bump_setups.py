"""Networks and data that differ in one thing at a time, for the experiments on the bump (``experiments_bump``).

One fixed batch in place of endless ones, whitened inputs, one output, linear activation, an isotropic linear teacher,
or a start that is aligned with the target: the end of an earlier, slow run.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empirical.data import data_stream
from empirical.ensemble import Ensemble
from empirical.models import MLP
from empirical.shard import reproducible_torch
from empirical.trace import exact_law

SLOWER = 10
"""How much slower than the boundary a slow run is, and how much longer."""

STRICT = 0.01
"""Tail, in units of L₀, of a run that has learned: one that oscillates around a minimum has more."""

EXAMPLES = 256
"""Fresh examples, at least, on which the sharpness of networks without a fixed batch is measured."""

_FAR = 10**6  # their first step: none of them is trained on
_WHITENING_FLOOR = 1e-3  # of the mean variance: pixels that never change stay small


@dataclass(frozen=True)
class Setup:
    """What is trained: bias-free MLPs by gradient descent.

    Attributes:
        name: of the row in tables.
        depth: weight layers L.
        loss: ``mse`` or ``cross-entropy``.
        activation: ``relu`` or ``linear``.
        data: name of a data stream.
        fixed: whether every step sees the same batch, so that there is no noise.
        white: whether inputs are whitened, so that the covariance has no outlier.
        one: whether the target is one number, ±1 by halves of the classes, in place of a vector for each class.
        batch: examples in a batch.
        steps: budget T.
        width: N.
        size: side of images, or dimension of a teacher's inputs.
        pretrained: γ of a slow run whose end is θ₀ here, so that F₀ is aligned with the target, as in the scalar model;
            γ is then in units of it. 0 for a random start.
        level: share of L₀ that the tail of a trained run may have.
    """

    name: str
    depth: int = 3
    loss: str = "mse"
    activation: str = "relu"
    data: str = "fashion-mnist-deformed"
    fixed: bool = True
    white: bool = False
    one: bool = False
    batch: int = 64
    steps: int = 300
    width: int = 64
    size: int = 7
    pretrained: float = 0.0
    level: float = 0.9

    @property
    def unit(self) -> float:
        """Of γ: where F₀ is of the size of γ f."""
        return self.pretrained or 1.0


@dataclass(frozen=True)
class TrainedMLP(MLP):
    """An MLP whose θ₀ is the end of a slow run on the fixed batch.

    Attributes:
        setup: what is trained from there on.
    """

    setup: Setup | None = None

    def initial_weights(self, seed: int) -> list[Tensor]:
        """Train θ₀.

        Args:
            seed: of the random start before that, and of the batch.

        Returns:
            Effective weights V_ℓ, float64, shapes ``(fan_out, fan_in)``.
        """
        assert self.setup is not None
        return list(_trained_start(self.setup, seed))


@functools.lru_cache(maxsize=16)
def _trained_start(setup: Setup, seed: int) -> tuple[Tensor, ...]:
    """Weights after a slow run at γ = ``setup.pretrained`` from a random start."""
    gamma, steps, kept = setup.pretrained, SLOWER * setup.steps, []
    # a third of the scalar law's edge; networks of these sizes have theirs several times higher
    eta = 0.3 * float(exact_law("eta_crit", gamma, depth=setup.depth, steps=steps, loss=setup.loss))
    ensemble = make_ensemble(
        replace(setup, pretrained=0.0), np.array([gamma]), np.array([eta]), np.array([seed]), steps
    )
    with reproducible_torch("cpu"):
        ensemble.run(steps, probe=lambda _step, networks: kept.append(networks.weights), probe_steps=[steps])
    return tuple(tensor[0].clone() for tensor in kept[0].values())


def _setups() -> dict[str, Setup]:
    out = [
        Setup(f"online-{depth}{'-ce' * (loss != 'mse')}", depth, loss, fixed=False, batch=32)
        for loss in ("mse", "cross-entropy")
        for depth in (2, 3, 4)
    ]
    for depth in (2, 3, 4):
        base = Setup(f"fixed-{depth}", depth)
        changes: dict[str, dict[str, Any]] = {
            "": {},
            "-one": {"one": True},
            "-linear": {"activation": "linear"},
            "-white": {"white": True},
            "-linear-one": {"activation": "linear", "one": True},
            "-white-one": {"white": True, "one": True},
            "-white-linear-one": {"white": True, "activation": "linear", "one": True},
            "-trained": {"pretrained": 10.0},
            "-teacher": {"data": "teacher-linear", "size": 49},
            "-teacher-linear": {"data": "teacher-linear", "size": 49, "activation": "linear"},
            "-teacher-linear-trained": {
                "data": "teacher-linear",
                "size": 49,
                "activation": "linear",
                "pretrained": 10.0,
            },
        }
        out += [replace(base, name=base.name + suffix, **change) for suffix, change in changes.items()]
    strict = ("fixed-2-teacher-linear", "fixed-3-teacher-linear", "fixed-2-teacher-linear-trained")
    out += [replace(one, name=f"{one.name}-strict", level=STRICT) for one in out if one.name in strict]
    return {setup.name: setup for setup in out}


SETUPS = _setups()
"""Every setup, by its name."""


@functools.lru_cache(maxsize=8)
def _whitening(data: str, size: int) -> Tensor:
    """ZCA of the inputs, (d, d), from 4096 examples of a seed of its own; keeps E|x|²/d = 1."""
    x, _ = data_stream(data, 64, 2**32, size=size, dtype=torch.float64).batches(0, 64)
    x = x.flatten(0, 1)
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    roots = values.clamp_min(_WHITENING_FLOOR * float(values.mean())).rsqrt()
    matrix = vectors * roots @ vectors.T
    return matrix / float((x @ matrix).square().mean().sqrt())


@functools.lru_cache(maxsize=16)
def batches(setup: Setup, seed: int, start: int, count: int) -> tuple[Tensor, Tensor]:
    """Make the batches of some steps, as a setup wants them.

    Args:
        setup: what is trained.
        seed: of the stream.
        start: first step; of no meaning for a fixed batch.
        count: number of steps; likewise.

    Returns:
        Inputs (steps, batch, d) and targets (steps, batch, outputs), float64; one step for a fixed batch.
    """
    stream = data_stream(setup.data, setup.batch, seed, size=setup.size, dtype=torch.float64)
    x, y = stream.batches(0, 1) if setup.fixed else stream.batches(start, start + count)
    if setup.white:
        x = x @ _whitening(setup.data, setup.size)
    if setup.one and y.shape[2] > 1:
        y = 1 - 2 * (y.argmax(2, keepdim=True) < y.shape[2] // 2).double()
    return x, y


@dataclass(frozen=True)
class _Stream:
    """The batches as an ensemble asks for them."""

    setup: Setup
    seed: int
    steps: int

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        x, y = batches(self.setup, self.seed, 0, self.steps)
        at = step % len(x)
        return x[at], y[at]

    def test_set(self) -> tuple[Tensor, Tensor]:
        return self(0)


def watched(setup: Setup, seed: int) -> tuple[Tensor, Tensor]:
    """The examples on which sharpness is measured: the fixed batch, or fresh ones.

    Args:
        setup: what is trained.
        seed: of the stream.

    Returns:
        Inputs (n, d) and targets (n, outputs), float64.
    """
    x, y = batches(setup, seed, _FAR, -(-EXAMPLES // setup.batch))
    return x.flatten(0, 1), y.flatten(0, 1)


def make_ensemble(setup: Setup, gamma: NDArray, eta: NDArray, seed: NDArray, steps: int) -> Ensemble:
    """Make the ensemble of some cells.

    Args:
        setup: what is trained.
        gamma: feature-learning strengths, shape ``(cells,)``.
        eta: learning rates before the width multiplier, same shape.
        seed: seeds, same shape.
        steps: budget T.

    Returns:
        The ensemble, not run yet.
    """
    x, y = watched(setup, 0)
    sizes = (setup.depth, setup.width, x.shape[1], y.shape[1], setup.activation)
    spec = TrainedMLP(*sizes, setup) if setup.pretrained else MLP(*sizes)
    return Ensemble(spec, gamma, eta, seed, stream=lambda one: _Stream(setup, one, steps), loss=setup.loss)
