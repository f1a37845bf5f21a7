"""Kernels of minibatches: one compiled function and one layout, into which the rows of each batch are written."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradflow.kernels.kernel import Kernel
from gradflow.kernels.select import choose, compiled_family

FACTOR = 1


@dataclass(frozen=True, eq=False)
class Minibatch:
    r"""Objective of some of the samples, an unbiased estimate of the objective of all of them.

    .. math:: F_B(\theta) = \frac{c\,n}{|B|} \sum_{i \in B} \ell_i(\theta) + \mathrm{decay}\,|\theta|^2,

    where :math:`c \sum_i \ell_i` is the loss of all n samples: the mean over the batch for a mean, n/|B| times the sum
    for a sum. ``minibatch`` makes one.

    Parameters
    ----------
    kernel : Kernel
        To be used after ``load``; it keeps its arrays.
    x, y : ndarray, (n, d) and (n, k)
        All samples.
    size : int
        Largest batch.
    factor : float
        Number c that multiplies the sum over all samples.
    write : callable
        Puts samples into the kernel.
    """

    kernel: Kernel
    x: np.ndarray
    y: np.ndarray
    size: int
    factor: float
    write: Callable[[np.ndarray, np.ndarray], None]

    def load(self, indices) -> None:
        """Take the samples of these indices (at most `size` of them) as the batch."""
        count = len(indices)
        if not 1 <= count <= self.size:
            raise ValueError(f"a batch of {count} samples: between 1 and batch_size = {self.size} fit; give fewer")
        self.write(self.x[indices], self.y[indices])
        self.kernel.numbers[FACTOR] = self.factor * self.x.shape[0] / count


def minibatch(
    network, loss, x, y, decay: float = 0.0, batch_size: int = 1, backend: str = "auto", device: str = "cpu"
) -> Minibatch:
    """Kernel of batches of at most `batch_size` of the samples, loaded with the first ones.

    Parameters
    ----------
    network, loss, x, y, decay, backend, device
        As for ``select.kernel``; with "covariance" the samples of a batch are not compressed.
    batch_size : int
        Largest number of samples in a batch.

    Returns
    -------
    Minibatch

    Raises
    ------
    ValueError
        If batch_size is below 1, or the backend cannot serve.

    Examples
    --------
    >>> from gradflow.losses import Square
    >>> from gradflow.networks import DeepLinear
    >>> x = np.array([[1.0], [2.0], [3.0]])
    >>> batches = minibatch(DeepLinear([1, 1]), Square(), x, 0 * x, batch_size=2)
    >>> batches.load([2])
    >>> kernel, out = batches.kernel, np.empty(1)
    >>> value = kernel.gradient(np.array([1.0]), out, kernel.numbers, kernel.layout, np.empty(kernel.work_size))
    >>> round(value, 12)
    9.0
    """
    n = x.shape[0]
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}: must be at least 1")
    name = choose(network, loss, backend, device)
    first = np.arange(batch_size) % n
    if name == "torch":
        from gradflow.kernels import torch_autograd

        objective = torch_autograd.TorchObjective(network, loss, x[first], y[first], device)
        made, write = objective.kernel(decay), objective.write_samples
    else:
        family = compiled_family(name, network, batch_size)
        made = family.build(network, loss, x[first], y[first], decay)

        def write(x, y):
            family.write_samples(made.numbers, made.layout, x, y)

    batches = Minibatch(made, x, y, batch_size, loss.factor(n), write)
    batches.load(first)
    return batches
