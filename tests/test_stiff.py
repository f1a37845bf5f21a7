"""Accuracy and cost of the stiff stepper, against closed forms, matrix exponentials, the explicit stepper and CVODE."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import expm
from sksundae import cvode
from stiff_cases import (
    DENSE,
    FORMS,
    START,
    distance,
    double_well,
    field,
    flow,
    log_time,
    logistic,
    net_stepper,
    product_net,
    quadratic,
    ramp,
    riccati,
    rotated,
    small_net,
    small_run,
)  # fmt: skip

import gradflow as gf
from gradflow.dynamics.flow import plain_velocity
from gradflow.status import Status
from gradflow.steppers.choose import make_field
from gradflow.steppers.explicit import Explicit
from gradflow.steppers.field import Field
from gradflow.steppers.stiff import Stiff


@pytest.mark.parametrize("symmetric", [True, False])
def test_error_constants_of_the_formulas(symmetric):
    """On theta' = -theta the residual of the exact step is the error constant times the next difference."""
    method = Stiff(field(riccati), 0.0, [0.0], symmetric=symmetric)._method
    h = 0.02
    for order in range(1, method.most_order + 1):
        past = np.exp(h * np.arange(order + 1))
        differences = np.array([(-1) ** j * np.diff(past, j)[0] for j in range(order + 1)])
        prediction, alpha = differences.sum(), method.alpha[order]
        correction = -(h * prediction + method.gamma[: order + 1] @ differences) / (alpha + h)
        exact = math.exp(-h) - prediction
        np.testing.assert_allclose((correction - exact) * (alpha + h), method.error[order] * exact, rtol=0.15)


@FORMS
def test_two_layer_net_follows_its_closed_form_and_the_tolerance(compiled):
    tols = np.array([1e-3, 1e-5, 1e-7, 1e-9, 1e-11])
    ends, inside = [], []
    times = np.linspace(0.0, 8.0, 401)[1:-1]
    for tol in tols:
        stepper = net_stepper(compiled, tol)
        saved = np.full((times.size, 2), np.nan)
        assert stepper.advance(8.0, save_at=times, saved=saved) == Status.REACHED_END
        assert stepper.t == 8.0
        ends.append(abs(stepper.state.prod() - logistic(8.0)))
        inside.append(np.abs(saved.prod(axis=1) - logistic(times)).max())
        np.testing.assert_allclose(stepper.value, 0.5 * (1.0 - stepper.state.prod()) ** 2, rtol=1e-9)
        np.testing.assert_allclose(stepper.velocity, (1.0 - stepper.state.prod()) * stepper.state[::-1], rtol=1e-9)
    assert np.all(ends < tols)
    assert np.all(inside < 20.0 * tols)
    slope = np.polyfit(np.log(tols), np.log(inside), 1)[0]
    assert 0.85 < slope < 1.15
    assert stepper.counts["gradients"] < 2000


@FORMS
def test_riccati_flow_is_the_hyperbolic_tangent(compiled):
    stepper = Stiff(field(riccati, compiled), 0.0, [0.0], rtol=1e-9, atol=1e-9)
    times = np.linspace(0.0, 6.0, 61)
    saved = np.empty((times.size, 1))
    stepper.advance(6.0, save_at=times, saved=saved)
    np.testing.assert_allclose(saved[:, 0], np.tanh(times), atol=3e-9)


@FORMS
@DENSE
def test_linear_system_of_condition_1e6(compiled, dense):
    matrix = rotated(np.logspace(-3, 3, 30))
    start = np.random.default_rng(1).standard_normal(30)
    for tol in (1e-4, 1e-6, 1e-8):
        stepper = Stiff(field(quadratic, compiled, matrix), 0.0, start, rtol=tol, atol=1e-2 * tol, dense=dense)
        assert stepper.advance(1000.0) == Status.REACHED_END
        assert distance(stepper.state, expm(-1000.0 * matrix) @ start) < 2.0 * tol
        assert stepper.counts["gradients"] < 12_000  # the explicit stepper's stability limit is at 2,000,000


def test_small_network_reaches_its_state_at_a_late_time():
    """The reference is the explicit stepper at its stability limit."""
    problem, theta = small_net(50)
    reference = Explicit(make_field(problem, gf.GradientFlow(), problem.kernel), 0.0, theta, rtol=1e-11, atol=1e-13)
    reference.advance(3000.0)
    for tol in (1e-4, 1e-6, 1e-8):
        stepper, other = (small_run(problem, theta, tol) for _ in range(2))
        stepper.advance(500.0)
        other.restore(stepper.snapshot())
        for run in (stepper, other):
            run.advance(3000.0)
            assert distance(run.state, reference.state) < 10.0 * tol
        assert stepper.counts["gradients"] < 0.1 * reference.counts["gradients"]


def test_rough_tolerances_hold_because_newton_is_confirmed():
    problem, theta = small_net()
    reference = small_run(problem, theta, 1e-9)
    reference.advance(3e4)
    for tol in (0.1, 0.03, 0.01, 0.003):
        stepper = small_run(problem, theta, tol)
        stepper.advance(3e4)
        assert distance(stepper.state, reference.state) < 2.0 * tol


def test_a_dense_matrix_saves_products_and_keeps_the_result_within_tolerance():
    problem, theta = small_net()
    runs = {dense: small_run(problem, theta, 1e-6, dense=dense) for dense in (True, None, False)}
    for stepper in runs.values():
        assert stepper.advance(3e4) == Status.REACHED_END
    for dense in (True, None):
        assert distance(runs[dense].state, runs[False].state) < 1e-6
        assert runs[dense].counts["gradients"] < 0.8 * runs[False].counts["gradients"]


def test_fewer_gradients_and_less_error_than_cvode():
    problem, theta = small_net()
    reference = small_run(problem, theta, 1e-12)
    reference.advance(3e4)
    calls = []

    def velocity(t, y, out):
        calls.append(t)
        out[:] = -problem.gradient(np.array(y))

    for tol in (1e-4, 1e-6, 1e-8):
        calls.clear()
        solver = cvode.CVODE(velocity, method="BDF", linsolver="gmres", rtol=tol, atol=1e-2 * tol, max_num_steps=10**6)
        peer = solver.solve(np.array([0.0, 3e4]), theta).y[-1]
        stepper = small_run(problem, theta, tol)
        stepper.advance(3e4)
        assert distance(stepper.state, reference.state) < min(2.0 * tol, distance(peer, reference.state))
        assert stepper.counts["gradients"] < len(calls)


@FORMS
@DENSE
def test_general_jacobian_follows_the_matrix_exponential(compiled, dense):
    """A spiral with eigenvalues -1 +- 3i beside decay rates up to 1e4, in skewed coordinates."""
    rng = np.random.default_rng(3)
    skew = np.eye(8) + 0.4 * rng.standard_normal((8, 8))
    matrix = np.diag(np.r_[1.0, 1.0, np.logspace(0, 4, 6)])
    matrix[0, 1], matrix[1, 0] = 3.0, -3.0
    matrix = skew @ matrix @ np.linalg.inv(skew)
    start = rng.standard_normal(8)
    for tol in (1e-4, 1e-8):
        chain = field(quadratic, compiled, matrix)
        stepper = Stiff(chain, 0.0, start, rtol=tol, atol=1e-2 * tol, dense=dense, symmetric=False)
        assert stepper.advance(2.0) == Status.REACHED_END
        assert distance(stepper.state, expm(-2.0 * matrix) @ start) < 10.0 * tol
        assert stepper.counts["gradients"] < 6000


@pytest.mark.filterwarnings("ignore:the network is not homogeneous")
@pytest.mark.parametrize("dynamics", [gf.PolarFlow(angular_rate=3.0), gf.LMFlow(decay=0.01)], ids=["polar", "LM"])
def test_polar_and_normalised_flows_agree_with_the_explicit_stepper(dynamics):
    problem, theta = small_net(50)
    dynamics = dynamics.prepared(problem, theta)
    state = dynamics.pack(problem, theta)
    chain = make_field(problem, dynamics, problem.kernel)
    reference = Explicit(chain, 0.0, state, rtol=1e-11, atol=1e-13)
    reference.advance(100.0)
    stepper = Stiff(chain, 0.0, state, rtol=1e-6, atol=1e-8, symmetric=False)
    stepper.advance(100.0)
    assert distance(stepper.state, reference.state) < 3e-6
    assert stepper.counts["gradients"] < 0.3 * reference.counts["gradients"]


@FORMS
def test_clock_of_log_time_ends_at_the_plain_flow(compiled):
    stepper = Stiff(field(product_net, compiled, links=(log_time, flow)), 0.0, START, rtol=1e-8, atol=1e-10)
    stepper.advance(math.log(9.0))
    np.testing.assert_allclose(stepper.state.prod(), logistic(8.0), atol=1e-8)


@pytest.mark.parametrize("tol", [1e-4, 1e-6, 1e-8])
def test_escape_from_a_saddle_with_a_stiff_valley(tol):
    """x' = x - x^3 from 1e-3: the curvature is -1 on the way out, and 1000 across."""
    stepper = Stiff(field(double_well), 0.0, [1e-3, 0.5], rtol=tol, atol=1e-2 * tol)
    times = np.linspace(1.0, 12.0, 12)
    saved = np.empty((12, 2))
    assert stepper.advance(12.0, save_at=times, saved=saved) == Status.REACHED_END
    exact = 1.0 / np.sqrt(1.0 + (1e6 - 1.0) * np.exp(-2.0 * times))
    np.testing.assert_allclose(saved[:, 0], exact, rtol=0.0, atol=10.0 * tol)


@DENSE
def test_negative_curvature_cuts_a_step_that_would_stay_on_the_saddle(dense):
    """On the saddle's ridge nothing but the tolerance limits the step; steps of c > 1 would make it attract."""
    stepper = Stiff(field(double_well), 0.0, [1e-13, 1.0], rtol=1e-3, atol=1e-5, dense=dense)
    assert stepper.advance(1e4) == Status.REACHED_END
    np.testing.assert_allclose(stepper.state, [1.0, 0.0], atol=1e-3)


@FORMS
def test_a_sudden_change_is_met_by_rejected_steps(compiled):
    """The integral of the ramp is log(1 + exp(200 (t - 5))) / 200."""
    stepper = Stiff(field(riccati, compiled, links=(ramp,)), 0.0, [1.0], rtol=1e-6, atol=1e-6)
    stepper.advance(6.0)
    np.testing.assert_allclose(stepper.state, 2.0, atol=1e-5)
    assert stepper.counts["rejected"] > 2


def test_runs_go_on_for_ever_with_exact_products():
    """At c = 1e10 the difference quotients' noise, 1e-7 of the curvature, drowns the identity in I + c H."""
    stepper = small_run(*small_net(), 1e-6)
    assert stepper.advance(1e12, max_gradients=60_000) == Status.REACHED_END
    assert stepper.counts["hessian_products"] > 0
    assert np.linalg.norm(stepper.velocity) < 1e-6 * np.linalg.norm(stepper.state)


def test_compiled_and_interpreted_runs_agree():
    a, b = (net_stepper(compiled, 1e-8) for compiled in (True, False))
    for stepper in (a, b):
        stepper.advance(8.0)
    np.testing.assert_allclose(a.state, b.state, rtol=1e-10)
    assert a.counts == b.counts


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_network_interpreted_agrees_with_itself_compiled(backend):
    problem, theta = small_net(20)
    other = gf.Problem(problem.network, problem.loss, problem.x, problem.y, backend=backend)
    ends = []
    for kernel in (problem.kernel, replace(other.kernel, compiled=False)):
        stepper = Stiff(Field((plain_velocity,), kernel), 0.0, theta, rtol=1e-6, atol=1e-8)
        stepper.advance(30.0)
        ends.append(stepper.state)
    assert distance(*ends) < 1e-7


def test_estimate_of_the_objective_is_third_order_in_the_last_change():
    problem, theta = small_net()
    stepper = small_run(problem, theta, 1e-3)
    for _ in range(100):
        stepper.advance(3e4, max_steps=1)
        exact, now = problem.value(stepper.state), stepper._now
        assert abs(now["guess"] - exact) <= 1e-3 * abs(now["last_value"] - exact) + 1e-12
