"""The right-hand side of a flow: a chain of functions that ends in the gradient of a kernel."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from gradflow.kernels.calls import GRADIENT, VELOCITY, address, call, compiled
from gradflow.kernels.kernel import Kernel, aligned
from gradflow.steppers.saving import as_compiled_code_takes


class RightHandSide(NamedTuple):
    """What one evaluation needs: the outermost function, the rest of the chain, and their data."""

    velocity: Any
    chain: Any
    numbers: np.ndarray
    layout: np.ndarray
    work: np.ndarray
    coefficients: np.ndarray


def evaluate(rhs, t, state, out):
    """One evaluation of a right-hand side."""
    return call(rhs.velocity, t, state, out, rhs.chain, rhs.numbers, rhs.layout, rhs.work, rhs.coefficients)


class Field:
    """Velocity field dstate/dt = velocity(t, state), with its own work array.

    A link is called as ``value = link(t, state, out, chain, numbers, layout, work, coefficients)``: it calls
    ``call(chain[0], ...)`` for the next one, takes its numbers from the front of ``coefficients`` and hands on the
    rest. The last link is the kernel's gradient. The value returned is the objective at the state.

    Parameters
    ----------
    links : sequence of callable
        Plain Python functions of the form above, outermost first; at least one.
    kernel : Kernel
        Objective; its gradient ends the chain.
    coefficients : array_like of float, (C,)
        Numbers of the links.

    Attributes
    ----------
    compiled : bool
        True: the chain consists of addresses of compiled functions. False: of the Python functions themselves.

    Raises
    ------
    ValueError
        If there are no links.

    Examples
    --------
    >>> import numpy as np
    >>> from gradflow.kernels.calls import call
    >>> from gradflow.kernels.kernel import Kernel, aligned
    >>> from gradflow.steppers.field import Field
    >>> def bowl(theta, out, numbers, layout, work):
    ...     out[:] = 2.0 * theta
    ...     return float(theta @ theta)
    >>> def flow(t, state, out, chain, numbers, layout, work, coefficients):
    ...     value = call(chain[0], state, out, numbers, layout, work)
    ...     out[:] = -out
    ...     return value
    >>> kernel = Kernel("bowl", bowl, None, np.zeros(1), np.zeros(0, np.int64), 0, compiled=False, flops=4.0)
    >>> field = Field((flow,), kernel, ())
    >>> out = np.empty(2)
    >>> value = field(0.0, np.array([1.0, 2.0]), out)
    >>> print(value, out)
    5.0 [-2. -4.]
    """

    def __init__(self, links: Sequence[Callable[..., float]], kernel: Kernel, coefficients: Any = ()) -> None:
        if len(links) == 0:
            raise ValueError("links is empty: a field needs at least one link over the gradient; give the flow's link")
        self.links = tuple(links)
        self.kernel = kernel
        self.compiled = kernel.compiled
        own = np.array(coefficients, dtype=np.float64)
        self._coefficients = own if own.ndim == 1 else own.reshape(-1)
        self._evaluate = compiled(evaluate) if self.compiled else evaluate

    @cached_property
    def rhs(self) -> RightHandSide:
        """The chain and its data, as a compiled stepper takes them; a field that is never evaluated is not compiled."""
        kernel = self.kernel
        velocity, chain, numbers, layout = kernel.chains.get(self.links) or self._chained()
        work = aligned(max(kernel.work_size, 1))
        return RightHandSide(velocity, chain, numbers, layout, work, self._coefficients)

    def _chained(self) -> tuple:
        """The outermost link, the rest of the chain, and the data of the kernel, in the types of compiled code."""
        kernel = self.kernel
        velocity, chain = self.links[0], (*self.links[1:], kernel.gradient)
        if self.compiled:
            addresses = [address(link, VELOCITY) for link in self.links] + [address(kernel.gradient, GRADIENT)]
            velocity, chain = addresses[0], np.array(addresses[1:], dtype=np.int64)
        data = as_compiled_code_takes(kernel.numbers, np.float64), as_compiled_code_takes(kernel.layout, np.int64)
        if self.compiled:
            kernel.chains[self.links] = velocity, chain, *data
        return velocity, chain, *data

    @property
    def velocity(self) -> Any:
        """The outermost link: its address if compiled, else the function."""
        return self.rhs.velocity

    @property
    def chain(self) -> Any:
        """What the outermost link calls: addresses if compiled, else a tuple of functions."""
        return self.rhs.chain

    @property
    def coefficients(self) -> np.ndarray:
        """Numbers of the links, outermost first."""
        return self._coefficients

    def __call__(self, t: float, state: np.ndarray, out: np.ndarray) -> float:
        """Write the velocity at (t, state) to ``out``; return the value of the objective there.

        Parameters
        ----------
        t : float
            Time.
        state : ndarray of float64, (S,)
            Contiguous and writable, as compiled code requires; it is not changed.
        out : ndarray of float64, (S,)
            Contiguous.
        """
        return self._evaluate(self.rhs, float(t), state, out)
