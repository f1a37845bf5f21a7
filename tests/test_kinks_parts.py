"""Parts of the kink machinery, each against an independent calculation."""

import numpy as np
import pytest
from scipy.optimize import lsq_linear
from test_kinks_cases import regression

import gradflow as gf
from gradflow.kinks import decide, expected_events, passes, probability_active
from gradflow.kinks.arrive import start
from gradflow.kinks.branch import weighted_sides
from gradflow.kinks.collinear import representatives
from gradflow.kinks.look import (
    Lookout,
    Step,
    bernstein_from_powers,
    bernstein_from_values,
    bracketed_root,
    power_weights,
)
from gradflow.kinks.masked import MaskedNetwork
from gradflow.kinks.slide import solve_gram, surface
from gradflow.steppers import tableaux


def signs(network, theta):
    masks = np.zeros(network.size)
    for _ in network.kinked_layers:
        masks = (network.forward(theta, masks)[0] > 0.0).astype(float)
    return masks


@pytest.mark.parametrize("n", range(1, 8))
@pytest.mark.parametrize(
    ("activation", "loss", "outputs"),
    [
        ("relu", gf.losses.Square(), 2),
        (("leaky_relu(0.1)", "tanh"), gf.losses.CrossEntropy(), 3),
        (("abs", "gelu", "relu"), gf.losses.Logistic(), 1),
        (("relu", "softplus", "sigmoid", "quadratic"), gf.losses.Exponential(), 1),
        (("abs", "relu_squared"), gf.losses.Logistic(), 1),
    ],
)
def test_masked_gradient_is_the_gradient_where_masks_are_signs(n, activation, loss, outputs):
    rng = np.random.default_rng(n)
    hidden = 1 if isinstance(activation, str) else len(activation)
    y = {
        "real": rng.normal(size=(n, outputs)),
        "class": rng.integers(0, outputs, n),
        "sign": rng.choice([-1.0, 1.0], n),
    }
    network = gf.FullyConnected([4, *[5] * hidden, outputs], activation, bias=n % 2 == 0)
    problem = gf.Problem(network, loss, rng.normal(size=(n, 4)), y[loss.labels], decay=0.03)
    masked, theta = MaskedNetwork(problem), 0.5 * rng.normal(size=problem.size)
    run = masked.run(theta, signs(masked, theta))
    value, gradient = problem.value_and_gradient(theta)
    assert run.value == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(run.gradient, gradient, atol=1e-13)


def test_normals_and_attraction_are_the_jump_of_the_gradient():
    """Gradient under mask 1 minus gradient under mask 0 is d n at a kink with z = 0."""
    problem, theta = regression([5, 7, 6, 1])
    masked = MaskedNetwork(problem)
    kinks = np.array([3, 7 * 40 + 11])
    masks = signs(masked, theta)
    wall = surface(masked, kinks)
    theta = wall.restore(theta, masks, rounds=4)
    np.testing.assert_allclose(masked.forward(theta, masks)[0][kinks], 0.0, atol=1e-14)
    run = masked.run(theta, masks)
    normals = masked.normals(theta, run.slope, run.h, kinks)
    for kink, normal in zip(kinks, normals, strict=True):
        sides = []
        for side in (0.0, 1.0):
            masks[kink] = side
            sides.append(masked.run(theta, masks).gradient)
        d = masked.attraction(masked.run(theta, masks).delta, np.array([kink]))[0]
        masks[kink] = signs(masked, theta)[kink]
        np.testing.assert_allclose(sides[1] - sides[0], d * normal, atol=1e-13)


def test_projection_per_neuron_is_the_dense_projection():
    problem, theta = regression([5, 7, 1])
    masked, rng = MaskedNetwork(problem), np.random.default_rng(0)
    kinks = np.sort(rng.choice(masked.size, 12, replace=False))
    run = masked.run(theta, signs(masked, theta))
    normals = masked.normals(theta, run.slope, run.h, kinks)
    u = rng.normal(size=problem.size)
    multipliers, velocity = surface(masked, kinks).multipliers(theta, run, u.copy())
    dense = np.linalg.lstsq(normals.T, u, rcond=None)[0]
    np.testing.assert_allclose(multipliers, dense, atol=1e-10)
    np.testing.assert_allclose(velocity, u - normals.T @ dense, atol=1e-12)


def test_gram_solution_with_dependent_rows_is_the_shortest():
    problem, _ = regression([5, 7, 1])
    masked, rng = MaskedNetwork(problem), np.random.default_rng(0)
    rows = rng.normal(size=(3, 6))
    for block in (rows, np.vstack([rows, rows[0] + rows[1]]), np.vstack([rows, np.zeros(6)])):
        u = rng.normal(size=6)
        solution = solve_gram(masked, block @ block.T, block @ u)
        expected = np.linalg.lstsq(rows.T, u, rcond=None)[0]
        np.testing.assert_allclose(block.T @ solution, rows.T @ expected, atol=1e-10)


def box_trial(gram, plain, d):
    """Trial of a flat problem given by its Gram matrix, the normal speeds with all masks 0, and d."""

    def trial(status):
        sliding = status == decide.SLIDE
        speed = plain - gram @ (d * (status == 1))
        multipliers = np.zeros(d.size)
        multipliers[sliding] = np.linalg.solve(gram[np.ix_(sliding, sliding)], speed[sliding])
        return decide.Trial(multipliers, d, speed - gram @ multipliers, 1e-12 * np.ones(d.size))

    return trial


@pytest.mark.parametrize("seed", range(30))
def test_decision_is_the_element_of_least_norm_where_all_kinks_attract(seed):
    rng = np.random.default_rng(seed)
    m = rng.integers(1, 8)
    normals, u, d = rng.normal(size=(m, 12)), rng.normal(size=12), rng.uniform(0.2, 2.0, m)
    trial = box_trial(normals @ normals.T, normals @ u, d)
    status, found = decide.decide(trial, rng.integers(0, 2, m), decide.no_leave(m))
    masks = np.where(status == decide.SLIDE, found.multipliers / d, status)
    least = lsq_linear((d[:, None] * normals).T, u, (0.0, 1.0), tol=1e-14).x
    np.testing.assert_allclose(masks, least, atol=1e-6)


def test_an_arriving_path_crosses_a_concave_kink_and_a_ridge_keeps_its_side():
    trial = box_trial(np.eye(1), np.array([1.0]), np.array([-0.5]))
    assert decide.decide(trial, np.array([1]), decide.no_leave(1))[0].tolist() == [1]
    ridge = box_trial(np.eye(1), np.array([-1.0]), np.array([-3.0]))
    for side in (0, 1):
        assert decide.decide(ridge, np.array([side]), decide.no_leave(1))[0].tolist() == [side]


def test_contradictory_speeds_are_reported_as_undecided():
    def trial(status):
        return decide.Trial(np.zeros(1), -np.ones(1), np.where(status == 1, -1.0, 1.0), np.zeros(1))

    status, disputed = decide.decide(trial, np.array([0]), decide.no_leave(1))
    assert status is None
    assert disputed.tolist() == [True]


def test_first_violation_of_random_quartics():
    rng = np.random.default_rng(1)
    matrix = bernstein_from_powers(4)
    for _ in range(2000):
        roots = np.sort(rng.uniform(-1.0, 2.0, 4))
        powers = np.poly(roots)[::-1]
        if powers[0] <= 0.0:
            powers = -powers
        inside = roots[(roots > 0.0) & (roots <= 1.0)]
        found = passes.first_below_zero(matrix @ powers, 52)
        if inside.size:
            assert found == pytest.approx(inside[0], abs=1e-9)
        else:
            assert found == 2.0


def test_bernstein_coefficients_from_values_and_from_powers_agree():
    rng = np.random.default_rng(0)
    powers, nodes = rng.normal(size=6), np.array([0, 0.125, 0.25, 0.5, 0.75, 1.0])
    values = np.polynomial.polynomial.polyval(nodes, powers)
    np.testing.assert_allclose(bernstein_from_values(nodes) @ values, bernstein_from_powers(5) @ powers, atol=1e-12)


@pytest.mark.parametrize(
    "f", [lambda x: x - 0.3, lambda x: np.cos(5 * x), lambda x: 1e-8 - x**7, lambda x: min(0.5 - x, 0.4 - x**2)]
)
def test_bracketed_root(f):
    x = bracketed_root(f, 0.0, f(0.0), 1.0, f(1.0))
    step = 1e-14
    assert f(x - step) * f(x + step) <= 0.0


@pytest.mark.parametrize("name", ["rk45", "dop853"])
def test_interpolants_are_exact_for_polynomials(name):
    """y' = f(t) of degree q - 1: the interpolant of degree q gives y exactly inside the step."""
    pair = tableaux.pair(name)
    powers = power_weights(name, pair)
    degree = {"rk45": 4, "dop853": 7}[name]
    x = np.linspace(0.0, 1.0, 9)
    weights = np.vander(x, len(powers) + 1, increasing=True)[:, 1:] @ powers
    for q in range(1, degree + 1):
        np.testing.assert_allclose(weights @ (q * pair.C ** (q - 1)), x**q, atol=1e-12)


def test_representatives_of_equal_opposite_and_zero_samples():
    x = [[1.0, 0.0], [0.0, 1.0], [-2.0, 0.0], [1.0, 0.0], [-4.0, 0.0], [0.0, 0.0]]

    def found(activation, bias):
        net = gf.FullyConnected([2, 3, 3, 1], activation, bias=bias)
        pairs = representatives(gf.Problem(net, gf.losses.Square(), x, np.zeros(6)))
        return [(leader.tolist(), factor.tolist()) for leader, factor in pairs]

    first = ([0, 1, 0, 0, 0, 5], [1.0, 1.0, -2.0, 1.0, -4.0, 0.0])
    assert found("relu", False) == [first, ([0, 1, 2, 0, 2, 5], [1.0, 1.0, 1.0, 1.0, 2.0, 0.0])]
    assert found("abs", False) == [first, ([0, 1, 0, 0, 0, 5], [1.0, 1.0, 2.0, 1.0, 4.0, 0.0])]
    assert found("relu", True) == 2 * [([0, 1, 2, 0, 4, 5], [1.0] * 6)]


def test_shares_of_branches_add_up_to_one():
    assert probability_active(0.5) == pytest.approx(0.5)
    assert (np.diff(probability_active(np.linspace(0, 1, 101))) >= 0.0).all()
    ways = weighted_sides(np.array([0.3, 0.6, 0.9]))
    assert len(ways) == 8
    assert sum(share for share, _ in ways) == pytest.approx(1.0)
    assert ways[0][1].tolist() == [0, 1, 1]
    assert len(weighted_sides(np.full(6, 0.4), most=16)) == 16


def test_expected_events_grow_with_units_and_samples():
    problem, _ = regression([5, 20, 1])
    assert expected_events(problem) == 160.0
    smooth = gf.Problem(gf.FullyConnected([5, 20, 1], "tanh"), gf.losses.Square(), problem.x, problem.y)
    assert expected_events(smooth) == 0.0


@pytest.mark.parametrize("hidden", [1, 2])
def test_a_dip_inside_a_step_is_seen_in_the_first_layer_and_above(hidden):
    """The last hidden weight goes 1 - 6x + 6x^2: negative from (1 - 1/sqrt(3)) / 2 on, and 1 at both ends."""
    problem = gf.Problem(gf.FullyConnected([1, *[1] * hidden, 1]), gf.losses.Square(), [[1.0]], [3.0])
    masked, theta = MaskedNetwork(problem), np.ones(hidden + 1)
    place = start(masked, theta).place
    stages = np.zeros((4, hidden + 1))
    stages[:2, hidden - 1] = -6.0, 6.0
    step = Step(0.0, theta, 1.0, stages, np.eye(4), None)
    lookout = Lookout(masked, 4)
    x, kinks = lookout.first(step, place, masked.scales(theta, place.here.z), lookout.signs(place))
    assert x == pytest.approx(0.5 - 0.5 / np.sqrt(3), abs=1e-12)
    assert kinks.tolist() == [hidden - 1]
