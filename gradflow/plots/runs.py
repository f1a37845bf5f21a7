"""Figures of trajectories: loss, singular values, alignment, norms, drift, sharpness, single weights over time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradflow import measure
from gradflow.dynamics.discrete import GD, Momentum
from gradflow.dynamics.flow import GradientFlow
from gradflow.plots.look import (
    DASHES,
    GREY,
    MODES,
    draw_items,
    label_of,
    labels_of,
    listed,
    looks_of,
    matrix_symbol,
    matrix_symbols,
    panel,
    shown_times,
    time_axis,
    wide,
)
from gradflow.trajectory import Trajectory

MOST_LINES = 60
MOST_HESSIANS = 100


def loss(trajectories, ax=None, *, labels: Sequence[str] | None = None):
    r"""Objective :math:`F(\theta(t))` over time, on a log axis where it spans more than two decades.

    Where floats cannot hold it, :math:`\log_{10} F` over :math:`\log_{10} t`.

    Parameters
    ----------
    trajectories : Trajectory or sequence of Trajectory
        Coloured by dynamics, shaded by step size.
    ax : Axes, optional
        New ones if not given.
    labels : sequence of str, optional
        One per trajectory; by default dynamics and step size.

    Returns
    -------
    Axes

    Raises
    ------
    TypeError, ValueError
        For anything but trajectories, or a wrong number of labels.

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(), [[1.0]], [[2.0]])
    >>> run = gf.simulate(problem, [0.1, 0.1], gf.GradientFlow(), t_end=4.0)
    >>> gf.plots.loss(run).get_yscale()
    'log'
    """
    runs = listed(trajectories, labels)
    with panel(ax) as ax:
        below = any(run.clocked is not None and run.loss.min() == 0.0 for run in runs)
        draw_items(ax, runs, [(run.log10_loss if below else run.loss)[:, None] for run in runs], [""], labels)
        ax.set_ylabel(r"$\log_{10}$ of the loss $F(\theta)$" if below else r"loss $F(\theta)$")
    return ax


def singular_values(trajectories, ax=None, *, layer: str = "map", log: bool = False, over: str = "time", labels=None):
    r"""Singular values of the end-to-end map :math:`W_L \cdots W_1` of a linear network, or of one layer, over time.

    Parameters
    ----------
    trajectories : Trajectory or sequence of Trajectory
        A single one has its modes told apart by colour.
    ax : Axes, optional
        New ones if not given.
    layer : str
        "map", or the name of a layer such as "W1".
    log : bool
        Whether the axis is logarithmic, to see the modes grow out of a small start.
    over : {"time", "loss"}
        What the values are drawn over: time, or the decades :math:`\log_{10}(1/F)` of the loss below 1.
    labels : sequence of str, optional
        One per trajectory.

    Returns
    -------
    Axes

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([2, 2, 2]), gf.losses.Square(), np.eye(2), np.diag([3.0, 1.0]))
    >>> run = gf.simulate(problem, problem.init(0.01, scheme="aligned"), gf.GradientFlow(), t_end=8.0)
    >>> len(gf.plots.singular_values(run).lines)
    2
    """

    def modes(problem, theta):
        return measure.singular_values(problem, theta, layer)

    def names(problem, count):
        return [rf"$\sigma_{{{i + 1}}}$" for i in range(count)]

    runs = listed(trajectories, labels)
    linear_map = "$w$" if runs[0].problem.is_diagonal else r"$W_L \cdots W_1$"
    ylabel = f"singular values of {linear_map if layer == 'map' else matrix_symbol(layer)}"
    return _measured(modes, names, runs, ax, labels, over, log=log, ylabel=ylabel)


def alignment(trajectories, ax=None, *, missing: bool = False, over: str = "time", labels=None):
    r"""Alignment :math:`|\langle u_l, v_{l+1}\rangle|` of the top singular vectors of adjacent layers over time.

    Parameters
    ----------
    trajectories : Trajectory or sequence of Trajectory
    ax : Axes, optional
    missing : bool
        Whether what is missing to 1 is drawn instead, on a logarithmic axis.
    over : {"time", "loss"}
        As in :func:`singular_values`.
    labels : sequence of str, optional
        As in :func:`loss`.

    Returns
    -------
    Axes

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([2, 2, 1]), gf.losses.Square(), np.eye(2), [[3.0], [1.0]])
    >>> run = gf.simulate(problem, problem.init(0.1), gf.GradientFlow(), t_end=4.0)
    >>> gf.plots.alignment(run).get_ylabel()
    'alignment of adjacent layers'
    """

    def names(problem, count):
        cosines = [rf"|\langle u_{{{l}}}, v_{{{l + 1}}}\rangle|" for l in range(1, count + 1)]
        return [f"$1 - {cosine}$" if missing else f"${cosine}$" for cosine in cosines]

    def missed(problem, theta):
        return 1.0 - measure.alignment(problem, theta)

    if missing:
        settings = {"log": True, "ylabel": "misalignment of adjacent layers"}
        return _measured(missed, names, trajectories, ax, labels, over, **settings)
    settings = {"ylabel": "alignment of adjacent layers", "ylim": (0.0, 1.03)}
    return _measured(measure.alignment, names, trajectories, ax, labels, over, **settings)


def spectral_ratio(trajectories, ax=None, *, over: str = "time", bounds: bool = False, labels=None):
    r"""Ratio :math:`\|W_l\|_2 / \|W_l\|_F` of every layer over time, 1 for rank one.

    Parameters
    ----------
    trajectories : Trajectory or sequence of Trajectory
    ax : Axes, optional
    over : {"time", "loss"}
        As in :func:`singular_values`.
    bounds : bool
        Whether :func:`gradflow.measure.spectral_ratio_bound` from the start of the run is drawn where it says
        something, dashed.
    labels : sequence of str, optional
        As in :func:`loss`.

    Returns
    -------
    Axes

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([2, 2, 1]), gf.losses.Square(), np.eye(2), [[3.0], [1.0]])
    >>> run = gf.simulate(problem, problem.init(0.1), gf.GradientFlow(), t_end=4.0)
    >>> len(gf.plots.spectral_ratio(run).lines)
    2
    """
    settings = {"ylabel": r"spectral ratio $\|W_l\|_2 / \|W_l\|_F$", "ylim": (None, 1.02)}
    bound = measure.spectral_ratio_bound if bounds else None
    return _measured(measure.spectral_ratio, _symbols, trajectories, ax, labels, over, bound=bound, **settings)


def layer_norms(trajectories, ax=None, *, over: str = "time", labels=None):
    r"""Norm :math:`\|W_l\|_F` of every layer over time.

    Parameters
    ----------
    trajectories : Trajectory or sequence of Trajectory
    ax : Axes, optional
    over : {"time", "loss"}
        As in :func:`singular_values`.
    labels : sequence of str, optional
        As in :func:`loss`.

    Returns
    -------
    Axes

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(), [[1.0]], [[2.0]])
    >>> run = gf.simulate(problem, [0.1, 0.2], gf.GradientFlow(), t_end=4.0)
    >>> len(gf.plots.layer_norms(run).lines)
    2
    """
    ylabel = r"layer norms $\|W_l\|_F$"
    return _measured(measure.layer_norms, _symbols, trajectories, ax, labels, over, ylabel=ylabel)


def drift(trajectories, ax=None, *, labels=None):
    r"""Deviation :math:`|I(t) - I(0)\,e^{-ct}|` of each invariant from theory: the accuracy of a run, seen from inside.

    Parameters
    ----------
    trajectories : Trajectory or sequence of Trajectory
    ax : Axes, optional
    labels : sequence of str, optional
        As in :func:`loss`.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If no invariant is known for one of the runs.

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(), [[1.0]], [[2.0]])
    >>> run = gf.simulate(problem, [0.1, 0.2], gf.GradientFlow(), t_end=4.0)
    >>> gf.plots.drift(run).get_ylabel()
    'drift of the invariants'
    """
    runs = listed(trajectories, labels)
    without = [label_of(run.dynamics) for run in runs if not run.drift]
    if without:
        raise ValueError(f"no invariant is known for {', '.join(without)}: leave these runs out")
    names = list(dict.fromkeys(name for run in runs for name in run.drift))
    missing = [np.full(run.t.size, np.nan) for run in runs]
    values = [
        np.stack([run.drift.get(n, gone) for n in names], axis=1) for run, gone in zip(runs, missing, strict=True)
    ]
    with panel(ax) as ax:
        draw_items(ax, runs, values, names, labels)
        ax.set_ylabel("drift of the invariants")
    return ax


def sharpness(trajectories, ax=None, *, labels=None):
    r"""Sharpness :math:`\lambda_{\max}(\nabla^2 F)` over time, with the stability limit of each discrete rule, dashed.

    The limit is 2/h for GD and SGD, 2(1 + beta)/h for heavy ball and 2(1 + beta)/((1 + 2 beta) h) for Nesterov's
    variant. A record called "sharpness" is drawn where the run has one; else it is computed at up to 100 points.

    Parameters
    ----------
    trajectories : Trajectory or sequence of Trajectory
    ax : Axes, optional
    labels : sequence of str, optional
        As in :func:`loss`.

    Returns
    -------
    Axes

    References
    ----------
    J. Cohen et al., Gradient descent on neural networks typically occurs at the edge of stability, arXiv 2103.00065.

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(), [[1.0]], [[2.0]])
    >>> run = gf.simulate(problem, [0.1, 0.2], gf.GD(step=0.05), t_end=4.0)
    >>> float(gf.plots.sharpness(run).lines[1].get_ydata()[0])
    40.0
    """
    runs = listed(trajectories, labels)
    curves, limits = [_sharpness(run) for run in runs], [stability_limit(run.dynamics) for run in runs]
    heights = np.concatenate([*(values for _, values in curves), limits])
    with panel(ax, log=wide(heights, 10.0)) as ax:
        times = shown_times(runs, [t for t, _ in curves])
        shown = zip(times, curves, limits, labels_of(runs, labels), looks_of(runs), strict=True)
        for t, (_, values), limit, label, look in shown:
            ax.plot(t, values, label=label, **look)
            if np.isfinite(limit):
                ax.axhline(limit, color=look["color"], linestyle=DASHES[1], linewidth=1.1)
        if np.isfinite(limits).any():
            ax.plot([], [], color=GREY, linestyle=DASHES[1], linewidth=1.1, label="stability limit")
        time_axis(ax, runs)
        ax.set_ylabel(r"sharpness $\lambda_{\max}(\nabla^2 F)$")
    return ax


def weights(trajectory, ax=None, *, layer: str | None = None):
    r"""Single parameters :math:`\theta_i(t)` over time, coloured by layer.

    Of more than 60 those that move furthest are drawn, and the label says so.

    Parameters
    ----------
    trajectory : Trajectory
    ax : Axes, optional
    layer : str, optional
        Name of one layer; all if not given.

    Returns
    -------
    Axes

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(), [[1.0]], [[2.0]])
    >>> run = gf.simulate(problem, [0.1, 0.2], gf.GradientFlow(), t_end=4.0)
    >>> len(gf.plots.weights(run).lines)
    2
    """
    if not isinstance(trajectory, Trajectory):
        raise TypeError(f"trajectory of type {type(trajectory).__name__}: give one Trajectory, from gf.simulate(...)")
    layers = trajectory.problem.layers(trajectory.theta)
    if layer is not None and layer not in layers:
        raise ValueError(f"layer = {layer!r}: unknown; choose one of {', '.join(layers)}")
    chosen = layers if layer is None else {layer: layers[layer]}
    columns = np.concatenate([block.reshape(trajectory.t.size, -1) for block in chosen.values()], axis=1)
    owner = np.repeat(np.arange(len(chosen)), [block[0].size for block in chosen.values()])
    shown = np.sort(np.argsort(-np.ptp(columns, axis=0), kind="stable")[:MOST_LINES])
    (times,) = shown_times([trajectory])
    with panel(ax, log=False) as ax:
        for which, name in enumerate(chosen):
            lines = ax.plot(times, columns[:, shown[owner[shown] == which]], color=MODES[which % len(MODES)], lw=1.0)
            if lines:
                lines[0].set_label(matrix_symbol(name))
        all_shown = shown.size == columns.shape[1]
        ax.set_ylabel(r"parameters $\theta_i$" + ("" if all_shown else f" ({shown.size} of {columns.shape[1]})"))
        time_axis(ax, [trajectory])
    return ax


def _measured(values, names, trajectories, ax, labels, over: str, *, log: bool = False, bound=None, **settings):
    """Axes with a measure of each run and its bound, dashed; its names are a function of problem and their number."""
    runs = listed(trajectories, labels)
    if over not in ("time", "loss"):
        raise ValueError(f"over = {over!r}: must be 'time' or 'loss'")
    found = [values(run.problem, run.theta) for run in runs]
    with panel(ax, log) as ax:
        lines = draw_items(ax, runs, found, names(runs[0].problem, found[0].shape[1]), labels, over)
        bounds = [] if bound is None else [bound(run.problem, run.theta, run.theta[0]) for run in runs]
        for own, found_bounds in zip(lines, bounds, strict=False):
            for line, least in zip(own, found_bounds.T, strict=True):
                look = {"color": line.get_color(), "linestyle": DASHES[1], "linewidth": 1.0}
                ax.plot(line.get_xdata(), np.where(least > 0, least, np.nan), **look)
        ax.set(**settings)
    return ax


def _symbols(problem, count) -> list[str]:
    return matrix_symbols(problem)


def _sharpness(run) -> tuple[np.ndarray, np.ndarray]:
    """Times and sharpness: the record of it, or computed at evenly chosen saved points."""
    if "sharpness" in run.records:
        return run.records["sharpness"].t, np.asarray(run.records["sharpness"])
    chosen = np.unique(np.linspace(0, run.t.size - 1, MOST_HESSIANS).astype(int))
    return run.t[chosen], measure.sharpness(run.problem, run.theta[chosen])


def stability_limit(dynamics) -> float:
    """Sharpness above which a rule is unstable at a minimum of a quadratic; NaN for a flow."""
    if isinstance(dynamics, Momentum):
        ahead = 1.0 + 2.0 * dynamics.beta if dynamics.nesterov else 1.0
        return 2.0 * (1.0 + dynamics.beta) / (ahead * dynamics.step)
    plain = isinstance(dynamics, GD) and isinstance(dynamics.flow, GradientFlow) and dynamics.flow.rates is None
    return 2.0 / dynamics.step if plain else float("nan")
