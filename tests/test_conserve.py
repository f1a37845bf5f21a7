"""conserve=True: what the flow conserves is held to rounding, at the same order of accuracy and over any horizon."""

import numpy as np
import pytest
from cases import make

import gradflow as gf
from gradflow.dynamics.manifold import manifold
from gradflow.status import Status
from gradflow.steppers.choose import make_field
from gradflow.steppers.conserving import RAREST, Conserving
from gradflow.steppers.explicit import Explicit

PLAIN = gf.GradientFlow()
CASES = {
    "linear": (gf.DeepLinear([4, 5, 3, 2]), PLAIN, 0.0),
    "linear, wide hidden layer": (gf.DeepLinear([2, 6, 1]), PLAIN, 0.0),
    "linear, decay": (gf.DeepLinear([4, 5, 2]), PLAIN, 0.05),
    "linear, speeds": (gf.DeepLinear([3, 4, 2]), gf.GradientFlow(rates={"W1": 0.3}), 0.0),
    "linear, identity skip": (gf.ResidualLinear(2, 3, readout=1), PLAIN, 0.0),
    "quadratic": (gf.FullyConnected([3, 4, 1], "quadratic", bias=True), PLAIN, 0.0),
    "leaky relu": (gf.FullyConnected([3, 6, 4, 1], "leaky_relu(0.5)", bias=True), PLAIN, 0.02),
    "convolutional": (gf.Convolutional((1, 4, 1), [2], kernel_size=1, outputs=2, activation="quadratic"), PLAIN, 0.0),
    "diagonal": (gf.Diagonal(5, depth=2), PLAIN, 0.02),
    "diagonal, speeds": (gf.Diagonal(5, depth=2), gf.GradientFlow(rates={"u": 0.5}), 0.0),
    "diagonal, depth 3": (gf.Diagonal(5, depth=3), PLAIN, 0.0),
    "diagonal, unsigned": (gf.Diagonal(6, depth=2, signed=False), PLAIN, 0.0),
    "diagonal, unsigned, depth 3": (gf.Diagonal(6, depth=3, signed=False), PLAIN, 0.0),
    "polar": (gf.DeepLinear([3, 4, 2]), gf.PolarFlow(), 0.0),
    "polar, as the plain flow": (gf.DeepLinear([3, 4, 2]), gf.PolarFlow(angular_rate=gf.PowerRate(1, -2)), 0.0),
    "polar, diagonal": (gf.Diagonal(4, depth=2), gf.PolarFlow(), 0.0),
    "polar, diagonal, depth 3": (gf.Diagonal(4, depth=3), gf.PolarFlow(), 0.0),
    "polar, diagonal, plain": (gf.Diagonal(4, depth=2), gf.PolarFlow(angular_rate=gf.PowerRate(1, -2)), 0.0),
    "weight norm": (gf.FullyConnected([3, 4, 1], "tanh"), gf.WeightNormFlow(), 0.0),
    "LM": (gf.DeepLinear([3, 4, 1]), gf.LMFlow(decay=0.1), 0.0),
}


def problem_and_start(case):
    network, dynamics, decay = CASES[case]
    problem = make(network, "half square sum", n=4, decay=decay)
    theta0 = 0.5 * np.random.default_rng(1).standard_normal(problem.size)
    return problem, np.abs(theta0) + 0.2 if problem.is_diagonal else theta0, dynamics


def deviation(problem, run):
    """Largest deviation of what is conserved from its law, over the size of its terms."""
    surface = manifold(problem, run.dynamics)
    first = surface.values(run.states[0])
    size = max(1.0, np.abs(first).max(), (run.theta**2).sum(-1).max())
    laws = first * np.exp(-surface.decay * (run.t[:, None] - run.t[0]))
    return max(np.abs(surface.values(state) - law).max() for state, law in zip(run.states, laws, strict=True)) / size


@pytest.mark.parametrize("case", CASES)
def test_what_is_conserved_is_held_to_rounding(case):
    problem, theta0, dynamics = problem_and_start(case)
    options = {"t_end": 3.0, "rtol": 1e-5, "save_at": 20, "kinks": "ignore", "clock": "time"}
    held = gf.simulate(problem, theta0, dynamics, conserve=True, **options)
    free = gf.simulate(problem, theta0, dynamics, **options)
    assert held.status == free.status == Status.REACHED_END
    assert deviation(problem, held) < 1e-14 < 1e-11 < deviation(problem, free)
    assert np.abs(held.theta - free.theta).max() < 1e-3 * np.abs(free.theta).max()
    assert held.max_drift <= 1e-12 * max(1.0, np.abs(held.theta).max() ** 2)


@pytest.mark.parametrize(
    "solver", ["auto", "dop853", "rk45", "adams", "stabilised", "stiff", gf.FixedStep("rk4", 0.01)]
)
def test_every_own_solver_holds_them_at_its_order(solver):
    problem, theta0, dynamics = problem_and_start("linear")
    truth = gf.simulate(problem, theta0, dynamics, 4.0, rtol=1e-12, solver="dop853").end
    for rtol in (1e-4, 1e-6, 1e-8):
        options = {"t_end": 4.0, "solver": solver, "rtol": rtol}
        held = gf.simulate(problem, theta0, dynamics, conserve=True, **options)
        free = gf.simulate(problem, theta0, dynamics, **options)
        errors = [np.linalg.norm(run.end - truth) for run in (held, free)]
        assert errors[0] < max(1.5 * errors[1], 3e-14)
        assert deviation(problem, held) < 1e-14


def test_costly_gradients_are_held_too():
    problem = make(gf.DeepLinear([60, 40, 30]), "half square sum", n=900, backend="torch")
    theta0 = problem.init(0.5, seed=2)
    run = gf.simulate(problem, theta0, PLAIN, 0.02, rtol=1e-6, save_at=3, conserve=True)
    assert deviation(problem, run) < 1e-14


def test_the_drift_stays_at_rounding_over_a_long_horizon():
    problem = make(gf.DeepLinear([2, 2, 2]), "half square sum", n=3, decay=0.0)
    theta0 = problem.init(0.8, seed=3)
    flow = {"t_end": 1e5, "rtol": 1e-5, "save_at": "log", "solver": "rk45", "clock": "time"}
    held, free = (gf.simulate(problem, theta0, PLAIN, conserve=flag, **flow) for flag in (True, False))
    assert held.counts["accepted"] > 10_000
    assert deviation(problem, held) < 1e-14 < 1e-9 < deviation(problem, free)


def test_the_path_itself_is_put_back():
    problem = make(gf.DeepLinear([2, 2, 2]), "half square sum", n=3)
    theta0 = problem.init(0.8, seed=3)
    options = {"t_end": 3e3, "rtol": 1e-5, "save_at": 3, "solver": "rk45", "clock": "time"}
    held = gf.simulate(problem, theta0, PLAIN, conserve=True, **options)
    free = gf.simulate(problem, theta0, PLAIN, **options)
    balance = [gf.measure.imbalance(problem, run.run.snapshots[-1]["state"]) for run in (held, free)]
    error = np.abs(np.array(balance) - gf.measure.imbalance(problem, theta0))
    assert error[0] < 0.05 * error[1]
    assert "put back" in held.notes[-1]


def test_the_velocity_belongs_to_the_state_that_was_put_back():
    problem, theta0, _ = problem_and_start("linear")
    field = make_field(problem, PLAIN, problem.kernel)
    inner = Explicit(field, 0.0, theta0, rtol=1e-3, atol=1e-5, pair="rk45")
    stepper = Conserving(inner, manifold(problem, PLAIN))
    stepper.advance(1e3, max_steps=2 * RAREST)
    drifted, gradients = inner.state, stepper.counts["gradients"]
    stepper.advance(1e3, max_steps=0)
    assert stepper.counts["gradients"] == gradients + 1
    assert 0 < np.abs(inner.state - drifted).max() < 1e-2
    assert np.array_equal(stepper.velocity, -problem.gradient(inner.state))


def test_states_are_put_back_to_the_nearest_point():
    problem, theta0, _ = problem_and_start("linear")
    surface = manifold(problem, PLAIN)
    move = 1e-4 * np.random.default_rng(0).standard_normal(problem.size)
    nearest = surface.put_back(theta0 + move, surface.values(theta0))
    h, columns = 1e-6, np.eye(problem.size)
    slope = np.stack([(surface.values(nearest + h * e) - surface.values(nearest - h * e)) / (2 * h) for e in columns])
    tangents = np.linalg.svd(slope)[0][:, np.linalg.matrix_rank(slope, tol=1e-6) :]
    assert tangents.shape[1] > 0
    assert np.abs(tangents.T @ (theta0 + move - nearest)).max() < 1e-6 * np.linalg.norm(move) + 1e-7


def test_a_run_goes_on_and_is_seen_and_kept(tmp_path):
    problem, theta0, _ = problem_and_start("linear")
    options = {"rtol": 1e-6, "solver": "dop853", "conserve": True, "save_at": 4}
    run = gf.simulate(problem, theta0, PLAIN, 6.0, **options)
    whole = gf.simulate(problem, theta0, PLAIN, 9.0, **options)
    longer = run.extend(9.0)
    run.save(tmp_path / "run.nc")
    loaded = gf.Trajectory.load(tmp_path / "run.nc").extend(9.0)
    for other in (longer, loaded):
        assert np.abs(other.end - whole.end).max() < 1e-13
        assert deviation(problem, other) < 1e-14
    seen = whole.at([0.3, 2.2, 7.7])
    balance = manifold(problem, PLAIN)
    assert max(np.abs(balance.values(row) - balance.values(theta0)).max() for row in seen) < 1e-13
    assert run.error_estimate().max() < 1e-4


def test_events_steps_and_batches_hold_them():
    problem, theta0, _ = problem_and_start("linear")
    level = 0.5 * gf.simulate(problem, theta0, PLAIN, 3.0).loss[0]
    stopped = gf.simulate(problem, theta0, PLAIN, stop=[gf.LossBelow(level), gf.GradientBelow(1e-9)], conserve=True)
    assert stopped.status == Status.LOSS_BELOW
    assert abs(stopped.loss[-1] - level) < 1e-8 * level
    assert deviation(problem, stopped) < 1e-14
    starts = np.stack([theta0, 0.5 * theta0])
    batch = gf.simulate(problem, starts, PLAIN, 2.0, conserve=True, save_at=5)
    for run, start in zip(batch, starts, strict=True):
        alone = gf.simulate(problem, start, PLAIN, 2.0, conserve=True, save_at=5)
        assert np.array_equal(run.states, alone.states)


def test_kinks_and_foreign_solvers_are_put_back_where_they_are_shown():
    problem, theta0, _ = problem_and_start("leaky relu")
    run = gf.simulate(problem, theta0, PLAIN, 1.0, conserve=True, save_at=9)
    assert deviation(problem, run) < 1e-14
    assert "drifts" in run.notes[-1]
    problem, theta0, _ = problem_and_start("linear")
    run = gf.simulate(problem, theta0, PLAIN, 1.0, conserve=True, save_at=9, solver="LSODA", rtol=1e-6)
    assert deviation(problem, run) < 1e-14
    assert "drifts" in run.notes[-1]


def test_what_cannot_be_conserved_is_said():
    tanh, theta0 = make(gf.FullyConnected([3, 4, 1], "tanh"), "square"), 0.3 * np.ones(16)
    for dynamics in (PLAIN, gf.GD(step=0.1)):
        with pytest.raises(ValueError, match="conserve = True: .* linear or homogeneous"):
            gf.simulate(tanh, theta0, dynamics, 1.0, conserve=True)
    linear, theta0, _ = problem_and_start("linear")
    with pytest.raises(ValueError, match="one per parameter|no conserved"):
        gf.simulate(linear, theta0, gf.GradientFlow(rates=np.ones(linear.size)), 1.0, conserve=True)
    with pytest.raises(ValueError, match="clock"):
        gf.simulate(linear, theta0, PLAIN, 1.0, conserve=True, clock="log_time")
    with pytest.raises(ValueError, match="conserve"):
        gf.simulate(linear, np.stack([theta0] * 3), PLAIN, 1.0, conserve=True, ensemble="lanes")
