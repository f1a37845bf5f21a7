"""How far layers are from rank one, and the bounds that conserved matrices put on it for all times."""

from __future__ import annotations

import numpy as np

from gradflow.measure.alignment import alignment
from gradflow.measure.layers import weights
from gradflow.measure.rank import spectrum


def rank_gap(problem, theta) -> np.ndarray:
    r"""Distance of every layer from rank one, :math:`\|W_l\|_F^2 - \|W_l\|_2^2`, which is 0 exactly for rank one.

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
    >>> problem = gf.Problem(gf.DeepLinear([2, 2, 1]), gf.losses.Square(), np.eye(2), np.ones((2, 1)))
    >>> gf.measure.rank_gap(problem, np.array([4.0, 0.0, 0.0, 3.0, 0.6, 0.8])).round(12).tolist()
    [9.0, 0.0]
    """
    values = [spectrum(matrix) for matrix in weights(problem, theta).values()]
    return np.stack([(v[..., 1:] ** 2).sum(-1) for v in values], axis=-1)


def rank_gap_bound(problem, theta) -> np.ndarray:
    r"""Bound of :func:`gradflow.measure.rank_gap` for all times of the flow, in the linear layers before one output.

    .. math:: D_L = 0, \qquad D_l = D_{l+1} + \mathrm{tr}\,\Delta_l - \lambda_{\min}(\Delta_l), \qquad
        \Delta_l = W_l W_l^\top - W_{l+1}^\top W_{l+1}

    The flow conserves :math:`\Delta_l` between linear layers, without decay and for any data and loss, so that
    :math:`\|W_l\|_2/\|W_l\|_F \ge \sqrt{1 - D_l/\|W_l\|_F^2}`, which tends to 1 where the norms grow. Infinite for
    layers up to the last activation, and for all layers of a network with several outputs.

    Parameters
    ----------
    problem : Problem
        With a chain of layers, without biases and skips.
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    ndarray (layers,) or (runs, layers)

    Raises
    ------
    ValueError
        For a network with biases or skips.

    References
    ----------
    T. Le, S. Jegelka, Training invariances and the low-rank phenomenon, arXiv 2201.11968 (the setting).

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([2, 2, 1]), gf.losses.Square(), np.eye(2), np.ones((2, 1)))
    >>> gf.measure.rank_gap_bound(problem, np.array([4.0, 0.0, 0.0, 3.0, 1.0, 0.0])).round(12).tolist()
    [15.0, 0.0]
    """
    network, matrices = problem.network, list(weights(problem, theta).values())
    activations = getattr(network, "activations", None)
    if sum(matrix.shape[-1] * matrix.shape[-2] for matrix in matrices) != network.size:
        raise ValueError(f"the bound holds for weight matrices alone, without biases and skips, not for {network}")
    bounds = [np.zeros(matrices[-1].shape[:-2]) if matrices[-1].shape[-2] == 1 else np.inf]
    differences = list(gram_differences(problem, theta).values())
    for index in reversed(range(len(differences))):
        if activations is not None and activations[index].name != "linear":
            bounds.append(np.full_like(bounds[-1], np.inf))
            continue
        spectra = np.linalg.eigvalsh(differences[index])
        bounds.append(bounds[-1] + spectra[..., -1] - spectra.sum(-1))
    return np.stack(np.broadcast_arrays(*bounds[::-1]), axis=-1)


def spectral_ratio_bound(problem, theta, start) -> np.ndarray:
    r"""Lower bound of :func:`gradflow.measure.spectral_ratio` along the flow from a start.

    .. math:: \frac{\|W_l\|_2}{\|W_l\|_F} \ge \sqrt{\max(1 - D_l / \|W_l\|_F^2, 0)},

    with D of :func:`gradflow.measure.rank_gap_bound` at the start: the ratio tends to 1 where the norms grow. It is 0
    for the layers of which nothing is known.

    Parameters
    ----------
    problem : Problem
        With a chain of layers, without biases and skips.
    theta : array_like (P,) or (runs, P)
        Parameters on the flow.
    start : array_like (P,)
        Where it began.

    Returns
    -------
    ndarray (layers,) or (runs, layers)

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([2, 2, 1]), gf.losses.Square(), np.eye(2), [[3.0], [1.0]])
    >>> run = gf.simulate(problem, problem.init(0.3, seed=0), gf.GradientFlow(), t_end=3.0)
    >>> bound = gf.measure.spectral_ratio_bound(problem, run.theta, run.theta[0])
    >>> bool((gf.measure.spectral_ratio(problem, run.theta) >= bound - 1e-9).all()), bool(bound[-1, 0] > 0.9)
    (True, True)
    """
    sizes = np.stack([(matrix**2).sum((-2, -1)) for matrix in weights(problem, theta).values()], axis=-1)
    return np.sqrt(np.maximum(1.0 - rank_gap_bound(problem, start) / sizes, 0.0))


def rank_one_excess(problem, theta, start) -> dict[str, np.ndarray]:
    r"""Left minus right side of three bounds that hold along the flow of a deep linear network with one output.

    .. math:: \|W_l\|_F^2 - \sigma_l^2 \le D_l, \qquad |\sigma_{l+1}^2 - \sigma_l^2| \le \|\Delta_l\|_2,

    .. math:: 1 - \langle u_l, v_{l+1}\rangle^2 \le
        \frac{\lambda_{\max}(\Delta_l) - \lambda_{\min}(\Delta_l) + D_l}{\sigma_l^2}

    with :math:`\sigma_l = \|W_l\|_2`, its singular vectors :math:`u_l, v_l`, and :math:`D_l, \Delta_l` of
    :func:`gradflow.measure.rank_gap_bound` at the start. Not positive on the flow, for any data and loss without decay.

    Parameters
    ----------
    problem : Problem
        With a linear chain of layers, without biases and skips.
    theta : array_like (P,) or (runs, P)
        Points of the flow.
    start : array_like (P,)
        Where it started.

    Returns
    -------
    dict of str to ndarray (layers - 1,) or (runs, layers - 1)
        By "rank", "norm" and "alignment".

    Raises
    ------
    ValueError
        For a network that is not linear, or has biases or skips.

    References
    ----------
    P. Marion, L. Chizat, arXiv 2405.13456 (the setting).

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([2, 2, 1]), gf.losses.Square(), np.eye(2), np.ones((2, 1)))
    >>> run = gf.simulate(problem, problem.init(0.1), gf.GradientFlow(), t_end=20.0)
    >>> excess = gf.measure.rank_one_excess(problem, run.theta, run.theta[0])
    >>> bool(max(values.max() for values in excess.values()) < 1e-9)
    True
    """
    if not getattr(problem.network, "linear", False):
        raise ValueError(f"the bounds hold for linear layers, not for {problem.network}; rank_gap_bound serves it")
    slack = rank_gap_bound(problem, start)[..., :-1]
    least, most = np.array([np.linalg.eigvalsh(d)[[0, -1]] for d in gram_differences(problem, start).values()]).T
    tops = np.stack([spectrum(matrix)[..., 0] ** 2 for matrix in weights(problem, theta).values()], axis=-1)
    return {
        "rank": rank_gap(problem, theta)[..., :-1] - slack,
        "norm": abs(np.diff(tops)) - np.maximum(abs(least), abs(most)),
        "alignment": 1 - alignment(problem, theta) ** 2 - (most - least + slack) / tops[..., :-1],
    }


def gram_differences(problem, theta, start=None) -> dict[str, np.ndarray]:
    r"""Matrices :math:`W_{l+1}^\top W_{l+1} - W_l W_l^\top` at every hidden layer, whatever its activation.

    The flow conserves all of it at a linear layer; at a relu layer its diagonal, and the entries of two neurons as
    long as they are active on the same samples (:func:`balancedness` holds only what is always conserved).

    Parameters
    ----------
    problem : Problem
        With a chain of layers.
    theta : array_like (P,) or (runs, P)
    start : array_like (P,), optional
        Where the flow started: its matrices are subtracted, so that what is conserved is 0.

    Returns
    -------
    dict of str to ndarray (h, h) or (runs, h, h)
        By "layer 1", "layer 2", ...

    References
    ----------
    T. Le, S. Jegelka, arXiv 2201.11968.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.FullyConnected([1, 2, 1]), gf.losses.Square(), [[1.0]], [[2.0]])
    >>> gf.measure.gram_differences(problem, np.array([3.0, 1.0, 2.0, -1.0]))["layer 1"].tolist()
    [[-5.0, -5.0], [-5.0, 0.0]]
    """
    matrices = list(weights(problem, theta).values())
    pairs = enumerate(zip(matrices[:-1], matrices[1:], strict=True), start=1)
    found = {f"layer {i}": b.swapaxes(-1, -2) @ b - a @ a.swapaxes(-1, -2) for i, (a, b) in pairs}
    if start is None:
        return found
    return {name: matrix - gram_differences(problem, start)[name] for name, matrix in found.items()}
