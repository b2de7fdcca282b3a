"""The lazy limit: training of the network linearised about θ₀, which is kernel regression with the initial kernel.

    f_lin(x) = ∇F(θ₀; x)·Δ / γ,        Δ ← Δ − (η/γ) M ∇F(θ₀; X_t)ᵀ ∂ℓ/∂f(f_lin(X_t)) / B        (weights)

    f_lin(x) ← f_lin(x) − (η/γ²) K₀(x, X_t) ∂ℓ/∂f(f_lin(X_t)) / B                                (kernel)

on the batches X_t, of B examples, that the network itself is trained on, one step of discrete time each. Both are the
same function (Lee et al. 2019, arXiv:1902.06720, section 2.2, in discrete time and on an online stream; M and K₀ as in
``kernels``). The first costs a step about as much as training does and is exact at any T, the second holds kernels
between all T·B examples and is there to check it. As γ → 0 at fixed η/γ² the network becomes this one
(Chizat, Oyallon & Bach 2019, arXiv:1812.07956); only η/γ² enters, so cells that share it share f_lin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.func import jvp, vjp, vmap

from empirical.losses import LOSSES
from empirical.measure.batched import inputs
from empirical.measure.kernels import ntk
from empirical.networks import Networks, Weights
from theory.errors import InputError, one_of, positive_array, positive_integer

Batches = Callable[[int], tuple[Tensor, Tensor]]
"""Batch of a step: inputs ``(batch, input_dim)`` and targets ``(batch, classes)``; see ``ensemble.Stream``."""


@dataclass(frozen=True)
class LinearizedRun:
    """Outputs of linearised networks on fixed examples.

    Attributes:
        steps: after how many updates, shape ``(points,)``.
        output: f_lin there, shape ``(points, cells, n, classes)``.
    """

    steps: NDArray[np.int64]
    output: NDArray[np.float64]


@torch.no_grad()
def train_linearized(
    networks: Networks,
    eta: ArrayLike,
    batches: Batches,
    steps: int,
    x: Tensor,
    *,
    at: Sequence[int] | None = None,
    loss: str = "mse",
) -> LinearizedRun:
    """Train the networks linearised about θ₀ by plain SGD, in double precision.

    Args:
        networks: C cells of one seed; only θ₀, γ and the multipliers matter, not where the cells are.
        eta: learning rate of each cell before the width multiplier, shape ``(cells,)``.
        batches: the stream of the seed.
        steps: budget T.
        x: inputs ``(n, input_dim)`` on which outputs are kept.
        at: steps in 0 … T at which they are kept; only T when ``None``.
        loss: ``"mse"`` or ``"cross-entropy"``.

    Returns:
        The outputs.
    """
    rate, kept = _rate(networks, eta), _kept(steps, at)
    slope = _slope(loss)
    x, start = inputs(networks, x), networks.start
    # Δ/γ rather than Δ: f_lin is linear in it and γ is gone
    moved: Weights = {name: torch.zeros_like(tensor) for name, tensor in networks.displacement.items()}

    def output(of: Tensor) -> Tensor:
        return vmap(lambda tangent: jvp(lambda w: networks.one(w, of), (start,), (tangent,))[1])(moved)

    out = {}
    for step in range(steps + 1):
        if step in kept:
            out[step] = output(x).cpu().numpy()
        if step == steps:
            break
        batch, target = _batch(networks, batches, step)
        gradient = rate / len(batch) * slope(output(batch), target)
        with torch.enable_grad():
            pull = vjp(lambda w, batch=batch: networks.one(w, batch), start)[1]
        for name, change in vmap(pull)(gradient)[0].items():
            moved[name] -= networks.rates[name] * change
    return _collect(kept, out)


@torch.no_grad()
def kernel_regression(
    networks: Networks,
    eta: ArrayLike,
    batches: Batches,
    steps: int,
    x: Tensor,
    *,
    at: Sequence[int] | None = None,
    loss: str = "mse",
) -> LinearizedRun:
    """The same training in function space, with the neural tangent kernel K₀ of θ₀.

    Takes memory (T·B + n)² · classes², so T and B have to be small.

    Args:
        networks: as in ``train_linearized``.
        eta: as there.
        batches: as there.
        steps: as there.
        x: as there.
        at: as there.
        loss: as there.

    Returns:
        The outputs.
    """
    rate, kept = _rate(networks, eta), _kept(steps, at)
    slope = _slope(loss)
    pairs = [_batch(networks, batches, step) for step in range(steps)]
    x = inputs(networks, x)
    kernel = ntk(networks.at_start().select(np.array([0])), torch.cat([x, *(batch for batch, _ in pairs)]))[0]
    k = torch.as_tensor(kernel, device=x.device)
    f = x.new_zeros(len(networks), len(k), k.shape[1])  # on x, then on every batch
    first, out = len(x), {}
    for step in range(steps + 1):
        if step in kept:
            out[step] = f[:, : len(x)].cpu().numpy()
        if step == steps:
            break
        size = len(pairs[step][0])
        mine = slice(first, first + size)
        gradient = rate / size * slope(f[:, mine], pairs[step][1])
        f = f - torch.einsum("iajb,cjb->cia", k[:, :, mine], gradient)
        first += size
    return _collect(kept, out)


def relative_error(output: ArrayLike, linearized: ArrayLike) -> NDArray[np.float64]:
    """Distance ‖f − f_lin‖ / ‖f_lin‖ over examples and classes.

    Args:
        output: f of trained networks, shape ``(…, n, classes)``.
        linearized: f_lin on the same examples, same shape.

    Returns:
        Shape ``(…)``; NaN where f_lin is zero, as it is at step 0.
    """
    f, reference = np.asarray(output, dtype=np.float64), np.asarray(linearized, dtype=np.float64)
    size = np.sqrt(np.square(reference).sum((-2, -1)))
    return np.sqrt(np.square(f - reference).sum((-2, -1))) / np.where(size > 0, size, np.nan)


def _rate(networks: Networks, eta: ArrayLike) -> Tensor:
    """η/γ² of each cell, shape (cells, 1, 1)."""
    etas = positive_array("eta", eta).ravel()
    if etas.size not in {1, len(networks)}:
        raise InputError("eta", etas.shape, f"one number, or one for each of the {len(networks)} cells")
    values = torch.as_tensor(etas, device=networks.gamma.device) / networks.gamma**2
    return values.view(-1, 1, 1)


def _kept(steps: int, at: Sequence[int] | None) -> NDArray[np.int64]:
    """Steps at which outputs are kept, ascending."""
    positive_integer("steps", steps)
    kept = np.unique(np.asarray([steps] if at is None else at, dtype=np.int64))
    if kept.size == 0 or kept[0] < 0 or kept[-1] > steps:
        raise InputError("at", at, f"steps from 0 to {steps}")
    return kept


def _slope(loss: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Derivative of the loss summed over the batch: outputs (cells, batch, classes), targets (batch, classes)."""
    function = LOSSES[one_of("loss", loss, tuple(LOSSES))]
    return lambda f, y: function(f.mT.clone(), y.T.expand(len(f), -1, -1))[1].mT


def _batch(networks: Networks, batches: Batches, step: int) -> tuple[Tensor, Tensor]:
    x, y = batches(step)
    return inputs(networks, x), y.to(networks.gamma)


def _collect(kept: NDArray[np.int64], out: dict[int, NDArray[np.float64]]) -> LinearizedRun:
    return LinearizedRun(kept, np.stack([out[int(step)] for step in kept]))
