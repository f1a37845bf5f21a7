r"""Corners: kinks that are at 0 at one time, to first order, and the ways on from there.

With the masks of the kinks at 0, let n, D and g be normals, attractions and gradient, and W_ab what z_a gains by the
value of a lower unit b of its sample. For small w

.. math::
    F(\theta + w) - F(\theta) \approx \varphi(w) = g\cdot w + \sum_a D_a (z_a)_+, \qquad
    z_a = n_a\cdot w + \sum_b W_{ab} (z_b)_+,

piecewise linear and homogeneous of degree 1. A path leaves with a velocity v, :math:`-v \in \partial\varphi(v)`. Under
masks s the gradient is :math:`g + \sum_a f_a n_a` with :math:`f_a = s_a d_a`, :math:`d_a = D_a + \sum_b W_{ba} f_b`.
"""

from dataclasses import dataclass

import numpy as np

from gradflow.kinks.rules import SLIDE

TOLERANCE = 1e-9
"""Relative speed, or distance of a mask from 0 and 1, that does not tell."""

APART = 1e-6
"""Relative difference of the velocities of two ways."""

FEED = 1e-10
"""Relative size of an entry of W that is rounding."""

DESCENTS, LONG, FAR, MOST = 300, 2000, 5.0, 20_000
"""Descents that are counted, their steps after the arrival, the distance from which they come, in units of the width of
their chatter about the kinks that slid before, and the most steps of that way."""


@dataclass(frozen=True)
class Corner:
    """The model: kinks, speeds p = -n.g, Gram matrix of the n, attractions D, W."""

    kinks: np.ndarray
    pull: np.ndarray
    gram: np.ndarray
    attraction: np.ndarray
    feed: np.ndarray


@dataclass(frozen=True)
class Way:
    """A choice of sides and sliding kinks, the speeds z', and those of n.w; whether it agrees with what it leads to."""

    status: np.ndarray
    speed: np.ndarray
    motion: np.ndarray
    agrees: bool


def corner_at(network, theta, sigma, kinks) -> Corner:
    """The model at a place; costs one gradient."""
    sigma = sigma.copy()
    network.set_masks(sigma, kinks, 0.0)
    run = network.run(theta, sigma)
    normals = network.normals(theta, run.slope, run.h, kinks)
    raised = network.raised(theta, normals)
    feed = feeds(network, theta, run.slope, run.h, kinks, normals)
    return Corner(kinks, -(normals @ run.gradient), normals @ raised.T, network.attraction(run.delta, kinks), feed)


def feeds(network, theta, slope, h, kinks, normals) -> np.ndarray:
    """W: what the pre-activations of kinks gain by the values of those below, from the normals with a mask at 1."""
    feed = np.zeros((kinks.size, kinks.size))
    for b in stacked_below(network, kinks):
        raised = slope.copy()
        network.spread_masks(raised, kinks[b : b + 1], np.ones(1))
        gained = network.normals(theta, raised, h, kinks) - normals
        square = float(normals[b] @ normals[b])
        if square > 0.0:
            feed[:, b] = gained @ normals[b] / square
    feed[np.abs(feed) <= FEED * np.abs(feed).max(initial=0.0)] = 0.0
    return feed


def stacked_below(network, kinks) -> np.ndarray:
    """Which kinks have one of their sample above them."""
    if network.flat:
        return np.zeros(0, dtype=np.int64)
    layers, samples = network.layers[kinks], network.samples[kinks]
    if network.members:
        return np.flatnonzero(layers < layers.max(initial=0))
    highest = np.full(network.n, -1)
    np.maximum.at(highest, samples, layers)
    return np.flatnonzero(layers < highest[samples])


def way(corner, status) -> Way:
    """What a choice leads to."""
    on, slides = status == 1, status == SLIDE
    unit = np.eye(status.size)
    down = np.linalg.inv(unit - corner.feed * on)
    matrix = np.where(slides[:, None], down @ corner.gram, unit - corner.feed.T * on[:, None])
    right = np.where(slides, down @ corner.pull, np.where(on, corner.attraction, 0.0))
    force = np.linalg.lstsq(matrix, right, rcond=1e-12)[0]
    d = corner.attraction + corner.feed.T @ force
    motion = corner.pull - corner.gram @ force
    speed = down @ motion
    square = np.diag(corner.gram)
    tie = TOLERANCE * np.maximum(np.abs(corner.pull), np.abs(d) * square)
    fits = np.where(slides, np.minimum(force, d - force) > TOLERANCE * d, np.where(on, speed, -speed) > tie)
    stopped = np.where(slides, np.abs(speed) <= 1e3 * tie, True)
    return Way(status.copy(), speed, motion, bool((fits & stopped & (~slides | (d > 0.0))).all()))


def same(one, other) -> bool:
    """Whether two ways have one velocity."""
    return bool(np.abs(one.motion - other.motion).max() <= APART * np.abs(other.motion).max())


def shares(corner, found, arrival, seed=0) -> np.ndarray:
    r"""Share of gradient descents with small steps that go each way, counted; the last one for none of them.

    Near the corner descent obeys :math:`w \leftarrow w - h\,\nabla\varphi(w)`, in which h is a unit of length: descents
    come along the path of arrival, from starts spread over a step.

    Parameters
    ----------
    corner : Corner
        The model.
    found : list of Way
        Ways on.
    arrival : ndarray (m,)
        Speeds n.w on arrival; 0 for descents that are in the corner.
    """
    rng = np.random.default_rng(seed)
    values, vectors = np.linalg.eigh(corner.gram)
    kept = values > 1e-12 * max(values.max(), 1e-300)
    basis = vectors[:, kept] * np.sqrt(values[kept])
    lift = (vectors[:, kept] / np.sqrt(values[kept])).T
    pull, arrival = lift @ corner.pull, lift @ arrival
    slid = np.abs(basis @ arrival) <= 1e-6 * np.linalg.norm(basis, axis=1) * np.linalg.norm(arrival)
    swings = corner.attraction[slid, None] * basis[slid]
    width, pace = float(np.linalg.norm(swings, axis=1).sum()), float(np.linalg.norm(arrival))
    before = int(min(100.0 + FAR * width / pace, MOST)) if pace > 0.0 else 0
    place = -before * arrival + rng.uniform(-0.5, 0.5, (DESCENTS, len(swings))) @ swings
    place += rng.uniform(0.0, 1.0, (DESCENTS, 1)) * arrival
    for step in range(before + LONG):
        if step == before + LONG // 2:
            middle = place.copy()
        place = place + pull - forces(corner, place @ basis.T) @ basis
    rate = (place - middle) / (LONG - LONG // 2)
    speeds = np.array([lift @ one.motion for one in found] + [np.zeros(kept.sum())])
    nearest = np.argmin(np.linalg.norm(rate[:, None, :] - speeds, axis=2), axis=1)
    return np.bincount(nearest, minlength=len(found) + 1) / DESCENTS


def raised(corner, y) -> np.ndarray:
    """Pre-activations z of the kinks at points y = n.w, for many points."""
    z = y.copy()
    for a in np.argsort(corner.kinks) if corner.feed.any() else ():
        z[:, a] = y[:, a] + np.maximum(z, 0.0) @ corner.feed[a]
    return z


def forces(corner, y) -> np.ndarray:
    """f = s d of each kink at points y = n.w, for many points."""
    on = raised(corner, y) > 0.0
    if not corner.feed.any():
        return on * corner.attraction
    force = np.zeros(y.shape)
    for a in np.argsort(corner.kinks)[::-1]:
        force[:, a] = on[:, a] * (corner.attraction[a] + force @ corner.feed[:, a])
    return force
