"""Problems whose late phase or first plateau is known in numbers."""

import numpy as np

import gradflow as gf

FLOW = gf.GradientFlow()
LN10 = np.log(10.0)


def deep_linear():
    """Deep linear net 4-6-5-1 on separable data, exponential loss (mean)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 20))
    v = np.array([1.0, -1.0, 0.5, 0.0])
    y = np.sign(v @ x)
    x = x + 0.3 * np.outer(v / np.linalg.norm(v), y)
    widths = [4, 6, 5, 1]
    layers = [rng.normal(size=(a, b)) / np.sqrt(b) for a, b in zip(widths[1:], widths[:-1], strict=True)]
    problem = gf.Problem(gf.DeepLinear(widths), gf.losses.Exponential(), x.T, y)
    return problem, np.concatenate([layer.ravel() for layer in layers])


def tanh_logistic():
    """Tanh net 5-8-1, logistic loss."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(20, 5)), rng.normal(size=5)
    y = np.sign(x @ w + x[:, 0] * x[:, 1] / 2)
    theta = np.concatenate([(rng.normal(size=(8, 5)) / np.sqrt(5)).ravel(), rng.normal(size=8) / np.sqrt(8)])
    return gf.Problem(gf.FullyConnected([5, 8, 1], "tanh"), gf.losses.Logistic(), x, y), theta


def relu_squared_exponential():
    """Squared ReLU net 5-8-1 on the same data, exponential loss: homogeneous of degree 3, and smooth."""
    problem, theta = tanh_logistic()
    network = gf.FullyConnected([5, 8, 1], "relu_squared")
    return gf.Problem(network, gf.losses.Exponential(), problem.x, problem.y), theta


def three_classes(activation, spread=0.5, apart=3.0):
    """Net 4-8-3 with cross-entropy on three clouds."""
    rng = np.random.default_rng(1)
    centres, y = apart * rng.normal(size=(3, 4)), np.arange(30) % 3
    x = centres[y] + spread * rng.normal(size=(30, 4))
    theta = np.concatenate([(rng.normal(size=(8, 4)) / 2).ravel(), (rng.normal(size=(3, 8)) / np.sqrt(8)).ravel()])
    return gf.Problem(gf.FullyConnected([4, 8, 3], activation), gf.losses.CrossEntropy(), x, y), theta


def softmax_regression():
    """The same clouds without a hidden layer, from 0."""
    problem, _ = three_classes("tanh")
    return gf.Problem(gf.DeepLinear([4, 3]), gf.losses.CrossEntropy(), problem.x, problem.y), np.zeros(12)


def one_weight_per_layer(depth, loss, target):
    """Chain of scalars on one sample x = 1."""
    return gf.Problem(gf.DeepLinear([1] * (depth + 1)), loss, [[1.0]], [[target]])


def diagonal_pair(alpha, depth=2):
    """Diagonal net on one sample z = (1, .3), sum of the exponential loss, and the start alpha (1, ..., 1)."""
    problem = gf.Problem(gf.Diagonal(2, depth), gf.losses.Exponential("sum"), [[1.0, 0.3]], [1.0])
    return problem, np.full(4, alpha)


def diagonal_w(problem, theta):
    """w = u^D - v^D."""
    layers = problem.layers(theta)
    return layers["u"] ** problem.network.depth - layers["v"] ** problem.network.depth


def escape_net():
    """Deep linear net 4-6-5-2 under the square loss, a direction of length about 8, and half of the loss of 0."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 4))
    y = x @ rng.normal(size=(4, 2))
    problem = gf.Problem(gf.DeepLinear([4, 6, 5, 2]), gf.losses.Square(half=True), x, y)
    return problem, rng.normal(size=64), 0.5 * problem.value(np.zeros(64))


def modes(depth):
    """Linear net of width 3 on whitened data with modes of strength 3, 2, 1, in their own basis."""
    strengths = np.array([3.0, 2.0, 1.0])
    x = np.sqrt(3.0) * np.eye(3)
    problem = gf.Problem(gf.DeepLinear([3] * (depth + 1)), gf.losses.Square(half=True), x, x * strengths)

    def half(mode):
        def gap(problem, t, theta):
            matrix = np.eye(3)
            for layer in theta.reshape(depth, 3, 3):
                matrix = layer @ matrix
            return matrix[mode, mode] - strengths[mode] / 2

        return gf.Event(f"mode {mode}", gap)

    return problem, strengths, [half(mode) for mode in range(3)]
