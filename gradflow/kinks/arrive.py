"""What happens at the end of a piece of the path: kinks reached, masks that leave [0, 1], the start of a run."""

from dataclasses import dataclass, field, replace

import numpy as np

from gradflow.kinks.branch import Branch
from gradflow.kinks.decide import SLIDE, TIE, Leave, Undecided, settle
from gradflow.kinks.look import Fresh
from gradflow.kinks.origin import independent, kinks_of, meets
from gradflow.kinks.slide import Planes, Point, Surfaces, point, ratio, surface
from gradflow.kinks.watch import GRAZING

NEAR = 1e-11
"""Distance from 0, relative to the largest pre-activation of the layer, within which a kink is reached as well."""

SHADOW = 1e-8
"""Part of a normal outside the span of others, relative to its length, that counts as none."""

NONE = np.zeros(0, dtype=np.int64)


@dataclass
class Place:
    """State of a kinked flow: theta, stored masks (0 on sliding kinks), sliding kinks, their surface, the velocity.

    `held` marks sliding kinks that stay although d < 0, `fresh` the kinks that have just been left. `shadowed` kinks
    are at 0 because sliding ones keep them there: their normals lie in the span of those. `holds` are groups of kinks
    that stay at 0 or leave it together, None where they are not known.
    """

    theta: np.ndarray
    sigma: np.ndarray
    sliding: np.ndarray
    held: np.ndarray
    here: Point | None = None
    surface: Planes | Surfaces | None = None
    fresh: Fresh = field(default_factory=Fresh)
    shadowed: np.ndarray = field(default_factory=lambda: NONE)
    holds: list | None = None


@dataclass(frozen=True)
class Outcome:
    """Place after an event (None: no decision), rows for the record as (kind, kinks, masks), gradients used.

    `branch` is a point from which several ways lead on, where a choice is waited for.
    """

    place: Place | None
    rows: list
    gradients: int
    disputed: np.ndarray = field(default_factory=lambda: NONE)
    branch: Branch | None = None


def start(network, theta) -> Outcome:
    """Place at the start: the signs of the pre-activations; kinks at 0 begin as inactive, and slide if they must."""
    sigma = np.zeros(network.size)
    for layer in network.kinked_layers:
        z = network.forward(theta, sigma)[0]
        own = slice(*network.kinks_at[layer : layer + 2])
        sigma[own] = z[own] > 0.0
    z, slope, h = network.forward(theta, sigma)
    touched = np.flatnonzero(network.live & (np.abs(z) <= 1e-15 * network.scales(theta, z)[network.layers]))
    network.set_masks(sigma, np.flatnonzero(network.live), sigma[network.live])
    normals = network.normals(theta, slope, h, touched)
    touched = touched[np.abs(normals).max(axis=1, initial=0.0) > 0.0]
    empty = Place(theta, sigma, NONE, np.zeros(0, bool))
    if not touched.size:
        empty.here = point(network, theta, sigma, None)
        return Outcome(empty, [], 1)
    network.set_masks(empty.sigma, touched, 0.0)
    outcome = change(network, empty, theta, touched, _first_sides(network, theta, empty.sigma, touched))
    if outcome.place is None:
        return outcome
    mask = np.where(network.among(touched, outcome.place.sliding), np.nan, outcome.place.sigma[touched])
    slides = [row for row in outcome.rows if row[0] == "slide"]
    return Outcome(outcome.place, [("start", touched, mask), *slides], outcome.gradients + 1)


def _first_sides(network, theta, sigma, kinks):
    """Sides of kinks at 0 after a short step of gradient descent, which takes their masks to be 0."""
    velocity, masks = -network.run(theta, sigma).gradient, sigma.copy()
    sides = np.zeros(kinks.size, dtype=np.int64)
    for layer in network.kinked_layers:
        own = network.layers[kinks] == layer
        _, slope, h = network.forward(theta, masks)
        sides[own] = network.normals(theta, slope, h, kinks[own]) @ velocity > 0.0
        network.set_masks(masks, kinks[own], sides[own])
    return sides


def reached(network, place, z, scales, z_before, culprits) -> tuple[np.ndarray, np.ndarray]:
    """Kinks at 0 or beyond (without those that were resting at 0 before), and those just left that are still near."""
    near = NEAR * scales[network.layers]
    watched = network.live.copy()
    watched[place.sliding] = watched[place.shadowed] = False
    fresh = np.zeros(network.size, bool)
    fresh[place.fresh.kinks] = True
    beyond = (2.0 * place.sigma - 1.0) * z < -0.01 * near
    hit = beyond | ((np.abs(z) < near) & ~(np.abs(z_before) < near) & ~fresh)
    hit[culprits] = True
    return np.flatnonzero(watched & hit), np.flatnonzero(watched & fresh & (np.abs(z) < near) & ~hit)


def arrive(network, place, theta, z_before, culprits=NONE) -> Outcome:
    """Event at which kinks are reached: project onto them, decide who crosses and who slides."""
    z, slope, h = network.forward(theta, place.sigma)
    hits, again = reached(network, place, z, network.scales(theta, z), z_before, culprits)
    joint = np.concatenate([place.sliding, hits])
    if network.flat:
        joint = joint[network.among(network.neurons[joint], network.neurons[hits])]
        again = again[network.among(network.neurons[again], network.neurons[hits])]
    else:
        joint = joint[_moves(network, theta, slope, h, joint)]
    theta = restored(network, joint, theta, place.sigma)
    met = meets(network, theta, joint)
    if met:
        return _held(network, place, theta, met, hits)
    if not network.flat:
        hits, place = _with_wakened(network, place, theta, hits)
    crossed = np.where(_above_another(network, hits), place.sigma[hits], 1.0 - place.sigma[hits])
    guess = np.concatenate([crossed, place.sigma[again]]).astype(np.int64)
    back = network.among(hits, place.fresh.kinks) & network.among(hits, culprits)
    guess[: hits.size][back] = SLIDE
    back = np.concatenate([back, np.zeros(again.size, bool)])
    kinks, stopped = np.concatenate([hits, again]), NONE
    if hits.size > 1 and not network.flat:
        kept, stopped = dependent(network, theta, place.sigma, place.sliding, hits)
        place = replace(place, shadowed=np.union1d(place.shadowed, kept))
        free = ~network.among(kinks, kept)
        kinks, guess, back = kinks[free], guess[free], back[free]
        guess[network.among(kinks, stopped)] = SLIDE
    return change(network, place, theta, kinks, guess, back, back, stopped)


def dependent(network, theta, sigma, sliding, hits) -> tuple[np.ndarray, np.ndarray]:
    """Hits whose normals are in the span of those of sliding kinks and earlier hits, and the kinks that they need."""
    _, slope, h = network.forward(theta, sigma)
    normals = network.normals(theta, slope, h, np.concatenate([sliding, hits]))
    lengths = np.linalg.norm(normals, axis=1)
    normals = normals / np.where(lengths > 0.0, lengths, 1.0)[:, None]
    every, kept = np.concatenate([sliding, hits]), np.zeros(hits.size, bool)
    needed, chosen = np.zeros(every.size, bool), list(range(sliding.size))
    for a in range(hits.size):
        row = normals[sliding.size + a]
        parts = np.linalg.lstsq(normals[chosen].T, row, rcond=1e-10)[0] if chosen else np.zeros(0)
        kept[a] = lengths[sliding.size + a] > 0.0 and np.linalg.norm(row - parts @ normals[chosen]) <= SHADOW
        if kept[a]:
            needed[np.array(chosen)[np.abs(parts) > 1e-6]] = True
        else:
            chosen.append(sliding.size + a)
    return hits[kept], every[needed]


def _held(network, place, theta, neurons, hits) -> Outcome:
    """Neurons that have come to the origin are held there by as many sliding kinks as they have weights."""
    own = np.concatenate([kinks_of(network, neuron) for neuron in neurons])
    slid = place.sliding[network.among(place.sliding, own)]
    kept = np.concatenate([independent(network, kinks_of(network, neuron), slid) for neuron in neurons])
    aside = ~network.among(place.sliding, own)
    sliding = np.concatenate([place.sliding[aside], kept])
    order = np.argsort(sliding)
    held = np.concatenate([place.held[aside], np.zeros(kept.size, bool)])[order]
    sigma, sliding = place.sigma.copy(), sliding[order]
    network.set_masks(sigma, kept, 0.0)
    joint = surface(network, sliding)
    new = Place(theta, sigma, sliding, held, point(network, theta, sigma, joint), joint)
    fresh = kept[~network.among(kept, slid)]
    rows = [("slide", fresh, np.clip(masks_of(new)[np.searchsorted(sliding, fresh)], 0.0, 1.0))] if fresh.size else []
    others = hits[~network.among(hits, own)]
    if not others.size:
        return Outcome(new, rows, 1)
    after = change(network, new, theta, others, (1.0 - sigma[others]).astype(np.int64))
    return replace(after, rows=[*rows, *after.rows], gradients=after.gradients + 1)


def _above_another(network, hits) -> np.ndarray:
    """Hits above another hit of the same sample: what moved them may stop there, so that they need not cross."""
    lowest = np.full(network.n, network.size)
    np.minimum.at(lowest, network.samples[hits], network.layers[hits])
    return network.layers[hits] > lowest[network.samples[hits]]


def _moves(network, theta, slope, h, kinks):
    """Whether the normal of a kink is not zero."""
    return np.abs(network.normals(theta, slope, h, kinks)).max(axis=1, initial=0.0) > 0.0


def restored(network, kinks, theta, sigma) -> np.ndarray:
    """Theta projected onto the kinks."""
    return surface(network, kinks).restore(theta, sigma, rounds=2) if kinks.size else theta


def _with_wakened(network, place, theta, hits):
    """Hits without those that only rest at 0 once the kinks below have crossed, and the place with wakened masks.

    Without biases a sample may have no active unit left in a layer: all units above are then at 0. As soon as one unit
    below becomes active, they move, to the side given by the weights between.
    """
    below = hits[network.layers[hits] < network.kinked_layers[-1]]
    if not below.size or network.bias:
        return hits, place
    at_rest = network.forward(theta, place.sigma)[0] == 0.0
    sigma = place.sigma.copy()
    network.set_masks(sigma, below, 1.0 - sigma[below])
    z, slope, h = network.forward(theta, sigma)
    lowest = np.full(network.n, network.size)
    np.minimum.at(lowest, network.samples[below], network.layers[below])
    above = lowest[network.samples[hits]] < network.layers[hits]
    above[above] = ~_moves(network, theta, slope, h, hits[above])
    hits, dropped = hits[~above], hits[above]
    asleep = network.live & at_rest & (lowest[network.samples] < network.layers)
    asleep[place.sliding] = asleep[hits] = asleep[dropped] = False
    for layer in network.kinked_layers[1:]:
        units = np.flatnonzero(asleep & (network.layers == layer))
        normals = network.normals(theta, slope, h, units)
        roots = network.normals(theta, slope, h, below)
        same = network.samples[units][:, None] == network.samples[below][None, :]
        towards = (normals @ roots.T * same).sum(axis=1)
        units = units[towards != 0.0]
        network.set_masks(sigma, units, (towards[towards != 0.0] > 0.0).astype(float))
        z, slope, h = network.forward(theta, sigma)
    network.set_masks(sigma, below, place.sigma[below])
    return hits, replace(place, sigma=sigma)


def change(network, place, theta, kinks, guess, calm=None, lenient=None, stopped=None) -> Outcome:
    """Settle the kinks together with the sliding ones; list who crossed, began or ended to slide.

    `calm` and `lenient` mark kinks whose speed, or whose sigma near 0 and 1, is not questioned; those named `stopped`
    slide for the time being, since others depend on them.
    """
    shadowed = place.shadowed[~network.among(place.shadowed, kinks)]
    calm = np.zeros(kinks.size, bool) if calm is None else calm
    lenient = np.zeros(kinks.size, bool) if lenient is None else lenient
    kinks, guess = np.concatenate([kinks, shadowed]), np.concatenate([guess, place.sigma[shadowed].astype(np.int64)])
    others = place.sliding[~network.among(place.sliding, kinks)]
    held = place.held[~network.among(place.sliding, kinks)]
    if place.surface is not None and not network.flat:
        held = held | place.surface.at_origin[~network.among(place.sliding, kinks)]
    aside = NONE
    if network.flat:
        far = ~network.among(network.neurons[others], network.neurons[kinks])
        aside, others, held = others[far], others[~far], held[~far]
    everyone = np.concatenate([kinks, others])
    first = np.concatenate([guess, np.full(others.size, SLIDE)])
    quiet = np.zeros(everyone.size, bool)
    quiet[: calm.size] = calm
    may_stay = np.concatenate([np.zeros(kinks.size, bool), held])
    if stopped is not None:
        may_stay |= network.among(everyone, stopped)
    slack = np.full(everyone.size, -TIE)
    slack[: lenient.size][lenient] = GRAZING
    if not network.flat:
        slack[may_stay] = np.inf
    found = settle(network, theta, place.sigma, everyone, first, aside, Leave(quiet, may_stay, slack))
    if isinstance(found, Undecided):
        return Outcome(None, [], found.gradients, found.kinks)
    still_held = network.among(found.sliding, place.sliding[place.held])
    left = everyone[found.status != SLIDE]
    shadowed, fresh = _left(network, theta, found, left)
    new = Place(theta, found.sigma, found.sliding, still_held, found.here, found.surface, fresh, shadowed)
    return Outcome(new, _rows(network, place, new, everyone, found.status, everyone[may_stay]), found.gradients)


def _left(network, theta, found, kinks) -> tuple[np.ndarray, Fresh]:
    """Of the kinks at 0 that do not slide, those that sliding ones keep at 0, and the others with their speeds."""
    _, slope, h = network.forward(theta, found.sigma)
    normals, v = network.normals(theta, slope, h, kinks), found.here.velocity
    lengths = np.linalg.norm(normals, axis=1)
    shadowed = np.zeros(kinks.size, bool)
    if not network.flat and found.sliding.size and kinks.size:
        basis = network.normals(theta, slope, h, found.sliding).T
        rest = normals.T - basis @ np.linalg.lstsq(basis, normals.T, rcond=1e-10)[0]
        shadowed = (np.linalg.norm(rest, axis=0) <= SHADOW * lengths) & (lengths > 0.0)
    kinks, normals, lengths, dark = kinks[~shadowed], normals[~shadowed], lengths[~shadowed], kinks[shadowed]
    speed = normals @ v
    away = (2.0 * found.sigma[kinks] - 1.0) * speed
    return dark, Fresh(kinks, speed, np.maximum(TIE * lengths * np.linalg.norm(v), -2.0 * away))


def _rows(network, old, new, kinks, status, loose):
    """Rows for the record; `loose` kinks slide with others, their own masks say nothing outside [0, 1]."""
    was = network.among(kinks, old.sliding)
    slides = kinks[(status == SLIDE) & ~was]
    exits = kinks[(status != SLIDE) & was]
    crossed = kinks[(status != SLIDE) & ~was & (old.sigma[kinks] != new.sigma[kinks])]
    rows = []
    if crossed.size:
        rows.append(("cross", crossed, new.sigma[crossed]))
    if exits.size:
        rows.append(("exit", exits, new.sigma[exits]))
    if slides.size:
        masks = masks_of(new)[np.searchsorted(new.sliding, slides)]
        rows.append(("slide", slides, np.where(network.among(slides, loose), np.clip(masks, 0.0, 1.0), masks)))
    return rows


def masks_of(place) -> np.ndarray:
    """sigma of the sliding kinks, in order; at the origin, which more kinks may hold, only within [0, 1]."""
    masks = ratio(place.here.multipliers, place.here.attraction)
    return masks if place.surface is None else np.where(place.surface.at_origin, np.clip(masks, 0.0, 1.0), masks)


def leave(network, place, theta, kinks, sides) -> Outcome:
    """Event at which masks of sliding kinks have reached 0 or 1: these kinks go to that side."""
    theta = restored(network, place.sliding, theta, place.sigma)
    return change(network, place, theta, kinks, sides, np.ones(kinks.size, bool))
