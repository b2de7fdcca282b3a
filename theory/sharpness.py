"""Hessian of the loss with respect to the L separate weights, on the balanced line, for symbolic L.

    f = (∏ w_ℓ − 1)/γ,     H_ij = ∂²ℓ/∂w_i∂w_j.

All diagonal entries are equal there and so are all off-diagonal ones, by permutation symmetry. Two weights are kept
apart and the other L − 2 set to w: that gives both kinds of entry by differentiation. A matrix (d − o)·1 + o·J, J all
ones, has the eigenvalue d + (L−1)o along (1,…,1) and d − o, L − 1 times, across it.
"""

from __future__ import annotations

from functools import cache

import sympy as sp

from theory.losses import Loss
from theory.symbols import depth, f, gamma, w


def output_of_product(product: sp.Expr) -> sp.Expr:
    """The network's centred, downscaled output f = (∏ w_ℓ − 1)/γ; every weight starts at 1.

    Args:
        product: the product of the weights.

    Returns:
        f.
    """
    return (product - 1) / gamma


@cache
def hessian_entries(loss: Loss) -> tuple[sp.Expr, sp.Expr]:
    """Diagonal and off-diagonal entry of the Hessian on the balanced line.

    Args:
        loss: the loss ℓ(f).

    Returns:
        H_ii and H_ij (i ≠ j), in w, γ and L.
    """
    first, second = sp.symbols("w_1 w_2", positive=True)
    energy = loss.excess.subs(f, output_of_product(first * second * w ** (depth - 2)))
    balanced = {first: w, second: w}
    return (
        sp.simplify(sp.diff(energy, first, 2).subs(balanced)),
        sp.simplify(sp.diff(energy, first, second).subs(balanced)),
    )


@cache
def hessian_eigenvalues(loss: Loss) -> tuple[sp.Expr, sp.Expr]:
    """Eigenvalues of the Hessian on the balanced line.

    Args:
        loss: the loss ℓ(f).

    Returns:
        The eigenvalue along (1,…,1), and the one across it (multiplicity L − 1), in w, γ and L.
    """
    diagonal, off = hessian_entries(loss)
    along = sp.powsimp(sp.factor(sp.simplify(diagonal + (depth - 1) * off)))
    return along, sp.factor(sp.simplify(diagonal - off))


@cache
def minimiser(loss: Loss) -> sp.Expr:
    """The balanced weight w* at which the loss is least.

    Args:
        loss: the loss ℓ(f).

    Returns:
        w* = (1 + γ f*)^{1/L}, with f* the output at the loss's minimum.
    """
    (root,) = sp.solve(output_of_product(w**depth) - loss.minimum, w)
    return root


def gather_powers(expression: sp.Expr) -> sp.Expr:
    """Factor, and join the powers of 1 + γ, so that symbolic-L results come out in one power.

    Args:
        expression: in γ and L.

    Returns:
        An equal expression.
    """
    gathered = sp.powsimp(sp.factor(sp.simplify(expression)))
    return gathered.replace(sp.Pow, lambda base, exponent: base ** sp.expand(exponent))


@cache
def sharpness_at_minimum(loss: Loss) -> sp.Expr:
    """The only non-zero Hessian eigenvalue λ* at the balanced minimum.

    Args:
        loss: the loss ℓ(f).

    Returns:
        λ*, in γ and L.
    """
    return gather_powers(hessian_eigenvalues(loss)[0].subs(w, minimiser(loss)))


@cache
def eigenvalues_at_start(loss: Loss) -> tuple[sp.Expr, sp.Expr]:
    """Hessian eigenvalues at the start, w = 1: along (1,…,1) and across it (multiplicity L − 1).

    Args:
        loss: the loss ℓ(f).

    Returns:
        Both eigenvalues, in γ and L. For γ > L/(L−1) (MSE) the first is negative: the start is a saddle.
    """
    along, across = hessian_eigenvalues(loss)
    return sp.expand(sp.simplify(along.subs(w, 1))), sp.simplify(across.subs(w, 1))
