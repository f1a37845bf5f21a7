"""Problem: what is minimised. Network, loss, data and decay as one function of a flat vector theta."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from gradflow.arguments import checked_inputs, not_negative, outside_torch
from gradflow.diagonal import Diagonal
from gradflow.initial import initial
from gradflow.kernels.select import checked_device, choose

if TYPE_CHECKING:
    from gradflow.eigenbasis import Eigenbasis


class Problem:
    r"""Objective :math:`F(\theta) = L(f_\theta(x), y) + \lambda |\theta|^2` of one flat float64 vector.

    The flow is :math:`\theta' = -\nabla F`, so that decay adds the term :math:`-2\lambda\theta`; in torch's
    optimisers the same decay is ``weight_decay = 2 * decay``. The batch axis comes first: every method that takes
    theta (P,) takes (runs, P) too.

    Parameters
    ----------
    network : network
        For example ``gf.FullyConnected([64, 20, 1], activation="tanh")``.
    loss : loss
        For example ``gf.losses.Square()``; its convention is printed by :meth:`describe`.
    x : array_like (n, d)
        Inputs.
    y : array_like (n, k), (n,)
        Targets; labels -1/+1 for Logistic and Exponential, class numbers (n,) or one-hot for CrossEntropy.
    decay : float
        lambda, at least 0.
    backend : {"auto", "feedforward", "covariance", "diagonal", "torch"}
        How the gradient is computed. "auto" takes the fastest compiled kernel, torch autograd if there is none.
    device : str
        torch device of the torch backend; it must hold float64.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, no samples, NaN, labels of the wrong kind, negative decay.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(half=True), [[1.0]], [[2.0]])
    >>> theta = np.array([0.5, 2.0])
    >>> float(problem.value(theta)), problem.gradient(theta).tolist()
    (0.5, [-2.0, -0.5])
    """

    def __init__(self, network, loss, x, y, *, decay=0.0, backend="auto", device="cpu"):
        for name in ("shapes", "forward", "size"):
            if not hasattr(network, name) or isinstance(network, type):
                given = network.__name__ if isinstance(network, type) else type(network).__name__
                raise TypeError(
                    f"network = {given}: must be a gradflow network such as gf.FullyConnected([...]);"
                    " wrap a torch module as gf.FromModule(module, input_shape)"
                )
        if not hasattr(loss, "prepare") or isinstance(loss, type):
            raise TypeError(f"loss = {loss!r}: must be a gradflow loss object such as gf.losses.Square()")
        self.network, self.loss = network, loss
        self.x = checked_inputs(x, network)
        self.y = loss.prepare(y, network.output_size)
        if self.y.shape[0] != self.x.shape[0]:
            raise ValueError(f"x has {self.x.shape[0]} samples and y has {self.y.shape[0]}: the numbers must agree")
        self.decay = not_negative(decay, "decay")
        choose(network, loss, backend, device)
        self.backend, self.device = backend, checked_device(device)
        self.x.setflags(write=False)
        self.y.setflags(write=False)

    def __getstate__(self) -> dict:
        """State for another process, which makes its own kernel."""
        return {name: value for name, value in vars(self).items() if name != "kernel"}

    @property
    def size(self) -> int:
        """Number of parameters P."""
        return self.network.size

    @property
    def n(self) -> int:
        """Number of samples."""
        return self.x.shape[0]

    @cached_property
    def kernel(self):
        """Compiled (or torch) value-and-gradient of this problem."""
        from gradflow.kernels.select import kernel

        return kernel(self.network, self.loss, self.x, self.y, self.decay, self.backend, self.device)

    @cached_property
    def log_kernel(self):
        """The same for log F, of exponential-type and square losses without decay."""
        from gradflow.kernels.log_domain import log_kernel

        if self.decay:
            raise ValueError(f"decay = {self.decay:g}: the log domain is for losses alone; use a problem without decay")
        return log_kernel(self.network, self.loss, self.x, self.y, self.backend, self.device)

    def value(self, theta) -> float | np.ndarray:
        """Objective F (with decay): a number, or (runs,)."""
        return self.value_and_gradient(theta)[0]

    def gradient(self, theta) -> np.ndarray:
        """Gradient of F, the shape of theta."""
        return self.value_and_gradient(theta)[1]

    def value_and_gradient(self, theta) -> tuple[float | np.ndarray, np.ndarray]:
        """F and its gradient in one pass."""
        return _value_and_gradient(self.kernel, self.checked(theta))

    def log_value_and_gradient(self, theta) -> tuple[float | np.ndarray, np.ndarray]:
        r"""log F and its gradient :math:`\nabla F/F`, by softmax weights of the samples: no loss is too small.

        Parameters
        ----------
        theta : array_like (P,) or (runs, P)

        Returns
        -------
        float or ndarray (runs,), ndarray of the shape of theta

        Raises
        ------
        ValueError
            With decay: log F is then no sum over samples.

        Examples
        --------
        >>> import numpy as np, gradflow as gf
        >>> problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Exponential(), [[2.0]], [1])
        >>> value, gradient = problem.log_value_and_gradient(np.array([1e4]))
        >>> value, gradient.tolist()
        (-20000.0, [-2.0])
        """
        return _value_and_gradient(self.log_kernel, self.checked(theta))

    def data_loss(self, theta) -> float | np.ndarray:
        """Loss without the penalty."""
        theta = self.checked(theta)
        return self.value(theta) - self.decay * (theta**2).sum(-1)

    def excess_loss(self, theta) -> float | np.ndarray:
        r"""Square loss above its minimum, :math:`L - L_{\min} = c\,\|P(f - y)\|^2`, where that is least squares'.

        P projects on the range of the inputs. No two losses are subtracted: the residual is summed in doubled
        precision, to a relative error of about 1e-16 times the condition number of x as long as the excess is above
        1e-30 of the loss at 0.

        Parameters
        ----------
        theta : array_like (P,) or (runs, P)

        Returns
        -------
        float or ndarray (runs,)

        Raises
        ------
        ValueError
            Where the minimum is not known: another loss, decay, a network that is not linear or has a bottleneck.

        Examples
        --------
        >>> import numpy as np, gradflow as gf
        >>> problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square("sum"), [[1.0], [1.0]], [[0.0], [1.0]])
        >>> round(problem.excess_loss(np.array([0.5 + 2.0**-40])) * 2.0**79, 9)
        1.0
        """
        theta = self.checked(theta)
        if theta.ndim == 2:
            return np.array([self._least_squares.excess(self.layers(row)) for row in theta])
        return self._least_squares.excess(self.layers(theta))

    @cached_property
    def _least_squares(self):
        from gradflow.excess import LeastSquares

        return LeastSquares(self)

    def hvp(self, theta, v) -> np.ndarray:
        """Hessian of F times v; theta and v have the same shape."""
        return _product(self.kernel, self.checked(theta), self.checked(v, "v"))

    def log_hvp(self, theta, v) -> np.ndarray:
        """Hessian of log F times v; theta and v have the same shape."""
        return _product(self.log_kernel, self.checked(theta), self.checked(v, "v"))

    def hessian(self, theta) -> np.ndarray:
        """Hessian of F, (P, P) or (runs, P, P), symmetric to the last bit."""
        theta = self.checked(theta)
        if theta.ndim == 2:
            return np.stack([self.hessian(row) for row in theta])
        columns = self.hvp(np.broadcast_to(theta, (self.size, self.size)), np.eye(self.size))
        return 0.5 * (columns + columns.T)

    def outputs(self, theta, x=None) -> np.ndarray:
        """Outputs f(x), (n, k) or (runs, n, k); x (m, d) defaults to the problem's own inputs."""
        theta = self.checked(theta)
        x = self.x if x is None else checked_inputs(x, self.network)
        if theta.ndim == 2:
            return np.stack([self.network.forward(self.layers(row), x) for row in theta])
        return self.network.forward(self.layers(theta), x)

    def layers(self, theta) -> dict[str, np.ndarray]:
        """Named views into theta: ``layers(theta)["W1"]`` is (out, in), or (runs, out, in)."""
        theta = np.asarray(theta)
        if theta.shape[-1:] != (self.size,):
            raise ValueError(f"theta has shape {theta.shape}: its last axis must have length {self.size}")
        views, start = {}, 0
        for name, shape in self.network.shapes.items():
            stop = start + int(np.prod(shape, dtype=int))
            views[name] = theta[..., start:stop].reshape(*theta.shape[:-1], *shape)
            start = stop
        return views

    def flatten(self, layers) -> np.ndarray:
        """Flat theta (P,) from a dict of named arrays, the inverse of :meth:`layers`."""
        shapes = self.network.shapes
        if not hasattr(layers, "keys"):
            raise TypeError(f"layers of type {type(layers).__name__}: give a dict of arrays by name, {list(shapes)}")
        missing, foreign = shapes.keys() - layers.keys(), layers.keys() - shapes.keys()
        if missing or foreign:
            raise ValueError(f"layers: missing {sorted(missing)}, unknown {sorted(foreign)}; need {list(shapes)}")
        blocks = []
        for name, shape in shapes.items():
            try:
                block = np.asarray(outside_torch(layers[name]), dtype=np.float64)
            except (TypeError, ValueError):
                raise TypeError(f"layer {name} = {layers[name]!r}: give numbers of shape {shape}") from None
            if block.shape[block.ndim - len(shape) :] != shape or block.ndim > len(shape) + 1:
                runs = ", ".join(map(str, shape))
                raise ValueError(f"layer {name} has shape {block.shape}: must be {shape}, or (runs, {runs})")
            blocks.append(block.reshape(*block.shape[: block.ndim - len(shape)], -1))
        return np.concatenate(blocks, axis=-1)

    def init(self, scale=1.0, seed=0, scheme="gaussian", *, noise=0.0, bias=0.0) -> np.ndarray:
        r"""Seeded initial theta (P,).

        One ``default_rng(seed)``, layers in order. Schemes:

        - "gaussian": entries N(0, scale^2 / fan_in); "he": N(0, 2 scale^2 / fan_in); "he-relu": as "he"
          where a relu follows and as "gaussian" elsewhere; "xavier": uniform on +-scale sqrt(6 / (fan_in + fan_out));
        - "unit": Gaussian entries, divided so that every layer has the Frobenius norm scale;
        - "orthogonal": scale times a Haar matrix with orthonormal rows or columns;
        - "identity": scale times the identity, plus `noise` times N(0, 1); "constant": every entry is scale;
        - "balanced": rank-one layers :math:`W_l = s^{1/L} u_l u_{l-1}^T`, product of norm s = scale;
        - "zero-balanced": :math:`W_{l+1}^T W_{l+1} = W_l W_l^T` of full rank, random modes of strength
          scale times ``|N(0, 1)|``;
        - "aligned": layers aligned with the singular vectors of :math:`y^T x / n`, each end-to-end mode of strength
          scale.

        Parameters
        ----------
        scale : float or array_like (layers,)
            As above, at least 0; not with end-to-end schemes, one for each layer where layers differ.
        seed : int or numpy.random.Generator
            Of the generator, or one to draw from.
        scheme : str
            One of the names above.
        noise : float
            Standard deviation of the noise of "identity".
        bias : float
            Standard deviation of the biases (0: zero biases).

        Returns
        -------
        ndarray (P,)

        Examples
        --------
        >>> import numpy as np, gradflow as gf
        >>> problem = gf.Problem(gf.DeepLinear([2, 2]), gf.losses.Square(), np.eye(2), np.eye(2))
        >>> problem.init(0.5, scheme="constant").tolist()
        [0.5, 0.5, 0.5, 0.5]
        """
        blocks = initial(self.network, self.x, self.y, scale=scale, seed=seed, scheme=scheme, noise=noise, bias=bias)
        return self.flatten(blocks)

    def with_data(self, x, y) -> Problem:
        """Same network, loss and decay on other data, e.g. held-out samples."""
        return Problem(self.network, self.loss, x, y, decay=self.decay, backend=self.backend, device=self.device)

    def in_eigenbasis(self) -> Eigenbasis:
        r"""The same problem in the singular basis of its data, :math:`y^T x = U S V^T`, and the maps there and back.

        For linear networks under the square loss on whitened inputs (or such that :math:`x^T x` commutes with
        :math:`(y^T x)^T y^T x`). Starts below 1e-14 need it: elsewhere weak modes are lost in the rounding of strong
        ones.

        Returns
        -------
        Eigenbasis
            With `problem`, ``into(theta)``, ``back(theta)``, `strengths` (min(d, k),), `inputs` V and `outputs` U.

        Raises
        ------
        ValueError
            Where there is no such basis.

        Examples
        --------
        >>> import numpy as np, gradflow as gf
        >>> problem = gf.Problem(gf.DeepLinear([2, 2, 2]), gf.losses.Square(), np.eye(2), [[2.0, 1.0], [1.0, 2.0]])
        >>> basis, theta = problem.in_eigenbasis(), problem.init(0.5)
        >>> basis.strengths.round(9).tolist()
        [1.5, 0.5]
        >>> bool(np.isclose(basis.problem.value(basis.into(theta)), problem.value(theta)))
        True
        """
        from gradflow.eigenbasis import eigenbasis

        return eigenbasis(self)

    def checked(self, theta, name="theta") -> np.ndarray:
        """`theta` as contiguous float64 of shape (P,) or (runs, P)."""
        array = theta if type(theta) is np.ndarray and theta.dtype == np.float64 and theta.flags.carray else None
        if array is None:
            theta = outside_torch(theta)
            if np.iscomplexobj(theta):
                raise TypeError(f"{name} is complex: give real numbers")
            try:
                array = np.require(theta, np.float64, ["C", "W"])
            except (TypeError, ValueError):
                raise TypeError(f"{name} of type {type(theta).__name__}: give an array of numbers") from None
        if array.ndim not in (1, 2) or array.shape[-1] != self.size:
            raise ValueError(
                f"{name} has shape {array.shape}: must be ({self.size},) or (runs, {self.size}) for {self.network}"
            )
        return array

    def summary(self) -> dict[str, str]:
        """What is minimised, as texts by name: network, loss with its convention, data, decay, gradient."""
        blocks = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in self.network.shapes.items())
        decay = f"{self.decay:g} * |theta|^2 (torch weight_decay = {2 * self.decay:g})" if self.decay else "none"
        how = "compiled" if self.kernel.compiled else "interpreted"
        return {
            "network": str(self.network),
            "theta": f"{self.size} parameters: {blocks}",
            "loss": str(self.loss),
            "decay": decay,
            "data": f"{self.n} samples, {self.x.shape[1]} inputs, {self.y.shape[1]} outputs",
            "gradient": f"{self.kernel.name} kernel, {how}",
        }

    def describe(self) -> str:
        """The :meth:`summary` in lines."""
        return "\n".join(f"{name:<8}  {text}" for name, text in self.summary().items())

    def __repr__(self):
        return f"<Problem: {self.network}, {self.loss}, {self.n} samples, {self.size} parameters>"

    def _repr_html_(self):
        from gradflow.notebook import problem_html

        return problem_html(self)

    @property
    def is_diagonal(self) -> bool:
        """Whether the network is a diagonal linear one."""
        return isinstance(self.network, Diagonal)


def _value_and_gradient(kernel, theta):
    """Value and gradient of a kernel at theta (P,) or (runs, P)."""
    rows = np.atleast_2d(theta)
    gradient, values, work = np.empty_like(rows), np.empty(len(rows)), np.empty(kernel.work_size)
    for row, out, index in zip(rows, gradient, range(len(rows)), strict=True):
        values[index] = kernel.gradient(row, out, kernel.numbers, kernel.layout, work)
    return (values, gradient) if theta.ndim == 2 else (float(values[0]), gradient[0])


def _product(kernel, theta, v):
    """Hessian-vector products of a kernel at theta (P,) or (runs, P)."""
    if theta.shape != v.shape:
        raise ValueError(f"theta has shape {theta.shape} and v {v.shape}: the shapes must agree")
    out, work = np.empty_like(np.atleast_2d(theta)), np.empty(kernel.work_size)
    for point, direction, row in zip(np.atleast_2d(theta), np.atleast_2d(v), out, strict=True):
        kernel.product(point, direction, row, kernel.numbers, kernel.layout, work)
    return out.reshape(theta.shape)
