"""Sparsity penalties: values, and proximal maps in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradflow.arguments import positive


@dataclass(frozen=True)
class L1:
    r"""Penalty :math:`P(u) = \sum_i |u_i|`; its proximal map is soft thresholding.

    Examples
    --------
    >>> L1().prox([3.0, -0.5], 1.0).tolist()
    [2.0, -0.0]
    """

    def value(self, u) -> float | np.ndarray:
        """P(u), summed over the last axis."""
        return np.abs(u).sum(-1)

    def prox(self, w, threshold: float) -> np.ndarray:
        r"""Minimiser of :math:`t P(u) + |u - w|^2 / 2`, t the threshold."""
        w, threshold = np.asarray(w, dtype=float), positive(threshold, "threshold")
        return np.sign(w) * np.maximum(np.abs(w) - threshold, 0.0)


@dataclass(frozen=True)
class L0:
    r"""Penalty :math:`P(u) = \#\{i: u_i \ne 0\}`; its proximal map is hard thresholding at :math:`\sqrt{2t}`.

    Examples
    --------
    >>> L0().prox([3.0, -0.5], 1.0).tolist()
    [3.0, 0.0]
    """

    def value(self, u) -> int | np.ndarray:
        """P(u), counted along the last axis."""
        return np.count_nonzero(u, axis=-1)

    def prox(self, w, threshold: float) -> np.ndarray:
        r"""Minimiser of :math:`t P(u) + |u - w|^2 / 2`, t the threshold."""
        w, threshold = np.asarray(w, dtype=float), positive(threshold, "threshold")
        return np.where(np.abs(w) > np.sqrt(2 * threshold), w, 0.0)


@dataclass(frozen=True)
class TransformedL1:
    r"""Penalty :math:`P(u) = \sum_i (a + 1)|u_i| / (a + |u_i|)`, between l0 (a small) and l1 (a large).

    Parameters
    ----------
    a : float
        Positive.

    References
    ----------
    S. Zhang, J. Xin, Minimization of transformed l1 penalty, arXiv 1411.5735.

    Examples
    --------
    >>> TransformedL1(a=1.0).prox([3.0, 0.5], 1.0).round(4).tolist()
    [2.8662, 0.0]
    """

    a: float = 1.0

    def __post_init__(self):
        positive(self.a, "a")

    def value(self, u) -> float | np.ndarray:
        """P(u), summed over the last axis."""
        size = np.abs(u)
        return ((self.a + 1) * size / (self.a + size)).sum(-1)

    def prox(self, w, threshold: float) -> np.ndarray:
        r"""Minimiser of :math:`t P(u) + |u - w|^2 / 2`, t the threshold."""
        w, t, a = np.asarray(w, dtype=float), positive(threshold, "threshold"), self.a
        size = np.abs(w)
        switch = t * (a + 1) / a if t <= a**2 / (2 * (a + 1)) else np.sqrt(2 * t * (a + 1)) - a / 2
        angle = np.arccos(np.clip(1 - 27 * t * a * (a + 1) / (2 * (a + size) ** 3), -1.0, 1.0))
        shrunk = 2 / 3 * (a + size) * np.cos(angle / 3) - 2 * a / 3 + size / 3
        return np.where(size > switch, np.sign(w) * shrunk, 0.0)
