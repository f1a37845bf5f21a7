"""Polar, weight-normalised, LM and rated flows through kinks: closed forms, the plain flow, discrete steps, files."""

import cases
import numpy as np
import oracles
import pytest
from scipy.optimize import brentq
from test_kinks_cases import regression

import gradflow as gf
from gradflow.kinks.charted import ChartedNetwork, masked_network
from gradflow.kinks.slide import Surfaces, point, ratio, surface
from gradflow.resuming import at_its_end

pytestmark = pytest.mark.filterwarnings("ignore:the network is not homogeneous")

PLAIN_RATE = gf.PowerRate(1.0, -2.0)
EVENT = ["kind", "layer", "neuron", "sample", "mask"]


def saturating(r):
    """A rate that only Python knows."""
    return 1.0 / (1.0 + r * r)


FLOWS = {
    "polar": gf.PolarFlow(),
    "polar, whole": gf.PolarFlow(groups="whole", angular_rate=0.1),
    "polar, neurons": gf.PolarFlow(groups="neuron"),
    "polar, own rate": gf.PolarFlow(radial_rate=saturating, angular_rate=gf.PowerRate(2.0, -1.0)),
    "weight norm": gf.WeightNormFlow(),
    "weight norm, layers": gf.WeightNormFlow(groups="layer", unit_start=True),
    "lm": gf.LMFlow(),
    "lm, decay": gf.LMFlow(decay=0.05),
    "rates": gf.GradientFlow(rates={"W1": 2.0, "b1": 2.0, "W2": 0.5}),
    "rates apart": gf.GradientFlow(rates={"W1": 0.3, "b1": 2.0}),
}


def small(bias=True):
    problem = cases.make(gf.FullyConnected([3, 8, 1], "relu", bias=bias), "square", n=12)
    return problem, problem.init(1.0, seed=3)


def one_neuron(x=((1.0, 1.0), (0.0, 1.0)), y=(1.0, -1.2)):
    return gf.Problem(gf.FullyConnected([2, 1, 1]), oracles.HALF_SUM, x, y)


@pytest.mark.parametrize("name", FLOWS)
def test_metric_is_that_of_the_smooth_flow(name):
    """Off the kinks the velocity of the state is the flow's own; on tangents N B N^T is N_theta M N_theta^T."""
    problem, theta = small()
    flow = FLOWS[name]
    state = flow.pack(problem, theta)
    network = ChartedNetwork(problem, flow)
    masks = (network.forward(state, np.zeros(network.size))[0] > 0.0).astype(float)
    run = network.run(state, masks)
    np.testing.assert_allclose(network.chart.theta(state), flow.unpack(problem, state), atol=1e-15)
    point = gf.simulate(problem, theta, flow, t_end=1e-9, kinks="ignore", save_at="steps", solver="rk45")
    slope = (point.states[-1] - point.states[0]) / point.t_end
    np.testing.assert_allclose(-run.gradient, slope, atol=1e-6)
    kinks = np.array([3, 20, 41])
    normals = network.normals(state, run.slope, run.h, kinks)
    eps = 1e-6
    for row, kink in zip(normals, kinks, strict=True):
        moved = [network.forward(state + side * eps * row, masks)[0][kink] for side in (1.0, -1.0)]
        assert (moved[0] - moved[1]) / (2 * eps) == pytest.approx(row @ row, rel=1e-7)
    assert run.speed**2 == pytest.approx(run.slopes @ run.gradient)
    gram = normals @ network.raised(state, normals).T
    np.testing.assert_allclose(gram, gram.T, atol=1e-14)


@pytest.mark.parametrize(
    "name", [name for name in FLOWS if name not in ("polar, neurons", "weight norm", "rates apart")]
)
def test_projection_per_neuron_is_the_dense_one_in_the_metric(name):
    """On a sliding kink of the first layer the metric multiplies the normal by a number."""
    problem, theta = small()
    flow, rng = FLOWS[name], np.random.default_rng(1)
    state = flow.pack(problem, theta)
    network = ChartedNetwork(problem, flow)
    assert network.flat
    kinks = np.array([3, 11, 20, 42])
    masks = (network.forward(state, np.zeros(network.size))[0] > 0.0).astype(float)
    state = surface(network, kinks).restore(state, masks, rounds=2)
    run, u = network.run(state, masks), rng.normal(size=state.size)
    covector = network.raised(state, u[None])[0]
    flat = surface(network, kinks).multipliers(state, run, covector.copy())
    dense = Surfaces(network, kinks).multipliers(state, run, covector.copy())
    np.testing.assert_allclose(flat[0], dense[0], rtol=1e-10)
    np.testing.assert_allclose(flat[1], dense[1], atol=1e-13)


@pytest.mark.parametrize("groups", ["layer", "whole", "neuron"])
@pytest.mark.parametrize(
    ("hidden", "activation"), [((8,), "relu"), ((6, 6), "leaky_relu(0.1)"), ((6, 5), ("relu", "abs"))]
)
def test_polar_flow_with_the_rates_of_the_plain_flow_is_the_plain_flow(groups, hidden, activation):
    problem = cases.make(gf.FullyConnected([3, *hidden, 1], activation, bias=True), "square", n=12)
    theta0 = problem.init(1.2, seed=3)
    plain = gf.simulate(problem, theta0, gf.GradientFlow(), t_end=3.0, rtol=1e-11)
    flow = gf.PolarFlow(groups=groups, angular_rate=PLAIN_RATE)
    polar = gf.simulate(problem, theta0, flow, t_end=3.0, rtol=1e-11)
    assert plain.kinks.count("slide") >= 1
    assert np.abs(polar.end - plain.end).max() < 1e-9
    assert polar.kinks.events[EVENT[:-1]].tolist() == plain.kinks.events[EVENT[:-1]].tolist()
    np.testing.assert_allclose(polar.kinks.events["time"], plain.kinks.events["time"], atol=1e-8)
    np.testing.assert_allclose(polar.kinks.events["mask"], plain.kinks.events["mask"], atol=1e-7)
    assert all(values.max() < 1e-8 for values in polar.drift.values())


def test_rates_of_one_are_the_plain_flow_and_equal_rates_a_change_of_time():
    problem, theta0 = regression([5, 12, 8, 1], n=20)
    plain = gf.simulate(problem, theta0, gf.GradientFlow(), t_end=3.0, rtol=1e-10)
    same = gf.simulate(problem, theta0, gf.GradientFlow(rates=np.ones(problem.size)), t_end=3.0, rtol=1e-10)
    slow = gf.simulate(problem, theta0, gf.GradientFlow(rates=np.full(problem.size, 0.25)), t_end=12.0, rtol=1e-10)
    assert np.abs(same.end - plain.end).max() < 1e-12
    assert np.abs(slow.end - plain.end).max() < 1e-7
    np.testing.assert_allclose(slow.kinks.events["time"], 4.0 * plain.kinks.events["time"], atol=1e-7)


def test_lm_flow_is_weight_normalisation_with_frozen_scales():
    problem, theta0 = small(bias=False)
    layers = {name: block / np.linalg.norm(block) for name, block in problem.layers(theta0).items()}
    theta0 = problem.flatten({**layers, "W2": 1.7 * layers["W2"]})
    lm = gf.simulate(problem, theta0, gf.LMFlow(), t_end=6.0, rtol=1e-11)
    flow = gf.WeightNormFlow(groups="layer", scale_rate=(0.0, 1.0), unit_start=True)
    frozen = gf.simulate(problem, theta0, flow, t_end=6.0, rtol=1e-11)
    assert lm.kinks.count("slide") >= 1
    assert np.abs(lm.end - frozen.end).max() < 1e-9
    assert lm.kinks.events[EVENT[:-1]].tolist() == frozen.kinks.events[EVENT[:-1]].tolist()


BRANCHING = (([1.0, 1.0], [0.0, 1.0], [1.0, -1.0]), (0.3, -2.0, -1.0))


def test_lm_neuron_on_its_kink_branches_when_rho_vanishes():
    """V_1 = (1, 0) is held by the kink, so that only rho moves: rho' = -0.7 - 2 rho, zero at log(13/7)/2."""
    run = gf.simulate(one_neuron(*BRANCHING), [1.0, 0.0, 0.3], gf.LMFlow(), t_end=2.0, rtol=1e-9)
    point = run.kinks.branch_points[0]
    assert point.time == pytest.approx(0.5 * np.log(13.0 / 7.0), abs=1e-8)
    assert point.sigma[0] == pytest.approx(0.65, abs=1e-7)
    np.testing.assert_allclose(point.theta, [1.0, 0.0, 0.0], atol=1e-9)
    inside = run.t < point.time
    np.testing.assert_allclose(run.records["rho"][inside], 0.65 * np.exp(-2.0 * run.t[inside]) - 0.35, atol=1e-8)
    paths = gf.branches(run)
    assert [share for share, _ in paths] == pytest.approx([0.8, 0.2])
    assert [bool(path.end[1] > 0.0) for _, path in paths] == [True, False]
    assert np.abs(paths[0][1].end - run.end).max() < 1e-7


def test_share_of_discrete_lm_steps_that_leave_the_branch_point_to_the_active_side():
    """Steps of the angle of V_1 and of rho from random starts near the kink."""
    rng, x, y, step = np.random.default_rng(0), *map(np.array, BRANCHING), 1e-2
    angle, rho = 1e-2 * rng.normal(size=2000), 0.3 + 1e-2 * rng.normal(size=2000)
    for _ in range(150):
        unit, turn = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        z = x @ unit
        error = rho * np.maximum(z, 0.0) - y[:, None]
        angle = angle + np.arctan(-step * (rho * error * (z > 0.0) * (x @ turn)).sum(0))
        rho = rho - step * (error * np.maximum(z, 0.0)).sum(0)
    assert np.mean(angle > 0.0) == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize("power", [0.0, 1.0, -1.0])
def test_a_neuron_slides_with_radial_rates(power):
    """u_1 = (1, 0) is held: p' = -p^k a e, a' = -a^k p e with e = a p - 1 conserve p^(2-k) - a^(2-k)."""
    flow = gf.PolarFlow(groups="neuron", radial_rate=gf.PowerRate(1.0, power), angular_rate=3.0)
    run = gf.simulate(one_neuron(), [0.6, 0.0, 0.3], flow, t_end=60.0, rtol=1e-10)
    p, _, a = run.theta.T
    assert run.kinks.events["kind"].tolist() == ["start", "slide"]
    kept = 0.6 ** (2.0 - power) - 0.3 ** (2.0 - power)
    np.testing.assert_allclose(p ** (2.0 - power) - a ** (2.0 - power), kept, atol=1e-8)
    end = brentq(lambda s: s ** (2.0 - power) - s ** (power - 2.0) - kept, 0.5, 3.0, xtol=1e-14)
    np.testing.assert_allclose(run.end, [end, 0.0, 1.0 / end], atol=1e-7)


@pytest.mark.parametrize(("radial", "angular"), [(1.0, 1.0), (2.0, 0.5), (0.3, 1.0)])
def test_a_neuron_slides_in_polar_coordinates_of_all_its_weights(radial, angular):
    """On q = 0, (p, a) = r (cos f, sin f), r^2 + (eta_r/eta_u) log cos 2f is conserved; the slide ends at a p = 1."""
    ratio, p0, a0 = radial / angular, 0.9, 0.3
    flow = gf.PolarFlow(groups="whole", radial_rate=radial, angular_rate=angular)
    run = gf.simulate(one_neuron(), [p0, 0.0, a0], flow, t_end=60.0, rtol=1e-10)
    assert run.kinks.events["kind"].tolist() == ["start", "slide"]

    def kept(square, difference):
        return square + ratio * np.log(difference / square)

    p, q, a = run.theta.T
    first = kept(p0**2 + a0**2, p0**2 - a0**2)
    np.testing.assert_allclose(kept(p**2 + a**2, p**2 - a**2), first, atol=2e-8 * (1.0 + ratio))
    np.testing.assert_allclose(q, 0.0, atol=1e-14)
    square = brentq(lambda s: kept(s, np.sqrt(s * s - 4.0)) - first, 2.0 + 1e-14, 60.0, xtol=1e-14)
    assert (run.end**2).sum() == pytest.approx(square, abs=1e-7)
    assert run.end[0] * run.end[2] == pytest.approx(1.0, abs=1e-7)


@pytest.mark.parametrize("name", [name for name in FLOWS if name != "rates apart"])
def test_masks_of_sliding_kinks_are_those_of_the_plain_flow_at_the_same_theta(name):
    """Two layers: both lambda and v along the normal are multiplied by the number that the metric is there."""
    problem, theta = regression([5, 20, 1])
    run = gf.simulate(problem, theta, gf.GradientFlow(), t_end=8.0, rtol=1e-7)
    plain = at_its_end(run)
    assert plain.sliding.size >= 3
    theta, masks = run.end.copy(), plain.masks.copy()
    flow = FLOWS[name]
    if name.startswith("lm"):
        layers = {key: block for key, block in problem.layers(theta).items()}
        size = np.sqrt((layers["W1"] ** 2).sum() + (layers["b1"] ** 2).sum())
        theta = problem.flatten({**layers, "W1": layers["W1"] / size, "b1": layers["b1"] / size})
    expected, found = masked_network(problem, gf.GradientFlow()), masked_network(problem, flow)
    state = flow.pack(problem, theta)
    masks[plain.sliding] = 0.0
    sigma = [masks_at(network, at, masks, plain.sliding) for network, at in ((expected, theta), (found, state))]
    np.testing.assert_allclose(sigma[1], sigma[0], rtol=1e-8, atol=1e-10)


def masks_at(network, state, masks, sliding):
    """sigma of sliding kinks at a state."""
    here = point(network, state, masks, surface(network, sliding))
    return ratio(here.multipliers, here.attraction)


@pytest.mark.parametrize("name", FLOWS)
def test_discrete_steps_come_to_the_same_place_in_proportion_to_the_step(name):
    problem, theta0 = small()
    flow = FLOWS[name]
    run = gf.simulate(problem, theta0, flow, t_end=2.0, rtol=1e-9)
    assert run.status == gf.Status.REACHED_END
    if name != "polar, neurons":
        assert run.kinks.count("cross") > 3
    errors = [
        np.abs(gf.simulate(problem, theta0, gf.GD(step, flow=flow), t_end=2.0).end - run.end).max()
        for step in (4e-3, 1e-3, 2.5e-4)
    ]
    assert errors[2] < 1e-3
    assert 6.0 < errors[0] / errors[2] < 40.0


DEEP = [
    ("leaky_relu(0.2)", gf.losses.CrossEntropy(), (6,), 3),
    (("relu", "tanh", "relu"), gf.losses.Logistic(), (6, 5, 5), 1),
    ("abs", gf.losses.Square(), (6, 6), 1),
]


@pytest.mark.parametrize("name", ["polar", "weight norm, layers", "lm", "rates of a layer"])
@pytest.mark.parametrize(("activation", "loss", "hidden", "outputs"), DEEP, ids=[case[1].name for case in DEEP])
def test_depth_activations_and_losses_against_discrete_steps(name, activation, loss, hidden, outputs):
    problem = cases.make(gf.FullyConnected([3, *hidden, outputs], activation), loss, n=12)
    theta0 = problem.init(1.3, seed=4)
    flow = FLOWS.get(name, gf.GradientFlow(rates={"W1": 0.3, "W2": 2.0}))
    run = gf.simulate(problem, theta0, flow, t_end=1.0, rtol=1e-8)
    assert run.status == gf.Status.REACHED_END
    assert len(run.kinks.events) >= 1
    errors = [
        np.abs(gf.simulate(problem, theta0, gf.GD(step, flow=flow), t_end=1.0).end - run.end).max()
        for step in (2e-3, 1.25e-4)
    ]
    assert errors[1] < 60 * 1.25e-4
    assert 6.0 < errors[0] / errors[1] < 40.0
