"""How figures look: fonts, the Okabe-Ito colours by dynamics, names of runs, scales and legends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib import colors, interactive, is_interactive, rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from gradflow.dynamics.discrete import GD, SGD, Momentum
from gradflow.dynamics.flow import Flow, GradientFlow
from gradflow.dynamics.normalized import LMFlow
from gradflow.dynamics.polar import PolarFlow
from gradflow.dynamics.weight_norm import WeightNormFlow
from gradflow.measure.layers import weight_names
from gradflow.trajectory import Trajectory

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#7A7A7A"
MODES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
KINDS: tuple[tuple[type, str, str], ...] = (
    (SGD, SKY, "SGD"),
    (GD, VERMILLION, "GD"),
    (Momentum, ORANGE, "momentum"),
    (PolarFlow, BLUE, "polar flow"),
    (LMFlow, GREEN, "LM flow"),
    (WeightNormFlow, PURPLE, "weight-norm flow"),
    (GradientFlow, BLACK, "gradient flow"),
    (Flow, GREY, ""),
)
"""Colour and name of each dynamics; the first class that fits counts, the last fits all."""

RC: dict[Any, Any] = {
    "figure.figsize": (5.2, 3.5),
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "font.size": 10,
    "mathtext.fontset": "dejavusans",
    "axes.labelsize": 11,
    "axes.titlesize": 11,
    "axes.prop_cycle": cycler(color=MODES),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.7,
    "legend.fontsize": 9,
    "legend.framealpha": 0.9,
    "legend.edgecolor": "none",
    "legend.handlelength": 2.2,
    "legend.labelspacing": 0.3,
}
LOG_ABOVE = 100.0
FAR = 1e12
LARGEST = 1e250
"""Above it a diverging run leaves the picture: an axis cannot hold its margins."""
MOST_INSIDE = 8
MOST_ABOVE = 12


@contextmanager
def style():
    """Context in which figures have the library's fonts, grid and colours (Okabe-Ito, told apart by the colour-blind).

    Yields
    ------
    None
        Within ``with gf.plots.style():``.

    Examples
    --------
    >>> import matplotlib.pyplot as plt, gradflow as gf
    >>> with gf.plots.style():
    ...     plt.rcParams["axes.spines.top"]
    False
    """
    with rc_context(RC):
        yield
        shown_at_once = is_interactive()
    interactive(shown_at_once)  # a notebook's backend, first used in here, has just switched it on


def subplots(rows: int = 1, columns: int = 1, **options) -> tuple[Any, Any]:
    """Figure and axes in the library's style: ``matplotlib.pyplot.subplots`` with a size that fits a notebook.

    Parameters
    ----------
    rows, columns : int
        Of panels.
    **options : dict
        What axes can be set to (``xlabel``, ``ylabel``, ``title``, ``xscale``, ``yscale``, ``ylim``, ...): a list holds
        one value for each panel, row by row (None leaves it as it is), anything else is for all. Points that are not
        positive are left out on logarithmic scales. Other options are for matplotlib.

    Returns
    -------
    figure : Figure
        The figure.
    axes : Axes or ndarray of Axes
        One, or (columns,), (rows,) or (rows, columns) of them.

    Examples
    --------
    >>> import gradflow as gf
    >>> fig, axes = gf.plots.subplots(1, 2, xlabel="time $t$", ylabel=["loss", "distance"], yscale="log")
    >>> [ax.get_ylabel() for ax in axes], axes[1].get_xlabel(), axes[0].get_yscale()
    (['loss', 'distance'], 'time $t$', 'log')
    """
    settings = {name: options.pop(name) for name in list(options) if hasattr(Axes, f"set_{name}")}
    for name, values in settings.items():
        if isinstance(values, list) and len(values) != rows * columns:
            raise ValueError(f"{name}: {len(values)} values for {rows * columns} panels; give one each, or one for all")
    with style():
        size = RC["figure.figsize"] if rows * columns == 1 else (4.3 * columns, 3.1 * rows)
        figure, axes = plt.subplots(rows, columns, figsize=options.pop("figsize", size), **options)
        for place, ax in enumerate(figure.axes):
            for name, value in settings.items():
                chosen = value[place] if isinstance(value, list) else value
                if chosen is not None:
                    getattr(ax, f"set_{name}")(chosen, **({"nonpositive": "mask"} if chosen == "log" else {}))
        return figure, axes


@contextmanager
def panel(ax, log: bool | None = None) -> Iterator[Any]:
    """Axes to draw on, new ones if none are given; scales and the legend are settled when the drawing is done.

    `log` says whether the vertical axis is logarithmic; None: where all values are positive and span two decades.
    """
    with style():
        ax = subplots()[1] if ax is None else ax
        yield ax
        for line in ax.get_lines():
            drawn = np.asarray(line.get_ydata(), dtype=float)
            line.set_ydata(np.where(np.abs(drawn) < LARGEST, drawn, np.nan))
        ax.relim()
        values = np.concatenate([np.ravel(line.get_ydata()) for line in ax.get_lines()] or [np.zeros(0)])
        if wide(values) if log is None else log:
            ax.set_yscale("log", nonpositive="mask")
            label_short_log_axis(ax.yaxis)
        place_legend(ax)


def wide(values, ratio: float = LOG_ABOVE) -> bool:
    """Whether numbers are not negative and the positive ones span more than a ratio, by default two decades."""
    finite = np.asarray(values, dtype=float)[np.isfinite(values)]
    positive = finite[finite > 0]
    return positive.size > 1 and finite.min() >= 0 and positive.max() > ratio * positive.min()


def label_short_log_axis(axis) -> None:
    """Plain numbers at 1, 2 and 5 on a logarithmic axis of less than two decades, which has too few powers of ten."""
    low, high = axis.get_view_interval()
    if high < LOG_ABOVE * low:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def far(runs) -> bool:
    """Whether some run goes so far that only the logarithm of its time can be shown."""
    return any(run.clocked is not None and not run.t[-1] < FAR for run in runs)


def shown_times(runs, times=None) -> list[np.ndarray]:
    """Times of each run as the axis shows them: log10 t where a run goes far, without the start at 0."""
    if not far(runs):
        return [run.t for run in runs] if times is None else times
    if times is not None:
        with np.errstate(divide="ignore"):
            return [np.where((t > 0.0) & np.isfinite(t), np.log10(t), np.nan) for t in times]
    return [np.where(np.isfinite(run.log10_t), run.log10_t, np.nan) for run in runs]


def time_axis(ax, runs) -> None:
    """Label of the time axis, which is logarithmic where the saved times crowd towards the start."""
    if far(runs):
        ax.set_xlabel(r"$\log_{10}$ of the time $t$")
        return
    crowded = [np.median(run.t - run.t[0]) < 0.05 * (run.t[-1] - run.t[0]) for run in runs]
    if all(crowded):
        ax.set_xscale("log", nonpositive="mask")
    ax.set_xlabel(r"time $t = k h$" if all(run.dynamics.discrete for run in runs) else r"time $t$")


def kind_of(dynamics) -> tuple[str, str]:
    """Colour and name of a dynamics."""
    found = next(((colour, name) for kind, colour, name in KINDS if isinstance(dynamics, kind)), None)
    if found is None:
        raise TypeError(f"dynamics = {dynamics!r}: must be a dynamics such as gf.GradientFlow()")
    colour, name = found
    return colour, name or type(dynamics).__name__


def label_of(dynamics) -> str:
    """Name of a dynamics in a legend, with its step size."""
    name = kind_of(dynamics)[1]
    return rf"{name}, $h = {number(dynamics.step)}$" if dynamics.discrete else name


def listed(trajectories, labels=None) -> list[Trajectory]:
    """One or several trajectories as a list, with as many labels if there are any."""
    one = isinstance(trajectories, Trajectory)
    runs = [trajectories] if one or not isinstance(trajectories, Iterable) else list(trajectories)
    if not runs:
        raise ValueError("no trajectories: give at least one")
    for run in runs:
        if not isinstance(run, Trajectory):
            raise TypeError(f"{type(run).__name__} is not a Trajectory: give what gf.simulate(...) returned")
    if labels is not None and len(labels) != len(runs):
        raise ValueError(f"{len(labels)} labels for {len(runs)} trajectories: give one label each")
    return runs


def labels_of(runs, labels=None) -> list[str]:
    """One label per run; equal ones are numbered, many equal ones share the first."""
    if labels is not None:
        return list(labels)
    names, numbered = [label_of(run.dynamics) for run in runs], []
    for index, name in enumerate(names):
        total, place = names.count(name), names[:index].count(name) + 1
        if total > MOST_INSIDE:
            numbered.append(f"{name}, {total} runs" if place == 1 else "_")
        else:
            numbered.append(f"{name} ({place})" if total > 1 else name)
    return numbered


def number(value: float, digits: int = 4) -> str:
    """A number for a label, in mathematics' way of writing powers of ten."""
    text = f"{value:.{digits}g}"
    if "e" not in text:
        return text
    factor, power = text.split("e")
    return rf"10^{{{int(power)}}}" if factor == "1" else rf"{factor}\times 10^{{{int(power)}}}"


def looks_of(runs) -> list[dict]:
    """Line properties of each run: colour by dynamics, the larger the step the lighter; flows below discrete runs."""
    looks: list[dict] = [{} for _ in runs]
    mixed = len({run.dynamics.discrete for run in runs}) == 2
    for colour in dict.fromkeys(colour for _, colour, _ in KINDS):
        members = [i for i, run in enumerate(runs) if kind_of(run.dynamics)[0] == colour]
        members.sort(key=lambda i: getattr(runs[i].dynamics, "step", 0.0))
        for place, index in enumerate(members):
            lightness = 0.0 if len(members) == 1 else place / (len(members) - 1)
            below = mixed and not runs[index].dynamics.discrete
            looks[index] = {
                "color": shade(colour, lightness if len(members) > 1 else None),
                "linewidth": 3.0 if below else 1.6,
                "zorder": 2.0 if below else 2.5,
            }
    return looks


def shade(colour: str, lightness: float | None) -> str:
    """A colour itself (None), or from dark (0) to light (1)."""
    if lightness is None:
        return colour
    rgb = np.array(colors.to_rgb(colour))
    dark, light = 0.85 * rgb, 0.35 * rgb + 0.65
    return colors.to_hex(tuple((dark + lightness * (light - dark)).tolist()))


def draw_items(ax, runs, values, names, labels, over: str = "time") -> list[list]:
    """Lines of each run, one for each column of its values, over time or the decades of the loss.

    Columns are told apart by colour in one run, by dashes where the colour tells the runs apart.
    """
    single, several, lines = len(runs) == 1, len(names) > 1, []
    places = shown_times(runs) if over == "time" else [np.where(r.log10_loss < 0, -r.log10_loss, np.nan) for r in runs]
    shown = zip(places, labels_of(runs, labels), looks_of(runs), values, strict=True)
    for place, label, look, columns in shown:
        lines.append([])
        for item, column in enumerate(columns.T):
            if single and several:
                look = {"color": MODES[item % len(MODES)], "label": names[item]}
            else:
                look |= {"label": label if item == 0 else None, "linestyle": DASHES[item % len(DASHES)]}
            lines[-1] += ax.plot(place, column, **look)
    if several and not single:
        for item, name in enumerate(names[: len(DASHES)]):
            ax.plot([], [], color=GREY, linestyle=DASHES[item], label=name)
    if over == "time":
        time_axis(ax, runs)
    else:
        ax.set_xscale("log", nonpositive="mask")
        ax.set_xlabel(r"$\log_{10}(1/F)$")
    return lines


def legend_entries(ax) -> dict[str, Any]:
    """Label -> its first line; lines that share a label have one entry."""
    entries: dict[str, Any] = {}
    for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
        entries.setdefault(label, handle)
    return entries


def place_legend(ax) -> None:
    """Legend inside the axes where it covers no line, else in rows above them, or at their right if it is long."""
    known = legend_entries(ax)
    entries, shown = len(known), (list(known.values()), list(known))
    if entries == 0:
        return
    figure, legend = ax.get_figure(root=True), ax.legend(*shown, loc="best")
    figure.draw_without_rendering()
    box = legend.get_window_extent()
    with np.errstate(all="ignore"):
        paths = [line.get_path().transformed(line.get_transform()) for line in ax.get_lines()]
    if entries > MOST_ABOVE:
        ax.legend(*shown, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
    elif entries > MOST_INSIDE or any(path.intersects_bbox(box, filled=False) for path in paths):
        rows = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2, "columnspacing": 1.2}
        for columns in range(min(3, entries), 0, -1):
            box = ax.legend(*shown, **rows, ncols=columns).get_window_extent()
            if box.width <= 1.15 * ax.get_window_extent().width:
                break
        if ax.get_title():
            ax.set_title(ax.get_title(), pad=72 / figure.dpi * box.height + 6)


def matrix_symbols(problem) -> list[str]:
    """Symbols of the weight matrices."""
    return [matrix_symbol(name) for name in weight_names(problem.network)] or [r"$\theta$"]


def matrix_symbol(name: str) -> str:
    """Symbol of a block of theta: W1 is W with the index 1, u is u."""
    letter, index = name[:1], name[1:]
    if not index.isdigit():
        return rf"${name}$" if not index else name
    return rf"${letter}_{{{index}}}$"
