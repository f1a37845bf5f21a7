"""sweep: runs, or whatever is measured, at every combination of settings, as arrays over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np

from gradflow.trajectory import Trajectory

SAME = 1e-12
"""Relative difference up to which places are the same: times k h of several steps h differ by rounding."""


def sweep(function: Callable[..., Any], measures: Any = (), /, **settings: Any):
    r"""Call a function at every combination of settings and gather what it returns over them.

    Parameters
    ----------
    function : callable
        Called with one value of each setting by name. Returns a Trajectory, or a number or an array, or a dict or named
        tuple of them; an array may come with the names of its dimensions, ``("t", run.loss)`` or
        ``(("t", "layer"), norms)``. An array that bears the name of its own dimension, ``"t": ("t", run.t)``, is its
        coordinate.
    measures : sequence of callables, or dict of them by name
        Functions of (problem, theta), taken at the end of each trajectory.
    **settings
        A list, tuple, range or array is swept, in the order given, the last one fastest; anything else is passed on as
        it is.

    Returns
    -------
    xarray.Dataset
        Its dimensions are the swept settings, then those of each result. Of trajectories: over ``t`` the ``loss`` and
        the records that all have (``log10_loss`` too if all ran in a clock), and the measures; where the saved times
        differ, ``t`` is a variable and the dimension is ``saved``. Of numbers and arrays: ``value``, or the names of
        the dict. What is shorter at some settings, as a run that ended early, is filled up with NaN. Settings that are
        not numbers are told apart by their text.

    Raises
    ------
    ValueError
        If no setting is swept, one has no values, or the results do not fit together.

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(half=True), [[1.0]], [[0.0]])
    >>> def descent(step, start):
    ...     return gf.simulate(problem, [start], gf.GD(step), t_end=1.0, save_at=3)
    >>> runs = gf.sweep(descent, (gf.measure.gradient_norm,), step=(0.5, 0.25), start=(1.0, 2.0, 4.0))
    >>> runs.loss.dims, runs.loss.shape
    (('step', 'start', 't'), (2, 3, 3))
    >>> runs.gradient_norm.sel(step=0.5).values.tolist()  # (1 - step)^2 start
    [0.25, 0.5, 1.0]
    """
    import xarray

    from gradflow.loop import interrupts_raise

    swept = {name: list(values) for name, values in settings.items() if _is_swept(values)}
    if not swept or not all(swept.values()):
        empty = ", ".join(name for name, values in swept.items() if not values)
        raise ValueError(f"{empty or 'no setting'} has several values: give a list of at least one for what is swept")
    if not callable(function):
        raise TypeError(f"function = {function!r}: give a function of the settings {', '.join(swept)}")
    named = measures.values() if isinstance(measures, dict) else measures
    if not (np.iterable(named) and all(callable(measure) for measure in named)):
        raise TypeError(f"measures = {measures!r}: give a sequence of functions (problem, theta), or a dict of them")
    chosen = measures if isinstance(measures, dict) else {measure.__name__: measure for measure in measures}
    points = [dict(zip(swept, point, strict=True)) for point in product(*swept.values())]
    with interrupts_raise():
        given = [function(**settings | point) for point in points]
    axis, shared = _axis(given), _shared(given)
    results = [_named(result, chosen, axis, shared) for result in given]
    for point, result in zip(points, results, strict=True):
        if result.keys() != results[0].keys():
            raise ValueError(f"at {point} the function returned {', '.join(result)} instead of {', '.join(results[0])}")
    shape, variables, coordinates = tuple(map(len, swept.values())), {}, {n: _labels(v) for n, v in swept.items()}
    for name, first in results[0].items():
        rows = _stacked(name, [result[name][1] for result in results])
        dims = first[0]
        if len(dims) != rows.ndim - 1:
            raise ValueError(f"{name}: {len(dims)} names of dimensions, {', '.join(dims)}, for {rows.ndim - 1}")
        if dims == (name,):
            coordinates[name] = _common(name, rows)
        else:
            variables[name] = ((*swept, *dims), rows.reshape(shape + rows.shape[1:]))
    return xarray.Dataset(variables, coordinates)


def _is_swept(values) -> bool:
    """Whether a setting has several values."""
    return np.ndim(values) > 0 if isinstance(values, np.ndarray) else isinstance(values, (list, tuple, range))


def _labels(values: list) -> np.ndarray:
    """Coordinate of a setting: numbers, or texts of anything else."""
    if all(isinstance(value, (int, float, np.number)) for value in values):
        return np.array(values)
    return np.array([str(value) for value in values])


def _axis(results: list) -> str:
    """Dimension along trajectories: t if they were saved at the same times, as far as each went."""
    times = [result.t for result in results if isinstance(result, Trajectory)]
    return "t" if not times or _agree(_stacked("t", times)) else "saved"


def _shared(results: list) -> set[str]:
    """Names of what is known over the saved times of every trajectory."""
    names = [_over_time(result).keys() for result in results if isinstance(result, Trajectory)]
    return set(names[0]).intersection(*names) if names else set()


def _named(result, measures: dict, axis: str, shared: set[str]) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Name -> (dimensions, array) of what a function returned."""
    if isinstance(result, Trajectory):
        ends = {name: measure(result.problem, result.end) for name, measure in measures.items()}
        kept = {name: values for name, values in _over_time(result).items() if name in shared}
        result = {name: ((axis, *(f"{name}_{k}" for k in range(1, v.ndim))), v) for name, v in kept.items()} | ends
    named = {}
    as_dict = getattr(result, "_asdict", None)
    result = result if as_dict is None else as_dict()
    for name, value in (result if isinstance(result, dict) else {"value": result}).items():
        dims, array = value if isinstance(value, tuple) else (None, value)
        try:
            array = np.asarray(array, dtype=float)
        except (TypeError, ValueError):
            raise TypeError(f"{name} = {array!r}: the function must return a Trajectory, numbers or arrays") from None
        dims = tuple(f"{name}_{axis}" for axis in range(array.ndim)) if dims is None else dims
        named[name] = ((dims,) if isinstance(dims, str) else tuple(dims), array)
    return named


def _over_time(run: Trajectory) -> dict[str, Any]:
    """What a trajectory holds over its saved times."""
    shown = {"t": run.t, "loss": run.loss}
    if run.clocked is not None:
        shown["log10_loss"] = run.log10_loss
    return shown | {name: record for name, record in run.records.items() if record.t.size == run.t.size}


def _stacked(name: str, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays one below the other, short ones filled up with NaN."""
    if len({array.ndim for array in arrays}) > 1:
        raise ValueError(f"{name}: some settings give arrays of {arrays[0].ndim} dimensions and others do not")
    filled = np.full((len(arrays), *np.max([array.shape for array in arrays], axis=0).astype(int)), np.nan)
    for place, array in enumerate(arrays):
        filled[(place, *map(slice, array.shape))] = array
    return filled


def _agree(rows: np.ndarray) -> bool:
    """Whether rows hold the same places, as far as each goes."""
    longest = rows[np.isfinite(rows).sum(1).argmax()]
    return bool((np.isnan(rows) | np.isclose(rows, longest, rtol=SAME, atol=0.0)).all())


def _common(name: str, rows: np.ndarray) -> np.ndarray:
    """Coordinate that all settings share, as far as each goes."""
    if not _agree(rows):
        raise ValueError(f"{name} differs between settings: save all runs at the same places, or give it another name")
    return rows[np.isfinite(rows).sum(1).argmax()]
