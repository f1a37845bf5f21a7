"""Weight-normalised flow: a scale and an unnormalised direction per group of parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradflow.arguments import flag, not_negative, real_array
from gradflow.dynamics.flow import Flow
from gradflow.dynamics.groups import checked_kind, layout, norms, spread
from gradflow.kernels.calls import call


@dataclass(frozen=True, repr=False)
class WeightNormFlow(Flow):
    r"""Gradient flow in weight-normalised coordinates :math:`\theta_g = g_g\, v_g/|v_g|`.

    .. math:: g' = -\eta_g\, \hat v\cdot\nabla F, \qquad v' = -\eta_v\, \frac{g}{|v|}\,(I - \hat v\hat v^T)\nabla F,

    :math:`\hat v = v/|v|`; each :math:`|v_g|` is conserved. At the start :math:`g = |\theta_g|` and
    :math:`v = \theta_g`, or v of unit norm. Networks with kinks are followed through them; a scale g may pass zero.

    Parameters
    ----------
    groups : {"neuron", "layer", "whole"}
        What has a scale g of its own.
    scale_rate : float or sequence of float (G,)
        eta_g, for all groups or one per group; 0 freezes a scale.
    direction_rate : float
        eta_v.
    unit_start : bool
        Whether v starts with unit norm.

    References
    ----------
    T. Salimans, D. Kingma, Weight Normalization, arXiv 1602.07868.

    Examples
    --------
    >>> WeightNormFlow(groups="layer").groups
    'layer'
    """

    groups: str = "neuron"
    scale_rate: object = 1.0
    direction_rate: float = 1.0
    unit_start: bool = False

    def __post_init__(self):
        checked_kind(self.groups)
        rates = real_array(self.scale_rate, "scale_rate", "(G,)")
        if rates.ndim > 1 or (rates < 0).any():
            raise ValueError(f"scale_rate = {self.scale_rate}: must be one number or (G,), at least 0")
        if rates.ndim:
            object.__setattr__(self, "scale_rate", tuple(rates.tolist()))
        not_negative(self.direction_rate, "direction_rate")
        flag(self.unit_start, "unit_start")

    @property
    def compiled(self) -> bool:
        """Whether the links can be compiled."""
        return True

    def pack(self, problem, theta):
        """State (g, v) of theta."""
        order, starts = layout(problem.network, self.groups)
        ordered = np.asarray(theta, dtype=np.float64)[order]
        size = norms(ordered, starts)
        if (size == 0).any():
            raise ValueError("theta0: a group has norm zero, weight normalisation needs a direction; start elsewhere")
        return np.concatenate([size, ordered / spread(size, starts) if self.unit_start else ordered])

    def unpack(self, problem, state):
        """Theta (..., P) of states (..., G + P)."""
        order, starts = layout(problem.network, self.groups)
        state = np.asarray(state)
        v = state[..., starts.size - 1 :]
        theta = np.empty_like(v)
        theta[..., order] = v * spread(state[..., : starts.size - 1] / norms(v, starts), starts)
        return theta

    def links(self, problem):
        """The chain."""
        return (weight_norm_velocity,)

    def coefficients(self, problem):
        """G, P, permuted or not, eta_v, eta_g by group (G), starts of the groups (G + 1), order of theta (P)."""
        order, starts = layout(problem.network, self.groups)
        groups = starts.size - 1
        scales = np.asarray(self.scale_rate, dtype=float)
        if scales.ndim and scales.size != groups:
            raise ValueError(f"scale_rate has {scales.size} entries: must be one number, or {groups}, one per group")
        permuted = float((order != np.arange(order.size)).any())
        head = [groups, order.size, permuted, self.direction_rate]
        return np.concatenate([head, np.broadcast_to(scales, groups), starts, order]).astype(np.float64)

    def invariants(self, problem):
        """The norms |v_g|."""
        from gradflow.dynamics.conserved import weight_norm

        return weight_norm(problem, self)

    def records(self, problem, states):
        """The scales g (T, G)."""
        return {"scale": states[:, : layout(problem.network, self.groups)[1].size - 1]}


def weight_norm_velocity(t, state, out, chain, numbers, layout, work, coefficients):
    """Velocity of (g, v)."""
    groups, size = int(coefficients[0]), int(coefficients[1])
    scales = coefficients[4 : 4 + groups]
    starts = coefficients[4 + groups : 5 + 2 * groups]
    order = coefficients[5 + 2 * groups :]
    theta = np.empty(size)
    gradient = np.empty(size)
    for k in range(groups):
        a, b = int(starts[k]), int(starts[k + 1])
        v = state[groups + a : groups + b]
        theta[a:b] = state[k] / np.sqrt(np.dot(v, v)) * v
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
        v = state[groups + a : groups + b]
        g = gradient[a:b]
        square = np.dot(v, v)
        along = np.dot(v, g)
        out[k] = -scales[k] * along / np.sqrt(square)
        out[groups + a : groups + b] = -coefficients[3] * state[k] / np.sqrt(square) * (g - along / square * v)
    return value
