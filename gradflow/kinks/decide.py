r"""Cross or slide: which kinks that a path has reached become sliding, and on which side the others are left.

At the kinks in question the velocity is :math:`v = u - \sum \sigma_a d_a n_a`, with sigma 0 or 1 on a side and
:math:`\sigma_a = \lambda_a / d_a` on a sliding kink. A side is right if :math:`w_a = n_a\cdot v` points to it;
sliding is right if d > 0 and sigma lies in [0, 1].
"""

from dataclasses import dataclass

import numpy as np

from gradflow.kinks import rules
from gradflow.kinks.rules import SLIDE, TIE
from gradflow.kinks.slide import Planes, Point, Surfaces, point, solve_gram, stacked, stacked_attractions, surface


@dataclass(frozen=True)
class Trial:
    """What a choice of sides and sliding kinks leads to: lambda, d, speeds w along normals, speeds that are rest."""

    multipliers: np.ndarray
    attraction: np.ndarray
    speed: np.ndarray
    tie: np.ndarray


@dataclass(frozen=True)
class Leave:
    """Exceptions for some kinks.

    `calm` ones keep their side whatever their speed, `held` ones may slide with d < 0, and sigma may leave [0, 1] by
    `slack` (below 0: it must stay inside by so much).
    """

    calm: np.ndarray
    held: np.ndarray
    slack: np.ndarray


def no_leave(m) -> Leave:
    """No exceptions, for m kinks."""
    return Leave(np.zeros(m, bool), np.zeros(m, bool), np.full(m, -TIE))


def decide(trial, status, leave):
    """Sides (0, 1) and sliding kinks (2) that agree with the velocity they lead to.

    Pivoting: the worst offender changes; after a repetition the first one, which ends cycles.

    Parameters
    ----------
    trial : callable
        ``trial(status) -> Trial``.
    status : ndarray of int, (m,)
        First guess.
    leave : Leave
        Exceptions.

    Returns
    -------
    (ndarray of int, Trial) or (None, ndarray of bool)
        None, with the kinks that still disagree, if no choice was found.
    """
    status, seen, first = status.copy(), set(), False
    offence = np.zeros(status.size)
    for _ in range(60 * max(1, status.size)):
        found = trial(status)
        offence, better = offences(found, status, leave)
        if not offence.any():
            return status, found
        key = status.tobytes()
        first = first or key in seen
        seen.add(key)
        worst = int(np.flatnonzero(offence)[0]) if first else int(np.argmax(offence))
        status[worst] = better[worst]
    return None, offence > 0.0


def offences(found, status, leave) -> tuple[np.ndarray, np.ndarray]:
    """How much each kink's status disagrees with the velocity (0: agrees), and the status to try instead."""
    numbers = np.array([found.multipliers, found.attraction, found.speed, found.tie], dtype=float)
    limits = np.array([leave.slack, np.zeros(status.size)])
    marks, better = np.array([status, leave.calm, leave.held], dtype=np.int64), np.empty(status.size, np.int64)
    rules.offences(numbers, limits, marks, better)
    return limits[1], better


def ties(gram, speed, d) -> np.ndarray:
    """Normal speeds that count as rest; a normal that is short beside the others may be rounding only."""
    tie = np.empty(d.size)
    rules.rests(np.ascontiguousarray(gram), np.atleast_1d(speed), d, tie)
    return tie


class FlatTrials:
    """Trials at kinks of the first layer: one gradient serves all, since outputs and adjoints do not change."""

    def __init__(self, network, theta, sigma, kinks, guess):
        self.network, self.theta, self.kinks = network, theta, kinks
        self.sigma = sigma.copy()
        self._fixed = np.where(guess == SLIDE, 0, guess)
        network.set_masks(self.sigma, kinks, self._fixed)
        self._run = network.run(theta, self.sigma)
        self.gradients = 1
        rows, neurons = network.extended_samples(network.samples[kinks]), network.neurons[kinks]
        pull, mobility = network.first_metric(theta, neurons)
        self._gram = rows @ rows.T * (neurons[:, None] == neurons[None, :]) * (mobility * pull**2)
        self._d = network.attraction(self._run.delta, kinks)
        moves = -self._run.gradient[network.first_entries[neurons]]
        self._normal_speed = pull * np.einsum("ap,ap->a", rows, moves) + self._gram @ (self._d * self._fixed)
        self._tie = ties(self._gram, np.linalg.norm(moves, axis=1) / np.sqrt(mobility), self._d)

    def __call__(self, status) -> Trial:
        """Multipliers and speeds for one choice."""
        sliding = status == SLIDE
        plain = self._normal_speed - self._gram @ (self._d * (status == 1))
        multipliers = np.zeros(status.size)
        multipliers[sliding] = solve_gram(self.network, self._gram[np.ix_(sliding, sliding)], plain[sliding])
        return Trial(multipliers, self._d, plain - self._gram @ multipliers, self._tie)

    def point(self, status, sliding):
        """Velocity for the final choice, all sliding kinks of the network included."""
        fixed = np.where(status == SLIDE, 0, status)
        if np.array_equal(fixed, self._fixed):
            return point(self.network, self.theta, self.sigma, sliding, self._run)
        self.network.set_masks(self.sigma, self.kinks, fixed)
        self.gradients += 1
        return point(self.network, self.theta, self.sigma, sliding)


class CurvedTrials:
    """Trials at kinks of any layer: a gradient for each choice of masks."""

    def __init__(self, network, theta, sigma, kinks, guess):
        self.network, self.theta, self.kinks = network, theta, kinks
        self.sigma, self._run = sigma.copy(), None
        self._fixed = np.full(guess.size, -1)
        self.gradients = 0

    def _set(self, status):
        """Gradient and normals under the masks of a choice."""
        fixed = np.where(status == SLIDE, 0, status)
        if self._run is None or not np.array_equal(fixed, self._fixed):
            self._fixed = fixed
            self.network.set_masks(self.sigma, self.kinks, fixed)
            self._run = self.network.run(self.theta, self.sigma)
            self.gradients += 1
            self._normals = self.network.normals(self.theta, self._run.slope, self._run.h, self.kinks)
            self._gram = self._normals @ self.network.raised(self.theta, self._normals).T
        return self._run

    def __call__(self, status) -> Trial:
        """Multipliers and speeds for one choice."""
        run, sliding = self._set(status), status == SLIDE
        plain, multipliers = -(self._normals @ run.gradient), np.zeros(status.size)
        multipliers[sliding] = solve_gram(self.network, self._gram[np.ix_(sliding, sliding)], plain[sliding])
        d = self.network.attraction(run.delta, self.kinks)
        if stacked(self.network, self.kinks, sliding):
            d = stacked_attractions(self.network, self.theta, run, self.kinks, multipliers, sliding)
        tie = ties(self._gram, run.speed, d)
        return Trial(multipliers, d, plain - self._gram @ multipliers, tie)

    def point(self, status, sliding):
        """Velocity for the final choice."""
        return point(self.network, self.theta, self.sigma, sliding, self._set(status))


def trials(network, theta, sigma, kinks, guess):
    """Trials in the form that suits the network."""
    return (FlatTrials if network.flat else CurvedTrials)(network, theta, sigma, kinks, guess)


@dataclass(frozen=True)
class Settled:
    """Status of the kinks, all masks and sliding kinks of the network, the velocity there, gradients used."""

    status: np.ndarray
    sigma: np.ndarray
    sliding: np.ndarray
    surface: Planes | Surfaces | None
    here: Point
    gradients: int


@dataclass(frozen=True)
class Undecided:
    """Kinks for which no status was found, gradients used."""

    kinks: np.ndarray
    gradients: int


def settle(network, theta, sigma, kinks, guess, others, leave) -> Settled | Undecided:
    """Decide the status of the kinks at theta; `others` are sliding kinks that stay so. See :func:`decide`."""
    trial = trials(network, theta, sigma, kinks, guess)
    status, found = decide(trial, guess, leave)
    if status is None:
        return Undecided(kinks[found], trial.gradients)
    sliding = np.sort(np.concatenate([others, kinks[status == SLIDE]])).astype(np.int64)
    joint = surface(network, sliding) if sliding.size else None
    here = trial.point(status, joint)
    return Settled(status, trial.sigma, sliding, joint, here, trial.gradients)
