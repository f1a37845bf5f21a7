"""Stabilised explicit stepping, against closed forms, the explicit pair of order 8 and itself."""

import math

import numpy as np
import pytest
from stabilised_cases import net_stepper
from stepper_cases import FORMS, START, bowl_field, forced, logistic, net_field, record

import gradflow as gf
from gradflow.status import Status
from gradflow.steppers.choose import make_field
from gradflow.steppers.explicit import Explicit
from gradflow.steppers.stabilised import Stabilised


@FORMS
@pytest.mark.parametrize("tol", [1e-4, 1e-6, 1e-8, 1e-10])
def test_two_layer_net_follows_its_closed_form(compiled, tol):
    stepper = net_stepper(compiled, tol)
    times = np.linspace(0.0, 8.0, 401)[1:-1]
    saved = np.full((times.size, 2), np.nan)
    assert stepper.advance(8.0, save_at=times, saved=saved) == Status.REACHED_END
    assert stepper.t == 8.0
    assert abs(stepper.state.prod() - logistic(8.0)) < 3.0 * tol
    assert np.abs(saved.prod(axis=1) - logistic(times)).max() < 30.0 * tol  # the growth multiplies early errors by 25
    np.testing.assert_allclose(stepper.value, 0.5 * (1.0 - stepper.state.prod()) ** 2, rtol=1e-10)


@pytest.mark.parametrize("curvature", [1.0, 1e3, 1e5])
def test_bowl_follows_its_closed_form(curvature):
    stepper = Stabilised(bowl_field([1.0, curvature]), 0.0, [1.0, 1.0], rtol=1e-10, atol=1e-10)
    assert stepper.advance(2.0) == Status.REACHED_END
    np.testing.assert_allclose(stepper.state, np.exp(np.array([-2.0, -2.0 * curvature])), atol=1e-9)


def test_driven_fast_mode_is_followed_with_a_quarter_of_the_gradients_of_a_pair():
    field, start = bowl_field(np.array([0.5, 20.0, 3e3]), link=forced), np.zeros(3)
    stepper, pair = (cls(field, 0.0, start, rtol=1e-4, atol=1e-4) for cls in (Stabilised, Explicit))
    for one in (stepper, pair):
        one.advance(3.0)
        np.testing.assert_allclose(one.state, math.sin(3.0), atol=5e-4)
    np.testing.assert_allclose(stepper.rho, 3e3, rtol=0.05)
    assert stepper.counts["gradients"] < 0.3 * pair.counts["gradients"]


def test_error_follows_the_tolerance():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((30, 4))
    y = x @ rng.standard_normal((4, 4))
    problem = gf.Problem(gf.DeepLinear([4, 4, 4]), gf.losses.Square(half=True), x, y)
    start, errors, tolerances = problem.init(scale=0.5, seed=0), [], 10.0 ** -np.arange(4, 10)
    exact = Explicit(make_field(problem, gf.GradientFlow(), problem.kernel), 0.0, start, rtol=1e-12, atol=1e-14)
    exact.advance(10.0)
    for tol in tolerances:
        stepper = Stabilised(exact.field, 0.0, start, rtol=tol, atol=tol / 100)
        stepper.advance(10.0)
        errors.append(np.linalg.norm(stepper.state - exact.state) / np.linalg.norm(exact.state))
    ratio = np.array(errors) / tolerances
    assert np.all(ratio < 5.0)
    assert np.all(ratio > 1e-3)


def saddles():
    """Deep linear net from a small start: saddle to saddle."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((50, 10))
    left, _ = np.linalg.qr(rng.standard_normal((10, 10)))
    right, _ = np.linalg.qr(rng.standard_normal((10, 10)))
    y = x @ (left * (3.0 / np.arange(1, 11)) @ right.T).T
    problem = gf.Problem(gf.DeepLinear([10, 10, 10, 10]), gf.losses.Square(half=True), x, y)
    return make_field(problem, gf.GradientFlow(), problem.kernel), problem.init(scale=0.03, seed=2)


def test_plateaus_cost_a_quarter_of_an_explicit_pair():
    field, start = saddles()
    exact = Explicit(field, 0.0, start, rtol=1e-12, atol=1e-14)
    exact.advance(400.0)
    for tol, gradients in ((1e-4, 2100), (1e-5, 2700)):
        stepper = Stabilised(field, 0.0, start, rtol=tol, atol=tol / 100)
        assert stepper.advance(400.0) == Status.REACHED_END
        assert stepper.counts["gradients"] < gradients
        assert np.linalg.norm(stepper.state - exact.state) < 5.0 * tol * np.linalg.norm(exact.state)


def test_compiled_and_interpreted_runs_agree():
    a, b = (net_stepper(compiled, 1e-8) for compiled in (True, False))
    for stepper in (a, b):
        stepper.advance(8.0)
    np.testing.assert_allclose(a.state, b.state, rtol=1e-12)
    assert a.counts == b.counts


@pytest.mark.parametrize("problem", ["net", "decay"])
def test_order_of_dense_output(problem):
    field, start, exact = {
        "net": (net_field(), [0.6, 0.6], lambda t: np.sqrt(logistic(t, 0.36))),
        "decay": (bowl_field([1.0]), [1.0], lambda t: np.exp(-t)),
    }[problem]
    steps = np.array([0.2, 0.1, 0.05])
    errors = []
    for h in steps:
        stepper = Stabilised(field, 0.0, start, rtol=1e3, atol=1e3, first_step=h)
        worst = []
        for _ in range(2):
            stepper._now["h"] = h
            stepper.advance(10.0, max_steps=1)
            times = np.linspace(stepper.t_before, stepper.t, 33)
            worst.append(np.abs(stepper.dense(times)[:, 0] - exact(times)).max())
        errors.append(worst)
    slopes = np.diff(np.log(errors), axis=0) / np.diff(np.log(steps))[:, None]
    assert np.all(slopes > 4.5)
    assert np.all(slopes < 5.6)


def test_dense_output_is_smooth_at_both_ends():
    stepper = net_stepper(tol=1e-3)
    stepper.advance(10.0, max_steps=5)
    slope_before = stepper.velocity
    stepper.advance(10.0, max_steps=1)
    h, eps = stepper.t - stepper.t_before, 1e-5
    first, last = stepper.dense([stepper.t_before + eps * h, stepper.t - eps * h])
    np.testing.assert_allclose((first - stepper.state_before) / (eps * h), slope_before, rtol=1e-3)
    np.testing.assert_allclose((stepper.state - last) / (eps * h), stepper.velocity, rtol=1e-3)
    np.testing.assert_array_equal(stepper.dense(stepper.t), stepper.state)
    np.testing.assert_array_equal(stepper.dense(stepper.t_before), stepper.state_before)


@FORMS
@pytest.mark.parametrize("pause", [False, True], ids=["at once", "step by step"])
@pytest.mark.parametrize("t_mid", [1e-3, 0.1, 3.0])
def test_snapshot_extends_bit_for_bit(compiled, pause, t_mid):
    whole, first = (net_stepper(compiled, 1e-8) for _ in range(2))
    times = np.linspace(t_mid, 8.0, 300)
    saved, again = (np.full((times.size, 2), np.nan) for _ in range(2))
    whole.advance(8.0, save_at=times, saved=saved)
    while first.advance(t_mid, max_steps=1 if pause else 10**9) == Status.PAUSED:
        pass
    assert first.t == t_mid
    snapshot = first.snapshot()
    assert snapshot["t"] < t_mid
    assert all(isinstance(value, (float, int, np.ndarray)) for value in snapshot.values())
    second = net_stepper(compiled, 1e-8)
    second.restore(snapshot)
    assert second.t_before == second.t == snapshot["t"]
    second.advance(8.0, save_at=times, saved=again)
    assert record(whole) == record(second)
    assert whole.counts == second.counts
    np.testing.assert_array_equal(saved, again)


@pytest.mark.parametrize("t_mid", [0.5, 4.0])
def test_snapshot_keeps_the_direction_of_the_power_iteration(t_mid):
    whole, first, second = (
        Stabilised(bowl_field([-0.1, 2.0, 30.0, 70.0, 80.0]), 0.0, np.ones(5), rtol=1e-6, atol=1e-6) for _ in range(3)
    )
    whole.advance(8.0)
    first.advance(t_mid)
    second.restore(first.snapshot())
    second.advance(8.0)
    assert record(whole) == record(second)


def test_snapshot_survives_a_rejected_cut_step():
    """From a stiff state with a far too long step, the first cut trials are rejected; the state held is the first."""
    ends = []
    for t_mid in (None, 0.6):
        stepper = Stabilised(bowl_field([1.0, 40.0]), 0.0, [1.0, 1.0], rtol=1e-8, atol=1e-8, first_step=0.9)
        if t_mid is not None:
            while stepper.advance(t_mid, max_steps=1) == Status.PAUSED:
                pass
            assert stepper.counts["rejected"] > 0
            assert stepper.snapshot()["rejected"] == 0
            stepper.restore(stepper.snapshot())
        stepper.advance(5.0)
        ends.append(record(stepper))
    assert ends[0] == ends[1]


def test_cut_step_leaves_the_step_size_alone():
    stepper = net_stepper()
    stepper.advance(3.0 - 1e-9)
    longest = stepper.step
    stepper.advance(3.0)
    assert stepper.step == longest == stepper.snapshot()["h"]
    stepper.advance(8.0, max_steps=1)
    middle = 0.5 * (stepper.t_before + stepper.t)
    np.testing.assert_allclose(stepper.dense(middle).prod(), logistic(middle), atol=1e-5)


def test_growth_at_a_saddle_is_followed():
    """The entry of curvature -1 grows by exp(20), with an error near rtol in every factor e, beside one of 1000."""
    stepper = Stabilised(bowl_field([-1.0, 1000.0]), 0.0, [1e-9, 1.0], rtol=1e-6, atol=1e-14)
    stepper.advance(20.0)
    np.testing.assert_allclose(stepper.state[0], 1e-9 * math.exp(20.0), rtol=40e-6)
    assert abs(stepper.state[1]) < 1e-6


def test_rounding_bounds_the_number_of_stages_at_tight_tolerances():
    for rtol, most in ((1e-4, 100), (1e-7, 35), (1e-10, 15), (0.0, 6)):
        stepper = Stabilised(bowl_field([1.0, 1e6]), 0.0, [1.0, 0.0], rtol=rtol, atol=1e-3)
        stepper.advance(1e9, max_gradients=3000)
        assert stepper.stages == stepper._method.stages[-1] <= most
        assert abs(stepper.state[1]) < 0.1 * max(rtol, 1e-13)


def test_stiff_run_asks_for_another_solver():
    options = {"rtol": 1e-4, "atol": 1e-4, "stiff_limit": 100.0}
    field = bowl_field([1.0, 1e4])
    stepper = Stabilised(field, 0.0, [1.0, 1.0], stiff_gradients=300.0, **options)
    assert stepper.advance(1e3) == Status.STIFF
    assert stepper.step * stepper.rho > 100.0
    assert Stabilised(field, 0.0, [1.0, 1.0], **options).advance(5.0) == Status.REACHED_END


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtol": -1.0}, "rtol"),
        ({"rtol": 0.0, "atol": 0.0}, "zero"),
        ({"atol": [1.0]}, "shape"),
        ({"first_step": 0.0}, "first_step"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Stabilised(net_field(), 0.0, START, **options)
