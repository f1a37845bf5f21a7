"""Distance from rank one against its bound along flows, and what relu layers conserve of their Gram matrices."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import gradflow as gf


def mixed(widths=(3, 6, 5, 4, 1), activations=("relu", "linear", "linear"), bias=False):
    """Problem on labelled samples and a random start."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, widths[0]))
    network = gf.FullyConnected(list(widths), list(activations), bias=bias)
    problem = gf.Problem(network, gf.losses.Logistic(), x, np.sign(x[:, 0] - x[:, 1] + 0.1))
    return problem, problem.init(seed=2, scheme="xavier")


def test_the_gap_is_what_is_left_after_the_best_matrix_of_rank_one():
    problem, theta = mixed()
    for gap, w in zip(gf.measure.rank_gap(problem, theta), problem.layers(theta).values(), strict=True):
        u, s, v = np.linalg.svd(w)
        assert_allclose(gap, np.linalg.norm(w - s[0] * np.outer(u[:, 0], v[0])) ** 2, atol=1e-12)


def test_the_bound_holds_along_the_flow_and_is_infinite_up_to_the_last_activation():
    problem, theta0 = mixed()
    run = gf.simulate(problem, theta0, gf.GradientFlow(), t_end=200.0, rtol=1e-7)
    bound = gf.measure.rank_gap_bound(problem, theta0)
    assert np.isinf(bound[0])
    assert np.isfinite(bound[1:]).all()
    assert bound[-1] == 0
    assert (gf.measure.rank_gap(problem, run.theta) <= bound + 1e-12).all()
    assert_allclose(gf.measure.rank_gap_bound(problem, run.theta)[:, 1:], np.tile(bound[1:], (200, 1)), atol=1e-5)


def test_the_spectral_ratio_stays_above_its_bound_and_meets_it_where_the_gap_does():
    problem, theta0 = mixed()
    run = gf.simulate(problem, theta0, gf.GradientFlow(), t_end=200.0, rtol=1e-8)
    ratio = gf.measure.spectral_ratio(problem, run.theta)
    least = gf.measure.spectral_ratio_bound(problem, run.theta, theta0)
    assert (ratio >= least - 1e-7).all()
    assert (least[:, 0] == 0).all()
    slack = gf.measure.rank_gap_bound(problem, theta0)[1:] - gf.measure.rank_gap(problem, run.theta)[:, 1:]
    sizes = gf.measure.layer_norms(problem, run.theta)[:, 1:] ** 2
    assert_allclose(np.maximum(ratio[:, 1:] ** 2 - slack / sizes, 0), least[:, 1:] ** 2, atol=1e-12)


def test_the_bound_is_attained_when_the_norms_are_equal_and_the_layers_diagonal():
    problem = gf.Problem(gf.DeepLinear([2, 2, 1]), gf.losses.Square(), np.eye(2), np.ones((2, 1)))
    theta = problem.flatten({"W1": np.diag([1.0, 2.0]), "W2": [[1.0, 0.0]]})
    # Delta = diag(0, 4): trace 4, least eigenvalue 0
    assert_allclose(gf.measure.rank_gap_bound(problem, theta), [4.0, 0.0])
    assert gf.measure.rank_gap(problem, theta)[0] == 1.0


def test_several_outputs_have_no_bound_and_biases_are_refused():
    problem = gf.Problem(gf.DeepLinear([2, 2, 2]), gf.losses.Square(), np.eye(2), np.eye(2))
    assert np.isinf(gf.measure.rank_gap_bound(problem, problem.init(seed=0))).all()
    with pytest.raises(ValueError, match="without biases"):
        gf.measure.rank_gap_bound(*mixed(bias=True))


def test_gram_differences_are_balancedness_where_layers_are_linear_and_its_diagonal_for_neurons():
    problem, theta = mixed()
    differences, balance = gf.measure.gram_differences(problem, theta), gf.measure.balancedness(problem, theta)
    assert_allclose(differences["layer 2"], balance["layer 2"])
    assert_allclose(-np.diag(differences["layer 1"]), balance["layer 1"], atol=1e-14)
    batch = gf.measure.gram_differences(problem, np.stack([theta, 2 * theta]))["layer 1"]
    assert_allclose(batch[1], 4 * differences["layer 1"])
    since = gf.measure.gram_differences(problem, np.stack([theta, 2 * theta]), theta)["layer 1"]
    assert_allclose(since, [0 * differences["layer 1"], 3 * differences["layer 1"]])


@pytest.mark.parametrize("seed", range(4))
def test_points_of_the_flow_keep_the_bounds_of_rank_norm_and_alignment(seed):
    problem, _ = mixed(activations=("linear",) * 3)
    start = problem.init(0.3, seed=seed)
    run = gf.simulate(problem, start, gf.GradientFlow(), t_end=200.0, rtol=1e-9)
    excess = gf.measure.rank_one_excess(problem, run.theta, start)
    assert {name: values.shape for name, values in excess.items()} == dict.fromkeys(excess, (200, 3))
    assert max(values.max() for values in excess.values()) < 1e-8
    # A balanced start has layers of rank one and equal norm, which another point does not.
    balanced = problem.init(scheme="balanced")
    assert all(abs(values).max() < 1e-12 for values in gf.measure.rank_one_excess(problem, balanced, balanced).values())
    assert all(values.max() > 0.01 for values in gf.measure.rank_one_excess(problem, start, balanced).values())


def test_the_bounds_of_rank_one_are_refused_where_a_layer_is_not_linear():
    problem, theta = mixed()
    with pytest.raises(ValueError, match="rank_gap_bound serves it"):
        gf.measure.rank_one_excess(problem, theta, theta)
