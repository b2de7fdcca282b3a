"""What the benchmarks share: alternating runs, medians, and the environment that a table was made with."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version


def alternate(candidates: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run the candidates in turn, A B C A B C …, so that a drift of the machine meets all of them."""
    out: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            out[name].append(run())
    return out


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def microseconds(work: Callable[[int], object], rounds: int, times: int = 2000) -> list[float]:
    """One call of what `work` repeats, in each round."""
    work(1)
    out = []
    for _ in range(rounds):
        start = time.perf_counter()
        work(times)
        out.append((time.perf_counter() - start) / times * 1e6)
    return out


def row(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def spread(values: list[float], digits: int = 2) -> str:
    """Median, and the extremes in brackets."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} … {max(values):.{digits}f})"


def environment(gpu: str = "no GPU used") -> str:
    packages = []
    for name in ("numpy", "sympy", "torch", "jax", "numba"):
        try:
            packages.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            packages.append(f"{name} not installed")
    cores = os.cpu_count()
    return f"Python {platform.python_version()}, {', '.join(packages)}; {platform.machine()}, {cores} cores, {gpu}"
