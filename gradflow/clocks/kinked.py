"""Kinks in the loss clocks: the differential inclusion of log L, followed across kinks and along them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gradflow.clocks.moment import Base
from gradflow.kinks.masked import LOSSES, MaskedNetwork, Pass
from gradflow.steppers.kinked import Kinked

LARGE_MARGIN = 30.0


class LogMaskedNetwork(MaskedNetwork):
    """Network with stored masks under the log of its loss."""

    def run(self, theta, sigma) -> Pass:
        """log L and its gradient: by a square loss whose residuals are the derivatives of log L in the outputs."""
        h = self.forward(theta, sigma)[2]
        at, outputs, inputs = int(self.weights_at[-1]), int(self.widths[-1]), int(self.widths[-2])
        f = (
            h[int(self.kinks_at[-2]) :].reshape(self.n, inputs)
            @ theta[at:][: outputs * inputs].reshape(outputs, inputs).T
        )
        if self.bias:
            f = f + theta[at + outputs * inputs :]
        value, slope = log_loss(self.problem.loss, f, self.problem.y)
        z, slopes, h, delta = np.empty((4, self.size))
        gradient, loss = np.empty(theta.size), (LOSSES["square"], 0.5, 0.0)
        targets = np.ascontiguousarray(f - slope)
        self.passes.gradient(theta, sigma, self.x, targets, *self._layout, *loss, z, slopes, h, delta, gradient)
        return Pass(value, gradient, z, slopes, h, delta)


def log_loss(loss, f, y) -> tuple[float, np.ndarray]:
    """Log of an exponential-type loss of outputs f (n, k), and its derivative in them."""
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


class KinkedBase(Base):
    """The flow of log L through kinks; between the ends of a step the descent is interpolated in log(1 + s)."""

    ends = None

    def look(self, tau, state, log_elapsed=np.nan):
        """Moment at a state; inside a step its descent is that of the step."""
        moment = super().look(tau, state, log_elapsed)
        if self.ends is None:
            return moment
        left, right = self.ends
        x0, x, x1 = (np.log1p(max(m.s, 0.0)) for m in (left, moment, right))
        share = float(np.clip((x - x0) / (x1 - x0), 0.0, 1.0)) if x1 > x0 else 1.0
        descent = (1.0 - share) * left.log_descent + share * right.log_descent
        return replace(moment, log_descent=descent, slopes=list(right.slopes))

    def between(self, left, right) -> None:
        """Take the ends of a step; the slope of the descent is that of the chord."""
        chord = -(right.log_descent - left.log_descent) / (right.s - left.s) if right.s > left.s else 0.0
        left.slopes[:], right.slopes[:] = [chord], [chord]
        self.ends = (left, right)


def log_kinked(problem, t, theta, *, rtol, atol, at_branch, pair) -> Kinked:
    """Stepper of the inclusion dtheta/dT in -d log L(theta)."""
    network = LogMaskedNetwork(problem)
    return Kinked(problem, t, theta, rtol=rtol, atol=atol, at_branch=at_branch, pair=pair, network=network)
