"""Panels drawn by hand: colours by dynamics, and what every panel needs when its lines are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from gradflow.plots.look import (
    DASHES,
    GREY,
    MODES,
    kind_of,
    label_short_log_axis,
    legend_entries,
    place_legend,
    shade,
)

MOST_IN_A_ROW = 6


def colours(dynamics, count: int | None = None):
    """Colour of a dynamics as in all figures of the library, or `count` shades of it from dark to light; one is itself.

    Parameters
    ----------
    dynamics : flow or discrete rule
        Whose colour it is.
    count : int, optional
        How many shades.

    Returns
    -------
    str or list of str
        The colour, or its shades.

    Examples
    --------
    >>> import gradflow as gf
    >>> gf.plots.colours(gf.GradientFlow()), len(gf.plots.colours(gf.PolarFlow(), 4))
    ('#000000', 4)
    """
    colour = kind_of(dynamics)[0]
    if count is None:
        return colour
    return [shade(colour, place / (count - 1) if count > 1 else None) for place in range(count)]


def coloured(values: Iterable, dynamics=None) -> Iterator[tuple[Any, str]]:
    """Pairs of a value and its colour: shades of a dynamics, or the library's palette without one.

    Smaller numbers are darker, as in :func:`gap`: smaller steps are nearer to the flow, which is black.

    Parameters
    ----------
    values : iterable
        What the lines are drawn for, such as step sizes; different ones.
    dynamics : flow or discrete rule, optional
        Whose shades are taken.

    Returns
    -------
    iterator of (value, str)

    Examples
    --------
    >>> import gradflow as gf
    >>> dict(gf.plots.coloured((2, 3)))
    {2: '#0072B2', 3: '#D55E00'}
    >>> dict(gf.plots.coloured((0.1, 0.05), gf.GD(0.1)))[0.05] == gf.plots.colours(gf.GD(0.1), 2)[0]
    True
    """
    values = list(values)
    if dynamics is None:
        return zip(values, [MODES[i % len(MODES)] for i in range(len(values))], strict=True)
    shades = colours(dynamics, len(values))
    if all(isinstance(value, int | float | np.number) for value in values):
        shades = [shades[sorted(values).index(value)] for value in values]
    return zip(values, shades, strict=True)


def reference(
    ax, values, label: str | None = None, *, axis: str = "y", number: int = 0, of: Iterable | None = None
) -> None:
    """Thin grey line at a value that theory gives, or several.

    Parameters
    ----------
    ax : Axes
    values : float or array_like
        Equal ones are drawn once, different ones in dash patterns of their own.
    label : str, optional
        Of the first.
    axis : {"y", "x"}
        On which the values lie.
    number : int
        Of the first dash pattern.
    of : iterable of Line2D, optional
        What :func:`lines` drew, one for each value, which its reference line matches in colour; all have one dash
        pattern then.

    Examples
    --------
    >>> import gradflow as gf
    >>> fig, ax = gf.plots.subplots()
    >>> gf.plots.reference(ax, [1.5, 2.0], "theory")
    >>> [float(line.get_ydata()[0]) for line in ax.lines], ax.lines[0].get_label()
    ([1.5, 2.0], 'theory')
    """
    draw = ax.axhline if axis == "y" else ax.axvline
    values = np.ravel(values).tolist()
    marked = [(v, GREY) for v in dict.fromkeys(values)]
    if of is not None:
        marked = [(v, line.get_color()) for v, line in zip(values, of, strict=True)]
    for place, (value, colour) in enumerate(marked):
        dashes = DASHES[1 + (number + (place if of is None else 0)) % (len(DASHES) - 1)]
        named = label if place == 0 else None
        draw(value, label=named, color=colour, linewidth=1.1, linestyle=dashes, zorder=1.5)


def finish(figure) -> None:
    """Plain numbers on short logarithmic axes; legends, one for all panels if they have the same entries.

    Parameters
    ----------
    figure : Figure
        Whose lines are drawn, with their labels.

    Examples
    --------
    >>> import gradflow as gf
    >>> fig, axes = gf.plots.subplots(1, 2)
    >>> for ax in axes:
    ...     _ = ax.plot([1.0, 2.0], [1.0, 2.0], label="a line")
    >>> gf.plots.finish(fig)
    >>> len(fig.legends), axes[0].get_legend() is None
    (1, True)
    """
    labelled = [ax for ax in figure.axes if legend_entries(ax)]
    for ax in figure.axes:
        for axis, scale in ((ax.xaxis, ax.get_xscale()), (ax.yaxis, ax.get_yscale())):
            if scale == "log":
                label_short_log_axis(axis)
    shared = len(labelled) > 1 and len({tuple(legend_entries(ax)) for ax in labelled}) == 1
    if shared:
        for ax in labelled:
            ax.legend().remove()
        entries = legend_entries(labelled[0])
        rows = -(-len(entries) // MOST_IN_A_ROW)
        columns = -(-len(entries) // rows)
        figure.legend(list(entries.values()), list(entries), loc="outside upper center", ncols=columns)
        return
    for ax in labelled:
        legend = ax.get_legend()
        if legend is None or [text.get_text() for text in legend.get_texts()] != list(legend_entries(ax)):
            place_legend(ax)
