"""Coefficients of the Runge-Kutta methods; those of the adaptive pairs are read from scipy."""

from functools import cache
from typing import NamedTuple

import numpy as np

STIFF_LIMITS = {"dop853": 6.1, "rk45": 3.25}
"""Step times |Jacobian| at which the stability of a pair ends, on the negative real axis."""


class Sums(NamedTuple):
    """Rows of a tableau without their zeros: how many numbers are left, which, and of which stage."""

    counts: np.ndarray
    weights: np.ndarray
    places: np.ndarray


class Pair(NamedTuple):
    """Explicit pair whose last stage is the first of the next step ("first same as last"), with its interpolant.

    Stage j is ``K[j] = f(t + C[j] h, y + h sum_l A[j, l] K[l])``. Stage ``stages`` lies at the new state; later rows
    belong to the interpolant only. The state at ``t + x h`` is ``y + h w(x) K`` with
    ``w(x) = x G[0] + x(1-x) G[1] + x^2(1-x) G[2] + x^2(1-x)^2 G[3] + ...``. ``sums`` and ``errors`` are A and E
    without their zeros; ``interpolant`` says which stages G uses, with weights 0.
    """

    A: np.ndarray
    C: np.ndarray
    E: np.ndarray
    G: np.ndarray
    stages: int
    order: float
    sums: Sums
    errors: Sums
    interpolant: Sums


class Rule(NamedTuple):
    """Explicit method for fixed steps: stages and interpolant as in a pair, the last stage at the new state."""

    A: np.ndarray
    C: np.ndarray
    G: np.ndarray
    stages: int


def pair(name: str) -> Pair:
    """Coefficients of an adaptive pair.

    Parameters
    ----------
    name : str
        "dop853": order 8, interpolant of order 7 with three more stages. "rk45": order 5, interpolant of order 4.

    Returns
    -------
    Pair
        ``E`` has one row per error estimate: those of order 5 and 3 for "dop853", one of order 4 for "rk45".

    Raises
    ------
    ValueError
        If the name is not known.

    References
    ----------
    Hairer, Norsett, Wanner: Solving Ordinary Differential Equations I, sections II.5, II.6 and II.10.

    Examples
    --------
    >>> from gradflow.steppers.tableaux import pair
    >>> pair("rk45").A.shape, pair("dop853").G.shape
    ((7, 7), (7, 16))
    """
    if name not in _PAIRS:
        raise ValueError(f"pair = {name!r} is not known; give one of {', '.join(map(repr, _PAIRS))}")
    return _PAIRS[name]()


def rule(name: str) -> Rule:
    """Coefficients of a method for fixed steps.

    Parameters
    ----------
    name : str
        "euler" (order 1), "heun" (order 2, the explicit trapezoid) or "rk4" (order 4, the classical one).

    Returns
    -------
    Rule
        Its interpolant is linear for "euler", else the cubic through both ends with their slopes.

    Raises
    ------
    ValueError
        If the name is not known.

    Examples
    --------
    >>> from gradflow.steppers.tableaux import rule
    >>> rule("heun").A[-1]
    array([0.5, 0.5, 0. ])
    """
    if name not in _RULES:
        raise ValueError(f"method = {name!r} is not known; give one of {', '.join(map(repr, _RULES))}")
    rows = _RULES[name]
    A = np.zeros((len(rows), len(rows)))
    for j, row in enumerate(rows):
        A[j, : len(row)] = row
    stages = len(rows) - 1
    G = _interpolant(A[stages], stages)
    return Rule(A, A.sum(axis=1), G[:1].copy() if name == "euler" else G, stages)


_RULES: dict[str, list[list[float]]] = {
    "euler": [[], [1.0]],
    "heun": [[], [1.0], [0.5, 0.5]],
    "rk4": [[], [0.5], [0.0, 0.5], [0.0, 0.0, 1.0], [1 / 6, 1 / 3, 1 / 3, 1 / 6]],
}


@cache
def _dop853() -> Pair:
    """The pair of order 8 of Dormand and Prince, with Hairer's error estimates and interpolant."""
    from scipy.integrate import DOP853

    stages = DOP853.n_stages
    rows = stages + 1 + len(DOP853.C_EXTRA)
    A = np.zeros((rows, rows))
    A[:stages, :stages] = DOP853.A
    A[stages, :stages] = DOP853.B
    A[stages + 1 :] = DOP853.A_EXTRA
    C = np.concatenate([DOP853.C, [1.0], DOP853.C_EXTRA])
    return _pair(A, C, np.array([DOP853.E5, DOP853.E3]), _interpolant(A[stages], stages, *DOP853.D), stages, 8.0)


@cache
def _rk45() -> Pair:
    """The pair of order 5 of Dormand and Prince."""
    from scipy.integrate import RK45

    stages = RK45.n_stages
    A = np.zeros((stages + 1, stages + 1))
    A[:stages, : stages - 1] = RK45.A
    A[stages, :stages] = RK45.B
    C = np.append(RK45.C, 1.0)
    return _pair(A, C, np.array([RK45.E]), _interpolant(A[stages], stages, _quartic(A, C)), stages, 5.0)


_PAIRS = {"dop853": _dop853, "rk45": _rk45}


def _pair(A, C, E, G, stages: int, order: float) -> Pair:
    """A pair with its rows also without their zeros."""
    used = without_zeros(G.any(axis=0)[None].astype(float))
    used.weights[:] = 0.0
    return Pair(A, C, E, G, stages, order, without_zeros(A), without_zeros(E), used)


def without_zeros(rows: np.ndarray) -> Sums:
    """The rows of a matrix without their zeros."""
    counts = np.count_nonzero(rows, axis=1)
    weights, places = np.zeros((len(rows), counts.max())), np.zeros((len(rows), counts.max()), np.int64)
    for row, count, weight, place in zip(rows, counts, weights, places, strict=True):
        place[:count] = np.flatnonzero(row)
        weight[:count] = row[place[:count]]
    return Sums(counts, weights, places)


def _interpolant(weights: np.ndarray, stages: int, *higher: np.ndarray) -> np.ndarray:
    """Rows G: the first three make values and slopes right at both ends, whatever the higher ones are."""
    first, last = np.zeros_like(weights), np.zeros_like(weights)
    first[0] = 1.0
    last[stages] = 1.0
    return np.vstack([weights, first - weights, 2.0 * weights - first - last, *higher])


def _quartic(A: np.ndarray, C: np.ndarray) -> np.ndarray:
    """Row G[3] that makes an interpolant of order 4: the shortest solution of the order conditions.

    The coefficient of ``x^2 (1-x)^2`` must vanish on all trees of order up to 3 and equal the trees' densities at
    order 4, where the other three rows reproduce the lower orders exactly.
    """
    one, c = np.ones_like(C), C
    low = [one, c, c**2, A @ c]
    high = [c**3, c * (A @ c), A @ c**2, A @ A @ c]
    right = [0.0] * len(low) + [1 / 4, 1 / 8, 1 / 12, 1 / 24]
    return np.linalg.lstsq(np.array(low + high), np.array(right), rcond=None)[0]
