"""Kinks in the clocks of loss and length: the inclusion of log L, followed across kinks and along them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gradflow.clocks.kinds import Normalised
from gradflow.clocks.moment import Base, Moment, log_norm, moved
from gradflow.kinks.masked import LOSSES, MaskedNetwork, Pass
from gradflow.kinks.slide import point
from gradflow.kinks.wired import WiredNetwork, is_wired
from gradflow.steppers.kinked import Kinked
from gradflow.steppers.kinked_stiff import KinkedStiff

LARGE_MARGIN = 30.0


class OfLogLoss(MaskedNetwork):
    """Network with stored masks under the log of its loss."""

    in_time = False

    def __init__(self, problem):
        super().__init__(problem)
        passes = self.passes
        self.layout[passes.LOSS] = LOSSES["square"]
        self.numbers[[passes.FACTOR, passes.DECAY]] = 0.5, 0.0

    def run(self, theta, sigma) -> Pass:
        """log L and its gradient: by a square loss whose residuals are the derivatives of log L in the outputs."""
        f = self.outputs(theta, self.forward(theta, sigma)[2])
        value, slope = log_loss(self.problem.loss, f, self.problem.y)
        self.numbers[self.layout[self.passes.Y] :] = (f - slope).ravel()
        return replace(super().run(theta, sigma), value=value)


class WiredOfLogLoss(OfLogLoss, WiredNetwork):
    """The same of a network with skips or shared weights."""


def log_loss(loss, f, y) -> tuple[float, np.ndarray]:
    """Log of a loss of outputs f (n, k), and its derivative in them."""
    if loss.name == "square":
        top = np.abs(f - y).max()
        residual = (f - y) / top
        total = float(np.sum(residual**2))
        return float(np.log(loss.factor(len(f)) * total) + 2.0 * np.log(top)), 2.0 * residual / (total * top)
    if loss.name == "cross-entropy":
        own = (f * y).sum(1, keepdims=True)
        gaps = np.where(y > 0, -np.inf, f - own)
        top = gaps.max(1, keepdims=True)
        shares = np.exp(gaps - top)
        total = shares.sum(1, keepdims=True)
        margin, turn = -(top + np.log(total))[:, 0], y - shares / total
    else:
        margin, turn = (f * y)[:, 0], y
    if loss.name == "exponential":
        logs, slopes = -margin, -np.ones(margin.size)
    else:
        near, half = np.minimum(margin, LARGE_MARGIN), 0.5 * np.exp(-np.maximum(margin, LARGE_MARGIN))
        losses = np.logaddexp(0.0, -near)
        far = margin > LARGE_MARGIN
        logs = np.where(far, -margin - half, np.log(losses))
        slopes = np.where(far, half - 1.0, -np.exp(-np.logaddexp(0.0, near)) / losses)
    weights = np.exp(logs - logs.max())
    value = float(logs.max() + np.log(loss.factor(margin.size) * weights.sum()))
    return value, (weights / weights.sum() * slopes)[:, None] * turn


class PerLength(OfLogLoss):
    """The same per length of the path: the gradient of log L over its norm, times |theta| where `relative`."""

    relative = False

    def run(self, theta, sigma) -> Pass:
        """log L, and its gradient in units of length."""
        seen = super().run(theta, sigma)
        scale = np.exp((log_norm(theta) if self.relative else 0.0) - log_norm(seen.gradient))
        outer = None if seen.outer is None else scale * seen.outer
        return replace(seen, gradient=scale * seen.gradient, delta=scale * seen.delta, outer=outer)


class WiredPerLength(PerLength, WiredOfLogLoss):
    """The same of a network with skips or shared weights."""


class KinkedBase(Base):
    """The flow of log L under the masks of the last step; a length is that of the path without what holds it to kinks.

    Moments at both ends of a step belong to the masks of that step, so that the time in between is that of a smooth
    flow.
    """

    def __init__(self, problem, dynamics, log_start, counts):
        super().__init__(problem, dynamics)
        self.plain = False
        self.log_start, self.counts = log_start, counts
        self._network = of_log_loss(problem)
        self._pattern: tuple = (None, None)

    def look(self, tau, state, log_elapsed=np.nan) -> Moment:
        """Moment at a state of the last step; costs one gradient."""
        sigma, surface = self._pattern
        self.counts["gradients"] += 1
        seen = self._network.run(np.ascontiguousarray(state), sigma)
        here = point(self._network, state, sigma, surface, seen)
        moment = self.known(tau, state, here.value, here.velocity, log_elapsed)
        return replace(moment, log_speed=log_norm(seen.gradient), log_along=moment.log_speed)

    def ends(self, clock, left, stepper) -> tuple[Moment, Moment]:
        """Moments at both ends of a step, under its masks."""
        if stepper.pattern_before[0] is not self._pattern[0]:
            self._pattern = stepper.pattern_before
            left = moved(self.look(left.tau, left.state), left)
        whole = isinstance(clock, Normalised) and stepper.pattern[0] is self._pattern[0]
        return left, self.ended(clock, stepper) if whole else self.look(stepper.t, stepper.state)


class FollowedBase(Base):
    """A flow that is stepped in time through kinks: moments inside a step have the velocity of its path."""

    def __init__(self, base, stepper):
        vars(self).update(vars(base))
        self.stepper = stepper

    def look(self, tau, state, log_elapsed=np.nan) -> Moment:
        """Moment at a state of the last step; costs one gradient."""
        velocity = np.empty(state.size)
        self.counts["gradients"] += 1
        value = self.stepper.along_last_step(tau, state, velocity)
        with np.errstate(all="ignore"):
            if self.log:
                value, velocity = float(np.log(value)), velocity / value
        return self.known(tau, state, value, velocity, log_elapsed)


def of_log_loss(problem) -> OfLogLoss:
    """Masked network of a problem under the log of its loss."""
    return WiredOfLogLoss(problem) if is_wired(problem) else OfLogLoss(problem)


def kinked_stepper(problem, clock, t, theta, *, implicit: bool, **options) -> Kinked:
    """Stepper of the inclusion dtheta in -d log L(theta), in the variable of a loss clock or in one of length."""
    if isinstance(clock, Normalised):
        kind = KinkedStiff if implicit else Kinked
        return kind(problem, t, theta, network=of_log_loss(problem), **options)
    network = WiredPerLength(problem) if is_wired(problem) else PerLength(problem)
    network.relative = clock.name == "relative"
    return Kinked(problem, t, theta, network=network, **options)
