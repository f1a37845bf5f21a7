r"""Linear measurements of a low-rank matrix, as data for a network that is linear in a flattened matrix.

A row of x is a measurement matrix A_i (k x d) flattened row by row, and y_i = <A_i, M>. A network fits such data
through Problem(network, Square(), x, y) if its output at x is x . vec(M(theta)), where vec goes row by row:
`DeepLinear([k * d, 1])` trains the entries of M themselves; a factorised M = W2 W1 is the torch module whose forward
is ``x @ (W2 @ W1).reshape(-1, 1)``, wrapped by `FromModule`.
"""

import numpy as np
from numpy.typing import ArrayLike

from gradflow.data.checks import count, finite, generator


def low_rank_matrix(dim: int | tuple[int, int], rank: int, seed: int = 0, *, symmetric: bool = False) -> np.ndarray:
    r"""Gaussian matrix of low rank.

    .. math:: M = \frac{B C^T}{\sqrt{k d}}, \qquad \text{or } M = \frac{B B^T}{d} \text{ if symmetric}

    B (k x rank) and C (d x rank) have entries N(0, 1), so the singular values are of order 1.

    Parameters
    ----------
    dim : int or (int, int)
        Rows k and columns d; one number for a square matrix.
    rank : int
        The rank, at most min(k, d).
    seed : int
        Seed of the generator.
    symmetric : bool
        Whether M is positive semidefinite.

    Returns
    -------
    np.ndarray, shape (k, d)

    Raises
    ------
    ValueError
        If the rank is too large, or a symmetric matrix is not square.

    Examples
    --------
    >>> int(np.linalg.matrix_rank(low_rank_matrix((5, 4), rank=2)))
    2
    """
    rows, columns = _shape(dim)
    rank = count("rank", rank, maximum=min(rows, columns), reason=f"the matrix is {rows} x {columns}")
    rng, _ = generator(seed).spawn(2)
    left = rng.standard_normal((rows, rank))
    if not symmetric:
        return left @ rng.standard_normal((columns, rank)).T / np.sqrt(rows * columns)
    if rows != columns:
        raise ValueError(f"dim = {dim}: a symmetric matrix is square; give one number")
    return left @ left.T / rows


def matrix_sensing(
    n_measurements: int, dim: int | tuple[int, int], rank: int, seed: int = 0, *, matrix: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray]:
    r"""Gaussian measurements of a low-rank matrix.

    .. math:: x_i = \mathrm{vec}(A_i), \qquad y_i = \langle A_i, M \rangle = x_i \cdot \mathrm{vec}(M)

    The entries of A_i are N(0, 1) and vec goes row by row: ``A.ravel()``. The network must give x . vec(M(theta)) at
    x, for example ``DeepLinear([k * d, 1])``, or a module that flattens its product matrix.

    Parameters
    ----------
    n_measurements : int
        Number n of measurements.
    dim : int or (int, int)
        Rows k and columns d of M; one number for a square matrix.
    rank : int
        Rank of M.
    seed : int
        Seed of the generator; the measurements do not depend on M.
    matrix : array_like, shape (k, d), optional
        M; ``low_rank_matrix(dim, rank, seed)`` if left out. The rank is then not used.

    Returns
    -------
    x : np.ndarray, shape (n, k d)
    y : np.ndarray, shape (n, 1)

    Raises
    ------
    ValueError
        If a size is not positive, or the matrix does not fit dim.

    Examples
    --------
    >>> x, y = matrix_sensing(18, dim=5, rank=1, seed=0)
    >>> x.shape, bool(np.allclose(y[:, 0], x @ low_rank_matrix(5, 1, seed=0).ravel()))
    ((18, 25), True)
    """
    n = count("n_measurements", n_measurements)
    target = _target(dim, rank, seed, matrix)
    _, measurements = generator(seed).spawn(2)
    x = measurements.standard_normal((n, target.size))
    return x, x @ target.reshape(-1, 1)


def matrix_completion(
    dim: int | tuple[int, int], rank: int, n_observed: int, seed: int = 0, *, matrix: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray]:
    r"""Observed entries of a low-rank matrix, drawn without replacement.

    .. math:: x_i = \mathrm{vec}(e_a e_b^T), \qquad y_i = M_{ab}

    This is `matrix_sensing` with one-hot measurements: row i of x has its single 1 at ``a * d + b``. The observed
    entries come in the order of the rows of M.

    Parameters
    ----------
    dim : int or (int, int)
        Rows k and columns d of M; one number for a square matrix.
    rank : int
        Rank of M.
    n_observed : int
        Number n of observed entries, at most k d.
    seed : int
        Seed of the generator; the observed positions do not depend on M.
    matrix : array_like, shape (k, d), optional
        M; ``low_rank_matrix(dim, rank, seed)`` if left out. The rank is then not used.

    Returns
    -------
    x : np.ndarray, shape (n, k d)
    y : np.ndarray, shape (n, 1)

    Raises
    ------
    ValueError
        If there are fewer entries than asked for, or the matrix does not fit dim.

    Examples
    --------
    >>> x, y = matrix_completion(dim=3, rank=1, n_observed=4, seed=0)
    >>> x.shape, x.sum(axis=1)
    ((4, 9), array([1., 1., 1., 1.]))
    """
    target = _target(dim, rank, seed, matrix)
    n = count("n_observed", n_observed, maximum=target.size, reason=f"the matrix has only {target.size} entries")
    _, positions = generator(seed).spawn(2)
    observed = np.zeros(target.size, dtype=bool)
    observed[positions.choice(target.size, n, replace=False)] = True
    return observed_entries(target, observed.reshape(target.shape))


def observed_entries(matrix: ArrayLike, observed: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Chosen entries of a matrix in the form of `matrix_completion`.

    Parameters
    ----------
    matrix : array_like, shape (k, d)
        The matrix; entries that are not observed are not used.
    observed : array_like of bool, shape (k, d)
        Which entries are observed.

    Returns
    -------
    x : np.ndarray, shape (n, k d)
        One-hot rows, in the order of the rows of the matrix.
    y : np.ndarray, shape (n, 1)
        The observed entries.

    Raises
    ------
    ValueError
        If the shapes differ, or nothing is observed.

    Examples
    --------
    >>> x, y = observed_entries([[1.0, 2.0], [3.0, 4.0]], [[False, True], [True, False]])
    >>> x, y
    (array([[0., 1., 0., 0.],
           [0., 0., 1., 0.]]), array([[2.],
           [3.]]))
    """
    entries, mask = np.asarray(matrix, dtype=np.float64), np.asarray(observed)
    if entries.ndim != 2 or mask.shape != entries.shape or mask.dtype != bool:
        raise ValueError(
            f"observed has shape {mask.shape} and type {mask.dtype} for a matrix of shape {entries.shape}: "
            "give True or False for every entry of a matrix"
        )
    positions = np.flatnonzero(mask)
    if len(positions) == 0:
        raise ValueError("observed is False everywhere: give at least one observed entry")
    x = np.zeros((len(positions), entries.size))
    x[np.arange(len(positions)), positions] = 1.0
    return x, finite("matrix", entries.ravel()[positions])[:, None]


def _shape(dim: int | tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a dim argument."""
    rows, columns = dim if isinstance(dim, tuple | list) and len(dim) == 2 else (dim, dim)
    return count("dim", rows), count("dim", columns)


def _target(dim: int | tuple[int, int], rank: int, seed: int, matrix: ArrayLike | None) -> np.ndarray:
    """Return the matrix that is measured."""
    if matrix is None:
        return low_rank_matrix(dim, rank, seed)
    return finite("matrix", matrix, _shape(dim))
