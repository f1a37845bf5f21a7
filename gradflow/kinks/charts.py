r"""States of preconditioned flows: theta(s), and the metric in which the objective falls along the flow.

A flow of a state s with :math:`\theta = \theta(s)` and Jacobian J is :math:`s' = -B(s)\,\nabla_s F`,
:math:`\nabla_s F = J^T\nabla_\theta F`, with B symmetric and positive semidefinite; then
:math:`\theta' = -M\nabla_\theta F`, :math:`M = J B J^T`. All that the kinks need are theta(s), :math:`J^T` and B.
"""

import numpy as np

from gradflow.dynamics.flow import GradientFlow, rate_vector
from gradflow.dynamics.normalized import LMFlow, lm_layout
from gradflow.dynamics.polar import PolarFlow, WeightNormFlow, layout


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
        return np.ones(len(entries)), self._rates[entries]

    def theta(self, state) -> np.ndarray:
        """Parameters at a state."""
        return state

    def pulled(self, state, rows) -> np.ndarray:
        """Gradients (m, S) by the state of functions with the gradients (m, P) by theta: rows J."""
        return rows

    def raised(self, state, rows) -> np.ndarray:
        """Gradients (m, S) by the state times the metric: rows B."""
        return rows * self._rates


class _Directions:
    """A state of some scales and of one direction per group of theta; `scaled`: each group has its own scale."""

    scaled, decay = True, 0.0

    def __init__(self, order, starts, count):
        self._order, self._starts, self.count = order, starts, count
        self.size = count + order.size
        self.group = np.repeat(np.arange(starts.size - 1), np.diff(starts))
        self.place = np.empty_like(order)
        self.place[order] = np.arange(order.size)

    def even(self, entries) -> bool:
        """Whether the metric multiplies the normal of a sliding kink with these entries (units, m) by a number.

        Along a direction the normal is 0, since z is; only where one unit alone has a scale, that may vanish with z.
        """
        return not self.scaled or (len(entries) > 1 and np.unique(self.group[entries - self.count]).size == 1)

    def _natural(self, ordered) -> np.ndarray:
        """Entries in the order of theta."""
        return ordered[..., self.place]

    def _along(self, direction, rows) -> np.ndarray:
        """Inner products (m, G) of rows with the direction of each group."""
        return np.add.reduceat(direction * rows, self._starts[:-1], axis=-1)

    def lengths(self, state) -> np.ndarray:
        """What divides each direction in theta."""
        return np.ones(self.count)

    def _tangent(self, direction, rows) -> np.ndarray:
        """Rows without their parts along the directions."""
        share = self._along(direction, rows) / self._along(direction, direction)
        return rows - share[..., self.group] * direction


class Polar(_Directions):
    r"""Radii r and unit vectors u: :math:`B = (\eta_r, \eta_u (I - u u^T))`, so that on a group
    :math:`M = \eta_r u u^T + \eta_u r^2 (I - u u^T)`.
    """

    def __init__(self, problem, flow):
        order, starts = layout(problem.network, flow.groups)
        super().__init__(order, starts, starts.size - 1)
        self._radial, self._angular = flow.radial_rate, flow.angular_rate

    def theta(self, state) -> np.ndarray:
        """Parameters at a state."""
        return self._natural(state[: self.count][self.group] * state[self.count :])

    def pulled(self, state, rows) -> np.ndarray:
        """rows J."""
        rows, radius, u = rows[:, self._order], state[: self.count], state[self.count :]
        return np.hstack([self._along(u, rows), radius[self.group] * rows])

    def raised(self, state, rows) -> np.ndarray:
        """rows B."""
        radius, u = state[: self.count], state[self.count :]
        radial, angular = (np.array([rate(r) for r in radius]) for rate in (self._radial, self._angular))
        turn = angular[self.group] * self._tangent(u, rows[:, self.count :])
        return np.hstack([radial * rows[:, : self.count], turn])

    def first_metric(self, state, entries) -> tuple[np.ndarray, np.ndarray]:
        """q = r, b = eta_u(r)."""
        radius = state[self.group[entries - self.count]]
        return radius, np.array([self._angular(r) for r in radius])


class WeightNorm(_Directions):
    r"""Scales g and vectors v: :math:`B = (\eta_g, \eta_v I)`, so that with :math:`\hat v = v/|v|` on a group
    :math:`M = \eta_g \hat v\hat v^T + \eta_v g^2/|v|^2\,(I - \hat v\hat v^T)`.
    """

    def __init__(self, problem, flow):
        order, starts = layout(problem.network, flow.groups)
        super().__init__(order, starts, starts.size - 1)
        scales = np.broadcast_to(np.asarray(flow.scale_rate, dtype=float), self.count)
        self._rates = np.concatenate([scales, np.full(order.size, flow.direction_rate)])

    def lengths(self, state) -> np.ndarray:
        """|v| of each group."""
        v = state[self.count :]
        return np.sqrt(self._along(v, v))

    def theta(self, state) -> np.ndarray:
        """Parameters at a state."""
        return self._natural((state[: self.count] / self.lengths(state))[self.group] * state[self.count :])

    def pulled(self, state, rows) -> np.ndarray:
        """rows J."""
        rows, v = rows[:, self._order], state[self.count :]
        length = self.lengths(state)
        turn = (state[: self.count] / length)[self.group] * self._tangent(v, rows)
        return np.hstack([self._along(v, rows) / length, turn])

    def raised(self, state, rows) -> np.ndarray:
        """rows B."""
        return rows * self._rates

    def first_metric(self, state, entries) -> tuple[np.ndarray, np.ndarray]:
        """q = g/|v|, b = eta_v."""
        group = self.group[entries - self.count]
        return (state[: self.count] / self.lengths(state))[group], np.full(len(entries), self._rates[-1])


class Normalised(_Directions):
    r"""One signed scale rho of the last layer and unit layers: :math:`B = (1, I - V_k V_k^T)`; the decay
    :math:`\lambda\rho^2` belongs to the objective.
    """

    scaled = False

    def __init__(self, problem, flow):
        order, starts = lm_layout(problem.network)
        super().__init__(order, starts, 1)
        self._last, self.decay = int(starts[-2]), flow.decay

    def theta(self, state) -> np.ndarray:
        """Parameters at a state."""
        ordered = state[1:].copy()
        ordered[self._last :] *= state[0]
        return self._natural(ordered)

    def pulled(self, state, rows) -> np.ndarray:
        """rows J."""
        rows = rows[:, self._order]
        along = rows[:, self._last :] @ state[1 + self._last :]
        return np.hstack([along[:, None], rows[:, : self._last], state[0] * rows[:, self._last :]])

    def raised(self, state, rows) -> np.ndarray:
        """rows B."""
        return np.hstack([rows[:, :1], self._tangent(state[1:], rows[:, 1:])])

    def first_metric(self, state, entries) -> tuple[np.ndarray, np.ndarray]:
        """q = b = 1."""
        return np.ones(len(entries)), np.ones(len(entries))


Chart = Rated | Polar | WeightNorm | Normalised
CHARTS = {GradientFlow: Rated, PolarFlow: Polar, WeightNormFlow: WeightNorm, LMFlow: Normalised}
