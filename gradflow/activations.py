"""Activation functions, each for numpy and torch arrays, with the facts that the theory needs (degree, kinks)."""

from dataclasses import dataclass

import numpy as np

from gradflow.arguments import finite

CODES = {
    "linear": 0,
    "relu": 1,
    "leaky_relu": 2,
    "tanh": 3,
    "sigmoid": 4,
    "softplus": 5,
    "gelu": 6,
    "quadratic": 7,
    "abs": 8,
    "relu_squared": 9,
}
DEGREES = {"linear": 1, "relu": 1, "leaky_relu": 1, "quadratic": 2, "abs": 1, "relu_squared": 2}
KINKED = ("relu", "leaky_relu", "abs")


@dataclass(frozen=True)
class Activation:
    r"""A scalar function applied entrywise.

    linear :math:`z`, relu :math:`\max(z, 0)`, leaky_relu :math:`\max(z,0) + s \min(z,0)`, tanh, sigmoid
    :math:`1/(1+e^{-z})`, softplus :math:`\log(1+e^z)`, gelu :math:`z\,\Phi(z)`, quadratic :math:`z^2`,
    abs :math:`|z|`, relu_squared :math:`\max(z, 0)^2` (no kink: its derivative is continuous). At a kink the
    derivative is the one of the left side (relu'(0) = 0).

    Parameters
    ----------
    name : str
        One of the names above; ``"leaky_relu(0.1)"`` sets the slope.
    slope : float
        Slope of leaky_relu for negative arguments.

    Raises
    ------
    ValueError
        For an unknown name, with the list of known ones.

    Examples
    --------
    >>> Activation("relu")(np.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """

    name: str
    slope: float = 0.0

    def __post_init__(self):
        if self.name not in CODES:
            raise ValueError(f"activation = {self.name!r}: unknown; choose one of {', '.join(CODES)}")
        finite(self.slope, "slope")

    @property
    def code(self) -> int:
        """Number of the activation in compiled code."""
        return CODES[self.name]

    @property
    def degree(self) -> int | None:
        """Degree of positive homogeneity, None if there is none."""
        return DEGREES.get(self.name)

    @property
    def kinked(self) -> bool:
        """Whether the derivative jumps at 0."""
        return self.name in KINKED

    def __str__(self):
        return f"leaky_relu({self.slope:g})" if self.name == "leaky_relu" else self.name

    def __call__(self, z):
        """Value at `z`, a numpy or a torch array."""
        if type(z).__module__.startswith("torch"):
            return _torch_value(self.name, self.slope, z)
        return _numpy_value(self.name, self.slope, z)


def activation(given) -> Activation:
    """Turn a name such as "tanh" or "leaky_relu(0.1)" into an :class:`Activation`."""
    if isinstance(given, Activation):
        return given
    if not isinstance(given, str):
        raise TypeError(f"activation = {given!r}: give a name such as 'tanh', or gradflow.Activation")
    name, _, rest = given.partition("(")
    if not rest:
        return Activation(name, 0.01 if name == "leaky_relu" else 0.0)
    try:
        slope = float(rest.rstrip(") "))
    except ValueError:
        raise ValueError(f"activation = {given!r}: the slope must be a number, as in 'leaky_relu(0.1)'") from None
    return Activation(name, slope)


def _numpy_value(name, slope, z):
    from scipy import special

    match name:
        case "linear":
            return z
        case "relu":
            return np.maximum(z, 0.0)
        case "leaky_relu":
            return np.where(z > 0, z, slope * z)
        case "tanh":
            return np.tanh(z)
        case "sigmoid":
            return special.expit(z)
        case "softplus":
            return np.logaddexp(0.0, z)
        case "gelu":
            return z * special.ndtr(z)
        case "quadratic":
            return z * z
        case "relu_squared":
            return np.maximum(z, 0.0) ** 2
        case _:
            return np.abs(z)


def _torch_value(name, slope, z):
    import torch

    match name:
        case "linear":
            return z
        case "relu":
            return torch.relu(z)
        case "leaky_relu":
            return torch.nn.functional.leaky_relu(z, slope)
        case "tanh":
            return torch.tanh(z)
        case "sigmoid":
            return torch.sigmoid(z)
        case "softplus":
            return torch.logaddexp(torch.zeros_like(z), z)
        case "gelu":
            return torch.nn.functional.gelu(z)
        case "quadratic":
            return z * z
        case "relu_squared":
            return torch.relu(z) ** 2
        case _:
            return 2 * torch.relu(z) - z
