"""The coordinate check over the whole range of widths, 64 to 1024, of all four architectures on 7×7 images."""

from __future__ import annotations

import pytest

from empirical.coordinate_check import StandardParametrization, coordinate_check
from empirical.models import CNN, MLP, ResNet, ViT

pytestmark = pytest.mark.heavy

IMAGE = (1, 7, 7)
ARCHITECTURES = {
    "mlp": lambda n: MLP(3, n, 49, 10),
    "cnn": lambda n: CNN((2, 2), n, 7, 10),
    "resnet": lambda n: ResNet(2, n, IMAGE, 10),
    "resnet-norm": lambda n: ResNet(2, n, IMAGE, 10, norm="layer", final_norm=True),
    "vit": lambda n: ViT(2, n, IMAGE, 10),
    "vit-norm": lambda n: ViT(2, n, IMAGE, 10, final_norm=True),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_mup_passes_and_the_standard_parametrisation_fails(name):
    check = coordinate_check(ARCHITECTURES[name])
    assert check.passed, (check.layers, check.size_spread, check.change_spread)
    standard = coordinate_check(lambda n: StandardParametrization(ARCHITECTURES[name](n)), (64, 256, 1024))
    assert not standard.passed
