"""What all own steppers promise alike: saves, pauses, budgets, stops, and what ends a run early."""

import math

import numpy as np
import pytest
from stepper_cases import FORMS, START, ascent, bowl_field, log_time, logistic, net_field, record, walled

from gradflow.status import Status
from gradflow.steppers.adams import Adams
from gradflow.steppers.explicit import Explicit
from gradflow.steppers.stabilised import Stabilised
from gradflow.steppers.stiff import Stiff

STEPPERS = {
    "dop853": lambda *start, **options: Explicit(*start, pair="dop853", **options),
    "rk45": lambda *start, **options: Explicit(*start, pair="rk45", **options),
    "adams": Adams,
    "stiff": Stiff,
    "stabilised": Stabilised,
}
MOST_A_STEP = {"dop853": 15, "rk45": 6, "adams": 3, "stabilised": 250, "stiff": 60}
"""Gradients of a step and its dense output, at most."""
ALL = pytest.mark.parametrize("name", STEPPERS)
EXPLICIT = pytest.mark.parametrize("name", [name for name in STEPPERS if name != "stiff"])


def on_net(name, compiled=True, **options):
    return STEPPERS[name](net_field(compiled), 0.0, START, **{"rtol": 1e-6, "atol": 1e-6} | options)


@FORMS
@ALL
def test_saving_changes_no_bits(name, compiled):
    plain, saving = (on_net(name, compiled) for _ in range(2))
    times = np.sort(np.random.default_rng(0).uniform(0.0, 8.0, 500))
    saved = np.full((times.size, 2), np.nan)
    plain.advance(8.0)
    saving.advance(8.0, save_at=times, saved=saved)
    assert record(plain) == record(saving)
    assert np.abs(saved.prod(axis=1) - logistic(times)).max() < 3e-5
    more = saving.counts["gradients"] - plain.counts["gradients"]
    assert more <= {"dop853": 3 * plain.counts["accepted"], "stabilised": 2}.get(name, 0)


@FORMS
@ALL
def test_pausing_changes_no_bits_and_dense_gives_what_is_saved(name, compiled):
    whole, paused = (on_net(name, compiled) for _ in range(2))
    times = np.linspace(0.0, 8.0, 101)
    saved, again, dense = (np.full((times.size, 2), np.nan) for _ in range(3))
    whole.advance(8.0, save_at=times, saved=saved)
    status, steps = Status.PAUSED, 0
    dense[0] = paused.dense(0.0)
    while status == Status.PAUSED:
        status = paused.advance(8.0, save_at=times, saved=again, max_steps=1)
        inside = (times > paused.t_before) & (times <= paused.t)
        if inside.any():
            dense[inside] = paused.dense(times[inside])
        steps += 1
    assert (status, steps) == (Status.REACHED_END, paused.counts["accepted"])
    assert record(whole) == record(paused)
    assert whole.counts == paused.counts
    np.testing.assert_array_equal(saved, again)
    np.testing.assert_array_equal(saved, dense)


@FORMS
@pytest.mark.parametrize("saving", [False, True])
@ALL
def test_budget_is_never_exceeded_and_the_run_goes_on(name, compiled, saving):
    saves = {"save_at": np.linspace(0.0, 8.0, 200), "saved": np.empty((200, 2))} if saving else {}
    whole = on_net(name, compiled)
    whole.advance(8.0)
    for budget in (2, 3, 4, 9, 20, 60):
        stepper = on_net(name, compiled)
        assert stepper.advance(8.0, max_gradients=budget, **saves) == Status.GRADIENT_BUDGET
        stepper.dense(0.5 * (stepper.t_before + stepper.t))
        assert budget - MOST_A_STEP[name] < stepper.counts["gradients"] <= budget
        np.testing.assert_allclose(stepper.state.prod(), logistic(stepper.t), atol=1e-4)
        assert stepper.advance(8.0, **saves) == Status.REACHED_END
        assert record(whole) == record(stepper)


@FORMS
@ALL
def test_loss_below_stops_after_the_first_step_under_it(name, compiled):
    stepper = on_net(name, compiled)
    assert stepper.advance(np.inf, loss_below=1e-3) == Status.LOSS_BELOW
    assert stepper.value < 1e-3
    assert 0.5 * (1.0 - stepper.state_before.prod()) ** 2 >= 1e-3


@FORMS
@pytest.mark.parametrize("start", [[np.nan, 0.1], [np.inf, 0.1], [1e200, 1e200]])
@ALL
def test_start_that_is_not_finite_is_named(name, compiled, start):
    with np.errstate(all="ignore"):
        stepper = STEPPERS[name](net_field(compiled), 0.0, start, rtol=1e-6, atol=1e-6)
    assert stepper.advance(1.0) == Status.NOT_FINITE_START
    assert stepper.counts["gradients"] == 1
    np.testing.assert_array_equal(stepper.state, start)


@FORMS
@ALL
def test_blow_up_ends_with_a_finite_state_when_time_cannot_resolve_it(name, compiled):
    """theta' = theta^2 / 2 from 1 is 2 / (2 - t)."""
    stepper = STEPPERS[name](bowl_field([1.0], compiled, ascent), 0.0, [1.0], rtol=1e-8, atol=1e-8)
    loose = name in ("adams", "stiff")
    ends = (Status.STEP_TOO_SMALL, Status.DIVERGED) if loose else (Status.STEP_TOO_SMALL,)
    assert stepper.advance(3.0, max_gradients=100_000) in ends
    assert np.isfinite(stepper.state).all()
    np.testing.assert_allclose(stepper.t, 2.0, rtol=1e-6 if loose else 1e-7)


@FORMS
@ALL
def test_objective_that_is_not_a_number_beyond_a_wall_stops_there(name, compiled):
    stepper = STEPPERS[name](bowl_field([1.0], compiled, ascent, cube=2), 0.0, [1.0], rtol=1e-8, atol=1e-8)
    assert stepper.advance(3.0) == Status.DIVERGED
    bound = 1e-7 if name in ("dop853", "rk45", "stiff") else 1e-6
    np.testing.assert_allclose([stepper.t, stepper.state[0]], [1.0, 2.0], rtol=bound)
    assert stepper.counts["rejected"] < 100


@FORMS
@EXPLICIT
def test_velocities_that_are_not_numbers_only_shorten_the_step(name, compiled):
    """The solution is sin t; the first trial steps lead beyond a wall at 1.5."""
    field = bowl_field([1.0], compiled, walled, numbers=[1.5])
    stepper = STEPPERS[name](field, 0.0, [0.0], rtol=1e-8, atol=1e-8)
    stepper._now["h"] = stepper._now["h_tried"] = 1e4
    assert stepper.advance(2.0) == Status.REACHED_END
    assert stepper.counts["rejected"] >= 2
    np.testing.assert_allclose(stepper.state, math.sin(2.0), atol=1e-7)


@FORMS
@ALL
def test_a_step_in_log_time_follows_the_plain_flow(name, compiled):
    stepper = STEPPERS[name](net_field(compiled, log_time), 0.0, START, rtol=1e-8, atol=1e-10)
    stepper.advance(math.log(9.0))
    bound = 1e-8 if name == "stabilised" else 1e-7
    np.testing.assert_allclose(stepper.state.prod(), logistic(8.0), atol=bound)


@ALL
def test_flat_objective_takes_long_steps(name):
    stepper = STEPPERS[name](bowl_field([0.0, 0.0]), 0.0, [1.0, 2.0])
    assert stepper.advance(1e6) == Status.REACHED_END
    np.testing.assert_array_equal(stepper.state, [1.0, 2.0])
    assert stepper.counts["accepted"] < 30


@FORMS
@ALL
def test_no_time_to_go_takes_no_step_and_time_does_not_go_back(name, compiled):
    stepper = on_net(name, compiled)
    gradients = stepper.counts["gradients"]
    assert stepper.advance(0.0) == Status.REACHED_END
    assert (stepper.t, stepper.counts["accepted"], stepper.counts["gradients"]) == (0.0, 0, gradients)
    np.testing.assert_array_equal(stepper.state, START)
    stepper.advance(1.0)
    with pytest.raises(ValueError, match="goes forward"):
        stepper.advance(0.5)


@ALL
def test_snapshot_of_another_size_is_refused(name):
    with pytest.raises(ValueError, match="same problem"):
        on_net(name).restore(STEPPERS[name](bowl_field([1.0]), 0.0, [1.0]).snapshot())


@ALL
def test_dense_output_outside_the_last_step_and_rows_that_do_not_fit_are_refused(name):
    stepper = on_net(name)
    stepper.advance(1.0)
    with pytest.raises(ValueError, match="dense output is known from"):
        stepper.dense(1.5)
    with pytest.raises(ValueError, match="for 1 times it must be"):
        stepper.advance(2.0, save_at=[1.5], saved=np.empty((2, 2)))
