"""Networks: how one flat vector theta is cut into layers, and how inputs become outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from gradflow.activations import Activation, activation
from gradflow.arguments import flag, real_array, whole


@dataclass(frozen=True)
class Skip:
    r"""A connection that jumps over layers, added to the output of layer `target`.

    identity: :math:`a_t = \phi(W_t a_{t-1}) + a_s`; linear: :math:`a_t = \phi(W_t a_{t-1}) + U_t a_s` with its own
    trained matrix :math:`U_t`. Layer 0 is the input.

    Parameters
    ----------
    source, target : int
        Layers with ``0 <= source < target``.
    kind : {"identity", "linear"}
        Whether the jump carries a matrix of its own.

    Examples
    --------
    >>> Skip(1, 2)
    Skip(source=1, target=2, kind='identity')
    """

    source: int
    target: int
    kind: str = "identity"


@dataclass(frozen=True)
class Stage:
    """One layer as the kernels see it: sizes, activation, bias, sources of skips (-1: none), trained or fixed."""

    inputs: int
    outputs: int
    activation: Activation
    bias: bool = False
    identity_from: int = -1
    linear_from: int = -1
    linear_inputs: int = 0
    trained: bool = True


class Feedforward:
    """What the feedforward networks share: `stages` define the layout of theta and the forward pass."""

    stages: tuple[Stage, ...]
    fixed: dict[str, np.ndarray]

    @property
    def input_size(self) -> int:
        """Number of inputs d."""
        return self.stages[0].inputs

    @property
    def output_size(self) -> int:
        """Number of outputs k."""
        return self.stages[-1].outputs

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each block of theta, in order: W1, b1, U1, W2, ..."""
        shapes: dict[str, tuple[int, ...]] = {}
        for number, stage in enumerate(self.stages, 1):
            if stage.trained:
                shapes[f"W{number}"] = (stage.outputs, stage.inputs)
            if stage.bias:
                shapes[f"b{number}"] = (stage.outputs,)
            if stage.linear_from >= 0:
                shapes[f"U{number}"] = (stage.outputs, stage.linear_inputs)
        return shapes

    @cached_property
    def size(self) -> int:
        """Number of parameters P."""
        return count(self.shapes)

    @property
    def linear(self) -> bool:
        """Whether the outputs are linear in the inputs."""
        return all(stage.activation.name == "linear" for stage in self.stages)

    @property
    def kinked(self) -> bool:
        """Whether some activation has a kink, so that the gradient jumps."""
        return any(stage.activation.kinked for stage in self.stages)

    @cached_property
    def degree(self) -> int | None:
        """Degree D with outputs(c theta) = c^D outputs(theta) for c > 0, or None."""
        degrees: list[int] = [0]
        for stage in self.stages:
            inner = stage.activation.degree
            if stage.bias or inner is None:
                return None
            degree = inner * (degrees[-1] + int(stage.trained))
            if stage.identity_from >= 0 and degrees[stage.identity_from] != degree:
                return None
            if stage.linear_from >= 0 and degrees[stage.linear_from] + 1 != degree:
                return None
            degrees.append(degree)
        return degrees[-1]

    def forward(self, layers, x):
        """Outputs (n, k) for inputs x (n, d); layers and x are numpy or torch arrays."""
        return self.values(layers, x)[-1]

    def values(self, layers, x) -> list:
        """Outputs of every layer, the input first; each (n, width)."""
        values = [x]
        for number, stage in enumerate(self.stages, 1):
            weight = layers[f"W{number}"] if stage.trained else like(self.fixed[f"W{number}"], x)
            z = values[-1] @ weight.swapaxes(-1, -2)
            if stage.bias:
                z = z + layers[f"b{number}"][..., None, :]
            a = stage.activation(z)
            if stage.identity_from >= 0:
                a = a + values[stage.identity_from]
            if stage.linear_from >= 0:
                a = a + values[stage.linear_from] @ layers[f"U{number}"].swapaxes(-1, -2)
            values.append(a)
        return values


@dataclass(frozen=True)
class FullyConnected(Feedforward):
    r"""Fully connected network :math:`f(x) = W_L\,\phi(W_{L-1} \cdots \phi(W_1 x + b_1)\cdots) + b_L`.

    Parameters
    ----------
    widths : sequence of int
        Sizes (d, h_1, ..., k) of the input, the hidden layers and the output.
    activation : str, Activation or sequence of them
        Of the hidden layers (the last layer is linear); a sequence gives one per hidden layer.
    bias : bool
        Whether every layer has a bias.
    skips : sequence of Skip
        Connections over layers.

    Raises
    ------
    ValueError
        For widths below 1, fewer than two widths, a list of activations of the wrong length, an impossible skip.

    Examples
    --------
    >>> net = FullyConnected([3, 5, 1], activation="tanh", bias=True)
    >>> net.size, list(net.shapes)
    (26, ['W1', 'b1', 'W2', 'b2'])
    """

    widths: Sequence[int]
    activation: str | Activation | Sequence = "relu"
    bias: bool = False
    skips: Sequence[Skip] = ()
    fixed: dict = field(default_factory=dict, init=False, repr=False, compare=False)
    activations: tuple[Activation, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "widths", checked_widths(self.widths))
        if not (np.iterable(self.skips) and all(isinstance(skip, Skip) for skip in self.skips)):
            raise TypeError(f"skips = {self.skips!r}: give a sequence of gf.Skip(source, target)")
        object.__setattr__(self, "skips", tuple(self.skips))
        flag(self.bias, "bias")
        if not isinstance(self.activation, str | Activation):
            if not isinstance(self.activation, Sequence):
                raise TypeError(
                    f"activation = {self.activation!r}: give a name such as 'tanh', a gf.Activation, or one for each"
                    " hidden layer; a network with another function is a torch module, see gf.FromModule"
                )
            object.__setattr__(self, "activation", tuple(self.activation))
        self._check_skips()
        object.__setattr__(self, "activations", self._activations())

    def _activations(self) -> tuple[Activation, ...]:
        """One activation per layer; the last is linear."""
        hidden = len(self.widths) - 2
        given = self.activation
        names = [given] * hidden if isinstance(given, str | Activation) else list(given)
        if len(names) != hidden:
            raise ValueError(
                f"activation has {len(names)} entries for {hidden} hidden layers: give one name, or one per layer"
            )
        return (*(activation(name) for name in names), Activation("linear"))

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The layers as the kernels see them."""
        stages = []
        for number, (inputs, outputs) in enumerate(zip(self.widths[:-1], self.widths[1:], strict=True), 1):
            sources = {skip.kind: skip.source for skip in self.skips if skip.target == number}
            linear_from = sources.get("linear", -1)
            stages.append(
                Stage(
                    inputs,
                    outputs,
                    self.activations[number - 1],
                    self.bias,
                    sources.get("identity", -1),
                    linear_from,
                    self.widths[linear_from] if linear_from >= 0 else 0,
                )
            )
        return tuple(stages)

    def _check_skips(self):
        taken = set()
        for skip in self.skips:
            if skip.kind not in ("identity", "linear"):
                raise ValueError(f"skip kind {skip.kind!r}: choose 'identity' or 'linear'")
            if not all(isinstance(layer, int | np.integer) for layer in (skip.source, skip.target)):
                raise TypeError(f"skip from layer {skip.source!r} to {skip.target!r}: give the numbers of two layers")
            if not 0 <= skip.source < skip.target <= len(self.widths) - 1:
                depth = len(self.widths) - 1
                raise ValueError(f"skip from layer {skip.source} to {skip.target}: need source < target <= {depth}")
            if skip.kind == "identity" and self.widths[skip.source] != self.widths[skip.target]:
                raise ValueError(
                    f"identity skip from width {self.widths[skip.source]} to {self.widths[skip.target]}: the widths"
                    " must be equal; use kind='linear'"
                )
            if (skip.target, skip.kind) in taken:
                raise ValueError(f"two {skip.kind} skips end at layer {skip.target}: at most one of a kind is allowed")
            taken.add((skip.target, skip.kind))

    def __str__(self):
        names = ",".join(dict.fromkeys(str(a) for a in self.activations[:-1])) or "linear"
        extra = (", bias" if self.bias else "") + (f", {len(self.skips)} skips" if self.skips else "")
        return f"fully connected {'-'.join(map(str, self.widths))} ({names}{extra})"


@dataclass(frozen=True)
class DeepLinear(Feedforward):
    r"""Deep linear network :math:`f(x) = W_L \cdots W_1 x`, without biases.

    Parameters
    ----------
    widths : sequence of int
        Sizes (d, h_1, ..., k).
    skips : sequence of Skip
        Connections over layers.

    Examples
    --------
    >>> DeepLinear([3, 4, 2]).shapes
    {'W1': (4, 3), 'W2': (2, 4)}
    """

    widths: Sequence[int]
    skips: Sequence[Skip] = ()
    fixed: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self):
        same = FullyConnected(self.widths, "linear", skips=self.skips)
        object.__setattr__(self, "widths", same.widths)
        object.__setattr__(self, "skips", same.skips)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The layers as the kernels see them."""
        return FullyConnected(self.widths, "linear", skips=self.skips).stages

    def __str__(self):
        extra = f" ({len(self.skips)} skips)" if self.skips else ""
        return f"deep linear {'-'.join(map(str, self.widths))}{extra}"


@dataclass(frozen=True)
class ResidualLinear(Feedforward):
    r"""Residual linear network :math:`f(x) = R\,(I + W_L)\cdots(I + W_1)\,x`.

    Parameters
    ----------
    depth : int
        Number L of residual layers.
    dim : int
        Width d of every layer.
    readout : int or array_like (k, d)
        An integer k makes R a trained layer with k outputs; an array is a fixed read-out.

    Examples
    --------
    >>> ResidualLinear(depth=3, dim=4, readout=np.ones((1, 4))).size
    48
    """

    depth: int
    dim: int
    readout: object = 1

    def __post_init__(self):
        whole(self.depth, "depth")
        whole(self.dim, "dim")
        if isinstance(self.readout, int | np.integer):
            if self.readout < 1:
                raise ValueError(f"readout = {self.readout}: the number of outputs must be at least 1")
            object.__setattr__(self, "readout", int(self.readout))
            return
        matrix = np.atleast_2d(real_array(self.readout, "readout", f"(k, {self.dim})"))
        if matrix.ndim != 2 or matrix.shape[1] != self.dim or not np.isfinite(matrix).all():
            raise ValueError(f"readout has shape {matrix.shape}: give finite numbers of shape (k, {self.dim})")
        object.__setattr__(self, "readout", tuple(map(tuple, matrix.tolist())))

    @cached_property
    def fixed(self) -> dict[str, np.ndarray]:
        """The matrices that are not trained."""
        return {} if isinstance(self.readout, int) else {f"W{self.depth + 1}": np.array(self.readout)}

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The layers as the kernels see them."""
        linear = Activation("linear")
        blocks = [Stage(self.dim, self.dim, linear, identity_from=layer) for layer in range(self.depth)]
        outputs = self.readout if isinstance(self.readout, int) else self.fixed[f"W{self.depth + 1}"].shape[0]
        return (*blocks, Stage(self.dim, int(outputs), linear, trained=not self.fixed))

    def __str__(self):
        kind = "fixed" if self.fixed else "trained"
        return f"residual linear, {self.depth} layers of width {self.dim}, {kind} read-out"


def checked_widths(widths) -> tuple[int, ...]:
    """Widths as a tuple of at least two positive integers."""
    try:
        result = tuple(int(width) for width in widths)
    except (TypeError, ValueError):
        raise TypeError(f"widths = {widths!r}: give the layer sizes as integers, e.g. [64, 20, 1]") from None
    if len(result) < 2 or min(result) < 1 or any(a != b for a, b in zip(result, widths, strict=True)):
        raise ValueError(f"widths = {widths!r}: give at least two positive integers (input size, ..., output size)")
    return result


def count(shapes: dict[str, tuple[int, ...]]) -> int:
    """Number of entries of all blocks together."""
    return int(sum(np.prod(shape, dtype=int) for shape in shapes.values()))


def like(array: np.ndarray, x):
    """`array` as the kind (numpy or torch) and device of `x`."""
    if isinstance(x, np.ndarray):
        return array
    import torch

    return torch.as_tensor(array, dtype=x.dtype, device=x.device)
