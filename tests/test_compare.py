"""A flow beside discrete runs: certificates on balanced deep linear networks, closed forms of quadratics, orders.

Numbers of the two recipes are those of Elkabetz and Cohen's setting (arXiv 2107.06608), measured independently.
"""

import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import cumulative_trapezoid, solve_ivp

import gradflow as gf
from gradflow import euler_error
from gradflow.compare import Comparison, compare

HORIZON = {2: 8.0, 3: 14.0}
STEPS = (0.05, 0.025, 0.0125, 0.00625)


def target():
    vector = np.random.default_rng(0).normal(size=6)
    return vector / np.linalg.norm(vector)


@cache
def balanced(depth):
    """Whitened square loss |w - target|^2 / 2 of a balanced deep linear network, end-to-end norm 0.05."""
    network = gf.DeepLinear([6] + [4] * (depth - 1) + [1])
    problem = gf.Problem(network, gf.losses.Square(half=True, reduction="sum"), np.eye(6), target()[:, None])
    return problem, problem.init(scale=0.05, seed=1, scheme="balanced")


@cache
def flow_of(depth, save_at=21):
    problem, start = balanced(depth)
    return gf.simulate(
        problem, start, gf.GradientFlow(), HORIZON[depth], rtol=1e-12, atol=1e-14, solver="dop853", save_at=save_at
    )


def descent(depth, step, save_at=21):
    problem, start = balanced(depth)
    return gf.simulate(problem, start, gf.GD(step=step), HORIZON[depth], save_at=save_at)


@cache
def comparison_of(depth):
    return compare(flow_of(depth), [descent(depth, step) for step in STEPS])


def _norms(rows):
    return np.linalg.norm(rows, axis=1)


def strength_and_cosine(flow):
    maps = gf.measure.effective_map(flow.problem, flow.theta)[:, 0]
    strength = np.linalg.norm(maps, axis=1)
    return strength, maps @ target() / strength


# The balanced start and its flow.


@pytest.mark.parametrize("depth", [2, 3])
def test_balanced_start_is_built_from_unit_vectors(depth):
    problem, start = balanced(depth)
    rng = np.random.default_rng(1)
    units = [v / np.linalg.norm(v) for v in (rng.normal(size=size) for size in [6] + [4] * (depth - 1))]
    units.append(np.ones(1))
    layers = problem.layers(start)
    for l in range(depth):
        assert_allclose(layers[f"W{l + 1}"], 0.05 ** (1 / depth) * np.outer(units[l + 1], units[l]), rtol=1e-14)
    assert_allclose(units[0] @ target(), -0.17655, atol=5e-6)


def test_depth_two_closed_form():
    strength, cosine = strength_and_cosine(flow_of(2, 81))
    t, tau = flow_of(2, 81).t, np.arctanh(cosine[0])
    expected = np.cosh(t + tau) ** 2 / (
        np.cosh(tau) ** 2 / 0.05 + t + 0.5 * (np.sinh(2 * (t + tau)) - np.sinh(2 * tau))
    )
    assert_allclose(cosine, np.tanh(t + tau), rtol=0, atol=1e-12)
    assert_allclose(strength, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("depth", [2, 3])
def test_reduced_flow_of_strength_and_cosine(depth):
    flow = flow_of(depth)

    def velocity(_, state):
        r, c = state
        return depth * r ** (2 - 2 / depth) * (c - r), r ** (1 - 2 / depth) * (1 - c * c)

    start = [values[0] for values in strength_and_cosine(flow)]
    reduced = solve_ivp(velocity, (0, flow.t_end), start, "DOP853", t_eval=flow.t, rtol=1e-13, atol=1e-15)
    assert_allclose(strength_and_cosine(flow), reduced.y, rtol=0, atol=2e-11)


@pytest.mark.parametrize("depth", [2, 3])
def test_smallest_eigenvalue_has_its_bound(depth):
    flow = flow_of(depth)
    smallest = flow.measure(gf.measure.smallest_eigenvalue)
    residual = np.linalg.norm(gf.measure.effective_map(flow.problem, flow.theta)[:, 0] - target(), axis=1)
    norms = np.stack([gf.measure.singular_values(flow.problem, flow.theta, f"W{l + 1}")[:, 0] for l in range(depth)])
    others = 1.0 if depth == 2 else norms.max(axis=0)
    assert (smallest + (depth - 1) * residual * others >= -1e-10).all()
    if depth == 2:
        assert_allclose(smallest, -residual, rtol=0, atol=1e-9)
    assert_allclose(smallest[0], {2: -1.01003, 3: -0.4657}[depth], rtol=1e-4)


# Distance between the flow and gradient descent, to first order.


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(2, [0.01939, 0.009743, 0.004882, 0.002444]), (3, [0.02858, 0.01420, 0.007072, 0.003529])],
)
def test_distance_is_of_first_order(depth, expected):
    comparison = comparison_of(depth)
    assert_allclose(comparison.max_distance, expected, rtol=5e-4)
    ratios = comparison.max_distance[:-1] / comparison.max_distance[1:]
    assert ((ratios > 1.95) & (ratios < 2.05)).all()
    assert np.isnan(comparison.order[0])
    assert_allclose(comparison.order[1:], np.log2(ratios), rtol=1e-12)
    assert_allclose(comparison.overall_order["GD"], np.polyfit(np.log(STEPS), np.log(expected), 1)[0], atol=1e-3)


@pytest.mark.parametrize(("depth", "limit"), [(2, 0.011), (3, 0.014)])
def test_leading_error_is_the_limit(depth, limit):
    comparison = comparison_of(depth)
    errors = []
    for h, difference, leading in zip(comparison.steps, comparison.difference, comparison.leading_error, strict=True):
        remainder = np.linalg.norm(difference / h - leading, axis=1)[1:]
        errors.append((remainder / np.linalg.norm(leading, axis=1)[1:]).max())
    assert_allclose(comparison.prediction_error, errors, rtol=1e-12)
    assert errors[2] < limit
    assert_allclose(np.divide(errors[:-1], errors[1:]), 2.0, rtol=0.05)
    assert_allclose(comparison.predicted_distance[3][1:], comparison.distance[3][1:], rtol=0.01)


@pytest.mark.parametrize(("depth", "largest", "limit"), [(2, 0.396, 1.607), (3, 0.593, 1.632)])
def test_leading_error_below_its_bound(depth, largest, limit):
    flow, h = flow_of(depth, 561), 0.05
    problem = flow.problem
    run = descent(depth, h, save_at=int(HORIZON[depth] / h) + 1)
    comparison = compare(flow, run)
    size = np.linalg.norm(comparison.leading_error[0], axis=1)
    lowest = flow.measure(gf.measure.smallest_eigenvalue)
    pull = np.linalg.norm(problem.hvp(flow.theta, problem.gradient(flow.theta)), axis=1)
    growth = np.exp(-cumulative_trapezoid(lowest, flow.t, initial=0.0))
    bound = 0.5 * growth * cumulative_trapezoid(pull / growth, flow.t, initial=0.0)
    assert (size <= 0.962 * np.interp(comparison.t[0], flow.t, bound) + 1e-4).all()
    assert_allclose([size.max(), bound.max()], [largest, limit], rtol=2e-3)


def test_quadratic_in_closed_form():
    """Linear regression: theta - theta* shrinks by 1 - h s per step, by e^(-s h) in the flow."""
    slopes, best, h = np.array([0.5, 1.0, 2.0]), np.array([1.0, -2.0, 0.5]), 0.1
    x = np.diag(np.sqrt(slopes))
    problem = gf.Problem(gf.DeepLinear([3, 1]), gf.losses.Square(half=True, reduction="sum"), x, x @ best)
    flow = gf.simulate(problem, np.zeros(3), gf.GradientFlow(), 4.0, rtol=1e-12, atol=1e-14)
    run = gf.simulate(problem, np.zeros(3), gf.GD(step=h), 4.0, save_at=41)
    comparison = compare(flow, run)
    t = comparison.t[0][:, None]
    assert_allclose(t[:, 0], h * np.arange(41), rtol=1e-15)
    expected = -best * ((1 - h * slopes) ** np.arange(41)[:, None] - np.exp(-slopes * t))
    assert_allclose(comparison.difference[0], expected, atol=1e-11)
    assert_allclose(comparison.distance[0], np.linalg.norm(expected, axis=1), atol=1e-11)
    assert_allclose(comparison.leading_error[0], 0.5 * t * slopes**2 * best * np.exp(-slopes * t), atol=1e-9)
    assert_allclose(comparison.final_distance, np.linalg.norm(expected[-1]), atol=1e-11)
    relative = np.linalg.norm(expected[1:], axis=1) / np.linalg.norm(best * (1 - np.exp(-slopes * t[1:])), axis=1)
    assert_allclose(comparison.relative_distance[0][1:], relative, rtol=1e-9)
    assert comparison.parting(0.02)[0] == pytest.approx(h * (1 + (relative > 0.02).argmax()))


def test_leading_error_of_a_nonlinear_network():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 3))
    problem = gf.Problem(gf.FullyConnected([3, 5, 5, 1], activation="tanh"), gf.losses.Square(), x, np.sin(2 * x[:, 0]))
    start = problem.init(seed=0)
    flow = gf.simulate(problem, start, gf.GradientFlow(), 10.0, rtol=1e-10, atol=1e-12, solver="dop853", save_at=21)
    comparison = compare(flow, [gf.simulate(problem, start, gf.GD(step=h), 10.0, save_at=21) for h in (2e-3, 1e-3)])
    gaps = [
        _norms(difference - h * leading)[1:] / _norms(difference)[1:]
        for h, difference, leading in zip(
            comparison.steps, comparison.difference, comparison.leading_error, strict=True
        )
    ]
    assert gaps[1].max() < 0.01
    assert_allclose(gaps[0].max() / gaps[1].max(), 2.0, rtol=0.05)


def test_leading_error_is_known_for_plain_runs_only():
    problem, start = balanced(2)
    momentum = gf.simulate(problem, start, gf.Momentum(step=0.05), 8.0, save_at=21)
    comparison = compare(flow_of(2), [momentum, descent(2, 0.05)])
    leading = comparison.leading_error
    assert_array_equal(np.isnan(comparison.prediction_error), [True, False])
    assert np.isnan(leading[0]).all()
    assert np.isfinite(leading[1]).all()


# The a-posteriori bound.


@pytest.mark.parametrize(
    ("depth", "step", "bound", "distance", "tightest"),
    [
        (2, 0.1, 0.180, 0.0394, 1.124),
        (2, 0.05, 0.0850, 0.0198, 1.060),
        (2, 0.0125, 0.0204, 0.00495, 1.015),
        (3, 0.05, None, None, None),
    ],
)
def test_bound_holds_and_is_not_vacuous(depth, step, bound, distance, tightest):
    found = compare(flow_of(depth), descent(depth, step)).bound()
    assert found.t.size == round(HORIZON[depth] / step) + 1
    assert (found.distance[1:] <= found.bound[1:] * (1 + 1e-6)).all()
    ratio = (found.bound[1:] / found.distance[1:]).min()
    assert ratio < 1.2
    if bound is not None:
        assert_allclose([found.bound.max(), found.distance.max(), ratio], [bound, distance, tightest], rtol=4e-3)


def test_bound_distance_is_the_distance():
    comparison = comparison_of(2)
    found = comparison.bound(1)
    assert_allclose(np.interp(comparison.t[1], found.t, found.distance), comparison.distance[1], rtol=1e-9, atol=1e-13)


def test_bound_with_lanczos_is_the_dense_one(monkeypatch):
    comparison = compare(flow_of(2), descent(2, 0.1))
    dense = comparison.bound()
    monkeypatch.setattr(euler_error, "DENSE_HESSIAN_UP_TO", 0)
    assert_allclose(comparison.bound().bound, dense.bound, rtol=1e-7)


# Step sizes against each other: cross-entropy on four clusters.


def test_distances_of_a_deep_linear_classifier_scale_with_the_step():
    rng, labels = np.random.default_rng(0), np.arange(60) % 4
    means = rng.normal(size=(4, 16))
    x = (means[labels] + rng.normal(size=(60, 16))) / 4
    problem = gf.Problem(gf.DeepLinear([16, 12, 12, 4]), gf.losses.CrossEntropy(), x, labels)
    start = problem.init(seed=1, scheme="xavier")
    flow = gf.simulate(problem, start, gf.GradientFlow(), 50.0, rtol=1e-9, atol=1e-11, solver="dop853", save_at=51)
    refinements = np.array([1, 2, 5, 10, 20])
    runs = [gf.simulate(problem, start, gf.GD(step=0.05 / r), 50.0, save_at=51) for r in refinements]
    comparison = compare(flow, runs)
    assert_allclose(flow.loss[[0, -1]], [1.4212, 0.006043], rtol=1e-4)
    assert_allclose(np.linalg.norm(flow.end - start), 4.436, rtol=1e-4)
    expected = [0.007118, 0.003559, 0.001423, 0.000712, 0.000356]
    assert_allclose(comparison.final_distance, expected, rtol=1e-3)
    assert_allclose(comparison.max_distance[0], 0.008095, rtol=2e-4)
    assert not comparison.doubtful.any()
    gaps = [
        np.linalg.norm(runs[0].end - run.end) / (1 - 1 / r) for run, r in zip(runs, refinements, strict=True) if r > 1
    ]
    assert_allclose(gaps, 0.007118, rtol=1e-4)


# Which times are compared.


def scalar_problem():
    """(theta - 2)^2 / 2: the flow is 2 (1 - e^-t)."""
    return gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(half=True), [[1.0]], [[2.0]])


def scalar_flow(t_end, **options):
    return gf.simulate(scalar_problem(), [0.0], gf.GradientFlow(), t_end, rtol=1e-12, atol=1e-14, **options)


def scalar_run(dynamics, t_end, **options):
    return gf.simulate(scalar_problem(), [0.0], dynamics, t_end, **options)


def test_times_past_the_end_of_the_flow_are_left_out():
    comparison = compare(scalar_flow(1.0), scalar_run(gf.GD(step=0.1), 3.0, save_at=31))
    assert_allclose(comparison.t[0], 0.1 * np.arange(11))
    assert_allclose(comparison.final_distance, 2 * (np.exp(-1) - 0.9**10), rtol=1e-10)


def test_saved_times_need_not_hold_the_start():
    comparison = compare(scalar_flow(1.0), scalar_run(gf.GD(step=0.1), 1.0, save_at=[0.5, 1.0]))
    assert_allclose(comparison.t[0], [0.5, 1.0])
    assert_allclose(comparison.distance[0], 2 * (np.exp([-0.5, -1.0]) - 0.9 ** np.array([5, 10])), rtol=1e-10)


def test_flow_that_branches_off_a_run():
    run = scalar_run(gf.GD(step=0.1), 2.0, save_at=21)
    flow = gf.simulate(scalar_problem(), run.at(1.0), gf.GradientFlow(), 2.0, t_start=1.0, rtol=1e-12, atol=1e-14)
    comparison = compare(flow, run)
    assert_allclose(comparison.t[0], 1.0 + 0.1 * np.arange(11))
    assert_allclose(comparison.distance[0][0], 0.0, atol=1e-14)
    assert_allclose(comparison.final_distance, 2 * 0.9**10 * (np.exp(-1) - 0.9**10), rtol=1e-10)
    assert_allclose(comparison.bound().distance, comparison.distance[0], atol=1e-13)


def test_momentum_in_its_own_time():
    run = scalar_run(gf.Momentum(step=0.01, beta=0.9), 1.0, save_at=101)
    own, plain = compare(scalar_flow(5.0), run, effective_time=True), compare(scalar_flow(5.0), run)
    assert_allclose(plain.t[0], 0.01 * np.arange(101))
    assert_allclose(own.t[0], 0.1 * np.arange(51))
    assert_allclose(own.distance[0], abs(run.theta[:51, 0] - 2 * (1 - np.exp(-own.t[0]))), atol=1e-10)
    assert own.max_distance[0] < 0.5 * plain.max_distance[0]


def test_rules_do_not_mix_in_the_order():
    rules = [gf.GD(step=0.1), gf.Momentum(step=0.1, beta=0.5), gf.GD(step=0.05), gf.Momentum(step=0.05, beta=0.5)]
    comparison = compare(scalar_flow(1.0), [scalar_run(rule, 1.0, save_at=11) for rule in rules])
    assert_array_equal(np.isnan(comparison.order), [True, True, False, False])
    assert set(comparison.overall_order) == {"GD", "Momentum(beta=0.5)"}
    assert_allclose(comparison.overall_order["GD"], comparison.order[2])
    assert_allclose(comparison.order[2], 1.0, atol=0.05)


def test_order_looks_at_common_times_only():
    flow, coarse = scalar_flow(4.0), scalar_run(gf.GD(step=0.1), 4.0, save_at=41)
    short = compare(flow, [coarse, scalar_run(gf.GD(step=0.05), 0.5, save_at=11)])
    t = 0.1 * np.arange(6)
    gaps = [abs(np.exp(-t) - (1 - h) ** (t / h)).max() for h in (0.1, 0.05)]
    assert_allclose(short.order[1], np.log2(gaps[0] / gaps[1]), rtol=1e-6)


# What went wrong: parting, divergence, an inaccurate flow, wrong arguments.


def test_run_that_diverges_parts_and_has_no_order():
    steps = (2.5, 0.1, 0.05)
    runs = [scalar_run(gf.GD(step=h), 4000.0 if h > 1 else 40.0, save_at=401) for h in steps]
    comparison = compare(scalar_flow(4000.0, solver="auto"), runs)
    assert_array_equal(comparison.diverged, [True, False, False])
    assert np.isfinite(comparison.parting()[0])
    assert_array_equal(np.isnan(comparison.order), [True, True, False])
    assert "diverged" in repr(comparison)


def test_run_that_stays_near_never_parts():
    comparison = compare(scalar_flow(4.0), scalar_run(gf.GD(step=0.01), 4.0))
    assert np.isnan(comparison.parting()).all()
    assert comparison.parting(1e-3)[0] < 0.5
    assert "never" in repr(comparison)


def test_inaccurate_flow_is_marked():
    problem, start = balanced(2)
    loose = gf.simulate(problem, start, gf.GradientFlow(), 8.0, rtol=1e-4, atol=1e-6, solver="rk45", save_at=21)
    runs = [descent(2, 0.05), descent(2, 1e-4)]
    comparison = compare(loose, runs)
    assert_array_equal(comparison.doubtful[:, 1], [False, True])
    assert "* the solver error exceeds 10 %" in repr(comparison)
    assert "*" not in repr(comparison_of(2))
    true_error = np.linalg.norm(loose.theta - flow_of(2).theta, axis=1)
    assert_allclose(comparison.solver_error.max(), true_error.max(), rtol=0.5)


def test_table_is_aligned_and_holds_the_numbers():
    comparison = comparison_of(2)
    title, head, *rows = repr(comparison).splitlines()
    assert title.startswith("Comparison with GradientFlow")
    assert "dop853" in title
    assert len(comparison.rows()) == len(comparison) == 4
    for row, step, largest in zip(rows, comparison.steps, comparison.max_distance, strict=False):
        assert row[: head.index("step h") + len("step h")].endswith(f"{step:.4g}")
        assert row[: head.index("max distance") + len("max distance")].endswith(f"{largest:.3e} ".rstrip() + " ")
    html = comparison._repr_html_()
    assert html.count("<tr>") == 5
    assert "<th>max distance</th>" in html


def other_start():
    return gf.simulate(scalar_problem(), [1e-9], gf.GD(step=0.1), 1.0)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda flow, run: compare(run, [run]), TypeError, "a discrete rule: give the flow first"),
        (lambda flow, run: compare("flow", [run]), TypeError, "flow of type str"),
        (lambda flow, run: compare(flow, [flow]), TypeError, r"runs\[0\] is a run of GradientFlow"),
        (lambda flow, run: compare(flow, [run, 3]), TypeError, r"runs\[1\] of type int"),
        (lambda flow, run: compare(flow, []), ValueError, "runs is empty"),
        (lambda flow, run: compare(flow, descent(2, 0.05)), ValueError, "its network is deep linear 6-4-1, not"),
        (lambda flow, run: compare(flow, other_start()), ValueError, "1e-09 away from the flow's start"),
        (lambda flow, run: compare(flow, run).parting(-0.1), ValueError, "threshold = -0.1"),
        (lambda flow, run: compare(flow, run).bound(1), ValueError, "there are 1 runs"),
    ],
)
def test_wrong_arguments(make, error, match):
    with pytest.raises(error, match=match):
        make(scalar_flow(1.0), scalar_run(gf.GD(step=0.1), 1.0))


def test_run_that_starts_late_is_refused():
    late = scalar_run(gf.GD(step=0.1), 2.0, t_start=1.0)
    with pytest.raises(ValueError, match="starts at t = 1, after the flow"):
        compare(scalar_flow(1.0), late)


def test_bound_needs_plain_descent():
    momentum = scalar_run(gf.Momentum(step=0.1), 1.0)
    with pytest.raises(ValueError, match=r"not for Momentum\(step=0.1"):
        compare(scalar_flow(1.0), momentum).bound()


def test_importing_compare_is_light():
    heavy = ("torch", "numba", "scipy.integrate", "matplotlib")
    code = f"import sys, gradflow.compare; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_comparison_is_what_compare_returns():
    assert isinstance(comparison_of(2), Comparison)
