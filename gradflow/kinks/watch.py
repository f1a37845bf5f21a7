"""Masks of sliding kinks along a step: when one leaves [0, 1], and whether the flow branches there."""

from dataclasses import dataclass

import numpy as np

from gradflow.kinks.look import bracketed_root
from gradflow.kinks.slide import ratio

EXACT = 1e-10
"""Accuracy of sigma at an exit; the velocity is continuous there, so that an error enters the path squared."""

GRAZING = 1e-6
"""Excess of sigma over [0, 1] with which a kink may begin to slide that has come back to 0 at once."""

NUDGE = 1e-8
"""How far out of [0, 1] such a kink goes at least before it leaves again."""

VANISHES = 1e-7
"""Size of d, relative to its size before the event, that counts as 0."""


@dataclass(frozen=True)
class Departure:
    """Fraction x of the step, the kinks whose masks leave, the sides they leave to, which of them branch, sigma."""

    x: float
    kinks: np.ndarray
    sides: np.ndarray
    branching: np.ndarray
    sigma: np.ndarray


def margins(point, place, scale) -> np.ndarray:
    """Distance of lambda from the ends of its interval [0, d], in units of the scale; below 0 outside.

    Masks do not tell when a neuron leaves the origin.
    """
    sign = np.where(place.held, -1.0, 1.0)
    found = np.minimum(sign * point.multipliers, sign * (point.attraction - point.multipliers)) / scale
    return found if place.surface is None else np.where(place.surface.at_origin, np.inf, found)


def first_departure(place, hints, end, evaluate, limit) -> Departure | None:
    """First fraction x <= limit of a step at which a mask leaves [0, 1].

    Parameters
    ----------
    place : Place
        At the start of the step.
    hints : list of (float, Point)
        Stages inside the step: cheap, but only near the path; what they show is confirmed on the path.
    end : Point
        At the end of the step.
    evaluate : callable
        ``evaluate(x) -> Point`` on the path.
    limit : float
        How far to look, at most 1.
    """
    scale = np.maximum(np.abs(place.here.attraction), np.abs(end.attraction))
    scale = np.where(scale > 0.0, scale, 1.0)
    found = {0.0: place.here, 1.0: end}
    slack = patience(margins(place.here, place, scale))

    def least(x):
        if x not in found:
            found[x] = evaluate(x)
        return (margins(found[x], place, scale) + slack).min()

    suspicious = [x for x, hint in hints if (margins(hint, place, scale) + slack).min() < 0.0]
    if least(1.0) < 0.0:
        suspicious.append(1.0)
    if not suspicious:
        return None
    beyond = next((x for x in sorted({min(x, limit) for x in suspicious}) if least(x) < -EXACT), None)
    if beyond is None:
        return None
    x = 0.0
    if least(0.0) > -EXACT:
        x = bracketed_root(least, 0.0, max(least(0.0), 1e-16), beyond, least(beyond), small=EXACT)
    least(x)
    return _departure(place, x, found[x], scale, slack, evaluate)


def patience(start) -> np.ndarray:
    """How much further out of [0, 1] masks may go that begin a step a little outside, given their margins there.

    They left, and came back within rounding of the path: leaving again where they are would be repeated without end.
    """
    return np.where((start < 0.0) & (start >= -GRAZING), NUDGE - 3.0 * start, 0.0)


def _departure(place, x, point, scale, slack, evaluate):
    """Kinks that leave at x, to which side, and which of them lose their attraction there."""
    margin = margins(point, place, scale) + slack
    leaving = margin <= max(2.0 * EXACT, margin.min())
    branching = np.abs(point.attraction[leaving]) <= VANISHES * scale[leaving]
    kinks, d, multipliers = place.sliding[leaving], point.attraction[leaving], point.multipliers[leaving]
    sides = (np.abs(multipliers) > np.abs(d - multipliers)).astype(np.int64)
    sigma = sides.astype(float)
    if branching.any():
        around = [evaluate(x - 1e-4), evaluate(x + 1e-4)]
        limit = np.mean([ratio(p.multipliers[leaving], p.attraction[leaving]) for p in around], axis=0)
        sigma = np.where(branching, np.clip(limit, 0.0, 1.0), sigma)
    return Departure(x, kinks, sides, branching, sigma)
