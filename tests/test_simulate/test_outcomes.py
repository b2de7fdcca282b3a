"""What a run came to, against a scalar transcription of the written definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from simulate import OUTCOME_NAMES, Outcome, Thresholds, classify
from theory.errors import InputError


def name_by_definition(tail, peak, initial, *, diverged, dead, level=0.9, overshoot=1.5):
    """One run, in the order of the definitions: diverged, else dead, else by tail and peak."""
    if diverged or not math.isfinite(tail):
        return "diverged"
    if dead:
        return "dead"
    names = {
        (True, False): "trained",
        (True, True): "catapult",
        (False, False): "untrained",
        (False, True): "unstable",
    }
    return names[tail <= level * initial, peak > overshoot * initial]


def classify_one(tail, peak, initial, **kwargs):
    flags = {name: np.array([value]) for name, value in kwargs.items() if name != "thresholds"}
    rest = {name: value for name, value in kwargs.items() if name == "thresholds"}
    code = classify(np.array([tail]), np.array([peak]), np.array([initial]), **flags, **rest)[0]
    return OUTCOME_NAMES[code]


losses = st.one_of(st.floats(0, 1e12), st.sampled_from([0.9, 1.5, 1.0, 0.0, 0.45, 0.75]))
tails = st.one_of(losses, st.sampled_from([math.nan, math.inf]))


@given(tail=tails, peak=losses, initial=st.floats(1e-6, 1e6), diverged=st.booleans(), dead=st.booleans())
@example(tail=0.9, peak=1.5, initial=1.0, diverged=False, dead=False)  # both thresholds met exactly: trained
@example(tail=math.nan, peak=1.0, initial=1.0, diverged=False, dead=True)  # not finite comes before dead
def test_classify_is_the_definition(tail, peak, initial, diverged, dead):
    expected = name_by_definition(tail, peak, initial, diverged=diverged, dead=dead)
    assert classify_one(tail, peak, initial, diverged=diverged, dead=dead) == expected


@given(
    tail=losses,
    peak=losses,
    level=st.floats(0.01, 0.99),
    overshoot=st.floats(1.0, 10.0),
)
def test_the_thresholds_are_used(tail, peak, level, overshoot):
    thresholds = Thresholds(level=level, peak=overshoot, settle=1e-3)
    expected = name_by_definition(tail, peak, 1.0, diverged=False, dead=False, level=level, overshoot=overshoot)
    assert classify_one(tail, peak, 1.0, diverged=False, thresholds=thresholds) == expected


@given(st.lists(st.tuples(tails, losses, st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_an_array_of_runs_is_classified_run_by_run(runs):
    tail, peak, diverged, dead = (np.array(column) for column in zip(*runs, strict=True))
    together = classify(tail, peak, np.ones(len(runs)), diverged=diverged, dead=dead)
    assert together.dtype == np.int8
    alone = [name_by_definition(*run[:2], 1.0, diverged=run[2], dead=run[3]) for run in runs]
    assert [OUTCOME_NAMES[code] for code in together] == alone


@pytest.mark.parametrize(
    ("tail", "peak", "expected"),
    [
        (0.9, 1.5, "trained"),
        (np.nextafter(0.9, 1), 1.5, "untrained"),
        (0.9, np.nextafter(1.5, 2), "catapult"),
        (np.nextafter(0.9, 1), np.nextafter(1.5, 2), "unstable"),
    ],
)
def test_the_edges_belong_to_the_quieter_side(tail, peak, expected):
    assert classify_one(tail, peak, 1.0, diverged=False) == expected


@pytest.mark.parametrize("peak", [math.nan, math.inf])
def test_a_peak_that_is_not_finite_has_diverged(peak):
    # "diverged: a non-finite value": a loss that overflowed on the way is one, even if the tail came back
    assert classify_one(0.1, peak, 1.0, diverged=False) == "diverged"


def test_the_codes_are_those_of_the_file_format():
    assert [o.label for o in sorted(Outcome)] == [
        "not_run",
        "untrained",
        "trained",
        "catapult",
        "unstable",
        "dead",
        "diverged",
    ]
    assert [int(o) for o in sorted(Outcome)] == list(range(7))
    assert tuple(o.label for o in sorted(Outcome)) == OUTCOME_NAMES


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("thresholds.level", {"level": 0.0}),
        ("thresholds.level", {"level": math.nan}),
        ("thresholds.peak", {"peak": -1.5}),
        ("thresholds.peak", {"peak": math.inf}),
        ("thresholds.settle", {"settle": "small"}),
        ("thresholds.tail_fraction", {"tail_fraction": 0}),
        ("thresholds.tail_fraction", {"tail_fraction": 1.01}),
        ("thresholds.divergence", {"divergence": -1e6}),
        ("thresholds", {"level": 1.0}),
        ("thresholds", {"peak": 0.99}),
        ("thresholds", {"settle": 0.95}),
    ],
)
def test_bad_thresholds_name_their_field(field, change):
    with pytest.raises(InputError) as caught:
        Thresholds(**change)
    assert caught.value.field == field


@pytest.mark.parametrize("allowed", [{"peak": 1.0}, {"settle": 0.9}, {"tail_fraction": 1.0}])
def test_thresholds_at_their_limits_are_allowed(allowed):
    Thresholds(**allowed)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(1, 1), (10, 1), (49, 1), (100, 2), (1_000, 20), (10_000, 200), (123_456, 2469)],
)
def test_the_tail_is_two_percent_and_at_least_one_step(steps, expected):
    assert Thresholds().tail_steps(steps) == expected


@given(steps=st.integers(1, 10**9), fraction=st.floats(1e-6, 1.0))
def test_the_tail_never_outgrows_the_run(steps, fraction):
    tail = Thresholds(tail_fraction=fraction).tail_steps(steps)
    assert 1 <= tail <= steps
    assert abs(tail - fraction * steps) <= 0.5 or tail == 1
