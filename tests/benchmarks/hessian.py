"""Top-20 Hessian eigenvalues of 64 MLPs at once, against curvlinops and SciPy's eigsh called cell by cell.

ReLU MLPs of three layers, width 64, 14×14 inputs, γ from 10⁻² to 10², after 200 steps; 256 examples. The reference is
float64 with residuals below 10⁻⁹. eigsh stops where we do, at residuals below a share of the eigenvalue, and is timed
in both precisions at the largest such share whose eigenvalues are all right to 10⁻⁴ (of 10⁻¹, 10⁻², 10⁻³, 10⁻⁴), with
SciPy's default Krylov space. Seconds of one thread on the core.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
import torch
from common import row
from curvlinops import HessianLinearOperator
from numpy.typing import NDArray
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from empirical import MLP, Ensemble, Networks, data_stream, join
from empirical.measure.hessian import sharpness, top_eigenvalues

CELLS, BATCHES, K, DEMAND = 64, 4, 20, 1e-4
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4)


class Metric(nn.Module):
    """One cell in the coordinates M^{−½} θ, so that its plain Hessian is ours."""

    def __init__(self, networks: Networks, cell: int, x: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.roots = [rate**0.5 for rate in networks.rates.values()]
        weights = [w[cell] for w in networks.weights.values()]
        self.layers = nn.ParameterList([(w / root).to(dtype) for w, root in zip(weights, self.roots, strict=True)])
        self.start, self.gamma = networks.one(networks.start, x).to(dtype), float(networks.gamma[cell])

    def forward(self, x: Tensor) -> Tensor:
        for layer, (weight, root) in enumerate(zip(self.layers, self.roots, strict=True)):
            x = (x.relu() if layer else x) @ (root * weight).T
        return (x - self.start) / self.gamma


def trained(loss: str) -> tuple[Networks, Tensor, Tensor]:
    gamma = np.geomspace(1e-2, 1e2, CELLS)
    seen: list[Networks] = []
    ensemble = Ensemble(
        MLP(3, 64, 196, 10),
        gamma,
        0.2 * gamma**2 * (1 + gamma) ** (2 / 3 - 2),
        stream=lambda seed: data_stream("fashion-mnist-deformed", 64, seed, size=14),
        loss=loss,
    )
    ensemble.run(200, probe=lambda step, networks: seen.append(networks), probe_steps=[200])
    stream = data_stream("fashion-mnist-deformed", 64, 1, size=14)
    batches = [stream(step) for step in range(BATCHES)]
    return join(seen), torch.cat([b[0] for b in batches]).double(), torch.cat([b[1] for b in batches]).double()


def pair(case: tuple[Networks, Tensor, Tensor, str], cell: int, dtype: torch.dtype, tol: float) -> NDArray[np.float64]:
    """Curvlinops and eigsh on one cell."""
    networks, x, y, loss = case
    function = nn.MSELoss() if loss == "mse" else nn.CrossEntropyLoss()
    network = Metric(networks, cell, x, dtype)
    data = [(x.to(dtype), y.to(dtype))]
    operator = HessianLinearOperator(network, function, list(network.parameters()), data, check_deterministic=False)
    values = eigsh(operator.to_scipy(), K, which="LA", tol=tol, return_eigenvectors=False)
    return np.sort(values)[::-1] * (y.shape[1] / 2 if loss == "mse" else 1)  # MSELoss averages over classes, unhalved


def timed(run):  # type: ignore[no-untyped-def]
    start = time.process_time()
    return run(), time.process_time() - start


def table(cells: int = 16, rounds: int = 3, losses: tuple[str, ...] = ("mse", "cross-entropy")) -> str:
    """``cells`` of the 64 are given to the pair, whose time grows with their number."""
    torch.set_num_threads(1)
    lines = [row("loss", "program", "tolerance", "ms a cell", "largest error", "ours is faster"), row(*["---"] * 6)]
    for loss in losses:
        networks, x, y = trained(loss)
        reference = top_eigenvalues(networks, x, y, K, loss=loss, tolerance=1e-9, dtype="float64", block=4)
        assert bool(reference.converged.all())
        sample = np.linspace(0, CELLS - 1, cells).round().astype(int)

        def theirs(dtype, tol, case=(networks, x, y, loss), reference=reference, sample=sample):  # type: ignore[no-untyped-def]
            values, seconds = timed(lambda: [pair(case, c, dtype, tol) for c in sample])
            return seconds / len(sample), np.abs(np.stack(values) / reference.values[sample].numpy() - 1).max()

        def ours(case=(networks, x, y, loss), reference=reference, **options):  # type: ignore[no-untyped-def]
            spectrum, seconds = timed(lambda: top_eigenvalues(*case[:3], K, loss=case[3], **options))
            return seconds / CELLS, float((spectrum.values / reference.values - 1).abs().max())

        chosen = {}
        for dtype in (torch.float32, torch.float64):
            tol = next((t for t in TOLERANCES if theirs(dtype, t)[1] <= DEMAND), TOLERANCES[-1])
            chosen[f"curvlinops + eigsh, {str(dtype)[6:]}"] = (tol, lambda d=dtype, t=tol: theirs(d, t))
        chosen["ours"] = (1e-4, ours)
        chosen["ours, float64"] = (1e-4, lambda: ours(dtype="float64"))
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
        for _ in range(rounds):
            for name, (_, run) in chosen.items():
                runs[name].append(run())
        for name, results in runs.items():
            ratio = statistics.median(a[0] / b[0] for a, b in zip(results, runs["ours"], strict=True))
            cost = 1e3 * statistics.median(seconds for seconds, _ in results)
            error = max(error for _, error in results)
            lines.append(row(loss, name, f"{chosen[name][0]:g}", f"{cost:.0f}", f"{error:.0e}", f"{ratio:.1f}×"))
        top, seconds = timed(lambda: sharpness(networks, x, y, loss=loss))  # noqa: B023
        error = float((top.sharpness / reference.sharpness - 1).abs().max())
        lines.append(row(loss, "`sharpness`", "0.01", f"{1e3 * seconds / CELLS:.0f}", f"{error:.0e}", ""))
    lines.append("")
    lines.append(
        f"Top {K} of {CELLS} MLPs, L = 3, width 64, 14×14 inputs, {64 * BATCHES} examples, one thread; the pair on "
        f"{cells} of the cells, one by one. Medians of {rounds} alternating rounds, ratios taken round by round."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(CELLS if "--all" in sys.argv else 16))
