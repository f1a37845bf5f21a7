"""Gradients of any network and loss by torch's automatic differentiation, on views of one flat vector."""

import numpy as np

from gradflow.kernels.kernel import Kernel

DECAY, FACTOR = range(2)


class TorchObjective:
    """Objective of a network through torch: one backward pass a gradient, two a Hessian-vector product.

    Parameters
    ----------
    network, loss : object
        With ``forward(layers, x)`` and ``value(outputs, y)`` for torch tensors.
    x, y : ndarray, (n, d) and (n, k)
        Samples.
    device : str
        Torch device that holds the samples and does the work.
    """

    def __init__(self, network, loss, x, y, device: str = "cpu"):
        self.network, self.loss, self.device = network, loss, device
        self.sizes = [int(np.prod(shape, dtype=int)) for shape in network.shapes.values()]
        self.write_samples(x, y)

    def write_samples(self, x, y) -> None:
        """Put samples in place of the old ones."""
        import torch

        self.x = torch.tensor(x, dtype=torch.float64, device=self.device)
        self.y = torch.tensor(y, dtype=torch.float64, device=self.device)

    def kernel(self, decay: float = 0.0) -> Kernel:
        """Kernel that works on the samples held here."""
        n = self.x.shape[0]
        numbers, layout = np.array([decay, self.loss.factor(n)]), np.array([n], dtype=np.int64)
        flops = 6.0 * n * self.network.size
        return Kernel("torch", self.gradient, self.product, numbers, layout, 0, compiled=False, flops=flops)

    def gradient(self, theta, out, numbers, layout, work) -> float:
        """Value and gradient."""
        value, gradient, _ = self._differentiate(theta, numbers, create_graph=False)
        out[:] = gradient.cpu().numpy()
        return self._add_penalty(value, theta, theta, out, numbers)

    def batch(self, theta):
        """Data losses (runs,) and their gradients (runs, P) as tensors, in one pass for all rows of a tensor."""
        import torch

        def value(flat):
            return self.loss.value(self.network.forward(self._layers(flat), self.x), self.y)

        gradients, values = torch.func.vmap(torch.func.grad_and_value(value))(theta)
        return values, gradients

    def _layers(self, flat):
        """Named views into a flat tensor."""
        import torch

        parts = zip(self.network.shapes.items(), torch.split(flat, self.sizes), strict=True)
        return {name: part.reshape(shape) for (name, shape), part in parts}

    def product(self, theta, v, out, numbers, layout, work) -> float:
        """Value and Hessian-vector product."""
        import torch

        value, gradient, flat = self._differentiate(theta, numbers, create_graph=True)
        if gradient.requires_grad:
            vector = torch.tensor(v, dtype=torch.float64, device=self.device)
            (product,) = torch.autograd.grad(gradient, flat, vector, materialize_grads=True)
            out[:] = product.cpu().numpy()
        else:
            out[:] = 0.0
        return self._add_penalty(value, theta, v, out, numbers)

    def _differentiate(self, theta, numbers, create_graph):
        """Data loss as a number, its gradient, and the flat leaf."""
        import torch

        with torch.enable_grad():
            flat = torch.tensor(theta, dtype=torch.float64, device=self.device, requires_grad=True)
            scale = float(numbers[FACTOR]) / self.loss.factor(self.x.shape[0])
            value = scale * self.loss.value(self.network.forward(self._layers(flat), self.x), self.y)
            if not value.requires_grad:
                return value.item(), torch.zeros_like(flat), flat
            (gradient,) = torch.autograd.grad(value, flat, create_graph=create_graph, materialize_grads=True)
        return value.item(), gradient.detach() if not create_graph else gradient, flat

    @staticmethod
    def _add_penalty(value, theta, v, out, numbers):
        decay = float(numbers[DECAY])
        if decay:
            out += 2.0 * decay * v
            value += decay * float(theta @ theta)
        return value


def build(network, loss, x, y, decay=0.0, *, device="cpu") -> Kernel:
    """Kernel of any network on samples x (n, d), y (n, k)."""
    return TorchObjective(network, loss, x, y, device).kernel(decay)
