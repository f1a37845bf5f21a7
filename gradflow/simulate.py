"""simulate: from a problem, a start and a dynamics to a trajectory."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from gradflow.arguments import positive
from gradflow.batch import checked_ensemble, simulate_batch
from gradflow.clocks.kinds import checked_clock
from gradflow.clocks.targets import At
from gradflow.config import to_config, versions
from gradflow.dynamics.discrete import SGD
from gradflow.dynamics.flow import Flow, GradientFlow
from gradflow.events import Point
from gradflow.loop import SLICE_SECONDS, Interrupt, Plan, drive
from gradflow.networks import FullyConnected
from gradflow.saving import checked_grids, grid_of, resolved, union
from gradflow.status import Status
from gradflow.steppers.choose import FixedStep, checked_solver, make_field, make_stepper
from gradflow.threads import single_blas_thread
from gradflow.trajectory import Record, Run, Trajectory

MOST_GRADIENTS = 10_000_000
MOST_GRADIENTS_AT_KINKS = 200_000
KINKS = ("follow", "ignore", "implicit")
AT_BRANCH = ("likely", "active", "inactive", "stay", "stop")


def simulate(
    problem,
    theta0,
    dynamics: Flow,
    t_end: float | None = None,
    *,
    stop=(),
    events=(),
    record: dict | None = None,
    save_at=200,
    solver="auto",
    rtol: float = 1e-8,
    atol=None,
    clock="auto",
    kinks: str = "follow",
    at_branch: str = "likely",
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
        floor((t_end - t_start)/step + 1e-9) steps. Needed unless `stop` is given.
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
        "auto" (explicit order 8, handed over to the stiff solver when stiffness is measured), "dop853", "rk45",
        "stabilised" (explicit of order 4, for plateaus and moderate stiffness), "stiff", "LSODA", "Radau", "BDF"
        (scipy's), "cvode", "torchdiffeq:dopri8" and its other methods,
        or ``gf.FixedStep("rk4", step=0.01)``.
    rtol : float
        Relative tolerance per step.
    atol : float or array_like (S,), optional
        Absolute tolerance; by default rtol/100 times the root mean square of the start (at most 1), separately for
        radii, scales and directions, so that a start at 1e-6 is not drowned.
    clock : str or clock
        Variable that the run is stepped in: "time", "log_time", "log_loss", "loss", "relative", "arc", or an object of
        ``gf.clocks``. The path does not depend on it; what can be reached does. "auto": physical time wherever it can
        be represented; where the ends or the saved places ask for more, or the start is tiny: relative before the first
        escape, log loss once every sample is fitted, log time for long horizons of other losses.
    kinks : {"follow", "ignore", "implicit"}
        How kinks of relu, leaky_relu and abs are treated. "follow": the plain flow of a fully connected network is
        followed as a differential inclusion, across kinks and sliding along them; other flows, networks and solvers
        fall back on "ignore" with a note. "ignore": the plain stepper runs over kinks, and ends with the status
        "stalled at a kink" where it chatters (after 200,000 gradients unless `max_gradients` says otherwise).
        "implicit": Euler steps with masks from their end, of order 1; give ``solver=gf.FixedStep("euler", step)``.
    at_branch : {"likely", "active", "inactive", "stay", "stop"}
        Where to go where the flow through kinks is not unique; see :func:`gradflow.branches`.
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
        side by side in vector instructions, about three times as fast, with steps, status and counts of their own;
        within 10 rtol of single runs, the same bits in any order and company. "auto": lanes from 64 runs on, where
        they can do what is asked for and pay.

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
    theta0 = problem.checked(theta0, "theta0")
    if not np.isfinite(theta0).all():
        raise ValueError(f"theta0 holds {np.count_nonzero(~np.isfinite(theta0))} NaN or infinite entries")
    stops = _sequence(stop, "stop")
    if t_end is None and not stops:
        raise ValueError("neither t_end nor stop is given: say when the run ends, e.g. t_end=10.0")
    checked_ensemble(ensemble)
    arguments = {
        "t_end": _checked_end(t_end, t_start),
        "clock": checked_clock(clock),
        "events": [*stops, *_sequence(events, "events")],
        "save_at": save_at,
        "record": checked_grids(record),
        "solver": checked_solver(solver, dynamics),
        "rtol": positive(rtol, "rtol"),
        "atol": _checked_atol(atol),
        "at_branch": _checked_branch(at_branch),
        "t_start": float(t_start),
        "max_seconds": np.inf if max_seconds is None else positive(max_seconds, "max_seconds"),
        "progress": progress,
    }
    arguments["kinks"], arguments["kink_note"] = _treatment(problem, dynamics, arguments["solver"], kinks)
    arguments["max_gradients"] = _most_gradients(arguments, max_gradients)
    if theta0.ndim == 2:
        return simulate_batch(problem, theta0, dynamics, arguments, ensemble)  # pyright: ignore[reportReturnType]
    with single_blas_thread(), Interrupt() as interrupt:
        return run_one(problem, theta0, dynamics, arguments, interrupt)


def run_one(problem, theta0, dynamics, arguments: dict, interrupt) -> Trajectory:
    """One run from checked arguments."""
    dynamics = dynamics.prepared(problem, theta0)
    if asks_for_a_clock(problem, dynamics, theta0, arguments):
        from gradflow.clocks.run import clocked

        return clocked(problem, theta0, dynamics, arguments, interrupt)
    return run_from_state(problem, dynamics.pack(problem, theta0), dynamics, arguments, interrupt)


def run_from_state(problem, state, dynamics, arguments: dict, interrupt) -> Trajectory:
    """One run from a state of prepared dynamics."""
    begin, given_atol = arguments["t_start"], arguments["atol"]
    arguments = arguments | {"atol": _absolute_tolerance(problem, dynamics, state, arguments)}
    grid = grid_of(arguments["save_at"], begin, arguments["t_end"], dynamics)
    records = resolved(arguments["record"], grid, begin, arguments["t_end"], dynamics)
    times = None if grid is None else union(grid, records)
    if arguments["kinks"] == "follow":
        _warn_of_many_kinks(problem)
    stepper, make_point = _stepper(problem, dynamics, begin, state, arguments)
    outcome = drive(stepper, plan_of(problem, dynamics, arguments, times), make_point, interrupt)
    run = make_trajectory(problem, dynamics, arguments | {"record": records}, outcome, stepper, grid)
    run.config["atol"] = to_config(given_atol)
    return run


def asks_for_a_clock(problem, dynamics, theta0, arguments) -> bool:
    """Whether the call goes beyond physical time."""
    save_at, clock = arguments["save_at"], arguments["clock"]
    if dynamics.discrete and clock == "auto":
        return False
    if clock != "auto" and clock.name != "time":
        return True
    from gradflow.clocks.run import goes_beyond_time

    return goes_beyond_time(problem, theta0, clock, arguments["t_end"], save_at, arguments["events"])


def extend(trajectory: Trajectory, t_end: float, **changes) -> Trajectory:
    """See :meth:`Trajectory.extend`."""
    allowed = {"stop", "save_at", "max_gradients", "max_seconds", "progress"}
    if changes.keys() - allowed:
        raise TypeError(f"extend: unknown arguments {sorted(changes.keys() - allowed)}; known are {sorted(allowed)}")
    if trajectory.clocked is not None:
        from gradflow.clocks.again import extended

        stops = {"events": _sequence(changes.pop("stop", ()), "stop")}
        return extended(trajectory, _checked_end(t_end, trajectory.run.arguments["t_start"]), stops | changes)
    run = _run_of(trajectory)
    if not (np.isfinite(t_end) and t_end > trajectory.t_end):
        raise ValueError(f"t_end = {t_end}: must be finite and later than the end so far, {trajectory.t_end:g}")
    arguments = run.arguments | {"t_end": float(t_end), "events": _sequence(changes.pop("stop", ()), "stop")}
    if not isinstance(arguments["save_at"], int | str):
        arguments["save_at"] = 200
    most = _most_gradients(arguments, changes.pop("max_gradients", None))
    arguments |= {"max_gradients": most + trajectory.counts.get("gradients", 0), "max_seconds": np.inf} | changes
    old_end = trajectory.t_end
    grid = grid_of(arguments["save_at"], old_end, float(t_end), trajectory.dynamics, arguments["t_start"])
    times = None if grid is None else grid[grid > old_end]
    snapshot = max((s for s in run.snapshots if s["t"] <= old_end), key=lambda s: s["t"])
    with single_blas_thread(), Interrupt() as interrupt:
        stepper, make_point = _resumed(trajectory, snapshot, arguments)
        plan = plan_of(trajectory.problem, trajectory.dynamics, arguments, times)
        outcome = drive(stepper, plan, make_point, interrupt)
    new = outcome.t > old_end
    outcome.t = np.concatenate([trajectory.t, outcome.t[new]])
    outcome.states = np.concatenate([trajectory.states, outcome.states[new]])
    outcome.crossings = [*trajectory.events, *(c for c in outcome.crossings if c.t > old_end)]
    outcome.snapshots = [*(s for s in run.snapshots if s["t"] < snapshot["t"]), *outcome.snapshots]
    outcome.seconds += trajectory.counts.get("seconds", 0.0)
    return make_trajectory(trajectory.problem, trajectory.dynamics, arguments, outcome, stepper, None)


def revisit(trajectory: Trajectory, times: np.ndarray) -> np.ndarray:
    """States (m, S) at increasing times within a run, repeating it from the nearest snapshots."""
    run = _run_of(trajectory)
    if trajectory.dynamics.discrete:
        begin, step = run.arguments["t_start"], trajectory.dynamics.step
        times = begin + np.floor((times - begin) / step + 1e-9) * step
    saved = np.empty((times.size, trajectory.states.shape[1]))
    starts = [
        max((s for s in run.snapshots if s["t"] <= t), key=lambda s: s["t"], default=run.snapshots[0]) for t in times
    ]
    done = 0
    with single_blas_thread():
        while done < times.size:
            last = done
            while last + 1 < times.size and starts[last + 1] is starts[done]:
                last += 1
            stepper, _ = _resumed(trajectory, starts[done], run.arguments)
            part = saved[done : last + 1]
            while stepper.t < times[last]:
                status = stepper.advance(
                    run.arguments["t_end"], save_at=times[done : last + 1], saved=part, max_steps=16
                )
                if status not in (Status.PAUSED, Status.STIFF):
                    break
            if last == done and stepper.t == times[done]:
                part[0] = stepper.state
            elif stepper.counts["accepted"] == starts[done].get("accepted", 0):
                part[:] = stepper.state
            done = last + 1
    return saved


def at_its_end(trajectory: Trajectory):
    """A stepper that has repeated the last steps of a run, up to its end."""
    run = _run_of(trajectory)
    snapshot = max((s for s in run.snapshots if s["t"] <= trajectory.t_end), key=lambda s: s["t"])
    stepper, _ = _resumed(trajectory, snapshot, run.arguments)
    while stepper.t < trajectory.t_end:
        if stepper.advance(run.arguments["t_end"], max_steps=1) != Status.PAUSED:
            break
    return stepper


def tightened(trajectory: Trajectory, factor: float) -> np.ndarray:
    """Theta (T, P) of a second run with both tolerances times `factor`, at the saved times of the first."""
    if trajectory.dynamics.discrete:
        return np.array(trajectory.theta)
    if trajectory.clocked is not None:
        from gradflow.clocks.again import tightened_theta

        return tightened_theta(trajectory, factor)
    run = _run_of(trajectory)
    rtol, atol = max(run.arguments["rtol"] * factor, 1e-13), run.arguments["atol"]
    arguments = run.arguments | {
        "t_end": trajectory.t_end,
        "events": [],
        "record": {},
        "save_at": trajectory.t,
        "rtol": rtol,
        "atol": atol * factor,
        "solver": run.arguments["solver"].tightened(factor),
        "max_gradients": 10 * run.arguments["max_gradients"],
        "progress": False,
    }
    with single_blas_thread(), Interrupt() as interrupt:
        second = run_from_state(trajectory.problem, trajectory.states[0], trajectory.dynamics, arguments, interrupt)
    if second.t.size != trajectory.t.size:
        raise RuntimeError(f"the run at rtol/10 ended early: {second.status}; raise max_gradients")
    return second.theta


def _run_of(trajectory) -> Run:
    if trajectory.run is None or not trajectory.run.snapshots:
        raise ValueError("this trajectory holds no state of its solver: it cannot be taken further; run it anew")
    return trajectory.run


def _stepper(problem, dynamics, t, state, arguments):
    """Stepper at a state, and the maker of points for its events."""
    stepper = make_stepper(problem, dynamics, t, state, arguments)
    return stepper, point_maker(problem, dynamics, stepper)


def point_maker(problem, dynamics, stepper):
    """Function that makes the points which events look at; for SGD they see the objective on all samples."""
    stochastic = isinstance(dynamics, SGD)
    if stochastic:
        field = stepper.full_field
    else:
        field = getattr(stepper, "field", None) or make_field(problem, dynamics, problem.kernel)

    def make_point(t, state, value=None, velocity=None):
        if stochastic:
            value = velocity = None
        return Point(problem, dynamics, field, t, state, value, velocity)

    return make_point


def _resumed(trajectory, snapshot, arguments):
    stepper, make_point = _stepper(trajectory.problem, trajectory.dynamics, snapshot["t"], snapshot["state"], arguments)
    stepper.restore(snapshot)
    return stepper, make_point


def plan_of(problem, dynamics, arguments, times) -> Plan:
    """The loop's plan for a call."""
    kernel = problem.kernel
    cost = 1e-9 * kernel.flops + (2e-6 if kernel.compiled and dynamics.compiled else 2e-4)
    save_at = arguments["save_at"]
    return Plan(
        t_end=arguments["t_end"],
        times=times,
        most_points=save_at if isinstance(save_at, int) else 200,
        events=arguments["events"],
        max_gradients=arguments["max_gradients"],
        max_seconds=arguments["max_seconds"],
        slice_gradients=max(100, int(SLICE_SECONDS / cost)),
        progress=arguments["progress"],
        discrete=dynamics.discrete,
        stochastic=isinstance(dynamics, SGD),
    )


def make_trajectory(problem, dynamics, arguments, outcome, stepper, grid) -> Trajectory:
    """Trajectory of an outcome: points of the grid kept, records taken."""
    said = (arguments["kink_note"], getattr(stepper, "message", ""))
    notes = [*outcome.notes, *getattr(stepper, "notes", []), *filter(None, said)]
    records = {}
    theta = dynamics.unpack(problem, outcome.states)
    keep = np.ones(outcome.t.size, bool) if grid is None else np.isin(outcome.t, grid)
    keep[-1] = True
    for name, (function, own_grid) in arguments["record"].items():
        chosen = keep if own_grid is None else np.isin(outcome.t, own_grid)
        try:
            values = [np.asarray(function(problem, row), dtype=np.float64) for row in theta[chosen]]
            records[name] = Record(outcome.t[chosen], np.stack(values))
        except Exception as error:  # a failing measure must not cost the run
            notes.append(f"record {name!r} failed: {type(error).__name__}: {error}")
    counts = dict(stepper.counts)
    counts["gradients"] += outcome.extra_gradients
    counts["seconds"] = outcome.seconds
    return Trajectory(
        problem,
        dynamics,
        outcome.t[keep],
        outcome.states if keep.all() else outcome.states[keep],
        _status(arguments, outcome, stepper),
        counts,
        events=outcome.crossings,
        records=records,
        notes=notes,
        run=Run(dynamics, arguments, outcome.snapshots),
        config=call_as_config(problem, dynamics, arguments),
    )


def call_as_config(problem, dynamics, arguments) -> dict:
    """The call as JSON, with versions and commit."""
    kept = ("t_end", "t_start", "save_at", "rtol", "atol", "max_gradients", "clock")
    return {
        "network": to_config(problem.network),
        "loss": to_config(problem.loss),
        "decay": problem.decay,
        "dynamics": to_config(dynamics),
        "solver": str(arguments["solver"]),
        **{key: to_config(arguments[key]) for key in kept},
        "stops": [repr(event) for event in arguments["events"]],
        "versions": versions(),
    }


def _sequence(value, name) -> list:
    items = list(value) if isinstance(value, Sequence) else [value]
    for item in items:
        if not hasattr(item, "measure"):
            raise TypeError(
                f"{name} = {item!r}: must be a stop or an event, such as gf.LossBelow(1e-6) or gf.Event(...)"
            )
    return items


def _absolute_tolerance(problem, dynamics, state, arguments):
    """Absolute tolerance as given, or rtol/100 times the scale of the start; one number where all entries agree."""
    if arguments["atol"] is not None or dynamics.discrete:
        return arguments["atol"]
    atol = 1e-2 * arguments["rtol"] * dynamics.scale(problem, np.asarray(state))
    return float(atol[0]) if (atol == atol[0]).all() else atol


def _checked_branch(at_branch) -> str:
    if at_branch not in AT_BRANCH:
        raise ValueError(f"at_branch = {at_branch!r}: choose one of {', '.join(AT_BRANCH)}")
    return at_branch


def _treatment(problem, dynamics, solver, kinks) -> tuple[str, str]:
    """How the kinks of a run are treated, "none" where there are none, and what its reader should know."""
    if kinks not in KINKS:
        raise ValueError(f"kinks = {kinks!r}: choose one of {', '.join(KINKS)}")
    if not problem.network.kinked or dynamics.discrete:
        return "none", ""
    plain = type(dynamics) is GradientFlow and dynamics.rates is None
    followed = plain and isinstance(problem.network, FullyConnected) and not problem.network.skips
    if kinks == "implicit":
        if not (followed and isinstance(solver, FixedStep) and solver.method == "euler"):
            raise ValueError(
                "kinks = 'implicit' needs the plain flow of a fully connected network without skips, and"
                " solver=gf.FixedStep('euler', step=...)"
            )
        return "implicit", ""
    if kinks == "ignore":
        return "ignore", ""
    if not followed:
        return "ignore", f"kinks are not followed for {dynamics!r} on {problem.network}: the plain stepper is used"
    if str(solver) not in ("auto", "dop853", "rk45"):
        return "ignore", f"kinks are not followed by the solver {solver}: give 'auto', 'rk45' or 'dop853'"
    return "follow", ""


def _most_gradients(arguments, given) -> int:
    """The cap: lower for flows that may chatter on kinks."""
    if given is not None:
        return int(positive(given, "max_gradients"))
    return MOST_GRADIENTS_AT_KINKS if arguments["kinks"] == "ignore" else MOST_GRADIENTS


def _warn_of_many_kinks(problem) -> None:
    """Say before a long run through kinks what to expect."""
    from gradflow.kinks.estimate import MANY, expected_events

    expected = expected_events(problem)
    if expected > MANY:
        warnings.warn(
            f"about {expected:.0e} kink events are expected, at ten gradients each; gf.GD with small steps,"
            " kinks='implicit' or a smooth activation are the alternatives",
            stacklevel=4,
        )


def _status(arguments, outcome, stepper) -> Status:
    """Status of a run; out of budget by tiny steps on a network with kinks means stalled at a kink."""
    spent = outcome.status in (Status.GRADIENT_BUDGET, Status.STEP_TOO_SMALL)
    if spent and arguments["kinks"] == "ignore" and np.isfinite(arguments["t_end"]):
        remaining = (arguments["t_end"] - stepper.t) / max(stepper.t - stepper.t_before, 1e-300)
        if 10 * remaining > arguments["max_gradients"]:
            return Status.STALLED_AT_KINK
    return outcome.status


def _checked_end(t_end, t_start):
    if not np.isfinite(t_start):
        raise ValueError(f"t_start = {t_start}: must be finite")
    if t_end is None:
        return np.inf
    if isinstance(t_end, At):
        return t_end
    try:
        end = float(t_end)
    except (TypeError, ValueError):
        raise TypeError(f"t_end = {t_end!r}: must be a number") from None
    if not (np.isfinite(end) and end > t_start):
        raise ValueError(f"t_end = {t_end}: must be finite and later than t_start = {t_start:g}")
    return end


def _checked_atol(atol):
    if atol is None:
        return None
    values = np.asarray(atol, dtype=float)
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError(f"atol = {atol}: must be finite and not negative")
    return float(values) if values.ndim == 0 else values
