"""Functions of the caller that raise in the middle of a run: the run ends there, with what it has."""

import cases
import numpy as np
import pytest

import gradflow as gf

FLOW = gf.GradientFlow()


class Breaks(gf.Flow):
    """The plain flow, until it breaks."""

    def velocity(self, problem, t, state):
        if t > 0.5:
            raise RuntimeError("out of range")
        return -problem.gradient(state)


def breaks(problem, t, theta):
    if t > 0.5:
        raise RuntimeError("out of range")
    return theta[0] - 10.0


@pytest.mark.parametrize("options", [{}, {"clock": "log_time"}, {"save_at": "steps"}, {"solver": "rk45"}])
@pytest.mark.parametrize("network", ["tanh", "relu"])
def test_an_event_that_raises_ends_the_run_where_it_was(network, options):
    problem = cases.make(network, "square")
    if network == "relu" and "solver" in options:
        options = options | {"kinks": "ignore"}
    whole = gf.simulate(problem, cases.start(problem), FLOW, t_end=1.0, **options)
    run = gf.simulate(problem, cases.start(problem), FLOW, t_end=1.0, events=gf.Event("a", breaks), **options)
    assert run.status == gf.Status.FUNCTION_FAILED
    assert 0.0 < run.t_end <= 1.0
    (note,) = [note for note in run.notes if "event 'a'" in note]
    assert "RuntimeError: out of range" in note
    assert "test_failures.py" in note
    assert "in breaks" in note
    assert np.allclose(run.end, whole.at(run.t_end), rtol=1e-5, atol=1e-8)


def test_crossings_before_it_are_kept():
    problem = cases.make("tanh", "square")
    events = [gf.Event("early", lambda problem, t, theta: t - 0.1), gf.Event("a", breaks)]
    run = gf.simulate(problem, cases.start(problem), FLOW, t_end=1.0, events=events)
    assert [crossing.name for crossing in run.events] == ["early"]


@pytest.mark.parametrize("solver", ["auto", "rk45", "adams", "stabilised", "stiff", "LSODA", "torchdiffeq:dopri5"])
def test_a_velocity_that_raises_ends_the_run_where_it_was(solver):
    problem = cases.make("tanh", "square")
    whole = gf.simulate(problem, cases.start(problem), FLOW, t_end=1.0)
    run = gf.simulate(problem, cases.start(problem), Breaks(), t_end=1.0, solver=solver)
    assert run.status == gf.Status.FUNCTION_FAILED
    assert 0.0 < run.t_end <= 0.5
    assert any("the velocity" in note and "RuntimeError: out of range" in note for note in run.notes)
    assert np.allclose(run.end, whole.at(run.t_end), rtol=1e-4, atol=1e-6)
    assert np.isfinite(run.loss).all()


def test_one_run_of_a_batch_that_raises_leaves_the_others():
    problem = cases.make("tanh", "square")
    starts = np.stack([cases.start(problem, 1), cases.start(problem, 2)])

    def picky(problem, t, theta):
        if t > 0.2 and np.linalg.norm(theta - starts[0]) < np.linalg.norm(theta - starts[1]):
            raise ValueError("not this one")
        return 1.0

    batch = gf.simulate(problem, starts, FLOW, t_end=1.0, events=gf.Event("picky", picky))
    assert [status.name for status in batch.status] == ["FUNCTION_FAILED", "REACHED_END"]


def test_at_the_start_they_are_wrong_arguments():
    problem = cases.make("tanh", "square")
    with pytest.raises(ZeroDivisionError):
        gf.simulate(problem, cases.start(problem), FLOW, t_end=1.0, events=gf.Event("a", lambda *_: 1 / 0))
    with pytest.raises(RuntimeError, match="out of range"):
        gf.simulate(problem, cases.start(problem), Breaks(), t_end=2.0, t_start=1.0)
