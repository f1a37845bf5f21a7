"""Excess loss of linear networks over the least-squares minimum, without a difference of two losses."""

from __future__ import annotations

import numpy as np

from gradflow.diagonal import Diagonal
from gradflow.doubled import Pair, add, paired, product
from gradflow.losses import Square
from gradflow.networks import Feedforward


class LeastSquares:
    r"""Normal equations of a problem in 31 digits.

    :math:`L - L_{\min} = c\,\|(W X^T - Y^T) X V S^{-1}\|^2` with :math:`X = Q S V^T`: the residual projected on the
    range of X. :math:`W X^T X - Y^T X` is small near the minimum, and is summed in doubled precision from the weights.
    """

    def __init__(self, problem):
        _check(problem)
        x, y = paired(problem.x), paired(problem.y)
        transposed = paired(np.ascontiguousarray(problem.x.T))
        self._network, self._factor = problem.network, problem.loss.factor(problem.n)
        self._inputs = product(transposed, x)
        correlations = product(transposed, y)
        self._minus_correlations = -correlations[0].T, -correlations[1].T
        _, singular, rows = np.linalg.svd(problem.x, full_matrices=False)
        kept = singular > max(problem.x.shape) * np.finfo(float).eps * singular[0]
        self._whitening = rows[kept].T / singular[kept]

    def excess(self, layers) -> float:
        """Loss above its minimum."""
        residual = add(product(linear_map(self._network, layers), self._inputs), self._minus_correlations)
        return self._factor * float((((residual[0] + residual[1]) @ self._whitening) ** 2).sum())


def linear_map(network, layers) -> Pair:
    """Matrix W (k, d) of a linear network in 31 digits."""
    if isinstance(network, Diagonal):
        return _diagonal_map(network, layers)
    values = [paired(np.eye(network.input_size))]
    for number, stage in enumerate(network.stages, 1):
        weight = layers[f"W{number}"] if stage.trained else network.fixed[f"W{number}"]
        a = product(paired(weight), values[-1])
        if stage.identity_from >= 0:
            a = add(a, values[stage.identity_from])
        if stage.linear_from >= 0:
            a = add(a, product(paired(layers[f"U{number}"]), values[stage.linear_from]))
        values.append(a)
    return values[-1]


def _diagonal_map(network, layers) -> Pair:
    """Row w of a diagonal network."""
    total = paired(np.zeros((1, network.dim)))
    for sign, name in ((1.0, "u"), (-1.0, "v"))[: 2 if network.signed else 1]:
        power = paired(np.full((1, network.dim), sign))
        for _ in range(network.depth):
            power = product(power, paired(np.diag(layers[name])))
        total = add(total, power)
    return total


def _check(problem) -> None:
    """Refuse problems whose minimum is not that of least squares."""
    reason = _obstacle(problem)
    if reason is not None:
        raise ValueError(
            f"the minimum of the objective is not known: {reason}; it is the least-squares minimum for linear networks"
            " without biases and bottlenecks under the square loss without decay. Where you know it, subtract it:"
            " gf.ExcessLossBelow(level, minimum=...)"
        )


def _obstacle(problem) -> str | None:
    """Why the least-squares minimum over all linear maps is not that of a problem, if it is not."""
    network = problem.network
    if not isinstance(problem.loss, Square):
        return f"the loss is {problem.loss}"
    if problem.decay:
        return f"decay = {problem.decay:g}"
    if isinstance(network, Diagonal):
        return None if network.signed or network.depth % 2 else f"{network} has weights of one sign only"
    if not isinstance(network, Feedforward) or not network.linear or any(stage.bias for stage in network.stages):
        return f"{network} is not linear in its inputs"
    needed = min(network.input_size, network.output_size)
    if min(stage.outputs for stage in network.stages) < needed:
        return f"{network} has a bottleneck below {needed}"
    fixed = network.fixed.values()
    if any(np.linalg.matrix_rank(matrix) < matrix.shape[0] for matrix in fixed):
        return f"the fixed read-out of {network} does not reach all outputs"
    return None
