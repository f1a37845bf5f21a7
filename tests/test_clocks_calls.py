"""How a run is asked for in clocks, what it carries, and what it says when it cannot go on."""

import numpy as np
import pytest
from clock_cases import FLOW, deep_linear, one_weight_per_layer, tanh_logistic, three_classes
from numpy.testing import assert_allclose, assert_array_equal

import gradflow as gf

DEEP = gf.LossBelow(log10=-1000)


@pytest.fixture(scope="module")
def automatic():
    problem, theta0 = deep_linear()
    return gf.simulate(problem, theta0, FLOW, stop=DEEP, record={"margin": gf.measure.margin})


def test_the_automatic_clock_switches_once_and_says_why(automatic):
    assert len(automatic.switches) == 1
    assert automatic.switches[0].startswith("time -> log_loss at ")
    assert "every sample is fitted" in automatic.switches[0]
    assert "every sample is fitted" in repr(automatic)
    assert automatic.status == gf.Status.LOSS_BELOW


def test_the_switch_comes_once_the_sum_of_the_losses_is_below_one_sample_of_margin_zero(automatic):
    before = np.array(automatic.clocked.clocks) == "time"
    fitted = -np.log10(automatic.problem.n)
    assert automatic.log10_loss[before][:-1].min() > fitted
    assert automatic.log10_loss[~before].max() < fitted


def test_a_run_carries_every_variable(automatic):
    assert automatic.t[0] == 0.0
    assert automatic.t[-1] == np.inf
    assert automatic.log10_loss[-1] == pytest.approx(-1000.0, abs=1e-9)
    assert np.all(np.diff(automatic.log10_t) > 0)
    assert np.all(np.diff(automatic.s) > 0)
    assert automatic.loss[-1] == 0.0
    assert_allclose(automatic.loss[:20], automatic.problem.value(automatic.theta[:20]), rtol=1e-12)
    assert "10^-1000" in repr(automatic)
    assert automatic.records["margin"].shape == automatic.t.shape


@pytest.mark.parametrize("case", [deep_linear, tanh_logistic])
def test_switching_in_mid_run_ends_on_the_same_state(case):
    problem, theta0 = case()
    switched = gf.simulate(problem, theta0, FLOW, stop=DEEP, save_at=2, rtol=1e-10)
    straight = gf.simulate(problem, theta0, FLOW, stop=DEEP, save_at=2, rtol=1e-10, clock="log_loss")
    assert np.linalg.norm(switched.end - straight.end) < 1e-8 * np.linalg.norm(straight.end)
    assert abs(switched.log10_t[-1] - straight.log10_t[-1]) < 1e-7


def test_without_a_need_for_a_clock_nothing_changes():
    problem, theta0 = deep_linear()
    plain = gf.simulate(problem, theta0, FLOW, 10.0, clock="time")
    automatic = gf.simulate(problem, theta0, FLOW, 10.0)
    assert plain.clocked is None
    assert automatic.clocked is None
    assert_array_equal(plain.theta, automatic.theta)
    assert plain.counts["gradients"] == automatic.counts["gradients"]
    assert_allclose(plain.s, np.log(plain.loss[0] / plain.loss), rtol=1e-12, atol=1e-15)
    assert plain.elapsed(0, -1) == 10.0


@pytest.mark.parametrize(
    ("end", "variable", "value"),
    [
        (gf.at(s=60), "s", 60.0),
        (gf.at(log10_t=50), "log10_t", 50.0),
        (gf.at(log10_loss=-50), "log10_loss", -50.0),
        (gf.at(loss=1e-50), "log10_loss", -50.0),
        (gf.at(t=1e20), "log10_t", 20.0),
    ],
)
def test_ends_in_every_variable_are_met_exactly(end, variable, value):
    problem, theta0 = deep_linear()
    for clock in ("log_loss", "auto"):
        run = gf.simulate(problem, theta0, FLOW, end, clock=clock, save_at=3)
        assert run.status == gf.Status.REACHED_END
        assert_allclose(getattr(run, variable)[-1], value, rtol=1e-10)


def test_saved_places_in_several_variables():
    problem, theta0 = deep_linear()
    every = gf.simulate(
        problem, theta0, FLOW, stop=gf.LossBelow(log10=-55), clock="log_loss", save_at=gf.every(log10_loss=10)
    )
    assert_allclose(every.log10_loss[1:-1], [0, -10, -20, -30, -40, -50], atol=1e-10)
    both = [gf.at(log10_t=[1, 20]), gf.at(s=[3.0, 100.0])]
    run = gf.simulate(problem, theta0, FLOW, stop=gf.LossBelow(log10=-55), save_at=both)
    assert_allclose(run.s[[1, 4]], [3.0, 100.0], rtol=1e-10) if run.s[1] < 3.1 else assert_allclose(run.log10_t[1], 1.0)
    assert {round(float(t), 9) for t in run.log10_t} >= {1.0, 20.0}
    assert {round(float(s), 8) for s in run.s} >= {3.0, 100.0}


def test_saving_does_not_change_the_run():
    problem, theta0 = deep_linear()
    few = gf.simulate(problem, theta0, FLOW, stop=gf.LossBelow(log10=-100), clock="log_loss", save_at=2)
    many = gf.simulate(problem, theta0, FLOW, stop=gf.LossBelow(log10=-100), clock="log_loss", save_at=gf.every(s=7.0))
    assert_array_equal(few.end, many.end)
    assert few.counts["accepted"] == many.counts["accepted"]


def test_states_at_places_and_extension_repeat_the_run(automatic):
    assert_allclose(automatic.at(log10_loss=-1000.0 + 1e-9), automatic.end, rtol=1e-9)
    middle = automatic.at(log10_t=[10.0, 500.0])
    assert middle.shape == (2, automatic.problem.size)
    assert_allclose(automatic.problem.log_value_and_gradient(middle[1])[0] / np.log(10), -502.7, atol=3.0)
    longer = automatic.extend(gf.at(log10_loss=-1500))
    assert longer.log10_loss[-1] == pytest.approx(-1500.0, abs=1e-8)
    assert automatic.error_estimate()[-1] < 1e-7 * np.linalg.norm(automatic.end)
    with pytest.raises(ValueError, match="must lie within the run"):
        automatic.at(log10_loss=-2000.0)


def test_a_file_keeps_the_logarithms(automatic, tmp_path):
    automatic.save(tmp_path / "run.nc")
    again = gf.Trajectory.load(tmp_path / "run.nc")
    for name in ("log10_t", "log10_loss", "s", "theta"):
        assert_array_equal(getattr(again, name), getattr(automatic, name))
    assert again.switches == automatic.switches
    assert_allclose(again.at(log10_loss=-100.0), automatic.at(log10_loss=-100.0), rtol=1e-12)
    assert set(automatic.to_xarray()) >= {"log10_t", "log10_loss", "s"}


def test_events_are_located_in_a_clock():
    problem = one_weight_per_layer(2, gf.losses.Exponential(), 1)
    event = gf.Event("product 100", lambda problem, t, theta: theta.prod() - 100.0, terminal=True)
    run = gf.simulate(problem, [0.2, 0.2], FLOW, stop=event, clock="log_loss", save_at="steps")
    assert run.status == gf.Status.EVENT
    assert_allclose(run.end.prod(), 100.0, rtol=1e-10)
    assert_allclose(run.events[0].t, np.exp(gf.exact.two_layer_exponential_log_time(100.0, 0.04)), rtol=1e-6)


def test_an_event_beyond_floats_keeps_the_logarithm_of_its_time(tmp_path):
    problem = one_weight_per_layer(2, gf.losses.Exponential(), 1)
    event = gf.Event("product 1000", lambda problem, t, theta: theta.prod() - 1000.0)
    run = gf.simulate(problem, [0.2, 0.2], FLOW, stop=gf.LossBelow(log10=-500), events=event)
    log10_t = gf.exact.two_layer_exponential_log_time(1000.0, 0.04) / np.log(10.0)
    assert run.events[0].t == np.inf
    assert_allclose(run.events[0].log10_t, log10_t, rtol=1e-9)
    assert "10^430" in repr(run)
    run.save(tmp_path / "run.nc")
    assert gf.Trajectory.load(tmp_path / "run.nc").events[0].log10_t == run.events[0].log10_t


@pytest.mark.parametrize("solver", ["auto", "LSODA", "dop853"])
@pytest.mark.parametrize("clock", ["auto", "time", "log_time", "log_loss", "loss", "arc", "relative"])
def test_data_that_are_not_separable_end_with_a_truthful_status(clock, solver):
    """The infimum is 10^-0.450446, and the run ends where Newton's estimate sees it less than 1 % below."""
    problem, theta0 = three_classes("linear", spread=0.7, apart=1.5)
    run = gf.simulate(problem, theta0, FLOW, stop=DEEP, clock=clock, solver=solver, save_at=2, max_gradients=20_000)
    assert run.status == gf.Status.STATIONARY
    assert -0.450446 < run.log10_loss[-1] < -0.44
    assert any("infimum" in note for note in run.notes)


def test_a_loss_below_the_infimum_is_given_up_in_time():
    problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Logistic(), [[1.0], [1.0], [-0.5]], [1, 1, 1])
    run = gf.simulate(problem, [0.1], FLOW, stop=DEEP, max_gradients=20_000)
    assert run.status == gf.Status.STATIONARY
    assert any("infimum" in note for note in run.notes)
    square = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(), [[1.0], [2.0]], [[1.0], [0.0]])
    run = gf.simulate(square, [0.1], FLOW, stop=gf.LossBelow(1e-5), clock="loss", max_gradients=20_000)
    assert run.status == gf.Status.STATIONARY


def test_a_saddle_is_a_stationary_point():
    problem, theta0 = deep_linear()
    run = gf.simulate(problem, 0 * theta0, FLOW, stop=DEEP, clock="log_loss")
    assert run.status == gf.Status.STATIONARY
    assert "exactly zero" in run.notes[0]


def call(end=None, theta0=None, problem=None, dynamics=FLOW, **options):
    own, start = deep_linear()
    return gf.simulate(problem or own, start if theta0 is None else theta0, dynamics, end, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"end": 1.0, "clock": "sidereal"}, "choose one of auto, time, log_time, log_loss, loss, relative, arc"),
        ({"end": 1.0, "clock": "relative", "theta0": np.zeros(59)}, "theta0 = 0"),
        ({"end": 1.0, "clock": "log_loss", "dynamics": gf.GD(0.1)}, "discrete rule"),
        ({"end": gf.at(log10_loss=-1e12), "clock": "log_loss"}, "double precision"),
        ({"end": gf.at(s=[1, 2]), "clock": "log_loss"}, "the end of a run is one value"),
        ({"end": gf.at(t=1.0), "t_start": 5.0}, "later than t_start"),
        ({"stop": DEEP, "save_at": gf.at(log10_loss=[5, 1])}, "before the start"),
        ({"stop": DEEP, "save_at": gf.at(t=[1.0, 9.0]), "t_start": 5.0}, "before the start"),
        ({"end": 1.0, "clock": "arc", "solver": gf.FixedStep("rk4", 0.1)}, "with a clock choose one of"),
        ({"end": 1.0, "clock": "arc", "record": {"m": (gf.measure.margin, [0.5])}}, "grid of its own"),
    ],
)
def test_wrong_calls_say_what_must_hold(options, message):
    with pytest.raises(ValueError, match=message):
        call(**options)


def test_a_loss_clock_needs_a_loss_that_can_fall_to_0():
    problem, theta0 = deep_linear()
    decayed = gf.Problem(problem.network, problem.loss, problem.x, problem.y, decay=0.1)
    with pytest.raises(ValueError, match="decay = 0.1"):
        call(gf.at(s=3), problem=decayed, clock="loss")
    run = call(5.0, problem=decayed, clock="log_time", save_at=2)
    assert_allclose(run.end, call(5.0, problem=decayed, save_at=2).end, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "bad", [{}, {"t": 1, "s": 2}, {"theta": 3}, {"t": [2, 1]}, {"log10_loss": [-2, -1]}, {"loss": -1.0}]
)
def test_places_are_checked(bad):
    with pytest.raises(ValueError, match="at\\("):
        gf.at(**bad)


def test_spacings_are_checked():
    with pytest.raises(ValueError, match="positive"):
        gf.every(s=-1)
    with pytest.raises(ValueError, match="log10_loss"):
        gf.every(loss=0.1)


def test_a_batch_of_starts_in_a_clock():
    problem, theta0 = deep_linear()
    batch = gf.simulate(
        problem, np.stack([theta0, 1.2 * theta0]), FLOW, gf.at(log10_loss=-100), clock="log_loss", save_at=2
    )
    alone = gf.simulate(problem, theta0, FLOW, gf.at(log10_loss=-100), clock="log_loss", save_at=2)
    assert_array_equal(batch[0].end, alone.end)
    assert_allclose([run.log10_loss[-1] for run in batch], -100.0, rtol=1e-10)
