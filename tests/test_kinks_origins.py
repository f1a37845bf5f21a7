"""Neurons at the origin: the local loss phi(w) = sum d_i (x_i . w)_+ tells whether, when and where descent leaves."""

import numpy as np
import pytest

import gradflow as gf
from gradflow.kinks.origin import Origin, rays_of
from gradflow.steppers.kinked import Kinked

NEURON = 4
STEP = 1e-3


def small_neurons(seed):
    """Two inputs, five neurons with small incoming and large outgoing weights; runs of flow and descent to t = 3."""
    rng = np.random.default_rng(seed)
    network = gf.FullyConnected([2, 5, 1])
    problem = gf.Problem(network, gf.losses.Square(), rng.normal(size=(10, 2)), rng.normal(size=10))
    theta = problem.init(0.3, seed=seed)
    theta[10:] *= 5.0
    times = np.linspace(0.0, 3.0, 121)
    flow, descent = (
        gf.simulate(problem, theta, dynamics, t_end=3.0, save_at=times) for dynamics in (gf.GradientFlow(), gf.GD(STEP))
    )
    return problem, flow, descent


def lowest_slope(problem, theta):
    """Least phi on the unit circle, and where; it lies on a ray of a kink or against the slope of a sector."""
    d = theta[10 + NEURON] * 2.0 * (problem.outputs(theta) - problem.y)[:, 0] / problem.n
    angles = np.linspace(0.0, 2.0 * np.pi, 7201)
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    phi = np.maximum(around @ problem.x.T, 0.0) @ d
    return phi.min(), around[np.argmin(phi)]


def weights(run):
    return run.theta[:, 2 * NEURON : 2 * NEURON + 2]


def test_the_origin_is_held_while_phi_is_positive_and_left_along_the_first_ray_that_falls():
    problem, flow, descent = small_neurons(66)
    slopes = np.array([lowest_slope(problem, theta)[0] for theta in flow.theta])
    held = (flow.t > 0.5) & (slopes > 0.0)
    assert held.sum() > 40
    assert np.abs(weights(flow)[held]).max() < 1e-12
    assert np.abs(weights(descent)[held]).max() < STEP
    leaves = flow.t[(flow.t > 0.5) & (slopes <= 0.0)][0]
    assert f"{leaves:.1f}" == "1.7"
    for run in (flow, descent):
        out = weights(run)[-1] / np.linalg.norm(weights(run)[-1])
        assert out @ lowest_slope(problem, flow.theta[-1])[1] > 0.99
    assert np.abs(flow.end - descent.end).max() < STEP


def test_where_phi_is_negative_on_arrival_the_flow_leaves_at_once_as_descent_does():
    problem, flow, descent = small_neurons(61)
    before, after = np.searchsorted(flow.t, [1.2, 1.3])
    slope, ray = lowest_slope(problem, flow.theta[after])
    assert slope < -0.05
    assert weights(flow)[before] @ ray < 0.0
    out = weights(flow)[after]
    assert out @ ray / np.linalg.norm(out) > 0.9999
    assert any("unique after t = 1.20409: layer 1 neuron 4 at the origin" in note for note in flow.notes)
    fine = gf.simulate(problem, flow.theta[0], gf.GD(STEP / 4), t_end=3.0, save_at=flow.t)
    rough, finer = (np.abs(run.theta - flow.theta).max() for run in (descent, fine))
    assert finer < 0.35 * rough < 0.35 * STEP


def unbalanced(seed, bias=False):
    """The same start with biases too."""
    rng = np.random.default_rng(seed)
    network = gf.FullyConnected([2, 5, 1], bias=bias)
    problem = gf.Problem(network, gf.losses.Square(), rng.normal(size=(10, 2)), rng.normal(size=10))
    layers = {name: block.copy() for name, block in problem.layers(problem.init(0.3, seed=seed)).items()}
    layers["W2"] *= 5.0
    return problem, problem.flatten(layers)


def nearest_paths(problem, theta, paths, time, runs):
    """Share of gradient descents, at steps between 1e-4 and 3e-4, that are on each path at a time."""
    counts, ends = np.zeros(len(paths)), [path.at(time) for path in paths]
    for step in np.random.default_rng(1).uniform(1e-4, 3e-4, runs):
        end = gf.simulate(problem, theta, gf.GD(step), t_end=time, save_at=2).end
        away = [np.abs(end - other).max() for other in ends]
        assert min(away) < 10.0 * step
        counts[np.argmin(away)] += 1.0
    return counts / runs


@pytest.mark.parametrize(("seed", "likeliest"), [(59, 0.57), (86, 0.63)])
def test_several_ways_out_are_a_branch_point_with_the_shares_of_descents(seed, likeliest):
    """The shares are counted in the model of the corner; descents of the whole network are counted here."""
    problem, theta = unbalanced(seed)
    run = gf.simulate(problem, theta, gf.GradientFlow(), t_end=4.0, rtol=1e-8)
    (point,) = run.kinks.branch_points
    assert run.kinks.count("branch") == (point.ways != point.ways[0]).any(axis=0).sum() > 1
    assert "the flow is not unique after" in run.notes[0]
    paths = gf.branches(run)
    shares = np.array([share for share, _ in paths])
    assert shares.sum() == pytest.approx(1.0)
    assert shares[0] == pytest.approx(likeliest, abs=0.06)
    np.testing.assert_allclose(paths[0][1].end, run.end, atol=1e-6)
    counted = nearest_paths(problem, theta, [path for _, path in paths], point.time + 0.3, 60)
    np.testing.assert_allclose(counted, shares, atol=4.0 * np.sqrt(0.25 / 60))


def test_a_neuron_with_a_bias_dies_at_the_origin_where_nearly_all_descents_do():
    problem, theta = unbalanced(7, bias=True)
    run = gf.simulate(problem, theta, gf.GradientFlow(), t_end=4.0, rtol=1e-8)
    (point,) = run.kinks.branch_points
    assert point.shares[0] > 0.9
    assert not point.ways[0].any()
    assert point.ways[1].any()
    layers = problem.layers(run.end)
    assert np.abs(layers["W1"][3]).max() < 1e-12
    assert np.abs(layers["b1"][3]) < 1e-12
    descent = gf.simulate(problem, theta, gf.GD(1e-4), t_end=4.0)
    assert np.abs(descent.end - run.end).max() < 1e-4


def test_a_run_stops_at_an_origin_with_several_ways_and_goes_on_by_the_one_that_is_chosen():
    problem, theta = unbalanced(59)
    stepper = Kinked(problem, 0.0, theta, rtol=1e-8, at_branch="stop")
    assert stepper.advance(4.0) is gf.Status.EVENT
    (point,) = stepper.branch_points
    assert stepper.t == point.time == pytest.approx(1.57840, abs=1e-5)
    kept, ends = stepper.snapshot(), []
    for way in ("likely", *point.ways):
        again = Kinked(problem, 0.0, theta, rtol=1e-8, at_branch="stop")
        again.restore(kept)
        np.testing.assert_array_equal(again.branch_points[0].ways, point.ways)
        again.choose(way)
        assert again.advance(2.0) is gf.Status.REACHED_END
        ends.append(again.state)
    np.testing.assert_array_equal(ends[0], ends[1])
    assert np.abs(ends[2] - ends[1]).max() > 1e-2


@pytest.mark.parametrize("dynamics", [gf.PolarFlow(), gf.GradientFlow(rates={"W1": 0.5, "W2": 2.0})])
def test_other_flows_hold_and_leave_origins_as_their_descents_do(dynamics):
    """Small steps of the flow's own field are its descent."""
    problem, theta = unbalanced(66)
    flow = gf.simulate(problem, theta, dynamics, t_end=2.5, rtol=1e-8)
    assert any("at the origin" in note for note in flow.notes)
    ends = [
        gf.simulate(problem, theta, dynamics, t_end=2.5, kinks="ignore", solver=gf.FixedStep("euler", step)).end
        for step in (4e-4, 1e-4)
    ]
    rough, fine = (np.abs(end - flow.end).max() for end in ends)
    assert fine < 0.35 * rough + 2e-5
    assert rough < 2e-3


def test_a_held_neuron_does_not_keep_a_run_from_its_rest():
    problem, theta = unbalanced(1)
    run = gf.simulate(problem, theta, gf.GradientFlow(), t_end=1e6, max_gradients=20_000)
    assert run.status is gf.Status.REACHED_END


def test_rays_tell_the_sign_of_phi():
    """Against many directions, in three dimensions."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows, d = rng.normal(size=(7, 3)), rng.normal(size=7) + 0.5
        origin = Origin(np.arange(7), rows, d, np.zeros(3), rays_of(rows), np.eye(3), np.zeros((7, 7)))
        around = rng.normal(size=(20_000, 3))
        phi = np.maximum(around @ rows.T, 0.0) @ d / np.linalg.norm(around, axis=1)
        size = np.abs(d) @ np.linalg.norm(rows, axis=1)
        lowest = origin.slopes().min() * size
        assert (lowest >= 0.0) == (phi.min() >= 0.0)
        assert phi.min() >= min(2.5 * lowest, 0.0)


@pytest.mark.parametrize("seed", [61, 66])
def test_what_a_small_neuron_loses_it_does_not_get_back(seed):
    """|w|^2 - a^2 is conserved through the origin too."""
    _, flow, _ = small_neurons(seed)
    assert flow.max_drift < 1e-6
