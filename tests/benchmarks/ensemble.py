"""Cell-steps per second of the ensemble, a plain PyTorch loop and JAX's `jit(vmap(scan))`, one thread each.

All see the same pre-drawn batches, so that the price of data is the same for all (it is given apart). The plain loop is
what published code does: one network at a time, autograd, an SGD step.
"""

from __future__ import annotations

import statistics
from functools import partial

import numpy as np
import torch
from common import alternate, row, seconds, spread

from empirical import MLP, Ensemble, data_stream
from empirical.shard import reproducible_torch
from theory import ToyModel

WIDTH, BATCH, SIZE, CELLS = 64, 64, 14, 32


class Remembered:
    def __init__(self, steps: int) -> None:
        self.stream = data_stream("fashion-mnist-deformed", BATCH, 0, size=SIZE)
        self.batches = [self.stream(step) for step in range(steps)]

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.batches[step]

    def test_set(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.stream.test_set()


def cells(depth: int) -> tuple[np.ndarray, np.ndarray]:
    gamma = np.geomspace(1e-3, 1e3, CELLS)
    return gamma, 0.3 * ToyModel().boundary("eta_crit").numeric(gamma=gamma, depth=depth)


def our_rate(spec: MLP, batches: Remembered, steps: int) -> float:
    ensemble = Ensemble(spec, *cells(spec.depth), 0, stream=lambda _: batches)
    with reproducible_torch("cpu"):
        return CELLS * steps / seconds(lambda: ensemble.run(steps))


def loop_rate(spec: MLP, batches: Remembered, steps: int, networks: int = 2) -> float:
    def run() -> None:
        for gamma, eta in list(zip(*cells(spec.depth), strict=True))[:networks]:
            layers = [torch.nn.Linear(s.fan_in, s.fan_out, bias=False) for s in spec.layers]
            parts = [part for layer in layers for part in (torch.nn.ReLU(), layer)][1:]
            network, initial = torch.nn.Sequential(*parts), [layer.weight.detach().clone() for layer in layers]
            rates = [
                {"params": [la.weight], "lr": eta * s.learning_rate} for la, s in zip(layers, spec.layers, strict=True)
            ]
            optimizer = torch.optim.SGD(rates)
            for step in range(steps):
                x, y = batches(step)
                with torch.no_grad():
                    at_start = x
                    for i, weight in enumerate(initial):
                        at_start = (at_start.relu() if i else at_start) @ weight.T
                optimizer.zero_grad()
                loss = (((network(x) - at_start) / gamma - y) ** 2).sum(1).mean() / 2
                loss.backward()
                optimizer.step()

    with reproducible_torch("cpu"):
        return networks * steps / seconds(run)


def jax_rate(spec: MLP, batches: Remembered, steps: int):  # type: ignore[no-untyped-def]
    """Returns a function that measures, compiled beforehand; JAX is held to one core by run.py."""
    import jax
    import jax.numpy as jnp

    xs = jnp.stack([batches(step)[0].numpy() for step in range(steps)])
    ys = jnp.stack([batches(step)[1].numpy() for step in range(steps)])
    start = [jnp.asarray(w.numpy(), dtype=jnp.float32) for w in spec.initial_weights(0)]
    rates = [scale.learning_rate for scale in spec.layers]

    def outputs(weights, x):  # type: ignore[no-untyped-def]
        for i, weight in enumerate(weights):
            x = (jax.nn.relu(x) if i else x) @ weight.T
        return x

    def loss(weights, gamma, x, y):  # type: ignore[no-untyped-def]
        return (((outputs(weights, x) - outputs(start, x)) / gamma - y) ** 2).sum(1).mean() / 2

    def train(gamma, eta):  # type: ignore[no-untyped-def]
        def step(weights, batch):  # type: ignore[no-untyped-def]
            value, slope = jax.value_and_grad(loss)(weights, gamma, *batch)
            return [w - eta * r * g for w, r, g in zip(weights, rates, slope, strict=True)], value

        return jax.lax.scan(step, start, (xs, ys))[1]

    compiled = jax.jit(jax.vmap(train))
    gamma, eta = (jnp.asarray(a, dtype=jnp.float32) for a in cells(spec.depth))
    compiled(gamma, eta).block_until_ready()
    return lambda: CELLS * steps / seconds(lambda: compiled(gamma, eta).block_until_ready())


def table(rounds: int = 5, steps: int = 100) -> str:
    batches = Remembered(steps)
    data = [seconds(partial(batches.stream, step)) * 1e3 for step in range(200)]
    lines = [
        row("L", "ensemble, cell-steps/s", "plain loop", "JAX", "over loop", "over JAX"),
        row("---", "---", "---", "---", "---", "---"),
    ]
    for depth in (2, 3, 4):
        spec = MLP(depth, WIDTH, SIZE**2, 10)
        candidates = {
            "ours": partial(our_rate, spec, batches, steps),
            "loop": partial(loop_rate, spec, batches, steps),
        }
        try:
            candidates["jax"] = jax_rate(spec, batches, steps)
        except ImportError:
            candidates["jax"] = lambda: float("nan")
        rates = alternate(candidates, rounds)
        ours, loop, peer = (statistics.median(rates[name]) for name in ("ours", "loop", "jax"))
        shown = [spread(rates[name], 0) for name in ("ours", "loop", "jax")]
        lines.append(row(depth, *shown, f"{ours / loop:.1f}×", f"{ours / peer:.1f}×"))
    lines.append("")
    lines.append(
        f"Width {WIDTH}, batch {BATCH}, {SIZE}×{SIZE} inputs, {CELLS} cells, {steps} steps, one core each; "
        f"medians (range) of {rounds} alternating rounds. Drawing one batch takes {statistics.median(data):.2f} ms."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
