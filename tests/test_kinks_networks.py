"""Kinked runs on many networks: random seeds, depth, losses, activations, merged samples, sleeping units."""

import numpy as np
import pytest
from test_kinks_cases import euler, regression

import gradflow as gf
from gradflow.status import Status
from gradflow.steppers.kinked import Kinked

HALF = gf.losses.Square(half=True)


def balanced(problem, theta):
    layers = problem.layers(theta)
    into = np.sqrt((layers["W1"] ** 2).sum(1) + layers["b1"] ** 2)
    return problem.flatten({**layers, "W2": np.sign(layers["W2"]) * into})


FAMILIES = {
    "5-20-1": ([5, 20, 1], "relu", 60.0),
    "5-20-1 balanced": ([5, 20, 1], "relu", 60.0),
    "5-20-1 leaky": ([5, 20, 1], "leaky_relu(0.1)", 60.0),
    "3-30-1": ([3, 30, 1], "relu", 100.0),
    "1-30-1": ([1, 30, 1], "relu", 100.0),
    "5-12-12-1": ([5, 12, 12, 1], "relu", 30.0),
    "5-12-12-1 leaky": ([5, 12, 12, 1], "leaky_relu(0.1)", 30.0),
}


def run_family(name, seed, rtol=1e-7, budget=10_000):
    widths, activation, t_end = FAMILIES[name]
    problem, theta = regression(widths, seed, activation=activation)
    if name.endswith("balanced"):
        theta = balanced(problem, theta)
    run = Kinked(problem, 0.0, theta, rtol=rtol)
    value = run.value
    while (status := run.advance(t_end, max_steps=1, max_gradients=budget)) is Status.PAUSED:
        assert run.value <= value + 1e-9
        value = run.value
    return status, run


QUICK = [(name, seed) for seed in (5, 0, 1, 2) for name in FAMILIES][:25]


@pytest.mark.parametrize(("name", "seed"), QUICK)
def test_a_random_start_reaches_the_end(name, seed):
    status, run = run_family(name, seed)
    assert status is Status.REACHED_END
    assert run.number_sliding[1].max() >= 2


@pytest.mark.slow
@pytest.mark.parametrize("rtol", [1e-6, 1e-7, 1e-8])
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", FAMILIES)
def test_all_random_starts_reach_the_end(name, seed, rtol):
    status, run = run_family(name, seed, rtol, 10_000 if rtol == 1e-7 else 15_000)
    assert status is Status.REACHED_END
    if name.endswith("balanced") or len(FAMILIES[name][0]) > 3:
        assert run.branch_points == []


@pytest.mark.parametrize(("widths", "outputs"), [((4, 10, 10, 10), 2), ((4, 8, 8, 8, 8), 1)])
def test_deep_networks_agree_with_gradient_descent_and_with_themselves(widths, outputs):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(24, 4)), rng.normal(size=(24, outputs))
    problem = gf.Problem(gf.FullyConnected([*widths, outputs], bias=True), HALF, x, y)
    theta = problem.init(1.0, seed=1, scheme="he", bias=0.3)
    runs = [Kinked(problem, 0.0, theta, rtol=rtol) for rtol in (1e-6, 1e-8, 1e-10)]
    assert all(run.advance(8.0) is Status.REACHED_END for run in runs)
    errors = [np.abs(run.state - runs[2].state).max() for run in runs[:2]]
    assert errors[0] < 2e-6
    assert errors[1] < 3e-8
    assert runs[0].number_sliding[1].max() >= 5
    steps = (2e-3, 5e-4)
    rough = [np.abs(euler(problem, theta, step, 8.0) - runs[2].state).max() for step in steps]
    assert rough[0] < steps[0]
    assert rough[1] < steps[1]


ACTIVATIONS = ["relu", "leaky_relu(0.2)", "abs", ("relu", "tanh"), ("tanh", "relu"), ("relu", "linear", "abs")]
LOSSES = {
    "square": (gf.losses.Square(), 3),
    "logistic": (gf.losses.Logistic(), 1),
    "exponential": (gf.losses.Exponential(), 1),
    "cross-entropy": (gf.losses.CrossEntropy(), 3),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_losses_and_activations_agree_with_gradient_descent(activation, loss):
    function, outputs = LOSSES[loss]
    case = ACTIVATIONS.index(activation) + 10 * list(LOSSES).index(loss)
    rng = np.random.default_rng(case)
    hidden = [8] if isinstance(activation, str) else [6] * len(activation)
    x = rng.normal(size=(15, 4))
    y = {"real": rng.normal(size=(15, 3)), "class": rng.integers(0, 3, 15), "sign": rng.choice([-1.0, 1.0], 15)}
    network = gf.FullyConnected([4, *hidden, outputs], activation, bias=bool(case % 2))
    problem = gf.Problem(network, function, x, y[function.labels], decay=0.01 * (case % 3))
    theta = problem.init(1.2, seed=case)
    run = Kinked(problem, 0.0, theta, rtol=1e-8)
    assert run.advance(4.0) is Status.REACHED_END
    assert len(run.events) >= 1
    assert np.abs(euler(problem, theta, 2.5e-4, 4.0) - run.state).max() < 2.5e-4


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("hidden", [(8,), (6, 6)])
def test_equal_and_collinear_samples_are_merged(hidden, bias):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(6, 3))
    x = np.vstack([x, x[:3], -x[2:5], 2.0 * x[1:3]])
    problem = gf.Problem(gf.FullyConnected([3, *hidden, 1], bias=bias), HALF, x, rng.normal(size=14))
    theta = problem.init(1.2, seed=2, bias=0.2)
    run = Kinked(problem, 0.0, theta, rtol=1e-8)
    assert run.advance(10.0) is Status.REACHED_END
    assert len(run.network.members) >= 6
    assert np.abs(euler(problem, theta, 5e-4, 10.0) - run.state).max() < 1e-3


def test_one_input_without_bias_is_one_kink_per_neuron():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 1))
    problem = gf.Problem(gf.FullyConnected([1, 5, 1], "leaky_relu(0.1)"), HALF, x, -np.abs(x[:, 0]))
    run = Kinked(problem, 0.0, problem.init(1.0, seed=3), rtol=1e-9)
    assert run.network.live.sum() == 5
    assert run.advance(20.0) is Status.REACHED_END
    assert np.abs(euler(problem, problem.init(1.0, seed=3), 1e-3, 20.0) - run.state).max() < 1e-3


def test_twin_neurons_stay_twins():
    problem, theta = regression([5, 20, 1])
    layers = {name: block.copy() for name, block in problem.layers(theta).items()}
    for name in ("W1", "b1"):
        layers[name][7] = layers[name][8]
    layers["W2"][0, 7] = layers["W2"][0, 8]
    run = Kinked(problem, 0.0, problem.flatten(layers))
    run.advance(10.0)
    after = problem.layers(run.state)
    np.testing.assert_allclose(after["W1"][7], after["W1"][8], atol=1e-14)
    assert (run.events["kind"] == "slide").sum() > 3


def test_units_above_a_sample_that_falls_asleep_wake_on_the_right_side():
    """Without biases a sample may lose its last active unit; the layer above is then at 0, until it wakes."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        problem = gf.Problem(gf.FullyConnected([2, 3, 4, 1]), HALF, rng.normal(size=(12, 2)), rng.normal(size=12))
        theta = problem.init(1.5, seed=seed)
        run = Kinked(problem, 0.0, theta, rtol=1e-7)
        assert run.advance(6.0, max_gradients=8000) is Status.REACHED_END
        assert np.abs(euler(problem, theta, 1e-3, 6.0) - run.state).max() < 2e-3


def test_sliding_in_three_layers_satisfies_the_inclusion():
    """n_a . v = 0 on sliding kinks, their masks in [0, 1], and v is the velocity under these masks."""
    problem, theta = regression([5, 20, 20, 1])
    run = Kinked(problem, 0.0, theta, rtol=1e-8)
    stacked = 0
    for t_end in np.linspace(1.0, 20.0, 40):
        run.advance(t_end)
        masks, kinks = run.masks, run.sliding
        under_masks = run.network.run(run.state, masks)
        np.testing.assert_allclose(-under_masks.gradient, run.velocity, atol=1e-9)
        assert masks.min() >= 0.0
        assert masks.max() <= 1.0
        speed = run.network.normals(run.state, under_masks.slope, under_masks.h, kinks) @ run.velocity
        np.testing.assert_allclose(speed, 0.0, atol=1e-9)
        assert (run.network.attraction(under_masks.delta, kinks) > 0.0).all()
        np.testing.assert_allclose(under_masks.z[kinks], 0.0, atol=1e-12)
        layers, samples = run.network.layers[kinks], run.network.samples[kinks]
        stacked += np.intersect1d(samples[layers == 0], samples[layers == 1]).size
    assert stacked > 0


def test_kinks_kept_at_zero_by_sliding_ones_cause_no_events():
    """A sample whose last active unit slides has the features of an inactive one: their kinks coincide from then on."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=12)
    problem = gf.Problem(gf.FullyConnected([3, 4, 4, 4, 1], bias=True), HALF, x, y)
    run = Kinked(problem, 0.0, problem.init(1.5, seed=2, bias=0.5))
    assert run.advance(10.0, max_gradients=1500) is Status.REACHED_END


@pytest.mark.parametrize("seed", range(6))
def test_zero_biases_under_a_kinked_layer_do_not_cross_without_being_pushed(seed):
    """Where |z| of the layer below touches 0, a unit with bias 0 is at 0 too, and goes back to its side."""
    rng = np.random.default_rng(seed)
    network = gf.FullyConnected([1, 1, 4, 1], ("abs", "relu"), bias=True)
    problem = gf.Problem(network, HALF, rng.normal(size=(3, 1)), rng.normal(size=3))
    theta = problem.init(1.0, seed=seed)
    run = Kinked(problem, 0.0, theta, rtol=1e-8)
    assert run.advance(5.0) is Status.REACHED_END
    assert np.abs(euler(problem, theta, 5e-4, 5.0) - run.state).max() < 2e-3


def test_a_neuron_that_passes_through_the_origin_is_reported():
    """All kinks of a neuron meet where its weights are 0; where some repel, several directions lead away from there."""
    rng = np.random.default_rng(61)
    problem = gf.Problem(
        gf.FullyConnected([2, 5, 1]), gf.losses.Square(), rng.normal(size=(10, 2)), rng.normal(size=10)
    )
    theta = problem.init(0.3, seed=61)
    theta[10:] *= 5.0
    run = Kinked(problem, 0.0, theta)
    assert run.advance(10.0) is Status.REACHED_END
    assert "may not be unique after t = 1.20409: layer 1 neuron 4 at the origin" in run.message
    again = Kinked(problem, 0.0, theta)
    again.restore(run.snapshot())
    assert again.message == run.message
