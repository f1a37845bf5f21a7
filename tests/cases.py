"""The problems that many tests go through, listed once."""

import numpy as np

import gradflow as gf

NETWORKS = {
    "deep linear": gf.DeepLinear([3, 4, 2, 1]),
    "one layer": gf.DeepLinear([3, 1]),
    "identity skip": gf.FullyConnected([3, 4, 4, 1], "linear", skips=[gf.Skip(1, 2)]),
    "linear skip": gf.FullyConnected([3, 4, 2, 1], "tanh", skips=[gf.Skip(0, 2, "linear")]),
    "residual": gf.ResidualLinear(2, 3, readout=1),
    "residual, fixed read-out": gf.ResidualLinear(2, 3, readout=np.array([[1.0, -1.0, 0.5]])),
    "tanh": gf.FullyConnected([3, 5, 1], "tanh", bias=True),
    "mixed": gf.FullyConnected([3, 4, 3, 1], ["softplus", "gelu"], bias=True),
    "sigmoid": gf.FullyConnected([3, 4, 1], "sigmoid"),
    "quadratic": gf.FullyConnected([3, 4, 1], "quadratic"),
    "relu squared": gf.FullyConnected([3, 4, 1], "relu_squared"),
    "relu": gf.FullyConnected([3, 6, 1], "relu", bias=True),
    "leaky relu": gf.FullyConnected([3, 6, 1], "leaky_relu(0.2)"),
    "diagonal": gf.Diagonal(3, depth=2),
    "diagonal, unsigned": gf.Diagonal(3, depth=3, signed=False),
    "convolutional": gf.Convolutional((1, 3, 1), channels=[2], kernel_size=1, activation="tanh"),
}
LOSSES = {
    "square": gf.losses.Square(),
    "half square sum": gf.losses.Square("sum", half=True),
    "exponential": gf.losses.Exponential(),
    "logistic": gf.losses.Logistic("sum"),
}


def make(network, loss, n=7, seed=0, decay=0.0, **options):
    """A problem with Gaussian inputs, and labels that suit the loss."""
    rng = np.random.default_rng(seed)
    network = NETWORKS.get(network, network) if isinstance(network, str) else network
    loss = LOSSES.get(loss, loss) if isinstance(loss, str) else loss
    x = rng.standard_normal((n, network.input_size))
    y = rng.standard_normal((n, network.output_size))
    if loss.labels == "sign":
        y = np.where(y > 0, 1.0, -1.0)
    if loss.labels == "class":
        y = rng.integers(network.output_size, size=n)
    return gf.Problem(network, loss, x, y, decay=decay, **options)


def start(problem, seed=1, scale=0.7):
    """A start without zeros."""
    return scale * np.random.default_rng(seed).standard_normal(problem.size) + 0.1
