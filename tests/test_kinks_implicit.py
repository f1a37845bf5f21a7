"""Euler with implicit masks: order 1, exact zeros on sliding kinks, agreement with the followed path."""

import numpy as np
import pytest
from test_kinks_cases import regression

import gradflow as gf
from gradflow.status import Status
from gradflow.steppers.implicit_masks import ImplicitMasks
from gradflow.steppers.kinked import Kinked

SQUARE = gf.losses.Square(reduction="sum", half=True)
ONE = gf.Problem(gf.FullyConnected([2, 1, 1]), SQUARE, [[1.0, 1.0], [0.0, 1.0]], [1.0, -1.2])
START, END = np.array([0.4, -0.1, 0.3 / np.sqrt(2)]), np.array([0.953522041595, 0.0, 0.885553094855])


@pytest.mark.parametrize(("step", "error"), [(2e-2, 1.05e-3), (1e-2, 5.3e-4), (5e-3, 2.63e-4), (2.5e-3, 1.31e-4)])
def test_error_on_the_sliding_neuron(step, error):
    run = ImplicitMasks(ONE, 0.0, START, step=step)
    assert run.advance(2.0) is Status.REACHED_END
    assert np.abs(run.state - END).max() == pytest.approx(error, rel=0.01)
    assert abs(run.state[1]) < 1e-15
    assert run.masks[1] == pytest.approx(0.1297, abs=step)


def test_richardson_extrapolation_gains_an_order():
    ends = []
    for step in (1e-2, 5e-3):
        run = ImplicitMasks(ONE, 0.0, START, step=step)
        run.advance(2.0)
        ends.append(run.state)
    assert np.abs(2.0 * ends[1] - ends[0] - END).max() < 1e-5


def test_it_comes_to_the_followed_path_with_order_one():
    problem, theta = regression([5, 20, 1])
    follow = Kinked(problem, 0.0, theta, rtol=1e-9)
    follow.advance(20.0)
    errors = []
    for step in (2e-2, 1e-2, 5e-3):
        run = ImplicitMasks(problem, 0.0, theta, step=step)
        run.advance(20.0)
        errors.append(np.abs(run.state - follow.state).max())
        assert run.counts["sweeps"] < 1.5 * 20 * run.counts["accepted"]
    np.testing.assert_allclose(errors, [2.1e-3, 9.8e-4, 4.8e-4], rtol=0.1)


def test_extension_saving_and_stops():
    problem, theta = regression([5, 20, 1])
    times, saved = np.linspace(0.0, 1.0, 11), np.zeros((11, problem.size))
    whole = ImplicitMasks(problem, 0.0, theta, step=7e-3)
    whole.advance(1.0, save_at=times, saved=saved)
    half = ImplicitMasks(problem, 0.0, theta, step=7e-3)
    half.advance(0.5)
    rest = ImplicitMasks(problem, 0.0, theta, step=7e-3)
    rest.restore(half.snapshot())
    again = np.zeros((11, problem.size))
    rest.advance(1.0, save_at=times, saved=again)
    np.testing.assert_array_equal(rest.state, whole.state)
    np.testing.assert_array_equal(again[6:], saved[6:])
    assert rest.counts == whole.counts
    run = ImplicitMasks(problem, 0.0, theta, step=1e-2)
    assert run.advance(1.0, max_steps=3) is Status.PAUSED
    assert run.advance(1.0, max_gradients=10) is Status.GRADIENT_BUDGET
    assert run.advance(1.0, loss_below=0.9 * run.value) is Status.LOSS_BELOW
    assert ImplicitMasks(problem, 0.0, 1e3 * theta, step=1.0).advance(1e3) is Status.DIVERGED


def test_other_networks_are_refused():
    deep, theta = regression([5, 6, 6, 1])
    with pytest.raises(ValueError, match="first layer"):
        ImplicitMasks(deep, 0.0, theta, step=0.1)
    with pytest.raises(ValueError, match="step = 0"):
        ImplicitMasks(ONE, 0.0, START, step=0.0)
