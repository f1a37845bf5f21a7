"""Penalties, the population loss and the relaxed splitting against brute force and samples."""

import numpy as np
import pytest

from gradflow.dynamics.splitting import relaxed_splitting, sphere_flow
from gradflow.penalties import L0, L1, TransformedL1
from gradflow.population import ConvolutionalPopulation


@pytest.mark.parametrize("penalty", [L1(), L0(), TransformedL1(0.3), TransformedL1(1.0), TransformedL1(10.0)])
@pytest.mark.parametrize("threshold", [0.02, 0.3, 2.0])
def test_the_proximal_map_is_the_minimiser(penalty, threshold):
    grid = np.linspace(-4, 4, 160_001)
    cost = threshold * penalty.value(grid[:, None])
    for w in (-3.1, -0.7, 0.05, 0.4, 1.3, 2.9):
        best = (cost + (grid - w) ** 2 / 2).min()
        u = penalty.prox(np.array([w]), threshold)
        assert threshold * penalty.value(u) + (u[0] - w) ** 2 / 2 <= best + 1e-12


def test_the_population_loss_is_the_mean_over_gaussian_patches():
    rng = np.random.default_rng(0)
    problem, w = ConvolutionalPopulation(rng.standard_normal(6), 4), rng.standard_normal(6)
    x = rng.standard_normal((200_000, 4, 6))
    errors = np.maximum(x @ w, 0).mean(1) - np.maximum(x @ problem.teacher, 0).mean(1)
    assert abs((errors**2).mean() - problem.value(w)) < 4 * (errors**2).std() / np.sqrt(len(x))


def test_its_gradient_is_the_derivative_and_batches_work():
    rng = np.random.default_rng(1)
    problem, w = ConvolutionalPopulation(rng.standard_normal(5), 3), rng.standard_normal((4, 5))
    for row, gradient in zip(w, problem.gradient(w), strict=True):
        shift = 1e-5 * np.eye(5)
        assert np.abs(gradient - (problem.value(row + shift) - problem.value(row - shift)) / 2e-5).max() < 1e-8
    assert np.allclose(problem.value(w), [problem.value(row) for row in w], rtol=1e-15)


def test_the_angle_keeps_its_digits_near_zero():
    problem = ConvolutionalPopulation([1.0, 0.0, 0.0], 2)
    assert problem.angle(np.array([1.0, 1e-12, 0.0])) == pytest.approx(1e-12, rel=1e-9)


@pytest.mark.parametrize("penalty", [L1(), L0(), TransformedL1()])
def test_the_splitting_ends_at_the_limit_equation_and_descends(penalty):
    rng = np.random.default_rng(2)
    teacher = np.array([0.6, -0.8, 0.0, 0.0, 0.0])
    problem = ConvolutionalPopulation(teacher, 3)
    run = relaxed_splitting(problem, rng.standard_normal(5), penalty, strength=0.001, coupling=0.02, step=0.5)
    assert run.converged
    assert np.diff(run.lagrangian).max() < 1e-14
    w, u = run.w[-1], run.u[-1]
    force = problem.gradient(w) + 0.02 * (w - u)
    assert np.linalg.norm(force - (force @ w) * w) < 1e-12


def test_the_splitting_follows_the_flow_on_the_sphere_at_first_order():
    problem = ConvolutionalPopulation([0.6, -0.8, 0.0], 2)
    start = [1.0, 1.0, 1.0]
    options = {"strength": 0.002, "coupling": 0.04}
    flow = sphere_flow(problem, start, [0.0, 5.0], L1(), **options)
    assert abs(np.linalg.norm(flow.w[-1]) - 1) < 1e-9
    errors = []
    for step in (0.1, 0.05, 0.025):
        run = relaxed_splitting(problem, start, L1(), step=step, **options)
        errors.append(np.linalg.norm(run.w[round(5 / step)] - flow.w[-1]))
    assert np.array(errors[:-1]) / errors[1:] == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ConvolutionalPopulation([0.0, 0.0], 3), "not zero"),
        (lambda: ConvolutionalPopulation([1.0], 0), "patches = 0"),
        (lambda: ConvolutionalPopulation([1.0, 0.0], 2).value([1.0]), "last axis must have length 2"),
        (lambda: TransformedL1(-1.0), "a = -1"),
        (lambda: L1().prox([1.0], 0.0), "threshold = 0"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
