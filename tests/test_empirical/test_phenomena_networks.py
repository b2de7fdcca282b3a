"""Detectors and measurements together, on networks trained here: the phenomena that theory promises, or their absence.

Small MLPs (and one ResNet) in float64 on 7×7 images, mostly full batch: what happens is then a property of gradient
descent on one function, and numbers in brackets are what one machine measured, inside the bounds asserted.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from empirical import MLP, Ensemble, data_stream
from empirical.law import degree_at_large_weights
from empirical.measure.degree import euler_degree
from empirical.measure.hessian import sharpness, top_eigenvalues
from empirical.measure.kernels import kernel_target_alignment, last_layer_kernel, ntk
from empirical.measure.modules import networks_of
from empirical.measure.record import Recorder, recorded_steps
from empirical.models.resnet import ResNet
from empirical.phenomena import (
    curve_collapse,
    detect_catapult,
    loss_power_law,
    plateau_exit,
    progressive_sharpening,
    silent_alignment,
    spectral_outliers,
)
from simulate.outcomes import Outcome

SIDE2, CLASSES = 49, 10


class Full:
    """The same batch at every step."""

    def __init__(self, x, y):
        self.batch = x, y

    def __call__(self, step):
        return self.batch

    def test_set(self):
        return self.batch


def images(n=32, seed=0):
    return data_stream("fashion-mnist-deformed", n, seed, size=7, dtype=torch.float64)(0)


def teacher(n=128, d=16):
    """Targets w·x of Gaussian x: one mode, white inputs."""
    return data_stream("teacher-linear", n, 0, size=d, dtype=torch.float64)(0)


def start_of(spec, gamma=1.0):
    return networks_of(spec.module(0), example_shape=spec.example_shape, rates=spec.rates(), gamma=gamma, seed=0)


def kernel_spectrum(networks, x):
    """Eigenvalues of the tangent kernel of f over n, ascending, shape ``(cells, n · classes)``."""
    kernel = ntk(networks, x)
    size = kernel.shape[1] * kernel.shape[2]
    values = np.linalg.eigvalsh(kernel.reshape(len(kernel), size, size))
    return values / len(x) / networks.gamma.numpy()[:, None] ** 2


def edge(spec, x):
    """η/γ² at which η·kernel/2 = 1 at θ₀."""
    return 2 / kernel_spectrum(start_of(spec), x)[0, -1]


def loss_on(x, y):
    return lambda networks: (networks.output(x) - y).square().sum(2).mean(1) / 2


def record(spec, gamma, eta, data, steps, at, **measurements):
    """Train on one batch for T steps; the record, and the results of the cells."""
    recorder = Recorder({"loss": loss_on(*data), **measurements})
    run = Ensemble(spec, gamma, eta, stream=lambda seed: Full(*data), dtype="float64")
    cells = run.run(steps, probe=recorder, probe_steps=at).cells
    return recorder.dataset(run), cells


# (a) catapults


def outcomes(gamma, rates):
    spec, data = MLP(2, 32, SIDE2, CLASSES), images()
    eta = edge(spec, data[0]) * gamma**2 / (1 + gamma) * np.asarray(rates)
    run = Ensemble(spec, np.full(len(eta), gamma), eta, stream=lambda seed: Full(*data), dtype="float64").run(200)
    labels = [Outcome(int(outcome)).label for outcome in run.cells.outcome]
    return labels, run.cells.peak_loss / run.cells.initial_loss


def test_above_the_edge_lazy_networks_are_catapulted_and_their_kernel_falls_below_it():
    spec, data = MLP(2, 32, SIDE2, CLASSES), images()
    gamma = np.array([0.01, 0.03])
    eta = 1.2 * edge(spec, data[0]) * gamma**2
    below = eta / 1.2 * 0.9
    at = range(0, 101, 4)
    top = lambda networks: kernel_spectrum(networks, data[0])[:, -1]  # noqa: E731
    runs, cells = record(spec, np.tile(gamma, 2), np.r_[eta, below], data, 100, at, kernel=top)
    found = [
        detect_catapult(
            runs.step.values, runs.loss[i], eta=float(runs.eta[i]), kernel=runs.kernel[i], peak_loss=cells.peak_loss[i]
        )
        for i in range(4)
    ]
    assert [c.present for c in found] == [True, True, False, False]
    for catapult in found[:2]:
        assert catapult.edge_before == pytest.approx(1.2)  # by the definition of the edge
        assert catapult.edge_after < 1
        # what grows above the edge shrinks below it: the peak is where the kernel passes it, within the points kept
        assert catapult.peak_low <= catapult.edge_step <= catapult.recovery_step
        assert catapult.edge_step - catapult.peak_high < 8
    for calm in found[2:]:
        assert calm.height == 1
        assert calm.kernel_ratio == pytest.approx(1, abs=0.05)


def test_catapults_are_higher_at_smaller_gamma_as_its_inverse_square():
    gamma = np.array([0.01, 0.03, 0.1])
    labels, heights = zip(*(outcomes(g, [1.5]) for g in gamma), strict=True)
    assert [label for (label,) in labels] == ["catapult"] * 3
    slope = np.polyfit(np.log(gamma), np.log(np.concatenate(heights)), 1)[0]
    assert slope == pytest.approx(-2, abs=0.4)  # [−2.19]: the peak is of order γ⁻² L₀


@pytest.mark.parametrize("gamma", [1.0, 10.0, 1000.0])
def test_rich_relu_networks_go_from_trained_to_diverged_without_catapult(gamma):
    labels, heights = outcomes(gamma, np.geomspace(0.5, 30, 20))
    edge_of_divergence = labels.index("diverged")
    assert edge_of_divergence > 3
    assert set(labels[:edge_of_divergence]) == {"trained"}
    assert set(labels[edge_of_divergence:]) == {"diverged"}
    assert heights[:edge_of_divergence].max() < 1.5


# (b) silent alignment


def aligned(spec, data, gamma, rate, steps):
    x, y = data
    gamma = np.asarray(gamma)
    eta = rate * edge(spec, x) * gamma**2 * (1 + gamma) ** (2 / spec.depth - 2)
    align = lambda networks: kernel_target_alignment(last_layer_kernel(networks, x), y, centered=True)  # noqa: E731
    runs, _ = record(spec, gamma, eta, data, steps, recorded_steps(steps, 40), alignment=align)
    return [silent_alignment(runs.step.values, runs.loss[i], runs.alignment[i]) for i in range(len(gamma))]


def test_rich_networks_align_before_the_loss_falls_when_there_is_one_mode():
    lazy, middle, rich, ultra_rich = aligned(MLP(3, 32, 16, 1), teacher(), [1e-3, 1.0, 100.0, 1000.0], 0.1, 1500)
    assert not lazy.determined  # the kernel does not move at all
    assert abs(lazy.rise) < 0.005
    assert middle.share < 0.2  # [0.04] kernel and loss move together
    assert middle.lead_low < 1
    assert rich.share > 0.6  # [0.85]
    assert ultra_rich.share > 0.85  # [0.94] of the rise is over when a tenth of the loss is
    assert min(rich.lead_low, ultra_rich.lead_low) > 1.5
    assert ultra_rich.share > rich.share


def test_alignment_is_not_silent_on_images_with_ten_classes():
    # modes are learned one by one there: while the loss is still flat the kernel turns to the first of them alone,
    # and is less aligned with all ten classes than at the start
    (rich,) = aligned(MLP(3, 32, SIDE2, CLASSES), images(), [100.0], 0.1, 1200)
    assert rich.determined
    assert rich.rise > 0.2
    assert rich.share < 0.1  # [−0.25]


# (c) sharpening and (f) collapse in τ, of the same runs


@cache
def deep_runs():
    spec, data = MLP(3, 32, SIDE2, CLASSES), images()
    gamma = np.array([1e-3, 1e2, 1e3, 1e4])
    eta = 0.2 * edge(spec, data[0]) * gamma**2 * (1 + gamma) ** (2 / 3 - 2)
    return record(
        spec, gamma, eta, data, 2500, recorded_steps(2500, 40),
        output=lambda networks: networks.output(data[0][:8]),
        sharpness=lambda networks: sharpness(networks, *data).sharpness,
    )[0]  # fmt: skip


def test_rich_networks_sharpen_and_lazy_ones_do_not():
    runs = deep_runs()
    curves = zip(runs.sharpness, runs.eta.values, strict=True)
    found = [progressive_sharpening(runs.step.values, curve, eta=float(eta)) for curve, eta in curves]
    lazy, *rich = found
    constant = runs.sharpness[0]
    assert float(constant.max() / constant.min()) - 1 < 2e-3  # [4·10⁻⁴]
    assert lazy.edge_start == pytest.approx(0.2, rel=2e-3)  # kernel and Hessian agree on where the edge is
    for sharpening in rich:
        assert sharpening.monotone_ratio > 10  # [37, 69, 142]
        assert sharpening.monotone_share > 0.9
    # end over start of trained networks: the scalar model's L γ^{1−2/L}, whose slope at L = 3 is 1/3
    assert (runs.loss[1:, -1] < 0.01 * runs.loss[1:, 0]).all()
    slope = np.polyfit(np.log([1e2, 1e3, 1e4]), np.log([sharpening.ratio for sharpening in rich]), 1)[0]
    assert slope == pytest.approx(1 / 3, abs=0.08)  # [0.29]


def test_raw_outputs_of_rich_networks_collapse_in_tau():
    runs = deep_runs().isel(cell=slice(1, None))
    steps, gamma, eta = runs.step.values, runs.gamma.values, runs.eta.values
    first = plateau_exit(steps, runs.loss[0], eta=eta[0], gamma=gamma[0])
    window = (0.0, 0.5 * first.tau)
    raw = [gamma[i] * runs.output.values[i].reshape(len(steps), -1) for i in range(3)]
    outputs = curve_collapse(steps, raw, eta=eta, gamma=gamma, window=window)
    assert outputs.determined
    assert outputs.window[1] > 0.8 * window[1]
    assert outputs.distance < 0.1  # [0.06] at equal τ
    assert outputs.distance_before > 3  # at equal t
    assert outputs.gain > 100
    # f = (F − F₀)/γ does not: there the same curves are apart by the ratio of their γ
    centred = curve_collapse(steps, list(raw / gamma[:, None, None]), eta=eta, gamma=gamma, window=window)
    assert centred.distance > 50


# (d) outliers


def top_of_spectrum(shift, loss, gamma=1e-4, width=64):
    x, y = images(64)
    networks = start_of(MLP(2, width, SIDE2, CLASSES), gamma)
    found = top_eigenvalues(networks, x + shift, y, 40, loss=loss)
    assert bool(found.converged.all())
    return found.values[0].numpy(), kernel_spectrum(networks, x + shift)[0, ::-1][:40]


def test_the_lazy_hessian_is_the_tangent_kernel():
    # MSE: H = Jᵀ J/n + a term of order γ, whose eigenvalues are those of K/(nγ²); two programs share the networks only
    hessian, kernel = top_of_spectrum(0.0, "mse")
    np.testing.assert_allclose(hessian, kernel, rtol=1e-4)  # [9·10⁻⁶]; residuals are below 10⁻⁴


@pytest.mark.parametrize(("loss", "expected"), [("mse", CLASSES), ("cross-entropy", CLASSES - 1)])
def test_a_lazy_hessian_has_an_outlier_a_class_when_inputs_have_a_mean(loss, expected):
    # the mean feature gives every class the same large eigenvalue; the Hessian of the cross-entropy in f annihilates
    # the vector of ones, which takes one of them away
    found = spectral_outliers(top_of_spectrum(3.0, loss)[0])
    assert found.count == expected
    assert found.gap > 1


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_centred_inputs_leave_no_outliers(loss):
    # the mean of ReLU features and the first principal component of the images then have kernels of one size
    assert spectral_outliers(top_of_spectrum(0.0, loss)[0]).count == 0


# (e) plateaus


def exits(spec, gamma, rate, steps):
    data = images()
    eta = rate * edge(spec, data[0]) * gamma ** (2 / spec.depth)
    run = Ensemble(spec, gamma, eta, stream=lambda seed: Full(*data), dtype="float64")
    kept = np.arange(0, steps, 2)
    curves = run.run(steps, kept).loss_curve
    found = [plateau_exit(kept, curve, eta=e, gamma=g) for curve, e, g in zip(curves, eta, gamma, strict=True)]
    return np.array([each.tau for each in found]), eta / gamma, data


def test_two_layers_leave_the_plateau_at_a_time_that_grows_with_ln_gamma_at_the_rate_of_the_data():
    # linear network: weights grow by 1 + s η/γ a step along the first singular direction of yᵀx/n, and F by its square
    spec = MLP(2, 32, SIDE2, CLASSES, "linear")
    tau, pace, (x, y) = exits(spec, np.geomspace(1e2, 1e10, 9), 0.05, 1200)
    first = np.linalg.svd((y.T @ x / len(x)).numpy(), compute_uv=False)[0]
    growth = first * np.sqrt(np.prod(list(spec.rates().values())))
    expected = np.log(10) / 2 / np.log1p(growth * pace[-1]) * pace[-1]
    decades = np.diff(tau)
    assert decades[-1] == pytest.approx(expected, rel=2e-3)  # [2·10⁻⁴]
    assert (np.diff(decades) < 0).all()  # from above: other modes have to die out against the first


def test_three_layers_leave_it_at_a_tau_that_no_longer_depends_on_gamma():
    tau, _, _ = exits(MLP(3, 32, SIDE2, CLASSES), np.geomspace(1e2, 1e6, 5), 0.2, 4000)
    decades = np.diff(tau)
    assert (decades > 0).all()
    # τ(γ) = τ* (1 − (1 + γf)^{−1/3}): a decade moves it by less than 10^{−1/3} = 0.46 of what the last one did
    assert (decades[1:] / decades[:-1] < 0.5).all()  # [0.41, 0.40, 0.37]
    assert tau[-1] / tau[-2] < 1.02


# (g) power laws


def power_data(d=60):
    """x_k of variance k⁻² along axis k, one example each, and labels of size k⁻¹."""
    k = np.arange(1, d + 1)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((d, d)))[0]
    return torch.tensor(np.diag(np.sqrt(d) / k) @ turn.T), torch.tensor(np.sqrt(d) / k)[:, None]


def test_exponent_of_a_lazy_network_is_that_of_its_kernel():
    x, y = power_data()
    spec = MLP(2, 256, len(x), 1)
    kernel = ntk(start_of(spec), x)[0][:, 0, :, 0] / len(x)
    values, vectors = np.linalg.eigh(kernel)
    rate = 1 / values[-1]
    kept = np.unique(np.geomspace(1, 1000, 150).astype(int)) - 1
    run = Ensemble(spec, [1e-4], [rate * 1e-8], stream=lambda seed: Full(x, y), dtype="float64")
    trained = loss_power_law(kept, run.run(1000, kept).loss_curve[0])
    parts = (vectors.T @ y.numpy()[:, 0]) ** 2
    expected = loss_power_law(kept, [(parts * (1 - rate * values) ** (2 * t)).sum() / 2 / len(x) for t in kept])
    assert trained.determined
    assert trained.r2 > 0.999
    assert trained.exponent == pytest.approx(expected.exponent, rel=1e-3)


def test_rich_networks_learn_images_by_a_steeper_power_law_than_lazy_ones():
    spec = MLP(2, 64, SIDE2, CLASSES)
    stream = data_stream("fashion-mnist-deformed", 32, 0, size=7)
    x, y = (part[:1000].double() for part in stream.test_set())
    gamma = np.array([1e-3, 1.0])
    eta = 0.2 * edge(spec, images()[0]) * gamma**2 / (1 + gamma)
    recorder = Recorder({"loss": loss_on(x, y)})  # of the same examples all along: no noise of batches
    run = Ensemble(spec, gamma, eta, stream=lambda seed: stream)
    run.run(2000, probe=recorder, probe_steps=recorded_steps(2000, 60))
    curves = recorder.dataset(run)
    lazy, rich = (loss_power_law(curves.step.values, curve) for curve in curves.loss)
    assert lazy.determined
    assert rich.determined
    assert lazy.interval[0] > 0
    assert rich.interval[0] > lazy.interval[1]  # [0.080 ± 0.006 and 0.052 ± 0.006]


def test_a_batch_learned_by_heart_follows_no_power_law():
    spec, data = MLP(2, 64, SIDE2, CLASSES), images(64)
    kept = np.unique(np.geomspace(1, 2000, 120).astype(int)) - 1
    eta = 0.9 * edge(spec, data[0]) * 1e-10
    run = Ensemble(spec, [1e-5], [eta], stream=lambda seed: Full(*data), dtype="float64").run(2000, kept)
    assert run.loss_curve[0, -1] < 1e-2 * run.loss_curve[0, 0]
    assert not loss_power_law(kept, run.loss_curve[0]).determined


# (h) Euler degree


def test_the_degree_of_a_residual_network_settles_as_its_weights_grow():
    spec, (x, y) = ResNet(1, 4, (1, 7, 7), CLASSES), images()
    limit = degree_at_large_weights(spec)
    assert limit == pytest.approx(4, abs=0.02)  # 2 + 2B
    gamma = np.array([10.0, 1000.0])
    eta = 0.3 * edge(spec, x[:16]) * np.sqrt(gamma)
    recorder = Recorder({"degree": lambda networks: euler_degree(networks, x[:16]), "loss": loss_on(x, y)})
    run = Ensemble(
        spec, gamma, eta, stream=lambda seed: Full(x, y)
    )  # float32: thousands of steps, and D is no difference
    run.run(1500, probe=recorder, probe_steps=recorded_steps(1500, 16))
    curves = recorder.dataset(run)
    middle, rich = curves.degree.values
    assert (curves.loss[:, -1] < 0.95 * curves.loss[:, 0]).all()
    assert middle[0] == rich[0] < 3.2  # far from the limit at the start
    assert abs(rich[-1] - limit) < 0.1  # [0.03]
    assert abs(middle[-1] - limit) > 2 * abs(rich[-1] - limit)  # weights of γ = 10 grow less
    assert abs(rich[-1] - rich[-2]) < 0.05 * (rich[-1] - rich[0])
