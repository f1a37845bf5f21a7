"""Neural collapse: zero at an exact simplex, the definitions elsewhere, and reached by minimising."""

import numpy as np
import pytest
from scipy.optimize import minimize

from gradflow import measure
from gradflow.losses import CrossEntropy, Logistic, Square
from gradflow.modules import Convolutional
from gradflow.networks import DeepLinear, FullyConnected, ResidualLinear
from gradflow.problem import Problem

ALL = (measure.nc1, measure.nc2, measure.nc3, measure.nc4)


def collapsed(classes, copies=2):
    """Inputs are class indicators; features a rotated simplex plus an offset; the read-out its transpose."""
    rng = np.random.default_rng(0)
    network = DeepLinear([classes, classes + 2, classes])
    y = np.repeat(np.arange(classes), copies)
    problem = Problem(network, CrossEntropy(), np.eye(classes)[y], y)
    rotation = np.linalg.qr(rng.standard_normal((classes + 2, classes)))[0]
    simplex = rotation @ (np.eye(classes) - 1 / classes)
    offset = rng.standard_normal((classes + 2, 1))
    readout = 3 * simplex.T + rng.standard_normal((1, classes + 2))
    return problem, problem.flatten({"W1": 2 * simplex + offset, "W2": readout})


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_zero_at_a_simplex(classes):
    problem, theta = collapsed(classes)
    for function in ALL[:3]:
        assert abs(function(problem, theta)) < 1e-14
    plain = problem.flatten({"W1": np.eye(classes + 2, classes), "W2": np.eye(classes, classes + 2)})
    assert [round(function(problem, plain), 14) for function in ALL] == [0, 0, 0, 0]


def test_against_the_definitions():
    rng = np.random.default_rng(1)
    network = FullyConnected([4, 6, 5, 3], "relu", bias=True)
    y = np.repeat(np.arange(3), [4, 7, 5])
    problem, theta = (
        Problem(network, CrossEntropy(), rng.standard_normal((16, 4)), y),
        rng.standard_normal(network.size),
    )
    w = problem.layers(theta)
    relu = lambda z: np.maximum(z, 0)  # noqa: E731
    h = [relu(w["W2"] @ relu(w["W1"] @ x + w["b1"]) + w["b2"]) for x in problem.x]
    np.testing.assert_allclose(measure.features(problem, theta), h, rtol=1e-12)
    means = [np.mean([v for v, c in zip(h, y, strict=True) if c == e], axis=0) for e in range(3)]
    middle = sum(means) / 3
    within = np.mean([np.sum((v - means[c]) ** 2) for v, c in zip(h, y, strict=True)])
    between = np.mean([np.sum((m - middle) ** 2) for m in means])
    np.testing.assert_allclose(measure.nc1(problem, theta), within / between, rtol=1e-12)
    b = [m - middle for m in means]
    cosines = [b[i] @ b[j] / np.sqrt(b[i] @ b[i] * (b[j] @ b[j])) for i in range(3) for j in range(i)]
    np.testing.assert_allclose(measure.nc2(problem, theta), max(abs(c + 1 / 2) for c in cosines), rtol=1e-12)
    readout = w["W3"] - sum(w["W3"]) / 3
    b = np.array(b)
    expected = np.sqrt(np.sum((readout / np.sqrt(np.sum(readout**2)) - b / np.sqrt(np.sum(b**2))) ** 2))
    np.testing.assert_allclose(measure.nc3(problem, theta), expected, rtol=1e-12)
    chosen = problem.outputs(theta).argmax(1)
    nearest = [int(np.argmin([np.sum((v - m) ** 2) for m in means])) for v in h]
    assert measure.nc4(problem, theta) == np.mean(chosen != nearest)
    assert 0 < measure.nc4(problem, theta) < 1


@pytest.mark.parametrize("centred", [False, True])
def test_unconstrained_features_collapse_at_the_minimum(centred):
    """Orthonormal inputs, two linear layers, square loss with decay: collapse at the minimum, from a random start.

    18 samples of 3 classes; per-layer decay mu acts on the map as 2 mu times its nuclear norm, so each singular
    value s sqrt(6) of the map shrinks: s = 1 - 18 mu / sqrt(6) for the loss with the mean over samples.
    """
    decay, y = 1e-3, np.repeat(np.arange(3), 6)
    targets = np.eye(3)[y] - centred / 3
    problem = Problem(DeepLinear([18, 10, 3]), Square(), np.eye(18), targets, decay=decay)
    start = problem.init(1.0, seed=1)
    assert min(measure.nc1(problem, start), measure.nc2(problem, start), measure.nc3(problem, start)) > 0.1
    options = {"gtol": 1e-11, "ftol": 0, "maxiter": 5000, "maxcor": 50}
    theta = minimize(problem.value_and_gradient, start, jac=True, method="L-BFGS-B", options=options).x
    assert measure.gradient_norm(problem, theta) < 1e-8
    shrunk = (1 - 18 * decay / np.sqrt(6)) * targets
    np.testing.assert_allclose(problem.outputs(theta), shrunk, atol=1e-6)
    assert measure.nc1(problem, theta) < 1e-10
    assert measure.nc2(problem, theta) < 1e-5
    assert measure.nc3(problem, theta) < 1e-5
    assert measure.nc4(problem, theta) == 0


def test_one_output_counts_as_two_classes():
    """The same as the network with the two outputs -f and f."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((9, 3)), np.where(np.arange(9) < 4, -1, 1)
    one = Problem(FullyConnected([3, 5, 1], "tanh"), Logistic(), x, y)
    two = Problem(FullyConnected([3, 5, 2], "tanh"), CrossEntropy(), x, (y + 1) // 2)
    theta = rng.standard_normal(one.size)
    w = one.layers(theta)
    doubled = two.flatten({"W1": w["W1"], "W2": np.vstack([-w["W2"], w["W2"]])})
    for function in ALL:
        np.testing.assert_allclose(function(one, theta), function(two, doubled), rtol=1e-12, atol=1e-15)
    assert measure.nc2(one, theta) < 1e-14


def test_a_fixed_readout():
    rng = np.random.default_rng(3)
    readout = rng.standard_normal((3, 4))
    y = np.repeat(np.arange(3), 3)
    x = rng.standard_normal((9, 4))
    fixed = Problem(ResidualLinear(1, 4, readout=readout), CrossEntropy(), x, y)
    trained = Problem(ResidualLinear(1, 4, readout=3), CrossEntropy(), x, y)
    w1 = rng.standard_normal((4, 4))
    theta = trained.flatten({"W1": w1, "W2": readout})
    for function in ALL:
        np.testing.assert_allclose(function(fixed, w1.ravel()), function(trained, theta), rtol=1e-12)


def test_all_four_at_once():
    problem, theta = collapsed(3)
    theta = theta + np.random.default_rng(5).standard_normal((2, theta.size))
    assert np.array_equal(measure.collapse(problem, theta), np.stack([f(problem, theta) for f in ALL], axis=1))


@pytest.mark.parametrize("function", [*ALL, measure.collapse, measure.features])
def test_batch_is_one_by_one(function):
    problem, _ = collapsed(3)
    batch = np.random.default_rng(4).standard_normal((3, problem.size))
    np.testing.assert_allclose(
        function(problem, batch), np.stack([function(problem, row) for row in batch]), rtol=1e-12
    )
    assert np.isnan(function(problem, np.full(problem.size, np.nan))).all()


def test_bad_input():
    missing = Problem(DeepLinear([3, 4, 3]), CrossEntropy(), np.eye(3), [0, 0, 2])
    with pytest.raises(ValueError, match="class 1 has no samples"):
        measure.nc1(missing, np.ones(24))
    flat = Problem(DeepLinear([3, 3]), CrossEntropy(), np.eye(3), [0, 1, 2])
    with pytest.raises(ValueError, match="no hidden layers"):
        measure.nc1(flat, np.ones(9))
    conv = Problem(Convolutional((1, 4, 4), [2], 2, outputs=2), CrossEntropy(), np.ones((2, 16)), [0, 1])
    with pytest.raises(ValueError, match="no hidden layers"):
        measure.features(conv, np.ones(conv.size))
    regression = Problem(DeepLinear([2, 2, 1]), Square(), np.eye(2), [0.5, 1.0])
    with pytest.raises(ValueError, match="labels"):
        measure.nc1(regression, np.ones(6))
