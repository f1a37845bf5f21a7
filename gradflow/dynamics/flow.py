"""Plain gradient flow, and what every flow shares."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass

import numpy as np

from gradflow.arguments import finite, real_array
from gradflow.kernels.calls import call


class Flow:
    """A continuous dynamics: how theta becomes a state, how the state moves, what stays constant.

    A dynamics of one's own subclasses this with `velocity(problem, t, state)`, the derivative (S,) of a state (S,), and
    `pack` and `unpack` where the state is not theta (P,) itself.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> class SignFlow(gf.Flow):
    ...     def velocity(self, problem, t, state):
    ...         return -np.sign(problem.gradient(state))
    >>> problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(), [[1.0]], [[2.0]])
    >>> gf.simulate(problem, [0.0], SignFlow(), t_end=1.0).end.round(9).tolist()
    [1.0]
    """

    discrete = False

    def prepared(self, problem, theta: np.ndarray):
        """This dynamics with what depends on the problem and the start decided."""
        return self

    def pack(self, problem, theta: np.ndarray) -> np.ndarray:
        """State (S,) of a theta (P,)."""
        return np.array(theta, dtype=np.float64)

    def unpack(self, problem, state: np.ndarray) -> np.ndarray:
        """Theta (..., P) of states (..., S), in the network's own coordinates."""
        return np.asarray(state)

    def links(self, problem) -> tuple:
        """Functions of the chain, outermost first; the gradient of the problem comes after the last."""
        return (self._interpreted(problem),)

    def coefficients(self, problem) -> np.ndarray:
        """Numbers for the links, in order."""
        return np.zeros(0)

    @property
    def compiled(self) -> bool:
        """Whether the links can be compiled."""
        return False

    def penalty(self, problem, state: np.ndarray):
        """Part of the objective that is not in the problem, at states (..., S)."""
        return np.zeros(np.shape(state)[:-1])

    def invariants(self, problem) -> dict:
        """Conserved quantities: name -> :class:`~gradflow.dynamics.Invariant`; empty when none is known."""
        return {}

    def records(self, problem, states: np.ndarray) -> dict:
        """Quantities of the state that theta does not show: name -> (T, ...)."""
        return {}

    def scale(self, problem, state: np.ndarray) -> np.ndarray:
        """Size of the components of a state (S,), which the absolute tolerance follows."""
        return np.full(state.size, typical(state))

    def retract(self, problem, state: np.ndarray) -> np.ndarray:
        """State put back on its constraint set after a discrete step."""
        return state

    def velocity(self, problem, t: float, state: np.ndarray) -> np.ndarray:
        """Time derivative (S,) of a state."""
        raise TypeError(f"{type(self).__name__} must define velocity(problem, t, state)")

    def __repr__(self):
        if not is_dataclass(self):
            return f"{type(self).__name__}()"
        changed = [f for f in fields(self) if f.init and getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in changed)})"

    def value_and_velocity(self, problem, t: float, state: np.ndarray) -> tuple[float, np.ndarray]:
        """Objective and time derivative at a state; override it where one gradient serves both."""
        value = problem.value(self.unpack(problem, state)) + self.penalty(problem, state)
        return float(value), self.velocity(problem, t, state)

    def _interpreted(self, problem):
        """Link around a velocity written in Python."""

        def link(t, state, out, chain, numbers, layout, work, coefficients):
            value, velocity = self.value_and_velocity(problem, t, state)
            if np.shape(velocity) != out.shape:
                raise ValueError(
                    f"{type(self).__name__}: the velocity has shape {np.shape(velocity)}, and the state {out.shape}"
                )
            out[:] = velocity
            return value

        return link


@dataclass(frozen=True)
class Invariant:
    r"""A conserved quantity: its formula, and its value at a state as an array.

    With decay rate c the quantity is its first value times :math:`e^{-c t}`.

    Parameters
    ----------
    formula : str
        What is conserved, as text.
    value : callable
        Of a state (S,), an array.
    decay_rate : float
        c; 0 for what is constant.
    relative : bool
        Whether the drift is relative to the largest entry of the first value.

    Examples
    --------
    >>> import numpy as np
    >>> norm = Invariant("|u|", np.linalg.norm)
    >>> norm.drift(np.array([0.0, 1.0]), np.array([[3.0, 4.0], [5.0, 0.5]])).round(3).tolist()
    [0.0, 0.025]
    """

    formula: str
    value: Callable[[np.ndarray], np.ndarray]
    decay_rate: float = 0.0
    relative: bool = False

    def drift(self, t: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Largest deviation (T,) of any component from what theory says, relative to the first value if so marked."""
        values = np.stack([np.ravel(self.value(state)) for state in states])
        expected = values[0] * np.exp(-self.decay_rate * (np.asarray(t) - t[0]))[:, None]
        scale = max(float(np.abs(values[0]).max(initial=0.0)), np.finfo(float).tiny) if self.relative else 1.0
        return np.abs(values - expected).max(axis=1, initial=0.0) / scale


@dataclass(frozen=True, repr=False)
class GradientFlow(Flow):
    r"""Plain gradient flow :math:`\theta_i' = -c_i\,\partial_i F(\theta)`.

    Parameters
    ----------
    rates : dict or array_like (P,), optional
        Time constants c_i > 0: per layer, ``{"W1": 0.1}`` (1 where a name is missing), or per parameter. Default 1.

    Raises
    ------
    ValueError
        For unknown layer names, non-positive rates or a wrong length.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(half=True), [[1.0]], [[2.0]])
    >>> run = gf.simulate(problem, [0.0], gf.GradientFlow(), t_end=1.0)
    >>> bool(abs(run.end[0] - 2 * (1 - np.exp(-1))) < 1e-8)
    True
    """

    rates: object = None

    def __post_init__(self):
        if self.rates is None or isinstance(self.rates, dict):
            return
        object.__setattr__(self, "rates", tuple(real_array(self.rates, "rates", "(P,)").ravel().tolist()))

    @property
    def compiled(self) -> bool:
        """Whether the links can be compiled."""
        return True

    def links(self, problem) -> tuple:
        """The chain."""
        return (plain_velocity,) if self.rates is None else (rated_velocity,)

    def coefficients(self, problem) -> np.ndarray:
        """Time constants c (P,), nothing for the plain flow."""
        return np.zeros(0) if self.rates is None else rate_vector(problem, self.rates)

    def invariants(self, problem) -> dict:
        """Balancedness and its relatives; see :func:`gradflow.measure.invariants`."""
        from gradflow.dynamics.conserved import plain

        return plain(problem, self.rates)


def plain_velocity(t, state, out, chain, numbers, layout, work, coefficients):
    """theta' = -gradient."""
    value = call(chain[0], state, out, numbers, layout, work)
    for i in range(out.size):
        out[i] = -out[i]
    return value


def rated_velocity(t, state, out, chain, numbers, layout, work, coefficients):
    """theta_i' = -c_i gradient_i."""
    value = call(chain[0], state, out, numbers, layout, work)
    for i in range(out.size):
        out[i] *= -coefficients[i]
    return value


def rate_vector(problem, rates) -> np.ndarray:
    """Time constants (P,) from a dict by layer or a vector."""
    if isinstance(rates, dict):
        shapes = problem.network.shapes
        unknown = rates.keys() - shapes.keys()
        if unknown:
            raise ValueError(f"rates for unknown layers {sorted(unknown)}: known are {list(shapes)}")
        vector = problem.flatten(
            {name: np.full(shape, finite(rates.get(name, 1.0), f"rate of {name}")) for name, shape in shapes.items()}
        )
    else:
        vector = np.asarray(rates, dtype=float).ravel()
        if vector.size != problem.size:
            raise ValueError(f"rates have length {vector.size}: must be {problem.size}, one per parameter")
    if not (np.isfinite(vector).all() and (vector > 0).all()):
        raise ValueError("rates must be positive and finite: a layer is frozen by a fixed read-out, not by rate 0")
    return vector


def typical(values: np.ndarray) -> float:
    """Root mean square of the entries, at most 1; 1 if they are all zero."""
    square = float(np.vdot(values, values))
    if 1e-200 < square < 1e200:
        return min(1.0, math.sqrt(square / values.size))
    top = float(np.abs(values).max(initial=0.0))
    if not 0 < top < np.inf:
        return 1.0
    scaled = values / top
    return min(1.0, top * float(np.sqrt(np.vdot(scaled, scaled) / scaled.size)))
