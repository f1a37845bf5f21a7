"""Checks of the arguments of data functions."""

import numbers

import numpy as np
from numpy.typing import ArrayLike

from gradflow.arguments import number, outside_torch


def count(name: str, value: int, minimum: int = 1, maximum: int | None = None, reason: str = "") -> int:
    """Return an integer after checking that it is one and in range."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} = {value!r}: it must be an integer; give {name} >= {minimum}")
    if value < minimum:
        raise ValueError(f"{name} = {value}: it must be at least {minimum}; give {name} >= {minimum}")
    if maximum is not None and value > maximum:
        raise ValueError(f"{name} = {value}: {reason}; give {name} <= {maximum}")
    return int(value)


def finite(name: str, value: ArrayLike, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return the value as float64 after checking that it is finite and of the shape, if one is given."""
    try:
        values = np.asarray(outside_torch(value), dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} = {value!r}: give numbers{f' of shape {shape}' if shape else ''}") from None
    if shape is not None and values.shape != shape:
        raise ValueError(f"{name} has shape {values.shape}: give shape {shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} contains {values[~np.isfinite(values)].flat[0]}: give finite numbers")
    return values


def not_negative(name: str, value: float) -> float:
    """Return a number after checking that it is finite and not negative."""
    given = number(value, name)
    if not (np.isfinite(given) and given >= 0):
        raise ValueError(f"{name} = {value}: it must be finite and not negative; give {name} >= 0")
    return given


def positive(name: str, value: float) -> float:
    """Return a number after checking that it is finite and positive."""
    given = number(value, name)
    if not (np.isfinite(given) and given > 0):
        raise ValueError(f"{name} = {value}: it must be finite and positive; give {name} > 0")
    return given


def generator(seed) -> np.random.Generator:
    """Return the generator of a seed, or the one that was given."""
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise type(error)(f"seed = {seed!r}: give an integer of at least 0, or a numpy Generator") from None
