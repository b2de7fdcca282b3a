"""Catapults in the plane of γ and ηλ₀: the two-layer linear net, run in the two numbers in which it closes.

Two layers u, v of width n, f = (u·v − u₀·v₀)/(γn), loss ℓ = r²/2 with r = f − 1, step ηn, tangent kernel
λ = (|u|² + |v|²)/(nγ²). In c = ηr/γ and k = ηλ gradient descent is, exactly and at every γ and n (derived in
``theory/catapult.py``),

    c ← c (1 − k + c² + εc),   k ← k + c²(k − 4) − 4εc,   ε = (η/γ)(1 + κ/γ),   c₀ = −η/γ,   κ = u₀·v₀/n,   L₀ = ½.

These numbers are of order 1 at the peak of a catapult, where f is of order 1/γ, and c keeps its relative accuracy on
the way to zero, so nothing is lost or overflows at γ = 1e-8. The loss is ½ (c/c₀)².

A start is given by its *variance* s = (|u₀|² + |v₀|²)/(2n), the mean square of the weights, and its *correlation*
ρ = 2 u₀·v₀/(|u₀|² + |v₀|²): λ₀ = 2s/γ² and κ = ρs. Unit variance is the default.

When nothing can happen any more: put h = (1 − |1 − k|)/2. If 5 (c² + |εc|) ≤ h², then |c| shrinks by a factor of at
most 1 − h at every later step, and k moves by at most 4 (c² + |εc|)/h in all of them together. (While that holds, the
factor of c is at most |1 − k| + 4 (c² + |εc|)/h + c² + |εc| ≤ (1 − 2h) + 5 (c² + |εc|)/h ≤ 1 − h, and the steps of k,
each at most 4 (c² + |εc|), sum like a geometric series.) A run whose k is thus certain not to move by half a rounding
is over: what is left of its loss is a geometric series.

Source: the model is in the appendix of arXiv:2410.04642; derived in ``theory/catapult.py``, the certificate here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import xarray as xr
from numba import parallel_chunksize, prange
from numpy.typing import ArrayLike, NDArray

from simulate import netcdf
from simulate.maps.compiled import compiled
from simulate.outcomes import DEFAULT_THRESHOLDS, Thresholds
from theory.catapult import predict_catapult
from theory.errors import InputError, positive_array, positive_integer, positive_number

FloatArray = NDArray[np.float64]

_CELLS_A_TASK = 64
_HALF_ULP = 2.0**-54  # of k: a number smaller than that times k is lost when it is added to k


class Fate(IntEnum):
    """How a run ends; exactly one holds. L₀ = ½, the tail is the mean loss of the last 2 % of the steps.

    ============ ======================================================================================
    divergent    |F − F₀| = γ|f| above 10⁶ max(1, γ), or a non-finite value: ``diverged`` of ``simulate.outcomes``
    not_settled  not divergent, and a tail above 10⁻³ L₀: still oscillating, or still on its way
    monotone     settled (tail at most 10⁻³ L₀), and no step ever raised the loss
    wavering     settled, some step raised the loss, but never above 1.5 L₀
    catapult     settled, and the loss was above 1.5 L₀ on the way
    ============ ======================================================================================

    The numbers are ``divergence``, ``settle``, ``peak`` and ``tail_fraction`` of ``Thresholds``.
    """

    NOT_SETTLED = 0
    MONOTONE = 1
    WAVERING = 2
    CATAPULT = 3
    DIVERGENT = 4

    @property
    def label(self) -> str:
        """Name in files and figures, such as ``not_settled``."""
        return self.name.lower()


FATE_NAMES: tuple[str, ...] = tuple(fate.label for fate in Fate)

_DIMS = ("gamma", "scaled_rate")
_LONG_NAMES = {
    "fate": "fate of the run",
    "peak_loss": "largest loss",
    "peak_step": "step of the largest loss",
    "final_loss": "mean loss over the tail",
    "final_scaled_kernel": "learning rate times kernel at the end",
    "steps_run": "steps until the fate was decided",
}
_ATTRIBUTES = ("correlation", "variance", "steps", *(f"threshold_{name}" for name in Thresholds.__dataclass_fields__))


# --- the compiled map -----------------------------------------------------------------------------------------------


@compiled()
def _geometric_sum(k: float, first: int, last: int) -> float:
    """Σ (1 − k)^{2j} over j = first … last, for 0 < k < 2; by logarithms, so that k near 0 or 2 loses nothing."""
    if k == 1.0 or first > last:  # first ≥ 1
        return 0.0
    log_ratio = 2.0 * (math.log1p(-k) if k < 1.0 else math.log1p(k - 2.0))
    return math.exp(first * log_ratio) * math.expm1((last - first + 1) * log_ratio) / math.expm1(log_ratio)


@compiled()
def _run_cell(
    gamma: float, k: float, correlation: float, variance: float, steps: int, tail_steps: int, bound: float
) -> tuple[float, float, int, float, int, bool, bool]:
    """Run one cell.

    Two exits change nothing: the certificate in the module's docstring, and a state that has been seen before (a cycle
    of the floating-point map, found by comparison with a state that is renewed at step numbers growing by a quarter).

    Returns:
        (tail loss, peak loss, its step, final k, steps run, some step raised the loss, diverged).
    """
    rate_over_gamma = k * gamma / (2.0 * variance)
    drift = k * (gamma + correlation * variance) / (2.0 * variance)
    unit = rate_over_gamma  # |c₀|, the c of a loss ½
    c, peak, peak_step, rose = -unit, unit, 0, False
    tail_start = steps - tail_steps  # the losses after steps tail_start+1 … steps are averaged
    tail_sum, step, last = 0.0, 0, steps
    kept_c, kept_k, kept_at, renew_at, period = c, k, 0, 1, 0
    repeats_at, final_k = 0, k  # the step at which a cycle was seen, 0 before; k after the last step
    while step < last:
        gap = 0.5 * (1.0 - abs(1.0 - k))
        push = c * c + abs(drift * c)
        if gap > 0.0 and 4.0 * push <= _HALF_ULP * k * gap and 5.0 * push <= gap * gap:
            ahead = max(tail_start + 1 - step, 1)  # steps from here to the first loss that is still to be averaged
            tail_sum += 0.5 * (c / unit) ** 2 * _geometric_sum(k, ahead, steps - step)
            break
        before = abs(c)
        c, k = c * (1.0 - k + c * (c + drift)), k + c * (c * (k - 4.0) - 4.0 * drift)
        step += 1
        size = abs(c)
        output = gamma * (1.0 + c / rate_over_gamma)  # γf = F − F₀
        if not abs(output) <= bound:  # also true for NaN
            return np.nan, np.inf, step, np.nan, step, True, True
        if repeats_at > 0:  # one turn of the cycle: this loss occurs again and again until the end
            first = max(repeats_at, tail_start) + 1
            until_first = (step - first) % period
            tail_sum += max((steps - first - until_first) // period + 1, 0) * 0.5 * (c / unit) ** 2
            if (steps - step) % period == 0:
                final_k = k
            continue
        rose = rose or size > before
        if size > peak:
            peak, peak_step = size, step
        if step > tail_start:
            tail_sum += 0.5 * (c / unit) ** 2
        if c == kept_c and k == kept_k:
            period = step - kept_at
            if period < steps - step:
                repeats_at, last = step, step + period
        if step == renew_at:
            kept_c, kept_k, kept_at, renew_at = c, k, step, step + 1 + step // 4
    if repeats_at == 0:
        final_k = k
    return tail_sum / tail_steps, 0.5 * (peak / unit) ** 2, peak_step, final_k, steps, rose, False


@compiled(parallel=True)
def _run_cells(  # type: ignore[no-untyped-def]
    gamma, scaled_rate, correlation, variance, steps, tail_steps, divergence,
    tail, peak, peak_step, kernel, steps_run, rose, diverged,
):  # fmt: skip
    for i in prange(gamma.size):
        bound = divergence * max(1.0, gamma[i])
        tail[i], peak[i], peak_step[i], kernel[i], steps_run[i], rose[i], diverged[i] = _run_cell(
            gamma[i], scaled_rate[i], correlation, variance, steps, tail_steps, bound
        )


def _fates(
    tail: FloatArray,
    peak: FloatArray,
    rose: NDArray[np.bool_],
    diverged: NDArray[np.bool_],
    thresholds: Thresholds,
) -> NDArray[np.int8]:
    # the table in Fate, from its last line upwards
    initial = 0.5
    fate = np.where(rose, Fate.WAVERING, Fate.MONOTONE)
    fate[peak > thresholds.peak * initial] = Fate.CATAPULT
    fate[~(tail <= thresholds.settle * initial)] = Fate.NOT_SETTLED
    fate[diverged] = Fate.DIVERGENT
    return fate.astype(np.int8)


# --- the portrait ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CatapultPortrait:
    """Fates in the plane of γ and ηλ₀.

    Attributes:
        data: dataset with dimensions ``gamma, scaled_rate`` (ηλ₀) and variables ``fate`` (a CF flag variable with the
            values of ``Fate``), ``peak_loss`` (``inf`` once divergent), ``peak_step`` (0 if the start was never
            exceeded; the last step once divergent), ``final_loss`` (tail; NaN once divergent), ``final_scaled_kernel``
            (ηλ after the last step; NaN once divergent) and ``steps_run`` (T unless divergent); its attributes say
            what was run (``correlation, variance, steps`` and the thresholds).
    """

    data: xr.Dataset

    @property
    def learning_rate(self) -> FloatArray:
        """η of each cell (the weights' step is ηn), shape ``(gamma, scaled_rate)``: ηλ₀ γ²/(2 variance)."""
        scale = self.data["gamma"].values ** 2 / (2.0 * float(self.data.attrs["variance"]))
        return np.asarray(scale[:, None] * self.data["scaled_rate"].values)

    def save(self, path: Path | str) -> None:
        """Write the portrait as NetCDF.

        Args:
            path: the file.
        """
        self.data.to_netcdf(path, engine="netcdf4")

    @classmethod
    def load(cls, path: Path | str) -> CatapultPortrait:
        """Read a portrait that ``save`` wrote.

        Args:
            path: the file.

        Returns:
            The portrait, in memory.

        Raises:
            InputError: not a readable NetCDF file, or one without the variables and attributes of a portrait.
        """
        return cls(netcdf.load(path, "catapult portrait", (*_LONG_NAMES, *_DIMS), _ATTRIBUTES))


def _ascending(field: str, given: ArrayLike) -> FloatArray:
    values = positive_array(field, given)
    if values.ndim != 1 or not (np.diff(values) > 0).all():
        raise InputError(field, given, "a vector of positive numbers, strictly ascending")
    return values


def catapult_portrait(
    *,
    scaled_rate: ArrayLike,
    gamma: ArrayLike,
    correlation: float = 0.0,
    variance: float = 1.0,
    steps: int = 10_000,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> CatapultPortrait:
    """Run gradient descent on the two-layer net on a grid of (γ, ηλ₀); the result is the same for every width.

    Args:
        scaled_rate: grid of ηλ₀, ascending, with λ₀ = 2·variance/γ² the kernel at the start and ηn the weights' step.
        gamma: grid of γ, ascending.
        correlation: 2 u₀·v₀/(|u₀|² + |v₀|²), in [−1, 1]; the cosine between u₀ and v₀ when they have one norm.
        variance: (|u₀|² + |v₀|²)/(2n), mean square of the weights at the start.
        steps: budget T in steps.
        thresholds: the numbers in the definitions of the fates.

    Returns:
        The portrait.

    Raises:
        InputError: an axis that is not positive and ascending, a correlation outside [−1, 1], a variance that is not
            positive, or T below 1.
    """
    rates, gammas = _ascending("scaled_rate", scaled_rate), _ascending("gamma", gamma)
    if isinstance(correlation, bool) or not isinstance(correlation, int | float | np.floating) or (
        not -1.0 <= correlation <= 1.0
    ):  # fmt: skip
        raise InputError("correlation", correlation, "a number in [-1, 1]")
    spread = positive_number("variance", variance)
    positive_integer("steps", steps)
    shape = (gammas.size, rates.size)
    tail, peak, kernel = np.empty((3, *shape))
    peak_step, steps_run = np.empty((2, *shape), dtype=np.int64)
    rose, diverged = np.empty((2, *shape), dtype=np.bool_)
    results = (tail, peak, peak_step, kernel, steps_run, rose, diverged)
    with parallel_chunksize(_CELLS_A_TASK):
        _run_cells(
            np.repeat(gammas, rates.size), np.tile(rates, gammas.size), float(correlation), spread, steps,
            thresholds.tail_steps(steps), thresholds.divergence, *(array.reshape(-1) for array in results),
        )  # fmt: skip
    arrays = {
        "fate": _fates(tail, peak, rose, diverged, thresholds),
        "peak_loss": peak,
        "peak_step": peak_step,
        "final_loss": tail,
        "final_scaled_kernel": kernel,
        "steps_run": steps_run,
    }
    data = xr.Dataset(
        {name: (_DIMS, values) for name, values in arrays.items()},
        coords={"gamma": gammas, "scaled_rate": rates},
        attrs={"correlation": float(correlation), "variance": spread, "steps": steps}
        | {f"threshold_{name}": value for name, value in vars(thresholds).items()},
    )
    for name, text in _LONG_NAMES.items():
        data[name].attrs["long_name"] = text
    data["fate"].attrs |= {
        "flag_values": np.arange(len(FATE_NAMES), dtype=np.int8),
        "flag_meanings": " ".join(FATE_NAMES),
    }
    data["gamma"].attrs["long_name"] = "feature-learning strength"
    data["scaled_rate"].attrs["long_name"] = "learning rate times kernel at the start"
    return CatapultPortrait(data)


# --- theory against the map -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CatapultAgreement:
    """How far ``theory.catapult.predict_catapult`` and a portrait agree; arrays have shape ``(gamma, scaled_rate)``.

    Attributes:
        predicted: the fate predicted, int8: the regime, or ``not_settled`` where a catapult has no stable minimum.
        compared: cells outside the edges, at a γ small enough for the theory.
        agrees: the fate is the predicted one; meaningful where ``compared``.
        peak_compared: those among them in which both say catapult.
        peak_agrees: the largest loss lies within the bounds; meaningful where ``peak_compared``.
    """

    predicted: NDArray[np.int8]
    compared: NDArray[np.bool_]
    agrees: NDArray[np.bool_]
    peak_compared: NDArray[np.bool_]
    peak_agrees: NDArray[np.bool_]

    @property
    def share(self) -> float:
        """Share of the compared cells whose fate is the predicted one; NaN if none was compared."""
        return float(self.agrees[self.compared].mean()) if self.compared.any() else np.nan

    @property
    def peak_share(self) -> float:
        """Share of the catapults whose peak lies within the bounds; NaN if there is none."""
        return float(self.peak_agrees[self.peak_compared].mean()) if self.peak_compared.any() else np.nan


def compare_catapults(
    portrait: CatapultPortrait, *, edge: float = 0.05, gamma_below: float = 1e-3
) -> CatapultAgreement:
    """Compare a portrait with the theory's regimes and peak bounds, cell by cell.

    The regimes hold for γ ≪ 1 and for a correlation ≪ 1. At correlations of order one they are a guess that is worth a
    comparison; only the absence of a stable minimum is then exact.

    Args:
        portrait: what was run.
        edge: cells this close to an edge are left out: ηλ₀ = 2, ηλ₀ = 4, and 2η|γ+κ|/γ² = 2, where the flattest
            minimum loses its stability.
        gamma_below: largest γ that counts as γ ≪ 1.

    Returns:
        The comparison. The bounds on the peak are of leading order in ε/(ηλ₀ − 2), ε = η|γ+κ|/γ²: they are granted a
        relative slack of ten times that.

    Raises:
        InputError: ``edge`` or ``gamma_below`` not positive.
    """
    positive_number("edge", edge)
    positive_number("gamma_below", gamma_below)
    data, eta = portrait.data, portrait.learning_rate
    gamma, k0 = np.meshgrid(data["gamma"].values, data["scaled_rate"].values, indexing="ij")
    variance, correlation = float(data.attrs["variance"]), float(data.attrs["correlation"])
    theory = predict_catapult(eta=eta, gamma=gamma, kernel=k0 / eta, overlap=correlation * variance)
    regimes = {"monotone": Fate.MONOTONE, "catapult": Fate.CATAPULT, "divergent": Fate.DIVERGENT}
    predicted = np.full(k0.shape, Fate.NOT_SETTLED, dtype=np.int8)  # also at the edges, which are not compared
    for name, value in regimes.items():
        predicted[theory.regime == name] = value
    predicted[(theory.regime == "catapult") & ~theory.can_settle] = Fate.NOT_SETTLED

    flattest = eta * theory.final_kernel_low
    at_edge = (abs(k0 - 2.0) < edge) | (abs(k0 - 4.0) < edge) | (abs(flattest - 2.0) < edge)
    compared = np.asarray(~at_edge & (gamma <= gamma_below))
    fate = data["fate"].values
    catapults = compared & (fate == Fate.CATAPULT) & (predicted == Fate.CATAPULT)
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN bounds outside the catapult regime
        slack = 1.0 + 10.0 * (flattest / 2.0) / abs(k0 - 2.0)
        peak = data["peak_loss"].values
        within = (theory.peak_loss_low / slack <= peak) & (peak <= theory.peak_loss_high * slack)
    return CatapultAgreement(predicted, compared, fate == predicted, catapults, within)


# --- the vectors themselves -----------------------------------------------------------------------------------------
