"""Phase portraits of the toy: against a plain compiled loop, what people use today, and the budget T; on all cores."""

from __future__ import annotations

import os

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, range(os.cpu_count() or 1))

import multiprocessing

import numpy as np
from common import alternate, row, seconds, spread
from numba import njit, prange

from simulate import Outcome, classify, phase_portrait, run_gradient_descent
from theory import ToyModel
from theory.band import band_threshold

SIDE, STEPS, DEPTH = 512, 1_000_000, 3
GAMMA, ETA = (1e-5, 1e5), (1e-12, 1e6)
SAMPLE = 1024
LEVEL, PEAK, TAIL, BOUND = 0.9, 1.5, 0.02, 1e6


@njit(parallel=True)
def plain_mse(gamma, eta, depth, steps, tail, peak, diverged):
    """Every cell, every step, until it diverges; the displacement from the start is the state, as in the package."""
    for i in prange(gamma.size):
        rate, bound, total, top, bad = eta[i] / gamma[i], BOUND * max(1.0, gamma[i]), 0.0, 0.5, False
        displacement, raw, power = 0.0, 0.0, 1.0
        for step in range(steps):
            displacement -= rate * power * (raw / gamma[i] - 1.0)
            w = 1.0 + displacement
            series, power = 1.0, 1.0
            for _ in range(depth - 1):
                series = series * w + 1.0
                power *= w
            raw = displacement * series
            if not abs(raw) <= bound:
                bad = True
                break
            loss = 0.5 * (raw / gamma[i] - 1.0) ** 2
            top = max(top, loss)
            if step >= steps - steps * TAIL:
                total += loss
        tail[i], peak[i], diverged[i] = total / (steps * TAIL), top, bad


def run_plain(gamma, eta, steps):
    tail, peak, diverged = np.empty(gamma.size), np.empty(gamma.size), np.empty(gamma.size, dtype=np.bool_)
    plain_mse(gamma, eta, DEPTH, steps, tail, peak, diverged)
    return classify(tail, peak, np.full(gamma.size, 0.5), diverged=diverged)


def numpy_loop(gamma, eta, steps):
    """The whole grid as one array, a Python loop over steps; diverged cells are set aside at once."""
    w, total, peak = np.ones_like(gamma), np.zeros_like(gamma), np.full_like(gamma, 0.5)
    diverged, bound = np.zeros(gamma.shape, dtype=bool), BOUND * np.maximum(1.0, gamma)
    for step in range(steps):
        w -= eta / gamma * w ** (DEPTH - 1) * ((w**DEPTH - 1.0) / gamma - 1.0)
        raw = w**DEPTH - 1.0
        out = ~(np.abs(raw) <= bound)
        diverged |= out
        w[out], raw[out] = 1.0, 0.0
        loss = 0.5 * (raw / gamma - 1.0) ** 2
        np.maximum(peak, loss, out=peak)
        if step >= steps - steps * TAIL:
            total += loss
    return classify(total / (steps * TAIL), peak, np.full_like(gamma, 0.5), diverged=diverged)


def scalar_cell(job):
    """One cell in plain Python, as a job of a pool."""
    gamma, eta, steps = job
    w, total, peak = 1.0, 0.0, 0.5
    for step in range(steps):
        w -= eta / gamma * w ** (DEPTH - 1) * ((w**DEPTH - 1.0) / gamma - 1.0)
        raw = w**DEPTH - 1.0
        if not abs(raw) <= BOUND * max(1.0, gamma):
            return Outcome.DIVERGED
        loss = 0.5 * (raw / gamma - 1.0) ** 2
        peak = max(peak, loss)
        if step >= steps - steps * TAIL:
            total += loss
    learned, overshot = total / (steps * TAIL) <= LEVEL * 0.5, peak > PEAK * 0.5
    if learned:
        return Outcome.CATAPULT if overshot else Outcome.TRAINED
    return Outcome.UNSTABLE if overshot else Outcome.UNTRAINED


def grid(side):
    gamma, eta = np.geomspace(*GAMMA, side), np.geomspace(*ETA, side)
    return gamma, eta, np.repeat(gamma, side), np.tile(eta, side)


def chaotic(gamma, eta):
    """Cells between the loss of linear stability and the last possible escape, where rounding decides the orbit."""
    edge = ToyModel(loss="mse", optimizer="gd").boundary("eta_crit").numeric(gamma=gamma, depth=DEPTH)
    return (eta > 0.999 * edge) & (eta < 2.3 * edge)


def against_plain() -> str:
    gamma, eta, all_gamma, all_eta = grid(SIDE)
    chosen = np.random.default_rng(0).choice(SIDE * SIDE, SAMPLE, replace=False)
    some_gamma, some_eta = all_gamma[chosen], all_eta[chosen]
    run_plain(some_gamma[:2], some_eta[:2], 10)
    phase_portrait(depth=DEPTH, gamma=gamma[:2], eta=eta[:2], steps=5000)
    kept = {}

    def ours() -> None:
        kept["portrait"] = phase_portrait(depth=DEPTH, gamma=gamma, eta=eta, steps=STEPS)

    def plain() -> None:
        kept["plain"] = run_plain(some_gamma, some_eta, STEPS)

    times = alternate({"portrait": lambda: seconds(ours), "plain": lambda: seconds(plain)}, 3)
    whole = [value * SIDE * SIDE / SAMPLE for value in times["plain"]]
    outcome = kept["portrait"].data["outcome"].values.ravel()[chosen]
    band = chaotic(some_gamma, some_eta)
    same = outcome == kept["plain"]
    # all of a cell's cost in the plain loop is whether it diverges: the sample's error is that of a share
    alive = np.mean(kept["plain"] != Outcome.DIVERGED)
    error = np.sqrt(alive * (1 - alive) / SAMPLE) / alive
    lines = [
        row("", "seconds"),
        row("---", "---"),
        row(f"phase_portrait, all {SIDE * SIDE:,} cells", spread(times["portrait"], 1)),
        row(f"plain compiled loop, random sample of {SAMPLE} cells (seed 0)", spread(times["plain"], 1)),
        row(f"… extrapolated to all cells, ± {100 * error:.0f} % by the sample", spread(whole, 0)),
        row("**ratio**", f"**{np.median(whole) / np.median(times['portrait']):.0f}**"),
    ]
    agreement = (
        f"Outcomes of the sample: {same[~band].sum()} of {(~band).sum()} identical outside the chaotic band, "
        f"{same[band].sum()} of {band.sum()} inside."
    )
    return "\n".join([*lines, "", agreement])


def cross_entropy() -> str:
    gamma, eta, all_gamma, all_eta = grid(SIDE)
    model = ToyModel(loss="cross-entropy", optimizer="gd")
    phase_portrait(loss="cross-entropy", depth=DEPTH, gamma=gamma[:2], eta=eta[:2], steps=5000)
    whole = seconds(lambda: phase_portrait(loss="cross-entropy", depth=DEPTH, gamma=gamma, eta=eta, steps=STEPS))
    edge = model.boundary("eta_crit").numeric(gamma=all_gamma, depth=DEPTH)
    inside = (all_eta > edge) & (all_eta < np.maximum(2.3 * edge, band_threshold(DEPTH) * all_gamma))
    band = seconds(
        lambda: run_gradient_descent(all_gamma[inside], all_eta[inside], loss="cross-entropy", depth=DEPTH, steps=STEPS)
    )
    return (
        f"Cross-entropy, same grid and T: {whole:.0f} s, of which the {inside.sum():,} cells of its band "
        f"(eta_crit to c_L γ) take {band:.0f} s ({1e9 * 2 * band / inside.sum() / STEPS:.1f} core-ns a cell-step)."
    )


def against_budget() -> str:
    gamma, eta, all_gamma, all_eta = grid(64)
    band = chaotic(all_gamma, all_eta)
    lines = [row("T", "64×64 portrait, s", "outside the chaotic band, s", "trained cells"), row(*["---"] * 4)]
    for power in range(2, 9):
        steps = 10**power
        kept = {}

        def whole(steps: int = steps, kept: dict = kept) -> None:
            kept["cells"] = phase_portrait(depth=DEPTH, gamma=gamma, eta=eta, steps=steps)

        taken = [seconds(whole) for _ in range(1 if power == 8 else 3)]

        def off_band(steps: int = steps) -> None:
            run_gradient_descent(all_gamma[~band], all_eta[~band], depth=DEPTH, steps=steps)

        quiet = [seconds(off_band) for _ in range(3)]
        trained = int((kept["cells"].data["outcome"].values == Outcome.TRAINED).sum())
        lines.append(row(f"10^{power}", spread(taken, 3), spread(quiet, 3), trained))
    return "\n".join(lines)


def against_usual() -> str:
    side, steps = 64, 10_000
    gamma, eta, all_gamma, all_eta = grid(side)
    jobs = [(float(g), float(e), steps) for g, e in zip(all_gamma, all_eta, strict=True)]
    kept = {}

    def pool() -> None:
        with multiprocessing.get_context("spawn").Pool(2) as workers:
            kept["pool"] = np.array(workers.map(scalar_cell, jobs, chunksize=64))

    def whole() -> None:
        with np.errstate(all="ignore"):
            kept["numpy"] = numpy_loop(all_gamma, all_eta, steps)

    def ours() -> None:
        portrait = phase_portrait(depth=DEPTH, gamma=gamma, eta=eta, steps=steps)
        kept["ours"] = portrait.data["outcome"].values.ravel()

    ours()
    runs = {"ours": ours, "numpy": whole, "pool": pool}
    times = alternate({name: lambda run=run: seconds(run) for name, run in runs.items()}, 3)
    band = chaotic(all_gamma, all_eta)
    heads = (f"{side}×{side} cells, T = {steps:,}", "seconds", "ratio", "same outcomes off the band")
    lines = [row(*heads), row(*["---"] * 4)]
    names = {
        "ours": "phase_portrait",
        "numpy": "NumPy-vectorised loop over steps",
        "pool": "pool of 2 processes, scalar Python loops",
    }
    for key, name in names.items():
        ratio = np.median(times[key]) / np.median(times["ours"])
        lines.append(row(name, spread(times[key]), f"{ratio:.0f}", (kept[key] == kept["ours"])[~band].mean()))
    return "\n".join(lines)


def table() -> str:
    parts = [
        f"MSE, L = {DEPTH}, {SIDE}×{SIDE}, γ 1e-5…1e5, η 1e-12…1e6, T = {STEPS:,}, 2 cores.\n\n" + against_plain(),
        cross_entropy(),
        against_usual(),
        against_budget(),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(table())
