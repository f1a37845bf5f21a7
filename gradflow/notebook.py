"""HTML for notebooks: a small table, and a sparkline of the loss."""

from __future__ import annotations

from html import escape

import numpy as np

WIDTH, HEIGHT = 260, 48


def problem_html(problem) -> str:
    """Table of the summary."""
    return f"<div><b>Problem</b>{_table(problem.summary())}</div>"


def trajectory_html(trajectory) -> str:
    """Table of the summary, and the loss (log scale where positive) over the saved points."""
    return f"<div><b>Trajectory</b>{_table(trajectory.summary())}{sparkline(trajectory.loss)}</div>"


def _table(rows: dict[str, str]) -> str:
    """Names and texts side by side."""
    left = "style='text-align:left'"
    lines = (f"<tr><th {left}>{escape(name)}</th><td {left}>{escape(text)}</td></tr>" for name, text in rows.items())
    return f"<table>{''.join(lines)}</table>"


def sparkline(loss: np.ndarray) -> str:
    """The loss as a small SVG line."""
    values = np.asarray(loss, dtype=float)
    logarithmic = bool((values > 0).all())
    heights = np.log10(values) if logarithmic else values
    finite = np.isfinite(heights)
    if finite.sum() < 2:
        return ""
    low, high = heights[finite].min(), heights[finite].max()
    span = high - low or 1.0
    x = np.linspace(2, WIDTH - 2, heights.size)[finite]
    y = 2 + (HEIGHT - 4) * (high - heights[finite]) / span
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    label = "log loss" if logarithmic else "loss"
    return (
        f"<svg width='{WIDTH}' height='{HEIGHT}' role='img' aria-label='{label} over time'>"
        f"<polyline fill='none' stroke='#1f77b4' stroke-width='1.5' points='{points}'/></svg>"
        f"<div style='font-size:80%'>{label}: {values[0]:.3g} to {values[-1]:.3g}</div>"
    )
