"""Published experiments with relu networks on which adaptive solvers stall: each is followed in seconds."""

import numpy as np
import pytest
from test_kinks_cases import classification

import gradflow as gf
from gradflow.status import Status
from gradflow.steppers.kinked import Kinked

FLOW = gf.GradientFlow()
RTOL = 1e-8
CONSERVED = 100.0 * RTOL


def exponential_problem(rng, x, y, widths, relu_layers):
    """Exponential loss on x (d, n), and weights of variance 2 / fan-in in relu layers, 1 / fan-in in linear ones."""
    weights = []
    for layer, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        spread = np.sqrt((2.0 if layer < relu_layers else 1.0) / inputs)
        weights.append(rng.normal(size=(outputs, inputs)) * spread)
    activations = ["relu"] * relu_layers + ["linear"] * (len(widths) - 2 - relu_layers)
    return gf.Problem(gf.FullyConnected(widths, activations), gf.losses.Exponential(), x.T, y), weights


def flatten(weights):
    return np.concatenate([block.ravel() for block in weights])


def relu_body_and_linear_tail(seed):
    rng = np.random.default_rng(100 + seed)
    x = rng.normal(size=(2, 16))
    y = np.where(x[1] > 0.8 * np.abs(x[0]), 1.0, -1.0)
    x[1] += 0.3 * y
    problem, weights = exponential_problem(rng, np.vstack([x, np.ones(16)]), y, [3, 8, 8, 5, 5, 1], 2)
    return problem, flatten(weights)


def interface(problem, theta, layer):
    """W_{l+1}^T W_{l+1} - W_l W_l^T."""
    layers = problem.layers(theta)
    below, above = layers[f"W{layer}"], layers[f"W{layer + 1}"]
    return above.T @ above - below @ below.T


def shares(problem, theta):
    """Spectral norm of each layer over its Frobenius norm."""
    return [np.linalg.norm(block, 2) / np.linalg.norm(block) for block in problem.layers(theta).values()]


TAILS = {
    0: (-592.0, [0.642, 0.742, 0.945, 0.910, 1.0]),
    1: (-607.0, [0.724, 0.697, 0.926, 0.935, 1.0]),
    2: (-720.0, [0.861, 0.762, 0.924, 0.947, 1.0]),
    3: (-1308.0, [0.714, 0.671, 0.960, 0.972, 1.0]),
}


@pytest.mark.parametrize("seed", TAILS)
def test_linear_interfaces_are_conserved_above_relu_layers_and_relu_ones_are_not(seed):
    """arXiv 2201.11968: full matrices at linear interfaces, diagonals at relu ones, rank one in the linear tail."""
    log_loss, expected = TAILS[seed]
    problem, theta = relu_body_and_linear_tail(seed)
    down = gf.LossBelow(log10=log_loss / np.log(10.0))
    run = gf.simulate(problem, theta, FLOW, stop=down, rtol=RTOL, save_at=2, clock="log_loss", max_gradients=10_000)
    assert run.log10_loss[-1] == pytest.approx(log_loss / np.log(10.0), abs=1e-6)
    np.testing.assert_allclose(shares(problem, run.end), expected, atol=1.1e-3)
    drift = {layer: interface(problem, run.end, layer) - interface(problem, theta, layer) for layer in range(1, 5)}
    for layer in (3, 4):
        assert np.abs(drift[layer]).max() < CONSERVED
    for layer in (1, 2):
        assert np.abs(np.diag(drift[layer])).max() < CONSERVED
        assert np.abs(drift[layer]).max() > 2.0
    gaps = [(block**2).sum() - np.linalg.norm(block, 2) ** 2 for block in problem.layers(run.end).values()]
    bound = 0.0
    for layer in (4, 3):
        imbalance = -interface(problem, theta, layer)
        bound += np.trace(imbalance) - np.linalg.eigvalsh(imbalance)[0]
        assert gaps[layer - 1] <= bound + 1e-7


def test_neurons_that_stay_active_keep_their_whole_submatrix():
    """arXiv 2201.11968: entries of neurons that are active on all samples are conserved, those of others are not."""
    rng = np.random.default_rng(1)
    x = rng.uniform(0.5, 1.5, (3, 12))
    y = np.sign(x[0] - x[1])
    x[0] += 0.15 * y
    problem, weights = exponential_problem(rng, x, y, [3, 6, 5, 4, 1], 1)
    weights[0][:3] = np.abs(weights[0][:3])
    theta, down = flatten(weights), gf.LossBelow(log10=-100)
    run = gf.simulate(problem, theta, FLOW, stop=down, rtol=RTOL, save_at=2, clock="log_loss", max_gradients=30_000)
    assert run.log10_loss[-1] == pytest.approx(-100.0, abs=1e-6)
    drift = np.abs(interface(problem, run.end, 1) - interface(problem, theta, 1))
    assert drift[:3, :3].max() < CONSERVED
    assert drift[3:].max() > 0.1
    for layer in (2, 3):
        assert np.abs(interface(problem, run.end, layer) - interface(problem, theta, layer)).max() < CONSERVED


SAMPLES, TARGETS = np.array([-0.8, -0.44, -0.12, 0.28, 0.76]), np.array([0.3, -0.5, 0.4, 0.1, -0.4])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_knots_of_a_univariate_network_gather_at_the_samples(seed):
    r"""arXiv 1906.07842, adaptive regime: f = sum c [a x + b]_+ / 10, with theta / sqrt(10) in the place of theta.

    Half the knots end on samples, where they slide, and f is close to the linear spline through the samples.
    """
    knots = np.tile(np.arange(-0.98, 1.0, 0.04), 2)
    side = np.repeat([1.0, -1.0], knots.size // 2)
    first = 0.3 * (side / np.sqrt(1.0 + knots**2))[:, None] * np.column_stack([np.ones(knots.size), -knots])
    second = np.where(np.random.default_rng(seed).random(knots.size) < 0.5, -2.0, 2.0)
    x = np.column_stack([SAMPLES, np.ones(5)])
    loss = gf.losses.Square(reduction="sum", half=True)
    problem = gf.Problem(gf.FullyConnected([2, knots.size, 1]), loss, x, TARGETS)
    theta = np.concatenate([first.ravel(), second]) / np.sqrt(10.0)
    run = Kinked(problem, 0.0, theta, rtol=1e-7)
    assert run.advance(60.0, max_gradients=12_000) is Status.REACHED_END
    layers = problem.layers(run.state)
    w, c = layers["W1"], layers["W2"][0]
    ends, weights = -w[:, 1] / w[:, 0], np.abs(c) * np.linalg.norm(w, axis=1)
    inside = (ends > -0.85) & (ends < 0.81)
    near = np.abs(ends[:, None] - SAMPLES).min(axis=1) < 0.015
    assert weights[inside & near].sum() > 0.85 * weights[inside].sum()
    assert run.sliding.size >= 40
    grid = np.linspace(-0.8, 0.76, 400)
    f = c @ np.maximum(w @ np.vstack([grid, np.ones(400)]), 0.0)
    assert np.abs(f - np.interp(grid, SAMPLES, TARGETS)).max() < 0.1
    assert run.value < 1e-7
    before = problem.layers(theta)
    imbalance = c**2 - (w**2).sum(axis=1) - before["W2"][0] ** 2 + (before["W1"] ** 2).sum(axis=1)
    assert np.abs(imbalance).max() < 1e-8


def test_gradient_descent_is_of_first_order_about_the_flow_through_hundreds_of_kinks():
    """arXiv 2107.06608, problem with four clusters: 471 crossings and 25 slides, no branch."""
    problem, theta = classification()
    times = np.linspace(0.0, 50.0, 101)
    flow = gf.simulate(problem, theta, FLOW, t_end=50.0, rtol=1e-9, save_at=times)
    assert flow.kinks.count("slide") >= 20
    assert flow.kinks.count("branch") == 0
    steps = (5e-2, 2.5e-2, 1e-2, 5e-3)
    runs = [gf.simulate(problem, theta, gf.GD(step), t_end=50.0, save_at=times) for step in steps]
    comparison = gf.compare(flow, runs)
    assert abs(np.polyfit(np.log(steps), np.log(comparison.max_distance), 1)[0] - 1.0) < 0.05
    assert comparison.max_distance[0] < 0.02
