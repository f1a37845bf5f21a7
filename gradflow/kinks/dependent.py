r"""Kinks above the first layer that sliding ones keep at 0, since their normals depend on those.

Samples without an active unit below see one input, the biases: their kinks are one kink, until a unit below wakes.
In general :math:`n_a = \sum_b C_{ab} n_b` over sliding kinks b. With the masks of a group of such kinks, and of sliding
ones below them, at 0, with the coordinates :math:`y_b = n_b\cdot w` and the multipliers :math:`\lambda_b`, the loss is

.. math:: \varphi(y) = -\lambda\cdot y + \sum_a D_a (z_a)_+, \qquad z = C y + W (z)_+

near the corner. It is linear on cones, and what is said of neurons at the origin holds here too.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from gradflow.kinks.corner import feeds
from gradflow.kinks.origin import Origin, rays_of
from gradflow.kinks.slide import solve_gram

PART = 1e-6
"""Coefficient of a normal, relative to the largest, that counts as none."""

MOST_BELOW = 6
"""Kinks below others whose sides are all tried."""


@dataclass(frozen=True)
class Group:
    """Sliding kinks, and those that they keep at 0."""

    sliding: np.ndarray
    kept: np.ndarray

    @property
    def kinks(self) -> np.ndarray:
        """All kinks of the group."""
        return np.concatenate([self.sliding, self.kept])


def groups(network, place) -> list[Group]:
    """The groups of a place: kept kinks, those that they depend on, and what lies above or below of these."""
    if network.flat or not place.shadowed.size or not place.sliding.size:
        return []
    every, m = np.concatenate([place.sliding, place.shadowed]), place.sliding.size
    sigma = place.sigma.copy()
    network.set_masks(sigma, every, 0.0)
    _, slope, h = network.forward(place.theta, sigma)
    normals = network.normals(place.theta, slope, h, every)
    base, parts = _coordinates(normals)
    linked = feeds(network, place.theta, slope, h, every, normals) != 0.0
    linked[:, base] |= np.abs(parts) > PART * np.abs(parts).max(axis=1, initial=0.0, keepdims=True)
    label = np.arange(every.size)
    for a, b in np.argwhere(linked):
        label[label == label[a]] = label[b]
    found = [np.flatnonzero(label == name) for name in np.unique(label[m:])]
    return [Group(every[own[own < m]], every[own[own >= m]]) for own in found if (own < m).any()]


def normals_at(network, place, kinks) -> np.ndarray:
    """Normals of kinks under masks 0 of all of them."""
    sigma = place.sigma.copy()
    network.set_masks(sigma, kinks, 0.0)
    _, slope, h = network.forward(place.theta, sigma)
    return network.normals(place.theta, slope, h, kinks)


def _coordinates(normals) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are a basis, the first ones that are independent, and the coefficients of all rows in it."""
    chosen, basis = [], np.zeros((0, normals.shape[1]))
    for a, row in enumerate(normals):
        rest = row.copy()
        for _ in range(2):
            rest -= basis.T @ (basis @ rest)
        length = float(np.linalg.norm(rest))
        if length > PART * float(np.linalg.norm(row)) > 0.0:
            chosen.append(a)
            basis = np.vstack([basis, rest / length])
    base = np.array(chosen, dtype=np.int64)
    return base, np.linalg.lstsq(normals[base].T, normals.T, rcond=None)[0].T


def group_at(network, theta, sigma, sliding, group) -> Origin:
    """The loss near the corner of a group, while the other kinks slide; costs one gradient."""
    sigma = sigma.copy()
    network.set_masks(sigma, group.kinks, 0.0)
    run = network.run(theta, sigma)
    every = np.concatenate([sliding, group.kept])
    normals = network.normals(theta, run.slope, run.h, every)
    base, parts = _coordinates(normals)
    gram = normals[base] @ network.raised(theta, normals[base]).T
    multipliers = solve_gram(network, gram, -(normals[base] @ run.gradient))
    inside = network.among(every[base], group.kinks)
    own, rest = np.flatnonzero(inside), np.flatnonzero(~inside)
    mobility = gram[np.ix_(own, own)]
    if rest.size:
        cross = gram[np.ix_(own, rest)]
        mobility = mobility - cross @ np.linalg.lstsq(gram[np.ix_(rest, rest)], cross.T, rcond=1e-12)[0]
    chosen = np.flatnonzero(network.among(every, group.kinks) & (np.abs(parts[:, own]).max(axis=1) > PART))
    kinks, rows = every[chosen], parts[np.ix_(chosen, own)]
    feed = feeds(network, theta, run.slope, run.h, kinks, normals[chosen])
    d = network.attraction(run.delta, kinks)
    return Origin(kinks, rows, d, multipliers[own], _rays(rows, feed), mobility, feed)


def _rays(rows, feed) -> np.ndarray:
    """Rays on which the model changes, for each choice of sides of the kinks below others."""
    below = np.flatnonzero(feed.any(axis=0))[:MOST_BELOW]
    if not below.size:
        return rays_of(rows)
    found, unit = [], np.eye(len(rows))
    for sides in product((0.0, 1.0), repeat=below.size):
        on = np.zeros(len(rows))
        on[below] = sides
        shape = np.linalg.inv(unit - feed * on) @ rows
        length = np.linalg.norm(shape, axis=1)
        rays = rays_of(shape[length > PART * length.max()])
        fits = (rays @ shape[below].T) * (2.0 * np.array(sides) - 1.0) >= -1e-9 * length[below]
        found.append(rays[fits.all(axis=1)])
    return np.concatenate(found)
