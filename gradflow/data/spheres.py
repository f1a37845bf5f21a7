"""Inputs of norm one."""

import numpy as np

from gradflow.data.checks import count


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
    return unit_rows(np.random.default_rng(seed).standard_normal((count("n", n), count("d", d))))


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
    x = np.asarray(x, dtype=float)
    sizes = np.linalg.norm(x, axis=1, keepdims=True)
    if not sizes.all():
        raise ValueError(f"input {int(np.argmin(sizes))} is zero, so it has no direction: leave it out")
    return x / sizes
