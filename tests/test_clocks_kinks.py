"""ReLU networks in the clocks: the same path as in physical time, down to 1e-10000 and from 1e-30 on."""

import numpy as np
import pytest
from clock_cases import FLOW, tanh_logistic, three_classes
from numpy.testing import assert_allclose

import gradflow as gf

DEEP = gf.LossBelow(log10=-1000)


def relu_net(widths=(5, 8, 1), loss=None):
    problem, theta0 = tanh_logistic()
    network = gf.FullyConnected(widths, "relu")
    problem = gf.Problem(network, loss or gf.losses.Exponential(), problem.x, problem.y)
    return problem, theta0 if widths == (5, 8, 1) else problem.init(0.8, seed=0)


CASES = {
    "exponential": relu_net,
    "logistic, three layers": lambda: relu_net((5, 8, 6, 1), gf.losses.Logistic()),
    "cross-entropy": lambda: three_classes("relu"),
}


@pytest.mark.parametrize("case", ["exponential", "logistic, three layers"])
@pytest.mark.parametrize("clock", ["log_loss", "loss", "arc", "relative", "log_time"])
def test_every_clock_follows_kinks_as_physical_time_does(case, clock):
    problem, theta0 = CASES[case]()
    stop = gf.LossBelow(log10=-3)
    plain = gf.simulate(problem, theta0, FLOW, stop=stop, save_at=2, clock="time")
    clocked = gf.simulate(problem, theta0, FLOW, stop=stop, save_at=2, clock=clock)
    assert np.linalg.norm(clocked.end - plain.end) < 1e-7 * np.linalg.norm(plain.end)
    assert abs(clocked.log10_t[-1] - plain.log10_t[-1]) < 1e-7
    assert not clocked.notes


@pytest.mark.parametrize("case", CASES)
def test_a_relu_classifier_goes_down_to_1e_minus_1000(case):
    problem, theta0 = CASES[case]()
    places = gf.at(log10_loss=[-10.0, -100.0, -300.0])
    run = gf.simulate(problem, theta0, FLOW, stop=DEEP, save_at=places)
    assert run.status == gf.Status.LOSS_BELOW
    assert_allclose(run.log10_loss[1:], [-10, -100, -300, -1000], rtol=1e-12)
    assert run.drift["identity_error"].max() < 1e-6
    assert run.drift["layer 1"].max() < 1e-6
    margins = [gf.measure.normalised_margin(problem, theta, by="theta") for theta in run.theta[1:]]
    assert np.all(np.diff(margins) > 0)


def test_the_implicit_steps_agree_with_explicit_ones_and_need_few_more_down_to_1e_minus_10000():
    problem, theta0 = relu_net()
    explicit = gf.simulate(problem, theta0, FLOW, stop=gf.LossBelow(log10=-20), solver="rk45", save_at=2)
    implicit = gf.simulate(problem, theta0, FLOW, stop=gf.LossBelow(log10=-20), save_at=2)
    assert np.linalg.norm(explicit.end - implicit.end) < 1e-7 * np.linalg.norm(explicit.end)
    assert abs(explicit.log10_t[-1] - implicit.log10_t[-1]) < 1e-7
    counts = [
        gf.simulate(problem, theta0, FLOW, stop=gf.LossBelow(log10=log10), save_at=2).counts["gradients"]
        for log10 in (-1000, -10000)
    ]
    assert counts[0] < 10_000
    assert counts[1] < 1.5 * counts[0]


TINY = {"degree 2, from 1e-30": ((3, 6, 1), 1e-30), "degree 3, from 1e-8": ((3, 5, 4, 1), 1e-8)}


def tiny(widths):
    """ReLU net on positive targets, a direction, and the stop at .6 of the loss of the zero net."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(15, 3))
    problem = gf.Problem(gf.FullyConnected(widths, "relu"), gf.losses.Square(half=True), x, np.abs(x[:, :1]) + 0.3)
    direction = problem.init(1.0, seed=1)
    return problem, direction, gf.LossBelow(0.6 * problem.value(0 * direction))


@pytest.mark.parametrize("case", TINY)
def test_the_relative_clock_follows_kinks_on_the_first_plateau(case):
    widths, scale = TINY[case]
    problem, direction, stop = tiny(widths)
    plain, relative = (
        gf.simulate(problem, scale * direction, FLOW, stop=stop, clock=clock, save_at=2)
        for clock in ("time", "relative")
    )
    assert_allclose(relative.end, plain.end, atol=1e-6)
    assert abs(relative.log10_t[-1] - plain.log10_t[-1]) < 1e-8


def test_where_physical_time_fails_the_plateau_is_as_long_as_its_scaling_says():
    problem, direction, stop = tiny((3, 5, 4, 1))
    for scale in (15, 30):
        run = gf.simulate(problem, 10.0**-scale * direction, FLOW, stop=stop)
        assert run.switches[0].startswith("relative -> log_time")
        assert abs(run.log10_t[-1] - scale - 0.40899816) < 1e-7


def test_flows_whose_kinks_are_not_followed_say_so():
    problem, theta0 = relu_net()
    flow, stop = gf.GradientFlow({"W1": 0.5}), gf.LossBelow(0.3)
    run = gf.simulate(problem, theta0, flow, stop=stop, clock="arc", max_gradients=2_000)
    assert any("kinks are run over in arc" in note for note in run.notes)
    followed = gf.simulate(problem, theta0, flow, stop=stop, clock="log_time")
    assert followed.status == gf.Status.LOSS_BELOW
    assert not followed.notes


@pytest.mark.parametrize("clock", ["log_time", "log_loss", "arc", "relative"])
def test_kinks_of_a_run_in_a_clock_are_those_of_the_run_in_time(clock, tmp_path):
    problem, theta0 = relu_net()
    stop = gf.LossBelow(0.02)
    plain = gf.simulate(problem, theta0, FLOW, stop=stop, rtol=1e-9).kinks
    run = gf.simulate(problem, theta0, FLOW, stop=stop, rtol=1e-9, clock=clock)
    kinks = run.kinks
    assert len(plain.events) > 5
    for name in ("kind", "layer", "neuron", "sample"):
        assert kinks.events[name].tolist() == plain.events[name].tolist()
    assert_allclose(kinks.events["time"], plain.events["time"], rtol=1e-6)
    assert_allclose(kinks.events["mask"], plain.events["mask"], atol=1e-5)
    assert_allclose(10.0**kinks.log10_t, kinks.events["time"], rtol=1e-12)
    places, first = np.unique(kinks.log10_t, return_index=True)
    falls = np.log(run.loss[0]) - np.log(problem.value(run.at(log10_t=places)))
    assert_allclose(kinks.s[first], falls, atol=1e-5)
    assert kinks.sliding.tolist() == plain.sliding.tolist()
    assert_allclose(kinks.sliding_t, plain.sliding_t, rtol=1e-6)
    assert kinks.regions == plain.regions
    run.save(tmp_path / "run.nc")
    assert gf.Trajectory.load(tmp_path / "run.nc").kinks.events.tolist() == kinks.events.tolist()


def test_branches_of_a_run_in_a_clock_are_refused_with_the_way_to_have_them():
    problem, theta0 = relu_net()
    run = gf.simulate(problem, theta0, FLOW, stop=gf.LossBelow(0.3), clock="log_loss")
    with pytest.raises(ValueError, match="clock='time'"):
        gf.branches(run)


def test_a_flow_that_runs_over_its_kinks_in_a_clock_says_so_when_asked_for_them():
    problem, theta0 = relu_net()
    flow = gf.GradientFlow({"W1": 0.5})
    run = gf.simulate(problem, theta0, flow, stop=gf.LossBelow(0.3), clock="arc", max_gradients=500)
    with pytest.raises(ValueError, match="went over its kinks"):
        run.kinks  # noqa: B018
