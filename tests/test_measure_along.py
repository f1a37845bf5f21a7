"""Integrals, step lengths and drift along whole runs, against closed forms."""

import numpy as np
import pytest

import gradflow as gf


def test_the_weights_of_a_diagonal_network_follow_from_the_integral_of_the_residual():
    x, y = gf.data.gaussian(4, 3, seed=0)
    problem = gf.Problem(gf.Diagonal(3), gf.losses.Square("sum", half=True), x, y)
    run = gf.simulate(problem, np.full(6, 0.3), gf.GradientFlow(), t_end=2.0, rtol=1e-11, save_at=2001)
    integral = gf.measure.time_integral(run, lambda problem, theta: (problem.outputs(theta) - problem.y)[:, 0])
    weights = gf.exact.diagonal_from_residual(integral, x, 0.3)
    assert gf.measure.effective_map(problem, run.end) == pytest.approx(weights, abs=1e-8)


def test_steps_of_descent_are_as_long_as_the_gradient_says():
    x, y = gf.data.gaussian(10, 3, seed=0)
    problem = gf.Problem(gf.DeepLinear([3, 2, 1]), gf.losses.Square(), x, y)
    run = gf.simulate(problem, problem.init(), gf.GD(0.1), t_end=1.0, save_at=0.1 * np.arange(11))
    expected = 0.1 * run.measure(gf.measure.gradient_norm)[:-1]
    assert gf.measure.step_lengths(run, relative=False) == pytest.approx(expected, rel=1e-12)
    norms = np.linalg.norm(run.theta, axis=1)[:-1]
    assert gf.measure.step_lengths(run) == pytest.approx(expected / norms, rel=1e-12)


def test_the_drift_from_what_another_flow_conserves():
    x, y = gf.data.gaussian(10, 3, seed=0)
    problem = gf.Problem(gf.DeepLinear([3, 2, 1]), gf.losses.Square(), x, y)
    run = gf.simulate(problem, problem.init(), gf.GradientFlow(), t_end=1.0)
    same = gf.measure.drift(run, gf.GradientFlow())
    assert same.keys() == run.drift.keys()
    assert all((same[name] == values).all() for name, values in run.drift.items())
    momentum = [gf.simulate(problem, problem.init(), gf.Momentum(h, beta=0.5), t_end=1.0) for h in (0.02, 0.01)]
    coarse, fine = (gf.measure.drift(run, gf.GradientFlow())["layer 1"][-1] for run in momentum)
    assert coarse / fine == pytest.approx(2.0, abs=0.15)


def test_points_without_a_state_of_the_other_flow_are_nan():
    x, y, _ = gf.data.sparse_measurements(4, 6, 1, seed=0)
    problem = gf.Problem(gf.Diagonal(6, signed=False), gf.losses.Square("sum", half=True), x, y)
    run = gf.simulate(problem, np.full(6, 0.5), gf.GD(1.5), t_end=6.0, save_at=5)
    assert (run.theta < 0).any()
    drift = gf.measure.drift(run, gf.PolarFlow())["kernel"]
    assert np.array_equal(np.isnan(drift), (run.theta <= 0).any(1))


def test_lengths_of_steps_are_averaged_block_by_block():
    problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(half=True), [[1.0]], [[0.0]])
    run = gf.simulate(problem, [1.0], gf.GD(0.5), t_end=3.5, save_at=8)
    lengths = 0.5 ** np.arange(1, 8)
    assert gf.measure.step_lengths(run, relative=False, mean_over=3) == pytest.approx(
        [lengths[:3].mean(), lengths[3:6].mean()], rel=1e-14
    )
    assert gf.measure.step_lengths(run, mean_over=7) == pytest.approx([0.5], rel=1e-14)
    for wrong in (0, 8):
        with pytest.raises(ValueError, match="from 1 to the number of lengths, 7"):
            gf.measure.step_lengths(run, mean_over=wrong)
