"""Tiny starts, plateaus and algebraic tails: escape times and long horizons against closed forms."""

import mpmath
import numpy as np
import pytest
from clock_cases import FLOW, LN10, escape_net, modes, one_weight_per_layer
from numpy.testing import assert_allclose
from scipy.integrate import quad

import gradflow as gf

HALF = gf.losses.Square(half=True)


def log_escape_time(depth, start):
    """log of the time from a^depth = start^depth to a = 1 of a' = (2 - a^depth) a^(depth - 1), in many digits."""
    with mpmath.workdps(60):
        a = mpmath.mpf(start)
        rest = mpmath.quad(lambda a: a / (2 * (2 - a**depth)), [a, 0.01, 0.3, 1])
        first = mpmath.log(1 / a) / 2 if depth == 2 else (a ** (2 - depth) - 1) / (2 * (depth - 2))
        return float(mpmath.log(first + rest))


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
@pytest.mark.parametrize("start", [1e-3, 1e-30, 1e-100])
def test_escape_times_of_chains(depth, start):
    problem = one_weight_per_layer(depth, HALF, 2.0)
    clock = "auto" if start < 1e-3 else "relative"
    run = gf.simulate(
        problem, np.full(depth, start), FLOW, stop=gf.LossBelow(log10=np.log10(0.5)), clock=clock, save_at=gf.at(s=0.5)
    )
    assert_allclose(run.end, 1.0, rtol=1e-9)
    assert abs(run.log10_t[-1] * LN10 - log_escape_time(depth, start)) < 1e-9


@pytest.mark.parametrize(
    ("log10_scale", "expected"),
    [(-1, -0.7588429382), (-3, -0.6922670282), (-30, -0.6915961194), (-100, -0.6915961194), (-300, -0.6915961194)],
)
def test_escape_of_a_deep_linear_net_from_1e_minus_1_to_1e_minus_300(log10_scale, expected):
    problem, direction, half = escape_net()
    clock = gf.clocks.Relative(log10_scale=log10_scale)
    run = gf.simulate(problem, direction, FLOW, stop=gf.LossBelow(half), clock=clock, rtol=1e-11, save_at="steps")
    assert abs(run.log10_t[-1] + log10_scale - expected) < 2e-10


@pytest.mark.slow
def test_escape_of_a_deep_linear_net_from_1e_minus_1000():
    problem, direction, half = escape_net()
    clock = gf.clocks.Relative(log10_scale=-1000)
    run = gf.simulate(problem, direction, FLOW, stop=gf.LossBelow(half), clock=clock, rtol=1e-11, save_at="steps")
    assert abs(run.log10_t[-1] - 1000 + 0.6915961194) < 2e-10
    assert np.all(run.theta[0] == 0.0)


def test_polar_and_cartesian_coordinates_agree():
    problem, direction, half = escape_net()
    stop, clock = gf.LossBelow(half), gf.clocks.Relative()
    polar = gf.simulate(problem, 1e-12 * direction, FLOW, stop=stop, clock=clock, rtol=1e-10, save_at="steps")
    flow = gf.GradientFlow({"W1": 1.0})
    cartesian = gf.simulate(problem, 1e-12 * direction, flow, stop=stop, clock=clock, rtol=1e-10, save_at="steps")
    assert abs(polar.log10_t[-1] - cartesian.log10_t[-1]) < 1e-9
    assert_allclose(polar.end, cartesian.end, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("scale", [1e-30, 1e-100])
def test_all_escapes_of_a_two_layer_net_in_its_own_basis(scale):
    problem, strengths, events = modes(2)
    times = np.log(strengths / scale**2 - 1.0) / (2 * strengths)
    start = np.tile(scale * np.eye(3).ravel(), 2)
    run = gf.simulate(problem, start, FLOW, 1.5 * times[-1], events=events, rtol=1e-9)
    assert [event.name for event in run.events] == ["mode 0", "mode 1", "mode 2"]
    assert_allclose([event.t for event in run.events], times, rtol=1e-9)
    assert len(run.switches) == 1
    assert run.switches[0].startswith("relative -> time")


def test_all_escapes_of_a_three_layer_net_from_1e_minus_12():
    problem, strengths, events = modes(3)
    times = [float(gf.exact.chain_time(1e-12, (s / 2) ** (1 / 3), s, 3)) for s in strengths]
    start = np.tile(1e-12 * np.eye(3).ravel(), 3)
    run = gf.simulate(problem, start, FLOW, 1.2 * times[-1], events=events, rtol=1e-9)
    assert_allclose([event.t for event in run.events], times, rtol=1e-7)
    assert run.counts["gradients"] < 20_000


def test_time_between_events_after_a_plateau_is_not_lost_below_its_last_digit():
    problem = one_weight_per_layer(3, HALF, 2.0)
    places = 2 * np.log(2.0 / (2.0 - np.array([0.5, 1.0, 1.5])))
    run = gf.simulate(problem, np.full(3, 1e-30), FLOW, stop=gf.LossBelow(1e-3), save_at=gf.at(s=places), rtol=1e-10)
    assert_allclose(run.theta[1:4].prod(1), [0.5, 1.0, 1.5], rtol=1e-8)
    for i in (1, 2):
        a, b = run.theta[i, 0], run.theta[i + 1, 0]
        exact = float(mpmath.quad(lambda a: 1 / ((2 - a**3) * a**2), [a, b]))
        assert_allclose(run.elapsed(i, i + 1), exact, rtol=1e-7)
    assert run.t[2] - run.t[1] == 0.0


@pytest.mark.parametrize(
    ("clock", "log10_t"), [("log_time", 12), ("relative", 12), ("auto", 12), ("log_time", 100), ("relative", 100)]
)
def test_an_algebraic_tail(clock, log10_t):
    problem = gf.Problem(gf.Diagonal(1, 3, signed=False), HALF, [[1.0]], [[0.0]])
    run = gf.simulate(problem, [1.0], FLOW, gf.at(log10_t=log10_t), clock=clock, save_at=gf.at(log10_t=[0, 3, 9]))
    with mpmath.workdps(30):
        exact = [float((1 + 12 * mpmath.mpf(10) ** t) ** mpmath.mpf(-0.25)) for t in (0, 3, 9, log10_t)]
    assert_allclose(run.theta[1:, 0], exact, rtol=1e-8)
    assert_allclose(run.log10_t[1:], [0, 3, 9, log10_t], rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_an_algebraic_tail_up_to_1e300():
    problem = gf.Problem(gf.Diagonal(1, 3, signed=False), HALF, [[1.0]], [[0.0]])
    run = gf.simulate(problem, [1.0], FLOW, gf.at(log10_t=300), clock="log_time", save_at=2)
    assert abs(4 * np.log10(run.end[0]) + 300 + np.log10(12.0)) < 1e-8


def test_square_loss_of_a_two_layer_net_goes_on_below_1e_minus_20():
    problem = one_weight_per_layer(2, HALF, 2.0)
    for clock in ("loss", "log_loss"):
        stop, save_at = gf.LossBelow(log10=-20), gf.at(log10_loss=[-10])
        run = gf.simulate(problem, [0.1, 0.1], FLOW, stop=stop, clock=clock, save_at=save_at, max_gradients=20_000)
        assert run.status == gf.Status.LOSS_BELOW
        assert_allclose(run.t[1], gf.exact.two_layer_time(0.01, 2.0 - np.sqrt(2e-10), 2.0), rtol=1e-8)
        assert_allclose(run.t[2], gf.exact.two_layer_time(0.01, 2.0 - np.sqrt(2e-20), 2.0), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-10, 1e-30, 1e-100])
def test_saddles_on_the_way_are_not_taken_for_minima(scale):
    problem, strengths, _ = modes(2)
    start = np.tile(scale * np.eye(3).ravel(), 2)
    run = gf.simulate(problem, start, FLOW, stop=gf.LossBelow(1e-8), clock="log_time", solver="dop853")
    assert run.status == gf.Status.LOSS_BELOW
    assert_allclose(np.sqrt(np.diag(run.end[:9].reshape(3, 3)) ** 4), strengths, rtol=1e-3)


@pytest.mark.parametrize(("depth", "scale"), [(3, 1e-30), (4, 1e-8), (4, 1e-20)])
@pytest.mark.parametrize("clock", ["auto", "log_time"])
def test_deep_diagonal_networks_leave_one_degenerate_saddle_after_the_other(depth, scale, clock):
    strengths = np.array([3.0, 2.0, 1.0])
    problem = gf.Problem(gf.Diagonal(3, depth, signed=False), gf.losses.Square("sum", half=True), np.eye(3), strengths)
    theta0, stop = problem.init(scale, scheme="constant"), gf.LossBelow(1e-6)
    run = gf.simulate(problem, theta0, FLOW, stop=stop, clock=clock, save_at="steps", max_gradients=100_000)
    assert run.status == gf.Status.LOSS_BELOW
    for k, strength in enumerate(strengths):

        def rate(v, strength=strength):
            return np.exp((2 - depth) * v) / (depth * (strength - np.exp(depth * v)))

        half, _ = quad(rate, np.log(scale), np.log(0.5 * strength) / depth, epsrel=1e-11, limit=500)
        after = np.searchsorted(run.theta[:, k] ** depth, 0.5 * strength)
        assert run.t[after - 1] * (1 - 2e-6) < half < run.t[after] * (1 + 2e-6)


@pytest.mark.parametrize("depth", [3, 4, 5])
def test_times_far_within_the_first_step_are_found(depth):
    start, rng = 1e-30, np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=5)
    problem = gf.Problem(gf.Diagonal(3, depth), gf.losses.Square(), x, y)
    times = np.array([1e-8, 1e4, 1e-6 * start ** (2 - depth), 1e-2 * start ** (2 - depth)])
    run = gf.simulate(problem, problem.init(start, scheme="constant"), FLOW, t_end=times[-1], save_at=times)
    pull = depth * 2.0 / 5.0 * x.T @ y  # u' = pull u^(depth - 1), v' = -pull v^(depth - 1), while the outputs are zero
    rates = (depth - 2) * np.concatenate([pull, -pull]) * start ** (depth - 2)
    expected = start * (1.0 - np.outer(times, rates)) ** (-1.0 / (depth - 2))
    assert_allclose(run.t, [0.0, *times], rtol=1e-13)
    assert_allclose(run.theta[1:], expected, rtol=1e-8)


def saddle_to_saddle(start, **options):
    """A diagonal network of depth 4 with three modes to learn, and a budget of gradients."""
    x = np.random.default_rng(0).normal(size=(10, 20))
    problem = gf.Problem(gf.Diagonal(20, 4), gf.losses.Square(), x, x[:, :3] @ [1.0, -0.5, 0.3])
    theta0 = problem.init(start, scheme="constant")
    return gf.simulate(problem, theta0, FLOW, stop=gf.LossBelow(1e-3), rtol=1e-5, max_gradients=20_000, **options)


def test_a_budget_spent_between_saddles_says_what_helps():
    run = saddle_to_saddle(1e-30)
    assert run.status == gf.Status.GRADIENT_BUDGET
    assert any("a larger start meets the same saddles sooner" in note for note in run.notes)
    helped = saddle_to_saddle(1e-3)
    assert helped.status == gf.Status.LOSS_BELOW
    assert not any("larger start" in note for note in helped.notes)


@pytest.mark.parametrize("clock", ["arc", "relative"])
def test_a_budget_spent_in_a_clock_of_length_says_what_helps(clock):
    run = saddle_to_saddle(1e-3, clock=clock)
    assert run.status == gf.Status.GRADIENT_BUDGET
    assert any("try clock='time' or 'log_time'" in note for note in run.notes)
