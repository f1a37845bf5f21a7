"""Polar flow of diagonal networks against the closed forms of Chou, Rauhut, Ward, arXiv 2305.05448."""

import numpy as np
import pytest

import gradflow as gf

ALPHAS = (1e-3, 1e-2, 3e-2, 0.1, 0.2, 0.22, 0.3)
ETAS = (1.0, 3.0, 10.0, 30.0)
MEASURED = {  # relative error of the limit against the sparse truth: alpha -> (plain, eta = 1, 3, 10, 30)
    1e-3: (3.50e-5, 0.158, 2.66e-2, 7.04e-5, 5.1e-10),
    1e-2: (1.80e-3, 0.159, 2.67e-2, 7.16e-5, 5.2e-10),
    3e-2: (1.20e-2, 0.161, 2.78e-2, 8.21e-5, 5.5e-10),
    0.1: (9.66e-2, 0.186, 4.25e-2, 3.87e-4, 9.9e-10),
    0.2: (0.316, 0.292, 0.142, 3.95e-2, 1.99e-3),
    0.22: (0.371, 0.329, 0.186, 8.59e-2, 3.50e-2),
    0.3: (0.616, 0.545, 0.468, 0.427, 0.412),
}


def recipe(depth=2):
    rng = np.random.default_rng(1)
    A = rng.standard_normal((10, 20)) / np.sqrt(10)
    truth = np.zeros(20)
    truth[rng.choice(20, 2, replace=False)] = 0.5
    loss = gf.losses.Square("sum", half=True)
    return gf.Problem(gf.Diagonal(20, depth, signed=False), loss, A, A @ truth), truth


def limit(alpha, eta, depth=2, **options):
    problem, truth = recipe(depth)
    flow = gf.GradientFlow() if eta is None else gf.PolarFlow(angular_rate=eta)
    options = {"solver": "LSODA", "rtol": 1e-10, "atol": 1e-12} | options
    run = gf.simulate(
        problem, np.full(20, alpha), flow, stop=gf.LossBelow(1e-20), max_gradients=400_000, save_at=50, **options
    )
    assert run.status == gf.Status.LOSS_BELOW
    return run, run.end**depth, truth


@pytest.mark.parametrize(
    ("alpha", "eta"),
    [(1e-2, 1.0), (0.1, 3.0), (0.3, 3.0), (0.1, 10.0)]
    + [pytest.param(a, e, marks=pytest.mark.slow) for a in ALPHAS for e in ETAS],
)
def test_limit_is_the_dual_one_and_the_measured_one(alpha, eta):
    run, x, truth = limit(alpha, eta)
    dual = gf.exact.polar_diagonal_limit(run.problem.x, run.problem.y[:, 0], np.full(20, alpha), eta)
    assert np.abs(x - dual).max() < 1e-7
    error = np.linalg.norm(x - truth) / np.linalg.norm(truth)
    expected = MEASURED[alpha][1 + ETAS.index(eta)]
    if expected > 1e-8:
        assert error == pytest.approx(expected, rel=5e-3)
    else:
        assert error < 1e-8


def test_kernel_invariant_of_depth_two_is_kept_and_needs_its_rate():
    run, _, _ = limit(0.1, 3.0)
    assert run.drift["kernel"].max() < 1e-6
    wrong = gf.PolarFlow(angular_rate=2.0, log_directions=True)
    assert wrong.invariants(run.problem)["kernel"].drift(run.t, run.states).max() > 1e-2


def test_kernel_invariant_of_depth_three_is_kept():
    problem, _ = recipe(depth=3)
    for solver, rtol in (("dop853", 1e-11), ("LSODA", 1e-11)):
        run = gf.simulate(
            problem, np.full(20, 0.1), gf.PolarFlow(angular_rate=3.0), t_end=60.0, solver=solver, rtol=rtol
        )
        assert run.drift["kernel"].max() < 1e-8


def test_rate_r_squared_is_the_plain_flow_at_its_own_time():
    problem, _ = recipe()
    theta0 = np.full(20, 0.1)
    options = {"solver": "dop853", "rtol": 1e-12}
    flow = gf.PolarFlow(radial_rate=gf.PowerRate(1.0, 2.0), angular_rate=1.0)
    fast = gf.simulate(problem, theta0, flow, t_end=40.0, save_at=40_001, **options)
    squared = fast.records["radius"][:, 0] ** 2
    h = fast.t[1]
    elapsed = h / 3 * (squared[0] + squared[-1] + 4 * squared[1:-1:2].sum() + 2 * squared[2:-1:2].sum())
    assert elapsed == pytest.approx(42.8178, abs=1e-4)
    plain = gf.simulate(problem, theta0, gf.GradientFlow(), t_end=float(elapsed), **options)
    assert np.abs(fast.end - plain.end).max() < 1e-8


@pytest.mark.slow
def test_polar_flow_is_robust_to_the_scale_where_the_plain_flow_is_not():
    def error(alpha, eta):
        _, x, truth = limit(alpha, eta)
        return np.linalg.norm(x - truth) / np.linalg.norm(truth)

    scales = (1e-3, 1e-2, 3e-2)
    polar, plain = [error(a, 10.0) for a in scales], [error(a, None) for a in scales]
    assert max(polar) / min(polar) < 1.3
    assert max(plain) / min(plain) > 100
    assert error(0.1, None) / error(0.1, 10.0) > 100


def test_sparsity_breaks_down_when_the_start_is_larger_than_the_solution():
    for eta in (1.0, 3.0, 10.0):
        _, x, truth = limit(0.3, eta)
        assert np.linalg.norm(x - truth) / np.linalg.norm(truth) > 0.3


def test_discrete_polar_descent_is_of_first_order():
    problem, _ = recipe()
    theta0, flow = np.full(20, 0.1), gf.PolarFlow(angular_rate=3.0)
    exact = gf.simulate(problem, theta0, flow, t_end=4.0, rtol=1e-12, solver="dop853").end ** 2
    errors = []
    for step in (0.04, 0.02, 0.01, 0.005):
        end = gf.simulate(problem, theta0, gf.GD(step, flow=flow), t_end=4.0).end ** 2
        errors.append(np.linalg.norm(end - exact))
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    assert ((ratios > 1.9) & (ratios < 2.1)).all()
