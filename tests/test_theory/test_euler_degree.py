"""Euler degrees. Oracles: hand-written gradients and difference quotients of small numpy networks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

from theory import Derivation, InputError
from theory.euler_degree import degree_of_residual, degree_of_sequence, degree_of_sum, euler_degree, steps

FINITE = st.floats(-5, 5)


@pytest.mark.parametrize("step", steps(), ids=lambda step: step.name)
def test_steps_pass_and_a_wrong_expression_falsifies_them(step):
    assert Derivation("right", (step,)).run()[0].passed
    for factor in (sp.Rational(19, 20), sp.Rational(21, 20)):
        wrong = dataclasses.replace(step, expression=step.expression * factor)
        assert not Derivation("wrong", (wrong,)).run(strict=False)[0].passed


def normalise(stream, epsilon=0.0):
    return (stream - stream.mean()) / np.sqrt(stream.var() + epsilon)


class Toy:
    """Residual network of width d: embedding, blocks x + W_2 relu(W_1 [norm] x), [norm], head; smooth activation."""

    def __init__(self, blocks, *, pre_norm=False, final_norm=False, gain=False, epsilon=0.0, seed=0):
        self.blocks, self.pre_norm, self.final_norm, self.gain, self.epsilon = (
            blocks, pre_norm, final_norm, gain, epsilon,
        )  # fmt: skip
        rng = np.random.default_rng(seed)
        d = 6
        self.x = rng.normal(size=(d, 3))
        self.sizes = [(d, d)] * (1 + 2 * blocks) + [(1, d), (d, 1)]
        self.theta = np.concatenate([rng.normal(size=size).ravel() / np.sqrt(d) for size in self.sizes])

    def __call__(self, values):
        cuts = np.cumsum([a * b for a, b in self.sizes])[:-1]
        parts = [p.reshape(size) for p, size in zip(np.split(values, cuts), self.sizes, strict=True)]
        streams = []
        for x in self.x.T:
            stream = parts[0] @ x
            for block in range(self.blocks):
                into = normalise(stream, self.epsilon) if self.pre_norm else stream
                stream = stream + parts[2 + 2 * block] @ np.maximum(parts[1 + 2 * block] @ into, 0)
            if self.final_norm:
                stream = normalise(stream, self.epsilon)
            if self.gain:
                stream = parts[-1][:, 0] * stream
            streams.append((parts[-2] @ stream)[0])
        return np.array(streams)


@pytest.mark.parametrize(
    ("toy", "limits"),
    [
        (Toy(2), (2, 6)),  # embedding and head, and two layers for each of two blocks
        (Toy(1), (2, 4)),
        (Toy(2, pre_norm=True), (2, 3)),
        (Toy(2, pre_norm=True, final_norm=True), (1, 1)),
        (Toy(2, pre_norm=True, final_norm=True, gain=True), (2, 2)),
        (Toy(0), (2, 2)),
    ],
    ids=["residual 2", "residual 1", "pre-norm", "final norm", "final norm, gain", "linear"],
)
def test_degrees_of_residual_and_normalised_networks_at_both_ends(toy, limits):
    small, large = (euler_degree(toy, scale * toy.theta) for scale in (1e-4, 1e5))
    # the degree differs from its limit by the ratio of the smaller part to the larger, 1e-4 times a number of order 10
    assert small == pytest.approx(np.full(3, limits[0]), abs=5e-3)
    assert large == pytest.approx(np.full(3, limits[1]), abs=5e-3)


def test_a_final_norm_does_not_give_degree_one_between_the_limits():
    toy = Toy(2, pre_norm=True, final_norm=True)
    middle = euler_degree(toy, toy.theta)
    assert np.abs(middle - 1).max() > 0.02


def test_epsilon_of_a_norm_restores_the_degree_below_it_at_small_weights():
    toy = Toy(0, final_norm=True, epsilon=1e-5)
    assert euler_degree(toy, 1e-5 * toy.theta) == pytest.approx([2] * 3, abs=1e-4)
    assert euler_degree(toy, 1e3 * toy.theta) == pytest.approx([1] * 3, abs=1e-6)


def test_measured_degree_is_the_inner_product_with_a_hand_written_gradient():
    rng = np.random.default_rng(4)
    first, last, x = rng.normal(size=(4, 3)), rng.normal(size=4), rng.normal(size=3)
    shift, offset = rng.normal(size=4), 0.7
    units = first @ x + shift
    active = units > 0
    assert active.any()
    value = last @ np.maximum(units, 0) + offset
    inner = np.sum(first * np.outer(last * active, x)) + shift @ (last * active) + last @ np.maximum(units, 0) + offset

    def network(values):
        matrix, bias, head = values[:12].reshape(4, 3), values[12:16], values[16:20]
        return head @ np.maximum(matrix @ x + bias, 0) + values[20]

    theta = np.concatenate([first.ravel(), shift, last, [offset]])
    assert abs(inner / value - 2) > 0.1  # the offset has one factor, all else two
    assert euler_degree(network, theta) == pytest.approx(inner / value, rel=1e-9)


def test_sequences():
    relu_mlp = ["linear", "relu"] * 4 + ["linear"]
    assert degree_of_sequence(relu_mlp) == 5
    assert degree_of_sequence([*relu_mlp, "norm", "linear"]) == 1
    assert degree_of_sequence([*relu_mlp, "norm_gain", "linear"]) == 2
    assert degree_of_sequence(["linear", (0, 2), "linear"]) == 3  # a quadratic activation
    assert degree_of_sequence([], input_degree=1.5) == 1.5


@given(st.integers(1, 12), st.integers(0, 12))
def test_sequences_compose(early, late):
    first, second = ["linear", "relu"] * early, ["linear"] * late
    joined = degree_of_sequence(first + second)
    assert joined == degree_of_sequence(second, input_degree=degree_of_sequence(first)) == early + late


@given(st.floats(-8, 8), st.floats(1e-3, 1e3), st.floats(0.5, 6), st.floats(0, 4))
def test_residual_degree_is_that_of_the_sum_and_lies_between_its_limits(exponent, ratio, power, base):
    scale = 10.0**exponent
    degree = degree_of_residual(scale, ratio=ratio, branch_degree=power, stream_degree=base)
    assert base <= degree <= base + power
    assert degree == pytest.approx(
        degree_of_sum([base, base + power], [1.0, ratio * scale**power]), rel=1e-9, abs=1e-12
    )
    assert degree <= degree_of_residual(2 * scale, ratio=ratio, branch_degree=power, stream_degree=base) + 1e-12


@given(st.floats(0.1, 10), st.floats(-0.9, 3), st.floats(1.05, 3))
def test_residual_degree_moves_along_the_scale_as_if_measured_there(scale, ratio, factor):
    # a at another origin is a·c^k: changing the origin of the scale changes nothing
    if abs(1 + ratio * (scale * factor) ** 2) < 1e-3:
        return
    direct = degree_of_residual(scale * factor, ratio=ratio, branch_degree=2.0)
    moved = degree_of_residual(scale, ratio=ratio * factor**2, branch_degree=2.0)
    assert moved == pytest.approx(direct, rel=1e-9, abs=1e-12)


def test_residual_degree_survives_extreme_scales_and_broadcasts():
    ends = degree_of_residual([1e-300, 1e300], ratio=[[0.5], [-0.5]], branch_degree=4.0, stream_degree=2.0)
    assert ends == pytest.approx(np.array([[2, 6], [2, 6]]))
    assert degree_of_residual(3.0, ratio=0.0, branch_degree=2.0, stream_degree=1.0) == 1.0
    # near the pole the degree leaves the interval: parts of opposite signs
    assert degree_of_residual(1.0, ratio=-0.9, branch_degree=1.0) == pytest.approx(-9)


@given(st.lists(st.tuples(FINITE, st.floats(0.1, 5)), min_size=1, max_size=5))
def test_degree_of_a_sum_is_a_mean(pairs):
    degrees, parts = (np.array(column) for column in zip(*pairs, strict=True))
    degree = degree_of_sum(degrees, parts)
    assert degrees.min() - 1e-9 <= degree <= degrees.max() + 1e-9
    assert degree_of_sum(degrees[::-1], parts[::-1]) == pytest.approx(degree, abs=1e-9)
    assert degree_of_sum(degrees, 7 * parts) == pytest.approx(degree, abs=1e-9)


def test_zero_output_has_no_degree():
    assert np.isnan(euler_degree(lambda values: values * 0.0, [1.0, 2.0])).all()


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: degree_of_sequence(["linaer"]), "layers"),
        (lambda: degree_of_sequence([(1.0, 2.0, 3.0)]), "layers"),
        (lambda: degree_of_sequence([(1.0, np.nan)]), "layers"),
        (lambda: degree_of_sum([1.0, 2.0], [1.0, -1.0]), "parts"),
        (lambda: degree_of_sum([1.0, 2.0, 3.0], [1.0, 1.0]), "parts"),
        (lambda: degree_of_sum(["a"], [1.0]), "degrees"),
        (lambda: degree_of_residual(0.0, ratio=1.0, branch_degree=1.0), "scale"),
        (lambda: degree_of_residual(1.0, ratio=1.0, branch_degree=-1.0), "branch_degree"),
        (lambda: degree_of_residual(1.0, ratio=-1.0, branch_degree=1.0), "ratio"),
        (lambda: degree_of_residual([1.0, 2.0], ratio=[1.0, 1.0, 1.0], branch_degree=1.0), "scale"),
        (lambda: euler_degree(np.sum, [np.inf]), "weights"),
        (lambda: euler_degree(np.sum, [1.0], stencil=0.0), "stencil"),
        (lambda: euler_degree(lambda values: np.array("x"), [1.0]), "network"),
    ],
)
def test_bad_input_is_named(call, field):
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.field == field
