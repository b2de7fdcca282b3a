"""What a step of a CNN, a ResNet or a ViT is made of: every layer forwards and backwards, and the whole step.

`python tests/benchmarks/layers.py [--network cnn resnet vit] [--double] [--rounds 7]` prints a Markdown table for each.
One core, one network, batches of 32 (the CNN: 64) in one column. Parts are timed one by one on the grids of the
network, so that what they read is where a step would find it: in the second or third level of the cache.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from common import microseconds, row, spread

from empirical.kernels import network
from empirical.kernels.elementwise import zeros
from empirical.kernels.layers import CHANNELS, SIDE
from empirical.models import CNN, ResNet, ViT
from empirical.models.fused_network import FusedNetworkStack
from empirical.models.stack import Lesson, Placement
from empirical.optimizers import make_optimizer

NETWORKS = {
    "cnn": (CNN((2, 2), 16, 28, 10), 64),
    "resnet": (ResNet(2, 8, (1, 7, 7), 10, norm="layer", final_norm=True), 32),
    "vit": (ViT(1, 32, (1, 7, 7), 10, patch=2), 32),
}
NAMES = ("embedding", "convolution", "rectifier", "GELU", "norm", "attention")
CELLS, STEPS = 16, 10


def stack_of(spec: CNN | ResNet | ViT, dtype: torch.dtype) -> FusedNetworkStack:
    one = torch.ones(CELLS, dtype=torch.float64)
    optimizer = make_optimizer("gd", 1e-4 * one, one, 0 * one, dtype)
    stack = spec.stack(Placement([0], [CELLS], optimizer, False, dtype, torch.device("cpu")))
    assert isinstance(stack, FusedNetworkStack)
    return stack


def multiply_adds(line: np.ndarray, grids: np.ndarray, patch: int) -> int:
    """Multiply–add pairs an example of a product forwards; there are twice as many backwards."""
    source, target = grids[line[network.SOURCE]], grids[line[network.TARGET]]
    if line[network.CODE] == network.ATTEND:
        return int(2 * source[SIDE] ** 4 * source[CHANNELS])
    if line[network.CODE] not in {network.EMBED, network.CONVOLVE}:
        return 0
    fan_in = patch if line[network.CODE] == network.EMBED else source[CHANNELS] * line[network.KERNEL] ** 2
    return int(target[SIDE] ** 2 * target[CHANNELS] * fan_in)


def table(name: str, dtype: torch.dtype, rounds: int) -> str:
    spec, batch = NETWORKS[name]
    stack, draw = stack_of(spec, dtype), np.random.default_rng(0)
    lines_of, factors, grids, places, rows = stack.layers
    like, start = np.empty(1, np.dtype(str(dtype)[6:])), stack.weights[0].numpy()

    def numbers(count: int) -> np.ndarray:
        out = zeros(count, like)
        out[:] = draw.standard_normal(count)
        return out

    total = stack.drawn.blueprint.numbers * batch
    acts, slopes, gradient, scratch = numbers(total), numbers(total), numbers(start.size), numbers(3 * batch)
    first = lines_of[0]
    patch, pixels = stack.shapes[first[network.TENSOR]][1], grids[first[network.TARGET]][SIDE] ** 2
    patches, turned_patches = numbers(pixels * patch * batch), numbers(pixels * batch * rows[first[network.TENSOR]])
    turned, part = numbers(4 * total), numbers(start.size + 4096)
    lines = [row("layer", "channels · side", "forwards, μs", "GFLOP/s", "backwards, μs", "GFLOP/s"), row(*["---"] * 6)]
    sums = np.zeros(2)
    for i, line in enumerate(lines_of):
        alone, factor = lines_of[i : i + 1], factors[i : i + 1]

        def forwards(times: int, alone=alone, factor=factor) -> None:  # type: ignore[no-untyped-def]
            for _ in range(times):
                network.forward(
                    start, 0, alone, factor, grids, places, rows, 1e-5, patches, 0, patch, batch, acts, scratch
                )  # fmt: skip

        def backwards(times: int, alone=alone, factor=factor) -> None:  # type: ignore[no-untyped-def]
            for _ in range(times):
                network.backward(
                    start, 0, alone, factor, grids, places, rows, turned_patches, 0, batch, acts, slopes, scratch,
                    turned, part, gradient,
                )  # fmt: skip

        found = []
        for work in (forwards, backwards):
            acts[:], slopes[:] = draw.standard_normal((2, total))
            found.append(microseconds(work, rounds, 50))
        sums += [min(times) for times in found]
        pairs = multiply_adds(line, grids, patch) * batch
        rates = [f"{2e-3 * k * pairs / min(t):.0f}" if pairs else "" for k, t in zip((1, 2), found, strict=True)]
        source, target = grids[line[network.SOURCE]], grids[line[network.TARGET]]
        below = f"{source[CHANNELS]} · {source[SIDE]}" if i else f"{patch} · {int(pixels**0.5)}"
        sizes = f"{below} → {target[CHANNELS]} · {target[SIDE]}"
        lines.append(row(NAMES[line[network.CODE]], sizes, spread(found[0]), rates[0], spread(found[1]), rates[1]))
    lines.append(row("sum of the least", "", f"{sums[0]:.0f}", "", f"{sums[1]:.0f}", ""))
    x = torch.from_numpy(draw.standard_normal((STEPS, batch, int(np.prod(spec.example_shape))))).to(dtype)
    y = torch.from_numpy(np.eye(10)[draw.integers(10, size=(STEPS, batch))]).to(dtype).mT.contiguous()
    lesson = Lesson("mse", torch.ones(CELLS, dtype=dtype), [1.0] * STEPS, [False] * STEPS)
    whole = microseconds(lambda times: [stack.train([x], [y], lesson) for _ in range(times)], rounds, 1)
    lines.append(row("a step as it is trained", "", spread([value / CELLS / STEPS for value in whole]), "", "", ""))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--double", action="store_true", help="double precision, in which lazy cells compute")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    dtype = torch.float64 if given.double else torch.float32
    for name in given.network:
        print(f"{name}, {str(dtype)[6:]}\n\n{table(name, dtype, given.rounds)}\n")


if __name__ == "__main__":
    main()
