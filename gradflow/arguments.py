"""Checks of arguments that several rooms share."""

from __future__ import annotations

import math
import operator
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


def positive(value: Any, name: str) -> float:
    """`value` as a positive finite float, or the error that says what was given and what must hold."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} = {value!r}: must be a number") from None
    if not 0.0 < number < math.inf:
        raise ValueError(f"{name} = {value}: must be positive and finite")
    return number


def not_negative(value: Any, name: str) -> float:
    """`value` as a finite float, at least 0."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} = {value!r}: must be a number") from None
    if not 0.0 <= number < math.inf:
        raise ValueError(f"{name} = {value}: must be a finite number, at least 0")
    return number
