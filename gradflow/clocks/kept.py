"""What a clocked run keeps of its moments: saved places or accepted steps, with the time between them in logs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gradflow.clocks.targets import LN10


@dataclass
class Saved:
    """A kept moment; `log_between` is the log of the time since the one kept before."""

    log_elapsed: float
    log_between: float
    log_loss: float
    s: float
    s_counted: float
    clock: str
    state: np.ndarray


@dataclass
class Kept:
    """The kept moments, thinned to a bounded number where they are steps."""

    most: int
    rows: list[Saved] = field(default_factory=list)
    stride: int = 1
    count: int = 0
    start: object = None
    _inside: object = None
    _newest: object = None

    def add(self, moment, clock, state, interval: Any = None) -> None:
        """Keep a moment of the step that `interval` knows; moments come in their order."""
        if moment is self._inside or moment is self._newest:
            return
        between = moment.log_since if self._inside is None else interval.log_time(self._inside, moment)
        columns = (moment.log_elapsed, between, moment.log_loss, moment.s, moment.s_counted, str(clock), state)
        self.rows.append(Saved(*columns))
        self.start = self.start or moment
        self._inside = moment

    def add_step(self, moment, clock, state) -> None:
        """Keep an accepted step; every other one is dropped when there are too many."""
        self.count += 1
        if self.count % self.stride == 0:
            self.add(moment, clock, state)
        if len(self.rows) > 2 * self.most:
            pairs = zip(self.rows[1::2], self.rows[2::2], strict=False)
            merged = [replace(b, log_between=float(np.logaddexp(a.log_between, b.log_between))) for a, b in pairs]
            odd = self.rows[-1:] if len(self.rows) % 2 == 0 else []
            self.rows = [*self.rows[:1], *merged, *odd]
            self.stride *= 2

    def rebased(self, moment, interval: Any = None):
        """The end of a step, with its time counted from the last kept moment on."""
        if self._inside is None:
            return moment
        same = moment is self._inside
        since = -np.inf if same else interval.log_time(self._inside, moment)
        self._inside = None
        moment = replace(moment, log_since=since)
        self._newest = moment if same else None
        return moment

    def record(self, switches, t_start: float) -> Record:
        """The kept moments as columns."""
        names = ("log_elapsed", "log_between", "log_loss", "s", "s_counted")
        columns = {name: np.array([getattr(row, name) for row in self.rows]) for name in names}
        return Record(**columns, clocks=[row.clock for row in self.rows], switches=switches, t_start=t_start)


@dataclass(frozen=True)
class Record:
    """What a clocked run knows of its saved points, in logs: (T,) each."""

    log_elapsed: np.ndarray
    log_between: np.ndarray
    log_loss: np.ndarray
    s: np.ndarray
    s_counted: np.ndarray
    clocks: list[str]
    switches: list[str]
    t_start: float

    @property
    def t(self) -> np.ndarray:
        """Physical time; infinite where it overflows."""
        with np.errstate(over="ignore"):
            return self.t_start + np.exp(self.log_elapsed)

    @property
    def log10_t(self) -> np.ndarray:
        """Decimal logarithm of the time."""
        if self.t_start == 0.0:
            return self.log_elapsed / LN10
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(np.isfinite(self.t), np.log10(self.t), self.log_elapsed / LN10)

    @property
    def identity_error(self) -> np.ndarray:
        """|s - s as the clock counts it|/s: what theory says is 0 in a loss clock."""
        return np.abs(self.s - self.s_counted) / np.maximum(np.abs(self.s), 1.0)

    def log_time_between(self, i: int, j: int) -> float:
        """Log of the time from saved point i to a later one j."""
        return float(np.logaddexp.reduce(self.log_between[i + 1 : j + 1], initial=-np.inf))
