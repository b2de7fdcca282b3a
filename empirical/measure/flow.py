"""How long gradient flow takes to lower the loss of a network, and how its kernel grows as it does.

Flow moves the weights by dw/d(ηt) = −∂ℓ/∂w in the metric of the update (``empirical.networks``). It is integrated here
in the fall p = 1 − ℓ/ℓ₀ of the loss instead of time,

    dw/dp = −ℓ₀ ∇ℓ/|∇ℓ|²,      d(ηt)/dp = ℓ₀/|∇ℓ|²,

which takes the same few hundred evaluations on a plateau as behind it, where flow in t would blow up.

While f is small the residual is that of the start, r₀ = −∂ℓ/∂f at f = 0, and the loss falls with the *alignment*

    B(θ) = ⟨r₀, F(θ) − F(θ₀)⟩ / ⟨r₀, r₀⟩,      K(B) = ⟨r₀, r₀⟩ |∇B|²,      dB/dτ = K(B),   τ = ηt/γ

(means over examples, sums over classes), which contains neither γ nor η: one path from θ₀ serves all γ, and f has come
to the size of the targets, in their direction, where B = γ. K is the mean of the tangent kernel in that direction. For
the deep linear toy, B = w^L − 1 and K = L (1 + B)^{2 − 2/L}; a network that is homogeneous of degree D ends in
K ∝ B^{2 − 2/D}, and how it gets there is a property of its start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from empirical.losses import LOSSES
from empirical.measure.batched import inputs, slices
from empirical.networks import Networks
from theory.errors import InputError, one_of

FloatArray = NDArray[np.float64]

TOLERANCE = 1e-2
"""Relative error a step of the integration. Gradients jump where units switch, so orders above 3 gain nothing.
Times come out within 10⁻³ decades over a thousand examples, within 10⁻² over twenty, whose jumps are larger."""

SMALLEST = 1e-8
"""Of what time and weights would be if the kernel stayed what it is at the start: what errors need not be below."""

MISSED = 0.05
"""Share of a time that may be missing at the end of the integration. It is added; where no flow leads it is more."""

MOST = 20_000
"""Gradients after which flow is given up."""

ROWS = 128
"""Examples that are sent through a network at once: their activations stay in a core's cache."""

SINGLE = 1e-2
"""γ from which F − F₀ bears the rounding of single precision; tenths of a per cent of f at the end."""

Objective = Callable[[Tensor, slice], tuple[float, Tensor]]
"""Takes F − F₀ of some examples, ``(rows, classes)``, and which they are; gives their share of what flow lowers, and
its derivative by these outputs."""


@dataclass(frozen=True)
class Path:
    """Gradient flow of one network.

    Attributes:
        time: ηt at every fall of the objective that was asked for, NaN where it was not reached.
        slope: |∇|² of the objective there, same shape.
        start: |∇|² of the objective at θ₀.
        evaluations: gradients that it took.
    """

    time: FloatArray
    slope: FloatArray
    start: float
    evaluations: int


class _NotReachedError(Exception):
    """Flow does not get there."""


class _Weights:
    """The trained weights of one network as one vector, in the metric of the update, from θ₀ on."""

    def __init__(self, network: Networks, x: Tensor, single: bool) -> None:
        self.dtype = torch.float32 if single else torch.float64
        self.network = replace(network, fixed={name: self._cast(tensor) for name, tensor in network.fixed.items()})
        self.x = inputs(network, x).to(self.dtype)
        self.shapes = {name: tensor.shape for name, tensor in network.start.items()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        self.start = torch.cat([tensor.reshape(-1) for tensor in network.start.values()])
        each = [torch.full((size,), network.rates[n] ** 0.5) for n, size in zip(self.shapes, self.sizes, strict=True)]
        self.scale = torch.cat(each).to(self.start)
        with torch.no_grad():
            still = torch.zeros_like(self.start)
            self.output = [self._raw(still, part) for part in slices(len(self.x), ROWS)]

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def _raw(self, moved: Tensor, part: slice) -> Tensor:
        parts = torch.split((self.start + self.scale * moved).to(self.dtype), self.sizes)
        weights = {n: part.reshape(shape) for (n, shape), part in zip(self.shapes.items(), parts, strict=True)}
        return self.network.one(weights, self.x[part])

    def look(self, moved: FloatArray, objective: Objective) -> tuple[float, FloatArray]:
        """Value of an objective, and its gradient ``(weights,)``."""
        at = torch.from_numpy(moved.copy()).to(self.start).requires_grad_()
        total, gradient = 0.0, torch.zeros_like(self.start)
        for part, before in zip(slices(len(self.x), ROWS), self.output, strict=True):
            output = self._raw(at, part)
            value, slope = objective((output.detach() - before).double(), part)
            total += value
            gradient += torch.autograd.grad(output, at, slope.to(output))[0]
        return total, gradient.cpu().numpy()


def descend(network: Networks, x: Tensor, objective: Objective, falls: ArrayLike, *, single: bool = False) -> Path:
    """Follow gradient flow of one network from θ₀.

    Args:
        network: one cell; its displacement is ignored.
        x: inputs ``(n, input_dim)``.
        objective: what flow lowers.
        falls: by how much, ascending and positive, in the units of the objective.
        single: send the examples through the network in single precision.

    Returns:
        The path at these falls.
    """
    weights, falls = _Weights(network, x, single), np.asarray(falls, dtype=np.float64)
    still, out = np.zeros(len(weights.start) + 1), np.full((2, len(falls)), np.nan)
    first, gradient = weights.look(still[:-1], objective)
    square, count = float(gradient @ gradient), 1
    if not 0 < square < np.inf:
        return Path(out[0], out[1], square, count)

    def rates(_: float, at: FloatArray) -> FloatArray:
        nonlocal count
        count += 1
        if count > MOST:
            raise _NotReachedError
        gradient = weights.look(at[:-1], objective)[1]
        return np.append(-gradient, 1.0) / (gradient @ gradient)

    # what lazy weights would come to: falls/|∇|² for the time and falls/|∇| for all weights together
    least = np.full(len(still), falls[-1] / np.sqrt(square * len(weights.start)))
    least[:-1] = np.minimum(least[:-1], float(weights.start.div(weights.scale).square().mean().sqrt()))
    least[-1] = falls[-1] / square
    ends = (0.0, float(falls[-1]))
    try:
        with np.errstate(all="ignore"):  # where flow stalls, above the fall that is asked for
            found = solve_ivp(rates, ends, still, method="RK23", t_eval=falls, rtol=TOLERANCE, atol=SMALLEST * least)
    except _NotReachedError:
        return Path(out[0], out[1], square, count)
    for point, at in enumerate(found.y.T):
        value, gradient = weights.look(at[:-1], objective)
        slope = float(gradient @ gradient)
        missing = (falls[point] - (first - value)) / slope if slope > 0 else np.inf  # in time, to first order
        if abs(missing) < MISSED * at[-1]:
            out[:, point] = at[-1] + missing, slope
    return Path(out[0], out[1], square, count)


def _loss(loss: str, y: Tensor, gamma: float) -> Objective:
    function, target = LOSSES[one_of("loss", loss, tuple(LOSSES))], y.T[None]

    def share(moved: Tensor, part: slice) -> tuple[float, Tensor]:
        mean, slope = function(moved.T[None] / gamma, target[:, :, part])
        return mean.item() * len(moved) / len(y), slope[0].T / (gamma * len(y))

    return share


def flow_time(
    networks: Networks, x: Tensor, y: Tensor, *, loss: str = "mse", level: ArrayLike = 0.9
) -> FloatArray:  # fmt: skip
    """Rescaled time that gradient flow takes from θ₀ until the loss on these examples is ``level`` of its first value.

    The η at which descent of T small steps gets there is γτ/T: a network's own eta_min, in which nothing is fitted.

    Args:
        networks: C cells; their displacement is ignored.
        x: inputs ``(n, input_dim)``, shared by the cells.
        y: targets ``(n, classes)``.
        loss: ``mse`` or ``cross-entropy``, as in ``empirical.losses``.
        level: of the loss at f = 0; above 0 and below 1; a number, or several in descending order.

    Returns:
        τ = ηt/γ, η without the width multiplier, shape ``(cells,)``, with several levels ``(cells, levels)``; NaN where
        flow does not get there.

    Raises:
        InputError: an unknown loss, levels out of range or order, or inputs of another size.
    """
    levels = np.atleast_1d(np.asarray(level, dtype=np.float64))
    if not (levels > 0).all() or not (np.diff(levels, prepend=1.0) < 0).all():
        raise InputError("level", level, "above 0 and below 1; of several, descending")
    out = []
    for cell, gamma in enumerate(networks.gamma.tolist()):
        objective = _loss(loss, y.to(networks.gamma), gamma)
        first, _ = objective(torch.zeros_like(y).to(networks.gamma), slice(None))
        mine = networks.select(np.array([cell]))
        out.append(descend(mine, x, objective, (1 - levels) * first, single=gamma >= SINGLE).time / gamma)
    return np.array(out).reshape(len(out), *np.shape(level))


@dataclass(frozen=True)
class KernelGrowth:
    """How the kernel of a network grows while the residual is that of the start.

    Attributes:
        alignment: B, shape ``(points,)``.
        kernel: K(B), in the direction of the residual at the start, same shape.
        tau: ∫ dB/K from 0 to B, the rescaled time, same shape.
        start: K(0).
    """

    alignment: FloatArray
    kernel: FloatArray
    tau: FloatArray
    start: float


def kernel_growth(
    network: Networks, x: Tensor, y: Tensor, alignment: ArrayLike, *, loss: str = "mse"
) -> KernelGrowth:  # fmt: skip
    """Follow a network from θ₀ along the residual of the start: one path for every γ and η.

    Args:
        network: one cell; its γ and displacement are ignored.
        x: inputs ``(n, input_dim)``.
        y: targets ``(n, classes)``.
        alignment: values of B, positive and ascending.
        loss: ``mse`` or ``cross-entropy``.

    Returns:
        K and τ there.

    Raises:
        InputError: an unknown loss, values of B that do not ascend from above 0, or inputs of another size.
    """
    wanted = np.asarray(alignment, dtype=np.float64)
    if wanted.ndim != 1 or not len(wanted) or not (np.diff(wanted, prepend=0.0) > 0).all():
        raise InputError("alignment", alignment, "ascending numbers above 0")
    target = y.to(network.gamma)
    still = torch.zeros_like(target)
    residual = -LOSSES[one_of("loss", loss, tuple(LOSSES))](still.T[None].clone(), target.T[None])[1][0].T / len(y)
    square = float(residual.square().sum()) * len(y)  # ⟨r₀, r₀⟩: the mean over examples

    def objective(moved: Tensor, part: slice) -> tuple[float, Tensor]:
        mine = -residual[part] / square
        return float((mine * moved).sum()), mine

    path = descend(network, x, objective, wanted)
    # d(ηt) here is dB/|∇B|², and τ is ∫ dB/(⟨r₀, r₀⟩|∇B|²)
    return KernelGrowth(wanted, square * path.slope, path.time / square, square * path.start)
