"""The automatic solver at kinks: explicit steps, implicit ones where the frozen pattern is stiff."""

from typing import Any

from gradflow.status import Status
from gradflow.steppers.auto import stiff_gradients
from gradflow.steppers.kinked import UNLIMITED, Kinked
from gradflow.steppers.kinked_rest import LOOK, fastest_decay
from gradflow.steppers.kinked_stiff import KinkedStiff, frozen

STABILITY = 2.5
"""Step times |Jacobian| from which stability bounds the explicit step; the pair becomes unstable at 3.3."""

QUIET = 16
"""Accepted steps without an event before the first change to implicit steps; doubled whenever these were slower."""

INTERPRETED = 500.0
"""Gradients that must remain where explicit steps are not compiled: implicit ones then cost as much."""

NEAR_END = 12.0
"""An implicit step is at most so many times as long as the one before, so that it can be seen whether it may be cut."""


class KinkedAuto(KinkedStiff):
    r"""Stepper for :math:`\theta' \in -\partial F(\theta)` with kinks: explicit, implicit where that pays.

    Every 32 accepted steps the frozen field is looked at. Where no kink has been met for as many, stability bounds the
    explicit step (step times \|Jacobian\| above 2.5, by Arnoldi's method), and more gradients are ahead than the
    automatic solver asks for before it calls the stiff one (500 for other flows and networks with skips),
    :class:`gradflow.steppers.stiff.Stiff` steps along the frozen field up to the next event. ``notes`` say when
    this happened first.

    Parameters
    ----------
    problem, t, theta, rtol, atol, at_branch, network
        As for :class:`Kinked`.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> from gradflow.steppers.kinked_auto import KinkedAuto
    >>> x = [[20.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]
    >>> problem = gf.Problem(gf.FullyConnected([2, 4, 1]), gf.losses.Square(), x, [1.0, -1.0, 0.5])
    >>> run = KinkedAuto(problem, 0.0, problem.init(1.0, seed=1))
    >>> print(run.advance(1e5), len(run.notes))
    reached the end time 1
    """

    def __init__(self, problem: Any, t: float, theta: Any, **options: Any) -> None:
        super().__init__(problem, t, theta, **options)
        self.notes: list[str] = []
        run = self._run
        run.patience, run.most_events = QUIET, UNLIMITED
        run.least_ahead = INTERPRETED if run.compiled is None else stiff_gradients(self.problem.kernel.flops)

    def _attempt(self, limits) -> Status | None:
        """Explicit steps up to the next event or look; or an implicit one."""
        if self._stiff is None and self._pays(limits[0]):
            self._begin()
        if self._stiff is not None:
            return self._implicit_step(limits[0])
        return Kinked._attempt(self, limits)

    def _pays(self, t_end) -> bool:
        """Whether implicit steps are to take over; looked at every few steps, by their number."""
        run = self._run
        accepted, per_step = run.counts["accepted"], run.pair.A.shape[0] - 1
        if accepted % LOOK or accepted - run.since < run.patience or not run.finite:
            return False
        if (t_end - run.t) / run.h * per_step <= run.least_ahead:
            return False
        self._jacobian = fastest_decay(run)
        return run.h * self._jacobian > STABILITY

    def _begin(self) -> None:
        """Put the stiff stepper in charge."""
        run = self._run
        if not self.notes:
            self.notes.append(
                f"between events by the stiff solver from t = {run.t:.6g} on: the explicit step {run.h:.3g} was bound"
                f" by stability (|Jacobian| = {self._jacobian:.4g}) with most of the time still ahead"
            )
        self._stiff, self._spent = frozen(run), 0
        run.entered = run.t, run.counts["gradients"], run.h / (run.pair.A.shape[0] - 1)

    def _implicit_step(self, t_end) -> Status | None:
        """A step of the stiff stepper; what a longer run needs is kept where it may be cut at t_end."""
        run = self._run
        cut = run.t + NEAR_END * max(run.h, run.t - run.t_before) >= t_end and run.cut_at != t_end
        before = self.snapshot() if cut else None
        status = self._implicit(t_end)
        if before is not None and run.t >= t_end:
            run.uncut, run.cut_at = before, t_end
        return status

    def _changed(self, status):
        """Go on with explicit steps; for longer where the implicit ones were no faster."""
        run = self._run
        t, gradients, pace = run.entered
        slower = run.t - t < pace * (run.counts["gradients"] - gradients)
        run.patience = 2 * run.patience if slower else QUIET
        run.since = run.counts["accepted"]
        return super()._changed(status)

    def restore(self, snapshot) -> None:
        """Go to the state that a snapshot describes, with the stiff stepper if it was in charge."""
        super().restore(snapshot)
        own = {key.removeprefix("stiff_"): value for key, value in snapshot.items() if key.startswith("stiff_")}
        if own:
            self._stiff = frozen(self._run)
            self._stiff.restore(own)
            self._spent = self._stiff.counts["gradients"]
