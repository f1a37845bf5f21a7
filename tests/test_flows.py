"""Flows: conversions, equivalences between coordinates, invariants, discrete twins."""

import cases
import numpy as np
import pytest
from numpy.testing import assert_allclose

import gradflow as gf

TIGHT = {"rtol": 1e-12, "solver": "dop853"}
PLAIN_RATES = {"radial_rate": 1.0, "angular_rate": gf.PowerRate(1.0, -2.0)}


def run(problem, theta0, dynamics, t_end=2.0, **options):
    return gf.simulate(problem, theta0, dynamics, t_end=t_end, save_at=21, **(TIGHT | options))


@pytest.mark.parametrize("network", ["deep linear", "tanh", "linear skip", "diagonal", "convolutional"])
@pytest.mark.parametrize("groups", ["whole", "layer", "neuron"])
def test_theta_survives_polar_and_weight_norm_coordinates(network, groups):
    problem = cases.make(network, "square")
    theta = cases.start(problem)
    for flow in (gf.PolarFlow(groups), gf.WeightNormFlow(groups), gf.WeightNormFlow(groups, unit_start=True)):
        flow = flow.prepared(problem, theta)
        back = flow.unpack(problem, flow.pack(problem, theta))
        assert np.abs(back / theta - 1).max() < 1e-15
        assert np.array_equal(flow.unpack(problem, np.stack([flow.pack(problem, theta)] * 2))[1], back)


def test_positive_diagonal_starts_are_carried_in_logarithms():
    problem = cases.make("diagonal", "square")
    theta = np.abs(cases.start(problem))
    flow = gf.PolarFlow().prepared(problem, theta)
    assert flow.log_directions
    assert np.abs(flow.unpack(problem, flow.pack(problem, theta)) / theta - 1).max() < 1e-15
    assert not gf.PolarFlow().prepared(problem, -theta).log_directions


def test_a_theta_of_lm_form_survives_and_keeps_its_function():
    problem = cases.make("deep linear", "square")
    flow = gf.LMFlow()
    layers = problem.layers(cases.start(problem))
    theta = problem.flatten({"W1": layers["W1"] / np.linalg.norm(layers["W1"]),
                             "W2": layers["W2"] / np.linalg.norm(layers["W2"]), "W3": layers["W3"]})  # fmt: skip
    back = flow.unpack(problem, flow.pack(problem, theta))
    assert np.abs(back / theta - 1).max() < 1e-15
    general = cases.start(problem)
    same = flow.unpack(problem, flow.pack(problem, general))
    assert np.allclose(problem.outputs(same), problem.outputs(general), rtol=1e-13)


def test_a_scaled_start_keeps_the_directions_and_has_the_scale():
    problem = gf.Problem(gf.FullyConnected([3, 4, 1]), gf.losses.Square(), np.eye(3), np.ones((3, 1)))
    theta = problem.init(seed=0)
    scaled = gf.LMFlow().scaled(problem, theta, -7.0)
    assert gf.simulate(problem, scaled, gf.LMFlow(), t_end=0.1).records["rho"][0] == pytest.approx(7.0, rel=1e-14)
    assert_allclose(problem.outputs(scaled), -7.0 / gf.measure.rho(problem, theta) * problem.outputs(theta), rtol=1e-13)


def test_a_start_that_changes_the_function_says_so():
    problem = cases.make("tanh", "square")
    with pytest.warns(UserWarning, match="another function than theta0"):
        gf.LMFlow().pack(problem, cases.start(problem))


@pytest.mark.parametrize(
    ("network", "groups"),
    [("deep linear", "layer"), ("deep linear", "neuron"), ("tanh", "layer"), ("tanh", "neuron"), ("diagonal", "whole")],
)
def test_polar_flow_with_matching_rates_is_the_plain_flow(network, groups):
    problem = cases.make(network, "square", decay=0.02)
    theta0 = cases.start(problem)
    plain = run(problem, theta0, gf.GradientFlow())
    polar = run(problem, theta0, gf.PolarFlow(groups, **PLAIN_RATES))
    assert np.abs(plain.theta - polar.theta).max() < 1e-9
    by_python = run(problem, theta0, gf.PolarFlow(groups, 1.0, lambda r: 1 / r**2), t_end=0.5)
    assert np.abs(by_python.end - plain.at(0.5)).max() < 1e-9


def test_logarithmic_and_cartesian_directions_agree():
    problem = cases.make("diagonal", "square")
    theta0 = np.abs(cases.start(problem))
    both = [run(problem, theta0, gf.PolarFlow(angular_rate=3.0, log_directions=logs)) for logs in (True, False)]
    assert np.abs(both[0].theta - both[1].theta).max() < 1e-9


def test_polar_flow_with_unit_rates_is_weight_normalisation_with_unit_directions():
    problem = cases.make("tanh", "square")
    theta0 = cases.start(problem)
    polar = run(problem, theta0, gf.PolarFlow("neuron"))
    weight_norm = run(problem, theta0, gf.WeightNormFlow("neuron", unit_start=True))
    assert np.abs(polar.theta - weight_norm.theta).max() < 1e-9


def test_lm_flow_is_weight_normalisation_with_frozen_scales():
    problem = cases.make("deep linear", "square")
    lm = run(problem, cases.start(problem), gf.LMFlow())
    frozen = gf.WeightNormFlow("layer", scale_rate=(0.0, 0.0, 1.0), unit_start=True)
    weight_norm = run(problem, lm.theta[0], frozen)
    assert np.abs(lm.theta - weight_norm.theta).max() < 1e-9


def test_rates_per_layer_and_per_parameter():
    problem = cases.make("deep linear", "square")
    theta0 = cases.start(problem)
    by_layer = run(problem, theta0, gf.GradientFlow(rates={"W2": 0.1}))
    vector = problem.flatten({"W1": np.ones((4, 3)), "W2": np.full((2, 4), 0.1), "W3": np.ones((1, 2))})
    by_entry = run(problem, theta0, gf.GradientFlow(rates=vector))
    assert np.array_equal(by_layer.theta, by_entry.theta)
    assert np.abs(by_layer.end - run(problem, theta0, gf.GradientFlow()).end).max() > 1e-3
    uniform = run(problem, theta0, gf.GradientFlow(rates=np.full(problem.size, 2.0)), t_end=1.0)
    assert np.abs(uniform.end - run(problem, theta0, gf.GradientFlow()).end).max() < 1e-10
    assert by_layer.max_drift < 1e-10
    assert set(by_layer.drift) == {"layer 1", "layer 2"}


@pytest.mark.parametrize(
    ("network", "decay"),
    [(name, decay) for name in ("deep linear", "quadratic", "identity skip", "diagonal") for decay in (0.0, 0.3)]
    + [("residual", 0.0)],
)
def test_plain_flow_keeps_its_invariants(network, decay):
    problem = cases.make(network, "logistic", decay=decay)
    trajectory = run(problem, cases.start(problem, scale=0.5), gf.GradientFlow(), t_end=1.0)
    assert trajectory.drift
    assert trajectory.max_drift < 1e-10


@pytest.mark.parametrize("flow", [gf.PolarFlow("layer"), gf.PolarFlow("neuron"), gf.LMFlow(), gf.WeightNormFlow()])
def test_normalised_flows_stay_on_their_spheres(flow):
    problem = cases.make("deep linear", "square")
    trajectory = run(problem, cases.start(problem), flow)
    assert trajectory.drift
    assert trajectory.max_drift < 1e-10


def test_networks_without_invariants_say_so():
    problem = cases.make("tanh", "square")
    trajectory = run(problem, cases.start(problem), gf.GradientFlow())
    assert trajectory.drift == {}
    assert "no invariant known" in repr(trajectory)


def test_gradient_descent_is_euler_bit_for_bit():
    problem = cases.make("tanh", "square", decay=0.1)
    theta = cases.start(problem)
    trajectory = gf.simulate(problem, theta, gf.GD(step=0.05), t_end=0.5, save_at="steps")
    for k in range(11):
        assert np.array_equal(trajectory.theta[k], theta)
        assert trajectory.t[k] == k * 0.05
        theta = theta - 0.05 * problem.gradient(theta)


def test_number_of_steps_is_the_floor_of_the_contract():
    problem = cases.make("tanh", "square")
    for t_end, steps in ((1.0, 10), (0.95, 9), (0.3, 3), (0.7, 7)):
        trajectory = gf.simulate(problem, cases.start(problem), gf.GD(step=0.1), t_end=t_end)
        assert trajectory.counts["accepted"] == steps
        assert trajectory.t_end == steps * 0.1


@pytest.mark.parametrize("flow", [gf.PolarFlow("layer"), gf.PolarFlow("neuron"), gf.LMFlow(decay=0.1)])
def test_discrete_normalised_steps_renormalise_and_converge_to_the_flow(flow):
    problem = cases.make("deep linear", "square")
    theta0 = cases.start(problem)
    exact = run(problem, theta0, flow, t_end=1.0).end
    errors = []
    for step in (0.02, 0.01):
        descent = gf.simulate(problem, theta0, gf.GD(step=step, flow=flow), t_end=1.0)
        assert descent.max_drift < 1e-14
        errors.append(np.abs(descent.end - exact).max())
    assert 1.9 < errors[0] / errors[1] < 2.1


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_follows_its_recursion(nesterov):
    problem = cases.make("tanh", "square")
    theta, v = cases.start(problem), np.zeros(problem.size)
    trajectory = gf.simulate(problem, theta, gf.Momentum(0.05, beta=0.8, nesterov=nesterov), t_end=0.5, save_at="steps")
    for k in range(11):
        assert np.abs(trajectory.theta[k] - theta).max() < 1e-14
        v = 0.8 * v - 0.05 * problem.gradient(theta + (0.8 * v if nesterov else 0))
        theta = theta + v


@pytest.mark.parametrize("loss", ["square", "half square sum"])
@pytest.mark.parametrize(("batch_size", "replacement"), [(3, False), (3, True), (7, False)])
def test_sgd_follows_its_batches(loss, batch_size, replacement):
    problem = cases.make("tanh", loss, decay=0.01)
    theta = cases.start(problem)
    rule = gf.SGD(0.05, batch_size=batch_size, replacement=replacement, seed=5)
    trajectory = gf.simulate(problem, theta, rule, t_end=0.5, save_at="steps")
    rng, order = np.random.default_rng(5), []
    for k in range(11):
        assert np.abs(trajectory.theta[k] - theta).max() < 1e-13
        if replacement:
            batch = rng.integers(7, size=batch_size)
        else:
            order = order if len(order) else list(rng.permutation(7))
            batch, order = order[:batch_size], order[batch_size:]
        part = problem.with_data(problem.x[batch], problem.y[batch])
        scale = 7 / len(batch) if problem.loss.reduction == "sum" else 1.0
        gradient = scale * (part.gradient(theta) - 0.02 * theta) + 0.02 * theta
        theta = theta - 0.05 * gradient


def test_sgd_with_the_whole_data_is_gradient_descent_and_resumes_where_it_stopped():
    problem = cases.make("tanh", "square")
    theta0 = cases.start(problem)
    whole = gf.simulate(problem, theta0, gf.SGD(0.05, batch_size=7), t_end=1.0)
    assert np.abs(whole.end - gf.simulate(problem, theta0, gf.GD(0.05), t_end=1.0).end).max() < 1e-13
    for replacement in (False, True):
        rule = gf.SGD(0.05, batch_size=2, seed=1, replacement=replacement)
        longer = gf.simulate(problem, theta0, rule, t_end=2.0)
        assert np.array_equal(gf.simulate(problem, theta0, rule, t_end=0.85).extend(2.0).end, longer.end)
        assert np.array_equal(longer.at(0.85), gf.simulate(problem, theta0, rule, t_end=0.85).end)


class Damped(gf.Flow):
    """A dynamics of a user's own: theta' = -gradient - theta."""

    def velocity(self, problem, t, state):
        return -problem.gradient(state) - state


def test_a_dynamics_of_ones_own_runs_and_a_decayed_problem_is_its_oracle():
    problem, decayed = cases.make("tanh", "square"), cases.make("tanh", "square", decay=0.5)
    theta0 = cases.start(problem)
    own = run(problem, theta0, Damped())
    assert np.abs(own.end - run(decayed, theta0, gf.GradientFlow()).end).max() < 1e-10


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: gf.GD(step=-0.1), ValueError, "step = -0.1"),
        (lambda: gf.GD(step=0), ValueError, "positive"),
        (lambda: gf.GD(step=0.1, flow=gf.GD(0.1)), TypeError, "must be a flow"),
        (lambda: gf.SGD(step=0.1, batch_size=0), ValueError, "batch_size = 0"),
        (lambda: gf.Momentum(step=0.1, beta=1.0), ValueError, "beta = 1.0"),
        (lambda: gf.PolarFlow(groups="columns"), ValueError, "whole, layer, neuron"),
        (lambda: gf.PolarFlow(radial_rate=-1), ValueError, "radial_rate = -1"),
        (lambda: gf.PowerRate(0.0), ValueError, "positive"),
        (lambda: gf.WeightNormFlow(direction_rate=-1), ValueError, "at least 0"),
        (lambda: gf.LMFlow(decay=-1), ValueError, "decay = -1"),
    ],
)
def test_bad_dynamics_say_what_is_wrong(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("network", "dynamics", "message"),
    [
        ("tanh", gf.SGD(0.1, batch_size=100), "only 7 samples"),
        ("deep linear", gf.GradientFlow(rates={"V": 1.0}), "known are"),
        ("deep linear", gf.GradientFlow(rates=[1.0, 2.0]), "one per parameter"),
        ("deep linear", gf.GradientFlow(rates={"W1": 0.0}), "positive and finite"),
        ("deep linear", gf.WeightNormFlow("layer", scale_rate=(1.0, 2.0)), "one per group"),
        ("diagonal", gf.LMFlow(), "use PolarFlow"),
    ],
)
def test_dynamics_that_do_not_fit_the_problem_say_so(network, dynamics, message):
    problem = cases.make(network, "square")
    with pytest.raises(ValueError, match=message):
        gf.simulate(problem, cases.start(problem), dynamics, t_end=1.0)


def test_polar_flow_needs_a_direction_and_lm_flow_a_problem_without_decay():
    problem = cases.make("deep linear", "square", decay=0.1)
    with pytest.raises(ValueError, match="groups have norm zero"):
        gf.simulate(problem, np.zeros(problem.size), gf.PolarFlow(), t_end=1.0)
    with pytest.raises(ValueError, match="decay on rho"):
        gf.simulate(problem, cases.start(problem), gf.LMFlow(decay=0.1), t_end=1.0)
