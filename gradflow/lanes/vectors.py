"""Arithmetic on arrays of eight runs side by side: entry i of run l is number 8 i + l.

Arrays are known by address, as in :mod:`gradflow.kernels.matrices`. A lane never depends on what the others hold, and
its result not on which lane it is.
"""

from llvmlite import ir
from numba import njit, types

from gradflow.kernels.procedures import EXACT, integer_view, integers, intrinsic, procedure, view
from gradflow.kernels.registers import INT, Emitter, generator, wide_registers

LANES = 8
"""Fixed, since compiled code in other files holds it; processors with shorter vectors use several."""
BYTES = 8 * LANES


def _strides(emit, step, count):
    """Multiples of a step, in numbers."""
    return [emit.builder.mul(INT(i), step) for i in range(count)]


def _tile(rows, cols, shared):
    """Intrinsic: a block of C = A B for each lane, steps in entries; B has one number for all lanes if `shared`."""

    def emit_tile(builder, inner, a, row_step, a_step, b, b_step, column_step, c, c_step):
        emit = Emitter(builder, LANES)
        row_step, a_step, c_step = (builder.mul(step, INT(LANES)) for step in (row_step, a_step, c_step))
        if not shared:
            b_step, column_step = (builder.mul(step, INT(LANES)) for step in (b_step, column_step))
        left = [emit.at(a, offset) for offset in _strides(emit, row_step, rows)]
        right = [emit.at(b, offset) for offset in _strides(emit, column_step, cols)]

        def body(k, sums):
            across, down = builder.mul(k, a_step), builder.mul(k, b_step)
            places = [emit.at(start, down) for start in right]
            columns = [emit.spread(emit.number(place)) if shared else emit.load(place) for place in places]
            entries = [emit.load(emit.at(start, across)) for start in left]
            pairs = ((x, y) for x in entries for y in columns)
            return [emit.multiply_add(x, y, s) for (x, y), s in zip(pairs, sums, strict=True)]

        sums = emit.loop(inner, 1, emit.zeros(rows * cols), body)
        for i in range(rows):
            for j in range(cols):
                emit.store(sums[i * cols + j], emit.at(c, builder.mul(INT(i), c_step), INT(j * LANES)))

    @intrinsic
    def tile(typing_context, inner, a, row_step, a_step, b, b_step, column_step, c, c_step):
        return generator(9, emit_tile)

    return tile


_2_5, _1_5, _5_1, _1_1 = (_tile(rows, cols, False) for rows, cols in ((2, 5), (1, 5), (5, 1), (1, 1)))
_2_5_shared, _1_10_shared, _1_5_shared, _5_1_shared, _1_1_shared = (
    _tile(rows, cols, True) for rows, cols in ((2, 5), (1, 10), (1, 5), (5, 1), (1, 1))
)


@njit(**EXACT)
def _block(height, width, inner, a, row_step, a_step, b, b_step, column_step, c, c_step):
    if width == 5 and height == 2:
        _2_5(inner, a, row_step, a_step, b, b_step, column_step, c, c_step)
    elif width == 5:
        _1_5(inner, a, row_step, a_step, b, b_step, column_step, c, c_step)
    elif height == 5:
        _5_1(inner, a, row_step, a_step, b, b_step, column_step, c, c_step)
    else:
        _1_1(inner, a, row_step, a_step, b, b_step, column_step, c, c_step)


@njit(**EXACT)
def _block_shared(height, width, inner, a, row_step, a_step, b, b_step, column_step, c, c_step):
    if width == 5 and height == 2:
        _2_5_shared(inner, a, row_step, a_step, b, b_step, column_step, c, c_step)
    elif width == 10:
        _1_10_shared(inner, a, row_step, a_step, b, b_step, column_step, c, c_step)
    elif width == 5:
        _1_5_shared(inner, a, row_step, a_step, b, b_step, column_step, c, c_step)
    elif height == 5:
        _5_1_shared(inner, a, row_step, a_step, b, b_step, column_step, c, c_step)
    else:
        _1_1_shared(inner, a, row_step, a_step, b, b_step, column_step, c, c_step)


@procedure(integers(11))
def _multiply(shared, rows, cols, inner, a, row_step, a_step, b, b_step, column_step, c):
    """Block by block; the last blocks are moved back into C."""
    height, width = 1, 1
    if cols >= 5:
        height, width = min(rows, 2) if wide_registers() else 1, 5
        if shared and rows == 1 and cols >= 10:
            width = 10
    elif rows >= 5:
        height = 5
    i = 0
    while i < rows:
        i = min(i, rows - height)
        j = 0
        while j < cols:
            j = min(j, cols - width)
            s, place = a + BYTES * i * row_step, c + BYTES * (i * cols + j)
            if shared:
                t = b + 8 * j * column_step
                _block_shared(height, width, inner, s, row_step, a_step, t, b_step, column_step, place, cols)
            else:
                t = b + BYTES * j * column_step
                _block(height, width, inner, s, row_step, a_step, t, b_step, column_step, place, cols)
            j += width
        i += height


@njit(**EXACT)
def multiply(rows, cols, inner, a, row_step, a_step, b, b_step, column_step, c):
    """C = A B lane by lane; A[i, k] is entry i row_step + k a_step, B[k, j] entry k b_step + j column_step."""
    _multiply(0, rows, cols, inner, a, row_step, a_step, b, b_step, column_step, c)


@njit(**EXACT)
def multiply_shared(rows, cols, inner, a, row_step, a_step, b, b_step, column_step, c):
    """The same with one matrix B for all lanes."""
    _multiply(1, rows, cols, inner, a, row_step, a_step, b, b_step, column_step, c)


@intrinsic
def _dot(typing_context, count, a, b, out):
    def emit_dot(builder, count, a, b, out):
        emit = Emitter(builder, LANES)
        whole = builder.and_(count, INT(-4))

        def products(start, sums):
            places = [builder.mul(builder.add(start, INT(i)), INT(LANES)) for i in range(len(sums))]
            pairs = [(emit.load(emit.at(a, place)), emit.load(emit.at(b, place))) for place in places]
            return [emit.multiply_add(x, y, s) for (x, y), s in zip(pairs, sums, strict=True)]

        first, second, third, fourth = emit.loop(whole, 4, emit.zeros(4), products)
        total = builder.fadd(builder.fadd(first, second), builder.fadd(third, fourth))
        rest = builder.sub(count, whole)
        (total,) = emit.loop(rest, 1, [total], lambda k, sums: products(builder.add(whole, k), sums))
        emit.store(total, out)

    return generator(4, emit_dot)


@procedure(integers(4))
def dot(count, a, b, out):
    """Scalar product of two vectors of `count` entries, lane by lane."""
    _dot(count, a, b, out)


@intrinsic
def _add_entry(typing_context, source, target):
    def emit_sum(builder, source, target):
        emit = Emitter(builder, LANES)
        emit.store(builder.fadd(emit.load(target), emit.load(source)), target)

    return generator(2, emit_sum)


@procedure(integers(4))
def add_to_rows(rows, cols, column, a):
    """Add entry i of a column to all entries of row i of A, lane by lane."""
    for i in range(rows):
        for j in range(cols):
            _add_entry(column + BYTES * i, a + BYTES * (i * cols + j))


@procedure(integers(4))
def sum_rows(rows, cols, a, out):
    """Sum of each row of A, lane by lane."""
    for i in range(rows):
        total = view(out + BYTES * i, LANES)
        for lane in range(LANES):
            total[lane] = 0.0
        for j in range(cols):
            _add_entry(a + BYTES * (i * cols + j), out + BYTES * i)


def _weighted_sums(emit, count, weights, places, stages, stage_step, offsets, each=False):
    """Sums over l of weights[l] K[places[l]], for entries at offsets within a stage; weights by lane if `each`."""
    builder = emit.builder
    stage_step = builder.mul(stage_step, INT(LANES))

    def body(l, sums):
        own = emit.at(weights, builder.mul(l, INT(LANES)))
        weight = emit.load(own) if each else emit.spread(emit.number(emit.at(weights, l)))
        number = builder.load(builder.inttoptr(emit.at(places, l), INT.as_pointer()))
        stage = emit.at(stages, builder.mul(number, stage_step))
        return [emit.multiply_add(weight, emit.load(emit.at(stage, o)), s) for o, s in zip(offsets, sums, strict=True)]

    return emit.loop(count, 1, emit.zeros(len(offsets)), body)


def _combination(width, each):
    """Intrinsic: base + scale * sum over l of weights[l] K[places[l]], for `width` entries from one place on."""

    def emit_combination(builder, count, weights, places, stages, stage_step, scale, base, out, place):
        emit = Emitter(builder, LANES)
        offsets = [builder.mul(builder.add(place, INT(i)), INT(LANES)) for i in range(width)]
        sums = _weighted_sums(emit, count, weights, places, stages, stage_step, offsets, each)
        factor = emit.load(scale)
        for offset, total in zip(offsets, sums, strict=True):
            emit.store(emit.multiply_add(factor, total, emit.load(emit.at(base, offset))), emit.at(out, offset))

    @intrinsic
    def combination(typing_context, count, weights, places, stages, stage_step, scale, base, out, place):
        return generator(9, emit_combination)

    return combination


def _magnitude(builder, x):
    bits = builder.bitcast(x, ir.VectorType(INT, LANES))
    positive = builder.and_(bits, ir.Constant(bits.type, [2**63 - 1] * LANES))
    return builder.bitcast(positive, x.type)


def _larger(builder, a, b):
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _scaled(width):
    """Intrinsic: such sums over atol + rtol max(|y|, |u|), for `width` entries from one place on."""

    def emit_scaled(builder, count, weights, places, stages, stage_step, atol, rtol, y, u, out, place):
        emit = Emitter(builder, LANES)
        offsets = [builder.mul(builder.add(place, INT(i)), INT(LANES)) for i in range(width)]
        sums = _weighted_sums(emit, count, weights, places, stages, stage_step, offsets)
        absolute, relative = emit.load(atol), emit.spread(emit.number(rtol))
        for offset, total in zip(offsets, sums, strict=True):
            before, after = (emit.load(emit.at(state, offset)) for state in (y, u))
            largest = _larger(builder, _magnitude(builder, before), _magnitude(builder, after))
            tolerance = emit.multiply_add(relative, largest, absolute)
            emit.store(builder.fdiv(total, tolerance), emit.at(out, offset))

    @intrinsic
    def scaled(typing_context, count, weights, places, stages, stage_step, atol, rtol, y, u, out, place):
        return generator(11, emit_scaled)

    return scaled


@intrinsic
def _largest(typing_context, count, a, out):
    def emit_largest(builder, count, a, out):
        emit = Emitter(builder, LANES)
        whole = builder.and_(count, INT(-4))

        def larger(start, found):
            places = [builder.mul(builder.add(start, INT(i)), INT(LANES)) for i in range(len(found))]
            numbers = [_magnitude(builder, emit.load(emit.at(a, place))) for place in places]
            return [_larger(builder, x, y) for x, y in zip(numbers, found, strict=True)]

        first, second, third, fourth = emit.loop(whole, 4, emit.zeros(4), larger)
        total = _larger(builder, _larger(builder, first, second), _larger(builder, third, fourth))
        rest = builder.sub(count, whole)
        (total,) = emit.loop(rest, 1, [total], lambda k, found: larger(builder.add(whole, k), found))
        emit.store(total, out)

    return generator(3, emit_largest)


@procedure(integers(3))
def largest(count, a, out):
    """Largest magnitude among `count` entries, lane by lane; what is not a number is passed over."""
    _largest(count, a, out)


_combine_8, _combine_1 = _combination(8, False), _combination(1, False)
_combine_each_8, _combine_each_1 = _combination(8, True), _combination(1, True)
_scale_8, _scale_1 = _scaled(8), _scaled(1)


@procedure(integers(9))
def combine(size, count, weights, places, stages, stage_step, scale, base, out):
    """out = base + scale * sum over l of weights[l] K[places[l]] for vectors of `size` entries; out is not base."""
    width = 8 if size >= 8 else 1
    i = 0
    while i < size:
        i = min(i, size - width)
        if width == 8:
            _combine_8(count, weights, places, stages, stage_step, scale, base, out, i)
        else:
            _combine_1(count, weights, places, stages, stage_step, scale, base, out, i)
        i += width


@procedure(integers(9))
def combine_each(size, count, weights, places, stages, stage_step, scale, base, out):
    """The same with weights of its own for each lane."""
    width = 8 if size >= 8 else 1
    i = 0
    while i < size:
        i = min(i, size - width)
        if width == 8:
            _combine_each_8(count, weights, places, stages, stage_step, scale, base, out, i)
        else:
            _combine_each_1(count, weights, places, stages, stage_step, scale, base, out, i)
        i += width


@procedure(integers(11))
def scale_errors(size, count, weights, places, stages, stage_step, atol, rtol, y, u, out):
    """out = sum over l of weights[l] K[places[l]] over atol + rtol max(|y|, |u|); atol by lane, rtol one number."""
    width = 8 if size >= 8 else 1
    i = 0
    while i < size:
        i = min(i, size - width)
        if width == 8:
            _scale_8(count, weights, places, stages, stage_step, atol, rtol, y, u, out, i)
        else:
            _scale_1(count, weights, places, stages, stage_step, atol, rtol, y, u, out, i)
        i += width


@intrinsic
def _choose_entry(typing_context, mask, source, target):
    def emit_choice(builder, mask, source, target):
        emit = Emitter(builder, LANES)
        chosen = builder.fcmp_ordered("!=", emit.load(mask), emit.zeros(1)[0])
        emit.store(builder.select(chosen, emit.load(source), emit.load(target)), target)

    return generator(3, emit_choice)


@procedure(integers(4))
def move(size, mask, source, target):
    """target = source in the lanes whose mask is not 0."""
    for i in range(size):
        _choose_entry(mask, source + BYTES * i, target + BYTES * i)


@njit(**EXACT)
def put(size, lane, values, target):
    """Write a vector of numbers into one lane."""
    values, target = view(values, size), view(target, LANES * size)
    for i in range(size):
        target[LANES * i + lane] = values[i]


@njit(**EXACT)
def take(size, lane, source, values):
    """Read one lane into a vector of numbers."""
    source, values = view(source, LANES * size), view(values, size)
    for i in range(size):
        values[i] = source[LANES * i + lane]


@procedure(integers(3))
def spread_out(size, source, rows):
    """Write each lane to the vector whose address stands in `rows`."""
    source, rows = view(source, LANES * size), integer_view(rows, LANES)
    for i in range(size):
        for lane in range(LANES):
            view(rows[lane] + 8 * i, 1)[0] = source[LANES * i + lane]


@intrinsic
def take_number(typing_context, counter):
    """Value of a counter at an address, which moves on by one; threads never get the same."""

    def generate(context, builder, signature, values):
        pointer = builder.inttoptr(values[0], INT.as_pointer())
        return builder.atomic_rmw("add", pointer, ir.Constant(INT, 1), "monotonic")

    return types.int64(types.int64), generate
