"""One Runge-Kutta step with frozen masks and sliding kinks."""

import math
from dataclasses import dataclass

import numpy as np

from gradflow.kinks.look import ALONE, Step
from gradflow.kinks.slide import Point


@dataclass(frozen=True)
class Trial:
    """A step: its dense output, state and velocity at the end, error in units of the tolerance, inner stages."""

    step: Step
    theta: np.ndarray
    end: Point
    error: float
    hints: list

    @property
    def finite(self) -> bool:
        """Whether error and objective are finite."""
        return math.isfinite(self.error + self.end.value)


def try_step(run, length) -> Trial:
    """Step of the given length from the place of the run."""
    found = run.compiled and run.compiled.step(run, length)
    if not found:
        return _interpreted_step(run, length)
    return _trial(run, *found)


def _trial(run, step, y_new, points, error):
    """A compiled step as a trial."""
    pair = run.pair
    inner = range(1, pair.stages) if len(points) > 1 else ()
    hints = [(float(pair.C[j]), points[j]) for j in inner if pair.C[j] < 1.0]
    return Trial(step, y_new, points[-1], error, hints)


def follow(run, limits) -> tuple[int, Trial | None]:
    """Steps and events for as long as compiled code knows what to do: why it stopped, and the step in doubt."""
    if not run.compiled or not run.finite:
        return ALONE, None
    reason, trial = run.compiled.follow(run, (*limits, run.most_events))
    return reason, None if trial is None else _trial(run, *trial)


def _interpreted_step(run, length) -> Trial:
    """The same in Python: for other flows, and where normals of sliding kinks are dependent."""
    pair, place, surface = run.pair, run.place, run.place.surface
    rows, y = pair.A.shape[0], place.theta
    stages = np.empty((rows, y.size))
    stages[0] = place.here.velocity
    hints, bend, y_new, end = [], None, y, place.here
    for j in range(1, rows):
        argument = y + length * (pair.A[j, :j] @ stages[:j])
        if j == pair.stages:
            if surface is not None and surface.curved and np.isfinite(argument).all():
                corrected = surface.restore(argument, place.sigma)
                bend, argument = corrected - argument, corrected
            y_new = argument
        at = run.evaluate(argument)
        stages[j] = at.velocity
        if j == pair.stages:
            end = at
        elif j < pair.stages and pair.C[j] < 1.0 and place.sliding.size:
            hints.append((float(pair.C[j]), at))
    step = Step(run.t, y, length, stages, run.powers, bend)
    return Trial(step, y_new, end, _error(run, stages, y, y_new, length), hints)


def _error(run, stages, y, y_new, length):
    """Root mean square of the estimated error over the tolerance; two estimates are joined as Hairer does."""
    scale = np.maximum(run.atol + run.rtol * np.maximum(np.abs(y), np.abs(y_new)), 1e-300)
    squares = [np.sum(((row @ stages[: row.size]) / scale) ** 2) for row in run.pair.E]
    if len(squares) == 1 or squares[0] == 0.0:
        return float(length * math.sqrt(squares[0] / y.size))
    return float(length * squares[0] / math.sqrt((squares[0] + 0.01 * squares[1]) * y.size))


def first_length(run) -> float:
    """Hairer's first step: an explicit Euler step probes the second derivative."""
    y, slope = run.place.theta, run.place.here.velocity
    scale = np.maximum(run.atol + run.rtol * np.abs(y), 1e-300)
    root = math.sqrt(y.size)
    size, speed = np.linalg.norm(y / scale) / root, np.linalg.norm(slope / scale) / root
    h = 1e-6 if size < 1e-5 or speed < 1e-5 else 0.01 * size / speed
    bend = np.linalg.norm((run.evaluate(y + h * slope).velocity - slope) / scale) / root / h
    if not np.isfinite(bend):
        return float(h)
    steep = max(speed, bend)
    guess = (0.01 / steep) ** (1.0 / run.pair.order) if steep > 1e-15 else max(1e-6, 1e-3 * h)
    return float(min(100.0 * h, guess))
