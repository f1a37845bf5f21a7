"""What stochastic gradient descent with decay has forgotten, and the rank that it has added since."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gradflow.arguments import whole
from gradflow.dynamics.discrete import GD
from gradflow.dynamics.flow import GradientFlow
from gradflow.measure.layers import layer_norms, unseen
from gradflow.measure.rank import numerical_rank, rank_tail
from gradflow.measure.runs import checked_run


class Forgetting(NamedTuple):
    r"""What the last k steps did to every layer.

    Attributes
    ----------
    rank : ndarray (layers,)
        Rank of what they added, at most B k.
    tail : ndarray (layers,)
        Relative distance of the weights from rank B k.
    bound : ndarray (layers,)
        What remains of the earlier weights, :math:`(1 - 2h\lambda)^k\,\|W_{T-k}\|_F / \|W_T\|_F`; not below the tail.

    Examples
    --------
    >>> Forgetting._fields
    ('rank', 'tail', 'bound')
    """

    rank: np.ndarray
    tail: np.ndarray
    bound: np.ndarray


def forgetting(trajectory, steps: int, *, tolerance: float = 1e-10) -> Forgetting:
    r"""What the last k steps of descent with decay left of every layer, and the rank that they added.

    .. math:: W_T = (1 - 2h\lambda)^k\, W_{T-k} + U, \qquad \mathrm{rank}\,U \le B k, \qquad
        \Big(\sum_{i > B k} \sigma_i(W_T)^2\Big)^{1/2} \le (1 - 2h\lambda)^k\, \|W_{T-k}\|_F

    U is a sum of the gradients of k batches of B samples, each of rank at most B in a dense layer.

    Parameters
    ----------
    trajectory : Trajectory
        Of ``gf.GD`` or ``gf.SGD`` along the plain flow, its last k steps all saved.
    steps : int
        The number k.
    tolerance : float
        Singular values of U up to this part of the largest one count as zero.

    Returns
    -------
    Forgetting
        ``rank`` of U, ``tail`` and ``bound`` of every layer, relative to :math:`\|W_T\|_F`.

    Raises
    ------
    TypeError
        For a run of anything else.
    ValueError
        If the last k steps are not saved one by one.

    References
    ----------
    T. Galanti, Z. Siegel, A. Gupte, T. Poggio, SGD and Weight Decay Secretly Minimize the Rank of Your Neural Network,
    arXiv 2206.05794.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> x = y = np.eye(3)
    >>> problem = gf.Problem(gf.DeepLinear([3, 3, 3]), gf.losses.Square(), x, y, decay=0.1)
    >>> run = gf.simulate(problem, problem.init(seed=0), gf.SGD(0.5, batch_size=1), t_end=10.0, save_at=21)
    >>> gf.measure.forgetting(run, 2).rank.tolist()
    [2.0, 2.0]
    """
    checked_run(trajectory)
    rule, problem = trajectory.dynamics, trajectory.problem
    if not (isinstance(rule, GD) and isinstance(rule.flow, GradientFlow) and rule.flow.rates is None):
        raise TypeError(f"a run of {rule}: must be one of gf.GD or gf.SGD along the plain gradient flow")
    t = trajectory.t
    if not 1 <= whole(steps, "steps") < t.size or not np.allclose(np.diff(t[-1 - steps :]), rule.step, rtol=1e-6):
        raise ValueError(f"the last {steps} steps of {rule.step:g} must all be saved: give save_at as many points")
    batch = min(getattr(rule, "batch_size", problem.n), problem.n)
    left = (1 - 2 * rule.step * problem.decay) ** steps * trajectory.theta[-1 - steps]
    norms = layer_norms(problem, np.stack([left, trajectory.end]))
    added = numerical_rank(problem, trajectory.end - left, tolerance=tolerance)
    tail = rank_tail(problem, trajectory.end, batch * steps)
    return Forgetting(np.asarray(added), np.asarray(tail), norms[0] / norms[1])


class UnseenDecay(NamedTuple):
    r"""Size of the part of the first layer that no input sees, over the saved times, relative to the start.

    Attributes
    ----------
    size : ndarray (T,)
        :math:`\|W_1(t) P\|_F / \|W_1(0) P\|_F`.
    law : ndarray (T,)
        What it must be.
    error : ndarray (T,)
        :math:`\|W_1(t) P - \mathrm{law}(t)\, W_1(0) P\|_F / \|W_1(0) P\|_F`.

    Examples
    --------
    >>> UnseenDecay._fields
    ('size', 'law', 'error')
    """

    size: np.ndarray
    law: np.ndarray
    error: np.ndarray


def unseen_decay(trajectory) -> UnseenDecay:
    r"""How the part of the first layer that no input sees decays along a run, and how it must.

    .. math:: W_1(t) P = e^{-2\lambda t}\, W_1(0) P, \qquad P = I - X^+ X

    along the plain flow, and with the factor :math:`(1 - 2h\lambda)^k` after k steps of descent with any batches.

    Parameters
    ----------
    trajectory : Trajectory
        Of ``gf.GradientFlow``, ``gf.GD`` or ``gf.SGD`` along the plain flow.

    Returns
    -------
    UnseenDecay
        ``size``, ``law`` and ``error`` over the saved times; NaN if all of the first layer is seen.

    Raises
    ------
    TypeError
        For a run of anything else.

    References
    ----------
    M. Xu, T. Galanti, A. Rangamani, L. Rosasco, T. Poggio, The Janus effects of SGD vs GD, CBMM memo 144, 2023.

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([2, 1]), gf.losses.Square(), [[1.0, 0.0]], [[1.0]], decay=0.5)
    >>> run = gf.simulate(problem, [3.0, 8.0], gf.GD(0.5), t_end=1.0, save_at=3)
    >>> gf.measure.unseen_decay(run).size.tolist()
    [1.0, 0.5, 0.25]
    """
    checked_run(trajectory)
    rule, problem = trajectory.dynamics, trajectory.problem
    flow = rule.flow if isinstance(rule, GD) else rule
    if not (isinstance(flow, GradientFlow) and flow.rates is None):
        raise TypeError(f"a run of {rule}: must be one of the plain gradient flow, or of gf.GD or gf.SGD along it")
    t, twice = trajectory.t - trajectory.t[0], 2 * problem.decay
    law = (1 - rule.step * twice) ** np.round(t / rule.step) if isinstance(rule, GD) else np.exp(-twice * t)
    parts = unseen(problem, trajectory.theta)
    start = np.linalg.norm(parts[0])
    with np.errstate(invalid="ignore", divide="ignore"):
        size, error = (np.linalg.norm(v, axis=(1, 2)) / start for v in (parts, parts - law[:, None, None] * parts[0]))
    return UnseenDecay(size, law, error)
