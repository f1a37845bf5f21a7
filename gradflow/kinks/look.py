"""Looking inside a step: the earliest time at which a pre-activation leaves the side of its stored mask."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

WRONG = 1e-13
"""Depth on the wrong side, relative to the largest pre-activation of the layer, that counts as a violation."""

AT_ONCE = 1e-9
"""A violation within this fraction of a step may come from the interpolant: up to three times the step is shortened."""

EVENTS_AT_ONCE, LITTLE_TIME = 200, 1e-3
"""So many events are a stall if they take no more than this fraction of a step."""

NONE = np.zeros(0)

PAUSED, TRIED, ALONE, STALLED = range(4)
"""Why compiled steps end: at a limit; with a step in doubt; before one that is left to others; without progress."""

EXACT, COARSE = 52, 24
"""Halvings of a step that find a root of a polynomial, and those after which it is a guess."""

NODES = np.array([0.0, 0.125, 0.25, 0.5, 0.75, 1.0])
"""Where the layers above the first are evaluated in a step; a polynomial through these values is checked."""


class Step:
    """Dense output of one step: theta at fractions x of its length, a polynomial in x."""

    def __init__(self, t, y, length, stages, powers, bend=None):
        self.t, self.y, self.length = t, y, length
        self._stages, self._powers, self._bend = stages, powers, NONE if bend is None else bend
        self._places = np.arange(max(powers.shape))

    @cached_property
    def coefficients(self):
        """Coefficients (degree, P) of x, x^2, ..."""
        from gradflow.kinks import dense

        out = np.empty((len(self._powers), self.y.size))
        dense.fill_coefficients(self._powers, self._stages, self._bend, self._places, self.length, out)
        return out

    def at(self, x):
        """Theta at the fraction x."""
        from gradflow.kinks import dense

        out, weights = np.empty(self.y.size), np.empty(len(self.coefficients))
        dense.fill_state(self.coefficients, self._places, weights, self.y, x, out)
        return out


def power_weights(name, pair) -> np.ndarray:
    """Interpolant of a Runge-Kutta pair in powers: row p - 1 holds the weights of the stages at x^p.

    For "rk45" Shampine's interpolant: inside a step its error is ten times smaller than that of the pair's own one, and
    events are located on it.
    """
    if name == "rk45":
        from scipy.integrate import RK45

        return np.ascontiguousarray(RK45.P.T)
    basis, weights = np.array([1.0]), np.zeros((len(pair.G), pair.A.shape[0]))
    for i, row in enumerate(pair.G):
        weights[: basis.size] += basis[:, None] * row
        basis = np.convolve(basis, [0.0, 1.0] if i % 2 else [1.0, -1.0])
    return weights


def bernstein_from_powers(degree) -> np.ndarray:
    """Matrix from coefficients of 1, x, ..., x^degree to Bernstein coefficients."""
    matrix = np.zeros((degree + 1, degree + 1))
    for i in range(degree + 1):
        for p in range(i + 1):
            matrix[i, p] = math.comb(i, p) / math.comb(degree, p)
    return matrix


def bernstein_from_values(nodes) -> np.ndarray:
    """Matrix from values at the nodes to Bernstein coefficients of the polynomial through them."""
    degree = len(nodes) - 1
    values = [[math.comb(degree, p) * x**p * (1.0 - x) ** (degree - p) for p in range(degree + 1)] for x in nodes]
    return np.linalg.inv(np.array(values))


class Fresh:
    """Kinks that start a step at 0: their speeds, and the speed towards the wrong side that is still rest."""

    def __init__(self, kinks=(), speed=(), rest=()):
        self.kinks = np.array(kinks, dtype=np.int64)
        self.speed, self.rest = np.array(speed, dtype=float), np.array(rest, dtype=float)


class Lookout:
    """Finds the earliest violation of the stored pattern inside a step.

    First layer: its pre-activations are polynomials in time; Bernstein coefficients of the right sign prove that
    there is no violation, else the interval is halved. Layers above: the same for the polynomial through the values at
    `nodes`, and the root is refined on the dense output itself.
    """

    def __init__(self, network, degree, nodes=NODES):
        self._network, self._passes = network, network.passes
        self._nodes = np.asarray(nodes, dtype=float)
        first = network.first_degree * degree
        self._from_powers, self._from_shorter = bernstein_from_powers(first), bernstein_from_powers(first - 1)
        self._from_values = bernstein_from_values(self._nodes)
        self._first = 0 in network.kinked_layers
        self._upper = [l for l in network.kinked_layers if l > 0]

    @property
    def proof(self):
        """Nodes, and Bernstein matrices from powers, from one power less, and from values at the nodes."""
        return self._nodes, self._from_powers, self._from_shorter, self._from_values

    def signs(self, place) -> np.ndarray:
        """+1 or -1 for the side of each kink that is watched, 0 for the others."""
        signs = np.where(self._network.live, 2.0 * place.sigma - 1.0, 0.0)
        signs[place.sliding] = signs[place.shadowed] = signs[place.fresh.kinks] = 0.0
        return signs

    def violations(self, z, scales, signs) -> np.ndarray:
        """Kinks that are on the wrong side."""
        return np.flatnonzero(signs * z < -WRONG * scales[self._network.layers])

    def first(self, step, place, scales, signs) -> tuple[float, np.ndarray]:
        """Fraction x in [0, 1] of the first violation, infinite if there is none, and the kinks that commit it."""
        z, sigma, fresh = place.here.z, place.sigma, place.fresh
        sides = 2.0 * sigma - 1.0
        found = (math.inf, np.zeros(0, dtype=np.int64))
        if self._first:
            found = self._first_layer(step, z, scales[0], signs, sides, fresh)
        if self._upper:
            found = self._upper_layers(step, z, scales, signs, sides, fresh, sigma, found)
        return found

    def _first_layer(self, step, z, scale, signs, sides, fresh):
        """First violation in the first layer."""
        stop = self._network.kinks_at[1]
        motion = self._network.first_layer(step)
        bernstein = self._from_powers @ np.vstack([z[:stop], motion])
        kinks, times = self._roots(bernstein, signs[:stop], np.full(stop, WRONG * scale))
        own = fresh.kinks < stop
        if own.any():
            new = fresh.kinks[own]
            quotients = self._from_shorter @ motion[:, new]
            some, early = self._roots(quotients, sides[new], fresh.rest[own] * step.length)
            kinks, times = np.concatenate([kinks, new[some]]), np.concatenate([times, early])
        x = float(np.min(times, initial=math.inf))
        return x, kinks[times <= x + 1e-14]

    def _upper_layers(self, step, z, scales, signs, sides, fresh, sigma, first_layer):
        """First violation in the layers above, or that of the first layer if it comes first."""
        begin = self._network.kinks_at[self._upper[0]]
        nodes = self._nodes[1:]
        values = np.vstack([z[begin:], self._network.along(step, nodes, sigma)[:, begin:]])
        slack = WRONG * scales[self._network.layers]
        kinks, times = self._roots(self._from_values @ values, signs[begin:], slack[begin:], COARSE)
        watch = Watched(begin + kinks, signs[begin + kinks], slack[begin + kinks], np.zeros(kinks.size))
        own = fresh.kinks >= begin
        own[own] = self._beyond(values[1:, fresh.kinks[own] - begin], sides[fresh.kinks[own]], slack[fresh.kinks[own]])
        if own.any():
            new, rest = fresh.kinks[own], fresh.rest[own] * step.length
            quotients = values[:, new - begin]
            quotients[1:] /= nodes[:, None]
            quotients[0] = fresh.speed[own] * step.length
            some, early = self._roots(self._from_values @ quotients, sides[new], rest, COARSE)
            times = np.concatenate([times, early])
            watch = watch.joined(Watched(new[some], sides[new[some]], np.zeros(some.size), rest[some]))
        guess = float(np.min(times, initial=math.inf))
        if guess > 1.0:
            return first_layer
        return self._refined(step, sigma, watch, guess, first_layer)

    def _refined(self, step, sigma, watch, guess, first_layer):
        """Root, on the dense output itself, near the one of the interpolating polynomial."""

        def margins(x):
            return watch.margins(self._network.along(step, np.array([x]), sigma)[0], x)

        def least(x):
            return margins(x).min()

        end = min(first_layer[0], 1.0)
        near = [guess - 1e-3, guess - 1e-6, guess + 1e-6, guess + 1e-3]
        low, at_low, high, at_high = 0.0, 0.0, math.inf, 0.0
        for x in sorted({min(max(x, 0.0), end) for x in near} | {x for x in self._nodes if guess < x < end} | {end}):
            value = least(x)
            if value < 0.0:
                high, at_high = x, value
                break
            low, at_low = x, value
        if not math.isfinite(high):
            return first_layer
        x = bracketed_root(least, low, at_low, high, at_high) if at_low > 0.0 else low
        at_root = margins(x)
        return x, watch.kinks[at_root <= max(0.0, at_root.min())]

    @staticmethod
    def _beyond(values, sides, slack):
        """Columns in which some value is on the wrong side by more than the slack: the others may be rounding."""
        return (sides * values < -slack).any(axis=0)

    def _roots(self, bernstein, signs, slack, halvings=EXACT):
        """Columns that leave their side by more than the slack, and when."""
        doubtful = np.flatnonzero((signs * bernstein < -slack).any(axis=0))
        times = np.array(
            [self._passes.first_below_zero(signs[a] * bernstein[:, a] + slack[a], halvings) for a in doubtful],
            dtype=float,
        )
        return doubtful[times <= 1.0], times[times <= 1.0]


@dataclass(frozen=True)
class Watched:
    """Kinks that may have left their side: sign of the side, slack at rest, and slack per fraction of the step."""

    kinks: np.ndarray
    signs: np.ndarray
    slack: np.ndarray
    growth: np.ndarray

    def joined(self, other) -> "Watched":
        """Both lists together."""
        columns = ("kinks", "signs", "slack", "growth")
        return Watched(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in columns))

    def margins(self, z, x) -> np.ndarray:
        """Distance of each kink from a violation at the fraction x."""
        return self.signs * z[self.kinks] + self.slack + self.growth * x


def bracketed_root(f, a, fa, b, fb, small=0.0):
    """Where f, of different signs at a and b, changes sign, to the spacing of numbers.

    The point lies on b's side of the root, or has |f| <= small.
    """
    from gradflow.kinks import roots

    search = np.empty(roots.SEARCH)
    x = roots.begin(search, a, fa, b, fb)
    while not math.isnan(x):
        x = roots.go_on(search, x, f(x), small)
    return float(search[roots.NEAREST])
