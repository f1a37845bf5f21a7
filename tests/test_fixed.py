"""Fixed steps: Euler is gradient descent to the last bit, and each method has its order."""

import math

import numpy as np
import pytest

from gradflow.kernels.calls import call
from gradflow.kernels.kernel import Kernel
from gradflow.status import Status
from gradflow.steppers.field import Field
from gradflow.steppers.fixed import Fixed

FORMS = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "interpreted"])
METHODS = pytest.mark.parametrize("method", ["euler", "heun", "rk4"])


def rosenbrock(theta, out, numbers, layout, work):
    """F = (1 - a)^2 + numbers_1 (b - a^2)^2."""
    a, b = theta[0], theta[1]
    out[0] = -2.0 * (1.0 - a) - 4.0 * numbers[1] * a * (b - a * a)
    out[1] = 2.0 * numbers[1] * (b - a * a)
    return (1.0 - a) ** 2 + numbers[1] * (b - a * a) ** 2


def flow(t, state, out, chain, numbers, layout, work, coefficients):
    value = call(chain[0], state, out, numbers, layout, work)
    out[:] = -out
    return value


def driven(t, state, out, chain, numbers, layout, work, coefficients):
    """y' = -cos(t) y / 2 with F = y^2 / 4 of the bowl below, so that y = exp(-sin(t) / 2)."""
    value = call(chain[0], state, out, numbers, layout, work)
    out[:] = -math.cos(t) * out
    return value


def bowl(theta, out, numbers, layout, work):
    """F = |theta|^2 / 4."""
    out[:] = 0.5 * theta
    return 0.25 * np.dot(theta, theta)


def saturated(theta, out, numbers, layout, work):
    """F = 1 / (1 + |theta|^2), with a step far too long for it: theta grows as theta^3."""
    out[:] = -(theta**3)
    return 1.0 / (1.0 + np.dot(theta, theta))


def valley(compiled):
    return Field((flow,), _kernel(rosenbrock, compiled, [0.0, 10.0]))


def _kernel(gradient, compiled, numbers=(0.0,)):
    layout = np.zeros(1, dtype=np.int64)
    return Kernel("", gradient, None, np.array(numbers), layout, 1, compiled=compiled, flops=1.0)


def record(stepper):
    """All that must agree bit for bit between two runs that end in the same state."""
    return stepper.t, *stepper.state, *stepper.velocity, stepper.value


@FORMS
def test_euler_is_gradient_descent_bit_for_bit(compiled):
    field, step = valley(compiled), 0.013
    descent = Fixed(field, 0.0, [-1.2, 1.0], step=step, whole_steps=True)
    saved = np.full((1001, 2), np.nan)
    times = np.arange(1001) * step
    assert descent.advance(1000 * step, save_at=times, saved=saved) == Status.REACHED_END

    theta, out = np.array([-1.2, 1.0]), np.empty(2)
    for k in range(1001):
        np.testing.assert_array_equal(saved[k], theta)
        value = field(0.0, theta, out)
        assert k < 1000 or value == descent.value
        gradient = -out
        theta = theta - step * gradient
    assert descent.t == 1000 * step
    assert descent.counts == {"gradients": 1001, "hessian_products": 0, "accepted": 1000, "rejected": 0}


@FORMS
def test_time_is_a_multiple_of_the_step_and_only_whole_steps_are_taken(compiled):
    stepper = Fixed(Field((flow,), _kernel(bowl, compiled)), 2.0, [1.0], step=0.1, whole_steps=True)
    for t_end, steps in [(2.05, 0), (2.1, 1), (2.3, 3), (2.69, 6), (2.7 - 1e-12, 7), (3.0, 10), (102.0, 1000)]:
        assert stepper.advance(t_end) == Status.REACHED_END
        assert stepper.counts["accepted"] == steps
        assert stepper.t == 2.0 + steps * 0.1
        assert stepper.advance(t_end) == Status.REACHED_END


@FORMS
@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_order_at_the_end_and_in_between(compiled, method, order):
    steps = 1.0 / np.array([40, 80, 160])
    end, dense = [], []
    times = np.linspace(0.0, 1.3, 200)
    for step in steps:
        stepper = Fixed(Field((driven,), _kernel(bowl, compiled)), 0.0, [1.0], step=step, method=method)
        saved = np.full((200, 1), np.nan)
        stepper.advance(1.3, save_at=times, saved=saved)
        exact = np.exp(-0.5 * np.sin(times))
        end.append(abs(stepper.state[0] - exact[-1]))
        dense.append(np.abs(saved[:, 0] - exact).max())
    for errors in (end, dense):
        slopes = np.diff(np.log(errors)) / np.diff(np.log(steps))
        np.testing.assert_allclose(slopes, order, atol=0.25)


@FORMS
@METHODS
def test_last_step_is_cut_at_the_end(compiled, method):
    stepper = Fixed(valley(compiled), 0.0, [-1.2, 1.0], step=0.01, method=method)
    assert stepper.advance(0.105) == Status.REACHED_END
    assert stepper.t == 0.105
    assert stepper.counts["accepted"] == 11
    stepper.advance(0.2)
    assert stepper.t == 0.2
    assert stepper.counts["accepted"] == 21


@FORMS
@METHODS
def test_snapshot_extends_bit_for_bit(compiled, method):
    whole, first, second = (Fixed(valley(compiled), 0.0, [-1.2, 1.0], step=0.01, method=method) for _ in range(3))
    whole.advance(0.5)
    first.advance(0.105)
    snapshot = first.snapshot()
    assert snapshot["t"] == 0.1
    second.restore(snapshot)
    second.advance(0.5)
    assert record(whole) == record(second)
    assert whole.counts == second.counts


@FORMS
@METHODS
def test_saving_and_pausing_change_no_bits(compiled, method):
    plain, paused = (Fixed(valley(compiled), 0.0, [-1.2, 1.0], step=0.01, method=method) for _ in range(2))
    times = np.linspace(0.0, 1.0, 77)
    saved, again, dense = (np.full((77, 2), np.nan) for _ in range(3))
    plain.advance(1.0, save_at=times, saved=saved)
    dense[0] = paused.dense(0.0)
    while paused.advance(1.0, save_at=times, saved=again, max_steps=1) == Status.PAUSED:
        inside = (times > paused.t_before) & (times <= paused.t)
        if inside.any():
            dense[inside] = paused.dense(times[inside])
    dense[-1] = paused.dense(paused.t)
    assert record(plain) == record(paused)
    np.testing.assert_array_equal(saved, again)
    np.testing.assert_array_equal(saved, dense)


def test_dense_output_of_euler_is_linear_and_of_the_others_has_the_right_slopes():
    euler, heun = (Fixed(valley(True), 0.0, [-1.2, 1.0], step=0.01, method=name) for name in ("euler", "heun"))
    for stepper in (euler, heun):
        stepper.advance(0.03)
    middle = 0.5 * (euler.t_before + euler.t)
    np.testing.assert_allclose(euler.dense(middle), 0.5 * (euler.state_before + euler.state), rtol=1e-14)
    last = heun.dense(heun.t - 1e-7)
    np.testing.assert_allclose((heun.state - last) / 1e-7, heun.velocity, rtol=1e-4)


@FORMS
@METHODS
def test_too_large_a_step_diverges_and_keeps_the_last_finite_state(compiled, method):
    stepper = Fixed(valley(compiled), 0.0, [-1.2, 1.0], step=0.5, method=method, whole_steps=True)
    assert stepper.advance(100.0) == Status.DIVERGED
    assert np.isfinite(stepper.state).all()
    assert np.isfinite(stepper.value)
    assert stepper.t == 0.5 * stepper.counts["accepted"]
    assert stepper.advance(100.0) == Status.DIVERGED
    with pytest.raises(ValueError, match="dense output is known from"):
        stepper.dense(stepper.t_before)


@FORMS
def test_state_that_is_not_finite_is_refused_even_if_the_objective_is(compiled):
    stepper = Fixed(Field((flow,), _kernel(saturated, compiled)), 0.0, [2.0], step=1.0)
    assert stepper.advance(100.0) == Status.DIVERGED
    assert np.isfinite(stepper.state).all()


@FORMS
def test_limits(compiled):
    stepper = Fixed(valley(compiled), 0.0, [-1.2, 1.0], step=0.01, method="rk4")
    assert stepper.advance(1.0, max_gradients=20) == Status.GRADIENT_BUDGET
    assert stepper.counts["gradients"] == 17
    assert stepper.advance(np.inf, loss_below=1.0) == Status.LOSS_BELOW
    assert stepper.value < 1.0
    a, b = stepper.state_before
    assert (1.0 - a) ** 2 + 10.0 * (b - a * a) ** 2 >= 1.0


@FORMS
def test_start_that_is_not_finite_is_named(compiled):
    stepper = Fixed(valley(compiled), 0.0, [math.nan, 1.0], step=0.01)
    assert stepper.advance(1.0) == Status.NOT_FINITE_START


def test_wrong_arguments_say_what_must_hold():
    with pytest.raises(ValueError, match=r"step = -0.1: the step size must be positive"):
        Fixed(valley(True), 0.0, [1.0, 1.0], step=-0.1)
    with pytest.raises(ValueError, match="method = 'rk5' is not known; give one of 'euler', 'heun', 'rk4'"):
        Fixed(valley(True), 0.0, [1.0, 1.0], step=0.1, method="rk5")
    stepper = Fixed(valley(True), 0.0, [1.0, 1.0], step=0.1)
    stepper.advance(1.0)
    with pytest.raises(ValueError, match="goes forward"):
        stepper.advance(0.5)
