"""The correction of a multistep step with the norms of three weighted sums of velocities: one pass over all vectors."""

from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function

from gradflow.kernels.procedures import intrinsic, procedure
from gradflow.kernels.registers import DOUBLE, INT, INT32, Emitter

LANES, BLOCK, SUMS = 8, 2, 3
"""Numbers in a vector, vectors of a block, sums taken of each."""
_SIGNATURE = types.void(*[types.int64] * 12, types.float64, types.float64)


def _correction(lanes, vectors):
    """Intrinsic: the whole pass, by blocks of `vectors` vectors of `lanes` numbers; at least `lanes` entries."""

    def generate(context, builder, signature, values):
        size, count, table, next_weights, places, rows, row_step, y, p, atol, out, norms, gain, rtol = values
        emit = Emitter(builder, lanes)
        gain, rtol, one = emit.spread(gain), emit.spread(rtol), emit.constant(DOUBLE, [1.0] * lanes)
        lane, last = emit.constant(INT, list(range(lanes))), builder.sub(size, INT(lanes))
        kinds = {"fabs": [emit.vector], "maxnum": [emit.vector] * 2}
        magnitude, larger = (
            get_or_insert_function(builder.module, ir.FunctionType(emit.vector, kind), f"llvm.{name}.v{lanes}f64")
            for name, kind in kinds.items()
        )

        def weighted_sums(starts):
            """Three sums over the rows for vectors that begin at `starts`, sum by sum."""

            def body(l, totals):
                number = builder.load(builder.inttoptr(emit.at(places, l), INT.as_pointer()))
                row = emit.at(rows, builder.mul(number, row_step))
                entries = [emit.load(emit.at(row, start)) for start in starts]
                shifts = [builder.mul(next_weights, INT(j)) for j in range(SUMS)]
                factors = [emit.spread(emit.number(emit.at(table, l, shift))) for shift in shifts]
                pairs = ((factor, entry) for factor in factors for entry in entries)
                return [emit.multiply_add(*pair, total) for pair, total in zip(pairs, totals, strict=True)]

            return emit.loop(count, 1, emit.zeros(SUMS * len(starts)), body)

        def add(starts, totals, fresh=None):
            """Correct vectors, and add the squares of their entries, in lanes that are `fresh`, to the totals."""
            sums = weighted_sums(starts)
            for i, start in enumerate(starts):
                here, there, floor = (emit.load(emit.at(vector, start)) for vector in (y, p, atol))
                sizes = [builder.call(magnitude, [vector]) for vector in (here, there)]
                inverse = builder.fdiv(one, emit.multiply_add(rtol, builder.call(larger, sizes), floor))
                low, middle, high = sums[i :: len(starts)]
                emit.store(emit.multiply_add(gain, middle, there), emit.at(out, start))
                terms = [*(builder.fmul(value, inverse) for value in (low, middle, high)), here, middle]
                if fresh is not None:
                    terms = [builder.select(fresh, term, *emit.zeros(1)) for term in terms]
                totals = [emit.multiply_add(term, term, total) for term, total in zip(terms, totals, strict=True)]
            return totals

        def block(k, totals):
            return add([builder.add(k, INT(i * lanes)) for i in range(vectors)], totals)

        def tail(k, totals):
            place = builder.add(whole, k)
            start = builder.select(builder.icmp_signed("<", place, last), place, last)
            return add([start], totals, builder.icmp_signed(">=", lane, emit.spread(builder.sub(place, start))))

        whole = builder.sub(size, builder.srem(size, INT(lanes * vectors)))
        totals = emit.loop(whole, lanes * vectors, emit.zeros(5), block)
        totals = emit.loop(builder.sub(size, whole), lanes, totals, tail)
        each = [(total, INT32(0)) for total in totals]
        if lanes > 1:
            each = [(emit.sum_each(totals), INT32(i)) for i in range(len(totals))]
        for i, place in enumerate(each):
            emit.store(builder.extract_element(*place), emit.at(norms, INT(i)))
        return context.get_dummy_value()

    @intrinsic
    def run(typing_context, size, count, table, shift, places, rows, row_step, y, p, atol, out, norms, gain, rtol):
        return _SIGNATURE, generate

    return run


_wide, _single = _correction(LANES, BLOCK), _correction(1, 1)


@procedure(_SIGNATURE)
def correct_rows(size, count, table, next_weights, places, rows, row_step, y, p, atol, out, norms, gain, rtol):
    """out = p + gain d[1], and five sums of squares: of d[0], d[1], d[2] over tolerances, of y, and of d[1].

    d[j] is the sum over l < count of the weights ``table[j * next_weights + l]`` times ``rows[places[l]]``; an entry's
    tolerance is atol + rtol max(|y|, |p|). The last vector is moved back to end with the others.
    """
    if size >= LANES:
        _wide(size, count, table, next_weights, places, rows, row_step, y, p, atol, out, norms, gain, rtol)
    else:
        _single(size, count, table, next_weights, places, rows, row_step, y, p, atol, out, norms, gain, rtol)
