"""The automatic solver: explicit, handed over to the stiff solver when stiffness is measured."""

from __future__ import annotations

from math import inf

from gradflow.status import Status
from gradflow.steppers.adams import Adams
from gradflow.steppers.explicit import Explicit
from gradflow.steppers.stabilised import Stabilised
from gradflow.steppers.stiff import Stiff

LOOSE = (1e-4, 1e-3)
"""Relative tolerances at which a run begins with the stabilised method; looser ones can miss a saddle."""

ADAMS_SHARE = 0.5
"""The Adams stepper needs fewer gradients than a pair: the stiff solver pays if this share of them remains."""
TIGHTEST_ADAMS = 1e-12
"""Relative tolerance below which rounding in the differences of the Adams stepper shows."""


def stiff_gradients(flops: float) -> float:
    """Gradients that must remain, at least, before the stiff solver pays: more for cheap gradients.

    The cost of a gradient comes from its operations at a nominal rate, so that the decision never depends on a clock.
    """
    seconds = 5e-7 + 5e-11 * flops
    return 1500.0 * (1.0 + 6e-6 / seconds)


def adams_pays(flops: float, size: int, rtol: float) -> bool:
    """Whether gradients cost so much more than the passes over the state that the Adams stepper saves time."""
    return 5e-7 + 5e-11 * flops > 8e-6 + 5e-9 * size and rtol >= TIGHTEST_ADAMS


class Auto:
    """One run that begins explicit and may go on stiff; same interface as both.

    Costly gradients: it begins with the Adams stepper. Cheap ones: with the pair of order 8, at loose tolerances with
    the stabilised method of order 4, which needs a fraction of the gradients where stability binds, with kinks with the
    pair of order 5. With kinks it is never handed over: a jump of the gradient is not stiffness.
    """

    def __init__(self, field, t, state, *, rtol, atol, symmetric, kinked):
        self.field, self._symmetric = field, symmetric
        self._rtol, self._atol = rtol, atol
        if adams_pays(field.kernel.flops, len(state), rtol):
            remaining = inf if kinked else ADAMS_SHARE * stiff_gradients(field.kernel.flops)
            self._explicit = Adams(field, t, state, rtol=rtol, atol=atol, stiff_gradients=remaining)
        elif kinked:
            self._explicit = Explicit(field, t, state, rtol=rtol, atol=atol, pair="rk45")
        else:
            begin = Stabilised if LOOSE[0] <= rtol <= LOOSE[1] else Explicit
            remaining = stiff_gradients(field.kernel.flops)
            self._explicit = begin(field, t, state, rtol=rtol, atol=atol, stiff_gradients=remaining)
        self._current = self._explicit
        self._base: dict[str, int] = {}
        self._due = False
        self.notes: list[str] = []

    def advance(self, t_end, *, max_gradients=2**62, **options) -> Status:
        """Advance with the solver in charge; when the explicit one calls the problem stiff, the next call hands over.

        Until then the dense output of the last explicit step is at hand.
        """
        if self._due:
            self._due = False
            self._hand_over(self._explicit.t, self._explicit.state, self._explicit.counts)
        status = self._current.advance(t_end, max_gradients=max_gradients - self._base.get("gradients", 0), **options)
        if status != Status.STIFF:
            return status
        self._due = True
        self.notes.append(
            f"handed over to the stiff solver at t = {self._explicit.t:.6g}: the explicit step was bound by stability"
            f" (|Jacobian| = {self._explicit.rho:.4g}) with most of the time still ahead"
        )
        return Status.PAUSED

    def _hand_over(self, t, state, counts):
        self._base = dict(counts)
        self._current = Stiff(self.field, t, state, rtol=self._rtol, atol=self._atol, symmetric=self._symmetric)

    def dense(self, t):
        """State inside the last accepted step."""
        return self._current.dense(t)

    def snapshot(self) -> dict:
        """State of the solver in charge, with its name."""
        base = {f"explicit_{name}": count for name, count in self._base.items()}
        return self._current.snapshot() | {"solver": type(self._current).__name__} | base

    def restore(self, snapshot: dict) -> None:
        """Go to the state of a snapshot, with the solver that made it."""
        own = {key: value for key, value in snapshot.items() if key != "solver" and not key.startswith("explicit_")}
        if snapshot["solver"] == "Stiff":
            counts = {k.removeprefix("explicit_"): v for k, v in snapshot.items() if k.startswith("explicit_")}
            self._hand_over(snapshot["t"], snapshot["state"], counts)
        elif snapshot["solver"] == "Explicit" and not isinstance(self._current, Explicit):
            options = {
                "rtol": self._rtol,
                "atol": self._atol,
                "stiff_gradients": stiff_gradients(self.field.kernel.flops),
            }
            self._explicit = self._current = Explicit(self.field, snapshot["t"], snapshot["state"], **options)
        self._current.restore(own)

    @property
    def counts(self) -> dict[str, int]:
        """Counts of both solvers together."""
        own = self._current.counts
        return {name: own.get(name, 0) + self._base.get(name, 0) for name in own}

    def __getattr__(self, name):
        if name in ("t", "state", "value", "velocity", "t_before", "state_before"):
            return getattr(self._current, name)
        raise AttributeError(name)
