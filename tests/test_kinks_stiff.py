"""Implicit steps through kinks: the same events and the same path as by explicit steps."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from test_kinks_flows_runs import orthants

import gradflow as gf
from gradflow.kinks.charted import masked_network
from gradflow.steppers.kinked import Kinked
from gradflow.steppers.kinked_auto import KinkedAuto
from gradflow.steppers.kinked_stiff import KinkedStiff
from gradflow.steppers.stiff import Stiff


def regression(widths, bias, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=12)
    problem = gf.Problem(gf.FullyConnected(widths, "relu", bias=bias), gf.losses.Square(), x, y)
    return problem, problem.init(0.7, seed=seed)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("widths", [[3, 6, 1], [3, 5, 4, 1]], ids=["two layers", "three layers"])
def test_path_and_events_are_those_of_explicit_steps(widths, bias, seed):
    problem, theta0 = regression(widths, bias, seed)
    explicit = Kinked(problem, 0.0, theta0, rtol=1e-10)
    implicit = KinkedStiff(problem, 0.0, theta0, rtol=1e-8)
    assert explicit.advance(20.0) == implicit.advance(20.0) == gf.Status.REACHED_END
    assert implicit.t == 20.0
    assert_allclose(implicit.state, explicit.state, atol=5e-8)
    assert implicit.events["kind"].tolist() == explicit.events["kind"].tolist()
    assert_allclose(implicit.events["time"], explicit.events["time"], rtol=1e-6)
    assert implicit.sliding.tolist() == explicit.sliding.tolist()


def test_dense_output_and_the_free_velocity_are_those_of_the_flow():
    problem, theta0 = regression([3, 6, 1], True, 0)
    run, fine = KinkedStiff(problem, 0.0, theta0, rtol=1e-9), Kinked(problem, 0.0, theta0, rtol=1e-11)
    known, stiff_steps = None, 0
    while stiff_steps < 30 or run.sliding.size == 0:
        assert run.advance(np.inf, max_steps=1) == gf.Status.PAUSED
        known = run.at_newest()
        stiff_steps = 0 if known is None else stiff_steps + 1
    times = np.linspace(run.t_before, run.t, 5)
    saved = np.empty((5, problem.size))
    fine.advance(run.t, save_at=times, saved=saved)
    assert_allclose(run.dense(times), saved, atol=1e-8)
    value, velocity, acceleration = known
    assert value == pytest.approx(run.value, rel=1e-9)
    assert_allclose(velocity, run.velocity, atol=1e-5 * np.abs(run.velocity).max())
    assert np.linalg.norm(acceleration) > 0.0


def test_a_stiff_pattern_takes_far_fewer_gradients():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(12, 3)) * [10.0, 1.0, 1.0]
    problem = gf.Problem(gf.FullyConnected([3, 6, 1], "relu"), gf.losses.Square(), x, rng.normal(size=12))
    theta0 = problem.init(0.7, seed=3)
    explicit, implicit = (kind(problem, 0.0, theta0, rtol=1e-8) for kind in (Kinked, KinkedStiff))
    explicit.advance(30.0)
    implicit.advance(30.0)
    assert_allclose(implicit.state, explicit.state, atol=1e-6)
    assert implicit.counts["gradients"] < 0.3 * explicit.counts["gradients"]


def test_a_snapshot_goes_on_to_the_same_end():
    problem, theta0 = regression([3, 6, 1], False, 1)
    run, again = KinkedStiff(problem, 0.0, theta0, rtol=1e-8), KinkedStiff(problem, 0.0, theta0, rtol=1e-8)
    run.advance(5.0)
    again.restore(run.snapshot())
    run.advance(20.0)
    again.advance(20.0)
    assert_allclose(again.state, run.state, atol=1e-7)


def test_saving_does_not_tell_when_implicit_steps_take_over():
    """The last event is known by its own step, not by the next pause."""
    x = [[20.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]
    problem = gf.Problem(gf.FullyConnected([2, 4, 1]), gf.losses.Square(), x, [1.0, -1.0, 0.5])
    theta0 = problem.init(1.0, seed=1)
    runs = []
    for count in (2, 50, 1000):
        run, times = KinkedAuto(problem, 0.0, theta0), np.linspace(0.0, 1e3, count)
        assert run.advance(1e3, save_at=times, saved=np.empty((count, problem.size))) is gf.Status.REACHED_END
        runs.append((run.state.tobytes(), run.counts, run.notes))
    assert runs[0][2] != []
    assert runs[0] == runs[1] == runs[2]


def test_what_the_formula_knows_costs_no_gradient():
    problem, theta0 = regression([3, 6, 1], True, 0)
    smooth = gf.Problem(gf.FullyConnected([3, 6, 1], "tanh", bias=True), problem.loss, problem.x, problem.y)
    from gradflow.steppers.choose import make_field

    field = make_field(smooth, gf.GradientFlow(), smooth.kernel)
    stepper = Stiff(field, 0.0, theta0, rtol=1e-9, atol=1e-11)
    assert stepper.at_newest() is None
    stepper.advance(np.inf, max_steps=60)
    spent = stepper.counts["gradients"]
    value, velocity, acceleration = stepper.at_newest()
    assert stepper.counts["gradients"] == spent
    assert value == pytest.approx(stepper.value, rel=1e-12)
    assert_allclose(velocity, stepper.velocity, atol=1e-7 * np.abs(velocity).max())
    expected = -smooth.hvp(stepper.state, stepper.velocity)
    assert_allclose(acceleration, expected, atol=2e-3 * np.abs(expected).max())


class TestStabilityBoundFlows:
    """Rates of the LM flow grow like rho^2: without decay a large scale stays, and binds explicit steps for ever."""

    def network(self):
        problem, (first, second) = orthants()
        theta0 = problem.flatten({"W1": first, "W2": 10.0 * second})
        flow = gf.LMFlow().prepared(problem, theta0)
        return problem, flow, theta0

    def test_implicit_steps_take_over_where_stability_binds(self):
        problem, flow, theta0 = self.network()
        state = flow.pack(problem, theta0)
        kinds = {"explicit": (Kinked, 1e-7), "auto": (KinkedAuto, 1e-7), "fine": (Kinked, 1e-10)}
        runs = {
            name: kind(problem, 0.0, state, rtol=rtol, network=masked_network(problem, flow))
            for name, (kind, rtol) in kinds.items()
        }
        for run in runs.values():
            assert run.advance(300.0) is gf.Status.REACHED_END
        assert_allclose(runs["auto"].state, runs["fine"].state, atol=5e-8)
        assert runs["auto"].counts["gradients"] < min(2500, 0.4 * runs["explicit"].counts["gradients"])
        assert runs["auto"].events["kind"].tolist() == runs["fine"].events["kind"].tolist()

    def test_such_runs_extend_and_show_any_time_within_the_tolerance(self):
        problem, flow, theta0 = self.network()
        whole = gf.simulate(problem, theta0, flow, t_end=200.0, rtol=1e-7)
        part = gf.simulate(problem, theta0, flow, t_end=90.0, rtol=1e-7)
        assert whole.counts["gradients"] < 3000
        assert_allclose(part.extend(200.0).states[-1], whole.states[-1], atol=1e-7)
        assert_allclose(whole.at(whole.t[::20]), whole.theta[::20], atol=1e-6)
        assert (np.diff(whole.loss) <= 1e-12).all()

    @pytest.mark.parametrize("flow", [gf.PolarFlow(), gf.PolarFlow(groups="neuron"), gf.WeightNormFlow()], ids=repr)
    @pytest.mark.filterwarnings("ignore:the network is not homogeneous")
    def test_other_flows_keep_path_and_error(self, flow):
        problem, theta0 = regression([3, 6, 1], True, 0)
        flow = flow.prepared(problem, theta0)
        state = flow.pack(problem, theta0)
        auto = KinkedAuto(problem, 0.0, state, rtol=1e-7, network=masked_network(problem, flow))
        fine = Kinked(problem, 0.0, state, rtol=1e-9, network=masked_network(problem, flow))
        assert auto.advance(40.0) is fine.advance(40.0) is gf.Status.REACHED_END
        assert_allclose(auto.state, fine.state, atol=1e-6)
