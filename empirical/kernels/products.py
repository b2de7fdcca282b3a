"""Products and transposes of small matrices of any size, for one core, out of tiles."""

from __future__ import annotations

from typing import Any

from numba import njit

from empirical.kernels.compiled import compiled
from empirical.kernels.tiles import REGISTERS, make_tile, tallest, turn_block, widest


def _strip(vectors: int) -> Any:
    """Columns of a product that one row of a tile spans: the tiles below each other, from the tallest on."""
    eight, four, two, one = (make_tile(rows, vectors) for rows in (8, 4, 2, 1))
    most = tallest(vectors)

    @njit
    def strip(mode, scale, a, a_at, a_row, a_step, b, b_at, b_row, rows, depth, c, c_at, c_row, m, m_at):  # type: ignore[no-untyped-def]
        i = 0
        while rows - i >= 8 and most >= 8:
            eight(mode, scale, a, a_at, a_row, a_step, b, b_at, b_row, depth, c, c_at, c_row, m, m_at)
            a_at, c_at, m_at, i = a_at + 8 * a_row, c_at + 8 * c_row, m_at + 8 * c_row, i + 8
        while rows - i >= 4:
            four(mode, scale, a, a_at, a_row, a_step, b, b_at, b_row, depth, c, c_at, c_row, m, m_at)
            a_at, c_at, m_at, i = a_at + 4 * a_row, c_at + 4 * c_row, m_at + 4 * c_row, i + 4
        if rows - i >= 2:
            two(mode, scale, a, a_at, a_row, a_step, b, b_at, b_row, depth, c, c_at, c_row, m, m_at)
            a_at, c_at, m_at, i = a_at + 2 * a_row, c_at + 2 * c_row, m_at + 2 * c_row, i + 2
        if rows > i:
            one(mode, scale, a, a_at, a_row, a_step, b, b_at, b_row, depth, c, c_at, c_row, m, m_at)

    return strip


_WIDEST, _VECTOR_BYTES = widest(), REGISTERS.size
_strip_4, _strip_2, _strip_1 = _strip(4), _strip(2), _strip(1)


@compiled()
def multiply(mode, scale, a, a_at, a_row, a_step, b, b_at, b_row, rows, columns, depth, c, c_at, c_row, m, m_at):  # type: ignore[no-untyped-def]
    """Make C, ``(rows, columns)``, of A, ``(rows, depth)``, and B, ``(depth, columns)``, by a mode of ``tiles``.

    Arrays are flat and of one type; ``_at`` is the place of the first entry, ``_row`` the stride of a row, ``a_step``
    that of the columns of A. ``columns`` is a multiple of the numbers in a vector. M has the rows of C.
    """
    vector = _VECTOR_BYTES // a.itemsize
    j = 0
    while columns - j >= 4 * vector and _WIDEST >= 4:
        _strip_4(mode, scale, a, a_at, a_row, a_step, b, b_at + j, b_row, rows, depth, c, c_at + j, c_row, m, m_at + j)
        j += 4 * vector
    while columns - j >= 2 * vector:
        _strip_2(mode, scale, a, a_at, a_row, a_step, b, b_at + j, b_row, rows, depth, c, c_at + j, c_row, m, m_at + j)
        j += 2 * vector
    if columns > j:
        _strip_1(mode, scale, a, a_at, a_row, a_step, b, b_at + j, b_row, rows, depth, c, c_at + j, c_row, m, m_at + j)


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
