"""Norms, singular values, ranks, alignment and the effective map, against slow and obvious forms."""

import numpy as np
import pytest
from scipy.optimize import check_grad

from gradflow import measure
from gradflow.diagonal import Diagonal
from gradflow.losses import Square
from gradflow.modules import Convolutional
from gradflow.networks import DeepLinear, FullyConnected, ResidualLinear, Skip
from gradflow.problem import Problem


def made(network, *, n=5, seed=0, decay=0.0):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, network.input_size)), rng.standard_normal((n, network.output_size))
    return Problem(network, Square(), x, y, decay=decay), rng.standard_normal(network.size)


def batch_of(problem, runs=3):
    return np.random.default_rng(9).standard_normal((runs, problem.size))


DEEP = DeepLinear([5, 4, 3, 2])
MEASURES = {
    "loss": measure.loss,
    "gradient_norm": measure.gradient_norm,
    "effective_map": measure.effective_map,
    "layer_norms": measure.layer_norms,
    "rho": measure.rho,
    "singular_values": measure.singular_values,
    "singular_values of W2": lambda p, t: measure.singular_values(p, t, layer="W2"),
    "stable_rank": measure.stable_rank,
    "stable_rank of W1": lambda p, t: measure.stable_rank(p, t, "W1"),
    "stable_rank of the map": lambda p, t: measure.stable_rank(p, t, "map"),
    "spectral_ratio": measure.spectral_ratio,
    "numerical_rank": lambda p, t: measure.numerical_rank(p, t, tolerance=0.3),
    "alignment": measure.alignment,
}


@pytest.mark.parametrize("name", MEASURES)
def test_batch_is_one_by_one(name):
    problem, _ = made(DEEP)
    batch = batch_of(problem)
    together = MEASURES[name](problem, batch)
    alone = np.stack([MEASURES[name](problem, row) for row in batch])
    np.testing.assert_allclose(together, alone, rtol=1e-12)
    assert together.shape == alone.shape


@pytest.mark.parametrize("name", sorted(set(MEASURES) - {"loss", "gradient_norm", "effective_map"}))
def test_not_a_number_stays_in_its_row(name):
    """Rows that a run has left as NaN do not raise, and leave the others alone."""
    problem, _ = made(DEEP)
    batch = batch_of(problem)
    expected = MEASURES[name](problem, batch[:2])
    batch[2] = np.nan
    values = MEASURES[name](problem, batch)
    np.testing.assert_allclose(values[:2], expected, rtol=1e-12)
    assert np.isnan(values[2]).all()


def test_loss_and_gradient_norm():
    problem, theta = made(FullyConnected([3, 4, 2], "tanh", bias=True), decay=0.1)
    w = problem.layers(theta)
    outputs = [w["W2"] @ np.tanh(w["W1"] @ x + w["b1"]) + w["b2"] for x in problem.x]
    expected = np.mean([np.sum((f - y) ** 2) for f, y in zip(outputs, problem.y, strict=True)]) + 0.1 * theta @ theta
    np.testing.assert_allclose(measure.loss(problem, theta), expected, rtol=1e-13)
    assert check_grad(lambda t: measure.loss(problem, t), problem.gradient, theta) < 1e-5
    np.testing.assert_allclose(measure.gradient_norm(problem, theta), np.sqrt(np.sum(problem.gradient(theta) ** 2)))


def test_effective_map_is_the_product():
    problem, theta = made(DEEP)
    w = problem.layers(theta)
    np.testing.assert_allclose(measure.effective_map(problem, theta), w["W3"] @ w["W2"] @ w["W1"], rtol=1e-12)

    residual, theta = made(ResidualLinear(2, 3, readout=[[1.0, -2.0, 0.5]]))
    w, eye = residual.layers(theta), np.eye(3)
    expected = np.array([[1.0, -2.0, 0.5]]) @ (eye + w["W2"]) @ (eye + w["W1"])
    np.testing.assert_allclose(measure.effective_map(residual, theta), expected, rtol=1e-12)

    skipped, theta = made(DeepLinear([3, 4, 4, 2], skips=[Skip(0, 2, "linear")]))
    w = skipped.layers(theta)
    expected = w["W3"] @ (w["W2"] @ w["W1"] + w["U2"])
    np.testing.assert_allclose(measure.effective_map(skipped, theta), expected, rtol=1e-12)

    signed, theta = made(Diagonal(3, 3))
    np.testing.assert_allclose(measure.effective_map(signed, theta), theta[:3] ** 3 - theta[3:] ** 3, rtol=1e-12)


def test_effective_map_leaves_the_bias_out():
    problem, theta = made(FullyConnected([3, 2, 2], "linear", bias=True))
    w = problem.layers(theta)
    np.testing.assert_allclose(measure.effective_map(problem, theta), w["W2"] @ w["W1"], rtol=1e-12)


@pytest.mark.parametrize("layer", ["W1", "W2", "map"])
def test_singular_values_and_ranks(layer):
    """Against the eigenvalues of M M^T and the definitions."""
    problem, theta = made(DEEP)
    matrix = measure.effective_map(problem, theta) if layer == "map" else problem.layers(theta)[layer]
    strengths = np.sqrt(np.linalg.eigvalsh(matrix @ matrix.T)[::-1])
    np.testing.assert_allclose(measure.singular_values(problem, theta, layer=layer), strengths, rtol=1e-10)
    square = np.trace(matrix @ matrix.T)
    np.testing.assert_allclose(measure.stable_rank(problem, theta, layer), square / strengths[0] ** 2, rtol=1e-10)
    np.testing.assert_allclose(
        measure.spectral_ratio(problem, theta, layer), strengths[0] / np.sqrt(square), rtol=1e-10
    )


def test_layer_singular_values():
    problem, theta = made(DEEP)
    values = measure.layer_singular_values(problem, theta)
    assert {name: v.shape for name, v in values.items()} == {"W1": (4,), "W2": (3,), "W3": (2,)}
    np.testing.assert_allclose(values["W2"], measure.singular_values(problem, theta, "W2"))
    np.testing.assert_allclose([np.linalg.norm(v) for v in values.values()], measure.layer_norms(problem, theta))


def test_aligned_start_has_its_strengths():
    """The scheme "aligned" puts the same strength on every mode, and aligns adjacent layers."""
    problem, _ = made(DeepLinear([5, 6, 3]))
    theta = problem.init(0.3, scheme="aligned")
    np.testing.assert_allclose(measure.singular_values(problem, theta), 0.3, rtol=1e-12)
    np.testing.assert_allclose(measure.stable_rank(problem, theta), [3, 3], rtol=1e-12)


def test_numerical_rank_counts_above_the_tolerance():
    problem, _ = made(DeepLinear([4, 4]))
    theta = problem.flatten({"W1": 100 * np.diag([1.0, 1e-3, 1e-7, 0.0])})
    assert [measure.numerical_rank(problem, theta, "W1", tolerance=t) for t in (1e-2, 1e-6, 1e-9)] == [1, 2, 3]
    assert measure.numerical_rank(problem, np.zeros(16)).tolist() == [0]
    flat = problem.flatten({"W1": np.diag([1.0, 1.0, 1.0, 0.55])})
    assert [measure.numerical_rank(problem, flat, "W1", tolerance=0.5, relative_to=s) for s in ("largest", "norm")] == [
        4,
        3,
    ]
    with pytest.raises(ValueError, match="'largest' or 'norm'"):
        measure.numerical_rank(problem, flat, relative_to="trace")
    assert np.isnan(measure.stable_rank(problem, np.zeros(16))).all()


def test_rank_tail_is_the_distance_from_the_best_matrix_of_a_rank():
    problem, theta = made(DEEP)
    for rank in (0, 1, 2):
        for tail, w in zip(measure.rank_tail(problem, theta, rank), problem.layers(theta).values(), strict=True):
            u, s, v = np.linalg.svd(w, full_matrices=False)
            best = (u[:, :rank] * s[:rank]) @ v[:rank]
            np.testing.assert_allclose(tail, np.linalg.norm(w - best) / np.linalg.norm(w), atol=1e-14)


def test_alignment():
    """One for a balanced start; the angle of the top vectors, found by power iteration, in general."""
    problem, theta = made(DEEP)
    np.testing.assert_allclose(measure.alignment(problem, problem.init(2.0, scheme="balanced")), 1.0, rtol=1e-12)
    w = problem.layers(theta)
    for number, value in enumerate(measure.alignment(problem, theta), 1):
        left, right = w[f"W{number}"] @ w[f"W{number}"].T, w[f"W{number + 1}"].T @ w[f"W{number + 1}"]
        u, v = np.ones(len(left)), np.ones(len(right))
        for _ in range(3000):
            u, v = left @ u / np.linalg.norm(left @ u), right @ v / np.linalg.norm(right @ v)
        np.testing.assert_allclose(value, abs(u @ v), rtol=1e-10)


def test_norms_and_rho():
    problem, theta = made(FullyConnected([3, 4, 2], "relu", bias=True, skips=[Skip(0, 1, "linear")]))
    w = problem.layers(theta)
    norms = [np.sqrt((w["W1"] ** 2).sum()), np.sqrt((w["W2"] ** 2).sum())]
    np.testing.assert_allclose(measure.layer_norms(problem, theta), norms)
    np.testing.assert_allclose(measure.rho(problem, theta), norms[0] * norms[1])


@pytest.mark.parametrize(
    "network", [FullyConnected([3, 4, 4, 2], "relu"), Diagonal(4, 3), Convolutional((1, 4, 4), [2], 2)]
)
def test_outputs_are_rho_times_those_of_unit_layers(network):
    problem, theta = made(network)
    layers = problem.layers(theta)
    if isinstance(network, Diagonal):
        unit = theta / np.linalg.norm(theta)
    else:
        unit = problem.flatten({name: w / np.sqrt((w**2).sum()) for name, w in layers.items()})
    expected = measure.rho(problem, theta) * problem.outputs(unit)
    np.testing.assert_allclose(problem.outputs(theta), expected, rtol=1e-11)


def test_a_convolution_counts_as_a_matrix():
    problem, theta = made(Convolutional((2, 4, 4), [3], 2))
    kernel = problem.layers(theta)["W1"]
    expected = np.linalg.svd(kernel.reshape(3, 8), compute_uv=False)
    np.testing.assert_allclose(measure.singular_values(problem, theta, "W1"), expected)
    assert measure.layer_norms(problem, theta).shape == (2,)


def test_unknown_layer_lists_the_known_ones():
    problem, theta = made(DeepLinear([3, 4, 4, 2], skips=[Skip(0, 2, "linear")]))
    for call in (measure.singular_values, measure.stable_rank, measure.numerical_rank):
        with pytest.raises(ValueError, match="'W9'.*choose one of W1, W2, U2, W3, map"):
            call(problem, theta, layer="W9")


def test_what_a_network_lacks():
    smooth, theta = made(FullyConnected([3, 4, 2], "tanh", bias=True))
    with pytest.raises(ValueError, match="linear networks only"):
        measure.effective_map(smooth, theta)
    with pytest.raises(ValueError, match="linear networks only"):
        measure.singular_values(smooth, theta)
    with pytest.raises(ValueError, match="'b1'.*choose one of W1, W2$"):
        measure.singular_values(smooth, theta, "b1")
    diagonal, theta = made(Diagonal(4, 2))
    with pytest.raises(ValueError, match="no weight matrices"):
        measure.stable_rank(diagonal, theta)
    np.testing.assert_allclose(measure.stable_rank(diagonal, theta, "map"), 1.0)
    single, theta = made(DeepLinear([3, 2]))
    with pytest.raises(ValueError, match="at least two trained layers"):
        measure.alignment(single, theta)
    conv, theta = made(Convolutional((1, 4, 4), [2], 2))
    with pytest.raises(ValueError, match="at least two trained layers"):
        measure.alignment(conv, theta)
    with pytest.raises(ValueError, match="tolerance = 2"):
        measure.numerical_rank(single, np.ones(6), tolerance=2)
    with pytest.raises(ValueError, match="theta has shape"):
        measure.layer_norms(single, np.ones(7))


def test_rank_one_bound_of_ji_and_telgarsky():
    """gap_l = |W_l|_F^2 - |W_l|_2^2 <= D_l holds for any W with the same invariants: here at the start itself."""
    problem, theta = made(DeepLinear([4, 6, 5, 1]), seed=3)
    gaps = (1 - measure.spectral_ratio(problem, theta) ** 2) * measure.layer_norms(problem, theta) ** 2
    bound, bounds = 0.0, [0.0]
    for number in (2, 1):
        delta = -measure.invariants(problem, theta)[f"layer {number}"]
        bound += np.trace(delta) - np.linalg.eigvalsh(delta)[0]
        bounds.insert(0, bound)
    assert (gaps <= np.array(bounds) + 1e-12).all()
    assert gaps[0] > 0.1 * bounds[0]


def test_what_no_input_sees_is_the_rest_of_the_first_layer_and_has_no_gradient():
    x = np.random.default_rng(0).standard_normal((3, 5))
    problem = Problem(FullyConnected([5, 4, 2]), Square(), x, np.eye(3)[:, :2])
    theta = np.stack([problem.init(seed=k) for k in range(2)])
    rest = measure.unseen(problem, theta)
    assert np.abs(rest @ x.T).max() < 1e-14
    seen = problem.layers(theta)["W1"] - rest
    assert np.linalg.matrix_rank(np.vstack([x, seen.reshape(-1, 5)]), tol=1e-10) == 3
    assert np.abs(measure.unseen(problem, problem.gradient(theta[0]))).max() < 1e-14
    assert np.abs(rest).max() > 0.1
