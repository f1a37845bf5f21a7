"""The law of the angle between a relu filter and its teacher, against its own equation and against the flow."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import gradflow as gf


@pytest.mark.parametrize("start", [0.01, 1.5, 3.1])
@pytest.mark.parametrize("patches", [1, 5])
def test_the_angle_solves_its_equation(start, patches):
    times = np.linspace(0.0, 20.0, 9)
    found = solve_ivp(
        lambda _, log: -(np.pi - np.exp(log)) * np.sin(np.exp(log)) / (patches * np.pi * np.exp(log)),
        (0.0, 20.0), [np.log(start)], "DOP853", times, rtol=1e-13, atol=1e-15,
    )  # fmt: skip
    assert gf.exact.sphere_angle(times, start, patches) == pytest.approx(np.exp(found.y[0]), rel=1e-11)


def test_the_flow_on_the_sphere_follows_the_law():
    problem = gf.population.ConvolutionalPopulation([0.6, 0.0, -0.8], patches=4)
    run = gf.simulate(problem, problem.init(seed=3), gf.SphereFlow(), t_end=30.0, rtol=1e-11)
    angle = problem.angle(run.theta)
    assert gf.exact.sphere_angle(run.t, angle[0], 4) == pytest.approx(angle, abs=1e-9)


def test_the_time_is_the_inverse_over_all_angles_that_a_float_holds():
    times = np.array([0.0, 1e-3, 1.0, 30.0, 500.0])
    for start in (1e-12, 0.5, 3.0):
        angles = gf.exact.sphere_angle(times, start, 2)
        assert gf.exact.sphere_angle_time(angles, start, 2) == pytest.approx(times, rel=1e-12, abs=1e-12)
    assert gf.exact.sphere_angle(300.0, 1e-100, 2) == pytest.approx(1e-100 * np.exp(-150.0), rel=1e-10)
    assert gf.exact.sphere_angle([0.0, 1.0], [1.0, 2.0], 2).shape == (2,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gf.exact.sphere_angle(1.0, np.pi, 2), "below pi"),
        (lambda: gf.exact.sphere_angle(-1.0, 1.0, 2), "t >= 0"),
        (lambda: gf.exact.sphere_angle(1.0, 1.0, 0), "patches = 0"),
        (lambda: gf.exact.sphere_angle_time(2.0, 1.0, 2), "only turns towards"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
