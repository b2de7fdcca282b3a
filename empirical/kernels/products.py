"""Products and transposes of small matrices of any size, for one core, out of tiles."""

from __future__ import annotations

from typing import Any

from numba import njit

from empirical.kernels.compiled import compiled
from empirical.kernels.tiles import EACH, FIRST, NEXT, ONE, REGISTERS, SEVERAL, make_tile, tallest, turn_block, widest


def _strip(vectors: int, kind: int) -> Any:
    """Columns of a product that one row of a tile spans: the tiles below each other, from the tallest on."""
    eight, four, two, one = (make_tile(rows, vectors, kind) for rows in (8, 4, 2, 1))
    most = tallest(vectors)

    @njit(inline="always")
    def strip(  # type: ignore[no-untyped-def]
        mode, scale, a, a_at, a_row, a_step, a_next, b, b_at, b_row, b_next, rows, depth, count, c, c_at, c_row,
        m, m_at,
    ):  # fmt: skip
        i = 0
        while rows - i >= 8 and most >= 8:
            eight(
                mode, scale, a, a_at, a_row, a_step, a_next, b, b_at, b_row, b_next, depth, count,
                c, c_at, c_row, m, m_at,
            )  # fmt: skip
            a_at, c_at, m_at, i = a_at + 8 * a_row, c_at + 8 * c_row, m_at + 8 * c_row, i + 8
        while rows - i >= 4:
            four(
                mode, scale, a, a_at, a_row, a_step, a_next, b, b_at, b_row, b_next, depth, count,
                c, c_at, c_row, m, m_at,
            )  # fmt: skip
            a_at, c_at, m_at, i = a_at + 4 * a_row, c_at + 4 * c_row, m_at + 4 * c_row, i + 4
        if rows - i >= 2:
            two(
                mode, scale, a, a_at, a_row, a_step, a_next, b, b_at, b_row, b_next, depth, count,
                c, c_at, c_row, m, m_at,
            )  # fmt: skip
            a_at, c_at, m_at, i = a_at + 2 * a_row, c_at + 2 * c_row, m_at + 2 * c_row, i + 2
        if rows > i:
            one(
                mode, scale, a, a_at, a_row, a_step, a_next, b, b_at, b_row, b_next, depth, count,
                c, c_at, c_row, m, m_at,
            )  # fmt: skip

    return strip


_WIDEST, _VECTOR_BYTES = widest(), REGISTERS.size


def _all_columns(kind: int) -> Any:
    """A product from its widest strips to its narrowest."""
    strip_4, strip_2, strip_1 = (_strip(vectors, kind) for vectors in (4, 2, 1))
    along = 1 if kind == EACH else 0

    @njit(inline="always")
    def all_columns(  # type: ignore[no-untyped-def]
        mode, scale, a, a_at, a_row, a_step, a_next, b, b_at, b_row, b_next, rows, columns, depth, count,
        c, c_at, c_row, m, m_at,
    ):  # fmt: skip
        vector = _VECTOR_BYTES // a.itemsize
        j = 0
        while columns - j >= 4 * vector and _WIDEST >= 4:
            strip_4(
                mode, scale, a, a_at + along * j, a_row, a_step, a_next, b, b_at + j, b_row, b_next, rows, depth, count,
                c, c_at + j, c_row, m, m_at + j,
            )  # fmt: skip
            j += 4 * vector
        while columns - j >= 2 * vector:
            strip_2(
                mode, scale, a, a_at + along * j, a_row, a_step, a_next, b, b_at + j, b_row, b_next, rows, depth, count,
                c, c_at + j, c_row, m, m_at + j,
            )  # fmt: skip
            j += 2 * vector
        if columns > j:
            strip_1(
                mode, scale, a, a_at + along * j, a_row, a_step, a_next, b, b_at + j, b_row, b_next, rows, depth, count,
                c, c_at + j, c_row, m, m_at + j,
            )  # fmt: skip

    return all_columns


_of_one, _of_several, _of_each = (_all_columns(kind) for kind in (ONE, SEVERAL, EACH))


@compiled()
def multiply(mode, scale, a, a_at, a_row, a_step, b, b_at, b_row, rows, columns, depth, c, c_at, c_row, m, m_at):  # type: ignore[no-untyped-def]
    """Make C, ``(rows, columns)``, of A, ``(rows, depth)``, and B, ``(depth, columns)``, by a mode of ``tiles``.

    Arrays are flat and of one type; ``_at`` is the place of the first entry, ``_row`` the stride of a row, ``a_step``
    that of the columns of A. ``columns`` is a multiple of the numbers in a vector. M has the rows of C.
    """
    _of_one(
        mode, scale, a, a_at, a_row, a_step, FIRST, b, b_at, b_row, FIRST, rows, columns, depth, NEXT,
        c, c_at, c_row, m, m_at,
    )  # fmt: skip


@compiled()
def multiply_several(  # type: ignore[no-untyped-def]
    mode, scale, a, a_at, a_row, a_step, a_next, b, b_at, b_row, b_next, rows, columns, depth, count,
    c, c_at, c_row, m, m_at,
):  # fmt: skip
    """Make C, ``(rows, columns)``, of the sum of ``count`` products AB, as ``multiply``.

    From one A to the next it is ``a_next`` numbers, from one B to the next ``b_next``.
    """
    _of_several(
        mode, scale, a, a_at, a_row, a_step, a_next, b, b_at, b_row, b_next, rows, columns, depth, count,
        c, c_at, c_row, m, m_at,
    )  # fmt: skip


@compiled()
def multiply_each(mode, scale, a, a_at, a_row, a_step, b, b_at, b_row, rows, columns, depth, c, c_at, c_row):  # type: ignore[no-untyped-def]
    """Make C, ``(rows, columns)``, of a product for each column by itself, Σ_k A_ike B_ke, by a mode of ``tiles``.

    A is ``(rows, depth, columns)``, with strides ``a_row`` and ``a_step``; the rest is as for ``multiply``.
    """
    _of_each(
        mode, scale, a, a_at, a_row, a_step, FIRST, b, b_at, b_row, FIRST, rows, columns, depth, NEXT,
        c, c_at, c_row, c, c_at,
    )  # fmt: skip


@compiled()
def whole_vectors(size, like):  # type: ignore[no-untyped-def]
    """The length of a row of whole vectors that holds ``size`` numbers of the type of an array."""
    vector = _VECTOR_BYTES // like.itemsize
    return (size + vector - 1) // vector * vector


@compiled()
def apart(size, like):  # type: ignore[no-untyped-def]
    """A line of the cache more than a row has, from one row to the next: rows a power of two apart evict each other."""
    return whole_vectors(size, like) + 64 // like.itemsize


@compiled()
def turn(a, a_at, a_row, rows, columns, out, out_at, out_row):  # type: ignore[no-untyped-def]
    """Transpose A, ``(rows, columns)``, into ``out``, ``(columns, rows)``; nothing else of ``out`` is written."""
    block = _VECTOR_BYTES // a.itemsize
    whole_rows, whole_columns = rows // block * block, columns // block * block
    for i in range(0, whole_rows, block):
        for j in range(0, whole_columns, block):
            turn_block(a, a_at + i * a_row + j, a_row, out, out_at + j * out_row + i, out_row)  # type: ignore[call-arg]
    for i in range(rows):
        for j in range(0 if i >= whole_rows else whole_columns, columns):
            out[out_at + j * out_row + i] = a[a_at + i * a_row + j]
