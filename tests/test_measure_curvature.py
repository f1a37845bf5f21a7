"""Hessian and tangent kernel against closed forms."""

import numpy as np
import pytest

from gradflow import measure
from gradflow.diagonal import Diagonal
from gradflow.losses import CrossEntropy, Exponential, Logistic, Square
from gradflow.modules import Convolutional, FromModule
from gradflow.networks import DeepLinear, FullyConnected
from gradflow.problem import Problem


def made(network, loss=None, *, n=6, seed=0, decay=0.0):
    rng = np.random.default_rng(seed)
    loss = loss or Square()
    x = rng.standard_normal((n, network.input_size))
    if loss.labels == "real":
        y = rng.standard_normal((n, network.output_size))
    elif loss.labels == "sign":
        y = np.sign(rng.standard_normal(n))
    else:
        y = rng.integers(0, network.output_size, n)
    return Problem(network, loss, x, y, decay=decay), rng.standard_normal(network.size)


def whitened(depth, seed=1):
    """Loss |w - target|^2 / 2 of the effective map w, |target| = 1, and a balanced start."""
    target = np.random.default_rng(0).standard_normal(6)
    target /= np.linalg.norm(target)
    network = DeepLinear([6, *[4] * (depth - 1), 1])
    problem = Problem(network, Square(reduction="sum", half=True), np.eye(6), target)
    return problem, problem.init(0.05, seed=seed, scheme="balanced"), target


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize(("reduction", "half"), [("mean", False), ("sum", True)])
def test_a_quadratic_has_the_spectrum_of_its_data(reduction, half, decay):
    network = DeepLinear([4, 2])
    problem, theta = made(network, Square(reduction, half), n=7, decay=decay)
    factor = (1 if half else 2) / (7 if reduction == "mean" else 1)
    curvatures = factor * np.linalg.svd(problem.x, compute_uv=False) ** 2 + 2 * decay
    np.testing.assert_allclose(measure.hessian_spectrum(problem, theta), np.repeat(curvatures, 2), rtol=1e-11)
    for method in ("dense", "lanczos"):
        top = measure.sharpness(problem, theta, method=method)
        bottom = measure.smallest_eigenvalue(problem, theta, method=method)
        np.testing.assert_allclose([top, bottom], [curvatures[0], curvatures[-1]], rtol=1e-11)
    np.testing.assert_allclose(measure.gauss_newton_sharpness(problem, theta), curvatures[0], rtol=1e-11)
    np.testing.assert_allclose(measure.hessian_trace(problem, theta), 2 * curvatures.sum(), rtol=1e-11)


def test_chain_of_two():
    """F = (s - ab)^2 / 2 has the Hessian [[b^2, 2ab - s], [2ab - s, a^2]]."""
    problem = Problem(DeepLinear([1, 1, 1]), Square(half=True), [[1.0]], [[2.0]])
    a, b, s = 0.7, -1.3, 2.0
    mean, half_gap, off = (a * a + b * b) / 2, (b * b - a * a) / 2, 2 * a * b - s
    root = np.hypot(half_gap, off)
    np.testing.assert_allclose(measure.hessian_spectrum(problem, [a, b]), [mean + root, mean - root], rtol=1e-13)
    np.testing.assert_allclose(measure.gauss_newton_sharpness(problem, [a, b]), a * a + b * b, rtol=1e-13)


def test_smallest_eigenvalue_of_two_balanced_layers_is_exact():
    """lambda_min = -|w - target| for depth 2, one output, balanced rank-one layers (arXiv 2107.06608)."""
    problem, start, target = whitened(2)
    for theta in (start, 3 * start, 10 * start):
        residual = np.linalg.norm(measure.effective_map(problem, theta)[0] - target)
        np.testing.assert_allclose(measure.smallest_eigenvalue(problem, theta), -residual, rtol=1e-11)
        lanczos = measure.smallest_eigenvalue(problem, theta, method="lanczos")
        np.testing.assert_allclose(lanczos, -residual, rtol=1e-11)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_hessian_lower_bound_of_linear_networks(depth):
    """lambda_min >= -(L - 1) |grad phi| max over pairs of the product of the other layers' norms (arXiv 2107.06608).

    One pair of layers alone attains 1 / (L - 1) of it at the balanced start.
    """
    problem, start, target = whitened(depth)
    rng = np.random.default_rng(2)
    slack = []
    for theta in (start, 4 * start, *(0.5 * rng.standard_normal((10, problem.size)))):
        norms = [values[0] for values in measure.layer_singular_values(problem, theta).values()]
        pairs = [(i, j) for i in range(depth) for j in range(i)]
        others = max(np.prod([norms[k] for k in range(depth) if k not in pair]) for pair in pairs)
        bound = -(depth - 1) * np.linalg.norm(measure.effective_map(problem, theta)[0] - target) * others
        np.testing.assert_allclose(measure.smallest_eigenvalue_bound(problem, theta), bound, rtol=1e-12)
        slack.append(measure.smallest_eigenvalue(problem, theta) / bound)
    assert max(slack) <= 1 + 1e-10
    assert slack[0] >= 1 / (depth - 1) - 1e-10


def test_hessian_lower_bound_with_several_outputs_and_another_loss():
    problem, _ = made(DeepLinear([4, 3, 3, 2]), CrossEntropy())
    thetas = 0.7 * np.random.default_rng(3).standard_normal((20, problem.size))
    bound = measure.smallest_eigenvalue_bound(problem, thetas)
    assert (measure.smallest_eigenvalue(problem, thetas) >= bound - 1e-12).all()
    with pytest.raises(ValueError, match="DeepLinear networks without decay"):
        measure.smallest_eigenvalue_bound(*made(FullyConnected([5, 8, 3]), CrossEntropy()))


@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_lanczos_agrees_with_dense(which):
    problem, theta = made(FullyConnected([5, 8, 3], "tanh", bias=True), CrossEntropy(), decay=0.01)
    dense, vectors = measure.hessian_eigenpairs(problem, theta, 3, which, method="dense")
    values, found = measure.hessian_eigenpairs(problem, theta, 3, which, method="lanczos")
    np.testing.assert_allclose(values, dense, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.abs((vectors * found).sum(1)), 1, rtol=1e-9)
    assert (np.diff(values) < 0).all() == (which == "largest")
    for value, vector in zip(values, found, strict=True):
        np.testing.assert_allclose(problem.hvp(theta, vector), value * vector, atol=1e-8)


def test_the_large_case_is_lanczos_and_right():
    """Above 2,000 parameters, against the closed form of a linear model."""
    problem, theta = made(DeepLinear([1100, 2]), n=5)
    expected = 2 / 5 * np.linalg.svd(problem.x, compute_uv=False)[0] ** 2
    np.testing.assert_allclose(measure.sharpness(problem, theta), expected, rtol=1e-10)
    np.testing.assert_allclose(measure.smallest_eigenvalue(problem, theta), 0, atol=1e-9 * expected)


@pytest.mark.parametrize("function", [measure.sharpness, measure.smallest_eigenvalue])
def test_the_zero_hessian_of_three_layers_at_zero(function):
    problem, _ = made(DeepLinear([6, 4, 3, 2]))
    zero = np.zeros(problem.size)
    assert function(problem, zero, method="lanczos") == function(problem, zero, method="dense") == 0


def test_a_warm_start_saves_products(monkeypatch):
    """On a Hessian whose top eigenvalues lie close together: the covariance of 300 samples in 200 dimensions."""
    problem, theta = made(DeepLinear([200, 1]), n=300)
    _, vectors = measure.hessian_eigenpairs(problem, theta, method="dense")
    plain, calls = problem.hvp, []
    monkeypatch.setattr(problem, "hvp", lambda t, v: calls.append(1) or plain(t, v))
    cold = measure.sharpness(problem, theta, method="lanczos")
    cold_calls = len(calls)
    warm = measure.sharpness(problem, theta, method="lanczos", start=vectors[0])
    np.testing.assert_allclose(warm, cold, rtol=1e-12)
    assert len(calls) - cold_calls < 0.8 * cold_calls


def test_trace_is_the_sum_of_the_spectrum():
    problem, theta = made(FullyConnected([3, 6, 2], "softplus", bias=True), decay=0.1)
    trace = measure.hessian_trace(problem, theta)
    np.testing.assert_allclose(trace, measure.hessian_spectrum(problem, theta).sum(), rtol=1e-11)
    estimate = measure.hessian_trace(problem, theta, probes=2000, seed=1)
    hessian = problem.hessian(theta)
    deviation = np.sqrt(2 * (np.sum(hessian**2) - np.sum(np.diag(hessian) ** 2)) / 2000)
    assert 0 < abs(estimate - trace) < 4 * deviation


def test_trace_of_a_deep_linear_network():
    """tr H = (2/n) sum_i sum_l |W_L ... W_{l+1}|_F^2 |W_{l-1} ... W_1 x_i|^2, at every theta (arXiv 2306.13239)."""
    problem, theta = made(DeepLinear([3, 4, 5, 2]))
    w = problem.layers(theta)
    above = [w["W3"] @ w["W2"], w["W3"], np.eye(2)]
    below = [np.eye(3), w["W1"], w["W2"] @ w["W1"]]
    expected = sum(
        2 / 6 * (b**2).sum() * ((a @ x) ** 2).sum() for b, a in zip(above, below, strict=True) for x in problem.x
    )
    np.testing.assert_allclose(measure.hessian_trace(problem, theta), expected, rtol=1e-11)


def differences(problem, theta, step=1e-6):
    """Jacobian (n, k, P) by central differences."""
    columns = [problem.outputs(theta + step * e) - problem.outputs(theta - step * e) for e in np.eye(problem.size)]
    return np.stack(columns, axis=-1) / (2 * step)


@pytest.mark.parametrize(
    "network",
    [
        FullyConnected([3, 5, 2], "tanh", bias=True),
        FullyConnected([3, 5, 1], "relu"),
        Diagonal(4, 3),
        Convolutional((1, 4, 4), [2], 2, outputs=2),
    ],
)
def test_jacobian_against_differences(network):
    problem, theta = made(network)
    jacobian = measure.jacobian(problem, theta)
    np.testing.assert_allclose(jacobian, differences(problem, theta), atol=2e-8)
    kernel = measure.ntk(problem, theta)
    k = network.output_size
    np.testing.assert_allclose(kernel[2 * k, 4 * k + k - 1], jacobian[2, 0] @ jacobian[4, k - 1], rtol=1e-12)
    assert kernel.shape == (6 * k, 6 * k)


def test_jacobian_of_a_module_that_mixes_samples():
    """Batch normalisation without running statistics: each output depends on every sample."""
    import torch

    torch.manual_seed(0)
    norm = torch.nn.BatchNorm1d(4, track_running_stats=False)
    network = FromModule(torch.nn.Sequential(torch.nn.Linear(3, 4), norm, torch.nn.Tanh(), torch.nn.Linear(4, 2)), (3,))
    problem, theta = made(network)
    np.testing.assert_allclose(measure.jacobian(problem, theta), differences(problem, theta), atol=1e-7)


def test_ntk_of_two_linear_layers():
    """K = (W2 W2^T) kron x x^T + I kron x W1^T W1 x^T, in the order sample, output."""
    problem, theta = made(DeepLinear([3, 4, 2]))
    w, x = problem.layers(theta), problem.x
    expected = np.kron(x @ x.T, w["W2"] @ w["W2"].T) + np.kron(x @ w["W1"].T @ w["W1"] @ x.T, np.eye(2))
    np.testing.assert_allclose(measure.ntk(problem, theta), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("loss", [Square(), Logistic("sum"), Exponential(), CrossEntropy()])
def test_gauss_newton_sharpness(loss):
    """Against J^T A J with the textbook A of each loss."""
    network = FullyConnected([3, 5, 3 if loss.labels == "class" else 1], "tanh")
    problem, theta = made(network, loss, decay=0.05)
    f, j = problem.outputs(theta), differences(problem, theta)
    total = 2 * 0.05 * np.eye(problem.size)
    for i, y in enumerate(problem.y):
        if loss.name == "square":
            a = 2 / 6 * np.eye(1)
        elif loss.name == "logistic":
            a = np.array([[1 / (2 + 2 * np.cosh(f[i, 0]))]])
        elif loss.name == "exponential":
            a = np.array([[np.exp(-y[0] * f[i, 0]) / 6]])
        else:
            p = np.exp(f[i]) / np.exp(f[i]).sum()
            a = (np.diag(p) - np.outer(p, p)) / 6
        total += j[i].T @ a @ j[i]
    np.testing.assert_allclose(measure.gauss_newton_sharpness(problem, theta), np.linalg.eigvalsh(total)[-1], rtol=1e-7)


def test_gauss_newton_is_the_hessian_at_a_fit():
    problem, theta = made(FullyConnected([3, 5, 2], "tanh"))
    fitted = problem.with_data(problem.x, problem.outputs(theta))
    top = measure.sharpness(fitted, theta)
    np.testing.assert_allclose(measure.gauss_newton_sharpness(fitted, theta), top, rtol=1e-10)
    assert abs(measure.gauss_newton_sharpness(problem, theta) / measure.sharpness(problem, theta) - 1) > 1e-3


@pytest.mark.parametrize(
    "function",
    [
        measure.sharpness,
        measure.smallest_eigenvalue,
        measure.hessian_spectrum,
        measure.hessian_trace,
        measure.gauss_newton_sharpness,
        measure.ntk,
        measure.jacobian,
    ],
)
def test_batch_is_one_by_one(function):
    problem, _ = made(FullyConnected([3, 4, 2], "tanh"))
    batch = np.random.default_rng(4).standard_normal((3, problem.size))
    alone = [function(problem, row) for row in batch]
    np.testing.assert_allclose(function(problem, batch), np.stack(alone), rtol=1e-12)
    assert np.isnan(function(problem, np.full(problem.size, np.nan))).any()


def test_not_a_number_in_lanczos():
    problem, theta = made(FullyConnected([3, 4, 2], "tanh"))
    assert np.isnan(measure.sharpness(problem, np.nan * theta, method="lanczos"))


def test_bad_input():
    problem, theta = made(FullyConnected([3, 4, 2], "tanh"))
    with pytest.raises(ValueError, match="choose one of auto, dense, lanczos"):
        measure.sharpness(problem, theta, method="power")
    with pytest.raises(ValueError, match="choose one of largest, smallest"):
        measure.hessian_eigenpairs(problem, theta, which="LA")
    with pytest.raises(ValueError, match="count = 0"):
        measure.hessian_eigenpairs(problem, theta, 0)
    with pytest.raises(ValueError, match="one vector"):
        measure.hessian_eigenpairs(problem, np.ones((2, problem.size)))
    with pytest.raises(ValueError, match="start has shape"):
        measure.sharpness(problem, theta, start=theta[1:])
    with pytest.raises(ValueError, match="probes = 0"):
        measure.hessian_trace(problem, theta, probes=0)
