"""Claims about what is inside the networks: Hessian spectra, agreement of outputs, kernel–target alignment."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import xarray as xr

from empirical.experiments.analysis import LAZY_TO, agreement_matrix, outputs_at_end, sharpness_fits
from empirical.measure.agreement import output_agreement
from empirical.phenomena.outliers import spectral_outliers
from paper_figures.ledger import (
    NOT_SUPPORTED,
    NOTHING,
    PAPER,
    SUPPORTED,
    UNDETERMINED,
    Claim,
    Finding,
    above,
    against,
    known_mean,
    mean_interval,
    of_fit,
    share_interval,
)
from simulate import ScalingFit

CONSTANT = 0.1
"""Relative change up to which an eigenvalue counts as constant."""


def lazy_sharpness(landscape: xr.Dataset) -> Finding:
    """Supported when the 95 % interval of the slope of λ_max at the end of training holds −2 (lazy fit window)."""
    return Finding("−2", *_numbers(sharpness_fits(landscape).get("lazy")))


def rich_sharpness(landscape: xr.Dataset) -> Finding:
    """Supported when the 95 % interval of the slope of λ_max at the end of training holds −2/L (rich fit window)."""
    return Finding(f"−2/L = {-2 / int(landscape.attrs['depth']):.3f}", *_numbers(sharpness_fits(landscape).get("rich")))


def _numbers(fit: ScalingFit | None) -> tuple[float, tuple[float, float], str, str, str]:
    found = of_fit(fit)
    return found.measured, found.interval, found.verdict, found.detail, found.needs


def lazy_outliers(matrix: str) -> Callable[[xr.Dataset], Finding]:
    """A judge of the number of outliers.

    Args:
        matrix: ``hessian`` or ``gauss_newton``.

    Returns:
        The judge.
    """

    def judge(spectra: xr.Dataset) -> Finding:
        """Supported when more than half of the lazy spectra (whole 95 % interval) have as many outliers as classes.

        One spectrum a seed, at the end of training. An outlier stands five mean gaps above what follows it
        (``empirical.phenomena.outliers``). Not supported when fewer than half do.

        Returns:
            The finding.
        """
        classes = int(spectra.attrs["classes"])
        counts = [found.count for found in map(spectral_outliers, spectra[matrix].values) if found.determined]
        if not counts:
            return Finding(
                f"{classes} outliers", math.nan, NOTHING, UNDETERMINED, "no spectrum allows a count", "more eigenvalues"
            )
        hits = sum(count == classes for count in counts)
        interval = share_interval(hits, len(counts))
        detail = f"share of {len(counts)} seeds with {classes} outliers, γ = {spectra.attrs['gamma']:.3g}, width "
        detail += f"{spectra.attrs['width']}, {spectra.attrs['examples']} examples; counts: "
        detail += ", ".join(str(count) for count in sorted(counts))
        return against(f"{classes} outliers", hits / len(counts), interval, 0.5, detail)

    return judge


def lazy_constant(landscape: xr.Dataset) -> Finding:
    """Supported when λ_max of lazy runs (γ ≤ 0.001) changes by less than 10 % from start to end (95 %, over γ)."""
    some = landscape.isel(gamma=landscape["gamma"].values <= 1.05e-3)
    first, last = (some["eigenvalue"].isel(spectrum_step=i, rank=0).values for i in (0, -1))
    mean, interval = mean_interval(np.mean(np.abs(last / first - 1), axis=-1))
    verdict = {SUPPORTED: NOT_SUPPORTED, NOT_SUPPORTED: SUPPORTED}.get(above(interval, CONSTANT), UNDETERMINED)
    return Finding("0", mean, interval, verdict, "relative change of λ_max from start to end, γ ≤ 0.001", "more γ")


def rich_grows(landscape: xr.Dataset) -> Finding:
    """Supported when the eigenvalue after the first as many as classes grows in rich runs (γ ≥ 100; 95 %, over γ)."""
    classes = int(landscape.attrs["classes"])
    some = landscape.isel(gamma=landscape["gamma"].values >= 1e2)
    first, last = (some["eigenvalue"].isel(spectrum_step=i, rank=classes).values for i in (0, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        growth = np.log(np.where((first > 0) & (last > 0), last / first, np.nan))
    mean, interval = mean_interval(known_mean(growth, -1))
    ends = (math.exp(interval[0]), math.exp(interval[1])) if np.isfinite(mean) else NOTHING
    detail = f"eigenvalue {classes + 1} at the end over that at the start, γ ≥ 100"
    return against("> 1", math.exp(mean), ends, 1.0, detail, "γ")


def _pairs(landscape: xr.Dataset, chosen: np.ndarray) -> np.ndarray:
    """Mean R² over the pairs of some γ, one number a seed."""
    f = outputs_at_end(landscape)[chosen]
    if len(f) < 2:
        return np.empty(0)
    off = ~np.eye(len(f), dtype=bool)
    return np.array([output_agreement(one[:, None], one[None]).r2[off].mean() for one in np.moveaxis(f, 1, 0)])


def lazy_agree(landscape: xr.Dataset) -> Finding:
    """Supported when the mean R² of outputs between lazy networks (γ ≤ 0.01, one start) is above 0.95 (95 %, seeds)."""
    mean, interval = mean_interval(_pairs(landscape, landscape["gamma"].values <= LAZY_TO))
    return against("≈ 1", mean, interval, 0.95, "mean R² of f between pairs of γ ≤ 0.01")


def rich_agree(landscape: xr.Dataset) -> Finding:
    """Supported when the mean R² of outputs between rich networks (γ ≥ 100, one start) is above 0.9 at the end.

    With the whole 95 % interval over seeds.

    Returns:
        The finding.
    """
    mean, interval = mean_interval(_pairs(landscape, landscape["gamma"].values >= 1e2))
    return against("≈ 1", mean, interval, 0.9, "mean R² of f between pairs of γ ≥ 100, end of training")


def lazy_differs_from_rich(landscape: xr.Dataset) -> Finding:
    """Supported when lazy pairs agree better than lazy with rich ones: the difference of mean R² is above 0 (seeds)."""
    gamma = landscape["gamma"].values
    out = []
    lazy, rich = gamma <= LAZY_TO, gamma >= 1e2
    for seed in range(landscape.sizes["seed"] if lazy.sum() > 1 and rich.any() else 0):
        matrix = agreement_matrix(landscape.isel(seed=[seed]))
        block = matrix[np.ix_(lazy, lazy)]
        within = block[~np.eye(len(block), dtype=bool)].mean()
        out.append(within - matrix[np.ix_(lazy, rich)].mean())
    mean, interval = mean_interval(out)
    return against("> 0", mean, interval, 0.0, "R² of lazy pairs less R² of lazy with rich")


def alignment_grows(landscape: xr.Dataset) -> Finding:
    """Supported when the alignment at the end is larger for γ ≥ 100 than for γ ≤ 0.01 (95 %, seeds)."""
    end, gamma = landscape["alignment"].isel(step=-1).values, landscape["gamma"].values
    mean, interval = mean_interval(known_mean(end[gamma >= 1e2], 0) - known_mean(end[gamma <= LAZY_TO], 0))
    return against("> 0", mean, interval, 0.0, "mean alignment of γ ≥ 100 less that of γ ≤ 0.01")


INSIDES: tuple[Claim, ...] = (
    Claim("sharpness-lazy", "λ_max at the end of training ∝ γ^−2 for γ ≪ 1 (MLP, MSE)", f"{PAPER}, figure 3", "fig3",
          ("landscape",), lazy_sharpness),
    Claim("sharpness-rich", "λ_max at the end of training ∝ γ^(−2/L) for γ ≫ 1 (MLP, MSE)", f"{PAPER}, figure 3",
          "fig3", ("landscape",), rich_sharpness),
    Claim("outliers-lazy", "a lazy Hessian has as many outliers as there are classes", f"{PAPER}, figure 3", "fig3",
          ("spectra",), lazy_outliers("hessian")),
    Claim("outliers-lazy-gn", "a lazy Gauss–Newton matrix has as many outliers as there are classes",
          f"{PAPER}, figure 3", "fig3", ("spectra",), lazy_outliers("gauss_newton")),
    Claim("hessian-lazy-constant", "a lazy Hessian does not change under MSE", f"{PAPER}, figure 3", "fig3",
          ("landscape",), lazy_constant),
    Claim("hessian-rich-grows", "in a rich network many eigenvalues grow, not only the outliers",
          f"{PAPER}, figure 3", "fig3", ("landscape",), rich_grows),
    Claim("lazy-agree", "lazy networks have nearly identical outputs", f"{PAPER}, figure 5", "fig5", ("landscape",),
          lazy_agree),
    Claim("rich-agree", "rich networks agree in their outputs at the end of training", f"{PAPER}, figure 5", "fig5",
          ("landscape",), rich_agree),
    Claim("lazy-not-rich", "lazy networks do not compute what rich ones do", f"{PAPER}, figure 5", "fig5",
          ("landscape",), lazy_differs_from_rich),
    Claim("alignment-gamma", "the last layer's kernel is more aligned with the task at large γ", f"{PAPER}, figure 5",
          "fig5", ("landscape",), alignment_grows),
)  # fmt: skip
