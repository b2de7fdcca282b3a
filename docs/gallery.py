"""Makes the gallery: every figure of the toy models, computed and drawn by the library, as a small PNG.

python docs/gallery.py                   # all of them, into docs/images/
python docs/gallery.py collapse          # one
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from paper_figures.overlay import catapult_figure, collapse_figure, portrait_figure, staircase_figure
from simulate import catapult_portrait, mode_staircase, phase_portrait, tau_collapse, two_layer_descent

IMAGES = Path(__file__).parent / "images"
DPI = 144


def portrait() -> Figure:
    """Phase portrait of the scalar model, three layers."""
    gamma, eta = np.geomspace(1e-5, 1e5, 161), np.geomspace(1e-10, 1e5, 181)
    return portrait_figure(phase_portrait(loss="mse", depth=3, gamma=gamma, eta=eta, steps=10_000))


def collapse() -> Figure:
    """Raw outputs of four γ against t and τ."""
    return collapse_figure(tau_collapse(gamma=[1e2, 1e4, 1e6, 1e8], depth=3))


def staircase() -> Figure:
    """Three modes of a matrix network."""
    return staircase_figure(mode_staircase(singular_values=(4, 2, 1), depth=3, gamma=1e8))


def catapult() -> Figure:
    """Fates and peaks in the plane of γ and ηλ₀, and three runs at γ = 10⁻³ on vectors of width 256."""
    fates = catapult_portrait(gamma=np.geomspace(1e-4, 30, 161), scaled_rate=np.linspace(0.02, 4.98, 200), steps=3000)
    width, gamma = 256, 1e-3
    # orthogonal starts of unit variance: λ₀ = 2/γ²
    frame = np.linalg.qr(np.random.default_rng(0).normal(size=(width, 2)))[0] * np.sqrt(width)
    runs = {
        rate: two_layer_descent(frame[:, 0], frame[:, 1], gamma=gamma, eta=rate * gamma**2 / 2, steps=40)
        for rate in (1.5, 2.5, 3.5)
    }
    return catapult_figure(fates, runs)


GALLERY: dict[str, Callable[[], Figure]] = {
    "portrait": portrait,
    "collapse": collapse,
    "staircase": staircase,
    "catapult": catapult,
}


def main(names: list[str]) -> None:
    """Make the images.

    Args:
        names: which of ``GALLERY``; all when empty.
    """
    IMAGES.mkdir(exist_ok=True)
    for name in names or list(GALLERY):
        path = IMAGES / f"{name}.png"
        # no date and no version in the file: the same figure is the same bytes
        GALLERY[name]().savefig(path, dpi=DPI, metadata={"Software": None})
        print(f"{path}  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
