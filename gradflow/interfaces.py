r"""Where hidden units can be rescaled without a change of the outputs: the structure behind the conserved quantities.

At a hidden layer, :math:`a \to g a` is undone by the layers that read it. If the activation is linear, g is any
matrix; if it is homogeneous of degree q, g is diagonal and the incoming weights move by the power 1/q. Layers joined
by an identity skip move together; a group with the input or the output in it cannot move. An identity skip
beside a matrix of the same source is a part of that matrix, W + I.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gradflow.modules import Convolutional
from gradflow.networks import Feedforward


@dataclass(frozen=True)
class Term:
    """One block at an interface: it makes the units ("in") or reads them ("out"); `factor` carries sign and degree."""

    block: str
    side: str
    factor: float
    identity: bool = False

    def rows(self, array, lead, units) -> np.ndarray:
        """The block as (*lead, units, all the rest)."""
        if self.side == "in":
            rows = array.reshape(*lead, units, -1)
        else:
            outputs = array.shape[len(lead)]
            rows = np.moveaxis(array.reshape(*lead, outputs, units, -1), len(lead) + 1, len(lead))
            rows = rows.reshape(*lead, units, -1)
        return rows + np.eye(units, rows.shape[-1]) if self.identity else rows

    def __str__(self):
        return f"({self.block} + I)" if self.identity else self.block


@dataclass(frozen=True)
class Interface:
    """A group of hidden layers that move together; `full`: by any matrix, else neuron by neuron."""

    layers: tuple[int, ...]
    units: int
    full: bool
    terms: tuple[Term, ...]

    @property
    def name(self) -> str:
        """For example "layer 1", or "layers 2+4" if an identity skip joins them."""
        return f"layer{'s' if len(self.layers) > 1 else ''} {'+'.join(map(str, self.layers))}"

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the blocks of theta that take part."""
        return tuple(term.block for term in self.terms)

    def value(self, layers, lead, rates) -> np.ndarray:
        """Matrix (*lead, units, units) if full, else (*lead, units)."""
        total = np.zeros((*lead, self.units, self.units) if self.full else (*lead, self.units))
        for term in self.terms:
            rows = term.rows(layers[term.block], lead, self.units)
            part = rows @ rows.swapaxes(-1, -2) if self.full else (rows**2).sum(-1)
            total += term.factor / rates.get(term.block, 1.0) * part
        return total

    def formula(self, rates) -> str:
        """What :meth:`value` returns, in words."""
        text = ""
        for term in self.terms:
            factor = term.factor / rates.get(term.block, 1.0)
            sign = ("-" if factor < 0 else "") if not text else (" - " if factor < 0 else " + ")
            number = "" if abs(factor) == 1 else f"{abs(factor):g} "
            text += sign + number + (self._gram(term) if self.full else self._squares(term))
        return text

    @staticmethod
    def _gram(term):
        return f"{term} {term}^T" if term.side == "in" else f"{term}^T {term}"

    @staticmethod
    def _squares(term):
        return f"|{term}{' rows' if term.side == 'in' else ' columns'}|^2"


@lru_cache(maxsize=64)
def interfaces(network, absorb=True) -> tuple[Interface, ...]:
    """All interfaces of a network; `absorb`: whether an identity skip may become part of a matrix."""
    if isinstance(network, Feedforward):
        return _feedforward(network, absorb)
    if isinstance(network, Convolutional):
        return _convolutional(network)
    return ()


def _feedforward(network, absorb):
    stages = network.stages
    depth = len(stages)
    host = {number: _host(number, stage) if absorb else None for number, stage in enumerate(stages, 1)}
    group = _groups(stages, host)
    result = []
    for leader in sorted(set(group[1:depth]) - {group[0], group[depth]}):
        members = tuple(number for number in range(1, depth) if group[number] == leader)
        activations = [stages[number - 1].activation for number in members]
        if any(a.degree is None for a in activations):
            continue
        full = all(a.name == "linear" for a in activations)
        incoming = tuple(_incoming(stages, members, host, activations))
        outgoing = tuple(_outgoing(stages, members, host, activations))
        result.append(_interface(members, stages[members[0] - 1].outputs, full, incoming, outgoing))
    return tuple(result)


def _host(number, stage) -> str | None:
    """Name of the matrix that takes in the identity skip which ends at this layer."""
    if stage.identity_from < 0:
        return None
    if stage.linear_from == stage.identity_from:
        return f"U{number}"
    if stage.identity_from == number - 1 and stage.activation.name == "linear" and stage.trained:
        return f"W{number}"
    return None


def _groups(stages, host) -> list[int]:
    """For each layer, the lowest layer that it moves with; 0 for those that cannot move."""
    group = list(range(len(stages) + 1))

    def join(a, b):
        low, high = sorted((group[a], group[b]))
        group[:] = [low if g == high else g for g in group]

    for number, stage in enumerate(stages, 1):
        if stage.identity_from >= 0 and host[number] is None:
            join(number, stage.identity_from)
        if not stage.trained:
            join(number, 0)
            join(number - 1, 0)
    return group


def _incoming(stages, members, host, activations):
    """Terms of the blocks that make the units: W and b move by the power 1/q, U is outside the activation."""
    first = activations[0].degree
    for number, a in zip(members, activations, strict=True):
        stage = stages[number - 1]
        yield Term(f"W{number}", "in", first / a.degree, host[number] == f"W{number}")
        if stage.bias:
            yield Term(f"b{number}", "in", first / a.degree)
        if stage.linear_from >= 0:
            yield Term(f"U{number}", "in", float(first), host[number] == f"U{number}")


def _outgoing(stages, members, host, activations):
    """Terms of the blocks that read the units."""
    first = activations[0].degree
    for number, stage in enumerate(stages, 1):
        if number - 1 in members:
            yield Term(f"W{number}", "out", -float(first), host[number] == f"W{number}")
        if stage.linear_from in members:
            yield Term(f"U{number}", "out", -float(first), host[number] == f"U{number}")


def _interface(members, units, full, incoming, outgoing) -> Interface:
    """Neurons: what comes in minus what goes out; matrices: the other way round, as both are usually written."""
    if not full:
        return Interface(members, units, full, incoming + outgoing)
    terms = tuple(Term(term.block, term.side, -term.factor, term.identity) for term in outgoing + incoming)
    return Interface(members, units, full, terms)


def _convolutional(network):
    """One interface per convolution: its output channels against the input channels of the next layer."""
    activation, degree = network.activation, network.activation.degree
    if degree is None:
        return ()
    full = activation.name == "linear"
    result = []
    for number, channels in enumerate(network.channels, 1):
        incoming, outgoing = Term(f"W{number}", "in", 1.0), Term(f"W{number + 1}", "out", -float(degree))
        result.append(_interface((number,), channels, full, (incoming,), (outgoing,)))
    return tuple(result)
