"""Cells that have left the range of numbers are still shown to a probe until they are decided: they must neither stop a
measurement nor change what it says of the cells beside them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from empirical import MLP
from empirical.measure import kernels
from empirical.measure.agreement import output_agreement
from empirical.measure.degree import euler_degree, euler_degree_by_output
from empirical.measure.features import representations
from empirical.measure.modules import networks_of
from empirical.measure.weights import distance_by_layer, distance_from_start, layer_balance, layer_norms
from empirical.models.cnn import CNN

SPECS = [MLP(3, 16, 16, 3), CNN((2, 1), 3, 4, 3)]
Y = np.eye(3)[[0, 1, 2, 0, 1]]


def alignment(networks, x):
    return kernels.kernel_target_alignment(kernels.class_trace(kernels.ntk(networks, x)), Y, centered=True)


def similarity(networks, x):
    features = kernels.last_layer_kernel(networks, x)
    return kernels.cka(features, features[:1]) + 2 * kernels.cka(features, features[:1], unbiased=True)


def agreement(networks, x):
    f = networks.output(x).detach()
    found = output_agreement(f, f[:1] + 0.1)
    return np.stack([found.r2, found.correlation], axis=1)


MEASUREMENTS = {
    "ntk": kernels.ntk,
    "drift": lambda n, x: np.stack([getattr(kernels.kernel_drift(n, x), f) for f in ("relative", "rotation")], axis=1),
    "representations": representations,
    "alignment": alignment,
    "cka": similarity,
    "agreement": agreement,
    "degree": euler_degree,
    "degree by output": euler_degree_by_output,
    "distance": lambda n, x: distance_from_start(n),
    "distance by layer": lambda n, x: distance_by_layer(n),
    "norms": lambda n, x: layer_norms(n),
    "balance": lambda n, x: layer_balance(n),
}


@pytest.mark.parametrize("spec", SPECS, ids=["mlp", "cnn"])
@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_diverged_cell_changes_nothing_beside_it(name, spec):
    cells = []
    for seed, size in enumerate((1.1, float("nan"), float("inf"), 1e200, 2.0)):
        module = spec.module(seed)
        with torch.no_grad():
            for p in module.parameters():
                p *= size
        cells.append(module)
    networks = networks_of(spec.module(0), cells, example_shape=spec.example_shape, rates=spec.rates())
    x = torch.randn(5, spec.input_dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    measure, sane = MEASUREMENTS[name], np.array([0, 4])
    with_them, without = measure(networks, x), measure(networks.select(sane), x)
    assert np.isfinite(without).all()
    np.testing.assert_allclose(with_them[sane], without, rtol=1e-10, atol=1e-13)
    assert not np.isfinite(with_them[1]).all()
