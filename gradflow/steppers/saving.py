"""What steppers are given and give: start vectors, tolerances, arrays for saved states, times in a step, snapshots."""

import math
from typing import Any

import numpy as np

from gradflow.kernels.kernel import LINE, aligned

UNLIMITED = 2**62
"""Stands for "no limit" on a number of gradients or steps."""


def start_vector(state: Any) -> np.ndarray:
    """Copy of a start state as a flat float64 vector.

    Raises
    ------
    ValueError
        If it is not a vector, or empty.

    Examples
    --------
    >>> from gradflow.steppers.saving import start_vector
    >>> start_vector([1, 2])
    array([1., 2.])
    """
    y = np.array(state, dtype=np.float64)
    if y.ndim != 1 or y.size == 0:
        raise ValueError(f"state has shape {y.shape}: it must be one flat vector (S,) with S > 0; flatten it first")
    return y


def tolerances(rtol: float, atol: Any, size: int) -> np.ndarray:
    """One absolute tolerance per entry; a zero becomes the least number that can divide.

    Raises
    ------
    ValueError
        If a tolerance is negative, both are zero, or atol does not fit.

    Examples
    --------
    >>> from gradflow.steppers.saving import tolerances
    >>> tolerances(1e-6, 1e-9, 2)
    array([1.e-09, 1.e-09])
    """
    if type(atol) is float and atol > 0.0 and rtol >= 0.0:
        same = np.empty(size)
        same.fill(max(atol, 1e-300))
        return same
    given = np.asarray(atol, dtype=np.float64)
    if given.ndim and given.shape != (size,):
        raise ValueError(f"atol has shape {given.shape}: it must be a number or have shape ({size},), as the state")
    least = given.min() if given.ndim else float(given)
    if not (rtol >= 0.0 and least >= 0.0 and (rtol > 0.0 or least > 0.0)):
        raise ValueError(f"rtol = {rtol}, atol = {atol}: tolerances must not be negative, nor both be zero")
    return np.maximum(given, 1e-300) if given.ndim else np.full(size, max(float(given), 1e-300))


def aligned_rows(rows: int, size: int) -> np.ndarray:
    """Zeros (rows, size) whose rows begin at cache lines: vectors of eight numbers never cross one.

    There is room between the rows for every size, so that compiled code meets one kind of array.

    Examples
    --------
    >>> from gradflow.steppers.saving import aligned_rows
    >>> table = aligned_rows(2, 3)
    >>> table.shape, table.strides, table.ctypes.data % 64
    ((2, 3), (64, 8), 0)
    """
    padded = (size // LINE + 1) * LINE
    return aligned(rows * padded).reshape(rows, padded)[:, :size]


def new_record(rows: int, kind: np.dtype) -> np.ndarray:
    """Zeros (rows,) of a structured type, in a quarter of the time that numpy takes for them.

    Examples
    --------
    >>> import numpy as np
    >>> from gradflow.steppers.saving import new_record
    >>> new_record(1, np.dtype([("t", "f8"), ("steps", "i8")]))["steps"].tolist()
    [0]
    """
    return np.frombuffer(bytearray(rows * kind.itemsize), kind)


def as_compiled_code_takes(array: Any, kind: type) -> np.ndarray:
    """A contiguous, writable array of a type, itself where it is so already.

    Examples
    --------
    >>> import numpy as np
    >>> from gradflow.steppers.saving import as_compiled_code_takes
    >>> as_compiled_code_takes([1, 2], np.float64)
    array([1., 2.])
    """
    if isinstance(array, np.ndarray) and array.dtype == kind:
        if array.flags.c_contiguous and array.flags.writeable:
            return array
    return np.require(array, kind, ["C", "W"])


def save_arrays(save_at: Any, saved: np.ndarray | None, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Times to save at and the array for the states, in the one type that compiled code takes.

    Parameters
    ----------
    save_at : array_like, (m,), or None
        Increasing times; None: nothing is saved.
    saved : ndarray of float64, (m, S), or None
        Array to be filled.
    size : int
        Length S of the state.

    Returns
    -------
    tuple of ndarray
        ``save_at`` and ``saved``; the second is the array that was given, never a copy.

    Raises
    ------
    ValueError
        If ``saved`` does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from gradflow.steppers.saving import save_arrays
    >>> times, states = save_arrays([0.0, 1.0], np.empty((2, 3)), 3)
    >>> times
    array([0., 1.])
    """
    times = np.empty(0) if save_at is None else as_compiled_code_takes(save_at, np.float64)
    states = np.empty((0, size)) if saved is None else saved
    fits = times.ndim == 1 and states.shape == (times.size, size) and states.dtype == np.float64
    if not (fits and states.flags.c_contiguous and states.flags.writeable):
        raise ValueError(
            f"saved has shape {states.shape} and type {states.dtype}: for {times.size} times it must be"
            f" a contiguous, writable float64 array of shape ({times.size}, {size}); make it with np.empty"
        )
    return times, states


def times_inside(t: Any, start: float, end: float) -> np.ndarray:
    """Times at which dense output is asked for, checked.

    Parameters
    ----------
    t : float or array_like, (m,)
        Increasing times.
    start, end : float
        Interval in which dense output is known.

    Returns
    -------
    ndarray of float64, (m,)

    Raises
    ------
    ValueError
        If a time lies outside, or times decrease.

    Examples
    --------
    >>> from gradflow.steppers.saving import times_inside
    >>> times_inside(0.5, 0.0, 1.0)
    array([0.5])
    """
    times = np.array(t, dtype=np.float64, ndmin=1)
    if not (times.ndim == 1 and np.all((times >= start) & (times <= end)) and np.all(times[1:] >= times[:-1])):
        raise ValueError(
            f"t = {t}: dense output is known from {start} to {end};"
            " give increasing times inside the step that was accepted last"
        )
    return times


SHORT = 4096
"""Entries of a state up to which the vectors of an ended run may be kept for the snapshot of its end."""


def last_snapshot(stepper: Any) -> Any:
    """Snapshot of a stepper that takes no more steps; where that is cheap, a function that makes it when asked.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from gradflow.steppers.saving import last_snapshot
    >>> last_snapshot(SimpleNamespace(snapshot=lambda: {"t": 1.0}))
    {'t': 1.0}
    """
    later = getattr(type(stepper), "later_snapshot", None)
    return stepper.snapshot() if later is None else later(stepper)


def take_snapshot(record: np.ndarray, names: tuple[str, ...], memory: Any, last: int) -> dict[str, Any]:
    """Copy of what a run needs to go on: the held state if a step was cut, else the current one.

    Parameters
    ----------
    record : structured ndarray, (2,)
        Numbers of the current and of the held state.
    names : tuple of str
        Those that a resumed run needs.
    memory : NamedTuple
        The stepper's vectors.
    last : int
        Index of the stage at the state that a step leads to.

    Returns
    -------
    dict
        The numbers, and the vectors "state" and "velocity".
    """
    now = record[0]
    if math.isnan(now["held_for"]):
        kept, state, velocity = now, memory.y, memory.K[last if now["has_stages"] else 0]
    else:
        kept, state, velocity = record[1], memory.y_held, memory.velocity_held
    numbers: dict[str, Any] = dict(zip(record.dtype.names or (), kept.item(), strict=True))
    return {name: numbers[name] for name in names} | {"state": state.copy(), "velocity": velocity.copy()}


def state_of(snapshot: dict[str, Any], size: int) -> np.ndarray:
    """State of a snapshot, of a stepper with a state of this size.

    Raises
    ------
    ValueError
        If the snapshot belongs to a state of another size.

    Examples
    --------
    >>> from gradflow.steppers.saving import state_of
    >>> state_of({"state": [1, 2]}, 2)
    array([1., 2.])
    """
    state = np.asarray(snapshot["state"], dtype=np.float64)
    if state.shape != (size,):
        raise ValueError(
            f"the snapshot's state has shape {state.shape}, this stepper's {(size,)}:"
            " restore it to a stepper of the same problem"
        )
    return state


def put_back(snapshot: dict[str, Any], record: np.ndarray, names: tuple[str, ...], memory: Any) -> None:
    """Write a snapshot into a stepper's record and vectors; it must be of a state of the same size."""
    now, state = record[0], state_of(snapshot, memory.y.size)
    for name in names:
        now[name] = snapshot[name]
    memory.y[:] = memory.y_before[:] = state
    memory.K[0] = snapshot["velocity"]
    now["t_before"], now["held_for"], now["has_stages"] = now["t"], np.nan, 0
