"""Closed forms of minima and stationary states, against minimisers, Hessians and long runs."""

import numpy as np
import pytest

import gradflow as gf


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("size", [1.0, 2.0])
def test_balanced_minimum_has_the_stated_sharpness_and_none_is_flatter(depth, size):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((20, 4)), rng.standard_normal(4)
    w *= size / np.linalg.norm(w)
    problem = gf.Problem(gf.DeepLinear([4] * depth + [1]), gf.losses.Square(), x, x @ w)
    minima = gf.exact.flat_minima(x, w, depth)
    layers, root = {}, size ** (1 / depth)
    units = [w / size, *(v / np.linalg.norm(v) for v in rng.standard_normal((depth - 1, 4))), np.ones(1)]
    for k in range(depth):
        layers[f"W{k + 1}"] = root * np.outer(units[k + 1], units[k])
    theta = problem.flatten(layers)
    assert np.linalg.eigvalsh(problem.hessian(theta))[-1] == pytest.approx(minima.balanced, rel=1e-10)
    assert minima.bound <= minima.balanced
    layers["W1"], layers["W2"] = 1.2 * layers["W1"], layers["W2"] / 1.2
    assert np.linalg.eigvalsh(problem.hessian(problem.flatten(layers)))[-1] >= minima.bound


def test_ridge_noise_is_that_of_a_long_run():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((5, 2)), rng.standard_normal(5)
    exact = gf.exact.sgd_ridge(x, y, decay=0.1, step=0.02)
    problem = gf.Problem(gf.DeepLinear([2, 1]), gf.losses.Square(), x, y, decay=0.1)
    rule = gf.SGD(0.02, batch_size=1, replacement=True, seed=0)
    run = gf.simulate(problem, exact.mean, rule, t_end=4000.0, save_at=0.02 * np.arange(200_001))
    spread = run.theta - exact.mean
    assert spread.mean(0) == pytest.approx(0, abs=0.02)
    assert np.cov(run.theta.T) == pytest.approx(exact.covariance, rel=0.1, abs=3e-3)
    with pytest.raises(ValueError, match="no stationary covariance"):
        gf.exact.sgd_ridge(x, y, decay=0.1, step=2.0)


def test_separable_minimum_is_not_beaten_by_any_network():
    rng = np.random.default_rng(2)
    inputs = np.abs(rng.standard_normal((8, 3)))
    y = np.tile([1.0, -1.0], 4)
    x = y[:, None] * inputs
    minimum = gf.exact.separable_relu(x, y, decay=0.1)
    loss = minimum.loss
    for _ in range(200):
        w = minimum.weights + 0.1 * rng.standard_normal((2, 3))
        outputs = np.maximum(x @ w[0], 0) - np.maximum(-x @ w[1], 0)
        assert ((y - outputs) ** 2).mean() + 0.1 * np.linalg.norm(w, axis=1).sum() ** 2 >= loss - 1e-12
    with pytest.raises(ValueError, match="not orthogonally separable"):
        gf.exact.separable_relu([[1.0, 0.0], [1.0, 0.1]], [1.0, -1.0], 0.1)


@pytest.mark.parametrize("loss", [gf.losses.Square(), gf.losses.Square("sum"), gf.losses.Logistic()])
def test_sample_gradients_average_to_the_gradient(loss):
    rng = np.random.default_rng(3)
    problem = gf.Problem(
        gf.FullyConnected([3, 4, 1], activation="tanh"), loss, rng.standard_normal((6, 3)), np.tile([1.0, -1.0], 3),
        decay=0.2,
    )  # fmt: skip
    theta = rng.standard_normal((2, problem.size))
    rows = gf.measure.sample_gradients(problem, theta)
    assert rows.shape == (2, 6, problem.size)
    assert rows.mean(1) == pytest.approx(problem.gradient(theta), abs=1e-13)
    noise = gf.measure.gradient_noise(problem, theta)
    assert noise.sum(1) == pytest.approx((rows**2).sum(2).mean(1), rel=1e-13)
    assert (gf.measure.gradient_noise_floor(problem, theta) <= noise[:, 0]).all()


def test_the_floor_of_the_noise_is_attained_by_the_best_errors():
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((5, 3)), rng.standard_normal(3)
    problem = gf.Problem(gf.DeepLinear([3, 1]), gf.losses.Square(), x, np.zeros(5), decay=0.3)
    # delta_i x_i + 2 lambda w is shortest for delta_i = -2 lambda w.x_i / |x_i|^2, the errors of these targets:
    problem = problem.with_data(x, x @ w * (1 + 0.3 / (x**2).sum(1)))
    assert gf.measure.gradient_noise(problem, w)[0] == pytest.approx(gf.measure.gradient_noise_floor(problem, w))
    assert gf.measure.gradient_noise(problem, 1.1 * w)[0] > 1.001 * gf.measure.gradient_noise_floor(problem, 1.1 * w)


@pytest.mark.parametrize("flow", [gf.GradientFlow(), gf.LMFlow(decay=0.05)])
def test_the_objective_falls_by_what_is_dissipated(flow):
    x, y = gf.data.separable(n=10, d=3, margin=0.5, seed=0)
    problem = gf.Problem(gf.DeepLinear([3, 4, 1]), gf.losses.Square(), x, y)
    run = gf.simulate(problem, problem.init(1.0), flow, t_end=3.0, rtol=1e-12, save_at=20_001)
    assert run.loss[0] - run.loss[-1] == pytest.approx(gf.measure.dissipation(run), rel=1e-9)
    with pytest.raises(TypeError, match="discrete rule"):
        gf.measure.dissipation(gf.simulate(problem, problem.init(1.0), gf.GD(0.1), t_end=1.0))
