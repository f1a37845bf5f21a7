"""Checks of arguments that several rooms share: numbers, seeds, arrays."""

from __future__ import annotations

import math
import operator
import warnings
from typing import Any

import numpy as np


def checked_seed(seed: Any) -> int:
    """`seed` as an integer, at least 0."""
    try:
        whole = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed = {seed!r}: must be an integer") from None
    if whole < 0:
        raise ValueError(f"seed = {seed}: must be at least 0")
    return whole


def all_finite(values: np.ndarray) -> bool:
    """Whether no entry is NaN or infinite: told by the sum of squares, unless that overflows."""
    return math.isfinite(np.vdot(values, values)) or bool(np.isfinite(values).all())


def number(value: Any, name: str) -> float:
    """`value` as a float."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} = {value!r}: must be a number") from None


def positive(value: Any, name: str) -> float:
    """`value` as a positive finite float, or the error that says what was given and what must hold."""
    given = number(value, name)
    if not 0.0 < given < math.inf:
        raise ValueError(f"{name} = {value}: must be positive and finite")
    return given


def not_negative(value: Any, name: str) -> float:
    """`value` as a finite float, at least 0."""
    given = number(value, name)
    if not 0.0 <= given < math.inf:
        raise ValueError(f"{name} = {value}: must be a finite number, at least 0")
    return given


def finite(value: Any, name: str) -> float:
    """`value` as a finite float."""
    given = number(value, name)
    if not math.isfinite(given):
        raise ValueError(f"{name} = {value}: must be finite")
    return given


def whole(value: Any, name: str) -> int:
    """`value` as an integer, at least 1."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} = {value!r}: must be an integer, at least 1") from None
    if number < 1:
        raise ValueError(f"{name} = {value}: must be an integer, at least 1")
    return number


def flag(value: Any, name: str) -> bool:
    """`value` as True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} = {value!r}: must be True or False")
    return bool(value)


def outside_torch(value: Any) -> Any:
    """`value` as it is, a torch tensor as a numpy array, whatever device and graph it belongs to."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def real_array(value: Any, name: str, shape: str = "") -> np.ndarray:
    """`value` as a float64 array of its own, without NaN or infinite entries."""
    try:
        array = np.asarray(outside_torch(value))
        if not np.iscomplexobj(array):
            array = np.array(array, dtype=np.float64, order="C")
    except (TypeError, ValueError):
        of = f" of shape {shape}" if shape else ""
        raise TypeError(f"{name} of type {type(value).__name__}: give an array of numbers{of}") from None
    if np.iscomplexobj(array):
        raise TypeError(f"{name} is complex: give real numbers")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} holds {np.count_nonzero(~np.isfinite(array))} NaN or infinite entries: all must be finite"
        )
    return array


_said_float32 = False


def checked_inputs(x: Any, network) -> np.ndarray:
    """Inputs as contiguous float64 (n, d), checked against the network; float32 is said once."""
    global _said_float32
    array = real_array(x, "x", "(n, d)")
    if str(getattr(x, "dtype", "")) in ("float32", "torch.float32") and not _said_float32:
        _said_float32 = True
        warnings.warn("x is float32; gradflow computes in float64, so it was converted", stacklevel=3)
    if array.ndim != 2 or array.shape[1] != network.input_size:
        hint = ""
        if array.ndim == 1:
            hint = "; a single sample is x[None], a single input x[:, None]"
        raise ValueError(
            f"x has shape {array.shape}: must be (n, {network.input_size}) for the network {network}{hint}"
        )
    if array.shape[0] == 0:
        raise ValueError("x has no samples: give at least one")
    return array
