"""Text tables of runs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gradflow import measure
from gradflow.status import Status
from gradflow.trajectory import Trajectory

SHORT = {Status.REACHED_END: "done", Status.LOSS_BELOW: "loss below", Status.DIVERGED: "diverged"}


def table(runs: Mapping[str, Trajectory], extra: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """One row per run: status, end time, loss, drift of the invariants, rank and alignment of the layers, cost.

    Parameters
    ----------
    runs : dict of str to Trajectory
        The rows.
    extra : dict of column -> (dict of run -> text), optional
        Further columns.

    Returns
    -------
    str

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(), [[1.0]], [[2.0]])
    >>> run = gf.simulate(problem, [0.5, 0.5], gf.GradientFlow(), t_end=1.0)
    >>> table({"plain": run}).splitlines()[1].split()[:2]
    ['plain', 'done']
    """
    columns = ["run", "status", "t", "loss", "drift", "|W|2/|W|F", "alignment", "gradients", "seconds", *(extra or {})]
    rows = [
        [name, *_cells(run), *((extra or {})[c].get(name, "") for c in (extra or {}))] for name, run in runs.items()
    ]
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [columns, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def _cells(run: Trajectory) -> list[str]:
    status = SHORT.get(run.status, run.status.name.lower().replace("_", " "))
    drift = f"{run.max_drift:.1e}" if run.drift else "-"
    cells = [status, f"{run.t_end:g}", f"{run.loss[-1]:.3e}", drift]
    cells += [_numbers(measure.spectral_ratio, run), _numbers(measure.alignment, run)]
    return [*cells, str(run.counts.get("gradients", "-")), f"{run.counts.get('seconds', np.nan):.2f}"]


def _numbers(function, run) -> str:
    """A measure of the end state, layer by layer; "-" where the network has none."""
    try:
        values = function(run.problem, run.end)
    except ValueError:
        return "-"
    values = list(values.values()) if isinstance(values, dict) else np.ravel(values)
    return " ".join(f"{float(value):.4f}" for value in values)
