"""Problems of the benchmark: each is defined once, with fixed seeds, for every contender."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

import gradflow as gf

TOLERANCES = tuple(10.0**-k for k in range(2, 11))
HALF_SQUARE = gf.losses.Square(half=True)


@dataclass(eq=False)
class Case:
    """A start, an end time and an objective; `widths` is None for a diagonal network of `depth`.

    `must` and `aim` are the ratios to the best peer asked for at the two `targets`; `explicit` is False where an
    explicit method of fixed stability interval would need millions of gradients.
    """

    name: str
    about: str
    network: object
    loss: object
    x: np.ndarray
    y: np.ndarray
    theta0: np.ndarray
    t_end: float
    widths: tuple[int, ...] | None = None
    activation: str = "linear"
    bias: bool = False
    depth: int = 0
    targets: tuple[float, ...] = (1e-4, 1e-7)
    must: tuple[float, ...] | None = None
    aim: tuple[float, ...] | None = None
    tolerances: tuple[float, ...] = TOLERANCES
    cap: float = 1.0
    explicit: bool = True
    reference: str = "DOP853"

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.theta0.size

    @cached_property
    def problem(self) -> gf.Problem:
        """The problem as a user of gradflow writes it."""
        return gf.Problem(self.network, self.loss, self.x, self.y)

    @cached_property
    def on_data(self) -> gf.Problem:
        """The same with the compiled gradient on all samples, for the other solvers."""
        backend = "diagonal" if self.widths is None else "feedforward"
        return gf.Problem(self.network, self.loss, self.x, self.y, backend=backend)


def gaussian_start(widths, scale, seed, bias):
    """Entries of the weights Gaussian times scale / sqrt(fan in), biases 0, in the order of the layers."""
    rng = np.random.default_rng(seed)
    parts = []
    for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
        parts.append((rng.standard_normal((fan_out, fan_in)) * scale / np.sqrt(fan_in)).ravel())
        if bias:
            parts.append(np.zeros(fan_out))
    return np.concatenate(parts)


def linear_target(size, n, seed):
    """Gaussian inputs, a linear map with singular values 3, 3/2, 1, 3/4, ..."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, size))
    left, _ = np.linalg.qr(rng.standard_normal((size, size)))
    right, _ = np.linalg.qr(rng.standard_normal((size, size)))
    return x, x @ ((left * (3.0 / np.arange(1, size + 1))) @ right.T).T


def teacher(widths, n, seed, noise=0.0):
    """Gaussian inputs and a tanh teacher with weights 1.5 / sqrt(fan in)."""
    rng = np.random.default_rng(seed)
    x = y = rng.standard_normal((n, widths[0]))
    for layer, (fan_in, fan_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        y = y @ (1.5 * rng.standard_normal((fan_out, fan_in)) / np.sqrt(fan_in)).T
        y = np.tanh(y) if layer < len(widths) - 2 else y
    return x, y + noise * rng.standard_normal(y.shape)


def clusters(size, classes, n, seed):
    """Clusters on a random 30-dimensional background, targets one-hot."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((classes, size)) / np.sqrt(size)
    labels = rng.integers(0, classes, n)
    basis = rng.standard_normal((30, size)) / np.sqrt(size)
    background = rng.standard_normal((n, 30)) * (1.0 / np.sqrt(np.arange(1, 31))) @ basis
    noise = 0.3 * rng.standard_normal((n, size)) / np.sqrt(size)
    return 2.0 * centres[labels] + background + noise, np.eye(classes)[labels]


def sparse_target(dim, n, nonzero, seed):
    """Gaussian design, a sparse coefficient vector."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, dim))
    beta = np.zeros(dim)
    beta[:nonzero] = rng.choice([-1.0, 1.0], nonzero) * rng.uniform(0.5, 2.0, nonzero)
    return x, x @ beta


def deep_linear(name, about, scale, t_end, **more) -> Case:
    widths = (10, 10, 10, 10)
    start = gaussian_start(widths, scale, 2, bias=False)
    network = gf.DeepLinear(list(widths))
    return Case(name, about, network, HALF_SQUARE, *linear_target(10, 50, 1), start, t_end, widths, **more)


def perceptron(name, about, widths, activation, data, scale, t_end, seed, **more) -> Case:
    network = gf.FullyConnected(list(widths), activation=activation, bias=True)
    start = gaussian_start(widths, scale, seed, bias=True)
    return Case(name, about, network, HALF_SQUARE, *data, start, t_end, widths, activation, True, **more)


def dlin() -> Case:
    return deep_linear("dlin", "deep linear 10-10-10-10, n = 50, T = 20", 1.0, 20.0, must=(1.3, 1.1), aim=(5.0, 4.0))


def plateau() -> Case:
    about = "the same from scale 0.03 to T = 400: saddle to saddle"
    return deep_linear("plateau", about, 0.03, 400.0, must=(2.0, 1.2), aim=(6.0, 2.5), cap=2.0)


def tanh(name="tanh", t_end=30.0, **more) -> Case:
    about = f"tanh 10-32-32-1, n = 100, T = {t_end:g}"
    return perceptron(name, about, (10, 32, 32, 1), "tanh", teacher((10, 16, 1), 100, 3), 1.0, t_end, 4, **more)


def stiff41(name="stiff41", t_end=3e4, **more) -> Case:
    about = f"tanh 3-8-1, noisy teacher, n = 200, T = {t_end:g}"
    return perceptron(name, about, (3, 8, 1), "tanh", teacher((3, 4, 1), 200, 8, 0.1), 1.0, t_end, 9, **more)


def relu42k() -> Case:
    return perceptron(
        "relu42k",
        "relu 784-50-50-10, n = 500, T = 1, kinks ignored",
        (784, 50, 50, 10),
        "relu",
        clusters(784, 10, 500, 5),
        1.4,
        1.0,
        6,
        targets=(1e-3,),
        must=(1.2,),
        aim=(1.5,),
        tolerances=(1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
        cap=2.0,
        reference="RK45",
    )


def diagonal(name, about, dim, depth, n, nonzero, t_end, seed, loss, **more) -> Case:
    x, y = sparse_target(dim, n, nonzero, seed)
    if loss.labels == "sign":
        y = np.sign(y)
    network, start = gf.Diagonal(dim, depth), np.full(2 * dim, 0.1)
    return Case(name, about, network, loss, x, y[:, None], start, t_end, depth=depth, **more)


def diag() -> Case:
    about = "diagonal u^3 - v^3, d = 100, n = 40, T = 30"
    return diagonal("diag", about, 100, 3, 40, 5, 30.0, 7, HALF_SQUARE, must=(1.2, 1.0), aim=(2.0, 1.4))


def logistic() -> Case:
    about = "diagonal u^2 - v^2, logistic loss, d = 20, n = 15, T = 1e8"
    return diagonal("logistic", about, 20, 2, 15, 3, 1e8, 10, gf.losses.Logistic())


CASES: dict[str, Callable[[], Case]] = {
    "dlin": dlin,
    "tanh": lambda: tanh(must=(1.0, 1.0), aim=(1.6, 1.4)),
    "diag": diag,
    "plateau": plateau,
    "stiff41": lambda: stiff41(must=(1.1, 1.1), aim=(2.5, 2.5), cap=2.0),
    "stiff1441": lambda: tanh("stiff1441", 1e3, must=(1.4, 1.2), aim=(2.0, 1.6), cap=2.0),
    "relu42k": relu42k,
    "logistic": logistic,
    "stiff41-long": lambda: stiff41("stiff41-long", 3e7, cap=3.0, explicit=False, reference="Radau"),
    "stiff1441-long": lambda: tanh("stiff1441-long", 3e5, cap=3.0, explicit=False, reference="CVODE"),
}


def ensemble_starts(runs=1000) -> np.ndarray:
    """Starts of the ensemble: dlin at scales from 0.3 to 1.2."""
    scales = np.geomspace(0.3, 1.2, runs)
    return np.random.default_rng(100).standard_normal((runs, 300)) / np.sqrt(10) * scales[:, None]
