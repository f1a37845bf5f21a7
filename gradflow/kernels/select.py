"""Which kernel serves a network under a loss."""

from dataclasses import replace

from gradflow.diagonal import Diagonal
from gradflow.kernels.kernel import Kernel
from gradflow.losses import CrossEntropy, Exponential, Logistic, Square
from gradflow.networks import Feedforward

BACKENDS = ("auto", "feedforward", "covariance", "diagonal", "torch")
COMPILED_LOSSES = (Square, Exponential, Logistic, CrossEntropy)


def backends(network, loss) -> tuple[str, ...]:
    """Names of the backends that can serve, the fastest first.

    Examples
    --------
    >>> from gradflow.losses import Square
    >>> from gradflow.networks import DeepLinear
    >>> backends(DeepLinear([3, 2, 1]), Square())
    ('covariance', 'feedforward', 'torch')
    """
    names: list[str] = []
    if type(loss) in COMPILED_LOSSES:
        if type(network) is Diagonal:
            names.append("diagonal")
        elif _is_feedforward(network):
            if _uses_covariance(network, loss):
                names.append("covariance")
            names.append("feedforward")
    return (*names, "torch")


def kernel(network, loss, x, y, decay: float = 0.0, backend: str = "auto", device: str = "cpu") -> Kernel:
    r"""Value, gradient and Hessian-vector product of an objective, by the fastest means or by a given one.

    .. math:: F(\theta) = \mathrm{loss}(f_\theta(x), y) + \mathrm{decay}\,|\theta|^2

    Parameters
    ----------
    network, loss : object
        Network and loss.
    x : ndarray, (n, d)
        Inputs.
    y : ndarray, (n, k)
        Targets as the loss prepares them.
    decay : float
        Factor of :math:`|\theta|^2`.
    backend : {"auto", "feedforward", "covariance", "diagonal", "torch"}
        "covariance": linear networks; the square loss needs only the covariances of the data, and layers are
        multiplied from the outputs where that is cheaper. "torch": anything, by automatic differentiation.
    device : str
        Torch device; other than "cpu" only with torch.

    Returns
    -------
    Kernel

    Raises
    ------
    ValueError
        If the backend is unknown, or cannot serve; the message names those that can.

    Examples
    --------
    >>> import numpy as np
    >>> from gradflow.losses import Square
    >>> from gradflow.networks import DeepLinear
    >>> made = kernel(DeepLinear([1, 1]), Square(), np.array([[1.0], [2.0]]), np.array([[2.0], [4.0]]))
    >>> out = np.empty(1)
    >>> value = made.gradient(np.array([1.0]), out, made.numbers, made.layout, np.empty(made.work_size))
    >>> round(value, 12), out.round(12).tolist()
    (2.5, [-5.0])
    """
    name = choose(network, loss, backend, device)
    if name == "torch":
        from gradflow.kernels import torch_autograd

        return torch_autograd.build(network, loss, x, y, decay, device=device)
    n, constant = x.shape[0], 0.0
    if name != "feedforward" and isinstance(loss, Square) and n > x.shape[1]:
        from gradflow.kernels.covariance import compress

        x, y, constant = compress(x, y)
    family = compiled_family(name, network, x.shape[0])
    factor = loss.factor(n)
    made = family.build(network, loss, x, y, decay, factor=factor, constant=factor * constant)
    return made if made.name == name else replace(made, name=f"{name}, {made.name}")


def checked_device(device: str) -> str:
    """A torch device that holds float64 here, or the error that says what is wrong with it."""
    if device == "cpu":
        return device
    import torch

    try:
        torch.empty(1, dtype=torch.float64, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        said = str(error).strip().partition("\n")[0]
        raise ValueError(f"device = {device!r} cannot be used here: {said}; give device='cpu'") from error
    return device


def choose(network, loss, backend: str, device: str) -> str:
    """Name of the backend to use."""
    if backend not in BACKENDS:
        raise ValueError(f"backend = {backend!r}: unknown; choose one of {', '.join(BACKENDS)}")
    able = backends(network, loss)
    if device != "cpu":
        if backend not in ("auto", "torch"):
            raise ValueError(f"backend = {backend!r} with device = {device!r}: it works on 'cpu'; use backend='torch'")
        return "torch"
    if backend == "auto":
        return able[0]
    if backend not in able:
        raise ValueError(
            f"backend = {backend!r} cannot serve a {network} under the loss {loss}; backends that can:"
            f" {', '.join(able)}, or 'auto'"
        )
    return backend


def compiled_family(name: str, network, n: int):
    """Module whose kernel takes fewest operations for n samples: with `build` and `write_samples`."""
    from gradflow.kernels import covariance, diagonal, feedforward

    if name == "diagonal":
        return diagonal
    if name == "covariance" and _is_product(network) and covariance.flops(network, n) <= feedforward.flops(network, n):
        return covariance
    return feedforward


def _is_product(network) -> bool:
    """Whether a network is a plain or residual product of matrices, all trained but possibly the last."""
    stages = network.stages
    return all(
        stage.linear_from < 0
        and stage.identity_from in (-1, number)
        and (stage.trained or 0 < number == len(stages) - 1)
        for number, stage in enumerate(stages)
    )


def _uses_covariance(network, loss) -> bool:
    """Whether a feedforward network is linear in the inputs, without biases, in a form that pays."""
    if not network.linear or any(stage.bias for stage in network.stages):
        return False
    return isinstance(loss, Square) or _is_product(network)


def _is_feedforward(network) -> bool:
    """Whether `stages` say all about the forward pass."""
    kind = type(network)
    own = isinstance(network, Feedforward) and kind.forward is Feedforward.forward
    return own and kind.values is Feedforward.values
