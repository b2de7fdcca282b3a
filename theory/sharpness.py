"""Hessian of the loss with respect to the L separate weights, on the balanced line, for symbolic L.

    f = (∏ w_ℓ − 1)/γ,     H_ij = ∂²ℓ/∂w_i∂w_j.

All diagonal entries are equal there and so are all off-diagonal ones, by permutation symmetry. Two weights are kept
apart and the other L − 2 set to w: that gives both kinds of entry by differentiation. A matrix (d − o)·1 + o·J, J all
ones, has the eigenvalue d + (L−1)o along (1,…,1) and d − o, L − 1 times, across it.
"""

from __future__ import annotations

from functools import cache

import sympy as sp

from theory.losses import MSE, Loss
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
def _abstract_entries() -> tuple[sp.Expr, sp.Expr, sp.Symbol, sp.Symbol]:
    # both kinds of Hessian entry for an unspecified ℓ, and the symbols that stand for ℓ′ and ℓ″ at f
    first, second = sp.symbols("w_1 w_2", positive=True)
    slope, curvature = sp.symbols("g kappa", real=True)
    loss_function = sp.Function("ell")
    output = output_of_product(first * second * w ** (depth - 2))
    energy = loss_function(f)
    gradients = [sp.diff(output, weight) for weight in (first, second)]
    entries = [
        # the chain rule: ∂_i∂_j ℓ(f) = ℓ″ ∂_i f ∂_j f + ℓ′ ∂_i∂_j f
        sp.diff(energy, f, 2) * gradients[0] * gradients[k] + sp.diff(energy, f) * sp.diff(gradients[k], first)
        for k in (0, 1)
    ]
    named = [entry.subs(sp.diff(energy, f, 2), curvature).subs(sp.diff(energy, f), slope) for entry in entries]
    diagonal, off = [sp.simplify(entry.subs({first: w, second: w})) for entry in named]
    return diagonal, off, slope, curvature


@cache
def general_eigenvalues() -> tuple[sp.Expr, sp.Expr, sp.Symbol, sp.Symbol]:
    """Hessian eigenvalues on the balanced line for any loss, with ℓ′ and ℓ″ at f = (w^L − 1)/γ as symbols.

    Returns:
        Along (1,…,1): ℓ″ L w^{2L−2}/γ² + ℓ′ (L−1) w^{L−2}/γ; across: −ℓ′ w^{L−2}/γ; then the symbols of ℓ′ and ℓ″.
    """
    diagonal, off, slope, curvature = _abstract_entries()
    along = sp.powsimp(sp.expand(sp.powsimp(sp.expand(diagonal + (depth - 1) * off))))
    return sp.collect(along, (slope, curvature), sp.factor), sp.factor(diagonal - off), slope, curvature


def spectrum(loss: Loss, weight: sp.Expr = w) -> tuple[sp.Expr, sp.Expr]:
    """The whole Hessian spectrum at a balanced weight, for any loss: one eigenvalue along, L − 1 equal ones across.

    Args:
        loss: the loss ℓ(f).
        weight: the common weight.

    Returns:
        Both eigenvalues, in the weight, γ and L.
    """
    along, across, slope, curvature = general_eigenvalues()
    output = output_of_product(weight**depth)
    values = {slope: loss.slope.subs(f, output), curvature: loss.curvature.subs(f, output)}
    return along.subs(values).subs(w, weight), across.subs(values).subs(w, weight)


def saddle_gamma(loss: Loss) -> sp.Expr:
    """The γ at which the start turns from bowl to saddle: where the eigenvalue along (1,…,1) vanishes at w = 1.

    Args:
        loss: the loss ℓ(f).

    Returns:
        γ in L: L ℓ″(0)/((L−1)|ℓ′(0)|); L/(L−1) for MSE.
    """
    (root,) = sp.solve(eigenvalues_at_start(loss)[0], gamma)
    return sp.factor(root)


def sharpening_ratio(loss: Loss) -> tuple[sp.Expr, sp.Expr]:
    """Progressive sharpening: λ* over the largest eigenvalue at the start.

    Args:
        loss: the loss ℓ(f).

    Returns:
        λ*/λ_along(1), the ratio below the γ at which both eigenvalues of the start are equal; and λ*/λ_across(1), the
        ratio above it, which goes as γ^{1−2/L} for γ → ∞.
    """
    along, across = eigenvalues_at_start(loss)
    final = sharpness_at_minimum(loss)
    return sp.factor(final / along), gather_powers(final / across)


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
    if loss != MSE:
        return spectrum(loss)
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
    if loss != MSE:
        along, _, slope, curvature = general_eigenvalues()
        at_minimum = along.subs({slope: 0, curvature: sp.S.One, w: minimiser(loss)})
        return loss.curvature_at_minimum * gather_powers(at_minimum)
    return gather_powers(hessian_eigenvalues(loss)[0].subs(w, minimiser(loss)))


@cache
def eigenvalues_at_start(loss: Loss) -> tuple[sp.Expr, sp.Expr]:
    """Hessian eigenvalues at the start, w = 1: along (1,…,1) and across it (multiplicity L − 1).

    Args:
        loss: the loss ℓ(f).

    Returns:
        Both eigenvalues, in γ and L. For γ > L/(L−1) (MSE) the first is negative: the start is a saddle.
    """
    if loss != MSE:
        along, across, slope, curvature = general_eigenvalues()
        bend = sp.factor(loss.curvature.subs(f, 0))
        values = {slope: -loss.pull_at_start, curvature: bend, w: sp.S.One}
        return along.subs(values), across.subs(values)
    along, across = hessian_eigenvalues(loss)
    return sp.expand(sp.simplify(along.subs(w, 1))), sp.simplify(across.subs(w, 1))
