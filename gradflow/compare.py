"""A flow beside discrete runs: distance, leading-order error, a-posteriori bound, observed order, time of parting."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from gradflow.config import what_differs
from gradflow.dynamics.discrete import GD, Momentum
from gradflow.dynamics.flow import GradientFlow
from gradflow.euler_error import Bound, bound, leading_error
from gradflow.status import Status
from gradflow.trajectory import Trajectory

SAME_START = 1e-12
DOUBTFUL_FRACTION = 0.1


def compare(flow: Trajectory, runs: Trajectory | Iterable[Trajectory], *, effective_time: bool = False) -> Comparison:
    r"""Compare a flow with discrete runs from the same start.

    Iterate k of a rule with step h is compared with the flow at time k h:
    :math:`d(t) = |\theta_{t/h} - \theta(t)|`, with the flow's dense output (the flow is repeated once).

    Parameters
    ----------
    flow : Trajectory
        Of a continuous dynamics, such as ``gf.GradientFlow()``.
    runs : Trajectory or sequence of Trajectory
        Of discrete rules (``gf.GD``, ``gf.SGD``, ``gf.Momentum``) from the flow's start. Times past the flow's end
        are left out. A run that began before the flow must pass through the flow's start.
    effective_time : bool
        Whether momentum runs are compared with the flow at time k h / (1 - beta), which they follow over long times.

    Returns
    -------
    Comparison

    Raises
    ------
    TypeError, ValueError
        For a flow that is discrete, runs that are not, another problem (network, loss, data, decay), or another start.

    References
    ----------
    O. Elkabetz, N. Cohen, Continuous vs. Discrete Optimization of Deep Neural Networks, arXiv 2107.06608.

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(half=True), [[1.0]], [[2.0]])
    >>> flow = gf.simulate(problem, [0.5, 0.5], gf.GradientFlow(), t_end=2.0, rtol=1e-10)
    >>> runs = [gf.simulate(problem, [0.5, 0.5], gf.GD(step=h), t_end=2.0) for h in (0.02, 0.01)]
    >>> gap = gf.compare(flow, runs)
    >>> gap.order.round(1).tolist()
    [nan, 1.0]
    """
    if not isinstance(flow, Trajectory):
        raise TypeError(f"flow of type {type(flow).__name__}: must be the Trajectory of a flow, from gf.simulate(...)")
    if flow.dynamics.discrete:
        raise TypeError(f"flow is a run of {flow.dynamics!r}, a discrete rule: give the flow first, then the runs")
    if not np.iterable(runs) and not isinstance(runs, Trajectory):
        raise TypeError(
            f"runs of type {type(runs).__name__}: give the Trajectory of a discrete rule, or a list of them"
        )
    listed = [runs] if isinstance(runs, Trajectory) else list(runs)
    if not listed:
        raise ValueError("runs is empty: give at least one run of a discrete rule")
    for index, run in enumerate(listed):
        if not isinstance(run, Trajectory):
            raise TypeError(f"runs[{index}] of type {type(run).__name__}: must be a Trajectory, from gf.simulate(...)")
        if not run.dynamics.discrete:
            raise TypeError(
                f"runs[{index}] is a run of {run.dynamics!r}: must be a discrete rule such as gf.GD(step=0.1)"
            )
        _check_start(flow, run, index)
    return Comparison(flow, listed, effective_time)


class Comparison:
    r"""Distances between a flow and discrete runs; made by :func:`gradflow.compare`.

    What costs gradients (:attr:`difference`, :attr:`solver_error`, :attr:`leading_error`, :meth:`bound`) is computed
    when first asked for; printing asks for the first three.

    Attributes
    ----------
    flow, runs
        What is compared.
    steps : ndarray (runs,)
        Step sizes h.
    t : list of ndarray (T_i,)
        Times of the flow at which each run is compared: the run's saved times within the flow's.

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(half=True), [[1.0]], [[2.0]])
    >>> flow = gf.simulate(problem, [0.0], gf.GradientFlow(), t_end=1.0, rtol=1e-10)
    >>> gap = gf.compare(flow, gf.simulate(problem, [0.0], gf.GD(step=0.1), t_end=1.0))
    >>> gap.max_distance.round(3).tolist(), gap.parting(0.01).round(3).tolist()
    ([0.038], [0.1])
    """

    def __init__(self, flow: Trajectory, runs: list[Trajectory], effective_time: bool = False):
        self.flow, self.runs, self.effective_time = flow, runs, effective_time
        self.steps = np.array([run.dynamics.step for run in runs])
        begin = _begin(flow)[0]
        self.t, self._saved, self._bounds = [], [], {}
        for run in runs:
            times = begin + self._speed(run) * (run.t - begin)
            slack = 1e-9 * run.dynamics.step
            inside = (times >= flow.t[0] - slack) & (times <= flow.t_end + slack)
            self._saved.append(inside)
            self.t.append(np.clip(times[inside], flow.t[0], flow.t_end))

    def __len__(self) -> int:
        return len(self.runs)

    def _speed(self, run) -> float:
        """Time of the flow per time of a run."""
        follows = self.effective_time and isinstance(run.dynamics, Momentum)
        return 1.0 / (1.0 - run.dynamics.beta) if follows else 1.0

    def _split(self, values: np.ndarray) -> list[np.ndarray]:
        """Rows at the union of all times, dealt out to the runs."""
        union = np.unique(np.concatenate(self.t))
        return [values[np.searchsorted(union, t)] for t in self.t]

    @cached_property
    def reference(self) -> list[np.ndarray]:
        """Parameters (T_i, P) of the flow at the times of each run."""
        return self._split(self.flow.at(np.unique(np.concatenate(self.t))))

    @cached_property
    def difference(self) -> list[np.ndarray]:
        """Run minus flow, (T_i, P) for each run."""
        saved = zip(self.runs, self._saved, self.reference, strict=True)
        return [run.theta[inside] - reference for run, inside, reference in saved]

    @cached_property
    def distance(self) -> list[np.ndarray]:
        """Euclidean norm (T_i,) of the difference, for each run."""
        return [_norms(difference) for difference in self.difference]

    @cached_property
    def relative_distance(self) -> list[np.ndarray]:
        """Distance over the norm of the flow's parameters, (T_i,) for each run; 0 where both are 0."""
        with np.errstate(divide="ignore"):
            return [
                np.divide(d, _norms(theta), out=np.zeros_like(d), where=d != 0)
                for d, theta in zip(self.distance, self.reference, strict=True)
            ]

    @property
    def final_distance(self) -> np.ndarray:
        """Distance (runs,) at the last common time of each run and the flow."""
        return np.array([d[-1] if d.size else np.nan for d in self.distance])

    @property
    def max_distance(self) -> np.ndarray:
        """Largest distance (runs,) over the saved times."""
        return np.array([d.max(initial=np.nan if d.size == 0 else 0.0) for d in self.distance])

    @property
    def diverged(self) -> np.ndarray:
        """Whether each run diverged, (runs,)."""
        return np.array([run.status == Status.DIVERGED for run in self.runs])

    @cached_property
    def leading_error(self) -> list[np.ndarray]:
        r"""Leading-order error e_1 of GD, (T_i, P) for each run: :math:`\theta_{t/h} = \theta(t) + h\,e_1(t) + O(h^2)`.

        .. math:: e_1' = -H e_1 - \tfrac12 H \nabla F, \qquad e_1 = 0 \text{ at the start},

        with the Hessian H along the flow; integrated together with the flow by scipy's DOP853 at rtol 1e-8. Needs a
        plain gradient flow, plain GD and a smooth objective; NaN for other runs, and past 100,000 evaluations.
        """
        plain = [_is_plain(self.flow.dynamics) and _is_plain_gd(run.dynamics) for run in self.runs]
        errors = np.full((np.unique(np.concatenate(self.t)).size, self.flow.problem.size), np.nan)
        if any(plain):
            begin, theta = _begin(self.flow)
            errors = leading_error(self.flow.problem, begin, theta, np.unique(np.concatenate(self.t)))
        return [e if known else np.full_like(e, np.nan) for e, known in zip(self._split(errors), plain, strict=True)]

    @property
    def predicted_distance(self) -> list[np.ndarray]:
        """Leading-order distance ``h |e_1(t)|``, (T_i,) for each run; NaN where e_1 is not known."""
        return [h * _norms(error) for h, error in zip(self.steps, self.leading_error, strict=True)]

    @property
    def prediction_error(self) -> np.ndarray:
        r"""Largest :math:`|(\theta_{t/h} - \theta(t))/h - e_1| / |e_1|` over the saved times, (runs,); of order h.

        Times at which e_1 is 0, as the start, are left out; NaN where it is not known.
        """
        found = []
        for h, difference, error in zip(self.steps, self.difference, self.leading_error, strict=True):
            size = _norms(error)
            found.append((_norms(difference / h - error)[size != 0] / size[size != 0]).max(initial=0.0))
        return np.array(found)

    @cached_property
    def solver_error(self) -> np.ndarray:
        """The flow's own error (T,) at ``flow.t``, by a second run at rtol/10; NaN where that run ended early."""
        try:
            return self.flow.error_estimate()
        except RuntimeError:
            return np.full(self.flow.t.size, np.nan)

    @property
    def doubtful(self) -> np.ndarray:
        """Whether the solver error exceeds 10 % of the final and of the largest distance, (runs, 2)."""
        at_end = np.array([np.interp(t[-1], self.flow.t, self.solver_error) if t.size else np.nan for t in self.t])
        largest = np.full(len(self), self.solver_error.max())
        errors = np.stack([at_end, largest], axis=1)
        return errors > DOUBTFUL_FRACTION * np.stack([self.final_distance, self.max_distance], axis=1)

    @cached_property
    def unique_until(self) -> float:
        """Time of the first branch point of a flow through kinks, after which it is not unique; infinite if none."""
        run = self.flow.run
        if run is None or not run.snapshots or run.arguments.get("kinks") != "follow":
            return np.inf
        return min((point.time for point in self.flow.kinks.branch_points), default=np.inf)

    def parting(self, threshold: float = 0.1) -> np.ndarray:
        """First saved time at which each run is further from the flow than a fraction of the flow's norm, (runs,).

        NaN where it never is; a run that diverged without having parted on its saved times parts at its end.

        Parameters
        ----------
        threshold : float
            Positive.
        """
        if not (np.isfinite(threshold) and threshold > 0):
            raise ValueError(f"threshold = {threshold}: must be a positive number, such as 0.1 for ten per cent")
        parted = np.full(len(self), np.nan)
        for index, (t, relative) in enumerate(zip(self.t, self.relative_distance, strict=True)):
            beyond = ~(relative <= threshold)
            if beyond.any():
                parted[index] = t[beyond.argmax()]
            elif self.diverged[index] and t.size:
                parted[index] = t[-1]
        return parted

    @property
    def order(self) -> np.ndarray:
        """Observed order (runs,): log-log slope of the largest distance from the next larger step of the same rule.

        Largest over common times at which the flow is unique: those of the coarser run, the finer one interpolated
        between its saved times where it did not save them. NaN for the largest step of each rule and for diverged runs.
        """
        slopes = np.full(len(self), np.nan)
        for members in self._families().values():
            for coarse, fine in pairwise(members):
                slopes[fine] = self._slope([coarse, fine])
        return slopes

    @property
    def overall_order(self) -> dict[str, float]:
        """Slope of a straight line through all step sizes of a rule, for every rule with at least two of them."""
        return {rule: self._slope(members) for rule, members in self._families().items() if len(members) > 1}

    def _families(self) -> dict[str, list[int]]:
        """Runs of the same rule that differ in step only, largest step first; diverged runs are left out."""
        families: dict[str, list[int]] = {}
        for index in np.argsort(-self.steps, kind="stable"):
            if not self.diverged[index] and self.t[index].size:
                families.setdefault(rule_name(self.runs[index].dynamics), []).append(int(index))
        return families

    def _slope(self, members: list[int]) -> float:
        """Log-log slope of the largest distance over common times against the step."""
        end = min(self.unique_until, *(self.t[index][-1] for index in members))
        times = self.t[members[0]]
        times = times[times <= end]
        largest = [np.interp(times, self.t[i], self.distance[i]).max(initial=0.0) for i in members]
        if min(largest) == 0 or not np.isfinite(largest).all() or np.ptp(self.steps[members]) == 0:
            return float("nan")
        return float(np.polyfit(np.log(self.steps[members]), np.log(largest), 1)[0])

    def bound(self, index: int = 0) -> Bound:
        r"""A-posteriori bound of the distance of one plain GD run, step by step.

        With the straight line between iterates as the path, its defect inside a step is at most
        :math:`\delta = |\nabla F(\theta_{k+1}) - \nabla F(\theta_k)|` and grows about linearly, so that

        .. math:: B_{k+1} = e^{-mh} B_k + \tfrac h2\,\delta\, e^{\max(-m, 0) h}, \qquad B_0 = 0,

        m the smallest eigenvalue of the Hessian on the segments between flow and path during the step. It is looked
        at on each segment's ends and middle, at the begin, middle and end of the step. Between these, and without
        a known Lipschitz constant of the Hessian, this is an estimate and not a proof. The Hessian is dense up to 200
        parameters; above, Lanczos gives m, from above. GD is repeated to have every iterate.

        Parameters
        ----------
        index : int
            Of the run.

        Raises
        ------
        ValueError
            If the run is not plain GD, or the flow not the plain one.
        """
        if not -len(self) <= index < len(self):
            raise ValueError(f"index = {index}: there are {len(self)} runs")
        run, (begin, theta) = self.runs[index], _begin(self.flow)
        if not (_is_plain(self.flow.dynamics) and _is_plain_gd(run.dynamics)):
            raise ValueError(f"the bound is known for gf.GD(step) beside gf.GradientFlow(), not for {run.dynamics!r}")
        if index % len(self) not in self._bounds:
            end = self.t[index][-1] if self.t[index].size else begin
            count = int((end - begin) / run.dynamics.step + 1e-9)
            self._bounds[index % len(self)] = bound(self.flow, begin, theta, run.dynamics.step, count)
        return self._bounds[index % len(self)]

    def rows(self, threshold: float = 0.1) -> list[tuple[str, ...]]:
        """The printed table: one tuple of texts per run, in the order of the columns; see :meth:`parting`."""
        from gradflow.compare_table import rows

        return rows(self, threshold)

    def __repr__(self):
        from gradflow.compare_table import as_text

        return as_text(self)

    def _repr_html_(self):
        from gradflow.compare_table import as_html

        return as_html(self)


def rule_name(dynamics) -> str:
    """Name of a rule with what differs from its defaults, the step left out."""
    name = type(dynamics).__name__
    if not is_dataclass(dynamics):
        return name
    said = []
    for field in fields(dynamics):
        value = getattr(dynamics, field.name)
        if field.name != "step" and (field.default is MISSING or value != field.default):
            said.append(f"{field.name}={value!r}")
    return f"{name}({', '.join(said)})" if said else name


def _begin(trajectory) -> tuple[float, np.ndarray]:
    """Time and parameters at the very start of a run, which its save grid need not hold."""
    if trajectory.run is None or not trajectory.run.snapshots:
        return float(trajectory.t[0]), trajectory.theta[0]
    first = trajectory.run.snapshots[0]
    return float(first["t"]), trajectory.dynamics.unpack(trajectory.problem, np.asarray(first["state"]))


def _check_start(flow, run, index):
    """Refuse a run of another problem, or one that does not pass through the start of the flow."""
    other = what_differs(flow.problem, run.problem)
    if other:
        raise ValueError(f"runs[{index}] is of another problem than the flow: {other}; run both on one problem")
    (begin, theta), (first, start) = _begin(flow), _begin(run)
    if first > begin:
        raise ValueError(f"runs[{index}] starts at t = {first:g}, after the flow at t = {begin:g}: start both together")
    if first < begin:
        start = run.at(begin)
    apart = float(np.abs(start - theta).max())
    if not apart <= SAME_START * float(np.abs(theta).max()):
        raise ValueError(
            f"runs[{index}] is {apart:.3g} away from the flow's start at t = {begin:g}: start both from the same theta0"
            " (a normalised flow starts from normalised layers: compare it with gf.GD(step, flow=...))"
        )


def _is_plain(dynamics) -> bool:
    return isinstance(dynamics, GradientFlow) and dynamics.rates is None


def _is_plain_gd(dynamics) -> bool:
    return type(dynamics) is GD and _is_plain(dynamics.flow)


def _norms(rows) -> np.ndarray:
    """Euclidean norm of each row."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.linalg.norm(rows, axis=-1)
