"""Linear measurements of a sparse vector."""

from typing import NamedTuple

import numpy as np

from gradflow.data.checks import count, finite, generator


class SparseMeasurements(NamedTuple):
    r"""Measurements :math:`y = X w_*` of a sparse vector.

    Attributes
    ----------
    x : ndarray (n, d)
        The measurements, one per row.
    y : ndarray (n, 1)
        Their results.
    vector : ndarray (d,)
        What was measured.

    Examples
    --------
    >>> sparse_measurements(10, 20, nonzeros=2)._fields
    ('x', 'y', 'vector')
    """

    x: np.ndarray
    y: np.ndarray
    vector: np.ndarray


def sparse_measurements(n: int, d: int, nonzeros: int, seed: int = 0, *, value: float = 1.0) -> SparseMeasurements:
    r"""Gaussian measurements of a vector with few entries that are not zero, as in compressed sensing.

    .. math:: y = X w_*, \qquad X_{ij} \sim N(0, 1/n), \qquad w_{*j} = \mathrm{value} \text{ on a random support}

    Parameters
    ----------
    n, d : int
        Number of measurements and of entries.
    nonzeros : int
        Number of entries that are not zero, at most d.
    seed : int
        Seed of the generator.
    value : float
        Of those entries.

    Returns
    -------
    SparseMeasurements
        ``x``, ``y`` and ``vector``.

    Raises
    ------
    ValueError
        If a size is not positive or there are more nonzeros than entries.

    Examples
    --------
    >>> x, y, w = sparse_measurements(10, 20, nonzeros=2, seed=1, value=0.5)
    >>> np.flatnonzero(w).tolist(), bool(np.allclose(x @ w, y[:, 0]))
    ([5, 17], True)
    """
    n, d = count("n", n), count("d", d)
    nonzeros = count("nonzeros", nonzeros, maximum=d, reason=f"the vector has only d = {d} entries")
    rng = generator(seed)
    x, vector = rng.standard_normal((n, d)) / np.sqrt(n), np.zeros(d)
    vector[rng.choice(d, nonzeros, replace=False)] = finite("value", value)
    return SparseMeasurements(x, (x @ vector)[:, None], vector)
