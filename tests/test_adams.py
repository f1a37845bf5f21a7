"""Adams stepper: closed forms, saves, pauses, snapshots, budgets, stops."""

import math

import numpy as np
import pytest
from stepper_cases import FORMS, START, bowl_field, forced, logistic, net_field, record

import gradflow as gf
from gradflow.status import Status
from gradflow.steppers.adams import Adams
from gradflow.steppers.auto import adams_pays


def net_stepper(compiled=True, tol=1e-6, **options):
    return Adams(net_field(compiled), 0.0, START, rtol=tol, atol=tol, **options)


@FORMS
@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6, 1e-8, 1e-11])
def test_two_layer_net_follows_its_closed_form(compiled, tol):
    stepper = net_stepper(compiled, tol)
    times = np.linspace(0.0, 8.0, 401)[1:-1]
    saved = np.full((times.size, 2), np.nan)
    assert stepper.advance(8.0, save_at=times, saved=saved) == Status.REACHED_END
    assert stepper.t == 8.0
    assert abs(stepper.state.prod() - logistic(8.0)) < 10.0 * tol
    assert np.abs(saved.prod(axis=1) - logistic(times)).max() < 30.0 * tol  # the growth multiplies early errors by 25
    np.testing.assert_allclose(stepper.value, 0.5 * (1.0 - stepper.state.prod()) ** 2, rtol=1e-10)


def test_driven_modes_follow_the_drive():
    stepper = Adams(bowl_field([0.5, 20.0, 100.0], link=forced), 0.0, np.zeros(3), rtol=1e-6, atol=1e-6)
    stepper.advance(3.0)
    np.testing.assert_allclose(stepper.state, math.sin(3.0), atol=1e-5)


def test_compiled_and_interpreted_runs_agree():
    a, b = (net_stepper(compiled, 1e-8) for compiled in (True, False))
    for stepper in (a, b):
        stepper.advance(8.0)
    np.testing.assert_allclose(a.state, b.state, rtol=1e-12)
    assert a.counts == b.counts


def test_long_states_agree_with_short_ones():
    """Equal modes behave as one: here more of them than a block of compiled code holds."""
    one, many = (Adams(bowl_field(np.full(size, 3.0)), 0.0, np.ones(size), rtol=1e-6, atol=1e-8) for size in (1, 1300))
    for stepper in (one, many):
        stepper.advance(2.0)
    np.testing.assert_allclose(many.state, one.state[0], rtol=1e-12)
    assert one.counts == many.counts


def test_dense_output_meets_both_ends():
    stepper = net_stepper(tol=1e-4)
    stepper.advance(10.0, max_steps=6)
    h = stepper.t - stepper.t_before
    np.testing.assert_array_equal(stepper.dense([stepper.t_before, stepper.t]), [stepper.state_before, stepper.state])
    near = stepper.dense([stepper.t_before + 1e-9 * h, stepper.t - 1e-9 * h])
    np.testing.assert_allclose(near, [stepper.state_before, stepper.state], rtol=1e-8)


@FORMS
@pytest.mark.parametrize("ask", [False, True], ids=["as it is", "value asked for"])
@pytest.mark.parametrize("t_mid", [1e-5, 0.1, 3.0, 5.0])
def test_snapshot_extends_bit_for_bit(compiled, t_mid, ask):
    whole, first = (net_stepper(compiled, 1e-8) for _ in range(2))
    times = np.linspace(t_mid, 8.0, 300)
    saved, again, on = (np.full((times.size, 2), np.nan) for _ in range(3))
    whole.advance(8.0, save_at=times, saved=saved)
    first.advance(t_mid)
    assert first.t == t_mid
    if ask:
        assert first.value == pytest.approx(0.5 * (1.0 - first.state.prod()) ** 2)
    extra = int(ask and first._now["inside"])
    snapshot = first.snapshot()
    assert all(isinstance(value, (float, int, np.ndarray)) for value in snapshot.values())
    second = net_stepper(compiled, 1e-8)
    second.restore(snapshot)
    assert second.t_before == second.t == snapshot["t"] == t_mid
    np.testing.assert_array_equal(second.state, first.state)
    for stepper, rows in ((first, on), (second, again)):
        stepper.advance(8.0, save_at=times, saved=rows)
        assert stepper.counts["gradients"] == whole.counts["gradients"] + extra
    assert record(whole) == record(first) == record(second)
    np.testing.assert_array_equal(saved[1:], on[1:])
    np.testing.assert_array_equal(saved[1:], again[1:])


def test_snapshots_taken_at_any_step_extend_bit_for_bit():
    whole, walker = (net_stepper(tol=1e-9) for _ in range(2))
    whole.advance(8.0)
    end = record(whole)
    while walker.advance(8.0, max_steps=1) == Status.PAUSED:
        second = net_stepper(tol=1e-9)
        second.restore(walker.snapshot())
        second.advance(8.0)
        assert record(second) == end


def test_loss_below_is_seen_at_an_end_inside_a_step():
    whole = net_stepper()
    whole.advance(4.0)
    stepper = net_stepper()
    assert stepper.advance(4.0, loss_below=1.0001 * whole.value) == Status.LOSS_BELOW
    assert stepper.t == 4.0


def test_stiff_run_asks_for_another_solver_and_a_short_one_does_not():
    field, options = bowl_field([1.0, 1e4]), {"rtol": 1e-4, "atol": 1e-4}
    stepper = Adams(field, 0.0, [1.0, 1.0], stiff_gradients=3000.0, **options)
    assert stepper.advance(1e3) == Status.STIFF
    assert stepper.t < 0.1
    assert 0.5 < stepper.step * stepper.rho < 5.2
    assert Adams(field, 0.0, [1.0, 1.0], stiff_gradients=3000.0, **options).advance(0.5) == Status.REACHED_END
    assert Adams(field, 0.0, [1.0, 1.0], **options).advance(2.0) == Status.REACHED_END


def test_stiffness_is_told_at_a_point_of_the_run_not_at_an_end_inside_a_step():
    stepper = Adams(bowl_field([1.0, 1e4]), 0.0, [1.0, 1.0], rtol=1e-4, atol=1e-4, stiff_gradients=3000.0)
    assert stepper.advance(0.1) == Status.REACHED_END
    assert stepper._now["inside"]
    assert stepper.advance(1e3) == Status.STIFF
    assert stepper.t > 0.1


@pytest.mark.parametrize("broken", [8, 9, 10, 11])
def test_one_evaluation_that_is_not_a_number_only_repeats_a_step(broken):
    """Even evaluations are at predicted ends, odd ones at corrected ends."""
    calls = []

    def failing(t, state, out, chain, numbers, layout, work, coefficients):
        calls.append(t)
        out[:] = math.nan if len(calls) == broken else -state
        return 0.0

    stepper = Adams(bowl_field([1.0], False, failing), 0.0, [1.0], rtol=1e-8, atol=1e-8)
    assert stepper.advance(2.0) == Status.REACHED_END
    assert stepper.counts["rejected"] >= 1
    np.testing.assert_allclose(stepper.state, math.exp(-2.0), atol=1e-7)


def test_smooth_run_is_not_stiff():
    assert net_stepper(stiff_gradients=1.0).advance(1.5) == Status.REACHED_END


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rtol": -1.0}, "rtol"), ({"rtol": 0.0, "atol": 0.0}, "zero"), ({"atol": [1.0]}, "shape")],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Adams(net_field(), 0.0, START, **options)


def small_problem():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 3))
    problem = gf.Problem(gf.FullyConnected([3, 6, 1], activation="tanh"), gf.losses.Square(), x, x[:, :1] * x[:, 1:2])
    return problem, problem.init(0.8, seed=1)


def test_trajectory_extends_and_interpolates_with_the_bits_of_one_run():
    problem, start = small_problem()
    options = {"solver": "adams", "rtol": 1e-7}
    whole = gf.simulate(problem, start, gf.GradientFlow(), t_end=8.0, save_at=[0.0, 3.0, 8.0], **options)
    half = gf.simulate(problem, start, gf.GradientFlow(), t_end=3.0, save_at=[0.0, 3.0], **options)
    longer = half.extend(8.0)
    np.testing.assert_array_equal(longer.end, whole.end)
    np.testing.assert_array_equal(whole.at(3.0), whole.theta[1])
    np.testing.assert_array_equal(whole.at(5.5), longer.at(5.5))


def test_events_and_batches_go_through():
    problem, start = small_problem()
    event = gf.Event("loss", lambda problem, t, theta: problem.value(theta) - 0.5, terminal=True)
    runs = [
        gf.simulate(problem, start, gf.GradientFlow(), t_end=50.0, events=event, rtol=1e-8, solver=solver)
        for solver in ("adams", "dop853")
    ]
    assert runs[0].status == runs[1].status == gf.Status.EVENT
    assert runs[0].t_end == pytest.approx(runs[1].t_end, rel=1e-6)
    starts = np.stack([start, 0.5 * start])
    batch = gf.simulate(problem, starts, gf.GradientFlow(), t_end=2.0, solver="adams", ensemble="single")
    for run, theta in zip(batch, starts, strict=True):
        alone = gf.simulate(problem, theta, gf.GradientFlow(), t_end=2.0, solver="adams")
        np.testing.assert_array_equal(run.end, alone.end)


def costly_problem(activation="tanh"):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((100, 10))
    network = gf.FullyConnected([10, 32, 32, 1], activation=activation)
    problem = gf.Problem(network, gf.losses.Square(half=True), x, np.tanh(x @ rng.standard_normal((10, 1))))
    return problem, problem.init(1.0, seed=4)


def test_automatic_solver_takes_the_steps_of_adams_where_gradients_are_costly():
    for activation in ("tanh", "relu"):
        problem, start = costly_problem(activation)
        ends = [
            gf.simulate(problem, start, gf.GradientFlow(), t_end=2.0, solver=solver, kinks="ignore").end
            for solver in ("auto", "adams")
        ]
        np.testing.assert_array_equal(*ends)


def test_automatic_solver_hands_over_from_adams_and_extends_with_the_same_bits():
    problem, start = costly_problem()
    whole = gf.simulate(problem, start, gf.GradientFlow(), t_end=3000.0, save_at=2, rtol=1e-3)
    assert any("handed over" in note for note in whole.notes)
    tight = gf.simulate(problem, start, gf.GradientFlow(), t_end=3000.0, save_at=2, rtol=1e-8)
    assert np.linalg.norm(whole.end - tight.end) < 3e-3 * np.linalg.norm(tight.end)
    longer = gf.simulate(problem, start, gf.GradientFlow(), t_end=1500.0, save_at=2, rtol=1e-3).extend(3000.0)
    np.testing.assert_array_equal(longer.end, whole.end)


def test_adams_pays_by_operations_parameters_and_tolerance():
    assert adams_pays(9e5, 1441, 1e-6)
    assert not adams_pays(9e5, 1441, 1e-13)
    assert not adams_pays(2e4, 300, 1e-6)
    assert not adams_pays(4e6, 50_000, 1e-6)
