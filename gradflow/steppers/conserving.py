r"""A stepper whose states keep to what the flow conserves.

Whatever is asked of it (the state, saved states, dense output) is put back on the conserved quantities. The path itself
is put back after every k steps of a pair or as many gradients, so that no drift gathers over a long run; k = 1 where
gradients are dear.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from gradflow.status import Status
from gradflow.steppers.saving import UNLIMITED, last_snapshot

SHARE = 0.06
"""Part of the cost of the steps that the way back may take."""
RAREST, A_STEP = 128, 12
"""Most steps between two ways back, and gradients that count as a step."""
INSIDE = ("Explicit", "Auto", "Stabilised", "Stiff", "Adams", "Fixed")
"""Steppers whose path can be put back; of others only what they show."""


def steps_between(operations: float, flops: float) -> int:
    """Steps from one way back to the next, by operations at a nominal rate and never by a clock.

    Examples
    --------
    >>> steps_between(7e4, 2e4), steps_between(7e4, 1e9)
    (128, 1)
    """
    step = A_STEP * (5e-7 + 3e-11 * flops)
    return int(min(RAREST, max(1.0, math.ceil((6e-5 + 8e-10 * operations) / (SHARE * step)))))


class Conserving:
    """Another stepper, with the same interface, whose states are put back on a manifold.

    Parameters
    ----------
    stepper : stepper
        At the start of its run.
    manifold : object
        As :func:`gradflow.dynamics.manifold.manifold` makes it.
    """

    def __init__(self, stepper, manifold):
        self._inner, self._manifold = stepper, manifold
        self._from, self._reference = stepper.t, manifold.values(stepper.state)
        self._decays = bool(manifold.decay.any())
        self._every, self._back_at, self._shown = 0, 0, None
        if type(stepper).__name__ in INSIDE:
            self._every = steps_between(manifold.operations, stepper.field.kernel.flops)

    @property
    def notes(self) -> list[str]:
        """What the reader of the run should know."""
        said = f"the path was put back on the conserved quantities after every {A_STEP * self._every} gradients"
        if not self._every:
            own = type(self._inner).__name__
            said = f"the path of {own} drifts from the conserved quantities; the states it shows were put back"
        return [*getattr(self._inner, "notes", []), said]

    def _targets(self, t) -> np.ndarray:
        """Rows of what is conserved at times, by the law of its decay; one row if all of it is constant."""
        if not self._decays:
            return self._reference[None]
        return self._reference * np.exp(-self._manifold.decay * (np.asarray(t)[..., None] - self._from))

    def _show(self, t: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Put states back in place, at increasing times, but for the start and those that are not finite."""
        shown = states[int((t[:1] == self._from).sum()) :]
        whole = np.isfinite(shown).all(1)
        if whole.all():
            if len(shown):
                self._manifold.put_back_all(shown, self._targets(t[-len(shown) :]))
        elif whole.any():
            kept = shown[whole]
            self._manifold.put_back_all(kept, self._targets(t[-len(shown) :][whole]))
            shown[whole] = kept
        return states

    def advance(
        self, t_end, *, save_at=None, saved=None, max_gradients=UNLIMITED, max_steps=UNLIMITED, loss_below=-math.inf
    ) -> Status:
        """As the other stepper does; see there."""
        accepted = self._inner.counts["accepted"]
        last = accepted + max_steps
        limits = {"save_at": save_at, "saved": saved, "loss_below": loss_below}
        while True:
            if self._every and accepted % self._every == 0:
                self._put_back()
            known = self._inner.t_before
            room = self._every - accepted % self._every if self._every else UNLIMITED
            steps = min(room, last - accepted)
            status = self._inner.advance(t_end, max_gradients=max_gradients, max_steps=steps, **limits)
            self._shown = None
            if save_at is not None and saved is not None:
                now = self._inner.t
                first, after = np.searchsorted(save_at, [known, now])
                here = after < save_at.size and save_at[after] == now
                if here:
                    saved[after], after = self._inner.state, after + 1
                if after > first:
                    self._show(save_at[first:after], saved[first:after])
                    self._shown = saved[after - 1].copy() if here else None
            if status != Status.PAUSED:
                return status
            accepted = self._inner.counts["accepted"]
            if accepted >= last:
                return status

    def _put_back(self) -> None:
        """Put the path back if its turn has come; a velocity that the stepper keeps costs one gradient."""
        gradients = self._inner.counts["gradients"]
        if gradients < self._back_at + A_STEP * self._every:
            return
        snapshot = self._inner.snapshot()
        state, history = snapshot["state"], snapshot.get("history", snapshot.get("points"))
        if snapshot["t"] != self._inner.t or (history is not None and not np.array_equal(history[0], state)):
            return
        self._back_at = gradients
        nearest = self._manifold.put_back(state, self._targets([snapshot["t"]])[0])
        if np.array_equal(nearest, state) or not np.isfinite(nearest).all():
            return
        if history is not None:
            history[0] = nearest
        snapshot["state"], self._shown = nearest, None
        if "velocity" in snapshot:
            velocity = np.empty_like(nearest)
            snapshot["value"] = self._inner.field(snapshot["t"], nearest, velocity)
            snapshot["velocity"] = velocity
            snapshot["gradients"] += 1
        self._inner.restore(snapshot)

    @property
    def state(self) -> np.ndarray:
        """State after the last accepted step, put back."""
        if self._inner.t == self._from:
            return self._inner.state
        if self._shown is None:
            self._shown = self._show(np.array([self._inner.t]), self._inner.state[None])[0]
        return self._shown.copy()

    def dense(self, t) -> np.ndarray:
        """States inside the last accepted step, put back."""
        times = np.atleast_1d(np.asarray(t, dtype=np.float64))
        states = self._show(times, self._inner.dense(times))
        return states if np.ndim(t) else states[0]

    def snapshot(self) -> dict:
        """That of the other stepper, with what is conserved."""
        return self._inner.snapshot() | self._own()

    def _own(self) -> dict:
        """What a snapshot tells besides the state of the other stepper."""
        return {"conserved": self._reference.copy(), "conserved_from": self._from, "back_at": self._back_at}

    def later_snapshot(self) -> Any:
        """The snapshot, or a function that makes it as long as no further step is taken."""
        return partial(_joined, last_snapshot(self._inner), self._own())

    def restore(self, snapshot: dict) -> None:
        """Go to the state of a snapshot."""
        own = ("conserved", "conserved_from", "back_at")
        self._reference, self._from, self._back_at = (snapshot[name] for name in own)
        self._shown = None
        self._inner.restore({name: value for name, value in snapshot.items() if name not in own})

    def __getattr__(self, name):
        return getattr(self._inner, name)


def _joined(taken, own: dict) -> dict:
    """A snapshot of the other stepper, with what is conserved."""
    known: Any = taken() if callable(taken) else taken
    return known | own
