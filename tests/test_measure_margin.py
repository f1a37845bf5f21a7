"""Margins and accuracy, sample by sample."""

import numpy as np
import pytest

from gradflow import measure
from gradflow.diagonal import Diagonal
from gradflow.losses import CrossEntropy, Exponential, Logistic, Square
from gradflow.networks import DeepLinear, FullyConnected
from gradflow.problem import Problem


def binary(network, loss=None, n=9, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, network.input_size))
    y = np.sign(rng.standard_normal(n))
    return Problem(network, loss or Logistic(), x, y), rng.standard_normal(network.size)


def three_classes(loss, one_hot=lambda y: y, seed=0):
    rng = np.random.default_rng(seed)
    network = FullyConnected([4, 5, 3], "tanh", bias=True)
    x, y = rng.standard_normal((11, 4)), rng.integers(0, 3, 11)
    return Problem(network, loss, x, one_hot(y)), rng.standard_normal(network.size), y


@pytest.mark.parametrize("loss", [Logistic(), Exponential(), Square()])
def test_two_classes(loss):
    problem, theta = binary(FullyConnected([3, 4, 1], "relu"), loss)
    outputs, labels = problem.outputs(theta)[:, 0], problem.y[:, 0]
    expected = [y * f for y, f in zip(labels, outputs, strict=True)]
    np.testing.assert_allclose(measure.margins(problem, theta), expected, rtol=1e-14)
    assert measure.margin(problem, theta) == min(expected)
    assert measure.accuracy(problem, theta) == np.mean(np.sign(outputs) == labels)


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (CrossEntropy(), lambda y: y),
        (Square(), lambda y: np.eye(3)[y]),
        (Square(), lambda y: np.eye(3)[y] - 1 / 3),
    ],
)
def test_three_classes(loss, targets):
    problem, theta, y = three_classes(loss, targets)
    outputs = problem.outputs(theta)
    expected = [f[c] - max(f[e] for e in range(3) if e != c) for f, c in zip(outputs, y, strict=True)]
    np.testing.assert_allclose(measure.margins(problem, theta), expected, rtol=1e-14)
    assert measure.accuracy(problem, theta) == np.mean(outputs.argmax(1) == y)
    assert 0 < measure.accuracy(problem, theta) < 1


def test_a_tie_is_an_error():
    problem, _ = binary(FullyConnected([3, 4, 1], "relu"))
    assert measure.accuracy(problem, np.zeros(problem.size)) == 0
    assert np.isnan(measure.accuracy(problem, np.full(problem.size, np.nan)))


@pytest.mark.parametrize("by", ["layers", "theta"])
@pytest.mark.parametrize("network", [FullyConnected([3, 4, 4, 1], "relu"), DeepLinear([3, 4, 1]), Diagonal(3, 3)])
def test_scale_does_not_change_the_normalised_margin(network, by):
    problem, theta = binary(network)
    value = measure.normalised_margin(problem, theta, by)
    np.testing.assert_allclose(measure.normalised_margin(problem, 1.7 * theta, by), value, rtol=1e-12)
    assert abs(measure.margin(problem, 1.7 * theta) / measure.margin(problem, theta) - 1) > 0.1


def test_normalised_margin_of_each_kind():
    problem, theta = binary(DeepLinear([3, 4, 1]))
    w = problem.layers(theta)
    smallest = min(y * (w["W2"] @ w["W1"] @ x).item() for x, y in zip(problem.x, problem.y[:, 0], strict=True))
    product = np.sqrt((w["W1"] ** 2).sum()) * np.sqrt((w["W2"] ** 2).sum())
    np.testing.assert_allclose(measure.normalised_margin(problem, theta), smallest / product, rtol=1e-12)
    by_theta = measure.normalised_margin(problem, theta, by="theta")
    np.testing.assert_allclose(by_theta, smallest / (theta @ theta), rtol=1e-12)


def test_margin_over_the_norm_of_the_map_is_the_distance_from_the_hyperplane():
    problem, theta = binary(DeepLinear([3, 4, 1]))
    w = (problem.layers(theta)["W2"] @ problem.layers(theta)["W1"])[0]
    distances = problem.y[:, 0] * (problem.x @ w) / np.sqrt(w @ w)
    np.testing.assert_allclose(measure.margins(problem, theta, "map"), distances, rtol=1e-12)
    both = measure.normalised_margin(problem, np.stack([theta, 2 * theta]), by="map")
    np.testing.assert_allclose(both, distances.min(), rtol=1e-12)
    diagonal, theta = binary(Diagonal(3, 3))
    w = measure.effective_map(diagonal, theta)
    distances = diagonal.y[:, 0] * (diagonal.x @ w) / np.sqrt(w @ w)
    np.testing.assert_allclose(measure.margins(diagonal, theta, "map"), distances, rtol=1e-12)
    with pytest.raises(ValueError, match="linear networks only"):
        measure.margins(*binary(FullyConnected([3, 4, 1], "relu")), "map")


@pytest.mark.parametrize("by", ["layers", "theta"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_margins_without_the_scale_are_those_of_the_scaled_network(by, outputs):
    x, y = np.random.default_rng(1).standard_normal((7, 4)), np.arange(7) % 2
    problem = Problem(FullyConnected([4, 5, outputs]), Square(), x, np.eye(3)[y] if outputs == 3 else 2.0 * y - 1)
    theta = problem.init(seed=3)
    sizes = measure.layer_norms(problem, theta)
    one = theta / np.linalg.norm(theta) if by == "theta" else np.repeat(1 / sizes, [20, 5 * outputs]) * theta
    expected = measure.margins(problem, one)
    np.testing.assert_allclose(measure.margins(problem, theta, by), expected, rtol=1e-12)
    both = measure.margins(problem, np.stack([theta, 2 * theta]), by)
    np.testing.assert_allclose(both, [expected, expected], rtol=1e-12)


@pytest.mark.parametrize("function", [measure.margin, measure.margins, measure.accuracy, measure.normalised_margin])
def test_batch_is_one_by_one(function):
    for problem in (binary(FullyConnected([3, 4, 1], "relu"))[0], three_classes(CrossEntropy())[0]):
        batch = np.random.default_rng(4).standard_normal((3, problem.size))
        np.testing.assert_allclose(function(problem, batch), [function(problem, row) for row in batch], rtol=1e-13)


def test_held_out_accuracy():
    problem, theta = binary(FullyConnected([3, 4, 1], "relu"))
    x = np.random.default_rng(1).standard_normal((6, 3))
    held_out = problem.with_data(x, np.sign(problem.outputs(theta, x)[:, 0]))
    assert measure.accuracy(held_out, theta) == 1


def test_bad_input():
    regression = Problem(DeepLinear([2, 1]), Square(), np.eye(2), [0.3, 1.0])
    with pytest.raises(ValueError, match="needs labels -1 or"):
        measure.margins(regression, np.ones(2))
    matrix = Problem(DeepLinear([2, 3]), Square(), np.eye(2), [[0.1, 0.2, 0.3], [1, 0, 0]])
    with pytest.raises(ValueError, match="one-hot"):
        measure.accuracy(matrix, np.ones(6))
    problem, theta = binary(FullyConnected([3, 4, 1], "tanh"))
    with pytest.raises(ValueError, match="choose one of layers, theta"):
        measure.normalised_margin(problem, theta, by="norm")
    with pytest.raises(ValueError, match="homogeneous"):
        measure.normalised_margin(problem, theta, by="theta")
