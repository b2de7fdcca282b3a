"""``njit`` for the loops of this package, with a cache that knows when any of them has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from simulate.maps.compiled import compiler

_compiled = compiler(Path(__file__).parent)


def compiled(*, sums_in_any_order: bool = False) -> Callable[[Callable], Any]:
    """Compile a function that lets other threads run, and in which a division by zero gives what IEEE 754 says.

    Args:
        sums_in_any_order: whether a sum may be made by vectors, lane by lane: in another order, but always the same.

    Returns:
        A decorator.
    """
    freedom = {"reassoc", "contract"} if sums_in_any_order else {"contract"}
    return _compiled(nogil=True, error_model="numpy", fastmath=freedom)
