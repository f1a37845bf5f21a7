"""Compiled evaluations and steps of the plain flow with frozen masks, on the objects of a kinked run."""

from dataclasses import replace

import numpy as np

from gradflow.kinks.look import WRONG, Step
from gradflow.kinks.masked import ROUNDING
from gradflow.kinks.slide import RANK, Point

NONE = np.zeros(0, dtype=np.int64)
FLAT = np.zeros((0, 1))
SINGLE = (np.inf, np.inf, -np.inf, 0, -1)
"""Limits under which one step is tried and handed back."""


class Compiled:
    """The compiled functions of :mod:`gradflow.kinks.frozen` with the data of one network, pair and tolerance.

    No result comes back where the normals of the sliding kinks are dependent.
    """

    def __init__(self, network, pair, powers, lookout, rtol, atol):
        from gradflow.kinks import frozen

        self._frozen, self._network, self._pair = frozen, network, pair
        self._net = frozen.Net(network.layout, network.numbers, network.layers, network.low, network.gap, *network.tied)
        E = np.zeros((len(pair.E), pair.A.shape[0]))
        for target, row in zip(E, pair.E, strict=True):
            target[: row.size] = row
        atol = np.broadcast_to(np.asarray(atol, dtype=float), network.problem.size).copy()
        self._method = frozen.Method(
            np.ascontiguousarray(pair.A), pair.C, E, powers, int(pair.stages), pair.order, rtol, atol, RANK, ROUNDING
        )
        self._lookout = lookout

    def _sliding(self, surface):
        """Sliding kinks in the form that compiled code knows."""
        if surface is None:
            return self._frozen.Sliding(NONE, NONE, NONE, FLAT, FLAT, False, False)
        neurons = self._network.neurons[surface.kinks]
        if surface.curved:
            return self._frozen.Sliding(surface.kinks, neurons, NONE, FLAT, FLAT, True, surface.stacked)
        return self._frozen.Sliding(surface.kinks, neurons, *surface.projection, False, False)

    def point(self, theta, sigma, surface) -> Point | None:
        """Sliding velocity at theta."""
        m = 0 if surface is None else surface.kinks.size
        units, velocity, multipliers, attraction = np.empty((4, sigma.size)), np.empty(theta.size), *np.empty((2, m))
        value, independent = self._frozen.evaluate(
            self._net, self._sliding(surface), self._method, theta, sigma, units, velocity, multipliers, attraction
        )
        return Point(value, velocity, units[0], multipliers, attraction) if independent else None

    def step(self, run, length):
        """One step: dense output, state, points of the stages, error."""
        return self.stretch(run, SINGLE, length)[3]

    def _dense(self, t, y, length, stages, bend, surface):
        """Dense output of a step."""
        return Step(t, y, length, stages, self._method.powers, bend if surface is not None and surface.curved else None)

    def _points(self, value, z, stages, multipliers, attractions):
        """Points at the stages, the one at the end of the step last; the others only where kinks slide.

        Objective and pre-activations are those at the end.
        """
        last = self._method.stages
        return [
            Point(value, stages[j], z, multipliers[j], attractions[j])
            for j in range(0 if multipliers.size else last, last + 1)
        ]

    def _watch(self, place, single):
        """Sides to watch, and how; nothing is watched in a single step."""
        signs = place.sigma if single else self._lookout.signs(place)
        held = np.where(place.held, -1.0, 1.0)
        return self._frozen.Watch(signs, WRONG, held, *self._lookout.proof)

    def stretch(self, run, limits, length=None):
        """Step from the place of the run until something may have to be decided.

        Returns the number of accepted steps, the place after them, the dense output of the last of them (None if there
        is none), the step tried after it as (dense output, state, points, error) or None, and the step control.
        """
        place, surface = run.place, run.place.surface
        rows, size, m = self._pair.A.shape[0], place.theta.size, place.sliding.size
        stages, ends, bends, pulls = (
            np.empty((2, rows, size)),
            np.empty((2, size)),
            np.empty((2, size)),
            np.empty((2, m)),
        )
        units, multipliers, attractions = np.empty((4, place.sigma.size)), *np.empty((2, rows, m))
        stages[0, 0], pulls[0], pulls[1] = place.here.velocity, place.here.multipliers, place.here.attraction
        y, y_before, z = place.theta.copy(), place.theta.copy(), place.here.z.copy()
        now = np.array([run.t, length or run.h, run.error_before, place.here.value, 0.0, 0.0, 0.0, 0.0])
        counts = np.array([run.counts["gradients"], run.counts["accepted"]])
        tried = self._frozen.stretch(
            self._net, self._sliding(surface), self._method, self._watch(place, limits is SINGLE),
            self._frozen.Limits(*limits), place.sigma, now, counts, y, y_before, z, pulls, stages, bends, ends, units,
            multipliers, attractions,
        )  # fmt: skip
        t, h, error_before, value, t_before, last_length, found, error = now.tolist()
        taken = int(counts[1]) - run.counts["accepted"]
        run.counts["gradients"] = int(counts[0])
        own, trial, last = taken % 2, None, None
        if taken:
            last = self._dense(t_before, y_before, last_length, stages[1 - own], bends[1 - own], surface)
            place = replace(place, theta=y, here=Point(value, stages[own, 0], z, *pulls))
        if tried:
            points = self._points(found, units[0], stages[own], multipliers, attractions)
            trial = self._dense(t, y, h, stages[own], bends[own], surface), ends[own], points, error
        return taken, place, last, trial, (t, h, error_before)
