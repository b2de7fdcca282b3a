"""Products of the loss's curvature with vectors, for many cells at once.

With f = (F(θ) − F(θ₀)) / γ, the loss ℓ averaged over n examples and the width multipliers M of η,

    H = M^½ (∂²ℓ/∂θ²) M^½ = M^½ [ (1/γ²) Jᵀ A J + (1/γ) Σ_i r_i ∇²F_i ] M^½,    J = ∂F/∂θ,  r = ∂ℓ/∂f,  A = ∂²ℓ/∂f²,

where r and A hold the 1/n; the Gauss–Newton matrix is the first term. A is I/n for MSE and (diag p − p pᵀ)/n for
cross-entropy. The operator works on s H, s = min(γ, γ²), in which the two terms have the factors s/γ² and s/γ: one of
them is 1 and the other at most 1 at every γ, so that nothing overflows or is lost at γ = 10⁻⁸ or 10⁸. The residual r is
made once, in float64, from F(θ) − F(θ₀).

A product differentiates g(θ) = Jᵀ c(F), c = (s/γ) r + (s/γ²) A (F − F as it is), whose derivative is s H. The graph of
g is kept, so that a product costs neither a forward nor a backward pass, only the pass through both. With ⟨g, v⟩
differentiated by the constant cotangent in place of θ it is J v, of which the Gauss–Newton product is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.func import vmap

from empirical.networks import Networks, Weights
from theory.errors import InputError, one_of

LOSS_NAMES = ("mse", "cross-entropy")
CURVATURES = ("hessian", "gauss-newton")


class Curvature:
    """s M^½ H M^½ of every cell of some networks, as products with flat vectors.

    Args:
        networks: the cells.
        x: inputs ``(n, input_dim)``, shared by the cells.
        y: targets ``(n, num_classes)``.
        loss: ``"mse"`` or ``"cross-entropy"``.
        curvature: ``"hessian"`` or ``"gauss-newton"``.
        dtype: of the products.

    Attributes:
        scale: s of each cell, float64, shape ``(cells,)``; eigenvalues of H are those of the operator over s.
        finite: cells whose weights and outputs are all finite, shape ``(cells,)``.
        size: number of weights of one cell.
    """

    def __init__(
        self, networks: Networks, x: Tensor, y: Tensor, *, loss: str, curvature: str, dtype: torch.dtype
    ) -> None:
        self.arguments = (x, y, loss, curvature)
        self.networks, self.dtype = networks, dtype
        self.names = list(networks.displacement)
        self.shapes = [networks.start[name].shape for name in self.names]
        self.sizes = [networks.start[name].numel() for name in self.names]
        self.size = sum(self.sizes)
        gamma = networks.gamma
        self.scale = torch.minimum(gamma, gamma.square())
        with torch.no_grad():
            output = networks.output(x)
        self.finite = output.isfinite().flatten(1).all(1)
        for moved in networks.displacement.values():
            self.finite &= moved.isfinite().reshape(len(moved), -1).all(1)  # a parameter may be one number
        self.roots = [float(networks.rates[name]) ** 0.5 for name in self.names]
        self._bend = _bend(output, loss, self.scale / gamma.square() / len(x), dtype)
        residual = (output if loss == "mse" else output.softmax(2)) - y.to(output)
        self._trace((residual * (self.scale / gamma / len(x)).view(-1, 1, 1)).to(dtype))

    def _trace(self, cotangent: Tensor) -> None:
        """Record g(θ) = Jᵀ c, once."""
        fixed = {n: t.to(self.dtype) if t.is_floating_point() else t for n, t in self.networks.fixed.items()}
        networks = replace(self.networks, fixed=fixed)
        self._weights = [w.to(self.dtype).requires_grad_() for w in self.networks.weights.values()]
        with torch.enable_grad():
            stacked: Weights = dict(zip(self.names, self._weights, strict=True))
            raw = vmap(networks.one, in_dims=(0, None))(stacked, self.arguments[0])
            if self.arguments[3] == "hessian":
                self._cotangent = cotangent + self._bend(raw - raw.detach())
            else:
                self._cotangent = torch.zeros_like(raw).requires_grad_()
            self._raw = raw
            self._gradient = torch.autograd.grad(
                raw, self._weights, self._cotangent, create_graph=True, materialize_grads=True
            )

    def __len__(self) -> int:
        return len(self.scale)

    def __call__(self, vectors: Tensor) -> Tensor:
        """Products.

        Args:
            vectors: shape ``(cells, count, size)``.

        Returns:
            s M^½ H M^½ times each vector, same shape.
        """
        out = torch.empty_like(vectors)
        for column in range(vectors.shape[1]):
            self._product(vectors[:, column], out[:, column])
        return out

    def _product(self, vector: Tensor, out: Tensor) -> None:
        parts = [
            (part * root).view(-1, *shape)
            for part, root, shape in zip(vector.split(self.sizes, 1), self.roots, self.shapes, strict=True)
        ]
        if self.arguments[3] == "hessian":
            images = self._back(self._gradient, self._weights, parts)
        else:
            (change,) = self._back(self._gradient, [self._cotangent], parts)
            images = self._back([self._raw], self._weights, [self._bend(change)])
        for place, image, root in zip(out.split(self.sizes, 1), images, self.roots, strict=True):
            torch.mul(image.reshape(len(image), -1), root, out=place)

    @staticmethod
    def _back(outputs: list[Tensor] | tuple[Tensor, ...], inputs: list[Tensor], along: list[Tensor]) -> list[Tensor]:
        """A pass back through the kept graph; outputs that depend on nothing contribute nothing."""
        pairs = [(o, a) for o, a in zip(outputs, along, strict=True) if o.requires_grad]
        if not pairs:
            return [torch.zeros_like(one) for one in inputs]
        kept, directions = zip(*pairs, strict=True)
        return list(torch.autograd.grad(kept, inputs, directions, retain_graph=True, materialize_grads=True))

    def select(self, index: Tensor) -> Curvature:
        """The operator of some of the cells.

        Args:
            index: their positions here.

        Returns:
            A new operator.
        """
        x, y, loss, curvature = self.arguments
        chosen = self.networks.select(index.cpu().numpy())
        return Curvature(chosen, x, y, loss=loss, curvature=curvature, dtype=self.dtype)


def _bend(output: Tensor, loss: str, factor: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Gives u ↦ factor · (∂²ℓ/∂f²) u, of the loss summed over the batch; shapes ``(cells, n, classes)``."""
    scale = factor.view(-1, 1, 1).to(dtype)
    if loss == "mse":
        return lambda u: scale * u
    p = output.softmax(2).to(dtype)

    def bend(u: Tensor) -> Tensor:
        return scale * (p * (u - (p * u).sum(2, keepdim=True)))

    return bend


def check_data(networks: Networks, x: Tensor, y: Tensor, loss: str, curvature: str) -> None:
    """Check what the public functions are given.

    Args:
        networks: the cells.
        x: inputs.
        y: targets.
        loss: name of the loss.
        curvature: name of the matrix.

    Raises:
        InputError: an unknown name, no cells, shapes that do not fit, values that are not finite, or targets of
            cross-entropy that are no probabilities.
    """
    one_of("loss", loss, LOSS_NAMES)
    one_of("curvature", curvature, CURVATURES)
    if not len(networks):
        raise InputError("networks", 0, "at least one cell")
    if x.dim() < 2 or not len(x) or not bool(x.isfinite().all()):
        raise InputError("x", tuple(x.shape), "finite inputs, shape (n, input_dim), n >= 1")
    with torch.no_grad():
        expected = tuple(networks.one(networks.start, x).shape)
    if tuple(y.shape) != expected or not bool(y.isfinite().all()):
        raise InputError("y", tuple(y.shape), f"finite targets, shape {expected}")
    if loss == "cross-entropy" and not (
        bool((y >= 0).all()) and torch.allclose(y.double().sum(1), y.new_ones(len(y)).double(), atol=1e-5)
    ):
        raise InputError("y", float(y.min()), "probabilities that sum to one over the classes")
