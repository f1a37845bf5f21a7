"""Weighted sums of the rows of a matrix, such as the stages of a step: one pass, the sums held in vector registers."""

from numba import types

from gradflow.kernels.procedures import integers, intrinsic, procedure
from gradflow.kernels.registers import INT, Emitter

LANES, BLOCK = 8, 4
"""Numbers in a vector, and vectors in a block; processors with shorter vectors use several for one."""


def _sum(lanes, vectors, based, sums=1):
    """Intrinsic: scale * sum over l of weights[l] rows[places[l]], with a base or without, for a block of entries.

    Several sums of the same rows are taken at once: the weights of each are `next_weights` numbers after those of the
    last, the results `next_out`.
    """

    def generate(context, builder, signature, values):
        count, weights, places, rows, row_step, base, out, first, scale, next_weights, next_out = values
        emit = Emitter(builder, lanes)
        offsets = [builder.add(first, INT(i * lanes)) for i in range(vectors)]
        numbered = [INT(j) for j in range(sums)]

        def body(l, totals):
            factors = [emit.spread(emit.number(emit.at(weights, l, builder.mul(next_weights, j)))) for j in numbered]
            number = builder.load(builder.inttoptr(emit.at(places, l), INT.as_pointer()))
            row = emit.at(rows, builder.mul(number, row_step))
            entries = [emit.load(emit.at(row, offset)) for offset in offsets]
            pairs = ((factor, entry) for factor in factors for entry in entries)
            return [emit.multiply_add(*pair, total) for pair, total in zip(pairs, totals, strict=True)]

        factor = emit.spread(scale)
        totals = emit.loop(count, 1, emit.zeros(vectors * sums), body)
        targets = [(offset, builder.mul(next_out, j)) for j in numbered for offset in offsets]
        for (offset, shift), total in zip(targets, totals, strict=True):
            if based:
                total = emit.multiply_add(factor, total, emit.load(emit.at(base, offset)))
            else:
                total = builder.fmul(factor, total)
            emit.store(total, emit.at(out, offset, shift))
        return context.get_dummy_value()

    @intrinsic
    def block(typing_context, count, weights, places, rows, row_step, base, out, first, scale, next_weights, next_out):
        return types.void(*[types.int64] * 8, types.float64, types.int64, types.int64), generate

    return block


_long, _short, _single = (_sum(lanes, vectors, True) for lanes, vectors in ((LANES, BLOCK), (LANES, 1), (1, 1)))
_long_alone, _short_alone, _single_alone = (
    _sum(lanes, vectors, False) for lanes, vectors in ((LANES, BLOCK), (LANES, 1), (1, 1))
)
_long_three, _short_three, _single_three = (
    _sum(lanes, vectors, False, sums=3) for lanes, vectors in ((LANES, 2), (LANES, 1), (1, 1))
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
            _long(count, weights, places, rows, row_step, base, out, i, scale, 0, 0)
        elif width == LANES:
            _short(count, weights, places, rows, row_step, base, out, i, scale, 0, 0)
        else:
            _single(count, weights, places, rows, row_step, base, out, i, scale, 0, 0)
        i += width


@procedure(_SIGNATURE)
def sum_rows(size, count, weights, places, rows, row_step, base, out, scale):
    """The same without the base."""
    width = LANES * BLOCK if size >= LANES * BLOCK else LANES if size >= LANES else 1
    i = 0
    while i < size:
        i = min(i, size - width)
        if width == LANES * BLOCK:
            _long_alone(count, weights, places, rows, row_step, base, out, i, scale, 0, 0)
        elif width == LANES:
            _short_alone(count, weights, places, rows, row_step, base, out, i, scale, 0, 0)
        else:
            _single_alone(count, weights, places, rows, row_step, base, out, i, scale, 0, 0)
        i += width


@procedure(integers(9))
def sum_rows_three(size, count, weights, places, rows, row_step, out, next_weights, next_out):
    """Three such sums of the same rows at once; weights and results of each lie so many numbers after the last."""
    step = 2 * LANES if size >= 2 * LANES else LANES if size >= LANES else 1
    i = 0
    while i < size:
        i = min(i, size - step)
        if step == 2 * LANES:
            _long_three(count, weights, places, rows, row_step, 0, out, i, 1.0, next_weights, next_out)
        elif step == LANES:
            _short_three(count, weights, places, rows, row_step, 0, out, i, 1.0, next_weights, next_out)
        else:
            _single_three(count, weights, places, rows, row_step, 0, out, i, 1.0, next_weights, next_out)
        i += step
