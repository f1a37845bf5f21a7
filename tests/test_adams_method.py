"""Formulas of the Adams stepper: order, stability, error estimate, choice of order."""

import math

import numpy as np
import pytest
from stepper_cases import bowl_field, flow, logistic, net_field

import gradflow as gf
from gradflow.kernels.kernel import Kernel
from gradflow.status import Status
from gradflow.steppers.adams import DAMPING, STABLE, STABLE_DAMPED, Adams
from gradflow.steppers.adams_formulas import difference_weights, gauss_products, integral_weights, inverse_gaps
from gradflow.steppers.choose import make_field
from gradflow.steppers.explicit import Explicit
from gradflow.steppers.field import Field

FULL = [(k, 0) for k in range(1, len(STABLE) + 1)]
DAMPED = [(k, 1) for k in range(2, len(DAMPING) + 1)]
EVERY = pytest.mark.parametrize(("k", "damped"), FULL + DAMPED)


def prepared(field, times, states, k, damped, h):
    """Stepper at the last of the times, with velocities at given states before it, set to one formula."""
    stepper = Adams(field, times[-1], states[-1], rtol=1e3, atol=1e300)
    memory, now = stepper._memory, stepper._now
    for l in range(len(times)):
        memory.times[l] = times[-1 - l]
        field(times[-1 - l], np.array(states[-1 - l], dtype=float), memory.rows[l])
    now["known"] = len(times)
    set_to(stepper, k, damped, h)
    return stepper


def set_to(stepper, k, damped, h):
    stepper._now["order"], stepper._now["damped"], stepper._now["h"] = k, damped, h


@EVERY
def test_local_error_on_uneven_points_has_the_order_of_the_formula(k, damped):
    steps, errors, inside = np.array([0.2, 0.15]), [], []
    past = -np.cumsum(np.resize([0.7, 1.0, 1.3], k + 1))[::-1]
    for h in steps:
        times = np.append(h * past, 0.0)
        stepper = prepared(bowl_field([1.0], False), times, np.exp(-times)[:, None], k, damped, h)
        stepper.advance(9.0, max_steps=1)
        assert stepper.t == h
        errors.append(abs(stepper.state[0] - math.exp(-h)))
        x = np.linspace(0.0, h, 9)[1:-1]
        inside.append(np.abs(stepper.dense(x)[:, 0] - np.exp(-x)).max())
    power = k + 1 if damped else k + 2
    for found in (errors, inside):
        assert -0.3 < (np.diff(np.log(found)) / np.diff(np.log(steps)))[0] - power < 0.9


def power_law(t, state, out, chain, numbers, layout, work, coefficients):
    """theta' = (m + 1) t^m for m = coefficients[0]: the solution is t^(m + 1)."""
    out[:] = (coefficients[0] + 1.0) * t ** coefficients[0]
    return 0.0


@EVERY
def test_formula_integrates_polynomials_up_to_its_order(k, damped):
    """k + 1 velocities give degree k; a damped correction falls short of it there."""
    exact = []
    for m in range(k + 2):
        times = np.append(-np.cumsum(np.resize([0.7, 1.0, 1.3], k + 1))[::-1] / k, 0.0)
        field = bowl_field([1.0], False, power_law, numbers=[m])
        stepper = prepared(field, times, times[:, None] ** (m + 1), k, damped, 1.0 / k)
        stepper.advance(9.0, max_steps=1)
        exact.append(bool(abs(stepper.state[0] - k ** -(m + 1.0)) < 1e-13))
    assert exact == [m < (k if damped else k + 1) for m in range(k + 2)]


@EVERY
def test_even_steps_are_stable_up_to_the_limit_and_not_beyond(k, damped):
    limit = (STABLE_DAMPED if damped else STABLE)[k - 1]
    grown = []
    for h in (0.99 * limit, 1.05 * limit):
        stepper = prepared(bowl_field([1.0], False), -h * np.arange(k + 1.0)[::-1], np.ones((k + 1, 1)), k, damped, h)
        sizes = []
        for _ in range(400):
            stepper.advance(1e9, max_steps=1)
            set_to(stepper, k, damped, h)
            sizes.append(abs(stepper.state[0]))
        grown.append(max(sizes[-20:]) / max(sizes[180:200]))
    assert grown[0] < 1.01
    assert grown[1] > 1.5


def test_weights_integrate_polynomials_exactly():
    """To rounding: a few units in the last place of the largest terms of each sum."""
    points = np.array([1.0, 0.0, -0.7, -1.9, -2.2, -4.0])
    inverses, products, weights = np.zeros(6), np.zeros(6), np.zeros(6)
    inverse_gaps.py_func(points, 6, inverses)
    for end in (1.0, 0.3):
        gauss_products.py_func(points, 6, end, products)
        integral_weights.py_func(points, 6, end, inverses, products, weights)
        for power in range(6):
            terms = weights * points**power
            assert abs(terms.sum() - end ** (power + 1) / (power + 1)) < 1e-15 * np.abs(terms).sum()


@pytest.mark.parametrize(("k", "known"), [(1, 1), (1, 3), (3, 3), (3, 4)])
def test_differences_of_powers_are_one_and_of_lower_powers_zero(k, known):
    points, inverses, weights = np.array([0.0, -0.7, -1.9, -2.2]), np.zeros(5), np.full((3, 5), np.nan)
    inverse_gaps.py_func(points, k, inverses)
    difference_weights.py_func(points, k, known, inverses, weights)
    nodes = np.array([1.0, *points])
    for j, row in enumerate(weights):
        degree = k - 1 + j
        there = 0 < degree <= known
        for power in range(degree + 1):
            found = row[: k + 2] @ nodes[: k + 2] ** power
            np.testing.assert_allclose(found, 1.0 if there and power == degree else 0.0, atol=1e-12)


def test_bound_steps_stay_stable_without_failing():
    """Modes 1 to 50 over T = 10: a damped step of two velocities goes 2.6 units of h times 50 per gradient."""
    stepper, rho = Adams(bowl_field([1.0, 7.0, 50.0]), 0.0, [1.0, 1.0, 1.0], rtol=1e-3, atol=1e-5), 0.0
    while stepper.advance(10.0, max_steps=1) == Status.PAUSED:
        rho = max(rho, stepper.rho)
    assert stepper.counts["gradients"] < 500 / 1.5
    assert stepper.counts["rejected"] <= 15
    assert (stepper._now["order"], stepper._now["damped"]) == (2, 1)
    np.testing.assert_allclose(rho, 50.0, rtol=1e-6)
    np.testing.assert_allclose(stepper.state, [math.exp(-10.0), 0.0, 0.0], atol=1e-4)


@pytest.mark.parametrize(("longer", "once"), [(1.2, True), (8.0, False)])
def test_order_goes_down_to_1_after_two_failures_not_after_one(longer, once):
    stepper = Adams(net_field(), 0.0, [0.1, 0.1], rtol=1e-8, atol=1e-8)
    stepper.advance(2.0, max_steps=30)
    now = stepper._now
    order, before = int(now["order"]), stepper.counts["rejected"]
    assert order > 3
    now["h"] *= longer
    assert stepper.advance(100.0, max_steps=1) == Status.PAUSED
    rejected = stepper.counts["rejected"] - before
    assert rejected == 1 if once else rejected > 1
    assert now["used"] == (order if once else 1)


def test_smooth_flow_reaches_a_high_order():
    stepper, highest = Adams(net_field(), 0.0, [0.1, 0.1], rtol=1e-10, atol=1e-12), 0
    while stepper.advance(3.0, max_steps=1) == Status.PAUSED:
        highest = max(highest, stepper._now["used"])
    assert highest >= 7


def test_fewer_gradients_than_a_pair_at_equal_error():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((40, 6))
    problem = gf.Problem(gf.FullyConnected([6, 8, 8, 1], activation="tanh"), gf.losses.Square(), x, np.sin(x[:, :1]))
    field, start = make_field(problem, gf.GradientFlow(), problem.kernel), problem.init(scale=1.0, seed=0)
    exact = Explicit(field, 0.0, start, rtol=1e-12, atol=1e-14)
    exact.advance(20.0)
    for rtol, share in ((1e-3, 0.5), (1e-6, 0.7)):
        adams, pair = (c(field, 0.0, start, rtol=rtol, atol=rtol / 100) for c in (Adams, Explicit))
        for stepper in (adams, pair):
            stepper.advance(20.0)
            assert np.linalg.norm(stepper.state - exact.state) < rtol * np.linalg.norm(exact.state)
        assert adams.counts["gradients"] < share * pair.counts["gradients"]


def jumping(theta, out, numbers, layout, work):
    """F of slope 3 right of 1, 1/2 between 0 and 1, and a bowl left of 0."""
    out[0] = 3.0 if theta[0] > 1.0 else 0.5 if theta[0] > 0.0 else theta[0]
    return abs(theta[0])


@pytest.mark.parametrize("rtol", [0.3, 1e-1, 1e-3, 1e-6])
def test_jumps_of_the_velocity_are_crossed(rtol):
    kernel = Kernel("jumps", jumping, None, np.zeros(1), np.zeros(1, np.int64), 1, compiled=True, flops=1.0)
    stepper = Adams(Field((flow,), kernel), 0.0, [2.0], rtol=rtol, atol=rtol)
    assert stepper.advance(1.3333333333333333) == Status.REACHED_END
    assert abs(stepper.state[0] - 0.5) < 4.0 * rtol
    assert stepper.counts["gradients"] < 150


@pytest.mark.parametrize("rtol", [0.3, 0.1])
def test_loose_tolerances_take_few_gradients_and_keep_their_word(rtol):
    stepper = Adams(net_field(), 0.0, [0.6, 0.6], rtol=rtol, atol=rtol / 100)
    stepper.advance(2.0)
    assert np.linalg.norm(stepper.state / math.sqrt(logistic(2.0, 0.36)) - 1.0) < rtol
    assert stepper.counts["gradients"] <= 14
