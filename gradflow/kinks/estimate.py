"""How many kink events a run will have, roughly."""

from gradflow.kinks.wiring import stages_of

EVENTS_PER_KINK = 0.2
MANY = 1e4
"""From about this many events on, following kinks costs more than 1e5 gradients."""


def expected_events(problem) -> float:
    r"""Rough number of crossings, slides and exits of a gradient flow from a generic start.

    About 0.2 per pair of a kinked unit and a sample; measured on nets of 100 to 600 parameters with 40 to 100 samples,
    trained to small loss: 0.08 to 0.35. Above 1e4 gradient descent itself, or the implicit masks, are
    the better tools.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    float
        0 for a network without kinks.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> net = gf.FullyConnected([5, 20, 1], activation="relu")
    >>> problem = gf.Problem(net, gf.losses.Square(), np.zeros((40, 5)), np.zeros(40))
    >>> round(expected_events(problem))
    160
    """
    stages = stages_of(problem.network)
    units = sum(stage.outputs for stage in stages if stage.activation.kinked)
    return EVENTS_PER_KINK * units * problem.n
