"""Largest eigenvalues of many symmetric operators at once: block Lanczos, full orthogonalisation, thick restarts.

Every operator A grows an orthonormal basis Q by blocks, A Q_j less its part in the basis, and takes the Ritz pairs of
T = Q A Qᵀ (vectors are rows). With the last block's remainder R Z, a Ritz pair (θ, sᵀQ) has the residual ‖Rᵀ s_last‖,
known without a product. When the basis is full, the leading Ritz vectors and the last remainder begin the next one
(Wu & Simon 2000, SIAM J. Matrix Anal. Appl. 22, "Thick-restart Lanczos"). All operators advance in step, so that each
pass over them is one batched product; those that are done leave.

Blocks are there for two reasons. Orthogonalising against a basis reads it, once a block instead of once a vector. And
a Krylov space finds no more copies of a multiple eigenvalue than its blocks have rows. The remainder is orthonormalised
through its Gram matrix (Stathopoulos & Wu 2002, SIAM J. Sci. Comput. 23); what is zero of it, as when a Krylov space is
exhausted, is replaced by fresh random directions.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor

GROWTH = 1.15
"""Ritz pairs are looked at whenever the basis has grown by this factor: a look costs a dense eigenproblem."""

KEEP = 0.4
"""Share of a full basis beyond the wanted Ritz vectors that a restart keeps."""

LEAVE = 0.75
"""Finished operators leave when no more than this share is at work: leaving copies the bases of the others."""

INSIGNIFICANT = 1e-3
"""Eigenvalues below this share of the largest magnitude need no more absolute accuracy than one of that size: zero
eigenvalues have no relative accuracy."""


class Operator(Protocol):
    """C symmetric operators."""

    def __call__(self, vectors: Tensor) -> Tensor:
        """Products with ``(C, count, size)`` vectors."""

    def select(self, index: Tensor) -> Operator:
        """Some of the operators."""


@dataclass(frozen=True)
class Ritz:
    """Ritz pairs of C operators.

    Attributes:
        values: descending, float64, shape ``(C, k)``; NaN where a product was not finite.
        residuals: ‖A v − θ v‖, float64, shape ``(C, k)``; the rounding of the products is included as a share of
            ``largest``.
        vectors: orthonormal rows, shape ``(C, k, size)``.
        largest: largest magnitude of a Ritz value, float64, shape ``(C,)``.
        products: products with a single vector, shape ``(C,)``.
    """

    values: Tensor
    residuals: Tensor
    vectors: Tensor
    largest: Tensor
    products: Tensor

    def excess(self, tolerance: float) -> Tensor:
        """Largest residual of each operator in units of what is allowed, shape ``(C,)``; converged at 1."""
        allowed = torch.maximum(self.values.abs(), INSIGNIFICANT * self.largest.unsqueeze(1)) * tolerance
        return torch.where(self.residuals <= allowed, 0.0, self.residuals / allowed).amax(1)

    def put(self, index: Tensor, other: Ritz) -> None:
        """Write the pairs of some operators, given by their positions here."""
        for field in fields(self):
            getattr(self, field.name)[index] = getattr(other, field.name)

    def take(self, index: Tensor) -> Ritz:
        """The pairs of some operators."""
        return Ritz(*(getattr(self, field.name)[index] for field in fields(self)))


INSIDE = 0.3
"""A row of which orthogonalisation leaves less than this was rounding within the basis: once more would leave noise."""


def orthonormal(vectors: Tensor, least: float = 0.0) -> tuple[Tensor, Tensor]:
    """Orthonormal basis of rows, through their Gram matrix.

    Args:
        vectors: shape ``(C, b, size)``.
        least: combinations of rows with a norm below this count as zero.

    Returns:
        Rows Z, strongest first, and R with ``vectors = R Z``, float64 ``(C, b, b)``. Rows of Z below the rounding of
        the strongest are zero, as are their columns of R. Z is orthonormal to rounding times the condition of the rows.
    """
    wide = vectors.double()
    gram = wide @ wide.transpose(1, 2)
    square, turn = torch.linalg.eigh(torch.where(gram.isfinite().flatten(1).all(1).view(-1, 1, 1), gram, 0.0))
    square, turn = square.flip(1), turn.flip(2)
    rounding = max(10 * torch.finfo(vectors.dtype).eps, 1e-7)  # the Gram matrix has the condition's square
    solid = square > torch.clamp_min(square[:, :1] * rounding**2, torch.finfo(torch.float32).tiny)
    solid &= square > least**2
    root = torch.where(solid, square, 0.0).sqrt()
    inverse = torch.where(solid, square, 1.0).rsqrt() * solid
    rows = (turn * inverse.unsqueeze(1)).transpose(1, 2).to(vectors.dtype) @ vectors
    return rows, turn * root.unsqueeze(1)


class _Basis:
    """Growing bases of C operators: rows Q, the projection T = Q A Qᵀ, and the remainder that comes next."""

    def __init__(self, operator: Operator, start: Tensor, room: int, generator: torch.Generator) -> None:
        cells, self.block, size = start.shape
        self.operator, self.room, self.generator = operator, room, generator
        self.rows = start.new_empty(cells, room + self.block, size)
        self.projected = start.new_zeros(cells, room + self.block, room + self.block, dtype=torch.float64)
        self.coupling = self.projected[:, : self.block, : self.block].clone()  # R of the last block's remainder R Z
        self.done, self.size, self.window = 0, self.block, 0
        self.rows[:, : self.block] = self._fill(orthonormal(orthonormal(start)[0])[0], 0)

    def _fill(self, rows: Tensor, below: int) -> Tensor:
        """Replace zero rows, which are the last, by random ones that are orthogonal to the basis and to the others."""
        empty = rows.square().sum(2, keepdim=True) < 0.5
        if not bool(empty.any()):
            return rows
        draw = torch.randn(rows.shape[1:], generator=self.generator, dtype=torch.float64)
        fresh = torch.where(empty, draw.to(rows), 0.0)
        for _ in range(2):
            fresh = fresh - self._part(fresh, below)[1]
            fresh = fresh - (fresh @ rows.transpose(1, 2)) @ rows
            fresh = orthonormal(fresh)[0].flip(1)  # strongest last, where the gaps are
        return torch.where(empty, fresh, rows)

    def _part(self, vectors: Tensor, stop: int, start: int = 0) -> tuple[Tensor, Tensor]:
        """Coefficients in some rows of the basis, ``(C, rows, b)``, and the part of the vectors that they make up."""
        rows = self.rows[:, start:stop]
        coefficients = rows @ vectors.transpose(1, 2)
        return coefficients.double(), coefficients.transpose(1, 2) @ rows

    def expand(self) -> None:
        """Multiply the newest block and orthonormalise what is new in the products."""
        new, ends = slice(self.done, self.size), slice(self.size, self.size + self.block)
        image = self.operator(self.rows[:, new])
        near, part = self._part(image, self.size, self.window)  # in exact arithmetic there is no other part
        rows, factor = orthonormal(image.sub_(part))
        rest, part = self._part(rows, self.size)
        rows, again = orthonormal(rows.sub_(part), INSIDE)
        columns = rest @ factor.transpose(1, 2)
        columns[:, self.window :] += near
        self.coupling = factor @ again
        columns = torch.cat([columns, self.coupling.transpose(1, 2)], 1)
        self.projected[:, : ends.stop, new] = columns
        self.projected[:, new, : ends.stop] = columns.transpose(1, 2)
        block = self.projected[:, new, new]
        self.projected[:, new, new] = (block + block.transpose(1, 2)) / 2
        self.rows[:, ends] = self._fill(rows, self.size)
        self.window, self.done, self.size = self.done, ends.start, ends.stop

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values of the finished rows, descending, their coefficients (columns), and their residuals."""
        projected = self.projected[:, : self.done, : self.done]
        broken = ~projected.isfinite().flatten(1).all(1)
        values, turn = torch.linalg.eigh(torch.where(broken.view(-1, 1, 1), 0.0, projected))
        values, turn = values.flip(1), turn.flip(2)
        values[broken] = torch.nan
        return values, turn, (self.coupling.transpose(1, 2) @ turn[:, self.done - self.block :]).norm(dim=1)

    def vectors(self, turn: Tensor) -> Tensor:
        """Rows of the basis, combined by coefficients (columns)."""
        return turn.transpose(1, 2).to(self.rows.dtype) @ self.rows[:, : self.done]

    def restart(self, values: Tensor, turn: Tensor) -> None:
        """Go on with some Ritz vectors and the newest block."""
        kept = values.shape[1]
        newest = self.rows[:, self.done : self.size].clone()
        self.rows[:, :kept] = self.vectors(turn)
        self.rows[:, kept : kept + self.block] = newest
        arrow = turn[:, self.done - self.block :].transpose(1, 2) @ self.coupling
        self.projected.zero_()
        self.projected[:, :kept, :kept] = torch.diag_embed(values)
        self.projected[:, :kept, kept : kept + self.block] = arrow
        self.projected[:, kept : kept + self.block, :kept] = arrow.transpose(1, 2)
        self.done, self.size, self.window = kept, kept + self.block, 0

    def keep(self, index: Tensor) -> None:
        """Drop operators."""
        self.operator = self.operator.select(index)
        self.rows, self.projected = self.rows[index], self.projected[index]
        self.coupling = self.coupling[index]


def largest(
    operator: Operator, k: int, start: Tensor, *, room: int, tolerance: float, rounding: float, most_products: int
) -> Ritz:
    """Algebraically largest eigenvalues of C operators.

    Args:
        operator: the operators.
        k: number of eigenvalues.
        start: first block, ``(C, block, size)``; zero rows are replaced by random ones.
        room: rows of a full basis, at least ``k`` and two blocks; below ``size``.
        tolerance: residuals allowed, relative to the eigenvalue (see ``Ritz.excess``).
        rounding: of the products, relative to the largest magnitude; smaller residuals are not pursued.
        most_products: products with a single vector after which an operator is given up.

    Returns:
        Ritz pairs, converged or not.
    """
    cells, block, size = start.shape
    basis = _Basis(operator, start, room, torch.Generator().manual_seed(0))
    found = _nothing(cells, k, size, start)
    live, pending = torch.arange(cells, device=start.device), torch.ones(cells, dtype=torch.bool, device=start.device)
    # k rows can be an invariant space without the top, when the spectrum has few distinct eigenvalues
    spent, next_look = 0, k if block >= k else 2 * k
    while True:
        basis.expand()
        spent += block
        over = spent + block > most_products and basis.done >= k
        if not (over or basis.size > room or basis.done >= next_look):
            continue
        next_look = int(max(basis.done + block, GROWTH * basis.done))
        values, turn, residuals = basis.pairs()
        now = _leading(values, residuals, k, rounding, spent)
        noise = 2 * rounding * now.largest.unsqueeze(1)
        ended = (now.excess(tolerance) <= 1) | (now.residuals <= noise).all(1) | values[:, 0].isnan() | over
        ended &= pending
        if bool(ended.any()):
            vectors = basis.vectors(turn[:, :, :k])
            found.put(live[ended], replace(now, vectors=vectors).take(ended))
            pending &= ~ended
            if not bool(pending.any()):
                return found
            if pending.sum() <= LEAVE * len(live):
                basis.keep(pending.nonzero()[:, 0])
                live, values, turn = live[pending], values[pending], turn[pending]
                pending = pending[pending]
        if basis.size > room:
            kept = min(k + int(KEEP * (room - k)), room - block)
            basis.restart(values[:, :kept], turn[:, :, :kept])
            next_look = kept + 2 * block


def _nothing(cells: int, k: int, size: int, like: Tensor) -> Ritz:
    """Where results go."""
    values = torch.full((cells, k), torch.nan, dtype=torch.float64, device=like.device)
    products = torch.zeros(cells, dtype=torch.int64, device=like.device)
    return Ritz(values, values.clone(), like.new_zeros(cells, k, size), values[:, 0].clone(), products)


def _leading(values: Tensor, residuals: Tensor, k: int, rounding: float, spent: int) -> Ritz:
    """The first k Ritz pairs, their vectors still to come."""
    top = torch.maximum(values[:, 0].abs(), values[:, -1].abs())
    noisy = torch.hypot(residuals[:, :k], (rounding * top).unsqueeze(1))
    return Ritz(values[:, :k], noisy, values[:, :0], top, torch.full_like(top, spent, dtype=torch.int64))
