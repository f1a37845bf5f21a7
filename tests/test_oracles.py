"""Every solver against every closed form."""

import numpy as np
import oracles
import pytest

import gradflow as gf

TIGHT = [
    "dop853",
    "rk45",
    "auto",
    "adams",
    "stabilised",
    "stiff",
    "LSODA",
    "Radau",
    "BDF",
    "torchdiffeq:dopri5",
    "torchdiffeq:dopri8",
]
LOOSE = ["torchdiffeq:bosh3", "torchdiffeq:fehlberg2", "torchdiffeq:adaptive_heun"]
SLOW = {"Radau", "BDF", "torchdiffeq:dopri5", "stiff"}
BOUND = {
    "BDF": 1e-7,
    "LSODA": 1e-7,
    "stiff": 1e-8,
    "stabilised": 1e-8,
    "torchdiffeq:dopri5": 2e-8,
    "torchdiffeq:dopri8": 2e-8,
}
FEW = ("C1 balanced mode", "C4 zero-balanced 3-2-2", "C9 logistic")


def grid(oracle):
    return oracle.t if oracle.t[0] == 0 else np.concatenate([[0.0], oracle.t])


def run(oracle, solver, **options):
    times = grid(oracle)
    trajectory = gf.simulate(
        oracle.problem, oracle.theta0, gf.GradientFlow(), t_end=times[-1], save_at=times, solver=solver, **options
    )
    assert trajectory.status == gf.Status.REACHED_END
    return oracle.error(trajectory.theta[-oracle.t.size :])


@pytest.mark.parametrize("name", oracles.ORACLES)
@pytest.mark.parametrize("solver", [s for s in TIGHT if s not in SLOW])
def test_solver_meets_the_closed_form(solver, name):
    assert run(oracles.ORACLES[name](), solver, rtol=1e-11) < BOUND.get(solver, 1e-9)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FEW else pytest.mark.slow) for n in oracles.ORACLES])
@pytest.mark.parametrize("solver", sorted(SLOW))
def test_costly_solver_meets_the_closed_form(solver, name):
    assert run(oracles.ORACLES[name](), solver, rtol=1e-11) < BOUND.get(solver, 1e-9)


@pytest.mark.parametrize("solver", LOOSE)
def test_method_of_low_order_meets_the_closed_form(solver):
    assert run(oracles.unbalanced_mode(), solver, rtol=1e-8) < 1e-5


@pytest.mark.parametrize(
    ("method", "order"), [("euler", 1), ("heun", 2), ("rk4", 4), ("torchdiffeq:rk4", 4), ("torchdiffeq:midpoint", 2)]
)
def test_fixed_step_methods_converge_with_their_order(method, order):
    oracle = oracles.balanced_mode()
    steps = [0.05, 0.025, 0.0125] if order < 4 else [0.1, 0.05, 0.025]
    errors = [run(oracle, gf.FixedStep(method, step=h)) for h in steps]
    slopes = np.diff(np.log(errors)) / np.diff(np.log(steps))
    assert abs(slopes[-1] - order) < 0.1 if order < 4 else abs(slopes[-1] - order) < 0.25


def test_implicit_adams_meets_the_closed_form():
    assert run(oracles.unbalanced_mode(), gf.FixedStep("torchdiffeq:implicit_adams", step=0.01)) < 1e-5


def test_time_on_the_plateau_of_a_chain_of_four():
    problem = oracles.scalar(4, 2.0)
    reached = gf.Event("one", lambda problem, t, theta: theta[0] - 1.0, terminal=True)
    trajectory = gf.simulate(problem, np.full(4, 0.05), gf.GradientFlow(), t_end=200.0, events=reached, rtol=1e-12)
    assert trajectory.status == gf.Status.EVENT
    assert trajectory.t_end == pytest.approx(99.9054938097095, rel=1e-9)
    assert gf.exact.chain_time(0.05, 1.0, 2.0, 4) == pytest.approx(99.9054938097095, rel=1e-12)


def test_a_loss_without_its_half_runs_twice_as_fast():
    theta0 = np.full(2, 0.1)
    options = {"rtol": 1e-12, "solver": "dop853"}
    whole = gf.simulate(oracles.scalar(2, 2.0, gf.losses.Square()), theta0, gf.GradientFlow(), t_end=1.0, **options)
    half = gf.simulate(oracles.scalar(2, 2.0), theta0, gf.GradientFlow(), t_end=2.0, **options)
    assert np.abs(whole.end - half.end).max() < 1e-10


def test_drift_of_gradient_descent_is_of_first_order_and_the_flow_has_none():
    oracle = oracles.zero_balanced(4, 5, 3)
    flow = gf.simulate(oracle.problem, oracle.theta0, gf.GradientFlow(), t_end=3.0, rtol=1e-10)
    assert flow.max_drift < 100 * 1e-10
    drifts = [gf.simulate(oracle.problem, oracle.theta0, gf.GD(h), t_end=3.0).max_drift for h in (0.004, 0.002)]
    assert 1.9 < drifts[0] / drifts[1] < 2.1


def test_one_euler_step_changes_the_invariant_by_its_formula():
    oracle, h = oracles.zero_balanced(4, 5, 3), 0.01
    problem, theta = oracle.problem, oracle.theta0
    G = problem.layers(problem.gradient(theta))
    step = gf.simulate(problem, theta, gf.GD(h), t_end=h).end
    change = gf.measure.balancedness(problem, step)["layer 1"] - gf.measure.balancedness(problem, theta)["layer 1"]
    assert np.abs(change - h**2 * (G["W2"].T @ G["W2"] - G["W1"] @ G["W1"].T)).max() < 1e-14


@pytest.mark.parametrize("rtol", [1e-6, 1e-8, 1e-10, 1e-12])
def test_the_error_follows_the_tolerance(rtol):
    for name in ("C1 balanced mode", "C3 unbalanced mode", "C6 chain of 3", "C8 diagonal scalar"):
        assert run(oracles.ORACLES[name](), "dop853", rtol=rtol) < 10 * rtol


def test_diagonal_weights_follow_the_integral_of_the_residual():
    rng = np.random.default_rng(0)
    x, y, alpha = rng.standard_normal((3, 5)), rng.standard_normal(3), 0.3
    problem = gf.Problem(gf.Diagonal(5), oracles.HALF_SUM, x, y)
    run = gf.simulate(
        problem, np.full(10, alpha), gf.GradientFlow(), t_end=2.0, save_at=4001, rtol=1e-12, solver="dop853"
    )
    w = run.theta[:, :5] ** 2 - run.theta[:, 5:] ** 2
    residual, h = w @ x.T - y, run.t[1]
    integral = h / 3 * (residual[0] + residual[-1] + 4 * residual[1:-1:2].sum(0) + 2 * residual[2:-1:2].sum(0))
    assert np.abs(w[-1] - gf.exact.diagonal_from_residual(integral, x, alpha)).max() < 1e-9
    assert run.max_drift < 1e-10
