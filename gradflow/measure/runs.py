"""Measures of one theta, applied to every row of a batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from gradflow.trajectory import Trajectory


def checked_run(trajectory) -> None:
    """Raise unless it is a trajectory."""
    if not isinstance(trajectory, Trajectory):
        raise TypeError(f"trajectory of type {type(trajectory).__name__}: give a run of gf.simulate(...)")


def per_run(measure: Callable[..., Any]) -> Callable[..., Any]:
    """Let a measure of theta (P,) take (runs, P) too, its values stacked along a first axis; a number is a float."""

    @wraps(measure)
    def measured(problem, theta, *args, **options):
        theta = problem.checked(theta)
        if theta.ndim == 1:
            value = measure(problem, theta, *args, **options)
            return value if np.ndim(value) else float(value)
        return np.stack([measure(problem, row, *args, **options) for row in theta])

    return measured
