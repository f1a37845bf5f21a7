"""Five hundred random problems with kinks: each run ends, the loss never rises, what must be conserved is conserved."""

import numpy as np
import pytest
from test_kinks_cases import euler

import gradflow as gf
from gradflow.status import Status
from gradflow.steppers.kinked import Kinked

ACTIVATIONS = ("relu", "leaky_relu(0.1)", "leaky_relu(0.5)", "abs")
LOSSES = (gf.losses.Square(), gf.losses.Logistic(), gf.losses.Exponential(), gf.losses.CrossEntropy())
STARTS = ("plain", "balanced", "unbalanced")
T_END, RTOL = 4.0, 1e-7


def samples(rng, n, inputs):
    """Gaussian inputs, of which about a fifth repeat earlier ones or are multiples of them, negative ones too."""
    x = rng.normal(size=(n, inputs))
    for i in range(1, n):
        if rng.random() < 0.2:
            x[i] = rng.choice([1.0, 1.0, 1.0, 0.5, 2.0, -1.0, -3.0]) * x[rng.integers(i)]
    return x


def balance(layers, hidden):
    """Give each hidden neuron incoming weights (and bias) as long as its outgoing ones, from the top down."""
    for layer in range(hidden, 0, -1):
        own = [layers[name] for name in (f"W{layer}", f"b{layer}") if name in layers]
        length = np.sqrt(sum((block**2).reshape(len(block), -1).sum(1) for block in own))
        factor = np.sqrt((layers[f"W{layer + 1}"] ** 2).sum(0)) / length
        for block in own:
            block *= factor.reshape(-1, *[1] * (block.ndim - 1))


def draw(seed):
    """Problem and start: depth 2 to 4, widths 2 to 40, 1 to 60 samples, every loss, with and without biases, decay."""
    rng = np.random.default_rng(seed)
    hidden = [int(width) for width in rng.integers(2, 41, rng.integers(1, 4))]
    n, inputs, bias = int(rng.integers(1, 61)), int(rng.integers(1, 8)), bool(rng.integers(2))
    loss, activation = LOSSES[rng.integers(4)], ACTIVATIONS[rng.integers(4)]
    outputs = {"real": int(rng.integers(1, 4)), "class": int(rng.integers(2, 5)), "sign": 1}[loss.labels]
    x = samples(rng, n, inputs)
    y = {
        "real": rng.normal(size=(n, outputs)),
        "class": rng.integers(0, outputs, n),
        "sign": rng.choice([-1.0, 1.0], n),
    }
    network = gf.FullyConnected([inputs, *hidden, outputs], activation, bias=bias)
    problem = gf.Problem(network, loss, x, y[loss.labels], decay=float(rng.choice([0.0, 0.0, 0.02])))
    scale = rng.uniform(0.3, 1.2) * (0.7 if activation == "abs" else 1.0)
    theta = problem.init(float(scale), seed=seed, scheme="he", bias=0.3 * bias)
    layers = {name: block.copy() for name, block in problem.layers(theta).items()}
    start = STARTS[rng.integers(3)]
    if start == "balanced":
        balance(layers, len(hidden))
    elif start == "unbalanced":
        layers[f"W{len(hidden) + 1}"] *= rng.choice([0.2, 2.0])
    return problem, problem.flatten(layers)


def imbalances(problem, theta):
    """|incoming|^2 - |outgoing|^2 of each hidden neuron: conserved, since the activation is homogeneous of degree 1."""
    layers, found = problem.layers(theta), []
    for layer in range(1, len(problem.network.stages)):
        into = (layers[f"W{layer}"] ** 2).sum(1)
        if f"b{layer}" in layers:
            into = into + layers[f"b{layer}"] ** 2
        found.append(into - (layers[f"W{layer + 1}"] ** 2).sum(0))
    return np.concatenate(found)


def check(seed):
    """Run one problem to the end, step by step."""
    problem, theta = draw(seed)
    run = Kinked(problem, 0.0, theta, rtol=RTOL)
    value = run.value
    while (status := run.advance(T_END, max_steps=1, max_gradients=100_000)) is Status.PAUSED:
        assert run.value <= value + 1e-9
        value = run.value
    assert status is Status.REACHED_END
    expected = np.exp(-4.0 * problem.decay * T_END) * imbalances(problem, theta)
    np.testing.assert_allclose(imbalances(problem, run.state), expected, rtol=0.0, atol=100.0 * RTOL)
    return problem, theta, run


def check_gradient_descent(problem, theta, run):
    """Gradient descent comes nearer in proportion to its step, but for its chatter on kinks, a fraction of the step."""
    steps = (1e-3, 2.5e-4)
    rough, fine = (np.abs(euler(problem, theta, step, T_END) - run.state).max() for step in steps)
    assert fine <= 0.35 * rough + 0.2 * steps[1]
    assert fine <= 8.0 * steps[1]


QUICK = (2, 5, 6, 8, 9, 11, 12, 13, 17, 30, 60, 90)


@pytest.mark.parametrize("seed", QUICK)
def test_a_random_problem_runs_to_its_end(seed):
    problem, theta, run = check(seed)
    if seed % 10 == 0:
        check_gradient_descent(problem, theta, run)


@pytest.mark.slow
@pytest.mark.parametrize("seed", sorted(set(range(500)) - set(QUICK)))
def test_every_random_problem_runs_to_its_end(seed):
    problem, theta, run = check(seed)
    if seed % 10 == 0 and not run.message:
        check_gradient_descent(problem, theta, run)


def test_the_random_problems_cover_what_they_should():
    problems = [draw(seed) for seed in range(500)]
    networks = [problem.network for problem, _ in problems]
    assert {len(network.stages) for network in networks} == {2, 3, 4}
    assert {problem.loss.name for problem, _ in problems} == {loss.name for loss in LOSSES}
    assert {network.stages[0].activation.name for network in networks} == {"relu", "leaky_relu", "abs"}
    assert {min(problem.n, 60) for problem, _ in problems} >= set(range(1, 61))
    spread = [np.abs(imbalances(problem, theta)).max() for problem, theta in problems]
    assert sum(size < 1e-12 for size in spread) > 100
    assert sum(size > 1e-2 for size in spread) > 200
