r"""A kinked flow near rest: its linearisation carries it to the end of the run.

Stability keeps an explicit method moving at the level of its tolerance for ever, and there rounding decides at kinks.
Where the linearised flow :math:`\theta(t + s) = \theta + s\,\varphi_1(sJ)\,v`, with :math:`\varphi_1(x) = (e^x - 1)/x`
and J the Jacobian of the field with frozen masks, moves theta by a few tolerances only until the end, it is exact to
the square of that.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from gradflow.kinks.look import Fresh
from gradflow.kinks.slide import solve_gram
from gradflow.steppers.kinked_state import pack

LOOK = 32
"""Accepted steps, pieces that end at events included, between two looks."""

REACH = 10.0
"""Motion until the end, in units of the tolerance, that is left to the linearised flow."""

DENSE, KRYLOV = 256, 64
"""Size up to which the whole Jacobian is taken, and the dimension of the Krylov space beyond."""

PRODUCTS = 8
"""Products with the Jacobian from which its fastest decay is estimated."""

NEGLIGIBLE = 1e-9
"""Growth rate, relative to the fastest decay, that may be rounding."""

ROUNDING = 1e-15
"""Speed along a mode that does not decay, relative to the fastest decay times the size of theta, that is rounding."""


@dataclass(frozen=True)
class Decay:
    """Linearised flow from y on: modes (P, m) with their rates (m,), and the part of the velocity in each of them."""

    t: float
    y: np.ndarray
    length: float
    rates: np.ndarray
    modes: np.ndarray
    parts: np.ndarray
    drift: np.ndarray

    def moved(self, s) -> np.ndarray:
        """Displacement after a time s."""
        still = self.rates == 0.0
        times = np.where(still, s, np.expm1(self.rates * s) / np.where(still, 1.0, self.rates))
        return np.real(self.modes @ (times * self.parts)) + s * self.drift

    def at(self, x) -> np.ndarray:
        """Theta at the fraction x of the length."""
        return self.y + self.moved(x * self.length)


def rests(run, t_end, *, now=False) -> bool:
    """Whether the run has come to its end at rest; looked at every few steps, by their number, or `now`.

    Pauses must not tell: they may fall on any step.
    """
    due = run.counts["accepted"] % LOOK == 0
    decay = last_decay(run, t_end) if run.network.in_time and (due or now) else None
    if decay is not None:
        finish_at_rest(run, decay, t_end)
    return decay is not None


def last_decay(run, t_end) -> Decay | None:
    """The linearised flow from here to t_end, if it moves theta by less than some tolerances; else None.

    Nothing may grow: a saddle is left, however slow its neighbourhood is. And kinks that repel (d < 0) count with the
    jump of their velocity where they are within reach; kinks with d > 0 only take away from the velocity, and a mask
    that leaves [0, 1] does not change it.
    """
    place, remaining = run.place, t_end - run.t
    scale = np.maximum(run.atol + run.rtol * np.abs(place.theta), 1e-300)
    if not math.isfinite(remaining) or _size(place.here.velocity, scale) * min(run.h, remaining) > REACH:
        return None
    rates, modes, parts, drift = _modes(run)
    fastest, growth = max(float(-np.real(rates).min()), 0.0), float(np.real(rates).max())
    if not growth <= max(NEGLIGIBLE * fastest, 1.0 / remaining):
        return None
    still = np.abs(rates) <= max(NEGLIGIBLE * fastest, 1e-9 / remaining)
    rates[still] = 0.0
    parts[still & (np.abs(parts) <= ROUNDING * fastest * np.linalg.norm(place.theta))] = 0.0
    decay = Decay(run.t, place.theta, remaining, rates, modes, parts, drift)
    if not _size(decay.moved(remaining), scale) <= REACH:
        return None
    kicks = _kicks(run, np.abs(decay.moved(remaining)) + scale)
    return decay if _size(kicks, scale) * remaining <= REACH else None


def _size(vector, scale) -> float:
    """Root mean square in units of the tolerance."""
    return float(np.linalg.norm(vector / scale)) / math.sqrt(vector.size)


def _modes(run):
    """Rates and modes of the field with frozen masks, the parts of the velocity in them, and what is left of it."""
    velocity = run.place.here.velocity
    size, plain = velocity.size, run.compiled is not None
    along = _tangent(run)
    if size <= DENSE:
        basis = np.eye(size)
        image = np.array([_slope(run, along, row) for row in map(along, basis)]).T
    else:
        start = _unit(along(np.cos(np.arange(size, dtype=float) ** 2))) + _unit(velocity)
        basis, image = _krylov(run, along, start, KRYLOV)
    if not np.isfinite(image).all():
        return np.array([math.inf]), basis[:1].T, np.zeros(1), velocity
    coordinates = basis @ velocity
    drift = velocity - coordinates @ basis
    if plain:
        rates, modes = np.linalg.eigh(0.5 * (image + image.T))
        return rates, basis.T @ modes, modes.T @ coordinates, drift
    rates, modes = np.linalg.eig(image)
    return rates, basis.T @ modes, np.linalg.lstsq(modes, coordinates + 0j, rcond=None)[0], drift


def _tangent(run):
    """Projection of directions onto the surface of the sliding kinks."""
    network, place, surface = run.network, run.place, run.place.surface
    if surface is None:
        return np.copy
    if not surface.curved:
        return lambda direction: surface.restore(direction, place.sigma)
    _, slope, h = network.forward(place.theta, place.sigma)
    normals = network.normals(place.theta, slope, h, surface.kinks)
    raised = network.raised(place.theta, normals)
    gram = normals @ raised.T
    return lambda direction: direction - raised.T @ solve_gram(network, gram, normals @ direction)


def _slope(run, along, direction):
    """Jacobian of the field with frozen masks times a direction of length 1, by a central difference quotient."""
    theta = run.place.theta
    step = 1e-5 * max(float(np.linalg.norm(theta)), 1e-300)
    ahead, behind = (run.evaluate(theta + sign * step * direction).velocity for sign in (1.0, -1.0))
    return along((ahead - behind) / (2.0 * step))


def _unit(vector):
    """A vector over its length."""
    return vector / max(float(np.linalg.norm(vector)), 1e-300)


def _krylov(run, along, start, most):
    """Orthonormal basis (m, P) of the Krylov space of a start, m <= most, and the Jacobian in it (Arnoldi)."""
    basis, image = np.zeros((most, start.size)), np.zeros((most, most))
    basis[0] = _unit(start)
    for k in range(most):
        new = _slope(run, along, basis[k])
        length = float(np.linalg.norm(new))
        for _ in range(2):
            overlap = basis[: k + 1] @ new
            image[: k + 1, k] += overlap
            new = new - overlap @ basis[: k + 1]
        left = float(np.linalg.norm(new))
        if k + 1 == most or not left > 1e-8 * length:
            break
        image[k + 1, k], basis[k + 1] = left, new / left
    return basis[: k + 1], image[: k + 1, : k + 1]


def fastest_decay(run) -> float:
    """Largest rate at which the field with frozen masks contracts, from a few products; 0 if it is not finite."""
    velocity = run.place.here.velocity
    if not velocity.any():
        return 0.0
    _, image = _krylov(run, _tangent(run), velocity, min(PRODUCTS, velocity.size))
    return max(float(-np.linalg.eigvals(image).real.min()), 0.0) if np.isfinite(image).all() else 0.0


def _kicks(run, reach) -> np.ndarray:
    """Sum of the jumps of the velocity at the kinks that repel, among those that theta may reach by moving so far."""
    network, place = run.network, run.place
    found = network.run(place.theta, place.sigma)
    run.counts["gradients"] += 1
    kinks = np.flatnonzero(network.live)
    kinks = np.setdiff1d(kinks, np.concatenate([place.sliding, place.shadowed]), assume_unique=True)
    if place.surface is not None and place.surface.pinned:
        kinks = kinks[~np.isin(network.neurons[kinks], place.surface.pinned)]
    d = network.attraction(found.delta, kinks)
    kinks, d = kinks[d < 0.0], d[d < 0.0]
    total = np.zeros(place.theta.size)
    for kink, pull in zip(kinks, d, strict=True):
        normal = network.normals(place.theta, found.slope, found.h, np.array([kink]))[0]
        if abs(found.z[kink]) <= np.abs(normal) @ reach:
            total += np.abs(pull * network.raised(place.theta, normal[None])[0])
    return total


def finish_at_rest(run, decay, t_end) -> None:
    """Let the linearised flow pass to t_end; a longer run goes on from before."""
    run.uncut, run.cut_at, run.rest = pack(run), t_end, run.t
    place = run.place
    theta = decay.at(1.0)
    if place.surface is not None and place.surface.curved:
        theta = place.surface.restore(theta, place.sigma)
    run.place_before, run.theta_before, run.t_before, run.step = place, place.theta, run.t, decay
    run.place, run.t = replace(place, theta=theta, here=run.evaluate(theta), fresh=Fresh()), t_end
    run.counts["accepted"] += 1
