"""Drawn data: Gaussian designs, teachers, separable clouds, nearly orthogonal and whitened inputs."""

import numpy as np
from numpy.typing import ArrayLike

from gradflow.data.checks import count, finite, generator, not_negative, positive


def gaussian(
    n: int,
    d: int,
    spectrum: ArrayLike | None = None,
    seed: int = 0,
    *,
    outputs: int = 1,
    teacher: ArrayLike | None = None,
    noise: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    r"""Gaussian inputs with a linear teacher.

    .. math:: x_i \sim N(0, \mathrm{diag}(\mathrm{spectrum})), \qquad y_i = A x_i + \mathrm{noise} \cdot \xi_i

    Parameters
    ----------
    n, d : int
        Number of samples and of inputs.
    spectrum : array_like, shape (d,), optional
        Eigenvalues of the covariance, not negative, along the coordinate axes; ones if left out.
    seed : int
        Seed of the generator.
    outputs : int
        Number of outputs k, if no teacher is given.
    teacher : array_like, shape (d,) or (k, d), optional
        The matrix A; entries N(0, 1/d) if left out. The inputs do not depend on it.
    noise : float
        Standard deviation of the Gaussian noise on y.

    Returns
    -------
    x : np.ndarray, shape (n, d)
    y : np.ndarray, shape (n, k)

    Raises
    ------
    ValueError
        If a size is not positive, or the spectrum or the teacher does not fit d.

    Examples
    --------
    >>> x, y = gaussian(4, 3, seed=0, teacher=[1.0, 0.0, -1.0])
    >>> x.shape, y.shape, bool((y[:, 0] == x[:, 0] - x[:, 2]).all())
    ((4, 3), (4, 1), True)
    """
    n, d, outputs = count("n", n), count("d", d), count("outputs", outputs)
    noise = not_negative("noise", noise)
    inputs, errors, weights = generator(seed).spawn(3)
    x = inputs.standard_normal((n, d))
    if spectrum is not None:
        eigenvalues = finite("spectrum", spectrum, (d,))
        if (eigenvalues < 0).any():
            raise ValueError(f"spectrum contains {eigenvalues.min()}: eigenvalues of a covariance are not negative")
        x *= np.sqrt(eigenvalues)
    if teacher is None:
        matrix = weights.standard_normal((outputs, d)) / np.sqrt(d)
    else:
        matrix = np.atleast_2d(finite("teacher", teacher))
        if matrix.ndim != 2 or matrix.shape[1] != d:
            raise ValueError(f"teacher has shape {np.shape(teacher)} for d = {d}: give shape ({d},) or (k, {d})")
    y = x @ matrix.T
    return x, y + noise * errors.standard_normal(y.shape)


def teacher_weights(network, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    r"""Gaussian weights of a teacher network as one flat vector.

    .. math:: \theta_j \sim N(0, \mathrm{scale}^2 / \mathrm{fan\ in})

    Parameters
    ----------
    network : object
        A network with ``shapes``, the ordered shapes of its layers by name.
    seed : int
        Seed of the generator; the layers are drawn in order. Start values drawn with the same seed are others.
    scale : float
        Standard deviation of the entries times the root of the fan-in, the number of entries that one output of
        the layer sees; vectors (biases, diagonal weights) have fan-in 1.

    Returns
    -------
    np.ndarray, shape (P,)
        theta, the layers row by row in order.

    Raises
    ------
    ValueError
        If the scale is negative or not finite.

    Examples
    --------
    >>> from gradflow.networks import DeepLinear
    >>> teacher_weights(DeepLinear([3, 4, 1]), seed=0).shape
    (16,)
    """
    scale = not_negative("scale", scale)
    if not hasattr(network, "shapes"):
        raise TypeError(f"network = {network!r}: give a network such as gf.DeepLinear([3, 4, 1])")
    weights = generator(seed).spawn(3)[2]
    layers = [
        scale * weights.standard_normal(shape).ravel() / np.sqrt(np.prod(shape[1:]))
        for shape in network.shapes.values()
    ]
    return np.concatenate(layers)


def teacher_student(
    network,
    n: int,
    d: int | None = None,
    seed: int = 0,
    *,
    theta: ArrayLike | None = None,
    scale: float = 1.0,
    noise: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    r"""Gaussian inputs with the outputs of a teacher network.

    .. math:: x_i \sim N(0, I_d), \qquad y_i = f_{\theta}(x_i) + \mathrm{noise} \cdot \xi_i

    Parameters
    ----------
    network : object
        The teacher: ``forward(layers, x)`` with layers a dict of arrays and x (n, d), and ``shapes``, the ordered
        shapes of its layers by name.
    n : int
        Number of samples.
    d : int, optional
        Number of inputs; ``network.input_size`` if left out.
    seed : int
        Seed of the generator. The inputs do not depend on the teacher.
    theta : array_like, shape (P,), optional
        Weights of the teacher; ``teacher_weights(network, seed, scale)`` if left out.
    scale : float
        Scale of the drawn weights.
    noise : float
        Standard deviation of the Gaussian noise on y.

    Returns
    -------
    x : np.ndarray, shape (n, d)
    y : np.ndarray, shape (n, k)

    Raises
    ------
    ValueError
        If a size is not positive, d is not the network's, or theta has the wrong length.

    Examples
    --------
    >>> from gradflow.networks import FullyConnected
    >>> x, y = teacher_student(FullyConnected([5, 3, 1], activation="relu"), n=20, seed=1)
    >>> x.shape, y.shape
    ((20, 5), (20, 1))
    """
    n, noise = count("n", n), not_negative("noise", noise)
    known = getattr(network, "input_size", d)
    if known is None:
        raise ValueError("d is missing: this network does not state its number of inputs; give d")
    d = count("d", known if d is None else d)
    if known != d:
        raise ValueError(f"d = {d}: the network takes {known} inputs; give d = {known} or leave it out")
    size = sum(int(np.prod(shape)) for shape in network.shapes.values())
    flat = teacher_weights(network, seed, scale) if theta is None else finite("theta", theta, (size,))
    ends = np.cumsum([int(np.prod(shape)) for shape in network.shapes.values()])[:-1]
    parts = np.split(flat, ends)
    layers = {name: part.reshape(shape) for (name, shape), part in zip(network.shapes.items(), parts, strict=True)}
    inputs, errors, _ = generator(seed).spawn(3)
    x = inputs.standard_normal((n, d))
    y = np.asarray(network.forward(layers, x), dtype=np.float64).reshape(n, -1)
    return x, y + noise * errors.standard_normal(y.shape)


def separable(
    n: int,
    d: int,
    margin: float,
    seed: int = 0,
    *,
    spread: float = 1.0,
    separator: ArrayLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    r"""Two linearly separable clouds whose hard margin is known.

    .. math:: \max_{\|w\| = 1} \min_i y_i \langle w, x_i \rangle = \mathrm{margin}, \text{ attained at the separator}

    Two of the points :math:`y_i x_i` lie at the margin as mirror images about the separator, so that no other
    direction does better; the others lie beyond it by the absolute value of a Gaussian. For n = 1 the one point lies
    on the separator.

    Parameters
    ----------
    n, d : int
        Number of samples and of inputs.
    margin : float
        The hard margin through the origin, positive.
    seed : int
        Seed of the generator.
    spread : float
        Standard deviation of the clouds, positive.
    separator : array_like, shape (d,), optional
        The direction that separates best, normalised here; drawn from the seed if left out.

    Returns
    -------
    x : np.ndarray, shape (n, d)
    y : np.ndarray, shape (n, 1)
        Labels -1 and +1, balanced to within one, in random order.

    Raises
    ------
    ValueError
        If a size or the margin is not positive, or the separator is zero or does not fit d.

    Examples
    --------
    >>> x, y = separable(10, 3, margin=0.5, seed=0, separator=[1.0, 0.0, 0.0])
    >>> round(float((y[:, 0] * x[:, 0]).min()), 12)
    0.5
    """
    n, d = count("n", n), count("d", d)
    margin, spread = positive("margin", margin), positive("spread", spread)
    points, direction = generator(seed).spawn(2)
    axis = direction.standard_normal(d) if separator is None else finite("separator", separator, (d,))
    length = np.linalg.norm(axis)
    if length == 0:
        raise ValueError("separator is zero: give a direction that is not zero")
    axis = axis / length
    height = margin + spread * np.abs(points.standard_normal(n))
    sideways = spread * points.standard_normal((n, d))
    height[:2], sideways[1:2] = margin, -sideways[:1]
    if n == 1:
        sideways[0] = 0.0
    sideways -= np.outer(sideways @ axis, axis)
    labels = np.where(np.arange(n) % 2 == 0, 1.0, -1.0)
    order, label_order = points.permutation(n), points.permutation(n)
    y = labels[label_order][:, None]
    return y * (np.outer(height, axis) + sideways)[order], y


def clouds(
    n: int, d: int, classes: int, seed: int | np.random.Generator = 0, *, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    r"""Gaussian clouds about Gaussian centres, which many inputs d separate.

    .. math:: x_i = (\mu_{y_i} + \mathrm{spread} \cdot \xi_i) / \sqrt d, \qquad y_i = i \bmod C, \qquad
        \mu_c, \xi_i \sim N(0, I_d)

    Parameters
    ----------
    n, d, classes : int
        Number of samples, of inputs and of clouds C.
    seed : int or numpy.random.Generator
        Seed, or a generator to draw from: the centres first.
    spread : float
        Standard deviation of the clouds over that of the centres, not negative.

    Returns
    -------
    x : np.ndarray, shape (n, d)
    y : np.ndarray, shape (n,)
        Class numbers.

    Raises
    ------
    ValueError
        If a size is not positive or the spread is negative.

    Examples
    --------
    >>> x, y = clouds(5, 3, classes=2, spread=0.0)
    >>> x.shape, y.tolist(), bool((x[0] == x[2]).all())
    ((5, 3), [0, 1, 0, 1, 0], True)
    """
    n, d, classes, spread = count("n", n), count("d", d), count("classes", classes), not_negative("spread", spread)
    rng, y = generator(seed), np.arange(n) % classes
    return (rng.standard_normal((classes, d))[y] + spread * rng.standard_normal((n, d))) / np.sqrt(d), y


def nearly_orthogonal(n: int, d: int, seed: int = 0, *, overlap: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    r"""Unit inputs whose largest inner product is known, with balanced labels.

    .. math:: \|x_i\| = 1, \qquad \max_{i \ne j} |\langle x_i, x_j \rangle| = \mathrm{overlap}

    The inner products are symmetric Gaussian numbers scaled to that maximum; overlap = 0 gives orthonormal inputs.

    Parameters
    ----------
    n, d : int
        Number of samples and of inputs, n <= d.
    seed : int
        Seed of the generator.
    overlap : float
        The largest inner product, not negative and small enough that such inputs exist (1 / n always is).

    Returns
    -------
    x : np.ndarray, shape (n, d)
    y : np.ndarray, shape (n, 1)
        Labels -1 and +1, balanced to within one, in random order.

    Raises
    ------
    ValueError
        If n > d, or the overlap is too large.

    Examples
    --------
    >>> x, y = nearly_orthogonal(4, 6, overlap=0.05)
    >>> round(float(abs(x @ x.T - np.eye(4)).max()), 12)
    0.05
    """
    d = count("d", d)
    n = count("n", n, maximum=d, reason=f"there are no more than d = {d} nearly orthogonal vectors")
    overlap = not_negative("overlap", overlap)
    rng = generator(seed).spawn(1)[0]
    upper = np.triu(rng.standard_normal((n, n)), 1)
    frame = orthonormal(rng, d, n)
    y = rng.permutation(np.where(np.arange(n) % 2 == 0, 1.0, -1.0))[:, None]
    largest = np.abs(upper).max()
    gram = np.eye(n) + (overlap / largest * (upper + upper.T) if largest > 0 else 0.0)
    smallest = np.linalg.eigvalsh(gram)[0]
    if smallest < 1e-8:
        raise ValueError(
            f"overlap = {overlap}: no {n} unit vectors have these inner products (smallest eigenvalue of the Gram "
            f"matrix {smallest:.3g}); give overlap <= {1 / n:.3g}"
        )
    return np.linalg.cholesky(gram) @ frame.T, y


def whitened_modes(
    strengths: ArrayLike,
    input_size: int | None = None,
    output_size: int | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    r"""White inputs with a linear teacher of given singular values.

    .. math:: \frac1n x^T x = I, \qquad \frac1n y^T x = \Sigma = U \, \mathrm{diag}(s) \, V^T, \qquad y = x \Sigma^T

    Both hold to rounding; U and V are drawn from the seed. The singular modes of a deep linear network with an
    aligned start then follow `gradflow.exact.deep_linear_modes` under ``Square(half=True)``.

    Parameters
    ----------
    strengths : array_like, shape (m,)
        The singular values s, not negative.
    input_size, output_size : int, optional
        Numbers d and k of inputs and outputs, at least m; m if left out.
    samples : int, optional
        Number n of samples, at least d; d if left out.
    seed : int
        Seed of the generator.

    Returns
    -------
    x : np.ndarray, shape (n, d)
    y : np.ndarray, shape (n, k)

    Raises
    ------
    ValueError
        If a strength is negative, or a size is too small.

    References
    ----------
    Saxe, McClelland, Ganguli 2014, arXiv:1312.6120 (the setting).

    Examples
    --------
    >>> x, y = whitened_modes((3.0, 1.0), input_size=4, samples=8)
    >>> np.linalg.svd(y.T @ x / 8)[1].round(12)
    array([3., 1.])
    """
    values = finite("strengths", strengths)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"strengths has shape {values.shape}: give one number per mode, shape (m,)")
    if (values < 0).any():
        raise ValueError(f"strengths contains {values.min()}: singular values are not negative; give strengths >= 0")
    modes = len(values)
    d = count("input_size", modes if input_size is None else input_size, minimum=modes)
    k = count("output_size", modes if output_size is None else output_size, minimum=modes)
    n = count("samples", d if samples is None else samples, minimum=d)
    rng = generator(seed).spawn(1)[0]
    x = np.sqrt(n) * orthonormal(rng, n, d)
    left, right = orthonormal(rng, k, modes), orthonormal(rng, d, modes)
    return x, (x @ right * values) @ left.T


def orthonormal(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Return uniformly drawn orthonormal columns, rows >= columns."""
    frame, triangle = np.linalg.qr(rng.standard_normal((rows, columns)))
    return frame * np.where(np.diag(triangle) < 0, -1.0, 1.0)
