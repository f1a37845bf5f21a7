"""Compiled steps between events: the same path as the interpreted steps, and the same bits at every call."""

import numpy as np
import pytest
from test_kinks_cases import CASES
from test_kinks_random import draw

import gradflow as gf
from gradflow.kinks.slide import surface
from gradflow.status import Status
from gradflow.steppers.kinked import Kinked
from gradflow.steppers.kinked_auto import KinkedAuto
from gradflow.steppers.kinked_compiled import Compiled

WHAT = ["kind", "layer", "neuron", "sample"]


def interpreted(problem, theta, **options):
    """A stepper that is not given the compiled steps."""
    run = Kinked(problem, 0.0, theta, **options)
    vars(run._run)["compiled"] = None
    return run


@pytest.mark.parametrize("pair", ["rk45", "dop853"])
@pytest.mark.parametrize("name", CASES)
def test_compiled_and_interpreted_steps_follow_one_path(name, pair):
    problem, theta = CASES[name][0]()
    fast, slow = Kinked(problem, 0.0, theta, pair=pair), interpreted(problem, theta, pair=pair)
    assert fast.advance(4.0) is slow.advance(4.0) is Status.REACHED_END
    assert fast.counts == slow.counts
    assert fast.events[WHAT].tolist() == slow.events[WHAT].tolist()
    np.testing.assert_allclose(fast.state, slow.state, rtol=0.0, atol=1e-11)
    np.testing.assert_allclose(fast.velocity, slow.velocity, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("seed", [5, 6, 17, 60])
def test_merged_samples_and_other_losses_follow_one_path(seed):
    problem, theta = draw(seed)
    fast, slow = Kinked(problem, 0.0, theta, rtol=1e-7), interpreted(problem, theta, rtol=1e-7)
    assert fast.advance(2.0) is slow.advance(2.0) is Status.REACHED_END
    assert fast.counts == slow.counts
    np.testing.assert_allclose(fast.state, slow.state, rtol=0.0, atol=1e-10)


def test_dependent_normals_are_left_to_the_interpreted_step():
    """Two samples of one input, and a bias: three kinks of a neuron span two dimensions only."""
    problem = gf.Problem(
        gf.FullyConnected([1, 2, 2, 1], bias=True), gf.losses.Square(), [[1.0], [2.0], [3.0]], [1.0] * 3
    )
    theta = problem.init(1.0, seed=0)
    run = Kinked(problem, 0.0, theta)
    wall = np.array([0, 2, 4])
    place = run._run.place
    compiled = run._run.compiled
    assert compiled is not None
    assert compiled.point(theta, place.sigma, surface(run.network, wall[:2])) is not None
    assert compiled.point(theta, place.sigma, surface(run.network, wall)) is None


def test_the_same_call_gives_the_same_bits_wherever_its_arrays_lie():
    problem, theta = CASES["three layers"][0]()
    ends, held = set(), []
    for k in range(8):
        held.append(np.zeros(1 + 17 * k))
        run = Kinked(problem, 0.0, theta)
        run.advance(3.0)
        ends.add(run.state.tobytes())
    assert len(ends) == 1


def test_compiled_steps_come_back_at_limits_only(monkeypatch):
    """Not at save times, nor where nothing is to be decided; the automatic solver not at events either."""
    returns = []
    monkeypatch.setattr(Compiled, "follow", lambda *args, way=Compiled.follow: returns.append(1) or way(*args))
    problem, theta = CASES["two layers"][0]()
    times = np.linspace(0.0, 15.0, 301)
    for kind in (Kinked, KinkedAuto):
        returns.clear()
        run = kind(problem, 0.0, theta, rtol=1e-8)
        assert run.advance(15.0, save_at=times, saved=np.empty((301, problem.size))) is Status.REACHED_END
        assert run.counts["accepted"] > 200
        assert len(run.events) > 40
        assert len(returns) <= 6


def test_saving_pausing_and_budgets_do_not_change_the_path():
    problem, theta = CASES["two layers"][0]()
    whole, pieces = Kinked(problem, 0.0, theta), Kinked(problem, 0.0, theta)
    whole.advance(5.0)
    times = np.linspace(0.0, 5.0, 37)
    saved = np.zeros((37, problem.size))
    while (status := pieces.advance(5.0, save_at=times, saved=saved, max_steps=3)) is Status.PAUSED:
        assert pieces.advance(5.0, max_gradients=pieces.counts["gradients"]) is Status.GRADIENT_BUDGET
    assert status is Status.REACHED_END
    np.testing.assert_array_equal(pieces.state, whole.state)
    assert pieces.counts == whole.counts
    alone, at_once = Kinked(problem, 0.0, theta), np.zeros((37, problem.size))
    alone.advance(5.0, save_at=times, saved=at_once)
    np.testing.assert_array_equal(at_once, saved)
    np.testing.assert_array_equal(at_once[-1], whole.state)
    again = Kinked(problem, 0.0, theta)
    for time, state in zip(times[1:], saved[1:], strict=True):
        while again.t < time:
            again.advance(5.0, max_steps=1)
        np.testing.assert_array_equal(again.dense(time), state)
    below = Kinked(problem, 0.0, theta)
    assert below.advance(5.0, loss_below=0.5 * (whole.value + Kinked(problem, 0.0, theta).value)) is Status.LOSS_BELOW
    assert below.value < 0.5 * (whole.value + Kinked(problem, 0.0, theta).value)
