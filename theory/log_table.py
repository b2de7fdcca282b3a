"""Smooth positive functions of γ that cost a quadrature or a root, made fast: piecewise polynomials in ln γ.

ln q(ln γ) is cut into pieces of equal width and interpolated at Chebyshev points; pieces are built when first asked
for. The functions met here are analytic in ln γ with singularities at a distance of order 1 (γ = −1/f lies at imaginary
part π), so that 15 points a piece reach rounding. What a γ gives does not depend on the γ beside it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.polynomial import chebyshev

from theory.quadrature import FloatArray

_PIECES_PER_E = 2  # pieces per unit of ln γ
_DEGREE = 14
_BLOCK = 8192


class LogTable:
    """Interpolant of ln q in ln γ.

    Args:
        function: q on an array of γ of shape (pieces, points), positive; what a row gives must not depend on the rows
            beside it.
    """

    def __init__(self, function: Callable[[FloatArray], FloatArray]) -> None:
        self._function = function
        self._nodes = chebyshev.chebpts1(_DEGREE + 1)
        # monomials are safe here: the Chebyshev coefficients fall by a factor of order 10 each
        self._to_monomials = np.array([
            np.pad(chebyshev.cheb2poly(row), (0, _DEGREE + 1))[: _DEGREE + 1] for row in np.eye(_DEGREE + 1)
        ])
        angles = np.arccos(self._nodes)
        basis = np.cos(np.outer(np.arange(_DEGREE + 1), angles)) * (2.0 / (_DEGREE + 1))
        basis[0] /= 2.0
        self._to_chebyshev = basis
        self._pieces: dict[int, FloatArray] = {}

    def _build(self, indices: list[int]) -> None:
        missing = [index for index in indices if index not in self._pieces]
        if not missing:
            return
        logs = (np.array(missing)[:, None] + (self._nodes + 1.0) / 2.0) / _PIECES_PER_E
        values = np.log(self._function(np.exp(logs)))
        for index, row in zip(missing, values, strict=True):
            self._pieces[index] = (self._to_chebyshev @ row) @ self._to_monomials

    def _located(self, gamma: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        # coefficients by (degree, piece), the piece of every γ, and its place in [-1, 1]
        position = np.log(gamma) * _PIECES_PER_E
        whole = np.floor(position)
        place = 2.0 * (position - whole) - 1.0
        first, last = int(whole.min()), int(whole.max())
        present = np.unique(whole) if gamma.size < 64 else np.arange(first, last + 1)
        self._build([int(index) for index in present])
        table = np.zeros((_DEGREE + 1, last - first + 1))
        for index in present:
            table[:, int(index) - first] = self._pieces[int(index)]
        return table, (whole - first).astype(np.intp), place

    def logarithm(self, gamma: FloatArray) -> FloatArray:
        """Ln q.

        Args:
            gamma: positive, one-dimensional.

        Returns:
            Same shape.
        """
        table, index, place = self._located(gamma)
        result = np.empty_like(place)
        for start in range(0, place.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            here, at = index[block], place[block]
            total = table[_DEGREE].take(here)
            for degree in range(_DEGREE - 1, -1, -1):
                total *= at
                total += table[degree].take(here)
            result[block] = total
        return result

    def value(self, gamma: FloatArray) -> FloatArray:
        """Q itself.

        Args:
            gamma: positive, one-dimensional.

        Returns:
            Same shape.
        """
        return np.exp(self.logarithm(gamma))

    def slope(self, gamma: FloatArray) -> FloatArray:
        """D ln q / d ln γ, by differentiating the polynomials.

        Args:
            gamma: positive, one-dimensional.

        Returns:
            Same shape.
        """
        table, index, place = self._located(gamma)
        total = _DEGREE * table[_DEGREE].take(index)
        for degree in range(_DEGREE - 1, 0, -1):
            total = total * place + degree * table[degree].take(index)
        return total * (2.0 * _PIECES_PER_E)
