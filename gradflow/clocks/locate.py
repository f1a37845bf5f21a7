"""Places within one accepted step of a clocked run: targets, saves, events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from gradflow.clocks.targets import LN10
from gradflow.events import Crossing, Point, crosses, guarded


class View:
    """The last accepted step: moments at any of its times, each with its physical time."""

    def __init__(self, base, interval, dense):
        self.base, self.interval, self._dense = base, interval, dense

    @property
    def left(self):
        """Moment at which the step begins."""
        return self.interval.left

    @property
    def right(self):
        """Moment at which the step ends."""
        return self.interval.right

    def look(self, tau: float):
        """Moment at a place of the step; its time is left open."""
        if tau >= self.right.tau:
            return self.right
        return self.base.look(tau, self._dense(tau)) if tau > self.left.tau else self.left

    def timed(self, moment):
        """The moment with its time."""
        if moment is self.left or moment is self.right:
            return moment
        return self.interval.timed(moment)

    def find(self, target):
        """Moment at which a target is met."""
        if target.kind == "s":
            return self.timed(self._find_s(target.value))
        tau = self.interval.tau_at_time(target.value)
        if tau is None:
            tau = self._find_s(self.interval.s_at_time(target.value)).tau
        return replace(self.timed(self.look(tau)), log_elapsed=target.value)

    def _find_s(self, s: float):
        """Moment with a given s, by the secant within shrinking bounds."""
        a, b = self.left, self.right
        if not b.s > a.s or s >= b.s:
            return b
        small = 1e-13 * max(1.0, abs(s))
        moment, fraction = b, (s - a.s) / (b.s - a.s)
        for count in range(40):
            tau = a.tau + fraction * (b.tau - a.tau)
            if not a.tau < tau < b.tau:
                return min(a, b, key=lambda end: abs(end.s - s))
            moment = self.look(tau)
            if abs(moment.s - s) <= small:
                break
            a, b = (moment, b) if moment.s < s else (a, moment)
            fraction = 0.5 if count % 4 == 3 else float(np.clip((s - a.s) / (b.s - a.s), 1e-6, 1.0 - 1e-6))
        return moment


def point_of(march, phase, moment) -> Point:
    """A moment as events see it."""
    with np.errstate(all="ignore"):
        value = float(np.exp(moment.log_loss))
        elapsed = march.plan.t_start + float(np.exp(moment.log_elapsed))
    state, velocity = march.main_state(phase, moment), np.array([moment.speed])
    return Point(march.plan.problem, march.plan.dynamics, None, elapsed, state, value, velocity)


def first_event(march, phase, view) -> Any:
    """Crossings of the events in a step up to the first terminal one: (moment, status) or None, and the crossings."""
    found = []
    for index, event in enumerate(march.plan.events):
        point, before = point_of(march, phase, view.right), march.readings[index]
        with guarded(event, point.t):
            value = event.measure(point)
            if crosses(event, before, value):
                found.append((_zero_of(march, phase, view, event, before, value), event))
        march.readings[index] = value
    found.sort(key=lambda pair: pair[0].tau)
    crossings = []
    for moment, event in found:
        point = point_of(march, phase, moment)
        far = march.plan.t_start == 0.0 or not np.isfinite(point.t)
        log10_t = moment.log_elapsed / LN10 if far else np.nan
        crossings.append((moment.tau, Crossing(event.name, point.t, np.array(point.theta), log10_t)))
        if event.terminal:
            return (moment, event.status), crossings
    return None, crossings


def _zero_of(march, phase, view, event, before, after):
    """Moment at which the function of an event passes zero, by the secant within shrinking bounds."""
    a, b, fa, fb = view.left, view.right, before, after
    for count in range(60):
        fraction = 0.5 if count % 3 == 2 else float(np.clip(fa / (fa - fb), 1e-3, 1.0 - 1e-3))
        tau = a.tau + fraction * (b.tau - a.tau)
        if not a.tau < tau < b.tau or b.tau - a.tau <= 4e-16 * abs(b.tau):
            break
        moment = view.timed(view.look(tau))
        value = event.measure(point_of(march, phase, moment))
        if (value > 0.0) == (fa > 0.0) and value != 0.0:
            a, fa = moment, value
        else:
            b, fb = moment, value
    return b
