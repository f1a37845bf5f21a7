"""Networks with skips and convolutions through kinks: passes, tied kinks, runs, flows, clocks, files."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from test_kinks_cases import euler

import gradflow as gf
from gradflow.kinks.arrive import start
from gradflow.kinks.charted import masked_network
from gradflow.kinks.wired import WiredNetwork, network_of
from gradflow.status import Status
from gradflow.steppers.kinked import Kinked

HALF = gf.losses.Square(half=True)
Skip = gf.Skip
NETWORKS = {
    "identity": gf.FullyConnected([3, 6, 6, 2], skips=[Skip(1, 2)], bias=True),
    "matrix, two layers": gf.FullyConnected([3, 8, 1], skips=[Skip(0, 2, "linear")]),
    "mixed layers": gf.FullyConnected(
        [3, 6, 5, 2], ["relu", "tanh"], skips=[Skip(0, 2, "linear"), Skip(0, 3, "linear")], bias=True
    ),
    "from the input": gf.FullyConnected(
        [4, 4, 4, 4], "leaky_relu(0.2)", skips=[Skip(0, 1), Skip(1, 3), Skip(0, 3, "linear")]
    ),
    "deep": gf.FullyConnected(
        [4, 6, 6, 6, 1], skips=[Skip(1, 2), Skip(2, 3), Skip(1, 3, "linear"), Skip(0, 4, "linear")], bias=True
    ),
    "absolute value": gf.FullyConnected([4, 6, 6, 1], "abs", skips=[Skip(1, 2), Skip(0, 2, "linear")]),
    "convolution": gf.Convolutional((1, 6, 6), channels=[3], kernel_size=3, stride=2),
    "two convolutions": gf.Convolutional((2, 4, 4), [3, 2], kernel_size=2, outputs=2, activation="leaky_relu(0.1)"),
}


def regression(name, n=16, decay=0.0):
    network, seed = NETWORKS[name], 1 + list(NETWORKS).index(name)
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, network.input_size)), rng.normal(size=(n, network.output_size))
    problem = gf.Problem(network, HALF, x, y, decay=decay)
    return problem, problem.init(1.0, seed=seed)


def held_value(problem, theta, slopes):
    """Objective by torch, with the slopes of the kinked units held, and the leaves to differentiate by."""
    import torch

    network = problem.network
    layers = {name: torch.tensor(block, requires_grad=True) for name, block in problem.layers(theta).items()}
    x, y = torch.tensor(problem.x), torch.tensor(problem.y)
    place = 0

    def held(z):
        nonlocal place
        flat = z.reshape(problem.n, -1)
        own = torch.tensor(slopes[place : place + flat.numel()].reshape(flat.shape))
        place += flat.numel()
        return (own * flat).reshape(z.shape)

    if isinstance(network, gf.Convolutional):
        a = x.reshape(problem.n, *network.image)
        for number in range(1, len(network.channels) + 1):
            a = held(torch.nn.functional.conv2d(a, layers[f"W{number}"], stride=network.stride))
        f = a.reshape(problem.n, -1) @ layers[f"W{len(network.channels) + 1}"].T
    else:
        values = [x]
        for number, stage in enumerate(network.stages, 1):
            z = values[-1] @ layers[f"W{number}"].T + layers.get(f"b{number}", 0.0)
            if number < len(network.stages):
                kinked = stage.activation.kinked
                smooth = stage.activation(z)
                z = held(z) if kinked else smooth
                place += 0 if kinked else smooth.numel()
            for source, matrix in ((stage.identity_from, None), (stage.linear_from, layers.get(f"U{number}"))):
                if source >= 0:
                    z = z + (values[source] if matrix is None else values[source] @ matrix.T)
            values.append(z)
        f = values[-1]
    penalty = problem.decay * sum((block**2).sum() for block in layers.values())
    return problem.loss.factor(problem.n) * ((f - y) ** 2).sum() + penalty, list(layers.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_under_held_masks_is_that_of_automatic_differentiation(name):
    import torch

    problem, theta = regression(name, n=5, decay=0.03)
    network, rng = network_of(problem), np.random.default_rng(9)
    sigma = rng.uniform(size=network.size)
    found = network.run(theta, sigma)
    value, leaves = held_value(problem, theta, found.slope)
    expected = torch.cat([g.ravel() for g in torch.autograd.grad(value, leaves)])
    assert found.value == pytest.approx(value.item(), rel=1e-13)
    assert_allclose(found.gradient, expected.numpy(), atol=1e-13 * np.abs(found.gradient).max())
    signs = start(network, theta).place.sigma
    assert_allclose(network.run(theta, signs).gradient, problem.gradient(theta), atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_normals_are_the_derivatives_of_the_pre_activations(name):
    problem, theta = regression(name, n=4)
    network = network_of(problem)
    sigma = start(network, theta).place.sigma
    kinks = np.flatnonzero(network.live)
    _, slope, h = network.forward(theta, sigma)
    normals = network.normals(theta, slope, h, kinks)
    for direction in np.random.default_rng(1).normal(size=(3, problem.size)):
        ahead, behind = (network.forward(theta + step * direction, sigma)[0] for step in (1e-5, -1e-5))
        assert_allclose(normals @ direction, (ahead - behind)[kinks] / 2e-5, atol=1e-7)


@pytest.mark.parametrize("name", NETWORKS)
def test_adjoints_below_follow_from_those_above(name):
    problem, theta = regression(name, n=4)
    network, rng = network_of(problem), np.random.default_rng(1)
    sigma = rng.uniform(size=network.size)
    found = network.run(theta, sigma)
    delta = found.delta.copy()
    for layer in range(len(network.widths) - 3, 0, -1):
        delta[network.kinks_at[layer - 1] : network.kinks_at[layer]] = np.nan
        network.adjoint_below(found, theta, layer, found.slope, delta)
    assert_allclose(delta, found.delta, atol=1e-13)


TIED = {
    "identity, no bias": gf.FullyConnected([2, 2, 2, 1], skips=[Skip(0, 1)]),
    "leaky, matrix": gf.FullyConnected([2, 3, 3, 1], "leaky_relu(0.3)", skips=[Skip(0, 2, "linear")]),
    "linear, identity": gf.FullyConnected([2, 2, 3, 1], ["linear", "abs"], skips=[Skip(0, 1)]),
    "bias": gf.FullyConnected([2, 2, 2, 1], skips=[Skip(0, 1)], bias=True),
    "abs": gf.FullyConnected([2, 3, 3, 3, 1], "abs", skips=[Skip(1, 2)]),
    "even and odd terms": gf.FullyConnected([2, 2, 3, 1], "abs", skips=[Skip(0, 1)]),
}


@pytest.mark.parametrize("name", TIED)
def test_kinks_are_tied_exactly_where_their_normals_are_parallel(name):
    x = np.array([[1.0, 2.0], [0.5, 1.0], [-1.0, -2.0], [0.0, 0.0], [3.0, 1.0], [3.0, 1.0], [-2.0, -4.0]])
    problem = gf.Problem(TIED[name], HALF, x, np.ones(7))
    network = network_of(problem)
    theta = np.random.default_rng(0).normal(size=problem.size)
    z, slope, h = network.forward(theta, start(network, theta).place.sigma)
    for group in network.members.values():
        for unit, factor in group:
            assert z[unit] == pytest.approx(factor * z[group[0][0]], abs=1e-14)
    kinks = np.flatnonzero(network.live)
    normals = network.normals(theta, slope, h, kinks)
    kinks, normals = kinks[np.abs(normals).max(axis=1) > 0.0], normals[np.abs(normals).max(axis=1) > 0.0]
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    cosines = np.abs(normals @ normals.T) - np.eye(len(kinks))
    assert cosines.max() < 1.0 - 1e-9


def test_equal_patches_of_images_are_one_kink_and_empty_ones_none():
    x, y = gf.data.digits(classes=(0, 1), n=10, seed=0)
    problem = gf.Problem(gf.Convolutional((1, 8, 8), [2, 2], kernel_size=2), HALF, x, y)
    network = network_of(problem)
    images = x.reshape(10, 8, 8)
    patches = np.array([images[:, i : i + 2, j : j + 2].reshape(10, 4) for i in range(7) for j in range(7)])
    directions = patches.reshape(-1, 4)[np.linalg.norm(patches.reshape(-1, 4), axis=1) > 0.0]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    assert network.live[: network.kinks_at[1]].sum() == 2 * len(np.unique(directions.round(12), axis=0))
    run = Kinked(problem, 0.0, problem.init(1.0, seed=0), rtol=1e-7)
    assert run.advance(0.5, max_gradients=5000) is Status.REACHED_END
    assert np.abs(euler(problem, problem.init(1.0, seed=0), 2.5e-4, 0.5) - run.state).max() < 5e-4
    assert len(run.events) > 20


@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_descent_comes_to_the_flow_in_proportion_to_its_step(name):
    problem, theta = regression(name, decay=0.01)
    runs = [Kinked(problem, 0.0, theta, rtol=rtol) for rtol in (1e-6, 1e-9)]
    assert all(run.advance(4.0) is Status.REACHED_END for run in runs)
    assert len(runs[1].events) >= 4
    assert np.abs(runs[0].state - runs[1].state).max() < 2e-6
    rough, fine = (np.abs(euler(problem, theta, step, 4.0) - runs[1].state).max() for step in (4e-3, 5e-4))
    assert fine < 0.5 * rough
    assert fine < 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_sliding_satisfies_the_inclusion_and_the_loss_falls_by_the_square_of_the_speed(name):
    problem, theta = regression(name)
    run = Kinked(problem, 0.0, theta, rtol=1e-9)
    nodes, weights = np.polynomial.legendre.leggauss(4)
    value, length, slid = run.value, 0.0, 0
    while run.t < 4.0:
        run.advance(4.0, max_steps=1)
        sigma, joint = run.pattern_before
        times = run.t_before + 0.5 * (run.t - run.t_before) * (nodes + 1.0)
        for time, weight in zip(times, weights, strict=True):
            run_there = run.network.run(run.dense(time), sigma)
            v = -run_there.gradient
            v = v if joint is None else joint.multipliers(run.dense(time), run_there, v)[1]
            length += 0.5 * (run.t - run.t_before) * weight * float(v @ v)
        masks, kinks = run.masks, run.sliding
        under = run.network.run(run.state, masks)
        assert_allclose(-under.gradient, run.velocity, atol=1e-8)
        assert masks.min() >= -1e-9
        assert masks.max() <= 1.0 + 1e-9
        assert_allclose(run.network.normals(run.state, under.slope, under.h, kinks) @ run.velocity, 0.0, atol=1e-9)
        slid += kinks.size
    assert value - run.value == pytest.approx(length, abs=1e-6)
    assert slid > 0


FLOWS = {
    "plain": gf.GradientFlow(),
    "polar": gf.PolarFlow(),
    "weight norm": gf.WeightNormFlow(),
    "lm": gf.LMFlow(decay=0.01),
    "rates": gf.GradientFlow(rates={"W1": 0.3}),
}


@pytest.mark.filterwarnings("ignore:the network is not homogeneous")
@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("name", ["matrix, two layers", "identity"])
def test_every_flow_is_followed_extended_and_kept_in_files(name, flow, tmp_path):
    problem, theta = regression(name)
    whole = gf.simulate(problem, theta, FLOWS[flow], t_end=2.0, rtol=1e-8)
    assert whole.run.arguments["kinks"] == "follow"
    assert whole.status is Status.REACHED_END
    assert (np.diff(whole.loss) <= 1e-10).all()
    assert len(whole.kinks.events) > 0
    part = gf.simulate(problem, theta, FLOWS[flow], t_end=1.2, rtol=1e-8)
    part.save(tmp_path / "part.nc")
    loaded = gf.Trajectory.load(tmp_path / "part.nc")
    assert np.array_equal(loaded.extend(2.0).states[-1], whole.states[-1])
    assert np.array_equal(whole.at(whole.t[::40]), whole.theta[::40])
    gaps = [
        np.abs(gf.simulate(problem, theta, gf.GD(step, flow=FLOWS[flow]), t_end=2.0, save_at=2).end - whole.end).max()
        for step in (2e-3, 5e-4)
    ]
    assert gaps[1] < 0.5 * gaps[0]


@pytest.mark.parametrize("flow", FLOWS)
def test_flows_of_convolutions_fall_at_every_step_and_do_not_depend_on_the_tolerance(flow):
    problem, theta = regression("two convolutions")
    runs = [gf.simulate(problem, theta, FLOWS[flow], t_end=2.0, rtol=rtol, save_at="steps") for rtol in (1e-7, 1e-9)]
    assert (np.diff(runs[0].loss) <= 1e-10).all()
    assert runs[0].kinks.count("slide") > 0
    assert_allclose(runs[0].end, runs[1].end, atol=1e-5)


@pytest.mark.parametrize("clock", ["log_time", "log_loss", "arc"])
def test_clocks_agree_with_physical_time_on_skips(clock):
    problem, theta = regression("identity")
    plain = gf.simulate(problem, theta, gf.GradientFlow(), t_end=3.0, rtol=1e-9)
    run = gf.simulate(problem, theta, gf.GradientFlow(), t_end=3.0, rtol=1e-9, clock=clock)
    assert run.status is Status.REACHED_END
    assert_allclose(run.end, plain.end, atol=2e-7)


def test_networks_are_taken_by_the_passes_that_know_their_layers():
    for name in NETWORKS:
        assert isinstance(network_of(regression(name)[0]), WiredNetwork)
        assert isinstance(masked_network(regression(name)[0], gf.LMFlow()), WiredNetwork)


def test_other_modules_run_over_their_kinks_as_smooth_ones():
    import torch

    net = gf.FromModule(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)), (2,))
    problem = gf.Problem(net, HALF, [[1.0, 2.0]], [1.0])
    with pytest.raises(ValueError, match="layers of known activations"):
        Kinked(problem, 0.0, net.start())
