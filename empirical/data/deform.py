r"""Random smooth deformations of 28×28 images: a small affine map composed with an elastic displacement.

The idea of Infinite MNIST: G. Loosli, S. Canu and L. Bottou, Training Invariant Support Vector Machines using Selective
Sampling, in Large Scale Kernel Machines (MIT Press 2007). Pixel p = (row, column) of the new image is the old image at

    q(p) = c + A (p - c) + t + Σ_{jk} b_j(p_row) b_k(p_column) C_{jk},        c = (13.5, 13.5)

interpolated bilinearly and zero outside. A = R·S: a rotation R after S, which has a scale along each axis and a shear
off the diagonal; t is a translation; the b_j are the six uniform cubic B-splines on three intervals of 9 pixels, and C
a 6×6 grid of displacement vectors. Every parameter is uniform on an interval around the identity.

No image is folded: by the convex-hull property ∂q/∂p - A has entries within ±2·``ELASTIC``/9, so its norm is at most
4·``ELASTIC``/9 = 0.80, below the smallest singular value of A, 0.86 or more.

Only the four operations of IEEE arithmetic are used (the rotation is parametrised by the tangent of its half angle), so
the result does not depend on the machine's mathematics library.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from empirical.data.images import SIDE

HALF_ANGLE_TANGENT = 0.09
"""Largest tan(θ/2): rotations up to 10.3 degrees."""

SCALE = 0.1
"""Each axis is stretched by a factor within 1 ± this."""

SHEAR = 0.08
"""Largest off-diagonal entry of S."""

TRANSLATION = 1.5
"""Largest shift along each axis, in pixels of the 28×28 image."""

ELASTIC = 1.8
"""Largest component of a control vector, in pixels; each component of the field has a standard deviation of 0.5."""

GRID = 6
"""Control points along each axis."""

PARAMETERS = 6 + 2 * GRID * GRID
"""Random numbers that one image uses: rotation, two scales, shear, two shifts, and the control grid."""

_INTERVAL = (SIDE - 1) / (GRID - 3)  # pixels between control points


def spline_basis() -> NDArray[np.float64]:
    """Tabulate the uniform cubic B-splines at the 28 pixel positions of an axis.

    Returns:
        Shape (``GRID``, 28): the weight of each control point at each pixel. At most four are not zero, and they add up
        to one.
    """
    pixel = np.arange(SIDE, dtype=np.float64)
    first = np.minimum((pixel / _INTERVAL).astype(np.int64), GRID - 4)  # the last pixel ends the last interval
    s = pixel / _INTERVAL - first
    r = 1.0 - s
    weights = np.stack([r * r * r, 3.0 * s * s * (s - 2.0) + 4.0, 3.0 * r * r * (r - 2.0) + 4.0, s * s * s])
    basis = np.zeros((GRID, SIDE))
    for offset in range(4):
        basis[first + offset, np.arange(SIDE)] = weights[offset] / 6.0
    return basis


_BASIS = spline_basis()


@numba.njit(cache=True, nogil=True)
def _source_of_row(i, u, rows, columns):  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    """Fill ``rows`` and ``columns`` (28,) with the q(p) of row i, for the random numbers ``u`` of one image."""
    centre = 0.5 * (SIDE - 1)
    # 2u - 1 is uniform on [-1, 1)
    h = HALF_ANGLE_TANGENT * (2.0 * u[0] - 1.0)
    cosine, sine = (1.0 - h * h) / (1.0 + h * h), 2.0 * h / (1.0 + h * h)
    s00, s11 = 1.0 + SCALE * (2.0 * u[1] - 1.0), 1.0 + SCALE * (2.0 * u[2] - 1.0)
    s01 = SHEAR * (2.0 * u[3] - 1.0)
    a00, a01 = cosine * s00, cosine * s01 - sine * s11
    a10, a11 = sine * s00, sine * s01 + cosine * s11
    row = centre + TRANSLATION * (2.0 * u[4] - 1.0) + a00 * (i - centre)
    column = centre + TRANSLATION * (2.0 * u[5] - 1.0) + a10 * (i - centre)
    for j in range(SIDE):
        rows[j] = row + a01 * (j - centre)
        columns[j] = column + a11 * (j - centre)
    for k in range(GRID):
        down, right = 0.0, 0.0  # column k of the control grid, interpolated to this row
        for m in range(GRID):
            down += _BASIS[m, i] * (2.0 * u[6 + 2 * (GRID * m + k)] - 1.0)
            right += _BASIS[m, i] * (2.0 * u[7 + 2 * (GRID * m + k)] - 1.0)
        down *= ELASTIC
        right *= ELASTIC
        for j in range(SIDE):
            rows[j] += _BASIS[k, j] * down
            columns[j] += _BASIS[k, j] * right


@numba.njit(cache=True, nogil=True)
def _deform_into(padded, index, uniforms, out):  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    """Fill ``out`` (n, size, size) with area averages of the deformed images, in grey levels."""
    block = SIDE // out.shape[1]
    share = 1.0 / (block * block)
    rows, columns, total = np.empty(SIDE), np.empty(SIDE), np.empty(SIDE)
    for n in range(out.shape[0]):
        image = padded[index[n]]
        for i in range(SIDE):
            _source_of_row(i, uniforms[n], rows, columns)
            if i % block == 0:
                total[:] = 0.0
            for j in range(SIDE):
                # one pixel outside the image every value is zero: going further changes nothing
                y = min(max(rows[j], -1.0), float(SIDE)) + 1.0
                x = min(max(columns[j], -1.0), float(SIDE)) + 1.0
                row, column = np.uint64(y), np.uint64(x)  # unsigned: no test for negative indices
                fy, fx = y - np.float64(row), x - np.float64(column)
                below, beside = row + np.uint64(1), column + np.uint64(1)
                upper = image[row, column] * (1.0 - fx) + image[row, beside] * fx
                lower = image[below, column] * (1.0 - fx) + image[below, beside] * fx
                total[j] += upper * (1.0 - fy) + lower * fy
            if i % block == block - 1:
                for j in range(out.shape[2]):
                    mean = 0.0
                    for m in range(block):
                        mean += total[j * block + m]
                    out[n, i // block, j] = mean * share


def pad(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Surround images with the zeros that bilinear interpolation reaches.

    Args:
        images: shape (m, 28, 28), uint8.

    Returns:
        Shape (m, 31, 31): one row and column of zeros before each image, two after it.
    """
    return np.pad(images, ((0, 0), (1, 2), (1, 2)))


def deform(
    padded: NDArray[np.uint8], index: NDArray[np.int64], uniforms: NDArray[np.float64], size: int
) -> NDArray[np.float64]:
    """Deform chosen images and area-average them.

    Args:
        padded: shape (m, 31, 31), from `pad`.
        index: shape (n,), which image each result starts from.
        uniforms: shape (n, ``PARAMETERS``), numbers in [0, 1) that set the deformation; 0.5 throughout is the identity.
        size: side of the results, a divisor of 28; each of their pixels is the mean of a square of deformed ones.

    Returns:
        Grey levels from 0 to 255, shape (n, size, size).
    """
    out = np.empty((index.size, size, size))
    _deform_into(padded, index, uniforms, out)
    return out
