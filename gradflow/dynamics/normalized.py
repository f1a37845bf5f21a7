"""LM-normalised flow: every layer on its unit sphere, held by a Lagrange multiplier, and one signed scale rho."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from gradflow.arguments import not_negative
from gradflow.diagonal import Diagonal
from gradflow.dynamics.flow import Flow, typical
from gradflow.dynamics.groups import norms, pack_layout, partition, spread
from gradflow.kernels.calls import call


@dataclass(frozen=True, repr=False)
class LMFlow(Flow):
    r"""Flow of :math:`L(\rho f_V) + \lambda\rho^2` over one signed scale rho and unit spheres :math:`\|V_k\|_F = 1`.

    .. math:: \rho' = -\partial_\rho L - 2\lambda\rho, \qquad
              V_k' = -(I - V_k V_k^T)\,\partial_{V_k} L, \qquad
              \theta = (V_1, \dots, V_{L-1}, \rho V_L).

    The multiplier :math:`\nu = -\langle V_k, \partial_{V_k}L\rangle` is the same for every layer of a homogeneous
    network. Decay is on rho alone, not on theta: a problem with decay is refused. The start is
    :math:`V_k = W_k/\|W_k\|_F`, :math:`\rho = \prod_k \|W_k\|_F`, which keeps the function of a homogeneous network of
    degree one per layer without biases; from any other theta the start says that the function changes. Networks with
    kinks are followed through them; what slides keeps the layers on their spheres.

    Parameters
    ----------
    decay : float
        lambda, at least 0.

    Raises
    ------
    ValueError
        For negative decay, a problem with decay of its own, or a start with a zero layer.

    References
    ----------
    M. Xu et al., Dynamics in Deep Classifiers Trained with the Square Loss, Research 6 (2023); T. Poggio, Q. Liao,
    arXiv 2101.00072.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([2, 1]), gf.losses.Square(), np.eye(2), [[1.0], [1.0]])
    >>> run = gf.simulate(problem, [0.6, 0.8], gf.LMFlow(decay=0.5), t_end=200.0)
    >>> round(float(run.records["rho"][-1]), 6)
    0.707107
    """

    decay: float = 0.0

    def __post_init__(self):
        not_negative(self.decay, "decay")

    @property
    def compiled(self) -> bool:
        """Whether the links can be compiled."""
        return True

    def pack(self, problem, theta):
        """State (rho, V) of theta."""
        if problem.decay:
            raise ValueError(
                f"the problem has decay = {problem.decay:g} on theta: LM flow has decay on rho; use"
                " gf.Problem(..., decay=0) and gf.LMFlow(decay=...)"
            )
        order, starts = lm_layout(problem.network)
        ordered = np.asarray(theta, dtype=np.float64)[order]
        sizes = norms(ordered, starts)
        if (sizes == 0).any():
            raise ValueError("theta0: a layer has norm zero; the LM flow needs a direction for every layer")
        degree = problem.network.degree
        if degree != sizes.size and not np.allclose(sizes[:-1], 1.0, rtol=1e-12, atol=0.0):
            warnings.warn(
                "the network is not homogeneous of degree one in each layer, so the normalised start"
                " (V_k = W_k/|W_k|, rho = prod |W_k|) is another function than theta0",
                stacklevel=4,
            )
        return np.concatenate([[np.prod(sizes)], ordered / spread(sizes, starts)])

    def unpack(self, problem, state):
        """Theta (..., P) = (V_1, ..., V_{L-1}, rho V_L) of states (..., 1 + P)."""
        order, starts = lm_layout(problem.network)
        ordered = np.array(np.asarray(state)[..., 1:])
        ordered[..., starts[-2] :] *= np.asarray(state)[..., :1]
        theta = np.empty_like(ordered)
        theta[..., order] = ordered
        return theta

    def scaled(self, problem, theta, rho: float) -> np.ndarray:
        """Start (P,) with the unit layers of a theta and another scale rho, which may be negative.

        Parameters
        ----------
        problem : Problem
            Its network tells the layers.
        theta : array_like (P,)
            Whose directions are kept; no layer may be zero.
        rho : float
            The scale.

        Examples
        --------
        >>> import gradflow as gf
        >>> problem = gf.Problem(gf.DeepLinear([2, 1, 1]), gf.losses.Square(), [[1.0, 0.0]], [[1.0]])
        >>> gf.LMFlow().scaled(problem, [3.0, 4.0, 7.0], -5.0).tolist()
        [0.6, 0.8, -5.0]
        """
        return self.unpack(problem, np.append(rho, self.pack(problem, problem.checked(theta))[1:]))

    def links(self, problem):
        """The chain."""
        return (lm_velocity,)

    def coefficients(self, problem):
        """Decay, starts of the layers, order of theta."""
        return pack_layout(*lm_layout(problem.network), [self.decay, 0.0, 0.0, 0.0])

    def penalty(self, problem, state):
        """lambda rho^2."""
        return self.decay * np.asarray(state)[..., 0] ** 2

    def invariants(self, problem):
        """|V_k| = 1."""
        from gradflow.dynamics.conserved import normalised

        return normalised(problem, self)

    def records(self, problem, states):
        """The signed scale rho (T,)."""
        return {"rho": states[:, 0]}

    def scale(self, problem, state):
        """rho follows its own size, the layers theirs."""
        return np.concatenate([[min(1.0, abs(state[0])) or 1.0], np.full(state.size - 1, typical(state[1:]))])

    def retract(self, problem, state):
        """Layers put back on their unit spheres."""
        _, starts = lm_layout(problem.network)
        state = np.array(state)
        state[1:] /= spread(norms(state[1:], starts), starts)
        return state


def lm_layout(network) -> tuple[np.ndarray, np.ndarray]:
    """Order of theta and starts of the layers."""
    if isinstance(network, Diagonal):
        raise ValueError("LM flow needs layers; a diagonal network is one vector, use PolarFlow")
    return partition(network, "layer")


def lm_velocity(t, state, out, chain, numbers, layout, work, coefficients):
    """Velocity of (rho, V)."""
    groups, size = int(coefficients[0]), int(coefficients[1])
    starts = coefficients[7 : 8 + groups]
    order = coefficients[8 + groups :]
    rho = state[0]
    last = int(starts[groups - 1])
    theta = np.empty(size)
    theta[:last] = state[1 : 1 + last]
    theta[last:] = rho * state[1 + last :]
    gradient = np.empty(size)
    if coefficients[2] == 0.0:
        value = call(chain[0], theta, gradient, numbers, layout, work)
    else:
        moved = np.empty(size)
        for i in range(size):
            moved[int(order[i])] = theta[i]
        value = call(chain[0], moved, theta, numbers, layout, work)
        for i in range(size):
            gradient[i] = theta[int(order[i])]
    out[0] = -np.dot(state[1 + last :], gradient[last:]) - 2.0 * coefficients[3] * rho
    gradient[last:] *= rho
    for k in range(groups):
        a, b = int(starts[k]), int(starts[k + 1])
        v = state[1 + a : 1 + b]
        g = gradient[a:b]
        out[1 + a : 1 + b] = np.dot(v, g) / np.dot(v, v) * v - g
    return value + coefficients[3] * rho * rho
