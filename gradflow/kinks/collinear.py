"""Kinks that coincide identically: equal samples, and multiples of one sample where no bias tells them apart."""

import numpy as np


def representatives(problem) -> list[tuple[np.ndarray, np.ndarray]]:
    r"""For each hidden layer, the sample that stands for sample i, and the factor c between them.

    In that layer every pre-activation obeys :math:`z_j(x_i) = c_i\, z_j(x_{r_i})` for all theta (with the masks of the
    lower layers tied in the same way), so that the kinks of both samples are one. A factor 0 marks a sample on which
    the pre-activations vanish identically.

    Parameters
    ----------
    problem : Problem
        Of a feedforward network.

    Returns
    -------
    list of (ndarray of int, (n,), ndarray, (n,))

    Examples
    --------
    >>> import gradflow as gf
    >>> net = gf.FullyConnected([1, 2, 2, 1])
    >>> problem = gf.Problem(net, gf.losses.Square(), [[1.0], [-2.0], [3.0]], [0.0, 0.0, 0.0])
    >>> [(leader.tolist(), factor.tolist()) for leader, factor in representatives(problem)]
    [([0, 0, 0], [1.0, -2.0, 3.0]), ([0, 1, 0], [1.0, 1.0, 3.0])]
    """
    stages = problem.network.stages
    leader, factor = _parallel(problem.x)
    if stages[0].bias:
        leader, factor = _split(leader, factor, factor != 1.0)
    found = [(leader, factor)]
    for below, stage in zip(stages[:-2], stages[1:-1], strict=True):
        factor, kept = _through(below.activation.name, factor)
        if stage.bias:
            kept = kept & (factor == 1.0)
        scalable = below.activation.name in ("relu", "leaky_relu", "relu_squared") and not stage.bias
        leader, factor = _split(leader, factor, ~kept, scalable)
        found.append((leader, factor))
    return found


def _parallel(x):
    """Leader and factor of each row of x by direction; zero rows have the factor 0 and the first of them as leader."""
    lengths = np.linalg.norm(x, axis=1)
    leader, factor = np.arange(len(x)), np.where(lengths > 0.0, 1.0, 0.0)
    leader[lengths == 0.0] = np.argmin(lengths)
    unit = x / np.where(lengths > 0.0, lengths, 1.0)[:, None]
    for i in range(len(x)):
        if lengths[i] == 0.0:
            continue
        earlier = np.flatnonzero((leader[:i] == np.arange(i)) & (lengths[:i] > 0.0))
        cosine = unit[earlier] @ unit[i]
        apart = np.abs(unit[i] - np.sign(cosine)[:, None] * unit[earlier]).max(axis=1, initial=0.0)
        same = earlier[apart < 1e-14]
        if same.size:
            equal = np.array_equal(x[i], x[same[0]])
            leader[i] = same[0]
            factor[i] = 1.0 if equal else lengths[i] / lengths[same[0]] * np.sign(unit[i] @ unit[same[0]])
    return leader, factor


def _through(name, factor):
    """Factors after an activation, and the samples that are still tied to their leader."""
    match name:
        case "linear":
            return factor, np.ones(factor.shape, bool)
        case "relu" | "leaky_relu":
            return factor, factor >= 0.0
        case "abs":
            return np.abs(factor), np.ones(factor.shape, bool)
        case "quadratic":
            return factor**2, np.ones(factor.shape, bool)
        case "relu_squared":
            return factor * np.abs(factor), factor >= 0.0
        case "tanh":
            return factor, np.isin(factor, (-1.0, 0.0, 1.0))
        case _:
            return factor, factor == 1.0


def _split(leader, factor, broken, scalable=False):
    """Untie the marked samples; those of one old group with one factor (`scalable`: one sign) stay together."""
    old_leader, old_factor = leader, factor
    leader, factor = leader.copy(), factor.copy()
    for i in np.flatnonzero(broken):
        alike = np.sign(old_factor) == np.sign(old_factor[i]) if scalable else old_factor == old_factor[i]
        first = np.flatnonzero((old_leader == old_leader[i]) & alike & broken)[0]
        leader[i], factor[i] = first, old_factor[i] / old_factor[first] if old_factor[i] != old_factor[first] else 1.0
    return leader, factor
