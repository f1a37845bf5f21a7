"""The log of a loss, its gradient and Hessian: against torch, against the loss itself, against many digits."""

import mpmath
import numpy as np
import pytest
from cases import NETWORKS, make, start
from numpy.testing import assert_allclose

import gradflow as gf

LABELLED = {
    "exponential": gf.losses.Exponential(),
    "exponential sum": gf.losses.Exponential("sum"),
    "logistic": gf.losses.Logistic(),
    "square": gf.losses.Square(),
}
FAMILIES = (
    "deep linear",
    "one layer",
    "identity skip",
    "residual",
    "tanh",
    "relu",
    "relu squared",
    "diagonal",
    "diagonal, unsigned",
)


@pytest.mark.parametrize("loss", LABELLED)
@pytest.mark.parametrize("network", FAMILIES)
def test_log_of_the_loss_agrees_with_the_loss(network, loss):
    problem = make(network, LABELLED[loss])
    theta = start(problem)
    log_value, log_gradient = problem.log_value_and_gradient(theta)
    value, gradient = problem.value_and_gradient(theta)
    assert_allclose(log_value, np.log(value), rtol=1e-13, atol=1e-14)
    assert_allclose(log_gradient, gradient / value, rtol=1e-12, atol=1e-13 * np.abs(gradient / value).max())


@pytest.mark.parametrize("n", range(1, 18))
def test_every_number_of_samples(n):
    for loss, network in ((gf.losses.CrossEntropy(), gf.FullyConnected([3, 4, 3], "tanh")), ("logistic", "tanh")):
        problem = make(network, loss, n=n)
        theta = start(problem)
        assert_allclose(problem.log_value_and_gradient(theta)[0], np.log(problem.value(theta)), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("loss", [*LABELLED, "cross-entropy"])
@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
def test_hessian_of_the_log_agrees_with_torch(loss, scale):
    network = gf.FullyConnected([3, 4, 3 if loss == "cross-entropy" else 1], "tanh", bias=True)
    problem = make(network, LABELLED.get(loss, gf.losses.CrossEntropy("sum")))
    torch = gf.Problem(
        network, problem.loss, problem.x, problem.y if loss != "cross-entropy" else problem.y.argmax(1), backend="torch"
    )
    theta, v = start(problem, scale=scale), np.random.default_rng(2).normal(size=problem.size)
    value, gradient = torch.log_value_and_gradient(theta)
    assert_allclose(problem.log_value_and_gradient(theta)[0], value, rtol=1e-12, atol=1e-13)
    assert_allclose(problem.log_value_and_gradient(theta)[1], gradient, rtol=1e-9, atol=1e-12 * np.abs(gradient).max())
    expected = torch.log_hvp(theta, v)
    assert_allclose(problem.log_hvp(theta, v), expected, rtol=1e-9, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("network", ["deep linear", "diagonal", "tanh", "relu squared"])
def test_hessian_of_the_log_agrees_with_differences_of_the_gradient(network):
    problem = make(network, "logistic")
    theta, v, step = start(problem), np.random.default_rng(2).normal(size=problem.size), 1e-6
    ahead, behind = (problem.log_value_and_gradient(theta + sign * step * v)[1] for sign in (1, -1))
    product = problem.log_hvp(theta, v)
    assert_allclose(product, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-7 * np.abs(product).max())


@pytest.mark.parametrize("margin", [-100.0, -30.5, -5.0, 0.3, 12.0, 25.0, 29.9, 30.1, 40.0, 800.0, 1e7])
def test_logistic_margins_keep_all_their_digits(margin):
    problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Logistic(), [[1.0]], [1])
    value, gradient = problem.log_value_and_gradient(np.array([margin]))
    with mpmath.workdps(60):
        wrong, loss = 1 / (1 + mpmath.exp(margin)), mpmath.log1p(mpmath.exp(-mpmath.mpf(margin)))
        exact = [float(mpmath.log(loss)), float(-wrong / loss), float(wrong / loss * (1 - wrong - wrong / loss))]
    assert_allclose([value, gradient[0]], exact[:2], rtol=4e-16)
    assert_allclose(problem.log_hvp(np.array([margin]), np.ones(1))[0], exact[2], rtol=1e-15, atol=1e-16)


def test_weights_of_samples_far_below_the_largest_do_no_harm():
    problem = gf.Problem(gf.DeepLinear([2, 3]), gf.losses.CrossEntropy(), [[1.0, 0.0], [0.0, 1.0]], [0, 1])
    theta = np.array([300.0, -600.0, -400.0, 715.0, 100.0, 0.0])
    assert np.isfinite(problem.log_hvp(theta, np.ones(6))).all()
    assert_allclose(problem.log_value_and_gradient(theta)[0], -200.0 - np.log(2.0), rtol=1e-15)


def test_a_loss_of_1e_minus_10000_is_an_ordinary_number():
    problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Exponential(), [[1.0], [1.0]], [1, 1])
    value, gradient = problem.log_value_and_gradient(np.array([1e4 * np.log(10.0)]))
    assert_allclose(value, -1e4 * np.log(10.0), rtol=1e-15)
    assert gradient.tolist() == [-1.0]


def test_square_residuals_down_to_1e_minus_200_have_a_logarithm():
    problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(half=True), [[1.0]], [[0.0]])
    value, gradient = problem.log_value_and_gradient(np.array([1e-200]))
    assert_allclose(value, np.log(0.5) - 400.0 * np.log(10.0), rtol=1e-15)
    assert_allclose(gradient, [2e200], rtol=1e-14)
    assert_allclose(problem.log_hvp(np.array([1e-100]), np.ones(1)), [-2e200], rtol=1e-13)


def test_a_batch_of_parameters_and_many_samples():
    problem = make(NETWORKS["tanh"], "exponential", n=700)
    thetas = np.stack([start(problem, seed) for seed in range(3)])
    values, gradients = problem.log_value_and_gradient(thetas)
    assert_allclose(values, np.log(problem.value(thetas)), rtol=1e-12)
    assert gradients.shape == problem.log_hvp(thetas, thetas).shape == thetas.shape


def test_decay_has_no_logarithm():
    problem = make("tanh", "exponential", decay=0.1)
    with pytest.raises(ValueError, match="decay = 0.1"):
        problem.log_value_and_gradient(start(problem))
