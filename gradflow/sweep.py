"""sweep: what is measured at every combination of settings, as arrays over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np

SAME = 1e-12
"""Relative difference up to which places are the same: times k h of several steps h differ by rounding."""


def sweep(function: Callable[..., Any], /, **settings: Any):
    r"""Call a function at every combination of settings and gather what it returns over them.

    Parameters
    ----------
    function : callable
        Called with one value of each setting by name. Returns a number or an array, or a dict of them by name; an
        array may come with the names of its dimensions, ``("t", run.loss)`` or ``(("t", "layer"), norms)``. An array
        that bears the name of its own dimension, ``"t": ("t", run.t)``, is the coordinate of that dimension.
    **settings
        A list, tuple, range or array is swept, in the order given, the last one fastest; anything else is passed on as
        it is.

    Returns
    -------
    xarray.Dataset
        One variable for each name (``value`` if the function returns no dict), its dimensions the swept settings and
        then those of the array. Arrays that are shorter at some settings, as of a run that ended early, are filled up
        with NaN. Settings that are not numbers are told apart by their text.

    Raises
    ------
    ValueError
        If no setting is swept, one has no values, or the results do not fit together.

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(half=True), [[1.0]], [[0.0]])
    >>> def descent(step, start):
    ...     run = gf.simulate(problem, [start], gf.GD(step), t_end=1.0, save_at=3)
    ...     return {"t": ("t", run.t), "theta": ("t", run.theta[:, 0]), "loss": run.loss[-1]}
    >>> runs = gf.sweep(descent, step=(0.5, 0.25), start=(1.0, 2.0, 4.0))
    >>> runs.loss.dims, runs.theta.shape
    (('step', 'start'), (2, 3, 3))
    >>> runs.loss.sel(step=0.5).values.tolist()  # (1 - step)^4 start^2 / 2
    [0.03125, 0.125, 0.5]
    """
    import xarray

    from gradflow.loop import interrupts_raise

    swept = {name: list(values) for name, values in settings.items() if _is_swept(values)}
    if not swept or not all(swept.values()):
        empty = ", ".join(name for name, values in swept.items() if not values)
        raise ValueError(f"{empty or 'no setting'} has several values: give a list of at least one for what is swept")
    with interrupts_raise():
        points = [dict(zip(swept, point, strict=True)) for point in product(*swept.values())]
        results = [_named(function(**settings | point)) for point in points]
    names = list(results[0])
    for point, result in zip(points, results, strict=True):
        if result.keys() != results[0].keys():
            raise ValueError(f"at {point} the function returned {', '.join(result)} instead of {', '.join(names)}")
    shape, inner, coordinates = tuple(map(len, swept.values())), {}, {n: _labels(v) for n, v in swept.items()}
    for name in names:
        dims, rows = _gathered(name, [result[name] for result in results])
        if dims == (name,):
            coordinates[name] = _common(name, rows)
        else:
            inner[name] = ((*swept, *dims), rows.reshape(shape + rows.shape[1:]))
    return xarray.Dataset(inner, coordinates)


def _is_swept(values) -> bool:
    """Whether a setting has several values."""
    return np.ndim(values) > 0 if isinstance(values, np.ndarray) else isinstance(values, (list, tuple, range))


def _named(result) -> dict:
    """What a function returned, by name."""
    return result if isinstance(result, dict) else {"value": result}


def _labels(values: list) -> np.ndarray:
    """Coordinate of a setting: numbers, or texts of anything else."""
    if all(np.ndim(value) == 0 and isinstance(value, (int, float, np.number)) for value in values):
        return np.array(values)
    return np.array([value if isinstance(value, str) else str(value) for value in values])


def _gathered(name: str, values: Sequence) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the inner dimensions, and the values one below the other, short ones filled up with NaN."""
    given = next((value[0] for value in values if isinstance(value, tuple)), None)
    arrays = [np.asarray(value[1] if isinstance(value, tuple) else value, dtype=float) for value in values]
    if len({array.ndim for array in arrays}) > 1:
        raise ValueError(f"{name}: some settings give arrays of {arrays[0].ndim} dimensions and others do not")
    dims = (given,) if isinstance(given, str) else tuple(given or ())
    dims = dims or tuple(f"{name}_{axis}" for axis in range(arrays[0].ndim))
    if len(dims) != arrays[0].ndim:
        raise ValueError(f"{name}: {len(dims)} names of dimensions, {', '.join(dims)}, for {arrays[0].ndim}")
    filled = np.full((len(arrays), *np.max([array.shape for array in arrays], axis=0).astype(int)), np.nan)
    for place, array in enumerate(arrays):
        filled[(place, *map(slice, array.shape))] = array
    return dims, filled


def _common(name: str, rows: np.ndarray) -> np.ndarray:
    """Coordinate that all settings share, as far as each goes."""
    longest = rows[np.isfinite(rows).sum(1).argmax()]
    if not (np.isnan(rows) | np.isclose(rows, longest, rtol=SAME, atol=0.0)).all():
        raise ValueError(f"{name} differs between settings: save all runs at the same places, or give it another name")
    return longest
