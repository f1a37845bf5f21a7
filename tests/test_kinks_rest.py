"""Followed flows at rest: the linearised flow carries them to any end, saddles are left, stalls are told."""

from dataclasses import replace

import numpy as np
import pytest

import gradflow as gf
from gradflow.kinks.arrive import Outcome
from gradflow.kinks.look import ALONE
from gradflow.status import Status
from gradflow.steppers import kinked_piece
from gradflow.steppers.kinked import Kinked
from gradflow.steppers.kinked_rest import _kicks, last_decay

FLOW = gf.GradientFlow()


def gaussian(seed, widths, n, scale, activation="relu"):
    rng = np.random.default_rng(seed)
    network = gf.FullyConnected(widths, activation)
    problem = gf.Problem(network, gf.losses.Square(), rng.normal(size=(n, widths[0])), rng.normal(size=(n, 1)))
    return problem, problem.init(scale, seed=seed % 100)


def resting():
    rng = np.random.default_rng(1)
    problem = gf.Problem(
        gf.FullyConnected([3, 5, 1]), gf.losses.Square(), rng.normal(size=(6, 3)), rng.normal(size=(6, 1))
    )
    return problem, problem.init(0.5, seed=0)


@pytest.mark.parametrize("t_end", [1100.0, 1e4, 1e8])
def test_a_flow_at_rest_reaches_any_end(t_end):
    problem, theta = resting()
    run = gf.simulate(problem, theta, FLOW, t_end=t_end, save_at=50, max_gradients=20_000)
    assert run.status is Status.REACHED_END
    assert run.t.size == 50
    assert run.t[-1] == pytest.approx(t_end)
    assert "at rest from" in run.notes[-1]
    fine = gf.simulate(problem, theta, FLOW, t_end=min(t_end, 3000.0), rtol=1e-9)
    np.testing.assert_allclose(run.theta[-1], fine.theta[-1], atol=2e-5)


def test_a_flow_at_rest_reaches_the_largest_end():
    problem, theta = resting()
    run = gf.simulate(problem, theta, FLOW, t_end=1e300, max_gradients=20_000)
    assert run.status is Status.REACHED_END


def test_no_events_come_from_rounding_after_convergence():
    problem, theta = gaussian(1029, [3, 17, 1], 4, 0.7)
    runs = [gf.simulate(problem, theta, FLOW, t_end=t_end) for t_end in (50.0, 1000.0)]
    assert runs[0].kinks.events.size == runs[1].kinks.events.size < 40
    assert runs[1].counts["gradients"] < 4000
    np.testing.assert_allclose(runs[0].theta[-1], runs[1].theta[-1], atol=1e-6)


def test_on_the_way_to_rest_saved_states_are_those_of_the_flow():
    problem, theta = resting()
    times = np.linspace(0.0, 1100.0, 23)
    run = gf.simulate(problem, theta, FLOW, t_end=1100.0, save_at=times)
    fine = gf.simulate(problem, theta, FLOW, t_end=950.0, save_at=times[times <= 950.0], rtol=1e-10)
    np.testing.assert_allclose(run.theta[: fine.t.size], fine.theta, atol=2e-5)


def test_a_run_taken_further_after_rest_has_the_bits_of_one_run():
    problem, theta = resting()
    whole = gf.simulate(problem, theta, FLOW, t_end=2000.0)
    further = gf.simulate(problem, theta, FLOW, t_end=1200.0).extend(2000.0)
    np.testing.assert_array_equal(whole.theta[-1], further.theta[-1])
    assert further.status is Status.REACHED_END


def test_pauses_do_not_change_when_a_run_comes_to_rest():
    problem, theta = resting()
    whole, paused = (Kinked(problem, 0.0, theta) for _ in range(2))
    whole.advance(1100.0)
    while paused.advance(1100.0, max_steps=7) is Status.PAUSED:
        pass
    np.testing.assert_array_equal(whole.state, paused.state)
    assert whole.message == paused.message != ""


def test_the_neighbourhood_of_a_saddle_is_no_rest():
    """f = a relu(w) on one sample: near 0 theta moves less than the tolerance for long, and then goes to (1, 1)."""
    loss = gf.losses.Square(reduction="sum", half=True)
    problem = gf.Problem(gf.FullyConnected([1, 1, 1]), loss, [[1.0]], [1.0])
    run = gf.simulate(problem, [1e-9, 1e-9], FLOW, t_end=100.0, atol=1e-6)
    np.testing.assert_allclose(run.theta[-1], [1.0, 1.0], atol=1e-4)
    towards = Kinked(problem, 0.0, [1e-9, -1e-9])
    assert last_decay(towards._run, 100.0) is None
    assert last_decay(towards._run, 0.5) is not None


def test_a_repelling_kink_in_reach_is_no_rest():
    """The first sample is fitted by one neuron; the other neuron would fit the second one if it woke."""
    loss = gf.losses.Square(reduction="sum", half=True)
    problem = gf.Problem(gf.FullyConnected([2, 2, 1]), loss, [[1.0, 0.0], [-0.5, 1.0]], [1.0, 1.0])
    near, far = ([1.0, 0.0, -1.0, -0.5 - depth, 1.0, 1.0] for depth in (1e-9, 0.1))
    assert last_decay(Kinked(problem, 0.0, near)._run, 100.0) is None
    assert last_decay(Kinked(problem, 0.0, far)._run, 100.0) is not None


def test_the_speed_at_a_repelling_kink_in_reach_counts():
    problem, theta = resting()
    run = Kinked(problem, 0.0, theta)
    run.advance(1000.0)
    assert not _kicks(run._run, np.full(theta.size, 1e-6)).any()
    assert _kicks(run._run, np.full(theta.size, 1e6)).any()


def test_arrivals_without_progress_are_a_stall(monkeypatch):
    """Arrivals that change nothing, each after a millionth of a step."""
    problem, theta = resting()
    stepper = Kinked(problem, 0.0, theta)
    stepper.advance(5.0)
    monkeypatch.setattr(kinked_piece, "follow", lambda run, limits: (ALONE, None))
    monkeypatch.setattr(stepper._run.lookout, "first", lambda *_: (1e-6, np.array([0])))
    monkeypatch.setattr(kinked_piece, "arrive", _nothing)
    assert stepper.advance(1e6, max_gradients=20_000) is Status.STALLED_AT_KINK


def _nothing(network, place, theta, z_before, culprits=()):
    return Outcome(replace(place, theta=theta), [], 1)


@pytest.mark.parametrize("t_end", [1e14, 1e16])
def test_a_far_horizon_is_no_stall(t_end):
    rng = np.random.default_rng(5)
    problem = gf.Problem(
        gf.FullyConnected([4, 30, 1]), gf.losses.Square(), rng.normal(size=(25, 4)), rng.normal(size=(25, 1))
    )
    near, far = (
        gf.simulate(problem, problem.init(1.0, seed=0), FLOW, t_end=end, stop=gf.LossBelow(1e-4))
        for end in (1e3, t_end)
    )
    assert near.status is far.status is Status.LOSS_BELOW
    assert far.t_end == pytest.approx(near.t_end, rel=1e-5)
    assert far.t_end > 181.0


def test_a_stiff_pattern_is_handed_over_and_taken_further_with_the_same_bits():
    """The path is that of explicit steps at a finer tolerance, and an extended run that of one longer run."""
    problem, theta = gaussian(2008, [4, 18, 1], 19, 0.7)
    whole = gf.simulate(problem, theta, FLOW, t_end=4000.0)
    assert any("stiff solver" in note for note in whole.notes)
    further = gf.simulate(problem, theta, FLOW, t_end=3000.0).extend(4000.0)
    np.testing.assert_array_equal(whole.theta[-1], further.theta[-1])
    fine = gf.simulate(problem, theta, FLOW, t_end=400.0, solver="rk45", rtol=1e-9)
    np.testing.assert_allclose(gf.simulate(problem, theta, FLOW, t_end=400.0).theta[-1], fine.theta[-1], atol=1e-5)


@pytest.mark.parametrize("seed", range(2000, 2020))
def test_random_networks_reach_a_far_end(seed):
    rng = np.random.default_rng(seed)
    inputs, width, n = int(rng.integers(1, 6)), int(rng.integers(2, 20)), int(rng.integers(2, 25))
    x, y = rng.normal(size=(n, inputs)), rng.normal(size=(n, 1))
    problem = gf.Problem(gf.FullyConnected([inputs, width, 1]), gf.losses.Square(), x, y)
    run = gf.simulate(problem, problem.init(0.7, seed=seed % 100), FLOW, t_end=1e3, max_gradients=60_000)
    assert run.status is Status.REACHED_END
