"""Adaptive explicit stepping, against closed forms, scipy and itself."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.integrate import DOP853, RK45
from stepper_cases import FORMS, START, bowl_field, log_time, logistic, net_field, record

from gradflow.kernels.calls import call
from gradflow.status import Status
from gradflow.steppers.adaptive import RECORD, Control, watch_stiffness
from gradflow.steppers.explicit import Explicit

PAIRS = pytest.mark.parametrize("pair", ["dop853", "rk45"])


def log_loss(s, state, out, chain, numbers, layout, work, coefficients):
    """Clock s = log(F(0)/F) on state (theta, t): ds = |gradient|^2 / F dt."""
    size = state.size - 1
    velocity = out[:size]
    value = call(chain[0], s, state[:size], velocity, chain[1:], numbers, layout, work, coefficients)
    rate = value / np.dot(velocity, velocity)
    velocity *= rate
    out[size] = rate
    return value


def net_stepper(compiled=True, tol=1e-6, **options):
    return Explicit(net_field(compiled), 0.0, START, rtol=tol, atol=tol, **options)


MEASURED = {
    "dop853": [(1e-4, 6e-9, 2e-5, 156), (1e-6, 3e-10, 7e-7, 204), (1e-8, 7e-12, 2e-8, 312), (1e-10, 3e-13, 1e-10, 480)],
    "rk45": [(1e-4, 1.3e-6, 4e-4, 114), (1e-6, 3e-8, 1e-5, 198), (1e-8, 7e-10, 1e-7, 402), (1e-10, 1.2e-11, 3e-9, 906)],
}


@FORMS
@pytest.mark.parametrize(
    ("pair", "tol", "end_error", "dense_error", "gradients"),
    [(pair, *row) for pair, rows in MEASURED.items() for row in rows],
)
def test_two_layer_net_follows_its_closed_form(compiled, pair, tol, end_error, dense_error, gradients):
    stepper = net_stepper(compiled, tol, pair=pair, first_step=1e-3)
    times = np.linspace(0.0, 8.0, 401)[1:-1]
    saved = np.full((times.size, 2), np.nan)
    assert stepper.advance(8.0, save_at=times, saved=saved) == Status.REACHED_END
    assert stepper.t == 8.0
    assert abs(stepper.state.prod() - logistic(8.0)) < 3.0 * end_error
    assert np.abs(saved.prod(axis=1) - logistic(times)).max() < 3.0 * dense_error
    assert stepper.counts["gradients"] < 1.2 * gradients + 3 * stepper.counts["accepted"]
    np.testing.assert_allclose(stepper.value, 0.5 * (1.0 - stepper.state.prod()) ** 2, rtol=1e-10)


@PAIRS
def test_compiled_and_interpreted_runs_agree(pair):
    a, b = (net_stepper(compiled, 1e-8, pair=pair) for compiled in (True, False))
    for stepper in (a, b):
        stepper.advance(8.0)
    np.testing.assert_allclose(a.state, b.state, rtol=1e-13)
    assert a.counts == b.counts


@PAIRS
@FORMS
@pytest.mark.parametrize("start", [START, [2.0, 1.5]], ids=["flat", "steep"])
def test_one_step_equals_scipy_and_so_does_its_first_step(pair, compiled, start):
    method = {"dop853": DOP853, "rk45": RK45}[pair]

    def velocity(t, y):
        return (1.0 - y[0] * y[1]) * y[::-1]

    guess = method(velocity, 0.0, start, 1e9, rtol=1e-6, atol=1e-6).h_abs
    stepper = Explicit(net_field(compiled), 0.0, start, rtol=1e-6, atol=1e-6, pair=pair)
    np.testing.assert_allclose(stepper.step, guess, rtol=1e-12)

    solver = method(velocity, 0.0, start, 1e9, rtol=10.0, atol=10.0, first_step=0.5)
    solver.step()
    stepper = Explicit(net_field(compiled), 0.0, start, rtol=10.0, atol=10.0, pair=pair, first_step=0.5)
    assert stepper.advance(10.0, max_steps=1) == Status.PAUSED
    np.testing.assert_allclose(stepper.state, solver.y, rtol=1e-14)
    if pair == "dop853":
        times = np.linspace(0.0, 0.5, 9)
        # scipy's coefficients reach 528, those of a row 1363 in sum: another order of the sum shows in the 14th digit
        np.testing.assert_allclose(stepper.dense(times), solver.dense_output()(times).T, rtol=2e-14)


@pytest.mark.parametrize(("pair", "order"), [("dop853", 7), ("rk45", 4)])
@pytest.mark.parametrize("problem", ["net", "decay"])
def test_order_of_dense_output(pair, order, problem):
    field, start, exact = {
        "net": (net_field(True), [0.6, 0.6], lambda t: np.sqrt(logistic(t, 0.36))),
        "decay": (bowl_field([1.0], True), [1.0], lambda t: np.exp(-t)),
    }[problem]
    steps = np.array([0.4, 0.2, 0.1]) if pair == "dop853" else np.array([0.2, 0.1, 0.05])
    errors = []
    for h in steps:
        stepper = Explicit(field, 0.0, start, rtol=1.0, atol=1.0, pair=pair, first_step=h)
        stepper.advance(10.0, max_steps=1)
        times = np.linspace(0.0, h, 33)
        errors.append(np.abs(stepper.dense(times)[:, 0] - exact(times)).max())
    slopes = np.diff(np.log(errors)) / np.diff(np.log(steps))
    assert np.all(slopes > order + 0.7)
    assert np.all(slopes < order + 1.6)


@PAIRS
def test_dense_output_is_smooth_at_both_ends(pair):
    stepper = net_stepper(tol=1e-3, pair=pair)
    stepper.advance(10.0, max_steps=2)
    slope_before = stepper.velocity
    stepper.advance(10.0, max_steps=1)
    h, eps = stepper.t - stepper.t_before, 1e-5
    first, last = stepper.dense([stepper.t_before + eps * h, stepper.t - eps * h])
    np.testing.assert_allclose((first - stepper.state_before) / (eps * h), slope_before, rtol=1e-3)
    np.testing.assert_allclose((stepper.state - last) / (eps * h), stepper.velocity, rtol=1e-3)
    np.testing.assert_array_equal(stepper.dense(stepper.t), stepper.state)
    np.testing.assert_array_equal(stepper.dense(stepper.t_before), stepper.state_before)


@FORMS
@PAIRS
@pytest.mark.parametrize("pause", [False, True], ids=["at once", "step by step"])
def test_snapshot_extends_bit_for_bit(compiled, pair, pause):
    whole, first = (net_stepper(compiled, 1e-8, pair=pair) for _ in range(2))
    whole.advance(8.0)
    while first.advance(3.0, max_steps=1 if pause else 10**9) == Status.PAUSED:
        pass
    assert first.t == 3.0
    snapshot = first.snapshot()
    assert snapshot["t"] < 3.0
    assert all(isinstance(value, (float, int, np.ndarray)) for value in snapshot.values())
    second = net_stepper(compiled, 1e-8, pair=pair)
    second.restore(snapshot)
    second.advance(8.0)
    assert record(whole) == record(second)
    assert whole.counts == second.counts


def test_snapshot_survives_a_rejected_cut_step():
    """From a stiff state with a far too long step, the first cut trials are rejected; the state held is the first."""
    ends = []
    for t_mid in (None, 0.6):
        stepper = Explicit(bowl_field([1.0, 40.0], True), 0.0, [1.0, 1.0], rtol=1e-8, atol=1e-8, first_step=0.9)
        if t_mid is not None:
            while stepper.advance(t_mid, max_steps=1) == Status.PAUSED:
                pass
            assert stepper.counts["rejected"] > 0
            assert stepper.snapshot()["rejected"] == 0
            stepper.restore(stepper.snapshot())
        stepper.advance(5.0)
        ends.append(record(stepper))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("cut_before", [False, True])
def test_snapshot_of_an_uncut_state_is_that_state(cut_before):
    stepper = net_stepper()
    if cut_before:
        stepper.advance(2.0)
        assert stepper.t > stepper.snapshot()["t"]
    stepper.advance(8.0, max_steps=4)
    other = net_stepper()
    other.restore(stepper.snapshot())
    assert other.t == stepper.t
    for one in (stepper, other):
        one.advance(8.0)
    assert record(stepper) == record(other)


def test_cut_step_leaves_the_step_size_alone():
    stepper = net_stepper()
    stepper.advance(3.0 - 1e-9)
    longest = stepper.step
    stepper.advance(3.0)
    assert stepper.step == longest == stepper.snapshot()["h"]


@FORMS
def test_two_advances_end_within_the_tolerance(compiled):
    stepper = net_stepper(compiled, first_step=1e-3)
    stepper.advance(3.0)
    stepper.advance(8.0)
    assert abs(stepper.state.prod() - logistic(8.0)) < 3 * 1.4e-10
    assert stepper.counts["gradients"] <= 229


def test_runs_on_two_threads_keep_their_bits():
    def run(scale):
        stepper = Explicit(net_field(True), 0.0, [scale, 0.5 * scale], rtol=1e-10, atol=1e-10)
        stepper.advance(20.0)
        return record(stepper)

    scales = np.linspace(0.05, 1.5, 40)
    with ThreadPoolExecutor(2) as pool:
        threaded = list(pool.map(run, scales))
    assert threaded == [run(scale) for scale in scales]


@PAIRS
def test_log_time_chain_equals_the_plain_flow(pair):
    out, expected, state = np.empty(2), np.empty(2), np.array([0.3, 0.7])
    fields = [net_field(compiled, log_time) for compiled in (True, False)]
    assert fields[0](1.5, state, out) == fields[1](1.5, state, expected)
    np.testing.assert_array_equal(out, expected)
    for field in fields:
        stepper = Explicit(field, 0.0, START, rtol=1e-8, atol=1e-10, pair=pair)
        stepper.advance(math.log(9.0))
        np.testing.assert_allclose(stepper.state.prod(), logistic(8.0), atol=1e-8)


@FORMS
def test_log_loss_clock_carries_time_as_a_component_that_does_not_steer(compiled):
    atol = [1e-8, 1e-8, 1e30]
    stepper = Explicit(net_field(compiled, log_loss), 0.0, [*START, 0.0], rtol=1e-8, atol=atol)
    initial = stepper.value
    stepper.advance(20.0)
    np.testing.assert_allclose(stepper.value / initial, math.exp(-20.0), rtol=1e-6)
    product, t = stepper.state[0] * stepper.state[1], stepper.state[2]
    np.testing.assert_allclose(product, logistic(t), atol=1e-10)
    assert stepper.counts["gradients"] < 700
    steered = Explicit(net_field(compiled, log_loss), 0.0, [*START, 0.0], rtol=1e-8, atol=1e-12)
    steered.advance(20.0)
    assert steered.counts["gradients"] > stepper.counts["gradients"]


def test_step_too_small_where_time_cannot_resolve_it():
    stepper = Explicit(bowl_field([1e6], True), 1e12, [1.0], rtol=1e-8, atol=1e-8)
    assert stepper.advance(2e12) == Status.STEP_TOO_SMALL
    assert stepper.t == 1e12


@FORMS
@PAIRS
def test_stiffness_is_measured_and_handed_over(compiled, pair):
    curvatures = np.array([1.0, 10.0, 1000.0])
    field, start = bowl_field(curvatures, compiled), [1.0, 1.0, 1.0]
    stepper = Explicit(field, 0.0, start, pair=pair, stiff_gradients=500)
    assert stepper.advance(100.0) == Status.STIFF
    np.testing.assert_allclose(stepper.rho, 1000.0, rtol=0.05)
    np.testing.assert_allclose(stepper.state[0], math.exp(-stepper.t), rtol=1e-5)
    for gradients in (1e9, math.inf):
        assert Explicit(field, 0.0, start, pair=pair, stiff_gradients=gradients).advance(1.0) == Status.REACHED_END


def test_six_calm_steps_in_a_row_clear_the_count_of_stiff_ones():
    control = Control(1e-6, np.ones(1), stiff_limit=6.1, stiff_gradients=0.0)
    now = np.zeros(1, RECORD)[0]
    now["length"] = 1.0
    counts = []
    for rho in [10.0] * 14 + [1.0] * 5 + [10.0] + [1.0] * 6 + [10.0]:
        watch_stiffness(control, now, rho, cut=False)
        counts.append(int(now["stiff"]))
    assert counts == [*range(1, 15), *[14] * 5, 15, *[15] * 5, 0, 1]


@PAIRS
def test_smooth_problem_is_not_called_stiff(pair):
    stepper = net_stepper(tol=1e-8, pair=pair, stiff_gradients=0.0)
    assert stepper.advance(8.0) == Status.REACHED_END


def test_stationary_start_reaches_the_end_in_few_steps():
    stepper = Explicit(net_field(True), 0.0, [1.0, 1.0], rtol=1e-8, atol=1e-8)
    assert stepper.advance(1e12) == Status.REACHED_END
    assert stepper.counts["accepted"] < 40
    np.testing.assert_array_equal(stepper.state, [1.0, 1.0])


def test_component_at_zero_without_absolute_tolerance():
    stepper = Explicit(bowl_field([1.0, 1.0], True), 0.0, [1.0, 0.0], rtol=1e-8, atol=0.0)
    assert stepper.advance(2.0) == Status.REACHED_END
    np.testing.assert_allclose(stepper.state, [math.exp(-2.0), 0.0], rtol=1e-7)


def test_wrong_arguments_say_what_must_hold():
    field = net_field(True)
    with pytest.raises(ValueError, match=r"pair = 'tsit5' is not known; give one of 'dop853', 'rk45'"):
        Explicit(field, 0.0, START, pair="tsit5")
    with pytest.raises(ValueError, match="one flat vector"):
        Explicit(field, 0.0, [START])
    with pytest.raises(ValueError, match=r"atol has shape \(3,\)"):
        Explicit(field, 0.0, START, atol=np.ones(3))
    with pytest.raises(ValueError, match="nor both be zero"):
        Explicit(field, 0.0, START, rtol=0.0, atol=[0.0, 1.0])
    with pytest.raises(ValueError, match="first step must be positive"):
        net_stepper(first_step=0.0)
