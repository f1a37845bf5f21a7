"""Whether a call asks for what physical time cannot do."""

from __future__ import annotations

import math

import numpy as np

from gradflow.clocks.moment import log_norm
from gradflow.clocks.targets import LN10, At, Every
from gradflow.events import LossBelow

LEAST_LOSS = 1e-150
"""Below it the squares of gradients underflow."""
LONGEST_PLATEAU = 10.0
LONGEST_TIME = 1e15


def asks_for_a_clock(problem, dynamics, theta0, arguments) -> bool:
    """Whether a call goes beyond physical time, by the clock it names or by what it asks for."""
    save_at, clock, t_end = arguments["save_at"], arguments["clock"], arguments["t_end"]
    automatic = clock == "auto"
    if automatic and dynamics.discrete:
        return False
    if not automatic and clock.name != "time":
        return True
    if isinstance(t_end, At) or _beyond_time(save_at):
        return True
    for event in arguments["events"]:
        if isinstance(event, LossBelow) and 0.0 <= float(event.level or 0.0) < LEAST_LOSS:
            return True
    return automatic and (LONGEST_TIME < t_end < math.inf or _begins_on_plateau(problem.network, theta0))


def _beyond_time(save_at) -> bool:
    """Whether something is to be saved at a place in another variable."""
    if isinstance(save_at, list | tuple):
        return any(isinstance(place, At | Every) for place in save_at)
    return isinstance(save_at, At | Every)


def _begins_on_plateau(network, theta0) -> bool:
    """Whether a start is so small that the time of its escape has many digits."""
    if not np.vdot(theta0, theta0) < 1.0:
        return False
    degree, log10_size = getattr(network, "degree", None), log_norm(theta0) / LN10
    return degree is not None and -np.inf < log10_size and max(degree - 2, 0.5) * -log10_size > LONGEST_PLATEAU
