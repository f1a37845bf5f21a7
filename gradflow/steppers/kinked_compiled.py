"""Compiled evaluations and steps of the plain flow with frozen masks, on the objects of a kinked run."""

import numpy as np

from gradflow.kinks.look import Step
from gradflow.kinks.masked import ROUNDING
from gradflow.kinks.slide import RANK, Point

NONE = np.zeros(0, dtype=np.int64)
FLAT = np.zeros((0, 1))


class Compiled:
    """The compiled functions of :mod:`gradflow.kinks.frozen` with the data of one network, pair and tolerance.

    Both methods return None where the normals of the sliding kinks are dependent.
    """

    def __init__(self, network, pair, rtol, atol):
        from gradflow.kinks import frozen

        self._frozen, self._network, self._pair = frozen, network, pair
        self._net = frozen.Net(network.layout, network.numbers, network.layers, network.low, network.gap, *network.tied)
        E = np.zeros((len(pair.E), pair.A.shape[0]))
        for target, row in zip(E, pair.E, strict=True):
            target[: row.size] = row
        atol = np.broadcast_to(np.asarray(atol, dtype=float), network.problem.size).copy()
        self._method = frozen.Method(np.ascontiguousarray(pair.A), E, int(pair.stages), rtol, atol, RANK, ROUNDING)

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

    def step(self, t, place, length, powers):
        """Dense output, state, points of the stages, error of one step."""
        pair, surface, y = self._pair, place.surface, place.theta
        m, rows = place.sliding.size, pair.A.shape[0]
        stages, y_new, bend, units = (
            np.empty((rows, y.size)),
            np.empty(y.size),
            np.zeros(y.size),
            np.empty((4, place.sigma.size)),
        )
        multipliers, attractions = np.empty((2, rows, m))
        stages[0] = place.here.velocity
        value, error, independent = self._frozen.step(
            self._net, self._sliding(surface), self._method, y, place.sigma, length, stages, y_new, bend, units,
            multipliers, attractions,
        )  # fmt: skip
        if not independent:
            return None
        curved = surface is not None and surface.curved
        dense = Step(t, y, length, stages, powers, bend if curved else None)
        points = [Point(value, *row) for row in zip(stages, [units[0]] * rows, multipliers, attractions, strict=True)]
        return dense, y_new, points, error
