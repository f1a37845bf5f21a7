"""Slices: how soon a run sees an interrupt, and that they change nothing else."""

import os
import signal

import cases
import numpy as np
import pytest

import gradflow as gf
from gradflow.running import Hurry
from gradflow.slicing import LONGEST, Mark, Slice, steps_at_first

SOLVERS = ("auto", "dop853", "rk45", "adams", "stabilised", "stiff", "LSODA", "BDF", "torchdiffeq:dopri5")


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def __call__(self):
        return self.now


def slices(cost, most, seconds_left=np.inf):
    """Seconds of the slices of a run whose step k costs cost(k), up to `most` steps, and their steps."""
    clock = Clock()
    piece, accepted, seconds, steps = Slice(clock), 0, [], []
    while accepted < most:
        count = piece.next(accepted, seconds_left)
        spent = sum(cost(k) for k in range(accepted, accepted + count))
        clock.now, accepted = clock.now + spent, accepted + count
        seconds.append(spent)
        steps.append(count)
    return seconds, steps


@pytest.mark.parametrize("cost", [1e-6, 2e-5, 1e-3, 0.02])
def test_no_slice_takes_longer_than_a_tenth_of_a_second(cost):
    seconds, steps = slices(lambda k: cost, 10 * int(LONGEST / cost) + 50)
    assert max(seconds) <= 1.001 * LONGEST
    assert len(seconds) < 30 + 60 * (cost == 0.02)
    assert steps[0] == 1


@pytest.mark.parametrize(("cost", "steps"), [(1e-7, 512), (2e-5, 312), (1e-3, 6), (0.02, 1), (1.0, 1)])
def test_the_first_slice_goes_by_the_operations_of_a_gradient(cost, steps):
    assert steps_at_first(cost) == steps
    assert Slice(Clock(), first=steps).next(0, np.inf) == steps


def test_a_step_longer_than_that_is_a_slice():
    seconds, steps = slices(lambda k: 0.7, 5)
    assert steps == [1] * 5


def test_what_is_left_of_max_seconds_bounds_a_slice():
    seconds, _ = slices(lambda k: 1e-4, 2000, seconds_left=0.01)
    assert max(seconds) <= 0.0101


def test_a_slice_that_ends_early_is_followed_by_one_step():
    clock = Clock()
    piece = Slice(clock)
    for accepted, expected in ((0, 1), (1, 8), (9, 64), (12, 1), (13, 8)):
        assert piece.next(accepted, np.inf) == expected
        clock.now += 1e-6


def test_a_mark_does_not_shorten_the_next_slice():
    clock = Clock()
    piece = Slice(clock)
    for accepted, at_mark, expected in ((0, False, 1), (1, False, 8), (9, False, 64), (63, True, 432)):
        assert piece.next(accepted, np.inf, at_mark) == expected
        clock.now += 1e-6


def test_a_long_run_comes_back_few_times_besides_its_marks(monkeypatch):
    returns = []
    taken = Slice.next

    def counted(self, accepted, seconds_left, at_mark=False):
        returns.append(at_mark)
        return taken(self, accepted, seconds_left, at_mark)

    monkeypatch.setattr(Slice, "next", counted)
    monkeypatch.setattr("gradflow.slicing.LONGEST", 1e9)
    problem = cases.make("tanh", "square")
    gf.simulate(problem, cases.start(problem), gf.GradientFlow(), t_end=2e4, rtol=1e-10, solver="rk45", save_at=2)
    assert sum(returns) > 5
    assert len(returns) < 2 * sum(returns)


def test_marks_go_by_gradients_and_double_for_a_dear_step():
    mark = Mark(100, 1000)
    assert not mark.passed({"accepted": 0, "gradients": 1})
    assert mark.budget == 101
    assert mark.passed({"accepted": 0, "gradients": 1})
    assert mark.budget == 201
    assert mark.passed({"accepted": 5, "gradients": 950})
    assert mark.budget == 1000


def run_of(solver, dynamics=None, network="tanh"):
    problem = cases.make(network, "square")
    options = {} if solver is None else {"solver": solver}
    dynamics = dynamics or gf.GradientFlow()
    return gf.simulate(problem, cases.start(problem), dynamics, t_end=20.0, save_at=9, rtol=1e-6, **options)


def same(a, b):
    """Whether two runs are equal in every number, and in what is kept to take them up again."""
    assert a.theta.tobytes() == b.theta.tobytes()
    assert {**a.counts, "seconds": 0} == {**b.counts, "seconds": 0}
    assert [s["t"] for s in a.run.snapshots] == [s["t"] for s in b.run.snapshots]
    assert a.notes == b.notes


CASES = [(solver, None, "tanh") for solver in SOLVERS]
CASES += [(None, rule, "tanh") for rule in (gf.GD(1e-3), gf.SGD(1e-3, batch_size=3), gf.Momentum(1e-3))]
CASES += [("auto", None, "relu"), ("auto", gf.PolarFlow(), "deep linear")]


@pytest.mark.parametrize(("solver", "dynamics", "network"), CASES)
def test_slices_change_no_bits(solver, dynamics, network, monkeypatch):
    monkeypatch.setattr("gradflow.running.MARK_SECONDS", 2e-3)
    usual = run_of(solver, dynamics, network)
    for steps in (1, 3, 2**40):
        monkeypatch.setattr(Slice, "next", lambda self, accepted, seconds_left, at_mark, steps=steps: steps)
        same(usual, run_of(solver, dynamics, network))


def test_records_end_soon_after_an_interrupt():
    problem, taken = cases.make("tanh", "square"), []

    def slow(problem, theta):
        taken.append(theta)
        if len(taken) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return float(len(taken))

    clock = Clock()
    run = gf.simulate(problem, cases.start(problem), gf.GradientFlow(), t_end=1.0, save_at=5, record={"slow": slow})
    assert run.status == gf.Status.REACHED_END
    assert len(run.records["slow"].t) <= 5
    late = Hurry(Outcome(Flag(), gf.Status.REACHED_END), np.inf, clock)
    assert not late()
    late._outcome.interrupt.raised = True
    assert not late()
    clock.now += 0.2
    assert late()


class Flag:
    """An interrupt."""

    raised = False


class Outcome:
    """An outcome of the loop."""

    def __init__(self, interrupt, status):
        self.interrupt, self.status = interrupt, status


def test_records_after_max_seconds_take_a_tenth_of_them():
    clock = Clock()
    late = Hurry(Outcome(Flag(), gf.Status.WALL_CLOCK), 20.0, clock)
    clock.now += 1.9
    assert not late()
    clock.now += 0.2
    assert late()
