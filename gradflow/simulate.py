"""simulate: from a problem, a start and a dynamics to a trajectory."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from gradflow.arguments import all_finite, flag, positive
from gradflow.batch import checked_ensemble, simulate_batch
from gradflow.calling import (
    absolute_tolerance,
    checked_atol,
    checked_branch,
    checked_end,
    checked_rtol,
    most_gradients,
    refuse_to_conserve,
    sequence_of,
    treatment_of_kinks,
    warn_of_many_kinks,
)
from gradflow.clocks.asked import asks_for_a_clock
from gradflow.clocks.kinds import checked_clock
from gradflow.dynamics.flow import Flow
from gradflow.loop import Interrupt, drive
from gradflow.running import first_snapshot, make_trajectory, plan_of, stepper_at
from gradflow.saving import checked_grids, grid_of, resolved, union
from gradflow.steppers.choose import checked_solver
from gradflow.threads import single_blas_thread
from gradflow.trajectory import Trajectory


def simulate(
    problem,
    theta0,
    dynamics: Flow,
    t_end: Any = None,
    *,
    stop: Any = (),
    events: Any = (),
    record: dict | None = None,
    save_at: Any = 200,
    solver: Any = "auto",
    rtol: float = 1e-8,
    atol: Any = None,
    clock: Any = "auto",
    kinks: str = "follow",
    at_branch: str = "likely",
    conserve: bool = False,
    t_start: float = 0.0,
    max_gradients: int | None = None,
    max_seconds: float | None = None,
    progress: bool | None = None,
    ensemble: str = "auto",
) -> Trajectory:
    r"""Run a dynamics from a start to an end time or a stop, to a stated accuracy.

    Only wrong arguments raise. Whatever ends the run, what was computed is returned with the reason in ``status``.

    Parameters
    ----------
    problem : Problem
        What is minimised.
    theta0 : array_like (P,) or (runs, P)
        Start; a batch is run on threads (:func:`gradflow.set_threads`), each run with its own steps and status.
    dynamics : flow or discrete rule
        For example ``gf.GradientFlow()``, ``gf.PolarFlow()``, ``gf.LMFlow()``, ``gf.GD(step=0.1)``.
    t_end : float or gf.at(...), optional
        End time, or end in another variable: ``gf.at(log10_t=50)``, ``gf.at(s=60)``; a discrete rule takes
        floor((t_end - t_start)/step + 1e-9) steps, at least one. Needed unless `stop` is given.
    stop : stop or sequence of stops
        ``gf.LossBelow(1e-6)``, ``gf.ExcessLossBelow``, ``gf.GradientBelow``, ``gf.Stationary``; located on the dense
        output. For SGD every check costs a gradient on all samples.
    events : Event or sequence of Event
        Crossings to record, or to stop at.
    record : dict, optional
        Name -> measure ``f(problem, theta)``, taken at the saved times, or (measure, grid) with a grid of its own.
    save_at : int, "log", "steps" or array_like
        Number of points spread evenly (both ends included), 200 points even in log time, every accepted step (thinned
        to at most 400), or the times themselves; in other variables ``gf.every(log10_loss=10)``,
        ``gf.at(log10_t=[0, 50])``. Saving never changes the steps. Without t_end, steps are saved.
    solver : str or FixedStep
        "auto" (explicit, stabilised or stiff, as measured stiffness and remaining work ask for), "dop853", "rk45",
        "adams" (explicit multistep, the fewest gradients), "stabilised" (explicit of order 4, for plateaus and moderate
        stiffness), "stiff", "LSODA", "Radau", "BDF" (scipy's), "cvode", "torchdiffeq:dopri8" and its other methods,
        or ``gf.FixedStep("rk4", step=0.01)``.
    rtol : float
        Relative tolerance per step, below 1; below 1e-14 rounding rules.
    atol : float or array_like (S,), optional
        Absolute tolerance; by default rtol/100 times the root mean square of the start (at most 1), separately for
        radii, scales and directions, so that a start at 1e-6 is not drowned.
    clock : str or clock
        Variable that the run is stepped in: "time", "log_time", "log_loss", "loss", "relative", "arc", or an object of
        ``gf.clocks``. The path does not depend on it; what can be reached does. "auto": physical time wherever it can
        be represented; where the ends or the saved places ask for more, or the start is tiny: relative before the first
        escape, log loss once every sample is fitted, log time for long horizons of other losses.
    kinks : {"follow", "ignore", "implicit"}
        How kinks of relu, leaky_relu and abs are treated. "follow": a plain, polar, weight-normalised or LM flow of a
        fully connected network (with skips too) or a convolutional one is followed as a differential inclusion, across
        kinks and sliding along them; other flows and solvers fall back on "ignore" with a note. "ignore": the plain
        stepper runs over kinks, and ends with the status "stalled at a kink" where it chatters (after 200,000 gradients
        unless `max_gradients` says otherwise).
        "implicit": Euler steps with masks from their end, of order 1; give ``solver=gf.FixedStep("euler", step)``. For
        the plain flow of networks whose only kinked layer is the first.
    at_branch : {"likely", "active", "inactive", "stay", "stop"}
        Where to go where the flow through kinks is not unique; see :func:`gradflow.branches`.
    conserve : bool
        Whether states are put back on what the flow conserves (balance of layers, norms of neurons, unit directions;
        with decay on its known law): to 1e-14 of the size of its terms wherever a state is shown, over any horizon.
        The solver's path is put back every few accepted steps, for a fraction of their cost; each saved state costs
        one way back. ``drift`` says how far states are, with it or without.
    t_start : float
        Time of the start.
    max_gradients : int, optional
        Cap, 10 million by default.
    max_seconds : float, optional
        Cap on the wall clock, looked at several times a second.
    progress : bool, optional
        Progress bar; by default where standard error is a terminal and the run takes more than two seconds.
    ensemble : {"auto", "lanes", "single"}
        How a batch is run. "single": each run as from a single start, bit for bit. "lanes": eight small plain flows
        side by side in vector instructions, about three times as fast; within 10 rtol of single runs, the same bits in
        any order and company; where torch computes the gradient, all runs as one batch of tensors on the device of the
        problem. "auto": lanes from 64 runs on (torch: 8), where they can do what is asked for and pay.

    Returns
    -------
    Trajectory, or Batch for a batch of starts

    Raises
    ------
    ValueError, TypeError
        For wrong arguments; the message says what was given, what must hold and what to do.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(half=True), [[1.0]], [[2.0]])
    >>> run = gf.simulate(problem, [0.0], gf.GradientFlow(), stop=gf.LossBelow(1e-6))
    >>> print(run.status)
    the loss fell below the value that was asked for
    >>> bool(abs(run.t_end - np.log(2 / np.sqrt(2e-6))) < 1e-6)
    True
    """
    if not isinstance(dynamics, Flow):
        raise TypeError(f"dynamics = {dynamics!r}: must be a dynamics such as gf.GradientFlow() or gf.GD(step=0.1)")
    if not hasattr(problem, "checked"):
        raise TypeError(f"problem = {problem!r}: must be a gf.Problem(network, loss, x, y)")
    theta0 = problem.checked(theta0, "theta0")
    if theta0.ndim == 2 and not len(theta0):
        raise ValueError(f"theta0 has shape {theta0.shape}: a batch needs at least one run")
    if not all_finite(theta0):
        raise ValueError(f"theta0 holds {np.count_nonzero(~np.isfinite(theta0))} NaN or infinite entries")
    stops = sequence_of(stop, "stop")
    if t_end is None and not stops:
        raise ValueError("neither t_end nor stop is given: say when the run ends, e.g. t_end=10.0")
    checked_ensemble(ensemble)
    arguments = {
        "t_end": checked_end(t_end, t_start, getattr(dynamics, "step", 0.0) if dynamics.discrete else 0.0),
        "clock": checked_clock(clock),
        "events": [*stops, *sequence_of(events, "events")],
        "save_at": save_at,
        "record": checked_grids(record),
        "solver": checked_solver(solver, dynamics),
        "rtol": checked_rtol(rtol),
        "atol": checked_atol(atol),
        "at_branch": checked_branch(at_branch),
        "conserve": flag(conserve, "conserve"),
        "t_start": float(t_start),
        "max_seconds": np.inf if max_seconds is None else positive(max_seconds, "max_seconds"),
        "progress": None if progress is None else flag(progress, "progress"),
    }
    arguments["kinks"], arguments["kink_note"] = treatment_of_kinks(problem, dynamics, arguments["solver"], kinks)
    arguments["max_gradients"] = most_gradients(arguments, max_gradients)
    if theta0.ndim == 2:
        return simulate_batch(problem, theta0, dynamics, arguments, ensemble)  # pyright: ignore[reportReturnType]
    with single_blas_thread(), Interrupt() as interrupt:
        return run_one(problem, theta0, dynamics, arguments, interrupt)


def run_one(problem, theta0, dynamics, arguments: dict, interrupt) -> Trajectory:
    """One run from checked arguments."""
    dynamics = dynamics.prepared(problem, theta0)
    if asks_for_a_clock(problem, dynamics, theta0, arguments):
        refuse_to_conserve(arguments)
        from gradflow.clocks.run import clocked

        return clocked(problem, theta0, dynamics, arguments, interrupt)
    return run_from_state(problem, dynamics.pack(problem, theta0), dynamics, arguments, interrupt)


def run_from_state(problem, state, dynamics, arguments: dict, interrupt) -> Trajectory:
    """One run from a state of prepared dynamics."""
    begin, given = arguments["t_start"], arguments["atol"]
    atol = absolute_tolerance(problem, dynamics, state, arguments)
    grid = grid_of(arguments["save_at"], begin, arguments["t_end"], dynamics)
    records = resolved(arguments["record"], grid, begin, arguments["t_end"], dynamics)
    arguments = arguments | {"atol": atol, "atol_given": given, "record": records}
    times = None if grid is None else union(grid, records)
    if arguments["kinks"] == "follow":
        warn_of_many_kinks(problem)
    stepper, make_point = stepper_at(problem, dynamics, begin, state, arguments)
    start = partial(first_snapshot, problem, dynamics, begin, np.array(state), arguments)
    outcome = drive(stepper, plan_of(problem, dynamics, arguments, times), make_point, interrupt, start)
    return make_trajectory(problem, dynamics, arguments, outcome, stepper, grid)
