r"""States of preconditioned flows: theta(s), and the metric in which the objective falls along the flow.

A flow of a state s with :math:`\theta = \theta(s)` and Jacobian J is :math:`s' = -B(s)\,\nabla_s F`,
:math:`\nabla_s F = J^T\nabla_\theta F`, with B symmetric and positive semidefinite; then
:math:`\theta' = -M\nabla_\theta F`, :math:`M = J B J^T`. All that the kinks need are theta(s), :math:`J^T` and B.
"""

from abc import ABC, abstractmethod

import numpy as np

from gradflow.dynamics.flow import GradientFlow, rate_vector
from gradflow.dynamics.groups import layout
from gradflow.dynamics.normalized import LMFlow, lm_layout
from gradflow.dynamics.polar import PolarFlow, PowerRate
from gradflow.dynamics.weight_norm import WeightNormFlow

ONE = np.ones(1)
"""A factor 1 for all."""


class Rated:
    """Plain flow with time constants: the state is theta, B is diagonal."""

    count, scaled, decay = 0, False, 0.0

    def __init__(self, problem, flow):
        self.size = problem.size
        self._rates = rate_vector(problem, flow.rates)

    def even(self, entries) -> bool:
        """Whether the metric multiplies the normal of a sliding kink with these entries (units, m) by a number."""
        return bool((self._rates[entries] == self._rates[entries[:, :1]]).all())

    def first_metric(self, state, entries) -> tuple[np.ndarray, np.ndarray]:
        """Factors (q, b) for places (m,) in the state: theta' = q s' there, and the metric is b on tangents."""
        return ONE, self._rates[entries]

    def theta(self, state) -> np.ndarray:
        """Parameters at a state."""
        return state

    def pulled(self, state, rows) -> np.ndarray:
        """Gradients (m, S) by the state of functions with the gradients (m, P) by theta: rows J."""
        return rows

    def raised(self, state, rows) -> np.ndarray:
        """Gradients (m, S) by the state times the metric: rows B."""
        return rows * self._rates


class _Directions(ABC):
    """A state of some scales and of one direction per group of theta; `scaled`: each group has its own scale."""

    scaled, decay = True, 0.0

    def __init__(self, kind, layout, count):
        from gradflow.kinks import chart_passes

        self._passes, self._kind, self.count = chart_passes, getattr(chart_passes, kind), count
        self._order, self._starts = (np.ascontiguousarray(part, dtype=np.int64) for part in layout)
        self.size = count + self._order.size
        self.group = np.repeat(np.arange(self._starts.size - 1), np.diff(self._starts))
        self.place = np.empty_like(self._order)
        self.place[self._order] = np.arange(self._order.size)

    def even(self, entries) -> bool:
        """Whether the metric multiplies the normal of a sliding kink with these entries (units, m) by a number.

        Along a direction the normal is 0, since z is; only where one unit alone has a scale, that may vanish with z.
        """
        return not self.scaled or (len(entries) > 1 and np.unique(self.group[entries - self.count]).size == 1)

    def lengths(self, state) -> np.ndarray:
        """What divides each direction in theta."""
        return np.ones(self.count)

    @abstractmethod
    def _rates(self, state) -> tuple[np.ndarray, np.ndarray]:
        """Rates of the scales, and of the direction of each group."""

    def theta(self, state) -> np.ndarray:
        """Parameters at a state."""
        out = np.empty(self._order.size)
        self._passes.parameters(self._kind, state, self._starts, self._order, self.count, out)
        return out

    def pulled(self, state, rows) -> np.ndarray:
        """rows J."""
        out = np.empty((len(rows), self.size))
        self._passes.pulled(self._kind, state, self._starts, self._order, self.count, rows, out)
        return out

    def raised(self, state, rows) -> np.ndarray:
        """rows B."""
        out = np.empty((len(rows), self.size))
        self._passes.raised(self._kind, state, self._starts, self.count, *self._rates(state), rows, out)
        return out


class Polar(_Directions):
    r"""Radii r and unit vectors u: :math:`B = (\eta_r, \eta_u (I - u u^T))`, so that on a group
    :math:`M = \eta_r u u^T + \eta_u r^2 (I - u u^T)`.
    """

    def __init__(self, problem, flow):
        order, starts = layout(problem.network, flow.groups)
        super().__init__("POLAR", (order, starts), starts.size - 1)
        self._radial, self._angular = flow.radial_rate, flow.angular_rate

    def _rates(self, state) -> tuple[np.ndarray, np.ndarray]:
        """eta_r and eta_u at the radii."""
        radius = state[: self.count]
        return _at(self._radial, radius), _at(self._angular, radius)

    def first_metric(self, state, entries) -> tuple[np.ndarray, np.ndarray]:
        """q = r, b = eta_u(r)."""
        group = self.group[entries - self.count]
        return state[group], _at(self._angular, state[: self.count])[group]


class WeightNorm(_Directions):
    r"""Scales g and vectors v: :math:`B = (\eta_g, \eta_v I)`, so that with :math:`\hat v = v/|v|` on a group
    :math:`M = \eta_g \hat v\hat v^T + \eta_v g^2/|v|^2\,(I - \hat v\hat v^T)`.
    """

    def __init__(self, problem, flow):
        order, starts = layout(problem.network, flow.groups)
        super().__init__("WEIGHT_NORM", (order, starts), starts.size - 1)
        scales = np.broadcast_to(np.asarray(flow.scale_rate, dtype=float), self.count).copy()
        self._constants = scales, np.full(self.count, float(flow.direction_rate))

    def lengths(self, state) -> np.ndarray:
        """|v| of each group."""
        out = np.empty(self.count)
        self._passes.lengths(state, self._starts, self.count, out)
        return out

    def _rates(self, state) -> tuple[np.ndarray, np.ndarray]:
        """eta_g and eta_v."""
        return self._constants

    def first_metric(self, state, entries) -> tuple[np.ndarray, np.ndarray]:
        """q = g/|v|, b = eta_v."""
        group = self.group[entries - self.count]
        return (state[: self.count] / self.lengths(state))[group], self._constants[1][group]


class Normalised(_Directions):
    r"""One signed scale rho of the last layer and unit layers: :math:`B = (1, I - V_k V_k^T)`; the decay
    :math:`\lambda\rho^2` belongs to the objective.
    """

    scaled = False

    def __init__(self, problem, flow):
        super().__init__("LM", lm_layout(problem.network), 1)
        self._constants, self.decay = (np.ones(1), np.ones(self._starts.size - 1)), flow.decay

    def _rates(self, state) -> tuple[np.ndarray, np.ndarray]:
        """All 1."""
        return self._constants

    def first_metric(self, state, entries) -> tuple[np.ndarray, np.ndarray]:
        """q = b = 1."""
        return ONE, ONE


def _at(rate, radius) -> np.ndarray:
    """A rate at some radii."""
    if isinstance(rate, PowerRate):
        return rate.coefficient * radius**rate.power
    return np.array([rate(r) for r in radius])


Chart = Rated | Polar | WeightNorm | Normalised
CHARTS = {GradientFlow: Rated, PolarFlow: Polar, WeightNormFlow: WeightNorm, LMFlow: Normalised}
