"""Training on a machine with little memory, for tests; a module of its own, so that worker processes can import it."""

from __future__ import annotations

import os
import signal

from empirical import runners
from empirical.shard import train_block

LARGEST = 2
"""Networks that fit in memory together."""

attempt = runners._attempt


def python(block, device=None):
    """Train, or fail as Python and NumPy do."""
    if len(block.gamma) > LARGEST:
        raise MemoryError
    return train_block(block, device)


def torch(block, device=None):
    """Train, or fail as PyTorch does."""
    if len(block.gamma) > LARGEST:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory")
    return train_block(block, device)


def killed(block, device=None):
    """Train, or be killed by the kernel. Workers import this module afresh: four networks fit."""
    if len(block.gamma) > 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return attempt(block, device)


def ended(block, device=None):
    """End the process, as a library does that calls exit."""
    os._exit(3)
