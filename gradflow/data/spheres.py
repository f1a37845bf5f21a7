"""Inputs of norm one, alone and with random classes."""

import numpy as np

from gradflow.data.checks import count, finite, generator


def unit_inputs(n: int, d: int, seed: int | np.random.Generator = 0) -> np.ndarray:
    r"""Independent inputs, uniform on the unit sphere, :math:`x_i = g_i / \|g_i\|` with Gaussian :math:`g_i`.

    Parameters
    ----------
    n, d : int
        Number of samples and of inputs.
    seed : int or numpy.random.Generator
        Seed, or a generator to draw from.

    Returns
    -------
    np.ndarray, shape (n, d)
        The inputs x.

    Raises
    ------
    ValueError
        If a size is not positive.

    Examples
    --------
    >>> x = unit_inputs(5, 3, seed=0)
    >>> x.shape, np.linalg.norm(x, axis=1).round(12).tolist()
    ((5, 3), [1.0, 1.0, 1.0, 1.0, 1.0])
    """
    return unit_rows(generator(seed).standard_normal((count("n", n), count("d", d))))


def random_labels(n: int, d: int, classes: int, seed: int | np.random.Generator = 0) -> tuple[np.ndarray, np.ndarray]:
    r"""Inputs on the unit sphere with random classes, which a network can only learn by heart.

    Parameters
    ----------
    n, d, classes : int
        Number of samples, of inputs and of classes.
    seed : int or numpy.random.Generator
        Seed, or a generator to draw from.

    Returns
    -------
    x : np.ndarray, shape (n, d)
        The inputs, of norm one.
    y : np.ndarray, shape (n, classes)
        One-hot targets.

    Raises
    ------
    ValueError
        If a size is not positive.

    Examples
    --------
    >>> x, y = random_labels(5, 3, classes=2, seed=0)
    >>> y.shape, y.sum(1).tolist()
    ((5, 2), [1.0, 1.0, 1.0, 1.0, 1.0])
    """
    rng = generator(seed)
    x = unit_inputs(n, d, rng)
    return x, np.eye(count("classes", classes))[rng.integers(0, classes, n)]


def orthogonally_separable(n: int, d: int, seed: int | np.random.Generator = 0) -> tuple[np.ndarray, np.ndarray]:
    r"""Inputs on the unit sphere with :math:`y_i y_j \, x_i \cdot x_j \ge 0` for all pairs of samples.

    .. math:: x_i = y_i \, |g_i| / \|g_i\|, \qquad g_i \sim N(0, I_d), \quad y_i = \pm 1

    Two-layer ReLU networks learn each class by itself, see :func:`gradflow.exact.separable_relu`.

    Parameters
    ----------
    n, d : int
        Number of samples and of inputs.
    seed : int or numpy.random.Generator
        Seed, or a generator to draw from.

    Returns
    -------
    x : np.ndarray, shape (n, d)
        The inputs, of norm one.
    y : np.ndarray, shape (n, 1)
        Labels: 1 for the first half (with the middle one, if n is odd), then -1.

    Raises
    ------
    ValueError
        If a size is not positive.

    Examples
    --------
    >>> x, y = orthogonally_separable(4, 3, seed=0)
    >>> y[:, 0].tolist(), bool(((y * x) @ (y * x).T >= 0).all())
    ([1.0, 1.0, -1.0, -1.0], True)
    """
    y = np.where(2 * np.arange(count("n", n)) < n, 1.0, -1.0)[:, None]
    return y * np.abs(unit_inputs(n, d, seed)), y


def orthonormal_classes(classes: int, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Orthonormal inputs in balanced classes: the features of a network's last layers, free to move by themselves.

    Parameters
    ----------
    classes, per_class : int
        Number of classes C and of samples in each.

    Returns
    -------
    x : np.ndarray, shape (n, n)
        The identity, n = C per_class.
    y : np.ndarray, shape (n, C)
        One-hot targets, class by class.

    Raises
    ------
    ValueError
        If a number is not positive.

    Examples
    --------
    >>> x, y = orthonormal_classes(2, per_class=2)
    >>> y.tolist()
    [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    """
    y = np.repeat(np.eye(count("classes", classes)), count("per_class", per_class), axis=0)
    return np.eye(len(y)), y


def unit_rows(x) -> np.ndarray:
    r"""Inputs divided by their norms, :math:`x_i / \|x_i\|`.

    Parameters
    ----------
    x : array_like (n, d)
        The inputs; none may be zero.

    Returns
    -------
    np.ndarray, shape (n, d)

    Raises
    ------
    ValueError
        If one is zero.

    Examples
    --------
    >>> unit_rows([[3.0, 4.0], [0.0, -2.0]]).tolist()
    [[0.6, 0.8], [0.0, -1.0]]
    """
    x = finite("x", x)
    if x.ndim != 2:
        raise ValueError(f"x has shape {x.shape}: give inputs (n, d)")
    sizes = np.linalg.norm(x, axis=1, keepdims=True)
    if not sizes.all():
        raise ValueError(f"input {int(np.argmin(sizes))} is zero, so it has no direction: leave it out")
    return x / sizes
