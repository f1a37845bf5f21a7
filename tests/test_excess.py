"""The excess of the square loss over the least-squares minimum keeps its digits far below the rounding of the loss."""

import mpmath
import numpy as np
import pytest
from numpy.testing import assert_allclose

import gradflow as gf

SQUARE = gf.losses.Square()
X = np.random.default_rng(0).normal(size=(12, 4))
Y = np.random.default_rng(1).normal(size=(12, 3))
NETWORKS = [
    gf.DeepLinear([4, 3]),
    gf.DeepLinear([4, 5, 3, 3]),
    gf.DeepLinear([4, 5, 4, 3], skips=[gf.Skip(0, 2), gf.Skip(1, 3, "linear")]),
    gf.ResidualLinear(2, 4, readout=3),
    gf.ResidualLinear(2, 4, readout=np.eye(4)[:3] + 0.1),
]


def exact_excess(network, layers, x, y):
    """Loss minus least-squares minimum in 80 digits."""
    with mpmath.workdps(80):
        values = [mpmath.matrix(x.tolist())]
        for number, stage in enumerate(network.stages, 1):
            weight = layers[f"W{number}"] if stage.trained else network.fixed[f"W{number}"]
            a = values[-1] * mpmath.matrix(weight.tolist()).T
            if stage.identity_from >= 0:
                a += values[stage.identity_from]
            if stage.linear_from >= 0:
                a += values[stage.linear_from] * mpmath.matrix(layers[f"U{number}"].tolist()).T
            values.append(a)
        x, y = values[0], mpmath.matrix(y.tolist())
        best = x * (mpmath.inverse(x.T * x) * (x.T * y))
        return float(sum(e**2 for e in values[-1] - y) / x.rows - sum(e**2 for e in best - y) / x.rows)


def near_minimum(problem, seed, distance):
    """A point at a distance from a minimum, found by Gauss-Newton steps; outputs are linear in each single weight."""
    rng = np.random.default_rng(seed)
    theta = 0.7 * rng.normal(size=problem.size)
    for _ in range(60):
        slopes = np.stack([problem.outputs(theta + h) - problem.outputs(theta - h) for h in np.eye(theta.size)])
        residual = problem.outputs(theta) - problem.y
        step = np.linalg.lstsq(slopes.reshape(theta.size, -1).T / 2, residual.ravel(), rcond=1e-6)[0]
        theta = theta - step * min(1.0, 0.5 / np.linalg.norm(step))
    return theta + distance * rng.normal(size=theta.size)


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_excess_of_1e_minus_25_has_ten_digits(network):
    problem = gf.Problem(network, SQUARE, X, Y)
    theta = near_minimum(problem, 2, 1e-13)
    exact = exact_excess(network, problem.layers(theta), X, Y)
    assert 1e-27 < exact < 1e-23
    assert_allclose(problem.excess_loss(theta), exact, rtol=1e-10)


def test_excess_is_the_difference_of_losses_where_that_has_digits():
    problem = gf.Problem(gf.DeepLinear([4, 5, 3]), gf.losses.Square("sum", half=True), X, Y)
    theta = np.stack([problem.init(scale) for scale in (0.1, 1.0)])
    least = 0.5 * np.square(Y - X @ np.linalg.lstsq(X, Y)[0]).sum()
    assert_allclose(problem.excess_loss(theta), problem.value(theta) - least, rtol=1e-12)


def test_excess_with_more_inputs_than_samples_is_the_loss():
    problem = gf.Problem(gf.DeepLinear([4, 5, 3]), SQUARE, X[:3], Y[:3])
    theta = problem.init(1.0)
    assert_allclose(problem.excess_loss(theta), problem.value(theta), rtol=1e-13)


def test_excess_of_a_diagonal_network_is_that_of_its_weights():
    problem = gf.Problem(gf.Diagonal(4, 3), SQUARE, X, Y[:, :1])
    theta = problem.init(1.0, seed=5)
    u, v = theta.reshape(2, 4)
    linear = gf.Problem(gf.DeepLinear([4, 1]), SQUARE, X, Y[:, :1])
    assert_allclose(problem.excess_loss(theta), linear.excess_loss(u**3 - v**3), rtol=1e-12)


def test_a_run_stops_at_an_excess_that_the_loss_cannot_show():
    x, y = np.array([[1.0], [1.0]]), np.array([[0.0], [1.0]])
    problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(half=True), x, y)
    run = gf.simulate(problem, [0.0], gf.GradientFlow(), 60.0, stop=gf.ExcessLossBelow(1e-25), rtol=1e-10)
    assert run.status == gf.Status.LOSS_BELOW
    assert_allclose(run.t_end, np.log(0.5 / np.sqrt(2e-25)), rtol=1e-3)
    assert_allclose(problem.excess_loss(run.end), 1e-25, rtol=1e-3)


@pytest.mark.parametrize(
    ("network", "options", "reason"),
    [
        (gf.DeepLinear([4, 2, 3]), {}, "bottleneck below 3"),
        (gf.FullyConnected([4, 5, 3], "tanh"), {}, "not linear"),
        (gf.FullyConnected([4, 5, 3], "linear", bias=True), {}, "not linear"),
        (gf.DeepLinear([4, 3]), {"decay": 0.1}, "decay = 0.1"),
        (gf.ResidualLinear(1, 4, readout=np.ones((3, 4))), {}, "does not reach all outputs"),
    ],
    ids=str,
)
def test_unknown_minima_are_refused(network, options, reason):
    problem = gf.Problem(network, SQUARE, X, Y, **options)
    with pytest.raises(ValueError, match=reason):
        problem.excess_loss(problem.init(1.0))
    with pytest.raises(ValueError, match=reason):
        gf.simulate(problem, problem.init(1.0), gf.GradientFlow(), 1.0, stop=gf.ExcessLossBelow(1e-9))
