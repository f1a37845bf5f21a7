"""Discrete training rules: GD, SGD, heavy ball and Nesterov, as maps with an exact step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gradflow.arguments import checked_seed, flag, number, positive, whole
from gradflow.dynamics.flow import Flow, GradientFlow
from gradflow.dynamics.groups import layout, partition
from gradflow.dynamics.normalized import LMFlow
from gradflow.dynamics.polar import PolarFlow
from gradflow.dynamics.sphere import SphereFlow
from gradflow.kernels.calls import call


class Discrete(Flow):
    """What the discrete rules share: a step size; step k is at time k * step."""

    discrete = True
    step: float

    def _check_step(self):
        positive(self.step, "step")


@dataclass(frozen=True, repr=False)
class GD(Discrete):
    r"""Gradient descent :math:`\theta_{k+1} = \theta_k - h\,\nabla F(\theta_k)`, the explicit Euler method of a flow.

    Parameters
    ----------
    step : float
        h > 0; step k is compared with the flow at time k h.
    flow : flow
        Whose Euler step it is: ``gf.PolarFlow(...)``, ``gf.LMFlow(...)`` and ``gf.SphereFlow(...)`` give the discrete
        polar, LM and sphere steps (step, then renormalise).

    Raises
    ------
    ValueError
        For a step that is not positive.

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(half=True), [[1.0]], [[1.0]])
    >>> gf.simulate(problem, [0.0], gf.GD(step=0.5), t_end=1.0).end.tolist()
    [0.75]
    """

    step: float
    flow: Flow = GradientFlow()

    def __post_init__(self):
        self._check_step()
        if not isinstance(self.flow, Flow) or self.flow.discrete:
            raise TypeError(f"flow = {self.flow!r}: must be a flow such as gf.LMFlow(), not a discrete rule")

    def prepared(self, problem, theta):
        """This rule with its flow decided; directions are Cartesian, so that they can be renormalised."""
        flow = replace(self.flow, log_directions=False) if isinstance(self.flow, PolarFlow) else self.flow
        return replace(self, flow=flow.prepared(problem, theta))

    @property
    def compiled(self) -> bool:
        """Whether the links can be compiled."""
        return self.flow.compiled

    def pack(self, problem, theta):
        """State of the flow."""
        return self.flow.pack(problem, theta)

    def unpack(self, problem, state):
        """Theta of states of the flow."""
        return self.flow.unpack(problem, state)

    def links(self, problem):
        """The chain; the outer link renormalises after the step."""
        inner = self.flow.links(problem)
        return inner if self._spheres(problem) is None else (retracting_velocity, *inner)

    def coefficients(self, problem):
        """What the retraction needs (step, where the spheres begin, their starts), then the flow's own numbers."""
        inner, spheres = self.flow.coefficients(problem), self._spheres(problem)
        if spheres is None:
            return inner
        first, starts = spheres
        return np.concatenate([[self.step, first, starts.size - 1], starts, inner])

    def _spheres(self, problem):
        """First component that lies on a sphere and the starts of the spheres, or None."""
        if isinstance(self.flow, PolarFlow):
            starts = layout(problem.network, self.flow.groups)[1]
            return starts.size - 1, starts
        if isinstance(self.flow, LMFlow):
            return 1, partition(problem.network, "layer")[1]
        if isinstance(self.flow, SphereFlow):
            return 0, np.array([0, problem.size])
        return None

    def penalty(self, problem, state):
        """As the flow."""
        return self.flow.penalty(problem, state)

    def invariants(self, problem):
        """Those of the flow; their drift is of order h."""
        return self.flow.invariants(problem)

    def records(self, problem, states):
        """As the flow."""
        return self.flow.records(problem, states)


@dataclass(frozen=True, repr=False)
class SGD(GD):
    r"""Stochastic gradient descent :math:`\theta_{k+1} = \theta_k - h\,\nabla F_{B_k}(\theta_k)` on minibatches B_k.

    The minibatch gradient is unbiased for the full one (mean over the batch; for a sum loss scaled by n/b).
    Without replacement every epoch is one ``default_rng(seed).permutation(n)``, a short last batch is kept; with
    replacement each batch is ``integers(n, size=batch_size)``.

    Parameters
    ----------
    step : float
        h > 0.
    flow : flow
        Whose Euler step it is, as for GD.
    batch_size : int
        Between 1 and n.
    replacement : bool
        Whether samples are drawn with replacement.
    seed : int
        Of the batches.

    Examples
    --------
    >>> SGD(step=0.1, batch_size=8, seed=3)
    SGD(step=0.1, batch_size=8, seed=3)
    """

    batch_size: int = 1
    replacement: bool = False
    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        whole(self.batch_size, "batch_size")
        flag(self.replacement, "replacement")
        checked_seed(self.seed)

    def prepared(self, problem, theta):
        """As GD, with the batch size checked against the data."""
        if self.batch_size > problem.n:
            raise ValueError(f"batch_size = {self.batch_size}: the problem has only {problem.n} samples")
        return super().prepared(problem, theta)


@dataclass(frozen=True, repr=False)
class Momentum(Discrete):
    r"""Gradient descent with momentum: heavy ball, or Nesterov's variant.

    .. math:: v_{k+1} = \beta v_k - h\,\nabla F(\theta_k + [\beta v_k]_{\text{nesterov}}), \qquad
              \theta_{k+1} = \theta_k + v_{k+1}, \qquad v_0 = 0.

    Step k is at time k h; over long times it follows the flow at time k h/(1 - beta).

    Parameters
    ----------
    step : float
        h > 0.
    beta : float
        Momentum in [0, 1).
    nesterov : bool
        Whether the gradient is taken ahead.

    References
    ----------
    B. Polyak, Some methods of speeding up the convergence of iteration methods, 1964; Y. Nesterov, 1983.

    Examples
    --------
    >>> Momentum(step=0.1, nesterov=True)
    Momentum(step=0.1, nesterov=True)
    """

    step: float
    beta: float = 0.9
    nesterov: bool = False

    def __post_init__(self):
        self._check_step()
        flag(self.nesterov, "nesterov")
        if not 0 <= number(self.beta, "beta") < 1:
            raise ValueError(f"beta = {self.beta}: the momentum must lie in [0, 1)")

    @property
    def compiled(self) -> bool:
        """Whether the links can be compiled."""
        return True

    def pack(self, problem, theta):
        """State (theta, v), v = 0."""
        return np.concatenate([theta, np.zeros(problem.size)])

    def unpack(self, problem, state):
        """Theta of states (..., 2 P)."""
        return np.asarray(state)[..., : problem.size]

    def links(self, problem):
        """The chain."""
        return (momentum_velocity,)

    def coefficients(self, problem):
        """Step, beta, and beta again where the gradient is taken ahead."""
        return np.array([self.step, self.beta, self.beta if self.nesterov else 0.0])

    def records(self, problem, states):
        """The momentum v (T, P)."""
        return {"momentum": states[:, problem.size :]}


def momentum_velocity(t, state, out, chain, numbers, layout, work, coefficients):
    """Displacement of (theta, v) over one step, divided by the step."""
    size = state.size // 2
    step, beta = coefficients[0], coefficients[1]
    theta, v = state[:size], state[size:]
    gradient = out[size:]
    value = call(chain[0], theta + coefficients[2] * v, gradient, numbers, layout, work)
    for i in range(size):
        moved = beta * v[i] - step * gradient[i]
        out[i] = moved / step
        gradient[i] = (moved - v[i]) / step
    return value


def retracting_velocity(t, state, out, chain, numbers, layout, work, coefficients):
    """Displacement over one Euler step followed by normalisation of the directions, divided by the step."""
    step, first, groups = coefficients[0], int(coefficients[1]), int(coefficients[2])
    starts = coefficients[3 : 4 + groups]
    value = call(chain[0], t, state, out, chain[1:], numbers, layout, work, coefficients[4 + groups :])
    for k in range(groups):
        a, b = first + int(starts[k]), first + int(starts[k + 1])
        moved = state[a:b] + step * out[a:b]
        moved /= np.sqrt(np.dot(moved, moved))
        out[a:b] = (moved - state[a:b]) / step
    return value
