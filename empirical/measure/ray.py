"""How the curvature where training ends changes along the ray through the weights.

Where γ is large, networks that end in the same state f at other γ have, to a first approximation, the same weights but
for their size: θ → sθ, with γ → s^D γ, so that f = F/γ stays what it is (D the Euler degree). Along this ray

    d ln(1/λ) / d ln γ = −(1/D) d ln λ / d ln s,

λ the largest eigenvalue of the Gauss–Newton matrix of the loss in the metric of the update: the Hessian without what
residuals add, which would not stay what they are (F₀ does not scale, nor have all outputs one degree). A network of one
degree has 2/D. With several terms it is another number: D weighs them by what they give to the output, λ by their
gradients.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empirical.measure.degree import euler_degree
from empirical.measure.hessian import top_eigenvalues
from empirical.networks import Networks

STEP = 0.05
"""Half the step in ln s: its square is the error of the difference, and λ moves by some 10 % a step."""


def scaled(networks: Networks, factor: float, degree: NDArray[np.float64]) -> Networks:
    """Move networks along their rays, at the same f.

    Args:
        networks: C cells.
        factor: s, what all trained weights are multiplied with.
        degree: D of each cell, shape ``(cells,)``: γ is multiplied with s^D.

    Returns:
        Networks with the same θ₀.
    """
    moved = {
        name: factor * (networks.start[name] + d) - networks.start[name] for name, d in networks.displacement.items()
    }
    growth = torch.from_numpy(factor ** np.asarray(degree)).to(networks.gamma)
    return replace(networks, displacement=moved, gamma=networks.gamma * growth)


def ray_exponent(
    networks: Networks, x: Tensor, y: Tensor, *, loss: str = "mse", tolerance: float = 1e-2
) -> NDArray[np.float64]:
    """Local exponent of 2/λ in γ along the ray of each cell.

    Args:
        networks: C cells, at the end of training in the rich regime.
        x: inputs ``(n, input_dim)``.
        y: targets ``(n, classes)``.
        loss: ``mse`` or ``cross-entropy``.
        tolerance: largest relative residual of an eigenvalue.

    Returns:
        Shape ``(cells,)``; NaN where D is not positive or an eigenvalue is not, or has not converged.
    """
    degree = euler_degree(networks, x)
    logarithms = []
    for sign in (-1, 1):
        there = scaled(networks, float(np.exp(sign * STEP)), np.nan_to_num(degree))
        found = top_eigenvalues(
            there, x, y, 1, loss=loss, curvature="gauss-newton", tolerance=tolerance, keep_vectors=False
        )
        values = torch.where(found.converged & (found.values[:, 0] > 0), found.values[:, 0], torch.nan)
        logarithms.append(np.log(values.cpu().numpy()))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(degree > 0, -(logarithms[1] - logarithms[0]) / (2 * STEP * degree), np.nan)
