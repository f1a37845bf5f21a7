"""Exponential tails: losses down to 1e-100000 against closed forms, constants and conserved quantities."""

import numpy as np
import pytest
from clock_cases import (
    FLOW,
    LN10,
    deep_linear,
    diagonal_pair,
    diagonal_w,
    one_weight_per_layer,
    relu_squared_exponential,
    softmax_regression,
    tanh_logistic,
    three_classes,
)
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp
from scipy.optimize import brentq, minimize

import gradflow as gf
from gradflow.clocks.kinds import CLOCKS
from gradflow.clocks.moment import Base
from gradflow.clocks.solver import jacobian

NETS = {
    "deep linear": deep_linear,
    "squared relu, exponential": relu_squared_exponential,
    "tanh, logistic": tanh_logistic,
    "linear, cross-entropy": lambda: three_classes("linear"),
    "tanh, cross-entropy": lambda: three_classes("tanh"),
}


def down_to(log10, problem, theta0, clock="log_loss", dynamics=FLOW, **options):
    """A run that ends at a loss."""
    options = {"save_at": 2} | options
    return gf.simulate(problem, theta0, dynamics, stop=gf.LossBelow(log10=log10), clock=clock, **options)


@pytest.mark.parametrize("alpha", [1e-3, 1.0, 10.0])
@pytest.mark.parametrize("solver", ["auto", "dop853", "LSODA"])
def test_diagonal_net_on_one_sample_has_the_closed_form_at_1e_minus_10000(alpha, solver):
    problem, theta0 = diagonal_pair(alpha)
    z, fall = np.array([1.0, 0.3]), 1e4 * LN10
    run = down_to(-10000, problem, theta0, rtol=1e-10, atol=1e-14 * alpha, solver=solver)
    nu = brentq(
        lambda nu: 2 * alpha**2 * float(z @ np.sinh(4 * nu * z)) - fall,
        0.0,
        np.arcsinh(fall / alpha**2) / 3,
        xtol=1e-15,
    )
    assert_allclose(diagonal_w(problem, run.end), 2 * alpha**2 * np.sinh(4 * nu * z), rtol=1e-8)
    assert_allclose(run.log10_loss[-1], -10000.0, rtol=1e-12)
    layers = problem.layers(run.end)
    assert_allclose(layers["u"] * layers["v"], alpha**2, rtol=1e-7)
    assert run.drift["identity_error"].max() < 1e-6


@pytest.mark.parametrize("depth", [3, 4])
def test_diagonal_nets_of_any_depth_conserve_their_powers(depth):
    problem, theta0 = diagonal_pair(1.0, depth)
    run = down_to(-10000, problem, theta0, atol=1e-14, rtol=1e-10)
    layers = problem.layers(run.end)
    assert_allclose(layers["u"] ** (2 - depth) + layers["v"] ** (2 - depth), 2.0, rtol=1e-7)


def test_a_diagonal_net_of_depth_3_has_its_closed_form():
    """u_+-^-1 = 1/alpha -+ 3 nu z, and sum_j z_j w_j is the fall of the log of the loss."""
    alpha, z, fall = 0.1, np.array([1.0, 0.3]), 1e4 * LN10
    problem, theta0 = diagonal_pair(alpha, 3)
    run = down_to(-10000, problem, theta0, rtol=1e-10, atol=1e-14 * alpha)

    def w(rest):
        """From rest = 1 - 3 alpha nu, which is tiny at the end."""
        nu = (1.0 - rest) / (3.0 * alpha)
        u, v = alpha / np.array([rest, 1.0 - 3.0 * alpha * nu * z[1]]), alpha / (1.0 + 3.0 * alpha * nu * z)
        return u**3 - v**3

    log_rest = brentq(lambda log: float(z @ w(np.exp(log))) / fall - 1.0, -20.0, -1.0, xtol=1e-15)
    expected = w(np.exp(log_rest))
    assert_allclose(expected, [23025.8502, 0.00244604], rtol=1e-6)
    assert_allclose(diagonal_w(problem, run.end), expected, rtol=1e-8)


Z = np.array([[1.0, 0.9, 0.0], [1.0, -0.2, 0.8]])


def dual_w(alpha, falls):
    """w = 2 alpha^2 sinh(4 Z^T nu) with d nu/ds = p/|grad log L|^2, stepped by scipy in log(1 + s)."""

    def velocity(x, nu):
        margins = Z @ (2 * alpha**2 * np.sinh(4 * Z.T @ nu))
        p = np.exp(margins.min() - margins)
        p /= p.sum()
        return np.exp(x) * p / np.sum(8 * alpha**2 * np.cosh(4 * Z.T @ nu) * (Z.T @ p) ** 2)

    places, options = np.log1p(falls), {"method": "LSODA", "rtol": 1e-11, "atol": 1e-13}
    run = solve_ivp(velocity, (0.0, places[-1]), np.zeros(2), t_eval=places, **options)
    return 2 * alpha**2 * np.sinh(4 * run.y.T @ Z)


@pytest.mark.parametrize("alpha", [0.01, 1.0, 10.0, 100.0])
def test_start_scale_against_accuracy(alpha):
    """Primal and dual agree; at 1e-10000 the start 1 has the least l1 norm (1), the start 100 the least l2 norm."""
    problem = gf.Problem(gf.Diagonal(3, 2), gf.losses.Exponential("sum"), Z, [1.0, 1.0])
    places = np.array([-10.0, -100.0, -1000.0, -10000.0])
    save_at = gf.at(log10_loss=places[:-1])
    run = down_to(-10000, problem, np.full(6, alpha), rtol=1e-10, atol=1e-14 * alpha, save_at=save_at)
    w = np.array([diagonal_w(problem, theta) for theta in run.theta[1:]])
    assert_allclose(w, dual_w(alpha, np.log(2.0) - LN10 * places), rtol=1e-7)
    w = w[-1] / (Z @ w[-1]).min()
    excess = {"l1": np.abs(w).sum() - 1.0, "l2": np.linalg.norm(w) / np.sqrt(0.7811180544) - 1.0}
    if alpha <= 1.0:
        assert excess["l1"] < 0.0025
    if alpha == 100.0:
        assert excess["l1"] > 0.33
        assert excess["l2"] < 8e-4


def q_path(z, mu):
    """Minimiser of Q_mu under Z w >= 1, all samples active: w = 2 mu sinh(Z^T multiplier), by continuation in mu."""
    level = 100.0
    multiplier = np.linalg.solve(z @ z.T, np.ones(len(z))) / (2 * level)
    while True:
        level = max(level / 3.0, mu)
        for _ in range(100):
            slack = z @ (2 * level * np.sinh(z.T @ multiplier)) - 1
            step = np.linalg.solve(z * (2 * level * np.cosh(z.T @ multiplier)) @ z.T, -slack)
            multiplier = multiplier + step / max(1.0, 2.0 * np.abs(z.T @ step).max())
            if np.abs(slack).max() < 1e-12:
                break
        if level == mu:
            return 2 * mu * np.sinh(z.T @ multiplier)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0, 100.0])
def test_the_path_follows_the_q_regulariser_at_every_accuracy(alpha):
    problem = gf.Problem(gf.Diagonal(3, 2), gf.losses.Exponential("sum"), Z, [1.0, 1.0])
    places = [-10.0, -100.0, -1000.0, -10000.0]
    run = down_to(
        -10000, problem, np.full(6, alpha), rtol=1e-9, atol=1e-13 * alpha, save_at=gf.at(log10_loss=places[:-1])
    )
    for log10, theta in zip(places, run.theta[1:], strict=True):
        gamma = -log10 * LN10
        w, expected = diagonal_w(problem, theta) / gamma, q_path(Z, alpha**2 / gamma)
        assert 0.66 < gamma * np.linalg.norm(w - expected) / np.linalg.norm(expected) < 0.75


def test_the_sharp_rate_of_a_homogeneous_net():
    problem, theta0 = deep_linear()
    places = [-100.0, -1000.0, -10000.0, -100000.0]
    run = down_to(places[-1], problem, theta0, save_at=gf.at(log10_loss=places[:-1]))
    log_t = run.log10_t[1:] * LN10
    assert_allclose(run.log10_t[1:], [96.647047, 995.306715, 9993.972690, 99992.63929], rtol=0, atol=1e-5)
    constant = np.exp(run.log10_loss[1:] * LN10 + log_t + 4 / 3 * np.log(log_t))
    assert_allclose(constant, [0.59830, 0.61227, 0.61465, 0.61499], atol=6e-6)
    margins = [
        gf.measure.margin(problem, theta) / np.linalg.norm(gf.measure.effective_map(problem, theta))
        for theta in run.theta[1:]
    ]
    assert_allclose(margins, [0.3981406, 0.3989095, 0.3989888, 0.3989956], atol=2e-7)
    assert run.drift["identity_error"].max() < 1e-6
    assert run.drift["layer 1"].max() < 3e-7
    w = np.array([gf.measure.effective_map(problem, theta).ravel() for theta in run.theta[1:]])
    rows = problem.y * problem.x
    separating = minimize(
        lambda w: 0.5 * w @ w,
        w[-1] / gf.measure.margin(problem, run.end),
        jac=lambda w: w,
        constraints=[{"type": "ineq", "fun": lambda w: rows @ w - 1.0, "jac": lambda w: rows}],
        method="SLSQP",
        options={"ftol": 1e-16},
    ).x
    support = rows[rows @ separating - 1.0 < 1e-6]
    separating = support.T @ np.linalg.solve(support @ support.T, np.ones(len(support)))
    unit = w / np.linalg.norm(w, axis=1, keepdims=True) - separating / np.linalg.norm(separating)
    assert_allclose(0.5 * np.sum(unit**2, axis=1), [1.63e-4, 6.58e-6, 3.6e-9, 3.6e-11], rtol=0.02)


def hard_margin(problem):
    """Multi-class hard-margin solution by quadratic programming, polished on its active set."""
    own, rows = problem.y.argmax(1), []
    for x, label in zip(problem.x, own, strict=True):
        for other in set(range(3)) - {int(label)}:
            row = np.zeros((3, 4))
            row[label], row[other] = x, -x
            rows.append(row.ravel())
    rows = np.array(rows)
    constraint = {"type": "ineq", "fun": lambda w: rows @ w - 1.0, "jac": lambda w: rows}
    w = minimize(
        lambda w: 0.5 * w @ w,
        np.zeros(12),
        jac=lambda w: w,
        constraints=[constraint],
        method="SLSQP",
        options={"ftol": 1e-15},
    ).x
    active = rows[np.abs(rows @ w - 1.0) < 1e-6]
    return active.T @ np.linalg.lstsq(active @ active.T, np.ones(len(active)), rcond=None)[0]


def test_softmax_regression_turns_to_the_hard_margin_solution():
    problem, theta0 = softmax_regression()
    expected = hard_margin(problem)
    run = down_to(-10000, problem, theta0, save_at=gf.at(log10_loss=[-100.0, -1000.0]))
    cosines = run.theta[1:] @ expected / np.linalg.norm(run.theta[1:], axis=1) / np.linalg.norm(expected)
    assert_allclose(1.0 - cosines[:2], [7e-8, 7e-10], rtol=0.05)
    assert 1.0 - cosines[2] < 1e-11


@pytest.mark.parametrize(("log10", "log_t"), [(-1000, 2294.1505927), (-10000, 23015.1134534)])
@pytest.mark.parametrize("clock", ["log_loss", "loss", "auto", "arc"])
def test_time_of_two_weights_is_an_exponential_integral(log10, log_t, clock):
    run = down_to(log10, one_weight_per_layer(2, gf.losses.Exponential(), 1), [0.2, 0.2], clock)
    assert abs(run.log10_t[-1] * LN10 - log_t) < 1e-6


def test_time_of_one_logit_under_the_logistic_loss():
    problem = one_weight_per_layer(1, gf.losses.Logistic(), 1)
    run = down_to(-10000, problem, [0.0], save_at=gf.at(log10_loss=[-1.0]))
    w = run.theta[1:, 0]
    assert abs(run.log10_t[1] * LN10 - np.log(w[0] + np.exp(w[0]) - 1.0)) < 1e-5
    assert abs(run.log10_t[2] * LN10 - 23025.8509299) < 1e-6


def test_time_of_three_logits_under_cross_entropy():
    problem = gf.Problem(gf.DeepLinear([1, 3]), gf.losses.CrossEntropy(), [[1.0]], [0])
    run = down_to(-10000, problem, np.zeros(3), save_at=gf.at(log10_loss=[-1.0]))
    m = run.theta[1, 0] - run.theta[1, 1]
    assert abs(run.log10_t[1] * LN10 - np.log((np.exp(m) - 1.0 + 2.0 * m) / 3.0)) < 1e-5
    assert abs(run.log10_t[2] * LN10 - 23025.4454648) < 1e-6


def test_saves_at_times_from_1_to_1e9000_land_on_the_closed_form():
    problem = one_weight_per_layer(2, gf.losses.Exponential(), 1)
    places = [0.0, 3.0, 12.0, 50.0, 1000.0, 9000.0]
    run = gf.simulate(
        problem, [0.2, 0.2], FLOW, gf.at(log10_t=9000), clock="log_loss", save_at=gf.at(log10_t=places[:-1])
    )
    assert_allclose(run.log10_t[1:], places, rtol=1e-12, atol=1e-12)
    reached = gf.exact.two_layer_exponential_log_time(run.theta[1:].prod(1), 0.04) / LN10
    assert_allclose(reached, places, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("name", NETS)
def test_the_own_implicit_solver_agrees_with_others_and_with_physical_time(name):
    problem, theta0 = NETS[name]()
    run = down_to(-1000, problem, theta0)
    other = down_to(-1000, problem, theta0, solver="Radau")
    assert np.linalg.norm(run.end - other.end) < 2e-8 * np.linalg.norm(other.end)
    assert abs(run.log10_t[-1] - other.log10_t[-1]) < 1e-6
    assert max(run.drift["identity_error"].max(), other.drift["identity_error"].max()) < 1e-6
    early = gf.simulate(problem, theta0, FLOW, 30.0, save_at=2, rtol=1e-10)
    clocked = gf.simulate(problem, theta0, FLOW, gf.at(t=30.0), clock="log_loss", save_at=2)
    assert np.linalg.norm(early.end - clocked.end) < 1e-7 * np.linalg.norm(early.end)


MOST = {
    "deep linear": (1000, 1e-7, 1.4e-8),
    "squared relu, exponential": (3500, 3e-7, 2.5e-7),
    "tanh, cross-entropy": (5000, 1e-7, 1.4e-8),
}
"""Gradients and Hessian products together to 1e-1000, the tolerance, and the error at the end that it must keep."""


@pytest.mark.parametrize("name", MOST)
def test_few_gradients_reach_1e_minus_1000_and_few_more_1e_minus_10000(name):
    problem, theta0 = NETS[name]()
    most, rtol, error = MOST[name]
    tight = down_to(-1000, problem, theta0, solver="Radau", rtol=1e-10)
    rounded = [theta0 * (1.0 + k * 1e-15) for k in range(4)]
    runs = [down_to(-1000, problem, start, rtol=rtol) for start in rounded]
    for run in runs:
        assert np.linalg.norm(run.end - tight.end) < error * np.linalg.norm(tight.end)
        assert abs(run.log10_t[-1] - tight.log10_t[-1]) < 1e-8
    longer = down_to(-10000, problem, theta0, rtol=rtol)
    for one, bound in (*((run, most) for run in runs), (longer, 1.5 * most)):
        assert one.counts["gradients"] + one.counts["hessian_products"] < bound
        assert one.drift["identity_error"].max() < 1e-6


@pytest.mark.parametrize("name", ["log_time", "loss", "log_loss", "arc", "relative"])
@pytest.mark.parametrize("case", [deep_linear, lambda: three_classes("tanh")], ids=["deep linear", "tanh"])
def test_the_jacobian_of_every_clock_agrees_with_differences(name, case):
    problem, theta0 = case()
    clock, base = CLOCKS[name](), Base(problem, FLOW)
    field, tau = base.clocked(clock), 0.3
    columns, step = [], 1e-5
    for direction in np.eye(problem.size):
        ahead, behind = np.empty((2, problem.size))
        field(tau, theta0 + step * direction, ahead)
        field(tau, theta0 - step * direction, behind)
        columns.append((ahead - behind) / (2 * step))
    expected = np.array(columns).T
    assert_allclose(jacobian(base, clock)(tau, theta0), expected, rtol=0, atol=1e-7 * np.abs(expected).max())


def test_the_clock_does_not_change_the_path_nor_the_number_of_explicit_steps():
    problem, theta0 = deep_linear()
    runs = [
        down_to(-1000, problem, theta0, clock, solver="dop853") for clock in ("loss", "log_loss", "arc", "relative")
    ]
    for run in runs[1:]:
        assert abs(run.counts["accepted"] / runs[0].counts["accepted"] - 1.0) < 0.03
        assert np.linalg.norm(run.end - runs[0].end) < 1e-6 * np.linalg.norm(runs[0].end)
        assert abs(run.log10_t[-1] - runs[0].log10_t[-1]) < 1e-6


def test_the_direction_aligns_with_the_gradient_and_the_margin_rises():
    problem, theta0 = three_classes("linear")
    run = down_to(-10000, problem, theta0, save_at=gf.at(log10_loss=[-100.0, -1000.0]))
    alignment, margins = [], []
    for theta in run.theta[1:]:
        gradient = problem.log_value_and_gradient(theta)[1]
        alignment.append(1.0 + theta @ gradient / np.linalg.norm(theta) / np.linalg.norm(gradient))
        margins.append(gf.measure.normalised_margin(problem, theta, by="theta"))
    assert_allclose(alignment, [3.5e-4, 1.3e-4, 6.2e-5], rtol=0.05)
    assert np.all(np.diff(margins) > 0)


@pytest.mark.parametrize(
    "dynamics",
    [gf.PolarFlow(), gf.LMFlow(), gf.WeightNormFlow(), gf.GradientFlow({"W1": 0.3})],
    ids=lambda dynamics: type(dynamics).__name__,
)
def test_other_flows_take_the_same_clocks(dynamics):
    problem, theta0 = deep_linear()
    slow = gf.simulate(problem, theta0, dynamics, stop=gf.LossBelow(1e-3), save_at=2, rtol=1e-9)
    clocked = down_to(-3, problem, theta0, dynamics=dynamics)
    assert np.linalg.norm(slow.end - clocked.end) < 2e-6 * np.linalg.norm(slow.end)
    assert abs(slow.log10_t[-1] - clocked.log10_t[-1]) < 1e-6
    assert down_to(-100, problem, theta0, dynamics=dynamics).status == gf.Status.LOSS_BELOW


def test_polar_coordinates_with_plain_rates_reach_the_same_time():
    problem, theta0 = deep_linear()
    run = down_to(-1000, problem, theta0, "auto", gf.PolarFlow(angular_rate=gf.PowerRate(1.0, -2.0)))
    assert abs(run.log10_t[-1] - 995.306715) < 1e-5
