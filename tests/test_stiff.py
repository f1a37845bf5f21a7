"""Stiff stepping, against closed forms, matrix exponentials, the explicit stepper, CVODE, and itself.

The net is f(x) = w1 w2 x with one sample x = y = 1 and F = (1 - w1 w2)^2 / 2; from w1 = w2 the product s = w1 w2
solves s' = 2 s (1 - s).
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import expm

import gradflow as gf
from gradflow.dynamics.flow import plain_velocity
from gradflow.kernels.calls import call
from gradflow.kernels.kernel import Kernel
from gradflow.status import Status
from gradflow.steppers.choose import make_field
from gradflow.steppers.explicit import Explicit
from gradflow.steppers.field import Field
from gradflow.steppers.stiff import Stiff

START = [0.1, 0.1]
FORMS = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "interpreted"])
DENSE = pytest.mark.parametrize("dense", [True, None, False], ids=["dense", "auto", "matrix-free"])


def product_net(theta, out, numbers, layout, work):
    residual = 1.0 - theta[0] * theta[1]
    out[0] = -residual * theta[1]
    out[1] = -residual * theta[0]
    return 0.5 * residual * residual


def quadratic(theta, out, numbers, layout, work):
    """F = theta^T A theta / 2; not a number outside the cube of size layout[0], if that is positive."""
    matrix = numbers.reshape(theta.size, theta.size)
    value = 0.0
    for i in range(theta.size):
        out[i] = np.dot(matrix[i], theta)
        value += 0.5 * theta[i] * out[i]
        if layout[0] > 0 and abs(theta[i]) > layout[0]:
            value = math.nan
    return value


def riccati(theta, out, numbers, layout, work):
    """F = theta^3 / 3 - theta: the flow theta' = 1 - theta^2."""
    out[0] = theta[0] ** 2 - 1.0
    return theta[0] ** 3 / 3.0 - theta[0]


def double_well(theta, out, numbers, layout, work):
    """F = (theta_0^2 - 1)^2 / 4 + 500 theta_1^2: a saddle at 0, a narrow valley through it."""
    out[0] = theta[0] ** 3 - theta[0]
    out[1] = 1000.0 * theta[1]
    return 0.25 * (theta[0] ** 2 - 1.0) ** 2 + 500.0 * theta[1] ** 2


def flow(t, state, out, chain, numbers, layout, work, coefficients):
    value = call(chain[0], state, out, numbers, layout, work)
    out[:] = -out
    return value


def ascent(t, state, out, chain, numbers, layout, work, coefficients):
    """theta' = theta^2 for a bowl of curvature 1."""
    value = call(chain[0], state, out, numbers, layout, work)
    out[:] = out * out
    return value


def log_time(s, state, out, chain, numbers, layout, work, coefficients):
    """Clock s = log(1 + t)."""
    value = call(chain[0], math.exp(s) - 1.0, state, out, chain[1:], numbers, layout, work, coefficients)
    out *= math.exp(s)
    return value


def field(gradient, compiled=True, numbers=(0.0,), links=(flow,), cube=0):
    layout = np.array([cube], dtype=np.int64)
    numbers = np.array(numbers, dtype=np.float64).ravel()
    return Field(links, Kernel("test", gradient, None, numbers, layout, 1, compiled=compiled, flops=100.0))


def logistic(t, s0=0.01):
    return 1.0 / (1.0 + (1.0 / s0 - 1.0) * np.exp(-2.0 * np.asarray(t)))


def net_stepper(compiled=True, tol=1e-6, **options):
    return Stiff(field(product_net, compiled), 0.0, START, rtol=tol, atol=tol, **options)


def rotated(eigenvalues, seed=0):
    """Symmetric matrix with given eigenvalues."""
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(eigenvalues),) * 2))[0]
    return q * eigenvalues @ q.T


def small_net(n=200):
    """A 3-8-1 tanh network on noisy data of a teacher, P = 41: the curvature falls from 4 to 1e-5."""
    rng = np.random.default_rng(8)
    x = rng.standard_normal((n, 3))
    hidden = np.tanh(x @ (1.5 * rng.standard_normal((4, 3)) / math.sqrt(3)).T)
    y = hidden @ (0.75 * rng.standard_normal((1, 4))).T + 0.1 * rng.standard_normal((n, 1))
    problem = gf.Problem(gf.FullyConnected([3, 8, 1], "tanh", bias=True), gf.losses.Square(half=True), x, y)
    return problem, problem.init(seed=9)


def small_run(problem, theta, tol, **options):
    chain = make_field(problem, gf.GradientFlow(), problem.kernel)
    return Stiff(chain, 0.0, theta, rtol=tol, atol=1e-2 * tol, **options)


def distance(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def bits(stepper):
    """All that must agree bit for bit between two runs that end at the same time."""
    return stepper.t, *stepper.state, *stepper.velocity, stepper.value


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


def test_a_dense_matrix_saves_products_and_keeps_the_result_within_tolerance():
    problem, theta = small_net()
    runs = {dense: small_run(problem, theta, 1e-6, dense=dense) for dense in (True, None, False)}
    for stepper in runs.values():
        assert stepper.advance(3e4) == Status.REACHED_END
    for dense in (True, None):
        assert distance(runs[dense].state, runs[False].state) < 1e-6
        assert runs[dense].counts["gradients"] < 0.8 * runs[False].counts["gradients"]


def test_fewer_gradients_and_less_error_than_cvode():
    cvode = pytest.importorskip("sksundae.cvode")
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


def test_negative_curvature_cuts_a_step_that_would_jump_over_the_saddle():
    """On the saddle's ridge nothing but the tolerance limits the step, until the way out begins to grow."""
    stepper = Stiff(field(double_well), 0.0, [1e-5, 1.0], rtol=1e-3, atol=1e-5)
    assert stepper.advance(100.0) == Status.REACHED_END
    np.testing.assert_allclose(stepper.state, [1.0, 0.0], atol=1e-3)


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


@FORMS
def test_saving_changes_no_bits(compiled):
    plain, saving = (net_stepper(compiled) for _ in range(2))
    times = np.sort(np.random.default_rng(0).uniform(0.0, 8.0, 500))
    saved = np.full((times.size, 2), np.nan)
    plain.advance(8.0)
    saving.advance(8.0, save_at=times, saved=saved)
    assert bits(plain) == bits(saving)
    assert plain.counts == saving.counts
    assert np.isfinite(saved).all()


@FORMS
def test_pausing_changes_no_bits_and_dense_gives_what_is_saved(compiled):
    whole, paused, stopped = (net_stepper(compiled) for _ in range(3))
    times = np.linspace(0.0, 8.0, 101)
    saved, again, dense = (np.full((times.size, 2), np.nan) for _ in range(3))
    whole.advance(8.0, save_at=times, saved=saved)
    status, steps = Status.PAUSED, 0
    dense[0] = paused.dense(0.0)
    while status == Status.PAUSED:
        status = paused.advance(8.0, save_at=times, saved=again, max_steps=1)
        inside = (times > paused.t_before) & (times <= paused.t)
        if inside.any():
            dense[inside] = paused.dense(times[inside])
        np.testing.assert_array_equal(paused.dense([paused.t_before, paused.t]), [paused.state_before, paused.state])
        steps += 1
    assert (status, steps) == (Status.REACHED_END, paused.counts["accepted"])
    assert bits(whole) == bits(paused)
    assert whole.counts == paused.counts
    np.testing.assert_array_equal(saved, again)
    np.testing.assert_array_equal(saved, dense)
    for t_end in np.linspace(0.5, 8.0, 16):
        assert stopped.advance(t_end) == Status.REACHED_END
        assert stopped.t == t_end
    assert bits(whole) == bits(stopped)


@FORMS
def test_snapshot_extends_bit_for_bit(compiled):
    whole, first, second = (net_stepper(compiled, 1e-8, dense=False) for _ in range(3))
    whole.advance(8.0)
    first.advance(3.0)
    snapshot = first.snapshot()
    assert snapshot["t"] == 3.0
    np.testing.assert_array_equal(snapshot["state"], first.state)
    assert all(isinstance(value, (float, int, np.ndarray)) for value in snapshot.values())
    first.advance(5.0)
    second.restore(snapshot)
    assert second.t == second.t_before == 3.0
    second.advance(8.0)
    assert bits(whole) == bits(second)
    with pytest.raises(ValueError, match="shape"):
        Stiff(field(riccati), 0.0, [0.0]).restore(snapshot)


@FORMS
@DENSE
def test_budget_is_never_exceeded_and_changes_no_bits(compiled, dense):
    matrix, start = rotated(np.logspace(-2, 2, 12)), np.ones(12)
    whole, sliced = (
        Stiff(field(quadratic, compiled, matrix), 0.0, start, rtol=1e-6, atol=1e-8, dense=dense) for _ in range(2)
    )
    whole.advance(50.0)
    assert sliced.advance(50.0, max_gradients=1) == Status.GRADIENT_BUDGET
    assert sliced.counts == {"gradients": 1, "hessian_products": 0, "accepted": 0, "rejected": 0}
    status, slice_size = Status.GRADIENT_BUDGET, 37
    while status == Status.GRADIENT_BUDGET:
        budget = sliced.counts["gradients"] + slice_size
        status = sliced.advance(50.0, max_gradients=budget)
        assert sliced.counts["gradients"] == budget or status == Status.REACHED_END
        assert sliced.counts["gradients"] <= budget
        assert np.isfinite(sliced.state).all()
    assert bits(sliced) == bits(whole)


def test_every_call_of_the_gradient_is_counted():
    calls = 0

    def counted(theta, out, numbers, layout, work):
        nonlocal calls
        calls += 1
        return product_net(theta, out, numbers, layout, work)

    stepper = Stiff(field(counted, compiled=False), 0.0, START, rtol=1e-6, atol=1e-8)
    stepper.advance(4.0, loss_below=1e-9)
    assert stepper.counts["gradients"] == calls
    assert stepper.value > 0.0
    assert stepper.counts["gradients"] == calls


@FORMS
@pytest.mark.parametrize("links", [(flow,), (log_time, flow)], ids=["plain", "clock"])
def test_loss_below_stops_at_the_first_such_step(compiled, links):
    def stepper():
        return Stiff(field(product_net, compiled, links=links), 0.0, START, rtol=1e-6, atol=1e-8)

    stopped, free = stepper(), stepper()
    assert stopped.advance(40.0, loss_below=1e-6) == Status.LOSS_BELOW
    assert stopped.value < 1e-6
    assert 0.5 * (1.0 - stopped.state_before.prod()) ** 2 >= 1e-6
    while free.t < stopped.t:
        free.advance(40.0, max_steps=1)
    assert bits(free) == bits(stopped)
    if len(links) == 1:
        assert stopped.counts["gradients"] <= free.counts["gradients"] + 3
    assert stopped.advance(40.0, loss_below=1e-6) == Status.LOSS_BELOW
    assert stepper().advance(40.0, loss_below=1.0) == Status.LOSS_BELOW


@FORMS
def test_a_loss_that_falls_only_after_t_end_does_not_count(compiled):
    free, stopped = net_stepper(compiled), net_stepper(compiled)
    free.advance(8.0)
    level = free.value * (1.0 - 1e-6)
    assert stopped.advance(8.0, loss_below=level) == Status.REACHED_END
    assert stopped.advance(9.0, loss_below=level) == Status.LOSS_BELOW


@FORMS
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_start_that_is_not_finite_ends_at_once(compiled, bad):
    stepper = Stiff(field(product_net, compiled), 0.0, [bad, 1.0], rtol=1e-6, atol=1e-8)
    assert stepper.advance(1.0) == Status.NOT_FINITE_START
    assert stepper.counts["gradients"] == 1


@FORMS
def test_a_wall_ends_as_diverged_before_it(compiled):
    """theta' = theta from 1, and no number beyond 2."""
    stepper = Stiff(field(quadratic, compiled, [[-1.0]], cube=2), 0.0, [1.0], rtol=1e-6, atol=1e-8)
    assert stepper.advance(10.0, max_gradients=1000) == Status.DIVERGED
    assert 2.0 - 1e-8 < stepper.state[0] <= 2.0


@FORMS
def test_blow_up_in_finite_time_ends_by_a_collapse_of_the_step(compiled):
    """theta' = theta^2 from 1 is 1/(1 - t)."""
    stepper = Stiff(field(quadratic, compiled, [[1.0]], links=(ascent,)), 0.0, [1.0], rtol=1e-6, atol=1e-8)
    assert stepper.advance(2.0) in (Status.STEP_TOO_SMALL, Status.DIVERGED)
    assert abs(stepper.t - 1.0) < 1e-5
    assert np.isfinite(stepper.state).all()


def test_an_entry_of_large_tolerance_does_not_steer_the_step():
    matrix = np.diag([1.0, 1e5])
    free = Stiff(field(quadratic, True, matrix), 0.0, [1.0, 1.0], rtol=1e-8, atol=[1e-8, 1e30])
    steered = Stiff(field(quadratic, True, matrix), 0.0, [1.0, 1.0], rtol=1e-8, atol=1e-8)
    for stepper in (free, steered):
        stepper.advance(3.0)
        np.testing.assert_allclose(stepper.state[0], math.exp(-3.0), rtol=1e-7)
    assert free.counts["accepted"] < 0.7 * steered.counts["accepted"]


def test_a_stationary_start_stays():
    stepper = Stiff(field(double_well), 0.0, [0.0, 0.0], rtol=1e-6, atol=1e-8)
    assert stepper.advance(1e6) == Status.REACHED_END
    np.testing.assert_array_equal(stepper.state, [0.0, 0.0])
    assert stepper.counts["gradients"] < 100


def test_runs_on_two_threads_keep_their_bits():
    def run(scale):
        stepper = Stiff(field(product_net), 0.0, [scale, 0.5 * scale], rtol=1e-8, atol=1e-8)
        stepper.advance(20.0)
        return bits(stepper)

    scales = np.linspace(0.05, 1.5, 20)
    with ThreadPoolExecutor(2) as pool:
        threaded = list(pool.map(run, scales))
    assert threaded == [run(scale) for scale in scales]


def test_wrong_arguments_are_refused():
    chain = field(product_net)
    with pytest.raises(ValueError, match="flat vector"):
        Stiff(chain, 0.0, [[1.0]])
    with pytest.raises(ValueError, match="tolerances"):
        Stiff(chain, 0.0, START, rtol=0.0, atol=0.0)
    with pytest.raises(ValueError, match="atol has shape"):
        Stiff(chain, 0.0, START, atol=[1e-8] * 3)
    stepper = net_stepper()
    stepper.advance(1.0)
    with pytest.raises(ValueError, match="before t"):
        stepper.advance(0.5)
    with pytest.raises(ValueError, match="dense output is known"):
        stepper.dense(0.0)
    with pytest.raises(ValueError, match="saved"):
        stepper.advance(2.0, save_at=np.zeros(3), saved=np.zeros((2, 2)))
