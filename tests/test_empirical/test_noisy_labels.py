"""Label noise: how much, on whom, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from empirical import data_stream
from empirical.data import NoisyLabels
from empirical.shard import TrainingConfig
from theory import InputError

CONFIG = TrainingConfig(depth=2, width=4, image_size=7, batch_size=16, steps=10)


def clean(seed=0, batch=64, dtype=torch.float32):
    return data_stream("fashion-mnist-deformed", batch, seed, size=7, dtype=dtype)


def test_the_share_of_wrong_labels_and_their_classes():
    stream = clean(seed=3, batch=500)
    _, before = stream.batches(0, 20)
    _, after = NoisyLabels(stream, 0.4).batches(0, 20)
    old, new = before.argmax(-1).ravel().numpy(), after.argmax(-1).ravel().numpy()
    n, wrong = len(old), 0.4 * 9 / 10
    assert abs((old != new).mean() - wrong) < 5 * np.sqrt(wrong * (1 - wrong) / n)  # five standard errors
    # the step from the old class to the new is uniform over 1 … 9: χ² with 8 degrees of freedom is below 40 in all but
    # three of a million samples
    counts = np.bincount((new - old)[new != old] % 10, minlength=10)[1:]
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 40


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), step=st.integers(0, 2**63), p=st.floats(0, 0.999), q=st.floats(0, 0.999))
def test_noise_is_a_pure_function_that_touches_labels_alone(seed, step, p, q):
    stream, low, high = clean(seed, 24, torch.float64), *sorted((p, q))
    x, y = stream(step)
    less, more = (NoisyLabels(stream, share)(step) for share in (low, high))
    assert torch.equal(x, less[0])
    assert less[1].dtype == y.dtype
    assert torch.equal(less[1].sum(1), torch.ones(24, dtype=y.dtype))
    assert torch.equal(less[1].amax(1), torch.ones(24, dtype=y.dtype))
    changed = (less[1] != y).any(1)
    assert torch.equal(less[1][changed], more[1][changed])  # whom the smaller noise touches, the larger does too
    again, alone = NoisyLabels(stream, low).batches(step, step + 2), NoisyLabels(clean(seed, 5, torch.float64), low)
    assert torch.equal(again[1][0], less[1])
    assert torch.equal(alone(step)[1], less[1][:5])  # a smaller batch is the beginning of a larger one


def test_seeds_and_steps_have_noise_of_their_own():
    touched = {}
    for seed in (0, 1):
        stream = clean(seed)
        before, after = stream.batches(0, 2)[1], NoisyLabels(stream, 0.5).batches(0, 2)[1]
        for step in (0, 1):
            touched[seed, step] = (before[step] != after[step]).any(1)
    patterns = list(touched.values())
    assert all(not torch.equal(a, b) for i, a in enumerate(patterns) for b in patterns[:i])


def test_the_test_set_is_clean_and_settings_are_those_of_the_stream():
    stream = clean(5)
    noisy = NoisyLabels(stream, 0.9)
    assert all(torch.equal(a, b) for a, b in zip(stream.test_set(), noisy.test_set(), strict=True))
    names = ("seed", "batch_size", "input_dim", "num_classes")
    assert [getattr(noisy, name) for name in names] == [getattr(stream, name) for name in names]
    assert noisy == NoisyLabels(clean(5), 0.9) != NoisyLabels(clean(5), 0.8)
    assert hash(noisy) == hash(NoisyLabels(clean(5), 0.9))


def test_a_configuration_lays_noise_over_its_stream():
    assert CONFIG.stream(1) == data_stream("fashion-mnist-deformed", 16, 1, size=7)
    noisy = TrainingConfig(depth=2, width=4, image_size=7, batch_size=16, steps=10, label_noise=0.3)
    assert noisy.stream(1) == NoisyLabels(CONFIG.stream(1), 0.3)


def test_targets_without_classes_are_refused():
    with pytest.raises(InputError, match="must be 0 on teacher-linear, which has no classes"):
        NoisyLabels(data_stream("teacher-linear", 4, 0), 0.1)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_what_is_no_probability_is_refused(share):
    with pytest.raises(InputError) as caught:
        NoisyLabels(clean(), share)
    assert caught.value.field == "label_noise"
