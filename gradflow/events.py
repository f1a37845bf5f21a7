"""Stops and crossings: functions whose zeros are located on the dense output of a run."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gradflow.arguments import flag, number, positive
from gradflow.status import Status


class Point:
    """A moment of a run as events see it: t, state, theta, and the objective and the speed when asked for."""

    def __init__(self, problem, dynamics, field, t, state, value=None, velocity=None):
        self.problem, self.dynamics, self.field = problem, dynamics, field
        self.t, self.state = t, state
        self._value, self._velocity = value, velocity
        self.gradients = 0

    @cached_property
    def theta(self) -> np.ndarray:
        """Parameters (P,) in the network's own coordinates."""
        return self.dynamics.unpack(self.problem, self.state)

    @property
    def value(self) -> float:
        """The objective, with every penalty."""
        self._evaluate()
        return self._value  # pyright: ignore[reportReturnType]

    @property
    def speed(self) -> float:
        """Norm of the state's time derivative."""
        self._evaluate()
        return float(np.linalg.norm(self._velocity))  # pyright: ignore[reportArgumentType, reportCallIssue]

    def _evaluate(self):
        if self._value is None or self._velocity is None:
            self._velocity = np.empty(self.state.size)
            self._value = self.field(self.t, np.ascontiguousarray(self.state), self._velocity)
            self.gradients += 1


@dataclass(frozen=True)
class Event:
    r"""A crossing of zero by a function, :math:`g(t, \theta(t)) = 0`, recorded with its time; it may end the run.

    Parameters
    ----------
    name : str
        Under which the crossings are recorded.
    function : callable (problem, t, theta) -> float
        Whose zero is located on the dense output.
    direction : {0, 1, -1}
        Count crossings upwards only (1), downwards only (-1), or both.
    terminal : bool
        Whether the run ends there.

    Examples
    --------
    >>> Event("half", lambda problem, t, theta: theta[0] - 0.5, terminal=True).name
    'half'
    """

    name: str
    function: Callable
    direction: int = 0
    terminal: bool = False
    status = Status.EVENT

    def __post_init__(self):
        if not callable(self.function):
            raise TypeError(f"event {self.name!r}: the function must be callable as f(problem, t, theta)")
        flag(self.terminal, "terminal")
        if self.direction not in (-1, 0, 1):
            raise ValueError(f"event {self.name!r}: direction = {self.direction} must be -1, 0 or 1")

    def measure(self, point: Point) -> float:
        """Value of the function at a point."""
        value = self.function(point.problem, point.t, point.theta)
        try:
            return float(value)
        except (TypeError, ValueError):
            raise TypeError(f"event {self.name!r}: the function returned {value!r}: must return a number") from None


@dataclass(frozen=True)
class LossBelow:
    r"""Stop when the objective (with every penalty) falls below a level, :math:`F < \mathrm{level}`.

    Parameters
    ----------
    level : float, optional
        The level, unless its logarithm is given.
    log10 : float, optional
        Its decimal logarithm.

    Examples
    --------
    >>> LossBelow(log10=-6).level
    1e-06
    """

    level: float | None = None
    log10: float | None = None
    name = "loss"
    direction = -1
    terminal = True
    status = Status.LOSS_BELOW

    def __post_init__(self):
        if (self.level is None) == (self.log10 is None):
            raise ValueError("LossBelow: give either the level or its log10")
        if self.level is None:
            object.__setattr__(self, "level", 10.0 ** number(self.log10, "log10"))
        if not np.isfinite(number(self.level, "level")):
            raise ValueError(f"LossBelow({self.level}): the level must be finite")
        if self.level < 0.0:  # pyright: ignore[reportOptionalOperand]
            raise ValueError(f"LossBelow({self.level}): no loss is negative; give a level of at least 0")

    def measure(self, point: Point) -> float:
        """Objective minus level."""
        return point.value - self.level  # pyright: ignore[reportOperatorIssue]


@dataclass(frozen=True)
class ExcessLossBelow:
    r"""Stop when the objective is less than `level` above a known minimum, :math:`F - F_{\min} < \mathrm{level}`.

    Parameters
    ----------
    level : float
        Excess, positive.
    minimum : float, optional
        The minimum of the objective, to be subtracted: levels below 1e-16 of it drown in rounding. Without it, the
        least-squares minimum of a linear network, and ``problem.excess_loss``, which subtracts nothing.

    Examples
    --------
    >>> ExcessLossBelow(1e-6, minimum=0.25).name
    'excess loss'
    """

    level: float
    minimum: float | None = None
    name = "excess loss"
    direction = -1
    terminal = True
    status = Status.LOSS_BELOW

    def __post_init__(self):
        minimum = 0.0 if self.minimum is None else number(self.minimum, "minimum")
        if not (number(self.level, "level") > 0 and np.isfinite(minimum)):
            raise ValueError(
                f"ExcessLossBelow({self.level}, {self.minimum}): level > 0 and a finite minimum are needed"
            )

    def measure(self, point: Point) -> float:
        """Objective minus minimum minus level."""
        if self.minimum is None:
            return point.problem.excess_loss(point.theta) - self.level
        return point.value - self.minimum - self.level


@dataclass(frozen=True)
class GradientBelow:
    r"""Stop when the state z is slow, :math:`|z'| < \mathrm{level}`; for the plain flow the gradient norm.

    A flow that is followed through kinks moves by the element of least norm of Clarke's subdifferential: its norm
    counts, which falls to 0 on a kink too, where the gradient with relu'(0) = 0 does not.

    Parameters
    ----------
    level : float
        Positive.

    Examples
    --------
    >>> GradientBelow(1e-8).status.name
    'GRADIENT_BELOW'
    """

    level: float
    name = "gradient"
    direction = -1
    terminal = True
    status = Status.GRADIENT_BELOW

    def __post_init__(self):
        positive(self.level, "level")

    def measure(self, point: Point) -> float:
        """Speed minus level."""
        return point.speed - self.level


@dataclass(frozen=True)
class Stationary:
    r"""Stop when the state z moves slowly for its size, :math:`|z'| < \mathrm{tolerance}\,|z|`.

    Parameters
    ----------
    tolerance : float
        Relative speed, positive.

    Examples
    --------
    >>> Stationary(1e-10).status.name
    'STATIONARY'
    """

    tolerance: float = 1e-10
    name = "stationary"
    direction = -1
    terminal = True
    status = Status.STATIONARY

    def __post_init__(self):
        positive(self.tolerance, "tolerance")

    def measure(self, point: Point) -> float:
        """Relative speed minus tolerance."""
        return point.speed - self.tolerance * float(np.linalg.norm(point.state))


@dataclass(frozen=True)
class Crossing:
    """A located event: its name, the time (infinite where it overflows) with its decimal logarithm, and theta there."""

    name: str
    t: float
    theta: np.ndarray
    log10_t: float = np.nan

    def __post_init__(self):
        if np.isnan(self.log10_t):
            with np.errstate(divide="ignore", invalid="ignore"):
                object.__setattr__(self, "log10_t", float(np.log10(self.t)))


class Raised(Exception):
    """An error out of a function of the caller: which function, what it said, and where."""

    def __init__(self, what: str, error: BaseException):
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        super().__init__(f"{what} raised {said} ({place.filename}, line {place.lineno}, in {place.name})")


@contextmanager
def guarded(event, t: float) -> Iterator[None]:
    """Within it an error out of an event is one with the event's name."""
    try:
        yield
    except Exception as error:
        raise Raised(f"event {event.name!r}, in the step that ends at t = {t:.6g},", error) from error


def crosses(event, before: float, after: float) -> bool:
    """Whether the function of an event passes zero in its direction from one value to the next."""
    down = before > 0 >= after
    up = before < 0 <= after
    return (down and event.direction <= 0) or (up and event.direction >= 0)


def locate(event, make_point: Callable[[float], Point], left: float, right: float) -> float:
    """Time in [left, right] where the function of an event passes zero, to the spacing of numbers (Brent's method)."""
    from scipy.optimize import brentq

    def value(t):
        return event.measure(make_point(t))

    if not value(left) * value(right) < 0.0:
        return right
    tolerance = max(4 * np.finfo(float).eps * max(abs(left), abs(right)), 1e-300)
    root = brentq(value, left, right, xtol=tolerance)
    return float(np.clip(root, left, right))  # pyright: ignore[reportArgumentType, reportCallIssue]
