"""Penalties, the population loss, the flow on the sphere and the relaxed splitting against brute force and samples."""

import numpy as np
import pytest

import gradflow as gf
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
    x = np.random.default_rng(5).standard_normal((200_000, 4, 6))
    errors = np.maximum(x @ w, 0).mean(1) - np.maximum(x @ problem.teacher, 0).mean(1)
    mean, error = problem.estimate(w, 200_000, seed=5)
    assert (mean, error) == pytest.approx(((errors**2).mean(), (errors**2).std() / np.sqrt(200_000)), rel=1e-12)
    assert abs(mean - problem.value(w)) < 4 * error


def test_its_gradient_and_hessian_are_derivatives_and_batches_work():
    rng = np.random.default_rng(1)
    problem, w = ConvolutionalPopulation(rng.standard_normal(5), 3), rng.standard_normal((4, 5))
    assert gf.measure.gradient_error(problem, w).max() < 1e-8
    assert np.allclose(problem.value(w), [problem.value(row) for row in w], rtol=1e-15)
    shift = 1e-5 * np.eye(5)
    for row in w:
        slopes = (problem.gradient(row + shift) - problem.gradient(row - shift)) / 2e-5
        assert np.abs(problem.hessian(row) - slopes).max() < 1e-8


def test_only_the_teacher_turns_the_filter():
    rng = np.random.default_rng(3)
    problem, w = ConvolutionalPopulation(rng.standard_normal(5), 3), rng.standard_normal(5)
    force = problem.gradient(w) + problem.pull(w) * problem.teacher
    assert np.abs(force - (force @ w) / (w @ w) * w).max() < 1e-15


def test_a_gradient_that_is_not_the_derivative_is_found(monkeypatch):
    problem = ConvolutionalPopulation([0.6, 0.8], 3)
    right = ConvolutionalPopulation.gradient
    monkeypatch.setattr(ConvolutionalPopulation, "gradient", lambda self, w: 1.001 * right(self, w))
    assert gf.measure.gradient_error(problem, [1.0, -0.5]) > 1e-4


def test_the_angle_keeps_its_digits_near_zero():
    problem = ConvolutionalPopulation([1.0, 0.0, 0.0], 2)
    assert problem.angle(np.array([1.0, 1e-12, 0.0])) == pytest.approx(1e-12, rel=1e-9)


@pytest.mark.parametrize("penalty", [L1(), L0(), TransformedL1()])
def test_the_splitting_ends_at_the_limit_equation_and_descends(penalty):
    rng = np.random.default_rng(2)
    teacher = np.array([0.6, -0.8, 0.0, 0.0, 0.0])
    problem = ConvolutionalPopulation(teacher, 3)
    run = gf.relaxed_splitting(problem, rng.standard_normal(5), penalty, strength=0.001, coupling=0.02, step=0.5)
    assert run.converged
    assert np.diff(run.lagrangian).max() < 1e-14
    w, u = run.w[-1], run.u[-1]
    force = problem.gradient(w) + 0.02 * (w - u)
    assert np.linalg.norm(force - (force @ w) * w) < 1e-12


def test_the_splitting_follows_the_flow_on_the_sphere_at_first_order():
    problem = ConvolutionalPopulation([0.6, -0.8, 0.0], 2)
    start = [1.0, 1.0, 1.0]
    flow = gf.simulate(problem, start, gf.SphereFlow(L1(), 0.002, 0.04), t_end=5.0, rtol=1e-10)
    errors = []
    for step in (0.1, 0.05, 0.025):
        run = gf.relaxed_splitting(problem, start, L1(), strength=0.002, coupling=0.04, step=step)
        errors.append(np.linalg.norm(run.w[round(5 / step)] - flow.end))
    assert np.array(errors[:-1]) / errors[1:] == pytest.approx(2.0, abs=0.1)


def test_the_flow_on_the_sphere_stays_there_and_descends_the_tied_objective():
    problem, flow = ConvolutionalPopulation([0.6, -0.8, 0.0], 2), gf.SphereFlow(L1(), 0.002, 0.04)
    run = gf.simulate(problem, [1.0, 1.0, 1.0], flow, t_end=20.0, rtol=1e-10, save_at=2001)
    assert run.max_drift < 1e-8
    assert (np.diff(run.loss) < 1e-12).all()
    assert run.loss[0] - run.loss[-1] == pytest.approx(gf.measure.dissipation(run), rel=1e-6)
    u = L1().prox(run.end, 0.05)
    tied = problem.value(run.end) + 0.002 * L1().value(u) + 0.02 * ((run.end - u) ** 2).sum()
    assert run.loss[-1] == pytest.approx(tied, rel=1e-14)


def test_sphere_steps_are_of_first_order_on_sampled_data_too():
    x, y = gf.data.gaussian(20, 4, seed=0)
    problem = gf.Problem(gf.DeepLinear([4, 1]), gf.losses.Square(), x, y)
    start, flow = problem.init(seed=1), gf.SphereFlow()
    end = gf.simulate(problem, start, flow, t_end=1.0, rtol=1e-10).end
    runs = [gf.simulate(problem, start, gf.GD(h, flow=flow), t_end=1.0) for h in (0.02, 0.01, 0.005)]
    errors = np.array([np.linalg.norm(run.end - end) for run in runs])
    assert errors[:-1] / errors[1:] == pytest.approx(2.0, abs=0.1)
    assert max(run.max_drift for run in runs) < 1e-15


def test_runs_on_the_sphere_are_stored(tmp_path):
    problem, flow = ConvolutionalPopulation([0.6, -0.8, 0.0], 2), gf.SphereFlow(L1(), 0.002, 0.04)
    gf.simulate(problem, [1.0, 1.0, 1.0], flow, t_end=5.0).save(tmp_path / "run.nc")
    stored = gf.Trajectory.load(tmp_path / "run.nc", problem)
    assert stored.dynamics == flow
    longer = gf.simulate(problem, [1.0, 1.0, 1.0], flow, t_end=9.0)
    assert stored.extend(9.0).end.tolist() == longer.end.tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ConvolutionalPopulation([0.0, 0.0], 3), "not zero"),
        (lambda: ConvolutionalPopulation([1.0], 0), "patches = 0"),
        (lambda: ConvolutionalPopulation([1.0, 0.0], 2).value([1.0]), r"must be \(2,\)"),
        (lambda: TransformedL1(-1.0), "a = -1"),
        (lambda: gf.SphereFlow(L1(), 0.1), "coupling = 0"),
        (lambda: gf.simulate(ConvolutionalPopulation([1.0], 2), [0.0], gf.SphereFlow(), 1.0), "no direction"),
        (lambda: L1().prox([1.0], 0.0), "threshold = 0"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
