"""Weighted sums of the rows of a matrix, such as the stages of a step: one pass, the sums held in vector registers."""

from numba import types

from gradflow.kernels.procedures import intrinsic, procedure
from gradflow.kernels.registers import INT, Emitter

LANES, BLOCK = 8, 4
"""Numbers in a vector, and vectors in a block; processors with shorter vectors use several for one."""


def _sum(lanes, vectors, based):
    """Intrinsic: scale * sum over l of weights[l] rows[places[l]], with a base or without, for a block of entries."""

    def generate(context, builder, signature, values):
        count, weights, places, rows, row_step, base, out, first, scale = values
        emit = Emitter(builder, lanes)
        offsets = [builder.add(first, INT(i * lanes)) for i in range(vectors)]

        def body(l, totals):
            weight = emit.spread(emit.number(emit.at(weights, l)))
            number = builder.load(builder.inttoptr(emit.at(places, l), INT.as_pointer()))
            row = emit.at(rows, builder.mul(number, row_step))
            entries = [emit.load(emit.at(row, offset)) for offset in offsets]
            return [emit.multiply_add(weight, entry, total) for entry, total in zip(entries, totals, strict=True)]

        factor = emit.spread(scale)
        totals = emit.loop(count, 1, emit.zeros(vectors), body)
        for offset, total in zip(offsets, totals, strict=True):
            if based:
                total = emit.multiply_add(factor, total, emit.load(emit.at(base, offset)))
            else:
                total = builder.fmul(factor, total)
            emit.store(total, emit.at(out, offset))
        return context.get_dummy_value()

    @intrinsic
    def block(typing_context, count, weights, places, rows, row_step, base, out, first, scale):
        return types.void(*[types.int64] * 8, types.float64), generate

    return block


_long, _short, _single = (_sum(lanes, vectors, True) for lanes, vectors in ((LANES, BLOCK), (LANES, 1), (1, 1)))
_long_alone, _short_alone, _single_alone = (
    _sum(lanes, vectors, False) for lanes, vectors in ((LANES, BLOCK), (LANES, 1), (1, 1))
)
_SIGNATURE = types.void(*[types.int64] * 8, types.float64)


@procedure(_SIGNATURE)
def add_rows(size, count, weights, places, rows, row_step, base, out, scale):
    """out = base + scale * sum over l of weights[l] rows[places[l]], `size` entries each; out is none of them.

    The last block is moved back to end with the vector, and repeats a few entries.
    """
    width = LANES * BLOCK if size >= LANES * BLOCK else LANES if size >= LANES else 1
    i = 0
    while i < size:
        i = min(i, size - width)
        if width == LANES * BLOCK:
            _long(count, weights, places, rows, row_step, base, out, i, scale)
        elif width == LANES:
            _short(count, weights, places, rows, row_step, base, out, i, scale)
        else:
            _single(count, weights, places, rows, row_step, base, out, i, scale)
        i += width


@procedure(_SIGNATURE)
def sum_rows(size, count, weights, places, rows, row_step, base, out, scale):
    """The same without the base."""
    width = LANES * BLOCK if size >= LANES * BLOCK else LANES if size >= LANES else 1
    i = 0
    while i < size:
        i = min(i, size - width)
        if width == LANES * BLOCK:
            _long_alone(count, weights, places, rows, row_step, base, out, i, scale)
        elif width == LANES:
            _short_alone(count, weights, places, rows, row_step, base, out, i, scale)
        else:
            _single_alone(count, weights, places, rows, row_step, base, out, i, scale)
        i += width
