"""Three reference problems: event counts, error and cost against tolerance, Euler, extension, nodes."""

import functools

import numpy as np
import pytest

import gradflow as gf
from gradflow.kinks.wired import network_of
from gradflow.status import Status
from gradflow.steppers.kinked import Kinked


def regression(widths, seed=0, n=40, activation="relu"):
    """Random data and signs, He weights and random biases."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(widths[0], n)).T, rng.choice([-1.0, 1.0], (1, n)).T
    layers = {}
    for number, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True), 1):
        block = rng.normal(size=(outputs, inputs + 1)) * np.sqrt(2.0 / (inputs + 1))
        layers[f"W{number}"], layers[f"b{number}"] = block[:, :-1], block[:, -1]
    problem = gf.Problem(gf.FullyConnected(widths, activation, bias=True), gf.losses.Square(half=True), x, y)
    return problem, problem.flatten(layers)


def classification():
    """Four Gaussian clusters in 16 dimensions, widths 16-12-12-4, no biases."""
    rng = np.random.default_rng(0)
    centres, labels = rng.normal(size=(4, 16)), np.arange(60) % 4
    x = (centres[labels] + rng.normal(size=(60, 16))) / 4
    problem = gf.Problem(gf.FullyConnected([16, 12, 12, 4]), gf.losses.CrossEntropy(), x, labels)
    rng = np.random.default_rng(1)
    sizes = ((12, 16), (12, 12), (4, 12))
    return problem, np.concatenate([rng.uniform(-1, 1, s).ravel() * np.sqrt(6.0 / sum(s)) for s in sizes])


def euler(problem, theta, step, t_end):
    """Gradient descent on the raw objective, relu'(0) = 0."""
    network = network_of(problem)
    theta = theta.copy()
    for _ in range(round(t_end / step)):
        masks = np.zeros(network.size)
        for _ in network.kinked_layers:
            masks = (network.forward(theta, masks)[0] > 0.0).astype(float)
        theta -= step * network.run(theta, masks).gradient
    return theta


CASES = {
    "two layers": (lambda: regression([5, 20, 1]), 20.0),
    "classes": (classification, 50.0),
    "three layers": (lambda: regression([5, 20, 20, 1]), 20.0),
}
END_LOSS = {"two layers": 0.1625305872, "classes": 0.0079781621, "three layers": 0.0521737454}
EVENTS = {"two layers": (47, 14, 9), "classes": (471, 25, 5), "three layers": (132, 89, 35)}
ERROR_AND_COST = {
    ("two layers", 1e-6): (7.5e-8, 1815),
    ("two layers", 1e-8): (1.7e-9, 3090),
    ("two layers", 1e-10): (1.7e-11, 6115),
    ("classes", 1e-6): (9.2e-8, 5434),
    ("classes", 1e-8): (2.4e-9, 5571),
    ("classes", 1e-10): (1.1e-10, 6055),
    ("three layers", 1e-6): (5.9e-7, 5585),
    ("three layers", 1e-8): (4.9e-9, 7251),
    ("three layers", 1e-10): (3.0e-11, 11235),
}


@functools.cache
def reference(name):
    make, t_end = CASES[name]
    problem, theta = make()
    run = Kinked(problem, 0.0, theta, rtol=1e-11)
    assert run.advance(t_end) is Status.REACHED_END
    return run


@pytest.mark.parametrize("name", CASES)
def test_events_and_end_of_the_reference(name):
    run = reference(name)
    kinds = run.events["kind"].tolist()
    assert (kinds.count("cross"), kinds.count("slide"), run.number_sliding[1].max()) == EVENTS[name]
    assert run.value == pytest.approx(END_LOSS[name], abs=2e-10)
    assert run.message == ""


LONG = {("three layers", 1e-8), ("three layers", 1e-10)}


@pytest.mark.parametrize(
    ("name", "rtol"), [pytest.param(*case, marks=pytest.mark.slow if case in LONG else []) for case in ERROR_AND_COST]
)
def test_error_and_cost_against_tolerance(name, rtol):
    error, cost = ERROR_AND_COST[name, rtol]
    make, t_end = CASES[name]
    problem, theta = make()
    run = Kinked(problem, 0.0, theta, rtol=rtol)
    run.advance(t_end)
    assert np.abs(run.state - reference(name).state).max() < 3.0 * error
    assert run.counts["gradients"] < 1.3 * cost


@pytest.mark.parametrize(
    ("name", "steps"), [("two layers", (2e-3, 5e-4)), ("three layers", (2e-3, 5e-4)), ("classes", (2e-2, 5e-3))]
)
def test_gradient_descent_comes_to_the_same_place_in_proportion_to_its_step(name, steps):
    make, t_end = CASES[name]
    problem, theta = make()
    errors = [np.abs(euler(problem, theta, step, t_end) - reference(name).state).max() for step in steps]
    assert errors[0] < 0.3 * steps[0]
    assert 2.0 < errors[0] / errors[1] < 8.0


@pytest.mark.parametrize("name", ["two layers", "three layers"])
def test_an_extended_run_has_the_bits_of_one_longer_run(name):
    problem, theta = CASES[name][0]()
    times = np.linspace(0.0, 6.0, 61)
    whole = Kinked(problem, 0.0, theta)
    saved = np.zeros((61, problem.size))
    whole.advance(6.0, save_at=times, saved=saved)
    half = Kinked(problem, 0.0, theta)
    half.advance(3.3)
    rest = Kinked(problem, 0.0, theta)
    rest.restore(half.snapshot())
    again = np.zeros((61, problem.size))
    rest.advance(6.0, save_at=times, saved=again)
    np.testing.assert_array_equal(rest.state, whole.state)
    np.testing.assert_array_equal(rest.events, whole.events)
    np.testing.assert_array_equal(again[times > 3.5], saved[times > 3.5])
    assert rest.counts == whole.counts
    assert rest.regions == whole.regions


def test_neither_saving_nor_pausing_changes_the_path():
    problem, theta = CASES["two layers"][0]()
    plain, paused = Kinked(problem, 0.0, theta), Kinked(problem, 0.0, theta)
    plain.advance(4.0)
    times, saved = np.linspace(0.0, 4.0, 33), np.zeros((33, problem.size))
    while paused.advance(4.0, max_steps=5, save_at=times, saved=saved) is Status.PAUSED:
        pass
    np.testing.assert_array_equal(paused.state, plain.state)
    np.testing.assert_array_equal(saved[-1], plain.state)
    np.testing.assert_array_equal(saved[0], theta)


def test_more_nodes_find_nothing_new():
    problem, theta = CASES["three layers"][0]()
    runs = [
        Kinked(problem, 0.0, theta, rtol=1e-7, nodes=nodes)
        for nodes in ((0, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1), np.linspace(0, 1, 13))
    ]
    for run in runs:
        run.advance(10.0)
    assert np.abs(runs[0].state - runs[1].state).max() < 1e-6
    assert (
        runs[0].events[["kind", "layer", "neuron", "sample"]].tolist()
        == runs[1].events[["kind", "layer", "neuron", "sample"]].tolist()
    )


@pytest.mark.parametrize("name", ["two layers", "classes", pytest.param("three layers", marks=pytest.mark.slow)])
def test_both_pairs_follow_one_path(name):
    make, t_end = CASES[name]
    problem, theta = make()
    run = Kinked(problem, 0.0, theta, rtol=1e-9, pair="dop853")
    run.advance(t_end)
    assert np.abs(run.state - reference(name).state).max() < 1e-7


@pytest.mark.parametrize("name", CASES)
def test_loss_falls_and_balance_is_conserved(name):
    make, t_end = CASES[name]
    problem, theta = make()
    run = Kinked(problem, 0.0, theta)

    def balance(theta):
        layers = problem.layers(theta)
        into = [layers[f"W{l}"] for l in range(1, len(problem.network.stages) + 1)]
        sizes = [(block**2).sum(1) for block in into]
        if "b1" in layers:
            sizes = [size + layers[f"b{l}"] ** 2 for l, size in enumerate(sizes, 1)]
        return np.concatenate([size - (above**2).sum(0) for size, above in zip(sizes, into[1:], strict=False)])

    before, value = balance(theta), run.value
    while run.advance(t_end, max_steps=1) is Status.PAUSED:
        assert run.value <= value + 1e-9
        value = run.value
    assert np.abs(balance(run.state) - before).max() < 100 * 1e-6
