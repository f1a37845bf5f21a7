"""simulate and Trajectory: stops, saves, caps, interrupts, resumption, batches, bad input."""

import os
import signal
import sys
import threading
import warnings

import cases
import numpy as np
import oracles
import pytest

import gradflow as gf

FLOW = gf.GradientFlow()


def scalar_run(**options):
    """One weight relaxing to 2: w(t) = 2 (1 - exp(-t))."""
    problem = oracles.scalar(1, 2.0)
    return gf.simulate(problem, [0.0], FLOW, **({"t_end": 5.0, "rtol": 1e-10} | options))


def test_the_last_point_is_the_end_and_both_ends_are_saved():
    run = scalar_run()
    assert run.t.size == 200
    assert (run.t[0], run.t[-1], run.t_end) == (0.0, 5.0, 5.0)
    assert np.array_equal(run.end, run.theta[-1])
    assert np.allclose(run.theta[:, 0], 2 * (1 - np.exp(-run.t)), atol=1e-9)
    assert np.allclose(run.loss, 2 * np.exp(-2 * run.t), atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"clock": "log_time"}])
def test_a_tolerance_below_rounding_is_told(options):
    run = scalar_run(rtol=1e-16, **options)
    assert abs(run.end[0] - 2 * (1 - np.exp(-5))) < 1e-14
    assert any("rounding rules below 1e-14" in note for note in run.notes)
    assert not scalar_run(rtol=1e-14, **options).notes


@pytest.mark.filterwarnings("error")
def test_a_start_at_zero_warns_of_nothing():
    assert scalar_run().loss[0] == 2.0


@pytest.mark.parametrize(
    ("stop", "time", "status"),
    [
        (gf.LossBelow(1e-6), 0.5 * np.log(2e6), "LOSS_BELOW"),
        (gf.LossBelow(log10=-6), 0.5 * np.log(2e6), "LOSS_BELOW"),
        (gf.ExcessLossBelow(1e-6, minimum=0.0), 0.5 * np.log(2e6), "LOSS_BELOW"),
        (gf.GradientBelow(1e-3), np.log(2e3), "GRADIENT_BELOW"),
        (gf.Stationary(1e-3), np.log(1e3 + 1), "STATIONARY"),
        (gf.Event("half", lambda problem, t, theta: theta[0] - 1.0, terminal=True), np.log(2), "EVENT"),
    ],
)
def test_stops_are_located_on_the_dense_output(stop, time, status):
    run = scalar_run(stop=stop, t_end=50.0)
    assert run.status.name == status
    assert run.t_end == pytest.approx(time, abs=1e-8)
    assert run.t[-1] == run.t_end
    assert (run.t[:-1] < run.t_end).all()
    assert run.events[-1].t == run.t_end
    without_end = scalar_run(stop=stop, t_end=None)
    assert without_end.t_end == pytest.approx(time, abs=1e-8)


def test_crossings_are_recorded_in_order_of_time_and_direction():
    rising = gf.Event("rising", lambda problem, t, theta: theta[0] - 1.5, direction=1)
    falling = gf.Event("falling", lambda problem, t, theta: theta[0] - 1.5, direction=-1)
    early = gf.Event("early", lambda problem, t, theta: t - 0.25)
    run = scalar_run(events=[rising, falling, early])
    assert [event.name for event in run.events] == ["early", "rising"]
    assert run.events[0].t == pytest.approx(0.25, abs=1e-12)
    assert run.events[1].t == pytest.approx(np.log(4), abs=1e-9)
    assert run.events[1].theta[0] == pytest.approx(1.5, abs=1e-9)
    assert run.status == gf.Status.REACHED_END


def test_a_stop_that_already_holds_ends_at_once():
    run = scalar_run(stop=gf.LossBelow(10.0))
    assert run.status == gf.Status.LOSS_BELOW
    assert run.t.tolist() == [0.0]


def test_saving_never_changes_the_steps():
    few, many = scalar_run(save_at=2), scalar_run(save_at=1000)
    assert np.array_equal(few.end, many.end)
    assert few.counts["accepted"] == many.counts["accepted"]
    assert np.array_equal(
        scalar_run(save_at=[1.0, 2.0]).theta[:2, 0], scalar_run(save_at=[0.5, 1.0, 2.0]).theta[1:3, 0]
    )


def test_save_grids():
    assert scalar_run(save_at="log").t[1] == pytest.approx(5e-6)
    steps = scalar_run(save_at="steps")
    assert steps.t.size == steps.counts["accepted"] + 1
    given = scalar_run(save_at=[0.5, 2.0])
    assert given.t.tolist() == [0.5, 2.0, 5.0]
    thinned = gf.simulate(oracles.scalar(1, 2.0), [0.0], gf.GD(1e-3), t_end=5.0, save_at="steps")
    assert 200 <= thinned.t.size <= 402
    descent = gf.simulate(oracles.scalar(1, 2.0), [0.0], gf.GD(0.1), t_end=5.0, save_at=7)
    assert np.allclose(descent.t / 0.1, np.rint(descent.t / 0.1), atol=1e-9)


def test_at_gives_the_saved_points_again_bit_for_bit():
    problem = cases.make("tanh", "square")
    run = gf.simulate(problem, cases.start(problem), FLOW, t_end=20.0, save_at=50, solver="dop853")
    assert np.array_equal(run.at(run.t), run.theta)
    assert np.array_equal(run.at(run.t[17]), run.theta[17])
    assert run.at([3.0, 1.0]).shape == (2, problem.size)
    assert np.array_equal(run.at([3.0, 1.0])[1], run.at(1.0))
    stopped = gf.simulate(problem, cases.start(problem), FLOW, stop=gf.LossBelow(run.loss[30]), t_end=20.0, save_at=50)
    assert np.array_equal(stopped.at(stopped.t[5]), stopped.theta[5])
    descent = gf.simulate(problem, cases.start(problem), gf.GD(0.1), t_end=2.0, save_at="steps")
    assert np.array_equal(descent.at(0.55), descent.theta[5])


def test_records_are_taken_at_the_saved_times_or_on_their_own_grid():
    problem = cases.make("tanh", "square")
    held_out = cases.make("tanh", "square", seed=9)
    record = {
        "sharpness": gf.measure.sharpness,
        "test loss": (lambda problem, theta: held_out.value(theta), 11),
        "weights": (lambda problem, theta: theta[:2], [0.5, 1.5]),
    }
    run = gf.simulate(problem, cases.start(problem), FLOW, t_end=2.0, save_at=5, record=record)
    assert np.array_equal(run.records["sharpness"], run.measure(gf.measure.sharpness))
    assert run.records["sharpness"].t.tolist() == run.t.tolist()
    assert np.allclose(run.records["test loss"].t, np.linspace(0, 2, 11))
    assert run.records["test loss"][3] == held_out.value(run.at(0.6))
    assert np.array_equal(run.records["weights"], run.at([0.5, 1.5])[:, :2])
    assert run.t.size == 5


def test_a_record_with_its_own_grid_needs_a_run_with_one():
    with pytest.raises(ValueError, match="record 'loss' has a grid of its own"):
        scalar_run(record={"loss": (gf.measure.loss, 5)}, save_at="steps")


def test_a_failing_record_costs_the_record_and_not_the_run():
    run = scalar_run(record={"bad": lambda problem, theta: 1 / 0})
    assert run.status == gf.Status.REACHED_END
    assert "record 'bad' failed: ZeroDivisionError" in run.notes[0]


@pytest.mark.parametrize("solver", ["dop853", "rk45", gf.FixedStep("rk4", 0.03)])
@pytest.mark.parametrize("network", ["tanh", "deep linear", "diagonal"])
def test_extend_is_the_uninterrupted_run_bit_for_bit(solver, network):
    problem = cases.make(network, "square")
    theta0 = cases.start(problem)
    whole = gf.simulate(problem, theta0, FLOW, t_end=3.0, solver=solver)
    part = gf.simulate(problem, theta0, FLOW, t_end=1.1, solver=solver)
    longer = part.extend(2.0).extend(3.0)
    assert np.array_equal(longer.end, whole.end)
    assert np.array_equal(longer.at(whole.t[150]), whole.theta[150])
    assert longer.counts["accepted"] == whole.counts["accepted"]
    assert np.array_equal(longer.theta[:200], part.theta)


@pytest.mark.parametrize("rule", [gf.GD(0.05), gf.Momentum(0.05), gf.GD(0.05, flow=gf.LMFlow())])
def test_extended_discrete_runs_are_the_longer_ones(rule):
    problem = cases.make("deep linear", "square")
    whole = gf.simulate(problem, cases.start(problem), rule, t_end=3.0)
    assert np.array_equal(gf.simulate(problem, cases.start(problem), rule, t_end=1.2).extend(3.0).end, whole.end)


@pytest.mark.parametrize("solver", ["auto", "stiff", "LSODA", "Radau", "BDF", "torchdiffeq:dopri8"])
def test_other_solvers_extend_within_tolerance(solver):
    problem = cases.make("tanh", "square")
    whole = gf.simulate(problem, cases.start(problem), FLOW, t_end=3.0, solver=solver)
    longer = gf.simulate(problem, cases.start(problem), FLOW, t_end=1.2, solver=solver).extend(3.0)
    assert np.abs(longer.end - whole.end).max() < 1e-6


@pytest.mark.parametrize("flow", [gf.PolarFlow(), gf.LMFlow(decay=0.1), gf.WeightNormFlow()])
def test_other_flows_extend_bit_for_bit_too(flow):
    problem = cases.make("deep linear", "square")
    whole = gf.simulate(problem, cases.start(problem), flow, t_end=3.0, solver="dop853")
    part = gf.simulate(problem, cases.start(problem), flow, t_end=1.2, solver="dop853")
    assert np.array_equal(part.extend(3.0).end, whole.end)


def test_a_run_stopped_by_its_loss_can_be_taken_further():
    whole = scalar_run()
    stopped = scalar_run(stop=gf.LossBelow(1e-2))
    longer = stopped.extend(5.0)
    assert longer.status == gf.Status.REACHED_END
    assert np.array_equal(longer.end, whole.end)
    assert (np.diff(longer.t) > 0).all()


def test_extensions_of_a_run_with_given_times_are_saved_evenly():
    longer = scalar_run(save_at=[1.0, 2.0], t_end=3.0).extend(5.0, save_at=3)
    assert longer.t.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert scalar_run(save_at=[1.0, 2.0], t_end=3.0).extend(5.0).t.size == 3 + 199


def test_rates_have_their_exact_jacobian():
    problem = cases.make("tanh", "square")
    flow = gf.GradientFlow(rates={"W1": 0.3, "b2": 2.0})
    options = {"t_end": 5.0, "rtol": 1e-9}
    explicit = gf.simulate(problem, cases.start(problem), flow, solver="dop853", **options)
    implicit = gf.simulate(problem, cases.start(problem), flow, solver="Radau", **options)
    assert np.abs(explicit.end - implicit.end).max() < 1e-6


def test_error_estimate_is_of_the_size_of_the_error():
    run = scalar_run(rtol=1e-6, solver="rk45")
    error = np.abs(run.theta[:, 0] - 2 * (1 - np.exp(-run.t)))
    estimate = run.error_estimate()
    assert 0.3 < estimate.max() / error.max() < 3.0
    assert (scalar_run_of_gd().error_estimate() == 0).all()


def scalar_run_of_gd():
    return gf.simulate(oracles.scalar(1, 2.0), [0.0], gf.GD(0.1), t_end=1.0)


def test_diverging_gradient_descent_keeps_what_is_finite():
    problem = cases.make("deep linear", "square")
    run = gf.simulate(problem, 10 * cases.start(problem), gf.GD(1.0), t_end=1000.0)
    assert run.status == gf.Status.DIVERGED
    assert np.isfinite(run.theta).all()
    assert np.isfinite(run.loss).all()
    assert run.t_end < 20


def test_caps_on_gradients_and_seconds():
    problem = cases.make("tanh", "square")
    run = gf.simulate(problem, cases.start(problem), FLOW, t_end=1e3, max_gradients=100)
    assert run.status == gf.Status.GRADIENT_BUDGET
    assert run.counts["gradients"] <= 100
    assert run.t_end > 0
    assert np.array_equal(run.extend(30.0).end, gf.simulate(problem, cases.start(problem), FLOW, t_end=30.0).end)
    quick = gf.simulate(problem, cases.start(problem), gf.GD(1e-7), t_end=10.0, max_seconds=0.3)
    assert quick.status == gf.Status.WALL_CLOCK
    assert 0 < quick.t_end < 10.0


@pytest.mark.parametrize("rule", [gf.GD(1e-7), gf.SGD(1e-7, batch_size=2)])
def test_an_interrupt_keeps_what_was_computed(rule):
    problem = cases.make("tanh", "square")
    before = signal.getsignal(signal.SIGINT)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    run = gf.simulate(problem, cases.start(problem), rule, t_end=100.0)
    assert run.status == gf.Status.INTERRUPTED
    assert 0 < run.t_end < 100.0
    assert np.isfinite(run.theta).all()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_start_that_is_not_finite_in_value_ends_with_its_status():
    problem = cases.make("deep linear", "exponential")
    run = gf.simulate(problem, 1e150 * np.ones(problem.size), FLOW, t_end=1.0)
    assert run.status == gf.Status.NOT_FINITE_START
    assert run.t.tolist() == [0.0]


@pytest.mark.parametrize("dynamics", [FLOW, gf.PolarFlow(), gf.LMFlow(), gf.GD(0.05), gf.SGD(0.05, batch_size=3)])
@pytest.mark.parametrize("network", ["deep linear", "convolutional"])
def test_a_batch_equals_its_single_runs_bit_for_bit(dynamics, network):
    problem = cases.make(network, "square")
    theta0 = np.stack([cases.start(problem, seed) for seed in range(5)])
    solver = "auto" if dynamics.discrete else "dop853"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = gf.simulate(problem, theta0, dynamics, t_end=1.0, save_at=11, solver=solver)
        singles = [gf.simulate(problem, row, dynamics, t_end=1.0, save_at=11, solver=solver) for row in theta0]
        gf.set_threads(1)
        alone = gf.simulate(problem, theta0[::-1], dynamics, t_end=1.0, save_at=11, solver=solver)
        gf.set_threads(None)
    assert batch.theta.shape == (5, singles[0].t.size, problem.size)
    for i, single in enumerate(singles):
        assert np.array_equal(batch.theta[i], single.theta)
        assert np.array_equal(batch[i].loss, single.loss)
        assert np.array_equal(alone.theta[4 - i], single.theta)
    assert np.array_equal(batch.end, np.stack([single.end for single in singles]))


def test_runs_of_a_batch_end_on_their_own():
    problem = cases.make("deep linear", "square")
    theta0 = np.stack([cases.start(problem), 1e160 * np.ones(problem.size), cases.start(problem, seed=2)])
    batch = gf.simulate(problem, theta0, FLOW, t_end=1.0, save_at=11)
    assert [status.name for status in batch.status] == ["REACHED_END", "NOT_FINITE_START", "REACHED_END"]
    assert np.isnan(batch.theta[1, 1:]).all()
    assert np.isfinite(batch.theta[[0, 2]]).all()
    assert batch.t_end.tolist() == [1.0, 0.0, 1.0]
    assert batch.measure(gf.measure.gradient_norm).shape == (3, 11)


def test_chattering_on_relu_kinks_ends_with_its_status():
    problem = gf.Problem(
        gf.FullyConnected([2, 1, 1]), oracles.HALF_SUM, [[1.0, 1.0], [0.0, 1.0]], [1.0, -1.2]
    )  # slides along a kink from t = 0.4067
    run = gf.simulate(problem, [0.4, -0.1, 0.3 / np.sqrt(2)], FLOW, t_end=2.0, kinks="ignore", max_gradients=20_000)
    assert run.status == gf.Status.STALLED_AT_KINK
    assert run.t_end == pytest.approx(0.4067363721521307, abs=0.02)


def test_a_long_stiff_run_is_handed_over_and_says_so():
    problem = cases.make(gf.FullyConnected([3, 8, 1], "tanh", bias=True), "square", n=60)
    run = gf.simulate(problem, problem.init(1.0, seed=0), FLOW, t_end=3e5, rtol=1e-6)
    assert run.status == gf.Status.REACHED_END
    assert any("handed over to the stiff solver at t = " in note for note in run.notes)
    assert run.counts["gradients"] + run.counts["hessian_products"] < 60_000
    second = gf.simulate(problem, problem.init(1.0, seed=0), FLOW, t_end=3e5, rtol=1e-8, solver="Radau")
    assert np.abs(run.end - second.end).max() < 1e-3


def simulate_with(**options):
    problem = oracles.scalar(1, 2.0)
    arguments = {"theta0": [0.0], "dynamics": FLOW, "t_end": 1.0} | options
    return gf.simulate(problem, arguments.pop("theta0"), arguments.pop("dynamics"), **arguments)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"t_end": -1.0}, ValueError, "t_end = -1.0"),
        ({"t_end": 0}, ValueError, "later than t_start"),
        ({"t_end": np.nan}, ValueError, "must be finite"),
        ({"t_end": "soon"}, TypeError, "must be a number"),
        ({"t_end": None}, ValueError, "neither t_end nor stop"),
        ({"theta0": [np.nan]}, ValueError, "1 NaN or infinite"),
        ({"theta0": [0.0, 1.0]}, ValueError, r"shape \(2,\)"),
        ({"dynamics": "plain"}, TypeError, r"such as gf.GradientFlow\(\)"),
        ({"solver": "dopri"}, ValueError, "unknown; choose one of auto, dop853"),
        ({"solver": "rk4"}, ValueError, r"gf.FixedStep\('rk4', step=...\)"),
        ({"solver": "torchdiffeq:dopri9"}, ValueError, "torchdiffeq:dopri8"),
        ({"solver": "dop853", "dynamics": gf.GD(0.1)}, ValueError, "needs no solver"),
        ({"rtol": -1e-3}, ValueError, "rtol = -0.001"),
        ({"rtol": 1.0}, ValueError, "rtol = 1.0: must be below 1"),
        ({"atol": -1.0}, ValueError, "atol = -1.0"),
        ({"save_at": 1}, ValueError, "at least 2 points"),
        ({"save_at": "some"}, ValueError, "'log', 'steps'"),
        ({"save_at": [0.5, 0.2]}, ValueError, "increasing"),
        ({"save_at": [0.5, 3.0]}, ValueError, r"within \[0, 1\]"),
        ({"stop": 1e-6}, TypeError, r"gf.LossBelow\(1e-6\)"),
        ({"events": [lambda t, y: y]}, TypeError, "must be a stop or an event"),
        ({"record": {"x": 3}}, TypeError, "record 'x'"),
        ({"max_gradients": 0}, ValueError, "max_gradients = 0"),
        ({"max_seconds": -1}, ValueError, "max_seconds = -1"),
        ({"t_start": np.inf}, ValueError, "t_start"),
        ({"kinks": "jump"}, ValueError, "kinks = 'jump'"),
    ],
)
def test_bad_arguments_say_what_is_wrong(options, error, message):
    with pytest.raises(error, match=message):
        simulate_with(**options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gf.FixedStep("rk4", step=-1), "step = -1"),
        (lambda: gf.FixedStep("leapfrog", step=0.1), "choose one of euler"),
        (lambda: gf.LossBelow(), "either the level or its log10"),
        (lambda: gf.LossBelow(np.nan), "must be finite"),
        (lambda: gf.GradientBelow(0), "positive"),
        (lambda: gf.Stationary(-1), "positive"),
        (lambda: gf.ExcessLossBelow(0, 0), "level > 0"),
        (lambda: gf.Event("x", lambda p, t, th: 0.0, direction=2), "direction = 2"),
        (lambda: gf.set_threads(0), "at least 1"),
    ],
)
def test_bad_objects_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_trajectories_refuse_times_outside_and_ends_before():
    run = scalar_run()
    with pytest.raises(ValueError, match="within the run, from 0 to 5"):
        run.at(6.0)
    with pytest.raises(ValueError, match="later than the end so far, 5"):
        run.extend(4.0)
    with pytest.raises(TypeError, match="unknown arguments"):
        run.extend(6.0, rtol=1e-3)
    with pytest.raises(TypeError, match="function of"):
        run.measure("loss")


def test_repr_and_html_tell_the_story():
    run = scalar_run(stop=gf.LossBelow(1e-2))
    for text in (repr(run), run._repr_html_()):
        for part in ("deep linear 1-1", "the loss fell below", "gradients", "0 to 2.6"):
            assert part in text
    assert "<svg" in run._repr_html_()


def test_t_start_shifts_the_run():
    late = scalar_run(t_start=3.0, t_end=8.0)
    assert late.t[0] == 3.0
    assert np.allclose(late.end, scalar_run().end, rtol=1e-12)
    descent = gf.simulate(oracles.scalar(1, 2.0), [0.0], gf.GD(0.1), t_start=3.0, t_end=8.0)
    assert descent.counts["accepted"] == 50


def test_a_step_that_costs_more_than_a_slice_is_taken_all_the_same(monkeypatch):
    monkeypatch.setattr(sys.modules["gradflow.running"], "MARK_SECONDS", 0.0)
    problem = cases.make(gf.DeepLinear([12, 12, 1]), "square")
    run = gf.simulate(
        problem, problem.init(0.5), gf.PolarFlow(), t_end=0.1, solver="BDF", rtol=1e-5, max_gradients=9000
    )
    assert run.status == gf.Status.REACHED_END
