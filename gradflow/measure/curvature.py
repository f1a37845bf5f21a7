"""Eigenvalues of the Hessian of the objective."""

from __future__ import annotations

import numpy as np

from gradflow.arguments import whole
from gradflow.measure.layers import effective_map, weights
from gradflow.measure.runs import per_run
from gradflow.networks import DeepLinear
from gradflow.problem import Problem

DENSE_BELOW = 200
METHODS = ("auto", "dense", "lanczos")
ENDS = ("largest", "smallest")


def hessian_eigenpairs(
    problem, theta, count=1, which="largest", *, method="auto", start=None, tolerance=1e-9
) -> tuple[np.ndarray, np.ndarray]:
    r"""Eigenvalues at one end of the spectrum of :math:`\nabla^2 F(\theta)`, with eigenvectors.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,)
    count : int
        How many.
    which : {"largest", "smallest"}
        Largest first, or smallest (most negative) first.
    method : {"auto", "dense", "lanczos"}
        "dense" forms the Hessian; "lanczos" needs products with vectors only (scipy's ARPACK). "auto" is dense below
        200 parameters.
    start : array_like (P,), optional
        First vector of Lanczos, for example the eigenvector at a nearby theta; a fixed random one if not given.
    tolerance : float
        Of Lanczos: the residual :math:`|Hv - \mu v|` relative to the largest eigenvalue (to the range of the
        spectrum for the smallest); the error of an isolated eigenvalue is of the order of its square.

    Returns
    -------
    values : ndarray (count,)
        NaN where theta is not finite.
    vectors : ndarray (count, P)
        One eigenvector of length 1 per row.

    Raises
    ------
    ValueError
        For a `count` outside 1..P, an unknown `which` or `method`, a start vector of the wrong shape.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([2, 1]), gf.losses.Square(half=True), np.diag([2.0, 4.0]), np.ones((2, 1)))
    >>> values, vectors = gf.measure.hessian_eigenpairs(problem, np.zeros(2))
    >>> values.round(9).tolist(), np.abs(vectors).round(9).tolist()
    ([8.0], [[0.0, 1.0]])
    """
    theta = _single(problem, theta)
    if not 1 <= whole(count, "count") <= problem.size:
        raise ValueError(f"count = {count}: must be between 1 and the number of parameters, {problem.size}")
    if which not in ENDS:
        raise ValueError(f"which = {which!r}: choose one of {', '.join(ENDS)}")
    if method not in METHODS:
        raise ValueError(f"method = {method!r}: choose one of {', '.join(METHODS)}")
    if start is not None:
        start = _single(problem, start, "start")
    dense = method == "dense" or (method == "auto" and problem.size < DENSE_BELOW) or count >= problem.size - 1
    pairs = _dense_pairs if dense else _lanczos_pairs
    return pairs(problem, theta, count, which, start, tolerance)


@per_run
def sharpness(problem, theta, *, method="auto", start=None, tolerance=1e-9) -> float | np.ndarray:
    r"""Sharpness :math:`\lambda_{\max}(\nabla^2 F(\theta))`, the largest eigenvalue of the Hessian.

    Gradient descent with step h is stable at a minimum if the sharpness is below 2 / h.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)
    method : str, optional
    start : array_like (P,), optional
    tolerance : float, optional
        As in :func:`hessian_eigenpairs`.

    Returns
    -------
    float or ndarray (runs,)
        NaN where theta is not finite.

    References
    ----------
    J. Cohen et al., Gradient descent on neural networks typically occurs at the edge of stability, arXiv 2103.00065.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(half=True), [[1.0]], [[12.0]])
    >>> round(gf.measure.sharpness(problem, np.array([3.0, 4.0])), 9)
    25.0
    """
    return hessian_eigenpairs(problem, theta, 1, method=method, start=start, tolerance=tolerance)[0][0]


@per_run
def smallest_eigenvalue(problem, theta, *, method="auto", start=None, tolerance=1e-9) -> float | np.ndarray:
    r"""Smallest (most negative) eigenvalue :math:`\lambda_{\min}(\nabla^2 F(\theta))` of the Hessian.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)
    method : str, optional
    start : array_like (P,), optional
    tolerance : float, optional
        As in :func:`hessian_eigenpairs`.

    Returns
    -------
    float or ndarray (runs,)
        NaN where theta is not finite.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(half=True), [[1.0]], [[2.0]])
    >>> round(gf.measure.smallest_eigenvalue(problem, np.zeros(2)), 9)
    -2.0
    """
    pairs = hessian_eigenpairs(problem, theta, 1, "smallest", method=method, start=start, tolerance=tolerance)
    return pairs[0][0]


@per_run
def smallest_eigenvalue_bound(problem, theta) -> float | np.ndarray:
    r"""Lower bound of :func:`gradflow.measure.smallest_eigenvalue` of a deep linear network with a convex loss.

    .. math:: \lambda_{\min}(\nabla^2 F(\theta)) \ge -(L - 1)\, \|\nabla\phi(W_L \cdots W_1)\|_F
        \max_{j < k} \prod_{i \ne j, k} \|W_i\|_2,

    where :math:`F(\theta) = \phi(W_L \cdots W_1)`. Attained at two balanced layers of rank one with one output.

    Parameters
    ----------
    problem : Problem
        Of a ``DeepLinear`` network, without decay.
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    float or ndarray (runs,)

    Raises
    ------
    ValueError
        For another network, or with decay.

    References
    ----------
    O. Elkabetz, N. Cohen, Continuous vs. Discrete Optimization of Deep Neural Networks, arXiv 2107.06608.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(half=True), [[1.0]], [[2.0]])
    >>> gf.measure.smallest_eigenvalue_bound(problem, np.zeros(2))
    -2.0
    """
    if not isinstance(problem.network, DeepLinear) or problem.decay:
        raise ValueError(f"the bound is known for DeepLinear networks without decay, not for {problem}")
    layers = list(weights(problem, theta).values())
    whole = Problem(DeepLinear([layers[0].shape[1], len(layers[-1])]), problem.loss, problem.x, problem.y)
    slope = np.linalg.norm(whole.gradient(effective_map(problem, theta).ravel()))
    norms = [np.linalg.norm(layer, 2) for layer in layers]
    rest = [np.prod(np.delete(norms, (j, k))) for k in range(len(norms)) for j in range(k)]
    return float(-(len(norms) - 1) * slope * max(rest, default=0.0))


@per_run
def hessian_spectrum(problem, theta) -> np.ndarray:
    """All eigenvalues of the Hessian of the objective, largest first.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    ndarray (P,) or (runs, P)
        NaN where theta is not finite.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(half=True), [[1.0]], [[2.0]])
    >>> gf.measure.hessian_spectrum(problem, np.zeros(2)).round(9).tolist()
    [2.0, -2.0]
    """
    hessian = problem.hessian(theta)
    if not np.isfinite(hessian).all():
        return np.full(problem.size, np.nan)
    return np.linalg.eigvalsh(hessian)[::-1]


@per_run
def hessian_trace(problem, theta, *, probes=None, seed=0) -> float | np.ndarray:
    r"""Trace of the Hessian, :math:`\operatorname{tr}\nabla^2 F(\theta)`.

    Exact by P products with the Hessian; with `probes`, Hutchinson's estimate, the mean of :math:`z^\top H z` over
    random signs z.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)
    probes : int, optional
        Number of random vectors; exact if not given.
    seed : int
        Of the random vectors.

    Returns
    -------
    float or ndarray (runs,)

    Raises
    ------
    ValueError
        For less than one probe.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(half=True), [[1.0]], [[2.0]])
    >>> round(gf.measure.hessian_trace(problem, np.array([3.0, 4.0])), 9)
    25.0
    """
    if probes is not None and probes < 1:
        raise ValueError(f"probes = {probes}: give at least 1, or None for the exact trace")
    size, total, vector = problem.size, 0.0, np.zeros(problem.size)
    if probes is None:
        for index in range(size):
            vector[index] = 1.0
            total += problem.hvp(theta, vector)[index]
            vector[index] = 0.0
        return total
    rng = np.random.default_rng(seed)
    for _ in range(probes):
        vector = rng.integers(0, 2, size) * 2.0 - 1.0
        total += vector @ problem.hvp(theta, vector)
    return total / probes


def _single(problem, vector, name="theta") -> np.ndarray:
    vector = problem.checked(vector, name)
    if vector.ndim != 1:
        raise ValueError(f"{name} has shape {vector.shape}: must be ({problem.size},), one vector")
    return vector


def _dense_pairs(problem, theta, count, which, start, tolerance):
    hessian = problem.hessian(theta)
    if not np.isfinite(hessian).all():
        return _not_a_number(problem, count)
    from scipy.linalg import eigh

    first = problem.size - count if which == "largest" else 0
    values, vectors = eigh(hessian, subset_by_index=[first, first + count - 1])
    order = slice(None, None, -1 if which == "largest" else 1)
    return values[order], vectors.T[order]


def _lanczos_pairs(problem, theta, count, which, start, tolerance):
    """ARPACK on H, or on (top - H) for the smallest: its tolerance is relative to the eigenvalue, which may be 0."""
    random = np.random.default_rng(0).standard_normal(problem.size)
    image = problem.hvp(theta, random)
    if not np.isfinite(image).all():
        return _not_a_number(problem, count)
    if not image.any():  # ARPACK refuses the zero matrix, the Hessian at theta = 0 of three layers or more
        return np.zeros(count), np.eye(count, problem.size)
    start = random if start is None else start
    if which == "largest":
        return _lanczos(lambda v: problem.hvp(theta, v), problem.size, count, start, tolerance)
    top = _lanczos(lambda v: problem.hvp(theta, v), problem.size, 1, random, 1e-3)[0][0]
    values, vectors = _lanczos(lambda v: top * v - problem.hvp(theta, v), problem.size, count, start, tolerance)
    return top - values, vectors


def _lanczos(product, size, count, start, tolerance):
    from scipy.sparse.linalg import LinearOperator, eigsh

    shape = (size, size)
    operator = LinearOperator(shape, matvec=lambda v: product(v.ravel()), dtype=float)  # pyright: ignore[reportCallIssue]
    values, vectors = eigsh(operator, k=count, which="LA", v0=start, tol=tolerance)
    order = np.argsort(values)[::-1]
    return values[order], vectors.T[order]


def _not_a_number(problem, count):
    return np.full(count, np.nan), np.full((count, problem.size), np.nan)
