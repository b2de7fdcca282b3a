"""Cell-steps per second on a GPU beside what else one could run, and the share of the matrix-product rate.

One command, `python tests/benchmarks/gpu.py [--rounds 3] [--widths 64 256 1024]`, prints Markdown tables; without a GPU
it says "not run". Every contestant is warm and is measured in turn, the device waited for before the clock is read.
MLPs of depth 3 and batch 64, 169 cells, pre-drawn batches that are on the device already:

- ours, and the same without recorded steps (`empirical.graphs`), and with γ < 0.01, where θ₀ and Δ are held apart;
- plain loop: one network at a time, autograd, `torch.optim.SGD`;
- vmap(grad): `torch.func` over stacked weights;
- JAX: `jit(vmap(scan))`, products in full float32 as everywhere here, not TF32;
- products: `torch.bmm` of 169 products (64, width)·(width, width).

Then CNNs, ResNets and ViTs, 128 cells of 14×14 images, against a plain loop over `nn.Module`s.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import numpy as np
import torch
from architectures import SPECS
from common import alternate, environment, row, spread
from ensemble import BATCH, CELLS, CLASSES, DEPTH, cells, centred_loss, flops
from torch import Tensor

import empirical.graphs
from empirical import MLP, Ensemble
from empirical.models import Architecture
from empirical.shard import reproducible_torch

DEVICE = "cuda"
STEPS = {64: 1000, 256: 1000, 1024: 300}
LOOP_STEPS = 100
STACKED, STACKED_STEPS = 128, 200


class Drawn:
    """Pre-drawn batches on the device, fifty of them in turn; ten test images, so that training alone is timed."""

    def __init__(self, inputs: int) -> None:
        draw = np.random.default_rng(0)
        self.x = torch.tensor(draw.standard_normal((50, BATCH, inputs)), dtype=torch.float32, device=DEVICE)
        self.y = torch.eye(CLASSES, device=DEVICE)[torch.tensor(draw.integers(0, CLASSES, (50, BATCH)), device=DEVICE)]

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        return self.x[step % 50], self.y[step % 50]

    def test_set(self) -> tuple[Tensor, Tensor]:
        return self.x[0, :10], self.y[0, :10]


def seconds(run: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def ours(
    spec: Architecture, gamma: np.ndarray, eta: np.ndarray, batches: Drawn, steps: int, *, recorded: bool = True
) -> float:
    recorders = dict(empirical.graphs.RECORDERS)
    if not recorded:
        empirical.graphs.RECORDERS.clear()
    try:
        with reproducible_torch(DEVICE):
            run = Ensemble(spec, gamma, eta, 0, stream=lambda _: batches, device=DEVICE)
            return len(gamma) * steps / seconds(lambda: run.run(steps))
    finally:
        empirical.graphs.RECORDERS.update(recorders)


def loop(spec: Architecture, gamma: float, eta: float, batches: Drawn) -> float:
    rates = spec.rates()
    network, initial = spec.module(0).float().to(DEVICE), spec.module(0).float().to(DEVICE).requires_grad_(False)
    optimizer = torch.optim.SGD([{"params": [p], "lr": eta * rates[n]} for n, p in network.named_parameters()])

    def run() -> None:
        for step in range(LOOP_STEPS):
            x, y = batches(step)
            x = x.reshape(BATCH, *spec.example_shape)
            with torch.no_grad():
                at_start = initial(x)
            optimizer.zero_grad()
            ((((network(x) - at_start) / gamma - y) ** 2).sum(1).mean() / 2).backward()
            optimizer.step()

    return LOOP_STEPS / seconds(run)


def functional(spec: MLP, gamma: np.ndarray, eta: np.ndarray, batches: Drawn) -> float:
    start = [w.float().to(DEVICE) for w in spec.initial_weights(0)]
    scales, etas = (torch.from_numpy(values).float().to(DEVICE) for values in (gamma, eta))
    rates = [(etas * scale.learning_rate).view(-1, 1, 1) for scale in spec.layers]

    slope = torch.func.vmap(torch.func.grad(centred_loss(start, torch.relu)), in_dims=(0, 0, None, None))

    def run() -> None:
        weights = [w.expand(CELLS, *w.shape) for w in start]
        for step in range(LOOP_STEPS):
            slopes = slope(weights, scales, *batches(step))
            weights = [w - r * g for w, r, g in zip(weights, rates, slopes, strict=True)]

    return CELLS * LOOP_STEPS / seconds(run)


def peer(spec: MLP, gamma: np.ndarray, eta: np.ndarray, batches: Drawn, steps: int) -> Callable[[], float]:
    """JAX, compiled; NaN where it is not installed or finds no GPU."""
    try:
        import jax
        import jax.numpy as jnp

        if jax.default_backend() != "gpu":
            return lambda: float("nan")
        jax.config.update("jax_default_matmul_precision", "highest")
        xs, ys = (jnp.asarray(values.cpu().numpy()) for values in (batches.x, batches.y))
        start = [jnp.asarray(w.numpy(), dtype=jnp.float32) for w in spec.initial_weights(0)]
        rates = [scale.learning_rate for scale in spec.layers]

        loss = centred_loss(start, jax.nn.relu)

        def train(gamma, eta):  # type: ignore[no-untyped-def]
            def step(weights, i):  # type: ignore[no-untyped-def]
                value, slope = jax.value_and_grad(loss)(weights, gamma, xs[i % 50], ys[i % 50])
                return [w - eta * r * g for w, r, g in zip(weights, rates, slope, strict=True)], value

            return jax.lax.scan(step, start, jnp.arange(steps))[1]

        compiled = jax.jit(jax.vmap(train))
        g, e = (jnp.asarray(values, dtype=jnp.float32) for values in (gamma, eta))
        compiled(g, e).block_until_ready()
        return lambda: CELLS * steps / seconds(lambda: compiled(g, e).block_until_ready())
    except Exception as error:
        print(f"JAX: {error}", file=sys.stderr)
        return lambda: float("nan")


def products(width: int) -> float:
    """Floating-point operations a second of the products alone."""
    left, right = (torch.randn(CELLS, n, width, device=DEVICE) for n in (BATCH, width))
    out, operations = torch.empty_like(left), 2.0 * CELLS * BATCH * width**2
    repeats = max(20, int(2e12 / operations))
    with reproducible_torch(DEVICE):
        return repeats * operations / seconds(lambda: [torch.bmm(left, right, out=out) for _ in range(repeats)])


def mlps(widths: list[int], sizes: list[int], rounds: int) -> str:
    head = ("width, input", "ours", "unrecorded", "γ < 0.01", "plain loop", "vmap(grad)", "JAX", "products, TFLOP/s")
    head += ("share of products", "over the loop", "over vmap(grad)", "over JAX")
    lines = [row(*head), row(*["---"] * len(head))]
    gamma, eta = cells()
    lazy = cells(1e-5, 9e-3)
    middle_cell = CELLS // 2
    for width in widths:
        for inputs in sizes:
            spec, batches, steps = MLP(DEPTH, width, inputs, CLASSES), Drawn(inputs), STEPS[width]
            candidates: dict[str, Callable[[], float]] = {
                "ours": partial(ours, spec, gamma, eta, batches, steps),
                "unrecorded": partial(ours, spec, gamma, eta, batches, steps // 3, recorded=False),
                "lazy": partial(ours, spec, *lazy, batches, steps),
                "loop": partial(loop, spec, gamma[middle_cell], eta[middle_cell], batches),
                "vmap": partial(functional, spec, gamma, eta, batches),
                "jax": peer(spec, gamma, eta, batches, steps),
                "products": partial(products, width),
            }
            alternate(candidates, 1)
            rates = alternate(candidates, rounds)
            middle = {name: statistics.median(values) for name, values in rates.items()}
            shown = [spread(rates[name], 0) for name in ("ours", "unrecorded", "lazy", "loop", "vmap", "jax")]
            shown.append(spread([value / 1e12 for value in rates["products"]], 1))
            shown.append(f"{middle['ours'] * flops(width, inputs) / middle['products']:.0%}")
            shown += [f"{middle['ours'] / middle[name]:.1f}×" for name in ("loop", "vmap", "jax")]
            lines.append(row(f"{width}, {inputs}", *shown))
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def stacks(rounds: int) -> str:
    head = ("architecture", "weights", "ensemble, cell-steps/s", "unrecorded", "plain loop", "ratio")
    lines = [row(*head), row(*["---"] * len(head))]
    gamma, eta = np.full(STACKED, 1.0), np.geomspace(1e-4, 1e-2, STACKED)
    for name, spec in SPECS.items():
        batches = Drawn(int(np.prod(spec.example_shape)))
        candidates: dict[str, Callable[[], float]] = {
            "ensemble": partial(ours, spec, gamma, eta, batches, STACKED_STEPS),
            "unrecorded": partial(ours, spec, gamma, eta, batches, STACKED_STEPS // 4, recorded=False),
            "loop": partial(loop, spec, 1.0, 1e-3, batches),
        }
        try:
            alternate(candidates, 1)
            rates = alternate(candidates, rounds)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            continue
        ratio = statistics.median(rates["ensemble"]) / statistics.median(rates["loop"])
        lines.append(row(name, spec.parameter_count(), *(spread(r, 0) for r in rates.values()), f"{ratio:.0f}×"))
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256, 1024], choices=STEPS)
    parser.add_argument("--inputs", type=int, nargs="+", default=[64, 196])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print("# Benchmarks on a GPU\n")
    if not torch.cuda.is_available():
        print("not run: there is no GPU on this machine")
        return
    print(environment(torch.cuda.get_device_name()) + "\n")
    print("## Ensemble of MLPs\n\n" + mlps(given.widths, given.inputs, given.rounds) + "\n")
    print(
        f"Cell-steps/s, median (range) of {given.rounds} alternating rounds; depth {DEPTH}, batch {BATCH}, "
        f"{CELLS} cells, float32 products (no TF32).\n"
    )
    print("## Every architecture against a plain loop\n\n" + stacks(given.rounds) + "\n")
    print(f"14×14 images, batch {BATCH}, {STACKED} cells; medians (range) of {given.rounds} alternating rounds.")


if __name__ == "__main__":
    main()
