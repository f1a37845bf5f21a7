"""Losses, each with its convention (mean or sum, with or without 1/2) as an argument, and the labels it needs."""

from dataclasses import dataclass

import numpy as np

from gradflow.arguments import flag, real_array

CODES = {"square": 0, "exponential": 1, "logistic": 2, "cross-entropy": 3}


def _check_reduction(reduction):
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction = {reduction!r}: choose 'mean' or 'sum' (over samples)")


@dataclass(frozen=True)
class Square:
    r"""Square loss :math:`\frac{c}{n}\sum_i \|f(x_i) - y_i\|^2`, c = 1/2 if `half`, else 1.

    The sum over outputs, the mean (or sum, without 1/n) over samples.

    Parameters
    ----------
    reduction : {"mean", "sum"}
        Over samples.
    half : bool
        Whether the factor 1/2 is there.

    Examples
    --------
    >>> float(Square().value(np.array([[1.0], [3.0]]), np.array([[0.0], [0.0]])))
    5.0
    """

    reduction: str = "mean"
    half: bool = False
    name = "square"
    labels = "real"

    def __post_init__(self):
        _check_reduction(self.reduction)
        flag(self.half, "half")

    def prepare(self, y, outputs: int) -> np.ndarray:
        """Targets as float64 (n, k)."""
        return _columns(y, outputs, "the square loss")

    def factor(self, n: int) -> float:
        """Number that multiplies the sum over samples."""
        return (0.5 if self.half else 1.0) * (1.0 / n if self.reduction == "mean" else 1.0)

    def value(self, outputs, y):
        """Loss of outputs (..., n, k) against y (n, k); numpy or torch."""
        return self.factor(y.shape[0]) * ((outputs - y) ** 2).sum((-1, -2))

    def __str__(self):
        return f"square, {_over(self.reduction)}, sum over outputs, {'times 1/2' if self.half else 'without 1/2'}"


@dataclass(frozen=True)
class Exponential:
    r"""Exponential loss :math:`\frac1n \sum_i e^{-y_i f(x_i)}` with labels -1/+1.

    Parameters
    ----------
    reduction : {"mean", "sum"}
        Over samples (sum: without 1/n).

    Examples
    --------
    >>> float(Exponential().value(np.zeros((2, 1)), np.array([[1.0], [-1.0]])))
    1.0
    """

    reduction: str = "mean"
    name = "exponential"
    labels = "sign"

    def __post_init__(self):
        _check_reduction(self.reduction)

    def prepare(self, y, outputs: int) -> np.ndarray:
        """Labels as float64 (n, 1), each -1 or +1."""
        return _signs(y, outputs, "exponential")

    def factor(self, n: int) -> float:
        """Number that multiplies the sum over samples."""
        return 1.0 / n if self.reduction == "mean" else 1.0

    def value(self, outputs, y):
        """Loss of outputs (..., n, 1) against y (n, 1); numpy or torch."""
        margin = outputs * y
        exp = np.exp if isinstance(margin, np.ndarray) else type(margin).exp
        return self.factor(y.shape[0]) * exp(-margin).sum((-1, -2))

    def __str__(self):
        return f"exponential exp(-y f), {_over(self.reduction)}"


@dataclass(frozen=True)
class Logistic:
    r"""Logistic loss :math:`\frac1n \sum_i \log(1 + e^{-y_i f(x_i)})` with labels -1/+1.

    Parameters
    ----------
    reduction : {"mean", "sum"}
        Over samples (sum: without 1/n).

    Examples
    --------
    >>> round(float(Logistic().value(np.zeros((2, 1)), np.array([[1.0], [-1.0]]))), 6)
    0.693147
    """

    reduction: str = "mean"
    name = "logistic"
    labels = "sign"

    def __post_init__(self):
        _check_reduction(self.reduction)

    def prepare(self, y, outputs: int) -> np.ndarray:
        """Labels as float64 (n, 1), each -1 or +1."""
        return _signs(y, outputs, "logistic")

    def factor(self, n: int) -> float:
        """Number that multiplies the sum over samples."""
        return 1.0 / n if self.reduction == "mean" else 1.0

    def value(self, outputs, y):
        """Loss of outputs (..., n, 1) against y (n, 1); numpy or torch."""
        return self.factor(y.shape[0]) * _log1pexp(-(outputs * y)).sum((-1, -2))

    def __str__(self):
        return f"logistic log(1 + exp(-y f)), {_over(self.reduction)}"


@dataclass(frozen=True)
class CrossEntropy:
    r"""Cross-entropy :math:`\frac1n \sum_i \big(\log \sum_k e^{f_k(x_i)} - f_{y_i}(x_i)\big)`.

    Labels are class numbers (n,) or one-hot (n, k).

    Parameters
    ----------
    reduction : {"mean", "sum"}
        Over samples (sum: without 1/n).

    Examples
    --------
    >>> loss = CrossEntropy()
    >>> round(float(loss.value(np.zeros((2, 3)), loss.prepare(np.array([0, 2]), 3))), 6)
    1.098612
    """

    reduction: str = "mean"
    name = "cross-entropy"
    labels = "class"

    def __post_init__(self):
        _check_reduction(self.reduction)

    def prepare(self, y, outputs: int) -> np.ndarray:
        """Labels as one-hot float64 (n, k)."""
        y = real_array(y, "y")
        if outputs < 2:
            raise ValueError(
                f"cross-entropy with {outputs} output: needs one output per class, at least 2; use Logistic"
            )
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.ndim == 2:
            if y.shape[1] != outputs or not (((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all()):
                raise ValueError(
                    f"labels of shape {y.shape} for cross-entropy with {outputs} outputs: give class numbers (n,) in"
                    f" 0..{outputs - 1}, or one-hot rows (n, {outputs})"
                )
            return y
        if y.ndim != 1 or (y != np.rint(y)).any() or (y.size and (y.min() < 0 or y.max() >= outputs)):
            raise ValueError(
                f"labels {_sample(y)} for cross-entropy: must be class numbers 0..{outputs - 1} (the network has"
                f" {outputs} outputs)"
            )
        return np.eye(outputs)[y.astype(int)]

    def factor(self, n: int) -> float:
        """Number that multiplies the sum over samples."""
        return 1.0 / n if self.reduction == "mean" else 1.0

    def value(self, outputs, y):
        """Loss of outputs (..., n, k) against one-hot y (n, k); numpy or torch."""
        if isinstance(outputs, np.ndarray):
            top = outputs.max(-1, keepdims=True)
            log_sum = np.log(np.exp(outputs - top).sum(-1)) + top[..., 0]
        else:
            log_sum = outputs.logsumexp(-1)
        return self.factor(y.shape[0]) * (log_sum - (outputs * y).sum(-1)).sum(-1)

    def __str__(self):
        return f"cross-entropy, {_over(self.reduction)}"


def _over(reduction):
    return f"{reduction} over samples"


def _log1pexp(z):
    if isinstance(z, np.ndarray):
        return np.logaddexp(0.0, z)
    import torch

    return torch.logaddexp(torch.zeros_like(z), z)


def _columns(y, outputs, what):
    y = real_array(y, "y")
    if y.ndim == 1:
        y = y[:, None]
    if y.ndim != 2 or y.shape[1] != outputs:
        raise ValueError(f"y has shape {y.shape}: {what} of a network with {outputs} outputs needs (n, {outputs})")
    return y


def _signs(y, outputs, name):
    if outputs != 1:
        raise ValueError(f"the {name} loss needs a network with one output, this one has {outputs}; use CrossEntropy")
    y = _columns(y, 1, f"the {name} loss")
    if not (np.abs(y) == 1).all():
        raise ValueError(f"labels {_sample(y)} for the {name} loss: must be -1 or +1; convert with 2 * y - 1")
    return y


def _sample(y):
    values = np.unique(y)
    text = ", ".join(f"{value:g}" for value in values[:5])
    return f"{{{text}{', ...' if values.size > 5 else ''}}}"
