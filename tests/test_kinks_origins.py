"""Neurons at the origin: the local loss phi(w) = sum d_i (x_i . w)_+ tells whether, when and where descent leaves."""

import numpy as np
import pytest

import gradflow as gf

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


def test_where_phi_is_negative_on_arrival_descent_leaves_at_once_and_the_flow_names_the_neuron():
    problem, flow, descent = small_neurons(61)
    arrived = int(np.searchsorted(flow.t, 1.21))
    slope, ray = lowest_slope(problem, flow.theta[arrived])
    assert slope < -0.05
    assert np.abs(weights(flow)[arrived]).max() < 1e-12
    later = weights(descent)[np.searchsorted(flow.t, 1.5)]
    assert later @ ray > 10.0 * STEP
    assert later @ ray / np.linalg.norm(later) > 0.99
    assert any("layer 1 neuron 4 leaves the origin" in note for note in flow.notes)


@pytest.mark.parametrize("seed", [61, 66])
def test_what_a_small_neuron_loses_it_does_not_get_back(seed):
    """|w|^2 - a^2 is conserved through the origin too."""
    _, flow, _ = small_neurons(seed)
    assert flow.max_drift < 1e-6
