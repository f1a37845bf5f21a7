"""Initial values: each scheme against its definition."""

import cases
import numpy as np
import pytest

import gradflow as gf

LINEAR = gf.DeepLinear([6, 5, 4, 3])


def layers_of(scheme, network=LINEAR, **options):
    problem = cases.make(network, "square", n=9)
    theta = problem.init(scheme=scheme, **options)
    return problem, problem.layers(theta)


def test_gaussian_is_one_generator_layer_by_layer():
    _, layers = layers_of("gaussian", scale=0.3, seed=4)
    rng = np.random.default_rng(4)
    for weight in layers.values():
        assert np.array_equal(weight, rng.standard_normal(weight.shape) * (0.3 / np.sqrt(weight.shape[1])))


def test_xavier_and_he_have_their_bounds_and_variances():
    wide = gf.DeepLinear([400, 300])
    _, layers = layers_of("xavier", wide)
    bound = np.sqrt(6 / 700)
    assert bound * 0.999 < np.abs(layers["W1"]).max() <= bound
    _, layers = layers_of("he", wide)
    assert np.var(layers["W1"]) == pytest.approx(2 / 400, rel=0.02)
    mixed = gf.FullyConnected([40, 50, 60, 1], ["relu", "linear"])
    _, layers = layers_of("he-relu", mixed)
    _, plain = layers_of("gaussian", mixed)
    assert np.allclose(layers["W1"], np.sqrt(2) * plain["W1"], rtol=1e-15)
    assert all(np.array_equal(layers[name], plain[name]) for name in ("W2", "W3"))


def test_layers_have_scales_of_their_own_from_a_generator_given():
    rng = np.random.default_rng(7)
    drawn = rng.standard_normal(2)
    _, layers = layers_of("gaussian", gf.FullyConnected([3, 4, 2], "tanh", bias=True), scale=[3.0, 0.5], seed=rng)
    again = np.random.default_rng(7)
    assert np.array_equal(drawn, again.standard_normal(2))
    assert np.allclose(layers["W1"], again.standard_normal((4, 3)) * 3.0 / np.sqrt(3), rtol=1e-15)
    assert np.allclose(layers["W2"], again.standard_normal((2, 4)) * 0.5 / np.sqrt(4), rtol=1e-15)
    assert not layers["b1"].any()
    with pytest.raises(ValueError, match="one for each of 3 layers"):
        layers_of("gaussian", scale=[1.0, 2.0])
    with pytest.raises(ValueError, match="at least 0"):
        layers_of("gaussian", scale=[1.0, 2.0, -1.0])
    with pytest.raises(TypeError, match="must be a number"):
        layers_of("balanced", scale=[1.0, 2.0, 3.0])


def test_unit_layers_are_gaussian_ones_divided_by_their_norms():
    _, layers = layers_of("unit", scale=[2.0, 1.0, 0.5], seed=4)
    _, drawn = layers_of("gaussian", seed=4)
    for scale, name in zip([2.0, 1.0, 0.5], layers, strict=True):
        assert np.allclose(layers[name], scale * drawn[name] / np.linalg.norm(drawn[name]), rtol=1e-14)


def test_orthogonal_layers_have_equal_singular_values():
    _, layers = layers_of("orthogonal", scale=0.7)
    for weight in layers.values():
        assert np.allclose(np.linalg.svd(weight, compute_uv=False), 0.7, rtol=1e-12)


def test_identity_and_constant():
    _, layers = layers_of("identity", scale=2.0)
    assert np.array_equal(layers["W2"], 2 * np.eye(4, 5))
    _, noisy = layers_of("identity", scale=2.0, noise=0.1, seed=3)
    assert 0.03 < np.std(noisy["W1"] - 2 * np.eye(5, 6)) < 0.3
    problem, layers = layers_of("constant", gf.Diagonal(4), scale=0.25)
    assert (layers["u"] == 0.25).all()
    assert (layers["v"] == 0.25).all()


@pytest.mark.parametrize("scheme", ["balanced", "zero-balanced", "aligned"])
def test_end_to_end_schemes_are_balanced(scheme):
    problem, layers = layers_of(scheme, scale=0.05, seed=2)
    theta = problem.flatten(layers)
    for value in gf.measure.balancedness(problem, theta).values():
        assert np.abs(value).max() < 1e-15
    product = np.linalg.multi_dot([layers["W3"], layers["W2"], layers["W1"]])
    strengths = np.linalg.svd(product, compute_uv=False)
    if scheme == "balanced":
        assert strengths[0] == pytest.approx(0.05, rel=1e-12)
        assert strengths[1] < 1e-15
    if scheme == "aligned":
        left, _, right = np.linalg.svd(problem.y.T @ problem.x)
        assert np.allclose(strengths, 0.05, rtol=1e-12)
        assert np.allclose(np.abs(np.diag(left.T @ product @ right.T)), 0.05, rtol=1e-10)


def test_biases_are_zero_unless_asked():
    network = gf.FullyConnected([3, 4, 1], "tanh", bias=True)
    _, layers = layers_of("gaussian", network)
    assert (layers["b1"] == 0).all()
    _, layers = layers_of("gaussian", network, bias=0.5)
    assert (layers["b1"] != 0).all()


@pytest.mark.parametrize("scheme", ["gaussian", "xavier", "he", "orthogonal", "balanced", "zero-balanced"])
def test_same_seed_same_bits_other_seed_other_start(scheme):
    problem = cases.make(LINEAR, "square", n=9)
    assert np.array_equal(problem.init(seed=1, scheme=scheme), problem.init(seed=1, scheme=scheme))
    assert not np.array_equal(problem.init(seed=1, scheme=scheme), problem.init(seed=2, scheme=scheme))


def test_bad_starts_say_what_is_wrong():
    problem = cases.make("tanh", "square")
    with pytest.raises(ValueError, match="unknown; choose one of gaussian"):
        problem.init(scheme="kaiming")
    with pytest.raises(ValueError, match="scale = -1"):
        problem.init(scale=-1)
    with pytest.raises(ValueError, match="without biases and skips"):
        problem.init(scheme="balanced")
