"""Layers put back on their balance: the conserved quantities of feedforward and convolutional networks."""

from __future__ import annotations

from functools import lru_cache

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
        from gradflow.lanes import balance_room

        speeds = rates or {}
        found = conserved_interfaces(problem, speeds)
        shapes = tuple(problem.network.shapes.items())
        self._program, in_lanes, self.operations = _program(shapes, found, tuple(sorted(speeds.items())))
        self._size, self._room = problem.size, None
        self._lanes = balance_room.room_for(self._program, problem.size, *in_lanes) if in_lanes else None
        counts = [each.units**2 if each.full else each.units for each in found]
        self.decay = np.repeat([4.0 * problem.decay * speeds.get(each.blocks[0], 1.0) for each in found], counts)

    def values(self, state: np.ndarray) -> np.ndarray:
        """Conserved quantities at a state, as one vector."""
        from gradflow.kernels.balance import measure

        out = np.empty(self.decay.size)
        rows, spare = np.empty(self._rows()), np.empty(int(self._program.groups[:, 0].max()) ** 2)
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
        if self._lanes is not None:
            put_back_in_lanes(self._program, self._lanes, states, targets, TOLERANCE, done)
        if not done.all():
            self._room = self._room or _room(self._program, self._rows(), self._size)
            put_back_all(self._program, self._room, states, targets, TOLERANCE, done)

    def _rows(self) -> int:
        """Bound on the numbers in the rows of all terms."""
        return int(self._program.terms[:, -1].max()) + self._size


@lru_cache(maxsize=64)
def _program(shapes, found, speeds):
    """The terms of all interfaces in numbers, what states in lanes need besides, and the operations of a way back."""
    from gradflow.kernels.balance import Program
    from gradflow.lanes.balance_room import own_matrices, suits

    speeds, shapes = dict(speeds), dict(shapes)
    places = dict(zip(shapes, _offsets(shapes), strict=True))
    terms, factors, groups, diagonals = [], [], [], set()
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
            if term.identity:
                diagonals |= {place + i * (size // outputs + 1) for i in range(each.units)}
    program = Program(np.array(terms), np.array(factors), np.array(groups, dtype=np.int64))
    places = np.array(sorted(diagonals), dtype=np.int64)
    return program, (places, own_matrices(program)) if suits(program) else None, float(operations)


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
