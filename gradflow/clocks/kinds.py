"""The clocks: which variable a run is stepped in. Paths and limits do not depend on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradflow.arguments import positive
from gradflow.clocks.links import length_clock, log_time_clock, loss_clock


class Clock:
    """What the clocks share: a name, the link that scales the velocity, and how it reads a moment of a run."""

    name = ""
    by_descent = False
    exact_time = False

    def numbers(self, log_base: bool) -> list[float]:
        """Numbers of the link; `log_base`: the flow below runs over the log of its objective."""
        return []

    def reading(self, moment) -> float:
        """The clock's variable at a moment; 0 for a clock that is wound up where it begins."""
        return 0.0

    def tau_at(self, log_elapsed: float, begin: float) -> float:
        """The clock's variable at a time, where it knows it beforehand."""
        return np.inf

    def fall(self, left, right) -> float:
        """How far log L falls from one moment to a later one, as this clock counts it; by the loss itself in others."""
        return right.s - left.s

    def __str__(self):
        return self.name


@dataclass(frozen=True)
class Time(Clock):
    r"""Physical time t: the flow as it is written, :math:`\theta' = -\nabla F`.

    Parameters
    ----------
    shown : clock, optional
        The clock that was asked for, where its steps are taken in t because kinks are followed.

    Examples
    --------
    >>> Time().name
    'time'
    """

    shown: Clock | None = None
    name = "time"
    exact_time = True

    def __str__(self):
        return self.name if self.shown is None else str(self.shown)

    def log_elapsed(self, tau: float) -> float:
        """Log of the physical time since the start."""
        return float(np.log(tau)) if tau > 0.0 else -np.inf

    def tau_at(self, log_elapsed: float, begin: float) -> float:
        """The clock's variable at a time, both in logs; the clock is wound up at `begin`."""
        return float(np.exp(log_difference(log_elapsed, begin)))

    def log_rate(self, tau, moment) -> float:
        """log(dt/dtau)."""
        return 0.0


@dataclass(frozen=True)
class LogTime(Clock):
    r"""Logarithm of time :math:`\sigma = \log(1 + t/t_0)`, for algebraic tails and long horizons; t stays exact.

    Parameters
    ----------
    t0 : float
        Unit of time, positive.

    Examples
    --------
    >>> LogTime(t0=2.0).name
    'log_time'
    """

    t0: float = 1.0
    name = "log_time"
    exact_time = True
    link = staticmethod(log_time_clock)

    def __post_init__(self):
        positive(self.t0, "t0")

    def numbers(self, log_base: bool) -> list[float]:
        """log t0, and whether the value below is a logarithm."""
        return [float(np.log(self.t0)), float(log_base)]

    def log_elapsed(self, tau: float) -> float:
        """log(t0 expm1(sigma))."""
        if tau <= 0.0:
            return -np.inf
        return float(np.log(self.t0) + (np.log(np.expm1(tau)) if tau < 30.0 else tau + np.log1p(-np.exp(-tau))))

    def tau_at(self, log_elapsed: float, begin: float) -> float:
        """log(1 + t/t0) at a time, both in logs; the clock is wound up at `begin`."""
        return float(np.logaddexp(0.0, log_difference(log_elapsed, begin) - np.log(self.t0)))

    def log_rate(self, tau, moment) -> float:
        """log(t0 + t)."""
        return float(np.log(self.t0) + tau)


@dataclass(frozen=True)
class Loss(Clock):
    r"""Decades of loss, :math:`s = \log(L_0/L)`, in which :math:`d\log L/ds = -1` exactly.

    Examples
    --------
    >>> Loss().name
    'loss'
    """

    name = "loss"
    by_descent = True
    link = staticmethod(loss_clock)

    def numbers(self, log_base: bool) -> list[float]:
        """0: the variable is s itself."""
        return [0.0]

    def reading(self, moment) -> float:
        """s."""
        return moment.s

    def fall(self, left, right) -> float:
        """The clock's own reading."""
        return right.tau - left.tau

    def log_rate(self, tau, moment) -> float:
        """log(dt/ds) = -log(descent) - log L."""
        return -moment.log_descent - moment.log_loss


@dataclass(frozen=True)
class LogLoss(Clock):
    r"""The variable :math:`\log(1 + s)`, :math:`s = \log(L_0/L)`: the clock of exponential tails.

    Near the limit the weights grow like a power of s, so that a step can cover a factor of log(1/L).

    Examples
    --------
    >>> LogLoss().name
    'log_loss'
    """

    name = "log_loss"
    by_descent = True
    link = staticmethod(loss_clock)

    def numbers(self, log_base: bool) -> list[float]:
        """1: the variable is log(1 + s)."""
        return [1.0]

    def reading(self, moment) -> float:
        """log(1 + s)."""
        return float(np.log1p(max(moment.s, 0.0)))

    def fall(self, left, right) -> float:
        """The clock's own reading."""
        return float(np.exp(left.tau) * np.expm1(right.tau - left.tau))

    def log_rate(self, tau, moment) -> float:
        """log(dt/dtau)."""
        return tau - moment.log_descent - moment.log_loss


@dataclass(frozen=True)
class ArcLength(Clock):
    r"""Arc length of the path of the state, :math:`dr = |d\theta|`.

    In the literature "normalised gradient flow" sometimes means this clock.

    Examples
    --------
    >>> ArcLength().name
    'arc'
    """

    name = "arc"
    link = staticmethod(length_clock)

    def numbers(self, log_base: bool) -> list[float]:
        """0: the length is not relative."""
        return [0.0]

    def log_rate(self, tau, moment) -> float:
        """log(dt/dr)."""
        return -moment.log_speed - moment.log_loss


@dataclass(frozen=True)
class Relative(Clock):
    r"""Length relative to the size of the weights, :math:`dr = |d\theta|/|\theta|`: the clock of the first plateau.

    Wrong for later plateaus, where fast directions are at rest and the gradient is their rounding noise.

    Parameters
    ----------
    log10_scale : float
        The start is theta0 times 10^log10_scale, which may be far below the least float, as in 1e-1000: for the plain
        flow of a homogeneous network.

    Examples
    --------
    >>> Relative().name
    'relative'
    """

    log10_scale: float = 0.0
    name = "relative"
    link = staticmethod(length_clock)

    def numbers(self, log_base: bool) -> list[float]:
        """1: the length is relative."""
        return [1.0]

    def log_rate(self, tau, moment) -> float:
        """log(dt/dr)."""
        return moment.log_size - moment.log_speed - moment.log_loss


@dataclass(frozen=True)
class Normalised(Clock):
    r"""The variable :math:`dT = L\,dt` in which the plain flow is that of log L, with a symmetric Jacobian.

    The implicit steps of a loss clock are taken in it; `shown` is the clock that was asked for.
    """

    shown: Clock
    name = "normalised"
    by_descent = True

    def __str__(self):
        return str(self.shown)

    def log_rate(self, tau, moment) -> float:
        """log(dt/dT)."""
        return -moment.log_loss


CLOCKS = {kind.name: kind for kind in (Time, LogTime, LogLoss, Loss, Relative, ArcLength)}


def checked_clock(clock) -> Clock | str:
    """A clock as an object, or "auto"; or the error that lists the known names."""
    if isinstance(clock, Clock) or (isinstance(clock, str) and clock == "auto"):
        return clock
    if clock not in CLOCKS:
        raise ValueError(f"clock = {clock!r}: unknown; choose one of auto, {', '.join(CLOCKS)}, or a clock object")
    return CLOCKS[clock]()


def log_difference(later: float, earlier: float) -> float:
    """log(e^later - e^earlier)."""
    if not later > earlier:
        return -np.inf
    return float(later + np.log(-np.expm1(earlier - later)))
