"""LM flow against the closed forms of Xu et al., Dynamics in Deep Classifiers Trained with the Square Loss (2023)."""

import numpy as np
import pytest

import gradflow as gf


def unit_layers(problem, rho0, flip=True):
    """Gaussian layers of unit norm drawn from default_rng(1), the last times rho0; flipped to a positive margin."""
    rng = np.random.default_rng(1)
    layers = {name: rng.standard_normal(shape) for name, shape in problem.network.shapes.items()}
    layers = {name: layer / np.linalg.norm(layer) for name, layer in layers.items()}
    last = list(layers)[-1]
    theta = problem.flatten(layers)
    if flip and (problem.y * problem.outputs(theta)).mean() < 0:
        layers[last] = -layers[last]
    layers[last] = rho0 * layers[last]
    return problem.flatten(layers)


def model_a():
    """Deep linear 10-8-8-1 on six samples."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 10)) / np.sqrt(10)
    y = np.sign(rng.standard_normal((6, 1)))
    return gf.Problem(gf.DeepLinear([10, 8, 8, 1]), gf.losses.Square(), x, y)


def lm_run(problem, rho0, decay, t_end, **options):
    options = {"solver": "LSODA", "rtol": 1e-9, "atol": 1e-11} | options
    return gf.simulate(problem, unit_layers(problem, rho0), gf.LMFlow(decay=decay), t_end=t_end, **options)


@pytest.mark.parametrize("rho0", [0.01, 5.0, pytest.param(1.0, marks=pytest.mark.slow),
                                  pytest.param(10.0, marks=pytest.mark.slow),
                                  pytest.param(30.0, marks=pytest.mark.slow),
                                  pytest.param(100.0, marks=pytest.mark.slow)])  # fmt: skip
def test_with_decay_the_limit_is_ridge_regression_whatever_the_start(rho0):
    problem = model_a()
    run = lm_run(problem, rho0, 1e-2, 2000.0)
    w = np.linalg.solve(problem.x.T @ problem.x / 6 + 1e-2 * np.eye(10), (problem.x * problem.y).mean(0))
    assert np.linalg.norm(w) == pytest.approx(3.096658, abs=1e-6)
    assert abs(run.records["rho"][-1] - np.linalg.norm(w)) < 1e-6
    assert np.abs(gf.measure.effective_map(problem, run.end) - w).max() < 1e-6
    assert (1 - gf.measure.spectral_ratio(problem, run.end) < 1e-7).all()


def test_without_decay_the_limit_keeps_the_start():
    problem = model_a()
    small, large = lm_run(problem, 1.0, 0.0, 2000.0), lm_run(problem, 30.0, 0.0, 2000.0)
    minimum_norm = np.linalg.norm(np.linalg.pinv(problem.x) @ problem.y)
    assert minimum_norm == pytest.approx(7.538291, abs=1e-6)
    assert small.records["rho"][-1] == pytest.approx(minimum_norm, abs=1e-4)
    assert 30.0 <= large.records["rho"][-1] <= 30.01
    assert small.loss[-1] < 1e-12
    assert large.loss[-1] < 1e-12


def test_the_loss_falls_by_the_square_of_the_speed():
    problem = model_a()
    theta0 = unit_layers(problem, 0.1, flip=False)
    run = gf.simulate(problem, theta0, gf.LMFlow(decay=0.01), t_end=50.0, rtol=1e-12, save_at=4001, solver="dop853")
    assert run.loss[0] - run.loss[-1] == pytest.approx(0.7934497, abs=1e-6)
    flow = gf.LMFlow(decay=0.01)
    from gradflow.steppers.choose import make_field

    field, out = make_field(problem, flow, problem.kernel), np.empty(run.states.shape[1])
    speeds = []
    for state in run.states:
        field(0.0, np.ascontiguousarray(state), out)
        speeds.append(out @ out)
    h, s = run.t[1], np.array(speeds)
    dissipated = h / 3 * (s[0] + s[-1] + 4 * s[1:-1:2].sum() + 2 * s[2:-1:2].sum())
    assert run.loss[0] - run.loss[-1] == pytest.approx(dissipated, abs=1e-9)


def test_plain_flow_in_polar_coordinates_and_the_decay_of_its_imbalance():
    problem = model_a()
    rng = np.random.default_rng(1)
    layers = {name: rng.standard_normal(shape) for name, shape in problem.network.shapes.items()}
    layers = {n: s * v / np.linalg.norm(v) for (n, v), s in zip(layers.items(), (1.2, 0.8, 1.0), strict=True)}
    decayed = gf.Problem(problem.network, problem.loss, problem.x, problem.y, decay=0.01)
    options = {"t_end": 20.0, "rtol": 1e-12, "solver": "dop853"}
    plain = gf.simulate(decayed, decayed.flatten(layers), gf.GradientFlow(), **options)
    polar = gf.simulate(decayed, plain.theta[0], gf.PolarFlow("layer", 1.0, gf.PowerRate(1.0, -2.0)), **options)
    assert np.abs(plain.theta - polar.theta).max() < 1e-9
    radius = polar.records["radius"]
    assert np.abs(radius[:, 0] ** 2 - radius[:, 1] ** 2 - 0.8 * np.exp(-0.04 * polar.t)).max() < 1e-9
    assert radius[-1, 0] ** 2 - radius[-1, 1] ** 2 == pytest.approx(0.359463171, abs=1e-9)
    assert plain.max_drift < 1e-9


def test_neural_collapse_on_orthonormal_inputs():
    classes, n, decay = 3, 6, 1e-3
    y = np.arange(classes * n) // n
    network = gf.DeepLinear([classes * n, 10, classes])
    problem = gf.Problem(network, gf.losses.Square(), np.eye(classes * n), np.eye(classes)[y])
    theta0 = unit_layers(problem, 1.0, flip=False)
    run = gf.simulate(problem, theta0, gf.LMFlow(decay=decay), t_end=4000.0, solver="LSODA", rtol=1e-9, atol=1e-11)
    s = 1 / (1 + decay * n * classes**2)
    assert s == pytest.approx(0.948767, abs=1e-6)
    assert run.records["rho"][-1] == pytest.approx(s * classes * np.sqrt(n), abs=1e-6)
    assert np.abs(problem.outputs(run.end) - s * np.eye(classes)[y]).max() < 1e-6
    for measure in (gf.measure.nc1, gf.measure.nc2, gf.measure.nc3):
        assert measure(problem, run.end) < 1e-8
    assert gf.measure.nc4(problem, run.end) == 0.0


def test_scale_and_multiplier_at_equilibrium():
    problem = model_a()
    run = lm_run(problem, 1.0, 1e-2, 2000.0)
    rho = run.records["rho"][-1]
    margin = (problem.y * problem.outputs(run.end))[:, 0] / rho
    assert rho == pytest.approx(margin.mean() / ((margin**2).mean() + 1e-2), abs=1e-7)
    multiplier = rho * np.mean((1 - rho * margin) * margin)
    assert multiplier == pytest.approx(1e-2 * rho**2, abs=1e-7)
