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
    x = np.random.default_rng(seed).standard_normal((count("n", n), count("d", d)))
    return x / np.linalg.norm(x, axis=1, keepdims=True)
