"""A run without an end time ends when it is at rest, and not before."""

import cases
import numpy as np
import pytest

import gradflow as gf
from gradflow.rest import Rest, leads_down, level_of, lower_nearby

FLOW = gf.GradientFlow()
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(30, 3)), RNG.normal(size=(30, 1))
UNREACHABLE = {
    "a scalar": (gf.DeepLinear([1, 1]), gf.losses.Square(), [[1.0], [1.0]], [0.0, 1.0]),
    "deep linear": (gf.DeepLinear([3, 4, 1]), gf.losses.Square(), X, Y),
    "tanh, with weights on their way to infinity": (gf.FullyConnected([3, 6, 1], "tanh"), gf.losses.Square(), X, Y),
    "logistic, not separable": (gf.DeepLinear([3, 1]), gf.losses.Logistic(), X, np.sign(Y)),
    "relu": (gf.FullyConnected([3, 2, 1]), gf.losses.Square(), X, Y),
    "relu, logistic": (gf.FullyConnected([3, 2, 1]), gf.losses.Logistic(), X, np.sign(Y)),
}


def problem_of(name):
    return gf.Problem(*UNREACHABLE[name])


@pytest.mark.parametrize("name", UNREACHABLE)
def test_a_loss_that_cannot_be_reached_ends_the_run_at_rest(name):
    problem = problem_of(name)
    run = gf.simulate(problem, problem.init(0.5, seed=0), FLOW, stop=gf.LossBelow(1e-3), max_gradients=60_000)
    assert run.status == gf.Status.STATIONARY
    assert any("cannot be reached" in note for note in run.notes)
    longer = gf.simulate(problem, run.end, FLOW, t_end=run.t_end, max_gradients=100_000)
    assert 0.999 * run.loss[-1] < longer.loss[-1] < (1 + 1e-9) * run.loss[-1]


@pytest.mark.parametrize("solver", ["dop853", "rk45", "adams", "stabilised", "stiff", "LSODA", "Radau"])
@pytest.mark.parametrize("stop", [gf.LossBelow(1e-3), gf.GradientBelow(1e-40)])
def test_with_every_solver(solver, stop):
    problem = problem_of("deep linear")
    run = gf.simulate(problem, problem.init(0.5, seed=0), FLOW, stop=stop, solver=solver, max_gradients=60_000)
    if stop == gf.GradientBelow(1e-40) and not problem.gradient(run.end).any():
        assert run.status == gf.Status.GRADIENT_BELOW  # rounding may lead to where the gradient is 0
    else:
        assert run.status == gf.Status.STATIONARY


@pytest.mark.parametrize("dynamics", [gf.PolarFlow(), gf.GD(0.1), gf.Momentum(0.05, 0.5)])
def test_with_other_dynamics(dynamics):
    problem = problem_of("deep linear")
    run = gf.simulate(problem, problem.init(0.5, seed=0), dynamics, stop=gf.LossBelow(1e-3), max_gradients=60_000)
    assert run.status == gf.Status.STATIONARY


def test_a_saved_grid_and_a_saddle_at_the_start():
    problem = problem_of("deep linear")
    run = gf.simulate(problem, problem.init(0.5, seed=0), FLOW, stop=gf.LossBelow(1e-3), save_at=[0.0, 1.0, 2.0])
    assert run.status == gf.Status.STATIONARY
    assert run.t[:3].tolist() == [0.0, 1.0, 2.0]
    still = gf.simulate(problem, np.zeros(problem.size), FLOW, stop=gf.LossBelow(1e-3))
    assert still.status == gf.Status.STATIONARY
    assert not still.end.any()


@pytest.mark.parametrize("clock", ["time", "log_time"])
def test_in_other_clocks(clock):
    problem = problem_of("logistic, not separable")
    theta0, stop = problem.init(0.5, seed=0), gf.GradientBelow(1e-40)
    run = gf.simulate(problem, theta0, FLOW, stop=stop, clock=clock, max_gradients=20_000)
    assert run.status == gf.Status.STATIONARY


@pytest.mark.parametrize("clock", ["arc", "relative", "log_loss", "loss"])
@pytest.mark.parametrize("name", ["deep linear", "relu"])
def test_in_clocks_that_end_at_a_minimum(clock, name):
    problem = problem_of(name)
    theta0, stop = problem.init(0.5, seed=1), gf.GradientBelow(1e-40)
    run = gf.simulate(problem, theta0, FLOW, stop=stop, clock=clock, max_gradients=60_000)
    assert run.status == gf.Status.STATIONARY
    assert any("'log_time'" in note for note in run.notes)
    seconds = np.diff(run.t)
    assert np.isfinite(run.t).all()
    assert (seconds >= 0).all()
    early = int(np.searchsorted(run.t, 5.0))
    same = gf.simulate(problem, theta0, FLOW, t_end=run.t[early])
    np.testing.assert_allclose(run.theta[early], same.end, atol=1e-5)
    assert run.loss[-1] == pytest.approx(gf.simulate(problem, theta0, FLOW, t_end=1e3).loss[-1], rel=1e-8)  # rtol


def test_a_time_that_lies_behind_the_end_of_a_length_says_so():
    problem = problem_of("deep linear")
    run = gf.simulate(problem, problem.init(0.5, seed=1), FLOW, 1e9, clock="arc", max_gradients=200_000)
    assert run.status == gf.Status.STATIONARY
    assert any("length goes no further" in note for note in run.notes)


def test_slow_progress_on_separable_data_goes_on():
    x, y = gf.data.separable(n=20, d=4, margin=0.3, seed=0)
    problem = gf.Problem(gf.DeepLinear([4, 1]), gf.losses.Logistic(), x, y)
    for stop, status in ((gf.LossBelow(1e-100), "LOSS_BELOW"), (gf.GradientBelow(1e-100), "GRADIENT_BELOW")):
        run = gf.simulate(problem, problem.init(0.5, seed=0), FLOW, stop=stop, clock="time", rtol=1e-6)
        assert run.status.name == status
        assert run.t_end > 1e90


@pytest.mark.parametrize(
    ("strengths", "layers", "scale"), [([1.0, 1e-6], 2, 1e-8), ([1.0, 1e-2], 3, 1e-3), ([1.0, 1e-1], 3, 1e-4)]
)
def test_plateaus_are_left(strengths, layers, scale):
    x, y = gf.data.whitened_modes(strengths)
    problem = gf.Problem(gf.DeepLinear([2] * (layers + 1)), gf.losses.Square(half=True), x, y)
    level = 1e-3 * strengths[1] ** 2
    run = gf.simulate(problem, problem.init(scale, seed=1), FLOW, stop=gf.LossBelow(level))
    assert run.status == gf.Status.LOSS_BELOW


def test_an_exponential_fall_to_zero_goes_on():
    problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(), [[1.0]], [0.0])
    run = gf.simulate(problem, [1.0], FLOW, stop=gf.LossBelow(1e-100), atol=0.0)
    assert run.status == gf.Status.LOSS_BELOW
    assert run.t_end == pytest.approx(25 * np.log(10), rel=1e-6)


def looked(motion, loss, doublings, speed=lambda t: 0.0, level=np.inf):
    """Whether a path counts as at rest within so many doublings from t = 1."""
    rest = Rest(0.0, 1e-8, 1e-10, level)
    return any(rest.reached(t, np.array(motion(t)), loss(t), speed(t)) for t in 2.0 ** np.arange(doublings))


def test_what_counts_as_rest():
    wobble = {2.0**k: value for k, value in enumerate(RNG.normal(size=40))}

    def still(t):
        return 1.0 + 1e-9 * wobble[t]

    assert looked(lambda t: [still(t)], lambda t: 0.5, 20)
    assert looked(lambda t: [still(t)], lambda t: 1e-33 * (1 + wobble[t] ** 2), 30)
    assert not looked(lambda t: [1.0 + 1e-14 * t], lambda t: 0.5, 60)
    assert looked(lambda t: [1.0 + 1e-14 * t], lambda t: 0.5, 20, speed=lambda t: 1e-10)
    assert not looked(lambda t: [1.0], lambda t: 1 / t, 900)
    assert not looked(lambda t: [1.0], lambda t: np.exp(-t), 9)


def test_a_loss_that_levels_off():
    def drifts(t):
        return [np.log1p(t)]

    assert looked(drifts, lambda t: 0.5 + 1 / t, 30, level=0.4)
    assert not looked(drifts, lambda t: 0.5 + 1 / t, 30)
    assert not looked(drifts, lambda t: 0.5 + 1 / t, 60, level=0.5)
    assert not looked(drifts, lambda t: 0.5 + 1 / np.log(2 + t), 900, level=0.4)
    assert not looked(lambda t: [1e-6 * t], lambda t: 0.5 + 1 / t, 60, level=0.4)


def test_the_level_that_stops_ask_for():
    assert level_of([gf.LossBelow(1e-3), gf.LossBelow(1e-6)]) == 1e-3
    assert level_of([gf.ExcessLossBelow(1e-3, minimum=0.25)]) == 0.251
    assert level_of([gf.LossBelow(1e-3), gf.Event("seen", lambda problem, t, theta: theta[0])]) == 1e-3
    for other in (gf.GradientBelow(1e-9), gf.ExcessLossBelow(1e-3), gf.Event("end", lambda *_: 1.0, terminal=True)):
        assert level_of([gf.LossBelow(1e-3), other]) == np.inf


def test_an_end_time_is_reached_all_the_same():
    problem = cases.make("deep linear", "square")
    run = gf.simulate(problem, cases.start(problem), FLOW, t_end=1e8, stop=gf.LossBelow(1e-30))
    assert run.status == gf.Status.REACHED_END


@pytest.mark.parametrize("depth", [3, 4])
def test_a_degenerate_saddle_is_told_from_a_degenerate_minimum(depth):
    """The first mode is learnt, the second waits at 0 where the Hessian is flat; or it has nothing to learn."""
    for second, saddle in ((0.5, True), (0.0, False)):
        y = [1.0, second]
        problem = gf.Problem(gf.Diagonal(2, depth, signed=False), gf.losses.Square(), np.eye(2), y)
        theta = np.array([1.0, 0.0])
        assert np.linalg.eigvalsh(problem.hessian(theta))[0] == 0.0
        assert lower_nearby(problem, theta) == leads_down(problem, theta) == saddle
