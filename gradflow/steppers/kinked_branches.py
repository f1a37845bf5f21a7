"""The paths that go on from a branch point, each with its share."""

from typing import Any

import numpy as np

from gradflow.kinks.arrive import Place, leave
from gradflow.kinks.branch import Branch, weighted_sides
from gradflow.kinks.record import Record
from gradflow.kinks.slide import surface
from gradflow.steppers.kinked import Kinked
from gradflow.steppers.kinked_corners import take
from gradflow.steppers.kinked_piece import adopt


def branches(problem: Any, branch: Branch, *, most: int = 16, **options: Any) -> list[tuple[float, Kinked]]:
    r"""Steppers at a branch point, one for each side, with the share of small-step gradient descents that go there.

    With sigma the mask at the branch point, the share of the active side is
    ``gradflow.kinks.probability_active(sigma)``. Several kinks that branch at once are taken as independent, which is
    an assumption; the shares add up to 1.

    Parameters
    ----------
    problem : Problem
        That of the run.
    branch : Branch
        From ``Kinked.branch_points``.
    most : int
        At most so many paths: kinks whose side is almost certain keep it.
    **options
        Arguments of :class:`Kinked`: rtol, atol, at_branch, pair, first_step, nodes, network.

    Returns
    -------
    list of (float, Kinked)
        Likeliest first.

    Raises
    ------
    ValueError
        If the branch belongs to another problem.

    Examples
    --------
    >>> import gradflow as gf
    >>> loss = gf.losses.Square(reduction="sum", half=True)
    >>> x, y = [[1.0, 1.0], [0.0, 1.0], [1.0, -1.0]], [0.3, -2.0, -1.0]
    >>> problem = gf.Problem(gf.FullyConnected([2, 1, 1]), loss, x, y)
    >>> run = Kinked(problem, 0.0, [1.0, 0.0, 0.3], rtol=1e-8)
    >>> _ = run.advance(1.0)
    >>> for share, path in branches(problem, run.branch_points[0]):
    ...     _ = path.advance(2.0)
    ...     print(round(share, 2), path.state.round(4).tolist())
    0.8 [0.9957, 0.2492, -0.3789]
    0.2 [0.9358, -0.5468, -0.5145]
    """
    paths = []
    corner = len(branch.ways) > 0
    for share, sides in zip(branch.shares, branch.ways, strict=True) if corner else weighted_sides(branch.sigma, most):
        stepper = Kinked(problem, branch.time, branch.theta, **options)
        run, network = stepper._run, stepper.network
        if branch.masks.shape != (network.size,):
            raise ValueError(
                f"the branch point has {branch.masks.size} masks, the network {network.size}: give its own problem"
            )
        held = np.zeros(branch.sliding.size, bool)
        run.record = Record(network)
        run.place = Place(branch.theta.copy(), branch.masks.copy(), branch.sliding.copy(), held)
        run.place.surface = surface(network, branch.sliding)
        run.place.here = run.evaluate(branch.theta)
        if corner:
            adopt(run, take(network, run.place, branch.kinks, sides))
        else:
            adopt(run, leave(network, run.place, branch.theta, branch.kinks, sides))
        paths.append((float(share), stepper))
    return paths
