"""What autograd keeps of a forward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def saved_bytes(forward: Callable[[], object]) -> int:
    """Run a pass and count what it saves for its derivatives.

    Args:
        forward: the pass.

    Returns:
        Bytes; tensors that are saved twice are counted twice.
    """
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        forward()
    return kept
