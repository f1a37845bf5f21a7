"""One figure of what is worth seeing in a run, or in several."""

from __future__ import annotations

from gradflow.measure.layers import weight_names
from gradflow.plots.look import labels_of, listed, style, subplots
from gradflow.plots.runs import alignment, drift, layer_norms, loss, sharpness, singular_values, weights

SMALL = 300


def overview(trajectories, *, labels=None):
    r"""One figure of what is worth seeing: loss, singular values or layer norms, alignment, sharpness, drift, weights.

    Panels that do not apply to the network are left out; the sharpness :math:`\lambda_{\max}(\nabla^2 F)` is shown if
    it was recorded or the network has at most 300 parameters, single weights if there is one trajectory.

    Parameters
    ----------
    trajectories : Trajectory or sequence of Trajectory
    labels : sequence of str, optional
        As in :func:`loss`.

    Returns
    -------
    Figure, ndarray of Axes

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(), [[1.0]], [[2.0]])
    >>> run = gf.simulate(problem, [0.1, 0.2], gf.GradientFlow(), t_end=4.0)
    >>> fig, axes = gf.plots.overview(run)
    >>> axes.size
    6
    """
    runs = listed(trajectories, labels)
    network = runs[0].problem.network
    panels = [loss, singular_values if getattr(network, "linear", False) else layer_norms]
    if len(weight_names(network)) > 1:
        panels.append(alignment)
    if all("sharpness" in run.records or run.problem.size <= SMALL for run in runs):
        panels.append(sharpness)
    if all(run.drift for run in runs):
        panels.append(drift)
    if len(runs) == 1:
        panels.append(weights)
    columns = 3 if len(panels) == 3 or len(panels) > 4 else 2
    rows = -(-len(panels) // columns)
    figure, axes = subplots(rows, columns, squeeze=False)
    for ax, draw in zip(axes.flat, panels, strict=False):
        draw(runs[0] if len(runs) == 1 else runs, ax, **({} if draw is weights else {"labels": ["_"] * len(runs)}))
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    names = labels_of(runs, labels)
    with style():
        if len(runs) == 1:
            figure.suptitle(names[0])
        else:
            handles = axes.flat[0].get_lines()
            figure.legend(handles, names, loc="outside upper center", ncols=min(4, len(runs)))
    return figure, axes.ravel()[: len(panels)]
