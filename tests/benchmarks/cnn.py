"""Cell-steps per second of stacked CNNs, against a plain loop, grouped convolution, ``torch.func`` and JAX.

Two 3×3 convolutions with stride 2, 16 channels, 28×28 images, batch 64, 32 cells of one seed. All see the same
pre-drawn batches; all are centred by F(θ₀) and make the same MSE step. Everybody but the ensemble calls PyTorch's (or
XLA's) own convolution.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from multiprocessing import get_context

import numpy as np
import torch
from common import alternate, row, spread
from torch import Tensor, nn
from torch.nn import functional as fn

from empirical import Ensemble, data_stream
from empirical.models import fused
from empirical.models.cnn import CNN
from empirical.models.module import ModuleArchitecture

BATCH, SIZE, CELLS = 64, 28, 32
# an ensemble makes its buffers first, which a training run of 1,000 steps does not feel
STEPS, ENSEMBLE_STEPS = 4, 20
SPEC = CNN((2, 2), 16, SIZE, 10)
DEFAULT_THREADS = torch.get_num_threads()
GAMMA = np.full(CELLS, 1.0)
ETA = np.geomspace(1e-3, 1e-1, CELLS)


class Remembered:
    def __init__(self) -> None:
        self.stream = data_stream("fashion-mnist-deformed", BATCH, 0, size=SIZE)
        self.batches = [self.stream(step) for step in range(STEPS)]

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        return self.batches[step % STEPS]

    def test_set(self) -> tuple[Tensor, Tensor]:
        return torch.zeros(1, SIZE * SIZE), torch.zeros(1, 10)  # accuracy is no part of a step


@cache
def remembered() -> Remembered:
    """Batches of this process."""
    return Remembered()


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        first, second, read = SPEC.initial_weights(0)
        self.first, self.second, self.read = (nn.Parameter(w.float()) for w in (first, second, read))

    def forward(self, x: Tensor) -> Tensor:
        x = fn.relu(fn.conv2d(x.view(-1, 1, SIZE, SIZE), self.first, stride=2, padding=1))
        return fn.relu(fn.conv2d(x, self.second, stride=2, padding=1)).mean((2, 3)) @ self.read.T


RATES = [scale.learning_rate for scale in SPEC.layers]


def seconds(run: Callable[[], object]) -> float:
    """Of the processor while there is one thread, so that neighbours on the machine count less; else of the clock."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    run()
    return clock() - start


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(before)


@contextmanager
def stepwise(wanted: bool) -> Iterator[None]:
    """CNNs train as where there is no fused multiply-add."""
    can_train = fused.can_train
    if wanted:
        fused.can_train = lambda device: False
    yield
    fused.can_train = can_train


def ensemble(spec: CNN | ModuleArchitecture, batches: Remembered, count: int, step_by_step: bool = False) -> float:
    run = Ensemble(spec, GAMMA, ETA, 0, stream=lambda _: batches)
    with threads(count), stepwise(step_by_step):
        return CELLS * ENSEMBLE_STEPS / seconds(lambda: run.run(ENSEMBLE_STEPS))


@cache
def processes(count: int) -> ProcessPoolExecutor:
    """One process a core, as `Runner` has them, started once."""
    return ProcessPoolExecutor(count, get_context("spawn"))


def part_of_ensemble(part: slice) -> None:
    """Some of the cells, in a process of one thread."""
    run = Ensemble(SPEC, GAMMA[part], ETA[part], 0, stream=lambda _: remembered())
    with threads(1):
        run.run(ENSEMBLE_STEPS)


def ensemble_of_cnns(batches: Remembered, count: int) -> float:
    """The ensemble on as many processes as there are to be threads: its loops are for one core each."""
    if count == 1:
        return ensemble(SPEC, batches, 1)
    parts = [slice(part, None, count) for part in range(count)]
    start = time.perf_counter()
    list(processes(count).map(part_of_ensemble, parts))
    return CELLS * ENSEMBLE_STEPS / (time.perf_counter() - start)


def loop(batches: Remembered, count: int, networks: int = 3) -> float:
    def run() -> None:
        for eta in ETA[:networks]:
            network, initial = Network(), Network().requires_grad_(False)
            pairs = zip(network.parameters(), RATES, strict=True)
            optimizer = torch.optim.SGD([{"params": [p], "lr": eta * rate} for p, rate in pairs])
            for step in range(STEPS):
                x, y = batches(step)
                at_start = initial(x)
                optimizer.zero_grad()
                (((network(x) - at_start - y) ** 2).sum(1).mean() / 2).backward()
                optimizer.step()

    with threads(count):
        return networks * STEPS / seconds(run)


def grouped(batches: Remembered, count: int) -> float:
    """One convolution with a group for every cell; the batch is that of all cells, side by side in the channels."""

    def run() -> None:
        network, n = Network(), SPEC.width
        stacked = [
            p.detach().repeat(CELLS, *[1] * (p.dim() - 1)).requires_grad_() for p in (network.first, network.second)
        ]
        read = network.read.detach().repeat(CELLS, 1, 1).requires_grad_()
        rates = [torch.from_numpy(ETA * rate).float() for rate in RATES]
        for step in range(STEPS):
            x, y = batches(step)
            h = fn.relu(fn.conv2d(x.view(-1, 1, SIZE, SIZE), stacked[0], stride=2, padding=1))
            h = fn.relu(fn.conv2d(h, stacked[1], stride=2, padding=1, groups=CELLS)).mean((2, 3))
            output = torch.einsum("bcn,ckn->cbk", h.view(BATCH, CELLS, n), read)
            with torch.no_grad():
                at_start = network(x)
            loss = ((output - at_start - y) ** 2).sum(2).mean(1).sum() / 2
            slopes = torch.autograd.grad(loss, [*stacked, read])
            with torch.no_grad():
                for p, g, rate in zip([*stacked, read], slopes, rates, strict=True):
                    p -= rate.repeat_interleave(len(p) // CELLS).view(-1, *[1] * (p.dim() - 1)) * g

    with threads(count):
        return CELLS * STEPS / seconds(run)


def functional(batches: Remembered, count: int) -> float:
    """``vmap(grad(loss))`` over stacked weights."""

    def run() -> None:
        network = Network().requires_grad_(False)
        start = dict(network.named_parameters())
        stacked = {name: p.repeat(CELLS, *[1] * p.dim()) for name, p in start.items()}
        rates = [torch.from_numpy(ETA * rate).float() for rate in RATES]

        def loss(weights: dict[str, Tensor], x: Tensor, goal: Tensor) -> Tensor:
            return ((torch.func.functional_call(network, weights, (x,)) - goal) ** 2).sum(1).mean() / 2

        slope = torch.func.vmap(torch.func.grad(loss), in_dims=(0, None, None))
        for step in range(STEPS):
            x, y = batches(step)
            slopes = slope(stacked, x, y + network(x))
            for (name, p), rate in zip(stacked.items(), rates, strict=True):
                p -= rate.view(-1, *[1] * (p.dim() - 1)) * slopes[name]

    with threads(count):
        return CELLS * STEPS / seconds(run)


def jax_vmap(batches: Remembered) -> Callable[[], float]:
    """Returns a function that measures, compiled beforehand; two steps of eight cells, since it is slow."""
    import jax
    import jax.numpy as jnp

    cells = 8
    xs = jnp.stack([jnp.asarray(batches(step)[0].numpy()).reshape(-1, 1, SIZE, SIZE) for step in range(2)])
    ys = jnp.stack([jnp.asarray(batches(step)[1].numpy()) for step in range(2)])
    start = [jnp.asarray(w.numpy(), dtype=jnp.float32) for w in SPEC.initial_weights(0)]

    def outputs(weights, x):  # type: ignore[no-untyped-def]
        for weight in weights[:-1]:
            x = jax.nn.relu(jax.lax.conv_general_dilated(x, weight, (2, 2), [(1, 1), (1, 1)]))
        return x.mean((2, 3)) @ weights[-1].T

    def loss(weights, x, y):  # type: ignore[no-untyped-def]
        return ((outputs(weights, x) - outputs(start, x) - y) ** 2).sum(1).mean() / 2

    def train(eta):  # type: ignore[no-untyped-def]
        def step(weights, batch):  # type: ignore[no-untyped-def]
            value, slope = jax.value_and_grad(loss)(weights, *batch)
            return [w - eta * r * g for w, r, g in zip(weights, RATES, slope, strict=True)], value

        return jax.lax.scan(step, start, (xs, ys))[1]

    compiled = jax.jit(jax.vmap(train))
    eta = jnp.asarray(ETA[:cells], dtype=jnp.float32)
    compiled(eta).block_until_ready()
    return lambda: cells * 2 / seconds(lambda: compiled(eta).block_until_ready())


def product_rate(count: int) -> float:
    """Multiply–adds a second, doubled, of ``torch.bmm`` on 169 products of 64×64 by 64×64."""
    a, b, out = torch.randn(169, 64, 64), torch.randn(169, 64, 64), torch.empty(169, 64, 64)
    with threads(count):
        torch.bmm(a, b, out=out)
        return 20 * 169 * 2 * 64**3 / seconds(lambda: [torch.bmm(a, b, out=out) for _ in range(20)])  # type: ignore[func-returns-value]


def convolution_rate(count: int) -> float:
    """The same of oneDNN: a 3×3 convolution from 64 to 64 channels."""
    x, filters = torch.randn(64, 14, 14, 64).movedim(-1, 1), torch.randn(64, 3, 3, 64).movedim(-1, 1)
    with threads(count):
        fn.conv2d(x, filters, padding=1)
        work = 2 * 64 * 14**2 * 9 * 64**2
        return 4 * work / seconds(lambda: [fn.conv2d(x, filters, padding=1) for _ in range(4)])


def table(rounds: int = 5) -> str:
    batches = remembered()
    module = ModuleArchitecture(
        Network, SPEC.input_dim, 10, learning_rates=dict(zip(("first", "second", "read"), RATES, strict=True))
    )
    kinds: dict[str, Callable[[int], float]] = {
        "ensemble of `CNN`": partial(ensemble_of_cnns, batches),
        "ensemble of `CNN`, step by step": partial(ensemble, SPEC, batches, step_by_step=True),
        "ensemble of a module (`torch.func`, vjp)": partial(ensemble, module, batches),
        "plain loop": partial(loop, batches),
        "grouped convolution": partial(grouped, batches),
        "`vmap(grad)`": partial(functional, batches),
        "`torch.bmm`": product_rate,
        "`conv2d`, 64 → 64 channels": convolution_rate,
    }
    counts = [1] if DEFAULT_THREADS == 1 or "--one-thread" in sys.argv else [1, DEFAULT_THREADS]
    candidates = {f"{name}|{count}": partial(run, count) for name, run in kinds.items() for count in counts}
    if "--jax" in sys.argv:
        candidates["JAX `jit(vmap(scan))`|default"] = jax_vmap(batches)
    alternate(candidates, 1)
    rates = alternate(candidates, rounds)
    work = 2 * SPEC.multiply_adds() * BATCH
    lines = [
        row("program", "threads", "cell-steps/s", "over the loop", "GFLOP/s", "of `torch.bmm`"),
        row(*["---"] * 6),
    ]
    for name, values in rates.items():
        program, count = name.split("|")
        if program in {"`torch.bmm`", "`conv2d`, 64 → 64 channels"}:
            share = statistics.median(a / b for a, b in zip(values, rates[f"`torch.bmm`|{count}"], strict=True))
            lines.append(row(program, count, "", "", spread([v / 1e9 for v in values], 0), f"{share:.0%}"))
            continue
        base = count if f"plain loop|{count}" in rates else str(counts[-1])
        over = statistics.median(a / b for a, b in zip(values, rates[f"plain loop|{base}"], strict=True))
        share = statistics.median(work * a / b for a, b in zip(values, rates[f"`torch.bmm`|{base}"], strict=True))
        speed = work * statistics.median(values) / 1e9
        lines.append(row(program, count, spread(values, 0), f"{over:.1f}×", f"{speed:.1f}", f"{share:.0%}"))
    lines.append("")
    lines.append(
        f"Two 3×3 convolutions with stride 2, {SPEC.width} channels, {SIZE}×{SIZE}, batch {BATCH}, {CELLS} cells, "
        f"{work / 1e6:.0f} MFLOP a cell-step (centring not counted); medians (range) of {rounds} alternating rounds of "
        f"{STEPS} steps ({ENSEMBLE_STEPS} of an ensemble), ratios taken round by round. One thread is timed by the "
        "processor's clock, more by the wall's. The ensemble of `CNN` has a process of one thread for each."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
