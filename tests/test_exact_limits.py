"""Closed forms of limits and of single data: reference numbers, direct integration of the flow, wrong arguments."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp

from gradflow import exact


def integrated(velocity, start, t):
    """States of a flow at the times t, by DOP853 at the tightest tolerance."""
    t = np.asarray(t, dtype=float)
    with np.errstate(over="ignore", invalid="ignore"):
        run = solve_ivp(
            lambda _, z: velocity(z), (0, t[-1]), np.ravel(start), "DOP853", t_eval=t, rtol=3e-14, atol=1e-16
        )
    assert run.success
    return run.y.T


# Diagonal networks.


def test_diagonal_reference_numbers():
    got = exact.diagonal_limit([[1, -0.5, 0.25]], [1.0], alpha=0.1)
    assert_allclose(got, [0.944915346553277, -0.096183521562953, 0.027971570660984], rtol=2e-14)
    assert_allclose(got, 0.02 * np.sinh(4.54862223032213 * np.array([1, -0.5, 0.25])), rtol=1e-13)
    got = exact.diagonal_scalar([0.3, 1.0], target=1.5, alpha=0.2)
    assert_allclose(got, [0.210360918250896, 1.37911971463285], rtol=5e-15)


def diagonal_flow(x, y):
    """Flow of (u, v) and of the integral of the residual under |x (u^2 - v^2) - y|^2 / 2."""
    d = x.shape[1]

    def velocity(z):
        u, v = z[:d], z[d : 2 * d]
        residual = x @ (u * u - v * v) - y
        pull = 2 * x.T @ residual
        return np.concatenate([-pull * u, pull * v, residual])

    return velocity


@pytest.mark.parametrize("target", [1.5, -0.4, 0.0])
def test_diagonal_scalar_is_the_flow_of_two_weights(target):
    t = np.linspace(0, 2, 11)
    states = integrated(diagonal_flow(np.ones((1, 1)), np.array([target])), [0.2, 0.2, 0.0], t)
    want = states[:, 0] ** 2 - states[:, 1] ** 2
    assert_allclose(exact.diagonal_scalar(t, target, alpha=0.2), want, atol=1e-13)


def test_diagonal_weights_from_the_residual_and_their_limit():
    rng = np.random.default_rng(3)
    x, alpha = rng.normal(size=(2, 5)), 0.1 + rng.random(5)
    y = x @ rng.normal(size=5)
    t = np.array([0.0, 0.1, 0.5, 60.0])
    states = integrated(diagonal_flow(x, y), np.concatenate([alpha, alpha, np.zeros(2)]), t)
    weights = states[:, :5] ** 2 - states[:, 5:10] ** 2
    assert_allclose(x @ weights[-1], y, atol=1e-12)
    assert_allclose(exact.diagonal_from_residual(states[:, 10:], x, alpha), weights, atol=1e-11)
    assert_allclose(exact.diagonal_limit(x, y, alpha), weights[-1], atol=1e-11)
    assert_allclose(exact.diagonal_limit(x, y[:, None], alpha), weights[-1], atol=1e-11)


def test_diagonal_limit_goes_from_l1_to_l2():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((10, 20)) / np.sqrt(10)
    sparse = np.zeros(20)
    sparse[[5, 17]] = 0.5
    y = x @ sparse
    errors = [np.linalg.norm(exact.diagonal_limit(x, y, alpha) - sparse) for alpha in (1e-2, 1e-4, 1e-20, 1e-100)]
    assert (np.diff(errors[:3]) < 0).all()
    assert max(errors[2:]) < 1e-12
    assert_allclose(exact.diagonal_limit(x, y, 1e3), np.linalg.pinv(x) @ y, atol=1e-7)


def test_diagonal_limit_with_dependent_samples():
    x, y = np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0]]), np.array([1.0, 2.0])
    assert_allclose(exact.diagonal_limit(x, y, 0.3), exact.diagonal_limit(x[:1], y[:1], 0.3), rtol=1e-12)
    with pytest.raises(ValueError, match="has no solution"):
        exact.diagonal_limit(x, [1.0, 1.0], 0.3)


def test_diagonal_refuses_wrong_arguments():
    with pytest.raises(ValueError, match="alpha contains 0.0"):
        exact.diagonal_scalar(1.0, 1.0, alpha=0.0)
    with pytest.raises(ValueError, match=r"alpha has shape \(3,\) for 2 weights"):
        exact.diagonal_limit([[1.0, 2.0]], [1.0], alpha=[1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="one target per row"):
        exact.diagonal_limit([[1.0, 2.0]], [1.0, 2.0], alpha=1.0)
    with pytest.raises(ValueError, match="one sample per row"):
        exact.diagonal_limit([1.0, 2.0], [1.0, 2.0], alpha=1.0)
    with pytest.raises(ValueError, match="last axis"):
        exact.diagonal_from_residual([1.0, 2.0], [[1.0, 2.0]], alpha=1.0)


def sensing_case():
    """The compressed-sensing case in which the polar limit was measured."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((10, 20)) / np.sqrt(10)
    target = np.zeros(20)
    target[rng.choice(20, 2, replace=False)] = 0.5
    return x, x @ target, target


@pytest.mark.parametrize(
    ("alpha", "errors"),
    [
        (1e-3, (0.158, 2.66e-2, 7.04e-5)),
        (0.1, (0.186, 4.25e-2, 3.87e-4)),
        (0.2, (0.292, 0.142, 3.95e-2)),
        (0.3, (0.545, 0.468, 0.427)),
    ],
)
def test_polar_limit_reference_errors(alpha, errors):
    x, y, target = sensing_case()
    for ratio, want in zip((1.0, 3.0, 10.0), errors, strict=True):
        got = exact.polar_diagonal_limit(x, y, np.full(20, alpha), ratio)
        assert_allclose(np.linalg.norm(got - target) / np.linalg.norm(target), want, rtol=5e-3)


@pytest.mark.parametrize("ratio", [0.5, 3.0])
def test_polar_limit_is_the_end_of_the_polar_flow(ratio):
    x, y = np.array([[1.0, 0.5, -0.3], [0.2, -0.4, 1.0]]), np.array([0.8, 0.3])
    start = np.array([0.3, 0.5, 0.2])

    def velocity(z):
        r, u = z[0], z[1:]
        gradient = 2 * x.T @ (x @ (r * u) ** 2 - y) * r * u
        return np.concatenate([[-u @ gradient], -ratio * r * (gradient - u * (u @ gradient))])

    r0 = np.linalg.norm(start)
    end = integrated(velocity, np.concatenate([[r0], start / r0]), [0.0, 200.0])[-1]
    limit = (end[0] * end[1:]) ** 2
    assert_allclose(x @ limit, y, atol=1e-12)
    assert_allclose(exact.polar_diagonal_limit(x, y, start, ratio), limit, atol=1e-11)


def test_polar_limit_refuses_targets_out_of_reach():
    with pytest.raises(ValueError, match="no weights of this network give y"):
        exact.polar_diagonal_limit([[1.0, 1.0]], [-1.0], [0.1, 0.1], ratio=1.0)
    with pytest.raises(ValueError, match=r"give shape \(2,\)"):
        exact.polar_diagonal_limit([[1.0, 1.0]], [1.0], [0.1], ratio=1.0)
    with pytest.raises(ValueError, match="ratio contains -1.0"):
        exact.polar_diagonal_limit([[1.0, 1.0]], [1.0], [0.1, 0.1], ratio=-1.0)


# One separable datum.


def test_single_datum_reference_numbers():
    t = [1.0, 1e3, 1e6]
    want = [0.854355244468527, 6.90910422754935, 13.8155119078222]
    assert_allclose(exact.exponential_linear(t, 0.3), want, rtol=5e-15)
    want = [0.678647984795010, 6.902488805425, 13.815498392250687]
    assert_allclose(exact.logistic_linear(t, 0.3), want, rtol=5e-14)
    got = exact.exponential_linear(50.0, start=[0.1, 0.2, 0.3], x=[0.6, -0.8, 2.0])
    assert_allclose(got, [0.703364098219524, -0.604485464292699, 2.31121366073175], rtol=2e-15)
    want = [0.818498394078922, 6.15868921836971, 12.3196408040802]
    assert_allclose(exact.two_layer_exponential([2.0, 50.0, 1e4], 0.04), want, rtol=5e-15)


@pytest.mark.parametrize("start", [-3.0, 0.3, 4.0])
def test_single_datum_flows(start):
    t = np.linspace(0, 20, 11)
    assert_allclose(exact.exponential_linear(t, start), integrated(lambda w: np.exp(-w), start, t)[:, 0], atol=1e-12)
    logistic = integrated(lambda w: 1 / (1 + np.exp(w)), start, t)[:, 0]
    assert_allclose(exact.logistic_linear(t, start), logistic, atol=1e-12)


def test_single_datum_flows_of_vectors():
    start, x, t = np.array([0.1, 0.2, -0.3]), np.array([0.6, -0.8, 2.0]), np.linspace(0, 10, 6)
    assert_allclose(
        exact.exponential_linear(t, start, x), integrated(lambda w: x * np.exp(-w @ x), start, t), atol=1e-12
    )
    logistic = integrated(lambda w: x / (1 + np.exp(w @ x)), start, t)
    assert_allclose(exact.logistic_linear(t, start, x), logistic, atol=1e-12)
    assert_allclose(exact.logistic_linear(3.0, start, x), exact.logistic_linear([3.0], start, x)[0], rtol=1e-15)


@pytest.mark.parametrize("start", [0.04, 1.0, 6.0])
def test_two_layer_exponential_is_the_flow_of_two_weights(start):
    t = np.linspace(0, 30, 11)
    states = integrated(lambda z: z[::-1] * np.exp(-z[0] * z[1]), [np.sqrt(start)] * 2, t)
    assert_allclose(exact.two_layer_exponential(t, start), states.prod(axis=1), rtol=1e-12)


def test_single_datum_late_times():
    t = 1e280
    assert_allclose(exact.exponential_linear(t, 0.3), np.log(t), rtol=1e-15)
    assert_allclose(exact.logistic_linear(t, 0.3), np.log(t), rtol=1e-15)
    assert_allclose(exact.logistic_linear(5.0, -800.0), -795.0, rtol=1e-15)
    u = exact.two_layer_exponential(t, 0.04)
    assert_allclose(exact.two_layer_exponential_log_time(u, 0.04), np.log(t), rtol=1e-14)


def test_two_layer_exponential_log_time():
    got = exact.two_layer_exponential_log_time(np.log(10) * np.array([1e3, 1e4]), start=0.04)
    assert_allclose(got, [2294.1505927, 23015.1134534], atol=5e-8)
    start = np.array([0.04, 20.0, 150.0])
    u = exact.two_layer_exponential([3.0, 1e9, 1e66], start)
    assert_allclose(exact.two_layer_exponential_log_time(u, start), np.log([3.0, 1e9, 1e66]), rtol=1e-11)
    with pytest.raises(ValueError, match="give product > start"):
        exact.two_layer_exponential_log_time([2.0, 0.5], 1.0)


def test_single_datum_refuses_wrong_arguments():
    with pytest.raises(ValueError, match="x is zero"):
        exact.exponential_linear(1.0, [0.1, 0.2], [0.0, 0.0])
    with pytest.raises(ValueError, match=r"start has shape \(\) and x has shape \(2,\)"):
        exact.logistic_linear(1.0, 0.0, [1.0, 0.0])
    with pytest.raises(ValueError, match="its exponential overflows"):
        exact.logistic_linear(1.0, 1e3)
    with pytest.raises(ValueError, match="exponential integral overflows"):
        exact.two_layer_exponential(1e305, 1.0)
    with pytest.raises(ValueError, match="start contains -1.0"):
        exact.two_layer_exponential(1.0, -1.0)
    with pytest.raises(ValueError, match="t contains nan"):
        exact.exponential_linear([1.0, np.nan], 0.0)


# Square loss with decay.


def test_ridge_reference_norms():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 10)) / np.sqrt(10)
    y = np.sign(rng.normal(size=(6, 1)))
    norms = [np.linalg.norm(exact.ridge(x, y, decay)) for decay in (0.0, 1e-3, 1e-2)]
    assert_allclose(norms, [7.538291, 6.236812, 3.096658], atol=5e-7)


@pytest.mark.parametrize("shape", [(4, 7), (7, 4)])
def test_ridge_solves_the_normal_equations(shape):
    rng = np.random.default_rng(1)
    x, y, decay = rng.normal(size=shape), rng.normal(size=shape[0]), 0.03
    w = exact.ridge(x, y, decay)
    assert_allclose(x.T @ (x @ w - y) / len(x) + decay * w, 0, atol=1e-14)
    assert_allclose(exact.ridge(x, y, 0.0), np.linalg.lstsq(x, y, rcond=None)[0], atol=1e-13)
    with pytest.raises(ValueError, match="decay contains -1.0"):
        exact.ridge(x, y, -1.0)


def test_resting_scale_minimises_the_loss_over_rho():
    margins, decay = np.random.default_rng(0).standard_normal((3, 7)) + 1.0, 0.3

    def loss(rho):
        return ((1 - rho[:, None] * margins) ** 2).mean(1) + decay * rho**2

    rho = exact.resting_scale(margins, decay)
    assert_allclose(loss(rho + 1e-3) - loss(rho), loss(rho - 1e-3) - loss(rho), atol=1e-15)
    assert (loss(rho + 1e-3) > loss(rho)).all()


def test_neural_collapse_reference_numbers():
    got = exact.neural_collapse(decay=1e-3, classes=3, per_class=6, depth=2)
    assert_allclose([got.gain, got.rho], [0.948767, 6.971982], atol=5e-7)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_neural_collapse_is_an_equilibrium_of_the_regularised_loss(centred, depth):
    classes, per_class, decay = 4, 3, 2e-3
    y = np.repeat(np.eye(classes) - centred / classes, per_class, axis=0)
    got = exact.neural_collapse(decay, classes, per_class, depth, centred)
    left, values, right = np.linalg.svd(y.T, full_matrices=False)
    active = values > 1e-12
    inner = [np.diag(active * 1.0)] * (depth - 2)
    layers = [active[:, None] * right, *inner, left * active] if depth > 1 else [left * active @ right]
    layers = [layer / np.linalg.norm(layer) for layer in layers]
    later = np.eye(classes)
    for layer in layers[1:]:
        later = layer @ later
    f = later @ layers[0]
    error = y.T - got.rho * f
    assert_allclose(got.rho * f, got.gain * y.T, atol=1e-13)
    assert_allclose(got.loss, (error**2).sum() / len(y) + decay * got.rho**2, rtol=1e-13)
    # Stationary in rho, and on the sphere of the first layer.
    assert_allclose((error * f).sum() / len(y), decay * got.rho, rtol=1e-12)
    pull = later.T @ error
    assert_allclose(pull, (pull * layers[0]).sum() * layers[0], atol=1e-13)


def test_neural_collapse_refuses_one_class():
    with pytest.raises(ValueError, match="classes = 1"):
        exact.neural_collapse(1e-3, classes=1, per_class=6, depth=2)
