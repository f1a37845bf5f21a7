"""Conserved quantities: their derivative along the flow is zero, and is not for forms that look alike.

The quantities of layers are quadratic in theta, so that (I(theta + v) - I(theta - v)) / 2 is their exact derivative
along v: no step size, no truncation.
"""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from gradflow import measure
from gradflow.diagonal import Diagonal
from gradflow.losses import CrossEntropy, Exponential, Logistic, Square
from gradflow.modules import Convolutional
from gradflow.networks import DeepLinear, FullyConnected, ResidualLinear, Skip
from gradflow.problem import Problem


def made(network, loss=None, *, n=7, seed=0, decay=0.0):
    """Problem with Gaussian data and labels that fit the loss; theta of Gaussian entries."""
    rng = np.random.default_rng(seed)
    loss = loss or Square()
    x = rng.standard_normal((n, network.input_size))
    if loss.labels == "real":
        y = rng.standard_normal((n, network.output_size))
    elif loss.labels == "sign":
        y = np.sign(rng.standard_normal(n))
    else:
        y = rng.integers(0, network.output_size, n)
    return Problem(network, loss, x, y, decay=decay), 0.7 * rng.standard_normal(network.size)


def speeds(problem, rates):
    return problem.flatten({name: np.full(s, rates.get(name, 1.0)) for name, s in problem.network.shapes.items()})


def along_flow(problem, theta, quantity, rates=None):
    """Exact derivative of a quadratic quantity along theta' = -c grad F, relative to the size of its terms."""
    v = -problem.gradient(theta) * speeds(problem, rates or {})
    return (quantity(theta + v) - quantity(theta - v)) / 2 / (np.linalg.norm(theta) * np.linalg.norm(v))


def assert_law(problem, theta, rates=None, names=None):
    """I' = -r I for every invariant."""
    laws = measure.invariant_decay(problem, rates)
    assert laws.keys() == measure.invariants(problem, theta, rates).keys()
    assert laws.keys() == measure.invariant_names(problem, rates).keys()
    if names is not None:
        assert list(laws) == names
    v = -problem.gradient(theta) * speeds(problem, rates or {})
    for name, rate in laws.items():
        slope = along_flow(problem, theta, lambda t, name=name: measure.invariants(problem, t, rates)[name], rates)
        decayed = rate * measure.invariants(problem, theta, rates)[name]
        assert np.abs(slope + decayed / (np.linalg.norm(theta) * np.linalg.norm(v))).max() < 1e-13, name


CASES = {
    "deep linear": (DeepLinear([3, 4, 2, 3]), Square(), ["layer 1", "layer 2"]),
    "linear with bias": (FullyConnected([3, 4, 4, 2], "linear", bias=True), Square(), ["layer 1", "layer 2"]),
    "relu": (FullyConnected([3, 5, 4, 1], "relu", bias=True), Logistic(), ["layer 1", "layer 2"]),
    "leaky relu": (FullyConnected([3, 5, 2], "leaky_relu(0.2)"), CrossEntropy(), ["layer 1"]),
    "abs": (FullyConnected([3, 5, 1], "abs"), Exponential(), ["layer 1"]),
    "quadratic": (FullyConnected([3, 4, 3, 2], ["quadratic", "relu"], bias=True), Square(), ["layer 1", "layer 2"]),
    "relu squared": (FullyConnected([3, 4, 1], "relu_squared"), Logistic(), ["layer 1"]),
    "relu then linear": (FullyConnected([3, 4, 4, 3, 1], ["relu", "linear", "linear"]), Logistic(), None),
    "tanh then linear": (FullyConnected([3, 4, 4, 1], ["tanh", "linear"]), Square(), ["layer 2"]),
    "identity over one linear layer": (DeepLinear([3, 4, 4, 1], skips=[Skip(1, 2)]), Logistic(), None),
    "identity over two layers": (
        DeepLinear([3, 4, 4, 4, 4, 2], skips=[Skip(2, 4)]),
        Square(),
        ["layer 1", "layers 2+4", "layer 3"],
    ),
    "free linear skip": (DeepLinear([3, 5, 4, 4, 4, 1], skips=[Skip(1, 4, "linear")]), Logistic(), None),
    "identity over a relu": (
        FullyConnected([3, 4, 4, 2], "relu", bias=True, skips=[Skip(1, 2)]),
        Square(),
        ["layers 1+2"],
    ),
    "identity over a quadratic": (
        FullyConnected([3, 4, 4, 2], ["relu", "quadratic"], skips=[Skip(1, 2)]),
        Square(),
        ["layers 1+2"],
    ),
    "relu inside a residual block": (
        FullyConnected([3, 4, 5, 4, 2], ["linear", "relu", "linear"], skips=[Skip(1, 3)]),
        Square(),
        ["layers 1+3", "layer 2"],
    ),
    "linear skip into a quadratic": (
        FullyConnected([3, 4, 3, 2], ["relu", "quadratic"], skips=[Skip(0, 2, "linear")]),
        Square(),
        ["layer 1", "layer 2"],
    ),
    "identity beside a linear skip": (
        FullyConnected([3, 4, 4, 4, 2], "relu", skips=[Skip(1, 3), Skip(1, 3, "linear")]),
        Square(),
        ["layer 1", "layer 2", "layer 3"],
    ),
    "identity from the input": (DeepLinear([4, 4, 3, 1], skips=[Skip(0, 1)]), Square(), ["layer 1", "layer 2"]),
    "residual, trained read-out": (ResidualLinear(3, 3, readout=2), Square(), ["layer 1", "layer 2", "layer 3"]),
    "residual, fixed read-out": (ResidualLinear(3, 3, readout=[[1, 2, 3]]), Square(), ["layer 1", "layer 2"]),
    "convolutional relu": (Convolutional((2, 5, 5), [3, 2], 2, outputs=2), Square(), ["layer 1", "layer 2"]),
    "convolutional linear": (
        Convolutional((2, 5, 5), [3, 2], 2, outputs=2, activation="linear"),
        CrossEntropy(),
        ["layer 1", "layer 2"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_derivative_along_the_flow_vanishes(case):
    network, loss, names = CASES[case]
    problem, theta = made(network, loss)
    assert measure.invariants(problem, theta)
    assert_law(problem, theta, names=names)


@pytest.mark.parametrize("network", [FullyConnected([3, 4, 1], "tanh"), ResidualLinear(2, 3), DeepLinear([3, 2])])
def test_none_where_there_are_none(network):
    decay = 0.1 if isinstance(network, ResidualLinear) else 0.0
    problem, theta = made(network, decay=decay)
    assert measure.invariants(problem, theta) == measure.invariant_names(problem) == {}
    assert measure.invariant_decay(problem) == {}


def test_values_are_the_textbook_ones():
    rng = np.random.default_rng(1)
    problem, theta = made(FullyConnected([3, 4, 4, 2], ["relu", "linear"], bias=True))
    w = problem.layers(theta)
    found = measure.balancedness(problem, theta)
    neurons = [
        sum(w["W1"][i, j] ** 2 for j in range(3)) + w["b1"][i] ** 2 - sum(w["W2"][o, i] ** 2 for o in range(4))
        for i in range(4)
    ]
    np.testing.assert_allclose(found["layer 1"], neurons, rtol=1e-13)
    matrix = w["W3"].T @ w["W3"] - w["W2"] @ w["W2"].T - np.outer(w["b2"], w["b2"])
    np.testing.assert_allclose(found["layer 2"], matrix, rtol=0, atol=1e-13)
    np.testing.assert_allclose(measure.balancedness(problem, theta, layer=2), matrix, rtol=0, atol=1e-13)
    total = np.sqrt(np.sum(np.square(neurons)) + np.sum(matrix**2))
    np.testing.assert_allclose(measure.imbalance(problem, theta), total, rtol=1e-13)

    squares, theta = made(FullyConnected([3, 2, 1], "quadratic"))
    w = squares.layers(theta)
    expected = (w["W1"] ** 2).sum(1) - 2 * (w["W2"] ** 2).sum(0)
    np.testing.assert_allclose(measure.balancedness(squares, theta)["layer 1"], expected, rtol=1e-13)

    conv, _ = made(Convolutional((1, 4, 4), [2], 2))
    theta = rng.standard_normal(conv.size)
    w = conv.layers(theta)
    expected = [(w["W1"][c] ** 2).sum() - (w["W2"][0, 9 * c : 9 * c + 9] ** 2).sum() for c in range(2)]
    np.testing.assert_allclose(measure.balancedness(conv, theta)["layer 1"], expected, rtol=1e-13)


def test_balanced_start_is_balanced():
    problem, _ = made(DeepLinear([5, 4, 4, 3]))
    assert measure.imbalance(problem, problem.init(2.0, scheme="zero-balanced")) < 1e-13
    assert measure.imbalance(problem, problem.init(2.0, scheme="gaussian")) > 0.1


def block(problem, name):
    return lambda theta: problem.layers(theta)[name]


def test_skips_as_in_le_and_jegelka():
    """The forms of arXiv 2201.11968, and the naive ones, which drift."""
    one, theta = made(DeepLinear([3, 4, 4, 1], skips=[Skip(1, 2)]), Logistic())
    w1, w2, w3 = (block(one, name) for name in ("W1", "W2", "W3"))
    eye = np.eye(4)
    before = lambda t: (w2(t) + eye).T @ (w2(t) + eye) - w1(t) @ w1(t).T  # noqa: E731
    behind = lambda t: w3(t).T @ w3(t) - (w2(t) + eye) @ (w2(t) + eye).T  # noqa: E731
    naive = lambda t: w3(t).T @ w3(t) - w2(t) @ w2(t).T  # noqa: E731
    found = measure.invariants(one, theta)
    np.testing.assert_allclose(found["layer 1"], before(theta), atol=1e-13)
    np.testing.assert_allclose(found["layer 2"], behind(theta), atol=1e-13)
    assert np.abs(along_flow(one, theta, naive)).max() > 1e-3

    two, theta = made(DeepLinear([3, 4, 4, 4, 4, 2], skips=[Skip(2, 4)]))
    w2, w3, w4, w5 = (block(two, f"W{number}") for number in (2, 3, 4, 5))
    inside = lambda t: w4(t).T @ w4(t) - w3(t) @ w3(t).T  # noqa: E731
    together = lambda t: w3(t).T @ w3(t) + w5(t).T @ w5(t) - w2(t) @ w2(t).T - w4(t) @ w4(t).T  # noqa: E731
    found = measure.invariants(two, theta)
    np.testing.assert_allclose(found["layer 3"], inside(theta), atol=1e-13)
    np.testing.assert_allclose(found["layers 2+4"], together(theta), atol=1e-13)
    for outside in (lambda t: w3(t).T @ w3(t) - w2(t) @ w2(t).T, lambda t: w5(t).T @ w5(t) - w4(t) @ w4(t).T):
        assert np.abs(along_flow(two, theta, outside)).max() > 1e-3

    free, theta = made(DeepLinear([3, 5, 4, 4, 4, 1], skips=[Skip(1, 4, "linear")]), Logistic())
    w4, w5, u = (block(free, name) for name in ("W4", "W5", "U4"))
    behind = lambda t: w5(t).T @ w5(t) - w4(t) @ w4(t).T - u(t) @ u(t).T  # noqa: E731
    np.testing.assert_allclose(measure.invariants(free, theta)["layer 4"], behind(theta), atol=1e-13)
    without = lambda t: w5(t).T @ w5(t) - w4(t) @ w4(t).T  # noqa: E731
    assert np.abs(along_flow(free, theta, without)).max() > 1e-3


def test_wrong_forms_drift():
    relu, theta = made(FullyConnected([3, 5, 1], "relu", bias=True))
    w1, b1, w2 = (block(relu, name) for name in ("W1", "b1", "W2"))
    full = along_flow(relu, theta, lambda t: w2(t).T @ w2(t) - w1(t) @ w1(t).T - np.outer(b1(t), b1(t)))
    assert np.abs(np.diag(full)).max() < 1e-13
    assert np.abs(full).max() > 1e-3
    assert np.abs(along_flow(relu, theta, lambda t: (w1(t) ** 2).sum(1) - (w2(t) ** 2).sum(0))).max() > 1e-3

    squares, theta = made(FullyConnected([3, 4, 1], "quadratic"))
    w1, w2 = block(squares, "W1"), block(squares, "W2")
    assert np.abs(along_flow(squares, theta, lambda t: (w1(t) ** 2).sum(1) - (w2(t) ** 2).sum(0))).max() > 1e-3


def random_network(rng):
    """Equal widths, so that every skip fits; activations of all kinds."""
    depth = int(rng.integers(2, 6))
    kinds = ["linear", "linear", "relu", "leaky_relu", "quadratic", "tanh"]
    activations = [str(rng.choice(kinds)) for _ in range(depth - 1)]
    skips = {}
    for _ in range(rng.integers(0, 4)):
        source = int(rng.integers(0, depth))
        skip = Skip(source, int(rng.integers(source + 1, depth + 1)), str(rng.choice(["identity", "linear"])))
        skips[skip.target, skip.kind] = skip
    return FullyConnected([3] * (depth + 1), activations, bias=bool(rng.integers(2)), skips=list(skips.values()))


@pytest.mark.parametrize(
    "network",
    [
        DeepLinear([2, 2, 2, 2]),
        FullyConnected([2, 2, 2, 2], "relu", bias=True),
        FullyConnected([2, 2, 2, 1], ["tanh", "linear"]),
        FullyConnected([2, 2, 2, 1], ["linear", "relu"], skips=[Skip(1, 2)]),
        DeepLinear([2, 2, 2, 2, 1], skips=[Skip(1, 3)]),
        DeepLinear([2, 2, 2, 2], skips=[Skip(0, 2, "linear")]),
        ResidualLinear(2, 2, readout=1),
    ],
)
def test_none_is_missed(network):
    """Every quadratic law theta.Q theta + l.theta for all data is listed: the null space of its conditions counts them.

    Each draw of data and theta asks (2 Q theta + l).grad F = 0, linear in (Q, l).
    """
    upper = np.triu_indices(network.size)
    conditions = []
    for seed in range(2 * len(upper[0])):
        problem, theta = made(network, n=2, seed=seed)
        gradient = problem.gradient(theta)
        gradient /= np.linalg.norm(gradient)
        products = np.outer(theta, gradient) + np.outer(gradient, theta)
        conditions.append(np.concatenate([products[upper], gradient]))
    strengths = np.linalg.svd(np.array(conditions), compute_uv=False)
    found = measure.invariants(*made(network)).values()
    entries = sum(len(v) * (len(v) + 1) // 2 if v.ndim == 2 else len(v) for v in found)
    assert entries == (strengths < 1e-9 * strengths[0]).sum()


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_random_architectures(decay):
    """Whatever the skips and activations: what is called conserved is conserved."""
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(60):
        problem, _ = made(random_network(rng), decay=decay)
        theta = 0.5 * rng.standard_normal(problem.size)
        assert_law(problem, theta)
        found += len(measure.invariants(problem, theta))
    assert found > 60


@pytest.mark.parametrize("case", ["deep linear", "linear with bias", "quadratic", "identity over a relu"])
def test_decay_law(case):
    network, loss, names = CASES[case]
    problem, theta = made(network, loss, decay=0.25)
    assert_law(problem, theta, names=names)
    assert set(measure.invariant_decay(problem).values()) == {1.0}


def test_decay_acts_on_w_not_on_w_plus_identity():
    network = DeepLinear([3, 4, 4, 1], skips=[Skip(1, 2)])
    problem, theta = made(network, decay=0.25)
    assert_law(problem, theta, names=["layers 1+2"])


def test_layers_at_different_speeds():
    rates = {"W1": 2.0, "b1": 3.0, "W2": 0.5}
    problem, theta = made(FullyConnected([3, 4, 4, 2], ["relu", "linear"], bias=True))
    assert_law(problem, theta, rates, names=["layer 1", "layer 2"])
    plain = along_flow(problem, theta, lambda t: measure.invariants(problem, t)["layer 2"], rates)
    assert np.abs(plain).max() > 1e-3
    assert (
        measure.invariant_names(problem, rates)["layer 1"]
        == "0.5 |W1 rows|^2 + 0.333333 |b1 rows|^2 - 2 |W2 columns|^2"
    )

    with_decay, theta = made(DeepLinear([3, 4, 4, 2]), decay=0.1)
    assert_law(with_decay, theta, {"W1": 2.0, "W2": 2.0}, names=["layer 1"])
    np.testing.assert_allclose(measure.invariant_decay(with_decay, {"W1": 2.0, "W2": 2.0})["layer 1"], 0.8)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.2])
@pytest.mark.parametrize("rates", [{}, {"u": 3.0}])
def test_diagonal(depth, signed, decay, rates):
    problem, theta = made(Diagonal(6, depth, signed), n=3, decay=decay)
    theta = theta + 0.5 * np.sign(theta)
    v = -problem.gradient(theta) * speeds(problem, rates)
    laws = measure.invariant_decay(problem, rates)
    mixed = signed and decay and rates and depth != 2
    assert list(laws) == ([] if mixed else ["coordinates" if signed else "kernel"])
    for name, rate in laws.items():
        value = lambda t, name=name: measure.invariants(problem, t, rates)[name]  # noqa: E731
        step = 1e-3 / np.abs(v / theta).max()
        central = [(value(theta + h * v) - value(theta - h * v)) / (2 * h) for h in (step, step / 2, step / 4)]
        fourth = [(4 * central[1] - central[0]) / 3, (4 * central[2] - central[1]) / 3]
        slope = (16 * fourth[1] - fourth[0]) / 15
        scale = np.abs(v / theta).max() * np.abs(value(theta)).max()
        np.testing.assert_allclose(slope / scale, -rate * value(theta) / scale, rtol=0, atol=1e-10)


def test_diagonal_values():
    u, v = np.array([2.0, -1.0, 0.5]), np.array([4.0, 3.0, -2.0])
    for depth, expected in ((2, u * v), (3, 1 / u + 1 / v), (4, u**-2 + v**-2)):
        problem, _ = made(Diagonal(3, depth), n=2)
        found = measure.invariants(problem, np.concatenate([u, v]))
        np.testing.assert_allclose(found["coordinates"], expected, rtol=1e-14)
    problem, _ = made(Diagonal(3, 2, signed=False), n=2)
    found = measure.invariants(problem, u)["kernel"]
    normal = np.cross(*problem.x)
    np.testing.assert_allclose(np.abs(found), [np.abs(normal @ np.log(np.abs(u))) / np.linalg.norm(normal)], rtol=1e-12)


def test_diagonal_kernel_is_empty_for_enough_samples():
    problem, theta = made(Diagonal(4, 3, signed=False), n=9)
    assert measure.invariants(problem, theta) == measure.invariant_names(problem) == {}


@pytest.mark.parametrize(
    ("network", "decay"),
    [
        (DeepLinear([3, 4, 2]), 0.0),
        (DeepLinear([3, 4, 2]), 0.1),
        (FullyConnected([3, 3, 2], "quadratic", bias=True), 0.0),
        (ResidualLinear(2, 3, readout=1), 0.0),
        (Diagonal(4, 2), 0.1),
        (Diagonal(4, 3), 0.0),
        (Diagonal(4, 3, signed=False), 0.1),
    ],
)
def test_drift_of_an_integrated_flow(network, decay):
    problem, theta = made(network, n=3, decay=decay)
    theta = theta + 0.5 * np.sign(theta) if isinstance(network, Diagonal) else 0.5 * theta
    flow = solve_ivp(lambda t, s: -problem.gradient(s), (0, 2), theta, "DOP853", rtol=1e-12, atol=1e-14)
    end = flow.y[:, -1]
    assert np.linalg.norm(end - theta) > 0.1
    start = measure.invariants(problem, theta)
    for name, rate in measure.invariant_decay(problem).items():
        drift = measure.invariants(problem, end)[name] - start[name] * np.exp(-rate * flow.t[-1])
        assert np.abs(drift).max() < 1e-9 * np.abs(start[name]).max()


@pytest.mark.parametrize(
    "network",
    [FullyConnected([3, 4, 4, 2], ["relu", "linear"], bias=True), Diagonal(5, 2), Diagonal(5, 3, signed=False)],
)
def test_batch_is_one_by_one(network):
    problem, _ = made(network, n=3)
    batch = np.random.default_rng(3).standard_normal((4, problem.size))
    together = measure.invariants(problem, batch)
    assert together
    for name, value in together.items():
        alone = np.stack([measure.invariants(problem, row)[name] for row in batch])
        np.testing.assert_allclose(value, alone, rtol=1e-13, atol=1e-13)


def test_convolution_batch_is_one_by_one():
    problem, _ = made(Convolutional((1, 4, 4), [2, 3], 2))
    batch = np.random.default_rng(3).standard_normal((4, problem.size))
    np.testing.assert_allclose(
        measure.imbalance(problem, batch), [measure.imbalance(problem, row) for row in batch], rtol=1e-13
    )


def test_bad_input():
    problem, theta = made(DeepLinear([3, 4, 2]))
    with pytest.raises(ValueError, match=r"rates name \['W7'\].*W1, W2"):
        measure.invariants(problem, theta, {"W7": 1.0})
    with pytest.raises(ValueError, match="positive"):
        measure.invariants(problem, theta, {"W1": -1.0})
    with pytest.raises(ValueError, match="shape"):
        measure.invariants(problem, theta[:-1])
    with pytest.raises(ValueError, match=r"no balance at layer = 2.*layers: \[1\]"):
        measure.balancedness(problem, theta, layer=2)
    smooth, theta = made(FullyConnected([3, 4, 2], "tanh"))
    with pytest.raises(ValueError, match="homogeneous activation"):
        measure.balancedness(smooth, theta)
