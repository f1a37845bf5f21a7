"""Problems with Gaussian inputs: loss and gradient in closed form, without samples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gradflow.arguments import real_array, whole
from gradflow.kernels.kernel import Kernel
from gradflow.problem import Problem


@dataclass(frozen=True)
class SharedFilter:
    r"""One filter for all patches of an input, :math:`N(x; w) = \frac1k \sum_{j=1}^k \mathrm{relu}(w \cdot x_j)`.

    Parameters
    ----------
    dim : int
        Length d of the filter.
    patches : int
        k; an input is the patches one after the other.

    Examples
    --------
    >>> SharedFilter(2, patches=2).forward({"w": np.array([[1.0, 0.0]])}, np.array([[3.0, 1.0, -5.0, 1.0]])).tolist()
    [[1.5]]
    """

    dim: int
    patches: int
    linear = False
    kinked = False
    degree = 1
    output_size = 1

    @property
    def input_size(self) -> int:
        """Number of inputs."""
        return self.dim * self.patches

    @property
    def size(self) -> int:
        """Number of parameters d."""
        return self.dim

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Blocks of theta."""
        return {"w": (1, self.dim)}

    def forward(self, layers, x):
        """Outputs (n, 1) for inputs (n, k d)."""
        return np.maximum(x.reshape(-1, self.patches, self.dim) @ layers["w"][0], 0.0).mean(1)[:, None]

    def __str__(self):
        return f"shared relu filter of length {self.dim} on {self.patches} patches"


class ConvolutionalPopulation(Problem):
    r"""Population loss of a one-layer ReLU network with one shared filter on non-overlapping Gaussian patches.

    .. math:: F(w) = \mathbb{E}\big(N(x; w) - N(x; w_*)\big)^2, \qquad
        N(x; w) = \frac1k \sum_{j=1}^k \mathrm{relu}(w \cdot x_j), \qquad x_j \sim N(0, I_d)

    With the angle :math:`\vartheta` between w and :math:`w_*`, :math:`B = (k^2-k)/(2\pi)`, :math:`G = B + k/2` and
    :math:`g = |w||w_*|(\sin\vartheta + (\pi - \vartheta)\cos\vartheta)/(2\pi)`:
    :math:`F = \big(G|w|^2 - 2kg - 2B|w||w_*| + G|w_*|^2\big)/k^2`.

    It is a :class:`gradflow.Problem` without samples, and smooth but at w = 0: every flow and rule runs on it.

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

    def __init__(self, teacher, patches: int):
        self.teacher = real_array(teacher, "teacher", "(d,)")
        if self.teacher.ndim != 1 or not self.teacher.any():
            raise ValueError(f"teacher has shape {self.teacher.shape}: give a vector that is finite and not zero")
        self.teacher.setflags(write=False)
        self.network = SharedFilter(self.teacher.size, whole(patches, "patches"))
        self.loss = "population square loss, mean over Gaussian inputs"
        self.x, self.y = np.zeros((0, self.network.input_size)), np.zeros((0, 1))
        self.decay, self.backend, self.device = 0.0, "population", "cpu"

    @property
    def patches(self) -> int:
        """Number k of patches."""
        return self.network.patches

    @cached_property
    def kernel(self) -> Kernel:
        """The closed forms as a stepper takes them."""

        def gradient(theta, out, numbers, layout, work):
            value, out[:] = self.value_and_gradient(theta)
            return float(value)

        def product(theta, v, out, numbers, layout, work):
            out[:] = self._second_derivative(theta, v)
            return float(self.value(theta))

        none = np.zeros(1), np.zeros(0, np.int64)
        return Kernel("population", gradient, product, *none, 0, compiled=False, flops=20.0 * self.size)

    def angle(self, w) -> float | np.ndarray:
        r"""Angle between w (..., d) and the teacher, exact down to rounding also near 0 and :math:`\pi`."""
        w, unit = np.asarray(w, dtype=float), self.teacher / np.linalg.norm(self.teacher)
        along = w @ unit
        return np.arctan2(np.linalg.norm(w - along[..., None] * unit, axis=-1), along)

    def pull(self, w) -> float | np.ndarray:
        r"""Strength :math:`\kappa = (\pi - \vartheta)/(k\pi)` with which the teacher turns w (..., d).

        All of the gradient but :math:`-\kappa w_*` is radial.
        """
        return (np.pi - self.angle(w)) / (self.patches * np.pi)

    def estimate(self, w, samples: int, seed: int | np.random.Generator = 0) -> tuple[float, float]:
        """Mean of the square loss over drawn inputs, and its standard error.

        Parameters
        ----------
        w : array_like (d,)
            The filter.
        samples : int
            Number of inputs.
        seed : int or numpy.random.Generator
            Of the inputs.

        Returns
        -------
        float, float

        Examples
        --------
        >>> problem = ConvolutionalPopulation(teacher=[1.0, 0.0], patches=3)
        >>> mean, error = problem.estimate([0.0, 1.0], 10_000)
        >>> bool(abs(mean - problem.value([0.0, 1.0])) < 4 * error)
        True
        """
        x = np.random.default_rng(seed).standard_normal((samples, self.network.input_size))
        squares = (self.outputs(w, x) - self.outputs(self.teacher.copy(), x)) ** 2
        return float(squares.mean()), float(squares.std() / np.sqrt(samples))

    def value_and_gradient(self, theta):
        """F and its gradient; w = 0 has none."""
        w = self.checked(theta)
        k, length, one = self.patches, np.asarray(np.linalg.norm(w, axis=-1)), np.linalg.norm(self.teacher)
        angle, off = np.asarray(self.angle(w)), (self.patches**2 - self.patches) / (2 * np.pi)
        diagonal = off + k / 2
        overlap = length * one * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
        value = diagonal * (length**2 + one**2) - 2 * k * overlap - 2 * off * length * one
        radial = 2 * diagonal - (k / np.pi * np.sin(angle) + 2 * off) * one / length
        gradient = radial[..., None] * w - (k / np.pi * (np.pi - angle))[..., None] * self.teacher
        return (value / k**2 if np.ndim(value) else float(value) / k**2), gradient / k**2

    def _second_derivative(self, w, v):
        """Hessian of F at w times v."""
        k, length, one = self.patches, np.linalg.norm(w), np.linalg.norm(self.teacher)
        unit, angle, off = w / length, self.angle(w), (k**2 - k) / (2 * np.pi)
        across = v - (unit @ v) * unit
        normal = self.teacher - (unit @ self.teacher) * unit
        normal /= max(np.linalg.norm(normal), np.finfo(float).tiny)
        turned = k / np.pi * np.sin(angle) * (across + (normal @ v) * normal) + 2 * off * across
        return (2 * (off + k / 2) * v - one / length * turned) / k**2
