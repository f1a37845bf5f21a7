"""Problem: values against definitions, gradients against differences, layout of theta, bad input."""

import warnings

import cases
import numpy as np
import pytest
import torch

import gradflow as gf

PAIRS = [(network, loss) for network in cases.NETWORKS for loss in cases.LOSSES]


def central_gradient(problem, theta, h=1e-5):
    """Fourth-order central differences of the value."""
    steps = h * np.eye(theta.size)
    f = problem.value
    return (8 * (f(theta + steps) - f(theta - steps)) - (f(theta + 2 * steps) - f(theta - 2 * steps))) / (12 * h)


@pytest.mark.parametrize(("network", "loss"), PAIRS)
def test_value_is_the_loss_of_the_outputs(network, loss):
    problem = cases.make(network, loss, decay=0.1)
    theta = cases.start(problem)
    f, y, n = problem.outputs(theta), problem.y, problem.n
    by_hand = {
        "square": ((f - y) ** 2).sum() / n,
        "half square sum": 0.5 * ((f - y) ** 2).sum(),
        "exponential": np.exp(-y * f).sum() / n,
        "logistic": np.log1p(np.exp(-y * f)).sum(),
    }[loss]
    assert problem.value(theta) == pytest.approx(by_hand + 0.1 * theta @ theta, rel=1e-13)
    assert problem.data_loss(theta) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize(("network", "loss"), PAIRS)
def test_gradient_is_the_derivative_of_the_value_for_every_number_of_samples(network, loss):
    for n in range(1, 18):
        problem = cases.make(network, loss, n=n, seed=n, decay=0.03)
        theta = cases.start(problem, seed=n)
        gradient = problem.gradient(theta)
        assert np.abs(gradient - central_gradient(problem, theta)).max() < 2e-9 * max(1.0, np.abs(gradient).max())


@pytest.mark.parametrize("outputs", [2, 3])
def test_cross_entropy_gradient_is_the_derivative_for_every_number_of_samples(outputs):
    network = gf.FullyConnected([3, 4, outputs], "tanh", bias=True)
    for n in range(1, 18):
        problem = cases.make(network, gf.losses.CrossEntropy(), n=n, seed=n)
        theta = cases.start(problem, seed=n)
        assert np.allclose(problem.gradient(theta), central_gradient(problem, theta), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("network", "loss"), PAIRS)
def test_hvp_and_hessian_agree_with_differences_of_the_gradient(network, loss):
    problem = cases.make(network, loss, decay=0.05)
    theta = cases.start(problem)
    v = np.random.default_rng(5).standard_normal(problem.size)
    h = 1e-5
    g = problem.gradient
    slope = (8 * (g(theta + h * v) - g(theta - h * v)) - (g(theta + 2 * h * v) - g(theta - 2 * h * v))) / (12 * h)
    product = problem.hvp(theta, v)
    assert np.abs(product - slope).max() < 1e-8 * max(1.0, np.abs(slope).max())
    hessian = problem.hessian(theta)
    assert np.array_equal(hessian, hessian.T)
    assert np.abs(hessian @ v - product).max() < 1e-12 * max(1.0, np.abs(product).max())


@pytest.mark.parametrize("network", cases.NETWORKS)
def test_a_batch_of_thetas_gives_the_rows_bit_for_bit(network):
    problem = cases.make(network, "square")
    theta = np.stack([cases.start(problem, seed) for seed in range(3)])
    values, gradients = problem.value_and_gradient(theta)
    products, outputs = problem.hvp(theta, theta[::-1]), problem.outputs(theta)
    hessians = problem.hessian(theta)
    for i, row in enumerate(theta):
        assert values[i] == problem.value(row)
        assert np.array_equal(gradients[i], problem.gradient(row))
        assert np.array_equal(products[i], problem.hvp(row, theta[2 - i]))
        assert np.array_equal(outputs[i], problem.outputs(row))
        assert np.array_equal(hessians[i], problem.hessian(row))


@pytest.mark.parametrize("network", cases.NETWORKS)
def test_layers_are_views_and_flatten_is_their_inverse(network):
    problem = cases.make(network, "square")
    theta = cases.start(problem)
    layers = problem.layers(theta)
    assert np.array_equal(problem.flatten(layers), theta)
    first = next(iter(layers.values()))
    first[...] = 7.0
    assert (theta[: first.size] == 7.0).all()
    batch = np.stack([theta, 2 * theta])
    assert np.array_equal(problem.flatten(problem.layers(batch)), batch)


def test_theta_holds_w1_row_by_row_then_b1_then_w2():
    problem = cases.make(gf.FullyConnected([2, 3, 1], "relu", bias=True), "square")
    layers = problem.layers(np.arange(13.0))
    assert layers["W1"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert layers["b1"].tolist() == [6, 7, 8]
    assert layers["W2"].tolist() == [[9, 10, 11]]
    assert layers["b2"].tolist() == [12]


@pytest.mark.parametrize(
    ("network", "degree"),
    [
        ("deep linear", 3),
        ("leaky relu", 2),
        ("quadratic", 3),
        ("relu squared", 3),
        ("diagonal", 2),
        ("diagonal, unsigned", 3),
        ("residual", None),
        ("tanh", None),
        ("relu", None),
    ],
)
def test_homogeneous_networks_scale_with_their_degree(network, degree):
    problem = cases.make(network, "square")
    assert problem.network.degree == degree
    theta = cases.start(problem)
    scaled = problem.outputs(1.7 * theta) / problem.outputs(theta)
    if degree is None:
        assert np.ptp(scaled) > 1e-3
    else:
        assert np.allclose(scaled, 1.7**degree, rtol=1e-12)


def test_with_data_keeps_network_loss_and_decay():
    problem = cases.make("tanh", "square", decay=0.2)
    other = problem.with_data(np.zeros((2, 3)), np.ones(2))
    theta = cases.start(problem)
    assert other.n == 2
    assert other.decay == 0.2
    assert other.data_loss(theta) == pytest.approx(np.mean((problem.outputs(theta, np.zeros((2, 3))) - 1) ** 2))


def test_describe_prints_the_conventions():
    problem = cases.make("tanh", gf.losses.Square("sum", half=True), decay=0.25)
    for text in (problem.describe(), problem._repr_html_()):
        for part in ("3-5-1", "sum over samples", "times 1/2", "0.25", "weight_decay = 0.5", "kernel"):
            assert part in text


def test_any_torch_module_is_a_network():
    import torch

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    network = gf.FromModule(module, (3,))
    problem = cases.make(network, "square")
    same = cases.make(gf.FullyConnected([3, 4, 1], "tanh", bias=True), "square")
    theta = network.start()
    assert problem.value(theta) == pytest.approx(same.value(theta), rel=1e-13)
    assert np.allclose(problem.gradient(theta), same.gradient(theta), rtol=1e-12)
    assert np.allclose(problem.hessian(theta), same.hessian(theta), rtol=1e-10, atol=1e-12)


def test_a_random_or_running_module_is_refused_in_train_mode_and_taken_in_eval_mode():
    import torch

    dropout = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 1))
    with pytest.raises(ValueError, match=r"random in train mode: call module.eval\(\)"):
        gf.FromModule(dropout, (3,))
    assert gf.FromModule(dropout.eval(), (3,)).size == 21
    norm = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    with pytest.raises(ValueError, match="running statistics"):
        gf.FromModule(norm, (3,))
    frozen = gf.FromModule(norm.eval(), (3,))
    problem = cases.make(frozen, "square")
    theta = frozen.start()
    assert np.allclose(problem.gradient(theta), central_gradient(problem, theta), atol=1e-8)
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module"):
        gf.FromModule("a network", (3,))


SQUARE, LOGISTIC = gf.losses.Square(), gf.losses.Logistic()
NET = gf.DeepLinear([2, 1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gf.Problem(NET, SQUARE, np.zeros((3, 4)), np.zeros(3)), ValueError, r"x has shape \(3, 4\)"),
        (lambda: gf.Problem(NET, SQUARE, np.zeros((0, 2)), np.zeros(0)), ValueError, "no samples"),
        (lambda: gf.Problem(NET, SQUARE, [[np.nan, 1.0]], [1.0]), ValueError, "1 NaN or infinite"),
        (lambda: gf.Problem(NET, SQUARE, [[1.0, 1.0]], [np.inf]), ValueError, "NaN or infinite"),
        (lambda: gf.Problem(NET, SQUARE, np.zeros((3, 2)), np.zeros(2)), ValueError, "numbers must agree"),
        (lambda: gf.Problem(NET, LOGISTIC, np.zeros((2, 2)), [0, 1]), ValueError, r"must be -1 or \+1"),
        (
            lambda: gf.Problem(NET, gf.losses.CrossEntropy(), np.zeros((2, 2)), [0, 1]),
            ValueError,
            "one output per class",
        ),
        (
            lambda: gf.Problem(gf.DeepLinear([2, 2]), gf.losses.CrossEntropy(), np.zeros((2, 2)), [0, 2]),
            ValueError,
            "class numbers 0..1",
        ),
        (
            lambda: gf.Problem(gf.DeepLinear([2, 2]), gf.losses.CrossEntropy(), np.zeros((1, 2)), [[0.5, 0.5]]),
            ValueError,
            "one-hot",
        ),
        (lambda: gf.Problem(gf.DeepLinear([2, 2]), LOGISTIC, np.zeros((1, 2)), [1]), ValueError, "one output"),
        (lambda: gf.Problem(NET, SQUARE, np.zeros((1, 2)), [1], decay=-1), ValueError, "decay = -1"),
        (lambda: gf.Problem(NET, "square", np.zeros((1, 2)), [1]), TypeError, "loss object"),
        (lambda: gf.Problem("net", SQUARE, np.zeros((1, 2)), [1]), TypeError, "gradflow network"),
        (lambda: gf.Problem(NET, SQUARE, "data", [1]), TypeError, "array of numbers"),
        (lambda: gf.Problem(NET, SQUARE, np.zeros((1, 2)), [1], backend="jax").kernel, ValueError, "jax"),
        (lambda: gf.losses.Square(reduction="median"), ValueError, "'mean' or 'sum'"),
        (lambda: gf.FullyConnected([2, 3, 1], "swish"), ValueError, "unknown; choose one of linear, relu"),
        (lambda: gf.FullyConnected([2, 3, 1], "leaky_relu(x)"), ValueError, "slope must be a number"),
        (lambda: gf.FullyConnected([2, 3, 1], ["relu", "tanh"]), ValueError, "2 entries for 1 hidden"),
        (lambda: gf.FullyConnected([2], "relu"), ValueError, "at least two positive integers"),
        (lambda: gf.DeepLinear([2, 0, 1]), ValueError, "positive integers"),
        (lambda: gf.DeepLinear(3), TypeError, "layer sizes"),
        (lambda: gf.DeepLinear([2, 3, 1], skips=[gf.Skip(0, 1)]), ValueError, "kind='linear'"),
        (lambda: gf.Diagonal(0), ValueError, "at least 1"),
        (lambda: gf.ResidualLinear(2, 3, readout=np.ones((1, 2))), ValueError, r"shape \(k, 3\)"),
        (lambda: gf.Convolutional((1, 2, 2), [3], kernel_size=3), ValueError, "too small"),
    ],
)
def test_bad_problems_say_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("theta", "error", "message"),
    [
        (np.zeros(3), ValueError, r"shape \(3,\): must be \(2,\) or \(runs, 2\)"),
        (np.zeros((2, 2, 2)), ValueError, r"must be \(2,\)"),
        ("abc", TypeError, "array of numbers"),
    ],
)
def test_bad_thetas_say_what_is_wrong(theta, error, message):
    with pytest.raises(error, match=message):
        cases.make(NET, "square").value(theta)


def test_integer_data_is_converted_and_float32_data_said_once(monkeypatch):
    problem = gf.Problem(NET, SQUARE, np.array([[1, 2]]), np.array([3]))
    assert problem.x.dtype == np.float64
    assert problem.value(np.array([1, 1])) == 0.0
    monkeypatch.setattr("gradflow.arguments._said_float32", False)
    with pytest.warns(UserWarning, match="converted"):
        gf.Problem(NET, SQUARE, np.zeros((1, 2), np.float32), [3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gf.Problem(NET, SQUARE, np.zeros((1, 2), np.float32), [3])


def test_flatten_names_missing_and_unknown_layers():
    problem = cases.make(NET, "square")
    with pytest.raises(ValueError, match=r"missing \['W1'\], unknown \['V1'\]"):
        problem.flatten({"V1": np.zeros((1, 2))})
    with pytest.raises(ValueError, match="W1 has shape"):
        problem.flatten({"W1": np.zeros((2, 1))})


def test_frozen_parameters_of_a_module_keep_their_values():
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    module[0].requires_grad_(False)
    network = gf.FromModule(module, (3,))
    assert network.size == network.start().size == 5
    assert str(network) == "torch module Sequential, 5 parameters"
    assert repr(network) == f"<{network}>"
    x = np.eye(3)
    problem = gf.Problem(network, gf.losses.Square(), x, np.ones(3))
    expected = module.double()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(problem.outputs(network.start()), expected, rtol=1e-14)
    readout = gf.Problem(gf.FullyConnected([4, 1], bias=True), gf.losses.Square(), hidden(module, x), np.ones(3))
    np.testing.assert_allclose(problem.gradient(network.start()), readout.gradient(network.start()), rtol=1e-12)
    with pytest.raises(ValueError, match="no parameters with requires_grad=True"):
        gf.FromModule(module.requires_grad_(False), (3,))


def hidden(module, x):
    return torch.tanh(module[0](torch.from_numpy(x))).detach().numpy()
