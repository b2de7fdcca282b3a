"""Top of the Hessian's spectrum, and of the Gauss–Newton matrix's, for many networks at once.

    H = M^½ (∂²ℓ/∂θ²) M^½,      ℓ = loss of f = (F(θ) − F(θ₀)) / γ, averaged over the examples given,

in the metric of the update: a step moves θ_n by −η M_n ∂ℓ/∂θ_n, so that η λ / 2 = 1 is the edge of stability, λ the
largest eigenvalue and η the learning rate before the width multiplier M. "Top" means algebraically largest: a saddle's
negative curvature does not count. Both matrices and their products are in ``curvature``, the method in ``lanczos``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from empirical.measure.curvature import Curvature, check_data
from empirical.measure.lanczos import Ritz, largest
from empirical.networks import Networks
from theory.errors import InputError, one_of, positive_integer, positive_number

ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-13}
"""Residual that the rounding of the products leaves, as a share of the largest eigenvalue; measured, with a margin."""

DENSE_SIZE = 400
"""Networks of at most this many weights have their matrix written out, which misses no copy of an eigenvalue."""

CACHE_CELLS = 16
"""Cells that work side by side on a CPU: with more, the products only leave the cache."""


@dataclass(frozen=True)
class Spectrum:
    """Leading eigenpairs of C cells.

    Attributes:
        values: eigenvalues, descending, float64, shape ``(cells, k)``; NaN for a cell whose weights, outputs or
            products are not finite.
        residuals: ‖H v − λ v‖ for unit v, rounding included, float64, shape ``(cells, k)``: an eigenvalue of H is
            within this distance of λ.
        converged: every residual is within the tolerance, shape ``(cells,)``.
        vectors: orthonormal, in the coordinates M^{−½} θ (a displacement of the weights is M^½ v), tensors of
            ``Networks.displacement`` flattened one after the other, shape ``(cells, k, size)``; ``None`` if not kept.
        products: products of H with one vector that each cell took, shape ``(cells,)``.
    """

    values: Tensor
    residuals: Tensor
    converged: Tensor
    vectors: Tensor | None
    products: Tensor

    @property
    def sharpness(self) -> Tensor:
        """Largest eigenvalue of each cell, shape ``(cells,)``."""
        return self.values[:, 0]


@dataclass(frozen=True)
class _Search:
    """How to look for the pairs of some cells."""

    k: int
    tolerance: float
    rows: int
    room: int
    most_products: int

    def lanczos(self, operator: Curvature, start: Tensor | None) -> Ritz:
        """Pairs by Lanczos, in the precision of the operator, from vectors ``(cells, rows, size)`` or at random."""
        if start is None:
            draw = torch.Generator().manual_seed(1)  # the same for every cell, whoever its companions
            start = torch.randn(self.rows, operator.size, generator=draw, dtype=torch.float64)
            start = start.expand(len(operator), -1, -1)
        return largest(
            operator,
            self.k,
            start.to(dtype=operator.dtype, device=operator.scale.device),
            room=max(self.room, 2 * start.shape[1]),
            tolerance=self.tolerance,
            rounding=ROUNDING[operator.dtype],
            most_products=self.most_products,
        )

    def dense(self, operator: Curvature) -> Ritz:
        """Pairs of small matrices, written out."""
        identity = torch.eye(operator.size, dtype=operator.dtype, device=operator.scale.device)
        matrix = operator(identity.expand(len(operator), -1, -1))
        finite = matrix.isfinite().flatten(1).all(1).view(-1, 1, 1)
        matrix = torch.where(finite, (matrix + matrix.transpose(1, 2)) / 2, 0.0)
        values, turn = torch.linalg.eigh(matrix)
        values, vectors = values.flip(1), turn.transpose(1, 2).flip(1)
        top = torch.maximum(values[:, 0].abs(), values[:, -1].abs())
        values, vectors = values[:, : self.k], vectors[:, : self.k]
        residuals = (vectors @ matrix - values.unsqueeze(2) * vectors).norm(dim=2)
        values = torch.where(finite[:, 0], values, torch.nan)
        return Ritz(values, residuals, vectors, top, torch.full_like(top, operator.size, dtype=torch.int64))


@torch.no_grad()
def top_eigenvalues(
    networks: Networks,
    x: Tensor,
    y: Tensor,
    k: int = 20,
    *,
    loss: str = "mse",
    curvature: str = "hessian",
    tolerance: float = 1e-4,
    start_vectors: Tensor | None = None,
    block: int | None = None,
    dtype: str = "mixed",
    max_products: int = 2000,
    memory: float = 400e6,
    keep_vectors: bool = True,
) -> Spectrum:
    """The k algebraically largest eigenvalues of M^½ H M^½ of every cell.

    Multiple eigenvalues: no more copies of one are found than a block has rows. The readout gives all classes the same
    kernel, and the layers below tell them apart only within the image of the readout. So networks with one trained
    tensor, or with fewer units in a layer than classes, have multiple eigenvalues, and get blocks of as many rows as
    there are classes; others get two. Give ``block`` where symmetric weights or dead units do the same, and where there
    are few examples: hidden units that are active on the same ones give copies, up to as many as there are units.
    Networks of at most ``DENSE_SIZE`` weights have none of this.

    Args:
        networks: the cells.
        x: inputs ``(n, input_dim)``, shared by the cells.
        y: targets ``(n, num_classes)``; probabilities for cross-entropy.
        k: number of eigenvalues, at most the number of weights.
        loss: ``"mse"`` or ``"cross-entropy"``, as in ``empirical.losses``.
        curvature: ``"hessian"`` or ``"gauss-newton"``.
        tolerance: largest residual allowed, relative to the eigenvalue (to 10⁻³ of the largest magnitude if that is
            more); the relative error of an eigenvalue is at most this, and of the order of its square.
        start_vectors: vectors of an earlier spectrum ``(cells, any number, size)``, such as those of the step before.
        block: rows of a block, when there are no start vectors; see above for ``None``.
        dtype: ``"mixed"`` works in float32, and again in float64 for cells whose tolerance float32 cannot reach;
            ``"float64"``.
        max_products: products with one vector after which a cell is given up, in each precision.
        memory: bytes that bases and graphs may take; cells go in chunks of that size.
        keep_vectors: whether to return the vectors.

    Returns:
        One row a cell. A cell that fails is one that has not converged, never an exception.

    Raises:
        InputError: data that do not fit the networks, an unknown name, or a number outside its range.
    """
    check_data(networks, x, y, loss, curvature)
    k, size = positive_integer("k", k), sum(start.numel() for start in networks.start.values())
    if k > size:
        raise InputError("k", k, f"at most the number of weights, {size}")
    one_of("dtype", dtype, ("mixed", "float64"))
    positive_number("tolerance", tolerance)
    positive_number("memory", memory)
    positive_integer("max_products", max_products)
    cells = len(networks)
    if start_vectors is not None and (
        start_vectors.dim() != 3 or (len(start_vectors), start_vectors.shape[2]) != (cells, size)
    ):
        raise InputError("start_vectors", tuple(start_vectors.shape), f"shape ({cells}, any number, {size})")
    if block is None:
        block = min(y.shape[1] if _shares_kernels(networks, y.shape[1]) else 2, size)
    search = _Search(k, tolerance, positive_integer("block", block), max(3 * k + 30, 2 * block), max_products)
    data = (x.double(), y.double(), loss, curvature)
    low = torch.float64 if dtype == "float64" else torch.float32
    chunk = _chunk(networks, data, search, size, low, memory, 0 if start_vectors is None else start_vectors.shape[1])
    parts = []
    for first in range(0, cells, chunk):
        places = np.arange(first, min(first + chunk, cells))
        start = None if start_vectors is None else start_vectors[first : first + chunk]
        part = _spectrum(networks.select(places), data, search, low, start)
        parts.append(part if keep_vectors else replace(part, vectors=None))
    vectors = [part.vectors for part in parts if part.vectors is not None]
    return Spectrum(
        torch.cat([part.values for part in parts]),
        torch.cat([part.residuals for part in parts]),
        torch.cat([part.converged for part in parts]),
        torch.cat(vectors) if vectors else None,
        torch.cat([part.products for part in parts]),
    )


def sharpness(
    networks: Networks,
    x: Tensor,
    y: Tensor,
    *,
    loss: str = "mse",
    curvature: str = "hessian",
    tolerance: float = 1e-2,
    start_vectors: Tensor | None = None,
) -> Spectrum:
    """The largest eigenvalue of M^½ H M^½ of every cell, in few products.

    Args:
        networks: the cells.
        x: inputs ``(n, input_dim)``, shared by the cells.
        y: targets ``(n, num_classes)``.
        loss: ``"mse"`` or ``"cross-entropy"``.
        curvature: ``"hessian"`` or ``"gauss-newton"``.
        tolerance: largest relative residual; the error of an isolated eigenvalue is of the order of its square.
        start_vectors: vectors of an earlier spectrum.

    Returns:
        The spectrum for k = 1; see ``Spectrum.sharpness``.
    """
    options = {"loss": loss, "curvature": curvature, "tolerance": tolerance, "start_vectors": start_vectors}
    return top_eigenvalues(networks, x, y, 1, **options)  # type: ignore[arg-type]


_Data = tuple[Tensor, Tensor, str, str]


def _shares_kernels(networks: Networks, classes: int) -> bool:
    """Whether some classes have the same kernel, by the shapes of the weights."""
    widths = [len(tensor) for tensor in networks.start.values() if tensor.dim() > 1]
    return len(networks.start) == 1 or min(widths, default=classes) < classes


def _operator(networks: Networks, data: _Data, dtype: torch.dtype) -> Curvature:
    x, y, loss, curvature = data
    return Curvature(networks, x, y, loss=loss, curvature=curvature, dtype=dtype)


def _spectrum(networks: Networks, data: _Data, search: _Search, low: torch.dtype, start: Tensor | None) -> Spectrum:
    """Spectrum of a chunk of cells, in units of H."""
    small = sum(tensor.numel() for tensor in networks.start.values()) <= max(DENSE_SIZE, 2 * search.room)
    operator = _operator(networks, data, torch.float64 if small else low)
    scale, cells, k = operator.scale, len(operator), search.k
    values = torch.full((cells, k), torch.nan, dtype=torch.float64, device=scale.device)
    residuals, vectors = values.clone(), torch.zeros(cells, k, operator.size, dtype=low, device=scale.device)
    converged = torch.zeros(cells, dtype=torch.bool, device=scale.device)
    products = torch.zeros(cells, dtype=torch.int64, device=scale.device)
    places = operator.finite.nonzero()[:, 0]
    if len(places) < cells:
        operator = operator.select(places) if len(places) else operator
        start = None if start is None else start[places]
    if len(places):
        found = search.dense(operator) if small else search.lanczos(operator, start)
        excess = found.excess(search.tolerance)
        again = (~(excess <= 1)).nonzero()[:, 0]
        if operator.dtype != torch.float64 and len(again):
            products[places[again]] += found.products[again]
            for piece in again.split(max(1, cells // 2)):  # twice the bytes
                found.put(piece, _refine(operator, data, search, found, piece))
        values[places] = found.values / scale[places].unsqueeze(1)
        residuals[places] = found.residuals / scale[places].unsqueeze(1)
        vectors[places] = found.vectors.to(low)
        converged[places] = found.excess(search.tolerance) <= 1
        products[places] += found.products
    return Spectrum(values, residuals, converged, vectors, products)


def _refine(operator: Curvature, data: _Data, search: _Search, found: Ritz, piece: Tensor) -> Ritz:
    """Go on in float64 from what float32 has found, if that is finite."""
    finer = _operator(operator.networks.select(piece.cpu().numpy()), data, torch.float64)
    start = found.vectors[piece]
    usable = start.isfinite().flatten(1).all(1).view(-1, 1, 1)
    refined = search.lanczos(finer, torch.where(usable, start, 0.0))  # zero rows are drawn at random
    return replace(refined, vectors=refined.vectors.to(found.vectors.dtype))


def _chunk(
    networks: Networks, data: _Data, search: _Search, size: int, dtype: torch.dtype, memory: float, given: int
) -> int:
    """Cells that fit into the memory: a basis and its copy at a restart, and the graph that is kept of the products."""
    held = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal held
        held += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        _operator(networks.select(np.arange(1)), data, dtype)
    itemsize = torch.finfo(dtype).bits // 8
    rows = max(search.room, 2 * given) + max(search.rows, given) + 2 * search.k
    fits = int(memory / (1.5 * rows * size * itemsize + 2 * held))
    most = CACHE_CELLS if networks.gamma.device.type == "cpu" else len(networks)
    return max(1, min(fits, most))
