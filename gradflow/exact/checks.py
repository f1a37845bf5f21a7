"""Checks of the arguments of closed forms."""

import numbers

import numpy as np
from numpy.typing import ArrayLike


def times(t: ArrayLike) -> np.ndarray:
    """Return t as float64 after checking that every time is finite and not negative."""
    values = np.asarray(t, dtype=np.float64)
    if not (np.isfinite(values) & (values >= 0)).all():
        bad = values[~(np.isfinite(values) & (values >= 0))].flat[0]
        raise ValueError(f"t contains {bad}: times must be finite and not negative; give t >= 0")
    return values


def finite(name: str, value: ArrayLike) -> np.ndarray:
    """Return the value as float64 after checking that it is finite."""
    values = np.asarray(value, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} contains {values[~np.isfinite(values)].flat[0]}: give finite numbers")
    return values


def positive(name: str, value: ArrayLike) -> np.ndarray:
    """Return the value as float64 after checking that it is finite and positive."""
    values = finite(name, value)
    if not (values > 0).all():
        raise ValueError(f"{name} contains {values[values <= 0].flat[0]}: it must be positive; give {name} > 0")
    return values


def not_negative(name: str, value: ArrayLike) -> np.ndarray:
    """Return the value as float64 after checking that it is finite and not negative."""
    values = finite(name, value)
    if not (values >= 0).all():
        raise ValueError(f"{name} contains {values[values < 0].flat[0]}: it must not be negative; give {name} >= 0")
    return values


def count(name: str, value: int, minimum: int = 1) -> int:
    """Return an integer after checking that it is one and at least the minimum."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} = {value!r}: it must be an integer; give {name} >= {minimum}")
    if value < minimum:
        raise ValueError(f"{name} = {value}: it must be at least {minimum}; give {name} >= {minimum}")
    return int(value)


def samples(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs (n, d) and one target per sample (n,) after checking that they fit."""
    inputs, targets = finite("x", x), finite("y", y)
    if inputs.ndim != 2:
        raise ValueError(f"x has shape {inputs.shape}: it must hold one sample per row; give x of shape (n, d)")
    if targets.shape not in {(len(inputs),), (len(inputs), 1)}:
        raise ValueError(
            f"y has shape {targets.shape} for x of shape {inputs.shape}: there must be one target per row of x; "
            f"give y of shape ({len(inputs)},)"
        )
    return inputs, targets.reshape(-1)
