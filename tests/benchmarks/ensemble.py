"""Cell-steps per second of the ensemble beside what else one could run, and the share of the matrix-product rate.

One command, `python tests/benchmarks/ensemble.py [--widths 64 256 1024] [--inputs 64 196] [--rounds 5]`, prints a
Markdown table. Every contestant lives in a process of its own, compiled and warm, and is asked for one measurement at a
time, in turn; at width 1024, where they do not fit into memory together, it starts anew for each. All train the same
169 networks of depth 3 (γ from 0.01 to 1000, the lazy ones from 1e-5 to 0.009) with the same pre-drawn batches of 64,
so that the price of data is nobody's.

- ours: two processes of one thread with half of the cells each, as `Runner(2)` has it; and one process on one core,
  also step by step with PyTorch's products, as where there is no fused multiply-add;
- plain loop: one network at a time, autograd, `torch.optim.SGD`, PyTorch's default threads; and one thread;
- JAX: `jit(vmap(scan))` with its default threads; and one core;
- vmap(grad): `torch.func` over stacked weights, default threads;
- products: `torch.bmm` of 169 products (64, width)·(width, width), two processes of one thread, or one of two threads.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

CELLS, BATCH, DEPTH, CLASSES = 169, 64, 3, 10
STEPS = {64: 100, 256: 20, 1024: 10}
LOOP_NETWORKS = {64: 4, 256: 4, 1024: 2}
ONE_CORE = {"ours 1 core", "stepwise 1 core", "lazy 1 core", "loop 1 thread", "vmap 1 core", "jax 1 core", "bmm 1 core"}
APART = 1024
"""Width from which on contestants do not fit into memory together."""

PAIRS = {"ours": ("ours/0", "ours/1"), "lazy": ("lazy/0", "lazy/1"), "bmm 2 processes": ("bmm/0", "bmm/1")}
"""Contestants of two processes that run at once."""

SINGLES = (
    *("loop", "vmap", "jax", "bmm 2 threads"),
    *("ours 1 core", "stepwise 1 core", "lazy 1 core", "loop 1 thread", "vmap 1 core", "jax 1 core", "bmm 1 core"),
)


def flops(width: int, inputs: int) -> float:
    """Multiplications and additions of one cell-step: three products a layer, less the gradient by the inputs."""
    weights = inputs * width + (DEPTH - 2) * width**2 + width * CLASSES
    return 2.0 * BATCH * (3 * weights - inputs * width)


# ---------------------------------------------------------------------------------------------- in a process of its own


def batches(inputs: int, steps: int):  # type: ignore[no-untyped-def]
    import numpy as np
    import torch

    draw = np.random.default_rng(0)
    x = draw.standard_normal((steps, BATCH, inputs)).astype(np.float32)
    y = np.eye(CLASSES, dtype=np.float32)[draw.integers(0, CLASSES, (steps, BATCH))]
    return torch.from_numpy(x), torch.from_numpy(y)


class Drawn:
    """Batches drawn beforehand, as a stream; ten test images, so that training alone is timed."""

    def __init__(self, inputs: int, steps: int) -> None:
        self.x, self.y = batches(inputs, steps)

    def __call__(self, step: int):  # type: ignore[no-untyped-def]
        return self.x[step], self.y[step]

    def test_set(self):  # type: ignore[no-untyped-def]
        return self.x[0, :10], self.y[0, :10]


def cells(low: float = 1e-2, high: float = 1e3):  # type: ignore[no-untyped-def]
    import numpy as np

    from theory import ToyModel

    gamma = np.geomspace(low, high, CELLS)
    return gamma, 0.1 * ToyModel().boundary("eta_crit").numeric(gamma=gamma, depth=DEPTH)


def ours(width: int, inputs: int, part: slice, *, lazy: bool = False, fused: bool = True) -> Callable[[], float]:
    from empirical import MLP, Ensemble
    from empirical.models import fused as loops
    from empirical.shard import reproducible_torch

    if not fused:
        loops.can_train = lambda device: False
    steps, spec = STEPS[width], MLP(DEPTH, width, inputs, CLASSES)
    stream = Drawn(inputs, steps)
    gamma, eta = (values[part] for values in (cells(1e-5, 9e-3) if lazy else cells()))

    def work() -> float:
        ensemble = Ensemble(spec, gamma, eta, 0, stream=lambda _: stream)
        with reproducible_torch("cpu"):
            ensemble.run(steps)
        return len(gamma) * steps

    return work


def loop(width: int, inputs: int) -> Callable[[], float]:
    import torch

    from empirical import MLP

    steps, spec = STEPS[width], MLP(DEPTH, width, inputs, CLASSES)
    xs, ys = batches(inputs, steps)
    some = list(zip(*cells(), strict=True))[:: CELLS // LOOP_NETWORKS[width]][: LOOP_NETWORKS[width]]

    def train(gamma: float, eta: float) -> None:
        layers = [torch.nn.Linear(s.fan_in, s.fan_out, bias=False) for s in spec.layers]
        for layer, weight in zip(layers, spec.initial_weights(0), strict=True):
            layer.weight.data = weight.float()
        network = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
        first, second, third = (layer.weight.detach().clone() for layer in layers)
        rates = zip(layers, spec.layers, strict=True)
        optimizer = torch.optim.SGD([{"params": [la.weight], "lr": eta * s.learning_rate} for la, s in rates])
        for x, y in zip(xs, ys, strict=True):
            with torch.no_grad():
                at_start = ((x @ first.T).relu() @ second.T).relu() @ third.T
            optimizer.zero_grad()
            loss = (((network(x) - at_start) / gamma - y) ** 2).sum(1).mean() / 2
            loss.backward()
            optimizer.step()

    def work() -> float:
        for gamma, eta in some:
            train(gamma, eta)
        return len(some) * steps

    return work


def centred_loss(start, relu):  # type: ignore[no-untyped-def]
    """The loss of one network as a function of weights, γ, inputs and targets, in the arrays of either library."""

    def network(weights, x):  # type: ignore[no-untyped-def]
        return relu(relu(x @ weights[0].T) @ weights[1].T) @ weights[2].T

    def loss(weights, gamma, x, y):  # type: ignore[no-untyped-def]
        return (((network(weights, x) - network(start, x)) / gamma - y) ** 2).sum(1).mean() / 2

    return loss


def vmap_of_grad(width: int, inputs: int) -> Callable[[], float]:
    import torch

    from empirical import MLP

    steps, spec = STEPS[width], MLP(DEPTH, width, inputs, CLASSES)
    xs, ys = batches(inputs, steps)
    start = [w.float() for w in spec.initial_weights(0)]
    gamma, eta = (torch.from_numpy(values).float() for values in cells())
    rates = [(eta * scale.learning_rate).view(-1, 1, 1) for scale in spec.layers]

    slope = torch.func.vmap(torch.func.grad(centred_loss(start, torch.relu)), in_dims=(0, 0, None, None))

    def work() -> float:
        weights = [w.expand(CELLS, *w.shape) for w in start]
        for x, y in zip(xs, ys, strict=True):
            weights = [w - r * g for w, r, g in zip(weights, rates, slope(weights, gamma, x, y), strict=True)]
        return CELLS * steps

    return work


def peer(width: int, inputs: int) -> Callable[[], float]:
    import jax
    import jax.numpy as jnp

    from empirical import MLP

    steps, spec = STEPS[width], MLP(DEPTH, width, inputs, CLASSES)
    xs, ys = (jnp.asarray(values.numpy()) for values in batches(inputs, steps))
    start = [jnp.asarray(w.numpy(), dtype=jnp.float32) for w in spec.initial_weights(0)]
    rates = [scale.learning_rate for scale in spec.layers]

    loss = centred_loss(start, jax.nn.relu)

    def train(gamma, eta):  # type: ignore[no-untyped-def]
        def step(weights, batch):  # type: ignore[no-untyped-def]
            value, slope = jax.value_and_grad(loss)(weights, gamma, *batch)
            return [w - eta * r * g for w, r, g in zip(weights, rates, slope, strict=True)], value

        return jax.lax.scan(step, start, (xs, ys))[1]

    compiled = jax.jit(jax.vmap(train))
    gamma, eta = (jnp.asarray(values, dtype=jnp.float32) for values in cells())
    compiled(gamma, eta).block_until_ready()

    def work() -> float:
        compiled(gamma, eta).block_until_ready()
        return CELLS * steps

    return work


def products(width: int, threads: int) -> Callable[[], float]:
    """The products alone; counts floating-point operations."""
    import torch

    torch.set_num_threads(threads)
    left, right = torch.randn(CELLS, BATCH, width), torch.randn(CELLS, width, width)
    out = torch.empty_like(left)
    operations = 2.0 * CELLS * BATCH * width**2
    repeats = max(3, int(2e10 / operations))

    def work() -> float:
        for _ in range(repeats):
            torch.bmm(left, right, out=out)
        return repeats * operations

    return work


def contestant(name: str, width: int, inputs: int) -> Callable[[], float]:
    kind, _, half = name.partition("/")
    part = slice(int(half), None, 2) if half else slice(None)
    if name in ONE_CORE:
        import torch

        torch.set_num_threads(1)
    return {
        "ours": lambda: ours(width, inputs, part),
        "ours 1 core": lambda: ours(width, inputs, part),
        "stepwise 1 core": lambda: ours(width, inputs, part, fused=False),
        "lazy": lambda: ours(width, inputs, part, lazy=True),
        "lazy 1 core": lambda: ours(width, inputs, part, lazy=True),
        "loop": lambda: loop(width, inputs),
        "loop 1 thread": lambda: loop(width, inputs),
        "vmap": lambda: vmap_of_grad(width, inputs),
        "vmap 1 core": lambda: vmap_of_grad(width, inputs),
        "jax": lambda: peer(width, inputs),
        "jax 1 core": lambda: peer(width, inputs),
        "bmm": lambda: products(width, 1),
        "bmm 1 core": lambda: products(width, 1),
        "bmm 2 threads": lambda: products(width, 2),
    }[kind]()


def serve(name: str, width: int, inputs: int) -> None:
    """Answer each line on standard input with one measurement: work done a second."""
    work = contestant(name, width, inputs)
    work()  # warm
    # time on the core: what a one-core contestant would take without neighbours; the others are timed by the wall clock
    clock = time.process_time if name in ONE_CORE else time.perf_counter
    print("ready", flush=True)
    for _ in sys.stdin:
        start = clock()
        done = work()
        print(done / (clock() - start), flush=True)


# ----------------------------------------------------------------------------------------------------- the one who asks


class Worker:
    """A contestant's process."""

    def __init__(self, name: str, width: int, inputs: int) -> None:
        command = [sys.executable, __file__, "--serve", name, "--widths", str(width), "--inputs", str(inputs)]
        environment = dict(os.environ)
        # run.py holds every benchmark to one thread; here only those that say so are held
        for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "XLA_FLAGS"):
            environment.pop(variable, None)
        if name in ONE_CORE:
            environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        cores = sorted(os.sched_getaffinity(0))
        if name in ONE_CORE:
            os.sched_setaffinity(self.process.pid, {cores[-1]})

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def ask(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure_all(width: int, inputs: int, rounds: int, names: Sequence[str]) -> dict[str, list[float]]:
    """Rates of some contestants, in turn, round by round; none for those that did not start."""
    rates: dict[str, list[float]] = {name: [] for name in names}

    def start(name: str) -> list[Worker]:
        members = [Worker(member, width, inputs) for member in PAIRS.get(name, (name,))]
        return members if all(worker.line().strip() == "ready" for worker in members) else []

    def measure(name: str, members: list[Worker]) -> None:
        for worker in members:
            worker.ask()
        if members:  # two halves run at once; each gives its own rate
            rates[name].append(sum(float(worker.line()) for worker in members))

    workers = {} if width >= APART else {name: start(name) for name in names}
    for _ in range(rounds):
        for name in names:
            members = workers.get(name) or start(name)
            measure(name, members)
            if name not in workers:
                for worker in members:
                    worker.close()
    for members in workers.values():
        for worker in members:
            worker.close()
    return rates


TWO_CORES = ("ours", "lazy", "loop", "vmap", "jax")


def tables(widths: Sequence[int], inputs: Sequence[int], rounds: int, *, one_core_only: bool = False) -> str:
    """One table for both cores by the wall clock, one for a single core by the time on it."""
    chosen = sorted(ONE_CORE) if one_core_only else [*PAIRS, *SINGLES]
    rates = {(w, d): measure_all(w, d, rounds, chosen) for w in widths for d in inputs}
    parts = []
    if not one_core_only:
        parts.append("### Both cores\n\n" + table(rates, TWO_CORES, ("bmm 2 processes", "bmm 2 threads")))
    one = ("ours 1 core", "lazy 1 core", "loop 1 thread", "vmap 1 core", "jax 1 core")
    parts.append("### One core\n\n" + table(rates, one, ("bmm 1 core",)))
    parts.append(
        f"Cell-steps/s, median (range) of {rounds} alternating rounds; depth {DEPTH}, batch {BATCH}, {CELLS} cells. "
        "One core: seconds on the core, which busy neighbours do not lengthen. Products: `torch.bmm`, GFLOP/s; for "
        "both cores the faster of two one-thread processes and one process of two threads."
    )
    return "\n\n".join(parts)


def table(rates: dict[tuple[int, int], dict[str, list[float]]], names: Sequence[str], products: Sequence[str]) -> str:
    from common import row, spread

    head = (
        "width, input",
        "ours",
        "ours, γ < 0.01",
        "plain loop",
        "vmap(grad)",
        "JAX",
        "products",
        "share of products",
    )
    head += ("the same, γ < 0.01", "over the loop", "over vmap(grad)", "over JAX")
    lines, bounds = [row(*head), row(*["---"] * len(head))], []
    for (width, size), all_rates in rates.items():
        middle = {name: statistics.median(values) if values else float("nan") for name, values in all_rates.items()}
        fastest = max(products, key=lambda name: middle[name])
        most = middle[fastest] / flops(width, size)
        ours, lazy, *others = (middle[name] for name in names)
        shown = [spread(all_rates[name], 0) if all_rates[name] else "not installed" for name in names]
        shown.append(spread([value / 1e9 for value in all_rates[fastest]], 0))
        shares = [f"{ours / most:.0%}", f"{lazy / most:.0%}"]
        lines.append(row(f"{width}, {size}", *shown, *shares, *(f"{ours / other:.1f}×" for other in others)))
        loop, _, jax = others
        bounds.append(
            f"- width {width}, input {size}: {flops(width, size) / 1e6:.1f} MFLOP a cell-step; at the rate of "
            f"`torch.bmm` its products would allow {most:,.0f} cell-steps/s: {most / loop:.1f}× the loop, "
            f"{most / jax:.1f}× JAX."
        )
        if all_rates.get("stepwise 1 core") and "ours 1 core" in names:
            stepwise = all_rates["stepwise 1 core"]
            bounds[-1] += f" Ours step by step: {spread(stepwise, 0)}; {ours / middle['stepwise 1 core']:.2f}× that."
    return "\n".join([*lines, "", *bounds])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256, 1024], choices=STEPS)
    parser.add_argument("--inputs", type=int, nargs="+", default=[64, 196])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one-core-only", action="store_true", help="for a machine with busy neighbours")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.widths[0], given.inputs[0])
    else:
        # run.py holds itself to one core; this takes all
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        print(tables(given.widths, given.inputs, given.rounds, one_core_only=given.one_core_only))


if __name__ == "__main__":
    main()
