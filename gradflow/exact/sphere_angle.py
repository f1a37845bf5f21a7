"""The angle to the teacher of one relu filter on the sphere, under its population loss."""

import numpy as np
from numpy.typing import ArrayLike

from gradflow.exact.checks import count, finite, times
from gradflow.exact.inversion import invert_increasing

NODES, WEIGHTS = np.polynomial.legendre.leggauss(12)
LOWEST, HIGHEST = -750.0, 38.0
"""Log of the tangent of half of the least angle that a float holds, and of the last one before pi."""
FLAT = -40.0
"""Below it the teacher pulls at pi up to rounding, and the angle falls exponentially."""


def sphere_angle(t: ArrayLike, start: ArrayLike, patches: int) -> np.ndarray:
    r"""Angle between filter and teacher at times of the flow on the sphere.

    .. math:: \vartheta' = -\frac{(\pi - \vartheta) \sin\vartheta}{k\pi}

    The flow is :class:`gradflow.SphereFlow` without a penalty, of :class:`gradflow.population.ConvolutionalPopulation`
    with a teacher of norm one; late angles fall as :math:`e^{-t/k}`. Found by inverting :func:`sphere_angle_time`.

    Parameters
    ----------
    t : array_like
        Times, not negative.
    start : array_like
        The angle at time 0, above 0 and below pi.
    patches : int
        The number k of patches.

    Returns
    -------
    np.ndarray
        The angles, of the broadcast shape of times and starts.

    Raises
    ------
    ValueError
        If a time is negative or an angle outside its range.

    References
    ----------
    Dinh, Xin 2018, arXiv:1812.05719 (the setting).

    Examples
    --------
    >>> sphere_angle([0.0, 10.0, 20.0], start=1.5, patches=5).round(6)
    array([1.5     , 0.453847, 0.071492])
    """
    elapsed, first = np.broadcast_arrays(times(t), _half_log_tangent("start", start))
    k = count("patches", patches)

    def minus_time(log_tangent):
        return -_time(log_tangent, first, k), k * np.pi / (2 * np.arctan(np.exp(-log_tangent)))

    # Between the slopes k (small angles) and k pi / (pi - start), the angle at time t is known up to a factor.
    low = np.maximum(first - elapsed / k, LOWEST)
    high = first - elapsed * (2 * np.arctan(np.exp(-first))) / (k * np.pi)
    return 2 * np.arctan(np.exp(invert_increasing(minus_time, -elapsed, low, np.maximum(high, low), high)))


def sphere_angle_time(angle: ArrayLike, start: ArrayLike, patches: int) -> np.ndarray:
    r"""Time at which the flow on the sphere has turned a filter to an angle from the teacher.

    .. math:: t = k\pi \int_{\vartheta}^{\vartheta_0} \frac{d\phi}{(\pi - \phi) \sin\phi}

    Gauss-Legendre quadrature in :math:`\log\tan(\phi/2)`, in which the integrand is analytic and bounded.

    Parameters
    ----------
    angle : array_like
        The angles, above 0 and at most the start.
    start : array_like
        The angle at time 0, below pi.
    patches : int
        The number k of patches.

    Returns
    -------
    np.ndarray
        The times, of the broadcast shape of both angles.

    Raises
    ------
    ValueError
        If an angle is outside its range.

    References
    ----------
    Dinh, Xin 2018, arXiv:1812.05719 (the setting).

    Examples
    --------
    >>> sphere_angle_time([1.5, 0.453847, 0.071492], start=1.5, patches=5).round(4)
    array([ 0., 10., 20.])
    """
    last, first = np.broadcast_arrays(_half_log_tangent("angle", angle), _half_log_tangent("start", start))
    if (last > first).any():
        raise ValueError(f"angle = {angle}: the flow only turns towards the teacher; give angle <= start = {start}")
    return _time(last, first, count("patches", patches))


def _half_log_tangent(name: str, angle: ArrayLike) -> np.ndarray:
    """Return log tan(angle / 2), after checking that the angle is between 0 and pi."""
    values = finite(name, angle)
    if not ((values > 0) & (values < np.pi)).all():
        bad = values[~((values > 0) & (values < np.pi))].flat[0]
        raise ValueError(f"{name} contains {bad}: an angle to the teacher must lie above 0 and below pi")
    return np.log(np.tan(values / 2))


def _time(last: np.ndarray, first: np.ndarray, patches: int) -> np.ndarray:
    """Time between two logs of the tangent of half the angle, last <= first."""
    low, high = np.clip(last, FLAT, HIGHEST), np.clip(first, FLAT, HIGHEST)
    panels = max(1, int(np.ceil((high - low).max(initial=0.0))))
    half = (high - low)[..., None, None] / (2 * panels)
    middle = low[..., None, None] + half * (2 * np.arange(panels)[:, None] + 1)
    excess = np.pi / (2 * np.arctan(np.exp(-(middle + half * NODES)))) - 1
    return patches * (first - last + (half * WEIGHTS * excess).sum((-2, -1)))
