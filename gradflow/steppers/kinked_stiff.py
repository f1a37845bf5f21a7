"""Implicit steps through kinks: the stiff stepper on the frozen pattern, started anew where the pattern changes."""

import functools
import math
from dataclasses import replace
from typing import Any, cast

import numpy as np

from gradflow.kernels.kernel import Kernel
from gradflow.kinks.arrive import arrive
from gradflow.kinks.look import NODES, Fresh, Lookout, Step
from gradflow.kinks.slide import Point, point
from gradflow.kinks.watch import first_departure
from gradflow.status import Status
from gradflow.steppers.field import Field
from gradflow.steppers.kinked import Kinked
from gradflow.steppers.kinked_corners import escape
from gradflow.steppers.kinked_piece import depart, finish, leave_at, move, on_path
from gradflow.steppers.kinked_step import first_length
from gradflow.steppers.stiff import Stiff

MOST_DEGREE = 7
"""Degree of the dense output of the stiff stepper at its highest order."""

QUIET = 20
"""Explicit steps without an event after which the next one is taken to be far."""

HINTS = (0.25, 0.5, 0.75)
"""Fractions of a step at which the masks of sliding kinks are looked at."""


class KinkedStiff(Kinked):
    r"""Stepper for :math:`\theta' \in -\partial F(\theta)` with kinks, for stiff parts with few events.

    Between events the field of the frozen pattern is smooth, and :class:`gradflow.steppers.stiff.Stiff` steps along it;
    on flat surfaces as the gradient flow of :math:`F \circ P`, P the projection onto the surface, whose Jacobian is
    symmetric. Its dense output is a polynomial, on which events are located as in :class:`Kinked`. It begins at order
    1, which costs some 200 gradients: explicit steps are taken until 20 of them in a row have met no event.

    Parameters
    ----------
    problem, t, theta, rtol, atol, at_branch, network
        As for :class:`Kinked`.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> from gradflow.steppers.kinked_stiff import KinkedStiff
    >>> loss = gf.losses.Square(reduction="sum", half=True)
    >>> problem = gf.Problem(gf.FullyConnected([2, 1, 1]), loss, [[1.0, 1.0], [0.0, 1.0]], [1.0, -1.2])
    >>> run = KinkedStiff(problem, 0.0, [0.4, -0.1, 0.3 / np.sqrt(2)], rtol=1e-8)
    >>> print(run.advance(2.0), run.state.round(6).tolist())
    reached the end time [0.953522, 0.0, 0.885553]
    """

    def __init__(self, problem: Any, t: float, theta: Any, **options: Any) -> None:
        super().__init__(problem, t, theta, **options)
        self._lookout = Lookout(self.network, MOST_DEGREE, NODES)
        self._spent = self._quiet = 0
        self._run.most_events = 1

    @property
    def _stiff(self) -> Stiff | None:
        """The stiff stepper while it is in charge."""
        return self._run.stiff

    @_stiff.setter
    def _stiff(self, stiff):
        self._run.stiff = stiff

    def _attempt(self, limits) -> Status | None:
        """Try one step, or as many explicit ones as are undisputed; end it at the first event inside."""
        run, (*others, last) = self._run, limits
        if self._stiff is None and self._quiet < QUIET:
            masks, accepted = run.place.sigma, run.counts["accepted"]
            status = super()._attempt((*others, min(last, accepted + QUIET - self._quiet)))
            quiet = run.place.sigma is masks
            self._quiet = self._quiet + run.counts["accepted"] - accepted if quiet else 0
            return status
        return self._implicit(limits[0])

    def _rests(self, t_end, *, now=False) -> bool:
        """Whether the run has come to its end at rest."""
        rested = super()._rests(t_end, now=now)
        if rested:
            self._stiff, self._quiet = None, 0
        return rested

    def _implicit(self, t_end) -> Status | None:
        """The same by the stiff stepper."""
        run, network, lookout = self._run, self.network, self._lookout
        place, here = run.place, cast(Point, run.place.here)
        scales = network.scales(place.theta, here.z)
        signs = lookout.signs(place)
        if lookout.violations(here.z, scales, signs).size:
            return self._changed(finish(run, 0.0, None, arrive(network, place, place.theta, here.z)))
        if self._stiff is None:
            self._stiff, self._spent = frozen(run), 0
        status = self._stiff.advance(math.inf, max_steps=1)
        self._count()
        if status != Status.PAUSED:
            return status
        step = _polynomial(self._stiff, run.t)
        x, culprits = lookout.first(step, place, scales, signs)
        cut = (t_end - run.t) / step.length
        departure = None
        if place.sliding.size:
            path = functools.partial(on_path, run, step)
            hints = [(share, path(share)) for share in HINTS]
            departure = first_departure(place, hints, path(1.0), path, min(x, cut, 1.0))
        out = escape(run, step, min(x, cut, 1.0 if departure is None else departure.x))
        if out is not None:
            return self._changed(leave_at(run, out, step))
        if departure is not None:
            return self._changed(depart(run, departure, step))
        if x <= min(cut, 1.0):
            outcome = arrive(network, place, step.at(x), here.z, culprits)
            return self._changed(finish(run, x, step, outcome))
        if cut < 1.0:
            theta = step.at(cut)
            move(run, step, replace(place, theta=theta, here=run.evaluate(theta), fresh=Fresh()), t_end)
            return self._changed(None)
        theta = self._stiff.state
        if place.surface is not None and place.surface.curved:
            theta = place.surface.restore(theta, place.sigma)
        move(run, step, replace(place, theta=theta, here=self._here(theta), fresh=Fresh()), run.t + step.length)
        return None

    def _changed(self, status):
        """Go on with explicit steps."""
        self._stiff, self._quiet = None, 0
        if self._run.finite:
            self._run.h = first_length(self._run)
        return status

    def _count(self):
        """Add the gradients that the stiff stepper has spent."""
        counts = self._stiff.counts if self._stiff is not None else {"gradients": 0, "rejected": 0}
        self._run.counts["gradients"] += counts["gradients"] - self._spent
        self._spent = counts["gradients"]

    def _here(self, theta) -> Point:
        """Velocity at the end of a whole step: without sliding kinks that of the formula, which costs nothing."""
        run = self._run
        known = self.at_newest()
        if known is None or run.place.sliding.size:
            return run.evaluate(theta)
        none = np.zeros(0)
        return Point(known[0], known[1], self.network.forward(theta, run.place.sigma)[0], none, none)

    def at_newest(self) -> tuple[float, np.ndarray, np.ndarray] | None:
        """Objective, velocity and acceleration after a whole step, as the formula has them; else None."""
        return None if self._stiff is None else self._stiff.at_newest()

    def restore(self, snapshot) -> None:
        """Go to the state that a snapshot describes; the steps begin anew there."""
        super().restore(snapshot)
        self._stiff, self._quiet = None, 0


def frozen(run) -> Stiff:
    """The stiff stepper on the frozen pattern of the place of a run."""
    network, sigma, surface = run.network, run.place.sigma, run.place.surface
    flat = surface is None or not surface.curved

    def gradient(theta, out, numbers, layout, work):
        if surface is not None and flat:
            theta = surface.restore(theta, sigma)
        here = point(network, theta, sigma, surface)
        out[:] = -here.velocity
        return here.value

    kernel = Kernel("frozen pattern", gradient, None, np.zeros(1), np.zeros(1, np.int64), 0, False, 2.0 * sigma.size)
    return Stiff(
        Field((_descend,), kernel),
        run.t,
        run.place.theta,
        rtol=run.rtol,
        atol=run.atol,
        symmetric=flat and network.euclidean,
    )


def _descend(t, state, out, chain, numbers, layout, work, coefficients):
    """Minus the gradient."""
    value = chain[0](state, out, numbers, layout, work)
    out[:] = -out
    return value


def _polynomial(stiff: Stiff, t: float) -> Step:
    """The last step of the stiff stepper as a polynomial in the fraction x of its length."""
    length, differences = stiff.differences
    total, basis = np.zeros((MOST_DEGREE + 1, differences.shape[1])), np.array([1.0])
    for j, row in enumerate(differences):
        total[: basis.size] += np.outer(basis, row)
        basis = np.convolve(basis, [j - 1.0, 1.0]) / (j + 1.0)
    powers = np.eye(MOST_DEGREE)
    return Step(t, total[0], length, total[1:] / length, powers, None)
