"""Jacobian of the outputs, the tangent kernel, and the Gauss-Newton curvature made of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradflow.measure.runs import per_run
from gradflow.modules import FromModule


@per_run
def jacobian(problem, theta) -> np.ndarray:
    r"""Jacobian of the outputs, :math:`J_{icp} = \partial f_c(x_i) / \partial \theta_p`.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    ndarray (n, k, P) or (runs, n, k, P)

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(), [[2.0]], [[1.0]])
    >>> gf.measure.jacobian(problem, np.array([3.0, 5.0])).tolist()
    [[[10.0, 6.0]]]
    """
    import torch

    network = problem.network

    def outputs(flat, x):
        return network.forward(_cut(network, flat), x)

    point, x = torch.tensor(theta), torch.tensor(problem.x)
    if isinstance(network, FromModule):  # a module may mix its samples, for example by batch normalisation
        result: Any = torch.func.jacrev(outputs, chunk_size=64)(point, x)
    else:
        rows = torch.func.jacrev(lambda flat, row: outputs(flat, row[None])[0])
        result = torch.func.vmap(rows, in_dims=(None, 0))(point, x)
    return result.numpy()


@per_run
def ntk(problem, theta) -> np.ndarray:
    r"""Neural tangent kernel :math:`K = J J^\top`, entry (i k + c, j k + e) for output c of sample i, e of sample j.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    ndarray (n k, n k) or (runs, n k, n k)

    References
    ----------
    A. Jacot, F. Gabriel, C. Hongler, Neural tangent kernel, arXiv 1806.07572.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(), [[1.0], [2.0]], [[1.0], [1.0]])
    >>> gf.measure.ntk(problem, np.array([3.0, 4.0])).tolist()
    [[25.0, 50.0], [50.0, 100.0]]
    """
    rows = jacobian(problem, theta).reshape(-1, problem.size)
    return rows @ rows.T


@per_run
def gauss_newton_sharpness(problem, theta) -> float | np.ndarray:
    r"""Largest eigenvalue of the Gauss-Newton matrix, :math:`\lambda_{\max}(J^\top A J) + 2\lambda`.

    A is the Hessian of the loss in the outputs, lambda the decay. Where the loss is fitted exactly by a square
    loss, this is the sharpness.

    Parameters
    ----------
    problem : Problem
        With a loss that is convex in the outputs.
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    float or ndarray (runs,)
        NaN where theta is not finite.

    Raises
    ------
    ValueError
        If the loss is not convex in the outputs.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(half=True), [[1.0]], [[7.0]])
    >>> round(gf.measure.gauss_newton_sharpness(problem, np.array([3.0, 4.0])), 9)
    25.0
    """
    slopes, curvature = jacobian(problem, theta), _output_hessians(problem, theta)
    if not (np.isfinite(slopes).all() and np.isfinite(curvature).all()):
        return np.nan
    values, vectors = np.linalg.eigh(curvature)
    if values.min() < -1e-12 * max(values.max(), 0.0):
        raise ValueError(f"{problem.loss} is not convex in the outputs here: use gf.measure.sharpness")
    roots = np.sqrt(np.maximum(values, 0.0))[..., None] * vectors.swapaxes(-1, -2)
    rows = (roots @ slopes).reshape(-1, problem.size)
    gram = rows @ rows.T if len(rows) < problem.size else rows.T @ rows
    return np.linalg.eigvalsh(gram)[-1] + 2 * problem.decay


def _output_hessians(problem, theta) -> np.ndarray:
    """Second derivatives (n, k, k) of the loss in the outputs of each sample; the loss is a sum over samples."""
    import torch

    outputs = torch.tensor(problem.outputs(theta), requires_grad=True)
    value = problem.loss.value(outputs, torch.tensor(problem.y))
    gradient = torch.autograd.grad(value, outputs, create_graph=True)[0]
    columns = [torch.autograd.grad(column.sum(), outputs, retain_graph=True)[0] for column in gradient.T]
    return torch.stack(columns, dim=1).numpy()


def _cut(network, flat) -> dict[str, Any]:
    """Named blocks of a flat torch vector."""
    blocks, start = {}, 0
    for name, shape in network.shapes.items():
        stop = start + int(np.prod(shape, dtype=int))
        blocks[name] = flat[start:stop].reshape(shape)
        start = stop
    return blocks
