"""Figure of a comparison: how far discrete runs are from the flow."""

from __future__ import annotations

import numpy as np

from gradflow.compare import Comparison, rule_name
from gradflow.plots.look import (
    BLACK,
    BLUE,
    DASHES,
    GREY,
    kind_of,
    label_short_log_axis,
    labels_of,
    looks_of,
    number,
    panel,
    time_axis,
    wide,
)

FAR_BELOW = 0.02


def gap(comparison: Comparison, ax=None, *, relative: bool = False, predicted: bool = True, bounds: bool = False):
    r"""Distance between discrete runs and the flow over time, beside :math:`h\,|e_1|` and the flow's own solver error.

    Parameters
    ----------
    comparison : Comparison
        From :func:`gradflow.compare`.
    ax : Axes, optional
    relative : bool
        Whether distances are divided by the norm of the flow's parameters.
    predicted : bool
        Whether the leading-order distance h|e_1| is drawn (dotted), where it is known.
    bounds : bool
        Whether the a-posteriori bounds are computed and drawn (dashed), where they are known.

    Returns
    -------
    Axes

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(), [[1.0]], [[2.0]])
    >>> flow = gf.simulate(problem, [0.1, 0.2], gf.GradientFlow(), t_end=4.0)
    >>> comparison = gf.compare(flow, gf.simulate(problem, [0.1, 0.2], gf.GD(step=0.05), t_end=4.0))
    >>> len(gf.plots.gap(comparison, predicted=False).lines)
    2
    """
    _check(comparison)
    runs = comparison.runs
    distances = comparison.relative_distance if relative else comparison.distance
    scales = [_size(theta) if relative else 1.0 for theta in comparison.reference]
    expected = comparison.predicted_distance if predicted else [np.full(t.size, np.nan) for t in comparison.t]
    with panel(ax, log=wide(np.concatenate(distances), 10.0)) as ax:
        lines = zip(comparison.t, distances, expected, scales, labels_of(runs), looks_of(runs), strict=True)
        for t, distance, leading, scale, label, look in lines:
            ax.plot(t, distance, label=label, **look)
            if _known(leading):
                ax.plot(t, leading / scale, color=BLACK, linestyle=DASHES[2], linewidth=1.0, zorder=3.0)
        if any(map(_known, expected)):
            ax.plot([], [], color=BLACK, linestyle=DASHES[2], linewidth=1.0, label=r"predicted $h|e_1(t)|$")
        if bounds:
            _draw_bounds(ax, comparison, relative)
        _draw_solver_error(ax, comparison, relative)
        if np.isfinite(comparison.unique_until):
            ax.axvline(comparison.unique_until, color=BLUE, linewidth=1.0, linestyle=DASHES[3], label="flow branches")
        norm = r" \,/\, |\theta(t)|" if relative else ""
        ax.set_ylabel(rf"distance $|\theta_{{t/h}} - \theta(t)|{norm}$")
        time_axis(ax, [comparison.flow])
    return ax


def order(comparison: Comparison, ax=None):
    r"""Largest distance between discrete runs and the flow against the step h, beside a line of slope 1.

    Where the flow goes through kinks and branches, the distances up to the first branch, from where it is not unique
    (filled marks), and those over all times (open ones).

    Parameters
    ----------
    comparison : Comparison
        From :func:`gradflow.compare`, with several steps.
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(), [[1.0]], [[2.0]])
    >>> flow = gf.simulate(problem, [0.1, 0.2], gf.GradientFlow(), t_end=4.0)
    >>> runs = [gf.simulate(problem, [0.1, 0.2], gf.GD(h), t_end=4.0) for h in (0.02, 0.01)]
    >>> ax = gf.plots.order(gf.compare(flow, runs))
    >>> [line.get_label() for line in ax.lines]
    ['slope 1', 'GD, observed order 1.00']
    """
    _check(comparison)
    steps, until = comparison.steps, comparison.unique_until
    before = np.array([d[t <= until].max(initial=0.0) for t, d in zip(comparison.t, comparison.distance, strict=True)])
    rules = np.array([rule_name(run.dynamics) for run in comparison.runs])
    ends, finest = np.sort(steps)[[0, -1]], steps.argmin()
    with panel(ax, log=True) as ax:
        ax.set_xscale("log", nonpositive="mask")
        ax.plot(ends, before[finest] / steps[finest] * ends, color=GREY, linestyle=DASHES[2], label="slope 1")
        for rule in dict.fromkeys(rules):
            members = np.flatnonzero(rules == rule)
            colour, name = kind_of(comparison.runs[members[0]].dynamics)
            look = {"color": colour, "marker": "o", "markersize": 5}
            slope = comparison.overall_order.get(str(rule), np.nan)
            label = f"{name}, observed order {slope:.2f}" if np.isfinite(slope) else name
            ax.plot(steps[members], before[members], label=label, **look)
            if np.isfinite(until):
                look |= {"linestyle": "none", "markerfacecolor": "none", "label": f"{name}, past the branch"}
                ax.plot(steps[members], comparison.max_distance[members], **look)
        ax.set(xlabel="step $h$", ylabel=r"largest distance $|\theta_{t/h} - \theta(t)|$")
        label_short_log_axis(ax.xaxis)
    return ax


def _check(comparison) -> None:
    if not isinstance(comparison, Comparison):
        raise TypeError(f"comparison of type {type(comparison).__name__}: give what gf.compare(flow, runs) returned")


def _draw_bounds(ax, comparison, relative) -> None:
    """A-posteriori bounds of the plain GD runs."""
    looks, known = looks_of(comparison.runs), False
    for index in range(len(comparison)):
        try:
            bound = comparison.bound(index)
        except ValueError:
            continue
        known = True
        size = _size(comparison.flow.at(bound.t)) if relative else 1.0
        ax.plot(bound.t, bound.bound / size, color=looks[index]["color"], linestyle=DASHES[1], linewidth=1.1)
    if known:
        ax.plot([], [], color=GREY, linestyle=DASHES[1], linewidth=1.1, label="a-posteriori bound")


def _draw_solver_error(ax, comparison, relative) -> None:
    """The flow's own error; named with its size, but not drawn, where it is far below every distance."""
    flow, error = comparison.flow, comparison.solver_error
    error = error / _size(flow.theta) if relative else error
    distances = np.concatenate(comparison.relative_distance if relative else comparison.distance)
    far_below = np.nanmax(error) < FAR_BELOW * distances[distances > 0].min(initial=np.inf)
    t, drawn = ([], []) if far_below else (flow.t, error)
    label = rf"solver error below ${number(np.nanmax(error), 1)}$" if far_below else "solver error"
    ax.plot(t, drawn, color=GREY, linewidth=1.0, label=label)


def _known(leading) -> bool:
    """Whether a leading-order distance is known beyond the start, where it is 0."""
    return bool((np.isfinite(leading) & (leading > 0)).any())


def _size(theta) -> np.ndarray:
    """Norm of each row, NaN where it is zero and nothing can be relative to it."""
    size = np.linalg.norm(theta, axis=1)
    return np.where(size > 0, size, np.nan)
