"""The layers of theta as matrices: which there are, their norms, the map that a linear network computes."""

from __future__ import annotations

import numpy as np

from gradflow.diagonal import Diagonal
from gradflow.networks import Feedforward


def weight_names(network) -> list[str]:
    """Names of the trained weight matrices in order; biases and the matrices of skips are left out."""
    skips = isinstance(network, Feedforward)
    return [name for name, shape in network.shapes.items() if len(shape) > 1 and not (skips and name[0] == "U")]


def weight(problem, theta, layer) -> np.ndarray:
    """The matrix called `layer`, (rows, columns) or (runs, rows, columns); "map" is the effective map."""
    network = problem.network
    if layer == "map":
        matrix = effective_map(problem, theta)
        return matrix[..., None, :] if isinstance(network, Diagonal) else matrix
    shape = network.shapes.get(layer)
    if shape is None or len(shape) < 2:
        known = [name for name, shape in network.shapes.items() if len(shape) > 1]
        known += ["map"] if getattr(network, "linear", False) else []
        raise ValueError(f"layer = {layer!r}: no matrix of this network ({network}); choose one of {', '.join(known)}")
    theta = problem.checked(theta)
    return problem.layers(theta)[layer].reshape(*theta.shape[:-1], shape[0], -1)


def weights(problem, theta) -> dict[str, np.ndarray]:
    """All weight matrices by name."""
    names = weight_names(problem.network)
    if not names:
        raise ValueError(f"{problem.network} has no weight matrices; layer = 'map' is its effective map")
    return {name: weight(problem, theta, name) for name in names}


def layer_norms(problem, theta) -> np.ndarray:
    r"""Frobenius norm :math:`\rho_l = \|W_l\|_F` of every trained layer, biases and skips left out.

    A diagonal network is one layer, of norm :math:`|\theta|`.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    ndarray (layers,) or (runs, layers)

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([2, 1, 1]), gf.losses.Square(), [[1.0, 0.0]], [[1.0]])
    >>> gf.measure.layer_norms(problem, np.array([3.0, 4.0, -2.0])).tolist()
    [5.0, 2.0]
    """
    theta = problem.checked(theta)
    if isinstance(problem.network, Diagonal):
        return np.linalg.norm(theta, axis=-1, keepdims=True)
    return np.stack([np.linalg.norm(matrix, axis=(-2, -1)) for matrix in weights(problem, theta).values()], axis=-1)


def rho(problem, theta) -> float | np.ndarray:
    r"""Product of the layer norms, :math:`\rho = \prod_l \|W_l\|_F`.

    For a chain of layers with activations of degree 1 and no biases :math:`f_W = \rho f_V` with layers
    :math:`V_l = W_l/\|W_l\|_F`. For a diagonal network :math:`\rho = |\theta|^D`.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    float or ndarray (runs,)

    References
    ----------
    T. Poggio, Q. Liao, arXiv 2101.00072.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([2, 1, 1]), gf.losses.Square(), [[1.0, 0.0]], [[1.0]])
    >>> gf.measure.rho(problem, np.array([3.0, 4.0, -2.0]))
    10.0
    """
    product = layer_norms(problem, theta).prod(-1)
    if isinstance(problem.network, Diagonal):
        product = product**problem.network.depth
    return product if np.ndim(product) else float(product)


def effective_map(problem, theta) -> np.ndarray:
    r"""Matrix M of a linear network, :math:`f(x) = M x` (plus a constant if there are biases).

    Deep linear: :math:`M = W_L \cdots W_1`; residual: :math:`R (I + W_L) \cdots (I + W_1)`; diagonal: the vector
    :math:`w = u^D - v^D`.

    Parameters
    ----------
    problem : Problem
        With a linear network.
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    ndarray (k, d) or (runs, k, d); for a diagonal network (d,) or (runs, d)

    Raises
    ------
    ValueError
        If the network is not linear.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([2, 1, 1]), gf.losses.Square(), [[1.0, 0.0]], [[1.0]])
    >>> gf.measure.effective_map(problem, np.array([3.0, 4.0, -2.0])).tolist()
    [[-6.0, -8.0]]
    """
    network = problem.network
    if not getattr(network, "linear", False):
        raise ValueError(f"the effective map exists for linear networks only, not for {network}; give a layer's name")
    layers = problem.layers(problem.checked(theta))
    if isinstance(network, Diagonal):
        return network.weights(layers)
    inputs = np.eye(network.input_size)
    columns = network.forward(layers, inputs) - network.forward(layers, np.zeros((1, network.input_size)))
    return columns.swapaxes(-1, -2)


def unseen(problem, theta) -> np.ndarray:
    r"""Part of the first layer that no input sees, :math:`W_1 (I - X^+ X)`.

    Gradients have no such part, so that the plain flow with decay shrinks it as :math:`e^{-2 \lambda t}`, and descent,
    with all samples or a few, by :math:`1 - 2 h \lambda` in every step, exactly.

    Parameters
    ----------
    problem : Problem
        Its inputs x (n, d) are fed to the first layer.
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    ndarray (out, d) or (runs, out, d)

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([3, 1]), gf.losses.Square(), [[1.0, 0.0, 0.0]], [[1.0]])
    >>> gf.measure.unseen(problem, [5.0, 6.0, 7.0]).tolist()
    [[0.0, 6.0, 7.0]]
    """
    x = problem.x
    first = next(iter(weights(problem, theta).values()))
    if x.ndim != 2 or first.shape[-1] != x.shape[1]:
        raise ValueError(f"x of shape {x.shape} is not fed to the first layer {first.shape[-2:]} by rows")
    return first - (first @ np.linalg.pinv(x)) @ x
