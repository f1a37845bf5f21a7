"""Problems with Gaussian inputs: loss and gradient in closed form, without samples."""

from __future__ import annotations

import numpy as np


class ConvolutionalPopulation:
    r"""Population loss of a one-layer ReLU network with one shared filter on non-overlapping Gaussian patches.

    .. math:: F(w) = \mathbb{E}\big(N(x; w) - N(x; w_*)\big)^2, \qquad
        N(x; w) = \frac1k \sum_{j=1}^k \mathrm{relu}(w \cdot x_j), \qquad x_j \sim N(0, I_d)

    With the angle :math:`\vartheta` between w and :math:`w_*`, :math:`B = (k^2-k)/(2\pi)`, :math:`G = B + k/2` and
    :math:`g = |w||w_*|(\sin\vartheta + (\pi - \vartheta)\cos\vartheta)/(2\pi)`:
    :math:`F = \big(G|w|^2 - 2kg - 2B|w||w_*| + G|w_*|^2\big)/k^2`.

    It has the interface of a Problem: ``value``, ``gradient``, ``value_and_gradient``, ``layers``.

    Parameters
    ----------
    teacher : array_like (d,)
        :math:`w_*`, not zero.
    patches : int
        k.

    Raises
    ------
    ValueError
        For a teacher that is zero or not a vector, or no patches.

    References
    ----------
    A. Brutzkus, A. Globerson, Globally Optimal Gradient Descent for a ConvNet with Gaussian Inputs, arXiv 1702.07966.

    Examples
    --------
    >>> problem = ConvolutionalPopulation(teacher=[1.0, 0.0], patches=3)
    >>> round(problem.value([1.0, 0.0]), 12), problem.gradient([2.0, 0.0]).round(6).tolist()
    (0.0, [0.54554, 0.0])
    """

    decay = 0.0
    is_diagonal = False

    def __init__(self, teacher, patches: int):
        self.teacher = np.array(teacher, dtype=np.float64)
        if self.teacher.ndim != 1 or not np.isfinite(self.teacher).all() or not self.teacher.any():
            raise ValueError(f"teacher has shape {self.teacher.shape}: give a vector that is finite and not zero")
        if patches != int(patches) or patches < 1:
            raise ValueError(f"patches = {patches}: must be an integer, at least 1")
        self.patches = int(patches)
        self.teacher.setflags(write=False)

    @property
    def size(self) -> int:
        """Number of parameters d."""
        return self.teacher.size

    def angle(self, w) -> float | np.ndarray:
        r"""Angle between w (..., d) and the teacher, exact down to rounding also near 0 and :math:`\pi`."""
        w, unit = np.asarray(w, dtype=float), self.teacher / np.linalg.norm(self.teacher)
        along = w @ unit
        return np.arctan2(np.linalg.norm(w - along[..., None] * unit, axis=-1), along)

    def value(self, w) -> float | np.ndarray:
        """F, a number or (runs,)."""
        return self.value_and_gradient(w)[0]

    def gradient(self, w) -> np.ndarray:
        """Gradient of F, the shape of w; w = 0 has none."""
        return self.value_and_gradient(w)[1]

    def value_and_gradient(self, w):
        """F and its gradient."""
        w = np.asarray(w, dtype=np.float64)
        if w.shape[-1:] != (self.size,):
            raise ValueError(f"w has shape {w.shape}: its last axis must have length {self.size}")
        k, length, one = self.patches, np.asarray(np.linalg.norm(w, axis=-1)), np.linalg.norm(self.teacher)
        angle, off = np.asarray(self.angle(w)), (self.patches**2 - self.patches) / (2 * np.pi)
        diagonal = off + k / 2
        overlap = length * one * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
        value = diagonal * (length**2 + one**2) - 2 * k * overlap - 2 * off * length * one
        radial = 2 * diagonal - (k / np.pi * np.sin(angle) + 2 * off) * one / length
        gradient = radial[..., None] * w - (k / np.pi * (np.pi - angle))[..., None] * self.teacher
        return (value / k**2 if np.ndim(value) else float(value) / k**2), gradient / k**2
