"""Networks that run through torch autograd: a small convolutional net, and any torch module of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gradflow.activations import Activation, activation
from gradflow.arguments import whole
from gradflow.networks import checked_widths, count


@dataclass(frozen=True)
class Convolutional:
    r"""Small convolutional network without biases: conv, activation, conv, activation, ..., then one linear layer.

    Valid convolutions (no padding); the input (n, c h w) is cut into images channel by channel, row by row.

    Parameters
    ----------
    image : (c, h, w)
        Channels, height and width of the input.
    channels : sequence of int
        Output channels of each convolution.
    kernel_size, stride : int
        Of every convolution.
    outputs : int
        Outputs k of the last, linear layer.
    activation : str or Activation
        After every convolution.

    Examples
    --------
    >>> Convolutional((1, 8, 8), channels=[4], kernel_size=3, stride=2, outputs=1).shapes
    {'W1': (4, 1, 3, 3), 'W2': (1, 36)}
    """

    image: Sequence[int]
    channels: Sequence[int]
    kernel_size: int = 3
    stride: int = 1
    outputs: int = 1
    activation: str | Activation = "relu"
    linear = False

    def __post_init__(self):
        if len(tuple(self.image)) != 3:
            raise ValueError(f"image = {self.image!r}: give (channels, height, width)")
        object.__setattr__(self, "image", checked_widths(self.image))
        channels = tuple(whole(c, "a channel count") for c in self.channels)
        if not channels:
            raise ValueError("channels is empty: give the number of channels of at least one layer")
        for name in ("kernel_size", "stride", "outputs"):
            whole(getattr(self, name), name)
        object.__setattr__(self, "channels", channels)
        object.__setattr__(self, "activation", activation(self.activation))
        if min(self.grids[-1]) < 1:
            raise ValueError(f"kernel_size = {self.kernel_size}: the image {self.image} is too small for {channels}")

    @cached_property
    def grids(self) -> list[tuple[int, ...]]:
        """Heights and widths of the image and after each convolution."""
        sizes = [tuple(self.image[1:])]
        for _ in self.channels:
            sizes.append(tuple((s - self.kernel_size) // self.stride + 1 for s in sizes[-1]))
        return sizes

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Blocks of theta."""
        channels = (self.image[0], *self.channels)
        shapes: dict[str, tuple[int, ...]] = {
            f"W{l + 1}": (channels[l + 1], channels[l], self.kernel_size, self.kernel_size)
            for l in range(len(self.channels))
        }
        height, width = self.grids[-1]
        shapes[f"W{len(self.channels) + 1}"] = (self.outputs, channels[-1] * height * width)
        return shapes

    @cached_property
    def size(self) -> int:
        """Number of parameters P."""
        return count(self.shapes)

    @property
    def input_size(self) -> int:
        """Number of inputs, c h w."""
        return int(np.prod(self.image))

    @property
    def output_size(self) -> int:
        """Number of outputs k."""
        return self.outputs

    @property
    def kinked(self) -> bool:
        """Whether the activation has a kink."""
        return self.activation.kinked  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def degree(self) -> int | None:
        """Degree of homogeneity in theta, or None."""
        inner, degree = self.activation.degree, 0  # pyright: ignore[reportAttributeAccessIssue]
        if inner is None:
            return None
        for _ in self.channels:
            degree = inner * (degree + 1)
        return degree + 1

    def forward(self, layers, x):
        """Outputs (n, k) for inputs (n, c h w)."""
        import torch

        if isinstance(x, np.ndarray):
            tensors = {name: torch.from_numpy(np.array(value)) for name, value in layers.items()}
            return self.forward(tensors, torch.from_numpy(np.array(x))).numpy()
        a = x.reshape(x.shape[0], *self.image)
        for number in range(1, len(self.channels) + 1):
            z = torch.nn.functional.conv2d(a, layers[f"W{number}"], stride=self.stride)
            a = self.activation(z)  # pyright: ignore[reportCallIssue]
        return a.reshape(x.shape[0], -1) @ layers[f"W{len(self.channels) + 1}"].T

    def __str__(self):
        return (
            f"convolutional {'x'.join(map(str, self.image))}, channels {'-'.join(map(str, self.channels))}, kernel"
            f" {self.kernel_size}, stride {self.stride}, {self.outputs} outputs ({self.activation})"
        )


class FromModule:
    """Any torch module as a network; theta holds its parameters in the order of ``named_parameters()``.

    The module is copied in float64. Its buffers are frozen, and so are parameters with ``requires_grad=False``: they
    keep their values and are no part of theta.

    Parameters
    ----------
    module : torch.nn.Module
        Maps ``(n, *input_shape)`` to (n, k). Layers that are random, or that keep running statistics, must be in eval
        mode: call ``module.eval()`` first.
    input_shape : tuple of int
        Shape of one sample; x is (n, prod(input_shape)).

    Raises
    ------
    TypeError
        If it is not a torch module.
    ValueError
        If a layer is random (dropout) or keeps running statistics (batch norm) in train mode, or nothing is trained.

    Examples
    --------
    >>> import torch
    >>> net = FromModule(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)), (3,))
    >>> net.size
    21
    """

    linear = False
    kinked = False
    degree = None

    def __init__(self, module, input_shape: Sequence[int]):
        import copy

        import torch

        if not isinstance(module, torch.nn.Module):
            raise TypeError(f"module = {type(module).__name__}: must be a torch.nn.Module")
        for name, layer in module.named_modules():
            kind = type(layer).__name__
            if layer.training and getattr(layer, "p", 0) and "Dropout" in kind:
                raise ValueError(f"layer {name!r} ({kind}) is random in train mode: call module.eval() first")
            if layer.training and getattr(layer, "track_running_stats", False):
                raise ValueError(f"layer {name!r} ({kind}) keeps running statistics in train mode: call module.eval()")
        self.shapes = {name: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad}
        if not self.shapes:
            raise ValueError("the module has no parameters with requires_grad=True: nothing to train")
        self.module = copy.deepcopy(module).double().requires_grad_(False)
        sizes = input_shape if np.iterable(input_shape) else (input_shape,)
        self.input_shape = tuple(whole(size, "an entry of input_shape") for size in sizes)
        self.size = count(self.shapes)
        self.input_size = int(np.prod(self.input_shape))
        self.output_size = self._output_size()

    def _output_size(self) -> int:
        import torch

        with torch.no_grad():
            try:
                out = self.module(torch.zeros(2, *self.input_shape, dtype=torch.float64))
            except Exception as error:
                raise ValueError(f"the module fails on input of shape {(2, *self.input_shape)}: {error}") from error
        if out.ndim != 2 or out.shape[0] != 2:
            raise ValueError(f"the module maps 2 samples to shape {tuple(out.shape)}: it must return (n, k)")
        return int(out.shape[1])

    def start(self) -> np.ndarray:
        """Flat theta (P,) that the module was built with."""
        return np.concatenate([self.module.get_parameter(name).numpy().ravel() for name in self.shapes])

    def forward(self, layers, x):
        """Outputs (n, k) for inputs (n, prod(input_shape))."""
        import torch

        if isinstance(x, np.ndarray):
            tensors = {name: torch.from_numpy(np.array(value)) for name, value in layers.items()}
            return self.forward(tensors, torch.from_numpy(np.array(x))).numpy()
        state = dict(layers) | {name: b.to(x.device) for name, b in self.module.named_buffers()}
        return torch.func.functional_call(self.module, state, (x.reshape(x.shape[0], *self.input_shape),))

    def __repr__(self):
        return f"<{self}>"

    def __str__(self):
        return f"torch module {type(self.module).__name__}, {self.size} parameters"
