"""Diagonal linear networks: one weight per input and layer."""

from __future__ import annotations

from dataclasses import dataclass

from gradflow.arguments import flag, whole


@dataclass(frozen=True)
class Diagonal:
    r"""Diagonal linear network :math:`f(x) = w\cdot x`, :math:`w = u^D - v^D` (signed) or :math:`w = u^D`, entrywise.

    Parameters
    ----------
    dim : int
        Number d of inputs.
    depth : int
        The power D, at least 1.
    signed : bool
        Whether the second vector v is there. theta holds u, then v.

    References
    ----------
    B. Woodworth et al., Kernel and rich regimes in overparametrized models, arXiv 2002.09277.

    Examples
    --------
    >>> import numpy as np
    >>> net = Diagonal(2, depth=2)
    >>> net.forward({"u": np.array([1.0, 2.0]), "v": np.array([0.0, 1.0])}, np.eye(2)).ravel().tolist()
    [1.0, 3.0]
    """

    dim: int
    depth: int = 2
    signed: bool = True
    linear = True
    kinked = False
    output_size = 1

    def __post_init__(self):
        whole(self.dim, "dim")
        whole(self.depth, "depth")
        flag(self.signed, "signed")

    @property
    def input_size(self) -> int:
        """Number of inputs d."""
        return self.dim

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Blocks of theta."""
        return {"u": (self.dim,), "v": (self.dim,)} if self.signed else {"u": (self.dim,)}

    @property
    def size(self) -> int:
        """Number of parameters P."""
        return self.dim * (2 if self.signed else 1)

    @property
    def degree(self) -> int:
        """Degree of homogeneity, the depth D."""
        return self.depth

    def weights(self, layers):
        """Effective linear weights w (d,)."""
        w = layers["u"] ** self.depth
        return w - layers["v"] ** self.depth if self.signed else w

    def forward(self, layers, x):
        """Outputs (n, 1) for inputs (n, d)."""
        return x @ self.weights(layers)[..., :, None]

    def __str__(self):
        form = f"u^{self.depth} - v^{self.depth}" if self.signed else f"u^{self.depth}"
        return f"diagonal linear {form}, {self.dim} inputs"
