"""Layers put back on their balance: the conserved quantities of feedforward and convolutional networks."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from gradflow.invariants import conserved_interfaces

TOLERANCE = 2e-15


class Balance:
    """Parameters with a given balance of layers; see :func:`gradflow.measure.invariants`.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(), [[1.0]], [[2.0]])
    >>> balance = Balance(problem, None)
    >>> theta = balance.put_back(np.array([1.0, 2.001]), np.array([3.0]))
    >>> bool(abs(theta[1] ** 2 - theta[0] ** 2 - 3.0) < 1e-14)
    True
    """

    def __init__(self, problem, rates):
        plan: Any = plan_of(problem, rates)
        self._plan, self._program, self.operations, self.decay = plan, plan.program, plan.operations, plan.decay
        self._room = None

    def values(self, state: np.ndarray) -> np.ndarray:
        """Conserved quantities at a state, as one vector."""
        from gradflow.kernels.balance import measure

        out = np.empty(self.decay.size)
        rows, spare = np.empty(self._plan.rows), np.empty(self._plan.largest)
        measure(self._program, rows, spare, np.array(state, dtype=np.float64), out)
        return out

    def put_back(self, state: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The nearest state where they are as in `target`."""
        states = np.array(state, dtype=np.float64)[None]
        self.put_back_all(states, np.asarray(target)[None])
        return states[0]

    def put_back_all(self, states: np.ndarray, targets: np.ndarray) -> None:
        """The same in place, for states (m, P) in the order of time and targets (m, C), or (1, C) for all."""
        from gradflow.kernels.balance import put_back_all
        from gradflow.lanes.balance import put_back_all as put_back_in_lanes

        targets, done = np.ascontiguousarray(targets), np.zeros(len(states), dtype=np.bool_)
        if self._plan.in_lanes:
            put_back_in_lanes(self._program, self.lanes, states, targets, TOLERANCE, done)
        if not done.all():
            self._room = self._room or _room(self._program, self._plan.rows, states.shape[1])
            put_back_all(self._program, self._room, states, targets, TOLERANCE, done)

    @property
    def lanes(self):
        """Vectors for eight states: a set for all runs of a problem in a thread, without the factor of another run."""
        from gradflow.lanes.balance_room import NO_FACTOR, room_for

        kept = self._plan.kept
        if getattr(kept, "owner", None) is not self:
            if not hasattr(kept, "room"):
                kept.room = room_for(self._program, *self._plan.in_lanes)
            kept.owner, kept.room.age[0] = self, NO_FACTOR
        return kept.room


class Plan(NamedTuple):
    """What all runs of a problem share: its terms in numbers, sizes of vectors, operations of one way back."""

    program: Any
    in_lanes: tuple | None
    operations: float
    decay: np.ndarray
    rows: int
    largest: int
    kept: threading.local


_plans: WeakKeyDictionary = WeakKeyDictionary()


def plan_of(problem, rates) -> Plan | None:
    """The plan of a problem with these speeds, made once; None if nothing is conserved."""
    plans, speeds = _plans.setdefault(problem, {}), rates or {}
    key = tuple(sorted(speeds.items()))
    if key not in plans:
        found = conserved_interfaces(problem, speeds)
        plans[key] = _made(problem, found, speeds) if found else None
    return plans[key]


def _made(problem, found, speeds) -> Plan:
    """A plan for interfaces."""
    from gradflow.lanes.balance_room import suits

    shapes = problem.network.shapes
    program, operations = _program(shapes, found, speeds)
    counts = [each.units**2 if each.full else each.units for each in found]
    decay = np.repeat([4.0 * problem.decay * speeds.get(each.blocks[0], 1.0) for each in found], counts)
    in_lanes = (problem.size, _diagonals(shapes, found)) if suits(program) else None
    rows = int(program.terms[:, -1].max()) + problem.size
    return Plan(program, in_lanes, operations, decay, rows, int(program.groups[:, 0].max()) ** 2, threading.local())


def _program(shapes, found, speeds):
    """The terms of all interfaces in numbers, and the operations of a way back."""
    from gradflow.kernels.balance import Program

    places = dict(zip(shapes, _offsets(shapes), strict=True))
    terms, factors, groups = [], [], []
    values = squares = units = rows = operations = 0
    for number, each in enumerate(found):
        groups.append((each.units, each.full, values, squares, units))
        values += each.units**2 if each.full else each.units
        squares += each.units**2 if each.full else 0
        units += each.units
        for term in each.terms:
            shape, place = shapes[term.block], int(places[term.block])
            size, outputs = int(np.prod(shape)), shape[0]
            rest = size // each.units
            inner = rest if term.side == "in" else rest // outputs
            outer, step = (1, 0) if term.side == "in" else (outputs, each.units * inner)
            terms.append((number, place, outer, step, inner, inner, term.identity, rows))
            factors.append(term.factor / speeds.get(term.block, 1.0))
            rows += size
            operations += 12 * size * (each.units if each.full else 2)
    return Program(np.array(terms), np.array(factors), np.array(groups, dtype=np.int64)), float(operations)


def _diagonals(shapes, found) -> np.ndarray:
    """Places in theta to which a skip beside a matrix adds one."""
    places, diagonals = dict(zip(shapes, _offsets(shapes), strict=True)), set()
    for each in found:
        for term in each.terms:
            if term.identity:
                step = int(np.prod(shapes[term.block])) // shapes[term.block][0] + 1
                diagonals |= {int(places[term.block]) + i * step for i in range(each.units)}
    return np.array(sorted(diagonals), dtype=np.int64)


def _room(program, rows, size):
    """Vectors for one projection."""
    from gradflow.kernels.balance import Room

    units, full = program.groups[:, 0], program.groups[:, 1].astype(bool)
    values, squares = int(np.where(full, units**2, units).sum()), int((units**2)[full].sum())
    most = int(units.max()) ** 2
    sizes = (rows, rows, size, *[values] * 5, squares, int(units.sum()), len(units), most, most)
    return Room(*(np.zeros(size) for size in sizes))


def _offsets(shapes) -> np.ndarray:
    """Where each block of theta begins."""
    sizes = [int(np.prod(shape, dtype=int)) for shape in shapes.values()]
    return np.cumsum([0, *sizes[:-1]])
