r"""Log of an objective: value :math:`\log L`, its gradient and its Hessian, by the families that serve L itself.

A kernel of the log domain is a kernel of its family whose loss code is shifted: outputs and backward pass are the same,
and the weights of the samples are softmax weights, so that a loss of 1e-10000 is an ordinary number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradflow.kernels.kernel import Kernel


def log_kernel(network, loss, x, y, backend: str = "auto", device: str = "cpu") -> Kernel:
    r"""Kernel of :math:`\log L`, for the exponential, logistic, cross-entropy and square losses without decay.

    Parameters
    ----------
    network, loss : object
        Network and loss.
    x, y : ndarray, (n, d) and (n, k)
        Samples; targets as the loss prepares them.
    backend, device : str
        As for the loss itself.

    Returns
    -------
    Kernel

    Examples
    --------
    >>> import numpy as np
    >>> from gradflow.losses import Exponential
    >>> from gradflow.networks import DeepLinear
    >>> made = log_kernel(DeepLinear([1, 1]), Exponential(), np.array([[2.0]]), np.array([[1.0]]))
    >>> out = np.empty(1)
    >>> value = made.gradient(np.array([5e4]), out, made.numbers, made.layout, np.empty(made.work_size))
    >>> value, out.tolist()
    (-100000.0, [-2.0])
    """
    from gradflow.kernels.log_domain_terms import LOG_DOMAIN
    from gradflow.kernels.select import choose, compiled_family

    name = choose(network, loss, backend, device)
    if name == "torch":
        from gradflow.kernels import torch_autograd

        made = torch_autograd.build(network, LogOf(loss), x, y, device=device)
        return replace(made, name="log of torch")
    family: Any = compiled_family(name, network, x.shape[0])
    options = {"chunk": x.shape[0]} if name == "feedforward" or family.__name__.endswith("feedforward") else {}
    made = family.build(network, loss, x, y, **options)
    made.layout[family.LOSS] += LOG_DOMAIN
    return replace(made, name=f"log of {made.name}")


@dataclass(frozen=True)
class LogOf:
    """Logarithm of a loss for torch outputs."""

    loss: Any

    def factor(self, n: int) -> float:
        """Factor of the loss itself; it is inside the logarithm."""
        return self.loss.factor(n)

    def value(self, outputs, y):
        """Log of the loss of outputs (n, k) against y (n, k)."""
        import torch

        constant = float(np.log(self.loss.factor(y.shape[0])))
        if self.loss.name == "square":
            residual = outputs - y
            top = residual.detach().abs().max()
            return constant + 2.0 * torch.log(top) + torch.log(((residual / top) ** 2).sum())
        if self.loss.name == "cross-entropy":
            own = (outputs * y).sum(-1, keepdim=True)
            margin = -torch.logsumexp((outputs - own).masked_fill(y > 0, -torch.inf), -1)
        else:
            margin = (outputs * y).squeeze(-1)
        if self.loss.name == "exponential":
            return constant + torch.logsumexp(-margin, -1)
        near = torch.clamp(margin, max=30.0)
        logs = torch.where(margin > 30.0, -margin, torch.log(torch.logaddexp(torch.zeros_like(near), -near)))
        return constant + torch.logsumexp(logs, -1)
