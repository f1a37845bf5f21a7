r"""Kinks above the first layer that sliding ones keep at 0, since their normals depend on those.

Samples without an active unit below see one input, the biases: their kinks are one kink. More generally
:math:`n_a = \sum_b C_{ab} n_b` over sliding kinks b, and near the corner of a group the loss is, in the coordinates
:math:`y_b = n_b\cdot w` and with the multipliers :math:`\lambda_b` under masks 0,
:math:`\varphi(y) = -\lambda\cdot y + \sum_a d_a\,(C_a\cdot y)_+`: what is said of neurons at the origin holds here too.
"""

from dataclasses import dataclass

import numpy as np

from gradflow.kinks.origin import Origin, rays_of
from gradflow.kinks.slide import solve_gram, stacked, stacked_attractions

PART = 1e-6
"""Coefficient of a normal, relative to the largest, that counts as none."""


@dataclass(frozen=True)
class Group:
    """Sliding kinks, and those that they keep at 0."""

    sliding: np.ndarray
    kept: np.ndarray

    @property
    def kinks(self) -> np.ndarray:
        """All kinks of the group."""
        return np.concatenate([self.sliding, self.kept])


def _coefficients(network, theta, sigma, sliding, kept):
    """Normals of the sliding kinks, and the coefficients (len(kept), len(sliding)) of the others in them."""
    _, slope, h = network.forward(theta, sigma)
    normals = network.normals(theta, slope, h, np.concatenate([sliding, kept]))
    basis, others = normals[: sliding.size], normals[sliding.size :]
    return np.linalg.lstsq(basis.T, others.T, rcond=1e-10)[0].T


def groups(network, place) -> list[Group]:
    """The groups of a place, those that have sliding kinks in common as one."""
    if network.flat or not place.shadowed.size or not place.sliding.size:
        return []
    found = _coefficients(network, place.theta, place.sigma, place.sliding, place.shadowed)
    uses = np.abs(found) > PART * np.abs(found).max(axis=1, keepdims=True)
    joined: list[tuple[np.ndarray, list[int]]] = []
    for a, row in enumerate(uses):
        meeting = [one for one in joined if (one[0] & row).any()]
        joined = [one for one in joined if not (one[0] & row).any()]
        joined.append(
            (np.logical_or.reduce([row, *(one[0] for one in meeting)]), [a, *sum((m[1] for m in meeting), [])])
        )
    return [Group(place.sliding[row], np.sort(place.shadowed[kept])) for row, kept in joined]


def group_at(network, theta, sigma, sliding, group) -> Origin:
    """The loss near the corner of a group, while the other kinks slide; costs one gradient."""
    sigma = sigma.copy()
    network.set_masks(sigma, group.kinks, 0.0)
    run = network.run(theta, sigma)
    every = np.concatenate([sliding, group.kept])
    normals = network.normals(theta, run.slope, run.h, every)
    raised = network.raised(theta, normals[: sliding.size])
    gram = normals[: sliding.size] @ raised.T
    multipliers = solve_gram(network, gram, -(normals[: sliding.size] @ run.gradient))
    d = network.attraction(run.delta, every)
    slides = np.arange(every.size) < sliding.size
    if stacked(network, every, slides):
        force = np.concatenate([multipliers, np.zeros(group.kept.size)])
        d = stacked_attractions(network, theta, run, every, force, slides)
    own = np.flatnonzero(np.isin(sliding, group.sliding))
    rest = np.flatnonzero(~np.isin(sliding, group.sliding))
    parts = np.linalg.lstsq(normals[: sliding.size].T, normals[sliding.size :].T, rcond=1e-10)[0].T[:, own]
    mobility = gram[np.ix_(own, own)]
    if rest.size:
        cross = gram[np.ix_(own, rest)]
        mobility = mobility - cross @ np.linalg.lstsq(gram[np.ix_(rest, rest)], cross.T, rcond=1e-12)[0]
    moves = np.abs(parts).max(axis=1, initial=0.0) > PART
    rows = np.vstack([np.eye(own.size), parts[moves]])
    attraction = np.concatenate([d[own], d[sliding.size :][moves]])
    kinks = np.concatenate([sliding[own], group.kept[moves]])
    return Origin(kinks, rows, attraction, multipliers[own], rays_of(rows), mobility)
