"""Compiled gradients and Hessian-vector products, against torch autograd, differences and exact arithmetic."""

import math
import threading
from fractions import Fraction

import numpy as np
import pytest
import torch

from gradflow import losses
from gradflow.diagonal import Diagonal
from gradflow.kernels import covariance, diagonal, feedforward, select
from gradflow.kernels.minibatch import minibatch
from gradflow.modules import FromModule
from gradflow.networks import DeepLinear, FullyConnected, ResidualLinear, Skip

ACTIVATIONS = (
    "linear",
    "relu",
    "leaky_relu(0.2)",
    "tanh",
    "sigmoid",
    "softplus",
    "gelu",
    "quadratic",
    "abs",
    "relu_squared",
)
SMOOTH = ("linear", "tanh", "sigmoid", "softplus", "gelu", "quadratic", "relu_squared")
READOUT = np.array([[0.5, -1.0, 2.0, 1.5], [1.0, 0.3, -0.7, 0.2]])
NETWORKS = {
    **{name: FullyConnected([3, 5, 4, 1], name) for name in ACTIVATIONS},
    **{f"{name}, bias": FullyConnected([2, 9, 3], name, bias=True) for name in ACTIVATIONS},
    "per layer": FullyConnected([4, 5, 5, 4, 2], ["tanh", "relu", "gelu"], bias=True),
    "skips": FullyConnected(
        [4, 5, 5, 4, 4],
        ["tanh", "softplus", "quadratic"],
        bias=True,
        skips=[Skip(1, 2), Skip(0, 3, "linear"), Skip(1, 4, "linear"), Skip(0, 3), Skip(0, 1, "linear"), Skip(3, 4)],
    ),
    "linear skips": DeepLinear([3, 4, 4, 1], skips=[Skip(0, 3, "linear"), Skip(1, 2)]),
    "deep linear": DeepLinear([3, 7, 6, 2]),
    "one input": DeepLinear([1, 1, 1]),
    "one layer": DeepLinear([2, 3]),
    "residual": ResidualLinear(3, 4, readout=1),
    "residual, fixed read-out": ResidualLinear(3, 4, readout=READOUT),
    "diagonal 1": Diagonal(3, depth=1),
    "diagonal 2": Diagonal(9, depth=2),
    "diagonal 3": Diagonal(4, depth=3, signed=False),
    "diagonal 5": Diagonal(1, depth=5),
}
LOSSES = (
    losses.Square(),
    losses.Square("sum", half=True),
    losses.Exponential("sum"),
    losses.Logistic(),
    losses.CrossEntropy(),
)


def fits(network, loss):
    k = network.output_size
    return k == 1 if loss.labels == "sign" else k > 1 or loss.labels == "real"


def samples(network, loss, n, rng):
    x, k = rng.standard_normal((n, network.input_size)), network.output_size
    if loss.labels == "real":
        return x, rng.standard_normal((n, k))
    labels = rng.choice([-1.0, 1.0], (n, 1)) if loss.labels == "sign" else rng.integers(k, size=n)
    return x, loss.prepare(labels, k)


def evaluate(kernel, theta, v=None):
    """Value and gradient, or value and product, with nothing usable in the scratch space."""
    out, work = np.full(theta.size, np.nan), np.full(kernel.work_size, np.nan)
    rest = (out, kernel.numbers, kernel.layout, work)
    return (kernel.gradient(theta, *rest) if v is None else kernel.product(theta, v, *rest)), out


def by_autograd(network, loss, x, y, decay, theta, v):
    """Value, gradient and Hessian-vector product through `forward` and `value`."""
    flat = torch.tensor(theta, requires_grad=True)
    sizes = [math.prod(shape) for shape in network.shapes.values()]
    parts = zip(network.shapes.items(), flat.split(sizes), strict=True)
    layers = {name: part.reshape(shape) for (name, shape), part in parts}
    value = loss.value(network.forward(layers, torch.tensor(x)), torch.tensor(y)) + decay * (flat**2).sum()
    (gradient,) = torch.autograd.grad(value, flat, create_graph=True)
    (product,) = torch.autograd.grad(gradient @ torch.tensor(v), flat)
    return value.item(), gradient.detach().numpy(), product.numpy()


def assert_close(found, expected, tolerance):
    scale = np.abs(expected).max()
    assert np.abs(found - expected).max() <= tolerance * scale, (found, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_value_gradient_and_product_agree_with_autograd(name):
    network = NETWORKS[name]
    rng = np.random.default_rng(sum(map(ord, name)))
    for loss in (loss for loss in LOSSES if fits(network, loss)):
        for n in range(1, 18):
            x, y = samples(network, loss, n, rng)
            theta, v = 0.5 * rng.standard_normal(network.size), rng.standard_normal(network.size)
            value, gradient, product = by_autograd(network, loss, x, y, 0.1, theta, v)
            for backend in select.backends(network, loss)[:-1]:
                kernel = select.kernel(network, loss, x, y, 0.1, backend)
                found, out = evaluate(kernel, theta)
                assert kernel.compiled
                assert found == pytest.approx(value, rel=1e-13)
                assert_close(out, gradient, 1e-13)
                found, out = evaluate(kernel, theta, v)
                assert found == pytest.approx(value, rel=1e-13)
                assert_close(out, product, 1e-12)


@pytest.mark.parametrize("name", [name for name in NETWORKS if "relu" not in name and "abs" not in name])
def test_gradient_and_product_are_the_differences_of_value_and_gradient(name):
    network, rng, h = NETWORKS[name], np.random.default_rng(1), 1e-5
    for loss in (loss for loss in LOSSES if fits(network, loss)):
        x, y = samples(network, loss, 5, rng)
        kernel = select.kernel(network, loss, x, y, 0.3)
        if name == "per layer":
            kernel = select.kernel(FullyConnected([4, 5, 5, 4, 2], ["tanh", "softplus", "gelu"], True), loss, x, y, 0.3)
        theta, v = 0.5 * rng.standard_normal(network.size), rng.standard_normal(network.size)
        (above, high), (below, low) = (evaluate(kernel, theta + s * h * v) for s in (1, -1))
        assert evaluate(kernel, theta)[1] @ v == pytest.approx((above - below) / (2 * h), rel=1e-7, abs=1e-8)
        assert_close(evaluate(kernel, theta, v)[1], (high - low) / (2 * h), 1e-7)


@pytest.mark.parametrize("network", [FullyConnected([3, 6, 2], a, bias=True) for a in SMOOTH], ids=SMOOTH)
def test_the_hessian_is_symmetric(network):
    rng = np.random.default_rng(2)
    for loss in (losses.Square(), losses.CrossEntropy()):
        kernel = select.kernel(network, loss, *samples(network, loss, 9, rng))
        theta = rng.standard_normal(network.size)
        hessian = np.stack([evaluate(kernel, theta, e)[1] for e in np.eye(network.size)])
        assert_close(hessian, hessian.T, 1e-14)


def test_many_samples_pass_in_chunks():
    rng = np.random.default_rng(3)
    for network in (NETWORKS["skips"], NETWORKS["deep linear"]):
        for loss in (losses.Square(), losses.CrossEntropy("sum")):
            for n in (288, 289, 1001):
                x, y = samples(network, loss, n, rng)
                theta, v = 0.5 * rng.standard_normal(network.size), rng.standard_normal(network.size)
                value, gradient, product = by_autograd(network, loss, x, y, 0.1, theta, v)
                kernel = feedforward.build(network, loss, x, y, 0.1)
                found, out = evaluate(kernel, theta)
                assert found == pytest.approx(value, rel=1e-13)
                assert_close(out, gradient, 1e-13)
                assert_close(evaluate(kernel, theta, v)[1], product, 1e-12)


def test_wide_layers_agree_with_autograd():
    """Sizes at which products go to BLAS."""
    rng, network, loss = np.random.default_rng(4), FullyConnected([300, 260, 2], "tanh"), losses.Square()
    x, y = samples(network, loss, 200, rng)
    theta, v = 0.05 * rng.standard_normal(network.size), rng.standard_normal(network.size)
    value, gradient, product = by_autograd(network, loss, x, y, 0.0, theta, v)
    kernel = select.kernel(network, loss, x, y)
    found, out = evaluate(kernel, theta)
    assert found == pytest.approx(value, rel=1e-13)
    assert_close(out, gradient, 1e-13)
    assert_close(evaluate(kernel, theta, v)[1], product, 1e-12)


@pytest.mark.parametrize("network", [DeepLinear([4, 6, 5, 3]), ResidualLinear(2, 4, readout=READOUT)], ids=str)
def test_covariance_is_the_feedforward_kernel_on_all_samples(network):
    rng = np.random.default_rng(5)
    for n in (3, 4, 5, 40):
        for half in (False, True):
            x, y = samples(network, losses.Square(half=half), n, rng)
            theta, v = rng.standard_normal(network.size), rng.standard_normal(network.size)
            expected = select.kernel(network, losses.Square(half=half), x, y, 0.2, "feedforward")
            compressed = covariance.compress(x, y) if n > 4 else (x, y, 0.0)
            factor = losses.Square(half=half).factor(n)
            for family in (covariance, feedforward):
                options = {"factor": factor, "constant": factor * compressed[2]}
                kernel = family.build(network, losses.Square(half=half), *compressed[:2], 0.2, **options)
                for arguments in ((theta,), (theta, v)):
                    found, out = evaluate(kernel, *arguments)
                    value, reference = evaluate(expected, *arguments)
                    assert found == pytest.approx(value, rel=1e-13)
                    assert_close(out, reference, 1e-13)


def test_linear_networks_take_the_cheaper_form():
    loss, x, y = losses.Square(), np.ones((50, 10)), np.ones((50, 1))
    assert select.kernel(DeepLinear([10, 10, 1]), loss, x, y).name == "covariance"
    assert select.kernel(DeepLinear([10, 2, 40]), loss, x, np.ones((50, 40))).name == "covariance, feedforward"
    assert select.kernel(DeepLinear([10, 10, 1]), losses.Logistic(), x, y).name == "covariance"
    assert select.kernel(FullyConnected([10, 5, 1], "linear", bias=True), loss, x, y).name == "feedforward"


def test_a_tiny_square_loss_is_right_to_many_digits():
    """Targets that a network fits exactly, then 2^-40 away: against rational arithmetic."""
    rng = np.random.default_rng(6)
    x, w = rng.integers(-8, 9, (40, 3)).astype(float), np.array([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]])
    network, y = DeepLinear([3, 3, 2]), x @ w.T
    first = np.eye(3) + 2.0**-40 * rng.integers(-3, 4, (3, 3))
    theta = np.concatenate([first.ravel(), w.ravel()])
    exact = 0
    matrix = [[sum(Fraction(w[i, m]) * Fraction(first[m, j]) for m in range(3)) for j in range(3)] for i in range(2)]
    for row, target in zip(x, y, strict=True):
        for i in range(2):
            output = sum(matrix[i][j] * Fraction(row[j]) for j in range(3))
            exact += (output - Fraction(target[i])) ** 2
    exact = float(exact / 40)
    assert 1e-23 < exact < 1e-20
    for backend in ("covariance", "feedforward"):
        assert evaluate(select.kernel(network, losses.Square(), x, y, 0.0, backend), theta)[0] == pytest.approx(
            exact, rel=1e-3
        )
    perfect = np.concatenate([np.eye(3).ravel(), w.ravel()])
    assert evaluate(select.kernel(network, losses.Square(), x, y), perfect)[0] < 1e-28


def test_irreducible_loss_is_the_least_squares_residual():
    rng = np.random.default_rng(7)
    x, y = rng.standard_normal((30, 4)), rng.standard_normal((30, 2))
    best, residual, *_ = np.linalg.lstsq(x, y)
    value, gradient = evaluate(select.kernel(DeepLinear([4, 2]), losses.Square(), x, y), best.T.ravel().copy())
    assert value == pytest.approx(residual.sum() / 30, rel=1e-14)
    assert np.abs(gradient).max() < 1e-14


def test_derivatives_at_a_kink_are_those_from_the_left():
    x, y, theta = np.array([[1.0]]), np.array([[1.0]]), np.array([0.0, 1.0])
    for name, slope in (("relu", 0.0), ("leaky_relu(0.2)", 0.2), ("abs", -1.0)):
        kernel = select.kernel(FullyConnected([1, 1, 1], name), losses.Square(), x, y)
        assert evaluate(kernel, theta)[1].tolist() == [-2.0 * slope, 0.0]


@pytest.mark.parametrize("name", NETWORKS)
def test_saturated_huge_and_tiny_parameters_give_numbers(name):
    network, rng = NETWORKS[name], np.random.default_rng(8)
    x, y = samples(network, losses.Square(), 6, rng)
    kernel = select.kernel(network, losses.Square(), x, y)
    start, v = rng.standard_normal(network.size), rng.standard_normal(network.size)
    for scale in (1e4, 1e-4, 1e-30, 0.0):
        for result in (evaluate(kernel, scale * start), evaluate(kernel, scale * start, v)):
            assert np.isfinite(result[0])
            assert np.isfinite(result[1]).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_nan_goes_through_and_nothing_is_raised(name):
    network, rng = NETWORKS[name], np.random.default_rng(9)
    for loss in (loss for loss in LOSSES if fits(network, loss)):
        kernel = select.kernel(network, loss, *samples(network, loss, 10, rng), 0.1)
        theta = rng.standard_normal(network.size)
        theta[rng.integers(network.size)] = np.nan
        value, gradient = evaluate(kernel, theta)
        assert np.isnan(value)
        assert np.isnan(gradient).any()
        assert np.isnan(evaluate(kernel, theta, np.ones(network.size))[0])
        for huge in (1e160, 1e308, np.inf):
            evaluate(kernel, np.full(network.size, huge))
            evaluate(kernel, np.full(network.size, huge), theta)


@pytest.mark.parametrize("margin", [-800.0, -40.0, -1.0, 0.0, 1e-9, 1.0, 40.0, 300.0, 700.0])
def test_losses_of_any_margin_keep_their_relative_accuracy(margin):
    """f(x) = theta x with x = 1: loss and derivatives of the margin in closed form."""
    one, theta, e = np.ones((1, 1)), np.array([margin]), math.exp(-abs(margin))
    slope, bend = -(e if margin > 0 else 1.0) / (1.0 + e), e / (1.0 + e) ** 2
    value = math.log1p(e) + max(-margin, 0.0)
    cases = [(losses.Logistic(), value, slope, bend)]
    if margin > -700:
        cases.append((losses.Exponential(), math.exp(-margin), -math.exp(-margin), math.exp(-margin)))
    for loss, *expected in cases:
        kernel = select.kernel(DeepLinear([1, 1]), loss, one, one, 0.0, "feedforward")
        (found, gradient), (_, product) = evaluate(kernel, theta), evaluate(kernel, theta, np.ones(1))
        assert [found, *gradient, *product] == pytest.approx(expected, rel=1e-14, abs=0.0)
    kernel = select.kernel(DeepLinear([1, 2]), losses.CrossEntropy(), one, np.array([[1.0, 0.0]]))
    theta, v = np.array([margin, 0.0]), np.array([1.0, 0.0])
    (found, gradient), (_, product) = evaluate(kernel, theta), evaluate(kernel, theta, v)
    assert [found, *gradient] == pytest.approx([value, slope, -slope], rel=1e-14, abs=0.0)
    assert product.tolist() == pytest.approx([bend, -bend], rel=1e-14, abs=0.0 if margin >= 0 else 1e-16)


def test_minibatches_average_to_the_whole():
    rng = np.random.default_rng(10)
    for network in (NETWORKS["tanh, bias"], NETWORKS["deep linear"], NETWORKS["diagonal 2"]):
        for loss in (loss for loss in LOSSES if fits(network, loss)):
            for backend in ("auto", "torch"):
                x, y = samples(network, loss, 10, rng)
                theta = 0.5 * rng.standard_normal(network.size)
                batches = minibatch(network, loss, x, y, 0.1, batch_size=4, backend=backend)
                kernel, results = batches.kernel, []
                for indices in ([3, 1, 9, 0], [2, 5, 4, 7], [8, 6]):
                    batches.load(np.array(indices))
                    results.append((len(indices) / 10, *evaluate(kernel, theta)))
                value, gradient = evaluate(select.kernel(network, loss, x, y, 0.1), theta)
                assert batches.kernel is kernel
                assert sum(weight * found for weight, found, _ in results) == pytest.approx(value, rel=1e-13)
                assert_close(sum(weight * out for weight, _, out in results), gradient, 1e-13)


def test_batches_of_the_wrong_size_are_refused():
    network, x = DeepLinear([2, 1]), np.ones((5, 2))
    batches = minibatch(network, losses.Square(), x, x[:, :1], batch_size=2)
    with pytest.raises(ValueError, match="a batch of 3 samples"):
        batches.load([0, 1, 2])
    with pytest.raises(ValueError, match="batch_size = 0"):
        minibatch(network, losses.Square(), x, x[:, :1], batch_size=0)


def test_backends_that_cannot_serve_name_those_that_can():
    x, y, square = np.ones((4, 2)), np.ones((4, 1)), losses.Square()
    cases = [
        (FullyConnected([2, 3, 1], "tanh"), "covariance", "feedforward, torch"),
        (DeepLinear([2, 3, 1]), "diagonal", "covariance, feedforward, torch"),
        (Diagonal(2), "feedforward", "diagonal, torch"),
        (FromModule(torch.nn.Linear(2, 1), 2), "feedforward", "torch"),
    ]
    for network, backend, able in cases:
        with pytest.raises(ValueError, match=f"cannot serve .*: {able}, or 'auto'"):
            select.kernel(network, square, x, y, backend=backend)
    with pytest.raises(ValueError, match="unknown; choose one of auto, feedforward"):
        select.kernel(Diagonal(2), square, x, y, backend="jax")
    with pytest.raises(ValueError, match="use backend='torch'"):
        select.kernel(Diagonal(2), square, x, y, backend="diagonal", device="cuda")


def test_torch_serves_any_module_and_agrees_with_the_compiled_kernel():
    rng, loss = np.random.default_rng(11), losses.Logistic("sum")
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    network = FullyConnected([3, 4, 1], "tanh", bias=True)
    x, y = samples(network, loss, 8, rng)
    theta, v = rng.standard_normal(network.size), rng.standard_normal(network.size)
    interpreted = select.kernel(FromModule(module, 3), loss, x, y, 0.1)
    assert not interpreted.compiled
    for arguments in ((theta,), (theta, v)):
        value, out = evaluate(interpreted, *arguments)
        expected, reference = evaluate(select.kernel(network, loss, x, y, 0.1), *arguments)
        assert value == pytest.approx(expected, rel=1e-14)
        assert_close(out, reference, 1e-13)


def test_threads_with_their_own_scratch_space_do_not_disturb_each_other():
    rng, network = np.random.default_rng(12), FullyConnected([10, 30, 30, 1], "tanh", bias=True)
    kernel = select.kernel(network, losses.Square(), *samples(network, losses.Square(), 300, rng))
    starts = rng.standard_normal((4, network.size))
    expected, found = [evaluate(kernel, theta)[1] for theta in starts], np.empty((4, network.size))

    def run(index):
        for _ in range(50):
            found[index] = evaluate(kernel, starts[index])[1]

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(found, expected)


def test_flops_count_the_products():
    assert feedforward.flops(DeepLinear([10, 10, 10, 10]), 50) == 2 * 50 * 800
    assert covariance.flops(DeepLinear([10, 10, 10, 10]), 10) == 2 * 10 * (3 * 200 + 2 * 100)
    assert diagonal.flops(Diagonal(100, 3), 40) == 4 * 4000 + 200 * 7
