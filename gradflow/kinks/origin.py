r"""Neurons of the first layer whose incoming weights are 0: whether they stay there, and by which ways they leave.

For small w the loss is :math:`\varphi(w) = -p\cdot w + \sum_a d_a\,(x_a\cdot w)_+` up to a constant, homogeneous of
degree 1. The origin holds as long as :math:`\varphi \ge 0`; else descent leaves along a local minimum of phi on the
unit sphere. A function that is linear on each cone of an arrangement is not negative if it is so on its rays.
"""

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from scipy.optimize import lsq_linear, nnls

from gradflow.kinks.corner import Corner, Way, forces, raised, same, way
from gradflow.kinks.decide import SLIDE, Trial, decide, no_leave

MOST_RAYS = 20_000
"""Rays that are looked at; of more, a sample is taken."""

MOST_STARTS = 60
"""Rays, those along which the loss falls most, from which ways are sought."""

SECTORS = 500
"""Directions in which ways that lie inside a sector are sought, where kinks lie above others."""

LEVEL = 1e-10
"""Slope along a ray, relative to the forces that balance there, that counts as 0."""


@dataclass(frozen=True)
class Origin:
    """Kinks of a neuron at the origin, their samples x (m, D), attractions d, pull p, the rays (r, D), the matrix by
    which w follows a force (D, D), and what kinks gain by those below (m, m).
    """

    kinks: np.ndarray
    rows: np.ndarray
    attraction: np.ndarray
    pull: np.ndarray
    rays: np.ndarray
    mobility: np.ndarray
    feed: np.ndarray

    def corner(self) -> Corner:
        """The same as a corner."""
        rows = self.rows @ self.mobility
        return Corner(self.kinks, rows @ self.pull, rows @ self.rows.T, self.attraction, self.feed)

    def along(self, direction) -> np.ndarray:
        """Sides of the kinks in a direction (D,), and those that slide along it."""
        along = raised(self.corner(), (self.rows @ direction)[None])[0]
        level = 1e-9 * (np.linalg.norm(self.rows, axis=1) + np.abs(self.feed).sum(1))
        return np.where(np.abs(along) <= level, SLIDE, along > 0.0).astype(np.int64)

    def idle(self) -> np.ndarray | None:
        """Status of the kinks in a cone in which nothing moves, if one begins here: some are off, the others held."""
        still = self.rays[np.abs(self.slopes()) <= LEVEL]
        inside = still.sum(axis=0)
        if not len(still) or abs(self._values(inside[None])[0]) > LEVEL * self.size * max(len(still), 1):
            return None
        return self.along(inside)

    @property
    def size(self) -> float:
        """Size of the forces that balance at the corner."""
        return float(np.abs(self.attraction) @ np.linalg.norm(self.rows, axis=1) + np.linalg.norm(self.pull))

    def _values(self, directions) -> np.ndarray:
        """phi in some directions."""
        z = raised(self.corner(), directions @ self.rows.T)
        return np.maximum(z, 0.0) @ self.attraction - directions @ self.pull

    def rest(self) -> float:
        """Distance of 0 from Clarke's subdifferential of phi at 0, relative to the forces."""
        pushes = self.attraction[:, None] * self.rows
        if not self.feed.any():
            found = lsq_linear(pushes.T, self.pull, (0.0, 1.0), tol=1e-14)
            return float(np.sqrt(2.0 * found.cost)) / max(float(np.abs(pushes).sum()), 1e-300)
        around = np.random.default_rng(0).normal(size=(SECTORS, self.pull.size))
        slopes = forces(self.corner(), around @ self.rows.T) @ self.rows - self.pull
        slopes = np.unique(np.round(slopes / np.abs(slopes).max(), 12), axis=0)
        system = np.vstack([slopes.T, np.ones(len(slopes))])
        return float(nnls(system, np.eye(len(system))[-1])[1])

    def slopes(self) -> np.ndarray:
        """The values of phi along the rays, relative to the forces."""
        return self._values(self.rays) / max(self.size, 1e-300)


def kinks_of(network, neuron) -> np.ndarray:
    """Kinks of a neuron of the first layer."""
    return np.flatnonzero(network.live & (network.layers == 0) & (network.neurons == neuron))


def origin_at(network, theta, sigma, neuron) -> Origin:
    """The loss near the origin of a neuron whose incoming weights are 0; costs one gradient."""
    kinks = kinks_of(network, neuron)
    sigma = sigma.copy()
    network.set_masks(sigma, kinks, 0.0)
    run = network.run(theta, sigma)
    rows = network.extended_samples(network.samples[kinks])
    pull = -run.gradient[network.first_entries[neuron]]
    key = b"rays" + network.samples[kinks].tobytes()
    if key not in network.bases:
        network.bases[key] = rays_of(rows)
    return Origin(kinks, rows, network.attraction(run.delta, kinks), pull, network.bases[key], *_free(rows))


def _free(rows):
    """Nothing but the kinks' own forces: the unit matrix, and no kinks below."""
    return np.eye(rows.shape[1]), np.zeros((len(rows), len(rows)))


def rays_of(rows) -> np.ndarray:
    """Unit vectors (r, D), both directions, along which D - 1 independent ones of the planes x . w = 0 meet."""
    inputs = rows.shape[1]
    if inputs == 1:
        return np.array([[1.0], [-1.0]])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    unit = unit[np.unique(np.round(unit * _sign(unit), 10), axis=0, return_index=True)[1]]
    m = len(unit)
    if inputs == 2:
        rays = np.column_stack([-unit[:, 1], unit[:, 0]])
        return np.concatenate([rays, -rays])
    if comb(m, inputs - 1) <= MOST_RAYS:
        chosen = np.array(list(combinations(range(m), inputs - 1)))
    else:
        rng = np.random.default_rng(0)
        chosen = np.argsort(rng.random((MOST_RAYS, m)), axis=1)[:, : inputs - 1]
    _, values, right = np.linalg.svd(unit[chosen])
    rays = right[values[:, -1] > 1e-9, -1]
    return np.concatenate([rays, -rays])


def meets(network, theta, kinks) -> list[int]:
    """Neurons of some kinks that are at the origin of the space that their samples span, which is all of it."""
    if not network.flat:
        return []
    found = []
    for neuron in np.unique(network.neurons[kinks]):
        own = kinks[network.neurons[kinks] == neuron]
        weights, rows = theta[network.first_entries[neuron]], network.extended_samples(network.samples[own])
        if len(rows) < rows.shape[1]:
            continue
        scale = max(float(np.abs(theta).max()), 1e-300)
        if np.abs(weights).max() <= 1e-9 * scale and np.linalg.matrix_rank(rows, 1e-10) == rows.shape[1]:
            found.append(int(neuron))
    return found


def _sign(unit):
    """Sign of the largest entry of each row."""
    return np.sign(np.take_along_axis(unit, np.argmax(np.abs(unit), axis=1)[:, None], axis=1))


def independent(network, kinks, first) -> np.ndarray:
    """As many kinks of a neuron as it has weights whose samples are independent, those in `first` before others."""
    kinks = kinks[np.argsort(~network.among(kinks, first), kind="stable")]
    rows = network.extended_samples(network.samples[kinks])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    chosen, basis = [], np.zeros((0, rows.shape[1]))
    for kink, row in zip(kinks, rows, strict=True):
        for _ in range(2):
            row = row - basis.T @ (basis @ row)
        length = float(np.linalg.norm(row))
        if length > 1e-6 and len(chosen) < rows.shape[1]:
            chosen.append(kink)
            basis = np.vstack([basis, row / length])
    return np.array(chosen, dtype=np.int64)


def ways_out(origin) -> list[Way]:
    """The ways by which descent may leave, steepest first."""
    slopes, corner, found = origin.slopes(), origin.corner(), []
    for ray in np.argsort(slopes)[:MOST_STARTS]:
        if slopes[ray] > -LEVEL:
            break
        one = _settled(corner, origin.along(origin.rays[ray]))
        if one is not None and not any(same(one, other) for other in found):
            found.append(one)
    if corner.feed.any():
        for direction in np.random.default_rng(0).normal(size=(SECTORS, origin.pull.size)):
            one = way(corner, origin.along(direction))
            if one.agrees and not any(same(one, other) for other in found):
                found.append(one)
    return sorted(found, key=lambda one: -float(np.linalg.norm(one.motion)))


def _settled(corner, status) -> Way | None:
    """The way near a ray; where kinks lie above others, that along it only."""
    if not corner.feed.any():
        status, _ = decide(lambda choice: _trial(corner, choice), status, no_leave(status.size))
    if status is None:
        return None
    found = way(corner, status)
    return found if np.abs(found.motion).max() > 0.0 and (found.agrees or not corner.feed.any()) else None


def _trial(corner, status) -> Trial:
    """What a choice of sides and sliding kinks leads to."""
    sliding = status == SLIDE
    force = np.where(status == 1, corner.attraction, 0.0)
    plain = corner.pull - corner.gram @ force
    gram = corner.gram[np.ix_(sliding, sliding)]
    force[sliding] = np.linalg.lstsq(gram, plain[sliding], rcond=1e-12)[0]
    speed = plain - corner.gram[:, sliding] @ force[sliding]
    lengths = np.sqrt(np.diag(corner.gram))
    tie = 1e-9 * np.maximum(np.abs(corner.pull), np.abs(corner.attraction) * lengths**2)
    return Trial(np.where(sliding, force, 0.0), corner.attraction, speed, tie)
