"""Where the conserved quantities of a flow have given values, and how a state is put back there."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from gradflow.diagonal import Diagonal
from gradflow.dynamics.balance import Balance, plan_of
from gradflow.dynamics.conserved import log_kernel
from gradflow.dynamics.flow import GradientFlow
from gradflow.dynamics.groups import layout, norms, spread
from gradflow.dynamics.normalized import LMFlow, lm_layout
from gradflow.dynamics.polar import PolarFlow
from gradflow.dynamics.weight_norm import WeightNormFlow
from gradflow.invariants import invariant_decay, invariant_names, kernel_basis


def manifold(problem, dynamics):
    """What a flow conserves, with the way back to it.

    Returns
    -------
    object
        ``values(state)``, one vector; ``decay`` (the same length), the rates of their exponential laws;
        ``put_back(state, target)``, a state near the given one with these values; ``put_back_all(states, targets)``,
        the same in place for rows in the order of time, with a row of targets for each or one for all; ``operations``,
        about so many floating point operations for one way back.

    Raises
    ------
    ValueError
        If the flow conserves nothing that is known; the message says which flows do.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.Diagonal(1, 2), gf.losses.Square(), [[1.0]], [[2.0]])
    >>> surface = manifold(problem, gf.GradientFlow())
    >>> surface.put_back(np.array([2.0, 1.0]), np.array([2.0])).tolist()
    [2.0, 1.0]
    """
    if type(dynamics) is GradientFlow and (dynamics.rates is None or isinstance(dynamics.rates, dict)):
        found = _plain(problem, dynamics.rates)
    elif type(dynamics) is PolarFlow:
        found = _polar(problem, dynamics)
    elif type(dynamics) is WeightNormFlow:
        found = Spheres(layout(problem.network, dynamics.groups)[1])
    elif type(dynamics) is LMFlow:
        found = Spheres(lm_layout(problem.network)[1], first=1)
    else:
        found = None
    if found is None:
        raise ValueError(
            f"conserve = True: {dynamics!r} on {problem.network} has no conserved quantities to hold. Those that have:"
            " the plain flow (rates by layer or none) of layers with a linear or homogeneous activation (relu,"
            " leaky_relu, abs, quadratic, relu_squared) and of diagonal networks;"
            " PolarFlow, WeightNormFlow, LMFlow; leave conserve out"
        )
    return found


def _plain(problem, rates):
    """Of the plain flow, None if there are none."""
    if not isinstance(problem.network, Diagonal):
        return Balance(problem, rates) if plan_of(problem, rates) else None
    if not invariant_names(problem, rates):
        return None
    return Pairs(problem, rates) if problem.network.signed else Kernel(problem, rates)


def _polar(problem, flow):
    """Unit directions; with them the kernel of log u, or the balance where the rates give the plain flow."""
    plain = _plain(problem, None) if flow.is_plain and flow.groups != "whole" else None
    if plain is not None:
        return Polar(problem, flow, plain)
    if isinstance(problem.network, Diagonal) and flow.compiled and problem.decay == 0 and flow.log_directions:
        return LogDirections(problem, flow)
    return Spheres(layout(problem.network, flow.groups)[1], logarithms=bool(flow.log_directions))


class OneByOne(ABC):
    """What puts many states back one after the other."""

    @abstractmethod
    def put_back(self, state, target):
        """A state near the given one where the conserved quantities are the target."""

    def put_back_all(self, states, targets):
        """The same in place for states (m, S) and targets (m, C), or (1, C) for all."""
        for state, target in zip(states, np.broadcast_to(targets, (len(states), targets.shape[1])), strict=True):
            state[:] = self.put_back(state, target)


class Spheres(OneByOne):
    """Groups of fixed norm behind as many scales, or behind `first` of them; `logarithms`: of the entries' logs."""

    def __init__(self, starts, first=None, logarithms=False):
        self._starts, self._first = starts, starts.size - 1 if first is None else first
        self._logarithms = logarithms
        self.decay, self.operations = np.zeros(starts.size - 1), 10.0 * starts[-1]

    def values(self, state):
        """Norms of the groups."""
        inner = state[self._first :]
        return norms(np.exp(inner) if self._logarithms else inner, self._starts)

    def put_back(self, state, target):
        """The groups rescaled."""
        state = np.array(state)
        factor = spread(target / self.values(state), self._starts)
        if self._logarithms:
            state[self._first :] += np.log(factor)
        else:
            state[self._first :] *= factor
        return state


class Polar:
    """Unit directions, and what the plain flow conserves of theta."""

    def __init__(self, problem, flow, plain):
        self._problem, self._flow, self._plain = problem, flow, plain
        self.decay, self.operations = plain.decay, plain.operations + 20.0 * problem.size

    def values(self, state):
        """Of theta; the directions always have norm 1."""
        return self._plain.values(self._flow.unpack(self._problem, state))

    def put_back(self, state, target):
        """By way of theta."""
        return self._flow.pack(self._problem, self._plain.put_back(self._flow.unpack(self._problem, state), target))

    def put_back_all(self, states, targets):
        """By way of theta."""
        thetas = np.array(self._flow.unpack(self._problem, states))
        self._plain.put_back_all(thetas, targets)
        states[:] = [self._flow.pack(self._problem, theta) for theta in thetas]


class LogDirections(OneByOne):
    """Unit direction of a positive diagonal network, and the kernel part of log u + Psi(r), or of its power 2 - D."""

    def __init__(self, problem, flow):
        (self._basis, self._psi), self._power = log_kernel(problem, flow), 2 - problem.network.depth
        self.decay = np.zeros(1 + self._basis.shape[1])
        self.operations = 20.0 * self._basis.size

    def _curved(self, state):
        z = state[1:] + self._psi(state[0])
        return np.exp(self._power * z) if self._power else z

    def values(self, state):
        """log|u|, then one number for each direction of the kernel."""
        return np.concatenate([[0.5 * np.log(np.exp(2.0 * state[1:]).sum())], self._curved(state) @ self._basis])

    def put_back(self, state, target):
        """Newton's method for the logarithms or powers: along K, and across it for the norm."""
        state = np.array(state)
        for _ in range(4):
            missing, q = target - self.values(state), self._curved(state)
            pull = np.exp(2.0 * state[1:])
            if self._power:
                pull /= self._power * q
            across = pull - self._basis @ (self._basis.T @ pull)
            along = self._basis @ missing[1:]
            square = pull @ across
            length = (missing[0] - pull @ along) / square if square > 1e-12 * (pull @ pull) else 0.0
            q = q + along + length * across
            state[1:] = (np.log(q) / self._power if self._power else q) - self._psi(state[0])
        return state


class Pairs(OneByOne):
    """u v, or u^(2-D) + v^(2-D), for each coordinate of a signed diagonal network."""

    def __init__(self, problem, rates):
        rates = rates or {}
        self._power = 2 - problem.network.depth
        self._up, self._down = rates.get("u", 1.0), rates.get("v", 1.0)
        self.decay = np.full(problem.size // 2, invariant_decay(problem, rates)["coordinates"])
        self.operations = 100.0 * problem.size

    def values(self, state):
        """One number for each coordinate."""
        return self._value(*np.split(np.asarray(state), 2))

    def _value(self, u, v):
        with np.errstate(divide="ignore", invalid="ignore"):
            if self._power:
                return u ** float(self._power) / self._up + v ** float(self._power) / self._down
            return np.sign(u * v) * np.abs(u) ** (1.0 / self._up) * np.abs(v) ** (1.0 / self._down)

    def put_back(self, state, target):
        """Both entries multiplied by numbers near 1, by Newton's method for their logarithms."""
        u, v = (half.copy() for half in np.split(np.asarray(state), 2))
        for _ in range(4):
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                value = self._value(u, v)
                if self._power:
                    slopes = (
                        self._power * u ** float(self._power) / self._up,
                        self._power * v ** float(self._power) / self._down,
                    )
                else:
                    slopes = value / self._up, value / self._down
                step = (target - value) / (slopes[0] ** 2 + slopes[1] ** 2)
                change = [np.nan_to_num(step * slope, posinf=0.0, neginf=0.0) for slope in slopes]
            if not max(np.abs(change[0]).max(), np.abs(change[1]).max()) > 1e-16:
                break
            u, v = u + u * np.expm1(change[0]), v + v * np.expm1(change[1])
        return np.concatenate([u, v])


class Kernel(OneByOne):
    """K^T log|u|, or K^T u^(2-D), of an unsigned diagonal network: linear in the logarithms, or in the powers."""

    def __init__(self, problem, rates):
        self._basis, self._power = kernel_basis(problem), 2 - problem.network.depth
        self.decay = np.full(self._basis.shape[1], invariant_decay(problem, rates)["kernel"])
        self.operations = 4.0 * self._basis.size

    def _curved(self, state):
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(np.abs(state)) if self._power == 0 else state ** float(self._power)

    def values(self, state):
        """One number for each direction of the kernel."""
        return self._curved(np.asarray(state)) @ self._basis

    def put_back(self, state, target):
        """The missing part added to the logarithms or to the powers."""
        state = np.array(state)
        for _ in range(2):
            missing = self._basis @ (target - self.values(state))
            if self._power == 0:
                state *= np.exp(missing)
            else:
                state *= (1.0 + missing / self._curved(state)) ** (1.0 / self._power)
        return state
