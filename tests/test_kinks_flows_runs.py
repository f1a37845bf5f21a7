"""Whole runs of polar, weight-normalised, LM and rated flows through kinks: normalised classifiers, seeds, files."""

import numpy as np
import oracles
import pytest
from test_kinks_cases import regression

import gradflow as gf
from gradflow.kinks.charted import ChartedNetwork
from gradflow.status import Status
from gradflow.steppers.kinked import Kinked

FLOWS = {
    "polar": gf.PolarFlow(),
    "polar, whole": gf.PolarFlow(groups="whole", angular_rate=0.05),
    "polar, neurons": gf.PolarFlow(groups="neuron"),
    "weight norm": gf.WeightNormFlow(),
    "lm": gf.LMFlow(decay=0.01),
    "rates": gf.GradientFlow(rates={"W1": 0.3, "b1": 2.0}),
}
pytestmark = pytest.mark.filterwarnings("ignore:the network is not homogeneous")


def orthants():
    """Ten samples of signed classes whose signed inputs are positive, and unit layers of widths 4-12-1."""
    signed = np.abs(np.random.default_rng(0).normal(size=(10, 4)))
    y = np.repeat([1.0, -1.0], 5)
    x = y[:, None] * signed / np.linalg.norm(signed, axis=1, keepdims=True)
    rng = np.random.default_rng(1)
    layers = [rng.normal(size=(12, 4)), -rng.normal(size=(1, 12))]
    problem = gf.Problem(gf.FullyConnected([4, 12, 1]), gf.losses.Square(), x, y)
    return problem, [layer / np.linalg.norm(layer) for layer in layers]


def normalised(rho, decay, **options):
    problem, (first, second) = orthants()
    theta0 = problem.flatten({"W1": first, "W2": rho * second})
    return gf.simulate(problem, theta0, gf.LMFlow(decay=decay), **options)


@pytest.mark.parametrize(("decay", "rho", "value"), [(0.1, 1.504590, 0.349339), (0.01, 2.198229, 0.052169)])
@pytest.mark.parametrize("start", [1.0, 3.0, 10.0])
def test_normalised_classifiers_reach_the_convex_optimum_from_every_scale(decay, rho, value, start):
    """rho and the objective at the end are those of the convex problem over (w+, w-); V_1 has rank two."""
    run = normalised(start, decay, t_end=300.0, rtol=1e-7)
    assert run.status == Status.REACHED_END
    assert run.records["rho"][-1] == pytest.approx(rho, abs=2e-6)
    assert run.loss[-1] == pytest.approx(value, abs=1e-6)
    singular = np.linalg.svd(run.problem.layers(run.end)["W1"])[1]
    assert singular[2] < 1e-4
    assert run.counts["gradients"] < 12_000
    assert (np.diff(run.loss) < 1e-10).all()
    assert run.drift["|V| = 1"].max() < 1e-7


def test_without_decay_the_scale_at_the_end_follows_the_scale_at_the_start():
    ends = [normalised(rho, 0.0, t_end=50.0, rtol=1e-7) for rho in (1.0, 3.0, 10.0)]
    margins = [(run.problem.outputs(run.end) * run.problem.y).min() / run.records["rho"][-1] for run in ends]
    assert [run.records["rho"][-1] for run in ends] == pytest.approx([2.34, 3.16, 9.996], abs=0.05)
    assert margins[0] > margins[1] > margins[2]


def test_discrete_lm_steps_from_a_large_scale_come_to_the_flow():
    run = normalised(10.0, 0.01, t_end=20.0, rtol=1e-8)
    assert run.kinks.count("slide") == 5
    flow, theta0 = run.dynamics, run.theta[0]
    steps = [gf.simulate(run.problem, theta0, gf.GD(step, flow=flow), t_end=20.0) for step in (5e-3, 1.25e-3)]
    away = [abs(step.records["rho"][-1] - run.records["rho"][-1]) for step in steps]
    assert away[1] < 1e-4
    assert 3.0 < away[0] / away[1] < 6.0


@pytest.mark.parametrize("name", FLOWS)
def test_tolerance_sets_the_error(name):
    problem, theta0 = regression([5, 12, 1], n=24)
    ends = [gf.simulate(problem, theta0, FLOWS[name], t_end=2.0, rtol=rtol).end for rtol in (1e-6, 1e-7, 1e-10)]
    errors = [np.abs(end - ends[2]).max() for end in ends[:2]]
    assert errors[0] < 3e-5
    assert errors[1] < min(3e-6, 0.5 * errors[0])


SEEDS = [
    (name, widths, seed) for name in FLOWS for widths in ([5, 12, 1], [1, 20, 1], [4, 8, 8, 1]) for seed in range(4)
]


@pytest.mark.parametrize(
    ("name", "widths", "seed"), [pytest.param(*case, marks=pytest.mark.slow if case[2] else []) for case in SEEDS]
)
def test_random_starts_reach_the_end_with_falling_loss_and_kept_invariants(name, widths, seed):
    problem, theta0 = regression(widths, seed, n=20)
    run = gf.simulate(problem, theta0, FLOWS[name], t_end=3.0, rtol=1e-7, save_at="steps")
    assert run.status == Status.REACHED_END
    assert (np.diff(run.loss) <= 1e-9).all()
    for values in run.drift.values():
        assert values.max() < 1e-5


@pytest.mark.parametrize("seed", [0, 2, 5])
@pytest.mark.parametrize("flow", [gf.PolarFlow(groups="neuron"), gf.WeightNormFlow(unit_start=True)], ids=repr)
def test_a_scale_that_reaches_zero_goes_on_or_stays_as_in_discrete_steps(flow, seed):
    """With a constant radial rate a neuron comes to the origin in finite time; all its kinks meet there."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(5, 2)), rng.normal(size=5)
    problem = gf.Problem(gf.FullyConnected([2, 3, 1]), oracles.HALF_SUM, x, y)
    theta0 = problem.init(1.0, seed=seed) * np.repeat([0.05, 2.0], [6, 3])
    run = gf.simulate(problem, theta0, flow, t_end=2.0, rtol=1e-8)
    assert run.status == Status.REACHED_END
    assert run.states[:, :3].min() < 1e-12
    errors = [
        np.abs(gf.simulate(problem, theta0, gf.GD(step, flow=flow), t_end=2.0).end - run.end).max()
        for step in (1e-3, 1e-4)
    ]
    assert errors[1] < 3e-4
    assert errors[0] > 3.0 * errors[1]


@pytest.mark.parametrize("name", FLOWS)
def test_runs_extend_repeat_and_travel_through_files_bit_for_bit(name, tmp_path):
    problem, theta0 = regression([5, 12, 1], n=24)
    whole = gf.simulate(problem, theta0, FLOWS[name], t_end=2.0)
    part = gf.simulate(problem, theta0, FLOWS[name], t_end=1.1)
    assert whole.states.shape[1] == FLOWS[name].pack(problem, theta0).size
    assert np.array_equal(part.extend(2.0).states[-1], whole.states[-1])
    assert np.array_equal(whole.at(whole.t), whole.theta)
    part.save(tmp_path / "part.nc")
    back = gf.Trajectory.load(tmp_path / "part.nc")
    assert np.array_equal(back.extend(2.0).states[-1], whole.states[-1])
    assert back.kinks.events.tolist() == part.kinks.events.tolist()
    assert 0 < len(part.kinks.events) < len(whole.kinks.events)


def test_a_state_of_the_wrong_length_is_refused():
    problem, theta0 = regression([5, 12, 1], n=24)
    network = ChartedNetwork(problem, gf.PolarFlow())
    with pytest.raises(ValueError, match=r"state has shape \(85,\): give shape \(87,\)"):
        Kinked(problem, 0.0, theta0, network=network)
