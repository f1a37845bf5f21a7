"""Layers put back on their balance: the conserved quantities of feedforward and convolutional networks."""

from __future__ import annotations

import numpy as np

from gradflow.invariants import conserved_interfaces

TOLERANCE = 4e-15


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
        from gradflow.kernels.balance import Program, Room

        speeds = rates or {}
        found = conserved_interfaces(problem, speeds)
        places = dict(zip(problem.network.shapes, _offsets(problem.network.shapes), strict=True))
        terms, factors, groups = [], [], []
        values = squares = units = rows = 0
        for number, each in enumerate(found):
            groups.append((each.units, each.full, values, squares, units))
            values += each.units**2 if each.full else each.units
            squares += each.units**2 if each.full else 0
            units += each.units
            for term in each.terms:
                shape = problem.network.shapes[term.block]
                size, outputs = int(np.prod(shape)), shape[0]
                rest = size // each.units
                inner = rest if term.side == "in" else rest // outputs
                outer, step = (1, 0) if term.side == "in" else (outputs, each.units * inner)
                terms.append((number, places[term.block], outer, step, inner, inner, term.identity, rows))
                factors.append(term.factor / speeds.get(term.block, 1.0))
                rows += size
        self._program = Program(np.array(terms), np.array(factors), np.array(groups, dtype=np.int64))
        most = max(each.units for each in found) ** 2
        sizes = (
            rows,
            rows,
            problem.size,
            values,
            values,
            values,
            values,
            values,
            squares,
            units,
            len(groups),
            most,
            most,
        )
        self._room = Room(*(np.zeros(size) for size in sizes))
        counts = [each.units**2 if each.full else each.units for each in found]
        self.decay = np.repeat([4.0 * problem.decay * speeds.get(each.blocks[0], 1.0) for each in found], counts)
        self.operations = 12.0 * sum(
            (each.units if each.full else 2) * int(np.prod(problem.network.shapes[term.block]))
            for each in found
            for term in each.terms
        )

    def values(self, state: np.ndarray) -> np.ndarray:
        """Conserved quantities at a state, as one vector."""
        from gradflow.kernels.balance import measure

        out = np.empty(self.decay.size)
        measure(self._program, self._room, np.array(state, dtype=np.float64), out)
        return out

    def put_back(self, state: np.ndarray, target: np.ndarray, fresh: bool = True) -> np.ndarray:
        """The nearest state where they are as in `target`; `fresh`: with new eigenvectors, not those of before."""
        from gradflow.kernels.balance import put_back

        state = np.array(state, dtype=np.float64)
        fresh = fresh or not self._room.spectrum.any()
        put_back(self._program, self._room, state, np.ascontiguousarray(target), TOLERANCE, fresh)
        return state


def _offsets(shapes) -> np.ndarray:
    """Where each block of theta begins."""
    sizes = [int(np.prod(shape, dtype=int)) for shape in shapes.values()]
    return np.cumsum([0, *sizes[:-1]])
