"""What a step of an MLP is made of: products by tiles and by `torch.bmm`, and the whole step.

`python tests/benchmarks/tiles.py [--width 64] [--inputs 64] [--rounds 7]` prints a Markdown table. One core, single
precision, depth 3, batch 64, ten classes. The parts are timed one by one on operands that stay in the first-level
cache; the whole step is the loop that trains, ten steps of 57 cells, and what it takes beyond the sum of its parts is
mostly the way of weights, activations and batches through the caches. Other networks: ``layers.py``.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from common import microseconds, row, spread
from numba import njit

from empirical import MLP
from empirical.kernels.elementwise import centre, squared_error
from empirical.kernels.products import multiply, turn
from empirical.kernels.tiles import ADD, FIRST, GATE, NEXT, RELU, STORE, lanes
from empirical.models.stack import Lesson, Placement
from empirical.optimizers import make_optimizer

BATCH, CLASSES, CELLS, STEPS, DEPTH = 64, 10, 57, 10, 3


@njit
def products(times, mode, a, a_row, a_step, b, c, rows, columns, depth):  # type: ignore[no-untyped-def]
    scale = a.dtype.type(1e-9)
    for _ in range(times):
        multiply(
            mode, scale, a, FIRST, a_row, a_step, b, FIRST, columns, rows, columns, depth,
            c, FIRST, columns, c, FIRST,
        )  # fmt: skip


@njit
def transposes(times, a, out, rows, columns):  # type: ignore[no-untyped-def]
    for _ in range(times):
        turn(a, FIRST, columns, rows, columns, out, FIRST, rows)


@njit
def losses(times, out, origin, target):  # type: ignore[no-untyped-def]
    total = 0.0
    for _ in range(times):
        total += centre(out, origin, out.dtype.type(0.5)) + squared_error(out, target, out.dtype.type(0.5))
    return total


def by_torch(rows: int, columns: int, depth: int, rounds: int) -> list[float]:
    left, right = torch.randn(CELLS, rows, depth), torch.randn(CELLS, depth, columns)
    out = torch.empty(CELLS, rows, columns)

    def work(times: int) -> None:
        for _ in range(times):
            torch.bmm(left, right, out=out)

    return [value / CELLS for value in microseconds(work, rounds, 40)]


def step(width: int, inputs: int, rounds: int) -> list[float]:
    spec, one = MLP(DEPTH, width, inputs, CLASSES), torch.ones(CELLS, dtype=torch.float64)
    optimizer = make_optimizer("gd", 1e-3 * one, one, 0 * one, torch.float32)
    stack = spec.stack(Placement([0], [CELLS], optimizer, False, torch.float32, torch.device("cpu")))
    lesson = Lesson("mse", one.float(), [1.0] * STEPS, [False] * STEPS)
    draw = np.random.default_rng(0)
    x = torch.from_numpy(draw.standard_normal((STEPS, BATCH, inputs)).astype(np.float32))
    y = torch.from_numpy(np.eye(CLASSES, dtype=np.float32)[draw.integers(CLASSES, size=(STEPS, BATCH))]).mT.contiguous()

    def work(times: int) -> None:
        for _ in range(times):
            stack.train([x], [y], lesson)

    return [value / CELLS / STEPS for value in microseconds(work, rounds, 10)]


def table(width: int, inputs: int, rounds: int) -> str:
    row_of_inputs = -(-inputs // lanes(4)) * lanes(4)
    parts = [
        ("first layer", RELU, width, BATCH, inputs),
        ("hidden layer", RELU, width, BATCH, width),
        ("readout", STORE, CLASSES, BATCH, width),
        ("back through the readout", GATE, width, BATCH, CLASSES),
        ("step of the readout", ADD, CLASSES, width, BATCH),
        ("back through the hidden layer", GATE, width, BATCH, width),
        ("step of the hidden layer", ADD, width, width, BATCH),
        ("step of the first layer", ADD, width, row_of_inputs, BATCH),
    ]
    lines = [row("part of a step", "rows · columns · depth", "μs", "GFLOP/s", "`torch.bmm`, μs"), row(*["---"] * 5)]
    draw, total, total_by_torch = np.random.default_rng(0), 0.0, 0.0
    for name, mode, rows, columns, depth in parts:
        a, b, c = (draw.standard_normal(n).astype(np.float32) for n in (rows * depth, depth * columns, rows * columns))
        sizes = [np.int64(n) for n in (rows, columns, depth)]
        steps = (NEXT, sizes[0]) if mode == GATE else (sizes[2], NEXT)
        found = microseconds(lambda n, g=(mode, a, *steps, b, c, *sizes): products(n, *g), rounds)  # type: ignore[misc]
        theirs = by_torch(rows, columns, depth, rounds)
        total, total_by_torch = total + min(found), total_by_torch + min(theirs)
        rate = 2e-3 * rows * columns * depth / min(found)
        lines.append(row(name, f"{rows} · {columns} · {depth}", spread(found), f"{rate:.0f}", spread(theirs)))
    a, out = (draw.standard_normal(width * BATCH).astype(np.float32) for _ in range(2))
    turned = microseconds(lambda n: transposes(n, a, out, np.int64(width), np.int64(BATCH)), rounds)
    lines.append(row(f"a transpose ({DEPTH - 1} a step)", f"{width} · {BATCH}", spread(turned), "", ""))
    a, b, c = (draw.standard_normal(CLASSES * BATCH).astype(np.float32) for _ in range(3))
    loss = microseconds(lambda n: losses(n, a, b, c), rounds)
    lines.append(row("loss and its derivative", f"{CLASSES} · {BATCH}", spread(loss), "", ""))
    total += (DEPTH - 1) * min(turned) + min(loss)
    lines.append(row("sum of the least", "", f"{total:.2f}", "", f"{total_by_torch:.2f} (products alone)"))
    lines.append(row("a step as it is trained", "", spread(step(width, inputs, rounds)), "", ""))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--inputs", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(table(given.width, given.inputs, given.rounds))


if __name__ == "__main__":
    main()
