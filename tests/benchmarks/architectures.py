"""Cell-steps per second of every architecture, against a plain loop over networks, on one thread.

14×14 images, batch 64, MSE and gradient descent. The loop is PyTorch's autograd and ``torch.optim.SGD`` on the module
of the same specification, one network at a time, centred by F(θ₀); an ensemble trains 32 cells of one seed. Times are
of the processor, so that neighbours on the machine count less.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from common import alternate, row, spread
from torch import Tensor

from empirical import Ensemble, data_stream
from empirical.models import CNN, MLP, Architecture, ResNet, ViT
from empirical.shard import reproducible_torch

BATCH, SIZE, CELLS = 64, 14, 32
STEPS, ENSEMBLE_STEPS = 6, 12
IMAGE = (1, SIZE, SIZE)
GAMMA, ETA = np.full(CELLS, 1.0), np.geomspace(1e-4, 1e-2, CELLS)
SPECS: dict[str, Architecture] = {
    "mlp, L = 3, width 64, relu": MLP(3, 64, SIZE**2, 10),
    "mlp, L = 3, width 64, gelu": MLP(3, 64, SIZE**2, 10, "gelu"),
    "mlp, L = 3, width 64, tanh": MLP(3, 64, SIZE**2, 10, "tanh"),
    "cnn, 2 convolutions, width 16": CNN((2, 2), 16, SIZE, 10),
    "cnn, 3 convolutions, width 16": CNN((2, 2, 1), 16, SIZE, 10),
    "resnet, 2 blocks, width 8": ResNet(2, 8, IMAGE, 10),
    "resnet, 4 blocks, width 8": ResNet(4, 8, IMAGE, 10),
    "resnet, 2 blocks, width 8, layer norm": ResNet(2, 8, IMAGE, 10, norm="layer", final_norm=True),
    "vit, 1 block, width 32, 16 tokens": ViT(1, 32, IMAGE, 10),
    "vit, 2 blocks, width 32, 16 tokens": ViT(2, 32, IMAGE, 10),
}


class Remembered:
    def __init__(self) -> None:
        self.stream = data_stream("fashion-mnist-deformed", BATCH, 0, size=SIZE)
        self.batches = [self.stream(step) for step in range(STEPS)]

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        return self.batches[step % STEPS]

    def test_set(self) -> tuple[Tensor, Tensor]:
        return torch.zeros(1, SIZE * SIZE), torch.zeros(1, 10)  # accuracy is no part of a step


def processor_seconds(run: Callable[[], object]) -> float:
    with reproducible_torch("cpu"):
        start = time.process_time()
        run()
        return time.process_time() - start


def ensemble(spec: Architecture, batches: Remembered) -> float:
    run = Ensemble(spec, GAMMA, ETA, 0, stream=lambda _: batches)
    return CELLS * ENSEMBLE_STEPS / processor_seconds(lambda: run.run(ENSEMBLE_STEPS))


def loop(spec: Architecture, batches: Remembered, networks: int = 2) -> float:
    rates = spec.rates()

    def run() -> None:
        for eta in ETA[:networks]:
            network, initial = spec.module(0).float(), spec.module(0).float().requires_grad_(False)
            optimizer = torch.optim.SGD([{"params": [p], "lr": eta * rates[n]} for n, p in network.named_parameters()])
            for step in range(STEPS):
                x, y = batches(step)
                x = x.reshape(BATCH, *spec.example_shape)
                at_start = initial(x)
                optimizer.zero_grad()
                (((network(x) - at_start - y) ** 2).sum(1).mean() / 2).backward()
                optimizer.step()

    return networks * STEPS / processor_seconds(run)


def table(rounds: int = 3) -> str:
    batches = Remembered()
    lines = [row("architecture", "weights", "ensemble, cell-steps/s", "plain loop", "ratio"), row(*["---"] * 5)]
    for name, spec in SPECS.items():
        candidates = {"ensemble": lambda s=spec: ensemble(s, batches), "loop": lambda s=spec: loop(s, batches)}
        alternate(candidates, 1)
        rates = alternate(candidates, rounds)
        ratio = statistics.median(a / b for a, b in zip(rates["ensemble"], rates["loop"], strict=True))
        ours, theirs = spread(rates["ensemble"], 0), spread(rates["loop"], 0)
        lines.append(row(name, spec.parameter_count(), ours, theirs, f"{ratio:.1f}×"))
        print(lines[-1], file=sys.stderr, flush=True)
    lines.append("")
    lines.append(
        f"{SIZE}×{SIZE} images, batch {BATCH}, {CELLS} cells, one thread, medians (range) of {rounds} alternating "
        "rounds, processor time; ratios taken round by round."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
