"""Vector arithmetic written straight into compiled code: registers that hold several numbers side by side."""

from llvmlite import ir
from numba import types

from gradflow.kernels.procedures import integers, intrinsic

DOUBLE, INT, INT32 = ir.DoubleType(), ir.IntType(64), ir.IntType(32)
CONTRACT = ("contract", "nsz")


@intrinsic
def wide_registers(typing_context):
    """Whether 32 vectors of 8 numbers fit in registers; the processor is part of the cache key of compiled code."""

    def generate(context, builder, signature, values):
        return context.get_constant(types.boolean, "+avx512f" in str(context.codegen().magic_tuple()))

    return types.boolean(), generate


class Emitter:
    """Writes vector arithmetic and loops into compiled code."""

    def __init__(self, builder, lanes):
        self.builder, self.lanes = builder, lanes
        self.vector = ir.VectorType(DOUBLE, lanes)

    def constant(self, kind, values):
        """Vector of constants."""
        return ir.Constant(ir.VectorType(kind, self.lanes), values)

    def at(self, address, *offsets):
        """Address moved on by offsets counted in numbers."""
        for offset in offsets:
            address = self.builder.add(address, self.builder.shl(offset, INT(3)))
        return address

    def number(self, address):
        """Number at an address."""
        return self.builder.load(self.builder.inttoptr(address, DOUBLE.as_pointer()), align=8)

    def spread(self, value):
        """Vector with `value` in every lane."""
        empty = self.constant(value.type, ir.Undefined)
        one = self.builder.insert_element(empty, value, INT32(0))
        return self.builder.shuffle_vector(one, empty, self.constant(INT32, [0] * self.lanes))

    def load(self, address):
        """Vector at an address."""
        return self.builder.load(self.builder.inttoptr(address, self.vector.as_pointer()), align=8)

    def store(self, value, address):
        """Write a number or a vector."""
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer()), align=8)

    def multiply_add(self, a, b, c):
        """a b + c, rounded once where the processor can."""
        return self.builder.fadd(self.builder.fmul(a, b, flags=CONTRACT), c, flags=CONTRACT)

    def zeros(self, count):
        """As many vectors of zeros."""
        return [self.constant(DOUBLE, [0.0] * self.lanes)] * count

    def sum_each(self, vectors):
        """One vector; lane i is the sum of the lanes of vectors[i]."""
        lanes, shuffle = range(self.lanes), self.builder.shuffle_vector
        for width in [1, *[2] * (self.lanes.bit_length() - 2)]:
            first = [i - i % 2 + i % 2 * self.lanes if width == 1 else 2 * i - i % 2 for i in lanes]
            left, right = (self.constant(INT32, [i + shift for i in first]) for shift in (0, width))
            vectors = [*vectors, vectors[-1]] if len(vectors) % 2 else vectors
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [self.builder.fadd(shuffle(a, b, left), shuffle(a, b, right)) for a, b in pairs]
        return vectors[0]

    def loop(self, stop, step, carried, body):
        """Vectors after ``carried = body(k, carried)`` for k in range(0, stop, step)."""
        builder, before = self.builder, self.builder.block
        head, inside, after = (builder.append_basic_block(name) for name in ("head", "inside", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        variables = [builder.phi(INT), *(builder.phi(self.vector) for _ in carried)]
        for variable, value in zip(variables, [INT(0), *carried], strict=True):
            variable.add_incoming(value, before)
        builder.cbranch(builder.icmp_signed("<", variables[0], stop), inside, after)
        builder.position_at_end(inside)
        results = [builder.add(variables[0], INT(step)), *body(variables[0], variables[1:])]
        for variable, value in zip(variables, results, strict=True):
            variable.add_incoming(value, builder.block)
        builder.branch(head)
        builder.position_at_end(after)
        return variables[1:]

    def in_parts(self, parts, stop, sums, body):
        """Vectors after ``sums = body(k, sums)`` for k in range(0, stop), summed in parts that are added at the end."""
        builder, count = self.builder, len(sums)
        rest = builder.srem(stop, INT(parts))
        whole = builder.sub(stop, rest)

        def turn(k, carried):
            turns = [body(builder.add(k, INT(i)), carried[i * count : (i + 1) * count]) for i in range(parts)]
            return [total for totals in turns for total in totals]

        carried = self.loop(whole, parts, [*sums, *self.zeros((parts - 1) * count)], turn)
        sums = self.loop(rest, 1, carried[:count], lambda k, sums: body(builder.add(whole, k), sums))
        for i in range(1, parts):
            sums = [builder.fadd(a, b) for a, b in zip(sums, carried[i * count : (i + 1) * count], strict=True)]
        return sums


def generator(count, emit):
    """Signature and code generator of an intrinsic of `count` integers."""

    def generate(context, builder, signature, values):
        emit(builder, *values)
        return context.get_dummy_value()

    return integers(count), generate
