"""Gradient flow of networks with kinks (relu, leaky_relu, abs) as a differential inclusion."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradflow.kinks.arrive import NONE, Place, leave, masks_of, start
from gradflow.kinks.branch import CHOICES, chosen_sides, chosen_way
from gradflow.kinks.look import NODES, Lookout, power_weights
from gradflow.kinks.masked import MaskedNetwork
from gradflow.kinks.record import Record
from gradflow.kinks.slide import point, surface
from gradflow.kinks.wired import network_of
from gradflow.status import Status
from gradflow.steppers import tableaux
from gradflow.steppers.kinked_corners import take
from gradflow.steppers.kinked_piece import adopt, attempt
from gradflow.steppers.kinked_rest import rests
from gradflow.steppers.kinked_run import Run
from gradflow.steppers.kinked_state import pack, unpack
from gradflow.steppers.kinked_step import first_length

NO_SAVES = np.zeros(0), np.zeros((0, 0))

UNLIMITED = 2**62
"""Stands for "no limit" on a number of gradients or steps."""


class Kinked:
    r"""Adaptive stepper for :math:`\theta' \in -\partial F(\theta)` of networks with kinks.

    The activation pattern is a discrete state: stored masks, never recomputed from signs, and a set A of sliding
    kinks. Between events the path follows :math:`v = u - N^T\lambda`, :math:`N N^T\lambda = N u`, with u the velocity
    under the stored masks and N the normals of the sliding kinks. Events are located on the dense output: a
    pre-activation reaches 0 (the kink crosses or begins to slide), a sliding mask
    :math:`\sigma_a = \lambda_a / d_a` leaves [0, 1], or d vanishes (the flow branches). At a kink relu'(0) = 0.

    Parameters
    ----------
    problem : Problem
        Of a fully connected (with or without skips) or convolutional network with a relu, leaky_relu or abs layer.
    t : float
        Start time.
    theta : array_like, (P,)
        Start.
    rtol, atol : float
        Tolerances; atol is by default rtol / 100. Coarser rtol than 1e-4 (1e-6 with several kinked layers, or one
        above the first) is not reliable at kinks: the finer value is used, and `message` says so.
    at_branch : {"likely", "active", "inactive", "stay", "stop"}
        Where to go where the flow is not unique: to the side on which most gradient descents go on (active if
        sigma >= 1/2), to one side, along the ridge; "stop" returns ``Status.EVENT``, and :meth:`choose` goes on.
    pair : {"rk45", "dop853"}
        Runge-Kutta pair; "rk45" where events set the cost.
    first_step : float, optional
        Size of the first trial step.
    nodes : array_like, optional
        Fractions of a step, from 0 to 1, at which the layers above the first are looked at.
    network : MaskedNetwork, optional
        The network with stored masks, where its objective is another than the problem's, or its flow not the plain one:
        theta is then the state of that flow (``gradflow.kinks.charted.ChartedNetwork``).

    Raises
    ------
    ValueError
        For a network that cannot be followed, an unknown choice, theta of the wrong shape, or bad tolerances.

    References
    ----------
    A. F. Filippov, Differential Equations with Discontinuous Righthand Sides (Kluwer, 1988).

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> from gradflow.steppers.kinked import Kinked
    >>> loss = gf.losses.Square(reduction="sum", half=True)
    >>> problem = gf.Problem(gf.FullyConnected([2, 1, 1]), loss, [[1.0, 1.0], [0.0, 1.0]], [1.0, -1.2])
    >>> run = Kinked(problem, 0.0, [0.4, -0.1, 0.3 / np.sqrt(2)], rtol=1e-8)
    >>> print(run.advance(2.0), run.state.round(6).tolist())
    reached the end time [0.953522, 0.0, 0.885553]
    >>> run.events[["kind", "neuron", "sample"]].tolist(), run.events["time"].round(6).tolist()
    ([('slide', 0, 1)], [0.406736])
    """

    def __init__(
        self,
        problem: Any,
        t: float,
        theta: Any,
        *,
        rtol: float = 1e-6,
        atol: Any = None,
        at_branch: str = "likely",
        pair: str = "rk45",
        first_step: float | None = None,
        nodes: Any = NODES,
        network: MaskedNetwork | None = None,
    ) -> None:
        if at_branch not in CHOICES:
            raise ValueError(f"at_branch = {at_branch!r}: choose one of {', '.join(CHOICES)}")
        if first_step is not None and not first_step > 0.0:
            raise ValueError(f"first_step = {first_step}: the first step must be positive; leave it out for a guess")
        self.problem, self.network = problem, network_of(problem) if network is None else network
        theta = self.network.checked(theta)
        if theta.ndim != 1:
            raise ValueError(f"theta has shape {theta.shape}: kinks are followed one run at a time; give shape (P,)")
        used, absolute = _tolerances(rtol, atol, theta.size, coarsest=1e-4 if self.network.flat else 1e-6)
        self._note = f"rtol = {used:g} was used, since {rtol:g} is not reliable at kinks" if used < rtol else ""
        tableau = tableaux.pair(pair)
        powers = power_weights(pair, tableau)
        here = Place(theta, np.zeros(self.network.size), NONE, np.zeros(0, bool))
        self._run = Run(
            network=self.network,
            pair=tableau,
            powers=powers,
            lookout=Lookout(self.network, len(powers), nodes),
            rtol=used,
            atol=absolute,
            at_branch=at_branch,
            place=here,
            t=float(t),
            t_before=float(t),
            theta_before=theta.copy(),
            record=Record(self.network),
        )
        with np.errstate(all="ignore"):
            if np.isfinite(theta).all():
                adopt(self._run, start(self.network, theta))
            if first_step is not None:
                self._run.h = float(first_step)
            elif self._run.finite:
                self._run.h = first_length(self._run)

    def advance(
        self,
        t_end: float,
        *,
        save_at: np.ndarray | None = None,
        saved: np.ndarray | None = None,
        max_gradients: int = UNLIMITED,
        max_steps: int = UNLIMITED,
        loss_below: float = -math.inf,
    ) -> Status:
        """Step until t_end or another reason to stop; the arguments are those of ``Explicit.advance``.

        A piece of a step that ends at an event counts as a step. Neither saving nor pausing changes the steps. The last
        step may use a few gradients more than max_gradients, where an event is located.

        Returns
        -------
        Status
            LOSS_BELOW, PAUSED (max_steps), GRADIENT_BUDGET; REACHED_END, the last part by the linearised flow where
            it moves theta by a few tolerances only (`message` says so); EVENT at a branch point with at_branch="stop";
            STALLED_AT_KINK after 200 events that together take less than a thousandth of a step, or where no choice of
            sides agrees with the velocity (`message` names the kinks); STEP_TOO_SMALL, DIVERGED, NOT_FINITE_START.
        """
        run, t_end = self._run, float(t_end)
        if not t_end >= run.t:
            raise ValueError(f"t_end = {t_end} lies before t = {run.t}: a stepper goes forward; give a later t_end")
        if not run.dispute and not run.finite:
            return Status.NOT_FINITE_START
        if run.cut_at != t_end:
            run.uncut = run.cut_at = run.rest = None
        last = run.counts["accepted"] + max_steps
        saves = NO_SAVES if save_at is None else (np.ascontiguousarray(save_at, dtype=float), saved)
        with np.errstate(all="ignore"):
            while True:
                self._save(save_at, saved)
                status = self._reason(t_end, max_gradients, last, loss_below)
                if status is None and self._rests(t_end):
                    continue
                limits = t_end, saves, loss_below, max_gradients, last
                status = self._attempt(limits) if status is None else status
                if status is Status.STALLED_AT_KINK and self._rests(t_end, now=True):
                    run.dispute = ""
                    continue
                if status is not None:
                    self._save(save_at, saved)
                    return status

    def _attempt(self, limits) -> Status | None:
        """Step as long as nothing happens, then end a step at the first event inside; a reason to stop, or None.

        `limits` are the end time, the save times and the room for their states, a loss, and numbers of gradients and
        accepted steps.
        """
        return attempt(self._run, limits)

    def _rests(self, t_end, *, now=False) -> bool:
        """Whether the run has come to its end at rest."""
        return rests(self._run, t_end, now=now)

    def _reason(self, t_end, max_gradients, last, loss_below) -> Status | None:
        """Reason to stop before the next step, if any."""
        run = self._run
        if run.dispute:
            return Status.STALLED_AT_KINK
        if self.value < loss_below:
            return Status.LOSS_BELOW
        if run.waiting is not None:
            return Status.EVENT
        if run.t >= t_end:
            return Status.REACHED_END
        if run.counts["accepted"] >= last:
            return Status.PAUSED
        if run.counts["gradients"] + run.pair.A.shape[0] - 1 > max_gradients:
            return Status.GRADIENT_BUDGET
        return None

    def choose(self, choice: Any) -> None:
        """Go on from a branch point at which the run has stopped.

        Parameters
        ----------
        choice : {"likely", "active", "inactive", "stay"} or array_like of int
            Where the branching kinks go, or a side 0 or 1 for each of them; at a corner one of its `ways`.

        Raises
        ------
        ValueError
            If the run does not wait at a branch point, or for another choice.
        """
        run = self._run
        if run.waiting is None:
            raise ValueError("the run does not wait at a branch point: make it with at_branch='stop', and advance it")
        kinks, sigma = run.waiting.kinks, run.waiting.sigma
        if isinstance(choice, str) and choice not in CHOICES[:-1]:
            raise ValueError(f"choice = {choice!r}: choose one of {', '.join(CHOICES[:-1])}, or give sides 0 and 1")
        branch, run.waiting = run.waiting, None
        if len(branch.ways):
            status = chosen_way(choice, branch) if isinstance(choice, str) else np.array(choice, dtype=np.int64)
            adopt(run, take(self.network, run.place, kinks, np.broadcast_to(status, kinks.shape)))
            return
        if isinstance(choice, str) and choice == "stay":
            return
        sides = chosen_sides(choice, sigma) if isinstance(choice, str) else np.array(choice, dtype=np.int64)
        run.place.held = run.place.held & ~np.isin(run.place.sliding, kinks)
        adopt(run, leave(self.network, run.place, run.place.theta, kinks, np.broadcast_to(sides, kinks.shape)))

    def _save(self, save_at, saved):
        """Write the states at save times inside the last accepted step."""
        if save_at is None:
            return
        first = np.searchsorted(save_at, self._run.t_before)
        for k in range(first, np.searchsorted(save_at, self._run.t, "right")):
            saved[k] = self.dense(save_at[k])

    def dense(self, t: Any) -> np.ndarray:
        """State at a time, or at times (m,), inside the last accepted step: (P,) or (m, P)."""
        if np.ndim(t):
            return np.stack([self.dense(time) for time in np.asarray(t, dtype=float)])
        run = self._run
        if not run.t_before <= t <= run.t:
            raise ValueError(f"t = {t}: dense output is known from {run.t_before} to {run.t}")
        if t == run.t:
            return run.place.theta.copy()
        if t == run.t_before or run.step is None:
            return run.theta_before.copy()
        return run.step.at((t - run.step.t) / run.step.length)

    def along_last_step(self, t: float, state: np.ndarray, velocity: np.ndarray) -> float:
        """Objective and velocity at a state inside the last accepted step, under its masks and on its sliding kinks."""
        here = point(self.network, state, *self.pattern_before)
        velocity[:] = here.velocity
        return float(here.value)

    def snapshot(self) -> dict[str, Any]:
        """What a run needs to go on: numbers and arrays, all copies; pattern, sliding kinks and record included.

        After a step cut at t_end it describes the state before the cut: a stepper restored from it takes the steps of
        one longer run, bit for bit.
        """
        return pack(self._run) if self._run.uncut is None else dict(self._run.uncut)

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go to the state that a snapshot describes; ValueError if it belongs to another problem."""
        unpack(self._run, snapshot)

    @property
    def t(self) -> float:
        """Time after the last accepted step."""
        return self._run.t

    @property
    def t_before(self) -> float:
        """Time before the last accepted step."""
        return self._run.t_before

    @property
    def state(self) -> np.ndarray:
        """State theta after the last accepted step, a copy."""
        return self._run.place.theta.copy()

    @property
    def state_before(self) -> np.ndarray:
        """State before the last accepted step, a copy."""
        return self._run.theta_before.copy()

    @property
    def value(self) -> float:
        """Objective at the state."""
        here = self._run.place.here
        return math.nan if here is None else float(here.value)

    @property
    def velocity(self) -> np.ndarray:
        """Velocity at the state, a copy."""
        here = self._run.place.here
        return np.full(self._run.place.theta.size, math.nan) if here is None else here.velocity.copy()

    @property
    def step(self) -> float:
        """Size that the next step tries."""
        return float(self._run.h)

    @property
    def counts(self) -> dict[str, int]:
        """Gradients, accepted and rejected steps so far; forward passes alone are not counted."""
        return dict(self._run.counts)

    @property
    def events(self) -> np.ndarray:
        """Table of what happened at kinks, a structured array of type ``gradflow.kinks.record.EVENT``."""
        return self._run.record.table

    @property
    def record(self) -> Record:
        """The record of what happened at kinks."""
        return self._run.record

    @property
    def number_sliding(self) -> tuple[np.ndarray, np.ndarray]:
        """Times at which the number of sliding kinks changes, and the number from then on."""
        return self._run.record.number_sliding

    @property
    def regions(self) -> int:
        """Number of different activation regions visited."""
        return self._run.record.regions

    @property
    def branch_points(self) -> list:
        """Points after which the flow is not unique, each a ``gradflow.kinks.branch.Branch``."""
        return list(self._run.branch_points)

    @property
    def masks(self) -> np.ndarray:
        """Masks sigma of all hidden units, layer by layer, sample by sample; inside (0, 1) on sliding kinks."""
        place = self._run.place
        masks = place.sigma.copy()
        self.network.set_masks(masks, place.sliding, masks_of(place))
        return masks

    @property
    def pattern(self) -> tuple[np.ndarray, Any]:
        """Masks, and surface of the sliding kinks, with which the next step begins."""
        return self._run.place.sigma, self._run.place.surface

    @property
    def pattern_before(self) -> tuple[np.ndarray, Any]:
        """Masks, and surface of the sliding kinks, under which the last accepted step was taken."""
        run = self._run
        place = run.place if run.place_before is None else run.place_before
        if place.surface is None and place.sliding.size:
            place.surface = surface(self.network, place.sliding)
        return place.sigma, place.surface

    @property
    def sliding(self) -> np.ndarray:
        """Positions of the sliding kinks in `masks`."""
        return self._run.place.sliding.copy()

    @property
    def message(self) -> str:
        """What a user must know besides the status: refined tolerance, branch points, undecided kinks; or ""."""
        run = self._run
        parts = [self._note, run.dispute]
        for branch in run.branch_points:
            sigma = ", ".join(f"{mask:.2f}" for mask in branch.sigma[:5])
            place = run.name(branch.kinks[0]).rpartition(" sample")[0]
            parts.append(f"the flow is not unique after t = {branch.time:.6g}: {place}, sigma = {sigma}")
        for time, neuron in run.origins:
            parts.append(f"the flow may not be unique after t = {time:.6g}: layer 1 neuron {neuron} at the origin")
        if run.rest is not None:
            parts.append(f"at rest from t = {run.rest:.6g} on, to within a few tolerances")
        return "; ".join(part for part in parts if part)


def _tolerances(rtol, atol, size, coarsest) -> tuple[float, Any]:
    """Checked tolerances, the relative one no coarser than is reliable."""
    if not rtol > 0.0:
        raise ValueError(f"rtol = {rtol}: the relative tolerance must be positive")
    used = min(float(rtol), coarsest)
    absolute = np.asarray(used / 100.0 if atol is None else atol, dtype=float)
    if absolute.shape not in ((), (size,)) or not np.all(absolute >= 0.0):
        raise ValueError(f"atol = {atol}: must not be negative, and be a number or of shape ({size},)")
    return used, absolute
