"""Tiny starts of linear networks in the singular basis of their data: all modes escape in time, in a turned one not."""

import numpy as np
import pytest
from clock_cases import FLOW, modes
from numpy.testing import assert_allclose
from scipy.stats import ortho_group

import gradflow as gf

HALF = gf.losses.Square(half=True)
V, U, H = ortho_group.rvs(3, size=3, random_state=0)


def turned(depth):
    """The three modes with inputs and outputs turned, the times of half their strengths, and events in any basis."""
    straight, strengths, _ = modes(depth)
    problem = gf.Problem(straight.network, HALF, straight.x @ V.T, straight.y @ U.T)

    def half(mode, left, right):
        def gap(problem, t, theta):
            matrix = np.linalg.multi_dot([left.T, *theta.reshape(depth, 3, 3)[::-1], right])
            return matrix[mode, mode] - strengths[mode] / 2

        return gf.Event(f"mode {mode}", gap)

    return problem, strengths, half


def turned_start(depth, scale):
    """Aligned start: W_1 = scale V^T, W_L = scale U, the identity between; of two layers the hidden one turned too."""
    hidden = H if depth == 2 else np.eye(3)
    layers = [scale * hidden @ V.T, *[scale * np.eye(3)] * (depth - 2), scale * U @ hidden.T]
    return np.concatenate([layer.ravel() for layer in layers])


@pytest.mark.parametrize("scale", [1e-30, 1e-100])
def test_all_escapes_of_two_layers_come_in_time_in_the_eigenbasis_only(scale):
    problem, strengths, half = turned(2)
    times = np.log(strengths / scale**2 - 1.0) / (2 * strengths)
    start, end, basis = turned_start(2, scale), 1.5 * times[-1], problem.in_eigenbasis()
    assert_allclose(basis.strengths, strengths, rtol=1e-14)

    events = [half(mode, np.eye(3), np.eye(3)) for mode in range(3)]
    run = gf.simulate(basis.problem, basis.into(start), FLOW, end, events=events, rtol=1e-9)
    assert_allclose([event.t for event in run.events], times, rtol=1e-9)
    assert not any("in_eigenbasis" in note for note in run.notes)
    ends = problem.layers(basis.back(run.end))
    assert_allclose(ends["W2"] @ ends["W1"], U @ np.diag(strengths) @ V.T, atol=1e-6)

    events = [half(mode, U, V) for mode in range(3)]
    run = gf.simulate(problem, start, FLOW, end, events=events, rtol=1e-9)
    assert any("problem.in_eigenbasis()" in note for note in run.notes)
    last = [event.t for event in run.events if event.name == "mode 2"]
    assert abs(last[0] / times[2] - 1.0) > 0.05


def test_three_layers_from_1e_minus_12_in_the_eigenbasis():
    problem, strengths, half = turned(3)
    times = [float(gf.exact.chain_time(1e-12, (s / 2) ** (1 / 3), s, 3)) for s in strengths]
    basis, events = problem.in_eigenbasis(), [half(mode, np.eye(3), np.eye(3)) for mode in range(3)]
    start = basis.into(turned_start(3, 1e-12))
    run = gf.simulate(basis.problem, start, FLOW, 1.2 * times[-1], events=events, rtol=1e-9)
    assert_allclose([event.t for event in run.events], times, rtol=1e-7)


def test_only_tiny_starts_of_separate_modes_in_a_mixed_basis_are_warned_of():
    def warned(problem, depth, scale):
        start = turned_start(depth, scale)
        run = gf.simulate(problem, start, FLOW, gf.at(s=0.1), clock="relative", max_gradients=50)
        return any("in_eigenbasis" in note for note in run.notes)

    two, three = turned(2)[0], turned(3)[0]
    assert not warned(two, 2, 1e-12)
    assert warned(two, 2, 1e-30)
    assert not warned(three, 3, 1e-12)
    assert warned(three, 3, 1e-15)
    assert not warned(two.in_eigenbasis().problem, 2, 1e-30)
    assert not warned(gf.Problem(two.network, HALF, two.x, two.x @ H), 2, 1e-30)
    assert not warned(gf.Problem(two.network, HALF, two.x * np.array([1.0, 2.0, 3.0]), two.y), 2, 1e-30)


@pytest.mark.parametrize(("n", "widths"), [(9, [4, 5, 2]), (9, [3, 4, 6, 5]), (3, [4, 4, 3]), (9, [4, 2])])
def test_loss_and_gradient_turn_with_the_basis(n, widths):
    rng = np.random.default_rng(n)
    x = np.linalg.qr(rng.normal(size=(max(n, widths[0]), max(n, widths[0]))))[0][:n, : widths[0]]
    problem = gf.Problem(gf.DeepLinear(widths), HALF, x, rng.normal(size=(n, widths[-1])), decay=0.1)
    if n < widths[0]:
        problem = gf.Problem(
            problem.network, HALF, np.eye(n, widths[0]) @ ortho_group.rvs(4, random_state=1), problem.y
        )
    basis, theta = problem.in_eigenbasis(), np.stack([problem.init(1.0, seed) for seed in range(3)])
    there = basis.into(theta)
    assert_allclose(basis.back(there), theta, atol=1e-14)
    assert_allclose(basis.problem.value(there), problem.value(theta), rtol=1e-12)
    assert_allclose(basis.problem.gradient(there), basis.into(problem.gradient(theta)), atol=1e-12)
    for moment in (basis.problem.x.T @ basis.problem.x, basis.problem.y.T @ basis.problem.x):
        assert np.count_nonzero(moment) == np.count_nonzero(np.diag(moment))


def test_inputs_of_several_variances_that_commute_with_the_correlations():
    x = np.diag([3.0, 2.0, 1.0]) @ V.T
    problem = gf.Problem(gf.DeepLinear([3, 3, 3]), HALF, x, np.diag([1.0, -4.0, 2.0]) @ U.T)
    basis, theta = problem.in_eigenbasis(), problem.init(0.7)
    assert_allclose(basis.strengths, [8 / 3, 1.0, 2 / 3], rtol=1e-13)
    assert_allclose(basis.problem.gradient(basis.into(theta)), basis.into(problem.gradient(theta)), atol=1e-13)


@pytest.mark.parametrize(
    ("network", "loss", "y", "reason"),
    [
        (gf.DeepLinear([3, 3, 3]), HALF, np.arange(15.0).reshape(5, 3), "do not commute"),
        (gf.FullyConnected([3, 3, 3], "tanh"), HALF, np.ones((5, 3)), "is not linear"),
        (gf.ResidualLinear(2, 3), HALF, np.ones(5), "skips"),
        (gf.DeepLinear([3, 3, 1]), gf.losses.Logistic(), np.ones(5), "the loss is logistic"),
    ],
    ids=str,
)
def test_problems_without_an_eigenbasis_say_why(network, loss, y, reason):
    x = np.random.default_rng(0).normal(size=(5, 3))
    with pytest.raises(ValueError, match=reason):
        gf.Problem(network, loss, x, y).in_eigenbasis()
