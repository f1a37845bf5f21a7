"""Kinks that coincide identically: equal samples, and multiples of one sample where no bias tells them apart."""

import numpy as np

from gradflow.kinks.wiring import receptive_fields
from gradflow.modules import Convolutional


def representatives(problem) -> list[tuple[np.ndarray, np.ndarray]]:
    r"""For each hidden layer, the sample that stands for sample i, and the factor c between them.

    In that layer every pre-activation obeys :math:`z_j(x_i) = c_i\, z_j(x_{r_i})` for all theta (with the masks of the
    lower layers tied in the same way), so that the kinks of both samples are one. A factor 0 marks a sample on which
    the pre-activations vanish identically.

    With skips the values of a layer are tied where those of all that is added up are, by one factor. In a convolution
    each sample and position is a sample of its own, which the layer sees through its receptive field.

    Parameters
    ----------
    problem : Problem
        Of a feedforward or a convolutional network.

    Returns
    -------
    list of (ndarray of int, (n,), ndarray, (n,))
        Of length n times positions, position after position, for a convolution.

    Examples
    --------
    >>> import gradflow as gf
    >>> net = gf.FullyConnected([1, 2, 2, 1])
    >>> problem = gf.Problem(net, gf.losses.Square(), [[1.0], [-2.0], [3.0]], [0.0, 0.0, 0.0])
    >>> [(leader.tolist(), factor.tolist()) for leader, factor in representatives(problem)]
    [([0, 0, 0], [1.0, -2.0, 3.0]), ([0, 1, 0], [1.0, 1.0, 3.0])]
    """
    network, x = problem.network, problem.x
    if isinstance(network, Convolutional):
        names = [str(network.activation).partition("(")[0]] * len(network.channels)
        fields = receptive_fields(network)
        return [_seen(x[:, field].reshape(-1, field.shape[1]), names[:l]) for l, field in enumerate(fields)]
    stages, values = network.stages, [_parallel(x)]
    found = []
    for stage in stages[:-1]:
        leader, factor = values[-1]
        if stage.bias:
            leader, factor = _split(leader, factor, factor != 1.0)
        found.append((leader, factor))
        added = [_activated(leader, factor, stage.activation.name)]
        added += [values[source] for source in (stage.identity_from, stage.linear_from) if source >= 0]
        values.append(added[0] if len(added) == 1 else _joined(added))
    return found


def _seen(x, names):
    """Leaders and factors of inputs x that come through layers with the named activations, without biases."""
    leader, factor = _parallel(x)
    for name in names:
        leader, factor = _activated(leader, factor, name)
    return leader, factor


def _activated(leader, factor, name):
    """Leaders and factors of the values of a layer from those of its pre-activations."""
    through, kept = _through(name, factor)
    return _split(leader, through, ~kept, name in ("relu", "leaky_relu", "relu_squared"))


def _joined(ties):
    """Leaders and factors of a sum whose terms have the given ones: one factor must serve all terms."""
    leaders, factors = (np.array(column) for column in zip(*ties, strict=True))
    zero = factors == 0.0
    leader, empty = np.arange(leaders.shape[1]), zero.all(axis=0)
    leader[empty] = np.argmax(empty)
    factor = np.where(empty, 0.0, 1.0)
    for i in np.flatnonzero(~empty):
        earlier = np.flatnonzero(~empty[:i] & (leader[:i] == np.arange(i)))
        alike = (leaders[:, earlier] == leaders[:, i, None]) | zero[:, i, None]
        earlier = earlier[(alike & (zero[:, earlier] == zero[:, i, None])).all(axis=0)]
        terms = ~zero[:, i]
        shares = factors[terms][:, i, None] / factors[terms][:, earlier]
        fits = np.flatnonzero(np.ptp(shares, axis=0) <= 1e-14 * np.abs(shares).max(axis=0))
        if fits.size:
            leader[i], factor[i] = earlier[fits[0]], shares[0, fits[0]]
    return leader, factor


def _parallel(x):
    """Leader and factor of each row of x by direction; zero rows have the factor 0 and the first of them as leader."""
    lengths = np.linalg.norm(x, axis=1)
    leader, factor = np.arange(len(x)), np.where(lengths > 0.0, 1.0, 0.0)
    leader[lengths == 0.0] = np.argmin(lengths)
    unit = x / np.where(lengths > 0.0, lengths, 1.0)[:, None]
    for i in _with_company(unit):
        if lengths[i] == 0.0:
            continue
        earlier = np.flatnonzero((leader[:i] == np.arange(i)) & (lengths[:i] > 0.0))
        cosine = unit[earlier] @ unit[i]
        near = np.abs(cosine) > 1.0 - 1e-10
        earlier, cosine = earlier[near], cosine[near]
        apart = np.abs(unit[i] - np.sign(cosine)[:, None] * unit[earlier]).max(axis=1, initial=0.0)
        same = earlier[apart < 1e-14]
        if same.size:
            equal = np.array_equal(x[i], x[same[0]])
            leader[i] = same[0]
            factor[i] = 1.0 if equal else lengths[i] / lengths[same[0]] * np.sign(unit[i] @ unit[same[0]])
    return leader, factor


def _with_company(unit, block=256):
    """Rows that are nearly multiples of an earlier one."""
    found = []
    for start in range(0, len(unit), block):
        rows = unit[start : start + block]
        cosines = np.abs(rows @ unit[: start + len(rows)].T)
        own = np.arange(len(rows))
        cosines[own[:, None] <= np.arange(cosines.shape[1]) - start] = 0.0
        found.append(start + np.flatnonzero((cosines > 1.0 - 1e-10).any(axis=1)))
    return np.concatenate(found)


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
