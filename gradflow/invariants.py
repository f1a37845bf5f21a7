"""Conserved quantities of the gradient flow, read off the structure of the network."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from gradflow.diagonal import Diagonal
from gradflow.interfaces import Interface, interfaces

_kernels: WeakKeyDictionary = WeakKeyDictionary()


def balancedness(problem, theta, layer=None) -> np.ndarray | dict[str, np.ndarray]:
    r"""How far each hidden layer is from balance with the next one.

    Linear: the matrix :math:`W_{l+1}^\top W_{l+1} - (W_l W_l^\top + b_l b_l^\top)`. Activation of degree q (relu,
    leaky_relu, abs: 1; quadratic, relu_squared: 2): the vector, neuron by neuron,
    :math:`|w_{\rm in}|^2 + b^2 - q\,|w_{\rm out}|^2`. With a free linear skip U into the layer its
    :math:`U U^\top` stands beside :math:`W W^\top` (times q for neurons); an identity skip beside a matrix gives
    :math:`W + I`; layers that an identity skip joins otherwise are taken together.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)
    layer : int, optional
        Number of a hidden layer; all of them if not given.

    Returns
    -------
    dict of str to ndarray, or ndarray
        Keys "layer 1", ..., or "layers 2+4" for layers taken together; (h, h) for linear layers, (h,) for neurons,
        with (runs,) in front for a batch.

    Raises
    ------
    ValueError
        If the network has no such quantity, or not at this layer.

    References
    ----------
    S. Du, W. Hu, J. Lee, Algorithmic regularization in learning deep homogeneous models, arXiv 1806.00900.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.FullyConnected([1, 2, 1], "relu"), gf.losses.Square(), [[1.0]], [[2.0]])
    >>> gf.measure.balancedness(problem, np.array([3.0, 1.0, 2.0, -1.0]))["layer 1"].tolist()
    [5.0, 0.0]
    """
    values = _balances(problem, problem.checked(theta), layer)
    return values if layer is None else next(iter(values.values()))


def imbalance(problem, theta) -> float | np.ndarray:
    r"""Root of the sum of squares of all entries of :func:`gradflow.measure.balancedness`, 0 for balanced layers.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    float or ndarray (runs,)

    Raises
    ------
    ValueError
        If the network has no such quantity.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(), [[1.0]], [[2.0]])
    >>> gf.measure.imbalance(problem, np.array([1.0, 2.0]))
    3.0
    """
    theta = problem.checked(theta)
    squares = [(value**2).reshape(*theta.shape[:-1], -1).sum(-1) for value in _balances(problem, theta).values()]
    total = np.sqrt(sum(squares))
    return total if np.ndim(total) else float(total)


def invariants(problem, theta, rates=None) -> dict[str, np.ndarray]:
    r"""Quantities that the flow :math:`\theta' = -c\,\nabla F(\theta)` conserves, for any data and any loss.

    Without decay they are constant; with decay each is multiplied by :math:`e^{-r t}`, r from
    :func:`gradflow.measure.invariant_decay`. Which there are, and their formulas:
    :func:`gradflow.measure.invariant_names`.

    - Hidden layers with a linear or homogeneous activation: :func:`gradflow.measure.balancedness`. With decay, an
      identity skip joins the layers at its ends instead of giving W + I, since the decay acts on W.
    - Diagonal network, signed: "coordinates", :math:`u v` (depth D = 2) or :math:`u^{2-D} + v^{2-D}`.
    - Diagonal network, unsigned: "kernel", :math:`K^\top \log|u|` (D = 2) or :math:`K^\top u^{2-D}`, the columns of
      K an orthonormal basis of the kernel of x (with decay and D = 2, of its part orthogonal to (1, ..., 1)). For
      D > 2 and for logarithms the entries of theta must not be 0.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)
    rates : dict of str to float, optional
        Speeds c of the blocks of theta, 1 for those not named: :math:`W_l' = -c_l \nabla_{W_l} F`. The conserved
        form is then :math:`W_{l+1}^\top W_{l+1}/c_{l+1} - W_l W_l^\top/c_l`. With decay, a quantity that mixes
        speeds is not conserved and left out.

    Returns
    -------
    dict of str to ndarray
        Empty if there are none (tanh and the like). With (runs,) in front for a batch.

    Raises
    ------
    ValueError
        For a rate of an unknown block, or one that is not positive.

    References
    ----------
    S. Du, W. Hu, J. Lee, arXiv 1806.00900; T. Le, S. Jegelka, arXiv 2201.11968; B. Woodworth et al., arXiv
    2002.09277.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(), [[1.0]], [[2.0]])
    >>> gf.measure.invariants(problem, np.array([1.0, 2.0]))["layer 1"].tolist()
    [[3.0]]
    """
    theta = problem.checked(theta)
    rates = _checked_rates(problem.network, rates)
    layers, lead = problem.layers(theta), theta.shape[:-1]
    if isinstance(problem.network, Diagonal):
        return _diagonal(problem, layers, rates)
    return {each.name: each.value(layers, lead, rates) for each in conserved_interfaces(problem, rates)}


def invariant_names(problem, rates=None) -> dict[str, str]:
    r"""Names of the conserved quantities of the flow of a problem, with their formulas.

    Parameters
    ----------
    problem : Problem
    rates : dict of str to float, optional
        Speeds of the blocks of theta, as in :func:`gradflow.measure.invariants`.

    Returns
    -------
    dict of str to str
        In matrices :math:`W_2^T W_2 - W_1 W_1^T`; neuron by neuron ``|W1 rows|^2 - |W2 columns|^2``.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> network = gf.FullyConnected([1, 2, 2, 1], ["relu", "linear"], bias=True)
    >>> gf.measure.invariant_names(gf.Problem(network, gf.losses.Square(), [[1.0]], [[2.0]]))["layer 1"]
    '|W1 rows|^2 + |b1 rows|^2 - |W2 columns|^2'
    """
    rates = _checked_rates(problem.network, rates)
    if not isinstance(problem.network, Diagonal):
        return {each.name: each.formula(rates) for each in conserved_interfaces(problem, rates)}
    power = 2 - problem.network.depth
    if not problem.network.signed:
        if not kernel_basis(problem).shape[1]:
            return {}
        return {"kernel": "K^T log|u|" if power == 0 else f"K^T u^{power}"}
    up, down = rates.get("u", 1.0), rates.get("v", 1.0)
    if power != 0 and not _same_decay(problem, rates, ("u", "v")):
        return {}
    if power == 0:
        return {"coordinates": "u v" if up == down == 1 else f"sign(u v) |u|^(1/{up:g}) |v|^(1/{down:g})"}
    one = f"u^{power}" if up == 1 else f"u^{power} / {up:g}"
    return {"coordinates": one + " + " + (f"v^{power}" if down == 1 else f"v^{power} / {down:g}")}


def invariant_decay(problem, rates=None) -> dict[str, float]:
    r"""Rate r of each conserved quantity: :math:`I(t) = I(0)\,e^{-r t}`, so 0 without decay.

    With decay lambda the balance of layers has :math:`r = 4\lambda c`, a diagonal network of depth D
    :math:`r = 2\lambda(2-D)c` (:math:`4\lambda` for u v, 0 for logarithms), c the common speed of its blocks.

    Parameters
    ----------
    problem : Problem
    rates : dict of str to float, optional
        Speeds of the blocks of theta, as in :func:`gradflow.measure.invariants`.

    Returns
    -------
    dict of str to float
        The same names as :func:`gradflow.measure.invariants`.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(), [[1.0]], [[2.0]], decay=0.5)
    >>> gf.measure.invariant_decay(problem)
    {'layer 1': 2.0}
    """
    rates = _checked_rates(problem.network, rates)
    if not isinstance(problem.network, Diagonal):
        found = conserved_interfaces(problem, rates)
        return {each.name: 4 * _decay(problem, rates, each.blocks) for each in found}
    power = 2 - problem.network.depth
    result = {}
    for name in invariant_names(problem, rates):
        if power == 0:
            result[name] = 4 * problem.decay if problem.network.signed else 0.0
        else:
            result[name] = 2 * power * _decay(problem, rates, ("u",))
    return result


def _balances(problem, theta, layer=None) -> dict[str, np.ndarray]:
    """The quantity of every interface, or of the one with this layer."""
    every = interfaces(problem.network)
    found = every if layer is None else [each for each in every if layer in each.layers]
    if not found:
        where = "" if layer is None else f" at layer = {layer}"
        known = [number for each in every for number in each.layers]
        raise ValueError(
            f"{problem.network} has no balance{where}: it needs a hidden layer with a homogeneous activation (linear,"
            " relu, leaky_relu, abs, quadratic, relu_squared) that no identity skip ties to the input or output;"
            f" layers: {known}"
        )
    layers, lead = problem.layers(theta), theta.shape[:-1]
    return {each.name: each.value(layers, lead, {}) for each in found}


def conserved_interfaces(problem, rates) -> tuple[Interface, ...]:
    """Interfaces whose quantity obeys a law of its own under this decay and these speeds."""
    found = interfaces(problem.network, absorb=problem.decay == 0)
    return tuple(each for each in found if _same_decay(problem, rates, each.blocks))


def _same_decay(problem, rates, blocks) -> bool:
    """Whether all blocks decay alike."""
    return problem.decay == 0 or len({rates.get(block, 1.0) for block in blocks}) == 1


def _decay(problem, rates, blocks) -> float:
    """Decay times the speed of the blocks, which have a common one if there is decay."""
    return problem.decay * rates.get(blocks[0], 1.0)


def _diagonal(problem, layers, rates):
    power = 2 - problem.network.depth
    names = invariant_names(problem, rates)
    u, up, down = layers["u"], rates.get("u", 1.0), rates.get("v", 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        if "kernel" in names:
            return {"kernel": (np.log(np.abs(u)) if power == 0 else u ** float(power)) @ kernel_basis(problem)}
        if "coordinates" not in names:
            return {}
        v = layers["v"]
        if power != 0:
            return {"coordinates": u ** float(power) / up + v ** float(power) / down}
        if up == down == 1:
            return {"coordinates": u * v}
        return {"coordinates": np.sign(u * v) * np.abs(u) ** (1 / up) * np.abs(v) ** (1 / down)}


def kernel_basis(problem) -> np.ndarray:
    """Orthonormal basis (d, m) of the kernel of x, computed once per problem."""
    basis = _kernels.get(problem)
    if basis is None:
        x = problem.x
        if problem.decay and problem.network.depth == 2:
            x = np.vstack([x, np.ones(x.shape[1])])
        triangle = np.linalg.qr(x, mode="r") if x.shape[0] > x.shape[1] else x
        _, strengths, right = np.linalg.svd(triangle)
        rank = int((strengths > max(x.shape) * np.finfo(float).eps * strengths[0]).sum())
        basis = _kernels[problem] = right[rank:].T.copy()
    return basis


def _checked_rates(network, rates) -> dict[str, float]:
    """Speeds as a dict, checked against the blocks of theta."""
    if rates is not None and not isinstance(rates, dict):
        raise TypeError(f"rates of type {type(rates).__name__}: give a dict, block of theta -> speed")
    rates = dict(rates or {})
    unknown = rates.keys() - network.shapes.keys()
    if unknown:
        raise ValueError(f"rates name {sorted(unknown)}: no such blocks; choose from {', '.join(network.shapes)}")
    for name, rate in rates.items():
        if not (np.isfinite(rate) and rate > 0):
            raise ValueError(f"rates[{name!r}] = {rate}: a speed must be a finite positive number")
    return rates
