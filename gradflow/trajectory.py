"""Trajectory: what came out of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from gradflow.arguments import outside_torch


@dataclass
class Run:
    """What a trajectory needs to go on: the prepared dynamics and the arguments of the call; kinks met in a clock."""

    dynamics: object
    arguments: dict
    kept: list[Any] = field(default_factory=list)
    kinks: Any = None

    @property
    def snapshots(self) -> list[dict]:
        """States of the stepper along the run; those at its ends are put together when first asked for."""
        self.kept[:] = [taken() if callable(taken) else taken for taken in self.kept]
        return self.kept


class Trajectory:
    """Result of :func:`gradflow.simulate` for one start: times, parameters, why it ended, and how to go on.

    Attributes
    ----------
    problem, dynamics
        What was run.
    t : ndarray (T,)
        Saved times; the last is the end of the run.
    theta : ndarray (T, P)
        Parameters there, in the network's own coordinates.
    states : ndarray (T, S)
        The solver's own variables there (for the plain flow the same as theta).
    loss, log10_loss : ndarray (T,)
        The full objective, with every penalty.
    records : dict
        Name -> :class:`~gradflow.trajectory.Record` of the measures asked for, and of what the dynamics
        reports (rho, radius, ...).
    events : list of Crossing
        Located crossings.
    status : Status
        Why the run ended; ``str(status)`` is the sentence.
    counts : dict
        "gradients", "hessian_products", "accepted", "rejected", "seconds".
    s : ndarray (T,)
        log(L_0/L), the fall of the log of the loss.
    drift : dict
        Invariant -> deviation (T,) from what theory says; empty when no invariant is known. Of a run in a clock also
        "identity_error": how far s is from s as the clock counts it.
    notes : list of str
        What the reader of the result should know.

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(half=True), [[1.0]], [[2.0]])
    >>> run = gf.simulate(problem, [0.1, 0.1], gf.GradientFlow(), t_end=4.0)
    >>> print(run.status)
    reached the end time
    >>> bool(abs(run.end.prod() - gf.exact.two_layer_mode(4.0, 2.0, 0.01)) < 1e-7)
    True
    """

    def __init__(
        self,
        problem,
        dynamics,
        t,
        states,
        status,
        counts,
        *,
        events=(),
        records=None,
        notes=(),
        run=None,
        config=None,
        clocked=None,
    ):
        self.problem, self.dynamics = problem, dynamics
        self.t, self.states = np.asarray(t), np.asarray(states)
        self.status, self.counts = status, dict(counts)
        self.events, self.notes = list(events), list(notes)
        self.run, self.clocked = run, clocked
        self._config = config or {}
        own = {name: Record(self.t, values) for name, values in dynamics.records(problem, self.states).items()}
        self.records: dict[str, Record] = own | dict(records or {})

    @cached_property
    def config(self) -> dict:
        """The call as JSON, with versions and commit; made when first asked for."""
        made: Any = self._config() if callable(self._config) else self._config
        return made

    @cached_property
    def theta(self) -> np.ndarray:
        """Parameters (T, P) in the network's own coordinates."""
        return self.dynamics.unpack(self.problem, self.states)

    @property
    def end(self) -> np.ndarray:
        """Parameters (P,) at the end of the run."""
        return self.theta[-1]

    @property
    def t_end(self) -> float:
        """Time of the end of the run."""
        return float(self.t[-1])

    @cached_property
    def loss(self) -> np.ndarray:
        """Full objective (T,) at the saved times; 0 where a run in a clock is below the least float."""
        if self.clocked is not None:
            return np.exp(self.clocked.log_loss)
        return self.problem.value(self.theta) + self.dynamics.penalty(self.problem, self.states)

    @property
    def data_loss(self) -> np.ndarray:
        """Loss (T,) without penalties."""
        return self.problem.data_loss(self.theta)

    @property
    def log10_loss(self) -> np.ndarray:
        """Decimal logarithm of the loss (T,); -inf where it is 0."""
        if self.clocked is not None:
            return self.clocked.log_loss / np.log(10.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log10(self.loss)

    @property
    def log10_t(self) -> np.ndarray:
        """Decimal logarithm of the time (T,); -inf at 0, finite where t itself overflows."""
        if self.clocked is not None:
            return self.clocked.log10_t
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log10(self.t)

    @property
    def s(self) -> np.ndarray:
        """Fall of the log of the loss since the start, log(L_0/L) (T,)."""
        if self.clocked is not None:
            return self.clocked.s
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(self.loss[0]) - np.log(self.loss)

    @property
    def switches(self) -> list[str]:
        """Changes of the clock, one line each: from, to, where, why."""
        return [] if self.clocked is None else list(self.clocked.switches)

    def elapsed(self, i: int, j: int, *, log10: bool = False) -> float:
        """Time from saved point i to a later one j, right even where t itself has no digits left for it.

        Parameters
        ----------
        i, j : int
            Indices of saved points, i before j.
        log10 : bool
            Whether its decimal logarithm is wanted.
        """
        try:
            i, j = (range(self.t.size)[index] for index in (i, j))
        except (IndexError, TypeError):
            raise ValueError(f"elapsed({i!r}, {j!r}): give two indices of the {self.t.size} saved points") from None
        if i > j:
            raise ValueError(f"elapsed({i}, {j}): the second point must not come before the first")
        with np.errstate(divide="ignore", over="ignore"):
            if self.clocked is None:
                time = self.t[j] - self.t[i]
                return float(np.log10(time) if log10 else time)
            log = self.clocked.log_time_between(i, j)
            return float(log / np.log(10.0) if log10 else np.exp(log))

    @cached_property
    def drift(self) -> dict[str, np.ndarray]:
        """Deviation (T,) of each invariant from what theory says."""
        invariants = self.dynamics.invariants(self.problem)
        own = {} if self.clocked is None else {"identity_error": self.clocked.identity_error}
        t = np.minimum(self.t, np.finfo(float).max)
        return own | {name: invariant.drift(t, self.states) for name, invariant in invariants.items()}

    @property
    def max_drift(self) -> float:
        """Largest deviation of any invariant; NaN when none is known."""
        return max((float(values.max()) for values in self.drift.values()), default=float("nan"))

    @cached_property
    def kinks(self):
        """What happened at the kinks of a run that followed them; see :class:`gradflow.branching.Kinks`."""
        from gradflow.branching import kinks_of

        return kinks_of(self)

    def at(self, t=None, **place) -> np.ndarray:
        """Parameters at times within the run, by the solver's dense output.

        The run is repeated from the nearest stored state before; an explicit solver repeats its steps bit for bit.
        A discrete run is known at its steps only: the state of the last step not after t is given.

        Parameters
        ----------
        t : float or array_like (m,), optional
            Times between the first and the last; or
        **place
            a place in another variable of a run in a clock: ``log10_t``, ``log10_loss``, ``loss`` or ``s``.

        Returns
        -------
        ndarray (P,) or (m, P)

        Raises
        ------
        ValueError
            For times outside the run.
        """
        return self.dynamics.unpack(self.problem, self.state_at(t, **place))

    def state_at(self, t=None, **place) -> np.ndarray:
        """States (m, S) at times within the run; see :meth:`at`."""
        from gradflow.resuming import revisit

        if (t is None) == (not place):
            raise ValueError("at: give either the time, or one other variable, e.g. at(log10_loss=-100)")
        if self.clocked is not None:
            from gradflow.clocks.again import states_at

            return states_at(self, **({"t": t} if t is not None else place))
        if place:
            raise ValueError(f"at({', '.join(place)}=...): this run is known by its times; run it with a clock")

        try:
            given = np.asarray(outside_torch(t), dtype=np.float64)
        except (TypeError, ValueError):
            raise TypeError(f"t = {t!r}: give a time or times (m,) within the run") from None
        times = np.atleast_1d(given)
        first = self.run.arguments["t_start"] if self.run else self.t[0]
        if times.ndim != 1 or not ((times >= first) & (times <= self.t[-1])).all():
            raise ValueError(f"t = {t}: must lie within the run, from {first:g} to {self.t[-1]:g}")
        if not times.size:
            return np.empty((0, self.states.shape[1]))
        order = np.argsort(times, kind="stable")
        states = np.empty((times.size, self.states.shape[1]))
        states[order] = revisit(self, times[order])
        return states[0] if given.ndim == 0 else states

    def measure(self, function: Callable, name: str | None = None) -> np.ndarray:
        """Values of a measure ``function(problem, theta)`` at the saved times, (T, ...)."""
        if not callable(function):
            raise TypeError(f"measure = {function!r}: must be a function of (problem, theta)")
        return np.stack([np.asarray(function(self.problem, theta)) for theta in self.theta])

    def extend(self, t_end: float, **changes) -> Trajectory:
        """The same run taken further, to `t_end`; a new trajectory that holds both parts.

        Goes on from the state before a step was cut at the old end: the explicit solvers and the discrete rules take
        the steps of one longer run, bit for bit; the others agree within tolerance.

        Parameters
        ----------
        t_end : float
            Later than the end so far.
        **changes
            ``stop``, ``save_at``, ``max_gradients``, ``max_seconds``, ``progress`` for the rest of the run.
        """
        from gradflow.resuming import extend

        return extend(self, t_end, **changes)

    def error_estimate(self) -> np.ndarray:
        """Estimated error ``|theta - theta_tight|`` (T,), by a second run at a tenth of both tolerances."""
        from gradflow.resuming import tightened

        return np.linalg.norm(self.theta - tightened(self, 0.1), axis=-1)

    def save(self, path) -> None:
        """Write to a netCDF file; the file appears whole or not at all."""
        from gradflow.storage import save

        save(self, path)

    @staticmethod
    def load(path, problem=None, dynamics=None) -> Trajectory:
        """Read a trajectory that :meth:`save` wrote.

        Parameters
        ----------
        path : path
            The file.
        problem, dynamics : optional
            Needed where the file cannot name them: a torch module, a dynamics of one's own.
        """
        from gradflow.storage import load

        return load(path, problem, dynamics)

    def to_xarray(self):
        """The trajectory as an xarray Dataset: loss, layers by name, records, drift, with the config as attributes."""
        from gradflow.storage import to_dataset

        return to_dataset(self)

    def summary(self) -> dict[str, str]:
        """What a person asks first, as text."""
        counts = self.counts
        rows = {
            "network": str(self.problem.network),
            "dynamics": repr(self.dynamics),
            "solver": str(self.config.get("solver", "")),
            "status": str(self.status),
            "time": f"{self.t[0]:g} to {_number(self.t[-1], self.log10_t[-1])}, {self.t.size} points saved",
            "loss": f"{self.loss[0]:.6g} to {_number(self.loss[-1], self.log10_loss[-1])}",
            "drift": f"{self.max_drift:.1e} ({', '.join(self.drift)})" if self.drift else "no invariant known",
            "cost": f"{counts.get('gradients', 0)} gradients, {counts.get('accepted', 0)} steps,"
            f" {counts.get('rejected', 0)} rejected, {counts.get('seconds', 0.0):.3g} s",
        }
        if self.switches:
            rows["clock"] = "; ".join(self.switches)
        if self.events:
            rows["events"] = ", ".join(
                f"{event.name} at t = {_number(event.t, event.log10_t)}" for event in self.events[:6]
            )
        if self.notes:
            rows["notes"] = "; ".join(self.notes)
        return rows

    def __repr__(self):
        rows = self.summary()
        width = max(map(len, rows))
        return "Trajectory\n" + "\n".join(f"  {name:<{width}}  {text}" for name, text in rows.items())

    def _repr_html_(self):
        from gradflow.notebook import trajectory_html

        return trajectory_html(self)


def _number(value: float, log10: float) -> str:
    """A number, by its logarithm where it over- or underflows."""
    return f"{value:.6g}" if 0.0 < value < np.inf or not np.isfinite(log10) else f"10^{log10:.6g}"


class Record(np.ndarray):
    """Values (T, ...) of a measure with the times `t` (T,) at which they were taken; behaves as the array of values."""

    t: np.ndarray

    def __new__(cls, t, values):
        """Values as an array that knows its times."""
        record = np.asarray(values, dtype=np.float64).view(cls)
        record.t = np.asarray(t)
        return record

    def __array_finalize__(self, source):
        self.t = getattr(source, "t", np.zeros(0))
