"""Polar flow: a radius and a direction per group of parameters, each with a rate of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gradflow.arguments import finite, positive
from gradflow.dynamics.flow import Flow, typical
from gradflow.dynamics.groups import checked_kind, layout, norms, pack_layout, spread
from gradflow.kernels.calls import call


@dataclass(frozen=True, eq=False, repr=False)
class PowerRate:
    r"""Rate :math:`c\,r^p` of a polar flow, compiled with it.

    Parameters
    ----------
    coefficient : float
        c > 0.
    power : float
        p.

    Examples
    --------
    >>> PowerRate(1.0, -2.0)(2.0)
    0.25
    """

    coefficient: float = 1.0
    power: float = 0.0

    def __post_init__(self):
        positive(self.coefficient, "coefficient")
        finite(self.power, "power")

    def __repr__(self):
        return f"PowerRate({self.coefficient:g}, {self.power:g})" if self.power else f"{self.coefficient:g}"

    def __eq__(self, other):
        if not isinstance(other, PowerRate):
            return self.power == 0 and self.coefficient == other
        return (self.coefficient, self.power) == (other.coefficient, other.power)

    def __hash__(self):
        return hash((self.coefficient, self.power))

    def __call__(self, r):
        """Rate at radius r."""
        return self.coefficient * r**self.power


def checked_rate(rate, name):
    """A rate as a PowerRate or a callable of r."""
    if callable(rate):
        return rate
    return PowerRate(positive(rate, name))


@dataclass(frozen=True, repr=False)
class PolarFlow(Flow):
    r"""Gradient flow in polar coordinates :math:`\theta_g = r_g u_g`, :math:`|u_g| = 1`, with separate rates.

    .. math:: r' = -\eta_r(r)\, u\cdot g, \qquad u' = -\eta_u(r)\, r\,(I - u u^T)\, g, \qquad g = \nabla F(r u).

    With radial rate 1 and angular rate :math:`1/r^2` (``gf.PowerRate(1, -2)``) this is the plain flow. A diagonal
    network that starts positive is carried as (r, log u), so that entries far below atol keep their digits. Networks
    with kinks are followed through them, in the metric :math:`\eta_r u u^T + \eta_u r^2 (I - u u^T)`.

    Parameters
    ----------
    groups : {"layer", "whole", "neuron"}
        What has a radius of its own; a diagonal network is one layer, a neuron is a row with its bias.
    radial_rate, angular_rate : float, PowerRate or callable of r
        Rates; a plain Python function makes the run interpreted.
    log_directions : bool, optional
        Whether log u is the state instead of u; by default for a diagonal network that starts positive.

    Raises
    ------
    ValueError
        For unknown groups, rates that are not positive, or a start with a group of norm zero.

    References
    ----------
    H.-H. Chou, H. Rauhut, R. Ward, Robust Implicit Regularization via Weight Normalization, arXiv 2305.05448.

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(), [[1.0]], [[2.0]])
    >>> theta0 = problem.init(0.5, scheme="constant")
    >>> plain = gf.simulate(problem, theta0, gf.GradientFlow(), t_end=1.0)
    >>> polar = gf.simulate(problem, theta0, gf.PolarFlow(angular_rate=gf.PowerRate(1, -2)), t_end=1.0)
    >>> bool(abs(plain.end - polar.end).max() < 1e-7)
    True
    """

    groups: str = "layer"
    radial_rate: object = 1.0
    angular_rate: object = 1.0
    log_directions: bool | None = None

    def __post_init__(self):
        checked_kind(self.groups)
        object.__setattr__(self, "radial_rate", checked_rate(self.radial_rate, "radial_rate"))
        object.__setattr__(self, "angular_rate", checked_rate(self.angular_rate, "angular_rate"))

    @property
    def compiled(self) -> bool:
        """Whether the links can be compiled: not with rates that are Python functions."""
        return isinstance(self.radial_rate, PowerRate) and isinstance(self.angular_rate, PowerRate)

    @property
    def is_plain(self) -> bool:
        """Whether these rates give back the plain flow."""
        return (self.radial_rate, self.angular_rate) == (PowerRate(1.0, 0.0), PowerRate(1.0, -2.0))

    def prepared(self, problem, theta):
        """This flow with the form of its directions decided: log u for a positive start of a diagonal network."""
        if self.log_directions is not None:
            return self
        return replace(self, log_directions=problem.is_diagonal and bool((np.asarray(theta) > 0).all()))

    def pack(self, problem, theta):
        """State (r_1, ..., r_G, u) of theta; log u instead of u with `log_directions`."""
        order, starts = layout(problem.network, self.groups)
        ordered = np.asarray(theta, dtype=np.float64)[order]
        radius = norms(ordered, starts)
        if (radius == 0).any():
            raise ValueError(
                f"theta0: {np.count_nonzero(radius == 0)} of {radius.size} groups have norm zero: polar coordinates"
                " need a direction; start away from zero or choose coarser groups"
            )
        direction = ordered / spread(radius, starts)
        if self.log_directions and not (problem.is_diagonal and (ordered > 0).all()):
            raise ValueError("log_directions = True needs a diagonal network with a positive start")
        return np.concatenate([radius, np.log(direction) if self.log_directions else direction])

    def unpack(self, problem, state):
        """Theta (..., P) of states (..., G + P)."""
        order, starts = layout(problem.network, self.groups)
        state = np.asarray(state)
        direction = state[..., starts.size - 1 :]
        if self.log_directions:
            direction = np.exp(direction)
        ordered = direction * spread(state[..., : starts.size - 1], starts)
        theta = np.empty_like(ordered)
        theta[..., order] = ordered
        return theta

    def links(self, problem):
        """The chain."""
        if not self.compiled:
            return (self._interpreted(problem),)
        return (log_polar_velocity,) if self.log_directions else (polar_velocity,)

    def coefficients(self, problem):
        """Rates, starts of the groups, order of theta."""
        order, starts = layout(problem.network, self.groups)
        if not self.compiled:
            return np.zeros(0)
        rates = [self.radial_rate.coefficient, self.radial_rate.power]  # pyright: ignore[reportAttributeAccessIssue]
        rates += [self.angular_rate.coefficient, self.angular_rate.power]  # pyright: ignore[reportAttributeAccessIssue]
        return pack_layout(order, starts, rates)

    def value_and_velocity(self, problem, t, state):
        """Objective and time derivative, for rates that are Python functions."""
        order, starts = layout(problem.network, self.groups)
        radius, direction = state[: starts.size - 1], state[starts.size - 1 :]
        unit = np.exp(direction) if self.log_directions else direction
        value, gradient = problem.value_and_gradient(self.unpack(problem, state))
        gradient = gradient[order]
        along = np.add.reduceat(unit * gradient, starts[:-1])
        projected = spread(along / np.add.reduceat(unit * unit, starts[:-1]), starts)
        radial = np.array([self.radial_rate(r) for r in radius])  # pyright: ignore[reportCallIssue]
        angular = np.array([self.angular_rate(r) for r in radius])  # pyright: ignore[reportCallIssue]
        turn = gradient / unit - projected if self.log_directions else gradient - unit * projected
        return value, np.concatenate([-radial * along, -spread(angular * radius, starts) * turn])

    def invariants(self, problem):
        """|u| = 1 per group; the kernel invariants of a diagonal network; balancedness where the flow is plain."""
        from gradflow.dynamics.conserved import polar

        return polar(problem, self)

    def records(self, problem, states):
        """The radii (T, G)."""
        return {"radius": states[:, : layout(problem.network, self.groups)[1].size - 1]}

    def scale(self, problem, state):
        """Radii follow the smallest radius, directions the size of u; log u is of order 1."""
        groups = layout(problem.network, self.groups)[1].size - 1
        sizes = np.empty(state.size)
        sizes[:groups] = min(1.0, float(state[:groups].min()))
        sizes[groups:] = 1.0 if self.log_directions else typical(state[groups:])
        return sizes

    def retract(self, problem, state):
        """Directions put back on their unit spheres."""
        order, starts = layout(problem.network, self.groups)
        state = np.array(state)
        if not self.log_directions:
            state[starts.size - 1 :] /= spread(norms(state[starts.size - 1 :], starts), starts)
        return state


def polar_velocity(t, state, out, chain, numbers, layout, work, coefficients):
    """Velocity of (r, u)."""
    groups, size = int(coefficients[0]), int(coefficients[1])
    starts = coefficients[7 : 8 + groups]
    order = coefficients[8 + groups :]
    theta = np.empty(size)
    gradient = np.empty(size)
    for k in range(groups):
        a, b = int(starts[k]), int(starts[k + 1])
        theta[a:b] = state[k] * state[groups + a : groups + b]
    if coefficients[2] == 0.0:
        value = call(chain[0], theta, gradient, numbers, layout, work)
    else:
        moved = np.empty(size)
        for i in range(size):
            moved[int(order[i])] = theta[i]
        value = call(chain[0], moved, theta, numbers, layout, work)
        for i in range(size):
            gradient[i] = theta[int(order[i])]
    for k in range(groups):
        a, b = int(starts[k]), int(starts[k + 1])
        u = state[groups + a : groups + b]
        g = gradient[a:b]
        along = np.dot(u, g)
        projected = along / np.dot(u, u)
        r = state[k]
        radial, angular = coefficients[3], coefficients[5]
        if coefficients[4] != 0.0:
            radial *= r ** coefficients[4]
        if coefficients[6] != 0.0:
            angular *= r ** coefficients[6]
        out[k] = -radial * along
        out[groups + a : groups + b] = -angular * r * (g - projected * u)
    return value


def log_polar_velocity(t, state, out, chain, numbers, layout, work, coefficients):
    """Velocity of (r, log u) for one group; u is floored at e^-230, where it no longer moves the outputs."""
    size = int(coefficients[1])
    r = state[0]
    u = np.exp(np.maximum(state[1:], -230.0))
    gradient = out[1:]
    value = call(chain[0], r * u, gradient, numbers, layout, work)
    along = np.dot(u, gradient)
    projected = along / np.dot(u, u)
    radial, angular = coefficients[3], coefficients[5]
    if coefficients[4] != 0.0:
        radial *= r ** coefficients[4]
    if coefficients[6] != 0.0:
        angular *= r ** coefficients[6]
    for i in range(size):
        gradient[i] = -angular * r * (gradient[i] / u[i] - projected)
    out[0] = -radial * along
    return value
