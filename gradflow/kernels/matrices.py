"""Products of small matrices in vector registers, for compiled functions that know their arrays by address.

Matrices are row by row, float64, each given as the integer address of its first entry, so that no array object has to
be made on the way. Blocks of the result are kept in registers. Large products go to BLAS.
"""

import numpy as np
from numba import types

from gradflow.kernels.procedures import integers, intrinsic, matrix, procedure, view
from gradflow.kernels.registers import INT, INT32, Emitter, generator, wide_registers

BLAS_FROM = 12_000_000
"""Multiplications from which BLAS, which packs its operands, is faster than blocks in registers."""


def _tile(rows, vectors, lanes, parts=1):
    """Intrinsic: `rows` rows and `vectors` vectors of columns of C = A B + A2 B2; the last vectors stay inside C.

    Each sum is taken in `parts` parts, added at the end: a lone row has too few sums to keep the processor busy.
    """

    def emit_tile(builder, inner, a, row_step, inner_step, b, c, cols, column, inner2, a2, b2):
        emit = Emitter(builder, lanes)
        last = builder.sub(cols, INT(lanes))
        places = [builder.add(column, INT(v * lanes)) for v in range(vectors)]
        places = [builder.select(builder.icmp_signed("<", place, last), place, last) for place in places]

        def add_product(inner, a, b, sums):
            starts = [emit.at(a, builder.mul(INT(i), row_step)) for i in range(rows)]

            def body(k, sums):
                row, along = emit.at(b, builder.mul(k, cols)), builder.mul(k, inner_step)
                right = [emit.load(emit.at(row, place)) for place in places]
                left = [emit.spread(emit.number(emit.at(start, along))) for start in starts]
                pairs = ((x, y) for x in left for y in right)
                return [emit.multiply_add(x, y, s) for (x, y), s in zip(pairs, sums, strict=True)]

            if parts == 1:
                return emit.loop(inner, 1, sums, body)
            return emit.in_parts(parts, inner, sums, body)

        sums = add_product(inner2, a2, b2, add_product(inner, a, b, emit.zeros(rows * vectors)))
        for i in range(rows):
            for v in range(vectors):
                emit.store(sums[i * vectors + v], emit.at(c, builder.mul(INT(i), cols), places[v]))

    @intrinsic
    def tile(typing_context, inner, a, row_step, inner_step, b, c, cols, column, inner2, a2, b2):
        return generator(11, emit_tile)

    return tile


def _dot_tile(rows, cols, lanes):
    """Intrinsic: `rows` rows and `cols` columns of C = A B^T + A2 B2^T, for rows of at least `lanes` numbers.

    One column of as many rows as lanes is written as one vector: its numbers must follow one another.
    """

    def emit_tile(builder, inner, a, b, c, row_step, column_step, times2, a2, b2):
        emit = Emitter(builder, lanes)
        rest = builder.and_(inner, INT(lanes - 1))
        whole = builder.sub(inner, rest)
        some = builder.zext(builder.icmp_signed("!=", rest, INT(0)), INT)
        lane = emit.constant(INT, list(range(lanes)))
        fresh = builder.icmp_signed(">=", lane, emit.spread(builder.sub(INT(lanes), rest)))

        def add_product(times, a, b, sums):
            starts = [
                [emit.at(base, builder.mul(INT(i), inner)) for i in range(count)]
                for base, count in ((a, rows), (b, cols))
            ]

            def body(k, sums):
                left, right = ([emit.load(emit.at(start, k)) for start in side] for side in starts)
                pairs = ((x, y) for x in left for y in right)
                return [emit.multiply_add(x, y, s) for (x, y), s in zip(pairs, sums, strict=True)]

            def tail(_, sums):
                new = body(builder.sub(inner, INT(lanes)), sums)
                return [builder.select(fresh, n, s) for n, s in zip(new, sums, strict=True)]

            sums = emit.loop(builder.mul(whole, times), lanes, sums, body)
            return emit.loop(builder.mul(some, times), 1, sums, tail)

        sums = add_product(times2, a2, b2, add_product(INT(1), a, b, emit.zeros(rows * cols)))
        if (rows, cols) == (lanes, 1):
            emit.store(emit.sum_each(sums), c)
            return
        for i in range(rows * cols):
            if i % lanes == 0:
                totals = emit.sum_each(sums[i : i + lanes])
            row, column = (builder.mul(INT(i // cols), row_step), builder.mul(INT(i % cols), column_step))
            emit.store(builder.extract_element(totals, INT32(i % lanes)), emit.at(c, row, column))

    @intrinsic
    def tile(typing_context, inner, a, b, c, row_step, column_step, times2, a2, b2):
        return generator(9, emit_tile)

    return tile


_block_8, _half_8, _row_8 = _tile(4, 2, 8), _tile(4, 1, 8), _tile(1, 4, 8)
_block_4, _row_4 = _tile(4, 2, 4), _tile(1, 2, 4)
_long_row, _short_row, _tall_dots = _tile(1, 4, 8, 2), _tile(1, 1, 8, 8), _dot_tile(8, 1, 8)
panel_16, panel_8 = _block_8, _half_8
"""Panels of 4 rows and 16 or 8 columns of C = A B + A2 B2, for other modules."""
_dots_16, _dots_8, _dots_4, _dot = _dot_tile(4, 4, 8), _dot_tile(4, 2, 4), _dot_tile(4, 1, 4), _dot_tile(1, 1, 4)


@procedure(integers(3))
def add(count, target, source):
    """target += source, for `count` numbers."""
    target, source = view(target, count), view(source, count)
    for i in range(count):
        target[i] += source[i]


@procedure(types.float64(types.int64, types.float64, types.int64, types.int64, types.int64))
def add_penalty(size, decay, theta, v, out):
    """Value of decay |theta|^2; its second derivative times v is added to out."""
    if decay == 0.0:
        return 0.0
    theta, v, out = view(theta, size), view(v, size), view(out, size)
    total = 0.0
    for i in range(size):
        total += theta[i] * theta[i]
        out[i] += 2.0 * decay * v[i]
    return decay * total


@procedure(integers(4))
def add_to_rows(rows, cols, a, column):
    """Add one number to all entries of each row of A."""
    column = view(column, rows)
    for i in range(rows):
        row, number = view(a + 8 * i * cols, cols), column[i]
        for j in range(cols):
            row[j] += number


@procedure(integers(4))
def sum_rows(rows, cols, a, out):
    """Sum of each row of A."""
    out = view(out, rows)
    for i in range(rows):
        row, total = view(a + 8 * i * cols, cols), 0.0
        for j in range(cols):
            total += row[j]
        out[i] = total


@procedure(integers(12))
def _plain(rows, cols, inner, a, row_step, inner_step, b, b_row_step, b_step, c, a2, b2):
    """C = A B, plus A2 B2 unless a2 is 0, entry by entry."""
    for i in range(rows):
        for j in range(cols):
            total = 0.0
            for k in range(inner):
                s, t = 8 * (i * row_step + k * inner_step), 8 * (k * b_row_step + j * b_step)
                total += view(a + s, 1)[0] * view(b + t, 1)[0]
                if a2:
                    total += view(a2 + s, 1)[0] * view(b2 + t, 1)[0]
            view(c + 8 * (i * cols + j), 1)[0] = total


@procedure(integers(11))
def _sweep(rows, cols, inner, a, row_step, inner_step, b, c, inner2, a2, b2):
    """C = A B + A2 B2 for at least 4 columns, block by block."""
    many = cols >= 8
    j = 0
    while j < cols:
        if rows < 4:
            for i in range(rows):
                s, place = 8 * i * row_step, c + 8 * i * cols
                if many:
                    _row_8(inner, a + s, row_step, inner_step, b, place, cols, j, inner2, a2 + s, b2)
                else:
                    _row_4(inner, a + s, row_step, inner_step, b, place, cols, j, inner2, a2 + s, b2)
            j += 32
            continue
        double = wide_registers() and j + 8 < cols
        i = 0
        while i < rows:
            i = min(i, rows - 4)
            s, place = 8 * i * row_step, c + 8 * i * cols
            if double:
                _block_8(inner, a + s, row_step, inner_step, b, place, cols, j, inner2, a2 + s, b2)
            elif many:
                _half_8(inner, a + s, row_step, inner_step, b, place, cols, j, inner2, a2 + s, b2)
            else:
                _block_4(inner, a + s, row_step, inner_step, b, place, cols, j, inner2, a2 + s, b2)
            i += 4
        j += 16 if double else 8


@procedure(integers(11))
def _sweep_dots(rows, cols, inner, a, b, c, row_step, column_step, times2, a2, b2):
    """C = A B^T + A2 B2^T for at least 4 rows, rows of A and B of at least 4 numbers."""
    wide = wide_registers() and inner >= 8 and cols >= 4
    width = 4 if wide else min(cols, 2)
    j = 0
    while j < cols:
        j = min(j, cols - width)
        t = 8 * j * inner
        i = 0
        while i < rows:
            i = min(i, rows - 4)
            s, place = 8 * i * inner, c + 8 * (i * row_step + j * column_step)
            if wide:
                _dots_16(inner, a + s, b + t, place, row_step, column_step, times2, a2 + s, b2 + t)
            elif width == 2:
                _dots_8(inner, a + s, b + t, place, row_step, column_step, times2, a2 + s, b2 + t)
            else:
                _dots_4(inner, a + s, b + t, place, row_step, column_step, times2, a2 + s, b2 + t)
            i += 4
        j += width


@procedure(integers(9))
def _sweep_row(cols, inner, a, step, b, c, inner2, a2, b2):
    """The same for one row and at least 8 columns, with wide registers; the numbers of the row lie `step` apart."""
    j = 0
    while j < cols:
        if cols - j > 8:
            _long_row(inner, a, 0, step, b, c, cols, j, inner2, a2, b2)
        else:
            _short_row(inner, a, 0, step, b, c, cols, j, inner2, a2, b2)
        j += 32


@procedure(integers(8))
def _sweep_column(rows, inner, a, b, c, times2, a2, b2):
    """The same for at least 8 rows and one column, with wide registers; rows of at least 8 numbers."""
    i = 0
    while i < rows:
        i = min(i, rows - 8)
        s = 8 * i * inner
        _tall_dots(inner, a + s, b, c + 8 * i, 1, 1, times2, a2 + s, b2)
        i += 8


@procedure(integers(10))
def _multiply(rows, cols, inner, a, row_step, inner_step, b, c, a2, b2):
    if rows == 1 and cols >= 8 and wide_registers():
        _sweep_row(cols, inner, a, inner_step, b, c, inner if a2 else 0, a2, b2)
    elif cols >= 4:
        _sweep(rows, cols, inner, a, row_step, inner_step, b, c, inner if a2 else 0, a2, b2)
    else:
        _plain(rows, cols, inner, a, row_step, inner_step, b, cols, 1, c, a2, b2)


@procedure(integers(8))
def _multiply_nt(rows, cols, inner, a, b, c, a2, b2):
    times2 = 1 if a2 else 0
    if inner < 4:
        _plain(rows, cols, inner, a, inner, 1, b, 1, inner, c, a2, b2)
    elif cols == 1 and rows >= 8 and inner >= 8 and wide_registers():
        _sweep_column(rows, inner, a, b, c, times2, a2, b2)
    elif rows == 1 and cols >= 8 and inner >= 8 and wide_registers():
        _sweep_column(cols, inner, b, a, c, times2, b2, a2)
    elif rows >= 4:
        _sweep_dots(rows, cols, inner, a, b, c, cols, 1, times2, a2, b2)
    elif cols >= 4:
        _sweep_dots(cols, rows, inner, b, a, c, 1, cols, times2, b2, a2)
    else:
        for i in range(rows):
            for j in range(cols):
                s, t = 8 * i * inner, 8 * j * inner
                _dot(inner, a + s, b + t, c + 8 * (i * cols + j), 0, 0, times2, a2 + s, b2 + t)


@procedure(integers(9))
def _large(rows, cols, inner, a, b, c, a2, b2, spare):
    """C = A B, plus A2 B2 unless a2 is 0, by BLAS."""
    np.dot(matrix(a, rows, inner), matrix(b, inner, cols), matrix(c, rows, cols))
    if a2:
        np.dot(matrix(a2, rows, inner), matrix(b2, inner, cols), matrix(spare, rows, cols))
        add(rows * cols, c, spare)


@procedure(integers(9))
def _large_tn(rows, cols, inner, a, b, c, a2, b2, spare):
    """C = A^T B, plus A2^T B2 unless a2 is 0, by BLAS."""
    np.dot(matrix(a, inner, rows).T, matrix(b, inner, cols), matrix(c, rows, cols))
    if a2:
        np.dot(matrix(a2, inner, rows).T, matrix(b2, inner, cols), matrix(spare, rows, cols))
        add(rows * cols, c, spare)


@procedure(integers(9))
def _large_nt(rows, cols, inner, a, b, c, a2, b2, spare):
    """C = A B^T, plus A2 B2^T unless a2 is 0, by BLAS."""
    np.dot(matrix(a, rows, inner), matrix(b, cols, inner).T, matrix(c, rows, cols))
    if a2:
        np.dot(matrix(a2, rows, inner), matrix(b2, cols, inner).T, matrix(spare, rows, cols))
        add(rows * cols, c, spare)


@procedure(integers(9))
def multiply(rows, cols, inner, a, b, c, a2, b2, spare):
    """C = A B, plus A2 B2 unless a2 is 0; `spare` has room for C if a2 is not 0."""
    if rows * cols * inner > BLAS_FROM:
        _large(rows, cols, inner, a, b, c, a2, b2, spare)
    elif cols == 1:
        _multiply_nt(rows, 1, inner, a, b, c, a2, b2)
    else:
        _multiply(rows, cols, inner, a, inner, 1, b, c, a2, b2)


@procedure(integers(9))
def multiply_tn(rows, cols, inner, a, b, c, a2, b2, spare):
    """C = A^T B, plus A2^T B2 unless a2 is 0; A has `inner` rows."""
    if rows * cols * inner > BLAS_FROM:
        _large_tn(rows, cols, inner, a, b, c, a2, b2, spare)
    elif cols == 1:
        _multiply(1, rows, inner, b, inner, 1, a, c, b2 if a2 else 0, a2)
    else:
        _multiply(rows, cols, inner, a, 1, rows, b, c, a2, b2)


@procedure(integers(9))
def multiply_nt(rows, cols, inner, a, b, c, a2, b2, spare):
    """C = A B^T, plus A2 B2^T unless a2 is 0; B has `inner` columns."""
    if rows * cols * inner > BLAS_FROM:
        _large_nt(rows, cols, inner, a, b, c, a2, b2, spare)
    elif inner == 1:
        _multiply(rows, cols, 1, a, 1, 1, b, c, a2, b2)
    else:
        _multiply_nt(rows, cols, inner, a, b, c, a2, b2)
