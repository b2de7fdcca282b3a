"""Where a step of the ensemble of CNNs spends its time, product by product, for both ways through the cells.

The case of ``cnn.py`` on one thread. Each call is timed where it is made, by the processor's clock, so that operands
are as warm as in training (the clock takes a few μs a call); arithmetic is 2 · rows · inner · columns, waste included.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from time import process_time

import torch
from cnn import BATCH, CELLS, ETA, GAMMA, SPEC, Remembered, passing, threads
from common import row
from torch import Tensor

from empirical import Ensemble
from empirical.models import cnn_packs, cnn_views

STEPS = 20
Calls = dict[str, list[tuple[float, float]]]
"""For each kind of call: seconds and operations of each."""


def timed(calls: Calls, name: str, work: float, run: Callable[[], object]) -> object:
    start = process_time()
    out = run()
    calls[name].append((process_time() - start, work))
    return out


def watch_views(calls: Calls) -> Callable[[], None]:
    """Time every matrix product; returns what undoes it."""
    multiply = cnn_views._multiply

    def watched(products: list[cnn_views._Product]) -> None:
        for one in products:
            out, a, _, add = one
            (rows, columns), inner = out.shape, a.shape[-1]
            name = f"{rows} × {inner} × {columns}{', added' if add else ''}"
            timed(calls, name, 2.0 * rows * columns * inner, lambda one=one: multiply([one]))  # type: ignore[misc]

    cnn_views._multiply = watched  # type: ignore[assignment]
    return lambda: setattr(cnn_views, "_multiply", multiply)


def watch_packs(calls: Calls) -> Callable[[], None]:
    """Time every convolution; returns what undoes it."""
    flat, deep, back = cnn_packs.conv2d, cnn_packs.conv3d, cnn_packs._convolution_backward

    def work(filters: Tensor, output: Tensor) -> float:
        return 2.0 * filters.numel() * output.numel() / output.shape[1]

    def first(patches: Tensor, filters: Tensor) -> Tensor:
        name = f"first layer, {len(filters) // SPEC.width} cells: {patches.shape[1]} → {len(filters)} channels"
        size = filters.numel() * patches.numel() / patches.shape[1]
        return timed(calls, name, 2 * size, lambda: flat(patches, filters))  # type: ignore[return-value]

    def forward(below: Tensor, filters: Tensor, *rest: object) -> Tensor:
        groups = rest[-1]
        size = 2.0 * filters.numel() * (SPEC.image_size // 4) ** 2 * BATCH
        return timed(calls, f"second layer, {groups} cells", size, lambda: deep(below, filters, *rest))  # type: ignore

    def backward(gradient: Tensor, below: Tensor, filters: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
        second = filters.dim() == 5
        kind = "second layer, both gradients" if second else "first layer, gradient by the filters"
        name, times = f"{kind}, {len(filters) // SPEC.width} cells", 2 if second else 1
        size = times * work(filters, gradient)
        return timed(calls, name, size, lambda: back(gradient, below, filters, *rest))  # type: ignore

    cnn_packs.conv2d, cnn_packs.conv3d, cnn_packs._convolution_backward = first, forward, backward  # type: ignore

    def undo() -> None:
        cnn_packs.conv2d, cnn_packs.conv3d, cnn_packs._convolution_backward = flat, deep, back

    return undo


def measure(passes: str, watch: Callable[[Calls], Callable[[], None]]) -> list[str]:
    batches, calls = Remembered(), defaultdict[str, list[tuple[float, float]]](list)
    with threads(1), passing(passes):
        Ensemble(SPEC, GAMMA, ETA, 0, stream=lambda _: batches).run(STEPS)
        run, undo = Ensemble(SPEC, GAMMA, ETA, 0, stream=lambda _: batches), watch(calls)
        start = process_time()
        run.run(STEPS)
        total = process_time() - start
        undo()
    per, lines = 1e6 / (CELLS * STEPS), []
    for name, each in sorted(calls.items(), key=lambda item: -sum(s for s, _ in item[1])):
        seconds, work = sum(s for s, _ in each), sum(w for _, w in each)
        one = statistics.median(s for s, _ in each) * 1e6
        if seconds * per >= 1:
            lines.append(row(passes, name, f"{one:.0f}", f"{seconds * per:.0f}", f"{work / seconds / 1e9:.0f}"))
    inside = sum(s for each in calls.values() for s, _ in each)
    useful = 2 * SPEC.multiply_adds() * BATCH * CELLS * STEPS
    lines.append(row(passes, "everything else", "", f"{(total - inside) * per:.0f}", ""))
    lines.append(row(passes, "a cell-step", "", f"{total * per:.0f}", f"{useful / total / 1e9:.0f}"))
    return lines


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    print(row("passes", "call", "μs a call", "μs a cell-step", "GFLOP/s"))
    print(row(*["---"] * 5))
    print("\n".join([*measure("cells", watch_views), *measure("packs", watch_packs)]))
