"""Places on the way of a run in any of its variables: t, log10 t, the loss, its log10, s."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradflow.arguments import outside_torch, positive

LN10 = float(np.log(10.0))
VARIABLES = ("t", "log10_t", "loss", "log10_loss", "s")


@dataclass(frozen=True)
class At:
    """Values of one variable of a run."""

    variable: str
    values: tuple[float, ...]
    single: bool

    def __repr__(self):
        return f"at({self.variable}={self.values[0] if self.single else list(self.values)})"


@dataclass(frozen=True)
class Every:
    """Evenly spaced values of one variable of a run."""

    variable: str
    spacing: float

    def __repr__(self):
        return f"every({self.variable}={self.spacing:g})"


def at(**given) -> At:
    r"""Place, or places, in one variable of a run: where it ends, or what it saves.

    Parameters
    ----------
    **given : float or array_like (m,)
        One of t, log10_t, loss, log10_loss, s by name; :math:`s = \log(L_0/L)`, the fall of the log of the loss.

    Returns
    -------
    At
        The place, or places.

    Raises
    ------
    ValueError, TypeError
        If not exactly one variable is given, or its values are not finite numbers in the order of the run.

    Examples
    --------
    >>> at(log10_t=50)
    at(log10_t=50.0)
    >>> at(log10_loss=[-10, -100])
    at(log10_loss=[-10.0, -100.0])
    """
    variable, value = _one(given, "at")
    try:
        places = np.asarray(outside_torch(value), dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"at({variable}={value!r}): give a number or numbers") from None
    values = tuple(places.ravel().tolist())
    sign = -1.0 if "loss" in variable else 1.0
    if not values or not np.isfinite(values).all() or (np.diff(values) * sign <= 0).any():
        order = "decreasing" if sign < 0 else "increasing"
        raise ValueError(f"at({variable}={value!r}): must be finite and {order}, in the order of the run")
    if variable in ("t", "loss") and min(values) < 0.0 or variable == "loss" and min(values) == 0.0:
        raise ValueError(f"at({variable}={value!r}): must be {'positive' if variable == 'loss' else 'at least 0'}")
    return At(variable, values, places.ndim == 0)


def every(**given) -> Every:
    r"""Evenly spaced places in one variable of a run, to save at.

    Parameters
    ----------
    **given : float
        One of t, log10_t, log10_loss, s by name, with its positive spacing; :math:`s = \log(L_0/L)`.

    Returns
    -------
    Every
        The places.

    Examples
    --------
    >>> every(log10_loss=10)
    every(log10_loss=10)
    """
    variable, value = _one(given, "every")
    if variable == "loss":
        raise ValueError("every(loss=...): even spacing in the loss itself never ends; give log10_loss")
    return Every(variable, positive(value, f"every: spacing of {variable}"))


def _one(given: dict, name: str):
    if len(given) != 1 or next(iter(given)) not in VARIABLES:
        raise ValueError(f"{name}({', '.join(given)}): give exactly one of {', '.join(VARIABLES)}")
    return next(iter(given.items()))


@dataclass(frozen=True)
class Target:
    """A place in one of the two variables that a run is followed in: log t since the start, or s."""

    kind: str
    value: float
    early: bool = False

    @property
    def before_start(self) -> bool:
        """Whether it lies before the start of the run."""
        return self.early or (self.kind == "s" and self.value < 0.0)

    def passed(self, moment) -> bool:
        """Whether a moment is not before this place."""
        return self.reading(moment) >= self.value

    def reading(self, moment) -> float:
        """The variable at a moment."""
        return moment.log_elapsed if self.kind == "log_elapsed" else moment.s


def target(variable: str, value: float, log_start: float, t_start: float) -> Target:
    """The place of a value: `log_start` is the log of the loss at the start."""
    if variable == "s":
        return Target("s", value)
    if variable == "loss":
        return Target("s", log_start - float(np.log(value)))
    if variable == "log10_loss":
        return Target("s", log_start - value * LN10)
    if variable == "log10_t" and t_start == 0.0:
        return Target("log_elapsed", value * LN10)
    elapsed = (value if variable == "t" else 10.0**value) - t_start
    return Target("log_elapsed", float(np.log(elapsed)) if elapsed > 0.0 else -np.inf, elapsed < 0.0)


class Series:
    """Targets in one variable, in the order of the run, given or evenly spaced without end."""

    def __init__(self, given: At | Every, log_start: float, t_start: float):
        self._make = lambda value: target(given.variable, value, log_start, t_start)
        self._given, self._count = given, 0
        if isinstance(given, Every):
            first = {"t": t_start, "s": 0.0, "log10_loss": log_start / LN10}.get(given.variable, -np.inf)
            sign = -1.0 if given.variable == "log10_loss" else 1.0
            self._first = np.floor(sign * first / given.spacing) + 1.0 if np.isfinite(first) else 0.0
            self._sign = sign
        self.next = self._value()

    def _value(self) -> Target | None:
        given = self._given
        if isinstance(given, At):
            return self._make(given.values[self._count]) if self._count < len(given.values) else None
        return self._make(self._sign * (self._first + self._count) * given.spacing)

    def advance(self) -> None:
        """Go to the next target."""
        self._count += 1
        self.next = self._value()


def series(save_at, log_start: float, t_start: float) -> list[Series]:
    """The series of targets of `save_at` as at(...), every(...), times, or several of them."""
    if isinstance(save_at, At | Every):
        return [Series(save_at, log_start, t_start)]
    if isinstance(save_at, Sequence) and save_at and all(isinstance(one, At | Every) for one in save_at):
        return [Series(one, log_start, t_start) for one in save_at]
    return [Series(at(t=save_at), log_start, t_start)]
