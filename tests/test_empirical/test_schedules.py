"""Schedules against PyTorch's own schedulers, and what follows from their formulas."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from empirical.schedules import SCHEDULES, Schedule
from theory import InputError


def multipliers(name, warmup, steps):
    schedule = Schedule(name, warmup)
    return np.array([schedule.multiplier(step, steps) for step in range(steps)])


def torch_multipliers(name, rise, steps):
    """Learning rates of PyTorch's schedulers for a rate of one and a warm-up of so many steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    kinds = torch.optim.lr_scheduler
    # LinearLR starts at its factor and reaches 1 after total_iters further steps: at step W − 1
    warm = kinds.LinearLR(optimizer, 1 / rise, total_iters=rise - 1) if rise > 1 and "warmup" in name else None
    if "cosine" not in name:
        scheduler = warm
    elif warm is None:
        scheduler = kinds.CosineAnnealingLR(optimizer, steps)
    else:
        cosine = kinds.CosineAnnealingLR(optimizer, steps - rise)
        scheduler = kinds.SequentialLR(optimizer, [warm, cosine], [rise])
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return np.array(rates)


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # SequentialLR calls its own parts in a way it deprecates
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("warmup", "steps", "rise"), [(0.1, 50, 5), (0.07, 100, 7), (0.5, 7, 4), (0.9, 20, 18)])
def test_multipliers_are_those_of_pytorch(name, warmup, steps, rise):
    # PyTorch's recurrences round once a step
    np.testing.assert_allclose(multipliers(name, warmup, steps), torch_multipliers(name, rise, steps), atol=1e-13)


@given(name=st.sampled_from(SCHEDULES), warmup=st.floats(0, 1), steps=st.integers(1, 3000))
def test_multipliers_lie_in_the_unit_interval_and_reach_one(name, warmup, steps):
    found = multipliers(name, warmup, steps)
    assert (found > 0).all()
    assert (found <= 1).all()
    assert found.max() == 1 or (name == "cosine" and steps == 1)
    turn = int(found.argmax())
    assert (np.diff(found[: turn + 1]) >= 0).all()
    assert (np.diff(found[turn:]) <= 0).all()


@given(warmup=st.floats(0, 1), steps=st.integers(1, 3000))
def test_rescaled_time_is_that_of_the_docstring(warmup, steps):
    rise = ceil(warmup * steps - 1e-9)
    assert multipliers("warmup", warmup, steps).sum() == pytest.approx(steps - max(rise - 1, 0) / 2)
    # the sum of cos(πt/n) over t = 0 … n − 1 is 1
    assert multipliers("cosine", warmup, steps).sum() == pytest.approx((steps + 1) / 2)
    whole = (rise + 1) / 2 * (rise > 0) + (steps - rise + 1) / 2 * (steps > rise)
    assert multipliers("warmup-cosine", warmup, steps).sum() == pytest.approx(whole)


@given(steps=st.integers(1, 300), warmup=st.floats(0, 1))
def test_no_warm_up_is_none(steps, warmup):
    np.testing.assert_array_equal(multipliers("warmup", 0.0, steps), 1.0)
    np.testing.assert_array_equal(multipliers("constant", warmup, steps), 1.0)
    np.testing.assert_array_equal(multipliers("warmup-cosine", 0.0, steps), multipliers("cosine", warmup, steps))


@pytest.mark.parametrize(
    ("name", "warmup", "field"),
    [
        ("linear", 0.1, "schedule"),
        ("warmup", -0.1, "warmup"),
        ("warmup", 1.1, "warmup"),
        ("cosine", float("nan"), "warmup"),
    ],
)
def test_bad_input_names_the_field(name, warmup, field):
    with pytest.raises(InputError) as caught:
        Schedule(name, warmup)
    assert caught.value.field == field
