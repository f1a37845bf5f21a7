"""Solvers of scipy, torchdiffeq and SUNDIALS behind the stepper interface, against closed forms.

The net is f(x) = w1 w2 x with one sample x = y = 1 and F = (1 - w1 w2)^2 / 2; from w1 = w2 the product s = w1 w2
solves s' = 2 s (1 - s). The stiff problem is F = theta' H theta / 2 with curvatures from 0.01 to 10,000, whose flow is
exp(-H t) theta(0).
"""

import sys
import warnings
from functools import partial

import numpy as np
import pytest

from gradflow.kernels.calls import call
from gradflow.kernels.kernel import Kernel
from gradflow.status import Status
from gradflow.steppers.cvode import Cvode
from gradflow.steppers.field import Field
from gradflow.steppers.scipy_methods import METHODS, Scipy
from gradflow.steppers.torchdiffeq_methods import ADAPTIVE, FIXED, Torchdiffeq

START = [0.1, 0.1]
SOLVERS = (
    {name: partial(Scipy, method=name) for name in METHODS}
    | {name: partial(Torchdiffeq, method=name) for name in ADAPTIVE}
    | {name: partial(Torchdiffeq, method=name, step=0.05) for name in FIXED}
    | {"cvode": Cvode}
)


def named(*names):
    return pytest.mark.parametrize("name", names)


STIFF = ("LSODA", "Radau", "BDF", "cvode")
GOOD = (*STIFF, "DOP853", "RK45", "dopri8", "dopri5")
EVERY = (*GOOD, "rk4", "euler", "implicit_adams")


def product_net(theta, out, numbers, layout, work):
    residual = 1.0 - theta[0] * theta[1]
    out[0] = -residual * theta[1]
    out[1] = -residual * theta[0]
    return 0.5 * residual * residual


def bowl(theta, out, numbers, layout, work):
    out[:] = numbers.reshape(theta.size, theta.size) @ theta
    return 0.5 * float(theta @ out)


def walled_net(theta, out, numbers, layout, work):
    """The net, with no gradient where w1 w2 > 1/2."""
    value = product_net(theta, out, numbers, layout, work)
    if theta[0] * theta[1] > 0.5:
        out[:] = np.nan
    return value


def cubic(theta, out, numbers, layout, work):
    """F = -sum theta^3 / 3, whose flow theta' = theta^2 leaves the numbers at t = 1 / theta(0)."""
    out[:] = -(theta**2)
    return -float((theta**3).sum()) / 3.0


def flow(t, state, out, chain, numbers, layout, work, coefficients):
    value = call(chain[0], state, out, numbers, layout, work)
    out[:] = -out
    return value


def until(t, state, out, chain, numbers, layout, work, coefficients):
    """A field that ends at the time coefficients[0]."""
    value = call(chain[0], t, state, out, chain[1:], numbers, layout, work, coefficients[1:])
    if t > coefficients[0]:
        out[:] = np.inf
    return value


def field(gradient=product_net, links=(flow,), numbers=(0.0,), coefficients=()):
    data, layout = np.ravel(numbers).astype(float), np.zeros(0, np.int64)
    return Field(links, Kernel("test", gradient, None, data, layout, 1, compiled=False, flops=6.0), coefficients)


class Counted:
    """A field that counts its calls, and raises an exception at one of them."""

    def __init__(self, inner, fails_at=None, exception=KeyboardInterrupt):
        self.inner, self.calls, self.fails_at, self.exception = inner, 0, fails_at, exception

    def __call__(self, t, state, out):
        self.calls += 1
        if self.calls == self.fails_at:
            raise self.exception
        return self.inner(t, state, out)


def net(name, rtol=1e-6, around=None, **options):
    return SOLVERS[name](around or field(), 0.0, START, rtol=rtol, atol=1e-2 * rtol, **options)


def product(t):
    return 1.0 / (1.0 + 99.0 * np.exp(-2.0 * np.asarray(t)))


def assert_on_the_flow(states, times, error):
    np.testing.assert_allclose(np.prod(states, axis=-1), product(times), rtol=0.0, atol=error)


@pytest.mark.parametrize(
    ("name", "rtol", "at_end", "inside"),
    [
        ("LSODA", 1e-10, 3, 20),
        ("Radau", 1e-10, 1, 2),
        ("BDF", 1e-10, 5, 30),
        ("DOP853", 1e-10, 1, 10),
        ("RK45", 1e-10, 2, 20),
        ("dopri8", 1e-10, 1, 1),
        ("dopri5", 1e-10, 2, 3),
        ("RK23", 1e-5, 5, 20),
        ("bosh3", 1e-5, 5, 20),
        ("adaptive_heun", 1e-5, 3, 5),
        ("fehlberg2", 1e-5, 1000, 1000),
        pytest.param("cvode", 1e-10, 5, 100),
    ],
)
def test_two_layer_net_reaches_its_closed_form(name, rtol, at_end, inside):
    stepper, times, saved = net(name, rtol), np.linspace(0.2, 7.8, 39), np.full((39, 2), np.nan)
    assert (stepper.advance(8.0, save_at=times, saved=saved), stepper.t) == (Status.REACHED_END, 8.0)
    assert_on_the_flow(stepper.state, 8.0, at_end * rtol)
    assert_on_the_flow(saved, times, inside * rtol)


@pytest.mark.parametrize("exact", [True, False], ids=["jacobian", "differences"])
@named(*STIFF)
def test_stiff_linear_flow_reaches_its_closed_form(name, exact):
    rng, size = np.random.default_rng(0), 8
    basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
    curvature, start = np.geomspace(1e-2, 1e4, size), rng.normal(size=size)
    hessian, rtol = (basis * curvature) @ basis.T, 1e-7 if name == "Radau" else 1e-10
    options = {"jacobian": lambda t, state: -hessian} if exact else {}
    stepper = SOLVERS[name](field(bowl, numbers=hessian), 0.0, start, rtol=rtol, atol=1e-2 * rtol, **options)
    times, saved = np.append(np.geomspace(1e-3, 9.0, 20), 10.0), np.full((21, size), np.nan)
    assert stepper.advance(10.0, save_at=times, saved=saved) == Status.REACHED_END
    solution = (np.exp(-np.outer(times, curvature)) * (basis.T @ start)) @ basis.T
    np.testing.assert_allclose(saved, solution, rtol=0.0, atol=5 * rtol)
    np.testing.assert_array_equal(saved[-1], stepper.state)
    assert stepper.counts["hessian_products"] % size == 0
    assert (stepper.counts["hessian_products"] > 0) == exact
    assert stepper.counts["gradients"] < 20 * stepper.counts["accepted"]


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("heun2", 2), ("heun3", 3), ("rk4", 4)])
def test_fixed_steps_have_their_order(method, order):
    errors = []
    for step in (0.1, 0.05):
        stepper = Torchdiffeq(field(), 0.0, START, method=method, step=step)
        assert stepper.advance(3.0) == Status.REACHED_END
        assert stepper.counts["accepted"] == round(3.0 / step)
        errors.append(abs(np.prod(stepper.state) - product(3.0)))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize(("method", "step"), [("implicit_adams", 0.025), ("explicit_adams", 0.002)])
def test_adams_methods_are_accurate_at_small_steps_however_the_stretch_is_cut(method, step):
    stepper = Torchdiffeq(field(), 0.0, START, rtol=1e-10, atol=1e-12, method=method, step=step)
    saved = np.empty((2, 2))
    assert stepper.advance(2.0, save_at=[0.777, 1.4], saved=saved) == Status.REACHED_END
    assert_on_the_flow([*saved, stepper.state], [0.777, 1.4, 2.0], 2e-9)


def test_dopri8_keeps_its_order_at_the_times_that_are_asked_for():
    """odeint itself interpolates there to fourth order, which costs it two digits at this tolerance."""
    import torch
    from torchdiffeq import odeint

    stepper, inner = net("dopri8", 1e-10), Counted(field())
    stepper.advance(8.0)

    def rate(t, state):
        out = np.empty(2)
        inner(float(t), state.numpy(), out)
        return torch.from_numpy(out)

    times, start = torch.tensor([0.0, 8.0]).double(), torch.tensor(START).double()
    direct = odeint(rate, start, times, rtol=1e-10, atol=1e-12, method="dopri8")[-1]
    assert stepper.counts["gradients"] == inner.calls
    assert abs(np.prod(stepper.state) - product(8.0)) < 1e-2 * abs(float(direct.prod()) - product(8.0))


@named(*EVERY)
def test_single_steps_join_carry_value_and_velocity_and_have_dense_output(name):
    counted, velocity = Counted(field()), np.empty(2)
    stepper = net(name, 1e-6, counted)
    while stepper.t < 6.0:
        before, start = stepper.t, stepper.state
        assert stepper.value == field()(before, start, velocity)
        np.testing.assert_array_equal(stepper.velocity, velocity)
        assert stepper.advance(6.0, max_steps=1) == (Status.PAUSED if stepper.t < 6.0 else Status.REACHED_END)
        assert stepper.t_before == before < stepper.t
        np.testing.assert_array_equal(stepper.state_before, start)
        np.testing.assert_array_equal(stepper.dense([before, stepper.t]), [start, stepper.state])
        assert np.prod(start) < np.prod(stepper.dense(0.5 * (before + stepper.t))) < np.prod(stepper.state)
    assert stepper.counts["gradients"] == counted.calls


@named(*EVERY)
def test_loss_below_stops_after_the_step_that_crosses(name):
    stepper = net(name)
    assert stepper.advance(np.inf, loss_below=1e-2) == Status.LOSS_BELOW
    ends = 0.5 * (1.0 - np.array([np.prod(stepper.state_before), np.prod(stepper.state)])) ** 2
    assert ends[1] < 1e-2 <= ends[0]
    assert stepper.value == pytest.approx(ends[1], rel=1e-12)
    accepted = stepper.counts["accepted"]
    assert stepper.advance(np.inf, loss_below=1e-2) == Status.LOSS_BELOW
    assert stepper.counts["accepted"] == accepted


@named("LSODA", "BDF", "cvode")
def test_pausing_and_saving_do_not_change_the_steps_of_solvers_with_a_history(name):
    once, often = net(name), net(name)
    times, saved = np.linspace(0.1, 7.9, 50), np.full((50, 2), np.nan)
    for stepper in (once, often):
        stepper.advance(0.5, max_steps=1)
    for t in (0.9, 0.91, 2.0, 5.0, 8.0):
        assert often.advance(t, save_at=times, saved=saved) == Status.REACHED_END
        assert often.t == t
    assert once.advance(8.0) == Status.REACHED_END
    np.testing.assert_array_equal(once.state, often.state)
    assert once.counts["gradients"] == often.counts["gradients"]
    assert np.isfinite(saved).all()


@named("Radau", "DOP853", "RK45", "RK23")
def test_pausing_where_steps_end_changes_nothing(name):
    single, paused = net(name), net(name)
    for _ in range(12):
        single.advance(100.0, max_steps=1)
        assert paused.advance(single.t) == Status.REACHED_END
        np.testing.assert_array_equal(paused.state, single.state)
    assert paused.counts["accepted"] == single.counts["accepted"]
    assert paused.counts["gradients"] <= single.counts["gradients"]


@named(*GOOD)
def test_paused_and_restored_stepper_goes_on_within_tolerance(name):
    stepper, other = net(name, 1e-9), net(name, 1e-9)
    assert [stepper.advance(t) for t in (1e-9, 1.0, 1.0, 2.0)] == [Status.REACHED_END] * 4
    snapshot = stepper.snapshot()
    stepper.advance(5.0)
    for resumed in (stepper, other):
        resumed.restore(snapshot)
        assert (resumed.t, resumed.t_before) == (2.0, 2.0)
        assert resumed.counts["gradients"] == snapshot["gradients"]
        assert resumed.advance(8.0) == Status.REACHED_END
        assert_on_the_flow(resumed.state, 8.0, 2e-8)
    np.testing.assert_array_equal(stepper.state, other.state)


@pytest.mark.parametrize("budget", [7, 60])
@named(*EVERY)
def test_budget_is_kept_and_the_run_can_go_on(name, budget):
    counted, times, saved = Counted(field()), np.linspace(0.1, 0.9, 9), np.full((9, 2), np.nan)
    stepper = net(name, 1e-6, counted)
    assert stepper.advance(40.0, save_at=times, saved=saved, max_gradients=budget) == Status.GRADIENT_BUDGET
    assert stepper.counts["gradients"] == counted.calls <= budget
    assert stepper.t < 40.0
    inside = np.linspace(stepper.t_before, stepper.t, 4)
    assert_on_the_flow(stepper.dense(inside), inside, 2e-2)
    assert_on_the_flow(saved[times <= stepper.t], times[times <= stepper.t], 2e-2)
    assert stepper.advance(41.0, save_at=times, saved=saved) == Status.REACHED_END
    assert_on_the_flow([*saved, stepper.state], [*times, 41.0], 2e-2)


def test_budget_leaves_room_for_the_interpolant_of_dop853():
    times = np.linspace(0.1, 7.9, 20)
    for budget in range(2, 150):
        stepper = net("DOP853")
        stepper.advance(8.0, save_at=times, saved=np.empty((20, 2)), max_gradients=budget)
        assert stepper.counts["gradients"] <= budget


@named(*GOOD, "RK23", "bosh3")
def test_slices_of_gradients_keep_the_accuracy_and_do_not_change_a_runge_kutta_run(name):
    whole, sliced = net(name, 1e-5), net(name, 1e-5)
    whole.advance(8.0)
    while sliced.advance(8.0, max_gradients=sliced.counts["gradients"] + 47) == Status.GRADIENT_BUDGET:
        assert sliced.counts["gradients"] < 2 * whole.counts["gradients"] + 100
    assert_on_the_flow(sliced.state, 8.0, 1e-4)
    if name not in STIFF:
        np.testing.assert_array_equal(sliced.state, whole.state)


@pytest.mark.parametrize(("fails_at", "exception"), [(2, KeyboardInterrupt), (23, ZeroDivisionError)])
@named(*EVERY)
def test_interrupts_and_errors_of_the_field_come_through_and_leave_the_state(name, fails_at, exception):
    stepper = net(name, 1e-6, Counted(field(), fails_at, exception))
    with pytest.raises(exception):
        stepper.advance(8.0)
    assert_on_the_flow(stepper.state, stepper.t, 2e-2)
    assert stepper.advance(8.0) == Status.REACHED_END
    assert_on_the_flow(stepper.state, 8.0, 1e-3)


@named(*STIFF, "DOP853")
def test_interrupt_at_any_call_harms_neither_the_last_step_nor_the_rest(name):
    for fails_at in range(40, 160, 5):
        stepper = net(name, 1e-7, Counted(field(), fails_at))
        with pytest.raises(KeyboardInterrupt):
            stepper.advance(8.0)
        times = np.linspace(stepper.t_before, stepper.t, 5)
        assert_on_the_flow(stepper.dense(times), times, 5e-6)
        stepper.advance(8.0)
        assert_on_the_flow(stepper.state, 8.0, 2e-6)


@pytest.mark.parametrize("start", [[np.nan, 1.0], [np.inf, 1.0], [1e200, 1e200]])
@named(*EVERY)
def test_start_that_is_not_finite(name, start):
    stepper = SOLVERS[name](field(), 0.0, start, rtol=1e-6, atol=1e-8)
    assert (stepper.advance(1.0), stepper.t) == (Status.NOT_FINITE_START, 0.0)
    assert stepper.counts["gradients"] <= 1


@named(*EVERY)
def test_divergence_keeps_the_last_finite_state_and_what_was_saved(name):
    stepper, times, saved = net(name, 1e-6, field(walled_net)), np.arange(1.0, 9.0), np.full((8, 2), np.nan)
    assert stepper.advance(8.0, save_at=times, saved=saved) == Status.DIVERGED
    assert "the velocity is not finite near t = 2." in stepper.message
    assert 0.4 < np.prod(stepper.state) <= 0.5
    assert np.isfinite(stepper.value)
    assert_on_the_flow(saved[:2], times[:2], 2e-2)
    assert np.isnan(saved[2:]).all()


@named(*EVERY)
def test_field_that_ends_just_after_t_end_does_not_matter(name):
    stepper = net(name, 1e-6, field(links=(until, flow), coefficients=[3.001]))
    assert stepper.advance(3.0) == Status.REACHED_END
    assert_on_the_flow(stepper.state, 3.0, 1e-2)
    assert stepper.advance(4.0) == Status.DIVERGED
    assert 3.0 <= stepper.t <= 3.001


@pytest.mark.filterwarnings("ignore:Functional iteration did not converge")
@named(*EVERY)
def test_blow_up_in_finite_time_ends_by_itself(name):
    stepper = SOLVERS[name](field(cubic), 0.0, [1.0, 0.5], rtol=1e-6, atol=1e-8)
    assert stepper.advance(2.0) == (Status.DIVERGED if name in FIXED else Status.STEP_TOO_SMALL)
    assert stepper.message
    assert np.isfinite(stepper.state).all()
    assert name in FIXED or stepper.t == pytest.approx(1.0, abs=1e-3)


@named(*GOOD)
def test_start_at_rest_stays(name):
    stepper = SOLVERS[name](field(), 0.0, [0.0, 0.0], rtol=1e-6, atol=1e-8)
    assert [stepper.advance(t) for t in (1.0, 1e6)] == [Status.REACHED_END] * 2
    np.testing.assert_array_equal(stepper.state, 0.0)


@pytest.mark.parametrize(
    ("name", "velocity", "rtol", "message"),
    [
        ("LSODA", lambda t, y: 1e3 * np.sin(1e12 * t + 1e13 * y), 1e-12, "LSODA: Repeated convergence failures"),
        pytest.param("cvode", lambda t, y: 1e200 if t > 0 else 1.0, 1e-6, "CVODE: At t = 0 and h = "),
    ],
)
def test_failure_is_told_to_the_stepper_only(name, velocity, rtol, message, capfd):
    def rough(t, state, out):
        out[:] = velocity(t, state)
        return 1.0

    stepper = SOLVERS[name](rough, 0.0, [1.0, 0.3], rtol=rtol, atol=1e-2 * rtol)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert stepper.advance(1.0) == Status.SOLVER_FAILED
    assert stepper.message.startswith(message)
    np.testing.assert_array_equal(stepper.state, [1.0, 0.3])
    assert capfd.readouterr() == ("", "")


def test_what_the_field_says_reaches_the_user_and_what_sundials_logs_does_not(capfd):
    def talking(t, state, out):
        print("a word of the field")
        warnings.warn("a warning of the field", stacklevel=1)
        out[:] = state**2
        return 1.0

    for name in ("cvode", "LSODA"):
        with pytest.warns(UserWarning, match="a warning of the field"):
            status = SOLVERS[name](talking, 0.0, [1.0, 0.5], rtol=1e-6, atol=1e-8).advance(2.0)
        assert status == Status.STEP_TOO_SMALL
        said, complained = capfd.readouterr()
        assert (set(said.splitlines()), complained) == ({"a word of the field"}, "")


def test_missing_cvode_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sksundae.cvode", None)
    with pytest.raises(ImportError, match=r"pip install 'gradflow\[cvode\]'"):
        net("cvode")


@pytest.mark.parametrize(("size", "used"), [(200, True), (201, False)])
def test_cvode_takes_the_exact_jacobian_for_small_states_only(size, used):
    sphere, jacobian = field(bowl, numbers=np.eye(size)), lambda t, state: -np.eye(size)
    stepper = Cvode(sphere, 0.0, np.ones(size), rtol=1e-6, atol=1e-8, jacobian=jacobian)
    stepper.advance(1.0)
    np.testing.assert_allclose(stepper.state, np.exp(-1.0), rtol=1e-5)
    assert (stepper.counts["hessian_products"] > 0) == used


@pytest.mark.parametrize(
    ("make", "start", "options", "message"),
    [
        (Scipy, START, {"method": "lsode"}, "scipy's methods are LSODA, Radau, BDF, DOP853, RK45, RK23"),
        (Scipy, START, {"rtol": 1e-14}, "rtol = 1e-14: must be at least 2.3e-14"),
        (Scipy, START, {"atol": [1e-8] * 3}, "atol has shape"),
        (Scipy, START, {"atol": -1.0}, "must not be negative"),
        (Scipy, [START], {}, "flat vector"),
        (Scipy, START, {"method": "Radau", "jacobian": lambda t, state: state}, "jacobian gave shape"),
        (Torchdiffeq, START, {"method": "tsit5"}, "adaptive methods are dopri8, .*fixed steps are euler"),
        (Torchdiffeq, START, {"method": "rk4"}, "step = None: method 'rk4' has fixed steps; give step > 0"),
        (Torchdiffeq, START, {"method": "dopri5", "step": 0.1}, "chooses its own steps"),
    ],
)
def test_wrong_arguments_say_what_to_do(make, start, options, message):
    with pytest.raises(ValueError, match=message):
        make(field(), 0.0, start, **({"rtol": 1e-6, "atol": 1e-8} | options)).advance(1.0)


@named(*GOOD)
def test_wrong_calls_say_what_to_do(name):
    stepper = net(name)
    stepper.advance(1.0)
    with pytest.raises(ValueError, match="lies before t = 1.0"):
        stepper.advance(0.5)
    with pytest.raises(ValueError, match="saved has shape"):
        stepper.advance(2.0, save_at=[1.5], saved=np.empty((1, 3)))
    with pytest.raises(ValueError, match="give increasing times"):
        stepper.dense(1.5)
    with pytest.raises(ValueError, match="the snapshot's state has shape"):
        stepper.restore(stepper.snapshot() | {"state": np.ones(3)})
