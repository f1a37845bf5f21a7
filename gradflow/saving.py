"""Save grids: at which times a run keeps its state."""

from __future__ import annotations

import math

import numpy as np

from gradflow.arguments import outside_torch


def grid_of(save_at, begin: float, end: float, dynamics, origin: float | None = None) -> np.ndarray | None:
    """Increasing times from begin to end, or None where every step is to be kept.

    The times of a discrete rule are moved down to its steps, which are counted from `origin`.
    """
    origin = begin if origin is None else origin
    if isinstance(save_at, str):
        if save_at not in ("log", "steps"):
            raise ValueError(f"save_at = {save_at!r}: give a number of points, 'log', 'steps', or the times")
        if save_at == "steps":
            return None
    if math.isinf(end):
        if not isinstance(save_at, str | int | np.integer):
            return _on_steps(_given(save_at, begin, np.inf), begin, dynamics, origin)
        return None
    if isinstance(save_at, str):
        span = end - begin
        times = np.minimum(np.concatenate([[begin], begin + np.geomspace(1e-6 * span, span, 199)]), end)
    elif isinstance(save_at, int | np.integer) and not isinstance(save_at, bool):
        if save_at < 2:
            raise ValueError(f"save_at = {save_at}: at least 2 points, the start and the end")
        times = _even(begin, end, int(save_at))
    else:
        times = _given(save_at, begin, end)
    return _on_steps(times, end, dynamics, origin)


def checked_grids(record) -> dict:
    """Records as name -> (measure, grid or None)."""
    checked = {}
    if record is not None and not hasattr(record, "items"):
        raise TypeError(f"record = {record!r}: must be a dict, name -> function f(problem, theta)")
    for name, given in (record or {}).items():
        function, grid = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
        if not callable(function):
            raise TypeError(f"record {name!r}: must be a function f(problem, theta), or (function, grid)")
        checked[str(name)] = (function, grid)
    return checked


def resolved(records: dict, grid: np.ndarray | None, begin: float, end: float, dynamics) -> dict:
    """Records with their own grids as times."""
    if not records:
        return {}
    own_grids = [name for name, (_, own) in records.items() if own is not None]
    if own_grids and grid is None:
        raise ValueError(
            f"record {own_grids[0]!r} has a grid of its own, but the run saves its steps: give t_end and save_at as a"
            " number of points or a grid"
        )
    return {
        name: (function, None if own is None else grid_of(own, begin, end, dynamics))
        for name, (function, own) in records.items()
    }


def union(grid: np.ndarray, records: dict) -> np.ndarray:
    """All times at which a run must keep its state: the saved ones and those of the records."""
    own_grids = [own for _, own in records.values() if own is not None]
    return np.unique(np.concatenate([grid, *own_grids])) if own_grids else grid


def _even(begin, end, count) -> np.ndarray:
    """As np.linspace gives, bit for bit, for a tenth of its cost."""
    times = np.arange(count, dtype=np.float64)
    times *= (end - begin) / (count - 1)
    times += begin
    times[-1] = end
    return times


def _given(save_at, begin, end) -> np.ndarray:
    try:
        times = np.array(outside_torch(save_at), dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"save_at = {save_at!r}: give a number of points, 'log', 'steps', or the times") from None
    if times.ndim != 1 or times.size == 0 or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        given = "" if times.size > 5 else f" = {save_at!r}"
        raise ValueError(f"save_at{given}: the times must be one increasing sequence of finite numbers")
    if times[0] < begin or times[-1] > end:
        raise ValueError(f"save_at runs from {times[0]:g} to {times[-1]:g}: must lie within [{begin:g}, {end:g}]")
    return times


def _on_steps(times, end, dynamics, origin) -> np.ndarray:
    if not dynamics.discrete:
        return times
    steps = np.unique(np.floor((times - origin) / dynamics.step + 1e-9))
    return origin + steps * dynamics.step
