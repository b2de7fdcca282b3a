"""Evaluates a function of one network for every cell and every example, in pieces that bound the memory it takes.

out[c, i] = function(θ_c, x_i),      c = 1 … C cells, i = 1 … n examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import vmap

from empirical.memory import saved_bytes
from empirical.networks import Networks, Weights
from theory.errors import InputError

CHUNK_BYTES = 256e6
"""What the cells and examples that are evaluated at once may take."""

Batched = Callable[[Weights, Tensor], Tensor]
"""Takes the weights of one network and inputs ``(batch, input_dim)``; gives one row an example, ``(batch, …)``."""


def inputs(networks: Networks, x: Tensor) -> Tensor:
    """Inputs as the measurements use them: float64, flattened, where the networks are.

    Args:
        networks: what is to be measured.
        x: inputs ``(batch, input_dim)``, or ``(batch, *example_shape)``.

    Returns:
        Shape ``(batch, input_dim)``.

    Raises:
        InputError: no examples, or examples of another size.
    """
    size = int(np.prod(networks.example_shape))
    if x.dim() < 2 or len(x) == 0 or x[0].numel() != size:
        raise InputError("x", tuple(x.shape), f"inputs of shape (batch, {size}), at least one")
    return x.to(networks.gamma).flatten(1)


def bytes_of_an_example(networks: Networks, x: Tensor) -> float:
    """What a pass of one example through one network keeps for its derivatives.

    Args:
        networks: the networks.
        x: inputs ``(batch, input_dim)``.

    Returns:
        Bytes, float64; an upper bound, since weights that the pass keeps are counted.
    """
    weights = {name: start.detach().requires_grad_() for name, start in networks.start.items()}
    return max(8.0, saved_bytes(lambda: networks.one(weights, x[:1])))


def pieces(cells: int, examples: int, bytes_each: float, limit: float) -> tuple[int, int]:
    """How many cells and how many examples go at once.

    Args:
        cells: cells in all.
        examples: examples in all.
        bytes_each: what one example of one cell takes.
        limit: bytes allowed.

    Returns:
        Both numbers, at least 1; all examples of some cells where possible, else some examples of one cell.
    """
    most = max(1, int(limit / bytes_each))
    return (min(cells, most // examples), examples) if most >= examples else (1, most)


def slices(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices.

    Args:
        count: length in all.
        size: length of each but the last.

    Yields:
        The slices.
    """
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))


def for_each(networks: Networks, x: Tensor, function: Batched, *, copies: float = 1) -> NDArray[np.float64]:
    """Evaluate a function for all cells and examples.

    Args:
        networks: C cells.
        x: inputs ``(batch, input_dim)``, shared by the cells.
        function: of one network; safe under ``torch.func`` transforms, one row an example.
        copies: memory it takes, in passes that keep what their derivative needs.

    Returns:
        Shape ``(cells, batch, …)``, float64.
    """
    x = inputs(networks, x)
    per_example = copies * bytes_of_an_example(networks, x)
    at_once, examples = pieces(len(networks), len(x), per_example, CHUNK_BYTES)
    weights, rows = networks.weights, []
    with torch.no_grad():
        for part in slices(len(networks), at_once):
            mine = {name: tensor[part] for name, tensor in weights.items()}
            found = [vmap(function, in_dims=(0, None))(mine, x[which]).cpu() for which in slices(len(x), examples)]
            rows.append(torch.cat(found, dim=1))
    return torch.cat(rows).double().numpy()
