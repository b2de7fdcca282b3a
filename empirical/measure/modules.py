"""Makes ``Networks`` of modules that were trained elsewhere, so that they can be measured like cells of an ensemble."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from empirical.networks import Networks
from theory.errors import InputError, positive_array


def networks_of(
    start: nn.Module,
    trained: Sequence[nn.Module] | None = None,
    *,
    example_shape: tuple[int, ...],
    gamma: ArrayLike = 1.0,
    rates: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Networks:
    """Take modules as cells of one θ₀.

    Args:
        start: the module at θ₀; maps inputs ``(batch, *example_shape)`` to ``(batch, num_classes)``. Copied, in double
            precision.
        trained: modules of the same parameters, one a cell; a single cell at θ₀ when ``None``.
        example_shape: shape of one example.
        gamma: feature-learning strength of each cell; a single number serves all.
        rates: multiplier of the learning rate of each trainable parameter, by name; 1 where there is none.
        seed: what to write down as the seed.

    Returns:
        The networks. Parameters that require no gradient, and buffers, are those of ``start``.

    Raises:
        InputError: no cells, parameters that differ in name or shape, rates of unknown parameters, or γ of another
            number of cells.
    """
    module = copy.deepcopy(start).double()
    state = {name: p.detach() for name, p in [*module.named_parameters(), *module.named_buffers()]}
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    origin = {name: state[name] for name in names}
    cells = [start] if trained is None else list(trained)
    for cell in cells:
        shapes = {name: p.shape for name, p in cell.named_parameters() if name in origin}
        if shapes != {name: p.shape for name, p in origin.items()}:
            raise InputError("trained", type(cell).__name__, "modules with the parameters of start")
    if not cells or not names:
        raise InputError("trained", cells, "at least one module, with parameters")
    if unknown := set(rates or {}) - set(names):
        raise InputError("rates", sorted(unknown), "names of parameters: " + ", ".join(names))
    gammas = positive_array("gamma", gamma).ravel()
    if gammas.size not in {1, len(cells)}:
        raise InputError("gamma", gammas.shape, f"one number, or one for each of the {len(cells)} cells")
    now = [
        {name: p.detach().to(origin[name]) for name, p in cell.named_parameters() if name in origin} for cell in cells
    ]
    return Networks(
        module,
        start=origin,
        displacement={name: torch.stack([weights[name] for weights in now]) - origin[name] for name in names},
        fixed={name: tensor for name, tensor in state.items() if name not in origin},
        gamma=torch.as_tensor(np.broadcast_to(gammas, len(cells)).copy(), device=origin[names[0]].device),
        rates={name: float((rates or {}).get(name, 1.0)) for name in names},
        example_shape=tuple(example_shape),
        seed=seed,
        cells=np.arange(len(cells)),
    )
