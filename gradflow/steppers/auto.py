"""The automatic solver: explicit, stabilised or stiff, as measured stiffness and remaining work ask for."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import Any

from gradflow.status import Status
from gradflow.steppers.adams import Adams
from gradflow.steppers.explicit import Explicit
from gradflow.steppers.saving import last_snapshot
from gradflow.steppers.stabilised import Stabilised
from gradflow.steppers.stiff import Stiff

LOOSE = 1e-4
"""Relative tolerance from which a run begins with the stabilised method, and does not leave it for the pair."""
LOOSEST = 2e-3
"""Largest relative tolerance used: beyond it a step may jump over a saddle, and hardly any gradient is saved."""
STABILITY = 5.0
"""Step times |Jacobian| above which stability, not accuracy, bounds a step of the pair."""
ACCURACY = 2.3
"""Step times |Jacobian| below which the stabilised method spends more gradients than the pair would."""
BOUND_STEPS, FREE_STEPS = 4, 8
"""Such steps before the pair is left, doubled at each return to it; and before the stabilised method is left."""
STIFF, STIFF_AND_LOOSE = 3.0, 10.0
"""Step times |Jacobian| above which a stabilised step counts as stiff; the second at loose tolerances."""
LEAST_AHEAD = 1000.0
"""Gradients of the pair that must remain for a change to the stabilised method."""
BEGIN_WITH = 0.5
"""First step of a method over the step of the one before."""
COSTLY_SHARE, CHEAP_SHARE = 0.5, 3.0
"""Gradients of the Adams stepper that must remain, over those of a pair, before the stiff solver pays. Where gradients
are cheap, its linear algebra weighs more."""
CAUTION = 0.1
"""Tolerance of the Adams stepper over the one asked for, where it takes the place of the pair, whose errors are far
below the tolerance."""
TIGHT = 1e-9
"""Relative tolerance below which cheap runs begin with the pair: it follows a decay to far below the tolerance."""
TIGHTEST_ADAMS = 1e-12
"""Relative tolerance below which rounding in the differences of the Adams stepper shows."""


def stiff_gradients(flops: float) -> float:
    """Gradients that must remain, at least, before the stiff solver pays: more for cheap gradients.

    The cost of a gradient comes from its operations at a nominal rate, so that the decision never depends on a clock.
    """
    seconds = 5e-7 + 5e-11 * flops
    return 1500.0 * (1.0 + 6e-6 / seconds)


def adams_pays(flops: float, size: int, rtol: float) -> bool:
    """Whether gradients cost so much more than passes over the state that the Adams stepper saves time on any flow."""
    return 5e-7 + 5e-11 * flops > 8e-6 + 5e-9 * size and rtol >= TIGHTEST_ADAMS


def _joined(taken: Any, own: dict) -> dict:
    """A snapshot, or what makes it, with what the automatic solver adds."""
    known: Any = taken() if callable(taken) else taken
    return known | own


class Auto:
    """One run that changes its solver as it goes; same interface as the solvers.

    Costly gradients: it begins with the Adams stepper. Cheap ones: at loose tolerances with the stabilised method of
    order 4, else with the Adams stepper on the plain flow and with the pair of order 8 on others. Where stability binds
    the steps of the pair, the stabilised method goes on with a fraction of the gradients; where accuracy binds its
    steps, the pair returns, and is left less readily each time. Where the steps of the Adams or the stabilised method
    are stiff and many gradients are still ahead, the stiff solver takes over for good. With kinks the pair of order 5
    takes the place of the other methods for cheap gradients, and nothing is handed over: a jump of the gradient is not
    stiffness. Each change, with its reason, is in ``notes``.
    """

    def __init__(self, field, t, state, *, rtol, atol, symmetric, kinked, plain=False):
        self.field, self._symmetric, self._kinked = field, symmetric, kinked
        self._costly = adams_pays(field.kernel.flops, len(state), rtol)
        self._rtol = rtol if kinked or self._costly else min(rtol, LOOSEST)
        self._atol = atol if self._rtol == rtol else atol * (self._rtol / rtol)
        self._bound_steps = BOUND_STEPS
        self._base: dict[str, int] = {}
        self._next = ""
        self.notes: list[str] = []
        loose, tight = self._rtol >= LOOSE, self._rtol < TIGHT
        cheap = "Explicit" if kinked else "Stabilised" if loose else "Adams" if plain and not tight else "Explicit"
        self._current = self._made("Adams" if self._costly else cheap, t, state)

    def _made(self, name: str, t, state, first_step=None) -> Any:
        """A solver of a kind at a state."""
        tolerances = {"rtol": self._rtol, "atol": self._atol}
        if name == "Stiff":
            return Stiff(self.field, t, state, symmetric=self._symmetric, **tolerances)
        if name == "Adams":
            share, caution = (COSTLY_SHARE, 1.0) if self._costly else (CHEAP_SHARE, CAUTION)
            options = {"rtol": caution * self._rtol, "atol": caution * self._atol}
            remaining = inf if self._kinked else share * stiff_gradients(self.field.kernel.flops)
            return Adams(self.field, t, state, stiff_gradients=remaining, **options)
        if name == "Stabilised":
            stiff, calm = (STIFF_AND_LOOSE, 0.0) if self._rtol >= LOOSE else (STIFF, ACCURACY)
            options = {"stiff_limit": stiff, "stiff_gradients": stiff_gradients(self.field.kernel.flops)}
            options |= {"calm_limit": calm, "calm_steps": FREE_STEPS}
            return Stabilised(self.field, t, state, first_step=first_step, **options, **tolerances)
        if self._kinked:
            return Explicit(self.field, t, state, pair="rk45", **tolerances)
        options = {"stiff_limit": STABILITY, "stiff_gradients": LEAST_AHEAD, "stiff_steps": self._bound_steps}
        return Explicit(self.field, t, state, first_step=first_step, **options, **tolerances)

    def advance(self, t_end, *, max_gradients=2**62, **options) -> Status:
        """Advance with the solver in charge; when another one should go on, the next call changes over.

        Until then the dense output of the last step is at hand.
        """
        if self._next:
            self._change()
        status = self._current.advance(t_end, max_gradients=max_gradients - self._base.get("gradients", 0), **options)
        if status not in (Status.STIFF, Status.PAUSED):
            return status
        self._next = self._successor(status)
        return Status.PAUSED

    def _successor(self, status: Status) -> str:
        """Kind of the solver that should go on, empty for the one in charge; a note says why."""
        now = self._current
        if status == Status.STIFF and isinstance(now, Explicit):
            self.notes.append(
                f"stabilised method from t = {now.t:.6g} on: the step {now.step:.3g} was bound by stability"
                f" (|Jacobian| = {now.rho:.4g})"
            )
            return "Stabilised"
        if status == Status.STIFF:
            self.notes.append(
                f"handed over to the stiff solver at t = {now.t:.6g}: the explicit step was bound by stability"
                f" (|Jacobian| = {now.rho:.4g}) with most of the time still ahead"
            )
            return "Stiff"
        if isinstance(now, Stabilised) and now.calm:
            self.notes.append(
                f"pair of order 8 from t = {now.t:.6g} on: the step {now.step:.3g} was bound by accuracy"
                f" (|Jacobian| = {now.rho:.4g})"
            )
            return "Explicit"
        return ""

    def _change(self) -> None:
        """Put the next solver in charge."""
        before, name, self._next = self._current, self._next, ""
        if name == "Explicit":
            self._bound_steps *= 2
        self._base = self.counts
        step = None if name == "Stiff" else BEGIN_WITH * before.step
        self._current = self._made(name, before.t, before.state, step)

    def dense(self, t):
        """State inside the last accepted step."""
        return self._current.dense(t)

    def snapshot(self) -> dict:
        """State of the solver in charge, with its name and the counts of those before."""
        return self._current.snapshot() | self._own()

    def later_snapshot(self) -> Any:
        """The snapshot, or a function that makes it as long as no further step is taken."""
        return partial(_joined, last_snapshot(self._current), self._own())

    def _own(self) -> dict:
        """What a snapshot tells besides the state of the solver in charge."""
        before = {f"before_{name}": count for name, count in self._base.items()}
        kept = {"solver": type(self._current).__name__, "successor": self._next, "bound_steps": self._bound_steps}
        return kept | before

    def restore(self, snapshot: dict) -> None:
        """Go to the state of a snapshot, with the solver that made it."""
        own = {key: value for key, value in snapshot.items() if not key.startswith("before_")}
        name, following = own.pop("solver"), own.pop("successor", "")
        bound_steps, self._bound_steps = self._bound_steps, own.pop("bound_steps", BOUND_STEPS)
        self._base = {k.removeprefix("before_"): v for k, v in snapshot.items() if k.startswith("before_")}
        if (type(self._current).__name__, bound_steps) != (name, self._bound_steps):
            self._current = self._made(name, own["t"], own["state"], own.get("h") or None)
        self._current.restore(own)
        self._next = following

    @property
    def counts(self) -> dict[str, int]:
        """Counts of all solvers together."""
        counts = self._current.counts
        return {name: count + self._base[name] for name, count in counts.items()} if self._base else counts

    @property
    def t(self) -> float:
        """Time after the last accepted step."""
        return self._current.t

    @property
    def t_before(self) -> float:
        """Time before it."""
        return self._current.t_before

    @property
    def state(self):
        """State after the last accepted step."""
        return self._current.state

    @property
    def state_before(self):
        """State before it."""
        return self._current.state_before

    @property
    def value(self) -> float:
        """Objective at the state."""
        return self._current.value

    @property
    def velocity(self):
        """Velocity at the state."""
        return self._current.velocity
