"""Figures of runs: axes in, axes out, one style for all."""

from gradflow.plots.distances import gap, order
from gradflow.plots.families import drawn, lines
from gradflow.plots.kinks import kinks
from gradflow.plots.look import style, subplots
from gradflow.plots.panels import coloured, colours, finish, reference
from gradflow.plots.runs import (
    alignment,
    drift,
    layer_norms,
    loss,
    sharpness,
    singular_values,
    spectral_ratio,
    weights,
)
from gradflow.plots.summary import overview

__all__ = [
    "alignment",
    "coloured",
    "colours",
    "drawn",
    "drift",
    "finish",
    "gap",
    "kinks",
    "layer_norms",
    "lines",
    "loss",
    "order",
    "overview",
    "reference",
    "sharpness",
    "singular_values",
    "spectral_ratio",
    "style",
    "subplots",
    "weights",
]
