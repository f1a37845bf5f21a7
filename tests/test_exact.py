"""Closed forms of linear networks in time: reference numbers, direct integration of the flow, wrong arguments."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad, solve_ivp

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


def product_flow(strength):
    """Flow of two scalar weights (a, b) under (s - a b)^2 / 2."""
    return lambda z: (strength - z[0] * z[1]) * z[::-1]


def two_layer_flow(sigma, hidden):
    """Flow of (W1, W2) under |sigma - W2 W1|^2 / 2."""
    outputs, inputs = sigma.shape

    def velocity(z):
        w1, w2 = z[: hidden * inputs].reshape(hidden, inputs), z[hidden * inputs :].reshape(outputs, hidden)
        error = sigma - w2 @ w1
        return np.concatenate([(w2.T @ error).ravel(), (error @ w1.T).ravel()])

    return velocity


def chain_flow(strength, depth):
    return lambda a: a ** (depth - 1) * (strength - a**depth)


# Balanced scalar mode.


def test_two_layer_mode_reference_numbers():
    got = exact.two_layer_mode([0.5, 1, 2, 4], strength=2.0, start=0.01)
    assert_allclose(got, [0.07160317740286362, 0.43058792050343025, 1.87484111374369, 1.9999552120034665], rtol=2e-15)


@pytest.mark.parametrize(("strength", "a"), [(2.0, 0.1), (0.7, 1.5), (-1.3, 0.4), (0.0, 0.9)])
def test_two_layer_mode_is_the_balanced_flow(strength, a):
    t = np.linspace(0, 5, 21)
    a_t, b_t = integrated(product_flow(strength), [a, a], t).T
    assert_allclose(exact.two_layer_mode(t, strength, a * a), a_t * b_t, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("strength", [2.0, -0.8, 0.0])
def test_two_layer_mode_keeps_its_sign(strength):
    t = np.linspace(0, 5, 11)
    a_t, b_t = integrated(product_flow(strength), [0.3, -0.3], t).T
    got = exact.two_layer_mode(t, strength, -0.09)
    assert (got < 0).all()
    # For s > 0 the start lies on the stable manifold of the saddle, which the integration leaves at the rate s.
    assert_allclose(got, a_t * b_t, rtol=1e-9, atol=1e-12)


def test_two_layer_mode_at_extreme_times_and_starts():
    with np.errstate(all="raise", under="ignore"):
        assert_allclose(exact.two_layer_mode([1e3, 1e300], 3.0, 1e-300), 3.0, rtol=1e-15)
        assert_array_equal(exact.two_layer_mode([0.0, 1e300], 3.0, 0.0), 0.0)
        assert_allclose(exact.two_layer_mode(1e6, 0.0, 0.5), 0.5 / (1 + 1e6), rtol=1e-15)
        assert exact.two_layer_mode(1e5, -2.0, 0.5) == 0.0
    assert_allclose(exact.two_layer_mode(3.0, 1e-18, 0.5), exact.two_layer_mode(3.0, 0.0, 0.5), rtol=1e-15)


@pytest.mark.parametrize(
    ("strength", "start", "end"), [(2.0, 1e-8, 1.7), (2.0, 5.0, 2.3), (0.0, 1.0, 0.2), (-1, 0.5, 0.1)]
)
def test_two_layer_time_inverts_the_mode(strength, start, end):
    t = exact.two_layer_time(start, end, strength)
    assert t > 0
    assert_allclose(exact.two_layer_mode(t, strength, start), end, rtol=1e-13)


def test_two_layer_half_times():
    got = exact.two_layer_time(start=[0.01, 0.02], end=[1.5, 0.5], strength=[3.0, 1.0])
    assert_allclose(got, [0.9501, 1.9459], atol=5e-5)


@pytest.mark.parametrize(
    ("start", "end", "strength"), [(0.1, 2.0, 2.0), (0.1, 0.05, 2.0), (3.0, 1.0, 2.0), (0.1, 0.2, 0.0)]
)
def test_two_layer_time_refuses_an_end_off_the_way(start, end, strength):
    with pytest.raises(ValueError, match="strictly between the two"):
        exact.two_layer_time(start, end, strength)


# Unbalanced scalar mode.


def test_unbalanced_reference_numbers():
    got = exact.two_layer_unbalanced([0.3, 1, 3], strength=2.0, start=-0.24, gap=0.55)
    assert_allclose(got, [0.124720446214808, 1.34296362227219, 1.99969866019453], rtol=1e-14)


@pytest.mark.parametrize("strength", [2.0, -1.2, 0.0])
@pytest.mark.parametrize(("a", "b"), [(0.3, -0.8), (1.4, 0.2), (0.0, 0.6), (-0.5, -0.500001)])
def test_unbalanced_is_the_flow_of_two_weights(strength, a, b):
    t = np.linspace(0, 4, 17)
    a_t, b_t = integrated(product_flow(strength), [a, b], t).T
    assert_allclose(exact.two_layer_unbalanced(t, strength, a * b, b * b - a * a), a_t * b_t, rtol=1e-11, atol=2e-14)


def test_unbalanced_tends_to_the_balanced_mode():
    t = np.linspace(0, 6, 25)
    balanced = exact.two_layer_mode(t, 1.5, 0.02)
    assert_allclose(exact.two_layer_unbalanced(t, 1.5, 0.02, [[0.0], [1e-30], [-1e-12]]), [balanced] * 3, rtol=1e-13)
    deviation = [np.abs(exact.two_layer_unbalanced(t, 1.5, 0.02, gap) - balanced).max() for gap in (1e-3, 1e-4)]
    assert_allclose(deviation[0] / deviation[1], 100, rtol=0.05)


def test_unbalanced_rate_is_that_of_the_gap():
    strength, gap, t = 0.5, 2.0, np.array([8.0, 9.0])
    left = strength - exact.two_layer_unbalanced(t, strength, 0.1, gap)
    assert_allclose(np.log(left[0] / left[1]), np.sqrt(4 * strength**2 + gap**2), rtol=1e-6)


def test_unbalanced_leaves_the_saddle_from_a_nearly_balanced_negative_start():
    from mpmath import mp, mpf

    with mp.workdps(80):
        s, c, u0, t = mpf(2), mpf(1e-20), mpf(-0.25), mpf(23.5)
        rate, x0 = mp.sqrt(4 * s**2 + c**2), mp.exp(mp.asinh(2 * u0 / c))
        above, below = (2 * s + rate) / c, (2 * s - rate) / c
        factor = (x0 - above) / (x0 - below) * mp.exp(-rate * t)
        x = (above - below * factor) / (1 - factor)
        want = float(c / 4 * (x - 1 / x))
    assert 0.01 < want < 1.99
    assert_allclose(exact.two_layer_unbalanced(23.5, 2.0, -0.25, 1e-20), want, rtol=1e-13)


# Two layers, one output: norm and cosine.


@pytest.mark.parametrize("cosine", [-0.17655, 0.6, 0.0, -0.999])
@pytest.mark.parametrize("strength", [1.0, 2.5])
def test_scalar_output_is_the_reduced_flow(cosine, strength):
    t = np.linspace(0, 8, 17)

    def velocity(z):
        r, c = z
        return np.array([2 * r * (strength * c - r), strength * (1 - c * c)])

    want = integrated(velocity, [0.05, cosine], t)
    r, c = exact.two_layer_scalar_output(t, 0.05, cosine, strength)
    assert_allclose(r, want[:, 0], rtol=1e-11)
    assert_allclose(c, want[:, 1], atol=1e-12)


def test_scalar_output_is_the_flow_of_rank_one_layers():
    rng = np.random.default_rng(0)
    target, w, u = (v / np.linalg.norm(v) for v in (rng.normal(size=6), rng.normal(size=6), rng.normal(size=4)))
    radius, t = 0.05, np.linspace(0, 8, 9)
    start = np.sqrt(radius) * np.concatenate([np.outer(u, w).ravel(), u])
    states = integrated(two_layer_flow(target[None], hidden=4), start, t)
    products = np.array([z[24:] @ z[:24].reshape(4, 6) for z in states])
    r, c = exact.two_layer_scalar_output(t, radius, w @ target)
    assert_allclose(np.linalg.norm(products, axis=1), r, rtol=1e-11)
    assert_allclose(products @ target / r, c, atol=1e-11)


def test_scalar_output_limits():
    r, c = exact.two_layer_scalar_output([700.0, 1e5], radius=1e-8, cosine=[[-1 + 1e-12], [0.3]])
    assert_allclose(r, 1.0, rtol=1e-14)
    assert_allclose(c, 1.0, rtol=1e-14)
    r, c = exact.two_layer_scalar_output(2.0, radius=0.3, cosine=[1.0, -1.0])
    assert_allclose(r, exact.two_layer_mode(2.0, [1.0, -1.0], 0.3), rtol=1e-15)
    assert_array_equal(c, [1.0, -1.0])
    with pytest.raises(ValueError, match="cosine contains 1.5"):
        exact.two_layer_scalar_output(1.0, radius=1.0, cosine=1.5)


# Chains of equal weights.


def test_chain_reference_numbers():
    assert_allclose(exact.chain([1, 2], 2.0, 0.3, depth=3), [0.694318745978356, 1.2567049018291], rtol=5e-15)
    want = [0.374336425499014, 0.556957217735449, 1.189207115001]
    assert_allclose(exact.chain([1, 2, 5], 2.0, 0.3, depth=4), want, rtol=2e-14)
    assert_allclose(exact.chain_time(0.05, 1.0, 2.0, depth=3), 9.66226528140193, rtol=1e-15)
    assert_allclose(exact.chain_time(0.05, 1.0, 2.0, depth=4), 99.9054938097095, rtol=1e-15)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize(("strength", "start"), [(2.0, 0.4), (0.6, 1.6), (0.0, 0.8)])
def test_chain_is_its_flow(depth, strength, start):
    t = np.linspace(0, 6, 25)
    want = integrated(chain_flow(strength, depth), start, t)[:, 0]
    assert_allclose(exact.chain(t, strength, start, depth), want, rtol=3e-12)


def test_chain_time_by_logarithms_and_arctangent():
    def three(a, s):
        c = s ** (1 / 3)
        arc = np.sqrt(3) * np.arctan((2 * a + c) / (c * np.sqrt(3)))
        return (-1 / a + (-np.log(c - a) + 0.5 * np.log(a * a + c * a + c * c) - arc) / (3 * c)) / s

    def four(a, s):
        q = np.sqrt(s)
        return (-1 / (2 * a * a) + np.log((q + a * a) / (q - a * a)) / (4 * q)) / s

    for start, end in [(0.05, 1.0), (0.7, 1.1), (0.2, 1.18)]:
        assert_allclose(exact.chain_time(start, end, 2.0, 3), three(end, 2.0) - three(start, 2.0), rtol=1e-13)
        assert_allclose(exact.chain_time(start, end, 2.0, 4), four(end, 2.0) - four(start, 2.0), rtol=1e-13)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 6, 11])
@pytest.mark.parametrize(("start", "end"), [(0.2, 0.9), (0.2, 1.02), (1.6, 1.2), (4.0, 2.5)])
def test_chain_time_is_the_integral(depth, start, end):
    strength = 1.03**depth
    want = quad(lambda a: 1 / chain_flow(strength, depth)(a), start, end, epsabs=0, epsrel=1e-13, limit=200)[0]
    assert_allclose(exact.chain_time(start, end, strength, depth), want, rtol=1e-11)


@pytest.mark.parametrize("depth", [3, 5])
def test_chain_near_its_fixed_point(depth):
    # The distance to the fixed point decays at the rate L s^(2 - 2/L).
    t = np.array([20.0, 21.0])
    for start in (0.6, 1.7):
        gap = np.abs(1 - exact.chain(t / depth, 1.0, start, depth))
        assert_allclose(np.log(gap[0] / gap[1]), 1.0, rtol=1e-5)
    ends = 1 - np.array([1e-9, 1e-12])
    between = np.diff(exact.chain_time(0.5, ends, 1.0, depth))
    assert_allclose(between, np.log((1 - ends[0]) / (1 - ends[1])) / depth, rtol=1e-8)
    assert_array_equal(exact.chain([0.0, 3.0, 1e300], 1.0, 1.0, depth), 1.0)
    assert_allclose(exact.chain(1e300, 1.0, [0.5, 3.0], depth), 1.0, rtol=1e-15)


def test_chain_plateau_from_a_tiny_start():
    start, depth = 1e-100, 4
    escape = exact.chain_time(start, 0.5, 1.0, depth)
    assert_allclose(escape, start ** (2 - depth) / (depth - 2), rtol=1e-13)
    assert_allclose(np.log10(exact.chain_time(start, 0.5 ** (1 / 4), 2.0, 4)), 199.3979400087, atol=5e-11)
    assert_allclose(exact.chain(0.75 * escape, 1.0, start, depth), 2 * start, rtol=1e-12)


def test_chain_refuses_wrong_arguments():
    with pytest.raises(ValueError, match="start contains -0.1"):
        exact.chain(1.0, 2.0, -0.1, depth=3)
    with pytest.raises(ValueError, match="depth = 0"):
        exact.chain(1.0, 2.0, 0.1, depth=0)
    with pytest.raises(TypeError, match="depth = 2.5"):
        exact.chain(1.0, 2.0, 0.1, depth=2.5)
    with pytest.raises(ValueError, match="t contains -1.0"):
        exact.chain([0.0, -1.0], 2.0, 0.1, depth=3)
    for depth in (1, 2, 3):
        with pytest.raises(ValueError, match="strictly between"):
            exact.chain_time(0.1, 2.0, 1.5, depth)


# Matrices with aligned starts.


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_modes_follow_their_flow(depth):
    strengths, start, t = np.array([3.0, 1.0, 0.0]), np.array([0.3, 0.2, 0.1]), np.linspace(0, 3, 13)

    def velocity(u):
        return depth * u ** (2 - 2 / depth) * (strengths - u)

    assert_allclose(
        exact.deep_linear_modes(t, strengths, start, depth), integrated(velocity, start, t), rtol=1e-11, atol=1e-15
    )


def test_modes_shapes_and_default_depth():
    t = np.linspace(0, 3, 7)
    got = exact.deep_linear_modes(t, (3.0, 1.0), 0.01)
    assert got.shape == (7, 2)
    assert_array_equal(got, exact.two_layer_mode(t[:, None], [3.0, 1.0], 0.01))
    assert_array_equal(exact.deep_linear_modes(3.0, (3.0, 1.0), 0.01), got[-1])
    with pytest.raises(ValueError, match=r"start has shape \(3,\) for 2 modes"):
        exact.deep_linear_modes(t, (3.0, 1.0), [0.1, 0.1, 0.1])
    with pytest.raises(ValueError, match="strengths contains -1.0"):
        exact.deep_linear_modes(t, (3.0, -1.0), 0.1)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 6])
def test_half_time_is_when_the_mode_is_half_grown(depth):
    starts, strength = np.array([0.3, 1e-2, 1e-4]), 1.7
    half = exact.deep_linear_half_time(starts, depth, strength)
    reached = [exact.deep_linear_modes(t, [strength], u, depth)[0] for t, u in zip(half, starts, strict=True)]
    assert_allclose(reached, strength / 2, rtol=1e-9)


def test_half_time_laws():
    starts = np.array([1e-9, 1e-12])
    assert_allclose(exact.deep_linear_half_time(starts, 2, 3.0), np.log(3 / starts - 1) / 6, rtol=1e-15)
    assert_allclose(exact.deep_linear_half_time(starts, 3), starts ** (-1 / 3), rtol=2e-3)
    with pytest.raises(ValueError, match="above half of the strength"):
        exact.deep_linear_half_time([0.1, 0.6], 2)


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize(("outputs", "inputs"), [(3, 3), (2, 4), (4, 2)])
def test_aligned_start_solves_the_whole_matrix(depth, outputs, inputs):
    rng = np.random.default_rng(5)
    sigma = rng.normal(size=(outputs, inputs))
    left, _, right = np.linalg.svd(sigma, full_matrices=False)
    rank, start = min(outputs, inputs), 0.1 * (1 + rng.random(min(outputs, inputs)))
    bases = [right.T] + [np.linalg.qr(rng.normal(size=(5, 5)))[0][:, :rank] for _ in range(depth - 1)] + [left]
    layers = [b * start ** (1 / depth) @ a.T for a, b in zip(bases[:-1], bases[1:], strict=True)]
    shapes = [layer.shape for layer in layers]
    cuts = np.cumsum([layer.size for layer in layers])[:-1]

    def unpacked(z):
        return [part.reshape(shape) for part, shape in zip(np.split(z, cuts), shapes, strict=True)]

    def velocity(z):
        w = unpacked(z)
        error = sigma - (w[-1] @ w[0] if depth == 2 else w[2] @ w[1] @ w[0])
        if depth == 2:
            return np.concatenate([(w[1].T @ error).ravel(), (error @ w[0].T).ravel()])
        moves = (w[1].T @ w[2].T @ error, w[2].T @ error @ w[0].T, error @ (w[1] @ w[0]).T)
        return np.concatenate([move.ravel() for move in moves])

    t = np.linspace(0, 4, 9)
    states = integrated(velocity, np.concatenate([layer.ravel() for layer in layers]), t)
    want = [np.linalg.multi_dot(unpacked(z)[::-1]) for z in states]
    assert_allclose(exact.aligned_deep_linear(t, sigma, start, depth), want, atol=2e-12)
    with pytest.raises(ValueError, match="must be a matrix"):
        exact.aligned_deep_linear(t, [1.0, 2.0], 0.1)


# Two-layer networks from balanced starts: the Riccati equation.


def balanced_layers(inputs, hidden, outputs, balance, seed=0):
    """A start with W2^T W2 - W1 W1^T = balance * I."""
    rng = np.random.default_rng(seed)
    rank = min(inputs, hidden, outputs)
    turn = np.linalg.qr(rng.normal(size=(hidden, hidden)))[0]
    strengths = np.zeros(hidden)
    strengths[:rank] = 0.3 * rng.random(rank)
    lift = [np.sqrt(strengths**2 + max(sign * balance, 0.0)) for sign in (-1, 1)]
    first, last = np.zeros((hidden, inputs)), np.zeros((outputs, hidden))
    first[:, :] = (lift[0][:, None] * np.eye(hidden, inputs)) @ np.linalg.qr(rng.normal(size=(inputs, inputs)))[0]
    last[:, :] = np.linalg.qr(rng.normal(size=(outputs, outputs)))[0] @ (np.eye(outputs, hidden) * lift[1])
    return turn @ first, last @ turn.T, rng.normal(size=(outputs, inputs))


def test_riccati_reference_numbers():
    layer, sigma = np.diag([0.3, 0.1]), np.array([[1, 0.5], [-0.5, 2]])
    got = exact.riccati([1.0, 3.0], layer, layer, sigma).product
    one = [[0.446646896449011, 0.144275114761458], [-0.144275114761458, 0.46035139570432]]
    three = [[0.98216251609345, 0.49679574172972], [-0.49679574172972, 1.99885653034166]]
    assert_allclose(got, [one, three], rtol=1e-14)


@pytest.mark.parametrize(
    ("inputs", "hidden", "outputs", "balance"),
    [(3, 2, 2, 0), (4, 5, 3, 0), (2, 1, 3, 0), (6, 8, 4, 0), (3, 2, 4, 0.7), (4, 3, 3, 0.2), (4, 2, 2, -0.5)],
)
def test_riccati_is_the_flow_of_both_layers(inputs, hidden, outputs, balance):
    w1, w2, sigma = balanced_layers(inputs, hidden, outputs, balance)
    assert_allclose(w2.T @ w2 - w1 @ w1.T, balance * np.eye(hidden), atol=1e-14)
    t = np.array([0.0, 0.4, 1.5, 6.0])
    states = integrated(two_layer_flow(sigma, hidden), np.concatenate([w1.ravel(), w2.ravel()]), t)
    firsts = states[:, : w1.size].reshape(-1, *w1.shape)
    lasts = states[:, w1.size :].reshape(-1, *w2.shape)
    got = exact.riccati(t, w1, w2, sigma)
    assert_allclose(got.product, lasts @ firsts, atol=3e-12)
    assert_allclose(got.input_gram, firsts.transpose(0, 2, 1) @ firsts, atol=3e-12)
    assert_allclose(got.output_gram, lasts @ lasts.transpose(0, 2, 1), atol=3e-12)


def test_riccati_at_long_times_and_in_any_order():
    w1, w2, sigma = balanced_layers(6, 8, 4, 0.0)
    got = exact.riccati([500.0, 0.0, 2.0], w1, w2, sigma).product
    assert_allclose(got[0], sigma, atol=1e-13)
    assert_allclose(got[1], w2 @ w1, atol=1e-14)
    assert_allclose(got[2], exact.riccati(2.0, w1, w2, sigma).product, atol=1e-13)


def test_riccati_of_an_aligned_start_is_the_mode_solution():
    rng = np.random.default_rng(2)
    sigma = rng.normal(size=(3, 4))
    left, _, right = np.linalg.svd(sigma, full_matrices=False)
    w1, w2 = np.sqrt(0.05) * right, np.sqrt(0.05) * left
    t = np.array([0.5, 2.0, 9.0])
    got = exact.riccati(t, w1, w2, sigma).product
    assert_allclose(got, exact.aligned_deep_linear(t, sigma, 0.05), atol=1e-13)


def test_riccati_with_a_target_of_zero():
    got = exact.riccati([0.0, 4.0], [[0.5]], [[0.5]], [[0.0]]).product
    assert_allclose(got[:, 0, 0], exact.two_layer_mode([0.0, 4.0], 0.0, 0.25), rtol=1e-12)


def test_riccati_refuses_an_unbalanced_start():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="start is not balanced"):
        exact.riccati(1.0, rng.normal(size=(3, 2)), rng.normal(size=(2, 3)), np.eye(2))
    with pytest.raises(ValueError, match=r"sigma \(3, 3\) do not fit"):
        exact.riccati(1.0, np.eye(2), np.eye(2), np.eye(3))
