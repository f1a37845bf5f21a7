"""Kinks of a relu flow: when each neuron crosses, slides and leaves, how many slide at once, and the loss."""

from __future__ import annotations

import numpy as np
from matplotlib.ticker import MaxNLocator

from gradflow.measure.runs import checked_run
from gradflow.plots.look import BLUE, GREY, ORANGE, VERMILLION, style, subplots, time_axis
from gradflow.plots.runs import loss

MARKS = {
    "cross": {"color": GREY, "marker": "|", "label": "cross"},
    "slide": {"color": BLUE, "marker": "o", "label": "begin to slide"},
    "exit": {"color": ORANGE, "marker": "s", "label": "leave"},
    "branch": {"color": VERMILLION, "marker": "D", "label": "branch"},
}

MOST_TICKS = 12


def kinks(trajectory):
    """Event raster by neuron, number of sliding kinks, and loss, over one time axis.

    Parameters
    ----------
    trajectory : Trajectory
        A run that followed kinks.

    Returns
    -------
    Figure, ndarray of Axes (3,)

    Raises
    ------
    ValueError
        If the run did not follow kinks.

    Examples
    --------
    >>> import gradflow as gf
    >>> x, y = gf.data.gaussian(n=20, d=2, seed=0)
    >>> problem = gf.Problem(gf.FullyConnected([2, 6, 1]), gf.losses.Square(), x, y)
    >>> run = gf.simulate(problem, problem.init(1.0, seed=0), gf.GradientFlow(), t_end=5.0)
    >>> fig, axes = gf.plots.kinks(run)
    >>> [ax.get_ylabel() for ax in axes][:2]
    ['neuron', 'sliding']
    """
    checked_run(trajectory)
    found = trajectory.kinks
    events = found.events
    figure, axes = subplots(3, 1, figsize=(5.2, 6.2), sharex=True, height_ratios=(2.2, 1.0, 1.2))
    with style():
        rows = _rows(trajectory.problem.network)
        for kind, look in MARKS.items():
            chosen = events[events["kind"] == kind]
            height = [rows[layer, neuron] for layer, neuron in zip(chosen["layer"], chosen["neuron"], strict=True)]
            size = 40 if kind == "cross" else 16
            if chosen.size:
                axes[0].scatter(chosen["time"], height, s=size, linewidths=0.7, **look)
        _name_rows(axes[0], rows)
        if axes[0].collections:
            axes[0].legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4, handletextpad=0.2, columnspacing=1.0)
        times = np.concatenate([[trajectory.t[0]], found.sliding_t, [trajectory.t_end]])
        counts = np.concatenate([[0], found.sliding, found.sliding[-1:] if found.sliding.size else [0]])
        axes[1].step(times, counts, where="post", color=BLUE)
        axes[1].set_ylabel("sliding")
        axes[1].set_ylim(0, max(1.0, 1.08 * counts.max()))
        axes[1].yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        loss(trajectory, axes[2])
        for point in found.branch_points:
            for ax in axes:
                ax.axvline(point.time, color=VERMILLION, linewidth=0.8, linestyle=":")
        time_axis(axes[2], [trajectory])
    return figure, axes


def _name_rows(ax, rows) -> None:
    """Number the neurons of each layer from 0, with lines between layers and their names if there are several."""
    layers: dict[int, list[int]] = {}
    for (layer, _), row in rows.items():
        layers.setdefault(layer, []).append(row)
    step = max(1, -(-len(rows) // MOST_TICKS))
    ticks = [(row, row - members[0]) for members in layers.values() for row in members[::step]]
    ax.set_yticks([row for row, _ in ticks], [str(neuron) for _, neuron in ticks])
    ax.grid(False, axis="y")
    ax.set_ylim(-1, len(rows))
    ax.set_ylabel("neuron")
    for number, members in layers.items():
        if members[0] > 0:
            ax.axhline(members[0] - 0.5, color=GREY, linewidth=0.8)
        if len(layers) > 1:
            middle = {"transform": ax.get_yaxis_transform(), "rotation": 270, "va": "center", "ha": "left"}
            ax.text(1.01, 0.5 * (members[0] + members[-1]), f"layer {number}", fontsize=9, **middle)


def _rows(network) -> dict[tuple[int, int], int]:
    """Height of each neuron with a kink in the raster, layers from below."""
    from gradflow.kinks.wiring import stages_of

    places = [
        (number, neuron)
        for number, stage in enumerate(stages_of(network), 1)
        if stage.activation.kinked
        for neuron in range(stage.outputs)
    ]
    return {place: row for row, place in enumerate(places)}
