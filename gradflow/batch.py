"""Batch: many runs of one problem from many starts, on threads, each with its own steps and status."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np

from gradflow.loop import Interrupt
from gradflow.threads import get_threads, single_blas_thread
from gradflow.trajectory import Trajectory


class Made(Sequence):
    """Trajectories of ended runs, each made when it is first asked for; those of `first` at once, on threads."""

    def __init__(self, make: Callable[[int], Trajectory], count: int, first, threads: int):
        self._make = make
        self._made: list[Any] = [None] * count
        for run, trajectory in zip(first, _each(lambda k: make(first[k]), len(first), threads), strict=True):
            self._made[run] = trajectory

    def __len__(self) -> int:
        return len(self._made)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[run] for run in range(len(self))[index]]
        run = range(len(self))[index]
        if self._made[run] is None:
            self._made[run] = self._make(run)
        return self._made[run]


class Batch:
    """Trajectories of a batch of starts on one save grid; ``batch[i]`` is run i, ``batch[2:5]`` a batch of three.

    Attributes
    ----------
    t : ndarray (T,)
        The save grid.
    theta : ndarray (runs, T, P)
        Parameters on the grid, NaN after a run's own end.
    loss : ndarray (runs, T)
        Objective on the grid, NaN after a run's own end.
    end : ndarray (runs, P)
        Each run's own end.
    t_end, status : ndarray (runs,)
        When and why it ended.
    counts : dict of ndarray (runs,)
        Gradients, steps, seconds of each run.

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(half=True), [[1.0]], [[2.0]])
    >>> batch = gf.simulate(problem, [[0.0], [1.0]], gf.GradientFlow(), t_end=1.0, save_at=5)
    >>> batch.theta.shape, len(batch)
    ((2, 5, 1), 2)
    """

    def __init__(self, trajectories: Sequence[Trajectory]):
        if not isinstance(trajectories, Made) and not (
            isinstance(trajectories, Sequence) and all(isinstance(run, Trajectory) for run in trajectories)
        ):
            raise TypeError(f"trajectories of type {type(trajectories).__name__}: give a list of runs of gf.simulate")
        if not trajectories:
            raise ValueError("a batch needs at least one run")
        self.trajectories: Sequence[Trajectory] = trajectories

    def __len__(self) -> int:
        return len(self.trajectories)

    def __getitem__(self, index):
        chosen = self.trajectories[index]
        return Batch(chosen) if isinstance(index, slice) else chosen

    def __iter__(self) -> Iterator[Trajectory]:
        return iter(self.trajectories)

    @property
    def problem(self):
        """The problem of all runs."""
        return self.trajectories[0].problem

    @cached_property
    def t(self) -> np.ndarray:
        """Save grid (T,): that of the runs that reached the end."""
        longest = max(self.trajectories, key=lambda run: (run.t_end, run.t.size))
        for run in self.trajectories:
            if not np.isin(run.t[:-1], longest.t).all():
                raise ValueError(
                    "the runs have no common save grid (each saved its own steps): use batch[i].t, or give t_end and"
                    " save_at as a number or a grid"
                )
        return longest.t

    def _on_grid(self, values: Callable[[Trajectory], np.ndarray]) -> np.ndarray:
        rows = []
        for run in self.trajectories:
            given = values(run)
            row = np.full((self.t.size, *given.shape[1:]), np.nan)
            inside = np.isin(run.t, self.t)
            row[np.searchsorted(self.t, run.t[inside])] = given[inside]
            rows.append(row)
        return np.stack(rows)

    @cached_property
    def theta(self) -> np.ndarray:
        """Parameters (runs, T, P)."""
        return self._on_grid(lambda run: run.theta)

    @cached_property
    def loss(self) -> np.ndarray:
        """Objective (runs, T)."""
        return self._on_grid(lambda run: run.loss)

    @property
    def end(self) -> np.ndarray:
        """End of each run (runs, P)."""
        return np.stack([run.end for run in self.trajectories])

    @property
    def t_end(self) -> np.ndarray:
        """Time of the end of each run (runs,)."""
        return np.array([run.t_end for run in self.trajectories])

    @property
    def status(self) -> np.ndarray:
        """Status of each run (runs,)."""
        return np.array([run.status for run in self.trajectories], dtype=object)

    @property
    def counts(self) -> dict[str, np.ndarray]:
        """Counts of each run."""
        names = self.trajectories[0].counts
        return {name: np.array([run.counts[name] for run in self.trajectories]) for name in names}

    @property
    def max_drift(self) -> np.ndarray:
        """Largest drift of any invariant, per run (runs,)."""
        return np.array([run.max_drift for run in self.trajectories])

    def at(self, t) -> np.ndarray:
        """Parameters of all runs at times t: (runs, P) or (runs, m, P)."""
        return np.stack([run.at(t) for run in self.trajectories])

    def measure(self, function: Callable) -> np.ndarray:
        """Values (runs, T, ...) of a measure on the grid, NaN after a run's own end."""
        return self._on_grid(lambda run: np.asarray(run.measure(function), dtype=np.float64))

    def save(self, path) -> None:
        """Write all runs to one new netCDF file, which appears whole or not at all.

        Parameters
        ----------
        path : path
            Must not exist yet.
        """
        from gradflow.storage import save_batch

        save_batch(self, path)

    @staticmethod
    def load(path, problem=None, dynamics=None) -> Batch:
        """Read a batch that :meth:`save` wrote; the arguments are those of :meth:`Trajectory.load`.

        A folder with one file for each run, as earlier versions wrote, is read too.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such file, or it cannot be read.
        """
        from gradflow.storage import load_batch

        return Batch(load_batch(path, problem, dynamics))

    def extend(self, t_end: float, **changes) -> Batch:
        """Every run taken further; see :meth:`Trajectory.extend`."""
        return Batch([run.extend(t_end, **changes) for run in self.trajectories])

    def __repr__(self):
        status, counts = np.unique([str(run.status) for run in self.trajectories], return_counts=True)
        said = ", ".join(f"{count} {text}" for text, count in zip(status, counts, strict=True))
        total = sum(run.counts.get("gradients", 0) for run in self.trajectories)
        return f"<Batch of {len(self)} runs: {said}; {total} gradients>"


ENSEMBLES = ("auto", "lanes", "single")
FEWEST_IN_LANES, FEWEST_IN_A_TENSOR = 64, 8


def checked_ensemble(ensemble: str) -> None:
    """Raise unless it is one of the ways to run a batch."""
    if ensemble not in ENSEMBLES:
        raise ValueError(f"ensemble = {ensemble!r}: unknown; choose one of {', '.join(ENSEMBLES)}")


def simulate_batch(problem, theta0, dynamics, arguments: dict, ensemble: str) -> Batch:
    """Run every row of theta0; the result does not depend on the number of threads."""
    from gradflow.simulate import run_one

    compiled = problem.kernel.compiled  # the kernel is made here, before the threads ask for it
    threads = min(get_threads(), len(theta0)) if compiled else 1
    quiet = arguments | {"progress": False}
    with single_blas_thread(), Interrupt() as interrupt:
        if _goes_in_lanes(problem, theta0, dynamics, arguments, ensemble):
            from gradflow.lanes.runs import Lanes

            with _bar(arguments, len(theta0)) as show:
                lanes = Lanes(problem, theta0, dynamics, quiet, interrupt, show)
                show(len(theta0))
            return Batch(Made(lanes.trajectory, len(theta0), lanes.unfinished(), threads))

        def run(row: int) -> Trajectory:
            return run_one(problem, theta0[row], dynamics, quiet, interrupt)

        with _bar(arguments, len(theta0)) as show:
            runs = []
            for done, trajectory in enumerate(_each(run, len(theta0), threads), 1):
                runs.append(trajectory)
                show(done)
    return Batch(runs)


def _goes_in_lanes(problem, theta0, dynamics, arguments, ensemble) -> bool:
    """Whether runs go side by side; the error that says why they cannot, if it was asked for."""
    by_torch = problem.kernel.name == "torch"
    fewest = FEWEST_IN_A_TENSOR if by_torch else FEWEST_IN_LANES
    if ensemble == "single" or (ensemble == "auto" and len(theta0) < fewest):
        return False
    from gradflow.lanes.ensemble import lanes_pay
    from gradflow.lanes.runs import obstacle

    reason = obstacle(problem, theta0, dynamics, arguments)
    if reason and ensemble == "lanes":
        raise ValueError(f"ensemble = 'lanes': {reason}; give ensemble='auto' or 'single'")
    return reason is None and (ensemble == "lanes" or by_torch or lanes_pay(problem))


def _each(function: Callable, count: int, threads: int) -> Iterator:
    """Values of a function of 0 to count - 1, in order, computed on threads."""
    if threads == 1:
        yield from map(function, range(count))
    else:
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(function, range(count))


@contextmanager
def _bar(arguments, total: int) -> Iterator[Callable[[int], None]]:
    """A function that shows how many runs are done, by a progress bar if one is wanted."""
    if not arguments["progress"]:
        yield lambda done: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, unit="run", desc="simulate") as bar:

        def show(done: int) -> None:
            bar.update(done - bar.n)

        yield show
