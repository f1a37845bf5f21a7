"""From checked arguments to a clocked run."""

from __future__ import annotations

import numpy as np

from gradflow.calling import notes_of
from gradflow.clocks.kinds import Relative
from gradflow.clocks.march import March, Plan
from gradflow.clocks.moment import Base, has_logarithm, plain, polar_serves
from gradflow.clocks.rule import Automatic, Fixed
from gradflow.clocks.solver import checked_clocked_solver
from gradflow.clocks.targets import LN10, At, Every, Target, series, target
from gradflow.eigenbasis import hint
from gradflow.events import LossBelow
from gradflow.status import Status
from gradflow.trajectory import Record as Values
from gradflow.trajectory import Run, Trajectory

MOST_LOG_LOSS = 1e4
MOST_GRADIENTS_AT_KINKS = 200_000
"""Cap for flows that run over kinks in some clocks, where they may chatter."""


def clocked(problem, theta0, dynamics, arguments: dict, interrupt) -> Trajectory:
    """Trajectory of prepared dynamics from a start in the clocks that the arguments ask for."""
    from gradflow.running import call_as_config

    arguments = arguments | {"theta0": np.array(theta0)}
    if arguments["kinks"] == "follow" and not (has_logarithm(problem, dynamics) and plain(dynamics)):
        arguments["max_gradients"] = min(arguments["max_gradients"], MOST_GRADIENTS_AT_KINKS)
    status, way = march(problem, theta0, dynamics, arguments, interrupt)
    record, states = way.kept.record(way.switches, arguments["t_start"]), np.stack([row.state for row in way.kept.rows])
    notes, records, t = [*way.notes, *notes_of(arguments)], {}, record.t
    theta = dynamics.unpack(problem, states)
    for name, (function, _) in arguments["record"].items():
        try:
            records[name] = Values(t, np.stack([np.asarray(function(problem, row), dtype=np.float64) for row in theta]))
        except Exception as error:  # a failing measure must not cost the run
            notes.append(f"record {name!r} failed: {type(error).__name__}: {error}")
    return Trajectory(
        problem,
        dynamics,
        t,
        states,
        status,
        way.counts,
        events=[crossing for _, crossing in sorted(way.crossings, key=lambda pair: pair[0])],
        records=records,
        notes=notes,
        run=Run(dynamics, arguments, kinks=way.kinks.told()),
        config=call_as_config(problem, dynamics, arguments),
        clocked=record,
    )


def march(problem, theta0, dynamics, arguments: dict, interrupt) -> tuple[Status, March]:
    """Run prepared dynamics from a start in the clocks that the arguments ask for."""
    clock, begin = arguments["clock"], arguments["t_start"]
    if dynamics.discrete:
        raise ValueError(f"clock = {clock}: {type(dynamics).__name__} is a discrete rule, its time is its steps")
    checked_clocked_solver(arguments["solver"])
    if any(grid is not None for _, grid in arguments["record"].values()):
        raise ValueError("record: a measure with a grid of its own needs clock='time'; here all share save_at")
    rule = Fixed(clock) if clock != "auto" else Automatic(problem, dynamics, theta0, _horizon(arguments))
    _check_clock(problem, dynamics, rule.first, theta0)
    base = Base(problem, dynamics)
    scale = 10.0**rule.first.log10_scale if isinstance(rule.first, Relative) else 1.0
    start = base.start(dynamics.pack(problem, theta0 * scale))
    ends, events = _ends(arguments, base.log_start)
    _check_reach(ends, arguments["rtol"])
    saves, steps = _series(arguments, rule.first, base.log_start, ends)
    plan = Plan(
        problem=problem,
        dynamics=dynamics,
        theta0=theta0,
        rule=rule,
        solver=arguments["solver"],
        rtol=arguments["rtol"],
        atol=arguments["atol"],
        t_start=begin,
        events=events,
        ends=ends,
        series=saves,
        keep_steps=steps,
        max_gradients=arguments["max_gradients"],
        max_seconds=arguments["max_seconds"],
        interrupt=interrupt,
        at_branch=arguments["at_branch"] if arguments["kinks"] == "follow" else None,
    )
    way = March(plan)
    with np.errstate(divide="ignore"):
        said = hint(problem, float(np.log10(np.abs(theta0).max()) + np.log10(scale)))
    way.notes += [said] if said else []
    return way.run(start, base, rule.first), way


def _check_clock(problem, dynamics, clock, theta0) -> None:
    """Refuse a clock that this flow cannot be run in."""
    name = type(dynamics).__name__
    base = Base(problem, dynamics)
    if clock.by_descent and not base.log:
        reason = f"decay = {problem.decay:g}" if problem.decay else f"{name} under {problem.loss}"
        raise ValueError(
            f"clock = {clock} needs a loss that can fall to 0 and a flow that is linear in the gradient, not {reason};"
            " use 'log_time' or 'arc'"
        )
    if clock.name == "relative" and not np.any(theta0):
        raise ValueError("clock = relative: theta0 = 0 has no size to be relative to; start away from 0, or use 'time'")
    if isinstance(clock, Relative) and clock.log10_scale and not (base.log and polar_serves(problem, dynamics)):
        raise ValueError("Relative(log10_scale=...) needs the plain flow of a homogeneous network without decay")


def _horizon(arguments) -> float:
    """log10 of the time of the end, as far as it is known."""
    end = arguments["t_end"]
    if isinstance(end, At):
        return {"log10_t": end.values[0], "t": np.log10(max(end.values[0], 1e-300))}.get(end.variable, -np.inf)
    return float(np.log10(end)) if np.isfinite(end) and end > 0.0 else -np.inf


def _ends(arguments, log_start) -> tuple[list, list]:
    """Ends of a run as (target, status), and the events that must be looked at."""
    begin, end = arguments["t_start"], arguments["t_end"]
    ends: list[tuple[Target, Status]] = []
    if isinstance(end, At):
        if not end.single:
            raise ValueError(f"t_end = {end}: the end of a run is one value")
        ends.append((target(end.variable, end.values[0], log_start, begin), Status.REACHED_END))
    elif np.isfinite(end):
        ends.append((target("t", end, log_start, begin), Status.REACHED_END))
    if any(place.before_start and place.kind == "log_elapsed" for place, _ in ends):
        raise ValueError(f"t_end = {end}: must be later than t_start = {begin:g}")
    events = []
    for event in arguments["events"]:
        if isinstance(event, LossBelow):
            given = ("log10_loss", event.log10) if event.log10 is not None else ("loss", event.level)
            name, value = given[0], float(given[1] or 0.0)
            if name == "log10_loss" or value > 0.0:
                ends.append((target(name, value, log_start, begin), Status.LOSS_BELOW))
        else:
            events.append(event)
    return ends, events


def _check_reach(ends, rtol) -> None:
    """Refuse losses at which the differences of the margins are lost in rounding."""
    for place, _ in ends:
        if place.kind == "s" and place.value > MOST_LOG_LOSS / rtol:
            raise ValueError(
                f"log10 loss = {-place.value / LN10:.3g}: beyond {MOST_LOG_LOSS / rtol / LN10:.3g} decades the"
                " differences of the margins are lost in double precision; ask for less, or tighten rtol"
            )


def _series(arguments, clock, log_start, ends):
    """Places to save, and how many accepted steps to keep where there are none."""
    save_at, begin = arguments["save_at"], arguments["t_start"]
    given = isinstance(save_at, At | Every) or np.ndim(save_at) == 1 and not isinstance(save_at, str)
    if given:
        found = series(save_at, log_start, begin)
        for one in found:
            if one.next is not None and one.next.before_start:
                raise ValueError(f"save_at = {save_at}: its first place lies before the start of the run")
        return found, 0
    if isinstance(save_at, str):
        return [], 200
    count = int(save_at)  # pyright: ignore[reportArgumentType]
    if count < 2:
        raise ValueError(f"save_at = {save_at}: at least 2 points, the start and the end")
    if len(ends) == 1 and ends[0][0].kind == "s" and clock.by_descent:
        values = np.expm1(np.linspace(0.0, np.log1p(ends[0][0].value), count))[1:-1]
        return (series(At("s", tuple(values), False), log_start, begin), 0) if count > 2 else ([], count)
    return [], count
