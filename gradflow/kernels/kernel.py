"""What a problem hands to a stepper: an objective's gradient together with its data."""

from collections.abc import Callable
from ctypes import addressof, c_char
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LINE = 8
"""Numbers in a cache line, and in the longest vectors of processors."""


def aligned(size: int) -> np.ndarray:
    """Zeros (size,) that begin at a cache line: vectors of eight numbers never cross one.

    Examples
    --------
    >>> from gradflow.kernels.kernel import aligned
    >>> aligned(3), aligned(3).ctypes.data % 64
    (array([0., 0., 0.]), 0)
    """
    room: Any = np.zeros(size + LINE)
    first = -(addressof(c_char.from_buffer(room)) // 8) % LINE
    return room[first : first + size]


@dataclass(frozen=True, eq=False)
class Kernel:
    """Objective F on a flat parameter vector, as functions over plain arrays.

    ``value = gradient(theta, out, numbers, layout, work)`` writes dF/dtheta to ``out`` and returns F(theta).
    ``product(theta, v, out, numbers, layout, work)`` writes the Hessian of F times v to ``out``.
    All kernels share these types, so that a compiled stepper serves every one of them.

    Parameters
    ----------
    name : str
        Family, for messages.
    gradient : callable
        Compiled (of signature ``calls.GRADIENT``) or plain Python, as ``compiled`` says.
    product : callable or None
        Hessian-vector product (``calls.PRODUCT``); None where there is none.
    numbers : ndarray of float64, (N,)
        Data: targets, inputs, covariances; ``numbers[0]`` is the decay.
    layout : ndarray of int64, (M,)
        Widths, codes and offsets that say how to read ``numbers`` and theta.
    work_size : int
        Length of the scratch vector that each caller provides.
    compiled : bool
        False: the functions are plain Python callables, and stepping is interpreted.
    flops : float
        Floating-point operations of one gradient, for cost estimates that do not depend on a clock.

    Attributes
    ----------
    chains : dict
        Compiled links over this gradient -> what a field makes of them once.

    Examples
    --------
    >>> import numpy as np
    >>> from gradflow.kernels.kernel import Kernel
    >>> def bowl(theta, out, numbers, layout, work):
    ...     out[:] = 2.0 * theta
    ...     return float(theta @ theta)
    >>> kernel = Kernel("bowl", bowl, None, np.zeros(1), np.zeros(0, np.int64), 0, compiled=False, flops=4.0)
    >>> out = np.empty(2)
    >>> kernel.gradient(np.array([1.0, 2.0]), out, kernel.numbers, kernel.layout, np.empty(kernel.work_size))
    5.0
    """

    name: str
    gradient: Callable[..., float]
    product: Callable[..., float] | None
    numbers: np.ndarray
    layout: np.ndarray
    work_size: int
    compiled: bool
    flops: float
    chains: dict = field(default_factory=dict, init=False, repr=False)
