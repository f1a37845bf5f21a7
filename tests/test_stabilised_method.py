"""The stabilised method of order 4 itself: its construction, order and stability."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from stabilised_cases import METHOD, one_step, only, turning
from stepper_cases import bowl_field, forced, logistic, net_field

STAGES = pytest.mark.parametrize("stages", [5, 10, 26, 50])


def butcher(stages):
    """The whole method as one matrix, weights, and the weights of the error estimate."""
    m = only(stages)
    A, n = np.zeros((stages, stages)), stages - 4
    for j in range(n):
        before = A[j - 1] if j else A[0]
        A[j + 1] = m.kappa[j] * A[j] + (1.0 - m.kappa[j]) * before
        A[j + 1, j] += m.mu[j]
    for i in range(4):
        A[n + i] = A[n]
        A[n + i, n:] += m.matrix[0, i]
    b = A[n].copy()
    b[n:] += m.weights[0]
    e = m.estimate[0, 0] * A[n]
    e[n:] += m.estimate[0, 1:]
    return A, b, e, np.concatenate([m.times, m.nodes[0]])


@pytest.fixture(scope="module")
def construction():
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    import stabilised_coefficients

    yield stabilised_coefficients
    sys.path.pop(0)


@STAGES
def test_coefficients_are_those_of_the_construction(construction, stages):
    arrays, kept = construction.table((stages,)), only(stages)
    row = np.flatnonzero(METHOD.stages == stages)
    np.testing.assert_allclose(arrays.pop("extent"), METHOD.extent[row], rtol=1e-7)
    for name, array in arrays.items():
        np.testing.assert_allclose(array, getattr(kept, name), rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("stages", METHOD.stages.tolist())
def test_order_conditions_of_all_trees_up_to_order_four(stages):
    A, b, e, times = butcher(stages)
    c = A.sum(axis=1)
    np.testing.assert_allclose(times, c, atol=1e-11)
    trees = [c**0, c, c**2, A @ c, c**3, c * (A @ c), A @ c**2, A @ A @ c]
    weights = 1.0 / np.array([1, 2, 3, 6, 4, 8, 12, 24])
    np.testing.assert_allclose([b @ tree for tree in trees], weights, atol=1e-11)
    np.testing.assert_allclose([e @ tree for tree in trees[:4]], 0.0, atol=1e-11)
    assert min(e @ trees[k] for k in (4, 5, 6, 7)) > 1e-5


@STAGES
def test_order_of_one_step_on_the_two_layer_net(stages):
    steps, start = np.array([0.2, 0.1, 0.05]), [0.8, 0.3]

    def velocity(t, w):
        return (1.0 - w[0] * w[1]) * w[::-1]

    errors = []
    for h in steps:
        state = one_step(net_field(), start, h, stages).state
        exact = solve_ivp(velocity, (0.0, h), start, method="DOP853", rtol=1e-13, atol=1e-15).y[:, -1]
        closed = one_step(net_field(), [0.6, 0.6], h, stages).state
        errors.append([np.abs(state - exact).max(), abs(closed.prod() - logistic(h, 0.36))])
    slopes = np.diff(np.log(errors), axis=0) / np.diff(np.log(steps))[:, None]
    assert np.all(slopes > 4.6)
    assert np.all(slopes < 5.7)


@STAGES
def test_order_of_one_step_when_the_field_depends_on_time(stages):
    steps, errors = np.array([0.4, 0.2, 0.1]), []
    for h in steps:
        start = math.sin(0.3)
        errors.append(
            abs(one_step(bowl_field([1.0], link=forced), [start], h, stages, t=0.3).state[0] - math.sin(0.3 + h))
        )
    slopes = np.diff(np.log(errors)) / np.diff(np.log(steps))
    assert np.all(slopes > 4.6)
    assert np.all(slopes < 5.7)


@pytest.mark.parametrize("stages", [5, 10, 26, 50, 103])
def test_stability_interval_is_as_stated_and_near_the_optimum(stages):
    """One step from 1 on a bowl with curvatures z gives the stability polynomial at -z."""
    extent = METHOD.extent[METHOD.stages == stages][0]
    z = (1.0 - np.cos(np.linspace(0.0, np.pi, 60 * stages))) * extent / 2.0
    damping = one_step(bowl_field(z), np.ones(z.size), 1.0, stages).state
    np.testing.assert_allclose(damping[z < 0.05], np.exp(-z[z < 0.05]), atol=1e-8)
    assert np.abs(damping).max() <= 1.0 + 1e-12
    assert np.abs(damping[z > 1.0]).max() < 0.905
    beyond = one_step(bowl_field([1.03 * extent]), [1.0], 1.0, stages).state
    assert abs(beyond[0]) > 1.0
    assert extent / stages**2 > (0.33 if stages > 12 else 0.23)


@pytest.mark.parametrize("stages", [5, 10, 26, 50])
def test_small_imaginary_parts_are_damped_inside_the_margin(stages):
    extent = METHOD.extent[METHOD.stages == stages][0] / 1.1
    z = np.linspace(2.0, extent, 400)
    field = bowl_field(np.repeat(z, 2), link=turning, numbers=[0.3])
    state = one_step(field, np.tile([1.0, 0.0], z.size), 1.0, stages).state
    assert np.hypot(state[::2], state[1::2]).max() < 1.0
