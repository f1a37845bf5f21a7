"""Pauses, budgets and stops of the stiff stepper, beyond what all steppers promise alike."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from stiff_cases import (
    DENSE,
    FORMS,
    START,
    bits,
    double_well,
    field,
    flow,
    log_time,
    net_stepper,
    product_net,
    quadratic,
    riccati,
    rotated,
)  # fmt: skip

from gradflow.status import Status
from gradflow.steppers.stiff import Stiff


@FORMS
def test_pausing_changes_no_bits_and_dense_gives_what_is_saved(compiled):
    whole, paused, stopped = (net_stepper(compiled) for _ in range(3))
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
        np.testing.assert_array_equal(paused.dense([paused.t_before, paused.t]), [paused.state_before, paused.state])
        steps += 1
    assert (status, steps) == (Status.REACHED_END, paused.counts["accepted"])
    assert bits(whole) == bits(paused)
    assert whole.counts == paused.counts
    np.testing.assert_array_equal(saved, again)
    np.testing.assert_array_equal(saved, dense)
    for t_end in np.linspace(0.5, 8.0, 16):
        assert stopped.advance(t_end) == Status.REACHED_END
        assert stopped.t == t_end
    assert bits(whole) == bits(stopped)


@FORMS
def test_snapshot_extends_bit_for_bit(compiled):
    whole, first, second = (net_stepper(compiled, 1e-8, dense=False) for _ in range(3))
    whole.advance(8.0)
    first.advance(3.0)
    snapshot = first.snapshot()
    assert snapshot["t"] == 3.0
    np.testing.assert_array_equal(snapshot["state"], first.state)
    assert all(isinstance(value, (float, int, np.ndarray)) for value in snapshot.values())
    first.advance(5.0)
    second.restore(snapshot)
    assert second.t == second.t_before == 3.0
    second.advance(8.0)
    assert bits(whole) == bits(second)
    with pytest.raises(ValueError, match="shape"):
        Stiff(field(riccati), 0.0, [0.0]).restore(snapshot)


@FORMS
@DENSE
def test_budget_is_never_exceeded_and_changes_no_bits(compiled, dense):
    matrix, start = rotated(np.logspace(-2, 2, 12)), np.ones(12)
    whole, sliced = (
        Stiff(field(quadratic, compiled, matrix), 0.0, start, rtol=1e-6, atol=1e-8, dense=dense) for _ in range(2)
    )
    whole.advance(50.0)
    assert sliced.advance(50.0, max_gradients=1) == Status.GRADIENT_BUDGET
    assert sliced.counts == {"gradients": 1, "hessian_products": 0, "accepted": 0, "rejected": 0}
    status, slice_size = Status.GRADIENT_BUDGET, 37
    while status == Status.GRADIENT_BUDGET:
        budget = sliced.counts["gradients"] + slice_size
        status = sliced.advance(50.0, max_gradients=budget)
        assert sliced.counts["gradients"] == budget or status == Status.REACHED_END
        assert sliced.counts["gradients"] <= budget
        assert np.isfinite(sliced.state).all()
    assert bits(sliced) == bits(whole)


def test_every_call_of_the_gradient_is_counted():
    calls = 0

    def counted(theta, out, numbers, layout, work):
        nonlocal calls
        calls += 1
        return product_net(theta, out, numbers, layout, work)

    stepper = Stiff(field(counted, compiled=False), 0.0, START, rtol=1e-6, atol=1e-8)
    stepper.advance(4.0, loss_below=1e-9)
    assert stepper.counts["gradients"] == calls
    assert stepper.value > 0.0
    assert stepper.counts["gradients"] == calls


@FORMS
@pytest.mark.parametrize("links", [(flow,), (log_time, flow)], ids=["plain", "clock"])
def test_loss_below_stops_at_the_first_such_step(compiled, links):
    def stepper():
        return Stiff(field(product_net, compiled, links=links), 0.0, START, rtol=1e-6, atol=1e-8)

    stopped, free = stepper(), stepper()
    assert stopped.advance(40.0, loss_below=1e-6) == Status.LOSS_BELOW
    assert stopped.value < 1e-6
    assert 0.5 * (1.0 - stopped.state_before.prod()) ** 2 >= 1e-6
    while free.t < stopped.t:
        free.advance(40.0, max_steps=1)
    assert bits(free) == bits(stopped)
    if len(links) == 1:
        assert stopped.counts["gradients"] <= free.counts["gradients"] + 3
    assert stopped.advance(40.0, loss_below=1e-6) == Status.LOSS_BELOW
    assert stepper().advance(40.0, loss_below=1.0) == Status.LOSS_BELOW


@FORMS
def test_a_loss_that_falls_only_after_t_end_does_not_count(compiled):
    free, stopped = net_stepper(compiled), net_stepper(compiled)
    free.advance(8.0)
    level = free.value * (1.0 - 1e-6)
    assert stopped.advance(8.0, loss_below=level) == Status.REACHED_END
    assert stopped.advance(9.0, loss_below=level) == Status.LOSS_BELOW


def test_an_entry_of_large_tolerance_does_not_steer_the_step():
    matrix = np.diag([1.0, 1e5])
    free = Stiff(field(quadratic, True, matrix), 0.0, [1.0, 1.0], rtol=1e-8, atol=[1e-8, 1e30])
    steered = Stiff(field(quadratic, True, matrix), 0.0, [1.0, 1.0], rtol=1e-8, atol=1e-8)
    for stepper in (free, steered):
        stepper.advance(3.0)
        np.testing.assert_allclose(stepper.state[0], math.exp(-3.0), rtol=1e-7)
    assert free.counts["accepted"] < 0.7 * steered.counts["accepted"]


def test_a_stationary_start_stays():
    stepper = Stiff(field(double_well), 0.0, [0.0, 0.0], rtol=1e-6, atol=1e-8)
    assert stepper.advance(1e6) == Status.REACHED_END
    np.testing.assert_array_equal(stepper.state, [0.0, 0.0])
    assert stepper.counts["gradients"] < 100


def test_runs_on_two_threads_keep_their_bits():
    def run(scale):
        stepper = Stiff(field(product_net), 0.0, [scale, 0.5 * scale], rtol=1e-8, atol=1e-8)
        stepper.advance(20.0)
        return bits(stepper)

    scales = np.linspace(0.05, 1.5, 20)
    with ThreadPoolExecutor(2) as pool:
        threaded = list(pool.map(run, scales))
    assert threaded == [run(scale) for scale in scales]


def test_wrong_arguments_are_refused():
    chain = field(product_net)
    with pytest.raises(ValueError, match="flat vector"):
        Stiff(chain, 0.0, [[1.0]])
    with pytest.raises(ValueError, match="tolerances"):
        Stiff(chain, 0.0, START, rtol=0.0, atol=0.0)
    with pytest.raises(ValueError, match="atol has shape"):
        Stiff(chain, 0.0, START, atol=[1e-8] * 3)
    stepper = net_stepper()
    stepper.advance(1.0)
    with pytest.raises(ValueError, match="before t"):
        stepper.advance(0.5)
    with pytest.raises(ValueError, match="dense output is known"):
        stepper.dense(0.0)
    with pytest.raises(ValueError, match="saved"):
        stepper.advance(2.0, save_at=np.zeros(3), saved=np.zeros((2, 2)))
