"""Coefficients of the stabilised method of order 4, from the data file beside this one."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

FILE = Path(__file__).with_suffix(".npz")
"""Written by ``benchmarks/stabilised_coefficients.py``, which computes all of it."""


class Coefficients(NamedTuple):
    """Methods of order 4 with ``stages[r]`` stages, stable on the real interval [-extent[r], 0]; one row r for each.

    From y, with d_0 = 0, the first s - 4 stages are, with j counted from ``first[r]`` in mu, kappa and times,
    ``d_(j+1) = kappa[j] d_j + (1 - kappa[j]) d_(j-1) + mu[j] h f(t + times[j] h, y + d_j)``.
    Four stages k_i follow from y + d_(s-4), at t + nodes[r, i] h, with ``matrix[r]``; ``weights[r]`` lead to the new
    state, and ``estimate[r, 0] d_(s-4) + h sum_i estimate[r, i] k_i`` is the estimate of the error, of order 3.
    """

    stages: np.ndarray
    extent: np.ndarray
    first: np.ndarray
    mu: np.ndarray
    kappa: np.ndarray
    times: np.ndarray
    matrix: np.ndarray
    weights: np.ndarray
    nodes: np.ndarray
    estimate: np.ndarray


@cache
def coefficients() -> Coefficients:
    """All methods, by increasing number of stages.

    Returns
    -------
    Coefficients

    References
    ----------
    Abdulle: Fourth order Chebyshev methods with recurrence relation, SIAM J. Sci. Comput. 23 (2002) 2041-2054.

    Examples
    --------
    >>> from gradflow.steppers.stabilised_coefficients import coefficients
    >>> method = coefficients()
    >>> int(method.stages[5]), round(float(method.extent[5]), 1)
    (10, 32.0)
    """
    with np.load(FILE, allow_pickle=False) as data:
        arrays = {name: np.ascontiguousarray(data[name]) for name in data.files}
    stages = arrays["stages"].astype(np.int64)
    first = np.concatenate([[0], np.cumsum(stages - 4)[:-1]])
    return Coefficients(**arrays | {"stages": stages, "first": first})
