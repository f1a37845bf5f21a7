r"""A stepper whose states keep to what the flow conserves.

Whatever is asked of it (the state, saved states, dense output) is put back on the conserved quantities. The path itself
is put back after every k-th accepted step, so that no drift gathers over a long run; k = 1 where gradients are dear.
"""

from __future__ import annotations

import math

import numpy as np

from gradflow.status import Status
from gradflow.steppers.saving import UNLIMITED

SHARE = 0.12
"""Part of the cost of the steps that the way back may take."""
RAREST = 64
INSIDE = ("Explicit", "Auto", "Stabilised", "Stiff", "Adams", "Fixed")
"""Steppers whose path can be put back; of others only what they show."""


def steps_between(operations: float, flops: float) -> int:
    """Accepted steps from one way back to the next, by operations at a nominal rate and never by a clock.

    Examples
    --------
    >>> steps_between(7e4, 2e4), steps_between(7e4, 1e9)
    (64, 1)
    """
    step = 12.0 * (5e-7 + 3e-11 * flops)
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
        self._every, self._back_at, self._shown = 0, 0, (math.nan, -1, stepper.state)
        if type(stepper).__name__ in INSIDE:
            self._every = steps_between(manifold.operations, stepper.field.kernel.flops)

    @property
    def notes(self) -> list[str]:
        """What the reader of the run should know."""
        said = f"the path was put back on the conserved quantities after every {self._every} steps"
        if not self._every:
            own = type(self._inner).__name__
            said = f"the path of {own} drifts from the conserved quantities; the states it shows were put back"
        return [*getattr(self._inner, "notes", []), said]

    def _target(self, t: float) -> np.ndarray:
        """What the conserved quantities are at a time, by the law of their decay."""
        return self._reference * np.exp(-self._manifold.decay * (t - self._from))

    def _on(self, t: float, state: np.ndarray) -> np.ndarray:
        """A state that is shown."""
        if t == self._from or not np.isfinite(state).all():
            return state
        return self._manifold.put_back(state, self._target(t), False)

    def advance(
        self, t_end, *, save_at=None, saved=None, max_gradients=UNLIMITED, max_steps=UNLIMITED, loss_below=-math.inf
    ) -> Status:
        """As the other stepper does; see there."""
        last = self._inner.counts["accepted"] + max_steps
        limits = {"save_at": save_at, "saved": saved, "loss_below": loss_below}
        while True:
            self._put_back()
            accepted, known = self._inner.counts["accepted"], self._inner.t_before
            room = self._every - accepted % self._every if self._every else UNLIMITED
            steps = min(room, last - accepted)
            status = self._inner.advance(t_end, max_gradients=max_gradients, max_steps=steps, **limits)
            if save_at is not None and saved is not None:
                for row in range(*np.searchsorted(save_at, [known, np.nextafter(self._inner.t, math.inf)])):
                    t = save_at[row]
                    saved[row] = self.state if t == self._inner.t else self._on(t, saved[row])
            if status != Status.PAUSED or self._inner.counts["accepted"] >= last:
                return status

    def _put_back(self) -> None:
        """Put the path back where its turn has come; a velocity that the stepper keeps costs one gradient."""
        accepted = self._inner.counts["accepted"]
        if not self._every or accepted == 0 or accepted % self._every or accepted == self._back_at:
            return
        snapshot = self._inner.snapshot()
        state, history = snapshot["state"], snapshot.get("history", snapshot.get("points"))
        if snapshot["t"] != self._inner.t or (history is not None and not np.array_equal(history[0], state)):
            return
        self._back_at = accepted
        nearest = self._manifold.put_back(state, self._target(snapshot["t"]))
        if np.array_equal(nearest, state) or not np.isfinite(nearest).all():
            return
        if history is not None:
            history[0] = nearest
        snapshot["state"] = nearest
        if "velocity" in snapshot:
            velocity = np.empty_like(nearest)
            snapshot["value"] = self._inner.field(snapshot["t"], nearest, velocity)
            snapshot["velocity"] = velocity
            snapshot["gradients"] += 1
        self._inner.restore(snapshot)

    @property
    def state(self) -> np.ndarray:
        """State after the last accepted step, put back."""
        t, accepted = self._inner.t, self._inner.counts["accepted"]
        if self._shown[:2] != (t, accepted):
            self._shown = (t, accepted, self._on(t, self._inner.state))
        return self._shown[2].copy()

    def dense(self, t) -> np.ndarray:
        """States inside the last accepted step, put back."""
        states = self._inner.dense(t)
        if not np.ndim(t):
            return self._on(float(t), states)
        return np.stack([self._on(float(moment), state) for moment, state in zip(t, states, strict=True)])

    def snapshot(self) -> dict:
        """That of the other stepper, with what is conserved."""
        own = {"conserved": self._reference.copy(), "conserved_from": self._from, "back_at": self._back_at}
        return self._inner.snapshot() | own

    def restore(self, snapshot: dict) -> None:
        """Go to the state of a snapshot."""
        own = ("conserved", "conserved_from", "back_at")
        self._reference, self._from, self._back_at = (snapshot[name] for name in own)
        self._shown = (math.nan, -1, self._reference)
        self._inner.restore({name: value for name, value in snapshot.items() if name not in own})

    def __getattr__(self, name):
        return getattr(self._inner, name)
