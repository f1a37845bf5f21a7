"""Families of lines, and the numbers behind the lines of a figure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle
from string import ascii_lowercase

import numpy as np

from gradflow.plots.panels import coloured


def lines(ax, rows, x=None, of: Iterable | None = None, *, label=None, dynamics=None, **look) -> list:
    """One line for each row of an array, told apart by colour.

    Parameters
    ----------
    ax : Axes
        Its scales stay as they are, see :func:`subplots`; on a logarithmic one places up to 0 are left out.
    rows : array_like (lines, points) or (points,)
        Heights. A DataArray, as of :func:`gradflow.sweep`, brings `x` and `of` along as its coordinates.
    x : array_like (points,) or (lines, points), optional
        Places; 1, 2, ... if neither given nor known.
    of : iterable (lines,), optional
        What each line is drawn for, 1, 2, ... if neither given nor known; lines for the same have the same colour.
    label : str or sequence of str, optional
        A format for the entries of `of`, such as ``"$h = {:g}$"``, or one label for each line; of a single row the
        label itself. Equal labels are one entry of the legend.
    dynamics : flow or discrete rule, optional
        Whose shades are taken, smaller numbers darker; else the library's palette.
    **look : dict
        For ``ax.plot``: a list holds one value for each line, anything else is for all, a colour too. Widths from
        thick to thin show lines that lie on each other.

    Returns
    -------
    list of Line2D

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> fig, ax = gf.plots.subplots()
    >>> drawn = gf.plots.lines(ax, np.ones((2, 5)), of=(0.1, 0.05), label="$h = {:g}$", dynamics=gf.GD(0.1))
    >>> [line.get_label() for line in drawn]
    ['$h = 0.1$', '$h = 0.05$']
    """
    heights = np.asarray(rows, dtype=float)
    if heights.ndim not in (1, 2):
        raise ValueError(f"rows of shape {heights.shape}: must be (points,) or (lines, points); select what is drawn")
    known = [np.asarray(rows[name]) for name in rows.dims] if hasattr(rows, "dims") else []
    label = [label] if heights.ndim == 1 and isinstance(label, str) else label
    heights = np.atleast_2d(heights)
    count, points = heights.shape
    x = (known[-1] if known else np.arange(1, points + 1)) if x is None else x
    of = (known[0] if len(known) == 2 else np.arange(1, count + 1)) if of is None else list(of)
    names = [None] * count if label is None else [label.format(v) for v in of] if isinstance(label, str) else label
    colour = dict(coloured(dict.fromkeys(of), dynamics))
    looks = [{key: v[i] if isinstance(v, list) else v for key, v in look.items()} for i in range(count)]
    drawn = []
    places = np.broadcast_to(x, heights.shape)
    if ax.get_xscale() == "log":
        heights = np.where(places > 0, heights, np.nan)
    for place, height, name, kind, own in zip(places, heights, names, of, looks, strict=True):
        drawn += ax.plot(place, height, label=name, **({"color": colour[kind]} | own))
    return drawn


def drawn(figure):
    """Numbers behind the lines of a figure.

    Parameters
    ----------
    figure : Figure
        Whose lines are drawn; reference lines across a panel and bars are left out.

    Returns
    -------
    xarray.Dataset
        For panel 1 (2, ...), variable ``panel1`` (line, x), its lines by label; lines at other places x are
        ``panel1b``, ``panel1c``. Title and labels of the axes are its attributes.

    Examples
    --------
    >>> import gradflow as gf
    >>> fig, ax = gf.plots.subplots()
    >>> _ = ax.plot([0.0, 1.0], [2.0, 3.0], label="a line")
    >>> gf.plots.drawn(fig).panel1.sel(line1="a line").values.tolist()
    [2.0, 3.0]
    """
    import xarray

    variables, coordinates = {}, {}
    for number, ax in enumerate(figure.axes, 1):
        about = {"title": ax.get_title(), "xlabel": ax.get_xlabel(), "ylabel": ax.get_ylabel()}
        groups: dict[bytes, list] = {}
        for line in ax.get_lines():
            if line.get_transform() == ax.transData and np.size(line.get_xdata()):
                groups.setdefault(np.asarray(line.get_xdata(), dtype=float).tobytes(), []).append(line)
        for mark, members in zip(_marks(), groups.values(), strict=False):
            x, line = f"x{number}{mark}", f"line{number}{mark}"
            coordinates[x] = np.asarray(members[0].get_xdata(), dtype=float)
            coordinates[line] = [_name(member, place) for place, member in enumerate(members, 1)]
            variables[f"panel{number}{mark}"] = ((line, x), [member.get_ydata() for member in members], about)
    return xarray.Dataset(variables, coordinates)


def _marks():
    """What tells the groups of a panel apart: nothing, b, c, ..., z, b2, ..."""
    yield ""
    for place, letter in enumerate(cycle(ascii_lowercase[1:])):
        yield letter + (str(place // 25 + 1) if place >= 25 else "")


def _name(line, place: int) -> str:
    """Label of a line, or its place among those of its panel."""
    label = str(line.get_label())
    return f"line {place}" if label.startswith("_") else label
