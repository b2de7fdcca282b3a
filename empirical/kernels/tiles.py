"""Matrix products of small matrices for one core: C = Σ AB, with what follows it done while C is in registers.

A tile of C, up to eight rows by four vectors, is summed in registers: each step along the inner dimension loads one
vector a column of B, broadcasts one number a row of A, and multiplies and adds them. Several products that lie evenly
apart can be summed, as a convolution asks for. Rows of B and C are contiguous and hold whole vectors; A may have any
strides, so that it can be a transpose. Every tile is a function in LLVM's
intermediate representation, since compilers do not keep such a block in registers by themselves. A sum is always made
in the order of the inner dimension: it has the same bits wherever in C it stands and whatever else is computed.

A third kind of tile multiplies a matrix and a vector for each example by itself, as attention asks for: a column is an
example, and where the others broadcast a number of A it loads those of the examples, which stand side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic


@dataclass(frozen=True)
class Registers:
    """Vector registers of a processor.

    Attributes:
        size: bytes of one.
        count: how many.
    """

    size: int
    count: int


def vector_registers() -> Registers | None:
    """Find out what the processor that Numba compiles for multiplies with.

    Returns:
        Its registers; ``None`` without fused multiply-add, which would become a call for each number.
    """
    told = config.CPU_FEATURES  # type: ignore[attr-defined]  # what Numba is told to compile for
    if told is None:
        features = {name for name, has in binding.get_host_cpu_features().items() if has}
    else:
        features = {name[1:] for name in told.split(",") if name.startswith("+")}
    if "avx512f" in features:
        return Registers(64, 32)
    if features >= {"avx2", "fma"}:
        return Registers(32, 16)
    if binding.get_process_triple().startswith(("aarch64", "arm64")):
        return Registers(16, 32)
    return None


REGISTERS = vector_registers() or Registers(16, 16)

STORE, RELU, GATE, ADD = (np.int64(mode) for mode in range(4))
"""What becomes of the product P: C = sP; C = max(P, 0); C = P where M > 0, else 0; C = C + sP.

A Python integer in a call would be a type of its own to Numba, and everything called would be compiled for each.
"""

FIRST, NEXT = np.int64(0), np.int64(1)
"""The place of the first entry, and the stride from one entry to the next, for the same reason."""

_I64, _I32 = ir.IntType(64), ir.IntType(32)


def lanes(itemsize: int) -> int:
    """Numbers in one vector.

    Args:
        itemsize: bytes of one.

    Returns:
        Their number.
    """
    return REGISTERS.size // itemsize


def widest() -> int:
    """Vectors a row of the widest tile."""
    return 4 if REGISTERS.count >= 32 else 2


def tallest(vectors: int) -> int:
    """Rows of the tallest tile: at least eight sums at once, to hide the latency of one, and as many as there is room.

    Args:
        vectors: a row of the tile.

    Returns:
        Their number, a power of two.
    """
    return 4 if vectors == widest() else 8


ONE, SEVERAL, EACH = range(3)
"""Kinds of tiles: of one product, of the sum of several, and of a product for each column by itself."""


def make_tile(rows: int, vectors: int, kind: int) -> Any:
    """Make one tile, to be called from compiled code.

    Args:
        rows: of C.
        vectors: a row of C.
        kind: ``ONE``, ``SEVERAL`` or ``EACH``; of one product calls are a little cheaper.

    Returns:
        ``tile(mode, scale, a, a_at, a_row, a_step, a_next, b, b_at, b_row, b_next, depth, count, c, c_at, c_row, m,
        m_at)``: flat arrays of one type; ``_at`` is the place of the first entry, ``_row`` the stride of a row,
        ``a_step`` that along the inner dimension, whose length is ``depth``, and ``_next`` that from one of the
        ``count`` products to the next, all in numbers. Depth and count are at least 1. M has the rows of C.
    """

    @intrinsic
    def tile(  # type: ignore[no-untyped-def]
        _typing, mode, scale, a, a_at, a_row, a_step, a_next, b, b_at, b_row, b_next, depth, count, c, c_at, c_row,
        m, m_at,
    ):  # fmt: skip
        n = types.intp
        signature = types.void(n, a.dtype, a, n, n, n, n, b, n, n, n, n, n, c, n, n, m, n)

        def generate(context, builder, signature, given):  # type: ignore[no-untyped-def]
            def address(place):  # type: ignore[no-untyped-def]
                array = context.make_array(signature.args[place])(context, builder, given[place])
                return builder.gep(array.data, [given[place + 1]])

            mode, scale, _, _, a_row, a_step, a_next, _, _, b_row, b_next, depth, count, _, _, c_row, _, _ = given
            number, shape = context.get_value_type(a.dtype), (rows, vectors)
            function = _tile_function(builder.module, number, a.dtype.bitwidth, shape, kind)
            pointers = [address(place) for place in (2, 7, 13, 16)]
            numbers = [mode, scale, a_row, a_step, b_row, depth, c_row]
            builder.call(function, [*pointers, *numbers, *([a_next, b_next, count] if kind == SEVERAL else [])])
            return context.get_dummy_value()

        return signature, generate

    return tile


def _tile_function(module: ir.Module, number: ir.Type, bits: int, shape: tuple[int, int], kind: int) -> ir.Function:
    """The tile as a function of the module, written at the first call."""
    rows, vectors = shape
    name = f"richscape_tile{kind}_{bits}_{rows}_{vectors}"
    if name in module.globals:
        return module.globals[name]
    width = lanes(bits // 8)
    vector, pointer = ir.VectorType(number, width), number.as_pointer()
    arguments = [pointer] * 4 + [_I64, number] + [_I64] * (8 if kind == SEVERAL else 5)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    a, b, c, m, mode, scale, a_row, a_step, b_row, depth, c_row, *more = function.args
    a_next, b_next, count = more if kind == SEVERAL else (_I64(0), _I64(0), _I64(1))
    fma = cgutils.get_or_insert_function(module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{width}f{bits}")
    zero, block = ir.Constant(vector, [0.0] * width), list(product(range(rows), range(vectors)))
    build = ir.IRBuilder(function.append_basic_block("entry"))

    def spread(value):  # type: ignore[no-untyped-def]
        undefined = ir.Constant(vector, ir.Undefined)
        first = build.insert_element(undefined, value, _I32(0))
        return build.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, width), [0] * width))

    def at(base, index):  # type: ignore[no-untyped-def]
        return build.bitcast(build.gep(base, [_I64(width * index)]), vector.as_pointer())

    def load(base, index):  # type: ignore[no-untyped-def]
        return build.load(at(base, index), align=bits // 8)

    entry = build.block
    starts = [build.mul(a_row, _I64(row)) for row in range(rows)]
    outer, loop, after, finish = (function.append_basic_block(name) for name in ("sum", "along", "next", "finish"))
    build.branch(outer)

    build.position_at_end(outer)
    left, factor, below_first = build.phi(_I64), build.phi(pointer), build.phi(pointer)
    kept = {place: build.phi(vector) for place in block}
    lines = [build.gep(factor, [start]) for start in starts]
    build.branch(loop)

    build.position_at_end(loop)
    step, below, offset = build.phi(_I64), build.phi(pointer), build.phi(_I64)
    sums = {place: build.phi(vector) for place in block}
    across = [load(below, column) for column in range(vectors)]
    here = [build.gep(line, [offset]) for line in lines]
    if kind == EACH:
        factors = {(i, j): load(here[i], j) for i, j in block}
    else:
        broadcast = [spread(build.load(number)) for number in here]
        factors = {(i, j): broadcast[i] for i, j in block}
    added = {(i, j): build.call(fma, [factors[i, j], across[j], sums[i, j]]) for i, j in block}
    following = build.sub(step, _I64(1)), build.gep(below, [b_row]), build.add(offset, a_step)
    for phi, first, later in zip((step, below, offset), (depth, below_first, _I64(0)), following, strict=True):
        phi.add_incoming(first, outer)
        phi.add_incoming(later, loop)
    for place, phi in sums.items():
        phi.add_incoming(kept[place], outer)
        phi.add_incoming(added[place], loop)
    build.cbranch(build.icmp_signed(">", following[0], _I64(0)), loop, after)

    build.position_at_end(after)
    following = build.sub(left, _I64(1)), build.gep(factor, [a_next]), build.gep(below_first, [b_next])
    for phi, first, later in zip((left, factor, below_first), (count, a, b), following, strict=True):
        phi.add_incoming(first, entry)
        phi.add_incoming(later, after)
    for place, phi in kept.items():
        phi.add_incoming(zero, entry)
        phi.add_incoming(added[place], after)
    build.cbranch(build.icmp_signed(">", following[0], _I64(0)), outer, finish)

    build.position_at_end(finish)
    otherwise = function.append_basic_block("otherwise")
    switch = build.switch(mode, otherwise)
    build.position_at_end(otherwise)
    build.unreachable()
    for case in (int(mode) for mode in (STORE, RELU, GATE, ADD)):
        build.position_at_end(function.append_basic_block(f"mode{case}"))
        switch.add_case(_I64(case), build.block)
        scales = spread(scale) if case in (STORE, ADD) else None
        for row in range(rows):
            here, gate = (build.gep(base, [build.mul(c_row, _I64(row))]) for base in (c, m))
            for column in range(vectors):
                value = added[row, column]
                if case == STORE:
                    value = build.fmul(scales, value)
                elif case == RELU:  # NaN stays NaN
                    value = build.select(build.fcmp_ordered("<", value, zero), zero, value)
                elif case == GATE:
                    value = build.select(build.fcmp_ordered("<=", load(gate, column), zero), zero, value)
                elif case == ADD:
                    value = build.call(fma, [scales, value, load(here, column)])
                build.store(value, at(here, column), align=bits // 8)
        build.ret_void()
    return function


@intrinsic
def turn_block(_typing, a, a_at, a_row, out, out_at, out_row):  # type: ignore[no-untyped-def]
    """Transpose a block as large as a vector is long: ``turn_block(a, a_at, a_row, out, out_at, out_row)``."""
    n = types.intp
    signature = types.void(a, n, n, out, n, n)

    def generate(context, builder, signature, given):  # type: ignore[no-untyped-def]
        number, bits = context.get_value_type(a.dtype), a.dtype.bitwidth
        width = lanes(bits // 8)
        vector = ir.VectorType(number, width)

        def row(place, stride, index):  # type: ignore[no-untyped-def]
            array = context.make_array(signature.args[place])(context, builder, given[place])
            start = builder.gep(array.data, [builder.add(given[place + 1], builder.mul(stride, _I64(index)))])
            return builder.bitcast(start, vector.as_pointer())

        rows = [builder.load(row(0, given[2], index), align=bits // 8) for index in range(width)]
        half = width // 2
        while half:  # the off-diagonal blocks of every square of twice this size change places
            for i in (i for i in range(width) if not i & half):
                upper, lower = rows[i], rows[i + half]
                first = [lane if not lane & half else width + lane - half for lane in range(width)]
                other = [lane + half if not lane & half else width + lane for lane in range(width)]
                rows[i], rows[i + half] = (
                    builder.shuffle_vector(upper, lower, ir.Constant(ir.VectorType(_I32, width), mask))
                    for mask in (first, other)
                )
            half //= 2
        for index, turned in enumerate(rows):
            builder.store(turned, row(3, given[5], index), align=bits // 8)
        return context.get_dummy_value()

    return signature, generate
