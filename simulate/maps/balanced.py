"""The scalar model on its balanced line, for compiled loops."""

from __future__ import annotations

from simulate.maps.compiled import compiled


@compiled(inline="always")
def powers(displacement: float, depth: int) -> tuple[float, float]:
    """Return (w^L − 1, w^{L−1}) for w = 1 + displacement, by Horner's rule: nothing cancels."""
    w = 1.0 + displacement
    if depth == 3:  # the usual depth, unrolled
        square = w * w
        return displacement * (1.0 + w + square), square
    geometric_sum, power = 1.0, 1.0
    for _ in range(depth - 1):
        geometric_sum = geometric_sum * w + 1.0
        power *= w
    return displacement * geometric_sum, power
