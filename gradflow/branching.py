"""What happened at the kinks of a run, and the paths that go on where the flow is not unique."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gradflow.loop import Interrupt, drive
from gradflow.saving import grid_of
from gradflow.threads import single_blas_thread
from gradflow.trajectory import Trajectory

NOT_FOLLOWED = "this run did not follow kinks: run a relu network with kinks='follow' (the default)"


@dataclass(frozen=True)
class Kinks:
    """Kinks of a run.

    Attributes
    ----------
    events : structured ndarray
        One row per event: "time", "kind" ("start", "cross", "slide", "exit", "branch"), "layer" (from 1), "neuron",
        "sample" (from 0), "mask".
    sliding_t, sliding : ndarray
        Times at which the number of sliding kinks changes, and the number from then on.
    regions : int
        Number of activation regions visited.
    branch_points : list
        Points after which the flow is not unique, with time, theta and the masks sigma.
    log10_t, s, clock : ndarray, optional
        Of a run in a clock, for each event: log10 of the time since the start, finite where the time itself overflows;
        fall of the log of the loss; the variable that was stepped in, which begins anew with each phase.
    """

    events: np.ndarray
    sliding_t: np.ndarray
    sliding: np.ndarray
    regions: int
    branch_points: list
    log10_t: np.ndarray | None = None
    s: np.ndarray | None = None
    clock: np.ndarray | None = None

    def count(self, kind: str) -> int:
        """Number of events of a kind."""
        return int((self.events["kind"] == kind).sum())

    def __repr__(self):
        most = int(self.sliding.max(initial=0))
        kinds = ", ".join(f"{self.count(kind)} {kind}" for kind in ("cross", "slide", "exit", "branch"))
        return f"<Kinks: {kinds}; at most {most} sliding at once; {self.regions} regions>"


def kinks_of(trajectory: Trajectory) -> Kinks:
    """What happened at the kinks of a run made with kinks="follow"."""
    if trajectory.clocked is not None:
        return _kinks_in_a_clock(trajectory)
    stepper = _stepper_of(trajectory)
    end = trajectory.t_end
    events = stepper.events[stepper.events["time"] <= end]
    times, counts = stepper.number_sliding
    inside = times <= end
    problem, dynamics = trajectory.problem, trajectory.dynamics
    points = [replace(branch, theta=dynamics.unpack(problem, branch.theta)) for branch in _points(stepper, end)]
    return Kinks(events, times[inside], counts[inside], stepper.regions, points)


def _kinks_in_a_clock(trajectory) -> Kinks:
    """The same for a run in a clock; one that comes from a file is repeated for it."""
    from gradflow.clocks.again import same

    run = trajectory.run
    if run is None or run.arguments.get("kinks") != "follow":
        raise ValueError(NOT_FOLLOWED)
    if run.kinks is None:
        run.kinks = getattr(same(trajectory).run, "kinks", None)
    if run.kinks is None:
        raise ValueError(
            f"this run went over its kinks, since its flow does not follow them in {run.arguments['clock']}"
        )
    return run.kinks


def _stepper_of(trajectory):
    """The stepper of a run that followed kinks, at its end."""
    from gradflow.resuming import at_its_end

    if trajectory.run is None or trajectory.run.arguments.get("kinks") != "follow":
        raise ValueError(NOT_FOLLOWED)
    if trajectory.clocked is not None:
        raise ValueError("branches of a run in a clock are not known: run it with clock='time'")
    return at_its_end(trajectory)


def _points(stepper, end):
    """Branch points of a stepper up to a time, with its states."""
    return [branch for branch in stepper.branch_points if branch.time <= end]


def branches(trajectory: Trajectory, index: int = 0) -> list[tuple[float, Trajectory]]:
    r"""The paths that go on from a branch point of a run, with the share of gradient descents that take each.

    In a two-layer network with one output a sliding kink turns from a valley into a ridge when the neuron's output
    weight passes zero: below it, above it, and staying on it are all solutions of the differential inclusion. Gradient
    descent with small steps takes the active side with a probability that depends on the mask
    :math:`\sigma \in [0, 1]` alone.

    At the origin of a neuron, and where dependent kinks meet, the paths are the ways on from a corner. Their shares are
    counted over descents in the first-order model of the corner; to stay there may be one of the ways.

    Parameters
    ----------
    trajectory : Trajectory
        A run with kinks="follow" and at least one branch point in ``trajectory.kinks.branch_points``.
    index : int
        Which branch point.

    Returns
    -------
    list of (float, Trajectory)
        Likeliest first; each runs from the branch point to the end of the given run.

    Raises
    ------
    ValueError
        If there is no such branch point.

    Examples
    --------
    >>> import gradflow as gf
    >>> loss = gf.losses.Square(reduction="sum", half=True)
    >>> x, y = [[1.0, 1.0], [0.0, 1.0], [1.0, -1.0]], [0.3, -2.0, -1.0]
    >>> problem = gf.Problem(gf.FullyConnected([2, 1, 1]), loss, x, y)
    >>> run = gf.simulate(problem, [1.0, 0.0, 0.3], gf.GradientFlow(), t_end=2.0)
    >>> [(round(share, 2), path.end.round(3).tolist()) for share, path in gf.branches(run)]
    [(0.8, [0.996, 0.249, -0.379]), (0.2, [0.936, -0.547, -0.515])]
    """
    from gradflow.kinks.charted import masked_network
    from gradflow.running import make_trajectory, plan_of, point_maker
    from gradflow.steppers.kinked_branches import branches as forked

    if not isinstance(trajectory, Trajectory):
        raise TypeError(f"{type(trajectory).__name__} is not a Trajectory: give what gf.simulate(...) returned")
    points = _points(_stepper_of(trajectory), trajectory.t_end)
    if not -len(points) <= index < len(points):
        raise ValueError(f"index = {index}: the run has {len(points)} branch points")
    branch, problem, dynamics = points[index], trajectory.problem, trajectory.dynamics
    arguments = trajectory.run.arguments | {  # pyright: ignore[reportOptionalMemberAccess]
        "t_start": branch.time, "t_end": trajectory.t_end, "record": {}, "events": []
    }  # fmt: skip
    grid = grid_of(200, branch.time, trajectory.t_end, dynamics)
    network, paths = masked_network(problem, dynamics), []
    with single_blas_thread(), Interrupt() as interrupt:
        tolerances = {"rtol": arguments["rtol"], "atol": arguments["atol"]}
        for share, stepper in forked(problem, branch, network=network, **tolerances):
            plan = plan_of(problem, dynamics, arguments, grid)
            outcome = drive(stepper, plan, point_maker(problem, dynamics, stepper), interrupt)
            paths.append((share, make_trajectory(problem, dynamics, arguments, outcome, stepper, grid)))
    return paths
