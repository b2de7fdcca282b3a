"""Users' own modules: ``--arch module:Class``, multipliers from shapes, ``rescale`` with ``parameter_groups``.

Module files are written by the test into a directory that becomes the current one; the oracle of training is
``torch.optim.SGD`` on ``rescale(module)``.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from empirical import Ensemble, data_stream, rescale
from empirical.law import law_depth
from empirical.models.user import UserArchitecture, load_class
from empirical.parametrization import width_multipliers
from empirical.shard import Block, TrainingConfig, train_block
from theory import InputError

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, input_shape, num_classes, width=12):
        super().__init__()
        channels, side, _ = input_shape
        self.first = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.read = nn.Linear(width, num_classes, bias=False)
        self.learning_rates = {"first.bias": 0.25}

    def forward(self, x):
        return self.read(torch.tanh(self.first(x)).mean((2, 3)))

class Flat(nn.Sequential):
    def __init__(self, input_dim, num_classes):
        super().__init__(nn.Linear(input_dim, 8, bias=False), nn.ReLU(), nn.Linear(8, num_classes, bias=False))

class Broken(nn.Module):
    def __init__(self, num_classes):
        raise RuntimeError("no such luck")

class WrongShape(nn.Linear):
    def __init__(self, input_dim, num_classes):
        super().__init__(input_dim, num_classes + 1)

class WrongInput(nn.Linear):
    def __init__(self, input_dim, num_classes):
        super().__init__(input_dim + 1, num_classes)

class WrongRates(nn.Linear):
    learning_rates = {"weihgt": 1.0}
    def __init__(self, input_dim, num_classes):
        super().__init__(input_dim, num_classes)

class Demanding(nn.Module):
    def __init__(self, input_dim, num_classes, vocabulary):
        super().__init__()

def function(input_dim, num_classes):
    return nn.Linear(input_dim, num_classes)
"""


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    """A module ``mynet`` in the current directory."""
    (tmp_path / "mynet.py").write_text(SOURCE)
    (tmp_path / "faulty.py").write_text("import nothing_of_this_name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    load_class.cache_clear()
    yield tmp_path
    load_class.cache_clear()
    for name in ("mynet", "faulty"):
        sys.modules.pop(name, None)


def test_shapes_give_the_multipliers():
    net = nn.Sequential(nn.Embedding(7, 6), nn.Conv1d(6, 5, 3), nn.LayerNorm(5), nn.Linear(5, 4))
    expected = {"0.weight": 5, "1.weight": 5 / 18, "1.bias": 5, "2.weight": 5, "2.bias": 5, "3.weight": 1, "3.bias": 5}
    assert width_multipliers(net) == pytest.approx(expected)
    equally = {"0.weight": 1, "1.weight": 1 / 18, "1.bias": 1, "2.weight": 1, "2.bias": 1, "3.weight": 0.2, "3.bias": 1}
    assert width_multipliers(net, normalized=True) == pytest.approx(equally)


@pytest.mark.parametrize("steps", [1, 3])
def test_multipliers_make_functions_of_all_widths_move_alike(steps):
    """f at γ = N^{1/2} γ_μP after some steps: from width 64 to 1024 its change has a limit."""
    x, y = torch.randn(8, 20, generator=torch.Generator().manual_seed(0)), torch.eye(10)[torch.arange(8)]
    sizes = []
    for width in (64, 1024):
        moved = []
        for seed in range(4):
            torch.manual_seed(seed)
            net = nn.Sequential(
                nn.Linear(20, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
            )
            network = rescale(net, width**0.5)
            optimizer = torch.optim.SGD(network.parameter_groups(0.05))
            for _ in range(steps):
                optimizer.zero_grad()
                (((network(x) - y) ** 2).sum(1).mean() / 2).backward()
                optimizer.step()
            moved.append(network(x).detach().square().mean().sqrt().item())
        sizes.append(np.mean(moved))
    # fluctuations are of order 64^{−1/2} and averaged over four seeds; a wrong power N^{1/2} would be a factor of 4
    assert 0.7 < sizes[1] / sizes[0] < 1.4
    assert sizes[0] > 1e-3


def test_a_users_class_trains_as_its_own_loop_does():
    spec = UserArchitecture("mynet:Net", (1, 7, 7), 10, width=5)
    assert spec.rates() == {"first.weight": 5 / 9, "first.bias": 0.25, "read.weight": 1.0}
    gamma, eta, steps = 0.5, 0.05, 10
    stream = data_stream("fashion-mnist-deformed", 8, 3, size=7, dtype=torch.float64)
    run = Ensemble(spec, [gamma, gamma], [eta, eta / 2], 3, stream=lambda _: stream, dtype="float64")
    curve = run.run(steps, np.arange(steps)).loss_curve[0]
    network = rescale(spec.module(3).double(), gamma, learning_rates={"first.bias": 0.25})
    optimizer = torch.optim.SGD(network.parameter_groups(eta))
    losses = []
    for step in range(steps):
        x, y = stream(step)
        optimizer.zero_grad()
        loss = ((network(x.view(8, 1, 7, 7)) - y) ** 2).sum(1).mean() / 2
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    np.testing.assert_allclose(curve, losses, rtol=1e-10)
    assert losses[-1] < 0.99 * losses[0]


def test_a_configuration_takes_a_users_class():
    config = TrainingConfig(arch="mynet:Flat", image_size=7, batch_size=4, steps=3)
    assert config.spec().example_shape == (49,)
    assert (config.weight_layers(), config.variant(), config.width) == (2, "as it is", None)
    assert law_depth(config) == (2, "euler_degree")  # bias-free ReLU: its degree is its depth
    cells = train_block(Block(config=config, gamma=(1.0, 1.0), eta=(0.1, 0.2), seed=(0, 0))).cells
    assert (cells.steps_run == 3).all()
    wide = TrainingConfig(arch="mynet:Net", image_size=7, width=3)
    assert (wide.variant(), wide.spec().parameter_count()) == ("width 3", 3 * 10 + 30)


def test_another_file_is_another_configuration(mine):
    before = TrainingConfig(arch="mynet:Flat", image_size=7)
    (mine / "mynet.py").write_text(SOURCE + "\n# changed\n")
    assert TrainingConfig(arch="mynet:Flat", image_size=7) != before


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"arch": "mynet:Nobody"}, "arch", "there is no Nobody"),
        ({"arch": "nowhere:Net"}, "arch", "No module named 'nowhere'"),
        ({"arch": "faulty:Net"}, "arch", "nothing_of_this_name"),
        ({"arch": "mynet:"}, "arch", "module:Class"),
        ({"arch": "my net:Net"}, "arch", "module:Class"),
        ({"arch": "mynet:function"}, "arch", "a class of torch.nn.Module"),
        ({"arch": "mynet:Broken"}, "arch", "no such luck"),
        ({"arch": "mynet:Demanding"}, "arch", "vocabulary"),
        ({"arch": "mynet:WrongInput"}, "arch", "a module that takes"),
        ({"arch": "mynet:WrongShape"}, "module's output for 2 examples", "(2, 10)"),
        ({"arch": "mynet:WrongRates"}, "learning_rates", "weight, bias"),
        ({"arch": "mynet:Flat", "width": 3}, "width", "takes none"),
        ({"arch": "mynet:Net", "heads": 2}, "heads", "no such option"),
    ],
)
def test_what_is_wrong_is_said(options, field, words):
    with pytest.raises(InputError) as caught:
        TrainingConfig(image_size=7, **options)
    assert caught.value.field == field
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_line_traces_a_users_class(mine, monkeypatch, capsys):
    import richscape

    argv = "richscape trace --arch mynet:Flat --image-size 7 --batch-size 8 --steps 20 --gamma 1 10 2 --workers 1"
    monkeypatch.setattr(sys, "argv", [*argv.split(), "--resolution", "0.3", "--boundaries", "eta_crit", "--out", "run"])
    richscape.main()
    assert "eta_crit" in capsys.readouterr().out
    table = pd.read_csv(mine / "run" / "boundaries.csv")
    assert set(table["arch"]) == {"mynet:Flat"}
    assert set(table["depth"]) == {2}
    assert len(table) == 2


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"learning_rates": {"bias": 1.0}}, "learning_rates"),
        ({"learning_rates": {"weight": 0.0}}, "learning_rates[weight]"),
    ],
)
def test_rescale_names_wrong_rates(options, field):
    with pytest.raises(InputError) as caught:
        rescale(nn.Linear(3, 2, bias=False), 1.0, **options)
    assert caught.value.field == field
