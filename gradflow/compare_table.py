"""The table of a comparison: one row per run, and what must be said about it."""

from __future__ import annotations

from html import escape

import numpy as np

from gradflow.compare import Comparison, rule_name

COLUMNS = ("rule", "step h", "status", "final distance", "max distance", "h|e_1| at end", "solver error", "parted at")
COLUMNS += ("order",)
LEFT = ("rule", "status")


def rows(comparison: Comparison, threshold: float = 0.1) -> list[tuple[str, ...]]:
    """One tuple of texts per run, in the order of the columns."""
    at_end, largest, doubtful = comparison.final_distance, comparison.max_distance, comparison.doubtful
    predicted, parted = comparison.predicted_distance, comparison.parting(threshold)
    order, error = comparison.order, comparison.solver_error.max()
    return [
        (
            rule_name(run.dynamics),
            f"{run.dynamics.step:.4g}",
            run.status.name.lower().replace("_", " "),
            f"{at_end[i]:.3e}{'*' if doubtful[i, 0] else ' '}",
            f"{largest[i]:.3e}{'*' if doubtful[i, 1] else ' '}",
            _number(predicted[i][-1] if predicted[i].size else np.nan, ".3e"),
            _number(error, ".1e"),
            _number(parted[i], ".4g", "never"),
            _number(order[i], ".3f"),
        )
        for i, run in enumerate(comparison.runs)
    ]


def captions(comparison: Comparison) -> list[str]:
    """What stands above and below the table."""
    flow, solver = comparison.flow, comparison.flow.config.get("solver", "unknown solver")
    lines = [
        f"Comparison with {flow.dynamics!r}, {solver}, t = {flow.t[0]:g} to {flow.t_end:g} ({flow.status})",
        "parted: further from the flow than 10 % of its norm; solver error: the flow against itself at rtol/10",
    ]
    lines += [f"order of {rule} over all steps: {slope:.3f}" for rule, slope in comparison.overall_order.items()]
    lines += [note for note in flow.notes if "not unique" in note]
    if np.isfinite(comparison.unique_until):
        lines.append(f"orders count times up to the first branch only, t = {comparison.unique_until:.6g}")
    if comparison.doubtful.any():
        lines.append("* the solver error exceeds 10 % of this distance: run the flow at a smaller rtol")
    return lines


def as_text(comparison: Comparison) -> str:
    """The table for a terminal."""
    columns = list(zip(COLUMNS, *rows(comparison), strict=True))
    padded = [[f"{text:{'<' if c[0] in LEFT else '>'}{max(map(len, c))}}" for text in c] for c in columns]
    title, *notes = captions(comparison)
    return "\n".join([title, *("  " + "  ".join(line).rstrip() for line in zip(*padded, strict=True)), *notes])


def as_html(comparison: Comparison) -> str:
    """The table for a notebook."""
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    texts = ("".join(f"<td>{escape(text)}</td>" for text in row) for row in rows(comparison))
    body = "".join(f"<tr>{row}</tr>" for row in texts)
    title, *notes = map(escape, captions(comparison))
    return f"<div><b>{title}</b><table><tr>{head}</tr>{body}</table><small>{'<br>'.join(notes)}</small></div>"


def _number(value, form, missing="-") -> str:
    return format(value, form) if np.isfinite(value) else missing
