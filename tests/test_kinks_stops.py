"""Stops by speed on a path that comes to rest on a kink: the velocity of the inclusion counts, not the raw gradient."""

import numpy as np
import pytest
from scipy.optimize import brentq

import gradflow as gf

LOSS = gf.losses.Square("sum", half=True)
X, Y = [[1.0, 1.0], [0.0, 1.0], [1.0, -1.0]], [1.0, -1.2, 0.4]
START = np.array([0.5, 0.0, 0.3])
C, S = 0.16, 1.4


def one_neuron():
    """f = a relu(w . x): the kink of the second sample, w_2 = 0, is slid along with the mask (1 - 0.4) / 1.2."""
    return gf.Problem(gf.FullyConnected([2, 1, 1]), LOSS, X, Y)


def motion(E):
    """Speed and size of (p, 0, a) on the kink: p = sqrt(c) cosh f, a = sqrt(c) sinh f, E = e^{2f}, c = p^2 - a^2."""
    size = np.sqrt(C * (E + 1.0 / E) / 2.0)
    return size * (S - C * (E - 1.0 / E) / 2.0), size


def expected(stop):
    """Time at which the path is slow enough: (E - E+) / (E - E-) decays at the rate c (E+ - E-)."""
    root = np.sqrt(S**2 / C**2 + 1.0)
    up, down, start = S / C + root, S / C - root, (0.5 + 0.3) / (0.5 - 0.3)

    def above(E):
        speed, size = motion(E)
        return speed - (stop.level if isinstance(stop, gf.GradientBelow) else stop.tolerance * size)

    end = brentq(above, start, up, xtol=1e-14)
    ratio = [(E - up) / (E - down) for E in (start, end)]
    return np.log(ratio[0] / ratio[1]) / (C * (up - down))


STOPS = [gf.GradientBelow(1e-2), gf.GradientBelow(1e-5), gf.Stationary(1e-3)]
CASES = [(stop, clock) for stop in STOPS for clock in ("time", "log_time", "log_loss", "arc")]
CASES.remove((gf.GradientBelow(1e-5), "log_loss"))  # this clock ends before, where the loss levels off


@pytest.mark.parametrize(("stop", "clock"), CASES)
def test_a_path_at_rest_on_a_kink_stops_when_it_is_slow(stop, clock):
    problem = one_neuron()
    run = gf.simulate(problem, START, gf.GradientFlow(), stop=stop, t_end=50.0, clock=clock, rtol=1e-9)
    assert run.status == stop.status
    assert run.t_end == pytest.approx(expected(stop), abs=1e-4 if stop == gf.GradientBelow(1e-5) else 1e-6)
    assert gf.measure.gradient_norm(problem, run.end) > 0.4


@pytest.mark.parametrize("dynamics", [gf.PolarFlow(), gf.GradientFlow(rates={"W1": 0.5, "W2": 2.0})])
def test_other_flows_stop_by_the_speed_of_their_states(dynamics):
    problem = one_neuron()
    run = gf.simulate(problem, START, dynamics, stop=gf.GradientBelow(1e-3), t_end=100.0, rtol=1e-9)
    assert run.status is gf.Status.GRADIENT_BELOW
    later = gf.simulate(problem, run.end, dynamics, t_end=1e-3, rtol=1e-9)
    speed = np.linalg.norm(later.states[-1] - later.states[0]) / 1e-3
    assert speed == pytest.approx(1e-3, rel=2e-2)


def test_a_run_without_an_end_comes_to_rest_on_its_kink():
    run = gf.simulate(one_neuron(), START, gf.GradientFlow(), stop=gf.LossBelow(0.1))
    assert run.status is gf.Status.STATIONARY
    assert run.loss[-1] == pytest.approx(0.72 + 0.3**2, abs=1e-9)


def test_each_crossing_of_a_level_is_located_between_steps():
    """The time does not depend on the steps: runs at three tolerances agree."""
    rng = np.random.default_rng(1)
    rng.normal(size=18)
    x, y = rng.normal(size=(12, 2)), rng.normal(size=(12, 1))
    problem = gf.Problem(gf.FullyConnected([2, 3, 1]), gf.losses.Square(), x, y)
    theta, stop = problem.init(1.0, seed=0), gf.GradientBelow(1e-4)
    times = [gf.simulate(problem, theta, gf.GradientFlow(), stop=stop, rtol=rtol).t_end for rtol in (1e-6, 1e-8, 1e-10)]
    np.testing.assert_allclose(times, 68.557322, atol=1e-4)
