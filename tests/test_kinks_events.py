"""Events decided in compiled code: the path, the table and the counts of the interpreted decisions."""

import numpy as np
import pytest
from test_kinks_cases import CASES, regression
from test_kinks_compiled import WHAT, interpreted
from test_kinks_networks import balanced
from test_kinks_random import draw

import gradflow as gf
from gradflow.kinks.regions import region_name
from gradflow.kinks.slide import point, surface
from gradflow.status import Status
from gradflow.steppers import kinked_piece
from gradflow.steppers.kinked import Kinked


def both(problem, theta, t_end, **options):
    """Runs with compiled and with interpreted events, to one end."""
    fast, slow = Kinked(problem, 0.0, theta, **options), interpreted(problem, theta, **options)
    assert fast.advance(t_end, max_gradients=200_000) is slow.advance(t_end, max_gradients=200_000)
    return fast, slow


def compiled(problem, theta, **options):
    """A stepper as it is."""
    return Kinked(problem, 0.0, theta, **options)


def check_same(fast, slow, atol=1e-9):
    """One path: what happened, when, to whom, at which cost, and where it ends."""
    assert fast.events[WHAT].tolist() == slow.events[WHAT].tolist()
    np.testing.assert_allclose(fast.events["time"], slow.events["time"], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(fast.events["mask"], slow.events["mask"], rtol=0.0, atol=1e-5)
    np.testing.assert_array_equal(fast.sliding, slow.sliding)
    np.testing.assert_allclose(fast.state, slow.state, rtol=0.0, atol=atol)
    np.testing.assert_allclose(fast.masks, slow.masks, rtol=0.0, atol=1e-5)
    assert fast.regions == slow.regions
    assert fast.message == slow.message


@pytest.mark.parametrize("seed", [61, 64, 77, 83, 88, 91, 102, 110, 125, 133, 149, 150])
def test_random_networks_have_one_table_of_events(seed):
    problem, theta = draw(seed)
    fast, slow = both(problem, theta, 3.0, rtol=1e-7)
    check_same(fast, slow)
    assert fast.counts == slow.counts


@pytest.mark.parametrize("follow", [compiled, interpreted])
def test_a_kink_that_comes_back_at_once_slides_a_little_longer(follow):
    """A mask leaves at 1, and rounding of the path brings the kink back: it may slide with a mask just above 1, and
    stays until it is a little further out, so that it does not leave where it has come back, without end.
    """
    problem, theta = regression([5, 20, 1], 22)
    theta = balanced(problem, theta)
    run = follow(problem, theta, rtol=1e-7)
    assert run.advance(31.0) is Status.REACHED_END
    events = run.events
    back = np.flatnonzero((events["kind"] == "slide") & (events["mask"] > 1.0))
    assert back.size == 1
    assert events["mask"][back[0]] < 1.0 + 1e-6
    own = events[(events[["neuron", "sample"]] == events[back[0]][["neuron", "sample"]])]
    place = int(np.flatnonzero(own["time"] == events["time"][back[0]])[0])
    assert own["kind"][place - 1 : place + 2].tolist() == ["exit", "slide", "exit"]
    before, at, after = own["time"][place - 1 : place + 2]
    assert at - before < 1e-4
    assert 1e-7 < after - at < 1e-4
    assert place + 2 == len(own)


@pytest.mark.slow
def test_a_hundred_random_networks_have_one_path_and_hardly_a_different_table():
    """Kinks that meet within rounding may be told apart in another order; the path does not feel it."""
    different = 0
    for seed in range(200, 300):
        problem, theta = draw(seed)
        fast, slow = both(problem, theta, 4.0, rtol=1e-7)
        np.testing.assert_allclose(fast.state, slow.state, rtol=0.0, atol=1e-6)
        different += fast.events[WHAT].tolist() != slow.events[WHAT].tolist()
    assert different <= 5


@pytest.mark.parametrize("name", ["two layers", "classes"])
def test_ordinary_events_need_no_interpreted_decision(name, monkeypatch):
    def refuse(*_):
        raise AssertionError("an event was decided in Python")

    monkeypatch.setattr(kinked_piece, "arrive", refuse)
    monkeypatch.setattr(kinked_piece, "leave", refuse)
    problem, theta = CASES[name][0]()
    run = Kinked(problem, 0.0, theta)
    assert run.advance(CASES[name][1]) is Status.REACHED_END
    assert {"cross", "slide", "exit"} <= set(run.events["kind"].tolist())


def network(widths, activation="relu", *, bias=True, n=15, seed=0, loss=None, decay=0.0):
    """Gaussian inputs and targets, He start."""
    rng = np.random.default_rng(seed)
    loss = gf.losses.Square() if loss is None else loss
    y = rng.integers(0, widths[-1], n) if loss.labels == "class" else rng.normal(size=(n, widths[-1]))
    net = gf.FullyConnected(widths, activation, bias=bias)
    problem = gf.Problem(net, loss, rng.normal(size=(n, widths[0])), y, decay=decay)
    return problem, problem.init(1.0, seed=seed, scheme="he")


EDGES = {
    "one sample": ([3, 8, 1], {"n": 1}),
    "one unit": ([3, 1, 1], {}),
    "one unit a layer": ([3, 1, 1, 2], {}),
    "one input": ([1, 8, 1], {"n": 12}),
    "one input, no bias": ([1, 8, 1], {"n": 12, "bias": False}),
    "leaky": ([3, 8, 1], {"activation": "leaky_relu(0.2)"}),
    "absolute value": ([3, 8, 6, 1], {"activation": "abs"}),
    "three outputs": ([4, 9, 3], {"n": 20}),
    "classes": ([4, 9, 7, 3], {"n": 20, "loss": gf.losses.CrossEntropy(), "bias": False}),
    "four layers": ([4, 8, 8, 8, 2], {"n": 12}),
    "five layers": ([4, 6, 6, 6, 6, 1], {"n": 12}),
    "no bias": ([4, 8, 8, 1], {"bias": False}),
    "smooth below": ([4, 7, 7, 1], {"activation": ("tanh", "relu")}),
    "smooth above": ([4, 7, 7, 1], {"activation": ("relu", "softplus")}),
    "linear between": ([4, 7, 5, 7, 1], {"activation": ("relu", "linear", "leaky_relu(0.1)")}),
    "decay": ([4, 10, 1], {"decay": 0.05, "n": 25}),
}


@pytest.mark.parametrize("name", EDGES)
def test_edge_cases_have_one_table_of_events(name):
    widths, options = EDGES[name]
    events = 0
    for seed in range(3):
        problem, theta = network(widths, seed=seed, **options)
        fast, slow = both(problem, theta, 10.0)
        check_same(fast, slow, atol=1e-8)
        events += len(fast.events)
    assert events > 0


@pytest.mark.parametrize("choice", ["likely", "active", "inactive", "stay"])
def test_branch_points_are_left_to_the_interpreted_path(choice):
    problem = gf.Problem(
        gf.FullyConnected([2, 1, 1]),
        gf.losses.Square("sum", half=True),
        [[1.0, 1.0], [0.0, 1.0], [1.0, -1.0]],
        [0.3, -2.0, -1.0],
    )
    fast, slow = both(problem, np.array([1.0, 0.0, 0.3]), 2.0, rtol=1e-8, at_branch=choice)
    check_same(fast, slow)
    assert fast.branch_points[0].time == pytest.approx(0.322267165345, abs=1e-8)


@pytest.mark.parametrize("choice", ["likely", "stay"])
@pytest.mark.parametrize("seed", [5, 7, 8])
def test_flows_from_unbalanced_starts_go_on_from_their_branch_points(seed, choice):
    """An output weight passes through 0 while kinks of its neuron slide."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(30, 3)), rng.choice([-1.0, 1.0], 30)
    problem = gf.Problem(gf.FullyConnected([3, 12, 1], bias=True), gf.losses.Square(half=True), x, y)
    theta = problem.init(1.0, seed=seed, scheme="he", bias=0.3)
    theta[-13:-1] *= 0.05
    fast, slow = both(problem, theta, 50.0, at_branch=choice)
    check_same(fast, slow, atol=1e-8)
    assert fast.branch_points


def test_twin_neurons_meet_their_kinks_together():
    """Two equal neurons: each event is one instant for both."""
    problem, theta = network([3, 4, 1], seed=2)
    layers = {name: block.copy() for name, block in problem.layers(theta).items()}
    layers["W1"][1], layers["b1"][1], layers["W2"][:, 1] = layers["W1"][0], layers["b1"][0], layers["W2"][:, 0]
    fast, slow = both(problem, problem.flatten(layers), 10.0)
    check_same(fast, slow)
    own = [fast.events[fast.events["neuron"] == j][["time", "kind", "sample"]].tolist() for j in (0, 1)]
    assert own[0] == own[1]
    assert own[0]


def test_a_path_through_a_corner_of_two_kinks():
    """w' = (1, 1) until z = w passes 0 in both coordinates at one time."""
    problem = gf.Problem(
        gf.FullyConnected([2, 1, 1]), gf.losses.Square("sum", half=True), [[1.0, 0.0], [0.0, 1.0]], [-1.0, -1.0]
    )
    fast, slow = both(problem, np.array([0.2, 0.2, 1.0]), 3.0, rtol=1e-8)
    check_same(fast, slow)
    assert np.unique(fast.events["time"]).size < len(fast.events)


@pytest.mark.parametrize("bias", [False, True])
def test_triangles_give_the_multipliers_of_the_dense_projection(bias):
    problem, theta = network([6, 5, 2], bias=bias, n=20)
    run = Kinked(problem, 0.0, theta)
    masked, sigma = run.network, run._run.place.sigma
    for seed in range(20):
        rng = np.random.default_rng(seed)
        kinks = np.sort(np.concatenate([5 * rng.permutation(20)[: rng.integers(1, 6)] + j for j in range(4)]))
        compiled = run._run.compiled.point(theta, sigma, surface(masked, kinks))
        plain = point(masked, theta, sigma, None)
        here = masked.run(theta, sigma)
        normals = masked.normals(theta, here.slope, here.h, kinks)
        dense = np.linalg.lstsq(normals.T, plain.velocity, rcond=None)[0]
        np.testing.assert_allclose(compiled.multipliers, dense, atol=1e-11)
        np.testing.assert_allclose(compiled.velocity, plain.velocity - normals.T @ dense, atol=1e-12)
        np.testing.assert_allclose(compiled.attraction, masked.attraction(here.delta, kinks), atol=1e-15)


def test_more_sliding_kinks_of_a_neuron_than_weights_are_left_to_the_interpreted_step():
    problem, theta = network([2, 3, 1], bias=False, n=8)
    run = Kinked(problem, 0.0, theta)._run
    assert run.compiled.point(theta, run.place.sigma, surface(run.network, np.array([0, 3]))) is not None
    assert run.compiled.point(theta, run.place.sigma, surface(run.network, np.array([0, 3, 6]))) is None


def test_regions_have_names_of_their_own():
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2, (3000, 130)).astype(float)
    nothing, first = np.zeros(0, np.int64), np.array([0])
    names = {region_name(row, nothing) for row in masks} | {region_name(row, first) for row in masks}
    assert len(names) == 6000
    assert region_name(masks[0], nothing) == region_name(masks[0].copy(), nothing)
