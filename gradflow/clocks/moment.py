"""Moments of a run in logs, and the flow over the log of its objective that they are read from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from gradflow.clocks import links
from gradflow.clocks.kinds import Normalised
from gradflow.dynamics.flow import GradientFlow
from gradflow.dynamics.normalized import LMFlow
from gradflow.dynamics.polar import PolarFlow
from gradflow.dynamics.weight_norm import WeightNormFlow
from gradflow.losses import CrossEntropy, Exponential, Logistic, Square
from gradflow.steppers.choose import make_field
from gradflow.steppers.field import Field

TAILED = (Exponential, Logistic, CrossEntropy)


@dataclass(frozen=True)
class Moment:
    """Where a run is: the clock's variable, the state, and everything that over- or underflows as a logarithm.

    `velocity` is dstate/dT with dT = L dt; `descent` is -d log L/dT. Times are counted from the start of the run
    (`log_elapsed`) and from the last kept moment (`log_since`); s is log(L_0/L), `s_counted` as the clock counts it.
    `log_along` is the log of the speed along sliding kinks, where `log_speed` is that without what holds it there.
    """

    tau: float
    state: np.ndarray
    log_loss: float
    s: float
    velocity: np.ndarray
    log_elapsed: float = -np.inf
    log_since: float = -np.inf
    s_counted: float = 0.0
    log_speed: float = np.nan
    log_size: float = np.nan
    log_descent: float = np.nan
    log_along: float = np.nan
    slopes: list = field(default_factory=list, compare=False)

    @property
    def speed(self) -> float:
        """Speed of the path in time."""
        with np.errstate(all="ignore"):
            return float(np.exp((self.log_speed if np.isnan(self.log_along) else self.log_along) + self.log_loss))


class Base:
    """A flow as the clocks take it: over the log of its objective where that exists, else in physical time."""

    def __init__(self, problem, dynamics):
        self.problem, self.dynamics = problem, dynamics
        self.log = has_logarithm(problem, dynamics)
        self.kernel = problem.log_kernel if self.log else problem.kernel
        self.field = make_field(problem, dynamics, self.kernel)
        self.descent = descent_of(dynamics) if self.log else None
        self.symmetric = plain(dynamics)
        self.plain = self.log and self.symmetric
        self.tailed = has_tail(problem, dynamics)
        self.log_start = np.nan
        self.counts = {"gradients": 0, "hessian_products": 0}

    def clocked(self, clock):
        """Field of the flow in the variable of a clock; its own work array."""
        if clock.name == "time":
            return make_field(self.problem, self.dynamics, self.problem.kernel)
        if isinstance(clock, Normalised):
            return make_field(self.problem, self.dynamics, self.kernel)
        return make_field(self.problem, _Clocked(self, clock), self.kernel)

    def start(self, state, log_elapsed=-np.inf) -> Moment:
        """First moment of a run; s is counted from it."""
        moment = self.look(0.0, np.array(state, dtype=np.float64), log_elapsed)
        self.log_start = moment.log_loss
        return replace(moment, s=0.0)

    def look(self, tau: float, state: np.ndarray, log_elapsed: float = np.nan) -> Moment:
        """Moment at a state; costs one gradient."""
        velocity = np.empty(state.size)
        self.counts["gradients"] += 1
        value = self.field(0.0, np.ascontiguousarray(state), velocity)
        return self.known(tau, state, value, velocity, log_elapsed)

    def known(self, tau, state, value, velocity, log_elapsed=np.nan) -> Moment:
        """Moment from the value and the velocity of the field at a state."""
        with np.errstate(all="ignore"):
            if not self.log:
                velocity = velocity / value
                value = float(np.log(value))
            log_speed = log_norm(velocity)
            return Moment(
                tau=tau,
                state=state,
                log_loss=value,
                s=self.log_start - value,
                velocity=velocity,
                log_elapsed=log_elapsed,
                log_speed=log_speed,
                log_size=log_norm(state),
                log_descent=self._log_descent(state, velocity),
            )

    def _log_descent(self, state, velocity) -> float:
        """log(-d log L/dT), in scaled numbers."""
        if self.descent is None:
            return np.nan
        top = float(np.abs(velocity).max(initial=0.0))
        if not 0.0 < top < np.inf:
            return -np.inf
        rhs = self.field.rhs
        scaled = self.descent(0.0, state, velocity / top, (), rhs.numbers, rhs.layout, rhs.work, rhs.coefficients)
        return float(np.log(scaled)) + 2.0 * float(np.log(top))

    def ended(self, clock, stepper) -> Moment:
        """Moment at the end of a step; free where the stepper's own formula knows it."""
        known = stepper.at_newest() if isinstance(clock, Normalised) and hasattr(stepper, "at_newest") else None
        if known is None:
            return self.unscaled(clock, stepper.t, stepper.state, stepper.value, stepper.velocity)
        value, velocity, acceleration = known
        moment = self.known(stepper.t, stepper.state, value, velocity)
        unit = velocity / np.exp(moment.log_speed)
        moment.slopes.append(-2.0 * float(unit @ acceleration) * float(np.exp(-3.0 * moment.log_speed)))
        return moment

    def ends(self, clock, left, stepper) -> tuple[Moment, Moment]:
        """Moments at both ends of the last step; the left one is known."""
        return left, self.ended(clock, stepper)

    def unscaled(self, clock, tau, state, value, velocity) -> Moment:
        """Moment from what a stepper knows in the variable of a clock; a gradient only where the clock hides it."""
        if clock.name == "time":
            with np.errstate(all="ignore"):
                log_loss = float(np.log(value)) if self.log else value
                return self.known(tau, state, log_loss, velocity / value if self.log else velocity)
        if isinstance(clock, Normalised):
            return self.known(tau, state, value, velocity)
        if clock.by_descent:
            with np.errstate(all="ignore"):
                unit = np.exp(tau) if clock.name == "log_loss" else 1.0
                log_scale = np.log(unit) - (2.0 * np.log(unit) - self._log_descent(state, velocity))
                return self.known(tau, state, value, velocity * np.exp(-log_scale))
        return self.look(tau, state)

    def theta(self, state):
        """Parameters at a state."""
        return self.dynamics.unpack(self.problem, state)

    def slope(self, moment: Moment) -> float:
        """d(-log descent)/ds at a moment: one Hessian-vector product, or two gradients for a flow that is not plain."""
        if not moment.slopes:
            with np.errstate(all="ignore"):
                moment.slopes.append(self._slope(moment))
        return moment.slopes[0]

    def _slope(self, moment) -> float:
        v, descent = moment.velocity, np.exp(moment.log_descent)
        if self.plain and self.kernel.product is not None:
            image, rhs = np.empty(v.size), self.field.rhs
            self.counts["hessian_products"] += 1
            self.kernel.product(moment.state, v, image, rhs.numbers, rhs.layout, rhs.work)
            return 2.0 * float(v @ image) / descent / descent
        step = 6e-6 * np.exp(moment.log_size - moment.log_speed)
        ahead, behind = (self.look(0.0, moment.state + sign * step * v) for sign in (1.0, -1.0))
        return -(ahead.log_descent - behind.log_descent) / (2.0 * step * descent)

    def hessian(self, state) -> np.ndarray:
        """Hessian of the log of the objective of the plain flow."""
        size, rhs = state.size, self.field.rhs
        columns = np.empty((size, size))
        state = np.ascontiguousarray(state)
        for row, direction in zip(columns, np.eye(size), strict=True):
            self.kernel.product(state, direction, row, rhs.numbers, rhs.layout, rhs.work)
        return 0.5 * (columns + columns.T)


class PolarBase(Base):
    """The plain flow of a homogeneous network near 0, in (log |theta|, theta/|theta|), for the relative clock."""

    def __init__(self, problem, dynamics, log_start):
        super().__init__(problem, dynamics)
        self.plain = self.symmetric = False
        self.degree = problem.network.degree
        self.floor = -25.0 * np.log(10.0) / self.degree
        self.log_start = log_start

    def clocked(self, clock):
        """Field in relative length."""
        return Field((links.polar_start,), self.kernel, [self.floor])

    def look(self, tau, state, log_elapsed=np.nan) -> Moment:
        """Moment at a state (log |theta|, direction); costs one gradient."""
        rho = max(state[0], self.floor)
        direction = state[1:] / np.linalg.norm(state[1:])
        seen = super().look(tau, np.exp(rho) * direction, log_elapsed)
        log_speed = seen.log_speed + (self.degree - 1.0) * (float(state[0]) - rho)
        return replace(seen, state=state, log_size=float(state[0]), log_speed=log_speed, log_descent=2.0 * log_speed)

    def unscaled(self, clock, tau, state, value, velocity) -> Moment:
        """Moment at a state."""
        return self.look(tau, state)

    def theta(self, state):
        """Parameters at a state; 0 where they underflow."""
        state = np.asarray(state)
        return np.exp(state[..., :1]) * state[..., 1:] / np.linalg.norm(state[..., 1:], axis=-1, keepdims=True)


def moved(moment: Moment, before: Moment) -> Moment:
    """A moment in other coordinates, with the times and the counts of the same moment in the old ones."""
    return replace(moment, log_elapsed=before.log_elapsed, log_since=before.log_since, s_counted=before.s_counted)


def polar_state(theta, log_scale: float) -> np.ndarray:
    """State (log |theta|, direction) of theta times a scale."""
    log_size = log_norm(theta)
    top = np.abs(theta).max()
    direction = theta / top
    return np.concatenate([[log_size + log_scale], direction / np.linalg.norm(direction)])


class _Clocked:
    """The links of a clock over those of a dynamics, as the maker of fields wants them."""

    def __init__(self, base: Base, clock):
        self.base, self.clock = base, clock
        self.compiled = base.dynamics.compiled

    def links(self, problem):
        """The clock, the descent where the clock asks for it, the links of the dynamics."""
        own = (self.clock.link, self.base.descent) if self.clock.by_descent else (self.clock.link,)
        return (*own, *self.base.dynamics.links(problem))

    def coefficients(self, problem):
        """Numbers of the clock, then those of the dynamics."""
        return np.concatenate([self.clock.numbers(self.base.log), self.base.dynamics.coefficients(problem)])


def plain(dynamics) -> bool:
    """Whether a flow is the plain one."""
    return isinstance(dynamics, GradientFlow) and dynamics.rates is None


def has_logarithm(problem, dynamics) -> bool:
    """Whether the flow can run over the log of its objective: known loss, no decay, velocity linear in the gradient."""
    known = type(problem.loss) in (*TAILED, Square) and problem.decay == 0.0
    return known and descent_of(dynamics) is not None and getattr(dynamics, "decay", 0.0) == 0.0


def has_tail(problem, dynamics) -> bool:
    """Whether the loss may fall for ever, with infimum 0 at infinity."""
    return has_logarithm(problem, dynamics) and type(problem.loss) in TAILED


def polar_serves(problem, dynamics) -> bool:
    """Whether (log |theta|, direction) can carry the flow: plain, of a homogeneous network that 0 does not fit."""
    served = plain(dynamics) and has_logarithm(problem, dynamics)
    pulled = not isinstance(problem.loss, Square) or bool(np.any(problem.y))
    return served and pulled and getattr(problem.network, "degree", None) is not None


def descent_of(dynamics):
    """The function that gives -d log L/dT from the velocity of a known flow; None for others."""
    if isinstance(dynamics, GradientFlow):
        return links.plain_descent if dynamics.rates is None else links.rated_descent
    if isinstance(dynamics, LMFlow):
        return links.plain_descent
    if isinstance(dynamics, WeightNormFlow):
        return links.weight_norm_descent
    if isinstance(dynamics, PolarFlow) and dynamics.compiled:
        return links.log_polar_descent if dynamics.log_directions else links.polar_descent
    return None


def log_norm(vector: np.ndarray) -> float:
    """Log of the Euclidean norm, without underflow; -inf for zero, infinity or NaN as they are."""
    top = float(np.abs(vector).max(initial=0.0))
    if not 0.0 < top < np.inf:
        return -np.inf if top == 0.0 else top
    return float(np.log(top) + 0.5 * np.log(np.sum((vector / top) ** 2)))
