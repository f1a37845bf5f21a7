"""Gradient flow of one vector on the unit sphere, alone or tied to a sparse copy of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gradflow.arguments import positive
from gradflow.dynamics.flow import Flow, Invariant


@dataclass(frozen=True, repr=False)
class SphereFlow(Flow):
    r"""Gradient flow of a vector of norm one, with a penalty by relaxed splitting if one is given.

    .. math:: w' = -(I - w w^T)\big[\nabla F(w) + \beta (w - \mathrm{prox}_{(\lambda/\beta) P}(w))\big], \qquad |w| = 1

    The objective is :math:`F(w) + \min_u \big[\lambda P(u) + \frac\beta2 |w - u|^2\big]`:
    :func:`gradflow.relaxed_splitting` follows this flow for small steps. The start is normalised.

    Parameters
    ----------
    regulariser : penalty, optional
        P, for example ``gf.penalties.L1()``; none: the flow of F alone.
    strength, coupling : float
        lambda and beta, positive where there is a penalty.

    Raises
    ------
    ValueError
        For a strength or a coupling that is not positive, or a start at zero.

    References
    ----------
    T. Dinh, J. Xin, arXiv 1812.05719.

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.population.ConvolutionalPopulation([1.0, 0.0], patches=2)
    >>> run = gf.simulate(problem, [0.0, 1.0], gf.SphereFlow(), t_end=40.0)
    >>> bool(problem.angle(run.end) < 1e-5)
    True
    """

    regulariser: Any = None
    strength: float = 0.0
    coupling: float = 0.0

    def __post_init__(self):
        if self.regulariser is not None:
            positive(self.strength, "strength")
            positive(self.coupling, "coupling")

    def copy_of(self, w) -> np.ndarray:
        """The sparse copy u (..., P) of w (..., P); w itself without a penalty."""
        return w if self.regulariser is None else self.regulariser.prox(w, self.strength / self.coupling)

    def pack(self, problem, theta):
        """Theta on the sphere."""
        theta = np.array(theta, dtype=np.float64)
        length = np.linalg.norm(theta)
        if not length > 0:
            raise ValueError("theta0 is zero: it has no direction; start away from zero")
        return theta / length

    def value_and_velocity(self, problem, t, state):
        """Objective and time derivative."""
        value, force = problem.value_and_gradient(state)
        force = force + self.coupling * (state - self.copy_of(state))
        return value + self.penalty(problem, state), (state @ force) / (state @ state) * state - force

    def penalty(self, problem, state):
        """Penalty of the copy and its tie, at states (..., P)."""
        if self.regulariser is None:
            return super().penalty(problem, state)
        u = self.copy_of(state)
        return self.strength * self.regulariser.value(u) + self.coupling / 2 * ((state - u) ** 2).sum(-1)

    def invariants(self, problem):
        """The norm."""
        return {"|w| = 1": Invariant("|w|", lambda state: np.sqrt(np.vdot(state, state)))}
