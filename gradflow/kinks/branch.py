"""Branch points: where a sliding kink loses its attraction, and the flow goes on in more than one way."""

from dataclasses import dataclass, field
from itertools import product

import numpy as np

CHOICES = ("likely", "active", "inactive", "stay", "stop")

_SIGMA = np.array([0.0, 0.10, 0.20, 0.325, 0.50, 0.65, 0.81, 0.90, 1.0])
_ACTIVE = np.array([0.0, 0.005, 0.03, 0.13, 0.50, 0.80, 0.98, 0.998, 1.0])


@dataclass(frozen=True)
class Branch:
    """A point from which several paths go on.

    Attributes
    ----------
    time : float
        When the run is there.
    theta : ndarray (P,)
        The parameters.
    masks, sliding : ndarray
        Pattern of the masked network, and which of its kinks slide.
    kinks : ndarray (m,)
        The kinks at which the paths part.
    sigma : ndarray (m,)
        Their masks, which decide the shares of the paths. At a corner: the share of the paths on which a kink is
        active, a sliding one counted as half.
    ways, shares : ndarray (k, m), (k,)
        At a corner, where kinks meet: status of the kinks (0, 1, or 2 for sliding) on each path, likeliest first, and
        the shares of gradient descents, counted. Elsewhere there are none: each kink goes to a side by its own mask.

    Examples
    --------
    >>> import gradflow as gf
    >>> x, y = [[1.0, 1.0], [0.0, 1.0], [1.0, -1.0]], [0.3, -2.0, -1.0]
    >>> problem = gf.Problem(gf.FullyConnected([2, 1, 1]), gf.losses.Square("sum", half=True), x, y)
    >>> run = gf.simulate(problem, [1.0, 0.0, 0.3], gf.GradientFlow(), t_end=2.0)
    >>> [round(branch.time, 3) for branch in run.kinks.branch_points]
    [0.322]
    """

    time: float
    theta: np.ndarray
    masks: np.ndarray
    sliding: np.ndarray
    kinks: np.ndarray
    sigma: np.ndarray
    ways: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))
    shares: np.ndarray = field(default_factory=lambda: np.zeros(0))


def probability_active(sigma):
    r"""Share :math:`p(\sigma)` of gradient descents with small steps that leave a branch point to the active side.

    Interpolated (monotone) between shares counted in 4,000 runs from random starts at each of seven values of sigma;
    they agree within 0.02 for steps 1e-2, 1e-3, 1e-4, so that the limit of small steps is a distribution, no path.

    Parameters
    ----------
    sigma : float or ndarray
        Mask of the sliding kink at the branch point, in [0, 1].

    Returns
    -------
    float or ndarray

    Examples
    --------
    >>> round(float(probability_active(0.65)), 2)
    0.8
    """
    from scipy.interpolate import PchipInterpolator

    return np.clip(PchipInterpolator(_SIGMA, _ACTIVE)(np.clip(sigma, 0.0, 1.0)), 0.0, 1.0)


def chosen_sides(choice, sigma) -> np.ndarray:
    """Side 0 or 1 for each branching kink; "likely" is the side nearer to its sigma."""
    if choice == "likely":
        return (sigma >= 0.5).astype(np.int64)
    return np.full(sigma.size, int(choice == "active"), dtype=np.int64)


def chosen_way(choice, branch) -> np.ndarray:
    """Status of the kinks of a corner: on the likeliest path, or that with most active, inactive or sliding kinks."""
    wanted = {"active": 1, "inactive": 0, "stay": 2}
    if choice not in wanted:
        return branch.ways[0]
    return branch.ways[np.argmax((branch.ways == wanted[choice]).sum(1))]


def weighted_sides(sigma, most=16) -> list[tuple[float, np.ndarray]]:
    """Ways to leave a branch point with their shares, likeliest first; kinks are taken as independent."""
    active = np.atleast_1d(probability_active(sigma))
    near = np.argsort(np.abs(active - 0.5))[: int(np.log2(most))]
    ways = []
    for free in product((0, 1), repeat=near.size):
        sides = (active >= 0.5).astype(np.int64)
        sides[near] = free
        ways.append((float(np.prod(np.where(sides[near] == 1, active[near], 1.0 - active[near]))), sides))
    return sorted(ways, key=lambda way: -way[0])
